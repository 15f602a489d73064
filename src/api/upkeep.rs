//! Integrity and warm data: the scrub, boot profiles.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::routing::post;
use axum::{Json, Router};

use super::{ApiError, App};
use crate::head::{BootProfileAsk, BootProfileView, ScrubAsk, ScrubOrder, ScrubView};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/images/scrub", post(scrub))
        .route("/v1/images/profile", post(profile))
}

type Body<T> = Result<Json<T>, JsonRejection>;

async fn scrub(State(app): State<App>, ask: Body<ScrubAsk>) -> Result<Json<ScrubView>, ApiError> {
    let Json(ask) = ask?;
    if ask.order == ScrubOrder::Now {
        // Without a daemon nobody would do it; `image verify` does at once.
        app.live()?;
    }
    Ok(Json(app.blocking(move |app| app.head.scrub(&ask)).await?))
}

async fn profile(
    State(app): State<App>,
    ask: Body<BootProfileAsk>,
) -> Result<Json<BootProfileView>, ApiError> {
    let Json(ask) = ask?;
    if ask.record.is_some() {
        app.live()?;
    }
    Ok(Json(
        app.blocking(move |app| app.head.image_profile(&ask))
            .await?,
    ))
}
