//! The full feature phase of one connection as a pure machine (RFC 7143 sections 4, 7, 10, 11).
//!
//! The shell feeds received PDUs and the results of what it was asked to do; `poll` says what to do next and
//! which urgent PDU to send, `poll_queued` yields the answers in their order, one PDU at a time, whenever the
//! socket has room. Sequence numbers are given at that moment, so the order on the wire is theirs.
//!
//! A READ that hits memory: `apply(Pdu)`, `poll` = Execute, `apply(Step)`, `poll` = Run, `apply(Done)`,
//! `poll_queued` = Data-In, all within one poll of the connection's task.

mod command;
mod data;
mod leave;
mod manage;
mod talk;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

pub use manage::lun_number;

use super::params::{Negotiated, SessionType};
use super::pdu::{BHS_BYTES, Bhs, RESERVED_TAG, op};
use super::serial::{CmdSn, StatSn};
use super::session::{Arrival, Numbers};
pub use super::task::TaskId;
use super::task::{Tasks, clip};
use super::text::{self, Text};
use crate::limits;
use crate::names::Iqn;
use crate::scsi::{BlockOp, Reply, Step};
use crate::store::{Buffer, Payload};
use crate::units::ByteRange;

/// Reject reasons (RFC 7143 11.17.1).
mod reason {
    pub(super) const DATA_DIGEST: u8 = 0x02;
    pub(super) const SNACK: u8 = 0x03;
    pub(super) const PROTOCOL: u8 = 0x04;
    pub(super) const UNSUPPORTED: u8 = 0x05;
    pub(super) const IMMEDIATES: u8 = 0x06;
    pub(super) const TASK_IN_PROGRESS: u8 = 0x07;
    pub(super) const FIELD: u8 = 0x09;
}

/// Settings of the machine, from the login.
#[derive(Clone, Debug)]
pub struct Options {
    /// What was agreed.
    pub negotiated: Negotiated,
    /// The session's target; none in a discovery session, where there is no SCSI.
    pub target: Option<Iqn>,
    /// Portal group, as SendTargets tells it.
    pub portal_group: u16,
    /// Connection id.
    pub cid: u16,
    /// CmdSN of the first command.
    pub cmd_sn: u32,
    /// StatSN of the first status.
    pub stat_sn: u32,
    /// LUNs that exist, for task management.
    pub luns: Vec<u16>,
    /// The initiator is not firmware: it may be pinged, and told of a drain (iPXE and EDK2 answer
    /// no ping, and drop the session on a PDU that they do not know).
    pub talkative: bool,
}

impl Options {
    const fn session_type(&self) -> SessionType {
        match self.target {
            Some(_) => SessionType::Normal,
            None => SessionType::Discovery,
        }
    }
}

/// What the machine hears.
#[derive(Debug)]
pub enum Event<'a> {
    /// A PDU with its whole data segment. Not for Data-Out: that goes through `data_out`, `room`, `landed`.
    Pdu {
        /// Its header.
        bhs: &'a Bhs,
        /// Additional header segments.
        ahs: &'a [u8],
        /// Data segment.
        data: Incoming<'a>,
        /// The data digest was right, or there is none.
        intact: bool,
    },
    /// The logical unit's answer to `Execute` or `DataReady`.
    Step(TaskId, Step),
    /// The answer to `WantData`: the memory may be used.
    Granted(TaskId),
    /// The end of `Run`: reply, and payload of a READ.
    Done(TaskId, Reply, Option<Payload>),
    /// The end of `Manage`: response code (RFC 7143 11.6.1).
    Managed(u32, u8),
    /// The answer to `SendTargets`.
    Listed(Vec<text::Found>),
    /// Another session cleared or reset a logical unit (or all): end its tasks silently, then `Cleared`.
    ClearedByOther {
        /// Which; all when none.
        lun: Option<u16>,
        /// Answer them with TASK ABORTED (TAS of the control mode page) instead of silence.
        tell: bool,
        /// Comes back in `Cleared`.
        ticket: u64,
    },
    /// Time has passed.
    Tick,
    /// The head wants this session to leave.
    Drain,
    /// It may stay after all.
    Stay,
    /// The head stops: what was begun is finished, then the connection closes.
    Finish,
}

/// Received bytes: borrowed from the receive buffer, or read straight into a buffer of their own.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// In the receive buffer.
    Slice(&'a [u8]),
    /// In a buffer that the task may keep.
    Owned(Buffer),
    /// So many came, but there was no memory to keep them.
    Dropped(usize),
}

impl Incoming<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Slice(bytes) => bytes,
            Self::Owned(buffer) => buffer,
            Self::Dropped(_) => &[],
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Dropped(len) => *len,
            kept => kept.bytes().len(),
        }
    }
}

/// A PDU to send. The sender pads and adds digests.
#[derive(Debug)]
pub struct Pdu {
    /// Header, complete.
    pub header: Bhs,
    /// Data segment.
    pub data: Data,
}

/// A data segment.
#[derive(Clone, Debug)]
pub enum Data {
    /// None.
    None,
    /// Few bytes.
    Inline(Vec<u8>),
    /// A part of a payload.
    Payload(Payload, Range<usize>),
}

impl Data {
    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Inline(bytes) => bytes.len(),
            Self::Payload(_, range) => range.len(),
        }
    }

    /// True without any byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes in order; some pieces may be empty.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (inline, payload) = match self {
            Self::None => (&[][..], None),
            Self::Inline(bytes) => (&bytes[..], None),
            Self::Payload(payload, range) => (&[][..], Some(payload.pieces(range.clone()))),
        };
        std::iter::once(inline).chain(payload.into_iter().flatten())
    }
}

/// What the shell must do next.
#[derive(Debug)]
pub enum Output {
    /// Send this now, before what is queued.
    Send(Pdu),
    /// Ask the logical unit at this LUN field: `begin` with `cdb(task)`, then `Event::Step`.
    Execute(TaskId, u64),
    /// The task wants this many bytes of memory for its data-out: `Event::Granted` when there is some.
    WantData(TaskId, usize),
    /// Its data-out is here: `data_out` with `cdb(task)` and `data(task)`, then `Event::Step`.
    DataReady(TaskId, u64),
    /// Run this on the volume, with `take_data(task)` when it writes, then `Event::Done`.
    Run(TaskId, u64, BlockOp),
    /// Carry out a management function beyond this connection, then `Event::Managed`.
    Manage(u32, Management),
    /// Find these targets, then `Event::Listed`.
    SendTargets(text::Wanted),
    /// The tasks that `ClearedByOther` named are over.
    Cleared(u64),
    /// Close the connection, after what was sent is flushed.
    Close(Why),
}

/// Management functions that concern other sessions or the logical unit itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Management {
    /// CLEAR TASK SET.
    ClearTaskSet(u16),
    /// LOGICAL UNIT RESET.
    LunReset(u16),
    /// TARGET WARM RESET.
    WarmReset,
    /// TARGET COLD RESET: all connections are closed afterwards.
    ColdReset,
}

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The initiator logged out.
    Logout,
    /// A target cold reset.
    ColdReset,
    /// The head is drained.
    Drained,
    /// The head stops.
    Stopping,
    /// A ping was not answered.
    Silent,
    /// It was asked for data and sends nothing.
    Stalled,
    /// A discovery session that asks nothing.
    Idle,
    /// It broke the protocol so that nothing after it can be trusted.
    Protocol(&'static str),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logout => f.write_str("logout"),
            Self::ColdReset => f.write_str("target cold reset"),
            Self::Drained => f.write_str("drained"),
            Self::Stopping => f.write_str("the head stops"),
            Self::Silent => f.write_str("silent: no answer to a ping"),
            Self::Stalled => f.write_str("stalled: no data came that was asked for"),
            Self::Idle => f.write_str("idle: a discovery session that asked nothing"),
            Self::Protocol(what) => write!(f, "error: {what}"),
        }
    }
}

/// Where received Data-Out bytes belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into this task's buffer.
    Task(TaskId, u32),
    /// Nowhere: their task is over, or they were wrong.
    Discard,
}

/// A PDU that waits for its sequence numbers.
#[derive(Debug)]
struct Queued {
    header: Bhs,
    data: Data,
    /// It consumes a StatSN.
    status: bool,
    /// It ends an immediate command.
    immediate: bool,
    /// The connection closes after it.
    close: Option<Why>,
}

impl Queued {
    const fn status(header: Bhs, data: Data) -> Self {
        Self {
            header,
            data,
            status: true,
            immediate: false,
            close: None,
        }
    }
}

#[derive(Debug)]
enum Answer {
    Task(TaskId),
    Pdu(Queued),
}

/// What is known about a peer's answers to pings.
#[derive(Clone, Copy, Debug)]
enum Ping {
    /// Never asked.
    Untried,
    /// Asked for the first time; silence means nothing.
    Trial,
    /// It answers.
    Answers,
    /// It was asked then and has not answered yet, though it did before.
    Asked(Instant),
}

/// Faults of a peer, counted until the shell takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// PDUs that were rejected.
    pub rejects: u64,
    /// Data segments whose digest was wrong.
    pub data_digests: u64,
}

#[derive(Debug)]
enum State {
    Open,
    /// A Logout waits for running operations; no more commands.
    LoggingOut,
    Closing(Why),
    Closed,
}

/// The machine.
#[derive(Debug)]
pub struct Connection {
    options: Options,
    state: State,
    numbers: Numbers,
    tasks: Tasks,
    actions: VecDeque<Output>,
    urgent: VecDeque<Queued>,
    answers: VecDeque<Answer>,
    /// Reads that wait for room in the send queue.
    reads: VecDeque<(TaskId, ByteRange)>,
    /// Bytes of reads that run or wait for the socket.
    backlog: usize,
    /// Bytes of buffers and payloads.
    memory: usize,
    /// Bytes that the next command may bring or announce.
    allowance: usize,
    /// Immediate commands that are not answered.
    immediates: u32,
    /// Tasks not begun because of an ORDERED one.
    held: VecDeque<TaskId>,
    active: u32,
    ordered_active: bool,
    pending: Vec<manage::Pending>,
    next_function: u32,
    tombstones: [u32; limits::TOMBSTONES],
    next_tombstone: usize,
    text: Text,
    /// The text request that waits for `Event::Listed` was an immediate one.
    text_immediate: bool,
    rejects: u32,
    rejects_since: Option<Instant>,
    ping: Ping,
    heard: Option<Instant>,
    leaving: leave::Leaving,
    faults: Faults,
}

impl Connection {
    /// A connection whose login has just been finished.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            state: State::Open,
            numbers: Numbers::new(
                CmdSn(options.cmd_sn),
                StatSn(options.stat_sn),
                limits::COMMAND_WINDOW,
            ),
            tasks: Tasks::default(),
            actions: VecDeque::new(),
            urgent: VecDeque::new(),
            answers: VecDeque::new(),
            reads: VecDeque::new(),
            backlog: 0,
            memory: 0,
            allowance: usize::MAX,
            immediates: 0,
            held: VecDeque::new(),
            active: 0,
            ordered_active: false,
            pending: Vec::new(),
            next_function: 0,
            tombstones: [RESERVED_TAG; limits::TOMBSTONES],
            next_tombstone: 0,
            text: Text::new(
                options.session_type(),
                options.target.clone(),
                options.portal_group,
                &options.negotiated,
            ),
            text_immediate: false,
            rejects: 0,
            rejects_since: None,
            ping: Ping::Untried,
            heard: None,
            leaving: leave::Leaving::No,
            faults: Faults::default(),
            options,
        }
    }

    /// Takes in an event.
    pub fn apply(&mut self, event: Event<'_>, now: Instant) {
        match event {
            Event::Pdu {
                bhs,
                ahs,
                data,
                intact,
            } => self.pdu(bhs, ahs, data, intact, now),
            Event::Step(task, step) => self.step(task, step),
            Event::Granted(task) => self.granted(task),
            Event::Done(task, reply, payload) => self.finish(task, reply, payload),
            Event::Managed(function, response) => self.managed(function, response),
            Event::Listed(list) => self.listed(&list),
            Event::ClearedByOther { lun, tell, ticket } => {
                self.cleared_by_other(lun, tell, ticket, now);
            }
            // Nothing is asked of a peer that was told the end.
            Event::Tick | Event::Drain if self.is_closing() => {}
            Event::Tick => self.tick(now),
            Event::Drain => self.drain(now),
            Event::Stay => self.stay(),
            Event::Finish => self.run_dry(now, Why::Stopping),
        }
    }

    /// What to do next, and urgent PDUs; call until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        if self.is_closing() {
            return self.poll_closing();
        }
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if let Some(read) = self.next_read() {
            return Some(read);
        }
        if let Some(queued) = self.urgent.pop_front() {
            return Some(Output::Send(self.stamp(queued)));
        }
        self.close_when_dry()
    }

    /// The next PDU of the answers, in order. Call it when the socket has room.
    pub fn poll_queued(&mut self) -> Option<Pdu> {
        if self.is_closing() {
            // What ends now ends in silence.
            return None;
        }
        loop {
            match self.answers.front()? {
                Answer::Pdu(_) => {
                    let Some(Answer::Pdu(mut queued)) = self.answers.pop_front() else {
                        return None;
                    };
                    let close = queued.close.take();
                    let pdu = self.stamp(queued);
                    if let Some(why) = close {
                        self.close(why);
                    }
                    return Some(pdu);
                }
                Answer::Task(id) => {
                    let id = *id;
                    if let Some(pdu) = self.next_part(id) {
                        return Some(pdu);
                    }
                    self.answers.pop_front();
                }
            }
        }
    }

    /// True while `poll_queued` may yield something.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        !self.answers.is_empty() && !self.is_closing()
    }

    const fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing(_) | State::Closed)
    }

    /// The command block of a task; empty when it is gone.
    #[must_use]
    pub fn cdb(&self, task: TaskId) -> &[u8] {
        self.tasks.get(task).map_or(&[], |t| t.cdb())
    }

    /// Bytes of data-out that the initiator announced.
    #[must_use]
    pub fn expected_out(&self, task: TaskId) -> u32 {
        let writes = self.tasks.get(task).filter(|t| t.write);
        writes.map_or(0, |t| t.edtl)
    }

    /// The data-out of a task that is ready; empty when it is gone.
    #[must_use]
    pub fn data(&self, task: TaskId) -> &[u8] {
        self.tasks
            .get(task)
            .and_then(|t| t.buffer.as_ref()?.get(..t.need as usize))
            .unwrap_or_default()
    }

    /// Takes the data-out of a task away, for a job on another thread: buffer, and how much of it counts.
    pub fn take_data(&mut self, task: TaskId) -> Option<(Buffer, usize)> {
        let task = self.tasks.get_mut(task)?;
        let need = task.need as usize;
        task.buffer.take().map(|buffer| (buffer, need))
    }

    /// True when nobody waits for the task's result any more: it was aborted, or is gone.
    #[must_use]
    pub fn is_aborted(&self, task: TaskId) -> bool {
        self.tasks.get(task).is_none_or(|t| t.aborted.is_some())
    }

    /// False while so many PDUs wait for the socket that no more input should be taken.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.urgent.len() < limits::URGENT_QUEUE_MAX
            && self.answers.len() < limits::ANSWERS_MAX
            && !self.is_closing()
    }

    /// Bytes of buffers and payloads it holds.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.memory
    }

    /// The next command may bring or announce at most so many bytes that must be kept; one that wants more
    /// is answered TASK SET FULL.
    pub const fn allow(&mut self, bytes: usize) {
        self.allowance = bytes;
    }

    /// Commands that are not finished.
    #[must_use]
    pub const fn open_tasks(&self) -> usize {
        self.tasks.len()
    }

    /// True while memory is held for data that the initiator owes.
    #[must_use]
    pub fn awaits_data(&self) -> bool {
        self.tasks
            .ids()
            .filter_map(|id| self.tasks.get(id))
            .any(|task| !task.bursts.is_empty() || task.unsolicited.is_some())
    }

    /// Gives back what an idle connection does not need.
    pub fn shrink(&mut self) {
        self.tasks.shrink();
        self.actions.shrink_to(4);
        self.urgent.shrink_to(4);
        self.answers.shrink_to(4);
    }

    fn poll_closing(&mut self) -> Option<Output> {
        if matches!(self.state, State::Closed) {
            // A task that goes on behind the end may ask for data; nobody is asked any more.
            return None;
        }
        if let Some(queued) = self.urgent.pop_front() {
            return Some(Output::Send(self.stamp(queued)));
        }
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Closing(why) => Some(Output::Close(why)),
            _ => None,
        }
    }

    /// Gives a PDU its sequence numbers. Every PDU carries all three (RFC 7143 11.1): iPXE
    /// takes them from whatever PDU came last.
    fn stamp(&mut self, mut queued: Queued) -> Pdu {
        if queued.immediate {
            self.immediates = self.immediates.saturating_sub(1);
        }
        self.number(&mut queued.header, queued.status);
        Pdu {
            header: queued.header,
            data: queued.data,
        }
    }

    fn number(&mut self, header: &mut Bhs, status: bool) {
        let stat_sn = if status {
            self.numbers.take_stat_sn()
        } else {
            self.numbers.stat_sn()
        };
        let (first, last) = (self.numbers.exp_cmd_sn(), self.numbers.max_cmd_sn());
        header.put_sequence(stat_sn.0, first.0, last.0);
    }

    fn pdu(&mut self, bhs: &Bhs, ahs: &[u8], data: Incoming<'_>, intact: bool, now: Instant) {
        self.heard = Some(now);
        if !matches!(self.state, State::Open) {
            return;
        }
        // Before it takes its place: a command that is rejected was never received, and its CmdSN is free for
        // the initiator to send it again (RFC 7143 7.3).
        if !intact {
            self.faults.data_digests += 1;
            self.reject(bhs, reason::DATA_DIGEST, now);
            return;
        }
        if !self.admit(bhs, now) {
            return;
        }
        match bhs.opcode() {
            op::SCSI_COMMAND if self.options.target.is_some() => self.command(bhs, ahs, data, now),
            op::TASK_MANAGEMENT if self.options.target.is_some() => self.manage(bhs, now),
            op::NOP_OUT => self.nop(bhs, data.bytes()),
            op::TEXT => self.talk(bhs, data.bytes(), now),
            op::LOGOUT => self.logout(bhs, now),
            op::SNACK => self.reject(bhs, reason::SNACK, now),
            op::LOGIN | op::DATA_OUT => self.reject(bhs, reason::PROTOCOL, now),
            _ => self.reject(bhs, reason::UNSUPPORTED, now),
        }
    }

    /// Places a PDU in the CmdSN window; false when it ends here.
    fn admit(&mut self, bhs: &Bhs, now: Instant) -> bool {
        let numbered = matches!(
            bhs.opcode(),
            op::SCSI_COMMAND | op::TASK_MANAGEMENT | op::NOP_OUT | op::TEXT | op::LOGOUT
        );
        if !numbered {
            return true;
        }
        if bhs.immediate() {
            // An answer to a ping takes no place; everything else waits for its answer.
            let answer = bhs.opcode() == op::NOP_OUT && bhs.itt() == RESERVED_TAG;
            if !answer && self.immediates >= limits::IMMEDIATE_MAX {
                self.reject(bhs, reason::IMMEDIATES, now);
                return false;
            }
            return true;
        }
        match self.numbers.place(CmdSn(bhs.cmd_sn())) {
            Arrival::InOrder => {
                self.numbers.take();
                true
            }
            Arrival::Outside => false,
            Arrival::Gap => {
                self.close(Why::Protocol("a command number was skipped"));
                false
            }
        }
    }

    /// NOP-Out (RFC 7143 11.18): an echo, or the answer to a ping.
    fn nop(&mut self, bhs: &Bhs, data: &[u8]) {
        if bhs.u32_at(20) != RESERVED_TAG {
            self.ping = Ping::Answers;
        }
        if bhs.itt() == RESERVED_TAG {
            return;
        }
        let len = data
            .len()
            .min(self.options.negotiated.initiator_mrdsl as usize);
        let mut header = Bhs::new(op::NOP_IN);
        header.put_u8(1, 0x80);
        header.put_u32(16, bhs.itt());
        header.put_u32(20, RESERVED_TAG);
        header.set_data_len(clip(len));
        let data = match data.get(..len) {
            Some(echo) if len > 0 => Data::Inline(echo.to_vec()),
            _ => Data::None,
        };
        let immediate = self.count_immediate(bhs);
        self.urgent.push_back(Queued {
            immediate,
            ..Queued::status(header, data)
        });
    }

    /// Counts an immediate command that waits for its answer; tells whether `bhs` is one.
    const fn count_immediate(&mut self, bhs: &Bhs) -> bool {
        if bhs.immediate() {
            self.immediates += 1;
        }
        bhs.immediate()
    }

    /// Reject (RFC 7143 11.17), with the header that earned it. Too many of them end the connection.
    fn reject(&mut self, bhs: &Bhs, reason: u8, now: Instant) {
        let minute = Duration::from_secs(60);
        if self
            .rejects_since
            .is_none_or(|since| now.duration_since(since) > minute)
        {
            self.rejects_since = Some(now);
            self.rejects = 0;
        }
        self.rejects += 1;
        self.faults.rejects += 1;
        if self.rejects > limits::REJECTS_PER_MINUTE {
            self.close(Why::Protocol("too many rejected PDUs"));
            return;
        }
        let mut header = Bhs::new(op::REJECT);
        header.put_u8(1, 0x80);
        header.put_u8(2, reason);
        header.put_u32(16, RESERVED_TAG);
        header.set_data_len(clip(BHS_BYTES));
        self.urgent
            .push_back(Queued::status(header, Data::Inline(bhs.0.to_vec())));
    }

    /// Ends the connection now: nothing that was queued is trusted to matter any more.
    fn close(&mut self, why: Why) {
        if self.is_closing() {
            return;
        }
        self.actions.clear();
        self.answers.clear();
        self.reads.clear();
        self.state = State::Closing(why);
    }

    fn tick(&mut self, now: Instant) {
        self.expire(now);
        if self.leave_in_time(now) {
            return;
        }
        let heard = *self.heard.get_or_insert(now);
        if now.duration_since(heard) >= limits::SEND_STALL && self.awaits_data() {
            self.close(Why::Stalled);
            return;
        }
        let quiet = now.duration_since(heard) >= limits::DISCOVERY_IDLE;
        if self.options.target.is_none() && quiet {
            self.close(Why::Idle);
            return;
        }
        match self.ping {
            Ping::Asked(since) if heard > since => self.ping = Ping::Answers,
            Ping::Asked(since) if now.duration_since(since) >= limits::PING_WAIT => {
                self.close(Why::Silent);
            }
            Ping::Untried | Ping::Answers
                if self.options.talkative && now.duration_since(heard) >= limits::PING_AFTER =>
            {
                self.ping = match self.ping {
                    Ping::Untried => Ping::Trial,
                    _ => Ping::Asked(now),
                };
                self.send_ping();
            }
            _ => {}
        }
    }

    /// NOP-In that wants an answer; StatSN is not advanced by it (RFC 7143 11.19).
    fn send_ping(&mut self) {
        let mut header = Bhs::new(op::NOP_IN);
        header.put_u8(1, 0x80);
        header.put_u32(16, RESERVED_TAG);
        header.put_u32(20, 0x5049_4e47);
        self.urgent.push_back(Queued {
            status: false,
            ..Queued::status(header, Data::None)
        });
    }
}

#[cfg(test)]
mod test;
