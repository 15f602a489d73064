//! The state that all boot services share, and what each request does to it. No sockets, no clock: bytes
//! and time in, answers out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Moment;
use super::assets::Assets;
use super::context::Contexts;
use super::dhcp::{self, Grant, Kind, Link, Network, Ports, Talk};
use super::facts::{Client, Facts, MessageType};
use super::house::House;
use super::lease::{Pool, Want};
use super::packet::Packet;
use super::plan::{self, BootPlan, Decision, Means, Step};
use crate::catalog::{NodeRecord, PendingRecord};
use crate::events::{EventKind, Stage};
use crate::head::Admission;
use crate::limits;
use crate::names::Mac;
use crate::units::UnixMillis;

/// Which part of DHCP this head plays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DhcpMode {
    /// None: another DHCP server sends machines here, for instance by `filename "http://HEAD:8068/boot"`.
    Off,
    /// Beside a foreign DHCP server that gives the addresses.
    #[default]
    Proxy,
    /// The network's only DHCP server.
    Server,
}

/// What does not change while the services run.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) mode: DhcpMode,
    pub(crate) network: Network,
    pub(crate) ports: Ports,
    pub(crate) tftp: bool,
    pub(crate) iqn_prefix: String,
    pub(crate) portal: SocketAddr,
    pub(crate) auth: super::script::Auth,
    /// Addresses of this head and of routers: never given away.
    pub(crate) own: Vec<Ipv4Addr>,
}

/// The port that a DHCP message came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// 67.
    Dhcp,
    /// 4011.
    Pxe,
}

/// What a DHCP message leads to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) answer: Option<(SocketAddrV4, Vec<u8>)>,
    /// An unknown machine to be written down.
    pub(crate) pending: Option<PendingRecord>,
}

/// One process's boot services.
#[derive(Debug)]
pub(crate) struct Service {
    pub(super) house: Arc<dyn House>,
    pub(super) assets: Assets,
    pub(super) settings: Settings,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) contexts: Contexts,
    pool: Option<Pool>,
    fixed_at: Option<Moment>,
    /// The second, and how many strangers were written down in it.
    noted: (u64, u32),
    warned: Option<Moment>,
}

impl Service {
    pub(crate) fn new(
        house: Arc<dyn House>,
        assets: Assets,
        settings: Settings,
        pool: Option<Pool>,
    ) -> Self {
        let state = State {
            contexts: Contexts::default(),
            pool,
            fixed_at: None,
            noted: (0, 0),
            warned: None,
        };
        Self {
            house,
            assets,
            settings,
            state: Mutex::new(state),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A DHCP message came in. `loaders` is how many loaders are under way.
    pub(crate) fn dhcp(
        &self,
        link: &Link,
        port: Port,
        from: SocketAddrV4,
        bytes: &[u8],
        loaders: usize,
        now: Moment,
    ) -> Outcome {
        let parsed = Packet::parse(bytes).and_then(|p| Facts::of(&p).map(|f| (p, f)));
        let (packet, facts) = match parsed {
            Ok(both) => both,
            Err(why) => {
                tracing::debug!(%from, link = link.name, why, "DHCP message left out");
                return Outcome::default();
            }
        };
        if plan::defer(&facts, loaders) {
            tracing::debug!(mac = %facts.mac, loaders, "left to its retry schedule: loaders are busy");
            return Outcome::default();
        }
        let request = Request {
            service: self,
            link,
            packet: &packet,
            facts: &facts,
            now,
        };
        let mut state = self.lock();
        match (self.settings.mode, port) {
            (DhcpMode::Off, _) => Outcome::default(),
            (_, Port::Pxe) => request.boot_server(&mut state, from),
            (DhcpMode::Proxy, Port::Dhcp) => request.proxy(&mut state),
            (DhcpMode::Server, Port::Dhcp) => request.server(&mut state),
        }
    }

    /// A network boot program was sent whole to `ip`.
    pub(crate) fn loader_sent(&self, ip: IpAddr, file: &str, bytes: usize, by: &str, now: Moment) {
        let IpAddr::V4(ip) = ip.to_canonical() else {
            return;
        };
        let Some(mac) = self.lock().contexts.loader_sent(ip, now) else {
            tracing::debug!(%ip, file, "loader sent to a machine that was not seen by DHCP");
            return;
        };
        if let Some(node) = self.house.node(mac) {
            let kind = EventKind::Loader {
                file: file.to_owned(),
                bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
                by: by.to_owned(),
            };
            self.house.bus().publish(Some(&node.name), kind);
        }
    }

    /// A stranger asked: is it to be told and written down?
    pub(super) fn note(&self, state: &mut State, mac: Mac, now: Moment) -> Option<PendingRecord> {
        let second = now.as_secs();
        if state.noted.0 != second {
            state.noted = (second, 0);
        }
        if state.noted.1 >= limits::PENDING_PER_SECOND {
            return None;
        }
        let asked = state.contexts.note_due(mac, now)?;
        state.noted.1 += 1;
        let attempt = state.contexts.get(mac)?;
        let at = UnixMillis::now();
        let arch = attempt.arch.to_string();
        let kind = EventKind::UnknownMachine {
            mac,
            arch: arch.clone(),
        };
        self.house.bus().publish(None, kind);
        Some(PendingRecord {
            mac,
            arch,
            uuid: attempt.uuid.clone(),
            first: at,
            last: at,
            asked,
        })
    }

    /// Notes the request of firmware and begins a boot where one begins.
    pub(super) fn begin(
        &self,
        state: &mut State,
        facts: &Facts,
        node: Option<&NodeRecord>,
        now: Moment,
    ) -> bool {
        let cause = state.contexts.firmware(facts, node.is_some(), now);
        if let (Some(cause), Some(node)) = (cause, node) {
            let boot = self.house.bus().begin_boot(&node.name, cause);
            state.contexts.set_boot(facts.mac, boot);
            tracing::info!(node = %node.name, mac = %facts.mac, %boot, cause, "boot began");
        }
        cause.is_some()
    }

    pub(super) fn admission(&self, node: Option<&NodeRecord>) -> Admission {
        node.map_or(Admission::Admit, |n| self.house.admission(&n.name))
    }
}

/// One DHCP message with everything around it.
struct Request<'a> {
    service: &'a Service,
    link: &'a Link,
    packet: &'a Packet,
    facts: &'a Facts,
    now: Moment,
}

/// What was thought about it.
struct Thought {
    node: Option<Arc<NodeRecord>>,
    plan: BootPlan,
    pending: Option<PendingRecord>,
}

impl Request<'_> {
    /// Makes the plan, and takes note of firmware.
    fn think(&self, state: &mut State) -> Thought {
        let (service, facts) = (self.service, self.facts);
        let node = service.house.node(facts.mac);
        let firmware = facts.client.is_firmware();
        let began = firmware && service.begin(state, facts, node.as_deref(), self.now);
        let means = Means {
            loader: service.assets.loader_for(facts.arch),
            tftp: service.settings.tftp,
        };
        let progress = state.contexts.progress(facts.mac, self.now);
        let admission = service.admission(node.as_deref());
        let plan = plan::plan(facts, node.as_deref(), admission, progress, means);
        let chained = matches!(
            (plan.step, facts.client),
            (Step::Loader(_), Client::Ipxe(_))
        );
        if chained && facts.message == MessageType::Request {
            state.contexts.loader_told(facts.mac);
        }
        let stranger = firmware && plan.decision == Decision::Pending;
        let pending = stranger
            .then(|| service.note(state, facts.mac, self.now))
            .flatten();
        if let Step::Stuck(stuck) = plan.step
            && began
        {
            self.tell_stuck(node.as_deref(), stuck);
        }
        Thought {
            node,
            plan,
            pending,
        }
    }

    fn tell_stuck(&self, node: Option<&NodeRecord>, stuck: plan::Stuck) {
        let (reason, next) = stuck.explain();
        tracing::warn!(mac = %self.facts.mac, reason, next, "machine cannot boot");
        if let Some(node) = node {
            let stage = Stage::Dhcp;
            let kind = EventKind::Failed {
                stage,
                reason,
                next,
            };
            self.service.house.bus().publish(Some(&node.name), kind);
        }
    }

    /// The full server (RFC 2131 4.3).
    fn server(&self, state: &mut State) -> Outcome {
        state.refresh_fixed(self.service, self.now);
        match self.facts.message {
            MessageType::Discover => self.offer(state),
            MessageType::Request => self.request(state),
            MessageType::Inform => self.inform(state),
            MessageType::Decline => {
                if let (Some(pool), Some(ip)) = (&mut state.pool, self.facts.requested) {
                    let mac = self.facts.mac;
                    tracing::warn!(%ip, %mac, "address found in use by another machine");
                    pool.decline(self.facts.mac, ip, self.now);
                }
                Outcome::default()
            }
            MessageType::Release => {
                if let (Some(pool), Some(ip)) = (&mut state.pool, self.facts.ciaddr) {
                    pool.release(self.facts.mac, ip, self.now);
                }
                Outcome::default()
            }
        }
    }

    fn offer(&self, state: &mut State) -> Outcome {
        let thought = self.think(state);
        let want = self.want(thought.node.as_deref());
        let until = self.now + limits::LEASE_OFFER;
        let chosen = match &mut state.pool {
            Some(pool) => pool.assign(want, self.now, until),
            None => want.fixed,
        };
        let mac = self.facts.mac;
        let Some(ip) = chosen else {
            if state.warn_is_due(self.now) {
                tracing::warn!(%mac, "no address is left for it; widen `[boot] range`");
            }
            return thought.silent();
        };
        if !self.is_reachable(ip) {
            if state.warn_is_due(self.now) {
                let link = &self.link.name;
                tracing::warn!(%mac, %ip, link, "its address is of another network than it asks from");
            }
            return thought.silent();
        }
        self.answer(&thought, Kind::Offer, Some(ip))
    }

    fn request(&self, state: &mut State) -> Outcome {
        if self.facts.server.is_some_and(|s| s != self.link.address) {
            // It took another server's offer.
            if let (Some(pool), Some(ip)) = (&mut state.pool, self.facts.requested) {
                pool.release(self.facts.mac, ip, self.now);
            }
            return Outcome::default();
        }
        let Some(ip) = self.facts.requested.or(self.facts.ciaddr) else {
            return Outcome::default();
        };
        let thought = self.think(state);
        let want = self.want(thought.node.as_deref());
        let until = self.now + lease_time(thought.node.as_deref());
        let granted = self.is_reachable(ip)
            && match &mut state.pool {
                Some(pool) => pool.confirm(want, ip, self.now, until),
                None => want.fixed == Some(ip),
            };
        if !granted {
            let mac = self.facts.mac;
            tracing::info!(%mac, %ip, "address refused: another machine's, or another network's");
            let refusal = dhcp::nak(self.packet, self.link, "that address is not yours here");
            return thought.with(self.send(&refusal));
        }
        state.contexts.set_ip(self.facts.mac, ip);
        self.tell_answer(state, &thought, Some(ip));
        self.answer(&thought, Kind::Ack, Some(ip))
    }

    fn inform(&self, state: &mut State) -> Outcome {
        if self.facts.ciaddr.is_none() {
            return Outcome::default();
        }
        let thought = self.think(state);
        self.answer(&thought, Kind::Ack, None)
    }

    /// Beside a foreign server: offers a file to firmware, and overhears who got which address.
    fn proxy(&self, state: &mut State) -> Outcome {
        let overheard = self.facts.requested.or(self.facts.ciaddr);
        let firmware = self.facts.client.is_firmware();
        match self.facts.message {
            MessageType::Discover if firmware => {
                let thought = self.think(state);
                self.tell_answer(state, &thought, None);
                self.propose(&thought, Kind::Offer, None)
            }
            MessageType::Request => {
                let pending = firmware.then(|| self.think(state).pending).flatten();
                if let Some(ip) = overheard {
                    state.contexts.set_ip(self.facts.mac, ip);
                }
                Outcome {
                    answer: None,
                    pending,
                }
            }
            _ => Outcome::default(),
        }
    }

    /// Port 4011: the boot server that the offer named is asked for its file.
    fn boot_server(&self, state: &mut State, from: SocketAddrV4) -> Outcome {
        let asks = matches!(
            self.facts.message,
            MessageType::Request | MessageType::Inform
        );
        if !asks || !self.facts.client.is_firmware() {
            return Outcome::default();
        }
        let thought = self.think(state);
        if let Some(ip) = self.facts.ciaddr {
            state.contexts.set_ip(self.facts.mac, ip);
        }
        self.tell_answer(state, &thought, None);
        self.propose(&thought, Kind::Ack, Some(from))
    }

    fn answer(&self, thought: &Thought, kind: Kind, ip: Option<Ipv4Addr>) -> Outcome {
        let node = thought.node.as_deref();
        let grant = ip.map(|ip| Grant {
            ip,
            time: lease_time(node),
        });
        let network = &self.service.settings.network;
        let name = node.map(|n| n.name.as_str());
        let talk = self.talk(thought.plan);
        let packet = dhcp::server_answer(&talk, kind, grant, network, name);
        thought.with(self.send(&packet))
    }

    fn propose(&self, thought: &Thought, kind: Kind, to: Option<SocketAddrV4>) -> Outcome {
        let talk = self.talk(thought.plan);
        if dhcp::boot_file(&talk).is_none() {
            return thought.silent();
        }
        let packet = dhcp::proxy_answer(&talk, kind);
        let (usual, bytes) = self.send(&packet);
        thought.with((to.unwrap_or(usual), bytes))
    }

    fn send(&self, answer: &Packet) -> (SocketAddrV4, Vec<u8>) {
        let to = dhcp::destination(self.packet, answer, self.service.settings.ports);
        (to, answer.encode())
    }

    fn talk(&self, plan: BootPlan) -> Talk<'_> {
        Talk {
            packet: self.packet,
            facts: self.facts,
            plan,
            link: self.link,
            tftp: self.service.settings.tftp,
        }
    }

    fn tell_answer(&self, state: &mut State, thought: &Thought, ip: Option<Ipv4Addr>) {
        let (Some(node), true) = (&thought.node, self.facts.client.is_firmware()) else {
            return;
        };
        let file = dhcp::boot_file(&self.talk(thought.plan)).unwrap_or_default();
        let client = self.facts.client.name();
        let said = format!("{client} {file}");
        if !state
            .contexts
            .answer_is_news(self.facts.mac, &said, self.now)
        {
            return;
        }
        let kind = EventKind::Dhcp {
            mac: self.facts.mac,
            ip: ip.map(IpAddr::V4),
            arch: self.facts.arch.to_string(),
            client: client.to_owned(),
            file,
        };
        self.service.house.bus().publish(Some(&node.name), kind);
    }

    fn want(&self, node: Option<&NodeRecord>) -> Want {
        // A node is one machine on one address, so only its first card gets the fixed one.
        let first = node.filter(|n| n.macs.first() == Some(&self.facts.mac));
        Want {
            mac: self.facts.mac,
            fixed: first.and_then(|n| n.ip),
            home: first.map(|n| n.layer.0.saturating_sub(1)),
            asked: self.facts.requested.or(self.facts.ciaddr),
        }
    }

    /// Is the address one of the network that the client is on?
    fn is_reachable(&self, ip: Ipv4Addr) -> bool {
        let configured = self.service.settings.network.netmask;
        let mask = u32::from(configured.unwrap_or(self.link.netmask));
        let there = self.facts.giaddr.unwrap_or(self.link.address);
        u32::from(ip) & mask == u32::from(there) & mask
    }
}

impl Thought {
    fn silent(&self) -> Outcome {
        Outcome {
            answer: None,
            pending: self.pending.clone(),
        }
    }

    fn with(&self, answer: (SocketAddrV4, Vec<u8>)) -> Outcome {
        Outcome {
            answer: Some(answer),
            pending: self.pending.clone(),
        }
    }
}

impl State {
    /// Warnings that any packet can cause are written now and then.
    fn warn_is_due(&mut self, now: Moment) -> bool {
        let fresh = |at: Moment| now.saturating_sub(at) < limits::BOOT_WARN_EVERY;
        if self.warned.is_some_and(fresh) {
            return false;
        }
        self.warned = Some(now);
        true
    }

    /// Learns anew which addresses node records fix.
    fn refresh_fixed(&mut self, service: &Service, now: Moment) {
        let fresh = |at: Moment| now.saturating_sub(at) < limits::LEASE_FIXED_AGE;
        if self.fixed_at.is_some_and(fresh) {
            return;
        }
        self.fixed_at = Some(now);
        if let Some(pool) = &mut self.pool {
            let fixed = service.house.fixed_addresses();
            let own = service.settings.own.iter().copied();
            pool.set_fixed(fixed.into_iter().chain(own));
        }
    }
}

fn lease_time(node: Option<&NodeRecord>) -> std::time::Duration {
    if node.is_some() {
        limits::LEASE_NODE
    } else {
        limits::LEASE_STRANGER
    }
}
