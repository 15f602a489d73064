//! Small durable facts: nodes, images, machines that wait for approval. (Skeleton: the records and the
//! signatures are the contract; the owner of this room completes it over redb.)

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::{BootId, ImageId, LayerId, Mac, NodeName};
use crate::units::UnixMillis;

/// Which version of an image is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    /// The image's name.
    pub name: String,
    /// Version number, tag, or the newest when absent.
    pub version: Option<VersionSelector>,
}

/// `:3` or `:stable`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VersionSelector {
    /// A version number.
    Number(u32),
    /// A tag.
    Tag(String),
}

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

/// A CHAP secret; silent in `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
    /// Identity of its disk: serial number and NAA designator derive from it.
    pub disk_uuid: String,
    /// When it was added.
    pub added: UnixMillis,
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

/// One version of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Counted from 1.
    pub version: u32,
    /// Content identity.
    pub id: ImageId,
    /// Bytes of the disk.
    pub size: u64,
    /// `x86_64` or `arm64`, if told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// File it came from.
    pub source: String,
    /// When.
    pub created: UnixMillis,
}

/// An image with its versions and tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its name.
    pub name: String,
    /// Versions, oldest first.
    pub versions: Vec<VersionRecord>,
    /// Tag to version number.
    pub tags: std::collections::BTreeMap<String, u32>,
    /// The number the next version gets; never reused.
    pub next_version: u32,
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

/// A reader's view: never changes, costs nothing to hold. All look-ups are O(log n).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {}

impl Snapshot {
    /// A node by name.
    #[must_use]
    pub fn node(&self, _name: &str) -> Option<&Arc<NodeRecord>> {
        todo!()
    }
    /// A node by one of its addresses.
    #[must_use]
    pub fn node_by_mac(&self, _mac: Mac) -> Option<&Arc<NodeRecord>> {
        todo!()
    }
    /// All nodes in natural order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeRecord>> {
        std::iter::empty()
    }
    /// An image by name.
    #[must_use]
    pub fn image(&self, _name: &str) -> Option<&Arc<ImageRecord>> {
        todo!()
    }
    /// The version that a reference means now.
    #[must_use]
    pub fn resolve(&self, _image: &ImageRef) -> Option<&VersionRecord> {
        todo!()
    }
    /// What a layer is bound to.
    #[must_use]
    pub fn binding(&self, _layer: LayerId) -> Option<&Arc<Binding>> {
        todo!()
    }
}

impl TryFrom<String> for ImageRef {
    type Error = String;
    fn try_from(_text: String) -> Result<Self, String> {
        todo!()
    }
}

impl From<ImageRef> for String {
    fn from(_image: ImageRef) -> Self {
        todo!()
    }
}
