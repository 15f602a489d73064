//! The only door to files. Everything above it is pure over these two traits, so that the real file
//! system, memory and the crash recorder are exchangeable.
//!
//! Paths are relative to the store's directory, with `/` between parts. The media model that callers may
//! rely on: a write is durable once a later `sync` of that file returned; a created, renamed or removed
//! name is durable once a later `sync_dir` of its directory returned; without that, any subset may
//! survive a power cut, torn at 512 bytes.

use std::fmt::Debug;
use std::sync::Arc;

use super::error::Result;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist; it will only be read.
    Read,
    /// It must exist.
    ReadWrite,
    /// It must not exist.
    CreateNew,
}

/// Space of the medium under a tree, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What this program may still take.
    pub free: u64,
}

/// A directory tree.
pub trait Disk: Debug + Send + Sync {
    /// Opens or makes a file.
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>>;
    /// Removes a file; an error if it is not there.
    fn remove(&self, path: &str) -> Result<()>;
    /// Renames a file, replacing the target atomically.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Makes a directory and its parents; fine if it is there.
    fn create_dir(&self, path: &str) -> Result<()>;
    /// The names (not paths) in a directory, sorted.
    fn list(&self, path: &str) -> Result<Vec<String>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &str) -> Result<()>;
    /// Space of the medium; none for a tree that has no size of its own.
    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }
}

/// An open file. All positions and lengths are bytes.
#[expect(
    clippy::len_without_is_empty,
    reason = "nobody asks a file whether it is empty"
)]
pub trait File: Debug + Send + Sync {
    /// Fills `out` from `offset`; may block; an error at end of file.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()>;
    /// Fills `out` if every byte is in memory; `false`, and `out` unspecified, if it would wait.
    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool>;
    /// Writes all of `bytes` at `offset`, growing the file as needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Makes every completed write and the length durable.
    fn sync(&self) -> Result<()>;
    /// Length.
    fn len(&self) -> Result<u64>;
    /// Cuts or grows (with zeros) to `len`.
    fn set_len(&self, len: u64) -> Result<()>;
    /// Gives the space of a range back; it reads zeros afterwards.
    fn punch(&self, offset: u64, len: u64) -> Result<()>;
    /// Bytes that the medium holds for it (sparse files hold less than their length).
    fn allocated(&self) -> Result<u64>;
    /// Tells that reads will be at random, so that nothing is read ahead unasked.
    fn advise_random(&self) {}
    /// Tells that the range's bytes in memory may be dropped, so that the next read asks the medium. Advice only.
    fn advise_unneeded(&self, _offset: u64, _len: u64) {}
}
