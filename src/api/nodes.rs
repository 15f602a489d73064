//! Nodes, and machines that wait to become one.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::{ApiError, App};
use crate::catalog::PendingRecord;
use crate::head::{
    NodeAdd, NodeApprove, NodeChange, NodeRemove, NodeSecret, NodeSecretsSet, NodeView, NodesDone,
};
use crate::names::NodeName;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/nodes", get(list).post(add).patch(set).delete(remove))
        .route("/v1/nodes/approve", post(approve))
        .route("/v1/nodes/secrets", get(secrets).put(set_secrets))
        .route("/v1/pending", get(pending))
}

/// Query of lists: which nodes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodesAsk {
    /// A node set expression; all nodes when left out.
    pub nodes: Option<String>,
}

/// The nodes that an expression names; each of them exists.
pub(super) fn select(app: &App, nodes: &str) -> Result<Vec<NodeName>, ApiError> {
    Ok(app.head.select(nodes)?.iter().cloned().collect())
}

type Body<T> = Result<Json<T>, JsonRejection>;

async fn list(
    State(app): State<App>,
    ask: Result<Query<NodesAsk>, QueryRejection>,
) -> Result<Json<Vec<NodeView>>, ApiError> {
    let Query(ask) = ask?;
    Ok(Json(app.head.nodes(ask.nodes.as_deref())?))
}

/// Secrets only of nodes that are named: never all of them by an empty question.
async fn secrets(
    State(app): State<App>,
    ask: Result<Query<NodesAsk>, QueryRejection>,
) -> Result<Json<Vec<NodeSecret>>, ApiError> {
    let Query(ask) = ask?;
    let nodes = ask
        .nodes
        .ok_or_else(|| ApiError::invalid("name the nodes whose secrets are wanted"))?;
    Ok(Json(app.head.node_secrets(&nodes)?))
}

async fn set_secrets(
    State(app): State<App>,
    ask: Body<NodeSecretsSet>,
) -> Result<Json<NodesDone>, ApiError> {
    let Json(ask) = ask?;
    let work = move |app: App| app.head.node_secrets_set(&ask);
    Ok(Json(app.blocking(work).await?))
}

async fn add(State(app): State<App>, ask: Body<NodeAdd>) -> Result<Json<NodesDone>, ApiError> {
    let Json(ask) = ask?;
    check_power(ask.power.as_deref())?;
    let done = app.blocking(move |app| app.head.nodes_add(&ask)).await?;
    Ok(Json(done))
}

async fn set(State(app): State<App>, ask: Body<NodeChange>) -> Result<Json<NodesDone>, ApiError> {
    let Json(ask) = ask?;
    check_power(ask.power.as_ref().and_then(|p| p.as_deref()))?;
    let done = app.blocking(move |app| app.head.nodes_set(&ask)).await?;
    Ok(Json(done))
}

async fn approve(
    State(app): State<App>,
    ask: Body<NodeApprove>,
) -> Result<Json<NodesDone>, ApiError> {
    let Json(ask) = ask?;
    check_power(ask.power.as_deref())?;
    let done = app.blocking(move |app| app.head.node_approve(&ask)).await?;
    Ok(Json(done))
}

async fn remove(
    State(app): State<App>,
    ask: Body<NodeRemove>,
) -> Result<Json<NodesDone>, ApiError> {
    let Json(ask) = ask?;
    let work = move |app: App| app.head.nodes_remove(&ask, &|node| app.busy(node));
    let done = app.blocking(work).await?;
    if let (Some(live), false) = (&app.live, done.dry_run) {
        for node in done.nodes.iter() {
            live.board.forget(node);
        }
    }
    Ok(Json(done))
}

async fn pending(State(app): State<App>) -> Json<Vec<PendingRecord>> {
    Json(app.head.pending())
}

/// A power command that cannot work is refused when it is given, not when five hundred nodes wait for it.
pub(super) fn check_power(template: Option<&str>) -> Result<(), ApiError> {
    match template.map(crate::power::Exec::parse) {
        Some(Err(error)) => Err(ApiError::invalid(error.to_string())),
        _ => Ok(()),
    }
}
