//! Profiles of nodes.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::nodes::check_power;
use super::{ApiError, App};
use crate::head::{ProfileAdd, ProfileChange, ProfileDone, ProfileRemove, ProfileView};

pub(super) fn routes() -> Router<App> {
    let all = get(list).post(add).patch(set).delete(remove);
    Router::new().route("/v1/profiles", all)
}

/// Query of the list: which one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProfilesAsk {
    /// Its name; all when left out.
    pub name: Option<String>,
}

type Body<T> = Result<Json<T>, JsonRejection>;

async fn list(
    State(app): State<App>,
    ask: Result<Query<ProfilesAsk>, QueryRejection>,
) -> Result<Json<Vec<ProfileView>>, ApiError> {
    let Query(ask) = ask?;
    Ok(Json(app.head.profiles(ask.name.as_deref())?))
}

async fn add(State(app): State<App>, ask: Body<ProfileAdd>) -> Result<Json<ProfileDone>, ApiError> {
    let Json(ask) = ask?;
    check_power(ask.settings.power.as_deref())?;
    let done = app.blocking(move |app| app.head.profile_add(&ask)).await?;
    Ok(Json(done))
}

async fn set(
    State(app): State<App>,
    ask: Body<ProfileChange>,
) -> Result<Json<ProfileDone>, ApiError> {
    let Json(ask) = ask?;
    check_power(ask.settings.power.as_deref())?;
    let done = app.blocking(move |app| app.head.profile_set(&ask)).await?;
    Ok(Json(done))
}

async fn remove(
    State(app): State<App>,
    ask: Body<ProfileRemove>,
) -> Result<Json<ProfileDone>, ApiError> {
    let Json(ask) = ask?;
    let work = move |app: App| app.head.profile_remove(&ask);
    Ok(Json(app.blocking(work).await?))
}
