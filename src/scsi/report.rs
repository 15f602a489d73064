//! The commands that tell what is here: LUNs, commands, task management functions, defects, logs; and the
//! answers of a LUN where there is nothing.

use super::cdb::Cdb;
use super::inquiry;
use super::nexus::Attention;
use super::opcode::{self, COMMANDS, Command};
use super::sense::Sense;
use super::{Answer, Call, LogicalUnit, Refusal, Reply, Step, status};

/// REPORT LUNS (SPC-4 6.33).
pub(super) fn luns(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let answer = lun_list(&call.cdb, &lu.config.luns)?;
    if let Some(nexus) = lu.nexuses.get_mut(call.nexus) {
        nexus.forget(Attention::LunsChanged);
    }
    Ok(answer)
}

fn lun_list(cdb: &Cdb, luns: &[u16]) -> Answer {
    let chosen: &[u16] = match cdb.byte(2) {
        0x00 | 0x02 => luns,
        // Only well-known logical units: we have none.
        0x01 => &[],
        _ => return Err(Sense::cdb_field(2, None).into()),
    };
    if cdb.u32(6) < 16 {
        return Err(Sense::cdb_field(6, None).into());
    }
    let len = u32::try_from(chosen.len() * 8).unwrap_or(u32::MAX);
    let mut data = len.to_be_bytes().to_vec();
    data.extend_from_slice(&[0; 4]);
    for &lun in chosen {
        data.extend_from_slice(&lun_bytes(lun));
    }
    cdb.answer(data)
}

/// Peripheral addressing to 255, flat space beyond (SAM-5 4.7.3); 14 bits are all that flat space has.
fn lun_bytes(lun: u16) -> [u8; 8] {
    let [hi, lo] = lun.to_be_bytes();
    let first = if hi == 0 { 0 } else { 0x40 | (hi & 0x3F) };
    [first, lo, 0, 0, 0, 0, 0, 0]
}

/// What a LUN without a disk answers. INQUIRY says that nothing is here, REPORT LUNS gives the list `luns`,
/// REQUEST SENSE gives the reason as data, all else is refused with 05/25/00 (SPC-4 6.6.2, 6.33, 6.39).
#[must_use]
pub fn absent_lun(cdb: &[u8], luns: &[u16]) -> Reply {
    let cdb = Cdb::new(cdb);
    let answer = match cdb.opcode() {
        0x12 => inquiry::absent(&cdb),
        0xA0 => lun_list(&cdb, luns),
        0x03 => {
            let sense = Sense::LUN_NOT_SUPPORTED.encode(cdb.has(1, 0x01));
            cdb.answer(sense.as_slice().to_vec())
        }
        _ => Err(Sense::LUN_NOT_SUPPORTED.into()),
    };
    match answer {
        Ok(Step::Reply(reply)) => reply,
        Ok(_) => Reply::check(Sense::INTERNAL),
        Err(Refusal::Sense(sense)) => Reply::check(sense),
        Err(Refusal::Conflict | Refusal::Busy) => Reply::of_status(status::BUSY),
    }
}

/// SERVACTV and CTDP of a command descriptor; CTDP of the one-command form.
const SERVACTV: u8 = 0x01;
const CTDP: u8 = 0x02;
const CTDP_ONE: u8 = 0x80;
/// SUPPORT: not supported; supported as the standard says.
const SUPPORT_NO: u8 = 1;
const SUPPORT_YES: u8 = 3;

/// A command timeouts descriptor that states no times (SPC-4 6.35.4).
const TIMEOUTS: [u8; 12] = [0, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// REPORT SUPPORTED OPERATION CODES (SPC-4 6.35), printed from the table that dispatches.
pub(super) fn opcodes(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    let timeouts = cdb.has(2, 0x80);
    let action = cdb.u16(4);
    let here = |command: &Command| lu.serves(command.opcode());
    let rows = opcode::rows(cdb.byte(3));
    let rows = if rows.iter().all(here) { rows } else { &[] };
    let has_action = rows.first().is_some_and(|row| row.has_action);
    let row_of = |action: u16| rows.iter().find(|row| u16::from(row.action()) == action);
    let row = match cdb.byte(2) & 0x07 {
        0 => return cdb.answer(all_opcodes(timeouts, here)),
        1 if has_action => return Err(Sense::cdb_field(2, Some(2)).into()),
        1 => rows.first(),
        2 if !rows.is_empty() && !has_action => {
            return Err(Sense::cdb_field(2, Some(2)).into());
        }
        2 => row_of(action),
        3 if has_action => row_of(action),
        3 => rows.first().filter(|_| action == 0),
        _ => return Err(Sense::cdb_field(2, Some(2)).into()),
    };
    cdb.answer(one_opcode(row, timeouts))
}

fn all_opcodes(timeouts: bool, here: impl Fn(&Command) -> bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for command in COMMANDS.iter().filter(|command| here(command)) {
        let (action, has_action) = if command.has_action {
            (command.action(), SERVACTV)
        } else {
            (0, 0)
        };
        let timed = if timeouts { CTDP } else { 0 };
        let len = command.len;
        data.extend_from_slice(&[
            command.opcode(),
            0,
            0,
            action,
            0,
            has_action | timed,
            0,
            len,
        ]);
        if timeouts {
            data.extend_from_slice(&TIMEOUTS);
        }
    }
    let len = u32::try_from(data.len() - 4).unwrap_or(u32::MAX);
    data.splice(0..4, len.to_be_bytes());
    data
}

fn one_opcode(row: Option<&Command>, timeouts: bool) -> Vec<u8> {
    let Some(command) = row else {
        return vec![0, SUPPORT_NO, 0, 0];
    };
    let timed = if timeouts { CTDP_ONE } else { 0 };
    let mut data = vec![0, timed | SUPPORT_YES, 0, command.len];
    data.extend_from_slice(command.usage());
    if timeouts {
        data.extend_from_slice(&TIMEOUTS);
    }
    data
}

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
const TASK_FUNCTIONS: u8 = 0x80 | 0x40 | 0x10 | 0x08 | 0x02;

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36).
pub(super) fn task_functions(_: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    if call.cdb.u32(6) < 4 {
        return Err(Sense::cdb_field(6, None).into());
    }
    let mut data = vec![TASK_FUNCTIONS, 0, 0, 0];
    if call.cdb.has(2, 0x80) {
        data = vec![TASK_FUNCTIONS, 0, 0, 0x0C];
        data.resize(16, 0);
    }
    call.cdb.answer(data)
}

/// READ DEFECT DATA(10), (12): both lists are there and empty (SBC-3 5.17, 5.18).
pub(super) fn defects(_: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    let data = if cdb.opcode() == 0x37 {
        vec![0, cdb.byte(2) & 0x1F, 0, 0]
    } else {
        vec![0, cdb.byte(1) & 0x1F, 0, 0, 0, 0, 0, 0]
    };
    cdb.answer(data)
}
