//! Compressed raw disks.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use reveille::store::ErrorKind;
use reveille::store::image::import::{self, Format, Options};

use super::{Files, KIB, MIB, check_anywhere, content, disk, open, refused, tool};

const BAD: ErrorKind = ErrorKind::InvalidFormat;
const TOOLS: [(&str, &[&str]); 6] = [
    ("gzip", &["-c"]),
    ("gzip", &["-1", "-c"]),
    ("xz", &["-c"]),
    ("xz", &["-9", "--check=sha256", "-c"]),
    ("zstd", &["-q", "-c"]),
    ("zstd", &["-q", "--ultra", "-22", "--long=27", "-c"]),
];

fn pack(files: &Files, (name, args): (&str, &[&str]), bytes: &[u8]) -> Vec<u8> {
    let raw = files.write("raw", bytes);
    tool(name, args, &[&raw])
}

#[test]
fn a_packed_disk_is_its_unpacked_bytes() {
    let files = Files::new();
    for packer in TOOLS {
        // By content, never by name.
        let path = files.write("disk.img", &pack(&files, packer, &disk()));
        assert!(content(&path).unwrap() == disk(), "{packer:?}");
        let mut source = open(&path).unwrap();
        check_anywhere(&mut *source, &disk());
    }
}

#[test]
fn members_streams_and_frames_are_one_disk() {
    let files = Files::new();
    let whole = disk();
    let (front, back) = whole.split_at(3 * MIB);
    for packer in TOOLS {
        let parts = [front, &[], back].map(|part| pack(&files, packer, part));
        let mut bytes = parts.concat();
        let path = files.write("many", &bytes);
        assert!(content(&path).unwrap() == disk(), "{packer:?}");
        if packer.0 != "zstd" {
            // Padding that the format allows: of zeros, in xz of whole words.
            bytes.extend([0; 1024]);
            assert!(
                content(&files.write("padded", &bytes)).unwrap() == disk(),
                "{packer:?}"
            );
        }
    }
    // zstd has frames to skip.
    let skip = [&b"\x50\x2a\x4d\x18\x05\0\0\0hello"[..]; 1].concat();
    let good = pack(&files, TOOLS[4], &disk());
    let path = files.write("skip", &[good.clone(), skip.clone()].concat());
    assert!(content(&path).unwrap() == disk());
    refused(
        &files.write("skip", &[&good[..], &skip[..9]].concat()),
        BAD,
        &["zstd", "cut short"],
    );
}

#[test]
fn packed_disks_that_are_cut_short_damaged_or_followed_by_garbage_are_refused() {
    let files = Files::new();
    for packer in TOOLS {
        let good = pack(&files, packer, &disk());
        for len in [good.len() - 1, good.len() - 9, good.len() / 2, 20, 7] {
            refused(
                &files.write("cut", &good[..len]),
                BAD,
                &[packer.0, "copy it again"],
            );
        }
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x10;
        refused(&files.write("bad", &bad), BAD, &[packer.0, "copy it again"]);
        // In the checksum itself (of xz: the end of the last block lies before index and footer).
        let mut bad = good.clone();
        let at = bad.len() - if packer.0 == "xz" { 30 } else { 6 };
        bad[at] ^= 1;
        if packer.0 != "zstd" {
            refused(&files.write("sum", &bad), BAD, &[packer.0]);
        }
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        refused(&files.write("last", &bad), BAD, &[packer.0]);
        let more = [
            &good[..],
            b"garbage after the end, more than a header of anything",
        ]
        .concat();
        refused(&files.write("more", &more), BAD, &[packer.0]);
    }
}

#[test]
fn other_formats_in_a_packed_file_are_refused() {
    let files = Files::new();
    let raw = files.write("disk", &disk());
    for (qemu, says) in [
        ("qcow2", "qcow2"),
        ("vhdx", "VHDX"),
        ("vpc", "VHD"),
        ("vmdk", "VMDK"),
    ] {
        let made = files.path(qemu);
        tool(
            "qemu-img",
            &["convert", "-f", "raw", "-O", qemu],
            &[&raw, &made],
        );
        let path = files.write("packed", &tool("gzip", &["-c"], &[&made]));
        let says = [&format!("holds a {says} file") as &str, "unpack it first"];
        refused(&path, ErrorKind::Unsupported, &says);
    }
    let args = ["convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed"];
    let made = files.path("fixed");
    tool("qemu-img", &args, &[&raw, &made]);
    let path = files.write("packed", &tool("zstd", &["-q", "-c"], &[&made]));
    refused(&path, ErrorKind::Unsupported, &["holds a VHD file"]);
    let twice = files.write("once", &pack(&files, TOOLS[0], &disk()));
    let path = files.write("twice", &tool("xz", &["-c"], &[&twice]));
    refused(&path, ErrorKind::Unsupported, &["holds a gzip file"]);
}

#[test]
fn what_is_packed_must_be_a_whole_disk() {
    let files = Files::new();
    let path = files.write("empty", &pack(&files, TOOLS[0], &[]));
    refused(&path, BAD, &["0 bytes"]);
    let path = files.write("odd", &pack(&files, TOOLS[2], &[1; 1000]));
    refused(&path, BAD, &["1000 bytes"]);
    let mut short = vec![0; 2 * MIB];
    short[510..512].copy_from_slice(&[0x55, 0xaa]);
    short[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
    let path = files.write("short", &pack(&files, TOOLS[4], &short));
    refused(&path, BAD, &["its partition table needs 3145728 bytes"]);
}

/// 1 GiB of zeros, a hundred times: far more than any memory here, in a file of some KiB.
fn bomb(files: &Files) -> PathBuf {
    let raw = files.path("zeros");
    std::fs::File::create(&raw)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let one = tool("zstd", &["-q", "-c"], &[&raw]);
    assert!(one.len() < 100 * KIB);
    files.write("bomb", &one.repeat(100))
}

#[test]
fn unpacking_ends_when_it_is_cancelled() {
    let files = Files::new();
    let path = bomb(&files);
    let cancel = AtomicBool::new(false);
    let steps = AtomicU64::new(0);
    let progress = |step: reveille::store::image::Progress| {
        assert!(step.done <= step.total, "{step:?}");
        if steps.fetch_add(1, Ordering::Relaxed) == 20 {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let options = Options {
        format: Format::Auto,
        parents: None,
        progress: &progress,
        cancel: &cancel,
    };
    let e = import::open_with(&path, &options).map(drop).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Cancelled);
    assert_eq!(steps.load(Ordering::Relaxed), 21);
}

#[test]
fn a_decoder_that_asks_for_much_memory_is_refused() {
    let files = Files::new();
    // A window of 2 GiB, and a dictionary of nearly 4 GiB.
    let zstd = [&b"\x28\xb5\x2f\xfd\x04\xa8"[..], &[0; 64]].concat();
    refused(&files.write("zstd", &zstd), BAD, &["zstd"]);
    let mut xz = pack(&files, TOOLS[2], &disk());
    // The properties of LZMA2 in the first block's header, and that header's checksum.
    assert_eq!(xz[14..16], [0x21, 1]);
    xz[16] = 40;
    let end = 12 + (usize::from(xz[12]) + 1) * 4;
    let sum = crc32(&xz[12..end - 4]);
    xz[end - 4..end].copy_from_slice(&sum.to_le_bytes());
    let text = refused(&files.write("xz", &xz), BAD, &["xz"]);
    assert!(text.contains("memory"), "{text}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[test]
fn packed_bytes_can_be_imported_as_they_are_when_that_is_said() {
    let files = Files::new();
    let mut bytes = pack(&files, TOOLS[0], &disk());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let path: &Path = &files.write("gz", &bytes);
    let source = import::open(path, Format::Raw).unwrap();
    assert_eq!(source.size(), bytes.len() as u64);
}
