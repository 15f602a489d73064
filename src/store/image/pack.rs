//! Packs: the files that hold chunks, and what is known in memory about each chunk in them.
//!
//! ```text
//!   slot state   unverified --begin--> unverified, next epoch --hash equal--> verified
//!                     ^                                                          |
//!                     `----------------- "would block" (evicted) ----------------'
//! ```
//! **Why a flipped bit on the medium cannot leave.** Bytes leave in three ways only.
//! 1. From the private buffer whose bytes were hashed ([`Pack::load`]).
//! 2. By a read that takes bytes only from the page cache ([`Pack::try_read`]), while every chunk it touches
//!    is in state *verified*. Bytes come into the page cache from the medium only when something asks the
//!    medium. The pack is opened with read-ahead off, so nothing but `load` asks, and `load` first moves
//!    the chunk out of *verified* into a new epoch, then reads, then hashes, then says *verified*. If pages
//!    of a verified chunk are evicted, the no-wait read says "would block" and the chunk is not verified
//!    any more. The one race left is a reader that saw *verified*, slept while the pages were evicted and
//!    a `load` brought them back changed, and then copied them: it looks at the states again after its
//!    copy, finds another epoch, and drops what it copied.
//! 3. From the memory of our own where verified chunks are held (`hot.rs`), into which they come by the first two
//!    ways only.
//!
//! Beyond this: another program that reads the pack file can bring an evicted page back behind our back, and
//! memory itself can flip a bit. Both are for ECC and for the scrub (`ImageStore::verify`).
//!
//! The state carries 32 bits of the chunk's id, so that "verified" said for one content never speaks for
//! another one at the same place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::bad::{self, BadPlaces, Fault};
use super::hot::{Hot, HotChunk, Shelf};
use super::manifest::{ChunkId, Place};
use crate::limits::CHUNK_BYTES;
use crate::limits::CHUNK_LEN;
use crate::limits::IMAGE_RUN_CHUNKS;
use crate::limits::PACK_SLOTS;
use crate::store::Buffer;
use crate::store::disk::{Disk, File, OpenMode};
use crate::store::error::{Error, ErrorKind, Result};
use crate::store::flight::{Flight, Join, Lead};

pub(super) const PACKS: &str = "images/packs";

const VERIFIED: u64 = 1;
const EPOCH: u64 = 2;
const EPOCH_BITS: u64 = 0xffff_fffe;

/// Path of pack `number`.
pub(super) fn path(number: u32) -> String {
    format!("{PACKS}/{number:08}.pack")
}

/// Number of the pack with this file name.
pub(super) fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".pack")?;
    (digits.len() == 8).then(|| digits.parse().ok()).flatten()
}

/// Offset of a slot in its pack.
pub(super) fn offset_of(slot: u32) -> u64 {
    u64::from(slot) * CHUNK_BYTES
}

/// The open packs of a store; images share them, and with them what is verified.
#[derive(Debug)]
pub(super) struct Packs {
    disk: Arc<dyn Disk>,
    open: Mutex<HashMap<u32, Weak<Pack>>>,
    pub(super) bad: BadPlaces,
    pub(super) hot: Hot,
}

impl Packs {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            open: Mutex::default(),
            bad: BadPlaces::default(),
            hot: Hot::default(),
        }
    }

    /// Writes the bytes of `id` over a bad place where they should be. True when the medium holds them now: every
    /// image that names the place, open or not, is whole there again. Killed or cut off midway, the place
    /// is as bad as before.
    pub(super) fn mend(&self, place: Place, id: ChunkId, bytes: &[u8]) -> Result<bool> {
        let pack = self.open(place.pack)?;
        let file = self.disk.open(&path(place.pack), OpenMode::ReadWrite)?;
        if file.len()? < offset_of(place.slot) + CHUNK_BYTES {
            return Ok(false);
        }
        pack.mend(
            &*file,
            Wanted {
                id,
                slot: place.slot,
            },
            bytes,
        )
    }

    /// Pack `number`, the same one while anybody holds it.
    pub(super) fn open(&self, number: u32) -> Result<Arc<Pack>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pack) = open.get(&number).and_then(Weak::upgrade) {
            return Ok(pack);
        }
        let file = self.disk.open(&path(number), OpenMode::Read)?;
        file.advise_random();
        let pack = Arc::new(Pack::new(number, file, self));
        open.retain(|_, pack| pack.strong_count() > 0);
        open.insert(number, Arc::downgrade(&pack));
        Ok(pack)
    }
}

/// A chunk wanted from a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) id: ChunkId,
    pub(super) slot: u32,
}

impl Wanted {
    /// State of this chunk when verified, without the epoch.
    fn tag(&self) -> u64 {
        let [a, b, c, d, ..] = self.id.0;
        u64::from(u32::from_le_bytes([a, b, c, d])) << 32 | VERIFIED
    }
}

/// The verified bytes of a chunk: a part of a private buffer.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    buffer: Arc<Buffer>,
    start: usize,
}

impl Loaded {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + CHUNK_LEN]
    }
}

/// An error that can be handed to many waiters.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    kind: ErrorKind,
    why: Arc<str>,
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self {
            kind: e.kind(),
            why: e.to_string().into(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, &*failure.why)
    }
}

type Outcome = std::result::Result<Loaded, Failure>;

/// An open pack.
#[derive(Debug)]
pub(super) struct Pack {
    number: u32,
    file: Arc<dyn File>,
    // One for each slot that a pack can have, since a pack may grow while it is open. Untouched pages of
    // this table cost nothing.
    states: Box<[AtomicU64]>,
    // By slot. The id says whose result it is: who wants another content at that place starts anew.
    loads: Flight<u32, (ChunkId, Outcome)>,
    bad: BadPlaces,
    shelf: Shelf,
}

impl Pack {
    fn new(number: u32, file: Arc<dyn File>, packs: &Packs) -> Self {
        let states = (0..PACK_SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self {
            number,
            file,
            states,
            loads: Flight::new(),
            bad: packs.bad.clone(),
            shelf: Shelf::new(&packs.hot),
        }
    }

    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Refuses a pack that does not hold `slots` slots.
    pub(super) fn check_len(&self, slots: u32) -> Result<()> {
        let (len, needed) = (self.file.len()?, offset_of(slots));
        if len < needed {
            let why = format!("{} has {len} bytes, {needed} are in use", path(self.number));
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
        Ok(())
    }

    /// The chunk, if it is held in memory of our own.
    pub(super) fn hot(&self, wanted: Wanted) -> Option<Arc<HotChunk>> {
        self.shelf.get(wanted.slot, &wanted.id)
    }

    /// Fills `out` from byte `skip` of the first of `run`, chunks in neighbouring slots, if all of them are
    /// verified and in memory. Takes no lock and does not wait; allocates only for a chunk that is held from
    /// now on. `run` has at most [`IMAGE_RUN_CHUNKS`] chunks.
    pub(super) fn try_read(
        &self,
        run: impl Iterator<Item = Wanted> + Clone,
        skip: u64,
        out: &mut [u8],
    ) -> Result<bool> {
        if self.copy_held(run.clone(), skip, out) {
            return Ok(true);
        }
        let cached = self.try_cached(run.clone(), skip, out)?;
        if cached
            && self.shelf.missed()
            && let Some(wanted) = run.into_iter().next()
        {
            self.hold(wanted);
        }
        Ok(cached)
    }

    /// Copies from chunks that are held; false when one of them is not.
    fn copy_held(&self, run: impl Iterator<Item = Wanted>, skip: u64, out: &mut [u8]) -> bool {
        // `skip` is less than a chunk, so this fits.
        let mut from = usize::try_from(skip).unwrap_or(0);
        let mut rest = out;
        for wanted in run {
            let len = rest.len().min(CHUNK_LEN - from);
            let (part, behind) = rest.split_at_mut(len);
            if !self.shelf.copy(wanted.slot, &wanted.id, from, part) {
                return false;
            }
            (from, rest) = (0, behind);
        }
        rest.is_empty()
    }

    /// A chunk that the page cache serves often is held from now on.
    fn hold(&self, wanted: Wanted) {
        let mut buffer = Buffer::take(CHUNK_LEN);
        if let Ok(true) = self.try_cached(std::iter::once(wanted), 0, &mut buffer) {
            self.shelf.admit(wanted.slot, wanted.id, &buffer);
        }
    }

    /// As [`Self::try_read`], from the page cache.
    fn try_cached(
        &self,
        run: impl Iterator<Item = Wanted> + Clone,
        skip: u64,
        out: &mut [u8],
    ) -> Result<bool> {
        let mut seen = [0; IMAGE_RUN_CHUNKS];
        let mut first = None;
        for (wanted, seen) in run.clone().zip(&mut seen) {
            *seen = self.state(wanted.slot).load(Ordering::SeqCst);
            if *seen & !EPOCH_BITS != wanted.tag() {
                return Ok(false);
            }
            first = first.or(Some(wanted.slot));
        }
        let Some(first) = first else { return Ok(true) };
        if !self.file.try_read_at(offset_of(first) + skip, out)? {
            for (wanted, &seen) in run.zip(&seen) {
                self.evicted(wanted.slot, seen);
            }
            return Ok(false);
        }
        // Second look: see the head of this file.
        let same = |(wanted, &seen): (Wanted, &u64)| {
            self.state(wanted.slot).load(Ordering::SeqCst) == seen
        };
        Ok(run.zip(&seen).all(same))
    }

    /// Hands the verified bytes of the first chunk of `run` (neighbouring slots) to `take` with its place in
    /// the run, then those of the chunks behind it that the same call could read. Returns how many were
    /// taken. May block.
    pub(super) fn load(
        &self,
        run: &[Wanted],
        mut take: impl FnMut(usize, &Loaded),
    ) -> Result<usize> {
        let Some(&first) = run.first() else {
            return Ok(0);
        };
        let lead = loop {
            match self.loads.join(first.slot) {
                Join::Lead(lead) => break lead,
                Join::Wait(waiter) => {
                    if let Some((id, outcome)) = waiter.wait()
                        && id == first.id
                    {
                        take(0, &outcome?);
                        return Ok(1);
                    }
                }
            }
        };
        // Who led before may have ended between the caller's look and now: then it is in memory.
        if let Some(loaded) = self.loaded_before(first) {
            take(0, &loaded);
            lead.finish((first.id, Ok(loaded)));
            return Ok(1);
        }
        let mut leads = vec![lead];
        // No waiting from here on: leads are held.
        leads.extend(
            run.iter()
                .skip(1)
                .map_while(|&next| self.loads.try_lead(next.slot)),
        );
        let outcomes = self.fetch(&run[..leads.len()]);
        for (wanted, outcome) in run.iter().zip(&outcomes) {
            if let Ok(loaded) = outcome {
                self.shelf.admit(wanted.slot, wanted.id, loaded.bytes());
            }
        }
        let mut taken = 0;
        let mut failed = None;
        for (at, (lead, outcome)) in leads.into_iter().zip(outcomes).enumerate() {
            match &outcome {
                Ok(loaded) if failed.is_none() => {
                    take(at, loaded);
                    taken += 1;
                }
                Ok(_) => {}
                Err(failure) => failed = failed.or_else(|| Some(failure.clone())),
            }
            lead.finish((run[at].id, outcome));
        }
        match failed {
            // The caller comes back for the one that failed and then learns which it is.
            Some(failure) if taken == 0 => Err(failure.into()),
            _ => Ok(taken),
        }
    }

    /// The bytes of a chunk that is verified and in memory, in a buffer of their own.
    fn loaded_before(&self, wanted: Wanted) -> Option<Loaded> {
        if self.state(wanted.slot).load(Ordering::SeqCst) & !EPOCH_BITS != wanted.tag() {
            return None;
        }
        let mut buffer = Buffer::take(CHUNK_LEN);
        let there = self.try_read(std::iter::once(wanted), 0, &mut buffer);
        there.unwrap_or(false).then(|| Loaded {
            buffer: Arc::new(buffer),
            start: 0,
        })
    }

    /// Writes good bytes over a bad slot, and asks the medium whether it holds them. Nobody loads the slot
    /// meanwhile.
    fn mend(&self, file: &dyn File, wanted: Wanted, bytes: &[u8]) -> Result<bool> {
        let lead = self.lead(wanted.slot);
        self.begin(wanted.slot);
        file.write_at(offset_of(wanted.slot), bytes)?;
        file.sync()?;
        self.file
            .advise_unneeded(offset_of(wanted.slot), CHUNK_BYTES);
        let outcome = self.fetch(&[wanted]).pop();
        let mended = matches!(outcome, Some(Ok(_)));
        if let Some(outcome) = outcome {
            lead.finish((wanted.id, outcome));
        }
        Ok(mended)
    }

    /// Leads the work on a slot, after whoever does now.
    fn lead(&self, slot: u32) -> Lead<'_, u32, (ChunkId, Outcome)> {
        loop {
            match self.loads.join(slot) {
                Join::Lead(lead) => return lead,
                Join::Wait(waiter) => drop(waiter.wait()),
            }
        }
    }

    /// Asks the medium again, whatever is in memory, and compares.
    pub(super) fn scrub(&self, wanted: Wanted) -> Result<()> {
        // The result of somebody else may have come from memory: it is waited out.
        let lead = self.lead(wanted.slot);
        self.begin(wanted.slot);
        self.file
            .advise_unneeded(offset_of(wanted.slot), CHUNK_BYTES);
        let outcome = self.fetch(&[wanted]).pop();
        let result = match &outcome {
            Some(Err(failure)) => Err(failure.clone().into()),
            _ => Ok(()),
        };
        if let Some(outcome) = outcome {
            lead.finish((wanted.id, outcome));
        }
        result
    }

    /// As [`Self::scrub`], and leaves in memory only what was there: the chunk of a running boot stays, one that
    /// nobody reads does not take its place.
    pub(super) fn patrol(&self, wanted: Wanted) -> Result<()> {
        let mut scratch = Buffer::take(CHUNK_LEN);
        // The page cache alone is asked: what is held in memory of our own is there whatever becomes of it, and
        // this look is no use of it.
        let hot = self.try_cached(std::iter::once(wanted), 0, &mut scratch);
        let result = self.scrub(wanted);
        if !hot.unwrap_or(false) {
            self.file
                .advise_unneeded(offset_of(wanted.slot), CHUNK_BYTES);
        }
        result
    }

    /// Reads and verifies chunks in neighbouring slots that the caller leads.
    fn fetch(&self, run: &[Wanted]) -> Vec<Outcome> {
        for wanted in run {
            self.begin(wanted.slot);
        }
        let mut buffer = Buffer::take(run.len() * CHUNK_LEN);
        let at = run.first().map_or(0, |first| offset_of(first.slot));
        if let Err(e) = self.file.read_at(at, &mut buffer) {
            // One bad sector must not hide its neighbours: ask for each chunk alone.
            return match run {
                [] => vec![Err(e.into())],
                [one] => vec![Err(self.unreadable(*one, &e).into())],
                run => run.iter().flat_map(|&one| self.fetch(&[one])).collect(),
            };
        }
        let buffer = Arc::new(buffer);
        let check = |(number, wanted): (usize, &Wanted)| {
            let loaded = Loaded {
                buffer: Arc::clone(&buffer),
                start: number * CHUNK_LEN,
            };
            self.judge(*wanted, loaded)
        };
        run.iter().enumerate().map(check).collect()
    }

    fn judge(&self, wanted: Wanted, loaded: Loaded) -> Outcome {
        let place = self.place(wanted);
        if ChunkId::of(loaded.bytes()) == wanted.id {
            let state = self.state(wanted.slot);
            let epoch = state.load(Ordering::SeqCst) & EPOCH_BITS;
            state.store(wanted.tag() | epoch, Ordering::SeqCst);
            self.bad.is_good(place, wanted.id);
            return Ok(loaded);
        }
        self.bad.add(place, wanted.id, Fault::Changed);
        let why = bad::describe(place, wanted.id, None);
        Err(Error::new(ErrorKind::Corrupt, why).into())
    }

    fn unreadable(&self, wanted: Wanted, e: &Error) -> Error {
        let place = self.place(wanted);
        if e.kind() == ErrorKind::Io {
            self.bad.add(place, wanted.id, Fault::Unreadable);
        }
        Error::new(e.kind(), bad::describe(place, wanted.id, Some(e)))
    }

    const fn place(&self, wanted: Wanted) -> Place {
        Place {
            pack: self.number,
            slot: wanted.slot,
        }
    }

    /// Nothing is known about the slot any more, and who is reading it right now will notice.
    fn begin(&self, slot: u32) {
        let next = |state: u64| Some((state & EPOCH_BITS).wrapping_add(EPOCH) & EPOCH_BITS);
        let _ = self
            .state(slot)
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    }

    /// The slot's bytes have left memory since its state was `seen`.
    fn evicted(&self, slot: u32, seen: u64) {
        let gone = seen & EPOCH_BITS;
        // When it is not `seen` any more, somebody reloads it already.
        let _ = self
            .state(slot)
            .compare_exchange(seen, gone, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn state(&self, slot: u32) -> &AtomicU64 {
        &self.states[slot as usize]
    }
}
