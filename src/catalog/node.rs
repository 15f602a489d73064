//! Records of machines: nodes, what their layers are bound to, machines that wait for approval. Pure.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::ImageRef;
use super::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::names::{BootId, ImageId, LayerId, Mac, NodeName};
use crate::units::UnixMillis;

/// What becomes of a node's layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerMode {
    /// Thrown away at each boot.
    #[default]
    Ephemeral,
    /// Kept.
    Persistent,
}

impl LayerMode {
    /// The word that people and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ephemeral => "ephemeral",
            Self::Persistent => "persistent",
        }
    }
}

impl fmt::Display for LayerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a node is told when it asks to boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootMode {
    /// Boot its image.
    #[default]
    Image,
    /// Go on to the next boot device at once.
    Local,
}

impl BootMode {
    /// The word that people and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for BootMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How firmware that is iPXE already is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoaderPolicy {
    /// iPXE gets the script at once; plain PXE gets a loader first.
    #[default]
    Auto,
    /// Even iPXE in the ROM is replaced by the head's own loader first.
    Chain,
}

impl LoaderPolicy {
    /// The word that people and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Chain => "chain",
        }
    }
}

impl fmt::Display for LoaderPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A CHAP secret; silent in `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl Secret {
    /// True when none was minted yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub name: NodeName,
    /// Its layer's number: unique, never reused.
    pub layer: LayerId,
    /// Its network cards; the first one boots.
    pub macs: Vec<Mac>,
    /// Fixed address, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// What it boots.
    pub image: Option<ImageRef>,
    /// What becomes of its layer.
    #[serde(default)]
    pub mode: LayerMode,
    /// What it is told.
    #[serde(default)]
    pub boot: BootMode,
    /// How its firmware is loaded.
    #[serde(default)]
    pub loader: LoaderPolicy,
    /// Command template of its power driver, with `{node}`, `{mac}` and `{action}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<String>,
    /// CHAP secret of its initiator (user: the node's name).
    pub secret: Secret,
    /// The other direction: with it the head proves itself to this node. Never the same as `secret`. Empty only
    /// in records of older programs, until the head that opens them has minted one.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub head_secret: Secret,
    /// Identity of its disk: serial number and NAA designator derive from it.
    pub disk_uuid: String,
    /// When it was added.
    pub added: UnixMillis,
}

impl NodeRecord {
    /// Refuses a record that is wrong by itself, whatever else the catalog holds.
    pub(super) fn check(&self) -> Result<()> {
        let name = &self.name;
        let wrong = |why: String| {
            let context = format!("node `{name}` {why}");
            Err(Error::new(ErrorKind::Invalid, context))
        };
        let most = limits::MACS_PER_NODE;
        if self.macs.len() > most {
            return wrong(format!("has more than {most} MAC addresses; name fewer"));
        }
        if let Some(mac) = self.macs.iter().find(|mac| !mac.is_unicast()) {
            return wrong(format!(
                "cannot have MAC {mac}: that is a group address or zero; give the card's own"
            ));
        }
        let twice = |(at, mac): (usize, &Mac)| self.macs.iter().take(at).any(|m| m == mac);
        if let Some(mac) = (0..).zip(&self.macs).find(|&m| twice(m)).map(|m| m.1) {
            return wrong(format!("names MAC {mac} twice; name it once"));
        }
        // RFC 7143 9.2.1: with one secret for both directions whoever may ask can also answer.
        if !self.secret.is_empty() && self.secret == self.head_secret {
            return wrong("has one CHAP secret for both directions; give it new ones".to_owned());
        }
        let unusable = |ip: &Ipv4Addr| {
            ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback()
        };
        if let Some(ip) = self.ip.filter(unusable) {
            return wrong(format!("cannot have address {ip}; give one of its network"));
        }
        let power_len = self.power.as_ref().map_or(0, String::len);
        if power_len > limits::NOTE_BYTES_MAX {
            let most = limits::NOTE_BYTES_MAX;
            return wrong(format!("has a power command longer than {most} bytes"));
        }
        Ok(())
    }
}

/// What a layer is bound to: fixed at a boot, so that later logins of that boot see the same disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The layer.
    pub layer: LayerId,
    /// `debian12:3`.
    pub label: String,
    /// The image version.
    pub image: ImageId,
    /// The mode in force.
    pub mode: LayerMode,
    /// The boot that made the binding.
    pub boot: BootId,
    /// When.
    pub at: UnixMillis,
}

/// A machine that asked to boot and is nobody's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRecord {
    /// Its address.
    pub mac: Mac,
    /// `bios`, `uefi-x64`, ...
    pub arch: String,
    /// SMBIOS UUID from DHCP option 97.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// First seen.
    pub first: UnixMillis,
    /// Last seen.
    pub last: UnixMillis,
    /// How often it asked.
    pub asked: u64,
}
