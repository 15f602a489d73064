//! `reveille node ...`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use hyper::Method;

use super::door::{Door, escape};
use super::output::{Format, Listing, ago, clock, facts, print_one, print_text};
use super::profile::Given;
use super::{Exit, progress};
use crate::catalog::{
    DiskTraits, ImageRef, PendingRecord, Setting, SettingSet, parse_size, size_text,
};
use crate::head::{
    NodeAdd, NodeApprove, NodeChange, NodeRemove, NodeSecret, NodeSecretsSet, NodeView, NodesDone,
    Origin,
};
use crate::names::{Mac, NodeName};
use crate::units::UnixMillis;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Adds nodes
    Add(Add),
    /// Lists nodes, or machines that wait to become one
    Ls {
        /// Only these
        nodeset: Option<String>,
        /// Machines that asked to boot and are nobody's node
        #[arg(long, conflicts_with = "nodeset")]
        pending: bool,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Shows nodes whole
    Show {
        /// The nodes
        nodeset: String,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Prints the CHAP users and secrets of nodes, to set up an initiator by hand
    Secret {
        /// The nodes
        #[arg(required_unless_present = "from", conflicts_with = "from")]
        nodeset: Option<String>,
        /// Take over those that `node secret -o json` printed on another head; - reads stdin
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// Only show what would be done, with --from
        #[arg(long, requires = "from")]
        dry_run: bool,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Changes nodes; what runs stays as it is until its next boot
    Set(Set),
    /// Removes nodes with their layers
    Rm {
        /// The nodes
        nodeset: String,
        /// Even those that have their disk open
        #[arg(long)]
        force: bool,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Makes a node of a machine that waits; it boots on without a reset
    Approve(Approve),
}

/// Settings that `add` and `approve` share.
#[derive(Debug, clap::Args)]
struct Common {
    /// Profile that supplies what is left out here
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    #[command(flatten)]
    given: Given,
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Their names, like node[001-100]
    nodeset: String,
    /// MAC of the first; the others count up
    #[arg(long, conflicts_with = "macs")]
    mac: Option<Mac>,
    /// File with lines of `MAC` in the order of the nodes, or of `NAME MAC ...`; - reads stdin
    #[arg(long, value_name = "FILE")]
    macs: Option<PathBuf>,
    /// Fixed address of the first; the others count up
    #[arg(long)]
    ip: Option<Ipv4Addr>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Approve {
    /// The machine's MAC
    mac: Mac,
    /// The node's name
    #[arg(long)]
    name: NodeName,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// The nodes
    nodeset: String,
    /// Profile that supplies what is not their own; an empty text takes it away
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Settings that shall come from the profile again: image, mode, boot, loader, disk, layer-limit,
    /// layer-warn, power, comma separated, or all
    #[arg(long, value_name = "LIST")]
    inherit: Option<SettingSet>,
    /// What they boot; an empty text clears it
    #[arg(long)]
    image: Option<String>,
    /// What becomes of their changes at each boot
    #[arg(long, value_parser = words(&["ephemeral", "persistent"]))]
    mode: Option<String>,
    /// What they are told when they ask
    #[arg(long, value_parser = words(&["image", "local"]))]
    boot: Option<String>,
    /// How their firmware is loaded
    #[arg(long, value_parser = words(&["auto", "chain"]))]
    loader: Option<String>,
    /// What their disks are beyond plain ones: 512n, removable, read-only, sanitize, wsnz, comma separated;
    /// default for none. Counts from their next login on
    #[arg(long, value_name = "LIST")]
    disk: Option<DiskTraits>,
    /// What their layers may hold, like 4G; `none` for no limit, `default` for the head's. Counts at once
    #[arg(long, value_name = "SIZE", value_parser = size)]
    layer_limit: Option<Size>,
    /// From which size of their layers on to warn, like 3G; `none` for never, `default` for the head's
    #[arg(long, value_name = "SIZE", value_parser = size)]
    layer_warn: Option<Size>,
    /// Power command; an empty text clears it
    #[arg(long, value_name = "COMMAND")]
    power: Option<String>,
    /// Network cards (of one node), comma separated; the first one boots
    #[arg(long, value_delimiter = ',')]
    macs: Option<Vec<Mac>>,
    /// Fixed address (of one node); an empty text clears it
    #[arg(long)]
    ip: Option<String>,
    /// Give them new CHAP secrets, for both directions; they must boot anew
    #[arg(long)]
    new_secret: bool,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// A size, `none` (0) or `default` (absent).
#[derive(Clone, Copy, Debug)]
struct Size(Option<u64>);

fn size(text: &str) -> Result<Size, String> {
    match text {
        "default" => Ok(Size(None)),
        size => parse_size(size).map(|bytes| Size(Some(bytes))),
    }
}

/// The words of an enum of the catalog: checked here, read by its own serde names.
pub(super) fn words(known: &'static [&'static str]) -> PossibleValuesParser {
    PossibleValuesParser::new(known)
}

pub(super) fn word<T: serde::de::DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    let quoted = serde_json::Value::String(text.to_owned());
    serde_json::from_value(quoted).with_context(|| format!("`{text}` is not known"))
}

pub(super) async fn run(door: &Door, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Add(args) => add(door, args).await,
        Verb::Ls {
            pending: true,
            output,
            ..
        } => pending(door, output).await,
        Verb::Ls {
            nodeset, output, ..
        } => list(door, nodeset.as_deref(), output).await,
        Verb::Show { nodeset, output } => show(door, &nodeset, output).await,
        Verb::Secret {
            from: Some(path),
            dry_run,
            ..
        } => {
            let secrets = serde_json::from_str(&read_text(&path)?)
                .with_context(|| format!("file {}", path.display()))?;
            let ask = NodeSecretsSet { secrets, dry_run };
            let done: NodesDone = door.call(Method::PUT, "/v1/nodes/secrets", &ask).await?;
            tell(&done, "changed");
            Ok(Exit::Good)
        }
        Verb::Secret {
            nodeset, output, ..
        } => secret(door, &nodeset.unwrap_or_default(), output).await,
        Verb::Set(args) => set(door, args).await,
        Verb::Rm {
            nodeset,
            force,
            dry_run,
        } => {
            let ask = NodeRemove {
                nodes: nodeset,
                force,
                dry_run,
            };
            let done: NodesDone = door.call(Method::DELETE, "/v1/nodes", &ask).await?;
            tell(&done, "removed");
            Ok(Exit::Good)
        }
        Verb::Approve(args) => approve(door, args).await,
    }
}

/// Says what was done, or would be, and what else the operator should know.
pub(super) fn tell(done: &NodesDone, what: &str) {
    let would = if done.dry_run { "would have " } else { "" };
    print_text(&format!(
        "{would}{what} {} ({})\n",
        done.nodes,
        done.nodes.len()
    ));
    for notice in &done.notices {
        progress::say(&format!("note: {notice}"));
    }
}

async fn add(door: &Door, args: Add) -> anyhow::Result<Exit> {
    let macs = args.macs.map(|path| read_text(&path)).transpose()?;
    let Common { profile, given } = args.common;
    let dry_run = given.dry_run;
    let own = given.settings()?;
    let ask = NodeAdd {
        nodes: args.nodeset,
        profile,
        image: own.image,
        mode: own.mode,
        boot: own.boot,
        loader: own.loader,
        disk: own.disk,
        layer_limit: own.layer_limit,
        layer_warn: own.layer_warn,
        power: own.power,
        mac: args.mac,
        macs,
        ip: args.ip,
        dry_run,
    };
    let done: NodesDone = door.post("/v1/nodes", &ask).await?;
    tell(&done, "added");
    Ok(Exit::Good)
}

fn read_text(path: &std::path::Path) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        return std::io::read_to_string(std::io::stdin()).context("standard input");
    }
    std::fs::read_to_string(path).with_context(|| format!("file {}", path.display()))
}

async fn approve(door: &Door, args: Approve) -> anyhow::Result<Exit> {
    let Common { profile, given } = args.common;
    let dry_run = given.dry_run;
    let own = given.settings()?;
    let ask = NodeApprove {
        mac: args.mac,
        name: args.name,
        profile,
        image: own.image,
        mode: own.mode,
        boot: own.boot,
        loader: own.loader,
        disk: own.disk,
        layer_limit: own.layer_limit,
        layer_warn: own.layer_warn,
        power: own.power,
        dry_run,
    };
    let done: NodesDone = door.post("/v1/nodes/approve", &ask).await?;
    tell(&done, "approved");
    Ok(Exit::Good)
}

async fn set(door: &Door, args: Set) -> anyhow::Result<Exit> {
    let clearable = |text: String| (!text.is_empty()).then_some(text);
    let image = match args.image.map(clearable) {
        Some(Some(text)) => Some(Some(ImageRef::try_from(text).map_err(anyhow::Error::msg)?)),
        Some(None) => Some(None),
        None => None,
    };
    let ip = match args.ip.map(clearable) {
        Some(Some(text)) => {
            let wrong = || format!("address `{text}`: must be IPv4, like 10.0.0.7");
            Some(Some(text.parse().with_context(wrong)?))
        }
        Some(None) => Some(None),
        None => None,
    };
    let ask = NodeChange {
        nodes: args.nodeset,
        profile: args.profile.map(clearable),
        inherit: args.inherit.unwrap_or_default(),
        image,
        mode: args.mode.as_deref().map(word).transpose()?,
        boot: args.boot.as_deref().map(word).transpose()?,
        loader: args.loader.as_deref().map(word).transpose()?,
        disk: args.disk,
        layer_limit: args.layer_limit.map(|size| size.0),
        layer_warn: args.layer_warn.map(|size| size.0),
        power: args.power.map(clearable),
        macs: args.macs,
        ip,
        new_secret: args.new_secret,
        dry_run: args.dry_run,
    };
    let done: NodesDone = door.call(Method::PATCH, "/v1/nodes", &ask).await?;
    tell(&done, "changed");
    Ok(Exit::Good)
}

async fn fetch(door: &Door, nodes: Option<&str>) -> anyhow::Result<Vec<NodeView>> {
    let mut path = "/v1/nodes".to_owned();
    if let Some(set) = nodes {
        path += &format!("?nodes={}", escape(set));
    }
    door.get(&path).await
}

async fn list(door: &Door, nodes: Option<&str>, output: Format) -> anyhow::Result<Exit> {
    let nodes = fetch(door, nodes).await?;
    Listing {
        items: &nodes,
        header: &["node", "mac", "image", "mode", "boot", "bound to", "power"],
        row: &|n| {
            vec![
                n.name.to_string(),
                n.macs.first().map_or("-".into(), ToString::to_string),
                n.image.clone().map_or("-".into(), String::from),
                n.mode.as_str().to_owned(),
                n.boot.as_str().to_owned(),
                n.bound.clone().unwrap_or_else(|| "-".into()),
                if n.power.is_some() { "yes" } else { "no" }.to_owned(),
            ]
        },
        name: &|n| n.name.to_string(),
    }
    .print(output)?;
    Ok(Exit::Good)
}

async fn show(door: &Door, nodes: &str, output: Format) -> anyhow::Result<Exit> {
    let nodes = fetch(door, Some(nodes)).await?;
    match output {
        Format::Table => {
            let all: Vec<String> = nodes.iter().map(describe).collect();
            print_text(&all.join("\n"));
        }
        _ => print_one(&nodes, output, String::new)?,
    }
    Ok(Exit::Good)
}

async fn secret(door: &Door, nodes: &str, output: Format) -> anyhow::Result<Exit> {
    let path = format!("/v1/nodes/secrets?nodes={}", escape(nodes));
    let secrets: Vec<NodeSecret> = door.get(&path).await?;
    let listing = Listing {
        items: &secrets,
        header: &["node", "user", "secret", "head's user", "head's secret"],
        row: &|n| {
            vec![
                n.node.to_string(),
                n.user.clone(),
                n.secret.0.clone(),
                n.head_user.clone(),
                n.head_secret.0.clone(),
            ]
        },
        name: &|n| n.node.to_string(),
    };
    listing.print(output)?;
    Ok(Exit::Good)
}

fn describe(n: &NodeView) -> String {
    let macs: Vec<String> = n.macs.iter().map(ToString::to_string).collect();
    let profile = n.profile.clone().unwrap_or_default();
    // Where a value is from is told unless it is the node's own.
    let told = |one: Setting, text: String| match n.from.get(&one) {
        Some(Origin::Profile) => format!("{text} (profile {profile})"),
        Some(Origin::Default) if !profile.is_empty() => format!("{text} (default)"),
        _ => text,
    };
    let image = n.image.clone().map(String::from).unwrap_or_default();
    let power = n.power.clone().unwrap_or_default();
    let limit = |bytes: Option<u64>| bytes.map(size_text).unwrap_or_default();
    facts(&[
        ("node", n.name.to_string()),
        ("macs", macs.join(", ")),
        ("address", n.ip.map(|ip| ip.to_string()).unwrap_or_default()),
        ("profile", profile.clone()),
        ("image", told(Setting::Image, image)),
        ("boots now", n.version.clone().unwrap_or_default()),
        ("bound to", n.bound.clone().unwrap_or_default()),
        ("but stays", n.kept.clone().unwrap_or_default()),
        ("mode", told(Setting::Mode, n.mode.as_str().to_owned())),
        ("boot", told(Setting::Boot, n.boot.as_str().to_owned())),
        (
            "loader",
            told(Setting::Loader, n.loader.as_str().to_owned()),
        ),
        ("disk traits", told(Setting::Disk, n.disk.to_string())),
        (
            "layer limit",
            told(Setting::LayerLimit, limit(n.layer_limit)),
        ),
        (
            "layer warning",
            told(Setting::LayerWarn, limit(n.layer_warn)),
        ),
        ("space", n.space.clone().unwrap_or_default()),
        ("power", told(Setting::Power, power)),
        ("layer", n.layer.to_string()),
        ("disk", n.disk_uuid.clone()),
        ("added", clock(n.added)),
    ])
}

async fn pending(door: &Door, output: Format) -> anyhow::Result<Exit> {
    let machines: Vec<PendingRecord> = door.get("/v1/pending").await?;
    let now = UnixMillis::now();
    Listing {
        items: &machines,
        header: &["mac", "arch", "uuid", "first seen", "last seen", "asked"],
        row: &|m| {
            vec![
                m.mac.to_string(),
                m.arch.clone(),
                m.uuid.clone().unwrap_or_else(|| "-".into()),
                ago(m.first, now),
                ago(m.last, now),
                m.asked.to_string(),
            ]
        },
        name: &|m| m.mac.to_string(),
    }
    .print(output)?;
    Ok(Exit::Good)
}
