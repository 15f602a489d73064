//! Space: limits of layers, the reserve of the file system, what is told of both.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::Head;
use super::forecast::{Growth, Subject};
use crate::catalog::NodeRecord;
use crate::limits;
use crate::names::{LayerId, NodeSet};
use crate::store::layer::{LayerLimits, LayerStats, RoomStats};
use crate::units::{BLOCK_BYTES, HumanBytes, UnixMillis};

/// The file system of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomView {
    /// Bytes of it.
    pub total: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes of these that nodes' new blocks never take.
    pub reserve: u64,
    /// How it fills, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
}

/// All layers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceTotals {
    /// Bytes that are nodes' own.
    pub data_bytes: u64,
    /// Bytes that the file system holds for them.
    pub allocated_bytes: u64,
    /// Layers beyond their warning.
    pub warned: u64,
    /// Layers at their limit.
    pub at_limit: u64,
    /// Layers that take no writes since a sync failed.
    pub poisoned: u64,
    /// Data files that are open.
    pub files_open: u64,
}

impl Head {
    /// The limits of one node's layer, as its record and the configuration say. Counts at once.
    pub(super) fn limit(&self, node: &NodeRecord) {
        let limits = own_limits(node, self.store.layers.usual_limits());
        self.store.layers.set_limits(node.layer, limits);
    }

    pub(super) fn apply_limits(&self, nodes: &NodeSet) {
        let now = self.snapshot();
        for node in nodes.iter().filter_map(|name| now.node(name.as_str())) {
            self.limit(node);
        }
    }

    /// The limits of all nodes, for a start or when the catalog was changed at large.
    pub fn apply_all_limits(&self) {
        for node in self.snapshot().nodes() {
            self.limit(node);
        }
    }

    /// What is to be told of a layer's space now.
    pub(super) fn space_trouble(&self, layer: LayerId) -> Option<String> {
        space_trouble(&self.store.layers.stats(layer))
    }

    /// Notes how much there is of everything that may get full; called once a minute.
    pub fn sample_space(&self, now: UnixMillis) {
        let layers = self.store.layers.layers();
        let amounts: Vec<(Subject, u64)> = layers
            .into_iter()
            .map(|layer| {
                let blocks = self.store.layers.stats(layer).present_blocks;
                (Subject::Layer(layer), blocks * BLOCK_BYTES)
            })
            .collect();
        let disk = self.store.layers.room().ok().flatten();
        let used = disk.map(|room| (Subject::Disk, room.total.saturating_sub(room.free)));
        let mut trends = self
            .trends
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        trends.add(now, amounts.into_iter().chain(used));
    }

    fn growth(&self, subject: Subject, left: Option<u64>) -> Option<Growth> {
        let trends = self
            .trends
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        trends.growth(subject, left)
    }

    /// How a layer grows, and when it meets its limit or the file system its reserve.
    pub(super) fn growth_of(
        &self,
        layer: LayerId,
        stats: &LayerStats,
        room: Option<RoomStats>,
    ) -> Option<Growth> {
        let held = stats.present_blocks * BLOCK_BYTES;
        let below = stats.limits.most.map(|most| most.saturating_sub(held));
        let spare = room.map(|room| room.free.saturating_sub(room.reserve));
        let left = below.into_iter().chain(spare).min();
        self.growth(Subject::Layer(layer), left)
    }

    /// The file system of the store; none when it does not tell.
    #[must_use]
    pub fn room(&self) -> Option<RoomView> {
        let room = self.store.layers.room().ok().flatten()?;
        let spare = room.free.saturating_sub(room.reserve);
        Some(RoomView {
            total: room.total,
            free: room.free,
            reserve: room.reserve,
            growth: self.growth(Subject::Disk, Some(spare)),
        })
    }

    /// All layers together.
    #[must_use]
    pub fn space_totals(&self) -> SpaceTotals {
        let mut all = SpaceTotals {
            files_open: self.store.layers.files_open() as u64,
            ..SpaceTotals::default()
        };
        for layer in self.store.layers.layers() {
            let stats = self.store.layers.stats(layer);
            all.data_bytes += stats.present_blocks * BLOCK_BYTES;
            all.allocated_bytes += stats.allocated_bytes;
            all.warned += u64::from(stats.warned);
            all.at_limit += u64::from(stats.at_limit);
            all.poisoned += u64::from(stats.poisoned);
        }
        all
    }

    /// Space in the text format of Prometheus.
    #[must_use]
    pub fn space_metrics(&self) -> String {
        let mut text = String::new();
        let mut one = |name: &str, help: &str, value: u64| {
            let _ = writeln!(
                text,
                "# HELP reveille_{name} {help}\n# TYPE reveille_{name} gauge\nreveille_{name} {value}"
            );
        };
        let all = self.space_totals();
        one(
            "layers_data_bytes",
            "Bytes that are nodes' own.",
            all.data_bytes,
        );
        let held = "Bytes that the file system holds for layers.";
        one("layers_allocated_bytes", held, all.allocated_bytes);
        one("layers_warned", "Layers beyond their warning.", all.warned);
        one("layers_at_limit", "Layers at their limit.", all.at_limit);
        let poisoned = "Layers that take no writes since a sync failed.";
        one("layers_poisoned", poisoned, all.poisoned);
        one(
            "layer_files_open",
            "Data files of layers that are open.",
            all.files_open,
        );
        if let Some(room) = self.room() {
            one(
                "store_bytes",
                "Bytes of the store's file system.",
                room.total,
            );
            one("store_free_bytes", "Bytes of it that are free.", room.free);
            let reserve = "Bytes of it that nodes' new blocks never take.";
            one("store_reserve_bytes", reserve, room.reserve);
            if let Some(growth) = room.growth {
                let rate = "Growth of what is used, by the faster of minutes and hours.";
                one("store_growth_bytes_per_hour", rate, growth.per_hour());
                if let Some(full_s) = growth.full_s {
                    let full = "Seconds until only the reserve is left, at that rate.";
                    one("store_full_seconds", full, full_s);
                }
            }
        }
        self.layers_in_need(&mut text);
        text
    }

    /// Series of their own have only layers that somebody must look after, and not too many of them.
    fn layers_in_need(&self, text: &mut String) {
        let now = self.snapshot();
        let need = |layer: LayerId| {
            let stats = self.store.layers.stats(layer);
            let node = now.node_by_layer(layer)?;
            (stats.warned || stats.at_limit).then(|| (node.name.clone(), stats))
        };
        let layers = self.store.layers.layers().into_iter().filter_map(need);
        for (node, stats) in layers.take(limits::LAYERS_IN_METRICS) {
            let held = stats.present_blocks * BLOCK_BYTES;
            let _ = writeln!(text, "reveille_layer_data_bytes{{node=\"{node}\"}} {held}");
            if let Some(most) = stats.limits.most {
                let _ = writeln!(text, "reveille_layer_limit_bytes{{node=\"{node}\"}} {most}");
            }
        }
    }
}

/// The limits that a node's record asks for; none when it says nothing. 0 is "none at all".
fn own_limits(node: &NodeRecord, usual: LayerLimits) -> Option<LayerLimits> {
    if node.layer_limit.is_none() && node.layer_warn.is_none() {
        return None;
    }
    let pick = |own: Option<u64>, usual: Option<u64>| match own {
        None => usual,
        Some(0) => None,
        own => own,
    };
    Some(LayerLimits {
        warn: pick(node.layer_warn, usual.warn),
        most: pick(node.layer_limit, usual.most),
    })
}

pub(super) fn space_trouble(stats: &LayerStats) -> Option<String> {
    let held = HumanBytes(stats.present_blocks * BLOCK_BYTES);
    let size = |bytes: Option<u64>| HumanBytes(bytes.unwrap_or(0));
    if stats.at_limit {
        let most = size(stats.limits.most);
        return Some(format!(
            "FULL: {held} of {most}, writes of new blocks are refused"
        ));
    }
    let warn = size(stats.limits.warn);
    stats
        .warned
        .then(|| format!("warned: {held} is more than {warn}"))
}
