//! A trace made ready to be replayed by many nodes: checked, its waits looked up, paced. Pure.

use crate::iscsi::initiator::profiles::{EDK2, IPXE, OPEN_ISCSI, Profile, WINDOWS};
use crate::trace::{Op, OpKind, Trace};

use super::data::SECTOR;
use super::error::Error;
use super::golden::{Golden, merged};

/// Which initiator a session is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Firmware that is iPXE.
    Ipxe,
    /// UEFI's own initiator.
    Edk2,
    /// Linux with open-iscsi.
    Linux,
    /// Windows.
    Windows,
}

impl Who {
    /// By the word of a trace.
    #[must_use]
    pub fn of(word: &str) -> Self {
        let word = word.to_ascii_lowercase();
        match () {
            () if word.contains("edk2") => Self::Edk2,
            () if word.contains("firmware") || word.contains("ipxe") => Self::Ipxe,
            () if word.contains("windows") => Self::Windows,
            () => Self::Linux,
        }
    }

    /// True before an operating system runs.
    #[must_use]
    pub const fn is_firmware(self) -> bool {
        matches!(self, Self::Ipxe | Self::Edk2)
    }

    /// What it offers in a login.
    #[must_use]
    pub const fn profile(self) -> Profile {
        match self {
            Self::Ipxe => IPXE,
            Self::Edk2 => EDK2,
            Self::Linux => OPEN_ISCSI,
            Self::Windows => WINDOWS,
        }
    }
}

/// How time in the trace becomes time in the replay.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Nodes think as long as the recorded one did; without it, not at all.
    pub think: bool,
    /// Think times are divided by this, in thousandths: 2000 is twice as fast.
    pub speed_mille: u64,
}

impl Pace {
    fn of(self, think_us: u64) -> u64 {
        if !self.think {
            return 0;
        }
        let slower = u128::from(think_us) * 1000 / u128::from(self.speed_mille.max(1));
        u64::try_from(slower).unwrap_or(u64::MAX)
    }
}

/// One session of every node.
#[derive(Clone, Debug)]
pub(super) struct SessionPlan {
    pub(super) who: Who,
    /// Its operations: first, and the one after the last.
    pub(super) first: u32,
    pub(super) end: u32,
    /// From the end of the session before to this login.
    pub(super) think_us: u64,
}

/// One operation of every node.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanOp {
    pub(super) kind: OpKind,
    pub(super) fua: bool,
    pub(super) offset: u64,
    pub(super) len: u32,
    /// How many operations, in the order of their ends, must have ended before this one.
    pub(super) before: u32,
    /// Its place in the order of ends.
    pub(super) place: u32,
    /// From then on, before it starts.
    pub(super) think_us: u64,
    /// Where in the golden bytes its first byte lies; only of reads.
    pub(super) golden: usize,
}

/// A trace, ready.
#[derive(Debug)]
pub struct Plan {
    pub(super) sessions: Vec<SessionPlan>,
    pub(super) ops: Vec<PlanOp>,
    disk_bytes: u64,
    /// First byte after the last that an operation touches.
    reach: u64,
}

impl Plan {
    /// Checks a trace and makes it ready.
    ///
    /// # Errors
    /// No sessions, operations beyond the trace's own disk or off the sector grid, sessions that are not there.
    pub fn new(trace: &Trace, pace: Pace) -> Result<Self, Error> {
        if trace.sessions.is_empty() {
            return Err(Error::invalid("the trace has no session"));
        }
        let waits = trace.waits();
        let mut place = vec![0; trace.ops.len()];
        for (at, op) in (0u32..).zip(trace.ends()) {
            if let Some(slot) = place.get_mut(op as usize) {
                *slot = at;
            }
        }
        let mut ops = Vec::with_capacity(trace.ops.len());
        let mut reach = 0;
        for ((op, wait), place) in trace.ops.iter().zip(&waits).zip(place) {
            let end = checked_end(trace, op)?;
            reach = reach.max(end);
            ops.push(PlanOp {
                kind: op.kind,
                fua: op.fua,
                offset: op.offset,
                len: op.len,
                before: wait.before,
                place,
                think_us: pace.of(wait.think_us),
                golden: 0,
            });
        }
        Ok(Self {
            sessions: sessions(trace, pace)?,
            ops,
            disk_bytes: trace.disk_bytes,
            reach,
        })
    }

    /// Bytes of the disk that was recorded.
    #[must_use]
    pub const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// First byte after the last that an operation touches: a target's disk must have so many.
    #[must_use]
    pub const fn reach(&self) -> u64 {
        self.reach
    }

    /// Operations that change the disk.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.ops.iter().filter(|op| op.kind.changes()).count()
    }

    /// Operations of each node.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ops.len()
    }

    /// True when there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Who logs in first.
    #[must_use]
    pub fn first(&self) -> Option<Who> {
        self.sessions.first().map(|session| session.who)
    }

    /// Begins each node's boot with a login of firmware that asks nothing: a head of ours then starts a new boot.
    pub fn wake_first(&mut self) {
        let wake = SessionPlan {
            who: Who::Ipxe,
            first: 0,
            end: 0,
            think_us: 0,
        };
        self.sessions.insert(0, wake);
    }

    /// What is read of the disk: first bytes and ends, apart from each other.
    #[must_use]
    pub fn read_ranges(&self) -> Vec<(u64, u64)> {
        let reads = self.ops.iter().filter(|op| op.kind == OpKind::Read);
        merged(reads.map(|op| (op.offset, op.len.into())))
    }

    /// Looks up where each read's golden bytes lie.
    ///
    /// # Errors
    /// Bytes that a read wants are not there.
    pub fn place_golden(&mut self, golden: &Golden) -> Result<(), Error> {
        for op in self.ops.iter_mut().filter(|op| op.kind == OpKind::Read) {
            let place = golden.place(op.offset, op.len.into());
            let gone = || {
                let (len, offset) = (op.len, op.offset);
                Error::invalid(format!(
                    "the image has not the {len} bytes at {offset} of the trace"
                ))
            };
            op.golden = place.ok_or_else(gone)?;
        }
        Ok(())
    }
}

fn checked_end(trace: &Trace, op: &Op) -> Result<u64, Error> {
    let at = op.at_us;
    let what = op.kind.word();
    let wrong = |why: String| {
        Err(Error::invalid(format!(
            "the {what} at {at} us of the trace {why}"
        )))
    };
    let end = op.offset.checked_add(op.len.into());
    let Some(end) = end.filter(|end| *end <= trace.disk_bytes) else {
        let (len, offset, disk) = (op.len, op.offset, trace.disk_bytes);
        return wrong(format!(
            "touches {len} bytes at {offset}, beyond its disk of {disk} bytes"
        ));
    };
    if !op.offset.is_multiple_of(SECTOR) || !u64::from(op.len).is_multiple_of(SECTOR) {
        return wrong("is not of whole sectors".into());
    }
    if op.len == 0 && op.kind != OpKind::Flush {
        return wrong("has no length".into());
    }
    if usize::from(op.session) >= trace.sessions.len() {
        return wrong(format!("is of session {}, which there is not", op.session));
    }
    Ok(end)
}

/// Sessions one after the other. Where recorded ones overlapped (firmware that never logs out), an operation
/// goes to the latest session that has begun: it is the same disk.
fn sessions(trace: &Trace, pace: Pace) -> Result<Vec<SessionPlan>, Error> {
    let mut counts = vec![0u32; trace.sessions.len()];
    let mut latest = 0;
    for op in &trace.ops {
        latest = latest.max(usize::from(op.session));
        if let Some(count) = counts.get_mut(latest) {
            *count += 1;
        }
    }
    let mut first = 0u32;
    let mut out = Vec::new();
    for ((session, wait), count) in trace.sessions.iter().zip(trace.logins()).zip(counts) {
        let end = first
            .checked_add(count)
            .ok_or_else(|| Error::invalid("the trace has too many operations"))?;
        out.push(SessionPlan {
            who: Who::of(&session.initiator),
            first,
            end,
            think_us: pace.of(wait.think_us),
        });
        first = end;
    }
    // The first login is the beginning.
    if let Some(first) = out.first_mut() {
        first.think_us = 0;
    }
    Ok(out)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::trace::Session;

    pub(super) fn op(session: u16, at_us: u64, took_us: u32, offset: u64) -> Op {
        Op {
            session,
            at_us,
            took_us,
            kind: OpKind::Read,
            offset,
            len: 512,
            fua: false,
        }
    }

    fn trace(ops: Vec<Op>) -> Trace {
        let session = |initiator: &str, login_at_us| Session {
            initiator: initiator.into(),
            login_at_us,
            logout_at_us: None,
        };
        Trace {
            disk_bytes: 1 << 20,
            sessions: vec![session("firmware", 100), session("os", 5000)],
            ops,
            ..Trace::default()
        }
    }

    const TRUE: Pace = Pace {
        think: true,
        speed_mille: 1000,
    };

    #[test]
    fn think_times_shrink_with_speed_and_vanish_without() {
        let trace = trace(vec![
            op(0, 300, 100, 0),
            op(0, 1000, 50, 512),
            op(1, 6000, 1, 0),
        ]);
        let thinks = |pace| -> Vec<u64> {
            let plan = Plan::new(&trace, pace).unwrap();
            plan.ops.iter().map(|op| op.think_us).collect()
        };
        assert_eq!(thinks(TRUE), [200, 600, 1000]);
        let double = Pace {
            speed_mille: 2000,
            ..TRUE
        };
        assert_eq!(thinks(double), [100, 300, 500]);
        let none = Pace {
            think: false,
            ..TRUE
        };
        assert_eq!(thinks(none), [0, 0, 0]);
    }

    #[test]
    fn operations_of_a_session_that_lingers_go_to_the_latest() {
        let trace = trace(vec![op(0, 300, 1, 0), op(1, 6000, 1, 0), op(0, 6500, 1, 0)]);
        let plan = Plan::new(&trace, TRUE).unwrap();
        let ranges: Vec<_> = plan.sessions.iter().map(|s| (s.first, s.end)).collect();
        assert_eq!(ranges, [(0, 1), (1, 3)]);
        assert_eq!(plan.sessions[0].who, Who::Ipxe);
        assert_eq!(plan.sessions[1].who, Who::Linux);
    }

    #[test]
    fn what_a_disk_cannot_do_is_refused_with_its_place() {
        let mut beyond = op(0, 300, 1, 1 << 20);
        let refused = |op| {
            let error = Plan::new(&trace(vec![op]), TRUE).unwrap_err();
            error.to_string()
        };
        assert!(refused(beyond).contains("beyond its disk of 1048576 bytes"));
        beyond.offset = 3;
        assert!(refused(beyond).contains("whole sectors"));
        beyond.offset = 0;
        beyond.len = 0;
        assert!(refused(beyond).contains("no length"));
        beyond.len = 512;
        beyond.session = 2;
        assert!(refused(beyond).contains("session 2"));
        let none = Trace::default();
        assert!(Plan::new(&none, TRUE).is_err());
    }
}
