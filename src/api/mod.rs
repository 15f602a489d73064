//! The head's control door: HTTP with JSON over a unix socket. Level 7.
//!
//! Thin: a route checks its arguments, calls one operation of `head` or `wave`, and turns the result into
//! JSON. The same routes serve the command line when no daemon runs, in its own process, so there is one
//! way in and not two. Who may connect is decided by the socket's file mode (root only).
//!
//! Long work (import, verify, export) and events answer with one JSON document per line, as they go.
//! What this room never does: decide anything, or print for people.

mod apply;
mod board;
mod campaigns;
mod drain;
mod error;
mod events;
mod images;
mod layers;
mod lines;
mod nodes;
mod profiles;
mod promote;
mod rehearse;
mod status;
mod swarm;
mod swarm_file;
mod upkeep;

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use serde::{Deserialize, Serialize};

use crate::head::{Head, HeadError, HeadOptions};
use crate::iscsi::Control;
use crate::names::NodeName;
use crate::units::UnixMillis;
use crate::wave::Waves;

pub use apply::ExportAsk;
pub use board::Board;
pub use campaigns::{BootAsk, CampaignView, Fallbacks, PowerAsk, PowerFailure, Started};
pub use drain::DrainView;
pub use error::{ApiError, ErrorBody};
pub use images::ImageAsk;
pub use lines::{Fault, Line, Step};
pub use nodes::NodesAsk;
pub use profiles::ProfilesAsk;
pub use rehearse::{ImageRead, Rehearsal, RehearsalAuth, RehearsalNode};
pub use status::NodeStatus;
pub use swarm::{RecordAsk, RecordDone, RecordEnd, RecordStep, RecordStop, RecordUntil};

/// What the routes work on; cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    head: Arc<Head>,
    live: Option<Live>,
    started: UnixMillis,
}

/// What only a running daemon has.
#[derive(Clone, Debug)]
pub struct Live {
    /// Campaigns.
    pub waves: Arc<Waves>,
    /// Where each node stands.
    pub board: Arc<Board>,
    /// Settings of campaigns that a request leaves open.
    pub fallbacks: Fallbacks,
    /// The running target.
    pub iscsi: Control,
}

/// The head, in a few words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// Version of the program.
    pub version: String,
    /// Process that answers.
    pub pid: u32,
    /// A daemon answers (and not the command itself).
    pub daemon: bool,
    /// When it started.
    pub started: UnixMillis,
}

impl App {
    /// The routes of a daemon.
    #[must_use]
    pub fn daemon(head: Arc<Head>, live: Live) -> Self {
        Self {
            head,
            live: Some(live),
            started: UnixMillis::now(),
        }
    }

    /// Opens the state directory for one command, when no daemon runs.
    ///
    /// # Errors
    /// As [`Head::open`]: held by another process, of a newer version, damaged.
    pub fn local(state: &Path) -> Result<Self, HeadError> {
        let head = Head::open(state, &HeadOptions::default())?;
        Ok(Self {
            head: Arc::new(head),
            live: None,
            started: UnixMillis::now(),
        })
    }

    fn live(&self) -> Result<&Live, ApiError> {
        self.live.as_ref().ok_or_else(|| {
            ApiError::conflict("no daemon runs on this head; start `reveille serve` first")
        })
    }

    /// True while the node has its disk open.
    fn busy(&self, node: &NodeName) -> bool {
        self.live
            .as_ref()
            .is_some_and(|live| live.board.is_open(node))
    }

    /// Runs what may wait for a disk away from the network's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> Result<T, HeadError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let app = self.clone();
        match tokio::task::spawn_blocking(move || work(app)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(ApiError::internal(format!(
                "the request was interrupted: {error}"
            ))),
        }
    }
}

/// All routes.
pub fn router(app: App) -> Router {
    let about = |axum::extract::State(app): axum::extract::State<App>| async move {
        axum::Json(About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            daemon: app.live.is_some(),
            started: app.started,
        })
    };
    Router::new()
        .route("/v1/about", get(about))
        .merge(images::routes())
        .merge(nodes::routes())
        .merge(profiles::routes())
        .merge(apply::routes())
        .merge(layers::routes())
        .merge(promote::routes())
        .merge(rehearse::routes())
        .merge(campaigns::routes())
        .merge(status::routes())
        .merge(events::routes())
        .merge(drain::routes())
        .merge(swarm::routes())
        .merge(upkeep::routes())
        .fallback(|| async { ApiError::not_found("no such address in this API") })
        .with_state(app)
}
