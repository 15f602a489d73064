//! What is known to be bad: places of packs whose bytes are not those of their chunk, or cannot be read.
//!
//! ```text
//!   load, verify, scrub --found--> known, told once --saved--> images/bad  (survives a restart)
//!   a good read, an import that writes the chunk again --healed--> forgotten, told
//! ```
//! Imports do not deduplicate against these places; they write good bytes over them (`Packs::mend`). So the
//! list must outlive the process: otherwise an import after a restart would keep the bad chunk.
//!
//! The file: magic 8, format 4, CRC-32C of all other bytes 4, then 64 bytes for each place: pack 4, slot 4,
//! id 32, when it was found in ms since 1970 8, why 4, 1 if nobody was told of it yet 4, zero 8. Damaged or newer, it
//! is left out and told: the scrub finds again what was in it.
//!
//! A command that runs without a daemon finds places and tells nobody but its caller: the next daemon reads that
//! from the file and tells them as its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::manifest::{ChunkId, Place};
use super::pack;
use crate::limits::{BAD_NEWS_MAX, BAD_PLACES_MAX};
use crate::store::disk::{Disk, OpenMode};
use crate::store::error::{Error, ErrorKind, Result};
use crate::units::UnixMillis;

const FILE: &str = "images/bad";
const TMP: &str = "images/tmp/bad";
const MAGIC: [u8; 8] = *b"REVEBAD\n";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 64;

/// Why a place is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes do not have the id of the chunk.
    Changed,
    /// The medium does not give the bytes.
    Unreadable,
}

/// A place of a pack that does not hold its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPlace {
    /// Where.
    pub place: Place,
    /// The chunk that should be there.
    pub id: ChunkId,
    /// When it was found.
    pub found: UnixMillis,
    /// What is wrong.
    pub fault: Fault,
}

impl BadPlace {
    /// Path of the pack below the store's directory.
    #[must_use]
    pub fn pack_path(&self) -> String {
        pack::path(self.place.pack)
    }

    /// Offset in the pack, bytes.
    #[must_use]
    pub fn pack_offset(&self) -> u64 {
        pack::offset_of(self.place.slot)
    }
}

/// Something to tell about a place; each is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadNews {
    /// It was found bad.
    Found(BadPlace),
    /// It holds its chunk again.
    Healed(BadPlace),
}

type Bell = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Inner {
    /// Places known, so that the usual read asks a number and takes no lock.
    count: AtomicUsize,
    state: Mutex<State>,
    bell: OnceLock<Bell>,
}

#[derive(Default)]
struct State {
    places: BTreeMap<Place, BadPlace>,
    news: Vec<BadNews>,
    /// Counted up by every change.
    generation: u64,
    saved: u64,
    /// The file calls places untold that were told since.
    told: bool,
}

impl State {
    /// The places of which nobody was told yet.
    fn untold(&self) -> BTreeSet<Place> {
        let found = self.news.iter().filter_map(|news| match news {
            BadNews::Found(bad) => Some(bad.place),
            BadNews::Healed(_) => None,
        });
        found.collect()
    }
}

/// The bad places of a store; clones share them.
#[derive(Clone, Default)]
pub(super) struct BadPlaces(Arc<Inner>);

impl std::fmt::Debug for BadPlaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BadPlaces({})", self.0.count.load(Ordering::SeqCst))
    }
}

impl BadPlaces {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `bell` called after each piece of news, on whatever thread found it: it must be quick.
    pub(super) fn set_bell(&self, bell: Bell) {
        let _ = self.0.bell.set(bell);
    }

    /// All places, in the order of packs and slots.
    pub(super) fn all(&self) -> Vec<BadPlace> {
        self.state().places.values().copied().collect()
    }

    /// True when the bytes at a place are known to be bad.
    pub(super) fn contains(&self, place: Place) -> bool {
        self.state().places.contains_key(&place)
    }

    /// The chunk that should be at each bad place.
    pub(super) fn ids(&self) -> BTreeMap<Place, ChunkId> {
        let state = self.state();
        state.places.iter().map(|(&at, bad)| (at, bad.id)).collect()
    }

    /// Changes with every place that comes or goes.
    pub(super) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// What was not told yet.
    pub(super) fn take_news(&self) -> Vec<BadNews> {
        let mut state = self.state();
        state.told |= state.news.iter().any(|n| matches!(n, BadNews::Found(_)));
        std::mem::take(&mut state.news)
    }

    /// The bytes there are not those of `id`, or cannot be had. Told the first time only.
    pub(super) fn add(&self, place: Place, id: ChunkId, fault: Fault) {
        let mut state = self.state();
        let known = state.places.get(&place).is_some_and(|bad| bad.id == id);
        if known || state.places.len() >= BAD_PLACES_MAX {
            return;
        }
        let bad = BadPlace {
            place,
            id,
            found: UnixMillis::now(),
            fault,
        };
        state.places.insert(place, bad);
        self.changed(state, BadNews::Found(bad));
    }

    /// The place was seen to hold `id`.
    pub(super) fn is_good(&self, place: Place, id: ChunkId) {
        if self.0.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut state = self.state();
        if state.places.get(&place).is_some_and(|bad| bad.id == id)
            && let Some(bad) = state.places.remove(&place)
        {
            self.changed(state, BadNews::Healed(bad));
        }
    }

    /// No manifest names the place any more, or a new chunk is written there: nothing to tell.
    pub(super) fn forget(&self, place: Place) {
        if self.0.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut state = self.state();
        if state.places.remove(&place).is_some() {
            state.generation += 1;
            self.0.count.store(state.places.len(), Ordering::SeqCst);
        }
    }

    /// Forgets the places that `used` denies.
    pub(super) fn retain(&self, used: impl Fn(Place) -> bool) {
        for bad in self.all() {
            if !used(bad.place) {
                self.forget(bad.place);
            }
        }
    }

    fn changed(&self, mut state: MutexGuard<'_, State>, news: BadNews) {
        state.generation += 1;
        self.0.count.store(state.places.len(), Ordering::SeqCst);
        if state.news.len() < BAD_NEWS_MAX {
            state.news.push(news);
        }
        drop(state);
        if let Some(bell) = self.0.bell.get() {
            bell();
        }
    }

    /// Reads what an earlier process knew. `Some` is why that was not possible.
    pub(super) fn load(&self, disk: &dyn Disk) -> Result<Option<String>> {
        if !disk.list("images")?.iter().any(|name| name == "bad") {
            return Ok(None);
        }
        let file = disk.open(FILE, OpenMode::Read)?;
        let most = HEADER_BYTES + BAD_PLACES_MAX * ENTRY_BYTES;
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        let places = if len > most {
            Err(format!("it has {len} bytes"))
        } else {
            let mut bytes = vec![0; len];
            match file.read_at(0, &mut bytes) {
                Ok(()) => decode(&bytes),
                Err(e) => Err(e.to_string()),
            }
        };
        let places = match places {
            Ok(places) => places,
            Err(why) => return Ok(Some(format!("{FILE}: {why}"))),
        };
        let mut state = self.state();
        let untold = places.iter().filter(|(_, untold)| *untold);
        let news = untold.map(|(bad, _)| BadNews::Found(*bad));
        state.news = news.take(BAD_NEWS_MAX).collect();
        let places = places.into_iter().map(|(bad, _)| (bad.place, bad));
        state.places = places.collect();
        self.0.count.store(state.places.len(), Ordering::SeqCst);
        Ok(None)
    }

    /// Writes them down, if something changed since the last time.
    pub(super) fn save(&self, disk: &dyn Disk) -> Result<()> {
        // Held throughout: two writers would take turns in one file.
        let mut state = self.state();
        if state.saved == state.generation && !state.told {
            return Ok(());
        }
        let bytes = encode(state.places.values(), &state.untold());
        match disk.remove(TMP) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = disk.open(TMP, OpenMode::CreateNew)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        disk.rename(TMP, FILE)?;
        disk.sync_dir("images")?;
        state.saved = state.generation;
        state.told = false;
        Ok(())
    }
}

fn encode<'a>(places: impl Iterator<Item = &'a BadPlace>, untold: &BTreeSet<Place>) -> Vec<u8> {
    let mut out = Vec::from(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for bad in places {
        out.extend_from_slice(&bad.place.pack.to_le_bytes());
        out.extend_from_slice(&bad.place.slot.to_le_bytes());
        out.extend_from_slice(&bad.id.0);
        out.extend_from_slice(&bad.found.0.to_le_bytes());
        let why: u32 = match bad.fault {
            Fault::Changed => 1,
            Fault::Unreadable => 2,
        };
        out.extend_from_slice(&why.to_le_bytes());
        let untold = u32::from(untold.contains(&bad.place));
        out.extend_from_slice(&untold.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
    }
    let sum = checksum(&out);
    out[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    out
}

/// What [`encode`] wrote, each place with whether it is untold; or why it is not that.
fn decode(bytes: &[u8]) -> std::result::Result<Vec<(BadPlace, bool)>, String> {
    let cut = || "it is cut short".to_owned();
    let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(cut)?;
    let word = |raw: &[u8], at: usize| {
        let four = raw.get(at..).and_then(|rest| rest.first_chunk::<4>());
        four.map_or(0, |four| u32::from_le_bytes(*four))
    };
    if !header.starts_with(&MAGIC) {
        return Err("it does not begin as it should".into());
    }
    if word(header, 8) != FORMAT {
        return Err(format!("it has format {}, not {FORMAT}", word(header, 8)));
    }
    if word(header, 12) != checksum(bytes) {
        return Err("its checksum does not match".into());
    }
    let (entries, rest) = body.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err(cut());
    }
    let entry = |raw: &[u8; ENTRY_BYTES]| {
        let (mut id, mut found) = ([0; 32], [0; 8]);
        id.copy_from_slice(&raw[8..40]);
        found.copy_from_slice(&raw[40..48]);
        let bad = BadPlace {
            place: Place {
                pack: word(raw, 0),
                slot: word(raw, 4),
            },
            id: ChunkId(id),
            found: UnixMillis(u64::from_le_bytes(found)),
            fault: match word(raw, 48) {
                2 => Fault::Unreadable,
                _ => Fault::Changed,
            },
        };
        (bad, word(raw, 52) == 1)
    };
    Ok(entries.iter().map(entry).collect())
}

/// CRC-32C over everything but the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let (before, rest) = bytes.split_at(HEADER_BYTES - 4);
    let after = rest.get(4..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(before), after)
}

/// Says at what place an error of a pack happened, and why.
pub(super) fn describe(place: Place, id: ChunkId, cause: Option<&Error>) -> String {
    let (path, at) = (pack::path(place.pack), pack::offset_of(place.slot));
    match cause {
        None => format!(
            "the bytes in {path} at offset {at} do not have the id {id:?} any more; \
             import the image again"
        ),
        Some(e) => format!("{path} at offset {at} cannot be read: {e}; import the image again"),
    }
}

#[cfg(test)]
mod test {
    use std::sync::atomic::AtomicU32;

    use super::super::memory::MemoryDisk;
    use super::*;

    fn place(pack: u32, slot: u32) -> Place {
        Place { pack, slot }
    }

    fn disk() -> MemoryDisk {
        let disk = MemoryDisk::default();
        for dir in ["images", "images/tmp"] {
            disk.create_dir(dir).unwrap();
        }
        disk
    }

    #[test]
    fn a_place_is_told_once_when_it_goes_bad_and_once_when_it_heals() {
        let bad = BadPlaces::default();
        let rung = Arc::new(AtomicU32::new(0));
        let bell = Arc::clone(&rung);
        bad.set_bell(Box::new(move || {
            bell.fetch_add(1, Ordering::SeqCst);
        }));
        let id = ChunkId([7; 32]);
        for _ in 0..3 {
            bad.add(place(1, 2), id, Fault::Changed);
        }
        bad.is_good(place(1, 3), id);
        assert_eq!(bad.take_news().len(), 1);
        bad.is_good(place(1, 2), ChunkId([8; 32]));
        assert_eq!(bad.all().len(), 1, "another content there says nothing");
        bad.is_good(place(1, 2), id);
        assert!(matches!(bad.take_news()[..], [BadNews::Healed(b)] if b.place == place(1, 2)));
        assert_eq!((bad.all().len(), rung.load(Ordering::SeqCst)), (0, 2));
    }

    #[test]
    fn what_is_bad_survives_a_restart() {
        let disk = disk();
        let bad = BadPlaces::default();
        bad.add(place(3, 9), ChunkId([1; 32]), Fault::Changed);
        bad.add(place(1, 2), ChunkId([2; 32]), Fault::Unreadable);
        assert_eq!(bad.take_news().len(), 2);
        bad.save(&disk).unwrap();
        let again = BadPlaces::default();
        assert_eq!(again.load(&disk).unwrap(), None);
        assert_eq!(again.all(), bad.all());
        assert_eq!(again.take_news(), [], "it was told before");
    }

    #[test]
    fn what_nobody_was_told_is_told_by_the_next_process_once() {
        let disk = disk();
        let bad = BadPlaces::default();
        bad.add(place(1, 1), ChunkId([1; 32]), Fault::Changed);
        assert_eq!(bad.take_news().len(), 1);
        bad.add(place(3, 9), ChunkId([2; 32]), Fault::Unreadable);
        bad.save(&disk).unwrap();
        // A command that asks only, and ends.
        let asked = BadPlaces::default();
        asked.load(&disk).unwrap();
        asked.save(&disk).unwrap();
        let daemon = BadPlaces::default();
        daemon.load(&disk).unwrap();
        assert_eq!(daemon.take_news(), [BadNews::Found(bad.all()[1])]);
        daemon.save(&disk).unwrap();
        let next = BadPlaces::default();
        next.load(&disk).unwrap();
        assert_eq!((next.all(), next.take_news()), (bad.all(), Vec::new()));
    }

    #[test]
    fn every_flipped_bit_of_the_file_is_noticed() {
        let disk = disk();
        let bad = BadPlaces::default();
        bad.add(place(3, 9), ChunkId([1; 32]), Fault::Changed);
        bad.save(&disk).unwrap();
        let whole = disk.bytes(FILE);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(decode(&bytes).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        disk.flip(FILE, 30);
        disk.evict(FILE);
        let again = BadPlaces::default();
        let why = again.load(&disk).unwrap().unwrap();
        assert!(why.contains("images/bad: its checksum"), "{why}");
        assert_eq!(again.all(), []);
    }

    #[test]
    fn the_frozen_file_of_format_1_is_read() {
        let bad = BadPlace {
            place: place(2, 5),
            id: ChunkId([0xab; 32]),
            found: UnixMillis(1_700_000_000_000),
            fault: Fault::Unreadable,
        };
        let mut frozen = b"REVEBAD\n\x01\0\0\0".to_vec();
        frozen.extend_from_slice(&FROZEN_SUM);
        frozen.extend_from_slice(b"\x02\0\0\0\x05\0\0\0");
        frozen.extend_from_slice(&[0xab; 32]);
        frozen.extend_from_slice(b"\0\x68\xe5\xcf\x8b\x01\0\0\x02\0\0\0");
        frozen.extend_from_slice(&[0; 12]);
        assert_eq!(encode([bad].iter(), &BTreeSet::new()), frozen);
        assert_eq!(decode(&frozen).unwrap(), [(bad, false)]);
    }

    const FROZEN_SUM: [u8; 4] = [0x15, 0xf4, 0x4e, 0xba];
}
