//! Verified chunks in memory of our own: read, hashed, and from then on nobody's but ours.
//!
//! ```text
//!   load (hashed) ----> admit --> held --- read: shared with the socket, not copied
//!   every 16th read       ^         |
//!   from the page cache --'         `-- the hand comes by, and nobody read it since: let go
//! ```
//! The kernel cannot evict these bytes and bring other ones back, so what was hashed is what leaves; and a
//! read of them costs no system call. They are kept within a budget. A hand goes round (the CLOCK algorithm): a chunk
//! that was read since the hand's last visit stays. Who is sending a chunk that is let go keeps it until it is sent.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwapOption;

use super::manifest::ChunkId;
use crate::limits::{CHUNK_BYTES, CHUNK_LEN, HOT_LOOKS_MAX, HOT_READS_PER_LOOK, PACK_SLOTS};

/// Slots of a group, whose places are made when the first chunk of it is held.
const GROUP: usize = 256;

/// A chunk that is held. Its bytes have the hash that its id says.
pub(in crate::store) struct HotChunk {
    id: ChunkId,
    bytes: Box<[u8]>,
    /// Read since the hand's last visit.
    used: AtomicBool,
    shared: Arc<Shared>,
}

impl HotChunk {
    /// All of its bytes.
    pub(in crate::store) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for HotChunk {
    fn drop(&mut self) {
        // Relaxed: a count, nothing is read by it.
        self.shared.held.fetch_sub(CHUNK_BYTES, Ordering::Relaxed);
    }
}

impl fmt::Debug for HotChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HotChunk({:?})", self.id)
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes of chunks that are alive, also those let go but still being sent.
    held: AtomicU64,
    budget: AtomicU64,
    /// All that were admitted, oldest visit first.
    round: Mutex<VecDeque<Visit>>,
}

/// Where the hand comes by.
#[derive(Debug)]
struct Visit {
    shelf: Weak<Groups>,
    slot: u32,
    chunk: Weak<HotChunk>,
}

/// What is held, and what may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HotBytes {
    /// Bytes that are held now.
    pub held: u64,
    /// Bytes that may be.
    pub budget: u64,
}

/// The held chunks of all packs of a store.
#[derive(Clone, Debug, Default)]
pub(super) struct Hot(Arc<Shared>);

type Place = ArcSwapOption<HotChunk>;
type Groups = [OnceLock<Box<[Place]>>];

/// The held chunks of one pack, by slot.
#[derive(Debug)]
pub(super) struct Shelf {
    hot: Hot,
    groups: Arc<Groups>,
    /// Reads that were served from the page cache.
    missed: AtomicU32,
}

impl Hot {
    /// How much may be held, bytes. Less than is held now: the rest goes as the hand comes by.
    pub(super) fn set_budget(&self, bytes: u64) {
        self.0.budget.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> HotBytes {
        HotBytes {
            held: self.0.held.load(Ordering::Relaxed),
            budget: self.0.budget.load(Ordering::Relaxed),
        }
    }

    /// Books room for one chunk if it fits.
    fn book(&self) -> bool {
        let budget = self.0.budget.load(Ordering::Relaxed);
        let more = |held: u64| held.checked_add(CHUNK_BYTES).filter(|&sum| sum <= budget);
        let booked = self
            .0
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        booked.is_ok()
    }

    /// The hand moves on until a chunk that nobody read since its last visit is let go.
    fn make_room(&self) {
        // Somebody else moves the hand: then this chunk is not that important.
        let Ok(mut round) = self.0.round.try_lock() else {
            return;
        };
        for _ in 0..HOT_LOOKS_MAX {
            let Some(visit) = round.pop_front() else {
                return;
            };
            let (Some(groups), Some(chunk)) = (visit.shelf.upgrade(), visit.chunk.upgrade()) else {
                continue;
            };
            if chunk.used.swap(false, Ordering::Relaxed) {
                round.push_back(visit);
                continue;
            }
            if let Some(place) = place_in(&groups, visit.slot) {
                let none: Option<Arc<HotChunk>> = None;
                // Another chunk may lie there by now: that one stays.
                place.compare_and_swap(&chunk, none);
            }
            return;
        }
    }
}

fn place_in(groups: &Groups, slot: u32) -> Option<&Place> {
    let slot = slot as usize;
    groups.get(slot / GROUP)?.get()?.get(slot % GROUP)
}

impl Shelf {
    pub(super) fn new(hot: &Hot) -> Self {
        let groups = (PACK_SLOTS as usize).div_ceil(GROUP);
        Self {
            hot: hot.clone(),
            groups: (0..groups).map(|_| OnceLock::new()).collect(),
            missed: AtomicU32::new(0),
        }
    }

    /// The chunk of this content at this slot, if it is held. Takes no lock.
    pub(super) fn get(&self, slot: u32, id: &ChunkId) -> Option<Arc<HotChunk>> {
        let held = place_in(&self.groups, slot)?.load();
        let chunk = held.as_ref().filter(|chunk| chunk.id == *id)?;
        // Looked at first: a store would take the line from the other cores each time.
        if !chunk.used.load(Ordering::Relaxed) {
            chunk.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(chunk))
    }

    /// Copies bytes of a held chunk, from byte `skip` of it; false when it is not held.
    pub(super) fn copy(&self, slot: u32, id: &ChunkId, skip: usize, out: &mut [u8]) -> bool {
        let chunk = self.get(slot, id);
        let bytes = chunk
            .as_ref()
            .and_then(|c| c.bytes.get(skip..)?.get(..out.len()));
        bytes.map(|bytes| out.copy_from_slice(bytes)).is_some()
    }

    /// Holds a chunk whose hash was just found equal, if there is room for it.
    pub(super) fn admit(&self, slot: u32, id: ChunkId, bytes: &[u8]) {
        if bytes.len() != CHUNK_LEN || self.get(slot, &id).is_some() {
            return;
        }
        if !self.hot.book() {
            self.hot.make_room();
            if !self.hot.book() {
                return;
            }
        }
        let Some(group) = self.groups.get(slot as usize / GROUP) else {
            self.hot.0.held.fetch_sub(CHUNK_BYTES, Ordering::Relaxed);
            return;
        };
        let places = group.get_or_init(|| (0..GROUP).map(|_| Place::empty()).collect());
        let chunk = Arc::new(HotChunk {
            id,
            bytes: bytes.into(),
            used: AtomicBool::new(true),
            shared: Arc::clone(&self.hot.0),
        });
        let visit = Visit {
            shelf: Arc::downgrade(&self.groups),
            slot,
            chunk: Arc::downgrade(&chunk),
        };
        places[slot as usize % GROUP].store(Some(chunk));
        let mut round = self
            .hot
            .0
            .round
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let alive = self.hot.bytes().held / CHUNK_BYTES;
        if round.len() as u64 > 2 * alive + 64 {
            // Those of packs that were closed.
            round.retain(|visit| visit.chunk.strong_count() > 0);
        }
        round.push_back(visit);
    }

    /// Counts a read that the page cache served; true when its chunk should be held from now on.
    pub(super) fn missed(&self) -> bool {
        let budget = self.hot.0.budget.load(Ordering::Relaxed);
        let count = self.missed.fetch_add(1, Ordering::Relaxed);
        budget > 0 && count.is_multiple_of(HOT_READS_PER_LOOK)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn chunk(n: u8) -> (ChunkId, Vec<u8>) {
        let bytes = vec![n; CHUNK_LEN];
        (ChunkId::of(&bytes), bytes)
    }

    fn hold(shelf: &Shelf, slots: impl IntoIterator<Item = u8>) {
        for n in slots {
            let (id, bytes) = chunk(n);
            shelf.admit(u32::from(n), id, &bytes);
        }
    }

    /// Which are held; looking is no use.
    fn held(shelf: &Shelf) -> Vec<u8> {
        let there = |n: &u8| {
            let place = place_in(&shelf.groups, u32::from(*n));
            place.is_some_and(|place| place.load().is_some())
        };
        (0..=u8::MAX).filter(there).collect()
    }

    fn hot(chunks: u64) -> Hot {
        let hot = Hot::default();
        hot.set_budget(chunks * CHUNK_BYTES);
        hot
    }

    #[test]
    fn only_the_very_content_is_handed_out() {
        let hot = hot(8);
        let shelf = Shelf::new(&hot);
        hold(&shelf, [1, 2]);
        let ((one, bytes), (two, _)) = (chunk(1), chunk(2));
        assert_eq!(shelf.get(1, &one).unwrap().bytes(), bytes);
        assert!(shelf.get(1, &two).is_none() && shelf.get(2, &one).is_none());
        assert!(shelf.get(300, &one).is_none() && shelf.get(u32::MAX, &one).is_none());
        let mut part = [0; 7];
        assert!(shelf.copy(1, &one, CHUNK_LEN - 7, &mut part));
        assert_eq!(part, [1; 7]);
        assert!(
            !shelf.copy(1, &one, CHUNK_LEN - 6, &mut part),
            "past its end"
        );
    }

    #[test]
    fn the_budget_holds_and_what_is_read_stays() {
        let hot = hot(4);
        let shelf = Shelf::new(&hot);
        hold(&shelf, 0..4);
        // The first round only takes the marks of all four away; then they go in order, but 1 is read.
        for n in 4..20 {
            let (id, bytes) = chunk(n);
            shelf.admit(u32::from(n), id, &bytes);
            assert!(
                shelf.get(1, &chunk(1).0).is_some(),
                "read all the time, gone at {n}"
            );
            assert!(hot.bytes().held <= 4 * CHUNK_BYTES);
        }
        assert_eq!(held(&shelf).len(), 4);
        assert!(held(&shelf).contains(&1) && !held(&shelf).contains(&0));
    }

    #[test]
    fn nothing_is_held_without_a_budget() {
        let hot = hot(0);
        let shelf = Shelf::new(&hot);
        hold(&shelf, 0..4);
        assert_eq!((held(&shelf), hot.bytes().held), (Vec::new(), 0));
        assert!(!shelf.missed());
    }

    #[test]
    fn what_is_being_sent_stays_whole_and_counts_until_it_is_sent() {
        let hot = hot(1);
        let shelf = Shelf::new(&hot);
        hold(&shelf, [7]);
        let sending = shelf.get(7, &chunk(7).0).unwrap();
        hold(&shelf, [8, 9]);
        hold(&shelf, [8, 9]);
        assert_eq!(hot.bytes().held, CHUNK_BYTES, "no room while it is sent");
        assert_eq!(sending.bytes(), chunk(7).1);
        drop(sending);
        hold(&shelf, [9]);
        assert_eq!(held(&shelf), [9]);
    }

    #[test]
    fn a_closed_pack_gives_its_room_back_and_leaves_no_visits() {
        let hot = hot(4);
        for _ in 0..100 {
            hold(&Shelf::new(&hot), 0..4);
        }
        assert_eq!(hot.bytes().held, 0);
        assert!(hot.0.round.lock().unwrap().len() < 100);
    }

    #[test]
    fn another_content_at_the_same_slot_takes_the_place_of_the_old() {
        let hot = hot(2);
        let shelf = Shelf::new(&hot);
        let ((one, first), (two, second)) = (chunk(1), chunk(2));
        shelf.admit(5, one, &first);
        shelf.admit(5, two, &second);
        assert!(shelf.get(5, &one).is_none());
        assert_eq!(shelf.get(5, &two).unwrap().bytes(), second);
        assert_eq!(hot.bytes().held, CHUNK_BYTES);
    }
}
