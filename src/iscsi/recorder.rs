//! Recordings of boots: what the sessions of one node ask of its disk, noted as a trace while it happens.
//!
//! ```text
//!   Recorder (who asked for it) ──begin, end──► Recorders ◄──one relaxed load per command── Tape of each session
//!                                                   └─► Recording: the notes ◄──once per write to the socket──┘
//! ```
//! Times are those that a replay needs. An op **arrived** when the bytes of its command came out of the socket: of
//! commands that came together none waited for another. It **ended** when its answer was handed to the socket: no
//! command that was in our hands before can have waited for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::TaskId;
use super::error::{Error, ErrorKind};
use super::shared::Shared;
use super::target::{self, lock};
use crate::events::InitiatorKind;
use crate::limits;
use crate::names::NodeName;
use crate::scsi::BlockOp;
use crate::trace::{Op, OpKind, Session, Trace};
use crate::units::ByteRange;

/// The recordings of a server.
#[derive(Debug, Default)]
pub(super) struct Recorders {
    /// Grows when a recording begins or ends; 0: there never was one.
    turn: AtomicU64,
    running: Mutex<HashMap<NodeName, Arc<Recording>>>,
}

impl Recorders {
    fn begin(&self, node: &NodeName, logged_in: bool) -> Result<Arc<Recording>, Error> {
        let mut running = lock(&self.running);
        let refused = |message: String| Err(Error::new(ErrorKind::Busy, message));
        if running.contains_key(node) {
            return refused(format!(
                "node `{node}` is being recorded already; wait for its end, or end it first"
            ));
        }
        if running.len() >= limits::RECORDINGS_MAX {
            return refused(format!(
                "{} nodes are being recorded already, as many as may be at a time; try again later",
                running.len()
            ));
        }
        let recording = Arc::new(Recording::new(node.clone(), logged_in));
        running.insert(node.clone(), Arc::clone(&recording));
        drop(running);
        self.turn.fetch_add(1, Relaxed);
        Ok(recording)
    }

    fn of(&self, node: &NodeName) -> Option<Arc<Recording>> {
        lock(&self.running).get(node).cloned()
    }

    fn end(&self, node: &NodeName) {
        lock(&self.running).remove(node);
        self.turn.fetch_add(1, Relaxed);
    }
}

/// What is noted of one node.
#[derive(Debug)]
struct Recording {
    node: NodeName,
    begun: Instant,
    /// None: it is over.
    notes: Mutex<Option<Notes>>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Notes {
    /// Moment 0 of the trace.
    start: Option<Instant>,
    trace: Trace,
    state: RecordState,
    /// When the last session ended, while none is open.
    alone_since: Option<Instant>,
    /// Sessions that were there before the recording.
    early: Vec<u16>,
    /// Commands that failed, or whose session ended before they did.
    lost: u64,
    /// Commands that touched more places than are noted of one.
    cut: u64,
}

/// How far a recording has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordState {
    /// The node was logged in when it began.
    pub was_logged_in: bool,
    /// READs noted.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// WRITEs noted.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// Sessions so far.
    pub sessions: usize,
    /// Of them, those that are open.
    pub open: usize,
    /// What logged in last.
    pub last: Option<InitiatorKind>,
    /// Since its first login.
    pub running: Option<Duration>,
    /// All its sessions have ended, for so long.
    pub alone: Option<Duration>,
    /// It holds all that it may hold.
    pub full: bool,
    /// Somebody asked it to end.
    pub stop: bool,
}

/// What was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The trace; its `about` is empty.
    pub trace: Trace,
    /// What it lacks, in words.
    pub notes: Vec<String>,
}

impl Recording {
    fn new(node: NodeName, was_logged_in: bool) -> Self {
        let notes = Notes {
            state: RecordState {
                was_logged_in,
                ..RecordState::default()
            },
            ..Notes::default()
        };
        Self {
            node,
            begun: Instant::now(),
            notes: Mutex::new(Some(notes)),
            news: Condvar::new(),
        }
    }

    /// A session of the node is there, which logged in at `since`; its number. None: the recording is over, or full.
    fn enter(&self, kind: InitiatorKind, disk: u64, since: Instant) -> Option<u16> {
        let mut notes = lock(&self.notes);
        let notes = notes.as_mut()?;
        let number = notes.trace.sessions.len();
        if number == limits::TRACE_SESSIONS_MAX {
            notes.state.full = true;
            self.news.notify_all();
            return None;
        }
        let session = u16::try_from(number).ok()?;
        let start = *notes.start.get_or_insert(since.max(self.begun));
        if since < self.begun {
            notes.early.push(session);
        }
        notes.trace.sessions.push(Session {
            initiator: word(kind).to_owned(),
            login_at_us: micros(start, since),
            logout_at_us: None,
        });
        notes.trace.disk_bytes = notes.trace.disk_bytes.max(disk);
        notes.state.sessions += 1;
        notes.state.open += 1;
        notes.state.last = Some(kind);
        notes.alone_since = None;
        self.news.notify_all();
        Some(session)
    }

    /// Ops of a session were answered.
    fn add(&self, session: u16, ended: &mut Vec<Open>, now: Instant) {
        let mut notes = lock(&self.notes);
        let (Some(notes), commands) = (notes.as_mut(), ended.drain(..)) else {
            ended.clear();
            return;
        };
        for command in commands {
            notes.add(session, &command, now);
        }
        if notes.state.full {
            self.news.notify_all();
        }
    }

    fn leave(&self, session: u16, lost: u64, now: Instant) {
        let mut notes = lock(&self.notes);
        let Some(notes) = notes.as_mut() else {
            return;
        };
        let at = notes.start.map_or(0, |start| micros(start, now));
        if let Some(session) = notes.trace.sessions.get_mut(usize::from(session)) {
            session.logout_at_us = Some(at);
        }
        notes.lost += lost;
        notes.state.open = notes.state.open.saturating_sub(1);
        notes.alone_since = (notes.state.open == 0).then_some(now);
        self.news.notify_all();
    }

    fn state(&self) -> RecordState {
        let notes = lock(&self.notes);
        notes.as_ref().map_or_else(RecordState::default, |notes| {
            let mut state = notes.state.clone();
            state.running = notes.start.map(|start| start.elapsed());
            state.alone = notes.alone_since.map(|since| since.elapsed());
            state
        })
    }
}

impl Notes {
    fn add(&mut self, session: u16, command: &Open, now: Instant) {
        let Some(start) = self.start else {
            return;
        };
        let took = now.saturating_duration_since(command.arrived).as_micros();
        self.cut += u64::from(command.cut);
        for part in &command.parts {
            if self.trace.ops.len() == limits::RECORDING_OPS_MAX {
                self.state.full = true;
                return;
            }
            self.trace.ops.push(Op {
                session,
                at_us: micros(start, command.arrived),
                took_us: u32::try_from(took).unwrap_or(u32::MAX),
                ..*part
            });
            let bytes = u64::from(part.len);
            match part.kind {
                OpKind::Read => {
                    self.state.reads += 1;
                    self.state.read_bytes += bytes;
                }
                OpKind::Write => {
                    self.state.writes += 1;
                    self.state.write_bytes += bytes;
                }
                _ => {}
            }
        }
    }

    fn finish(mut self) -> Recorded {
        self.trace.ops.sort_by_key(|op| op.at_us);
        let mut notes = Vec::new();
        for session in &self.early {
            notes.push(format!(
                "session {session} was logged in before the recording began"
            ));
        }
        if self.lost > 0 {
            let lost = self.lost;
            notes.push(format!(
                "{lost} commands failed or had no answer when their session ended; they are left out"
            ));
        }
        if self.cut > 0 {
            let (cut, most) = (self.cut, limits::RECORDING_PARTS_MAX);
            notes.push(format!(
                "{cut} commands touched more than {most} places; the rest of these is left out"
            ));
        }
        if self.state.full {
            notes.push("the recording was full and ended itself".to_owned());
        }
        Recorded {
            trace: self.trace,
            notes,
        }
    }
}

fn micros(start: Instant, at: Instant) -> u64 {
    let since = at.saturating_duration_since(start).as_micros();
    u64::try_from(since).unwrap_or(u64::MAX)
}

const fn word(kind: InitiatorKind) -> &'static str {
    match kind {
        InitiatorKind::Firmware => "firmware",
        InitiatorKind::Os => "os",
    }
}

// --- the side of who asked for it ---

/// A recording under way; dropped, it ends and is forgotten.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    recording: Arc<Recording>,
}

impl Recorder {
    pub(super) fn begin(
        shared: Arc<Shared>,
        node: &NodeName,
        logged_in: bool,
    ) -> Result<Self, Error> {
        let recording = shared.recorders.begin(node, logged_in)?;
        Ok(Self { shared, recording })
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> RecordState {
        let mut state = self.recording.state();
        state.stop |= self.shared.is_stopped();
        state
    }

    /// Waits until something noteworthy happened, `most` at most. May return early.
    pub fn wait(&self, most: Duration) {
        let notes = lock(&self.recording.notes);
        let waited = self.recording.news.wait_timeout(notes, most);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends it and gives what it holds.
    #[must_use]
    pub fn finish(self) -> Recorded {
        let notes = lock(&self.recording.notes).take();
        notes.map_or_else(Recorded::default, Notes::finish)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        lock(&self.recording.notes).take();
        self.shared.recorders.end(&self.recording.node);
    }
}

/// Asks the recording of a node to end; false when there is none.
pub(super) fn stop(recorders: &Recorders, node: &NodeName) -> bool {
    let Some(recording) = recorders.of(node) else {
        return false;
    };
    if let Some(notes) = lock(&recording.notes).as_mut() {
        notes.state.stop = true;
    }
    recording.news.notify_all();
    true
}

// --- the side of the sessions ---

/// A command under way.
#[derive(Debug)]
struct Open {
    task: TaskId,
    arrived: Instant,
    /// What it does; times and session are filled in at its end.
    parts: Vec<Op>,
    /// It does more than that.
    cut: bool,
}

/// A session's place at a recording.
#[derive(Debug)]
struct Seat {
    recording: Arc<Recording>,
    session: u16,
    /// When the socket last gave bytes.
    heard: Instant,
    /// By slot of the task.
    open: Vec<Option<Open>>,
    /// Done, but not handed to the socket yet.
    done: Vec<Open>,
    lost: u64,
}

/// What a session has for being recorded: next to nothing, while it is not.
#[derive(Debug, Default)]
pub(super) struct Tape {
    /// The turn of the recorders that it knows.
    seen: u64,
    seat: Option<Box<Seat>>,
}

impl Tape {
    /// Of a session that logs in now.
    pub(super) fn at_login(recorders: &Recorders, session: Option<&target::Session>) -> Self {
        let mut tape = Self::default();
        if recorders.turn.load(Relaxed) != 0 {
            tape.look(recorders, session);
        }
        tape
    }

    /// Recordings have begun or ended.
    #[cold]
    fn look(&mut self, recorders: &Recorders, session: Option<&target::Session>) {
        self.seen = recorders.turn.load(Relaxed);
        let found = session.and_then(|session| recorders.of(&session.node.name));
        match (&self.seat, &found) {
            (Some(seat), Some(found)) if Arc::ptr_eq(&seat.recording, found) => return,
            _ => self.seat = None,
        }
        let (Some(session), Some(recording)) = (session, found) else {
            return;
        };
        let disk = session.unit.as_ref().map_or(0, |unit| unit.volume.size());
        let number = recording.enter(session.kind, disk, session.since);
        self.seat = number.map(|session| {
            Box::new(Seat {
                recording,
                session,
                heard: Instant::now(),
                open: Vec::new(),
                done: Vec::new(),
                lost: 0,
            })
        });
    }

    /// The socket gave bytes.
    pub(super) fn heard(&mut self) {
        if let Some(seat) = &mut self.seat {
            seat.heard = Instant::now();
        }
    }

    /// A command arrived.
    pub(super) fn command(
        &mut self,
        recorders: &Recorders,
        session: Option<&target::Session>,
        task: TaskId,
    ) {
        if recorders.turn.load(Relaxed) != self.seen {
            self.look(recorders, session);
        }
        if let Some(seat) = &mut self.seat {
            seat.command(task);
        }
    }

    /// A command turned out to be this.
    pub(super) fn runs(&mut self, task: TaskId, op: &BlockOp) {
        if let Some(open) = self.seat.as_mut().and_then(|seat| seat.of(task)) {
            let mut all = parts(op);
            open.parts = all.by_ref().take(limits::RECORDING_PARTS_MAX).collect();
            open.cut = all.next().is_some();
        }
    }

    /// Its answer is ready.
    pub(super) fn done(&mut self, task: TaskId, well: bool) {
        if let Some(seat) = &mut self.seat {
            seat.done(task, well);
        }
    }

    /// What is ready is handed to the socket now.
    pub(super) fn sends(&mut self) {
        if let Some(seat) = self.seat.as_mut().filter(|seat| !seat.done.is_empty()) {
            let now = Instant::now();
            seat.recording.add(seat.session, &mut seat.done, now);
        }
    }

    /// The session is over.
    pub(super) fn leave(&mut self) {
        self.sends();
        if let Some(seat) = self.seat.take() {
            let open = seat.open.iter().flatten();
            let open = open.filter(|open| !open.parts.is_empty()).count() as u64;
            let now = Instant::now();
            seat.recording.leave(seat.session, seat.lost + open, now);
        }
    }
}

impl Seat {
    fn command(&mut self, task: TaskId) {
        let slot = task.slot();
        if slot >= self.open.len() {
            self.open.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.open.get_mut(slot) {
            *place = Some(Open {
                task,
                arrived: self.heard,
                parts: Vec::new(),
                cut: false,
            });
        }
    }

    fn of(&mut self, task: TaskId) -> Option<&mut Open> {
        let open = self.open.get_mut(task.slot())?.as_mut()?;
        (open.task == task).then_some(open)
    }

    fn done(&mut self, task: TaskId, well: bool) {
        if self.of(task).is_none() {
            return;
        }
        let open = self.open.get_mut(task.slot()).and_then(Option::take);
        match open.filter(|open| !open.parts.is_empty()) {
            Some(open) if well => self.done.push(open),
            Some(_) => self.lost += 1,
            None => {}
        }
    }
}

/// The places that an operation touches, in pieces that one command may have.
fn parts(op: &BlockOp) -> impl Iterator<Item = Op> + use<> {
    let mut ranges: Vec<ByteRange> = Vec::new();
    let (kind, fua) = match op {
        BlockOp::Read(range) | BlockOp::Compare { range, .. } => {
            ranges.push(*range);
            (OpKind::Read, false)
        }
        BlockOp::Write { range, fua }
        | BlockOp::WriteAtomic { range, fua }
        | BlockOp::CompareAndWrite { range, fua }
        | BlockOp::OrWrite { range, fua } => {
            ranges.push(*range);
            (OpKind::Write, *fua)
        }
        BlockOp::WriteCompare { range } => {
            ranges.push(*range);
            (OpKind::Write, true)
        }
        BlockOp::WriteSame {
            range,
            pattern,
            fua,
        } => {
            ranges.push(*range);
            let kind = match pattern {
                Some(_) => OpKind::Write,
                None => OpKind::WriteSame,
            };
            (kind, *fua)
        }
        BlockOp::Copy { moves, fua, .. } => {
            ranges.extend(moves.iter().map(|one| one.to));
            (OpKind::Write, *fua)
        }
        BlockOp::Unmap { ranges: all, fua } => {
            ranges.extend(all);
            (OpKind::Unmap, *fua)
        }
        BlockOp::Flush => (OpKind::Flush, false),
        BlockOp::Extents { .. }
        | BlockOp::Provision
        | BlockOp::Sanitize { .. }
        | BlockOp::SanitizeForgotten => (OpKind::Read, false),
    };
    let flush = (kind == OpKind::Flush).then_some((0, 0));
    let part = move |(offset, len): (u64, u32)| Op {
        session: 0,
        at_us: 0,
        took_us: 0,
        kind,
        offset,
        len,
        fua,
    };
    let pieces = ranges.into_iter().flat_map(pieces);
    pieces.chain(flush).map(part)
}

/// A range in pieces of one command's size.
fn pieces(range: ByteRange) -> impl Iterator<Item = (u64, u32)> {
    let (mut at, end) = (range.offset(), range.end());
    std::iter::from_fn(move || {
        let len = (end - at).min(limits::TRANSFER_MAX);
        let piece = (at, u32::try_from(len).ok()?);
        at += len;
        (len > 0).then_some(piece)
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn range(offset: u64, len: u64) -> ByteRange {
        ByteRange::new(offset, len).unwrap()
    }

    fn facts(op: &BlockOp) -> Vec<(OpKind, u64, u32, bool)> {
        let fact = |op: Op| (op.kind, op.offset, op.len, op.fua);
        parts(op).map(fact).collect()
    }

    #[test]
    fn every_operation_on_blocks_is_noted_as_what_it_does_to_the_disk() {
        let fua = true;
        let at = range(4096, 512);
        for (op, noted) in [
            (BlockOp::Read(at), vec![(OpKind::Read, 4096, 512, false)]),
            (
                BlockOp::Write { range: at, fua },
                vec![(OpKind::Write, 4096, 512, true)],
            ),
            (BlockOp::Flush, vec![(OpKind::Flush, 0, 0, false)]),
            (
                BlockOp::WriteSame {
                    range: at,
                    pattern: None,
                    fua: false,
                },
                vec![(OpKind::WriteSame, 4096, 512, false)],
            ),
            (
                BlockOp::WriteSame {
                    range: at,
                    pattern: Some(Box::new([1; 512])),
                    fua: false,
                },
                vec![(OpKind::Write, 4096, 512, false)],
            ),
            (
                BlockOp::Unmap {
                    ranges: vec![at, range(0, 512)],
                    fua: false,
                },
                vec![
                    (OpKind::Unmap, 4096, 512, false),
                    (OpKind::Unmap, 0, 512, false),
                ],
            ),
            (
                BlockOp::Extents {
                    range: at,
                    count_max: 1,
                },
                vec![],
            ),
        ] {
            assert_eq!(facts(&op), noted, "{op:?}");
        }
    }

    #[test]
    fn what_is_longer_than_one_command_comes_in_pieces() {
        let op = BlockOp::WriteSame {
            range: range(512, limits::TRANSFER_MAX * 2 + 512),
            pattern: None,
            fua: false,
        };
        let facts = facts(&op);
        let total: u64 = facts.iter().map(|(_, _, len, _)| u64::from(*len)).sum();
        assert_eq!((facts.len(), total), (3, limits::TRANSFER_MAX * 2 + 512));
        assert!(
            facts
                .windows(2)
                .all(|two| two[0].1 + u64::from(two[0].2) == two[1].1)
        );
    }

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[test]
    fn a_node_has_one_recorder_and_the_server_a_few() {
        let recorders = Recorders::default();
        recorders.begin(&node("n1"), false).unwrap();
        let error = recorders.begin(&node("n1"), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        for n in 2..=limits::RECORDINGS_MAX {
            recorders.begin(&node(&format!("n{n}")), false).unwrap();
        }
        let error = recorders.begin(&node("other"), false).unwrap_err();
        assert!(error.to_string().contains("as many as may be"), "{error}");
        recorders.end(&node("n1"));
        recorders.begin(&node("other"), false).unwrap();
    }

    fn opened(at: Instant) -> Open {
        Open {
            task: TaskId::default(),
            arrived: at,
            parts: parts(&BlockOp::Read(range(0, 4096))).collect(),
            cut: false,
        }
    }

    #[test]
    fn time_begins_with_the_first_login() {
        let recording = Recording::new(node("n1"), false);
        let at = |ms: u64| recording.begun + Duration::from_millis(ms);
        let first = recording.enter(InitiatorKind::Firmware, 1 << 20, at(500));
        assert_eq!(first, Some(0));
        recording.add(0, &mut vec![opened(at(510))], at(512));
        recording.leave(0, 0, at(600));
        recording.enter(InitiatorKind::Os, 1 << 20, at(700));
        let recorded = lock(&recording.notes).take().unwrap().finish();
        let trace = recorded.trace;
        let sessions: Vec<_> = trace
            .sessions
            .iter()
            .map(|s| (s.login_at_us, s.logout_at_us))
            .collect();
        assert_eq!(sessions, [(0, Some(100_000)), (200_000, None)]);
        assert_eq!((trace.ops[0].at_us, trace.ops[0].took_us), (10_000, 2000));
        assert_eq!((trace.disk_bytes, recorded.notes), (1 << 20, vec![]));
    }

    #[test]
    fn a_session_that_was_there_before_begins_with_the_recording_and_is_told() {
        let recording = Recording::new(node("n1"), true);
        let (before, later) = (
            recording
                .begun
                .checked_sub(Duration::from_millis(3))
                .unwrap(),
            recording.begun + Duration::from_millis(5),
        );
        recording.enter(InitiatorKind::Os, 512, before);
        recording.add(0, &mut vec![opened(later)], later);
        let recorded = lock(&recording.notes).take().unwrap().finish();
        assert_eq!(recorded.trace.sessions[0].login_at_us, 0);
        assert_eq!(recorded.trace.ops[0].at_us, 5000);
        assert!(recorded.notes[0].contains("before the recording"));
    }

    #[test]
    fn a_recording_that_is_over_takes_nothing_more() {
        let recording = Recording::new(node("n1"), false);
        lock(&recording.notes).take();
        let now = Instant::now();
        assert_eq!(recording.enter(InitiatorKind::Os, 512, now), None);
        let mut done = vec![opened(now)];
        recording.add(0, &mut done, now);
        recording.leave(0, 0, now);
        assert!(done.is_empty());
        assert_eq!(recording.state(), RecordState::default());
    }

    #[test]
    fn sessions_beyond_the_bound_fill_it() {
        let recording = Recording::new(node("n1"), false);
        let now = Instant::now();
        for _ in 0..limits::TRACE_SESSIONS_MAX {
            assert!(recording.enter(InitiatorKind::Os, 512, now).is_some());
        }
        assert!(!recording.state().full);
        assert_eq!(recording.enter(InitiatorKind::Os, 512, now), None);
        assert!(recording.state().full);
    }

    #[test]
    fn ops_beyond_the_bound_fill_it() {
        let recording = Recording::new(node("n1"), false);
        let now = Instant::now();
        recording.enter(InitiatorKind::Os, 512, now);
        let whole = u64::from(u32::MAX) / 512 * 512;
        let all = parts(&BlockOp::Unmap {
            ranges: vec![range(0, whole); 1],
            fua: false,
        });
        let part: Op = all.into_iter().next().unwrap();
        let big = |count: usize| Open {
            parts: vec![part; count],
            ..opened(now)
        };
        recording.add(0, &mut vec![big(limits::RECORDING_OPS_MAX)], now);
        assert!(!recording.state().full);
        recording.add(0, &mut vec![big(1)], now);
        assert!(recording.state().full);
        let recorded = lock(&recording.notes).take().unwrap().finish();
        assert_eq!(recorded.trace.ops.len(), limits::RECORDING_OPS_MAX);
        assert!(recorded.notes[0].contains("full"));
    }
}
