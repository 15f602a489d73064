//! Layers.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::{ApiError, App, NodesAsk};
use crate::head::{LayerReset, LayerView, NodesDone};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/layers", get(list))
        .route("/v1/layers/reset", post(reset))
}

async fn list(
    State(app): State<App>,
    ask: Result<Query<NodesAsk>, QueryRejection>,
) -> Result<Json<Vec<LayerView>>, ApiError> {
    let Query(ask) = ask?;
    let layers = app.blocking(move |app| app.head.layers(ask.nodes.as_deref())).await?;
    Ok(Json(layers))
}

async fn reset(
    State(app): State<App>,
    ask: Result<Json<LayerReset>, JsonRejection>,
) -> Result<Json<NodesDone>, ApiError> {
    let Json(ask) = ask?;
    let work = move |app: App| app.head.layers_reset(&ask, &|node| app.busy(node));
    Ok(Json(app.blocking(work).await?))
}
