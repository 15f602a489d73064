//! What a LUN serves: a layer over an image. (Skeleton: the owner completes it; the signatures are the contract.)

use super::{Payload, Result};
use crate::units::ByteRange;

/// State of an extent, for GET LBA STATUS (SBC-3 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentState {
    /// Holds data.
    Mapped,
    /// Reads zeros.
    Deallocated,
}

/// What COMPARE AND WRITE found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Equal; the new data is written.
    Written,
    /// The byte at this offset of the compared data is the first that differs; nothing is written.
    Differs(u64),
}

/// An open volume of one generation of one layer. Offsets may be any multiple of 512.
/// After a reset of the layer every operation answers `ErrorKind::Fenced`.
#[derive(Debug)]
pub struct Volume {}

impl Volume {
    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        todo!()
    }
    /// The bytes if all are in memory, else `None`. Never blocks on I/O, takes no global lock.
    pub fn try_read(&self, _range: ByteRange) -> Result<Option<Payload>> {
        todo!()
    }
    /// The bytes; may block.
    pub fn read(&self, _range: ByteRange) -> Result<Payload> {
        todo!()
    }
    /// Writes; may block. When it returns, the data survives the death of this process.
    pub fn write(&self, _offset: u64, _data: &[u8]) -> Result<()> {
        todo!()
    }
    /// When it returns, all earlier writes are as durable as the layer's class promises. May block.
    pub fn flush(&self) -> Result<()> {
        todo!()
    }
    /// Makes the range read zeros and gives its space back; exact to the byte. May block.
    pub fn unmap(&self, _range: ByteRange) -> Result<()> {
        todo!()
    }
    /// The state at `offset` and how many bytes from there share it, looking at most at `len` bytes.
    pub fn extent(&self, _offset: u64, _len: u64) -> Result<(ExtentState, u64)> {
        todo!()
    }
    /// Writes `new` over `old` if the disk holds `old`, atomically against every other write. May block.
    pub fn compare_and_write(&self, _offset: u64, _old: &[u8], _new: &[u8]) -> Result<Compared> {
        todo!()
    }
    /// ORs `data` into the disk, atomically against every other write (SBC-3 5.14). May block.
    pub fn or_write(&self, _offset: u64, _data: &[u8]) -> Result<()> {
        todo!()
    }
}
