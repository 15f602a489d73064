//! Records of machines: nodes, what their layers are bound to, machines that wait for approval. Pure.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::DiskReservations;
use super::ImageRef;
use super::error::{Error, ErrorKind, Result};
use super::profile::{Setting, SettingSet, Settings};
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

/// What may make a node's disk other than a plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskTrait {
    /// One logical block of 512 bytes per physical block.
    #[serde(rename = "512n")]
    Native512,
    /// Its medium can be ejected.
    Removable,
    /// Write-protected.
    ReadOnly,
    /// SANITIZE is allowed.
    Sanitize,
    /// WRITE SAME of no blocks is refused (WSNZ=1) instead of going to the end of the disk.
    Wsnz,
}

impl DiskTrait {
    const ALL: [Self; 5] = [
        Self::Native512,
        Self::Removable,
        Self::ReadOnly,
        Self::Sanitize,
        Self::Wsnz,
    ];

    /// The word that people and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native512 => "512n",
            Self::Removable => "removable",
            Self::ReadOnly => "read-only",
            Self::Sanitize => "sanitize",
            Self::Wsnz => "wsnz",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The traits of a node's disk; none of them: a fixed, writable disk of 512-byte blocks on physical blocks of
/// 4,096, which no initiator may sanitize. A list of words in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<DiskTrait>", into = "Vec<DiskTrait>")]
pub struct DiskTraits(u8);

impl DiskTraits {
    /// True when the disk has this trait.
    #[must_use]
    pub const fn has(self, one: DiskTrait) -> bool {
        self.0 & one.bit() != 0
    }

    /// True of a plain disk.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.0 == 0
    }

    fn all(self) -> impl Iterator<Item = DiskTrait> {
        DiskTrait::ALL.into_iter().filter(move |one| self.has(*one))
    }
}

impl TryFrom<Vec<DiskTrait>> for DiskTraits {
    type Error = String;

    /// Refuses traits that contradict each other.
    fn try_from(words: Vec<DiskTrait>) -> std::result::Result<Self, String> {
        let traits = Self(words.iter().fold(0, |bits, one| bits | one.bit()));
        if traits.has(DiskTrait::ReadOnly) && traits.has(DiskTrait::Sanitize) {
            let why = "a disk cannot be `read-only` and allow `sanitize`; choose one of them";
            return Err(why.to_owned());
        }
        Ok(traits)
    }
}

impl From<DiskTraits> for Vec<DiskTrait> {
    fn from(traits: DiskTraits) -> Self {
        traits.all().collect()
    }
}

impl std::str::FromStr for DiskTraits {
    type Err = String;

    /// A comma list of words; `default` alone means none of them.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "default" {
            return Ok(Self::default());
        }
        let word = |word: &str| {
            let known = DiskTrait::ALL.into_iter().find(|one| one.as_str() == word);
            known.ok_or_else(|| {
                format!(
                    "`{word}` is no trait of a disk; there are `512n`, `removable`, `read-only`, \
                     `sanitize` and `wsnz`, or `default` alone for none"
                )
            })
        };
        let words: std::result::Result<Vec<DiskTrait>, String> =
            text.split(',').map(word).collect();
        Self::try_from(words?)
    }
}

impl fmt::Display for DiskTraits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.all().map(DiskTrait::as_str).collect();
        if words.is_empty() {
            return f.pad("default");
        }
        f.pad(&words.join(","))
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

/// One node. The settings are those in force, whoever supplied them: readers need not know of profiles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "NodeRow", into = "NodeRow")]
pub struct NodeRecord {
    /// Its name.
    pub name: NodeName,
    /// Its layer's number: unique, never reused.
    pub layer: LayerId,
    /// Its network cards; the first one boots.
    pub macs: Vec<Mac>,
    /// Fixed address, when it has one.
    pub ip: Option<Ipv4Addr>,
    /// What it boots.
    pub image: Option<ImageRef>,
    /// What becomes of its layer.
    pub mode: LayerMode,
    /// What it is told.
    pub boot: BootMode,
    /// How its firmware is loaded.
    pub loader: LoaderPolicy,
    /// What its disk is beyond a plain one; from its next login on.
    pub disk: DiskTraits,
    /// Bytes that its layer may hold; 0 is no limit. Absent: what is usual on this head.
    pub layer_limit: Option<u64>,
    /// Bytes of its layer beyond which its owner is told; 0 is never. Absent: what is usual on this head.
    pub layer_warn: Option<u64>,
    /// Command template of its power driver, with `{node}`, `{mac}` and `{action}`.
    pub power: Option<String>,
    /// The profile that supplies what is not its own.
    pub profile: Option<String>,
    /// Settings that are not its own: the profile's, or the defaults. An image, a limit or a power command that is not
    /// there is nobody's and never in here.
    pub inherits: SettingSet,
    /// CHAP secret of its initiator (user: the node's name).
    pub secret: Secret,
    /// The other direction: with it the head proves itself to this node. Never the same as `secret`. Empty only
    /// in records of older programs, until the head that opens them has minted one.
    pub head_secret: Secret,
    /// Identity of its disk: serial number and NAA designator derive from it.
    pub disk_uuid: String,
    /// When it was added.
    pub added: UnixMillis,
}

/// A node as it lies in the file: only what is its own, so that a profile's change is one record.
#[derive(Serialize, Deserialize)]
struct NodeRow {
    name: NodeName,
    layer: LayerId,
    macs: Vec<Mac>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(flatten)]
    own: Settings,
    secret: Secret,
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    head_secret: Secret,
    disk_uuid: String,
    added: UnixMillis,
}

impl From<NodeRecord> for NodeRow {
    fn from(node: NodeRecord) -> Self {
        let own = node.own();
        // Taken apart by name, so that a new field cannot be forgotten here.
        let NodeRecord {
            name,
            layer,
            macs,
            ip,
            image: _,
            mode: _,
            boot: _,
            loader: _,
            disk: _,
            layer_limit: _,
            layer_warn: _,
            power: _,
            profile,
            inherits: _,
            secret,
            head_secret,
            disk_uuid,
            added,
        } = node;
        Self {
            name,
            layer,
            macs,
            ip,
            profile,
            own,
            secret,
            head_secret,
            disk_uuid,
            added,
        }
    }
}

impl From<NodeRow> for NodeRecord {
    /// What is not its own has its default until [`NodeRecord::fill`].
    fn from(row: NodeRow) -> Self {
        let mut node = Self {
            name: row.name,
            layer: row.layer,
            macs: row.macs,
            ip: row.ip,
            image: None,
            mode: LayerMode::default(),
            boot: BootMode::default(),
            loader: LoaderPolicy::default(),
            disk: DiskTraits::default(),
            layer_limit: None,
            layer_warn: None,
            power: None,
            profile: row.profile,
            inherits: SettingSet::default(),
            secret: row.secret,
            head_secret: row.head_secret,
            disk_uuid: row.disk_uuid,
            added: row.added,
        };
        node.set_own(row.own, None);
        node
    }
}

impl NodeRecord {
    /// The settings that are its own.
    #[must_use]
    pub fn own(&self) -> Settings {
        let mut own = self.in_force();
        own.clear(self.inherits);
        own
    }

    /// The settings in force.
    #[must_use]
    pub fn in_force(&self) -> Settings {
        Settings {
            image: self.image.clone(),
            mode: Some(self.mode),
            boot: Some(self.boot),
            loader: Some(self.loader),
            disk: Some(self.disk),
            layer_limit: self.layer_limit,
            layer_warn: self.layer_warn,
            power: self.power.clone(),
        }
    }

    /// Makes these and no others its own; the rest comes from `profile`, or is the default.
    pub fn set_own(&mut self, own: Settings, profile: Option<&Settings>) {
        let said = own.said();
        let all = match profile {
            Some(profile) => own.over(profile),
            None => own,
        };
        let supplied = |one: Setting| match one {
            Setting::Image => all.image.is_some(),
            Setting::LayerLimit => all.layer_limit.is_some(),
            Setting::LayerWarn => all.layer_warn.is_some(),
            Setting::Power => all.power.is_some(),
            _ => true,
        };
        for one in Setting::ALL {
            self.inherits.put(one, !said.has(one) && supplied(one));
        }
        self.image = all.image;
        self.mode = all.mode.unwrap_or_default();
        self.boot = all.boot.unwrap_or_default();
        self.loader = all.loader.unwrap_or_default();
        self.disk = all.disk.unwrap_or_default();
        self.layer_limit = all.layer_limit;
        self.layer_warn = all.layer_warn;
        self.power = all.power;
    }

    /// Takes what is not its own from `profile` anew.
    pub fn fill(&mut self, profile: Option<&Settings>) {
        self.set_own(self.own(), profile);
    }

    /// What is called inherited but is not what `profile` supplies was set by hand, and is the node's own.
    pub(super) fn settle(&mut self, profile: Option<&Settings>) {
        let mut expected = self.clone();
        expected.fill(profile);
        let (mine, given) = (self.in_force(), expected.in_force());
        for one in Setting::ALL {
            if mine.text(one) != given.text(one) {
                self.inherits.put(one, false);
            }
        }
        self.fill(profile);
    }
}

impl NodeRecord {
    /// Refuses a record that is wrong by itself, whatever else the catalog holds.
    pub(super) fn check(&self) -> Result<()> {
        let name = &self.name;
        let wrong = |why: String| {
            let context = format!("node `{name}` {why}");
            Err(Error::new(ErrorKind::Invalid, context))
        };
        if let Err(why) = self.in_force().check_limits() {
            return wrong(why);
        }
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
    /// The boot that began the layer's present content, when that is an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<BootId>,
    /// The version that shows the very bytes that layer and image show, to which the layer is being moved:
    /// once the layer is empty, the disk is that version and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
    /// Persistent reservations of this disk that outlive the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservations: Option<DiskReservations>,
}

/// Where a layer is being moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// `debian12:4`.
    pub label: String,
    /// The image version.
    pub image: ImageId,
}

impl Binding {
    /// The image versions that the disk may need.
    pub fn images(&self) -> impl Iterator<Item = ImageId> {
        let moving = self.moving.as_ref().map(|moving| moving.image);
        std::iter::once(self.image).chain(moving)
    }

    /// The boot that began the layer's present content: another one means another disk.
    #[must_use]
    pub fn begun(&self) -> BootId {
        self.began.unwrap_or(self.boot)
    }
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

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn traits_are_words_in_every_form() {
        let traits: DiskTraits = "sanitize,512n".parse().unwrap();
        assert_eq!(traits.to_string(), "512n,sanitize");
        let json = serde_json::to_string(&traits).unwrap();
        assert_eq!(json, r#"["512n","sanitize"]"#);
        assert_eq!(serde_json::from_str::<DiskTraits>(&json).unwrap(), traits);
        assert_eq!(
            "default".parse::<DiskTraits>().unwrap().to_string(),
            "default"
        );
    }

    #[test]
    fn wrong_words_and_contradictions_are_refused_with_a_reason() {
        let wrong = "removable,4k".parse::<DiskTraits>().unwrap_err();
        assert!(
            wrong.contains("`4k`") && wrong.contains("`512n`"),
            "{wrong}"
        );
        assert!("".parse::<DiskTraits>().is_err());
        assert!("default,removable".parse::<DiskTraits>().is_err());
        let both = "read-only,sanitize".parse::<DiskTraits>().unwrap_err();
        assert!(both.contains("choose one"), "{both}");
        assert!(serde_json::from_str::<DiskTraits>(r#"["read-only","sanitize"]"#).is_err());
    }
}
