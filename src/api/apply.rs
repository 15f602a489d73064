//! The catalog as text: exported, applied.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::{ApiError, App};
use crate::head::{Applied, Apply, Drains};
use crate::limits;
use crate::names::NodeName;

/// A text as a JSON string is longer than itself.
const BODY_BYTES_MAX: usize = limits::CATALOG_TEXT_BYTES_MAX * 2;

pub(super) fn routes() -> Router<App> {
    let apply = post(apply).layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    Router::new()
        .route("/v1/export", get(export))
        .route("/v1/apply", apply)
}

/// Query of an export.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportAsk {
    /// With CHAP secrets and identities of disks.
    pub secrets: bool,
    /// JSON instead of YAML.
    pub json: bool,
}

async fn export(
    State(app): State<App>,
    ask: Result<Query<ExportAsk>, QueryRejection>,
) -> Result<String, ApiError> {
    let Query(ask) = ask?;
    let work = move |app: App| Ok(app.head.export(ask.secrets, ask.json));
    app.blocking(work).await
}

async fn apply(
    State(app): State<App>,
    ask: Result<Json<Apply>, JsonRejection>,
) -> Result<Json<Applied>, ApiError> {
    let Json(ask) = ask?;
    let before = app.head.drains();
    let nodes_before = app.head.snapshot();
    let done = app
        .blocking(move |app| {
            let live = app.live.clone();
            let own = move |to| live.as_ref().is_some_and(|live| live.iscsi.is_own(to));
            app.head.apply(&ask, &|node| app.busy(node), &own)
        })
        .await?;
    if let (Some(live), false) = (&app.live, done.dry_run) {
        let now = app.head.snapshot();
        let gone = nodes_before
            .nodes()
            .filter(|n| now.node(n.name.as_str()).is_none());
        for node in gone {
            live.board.forget(&node.name);
        }
        carry_out(&app, &before, &app.head.drains());
    }
    Ok(Json(done))
}

/// Asks those to leave for whom an order is new, and lets those in again for whom none stands any more.
fn carry_out(app: &App, before: &Drains, now: &Drains) {
    let Some(live) = &app.live else { return };
    let to = |drains: &Drains, node: Option<&NodeName>| drains.order_for(node).map(|o| o.to);
    if to(before, None) != to(now, None) {
        let state = if now.whole.is_some() {
            "begun"
        } else {
            "ended"
        };
        super::drain::tell(app, None, state);
        match &now.whole {
            Some(_) => live.iscsi.drain(None),
            None => live.iscsi.undrain(None),
        };
    }
    let names = before.nodes.keys().chain(now.nodes.keys());
    let names: std::collections::BTreeSet<&NodeName> = names.collect();
    let changed = names.into_iter().filter(|name| {
        let to = |drains: &Drains| drains.nodes.get(*name).map(|order| order.to);
        to(before) != to(now)
    });
    let stands = |name: &&NodeName| now.nodes.contains_key(*name);
    let (begun, ended): (Vec<&NodeName>, Vec<&NodeName>) = changed.partition(stands);
    let owned = |names: Vec<&NodeName>| names.into_iter().cloned().collect::<Vec<_>>();
    let (begun, ended) = (owned(begun), owned(ended));
    if !begun.is_empty() {
        super::drain::tell(app, Some(&begun), "begun");
        live.iscsi.drain(Some(&begun));
    }
    if !ended.is_empty() {
        live.iscsi.undrain(Some(&ended));
        super::drain::tell(app, Some(&ended), "ended");
    }
}
