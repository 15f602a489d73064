//! Data from the initiator: R2Ts, solicited and unsolicited Data-Out (RFC 7143 4.2.4, 11.7, 11.8).

use std::time::Instant;

use super::super::pdu::{Bhs, RESERVED_TAG, op};
use super::super::task::{Burst, Phase, Task, TaskId, Tasks};
use super::{Connection, Data, Output, Place, Queued, State, reason};
use crate::limits;
use crate::scsi::{Reply, Sense};
use crate::store::Buffer;

/// Compares a Data-Out with what its burst expects.
fn check(burst: &Burst, bhs: &Bhs, solicited: bool) -> Result<(), Sense> {
    if bhs.u32_at(36) != burst.data_sn {
        return Err(Sense::DATA_PHASE_ERROR);
    }
    if bhs.u32_at(40) != burst.next {
        return Err(Sense::DATA_OFFSET_ERROR);
    }
    let end = burst
        .next
        .checked_add(bhs.data_len())
        .ok_or(Sense::TOO_MUCH_WRITE_DATA)?;
    let last = bhs.flags() & 0x80 != 0;
    match end.cmp(&burst.end) {
        std::cmp::Ordering::Greater => Err(Sense::TOO_MUCH_WRITE_DATA),
        // An answer to an R2T must bring all that was asked for; unsolicited data may stop early.
        std::cmp::Ordering::Less if last && solicited => Err(Sense::DATA_PHASE_ERROR),
        _ => Ok(()),
    }
}

impl Connection {
    /// Where the data segment of this Data-Out belongs. Its bytes go to `room`, then `landed` is called.
    pub fn data_out(&mut self, bhs: &Bhs, now: Instant) -> Place {
        self.heard = Some(now);
        if !matches!(self.state, State::Open) {
            return Place::Discard;
        }
        let tag = bhs.u32_at(20);
        if tag == RESERVED_TAG {
            return self.unsolicited(bhs, now);
        }
        let (id, _) = Tasks::untag(tag);
        let Some(task) = self.tasks.get(id) else {
            if !self.tasks.remembers(id) {
                self.reject(bhs, reason::FIELD, now);
            }
            return Place::Discard;
        };
        if task.aborted.is_some() || task.phase == Phase::Sending {
            return Place::Discard;
        }
        let Some(at) = solicited_at(task, bhs) else {
            self.reject(bhs, reason::FIELD, now);
            return Place::Discard;
        };
        match check(&task.bursts[at], bhs, true) {
            Ok(()) => Place::Task(id, bhs.u32_at(40)),
            Err(fault) => self.break_off(id, fault),
        }
    }

    fn unsolicited(&mut self, bhs: &Bhs, now: Instant) -> Place {
        let Some(id) = self.tasks.by_itt(bhs.itt()) else {
            if !self.tombstones.contains(&bhs.itt()) {
                self.reject(bhs, reason::FIELD, now);
            }
            return Place::Discard;
        };
        match self.tasks.get(id) {
            Some(task) if task.aborted.is_none() && task.phase != Phase::Sending => {
                let verdict = match &task.unsolicited {
                    Some(burst) => check(burst, bhs, false),
                    None => Err(Sense::UNEXPECTED_UNSOLICITED_DATA),
                };
                match verdict {
                    Ok(()) => Place::Task(id, bhs.u32_at(40)),
                    Err(fault) => self.break_off(id, fault),
                }
            }
            _ => Place::Discard,
        }
    }

    /// The memory for `len` bytes of a place; none when its task ended meanwhile.
    pub fn room(&mut self, place: Place, len: usize) -> Option<&mut [u8]> {
        let Place::Task(id, offset) = place else {
            return None;
        };
        let task = self.tasks.get_mut(id)?;
        let start = offset as usize;
        task.buffer
            .as_mut()?
            .get_mut(start..start.checked_add(len)?)
    }

    /// The data segment of a Data-Out is complete; `intact` when its digest was right.
    pub fn landed(&mut self, bhs: &Bhs, place: Place, intact: bool, now: Instant) {
        let Place::Task(id, _) = place else { return };
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.aborted.is_some() || task.phase == Phase::Sending {
            return;
        }
        if !intact {
            self.faults.data_digests += 1;
            self.reject(bhs, reason::DATA_DIGEST, now);
            self.break_off(id, Sense::PROTOCOL_CRC_ERROR);
            return;
        }
        let len = bhs.data_len();
        let last = bhs.flags() & 0x80 != 0;
        task.received += len;
        let at = solicited_at(task, bhs);
        let burst = match at {
            Some(at) => task.bursts.get_mut(at),
            None => task.unsolicited.as_mut(),
        };
        let Some(burst) = burst else { return };
        burst.next += len;
        burst.data_sn += 1;
        if last || burst.next == burst.end {
            match at {
                Some(at) => drop(task.bursts.remove(at)),
                None => task.unsolicited = None,
            }
        }
        self.progress(id);
    }

    /// Ends a task whose data is wrong. What else comes for it is swallowed.
    fn break_off(&mut self, id: TaskId, fault: Sense) -> Place {
        let owed = self.tasks.get(id).is_some_and(Task::owed);
        if owed {
            // Unsolicited data of a task that the logical unit is just looking at: it ends with its answer.
            if let Some(task) = self.tasks.get_mut(id) {
                task.unsolicited = None;
            }
            return Place::Discard;
        }
        self.purge_r2ts(id);
        self.finish(id, Reply::check(fault), None);
        Place::Discard
    }

    /// The logical unit takes `len` bytes; the initiator offers EDTL.
    pub(super) fn want(&mut self, id: TaskId, len: u32) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        task.wanted_out = len;
        task.need = if task.write { len.min(task.edtl) } else { 0 };
        let here = task.buffer.as_ref().map_or(0, |b| b.len());
        if task.need as usize > here {
            task.phase = Phase::Memory;
            let need = task.need as usize;
            self.actions.push_back(Output::WantData(id, need));
        } else {
            task.phase = Phase::Collect;
            self.progress(id);
        }
    }

    pub(super) fn granted(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.phase != Phase::Memory {
            return;
        }
        let need = task.need as usize;
        let mut whole = Buffer::take(need);
        if let Some(part) = &task.buffer {
            // What came so far, immediate and unsolicited, is less than what is needed.
            let here = part.len().min(need);
            whole[..here].copy_from_slice(&part[..here]);
        }
        task.buffer = Some(whole);
        task.phase = Phase::Collect;
        self.account(id, need);
        self.progress(id);
    }

    /// Asks for what is missing, or hands the data over when nothing is.
    fn progress(&mut self, id: TaskId) {
        let agreed = &self.options.negotiated;
        let (burst_max, r2t_max) = (agreed.max_burst.max(1), agreed.max_outstanding_r2t);
        let r2t_max = usize::from(r2t_max.clamp(1, limits::MAX_R2T));
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.phase != Phase::Collect || task.unsolicited.is_some() {
            return;
        }
        if task.next_r2t == 0 {
            task.next_r2t = task.received;
        }
        while task.bursts.len() < r2t_max && task.next_r2t < task.need {
            let end = task.need.min(task.next_r2t.saturating_add(burst_max));
            let burst = Burst {
                r2t_sn: task.data_sn,
                next: task.next_r2t,
                end,
                data_sn: 0,
            };
            task.data_sn += 1;
            task.next_r2t = end;
            task.bursts.push(burst);
            let header = r2t(id, task, &burst);
            self.urgent.push_back(Queued {
                status: false,
                ..Queued::status(header, Data::None)
            });
        }
        if task.bursts.is_empty() && task.received >= task.need {
            task.phase = Phase::Ready;
            let lun = task.lun;
            self.actions.push_back(Output::DataReady(id, lun));
        }
    }

    /// Takes back R2Ts that were not sent yet: nobody may be asked for data of an ended task.
    pub(super) fn purge_r2ts(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.bursts.is_empty() {
            return;
        }
        task.bursts.clear();
        let itt = task.itt;
        self.urgent
            .retain(|q| q.header.opcode() != op::R2T || q.header.itt() != itt);
    }
}

/// The burst that a Data-Out with a transfer tag belongs to.
fn solicited_at(task: &Task, bhs: &Bhs) -> Option<usize> {
    let tag = bhs.u32_at(20);
    if tag == RESERVED_TAG || task.itt != bhs.itt() {
        return None;
    }
    let (_, low) = Tasks::untag(tag);
    task.bursts.iter().position(|b| b.r2t_sn & 0x7f == low)
}

fn r2t(id: TaskId, task: &Task, burst: &Burst) -> Bhs {
    let mut header = Bhs::new(op::R2T);
    header.put_u8(1, 0x80);
    header.put_u64(8, task.lun);
    header.put_u32(16, task.itt);
    header.put_u32(20, Tasks::tag(id, burst.r2t_sn));
    header.put_u32(36, burst.r2t_sn);
    header.put_u32(40, burst.next);
    header.put_u32(44, burst.end - burst.next);
    header
}
