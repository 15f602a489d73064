//! What is in use: every slot that some manifest, or some open image, names. Taken afresh by each import and
//! each collection, so that no index has to be kept up to date and start-up costs nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::bad::BadPlaces;
use super::manifest::{ChunkId, Entry, Manifest, Place};
use super::pack;
use super::sealed::Image;
use crate::limits::CHUNK_BYTES;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::store::ImageId;
use crate::store::disk::{Disk, OpenMode};
use crate::store::error::{Error, ErrorKind, Result};

pub(super) const MANIFESTS: &str = "images/manifests";

/// Path of the manifest of an image.
pub(super) fn manifest_path(id: ImageId) -> String {
    format!("{MANIFESTS}/{id}")
}

/// Bytes of the manifest's file.
pub(super) fn read_file(disk: &dyn Disk, id: ImageId) -> Result<Vec<u8>> {
    let path = manifest_path(id);
    let file = disk.open(&path, OpenMode::Read)?;
    let len = file.len()?;
    if len > MANIFEST_BYTES_MAX {
        let why = format!("{path} has {len} bytes, more than any manifest");
        return Err(Error::new(ErrorKind::Corrupt, why));
    }
    // Fits: the bound above is far below 2^63 and this is a 64-bit program.
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// The manifest of an image, checked.
pub(super) fn read_manifest(disk: &dyn Disk, id: ImageId) -> Result<Manifest> {
    let bytes = read_file(disk, id)?;
    Manifest::decode(&bytes).map_err(|e| e.within(manifest_path(id)))
}

/// The images that have a manifest.
pub(super) fn list(disk: &dyn Disk) -> Result<Vec<ImageId>> {
    let names = disk.list(MANIFESTS)?;
    Ok(names
        .iter()
        .filter_map(|name| ImageId::parse(name))
        .collect())
}

/// The slots of a pack that are in use.
#[derive(Debug, Default)]
struct Slots {
    bits: Vec<u64>,
    end: u32,
}

impl Slots {
    fn add(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << (slot % 64);
        self.end = self.end.max(slot + 1);
    }

    fn holds(&self, slot: u32) -> bool {
        self.bits
            .get(slot as usize / 64)
            .is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// The runs of unused slots before the end: first and count.
    fn gaps(&self) -> Vec<(u32, u32)> {
        let mut gaps: Vec<(u32, u32)> = Vec::new();
        for slot in (0..self.end).filter(|&slot| !self.holds(slot)) {
            match gaps.last_mut() {
                Some((first, count)) if *first + *count == slot => *count += 1,
                _ => gaps.push((slot, 1)),
            }
        }
        gaps
    }
}

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) packs: u64,
    pub(super) bytes: u64,
}

/// The result of looking at all manifests.
#[derive(Debug)]
pub(super) struct Survey {
    /// Every chunk in use whose bytes are not known to be bad.
    pub(super) index: HashMap<ChunkId, Place>,
    /// Bad places that hold the chunk for every manifest that names them: an import may write it there again.
    pub(super) mendable: HashMap<ChunkId, Vec<Place>>,
    used: BTreeMap<u32, Slots>,
    /// Packs that exist, with the number of whole slots in them.
    packs: BTreeMap<u32, u64>,
    /// Manifests that cannot be read: nobody knows what they use, so nothing may be given back.
    damaged: Option<Error>,
}

impl Survey {
    /// Reads all manifests; `open` are images that somebody holds, whatever manifests say now.
    pub(super) fn take(disk: &dyn Disk, bad: &BadPlaces, open: &[Arc<Image>]) -> Result<Self> {
        let names = disk.list(pack::PACKS)?;
        let mut survey = Self {
            index: HashMap::new(),
            mendable: HashMap::new(),
            used: BTreeMap::new(),
            packs: BTreeMap::new(),
            damaged: None,
        };
        for number in names.iter().filter_map(|name| pack::number_of(name)) {
            let len = disk.open(&pack::path(number), OpenMode::Read)?.len()?;
            survey.packs.insert(number, len / CHUNK_BYTES);
        }
        let bad = &bad.ids();
        // Places that two manifests name for two chunks: then it is a manifest that is wrong.
        let mut disputed = BTreeSet::new();
        for image in open {
            survey.add(image.manifest().entries(), bad, &mut disputed);
        }
        for id in list(disk)? {
            match read_manifest(disk, id) {
                Ok(manifest) => survey.add(manifest.entries(), bad, &mut disputed),
                Err(e) => survey.damaged = Some(e),
            }
        }
        // While a manifest cannot be read, nobody knows whether it disputes.
        let whole = survey.damaged.is_none();
        for (&place, &id) in bad {
            if whole && survey.names(place) && !disputed.contains(&place) {
                survey.mendable.entry(id).or_default().push(place);
            }
        }
        Ok(survey)
    }

    /// True when some manifest names the place.
    pub(super) fn names(&self, place: Place) -> bool {
        let slots = self.used.get(&place.pack);
        slots.is_some_and(|slots| slots.holds(place.slot)) || self.damaged.is_some()
    }

    fn add(
        &mut self,
        entries: &[Entry],
        bad: &BTreeMap<Place, ChunkId>,
        disputed: &mut BTreeSet<Place>,
    ) {
        for entry in entries {
            self.used
                .entry(entry.place.pack)
                .or_default()
                .add(entry.place.slot);
            // A chunk whose pack was lost or cut is written anew, so that importing an image again repairs it.
            let there = self.packs.get(&entry.place.pack);
            let there = there.is_some_and(|slots| u64::from(entry.place.slot) < *slots);
            match bad.get(&entry.place) {
                None if there => {
                    self.index.insert(entry.id, entry.place);
                }
                None => {}
                Some(id) if *id != entry.id => {
                    disputed.insert(entry.place);
                }
                Some(_) => {}
            }
        }
    }

    /// Why nothing may be given back, if so.
    pub(super) fn damaged(&mut self) -> Option<Error> {
        self.damaged.take()
    }

    /// Where the next new chunk goes; a slot of 0 means into a pack that does not exist yet.
    pub(super) fn next_place(&self, slots: u32) -> Place {
        let last = self
            .used
            .last_key_value()
            .filter(|_| self.damaged.is_none());
        if let Some((&pack, used)) = last
            && used.end < slots
            && self.packs.contains_key(&pack)
        {
            return Place {
                pack,
                slot: used.end,
            };
        }
        let used = self.used.keys().copied().max().unwrap_or(0);
        let there = self.packs.keys().copied().max().unwrap_or(0);
        Place {
            pack: used.max(there) + 1,
            slot: 0,
        }
    }

    /// Removes packs that nothing names and cuts off what lies behind the last used slot of the others: the
    /// traces of imports that did not end. Does nothing while a manifest cannot be read.
    pub(super) fn tidy(&mut self, disk: &dyn Disk) -> Result<Freed> {
        let mut freed = Freed::default();
        if self.damaged.is_some() {
            return Ok(freed);
        }
        for &number in self.packs.keys() {
            let path = pack::path(number);
            let file = disk.open(&path, OpenMode::ReadWrite)?;
            match self.used.get(&number) {
                None => {
                    freed.bytes += file.allocated()?;
                    freed.packs += 1;
                    disk.remove(&path)?;
                }
                Some(used) => {
                    let (len, end) = (file.len()?, pack::offset_of(used.end));
                    if len > end {
                        file.set_len(end)?;
                        freed.bytes += len - end;
                    }
                }
            }
        }
        if freed.packs > 0 {
            disk.sync_dir(pack::PACKS)?;
        }
        let used = &self.used;
        self.packs.retain(|number, _| used.contains_key(number));
        Ok(freed)
    }

    /// Gives the space of unused slots inside of packs back to the file system.
    pub(super) fn punch(&self, disk: &dyn Disk) -> Result<u64> {
        let mut bytes = 0;
        if self.damaged.is_some() {
            return Ok(bytes);
        }
        for (&number, used) in self
            .used
            .iter()
            .filter(|(number, _)| self.packs.contains_key(number))
        {
            let gaps = used.gaps();
            if gaps.is_empty() {
                continue;
            }
            let file = disk.open(&pack::path(number), OpenMode::ReadWrite)?;
            let before = file.allocated()?;
            for (first, count) in gaps {
                file.punch(pack::offset_of(first), u64::from(count) * CHUNK_BYTES)?;
            }
            bytes += before.saturating_sub(file.allocated()?);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn gaps_are_the_unused_runs_before_the_end() {
        let mut slots = Slots::default();
        assert_eq!(slots.gaps(), []);
        for slot in [0, 3, 4, 70] {
            slots.add(slot);
        }
        assert_eq!(slots.gaps(), [(1, 2), (5, 65)]);
        assert_eq!(slots.end, 71);
    }
}
