//! A partition of a disk as file systems read it, and which places of it differ.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Side;
use crate::limits;
use crate::limits::CHUNK_BYTES;
use crate::store::error::{Error, ErrorKind, Result};

/// What a window looks at.
#[derive(Clone, Debug)]
enum Disk {
    Side(Side),
    #[cfg(any(test, fuzzing))]
    Memory(Arc<crate::store::disk_memory::Sparse>),
}

/// A partition with a budget: hostile bytes can send a reader in circles, but not for ever.
#[derive(Clone, Debug)]
pub(super) struct Window {
    disk: Disk,
    start: u64,
    len: u64,
    left: Arc<AtomicU64>,
}

impl Window {
    /// The bytes of `range` of a disk.
    pub(super) fn new(side: &Side, range: &Range<u64>) -> Self {
        Self::over(Disk::Side(side.clone()), range)
    }

    /// A partition that is a whole disk in memory.
    #[cfg(any(test, fuzzing))]
    pub(super) fn in_memory(disk: crate::store::disk_memory::Sparse) -> Self {
        let len = disk.len();
        Self::over(Disk::Memory(Arc::new(disk)), &(0..len))
    }

    fn over(disk: Disk, range: &Range<u64>) -> Self {
        let len = range.end.saturating_sub(range.start);
        let budget = len
            .saturating_mul(4)
            .saturating_add(limits::DIFF_READ_SLACK);
        Self {
            disk,
            start: range.start,
            len,
            left: Arc::new(AtomicU64::new(budget)),
        }
    }

    /// Bytes of the partition.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Fills a buffer from a byte of the partition.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let wanted = out.len() as u64;
        let end = offset.checked_add(wanted).filter(|end| *end <= self.len);
        if end.is_none() {
            let why = format!("{wanted} bytes at {offset} lie outside of the partition");
            return Err(Error::new(ErrorKind::OutOfBounds, why));
        }
        // Small reads cost a call as well.
        self.spend(wanted.max(64))?;
        match &self.disk {
            Disk::Side(side) => side.read(self.start + offset, out),
            #[cfg(any(test, fuzzing))]
            Disk::Memory(disk) => {
                assert!(disk.read(self.start + offset, out), "a read past the end");
                Ok(())
            }
        }
    }

    /// Takes from the budget what is work without being a read.
    pub(super) fn spend(&self, bytes: u64) -> Result<()> {
        let take = |left: u64| left.checked_sub(bytes);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if taken.is_ok() {
            return Ok(());
        }
        let why =
            "more is read than the partition can hold: it leads in circles, or holds huge holes";
        Err(Error::new(ErrorKind::InvalidFormat, why))
    }
}

/// The chunks that differ, as one partition sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed<'a> {
    /// Chunks of the disk, ascending.
    pub(super) chunks: &'a [u64],
    /// First byte of the partition.
    pub(super) start: u64,
}

impl Changed<'_> {
    /// The first byte at or behind `at` in a chunk that differs; bytes count from the partition's start.
    pub(super) fn next(&self, at: u64) -> Option<u64> {
        let place = self.start.checked_add(at)?;
        let chunk = place / CHUNK_BYTES;
        let index = self.chunks.partition_point(|other| *other < chunk);
        let first = self.chunks.get(index)?.checked_mul(CHUNK_BYTES)?;
        Some(first.max(place) - self.start)
    }
}
