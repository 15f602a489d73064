//! What the HTTP side of boot services answers: scripts and the ready call. No sockets, no clock.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Moment;
use super::facts::{Arch, Client, Facts, Features, MessageType};
use super::plan::{self, Decision};
use super::script;
use super::service::{DhcpMode, Service, State};
use crate::catalog::{Binding, NodeRecord, PendingRecord};
use crate::events::{EventKind, ReadyBy, Stage};
use crate::head::{HeadError, HeadErrorKind};
use crate::limits;
use crate::names::{BootId, Mac, NodeName};

/// A request for a script.
#[derive(Clone, Debug)]
pub(crate) struct ScriptAsk {
    pub(crate) mac: Mac,
    pub(crate) arch: Option<Arch>,
    pub(crate) peer: IpAddr,
    /// The head's end of the connection: the address that the machine can reach.
    pub(crate) local: SocketAddr,
}

impl ScriptAsk {
    /// `http://10.0.0.1:8068`.
    pub(crate) fn base(&self) -> String {
        base_of(self.local)
    }
}

/// The address of the HTTP service as a machine writes it.
pub(crate) fn base_of(local: SocketAddr) -> String {
    format!(
        "http://{}",
        SocketAddr::new(local.ip().to_canonical(), local.port())
    )
}

/// What to do for it.
#[derive(Debug)]
pub(crate) enum ScriptAnswer {
    /// Send this.
    Text(String),
    /// First make the node's disk ready (this blocks), then call [`Service::boot_script`].
    Prepare { node: Arc<NodeRecord>, boot: BootId },
}

impl Service {
    /// Decides which script a machine gets.
    pub(crate) fn script(
        &self,
        ask: &ScriptAsk,
        now: Moment,
    ) -> (ScriptAnswer, Option<PendingRecord>) {
        let node = self.house.node(ask.mac);
        let mut state = self.lock();
        if self.settings.mode == DhcpMode::Off {
            // Without DHCP of our own, the request for the script is the first that is seen of a boot.
            self.begin(&mut state, &facts_of(ask), node.as_deref(), now);
        }
        let base = ask.base();
        let again = self.again(&state, ask, &base);
        let decision = plan::decide(node.as_deref(), self.admission(node.as_deref()));
        let Some(node) = node else {
            state.contexts.polled(ask.mac, now);
            let pending = self.note(&mut state, ask.mac, now);
            return (ScriptAnswer::Text(script::pending(&again)), pending);
        };
        let text = match decision {
            Decision::Image => return (self.admit(&mut state, ask, node, now), None),
            Decision::Wait { place } => {
                self.tell_wait(&mut state, ask.mac, &node.name, place, now);
                script::wait(&again, &node.name, place)
            }
            Decision::Local => {
                self.tell_script(&mut state, ask.mac, &node.name, "local", now);
                state.contexts.script_served(ask.mac, now);
                script::local(&again)
            }
            // `Pending` is a machine without a node, answered above.
            Decision::NoImage | Decision::Pending => {
                self.tell_script(&mut state, ask.mac, &node.name, "refused", now);
                script::no_image(&again, &node.name)
            }
        };
        state.contexts.polled(ask.mac, now);
        (ScriptAnswer::Text(text), None)
    }

    /// The script for a node whose disk was made ready, or not.
    pub(crate) fn boot_script(
        &self,
        ask: &ScriptAsk,
        node: &NodeRecord,
        prepared: Result<Arc<Binding>, HeadError>,
        now: Moment,
    ) -> String {
        let base = ask.base();
        let mut state = self.lock();
        let again = self.again(&state, ask, &base);
        let made = prepared.and_then(|binding| {
            let disk = script::Disk {
                node,
                label: &binding.label,
                portal: self.portal_for(ask.local),
                iqn_prefix: &self.settings.iqn_prefix,
                auth: self.settings.auth,
                head_user: crate::head::HEAD_USER,
            };
            let text = script::boot(&again, &disk).map_err(|message| HeadError {
                kind: HeadErrorKind::Invalid,
                message,
            })?;
            Ok((text, binding.label.clone()))
        });
        match made {
            Ok((text, label)) => {
                state.contexts.polled(ask.mac, now);
                state.contexts.script_served(ask.mac, now);
                let kind = EventKind::Script {
                    decision: "boot".to_owned(),
                    image: Some(label),
                };
                self.house.bus().publish(Some(&node.name), kind);
                text
            }
            Err(error) => {
                state.contexts.polled(ask.mac, now);
                self.tell_failure(&mut state, ask.mac, &node.name, &error, now);
                script::failed(&again, &error.message)
            }
        }
    }

    /// The node says that it is up. The error is an HTTP status and a sentence.
    pub(crate) fn ready(
        &self,
        mac: Option<Mac>,
        peer: IpAddr,
        now: Moment,
    ) -> Result<NodeName, (u16, String)> {
        let peer = peer.to_canonical();
        let mut state = self.lock();
        let by_peer = || match peer {
            IpAddr::V4(ip) => state.contexts.machine_at(ip),
            IpAddr::V6(_) => None,
        };
        let Some(mac) = mac.or_else(by_peer) else {
            let text = format!("no machine is known at {peer}; call /ready?mac=52:54:00:12:34:56");
            return Err((400, text));
        };
        let Some(node) = self.house.node(mac) else {
            return Err((
                404,
                format!("{mac} is nobody's node; see `reveille node ls`"),
            ));
        };
        let known = state.contexts.get(mac).and_then(|a| a.ip);
        if let Some(ip) = known.filter(|ip| IpAddr::V4(*ip) != peer) {
            let name = &node.name;
            return Err((
                403,
                format!("{name} has the address {ip}, but the call came from {peer}"),
            ));
        }
        let seen = state.contexts.get(mac).is_some();
        if !seen || state.contexts.answer_is_news(mac, "ready", now) {
            let kind = EventKind::Ready { by: ReadyBy::Call };
            self.house.bus().publish(Some(&node.name), kind);
        }
        Ok(node.name.clone())
    }

    /// The node may boot: is it really the one that asks?
    fn admit(
        &self,
        state: &mut State,
        ask: &ScriptAsk,
        node: Arc<NodeRecord>,
        now: Moment,
    ) -> ScriptAnswer {
        if let Err(why) = self.vouch(state, ask, now) {
            tracing::warn!(node = %node.name, mac = %ask.mac, peer = %ask.peer, why, "script refused");
            self.tell_script(state, ask.mac, &node.name, "refused", now);
            let base = ask.base();
            let again = self.again(state, ask, &base);
            return ScriptAnswer::Text(script::refused(&again, &why));
        }
        let boot = match state.contexts.get(ask.mac).and_then(|a| a.boot) {
            Some(boot) => boot,
            None => {
                let cause = "approved while it waited";
                let boot = self.house.bus().begin_boot(&node.name, cause);
                state.contexts.set_boot(ask.mac, boot);
                boot
            }
        };
        ScriptAnswer::Prepare { node, boot }
    }

    /// A script holds a secret: it is told to the machine that asked by DHCP a moment ago, at its address.
    fn vouch(&self, state: &State, ask: &ScriptAsk, now: Moment) -> Result<(), String> {
        if self.settings.mode == DhcpMode::Off {
            return Ok(());
        }
        if !state.contexts.is_under_way(ask.mac, now) {
            let minutes = limits::SCRIPT_WINDOW.as_secs() / 60;
            return Err(format!(
                "no boot of {} was seen in the last {minutes} minutes",
                ask.mac
            ));
        }
        if let Some(node) = self.house.node(ask.mac)
            && self.house.is_booted(&node.name)
        {
            let name = &node.name;
            return Err(format!(
                "the boot of {name} is over: its operating system has logged in"
            ));
        }
        let peer = ask.peer.to_canonical();
        match state.contexts.get(ask.mac).and_then(|a| a.ip) {
            Some(ip) if IpAddr::V4(ip) == peer => Ok(()),
            Some(ip) => Err(format!("{} has the address {ip}, not {peer}", ask.mac)),
            // Beside a foreign server its address may have gone unheard.
            None if self.settings.mode == DhcpMode::Proxy => Ok(()),
            None => Err(format!("{} was given no address by this head", ask.mac)),
        }
    }

    fn again<'a>(&self, state: &State, ask: &ScriptAsk, base: &'a str) -> script::Ask<'a> {
        let seen = state.contexts.get(ask.mac).map(|a| a.arch);
        script::Ask {
            base,
            mac: ask.mac,
            arch: ask.arch.or(seen).unwrap_or(Arch::Bios),
        }
    }

    fn portal_for(&self, local: SocketAddr) -> SocketAddr {
        let portal = self.settings.portal;
        if portal.ip().is_unspecified() {
            return SocketAddr::new(local.ip().to_canonical(), portal.port());
        }
        portal
    }

    fn tell_wait(&self, state: &mut State, mac: Mac, node: &NodeName, place: u32, now: Moment) {
        self.tell_script(state, mac, node, "wait", now);
        if state.contexts.place_is_news(mac, place, now) {
            self.house
                .bus()
                .publish(Some(node), EventKind::Queued { place });
        }
    }

    fn tell_script(
        &self,
        state: &mut State,
        mac: Mac,
        node: &NodeName,
        decision: &str,
        now: Moment,
    ) {
        // A machine that was not seen by DHCP makes no event, or anyone could make them.
        if state.contexts.script_is_news(mac, decision, now) {
            let kind = EventKind::Script {
                decision: decision.to_owned(),
                image: None,
            };
            self.house.bus().publish(Some(node), kind);
        }
    }

    fn tell_failure(
        &self,
        state: &mut State,
        mac: Mac,
        node: &NodeName,
        error: &HeadError,
        now: Moment,
    ) {
        tracing::warn!(%node, error = error.message, "its disk could not be made ready");
        if error.kind == HeadErrorKind::Unavailable {
            // It heals by waiting, and the node waits.
            self.tell_script(state, mac, node, "refused", now);
            return;
        }
        if state.contexts.script_is_news(mac, &error.message, now) {
            let kind = EventKind::Failed {
                stage: Stage::Script,
                reason: format!("its disk could not be made ready: {}", error.message),
                next: format!("put that right; {node} asks again every 10 seconds"),
            };
            self.house.bus().publish(Some(node), kind);
        }
    }
}

/// The facts of iPXE that a foreign DHCP server sent here.
fn facts_of(ask: &ScriptAsk) -> Facts {
    Facts {
        message: MessageType::Discover,
        mac: ask.mac,
        arch: ask.arch.unwrap_or(Arch::Bios),
        client: Client::Ipxe(Features {
            http: true,
            iscsi: true,
        }),
        uuid: None,
        requested: None,
        server: None,
        ciaddr: None,
        giaddr: None,
        secs: 0,
        wanted: Vec::new(),
    }
}
