//! Traces of boots: which block operations a node asked for, when, and how long each took. Pure: bytes in, bytes
//! out. Level 1: names `units` and `limits`.
//!
//! ```text
//!   a head notes a boot --Trace--> write --> FILE (gzip of a text, docs/formats/trace.md) --> read --> Trace
//!   Trace --waits, logins, ends--> who replays it     Trace --summary--> who looks at it
//! ```
//! What this room never does: record or replay (`iscsi` has the recorder, `cli` the command that replays), or hold
//! the bytes that were read and written: a trace says where, never what.
//!
//! Words: **op**: one block operation. **Took**: from the arrival of its command at the head to its answer being
//! ready there. **Think time**: what the node did between the end of the ops that it waited for and the next one.
//!
//! # Replaying
//!
//! An initiator is a program that reacts: what it asks next depends on what it has got. So a replayed op may
//! start when *all* ops that had ended before its arrival in the recording have ended in the replay, and then
//! only after its think time. Ops are in the order of arrival and time goes forward, so these sets grow: each is
//! a beginning of one fixed list, [`Trace::ends`]. A replayer needs a flag per op and two cursors:
//!
//! ```text
//!   when op j ends:    ended[j] = true; while ended[ends[front]] { front += 1 }
//!   the next op i:     may start think_us after front >= waits[i].before (and its session's login), all before it started
//! ```
//! Which is a constant number of steps per op. It cannot lock up: the ops that an op waits for were before it.

mod error;
mod summary;
mod text;
mod waits;

#[cfg(test)]
mod test;

pub use error::{Error, ErrorKind};
pub use summary::{SessionSummary, Summary};
pub use waits::Wait;

/// What one node asked of its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Where it comes from: keys like `origin`, `software`, `image`, `date`, with a line of text each.
    pub about: Vec<(String, String)>,
    /// Size of the disk in bytes, a multiple of 512.
    pub disk_bytes: u64,
    /// In the order of their logins.
    pub sessions: Vec<Session>,
    /// In the order of their arrival.
    pub ops: Vec<Op>,
}

/// One iSCSI session of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What logged in: `firmware` (iPXE, EDK2) or `os`; letters, digits and `-`.
    pub initiator: String,
    /// When it was logged in, microseconds since the start of the trace.
    pub login_at_us: u64,
    /// When its connection ended; `None`: it was open when the recording ended.
    pub logout_at_us: Option<u64>,
}

/// One block operation. Offsets and lengths are multiples of 512.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// Index in [`Trace::sessions`].
    pub session: u16,
    /// When its command arrived at the head, microseconds since the start of the trace.
    pub at_us: u64,
    /// Until its answer was ready there, microseconds.
    pub took_us: u32,
    /// What it was.
    pub kind: OpKind,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes; 0 only for a flush, of the whole disk.
    pub len: u32,
    /// On the medium before the answer. Of reads and flushes always false.
    pub fua: bool,
}

/// What an op did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// READ, or a comparison with the disk.
    Read,
    /// WRITE of any form.
    Write,
    /// SYNCHRONIZE CACHE.
    Flush,
    /// UNMAP.
    Unmap,
    /// WRITE SAME of zeros.
    WriteSame,
}

impl OpKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Unmap,
        Self::WriteSame,
    ];

    /// Its word in the file.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Unmap => "unmap",
            Self::WriteSame => "zero",
        }
    }

    /// True when it may say FUA.
    #[must_use]
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Unmap | Self::WriteSame)
    }
}

impl Op {
    /// When its answer was ready, microseconds since the start of the trace.
    #[must_use]
    pub fn end_us(&self) -> u64 {
        self.at_us.saturating_add(u64::from(self.took_us))
    }
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// What it is not, or the first line that is wrong, with the cause.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        text::read(bytes)
    }

    /// The bytes of the file. Ops that are out of order are written in order.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        text::write(self)
    }

    /// The text inside the file.
    #[must_use]
    pub fn text(&self) -> String {
        text::text(self)
    }

    /// What is in it, in figures.
    #[must_use]
    pub fn summary(&self) -> Summary {
        summary::of(self)
    }

    /// The ops in the order in which they ended in the recording (of one moment, in the order of arrival).
    #[must_use]
    pub fn ends(&self) -> Vec<u32> {
        waits::ends(self)
    }

    /// What each op waited for, and its think time: parallel to [`Self::ops`].
    #[must_use]
    pub fn waits(&self) -> Vec<Wait> {
        waits::of_ops(self)
    }

    /// What each login waited for, and its think time: parallel to [`Self::sessions`].
    #[must_use]
    pub fn logins(&self) -> Vec<Wait> {
        waits::of_logins(self)
    }

    /// The first value of a key of [`Self::about`].
    #[must_use]
    pub fn about(&self, key: &str) -> Option<&str> {
        let found = self.about.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.as_str())
    }
}
