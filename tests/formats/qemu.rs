//! Files that `qemu-img` makes, in every variant that it knows.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use reveille::store::ErrorKind;
use reveille::store::image::ExtentKind;

use super::{Files, by_qemu, check_anywhere, content, disk, drain, noise, open, refused, tool};
use crate::build::{mend_vhd_footer, put};

/// Our name, qemu's name, options.
const VARIANTS: [(&str, &str, &str); 17] = [
    ("vhd", "vpc", "subformat=dynamic"),
    ("vhd", "vpc", "subformat=dynamic,force_size=on"),
    ("vhd", "vpc", "subformat=fixed"),
    ("vhd", "vpc", "subformat=fixed,force_size=on"),
    ("vhdx", "vhdx", "subformat=dynamic"),
    ("vhdx", "vhdx", "subformat=dynamic,block_size=1M"),
    (
        "vhdx",
        "vhdx",
        "subformat=dynamic,block_size=32M,log_size=2M",
    ),
    ("vhdx", "vhdx", "subformat=dynamic,block_state_zero=off"),
    ("vhdx", "vhdx", "subformat=fixed"),
    ("vmdk", "vmdk", "subformat=monolithicSparse"),
    ("vmdk", "vmdk", "subformat=monolithicSparse,zeroed_grain=on"),
    ("vmdk", "vmdk", "subformat=monolithicSparse,compat6=on"),
    ("vmdk", "vmdk", "subformat=monolithicFlat"),
    ("vmdk", "vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vmdk", "vmdk", "subformat=streamOptimized"),
    ("qcow2", "qcow2", "compat=1.1"),
];

fn convert(files: &Files, raw: &Path, qemu: &str, options: &str, name: &str) -> PathBuf {
    let out = files.path(name);
    let args = ["convert", "-f", "raw", "-O", qemu, "-o", options];
    tool("qemu-img", &args, &[raw, &out]);
    out
}

#[test]
fn every_variant_is_read_as_qemu_reads_it() {
    for (nth, (name, qemu, options)) in VARIANTS.into_iter().enumerate() {
        let files = Files::new();
        let raw = files.write("raw", &disk());
        // By content, never by name.
        let path = convert(&files, &raw, qemu, options, &format!("disk{nth}.bin"));
        let expected = by_qemu(&path, qemu);
        let found = content(&path).unwrap_or_else(|e| panic!("{options}: {e}"));
        assert!(found == expected, "{qemu} {options} differs");
        assert!(expected.starts_with(&disk()), "{qemu} {options} lost bytes");
        check_anywhere(&mut *open(&path).unwrap(), &expected);
        let named = reveille::store::image::import::open(&path, name.parse().unwrap());
        assert_eq!(named.unwrap().size(), expected.len() as u64);
    }
}

/// A disk of 3 GiB, larger than an extent of a split VMDK, with data at some places only.
fn sparse(files: &Files) -> (PathBuf, Vec<(u64, Vec<u8>)>) {
    let path = files.path("raw");
    let file = fs::File::create(&path).unwrap();
    file.set_len(3 << 30).unwrap();
    let places = [
        0,
        (1 << 30) + 512,
        (2 << 30) - 4096,
        (2 << 30) + 65_536,
        (3 << 30) - 8192,
    ];
    let data = places.map(|at| {
        let mut bytes = vec![0; 8192];
        noise(&at.to_string(), &mut bytes);
        file.write_all_at(&bytes, at).unwrap();
        (at, bytes)
    });
    (path, data.to_vec())
}

#[test]
fn zeros_of_a_large_disk_are_not_read() {
    for (_, qemu, options) in VARIANTS {
        if options.contains("fixed") || options.contains("Flat") {
            // All of it is there, and holes of the file are not looked for.
            continue;
        }
        let files = Files::new();
        let (raw, data) = sparse(&files);
        let path = convert(&files, &raw, qemu, options, "disk");
        let mut source = open(&path).unwrap();
        let (mut at, mut read) = (0, 0);
        while at < source.size() {
            let extent = source.next_extent(at).unwrap();
            if extent.kind == ExtentKind::Data {
                read += extent.range.end().min(source.size()) - at;
            }
            at = extent.range.end();
        }
        // Six blocks at most, of 32 MiB at most.
        assert!(
            read <= 6 << 25,
            "{options}: {read} bytes are said to be data"
        );
        for (at, bytes) in data {
            let mut out = vec![0; bytes.len()];
            source.read_at(at, &mut out).unwrap();
            assert!(out == bytes, "{qemu} {options} at {at}");
            // VirtualPC rounds the size up.
            assert!(source.size() >= 3 << 30 && source.size() < (3 << 30) + (16 << 20));
        }
    }
}

/// Which size counts depends on who made the disk: QEMU's table, asked of QEMU itself.
#[test]
fn the_size_of_a_vhd_is_the_one_that_qemu_takes_for_each_creator() {
    let creators: [&[u8; 4]; 9] = [
        b"vpc ",
        b"qemu",
        b"qem2",
        b"win ",
        b"d2v ",
        b"tap\0",
        b"CTXS",
        b"vs  ",
        b"\0\0\0\0",
    ];
    for subformat in [
        "subformat=fixed,force_size=on",
        "subformat=dynamic,force_size=on",
    ] {
        let files = Files::new();
        let raw = files.write("raw", &disk());
        let path = convert(&files, &raw, "vpc", subformat, "vhd");
        let mut bytes = fs::read(&path).unwrap();
        let mut sizes = Vec::new();
        for creator in creators {
            // A geometry that is smaller than the size.
            for footer in [0, bytes.len() - 512] {
                if bytes[footer..].starts_with(b"conectix") {
                    put(&mut bytes, footer + 28, creator);
                    put(&mut bytes, footer + 56, &[0, 100, 4, 17]);
                    mend_vhd_footer(&mut bytes[footer..]);
                }
            }
            fs::write(&path, &bytes).unwrap();
            let found = content(&path).unwrap();
            assert!(
                found == by_qemu(&path, "vpc"),
                "{:?}",
                std::str::from_utf8(creator)
            );
            sizes.push(found.len());
        }
        sizes.sort_unstable();
        sizes.dedup();
        assert_eq!(sizes, [100 * 4 * 17 * 512, disk().len()], "{subformat}");
    }
}

#[test]
fn a_footer_of_511_bytes_is_a_footer() {
    let files = Files::new();
    let raw = files.write("raw", &disk());
    let path = convert(&files, &raw, "vpc", "subformat=fixed,force_size=on", "vhd");
    let bytes = fs::read(&path).unwrap();
    let old = files.write("old", &bytes[..bytes.len() - 1]);
    assert!(content(&old).unwrap() == disk());
}

#[test]
fn a_stream_optimised_vmdk_with_its_directory_at_the_end_is_read() {
    let files = Files::new();
    let raw = files.write("raw", &disk());
    let path = convert(&files, &raw, "vmdk", "subformat=streamOptimized", "vmdk");
    let expected = by_qemu(&path, "vmdk");
    // As VMware writes it: the header says "at the end", where a copy of it has the place.
    let mut bytes = fs::read(&path).unwrap();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let mut header = bytes[..512].to_vec();
    if header[56..64] == [0xff; 8] {
        let footer = bytes.len() - 1024;
        header = bytes[footer..footer + 512].to_vec();
    }
    put(&mut bytes, 56, &[0xff; 8]);
    let mut marker = vec![0; 512];
    put(&mut marker, 0, &1_u64.to_le_bytes());
    put(&mut marker, 12, &3_u32.to_le_bytes());
    bytes.extend([marker, header, vec![0; 512]].concat());
    let path = files.write("at-end", &bytes);
    assert!(content(&path).unwrap() == expected);
    assert!(
        by_qemu(&path, "vmdk") == expected,
        "qemu-img takes it for another disk"
    );
}

#[test]
fn extents_of_a_vmdk_are_not_imported_alone() {
    let files = Files::new();
    let raw = files.write("raw", &disk());
    convert(
        &files,
        &raw,
        "vmdk",
        "subformat=twoGbMaxExtentSparse",
        "split.vmdk",
    );
    let part = files.path("split-s001.vmdk");
    refused(
        &part,
        ErrorKind::InvalidFormat,
        &["one extent of a disk", "text file"],
    );
    fs::remove_file(&part).unwrap();
    let says = ["split-s001.vmdk", "is not below", "--parents"];
    refused(&files.path("split.vmdk"), ErrorKind::NotFound, &says);
}

#[test]
fn differences_to_a_parent_that_a_vmdk_or_qcow2_has_are_refused() {
    let files = Files::new();
    let raw = files.write("raw", &disk());
    for (qemu, options) in [
        ("vmdk", "subformat=monolithicSparse"),
        ("qcow2", "compat=1.1"),
    ] {
        let base = convert(&files, &raw, qemu, options, &format!("base.{qemu}"));
        let child = files.path(&format!("child.{qemu}"));
        let args = ["create", "-q", "-f", qemu, "-F", qemu, "-b"];
        tool("qemu-img", &args, &[&base, &child]);
        let text = refused(
            &child,
            ErrorKind::Unsupported,
            &["only the difference to its"],
        );
        assert!(text.contains("qemu-img convert"), "{text}");
    }
}

#[test]
fn formats_that_are_not_read_are_refused_with_the_way_out() {
    let files = Files::new();
    let raw = files.write("raw", &disk());
    for qemu in ["vdi", "qed"] {
        let path = files.path(qemu);
        tool(
            "qemu-img",
            &["convert", "-f", "raw", "-O", qemu],
            &[&raw, &path],
        );
        refused(&path, ErrorKind::Unsupported, &["qemu-img convert -O raw"]);
    }
}

#[test]
fn a_qcow2_is_still_read_whole() {
    let files = Files::new();
    let raw = files.write("raw", &disk());
    let path = convert(&files, &raw, "qcow2", "compat=0.10", "q");
    assert!(drain(&mut *open(&path).unwrap()).unwrap() == disk());
}
