//! VHD, dynamic: "Virtual Hard Disk Image Format Specification", version 1.0. All numbers are big-endian.
//!
//! Copy of the footer, header, block table, then blocks as they come (a bitmap of ones and 2 MiB), then the
//! footer. The creator is the one whose disks every reader takes for as large as the footer says, not as the
//! geometry does: so any number of sectors comes back as it was.

use super::super::import::vhd::checksum;
use super::{ExportSink, SparseFile, by_block, set};
use crate::limits::VHD_DISK_BYTES_MAX;
use crate::store::ImageId;
use crate::store::error::{Error, ErrorKind, Result};
use crate::units::SECTOR_BYTES;

const BLOCK: u64 = 2 << 20;
const BITMAP: u64 = BLOCK / SECTOR_BYTES / 8;
const TABLE_AT: u64 = 1536;
const FIXED_UP: &[u8] = &[0xff; 512];

const _: () = assert!(BITMAP == 512);

/// A VHD file under way.
#[derive(Debug)]
pub(super) struct Vhd {
    file: SparseFile,
    id: ImageId,
    size: u64,
    /// The sector of each block, `u32::MAX` for none.
    table: Vec<u32>,
    /// First byte that is not used.
    end: u64,
}

pub(super) fn check_size(size: u64) -> Result<()> {
    if size <= VHD_DISK_BYTES_MAX {
        return Ok(());
    }
    let why = format!(
        "a VHD file holds at most {VHD_DISK_BYTES_MAX} bytes, the disk has {size}; write it as vhdx"
    );
    Err(Error::new(ErrorKind::Unsupported, why))
}

impl Vhd {
    pub(super) const fn new(file: SparseFile, id: ImageId) -> Self {
        Self {
            file,
            id,
            size: 0,
            table: Vec::new(),
            end: 0,
        }
    }

    fn write_block(&mut self, number: u64, within: u64, bytes: &[u8]) -> Result<()> {
        let outside = || Error::new(ErrorKind::OutOfBounds, "an export left its disk");
        let entry = usize::try_from(number)
            .ok()
            .and_then(|at| self.table.get_mut(at));
        let entry = entry.ok_or_else(outside)?;
        if *entry == u32::MAX {
            *entry = u32::try_from(self.end / SECTOR_BYTES).map_err(|_| outside())?;
            self.file.put(self.end, FIXED_UP)?;
            self.end += BITMAP + BLOCK;
        }
        let place = u64::from(*entry) * SECTOR_BYTES;
        self.file.put(place + BITMAP + within, bytes)
    }

    fn footer(&self) -> [u8; 512] {
        let mut out = [0; 512];
        let (cylinders, heads, per_track) = geometry(self.size / SECTOR_BYTES);
        set(&mut out, 0, b"conectix");
        set(&mut out, 8, &2_u32.to_be_bytes());
        set(&mut out, 12, &0x0001_0000_u32.to_be_bytes());
        set(&mut out, 16, &512_u64.to_be_bytes());
        set(&mut out, 28, b"win \0\x0a\0\0Wi2k");
        set(&mut out, 40, &self.size.to_be_bytes());
        set(&mut out, 48, &self.size.to_be_bytes());
        set(&mut out, 56, &cylinders.to_be_bytes());
        set(&mut out, 58, &[heads, per_track]);
        set(&mut out, 60, &3_u32.to_be_bytes());
        set(&mut out, 68, &self.id.0[..16]);
        let sum = checksum(&out, 64);
        set(&mut out, 64, &sum.to_be_bytes());
        out
    }

    fn header(&self) -> [u8; 1024] {
        let mut out = [0; 1024];
        set(&mut out, 0, b"cxsparse");
        set(&mut out, 8, &u64::MAX.to_be_bytes());
        set(&mut out, 16, &TABLE_AT.to_be_bytes());
        set(&mut out, 24, &0x0001_0000_u32.to_be_bytes());
        let entries = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
        set(&mut out, 28, &entries.to_be_bytes());
        set(
            &mut out,
            32,
            &u32::try_from(BLOCK).unwrap_or(0).to_be_bytes(),
        );
        let sum = checksum(&out, 36);
        set(&mut out, 36, &sum.to_be_bytes());
        out
    }
}

/// Cylinders, heads and sectors of a track for a number of sectors: the specification's appendix.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let sectors = sectors.min(65_535 * 16 * 255);
    let (mut per_track, mut heads, mut tracks);
    if sectors >= 65_535 * 16 * 63 {
        (per_track, heads, tracks) = (255, 16, sectors / 255);
    } else {
        per_track = 17;
        tracks = sectors / 17;
        heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            (per_track, heads, tracks) = (31, 16, sectors / 31);
        }
        if tracks >= heads * 1024 {
            (per_track, heads, tracks) = (63, 16, sectors / 63);
        }
    }
    let narrow = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
    let cylinders = u16::try_from(tracks / heads).unwrap_or(u16::MAX);
    (cylinders, narrow(heads), narrow(per_track))
}

impl ExportSink for Vhd {
    fn begin(&mut self, size: u64) -> Result<()> {
        check_size(size)?;
        self.size = size;
        let entries = size.div_ceil(BLOCK);
        self.table = vec![u32::MAX; usize::try_from(entries).unwrap_or(0)];
        self.end = (TABLE_AT + entries * 4).next_multiple_of(SECTOR_BYTES);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        by_block(offset, bytes, BLOCK, &mut |number, within, part| {
            self.write_block(number, within, part)
        })
    }

    fn finish(&mut self) -> Result<()> {
        let mut table: Vec<u8> = self
            .table
            .iter()
            .flat_map(|entry| entry.to_be_bytes())
            .collect();
        // The rest of its last sector is as empty as an entry without a block.
        table.resize(table.len().next_multiple_of(512), 0xff);
        self.file.put(TABLE_AT, &table)?;
        self.file.put(512, &self.header())?;
        self.file.put(self.end, &self.footer())?;
        self.file.put(0, &self.footer())?;
        self.file.publish()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        for (sectors, expected) in [
            (20_480, (301, 4, 17)),
            (204_800, (1003, 12, 17)),
            (4_194_304, (4161, 16, 63)),
            (u64::MAX, (65_535, 16, 255)),
        ] {
            assert_eq!(geometry(sectors), expected, "{sectors} sectors");
        }
    }
}
