//! What the peer of a connection knows: what it sent and what may come for it. Panics when something comes
//! that RFC 7143 does not allow, or that a confirmed abort has ruled out.

use std::collections::{HashMap, HashSet, VecDeque};

use reveille::iscsi::connection::{Data, Pdu};
use reveille::iscsi::params::Negotiated;
use reveille::iscsi::pdu::{Bhs, RESERVED_TAG, op};
use reveille::limits;

use super::pattern;

/// A PDU that wants an answer. Its nonce stands in ExpStatSN, which the target does not look at, so that a
/// Reject tells which PDU it means.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    nonce: u32,
    pub(super) opcode: u8,
    itt: u32,
    /// Tasks that this management function ends: tag and nonce.
    ends: Vec<(u32, u32)>,
    /// A command whose tag was in use.
    again: bool,
    /// A Logout that will be granted.
    leaves: bool,
}

/// A SCSI command on its way.
#[derive(Debug)]
struct Task {
    nonce: u32,
    lun: u64,
    edtl: u32,
    read: bool,
    write: bool,
    /// Offset and length on the disk, of a READ(10).
    place: Option<(u64, usize)>,
    sent: u32,
    burst: u32,
    data_sn: u32,
    r2t_sn: u32,
    next_r2t: Option<u32>,
    unsolicited: (u32, u32),
    /// So many functions that are under way want it ended: it may have ended in silence.
    vague: u32,
}

/// An R2T that is not answered whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct R2t {
    pub(super) itt: u32,
    pub(super) tag: u32,
    pub(super) next: u32,
    pub(super) end: u32,
    pub(super) data_sn: u32,
}

pub(super) struct Model {
    pub(super) agreed: Negotiated,
    mrdsl: u32,
    pub(super) cmd_sn: u32,
    pub(super) max_cmd_sn: u32,
    stat_sn: u32,
    /// The target takes numbered PDUs.
    pub(super) open: bool,
    pub(super) closed: bool,
    nonces: u32,
    rejected: HashSet<u32>,
    waiting: Vec<Sent>,
    tasks: HashMap<u32, Task>,
    dead: HashSet<u32>,
    r2ts: Vec<R2t>,
    clears: HashMap<u64, Vec<(u32, u32)>>,
    reads: VecDeque<(u64, Vec<u8>)>,
    wild_writes: bool,
}

impl Model {
    pub(super) fn new(agreed: Negotiated, cmd_sn: u32, stat_sn: u32) -> Self {
        Self {
            mrdsl: agreed.initiator_mrdsl,
            agreed,
            cmd_sn,
            // As the login told it.
            max_cmd_sn: cmd_sn.wrapping_add(limits::COMMAND_WINDOW - 1),
            stat_sn,
            open: true,
            closed: false,
            nonces: 0,
            rejected: HashSet::new(),
            waiting: Vec::new(),
            tasks: HashMap::new(),
            dead: HashSet::new(),
            r2ts: Vec::new(),
            clears: HashMap::new(),
            reads: VecDeque::new(),
            wild_writes: false,
        }
    }

    pub(super) fn nonce(&mut self) -> u32 {
        self.nonces += 1;
        self.nonces
    }

    /// A text request may declare another limit for what we are sent.
    pub(super) fn text(&mut self, data: &[u8]) {
        if data.windows(7).any(|part| part == b"MaxRecv") {
            self.mrdsl = u32::MAX;
        }
    }

    pub(super) fn wild_write(&mut self) {
        self.wild_writes = true;
    }

    /// An initiator does not use a tag again whose task it is just aborting.
    pub(super) fn is_vague(&self, itt: u32) -> bool {
        self.tasks.get(&itt).is_some_and(|task| task.vague > 0)
    }

    /// A PDU that the target will look at.
    pub(super) fn sent(&mut self, bhs: &Bhs) {
        show("->", bhs);
        let (opcode, itt) = (bhs.opcode(), bhs.itt());
        let mut sent = Sent {
            nonce: bhs.exp_stat_sn(),
            opcode,
            itt,
            ends: Vec::new(),
            again: false,
            leaves: false,
        };
        match opcode {
            op::SCSI_COMMAND if self.tasks.contains_key(&itt) => sent.again = true,
            op::SCSI_COMMAND => {
                self.dead.remove(&itt);
                self.tasks.insert(itt, Task::of(bhs));
            }
            op::TASK_MANAGEMENT => {
                sent.ends = self.named(bhs);
                self.blur(&sent.ends.clone(), true);
            }
            op::LOGOUT => {
                let cid = bhs.u16_at(20) == 3;
                sent.leaves = bhs.flags() & 0x7f == 0 || (bhs.flags() & 0x7f == 1 && cid);
                self.open &= !sent.leaves;
            }
            op::NOP_OUT if itt == RESERVED_TAG => return,
            op::NOP_OUT | op::TEXT => {}
            _ => return,
        }
        self.waiting.push(sent);
    }

    /// The tasks that a management function ends when it is answered with 0.
    fn named(&self, bhs: &Bhs) -> Vec<(u32, u32)> {
        let all = self.tasks.iter().map(|(itt, task)| (*itt, task));
        let tagged = |(itt, task): (u32, &Task)| (itt, task.nonce);
        match bhs.flags() & 0x7f {
            1 => all
                .filter(|(itt, _)| *itt == bhs.u32_at(20))
                .map(tagged)
                .collect(),
            2 | 4 | 5 if bhs.lun() == 0 => all.filter(|(_, t)| t.lun == 0).map(tagged).collect(),
            6 | 7 => all.map(tagged).collect(),
            _ => Vec::new(),
        }
    }

    fn blur(&mut self, tasks: &[(u32, u32)], more: bool) {
        for (itt, nonce) in tasks {
            if let Some(task) = self.tasks.get_mut(itt).filter(|t| t.nonce == *nonce) {
                task.vague = if more {
                    task.vague + 1
                } else {
                    task.vague.saturating_sub(1)
                };
            }
        }
    }

    /// These tasks are over and confirmed to be.
    fn kill(&mut self, tasks: &[(u32, u32)]) {
        for (itt, nonce) in tasks {
            if self.tasks.get(itt).is_some_and(|t| t.nonce == *nonce) {
                self.tasks.remove(itt);
                self.dead.insert(*itt);
                self.r2ts.retain(|r2t| r2t.itt != *itt);
            }
        }
    }

    pub(super) fn clear(&mut self, ticket: u64, lun: Option<u16>) {
        let hit = |task: &Task| lun.is_none() || task.lun == 0;
        let all = self.tasks.iter().filter(|(_, task)| hit(task));
        let named: Vec<_> = all.map(|(itt, task)| (*itt, task.nonce)).collect();
        self.blur(&named, true);
        self.clears.insert(ticket, named);
    }

    pub(super) fn cleared(&mut self, ticket: u64) {
        let named = self
            .clears
            .remove(&ticket)
            .expect("a clear that nobody asked for");
        self.kill(&named);
    }

    /// An R2T to answer.
    pub(super) fn pick_r2t(&self, which: usize) -> Option<R2t> {
        let at = which.checked_rem(self.r2ts.len())?;
        self.r2ts.get(at).copied()
    }

    /// Takes note of a Data-Out, right or wrong.
    pub(super) fn data_out(&mut self, bhs: &Bhs) {
        show("->", bhs);
        let (tag, sn, offset, len) = (bhs.ttt(), bhs.u32_at(36), bhs.u32_at(40), bhs.data_len());
        let last = bhs.flags() & 0x80 != 0;
        if tag == RESERVED_TAG {
            if let Some(task) = self.tasks.get_mut(&bhs.itt())
                && task.unsolicited == (offset, sn)
            {
                task.unsolicited = (offset.saturating_add(len), sn + 1);
            }
            return;
        }
        let mine = |r: &R2t| (r.tag, r.itt, r.next, r.data_sn) == (tag, bhs.itt(), offset, sn);
        let Some(at) = self.r2ts.iter().position(mine) else {
            return;
        };
        let r2t = &mut self.r2ts[at];
        let left = r2t.end - r2t.next;
        if len == left {
            self.r2ts.remove(at);
        } else if len < left && !last {
            r2t.next += len;
            r2t.data_sn += 1;
        }
    }

    /// Offset and DataSN of the next unsolicited data of a task.
    pub(super) fn unsolicited(&self, itt: u32) -> (u32, u32) {
        self.tasks.get(&itt).map_or((0, 0), |task| task.unsolicited)
    }

    /// Where unsolicited data of a command goes on after its immediate data.
    pub(super) fn immediate(&mut self, itt: u32, len: u32) {
        if let Some(task) = self.tasks.get_mut(&itt) {
            task.unsolicited = (len, 0);
        }
    }

    /// Data that is handed to the logical unit must be the one of a single task, each byte at its place.
    pub(super) fn check_data(&self, data: &[u8]) {
        let is_of = |itt: u32| {
            data.iter()
                .zip(0..)
                .all(|(byte, n)| *byte == pattern(itt, n))
        };
        assert!(
            self.wild_writes || (0..32).any(is_of),
            "data that nobody sent in this order"
        );
    }

    pub(super) fn will_read(&mut self, offset: u64, bytes: &[u8]) {
        self.reads.push_back((offset, bytes.to_vec()));
        if self.reads.len() > 200 {
            self.reads.pop_front();
        }
    }

    /// Memory that unsolicited and immediate data of open tasks may take.
    pub(super) fn unsolicited_max(&self) -> usize {
        self.agreed.first_burst as usize * (self.tasks.len() + 1)
    }

    /// A PDU of the target.
    pub(super) fn receive(&mut self, pdu: &Pdu) {
        let h = &pdu.header;
        show("<-", h);
        assert!(!self.closed, "after the end: {h:?}");
        assert_eq!(h.data_len() as usize, pdu.data.len(), "{h:?}");
        assert!(
            h.data_len() <= self.mrdsl || h.opcode() == op::REJECT,
            "longer than MRDSL: {h:?}"
        );
        let status = match h.opcode() {
            op::R2T => false,
            op::DATA_IN => h.flags() & 1 != 0,
            op::NOP_IN => h.itt() != RESERVED_TAG,
            _ => true,
        };
        assert_eq!(h.u32_at(24), self.stat_sn, "StatSN of {h:?}");
        self.stat_sn = self.stat_sn.wrapping_add(u32::from(status));
        assert_eq!(h.u32_at(28), self.cmd_sn, "ExpCmdSN of {h:?}");
        let growth = h.u32_at(32).wrapping_sub(self.max_cmd_sn);
        assert!(
            growth <= 2 * limits::COMMAND_WINDOW,
            "MaxCmdSN went back: {h:?}"
        );
        self.max_cmd_sn = h.u32_at(32);
        let window = self.max_cmd_sn.wrapping_sub(self.cmd_sn).wrapping_add(1);
        assert!(window <= limits::COMMAND_WINDOW, "a window of {window}");
        match h.opcode() {
            op::DATA_IN => self.data_in(pdu),
            op::R2T => self.r2t(h),
            op::SCSI_RESPONSE => self.response(h, &pdu.data),
            op::REJECT => self.reject(pdu),
            op::ASYNC => assert_eq!(h.itt(), RESERVED_TAG),
            op::NOP_IN if h.itt() == RESERVED_TAG => assert_ne!(h.ttt(), RESERVED_TAG),
            op::NOP_IN => drop(self.answer(op::NOP_OUT, h)),
            op::TEXT_RESPONSE => drop(self.answer(op::TEXT, h)),
            op::LOGOUT_RESPONSE => drop(self.answer(op::LOGOUT, h)),
            op::TASK_MANAGEMENT_RESPONSE => self.managed(h),
            other => panic!("a target does not send {other:02x}"),
        }
    }

    /// Takes what an answer with this tag is for out of what waits.
    fn answer(&mut self, opcode: u8, h: &Bhs) -> (Sent, bool) {
        let is_it = |sent: &Sent| sent.opcode == opcode && sent.itt == h.itt();
        let at = self.waiting.iter().position(is_it);
        let at = at.unwrap_or_else(|| panic!("an answer that nobody waits for: {h:?}"));
        let found = self.waiting.remove(at);
        (found, !self.waiting.iter().any(is_it))
    }

    fn managed(&mut self, h: &Bhs) {
        let (sent, alone) = self.answer(op::TASK_MANAGEMENT, h);
        match h.u8_at(2) {
            // With two of one tag under way nobody can tell whose answer this is.
            0 if alone => self.kill(&sent.ends),
            1..=0xfe if alone => self.blur(&sent.ends, false),
            _ => {}
        }
    }

    fn reject(&mut self, pdu: &Pdu) {
        let Data::Inline(header) = &pdu.data else {
            panic!("a Reject without the header");
        };
        let header = Bhs(header
            .as_slice()
            .try_into()
            .expect("a Reject holds one header"));
        let nonce = header.exp_stat_sn();
        assert!(
            (1..=self.nonces).contains(&nonce) && self.rejected.insert(nonce),
            "Reject of {header:?}"
        );
        let Some(at) = self.waiting.iter().position(|sent| sent.nonce == nonce) else {
            return;
        };
        let sent = self.waiting.remove(at);
        if sent.opcode == op::SCSI_COMMAND && !sent.again {
            let task = self.tasks.get(&sent.itt);
            assert!(task.is_some_and(|t| t.nonce == nonce && t.data_sn + t.r2t_sn == 0));
            self.tasks.remove(&sent.itt);
        }
        self.open |= sent.leaves && !self.waiting.iter().any(|other| other.leaves);
        self.blur(&sent.ends, false);
    }

    fn task(&mut self, h: &Bhs) -> &mut Task {
        let itt = h.itt();
        assert!(
            !self.dead.contains(&itt),
            "after its abort was confirmed: {h:?}"
        );
        let task = self.tasks.get_mut(&itt);
        task.unwrap_or_else(|| panic!("for a task that is over or never was: {h:?}"))
    }

    fn data_in(&mut self, pdu: &Pdu) {
        let h = &pdu.header;
        let (last, status) = (h.flags() & 0x80 != 0, h.flags() & 1 != 0);
        let max_burst = self.agreed.max_burst;
        let task = self.task(h);
        let len = h.data_len();
        assert!(task.read && len > 0, "{h:?}");
        assert_eq!(h.u32_at(36), task.data_sn, "DataSN of {h:?}");
        assert_eq!(h.u32_at(40), task.sent, "offset of {h:?}");
        let start = task.sent as usize;
        task.data_sn += 1;
        task.sent += len;
        task.burst += len;
        assert!(task.sent <= task.edtl, "more than EDTL: {h:?}");
        assert!(task.burst <= max_burst, "more than MaxBurstLength: {h:?}");
        if last {
            task.burst = 0;
        }
        assert!(!status || last, "S without F: {h:?}");
        let place = task.place;
        if let (Some((offset, whole)), Data::Payload(payload, range)) = (place, &pdu.data) {
            let bytes: Vec<u8> = payload.pieces(range.clone()).flatten().copied().collect();
            let end = start + bytes.len();
            let same = |(at, held): &(u64, Vec<u8>)| {
                *at == offset && held.len() == whole && held.get(start..end) == Some(&bytes[..])
            };
            assert!(
                self.reads.iter().any(same),
                "other bytes than were read: {h:?}"
            );
        }
        if status {
            let task = self.task(h);
            assert_eq!(
                task.sent, task.edtl,
                "status in Data-In hides what is left over"
            );
            self.over(h.itt());
        }
    }

    fn r2t(&mut self, h: &Bhs) {
        let (max_burst, most) = (self.agreed.max_burst, self.agreed.max_outstanding_r2t);
        let itt = h.itt();
        let tag = h.ttt();
        let task = self.task(h);
        assert!(task.write && tag != RESERVED_TAG && h.data_len() == 0);
        assert_eq!(h.u32_at(36), task.r2t_sn, "R2TSN of {h:?}");
        task.r2t_sn += 1;
        let (next, len) = (h.u32_at(40), h.u32_at(44));
        assert!(
            task.next_r2t.is_none_or(|at| at == next),
            "R2Ts leave a gap: {h:?}"
        );
        let end = next.checked_add(len).expect("an R2T past 2^32");
        assert!((1..=max_burst).contains(&len) && end <= task.edtl, "{h:?}");
        task.next_r2t = Some(end);
        let open = self.r2ts.iter().filter(|r2t| r2t.itt == itt).count();
        assert!(
            open < usize::from(most.min(limits::MAX_R2T)),
            "more R2Ts than agreed: {h:?}"
        );
        assert!(
            self.r2ts.iter().all(|r2t| r2t.tag != tag),
            "one tag twice: {h:?}"
        );
        self.r2ts.push(R2t {
            itt,
            tag,
            next,
            end,
            data_sn: 0,
        });
    }

    fn response(&mut self, h: &Bhs, data: &Data) {
        let task = self.task(h);
        assert_eq!(
            h.u32_at(36),
            task.data_sn + task.r2t_sn,
            "ExpDataSN of {h:?}"
        );
        let (over, under, count) = (h.flags() & 4 != 0, h.flags() & 2 != 0, h.u32_at(44));
        assert!(!(over && under) && (over || under || count == 0), "{h:?}");
        assert!(
            !under || count <= task.edtl,
            "more left over than was expected: {h:?}"
        );
        let good = h.u8_at(3) == 0;
        assert!(good || task.sent == 0, "data and a failure: {h:?}");
        assert!(
            good == data.is_empty() || h.u8_at(3) != 2,
            "sense with GOOD: {h:?}"
        );
        if task.read && !task.write && good {
            let told = task.sent + if under { count } else { 0 };
            assert_eq!(told, task.edtl, "the residual hides something: {h:?}");
        }
        self.over(h.itt());
    }

    fn over(&mut self, itt: u32) {
        let task = self.tasks.remove(&itt).expect("it was looked up");
        self.r2ts.retain(|r2t| r2t.itt != itt);
        self.waiting.retain(|sent| sent.nonce != task.nonce);
    }

    /// After everything was let end: no PDU waits for an answer.
    pub(super) fn nothing_open(&self) {
        let waits =
            |sent: &&Sent| sent.opcode != op::SCSI_COMMAND && sent.opcode != op::TASK_MANAGEMENT;
        assert!(
            self.waiting.iter().filter(waits).count() == 0,
            "no answer: {:?}",
            self.waiting
        );
        assert!(self.tasks.is_empty(), "no answer: {:?}", self.tasks);
    }
}

impl Task {
    fn of(bhs: &Bhs) -> Self {
        let flags = bhs.flags();
        let count = usize::from(bhs.u16_at(39)) * 512;
        let place = (u64::from(bhs.u32_at(34)) * 512, count);
        Self {
            nonce: bhs.exp_stat_sn(),
            lun: bhs.lun(),
            edtl: bhs.u32_at(20),
            read: flags & 0x40 != 0,
            write: flags & 0x20 != 0,
            place: (bhs.u8_at(32) == 0x28).then_some(place),
            sent: 0,
            burst: 0,
            data_sn: 0,
            r2t_sn: 0,
            next_r2t: None,
            unsolicited: (0, 0),
            vague: 0,
        }
    }
}

/// One PDU of a conversation that is replayed.
fn show(way: &str, bhs: &Bhs) {
    if crate::is_replay() {
        eprintln!("{way} {bhs:?} {:02x?}", &bhs.0[16..]);
    }
}
