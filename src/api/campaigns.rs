//! Campaigns and power.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::nodes::select;
use super::{ApiError, App};
use crate::names::NodeName;
use crate::power::Action;
use crate::units::UnixMillis;
use crate::wave::{Entry, Machine, Spec, SpecNode, Summary, Until, WaveSize};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/campaigns", get(list).post(begin))
        .route("/v1/campaigns/{id}", get(show))
        .route("/v1/campaigns/{id}/abort", post(abort))
        .route("/v1/power", post(power))
}

/// Settings of a campaign that a request leaves open.
#[derive(Clone, Debug)]
pub struct Fallbacks {
    /// Wave size.
    pub wave: WaveSize,
    /// Milliseconds of one attempt.
    pub timeout_ms: u64,
    /// Further attempts.
    pub retries: u32,
}

/// `POST /v1/campaigns`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootAsk {
    /// Nodeset.
    pub nodes: String,
    /// `25` or `auto`.
    #[serde(default)]
    pub wave: Option<String>,
    /// Seconds that one attempt may take.
    #[serde(default)]
    pub timeout_s: Option<u64>,
    /// Further attempts.
    #[serde(default)]
    pub retries: Option<u32>,
    /// When a node counts as up.
    #[serde(default)]
    pub until: Until,
    /// Restart nodes that are up.
    #[serde(default)]
    pub restart: bool,
    /// Only check and tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// Number of the campaign; none in a dry run.
    pub id: Option<u64>,
    /// What it does.
    pub spec: Spec,
}

/// A campaign as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CampaignView {
    /// Its number.
    pub id: u64,
    /// Counts.
    pub summary: Summary,
    /// When it began.
    pub started: UnixMillis,
    /// When it ended.
    pub finished: Option<UnixMillis>,
    /// Its nodes; left out in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Entry>,
}

/// `POST /v1/power`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerAsk {
    /// Nodeset.
    pub nodes: String,
    /// `on`, `off` or `cycle`.
    pub action: String,
    /// Only check and tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// A node whose power could not be switched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PowerFailure {
    /// The node.
    pub node: NodeName,
    /// Why.
    pub error: String,
}

async fn begin(
    State(app): State<App>,
    ask: Result<Json<BootAsk>, JsonRejection>,
) -> Result<Json<Started>, ApiError> {
    let Json(ask) = ask?;
    let live = app.live()?;
    let wave = match &ask.wave {
        Some(text) => WaveSize::parse(text).map_err(ApiError::invalid)?,
        None => live.fallbacks.wave,
    };
    let snapshot = app.head.snapshot();
    let node = |name: NodeName| SpecNode {
        power: snapshot
            .node(name.as_str())
            .is_some_and(|n| n.power.is_some()),
        up: live.board.is_up(&name),
        name,
    };
    let nodes = select(&app, &ask.nodes)?.into_iter().map(node).collect();
    let timeout_ms = match ask.timeout_s {
        Some(seconds) => seconds.saturating_mul(1000),
        None => live.fallbacks.timeout_ms,
    };
    let spec = Spec {
        nodes,
        wave,
        until: ask.until,
        restart: ask.restart,
        timeout_ms,
        retries: ask.retries.unwrap_or(live.fallbacks.retries),
    };
    if ask.dry_run {
        spec.check().map_err(ApiError::invalid)?;
        return Ok(Json(Started { id: None, spec }));
    }
    let id = Some(live.waves.begin(spec.clone())?);
    Ok(Json(Started { id, spec }))
}

async fn list(State(app): State<App>) -> Result<Json<Vec<CampaignView>>, ApiError> {
    let waves = &app.live()?.waves;
    let all = waves.campaigns();
    Ok(Json(
        all.iter().map(|(id, m)| view(*id, m, false)).collect(),
    ))
}

async fn show(State(app): State<App>, Path(id): Path<u64>) -> Result<Json<CampaignView>, ApiError> {
    let machine = app.live()?.waves.campaign(id);
    let missing = || ApiError::not_found(format!("there is no campaign {id}"));
    let machine = machine.ok_or_else(missing)?;
    Ok(Json(view(id, &machine, true)))
}

async fn abort(State(app): State<App>, Path(id): Path<u64>) -> Result<Json<()>, ApiError> {
    app.live()?.waves.abort(id)?;
    Ok(Json(()))
}

async fn power(
    State(app): State<App>,
    ask: Result<Json<PowerAsk>, JsonRejection>,
) -> Result<Json<Vec<PowerFailure>>, ApiError> {
    let Json(ask) = ask?;
    let action = [Action::On, Action::Off, Action::Cycle]
        .into_iter()
        .find(|a| a.word() == ask.action)
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "power action `{}`: must be on, off or cycle",
                ask.action
            ))
        })?;
    let nodes = select(&app, &ask.nodes)?;
    let live = app.live()?;
    if ask.dry_run {
        return Ok(Json(Vec::new()));
    }
    let failed = live.waves.power(nodes, action).await;
    let failure = |(node, error): (NodeName, crate::power::PowerError)| PowerFailure {
        node,
        error: error.0,
    };
    Ok(Json(failed.into_iter().map(failure).collect()))
}

fn view(id: u64, machine: &Machine, whole: bool) -> CampaignView {
    CampaignView {
        id,
        summary: machine.summary(),
        started: machine.started(),
        finished: machine.finished(),
        nodes: if whole {
            machine.entries().to_vec()
        } else {
            Vec::new()
        },
    }
}
