//! The initiator's side of the full feature phase, pure: commands out, PDUs in, completions out. It
//! checks what a strict initiator checks: sequence numbers, offsets, lengths, residuals.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::iscsi::frame::Encoder;
use crate::iscsi::params::Negotiated;
use crate::iscsi::pdu::{Bhs, RESERVED_TAG, op};
use crate::iscsi::serial::{CmdSn, StatSn};
use crate::limits::SEND_TARGETS_BYTES_MAX;

use super::offer::LoggedIn;
use super::{Error, ErrorKind};

/// The data of a command.
#[derive(Clone, Debug)]
pub enum Transfer {
    /// None.
    None,
    /// Data-In of at most `len` bytes. It is kept in the given vector, which is reused; without one it
    /// is counted and dropped (load generators).
    In(u32, Option<Vec<u8>>),
    /// Data-Out.
    Out(Arc<[u8]>),
}

/// A SCSI command.
#[derive(Clone, Debug)]
pub struct Command {
    /// LUN field.
    pub lun: u64,
    /// CDB, zero filled.
    pub cdb: [u8; 16],
    /// Its data.
    pub transfer: Transfer,
    /// Expected data transfer length; the transfer's own length unless a test says otherwise.
    pub edtl: u32,
    /// Task attribute (RFC 7143 11.3.1): 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA.
    pub attribute: u8,
    /// The I bit.
    pub immediate: bool,
    /// Comes back in [`Done`]; the caller's own.
    pub token: u64,
}

impl Command {
    /// A simple command to `lun` (0 to 255, peripheral addressing).
    #[must_use]
    pub fn new(lun: u8, cdb: &[u8], transfer: Transfer) -> Self {
        let mut whole = [0; 16];
        for (to, from) in whole.iter_mut().zip(cdb) {
            *to = *from;
        }
        let edtl = match &transfer {
            Transfer::None => 0,
            Transfer::In(len, _) => *len,
            Transfer::Out(data) => u32::try_from(data.len()).unwrap_or(u32::MAX),
        };
        Self {
            lun: u64::from(lun) << 48,
            cdb: whole,
            transfer,
            edtl,
            attribute: 1,
            immediate: false,
            token: 0,
        }
    }

    /// The same with a token.
    #[must_use]
    pub const fn token(mut self, token: u64) -> Self {
        self.token = token;
        self
    }
}

/// A command that the target answered.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Its initiator task tag.
    pub tag: u32,
    /// The caller's token.
    pub token: u64,
    /// iSCSI response code (0: the target executed it).
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Sense data, without its length field.
    pub sense: Vec<u8>,
    /// Data-In, when it was kept.
    pub data: Vec<u8>,
    /// Bytes of Data-In that came.
    pub received: u32,
    /// Bytes of Data-Out that were sent.
    pub sent: u32,
    /// Residual overflow (positive) or underflow (negative).
    pub residual: i64,
    /// Data-In PDUs and R2Ts seen.
    pub data_pdus: u32,
    /// R2Ts seen.
    pub r2ts: u32,
    /// The status came with the last Data-In.
    pub collapsed: bool,
}

/// Something the target said.
#[derive(Clone, Debug)]
pub enum Completion {
    /// A command is over.
    Command(Done),
    /// Answer to our NOP-Out.
    Nop {
        /// Its task tag.
        tag: u32,
        /// The echo.
        data: Vec<u8>,
    },
    /// Answer to task management.
    TaskManagement {
        /// Its task tag.
        tag: u32,
        /// Response code (RFC 7143 11.6.1).
        response: u8,
    },
    /// Answer to a text request, whole.
    Text {
        /// Its task tag.
        tag: u32,
        /// The text.
        data: Vec<u8>,
    },
    /// Answer to logout.
    Logout {
        /// Response code (RFC 7143 11.15.1).
        response: u8,
    },
    /// The target rejected a PDU.
    Reject {
        /// Reason (RFC 7143 11.17.1).
        reason: u8,
        /// The header it rejects.
        header: Vec<u8>,
    },
    /// Asynchronous message.
    Async {
        /// Event (RFC 7143 11.9.1).
        event: u8,
        /// Parameters 1 to 3.
        parameters: [u16; 3],
        /// Its data: sense for event 0.
        data: Vec<u8>,
    },
}

/// What a task tag stands for.
#[derive(Debug)]
enum Task {
    Command(Box<Running>),
    Nop,
    Management,
    Text(Vec<u8>),
    Logout,
}

#[derive(Debug)]
struct Running {
    command: Command,
    done: Done,
    /// Next DataSN or R2TSN: a task counts both together.
    next_sn: u32,
    /// Bytes of Data-In in the sequence that is open (RFC 7143 13.13).
    burst: u32,
}

/// The machine.
#[derive(Debug)]
pub struct Engine {
    agreed: Negotiated,
    encoder: Encoder,
    cmd_sn: CmdSn,
    exp_cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    exp_stat_sn: StatSn,
    tasks: Vec<(u16, Option<Task>)>,
    free: Vec<u16>,
    outstanding: usize,
    /// Bytes to send.
    pub(super) out: Vec<u8>,
    /// What the target said and no one took yet.
    pub(super) said: VecDeque<Completion>,
    /// Answer the target's pings by itself.
    pub answer_pings: bool,
    /// Take it for a fault when ExpDataSN is wrong, or StatSN where it does not count, or when Data-In
    /// goes on beyond MaxBurstLength without F. Off for foreign targets: tgt does all three.
    pub strict: bool,
}

impl Engine {
    /// After a login.
    #[must_use]
    pub fn new(login: &LoggedIn) -> Self {
        Self {
            agreed: login.agreed.clone(),
            encoder: Encoder::full_feature(&login.agreed),
            cmd_sn: CmdSn(login.cmd_sn),
            exp_cmd_sn: CmdSn(login.cmd_sn),
            max_cmd_sn: CmdSn(login.max_cmd_sn),
            exp_stat_sn: StatSn(login.exp_stat_sn),
            tasks: Vec::new(),
            free: Vec::new(),
            outstanding: 0,
            out: Vec::new(),
            said: VecDeque::new(),
            answer_pings: true,
            strict: true,
        }
    }

    /// Commands and other tasks that are not answered.
    #[must_use]
    pub const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Commands the target takes now beyond those sent.
    #[must_use]
    pub const fn window(&self) -> u32 {
        let open = self.max_cmd_sn.next().steps_from(self.cmd_sn);
        if open < 1 << 31 { open } else { 0 }
    }

    /// CmdSN of the next command that is not immediate.
    #[must_use]
    pub const fn cmd_sn(&self) -> u32 {
        self.cmd_sn.0
    }

    /// Tests only: the next command goes out with this CmdSN.
    pub const fn set_cmd_sn(&mut self, cmd_sn: u32) {
        self.cmd_sn = CmdSn(cmd_sn);
    }

    /// ExpStatSN of the next PDU.
    #[must_use]
    pub const fn exp_stat_sn(&self) -> u32 {
        self.exp_stat_sn.0
    }

    /// Queues a command with what data may go along at once. Its task tag, or an error when the window
    /// is closed.
    pub fn submit(&mut self, mut command: Command) -> Result<u32, Error> {
        if !command.immediate && self.window() == 0 {
            return Err(Error::new(
                ErrorKind::WindowClosed,
                "the command window is closed",
            ));
        }
        if let Transfer::In(_, Some(buffer)) = &mut command.transfer {
            buffer.clear();
        }
        let out = match &command.transfer {
            Transfer::Out(data) => Some(Arc::clone(data)),
            _ => None,
        };
        let out = out.as_deref().unwrap_or_default();
        let direction = match &command.transfer {
            Transfer::None => 0,
            Transfer::In(..) => 0x40,
            Transfer::Out(_) => 0x20,
        };
        let len = |limit: u32| out.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        let first = self.agreed.first_burst.min(command.edtl);
        let immediate = match self.agreed.immediate_data {
            true => len(first.min(self.agreed.target_mrdsl)),
            false => 0,
        };
        let unsolicited = if self.agreed.initial_r2t {
            immediate
        } else {
            len(first)
        };
        let mut bhs = self.request(op::SCSI_COMMAND, command.immediate);
        let last = if unsolicited > immediate { 0 } else { 0x80 };
        bhs.put_u8(1, last | direction | command.attribute & 7);
        bhs.put_u64(8, command.lun);
        bhs.put_u32(20, command.edtl);
        bhs.0[32..48].copy_from_slice(&command.cdb);
        let lun = command.lun;
        let done = Done {
            token: command.token,
            sent: u32::try_from(unsolicited).unwrap_or(u32::MAX),
            ..Done::default()
        };
        let tag = self.insert(Task::Command(Box::new(Running {
            command,
            done,
            next_sn: 0,
            burst: 0,
        })))?;
        bhs.put_u32(16, tag);
        let (now, _) = out.split_at(immediate);
        self.encoder.pdu(bhs, &[], now, &mut self.out);
        if unsolicited > immediate {
            self.data_out(
                tag,
                RESERVED_TAG,
                lun,
                immediate,
                out.get(immediate..unsolicited),
            );
        }
        Ok(tag)
    }

    /// Queues a ping.
    pub fn nop(&mut self, data: &[u8]) -> Result<u32, Error> {
        let mut bhs = self.request(op::NOP_OUT, true);
        let tag = self.insert(Task::Nop)?;
        bhs.put_u8(1, 0x80);
        bhs.put_u32(16, tag);
        bhs.put_u32(20, RESERVED_TAG);
        self.encoder.pdu(bhs, &[], data, &mut self.out);
        Ok(tag)
    }

    /// Queues a task management function (RFC 7143 11.5.1), immediate.
    pub fn task_management(
        &mut self,
        function: u8,
        lun: u8,
        referenced: u32,
    ) -> Result<u32, Error> {
        let mut bhs = self.request(op::TASK_MANAGEMENT, true);
        let tag = self.insert(Task::Management)?;
        bhs.put_u8(1, 0x80 | function);
        bhs.put_u64(8, u64::from(lun) << 48);
        bhs.put_u32(16, tag);
        bhs.put_u32(20, referenced);
        bhs.put_u32(32, self.cmd_sn.0);
        self.encoder.pdu(bhs, &[], &[], &mut self.out);
        Ok(tag)
    }

    /// Queues a text request that fits one PDU.
    pub fn text(&mut self, text: &[u8]) -> Result<u32, Error> {
        let mut bhs = self.request(op::TEXT, false);
        let tag = self.insert(Task::Text(Vec::new()))?;
        bhs.put_u8(1, 0x80);
        bhs.put_u32(16, tag);
        bhs.put_u32(20, RESERVED_TAG);
        self.encoder.pdu(bhs, &[], text, &mut self.out);
        Ok(tag)
    }

    /// Queues the logout of the session.
    pub fn logout(&mut self) -> Result<u32, Error> {
        let mut bhs = self.request(op::LOGOUT, true);
        let tag = self.insert(Task::Logout)?;
        bhs.put_u8(1, 0x80);
        bhs.put_u32(16, tag);
        self.encoder.pdu(bhs, &[], &[], &mut self.out);
        Ok(tag)
    }

    /// Forgets a task that will never be answered: one that was aborted.
    pub fn forget(&mut self, tag: u32) {
        let _ = self.remove(tag);
    }

    /// Queues a PDU as it is, for tests of bad manners.
    pub fn raw(&mut self, bhs: Bhs, ahs: &[u8], data: &[u8]) {
        self.encoder.pdu(bhs, ahs, data, &mut self.out);
    }

    /// A header with the sequence numbers of the moment.
    pub fn request(&mut self, opcode: u8, immediate: bool) -> Bhs {
        let mut bhs = Bhs::new(opcode | if immediate { 0x40 } else { 0 });
        bhs.put_u32(24, self.cmd_sn.0);
        bhs.put_u32(28, self.exp_stat_sn.0);
        if !immediate {
            self.cmd_sn = self.cmd_sn.next();
        }
        bhs
    }

    /// Queues `data` as Data-Out PDUs of one sequence.
    fn data_out(&mut self, tag: u32, ttt: u32, lun: u64, offset: usize, data: Option<&[u8]>) {
        let data = data.unwrap_or_default();
        let size = usize::try_from(self.agreed.target_mrdsl)
            .unwrap_or(8192)
            .max(512);
        let count = data.len().div_ceil(size);
        for (at, piece) in data.chunks(size).enumerate() {
            let mut bhs = Bhs::new(op::DATA_OUT);
            bhs.put_u8(1, if at + 1 == count { 0x80 } else { 0 });
            bhs.put_u64(8, lun);
            bhs.put_u32(16, tag);
            bhs.put_u32(20, ttt);
            bhs.put_u32(28, self.exp_stat_sn.0);
            bhs.put_u32(36, u32::try_from(at).unwrap_or(u32::MAX));
            bhs.put_u32(40, u32::try_from(offset + at * size).unwrap_or(u32::MAX));
            self.encoder.pdu(bhs, &[], piece, &mut self.out);
        }
    }

    fn insert(&mut self, task: Task) -> Result<u32, Error> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u16::try_from(self.tasks.len())
                    .ok()
                    .filter(|slot| *slot < u16::MAX);
                let full = || Error::new(ErrorKind::WindowClosed, "65,535 tasks are outstanding");
                self.tasks.push((0, None));
                slot.ok_or_else(full)?
            }
        };
        let Some((generation, place)) = self.tasks.get_mut(usize::from(slot)) else {
            return Err(protocol("a slot without a task"));
        };
        *generation = generation.wrapping_add(1);
        *place = Some(task);
        self.outstanding += 1;
        let tag = u32::from(*generation) << 16 | u32::from(slot);
        if let Some(Task::Command(running)) = place {
            running.done.tag = tag;
        }
        Ok(tag)
    }

    fn task(&mut self, tag: u32) -> Result<&mut Task, Error> {
        let unknown = || {
            protocol(format!(
                "the target answers task {tag:#x}, which is not open"
            ))
        };
        let [_, _, high, low] = tag.to_be_bytes();
        let slot = usize::from(u16::from_be_bytes([high, low]));
        match self.tasks.get_mut(slot) {
            Some((generation, Some(task))) if u32::from(*generation) == tag >> 16 => Ok(task),
            _ => Err(unknown()),
        }
    }

    fn remove(&mut self, tag: u32) -> Result<Task, Error> {
        self.task(tag)?;
        let [_, _, high, low] = tag.to_be_bytes();
        let slot = u16::from_be_bytes([high, low]);
        let task = self
            .tasks
            .get_mut(usize::from(slot))
            .and_then(|(_, task)| task.take());
        self.free.push(slot);
        self.outstanding -= 1;
        task.ok_or_else(|| protocol("a task vanished"))
    }

    fn command(&mut self, tag: u32) -> Result<&mut Running, Error> {
        match self.task(tag)? {
            Task::Command(running) => Ok(running),
            _ => Err(protocol(format!("task {tag:#x} is no SCSI command"))),
        }
    }

    /// Takes in a PDU of the target.
    pub fn hear(&mut self, bhs: &Bhs, data: &[u8]) -> Result<(), Error> {
        self.count(bhs)?;
        match bhs.opcode() {
            op::SCSI_RESPONSE => self.scsi_response(bhs, data),
            op::DATA_IN => self.data_in(bhs, data),
            op::R2T => self.r2t(bhs),
            op::NOP_IN => self.nop_in(bhs, data),
            op::TASK_MANAGEMENT_RESPONSE => match self.remove(bhs.itt())? {
                Task::Management => self.say(Completion::TaskManagement {
                    tag: bhs.itt(),
                    response: bhs.u8_at(2),
                }),
                _ => Err(protocol("a task management response to another task")),
            },
            op::LOGOUT_RESPONSE => match self.remove(bhs.itt())? {
                Task::Logout => self.say(Completion::Logout {
                    response: bhs.u8_at(2),
                }),
                _ => Err(protocol("a logout response to another task")),
            },
            op::TEXT_RESPONSE => self.text_response(bhs, data),
            op::REJECT => self.say(Completion::Reject {
                reason: bhs.u8_at(2),
                header: data.to_vec(),
            }),
            op::ASYNC => self.say(Completion::Async {
                event: bhs.u8_at(36),
                parameters: [bhs.u16_at(38), bhs.u16_at(40), bhs.u16_at(42)],
                data: data.to_vec(),
            }),
            other => Err(protocol(format!("the target sent opcode {other:#04x}"))),
        }
    }

    fn say(&mut self, completion: Completion) -> Result<(), Error> {
        self.said.push_back(completion);
        Ok(())
    }

    /// Sequence numbers: StatSN counts what has a status; others carry the next one. The window never
    /// shrinks.
    fn count(&mut self, bhs: &Bhs) -> Result<(), Error> {
        let stat_sn = StatSn(bhs.u32_at(24));
        let counts = match bhs.opcode() {
            op::R2T => false,
            op::DATA_IN => bhs.flags() & 1 != 0,
            op::NOP_IN => bhs.itt() != RESERVED_TAG,
            _ => true,
        };
        if stat_sn != self.exp_stat_sn && (counts || self.strict) {
            let wanted = self.exp_stat_sn;
            return Err(protocol(format!(
                "StatSN {stat_sn} in {bhs:?} where {wanted} is due"
            )));
        }
        if counts {
            self.exp_stat_sn = stat_sn.next();
        }
        let (exp, max) = (CmdSn(bhs.u32_at(28)), CmdSn(bhs.u32_at(32)));
        if exp.is_before(self.exp_cmd_sn) || max.is_before(self.max_cmd_sn) {
            return Err(protocol(format!(
                "ExpCmdSN or MaxCmdSN went back in {bhs:?}"
            )));
        }
        self.exp_cmd_sn = exp;
        self.max_cmd_sn = max;
        Ok(())
    }

    fn scsi_response(&mut self, bhs: &Bhs, data: &[u8]) -> Result<(), Error> {
        let tag = bhs.itt();
        let strict = self.strict;
        let running = self.command(tag)?;
        let exp_data_sn = bhs.u32_at(36);
        if strict && bhs.u8_at(2) == 0 && exp_data_sn != running.next_sn {
            let seen = running.next_sn;
            return Err(protocol(format!(
                "ExpDataSN {exp_data_sn}, but {seen} PDUs came"
            )));
        }
        let sense = match data.split_first_chunk::<2>() {
            None if data.is_empty() => Vec::new(),
            Some((&len, rest)) if usize::from(u16::from_be_bytes(len)) <= rest.len() => rest
                .split_at(usize::from(u16::from_be_bytes(len)))
                .0
                .to_vec(),
            _ => return Err(protocol("a SenseLength that runs past the data segment")),
        };
        running.done.sense = sense;
        running.done.response = bhs.u8_at(2);
        self.finish(bhs)
    }

    fn data_in(&mut self, bhs: &Bhs, data: &[u8]) -> Result<(), Error> {
        let max_burst = self.agreed.max_burst;
        let strict = self.strict;
        let running = self.command(bhs.itt())?;
        let (data_sn, offset) = (bhs.u32_at(36), bhs.u32_at(40));
        if data_sn != running.next_sn {
            return Err(protocol(format!(
                "DataSN {data_sn} where {} is due",
                running.next_sn
            )));
        }
        running.next_sn += 1;
        let done = &mut running.done;
        let len = bhs.data_len();
        if offset != done.received
            || u64::from(offset) + u64::from(len) > running.command.edtl.into()
        {
            return Err(protocol(format!(
                "Data-In of {len} bytes at {offset} is out of place"
            )));
        }
        let Transfer::In(_, buffer) = &mut running.command.transfer else {
            return Err(protocol("Data-In for a command that reads nothing"));
        };
        if let Some(buffer) = buffer {
            buffer.extend_from_slice(data);
        }
        done.received += len;
        done.data_pdus += 1;
        running.burst += len;
        if strict && running.burst > max_burst {
            return Err(protocol("a Data-In sequence above MaxBurstLength"));
        }
        let last = bhs.flags() & 0x80 != 0;
        if last {
            running.burst = 0;
        }
        match bhs.flags() & 1 != 0 {
            true if !last => Err(protocol("a Data-In with S and without F")),
            true => {
                running.done.collapsed = true;
                self.finish(bhs)
            }
            false => Ok(()),
        }
    }

    /// Status and residual, from a SCSI Response or a Data-In with S.
    fn finish(&mut self, bhs: &Bhs) -> Result<(), Error> {
        let Task::Command(running) = self.remove(bhs.itt())? else {
            return Err(protocol("a SCSI response to another task"));
        };
        let Running {
            command, mut done, ..
        } = *running;
        let residual = i64::from(bhs.u32_at(44));
        done.status = bhs.u8_at(3);
        done.residual = match (bhs.flags() & 4 != 0, bhs.flags() & 2 != 0) {
            (true, true) => return Err(protocol("residual overflow and underflow at once")),
            (true, false) => residual,
            (false, true) => -residual,
            (false, false) => 0,
        };
        let edtl = i64::from(command.edtl);
        if done.residual < -edtl {
            return Err(protocol("a residual underflow above what was expected"));
        }
        if let Transfer::In(_, buffer) = command.transfer {
            let expected = edtl + done.residual.min(0);
            if done.status == 0 && done.response == 0 && i64::from(done.received) != expected {
                let received = done.received;
                let context = format!("{received} bytes came, {expected} are due by the residual");
                return Err(protocol(context));
            }
            done.data = buffer.unwrap_or_default();
        }
        self.say(Completion::Command(done))
    }

    fn r2t(&mut self, bhs: &Bhs) -> Result<(), Error> {
        let tag = bhs.itt();
        let max_burst = self.agreed.max_burst;
        let running = self.command(tag)?;
        let (r2t_sn, offset, len) = (bhs.u32_at(36), bhs.u32_at(40), bhs.u32_at(44));
        if r2t_sn != running.next_sn {
            return Err(protocol(format!(
                "R2TSN {r2t_sn} where {} is due",
                running.next_sn
            )));
        }
        running.next_sn += 1;
        running.done.r2ts += 1;
        let end = u64::from(offset) + u64::from(len);
        let bad = len == 0 || len > max_burst || end > running.command.edtl.into();
        if bad || offset != running.done.sent || bhs.data_len() != 0 || bhs.ttt() == RESERVED_TAG {
            return Err(protocol(format!(
                "an R2T of {len} bytes at {offset} is out of place"
            )));
        }
        let Transfer::Out(data) = &running.command.transfer else {
            return Err(protocol("an R2T for a command that writes nothing"));
        };
        running.done.sent += len;
        let (data, lun) = (Arc::clone(data), running.command.lun);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        let piece = data.get(start..end);
        if piece.is_none() {
            return Err(protocol("an R2T for more than the command holds"));
        }
        self.data_out(tag, bhs.ttt(), lun, start, piece);
        Ok(())
    }

    fn nop_in(&mut self, bhs: &Bhs, data: &[u8]) -> Result<(), Error> {
        if bhs.itt() != RESERVED_TAG {
            return match self.remove(bhs.itt())? {
                Task::Nop => self.say(Completion::Nop {
                    tag: bhs.itt(),
                    data: data.to_vec(),
                }),
                _ => Err(protocol("a NOP-In that answers another task")),
            };
        }
        if bhs.ttt() != RESERVED_TAG && self.answer_pings {
            let mut pong = self.request(op::NOP_OUT, true);
            pong.put_u8(1, 0x80);
            pong.put_u64(8, bhs.lun());
            pong.put_u32(16, RESERVED_TAG);
            pong.put_u32(20, bhs.ttt());
            self.encoder.pdu(pong, &[], data, &mut self.out);
        }
        Ok(())
    }

    fn text_response(&mut self, bhs: &Bhs, data: &[u8]) -> Result<(), Error> {
        let tag = bhs.itt();
        let Task::Text(text) = self.task(tag)? else {
            return Err(protocol("a text response to another task"));
        };
        if text.len() > 2 * SEND_TARGETS_BYTES_MAX {
            return Err(protocol("a text response without end"));
        }
        text.extend_from_slice(data);
        let more = bhs.flags() & 0x40 != 0;
        let last = bhs.flags() & 0x80 != 0;
        if more == last || last != (bhs.ttt() == RESERVED_TAG) {
            return Err(protocol(format!(
                "a text response with wrong flags or tag: {bhs:?}"
            )));
        }
        if last {
            let data = std::mem::take(text);
            self.remove(tag)?;
            return self.say(Completion::Text { tag, data });
        }
        let mut next = self.request(op::TEXT, false);
        next.put_u8(1, 0x80);
        next.put_u32(16, tag);
        next.put_u32(20, bhs.ttt());
        self.encoder.pdu(next, &[], &[], &mut self.out);
        Ok(())
    }
}

fn protocol(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, context)
}

#[cfg(test)]
#[path = "engine_test.rs"]
mod test;
