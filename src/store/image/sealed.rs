//! An open sealed image: its manifest and the packs it lies in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::manifest::{ChunkId, Entry, Manifest, Place};
use super::pack::{Pack, Packs, Wanted};
use crate::limits::CHUNK_BYTES;
use crate::limits::CHUNK_LEN;
use crate::limits::IMAGE_RUN_CHUNKS;
use crate::store::ImageId;
use crate::store::Payload;
use crate::store::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// An open sealed image, shared by every volume over it.
pub struct Image {
    id: ImageId,
    manifest: Manifest,
    // For each entry of the manifest the pack it lies in, by position in `packs`.
    packs: Vec<Arc<Pack>>,
    pack_of: PackOf,
}

/// Position in `Image::packs` of an entry's pack. Nearly every image lies in few packs.
enum PackOf {
    One,
    Many(Box<[u32]>),
}

/// What an image consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageStats {
    /// Chunks that hold data.
    pub data_chunks: u64,
    /// Chunks of zeros; they take no space.
    pub zero_chunks: u64,
    /// Different chunks among those with data.
    pub distinct_chunks: u64,
}

/// A chunk with data, as the manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageChunk {
    /// Number of the chunk on the disk; it begins at this times 64 KiB.
    pub index: u64,
    /// Identity of its content.
    pub id: ChunkId,
    /// Where it lies.
    pub place: Place,
}

/// What one step of a read touches.
enum Piece {
    /// This many bytes of zeros.
    Zeros(usize),
    /// `len` bytes from byte `skip` of chunk `chunk`, in `chunks` chunks that lie in neighbouring slots.
    Run {
        chunk: u64,
        entry: usize,
        chunks: usize,
        skip: u64,
        len: usize,
    },
}

impl Image {
    /// Opens the packs of a decoded manifest.
    pub(super) fn new(id: ImageId, manifest: Manifest, packs: &Packs) -> Result<Self> {
        let mut ends = BTreeMap::<u32, u32>::new();
        for place in manifest.entries().iter().map(|e| e.place) {
            let end = ends.entry(place.pack).or_default();
            *end = (*end).max(place.slot + 1);
        }
        let open = |(&number, &end): (&u32, &u32)| {
            let pack = packs.open(number)?;
            pack.check_len(end)?;
            Ok(pack)
        };
        let opened: Result<Vec<_>> = ends.iter().map(open).collect();
        let opened = opened.map_err(|e| damaged(id, &e))?;
        let numbers: Vec<u32> = ends.into_keys().collect();
        let position = |e: &Entry| {
            let at = numbers.binary_search(&e.place.pack).unwrap_or_default();
            u32::try_from(at).unwrap_or_default()
        };
        let pack_of = match opened.len() {
            0 | 1 => PackOf::One,
            _ => PackOf::Many(manifest.entries().iter().map(position).collect()),
        };
        Ok(Self {
            id,
            manifest,
            packs: opened,
            pack_of,
        })
    }

    /// Identity.
    #[must_use]
    pub const fn id(&self) -> ImageId {
        self.id
    }

    /// Bytes of the virtual disk.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.manifest.size()
    }

    /// Number of chunks of 64 KiB, the last one perhaps short.
    #[must_use]
    pub const fn chunk_count(&self) -> u64 {
        self.manifest.chunks()
    }

    /// Counts the chunks. Walks the manifest: not for hot paths.
    #[must_use]
    pub fn stats(&self) -> ImageStats {
        let data_chunks = self.manifest.entries().len() as u64;
        let mut ids: Vec<ChunkId> = self.manifest.entries().iter().map(|e| e.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ImageStats {
            data_chunks,
            zero_chunks: self.chunk_count() - data_chunks,
            distinct_chunks: ids.len() as u64,
        }
    }

    /// The chunks with data in disk order; those not named hold zeros.
    pub fn chunks(&self) -> impl Iterator<Item = ImageChunk> {
        let named = self.manifest.data_chunks().zip(self.manifest.entries());
        named.map(|(index, entry)| ImageChunk {
            index,
            id: entry.id,
            place: entry.place,
        })
    }

    /// Identity of chunk `index`; `None` when it holds zeros or lies past the end.
    #[must_use]
    pub fn chunk_id(&self, index: u64) -> Option<ChunkId> {
        self.entry(index).map(|entry| entry.id)
    }

    /// True when every chunk that the range touches holds zeros (also for an empty range).
    #[must_use]
    pub fn is_zero(&self, range: ByteRange) -> bool {
        range.is_empty() || self.extent(range.offset(), range.len()) == (false, range.len())
    }

    /// Whether the chunk at `offset` holds data, and for how many bytes from there (at most `len`) its
    /// neighbours are alike. Past the end there are zeros without end.
    #[must_use]
    pub fn extent(&self, offset: u64, len: u64) -> (bool, u64) {
        if offset >= self.size() {
            return (false, len);
        }
        let chunk = offset / CHUNK_BYTES;
        let skip = offset % CHUNK_BYTES;
        let (data, chunks) = self
            .manifest
            .run(chunk, skip.saturating_add(len).div_ceil(CHUNK_BYTES));
        let end = chunk + chunks;
        if !data && end >= self.chunk_count() {
            return (false, len);
        }
        (
            data,
            (end * CHUNK_BYTES)
                .min(self.size())
                .saturating_sub(offset)
                .min(len),
        )
    }

    /// The bytes from `offset` on without a copy, if all of them are zeros or held in memory of our own. Takes no
    /// lock.
    ///
    /// # Errors
    /// `OutOfBounds` past the end of the disk.
    pub fn try_share(&self, offset: u64, len: usize) -> Result<Option<Payload>> {
        self.check(offset, len)?;
        let mut payload = Payload::default();
        while payload.len() < len {
            let at = offset + payload.len() as u64;
            // Less than a chunk, so this fits.
            let skip = usize::try_from(at % CHUNK_BYTES).unwrap_or(0);
            let part = (CHUNK_LEN - skip).min(len - payload.len());
            let Some(entry) = self.manifest.find(at / CHUNK_BYTES) else {
                payload.append(Payload::zeros(part));
                continue;
            };
            let chunk = wanted(&self.manifest.entries()[entry]);
            let Some(held) = self.pack(entry).hot(chunk) else {
                return Ok(None);
            };
            payload.append(Payload::hot(held, skip..skip + part));
        }
        Ok(Some(payload))
    }

    /// Fills `out` from `offset` if all of it is in memory and verified; `false`, and `out` unspecified, if
    /// that would wait. Never blocks, takes no lock, allocates nothing.
    ///
    /// # Errors
    /// `OutOfBounds` past the end of the disk; `Io` when the medium fails.
    pub fn try_read(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.check(offset, out.len())?;
        let mut at = 0;
        while at < out.len() {
            match self.piece(offset + at as u64, out.len() - at) {
                Piece::Zeros(len) => {
                    out[at..at + len].fill(0);
                    at += len;
                }
                Piece::Run {
                    entry,
                    chunks,
                    skip,
                    len,
                    ..
                } => {
                    let run = &self.manifest.entries()[entry..entry + chunks];
                    let part = &mut out[at..at + len];
                    if !self
                        .pack(entry)
                        .try_read(run.iter().map(wanted), skip, part)?
                    {
                        return Ok(false);
                    }
                    at += len;
                }
            }
        }
        Ok(true)
    }

    /// Fills `out` from `offset`, reading and verifying chunks as needed; may block. One cold read serves all
    /// who wait for it.
    ///
    /// # Errors
    /// `OutOfBounds` past the end of the disk; `Corrupt` when a chunk's bytes are not the sealed ones (they
    /// do not leave); `Io` when the medium fails.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.check(offset, out.len())?;
        let mut at = 0;
        while at < out.len() {
            match self.piece(offset + at as u64, out.len() - at) {
                Piece::Zeros(len) => {
                    out[at..at + len].fill(0);
                    at += len;
                }
                Piece::Run {
                    chunk,
                    entry,
                    chunks,
                    skip,
                    len,
                } => {
                    let run = &self.manifest.entries()[entry..entry + chunks];
                    let part = &mut out[at..at + len];
                    if !self
                        .pack(entry)
                        .try_read(run.iter().map(wanted), skip, part)?
                    {
                        self.load(chunk, entry, run, skip, part)?;
                    }
                    at += len;
                }
            }
        }
        Ok(())
    }

    /// Loads the chunks of a run and copies the bytes from `skip` on.
    fn load(
        &self,
        chunk: u64,
        entry: usize,
        run: &[Entry],
        skip: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let run: Vec<Wanted> = run.iter().map(wanted).collect();
        let mut done = 0;
        while done < run.len() {
            let took = self.pack(entry).load(&run[done..], |nth, loaded| {
                copy_chunk(loaded.bytes(), done + nth, skip, out);
            });
            // No sector of a bad chunk can be believed: the first wanted one of it is the first bad one.
            let bad = chunk + done as u64;
            let first = (bad * CHUNK_BYTES).max(chunk * CHUNK_BYTES + skip);
            done += took.map_err(|e| self.locate(bad, e).at_disk_offset(first))?;
        }
        Ok(())
    }

    /// Loads chunks in neighbouring slots, the first of them `chunk`, and gives them to nobody. Returns how many
    /// are done.
    pub(super) fn load_run(&self, chunk: u64, run: &[Wanted]) -> Result<usize> {
        let Some(entry) = self.manifest.find(chunk) else {
            return Ok(1);
        };
        let took = self.pack(entry).load(run, |_, _| {});
        took.map(|took| took.max(1))
            .map_err(|e| self.locate(chunk, e))
    }

    /// Reads chunk `index` from the medium, whatever is in memory, and compares it with its id.
    pub(super) fn scrub(&self, index: u64) -> Result<()> {
        let Some(entry) = self.manifest.find(index) else {
            return Ok(());
        };
        let wanted = wanted(&self.manifest.entries()[entry]);
        self.pack(entry)
            .scrub(wanted)
            .map_err(|e| self.locate(index, e))
    }

    pub(super) fn entry(&self, index: u64) -> Option<Entry> {
        self.manifest
            .find(index)
            .map(|at| self.manifest.entries()[at])
    }

    pub(super) const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn check(&self, offset: u64, len: usize) -> Result<()> {
        let range = ByteRange::new(offset, len as u64);
        if range.is_some_and(|range| range.fits(self.size())) {
            return Ok(());
        }
        let why = format!(
            "{len} bytes at {offset} lie outside of image {} of {} bytes",
            self.id,
            self.size()
        );
        Err(Error::new(ErrorKind::OutOfBounds, why))
    }

    /// The longest piece from `offset` that one call can serve; `len` is not zero and lies on the disk.
    fn piece(&self, offset: u64, len: usize) -> Piece {
        let chunk = offset / CHUNK_BYTES;
        let skip = offset % CHUNK_BYTES;
        let Some(entry) = self.manifest.find(chunk) else {
            let (_, chunks) = self
                .manifest
                .run(chunk, (skip + len as u64).div_ceil(CHUNK_BYTES));
            let zeros = chunks.max(1) * CHUNK_BYTES - skip;
            return Piece::Zeros(len.min(usize::try_from(zeros).unwrap_or(usize::MAX)));
        };
        let touched = (skip + len as u64)
            .div_ceil(CHUNK_BYTES)
            .min(IMAGE_RUN_CHUNKS as u64);
        let (_, data) = self.manifest.run(chunk, touched);
        let most = usize::try_from(data).unwrap_or(1);
        let entries = &self.manifest.entries()[entry..entry + most];
        let neighbours = entries.windows(2).take_while(|pair| {
            let (a, b) = (pair[0].place, pair[1].place);
            a.pack == b.pack && a.slot + 1 == b.slot
        });
        let chunks = 1 + neighbours.count();
        let bytes = chunks as u64 * CHUNK_BYTES - skip;
        let len = len.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        Piece::Run {
            chunk,
            entry,
            chunks,
            skip,
            len,
        }
    }

    fn pack(&self, entry: usize) -> &Pack {
        match &self.pack_of {
            PackOf::One => &self.packs[0],
            PackOf::Many(of) => &self.packs[of[entry] as usize],
        }
    }

    fn locate(&self, chunk: u64, e: Error) -> Error {
        let at = chunk * CHUNK_BYTES;
        e.within(format!(
            "image {} chunk {chunk} (disk offset {at})",
            self.id
        ))
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packs: Vec<u32> = self.packs.iter().map(|pack| pack.number()).collect();
        write!(
            f,
            "Image({}, {} bytes, packs {packs:?})",
            self.id,
            self.size()
        )
    }
}

fn wanted(entry: &Entry) -> Wanted {
    Wanted {
        id: entry.id,
        slot: entry.place.slot,
    }
}

/// Copies what `out` holds of the `nth` chunk of a run whose first chunk gives up its first `skip` bytes.
fn copy_chunk(chunk: &[u8], nth: usize, skip: u64, out: &mut [u8]) {
    // `skip` is less than a chunk, so this fits.
    let skip = usize::try_from(skip).unwrap_or(0);
    let start = (nth * chunk.len()).saturating_sub(skip);
    let from = if nth == 0 { skip } else { 0 };
    let len = (chunk.len() - from).min(out.len().saturating_sub(start));
    out[start..start + len].copy_from_slice(&chunk[from..from + len]);
}

fn damaged(id: ImageId, e: &Error) -> Error {
    let why = format!("image {id} is incomplete: {e}; import it again");
    let kind = match e.kind() {
        ErrorKind::NotFound => ErrorKind::Corrupt,
        kind => kind,
    };
    Error::new(kind, why)
}
