//! The task table, the split of read data into Data-In PDUs, and residual counts. Pure.

use super::connection::Data;
use super::pdu::{Bhs, RESERVED_TAG, op};
use crate::limits;
use crate::scsi;
use crate::store::{Buffer, Payload};

/// Names a task of one connection. A number that outlived its task names nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskId {
    slot: u16,
    generation: u16,
}

impl TaskId {
    /// Its place in the table: small, and its own while it lives.
    pub(super) fn slot(self) -> usize {
        usize::from(self.slot)
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Behind an ORDERED task, or ORDERED itself; not begun.
    Held,
    /// The logical unit was asked.
    Begun,
    /// Waits for memory for its data-out.
    Memory,
    /// Takes in its data-out.
    Collect,
    /// Its data-out is complete and the logical unit was asked.
    Ready,
    /// A read that waits for room in the send queue.
    Queued,
    /// Runs on the volume.
    Running,
    /// Waits for a sanitize operation, which goes on without it: an abort ends it at once.
    Parked,
    /// Its answer waits for the socket.
    Sending,
}

/// Task attribute (SAM-5 8.9) as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    Free,
    Ordered,
    Head,
}

/// A run of data-out that the initiator may send now: unsolicited, or asked by one R2T.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Burst {
    /// R2TSN; unused in an unsolicited burst.
    pub(super) r2t_sn: u32,
    /// Next byte that must come.
    pub(super) next: u32,
    /// One past the last byte that may come.
    pub(super) end: u32,
    /// Next DataSN.
    pub(super) data_sn: u32,
}

/// How much was wanted beyond, or was left of, what the initiator expected (RFC 7143 11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Residual {
    #[default]
    None,
    Over(u32),
    Under(u32),
}

impl Residual {
    /// The O and U bits, and the count.
    const fn fields(self) -> (u8, u32) {
        match self {
            Self::None => (0, 0),
            Self::Over(n) => (0x04, n),
            Self::Under(n) => (0x02, n),
        }
    }
}

/// An answer on its way.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) payload: Payload,
    /// Bytes of the payload that go out.
    pub(super) len: u32,
    pub(super) sent: u32,
    pub(super) status: u8,
    pub(super) sense: Vec<u8>,
    pub(super) residual: Residual,
}

/// One SCSI command.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) itt: u32,
    pub(super) lun: u64,
    pub(super) cdb: [u8; 16],
    /// The whole CDB when it is longer than 16 bytes.
    pub(super) long_cdb: Option<Box<[u8]>>,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) attribute: Attribute,
    pub(super) immediate: bool,
    /// Counts in the barrier of ORDERED tasks.
    pub(super) started: bool,
    /// Expected data transfer length.
    pub(super) edtl: u32,
    pub(super) phase: Phase,
    /// Aborted by the management function of this number, while someone still works on it.
    pub(super) aborted: Option<u32>,
    /// Its abort is told with TASK ABORTED.
    pub(super) tells_abort: bool,

    pub(super) buffer: Option<Buffer>,
    /// Bytes of data-out that the command takes from us.
    pub(super) need: u32,
    /// Bytes of data-out that the CDB asked for.
    pub(super) wanted_out: u32,
    pub(super) received: u32,
    pub(super) unsolicited: Option<Burst>,
    pub(super) bursts: Vec<Burst>,
    /// First byte that no R2T asked for yet.
    pub(super) next_r2t: u32,
    /// Data-In and R2T PDUs so far (ExpDataSN; no task has both).
    pub(super) data_sn: u32,

    pub(super) stream: Stream,
    /// Bytes of memory accounted to it.
    pub(super) memory: usize,
    /// Bytes of the read backlog accounted to it.
    pub(super) backlog: usize,
}

impl Task {
    /// The command block.
    pub(super) fn cdb(&self) -> &[u8] {
        self.long_cdb.as_deref().unwrap_or(&self.cdb)
    }

    /// True while the shell still owes an answer about it.
    pub(super) const fn owed(&self) -> bool {
        matches!(self.phase, Phase::Begun | Phase::Ready | Phase::Running)
    }

    /// Bytes that the initiator lets us send for it.
    const fn expected_in(&self) -> u32 {
        if self.read { self.edtl } else { 0 }
    }

    /// Prepares the answer. `moved` data-in bytes are what the command wanted to return.
    pub(super) fn answer(&mut self, reply: scsi::Reply, payload: Option<Payload>) {
        let payload = payload.unwrap_or_else(|| Payload::from(reply.data));
        let good = reply.status == scsi::status::GOOD;
        let wanted_in = if good { clip(payload.len()) } else { 0 };
        self.stream = Stream {
            len: wanted_in.min(self.expected_in()),
            sent: 0,
            status: reply.status,
            sense: reply
                .sense
                .map(|s| s.as_slice().to_vec())
                .unwrap_or_default(),
            residual: self.residual(wanted_in),
            payload,
        };
        self.buffer = None;
        self.phase = Phase::Sending;
    }

    /// RFC 7143 11.4.5: a direction that the flags did not announce moves nothing, and the announced
    /// one is then left over whole.
    fn residual(&self, wanted_in: u32) -> Residual {
        let expected = if self.read || self.write {
            self.edtl
        } else {
            0
        };
        let (wanted, announced) = match (wanted_in, self.wanted_out) {
            (0, 0) => (0, true),
            // Broken off before all its data came: what did not come is left over.
            (0, _) if self.received < self.need => (self.received, self.write),
            (0, out) => (out, self.write),
            (wanted_in, _) => (wanted_in, self.read),
        };
        let moved = if announced || expected == 0 {
            wanted
        } else {
            0
        };
        match moved.cmp(&expected) {
            std::cmp::Ordering::Less => Residual::Under(expected - moved),
            std::cmp::Ordering::Equal => Residual::None,
            std::cmp::Ordering::Greater => Residual::Over(moved - expected),
        }
    }

    /// The next PDU of its answer, without sequence numbers.
    pub(super) fn next_part(&mut self, segment_max: u32, burst_max: u32) -> Part {
        if self.stream.sent == self.stream.len {
            return self.response();
        }
        self.data_in(segment_max, burst_max)
    }

    fn data_in(&mut self, segment_max: u32, burst_max: u32) -> Part {
        let stream = &mut self.stream;
        let offset = stream.sent;
        let left_in_burst = burst_max - offset % burst_max;
        let len = (stream.len - offset).min(segment_max).min(left_in_burst);
        stream.sent += len;
        let ended = stream.sent == stream.len;
        // Phase collapse only when the S bit tells everything: some initiators read nothing else.
        let last =
            ended && stream.status == scsi::status::GOOD && stream.residual == Residual::None;
        let mut header = Bhs::new(op::DATA_IN);
        let boundary = ended || len == left_in_burst;
        header.put_u8(1, u8::from(boundary) << 7 | u8::from(last));
        header.set_data_len(len);
        header.put_u32(16, self.itt);
        header.put_u32(20, RESERVED_TAG);
        header.put_u32(36, self.data_sn);
        header.put_u32(40, offset);
        self.data_sn += 1;
        let payload = if ended {
            std::mem::take(&mut stream.payload)
        } else {
            stream.payload.clone()
        };
        Part {
            header,
            data: Data::Payload(payload, offset as usize..offset as usize + len as usize),
            bytes: len as usize,
            last,
        }
    }

    fn response(&mut self) -> Part {
        let (bits, count) = self.stream.residual.fields();
        let mut header = Bhs::new(op::SCSI_RESPONSE);
        header.put_u8(1, 0x80 | bits);
        header.put_u8(3, self.stream.status);
        header.put_u32(16, self.itt);
        header.put_u32(36, self.data_sn);
        header.put_u32(44, count);
        let data = match u16::try_from(self.stream.sense.len()) {
            Ok(len) if len > 0 => {
                let mut bytes = Vec::with_capacity(usize::from(len) + 2);
                bytes.extend_from_slice(&len.to_be_bytes());
                bytes.append(&mut self.stream.sense);
                header.set_data_len(u32::from(len) + 2);
                Data::Inline(bytes)
            }
            _ => Data::None,
        };
        Part {
            header,
            data,
            bytes: 0,
            last: true,
        }
    }
}

/// One PDU of an answer.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) header: Bhs,
    pub(super) data: Data,
    /// Payload bytes in it.
    pub(super) bytes: usize,
    /// It carries the status: the task is over.
    pub(super) last: bool,
}

/// All tasks of a connection. Slots are reused; the tags are searched in one short array.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    slots: Vec<Option<(u16, Task)>>,
    itts: Vec<u32>,
    free: Vec<u16>,
    next_generation: u16,
}

impl Tasks {
    /// Most tasks at one time.
    const MAX: usize = (limits::COMMAND_WINDOW + limits::IMMEDIATE_MAX) as usize;
    /// A tag up to this many tasks back is taken for one of an ended task, not for an invention.
    const REMEMBERED: u16 = 4096;

    /// Number of tasks.
    pub(super) const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes in a task; none when the table is full.
    pub(super) fn open(&mut self, task: Task) -> Option<TaskId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < Self::MAX => {
                self.slots.push(None);
                self.itts.push(RESERVED_TAG);
                u16::try_from(self.slots.len() - 1).ok()?
            }
            None => return None,
        };
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        self.itts[usize::from(slot)] = task.itt;
        self.slots[usize::from(slot)] = Some((generation, task));
        Some(TaskId { slot, generation })
    }

    /// The task, if it still lives.
    pub(super) fn get(&self, id: TaskId) -> Option<&Task> {
        match self.slots.get(usize::from(id.slot))? {
            Some((generation, task)) if *generation == id.generation => Some(task),
            _ => None,
        }
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        match self.slots.get_mut(usize::from(id.slot))? {
            Some((generation, task)) if *generation == id.generation => Some(task),
            _ => None,
        }
    }

    /// Takes a task out.
    pub(super) fn close(&mut self, id: TaskId) -> Option<Task> {
        self.get(id)?;
        let slot = usize::from(id.slot);
        self.itts[slot] = RESERVED_TAG;
        self.free.push(id.slot);
        self.slots[slot].take().map(|(_, task)| task)
    }

    /// The task with this initiator task tag.
    pub(super) fn by_itt(&self, itt: u32) -> Option<TaskId> {
        if itt == RESERVED_TAG {
            return None;
        }
        let slot = self.itts.iter().position(|&live| live == itt)?;
        self.id_at(slot)
    }

    /// Every task.
    pub(super) fn ids(&self) -> impl Iterator<Item = TaskId> {
        (0..self.slots.len()).filter_map(|slot| self.id_at(slot))
    }

    fn id_at(&self, slot: usize) -> Option<TaskId> {
        let (generation, _) = self.slots.get(slot)?.as_ref()?;
        Some(TaskId {
            slot: u16::try_from(slot).ok()?,
            generation: *generation,
        })
    }

    /// The target transfer tag of an R2T: generation, slot, and the low bits of R2TSN. Never reserved,
    /// since no slot has all nine bits set.
    pub(super) fn tag(id: TaskId, r2t_sn: u32) -> u32 {
        u32::from(id.generation) << 16 | u32::from(id.slot) << 7 | r2t_sn & 0x7f
    }

    /// What a tag means: a task, and the low bits of the R2TSN.
    pub(super) fn untag(tag: u32) -> (TaskId, u32) {
        let [g1, g0, ..] = tag.to_be_bytes();
        let slot = tag >> 7 & 0x1ff;
        let id = TaskId {
            slot: u16::try_from(slot).unwrap_or(u16::MAX),
            generation: u16::from_be_bytes([g1, g0]),
        };
        (id, tag & 0x7f)
    }

    /// True when `id` was given to a task not long ago.
    pub(super) fn remembers(&self, id: TaskId) -> bool {
        let age = self.next_generation.wrapping_sub(id.generation);
        usize::from(id.slot) < Self::MAX && (1..=Self::REMEMBERED).contains(&age)
    }

    /// Gives memory back when no task is open.
    pub(super) fn shrink(&mut self) {
        if self.len() == 0 {
            self.slots = Vec::new();
            self.itts = Vec::new();
            self.free = Vec::new();
        }
    }
}

/// A length as the wire counts it. Payloads are bounded by `limits::TRANSFER_MAX`.
pub(super) fn clip(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod test {
    use super::*;

    fn task(itt: u32) -> Task {
        Task {
            itt,
            lun: 0,
            cdb: [0; 16],
            long_cdb: None,
            read: true,
            write: false,
            attribute: Attribute::Free,
            immediate: false,
            started: false,
            edtl: 0,
            phase: Phase::Begun,
            aborted: None,
            tells_abort: false,
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

    #[test]
    fn stale_ids_and_tags_name_nothing() {
        let mut all = Tasks::default();
        let first = all.open(task(1)).unwrap();
        let tag = Tasks::tag(first, 130);
        assert_eq!(Tasks::untag(tag), (first, 2));
        assert!(all.close(first).is_some());
        let second = all.open(task(2)).unwrap();
        assert_eq!(second.slot, first.slot);
        assert!(all.get(first).is_none());
        assert!(all.remembers(first));
        assert!(!all.remembers(Tasks::untag(0x7fff_0000).0));
        assert_eq!(all.by_itt(1), None);
        assert_eq!(all.by_itt(2), Some(second));
    }

    #[test]
    fn the_table_is_bounded_and_gives_memory_back() {
        let mut all = Tasks::default();
        let ids: Vec<_> = (0..u32::MAX).map_while(|itt| all.open(task(itt))).collect();
        assert_eq!(ids.len(), Tasks::MAX);
        for id in ids {
            all.close(id);
        }
        all.shrink();
        assert_eq!((all.len(), all.slots.capacity()), (0, 0));
    }

    #[test]
    fn residuals_follow_what_was_announced() {
        let case = |read, write, edtl, wanted_in, wanted_out| {
            let mut t = task(1);
            (t.read, t.write, t.edtl, t.wanted_out) = (read, write, edtl, wanted_out);
            t.residual(wanted_in)
        };
        assert_eq!(case(true, false, 512, 512, 0), Residual::None);
        assert_eq!(case(true, false, 0, 512, 0), Residual::Over(512));
        assert_eq!(case(true, false, 10_000, 512, 0), Residual::Under(9488));
        assert_eq!(case(true, false, 200, 512, 0), Residual::Over(312));
        assert_eq!(case(false, true, 200, 0, 512), Residual::Over(312));
        assert_eq!(
            case(false, true, 512, 512, 0),
            Residual::Under(512),
            "READ flagged W"
        );
        assert_eq!(
            case(true, false, 512, 0, 512),
            Residual::Under(512),
            "WRITE flagged R"
        );
        assert_eq!(
            case(false, false, 512, 512, 0),
            Residual::Over(512),
            "no flag, no transfer"
        );
        assert_eq!(case(false, false, 0, 0, 0), Residual::None);
        assert_eq!(
            case(true, false, 255, 0, 0),
            Residual::Under(255),
            "nothing moved"
        );
    }
}
