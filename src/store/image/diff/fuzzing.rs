//! A door for the fuzz targets and for tests of harm: two partitions in memory through the readers of file
//! systems.

use std::sync::atomic::AtomicBool;

use super::files::{HEAD, known, reader, trees};
use super::window::{Changed, Window};
use super::{FileDifference, Watch};
use crate::limits::CHUNK_BYTES;
use crate::store::disk_memory::Sparse;
use crate::store::error::{Error, ErrorKind, Result};

/// The files that differ between two partitions.
///
/// # Errors
/// What the second, or the first, is not.
#[cfg_attr(
    not(fuzzing),
    expect(unreachable_pub, reason = "the fuzz targets are outside")
)]
pub fn files(before: Sparse, after: Sparse) -> Result<FileDifference> {
    let mut head = [0; HEAD];
    let short = || Error::new(ErrorKind::Unsupported, "no file system is known there");
    if !after.read(0, &mut head) {
        return Err(short());
    }
    let open = known(&head).and_then(reader).ok_or_else(short)?;
    let chunks: Vec<u64> = (0..before.len().max(after.len()).div_ceil(CHUNK_BYTES))
        .filter(|chunk| chunk_of(&before, *chunk) != chunk_of(&after, *chunk))
        .collect();
    let changed = Changed {
        chunks: &chunks,
        start: 0,
    };
    let watch = Watch {
        progress: &|_| {},
        cancel: &AtomicBool::new(false),
    };
    let (old, new) = (Window::in_memory(before), Window::in_memory(after));
    let (old, new) = (open(old)?, open(new)?);
    trees(&*old, &*new, changed, watch)
}

fn chunk_of(disk: &Sparse, chunk: u64) -> Vec<u8> {
    let start = chunk * CHUNK_BYTES;
    let len = disk.len().saturating_sub(start).min(CHUNK_BYTES);
    let mut out = vec![0; usize::try_from(len).unwrap_or(0)];
    assert!(disk.read(start, &mut out), "a chunk of the disk");
    out
}
