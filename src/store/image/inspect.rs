//! What is on a disk, as far as it decides about booting: partition table, boot code, EFI system partition.
//! Pure over a reader; used by `image show` and to notice files that were cut short.
//!
//! Sources: UEFI specification 2.10 chapter 5 (GPT, protective MBR); for the MBR and its extended partitions
//! the layout that sfdisk and Linux (`block/partitions/msdos.c`) agree on.

use serde::Serialize;

use crate::limits::GPT_ENTRIES_MAX;
use crate::limits::MBR_LOGICAL_MAX;
use crate::store::error::Result;
use crate::units::SECTOR_BYTES;

/// Fills a buffer from an offset of the disk.
pub type Read<'a> = dyn FnMut(u64, &mut [u8]) -> Result<()> + 'a;

const SECTOR: usize = 512;
const GPT_SIGNATURE: &[u8] = b"EFI PART";
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const PROTECTIVE: u8 = 0xee;

const _: () = assert!(SECTOR as u64 == SECTOR_BYTES);

/// Kind of partition table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Table {
    /// None that is known.
    #[default]
    None,
    /// DOS partition table.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// Whose code is in the first sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootCode {
    /// No code: does not boot by BIOS.
    #[default]
    Zero,
    /// GRUB.
    Grub,
    /// SYSLINUX, EXTLINUX or ISOLINUX.
    Syslinux,
    /// Windows.
    Windows,
    /// Some other code.
    Unknown,
}

/// One entry of the partition table. Positions are bytes; `end` is one past the last byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Number as Linux counts.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// Type: two hex digits (MBR) or a GUID (GPT).
    pub kind: String,
    /// The type in words, empty if not known.
    pub kind_name: &'static str,
    /// Name given by whoever made it (GPT only).
    pub name: String,
    /// Marked active (MBR) or legacy BIOS bootable (GPT attribute 2).
    pub active: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Kind of partition table.
    pub table: Table,
    /// Disk GUID (GPT) or disk signature (MBR), in hex.
    pub disk_id: String,
    /// Entries in use.
    pub partitions: Vec<Partition>,
    /// Code in the first sector.
    pub boot_code: BootCode,
    /// There is an EFI system partition.
    pub esp: bool,
    /// Bytes that the disk must have for its partition table to be whole; 0 when nothing says so.
    pub claimed_bytes: u64,
    /// What is wrong, in sentences for people.
    pub problems: Vec<String>,
}

/// Looks at a disk of `size` bytes.
///
/// # Errors
/// Only those of the reader; whatever the bytes are is a finding.
pub fn inspect(size: u64, read: &mut Read<'_>) -> Result<Inspection> {
    let mut found = Inspection::default();
    if size < SECTOR_BYTES {
        return Ok(found);
    }
    let mut mbr = [0; SECTOR];
    read(0, &mut mbr)?;
    found.boot_code = boot_code(&mbr);
    let signed = mbr.ends_with(&[0x55, 0xaa]);
    let entries = mbr_entries(&mbr);
    let protective = signed && entries.iter().any(|e| e.kind == PROTECTIVE);
    if gpt(size, protective, &mut found, read)? {
        return Ok(found);
    }
    // A file system's first sector is signed too: only entries that make sense are a table.
    let sane =
        entries.iter().all(|e| matches!(e.flag, 0 | 0x80)) && entries.iter().any(|e| e.kind != 0);
    if signed && sane && !protective {
        mbr_table(size, &mbr, &entries, &mut found, read)?;
    }
    Ok(found)
}

fn boot_code(mbr: &[u8; SECTOR]) -> BootCode {
    let code = &mbr[..440];
    let has = |text: &[u8]| code.windows(text.len()).any(|part| part == text);
    if code.iter().all(|&byte| byte == 0) {
        BootCode::Zero
    } else if has(b"GRUB") {
        BootCode::Grub
    } else if has(b"Operating system load error") || has(b"isolinux") || has(b"SYSLINUX") {
        BootCode::Syslinux
    } else if has(b"Invalid partition table") || has(b"BOOTMGR") {
        BootCode::Windows
    } else {
        BootCode::Unknown
    }
}

#[derive(Clone, Copy)]
struct MbrEntry {
    flag: u8,
    kind: u8,
    start: u64,
    sectors: u64,
}

fn mbr_entries(sector: &[u8; SECTOR]) -> [MbrEntry; 4] {
    [0, 1, 2, 3].map(|number| {
        let raw = &sector[446 + number * 16..][..16];
        MbrEntry {
            flag: raw[0],
            kind: raw[4],
            start: u64::from(u32_at(raw, 8)),
            sectors: u64::from(u32_at(raw, 12)),
        }
    })
}

impl MbrEntry {
    const fn extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    /// In bytes of the disk; `base` is the sector that the entry counts from.
    fn partition(&self, number: u32, base: u64) -> Partition {
        let start = base + self.start;
        Partition {
            number,
            start: start * SECTOR_BYTES,
            end: (start + self.sectors) * SECTOR_BYTES,
            kind: format!("{:02x}", self.kind),
            kind_name: mbr_kind(self.kind),
            name: String::new(),
            active: self.flag == 0x80,
        }
    }
}

fn mbr_table(
    size: u64,
    mbr: &[u8; SECTOR],
    entries: &[MbrEntry; 4],
    found: &mut Inspection,
    read: &mut Read<'_>,
) -> Result<()> {
    found.table = Table::Mbr;
    found.disk_id = format!("{:08x}", u32_at(mbr, 440));
    for (number, entry) in (1..)
        .zip(entries)
        .filter(|(_, e)| e.kind != 0 && e.sectors != 0)
    {
        found.partitions.push(entry.partition(number, 0));
        if entry.extended() {
            logical(size, entry.start, found, read)?;
        }
    }
    found.esp = entries.iter().any(|e| e.kind == 0xef);
    found.claimed_bytes = found.partitions.iter().map(|p| p.end).max().unwrap_or(0);
    if found.claimed_bytes > size {
        let why = format!(
            "partitions reach to byte {}, the disk ends at {size}",
            found.claimed_bytes
        );
        found.problems.push(why);
    }
    Ok(())
}

/// Follows the chain of the extended partition that begins at sector `base`.
fn logical(size: u64, base: u64, found: &mut Inspection, read: &mut Read<'_>) -> Result<()> {
    let mut at = base;
    for number in 5..5 + MBR_LOGICAL_MAX {
        if (at + 1) * SECTOR_BYTES > size {
            found.problems.push(format!(
                "the extended partition goes on past the end, at sector {at}"
            ));
            return Ok(());
        }
        let mut sector = [0; SECTOR];
        read(at * SECTOR_BYTES, &mut sector)?;
        if !sector.ends_with(&[0x55, 0xaa]) {
            return Ok(());
        }
        let [data, next, ..] = mbr_entries(&sector);
        if data.kind != 0 && data.sectors != 0 {
            found.partitions.push(data.partition(number, at));
        }
        if !next.extended() || next.start == 0 {
            return Ok(());
        }
        at = base + next.start;
    }
    found.problems.push(format!(
        "more than {MBR_LOGICAL_MAX} logical partitions, the rest is not shown"
    ));
    Ok(())
}

/// Reads a GUID partition table; false when there is none.
fn gpt(size: u64, protective: bool, found: &mut Inspection, read: &mut Read<'_>) -> Result<bool> {
    let primary = gpt_header(size, 1, read)?;
    let header = match &primary {
        Some(Ok(header)) => *header,
        Some(Err(why)) => {
            found
                .problems
                .push(format!("the primary GPT header is damaged: {why}"));
            match gpt_header(size, size / SECTOR_BYTES - 1, read)? {
                Some(Ok(header)) => header,
                _ => {
                    found
                        .problems
                        .push("the backup GPT header at the end is no help".into());
                    found.table = Table::Gpt;
                    return Ok(true);
                }
            }
        }
        None => return gpt_missing(size, protective, found, read),
    };
    found.table = Table::Gpt;
    found.disk_id = guid(&header.disk);
    let last = if primary.is_some_and(|p| p.is_ok()) {
        header.other
    } else {
        header.own
    };
    found.claimed_bytes = last.saturating_add(1).saturating_mul(SECTOR_BYTES);
    if found.claimed_bytes > size {
        let why = format!(
            "the GPT is made for {} bytes, the disk ends at {size}",
            found.claimed_bytes
        );
        found.problems.push(why);
    }
    if !protective {
        found
            .problems
            .push("there is no protective MBR before the GPT".into());
    }
    gpt_entries(size, &header, found, read)?;
    Ok(true)
}

/// No header in sector 1: says so where one should be.
fn gpt_missing(
    size: u64,
    protective: bool,
    found: &mut Inspection,
    read: &mut Read<'_>,
) -> Result<bool> {
    if !protective {
        return Ok(false);
    }
    found.table = Table::Gpt;
    let mut start = [0; 8];
    if size >= 4096 + 8 {
        read(4096, &mut start)?;
    }
    let why = if start == GPT_SIGNATURE {
        "the GPT is made for sectors of 4,096 bytes; we serve 512, it will not be found"
    } else {
        "there is a protective MBR but no GPT header in sector 1"
    };
    found.problems.push(why.into());
    Ok(true)
}

#[derive(Clone, Copy)]
struct GptHeader {
    own: u64,
    other: u64,
    disk: [u8; 16],
    entries_at: u64,
    entries: u32,
    entry_bytes: u32,
    entries_sum: u32,
}

type Checked = std::result::Result<GptHeader, &'static str>;

/// The header in sector `at`; `None` when it does not begin like one.
fn gpt_header(size: u64, at: u64, read: &mut Read<'_>) -> Result<Option<Checked>> {
    if (at + 1) * SECTOR_BYTES > size {
        return Ok(None);
    }
    let mut raw = [0; SECTOR];
    read(at * SECTOR_BYTES, &mut raw)?;
    if !raw.starts_with(GPT_SIGNATURE) {
        return Ok(None);
    }
    let len = u32_at(&raw, 12) as usize;
    if !(92..=SECTOR).contains(&len) {
        return Ok(Some(Err("its length makes no sense")));
    }
    let sum = u32_at(&raw, 16);
    raw[16..20].fill(0);
    if crc32(&raw[..len]) != sum {
        return Ok(Some(Err("its checksum does not match")));
    }
    let mut disk = [0; 16];
    disk.copy_from_slice(&raw[56..72]);
    let header = GptHeader {
        own: u64_at(&raw, 24),
        other: u64_at(&raw, 32),
        disk,
        entries_at: u64_at(&raw, 72),
        entries: u32_at(&raw, 80),
        entry_bytes: u32_at(&raw, 84),
        entries_sum: u32_at(&raw, 88),
    };
    let sane = header.entry_bytes >= 128 && header.entry_bytes <= 4096 && header.entries_at >= 1;
    Ok(Some(if sane {
        Ok(header)
    } else {
        Err("its entries make no sense")
    }))
}

fn gpt_entries(
    size: u64,
    header: &GptHeader,
    found: &mut Inspection,
    read: &mut Read<'_>,
) -> Result<()> {
    let count = header.entries.min(GPT_ENTRIES_MAX);
    let bytes = u64::from(count) * u64::from(header.entry_bytes);
    let at = header.entries_at.saturating_mul(SECTOR_BYTES);
    if at.checked_add(bytes).is_none_or(|end| end > size) {
        found
            .problems
            .push("the GPT entries lie past the end of the disk".into());
        return Ok(());
    }
    // At most 1,024 entries of 4 KiB.
    let mut raw = vec![0; usize::try_from(bytes).unwrap_or(0)];
    read(at, &mut raw)?;
    if count == header.entries && crc32(&raw) != header.entries_sum {
        found
            .problems
            .push("the checksum of the GPT entries does not match".into());
    }
    for (number, entry) in (1..).zip(raw.chunks_exact(header.entry_bytes as usize)) {
        if entry[..16] == [0; 16] {
            continue;
        }
        let partition = gpt_partition(number, entry);
        found.esp |= partition.kind == ESP;
        if partition.end > size {
            found
                .problems
                .push(format!("partition {number} ends past the end of the disk"));
        }
        found.partitions.push(partition);
    }
    Ok(())
}

/// An entry of at least 128 bytes.
fn gpt_partition(number: u32, entry: &[u8]) -> Partition {
    let mut kind = [0; 16];
    kind.copy_from_slice(&entry[..16]);
    let kind = guid(&kind);
    let units = entry[56..128]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|raw| u16::from_le_bytes(*raw));
    let name = char::decode_utf16(units.take_while(|&unit| unit != 0));
    let last = u64_at(entry, 40);
    Partition {
        number,
        start: u64_at(entry, 32).saturating_mul(SECTOR_BYTES),
        end: last.saturating_add(1).saturating_mul(SECTOR_BYTES),
        kind_name: gpt_kind(&kind),
        kind,
        name: name
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
        active: u64_at(entry, 48) >> 2 & 1 == 1,
    }
}

/// The mixed-endian text form of a GUID (UEFI appendix A).
fn guid(raw: &[u8; 16]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(36);
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    for (nth, at) in order.into_iter().enumerate() {
        if matches!(nth, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string does not fail.
        let _ = write!(text, "{:02x}", raw[at]);
    }
    text
}

fn mbr_kind(kind: u8) -> &'static str {
    match kind {
        0x05 | 0x0f | 0x85 => "Extended",
        0x01 | 0x04 | 0x06 | 0x0e => "FAT16",
        0x0b | 0x0c => "FAT32",
        0x07 => "NTFS or exFAT",
        0x27 => "Windows recovery",
        0x82 => "Linux swap",
        0x83 => "Linux filesystem",
        0x8e => "Linux LVM",
        0xfd => "Linux RAID",
        0xef => "EFI system",
        0xa5 => "FreeBSD",
        0xfb => "VMware VMFS",
        _ => "",
    }
}

fn gpt_kind(kind: &str) -> &'static str {
    match kind {
        ESP => "EFI system",
        "21686148-6449-6e6f-744e-656564454649" => "BIOS boot",
        "0fc63daf-8483-4772-8e79-3d69d8477de4" => "Linux filesystem",
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709" => "Linux root (x86-64)",
        "b921b045-1df0-41c3-af44-4c6f280d3fae" => "Linux root (arm64)",
        "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f" => "Linux swap",
        "e6d6d379-f507-44c2-a23c-238f2a3df928" => "Linux LVM",
        "a19d880f-05fc-4d3b-a006-743f0f84911e" => "Linux RAID",
        "bc13c2ff-59e6-4262-a352-b275fd6f7172" => "Linux extended boot",
        "933ac7e1-2eb4-4f13-b844-0e14e2aef915" => "Linux home",
        "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7" => "Microsoft basic data",
        "e3c9e316-0b5c-4db8-817d-f92df00215ae" => "Microsoft reserved",
        "de94bba4-06d1-4d40-a16a-bfd50179d6ac" => "Windows recovery",
        _ => "",
    }
}

/// CRC-32 (ISO 3309) as the GPT uses it; a few KiB, so bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, &byte: &u8| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            let poly = if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
            sum >> 1 ^ poly
        })
    };
    !bytes.iter().fold(!0, step)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod test {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;
    use crate::store::error::{Error, ErrorKind};

    const MIB: u64 = 1 << 20;

    fn look(bytes: &[u8]) -> Inspection {
        inspect(bytes.len() as u64, &mut |offset, out| {
            let from = usize::try_from(offset).unwrap();
            let part = bytes.get(from..from + out.len());
            out.copy_from_slice(
                part.ok_or_else(|| Error::new(ErrorKind::OutOfBounds, "past the end"))?,
            );
            Ok(())
        })
        .unwrap()
    }

    /// A disk of `mib` MiB partitioned by sfdisk, which must be installed.
    fn sfdisk(mib: u64, script: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(mib * MIB)
            .unwrap();
        let tool = ["/usr/sbin/sfdisk", "/sbin/sfdisk", "/usr/bin/sfdisk"];
        let tool = tool
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .expect("sfdisk must be installed (tools/packages does it)");
        let mut child = Command::new(tool)
            .args(["-q", "--no-reread", "--no-tell-kernel"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "sfdisk failed");
        std::fs::read(path).unwrap()
    }

    #[test]
    fn a_gpt_by_sfdisk_is_read_whole() {
        let script = "label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\n\
            start=2048, size=4096, type=U, name=\"EFI\"\n\
            size=8192, type=L, name=\"root\", attrs=LegacyBIOSBootable\n";
        let disk = sfdisk(16, script);
        let found = look(&disk);
        assert_eq!(found.table, Table::Gpt);
        assert_eq!(found.disk_id, "11111111-2222-3333-4444-555555555555");
        assert_eq!(found.problems, Vec::<String>::new());
        assert_eq!(found.claimed_bytes, 16 * MIB);
        assert!(found.esp);
        assert_eq!(found.boot_code, BootCode::Zero);
        let names: Vec<_> = found
            .partitions
            .iter()
            .map(|p| (p.number, p.name.as_str(), p.kind_name, p.active))
            .collect();
        assert_eq!(
            names,
            [
                (1, "EFI", "EFI system", false),
                (2, "root", "Linux filesystem", true)
            ]
        );
        assert_eq!(
            (found.partitions[0].start, found.partitions[0].end),
            (MIB, 3 * MIB)
        );
    }

    #[test]
    fn a_gpt_on_a_disk_that_was_cut_short_tells_its_real_size() {
        let disk = sfdisk(16, "label: gpt\nsize=8192, type=L\n");
        let found = look(&disk[..8 << 20]);
        assert_eq!(found.claimed_bytes, 16 * MIB);
        assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
    }

    #[test]
    fn the_backup_helps_when_the_first_gpt_is_damaged() {
        let mut disk = sfdisk(16, "label: gpt\nsize=8192, type=L, name=root\n");
        disk[512 + 40] ^= 1;
        let found = look(&disk);
        assert_eq!(found.partitions.len(), 1);
        assert_eq!(found.partitions[0].name, "root");
        assert_eq!(found.claimed_bytes, 16 * MIB);
        assert!(
            found.problems[0].contains("checksum"),
            "{:?}",
            found.problems
        );
    }

    #[test]
    fn an_mbr_by_sfdisk_with_logical_partitions_is_read_whole() {
        let script = "label: dos\nlabel-id: 0xcafe1234\nstart=2048, size=2048, type=83, bootable\n\
            start=4096, size=20000, type=5\n\
            start=6144, size=2048, type=82\nstart=10240, size=2048, type=8e\n";
        let disk = sfdisk(16, script);
        let found = look(&disk);
        assert_eq!(found.table, Table::Mbr);
        assert_eq!(found.disk_id, "cafe1234");
        let seen: Vec<_> = found
            .partitions
            .iter()
            .map(|p| (p.number, p.start / 512, p.kind.as_str(), p.active))
            .collect();
        assert_eq!(
            seen,
            [
                (1, 2048, "83", true),
                (2, 4096, "05", false),
                (5, 6144, "82", false),
                (6, 10240, "8e", false)
            ]
        );
        assert!(!found.esp);
        assert_eq!(found.claimed_bytes, 24_096 * 512);
        assert_eq!(found.problems, Vec::<String>::new());
    }

    #[test]
    fn boot_code_is_known_by_its_texts() {
        for (text, code) in [
            (&b"GRUB "[..], BootCode::Grub),
            (
                b"Missing operating system.\r\nOperating system load error.\r\n",
                BootCode::Syslinux,
            ),
            (
                b"Invalid partition table\0Missing operating system\0",
                BootCode::Windows,
            ),
            (b"\xeb\x63 something", BootCode::Unknown),
            (b"", BootCode::Zero),
        ] {
            let mut disk = vec![0; 1024];
            disk[100..100 + text.len()].copy_from_slice(text);
            assert_eq!(look(&disk).boot_code, code);
        }
    }

    #[test]
    fn a_blank_disk_and_a_tiny_one_have_no_table() {
        assert_eq!(look(&[0; 4096]), Inspection::default());
        assert_eq!(look(&[1; 100]), Inspection::default());
    }

    #[test]
    fn a_file_system_without_partitions_is_no_table() {
        let mut disk = vec![0; 4096];
        disk[446..510].fill(b'x');
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(look(&disk).table, Table::None);
    }

    #[test]
    fn crc32_gives_the_published_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    proptest! {
        #[test]
        fn no_sectors_make_it_panic(
            sectors in prop::collection::vec(any::<u8>(), 512 * 8),
            marks in any::<[bool; 3]>(),
            kinds in any::<[u8; 4]>(),
            starts in prop::collection::vec(0_u8..9, 4),
        ) {
            let mut disk = sectors;
            if marks[0] { disk[510..512].copy_from_slice(&[0x55, 0xaa]); }
            for n in 0..4 {
                let at = 446 + n * 16;
                disk[at] = 0;
                disk[at + 4] = kinds[n] % 8;
                disk[at + 8..at + 12].copy_from_slice(&[starts[n], 0, 0, 0]);
            }
            if marks[1] { disk[450] = PROTECTIVE; }
            if marks[2] {
                disk[512..520].copy_from_slice(GPT_SIGNATURE);
                disk[524..528].copy_from_slice(&92_u32.to_le_bytes());
                disk[528..532].fill(0);
                let sum = crc32(&disk[512..512 + 92]);
                disk[528..532].copy_from_slice(&sum.to_le_bytes());
            }
            look(&disk);
        }
    }
}
