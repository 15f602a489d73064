//! The login phase of a connection's task: carries out what `login.rs` says, makes room for the new session,
//! and attaches its disk.

use std::borrow::Cow;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::driver::{self, Entered, Handle, Note};
use super::exec;
use super::farewell::linger;
use super::frame::{Decoder, Encoder, Violation};
use super::login::{self, Established, Login};
use super::mailbox;
use super::params::{SessionType, status};
use super::pdu::{BHS_BYTES, Bhs, op};
use super::rx::{Found, Rx};
use super::server::Doorkeeper;
use super::session::Eviction;
use super::shared::{Counted, Discovery, Newcomer, Shared};
use super::target::{Auth, PORTAL_GROUP, Session};
use crate::events::InitiatorKind;
use crate::head::{Attached, HeadError, HeadErrorKind};
use crate::limits;
use crate::names::{Iqn, NodeName};

/// A connection that was accepted and may log in.
#[derive(Debug)]
pub(super) struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    ticket: Newcomer,
}

impl Arrival {
    pub(super) const fn new(stream: TcpStream, peer: SocketAddr, ticket: Newcomer) -> Self {
        Self {
            stream,
            peer,
            ticket,
        }
    }
}

/// Takes one connection through its login, and hands it to a worker unless it leaves at once.
pub(super) async fn serve(arrival: Arrival, shared: Arc<Shared>, keeper: Arc<Doorkeeper>) {
    let Arrival {
        stream,
        peer,
        mut ticket,
    } = arrival;
    let Some(notes) = ticket.notes.take() else {
        return;
    };
    let handle = ticket.handle.clone();
    let link = shared.register(&handle);
    let door = Door {
        stream,
        peer,
        rx: Rx::frugal(Decoder::login()),
        notes,
        handle,
        ticket: Some(ticket),
        discovery: None,
        initiator: None,
        target: None,
        last_status: 0,
        keeper: Arc::clone(&keeper),
        shared,
    };
    let Some((mut door, new, session)) = door.login().await else {
        return;
    };
    let counted = Counted::new(&door.shared);
    let leaves = door.leaves_at_once().await;
    let entered = Entered {
        peer,
        rx: door.rx,
        notes: door.notes,
        discovery: door.discovery,
        new,
        session,
        link,
        counted,
        shared: door.shared,
    };
    if leaves {
        // It only wanted to see whether it could come in: no worker is troubled.
        let (turn, vigil) = (keeper.turn_at_the_door(), keeper.vigil.clone());
        if let Some(session) = driver::serve(door.stream, entered, turn, vigil) {
            session.await;
        }
    } else if let Ok(stream) = door.stream.into_std() {
        keeper.hand_over(stream, entered);
    }
}

/// A connection in the login phase.
struct Door {
    stream: TcpStream,
    peer: SocketAddr,
    /// May hold PDUs of the full feature phase already when the login is over.
    rx: Rx,
    notes: mailbox::Receiver<Note>,
    handle: Handle,
    /// Its place among the strangers, until it has proved who it is.
    ticket: Option<Newcomer>,
    discovery: Option<Discovery>,
    initiator: Option<Iqn>,
    /// The target it asked for.
    target: Option<Iqn>,
    /// Status of the last login response.
    last_status: u16,
    keeper: Arc<Doorkeeper>,
    shared: Arc<Shared>,
}

/// Why a session may not begin: Status-Class and -Detail, and the cause.
type Refusal = (u16, String);

impl Door {
    /// Logs the initiator in; none when it did not get in.
    async fn login(mut self) -> Option<(Self, Box<Established>, Option<Session>)> {
        let Some(entropy) = self.keeper.chance.draw() else {
            tracing::error!("the system gives no random bytes; a login was refused");
            return None;
        };
        let [a, b, c, d, ..] = entropy;
        let mut login = Login::new(login::Options {
            portal_group: PORTAL_GROUP,
            first_stat_sn: u32::from_be_bytes([0, b, c, d]) << 1 | u32::from(a & 1),
            entropy,
            algorithms: self.shared.targets.algorithms(),
            digests: self.shared.targets.digests(),
            accepted: Instant::now(),
        });
        let mut established = None;
        let mut out = Vec::new();
        loop {
            match self.carry_out(&mut login, &mut established, &mut out).await {
                Step::Wait => {}
                Step::Begin => {
                    let (new, session) = established?;
                    self.shared.metrics.results.ended(status::SUCCESS);
                    self.tell_one_way(&new);
                    return Some((self, new, session));
                }
                Step::End(why) => {
                    // A seat that was taken for nothing is free before the peer reads its answer.
                    drop(established);
                    self.end(&why).await;
                    return None;
                }
            }
            if let Err(why) = self.next_request(&mut login).await {
                let expected = matches!(why, Gone::Closed | Gone::Asked(_));
                if !expected {
                    self.shared.refused(self.peer, None, 0, why.told());
                }
                return None;
            }
        }
    }

    /// Waits a moment for the first words of the new session, so that they go to its worker together with it; true
    /// when it says nothing but that it leaves, or has left without a word.
    async fn leaves_at_once(&mut self) -> bool {
        if self.rx.len() == 0 {
            let first = tokio::select! {
                biased;
                read = self.stream.read(self.rx.space()) => read.ok(),
                // Whatever it is, the worker sees to it.
                () = poll_fn(|cx| self.notes.poll_news(cx)) => None,
                () = self.keeper.patience.wait() => None,
            };
            match first {
                Some(0) => return true,
                Some(n) => self.rx.filled(n),
                // Also of an error: the worker meets it again.
                None => {}
            }
        }
        // A logout for any other reason is refused, and the session goes on.
        let leaves = |header: &[u8; BHS_BYTES]| {
            let bhs = Bhs(*header);
            bhs.opcode() == op::LOGOUT && bhs.flags() & 0x7f == 0
        };
        self.rx.header().is_some_and(leaves)
    }

    /// Under mutual CHAP a node that does not ask for the head's proof is let in: only it can protect itself
    /// against a false head. That it does not is worth knowing.
    fn tell_one_way(&self, new: &Established) {
        if self.shared.targets.auth() == Auth::Mutual && !new.proven {
            self.shared.metrics.one_way.add(1);
            let initiator = &new.ask.initiator;
            tracing::info!(peer = %self.peer, %initiator, "logs in without asking the head for its proof");
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
                login::Output::Send(header, data) => {
                    self.last_status = header.u16_at(36);
                    Encoder::default().pdu(header, &[], &data, out);
                }
                login::Output::Ask(ask) => {
                    let access = self.shared.targets.decide(&ask);
                    self.target = ask.target;
                    self.initiator = Some(ask.initiator);
                    login.apply(login::Event::Access(access));
                }
                login::Output::Enter(new) => {
                    let deadline = login.deadline();
                    self.introduced(&new);
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
        if matches!(step, Step::End(_)) && self.last_status == status::AUTHENTICATION_FAILURE {
            self.back_off().await;
        }
        let sent = tokio::time::timeout_at(login.deadline().into(), self.stream.write_all(out));
        let gone = !matches!(sent.await, Ok(Ok(())));
        if !out.is_empty() {
            self.keeper.vigil.answered(Instant::now());
        }
        out.clear();
        if gone {
            return Step::End("the peer went away during its login".into());
        }
        step
    }

    /// Reads until a whole PDU is there and gives it to the machine.
    async fn next_request(&mut self, login: &mut Login) -> Result<(), Gone> {
        loop {
            match self.rx.next() {
                Found::Whole(frame) => {
                    let data = self.rx.bytes(frame.data.clone());
                    login.apply(login::Event::Request(&frame.bhs, data));
                    return Ok(());
                }
                Found::Broken(why) => return Err(Gone::Broken(why)),
                // Heads are not asked for during the login.
                Found::More | Found::Head(..) => {}
            }
            let deadline = login.deadline().into();
            let read = tokio::select! {
                read = tokio::time::timeout_at(deadline, self.stream.read(self.rx.space())) => read,
                note = self.notes.recv() => match note {
                    Some(Note::Leave { why, .. }) => return Err(Gone::Asked(why)),
                    Some(Note::Finish) => return Err(Gone::Asked("the head stops")),
                    // It comes again, and meets the order.
                    Some(Note::Drain) => return Err(Gone::Asked("drained")),
                    _ => continue,
                },
            };
            match read {
                Err(_) => return Err(Gone::Late),
                Ok(Ok(0) | Err(_)) => return Err(Gone::Closed),
                Ok(Ok(n)) => self.rx.filled(n),
            }
        }
    }

    /// Makes room for a session that passed its login: older ones end first, then its disk is attached.
    async fn enter(
        &mut self,
        new: &Established,
        deadline: Instant,
    ) -> Result<(u16, Option<Session>), Refusal> {
        let sessions = usize::try_from(self.shared.metrics.sessions.get()).unwrap_or(usize::MAX);
        if sessions >= self.shared.bounds.sessions {
            return Err((0x0302, "all places for sessions are taken".to_owned()));
        }
        if new.ask.session_type == SessionType::Discovery {
            self.discovery = self.shared.discover(self.peer.ip());
            if self.discovery.is_none() {
                return Err((0x0302, "too many discovery sessions".to_owned()));
            }
            return Ok((self.shared.targets.discovery_tsih(), None));
        }
        // Declared first, so dropped last: whoever waits for this login to give way goes on only when nothing
        // of it runs any more.
        let mut leavers = Vec::new();
        let mut told = None;
        let shared = Arc::clone(&self.shared);
        let work = take_seat(&shared, new, self.peer, self.handle.clone());
        let mut work = std::pin::pin!(tokio::time::timeout_at(deadline.into(), work));
        loop {
            tokio::select! {
                done = &mut work => return match (done, told) {
                    (_, Some(why)) => {
                        Err((0x0301, format!("another session came in between: {why}")))
                    }
                    (Ok(result), None) => result.map(|session| (session.tsih, Some(session))),
                    (Err(_), None) => {
                        Err((0x0301, "the disk was not ready in time; try again".to_owned()))
                    }
                },
                note = self.notes.recv() => match note {
                    Some(Note::Leave { why, done }) => {
                        leavers.extend(done);
                        told = Some(why);
                    }
                    Some(Note::Finish) => told = Some("the head stops"),
                    Some(Note::Drain) => told = Some("drained"),
                    _ => {}
                },
            }
        }
    }

    /// It has proved who it is, as far as that is demanded: it is no stranger any more.
    fn introduced(&mut self, new: &Established) {
        if let Some(mut ticket) = self.ticket.take() {
            ticket.pass();
        }
        if new.authenticated {
            self.shared.right_secret(self.peer.ip(), &new.ask.initiator);
        }
    }

    /// The answer to a wrong secret waits, the longer the more of them came.
    async fn back_off(&mut self) {
        let Some(name) = &self.initiator else { return };
        let wait = self.shared.wrong_secret(self.peer.ip(), name);
        let asked = async {
            while let Some(note) = self.notes.recv().await {
                if matches!(note, Note::Leave { .. } | Note::Finish) {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(wait, asked).await;
    }

    /// The login failed: it is told, and the peer gets a moment to read the answer.
    async fn end(mut self, why: &str) {
        let class = self.last_status >> 8;
        if class > 0 {
            self.shared.metrics.results.ended(self.last_status);
        }
        if class > 1 {
            self.shared.metrics.refused.add(1);
            let targets = &self.shared.targets;
            let node = self.target.take().and_then(|name| targets.node_of(&name));
            let (node, why) = (node.map(|node| node.name.clone()), why.to_owned());
            self.shared
                .refused(self.peer, node, self.last_status, Cow::Owned(why));
        }
        if let (1 | 3, Some(ticket)) = (class, &mut self.ticket) {
            ticket.pass();
        }
        linger(&mut self.stream).await;
    }
}

/// Why a login ended without an answer.
enum Gone {
    Broken(Violation),
    Late,
    Closed,
    Asked(&'static str),
}

impl Gone {
    fn told(&self) -> Cow<'static, str> {
        match self {
            Self::Broken(why) => Cow::Owned(why.to_string()),
            Self::Late => Cow::Borrowed("its login took too long"),
            Self::Closed => Cow::Borrowed("closed by the peer"),
            Self::Asked(why) => Cow::Borrowed(why),
        }
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
    let wait = shared
        .entry_wait(&node.name, limits::LOGIN_WAIT / 3)
        .ok_or_else(|| (0x0301, "too many logins to this node just now".to_owned()))?;
    // Also a sleep of no time lasts until the next tick of the timer's clock, a millisecond at most.
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    let (mut session, victims) = shared
        .targets
        .enter(node, &new.ask, peer.ip(), handle)
        .ok_or_else(|| {
            (
                0x0302,
                "all session handles of the target are in use".to_owned(),
            )
        })?;
    // Asked again now that the seat is taken: an order that came since either finds the seat or is found here.
    if shared.targets.is_drained(&session.node.name) {
        return Err((0x0301, "it was drained meanwhile".to_owned()));
    }
    if !victims.is_empty() {
        let count = u64::try_from(victims.len()).unwrap_or(u64::MAX);
        shared.metrics.replaced.add(count);
        await_end(victims)
            .await
            .map_err(|why| (0x0301, why.to_owned()))?;
    }
    await_left_behind(session.others()).await;
    match attach(shared, &session.node.name, session.kind).await? {
        Ok(attached) => {
            session.attach(attached, &name);
            Ok(session)
        }
        Err(e) => Err((status_of(e.kind), e.message)),
    }
}

/// Opens the node's disk: here, when nothing has to be waited for, else on an I/O thread.
async fn attach(
    shared: &Shared,
    node: &NodeName,
    kind: InitiatorKind,
) -> Result<Result<Attached, HeadError>, Refusal> {
    let firmware = kind == InitiatorKind::Firmware;
    let head = shared.targets.head();
    if let Some(done) = head.attach_at_once(node, firmware) {
        return Ok(done);
    }
    let (done, wait) = oneshot::channel();
    let (head, node) = (Arc::clone(head), node.clone());
    let job = Box::new(move || {
        let _ = done.send(head.attach(&node, firmware));
    });
    shared
        .pool
        .submit(job)
        .map_err(|_| (0x0302, "the I/O threads' queue is full".to_owned()))?;
    wait.await
        .map_err(|_| (0x0300, "attaching the disk was given up".to_owned()))
}

/// What a failure of the head means to an initiator. Class 2 stops a node for good, so it is kept for what
/// does not heal by waiting: open-iscsi never retries it.
const fn status_of(kind: HeadErrorKind) -> u16 {
    match kind {
        HeadErrorKind::NotFound => 0x0203,
        // The disk of that boot is gone: only a new boot of the node helps.
        HeadErrorKind::Gone => 0x0202,
        HeadErrorKind::Conflict | HeadErrorKind::Unavailable | HeadErrorKind::Invalid => 0x0301,
        HeadErrorKind::Refused | HeadErrorKind::Internal => 0x0300,
    }
}

/// Waits until the sessions beside this one that their peer has closed are over: what they held, a reservation or a
/// locked medium, is free before the new one asks. A worker that has much to do may not have noticed yet.
async fn await_left_behind(others: Vec<Handle>) {
    let ask = |other: Handle| {
        let (done, wait) = oneshot::channel();
        other.send(Note::Look { done }).ok().map(|()| wait)
    };
    let waits: Vec<_> = others.into_iter().filter_map(ask).collect();
    if !waits.is_empty() {
        // One that cannot end in time holds nobody up: it ends later, as it would have without being asked.
        let _ = tokio::time::timeout(limits::LEFT_BEHIND_WAIT, exec::all(waits)).await;
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
    tokio::time::timeout(limits::REINSTATE_WAIT, exec::all(waits))
        .await
        .map_err(|_| "an older session still has operations running")
}
