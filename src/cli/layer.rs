//! `reveille layer ...`.

use clap::Subcommand;

use super::Exit;
use super::door::{Door, escape};
use super::image_diff;
use super::node::tell;
use super::output::{Format, Listing, ago, facts, print_one};
use super::promote;
use crate::head::{LayerReset, LayerView, NodesDone};
use crate::units::{HumanBytes, UnixMillis};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Lists layers
    Ls {
        /// Only of these nodes
        nodeset: Option<String>,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Shows one node's layer
    Show {
        /// The node
        node: String,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Makes what a node's layer shows a new version of an image
    Promote(promote::Promote),
    /// Shows what a node's disk has other than its image: chunks, and files where they can be told
    Diff(image_diff::OfLayer),
    /// Writes a node's whole disk, as it is now, to a sparse raw file
    Export(promote::Export),
    /// Throws away what nodes changed
    Reset {
        /// The nodes
        nodeset: String,
        /// Even under nodes that have their disk open
        #[arg(long)]
        force: bool,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) async fn run(door: &Door, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Ls { nodeset, output } => {
            let layers = fetch(door, nodeset.as_deref()).await?;
            list(&layers, output)
        }
        Verb::Show { node, output } => {
            for layer in fetch(door, Some(&node)).await? {
                print_one(&layer, output, || describe(&layer))?;
            }
            Ok(Exit::Good)
        }
        Verb::Promote(args) => promote::promote(door, args).await,
        Verb::Diff(args) => image_diff::layer(door, args).await,
        Verb::Export(args) => promote::export(door, args).await,
        Verb::Reset {
            nodeset,
            force,
            dry_run,
        } => {
            let ask = LayerReset {
                nodes: nodeset,
                force,
                dry_run,
            };
            let done: NodesDone = door.post("/v1/layers/reset", &ask).await?;
            tell(&done, "reset the layers of");
            Ok(Exit::Good)
        }
    }
}

async fn fetch(door: &Door, nodes: Option<&str>) -> anyhow::Result<Vec<LayerView>> {
    match nodes {
        Some(set) => door.get(&format!("/v1/layers?nodes={}", escape(set))).await,
        None => door.get("/v1/layers").await,
    }
}

fn list(layers: &[LayerView], output: Format) -> anyhow::Result<Exit> {
    let now = UnixMillis::now();
    Listing {
        items: layers,
        header: &[
            "node", "mode", "image", "own data", "limit", "on disk", "full", "since", "space",
        ],
        row: &|l| {
            vec![
                l.node.to_string(),
                l.mode.as_str().to_owned(),
                l.image.clone().unwrap_or_else(|| "-".into()),
                HumanBytes(l.held.data_bytes).to_string(),
                l.limit
                    .map_or("-".into(), |most| HumanBytes(most).to_string()),
                HumanBytes(l.allocated_bytes).to_string(),
                l.growth.map_or("-".into(), |growth| growth.full()),
                l.since.map_or("-".into(), |at| ago(at, now)),
                l.space.clone().unwrap_or_else(|| "-".into()),
            ]
        },
        name: &|l| l.node.to_string(),
    }
    .print(output)?;
    Ok(Exit::Good)
}

fn describe(layer: &LayerView) -> String {
    let now = UnixMillis::now();
    facts(&[
        ("node", layer.node.to_string()),
        ("layer", layer.layer.to_string()),
        ("mode", layer.mode.as_str().to_owned()),
        (
            "image",
            layer
                .image
                .clone()
                .unwrap_or_else(|| "none yet: it never booted".into()),
        ),
        ("next image", layer.wanted.clone().unwrap_or_default()),
        ("but stays", layer.kept.clone().unwrap_or_default()),
        ("own data", HumanBytes(layer.held.data_bytes).to_string()),
        ("zeroed", HumanBytes(layer.held.zero_bytes).to_string()),
        ("on disk", HumanBytes(layer.allocated_bytes).to_string()),
        ("limit", bytes_or_none(layer.limit)),
        ("warning", bytes_or_none(layer.warn)),
        (
            "growth",
            layer.growth.map(|g| g.to_string()).unwrap_or_default(),
        ),
        ("space", layer.space.clone().unwrap_or_default()),
        ("trouble", layer.trouble.clone().unwrap_or_default()),
        (
            "boot",
            layer.boot.map(|b| b.to_string()).unwrap_or_default(),
        ),
        (
            "since",
            layer.since.map(|at| ago(at, now)).unwrap_or_default(),
        ),
    ])
}

fn bytes_or_none(bytes: Option<u64>) -> String {
    bytes.map_or("none".to_owned(), |bytes| HumanBytes(bytes).to_string())
}
