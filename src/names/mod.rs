//! Validated names and ids. A value of these types is known to be well formed.
//! Level 1: names only `units` and `limits`.

mod fold;
mod ids;
mod iqn;
mod mac;
mod natural;
mod node_set;
mod portal;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use ids::{ImageId, LayerId};
pub use iqn::Iqn;
pub use mac::Mac;
pub use node_set::{Groups, NodeSet};
pub use portal::parse_portal;

/// Why a text is not a name: what was given, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{given}`: {why}")]
pub struct NameError {
    /// The kind of name that was wanted: "node name", "MAC address", ...
    pub what: &'static str,
    /// The offending text, as given.
    pub given: String,
    /// The cause and the next step, as a clause.
    pub why: String,
}

impl NameError {
    pub(crate) fn new(what: &'static str, given: &str, why: impl Into<String>) -> Self {
        Self {
            what,
            given: given.chars().take(120).collect(),
            why: why.into(),
        }
    }
}

/// A lower-case DNS-like label with dots allowed: `node017`, `rack3-n04`, `n1.lab`. Cheap to clone.
///
/// Its order is the natural one: `node2` before `node10`. It cannot be borrowed as `str`, whose order is
/// another: a look-up in an ordered map would miss.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Longest name: it must fit a host name label and leave room in an iSCSI name (RFC 7143 4.2.7.1).
    pub const LEN_MAX: usize = 63;

    /// Checks and keeps `text`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check_label("node name", text)?;
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Letters, digits, `-` and `.`; starts and ends with a letter or digit; lower case.
pub(crate) fn check_label(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > NodeName::LEN_MAX {
        return Err(NameError::new(what, text, "must have 1 to 63 characters"));
    }
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if let Some(bad) = text.chars().find(|&c| !good(c)) {
        return Err(NameError::new(
            what,
            text,
            format!(
                "`{}` is not allowed; use a-z, 0-9, `-` and `.` (an iSCSI name allows no others)",
                bad.escape_default()
            ),
        ));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !edge(text.chars().next()) || !edge(text.chars().last()) || text.contains("..") {
        return Err(NameError::new(
            what,
            text,
            "must start and end with a letter or digit and hold no `..`",
        ));
    }
    Ok(())
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for NodeName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.to_string()
    }
}

impl Ord for NodeName {
    fn cmp(&self, other: &Self) -> Ordering {
        natural::compare(&self.0, &other.0)
    }
}

impl PartialOrd for NodeName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One attempt of one node to boot, unique on this head for ever: `b1f3` style text, counted up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{:x}", self.0)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn node_names_follow_the_rules_of_host_names() {
        for good in ["n", "node017", "rack3-n04", "n1.lab", "0"] {
            assert_eq!(NodeName::parse(good).unwrap().as_str(), good);
        }
        let long = "n".repeat(64);
        for bad in [
            "", "-n", "n-", ".n", "n.", "a..b", "Node", "a_b", "a:b", "a/b", &long,
        ] {
            assert!(NodeName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn node_names_sort_as_people_count() {
        let mut names: Vec<NodeName> = ["node10", "node2", "node1"]
            .map(|text| NodeName::parse(text).unwrap())
            .into();
        names.sort();
        let sorted: Vec<&str> = names.iter().map(NodeName::as_str).collect();
        assert_eq!(sorted, ["node1", "node2", "node10"]);
    }
}
