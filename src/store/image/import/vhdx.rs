//! VHDX: fixed, dynamic and differencing. Pure over a reader.
//!
//! Layout: \[MS-VHDX\] "Virtual Hard Disk v2 (VHDX) File Format". All numbers are little-endian. Two headers,
//! of which the one with the higher sequence number counts; two copies of a region table that names the
//! metadata (`vhdx_meta.rs`) and the block allocation table. After each run of payload entries that one
//! bitmap of sectors serves, that table has an entry for the bitmap.

use roaring::RoaringBitmap;

use super::layout::{Blame, Fields, Hold, Layout, ParentAsk, Piece, Read, Table, Width, bit_run};
use super::vhdx_meta::{self, Meta};
use crate::store::error::Result;

pub(super) const VHDX: Blame = Blame("VHDX");
pub(super) const SIGNATURE: &[u8] = b"vhdxfile";
pub(super) const MIB: u64 = 1 << 20;
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER: usize = 4096;
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const REGION: usize = 64 << 10;
/// Entries of a region table or a metadata table.
pub(super) const ENTRIES_MAX: usize = 2047;
/// Sectors whose bits one bitmap block holds: 1 MiB of bits.
const BITMAP_SECTORS: u64 = 1 << 23;

pub(in crate::store::image) const BAT_REGION: [u8; 16] =
    guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
pub(in crate::store::image) const META_REGION: [u8; 16] =
    guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);

/// A GUID as it lies on disk: the first three fields little-endian, the rest as written.
pub(in crate::store::image) const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (
        a.to_le_bytes(),
        b.to_le_bytes(),
        c.to_le_bytes(),
        d.to_be_bytes(),
    );
    [
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6],
        d[7],
    ]
}

/// State of a payload block, in the low three bits of its entry.
mod state {
    pub(super) const NOT_PRESENT: u64 = 0;
    pub(super) const UNDEFINED: u64 = 1;
    pub(super) const ZERO: u64 = 2;
    pub(super) const UNMAPPED: u64 = 3;
    pub(super) const FULLY_PRESENT: u64 = 6;
    pub(super) const PARTIALLY_PRESENT: u64 = 7;
}

/// The mapping of a VHDX file.
#[derive(Debug)]
pub(in crate::store::image) struct Vhdx {
    meta: Meta,
    /// Changed whenever the disk is written to.
    write_id: [u8; 16],
    table: Table,
    /// Payload blocks that one bitmap block serves.
    ratio: u64,
    /// The bitmap block of one chunk.
    bits: Vec<u8>,
    bits_chunk: Option<u64>,
}

struct Header {
    sequence: u64,
    write_id: [u8; 16],
    log_id: [u8; 16],
    log: (u64, u64),
}

struct Regions {
    bat: (u64, u64),
    meta: (u64, u64),
}

impl Vhdx {
    /// Checks a file of `len` bytes.
    ///
    /// # Errors
    /// `InvalidFormat` with what is wrong, `Unsupported` with the way out.
    pub(in crate::store::image) fn open(len: u64, read: &mut Read<'_>) -> Result<Self> {
        VHDX.inside(len, 0, MIB, "the headers")?;
        let mut start = [0; 8];
        read(0, &mut start)?;
        if start != SIGNATURE {
            return Err(VHDX.bad("it does not begin with \"vhdxfile\""));
        }
        let header = Header::newest(read)?;
        if header.log_id != [0; 16] {
            let why = "was not closed cleanly: its log holds changes that are not in place yet";
            return Err(VHDX.unsupported(why, "replay it: qemu-img check -r all FILE"));
        }
        let regions = Regions::read(len, read)?;
        let meta = vhdx_meta::read(len, regions.meta, read)?;
        VHDX.size(meta.size)?;
        let ratio = BITMAP_SECTORS * meta.sector / meta.block;
        let blocks = meta.size.div_ceil(meta.block);
        let entries = match meta.parent {
            Some(_) => blocks.div_ceil(ratio) * (ratio + 1),
            None => blocks + (blocks - 1) / ratio,
        };
        let (at, bytes) = regions.bat;
        if bytes / 8 < entries {
            let why = format!(
                "its block table has {} entries, {entries} are needed",
                bytes / 8
            );
            return Err(VHDX.bad(why));
        }
        let mut this = Self {
            meta,
            write_id: header.write_id,
            table: Table::new(at, entries, Width::Le64),
            ratio,
            bits: Vec::new(),
            bits_chunk: None,
        };
        let mut used = RoaringBitmap::new();
        claim(&mut used, (0, MIB), "the headers")?;
        for (part, what) in [
            (regions.bat, "the block table"),
            (regions.meta, "the metadata"),
            (header.log, "the log"),
        ] {
            claim(&mut used, part, what)?;
        }
        this.check(len, &mut used, read)?;
        Ok(this)
    }

    /// Identity by which children know the state of their parent.
    pub(in crate::store::image) const fn id(&self) -> [u8; 16] {
        self.write_id
    }

    /// The parent of a differencing disk.
    pub(in crate::store::image) const fn parent(&self) -> Option<&ParentAsk> {
        self.meta.parent.as_ref()
    }

    /// Every block that is there lies inside the file, and no two in one place.
    fn check(&mut self, len: u64, used: &mut RoaringBitmap, read: &mut Read<'_>) -> Result<()> {
        for index in 0..self.table.entries() {
            let entry = self.table.get(index, read)?;
            let (chunk, nth) = (index / (self.ratio + 1), index % (self.ratio + 1));
            let what = format!("entry {index} of its block table is {entry:#x}");
            if nth == self.ratio {
                match entry & 7 {
                    state::NOT_PRESENT => continue,
                    state::FULLY_PRESENT => self.place(len, entry, MIB, used, &what)?,
                    _ => return Err(VHDX.bad(format!("{what}, which no bitmap block can be"))),
                }
                continue;
            }
            let number = chunk * self.ratio + nth;
            let disk_at = number * self.meta.block;
            if disk_at >= self.meta.size {
                continue;
            }
            // The last block may be cut where the disk ends.
            let bytes = self.meta.block.min(self.meta.size - disk_at);
            match entry & 7 {
                state::NOT_PRESENT | state::UNDEFINED | state::ZERO | state::UNMAPPED => {}
                state::FULLY_PRESENT => self.place(len, entry, bytes, used, &what)?,
                state::PARTIALLY_PRESENT if self.meta.parent.is_some() => {
                    self.place(len, entry, bytes, used, &what)?;
                    let bits = self.table.get(self.bitmap_index(chunk), read)?;
                    if bits & 7 != state::FULLY_PRESENT {
                        let why = format!("{what}, but the bitmap of its sectors is not there");
                        return Err(VHDX.bad(why));
                    }
                }
                _ => return Err(VHDX.bad(format!("{what}, which no block can be"))),
            }
        }
        Ok(())
    }

    fn place(
        &self,
        len: u64,
        entry: u64,
        bytes: u64,
        used: &mut RoaringBitmap,
        what: &str,
    ) -> Result<()> {
        let at = entry & !(MIB - 1);
        VHDX.inside(len, at, bytes, what)?;
        claim(used, (at, bytes), what)
    }

    const fn bitmap_index(&self, chunk: u64) -> u64 {
        chunk * (self.ratio + 1) + self.ratio
    }

    fn entry(&mut self, number: u64, read: &mut Read<'_>) -> Result<u64> {
        self.table.get(number + number / self.ratio, read)
    }

    /// What a block holds that has no place in this file.
    const fn absent(&self, entry: u64) -> Option<Hold> {
        match entry & 7 {
            state::NOT_PRESENT if self.meta.parent.is_some() => Some(Hold::Parent),
            state::FULLY_PRESENT | state::PARTIALLY_PRESENT => None,
            _ => Some(Hold::Zero),
        }
    }

    fn load_bits(&mut self, chunk: u64, read: &mut Read<'_>) -> Result<()> {
        if self.bits_chunk != Some(chunk) {
            let at = self.table.get(self.bitmap_index(chunk), read)? & !(MIB - 1);
            self.bits_chunk = None;
            self.bits.resize(1 << 20, 0);
            read(at, &mut self.bits)?;
            self.bits_chunk = Some(chunk);
        }
        Ok(())
    }
}

/// Marks a run of whole MiB as used.
fn claim(used: &mut RoaringBitmap, (at, bytes): (u64, u64), what: &str) -> Result<()> {
    let count = bytes.div_ceil(MIB);
    if count == 0 {
        return Ok(());
    }
    let (first, last) = (at / MIB, (at / MIB).saturating_add(count - 1));
    let (Ok(first), Ok(last)) = (u32::try_from(first), u32::try_from(last)) else {
        return Err(VHDX.bad(format!("{what} lies at offset {at}")));
    };
    if !at.is_multiple_of(MIB) || used.insert_range(first..=last) != count {
        return Err(VHDX.bad(format!("{what}: at offset {at} lies something else")));
    }
    Ok(())
}

impl Layout for Vhdx {
    fn size(&self) -> u64 {
        self.meta.size
    }

    fn piece(&mut self, from: u64, read: &mut Read<'_>) -> Result<Piece> {
        let (block, number) = (self.meta.block, from / self.meta.block);
        let (within, rest) = (from % block, block - from % block);
        let entry = self.entry(number, read)?;
        if let Some(hold) = self.absent(entry) {
            let blocks = self.meta.size.div_ceil(block);
            let mut next = number + 1;
            while next < blocks {
                let entry = self.entry(next, read)?;
                if self.absent(entry) != Some(hold) {
                    break;
                }
                next += 1;
            }
            let len = rest + (next - number - 1) * block;
            return Ok(Piece { len, hold });
        }
        let at = (entry & !(MIB - 1)) + within;
        if entry & 7 == state::FULLY_PRESENT {
            return Ok(Piece {
                len: rest,
                hold: Hold::File(at),
            });
        }
        self.load_bits(number / self.ratio, read)?;
        let sector = self.meta.sector;
        let first = number % self.ratio * (block / sector);
        // The first sector is the lowest bit of the first byte.
        let bit = |n: u64| {
            let byte = usize::try_from(n / 8).ok().and_then(|at| self.bits.get(at));
            byte.is_some_and(|byte| byte >> (n % 8) & 1 == 1)
        };
        let (here, count) = bit_run(first + within / sector, first + block / sector, &bit);
        Ok(Piece {
            len: count * sector - within % sector,
            hold: if here { Hold::File(at) } else { Hold::Parent },
        })
    }
}

impl Header {
    /// The valid header with the higher sequence number.
    fn newest(read: &mut Read<'_>) -> Result<Self> {
        let mut found: Option<Self> = None;
        for at in HEADERS {
            let mut raw = vec![0; HEADER];
            read(at, &mut raw)?;
            let header = Self::parse(&raw);
            let newer = |h: &Self| found.as_ref().is_none_or(|f| h.sequence > f.sequence);
            if let Some(header) = header.filter(newer) {
                found = Some(header);
            }
        }
        found.ok_or_else(|| {
            VHDX.bad("both of its headers are damaged (signature, version or checksum)")
        })
    }

    fn parse(raw: &[u8]) -> Option<Self> {
        let fields = Fields(raw);
        let good = raw.starts_with(b"head") && checksum(raw) == fields.le32(4);
        (good && fields.le16(66) == 1).then(|| Self {
            sequence: fields.le64(8),
            write_id: fields.array(32),
            log_id: fields.array(48),
            log: (fields.le64(72), u64::from(fields.le32(68))),
        })
    }
}

/// CRC-32C with the four bytes of the checksum itself taken for zero.
pub(in crate::store::image) fn checksum(bytes: &[u8]) -> u32 {
    let (head, rest) = bytes.split_at_checked(8).unwrap_or_default();
    let head = head.get(..4).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]), rest)
}

impl Regions {
    fn read(len: u64, read: &mut Read<'_>) -> Result<Self> {
        for at in REGIONS {
            let mut raw = vec![0; REGION];
            read(at, &mut raw)?;
            let fields = Fields(&raw);
            if raw.starts_with(b"regi") && checksum(&raw) == fields.le32(4) {
                return Self::parse(len, fields);
            }
        }
        Err(VHDX.bad("both of its region tables are damaged (signature or checksum)"))
    }

    fn parse(len: u64, fields: Fields<'_>) -> Result<Self> {
        let count = usize::try_from(fields.le32(8)).unwrap_or(usize::MAX);
        if count > ENTRIES_MAX {
            return Err(VHDX.bad(format!("its region table is said to have {count} entries")));
        }
        let (mut bat, mut meta) = (None, None);
        for at in (0..count).map(|n| 16 + 32 * n) {
            let id: [u8; 16] = fields.array(at);
            let (place, bytes) = (fields.le64(at + 16), u64::from(fields.le32(at + 24)));
            let slot = match id {
                BAT_REGION => &mut bat,
                META_REGION => &mut meta,
                _ if fields.le32(at + 28) & 1 == 1 => {
                    let why = "needs a region that is not known here";
                    return Err(VHDX.unsupported(why, "convert it where it was made"));
                }
                _ => continue,
            };
            VHDX.inside(len, place, bytes, "a region")?;
            if slot.replace((place, bytes)).is_some() || !place.is_multiple_of(MIB) || place < MIB {
                return Err(VHDX.bad(format!(
                    "a region at offset {place} is named twice or misplaced"
                )));
            }
        }
        match (bat, meta) {
            (Some(bat), Some(meta)) => Ok(Self { bat, meta }),
            _ => Err(VHDX.bad("its region table lacks the block table or the metadata")),
        }
    }
}
