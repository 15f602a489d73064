//! Files that lie: refused with the object, the reason and the next step.

use std::fs;
use std::path::{Path, PathBuf};

use reveille::store::ErrorKind;

use super::{Files, KIB, content, disk, refused, tool};
use crate::build::{
    BAT, Block, MIB, Plan, mend_vhd_footer, mend_vhd_header, mend_vhdx, put, vhdx_header,
};

const BAD: ErrorKind = ErrorKind::InvalidFormat;

fn plan() -> Plan {
    let blocks = vec![Block::Full, Block::Absent, Block::Full];
    Plan::new("h", 3 * MIB, MIB, blocks)
}

/// A change of a good file, and what the refusal says.
type Case<'a> = (&'a dyn Fn(&mut Vec<u8>), ErrorKind, &'a str);

fn check_all(name: &str, good: &[u8], cases: &[Case<'_>]) {
    let files = Files::new();
    content(&files.write(name, good)).unwrap();
    for (change, kind, says) in cases {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        refused(&files.write(name, &bytes), *kind, &[says]);
    }
}

/// Changes both footers.
fn footer(bytes: &mut [u8], at: usize, value: &[u8]) {
    let last = bytes.len() - 512;
    for footer in [0, last] {
        put(&mut bytes[footer..], at, value);
        mend_vhd_footer(&mut bytes[footer..]);
    }
}

fn header(bytes: &mut [u8], at: usize, value: &[u8]) {
    put(bytes, 512 + at, value);
    mend_vhd_header(&mut bytes[512..1536]);
}

#[test]
fn a_vhd_that_lies_is_refused() {
    let cases: &[Case<'_>] = &[
        (
            &|b| footer(b, 48, &[0x7f; 8]),
            ErrorKind::Unsupported,
            "largest supported",
        ),
        (
            &|b| footer(b, 48, &(1_u64 << 63).to_be_bytes()),
            ErrorKind::Unsupported,
            "9223372036854775808",
        ),
        (&|b| footer(b, 48, &[0; 8]), BAD, "0 bytes"),
        (
            &|b| footer(b, 60, &[0, 0, 0, 9]),
            ErrorKind::Unsupported,
            "disk type 9",
        ),
        (
            &|b| footer(b, 12, &[0, 7, 0, 0]),
            ErrorKind::Unsupported,
            "version",
        ),
        (&|b| footer(b, 16, &[0xff; 8]), BAD, "the header"),
        (&|b| footer(b, 16, &2048_u64.to_be_bytes()), BAD, "cxsparse"),
        (&|b| put(b, 700, &[1]), BAD, "checksum of the header"),
        (&|b| header(b, 16, &[0xff; 8]), BAD, "the block table"),
        (
            &|b| header(b, 28, &[0, 0, 0, 2]),
            BAD,
            "2 entries, 3 are needed",
        ),
        (
            &|b| header(b, 32, &[0; 4]),
            BAD,
            "blocks are said to have 0 bytes",
        ),
        (
            &|b| header(b, 32, &[0, 0x30, 0, 0]),
            BAD,
            "blocks are said to have 3145728 bytes",
        ),
        (
            &|b| header(b, 32, &[0x80, 0, 0, 0]),
            BAD,
            "blocks are said to have",
        ),
        (
            &|b| put(b, 8192, &[0x7f, 0xff, 0xff, 0xff]),
            BAD,
            "block of disk offset 0 lies at 1099511627",
        ),
        (
            &|b| b.copy_within(8192..8196, 8200),
            BAD,
            "lies where another one lies",
        ),
        (&|b| b.truncate(9000 + MIB), BAD, "cut short"),
        (&|b| b.truncate(512), BAD, "the header"),
        (&|b| b.truncate(600), BAD, "the header"),
    ];
    check_all("h.vhd", &plan().vhd(), cases);
}

#[test]
fn a_vhd_with_one_good_footer_is_read() {
    let files = Files::new();
    let good = plan().vhd();
    let mut front = good.clone();
    put(&mut front, 100, &[1]);
    assert!(content(&files.write("front", &front)).unwrap() == plan().model(&[]));
    let mut back = good.clone();
    let last = back.len() - 512;
    put(&mut back, last + 100, &[1]);
    assert!(content(&files.write("back", &back)).unwrap() == plan().model(&[]));
    put(&mut back, 100, &[1]);
    refused(
        &files.write("both", &back),
        BAD,
        &["the checksum of the footer"],
    );
}

#[test]
fn a_fixed_vhd_without_all_of_its_disk_is_refused() {
    let files = Files::new();
    let raw = files.write("raw", &disk());
    let path = files.path("fixed");
    let args = [
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        "subformat=fixed,force_size=on",
    ];
    tool("qemu-img", &args, &[&raw, &path]);
    let bytes = fs::read(&path).unwrap();
    // The middle is gone, the footer is there.
    let cut = [&bytes[..MIB], &bytes[bytes.len() - 512..]].concat();
    refused(&files.write("cut", &cut), BAD, &["cut short"]);
    let mut bad = bytes.clone();
    let last = bad.len() - 512;
    put(&mut bad, last + 200, &[1]);
    refused(&files.write("bad", &bad), BAD, &["checksum of the footer"]);
}

const TABLE: usize = 3 * MIB;

fn entry(bytes: &mut [u8], nth: usize, value: u64) {
    put(bytes, TABLE + 8 * nth, &value.to_le_bytes());
}

fn regions(bytes: &mut [u8], at: usize, value: &[u8]) {
    for table in [192 * KIB, 256 * KIB] {
        put(bytes, table + at, value);
        mend_vhdx(&mut bytes[table..table + 64 * KIB]);
    }
}

fn item(bytes: &mut [u8], at: usize, value: &[u8]) {
    put(bytes, 2 * MIB + at, value);
}

#[test]
fn a_vhdx_that_lies_is_refused() {
    let no_headers = |b: &mut Vec<u8>| {
        put(b, 65 * KIB, &[1]);
        put(b, 129 * KIB, &[1]);
    };
    let dirty = |b: &mut Vec<u8>| put(b, 128 * KIB, &vhdx_header(3, [1; 16], [9; 16]));
    let no_regions = |b: &mut Vec<u8>| {
        put(b, 200 * KIB, &[1]);
        put(b, 300 * KIB, &[1]);
    };
    let cases: &[Case<'_>] = &[
        (&no_headers, BAD, "both of its headers are damaged"),
        (&dirty, ErrorKind::Unsupported, "qemu-img check -r all"),
        (&no_regions, BAD, "both of its region tables are damaged"),
        (
            &|b| regions(b, 8, &[0xff, 0xff]),
            BAD,
            "region table is said to have 65535 entries",
        ),
        (
            &|b| regions(b, 8, &[1]),
            BAD,
            "lacks the block table or the metadata",
        ),
        (&|b| regions(b, 48, &BAT), BAD, "named twice"),
        (&|b| regions(b, 32, &[0xff; 8]), BAD, "a region"),
        (&|b| regions(b, 32, &[0x10]), BAD, "misplaced"),
        (
            &|b| regions(b, 64, &(TABLE as u64).to_le_bytes()),
            BAD,
            "metadata table is damaged",
        ),
        (
            &|b| regions(b, 40, &8_u32.to_le_bytes()),
            BAD,
            "entries, 3 are needed",
        ),
        (
            &|b| regions(b, 16, &[1]),
            ErrorKind::Unsupported,
            "a region that is not known",
        ),
        (&|b| item(b, 0, b"x"), BAD, "metadata table is damaged"),
        (
            &|b| item(b, 10, &[0xff; 2]),
            BAD,
            "metadata table is damaged",
        ),
        (
            &|b| item(b, 32, &[1]),
            ErrorKind::Unsupported,
            "a metadata item that is not known",
        ),
        (
            &|b| item(b, 48, &[0xff; 4]),
            BAD,
            "a metadata item is said to lie at",
        ),
        (
            &|b| item(b, 52, &[0xff; 4]),
            BAD,
            "a metadata item is said to lie at",
        ),
        (
            &|b| item(b, 64 * KIB, &[0, 0, 0, 0]),
            BAD,
            "blocks are said to have 0 bytes",
        ),
        (
            &|b| item(b, 64 * KIB, &[0, 0, 0, 0xff]),
            BAD,
            "blocks are said to have",
        ),
        (&|b| item(b, 64 * KIB + 4, &[2]), BAD, "does not say which"),
        (&|b| item(b, 64 * KIB + 8, &[0; 8]), BAD, "0 bytes"),
        (
            &|b| item(b, 64 * KIB + 8, &(1_u64 << 63).to_le_bytes()),
            ErrorKind::Unsupported,
            "largest",
        ),
        (
            &|b| item(b, 64 * KIB + 8, &[1]),
            BAD,
            "ends inside a sector",
        ),
        (
            &|b| item(b, 64 * KIB + 16, &[0, 4]),
            BAD,
            "logical sectors are said to have 1024 bytes",
        ),
        (&|b| entry(b, 0, !7 | 6), BAD, "entry 0 of its block table"),
        (&|b| entry(b, 0, 6), BAD, "lies something else"),
        (
            &|b| entry(b, 0, (3 * MIB) as u64 | 6),
            BAD,
            "lies something else",
        ),
        (
            &|b| b.copy_within(TABLE..TABLE + 8, TABLE + 16),
            BAD,
            "lies something else",
        ),
        (&|b| entry(b, 1, 5), BAD, "which no block can be"),
        (
            &|b| entry(b, 0, (4 * MIB) as u64 | 7),
            BAD,
            "which no block can be",
        ),
        (&|b| b.truncate(5 * MIB), BAD, "cut short"),
        (&|b| b.truncate(100_000), BAD, "cut short"),
    ];
    check_all("h.vhdx", &plan().vhdx(), cases);
}

#[test]
fn the_vhdx_header_with_the_higher_number_counts() {
    let files = Files::new();
    let mut bytes = plan().vhdx();
    put(&mut bytes, 64 * KIB, &vhdx_header(9, [1; 16], [9; 16]));
    refused(
        &files.write("dirty", &bytes),
        ErrorKind::Unsupported,
        &["not closed cleanly"],
    );
    // A torn write of the newer one leaves the older one.
    put(&mut bytes, 64 * KIB + 100, &[1]);
    assert!(content(&files.write("torn", &bytes)).unwrap() == plan().model(&[]));
}

#[test]
fn a_vhdx_with_a_bitmap_that_is_not_there_is_refused() {
    let files = Files::new();
    let parent = plan();
    let child = Plan::new(
        "k",
        3 * MIB,
        MIB,
        vec![Block::Some(3), Block::Absent, Block::Absent],
    );
    let child = child.over(&parent, &[("relative_path", "p.vhdx")]);
    files.write("p.vhdx", &parent.vhdx());
    let mut bytes = child.vhdx();
    content(&files.write("k.vhdx", &bytes)).unwrap();
    entry(&mut bytes, 4096, 0);
    refused(
        &files.write("k.vhdx", &bytes),
        BAD,
        &["the bitmap of its sectors is not there"],
    );
    // A linkage that is no GUID.
    let mut bytes = child.vhdx();
    let text: Vec<u8> = "parent_linkage"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let at = bytes.windows(text.len()).position(|w| w == text).unwrap();
    bytes[at] ^= 1;
    refused(
        &files.write("k.vhdx", &bytes),
        BAD,
        &["lacks a good parent_linkage"],
    );
}

fn vmdk(files: &Files, options: &str) -> Vec<u8> {
    let raw = files.write("raw", &disk());
    let path = files.path("made");
    tool(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "vmdk", "-o", options],
        &[&raw, &path],
    );
    fs::read(path).unwrap()
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

#[test]
fn a_vmdk_that_lies_is_refused() {
    let files = Files::new();
    let good = vmdk(&files, "subformat=monolithicSparse");
    let directory = long(&good, 56) as usize * 512;
    let table = word(&good, directory) * 512;
    let cases: &[Case<'_>] = &[
        (&|b| put(b, 4, &[9]), ErrorKind::Unsupported, "version 9"),
        (
            &|b| put(b, 9, &[0x80]),
            ErrorKind::Unsupported,
            "unknown features",
        ),
        (&|b| put(b, 73, b"\r"), BAD, "copied as text"),
        (
            &|b| put(b, 12, &[0xff; 8]),
            ErrorKind::Unsupported,
            "a disk of 18446744073709551615 sectors",
        ),
        (&|b| put(b, 12, &[0; 8]), BAD, "0 bytes"),
        (
            &|b| put(b, 20, &[0; 8]),
            BAD,
            "grains are said to have 0 bytes",
        ),
        (&|b| put(b, 20, &[0xff; 8]), BAD, "grains are said to have"),
        (
            &|b| put(b, 44, &[0; 4]),
            BAD,
            "grain tables are said to have 0 entries",
        ),
        (
            &|b| put(b, 44, &[0xff; 4]),
            BAD,
            "grain tables are said to have",
        ),
        (&|b| put(b, 56, &[0x7f; 8]), BAD, "grain directory"),
        (&|b| put(b, 56, &[0; 8]), BAD, "grain directory"),
        (&|b| put(b, 56, &[0xff; 8]), BAD, "no \"KDMV\""),
        (
            &|b| put(b, 36, &[0xff; 8]),
            BAD,
            "descriptor is said to have",
        ),
        (&|b| put(b, 28, &[0x7f; 8]), BAD, "the descriptor"),
        (&|b| put(b, directory, &[0xff; 4]), BAD, "grain table 0"),
        (
            &|b| put(b, table, &[0xff; 4]),
            BAD,
            "the grain of disk offset 0",
        ),
        (&|b| b.truncate(b.len() / 2), BAD, "cut short"),
        (&|b| b.truncate(300), BAD, "the header"),
    ];
    check_all("h.vmdk", &good, cases);
}

#[test]
fn a_stream_optimised_vmdk_that_lies_is_refused() {
    let files = Files::new();
    let good = vmdk(&files, "subformat=streamOptimized");
    let directory = long(&good, 56) as usize * 512;
    let grain = word(&good, word(&good, directory) * 512) * 512;
    let cases: &[Case<'_>] = &[
        (&|b| put(b, 77, &[2]), ErrorKind::Unsupported, "not deflate"),
        (&|b| put(b, grain, &[1]), BAD, "not of disk offset 0"),
        (&|b| put(b, grain + 8, &[0; 4]), BAD, "has 0 bytes"),
        (
            &|b| put(b, grain + 8, &[0xff; 4]),
            BAD,
            "has 4294967295 bytes",
        ),
        (
            &|b| put(b, grain + 8, &[5, 0, 0, 0]),
            BAD,
            "does not inflate",
        ),
        (&|b| put(b, grain + 20, &[0xff; 40]), BAD, "at file offset"),
        (&|b| put(b, 20, &8_u64.to_le_bytes()), BAD, "grain"),
    ];
    check_all("s.vmdk", &good, cases);
}

#[test]
fn a_vmdk_descriptor_that_lies_is_refused() {
    let files = Files::new();
    files.write("flat", &vec![1; 64 * KIB]);
    let text = |lines: &str| format!("# Disk DescriptorFile\nversion=1\n{lines}\n");
    let path = |lines: &str| -> PathBuf { files.write("d.vmdk", text(lines).as_bytes()) };
    let good = content(&path("RW 100 FLAT \"flat\" 28\nRW 28 ZERO")).unwrap();
    assert!(good[..100 * 512] == [1; 100 * 512] && good[100 * 512..] == [0; 28 * 512]);
    for (lines, kind, says) in [
        ("", BAD, "names no extent"),
        (
            "RW 100 FLAT \"flat\" 29",
            BAD,
            "bytes 14848+51200 are needed",
        ),
        ("RW 129 FLAT \"flat\" 0", BAD, "cut short"),
        ("RW 128 SPARSE \"flat\"", BAD, "no \"KDMV\""),
        ("RW 128 SPARSE \"d.vmdk\"", BAD, "the header"),
        (
            "RW 128 FLAT \"gone\" 0",
            ErrorKind::NotFound,
            "`gone` is not below",
        ),
        (
            "RW 99999999999999 ZERO",
            ErrorKind::Unsupported,
            "bytes in 1 extents",
        ),
        (
            "RW 8 SESPARSE \"flat\"",
            ErrorKind::Unsupported,
            "of kind SESPARSE",
        ),
        (
            &"RW 8 ZERO\n".repeat(600),
            ErrorKind::Unsupported,
            "513 extents",
        ),
    ] {
        refused(&path(lines), kind, &[says]);
    }
}

#[test]
fn a_format_that_the_file_has_not_is_refused() {
    use reveille::store::image::import::{self, Format};
    let files = Files::new();
    let raw = files.write("raw", &disk());
    for format in [Format::Vhd, Format::Vhdx, Format::Vmdk, Format::Qcow2] {
        let e = import::open(&raw, format).map(drop).unwrap_err();
        super::check(&e, BAD, Path::new("raw"), &[]);
    }
}
