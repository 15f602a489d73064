//! SCSI commands: from the PDU to a task, through the logical unit's steps, to the answer.

use std::time::Instant;

use super::super::frame::{AHS_BIDIRECTIONAL, AHS_EXTENDED_CDB, walk_ahs};
use super::super::pdu::{Bhs, RESERVED_TAG};
use super::super::task::{Attribute, Burst, Phase, Stream, Task, TaskId, clip};
use super::{Answer, Connection, Incoming, Output, Pdu, reason};
use crate::limits;
use crate::scsi::{BlockOp, Reply, Sense, Step, status};
use crate::store::{Buffer, Payload};

/// Flags of byte 1 (RFC 7143 11.3.1).
const FINAL: u8 = 0x80;
const READ: u8 = 0x40;
const WRITE: u8 = 0x20;

/// Longest CDB: an AHS counts its length in 16 bits, SPC-4 stops at 260 bytes.
const CDB_BYTES_MAX: usize = 260;

/// The extended CDB among the additional header segments (RFC 7143 11.2.2), joined with its first 16 bytes.
fn extended_cdb(ahs: &[u8], cdb: &[u8; 16]) -> Result<Option<Box<[u8]>>, ()> {
    let mut found = None;
    for segment in walk_ahs(ahs).ok_or(())? {
        match (segment.kind & 0x3f, segment.body) {
            (AHS_EXTENDED_CDB, [_, rest @ ..])
                if found.is_none() && cdb.len() + rest.len() <= CDB_BYTES_MAX =>
            {
                found = Some([cdb.as_slice(), rest].concat().into_boxed_slice());
            }
            // The command is refused by its R and W flags.
            (AHS_BIDIRECTIONAL, [_, _, _, _, _]) => {}
            _ => return Err(()),
        }
    }
    Ok(found)
}

impl Connection {
    pub(super) fn command(&mut self, bhs: &Bhs, ahs: &[u8], data: Incoming<'_>, now: Instant) {
        let flags = bhs.flags();
        let unsolicited = flags & FINAL == 0;
        if bhs.itt() == RESERVED_TAG || (unsolicited && flags & WRITE == 0) {
            self.reject(bhs, reason::FIELD, now);
            return;
        }
        if self.tasks.by_itt(bhs.itt()).is_some() {
            self.reject(bhs, reason::TASK_IN_PROGRESS, now);
            return;
        }
        let Some(cdb) = bhs.0.last_chunk::<16>() else {
            return;
        };
        let Ok(long_cdb) = extended_cdb(ahs, cdb) else {
            self.bury(unsolicited, bhs.itt());
            self.reject(bhs, reason::FIELD, now);
            return;
        };
        let refusal = self
            .refusal(bhs, data.len())
            .or_else(|| self.shortage(bhs, &data, unsolicited));
        let Some(id) = self.tasks.open(new_task(bhs, *cdb, long_cdb)) else {
            // Cannot happen: the window and the immediate limit together are the table's size.
            self.close(super::Why::Protocol("more commands than the window allows"));
            return;
        };
        if bhs.immediate() {
            self.immediates += 1;
        } else {
            self.numbers.open();
        }
        if let Some(reply) = refusal {
            self.bury(unsolicited, bhs.itt());
            self.finish(id, reply, None);
            return;
        }
        self.stage(id, data, unsolicited);
        self.begin_or_hold(id);
    }

    /// What the iSCSI layer itself refuses (RFC 7143 11.3, 11.4.7.2).
    fn refusal(&self, bhs: &Bhs, immediate: usize) -> Option<Reply> {
        let agreed = &self.options.negotiated;
        let flags = bhs.flags();
        let edtl = bhs.u32_at(20);
        if flags & READ != 0 && flags & WRITE != 0 {
            return Some(Reply::check(Sense::INVALID_OPCODE));
        }
        let allowed = if flags & WRITE == 0 || !agreed.immediate_data {
            0
        } else {
            agreed.first_burst.min(edtl) as usize
        };
        let unasked = flags & FINAL == 0 && agreed.initial_r2t;
        (immediate > allowed || unasked).then(|| Reply::check(Sense::UNEXPECTED_UNSOLICITED_DATA))
    }

    /// No memory for what the command brings or announces: the initiator tries again later.
    fn shortage(&self, bhs: &Bhs, data: &Incoming<'_>, unsolicited: bool) -> Option<Reply> {
        let end = if unsolicited {
            bhs.u32_at(20).min(self.options.negotiated.first_burst) as usize
        } else {
            data.len()
        };
        let dropped = matches!(data, Incoming::Dropped(_));
        (dropped || Buffer::footprint(end) > self.allowance)
            .then(|| Reply::of_status(status::TASK_SET_FULL))
    }

    /// Keeps immediate data, and makes room for the unsolicited rest when some is announced.
    fn stage(&mut self, id: TaskId, data: Incoming<'_>, unsolicited: bool) {
        let first_burst = self.options.negotiated.first_burst;
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let here = data.bytes().len();
        let end = if unsolicited {
            task.edtl.min(first_burst)
        } else {
            clip(here)
        };
        task.received = clip(here);
        if unsolicited && task.received < end {
            task.unsolicited = Some(Burst {
                r2t_sn: 0,
                next: task.received,
                end,
                data_sn: 0,
            });
        }
        if end == 0 {
            return;
        }
        task.buffer = Some(match data {
            Incoming::Owned(buffer) if buffer.len() == end as usize => buffer,
            data => {
                let mut buffer = Buffer::take(end as usize);
                buffer[..here].copy_from_slice(data.bytes());
                buffer
            }
        });
        self.account(id, end as usize);
    }

    /// ORDERED tasks are a barrier within the session; HEAD OF QUEUE passes it (SAM-5 8.9).
    fn begin_or_hold(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(id) else {
            return;
        };
        let waits = match task.attribute {
            Attribute::Head => false,
            Attribute::Free => self.ordered_active || !self.held.is_empty(),
            Attribute::Ordered => self.active > 0 || !self.held.is_empty(),
        };
        if waits {
            self.held.push_back(id);
        } else {
            self.begin(id);
        }
    }

    fn begin(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.phase = Phase::Begun;
        task.started = true;
        self.active += 1;
        self.ordered_active |= task.attribute == Attribute::Ordered;
        self.actions.push_back(Output::Execute(id, task.lun));
    }

    /// A begun task no longer counts in the barrier.
    fn ended(&mut self, started: bool, attribute: Attribute) {
        if started {
            self.active -= 1;
            self.ordered_active &= attribute != Attribute::Ordered;
        }
        while let Some(&id) = self.held.front() {
            let ready = self.tasks.get(id).is_none_or(|task| match task.attribute {
                Attribute::Ordered => self.active == 0,
                _ => !self.ordered_active,
            });
            if !ready {
                return;
            }
            self.held.pop_front();
            self.begin(id);
        }
    }

    pub(super) fn step(&mut self, id: TaskId, step: Step) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.aborted.is_some() {
            self.discard(id);
            return;
        }
        let phase = task.phase;
        match step {
            Step::Reply(reply) => self.finish(id, reply, None),
            Step::Data { len, .. } if phase == Phase::Begun => self.want(id, len),
            Step::Data { .. } => self.finish(id, Reply::check(Sense::INTERNAL), None),
            Step::Run(BlockOp::Read(range)) => {
                task.phase = Phase::Queued;
                self.reads.push_back((id, range));
            }
            Step::Run(op) => {
                task.phase = Phase::Running;
                let lun = task.lun;
                self.actions.push_back(Output::Run(id, lun, op));
            }
        }
    }

    /// The next read, unless enough bytes are on their way to the peer already. A large one may go alone.
    pub(super) fn next_read(&mut self) -> Option<Output> {
        loop {
            let &(id, range) = self.reads.front()?;
            let Some(task) = self.tasks.get_mut(id) else {
                self.reads.pop_front();
                continue;
            };
            let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
            if self.backlog > 0 && self.backlog.saturating_add(len) > limits::SEND_QUEUE_BYTES {
                return None;
            }
            self.reads.pop_front();
            task.phase = Phase::Running;
            task.backlog = len;
            self.backlog = self.backlog.saturating_add(len);
            let lun = task.lun;
            self.account(id, len);
            return Some(Output::Run(id, lun, BlockOp::Read(range)));
        }
    }

    /// The command is over but for its answer.
    pub(super) fn finish(&mut self, id: TaskId, reply: Reply, payload: Option<Payload>) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.aborted.is_some() {
            self.discard(id);
            return;
        }
        let (started, attribute) = (std::mem::take(&mut task.started), task.attribute);
        task.answer(reply, payload);
        let len = task.stream.len as usize;
        let (itt, open) = (task.itt, task.unsolicited.take().is_some());
        if !started {
            self.held.retain(|&held| held != id);
        }
        self.backlog = self.backlog - task.backlog + len;
        task.backlog = len;
        self.account(id, len);
        self.bury(open, itt);
        self.answers.push_back(Answer::Task(id));
        self.ended(started, attribute);
    }

    /// The next PDU of a task's answer; none when the task is gone or its answer is complete.
    pub(super) fn next_part(&mut self, id: TaskId) -> Option<Pdu> {
        let agreed = &self.options.negotiated;
        let (segment, burst) = (agreed.initiator_mrdsl, agreed.max_burst);
        let task = self.tasks.get_mut(id)?;
        let part = task.next_part(segment.max(1), burst.max(1));
        task.backlog -= part.bytes;
        self.backlog -= part.bytes;
        if part.last {
            // First closed, so that the place it frees shows in this very PDU.
            self.answers.pop_front();
            self.forget(id);
        }
        let mut header = part.header;
        self.number(&mut header, part.last);
        Some(Pdu {
            header,
            data: part.data,
        })
    }

    /// Ends a task without an answer.
    pub(super) fn discard(&mut self, id: TaskId) {
        let Some(task) = self.forget(id) else { return };
        self.bury(task.unsolicited.is_some(), task.itt);
        self.ended(task.started, task.attribute);
        self.settle();
    }

    /// Takes a task out of all books.
    fn forget(&mut self, id: TaskId) -> Option<Task> {
        let task = self.tasks.close(id)?;
        if task.immediate {
            self.immediates = self.immediates.saturating_sub(1);
        } else {
            self.numbers.close();
        }
        self.memory -= task.memory;
        self.backlog -= task.backlog;
        Some(task)
    }

    /// Sets the bytes that a task holds; its buffer takes a little more.
    pub(super) fn account(&mut self, id: TaskId, bytes: usize) {
        let bytes = Buffer::footprint(bytes);
        if let Some(task) = self.tasks.get_mut(id) {
            self.memory = self.memory - task.memory + bytes;
            task.memory = bytes;
        }
    }

    /// Remembers a task whose announced data may still come.
    fn bury(&mut self, announced: bool, itt: u32) {
        if announced {
            self.tombstones[self.next_tombstone] = itt;
            self.next_tombstone = (self.next_tombstone + 1) % limits::TOMBSTONES;
        }
    }

    /// Reads that wait for room in the send queue.
    #[cfg(test)]
    pub(super) fn waiting_reads(&self) -> usize {
        self.reads.len()
    }
}

fn new_task(bhs: &Bhs, cdb: [u8; 16], long_cdb: Option<Box<[u8]>>) -> Task {
    let flags = bhs.flags();
    Task {
        itt: bhs.itt(),
        lun: bhs.lun(),
        cdb,
        long_cdb,
        read: flags & READ != 0,
        write: flags & WRITE != 0,
        attribute: match flags & 0x07 {
            2 => Attribute::Ordered,
            3 => Attribute::Head,
            _ => Attribute::Free,
        },
        immediate: bhs.immediate(),
        started: false,
        edtl: bhs.u32_at(20),
        phase: Phase::Held,
        aborted: None,
        buffer: None,
        need: 0,
        wanted_out: 0,
        received: 0,
        unsolicited: None,
        bursts: Vec::new(),
        next_r2t: 0,
        data_sn: 0,
        stream: Stream::default(),
        memory: 0,
        backlog: 0,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn long_command_blocks_are_joined() {
        let cdb = [7; 16];
        let ahs = [0, 6, 1, 0, 1, 2, 3, 4, 5, 0, 0, 0];
        let whole = extended_cdb(&ahs, &cdb).unwrap().unwrap();
        assert_eq!(whole[..16], cdb);
        assert_eq!(whole[16..], [1, 2, 3, 4, 5]);
        assert_eq!(extended_cdb(&[], &cdb), Ok(None));
        assert_eq!(extended_cdb(&[0, 5, 2, 0, 0, 0, 2, 0], &cdb), Ok(None));
    }

    #[test]
    fn wrong_header_segments_are_refused() {
        let cdb = [0; 16];
        let good = [0, 5, 1, 0, 1, 2, 3, 4];
        let twice = [good, good].concat();
        for bad in [
            &[0, 0, 1, 0][..],
            &[0, 9, 1, 0, 1, 2, 3, 4],
            &[0, 5, 9, 0, 1, 2, 3, 4],
            &[0, 5, 1],
            &twice,
        ] {
            assert_eq!(extended_cdb(bad, &cdb), Err(()), "{bad:?}");
        }
    }
}
