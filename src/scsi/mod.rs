//! SCSI device server of a disk: CDB in, block operation or reply out. Pure. Level 3.
//! (Skeleton: the owner of this room completes it; the names and signatures are the contract.)

use crate::units::ByteRange;

/// GOOD (SAM-5 5.3.1).
pub const GOOD: u8 = 0x00;
/// CHECK CONDITION.
pub const CHECK_CONDITION: u8 = 0x02;

/// An I_T nexus as this logical unit knows it: one per session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexusId(pub u64);

/// What a logical unit is.
#[derive(Clone, Debug)]
pub struct LuConfig {
    /// Capacity in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Unit serial number, 16 to 36 printable ASCII characters, stable for the life of the disk.
    pub serial: String,
    /// NAA designator, type 6 with the local bit or type 3.
    pub naa: [u8; 16],
    /// iSCSI name of the target, for SCSI name strings.
    pub target_name: String,
    /// WCE: completed writes may be volatile until SYNCHRONIZE CACHE.
    pub write_back: bool,
    /// Refuses every medium change.
    pub read_only: bool,
    /// This logical unit's number.
    pub lun: u16,
    /// All LUNs that REPORT LUNS lists.
    pub luns: Vec<u16>,
}

/// What to do next for a command.
#[derive(Debug)]
pub enum Step {
    /// Finished.
    Reply(Reply),
    /// The command takes this many bytes of data-out; call `data_out` with them.
    Data {
        /// Transfer length in bytes.
        len: u32,
    },
    /// Run this on the volume, then call `done`.
    Run(BlockOp),
}

/// A block operation whose ranges lie inside the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockOp {
    /// Read and send.
    Read(ByteRange),
    /// Write the first `range.len()` bytes of the data-out.
    Write {
        /// Where.
        range: ByteRange,
        /// Flush before status.
        fua: bool,
    },
    /// SYNCHRONIZE CACHE.
    Flush,
    /// Make the ranges read zeros.
    Unmap(Vec<ByteRange>),
    /// Write one pattern block (the data-out; zeros when `zeros`) over the range.
    WriteSame {
        /// Where.
        range: ByteRange,
        /// All zeros: may deallocate.
        zeros: bool,
        /// Flush before status.
        fua: bool,
    },
    /// Compare the data-out with the disk; with `one_block` the same block against every block.
    Compare {
        /// Where.
        range: ByteRange,
        /// BYTCHK = 11b.
        one_block: bool,
    },
    /// Write, flush, compare.
    WriteVerify {
        /// Where.
        range: ByteRange,
        /// Compare the written data byte by byte.
        compare: bool,
    },
    /// The data-out holds the compare half, then the write half.
    CompareAndWrite {
        /// Where; each half has this length.
        range: ByteRange,
        /// Flush before status.
        fua: bool,
    },
    /// OR the data-out into the disk.
    OrWrite {
        /// Where.
        range: ByteRange,
        /// Flush before status.
        fua: bool,
    },
    /// GET LBA STATUS over the range.
    Extents(ByteRange),
}

/// What the volume did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; a READ's payload goes to the initiator beside this.
    Done,
    /// A comparison failed at this byte of the data-out.
    Differs {
        /// Byte offset of the first difference.
        offset: u64,
    },
    /// Extents of `BlockOp::Extents`: range, and true when mapped.
    Extents(Vec<(ByteRange, bool)>),
    /// It failed.
    Failed(Failure),
}

/// Why the volume failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No space for the write.
    NoSpace,
    /// The medium returned an error or wrong bytes on reading.
    Medium,
    /// A write or sync failed.
    Write,
    /// This handle was fenced off: abort the command.
    Fenced,
    /// Anything else.
    Internal,
}

/// The end of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// SAM-5 status.
    pub status: u8,
    /// Sense data, already encoded (fixed or descriptor format).
    pub sense: Option<Vec<u8>>,
    /// Data-in of a non-block command.
    pub data: Vec<u8>,
}

/// A disk logical unit with its reservations, mode pages and unit attentions.
#[derive(Debug)]
pub struct LogicalUnit {}

impl LogicalUnit {
    /// A unit without any nexus.
    #[must_use]
    pub fn new(_config: LuConfig) -> Self {
        todo!()
    }
    /// A nexus comes into being; `initiator_port` is `iqn...,i,0x<ISID>`.
    pub fn attach(&mut self, _nexus: NexusId, _initiator_port: &str) {
        todo!()
    }
    /// I_T nexus loss.
    pub fn detach(&mut self, _nexus: NexusId) {
        todo!()
    }
    /// A command arrives.
    pub fn begin(&mut self, _nexus: NexusId, _cdb: &[u8]) -> Step {
        todo!()
    }
    /// Its data-out is here; shorter than asked when the initiator's EDTL was.
    pub fn data_out(&mut self, _nexus: NexusId, _cdb: &[u8], _data: &[u8]) -> Step {
        todo!()
    }
    /// The volume did it.
    pub fn done(&mut self, _nexus: NexusId, _cdb: &[u8], _outcome: Outcome) -> Reply {
        todo!()
    }
    /// LOGICAL UNIT RESET, asked by `by` or by the head.
    pub fn reset(&mut self, _by: Option<NexusId>) {
        todo!()
    }
    /// CLEAR TASK SET by `by`: the others get 2F/00.
    pub fn cleared_by_another(&mut self, _by: NexusId) {
        todo!()
    }
}

/// The answer of a LUN that does not exist.
#[must_use]
pub fn absent_lun(_cdb: &[u8], _luns: &[u16]) -> Reply {
    todo!()
}
