//! SANITIZE: OVERWRITE, BLOCK ERASE, EXIT FAILURE MODE (SBC-3 4.11, 5.24).
//!
//! The operation belongs to the disk, not to the command: resets, logouts and aborts do not end it. While it
//! runs, and after it has failed, other commands are refused. Whether one was cut off by the end of the
//! process is told by the caller ([`LogicalUnit::sanitize_restore`]).
//!
//! CRYPTOGRAPHIC ERASE is left out: layers are not encrypted, so there is no key to throw away.

use super::block::want;
use super::opcode::{self, Command};
use super::sense::Sense;
use super::{Answer, BlockOp, Call, LogicalUnit, SECTOR_LEN, Step};

/// Where a disk stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sanitize {
    /// Nothing to do.
    #[default]
    Idle,
    /// At work.
    Running {
        /// Of 65,536.
        progress: u16,
        /// AUSE: after a failure the disk may be used again by EXIT FAILURE MODE.
        unrestricted: bool,
    },
    /// It did not get to its end.
    Failed {
        /// AUSE of the command that failed.
        unrestricted: bool,
    },
}

impl Sanitize {
    /// What it has to say to a command that it does not let pass, and to REQUEST SENSE.
    pub(super) const fn sense(self) -> Option<Sense> {
        match self {
            Self::Idle => None,
            Self::Running { progress, .. } => {
                Some(Sense::SANITIZE_IN_PROGRESS.with_progress(progress))
            }
            Self::Failed { .. } => Some(Sense::SANITIZE_FAILED),
        }
    }

    /// Refuses what may not run now.
    pub(super) fn check(self, command: &Command) -> Result<(), Sense> {
        let passes = command.in_sanitize
            || matches!(self, Self::Failed { .. }) && command.opcode() == opcode::SANITIZE;
        match self.sense() {
            Some(sense) if !passes => Err(sense),
            _ => Ok(()),
        }
    }
}

/// What a SANITIZE does to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wipe {
    /// Every block reads zeros afterwards, and its space is given back.
    Erase,
    /// Every block is written with the pattern.
    Overwrite {
        /// One block of it.
        pattern: Box<[u8; SECTOR_LEN]>,
        /// How many times.
        passes: u8,
        /// Each pass is the inverse of the one before.
        invert: bool,
    },
}

/// IMMED and AUSE; reserved bits are refused (the standard tells a device server to look at them).
const IMMED: u8 = 0x80;
const RESERVED: u8 = 0x40;
const AUSE: u8 = 0x20;

/// The parameter list of OVERWRITE: its head, and the pattern.
const HEAD: usize = 4;
const LIST_MAX: usize = HEAD + SECTOR_LEN;

fn check_form(lu: &LogicalUnit, call: &Call<'_>) -> Result<(), Sense> {
    let cdb = &call.cdb;
    if cdb.has(1, RESERVED) {
        return Err(Sense::cdb_field(1, Some(6)));
    }
    for at in 2..7u16 {
        if cdb.byte(at.into()) != 0 {
            return Err(Sense::cdb_field(at, None));
        }
    }
    // After a failure without AUSE only another attempt without it is let in.
    let restricted = lu.sanitize
        == Sanitize::Failed {
            unrestricted: false,
        };
    if restricted && cdb.has(1, AUSE) {
        return Err(Sense::cdb_field(1, Some(5)));
    }
    Ok(())
}

fn without_list(call: &Call<'_>) -> Result<(), Sense> {
    if call.cdb.u16(7) != 0 {
        return Err(Sense::cdb_field(7, None));
    }
    Ok(())
}

fn begin(lu: &mut LogicalUnit, call: &Call<'_>, wipe: Wipe) -> Answer {
    let unrestricted = call.cdb.has(1, AUSE);
    lu.sanitize = Sanitize::Running {
        progress: 0,
        unrestricted,
    };
    Ok(Step::Run(BlockOp::Sanitize {
        wipe,
        immediate: call.cdb.has(1, IMMED),
        unrestricted,
    }))
}

/// SANITIZE, BLOCK ERASE.
pub(super) fn block_erase(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    check_form(lu, call)?;
    without_list(call)?;
    begin(lu, call, Wipe::Erase)
}

/// SANITIZE, OVERWRITE.
pub(super) fn overwrite(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    check_form(lu, call)?;
    let len = usize::from(call.cdb.u16(7));
    if len <= HEAD || len > LIST_MAX {
        return Err(Sense::cdb_field(7, None).into());
    }
    let Some(data) = call.data else {
        return want(len as u64, false);
    };
    let list = data.get(..len).ok_or(Sense::LIST_LENGTH)?;
    let [flags, _, hi, lo, given @ ..] = list else {
        return Err(Sense::LIST_LENGTH.into());
    };
    let (count, test) = (flags & 0x1F, flags & 0x60);
    let wanted = usize::from(u16::from_be_bytes([*hi, *lo]));
    if count == 0 {
        return Err(Sense::list_field(0, Some(4)).into());
    }
    if test != 0 {
        // TEST asks for something of the vendor's own: there is nothing.
        return Err(Sense::list_field(0, Some(6)).into());
    }
    if wanted == 0 || wanted > SECTOR_LEN {
        return Err(Sense::list_field(2, None).into());
    }
    let given = given.get(..wanted).ok_or(Sense::LIST_LENGTH)?;
    let mut pattern = Box::new([0; SECTOR_LEN]);
    for (to, from) in pattern.iter_mut().zip(given.iter().cycle()) {
        *to = *from;
    }
    let wipe = Wipe::Overwrite {
        pattern,
        passes: count,
        invert: flags & 0x80 != 0,
    };
    begin(lu, call, wipe)
}

/// SANITIZE, EXIT FAILURE MODE.
pub(super) fn exit_failure(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    if cdb.has(1, RESERVED) {
        return Err(Sense::cdb_field(1, Some(6)).into());
    }
    without_list(call)?;
    match lu.sanitize {
        Sanitize::Failed {
            unrestricted: false,
        } => Err(Sense::SANITIZE_FAILED.into()),
        Sanitize::Failed { unrestricted: true } => {
            lu.sanitize = Sanitize::Idle;
            Ok(Step::Run(BlockOp::SanitizeForgotten))
        }
        _ => call.good(),
    }
}

impl LogicalUnit {
    /// How far the sanitize operation has come, of 65,536.
    pub fn sanitize_progress(&mut self, done: u16) {
        if let Sanitize::Running { progress, .. } = &mut self.sanitize {
            *progress = done;
        }
    }

    /// The sanitize operation has ended, well or not.
    pub fn sanitize_ended(&mut self, well: bool) {
        if let Sanitize::Running { unrestricted, .. } = self.sanitize {
            self.sanitize = if well {
                Sanitize::Idle
            } else {
                Sanitize::Failed { unrestricted }
            };
        }
    }

    /// What is written down of an operation that did not get to its end, with its AUSE; none: there is none.
    /// Changes nothing while one is at work.
    pub fn sanitize_restore(&mut self, failed: Option<bool>) {
        if !matches!(self.sanitize, Sanitize::Running { .. }) {
            self.sanitize = match failed {
                Some(unrestricted) => Sanitize::Failed { unrestricted },
                None => Sanitize::Idle,
            };
        }
    }
}
