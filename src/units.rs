//! Quantities that must not be mixed up. Level 0: names no other room.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Bytes in a logical block of every disk we serve (SBC: LOGICAL BLOCK LENGTH IN BYTES).
/// BIOS int13 and ESXi boot from nothing else.
pub const SECTOR_BYTES: u64 = 512;

/// Bytes in a physical block: the unit in which a layer says who owns the data (512e, exponent 3).
pub const BLOCK_BYTES: u64 = 4096;

/// A run of bytes on a disk: `offset..offset + len`.
///
/// Construction checks that the end does not overflow, so `end()` cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    offset: u64,
    len: u64,
}

impl ByteRange {
    /// The run of `len` bytes from `offset`; `None` if its end is past 2^64.
    #[must_use]
    pub const fn new(offset: u64, len: u64) -> Option<Self> {
        match offset.checked_add(len) {
            Some(_) => Some(Self { offset, len }),
            None => None,
        }
    }

    /// The run that `sectors` logical blocks from `lba` cover; `None` on overflow.
    #[must_use]
    pub const fn of_sectors(lba: u64, sectors: u64) -> Option<Self> {
        match (
            lba.checked_mul(SECTOR_BYTES),
            sectors.checked_mul(SECTOR_BYTES),
        ) {
            (Some(offset), Some(len)) => Self::new(offset, len),
            _ => None,
        }
    }

    /// First byte.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Number of bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// One past the last byte.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset + self.len
    }

    /// True when the run holds no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// True when the run lies inside a disk of `size` bytes.
    #[must_use]
    pub const fn fits(self, size: u64) -> bool {
        self.end() <= size
    }

    /// The numbers of the 4 KiB blocks that the run touches.
    #[must_use]
    pub const fn blocks(self) -> Range<u64> {
        if self.len == 0 {
            let at = self.offset / BLOCK_BYTES;
            return at..at;
        }
        self.offset / BLOCK_BYTES..self.end().div_ceil(BLOCK_BYTES)
    }

    /// The part shared with `other`, if any byte is.
    #[must_use]
    pub fn overlap(self, other: Self) -> Option<Self> {
        let start = self.offset.max(other.offset);
        let end = self.end().min(other.end());
        (start < end).then(|| Self {
            offset: start,
            len: end - start,
        })
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.len)
    }
}

/// A moment of the wall clock in milliseconds since 1970, for people and records (never for timers).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The present moment. Shells call this; pure code takes the value as an argument.
    #[must_use]
    pub fn now() -> Self {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds from `earlier` to here; zero if the clock went back.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Reads `4096`, `512K`, `512M`, `4G`, `1T` (powers of 1,024).
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let last = text.chars().last()?.to_ascii_uppercase();
    let shift = units.into_iter().find(|(unit, _)| *unit == last);
    let (digits, shift) = match shift {
        Some((_, shift)) => (text.get(..text.len() - 1)?, shift),
        None => (text, 0),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = plain.then(|| digits.parse().ok()).flatten()?;
    number.checked_mul(1 << shift)
}

/// `1.5 GiB`, `512 B`: a byte count for people.
#[derive(Clone, Copy, Debug)]
pub struct HumanBytes(pub u64);

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] = [
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ];
        for (name, unit) in UNITS {
            if self.0 >= unit {
                // The rest times ten fits: it is below 2^40.
                let (whole, tenths) = (self.0 / unit, self.0 % unit * 10 / unit);
                return write!(f, "{whole}.{tenths} {name}");
            }
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn ranges_refuse_to_overflow() {
        assert!(ByteRange::new(u64::MAX, 1).is_none());
        assert!(ByteRange::of_sectors(u64::MAX / 256, 1).is_none());
        assert!(ByteRange::new(u64::MAX, 0).is_some());
    }

    #[test]
    fn blocks_cover_every_touched_block() {
        let range = |o, l| ByteRange::new(o, l).unwrap().blocks();
        assert_eq!(range(0, 0), 0..0);
        assert_eq!(range(0, 1), 0..1);
        assert_eq!(range(4095, 2), 0..2);
        assert_eq!(range(4096, 4096), 1..2);
        assert_eq!(range(512, 8192), 0..3);
    }

    #[test]
    fn overlap_is_symmetric_and_never_empty() {
        let a = ByteRange::new(10, 10).unwrap();
        let b = ByteRange::new(15, 10).unwrap();
        assert_eq!(a.overlap(b), b.overlap(a));
        assert_eq!(a.overlap(b), ByteRange::new(15, 5));
        assert_eq!(a.overlap(ByteRange::new(20, 1).unwrap()), None);
    }

    #[test]
    fn byte_counts_are_read_with_their_unit_and_nothing_else() {
        assert_eq!(parse_bytes("4096"), Some(4096));
        assert_eq!(parse_bytes("3k"), Some(3072));
        assert_eq!(parse_bytes("4G"), Some(4 << 30));
        assert_eq!(parse_bytes("2T"), Some(2 << 40));
        for bad in ["", "G", "-1", "+1G", "1.5G", "4 G", "4GB", "99999999T", "x"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn bytes_read_well() {
        assert_eq!(HumanBytes(512).to_string(), "512 B");
        assert_eq!(HumanBytes(1536).to_string(), "1.5 KiB");
        assert_eq!(HumanBytes(40 << 10).to_string(), "40.0 KiB");
        assert_eq!(HumanBytes(2 << 30).to_string(), "2.0 GiB");
    }
}
