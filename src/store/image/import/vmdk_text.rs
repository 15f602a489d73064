//! The text that describes a VMDK disk: its kind, its parent, its extents. Pure.
//!
//! "Virtual Disk Format 5.0" (VMware, 2011), "The Descriptor File". Lines of `KEY=VALUE`, and a line for each
//! extent: `RW 4192256 SPARSE "disk-s001.vmdk"` or `RW 8192 FLAT "disk-flat.vmdk" 0`.

use super::layout::shown;
use super::vmdk::{CONVERT, VMDK};
use crate::limits::DISK_BYTES_MAX;
use crate::limits::VMDK_EXTENTS_MAX;
use crate::store::error::Result;
use crate::units::SECTOR_BYTES;

/// Begins a descriptor that is a file of its own.
pub(super) const MAGIC: &[u8] = b"# Disk DescriptorFile";

/// Where the bytes of an extent are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::image) enum Kind {
    /// In a sparse file of this name.
    Sparse(String),
    /// In a file of this name from this byte on.
    Flat(String, u64),
    /// Nowhere: zeros.
    Zero,
}

/// A part of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::image) struct TextExtent {
    /// Bytes.
    pub(in crate::store::image) bytes: u64,
    /// Where they are.
    pub(in crate::store::image) kind: Kind,
}

/// Reads a descriptor: the extents in the order of the disk.
///
/// # Errors
/// Lines that cannot be; a parent; kinds of extents that are not read here.
pub(in crate::store::image) fn parse(text: &[u8]) -> Result<Vec<TextExtent>> {
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    let text = String::from_utf8_lossy(&text[..end]);
    let (mut extents, mut total) = (Vec::new(), 0_u64);
    for line in text.lines().map(str::trim) {
        if let Some((key, value)) = line.split_once('=') {
            check_key(key.trim(), value.trim())?;
            continue;
        }
        let Some(extent) = extent(line)? else {
            continue;
        };
        total = total.saturating_add(extent.bytes);
        if total > DISK_BYTES_MAX || extents.len() >= VMDK_EXTENTS_MAX {
            let why = format!(
                "describes a disk of {total} bytes in {} extents",
                extents.len() + 1
            );
            return Err(VMDK.unsupported(why, "import a smaller disk"));
        }
        extents.push(extent);
    }
    if total == 0 {
        return Err(VMDK.bad("its descriptor names no extent"));
    }
    Ok(extents)
}

fn check_key(key: &str, value: &str) -> Result<()> {
    if key.eq_ignore_ascii_case("parentCID") && !value.eq_ignore_ascii_case("ffffffff") {
        return Err(VMDK.unsupported("is only the difference to its parent", CONVERT));
    }
    Ok(())
}

/// The extent on a line; `None` when the line names none.
fn extent(line: &str) -> Result<Option<TextExtent>> {
    let (access, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    if !matches!(access, "RW" | "RDONLY" | "NOACCESS") {
        return Ok(None);
    }
    let bad = || VMDK.bad(format!("its descriptor has the line `{}`", shown(line)));
    if access == "NOACCESS" {
        return Err(VMDK.unsupported("has an extent that nobody may read", CONVERT));
    }
    let (sectors, rest) = rest
        .trim_start()
        .split_once(char::is_whitespace)
        .ok_or_else(bad)?;
    let sectors: u64 = sectors.parse().map_err(|_| bad())?;
    let bytes = sectors
        .checked_mul(SECTOR_BYTES)
        .filter(|b| *b > 0)
        .ok_or_else(bad)?;
    let rest = rest.trim_start();
    let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let mut parts = rest.split('"');
    let name = parts.nth(1).map(str::to_owned);
    let offset = parts.next().unwrap_or("").trim();
    let kind = match (kind, name) {
        ("ZERO", _) => Kind::Zero,
        ("SPARSE", Some(name)) => Kind::Sparse(name),
        ("FLAT" | "VMFS", Some(name)) => {
            let sector: u64 = if offset.is_empty() {
                0
            } else {
                offset.parse().map_err(|_| bad())?
            };
            let at = sector.checked_mul(SECTOR_BYTES).ok_or_else(bad)?;
            Kind::Flat(name, at)
        }
        ("VMFSSPARSE" | "SESPARSE" | "VMFSRDM" | "VMFSRAW", _) => {
            return Err(VMDK.unsupported(format!("has an extent of kind {kind}"), CONVERT));
        }
        _ => return Err(bad()),
    };
    Ok(Some(TextExtent { bytes, kind }))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn extents_are_read_in_order() {
        let text = b"# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType=\"x\"\n\n\
            RW 4 SPARSE \"a b-s001.vmdk\"\r\nRDONLY 6 FLAT \"b-flat.vmdk\" 2\nRW 8 ZERO\n\0RW 9 ZERO";
        let found = parse(text).unwrap();
        let kinds = [
            (4, Kind::Sparse("a b-s001.vmdk".into())),
            (6, Kind::Flat("b-flat.vmdk".into(), 1024)),
            (8, Kind::Zero),
        ];
        let kinds = kinds.map(|(sectors, kind)| TextExtent {
            bytes: sectors * 512,
            kind,
        });
        assert_eq!(found, kinds);
    }

    #[test]
    fn lines_that_cannot_be_are_refused() {
        for line in [
            "RW",
            "RW x FLAT \"a\"",
            "RW 0 FLAT \"a\"",
            "RW 99999999999999999999 FLAT \"a\"",
            "RW 18446744073709551615 ZERO",
            "RW 36028797018963967 ZERO",
            "RW 8 FLAT",
            "RW 8 FLAT \"a\" -1",
            "RW 8 FLAT \"a\" 36028797018963968",
            "RW 8 VMFSSPARSE \"a\"",
            "NOACCESS 8 FLAT \"a\" 0",
            "parentCID=12345678\nRW 8 ZERO",
            "",
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
