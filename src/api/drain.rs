//! Drain: orders, and who is left; metrics.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::{ApiError, App, NodesAsk};
use crate::events::EventKind;
use crate::head::{DrainAsk, Drains, NodesDone, UndrainAsk};
use crate::names::NodeName;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/drain", get(show).post(drain).delete(undrain))
        .route("/metrics", get(metrics))
}

/// What stands, and how far it has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainView {
    /// Every order.
    #[serde(flatten)]
    pub orders: Drains,
    /// Connections left: of the nodes that were asked about, or all.
    pub connections: usize,
}

async fn show(
    State(app): State<App>,
    ask: Result<Query<NodesAsk>, QueryRejection>,
) -> Result<Json<DrainView>, ApiError> {
    let Query(ask) = ask?;
    let nodes = names(&app, ask.nodes.as_deref())?;
    let live = app.live.as_ref();
    Ok(Json(DrainView {
        orders: Drains::clone(&app.head.drains()),
        connections: live.map_or(0, |live| live.iscsi.sessions(nodes.as_deref())),
    }))
}

async fn drain(
    State(app): State<App>,
    ask: Result<Json<DrainAsk>, JsonRejection>,
) -> Result<Json<NodesDone>, ApiError> {
    let Json(ask) = ask?;
    let nodes = names(&app, ask.nodes.as_deref())?;
    let done = app
        .blocking(move |app| {
            let live = app.live.clone();
            let own = move |to| live.as_ref().is_some_and(|live| live.iscsi.is_own(to));
            app.head.drain(&ask, &own)
        })
        .await?;
    if let (Some(live), false) = (&app.live, done.dry_run) {
        // The order stands before anyone is asked to leave: who comes back meets it.
        tell(&app, nodes.as_deref(), "begun");
        live.iscsi.drain(nodes.as_deref());
    }
    Ok(Json(done))
}

async fn undrain(
    State(app): State<App>,
    ask: Result<Json<UndrainAsk>, JsonRejection>,
) -> Result<Json<NodesDone>, ApiError> {
    let Json(ask) = ask?;
    let nodes = names(&app, ask.nodes.as_deref())?;
    let done = app.blocking(move |app| app.head.undrain(&ask)).await?;
    if let (Some(live), false) = (&app.live, done.dry_run) {
        live.iscsi.undrain(nodes.as_deref());
        tell(&app, nodes.as_deref(), "ended");
    }
    Ok(Json(done))
}

/// None stands for the whole head.
fn names(app: &App, nodes: Option<&str>) -> Result<Option<Vec<NodeName>>, ApiError> {
    nodes
        .map(|nodes| super::nodes::select(app, nodes))
        .transpose()
}

pub(super) fn tell(app: &App, nodes: Option<&[NodeName]>, state: &str) {
    let drains = app.head.drains();
    let publish = |node: Option<&NodeName>| {
        let kind = EventKind::Drain {
            state: state.to_owned(),
            to: drains.order_for(node).and_then(|order| order.to),
        };
        app.head.bus().publish(node, kind);
    };
    match nodes {
        None => publish(None),
        Some(nodes) => nodes.iter().for_each(|node| publish(Some(node))),
    }
}

async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let live = app.live()?;
    let now = app.head.snapshot();
    let mut text = String::new();
    for (name, help, value) in [
        ("nodes", "Nodes that this head knows.", now.node_count()),
        (
            "drained_nodes",
            "Nodes drained one by one.",
            app.head.drains().nodes.len(),
        ),
        (
            "drained",
            "1 while the whole head is drained.",
            usize::from(app.head.drains().whole.is_some()),
        ),
        (
            "start_time_milliseconds",
            "When this head started, in milliseconds since 1970.",
            usize::try_from(app.started.0).unwrap_or(0),
        ),
    ] {
        text += &format!(
            "# HELP reveille_{name} {help}\n# TYPE reveille_{name} gauge\nreveille_{name} {value}\n"
        );
    }
    let head = std::sync::Arc::clone(&app.head);
    let space = app.blocking(move |_| Ok(head.space_metrics())).await?;
    text += &space;
    text += &app.blocking(|app| Ok(app.head.upkeep_metrics())).await?;
    text += &live.iscsi.metrics();
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}
