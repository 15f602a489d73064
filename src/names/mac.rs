//! Ethernet addresses in the spellings people use.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::NameError;

/// An Ethernet address; prints as `52:54:00:12:34:56`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// From its six octets.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The six octets.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Reads `52:54:00:12:34:56`, `52-54-00-12-34-56`, `5254.0012.3456` or `525400123456`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let wrong = || {
            NameError::new(
                "MAC address",
                text,
                "must be six hexadecimal octets, like 52:54:00:12:34:56",
            )
        };
        let digits: String = text.chars().filter(|c| !":-.".contains(*c)).collect();
        if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut octets = [0; 6];
        for (octet, pair) in octets.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *octet = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(octets))
    }

    /// The address `steps` above this one, for deriving a range; `None` past ff:ff:ff:ff:ff:ff.
    #[must_use]
    pub fn plus(self, steps: u64) -> Option<Self> {
        let mut wide = [0; 8];
        wide[2..].copy_from_slice(&self.0);
        let sum = u64::from_be_bytes(wide).checked_add(steps)?;
        if sum >> 48 != 0 {
            return None;
        }
        let mut octets = [0; 6];
        octets.copy_from_slice(&sum.to_be_bytes()[2..]);
        Some(Self(octets))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Mac {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}
