//! From a document and the catalog as it is to the changes between them, and the lines that tell of them. Whatever
//! a document says of an object is all of it: a setting that it leaves out, the object has not. Pure but for the
//! chance in new secrets.

mod images;
mod orders;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::super::error::{HeadError, Result};
use super::super::node_edit::folded_notices;
use super::super::text::{Document, IdentityText, NodeText};
use super::super::{mint, secrets};
use super::{PlanField, PlanLine, PlanVerb};
use crate::catalog::{Changes, NodeRecord, ProfileRecord, Setting, SettingSet, Settings, Snapshot};
use crate::names::{LayerId, Mac, NodeName, NodeSet};
use crate::units::UnixMillis;

/// How a document is to be taken.
pub(super) struct How<'a> {
    pub(super) prune: bool,
    pub(super) missing_images: bool,
    pub(super) now: UnixMillis,
    /// What an error calls a line.
    pub(super) place: &'a dyn Fn(usize) -> String,
    /// Whether an address is this head's.
    pub(super) own: &'a dyn Fn(SocketAddr) -> bool,
}

/// What was changed, and what follows from it.
#[derive(Default)]
pub(super) struct Planned {
    pub(super) lines: Vec<PlanLine>,
    pub(super) notices: Vec<String>,
    pub(super) removed: Vec<Arc<NodeRecord>>,
    /// They belong to nodes now.
    pub(super) macs: BTreeSet<Mac>,
    /// The same for nodes, to be folded.
    nodes: Nodes,
}

/// Nodes by what happens to them, in the order of the first of each.
#[derive(Default)]
struct Nodes {
    at: HashMap<(PlanVerb, Vec<PlanField>), usize>,
    all: Vec<(PlanVerb, Vec<PlanField>, NodeSet)>,
}

impl Nodes {
    fn push(&mut self, verb: PlanVerb, name: &NodeName, fields: Vec<PlanField>) {
        let at = self.at.entry((verb, fields.clone()));
        let at = *at.or_insert(self.all.len());
        if at == self.all.len() {
            self.all.push((verb, fields, NodeSet::default()));
        }
        if let Some(group) = self.all.get_mut(at) {
            group.2.insert(name.clone());
        }
    }

    fn into_lines(self) -> impl Iterator<Item = PlanLine> {
        let line = |(verb, fields, set): (_, _, NodeSet)| PlanLine {
            verb,
            kind: "node".to_owned(),
            name: set.to_string(),
            fields,
        };
        self.all.into_iter().map(line)
    }
}

/// Says all changes to `changes`; nothing is done if it fails.
pub(super) fn make(changes: &mut Changes, document: &Document, how: &How<'_>) -> Result<Planned> {
    let before = changes.view().clone();
    let mut planned = Planned::default();
    if how.prune
        && let Some(nodes) = &document.nodes
    {
        prune_nodes(changes, nodes, &mut planned)?;
    }
    for image in document.images.iter().flatten() {
        images::put_image(changes, image, how, &mut planned)?;
    }
    for profile in document.profiles.iter().flatten() {
        let at = |e: HeadError| e.within((how.place)(profile.line));
        put_profile(changes, &profile.name, &profile.settings, how, &mut planned).map_err(at)?;
    }
    let identities = document.identities.iter().flatten();
    let identities: HashMap<&NodeName, &IdentityText> = identities.map(|i| (&i.node, i)).collect();
    let nodes = document.nodes.as_deref().unwrap_or_default();
    vacate(changes, nodes)?;
    for node in nodes {
        let at = |e: HeadError| e.within((how.place)(node.line));
        put_node(changes, &before, node, &identities, how, &mut planned).map_err(at)?;
    }
    for identity in document.identities.iter().flatten() {
        let at = |e: HeadError| e.within((how.place)(identity.line));
        put_identity(changes, identity, &mut planned).map_err(at)?;
    }
    if how.prune {
        prune_profiles(changes, document, &mut planned)?;
        images::prune_versions(changes, document, &mut planned)?;
    }
    if let Some(orders) = &document.drain {
        orders::put_drains(changes, orders, how, &mut planned)?;
    }
    images::check_images(&before, changes.view(), document, how, &mut planned)?;
    let changed = changes.view().nodes().filter(|new| {
        let old = before.node(new.name.as_str());
        old.is_some_and(|old| !Arc::ptr_eq(old, new) && old.in_force() != new.in_force())
    });
    let notices = folded_notices(changes.view(), changed.map(|node| &**node));
    planned.notices.extend(notices);
    planned
        .lines
        .extend(std::mem::take(&mut planned.nodes).into_lines());
    Ok(planned)
}

fn field(name: impl Into<String>, from: Option<String>, to: Option<String>) -> Option<PlanField> {
    (from != to).then(|| PlanField {
        field: name.into(),
        from,
        to,
    })
}

fn differences(from: &Settings, to: &Settings) -> Vec<PlanField> {
    let one = |one: Setting| field(one.as_str(), from.text(one), to.text(one));
    Setting::ALL.into_iter().filter_map(one).collect()
}

fn line(verb: PlanVerb, kind: &str, name: impl Into<String>, fields: Vec<PlanField>) -> PlanLine {
    PlanLine {
        verb,
        kind: kind.to_owned(),
        name: name.into(),
        fields,
    }
}

// --- nodes ---

fn prune_nodes(changes: &mut Changes, nodes: &[NodeText], planned: &mut Planned) -> Result<()> {
    let named: BTreeSet<&NodeName> = nodes.iter().map(|node| &node.name).collect();
    let all = changes.view().nodes().map(|node| node.name.clone());
    let gone: Vec<NodeName> = all.filter(|name| !named.contains(name)).collect();
    for name in gone {
        planned.removed.push(changes.remove_node(&name)?);
        planned.nodes.push(PlanVerb::Remove, &name, Vec::new());
    }
    Ok(())
}

/// Nodes that give a MAC or an address up do so first: two of them may exchange theirs.
fn vacate(changes: &mut Changes, nodes: &[NodeText]) -> Result<()> {
    for node in nodes {
        let Some(old) = changes.view().node(node.name.as_str()).cloned() else {
            continue;
        };
        let gives_mac = old.macs.iter().any(|mac| !node.macs.contains(mac));
        let gives_ip = old.ip.is_some() && old.ip != node.ip;
        if gives_mac || gives_ip {
            changes.put_node(NodeRecord {
                macs: Vec::new(),
                ip: None,
                ..NodeRecord::clone(&old)
            })?;
        }
    }
    Ok(())
}

fn put_node(
    changes: &mut Changes,
    before: &Snapshot,
    node: &NodeText,
    identities: &HashMap<&NodeName, &IdentityText>,
    how: &How<'_>,
    planned: &mut Planned,
) -> Result<()> {
    let old = before.node(node.name.as_str());
    let mut new = match old {
        Some(old) => NodeRecord::clone(old),
        None => new_node(changes, node, identities.get(&node.name).copied(), how)?,
    };
    let profile = super::super::nodes::profile_of(changes.view(), node.profile.as_deref())?;
    new.profile.clone_from(&node.profile);
    new.set_own(node.own.clone(), profile.as_ref().map(|p| &p.settings));
    new.macs.clone_from(&node.macs);
    new.ip = node.ip;
    let mut fields: Vec<_> = {
        let was = old.and_then(|old| old.profile.clone());
        field("profile", was, node.profile.clone())
            .into_iter()
            .collect()
    };
    let was = old.map(|old| old.own()).unwrap_or_default();
    fields.extend(differences(&was, &node.own));
    match old {
        None => planned.nodes.push(PlanVerb::Add, &node.name, fields),
        Some(old) => {
            let macs = |macs: &[Mac]| {
                let texts: Vec<String> = macs.iter().map(ToString::to_string).collect();
                (!texts.is_empty()).then(|| texts.join(" "))
            };
            fields.extend(field("macs", macs(&old.macs), macs(&new.macs)));
            let ip = |ip: Option<std::net::Ipv4Addr>| ip.map(|ip| ip.to_string());
            fields.extend(field("ip", ip(old.ip), ip(new.ip)));
            if fields.is_empty() {
                return Ok(());
            }
            planned.nodes.push(PlanVerb::Change, &node.name, fields);
        }
    }
    for mac in &new.macs {
        changes.remove_pending(*mac);
        planned.macs.insert(*mac);
    }
    Ok(changes.put_node(new)?)
}

fn new_node(
    changes: &mut Changes,
    node: &NodeText,
    identity: Option<&IdentityText>,
    how: &How<'_>,
) -> Result<NodeRecord> {
    let (disk_uuid, secret, head_secret) = match identity {
        Some(known) => {
            check_identity(known)?;
            (
                known.disk.clone(),
                known.secret.clone(),
                known.head_secret.clone(),
            )
        }
        None => {
            let (secret, head_secret) = mint::secrets()?;
            (mint::uuid()?, secret, head_secret)
        }
    };
    let layer: LayerId = changes.take_layer()?;
    Ok(NodeRecord {
        name: node.name.clone(),
        layer,
        macs: Vec::new(),
        ip: None,
        image: None,
        mode: crate::catalog::LayerMode::default(),
        boot: crate::catalog::BootMode::default(),
        loader: crate::catalog::LoaderPolicy::default(),
        disk: crate::catalog::DiskTraits::default(),
        layer_limit: None,
        layer_warn: None,
        power: None,
        profile: None,
        inherits: SettingSet::default(),
        secret,
        head_secret,
        disk_uuid,
        added: how.now,
    })
}

fn check_identity(identity: &IdentityText) -> Result<()> {
    let node = &identity.node;
    secrets::check(node, "secret", &identity.secret)?;
    secrets::check(node, "head_secret", &identity.head_secret)?;
    let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let lengths: Vec<usize> = identity.disk.split('-').map(str::len).collect();
    if lengths != [8, 4, 4, 4, 12] || !identity.disk.split('-').all(hex) {
        return Err(HeadError::invalid(format!(
            "identity of node `{node}`: `{}` is no UUID in lower case",
            identity.disk
        )));
    }
    Ok(())
}

fn put_identity(
    changes: &mut Changes,
    identity: &IdentityText,
    planned: &mut Planned,
) -> Result<()> {
    let name = &identity.node;
    let Some(old) = changes.view().node(name.as_str()).cloned() else {
        return Err(HeadError::not_found(format!(
            "identity of node `{name}`: there is no such node; name it under `nodes` too"
        )));
    };
    let mut fields = Vec::new();
    let from = Some(old.disk_uuid.clone());
    fields.extend(field("disk identity", from, Some(identity.disk.clone())));
    if old.secret != identity.secret || old.head_secret != identity.head_secret {
        fields.push(PlanField {
            field: "secrets".to_owned(),
            from: None,
            to: None,
        });
    }
    if fields.is_empty() {
        return Ok(());
    }
    check_identity(identity)?;
    planned.nodes.push(PlanVerb::Change, name, fields);
    Ok(changes.put_node(NodeRecord {
        disk_uuid: identity.disk.clone(),
        secret: identity.secret.clone(),
        head_secret: identity.head_secret.clone(),
        ..NodeRecord::clone(&old)
    })?)
}

// --- profiles ---

fn put_profile(
    changes: &mut Changes,
    name: &str,
    settings: &Settings,
    how: &How<'_>,
    planned: &mut Planned,
) -> Result<()> {
    let old = changes.view().profile(name).cloned();
    let was = old.as_ref().map(|p| p.settings.clone()).unwrap_or_default();
    let fields = differences(&was, settings);
    let (verb, added) = match &old {
        Some(_) if fields.is_empty() => return Ok(()),
        Some(old) => (PlanVerb::Change, old.added),
        None => (PlanVerb::Add, how.now),
    };
    planned.lines.push(line(verb, "profile", name, fields));
    Ok(changes.put_profile(ProfileRecord {
        name: name.to_owned(),
        settings: settings.clone(),
        added,
    })?)
}

fn prune_profiles(changes: &mut Changes, document: &Document, planned: &mut Planned) -> Result<()> {
    let Some(profiles) = &document.profiles else {
        return Ok(());
    };
    let all = changes.view().profiles().map(|p| p.name.clone());
    let gone: Vec<String> = all
        .filter(|name| !profiles.iter().any(|p| p.name == *name))
        .collect();
    for name in gone {
        changes.remove_profile(&name)?;
        planned
            .lines
            .push(line(PlanVerb::Remove, "profile", name, Vec::new()));
    }
    Ok(())
}
