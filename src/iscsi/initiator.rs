//! A small iSCSI initiator: for our tests, for `doctor`, and the core of the load swarm.
//!
//! It is no general initiator: one connection, error recovery level 0, no reconnect. It is strict: what
//! EDK2, Linux or libiscsi would take for a fault of the target is an error here.
//!
//! ```text
//!  profiles  what known initiators offer
//!  offer     the login (pure)
//!  engine    commands and tasks of the full feature phase (pure)
//!  here      the socket: `submit` queues, `complete` sends, receives, and yields what is done
//! ```
//!
//! `complete` is cancel safe: it only waits for readiness, then reads and writes without waiting. So a
//! caller may wrap it in a timeout and go on.

pub mod engine;
pub mod offer;
pub mod profiles;

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::io::Interest;
use tokio::net::{TcpStream, lookup_host};

use self::engine::{Command, Completion, Done, Engine, Transfer};
use self::offer::{Client, LoggedIn, Next, Offer};
use super::frame::{AHS_BYTES_MAX, Decoder, Encoder};
use super::keys::parse;
use super::pdu::Bhs;
use super::rx::{Found, Rx};
use crate::limits::{INITIATOR_READ_BYTES, REDIRECTS_MAX};

/// What went wrong, as far as a caller may act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The operating system refused or failed an operation.
    Io,
    /// The target closed the connection.
    Closed,
    /// The target refused the login with this status.
    Refused(u16),
    /// The target broke the protocol.
    Protocol,
    /// The target did not prove itself (mutual CHAP).
    Untrusted,
    /// Too many commands are outstanding: complete some first.
    WindowClosed,
}

/// An error of the initiator: kind, what it concerns, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
}

impl Error {
    /// An error with a sentence.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
        }
    }

    fn io(what: &str, source: &io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("{what}: {source}"))
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {}

/// A connection with framing, without a protocol above it: also for tests of bad manners.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    rx: Rx,
    /// Bytes to send, and how many of them are sent.
    out: Vec<u8>,
    sent: usize,
}

impl Wire {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await;
        let stream =
            stream.map_err(|error| Error::io(&format!("connecting to {address}"), &error))?;
        // A failure here costs latency only.
        let _ = stream.set_nodelay(true);
        let decoder = Decoder {
            first_byte: None,
            ahs_max: AHS_BYTES_MAX,
            ..Decoder::login()
        };
        Ok(Self {
            stream,
            rx: Rx::new(decoder, INITIATOR_READ_BYTES),
            out: Vec::new(),
            sent: 0,
        })
    }

    /// Queues bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Queues a PDU without digests.
    pub fn put_pdu(&mut self, bhs: Bhs, data: &[u8]) {
        Encoder::default().pdu(bhs, &[], data, &mut self.out);
    }

    /// Sends all that is queued.
    pub async fn flush(&mut self) -> Result<(), Error> {
        while !self.try_send()? {
            let ready = self.stream.writable().await;
            ready.map_err(|error| Error::io("waiting to send", &error))?;
        }
        Ok(())
    }

    /// Sends what is queued, and waits for one PDU. `None` when the target closed.
    pub async fn receive(&mut self) -> Result<Option<(Bhs, Vec<u8>)>, Error> {
        loop {
            match self.rx.next() {
                Found::Whole(frame) => {
                    return Ok(Some((frame.bhs, self.rx.bytes(frame.data).to_vec())));
                }
                Found::Broken(why) => {
                    return Err(Error::new(ErrorKind::Protocol, why.to_string()));
                }
                // Heads are not asked for.
                Found::More | Found::Head(..) => {}
            }
            if !self.exchange().await? {
                return Ok(None);
            }
        }
    }

    /// Waits until bytes could be sent or received, and does both. False when the target closed.
    async fn exchange(&mut self) -> Result<bool, Error> {
        loop {
            let idle = self.try_send()?;
            let interest = if idle {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = self.stream.ready(interest).await;
            let ready = ready.map_err(|error| Error::io("waiting for the target", &error))?;
            if !ready.is_readable() && !ready.is_read_closed() {
                continue;
            }
            match self.stream.try_read(self.rx.space()) {
                Ok(0) => return Ok(false),
                Ok(len) => {
                    self.rx.filled(len);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(Error::io("receiving", &error)),
            }
        }
    }

    /// Sends without waiting; true when nothing is left.
    fn try_send(&mut self) -> Result<bool, Error> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.try_write(rest) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(Error::io("sending", &error)),
            }
        }
        self.out.clear();
        self.out.shrink_to(4 * INITIATOR_READ_BYTES);
        self.sent = 0;
        Ok(true)
    }
}

/// A session in full feature phase.
#[derive(Debug)]
pub struct Initiator {
    wire: Wire,
    engine: Engine,
    login: LoggedIn,
    address: SocketAddr,
}

impl Initiator {
    /// Connects and logs in; follows redirections.
    pub async fn connect(address: SocketAddr, offer: Offer) -> Result<Self, Error> {
        let mut address = address;
        for _ in 0..=REDIRECTS_MAX {
            let mut wire = Wire::connect(address).await?;
            match log_in(&mut wire, offer.clone()).await? {
                Ok(login) => {
                    wire.rx.expect(Decoder {
                        data_max: login.agreed.initiator_mrdsl,
                        ..Decoder::full_feature(&login.agreed)
                    });
                    return Ok(Self {
                        engine: Engine::new(&login),
                        wire,
                        login,
                        address,
                    });
                }
                Err(moved) => address = resolve(&moved).await?,
            }
        }
        Err(Error::new(
            ErrorKind::Protocol,
            format!("more than {REDIRECTS_MAX} redirections"),
        ))
    }

    /// What the login agreed on.
    #[must_use]
    pub const fn login(&self) -> &LoggedIn {
        &self.login
    }

    /// The address that was reached, after redirections.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The machine below: for its numbers, and for bad manners.
    pub const fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Queues a command; it is sent by `complete` or `flush`. Its task tag.
    pub fn submit(&mut self, command: Command) -> Result<u32, Error> {
        self.engine.submit(command)
    }

    /// Sends what is queued, and waits for the next thing the target says.
    pub async fn complete(&mut self) -> Result<Completion, Error> {
        loop {
            self.take_in()?;
            if let Some(said) = self.engine.said.pop_front() {
                return Ok(said);
            }
            self.hand_over();
            if !self.wire.exchange().await? {
                return Err(Error::new(
                    ErrorKind::Closed,
                    "the target closed the connection",
                ));
            }
        }
    }

    /// Sends all that is queued, without receiving.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.hand_over();
        self.wire.flush().await
    }

    /// What is done already, without waiting.
    pub fn try_complete(&mut self) -> Option<Completion> {
        self.engine.said.pop_front()
    }

    /// Runs one command to its end; what else is said meanwhile stays for `complete`.
    pub async fn execute(&mut self, command: Command) -> Result<Done, Error> {
        let wanted = self.submit(command)?;
        let said = self
            .until(|said| matches!(said, Completion::Command(d) if d.tag == wanted))
            .await?;
        match said {
            Completion::Command(done) => Ok(done),
            _ => Err(Error::new(ErrorKind::Protocol, "not a command")),
        }
    }

    /// A command that reads at most `len` bytes.
    pub async fn read(&mut self, lun: u8, cdb: &[u8], len: u32) -> Result<Done, Error> {
        self.execute(Command::new(lun, cdb, Transfer::In(len, Some(Vec::new()))))
            .await
    }

    /// A command that writes `data`.
    pub async fn write(&mut self, lun: u8, cdb: &[u8], data: &[u8]) -> Result<Done, Error> {
        self.execute(Command::new(lun, cdb, Transfer::Out(data.into())))
            .await
    }

    /// Pings; the echo.
    pub async fn nop(&mut self, data: &[u8]) -> Result<Vec<u8>, Error> {
        let wanted = self.engine.nop(data)?;
        match self
            .until(|said| matches!(said, Completion::Nop { tag, .. } if *tag == wanted))
            .await?
        {
            Completion::Nop { data, .. } => Ok(data),
            _ => Err(Error::new(ErrorKind::Protocol, "not a ping")),
        }
    }

    /// Task management (RFC 7143 11.5.1); the response code. A task that was aborted with success is
    /// forgotten.
    pub async fn task_management(&mut self, function: u8, lun: u8, tag: u32) -> Result<u8, Error> {
        let wanted = self.engine.task_management(function, lun, tag)?;
        let is_it =
            |s: &Completion| matches!(s, Completion::TaskManagement { tag, .. } if *tag == wanted);
        match self.until(is_it).await? {
            Completion::TaskManagement { response, .. } => {
                if function == 1 && response == 0 {
                    self.engine.forget(tag);
                }
                Ok(response)
            }
            _ => Err(Error::new(ErrorKind::Protocol, "not task management")),
        }
    }

    /// A text request; the answers.
    pub async fn text(&mut self, text: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let wanted = self.engine.text(text)?;
        match self
            .until(|said| matches!(said, Completion::Text { tag, .. } if *tag == wanted))
            .await?
        {
            Completion::Text { data, .. } => {
                let pairs = parse(&data, usize::MAX);
                let pairs =
                    pairs.map_err(|error| Error::new(ErrorKind::Protocol, error.to_string()))?;
                Ok(pairs
                    .into_iter()
                    .map(|pair| (pair.key, pair.value))
                    .collect())
            }
            _ => Err(Error::new(ErrorKind::Protocol, "not text")),
        }
    }

    /// Lists targets: `All`, a name, or the session's own (empty).
    pub async fn send_targets(&mut self, which: &str) -> Result<Vec<(String, String)>, Error> {
        self.text(format!("SendTargets={which}\0").as_bytes()).await
    }

    /// Logs out, and waits for the target to close. Other answers are dropped.
    pub async fn logout(mut self) -> Result<u8, Error> {
        self.engine.logout()?;
        match self
            .until(|said| matches!(said, Completion::Logout { .. }))
            .await?
        {
            Completion::Logout { response } => Ok(response),
            _ => Err(Error::new(ErrorKind::Protocol, "not a logout")),
        }
    }

    /// Gives up the session but keeps the connection, framed: what was queued is sent first.
    #[must_use]
    pub fn into_wire(mut self) -> Wire {
        self.hand_over();
        self.wire
    }

    /// Waits for what `is_it` recognises; the rest stays in order.
    async fn until(&mut self, is_it: impl Fn(&Completion) -> bool) -> Result<Completion, Error> {
        let mut earlier = Vec::new();
        let result = loop {
            match self.complete().await {
                Ok(said) if is_it(&said) => break Ok(said),
                Ok(Completion::Reject { reason, header }) => {
                    let opcode = header.first().copied().unwrap_or_default();
                    let context =
                        format!("the target rejected opcode {opcode:#04x}: {reason:#04x}");
                    earlier.push(Completion::Reject { reason, header });
                    break Err(Error::new(ErrorKind::Protocol, context));
                }
                Ok(said) => earlier.push(said),
                Err(error) => break Err(error),
            }
        };
        for said in earlier.into_iter().rev() {
            self.engine.said.push_front(said);
        }
        result
    }

    /// Decodes every whole PDU that was received.
    fn take_in(&mut self) -> Result<(), Error> {
        let protocol = |why: String| Err(Error::new(ErrorKind::Protocol, why));
        loop {
            match self.wire.rx.next() {
                Found::Whole(frame) if frame.intact => {
                    let data = self.wire.rx.bytes(frame.data);
                    self.engine.hear(&frame.bhs, data)?;
                }
                Found::Whole(_) => return protocol("the data digest does not match".into()),
                Found::Broken(why) => return protocol(why.to_string()),
                // Heads are not asked for.
                Found::More | Found::Head(..) => return Ok(()),
            }
        }
    }

    /// Moves what the engine queued to the wire.
    fn hand_over(&mut self) {
        if self.wire.out.is_empty() {
            std::mem::swap(&mut self.wire.out, &mut self.engine.out);
        } else {
            self.wire.out.append(&mut self.engine.out);
        }
    }
}

/// One login on a fresh connection: the session, or the address to go to instead.
async fn log_in(wire: &mut Wire, offer: Offer) -> Result<Result<LoggedIn, String>, Error> {
    let mut client = Client::new(offer);
    let (mut bhs, mut data) = client.start();
    loop {
        wire.put_pdu(bhs, &data);
        let Some((answer, text)) = wire.receive().await? else {
            let context = "the target closed the connection during the login";
            return Err(Error::new(ErrorKind::Closed, context));
        };
        (bhs, data) = match client.answer(&answer, &text)? {
            Next::Send(bhs, data) => (bhs, data),
            Next::Done(login) => return Ok(Ok(*login)),
            Next::Redirect(address) => return Ok(Err(address)),
        };
    }
}

async fn resolve(address: &str) -> Result<SocketAddr, Error> {
    let what = format!(
        "resolving the redirection to `{}`",
        super::keys::quote(address.as_bytes())
    );
    let mut found = lookup_host(address)
        .await
        .map_err(|error| Error::io(&what, &error))?;
    found.next().ok_or_else(|| Error::new(ErrorKind::Io, what))
}

#[cfg(test)]
#[path = "initiator/wire_test.rs"]
mod test;
