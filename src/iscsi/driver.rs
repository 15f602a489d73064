//! One task per session, from its login (`login_driver.rs`) on: a loop that reads all there is in one call, lets
//! the machines work, and answers in one vectored write. It stays on one worker. Whoever has much to do works in
//! slices, in turn with others like it, so that quiet neighbours hardly notice.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::connection::{Connection, Event, Incoming, Options, Output, Place};
use super::exec::{Completion, Executor};
use super::farewell::{self, LOGOUT};
use super::frame::{Decoder, Encoder, Head, TRAILER_BYTES_MAX, Violation};
use super::login::Established;
use super::mailbox::{self, mailbox};
use super::pdu::op;
use super::rx::{Found, Frame, Rx};
use super::shared::{Counted, Discovery, Link, Shared};
use super::target::{LUNS, PORTAL_GROUP, Session};
use super::turns::Turn;
use super::tx::Tx;
use super::vigil::Vigil;
use crate::events::{EventKind, InitiatorKind};
use crate::limits;
use crate::store::Buffer;
use crate::units::UnixMillis;

/// How other tasks reach a connection's task.
pub(super) type Handle = mailbox::Sender<Note>;

/// What other tasks tell it.
#[derive(Debug)]
pub(super) enum Note {
    /// End now. `done` is dropped when nothing of the session runs any more.
    Leave {
        why: &'static str,
        done: Option<oneshot::Sender<()>>,
    },
    /// End the tasks of a logical unit (all when none), then drop `done`. `tell`: their initiator hears TASK
    /// ABORTED.
    Clear {
        lun: Option<u16>,
        tell: bool,
        done: oneshot::Sender<()>,
    },
    /// See whether the peer has closed. `done` is dropped when it has not, or when the session is over.
    Look { done: oneshot::Sender<()> },
    /// Ask the initiator to leave.
    Drain,
    /// It may stay after all.
    Stay,
    /// The head stops: finish what is under way, then close.
    Finish,
}

/// What a login leaves of itself beside the socket.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) peer: SocketAddr,
    pub(super) rx: Rx,
    pub(super) notes: mailbox::Receiver<Note>,
    pub(super) discovery: Option<Discovery>,
    pub(super) new: Box<Established>,
    pub(super) session: Option<Session>,
    pub(super) link: Link,
    pub(super) counted: Counted,
    pub(super) shared: Arc<Shared>,
}

/// Serves one session from its login to its end; none when its socket is gone. Made here and not in the task, so
/// that the task is small: what the login left behind would stay in it as long as it lives.
pub(super) fn serve(
    stream: TcpStream,
    entered: Entered,
    turn: Turn,
    vigil: Vigil,
) -> Option<impl Future<Output = ()> + Send> {
    Feature::new(stream, entered, turn, vigil).map(|feature| Box::new(feature).run())
}

/// A data segment on its way to where it belongs.
#[derive(Debug)]
struct Direct {
    head: Head,
    ahs: Vec<u8>,
    into: Into,
    filled: usize,
}

#[derive(Debug)]
enum Into {
    Own(Buffer),
    Waste,
    Task(Place),
}

/// A connection in the full feature phase.
pub(super) struct Feature {
    stream: TcpStream,
    peer: SocketAddr,
    rx: Rx,
    tx: Tx,
    conn: Connection,
    exec: Executor,
    direct: Option<Direct>,
    notes: mailbox::Receiver<Note>,
    completions: mailbox::Receiver<Completion>,
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
    /// When this poll must give way to others.
    slice_end: Instant,
    /// It must.
    spent: bool,
    /// The socket had no more than was read last.
    drained: bool,
    /// What was read is worked up, as far as it is whole.
    hungry: bool,
    /// PDUs until the next look at the clock.
    until_look: u32,
    turn: Turn,
    vigil: Vigil,
    /// Until the session is over.
    counted: Option<Counted>,
    /// Given back when the connection is.
    _places: (Link, Option<Discovery>),
    shared: Arc<Shared>,
}

impl Feature {
    /// Begins the full feature phase with what the login left; none when the socket is gone.
    fn new(stream: TcpStream, door: Entered, turn: Turn, vigil: Vigil) -> Option<Self> {
        let (new, session) = (*door.new, door.session);
        let agreed = new.negotiated.clone();
        let mut rx = door.rx;
        rx.grow_to(limits::RECEIVE_MAX);
        rx.expect(Decoder::full_feature(&agreed));
        rx.hand_out_heads();
        let tx = Tx::new(Encoder::full_feature(&agreed));
        let discovery = session.is_none();
        let kind = session.as_ref().map(|s| s.kind);
        let conn = Connection::new(Options {
            negotiated: agreed,
            target: new.ask.target.clone().filter(|_| !discovery),
            portal_group: PORTAL_GROUP,
            cid: new.cid,
            cmd_sn: new.cmd_sn,
            stat_sn: new.stat_sn,
            luns: if discovery { Vec::new() } else { LUNS.to_vec() },
            talkative: kind == Some(InitiatorKind::Os),
        });
        let (done, completions) = mailbox();
        let shared = door.shared;
        shared.metrics.logins.add(1);
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
        let exec = Executor::new(Arc::clone(&shared), new.ask, session, done);
        let now = Instant::now();
        Some(Self {
            stream,
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
            now,
            stuck: None,
            closing: None,
            ended: None,
            pdus_in: 0,
            writes: 0,
            slice_end: now,
            spent: false,
            drained: false,
            hungry: false,
            until_look: limits::PDUS_PER_LOOK,
            turn,
            vigil,
            counted: Some(door.counted),
            _places: (door.link, door.discovery),
            shared,
        })
    }

    async fn run(mut self: Box<Self>) {
        let why = std::future::poll_fn(|cx| self.poll(cx)).await;
        // In a box of its own, so that no session holds room for its end as long as it lives.
        Box::pin(self.end(&why)).await;
    }

    /// Works until nothing moves any more, or its slice is over; ready with the cause when the connection is.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.now = Instant::now();
        self.slice_end = self.now + limits::POLL_SLICE;
        self.spent = false;
        // What ended elsewhere is taken in at any time: others may wait for it.
        let may_work = !self.turn.waits();
        loop {
            let mut moved = self.take_notes(cx);
            moved |= self.take_completions(cx);
            if may_work {
                moved |= self.take_input(cx);
                moved |= self.flush(cx);
            }
            if let Some(why) = self.is_over() {
                // Its end may take a while: others in line must not wait for it.
                self.turn.rest();
                return Poll::Ready(why);
            }
            if self.spent && self.is_done() {
                // Its answers took the slice, and there is nothing to wait in line for: it only has to ask the
                // socket to tell when there is more. Not forever: all that was read is answered.
                self.spent = false;
                continue;
            }
            if self.spent {
                self.take_tick(cx);
                self.settle();
                self.shared.metrics.turns.add(1);
                self.turn.ask(cx.waker(), wake_after_look);
                return Poll::Pending;
            }
            if !moved && !self.take_tick(cx) {
                self.settle();
                if may_work {
                    self.turn.rest();
                }
                return Poll::Pending;
            }
            self.look();
        }
    }

    /// True when all that came is answered and there is nothing more to read before the socket says so.
    fn is_done(&self) -> bool {
        self.drained && self.hungry && self.tx.is_empty() && !self.conn.has_queued()
    }

    /// Looks at the clock: the slice may be over.
    fn look(&mut self) {
        self.until_look = limits::PDUS_PER_LOOK;
        self.spent |= Instant::now() >= self.slice_end;
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
                Note::Clear { lun, tell, done } => {
                    self.next_clear += 1;
                    let ticket = self.next_clear;
                    self.clears.push((ticket, done));
                    let event = Event::ClearedByOther { lun, tell, ticket };
                    self.conn.apply(event, self.now);
                }
                // What it still sent is read first: the end comes by itself.
                Note::Look { done } if farewell::has_closed(&self.stream) => {
                    self.leavers.push(done);
                }
                Note::Look { .. } => {}
                Note::Drain => self.conn.apply(Event::Drain, self.now),
                Note::Stay => self.conn.apply(Event::Stay, self.now),
                Note::Finish => self.conn.apply(Event::Finish, self.now),
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
            && !self.spent
            && self.conn.wants_input()
            && self.tx.bytes() < limits::SEND_QUEUE_BYTES
            && self.tx.control() < limits::CONTROL_BYTES_MAX
            && !self.exec.is_starved(&self.conn)
    }

    /// Takes what is in the buffer, then reads once.
    fn take_input(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = self.parse();
        if !self.wants_input() || !self.has_room() {
            return moved;
        }
        let (space, direct) = match self.direct.as_mut().and_then(|d| d.space(&mut self.conn)) {
            Some(space) => (space, true),
            None => {
                let space = self.rx.space();
                let most = space.len().min(limits::READ_BYTES_MAX);
                (&mut space[..most], false)
            }
        };
        let mut buffer = ReadBuf::new(space);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => self.drained = true,
            Poll::Ready(Ok(())) => {
                let n = buffer.filled().len();
                self.drained = buffer.remaining() > 0;
                self.exec.tape.heard();
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

    /// False while there is no memory for the PDU that is coming, or for a larger buffer than there is.
    fn has_room(&mut self) -> bool {
        let (has, needs) = self.rx.memory();
        let fits = |more| self.exec.fits(&self.conn, more);
        let calm = has >= limits::RECEIVE_MAX || fits(limits::RECEIVE_MAX - has);
        self.rx.grow_to(if calm {
            limits::RECEIVE_MAX
        } else {
            limits::RECEIVE_START
        });
        needs <= limits::RECEIVE_START || needs == has || fits(needs - has)
    }

    fn parse(&mut self) -> bool {
        let before = self.pdus_in;
        self.hungry = false;
        while self.wants_input() {
            if self.direct.is_some() {
                if !self.go_on_directly() {
                    self.hungry = true;
                    break;
                }
            } else {
                match self.rx.next() {
                    Found::More => {
                        self.hungry = true;
                        break;
                    }
                    Found::Whole(frame) => self.frame(&frame),
                    Found::Head(head, ahs) => self.start_direct(head, ahs),
                    Found::Broken(why) => {
                        let digest = matches!(why, Violation::HeaderDigest);
                        self.shared.metrics.header_digests.add(u64::from(digest));
                        self.ended = Some(format!("error: {why}"));
                        break;
                    }
                }
            }
            self.act();
            self.until_look -= 1;
            if self.until_look == 0 {
                self.look();
            }
        }
        self.hungry |= self.rx.len() == 0 && self.direct.is_none();
        self.pdus_in > before
    }

    fn frame(&mut self, frame: &Frame) {
        self.pdus_in += 1;
        self.allow(frame.bhs.opcode());
        let data = self.rx.bytes(frame.data.clone());
        if frame.bhs.opcode() == op::DATA_OUT {
            let place = self.conn.data_out(&frame.bhs, self.now);
            if let Some(room) = self.conn.room(place, data.len()) {
                room.copy_from_slice(data);
            }
            self.conn.landed(&frame.bhs, place, frame.intact, self.now);
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

    /// Tells the machine what memory there is for one more command.
    fn allow(&mut self, opcode: u8) {
        if opcode == op::SCSI_COMMAND {
            self.conn.allow(self.exec.room(&self.conn));
        }
    }

    /// A long data segment begins: it is read to where it belongs, or nowhere when there is no memory for it.
    fn start_direct(&mut self, head: Head, ahs: Range<usize>) {
        let len = head.data_len();
        let into = if head.bhs.opcode() == op::DATA_OUT {
            Into::Task(self.conn.data_out(&head.bhs, self.now))
        } else if self.exec.fits(&self.conn, Buffer::footprint(len)) {
            Into::Own(Buffer::take(len))
        } else {
            Into::Waste
        };
        self.direct = Some(Direct {
            head,
            ahs: self.rx.bytes(ahs).to_vec(),
            into,
            filled: 0,
        });
    }

    /// Moves what the buffer has of it; true when the PDU is complete.
    fn go_on_directly(&mut self) -> bool {
        let Some(direct) = self.direct.as_mut() else {
            return false;
        };
        let len = direct.head.data_len();
        let part = self.rx.take(len - direct.filled);
        if !part.is_empty() {
            let n = part.len();
            if let Some(space) = direct.space(&mut self.conn) {
                space[..n].copy_from_slice(part);
            }
            direct.filled += n;
        }
        let trailer = direct.head.trailer_len();
        if direct.filled < len || self.rx.len() < trailer {
            return false;
        }
        let Some(direct) = self.direct.take() else {
            return false;
        };
        let mut tail = [0; TRAILER_BYTES_MAX];
        tail[..trailer].copy_from_slice(self.rx.take(trailer));
        self.complete_direct(direct, &tail[..trailer]);
        true
    }

    fn complete_direct(&mut self, direct: Direct, trailer: &[u8]) {
        self.pdus_in += 1;
        let head = direct.head;
        self.allow(head.bhs.opcode());
        match direct.into {
            Into::Waste => {
                let event = Event::Pdu {
                    bhs: &head.bhs,
                    ahs: &direct.ahs,
                    intact: true,
                    data: Incoming::Dropped(head.data_len()),
                };
                self.conn.apply(event, self.now);
            }
            Into::Own(buffer) => {
                let event = Event::Pdu {
                    bhs: &head.bhs,
                    ahs: &direct.ahs,
                    intact: head.is_intact(&buffer, trailer),
                    data: Incoming::Owned(buffer),
                };
                self.conn.apply(event, self.now);
            }
            Into::Task(place) => {
                // The bytes of a task that ended meanwhile went nowhere: nothing to check.
                let intact = self
                    .conn
                    .room(place, head.data_len())
                    .is_none_or(|data| head.is_intact(data, trailer));
                self.conn.landed(&head.bhs, place, intact, self.now);
            }
        }
    }

    /// Does what the machine asks for.
    fn act(&mut self) {
        while let Some(output) = self.conn.poll() {
            match output {
                Output::Send(pdu) => self.tx.push(pdu),
                Output::Close(why) => self.closing = Some(why.to_string()),
                Output::SendTargets(wanted) => match self.stream.local_addr() {
                    Ok(portal) => {
                        let list = self.exec.list(&wanted, portal);
                        self.conn.apply(Event::Listed(list), self.now);
                    }
                    Err(e) => self.ended = Some(format!("error: {e}")),
                },
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
            self.exec.tape.sends();
            // The answer to a logout goes out together with the end of the connection.
            let last = self.closing.as_deref() == Some(LOGOUT) && self.exec.in_flight() == 0;
            match send(&mut self.stream, &self.tx, last, cx) {
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
                    self.look();
                    if self.spent {
                        break;
                    }
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
        if self.exec.is_short(&self.conn) {
            self.rx.shrink();
            self.exec.settle(&self.conn, self.beside());
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
        let wait = if self.exec.is_short(&self.conn) {
            limits::TICK_STARVED
        } else {
            limits::TICK
        };
        self.tick.as_mut().reset((self.now + wait).into());
    }

    /// Bytes of memory that it holds beside its tasks.
    fn beside(&self) -> usize {
        let own = match self.direct.as_ref().map(|direct| &direct.into) {
            Some(Into::Own(buffer)) => Buffer::footprint(buffer.len()),
            _ => 0,
        };
        let (receive, _) = self.rx.memory();
        own + self.tx.control() + receive.saturating_sub(limits::RECEIVE_START)
    }

    /// Books what this poll has moved.
    fn settle(&mut self) {
        self.rx.rest();
        self.exec.settle(&self.conn, self.beside());
        if self.exec.is_short(&self.conn) {
            // Memory that others give back wakes nobody: look again soon.
            let soon = self.now + limits::TICK_STARVED;
            if self.tick.deadline() > soon.into() {
                self.tick.as_mut().reset(soon.into());
            }
        }
        // What is under way on I/O threads needs a processor more than a look at the sockets does.
        if self.pdus_in > 0 && self.exec.in_flight() == 0 {
            self.vigil.answered(self.now);
        }
        let metrics = &self.shared.metrics;
        if self.pdus_in > 0
            && let Some(session) = self.exec.session()
        {
            session.active_ms.store(UnixMillis::now().0, Relaxed);
        }
        let faults = self.conn.take_faults();
        metrics.rejects.add(faults.rejects);
        metrics.data_digests.add(faults.data_digests);
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
        self.counted = None;
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
            rx,
            direct,
            ..
        } = *self;
        // Whoever waits for this session learns it by these ends.
        drop((notes, leavers, clears));
        // After a logout an initiator says nothing more: there is nothing to wait for.
        let has_read_all = rx.len() == 0 && direct.is_none();
        if why == LOGOUT && has_read_all && farewell::has_nothing(&stream) {
            return;
        }
        // After these all was said: the peer gets the time to read it, and closes first.
        if [LOGOUT, "drained", "the head stops"].contains(&why) {
            farewell::linger(&mut stream).await;
        }
    }
}

/// One write of what waits, all of it the `last` that is said or not.
fn send(
    stream: &mut TcpStream,
    tx: &Tx,
    last: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if tx.is_short() {
        // Nearly every write of a node that boots: a long list would cost more to clear than to fill.
        let mut slices = [IoSlice::new(&[]); limits::SEND_SHORT_SLICES];
        let count = tx.slices(&mut slices);
        return farewell::poll_send(stream, cx, &slices[..count], last);
    }
    let mut slices = [IoSlice::new(&[]); limits::SEND_BATCH_SLICES];
    let count = tx.slices(&mut slices);
    farewell::poll_send(stream, cx, &slices[..count], last)
}

/// Wakes a task once the sockets were looked at: who has become ready meanwhile goes first. So a quiet neighbour
/// waits for one slice, also where many polls go by between two looks (`server.rs`).
#[expect(clippy::needless_pass_by_value, reason = "as `Waker::wake` takes it")]
pub(super) fn wake_after_look(waker: Waker) {
    let mut cx = Context::from_waker(&waker);
    // The first poll of it leaves the waker with the runtime, which looks at the sockets before it calls (Tokio,
    // `yield_now`).
    let _ = pin!(tokio::task::yield_now()).poll(&mut cx);
}

impl Direct {
    /// Where the rest of the segment goes; none when nobody wants it or nothing is missing.
    fn space<'a>(&'a mut self, conn: &'a mut Connection) -> Option<&'a mut [u8]> {
        let whole = match &mut self.into {
            Into::Own(buffer) => &mut buffer[..],
            Into::Waste => return None,
            Into::Task(place) => conn.room(*place, self.head.data_len())?,
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
