//! The SCSI device server of one disk: a CDB comes in, a block operation or a reply goes out.
//! Level 3: names only `units`, `limits` and `names`.
//!
//! It never does I/O, never waits, knows no iSCSI PDU and no store. Who calls it moves the data.
//!
//! ```text
//!   CDB --> begin --+--> Reply ----------------------------> status, sense, small data
//!                   +--> Data{len} -- the data-out comes --> data_out --+--> Reply
//!                   +--> Run(op) <--------------------------------------+--> Run(op)
//!                          |
//!                  the volume does it --> Outcome --> done --> Reply
//! ```
//!
//! Words: *logical unit* (LU), the disk; *I_T nexus*, one initiator port on our target port (an iSCSI
//! session); *unit attention*, news that a nexus hears before its next command; *data-out*, bytes to us;
//! *data-in*, bytes from us. One table, in `opcode.rs`, drives the dispatch, the reservation rules, the
//! write protection and REPORT SUPPORTED OPERATION CODES, so these cannot disagree.
//!
//! Sources: SAM-5, SPC-4 (r37), SBC-3 (r36).

mod block;
mod capacity;
mod cdb;
mod inquiry;
mod log;
mod mode;
mod nexus;
mod opcode;
mod persist;
mod provision;
mod registrations;
mod report;
mod reserve;
mod sanitize;
mod sense;
#[cfg(test)]
mod test;
mod transport_id;
mod unit;
mod xcopy;

use crate::units::{ByteRange, SECTOR_BYTES};

use cdb::Cdb;
use nexus::{Attention, Nexuses};

pub use cdb::Direction;
pub use nexus::News;
pub use persist::Saving;
pub use registrations::{Registrant, Registrations, Reservation, ReservationType};
pub use report::absent_lun;
pub use sanitize::Wipe;
pub use sense::{Sense, SenseBytes};
pub use xcopy::Move;

/// Status codes (SAM-5 5.3.1).
pub mod status {
    /// Done.
    pub const GOOD: u8 = 0x00;
    /// Not done; sense data says why.
    pub const CHECK_CONDITION: u8 = 0x02;
    /// The device server is busy; try again.
    pub const BUSY: u8 = 0x08;
    /// Another nexus has reserved the disk.
    pub const RESERVATION_CONFLICT: u8 = 0x18;
    /// No room for one more command.
    pub const TASK_SET_FULL: u8 = 0x28;
    /// Aborted by another nexus.
    pub const TASK_ABORTED: u8 = 0x40;
}

/// [`SECTOR_BYTES`] as the length of an array.
pub const SECTOR_LEN: usize = 512;
const _: () = assert!(SECTOR_LEN as u64 == SECTOR_BYTES);

/// What makes a disk other than a plain one; all false is a fixed, writable 512e disk. May be changed by
/// [`LogicalUnit::set_traits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// RMB=1: the medium can be ejected and held.
    pub removable: bool,
    /// Every command that would change the medium is refused with 07/27/00.
    pub read_only: bool,
    /// One logical block per physical block (512n).
    pub small_blocks: bool,
    /// SANITIZE is served.
    pub sanitize: bool,
    /// WSNZ=1: WRITE SAME of no blocks is refused; else it goes to the end of the disk.
    pub no_zero_count: bool,
}

/// What a logical unit is. Fixed for its life, but for its traits.
#[derive(Clone, Debug)]
pub struct LuConfig {
    /// Capacity in bytes; an unfinished last sector is not served.
    pub size_bytes: u64,
    /// VPD 80h: 16 to 36 printable ASCII characters, unique and stable for the life of the disk.
    pub serial: String,
    /// VPD 83h: an NAA 6 designator, unique and stable for the life of the disk.
    pub naa: [u8; 16],
    /// The target's iSCSI name, for the SCSI name strings of VPD 83h.
    pub target_name: String,
    /// True: a volatile cache is declared (WCE=1), and a write is on the medium only after a FLUSH or with
    /// FUA. False: each write asks for the medium at once. Initiators may change it with MODE SELECT.
    pub write_back: bool,
    /// What it is beyond a plain disk.
    pub traits: Traits,
    /// This disk's own LUN.
    pub lun: u16,
    /// All LUNs of the target, for REPORT LUNS.
    pub luns: Vec<u16>,
}

/// One I_T nexus. The caller chooses the number; it is unique among the sessions of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NexusId(pub u64);

/// What to do next for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The command has ended.
    Reply(Reply),
    /// The command takes this many bytes of data-out; afterwards call [`LogicalUnit::data_out`].
    Data {
        /// Bytes that the CDB asks for.
        len: u32,
        /// True: when the initiator announced any other length (even with `len` 0), the command must not
        /// run. Take the data off the wire and answer [`LogicalUnit::wrong_data_size`].
        exact: bool,
    },
    /// Let the volume do this; afterwards call [`LogicalUnit::done`].
    Run(BlockOp),
    /// PERSISTENT RESERVE OUT with APTPL: put this on stable storage in place of what was kept (`None`: keep
    /// nothing), then call [`LogicalUnit::saved`]. Until then all is as before, and further changes of the
    /// reservations are answered BUSY. Comes only from [`LogicalUnit::data_out`].
    Save(Option<Box<Registrations>>),
}

/// What the volume shall do. Every range lies inside the disk and is a whole number of sectors, never
/// empty. `fua`: answer only when the result is on the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockOp {
    /// Send the bytes to the initiator.
    Read(ByteRange),
    /// Write the first `range.len()` bytes of the data-out.
    Write {
        /// Where.
        range: ByteRange,
        /// On the medium before the answer.
        fua: bool,
    },
    /// As [`Self::Write`], but all or nothing: after a power cut, a kill or a failure the range is wholly old
    /// or wholly new, and no read sees a part of each.
    WriteAtomic {
        /// Where.
        range: ByteRange,
        /// On the medium before the answer.
        fua: bool,
    },
    /// Copy within the disk, in order; a source and a destination may overlap, then the source counts as it
    /// was. Answer [`Outcome::Copied`].
    Copy {
        /// What goes where.
        moves: Vec<Move>,
        /// Comes back in the outcome.
        list: Option<u8>,
        /// Number of segments, for the outcome.
        segments: u16,
        /// On the medium before the answer.
        fua: bool,
    },
    /// Begin a sanitize operation, which outlives the command; nothing else is in the way of it. Report with
    /// [`LogicalUnit::sanitize_progress`] and [`LogicalUnit::sanitize_ended`].
    Sanitize {
        /// What to do.
        wipe: Wipe,
        /// Answer when it has begun; else when it has ended.
        immediate: bool,
        /// AUSE, to be written down with the operation.
        unrestricted: bool,
    },
    /// What is written down of a failed sanitize operation goes.
    SanitizeForgotten,
    /// Bring all earlier writes to the medium.
    Flush,
    /// Make the ranges read zeros and give their space back.
    Unmap {
        /// Where; may overlap.
        ranges: Vec<ByteRange>,
        /// On the medium before the answer.
        fua: bool,
    },
    /// Fill the range with one sector.
    WriteSame {
        /// Where.
        range: ByteRange,
        /// The sector; `None` means zeros, for which the space may be given back.
        pattern: Option<Box<[u8; SECTOR_LEN]>>,
        /// On the medium before the answer.
        fua: bool,
    },
    /// Compare the disk with the data-out.
    Compare {
        /// Where.
        range: ByteRange,
        /// True: the data-out is one sector, and every sector of the range is compared with it.
        one_block: bool,
    },
    /// Write the first `range.len()` bytes of the data-out, bring them to the medium, compare.
    WriteCompare {
        /// Where.
        range: ByteRange,
    },
    /// The data-out is two halves of `range.len()` bytes: if the disk holds the first, write the second.
    /// Atomic against every other write to this disk.
    CompareAndWrite {
        /// Where.
        range: ByteRange,
        /// On the medium before the answer.
        fua: bool,
    },
    /// Write (disk OR data-out). Atomic against every other write to this disk.
    OrWrite {
        /// Where.
        range: ByteRange,
        /// On the medium before the answer.
        fua: bool,
    },
    /// Say which parts of the range are mapped, from its start, without gaps.
    Extents {
        /// Where to look.
        range: ByteRange,
        /// At most so many extents.
        count_max: u32,
    },
    /// Say how much of the space for the disk's own blocks is used. Answer [`Outcome::Provision`].
    Provision,
}

/// Space for the blocks of a thin disk's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provision {
    /// Bytes that its own blocks take.
    pub used_bytes: u64,
    /// Bytes that further ones may take, as it is now.
    pub available_bytes: u64,
    /// Others may take of these too.
    pub shared: bool,
}

/// A run of the disk whose parts share one provisioning state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where.
    pub range: ByteRange,
    /// True: holds data. False: deallocated, reads zeros.
    pub mapped: bool,
}

/// What the volume did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Read: the bytes are on their way to the initiator.
    Data {
        /// How many.
        len: u64,
    },
    /// A comparison failed; nothing was written by COMPARE AND WRITE.
    Differs {
        /// Offset of the first differing byte, counted from the start of the data-out.
        offset: u64,
    },
    /// The answer to [`BlockOp::Extents`].
    Extents(Vec<Extent>),
    /// The answer to [`BlockOp::Provision`].
    Provision(Provision),
    /// The answer to [`BlockOp::Copy`].
    Copied {
        /// As asked.
        list: Option<u8>,
        /// Segments done.
        segments: u16,
        /// Why no more of them.
        failure: Option<Failure>,
    },
    /// Not done: the bytes of this block are not those that were stored, or cannot be had. 03/11/00 with the
    /// block in the INFORMATION field (SBC-3 4.18: the first block that could not be read).
    Unreadable {
        /// The first such block.
        lba: u64,
    },
    /// Not done.
    Failed(Failure),
}

/// Why the volume did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No space left for this disk's changes: 07/27/07.
    OutOfSpace,
    /// Reading failed for good: 03/11/00.
    MediumRead,
    /// Writing or flushing failed for good: 03/0C/00.
    MediumWrite,
    /// The bytes on the medium are not the ones that were stored: 03/11/00.
    Corrupt,
    /// A fault inside the target; a retry may help: 0B/44/00.
    Internal,
    /// The disk's generation has ended (reset, moved to another head): 0B/00/00.
    Fenced,
    /// Given up on request: 0B/00/00.
    Aborted,
    /// Not possible yet; the initiator tries again: 02/04/01.
    NotReady,
    /// A sanitize operation did not get to its end: 03/31/03.
    Sanitize,
}

/// The end of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// A code of [`status`].
    pub status: u8,
    /// Present with CHECK CONDITION.
    pub sense: Option<SenseBytes>,
    /// Data-in, already cut at the CDB's allocation length. The initiator gets at most its expected length.
    pub data: Vec<u8>,
    /// PREEMPT AND ABORT: before this reply is sent, abort the commands of these nexuses on this disk.
    pub abort: Vec<NexusId>,
}

impl Reply {
    /// GOOD, no data.
    #[must_use]
    pub const fn good() -> Self {
        Self::of_status(status::GOOD)
    }

    /// A status without sense and data.
    #[must_use]
    pub const fn of_status(status: u8) -> Self {
        Self {
            status,
            sense: None,
            data: Vec::new(),
            abort: Vec::new(),
        }
    }

    /// CHECK CONDITION with sense in fixed format, for answers that no logical unit gives.
    #[must_use]
    pub fn check(sense: Sense) -> Self {
        Self {
            sense: Some(sense.encode(false)),
            ..Self::of_status(status::CHECK_CONDITION)
        }
    }

    fn with(data: Vec<u8>) -> Self {
        Self {
            data,
            ..Self::good()
        }
    }
}

/// Why a command is refused: sense data, or a bare status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Sense(Sense),
    Conflict,
    Busy,
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

/// What a handler gives back.
type Answer = Result<Step, Refusal>;

/// One command on its way through a handler.
#[derive(Debug)]
struct Call<'a> {
    nexus: NexusId,
    cdb: Cdb,
    /// `None` before the data-out has come.
    data: Option<&'a [u8]>,
}

impl Call<'_> {
    /// GOOD, no data.
    fn good(&self) -> Answer {
        Ok(Step::Reply(Reply::good()))
    }
}

/// A disk as its initiators see it: configuration, mode parameters, nexuses, reservations.
#[derive(Debug)]
pub struct LogicalUnit {
    config: LuConfig,
    modes: mode::Modes,
    nexuses: Nexuses,
    /// Holder of RESERVE(6) or (10).
    reserved_by: Option<NexusId>,
    persist: registrations::Reservations,
    /// A change of `persist` that is being written down.
    planned: Option<Box<persist::Plan>>,
    /// A removable disk's medium is out.
    ejected: bool,
    /// Nexuses that hold the medium in. Each once, so bounded as they are.
    removal_prevented_by: Vec<NexusId>,
    sanitize: sanitize::Sanitize,
    copies: xcopy::Copies,
}

impl LogicalUnit {
    /// A disk without nexuses and reservations.
    #[must_use]
    pub fn new(config: LuConfig) -> Self {
        Self {
            modes: mode::Modes::of(&config),
            config,
            nexuses: Nexuses::default(),
            reserved_by: None,
            persist: registrations::Reservations::default(),
            planned: None,
            ejected: false,
            removal_prevented_by: Vec::new(),
            sanitize: sanitize::Sanitize::default(),
            copies: xcopy::Copies::default(),
        }
    }

    /// The LUN at which the target shows it.
    #[must_use]
    pub fn lun(&self) -> u16 {
        self.config.lun
    }

    /// The number of logical blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.config.size_bytes / SECTOR_BYTES
    }

    /// A session begins. `initiator_port` is the initiator port name: `iqn...,i,0x<ISID>`.
    /// Past [`crate::limits::NEXUSES_MAX`] the nexus is not kept and its commands are answered BUSY.
    pub fn attach(&mut self, nexus: NexusId, initiator_port: &str) {
        self.detach(nexus);
        self.nexuses.attach(nexus, initiator_port);
    }

    /// A session ends (I_T nexus loss): its RESERVE and unit attentions go, its persistent
    /// registration stays.
    pub fn detach(&mut self, nexus: NexusId) {
        self.nexuses.detach(nexus);
        if self.reserved_by == Some(nexus) {
            self.reserved_by = None;
        }
        self.removal_prevented_by.retain(|holder| *holder != nexus);
        self.copies.forget(nexus);
        self.load_when_alone();
    }

    /// The traits that the disk has from now on. Initiators hear that its inquiry data changed.
    pub fn set_traits(&mut self, traits: Traits) {
        if self.config.traits == traits {
            return;
        }
        self.config.traits = traits;
        if !traits.removable {
            self.ejected = false;
            self.removal_prevented_by.clear();
        }
        for nexus in self.nexuses.all() {
            nexus.tell(Attention::InquiryChanged);
        }
    }

    /// A command arrives.
    pub fn begin(&mut self, nexus: NexusId, cdb: &[u8]) -> Step {
        self.step(nexus, cdb, None)
    }

    /// The data-out of a command is here. It may be shorter than asked for when the initiator announced
    /// less; bytes beyond what was asked for are ignored.
    pub fn data_out(&mut self, nexus: NexusId, cdb: &[u8], data: &[u8]) -> Step {
        self.step(nexus, cdb, Some(data))
    }

    /// The volume has finished the command's block operation.
    pub fn done(&mut self, nexus: NexusId, cdb: &[u8], outcome: Outcome) -> Reply {
        match outcome {
            Outcome::Done | Outcome::Data { .. } => Reply::good(),
            Outcome::Differs { offset } => self.check(Sense::MISCOMPARE.with_information(offset)),
            Outcome::Extents(extents) => self.lba_status(&Cdb::new(cdb), &extents),
            Outcome::Provision(told) => self.provisioning(&Cdb::new(cdb), told),
            Outcome::Copied {
                list,
                segments,
                failure,
            } => self.copied(nexus, list, segments, failure),
            Outcome::Unreadable { lba } => self.check(Sense::READ_ERROR.with_information(lba)),
            Outcome::Failed(failure) => {
                if mode::is_select(&Cdb::new(cdb)) {
                    self.keep_write_cache(nexus);
                }
                self.check(failure.sense())
            }
        }
    }

    /// LOGICAL UNIT RESET or a target reset by a nexus; `None`: the target resets the disk itself.
    /// RESERVE and mode parameters go back; persistent reservations stay. Every nexus, the one
    /// that asked too, gets a unit attention: 29/03, or 29/04 for a reset of our own.
    pub fn reset(&mut self, by: Option<NexusId>) {
        let attention = if by.is_some() {
            Attention::Reset
        } else {
            Attention::InternalReset
        };
        self.reserved_by = None;
        self.removal_prevented_by.clear();
        self.copies.reset();
        self.modes = self.default_modes();
        for nexus in self.nexuses.all() {
            nexus.tell_reset(attention);
        }
    }

    /// CLEAR TASK SET: the other nexuses hear 2F/00, unless each of their commands was answered TASK ABORTED
    /// (TAS).
    pub fn cleared_by_another(&mut self, by: NexusId) {
        if self.tells_aborts() {
            return;
        }
        for nexus in self.nexuses.others(by) {
            nexus.tell(Attention::CommandsCleared);
        }
    }

    /// TAS: a command that another nexus aborts is answered TASK ABORTED instead of silence.
    #[must_use]
    pub fn tells_aborts(&self) -> bool {
        self.modes.tells_aborts()
    }

    /// Something about the disk changed that no initiator asked for: every nexus hears of it.
    pub fn announce(&mut self, news: News) {
        for nexus in self.nexuses.all() {
            nexus.tell(news.into());
        }
    }

    /// CHECK CONDITION in the sense format that the initiators have chosen (D_SENSE).
    #[must_use]
    pub fn check(&self, sense: Sense) -> Reply {
        Reply {
            sense: Some(sense.encode(self.modes.descriptor_sense())),
            ..Reply::of_status(status::CHECK_CONDITION)
        }
    }

    /// The answer to a command whose [`Step::Data`] was `exact` and whose announced data-out has another
    /// length. It blames the CDB's length field: CDB and data contradict each other, and a length that did
    /// not fit the field (256 blocks of COMPARE AND WRITE) looks like this too.
    #[must_use]
    pub fn wrong_data_size(&self, cdb: &[u8]) -> Reply {
        self.check(Sense::cdb_field(Cdb::new(cdb).length_at(), None))
    }

    fn step(&mut self, nexus: NexusId, bytes: &[u8], data: Option<&[u8]>) -> Step {
        match self.dispatch(nexus, bytes, data) {
            Ok(step) => step,
            Err(Refusal::Sense(sense)) => Step::Reply(self.check(sense)),
            Err(Refusal::Conflict) => Step::Reply(Reply::of_status(status::RESERVATION_CONFLICT)),
            Err(Refusal::Busy) => Step::Reply(Reply::of_status(status::BUSY)),
        }
    }

    /// The checks that all commands share, in the order of SAM-5 5.3.3, then the command's own handler.
    fn dispatch(&mut self, id: NexusId, bytes: &[u8], data: Option<&[u8]>) -> Answer {
        let cdb = Cdb::new(bytes);
        let command = self.command(&cdb);
        let nexus = self.nexuses.get_mut(id).ok_or(Refusal::Busy)?;
        let begins = data.is_none();
        if begins
            && command.map_or(true, opcode::Command::hears_attention)
            && let Some(attention) = nexus.report_attention(self.modes.keeps_attentions())
        {
            return Err(attention.sense().into());
        }
        let command = command?;
        command.check_form(&cdb, bytes.len())?;
        if begins {
            // A command that is already on its way is not stopped by a later reservation (SPC-4 5.13.1).
            self.check_reservations(id, command.access_by(&cdb))?;
        }
        self.sanitize.check(command)?;
        if self.ejected && command.medium {
            return Err(Sense::NO_MEDIUM.into());
        }
        if command.writes {
            self.check_writable()?;
        }
        let call = Call {
            nexus: id,
            cdb,
            data,
        };
        (command.run)(self, &call)
    }

    /// The table's row, unless only another kind of disk has that command.
    fn command(&self, cdb: &Cdb) -> Result<&'static opcode::Command, Sense> {
        if self.serves(cdb.opcode()) {
            opcode::find(cdb)
        } else {
            Err(Sense::INVALID_OPCODE)
        }
    }

    fn serves(&self, opcode: u8) -> bool {
        opcode != opcode::SANITIZE || self.config.traits.sanitize
    }

    fn check_writable(&self) -> Result<(), Sense> {
        if self.config.traits.read_only {
            Err(Sense::WRITE_PROTECTED)
        } else if self.modes.software_protected() {
            Err(Sense::SOFTWARE_WRITE_PROTECTED)
        } else {
            Ok(())
        }
    }
}

impl Failure {
    const fn sense(self) -> Sense {
        match self {
            Self::OutOfSpace => Sense::SPACE_ALLOCATION_FAILED,
            Self::MediumRead | Self::Corrupt => Sense::READ_ERROR,
            Self::MediumWrite => Sense::WRITE_ERROR,
            Self::Internal => Sense::INTERNAL,
            Self::Fenced | Self::Aborted => Sense::ABORTED,
            Self::NotReady => Sense::BECOMING_READY,
            Self::Sanitize => Sense::SANITIZE_FAILED,
        }
    }
}

/// Which way a CDB's data moves and how many bytes it asks for; `None` for a command we do not know.
#[must_use]
pub fn direction(cdb: &[u8]) -> Option<Direction> {
    let cdb = Cdb::new(cdb);
    opcode::find(&cdb).ok().map(|_| cdb.direction())
}

/// The command's name for logs: `READ(10)`; `unknown` when there is none.
#[must_use]
pub fn command_name(cdb: &[u8]) -> &'static str {
    opcode::find(&Cdb::new(cdb)).map_or("unknown", |command| command.name)
}
