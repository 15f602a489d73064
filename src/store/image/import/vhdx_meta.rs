//! The metadata of a VHDX file: what the disk is, and where its parent is. Pure over a reader.
//!
//! \[MS-VHDX\] 2.6. A table of 64 KiB, then the items that it names by GUID.

use super::layout::{Fields, ParentAsk, Read, utf16};
use super::vhdx::{ENTRIES_MAX, VHDX, guid};
use crate::limits::VHDX_ITEM_BYTES_MAX;
use crate::store::error::Result;

const TABLE: usize = 64 << 10;
const IS_REQUIRED: u32 = 4;
const HAS_PARENT: u32 = 2;

pub(in crate::store::image) const FILE_PARAMETERS: [u8; 16] =
    guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
pub(in crate::store::image) const DISK_SIZE: [u8; 16] =
    guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
pub(in crate::store::image) const DISK_ID: [u8; 16] =
    guid(0xbeca_12ab, 0xb2e6, 0x4523, 0x93ef_c309_e000_c746);
pub(in crate::store::image) const LOGICAL_SECTOR: [u8; 16] =
    guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
pub(in crate::store::image) const PHYSICAL_SECTOR: [u8; 16] =
    guid(0xcda3_48c7, 0x445d, 0x4471, 0x9cc9_e988_5251_c556);
pub(in crate::store::image) const PARENT_LOCATOR: [u8; 16] =
    guid(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);
pub(in crate::store::image) const LOCATOR_VHDX: [u8; 16] =
    guid(0xb04a_efb7, 0xd19e, 0x4a81, 0xb789_25b8_e944_5913);

/// What the metadata says.
#[derive(Debug, Default)]
pub(super) struct Meta {
    /// Bytes of a payload block: a power of two from 1 MiB to 256 MiB.
    pub(super) block: u64,
    /// Bytes of a logical sector: 512 or 4096.
    pub(super) sector: u64,
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Of a differencing disk.
    pub(super) parent: Option<ParentAsk>,
}

/// Reads the metadata region, which lies inside the file of `len` bytes.
pub(super) fn read(len: u64, region: (u64, u64), read: &mut Read<'_>) -> Result<Meta> {
    let (start, bytes) = region;
    if bytes < TABLE as u64 {
        return Err(VHDX.bad(format!("its metadata region has {bytes} bytes")));
    }
    let mut table = vec![0; TABLE];
    read(start, &mut table)?;
    let fields = Fields(&table);
    let count = usize::from(fields.le16(10));
    if !table.starts_with(b"metadata") || count > ENTRIES_MAX {
        return Err(VHDX.bad("its metadata table is damaged (signature or count)"));
    }
    let (mut meta, mut has_parent, mut locator) = (Meta::default(), false, None);
    for at in (1..=count).map(|n| 32 * n) {
        let id: [u8; 16] = fields.array(at);
        let place = u64::from(fields.le32(at + 16));
        let item_bytes = u64::from(fields.le32(at + 20));
        let inside = place >= TABLE as u64 && place + item_bytes <= bytes;
        if item_bytes != 0 && (!inside || item_bytes > VHDX_ITEM_BYTES_MAX) {
            let why = format!("a metadata item is said to lie at {place}+{item_bytes} of {bytes}");
            return Err(VHDX.bad(why));
        }
        let mut item = vec![0; usize::try_from(item_bytes).unwrap_or(0)];
        read(start + place.min(bytes - item_bytes), &mut item)?;
        let value = Fields(&item);
        match id {
            FILE_PARAMETERS => {
                meta.block = value.le32(0).into();
                has_parent = value.le32(4) & HAS_PARENT != 0;
            }
            DISK_SIZE => meta.size = value.le64(0),
            LOGICAL_SECTOR => meta.sector = value.le32(0).into(),
            PARENT_LOCATOR => locator = Some(item),
            DISK_ID | PHYSICAL_SECTOR => {}
            _ if fields.le32(at + 24) & IS_REQUIRED != 0 => {
                let why = "needs a metadata item that is not known here";
                return Err(VHDX.unsupported(why, "convert it where it was made"));
            }
            _ => {}
        }
    }
    debug_assert!(start + bytes <= len);
    check(&meta)?;
    if has_parent {
        let locator = locator.ok_or_else(|| VHDX.bad("it has a parent but does not say which"))?;
        meta.parent = Some(parent(&locator)?);
    }
    Ok(meta)
}

fn check(meta: &Meta) -> Result<()> {
    let (block, sector) = (meta.block, meta.sector);
    if !block.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block) {
        return Err(VHDX.bad(format!("its blocks are said to have {block} bytes")));
    }
    if sector != 512 && sector != 4096 {
        return Err(VHDX.bad(format!(
            "its logical sectors are said to have {sector} bytes"
        )));
    }
    if !meta.size.is_multiple_of(sector) {
        let size = meta.size;
        return Err(VHDX.bad(format!(
            "its disk of {size} bytes ends inside a sector of {sector}"
        )));
    }
    Ok(())
}

/// The parent locator: pairs of texts (2.6.2.6).
fn parent(item: &[u8]) -> Result<ParentAsk> {
    let fields = Fields(item);
    if fields.array(0) != LOCATOR_VHDX {
        let why = "has a parent of a kind that is not known here";
        return Err(VHDX.unsupported(why, "convert it where it was made"));
    }
    let mut id = None;
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for at in (0..usize::from(fields.le16(18))).map(|n| 20 + 12 * n) {
        let text = |place: usize, len: usize| {
            let from = usize::try_from(fields.le32(at + place)).unwrap_or(usize::MAX);
            let len = usize::from(fields.le16(at + len));
            let raw = from.checked_add(len).and_then(|end| item.get(from..end));
            let gone = || VHDX.bad("the locator of its parent points outside itself");
            raw.map(|raw| utf16(raw, false)).ok_or_else(gone)
        };
        let (key, value) = (text(0, 8)?, text(4, 10)?);
        match key.as_str() {
            "parent_linkage" => id = guid_text(&value),
            "relative_path" => near.push(value),
            "absolute_win32_path" | "volume_path" => far.push(value),
            _ => {}
        }
    }
    near.append(&mut far);
    near.retain(|name| !name.is_empty());
    let id = id.ok_or_else(|| VHDX.bad("the locator of its parent lacks a good parent_linkage"))?;
    Ok(ParentAsk {
        id,
        names: near,
        changed: None,
    })
}

/// `{83ed0ec1-24c8-49a6-a959-5e4bd1288791}` as it lies on disk.
fn guid_text(text: &str) -> Option<[u8; 16]> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut parts = inner.split('-');
    let mut part = |digits: usize| {
        let text = parts.next().filter(|p| p.len() == digits)?;
        u64::from_str_radix(text, 16).ok()
    };
    let (a, b, c) = (part(8)?, part(4)?, part(4)?);
    let d = part(4)? << 48 | part(12)?;
    let (a, b) = (u32::try_from(a).ok()?, u16::try_from(b).ok()?);
    Some(guid(a, b, u16::try_from(c).ok()?, d))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_guid_is_read_from_its_text() {
        let text = "{A8D35F2D-B30B-454d-ABF7-D3D84834AB0C}";
        assert_eq!(guid_text(text), Some(PARENT_LOCATOR));
        for text in [
            "",
            "{}",
            "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C",
            "{1-2-3-4-5}",
        ] {
            assert_eq!(guid_text(text), None, "{text}");
        }
    }
}
