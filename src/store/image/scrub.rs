//! The scrub's part in the store: which chunks lie where, and one of them asked from the medium.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::manifest::{ChunkId, Place};
use super::pack::{self, Wanted};
use super::store::ImageStore;
use super::survey;
use crate::store::ImageId;
use crate::store::error::Result;

impl ImageStore {
    /// Numbers of the packs that exist, in order.
    ///
    /// # Errors
    /// `Io`.
    pub fn packs(&self) -> Result<Vec<u32>> {
        let names = self.disk().list(pack::PACKS)?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|n| pack::number_of(n)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The chunks in these packs that images name (or one image, where `only` says which), by place. Reads every
    /// manifest. One that cannot be read is logged and left out.
    ///
    /// # Errors
    /// `Io`.
    pub fn chunks_in(
        &self,
        packs: &RangeInclusive<u32>,
        only: Option<ImageId>,
    ) -> Result<BTreeMap<Place, ChunkId>> {
        let mut found = BTreeMap::new();
        for id in survey::list(self.disk())? {
            if only.is_some_and(|only| only != id) {
                continue;
            }
            match survey::read_manifest(self.disk(), id) {
                Ok(manifest) => {
                    let entries = manifest.entries().iter();
                    let inside = entries.filter(|e| packs.contains(&e.place.pack));
                    found.extend(inside.map(|e| (e.place, e.id)));
                }
                Err(error) => tracing::error!(%error, "the scrub cannot read a manifest"),
            }
        }
        Ok(found)
    }

    /// Reads a chunk from the medium, whatever is in memory, and compares. One that was not in memory before
    /// is not afterwards: the hot set stays what it is. What is bad becomes news. May block.
    ///
    /// # Errors
    /// `Corrupt`, `Io`: it is bad. Others when its pack cannot be opened.
    pub fn patrol(&self, place: Place, id: ChunkId) -> Result<()> {
        let wanted = Wanted {
            id,
            slot: place.slot,
        };
        self.open_pack(place.pack)?.patrol(wanted)
    }

    /// Takes a place for good again: nobody names it any more.
    pub fn forget_bad(&self, place: Place) {
        self.bad_forget(place);
    }

    /// The chunks of an image whose places are bad, by number.
    ///
    /// # Errors
    /// As [`ImageStore::open_image`].
    pub fn bad_chunks(&self, id: ImageId) -> Result<Vec<(u64, super::BadPlace)>> {
        let bad = self.bad_places();
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        let at: BTreeMap<Place, super::BadPlace> = bad.into_iter().map(|b| (b.place, b)).collect();
        let image = self.open_image(id)?;
        let hit = |chunk: super::ImageChunk| {
            let bad = at.get(&chunk.place).filter(|bad| bad.id == chunk.id)?;
            Some((chunk.index, *bad))
        };
        Ok(image.chunks().filter_map(hit).collect())
    }
}
