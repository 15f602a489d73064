//! One virtual node, from its first connection to the reading back of what it wrote. Pure: bytes and time come in,
//! bytes and wishes go out.
//!
//! ```text
//!  waiting -> connecting -> logging in -> probing -> running --last session--> reading back -> logging out -> over
//!     ^                                                 '----next session----> logging out --.
//!     '---- the connection was lost: everything under way is sent again --------------------'
//! ```
//! If it boots from the network, an errand (`firmware.rs`) comes before the first waiting is over and names the
//! disk, and another one, the ready call, before it reads back.
//! Memory: the node itself, its ledger and flow, and a few hundred bytes of its link; nothing that it reads.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use super::check::{Known, Mismatch, Names, Verdict};
use super::data::{self, Author};
use super::error::Error;
use super::firmware::{BootPath, Disk, Errand, Loaded};
use super::flow::Flow;
use super::golden::Golden;
use super::ledger::Ledger;
use super::link::{Done, Ear, Heard, Link};
use super::micros;
use super::plan::{Plan, PlanOp, Who};
use super::report::NodeReport;
use super::tally::{Stage, Tally};
use crate::iscsi::initiator::offer::Offer;
use crate::iscsi::initiator::{Error as WireError, ErrorKind};
use crate::iscsi::login::Credentials;
use crate::limits::{
    BOOT_HTTP_PER_CLIENT, SWARM_BUSY_TRIES, SWARM_DEPTH_MAX, SWARM_LOGIN_WAIT,
    SWARM_LOGINS_AT_ONCE, SWARM_RECONNECTS, SWARM_RETRIES, SWARM_RETRY_MAX, SWARM_RETRY_MIN,
    SWARM_VERIFY_BYTES, SWARM_VERIFY_DEPTH, TFTP_PER_CLIENT,
};
use crate::names::Mac;
use crate::trace::OpKind;

mod answer;
mod command;
mod errands;

use command::Probe;

/// How much is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Every read, and at the end all that was written is read back.
    #[default]
    All,
    /// Every read.
    Reads,
    /// Nothing.
    None,
}

/// Who a node is, and where its disk is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name in reports.
    pub name: String,
    /// Portal of its target.
    pub portal: SocketAddr,
    /// TargetName.
    pub target: String,
    /// InitiatorName.
    pub initiator: String,
    /// Its own secret, if the target demands one.
    pub chap: Option<Credentials>,
    /// The target's secret, if the target is made to prove itself.
    pub mutual: Option<Credentials>,
    /// Its network card; one that boots from the network must have one.
    pub mac: Option<Mac>,
    /// The address that it speaks from; none: as the system chooses.
    pub source: Option<IpAddr>,
}

/// What all nodes share.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    golden: Option<Golden>,
    nodes: Vec<Identity>,
    /// What the first whole loader was: all are the same.
    loader: OnceLock<Loaded>,
    /// The boot services that nodes use before their disk.
    pub boot: BootPath,
    /// Makes what nodes write differ from run to run.
    pub seed: u64,
    /// How much is compared.
    pub verify: Verify,
    /// Operations that would change the disk are left out.
    pub read_only: bool,
    /// Number of the LUN, below 256.
    pub lun: u8,
    /// An operation that is not answered so long is sent again, over a new connection.
    pub answer_wait: Duration,
}

impl World {
    /// A plan for these nodes. `golden` is what the image holds in [`Plan::read_ranges`].
    ///
    /// # Errors
    /// The golden bytes are not those of the plan.
    pub fn new(
        mut plan: Plan,
        golden: Option<Golden>,
        nodes: Vec<Identity>,
    ) -> Result<Self, Error> {
        if let Some(golden) = &golden {
            plan.place_golden(golden)?;
        }
        Ok(Self {
            plan,
            golden,
            nodes,
            loader: OnceLock::new(),
            boot: BootPath::default(),
            seed: 1,
            verify: Verify::All,
            read_only: false,
            lun: 0,
            answer_wait: Duration::from_secs(60),
        })
    }

    /// The plan.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Identity] {
        &self.nodes
    }

    /// Errands that may be under way at one time: what a head takes of one address, or of many.
    pub(super) fn errands_at_once(&self) -> usize {
        let own = self.nodes.iter().all(|node| node.source.is_some());
        match (own, self.boot.tftp) {
            (true, _) => SWARM_LOGINS_AT_ONCE,
            (false, Some(_)) => TFTP_PER_CLIENT,
            (false, None) => BOOT_HTTP_PER_CLIENT,
        }
    }

    /// Takes other nodes: for another step over the same trace.
    pub fn set_nodes(&mut self, nodes: Vec<Identity>) {
        self.nodes = nodes;
    }
}

impl Names for World {
    fn name(&self, node: u32) -> Option<&str> {
        self.nodes.get(node as usize).map(|n| n.name.as_str())
    }

    fn count(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }
}

/// What a node wants of its shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Drop the connection, if there is one, and make one to here.
    Connect(SocketAddr),
    /// Drop the connection.
    Close,
    /// Nothing, until bytes come or `due`.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Fetches its loader and its script.
    Booting,
    Waiting {
        until: u64,
    },
    Connecting,
    LoggingIn,
    Probing(Probe),
    Running,
    /// Says that it is up.
    Calling,
    ReadingBack,
    LoggingOut,
    Over,
}

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Probe(Probe),
    Op(u32),
    /// A piece of what is read back.
    Back(u32),
}

/// A command under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    job: Job,
    tries: u32,
    sent_at: u64,
    /// The ledger's moment at which it began.
    since: u32,
    /// A write touched what it reads.
    touched: bool,
    /// It was found wrong, and counted.
    wrong: bool,
}

/// A node: its link, and its life around it.
#[derive(Debug)]
pub(super) struct Node {
    link: Link,
    life: Life,
}

#[derive(Debug)]
struct Life {
    id: u32,
    phase: Phase,
    /// When the phase began.
    since: u64,
    flow: Flow,
    ledger: Ledger,
    flights: Vec<Option<Flight>>,
    under_way: usize,
    /// To be sent again: from when on, what, how often it was sent.
    again: VecDeque<(u64, Job, u32)>,
    /// What is read back, and the next of it.
    back: Vec<(u64, u64)>,
    back_next: u32,
    portal: SocketAddr,
    /// Its own portal, whatever a redirection said.
    home: SocketAddr,
    /// Connections lost since something was last answered.
    losses: u32,
    close: bool,
    /// What it has to do before its first login.
    boots: Option<(BootPath, Mac)>,
    /// The ready call that it has to make.
    calls: Option<(BootPath, Mac)>,
    errand: Option<Box<Errand>>,
    /// Drop the errand's socket.
    close_errand: bool,
    /// The last words of an errand that is over.
    farewells: VecDeque<(Option<SocketAddr>, Vec<u8>)>,
    /// The disk that its script named.
    disk: Option<Box<Disk>>,
    /// Data of probes.
    small: Vec<u8>,
    /// The target's blocks, bytes.
    block: u64,
    /// Unmapped blocks read zeros.
    zeroes: bool,
    began: Option<u64>,
    session_began: u64,
    report: NodeReport,
}

/// The life, and what it needs while it hears.
struct Hearing<'a> {
    life: &'a mut Life,
    world: &'a World,
    tally: &'a mut Tally,
    now: u64,
}

impl Node {
    /// A node that begins at `start` (microseconds of the run).
    pub(super) fn new(id: u32, world: &World, start: u64) -> Self {
        let identity = world.nodes.get(id as usize);
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let portal = identity.map_or(unspecified, |node| node.portal);
        let name = identity.map_or_else(String::new, |node| node.name.clone());
        let mac = identity.and_then(|node| node.mac);
        let boots = mac.map(|mac| (world.boot, mac));
        let boots = boots.filter(|(path, _)| !path.is_empty());
        Self {
            link: Link::new(u64::from(world.lun) << 48),
            life: Life {
                id,
                phase: Phase::Waiting { until: start },
                since: start,
                flow: Flow::default(),
                ledger: Ledger::default(),
                flights: Vec::new(),
                under_way: 0,
                again: VecDeque::new(),
                back: Vec::new(),
                back_next: 0,
                portal,
                home: portal,
                losses: 0,
                close: false,
                boots,
                calls: boots.filter(|(path, _)| path.http.is_some()),
                errand: None,
                close_errand: false,
                farewells: VecDeque::new(),
                disk: None,
                small: Vec::new(),
                block: data::SECTOR,
                zeroes: false,
                began: None,
                session_began: start,
                report: NodeReport::new(name),
            },
        }
    }

    /// True when nothing more will happen.
    pub(super) fn is_over(&self) -> bool {
        self.life.phase == Phase::Over && !self.life.close && !self.life.close_errand
    }

    /// `action` would ask for a connection.
    pub(super) const fn wants_connection(&self, now: u64) -> bool {
        let waits = matches!(self.life.phase, Phase::Waiting { until } if until <= now);
        waits && self.life.boots.is_none()
    }

    /// It is on its way in.
    pub(super) const fn is_entering(&self) -> bool {
        matches!(self.life.phase, Phase::Connecting | Phase::LoggingIn)
    }

    /// What became of it so far.
    pub(super) const fn report(&self) -> &NodeReport {
        &self.life.report
    }

    /// What the shell shall do now. To be asked after every other call, until it says nothing.
    pub(super) fn action(&mut self, now: u64) -> Action {
        let life = &mut self.life;
        if std::mem::take(&mut life.close) {
            return Action::Close;
        }
        match life.phase {
            Phase::Waiting { until } if until <= now => {
                if life.began.is_none() {
                    life.began = Some(now);
                    life.report.began_us = now;
                }
                if life.boots.is_some() {
                    life.boot(now);
                    return Action::Nothing;
                }
                life.enter(Phase::Connecting, now);
                Action::Connect(life.portal)
            }
            _ => Action::Nothing,
        }
    }

    /// The next moment at which `drive` or `action` has something to do without being asked.
    pub(super) fn due(&self) -> Option<u64> {
        let life = &self.life;
        let errand = life.errand.as_ref().and_then(|errand| errand.due());
        let own = match life.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Probing(_) => life.again.front().map(|(due, ..)| *due),
            Phase::Running | Phase::ReadingBack
                if self.link.is_open() && life.under_way < SWARM_DEPTH_MAX =>
            {
                let again = life.again.front().map(|(due, ..)| *due);
                let next = life.flow.due().filter(|_| life.phase == Phase::Running);
                [again, next].into_iter().flatten().min()
            }
            _ => None,
        };
        [own, errand].into_iter().flatten().min()
    }

    /// The connection stands.
    pub(super) fn connected(
        &mut self,
        world: &World,
        tally: &mut Tally,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        let life = &mut self.life;
        if life.phase != Phase::Connecting {
            return;
        }
        tally.time(Stage::Connect, now.saturating_sub(life.since));
        life.session_began = life.since;
        life.enter(Phase::LoggingIn, now);
        let who = world.plan.sessions.get(life.flow.session());
        let who = who.map_or(Who::Linux, |session| session.who);
        if let Some(node) = life.identity(world) {
            let offer = offer(&node, who, life.id, world.seed ^ now);
            self.link.log_in(offer, out);
        }
    }

    /// Bytes came. Anything to send is appended to `out`.
    pub(super) fn hear(
        &mut self,
        bytes: &[u8],
        world: &World,
        tally: &mut Tally,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        let mut hearing = Hearing {
            life: &mut self.life,
            world,
            tally,
            now,
        };
        match self.link.hear(bytes, &mut hearing, out) {
            Ok(Heard::Fine) => {}
            Ok(Heard::LoggedIn) => self.logged_in(world, tally, now, out),
            Ok(Heard::Moved(address)) => self.moved(&address, now),
            Ok(Heard::LoggedOut) => self.after_logout(world, now),
            Ok(Heard::AskedToLeave) => self.lost("the target asked for a logout", tally, now),
            Err(error) => self.wire_error(&error, tally, now),
        }
        self.drive(world, tally, now, out);
    }

    fn wire_error(&mut self, error: &WireError, tally: &mut Tally, now: u64) {
        match error.kind() {
            // Class 3 is the target's own trouble: it may pass. All else stays as it is.
            ErrorKind::Refused(status) if status >> 8 != 3 => {
                self.fail(&error.to_string(), tally, now);
            }
            ErrorKind::Untrusted => self.fail(&error.to_string(), tally, now),
            _ => self.lost(&error.to_string(), tally, now),
        }
    }

    fn moved(&mut self, address: &str, now: u64) {
        let life = &mut self.life;
        match address.rsplit_once(',').map_or(address, |(a, _)| a).parse() {
            Ok(portal) => {
                life.portal = portal;
                life.close = true;
                self.link.off();
                life.enter(Phase::Waiting { until: now }, now);
            }
            Err(_) => life.give_up(
                &format!("the login was sent to `{address}`, which is no address"),
                now,
            ),
        }
    }

    fn logged_in(&mut self, world: &World, tally: &mut Tally, now: u64, out: &mut Vec<u8>) {
        let life = &mut self.life;
        tally.time(Stage::Login, now.saturating_sub(life.since));
        if life.report.login_us == 0 {
            life.report.login_us = now.saturating_sub(life.since).max(1);
        }
        let session = world.plan.sessions.get(life.flow.session());
        let linux = session.is_some_and(|session| session.who == Who::Linux);
        let first = if linux { Probe::Inquiry } else { Probe::Ready };
        life.enter(Phase::Probing(first), now);
        life.again.push_front((now, Job::Probe(first), 0));
        self.send(world, tally, now, out);
    }

    /// The disk is known: operations begin, or go on after a lost connection.
    fn probed(&mut self, world: &World, now: u64) {
        let life = &mut self.life;
        if !world.plan.ops.is_empty() {
            life.flow.begin(&world.plan, now);
        }
        let booted = life.report.boot_us.is_some();
        let phase = match () {
            () if booted && life.errand.is_some() => Phase::Calling,
            () if !life.back.is_empty() => Phase::ReadingBack,
            () => Phase::Running,
        };
        life.enter(phase, now);
    }

    /// Sends what may be sent now, and goes on to the next session or stage where one is over.
    pub(super) fn drive(&mut self, world: &World, tally: &mut Tally, now: u64, out: &mut Vec<u8>) {
        if self.life.errand.is_some() {
            self.errand_tick(world, tally, now, out);
        }
        if let Phase::Probing(Probe::Over) = self.life.phase {
            self.probed(world, now);
        }
        self.send(world, tally, now, out);
        let life = &mut self.life;
        if life.under_way > 0 || !life.again.is_empty() {
            return;
        }
        match life.phase {
            Phase::Running if life.flow.is_over(&world.plan) => {
                self.session_over(world, tally, now, out);
            }
            Phase::ReadingBack if life.back_next as usize >= life.back.len() => {
                tally.time(Stage::Verify, now.saturating_sub(life.since));
                life.report.read_back_us = now.saturating_sub(life.since);
                self.leave(now, out);
            }
            _ => {}
        }
    }

    fn session_over(&mut self, world: &World, tally: &mut Tally, now: u64, out: &mut Vec<u8>) {
        let life = &mut self.life;
        if life.report.boot_us.is_some() {
            // The connection was lost behind the end of the boot, and nothing is read back.
            return self.leave(now, out);
        }
        let session = world.plan.sessions.get(life.flow.session());
        let firmware = session.is_some_and(|session| session.who.is_firmware());
        let took = now.saturating_sub(life.session_began);
        let empty = session.is_some_and(|session| session.first == session.end);
        if !empty {
            let stage = if firmware {
                Stage::FirmwareSession
            } else {
                Stage::OsSession
            };
            tally.time(stage, took);
        }
        life.report.sessions_us.push(took);
        if let Some(think_us) = life.flow.next_session(&world.plan) {
            if firmware {
                // iPXE hands its disk over to the system without a logout.
                life.close = true;
                self.link.off();
                let until = now.saturating_add(think_us);
                life.enter(Phase::Waiting { until }, now);
            } else {
                self.leave(now, out);
            }
            return;
        }
        let boot = now.saturating_sub(life.report.began_us);
        tally.time(Stage::Boot, boot);
        life.report.boot_us = Some(boot);
        life.report.ended_us = Some(now);
        if world.verify == Verify::All {
            life.back = life.ledger.certain(SWARM_VERIFY_BYTES);
        }
        if !life.call(now) {
            self.read_back(world, tally, now, out);
        }
    }

    /// Reads back what was written, if anything was, or leaves.
    fn read_back(&mut self, world: &World, tally: &mut Tally, now: u64, out: &mut Vec<u8>) {
        if self.life.back.is_empty() {
            return self.leave(now, out);
        }
        self.life.enter(Phase::ReadingBack, now);
        self.send(world, tally, now, out);
    }

    fn leave(&mut self, now: u64, out: &mut Vec<u8>) {
        self.life.enter(Phase::LoggingOut, now);
        self.link.log_out(out);
    }

    fn after_logout(&mut self, world: &World, now: u64) {
        let life = &mut self.life;
        self.link.off();
        life.close = true;
        match world.plan.sessions.get(life.flow.session()) {
            Some(next) => {
                let until = now.saturating_add(next.think_us);
                life.enter(Phase::Waiting { until }, now);
            }
            None => {
                life.report.done = life.report.reason.is_none();
                life.enter(Phase::Over, now);
            }
        }
    }

    /// The connection is gone, or could not be made.
    pub(super) fn lost(&mut self, why: &str, tally: &mut Tally, now: u64) {
        let life = &mut self.life;
        self.link.off();
        life.close = true;
        match life.phase {
            Phase::Over | Phase::Waiting { .. } => return,
            // All is done that matters.
            Phase::LoggingOut => {
                let last = life.report.boot_us.is_some();
                life.report.done = last && life.report.reason.is_none();
                let next = if last {
                    Phase::Over
                } else {
                    Phase::Waiting { until: now }
                };
                return life.enter(next, now);
            }
            _ => {}
        }
        life.report.first_loss.get_or_insert_with(|| why.to_owned());
        life.losses += 1;
        if life.losses > SWARM_RECONNECTS {
            let why = format!("{why}; {SWARM_RECONNECTS} further connections in a row failed too");
            return self.fail(&why, tally, now);
        }
        tally.counts.reconnects += 1;
        life.report.reconnects += 1;
        life.requeue(now);
        let wait = SWARM_RETRY_MIN * 2u32.saturating_pow(life.losses.min(16) - 1);
        let wait = micros(wait.min(SWARM_RETRY_MAX));
        // A redirection may have led to a head that is no more: it is asked for anew.
        life.portal = life.home;
        life.enter(Phase::Waiting { until: now + wait }, now);
    }

    /// The node goes no further.
    fn fail(&mut self, why: &str, tally: &mut Tally, now: u64) {
        tally.counts.errors += 1;
        self.link.off();
        self.life.give_up(why, now);
    }

    /// Looks for what should have been answered long ago; to be called about once a second.
    pub(super) fn sweep(&mut self, world: &World, tally: &mut Tally, now: u64) {
        let life = &self.life;
        let late = |since: u64, wait: Duration| now.saturating_sub(since) > micros(wait);
        let why = match life.phase {
            Phase::Connecting | Phase::LoggingIn | Phase::Probing(_) | Phase::LoggingOut
                if late(life.since, SWARM_LOGIN_WAIT) =>
            {
                format!(
                    "no answer within {} s while {}",
                    SWARM_LOGIN_WAIT.as_secs(),
                    life.doing()
                )
            }
            Phase::Running | Phase::ReadingBack => {
                let oldest = life.flights.iter().flatten().min_by_key(|f| f.sent_at);
                let Some(flight) = oldest.filter(|f| late(f.sent_at, world.answer_wait)) else {
                    return;
                };
                let what = life.words(flight.job, world);
                format!(
                    "{what} was not answered within {} s",
                    world.answer_wait.as_secs()
                )
            }
            _ => return,
        };
        self.lost(&why, tally, now);
    }

    /// The run ends here, by the will of whoever started it.
    pub(super) fn stop(&mut self) {
        let doing = self.life.doing();
        if self.life.phase != Phase::Over {
            let why = format!("stopped while {doing}");
            self.life.report.reason.get_or_insert(why);
        }
    }
}

impl Life {
    fn enter(&mut self, phase: Phase, now: u64) {
        self.phase = phase;
        self.since = now;
    }

    fn give_up(&mut self, why: &str, now: u64) {
        self.report.reason.get_or_insert_with(|| why.to_owned());
        self.report.errors += 1;
        self.close = true;
        self.close_errand |= self.errand.take().is_some();
        self.under_way = 0;
        self.flights.clear();
        self.again.clear();
        self.enter(Phase::Over, now);
    }

    /// Everything under way is sent again, in its order; probes begin anew.
    fn requeue(&mut self, now: u64) {
        let mut jobs: Vec<(u64, Job, u32)> = self
            .flights
            .drain(..)
            .flatten()
            .map(|f| (f.sent_at, f.job, f.tries))
            .collect();
        jobs.sort_by_key(|(sent_at, ..)| *sent_at);
        let waiting = std::mem::take(&mut self.again);
        let all = jobs.into_iter().chain(waiting);
        let kept = all.filter(|(_, job, _)| !matches!(job, Job::Probe(_)));
        self.again = kept.map(|(_, job, tries)| (now, job, tries)).collect();
        self.under_way = 0;
    }

    fn doing(&self) -> &'static str {
        if let (Phase::Booting | Phase::Calling, Some(errand)) = (self.phase, &self.errand) {
            return errand.doing();
        }
        match self.phase {
            Phase::Booting => "booting from the network",
            Phase::Waiting { .. } => "waiting",
            Phase::Connecting => "connecting",
            Phase::LoggingIn => "logging in",
            Phase::Probing(_) => "asking for the disk",
            Phase::Running => "booting",
            Phase::Calling => "telling that it is ready",
            Phase::ReadingBack => "reading back",
            Phase::LoggingOut => "logging out",
            Phase::Over => "at its end",
        }
    }

    /// A command in words.
    fn words(&self, job: Job, world: &World) -> String {
        match job {
            Job::Probe(probe) => probe.name().to_owned(),
            Job::Op(at) => match world.plan.ops.get(at as usize) {
                Some(op) if op.kind == OpKind::Flush => "FLUSH".to_owned(),
                Some(op) => {
                    let word = op.kind.word().to_ascii_uppercase();
                    format!("{word} of {} bytes at {}", op.len, op.offset)
                }
                None => "a command".to_owned(),
            },
            Job::Back(at) => {
                let (start, end) = self.back.get(at as usize).copied().unwrap_or_default();
                format!("READ (back) of {} bytes at {start}", end - start)
            }
        }
    }
}

/// ISIDs: iPXE's own format, which says firmware to a head; open-iscsi's (RFC 7143 11.12.5).
fn offer(node: &Identity, who: Who, id: u32, entropy: u64) -> Offer {
    let [_, a, b, c] = id.to_be_bytes();
    let isid = match who {
        Who::Ipxe | Who::Edk2 => [0x40, 0x00, 0x27, 0x23, b, c],
        Who::Linux => [0x00, 0x02, 0x3d, a, b, c],
        Who::Windows => [0x40, 0x00, 0x01, 0x37, b, c],
    };
    let mut fresh = [0; 33];
    let mut state = entropy ^ u64::from(id) << 32;
    for byte in &mut fresh {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *byte = state.to_be_bytes()[0];
    }
    Offer {
        profile: who.profile(),
        isid,
        chap: node.chap.clone(),
        mutual: node.mutual.clone(),
        entropy: fresh,
        ..Offer::new(&node.initiator, &node.target)
    }
}
