//! Who the virtual nodes are: nodes of this head, or names at another target.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, anyhow};

use super::Exit;
use super::door::{Door, Refusal, escape};
use super::swarm_run::{Args, VerifyArg, usage};
use crate::api::{About, ImageRead, Rehearsal, RehearsalAuth, RehearsalNode};
use crate::catalog::LayerMode;
use crate::iscsi::login::Credentials;
use crate::names::{NodeName, NodeSet};
use crate::swarm::{Identity, Plan};

/// What a storm needs to know of its target.
#[derive(Debug)]
pub(super) struct Storm {
    /// The nodes.
    pub(super) nodes: Vec<Identity>,
    /// The image's bytes in the ranges that the trace reads, if the head has told them.
    pub(super) image: Option<Vec<u8>>,
    /// The server's process, if it is this head.
    pub(super) server_pid: Option<u32>,
    /// The target, for people.
    pub(super) words: String,
}

/// Names at another target.
pub(super) fn foreign(
    args: &Args,
    target: SocketAddr,
    wanted: Option<usize>,
) -> anyhow::Result<Storm> {
    let names: Vec<String> = match (wanted, &args.nodes) {
        (Some(count), _) => (1..=count).map(|n| format!("node{n}")).collect(),
        (None, Some(set)) => NodeSet::parse(set)?
            .iter()
            .map(ToString::to_string)
            .collect(),
        (None, None) => return Err(usage("how many nodes? --nodes N, or --steps")),
    };
    let template = args.target_name.as_deref().unwrap_or_default();
    let shared = !template.contains("{node}") && !template.contains("{n}");
    if shared && names.len() > 1 && !args.read_only {
        return Err(usage(
            "all nodes would write to one target: --target-name needs {node} or {n}, or give --read-only",
        ));
    }
    let fill = |template: &str, name: &str, number: usize| {
        let text = template.replace("{node}", name);
        text.replace("{n}", &number.to_string())
    };
    let nodes = names.iter().zip(1..).map(|(name, number)| Identity {
        name: name.clone(),
        portal: target,
        target: fill(template, name, number),
        initiator: fill(&args.initiator_name, name, number),
        chap: None,
        mutual: None,
        mac: None,
        source: None,
    });
    Ok(Storm {
        nodes: nodes.collect(),
        image: None,
        server_pid: None,
        words: format!("{target} {template}"),
    })
}

/// Nodes of this head. They must be ones whose disks nobody will miss.
pub(super) async fn own(
    door: &Door,
    args: &Args,
    wanted: Option<usize>,
    plan: &mut Plan,
) -> anyhow::Result<Storm> {
    let set = match (&args.nodes, wanted) {
        (Some(set), None) => set.as_str(),
        _ => "@all",
    };
    let told: Rehearsal = door
        .get(&format!("/v1/rehearsal?nodes={}", escape(set)))
        .await?;
    let writes = !args.read_only && plan.writes() > 0;
    let compares = args.verify != VerifyArg::None;
    let fits = |node: &&RehearsalNode| why_not(node, writes, compares).is_none();
    let chosen: Vec<&RehearsalNode> = match wanted {
        Some(count) => {
            let some: Vec<_> = told.nodes.iter().filter(fits).take(count).collect();
            if some.len() < count {
                return Err(refused(&format!(
                    "{count} nodes are wanted, but only {} of this head may be rehearsed with: ephemeral ones with \
                     an image that are not in use",
                    some.len()
                )));
            }
            some
        }
        None => {
            if let Some(node) = told.nodes.iter().find(|node| !fits(node)) {
                let why = why_not(node, writes, compares).unwrap_or_default();
                return Err(refused(&format!("node {} {why}", node.node)));
            }
            told.nodes.iter().collect()
        }
    };
    let image = image(door, &chosen, args, plan).await?;
    // A login of firmware makes the head start a new boot, over a fresh layer; a system's alone would go on.
    if plan.first().is_some_and(|who| !who.is_firmware()) {
        plan.wake_first();
    }
    let about: About = door.get("/v1/about").await?;
    let portal = told.portals.first().copied();
    let portal = portal.ok_or_else(|| anyhow!("the head listens nowhere for iSCSI"))?;
    let portal = reachable(portal);
    let nodes = chosen.iter().map(|node| identity(node, portal, told.auth));
    Ok(Storm {
        nodes: nodes.collect(),
        image,
        server_pid: Some(about.pid),
        words: format!("this head at {portal}"),
    })
}

pub(super) fn refused(message: &str) -> anyhow::Error {
    Refusal::new(Exit::Refused, message).into()
}

/// Why a node cannot be played.
fn why_not(node: &RehearsalNode, writes: bool, compares: bool) -> Option<&'static str> {
    match () {
        () if node.image.is_none() => {
            Some("has no image; `reveille node set NODE --image IMAGE` gives it one")
        }
        () if node.open => {
            Some("has its disk open: a rehearsal would take it away; choose nodes that are off")
        }
        () if node.mode == LayerMode::Persistent && writes => Some(
            "is persistent: a rehearsal would write to its disk; choose ephemeral nodes, or give --read-only",
        ),
        () if node.mode == LayerMode::Persistent && compares => Some(
            "is persistent: its disk may differ from its image; choose ephemeral nodes, or --verify none",
        ),
        () => None,
    }
}

/// The image's bytes from the head's store.
async fn image(
    door: &Door,
    nodes: &[&RehearsalNode],
    args: &Args,
    plan: &Plan,
) -> anyhow::Result<Option<Vec<u8>>> {
    let images: Vec<_> = nodes
        .iter()
        .filter_map(|node| node.image.as_ref())
        .collect();
    let (Some(first), Some(node)) = (images.first(), nodes.first()) else {
        return Err(usage("no nodes are named"));
    };
    if node.disk_bytes < plan.reach() {
        return Err(usage(&format!(
            "the trace goes up to byte {}, but {} has {}; take the trace of such a disk",
            plan.reach(),
            first.0,
            node.disk_bytes
        )));
    }
    if args.verify == VerifyArg::None || args.image.is_some() {
        return Ok(None);
    }
    if let Some(other) = images.iter().find(|image| image.1 != first.1) {
        return Err(usage(&format!(
            "the nodes boot different images, {} and {}: run a swarm for each",
            first.0, other.0
        )));
    }
    let ask = ImageRead {
        id: first.1,
        ranges: plan.read_ranges(),
    };
    let bytes = door.bytes("/v1/images/read", &ask).await;
    bytes
        .with_context(|| format!("reading image {}", first.0))
        .map(Some)
}

pub(super) fn reachable(portal: SocketAddr) -> SocketAddr {
    let ip = match portal.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, portal.port())
}

fn identity(node: &RehearsalNode, portal: SocketAddr, auth: RehearsalAuth) -> Identity {
    let secret = node.secret.as_ref();
    let own = secret.map(|secret| Credentials {
        user: secret.user.clone(),
        secret: secret.secret.0.clone().into_bytes(),
    });
    let head = secret.map(|secret| Credentials {
        user: secret.head_user.clone(),
        secret: secret.head_secret.0.clone().into_bytes(),
    });
    let name: &NodeName = &node.node;
    Identity {
        name: name.to_string(),
        portal,
        target: node.target.clone(),
        initiator: node.initiator.clone(),
        chap: own,
        mutual: head.filter(|_| auth == RehearsalAuth::Mutual),
        mac: None,
        source: None,
    }
}
