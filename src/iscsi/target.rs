//! From names to nodes: who may log in where, what the node's disk calls itself, and which sessions it has.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::chap::Algorithms;
use super::driver::Handle;
use super::login::{Access, Ask, Credentials};
use super::params::{Digests, SessionType};
use super::portals;
use super::reserve;
use super::sanitize::Gate;
use super::session::{Entered, Eviction, Identity, Member, Registry, kind_of};
use super::text::{Found, Wanted};
use crate::catalog::{DiskTrait, DiskTraits, NodeRecord};
use crate::events::{EventKind, InitiatorKind, Traffic};
use crate::head::{Attached, DiskIdentity, HEAD_USER, Head};
use crate::names::{Iqn, NodeName};
use crate::scsi::{LogicalUnit, LuConfig, NexusId, Traits};
use crate::store::Volume;
use crate::units::UnixMillis;

/// LUNs of every target: the system disk.
pub(super) const LUNS: [u16; 1] = [0];

/// Target portal group of every portal, and so the one SCSI target port (RFC 7143 4.4.2). Portals of groups of
/// their own would let a session that was left behind on one portal live on beside its successor on another,
/// with writes still on their way; in one group the successor reinstates it, wherever it comes in.
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

/// 0x0301: not now (RFC 7143 11.13.5). Class 3: the initiator tries again.
const UNAVAILABLE: u16 = 0x0301;

/// Settings that logins meet.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) prefix: String,
    pub(super) auth: Auth,
    pub(super) algorithms: Algorithms,
    pub(super) digests: Digests,
    /// Where every login goes instead, by the configuration.
    pub(super) redirect: Option<SocketAddr>,
    pub(super) sessions_per_node: usize,
    /// Where the server listens.
    pub(super) portals: Vec<SocketAddr>,
}

/// Names, access, and the targets that are or were in use.
#[derive(Debug)]
pub(super) struct Targets {
    head: Arc<Head>,
    rules: Rules,
    open: Mutex<HashMap<NodeName, Arc<OpenTarget>>>,
    next_nexus: AtomicU64,
    next_discovery: AtomicU16,
}

/// A target somebody has logged in to since the head started.
#[derive(Debug)]
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
    /// Held while a change of its reservations is on its way.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) disk: DiskIdentity,
    pub(super) gate: Arc<Gate>,
    size: u64,
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
    /// When it took its seat.
    pub(super) since: Instant,
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

    /// Its target.
    pub(super) const fn target(&self) -> &Arc<OpenTarget> {
        &self.target
    }

    /// The node's disk is ready: makes or re-uses its logical unit, and joins it.
    pub(super) fn attach(&mut self, attached: Attached, target_name: &Iqn) {
        let unit = self.target.unit(attached, target_name);
        unit.device().attach(self.nexus, &self.identity.port_name());
        self.unit = Some(unit);
    }
}

impl OpenTarget {
    /// The sessions that have one of these nexuses, `own` left out.
    pub(super) fn named(&self, own: NexusId, nexuses: &[NexusId]) -> Vec<Handle> {
        lock(&self.registry)
            .named(nexuses)
            .filter(|(nexus, _)| *nexus != own)
            .map(|(_, handle)| handle.clone())
            .collect()
    }

    /// The logical unit lives as long as its disk: reservations and unit attentions outlast sessions. A new
    /// one begins with the reservations that outlived the head. The volume is always the one that was just
    /// attached. No session sees its disk change size: another size is another unit, and the sessions of the
    /// old one lose their volume.
    fn unit(&self, attached: Attached, target_name: &Iqn) -> Unit {
        let mut slot = lock(&self.unit);
        let size = attached.volume.size();
        let disk = attached.disk();
        let traits = traits_of(attached.node.disk);
        let (device, turn, gate) = match slot.take() {
            Some(old) if old.size == size && old.disk == disk => (old.device, old.turn, old.gate),
            _ => {
                let config = config_of(&disk.uuid, size, target_name, traits);
                let mut device = LogicalUnit::new(config);
                if let Some(kept) = attached.reservations() {
                    device.restore(reserve::from_record(kept));
                }
                (Arc::new(Mutex::new(device)), Arc::default(), Arc::default())
            }
        };
        {
            let mut device = lock(&device);
            device.set_traits(traits);
            device.set_threshold(attached.volume.limits().warn);
            device.sanitize_restore(attached.sanitize);
        }
        let unit = Unit {
            lun: LUNS[0],
            device,
            volume: attached.volume,
            turn,
            disk,
            gate,
            size,
        };
        *slot = Some(unit.clone());
        unit
    }
}

/// How a disk shows itself to initiators.
fn config_of(disk_uuid: &str, size: u64, target_name: &Iqn, traits: Traits) -> LuConfig {
    LuConfig {
        size_bytes: size,
        serial: serial_of(disk_uuid),
        naa: naa_of(disk_uuid),
        target_name: target_name.as_str().to_owned(),
        // True for both modes: a completed write is in the file, not yet on the medium. FLUSH of an
        // ephemeral layer is a no-op by declared policy (docs/protocols/iscsi.md).
        write_back: true,
        traits,
        lun: LUNS[0],
        luns: LUNS.to_vec(),
    }
}

impl Targets {
    pub(super) fn new(head: Arc<Head>, rules: Rules) -> Self {
        Self {
            head,
            rules,
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
        self.rules.algorithms
    }

    /// Which digests are agreed to.
    pub(super) const fn digests(&self) -> Digests {
        self.rules.digests
    }

    /// Where the server listens.
    pub(super) fn portals(&self) -> &[SocketAddr] {
        &self.rules.portals
    }

    /// The names of a node's target and of its initiator.
    pub(super) fn names_of(&self, node: &NodeName) -> (String, String) {
        let prefix = &self.rules.prefix;
        let (target, initiator) = (
            Iqn::target_of(prefix, node),
            Iqn::initiator_of(prefix, node),
        );
        (target.as_str().to_owned(), initiator.as_str().to_owned())
    }

    /// Who may log in.
    pub(super) const fn auth(&self) -> Auth {
        self.rules.auth
    }

    /// How to reach the sessions of these nodes.
    pub(super) fn handles_of(&self, nodes: &[NodeName]) -> Vec<Handle> {
        let open = lock(&self.open);
        let targets: Vec<_> = nodes.iter().filter_map(|n| open.get(n).cloned()).collect();
        drop(open);
        let handles = |target: &Arc<OpenTarget>| -> Vec<Handle> {
            lock(&target.registry).all().cloned().collect()
        };
        targets.iter().flat_map(handles).collect()
    }

    /// Does an order to drain stand for this node?
    pub(super) fn is_drained(&self, node: &NodeName) -> bool {
        self.head.drains().order_for(Some(node)).is_some()
    }

    /// Where a login goes, or why it must wait, when it is not for this head now.
    fn elsewhere(&self, node: Option<&NodeName>) -> Option<Access> {
        let drains = self.head.drains();
        let to = match drains.order_for(node) {
            Some(order) => order.to,
            None => Some(self.rules.redirect?),
        };
        Some(match to {
            Some(to) => Access::Redirect(to.to_string()),
            None => Access::Deny {
                behind_chap: false,
                status: UNAVAILABLE,
                why: "it is drained from this head, and no other is named".to_owned(),
            },
        })
    }

    /// A handle for a discovery session.
    pub(super) fn discovery_tsih(&self) -> u16 {
        self.next_discovery.fetch_add(1, Relaxed).max(1)
    }

    /// The node whose target this is.
    pub(super) fn node_of(&self, target: &Iqn) -> Option<Arc<NodeRecord>> {
        let name = target.node_of_target(&self.rules.prefix)?;
        self.head.snapshot().node(name).cloned()
    }

    /// Decides about a login: the rule follows the node, and a stranger learns nothing.
    pub(super) fn decide(&self, ask: &Ask) -> Access {
        let normal = ask.session_type == SessionType::Normal;
        let node = match &ask.target {
            Some(target) if normal => self.node_of(target),
            _ => self.node_of_initiator(&ask.initiator),
        };
        // Before authentication: nobody but the other head learns more by it, and a drained head does little.
        if let Some(elsewhere) = self.elsewhere(node.as_deref().map(|node| &node.name)) {
            return elsewhere;
        }
        match (node, self.rules.auth) {
            (_, Auth::None) if !normal => Access::Allow {
                chap: None,
                mutual: None,
            },
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
        let name = initiator.node_of_initiator(&self.rules.prefix)?;
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
        let told = portals::told(portal, &self.rules.portals);
        let found = |name| Found {
            name,
            portals: told.iter().map(ToString::to_string).collect(),
        };
        names.into_iter().map(found).collect()
    }

    /// The targets that a discovery session may see.
    fn visible(&self, ask: &Ask) -> Vec<Iqn> {
        let target = |node: &NodeRecord| Iqn::target_of(&self.rules.prefix, &node.name);
        match self.rules.auth {
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
        let target = self.target_of(&node.name);
        let identity = Identity {
            initiator: ask.initiator.clone(),
            isid: ask.isid,
            portal_group: PORTAL_GROUP,
        };
        let kind = kind_of(ask.isid, &node.macs);
        let nexus = NexusId(self.next_nexus.fetch_add(1, Relaxed));
        // Read before others can find the seat: what looks for sessions and then at the clock finds this one older.
        let since = Instant::now();
        let active_ms = Arc::new(AtomicU64::new(UnixMillis::now().0));
        let member = Member {
            identity: identity.clone(),
            kind,
            address,
            nexus,
            active_ms: Arc::clone(&active_ms),
        };
        let Entered {
            tsih,
            victims,
            clones,
        } = lock(&target.registry).enter(member, handle)?;
        if let Some(addresses) = clones {
            self.tell_clones(&node.name, &ask.initiator, addresses);
        }
        let traffic = self.head.bus().traffic(&node.name);
        let session = Session {
            target,
            node,
            identity,
            kind,
            nexus,
            tsih,
            since,
            unit: None,
            traffic,
            active_ms,
        };
        Some((session, victims))
    }

    fn target_of(&self, node: &NodeName) -> Arc<OpenTarget> {
        let mut open = lock(&self.open);
        let made = || {
            Arc::new(OpenTarget {
                registry: Mutex::new(Registry::new(self.rules.sessions_per_node)),
                unit: Mutex::default(),
            })
        };
        Arc::clone(open.entry(node.clone()).or_insert_with(made))
    }

    /// The loudest thing there is to say: two machines run from one disk, in turn.
    fn tell_clones(&self, node: &NodeName, initiator: &Iqn, (first, second): (IpAddr, IpAddr)) {
        tracing::error!(
            %node, %initiator, %first, %second,
            "two machines use one initiator name and push each other out"
        );
        let event = EventKind::ClonedInitiator {
            initiator: initiator.clone(),
            first,
            second,
        };
        self.head.bus().publish(Some(node), event);
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

/// The node's word on its disk, as the device server takes it.
fn traits_of(disk: DiskTraits) -> Traits {
    Traits {
        removable: disk.has(DiskTrait::Removable),
        read_only: disk.has(DiskTrait::ReadOnly),
        small_blocks: disk.has(DiskTrait::Native512),
        sanitize: disk.has(DiskTrait::Sanitize),
        no_zero_count: disk.has(DiskTrait::Wsnz),
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
