//! Disk images that somebody brings along: partition tables and files of many formats. The first byte
//! chooses: a table on a sparse disk, the check of a qcow2 mapping, a whole file through the importer, the
//! reader of VHD, VHDX or VMDK over a file in pieces, or the text of a VMDK.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use arbitrary::Unstructured;
use reveille::limits;
use reveille::store::image::fuzzing::Reader;
use reveille::store::image::import::{self, ExtentKind, Format};
use reveille::store::image::{fuzzing, inspect};

const SECTOR: usize = 512;

pub(crate) fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = choose(&mut u);
}

fn choose(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    match u.arbitrary::<u8>()? % 8 {
        0 | 1 => tables(u),
        4 => foreign(Reader::Vhd, u),
        5 => foreign(Reader::Vhdx, u),
        6 => foreign(Reader::Vmdk, u),
        7 => {
            let text = u.bytes(u.len())?;
            let extents = fuzzing::vmdk_extents(text).unwrap_or(0);
            assert!(extents <= limits::VMDK_EXTENTS_MAX);
            Ok(())
        }
        2 => {
            mapping(u.bytes(u.len())?);
            Ok(())
        }
        _ => {
            let formats = [
                Format::Auto,
                Format::Raw,
                Format::Qcow2,
                Format::Vhd,
                Format::Vhdx,
                Format::Vmdk,
            ];
            let format = formats[u.choose_index(formats.len())?];
            file(format, u.bytes(u.len())?);
            Ok(())
        }
    }
}

/// A disk of which only some sectors are not zeros.
struct Sparse {
    size: u64,
    sectors: Vec<(u64, [u8; SECTOR])>,
    read: u64,
}

impl Sparse {
    /// Fills `out`, which must lie on the disk.
    fn fill(&mut self, offset: u64, out: &mut [u8]) {
        let end = offset.checked_add(out.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.size),
            "read past the end: {offset}+{}",
            out.len()
        );
        self.read += out.len() as u64;
        assert!(self.read <= 8 << 20, "a survey that reads the whole disk");
        out.fill(0);
        for (number, bytes) in &self.sectors {
            let at = number * SECTOR as u64;
            for (n, byte) in bytes.iter().enumerate() {
                let place = (at + n as u64).wrapping_sub(offset);
                if let Some(to) = usize::try_from(place).ok().and_then(|p| out.get_mut(p)) {
                    *to = *byte;
                }
            }
        }
    }
}

fn tables(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let sectors = u64::from(u.arbitrary::<u32>()?);
    let odd = u64::from(u.arbitrary::<u8>()?);
    let mends: u8 = u.arbitrary()?;
    let mut disk = Sparse {
        size: sectors * SECTOR as u64 + odd,
        sectors: Vec::new(),
        read: 0,
    };
    while !u.is_empty() && disk.sectors.len() < 12 {
        // Near the start, or near the end where the backup lies.
        let (place, at): (u8, u16) = (u.arbitrary()?, u.arbitrary()?);
        let number = match place {
            0..0xc0 => u64::from(place % 40),
            _ => sectors.saturating_sub(u64::from(place & 0x3f)),
        };
        let mut sector = [0; SECTOR];
        let len = usize::from(u.arbitrary::<u8>()?).min(u.len());
        let at = usize::from(at) % SECTOR;
        let bytes = u.bytes(len.min(SECTOR - at))?;
        sector[at..at + bytes.len()].copy_from_slice(bytes);
        if mends & 1 != 0 && number == 0 {
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
            sector[450] = if mends & 2 != 0 { 0xee } else { sector[450] };
        }
        if mends & 4 != 0 && (number == 1 || number + 1 == sectors) {
            sector[..8].copy_from_slice(b"EFI PART");
            sector[12..16].copy_from_slice(&92_u32.to_le_bytes());
            sector[16..20].fill(0);
            let sum = crc32(&sector[..92]);
            sector[16..20].copy_from_slice(&sum.to_le_bytes());
        }
        disk.sectors.push((number, sector));
    }
    let size = disk.size;
    let found = inspect::inspect(size, &mut |offset, out| {
        disk.fill(offset, out);
        Ok(())
    });
    let found = found.expect("the reader never fails");
    let most = (limits::GPT_ENTRIES_MAX + limits::MBR_LOGICAL_MAX * 4 + 4) as usize;
    assert!(found.partitions.len() <= most && found.problems.len() <= 2 * most);
    for part in &found.partitions {
        assert!(part.name.chars().count() <= 36);
    }
    Ok(())
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

/// Bytes as a qcow2 file; zeros follow up to a length that the first bytes say.
fn mapping(bytes: &[u8]) {
    let Some((&[low, high], bytes)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let len = bytes.len() as u64 + u64::from(u16::from_le_bytes([low, high])) * 4096;
    let mut calls = 0_u32;
    let size = fuzzing::qcow2(len, &mut |offset, out| {
        let end = offset.checked_add(out.len() as u64);
        assert!(
            end.is_some_and(|end| end <= len),
            "read past the end: {offset}+{}",
            out.len()
        );
        calls += 1;
        if calls > 2000 {
            // A sane answer to a large table; what follows would be more of the same.
            let why = "enough";
            return Err(reveille::store::Error::new(
                reveille::store::ErrorKind::Io,
                why,
            ));
        }
        out.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let held = bytes.get(start..).unwrap_or_default();
        let n = held.len().min(out.len());
        out[..n].copy_from_slice(&held[..n]);
        Ok(())
    });
    if let Ok(size) = size {
        assert!(size <= limits::DISK_BYTES_MAX);
    }
}

/// A file of which some parts are written: their place in units of a sector or of 64 KiB, then their bytes.
/// Checksums are made right.
fn foreign(reader: Reader, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut file = match reader {
        Reader::Vhdx => vec![0; 5 << 20],
        Reader::Vhd | Reader::Vmdk => vec![0; 256 << 10],
    };
    let keep = usize::from(u.arbitrary::<u16>()?);
    while !u.is_empty() {
        let (unit, number): (u8, u8) = (u.arbitrary()?, u.arbitrary()?);
        let unit = [SECTOR, 64 << 10, 1 << 20, 4][usize::from(unit % 4)];
        let at = unit * usize::from(number);
        let len = usize::from(u.arbitrary::<u8>()?).min(u.len());
        let bytes = u.bytes(len)?;
        if let Some(part) = file.get_mut(at..at + bytes.len()) {
            part.copy_from_slice(bytes);
        }
    }
    if !matches!(reader, Reader::Vmdk) {
        fuzzing::mend(&mut file);
    }
    // Cut short by some sectors at times.
    if keep & 3 == 3 {
        file.truncate(file.len().saturating_sub(keep * 16).max(1));
    }
    let len = file.len() as u64;
    let mut read_bytes = 0;
    let size = fuzzing::foreign(reader, len, &mut |offset, out| {
        let end = offset.checked_add(out.len() as u64);
        assert!(
            end.is_some_and(|end| end <= len),
            "read past the end: {offset}+{}",
            out.len()
        );
        read_bytes += out.len();
        if read_bytes > 256 << 20 {
            let why = "enough";
            return Err(reveille::store::Error::new(
                reveille::store::ErrorKind::Io,
                why,
            ));
        }
        let from = usize::try_from(offset).expect("inside a file in memory");
        out.copy_from_slice(&file[from..from + out.len()]);
        Ok(())
    });
    match size {
        Ok(size) => assert!(size > 0 && size <= limits::DISK_BYTES_MAX),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.len() < 4000 && !text.chars().any(char::is_control),
                "{text:?}"
            );
        }
    }
    Ok(())
}

fn place() -> &'static PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| std::env::temp_dir().join(format!("reveille-fuzz-{}", std::process::id())))
}

/// A file as `image import` opens it. What is taken can be read: every extent, and bytes of it.
fn file(format: Format, bytes: &[u8]) {
    let path = place();
    fs::write(path, bytes).expect("a file in the temporary directory");
    let source = import::open(path, format);
    let _ = fs::remove_file(path);
    let mut source = match source {
        Ok(source) => source,
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.len() < 4000 && !text.chars().any(char::is_control),
                "{text:?}"
            );
            return;
        }
    };
    let size = source.size();
    assert!(size > 0 && size <= limits::DISK_BYTES_MAX && size % SECTOR as u64 == 0);
    let mut at = 0;
    for _ in 0..64 {
        if at >= size {
            break;
        }
        let Ok(extent) = source.next_extent(at) else {
            return;
        };
        assert!(
            extent.range.offset() <= at && extent.range.end() > at,
            "no way on from {at}"
        );
        if extent.kind == ExtentKind::Data {
            let len = (extent.range.end().min(size) - at).min(64 * 1024);
            let mut out = vec![0; len as usize];
            let _ = source.read_at(at, &mut out);
        }
        at = extent.range.end();
    }
}
