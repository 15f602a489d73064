//! One change of the catalog under way: the snapshot that it would lead to, and the rows to write for it. Pure.

use std::sync::Arc;

use super::error::{Error, ErrorKind, Result};
use super::schema::{self, Row};
use super::snapshot::Snapshot;
use super::{Binding, ImageRecord, NodeRecord, PendingRecord, ProfileRecord};
use crate::limits;
use crate::names::{LayerId, Mac, NodeName};

/// The counter of layers: the number given last.
const LAYERS: &str = "layers";

/// What a transaction does. Everything is checked as it is said; nothing is seen by anyone else before the
/// commit.
#[derive(Debug)]
pub struct Changes {
    next: Snapshot,
    rows: Vec<Row>,
}

impl Changes {
    pub(super) fn new(from: &Snapshot) -> Self {
        Self {
            next: from.clone(),
            rows: Vec::new(),
        }
    }

    pub(super) fn into_parts(self) -> (Snapshot, Vec<Row>) {
        (self.next, self.rows)
    }

    /// The catalog as it will be: with what was said so far.
    #[must_use]
    pub const fn view(&self) -> &Snapshot {
        &self.next
    }

    /// Adds a node; [`ErrorKind::Conflict`] if the name, a MAC, the address or the layer is taken.
    pub fn add_node(&mut self, node: NodeRecord) -> Result<()> {
        if self.next.node(node.name.as_str()).is_some() {
            let context = format!("node `{}` exists already; choose another name", node.name);
            return Err(Error::new(ErrorKind::Conflict, context));
        }
        self.put_node(node)
    }

    /// Adds a node or replaces the one of that name. A setting that is not what its profile supplies becomes
    /// its own.
    pub fn put_node(&mut self, mut node: NodeRecord) -> Result<()> {
        let profile = self.next.profile_of(&node)?;
        node.settle(profile.as_ref().map(|p| &p.settings));
        let row = Row::put(schema::NODES, &node.name, &node)?;
        self.next.insert_node(Arc::new(node))?;
        self.rows.push(row);
        Ok(())
    }

    /// Removes a node; what its layer is bound to goes with it.
    pub fn remove_node(&mut self, name: &NodeName) -> Result<Arc<NodeRecord>> {
        let node = self.next.remove_node(name);
        let node = node.ok_or_else(|| missing(&format!("node `{name}`")))?;
        self.rows.push(Row::remove(schema::NODES, name));
        self.remove_binding(node.layer);
        Ok(node)
    }

    /// Adds a profile or replaces the one of that name; its nodes have the new settings at once.
    pub fn put_profile(&mut self, profile: ProfileRecord) -> Result<()> {
        let row = Row::put(schema::PROFILES, &profile.name, &profile)?;
        self.next.insert_profile(Arc::new(profile))?;
        self.rows.push(row);
        Ok(())
    }

    /// Removes a profile that no node has; [`ErrorKind::Conflict`] names those that have it.
    pub fn remove_profile(&mut self, name: &str) -> Result<Arc<ProfileRecord>> {
        let users = self.next.nodes_of_profile(name);
        if !users.is_empty() {
            let context = format!(
                "profile `{name}` is in use by {users}; give them another with \
                 `reveille node set {users} --profile NAME`, or none with `--profile \"\"`"
            );
            return Err(Error::new(ErrorKind::Conflict, context));
        }
        let profile = self.next.remove_profile(name);
        let profile = profile.ok_or_else(|| missing(&format!("profile `{name}`")))?;
        self.rows.push(Row::remove(schema::PROFILES, &name));
        Ok(profile)
    }

    /// Adds an image or replaces the one of that name.
    pub fn put_image(&mut self, image: ImageRecord) -> Result<()> {
        let row = Row::put(schema::IMAGES, &image.name, &image)?;
        self.next.insert_image(Arc::new(image))?;
        self.rows.push(row);
        Ok(())
    }

    /// Removes an image with all its versions. Who uses it is the caller's question.
    pub fn remove_image(&mut self, name: &str) -> Result<Arc<ImageRecord>> {
        let image = self.next.remove_image(name);
        let image = image.ok_or_else(|| missing(&format!("image `{name}`")))?;
        self.rows.push(Row::remove(schema::IMAGES, &name));
        Ok(image)
    }

    /// Binds a layer, or binds it anew. The layer must be a node's.
    pub fn put_binding(&mut self, binding: Binding) -> Result<Arc<Binding>> {
        if self.next.node_by_layer(binding.layer).is_none() {
            return Err(missing(&format!("node of layer {}", binding.layer)));
        }
        if let Some(reservations) = &binding.reservations {
            reservations.check()?;
        }
        let row = Row::put(schema::BINDINGS, &binding.layer, &binding)?;
        let binding = Arc::new(binding);
        self.next.insert_binding(Arc::clone(&binding));
        self.rows.push(row);
        Ok(binding)
    }

    /// Unbinds a layer; `None` if it was not bound.
    pub fn remove_binding(&mut self, layer: LayerId) -> Option<Arc<Binding>> {
        let binding = self.next.remove_binding(layer)?;
        self.rows.push(Row::remove(schema::BINDINGS, &layer));
        Some(binding)
    }

    /// Writes a waiting machine down, or writes it anew.
    pub fn put_pending(&mut self, machine: PendingRecord) -> Result<()> {
        let row = Row::put(schema::PENDING, &machine.mac, &machine)?;
        self.next.insert_pending(Arc::new(machine))?;
        self.rows.push(row);
        Ok(())
    }

    /// Forgets a waiting machine; `None` if there was none.
    pub fn remove_pending(&mut self, mac: Mac) -> Option<Arc<PendingRecord>> {
        let machine = self.next.remove_pending(mac)?;
        self.rows.push(Row::remove(schema::PENDING, &mac));
        Some(machine)
    }

    /// Writes a campaign's record, JSON text, down. The oldest beyond [`limits::CAMPAIGNS_KEPT`] goes.
    pub fn put_campaign(&mut self, id: u64, json: &str) -> Result<()> {
        if json.len() > limits::CAMPAIGN_BYTES_MAX {
            let context = format!("campaign {id}: its record has {} bytes", json.len());
            return Err(Error::new(ErrorKind::Full, context));
        }
        serde_json::from_str::<serde::de::IgnoredAny>(json).map_err(|e| {
            let context = format!("campaign {id}: its record is not JSON");
            Error::caused(ErrorKind::Invalid, context, e)
        })?;
        self.next.insert_campaign(id, json.into());
        self.rows.push(Row::put_text(schema::CAMPAIGNS, &id, json));
        while let Some(oldest) = self.next.surplus_campaign() {
            self.remove_campaign(oldest);
        }
        Ok(())
    }

    /// Forgets a campaign; `false` if there was none.
    pub fn remove_campaign(&mut self, id: u64) -> bool {
        let was_there = self.next.remove_campaign(id);
        if was_there {
            self.rows.push(Row::remove(schema::CAMPAIGNS, &id));
        }
        was_there
    }

    /// A layer number that was never given before.
    pub fn take_layer(&mut self) -> Result<LayerId> {
        let last = self.next.counter(LAYERS);
        let next = last.checked_add(1).and_then(|n| u32::try_from(n).ok());
        let next = next.ok_or_else(|| Error::new(ErrorKind::Full, "all layer numbers are used"))?;
        self.set_counter(LAYERS, u64::from(next))?;
        Ok(LayerId(next))
    }

    /// Sets a counter; it cannot go back, so that what it numbered stays unique.
    pub fn set_counter(&mut self, name: &str, value: u64) -> Result<()> {
        let now = self.next.counter(name);
        if value < now {
            let context = format!("counter `{name}` is at {now} and cannot go back to {value}");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let row = Row::put(schema::COUNTERS, &name, &value)?;
        self.next.set_counter(name, value);
        self.rows.push(row);
        Ok(())
    }

    /// Writes a single fact down, such as the start of the host that last ran this head.
    pub fn set_fact(&mut self, name: &str, value: &str) -> Result<()> {
        let row = Row::put(schema::FACTS, &name, &value)?;
        self.next.set_fact(name, value);
        self.rows.push(row);
        Ok(())
    }
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no {what}"))
}
