//! `reveille status`.

use super::Exit;
use super::door::{Door, escape};
use super::output::{Format, Listing, ago, clock, print_text};
use crate::api::NodeStatus;
use crate::events::Stage;
use crate::units::{HumanBytes, UnixMillis};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these nodes
    nodeset: Option<String>,
    /// Show each node's stages with their times
    #[arg(short, long)]
    timeline: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(door: &Door, args: Args) -> anyhow::Result<Exit> {
    let path = match &args.nodeset {
        Some(set) => format!("/v1/status?nodes={}", escape(set)),
        None => "/v1/status".to_owned(),
    };
    let nodes: Vec<NodeStatus> = door.get(&path).await?;
    if args.timeline && args.output == Format::Table {
        for node in &nodes {
            print_text(&timeline(node));
        }
        return Ok(Exit::Good);
    }
    let now = UnixMillis::now();
    let listing = Listing {
        items: &nodes,
        header: &[
            "node", "stage", "since", "boot", "took", "image", "read", "written", "note",
        ],
        row: &|n| row(n, now),
        name: &|n| n.node.to_string(),
    };
    listing.print(args.output)?;
    Ok(Exit::Good)
}

fn row(n: &NodeStatus, now: UnixMillis) -> Vec<String> {
    let line = &n.timeline;
    let seen = line.since.0 != 0;
    let note = match (n.held_at, &line.reason) {
        _ if n.drained_to.is_some() => {
            let to = n.drained_to.as_deref().unwrap_or_default();
            format!("drained to {to}")
        }
        (Some(place), _) => format!("waits at place {place}"),
        (None, Some(reason)) if line.stage == Stage::Failed => reason.clone(),
        (None, _) if n.damage.is_some() => n.damage.clone().unwrap_or_default(),
        _ => String::new(),
    };
    vec![
        n.node.to_string(),
        line.stage.to_string(),
        if seen {
            ago(line.since, now)
        } else {
            "-".into()
        },
        line.boot.map_or("-".into(), |b| b.to_string()),
        took(n),
        line.image.clone().unwrap_or_else(|| "-".into()),
        HumanBytes(n.traffic.read_bytes).to_string(),
        HumanBytes(n.traffic.written_bytes).to_string(),
        note,
    ]
}

/// Seconds from the first stage to the last.
fn took(n: &NodeStatus) -> String {
    match (n.timeline.stages.first(), n.timeline.stages.last()) {
        (Some(first), Some(last)) => seconds(last.at.since(first.at)),
        _ => "-".into(),
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// `node1 b3: powered 0.0 s, dhcp 2.1 s, ...` with a line of figures.
fn timeline(n: &NodeStatus) -> String {
    let line = &n.timeline;
    let Some(first) = line.stages.first() else {
        return format!("{}: nothing seen yet\n", n.node);
    };
    let boot = line.boot.map_or("-".into(), |b| b.to_string());
    let mut text = format!("{} {boot}, from {}\n", n.node, clock(first.at));
    for entry in &line.stages {
        let at = seconds(entry.at.since(first.at));
        text += &format!("  {at:>9}  {}\n", entry.stage);
    }
    text += &format!(
        "             {} reads, {}; {} writes, {}\n",
        n.traffic.reads,
        HumanBytes(n.traffic.read_bytes),
        n.traffic.writes,
        HumanBytes(n.traffic.written_bytes)
    );
    if let Some(reason) = &line.reason {
        text += &format!("             {reason}\n");
    }
    text
}
