//! One head's state directory opened whole: catalog and store together, and what spans both. Level 4.
//!
//! ```text
//!   api, cli ──► images nodes layers pending ──┐              ┌── catalog: which, whose, since when
//!   boot     ──► prepare_boot, note_pending ───┼──► Head ─────┤
//!   iscsi    ──► attach ───────────────────────┘              └── store: the bytes
//! ```
//! Siblings `catalog` and `store` never call each other; whatever needs both (registering an import,
//! binding a node's layer to an image version at a boot, removing what nobody uses) is here. What is made is
//! made in the store first and named in the catalog second; what is removed loses its name first. So a crash
//! leaves garbage at worst, which the next start or collection removes, and never a name without its thing.
//!
//! - **operation**: a request (what the API and the command line carry) in, a result out; with `dry_run` all
//!   is checked and nothing done.
//! - **gate**: who may boot now. **binding**: which image version a layer stands on since its last boot.
//!
//! What this room never does: speak to the network, decide when a boot begins (`boot`), or keep sessions.

mod apply;
mod bad;
mod bell;
mod boot;
mod catalog_file;
pub mod check;
mod collect;
mod diff;
mod drain;
mod error;
mod forecast;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod gate;
mod image_edit;
mod images;
mod layers;
mod macs;
mod mint;
mod node_edit;
mod nodes;
mod pending;
mod profiles;
mod promote;
mod rebase;
mod reservations;
mod rollback;
mod sanitize;
mod scrub;
mod secrets;
mod select;
mod space;
mod state_dir;
mod text;
mod upkeep;
mod warm;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::{Binding, Catalog, NodeRecord, Snapshot};
use crate::events::Bus;
use crate::limits;
use crate::names::NodeSet;
use crate::store::disk::Disk;
use crate::store::disk_below::BelowDisk;
use crate::store::disk_file::RealDisk;
use crate::store::layer::{LayerLimits, Options as LayerOptions, Recovery};
use crate::store::pool::Pool;
use crate::store::{Store, Volume};

pub use apply::{Applied, Apply, PlanField, PlanLine, PlanVerb};
pub use bad::Damage;
pub use diff::{
    Compared, Difference, FileChange, FileDifference, ImageDiff, LayerDiff, PartDifference,
};
pub use drain::{DrainAsk, Drains, Order, UndrainAsk};
pub use error::{HeadError, HeadErrorKind};
pub use forecast::Growth;
pub use gate::{Admission, Gate};
pub use image_edit::{ImageRemove, ImageRemoved, ImageTag, ImageTagged, ImageUntag};
pub use images::{
    BadPlace, ImageExport, ImageExported, ImageImport, ImageImported, ImageVerified, ImageVerify,
    ImageView, Progress, VersionView,
};
pub use layers::{LayerReset, LayerUse, LayerView};
pub use node_edit::{NodeChange, NodeRemove, NodeView, Origin};
pub use nodes::{NodeAdd, NodeApprove};
pub use profiles::{ProfileAdd, ProfileChange, ProfileDone, ProfileRemove, ProfileView};
pub use promote::{LayerExport, LayerExported, LayerPromote, LayerPromoted};
pub use reservations::DiskIdentity;
pub use rollback::{ImageNote, ImageNoted, ImageRollback, ImageRolledBack, NextBoot};
pub use scrub::{ScrubAsk, ScrubOptions, ScrubOrder, ScrubView};
pub use secrets::{HEAD_USER, NodeSecret, NodeSecretsSet};
pub use space::{RoomView, SpaceTotals};
pub use upkeep::{Upkeep, UpkeepOptions};
pub use warm::{BootProfileAsk, BootProfileView};

use error::Result;
use state_dir::StateDir;

/// The catalog's file in a state directory.
const CATALOG: &str = "catalog.redb";
/// The store's directory in a state directory.
const STORE: &str = "store";
/// The counter of boot ids: none above it was ever given out.
const BOOTS: &str = "boots";
/// The counter of campaigns.
const CAMPAIGNS: &str = "campaigns";
/// Boots up to this one lost their ephemeral layers with a restart of the host.
const LOST_BOOTS: &str = "lost_boots";
/// Boots up to this one may have lost what their persistent layers had not flushed: the host went down
/// under a head that was not stopped.
const TORN_BOOTS: &str = "torn_boots";
/// The start of the host during which this head was stopped in order last.
const CLEAN_STOP: &str = "clean_stop";
/// The start of the host during which this head ran last.
const HOST_BOOT: &str = "host_boot";

/// How to open a head.
#[derive(Clone, Debug, Default)]
pub struct HeadOptions {
    /// What tells one start of this machine from the next; read from the kernel if absent.
    pub host_boot_id: Option<String>,
    /// Journal size of the layers at which a checkpoint is due, bytes.
    pub journal_bytes: Option<u64>,
    /// Growth of the layers' soft log at which it is rewritten, bytes.
    pub soft_bytes: Option<u64>,
    /// Bytes that a layer may hold when its node says nothing else.
    pub layer_limit: Option<u64>,
    /// Bytes of a layer beyond which is warned when its node says nothing else.
    pub layer_warn: Option<u64>,
    /// Bytes of the file system that nodes' new blocks never take; none: by its size.
    pub reserve: Option<u64>,
    /// Memory that golden chunks are held in, bytes.
    pub image_memory: u64,
    /// Blocks of a layer that are copied aside for a promotion while its node writes over them.
    pub view_blocks: Option<u64>,
    /// Bytes of a persistent layer that are compared with a new image version at a boot.
    pub rebase_bytes: Option<u64>,
    /// The layers' upkeep is done by whoever finds it due, not by a thread of its own: for tests that must
    /// do the same thing twice.
    pub foreground: bool,
}

impl HeadOptions {
    fn layers(&self) -> LayerOptions {
        let usual = LayerOptions::default();
        let journal_bytes = self.journal_bytes.unwrap_or(usual.journal_bytes);
        LayerOptions {
            journal_bytes,
            journal_step: usual.journal_step.min(journal_bytes),
            soft_bytes: self.soft_bytes.unwrap_or(usual.soft_bytes),
            limits: LayerLimits {
                warn: self.layer_warn,
                most: self.layer_limit,
            },
            reserve: self.reserve,
            view_blocks: self.view_blocks.unwrap_or(usual.view_blocks),
            background: !self.foreground,
            ..usual
        }
    }
}

/// Everything a head keeps, shared by all rooms above as an `Arc`.
#[derive(Debug)]
pub struct Head {
    bus: Arc<Bus>,
    gate: Gate,
    catalog: Catalog,
    store: Store,
    runs: boot::Runs,
    waiting: pending::Waiting,
    collection: collect::Collection,
    bad: bad::Known,
    scrub: scrub::Scrub,
    warm: warm::Warm,
    drains: arc_swap::ArcSwap<Drains>,
    drain_turn: std::sync::Mutex<()>,
    trends: std::sync::Mutex<forecast::Trends>,
    /// Ephemeral layers of boots up to this one are lost.
    lost_boots: u64,
    /// Persistent layers of boots up to this one may lack what was answered and not flushed.
    torn_boots: u64,
    host_boot: String,
    /// Bytes of a layer that are compared at a boot.
    rebase_bytes: u64,
    /// Last, so that the directory is let go when all else is closed.
    _state: Option<StateDir>,
}

/// A node's disk, ready to be served.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The node.
    pub node: Arc<NodeRecord>,
    /// What it is bound to.
    pub binding: Arc<Binding>,
    /// The disk.
    pub volume: Arc<Volume>,
    /// A SANITIZE of it did not get to its end; with the AUSE of that command.
    pub sanitize: Option<bool>,
}

/// What an operation on nodes did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesDone {
    /// The nodes.
    pub nodes: NodeSet,
    /// What the operator should know besides, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Nothing was done.
    #[serde(default)]
    pub dry_run: bool,
}

impl Head {
    /// Opens the state directory, makes it if it is not there. One process at a time.
    ///
    /// # Errors
    /// `Refused` when another process holds it (the message names it) or a newer version wrote it.
    pub fn open(path: &Path, options: &HeadOptions) -> Result<Self> {
        let state = StateDir::open(path)?;
        let path = state.join(CATALOG);
        // What a newer program wrote is refused before anything is changed: this first, then the store, and only
        // then is the catalog written to.
        Catalog::look(&path)?;
        let root = state.make_dir(STORE)?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&root));
        let catalog = || Ok(Catalog::open(&path)?);
        Self::assemble(catalog, &disk, Some(state), options)
    }

    /// Opens what lies on `disk` as in a state directory, without a lock and without a version: for media
    /// that record what is done to them.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(disk: &Arc<dyn Disk>, options: &HeadOptions) -> Result<Self> {
        catalog_file::look(disk, CATALOG)?;
        disk.create_dir(STORE)?;
        disk.sync_dir("")?;
        let store: Arc<dyn Disk> = Arc::new(BelowDisk::new(Arc::clone(disk), STORE));
        Self::assemble(|| catalog_file::open(disk, CATALOG), &store, None, options)
    }

    fn assemble(
        catalog: impl FnOnce() -> Result<Catalog>,
        disk: &Arc<dyn Disk>,
        state: Option<StateDir>,
        options: &HeadOptions,
    ) -> Result<Self> {
        let host_boot = match &options.host_boot_id {
            Some(id) => id.clone(),
            None => state_dir::host_boot_id()?,
        };
        let (store, recovery) = Store::open(disk, &host_boot, options.layers())?;
        store.images.set_hot_bytes(options.image_memory);
        tell(&recovery);
        let catalog = catalog()?;
        let begun = begin(&catalog, &host_boot)?;
        secrets::complete(&catalog)?;
        let head = Self {
            bus: Arc::new(Bus::new(begun.last_boot)),
            gate: Gate::default(),
            runs: boot::Runs::default(),
            waiting: pending::Waiting::from(&catalog.snapshot()),
            collection: collect::Collection::default(),
            bad: bad::Known::default(),
            scrub: scrub::Scrub::default(),
            warm: warm::Warm::default(),
            drains: arc_swap::ArcSwap::from_pointee(drain::load(&catalog)),
            drain_turn: std::sync::Mutex::default(),
            trends: std::sync::Mutex::default(),
            catalog,
            store,
            lost_boots: begun.lost_boots,
            torn_boots: begun.torn_boots,
            host_boot,
            rebase_bytes: options.rebase_bytes.unwrap_or(limits::REBASE_BYTES_MAX),
            _state: state,
        };
        head.drop_stray_layers()?;
        head.apply_all_limits();
        head.load_scrub();
        let bell = head.warm.bell.clone();
        head.store.images.on_bad_news(move || bell.ring());
        Ok(head)
    }

    /// For an orderly end: all that was acknowledged is made durable, so that the host may go down. What fails
    /// is logged.
    pub fn close(&self) {
        if let Err(error) = self.save_pending() {
            tracing::warn!(%error, "waiting machines were not written down");
        }
        if let Err(error) = self.store.layers.close() {
            tracing::error!(%error, "a layer was not flushed");
            return;
        }
        let stopped = self.catalog.transact(|changes| {
            changes.set_fact(CLEAN_STOP, &self.host_boot)?;
            Ok::<_, HeadError>(())
        });
        if let Err(error) = stopped {
            tracing::warn!(%error, "the orderly stop was not written down");
        }
    }

    /// The catalog as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.catalog.snapshot()
    }

    /// Where events are told.
    #[must_use]
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Who may boot now.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Threads that may block on the store.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.store.pool
    }

    /// Every campaign written down, as JSON, by number.
    ///
    /// # Errors
    /// None at present; the signature leaves room for a catalog that reads late.
    pub fn campaigns(&self) -> Result<Vec<(u64, String)>> {
        let all = self.catalog.campaigns().into_iter();
        Ok(all.map(|(id, text)| (id, text.to_string())).collect())
    }

    /// Writes a campaign down.
    ///
    /// # Errors
    /// The record is not JSON or too large; the catalog's.
    pub fn put_campaign(&self, id: u64, json: &str) -> Result<()> {
        Ok(self.catalog.put_campaign(id, json)?)
    }

    /// A number for a campaign that no other ever had.
    ///
    /// # Errors
    /// The catalog's.
    pub fn next_campaign(&self) -> Result<u64> {
        self.catalog.transact(|changes| {
            let now = changes.view();
            let used = now.campaigns().last().map_or(0, |(id, _)| id);
            let next = now.counter(CAMPAIGNS).max(used).saturating_add(1);
            changes.set_counter(CAMPAIGNS, next)?;
            Ok(next)
        })
    }
}

/// Tells the operator what the layers' recovery found.
fn tell(recovery: &Recovery) {
    let (layers, records) = (recovery.layers, recovery.records);
    tracing::debug!(
        layers,
        records,
        torn = recovery.torn_tail,
        "layers are recovered"
    );
    for (layer, why) in &recovery.damaged {
        tracing::error!(%layer, why, "a layer is not served until it is reset");
    }
    for layer in &recovery.poisoned {
        tracing::error!(
            %layer,
            "a sync of this layer failed before this start: it takes no writes until it is reset, or this \
             machine is restarted"
        );
    }
    for note in &recovery.notes {
        tracing::warn!(note, "recovery of the layers");
    }
    if !recovery.lost_volatile.is_empty() {
        let lost = recovery.lost_volatile.len();
        tracing::warn!(
            lost,
            "ephemeral layers went with the restart of this machine"
        );
    }
}

/// What a head knows of earlier boots when it opens.
struct Begun {
    /// The last boot id that may have been given out.
    last_boot: u64,
    lost_boots: u64,
    torn_boots: u64,
}

/// Reserves boot ids, and notes whether the host was restarted since, and whether in order.
fn begin(catalog: &Catalog, host_boot: &str) -> Result<Begun> {
    catalog.transact(|changes| {
        let last_boot = changes.view().counter(BOOTS);
        let before = changes.view().fact(HOST_BOOT).map(str::to_owned);
        if before.as_deref() != Some(host_boot) {
            let in_order = before.is_some() && changes.view().fact(CLEAN_STOP) == before.as_deref();
            changes.set_fact(HOST_BOOT, host_boot)?;
            changes.set_counter(LOST_BOOTS, last_boot)?;
            if !in_order {
                changes.set_counter(TORN_BOOTS, last_boot)?;
            }
        }
        // From here on only another orderly stop counts.
        changes.set_fact(CLEAN_STOP, "")?;
        changes.set_counter(BOOTS, last_boot.saturating_add(limits::BOOT_ID_BLOCK))?;
        Ok(Begun {
            last_boot,
            lost_boots: changes.view().counter(LOST_BOOTS),
            torn_boots: changes.view().counter(TORN_BOOTS),
        })
    })
}

#[cfg(test)]
mod test;
#[cfg(test)]
mod test_newer;
#[cfg(test)]
mod test_upkeep;
