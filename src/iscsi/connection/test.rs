//! A scripted peer over the machine, with an in-memory disk that answers as a logical unit would. Every PDU
//! that leaves is checked against the rules that hold always.

mod bounds;
mod fuzz;
mod manage;
mod other;
mod read;
mod write;

use std::collections::{HashMap, HashSet};

use super::text::Found;
use super::*;
use crate::scsi::Sense;
use crate::scsi::status::GOOD;

pub(super) const SECTOR: usize = 512;
const SECTORS: usize = 4096;

/// READ(10), WRITE(10) and others on a small disk.
struct Disk(Vec<u8>);

impl Disk {
    fn range(cdb: &[u8]) -> ByteRange {
        let lba = u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]);
        let count = u16::from_be_bytes([cdb[7], cdb[8]]);
        ByteRange::of_sectors(lba.into(), count.into()).unwrap()
    }

    fn begin(cdb: &[u8]) -> Step {
        let range = Self::range(cdb);
        let outside = !range.fits((SECTORS * SECTOR) as u64);
        match cdb[0] {
            0x28 | 0x2a if outside => Step::Reply(Reply::check(Sense::LBA_OUT_OF_RANGE)),
            0x28 => Step::Run(BlockOp::Read(range)),
            0x2a => Step::Data {
                len: u32::try_from(range.len()).unwrap(),
                exact: false,
            },
            0x35 => Step::Run(BlockOp::Flush),
            0x12 => Step::Reply(Reply {
                data: vec![7; usize::from(cdb[4])],
                ..Reply::default()
            }),
            0x00 => Step::Reply(Reply::default()),
            _ => Step::Reply(Reply::check(Sense::INVALID_OPCODE)),
        }
    }

    fn run(&mut self, op: &BlockOp, data: &[u8]) -> (Reply, Option<Payload>) {
        let at = |range: ByteRange| {
            usize::try_from(range.offset()).unwrap()..usize::try_from(range.end()).unwrap()
        };
        match op {
            BlockOp::Read(range) => {
                let bytes = self.0[at(*range)].to_vec();
                (Reply::default(), Some(Payload::from(bytes)))
            }
            BlockOp::Write { range, .. } => {
                // Only whole blocks of what came.
                let whole = data.len() / SECTOR * SECTOR;
                let start = at(*range).start;
                self.0[start..start + whole].copy_from_slice(&data[..whole]);
                (Reply::default(), None)
            }
            _ => (Reply::default(), None),
        }
    }
}

/// The initiator's end, and the shell.
pub(super) struct Peer {
    pub(super) conn: Connection,
    pub(super) now: Instant,
    disk: Disk,
    pub(super) cmd_sn: u32,
    stat_sn: u32,
    max_cmd_sn: u32,
    /// What was received and not looked at yet.
    pub(super) inbox: VecDeque<Pdu>,
    /// Operations are kept back until `run_all`.
    pub(super) hold_runs: bool,
    pub(super) runs: Vec<(TaskId, BlockOp)>,
    /// Memory is kept back until `grant_all`.
    pub(super) hold_memory: bool,
    pub(super) wanted: Vec<TaskId>,
    /// The socket takes nothing of the queue.
    pub(super) socket_full: bool,
    pub(super) managed: Vec<(u32, Management)>,
    pub(super) hold_management: bool,
    pub(super) cleared: Vec<u64>,
    pub(super) list: Vec<Found>,
    pub(super) closed: Option<Why>,
    /// Tags that wait for their status, and how often they may get it.
    open: HashMap<u32, u32>,
    /// Tags that were aborted and confirmed: nothing may come for them.
    pub(super) dead: HashSet<u32>,
}

pub(super) fn agreed() -> Negotiated {
    Negotiated {
        initiator_mrdsl: 8192,
        target_mrdsl: 262_144,
        max_burst: 16_384,
        first_burst: 8192,
        ..Negotiated::default()
    }
}

pub(super) fn options(negotiated: Negotiated) -> Options {
    Options {
        negotiated,
        target: Some(Iqn::parse("iqn.2026-11.t:own").unwrap()),
        portal_group: 1,
        cid: 3,
        cmd_sn: 100,
        stat_sn: 500,
        luns: vec![0],
        talkative: true,
    }
}

impl Peer {
    pub(super) fn new() -> Self {
        Self::with(options(agreed()))
    }

    pub(super) fn with(options: Options) -> Self {
        let mut disk = vec![0; SECTORS * SECTOR];
        for (lba, sector) in disk.chunks_mut(SECTOR).enumerate() {
            sector.fill(u8::try_from(lba % 251).unwrap());
        }
        Self {
            cmd_sn: options.cmd_sn,
            stat_sn: options.stat_sn,
            max_cmd_sn: options.cmd_sn.wrapping_sub(1),
            conn: Connection::new(options),
            now: Instant::now(),
            disk: Disk(disk),
            inbox: VecDeque::new(),
            hold_runs: false,
            runs: Vec::new(),
            hold_memory: false,
            wanted: Vec::new(),
            socket_full: false,
            managed: Vec::new(),
            hold_management: false,
            cleared: Vec::new(),
            list: Vec::new(),
            closed: None,
            open: HashMap::new(),
            dead: HashSet::new(),
        }
    }

    pub(super) fn disk(&self, lba: usize, sectors: usize) -> &[u8] {
        &self.disk.0[lba * SECTOR..(lba + sectors) * SECTOR]
    }

    /// Everything that can happen without the peer.
    pub(super) fn pump(&mut self) {
        loop {
            if let Some(output) = self.conn.poll() {
                self.act(output);
            } else if let Some(pdu) = (!self.socket_full)
                .then(|| self.conn.poll_queued())
                .flatten()
            {
                self.receive(pdu);
            } else {
                return;
            }
        }
    }

    fn act(&mut self, output: Output) {
        let now = self.now;
        match output {
            Output::Send(pdu) => self.receive(pdu),
            Output::Execute(task, lun) => {
                let step = match lun_number(lun) {
                    Some(0) => Disk::begin(self.conn.cdb(task)),
                    _ => Step::Reply(Reply::check(Sense::LUN_NOT_SUPPORTED)),
                };
                self.conn.apply(Event::Step(task, step), now);
            }
            Output::WantData(task, _) if self.hold_memory => self.wanted.push(task),
            Output::WantData(task, _) => self.conn.apply(Event::Granted(task), now),
            Output::DataReady(task, _) => {
                let cdb = self.conn.cdb(task);
                let range = Disk::range(cdb);
                let short = (self.conn.data(task).len() as u64) < range.len();
                let step = if short && self.conn.data(task).len() < SECTOR {
                    Step::Reply(Reply::default())
                } else {
                    Step::Run(BlockOp::Write { range, fua: false })
                };
                self.conn.apply(Event::Step(task, step), now);
            }
            Output::Run(task, _, op) => {
                self.runs.push((task, op));
                if !self.hold_runs {
                    self.run_all();
                }
            }
            Output::Manage(number, management) => {
                self.managed.push((number, management));
                if !self.hold_management {
                    self.conn.apply(Event::Managed(number, 0), now);
                }
            }
            Output::SendTargets(_) => {
                let list = self.list.clone();
                self.conn.apply(Event::Listed(list), now);
            }
            Output::Cleared(ticket) => self.cleared.push(ticket),
            Output::Close(why) => {
                assert!(self.closed.is_none(), "closed twice");
                self.closed = Some(why);
            }
        }
    }

    pub(super) fn run_all(&mut self) {
        for (task, op) in std::mem::take(&mut self.runs) {
            let data = self.conn.take_data(task);
            let data = data
                .as_ref()
                .map_or(&[][..], |(buffer, len)| &buffer[..*len]);
            let (reply, payload) = self.disk.run(&op, data);
            self.conn.apply(Event::Done(task, reply, payload), self.now);
        }
    }

    pub(super) fn grant_all(&mut self) {
        for task in std::mem::take(&mut self.wanted) {
            self.conn.apply(Event::Granted(task), self.now);
        }
        self.pump();
    }

    /// Checks what holds for every PDU, and keeps it.
    fn receive(&mut self, pdu: Pdu) {
        let h = &pdu.header;
        assert_eq!(h.data_len() as usize, pdu.data.len(), "{h:?}");
        assert!(pdu.data.len() <= self.conn.options.negotiated.initiator_mrdsl as usize);
        let status = match h.opcode() {
            op::R2T => false,
            op::DATA_IN => h.flags() & 1 != 0,
            op::NOP_IN => h.itt() != RESERVED_TAG,
            _ => true,
        };
        assert_eq!(h.u32_at(24), self.stat_sn, "StatSN of {h:?}");
        if status {
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
        assert_eq!(h.u32_at(28), self.conn.numbers.exp_cmd_sn().0);
        let growth = h.u32_at(32).wrapping_sub(self.max_cmd_sn);
        assert!(growth <= 2 * limits::COMMAND_WINDOW, "MaxCmdSN went back");
        self.max_cmd_sn = h.u32_at(32);
        if h.itt() != RESERVED_TAG {
            assert!(
                !self.dead.contains(&h.itt()),
                "answer for an aborted task: {h:?}"
            );
            let left = self
                .open
                .get_mut(&h.itt())
                .expect("an answer nobody asked for");
            assert!(*left > 0, "a second answer: {h:?}");
            // A text exchange in parts answers each of its requests.
            *left -= u32::from(status);
        }
        self.inbox.push_back(pdu);
    }

    /// Sends a PDU as it is, with data.
    pub(super) fn send_raw(&mut self, bhs: &Bhs, data: &[u8]) {
        let mut bhs = *bhs;
        bhs.set_data_len(u32::try_from(data.len()).unwrap());
        if bhs.opcode() == op::DATA_OUT {
            let place = self.conn.data_out(&bhs, self.now);
            if let Some(room) = self.conn.room(place, data.len()) {
                room.copy_from_slice(data);
            }
            self.conn.landed(&bhs, place, true, self.now);
        } else {
            *self.open.entry(bhs.itt()).or_default() += 1;
            let event = Event::Pdu {
                bhs: &bhs,
                ahs: &[],
                data: Incoming::Slice(data),
                intact: true,
            };
            self.conn.apply(event, self.now);
        }
        self.pump();
    }

    /// Sends a command with the next CmdSN, unless it is immediate.
    pub(super) fn send(&mut self, mut bhs: Bhs, data: &[u8]) {
        bhs.put_u32(24, self.cmd_sn);
        if !bhs.immediate() {
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
        }
        self.send_raw(&bhs, data);
    }

    /// Sends a command that nobody will answer.
    pub(super) fn send_gone(&mut self, mut bhs: Bhs) {
        bhs.put_u32(24, self.cmd_sn);
        let event = Event::Pdu {
            bhs: &bhs,
            ahs: &[],
            data: Incoming::Slice(&[]),
            intact: true,
        };
        self.conn.apply(event, self.now);
        self.pump();
    }

    pub(super) fn read(&mut self, itt: u32, lba: u32, sectors: u16, edtl: u32) {
        self.send(command(itt, 0xc0, edtl, 0x28, lba, sectors), &[]);
    }

    pub(super) fn write(&mut self, itt: u32, lba: u32, sectors: u16, edtl: u32, data: &[u8]) {
        self.send(command(itt, 0xa0, edtl, 0x2a, lba, sectors), data);
    }

    pub(super) fn next(&mut self) -> Pdu {
        self.inbox.pop_front().expect("the target says nothing")
    }

    /// The next PDU, which must have this opcode.
    pub(super) fn expect(&mut self, opcode: u8) -> Bhs {
        let pdu = self.next();
        assert_eq!(pdu.header.opcode(), opcode, "{:?}", pdu.header);
        pdu.header
    }

    pub(super) fn silent(&self) {
        assert!(self.inbox.is_empty(), "{:?}", self.inbox);
    }

    /// The next PDU is a response with this status: O and U bits, residual count.
    pub(super) fn response(&mut self, status: u8) -> (u8, u32) {
        let header = self.expect(op::SCSI_RESPONSE);
        assert_eq!(header.u8_at(3), status);
        (header.flags() & 0x7f, header.u32_at(44))
    }

    /// The next PDU is CHECK CONDITION with this sense.
    pub(super) fn check(&mut self, key: u8, asc: u8, ascq: u8) {
        let pdu = self.next();
        assert_eq!(pdu.header.opcode(), op::SCSI_RESPONSE, "{:?}", pdu.header);
        let Data::Inline(data) = pdu.data else {
            panic!("no sense data");
        };
        assert_eq!(data[..2], [0, 18]);
        let found = (data[2 + 2], data[2 + 12], data[2 + 13]);
        assert_eq!(found, (key, asc, ascq));
    }

    /// Answers an R2T with all it asks for, in PDUs of at most `segment` bytes.
    pub(super) fn fulfil(&mut self, r2t: &Bhs, data: &[u8], segment: usize) {
        let offset = r2t.u32_at(40);
        let len = r2t.u32_at(44) as usize;
        let all = &data[offset as usize..][..len];
        let count = all.chunks(segment).count();
        for (n, part) in all.chunks(segment).enumerate() {
            let at = offset + u32::try_from(n * segment).unwrap();
            let n32 = u32::try_from(n).unwrap();
            self.data_out(r2t.itt(), r2t.u32_at(20), n32, at, n + 1 == count, part);
        }
    }

    pub(super) fn data_out(
        &mut self,
        itt: u32,
        ttt: u32,
        data_sn: u32,
        offset: u32,
        last: bool,
        data: &[u8],
    ) {
        let mut bhs = Bhs::new(op::DATA_OUT);
        bhs.put_u8(1, u8::from(last) << 7);
        bhs.put_u32(16, itt);
        bhs.put_u32(20, ttt);
        bhs.put_u32(36, data_sn);
        bhs.put_u32(40, offset);
        self.send_raw(&bhs, data);
    }

    /// An immediate task management request.
    pub(super) fn manage(&mut self, itt: u32, function: u8, task: u32) {
        let mut bhs = Bhs::new(op::TASK_MANAGEMENT | 0x40);
        bhs.put_u8(1, 0x80 | function);
        bhs.put_u32(16, itt);
        bhs.put_u32(20, task);
        self.send(bhs, &[]);
    }

    pub(super) fn tick(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.conn.apply(Event::Tick, self.now);
        self.pump();
    }

    pub(super) fn logout(&mut self, itt: u32, reason: u8, cid: u16) {
        let mut bhs = Bhs::new(op::LOGOUT | 0x40);
        bhs.put_u8(1, 0x80 | reason);
        bhs.put_u32(16, itt);
        bhs.put_u16(20, cid);
        self.send(bhs, &[]);
    }
}

pub(super) fn command(itt: u32, flags: u8, edtl: u32, opcode: u8, lba: u32, sectors: u16) -> Bhs {
    let mut bhs = Bhs::new(op::SCSI_COMMAND);
    bhs.put_u8(1, flags);
    bhs.put_u32(16, itt);
    bhs.put_u32(20, edtl);
    bhs.put_u8(32, opcode);
    bhs.put_u32(34, lba);
    bhs.put_u16(39, sectors);
    bhs
}

pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i * 7 % 253).unwrap())
        .collect()
}

pub(super) const fn good() -> u8 {
    GOOD
}
