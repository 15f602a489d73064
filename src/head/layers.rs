//! Layers: what they hold, and throwing it away by hand. Every call to the store's layers is here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use super::boot::{self, NO_BOOT};
use super::error::{HeadError, Result};
use super::forecast::Growth;
use super::space::space_trouble;
use super::{Head, NodesDone};
use crate::catalog::{LayerMode, NodeRecord, Snapshot};
use crate::limits;
use crate::names::{BootId, LayerId, NodeName, NodeSet};
use crate::store::VolumeSpec;
use crate::store::layer::RoomStats;
use crate::store::volume::Base;
use crate::store::{Durability, Volume};
use crate::units::{BLOCK_BYTES, UnixMillis};

/// How much a layer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerUse {
    /// Bytes that are the node's own.
    pub data_bytes: u64,
    /// Bytes that were given back and read zeros.
    pub zero_bytes: u64,
}

impl LayerUse {
    /// True when the disk differs from its image.
    #[must_use]
    pub const fn holds_data(self) -> bool {
        self.data_bytes > 0 || self.zero_bytes > 0
    }
}

/// A node's layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerView {
    /// The node.
    pub node: NodeName,
    /// The layer's number.
    pub layer: LayerId,
    /// What will become of it at the next boot.
    pub mode: LayerMode,
    /// The image version below it since the last boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The image version that the node's setting means now, when that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// Why the next boot will not take that one, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// The boot that bound it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// When it was bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMillis>,
    /// How much it holds.
    #[serde(flatten)]
    pub held: LayerUse,
    /// Bytes that the file system holds for it.
    #[serde(default)]
    pub allocated_bytes: u64,
    /// Bytes that are its own at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Bytes beyond which is warned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn: Option<u64>,
    /// How it grows, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// What is to be told of its space now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<String>,
    /// Why it is not served, if so; a reset makes it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Throws layers away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerReset {
    /// Whose: a node set expression.
    pub nodes: String,
    /// Even of nodes that have their disk open: it fails under them.
    pub force: bool,
    /// Only tell.
    pub dry_run: bool,
}

impl Head {
    /// The layers of the nodes in an expression, or of all.
    ///
    /// # Errors
    /// A node that does not exist; the store's.
    pub fn layers(&self, nodes: Option<&str>) -> Result<Vec<LayerView>> {
        let now = self.snapshot();
        let views = self.chosen(&now, nodes)?;
        // Asked once for all of them; a file system that does not tell costs the forecast only.
        let room = self.store.layers.room().unwrap_or(None);
        let view = |node: &Arc<NodeRecord>| self.layer_view(&now, node, room);
        Ok(views.iter().map(view).collect())
    }

    fn layer_view(&self, now: &Snapshot, node: &NodeRecord, room: Option<RoomStats>) -> LayerView {
        let stats = self.store.layers.stats(node.layer);
        let bound = now.binding(node.layer).filter(|b| b.boot != NO_BOOT);
        let bound = bound.filter(|b| !self.is_lost(b));
        let wanted = node.image.as_ref().and_then(|image| {
            let version = now.resolve(image)?;
            let other = bound.is_none_or(|b| b.image != version.id);
            other.then(|| format!("{}:{}", image.name, version.version))
        });
        LayerView {
            node: node.name.clone(),
            layer: node.layer,
            mode: node.mode,
            image: bound.map(|b| b.label.clone()),
            wanted,
            kept: self.outlook(now, node).kept,
            boot: bound.map(|b| b.boot),
            since: bound.map(|b| b.at),
            held: self.layer_use(node.layer),
            allocated_bytes: stats.allocated_bytes,
            limit: stats.limits.most,
            warn: stats.limits.warn,
            growth: self.growth_of(node.layer, &stats, room),
            space: space_trouble(&stats),
            trouble: self.layer_trouble(node.layer).map(str::to_owned),
        }
    }

    /// Throws layers away: the nodes' next boots begin from their images. Nodes for which `busy` says that
    /// their disk is open are refused unless forced.
    ///
    /// # Errors
    /// A node that does not exist or is busy: then nothing was done. The store's: some may be done.
    pub fn layers_reset(
        &self,
        ask: &LayerReset,
        busy: &dyn Fn(&NodeName) -> bool,
    ) -> Result<NodesDone> {
        let set = self.select(&ask.nodes)?;
        if !ask.force {
            refuse_busy(&set, busy, "their layers cannot be reset")?;
        }
        let mut notices = Vec::new();
        let nodes = self.chosen(&self.snapshot(), Some(&ask.nodes))?;
        if let (false, [node]) = (ask.dry_run, nodes.as_slice()) {
            let held = self.layer_use(node.layer);
            if held.holds_data() {
                let bytes = crate::units::HumanBytes(held.data_bytes);
                notices.push(format!("{bytes} of node `{}` are thrown away", node.name));
            }
        }
        if !ask.dry_run {
            for some in nodes.chunks(limits::RESETS_AT_ONCE) {
                self.reset_together(some)?;
            }
        }
        Ok(NodesDone {
            nodes: set,
            notices,
            dry_run: ask.dry_run,
        })
    }

    /// Resets some layers with one change of the catalog, and so many at the same time that their journal records
    /// share syncs.
    fn reset_together(&self, nodes: &[Arc<NodeRecord>]) -> Result<()> {
        let runs: Vec<_> = nodes.iter().map(|node| self.runs.of(&node.name)).collect();
        // In the order of the names, as every other reset: none waits for another in a circle.
        let _runs: Vec<_> = runs.iter().map(|run| boot::lock(run)).collect();
        // Void first: no login may take an emptied layer for the disk it had.
        self.make_void(nodes.iter().map(|node| node.layer))?;
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(node) = nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.layer_reset(node.layer)
                    .map_err(|e| e.within(format!("node `{}`", node.name)))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads = limits::RESET_THREADS.min(nodes.len());
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut done = work();
            for other in others {
                // A release build ends at a panic; in tests it is the panic that counts.
                let ended = other
                    .join()
                    .unwrap_or_else(|e| std::panic::resume_unwind(e));
                done = done.and(ended);
            }
            done
        })
    }

    pub(super) fn layer_use(&self, layer: LayerId) -> LayerUse {
        let stats = self.store.layers.stats(layer);
        LayerUse {
            data_bytes: stats.present_blocks.saturating_mul(BLOCK_BYTES),
            zero_bytes: stats.zero_blocks.saturating_mul(BLOCK_BYTES),
        }
    }

    pub(super) fn layer_trouble(&self, layer: LayerId) -> Option<&'static str> {
        let stats = self.store.layers.stats(layer);
        if stats.damaged {
            return Some("it is damaged on the medium");
        }
        stats
            .poisoned
            .then_some("a write to the medium failed; it takes no more of them")
    }

    pub(super) fn layer_reset(&self, layer: LayerId) -> Result<()> {
        self.store.layers.reset(layer)?;
        // A new generation has nothing of what was to be sanitized.
        self.sanitize_over(layer)
    }

    pub(super) fn layer_fence(&self, layer: LayerId) {
        self.store.layers.fence(layer);
    }

    pub(super) fn layer_remove(&self, layer: LayerId) -> Result<()> {
        self.store.layers.remove(layer)?;
        self.store.layers.set_limits(layer, None);
        self.sanitize_over(layer)
    }

    pub(super) fn volume(
        &self,
        layer: LayerId,
        image: Arc<dyn Base>,
        durability: Durability,
    ) -> Result<Arc<Volume>> {
        Ok(self.store.layers.volume(VolumeSpec {
            layer,
            image,
            durability,
        })?)
    }

    /// Removes layers that no node has: a crash came between a node's removal and its layer's.
    pub(super) fn drop_stray_layers(&self) -> Result<()> {
        let now = self.snapshot();
        for layer in self.store.layers.layers() {
            if now.node_by_layer(layer).is_none() {
                tracing::info!(%layer, "a layer that no node has is removed");
                self.layer_remove(layer)?;
            }
        }
        Ok(())
    }
}

pub(super) fn refuse_busy(
    set: &NodeSet,
    busy: &dyn Fn(&NodeName) -> bool,
    what: &str,
) -> Result<()> {
    let open: NodeSet = set.iter().filter(|node| busy(node)).cloned().collect();
    if open.is_empty() {
        return Ok(());
    }
    Err(HeadError::conflict(format!(
        "{open} have their disks open: {what}; switch them off first, or force it"
    )))
}
