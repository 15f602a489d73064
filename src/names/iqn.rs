//! iSCSI names (RFC 7143 4.2.7, RFC 3722): parse, normalise, print.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::NameError;

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
