//! Images.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::lines::{Step, long_work};
use super::{ApiError, App};
use crate::catalog::ImageRef;
use crate::head::{
    ImageExport, ImageImport, ImageRemove, ImageRemoved, ImageTag, ImageTagged, ImageUntag, ImageVerify,
    ImageView,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/images", get(list).post(import).delete(remove))
        .route("/v1/image", get(show))
        .route("/v1/images/tag", post(tag).delete(untag))
        .route("/v1/images/verify", post(verify))
        .route("/v1/images/export", post(export))
}

/// Query of `GET /v1/image`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageAsk {
    /// `debian12`, `debian12:3` or `debian12:stable`.
    pub image: ImageRef,
}

type Body<T> = Result<Json<T>, JsonRejection>;

async fn list(State(app): State<App>) -> Json<Vec<ImageView>> {
    Json(app.head.images())
}

async fn show(
    State(app): State<App>,
    ask: Result<Query<ImageAsk>, QueryRejection>,
) -> Result<Json<ImageView>, ApiError> {
    let Query(ask) = ask?;
    let view = app.blocking(move |app| app.head.image_show(&ask.image)).await?;
    Ok(Json(view))
}

async fn import(State(app): State<App>, ask: Body<ImageImport>) -> Result<Response, ApiError> {
    let Json(ask) = ask?;
    Ok(long_work(app, move |app, report, cancel| {
        let report = |done, total| report(Step { done, total });
        app.head.image_import(&ask, &report, cancel)
    }))
}

async fn verify(State(app): State<App>, ask: Body<ImageVerify>) -> Result<Response, ApiError> {
    let Json(ask) = ask?;
    Ok(long_work(app, move |app, report, cancel| {
        let report = |done, total| report(Step { done, total });
        app.head.image_verify(&ask, &report, cancel)
    }))
}

async fn export(State(app): State<App>, ask: Body<ImageExport>) -> Result<Response, ApiError> {
    let Json(ask) = ask?;
    Ok(long_work(app, move |app, report, cancel| {
        let report = |done, total| report(Step { done, total });
        app.head.image_export(&ask, &report, cancel)
    }))
}

async fn tag(State(app): State<App>, ask: Body<ImageTag>) -> Result<Json<ImageTagged>, ApiError> {
    let Json(ask) = ask?;
    Ok(Json(app.blocking(move |app| app.head.image_tag(&ask)).await?))
}

async fn untag(
    State(app): State<App>,
    ask: Body<ImageUntag>,
) -> Result<Json<ImageTagged>, ApiError> {
    let Json(ask) = ask?;
    Ok(Json(app.blocking(move |app| app.head.image_untag(&ask)).await?))
}

async fn remove(
    State(app): State<App>,
    ask: Body<ImageRemove>,
) -> Result<Json<ImageRemoved>, ApiError> {
    let Json(ask) = ask?;
    let work = move |app: App| app.head.image_remove(&ask, &|node| app.busy(node));
    Ok(Json(app.blocking(work).await?))
}
