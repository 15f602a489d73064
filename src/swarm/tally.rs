//! What a thread of the swarm counts. Pure.

use serde::Serialize;

use super::check::Mismatch;
use super::histogram::Histogram;
use crate::limits::SWARM_MISMATCHES_TOLD;
use crate::trace::OpKind;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The loader by TFTP: its size, then all of it.
    Loader,
    /// One fetch of a boot script.
    Script,
    /// From the first script that made it wait its turn until the one that started its disk.
    Turn,
    /// Until the connection stands.
    Connect,
    /// From then until the full feature phase.
    Login,
    /// A whole session of firmware, with its login.
    FirmwareSession,
    /// A whole session of an operating system, with its login.
    OsSession,
    /// From a node's first packet until its last operation ended.
    Boot,
    /// The call that says that it is up.
    Ready,
    /// Reading back what was written.
    Verify,
    /// One READ.
    Read,
    /// One WRITE or WRITE SAME.
    Write,
    /// One SYNCHRONIZE CACHE.
    Flush,
    /// One UNMAP.
    Unmap,
}

impl Stage {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 14] = [
        Self::Loader,
        Self::Script,
        Self::Turn,
        Self::Connect,
        Self::Login,
        Self::FirmwareSession,
        Self::OsSession,
        Self::Boot,
        Self::Ready,
        Self::Verify,
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Unmap,
    ];

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loader => "loader (tftp)",
            Self::Script => "script (http)",
            Self::Turn => "turn",
            Self::Connect => "connect",
            Self::Login => "login",
            Self::FirmwareSession => "firmware session",
            Self::OsSession => "os session",
            Self::Boot => "boot",
            Self::Ready => "ready call",
            Self::Verify => "read back",
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Unmap => "unmap",
        }
    }

    pub(super) const fn of(kind: OpKind) -> Self {
        match kind {
            OpKind::Read => Self::Read,
            OpKind::Write | OpKind::WriteSame => Self::Write,
            OpKind::Flush => Self::Flush,
            OpKind::Unmap => Self::Unmap,
        }
    }
}

/// Amounts that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Commands that ended, of the trace and reading back.
    pub ops: u64,
    /// Bytes that came.
    pub read_bytes: u64,
    /// Bytes that went.
    pub written_bytes: u64,
    /// Bytes that were compared, and were right.
    pub verified_bytes: u64,
    /// Bytes that came and could not be compared: no image was given, or the target does not say what unmapped
    /// blocks read.
    pub unverified_bytes: u64,
    /// Sectors that held what they must not.
    pub bad_sectors: u64,
    /// Operations that ended badly.
    pub errors: u64,
    /// Operations that were sent again.
    pub retries: u64,
    /// Connections that were made again.
    pub reconnects: u64,
    /// Operations left out: the swarm was told to change nothing.
    pub skipped: u64,
    /// Bytes of loaders that came.
    pub loader_bytes: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        for (own, more) in self.all().into_iter().zip(Self::all(&mut other.clone())) {
            *own += *more;
        }
    }

    fn all(&mut self) -> [&mut u64; 11] {
        [
            &mut self.ops,
            &mut self.read_bytes,
            &mut self.written_bytes,
            &mut self.verified_bytes,
            &mut self.unverified_bytes,
            &mut self.bad_sectors,
            &mut self.errors,
            &mut self.retries,
            &mut self.reconnects,
            &mut self.skipped,
            &mut self.loader_bytes,
        ]
    }
}

/// Everything that a thread counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    times: [Histogram; Stage::ALL.len()],
    /// The first mismatches, each of another operation.
    pub(super) mismatches: Vec<Mismatch>,
}

impl Tally {
    /// A stage took so long.
    pub(super) fn time(&mut self, stage: Stage, took_us: u64) {
        if let Some(times) = self.times.get_mut(stage as usize) {
            times.record(took_us);
        }
    }

    /// The times of a stage.
    pub(super) fn times(&self, stage: Stage) -> &Histogram {
        &self.times[stage as usize]
    }

    /// True while mismatches are told one by one.
    pub(super) fn tells(&self) -> bool {
        self.mismatches.len() < SWARM_MISMATCHES_TOLD
    }

    /// Takes in what another thread counted.
    pub(super) fn add(&mut self, other: Self) {
        self.counts.add(&other.counts);
        for (own, more) in self.times.iter_mut().zip(&other.times) {
            own.add(more);
        }
        self.mismatches.extend(other.mismatches);
        self.mismatches.truncate(SWARM_MISMATCHES_TOLD);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn stages_are_where_they_say() {
        for (at, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, at);
        }
    }

    #[test]
    fn counts_add_up_one_by_one() {
        let mut a = Counts::default();
        for (at, field) in (1..).zip(a.all()) {
            *field = at;
        }
        let mut sum = a;
        sum.add(&a);
        let fields: Vec<u64> = sum.all().into_iter().map(|f| *f).collect();
        assert_eq!(fields, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]);
    }
}
