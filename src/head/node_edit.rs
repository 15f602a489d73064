//! Nodes that are there: shown, changed, removed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::boot::{self, NO_BOOT};
use super::error::{HeadError, Result};
use super::layers::refuse_busy;
use super::nodes::{check_image, profile_of};
use super::{Head, NodesDone};
use crate::catalog::{
    Binding, BootMode, DiskTraits, ImageRef, LayerMode, LoaderPolicy, NodeRecord, Setting,
    SettingSet, Snapshot,
};
use crate::names::{LayerId, Mac, NodeName, NodeSet};
use crate::units::UnixMillis;

/// A node as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Its network cards; the first one boots.
    pub macs: Vec<Mac>,
    /// Fixed address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// The profile that supplies what is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Where each setting comes from; one that has no value is not here.
    #[serde(default)]
    pub from: BTreeMap<Setting, Origin>,
    /// What it boots, as set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// The version that means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version that its last boot got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// Why its next boot will not take the version that its image means now, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// What becomes of its layer.
    pub mode: LayerMode,
    /// What it is told.
    pub boot: BootMode,
    /// How its firmware is loaded.
    pub loader: LoaderPolicy,
    /// What its disk is beyond a plain one; empty: nothing.
    #[serde(default)]
    pub disk: DiskTraits,
    /// Bytes that its layer may hold, if it has a limit of its own; 0 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_limit: Option<u64>,
    /// Bytes of its layer beyond which is warned, if it has a warning of its own; 0 is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_warn: Option<u64>,
    /// What is to be told of its layer's space now: it is warned of, or full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// Command template of its power driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<String>,
    /// Its layer's number.
    pub layer: LayerId,
    /// Identity of its disk.
    pub disk_uuid: String,
    /// When it was added.
    pub added: UnixMillis,
}

/// Where a node has a setting from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Given to this node.
    Own,
    /// From its profile.
    Profile,
    /// Nobody said anything.
    Default,
}

/// Changes nodes. What is left out stays; where `null` is allowed, it clears (as in RFC 7396).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeChange {
    /// Which: a node set expression.
    pub nodes: String,
    /// The profile that supplies what is not their own.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub profile: Option<Option<String>>,
    /// Settings that shall be their own no more.
    pub inherit: SettingSet,
    /// What they boot.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub image: Option<Option<ImageRef>>,
    /// What becomes of their layers.
    pub mode: Option<LayerMode>,
    /// What they are told.
    pub boot: Option<BootMode>,
    /// How their firmware is loaded.
    pub loader: Option<LoaderPolicy>,
    /// What their disks are beyond plain ones, from their next logins on.
    pub disk: Option<DiskTraits>,
    /// Bytes that their layers may hold, at once; 0 is no limit, `null` what is usual.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub layer_limit: Option<Option<u64>>,
    /// Bytes of their layers beyond which is warned; 0 is never, `null` what is usual.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub layer_warn: Option<Option<u64>>,
    /// Command template of their power driver.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub power: Option<Option<String>>,
    /// Network cards, of one node only.
    pub macs: Option<Vec<Mac>>,
    /// Fixed address, of one node only unless it is cleared.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub ip: Option<Option<Ipv4Addr>>,
    /// Gives them new CHAP secrets, for both directions.
    pub new_secret: bool,
    /// Only tell.
    pub dry_run: bool,
}

/// Removes nodes with their layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeRemove {
    /// Which: a node set expression.
    pub nodes: String,
    /// Even those that have their disk open.
    pub force: bool,
    /// Only tell.
    pub dry_run: bool,
}

/// Tells "null" from "left out".
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Head {
    /// The nodes in an expression, or all, in natural order. Secrets have a call of their own.
    ///
    /// # Errors
    /// A node that does not exist.
    pub fn nodes(&self, nodes: Option<&str>) -> Result<Vec<NodeView>> {
        let now = self.snapshot();
        let chosen = self.chosen(&now, nodes)?;
        let view = |node: &std::sync::Arc<NodeRecord>| NodeView {
            space: self.space_trouble(node.layer),
            kept: self.outlook(&now, node).kept,
            ..node_view(&now, node)
        };
        Ok(chosen.iter().map(view).collect())
    }

    /// Changes nodes, all or none. What a running node has stays until its next boot.
    ///
    /// # Errors
    /// A node or image that does not exist; a MAC or address that is taken, or given to several.
    pub fn nodes_set(&self, ask: &NodeChange) -> Result<NodesDone> {
        let set = self.select(&ask.nodes)?;
        let single = ask.macs.is_some() || matches!(ask.ip, Some(Some(_)));
        if single && set.len() > 1 {
            let message = format!(
                "{set} are {} nodes; give MACs and addresses to one",
                set.len()
            );
            return Err(HeadError::invalid(message));
        }
        let notices = self.change(ask.dry_run, |changes| {
            check_image(changes, ask.image.as_ref().and_then(Option::as_ref))?;
            profile_of(
                changes.view(),
                ask.profile.as_ref().and_then(|p| p.as_deref()),
            )?;
            let mut notices = Vec::new();
            for name in set.iter() {
                let Some(old) = changes.view().node(name.as_str()).cloned() else {
                    let message = format!("node `{name}` was removed a moment ago");
                    return Err(HeadError::not_found(message));
                };
                let node = changed(changes.view(), &old, ask)?;
                if ask.profile.is_some() || !ask.inherit.is_empty() {
                    check_image(changes, node.image.as_ref())?;
                }
                let bound = changes.view().binding(node.layer);
                notices.extend(notice(changes.view(), bound, &node));
                for mac in &node.macs {
                    changes.remove_pending(*mac);
                }
                changes.put_node(node)?;
            }
            Ok(notices)
        })?;
        if !ask.dry_run {
            self.apply_limits(&set);
        }
        if let (Some(macs), false) = (&ask.macs, ask.dry_run) {
            self.pending_taken(macs.iter().copied());
        }
        Ok(NodesDone {
            nodes: set,
            notices,
            dry_run: ask.dry_run,
        })
    }

    /// Removes nodes with their layers. Nodes for which `busy` says that their disk is open are refused
    /// unless forced.
    ///
    /// # Errors
    /// A node that does not exist or is busy: then nothing was done.
    pub fn nodes_remove(
        &self,
        ask: &NodeRemove,
        busy: &dyn Fn(&NodeName) -> bool,
    ) -> Result<NodesDone> {
        let set = self.select(&ask.nodes)?;
        if !ask.force {
            refuse_busy(&set, busy, "they cannot be removed")?;
        }
        let removed = self.change(ask.dry_run, |changes| {
            let remove = |name: &NodeName| Ok(changes.remove_node(name)?);
            set.iter().map(remove).collect::<Result<Vec<_>>>()
        })?;
        let notices = if ask.dry_run {
            Vec::new()
        } else {
            self.nodes_gone(&set, &removed)
        };
        Ok(NodesDone {
            nodes: set,
            notices,
            dry_run: ask.dry_run,
        })
    }

    /// After their records: all else that there is of removed nodes. Answers what could not be done.
    pub(super) fn nodes_gone(&self, set: &NodeSet, removed: &[Arc<NodeRecord>]) -> Vec<String> {
        let mut notices = Vec::new();
        if let Err(e) = self.forget_drains(set) {
            notices.push(format!("orders to drain them still stand: {e}"));
        }
        for node in removed {
            let run = self.runs.of(&node.name);
            let _run = boot::lock(&run);
            // The node is gone already; a layer that stays is removed at the next start.
            if let Err(e) = self.layer_remove(node.layer) {
                let name = &node.name;
                notices.push(format!("the layer of `{name}` could not be removed: {e}"));
            }
            self.gate.admit(&node.name);
            self.bus.forget(&node.name);
            self.runs.forget(&node.name);
        }
        notices
    }
}

fn node_view(now: &Snapshot, node: &NodeRecord) -> NodeView {
    let version = node.image.as_ref().and_then(|image| {
        let version = now.resolve(image)?;
        Some(format!("{}:{}", image.name, version.version))
    });
    let bound = now.binding(node.layer).filter(|b| b.boot != NO_BOOT);
    NodeView {
        name: node.name.clone(),
        macs: node.macs.clone(),
        ip: node.ip,
        profile: node.profile.clone(),
        from: origins(now, node),
        image: node.image.clone(),
        version,
        bound: bound.map(|b| b.label.clone()),
        kept: None,
        mode: node.mode,
        boot: node.boot,
        loader: node.loader,
        disk: node.disk,
        layer_limit: node.layer_limit,
        layer_warn: node.layer_warn,
        space: None,
        power: node.power.clone(),
        layer: node.layer,
        disk_uuid: node.disk_uuid.clone(),
        added: node.added,
    }
}

fn origins(now: &Snapshot, node: &NodeRecord) -> BTreeMap<Setting, Origin> {
    let profile = node.profile.as_deref().and_then(|name| now.profile(name));
    let supplied = profile.map(|p| p.settings.said()).unwrap_or_default();
    let there = node.in_force().said();
    let origin = |one: Setting| match (node.inherits.has(one), supplied.has(one)) {
        (false, _) => Origin::Own,
        (true, true) => Origin::Profile,
        (true, false) => Origin::Default,
    };
    let settings = Setting::ALL.into_iter().filter(|one| there.has(*one));
    settings.map(|one| (one, origin(one))).collect()
}

fn changed(now: &Snapshot, old: &NodeRecord, ask: &NodeChange) -> Result<NodeRecord> {
    let mut node = old.clone();
    if let Some(profile) = &ask.profile {
        node.profile.clone_from(profile);
    }
    let profile = profile_of(now, node.profile.as_deref())?;
    let mut own = old.own();
    own.clear(ask.inherit);
    own.image = ask.image.clone().unwrap_or(own.image);
    own.mode = ask.mode.or(own.mode);
    own.boot = ask.boot.or(own.boot);
    own.loader = ask.loader.or(own.loader);
    own.disk = ask.disk.or(own.disk);
    own.layer_limit = ask.layer_limit.unwrap_or(own.layer_limit);
    own.layer_warn = ask.layer_warn.unwrap_or(own.layer_warn);
    own.power = ask.power.clone().unwrap_or(own.power);
    node.set_own(own, profile.as_ref().map(|p| &p.settings));
    if let Some(macs) = &ask.macs {
        node.macs.clone_from(macs);
    }
    if let Some(ip) = ask.ip {
        node.ip = ip;
    }
    if ask.new_secret {
        (node.secret, node.head_secret) = super::mint::secrets()?;
    }
    Ok(node)
}

/// What changes of many nodes mean for their persistent layers, folded; `changed` are as they will be.
pub(super) fn folded_notices<'a>(
    now: &Snapshot,
    changed: impl Iterator<Item = &'a NodeRecord>,
) -> Vec<String> {
    let (mut thrown, mut stay) = (NodeSet::default(), NodeSet::default());
    for node in changed {
        if notice(now, now.binding(node.layer), node).is_none() {
            continue;
        }
        let set = match node.mode {
            LayerMode::Ephemeral => &mut thrown,
            LayerMode::Persistent => &mut stay,
        };
        set.insert(node.name.clone());
    }
    let mut notices = Vec::new();
    if !thrown.is_empty() {
        notices.push(format!(
            "the kept layers of {thrown} are thrown away at their next boot"
        ));
    }
    if !stay.is_empty() {
        notices.push(format!(
            "{stay} stay on their image versions while their layers hold data; \
             `reveille layer reset {stay}` moves them"
        ));
    }
    notices
}

/// What a change means for a persistent layer, which is the part that can hurt.
fn notice(now: &Snapshot, bound: Option<&Arc<Binding>>, node: &NodeRecord) -> Option<String> {
    let name = &node.name;
    let bound = bound.filter(|b| b.mode == LayerMode::Persistent && b.boot != NO_BOOT)?;
    if node.mode == LayerMode::Ephemeral {
        return Some(format!(
            "the kept layer of `{name}` is thrown away at its next boot"
        ));
    }
    let wanted = now.resolve(node.image.as_ref()?)?;
    (wanted.id != bound.image).then(|| {
        let label = &bound.label;
        format!("`{name}` stays on {label} while its layer holds data; `reveille layer reset {name}` moves it")
    })
}
