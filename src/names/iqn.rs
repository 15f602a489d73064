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
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
        if !name.chars().all(good) {
            return Err(wrong("may hold only a-z, 0-9, `-`, `.` and `:`"));
        }
        Ok(Self(name))
    }

    /// The name of `node`'s target: `PREFIX:NODE`. Fails when `prefix` is no iSCSI name or both are too long.
    pub fn target_of(prefix: &str, node: &NodeName) -> Result<Self, NameError> {
        Self::parse(&format!("{prefix}:{node}"))
    }

    /// The initiator name that our boot script gives `node`: `PREFIX.initiator:NODE`. An operating system may
    /// use another one; a discovery session that wants to see the node's target must use this one.
    pub fn initiator_of(prefix: &str, node: &NodeName) -> Result<Self, NameError> {
        Self::parse(&format!("{prefix}.initiator:{node}"))
    }

    /// The node part of a target name made by [`Iqn::target_of`]; none when it is not one of ours.
    #[must_use]
    pub fn node_of_target(&self, prefix: &str) -> Option<&str> {
        self.after(prefix)?.strip_prefix(':')
    }

    /// The node part of an initiator name made by [`Iqn::initiator_of`].
    #[must_use]
    pub fn node_of_initiator(&self, prefix: &str) -> Option<&str> {
        self.after(prefix)?.strip_prefix(".initiator:")
    }

    /// What follows `prefix`, whatever the case the prefix is written in.
    fn after(&self, prefix: &str) -> Option<&str> {
        let (head, rest) = self.0.split_at_checked(prefix.len())?;
        head.eq_ignore_ascii_case(prefix).then_some(rest)
    }

    /// The normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
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

    const PREFIX: &str = "iqn.2026-11.internal.Reveille";

    #[test]
    fn target_and_initiator_names_lead_back_to_the_node() {
        let node = NodeName::parse("rack3-n04").unwrap();
        let target = Iqn::target_of(PREFIX, &node).unwrap();
        let initiator = Iqn::initiator_of(PREFIX, &node).unwrap();
        assert_eq!(target.as_str(), "iqn.2026-11.internal.reveille:rack3-n04");
        assert_eq!(target.node_of_target(PREFIX), Some("rack3-n04"));
        assert_eq!(initiator.node_of_initiator(PREFIX), Some("rack3-n04"));
        assert_eq!(target.node_of_initiator(PREFIX), None);
        assert_eq!(initiator.node_of_target(PREFIX), None);
        assert_eq!(target.node_of_target("iqn.2026-11.other"), None);
    }
}
