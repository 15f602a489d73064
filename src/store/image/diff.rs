//! What differs between two disks: chunks, by the ids in their manifests, and files, where a file system can
//! be read.
//!
//! ```text
//!   chunk ids of both --> which chunks differ --> by partition
//!   a partition with such a chunk: ext4 (crate ext4-view), FAT, NTFS, XFS --> files added, removed, changed
//!                                  anything else                         --> told that it cannot be told
//! ```
//! Only the file systems of partitions that differ are read. Of a file that lies in the same places on both
//! disks only the chunks that differ are read (`content.rs`). Whatever the bytes are, the work is bounded: by
//! a budget of bytes read, by the number of files and of the bytes of their names, and by the depth of
//! directories. Our own readers answer with an error where bytes make no sense; none of them panics.

mod bytes;
mod content;
mod ext4;
mod fat;
mod files;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod ntfs;
mod window;
mod xfs;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ingest::Watch;
use super::inspect::{self, Partition};
use super::manifest::{ChunkId, chunks_of};
use super::promote::chunk_of;
use super::sealed::Image;
use crate::limits;
use crate::limits::CHUNK_BYTES;
use crate::store::error::Result;
use crate::store::layer::LayerView;

/// A disk to compare.
#[derive(Clone, Debug)]
pub enum Side {
    /// A version.
    Image(Arc<Image>),
    /// A layer over its image at one moment.
    View(Arc<LayerView>),
}

/// What differs between two disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Bytes of the first disk.
    pub size_before: u64,
    /// Bytes of the second disk.
    pub size_after: u64,
    /// Chunks of the longer disk.
    pub chunks: u64,
    /// Chunks that differ.
    pub differing_chunks: u64,
    /// The same in bytes, whole chunks.
    pub differing_bytes: u64,
    /// Partitions, or the whole disk where there is no partition table.
    pub parts: Vec<PartDifference>,
    /// Differing chunks that lie in no partition: partition table, boot code, gaps.
    pub outside_chunks: u64,
}

/// What differs in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartDifference {
    /// Number as Linux counts; 0 for the whole disk.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// The file system that the second disk has there, if known.
    pub file_system: String,
    /// Chunks that differ, those at the edges included.
    pub differing_chunks: u64,
    /// The files that differ; absent where that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FileDifference>,
    /// Why files cannot be told, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<String>,
}

/// Files that differ, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDifference {
    /// Files that were looked at, of both.
    pub looked_at: u64,
    /// Only the second disk has them.
    pub added: Vec<FileChange>,
    /// Only the first disk has them.
    pub removed: Vec<FileChange>,
    /// Both have them, and they differ.
    pub changed: Vec<FileChange>,
    /// Differences beyond those listed.
    pub more: u64,
    /// What the reader of the file system has to say: a journal that was not played back, and the like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// From the root of the partition; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// Bytes of it: on the second disk, or on the first when it is only there.
    pub size: u64,
    /// What differs: `content`, `attributes`, `kind`; empty for files that only one disk has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
}

impl Side {
    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Image(image) => image.size(),
            Self::View(view) => view.size(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Image(image) => image.read(offset, out),
            Self::View(view) => view.read(offset, out),
        }
    }
}

/// Identities of chunks in ascending order of asking.
struct Ids<'a> {
    side: &'a Side,
    touched: Vec<std::ops::Range<u64>>,
}

impl<'a> Ids<'a> {
    fn new(side: &'a Side) -> Self {
        let touched = match side {
            Side::Image(_) => Vec::new(),
            Side::View(view) => view.touched(),
        };
        Self { side, touched }
    }

    fn at(&self, chunk: u64) -> Result<Option<ChunkId>> {
        match self.side {
            Side::Image(image) => Ok(image.chunk_id(chunk)),
            Side::View(view) => {
                let behind = self.touched.partition_point(|run| run.end <= chunk);
                match self.touched.get(behind) {
                    Some(run) if run.contains(&chunk) => chunk_of(view, chunk),
                    _ => Ok(view.base().chunk_id(chunk)),
                }
            }
        }
    }
}

/// Compares two disks. With `files` also the files of partitions that differ.
///
/// # Errors
/// Those of reading; `Cancelled`. What a file system's bytes are is never an error of the whole.
pub fn difference(
    before: &Side,
    after: &Side,
    files: bool,
    progress: &dyn Fn(super::Progress),
    cancel: &std::sync::atomic::AtomicBool,
) -> Result<Difference> {
    let watch = Watch { progress, cancel };
    let size = before.size().max(after.size());
    let chunks = chunks_of(size);
    let (old, new) = (Ids::new(before), Ids::new(after));
    let mut differing = Vec::new();
    for chunk in 0..chunks {
        if chunk % limits::DIFF_STEP_CHUNKS == 0 {
            watch.step(chunk * CHUNK_BYTES, size, "the comparison")?;
        }
        if old.at(chunk)? != new.at(chunk)? {
            differing.push(chunk);
        }
    }
    let mut found = Difference {
        size_before: before.size(),
        size_after: after.size(),
        chunks,
        differing_chunks: differing.len() as u64,
        differing_bytes: differing.len() as u64 * CHUNK_BYTES,
        ..Difference::default()
    };
    let parts = partitions(after)?;
    let others = partitions(before)?;
    found.outside_chunks = outside(&differing, &parts);
    for part in &parts {
        let mut one = PartDifference {
            number: part.number,
            start: part.start,
            end: part.end,
            differing_chunks: within(&differing, part),
            ..PartDifference::default()
        };
        one.file_system = files::probe(after, part.start)?.unwrap_or("").to_owned();
        let same_place = |other: &Partition| (other.start, other.end) == (part.start, part.end);
        if one.differing_chunks == 0 {
            one.files = Some(FileDifference::default());
        } else if !others.iter().any(same_place) {
            one.untold = Some("the first disk has no partition at this place".to_owned());
        } else if files {
            files::compare(before, after, &mut one, &differing, watch)?;
        }
        found.parts.push(one);
    }
    watch.step(size, size, "the comparison")?;
    if let Side::View(view) = after {
        view.check()?;
    }
    Ok(found)
}

/// The partitions of a disk that lie on it; the whole disk when it has none.
fn partitions(side: &Side) -> Result<Vec<Partition>> {
    let mut read = |offset, out: &mut [u8]| side.read(offset, out);
    let found = inspect::inspect(side.size(), &mut read)?;
    let on_disk = |part: &Partition| part.start < part.end && part.end <= side.size();
    // An extended partition holds others, not files.
    let holder = |part: &Partition| matches!(part.kind.as_str(), "05" | "0f" | "85");
    let mut parts = found.partitions;
    parts.retain(|part| on_disk(part) && !holder(part));
    if parts.is_empty() {
        parts.push(Partition {
            number: 0,
            start: 0,
            end: side.size(),
            kind: String::new(),
            kind_name: "",
            name: String::new(),
            active: false,
        });
    }
    Ok(parts)
}

fn touches(chunk: u64, part: &Partition) -> bool {
    chunk * CHUNK_BYTES < part.end && part.start < (chunk + 1) * CHUNK_BYTES
}

fn within(differing: &[u64], part: &Partition) -> u64 {
    let first = differing.partition_point(|chunk| (chunk + 1) * CHUNK_BYTES <= part.start);
    let those = differing.iter().skip(first);
    those.take_while(|chunk| touches(**chunk, part)).count() as u64
}

fn outside(differing: &[u64], parts: &[Partition]) -> u64 {
    let lonely = |chunk: &&u64| !parts.iter().any(|part| touches(**chunk, part));
    differing.iter().filter(lonely).count() as u64
}

#[cfg(test)]
mod test;
#[cfg(test)]
mod test_foreign;
