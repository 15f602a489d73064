//! What a reader sees: persistent maps that share all but the changed branches with their predecessor, so
//! that the ten-thousandth node costs what the first did. Pure.

use std::net::Ipv4Addr;
use std::sync::Arc;

use imbl::OrdMap;

use super::error::{Error, ErrorKind, Result};
use super::{
    Binding, ImageRecord, ImageRef, NodeRecord, PendingRecord, ProfileRecord, VersionRecord,
};
use crate::limits;
use crate::names::{LayerId, Mac, NodeName, NodeSet};

/// A reader's view: never changes, costs nothing to hold. All look-ups are O(log n).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: OrdMap<NodeName, Arc<NodeRecord>>,
    by_mac: OrdMap<Mac, Arc<NodeRecord>>,
    by_ip: OrdMap<Ipv4Addr, Arc<NodeRecord>>,
    by_layer: OrdMap<LayerId, Arc<NodeRecord>>,
    profiles: OrdMap<String, Arc<ProfileRecord>>,
    images: OrdMap<String, Arc<ImageRecord>>,
    bindings: OrdMap<LayerId, Arc<Binding>>,
    pending: OrdMap<Mac, Arc<PendingRecord>>,
    campaigns: OrdMap<u64, Arc<str>>,
    counters: OrdMap<String, u64>,
    facts: OrdMap<String, Arc<str>>,
}

impl Snapshot {
    /// A node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Arc<NodeRecord>> {
        self.nodes.get(&NodeName::parse(name).ok()?)
    }

    /// A node by one of its addresses.
    #[must_use]
    pub fn node_by_mac(&self, mac: Mac) -> Option<&Arc<NodeRecord>> {
        self.by_mac.get(&mac)
    }

    /// A node by its fixed address.
    #[must_use]
    pub fn node_by_ip(&self, ip: Ipv4Addr) -> Option<&Arc<NodeRecord>> {
        self.by_ip.get(&ip)
    }

    /// The node whose layer this is.
    #[must_use]
    pub fn node_by_layer(&self, layer: LayerId) -> Option<&Arc<NodeRecord>> {
        self.by_layer.get(&layer)
    }

    /// All nodes in natural order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeRecord>> {
        self.nodes.values()
    }

    /// How many nodes.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// A profile by name.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<&Arc<ProfileRecord>> {
        self.profiles.get(name)
    }

    /// All profiles by name.
    pub fn profiles(&self) -> impl Iterator<Item = &Arc<ProfileRecord>> {
        self.profiles.values()
    }

    /// The nodes that have this profile.
    #[must_use]
    pub fn nodes_of_profile(&self, name: &str) -> NodeSet {
        let those = self
            .nodes()
            .filter(|node| node.profile.as_deref() == Some(name));
        those.map(|node| node.name.clone()).collect()
    }

    /// The profile that a node names; an error if there is none of that name.
    pub(super) fn profile_of(&self, node: &NodeRecord) -> Result<Option<Arc<ProfileRecord>>> {
        let Some(name) = &node.profile else {
            return Ok(None);
        };
        let found = self.profile(name).cloned();
        found.map(Some).ok_or_else(|| {
            let context = format!(
                "node `{}`: there is no profile `{name}`; `reveille profile ls` shows those there are",
                node.name
            );
            Error::new(ErrorKind::NotFound, context)
        })
    }

    /// An image by name.
    #[must_use]
    pub fn image(&self, name: &str) -> Option<&Arc<ImageRecord>> {
        self.images.get(name)
    }

    /// All images by name.
    pub fn images(&self) -> impl Iterator<Item = &Arc<ImageRecord>> {
        self.images.values()
    }

    /// The version that a reference means now.
    #[must_use]
    pub fn resolve(&self, image: &ImageRef) -> Option<&VersionRecord> {
        self.image(&image.name)?.select(image.version.as_ref())
    }

    /// What a layer is bound to.
    #[must_use]
    pub fn binding(&self, layer: LayerId) -> Option<&Arc<Binding>> {
        self.bindings.get(&layer)
    }

    /// All bindings by layer.
    pub fn bindings(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.bindings.values()
    }

    /// A machine that waits for approval.
    #[must_use]
    pub fn pending(&self, mac: Mac) -> Option<&Arc<PendingRecord>> {
        self.pending.get(&mac)
    }

    /// All machines that wait for approval, as far as they are written down.
    pub fn all_pending(&self) -> impl Iterator<Item = &Arc<PendingRecord>> {
        self.pending.values()
    }

    /// All campaigns by number: their records as JSON text.
    pub fn campaigns(&self) -> impl Iterator<Item = (u64, &Arc<str>)> {
        self.campaigns.iter().map(|(id, text)| (*id, text))
    }

    /// A campaign's record as JSON text.
    #[must_use]
    pub fn campaign(&self, id: u64) -> Option<&Arc<str>> {
        self.campaigns.get(&id)
    }

    /// A counter; 0 if it never counted.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// All counters by name.
    pub(super) fn counters(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counters
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
    }

    /// All facts by name.
    pub(super) fn facts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.facts
            .iter()
            .map(|(name, text)| (name.as_str(), &**text))
    }

    /// A single fact.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(|text| &**text)
    }
}

/// Changes. Each checks what must be unique first and changes nothing when it refuses.
impl Snapshot {
    pub(super) fn insert_node(&mut self, node: Arc<NodeRecord>) -> Result<()> {
        node.check()?;
        self.check_unique(&node)?;
        if let Some(old) = self.nodes.get(&node.name).cloned() {
            self.unlink(&old);
        } else if self.nodes.len() >= limits::NODES_MAX {
            let most = limits::NODES_MAX;
            let context = format!("node `{}`: this head has {most} nodes already", node.name);
            return Err(Error::new(ErrorKind::Full, context));
        }
        for mac in &node.macs {
            self.by_mac.insert(*mac, Arc::clone(&node));
        }
        if let Some(ip) = node.ip {
            self.by_ip.insert(ip, Arc::clone(&node));
        }
        self.by_layer.insert(node.layer, Arc::clone(&node));
        self.nodes.insert(node.name.clone(), node);
        Ok(())
    }

    /// Its nodes get what is not their own from it anew.
    pub(super) fn insert_profile(&mut self, profile: Arc<ProfileRecord>) -> Result<()> {
        profile.check()?;
        let name = &profile.name;
        let known = self.profiles.contains_key(name);
        if !known && self.profiles.len() >= limits::PROFILES_MAX {
            let most = limits::PROFILES_MAX;
            let context = format!("profile `{name}`: this head has {most} profiles already");
            return Err(Error::new(ErrorKind::Full, context));
        }
        let users = if known {
            self.nodes_of_profile(name)
        } else {
            NodeSet::default()
        };
        for user in users.iter() {
            let Some(node) = self.nodes.get(user) else {
                continue;
            };
            let mut node = NodeRecord::clone(node);
            node.fill(Some(&profile.settings));
            self.insert_node(Arc::new(node))?;
        }
        self.profiles.insert(name.clone(), profile);
        Ok(())
    }

    pub(super) fn remove_profile(&mut self, name: &str) -> Option<Arc<ProfileRecord>> {
        self.profiles.remove(name)
    }

    fn check_unique(&self, node: &NodeRecord) -> Result<()> {
        let name = &node.name;
        let other = |found: Option<&Arc<NodeRecord>>| {
            found
                .filter(|other| other.name != *name)
                .map(|o| o.name.clone())
        };
        let taken = |what: String, owner: &NodeName| {
            let context = format!("node `{name}`: {what} belongs to node `{owner}` already");
            Err(Error::new(ErrorKind::Conflict, context))
        };
        for mac in &node.macs {
            if let Some(owner) = other(self.by_mac.get(mac)) {
                return taken(format!("MAC {mac}"), &owner);
            }
        }
        if let Some(ip) = node.ip
            && let Some(owner) = other(self.by_ip.get(&ip))
        {
            return taken(format!("address {ip}"), &owner);
        }
        match other(self.by_layer.get(&node.layer)) {
            Some(owner) => taken(format!("layer {}", node.layer), &owner),
            None => Ok(()),
        }
    }

    fn unlink(&mut self, node: &NodeRecord) {
        for mac in &node.macs {
            self.by_mac.remove(mac);
        }
        if let Some(ip) = node.ip {
            self.by_ip.remove(&ip);
        }
        self.by_layer.remove(&node.layer);
    }

    pub(super) fn remove_node(&mut self, name: &NodeName) -> Option<Arc<NodeRecord>> {
        let node = self.nodes.remove(name)?;
        self.unlink(&node);
        Some(node)
    }

    pub(super) fn insert_image(&mut self, image: Arc<ImageRecord>) -> Result<()> {
        image.check()?;
        if self.images.len() >= limits::IMAGES_MAX && !self.images.contains_key(&image.name) {
            let most = limits::IMAGES_MAX;
            let context = format!(
                "image `{}`: this head has {most} images already",
                image.name
            );
            return Err(Error::new(ErrorKind::Full, context));
        }
        self.images.insert(image.name.clone(), image);
        Ok(())
    }

    pub(super) fn remove_image(&mut self, name: &str) -> Option<Arc<ImageRecord>> {
        self.images.remove(name)
    }

    pub(super) fn insert_binding(&mut self, binding: Arc<Binding>) {
        self.bindings.insert(binding.layer, binding);
    }

    pub(super) fn remove_binding(&mut self, layer: LayerId) -> Option<Arc<Binding>> {
        self.bindings.remove(&layer)
    }

    pub(super) fn insert_pending(&mut self, machine: Arc<PendingRecord>) -> Result<()> {
        if self.pending.len() >= limits::PENDING_MAX && !self.pending.contains_key(&machine.mac) {
            let most = limits::PENDING_MAX;
            let context = format!("machine {}: {most} machines wait already", machine.mac);
            return Err(Error::new(ErrorKind::Full, context));
        }
        self.pending.insert(machine.mac, machine);
        Ok(())
    }

    pub(super) fn remove_pending(&mut self, mac: Mac) -> Option<Arc<PendingRecord>> {
        self.pending.remove(&mac)
    }

    pub(super) fn insert_campaign(&mut self, id: u64, text: Arc<str>) {
        self.campaigns.insert(id, text);
    }

    pub(super) fn remove_campaign(&mut self, id: u64) -> bool {
        self.campaigns.remove(&id).is_some()
    }

    /// The oldest campaign, when there are more than may be kept.
    pub(super) fn surplus_campaign(&self) -> Option<u64> {
        let (oldest, _) = self.campaigns.get_min()?;
        (self.campaigns.len() > limits::CAMPAIGNS_KEPT).then_some(*oldest)
    }

    pub(super) fn set_counter(&mut self, name: &str, value: u64) {
        self.counters.insert(name.to_owned(), value);
    }

    pub(super) fn set_fact(&mut self, name: &str, value: &str) {
        self.facts.insert(name.to_owned(), value.into());
    }
}
