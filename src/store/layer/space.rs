//! How much a layer may hold, and what of the file system no node may take.
//!
//! ```text
//!   a write that needs new blocks -- the layer's limit -- the disk's room -- the data file
//!   an overwrite, UNMAP, FLUSH, journal, checkpoint, catalog ----------------^ never asked
//! ```
//! - **limit**: blocks of its own that a layer may have; **warn**: beyond it the owner is told once.
//! - **reserve**: bytes of the file system that stay free of nodes' new blocks, so that all else goes on.
//! - **room**: bytes beyond the reserve, handed out in grants, so that the file system is asked once a grant and
//!   not once a write. What others take meanwhile is seen at the next grant: the error is a grant at most.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::core::Core;
use super::lock;
use super::map::{Span, span_len};
use super::state::{Layer, State};
use crate::limits;
use crate::store::disk::{Disk, Space};
use crate::store::{Error, ErrorKind, LayerId, Result};
use crate::units::{BLOCK_BYTES, HumanBytes};

/// What a layer may hold, in bytes of blocks of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerLimits {
    /// Beyond it the owner is told; writes go on.
    pub warn: Option<u64>,
    /// A write that would pass it is refused with `NoSpace`.
    pub most: Option<u64>,
}

/// The limits of all layers.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Of layers that have none of their own.
    pub(super) usual: LayerLimits,
    pub(super) of: HashMap<LayerId, LayerLimits>,
}

impl Limits {
    pub(super) fn of(&self, layer: LayerId) -> LayerLimits {
        self.of.get(&layer).copied().unwrap_or(self.usual)
    }
}

/// What a layer's owner should hear; each kind once, until it is over and happens again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceNews {
    /// The layer has passed its warning.
    pub warned: bool,
    /// A write was refused: the layer is at its limit.
    pub at_limit: bool,
    /// A write was refused: the file system is down to its reserve, or full.
    pub disk_full: bool,
    /// The limits were changed.
    pub changed: bool,
}

const WARNED: u8 = 1;
const AT_LIMIT: u8 = 2;
const DISK_FULL: u8 = 4;
const CHANGED: u8 = 8;

/// News that nobody has fetched yet.
#[derive(Debug, Default)]
pub(super) struct News(AtomicU8);

impl News {
    fn tell(&self, what: u8) {
        self.0.fetch_or(what, Ordering::Relaxed);
    }

    pub(super) fn take(&self) -> Option<SpaceNews> {
        // Looked at after every operation: mostly there is nothing, and nothing is written.
        if self.0.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let told = self.0.swap(0, Ordering::Relaxed);
        Some(SpaceNews {
            warned: told & WARNED != 0,
            at_limit: told & AT_LIMIT != 0,
            disk_full: told & DISK_FULL != 0,
            changed: told & CHANGED != 0,
        })
    }
}

/// What the owner was told and what is not over yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) warned: bool,
    pub(super) at_limit: bool,
    disk_full: bool,
}

/// A bound counts as passed downwards only a good bit below it: otherwise a node that trims and writes around it
/// would be told without end.
const fn relieved(held: u64, bound: u64) -> bool {
    held <= bound - bound / 16
}

/// Room for new blocks, held from before they are written until they are known.
#[derive(Debug)]
pub(in crate::store) struct Claim<'a> {
    layer: &'a Layer,
    blocks: u64,
}

impl Claim<'_> {
    /// The blocks are in the map now, under the same look at the state.
    pub(super) fn settle(mut self, state: &mut State) {
        state.claimed = state.claimed.saturating_sub(self.blocks);
        self.blocks = 0;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.blocks > 0 {
            let mut state = self.layer.state_mut();
            state.claimed = state.claimed.saturating_sub(self.blocks);
        }
    }
}

impl Layer {
    /// Before a write: room for the blocks that it makes present, none for an overwrite. Says also that bytes
    /// which are not durable may come, so that the file stays open.
    ///
    /// # Errors
    /// `NoSpace` when the layer is at its limit, or the file system at its reserve.
    pub(in crate::store) fn claim(&self, core: &Core, fresh: &[Span]) -> Result<Claim<'_>> {
        let blocks = fresh.iter().map(span_len).sum();
        if blocks == 0 {
            // An overwrite that changes nothing of what is known: readers are not held up for it.
            let state = self.state();
            if state.dirty && !state.told.disk_full {
                return Ok(Claim {
                    layer: self,
                    blocks,
                });
            }
        }
        let claim = self.claim_of_layer(core, blocks)?;
        if blocks == 0 {
            return Ok(claim);
        }
        let bytes = blocks * BLOCK_BYTES;
        // No node is refused for what a reset has thrown away and nobody has removed yet.
        let taken = core.room.take(&*core.disk, bytes).or_else(|_| {
            core.empty_trash();
            core.room.take(&*core.disk, bytes)
        });
        if let Err(e) = taken {
            // Let go before the state is looked at again.
            drop(claim);
            self.disk_is_full();
            return Err(e.within(format!("layer {}", self.id)));
        }
        Ok(claim)
    }

    fn claim_of_layer(&self, core: &Core, blocks: u64) -> Result<Claim<'_>> {
        let most = match blocks {
            0 => None,
            _ => super::read(&core.limits).of(self.id).most,
        };
        let mut guard = self.state_mut();
        let state = &mut *guard;
        if let Some(most) = most {
            let held = state.map.present.len() + state.claimed;
            if (held + blocks) * BLOCK_BYTES > most {
                if !std::mem::replace(&mut state.told.at_limit, true) {
                    self.news.tell(AT_LIMIT);
                }
                let (held, most) = (HumanBytes(held * BLOCK_BYTES), HumanBytes(most));
                let why = format!(
                    "layer {} holds {held} and may hold {most}: a write of new blocks is refused; \
                     raise its limit, or let the node trim",
                    self.id
                );
                return Err(Error::new(ErrorKind::NoSpace, why));
            }
        }
        state.dirty = true;
        state.claimed += blocks;
        if !core.room.is_short() {
            state.told.disk_full = false;
        }
        Ok(Claim {
            layer: self,
            blocks,
        })
    }

    /// A write found no space: the owner is told, once.
    pub(in crate::store) fn disk_is_full(&self) {
        let mut state = self.state_mut();
        if !std::mem::replace(&mut state.told.disk_full, true) {
            self.news.tell(DISK_FULL);
        }
    }

    /// Looks whether the warning is passed, or over; after every change of the map or of the limits.
    pub(super) fn watch(&self, core: &Core, state: &mut State) {
        let limits = super::read(&core.limits).of(self.id);
        if limits == LayerLimits::default() {
            state.told.warned = false;
            state.told.at_limit = false;
            return;
        }
        let held = state.map.present.len() * BLOCK_BYTES;
        match limits.warn {
            Some(warn) if held > warn => {
                if !std::mem::replace(&mut state.told.warned, true) {
                    self.news.tell(WARNED);
                }
            }
            Some(warn) if !relieved(held, warn) => {}
            _ => state.told.warned = false,
        }
        if limits.most.is_none_or(|most| relieved(held, most)) {
            state.told.at_limit = false;
        }
    }

    /// What its owner should hear since the last call.
    pub(in crate::store) fn space_news(&self) -> Option<SpaceNews> {
        self.news.take()
    }

    /// Its limits were changed: they count at once.
    pub(super) fn limits_changed(&self, core: &Core) {
        let mut state = self.state_mut();
        state.told.at_limit = false;
        self.watch(core, &mut state);
        self.news.tell(CHANGED);
    }
}

/// Space of the store's file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomStats {
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes that are free for this program.
    pub free: u64,
    /// Bytes of these that new blocks of nodes never take.
    pub reserve: u64,
}

impl Core {
    pub(super) fn room_stats(&self) -> Result<Option<RoomStats>> {
        let space = self.disk.space()?;
        Ok(space.map(|space| RoomStats {
            total: space.total,
            free: space.free,
            reserve: self.room.reserve_of(space),
        }))
    }

    /// Bytes that new blocks may still take of the file system; none when it has no size of its own.
    pub(in crate::store) fn spare(&self) -> Result<Option<u64>> {
        let room = self.room_stats()?;
        Ok(room.map(|room| room.free.saturating_sub(room.reserve)))
    }
}

/// What is left for new blocks before the file system is asked again.
#[derive(Debug)]
pub(super) struct Room {
    /// As set; none: by the size of the file system.
    reserve: Option<u64>,
    granted: AtomicU64,
    /// The last answer was no, and not enough has come free since.
    short: AtomicBool,
    asking: Mutex<()>,
}

impl Room {
    pub(super) fn new(reserve: Option<u64>) -> Self {
        Self {
            reserve,
            granted: AtomicU64::new(0),
            short: AtomicBool::new(false),
            asking: Mutex::default(),
        }
    }

    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    pub(super) fn reserve_of(&self, space: Space) -> u64 {
        self.reserve.unwrap_or_else(|| usual_reserve(space.total))
    }

    /// Takes `bytes` of the room.
    fn take(&self, disk: &dyn Disk, bytes: u64) -> Result<()> {
        if self.spend(bytes) {
            return Ok(());
        }
        let _one = lock(&self.asking);
        if self.spend(bytes) {
            return Ok(());
        }
        let space = match disk.space() {
            Ok(Some(space)) => space,
            // A tree without a size.
            Ok(None) => {
                self.granted.store(u64::MAX, Ordering::Relaxed);
                return Ok(());
            }
            // The write itself will show what is wrong.
            Err(e) => {
                tracing::debug!(error = %e, "the file system of the layers does not tell its space");
                return Ok(());
            }
        };
        let reserve = self.reserve_of(space);
        let spare = space.free.saturating_sub(reserve);
        let Some(rest) = spare.checked_sub(bytes) else {
            self.short.store(true, Ordering::Relaxed);
            let (free, reserve) = (HumanBytes(space.free), HumanBytes(reserve));
            let why = format!(
                "the file system of the layers has {free} free, of which {reserve} are kept for flushes and \
                 records; free some space, or reset layers"
            );
            return Err(Error::new(ErrorKind::NoSpace, why));
        };
        if rest >= (reserve / 16).min(limits::LAYER_ROOM_BYTES) {
            self.short.store(false, Ordering::Relaxed);
        }
        // Never more than a quarter of the reserve, so that what is not seen between two questions leaves most
        // of it.
        let grant = rest.min(limits::LAYER_ROOM_BYTES).min(reserve / 4);
        self.granted.store(grant, Ordering::Relaxed);
        Ok(())
    }

    fn spend(&self, bytes: u64) -> bool {
        let rest = |granted: u64| match granted {
            u64::MAX => Some(granted),
            _ => granted.checked_sub(bytes),
        };
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.granted.fetch_update(set, fetch, rest).is_ok()
    }

    /// What was freed counts at once.
    pub(super) fn ask_anew(&self) {
        let _one = lock(&self.asking);
        if self.granted.load(Ordering::Relaxed) != u64::MAX {
            self.granted.store(0, Ordering::Relaxed);
        }
    }
}

/// A fiftieth of the file system, at least 1 GiB and at most 32 GiB, but never more than an eighth of a small one.
fn usual_reserve(total: u64) -> u64 {
    let usual = (total / 50).clamp(limits::LAYER_RESERVE_MIN, limits::LAYER_RESERVE_MAX);
    usual.min(total / 8)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::store::disk::{File, OpenMode};
    use std::sync::Arc;

    /// A disk that only tells its space, and counts how often.
    #[derive(Debug, Default)]
    struct Told {
        free: AtomicU64,
        asked: AtomicU64,
    }

    const TOTAL: u64 = 1 << 30;

    impl Disk for Told {
        fn space(&self) -> Result<Option<Space>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let free = self.free.load(Ordering::Relaxed);
            Ok(Some(Space { total: TOTAL, free }))
        }
        fn open(&self, path: &str, _: OpenMode) -> Result<Arc<dyn File>> {
            Err(Error::new(ErrorKind::NotFound, path))
        }
        fn remove(&self, _: &str) -> Result<()> {
            Ok(())
        }
        fn rename(&self, _: &str, _: &str) -> Result<()> {
            Ok(())
        }
        fn create_dir(&self, _: &str) -> Result<()> {
            Ok(())
        }
        fn list(&self, _: &str) -> Result<Vec<String>> {
            Ok(Vec::new())
        }
        fn sync_dir(&self, _: &str) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_usual_reserve_follows_the_disk() {
        const GIB: u64 = 1 << 30;
        assert_eq!(usual_reserve(80 << 20), 10 << 20);
        assert_eq!(usual_reserve(20 * GIB), GIB);
        assert_eq!(usual_reserve(100 * GIB), 2 * GIB);
        assert_eq!(usual_reserve(100_000 * GIB), 32 * GIB);
        assert_eq!(usual_reserve(0), 0);
    }

    #[test]
    fn the_file_system_is_asked_once_a_grant_and_its_reserve_is_left() {
        let disk = Told::default();
        let room = Room::new(Some(64 << 20));
        disk.free.store(256 << 20, Ordering::Relaxed);
        let mut taken = 0;
        while room.take(&disk, 4096).is_ok() {
            taken += 4096;
            disk.free.fetch_sub(4096, Ordering::Relaxed);
        }
        assert_eq!(taken, 192 << 20);
        assert!(room.is_short());
        let asked = disk.asked.load(Ordering::Relaxed);
        assert!(asked < 40, "asked {asked} times for {taken} bytes");
    }

    #[test]
    fn what_others_take_between_two_questions_costs_a_quarter_of_the_reserve_at_most() {
        let disk = Told::default();
        let room = Room::new(Some(40 << 20));
        disk.free.store(400 << 20, Ordering::Relaxed);
        room.take(&disk, 4096).unwrap();
        // Somebody else fills the disk down to the reserve.
        disk.free.store(40 << 20, Ordering::Relaxed);
        let mut taken = 0;
        while room.take(&disk, 4096).is_ok() {
            taken += 4096;
        }
        assert!(taken <= 10 << 20, "{taken} bytes of the reserve");
    }

    #[test]
    fn room_that_comes_back_is_found_at_the_next_write() {
        let disk = Told::default();
        let room = Room::new(Some(1 << 20));
        disk.free.store(1 << 20, Ordering::Relaxed);
        assert_eq!(room.take(&disk, 1).unwrap_err().kind(), ErrorKind::NoSpace);
        disk.free.store(100 << 20, Ordering::Relaxed);
        room.take(&disk, 1).unwrap();
        assert!(!room.is_short());
    }
}
