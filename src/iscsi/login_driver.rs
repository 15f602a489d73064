//! The login phase of a connection's task: carries out what `login.rs` says, makes room for the new session,
//! and attaches its disk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::driver::{Feature, Handle, Note, linger};
use super::frame::{Decoder, Encoder};
use super::login::{self, Established, Login};
use super::params::SessionType;
use super::rx::{Found, Rx};
use super::server::Shared;
use super::session::Eviction;
use super::target::{Auth, PORTAL_GROUP, Session};
use crate::events::{EventKind, InitiatorKind};
use crate::head::HeadErrorKind;
use crate::limits;
use crate::names::NodeName;

/// A connection in the login phase.
pub(super) struct Door {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// May hold PDUs of the full feature phase already when the login is over.
    pub(super) rx: Rx,
    pub(super) notes: mpsc::UnboundedReceiver<Note>,
    handle: Handle,
    /// The node it asked for.
    target: Option<NodeName>,
    /// Status of the last login response.
    last_status: u16,
    pub(super) shared: Arc<Shared>,
}

/// Why a session may not begin: Status-Class and -Detail, and the cause.
type Refusal = (u16, String);

impl Door {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        handle: Handle,
        notes: mpsc::UnboundedReceiver<Note>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            stream,
            peer,
            rx: Rx::new(Decoder::login(), limits::RECEIVE_MAX),
            notes,
            handle,
            target: None,
            last_status: 0,
            shared,
        }
    }

    /// Logs the initiator in; none when it did not get in.
    pub(super) async fn login(mut self) -> Option<Box<Feature>> {
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
            algorithms: self.shared.targets.algorithms(),
            accepted: Instant::now(),
        });
        let mut established = None;
        let mut out = Vec::new();
        loop {
            match self.carry_out(&mut login, &mut established, &mut out).await {
                Step::Wait => {}
                Step::Begin => {
                    let (new, session) = established?;
                    self.tell_one_way(&new);
                    return Feature::new(self, *new, session).map(Box::new);
                }
                Step::End(why) => {
                    // A seat that was taken for nothing is free before the peer reads its answer.
                    drop(established);
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

    /// Reads until a whole PDU is there and gives it to the machine.
    async fn next_request(&mut self, login: &mut Login) -> Result<(), String> {
        loop {
            match self.rx.next() {
                Found::Whole(frame) => {
                    let data = self.rx.bytes(frame.data.clone());
                    login.apply(login::Event::Request(&frame.bhs, data));
                    return Ok(());
                }
                Found::Broken(why) => return Err(why.to_string()),
                // Heads are not asked for during the login.
                Found::More | Found::Head(..) => {}
            }
            let deadline = login.deadline().into();
            let read = tokio::select! {
                read = tokio::time::timeout_at(deadline, self.stream.read(self.rx.space())) => read,
                note = self.notes.recv() => match note {
                    Some(Note::Leave { why, .. }) => return Err(why.to_owned()),
                    _ => continue,
                },
            };
            match read {
                Err(_) => return Err("its login took too long".to_owned()),
                Ok(Ok(0)) => return Err("closed by the peer".to_owned()),
                Ok(Ok(n)) => self.rx.filled(n),
                Ok(Err(_)) => return Err("the connection failed".to_owned()),
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
                note = self.notes.recv() => if let Some(Note::Leave { why, done }) = note {
                    leavers.extend(done);
                    told = Some(why);
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
        .ok_or_else(|| {
            (
                0x0302,
                "all session handles of the target are in use".to_owned(),
            )
        })?;
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
