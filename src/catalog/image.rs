//! Records of images, and how a version is named: `debian12`, `debian12:3`, `debian12:stable`. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::names::{ImageId, NodeName};
use crate::units::UnixMillis;

/// The tag that means what the bare name means: the newest version, unless the image was rolled back. It can
/// be neither set nor removed.
pub const LATEST: &str = "latest";

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
    pub tags: BTreeMap<String, u32>,
    /// The number the next version gets; never reused.
    pub next_version: u32,
    /// The version that the bare name means since a roll-back; the newest when absent. The next new version
    /// ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u32>,
}

impl ImageRef {
    /// Reads `name`, `name:3` or `name:tag`. Names and tags are labels like node names.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let (name, selector) = match text.split_once(':') {
            Some((name, selector)) => (name, Some(selector)),
            None => (text, None),
        };
        check_label("image name", name)?;
        let version = selector.map(VersionSelector::parse).transpose()?;
        Ok(Self {
            name: name.to_owned(),
            version,
        })
    }
}

impl VersionSelector {
    /// Reads a number or a tag.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let number = text.parse().ok().filter(|&n| n > 0);
            let wrong = || format!("version `{text}`: must be a number from 1 up");
            return Ok(Self::Number(number.ok_or_else(wrong)?));
        }
        check_label("tag", text)?;
        Ok(Self::Tag(text.to_owned()))
    }
}

/// Image names and tags follow the rules of node names: they stand in paths, scripts and tables.
pub(super) fn check_label(what: &str, text: &str) -> std::result::Result<(), String> {
    match NodeName::parse(text) {
        Ok(_) => Ok(()),
        Err(wrong) => Err(format!("{what} `{}`: {}", wrong.given, wrong.why)),
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            None => f.pad(&self.name),
            Some(VersionSelector::Number(number)) => f.pad(&format!("{}:{number}", self.name)),
            Some(VersionSelector::Tag(tag)) => f.pad(&format!("{}:{tag}", self.name)),
        }
    }
}

impl std::str::FromStr for ImageRef {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ImageRef {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
    }
}

impl ImageRecord {
    /// An image without versions.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            versions: Vec::new(),
            tags: BTreeMap::new(),
            next_version: 1,
            held: None,
        }
    }

    /// A version by its number.
    #[must_use]
    pub fn version(&self, number: u32) -> Option<&VersionRecord> {
        let at = self.versions.binary_search_by_key(&number, |v| v.version);
        self.versions.get(at.ok()?)
    }

    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> Option<&VersionRecord> {
        self.versions.last()
    }

    /// The version that the bare name means: the newest, unless the image was rolled back.
    #[must_use]
    pub fn current(&self) -> Option<&VersionRecord> {
        match self.held {
            Some(number) => self.version(number),
            None => self.newest(),
        }
    }

    /// The version that a selector means now.
    #[must_use]
    pub fn select(&self, selector: Option<&VersionSelector>) -> Option<&VersionRecord> {
        match selector {
            None => self.current(),
            Some(VersionSelector::Number(number)) => self.version(*number),
            Some(VersionSelector::Tag(tag)) if tag == LATEST => self.current(),
            Some(VersionSelector::Tag(tag)) => self.version(*self.tags.get(tag)?),
        }
    }

    /// The tags of a version, sorted; the one that the bare name means has [`LATEST`] too.
    #[must_use]
    pub fn tags_of(&self, number: u32) -> Vec<&str> {
        let set = self.tags.iter().filter(|(_, v)| **v == number);
        let mut tags: Vec<&str> = set.map(|(tag, _)| tag.as_str()).collect();
        if self.current().is_some_and(|v| v.version == number) {
            tags.push(LATEST);
        }
        tags.sort_unstable();
        tags
    }

    /// `debian12:3`.
    #[must_use]
    pub fn label(&self, number: u32) -> String {
        format!("{}:{number}", self.name)
    }

    /// Refuses a record that is wrong by itself.
    pub(super) fn check(&self) -> Result<()> {
        let name = &self.name;
        let wrong = |why: String| {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("image `{name}` {why}"),
            ))
        };
        if let Err(why) = check_label("image name", name) {
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let most = limits::VERSIONS_PER_IMAGE;
        if self.versions.len() > most {
            return wrong(format!("has {most} versions already; remove old ones"));
        }
        let most = limits::TAGS_PER_IMAGE;
        if self.tags.len() > most {
            return wrong(format!("has {most} tags already; remove some"));
        }
        if !self.versions.is_sorted_by(|a, b| a.version < b.version) {
            return wrong("has version numbers that do not rise".into());
        }
        if self
            .newest()
            .is_some_and(|v| v.version >= self.next_version)
        {
            return wrong("would use a version number twice".into());
        }
        if let Some(held) = self.held.filter(|held| self.version(*held).is_none()) {
            return wrong(format!("has no version {held} to be rolled back to"));
        }
        let text_len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let long = |v: &VersionRecord| {
            text_len(&v.note).max(text_len(&v.arch)).max(v.source.len()) > limits::NOTE_BYTES_MAX
        };
        if self.versions.iter().any(long) {
            let most = limits::NOTE_BYTES_MAX;
            return wrong(format!(
                "has a text longer than {most} bytes; shorten the note"
            ));
        }
        for (tag, number) in &self.tags {
            if tag == LATEST || !matches!(VersionSelector::parse(tag), Ok(VersionSelector::Tag(_)))
            {
                return wrong(format!(
                    "cannot have the tag `{tag}`; use letters, and not `{LATEST}`, which is what the bare name means"
                ));
            }
            if self.version(*number).is_none() {
                return wrong(format!("has no version {number} for the tag `{tag}`"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn version(number: u32) -> VersionRecord {
        VersionRecord {
            version: number,
            id: ImageId([7; 32]),
            size: 1 << 20,
            arch: None,
            note: None,
            source: "a.raw".into(),
            created: UnixMillis(1),
        }
    }

    fn image() -> ImageRecord {
        let mut image = ImageRecord::new("debian12");
        image.versions = vec![version(1), version(3), version(4)];
        image.next_version = 5;
        image.tags.insert("stable".into(), 3);
        image
    }

    #[test]
    fn references_are_read_and_printed() {
        for text in ["debian12", "debian12:3", "debian12:stable", "d.1-x:v1.2"] {
            assert_eq!(ImageRef::parse(text).unwrap().to_string(), text);
        }
        for text in ["", ":3", "a:", "a:0", "a:b:c", "A", "a:99999999999", "a/b"] {
            assert!(ImageRef::parse(text).is_err(), "{text}");
        }
        let json = serde_json::to_string(&ImageRef::parse("a:3").unwrap()).unwrap();
        assert_eq!(json, r#""a:3""#);
    }

    #[test]
    fn a_selector_means_a_number_a_tag_or_the_newest() {
        let image = image();
        let select = |text: &str| {
            let reference = ImageRef::parse(text).unwrap();
            image.select(reference.version.as_ref()).map(|v| v.version)
        };
        assert_eq!(select("debian12"), Some(4));
        assert_eq!(select("debian12:latest"), Some(4));
        assert_eq!(select("debian12:1"), Some(1));
        assert_eq!(select("debian12:2"), None);
        assert_eq!(select("debian12:stable"), Some(3));
        assert_eq!(select("debian12:beta"), None);
        assert_eq!(image.tags_of(4), ["latest"]);
        assert_eq!(image.tags_of(3), ["stable"]);
    }

    #[test]
    fn a_held_version_is_what_the_bare_name_and_latest_mean() {
        let mut image = image();
        image.held = Some(3);
        assert_eq!(image.select(None).map(|v| v.version), Some(3));
        assert_eq!(image.tags_of(3), [LATEST, "stable"]);
        assert!(image.tags_of(4).is_empty());
        assert!(image.check().is_ok());
        image.held = Some(2);
        assert!(
            image
                .check()
                .unwrap_err()
                .to_string()
                .contains("no version 2")
        );
    }

    #[test]
    fn wrong_records_are_refused() {
        assert!(image().check().is_ok());
        let broken = |change: &dyn Fn(&mut ImageRecord)| {
            let mut image = image();
            change(&mut image);
            image.check().unwrap_err().to_string()
        };
        assert!(broken(&|i| i.next_version = 4).contains("twice"));
        assert!(broken(&|i| i.versions.reverse()).contains("do not rise"));
        assert!(broken(&|i| i.tags.extend([("x".into(), 2)])).contains("no version 2"));
        assert!(broken(&|i| i.tags.extend([("latest".into(), 4)])).contains("bare name"));
        assert!(broken(&|i| i.tags.extend([("12".into(), 4)])).contains("letters"));
        assert!(broken(&|i| i.name = "A".into()).contains("not allowed"));
    }
}
