//! The one table of commands. Dispatch, reservation rules, write protection and REPORT SUPPORTED OPERATION
//! CODES all read it.

use super::cdb::Cdb;
use super::sense::Sense;
use super::{Answer, Call, LogicalUnit};
use super::{block, capacity, inquiry, log, mode, persist, provision, report, reserve, unit};
use super::{sanitize, xcopy};

pub(super) const SANITIZE: u8 = 0x48;
pub(super) const COMPARE_AND_WRITE_16: u8 = 0x89;
pub(super) const WRITE_ATOMIC_16: u8 = 0x9C;

/// How a reservation of another nexus bears on a command (SPC-4 table 65, SBC-3 table 13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Runs beside every reservation.
    Always,
    /// Conflicts with RESERVE, runs beside every persistent reservation.
    Query,
    /// As reading: a write exclusive reservation lets it pass.
    Read,
    /// As writing: only the holder and, by the type, registrants.
    Write,
    /// START STOP UNIT: starting is `Query`, all else `Write`.
    Start,
    /// PREVENT ALLOW MEDIUM REMOVAL: allowing is `Query`, preventing is `Write`.
    Prevent,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// CDB usage data (SPC-4 6.35.3): opcode, then a mask of the bits that count.
    /// Where there is a service action, it stands in the low bits of byte 1.
    mask: [u8; 16],
    /// Length of the CDB and of its usage data.
    pub(super) len: u8,
    pub(super) has_action: bool,
    access: Access,
    /// Changes the medium: refused when write-protected.
    pub(super) writes: bool,
    /// Refused with 02/3A/00 while a removable disk is ejected.
    pub(super) medium: bool,
    /// Runs while SANITIZE is at work or has failed (SBC-3 4.11.2).
    pub(super) in_sanitize: bool,
    /// False: runs although a unit attention waits (SPC-4 5.14).
    attention: bool,
    pub(super) run: fn(&mut LogicalUnit, &Call<'_>) -> Answer,
}

impl Command {
    pub(super) const fn opcode(&self) -> u8 {
        self.mask[0]
    }

    /// The service action; meaningless without `has_action`.
    pub(super) const fn action(&self) -> u8 {
        self.mask[1] & 0x1F
    }

    /// CDB usage data.
    pub(super) fn usage(&self) -> &[u8] {
        self.mask.get(..usize::from(self.len)).unwrap_or(&self.mask)
    }

    pub(super) const fn hears_attention(&self) -> bool {
        self.attention
    }

    /// CDB long enough, NACA and LINK clear.
    pub(super) fn check_form(&self, cdb: &Cdb, len: usize) -> Result<(), Sense> {
        let at = u16::from(self.len.saturating_sub(1));
        let control = usize::from(at);
        if len <= control {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        if cdb.has(control, 0x04) {
            return Err(Sense::cdb_field(at, Some(2)));
        }
        if cdb.has(control, 0x01) {
            return Err(Sense::cdb_field(at, Some(0)));
        }
        Ok(())
    }

    /// The rule for this very CDB.
    pub(super) fn access_by(&self, cdb: &Cdb) -> Access {
        match self.access {
            Access::Start if cdb.byte(4) & 0xF1 == 0x01 => Access::Query,
            Access::Prevent if !cdb.has(4, 0x03) => Access::Query,
            Access::Start | Access::Prevent => Access::Write,
            plain => plain,
        }
    }
}

type Run = fn(&mut LogicalUnit, &Call<'_>) -> Answer;

const fn plain<const N: usize>(
    name: &'static str,
    usage: [u8; N],
    access: Access,
    run: Run,
) -> Command {
    let mut mask = [0; 16];
    let mut at = 0;
    while at < N {
        mask[at] = usage[at];
        at += 1;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the mask above holds no more than 16"
    )]
    let len = N as u8;
    Command {
        name,
        mask,
        len,
        has_action: false,
        access,
        writes: false,
        medium: false,
        in_sanitize: false,
        attention: true,
        run,
    }
}

/// INQUIRY, REPORT LUNS, REQUEST SENSE: run past unit attentions and reservations.
const fn always<const N: usize>(name: &'static str, usage: [u8; N], run: Run) -> Command {
    Command {
        attention: false,
        in_sanitize: true,
        ..plain(name, usage, Access::Always, run)
    }
}

/// Needs a medium.
const fn medium(command: Command) -> Command {
    Command {
        medium: true,
        ..command
    }
}

/// Tells about the target rather than the disk: runs beside SANITIZE.
const fn tells(command: Command) -> Command {
    Command {
        in_sanitize: true,
        ..command
    }
}

const fn action<const N: usize>(
    name: &'static str,
    usage: [u8; N],
    access: Access,
    run: Run,
) -> Command {
    Command {
        has_action: true,
        ..plain(name, usage, access, run)
    }
}

const fn writes<const N: usize>(name: &'static str, usage: [u8; N], run: Run) -> Command {
    Command {
        writes: true,
        ..medium(plain(name, usage, Access::Write, run))
    }
}

/// As [`writes`], with a service action.
const fn write_action<const N: usize>(name: &'static str, usage: [u8; N], run: Run) -> Command {
    Command {
        has_action: true,
        ..writes(name, usage, run)
    }
}

/// A 32-bit address in bytes 2 to 5, 16 bits of length in 7 and 8.
const fn blocks_10(opcode: u8, flags: u8) -> [u8; 10] {
    [opcode, flags, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0]
}

/// A 32-bit address in bytes 2 to 5, 32 bits of length in 6 to 9.
const fn blocks_12(opcode: u8, flags: u8) -> [u8; 12] {
    [
        opcode, flags, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0,
    ]
}

/// A 64-bit address in bytes 2 to 9, 32 bits of length in 10 to 13.
const fn blocks_16(opcode: u8, flags: u8) -> [u8; 16] {
    let mut mask = [0xFF; 16];
    mask[0] = opcode;
    mask[1] = flags;
    mask[14] = 0;
    mask[15] = 0;
    mask
}

/// Only a 16-bit list or allocation length, in bytes 7 and 8.
const fn list_10(opcode: u8, flags: u8) -> [u8; 10] {
    [opcode, flags, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0]
}

/// A service action, a list identifier, and a 32-bit list or allocation length in bytes 10 to 13.
const fn list_16(opcode: u8, action: u8, list: u8) -> [u8; 16] {
    [
        opcode, action, list, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0,
    ]
}

/// PERSISTENT RESERVE OUT: service action, scope and type, 32 bits of list length in bytes 5 to 8.
const fn reserve_out(action: u8, scope_type: u8) -> [u8; 10] {
    [0x5F, action, scope_type, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0]
}

use Access::{Always, Prevent, Query, Read, Start, Write};

/// Sorted by opcode, then service action. Rows of one opcode all have service actions or stand alone.
#[rustfmt::skip]
pub(super) static COMMANDS: [Command; 65] = [
    medium(plain("TEST UNIT READY", [0x00, 0, 0, 0, 0, 0], Query, unit::test_ready)),
    always("REQUEST SENSE", [0x03, 0x01, 0, 0, 0xFF, 0], unit::request_sense),
    medium(plain("READ(6)", [0x08, 0x1F, 0xFF, 0xFF, 0xFF, 0], Read, block::read)),
    writes("WRITE(6)", [0x0A, 0x1F, 0xFF, 0xFF, 0xFF, 0], block::write),
    always("INQUIRY", [0x12, 0x03, 0xFF, 0xFF, 0xFF, 0], inquiry::inquiry),
    plain("MODE SELECT(6)", [0x15, 0x11, 0, 0, 0xFF, 0], Write, mode::select),
    plain("RESERVE(6)", [0x16, 0x11, 0, 0, 0, 0], Query, reserve::reserve),
    plain("RELEASE(6)", [0x17, 0x11, 0, 0, 0, 0], Always, reserve::release),
    plain("MODE SENSE(6)", [0x1A, 0x08, 0xFF, 0xFF, 0xFF, 0], Read, mode::sense),
    plain("START STOP UNIT", [0x1B, 0x01, 0, 0x0F, 0xF7, 0], Start, unit::start_stop),
    plain("SEND DIAGNOSTIC", [0x1D, 0xE4, 0, 0xFF, 0xFF, 0], Write, unit::send_diagnostic),
    plain("PREVENT ALLOW MEDIUM REMOVAL", [0x1E, 0, 0, 0, 0x03, 0], Prevent, unit::prevent_allow),
    medium(plain("READ CAPACITY(10)", [0x25, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0x01, 0], Query, capacity::read_10)),
    medium(plain("READ(10)", blocks_10(0x28, 0xF8), Read, block::read)),
    writes("WRITE(10)", blocks_10(0x2A, 0xF8), block::write),
    writes("WRITE AND VERIFY(10)", blocks_10(0x2E, 0xF6), block::write_verify),
    medium(plain("VERIFY(10)", blocks_10(0x2F, 0xF6), Read, block::verify)),
    medium(plain("PRE-FETCH(10)", blocks_10(0x34, 0x02), Read, block::prefetch)),
    medium(plain("SYNCHRONIZE CACHE(10)", blocks_10(0x35, 0x02), Write, block::synchronize)),
    medium(plain("READ DEFECT DATA(10)", [0x37, 0, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 0], Read, report::defects)),
    writes("WRITE SAME(10)", blocks_10(0x41, 0xFE), provision::write_same),
    writes("UNMAP", list_10(0x42, 0x01), provision::unmap),
    write_action("SANITIZE, OVERWRITE", [0x48, 0xA1, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], sanitize::overwrite),
    write_action("SANITIZE, BLOCK ERASE", [0x48, 0xA2, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], sanitize::block_erase),
    write_action("SANITIZE, EXIT FAILURE MODE", [0x48, 0x9F, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0], sanitize::exit_failure),
    plain("LOG SENSE", [0x4D, 0x01, 0xFF, 0xFF, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0], Query, log::sense),
    plain("MODE SELECT(10)", list_10(0x55, 0x11), Write, mode::select),
    plain("RESERVE(10)", list_10(0x56, 0x13), Query, reserve::reserve),
    plain("RELEASE(10)", list_10(0x57, 0x13), Always, reserve::release),
    plain("MODE SENSE(10)", [0x5A, 0x18, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0], Read, mode::sense),
    action("PERSISTENT RESERVE IN, READ KEYS", list_10(0x5E, 0x00), Query, persist::read_keys),
    action(
        "PERSISTENT RESERVE IN, READ RESERVATION",
        list_10(0x5E, 0x01),
        Query,
        persist::read_reservation,
    ),
    action("PERSISTENT RESERVE IN, REPORT CAPABILITIES", list_10(0x5E, 0x02), Query, persist::capabilities),
    action(
        "PERSISTENT RESERVE IN, READ FULL STATUS",
        list_10(0x5E, 0x03),
        Query,
        persist::read_full_status,
    ),
    action("PERSISTENT RESERVE OUT, REGISTER", reserve_out(0x00, 0x00), Query, persist::register),
    action("PERSISTENT RESERVE OUT, RESERVE", reserve_out(0x01, 0xFF), Query, persist::reserve),
    action("PERSISTENT RESERVE OUT, RELEASE", reserve_out(0x02, 0xFF), Query, persist::release),
    action("PERSISTENT RESERVE OUT, CLEAR", reserve_out(0x03, 0x00), Query, persist::clear),
    action("PERSISTENT RESERVE OUT, PREEMPT", reserve_out(0x04, 0xFF), Query, persist::preempt),
    action("PERSISTENT RESERVE OUT, PREEMPT AND ABORT", reserve_out(0x05, 0xFF), Query, persist::preempt),
    action(
        "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY",
        reserve_out(0x06, 0x00),
        Query,
        persist::register,
    ),
    action(
        "PERSISTENT RESERVE OUT, REGISTER AND MOVE",
        reserve_out(0x07, 0x00),
        Query,
        persist::register_and_move,
    ),
    write_action("EXTENDED COPY(LID1)", list_16(0x83, 0x00, 0), xcopy::extended_copy),
    action("RECEIVE COPY STATUS(LID1)", list_16(0x84, 0x00, 0xFF), Write, xcopy::copy_status),
    action("RECEIVE COPY OPERATING PARAMETERS", list_16(0x84, 0x03, 0), Write, xcopy::operating_parameters),
    medium(plain("READ(16)", blocks_16(0x88, 0xF8), Read, block::read)),
    writes(
        "COMPARE AND WRITE",
        [0x89, 0xF8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0xFF, 0, 0],
        block::compare_and_write,
    ),
    writes("WRITE(16)", blocks_16(0x8A, 0xF8), block::write),
    writes("ORWRITE(16)", blocks_16(0x8B, 0xF8), block::or_write),
    writes("WRITE AND VERIFY(16)", blocks_16(0x8E, 0xF6), block::write_verify),
    medium(plain("VERIFY(16)", blocks_16(0x8F, 0xF6), Read, block::verify)),
    medium(plain("PRE-FETCH(16)", blocks_16(0x90, 0x02), Read, block::prefetch)),
    medium(plain("SYNCHRONIZE CACHE(16)", blocks_16(0x91, 0x02), Write, block::synchronize)),
    writes("WRITE SAME(16)", blocks_16(0x93, 0xFF), provision::write_same),
    writes(
        "WRITE ATOMIC(16)",
        [0x9C, 0xF8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        block::write_atomic,
    ),
    medium(action(
        "READ CAPACITY(16)",
        [0x9E, 0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 0],
        Query,
        capacity::read_16,
    )),
    medium(action("GET LBA STATUS", blocks_16(0x9E, 0x12), Read, capacity::get_lba_status)),
    always("REPORT LUNS", [0xA0, 0, 0xFF, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], report::luns),
    tells(action(
        "REPORT SUPPORTED OPERATION CODES",
        [0xA3, 0x0C, 0x87, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Read,
        report::opcodes,
    )),
    tells(action(
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        [0xA3, 0x0D, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Read,
        report::task_functions,
    )),
    medium(plain("READ(12)", blocks_12(0xA8, 0xF8), Read, block::read)),
    writes("WRITE(12)", blocks_12(0xAA, 0xF8), block::write),
    writes("WRITE AND VERIFY(12)", blocks_12(0xAE, 0xF6), block::write_verify),
    medium(plain("VERIFY(12)", blocks_12(0xAF, 0xF6), Read, block::verify)),
    medium(plain(
        "READ DEFECT DATA(12)",
        [0xB7, 0x1F, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
        Read,
        report::defects,
    )),
];

const NOWHERE: u8 = u8::MAX;

/// For each opcode its first row.
static FIRST_ROW: [u8; 256] = first_rows();

const fn first_rows() -> [u8; 256] {
    let mut rows = [NOWHERE; 256];
    let mut row = COMMANDS.len();
    while row > 0 {
        row -= 1;
        // `COMMANDS` has fewer than 255 rows, so the number fits.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the table is asserted to be short"
        )]
        let number = row as u8;
        rows[COMMANDS[row].mask[0] as usize] = number;
    }
    rows
}

const _: () = assert!(COMMANDS.len() < NOWHERE as usize);

/// The rows of an opcode; empty for an opcode that we do not serve.
pub(super) fn rows(opcode: u8) -> &'static [Command] {
    let first = usize::from(FIRST_ROW[usize::from(opcode)]);
    let rest = COMMANDS.get(first..).unwrap_or(&[]);
    let count = rest.iter().take_while(|c| c.opcode() == opcode).count();
    rest.get(..count).unwrap_or(&[])
}

/// The row of a CDB; 05/20/00 for an unknown opcode, 05/24/00 for an unknown service action.
pub(super) fn find(cdb: &Cdb) -> Result<&'static Command, Sense> {
    let first = usize::from(FIRST_ROW[usize::from(cdb.opcode())]);
    let command = COMMANDS.get(first).ok_or(Sense::INVALID_OPCODE)?;
    if !command.has_action || command.action() == cdb.action() {
        return Ok(command);
    }
    let found = rows(cdb.opcode())
        .iter()
        .find(|c| c.action() == cdb.action());
    found.ok_or(Sense::cdb_field(1, Some(4)))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn rows_are_sorted_and_uniform() {
        assert!(COMMANDS.is_sorted_by_key(|c| (c.opcode(), c.action() * u8::from(c.has_action))));
        for command in &COMMANDS {
            let same = rows(command.opcode());
            assert!(!same.is_empty());
            assert!(same.iter().all(|c| c.has_action == command.has_action));
            assert!(command.has_action || same.len() == 1, "{}", command.name);
        }
    }

    #[test]
    fn usage_has_the_length_of_the_group() {
        for command in &COMMANDS {
            let len = match command.opcode() >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                _ => 0,
            };
            assert_eq!(usize::from(command.len), len, "{}", command.name);
        }
    }

    #[test]
    fn every_row_is_found_by_its_own_cdb() {
        for command in &COMMANDS {
            let mut cdb = [0; 16];
            cdb[0] = command.opcode();
            cdb[1] = if command.has_action {
                command.action()
            } else {
                0
            };
            let found = find(&Cdb::new(&cdb)).unwrap();
            assert_eq!(found.name, command.name);
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        for opcode in [0x04, 0x3B, 0x40, 0x85, 0x9D, 0xA4, 0xFF] {
            let sense = find(&Cdb::new(&[opcode])).unwrap_err();
            assert_eq!(sense, Sense::INVALID_OPCODE);
        }
        let sense = find(&Cdb::new(&[0x48, 0x03])).unwrap_err();
        assert_eq!(sense.code(), (5, 0x24, 0));
        let sense = find(&Cdb::new(&[0x5E, 0x04])).unwrap_err();
        assert_eq!(sense.code(), (5, 0x24, 0));
    }
}
