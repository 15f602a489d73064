//! Whether the log was closed: its last record says that the file system was unmounted.
//!
//! Every sector of the log begins with the number of the round in which it was written, or in the header of
//! a record with a magic number and then it. So the end lies where that number changes.

use super::super::bytes::be32;
use super::super::window::Window;
use super::shape::Shape;
use crate::store::error::Result;

const SECTOR: u64 = 512;
const MAGIC: u32 = 0xfeed_babe;
/// A record and its headers are not longer.
const RECORD_SECTORS_MAX: u64 = (256 << 10) / SECTOR + 16;
const UNMOUNTED: u8 = 0x20;

struct Log<'a> {
    window: &'a Window,
    start: u64,
    sectors: u64,
}

/// A log of another device cannot be looked at and counts as closed.
pub(super) fn is_closed(window: &Window, shape: &Shape) -> Result<bool> {
    let Some((start, len)) = shape.log else {
        return Ok(true);
    };
    let log = Log {
        window,
        start,
        sectors: len / SECTOR,
    };
    if log.sectors == 0 {
        return Ok(true);
    }
    let end = log.end()?;
    // The last record begins before the end, in the round before if there is none in this one.
    for back in 1..=RECORD_SECTORS_MAX.min(log.sectors) {
        let at = (end + log.sectors - back) % log.sectors;
        let sector = log.sector(at)?;
        if be32(&sector, 0) == Some(MAGIC) {
            return log.says_unmounted(at, &sector);
        }
    }
    // A log in which nothing was ever written.
    Ok(log.round(0)? == 0)
}

impl Log<'_> {
    fn sector(&self, number: u64) -> Result<[u8; 512]> {
        let mut out = [0; 512];
        self.window.read(self.start + number * SECTOR, &mut out)?;
        Ok(out)
    }

    fn round(&self, number: u64) -> Result<u32> {
        let sector = self.sector(number)?;
        let first = be32(&sector, 0).unwrap_or(0);
        Ok(match first {
            MAGIC => be32(&sector, 4).unwrap_or(0),
            round => round,
        })
    }

    /// The sector behind the last one written.
    fn end(&self) -> Result<u64> {
        let first = self.round(0)?;
        let (mut low, mut high) = (0, self.sectors);
        // `low` is of the first one's round; `high` is not, or is the end.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.round(middle)? == first {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(high)
    }

    /// A record whose only operation is that of unmounting.
    fn says_unmounted(&self, at: u64, header: &[u8]) -> Result<bool> {
        let size = be32(header, 320).unwrap_or(0);
        let version = be32(header, 8).unwrap_or(1);
        // Each 32 KiB of a record of version 2 have a header of their own.
        let headers = match version & 2 {
            0 => 1,
            _ => u64::from(size.div_ceil(32 << 10)).clamp(1, 8),
        };
        let operation = self.sector((at + headers) % self.sectors)?;
        let alone = be32(header, 40) == Some(1);
        Ok(alone && operation.get(9).is_some_and(|flags| flags & UNMOUNTED != 0))
    }
}
