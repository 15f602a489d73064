//! Carries out what the connection machine asks for: the logical unit's answers, warm reads at once, and
//! everything that may block on the store's pool. Used by one connection's task only.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::budget::Account;
use super::connection::{Connection, Event, Management, Output, TaskId};
use super::driver::{Handle, Note};
use super::jobs::{self, Finished, Item};
use super::login::Ask;
use super::mailbox;
use super::ops;
use super::recorder::Tape;
use super::reserve::{self, Change};
use super::sanitize;
use super::shared::Shared;
use super::target::{LUNS, Session, Unit};
use super::text;
use crate::events::EventKind;
use crate::limits;
use crate::scsi::{self, BlockOp, Failure, Outcome, Reply, Step, Wipe, status};
use crate::store::{Buffer, ErrorKind, Payload};
use crate::units::{ByteRange, UnixMillis};

/// Something that ended elsewhere.
#[derive(Debug)]
pub(super) enum Completion {
    /// A job of the pool.
    Io(Vec<Finished>),
    /// The same, of gathered writes.
    Written(Vec<Finished>),
    /// Other sessions have ended what a management function names, or did not in time.
    Others(u32, Management, bool),
    /// A PERSISTENT RESERVE OUT was carried out.
    Reserved(TaskId, Step),
    /// The sanitize operation that a task waits for has ended, well or not.
    Sanitized(TaskId, bool),
}

/// Waits for memory, since then.
#[derive(Debug)]
struct Deferred {
    since: Instant,
    task: TaskId,
    what: Wanted,
}

#[derive(Debug)]
enum Wanted {
    Data(usize),
    Read(u64, ByteRange),
}

#[derive(Debug, Default)]
struct Counts {
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
    warm: u64,
    cold: u64,
    busy: u64,
    /// When the poll of the warm reads began.
    warm_since: Option<Instant>,
}

/// The worker side of one connection.
#[derive(Debug)]
pub(super) struct Executor {
    shared: Arc<Shared>,
    ask: Ask,
    session: Option<Session>,
    done: mailbox::Sender<Completion>,
    batch: Vec<Item>,
    /// Bytes of the batch.
    batch_bytes: u64,
    /// Jobs of gathered writes that have not come back.
    writing: usize,
    /// One has, since `submit_batch` looked last.
    came_back: bool,
    deferred: VecDeque<Deferred>,
    deferred_bytes: usize,
    /// Since when no command has got the memory that it wanted.
    short_since: Option<Instant>,
    in_flight: usize,
    /// Its part of the server's memory.
    account: Account,
    /// Bytes that the connection holds beside its tasks: grown receive buffer, short answers.
    beside: usize,
    counts: Counts,
    session_read: u64,
    session_written: u64,
    /// Set when the volume can serve this session no longer.
    lost: Option<&'static str>,
    told_failure: bool,
    /// Notes what is done, while its node is recorded.
    pub(super) tape: Tape,
}

impl Executor {
    pub(super) fn new(
        shared: Arc<Shared>,
        ask: Ask,
        session: Option<Session>,
        done: mailbox::Sender<Completion>,
    ) -> Self {
        let node = session.as_ref().map(|s| &s.node.name);
        Self {
            account: shared.budget.open(node),
            tape: Tape::at_login(&shared.recorders, session.as_ref()),
            beside: 0,
            shared,
            ask,
            session,
            done,
            batch: Vec::new(),
            batch_bytes: 0,
            writing: 0,
            came_back: false,
            deferred: VecDeque::new(),
            deferred_bytes: 0,
            short_since: None,
            in_flight: 0,
            counts: Counts::default(),
            session_read: 0,
            session_written: 0,
            lost: None,
            told_failure: false,
        }
    }

    /// Jobs that have not come back.
    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Why the session must end, when its volume is lost.
    pub(super) const fn lost(&self) -> Option<&'static str> {
        self.lost
    }

    pub(super) const fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Bytes read and written in this session.
    pub(super) const fn totals(&self) -> (u64, u64) {
        (self.session_read, self.session_written)
    }

    /// Does what `output` says and tells the connection.
    pub(super) fn act(&mut self, output: Output, conn: &mut Connection, now: Instant) {
        if let Output::Run(task, _, op) = &output {
            self.tape.runs(*task, op);
        }
        match output {
            Output::Execute(task, lun) => {
                let (all, session) = (&self.shared.recorders, self.session.as_ref());
                self.tape.command(all, session, task);
                let step = self.begin(conn, task, lun);
                conn.apply(Event::Step(task, step), now);
            }
            Output::DataReady(task, lun) => {
                if !self.reserve(conn, task, lun) {
                    let step = self.data_out(conn, task, lun);
                    conn.apply(Event::Step(task, step), now);
                }
            }
            Output::WantData(task, bytes) => self.want(conn, task, bytes, now),
            Output::Run(task, lun, BlockOp::Read(range)) => self.read(conn, task, lun, range, now),
            Output::Run(
                task,
                _,
                BlockOp::Sanitize {
                    wipe,
                    immediate,
                    unrestricted,
                },
            ) => {
                self.sanitize(task, wipe, unrestricted, immediate);
                if immediate {
                    conn.apply(Event::Done(task, Reply::good(), None), now);
                }
            }
            Output::Run(task, _, BlockOp::SanitizeForgotten) => self.forget_sanitize(task),
            Output::Run(task, _, op) => {
                let data = conn.take_data(task);
                let plain = ops::is_plain_write(&op);
                let epoch = self.epoch();
                let since = now;
                let item = Item {
                    task,
                    op,
                    data,
                    epoch,
                    since,
                };
                if plain {
                    self.batch_bytes += ops::written_bytes(&item.op);
                    self.batch.push(item);
                    if self.batch.len() == limits::WRITES_PER_JOB
                        || self.batch_bytes >= limits::WRITE_BYTES_PER_JOB
                    {
                        self.send_batch(self.batch.len(), conn, now);
                    }
                } else {
                    self.submit_one(item, conn, now);
                }
            }
            Output::Manage(number, management) => self.manage(number, management, conn, now),
            // The driver keeps these for itself.
            Output::Send(_) | Output::Cleared(_) | Output::Close(_) | Output::SendTargets(_) => {}
        }
    }

    /// The targets that its initiator may see, as they are reached from `portal`.
    pub(super) fn list(&self, wanted: &text::Wanted, portal: SocketAddr) -> Vec<text::Found> {
        self.shared.targets.list(wanted, &self.ask, portal)
    }

    fn epoch(&self) -> u64 {
        let unit = self.session.as_ref().and_then(|s| s.unit.as_ref());
        unit.map_or(0, |unit| unit.gate.epoch())
    }

    /// Begins a sanitize operation, which outlives this connection; the task hears of its end unless it was
    /// answered already.
    fn sanitize(&self, task: TaskId, wipe: Wipe, unrestricted: bool, answered: bool) {
        let Some(unit) = self.session.as_ref().and_then(|s| s.unit.clone()) else {
            return;
        };
        let (shared, done) = (Arc::clone(&self.shared), self.done.clone());
        tokio::spawn(async move {
            let well = sanitize::run(shared, unit, wipe, unrestricted).await;
            if !answered {
                // The session may be gone by now.
                let _ = done.send(Completion::Sanitized(task, well));
            }
        });
    }

    /// EXIT FAILURE MODE: the note of the failed operation goes, then the command is answered.
    fn forget_sanitize(&self, task: TaskId) {
        let Some(unit) = self.session.as_ref().and_then(|s| s.unit.clone()) else {
            return;
        };
        let (head, done) = (Arc::clone(self.shared.targets.head()), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let gone = head.sanitize_over(unit.volume.layer());
            if let Err(e) = &gone {
                tracing::warn!("the note of a failed SANITIZE stays: {e}");
                unit.device().sanitize_restore(Some(true));
            }
            let _ = done.send(Completion::Sanitized(task, gone.is_ok()));
        });
    }

    fn unit(&self, lun: u64) -> Option<&Unit> {
        let unit = self.session.as_ref()?.unit.as_ref()?;
        (super::connection::lun_number(lun)? == unit.lun).then_some(unit)
    }

    fn begin(&self, conn: &Connection, task: TaskId, lun: u64) -> Step {
        let cdb = conn.cdb(task);
        let (Some(unit), Some(session)) = (self.unit(lun), &self.session) else {
            return Step::Reply(scsi::absent_lun(cdb, &LUNS));
        };
        let mut device = unit.device();
        match device.begin(session.nexus, cdb) {
            Step::Data { len, exact: true } if conn.expected_out(task) != len => {
                Step::Reply(device.wrong_data_size(cdb))
            }
            step => step,
        }
    }

    /// Carries a PERSISTENT RESERVE OUT out beside the connection; false when it is none, or nothing is here.
    fn reserve(&mut self, conn: &Connection, task: TaskId, lun: u64) -> bool {
        let cdb = conn.cdb(task);
        if !reserve::is_change(cdb) || conn.is_aborted(task) {
            return false;
        }
        let (Some(unit), Some(session)) = (self.unit(lun), &self.session) else {
            return false;
        };
        let list = (cdb, conn.data(task));
        let head = self.shared.targets.head();
        let change = Change::new(session, unit, &self.shared.pool, head, list);
        let report = self.done.clone();
        // The session does not end before it: no change of a session comes after its successor's first look.
        self.in_flight += 1;
        tokio::spawn(async move {
            let _ = report.send(Completion::Reserved(task, change.run().await));
        });
        true
    }

    fn data_out(&self, conn: &Connection, task: TaskId, lun: u64) -> Step {
        let (cdb, data) = (conn.cdb(task), conn.data(task));
        match (self.unit(lun), &self.session) {
            (Some(unit), Some(session)) => unit.device().data_out(session.nexus, cdb, data),
            _ => Step::Reply(scsi::absent_lun(cdb, &LUNS)),
        }
    }

    /// The logical unit's word on an outcome.
    fn conclude(&self, conn: &Connection, task: TaskId, outcome: Outcome) -> Reply {
        let session = self.session.as_ref();
        match session.and_then(|s| Some((s.nexus, s.unit.as_ref()?))) {
            // Also of an aborted task: the unit counts what runs. Nobody gets that reply.
            Some((nexus, unit)) => unit.device().done(nexus, conn.cdb(task), outcome),
            _ => Reply::default(),
        }
    }

    /// A READ: from memory at once, else by an I/O thread.
    fn read(
        &mut self,
        conn: &mut Connection,
        task: TaskId,
        lun: u64,
        range: ByteRange,
        now: Instant,
    ) {
        if !self.fits(conn, 0) {
            self.deferred_bytes += footprint(&range);
            self.defer(task, Wanted::Read(lun, range), now);
            return;
        }
        self.short_since = None;
        let Some(unit) = self.unit(lun) else {
            let reply = scsi::absent_lun(conn.cdb(task), &LUNS);
            conn.apply(Event::Done(task, reply, None), now);
            return;
        };
        match unit.volume.try_read(range) {
            Ok(Some(payload)) => {
                self.counts.warm += 1;
                self.counts.warm_since.get_or_insert(now);
                self.count_read(payload.len());
                self.tape.done(task, true);
                let reply = self.conclude(conn, task, Outcome::Done);
                conn.apply(Event::Done(task, reply, Some(payload)), now);
            }
            Ok(None) => {
                self.counts.cold += 1;
                let item = Item {
                    task,
                    op: BlockOp::Read(range),
                    data: None,
                    epoch: 0,
                    since: now,
                };
                self.submit_one(item, conn, now);
            }
            Err(e) => {
                self.failed(e.kind());
                let outcome = ops::failed(&e, false);
                let reply = self.conclude(conn, task, outcome);
                conn.apply(Event::Done(task, reply, None), now);
            }
        }
    }

    fn want(&mut self, conn: &mut Connection, task: TaskId, bytes: usize, now: Instant) {
        // What came so far is copied into the whole, then given back: both are there for a moment.
        if self.fits(conn, Buffer::footprint(bytes)) {
            self.short_since = None;
            conn.apply(Event::Granted(task), now);
        } else {
            self.defer(task, Wanted::Data(bytes), now);
        }
    }

    /// Bytes that the connection really holds: reads that wait for memory do not have it yet.
    const fn held(&self, conn: &Connection) -> usize {
        self.beside + conn.memory().saturating_sub(self.deferred_bytes)
    }

    /// Bytes that the connection may take beyond what it holds.
    pub(super) fn room(&self, conn: &Connection) -> usize {
        self.account.allowance().saturating_sub(self.held(conn))
    }

    /// True when the connection may hold `more` bytes.
    pub(super) fn fits(&self, conn: &Connection, more: usize) -> bool {
        self.held(conn).saturating_add(more) <= self.account.allowance()
    }

    /// Puts a command off until there is memory. Its wait counts from the first that got none: otherwise each of
    /// many would wait its full time behind the one before, and pings and management behind them all.
    fn defer(&mut self, task: TaskId, what: Wanted, now: Instant) {
        let since = *self.short_since.get_or_insert(now);
        self.deferred.push_back(Deferred { since, task, what });
    }

    /// True while memory is short for this connection.
    pub(super) fn is_short(&self, conn: &Connection) -> bool {
        !self.deferred.is_empty() || !self.fits(conn, 0)
    }

    /// True while no more input should be taken: a command waits for memory, or not enough is left for what one
    /// more may bring, and none will come free by reading on. Without any command there is always one more.
    pub(super) fn is_starved(&self, conn: &Connection) -> bool {
        let burst = limits::FIRST_BURST_MAX as usize;
        let tight = || conn.open_tasks() > 0 && !self.fits(conn, burst);
        (!self.deferred.is_empty() || tight()) && !conn.awaits_data()
    }

    /// Tries again what waited for memory, oldest first. What waited too long is given back to the
    /// initiator: commands that hold part of their memory and wait for the rest could otherwise block each
    /// other for ever.
    pub(super) fn retry(&mut self, conn: &mut Connection, now: Instant) {
        for _ in 0..self.deferred.len() {
            let Some(next) = self.deferred.pop_front() else {
                return;
            };
            let Deferred { since, task, what } = next;
            if let Wanted::Read(_, range) = &what {
                self.deferred_bytes = self.deferred_bytes.saturating_sub(footprint(range));
            }
            if now.duration_since(since) >= limits::MEMORY_WAIT {
                self.counts.busy += 1;
                conn.apply(
                    Event::Done(task, Reply::of_status(status::TASK_SET_FULL), None),
                    now,
                );
                continue;
            }
            let before = self.deferred.len();
            match what {
                Wanted::Data(bytes) => self.want(conn, task, bytes, now),
                Wanted::Read(lun, range) => self.read(conn, task, lun, range, now),
            }
            if self.deferred.len() > before {
                // Back to the front, with its own age.
                if let Some(mut again) = self.deferred.pop_back() {
                    again.since = since;
                    self.deferred.push_front(again);
                }
                return;
            }
        }
    }

    /// Sends the gathered writes to an I/O thread, unless one is at work on earlier ones: then more gather until it
    /// comes back. So a job is as large as the medium is slow, and the first write of a quiet node never waits.
    pub(super) fn submit_batch(&mut self, conn: &mut Connection, now: Instant) {
        let came_back = std::mem::take(&mut self.came_back);
        if self.writing > 0 || self.batch.is_empty() {
            return;
        }
        // Of a load that came at once half waits: when the first half is answered, the initiator prepares more while
        // the rest is written. Otherwise each would stand still while the other works, and for good.
        let count = match self.batch.len() {
            many @ limits::WRITES_SPLIT_MIN.. if !came_back => many.div_ceil(2),
            all => all,
        };
        self.send_batch(count, conn, now);
    }

    /// Sends the first `count` of the gathered writes to an I/O thread.
    fn send_batch(&mut self, count: usize, conn: &mut Connection, now: Instant) {
        let Some(unit) = self.session.as_ref().and_then(|s| s.unit.as_ref()) else {
            return;
        };
        let rest = self.batch.split_off(count);
        let items = std::mem::replace(&mut self.batch, rest);
        let bytes: u64 = items.iter().map(|item| ops::written_bytes(&item.op)).sum();
        self.batch_bytes -= bytes;
        let mut ids = [None; limits::WRITES_PER_JOB];
        for (id, item) in ids.iter_mut().zip(&items) {
            *id = Some(item.task);
        }
        let (volume, gate) = (Arc::clone(&unit.volume), Arc::clone(&unit.gate));
        let done = self.done.clone();
        let job = Box::new(move || {
            let finished = jobs::run_writes(items, &volume, &gate);
            // Nobody listens when the connection's task was torn down with its runtime.
            let _ = done.send(Completion::Written(finished));
        });
        if self.shared.pool.submit(job).is_ok() {
            self.in_flight += 1;
            self.writing += 1;
            return;
        }
        for task in ids.into_iter().flatten() {
            self.busy(task, conn, now);
        }
    }

    fn submit_one(&mut self, item: Item, conn: &mut Connection, now: Instant) {
        let Some(unit) = self.session.as_ref().and_then(|s| s.unit.as_ref()) else {
            return;
        };
        let task = item.task;
        let (volume, gate) = (Arc::clone(&unit.volume), Arc::clone(&unit.gate));
        let done = self.done.clone();
        let job = Box::new(move || {
            let _ = done.send(Completion::Io(vec![item.run(&volume, &gate)]));
        });
        if self.shared.pool.submit(job).is_ok() {
            self.in_flight += 1;
        } else {
            self.busy(task, conn, now);
        }
    }

    /// The I/O threads have too much to do.
    fn busy(&mut self, task: TaskId, conn: &mut Connection, now: Instant) {
        self.counts.busy += 1;
        conn.apply(Event::Done(task, Reply::of_status(status::BUSY), None), now);
    }

    /// Takes in what ended elsewhere.
    pub(super) fn complete(&mut self, end: Completion, conn: &mut Connection, now: Instant) {
        if matches!(end, Completion::Written(_)) {
            self.writing = self.writing.saturating_sub(1);
            self.came_back = true;
        }
        match end {
            Completion::Io(finished) | Completion::Written(finished) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.time(&finished);
                // Before the answers: the next command hears of it.
                if let Some(session) = &self.session {
                    super::space::tell(&self.shared, session);
                }
                for one in finished {
                    self.finished(one, conn, now);
                }
            }
            Completion::Others(number, management, ended) => {
                self.managed(number, management, ended, conn, now);
            }
            Completion::Reserved(task, step) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                conn.apply(Event::Step(task, step), now);
            }
            Completion::Sanitized(task, well) => {
                let outcome = if well {
                    Outcome::Done
                } else {
                    Outcome::Failed(Failure::Sanitize)
                };
                let reply = self.conclude(conn, task, outcome);
                conn.apply(Event::Done(task, reply, None), now);
            }
        }
    }

    /// Books how long a job took, from when its commands could begin. Those of one job began together.
    fn time(&self, finished: &[Finished]) {
        let metrics = &self.shared.metrics;
        let Some(oldest) = finished.iter().map(|one| one.since).min() else {
            return;
        };
        let took = oldest.elapsed();
        let reads = finished.iter().filter(|one| one.read).count() as u64;
        metrics.read_time.add(took, reads);
        metrics.write_time.add(took, finished.len() as u64 - reads);
    }

    fn finished(&mut self, one: Finished, conn: &mut Connection, now: Instant) {
        if let Some(kind) = one.error {
            self.failed(kind);
        }
        if one.outcome == Outcome::Done {
            if one.read {
                self.count_read(one.payload.as_ref().map_or(0, Payload::len));
            } else if one.written > 0 {
                self.counts.writes += 1;
                self.counts.written_bytes += one.written;
            }
        }
        drop(one.buffer);
        let well = matches!(
            one.outcome,
            Outcome::Done | Outcome::Copied { failure: None, .. }
        );
        self.tape.done(one.task, well);
        let reply = self.conclude(conn, one.task, one.outcome);
        conn.apply(Event::Done(one.task, reply, one.payload), now);
    }

    fn count_read(&mut self, bytes: usize) {
        self.counts.reads += 1;
        self.counts.read_bytes += bytes as u64;
    }

    /// A fenced volume ends the session; a poisoned or damaged one is told once.
    fn failed(&mut self, kind: ErrorKind) {
        match kind {
            ErrorKind::Fenced => self.lost = Some("fenced"),
            ErrorKind::Poisoned | ErrorKind::Corrupt if !self.told_failure => {
                self.told_failure = true;
                let reason = if kind == ErrorKind::Poisoned {
                    "a sync of the layer failed; nothing more is acknowledged until it is reset"
                } else {
                    "stored bytes are damaged; `reveille image show` tells which"
                };
                if let Some(session) = &self.session {
                    let reason = reason.to_owned();
                    let event = EventKind::VolumeFailed { reason };
                    self.shared
                        .targets
                        .head()
                        .bus()
                        .publish(Some(&session.node.name), event);
                }
            }
            _ => {}
        }
    }

    /// Asks the other sessions of the target to end their tasks, and waits for them beside the connection.
    fn manage(&self, number: u32, management: Management, conn: &mut Connection, now: Instant) {
        let others = self.session.as_ref().map_or_else(Vec::new, Session::others);
        if others.is_empty() {
            self.managed(number, management, true, conn, now);
            return;
        }
        let lun = match management {
            Management::ClearTaskSet(lun) | Management::LunReset(lun) => Some(lun),
            Management::WarmReset | Management::ColdReset => None,
        };
        let unit = self.session.as_ref().and_then(|s| s.unit.as_ref());
        let tell = unit.is_some_and(|unit| unit.device().tells_aborts());
        let waits = clear(&others, lun, tell);
        let report = self.done.clone();
        tokio::spawn(async move {
            let ended = tokio::time::timeout(limits::TASK_MANAGEMENT_WAIT, all(waits)).await;
            let _ = report.send(Completion::Others(number, management, ended.is_ok()));
        });
    }

    fn managed(
        &self,
        number: u32,
        management: Management,
        ended: bool,
        conn: &mut Connection,
        now: Instant,
    ) {
        let session = self.session.as_ref();
        if let (true, Some((nexus, unit))) = (
            ended,
            session.and_then(|s| Some((s.nexus, s.unit.as_ref()?))),
        ) {
            let mut device = unit.device();
            match management {
                Management::ClearTaskSet(_) => device.cleared_by_another(nexus),
                _ => device.reset(Some(nexus)),
            }
        }
        if ended && management == Management::ColdReset {
            let others = session.map_or_else(Vec::new, Session::others);
            for other in others {
                let _ = other.send(Note::Leave {
                    why: "target cold reset",
                    done: None,
                });
            }
        }
        let response = if ended { 0 } else { 0xff };
        conn.apply(Event::Managed(number, response), now);
    }

    /// Books memory and counters, once per batch; `beside` bytes are held for no task.
    pub(super) fn settle(&mut self, conn: &Connection, beside: usize) {
        self.beside = beside;
        self.account.book(self.held(conn));
        let counts = std::mem::take(&mut self.counts);
        if counts.reads + counts.writes + counts.cold + counts.busy == 0 {
            return;
        }
        let metrics = &self.shared.metrics;
        metrics.warm_reads.add(counts.warm);
        metrics.cold_reads.add(counts.cold);
        metrics.read_bytes.add(counts.read_bytes);
        metrics.written_bytes.add(counts.written_bytes);
        metrics.busy.add(counts.busy);
        if let Some(since) = counts.warm_since {
            metrics.read_time.add(since.elapsed(), counts.warm);
        }
        self.session_read += counts.read_bytes;
        self.session_written += counts.written_bytes;
        if let Some(session) = &self.session {
            let now = UnixMillis::now();
            if counts.reads > 0 {
                session
                    .traffic
                    .add_reads(counts.reads, counts.read_bytes, now);
            }
            if counts.writes > 0 {
                session
                    .traffic
                    .add_writes(counts.writes, counts.written_bytes, now);
            }
        }
    }

    /// A job came back after the connection ended.
    pub(super) fn came_back(&mut self, end: &Completion) {
        let counted = matches!(
            end,
            Completion::Io(_) | Completion::Written(_) | Completion::Reserved(..)
        );
        self.in_flight -= usize::from(counted && self.in_flight > 0);
    }

    /// Gives memory back to the server's budget, and the seat at the target up.
    pub(super) fn release(&mut self) {
        self.tape.leave();
        self.account.book(0);
        if let Some(session) = self.session.take() {
            let node = session.node.name.clone();
            drop(session);
            self.shared.targets.prune(&node);
        }
    }
}

/// Memory that a read takes.
fn footprint(range: &ByteRange) -> usize {
    Buffer::footprint(usize::try_from(range.len()).unwrap_or(usize::MAX))
}

/// Asks sessions to end their tasks on a LUN, or on all; each wait ends when it did. `tell`: their initiators
/// get TASK ABORTED instead of silence.
pub(super) fn clear(others: &[Handle], lun: Option<u16>, tell: bool) -> Vec<oneshot::Receiver<()>> {
    let ask = |other: &Handle| {
        let (done, wait) = oneshot::channel();
        let note = Note::Clear { lun, tell, done };
        other.send(note).ok().map(|()| wait)
    };
    others.iter().filter_map(ask).collect()
}

/// Waits until all of these were dropped; nothing is ever sent.
pub(super) async fn all(waits: Vec<oneshot::Receiver<()>>) {
    for wait in waits {
        // An error is the sign: it is done, or the other session is gone with all that it had.
        let _ = wait.await;
    }
}
