//! From names to nodes: who may log in where, what the node's disk calls itself, and which sessions it has.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chap::Algorithms;
use super::driver::Handle;
use super::login::{Access, Ask, Credentials};
use super::params::SessionType;
use super::session::{Entered, Eviction, Identity, Member, Registry, kind_of};
use super::text::{Found, Wanted};
use crate::catalog::NodeRecord;
use crate::events::{InitiatorKind, Traffic};
use crate::head::{Attached, HEAD_USER, Head};
use crate::names::{Iqn, NodeName};
use crate::scsi::{LogicalUnit, LuConfig, NexusId};
use crate::store::Volume;
use crate::units::UnixMillis;

/// LUNs of every target: the system disk.
pub(super) const LUNS: [u16; 1] = [0];

/// Target portal group of every portal.
pub(super) const PORTAL_GROUP: u16 = 1;

/// 0x0203: no such target (RFC 7143 11.13.5).
const NOT_FOUND: u16 = 0x0203;

/// Who may log in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// CHAP with the node's own secret; the user is the node's name.
    #[default]
    Chap,
    /// As `Chap`, and nodes are meant to make the head prove itself; one that does not is let in, and told of.
    Mutual,
    /// Anyone who reaches the port.
    None,
}

/// Names, access, and the targets that are or were in use.
#[derive(Debug)]
pub(super) struct Targets {
    head: Arc<Head>,
    prefix: String,
    auth: Auth,
    algorithms: Algorithms,
    redirect: Mutex<Option<String>>,
    open: Mutex<HashMap<NodeName, Arc<OpenTarget>>>,
    next_nexus: AtomicU64,
    next_discovery: AtomicU16,
}

/// A target somebody has logged in to since the head started.
#[derive(Debug, Default)]
pub(super) struct OpenTarget {
    registry: Mutex<Registry<Handle>>,
    unit: Mutex<Option<Unit>>,
}

/// A disk behind a LUN.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) lun: u16,
    pub(super) device: Arc<Mutex<LogicalUnit>>,
    pub(super) volume: Arc<Volume>,
    size: u64,
    disk_uuid: String,
}

impl Unit {
    /// The device server, for one short call.
    pub(super) fn device(&self) -> MutexGuard<'_, LogicalUnit> {
        lock(&self.device)
    }
}

/// A session's seat at its target. Dropping it gives up the nexus and the seat: only then may a session
/// that waits for this one go on, so nothing of it may run any more.
#[derive(Debug)]
pub(super) struct Session {
    target: Arc<OpenTarget>,
    pub(super) node: Arc<NodeRecord>,
    pub(super) identity: Identity,
    pub(super) kind: InitiatorKind,
    pub(super) nexus: NexusId,
    pub(super) tsih: u16,
    /// None until the disk is attached.
    pub(super) unit: Option<Unit>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) active_ms: Arc<AtomicU64>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(unit) = &self.unit {
            unit.device().detach(self.nexus);
        }
        lock(&self.target.registry).leave(self.nexus);
    }
}

impl Session {
    /// The other sessions of this target.
    pub(super) fn others(&self) -> Vec<Handle> {
        lock(&self.target.registry)
            .others(self.nexus)
            .cloned()
            .collect()
    }

    /// The sessions of this target that have one of these nexuses, this one left out.
    pub(super) fn named(&self, nexuses: &[NexusId]) -> Vec<Handle> {
        lock(&self.target.registry)
            .named(nexuses)
            .filter(|(nexus, _)| *nexus != self.nexus)
            .map(|(_, handle)| handle.clone())
            .collect()
    }

    /// The node's disk is ready: makes or re-uses its logical unit, and joins it.
    pub(super) fn attach(&mut self, attached: Attached, target_name: &Iqn) {
        let unit = self.target.unit(attached, target_name);
        unit.device().attach(self.nexus, &self.identity.port_name());
        self.unit = Some(unit);
    }
}

impl OpenTarget {
    /// The logical unit lives as long as its disk has the same identity and size: reservations and unit
    /// attentions outlast sessions. The volume is always the one that was just attached.
    fn unit(&self, attached: Attached, target_name: &Iqn) -> Unit {
        let mut slot = lock(&self.unit);
        let size = attached.volume.size();
        let uuid = &attached.node.disk_uuid;
        let device = match slot.take() {
            Some(old) if old.size == size && old.disk_uuid == *uuid => old.device,
            _ => Arc::new(Mutex::new(LogicalUnit::new(LuConfig {
                size_bytes: size,
                serial: serial_of(uuid),
                naa: naa_of(uuid),
                target_name: target_name.as_str().to_owned(),
                // True for both modes: a completed write is in the file, not yet on the medium. FLUSH of an
                // ephemeral layer is a no-op by declared policy (docs/protocols/iscsi.md).
                write_back: true,
                read_only: false,
                lun: LUNS[0],
                luns: LUNS.to_vec(),
            }))),
        };
        let unit = Unit {
            lun: LUNS[0],
            device,
            volume: attached.volume,
            size,
            disk_uuid: attached.node.disk_uuid.clone(),
        };
        *slot = Some(unit.clone());
        unit
    }
}

impl Targets {
    pub(super) fn new(
        head: Arc<Head>,
        prefix: String,
        auth: Auth,
        algorithms: Algorithms,
        redirect: Option<String>,
    ) -> Self {
        Self {
            head,
            prefix,
            auth,
            algorithms,
            redirect: Mutex::new(redirect),
            open: Mutex::new(HashMap::new()),
            next_nexus: AtomicU64::new(1),
            next_discovery: AtomicU16::new(1),
        }
    }

    pub(super) const fn head(&self) -> &Arc<Head> {
        &self.head
    }

    /// Digests that CHAP may use.
    pub(super) const fn algorithms(&self) -> Algorithms {
        self.algorithms
    }

    /// Who may log in.
    pub(super) const fn auth(&self) -> Auth {
        self.auth
    }

    /// Sends every later login elsewhere.
    pub(super) fn redirect_to(&self, address: String) {
        *lock(&self.redirect) = Some(address);
    }

    /// A handle for a discovery session.
    pub(super) fn discovery_tsih(&self) -> u16 {
        self.next_discovery.fetch_add(1, Relaxed).max(1)
    }

    /// The node whose target this is.
    pub(super) fn node_of(&self, target: &Iqn) -> Option<Arc<NodeRecord>> {
        let name = target.node_of_target(&self.prefix)?;
        self.head.snapshot().node(name).cloned()
    }

    /// Decides about a login: the rule follows the node, and a stranger learns nothing.
    pub(super) fn decide(&self, ask: &Ask) -> Access {
        let redirect = lock(&self.redirect).clone();
        if let Some(address) = redirect {
            return Access::Redirect(address);
        }
        let node = match (&ask.target, ask.session_type) {
            (Some(target), SessionType::Normal) => self.node_of(target),
            _ if self.auth == Auth::None => {
                return Access::Allow {
                    chap: None,
                    mutual: None,
                };
            }
            _ => self.node_of_initiator(&ask.initiator),
        };
        match (node, self.auth) {
            (Some(_), Auth::None) => Access::Allow {
                chap: None,
                mutual: None,
            },
            // The head proves itself to whoever asks, also where nodes are not made to ask: so that the setting
            // can be changed in both directions under nodes that run.
            (Some(node), Auth::Chap | Auth::Mutual) => Access::Allow {
                chap: Some(Credentials {
                    user: node.name.to_string(),
                    secret: node.secret.0.clone().into_bytes(),
                }),
                mutual: (!node.head_secret.is_empty()).then(|| Credentials {
                    user: HEAD_USER.to_owned(),
                    secret: node.head_secret.0.clone().into_bytes(),
                }),
            },
            (None, auth) => Access::Deny {
                behind_chap: auth != Auth::None,
                status: NOT_FOUND,
                why: match &ask.target {
                    Some(target) => format!(
                        "no node has the target {target}; `reveille node ls` lists the nodes"
                    ),
                    None => format!(
                        "{} is no node's initiator name; discovery shows a node its own target only",
                        ask.initiator
                    ),
                },
            },
        }
    }

    fn node_of_initiator(&self, initiator: &Iqn) -> Option<Arc<NodeRecord>> {
        let name = initiator.node_of_initiator(&self.prefix)?;
        self.head.snapshot().node(name).cloned()
    }

    /// The answer to SendTargets: only what this initiator may use (RFC 7143 appendix C).
    pub(super) fn list(&self, wanted: &Wanted, ask: &Ask, portal: SocketAddr) -> Vec<Found> {
        let mut names = match &ask.target {
            Some(own) => vec![own.clone()],
            None => self.visible(ask),
        };
        if let Wanted::One(name) = wanted {
            names.retain(|own| own == name);
        }
        let found = |name| Found {
            name,
            portals: vec![portal.to_string()],
        };
        names.into_iter().map(found).collect()
    }

    /// The targets that a discovery session may see.
    fn visible(&self, ask: &Ask) -> Vec<Iqn> {
        let target = |node: &NodeRecord| Iqn::target_of(&self.prefix, &node.name);
        match self.auth {
            Auth::None => self
                .head
                .snapshot()
                .nodes()
                .map(|node| target(node))
                .collect(),
            Auth::Chap | Auth::Mutual => self
                .node_of_initiator(&ask.initiator)
                .map(|node| target(&node))
                .into_iter()
                .collect(),
        }
    }

    /// Takes a seat for a session that passed its login, and tells who must leave first.
    pub(super) fn enter(
        &self,
        node: Arc<NodeRecord>,
        ask: &Ask,
        address: IpAddr,
        handle: Handle,
    ) -> Option<(Session, Vec<(Handle, Eviction)>)> {
        let target = Arc::clone(lock(&self.open).entry(node.name.clone()).or_default());
        let identity = Identity {
            initiator: ask.initiator.clone(),
            isid: ask.isid,
            portal_group: PORTAL_GROUP,
        };
        let kind = kind_of(ask.isid, &node.macs);
        let nexus = NexusId(self.next_nexus.fetch_add(1, Relaxed));
        let active_ms = Arc::new(AtomicU64::new(UnixMillis::now().0));
        let member = Member {
            identity: identity.clone(),
            kind,
            address,
            nexus,
            active_ms: Arc::clone(&active_ms),
        };
        let Entered { tsih, victims } = lock(&target.registry).enter(member, handle)?;
        let traffic = self.head.bus().traffic(&node.name);
        let session = Session {
            target,
            node,
            identity,
            kind,
            nexus,
            tsih,
            unit: None,
            traffic,
            active_ms,
        };
        Some((session, victims))
    }

    /// Forgets a target that nobody uses and whose node is gone.
    pub(super) fn prune(&self, node: &NodeName) {
        if self.head.snapshot().node(node.as_str()).is_some() {
            return;
        }
        let mut open = lock(&self.open);
        if let Some(target) = open.get(node)
            && lock(&target.registry).is_empty()
        {
            open.remove(node);
        }
    }
}

/// Unit serial number: the disk's UUID without its dashes, 32 hexadecimal digits. A shorter identity is
/// hashed.
fn serial_of(disk_uuid: &str) -> String {
    let digits: String = disk_uuid
        .chars()
        .filter(char::is_ascii_hexdigit)
        .map(|c| c.to_ascii_lowercase())
        .take(32)
        .collect();
    if digits.len() == 32 {
        return digits;
    }
    let hash = blake3::derive_key("reveille 2026 unit serial number", disk_uuid.as_bytes());
    hash[..16]
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// NAA 6 designator (SPC-4 7.8.5): an OUI with the local bit, which no maker owns, and 100 bits of a hash.
fn naa_of(disk_uuid: &str) -> [u8; 16] {
    const OUI: [u8; 3] = [0x02, 0x52, 0x45];
    let hash = blake3::derive_key("reveille 2026 NAA designator", disk_uuid.as_bytes());
    let mut naa = [0; 16];
    naa.copy_from_slice(&hash[..16]);
    naa[0] = 0x60 | OUI[0] >> 4;
    naa[1] = OUI[0] << 4 | OUI[1] >> 4;
    naa[2] = OUI[1] << 4 | OUI[2] >> 4;
    naa[3] = OUI[2] << 4 | naa[3] & 0x0f;
    naa
}

/// A lock whose holder cannot leave things half done: every use is one call.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod test {
    use super::*;

    const UUID: &str = "7D1b2c3e-0000-4a5b-8c9d-0123456789ab";

    #[test]
    fn a_disk_keeps_its_identity_and_shares_it_with_no_other() {
        assert_eq!(serial_of(UUID), "7d1b2c3e00004a5b8c9d0123456789ab");
        assert_eq!(naa_of(UUID), naa_of(UUID));
        assert_ne!(naa_of(UUID), naa_of("another"));
        assert_ne!(serial_of("a"), serial_of("b"));
        assert_eq!(serial_of("a").len(), 32);
    }

    #[test]
    fn the_designator_is_naa_6_with_a_local_oui() {
        let naa = naa_of(UUID);
        assert_eq!(naa[0] >> 4, 6);
        let oui = u32::from_be_bytes([naa[0], naa[1], naa[2], naa[3]]) >> 4 & 0x00ff_ffff;
        assert_eq!(oui, 0x02_5245);
        assert_ne!(oui >> 16 & 0x02, 0, "local bit");
    }
}
