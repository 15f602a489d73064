//! `GET /v1/events`: what happened, and what happens.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use futures_util::{StreamExt, stream};
use serde::Deserialize;

use super::lines::{line, stream_response};
use super::{ApiError, App};
use crate::events::{Event, Follower};
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
    let bus = app.head.bus();
    let chosen = if ask.follow {
        stream::unfold(Follower::after(bus, ask.after), next).boxed()
    } else {
        stream::iter(bus.since(ask.after)).boxed()
    };
    let chosen = chosen
        .filter(move |event| std::future::ready(wanted(event)))
        .map(|event| line(&*event));
    Ok(stream_response(chosen))
}

/// The next event, kept or live.
async fn next(mut follower: Follower) -> Option<(Arc<Event>, Follower)> {
    loop {
        if let Some(event) = follower.try_next() {
            return Some((event, follower));
        }
        follower.ready().await;
    }
}
