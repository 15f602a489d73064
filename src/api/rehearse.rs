//! What a rehearsal needs to know: who the nodes are, how they log in, and what their image holds.

use std::net::SocketAddr;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{ApiError, App, NodesAsk};
use crate::catalog::LayerMode;
use crate::head::NodeSecret;
use crate::iscsi::Auth;
use crate::limits::REHEARSAL_READ_BYTES;
use crate::names::NodeName;
use crate::store::ImageId;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/rehearsal", get(rehearsal))
        .route("/v1/images/read", post(read))
}

/// How nodes prove themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RehearsalAuth {
    /// Not at all.
    None,
    /// With their own secret.
    Chap,
    /// And the head with its own.
    Mutual,
}

/// What virtual nodes need to be taken for these nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rehearsal {
    /// Where iSCSI listens.
    pub portals: Vec<SocketAddr>,
    /// How nodes prove themselves.
    pub auth: RehearsalAuth,
    /// The nodes, in natural order.
    pub nodes: Vec<RehearsalNode>,
}

/// One node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RehearsalNode {
    /// Its name.
    pub node: NodeName,
    /// Its target's name.
    pub target: String,
    /// Its initiator's name.
    pub initiator: String,
    /// Its secrets; none where names are believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<NodeSecret>,
    /// What becomes of its layer.
    pub mode: LayerMode,
    /// The image version that it boots next: label, and identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<(String, ImageId)>,
    /// Bytes of its disk.
    pub disk_bytes: u64,
    /// It has its disk open now.
    pub open: bool,
}

/// Reads ranges of an image version.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRead {
    /// Which.
    pub id: ImageId,
    /// Offsets and ends, bytes; answered one behind the other.
    pub ranges: Vec<(u64, u64)>,
}

async fn rehearsal(
    State(app): State<App>,
    ask: Result<Query<NodesAsk>, QueryRejection>,
) -> Result<Json<Rehearsal>, ApiError> {
    let Query(ask) = ask?;
    let live = app.live()?.clone();
    let auth = match live.iscsi.auth() {
        Auth::None => RehearsalAuth::None,
        Auth::Chap => RehearsalAuth::Chap,
        Auth::Mutual => RehearsalAuth::Mutual,
    };
    let wanted = ask.nodes.unwrap_or_else(|| "@all".to_owned());
    let secrets = app.head.node_secrets(&wanted)?;
    let now = app.head.snapshot();
    let nodes = secrets.into_iter().filter_map(|secret| {
        let record = now.node(secret.node.as_str())?;
        let version = record.image.as_ref().and_then(|image| {
            let version = now.resolve(image)?;
            Some((format!("{}:{}", image.name, version.version), version))
        });
        let (target, initiator) = live.iscsi.names_of(&record.name);
        Some(RehearsalNode {
            node: record.name.clone(),
            target,
            initiator,
            mode: record.mode,
            disk_bytes: version.as_ref().map_or(0, |(_, version)| version.size),
            image: version.map(|(label, version)| (label, version.id)),
            open: live.board.is_open(&record.name),
            secret: (auth != RehearsalAuth::None).then_some(secret),
        })
    });
    Ok(Json(Rehearsal {
        nodes: nodes.collect(),
        portals: live.iscsi.portals().to_vec(),
        auth,
    }))
}

/// The bytes as they are. Each chunk is verified as it comes from the medium, as for nodes. An answer that is too
/// short ended with a fault; the log says which.
async fn read(
    State(app): State<App>,
    ask: Result<Json<ImageRead>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(ask) = ask?;
    let id = ask.id;
    let image = app.blocking(move |app| app.head.image_reader(id)).await?;
    let mut last = 0;
    for (start, end) in &ask.ranges {
        if start > end || *start < last || *end > image.size() {
            return Err(ApiError::invalid(format!(
                "the range {start} to {end} is out of order, or beyond the image's {} bytes",
                image.size()
            )));
        }
        last = *end;
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    tokio::task::spawn_blocking(move || {
        for (start, end) in ask.ranges {
            let mut at = start;
            while at < end {
                let len = (end - at).min(REHEARSAL_READ_BYTES);
                let mut piece = vec![0; usize::try_from(len).unwrap_or(0)];
                if let Err(error) = image.read(at, &mut piece) {
                    tracing::error!(%error, "an image cannot be read for a rehearsal");
                    return;
                }
                if sender.blocking_send(piece.into()).is_err() {
                    return;
                }
                at += len;
            }
        }
    });
    let stream =
        futures_util::StreamExt::map(ReceiverStream::new(receiver), Ok::<_, std::io::Error>);
    let body = Body::from_stream(stream);
    Ok(([(CONTENT_TYPE, "application/octet-stream")], body).into_response())
}
