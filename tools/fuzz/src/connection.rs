//! The full feature phase of one connection against a model of its peer: PDUs right and wrong, completions,
//! memory, a socket that takes nothing, the clock. Behind it stand the logical unit and a disk in memory.
//! Each PDU that leaves is checked against what was sent before (RFC 7143 4.2.2, 4.2.4, 11).

mod model;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use model::Model;
use reveille::iscsi::connection::{
    Connection, Event, Incoming, Management, Options, Output, TaskId, lun_number,
};
use reveille::iscsi::params::Negotiated;
use reveille::iscsi::pdu::{Bhs, RESERVED_TAG, op};
use reveille::limits;
use reveille::names::Iqn;
use reveille::scsi::{
    BlockOp, LogicalUnit, NexusId, Outcome, Reply, Saving, Step, Traits, absent_lun,
};
use reveille::store::{Buffer, Payload};

use crate::scsi::{BLOCKS, config};
use crate::volume::Volume;

const NEXUS: NexusId = NexusId(1);
const MRDSL: [u32; 4] = [512, 8192, 65_536, 1000];
const BURSTS: [u32; 4] = [512, 4096, 16_384, 1024];
/// Memory that the shell of this model hands out to one connection.
const MEMORY_MAX: usize = 256 * 1024;

/// Data of a write: a function of tag and offset, so that a byte at the wrong place is seen.
fn pattern(itt: u32, offset: u32) -> u8 {
    (itt.wrapping_mul(101) ^ offset.wrapping_mul(7) ^ offset >> 8) as u8
}

fn pattern_of(itt: u32, offset: u32, len: u32) -> Vec<u8> {
    (0..len)
        .map(|n| pattern(itt, offset.wrapping_add(n)))
        .collect()
}

struct Rig {
    conn: Connection,
    now: Instant,
    model: Model,
    unit: LogicalUnit,
    volume: Volume,
    /// Operations that were asked for and are not done.
    runs: VecDeque<(TaskId, u64, BlockOp)>,
    wanted: VecDeque<(TaskId, usize)>,
    managed: VecDeque<(u32, Management)>,
    hold: u8,
    socket_full: bool,
    cleared: u64,
    tickets: u64,
    functions: u32,
    /// The digest of the next Data-Out is right.
    intact: bool,
}

pub(crate) fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = script(&mut u);
}

fn script(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let (flags, sizes): (u8, u8) = (u.arbitrary()?, u.arbitrary()?);
    let max_burst = BURSTS[usize::from(sizes >> 2 & 3)];
    let negotiated = Negotiated {
        initiator_mrdsl: MRDSL[usize::from(sizes & 3)],
        target_mrdsl: limits::TARGET_MRDSL,
        max_burst,
        first_burst: BURSTS[usize::from(sizes >> 4 & 3)].min(max_burst),
        max_outstanding_r2t: u16::from(sizes >> 6) + 1,
        initial_r2t: flags & 1 != 0,
        immediate_data: flags & 2 != 0,
        ..Negotiated::default()
    };
    let own = Iqn::parse("iqn.2026-11.t:own").expect("a name");
    let options = Options {
        negotiated: negotiated.clone(),
        target: (flags & 0x0c != 0x0c).then_some(own),
        portal_group: 1,
        cid: 3,
        cmd_sn: u32::MAX - 2,
        stat_sn: u32::MAX - 1,
        luns: vec![0],
        talkative: flags & 0x10 != 0,
    };
    let mut unit = LogicalUnit::new(config(Traits::default()));
    unit.attach(NEXUS, "iqn.a,i,0x000000000001");
    let mut rig = Rig {
        model: Model::new(negotiated, options.cmd_sn, options.stat_sn),
        conn: Connection::new(options),
        now: Instant::now(),
        unit,
        volume: Volume::new(BLOCKS),
        runs: VecDeque::new(),
        wanted: VecDeque::new(),
        managed: VecDeque::new(),
        hold: flags >> 5,
        socket_full: false,
        cleared: 0,
        tickets: 0,
        functions: 0,
        intact: true,
    };
    for (at, byte) in rig.volume.bytes.iter_mut().enumerate() {
        *byte = (at / 7) as u8;
    }
    for _ in 0..400 {
        if u.is_empty() {
            break;
        }
        rig.turn(u)?;
        rig.pump();
    }
    rig.finish();
    Ok(())
}

impl Rig {
    fn turn(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let choice: u8 = u.arbitrary()?;
        match choice & 0x0f {
            0..=4 => self.command(u)?,
            5..=7 => self.solicited(u)?,
            8 => self.unsolicited(u)?,
            9 => self.manage(u)?,
            10 => self.other(u)?,
            11 => self.raw(u)?,
            12 => self.run_some(usize::from(choice >> 4)),
            13 => self.grant_some(),
            14 => {
                self.socket_full = choice & 0x10 != 0;
                self.hold = choice >> 5;
            }
            _ => self.event(choice >> 4),
        }
        Ok(())
    }

    /// A SCSI command, mostly as it should be.
    fn command(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let (tag, shape, lba, count): (u8, u8, u8, u8) = (
            u.arbitrary()?,
            u.arbitrary()?,
            u.arbitrary()?,
            u.arbitrary()?,
        );
        let mut bhs = Bhs::new(op::SCSI_COMMAND | if tag & 0x40 != 0 { 0x40 } else { 0 });
        let itt = u32::from(tag & 0x1f);
        bhs.put_u32(16, itt);
        let (opcode, way) = match shape & 7 {
            0..=2 => (0x28, 0x40),
            3..=5 => (0x2a, 0x20),
            6 => ([0x12, 0x35, 0x00, 0x5e][usize::from(count >> 6)], 0x40),
            _ => ([0x89, 0x42, 0x5f, 0x93][usize::from(count >> 6)], 0x20),
        };
        let natural = fill(&mut bhs, opcode, lba, count);
        let edtl = match shape >> 3 & 7 {
            0..=4 => natural,
            5 => natural / 2,
            6 => natural.saturating_mul(2).saturating_add(7),
            _ => u.arbitrary()?,
        };
        bhs.put_u32(20, edtl);
        // F, attribute; sometimes the wrong direction or more to come.
        let mut flags = 0x80 | way | (tag >> 5 & 3);
        let mut data = 0;
        if way == 0x20 {
            if shape & 0x40 != 0 {
                data = edtl.min(self.model.agreed.first_burst);
                if lba & 0x80 != 0 {
                    data /= 2;
                }
            }
            if shape & 0x80 != 0 {
                flags &= 0x7f;
            }
        } else if shape & 0xc0 == 0xc0 {
            flags ^= 0x60;
        }
        bhs.put_u8(1, flags);
        if lba == 0xee {
            bhs.put_u64(8, 5 << 48);
        }
        let data = data.min(limits::TARGET_MRDSL);
        if self.model.is_vague(itt) {
            return Ok(());
        }
        let right = self.number(&mut bhs, count >> 6 == 3 && shape & 7 < 6);
        self.send(bhs, &pattern_of(itt, 0, data), right);
        if right {
            self.model.immediate(itt, data);
        }
        Ok(())
    }

    /// Gives a CmdSN: the next one, or one outside the window. True when it will be taken.
    fn number(&mut self, bhs: &mut Bhs, wrong: bool) -> bool {
        let next = self.model.cmd_sn;
        if bhs.immediate() {
            bhs.put_u32(24, next);
            return self.model.open;
        }
        let room = self.model.max_cmd_sn.wrapping_sub(next).wrapping_add(1);
        let closed = room == 0 || room > limits::COMMAND_WINDOW;
        if wrong || closed {
            bhs.put_u32(24, next.wrapping_sub(1));
            return false;
        }
        bhs.put_u32(24, next);
        if self.model.open {
            self.model.cmd_sn = next.wrapping_add(1);
        }
        self.model.open
    }

    /// Sends a PDU as it is. `taken`: by its number it will be looked at.
    fn send(&mut self, mut bhs: Bhs, data: &[u8], taken: bool) {
        if !self.conn.wants_input() {
            // The driver would not read on. The number that was given is not used.
            if taken && !bhs.immediate() && numbered(&bhs) {
                self.model.cmd_sn = self.model.cmd_sn.wrapping_sub(1);
            }
            return;
        }
        bhs.set_data_len(data.len() as u32);
        let nonce = self.model.nonce();
        bhs.put_u32(28, nonce);
        if taken {
            self.model.sent(&bhs);
        }
        let event = Event::Pdu {
            bhs: &bhs,
            ahs: &[],
            data: Incoming::Slice(data),
            intact: true,
        };
        self.conn.apply(event, self.now);
    }

    /// Answers an R2T, mostly as asked.
    fn solicited(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let (which, twist): (u8, u8) = (u.arbitrary()?, u.arbitrary()?);
        let Some(r2t) = self.model.pick_r2t(usize::from(which)) else {
            return Ok(());
        };
        let (mut offset, mut sn, mut tag, mut itt) = (r2t.next, r2t.data_sn, r2t.tag, r2t.itt);
        let mut len = r2t.end - r2t.next;
        if twist & 0x20 != 0 {
            len = len.min(512 * (1 + u32::from(twist >> 6)));
        }
        let mut last = r2t.next + len == r2t.end;
        // Eight of 32 answers are wrong in one thing.
        match twist & 0x1f {
            0 => offset ^= 512,
            1 => sn ^= 1,
            2 => tag ^= 1,
            3 => itt ^= 1,
            4 => len += 1,
            5 => last = !last,
            6 => tag = RESERVED_TAG,
            7 => self.intact = false,
            _ => {}
        }
        self.data_out(itt, tag, sn, offset, len, last, twist & 0x1f == 8);
        self.intact = true;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the PDU")]
    fn data_out(
        &mut self,
        itt: u32,
        tag: u32,
        sn: u32,
        offset: u32,
        len: u32,
        last: bool,
        late: bool,
    ) {
        let len = len.min(limits::TARGET_MRDSL);
        let mut bhs = Bhs::new(op::DATA_OUT);
        bhs.put_u8(1, u8::from(last) << 7);
        bhs.put_u32(16, itt);
        bhs.put_u32(20, tag);
        bhs.put_u32(36, sn);
        bhs.put_u32(40, offset);
        bhs.set_data_len(len);
        let nonce = self.model.nonce();
        bhs.put_u32(28, nonce);
        if !self.conn.wants_input() {
            return;
        }
        if self.intact {
            self.model.data_out(&bhs);
        }
        let place = self.conn.data_out(&bhs, self.now);
        if late {
            // Large segments land later: other things happen between header and data.
            self.pump();
            self.run_some(3);
            self.event(4);
            self.pump();
        }
        let data = pattern_of(itt, offset, len);
        if let Some(room) = self.conn.room(place, data.len()) {
            room.copy_from_slice(&data);
        }
        self.conn.landed(&bhs, place, self.intact, self.now);
    }

    fn unsolicited(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let (tag, len, shape): (u8, u16, u8) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
        let itt = u32::from(tag & 0x1f);
        let (offset, sn) = self.model.unsolicited(itt);
        let offset = offset ^ if shape & 0x10 != 0 { 512 } else { 0 };
        let len = u32::from(len & 0x1fff);
        let late = shape & 0x20 != 0;
        self.data_out(itt, RESERVED_TAG, sn, offset, len, shape & 1 != 0, late);
        Ok(())
    }

    fn manage(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let (tag, function, task): (u8, u8, u8) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
        let immediate = if function & 0x10 == 0 { 0x40 } else { 0 };
        let mut bhs = Bhs::new(op::TASK_MANAGEMENT | immediate);
        bhs.put_u8(1, 0x80 | (function & 0x0f));
        // Tags that are never used twice: an answer names its question.
        self.functions += 1;
        bhs.put_u32(16, 0x1000 + self.functions * 8 + u32::from(tag & 7));
        bhs.put_u32(20, u32::from(task & 0x1f));
        if function & 0x20 != 0 {
            bhs.put_u64(8, 9 << 48);
        }
        let taken = self.number(&mut bhs, false);
        self.send(bhs, &[], taken);
        Ok(())
    }

    /// NOP, text, logout, SNACK.
    fn other(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let (kind, len): (u8, u8) = (u.arbitrary()?, u.arbitrary()?);
        let immediate = if kind & 0x40 != 0 { 0x40 } else { 0 };
        let opcode = [op::NOP_OUT, op::TEXT, op::LOGOUT, op::SNACK][usize::from(kind & 3)];
        let mut bhs = Bhs::new(opcode | immediate);
        bhs.put_u8(1, 0x80);
        bhs.put_u32(16, 0x2000 + u32::from(kind >> 3 & 3));
        bhs.put_u32(20, RESERVED_TAG);
        let data = u.bytes(usize::from(len).min(u.len()))?.to_vec();
        match opcode {
            op::LOGOUT => {
                bhs.put_u8(1, 0x80 | (len & 1));
                bhs.put_u16(20, if len & 2 == 0 { 3 } else { 4 });
            }
            op::TEXT => {
                self.model.text(&data);
                bhs.put_u8(1, if kind & 0x80 != 0 { 0x40 } else { 0x80 });
            }
            op::NOP_OUT if kind & 0x80 != 0 => bhs.put_u32(16, RESERVED_TAG),
            _ => {}
        }
        let taken = numbered(&bhs) && self.number(&mut bhs, false);
        self.send(bhs, &data, taken);
        Ok(())
    }

    /// Any header at all. What it leads to cannot be foreseen, so only what holds always is checked.
    fn raw(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let mut bhs = Bhs([0; 48]);
        for byte in &mut bhs.0 {
            *byte = u.arbitrary()?;
        }
        let ahs = u
            .bytes((bhs.u8_at(4) & 7) as usize * 4 % (u.len() + 1))?
            .to_vec();
        let len = u32::from(bhs.u16_at(6)) & 0x1fff;
        bhs.set_data_len(len);
        if bhs.opcode() == op::DATA_OUT {
            let (itt, tag) = (bhs.itt() & 0x1f, bhs.ttt());
            let last = bhs.flags() & 0x80 != 0;
            self.data_out(itt, tag, bhs.u32_at(36), bhs.u32_at(40), len, last, false);
            return Ok(());
        }
        if !self.conn.wants_input() {
            return Ok(());
        }
        // Its own range of tags, so that it seldom meets the others.
        bhs.put_u32(16, 0x8000_0000 | bhs.itt());
        let nonce = self.model.nonce();
        bhs.put_u32(28, nonce);
        if self.model.is_vague(bhs.itt()) {
            return Ok(());
        }
        if bhs.immediate() {
            if self.model.open {
                self.model.sent(&bhs);
            }
        } else if numbered(&bhs) {
            // Behind the window, or a gap in it.
            let way = if bhs.u8_at(46) & 3 == 3 { 1 } else { u32::MAX };
            bhs.put_u32(24, self.model.cmd_sn.wrapping_add(way));
        }
        if bhs.opcode() == op::SCSI_COMMAND {
            self.model.wild_write();
        }
        let data = vec![0x6e; len as usize];
        let event = Event::Pdu {
            bhs: &bhs,
            ahs: &ahs,
            data: Incoming::Slice(&data),
            intact: bhs.u8_at(47) & 7 != 7,
        };
        self.conn.apply(event, self.now);
        Ok(())
    }

    fn event(&mut self, what: u8) {
        match what & 7 {
            0 | 1 => {
                self.now += Duration::from_secs(1);
                self.conn.apply(Event::Tick, self.now);
            }
            2 => {
                self.now += Duration::from_secs(31);
                self.conn.apply(Event::Tick, self.now);
            }
            3 => self.conn.apply(Event::Drain, self.now),
            4 => {
                self.tickets += 1;
                let lun = (what & 8 == 0).then_some(0);
                let ticket = self.tickets;
                self.model.clear(ticket, lun);
                let tell = self.unit.tells_aborts();
                let cleared = Event::ClearedByOther { lun, tell, ticket };
                self.conn.apply(cleared, self.now);
            }
            5 => {
                if let Some((number, management)) = self.managed.pop_front() {
                    self.managed(number, management);
                }
            }
            6 => self.conn.shrink(),
            _ if what & 8 == 0 => self.conn.apply(Event::Stay, self.now),
            _ => self.conn.apply(Event::Finish, self.now),
        }
    }

    fn managed(&mut self, number: u32, management: Management) {
        if matches!(management, Management::ClearTaskSet(_)) {
            self.unit.cleared_by_another(NEXUS);
        } else {
            self.unit.reset(Some(NEXUS));
        }
        self.conn.apply(Event::Managed(number, 0), self.now);
    }

    /// Everything that can happen without the peer.
    fn pump(&mut self) {
        loop {
            if let Some(output) = self.conn.poll() {
                self.act(output);
            } else if let Some(pdu) = (!self.socket_full)
                .then(|| self.conn.poll_queued())
                .flatten()
            {
                self.model.receive(&pdu);
            } else {
                break;
            }
        }
        let bound =
            self.model.unsolicited_max() + MEMORY_MAX + 2 * BLOCKS * 512 * self.conn.open_tasks();
        assert!(
            self.conn.memory() <= bound,
            "{} bytes are held",
            self.conn.memory()
        );
        let tasks = (limits::COMMAND_WINDOW + limits::IMMEDIATE_MAX) as usize;
        assert!(self.conn.open_tasks() <= tasks);
    }

    fn act(&mut self, output: Output) {
        assert!(!self.model.closed, "after the end: {output:?}");
        match output {
            Output::Send(pdu) => self.model.receive(&pdu),
            Output::Execute(task, lun) => {
                let step = self.begin(task, lun);
                self.conn.apply(Event::Step(task, step), self.now);
            }
            Output::DataReady(task, _) => {
                let (cdb, data) = (self.conn.cdb(task).to_vec(), self.conn.data(task).to_vec());
                self.model.check_data(&data);
                let step = match self.unit.data_out(NEXUS, &cdb, &data) {
                    Step::Save(_) => Step::Reply(self.unit.saved(Saving::Done)),
                    step => step,
                };
                self.conn.apply(Event::Step(task, step), self.now);
            }
            Output::WantData(task, bytes) => {
                self.wanted.push_back((task, bytes));
                if self.hold & 1 == 0 {
                    self.grant_some();
                }
            }
            Output::Run(task, lun, op) => {
                self.runs.push_back((task, lun, op));
                if self.hold & 2 == 0 {
                    self.run_some(0);
                }
            }
            Output::Manage(number, management) => {
                self.managed.push_back((number, management));
                if self.hold & 4 == 0 {
                    self.event(5);
                }
            }
            Output::SendTargets(_) => self.conn.apply(Event::Listed(Vec::new()), self.now),
            Output::Cleared(ticket) => {
                assert!(ticket <= self.tickets);
                self.cleared = self.cleared.max(ticket);
                self.model.cleared(ticket);
            }
            Output::Close(_) => {
                self.model.closed = true;
                self.model.open = false;
            }
        }
    }

    fn begin(&mut self, task: TaskId, lun: u64) -> Step {
        let cdb = self.conn.cdb(task).to_vec();
        if lun_number(lun) != Some(0) {
            return Step::Reply(absent_lun(&cdb, &[0]));
        }
        match self.unit.begin(NEXUS, &cdb) {
            Step::Data { len, exact: true } if self.conn.expected_out(task) != len => {
                Step::Reply(self.unit.wrong_data_size(&cdb))
            }
            step => step,
        }
    }

    /// Runs the operation at `at` of those that wait, or the last.
    fn run_some(&mut self, at: usize) {
        let at = at.min(self.runs.len().saturating_sub(1));
        let Some((task, _, op)) = self.runs.remove(at) else {
            return;
        };
        let data = self.conn.take_data(task);
        let gone = self.conn.is_aborted(task);
        let empty = (Buffer::take(0), 0);
        let (buffer, len) = data.as_ref().unwrap_or(&empty);
        let needs = matches!(
            op,
            BlockOp::Write { .. }
                | BlockOp::WriteAtomic { .. }
                | BlockOp::OrWrite { .. }
                | BlockOp::WriteCompare { .. }
        );
        if gone && needs && data.is_none() {
            self.conn
                .apply(Event::Done(task, Reply::good(), None), self.now);
            return;
        }
        self.model.check_data(&buffer[..*len]);
        let (outcome, bytes) = self.volume.run(&op, &buffer[..*len]);
        let read = matches!(outcome, Outcome::Data { .. });
        if matches!(op, BlockOp::Sanitize { .. }) {
            self.unit.sanitize_ended(true);
        }
        let reply = self.unit.done(NEXUS, self.conn.cdb(task), outcome);
        if let BlockOp::Read(range) = op {
            self.model.will_read(range.offset(), &bytes);
        }
        let payload = read.then(|| Payload::from(bytes));
        self.conn.apply(Event::Done(task, reply, payload), self.now);
    }

    fn grant_some(&mut self) {
        if let Some((task, bytes)) = self.wanted.pop_front() {
            if self.conn.memory() + bytes <= MEMORY_MAX || self.conn.memory() == 0 {
                self.conn.apply(Event::Granted(task), self.now);
            } else {
                self.wanted.push_back((task, bytes));
            }
        }
    }

    /// Lets everything end: then nothing is held.
    fn finish(&mut self) {
        self.socket_full = false;
        self.hold = 0;
        self.tickets += 1;
        let ticket = self.tickets;
        self.model.clear(ticket, None);
        let cleared = Event::ClearedByOther {
            lun: None,
            tell: false,
            ticket,
        };
        self.conn.apply(cleared, self.now);
        self.pump();
        while !self.runs.is_empty() || !self.managed.is_empty() {
            self.run_some(0);
            self.event(5);
            self.pump();
        }
        if !self.model.closed {
            assert_eq!(self.conn.open_tasks(), 0, "a task that does not end");
            assert_eq!(self.conn.memory(), 0, "memory that nobody gives back");
            assert!(!self.conn.has_queued() && !self.conn.awaits_data());
            assert_eq!(self.cleared, ticket, "a clear that is not confirmed");
            self.model.nothing_open();
        }
    }
}

/// Takes part in the CmdSN window.
fn numbered(bhs: &Bhs) -> bool {
    matches!(
        bhs.opcode(),
        op::SCSI_COMMAND | op::TASK_MANAGEMENT | op::NOP_OUT | op::TEXT | op::LOGOUT
    )
}

/// The command block of `opcode`; how many bytes it moves.
fn fill(bhs: &mut Bhs, opcode: u8, lba: u8, count: u8) -> u32 {
    let sectors = u32::from(count & 0x3f);
    bhs.put_u8(32, opcode);
    match opcode {
        0x28 | 0x2a => {
            bhs.put_u32(34, u32::from(lba));
            bhs.put_u8(40, count & 0x3f);
        }
        0x89 => (bhs.put_u8(41, lba), bhs.put_u8(45, count & 7)).0,
        0x93 => (bhs.put_u8(41, lba), bhs.put_u8(45, count & 0x3f)).0,
        0x12 => bhs.put_u8(36, lba),
        0x5f => bhs.put_u8(40, 24),
        _ => bhs.put_u8(40, lba),
    }
    match opcode {
        0x28 | 0x2a => sectors * 512,
        0x89 => u32::from(count & 7) * 1024,
        0x93 => 512,
        0x5f => 24,
        _ => u32::from(lba),
    }
}
