//! VHD: fixed, dynamic and differencing. Pure over a reader.
//!
//! Layout: "Virtual Hard Disk Image Format Specification", version 1.0 (Microsoft, 2006). All numbers are
//! big-endian. A fixed disk is its bytes and a footer of one sector. The others begin with a copy of the
//! footer; a header names the block allocation table, whose entries are the sectors where blocks lie: first
//! a bitmap of the block's sectors, then the sectors.

use roaring::RoaringBitmap;

use super::layout::{
    Blame, Fields, Hold, Layout, ParentAsk, Piece, Read, Table, Width, bit_run, utf16,
};
use crate::limits::IMPORT_NAME_BYTES_MAX;
use crate::limits::VHD_BAT_BYTES_MAX;
use crate::limits::VHD_BLOCK_BYTES_MAX;
use crate::store::error::Result;
use crate::units::SECTOR_BYTES;

const VHD: Blame = Blame("VHD");
const FOOTER: u64 = 512;
/// Footers of Virtual PC before 2004 lack their last byte.
const FOOTER_OLD: u64 = 511;
const HEADER: usize = 1024;
pub(super) const COOKIE: &[u8] = b"conectix";
const HEADER_COOKIE: &[u8] = b"cxsparse";
const NOT_THERE: u64 = 0xffff_ffff;
/// Largest geometry: 65,535 cylinders, 16 heads, 255 sectors. A disk that has it may be larger.
const GEOMETRY_MAX: u64 = 65_535 * 16 * 255;
/// Programs whose disks are as large as their footer says. All others (Virtual PC, old QEMU, and whoever is
/// not known) mean the geometry: the rule that QEMU follows too (its `block/vpc.c`).
const SIZE_BY_FOOTER: [&[u8]; 6] = [b"win ", b"qem2", b"d2v ", b"CTXS", b"tap", b"wa"];
/// 2000-01-01 in seconds since 1970: where the format's clock begins.
const EPOCH: u64 = 946_684_800;

/// A footer that holds what a footer must.
#[derive(Clone, Debug)]
struct Footer {
    kind: Kind,
    size: u64,
    header_at: u64,
    id: [u8; 16],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

/// The mapping of a VHD file.
#[derive(Debug)]
pub(in crate::store::image) struct Vhd {
    size: u64,
    id: [u8; 16],
    blocks: Option<Blocks>,
    parent: Option<ParentAsk>,
}

/// Blocks of a disk that is not fixed.
#[derive(Debug)]
struct Blocks {
    table: Table,
    block: u64,
    bitmap: u64,
    differencing: bool,
    /// The bitmap of one block.
    held: Vec<u8>,
    held_block: Option<u64>,
}

impl Vhd {
    /// Checks a file of `len` bytes.
    ///
    /// # Errors
    /// `InvalidFormat` with what is wrong, `Unsupported` with the way out.
    pub(in crate::store::image) fn open(len: u64, read: &mut Read<'_>) -> Result<Self> {
        let footer = Footer::find(len, read)?;
        VHD.size(footer.size)?;
        if footer.kind == Kind::Fixed {
            return Ok(Self {
                size: footer.size,
                id: footer.id,
                blocks: None,
                parent: None,
            });
        }
        let header = header(len, &footer, read)?;
        let differencing = footer.kind == Kind::Differencing;
        let parent = match differencing {
            true => Some(parent(len, &header, read)?),
            false => None,
        };
        let mut blocks = Blocks::new(len, &footer, Fields(&header), differencing)?;
        blocks.check(len, footer.size, read)?;
        Ok(Self {
            size: footer.size,
            id: footer.id,
            blocks: Some(blocks),
            parent,
        })
    }

    /// Identity by which children know their parent.
    pub(in crate::store::image) const fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The parent of a differencing disk.
    pub(in crate::store::image) const fn parent(&self) -> Option<&ParentAsk> {
        self.parent.as_ref()
    }
}

impl Layout for Vhd {
    fn size(&self) -> u64 {
        self.size
    }

    fn piece(&mut self, from: u64, read: &mut Read<'_>) -> Result<Piece> {
        let rest = self.size.saturating_sub(from).max(1);
        match &mut self.blocks {
            None => Ok(Piece {
                len: rest,
                hold: Hold::File(from),
            }),
            Some(blocks) => blocks.piece(from, read),
        }
    }
}

impl Footer {
    /// The footer of a file: of a disk that is not fixed the copy at the start counts as well.
    fn find(len: u64, read: &mut Read<'_>) -> Result<Self> {
        if len < FOOTER_OLD {
            return Err(VHD.cut(len, 0, FOOTER, "the footer"));
        }
        let mut first = [0; 512];
        let have = usize::try_from(len.min(FOOTER)).unwrap_or(511);
        read(0, &mut first[..have])?;
        let starts = first.starts_with(COOKIE) && len >= FOOTER;
        let last = Self::at_end(len, read)?;
        let front = if starts {
            Some(Self::parse(&first, 0))
        } else {
            None
        };
        let back = last.map(|(raw, at)| Self::parse(&raw, at));
        let found = match (front, back) {
            (None, None) => {
                return Err(VHD.bad("there is no \"conectix\" at its start or in its last sector"));
            }
            (Some(Ok(front)), _) if front.kind != Kind::Fixed => front,
            (_, Some(Ok(back))) => back,
            (Some(Ok(front)), None) => front,
            (Some(Err(e)), None) | (_, Some(Err(e))) => return Err(e),
        };
        if found.kind == Kind::Fixed {
            let end = len
                - if last.is_some_and(|(_, at)| len - at == FOOTER_OLD) {
                    FOOTER_OLD
                } else {
                    FOOTER
                };
            if last.is_none() || end < found.size {
                return Err(VHD.cut(len, 0, found.size, "the disk before the footer"));
            }
        }
        Ok(found)
    }

    /// The last sector, or the last 511 bytes, if a footer is there, and where it lies.
    fn at_end(len: u64, read: &mut Read<'_>) -> Result<Option<([u8; 512], u64)>> {
        for bytes in [FOOTER, FOOTER_OLD] {
            if len < bytes {
                continue;
            }
            let mut raw = [0; 512];
            read(
                len - bytes,
                &mut raw[..usize::try_from(bytes).unwrap_or(512)],
            )?;
            if raw.starts_with(COOKIE) {
                return Ok(Some((raw, len - bytes)));
            }
        }
        Ok(None)
    }

    fn parse(raw: &[u8; 512], at: u64) -> Result<Self> {
        let fields = Fields(raw);
        if checksum(raw, 64) != fields.be32(64) {
            return Err(VHD.bad(format!(
                "the checksum of the footer at offset {at} is wrong"
            )));
        }
        if fields.be32(12) >> 16 != 1 {
            let version = fields.be32(12);
            return Err(VHD.unsupported(format!("has version {version:#x}"), CONVERT));
        }
        let kind = match fields.be32(60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => return Err(VHD.unsupported(format!("has disk type {other}"), CONVERT)),
        };
        Ok(Self {
            kind,
            size: size(fields),
            header_at: fields.be64(16),
            id: fields.array(68),
        })
    }
}

const CONVERT: &str = "convert it where it was made";

/// Bytes of the disk: by the geometry or by the size field, as its maker meant it.
fn size(footer: Fields<'_>) -> u64 {
    let creator: [u8; 4] = footer.array(28);
    let [heads, per_track] = footer.array(58);
    let sectors = u64::from(footer.be16(56)) * u64::from(heads) * u64::from(per_track);
    let by_footer = SIZE_BY_FOOTER.iter().any(|app| creator.starts_with(app));
    if by_footer || sectors == GEOMETRY_MAX {
        return footer.be64(48) / SECTOR_BYTES * SECTOR_BYTES;
    }
    sectors * SECTOR_BYTES
}

/// One's complement of the sum of all bytes but the four of the checksum itself.
pub(in crate::store::image) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |part: &[u8]| {
        part.iter()
            .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)))
    };
    let all = sum(bytes);
    !all.wrapping_sub(sum(bytes.get(at..at + 4).unwrap_or_default()))
}

fn header(len: u64, footer: &Footer, read: &mut Read<'_>) -> Result<[u8; HEADER]> {
    let mut header = [0; HEADER];
    VHD.inside(len, footer.header_at, HEADER as u64, "the header")?;
    read(footer.header_at, &mut header)?;
    let fields = Fields(&header);
    let at = footer.header_at;
    if !header.starts_with(HEADER_COOKIE) {
        return Err(VHD.bad(format!("there is no \"cxsparse\" at offset {at}")));
    }
    if checksum(&header, 36) != fields.be32(36) {
        return Err(VHD.bad(format!(
            "the checksum of the header at offset {at} is wrong"
        )));
    }
    Ok(header)
}

impl Blocks {
    fn new(len: u64, footer: &Footer, header: Fields<'_>, differencing: bool) -> Result<Self> {
        let (at, entries) = (header.be64(16), u64::from(header.be32(28)));
        let block = u64::from(header.be32(32));
        if !block.is_power_of_two() || !(SECTOR_BYTES..=VHD_BLOCK_BYTES_MAX).contains(&block) {
            return Err(VHD.bad(format!("its blocks are said to have {block} bytes")));
        }
        let needed = footer.size.div_ceil(block);
        if entries < needed || needed * 4 > VHD_BAT_BYTES_MAX {
            let why =
                format!("its block table is said to have {entries} entries, {needed} are needed");
            return Err(VHD.bad(why));
        }
        VHD.inside(len, at, needed * 4, "the block table")?;
        Ok(Self {
            table: Table::new(at, needed, Width::Be32),
            block,
            bitmap: (block / SECTOR_BYTES)
                .div_ceil(8)
                .next_multiple_of(SECTOR_BYTES),
            differencing,
            held: Vec::new(),
            held_block: None,
        })
    }

    /// Every block that is there lies inside the file, and no two in one place.
    fn check(&mut self, len: u64, size: u64, read: &mut Read<'_>) -> Result<()> {
        let mut used = RoaringBitmap::new();
        for number in 0..self.table.entries() {
            let sector = self.table.get(number, read)?;
            if sector == NOT_THERE {
                continue;
            }
            let (start, disk_at) = (sector * SECTOR_BYTES, number * self.block);
            let needed = self.bitmap + self.block.min(size - disk_at);
            VHD.inside(
                len,
                start,
                needed,
                format!("the block of disk offset {disk_at}"),
            )?;
            let sectors = needed / SECTOR_BYTES;
            let last = u32::try_from(sector + sectors - 1);
            let first = u32::try_from(sector);
            let (Ok(first), Ok(last)) = (first, last) else {
                return Err(VHD.bad(format!("block {number} lies at sector {sector}")));
            };
            if used.insert_range(first..=last) != sectors {
                let why = format!(
                    "the block of disk offset {disk_at} lies where another one lies, at {start}"
                );
                return Err(VHD.bad(why));
            }
        }
        Ok(())
    }

    fn piece(&mut self, from: u64, read: &mut Read<'_>) -> Result<Piece> {
        let number = from / self.block;
        let (within, rest) = (from % self.block, self.block - from % self.block);
        let sector = self.table.get(number, read)?;
        if sector == NOT_THERE {
            let mut next = number + 1;
            while next < self.table.entries() && self.table.get(next, read)? == NOT_THERE {
                next += 1;
            }
            let hold = if self.differencing {
                Hold::Parent
            } else {
                Hold::Zero
            };
            let len = rest + (next - number - 1) * self.block;
            return Ok(Piece { len, hold });
        }
        let data = sector * SECTOR_BYTES + self.bitmap;
        if !self.differencing {
            // As QEMU has it: a block that is there is there as a whole.
            return Ok(Piece {
                len: rest,
                hold: Hold::File(data + within),
            });
        }
        self.load(number, sector * SECTOR_BYTES, read)?;
        let sectors = self.block / SECTOR_BYTES;
        // The first sector is the highest bit of the first byte.
        let bit = |n: u64| {
            let byte = usize::try_from(n / 8).ok().and_then(|at| self.held.get(at));
            byte.is_some_and(|byte| byte >> (7 - n % 8) & 1 == 1)
        };
        let (here, count) = bit_run(within / SECTOR_BYTES, sectors, &bit);
        let hold = if here {
            Hold::File(data + within)
        } else {
            Hold::Parent
        };
        let len = count * SECTOR_BYTES - within % SECTOR_BYTES;
        Ok(Piece { len, hold })
    }

    fn load(&mut self, number: u64, at: u64, read: &mut Read<'_>) -> Result<()> {
        if self.held_block != Some(number) {
            self.held_block = None;
            self.held
                .resize(usize::try_from(self.bitmap).unwrap_or(0), 0);
            read(at, &mut self.held)?;
            self.held_block = Some(number);
        }
        Ok(())
    }
}

/// What the header of a differencing disk says about its parent. Relative paths come first, then the name,
/// then absolute paths.
fn parent(len: u64, header: &[u8; HEADER], read: &mut Read<'_>) -> Result<ParentAsk> {
    let fields = Fields(header);
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for locator in 0..8 {
        let at = 576 + 24 * locator;
        let code: [u8; 4] = fields.array(at);
        let (bytes, place) = (u64::from(fields.be32(at + 8)), fields.be64(at + 16));
        if bytes == 0 || !matches!(&code, b"W2ru" | b"W2ku" | b"MacX") {
            continue;
        }
        if bytes > IMPORT_NAME_BYTES_MAX {
            return Err(VHD.bad(format!(
                "the name of its parent is said to have {bytes} bytes"
            )));
        }
        VHD.inside(len, place, bytes, "the name of its parent")?;
        let mut raw = vec![0; usize::try_from(bytes).unwrap_or(0)];
        read(place, &mut raw)?;
        match &code {
            b"W2ru" => near.push(utf16(&raw, false)),
            b"W2ku" => far.push(utf16(&raw, false)),
            _ => far.push(
                String::from_utf8_lossy(&raw)
                    .trim_end_matches('\0')
                    .to_owned(),
            ),
        }
    }
    near.push(utf16(&header[64..576], true));
    near.append(&mut far);
    near.retain(|name| !name.is_empty());
    let changed = u64::from(fields.be32(56));
    Ok(ParentAsk {
        id: fields.array(40),
        names: near,
        changed: (changed != 0).then_some(changed + EPOCH),
    })
}
