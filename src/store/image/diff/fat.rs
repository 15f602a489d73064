//! FAT12, FAT16 and FAT32, read only: names, sizes, times and cluster chains. Pure over a window.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format", version 1.03 (2000). No well-kept library
//! refuses hostile bytes without panics, and a panic would end the head: so this is ours.

use super::bytes::{le16, le32};
use super::content::{Extent, Extents, Held, Stream};
use super::files::{Item, Kind, Names, Tree};
use super::window::Window;
use crate::limits;
use crate::store::error::{Error, ErrorKind, Result};

const ENTRY: usize = 32;
const DIRECTORY: u8 = 0x10;
const LABEL: u8 = 0x08;
const LONG: u8 = 0x0f;

/// True when the first sector could be that of a FAT file system.
pub(super) fn looks_like(sector: &[u8]) -> bool {
    let signed = sector.get(510..512) == Some(&[0x55, 0xaa]);
    let jump = matches!(sector.first(), Some(0xeb | 0xe9));
    signed && jump && Shape::decode(sector).is_some()
}

/// The numbers of the boot sector that matter.
#[derive(Clone, Copy, Debug)]
struct Shape {
    cluster_bytes: u64,
    fat_start: u64,
    fat_bytes: u64,
    /// Where a FAT12 or FAT16 root directory lies, and its length.
    root: (u64, u64),
    /// First cluster of a FAT32 root directory.
    root_cluster: u32,
    data_start: u64,
    clusters: u32,
    bits: u8,
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    le16(bytes, at).map(u64::from)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    le32(bytes, at).map(u64::from)
}

impl Shape {
    /// Every product here is below 2^60: the factors have at most 16, 8 and 32 bits.
    fn decode(sector: &[u8]) -> Option<Self> {
        let bytes = word(sector, 11)?;
        let per_cluster = u64::from(*sector.get(13)?);
        let reserved = word(sector, 14)?;
        let fats = u64::from(*sector.get(16)?);
        let either = |short: u64, long: u64| if short != 0 { short } else { long };
        let total = either(word(sector, 19)?, long(sector, 32)?);
        let fat = either(word(sector, 22)?, long(sector, 36)?);
        let sane = matches!(bytes, 512 | 1024 | 2048 | 4096)
            && per_cluster.is_power_of_two()
            && reserved > 0
            && matches!(fats, 1 | 2)
            && fat > 0;
        if !sane {
            return None;
        }
        let root_bytes = word(sector, 17)? * ENTRY as u64;
        let root_start = (reserved + fats * fat) * bytes;
        let data_start = root_start + root_bytes.div_ceil(bytes) * bytes;
        let data = (total * bytes).checked_sub(data_start)?;
        let clusters = u32::try_from(data / (per_cluster * bytes)).ok()?;
        let bits = match clusters {
            0..4085 => 12,
            4085..65_525 => 16,
            _ => 32,
        };
        Some(Self {
            cluster_bytes: per_cluster * bytes,
            fat_start: reserved * bytes,
            fat_bytes: fat * bytes,
            root: (root_start, root_bytes),
            root_cluster: u32::try_from(long(sector, 44)?).ok()?,
            data_start,
            clusters,
            bits,
        })
    }
}

struct Open {
    window: Window,
    shape: Shape,
    fat: Vec<u8>,
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorKind::InvalidFormat, format!("FAT: {why}"))
}

pub(super) fn open(window: Window) -> Result<Box<dyn Tree>> {
    let mut sector = [0; 512];
    window.read(0, &mut sector)?;
    let shape = Shape::decode(&sector).ok_or_else(|| wrong("its first sector makes no sense"))?;
    // Only as much of the table as there are clusters.
    let needed = ((u64::from(shape.clusters) + 2) * u64::from(shape.bits)).div_ceil(8);
    let len = needed.min(shape.fat_bytes);
    if len > limits::DIFF_FAT_BYTES_MAX {
        return Err(wrong("its table is too large to be read here"));
    }
    if shape.fat_start.saturating_add(len) > window.len() {
        return Err(wrong("its table does not fit on the disk"));
    }
    let mut fat = vec![0; usize::try_from(len).unwrap_or(0)];
    window.read(shape.fat_start, &mut fat)?;
    Ok(Box::new(Open { window, shape, fat }))
}

impl Open {
    fn next(&self, cluster: u32) -> Option<u32> {
        let at = cluster as usize;
        let (value, end) = match self.shape.bits {
            12 => {
                let pair = word(&self.fat, at + at / 2)?;
                let value = if at % 2 == 1 { pair >> 4 } else { pair & 0xfff };
                (value, 0xff8)
            }
            16 => (word(&self.fat, at * 2)?, 0xfff8),
            _ => (long(&self.fat, at * 4)? & 0x0fff_ffff, 0x0fff_fff8),
        };
        (value < end).then(|| u32::try_from(value).ok()).flatten()
    }

    /// Hands the clusters of a chain to `each` until it has enough; no chain is longer than the disk.
    fn chain(&self, first: u32, mut each: impl FnMut(u64) -> Result<bool>) -> Result<()> {
        let mut cluster = Some(first);
        for _ in 0..=self.shape.clusters {
            let Some(here) = cluster else { return Ok(()) };
            let number = here.checked_sub(2).filter(|n| *n < self.shape.clusters);
            let number = number.ok_or_else(|| wrong("a chain leaves the disk"))?;
            let offset = self.shape.data_start + u64::from(number) * self.shape.cluster_bytes;
            if !each(offset)? {
                return Ok(());
            }
            cluster = self.next(here);
        }
        Err(wrong("a chain goes in circles"))
    }

    fn directory(&self, first: Option<u32>) -> Result<Vec<u8>> {
        // 65,536 entries are the most that a directory has.
        let most = ENTRY << 16;
        let Some(first) = first else {
            let (start, len) = self.shape.root;
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            self.window.read(start, &mut bytes)?;
            return Ok(bytes);
        };
        let mut bytes = Vec::new();
        self.chain(first, |offset| {
            let at = bytes.len();
            bytes.resize(
                at + usize::try_from(self.shape.cluster_bytes).unwrap_or(0),
                0,
            );
            self.window.read(offset, &mut bytes[at..])?;
            Ok(bytes.len() < most)
        })?;
        Ok(bytes)
    }

    fn first_cluster(&self, entry: &[u8]) -> u32 {
        let low = word(entry, 26).unwrap_or(0);
        let high = word(entry, 20).unwrap_or(0);
        let high = if self.shape.bits == 32 { high } else { 0 };
        u32::try_from(high << 16 | low).unwrap_or(0)
    }
}

/// The entries of a directory that name something, with their long names where they have one.
fn entries(bytes: &[u8]) -> Vec<(String, &[u8])> {
    let mut out = Vec::new();
    let mut parts: Vec<Vec<u16>> = Vec::new();
    for entry in bytes.chunks_exact(ENTRY) {
        match (entry[0], entry[11]) {
            (0, _) => break,
            (0xe5, _) => parts.clear(),
            (order, attributes) if attributes & 0x3f == LONG => {
                // The last part comes first, and begins anew.
                if order & 0x40 != 0 {
                    parts.clear();
                }
                if parts.len() < 20 {
                    parts.push(long_part(entry));
                }
            }
            (_, attributes) if attributes & LABEL != 0 => parts.clear(),
            (b'.', _) => parts.clear(),
            _ => {
                let units: Vec<u16> = parts.drain(..).rev().flatten().collect();
                let name = match units.is_empty() {
                    true => short_name(entry),
                    false => String::from_utf16_lossy(&units),
                };
                out.push((name, entry));
            }
        }
    }
    out
}

fn long_part(entry: &[u8]) -> Vec<u16> {
    let places = (1..11)
        .step_by(2)
        .chain((14..26).step_by(2))
        .chain([28, 30]);
    let units = places.filter_map(|at| word(entry, at).and_then(|unit| u16::try_from(unit).ok()));
    units
        .take_while(|unit| *unit != 0 && *unit != 0xffff)
        .collect()
}

fn short_name(entry: &[u8]) -> String {
    let part = |bytes: &[u8], lower: bool| {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        if lower {
            text.to_ascii_lowercase()
        } else {
            text
        }
    };
    // Windows NT notes in this byte which half is written small.
    let name = part(&entry[..8], entry[12] & 0x08 != 0);
    let extension = part(&entry[8..11], entry[12] & 0x10 != 0);
    match extension.is_empty() {
        true => name,
        false => format!("{name}.{extension}"),
    }
}

fn item(entry: &[u8], first: u32) -> Item {
    let directory = entry[11] & DIRECTORY != 0;
    let time = long(entry, 22).unwrap_or(0);
    let kind = if directory {
        Kind::Directory
    } else {
        Kind::File
    };
    Item {
        kind,
        size: long(entry, 28).unwrap_or(0),
        attributes: [u64::from(entry[11]), if directory { 0 } else { time }, 0, 0],
        place: u64::from(first),
    }
}

impl Tree for Open {
    fn names(&self) -> Result<Names> {
        let mut names = Names::default();
        let root = (self.shape.bits == 32).then_some(self.shape.root_cluster);
        let mut todo = vec![(Vec::new(), root, 0)];
        let mut seen = std::collections::BTreeSet::new();
        while let Some((path, first, depth)) = todo.pop() {
            if depth > limits::DIFF_DEPTH_MAX {
                return Err(wrong("directories lie too deep"));
            }
            if !seen.insert(first) {
                return Err(wrong("a directory lies in itself, or in two places"));
            }
            let bytes = self.directory(first)?;
            for (name, entry) in entries(&bytes) {
                let path: Vec<u8> = [&path[..], b"/", name.as_bytes()].concat();
                let first = self.first_cluster(entry);
                let item = item(entry, first);
                if item.kind == Kind::Directory && first != 0 {
                    names.count(path.len())?;
                    todo.push((path.clone(), Some(first), depth + 1));
                }
                names.add(path, item)?;
            }
        }
        Ok(names)
    }

    fn window(&self) -> &Window {
        &self.window
    }

    fn streams(&self, item: &Item) -> Result<Option<Vec<Stream>>> {
        let first = u32::try_from(item.place).unwrap_or(0);
        let bytes = self.shape.cluster_bytes;
        let mut extents = Extents::default();
        let mut at = 0;
        // Clusters beside each other are one extent.
        let mut run: Option<Extent> = None;
        let crowded = || wrong("a file lies in too many pieces");
        if item.size > 0 {
            self.chain(first, |disk| {
                match &mut run {
                    Some(run) if run.disk + run.len == disk => run.len += bytes,
                    _ => {
                        let next = Extent {
                            at,
                            disk,
                            len: bytes,
                        };
                        if let Some(run) = run.replace(next) {
                            extents.push(run).ok_or_else(crowded)?;
                        }
                    }
                }
                at += bytes;
                Ok(at < item.size)
            })?;
        }
        if let Some(run) = run {
            extents.push(run).ok_or_else(crowded)?;
        }
        if at < item.size {
            return Err(wrong("it ends before its size"));
        }
        extents.trim(item.size);
        Ok(Some(vec![Stream {
            key: Vec::new(),
            size: item.size,
            held: Held::There(extents),
        }]))
    }
}
