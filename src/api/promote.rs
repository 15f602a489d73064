//! Layers made versions and files, versions rolled back, annotated and compared.

use std::sync::atomic::AtomicBool;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};

use super::lines::{Step, long_work};
use super::{ApiError, App};
use crate::head::{
    ImageDiff, ImageNote, ImageNoted, ImageRollback, ImageRolledBack, LayerDiff, LayerExport,
    LayerPromote, Progress,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/layers/promote", post(promote))
        .route("/v1/layers/export", post(export))
        .route("/v1/images/rollback", post(rollback))
        .route("/v1/images/note", post(note))
        .route("/v1/images/diff", post(image_diff))
        .route("/v1/layers/diff", post(layer_diff))
}

type Body<T> = Result<Json<T>, JsonRejection>;

async fn promote(State(app): State<App>, ask: Body<LayerPromote>) -> Result<Response, ApiError> {
    let Json(ask) = ask?;
    // What is refused is refused with its status, before the answer of lines begins.
    let told = LayerPromote {
        dry_run: true,
        ..ask.clone()
    };
    let check = move |app: App| {
        let busy = |node: &_| app.busy(node);
        let never = AtomicBool::new(false);
        app.head.layer_promote(&told, &busy, &|_| (), &never)
    };
    app.blocking(check).await?;
    Ok(long_work(app, move |app, report, cancel| {
        let report = |p: Progress| report(step(p));
        let busy = |node: &_| app.busy(node);
        app.head.layer_promote(&ask, &busy, &report, cancel)
    }))
}

async fn export(State(app): State<App>, ask: Body<LayerExport>) -> Result<Response, ApiError> {
    let Json(ask) = ask?;
    let told = LayerExport {
        dry_run: true,
        ..ask.clone()
    };
    let check = move |app: App| {
        let busy = |node: &_| app.busy(node);
        let never = AtomicBool::new(false);
        app.head.layer_export(&told, &busy, &|_| (), &never)
    };
    app.blocking(check).await?;
    Ok(long_work(app, move |app, report, cancel| {
        let report = |p: Progress| report(step(p));
        let busy = |node: &_| app.busy(node);
        app.head.layer_export(&ask, &busy, &report, cancel)
    }))
}

async fn rollback(
    State(app): State<App>,
    ask: Body<ImageRollback>,
) -> Result<Json<ImageRolledBack>, ApiError> {
    let Json(ask) = ask?;
    let done = app.blocking(move |app| app.head.image_rollback(&ask));
    Ok(Json(done.await?))
}

async fn note(State(app): State<App>, ask: Body<ImageNote>) -> Result<Json<ImageNoted>, ApiError> {
    let Json(ask) = ask?;
    let done = app.blocking(move |app| app.head.image_note(&ask));
    Ok(Json(done.await?))
}

async fn image_diff(State(app): State<App>, ask: Body<ImageDiff>) -> Result<Response, ApiError> {
    let Json(ask) = ask?;
    Ok(long_work(app, move |app, report, cancel| {
        let report = |p: Progress| report(step(p));
        app.head.image_diff(&ask, &report, cancel)
    }))
}

async fn layer_diff(State(app): State<App>, ask: Body<LayerDiff>) -> Result<Response, ApiError> {
    let Json(ask) = ask?;
    Ok(long_work(app, move |app, report, cancel| {
        let report = |p: Progress| report(step(p));
        app.head.layer_diff(&ask, &report, cancel)
    }))
}

fn step(progress: Progress) -> Step {
    Step {
        done: progress.done,
        total: progress.total,
    }
}
