//! What a node does before it has a disk, and what it says when it is up: its loader by TFTP, its script by HTTP, the
//! ready call. Pure: datagrams, bytes and time come in; datagrams, bytes and wishes go out.
//!
//! ```text
//!   TFTP: loader, whole --> SCRIPT: fetched --sanboot--> over, with the disk that the script names
//!                              ^   '--wait its turn, N s--.
//!                              '--------------------------'
//!   READY: called, up to five times --> over
//! ```
//! One errand has one socket at a time, and a node at most one errand.

use std::net::SocketAddr;

use super::micros;
use super::tally::{Stage, Tally};
use crate::limits::{
    SWARM_LOGIN_WAIT, SWARM_READY_TRIES, SWARM_RECONNECTS, SWARM_RETRY_MAX, SWARM_RETRY_MIN,
    SWARM_SCRIPT_TROUBLES,
};
use crate::names::Mac;

mod http;
mod script;
mod tftp;

use http::{Agent, Answer, Reader};
pub(super) use script::Disk;
use script::{Script, Waits};
use tftp::Fetch;
pub(super) use tftp::Loaded;

/// What the nodes' firmware is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// A PXE ROM of a BIOS.
    #[default]
    Bios,
    /// UEFI on x86-64.
    Uefi,
}

impl Firmware {
    /// The loader that Reveille's DHCP offers it.
    #[must_use]
    pub const fn loader(self) -> &'static str {
        match self {
            Self::Bios => "undionly.kpxe",
            Self::Uefi => "ipxe.efi",
        }
    }

    /// Its name in a script's address.
    const fn arch(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi-x64",
        }
    }
}

/// The boot services that nodes use; those that are none are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootPath {
    /// Loaders are fetched there.
    pub tftp: Option<SocketAddr>,
    /// Scripts are fetched there, and readiness is told.
    pub http: Option<SocketAddr>,
    /// Who fetches.
    pub firmware: Firmware,
}

impl BootPath {
    /// Nothing of it happens before the login.
    pub(super) const fn is_empty(&self) -> bool {
        self.tftp.is_none() && self.http.is_none()
    }
}

/// What an errand wants of its shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Drop the socket, if there is one, and make one of UDP with a port of its own, to speak to here.
    Udp(SocketAddr),
    /// The same with a connection to here.
    Tcp(SocketAddr),
    /// Drop the socket.
    Close,
}

/// An errand on its way.
#[derive(Debug)]
pub(super) struct Errand {
    path: BootPath,
    mac: Mac,
    leg: Leg,
    /// When the stage, or its present try, began.
    since: u64,
    /// It waits for its turn since then.
    waits_since: Option<u64>,
    troubles: u32,
    loaded: Option<Loaded>,
    ended: Option<Result<Option<Box<Disk>>, String>>,
    /// There is a socket.
    open: bool,
    /// The last words of the leg before.
    left: Vec<(SocketAddr, Vec<u8>)>,
}

#[derive(Debug)]
enum Leg {
    Loader(Fetch),
    Script(Call),
    Ready(Call),
}

/// One HTTP request with its repetitions.
#[derive(Debug)]
struct Call {
    to: SocketAddr,
    path: String,
    agent: Agent,
    state: State,
    reader: Reader,
    out: Option<Vec<u8>>,
    tries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A connection is wanted from then on.
    Due(u64),
    /// It is being made, or the answer is due.
    Asked(u64),
}

impl Call {
    fn new(to: SocketAddr, path: String, agent: Agent, due: u64) -> Self {
        Self {
            to,
            path,
            agent,
            state: State::Due(due),
            reader: Reader::default(),
            out: None,
            tries: 0,
        }
    }

    const fn due(&self) -> u64 {
        match self.state {
            State::Due(at) => at,
            State::Asked(since) => since.saturating_add(micros_of(SWARM_LOGIN_WAIT)),
        }
    }
}

/// As [`micros`], where a constant is wanted.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a time of the limits, far below 2^64 us"
)]
const fn micros_of(time: std::time::Duration) -> u64 {
    time.as_micros() as u64
}

impl Errand {
    /// All that comes before the first login.
    pub(super) fn boot(path: BootPath, mac: Mac, now: u64) -> Self {
        let leg = match (path.tftp, path.http) {
            (Some(tftp), _) => Leg::Loader(Fetch::new(tftp, path.firmware.loader(), now)),
            (None, Some(http)) => Leg::Script(first_script(&path, http, mac, now)),
            (None, None) => return Self::with(path, mac, None, now),
        };
        Self::with(path, mac, Some(leg), now)
    }

    /// The ready call: what `reveille-ready` of an image does.
    pub(super) fn ready(path: BootPath, mac: Mac, now: u64) -> Self {
        let leg = path.http.map(|http| {
            let call = format!("/ready?mac={mac}");
            Leg::Ready(Call::new(http, call, Agent::Shell, now))
        });
        Self::with(path, mac, leg, now)
    }

    fn with(path: BootPath, mac: Mac, leg: Option<Leg>, now: u64) -> Self {
        let ended = leg.is_none().then_some(Ok(None));
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let none = || Leg::Ready(Call::new(nowhere, String::new(), Agent::Shell, now));
        Self {
            path,
            mac,
            leg: leg.unwrap_or_else(none),
            since: now,
            waits_since: None,
            troubles: 0,
            loaded: None,
            ended,
            open: false,
            left: Vec::new(),
        }
    }

    /// How it ended, once it has: with the disk that a script named, if there was a script.
    pub(super) fn take_end(&mut self) -> Option<Result<Option<Box<Disk>>, String>> {
        self.ended.take()
    }

    /// The loader, once it is whole. True only once.
    pub(super) fn take_loaded(&mut self) -> Option<Loaded> {
        self.loaded.take()
    }

    /// What it is about, for people.
    pub(super) const fn doing(&self) -> &'static str {
        match (&self.leg, self.waits_since) {
            (Leg::Loader(_), _) => "fetching its loader",
            (Leg::Script(_), None) => "fetching its script",
            (Leg::Script(_), Some(_)) => "waiting for its turn",
            (Leg::Ready(_), _) => "telling that it is ready",
        }
    }

    const fn stage(&self) -> &'static str {
        match self.leg {
            Leg::Loader(_) => "TFTP",
            Leg::Script(_) => "SCRIPT",
            Leg::Ready(_) => "READY",
        }
    }

    /// What the shell shall do now.
    pub(super) fn wish(&mut self, now: u64) -> Option<Wish> {
        if self.ended.is_some() {
            return None;
        }
        match &mut self.leg {
            Leg::Loader(fetch) => fetch.wants_port().then_some(Wish::Udp(fetch.server())),
            Leg::Script(call) | Leg::Ready(call) => match call.state {
                State::Due(due) if due <= now => Some(Wish::Tcp(call.to)),
                State::Due(_) => std::mem::take(&mut self.open).then_some(Wish::Close),
                State::Asked(_) => None,
            },
        }
    }

    /// That would be a socket.
    pub(super) fn wants_socket(&self, now: u64) -> bool {
        match &self.leg {
            _ if self.ended.is_some() => false,
            Leg::Loader(fetch) => fetch.wants_port(),
            Leg::Script(call) | Leg::Ready(call) => {
                matches!(call.state, State::Due(due) if due <= now)
            }
        }
    }

    /// A socket is being made as it was wished: one of UDP is there, a connection will be.
    pub(super) fn opened(&mut self, now: u64) {
        self.open = true;
        match &mut self.leg {
            Leg::Loader(fetch) => fetch.begin(now),
            Leg::Script(call) | Leg::Ready(call) => {
                call.state = State::Asked(now);
                call.reader = Reader::default();
                call.out = None;
            }
        }
    }

    /// The connection stands.
    pub(super) fn connected(&mut self) {
        if let Leg::Script(call) | Leg::Ready(call) = &mut self.leg
            && matches!(call.state, State::Asked(_))
        {
            call.out = Some(http::get(call.agent, &call.to.to_string(), &call.path));
        }
    }

    /// The next bytes to send, and where to if by UDP.
    pub(super) fn next_out(&mut self) -> Option<(Option<SocketAddr>, Vec<u8>)> {
        if !self.left.is_empty() {
            let (to, bytes) = self.left.remove(0);
            return Some((Some(to), bytes));
        }
        match &mut self.leg {
            Leg::Loader(fetch) => fetch.next_out().map(|(to, bytes)| (Some(to), bytes)),
            Leg::Script(call) | Leg::Ready(call) => call.out.take().map(|bytes| (None, bytes)),
        }
    }

    /// When `tick` or `wish` has something to do without being asked.
    pub(super) fn due(&self) -> Option<u64> {
        match &self.leg {
            _ if self.ended.is_some() => None,
            Leg::Loader(fetch) if fetch.wants_port() => Some(self.since),
            Leg::Loader(fetch) => fetch.due(),
            Leg::Script(call) | Leg::Ready(call) => Some(call.due()),
        }
    }

    /// Bytes came; by UDP, from there.
    pub(super) fn hear(
        &mut self,
        from: Option<SocketAddr>,
        bytes: &[u8],
        tally: &mut Tally,
        now: u64,
    ) {
        if self.ended.is_some() {
            return;
        }
        let answer = match &mut self.leg {
            Leg::Loader(fetch) => {
                if let Some(from) = from {
                    fetch.hear(from, bytes, now);
                    self.after_fetch(tally, now);
                }
                return;
            }
            Leg::Script(call) | Leg::Ready(call) => {
                if !matches!(call.state, State::Asked(_)) {
                    return;
                }
                call.reader.hear(bytes)
            }
        };
        match answer {
            Ok(None) => {}
            Ok(Some(answer)) => self.answered(&answer, tally, now),
            Err(why) => self.failed(&why, now),
        }
    }

    /// The connection is gone, or could not be made: `why`, or the other side closed it.
    pub(super) fn lost(&mut self, why: Option<&str>, tally: &mut Tally, now: u64) {
        let (Leg::Script(call) | Leg::Ready(call)) = &mut self.leg else {
            return self.failed(why.unwrap_or("its socket was closed"), now);
        };
        if self.ended.is_some() || !matches!(call.state, State::Asked(_)) {
            return;
        }
        let answer = match why {
            None => call.reader.closed(),
            Some(why) => Err(why.to_owned()),
        };
        match answer {
            Ok(answer) => self.answered(&answer, tally, now),
            Err(why) => self.failed(&why, now),
        }
    }

    /// Time passes.
    pub(super) fn tick(&mut self, tally: &mut Tally, now: u64) {
        if self.ended.is_some() {
            return;
        }
        match &mut self.leg {
            Leg::Loader(fetch) => {
                fetch.tick(now);
                self.after_fetch(tally, now);
            }
            Leg::Script(call) | Leg::Ready(call) => {
                if matches!(call.state, State::Asked(_)) && call.due() <= now {
                    let wait = SWARM_LOGIN_WAIT.as_secs();
                    self.failed(&format!("no answer within {wait} s"), now);
                }
            }
        }
    }

    fn end(&mut self, how: Result<Option<Box<Disk>>, String>) {
        let stage = self.stage();
        self.ended = Some(how.map_err(|why| format!("{stage}: {why}")));
    }

    fn after_fetch(&mut self, tally: &mut Tally, now: u64) {
        let Leg::Loader(fetch) = &mut self.leg else {
            return;
        };
        match fetch.ended().cloned() {
            None => {}
            Some(Err(why)) => self.end(Err(why)),
            Some(Ok(loaded)) => {
                self.left.extend(std::iter::from_fn(|| fetch.next_out()));
                tally.time(Stage::Loader, now.saturating_sub(self.since));
                tally.counts.loader_bytes += loaded.bytes;
                self.loaded = Some(loaded);
                self.since = now;
                match self.path.http {
                    Some(http) => {
                        self.leg = Leg::Script(first_script(&self.path, http, self.mac, now));
                    }
                    None => self.end(Ok(None)),
                }
            }
        }
    }

    /// A try of an HTTP request failed: there is another one after a while, or not.
    fn failed(&mut self, why: &str, now: u64) {
        let ready = matches!(self.leg, Leg::Ready(_));
        let (Leg::Script(call) | Leg::Ready(call)) = &mut self.leg else {
            return self.end(Err(why.to_owned()));
        };
        call.tries += 1;
        let most = if ready {
            SWARM_READY_TRIES
        } else {
            SWARM_RECONNECTS
        };
        if call.tries >= most {
            let (to, tries) = (call.to, call.tries);
            return self.end(Err(format!("{to}: {why}; it was tried {tries} times")));
        }
        // `reveille-ready` waits 1, 2, 4 and 8 s; iPXE's own tries are quick.
        let doubled = 1u32 << (call.tries - 1).min(16);
        let wait = match ready {
            true => std::time::Duration::from_secs(1).saturating_mul(doubled),
            false => SWARM_RETRY_MIN.saturating_mul(doubled).min(SWARM_RETRY_MAX),
        };
        call.state = State::Due(now.saturating_add(micros(wait)));
    }

    fn answered(&mut self, answer: &Answer, tally: &mut Tally, now: u64) {
        let (Leg::Script(call) | Leg::Ready(call)) = &mut self.leg else {
            return;
        };
        if answer.status != 200 {
            let line = answer.body.lines().next().unwrap_or_default();
            let line: String = line.chars().take(200).collect();
            let why = format!("status {}, {}", answer.status, line.escape_debug());
            if answer.status >= 500 {
                return self.failed(&why, now);
            }
            let to = call.to;
            return self.end(Err(format!("{to}: {why}")));
        }
        call.tries = 0;
        if matches!(self.leg, Leg::Ready(_)) {
            tally.time(Stage::Ready, now.saturating_sub(self.since));
            return self.end(Ok(None));
        }
        tally.time(Stage::Script, now.saturating_sub(self.since));
        match script::read(&answer.body) {
            Ok(Script::Boot(disk)) => {
                if let Some(since) = self.waits_since.take() {
                    tally.time(Stage::Turn, now.saturating_sub(since));
                }
                self.end(Ok(Some(disk)));
            }
            Ok(Script::Wait {
                seconds,
                says,
                why,
                next,
            }) => self.wait((why, seconds), &says, &next, now),
            Ok(Script::Leave { says }) => {
                self.end(Err(format!("the head's script starts no disk: {says}")));
            }
            Err(why) => self.end(Err(why)),
        }
    }

    fn wait(&mut self, (why, seconds): (Waits, u64), says: &str, next: &str, now: u64) {
        let gives_up = match why {
            Waits::Turn => false,
            Waits::Trouble => {
                self.troubles += 1;
                self.troubles >= SWARM_SCRIPT_TROUBLES
            }
            Waits::Somebody => true,
        };
        if gives_up {
            return self.end(Err(format!("the head's script starts no disk: {says}")));
        }
        if why == Waits::Turn {
            self.waits_since.get_or_insert(now);
        }
        let Some((to, path)) = split_url(next) else {
            let next: String = next.chars().take(80).collect();
            return self.end(Err(format!(
                "its script goes on at `{}`, which is no address",
                next.escape_debug()
            )));
        };
        let until = now.saturating_add(seconds.saturating_mul(1_000_000));
        self.since = until;
        self.leg = Leg::Script(Call::new(to, path, Agent::Ipxe, until));
    }
}

/// What iPXE fetches first: the address that Reveille's DHCP gives it.
fn first_script(path: &BootPath, http: SocketAddr, mac: Mac, now: u64) -> Call {
    let arch = path.firmware.arch();
    Call::new(
        http,
        format!("/boot?mac={mac}&arch={arch}"),
        Agent::Ipxe,
        now,
    )
}

/// `http://10.0.0.1:8068/boot?x` in two.
fn split_url(url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/')?;
    let to = host.parse().ok().or_else(|| {
        let ip = host.parse().ok()?;
        Some(SocketAddr::new(ip, 80))
    })?;
    Some((to, format!("/{path}")))
}

#[cfg(test)]
#[path = "firmware_test.rs"]
mod test;
