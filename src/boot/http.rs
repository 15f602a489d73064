//! The HTTP side of boot services: scripts, loaders, the ready call. Turns requests into calls of
//! [`Service`] and its answers into responses.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::{Frame, SizeHint};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::answer::{ScriptAnswer, ScriptAsk, base_of};
use super::facts::Arch;
use super::listener::Ends;
use super::script;
use super::server::Clock;
use super::service::Service;
use crate::catalog::PendingRecord;
use crate::head::{HeadError, HeadErrorKind};
use crate::names::Mac;

/// Bytes of a loader handed to the connection at a time.
const PIECE: usize = 64 * 1024;

/// What the handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    pub(crate) service: Arc<Service>,
    pub(crate) clock: Clock,
    /// Unknown machines to be written down.
    pub(crate) notes: mpsc::Sender<PendingRecord>,
}

#[derive(Debug, Deserialize)]
struct Asked {
    mac: Option<String>,
    arch: Option<String>,
}

/// All addresses that boot services answer.
pub(crate) fn router(web: Web) -> Router {
    Router::new()
        .route("/boot", get(boot))
        .route("/loader/{name}", get(loader))
        .route("/ready", get(ready).post(ready))
        .fallback(unknown)
        .with_state(web)
}

async fn unknown() -> Response {
    let text = "Reveille's boot services answer /boot?mac=MAC, /loader/NAME and /ready?mac=MAC\n";
    plain(StatusCode::NOT_FOUND, text.to_owned())
}

async fn boot(
    State(web): State<Web>,
    ConnectInfo(ends): ConnectInfo<Ends>,
    Query(asked): Query<Asked>,
) -> Response {
    let Some(mac) = asked.mac else {
        return plain(StatusCode::OK, script::who(&base_of(ends.local)));
    };
    let mac = match Mac::parse(&mac) {
        Ok(mac) => mac,
        Err(error) => return plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    let ask = ScriptAsk {
        mac,
        arch: asked.arch.as_deref().and_then(Arch::parse),
        peer: ends.peer.ip(),
        local: ends.local,
    };
    let (answer, pending) = web.service.script(&ask, web.clock.now());
    if let Some(machine) = pending {
        // Full means that hundreds wait to be written; this one asks again.
        let _ = web.notes.try_send(machine);
    }
    let (node, boot) = match answer {
        ScriptAnswer::Text(text) => return plain(StatusCode::OK, text),
        ScriptAnswer::Prepare { node, boot } => (node, boot),
    };
    let house = Arc::clone(&web.service.house);
    let name = node.name.clone();
    let work = tokio::task::spawn_blocking(move || house.prepare_boot(&name, boot));
    let prepared = work.await.unwrap_or_else(|error| {
        Err(HeadError {
            kind: HeadErrorKind::Internal,
            message: format!("the work on its disk ended early: {error}"),
        })
    });
    let text = web
        .service
        .boot_script(&ask, &node, prepared, web.clock.now());
    plain(StatusCode::OK, text)
}

async fn loader(
    State(web): State<Web>,
    ConnectInfo(ends): ConnectInfo<Ends>,
    Path(name): Path<String>,
) -> Response {
    let Some(file) = web.service.assets.get(&name).map(Arc::clone) else {
        let names: Vec<&str> = web.service.assets.names().collect();
        let text = format!("there is no such loader; there are: {}\n", names.join(", "));
        return plain(StatusCode::NOT_FOUND, text);
    };
    let (peer, size) = (ends.peer.ip(), file.len());
    let told = Box::new(move || {
        let now = web.clock.now();
        web.service.loader_sent(peer, &name, size, "http", now);
    });
    let body = Counted {
        left: Bytes::from_owner(file),
        told: Some(told),
    };
    let kind = [(header::CONTENT_TYPE, "application/efi")];
    (kind, Body::new(body)).into_response()
}

async fn ready(
    State(web): State<Web>,
    ConnectInfo(ends): ConnectInfo<Ends>,
    Query(asked): Query<Asked>,
) -> Response {
    let mac = match asked.mac.as_deref().map(Mac::parse).transpose() {
        Ok(mac) => mac,
        Err(error) => return plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
    };
    match web.service.ready(mac, ends.peer.ip(), web.clock.now()) {
        Ok(node) => plain(StatusCode::OK, format!("{node} is ready\n")),
        Err((status, text)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            plain(status, format!("{text}\n"))
        }
    }
}

/// Text that nobody may keep: it may hold a secret, and the next answer may differ.
fn plain(status: StatusCode, text: String) -> Response {
    let heads = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, heads, text).into_response()
}

/// A loader on its way; tells when its last byte went to the connection.
struct Counted {
    left: Bytes,
    told: Option<Box<dyn FnOnce() + Send>>,
}

impl axum::body::HttpBody for Counted {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.left.len().min(PIECE);
        let piece = self.left.split_to(size);
        if self.left.is_empty()
            && let Some(told) = self.told.take()
        {
            told();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left.len()).unwrap_or(u64::MAX))
    }
}
