//! Boot profiles: which chunks a boot of an image version reads, and in what order. Pure: bytes in, bytes out.
//! `docs/formats/profile.md` has the layout with its reasons.
//!
//! ```text
//!   recorder --touches of one boot--> merge --wanted--> what at least half of the boots read, in their order
//!   the version before --inherit--> the same for its chunks that did not change
//! ```
//! A profile is a hint: without it everything is right, only slower. So what is damaged is left out, and told.

use std::collections::HashMap;

use super::manifest::ChunkId;
use crate::limits::{PROFILE_BOOTS_WEIGHED, PROFILE_CHUNKS_MAX};
use crate::store::ImageId;
use crate::store::error::{Error, ErrorKind, Result};

const MAGIC: [u8; 8] = *b"REVEPRO\n";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 12;
const INHERITED: u32 = 1;

/// A chunk read for the first time in a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Number of the chunk on the disk.
    pub chunk: u32,
    /// Milliseconds since the boot opened its disk.
    pub ms: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    chunk: u32,
    /// Boots that read it.
    boots: u32,
    /// Mean of their times.
    ms: u32,
}

/// What boots of an image version read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    image: ImageId,
    boots: u32,
    inherited: bool,
    /// In the order of first reading, then of the disk.
    entries: Vec<Entry>,
}

impl Profile {
    /// Of no boot yet.
    #[must_use]
    pub const fn new(image: ImageId) -> Self {
        Self {
            image,
            boots: 0,
            inherited: false,
            entries: Vec::new(),
        }
    }

    /// The image version.
    #[must_use]
    pub const fn image(&self) -> ImageId {
        self.image
    }

    /// Boots in it; what was inherited counts for one.
    #[must_use]
    pub const fn boots(&self) -> u32 {
        self.boots
    }

    /// It began as that of an earlier version.
    #[must_use]
    pub const fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// Boots of this very version that were recorded.
    #[must_use]
    pub const fn recorded(&self) -> u32 {
        self.boots.saturating_sub(self.inherited as u32)
    }

    /// What at least half of the boots read, in the order in which they read it.
    #[must_use]
    pub fn wanted(&self) -> Vec<Touch> {
        let half = |e: &&Entry| e.boots.saturating_mul(2) >= self.boots;
        let touch = |e: &Entry| Touch {
            chunk: e.chunk,
            ms: e.ms,
        };
        self.entries.iter().filter(half).map(touch).collect()
    }

    /// Takes in what one more boot read. Of more chunks than a profile holds, those of fewest boots go.
    pub fn merge(&mut self, touches: &[Touch]) {
        if self.boots >= PROFILE_BOOTS_WEIGHED {
            // Old boots count half from here on, so that a profile follows what boots do now.
            self.boots /= 2;
            for entry in &mut self.entries {
                entry.boots = entry.boots.div_ceil(2).min(self.boots);
            }
        }
        self.boots += 1;
        let mut at: HashMap<u32, Entry> = self.entries.drain(..).map(|e| (e.chunk, e)).collect();
        for touch in touches {
            let entry = at.entry(touch.chunk).or_insert(Entry {
                chunk: touch.chunk,
                boots: 0,
                ms: touch.ms,
            });
            if entry.boots >= self.boots {
                continue;
            }
            let sum = u64::from(entry.ms) * u64::from(entry.boots) + u64::from(touch.ms);
            entry.boots += 1;
            entry.ms = u32::try_from(sum / u64::from(entry.boots)).unwrap_or(u32::MAX);
        }
        self.entries = at.into_values().collect();
        if self.entries.len() > PROFILE_CHUNKS_MAX {
            self.entries
                .sort_unstable_by_key(|e| (u32::MAX - e.boots, e.ms, e.chunk));
            self.entries.truncate(PROFILE_CHUNKS_MAX);
        }
        self.entries.sort_unstable_by_key(|e| (e.ms, e.chunk));
    }

    /// The profile that a version begins with: what boots of an earlier one want, where the same content lies
    /// now. `id_of` tells the contents of the earlier version, `places_of` where the new one has them.
    #[must_use]
    pub fn inherit(
        &self,
        image: ImageId,
        id_of: impl Fn(u32) -> Option<ChunkId>,
        place_of: impl Fn(u32, ChunkId) -> Option<u32>,
    ) -> Self {
        let mut profile = Self::new(image);
        let moved = self.wanted().into_iter().filter_map(|touch| {
            let chunk = place_of(touch.chunk, id_of(touch.chunk)?)?;
            Some(Touch { chunk, ..touch })
        });
        profile.merge(&moved.collect::<Vec<_>>());
        profile.inherited = true;
        profile
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        let flags = if self.inherited { INHERITED } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.image.0);
        out.extend_from_slice(&self.boots.to_le_bytes());
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        out.resize(HEADER_BYTES, 0);
        for entry in &self.entries {
            out.extend_from_slice(&entry.chunk.to_le_bytes());
            out.extend_from_slice(&entry.ms.to_le_bytes());
            out.extend_from_slice(&entry.boots.to_le_bytes());
        }
        let sum = checksum(&out);
        out[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// `Corrupt` when it is anything else; `NewerVersion`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, format!("the profile {why}"));
        let short = || corrupt("is cut short");
        let (header, body) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or_else(short)?;
        if !header.starts_with(&MAGIC) {
            return Err(corrupt("does not begin as one does"));
        }
        let format = word(header, 8);
        if format > FORMAT {
            let why = format!("the profile has format {format}, this version reads up to {FORMAT}");
            return Err(Error::new(ErrorKind::NewerVersion, why));
        }
        if word(header, HEADER_BYTES - 4) != checksum(bytes) {
            return Err(corrupt("has a wrong checksum"));
        }
        let (raw, rest) = body.as_chunks::<ENTRY_BYTES>();
        let boots = word(header, 48);
        let counted = word(header, 52) as usize == raw.len() && raw.len() <= PROFILE_CHUNKS_MAX;
        if format != FORMAT || !rest.is_empty() || !counted {
            return Err(corrupt("does not have the length it says"));
        }
        let mut image = [0; 32];
        image.copy_from_slice(&header[16..48]);
        let entry = |raw: &[u8; ENTRY_BYTES]| Entry {
            chunk: word(raw, 0),
            ms: word(raw, 4),
            boots: word(raw, 8),
        };
        let entries: Vec<Entry> = raw.iter().map(entry).collect();
        if entries.iter().any(|e| e.boots == 0 || e.boots > boots) {
            return Err(corrupt("counts its boots wrongly"));
        }
        Ok(Self {
            image: ImageId(image),
            boots,
            inherited: word(header, 12) & INHERITED != 0,
            entries,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    four.map_or(0, |four| u32::from_le_bytes(*four))
}

/// CRC-32C over everything but the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    let (before, rest) = bytes.split_at(HEADER_BYTES - 4);
    crc32c::crc32c_append(crc32c::crc32c(before), rest.get(4..).unwrap_or_default())
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    const IMAGE: ImageId = ImageId([7; 32]);

    fn touches(list: &[(u32, u32)]) -> Vec<Touch> {
        list.iter()
            .map(|&(chunk, ms)| Touch { chunk, ms })
            .collect()
    }

    fn chunks(profile: &Profile) -> Vec<u32> {
        profile.wanted().iter().map(|t| t.chunk).collect()
    }

    #[test]
    fn what_half_of_the_boots_read_is_wanted_in_their_order() {
        let mut profile = Profile::new(IMAGE);
        profile.merge(&touches(&[(5, 0), (2, 10), (9, 20)]));
        assert_eq!(chunks(&profile), [5, 2, 9]);
        profile.merge(&touches(&[(5, 0), (2, 30), (8, 5)]));
        assert_eq!(chunks(&profile), [5, 8, 2, 9], "one of two is half");
        profile.merge(&touches(&[(5, 0), (2, 30), (4, 1)]));
        assert_eq!(chunks(&profile), [5, 2], "one of three is not");
        assert_eq!(profile.boots(), 3);
    }

    #[test]
    fn a_profile_follows_what_boots_do_now() {
        let mut profile = Profile::new(IMAGE);
        for _ in 0..100 {
            profile.merge(&touches(&[(1, 0)]));
        }
        for _ in 0..2 * PROFILE_BOOTS_WEIGHED {
            profile.merge(&touches(&[(2, 0)]));
        }
        assert_eq!(chunks(&profile), [2]);
    }

    #[test]
    fn a_next_version_inherits_what_did_not_change_and_learns_the_rest() {
        let mut old = Profile::new(IMAGE);
        for _ in 0..4 {
            old.merge(&touches(&[(1, 0), (2, 5), (3, 9)]));
        }
        let id = |chunk: u32| Some(ChunkId([u8::try_from(chunk).unwrap(); 32]));
        // Chunk 2 has other bytes now, chunk 3 lies at 30.
        let place = |was: u32, _| match was {
            2 => None,
            3 => Some(30),
            same => Some(same),
        };
        let mut new = old.inherit(ImageId([8; 32]), id, place);
        assert_eq!(
            (chunks(&new), new.boots(), new.recorded()),
            (vec![1, 30], 1, 0)
        );
        new.merge(&touches(&[(1, 0), (2, 5)]));
        new.merge(&touches(&[(1, 0), (2, 5)]));
        assert_eq!((chunks(&new), new.recorded()), (vec![1, 2], 2));
    }

    #[test]
    fn the_frozen_file_of_format_1_is_read() {
        let frozen = include_bytes!("profile-1.bin");
        let mut profile = Profile::new(IMAGE);
        profile.merge(&touches(&[(5, 0), (2, 10), (70_000, 1500)]));
        profile.merge(&touches(&[(5, 2), (2, 20)]));
        profile.inherited = true;
        assert_eq!(Profile::decode(frozen).unwrap(), profile);
        assert_eq!(profile.encode(), frozen);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut profile = Profile::new(IMAGE);
        profile.merge(&touches(&[(5, 0), (2, 10)]));
        let whole = profile.encode();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(Profile::decode(&bytes).is_err(), "bit {bit} of byte {at}");
            }
            assert!(Profile::decode(&whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn size_is_bounded_by_what_fewest_boots_read() {
        let most = u32::try_from(PROFILE_CHUNKS_MAX).unwrap();
        let mut profile = Profile::new(IMAGE);
        profile.merge(&touches(&[(most + 7, 9)]));
        let all: Vec<Touch> = (0..=most + 7).map(|chunk| Touch { chunk, ms: 1 }).collect();
        profile.merge(&all);
        assert_eq!(profile.entries.len(), PROFILE_CHUNKS_MAX);
        assert!(profile.entries.iter().any(|e| e.chunk == most + 7));
        assert_eq!(Profile::decode(&profile.encode()).unwrap(), profile);
    }

    proptest! {
        #[test]
        fn any_boots_are_merged_written_and_read_back(
            boots in prop::collection::vec(prop::collection::vec((0_u32..40, 0_u32..1000), 0..30), 0..12),
        ) {
            let mut profile = Profile::new(IMAGE);
            for boot in &boots {
                profile.merge(&touches(boot));
            }
            prop_assert!(profile.wanted().is_sorted_by_key(|t| (t.ms, t.chunk)));
            prop_assert_eq!(Profile::decode(&profile.encode()).unwrap(), profile);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Profile::decode(&bytes);
        }
    }
}
