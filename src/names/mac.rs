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
        let digits = digits_of(text).ok_or_else(wrong)?;
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

    /// True when one machine can own it: not a group address, not all zeros.
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
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

/// The digits of one of the four spellings, separators only where that spelling has them.
fn digits_of(text: &str) -> Option<String> {
    let (separator, part) = match text.len() {
        12 => return Some(text.to_owned()),
        14 => ('.', 4),
        17 if text.contains(':') => (':', 2),
        17 => ('-', 2),
        _ => return None,
    };
    let parts: Vec<&str> = text.split(separator).collect();
    parts
        .iter()
        .all(|p| p.len() == part)
        .then(|| parts.concat())
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

impl std::str::FromStr for Mac {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
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

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_spellings_of_people_and_switches_are_read() {
        let mac = Mac::new([0x52, 0x54, 0, 0x12, 0x34, 0xab]);
        for text in [
            "52:54:00:12:34:ab",
            "52-54-00-12-34-AB",
            "5254.0012.34ab",
            "5254001234AB",
        ] {
            assert_eq!(Mac::parse(text).unwrap(), mac, "{text}");
        }
        assert_eq!(mac.to_string(), "52:54:00:12:34:ab");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:ab:cd",
            "52:54-00:12-34:ab",
            "525:4:00:12:34:ab",
            "52.54.00.12.34.ab",
            "5254:0012:34ab",
            "52:54:00:12:34:ag",
            "+2:54:00:12:34:ab",
            "52:54:00:12:34:\u{e4}",
        ] {
            let error = Mac::parse(text).unwrap_err().to_string();
            assert!(error.contains("six hexadecimal octets"), "{text}: {error}");
        }
    }

    #[test]
    fn counting_up_carries_and_ends() {
        let mac = Mac::parse("52:54:00:00:ff:ff").unwrap();
        assert_eq!(mac.plus(1).unwrap().to_string(), "52:54:00:01:00:00");
        assert_eq!(Mac::new([0xff; 6]).plus(0), Some(Mac::new([0xff; 6])));
        assert_eq!(Mac::new([0xff; 6]).plus(1), None);
        assert_eq!(mac.plus(u64::MAX), None);
    }

    #[test]
    fn groups_and_zero_belong_to_no_machine() {
        assert!(Mac::parse("52:54:00:00:00:01").unwrap().is_unicast());
        assert!(!Mac::parse("01:00:5e:00:00:01").unwrap().is_unicast());
        assert!(!Mac::new([0xff; 6]).is_unicast());
        assert!(!Mac::new([0; 6]).is_unicast());
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(octets: [u8; 6]) {
            let mac = Mac::new(octets);
            prop_assert_eq!(Mac::parse(&mac.to_string()).unwrap(), mac);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = Mac::parse(&text);
        }
    }
}
