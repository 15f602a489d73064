//! One task per connection: the login, then a loop that reads all there is in one call, lets the machines
//! work, and answers in one vectored write. It stays on the worker that accepted it.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;

use super::connection::{Connection, Event, Incoming, Options, Output, Place};
use super::exec::{Completion, Executor};
use super::login::{self, Established, Login};
use super::params::SessionType;
use super::pdu::{Bhs, op};
use super::rx::{Found, Frame, Rx};
use super::server::Shared;
use super::session::Eviction;
use super::target::{LUNS, PORTAL_GROUP, Session};
use super::tx::Tx;
use crate::events::{EventKind, InitiatorKind};
use crate::head::HeadErrorKind;
use crate::limits;
use crate::names::NodeName;
use crate::store::Buffer;
use crate::units::UnixMillis;

/// Rounds of one poll before other connections of the worker get their turn.
const ROUNDS: usize = 16;

/// How other tasks reach a connection's task.
pub(super) type Handle = mpsc::UnboundedSender<Note>;

/// What other tasks tell it.
#[derive(Debug)]
pub(super) enum Note {
    /// End now. `done` is dropped when nothing of the session runs any more.
    Leave {
        why: &'static str,
        done: Option<oneshot::Sender<()>>,
    },
    /// End the tasks of a logical unit (all when none), then drop `done`.
    Clear {
        lun: Option<u16>,
        done: oneshot::Sender<()>,
    },
    /// Ask the initiator to leave.
    Drain,
}

/// Serves one connection from accept to its end.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let Some(ticket) = shared.admit() else {
        return;
    };
    let (handle, notes) = mpsc::unbounded_channel();
    let link = shared.register(handle.clone());
    let door = Door {
        stream,
        peer,
        rx: Rx::new(),
        notes,
        handle,
        target: None,
        last_status: 0,
        shared: Arc::clone(&shared),
    };
    let entered = Box::pin(door.login()).await;
    drop(ticket);
    if let Some(feature) = entered {
        feature.run().await;
    }
    drop(link);
}

/// A connection in the login phase.
struct Door {
    stream: TcpStream,
    peer: SocketAddr,
    rx: Rx,
    notes: mpsc::UnboundedReceiver<Note>,
    handle: Handle,
    /// The node it asked for.
    target: Option<NodeName>,
    /// Status of the last login response.
    last_status: u16,
    shared: Arc<Shared>,
}

/// Why a session may not begin: Status-Class and -Detail, and the cause.
type Refusal = (u16, String);

impl Door {
    async fn login(mut self) -> Option<Box<Feature>> {
        let mut entropy = [0; 64];
        if getrandom::fill(&mut entropy).is_err() {
            tracing::error!("the system gives no random bytes; a login was refused");
            return None;
        }
        let [a, b, c, d, ..] = entropy;
        let mut login = Login::new(login::Options {
            portal_group: PORTAL_GROUP,
            first_stat_sn: u32::from_be_bytes([0, b, c, d]) << 1 | u32::from(a & 1),
            entropy,
            accepted: Instant::now(),
        });
        let mut established = None;
        let mut out = Vec::new();
        loop {
            match self.carry_out(&mut login, &mut established, &mut out).await {
                Step::Wait => {}
                Step::Begin => return Feature::new(self, established?).map(Box::new),
                Step::End(why) => {
                    self.end(&why).await;
                    return None;
                }
            }
            if let Err(why) = self.next_request(&mut login).await {
                tracing::debug!(peer = %self.peer, why, "login ended");
                return None;
            }
        }
    }

    /// Does what the machine says until it waits for the peer; sends what gathered in one write.
    async fn carry_out(
        &mut self,
        login: &mut Login,
        established: &mut Option<(Box<Established>, Option<Session>)>,
        out: &mut Vec<u8>,
    ) -> Step {
        let mut step = Step::Wait;
        while let Some(output) = login.poll() {
            match output {
                login::Output::Send(header, data) => self.gather(out, &header, &data),
                login::Output::Ask(ask) => {
                    self.target = ask
                        .target
                        .as_ref()
                        .and_then(|target| self.shared.targets.node_of(target))
                        .map(|node| node.name.clone());
                    let access = self.shared.targets.decide(&ask);
                    login.apply(login::Event::Access(access));
                }
                login::Output::Enter(new) => {
                    let deadline = login.deadline();
                    match self.enter(&new, deadline).await {
                        Ok((tsih, session)) => {
                            *established = Some((new, session));
                            login.apply(login::Event::Entered { tsih });
                        }
                        Err((status, why)) => login.apply(login::Event::Refused { status, why }),
                    }
                }
                login::Output::Finished => {
                    step = Step::Begin;
                    break;
                }
                login::Output::Close(why) => {
                    step = Step::End(why);
                    break;
                }
            }
        }
        let sent = tokio::time::timeout_at(login.deadline().into(), self.stream.write_all(out));
        let gone = !matches!(sent.await, Ok(Ok(())));
        out.clear();
        if gone {
            return Step::End("the peer went away during its login".into());
        }
        step
    }

    fn gather(&mut self, out: &mut Vec<u8>, header: &Bhs, data: &[u8]) {
        self.last_status = header.u16_at(36);
        out.extend_from_slice(&header.0);
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(4), 0);
    }

    /// Reads until a whole PDU is there and gives it to the machine.
    async fn next_request(&mut self, login: &mut Login) -> Result<(), &'static str> {
        loop {
            match self.rx.next() {
                Found::Whole(frame) => {
                    let data = self.rx.bytes(frame.data.clone());
                    login.apply(login::Event::Request(&frame.bhs, data));
                    return Ok(());
                }
                Found::Head(_) => return Err("a data segment came in part"),
                Found::Broken(why) => return Err(why),
                Found::More => {}
            }
            let deadline = login.deadline().into();
            let read = tokio::select! {
                read = tokio::time::timeout_at(deadline, self.stream.read(self.rx.space())) => read,
                note = self.notes.recv() => match note {
                    Some(Note::Leave { why, .. }) => return Err(why),
                    _ => continue,
                },
            };
            match read {
                Err(_) => return Err("its login took too long"),
                Ok(Ok(0)) => return Err("closed by the peer"),
                Ok(Ok(n)) => self.rx.filled(n),
                Ok(Err(_)) => return Err("the connection failed"),
            }
        }
    }

    /// Makes room for a session that passed its login: older ones end first, then its disk is attached.
    async fn enter(
        &mut self,
        new: &Established,
        deadline: Instant,
    ) -> Result<(u16, Option<Session>), Refusal> {
        if new.ask.session_type == SessionType::Discovery {
            return Ok((self.shared.targets.discovery_tsih(), None));
        }
        let shared = Arc::clone(&self.shared);
        let work = take_seat(&shared, new, self.peer, self.handle.clone());
        let mut work = std::pin::pin!(tokio::time::timeout_at(deadline.into(), work));
        loop {
            tokio::select! {
                done = &mut work => return match done {
                    Ok(result) => result.map(|session| (session.tsih, Some(session))),
                    Err(_) => Err((0x0301, "the disk was not ready in time; it is tried again".into())),
                },
                note = self.notes.recv() => if let Some(Note::Leave { why, .. }) = note {
                    return Err((0x0301, format!("another session came in between: {why}")));
                },
            }
        }
    }

    /// The login failed: it is told, and the peer gets a moment to read the answer.
    async fn end(mut self, why: &str) {
        let class = self.last_status >> 8;
        if class > 1 {
            self.shared.metrics.refused.add(1);
            if self.shared.may_tell_refusal() {
                tracing::info!(peer = %self.peer, status = self.last_status, why, "login refused");
                let event = EventKind::LoginRefused {
                    peer: self.peer,
                    status: self.last_status,
                    why: why.to_owned(),
                };
                let bus = self.shared.targets.head().bus();
                bus.publish(self.target.as_ref(), event);
            }
        }
        linger(&mut self.stream).await;
    }
}

/// How a login goes on.
enum Step {
    Wait,
    Begin,
    End(String),
}

async fn take_seat(
    shared: &Arc<Shared>,
    new: &Established,
    peer: SocketAddr,
    handle: Handle,
) -> Result<Session, Refusal> {
    let gone = || (0x0203, "the node was removed meanwhile".to_owned());
    let name = new.ask.target.clone().ok_or_else(gone)?;
    let node = shared.targets.node_of(&name).ok_or_else(gone)?;
    let (mut session, victims) = shared
        .targets
        .enter(node, &new.ask, peer.ip(), handle)
        .ok_or_else(|| (0x0302, "all session handles of the target are in use".to_owned()))?;
    await_end(victims)
        .await
        .map_err(|why| (0x0301, why.to_owned()))?;
    let (done, wait) = oneshot::channel();
    let head = Arc::clone(shared.targets.head());
    let node = session.node.name.clone();
    let firmware = session.kind == InitiatorKind::Firmware;
    let job = Box::new(move || {
        let _ = done.send(head.attach(&node, firmware));
    });
    shared
        .pool
        .submit(job)
        .map_err(|_| (0x0302, "the I/O threads' queue is full".to_owned()))?;
    match wait.await {
        Ok(Ok(attached)) => {
            session.attach(attached, &name);
            Ok(session)
        }
        Ok(Err(e)) => Err((status_of(e.kind), e.message)),
        Err(_) => Err((0x0300, "attaching the disk was given up".to_owned())),
    }
}

/// What a failure of the head means to an initiator. Class 2 stops a node for good, so it is kept for what
/// does not heal by waiting (dossier 1.7).
const fn status_of(kind: HeadErrorKind) -> u16 {
    match kind {
        HeadErrorKind::NotFound => 0x0203,
        HeadErrorKind::Conflict | HeadErrorKind::Unavailable | HeadErrorKind::Invalid => 0x0301,
        HeadErrorKind::Refused | HeadErrorKind::Internal => 0x0300,
    }
}

/// Ends older sessions and waits until nothing of them runs: no late write may land under the new one.
async fn await_end(victims: Vec<(Handle, Eviction)>) -> Result<(), &'static str> {
    let waits: Vec<_> = victims
        .into_iter()
        .filter_map(|(victim, why)| {
            let (done, wait) = oneshot::channel();
            let note = Note::Leave {
                why: why.why(),
                done: Some(done),
            };
            victim.send(note).ok().map(|()| wait)
        })
        .collect();
    let all = async {
        for wait in waits {
            // It is dropped, never sent: that is the sign.
            let _ = wait.await;
        }
    };
    tokio::time::timeout(limits::REINSTATE_WAIT, all)
        .await
        .map_err(|_| "an older session still has operations running")
}

/// Says that we are done, and lets the peer close first.
async fn linger(stream: &mut TcpStream) {
    let _ = stream.shutdown().await;
    let mut waste = [0; 512];
    let rest = async { while matches!(stream.read(&mut waste).await, Ok(n) if n > 0) {} };
    let _ = tokio::time::timeout(limits::LINGER, rest).await;
}

/// A data segment on its way to where it belongs.
#[derive(Debug)]
struct Direct {
    bhs: Bhs,
    ahs: Vec<u8>,
    into: Into,
    filled: usize,
    len: usize,
}

#[derive(Debug)]
enum Into {
    Own(Buffer),
    Task(Place),
}

/// A connection in the full feature phase.
struct Feature {
    stream: TcpStream,
    peer: SocketAddr,
    rx: Rx,
    tx: Tx,
    conn: Connection,
    exec: Executor,
    direct: Option<Direct>,
    notes: mpsc::UnboundedReceiver<Note>,
    completions: mpsc::UnboundedReceiver<Completion>,
    tick: Pin<Box<Sleep>>,
    /// Dropped when the session is over.
    leavers: Vec<oneshot::Sender<()>>,
    /// Dropped when the tasks of a foreign reset are over.
    clears: Vec<(u64, oneshot::Sender<()>)>,
    next_clear: u64,
    now: Instant,
    /// Since when the socket takes nothing.
    stuck: Option<Instant>,
    /// The machine wants to close, once all is sent.
    closing: Option<String>,
    /// Over now.
    ended: Option<String>,
    pdus_in: u64,
    writes: u64,
    shared: Arc<Shared>,
}

impl Feature {
    fn new(
        door: Door,
        (new, session): (Box<Established>, Option<Session>),
    ) -> Option<Self> {
        let portal = door.stream.local_addr().ok()?;
        let agreed = new.negotiated.clone();
        let mut rx = door.rx;
        rx.full_feature(agreed.header_digest, agreed.data_digest);
        let tx = Tx::new(agreed.header_digest, agreed.data_digest);
        let discovery = session.is_none();
        let kind = session.as_ref().map(|s| s.kind);
        let conn = Connection::new(Options {
            negotiated: agreed,
            discovery,
            cid: new.cid,
            cmd_sn: new.cmd_sn,
            stat_sn: new.stat_sn,
            luns: if discovery { Vec::new() } else { LUNS.to_vec() },
            talkative: kind == Some(InitiatorKind::Os),
        });
        let (done, completions) = mpsc::unbounded_channel();
        let shared = door.shared;
        shared.metrics.logins.add(1);
        shared.metrics.sessions.add(1);
        if let Some(session) = &session {
            let event = EventKind::Login {
                initiator_kind: session.kind,
                initiator: new.ask.initiator.clone(),
                peer: door.peer,
                session: session.tsih,
            };
            let bus = shared.targets.head().bus();
            bus.publish(Some(&session.node.name), event);
        }
        let exec = Executor::new(Arc::clone(&shared), new.ask, portal, session, done);
        Some(Self {
            stream: door.stream,
            peer: door.peer,
            rx,
            tx,
            conn,
            exec,
            direct: None,
            notes: door.notes,
            completions,
            tick: Box::pin(tokio::time::sleep(limits::TICK)),
            leavers: Vec::new(),
            clears: Vec::new(),
            next_clear: 0,
            now: Instant::now(),
            stuck: None,
            closing: None,
            ended: None,
            pdus_in: 0,
            writes: 0,
            shared,
        })
    }

    async fn run(mut self: Box<Self>) {
        let why = std::future::poll_fn(|cx| self.poll(cx)).await;
        self.end(&why).await;
    }

    /// Works until nothing moves any more; ready with the cause when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.now = Instant::now();
        for _ in 0..ROUNDS {
            let mut moved = self.take_notes(cx);
            moved |= self.take_completions(cx);
            moved |= self.take_input(cx);
            moved |= self.flush(cx);
            if let Some(why) = self.is_over() {
                return Poll::Ready(why);
            }
            if !moved && !self.take_tick(cx) {
                self.settle();
                return Poll::Pending;
            }
        }
        self.settle();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_over(&mut self) -> Option<String> {
        if let Some(why) = self.exec.lost() {
            return Some(why.to_owned());
        }
        if self.ended.is_some() {
            return self.ended.take();
        }
        self.closing.take_if(|_| self.tx.is_empty())
    }

    fn take_notes(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(note)) = self.notes.poll_recv(cx) {
            moved = true;
            match note {
                Note::Leave { why, done } => {
                    self.leavers.extend(done);
                    self.ended.get_or_insert_with(|| why.to_owned());
                }
                Note::Clear { lun, done } => {
                    self.next_clear += 1;
                    let ticket = self.next_clear;
                    self.clears.push((ticket, done));
                    let event = Event::ClearedByOther { lun, ticket };
                    self.conn.apply(event, self.now);
                }
                Note::Drain => self.conn.apply(Event::Drain, self.now),
            }
            self.act();
        }
        moved
    }

    fn take_completions(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(end)) = self.completions.poll_recv(cx) {
            moved = true;
            self.exec.complete(end, &mut self.conn, self.now);
            self.act();
        }
        moved
    }

    /// True while input is welcome: answers have room, and there is memory.
    fn wants_input(&self) -> bool {
        self.ended.is_none()
            && self.closing.is_none()
            && self.conn.wants_input()
            && self.tx.bytes() < limits::SEND_QUEUE_BYTES
            && !self.exec.is_starved(&self.conn)
    }

    /// Takes what is in the buffer, then reads once.
    fn take_input(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = self.parse();
        if !self.wants_input() {
            return moved;
        }
        let (space, direct) = match self.direct.as_mut().and_then(|d| d.space(&mut self.conn)) {
            Some(space) => (space, true),
            None => (self.rx.space(), false),
        };
        let mut buffer = ReadBuf::new(space);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                let n = buffer.filled().len();
                moved = true;
                match (n, direct, self.direct.as_mut()) {
                    (0, ..) => self.ended = Some("closed by the peer".into()),
                    (n, true, Some(direct)) => direct.filled += n,
                    (n, ..) => self.rx.filled(n),
                }
                self.parse();
            }
            Poll::Ready(Err(e)) => {
                moved = true;
                self.ended = Some(format!("error: {e}"));
            }
        }
        moved
    }

    fn parse(&mut self) -> bool {
        let before = self.pdus_in;
        while self.wants_input() {
            if self.direct.is_some() {
                if !self.go_on_directly() {
                    break;
                }
            } else {
                match self.rx.next() {
                    Found::More => break,
                    Found::Whole(frame) => self.frame(&frame),
                    Found::Head(frame) => self.start_direct(&frame),
                    Found::Broken(why) => {
                        self.ended = Some(format!("error: {why}"));
                        break;
                    }
                }
            }
            self.act();
        }
        self.pdus_in > before
    }

    fn frame(&mut self, frame: &Frame) {
        self.pdus_in += 1;
        let data = self.rx.bytes(frame.data.clone());
        if frame.bhs.opcode() == op::DATA_OUT {
            let place = self.conn.data_out(&frame.bhs, self.now);
            if let Some(room) = self.conn.room(place, data.len()) {
                room.copy_from_slice(data);
            }
            self.conn
                .landed(&frame.bhs, place, frame.intact, self.now);
            return;
        }
        let event = Event::Pdu {
            bhs: &frame.bhs,
            ahs: self.rx.bytes(frame.ahs.clone()),
            data: Incoming::Slice(data),
            intact: frame.intact,
        };
        self.conn.apply(event, self.now);
    }

    /// A long data segment begins: it is read to where it belongs.
    fn start_direct(&mut self, frame: &Frame) {
        let bhs = frame.bhs;
        let len = bhs.data_len() as usize;
        let into = if bhs.opcode() == op::DATA_OUT {
            Into::Task(self.conn.data_out(&bhs, self.now))
        } else {
            Into::Own(Buffer::take(len))
        };
        self.direct = Some(Direct {
            bhs,
            ahs: self.rx.bytes(frame.ahs.clone()).to_vec(),
            into,
            filled: 0,
            len,
        });
    }

    /// Moves what the buffer has of it; true when the PDU is complete.
    fn go_on_directly(&mut self) -> bool {
        let Some(direct) = self.direct.as_mut() else {
            return false;
        };
        let part = self.rx.take(direct.len - direct.filled);
        if !part.is_empty() {
            let n = part.len();
            if let Some(space) = direct.space(&mut self.conn) {
                space[..n].copy_from_slice(part);
            }
            direct.filled += n;
        }
        let trailer = self.rx.trailer(direct.len);
        if direct.filled < direct.len || self.rx.len() < trailer {
            return false;
        }
        let Some(direct) = self.direct.take() else {
            return false;
        };
        let mut tail = [0; 8];
        tail[..trailer].copy_from_slice(self.rx.take(trailer));
        self.complete_direct(direct, &tail[..trailer]);
        true
    }

    fn complete_direct(&mut self, direct: Direct, trailer: &[u8]) {
        self.pdus_in += 1;
        match direct.into {
            Into::Own(buffer) => {
                let event = Event::Pdu {
                    bhs: &direct.bhs,
                    ahs: &direct.ahs,
                    intact: self.rx.is_intact(&buffer, trailer),
                    data: Incoming::Owned(buffer),
                };
                self.conn.apply(event, self.now);
            }
            Into::Task(place) => {
                // The bytes of a task that ended meanwhile went nowhere: nothing to check.
                let intact = self
                    .conn
                    .room(place, direct.len)
                    .is_none_or(|data| self.rx.is_intact(data, trailer));
                self.conn.landed(&direct.bhs, place, intact, self.now);
            }
        }
    }

    /// Does what the machine asks for.
    fn act(&mut self) {
        while let Some(output) = self.conn.poll() {
            match output {
                Output::Send(pdu) => self.tx.push(pdu),
                Output::Close(why) => self.closing = Some(why.to_string()),
                Output::Cleared(ticket) => self.clears.retain(|(t, _)| *t != ticket),
                other => self.exec.act(other, &mut self.conn, self.now),
            }
        }
    }

    /// Sends as much as the socket takes, in as few calls as possible.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while self.ended.is_none() {
            self.gather();
            if self.tx.is_empty() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); limits::SEND_BATCH_SLICES];
            let count = self.tx.slices(&mut slices);
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]) {
                Poll::Pending => {
                    self.stuck.get_or_insert(self.now);
                    break;
                }
                Poll::Ready(Ok(0)) => self.ended = Some("closed by the peer".into()),
                Poll::Ready(Ok(n)) => {
                    self.tx.sent(n);
                    self.writes += 1;
                    self.stuck = None;
                    moved = true;
                }
                Poll::Ready(Err(e)) => self.ended = Some(format!("error: {e}")),
            }
        }
        moved
    }

    /// Fills the send queue from the machine, as far as it is short.
    fn gather(&mut self) {
        loop {
            self.act();
            let mut took = false;
            while self.tx.bytes() < limits::SEND_BATCH_BYTES {
                let Some(pdu) = self.conn.poll_queued() else {
                    break;
                };
                self.tx.push(pdu);
                took = true;
            }
            if !took {
                break;
            }
        }
        self.exec.submit_batch(&mut self.conn, self.now);
        self.act();
    }

    /// The timer; true when it rang.
    fn take_tick(&mut self, cx: &mut Context<'_>) -> bool {
        if self.tick.as_mut().poll_ready(cx).is_pending() {
            return false;
        }
        let starved = self.exec.is_starved(&self.conn);
        if starved {
            self.exec.retry(&mut self.conn, self.now);
        }
        self.conn.apply(Event::Tick, self.now);
        self.act();
        if let Some(since) = self.stuck
            && self.now.duration_since(since) >= limits::SEND_STALL
        {
            self.ended = Some("stalled: it takes no answer".into());
        }
        if self.conn.open_tasks() == 0 && self.tx.is_empty() && self.direct.is_none() {
            self.rx.shrink();
            self.tx.shrink();
            self.conn.shrink();
        }
        self.set_tick();
        true
    }

    fn set_tick(&mut self) {
        let wait = if self.exec.is_starved(&self.conn) {
            limits::TICK_STARVED
        } else {
            limits::TICK
        };
        self.tick.as_mut().reset((self.now + wait).into());
    }

    /// Books what this poll has moved.
    fn settle(&mut self) {
        self.exec.settle(&self.conn);
        if self.exec.is_starved(&self.conn) {
            // Memory that others give back wakes nobody: look again soon.
            let soon = self.now + limits::TICK_STARVED;
            if self.tick.deadline() > soon.into() {
                self.tick.as_mut().reset(soon.into());
            }
        }
        let metrics = &self.shared.metrics;
        if self.pdus_in > 0
            && let Some(session) = self.exec.session()
        {
            session.active_ms.store(UnixMillis::now().0, Relaxed);
        }
        metrics.pdus_in.add(std::mem::take(&mut self.pdus_in));
        metrics.pdus_out.add(self.tx.take_pushed());
        metrics.writes_out.add(std::mem::take(&mut self.writes));
    }

    /// Ends the session: what runs on I/O threads comes back first, then others may take its place.
    async fn end(mut self: Box<Self>, why: &str) {
        self.settle();
        while self.exec.in_flight() > 0 {
            match self.completions.recv().await {
                Some(end) => self.exec.came_back(&end),
                None => break,
            }
        }
        self.shared.metrics.sessions.take_one();
        let (read_bytes, written_bytes) = self.exec.totals();
        if let Some(session) = self.exec.session() {
            tracing::debug!(node = %session.node.name, peer = %self.peer, why, "session ended");
            let event = EventKind::Logout {
                session: session.tsih,
                why: why.to_owned(),
                read_bytes,
                written_bytes,
            };
            let bus = self.shared.targets.head().bus();
            bus.publish(Some(&session.node.name), event);
        }
        self.exec.release();
        let Self {
            mut stream,
            notes,
            leavers,
            clears,
            ..
        } = *self;
        // Whoever waits for this session learns it by these ends.
        drop((notes, leavers, clears));
        if why == "logout" {
            linger(&mut stream).await;
        }
    }
}

impl Direct {
    /// Where the rest of the segment goes; none when nobody wants it or nothing is missing.
    fn space<'a>(&'a mut self, conn: &'a mut Connection) -> Option<&'a mut [u8]> {
        let whole = match &mut self.into {
            Into::Own(buffer) => &mut buffer[..],
            Into::Task(place) => conn.room(*place, self.len)?,
        };
        whole.get_mut(self.filled..).filter(|rest| !rest.is_empty())
    }
}

/// `Future::poll` of a pinned sleep, under a name that does not collide.
trait PollReady {
    fn poll_ready(self, cx: &mut Context<'_>) -> Poll<()>;
}

impl PollReady for Pin<&mut Sleep> {
    fn poll_ready(self, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self, cx)
    }
}
