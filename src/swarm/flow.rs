//! Which operations of a node may start: those whose predecessors in the recording have ended, after the think
//! time. So the recorded queue depth comes again, whatever the target's speed. Pure.
//!
//! Operations end in another order here than they did in the recording. `front` counts how many have ended of
//! the recorded order of ends without a gap; an operation waits until `front` reaches its number.

use std::collections::VecDeque;

use super::plan::Plan;

/// One node's place in the trace. Its memory: 16 bytes for each operation that is ready or ended early.
#[derive(Debug, Default)]
pub(super) struct Flow {
    session: usize,
    /// The next operation that is not ready yet.
    next: u32,
    /// Ready ones, and from when on; in the order of the trace.
    ready: VecDeque<(u64, u32)>,
    front: u32,
    /// Places in the order of ends beyond `front` that have ended.
    early: Vec<u32>,
    running: u32,
}

impl Flow {
    /// The session that is under way, or comes next.
    pub(super) const fn session(&self) -> usize {
        self.session
    }

    /// The session is logged in.
    pub(super) fn begin(&mut self, plan: &Plan, now: u64) {
        self.open(plan, now);
    }

    fn open(&mut self, plan: &Plan, now: u64) {
        let end = plan.sessions.get(self.session).map_or(0, |s| s.end);
        while self.next < end
            && let Some(op) = plan.ops.get(self.next as usize)
            && op.before <= self.front
        {
            self.ready
                .push_back((now.saturating_add(op.think_us), self.next));
            self.next += 1;
        }
    }

    /// The next operation that may start now. They start in the order in which they came in the recording.
    pub(super) fn take(&mut self, now: u64) -> Option<u32> {
        let &(due, op) = self.ready.front()?;
        if due > now {
            return None;
        }
        self.ready.pop_front();
        self.running += 1;
        Some(op)
    }

    /// From when on `take` gives one.
    pub(super) fn due(&self) -> Option<u64> {
        self.ready.front().map(|(due, _)| *due)
    }

    /// One that was taken has ended.
    pub(super) fn ended(&mut self, op: u32, plan: &Plan, now: u64) {
        self.running = self.running.saturating_sub(1);
        let place = plan.ops.get(op as usize).map_or(0, |op| op.place);
        if place != self.front {
            self.early.push(place);
            return;
        }
        self.front += 1;
        while let Some(at) = self.early.iter().position(|place| *place == self.front) {
            self.early.swap_remove(at);
            self.front += 1;
        }
        self.open(plan, now);
    }

    /// Every operation of the session has ended.
    pub(super) fn is_over(&self, plan: &Plan) -> bool {
        let end = plan.sessions.get(self.session).map_or(0, |s| s.end);
        self.next >= end && self.ready.is_empty() && self.running == 0
    }

    /// Goes to the next session; its think time, or none when that was the last.
    pub(super) fn next_session(&mut self, plan: &Plan) -> Option<u64> {
        self.session += 1;
        plan.sessions.get(self.session).map(|s| s.think_us)
    }
}

#[cfg(test)]
mod test {
    use super::super::plan::Pace;
    use super::*;
    use crate::trace::{Op, OpKind, Session, Trace};
    use proptest::prelude::*;

    fn plan(times: &[(u64, u32)], think: bool) -> Plan {
        let op = |(at_us, took_us): &(u64, u32)| Op {
            session: 0,
            at_us: *at_us,
            took_us: *took_us,
            kind: OpKind::Read,
            offset: 0,
            len: 512,
            fua: false,
        };
        let trace = Trace {
            disk_bytes: 512,
            sessions: vec![Session {
                initiator: "os".into(),
                login_at_us: 0,
                logout_at_us: None,
            }],
            ops: times.iter().map(op).collect(),
            ..Trace::default()
        };
        let pace = Pace {
            think,
            speed_mille: 1000,
        };
        Plan::new(&trace, pace).unwrap()
    }

    #[test]
    fn the_recorded_depth_comes_again_without_think_time() {
        // Two at once, then one that waited for both, then two at once.
        let plan = plan(&[(0, 10), (5, 10), (20, 5), (30, 9), (31, 9)], false);
        let mut flow = Flow::default();
        flow.begin(&plan, 0);
        assert_eq!(
            (flow.take(0), flow.take(0), flow.take(0)),
            (Some(0), Some(1), None)
        );
        flow.ended(1, &plan, 7);
        assert_eq!(flow.take(7), None, "the first has not ended");
        flow.ended(0, &plan, 9);
        assert_eq!((flow.take(9), flow.take(9)), (Some(2), None));
        flow.ended(2, &plan, 11);
        assert_eq!(
            (flow.take(11), flow.take(11), flow.take(11)),
            (Some(3), Some(4), None)
        );
        assert!(!flow.is_over(&plan));
        flow.ended(4, &plan, 12);
        flow.ended(3, &plan, 12);
        assert!(flow.is_over(&plan));
        assert_eq!(flow.next_session(&plan), None);
    }

    #[test]
    fn think_time_counts_from_the_last_end_it_waited_for() {
        let plan = plan(&[(0, 10), (40, 10)], true);
        let mut flow = Flow::default();
        flow.begin(&plan, 1000);
        assert_eq!(flow.take(1000), Some(0));
        assert_eq!(flow.due(), None);
        flow.ended(0, &plan, 5000);
        assert_eq!(flow.due(), Some(5030));
        assert_eq!((flow.take(5029), flow.take(5030)), (None, Some(1)));
    }

    proptest! {
        #[test]
        fn every_operation_starts_once_and_never_before_those_it_waited_for(
            gaps in prop::collection::vec((0u64..50, 1u32..200), 1..80),
            order in prop::collection::vec(any::<prop::sample::Index>(), 80),
        ) {
            let mut at = 0;
            let times: Vec<(u64, u32)> = gaps.iter().map(|(gap, took)| { at += gap; (at, *took) }).collect();
            let plan = plan(&times, false);
            let mut flow = Flow::default();
            flow.begin(&plan, 0);
            let (mut running, mut ended, mut started) = (Vec::new(), vec![false; times.len()], 0);
            let mut depth = 0;
            for pick in order.iter().cycle() {
                while let Some(op) = flow.take(0) {
                    prop_assert_eq!(op as usize, started);
                    started += 1;
                    for (other, done) in ended.iter().enumerate() {
                        let end = times[other].0 + u64::from(times[other].1);
                        let was_over = other < op as usize && end <= times[op as usize].0;
                        prop_assert!(!was_over || *done);
                    }
                    running.push(op);
                }
                depth = depth.max(running.len());
                if running.is_empty() {
                    break;
                }
                let op = running.swap_remove(pick.index(running.len()));
                ended[op as usize] = true;
                flow.ended(op, &plan, 0);
            }
            prop_assert!(flow.is_over(&plan) && ended.iter().all(|e| *e));
            prop_assert!(flow.early.is_empty());
        }
    }
}
