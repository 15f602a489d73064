//! What a node sends: CDBs, and the order in which they may go. Pure.

use super::super::ledger::Change;
use super::super::link::Way;
use super::{
    Author, Flight, Hearing, Job, Life, Node, OpKind, Phase, PlanOp, SWARM_DEPTH_MAX,
    SWARM_VERIFY_DEPTH, Tally, Verify, World, data,
};

/// What an initiator asks of a new disk before its first operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// INQUIRY (Linux).
    Inquiry,
    /// TEST UNIT READY.
    Ready,
    /// READ CAPACITY(16).
    Capacity16,
    /// READ CAPACITY(10), for targets that do not know the other.
    Capacity10,
    /// None left.
    Over,
}

impl Probe {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Inquiry => "INQUIRY",
            Self::Ready => "TEST UNIT READY",
            Self::Capacity16 => "READ CAPACITY(16)",
            Self::Capacity10 => "READ CAPACITY(10)",
            Self::Over => "nothing",
        }
    }

    const fn cdb(self) -> ([u8; 16], u32) {
        let mut cdb = [0; 16];
        let len = match self {
            Self::Inquiry => {
                cdb[0] = 0x12;
                cdb[4] = 36;
                36
            }
            Self::Ready | Self::Over => 0,
            Self::Capacity16 => {
                cdb[0] = 0x9e;
                cdb[1] = 0x10;
                cdb[13] = 32;
                32
            }
            Self::Capacity10 => {
                cdb[0] = 0x25;
                8
            }
        };
        (cdb, len)
    }
}

/// The CDB of a READ or WRITE as initiators choose it: 10 bytes while the numbers fit. `block` is a power of two.
fn transfer(write: bool, fua: bool, offset: u64, len: u32, block: u64) -> [u8; 16] {
    let (lba, count) = (offset / block, u64::from(len) / block);
    let mut cdb = [0; 16];
    cdb[1] = if fua { 8 } else { 0 };
    if let (Ok(lba), Ok(count)) = (u32::try_from(lba), u16::try_from(count)) {
        cdb[0] = if write { 0x2a } else { 0x28 };
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        cdb[7..9].copy_from_slice(&count.to_be_bytes());
        return cdb;
    }
    cdb[0] = if write { 0x8a } else { 0x88 };
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    cdb[10..14].copy_from_slice(&count.to_be_bytes());
    cdb
}

/// The CDB of an operation, and its data.
pub(super) fn cdb_of(op: &PlanOp, block: u64) -> ([u8; 16], (Way, u32)) {
    let (lba, count) = (op.offset / block, u64::from(op.len) / block);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let mut cdb = [0; 16];
    match op.kind {
        OpKind::Read => (
            transfer(false, false, op.offset, op.len, block),
            (Way::In, op.len),
        ),
        OpKind::Write => (
            transfer(true, op.fua, op.offset, op.len, block),
            (Way::Out, op.len),
        ),
        OpKind::Flush => {
            // SYNCHRONIZE CACHE(10) of all, as Linux sends it, or (16) of a part.
            cdb[0] = 0x35;
            if op.len > 0 {
                cdb[0] = 0x91;
                cdb[2..10].copy_from_slice(&lba.to_be_bytes());
                cdb[10..14].copy_from_slice(&count.to_be_bytes());
            }
            (cdb, (Way::None, 0))
        }
        OpKind::Unmap => {
            cdb[0] = 0x42;
            cdb[8] = UNMAP_LIST;
            (cdb, (Way::Out, u32::from(UNMAP_LIST)))
        }
        OpKind::WriteSame => {
            cdb[0] = 0x93;
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&count.to_be_bytes());
            (cdb, (Way::Out, u32::try_from(block).unwrap_or(512)))
        }
    }
}

/// Bytes of an UNMAP list with one range.
const UNMAP_LIST: u8 = 24;

fn unmap_list(op: &PlanOp, block: u64) -> [u8; UNMAP_LIST as usize] {
    let mut list = [0; UNMAP_LIST as usize];
    list[1] = UNMAP_LIST - 2;
    list[3] = UNMAP_LIST - 8;
    list[8..16].copy_from_slice(&(op.offset / block).to_be_bytes());
    let count = u32::try_from(u64::from(op.len) / block).unwrap_or(u32::MAX);
    list[16..20].copy_from_slice(&count.to_be_bytes());
    list
}

impl Node {
    /// Sends all that may go now.
    pub(super) fn send(&mut self, world: &World, tally: &mut Tally, now: u64, out: &mut Vec<u8>) {
        while self.link.is_open()
            && let Some((job, tries)) = self.life.next_job(world, tally, now)
        {
            self.submit(job, tries, world, tally, now, out);
        }
    }

    fn submit(
        &mut self,
        job: Job,
        tries: u32,
        world: &World,
        tally: &mut Tally,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        let life = &mut self.life;
        let (cdb, way) = life.command(job, world);
        let token = life.take_off(job, tries, world, now);
        tally.counts.retries += u64::from(tries > 0);
        let mut hearing = Hearing {
            life,
            world,
            tally,
            now,
        };
        self.link.command(token, &cdb, way, &mut hearing, out);
    }
}

impl Life {
    /// The next command that may go now, and how often it went before.
    fn next_job(&mut self, world: &World, tally: &mut Tally, now: u64) -> Option<(Job, u32)> {
        if self.under_way >= SWARM_DEPTH_MAX {
            return None;
        }
        let probing = matches!(self.phase, Phase::Probing(_));
        let front = self.again.front().copied();
        let due =
            front.filter(|(due, job, _)| *due <= now && probing == matches!(job, Job::Probe(_)));
        if let Some((_, job, tries)) = due {
            self.again.pop_front();
            return Some((job, tries));
        }
        match self.phase {
            Phase::Running => self.next_op(world, tally, now).map(|op| (Job::Op(op), 0)),
            Phase::ReadingBack if self.under_way < SWARM_VERIFY_DEPTH => {
                let at = self.back_next;
                self.back.get(at as usize)?;
                self.back_next += 1;
                Some((Job::Back(at), 0))
            }
            _ => None,
        }
    }

    /// The next operation of the trace; those that are left out end at once.
    fn next_op(&mut self, world: &World, tally: &mut Tally, now: u64) -> Option<u32> {
        loop {
            let at = self.flow.take(now)?;
            let op = world.plan.ops.get(at as usize)?;
            if op.kind == OpKind::Read || !world.read_only {
                return Some(at);
            }
            tally.counts.skipped += 1;
            self.flow.ended(at, &world.plan, now);
        }
    }

    fn command(&self, job: Job, world: &World) -> ([u8; 16], (Way, u32)) {
        match job {
            Job::Probe(probe) => {
                let (cdb, len) = probe.cdb();
                (cdb, (if len > 0 { Way::In } else { Way::None }, len))
            }
            Job::Op(at) => match world.plan.ops.get(at as usize) {
                Some(op) => cdb_of(op, self.block),
                None => ([0; 16], (Way::None, 0)),
            },
            Job::Back(at) => {
                let (start, end) = self.back.get(at as usize).copied().unwrap_or_default();
                let len = u32::try_from(end - start).unwrap_or(0);
                (
                    transfer(false, false, start, len, self.block),
                    (Way::In, len),
                )
            }
        }
    }

    /// Notes a command as under way; its token.
    fn take_off(&mut self, job: Job, tries: u32, world: &World, now: u64) -> u16 {
        let mut touched = matches!(job, Job::Back(_));
        if let Job::Op(at) = job
            && let Some(op) = world.plan.ops.get(at as usize)
        {
            let (start, end) = (op.offset, op.offset + u64::from(op.len));
            let change = match op.kind {
                OpKind::Write => Some(Change::Data),
                OpKind::WriteSame => Some(Change::Zeros),
                OpKind::Unmap => Some(Change::Discard),
                OpKind::Read | OpKind::Flush => None,
            };
            if let Some(change) = change {
                self.ledger.begin(at, change, start, end);
                self.touch(start, end, world);
            }
            touched = op.kind == OpKind::Read && self.ledger.touches(start, end);
        }
        let flight = Flight {
            job,
            tries,
            sent_at: now,
            since: self.ledger.now(),
            touched: touched && world.verify != Verify::None,
            wrong: false,
        };
        self.under_way += 1;
        let free = self.flights.iter().position(Option::is_none);
        let at = free.unwrap_or(self.flights.len());
        match self.flights.get_mut(at) {
            Some(place) => *place = Some(flight),
            None => self.flights.push(Some(flight)),
        }
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    /// Reads under way may see a write that begins now.
    fn touch(&mut self, start: u64, end: u64, world: &World) {
        for flight in self.flights.iter_mut().flatten() {
            let Job::Op(at) = flight.job else {
                continue;
            };
            let read = world.plan.ops.get(at as usize);
            let read = read.filter(|op| op.kind == OpKind::Read);
            let overlaps = |op: &PlanOp| op.offset < end && start < op.offset + u64::from(op.len);
            flight.touched |= read.is_some_and(overlaps);
        }
    }
}

impl Hearing<'_> {
    /// The bytes `at..at + len` of what a job writes.
    pub(super) fn bytes_of(&mut self, job: Job, at: u32, len: u32, out: &mut Vec<u8>) {
        let Job::Op(number) = job else {
            return;
        };
        let Some(op) = self.world.plan.ops.get(number as usize) else {
            return;
        };
        let size = usize::try_from(len).unwrap_or(0);
        match op.kind {
            OpKind::Write => {
                let author = Author {
                    seed: self.world.seed,
                    node: self.life.id,
                    generation: number,
                };
                data::append(author, op.offset + u64::from(at), size, out);
                self.tally.counts.written_bytes += u64::from(len);
                self.life.report.written_bytes += u64::from(len);
            }
            OpKind::Unmap => {
                let list = unmap_list(op, self.life.block);
                let from = usize::try_from(at).unwrap_or(0);
                out.extend(list.iter().skip(from).take(size));
            }
            OpKind::WriteSame | OpKind::Read | OpKind::Flush => out.resize(out.len() + size, 0),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn transfers_are_of_ten_bytes_while_they_fit() {
        let small = transfer(false, false, 4096, 65_535 * 512, 512);
        assert_eq!(&small[..10], &[0x28, 0, 0, 0, 0, 8, 0, 0xff, 0xff, 0]);
        let long = transfer(true, true, 512, 65_536 * 512, 512);
        assert_eq!(&long[..2], &[0x8a, 8]);
        assert_eq!(&long[2..14], &[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]);
        let far = transfer(false, false, 4096 << 32, 4096, 4096);
        assert_eq!(&far[..14], &[0x88, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
