//! Where the nodes stand.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::nodes::select;
use super::{ApiError, App, Live, NodesAsk};
use crate::events::{NodeTimeline, TrafficTotals};
use crate::head::Admission;
use crate::names::NodeName;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/v1/status", get(status))
}

/// One node's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeName,
    /// Its boot as far as it came.
    #[serde(flatten)]
    pub timeline: NodeTimeline,
    /// What its sessions moved in this boot.
    pub traffic: TrafficTotals,
    /// Its place in the queue, when it is held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_at: Option<u32>,
    /// It is drained from this head: where its logins go, or `nowhere`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained_to: Option<String>,
    /// Its disk stands on an image version with a bad chunk: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

async fn status(
    State(app): State<App>,
    ask: Result<Query<NodesAsk>, QueryRejection>,
) -> Result<Json<Vec<NodeStatus>>, ApiError> {
    let Query(ask) = ask?;
    let live = app.live()?;
    let nodes = select(&app, ask.nodes.as_deref().unwrap_or("@all"))?;
    let mut damaged = app.blocking(|app| app.head.damaged_nodes()).await?;
    let all = nodes.into_iter().map(|node| NodeStatus {
        damage: damaged.remove(&node),
        ..one(&app, live, node)
    });
    Ok(Json(all.collect()))
}

fn one(app: &App, live: &Live, node: NodeName) -> NodeStatus {
    let held_at = match app.head.gate().ask(&node) {
        Admission::Admit => None,
        Admission::Wait { place } => Some(place),
    };
    NodeStatus {
        timeline: live.board.node(&node).unwrap_or_default(),
        traffic: app.head.bus().traffic(&node).totals(),
        held_at,
        drained_to: app.head.drains().order_for(Some(&node)).map(|order| {
            let nowhere = || "nowhere".to_owned();
            order.to.map_or_else(nowhere, |to| to.to_string())
        }),
        damage: None,
        node,
    }
}
