//! VMDK: the sparse extents of hosted products, growing and stream-optimised. Pure over a reader.
//!
//! Layout: "Virtual Disk Format 5.0" (VMware, 2011). All numbers are little-endian and count sectors. A grain
//! directory names grain tables, whose entries are the sectors where grains lie. In a stream-optimised extent
//! a grain is a marker (its place on the disk, bytes) and a deflated run. What a text describes (several
//! extents, flat ones) is in `vmdk_text.rs`.

use super::layout::{Blame, Fields, Hold, Layout, Piece, Read, Table, Width};
use crate::limits::DISK_BYTES_MAX;
use crate::limits::VMDK_DIRECTORY_BYTES_MAX;
use crate::limits::VMDK_GRAIN_BYTES_MAX;
use crate::limits::VMDK_TABLE_ENTRIES_MAX;
use crate::limits::VMDK_TEXT_BYTES_MAX;
use crate::store::error::Result;
use crate::units::SECTOR_BYTES;

pub(super) const VMDK: Blame = Blame("VMDK");
pub(super) const MAGIC: &[u8] = b"KDMV";
const HEADER: usize = 512;
/// Header fields valid: bytes that a text-mode transfer would have changed.
const NEWLINES_VALID: u32 = 1;
const ZERO_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
const FLAGS_KNOWN: u32 = NEWLINES_VALID | 1 << 1 | ZERO_GRAINS | COMPRESSED | MARKERS;
/// The directory is named by the copy of the header at the end.
const AT_END: u64 = u64::MAX;
const MARKER: u64 = 12;
pub(super) const CONVERT: &str = "convert it first: qemu-img convert -O raw IN OUT";

/// The mapping of one sparse extent.
#[derive(Debug)]
pub(in crate::store::image) struct SparseExtent {
    size: u64,
    file_len: u64,
    grain: u64,
    per_table: u64,
    directory: Table,
    table: Option<(u64, Table)>,
    zero_grains: bool,
    compressed: bool,
    markers: bool,
}

/// The header of a sparse extent.
#[derive(Clone, Copy, Debug)]
struct Header {
    flags: u32,
    capacity: u64,
    grain: u64,
    text: (u64, u64),
    per_table: u64,
    directory_at: u64,
}

/// The text inside a sparse extent, if it has one.
///
/// # Errors
/// What is wrong with the header, or a text of no sensible size.
pub(in crate::store::image) fn text(len: u64, read: &mut Read<'_>) -> Result<Option<Vec<u8>>> {
    let header = Header::read(0, len, read)?;
    let (at, sectors) = header.text;
    if at == 0 || sectors == 0 {
        return Ok(None);
    }
    let (at, bytes) = (
        at.saturating_mul(SECTOR_BYTES),
        sectors.saturating_mul(SECTOR_BYTES),
    );
    if bytes > VMDK_TEXT_BYTES_MAX {
        return Err(VMDK.bad(format!("its descriptor is said to have {bytes} bytes")));
    }
    VMDK.inside(len, at, bytes, "the descriptor")?;
    let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
    read(at, &mut text)?;
    Ok(Some(text))
}

impl SparseExtent {
    /// Checks an extent in a file of `len` bytes.
    ///
    /// # Errors
    /// `InvalidFormat` with what is wrong, `Unsupported` with the way out.
    pub(in crate::store::image) fn open(len: u64, read: &mut Read<'_>) -> Result<Self> {
        let mut header = Header::read(0, len, read)?;
        if header.directory_at == AT_END {
            // Last comes an end marker of a sector, before it the copy of the header.
            let footer = (len / SECTOR_BYTES * SECTOR_BYTES).saturating_sub(2 * SECTOR_BYTES);
            header = Header::read(footer, len, read)?;
        }
        let compressed = header.flags & COMPRESSED != 0;
        let size = header.capacity.saturating_mul(SECTOR_BYTES);
        VMDK.size(size)?;
        let grain = header.grain.saturating_mul(SECTOR_BYTES);
        if !grain.is_power_of_two() || grain > VMDK_GRAIN_BYTES_MAX {
            return Err(VMDK.bad(format!("its grains are said to have {grain} bytes")));
        }
        if !(1..=VMDK_TABLE_ENTRIES_MAX).contains(&header.per_table) {
            let entries = header.per_table;
            return Err(VMDK.bad(format!(
                "its grain tables are said to have {entries} entries"
            )));
        }
        let entries = size.div_ceil(grain * header.per_table);
        let at = header.directory_at.saturating_mul(SECTOR_BYTES);
        if entries * 4 > VMDK_DIRECTORY_BYTES_MAX || at == 0 {
            let why = format!("its grain directory is said to have {entries} entries at {at}");
            return Err(VMDK.bad(why));
        }
        VMDK.inside(len, at, entries * 4, "the grain directory")?;
        let mut this = Self {
            size,
            file_len: len,
            grain,
            per_table: header.per_table,
            directory: Table::new(at, entries, Width::Le32),
            table: None,
            zero_grains: header.flags & ZERO_GRAINS != 0,
            compressed,
            markers: header.flags & MARKERS != 0,
        };
        this.check(read)?;
        Ok(this)
    }

    /// Every grain lies inside the file, and no two tables in one place.
    fn check(&mut self, read: &mut Read<'_>) -> Result<()> {
        let mut tables = roaring::RoaringBitmap::new();
        for index in 0..self.directory.entries() {
            let sector = self.directory.get(index, read)?;
            if sector == 0 {
                continue;
            }
            let place = u32::try_from(sector).unwrap_or(u32::MAX);
            if !tables.insert(place) {
                let why = format!("two parts of the disk share the grain table at sector {sector}");
                return Err(VMDK.bad(why));
            }
            let first = index * self.per_table;
            let count = self.per_table.min(self.size.div_ceil(self.grain) - first);
            for number in first..first + count {
                if let Some(sector) = self.grain_sector(number, read)? {
                    self.check_grain(number, sector)?;
                }
            }
        }
        Ok(())
    }

    fn check_grain(&self, number: u64, sector: u64) -> Result<()> {
        let disk_at = number * self.grain;
        let needed = match (self.compressed, self.markers) {
            (true, true) => MARKER,
            (true, false) => 1,
            // The last grain may be cut where the disk ends.
            (false, _) => self.grain.min(self.size - disk_at),
        };
        let what = format!("the grain of disk offset {disk_at}");
        VMDK.inside(self.file_len, sector * SECTOR_BYTES, needed, what)
    }

    /// Where a grain lies; `None` when it is zeros.
    fn grain_sector(&mut self, number: u64, read: &mut Read<'_>) -> Result<Option<u64>> {
        let index = number / self.per_table;
        let sector = self.directory.get(index, read)?;
        if sector == 0 {
            return Ok(None);
        }
        let held = self.table.take().filter(|(at, _)| *at == sector);
        let (_, mut table) = match held {
            Some(held) => held,
            None => {
                let (at, bytes) = (sector * SECTOR_BYTES, self.per_table * 4);
                VMDK.inside(self.file_len, at, bytes, format!("grain table {index}"))?;
                (sector, Table::new(at, self.per_table, Width::Le32))
            }
        };
        let entry = table.get(number % self.per_table, read);
        self.table = Some((sector, table));
        Ok(match entry? {
            0 => None,
            1 if self.zero_grains => None,
            sector => Some(sector),
        })
    }

    /// The deflated run of a grain.
    fn run(&self, number: u64, sector: u64, read: &mut Read<'_>) -> Result<(u64, u32)> {
        let at = sector * SECTOR_BYTES;
        let disk_at = number * self.grain;
        if !self.markers {
            // Its end is not written down: it is found by inflating.
            let most = (2 * self.grain).min(self.file_len - at);
            return Ok((at, u32::try_from(most).unwrap_or(u32::MAX)));
        }
        let mut marker = [0; 12];
        read(at, &mut marker)?;
        let fields = Fields(&marker);
        let (lba, bytes) = (fields.le64(0), fields.le32(8));
        if lba.checked_mul(SECTOR_BYTES) != Some(disk_at) {
            let why = format!(
                "at sector {sector} lies a grain of sector {lba}, not of disk offset {disk_at}"
            );
            return Err(VMDK.bad(why));
        }
        if bytes == 0 || u64::from(bytes) > 2 * self.grain {
            return Err(VMDK.bad(format!(
                "the grain of disk offset {disk_at} has {bytes} bytes"
            )));
        }
        let what = format!("the grain of disk offset {disk_at}");
        VMDK.inside(self.file_len, at + MARKER, bytes.into(), what)?;
        Ok((at + MARKER, bytes))
    }
}

impl Layout for SparseExtent {
    fn size(&self) -> u64 {
        self.size
    }

    fn piece(&mut self, from: u64, read: &mut Read<'_>) -> Result<Piece> {
        let number = from / self.grain;
        let (within, rest) = (from % self.grain, self.grain - from % self.grain);
        let Some(sector) = self.grain_sector(number, read)? else {
            let len = rest + self.zeros_after(number, read)? * self.grain;
            let hold = Hold::Zero;
            return Ok(Piece { len, hold });
        };
        let hold = if self.compressed {
            let (at, len) = self.run(number, sector, read)?;
            // Both are at most VMDK_GRAIN_BYTES_MAX.
            let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            Hold::Packed {
                at,
                len,
                whole: narrow(self.grain),
                skip: narrow(within),
            }
        } else {
            Hold::File(sector * SECTOR_BYTES + within)
        };
        Ok(Piece { len: rest, hold })
    }
}

impl SparseExtent {
    /// Grains of zeros behind this one: to the end of its table, and whole tables that are not there.
    fn zeros_after(&mut self, number: u64, read: &mut Read<'_>) -> Result<u64> {
        let grains = self.size.div_ceil(self.grain);
        let mut next = number + 1;
        while next < grains {
            let index = next / self.per_table;
            if next.is_multiple_of(self.per_table) && self.directory.get(index, read)? == 0 {
                next += self.per_table;
                continue;
            }
            if self.grain_sector(next, read)?.is_some() {
                break;
            }
            next += 1;
        }
        Ok(next.min(grains) - number - 1)
    }
}

impl Header {
    fn read(at: u64, len: u64, read: &mut Read<'_>) -> Result<Self> {
        VMDK.inside(len, at, HEADER as u64, "the header")?;
        let mut raw = [0; HEADER];
        read(at, &mut raw)?;
        let fields = Fields(&raw);
        if !raw.starts_with(MAGIC) {
            return Err(VMDK.bad(format!("there is no \"KDMV\" at offset {at}")));
        }
        let (version, flags) = (fields.le32(4), fields.le32(8));
        if !(1..=3).contains(&version) {
            return Err(VMDK.unsupported(format!("has version {version}"), CONVERT));
        }
        if flags & NEWLINES_VALID != 0 && raw[73..77] != *b"\n \r\n" {
            let why = "line ends were changed in it: it was copied as text";
            return Err(VMDK.bad(why));
        }
        // The low half is what a reader must know; the rest are hints.
        if flags & !FLAGS_KNOWN & 0xffff != 0 {
            return Err(VMDK.unsupported(format!("uses unknown features {flags:#x}"), CONVERT));
        }
        if flags & COMPRESSED != 0 && fields.le16(77) != 1 {
            let why = format!("uses compression {}, which is not deflate", fields.le16(77));
            return Err(VMDK.unsupported(why, CONVERT));
        }
        let header = Self {
            flags,
            capacity: fields.le64(12),
            grain: fields.le64(20),
            text: (fields.le64(28), fields.le64(36)),
            per_table: fields.le32(44).into(),
            directory_at: fields.le64(56),
        };
        if header.capacity > DISK_BYTES_MAX / SECTOR_BYTES {
            let why = format!("has a disk of {} sectors", header.capacity);
            return Err(VMDK.unsupported(why, "import a smaller disk"));
        }
        Ok(header)
    }
}
