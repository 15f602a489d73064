//! New nodes: added by hand, or approved from the machines that wait.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{HeadError, Result};
use super::macs::{self, MacSource};
use super::{Head, NodesDone, mint, select};
use crate::catalog::{
    BootMode, Changes, DiskTraits, ImageRef, LayerMode, LoaderPolicy, NodeRecord, ProfileRecord,
    SettingSet, Settings, Snapshot,
};
use crate::limits;
use crate::names::{Mac, NodeName, NodeSet};
use crate::units::UnixMillis;

/// Adds nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeAdd {
    /// Their names: a node set expression.
    pub nodes: String,
    /// The profile that supplies what is left out here.
    pub profile: Option<String>,
    /// What they boot; may be left out and set later.
    pub image: Option<ImageRef>,
    /// What becomes of their layers.
    pub mode: Option<LayerMode>,
    /// What they are told.
    pub boot: Option<BootMode>,
    /// How their firmware is loaded.
    pub loader: Option<LoaderPolicy>,
    /// What their disks are beyond plain ones.
    pub disk: Option<DiskTraits>,
    /// Bytes that their layers may hold; 0 is no limit.
    pub layer_limit: Option<u64>,
    /// Bytes of their layers beyond which the owner is told; 0 is never.
    pub layer_warn: Option<u64>,
    /// Command template of their power driver.
    pub power: Option<String>,
    /// MAC of the first; the next one has the MAC above, and so on in natural order.
    pub mac: Option<Mac>,
    /// Instead: lines of MACs in the order of the nodes, or of a name and its MACs.
    pub macs: Option<String>,
    /// Fixed address of the first; counted up likewise.
    pub ip: Option<Ipv4Addr>,
    /// Only tell.
    pub dry_run: bool,
}

/// Makes a node of a machine that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeApprove {
    /// The machine.
    pub mac: Mac,
    /// The node's name.
    pub name: NodeName,
    /// The profile that supplies what is left out here.
    #[serde(default)]
    pub profile: Option<String>,
    /// What it boots.
    #[serde(default)]
    pub image: Option<ImageRef>,
    /// What becomes of its layer.
    #[serde(default)]
    pub mode: Option<LayerMode>,
    /// What it is told.
    #[serde(default)]
    pub boot: Option<BootMode>,
    /// How its firmware is loaded.
    #[serde(default)]
    pub loader: Option<LoaderPolicy>,
    /// What its disk is beyond a plain one.
    #[serde(default)]
    pub disk: Option<DiskTraits>,
    /// Bytes that its layer may hold; 0 is no limit.
    #[serde(default)]
    pub layer_limit: Option<u64>,
    /// Bytes of its layer beyond which the owner is told; 0 is never.
    #[serde(default)]
    pub layer_warn: Option<u64>,
    /// Command template of its power driver.
    #[serde(default)]
    pub power: Option<String>,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

impl Head {
    /// Adds nodes, all or none, in one transaction. Each gets a secret, a disk identity and a layer number
    /// of its own; nothing is written to the store.
    ///
    /// # Errors
    /// Names, MACs or addresses that are taken (the message names them and their owners), an image that does
    /// not exist, MACs that do not fit the names.
    pub fn nodes_add(&self, ask: &NodeAdd) -> Result<NodesDone> {
        let now = self.snapshot();
        let set = select::parse(&now, &ask.nodes)?;
        if set.is_empty() {
            let message = format!("`{}` names no node; name at least one", ask.nodes);
            return Err(HeadError::invalid(message));
        }
        let room = limits::NODES_MAX.saturating_sub(now.node_count());
        if set.len() > room {
            let message = format!("{} nodes are too many: there is room for {room}", set.len());
            return Err(HeadError::invalid(message));
        }
        let records = new_records(ask, &set)?;
        let notices = self.change(ask.dry_run, |changes| {
            refuse_known(changes, &set)?;
            let profile = profile_of(changes.view(), ask.profile.as_deref())?;
            let settings = profile.as_ref().map(|p| &p.settings);
            check_image(changes, ask.image.as_ref())?;
            check_image(changes, settings.and_then(|s| s.image.as_ref()))?;
            for record in &records {
                let mut record = record.clone();
                record.fill(settings);
                record.layer = changes.take_layer()?;
                for mac in &record.macs {
                    changes.remove_pending(*mac);
                }
                changes.add_node(record)?;
            }
            Ok(notices(ask, settings))
        })?;
        if !ask.dry_run {
            self.apply_limits(&set);
            self.pending_taken(records.iter().flat_map(|r| r.macs.iter().copied()));
        }
        Ok(NodesDone {
            notices,
            nodes: set,
            dry_run: ask.dry_run,
        })
    }

    /// Makes a node of a machine that waits for approval.
    ///
    /// # Errors
    /// No such machine waits; as [`Self::nodes_add`].
    pub fn node_approve(&self, ask: &NodeApprove) -> Result<NodesDone> {
        let (mac, name) = (ask.mac, &ask.name);
        if self.pending_machine(mac).is_none() {
            if let Some(owner) = self.snapshot().node_by_mac(mac) {
                let message = format!("MAC {mac} belongs to node `{}` already", owner.name);
                return Err(HeadError::conflict(message));
            }
            return Err(HeadError::not_found(format!(
                "no machine with MAC {mac} waits; let it boot once, or add it with \
                 `reveille node add {name} --mac {mac}`"
            )));
        }
        self.nodes_add(&NodeAdd {
            nodes: name.to_string(),
            profile: ask.profile.clone(),
            image: ask.image.clone(),
            mode: ask.mode,
            boot: ask.boot,
            loader: ask.loader,
            disk: ask.disk,
            layer_limit: ask.layer_limit,
            layer_warn: ask.layer_warn,
            power: ask.power.clone(),
            mac: Some(mac),
            dry_run: ask.dry_run,
            ..NodeAdd::default()
        })
    }

    /// Does a change of the catalog, or only checks it.
    pub(super) fn change<T>(
        &self,
        dry_run: bool,
        change: impl FnOnce(&mut Changes) -> Result<T>,
    ) -> Result<T> {
        if dry_run {
            self.catalog.rehearse(change)
        } else {
            self.catalog.transact(change)
        }
    }
}

/// Everything but the layer's number, made before the transaction so that it is short.
fn new_records(ask: &NodeAdd, set: &NodeSet) -> Result<Vec<NodeRecord>> {
    let source = match (ask.mac, &ask.macs) {
        (Some(_), Some(_)) => {
            let message = "give one MAC to count up from, or a list of MACs, not both";
            return Err(HeadError::invalid(message));
        }
        (Some(mac), None) => MacSource::From(mac),
        (None, Some(list)) => MacSource::List(list),
        (None, None) => MacSource::None,
    };
    let added = UnixMillis::now();
    let own = Settings {
        image: ask.image.clone(),
        mode: ask.mode,
        boot: ask.boot,
        loader: ask.loader,
        disk: ask.disk,
        layer_limit: ask.layer_limit,
        layer_warn: ask.layer_warn,
        power: ask.power.clone(),
    };
    let mut records = Vec::with_capacity(set.len());
    for ((name, macs), steps) in macs::assign(set, source)?.into_iter().zip(0..) {
        let (secret, head_secret) = mint::secrets()?;
        let mut record = NodeRecord {
            layer: crate::names::LayerId(0),
            macs,
            ip: ask.ip.map(|base| ip_above(base, steps)).transpose()?,
            image: None,
            mode: LayerMode::default(),
            boot: BootMode::default(),
            loader: LoaderPolicy::default(),
            disk: DiskTraits::default(),
            layer_limit: None,
            layer_warn: None,
            power: None,
            profile: ask.profile.clone(),
            inherits: SettingSet::default(),
            secret,
            head_secret,
            disk_uuid: mint::uuid()?,
            added,
            name,
        };
        record.set_own(own.clone(), None);
        records.push(record);
    }
    Ok(records)
}

fn ip_above(base: Ipv4Addr, steps: u32) -> Result<Ipv4Addr> {
    let sum = u32::from(base).checked_add(steps);
    let wrong = || HeadError::invalid(format!("{steps} above address {base} there is none"));
    sum.map(Ipv4Addr::from).ok_or_else(wrong)
}

fn refuse_known(changes: &Changes, set: &NodeSet) -> Result<()> {
    let now = changes.view();
    let known = set.iter().filter(|n| now.node(n.as_str()).is_some());
    let known: NodeSet = known.cloned().collect();
    if known.is_empty() {
        return Ok(());
    }
    Err(HeadError::conflict(format!(
        "{known} exist already; change them with `reveille node set`, or leave them out with `!`"
    )))
}

pub(super) fn check_image(changes: &Changes, image: Option<&ImageRef>) -> Result<()> {
    let Some(image) = image else {
        return Ok(());
    };
    if changes.view().resolve(image).is_some() {
        return Ok(());
    }
    Err(HeadError::not_found(format!(
        "there is no image {image}; import it first, or choose one of `reveille image ls`"
    )))
}

/// The profile of this name, which must be there when one is named.
pub(super) fn profile_of(now: &Snapshot, name: Option<&str>) -> Result<Option<Arc<ProfileRecord>>> {
    let Some(name) = name else {
        return Ok(None);
    };
    let found = now.profile(name).cloned();
    found.map(Some).ok_or_else(|| no_profile(name))
}

pub(super) fn no_profile(name: &str) -> HeadError {
    HeadError::not_found(format!(
        "there is no profile `{name}`; choose one of `reveille profile ls`, or add it"
    ))
}

fn notices(ask: &NodeAdd, profile: Option<&Settings>) -> Vec<String> {
    let mut notices = Vec::new();
    let image = ask
        .image
        .as_ref()
        .or(profile.and_then(|p| p.image.as_ref()));
    let boot = ask.boot.or(profile.and_then(|p| p.boot));
    if image.is_none() && boot.unwrap_or_default() == BootMode::Image {
        notices.push("they have no image yet: set one before they boot".to_owned());
    }
    if ask.mac.is_none() && ask.macs.is_none() {
        notices.push("they have no MAC: boot services will not know them".to_owned());
    }
    notices
}
