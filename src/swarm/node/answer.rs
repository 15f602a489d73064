//! What a node makes of answers: payload compared in place, capacity, sense, what is sent again. Pure.

use super::super::data::SECTOR;
use super::command::Probe;
use super::{
    Done, Ear, Flight, Hearing, Job, Known, Mismatch, OpKind, Phase, SWARM_BUSY_TRIES,
    SWARM_RETRIES, SWARM_RETRY_MIN, Stage, Verdict, Verify, micros,
};

/// SCSI status (SAM-6 5.3).
mod status {
    pub(super) const GOOD: u8 = 0x00;
    pub(super) const CHECK_CONDITION: u8 = 0x02;
    pub(super) const BUSY: u8 = 0x08;
    pub(super) const TASK_SET_FULL: u8 = 0x28;
}

/// What follows from how a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    /// Send it again after so many microseconds.
    Again(u64),
    Bad,
}

impl Ear for Hearing<'_> {
    fn data(&mut self, token: u16, at: u32, piece: &[u8]) {
        let Some(Some(flight)) = self.life.flights.get(usize::from(token)).copied() else {
            return;
        };
        let len = piece.len() as u64;
        let (offset, place) = match flight.job {
            Job::Probe(_) => return self.life.small.extend_from_slice(piece),
            Job::Op(number) => match self.world.plan.ops.get(number as usize) {
                Some(op) => (op.offset, op.golden),
                None => return,
            },
            Job::Back(number) => {
                let range = self.life.back.get(number as usize);
                (range.map_or(0, |range| range.0), 0)
            }
        };
        self.tally.counts.read_bytes += len;
        self.life.report.read_bytes += len;
        if self.world.verify == Verify::None {
            self.tally.counts.unverified_bytes += len;
            return;
        }
        let verdict = self.verdict(&flight, offset + u64::from(at), place, at, piece);
        self.tally.counts.verified_bytes += verdict.good;
        self.tally.counts.unverified_bytes += verdict.unknown;
        if verdict.bad_sectors > 0 {
            self.mismatch(token, verdict);
        }
    }

    fn done(&mut self, done: &Done) {
        let place = self.life.flights.get_mut(usize::from(done.token));
        let Some(flight) = place.and_then(Option::take) else {
            return;
        };
        self.life.under_way = self.life.under_way.saturating_sub(1);
        self.life.losses = 0;
        if let Job::Probe(probe) = flight.job {
            return self.probe_done(probe, flight, done);
        }
        match self.fate(&flight, done) {
            Fate::Again(wait) => {
                let due = self.now.saturating_add(wait);
                self.life
                    .again
                    .push_back((due, flight.job, flight.tries + 1));
            }
            Fate::Good => self.ended(&flight, true),
            Fate::Bad => {
                self.bad(&flight, done);
                self.ended(&flight, false);
            }
        }
    }

    fn supply(&mut self, token: u16, at: u32, len: u32, out: &mut Vec<u8>) {
        if let Some(Some(flight)) = self.life.flights.get(usize::from(token)) {
            self.bytes_of(flight.job, at, len, out);
        }
    }
}

impl Hearing<'_> {
    fn verdict(
        &self,
        flight: &Flight,
        offset: u64,
        place: usize,
        at: u32,
        piece: &[u8],
    ) -> Verdict {
        let known = Known {
            seed: self.world.seed,
            golden: self.world.golden.as_ref(),
            names: self.world,
            node: self.life.id,
            ledger: &self.life.ledger,
            zeroes: self.life.zeroes,
        };
        let tell = !flight.wrong && self.tally.tells();
        if flight.touched {
            return known.sectors(offset, piece, flight.since, tell);
        }
        let place = place.saturating_add(usize::try_from(at).unwrap_or(usize::MAX));
        known.untouched(offset, piece, place, tell)
    }

    fn mismatch(&mut self, token: u16, verdict: Verdict) {
        self.tally.counts.bad_sectors += verdict.bad_sectors;
        let report = &mut self.life.report;
        report.bad_sectors += verdict.bad_sectors;
        if let Some(Some(flight)) = self.life.flights.get_mut(usize::from(token)) {
            flight.wrong = true;
        }
        report
            .reason
            .get_or_insert_with(|| "read wrong bytes".to_owned());
        if let Some(wrong) = verdict.first {
            let mismatch = Mismatch {
                node: report.node.clone(),
                offset: wrong.offset,
                sectors: verdict.bad_sectors,
                expected: wrong.expected,
                found: wrong.found,
            };
            report.reason = Some(mismatch.to_string());
            self.tally.mismatches.push(mismatch);
        }
    }

    /// As Linux: what passes is sent again, a few times or after a while; the rest is an error.
    fn fate(&self, flight: &Flight, done: &Done) -> Fate {
        let short = match flight.job {
            Job::Op(at) => {
                let op = self.world.plan.ops.get(at as usize);
                op.is_some_and(|op| op.kind == OpKind::Read && op.len != done.received)
            }
            Job::Back(at) => {
                let range = self.life.back.get(at as usize);
                range.is_some_and(|(start, end)| end - start != u64::from(done.received))
            }
            Job::Probe(_) => false,
        };
        let wait = micros(SWARM_RETRY_MIN);
        match (done.response, done.status) {
            (0, status::GOOD) if !short => Fate::Good,
            (0, status::BUSY | status::TASK_SET_FULL) if flight.tries < SWARM_BUSY_TRIES => {
                Fate::Again(wait)
            }
            (0, status::CHECK_CONDITION) if flight.tries < SWARM_RETRIES => match done.sense {
                // UNIT ATTENTION, ABORTED COMMAND: at once. NOT READY: soon.
                Some((6 | 11, ..)) => Fate::Again(0),
                Some((2, ..)) => Fate::Again(wait),
                _ => Fate::Bad,
            },
            _ => Fate::Bad,
        }
    }

    fn bad(&mut self, flight: &Flight, done: &Done) {
        self.tally.counts.errors += 1;
        self.life.report.errors += 1;
        let what = self.life.words(flight.job, self.world);
        let how = ending(done);
        let why = || format!("{what}: {how}");
        self.life.report.reason.get_or_insert_with(why);
    }

    fn ended(&mut self, flight: &Flight, good: bool) {
        let took = self.now.saturating_sub(flight.sent_at);
        self.tally.counts.ops += 1;
        self.life.report.ops += 1;
        if let Job::Op(at) = flight.job {
            if let Some(op) = self.world.plan.ops.get(at as usize) {
                self.tally.time(Stage::of(op.kind), took);
                if good && op.kind.changes() {
                    self.life.ledger.end(at);
                }
            }
            self.life.flow.ended(at, &self.world.plan, self.now);
        }
    }

    fn probe_done(&mut self, probe: Probe, flight: Flight, done: &Done) {
        let data = std::mem::take(&mut self.life.small);
        if let Fate::Again(wait) = self.fate(&flight, done) {
            let due = self.now.saturating_add(wait);
            return self
                .life
                .again
                .push_front((due, flight.job, flight.tries + 1));
        }
        let good = done.status == status::GOOD && done.response == 0;
        let next = match probe {
            Probe::Inquiry => Probe::Ready,
            Probe::Ready => Probe::Capacity16,
            Probe::Capacity16 if !good => Probe::Capacity10,
            Probe::Capacity16 | Probe::Capacity10 => match self.capacity(probe, &data, good) {
                Ok(()) => Probe::Over,
                Err(why) => {
                    self.tally.counts.errors += 1;
                    return self.life.give_up(&why, self.now);
                }
            },
            Probe::Over => Probe::Over,
        };
        self.life.enter(Phase::Probing(next), self.now);
        if next != Probe::Over {
            self.life.again.push_front((self.now, Job::Probe(next), 0));
        }
    }

    /// The disk must have the blocks and the room that the trace needs.
    fn capacity(&mut self, probe: Probe, data: &[u8], good: bool) -> Result<(), String> {
        let unknown = || "the target does not say how large its disk is".to_owned();
        let numbers = match probe {
            Probe::Capacity16 => data.split_first_chunk::<8>().and_then(|(last, rest)| {
                let block = rest.first_chunk::<4>()?;
                Some((u64::from_be_bytes(*last), u32::from_be_bytes(*block)))
            }),
            _ => data.split_first_chunk::<4>().and_then(|(last, rest)| {
                let block = rest.first_chunk::<4>()?;
                Some((
                    u64::from(u32::from_be_bytes(*last)),
                    u32::from_be_bytes(*block),
                ))
            }),
        };
        let (last, block) = numbers.filter(|_| good).ok_or_else(unknown)?;
        let block = u64::from(block);
        if !block.is_power_of_two() || !(SECTOR..=1 << 16).contains(&block) {
            return Err(format!("the target has blocks of {block} bytes"));
        }
        let size = last.saturating_add(1).saturating_mul(block);
        let plan = &self.world.plan;
        if size < plan.reach() {
            let reach = plan.reach();
            return Err(format!(
                "the trace goes up to byte {reach}, but the disk has {size}; take the trace of such a disk"
            ));
        }
        let fits = |op: &super::PlanOp| {
            op.offset.is_multiple_of(block) && u64::from(op.len).is_multiple_of(block)
        };
        if block > SECTOR && !plan.ops.iter().all(fits) {
            return Err(format!(
                "the trace was recorded with smaller blocks than the target's {block} bytes"
            ));
        }
        self.life.block = block;
        self.life.zeroes = data.get(14).is_some_and(|byte| byte & 0x40 != 0);
        Ok(())
    }
}

/// How a command ended, for people.
fn ending(done: &Done) -> String {
    match (done.response, done.status, done.sense) {
        (0, status::CHECK_CONDITION, Some((key, asc, ascq))) => {
            let name = key_name(key);
            format!("CHECK CONDITION, {name}, {asc:02x}/{ascq:02x}")
        }
        (0, status::GOOD, _) => format!("GOOD, but only {} bytes came", done.received),
        (0, status, _) => format!("status {status:#04x}"),
        (response, ..) => format!("iSCSI response {response:#04x}"),
    }
}

/// SPC-5 table 48.
const fn key_name(key: u8) -> &'static str {
    match key {
        0 => "no sense",
        1 => "recovered error",
        2 => "not ready",
        3 => "medium error",
        4 => "hardware error",
        5 => "illegal request",
        6 => "unit attention",
        7 => "data protect",
        8 => "blank check",
        10 => "copy aborted",
        11 => "aborted command",
        13 => "volume overflow",
        14 => "miscompare",
        _ => "another sense key",
    }
}
