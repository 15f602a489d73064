//! The manifest: what a sealed image consists of. Pure: bytes in, bytes out. `docs/formats/image.md`
//! has the layout with its reasons.
//!
//! ```text
//!   header 64 | groups: 64 bits each, one bit per chunk (1 = data) | entries of 40 bytes, one per data chunk
//! ```
//! A chunk of zeros costs one bit, on the medium and in memory, so that a sparse disk of many terabytes
//! stays small. The identity of the image hashes size, bits and chunk ids, never where the chunks lie.

use crate::limits::CHUNK_BYTES;
use crate::limits::DISK_BYTES_MAX;
use crate::limits::PACK_NUMBER_MAX;
use crate::limits::PACK_SLOTS;
use crate::store::ImageId;
use crate::store::error::{Error, ErrorKind, Result};
use crate::units::SECTOR_BYTES;

const MAGIC: [u8; 8] = *b"REVEIMG\n";
const FORMAT: u32 = 1;
pub(super) const HEADER_BYTES: usize = 64;
const GROUP_BYTES: usize = 8;
const ENTRY_BYTES: usize = 40;
/// Chunks of a group: the bits of a word.
const GROUP_CHUNKS: u64 = 64;
/// Names the use of the hash (BLAKE3 key derivation), so that no chunk can have the id of an image.
const IDENTITY: &str = "reveille image manifest identity v1";

const _: () = assert!(ENTRY_BYTES == size_of::<ChunkId>() + 4 + 4);
const _: () = assert!(HEADER_BYTES.is_multiple_of(8));
const _: () = assert!(DISK_BYTES_MAX / CHUNK_BYTES <= u32::MAX as u64);

/// Identity of a chunk: BLAKE3-256 over its 64 KiB (the last chunk of a disk filled up with zeros).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The id of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl std::fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

/// Where a chunk lies: slot `slot` (64 KiB each) of pack `pack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of the pack.
    pub pack: u32,
    /// Number of the slot in the pack.
    pub slot: u32,
}

/// A chunk that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: ChunkId,
    pub(super) place: Place,
}

/// Which of 64 neighbouring chunks hold data, and the number of the first one's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    bits: u64,
    base: u32,
}

/// A decoded manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    size: u64,
    groups: Vec<Group>,
    entries: Vec<Entry>,
}

/// Number of chunks of a disk of `size` bytes.
pub(super) const fn chunks_of(size: u64) -> u64 {
    size.div_ceil(CHUNK_BYTES)
}

/// Refuses what no disk of ours can be.
pub(super) fn check_size(size: u64) -> Result<()> {
    let refuse = |kind, why: String| Err(Error::new(kind, why));
    if size == 0 {
        return refuse(
            ErrorKind::InvalidFormat,
            "the disk is empty (0 bytes)".into(),
        );
    }
    if !size.is_multiple_of(SECTOR_BYTES) {
        let at = size - size % SECTOR_BYTES;
        let why = format!(
            "the disk has {size} bytes and ends inside the sector at offset {at}: it is not a whole number \
             of {SECTOR_BYTES}-byte sectors, so it is cut short or not a disk"
        );
        return refuse(ErrorKind::InvalidFormat, why);
    }
    if size > DISK_BYTES_MAX {
        let why =
            format!("the disk has {size} bytes, the largest supported one has {DISK_BYTES_MAX}");
        return refuse(ErrorKind::Unsupported, why);
    }
    Ok(())
}

impl Manifest {
    /// Bytes of the disk.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Number of chunks, with data or without.
    pub(super) const fn chunks(&self) -> u64 {
        chunks_of(self.size)
    }

    /// The chunks with data, in disk order.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of the entry of `chunk`; `None` for a chunk of zeros or past the end.
    pub(super) fn find(&self, chunk: u64) -> Option<usize> {
        let group = self.group(chunk)?;
        let bit = 1_u64 << (chunk % GROUP_CHUNKS);
        (group.bits & bit != 0).then(|| {
            let before = (group.bits & (bit - 1)).count_ones();
            (group.base + before) as usize
        })
    }

    /// Whether `chunk` holds data, and how many chunks from it on (at most `max`) are alike.
    pub(super) fn run(&self, chunk: u64, max: u64) -> (bool, u64) {
        let data = self.find(chunk).is_some();
        let max = max.min(self.chunks().saturating_sub(chunk));
        let mut len = 0;
        while len < max {
            let at = chunk + len;
            let Some(group) = self.group(at) else { break };
            let bits = if data { group.bits } else { !group.bits } >> (at % GROUP_CHUNKS);
            let alike = u64::from(bits.trailing_ones());
            len += alike;
            // The shift fills with zeros, so a run ends at the group's end at the latest.
            if alike < GROUP_CHUNKS - at % GROUP_CHUNKS {
                break;
            }
        }
        (data, len.min(max))
    }

    /// The numbers of the chunks with data, in the order of [`Self::entries`].
    pub(super) fn data_chunks(&self) -> impl Iterator<Item = u64> {
        (0_u64..).zip(&self.groups).flat_map(|(number, group)| {
            (0..GROUP_CHUNKS)
                .filter(|bit| group.bits >> bit & 1 == 1)
                .map(move |bit| number * GROUP_CHUNKS + bit)
        })
    }

    fn group(&self, chunk: u64) -> Option<&Group> {
        usize::try_from(chunk / GROUP_CHUNKS)
            .ok()
            .and_then(|at| self.groups.get(at))
    }

    /// The identity: a hash over size, chunk size, bits and chunk ids.
    pub(super) fn id(&self) -> ImageId {
        let mut hasher = blake3::Hasher::new_derive_key(IDENTITY);
        hasher.update(&self.size.to_le_bytes());
        hasher.update(&CHUNK_BYTES.to_le_bytes());
        for group in &self.groups {
            hasher.update(&group.bits.to_le_bytes());
        }
        for entry in &self.entries {
            hasher.update(&entry.id.0);
        }
        ImageId(*hasher.finalize().as_bytes())
    }

    /// The bytes of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let body = self.groups.len() * GROUP_BYTES + self.entries.len() * ENTRY_BYTES;
        let mut out = Vec::with_capacity(HEADER_BYTES + body);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&CHUNK32.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.chunks().to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        out.resize(HEADER_BYTES, 0);
        for group in &self.groups {
            out.extend_from_slice(&group.bits.to_le_bytes());
        }
        for entry in &self.entries {
            out.extend_from_slice(&entry.id.0);
            out.extend_from_slice(&entry.place.pack.to_le_bytes());
            out.extend_from_slice(&entry.place.slot.to_le_bytes());
        }
        let sum = checksum(&out);
        out[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads what [`Self::encode`] wrote and checks everything that can be checked without the packs.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let header = Header::decode(bytes)?;
        let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let groups_len = chunks_of(header.size).div_ceil(GROUP_CHUNKS) * GROUP_BYTES as u64;
        let entries_len = header.entries.checked_mul(ENTRY_BYTES as u64);
        if entries_len.and_then(|len| len.checked_add(groups_len)) != Some(body.len() as u64) {
            let why = format!(
                "it has {} bytes, which is not what its header says",
                bytes.len()
            );
            return Err(corrupt(&why));
        }
        if checksum(bytes) != header.sum {
            return Err(corrupt("its checksum does not match"));
        }
        let split = usize::try_from(groups_len).unwrap_or(usize::MAX);
        let (groups, entries) = body
            .split_at_checked(split)
            .ok_or_else(|| corrupt("it is cut short"))?;
        Ok(Self {
            size: header.size,
            groups: decode_groups(groups, header.size, header.entries)?,
            entries: decode_entries(entries)?,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "64 KiB, known at compile time"
)]
const CHUNK32: u32 = CHUNK_BYTES as u32;

struct Header {
    size: u64,
    entries: u64,
    sum: u32,
}

impl Header {
    fn decode(bytes: &[u8]) -> Result<Self> {
        let header: &[u8; HEADER_BYTES] = bytes
            .first_chunk()
            .ok_or_else(|| corrupt("it is shorter than its header"))?;
        if !header.starts_with(&MAGIC) {
            return Err(corrupt("it does not begin as a manifest does"));
        }
        let format = word(header, 8);
        if format > FORMAT {
            let why =
                format!("the manifest has format {format}, this version reads up to {FORMAT}");
            return Err(Error::new(ErrorKind::NewerVersion, why));
        }
        let size = long(header, 16);
        if format != FORMAT || word(header, 12) != CHUNK32 || check_size(size).is_err() {
            return Err(corrupt("its header makes no sense"));
        }
        let entries = long(header, 32);
        if long(header, 24) != chunks_of(size) || entries > chunks_of(size) {
            return Err(corrupt("its header counts chunks wrongly"));
        }
        Ok(Self {
            size,
            entries,
            sum: word(header, HEADER_BYTES - 4),
        })
    }
}

fn decode_groups(bytes: &[u8], size: u64, entries: u64) -> Result<Vec<Group>> {
    let mut groups = Vec::with_capacity(bytes.len() / GROUP_BYTES);
    let mut base = 0_u32;
    for raw in bytes.as_chunks::<GROUP_BYTES>().0 {
        let bits = u64::from_le_bytes(*raw);
        groups.push(Group { bits, base });
        // Fits: there are at most 2^28 chunks, see the assertion above.
        base += bits.count_ones();
    }
    let used = chunks_of(size) % GROUP_CHUNKS;
    let past = groups
        .last()
        .is_some_and(|last| used != 0 && last.bits >> used != 0);
    if past || u64::from(base) != entries {
        return Err(corrupt("its bits and its entries do not agree"));
    }
    Ok(groups)
}

fn decode_entries(bytes: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
    for raw in bytes.as_chunks::<ENTRY_BYTES>().0 {
        let mut id = [0; 32];
        id.copy_from_slice(&raw[..32]);
        let place = Place {
            pack: word(raw, 32),
            slot: word(raw, 36),
        };
        if place.pack > PACK_NUMBER_MAX || place.slot >= PACK_SLOTS {
            return Err(corrupt("an entry points outside of any pack"));
        }
        entries.push(Entry {
            id: ChunkId(id),
            place,
        });
    }
    Ok(entries)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

/// CRC-32C over the whole file with the checksum's own four bytes left out.
fn checksum(bytes: &[u8]) -> u32 {
    let (header, body) = bytes.split_at(HEADER_BYTES);
    crc32c::crc32c_append(crc32c::crc32c(&header[..HEADER_BYTES - 4]), body)
}

/// Makes the checksum right, for fuzz targets: no bytes that a fuzzer finds would have a right one.
#[cfg(fuzzing)]
pub(super) fn mend(bytes: &mut [u8]) {
    if bytes.len() >= HEADER_BYTES {
        let sum = checksum(bytes);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the manifest is damaged: {why}"),
    )
}

/// Builds a manifest chunk by chunk in disk order.
#[derive(Debug)]
pub(super) struct Builder {
    manifest: Manifest,
    chunks: u64,
}

impl Builder {
    /// For a disk of `size` bytes.
    pub(super) const fn new(size: u64) -> Self {
        Self {
            manifest: Manifest {
                size,
                groups: Vec::new(),
                entries: Vec::new(),
            },
            chunks: 0,
        }
    }

    /// The next `count` chunks hold zeros.
    pub(super) fn push_zeros(&mut self, count: u64) {
        self.chunks += count;
        self.grow();
    }

    /// The next chunk holds data.
    pub(super) fn push(&mut self, id: ChunkId, place: Place) {
        let bit = self.chunks % GROUP_CHUNKS;
        self.chunks += 1;
        self.grow();
        if let Some(last) = self.manifest.groups.last_mut() {
            last.bits |= 1 << bit;
        }
        self.manifest.entries.push(Entry { id, place });
    }

    /// Adds groups until all chunks so far have one.
    fn grow(&mut self) {
        let needed = self.chunks.div_ceil(GROUP_CHUNKS);
        let base = u32::try_from(self.manifest.entries.len()).unwrap_or(u32::MAX);
        while (self.manifest.groups.len() as u64) < needed {
            self.manifest.groups.push(Group { bits: 0, base });
        }
    }

    /// The manifest, once every chunk was pushed.
    pub(super) fn finish(self) -> Result<Manifest> {
        if self.chunks != self.manifest.chunks() {
            let why = format!(
                "{} of {} chunks were named",
                self.chunks,
                self.manifest.chunks()
            );
            return Err(Error::new(ErrorKind::InvalidFormat, why));
        }
        Ok(self.manifest)
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn entry(number: u32) -> (ChunkId, Place) {
        (
            ChunkId::of(&number.to_le_bytes()),
            Place {
                pack: number / 100,
                slot: number % 100,
            },
        )
    }

    fn build(data: &[bool]) -> Manifest {
        let mut builder = Builder::new(data.len() as u64 * CHUNK_BYTES - 512);
        for (number, &full) in (0..).zip(data) {
            if full {
                let (id, place) = entry(number);
                builder.push(id, place);
            } else {
                builder.push_zeros(1);
            }
        }
        builder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn finds_what_a_plain_list_finds(
            data in prop::collection::vec(any::<bool>(), 1..300),
            from in 0_usize..300,
            max in 0_u64..300,
        ) {
            let manifest = build(&data);
            for (number, &full) in (0..).zip(&data) {
                let found = manifest.find(u64::from(number)).map(|at| manifest.entries()[at]);
                let (id, place) = entry(number);
                prop_assert_eq!(found, full.then_some(Entry { id, place }));
            }
            prop_assert_eq!(manifest.find(data.len() as u64 + 64), None);
            let numbers: Vec<u64> = (0..).zip(&data).filter(|(_, full)| **full).map(|(n, _)| n).collect();
            prop_assert_eq!(manifest.data_chunks().collect::<Vec<_>>(), numbers);
            if let Some(&first) = data.get(from) {
                let alike = data[from..].iter().take_while(|full| **full == first).count() as u64;
                prop_assert_eq!(manifest.run(from as u64, max), (first, alike.min(max)));
            }
        }

        #[test]
        fn survives_its_file(data in prop::collection::vec(any::<bool>(), 1..300)) {
            let manifest = build(&data);
            let bytes = manifest.encode();
            prop_assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        }

        #[test]
        fn a_flipped_bit_is_always_noticed(
            data in prop::collection::vec(any::<bool>(), 1..100),
            at: prop::sample::Index,
            bit in 0..8,
        ) {
            let mut bytes = build(&data).encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Manifest::decode(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            keep in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if keep && bytes.len() >= 16 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
                bytes[12..16].copy_from_slice(&CHUNK32.to_le_bytes());
            }
            prop_assert!(Manifest::decode(&bytes).is_err());
        }
    }

    #[test]
    fn identity_depends_on_content_and_not_on_place() {
        let (id, place) = entry(1);
        let elsewhere = Place { pack: 9, slot: 9 };
        let one = |id, place, size| {
            let mut builder = Builder::new(size);
            builder.push(id, place);
            builder.finish().unwrap().id()
        };
        assert_eq!(one(id, place, 4096), one(id, elsewhere, 4096));
        assert_ne!(one(id, place, 4096), one(id, place, 8192));
        assert_ne!(one(id, place, 4096), one(entry(2).0, place, 4096));
    }

    #[test]
    fn identity_is_frozen() {
        // Another value here means that every image in the field would change its name.
        let mut builder = Builder::new(3 * CHUNK_BYTES);
        builder.push_zeros(1);
        builder.push(ChunkId([7; 32]), Place { pack: 1, slot: 2 });
        builder.push_zeros(1);
        let id = builder.finish().unwrap().id();
        assert_eq!(id.to_string(), FROZEN_ID);
    }

    #[test]
    fn the_layout_of_the_file_is_frozen() {
        let mut builder = Builder::new(2 * CHUNK_BYTES - 512);
        builder.push_zeros(1);
        builder.push(
            ChunkId([7; 32]),
            Place {
                pack: 0x0102,
                slot: 0x0304,
            },
        );
        let bytes = builder.finish().unwrap().encode();
        let head = b"REVEIMG\n\x01\0\0\0\0\0\x01\0\0\xfe\x01\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0";
        assert_eq!(bytes[..40], head[..]);
        assert_eq!(bytes[40..60], [0; 20]);
        assert_eq!(bytes[64..72], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[72..104], [7; 32]);
        assert_eq!(bytes[104..], [2, 1, 0, 0, 4, 3, 0, 0]);
    }

    const FROZEN_ID: &str = "691c8cf4c8a1fb95a10bbc3b137fe3e1fd5832a16dcd8577ca1849a46783aa4e";

    #[test]
    fn a_newer_format_is_named_as_such() {
        let mut bytes = build(&[true]).encode();
        bytes[8] = 2;
        assert_eq!(
            Manifest::decode(&bytes).unwrap_err().kind(),
            ErrorKind::NewerVersion
        );
    }

    #[test]
    fn an_unfinished_disk_is_refused() {
        let mut builder = Builder::new(2 * CHUNK_BYTES);
        builder.push_zeros(1);
        assert!(builder.finish().is_err());
    }

    #[test]
    fn a_sparse_disk_of_the_largest_size_stays_small() {
        let mut builder = Builder::new(DISK_BYTES_MAX);
        builder.push_zeros(DISK_BYTES_MAX / CHUNK_BYTES);
        assert!(builder.finish().unwrap().encode().len() < 40 << 20);
    }
}
