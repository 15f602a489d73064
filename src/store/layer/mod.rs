//! Layers: one node's own blocks over an image, and what makes them survive.
//!
//! For each layer a sparse file holds the blocks at the places they have on the disk. Which blocks count
//! (*present*), which read zeros (*zero*) and which are still the image's (*base*) is said by maps in memory,
//! by one journal for all layers on the medium, and by one soft log for the time the host is up:
//!
//! ```text
//!   write -- data file -- soft log -- map in memory -- acknowledged (survives kill -9)
//!   flush -- sync data -- journal, one sync for all who wait -- acknowledged (survives a power cut)
//!   start -- newest checkpoint -- journal -- soft log, if the host is still up -- maps
//! ```
//!
//! An atomic write is logged whole before it is begun in place, and retired when it is whole there.
//!
//! **Never presence before data**: a record says a block is present only after its data is where the record
//! will survive. Formats and the reasons for every order are in `docs/formats/layer.md`.
//!
//! - **generation**: the life of a layer between two resets; numbers are never used twice.
//! - **birth**: the first change of a generation; it binds it to an image, a size and a durability.
//! - **pending**: changed in memory, not yet in the journal.
//! - **fence**: to make open handles useless, so that a session that is gone cannot write behind its
//!   successor.
//!
//! What this room never does: move a layer to another image (`engines`: its file system would mix two
//! histories), write into an image, or tell the time.

mod atomic;
pub mod check;
mod checkpoint;
mod core;
mod driver;
mod entry;
mod frame;
mod journal;
pub(in crate::store) mod map;
mod range_lock;
mod recovery;
mod soft;
mod space;
pub(in crate::store) mod state;
mod view;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(in crate::store) use self::core::Core;
use self::driver::{Driver, Signal};
pub(in crate::store) use self::entry::{Birth, Redo};
use self::journal::Journal;
use self::recovery::recover;
pub use self::space::{LayerLimits, RoomStats, SpaceNews};
use self::space::{Limits, Room};
pub use self::view::{LayerView, ViewState};
use super::disk::Disk;
use super::volume::{Volume, VolumeSpec};
use super::{Durability, Error, ErrorKind, ImageId, LayerId, Result};
use crate::limits;
use crate::units::{BLOCK_BYTES, SECTOR_BYTES};

const DIR: &str = "layers";
const DATA_DIR: &str = "layers/data";

/// `/proc/sys/kernel/random/boot_id` as bytes: another one means that the page cache is gone.
pub type Boot = [u8; 16];

/// What may be tuned; the defaults are the bounds of `limits`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Journal size at which a checkpoint is due, bytes.
    pub journal_bytes: u64,
    /// Bytes of the journal written ahead; 0 for none.
    pub journal_step: u64,
    /// Growth of the soft log at which it is rewritten, bytes.
    pub soft_bytes: u64,
    /// Data files kept open.
    pub files_open: usize,
    /// What layers without limits of their own may hold.
    pub limits: LayerLimits,
    /// Bytes of the file system that new blocks never take; none: by its size.
    pub reserve: Option<u64>,
    /// Blocks that a view copies aside before it gives up.
    pub view_blocks: u64,
    /// Upkeep by a thread of the store's own; else by whoever finds it due.
    pub background: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            journal_bytes: limits::LAYER_JOURNAL_BYTES,
            journal_step: limits::LAYER_JOURNAL_STEP,
            soft_bytes: limits::LAYER_SOFT_BYTES,
            files_open: limits::LAYER_FILES_OPEN,
            limits: LayerLimits::default(),
            reserve: None,
            view_blocks: limits::LAYER_VIEW_BLOCKS,
            background: true,
        }
    }
}

/// What start-up found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Layers known.
    pub layers: usize,
    /// Records read.
    pub records: u64,
    /// Layers that are not served until reset, and why.
    pub damaged: Vec<(LayerId, String)>,
    /// Layers that take no writes, since a sync of them failed and the host is still up.
    pub poisoned: Vec<LayerId>,
    /// Volatile layers whose content went with the host; told at every start until they are reset or
    /// written to. Their nodes must boot anew.
    pub lost_volatile: Vec<LayerId>,
    /// The journal ended inside a record: a power cut, or the process was killed while it wrote one.
    pub torn_tail: bool,
    /// Damage to the store's own files, in words for the operator's log.
    pub notes: Vec<String>,
}

/// What is known of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// The image it is bound to; `None` before its first change.
    pub image: Option<ImageId>,
    /// Its class; `None` before its first change.
    pub durability: Option<Durability>,
    /// Number of the generation; 0 before the first.
    pub generation: u64,
    /// 4 KiB blocks in the data file.
    pub present_blocks: u64,
    /// 4 KiB blocks that read zeros.
    pub zero_blocks: u64,
    /// Bytes the file system holds for it; what the maps say while the data file is not open.
    pub allocated_bytes: u64,
    /// Blocks whose state is not durable yet.
    pub pending_blocks: u64,
    /// The data file may hold bytes that are not durable.
    pub dirty: bool,
    /// A sync failed: no more writes.
    pub poisoned: bool,
    /// Not served.
    pub damaged: bool,
    /// The host went down and took the content along.
    pub lost: bool,
    /// What it may hold.
    pub limits: LayerLimits,
    /// It holds more than its warning allows.
    pub warned: bool,
    /// No new block fits below its limit.
    pub at_limit: bool,
}

/// All layers of a store. Dropping it loses nothing that was acknowledged.
#[derive(Debug)]
pub struct LayerStore {
    core: Arc<Core>,
    driver: Mutex<Option<Driver>>,
}

impl LayerStore {
    /// Opens the layers below `layers/` of `disk`, making the directory if need be. Whether another process
    /// has them open is the caller's to find out.
    ///
    /// # Errors
    /// `Corrupt` when no valid checkpoint is left; `NewerVersion`; what the medium reports.
    pub fn open(disk: Arc<dyn Disk>, host_boot_id: Boot) -> Result<(Self, Recovery)> {
        Self::open_with(disk, host_boot_id, Options::default())
    }

    /// The same with other bounds.
    pub fn open_with(
        disk: Arc<dyn Disk>,
        host_boot_id: Boot,
        options: Options,
    ) -> Result<(Self, Recovery)> {
        let found =
            recover(&disk, host_boot_id, &options).map_err(|e| e.within("open the layers"))?;
        let core = Arc::new(Core {
            journal: Journal::new(Arc::clone(&disk), found.log, options.journal_step),
            disk,
            soft: Mutex::new(found.soft),
            layers: RwLock::new(found.layers),
            generation_next: AtomicU64::new(found.generation_next),
            checkpointed: Mutex::new(found.checkpointed),
            signal: Arc::new(Signal::default()),
            due: AtomicBool::new(false),
            trash: Mutex::new(found.trash),
            emptying: Mutex::default(),
            open_files: Mutex::new(VecDeque::new()),
            atomics: RwLock::new(()),
            limits: RwLock::new(Limits {
                usual: options.limits,
                ..Limits::default()
            }),
            room: Room::new(options.reserve),
            options,
        });
        // The old soft log goes only when the new one stands.
        match core.rewrite_soft() {
            Ok(()) => {
                for path in found.stray {
                    // A draft may have been replaced by the checkpoint that recovery made.
                    match core.disk.remove(&path) {
                        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                        _ => {}
                    }
                }
            }
            // Reads go on, and so do writes once there is room: the upkeep tries again.
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                tracing::warn!("layers: no room for a new soft log, writes wait for it: {e}");
            }
            Err(e) => return Err(e),
        }
        let driver = if core.options.background {
            Some(Driver::start(&core)?)
        } else {
            None
        };
        core.nudge();
        core.after_operation();
        let driver = Mutex::new(driver);
        Ok((Self { core, driver }, found.report))
    }

    /// The volume of a layer over an image. The same handle for as long as it is held and not fenced.
    ///
    /// # Errors
    /// `InvalidFormat` when the layer's generation is bound to another image, size or class; `Busy` when it
    /// is open over another image; `Corrupt` when it is damaged.
    pub fn volume(&self, spec: VolumeSpec) -> Result<Arc<Volume>> {
        let birth = Birth {
            image: spec.image.id(),
            size: spec.image.size(),
            durability: spec.durability,
        };
        if birth.size > limits::DISK_BYTES_MAX || !birth.size.is_multiple_of(SECTOR_BYTES) {
            let why = format!(
                "image {} has {} bytes: not a disk of whole sectors up to 16 TiB",
                birth.image, birth.size
            );
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        loop {
            let layer = self.core.layer(spec.layer);
            let mut handle = lock(&layer.handle);
            let session = {
                let state = layer.state();
                if state.removed && state.poisoned.is_none() {
                    // It was removed while we waited for it: begin with a new one.
                    continue;
                }
                if state.removed {
                    state.check_poison(layer.id)?;
                }
                state.check_damage(layer.id)?;
                check_birth(layer.id, state.birth, birth)?;
                state.session
            };
            if let Some(open) = handle.upgrade() {
                if open.birth() == birth {
                    return Ok(open);
                }
                let why = format!(
                    "layer {} is open over image {}; close that volume first",
                    layer.id,
                    open.birth().image
                );
                return Err(Error::new(ErrorKind::Busy, why));
            }
            let core = Arc::clone(&self.core);
            let volume = Arc::new(Volume::new(
                core,
                Arc::clone(&layer),
                spec.image,
                birth,
                session,
            ));
            *handle = Arc::downgrade(&volume);
            return Ok(volume);
        }
    }

    /// Empties a layer: a new generation, bound to nothing. Waits for writes in progress; open handles are
    /// fenced. Durable when it returns (for a volatile layer: against the death of the process).
    pub fn reset(&self, layer: LayerId) -> Result<()> {
        self.retire(layer, false)
    }

    /// Empties a layer and forgets it.
    pub fn remove(&self, layer: LayerId) -> Result<()> {
        self.retire(layer, true)
    }

    fn retire(&self, layer: LayerId, forget: bool) -> Result<()> {
        if let Some(layer) = self.core.known(layer) {
            self.core.retire(&layer, forget)?;
        }
        self.core.after_operation();
        Ok(())
    }

    /// Fences open handles without losing data: waits for writes in progress, then the old session's
    /// calls are answered `Fenced`, and [`LayerStore::volume`] gives a fresh handle.
    pub fn fence(&self, layer: LayerId) {
        if let Some(layer) = self.core.known(layer) {
            let mut handle = lock(&layer.handle);
            let _changes = layer.ranges.lock_all();
            layer.state_mut().session += 1;
            *handle = std::sync::Weak::new();
        }
    }

    /// What is known of a layer; zeros for an unknown one. Opens no file.
    #[must_use]
    pub fn stats(&self, layer: LayerId) -> LayerStats {
        let Some(layer) = self.core.known(layer) else {
            return LayerStats {
                limits: self.core.limits_of(layer),
                ..LayerStats::default()
            };
        };
        let (mut stats, file) = {
            let state = layer.state();
            let present_blocks = state.map.present.len();
            let bytes = present_blocks * BLOCK_BYTES;
            let limits = self.core.limits_of(layer.id);
            let stats = LayerStats {
                image: state.birth.map(|birth| birth.image),
                durability: state.birth.map(|birth| birth.durability),
                generation: state.generation,
                present_blocks,
                zero_blocks: state.map.zero.len(),
                allocated_bytes: present_blocks * BLOCK_BYTES,
                pending_blocks: state.pending.len() + state.flushing.len(),
                dirty: state.is_durable() && state.dirty,
                poisoned: state.poisoned.is_some(),
                damaged: state.damaged.is_some(),
                lost: state.lost,
                limits,
                warned: limits.warn.is_some_and(|warn| bytes > warn),
                at_limit: limits.most.is_some_and(|most| bytes + BLOCK_BYTES > most),
            };
            (stats, state.file.clone())
        };
        if let Some(Ok(bytes)) = file.map(|file| file.allocated()) {
            stats.allocated_bytes = bytes;
        }
        stats
    }

    /// What a layer may hold from now on; none: what is usual. Counts at once, for open volumes too.
    pub fn set_limits(&self, layer: LayerId, limits: Option<LayerLimits>) {
        {
            let mut all = write(&self.core.limits);
            let before = all.of(layer);
            match limits {
                Some(limits) => all.of.insert(layer, limits),
                None => all.of.remove(&layer),
            };
            if all.of(layer) == before {
                return;
            }
        }
        if let Some(layer) = self.core.known(layer) {
            layer.limits_changed(&self.core);
        }
    }

    /// Space of the file system; none when it has no size of its own.
    ///
    /// # Errors
    /// The file system does not tell.
    pub fn room(&self) -> Result<Option<RoomStats>> {
        self.core.room_stats()
    }

    /// The layers that have, or had before their last reset, content of their own; sorted.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerId> {
        let all = self.core.all();
        let known = |layer: &&Arc<state::Layer>| {
            let state = layer.state();
            state.generation != 0 && !state.removed
        };
        let mut ids: Vec<LayerId> = all.iter().filter(known).map(|layer| layer.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Writes a checkpoint, so that the next start reads no old journal, and rewrites the soft log.
    pub fn checkpoint(&self) -> Result<()> {
        checkpoint::write(&self.core)?;
        self.core.rewrite_soft()
    }

    /// Data files that are open now.
    #[must_use]
    pub fn files_open(&self) -> usize {
        self.core.files_open()
    }

    /// Closes data files that nobody used since the last call; the store's own thread does it from time to time.
    pub fn close_idle(&self) {
        self.core.close_idle();
    }

    /// What layers without limits of their own may hold.
    #[must_use]
    pub fn usual_limits(&self) -> LayerLimits {
        self.core.options.limits
    }

    /// Number of journal syncs so far: flushes of many layers share them.
    #[must_use]
    pub fn journal_syncs(&self) -> u64 {
        self.core.journal.syncs()
    }

    /// Makes everything acknowledged durable and ends the upkeep: for an orderly stop, after which the host
    /// may go down. Without it a process that ends loses nothing, but a host that goes down loses what was
    /// not flushed.
    ///
    /// # Errors
    /// The first layer that could not be flushed; the others are.
    pub fn close(&self) -> Result<()> {
        drop(lock(&self.driver).take());
        let mut first = Ok(());
        for layer in self.core.all() {
            let done = layer.flush(&self.core, None);
            first = first.and(done);
        }
        self.core.maintain();
        first
    }
}

impl Drop for LayerStore {
    fn drop(&mut self) {
        // An orderly stop calls `close` itself and hears of errors; here nobody listens. What could not be
        // flushed is still in the page cache and the soft log.
        if lock(&self.driver).is_some() {
            let _ = self.close();
        }
    }
}

fn check_birth(layer: LayerId, known: Option<Birth>, asked: Birth) -> Result<()> {
    let Some(known) = known else { return Ok(()) };
    let why = if known.image != asked.image {
        format!("belongs to image {}, not {}", known.image, asked.image)
    } else if known.size != asked.size {
        format!(
            "was made for a disk of {} bytes, not {}",
            known.size, asked.size
        )
    } else if known.durability != asked.durability {
        format!("is {:?}, not {:?}", known.durability, asked.durability)
    } else {
        return Ok(());
    };
    let why = format!("layer {layer} {why}; reset the layer, or open it as it is");
    Err(Error::new(ErrorKind::InvalidFormat, why))
}

// A thread that panicked while it held one of these locks left the data as it was between two statements
// of ours, none of which panics; release builds abort on panic anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
