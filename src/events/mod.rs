//! What happens on this head, told once and heard by whoever cares.
//!
//! Rooms that see something (`boot`, `iscsi`, `power`, `head`) publish an [`EventKind`] on the [`Bus`]; the
//! bus adds the time, a number and the boot id. Rooms that decide or show (`wave`, `api`) follow it, each at its
//! own pace ([`Follower`]): an event wakes a reader that was quiet, never one that has just read.
//! Nothing is ever called back through here, and a slow reader never holds up a publisher.
//!
//! [`Timeline`] folds events into where a boot stands; it is pure, so that a wave, the status table and
//! a test read the same story. Level 2.

mod bus;
mod follower;
mod timeline;
mod traffic;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::names::{BootId, Iqn, Mac, NodeName, NodeSet};
use crate::units::UnixMillis;

pub use bus::{Bus, Subscription};
pub use follower::Follower;
pub use timeline::{NodeTimeline, StageEntry, Timeline};
pub use traffic::{Traffic, TrafficTotals};

/// How far a boot has come, in order. A later stage may be reached without an earlier one having been seen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing seen, or switched off.
    #[default]
    Off,
    /// Power was asked for.
    Powered,
    /// Firmware asked for an address or a boot server.
    Dhcp,
    /// A network boot program was fetched by TFTP or HTTP.
    Loader,
    /// The boot script was served.
    Script,
    /// Firmware (iPXE, EDK2) logged in to the node's disk.
    FirmwareLogin,
    /// The operating system logged in to it.
    OsLogin,
    /// The node said that it is ready, or its boot reads came to rest.
    Ready,
    /// The attempt ended without success; the event says why.
    Failed,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::Powered => "powered",
            Self::Dhcp => "dhcp",
            Self::Loader => "loader",
            Self::Script => "script",
            Self::FirmwareLogin => "firmware-login",
            Self::OsLogin => "os-login",
            Self::Ready => "ready",
            Self::Failed => "failed",
        })
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counted up by one on this head since its daemon started.
    pub seq: u64,
    /// When.
    pub at: UnixMillis,
    /// The node it concerns, if it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The boot attempt it belongs to, if one is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What kind of initiator logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitiatorKind {
    /// iPXE or EDK2: by its ISID (iPXE: 40 00 27 23; EDK2: the NIC's address).
    Firmware,
    /// Everything else.
    Os,
}

/// How a node came to be called ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyBy {
    /// It called the head's ready address.
    Call,
    /// Its reads came to rest after the operating system's login.
    Settled,
}

/// Everything that can happen. Names are stable: they are the `event` field of the JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    /// A new boot attempt began.
    BootStarted {
        /// What was taken as its beginning, in words.
        cause: String,
    },
    /// Power was asked for: `on`, `off` or `cycle`.
    Power {
        /// The action.
        action: String,
        /// What the driver answered when it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A machine that no node record claims asked to boot.
    UnknownMachine {
        /// Its address.
        mac: Mac,
        /// Its architecture, as DHCP option 93 says.
        arch: String,
    },
    /// DHCP (or ProxyDHCP, or port 4011) was answered.
    Dhcp {
        /// The asker.
        mac: Mac,
        /// The address offered; absent for ProxyDHCP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<IpAddr>,
        /// `bios`, `uefi-x64`, `uefi-arm64`, ...
        arch: String,
        /// `pxe`, `ipxe` or `http`.
        client: String,
        /// What it was told to load.
        file: String,
    },
    /// A network boot program was sent whole.
    Loader {
        /// Its name.
        file: String,
        /// Its size.
        bytes: u64,
        /// `tftp` or `http`.
        by: String,
    },
    /// A boot script was answered.
    Script {
        /// `boot`, `wait`, `local`, `rescue`, `pending`, `refused`.
        decision: String,
        /// The image version, when it boots one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<String>,
    },
    /// The node waits its turn.
    Queued {
        /// 1 is next.
        place: u32,
    },
    /// The node's layer was made new over an image version.
    LayerReset {
        /// The image version.
        image: String,
    },
    /// A session reached the full feature phase.
    Login {
        /// Firmware or operating system.
        initiator_kind: InitiatorKind,
        /// Its name.
        initiator: Iqn,
        /// From where.
        peer: SocketAddr,
        /// The session's TSIH.
        session: u16,
    },
    /// A login was refused.
    LoginRefused {
        /// From where.
        peer: SocketAddr,
        /// Status-Class and -Detail (RFC 7143 11.13.5), as 0x0201.
        status: u16,
        /// The cause.
        why: String,
    },
    /// A session ended.
    Logout {
        /// The session's TSIH.
        session: u16,
        /// `logout`, `closed`, `reinstated`, `fenced`, `stalled`, `error: ...`.
        why: String,
        /// Bytes read from the volume in this session.
        read_bytes: u64,
        /// Bytes written.
        written_bytes: u64,
    },
    /// The node is up.
    Ready {
        /// How we know.
        by: ReadyBy,
    },
    /// The attempt failed.
    Failed {
        /// The stage it did not get past.
        stage: Stage,
        /// The cause, with what was seen.
        reason: String,
        /// What to do.
        next: String,
    },
    /// A volume can no longer be used.
    VolumeFailed {
        /// Why.
        reason: String,
    },
    /// A layer's space: `warned`, `at-limit` or `disk-full`. Told once, until it is over and happens again.
    LayerSpace {
        /// Which.
        state: String,
        /// A sentence with the figures and the next step.
        detail: String,
    },
    /// Two machines use one initiator name and push each other's sessions out.
    ClonedInitiator {
        /// The name.
        initiator: Iqn,
        /// Where the one is that came now.
        first: IpAddr,
        /// Where the other is.
        second: IpAddr,
    },
    /// Nodes are drained from this head, or no longer.
    Drain {
        /// `begun` or `ended`.
        state: String,
        /// Where logins go instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<SocketAddr>,
    },
    /// A chunk of images was found bad; each place is told once.
    ChunkBad {
        /// The image versions that have it, and where on their disks.
        chunks: Vec<HurtChunk>,
        /// Further ones that are not named.
        #[serde(default)]
        more: usize,
        /// The pack it lies in, below the store's directory.
        pack: String,
        /// Offset in the pack, bytes.
        pack_offset: u64,
        /// What is wrong.
        why: String,
        /// The nodes whose disks stand on one of the versions.
        nodes: NodeSet,
        /// What to do.
        next: String,
    },
    /// A place that was bad holds its chunk again.
    ChunkHealed {
        /// The pack.
        pack: String,
        /// Offset in the pack, bytes.
        pack_offset: u64,
    },
    /// A campaign began, changed or ended.
    Campaign {
        /// Its number.
        id: u64,
        /// `started`, `wave`, `paused`, `resumed`, `finished`, `aborted`.
        state: String,
        /// A sentence with the figures.
        detail: String,
    },
}

/// A bad chunk as one image version has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HurtChunk {
    /// `debian12:3`.
    pub image: String,
    /// Number of the chunk on the disk.
    pub chunk: u64,
    /// First byte of it on the disk.
    pub from: u64,
    /// Last byte.
    pub to: u64,
}

impl EventKind {
    /// The stage of a boot that this event shows to be reached, if it shows one.
    #[must_use]
    pub fn stage(&self) -> Option<Stage> {
        Some(match self {
            Self::Dhcp { .. } => Stage::Dhcp,
            Self::Loader { .. } => Stage::Loader,
            Self::Script { .. } => Stage::Script,
            Self::Login {
                initiator_kind: InitiatorKind::Firmware,
                ..
            } => Stage::FirmwareLogin,
            Self::Login { .. } => Stage::OsLogin,
            Self::Ready { .. } => Stage::Ready,
            Self::Failed { .. } => Stage::Failed,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn stages_are_in_the_order_of_a_boot() {
        let order = [
            Stage::Off,
            Stage::Powered,
            Stage::Dhcp,
            Stage::Loader,
            Stage::Script,
            Stage::FirmwareLogin,
            Stage::OsLogin,
            Stage::Ready,
        ];
        assert!(order.is_sorted());
    }

    #[test]
    fn events_have_a_stable_json_form() {
        let event = Event {
            seq: 7,
            at: UnixMillis(1000),
            node: Some(NodeName::parse("node1").unwrap()),
            boot: Some(BootId(31)),
            kind: EventKind::Ready { by: ReadyBy::Call },
        };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"seq":7,"at":1000,"node":"node1","boot":31,"event":"ready","by":"call"}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}
