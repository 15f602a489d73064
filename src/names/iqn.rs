//! iSCSI names (RFC 7143 4.2.7, RFC 3722): parse, normalise, print.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{NameError, NodeName};

/// An iSCSI name, normalised to lower case: `iqn.`, `eui.` or `naa.`, at most 223 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Iqn(String);

impl Iqn {
    /// Longest iSCSI name in bytes (RFC 7143 4.2.7.1).
    pub const LEN_MAX: usize = 223;

    /// Checks, normalises and keeps `text`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let wrong = |why: &str| NameError::new("iSCSI name", text, why);
        if text.is_empty() || text.len() > Self::LEN_MAX {
            return Err(wrong("must have 1 to 223 bytes"));
        }
        let name = text.to_ascii_lowercase();
        if !["iqn.", "eui.", "naa."].iter().any(|p| name.starts_with(p)) {
            return Err(wrong("must begin with `iqn.`, `eui.` or `naa.`"));
        }
        if !name.chars().all(is_allowed) {
            return Err(wrong("may hold only a-z, 0-9, `-`, `.` and `:`"));
        }
        Ok(Self(name))
    }

    /// Longest prefix that leaves room for every node's two names.
    pub const PREFIX_LEN_MAX: usize =
        Self::LEN_MAX - NodeName::LEN_MAX - INITIATOR_SUFFIX.len() - 1;

    /// Checks a prefix of node names, such as `iqn.2026-11.internal.reveille`, and normalises it.
    pub fn parse_prefix(text: &str) -> Result<Self, NameError> {
        if text.len() > Self::PREFIX_LEN_MAX {
            let why = format!("must have at most {} bytes", Self::PREFIX_LEN_MAX);
            return Err(NameError::new("iSCSI name prefix", text, why));
        }
        let prefix = Self::parse(text)?;
        if prefix.0.starts_with("iqn.") {
            return Ok(prefix);
        }
        let why = "must begin with `iqn.`, a year and month, and a domain reversed";
        Err(NameError::new("iSCSI name prefix", text, why))
    }

    /// The name of a node's target: `<prefix>:<node>`. The prefix is one that [`Self::parse_prefix`] took;
    /// of any other, what no iSCSI name may hold is left out.
    #[must_use]
    pub fn target_of(prefix: &str, node: &NodeName) -> Self {
        Self::of_node(prefix, node, "")
    }

    /// The name that a node's initiator is told to use: `<prefix>:<node>.initiator`. Targets and
    /// initiators are never compared with each other, so a node called `x.initiator` does no harm.
    #[must_use]
    pub fn initiator_of(prefix: &str, node: &NodeName) -> Self {
        Self::of_node(prefix, node, INITIATOR_SUFFIX)
    }

    /// The node part of a target name made by [`Iqn::target_of`]; none when it is not one of ours.
    #[must_use]
    pub fn node_of_target(&self, prefix: &str) -> Option<&str> {
        let (head, rest) = self.0.split_at_checked(prefix.len())?;
        let ours = head.eq_ignore_ascii_case(prefix);
        rest.strip_prefix(':').filter(|_| ours)
    }

    /// The node part of an initiator name made by [`Iqn::initiator_of`].
    #[must_use]
    pub fn node_of_initiator(&self, prefix: &str) -> Option<&str> {
        self.node_of_target(prefix)?.strip_suffix(INITIATOR_SUFFIX)
    }

    fn of_node(prefix: &str, node: &NodeName, suffix: &str) -> Self {
        let lower = prefix.to_ascii_lowercase();
        let clean = lower.chars().filter(|&c| is_allowed(c));
        let kept: String = clean.take(Self::PREFIX_LEN_MAX).collect();
        Self(format!("{kept}:{node}{suffix}"))
    }

    /// The normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const INITIATOR_SUFFIX: &str = ".initiator";

/// What RFC 3722 leaves of ASCII after lower-casing.
fn is_allowed(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c)
}

impl fmt::Display for Iqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Iqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Iqn {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Iqn> for String {
    fn from(name: Iqn) -> Self {
        name.0
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const PREFIX: &str = "iqn.2026-11.internal.reveille";

    #[test]
    fn names_are_normalised_to_lower_case() {
        let name = Iqn::parse("IQN.2026-11.internal.Reveille:Node1").unwrap();
        assert_eq!(name.as_str(), "iqn.2026-11.internal.reveille:node1");
        assert_eq!(name, Iqn::parse(name.as_str()).unwrap());
    }

    #[test]
    fn the_three_kinds_are_read() {
        for text in [
            "iqn.1993-08.org.debian:01:9d3f",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
        ] {
            assert_eq!(Iqn::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        let long = format!("iqn.{}", "a".repeat(220));
        for text in [
            "",
            "node1",
            "iqn.a b",
            "iqn.a_b",
            "iqn.a/b",
            "iqn.\u{e4}",
            &long,
        ] {
            assert!(Iqn::parse(text).is_err(), "{text}");
        }
        assert!(Iqn::parse(&format!("iqn.{}", "a".repeat(219))).is_ok());
    }

    #[test]
    fn a_node_has_a_target_and_an_initiator_name() {
        let node = NodeName::parse("node001").unwrap();
        let target = Iqn::target_of(PREFIX, &node);
        let initiator = Iqn::initiator_of(PREFIX, &node);
        assert_eq!(target.as_str(), "iqn.2026-11.internal.reveille:node001");
        assert_eq!(
            initiator.as_str(),
            "iqn.2026-11.internal.reveille:node001.initiator"
        );
    }

    #[test]
    fn both_names_lead_back_to_the_node() {
        let node = NodeName::parse("node001").unwrap();
        let upper = PREFIX.to_ascii_uppercase();
        let target = Iqn::target_of(PREFIX, &node);
        assert_eq!(target.node_of_target(&upper), Some("node001"));
        assert_eq!(target.node_of_initiator(PREFIX), None);
        let initiator = Iqn::initiator_of(PREFIX, &node);
        assert_eq!(initiator.node_of_initiator(PREFIX), Some("node001"));
        assert_eq!(target.node_of_target("iqn.2026-11.other"), None);
    }

    #[test]
    fn node_names_of_any_length_make_valid_names() {
        let node = NodeName::parse(&"n".repeat(NodeName::LEN_MAX)).unwrap();
        let prefix = format!("iqn.{}", "p".repeat(Iqn::PREFIX_LEN_MAX - 4));
        assert_eq!(Iqn::parse_prefix(&prefix).unwrap().as_str(), prefix);
        for name in [
            Iqn::target_of(&prefix, &node),
            Iqn::initiator_of(&prefix, &node),
        ] {
            assert_eq!(Iqn::parse(name.as_str()).unwrap(), name);
        }
        assert!(Iqn::parse_prefix(&format!("{prefix}p")).is_err());
        assert!(Iqn::parse_prefix("eui.02004567a425678d").is_err());
    }
}
