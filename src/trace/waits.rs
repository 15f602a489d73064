//! What a replayer has to wait for.

use super::Trace;

/// What an op or a login waited for in the recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// Ops that had ended: the first so many of [`Trace::ends`]. Never shrinks from one op to the next.
    pub before: u32,
    /// The last of them, when its end was what the think time counts from; `None`: the login of the op's session.
    /// For a login `None` means the login before it, or the start of the trace.
    pub after: Option<u32>,
    /// From the moment when all that had happened to the arrival, microseconds.
    pub think_us: u64,
}

pub(super) fn ends(trace: &Trace) -> Vec<u32> {
    let count = u32::try_from(trace.ops.len()).unwrap_or(u32::MAX);
    let mut order: Vec<u32> = (0..count).collect();
    // Stable: of one moment, in the order of arrival.
    order.sort_by_key(|at| trace.ops.get(*at as usize).map(super::Op::end_us));
    order
}

/// Walks once along the ends while time goes forward.
struct Walk<'a> {
    trace: &'a Trace,
    ends: Vec<u32>,
    front: usize,
}

impl<'a> Walk<'a> {
    fn new(trace: &'a Trace) -> Self {
        Self {
            trace,
            ends: ends(trace),
            front: 0,
        }
    }

    /// What had ended at `at_us`, of the ops before the op `limit`; time counts from `since_us` at least.
    ///
    /// Ops that end at that very moment and arrived before are among them; they come first in the order of ends,
    /// since those of one moment are in the order of arrival. So what is found is a beginning of that order.
    fn at(&mut self, at_us: u64, limit: u32, since_us: u64) -> Wait {
        while let Some(next) = self.ends.get(self.front) {
            let end = self.end(*next);
            if *next >= limit || end > at_us {
                break;
            }
            self.front += 1;
        }
        let last = self.front.checked_sub(1).and_then(|n| self.ends.get(n));
        let (after, since_us) = match last {
            Some(last) if self.end(*last) >= since_us => (Some(*last), self.end(*last)),
            _ => (None, since_us),
        };
        Wait {
            before: u32::try_from(self.front).unwrap_or(u32::MAX),
            after,
            think_us: at_us.saturating_sub(since_us),
        }
    }

    fn end(&self, op: u32) -> u64 {
        let op = self.trace.ops.get(op as usize);
        op.map_or(u64::MAX, super::Op::end_us)
    }
}

pub(super) fn of_ops(trace: &Trace) -> Vec<Wait> {
    let mut walk = Walk::new(trace);
    let wait = |(op, limit): (&super::Op, u32)| {
        let session = trace.sessions.get(usize::from(op.session));
        let login = session.map_or(0, |session| session.login_at_us);
        walk.at(op.at_us, limit, login)
    };
    trace.ops.iter().zip(0..).map(wait).collect()
}

pub(super) fn of_logins(trace: &Trace) -> Vec<Wait> {
    let mut walk = Walk::new(trace);
    let mut before = 0;
    let wait = |session: &super::Session| {
        let wait = walk.at(session.login_at_us, u32::MAX, before);
        before = session.login_at_us;
        wait
    };
    trace.sessions.iter().map(wait).collect()
}
