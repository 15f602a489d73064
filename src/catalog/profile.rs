//! Settings that nodes share, and which of a node's settings are its own. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{Error, ErrorKind, Result};
use super::image::check_label;
use super::{BootMode, DiskTraits, ImageRef, LayerMode, LoaderPolicy};
use crate::limits;
use crate::units::{UnixMillis, parse_bytes};

/// One setting that a node has of its own, takes from its profile, or has by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// What it boots.
    Image,
    /// What becomes of its layer.
    Mode,
    /// What it is told.
    Boot,
    /// How its firmware is loaded.
    Loader,
    /// What its disk is beyond a plain one.
    Disk,
    /// Bytes that its layer may hold.
    LayerLimit,
    /// Bytes of its layer beyond which its owner is told.
    LayerWarn,
    /// Command template of its power driver.
    Power,
}

impl Setting {
    /// All of them, in the order in which people are shown them.
    pub const ALL: [Self; 8] = [
        Self::Image,
        Self::Mode,
        Self::Boot,
        Self::Loader,
        Self::Disk,
        Self::LayerLimit,
        Self::LayerWarn,
        Self::Power,
    ];

    /// The word that people and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Mode => "mode",
            Self::Boot => "boot",
            Self::Loader => "loader",
            Self::Disk => "disk",
            Self::LayerLimit => "layer-limit",
            Self::LayerWarn => "layer-warn",
            Self::Power => "power",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Some settings. A list of words in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Setting>", into = "Vec<Setting>")]
pub struct SettingSet(u8);

impl SettingSet {
    /// Every setting.
    #[must_use]
    pub fn all() -> Self {
        Setting::ALL.to_vec().into()
    }

    /// True when this one is among them.
    #[must_use]
    pub const fn has(self, one: Setting) -> bool {
        self.0 & one.bit() != 0
    }

    /// Adds one, or takes it out.
    pub const fn put(&mut self, one: Setting, there: bool) {
        if there {
            self.0 |= one.bit();
        } else {
            self.0 &= !one.bit();
        }
    }

    /// True when there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

impl From<Vec<Setting>> for SettingSet {
    fn from(words: Vec<Setting>) -> Self {
        Self(words.iter().fold(0, |bits, one| bits | one.bit()))
    }
}

impl From<SettingSet> for Vec<Setting> {
    fn from(set: SettingSet) -> Self {
        let all = Setting::ALL.into_iter();
        all.filter(|one| set.has(*one)).collect()
    }
}

impl FromStr for SettingSet {
    type Err = String;

    /// A comma list of words; `all` alone means every one.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "all" {
            return Ok(Self::all());
        }
        let mut set = Self::default();
        for word in text.split(',') {
            let known = Setting::ALL.into_iter().find(|one| one.as_str() == word);
            let one = known.ok_or_else(|| {
                let words = Setting::ALL.map(Setting::as_str).join(", ");
                format!("`{word}` is no setting; there are {words}, or `all` alone")
            })?;
            set.put(one, true);
        }
        Ok(set)
    }
}

/// Values of settings, as far as they are said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// What they boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// What becomes of their layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<LayerMode>,
    /// What they are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootMode>,
    /// How their firmware is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loader: Option<LoaderPolicy>,
    /// What their disks are beyond plain ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskTraits>,
    /// Bytes that their layers may hold; 0 is no limit. Absent: what is usual on this head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_limit: Option<u64>,
    /// Bytes of their layers beyond which the owner is told; 0 is never. Absent: what is usual on this head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_warn: Option<u64>,
    /// Command template of their power driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<String>,
}

impl Settings {
    /// The value of one as people write it; `None` where nothing is said.
    #[must_use]
    pub fn text(&self, one: Setting) -> Option<String> {
        match one {
            Setting::Image => self.image.as_ref().map(ToString::to_string),
            Setting::Mode => self.mode.map(|m| m.to_string()),
            Setting::Boot => self.boot.map(|b| b.to_string()),
            Setting::Loader => self.loader.map(|l| l.to_string()),
            Setting::Disk => self.disk.map(|d| d.to_string()),
            Setting::LayerLimit => self.layer_limit.map(size_text),
            Setting::LayerWarn => self.layer_warn.map(size_text),
            Setting::Power => self.power.clone(),
        }
    }

    /// What is said here, and where nothing is, what `other` says.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        Self {
            image: self.image.clone().or_else(|| other.image.clone()),
            mode: self.mode.or(other.mode),
            boot: self.boot.or(other.boot),
            loader: self.loader.or(other.loader),
            disk: self.disk.or(other.disk),
            layer_limit: self.layer_limit.or(other.layer_limit),
            layer_warn: self.layer_warn.or(other.layer_warn),
            power: self.power.clone().or_else(|| other.power.clone()),
        }
    }

    /// Takes back what is said of some.
    pub fn clear(&mut self, gone: SettingSet) {
        for one in Setting::ALL.into_iter().filter(|one| gone.has(*one)) {
            match one {
                Setting::Image => self.image = None,
                Setting::Mode => self.mode = None,
                Setting::Boot => self.boot = None,
                Setting::Loader => self.loader = None,
                Setting::Disk => self.disk = None,
                Setting::LayerLimit => self.layer_limit = None,
                Setting::LayerWarn => self.layer_warn = None,
                Setting::Power => self.power = None,
            }
        }
    }

    /// Refuses a warning that would come after the limit.
    pub(super) fn check_limits(&self) -> std::result::Result<(), String> {
        match (self.layer_limit, self.layer_warn) {
            (Some(most), Some(warn)) if most > 0 && warn > most => {
                Err("would warn beyond the limit of the layer; warn below it".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Of which something is said.
    #[must_use]
    pub fn said(&self) -> SettingSet {
        let mut set = SettingSet::default();
        for one in Setting::ALL {
            let there = match one {
                Setting::Image => self.image.is_some(),
                Setting::Mode => self.mode.is_some(),
                Setting::Boot => self.boot.is_some(),
                Setting::Loader => self.loader.is_some(),
                Setting::Disk => self.disk.is_some(),
                Setting::LayerLimit => self.layer_limit.is_some(),
                Setting::LayerWarn => self.layer_warn.is_some(),
                Setting::Power => self.power.is_some(),
            };
            set.put(one, there);
        }
        set
    }
}

/// A limit in bytes as people write it: `none` for 0, else like `4G`, exactly.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    if bytes == 0 {
        return "none".to_owned();
    }
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let whole = units
        .iter()
        .find(|(shift, _)| bytes.trailing_zeros() >= *shift);
    whole.map_or_else(
        || bytes.to_string(),
        |(shift, unit)| format!("{}{unit}", bytes >> shift),
    )
}

/// Reads what [`size_text`] writes.
///
/// # Errors
/// What it must be like.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    match (text, parse_bytes(text)) {
        ("none", _) => Ok(0),
        (_, Some(bytes)) if bytes > 0 => Ok(bytes),
        _ => Err(format!(
            "`{text}` is no size; write 512M, 4G or 1T, or `none`"
        )),
    }
}

/// Settings under a name, for the nodes that have it as their profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// Its name.
    pub name: String,
    /// What it sets; a node's own setting wins.
    #[serde(flatten)]
    pub settings: Settings,
    /// When it was added.
    pub added: UnixMillis,
}

impl ProfileRecord {
    /// Refuses a name that is none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_name(name: &str) -> std::result::Result<(), String> {
        check_label("profile name", name)
    }

    /// Refuses a record that is wrong by itself.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::new(ErrorKind::Invalid, why));
        if let Err(why) = Self::check_name(&self.name) {
            return wrong(why);
        }
        if let Err(why) = self.settings.check_limits() {
            return wrong(format!("profile `{}` {why}", self.name));
        }
        let most = limits::NOTE_BYTES_MAX;
        if self.settings.power.as_ref().map_or(0, String::len) > most {
            let name = &self.name;
            return wrong(format!(
                "profile `{name}` has a power command longer than {most} bytes"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn sets_of_settings_are_words_in_every_form() {
        let set: SettingSet = "power,image".parse().unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["image","power"]"#);
        assert_eq!(
            serde_json::from_str::<SettingSet>(r#"["power","image"]"#).unwrap(),
            set
        );
        assert_eq!("all".parse::<SettingSet>().unwrap(), SettingSet::all());
        let wrong = "image,colour".parse::<SettingSet>().unwrap_err();
        assert!(
            wrong.contains("`colour`") && wrong.contains("loader"),
            "{wrong}"
        );
    }

    #[test]
    fn what_is_said_wins_over_what_another_says() {
        let own = Settings {
            mode: Some(LayerMode::Ephemeral),
            ..Settings::default()
        };
        let profile = Settings {
            mode: Some(LayerMode::Persistent),
            power: Some("p".into()),
            ..Settings::default()
        };
        let both = own.over(&profile);
        assert_eq!(both.mode, Some(LayerMode::Ephemeral));
        assert_eq!(both.power.as_deref(), Some("p"));
        let mut left = both;
        left.clear("mode,power".parse().unwrap());
        assert!(left.said().is_empty());
    }
}
