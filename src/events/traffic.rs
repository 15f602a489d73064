//! What a node's sessions have moved: counters without a lock, read by status and by waves.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::units::UnixMillis;

/// Counters of one node's boot; sessions add, anyone reads.
#[derive(Debug, Default)]
pub struct Traffic {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    last_io: AtomicU64,
}

/// A reading of [`Traffic`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficTotals {
    /// READ commands done.
    pub reads: u64,
    /// Bytes they carried.
    pub read_bytes: u64,
    /// WRITE commands done.
    pub writes: u64,
    /// Bytes they carried.
    pub written_bytes: u64,
    /// When the last of either was counted; zero if never.
    pub last_io: UnixMillis,
}

impl Traffic {
    /// Counts reads. `at` may be coarse: the shell passes the time of its batch.
    pub fn add_reads(&self, commands: u64, bytes: u64, at: UnixMillis) {
        self.reads.fetch_add(commands, Relaxed);
        self.read_bytes.fetch_add(bytes, Relaxed);
        self.last_io.store(at.0, Relaxed);
    }

    /// Counts writes.
    pub fn add_writes(&self, commands: u64, bytes: u64, at: UnixMillis) {
        self.writes.fetch_add(commands, Relaxed);
        self.written_bytes.fetch_add(bytes, Relaxed);
        self.last_io.store(at.0, Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn totals(&self) -> TrafficTotals {
        TrafficTotals {
            reads: self.reads.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            writes: self.writes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            last_io: UnixMillis(self.last_io.load(Relaxed)),
        }
    }

    pub(super) fn reset(&self) {
        for counter in [
            &self.reads,
            &self.read_bytes,
            &self.writes,
            &self.written_bytes,
            &self.last_io,
        ] {
            counter.store(0, Relaxed);
        }
    }
}
