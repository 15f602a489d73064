//! Task management and Logout: end tasks, wait until nothing of them runs, then answer (RFC 7143 4.2.3, 11.5,
//! 11.6, 11.14; SAM-5 7). An answer of 0 promises that nothing of the task will happen any more.

use std::time::Instant;

use super::super::pdu::{Bhs, RESERVED_TAG, op};
use super::super::serial::CmdSn;
use super::super::session::Arrival;
use super::super::task::{Phase, TaskId};
use super::{Answer, Connection, Data, Management, Output, Queued, State, Why, reason};
use crate::limits;

/// Responses (RFC 7143 11.6.1).
const COMPLETE: u8 = 0;
const NO_SUCH_TASK: u8 = 1;
const NO_SUCH_LUN: u8 = 2;
const NO_REASSIGNMENT: u8 = 4;
const NOT_SUPPORTED: u8 = 5;
const REJECTED: u8 = 0xff;

/// A function that is not answered yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// Its number; tasks that it ended and that still run carry it.
    number: u32,
    itt: u32,
    immediate: bool,
    since: Instant,
    kind: Kind,
    /// The shell works on it.
    asked: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// ABORT TASK, ABORT TASK SET.
    Abort,
    /// Reaches beyond this connection.
    Beyond(Management),
    Logout,
    /// Asked by another session.
    Other(u64),
}

/// The number in a LUN field of the first level, by peripheral or flat addressing (SAM-5 4.7).
#[must_use]
pub fn lun_number(field: u64) -> Option<u16> {
    let [high, low, rest @ ..] = field.to_be_bytes();
    if rest != [0; 6] {
        return None;
    }
    match high >> 6 {
        0 if high == 0 => Some(u16::from(low)),
        1 => Some(u16::from_be_bytes([high & 0x3f, low])),
        _ => None,
    }
}

impl Connection {
    pub(super) fn manage(&mut self, bhs: &Bhs, now: Instant) {
        if bhs.itt() == RESERVED_TAG {
            self.reject(bhs, reason::FIELD, now);
            return;
        }
        self.count_immediate(bhs);
        if self.pending.len() >= limits::MANAGEMENT_MAX {
            self.respond(bhs.itt(), bhs.immediate(), REJECTED);
            return;
        }
        let lun = lun_number(bhs.lun()).filter(|lun| self.options.luns.contains(lun));
        let beyond =
            |make: fn(u16) -> Management| lun.map(|lun| (Kind::Beyond(make(lun)), Some(lun)));
        let everything = |m| Some((Kind::Beyond(m), None));
        let plan = match bhs.flags() & 0x7f {
            1 => return self.abort_task(bhs, now),
            2 => lun.map(|lun| (Kind::Abort, Some(lun))),
            4 => beyond(Management::ClearTaskSet),
            5 => beyond(Management::LunReset),
            6 => everything(Management::WarmReset),
            7 => everything(Management::ColdReset),
            8 => return self.respond(bhs.itt(), bhs.immediate(), NO_REASSIGNMENT),
            _ => return self.respond(bhs.itt(), bhs.immediate(), NOT_SUPPORTED),
        };
        match plan {
            Some((kind, lun)) => {
                let number = self.function();
                self.abort_where(lun, number, false);
                self.await_end(bhs, kind, number, now);
            }
            None => self.respond(bhs.itt(), bhs.immediate(), NO_SUCH_LUN),
        }
    }

    fn abort_task(&mut self, bhs: &Bhs, now: Instant) {
        let Some(task) = self.tasks.by_itt(bhs.u32_at(20)) else {
            let response = if self.plugs_gap(bhs) {
                COMPLETE
            } else {
                NO_SUCH_TASK
            };
            self.respond(bhs.itt(), bhs.immediate(), response);
            return;
        };
        let number = self.function();
        self.abort(task, number, false);
        self.await_end(bhs, Kind::Abort, number, now);
    }

    /// An abort of a command that was rejected, and so never received, fills the hole that it left (RFC 7143
    /// 7.3, 11.6.1): its CmdSN counts as received.
    fn plugs_gap(&mut self, bhs: &Bhs) -> bool {
        let awaited = bhs.immediate()
            && self.numbers.place(CmdSn(bhs.u32_at(32))) == Arrival::InOrder
            && bhs.u32_at(32) != bhs.cmd_sn();
        if awaited {
            self.numbers.take();
        }
        awaited
    }

    /// Logout (RFC 7143 11.14): ends every task, then answers, then closes.
    pub(super) fn logout(&mut self, bhs: &Bhs, now: Instant) {
        let immediate = self.count_immediate(bhs);
        let response = match bhs.flags() & 0x7f {
            0 => COMPLETE,
            1 if bhs.u16_at(20) == self.options.cid => COMPLETE,
            1 => 1,
            _ => 2,
        };
        if response != COMPLETE {
            let answer = self.logout_response(bhs.itt(), response);
            self.answers.push_back(Answer::Pdu(Queued {
                immediate,
                ..answer
            }));
            return;
        }
        self.state = State::LoggingOut;
        let number = self.function();
        self.abort_where(None, number, false);
        self.await_end(bhs, Kind::Logout, number, now);
    }

    pub(super) fn cleared_by_other(
        &mut self,
        lun: Option<u16>,
        tell: bool,
        ticket: u64,
        now: Instant,
    ) {
        let number = self.function();
        self.abort_where(lun, number, tell);
        self.pending.push(Pending {
            number,
            itt: RESERVED_TAG,
            immediate: false,
            since: now,
            kind: Kind::Other(ticket),
            asked: false,
        });
        self.settle();
    }

    /// The shell did its part.
    pub(super) fn managed(&mut self, number: u32, response: u8) {
        let Some(at) = self.pending.iter().position(|p| p.number == number) else {
            return;
        };
        let done = self.pending.remove(at);
        self.respond(done.itt, done.immediate, response);
        let cold = matches!(done.kind, Kind::Beyond(Management::ColdReset));
        if let Some(Answer::Pdu(queued)) = self.answers.back_mut()
            && cold
        {
            queued.close = Some(Why::ColdReset);
        }
    }

    /// Answers functions for which nothing runs any more.
    pub(super) fn settle(&mut self) {
        while let Some(at) = self.pending.iter().position(|p| {
            !p.asked
                && !self
                    .tasks
                    .ids()
                    .filter_map(|id| self.tasks.get(id)?.aborted)
                    .any(|number| number <= p.number)
        }) {
            match self.pending[at].kind {
                Kind::Beyond(management) => {
                    self.pending[at].asked = true;
                    let number = self.pending[at].number;
                    self.actions.push_back(Output::Manage(number, management));
                }
                kind => {
                    let done = self.pending.remove(at);
                    self.conclude(kind, &done);
                }
            }
        }
    }

    fn conclude(&mut self, kind: Kind, done: &Pending) {
        match kind {
            Kind::Abort | Kind::Beyond(_) => self.respond(done.itt, done.immediate, COMPLETE),
            Kind::Other(ticket) => self.actions.push_back(Output::Cleared(ticket)),
            Kind::Logout => {
                let answer = self.logout_response(done.itt, COMPLETE);
                self.answers.push_back(Answer::Pdu(Queued {
                    immediate: done.immediate,
                    close: Some(Why::Logout),
                    ..answer
                }));
            }
        }
    }

    /// Functions that wait too long are answered as failed: the initiator then escalates by itself.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(at) = self
            .pending
            .iter()
            .position(|p| now.duration_since(p.since) >= limits::TASK_MANAGEMENT_WAIT)
        {
            let late = self.pending.remove(at);
            match late.kind {
                Kind::Logout => self.close(Why::Logout),
                // Whoever asked has its own bound.
                Kind::Other(_) => {}
                Kind::Abort | Kind::Beyond(_) => {
                    self.respond(late.itt, late.immediate, REJECTED);
                }
            }
        }
    }

    fn function(&mut self) -> u32 {
        self.next_function = self.next_function.wrapping_add(1);
        self.next_function
    }

    fn await_end(&mut self, bhs: &Bhs, kind: Kind, number: u32, now: Instant) {
        self.pending.push(Pending {
            number,
            itt: bhs.itt(),
            immediate: bhs.immediate(),
            since: now,
            kind,
            asked: false,
        });
        self.settle();
    }

    fn abort_where(&mut self, lun: Option<u16>, number: u32, tell: bool) {
        let hit = |id: &TaskId| {
            let task = self.tasks.get(*id);
            task.is_some_and(|t| lun.is_none() || lun_number(t.lun) == lun)
        };
        let ids: Vec<TaskId> = self.tasks.ids().filter(hit).collect();
        for id in ids {
            self.abort(id, number, tell);
        }
    }

    /// Ends a task. While the shell works on it, it stays until the shell is done. `tell`: another nexus ends it,
    /// and its own is answered TASK ABORTED, or what its answer already is.
    fn abort(&mut self, id: TaskId, number: u32, tell: bool) {
        self.purge_r2ts(id);
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if tell && task.phase == Phase::Sending {
            return;
        }
        task.tells_abort = tell && task.aborted.is_none();
        if task.owed() {
            // The first function that ended it is waited for by all later ones.
            task.aborted.get_or_insert(number);
        } else {
            self.discard(id);
        }
    }

    /// Task management response, behind the answers before it (response fence, RFC 7143 4.2.2.3).
    fn respond(&mut self, itt: u32, immediate: bool, response: u8) {
        let mut header = Bhs::new(op::TASK_MANAGEMENT_RESPONSE);
        header.put_u8(1, 0x80);
        header.put_u8(2, response);
        header.put_u32(16, itt);
        self.answers.push_back(Answer::Pdu(Queued {
            immediate,
            ..Queued::status(header, Data::None)
        }));
    }

    fn logout_response(&self, itt: u32, response: u8) -> Queued {
        let mut header = Bhs::new(op::LOGOUT_RESPONSE);
        header.put_u8(1, 0x80);
        header.put_u8(2, response);
        header.put_u32(16, itt);
        header.put_u16(40, self.options.negotiated.time2wait);
        header.put_u16(42, 0);
        Queued::status(header, Data::None)
    }
}

#[cfg(test)]
mod test {
    use super::lun_number;

    #[test]
    fn luns_are_read_by_both_methods() {
        assert_eq!(lun_number(0), Some(0));
        assert_eq!(lun_number(0x0007_0000_0000_0000), Some(7));
        assert_eq!(lun_number(0x4107_0000_0000_0000), Some(0x107));
        assert_eq!(lun_number(0x0107_0000_0000_0000), None, "bus 1");
        assert_eq!(lun_number(0xc101_0000_0000_0000), None, "well known");
        assert_eq!(lun_number(1), None, "second level");
    }
}
