//! `GET /v1/events`: what happened, and what happens.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::lines::{line, stream_response};
use super::{ApiError, App};
use crate::events::{Event, Subscription};
use crate::names::NodeSet;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/events", get(events))
}

#[derive(Debug, Deserialize)]
struct Ask {
    /// Only events with a higher number.
    #[serde(default)]
    after: u64,
    /// Only of these nodes.
    nodes: Option<String>,
    /// Go on with what happens from now on.
    #[serde(default)]
    follow: bool,
}

async fn events(
    State(app): State<App>,
    ask: Result<Query<Ask>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ask) = ask?;
    app.live()?;
    let only = ask.nodes.as_deref().map(NodeSet::parse).transpose()?;
    let wanted = move |event: &Event| match (&only, &event.node) {
        (None, _) => true,
        (Some(set), Some(node)) => set.contains(node),
        (Some(_), None) => false,
    };
    let (kept, live) = app.head.bus().replay_and_subscribe(ask.after);
    let kept = stream::iter(kept);
    let chosen = if ask.follow {
        kept.chain(stream::unfold(live, next)).boxed()
    } else {
        kept.boxed()
    };
    let chosen = chosen
        .filter(move |event| std::future::ready(wanted(event)))
        .map(|event| line(&*event));
    Ok(stream_response(chosen))
}

/// The next live event; a reader that fell behind goes on with what is left.
async fn next(mut live: Subscription) -> Option<(Arc<Event>, Subscription)> {
    loop {
        match live.recv().await {
            Ok(event) => return Some((event, live)),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "a reader of events fell behind");
            }
            Err(RecvError::Closed) => return None,
        }
    }
}
