//! Leaving: a drain asks the initiator to log out, and closes what stays; a head that stops lets what was begun be
//! finished (RFC 7143 11.9.1).

use std::time::Instant;

use super::super::pdu::{Bhs, RESERVED_TAG, op};
use super::{Connection, Data, Faults, Output, Queued, State, Why};
use crate::limits;

/// How far a connection is on its way out.
#[derive(Clone, Debug)]
pub(super) enum Leaving {
    No,
    /// It was asked to log out by then.
    Asked(Instant),
    /// It gets no more commands, and closes when those under way are answered; by then at the latest.
    Dry(Instant, Why),
}

impl Connection {
    /// Asks to leave: Async event 1, "log out within Parameter3 seconds" (RFC 7143 11.9.1). Firmware knows no such PDU:
    /// it is closed and comes back with its next read.
    pub(super) fn drain(&mut self, now: Instant) {
        if !matches!(self.leaving, Leaving::No) {
            return;
        }
        if !self.options.talkative {
            self.run_dry(now, Why::Drained);
            return;
        }
        self.leaving = Leaving::Asked(now + limits::DRAIN_WAIT);
        let mut header = Bhs::new(op::ASYNC);
        header.put_u8(1, 0x80);
        header.put_u32(16, RESERVED_TAG);
        header.put_u8(36, 1);
        let seconds = u16::try_from(limits::DRAIN_WAIT.as_secs()).unwrap_or(u16::MAX);
        header.put_u16(42, seconds);
        self.urgent.push_back(Queued::status(header, Data::None));
    }

    /// The drain was called off. One that gets no more commands already is closed all the same, and comes back.
    pub(super) fn stay(&mut self) {
        if matches!(self.leaving, Leaving::Asked(_)) {
            self.leaving = Leaving::No;
        }
    }

    /// Grants no further command. Those that the initiator may send already are still taken.
    pub(super) fn run_dry(&mut self, now: Instant, why: Why) {
        if !matches!(self.leaving, Leaving::Dry(..)) {
            self.numbers.freeze();
            self.leaving = Leaving::Dry(now + limits::DRY_WAIT, why);
        }
    }

    /// Closes a connection that leaves, once nothing of it is under way.
    pub(super) fn close_when_dry(&mut self) -> Option<Output> {
        let Leaving::Dry(_, why) = &self.leaving else {
            return None;
        };
        let busy = self.tasks.len() > 0
            || !self.answers.is_empty()
            || !self.reads.is_empty()
            || !self.pending.is_empty();
        if busy || matches!(self.state, State::LoggingOut) {
            return None;
        }
        let why = why.clone();
        self.close(why);
        self.poll_closing()
    }

    /// What the peer did wrong since the last call.
    pub fn take_faults(&mut self) -> Faults {
        std::mem::take(&mut self.faults)
    }

    /// What is due by now; true when the connection closes.
    pub(super) fn leave_in_time(&mut self, now: Instant) -> bool {
        match self.leaving.clone() {
            Leaving::Asked(until) if now >= until => self.run_dry(now, Why::Drained),
            Leaving::Dry(until, why) if now >= until => {
                self.close(why);
                return true;
            }
            _ => {}
        }
        false
    }
}
