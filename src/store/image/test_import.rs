//! Sources: raw files, and qcow2 files made by qemu-img (`tools/packages` installs it).

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::import::{self, Format};
use super::memory::MemoryDisk;
use super::*;
use crate::store::error::{Error, ErrorKind, Result};

const KIB: usize = 1024;

/// A disk of 3 MiB and a bit with text, noise, zeros, and a short last cluster.
fn disk() -> Vec<u8> {
    let mut bytes = vec![0; 3100 * KIB + 512];
    let mut noise = blake3::Hasher::new().update(b"disk").finalize_xof();
    for (from, len) in [
        (0, 70),
        (200, 1),
        (513, 128),
        (1024, 4),
        (2000, 600),
        (3099, 1),
    ] {
        noise.fill(&mut bytes[from * KIB..(from + len) * KIB]);
    }
    let end = bytes.len();
    bytes[end - 512..].fill(7);
    bytes[1500 * KIB..1900 * KIB].fill(b'a');
    bytes
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// Runs qemu-img, which must be installed.
fn qemu_img(args: &[&str], paths: &[&Path]) {
    let output = Command::new("qemu-img").args(args).args(paths).output();
    let output = output.expect("qemu-img must be installed (tools/packages does it)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A qcow2 of `bytes` made with further options.
fn qcow2(files: &Files, bytes: &[u8], options: &[&str]) -> PathBuf {
    let raw = files.write("raw", bytes);
    let out = files.path("qcow2");
    let args = [&["convert", "-f", "raw", "-O", "qcow2"], options].concat();
    qemu_img(&args, &[&raw, &out]);
    out
}

fn take(path: &Path) -> Result<(Arc<Image>, Imported)> {
    let store = ImageStore::open(Arc::new(MemoryDisk::default()))?;
    let mut source = import::open(path, Format::Auto)?;
    let done = store.import(&mut *source, &|_| {}, &AtomicBool::new(false))?;
    Ok((store.open_image(done.id)?, done))
}

fn content(path: &Path) -> Result<Vec<u8>> {
    let (image, _) = take(path)?;
    let mut bytes = vec![0; usize::try_from(image.size()).unwrap()];
    image.read(0, &mut bytes)?;
    Ok(bytes)
}

fn refusal(path: &Path) -> Error {
    import::open(path, Format::Auto).map(drop).unwrap_err()
}

/// The error is of this kind, is one line, names the file, and says these things.
fn check(e: &Error, kind: ErrorKind, path: &Path, says: &[&str]) {
    let text = e.to_string();
    assert_eq!(e.kind(), kind, "{text}");
    assert!(
        !text.contains('\n') && text.contains(path.to_str().unwrap()),
        "{text}"
    );
    for part in says {
        assert!(text.contains(part), "`{text}` lacks `{part}`");
    }
}

#[test]
fn a_sparse_raw_file_is_read_without_its_holes() {
    let files = Files::new();
    let path = files.path("raw");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(&[1; 4096], 500 << 20).unwrap();
    let (image, done) = take(&path).unwrap();
    assert_eq!(
        (done.chunks, done.new_chunks, done.zero_chunks),
        (16_384, 1, 16_383)
    );
    let mut out = [0; 4096];
    image.read(500 << 20, &mut out).unwrap();
    assert_eq!(out, [1; 4096]);
    assert!(image.is_zero(crate::units::ByteRange::new(0, 500 << 20).unwrap()));
}

#[test]
fn a_raw_file_is_imported_byte_for_byte() {
    let files = Files::new();
    assert!(content(&files.write("raw", &disk())).unwrap() == disk());
}

#[test]
fn what_is_no_disk_is_refused_in_one_line() {
    let files = Files::new();
    let path = files.path("nothing");
    check(
        &refusal(&path),
        ErrorKind::NotFound,
        &path,
        &["there is no such file"],
    );
    let path = files.0.path().to_owned();
    check(
        &refusal(&path),
        ErrorKind::InvalidFormat,
        &path,
        &["is a directory"],
    );
    let path = files.write("empty", b"");
    check(
        &refusal(&path),
        ErrorKind::InvalidFormat,
        &path,
        &["is empty"],
    );
    let path = PathBuf::from("/dev/null");
    check(
        &refusal(&path),
        ErrorKind::InvalidFormat,
        &path,
        &["neither a file nor a block device"],
    );
    let path = files.write("odd", &[1; 1536 + 100]);
    check(
        &refusal(&path),
        ErrorKind::InvalidFormat,
        &path,
        &["sector at offset 1536", "cut short"],
    );
}

#[test]
fn a_disk_beyond_the_bound_is_refused() {
    let files = Files::new();
    let path = files.path("huge");
    // Some file systems have no files this large: then there is nothing to refuse.
    if fs::File::create(&path)
        .unwrap()
        .set_len((1 << 44) + 512)
        .is_ok()
    {
        check(
            &refusal(&path),
            ErrorKind::Unsupported,
            &path,
            &["17592186044928"],
        );
    }
    let path = files.path("q");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&path, Path::new("17T")]);
    check(&refusal(&path), ErrorKind::Unsupported, &path, &["bytes"]);
}

#[test]
fn foreign_formats_are_recognised_and_not_taken_for_raw() {
    let files = Files::new();
    for (name, magic, kind, says) in [
        ("vhdx", &b"vhdxfile"[..], ErrorKind::InvalidFormat, "VHDX"),
        (
            "vmdk",
            b"KDMV\x01\0\0\0",
            ErrorKind::InvalidFormat,
            "one extent",
        ),
        ("vhd", b"conectix", ErrorKind::InvalidFormat, "VHD"),
        ("gz", b"\x1f\x8b\x08\0", ErrorKind::InvalidFormat, "gzip"),
        ("xz", b"\xfd7zXZ\0", ErrorKind::InvalidFormat, "xz"),
        ("zst", b"\x28\xb5\x2f\xfd", ErrorKind::InvalidFormat, "zstd"),
        (
            "zip",
            b"PK\x03\x04",
            ErrorKind::Unsupported,
            "not supported; unpack",
        ),
        (
            "qed",
            b"QED\0",
            ErrorKind::Unsupported,
            "qemu-img convert -O raw",
        ),
    ] {
        let mut bytes = vec![0; 4096];
        bytes[..magic.len()].copy_from_slice(magic);
        let path = files.write(name, &bytes);
        check(&refusal(&path), kind, &path, &[says]);
        import::open(&path, Format::Raw).unwrap();
    }
    let path = files.write("raw", &disk());
    let e = import::open(&path, Format::Qcow2).map(drop).unwrap_err();
    check(
        &e,
        ErrorKind::InvalidFormat,
        &path,
        &["is not a qcow2 file"],
    );
    assert!("qcow".parse::<Format>().is_err());
}

#[test]
fn a_raw_file_that_is_shorter_than_its_partition_table_says_is_refused() {
    let files = Files::new();
    let mut bytes = vec![0; 4 << 20];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0]);
    content(&files.write("whole", &bytes)).unwrap();
    let path = files.write("short", &bytes[..2 << 20]);
    let says = [
        "ends at offset 2097152",
        "needs 3145728 bytes",
        "--format raw",
    ];
    check(&refusal(&path), ErrorKind::InvalidFormat, &path, &says);
    import::open(&path, Format::Raw).unwrap();
}

#[test]
fn a_file_that_shrinks_or_changes_while_it_is_read_is_refused() {
    let files = Files::new();
    let path = files.write("raw", &vec![1; 1 << 20]);
    let store = ImageStore::open(Arc::new(MemoryDisk::default())).unwrap();
    let no = AtomicBool::new(false);
    let mut source = import::open(&path, Format::Auto).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(300_032)
        .unwrap();
    let e = store.import(&mut *source, &|_| {}, &no).unwrap_err();
    check(
        &e,
        ErrorKind::InvalidFormat,
        &path,
        &["ends at offset 300032"],
    );
    let mut source = import::open(&path, Format::Auto).unwrap();
    fs::File::options()
        .append(true)
        .open(&path)
        .unwrap()
        .set_len(600_064)
        .unwrap();
    let e = store.import(&mut *source, &|_| {}, &no).unwrap_err();
    check(&e, ErrorKind::Busy, &path, &["changed while it was read"]);
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn every_kind_of_qcow2_gives_the_bytes_that_went_in() {
    let model = disk();
    let variants: [&[&str]; 9] = [
        &[],
        &["-c"],
        &["-o", "compat=0.10"],
        &["-c", "-o", "compat=0.10,cluster_size=4096"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-c", "-o", "cluster_size=512"],
        &["-c", "-o", "cluster_size=2M"],
        &["-S", "0", "-o", "preallocation=metadata,lazy_refcounts=on"],
    ];
    for options in variants {
        let files = Files::new();
        let path = qcow2(&files, &model, options);
        let (image, done) = take(&path).unwrap();
        let mut bytes = vec![0; model.len()];
        image.read(0, &mut bytes).unwrap();
        assert!(bytes == model, "{options:?}");
        // The same disk has the same identity, whatever file it came in.
        let raw = take(&files.path("raw")).unwrap().1;
        assert_eq!(done.id, raw.id, "{options:?}");
    }
}

#[test]
fn zero_clusters_and_writes_over_compressed_ones_are_read_as_qemu_reads_them() {
    let files = Files::new();
    let path = qcow2(&files, &disk(), &["-c"]);
    let commands = [
        "write -z 64k 128k",
        "write -P 9 600k 100k",
        "discard 2M 256k",
        "write -z -u 1M 64k",
    ];
    for command in commands {
        let out = Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", command])
            .arg(&path)
            .output()
            .expect("qemu-io must be installed (tools/packages does it)");
        assert!(out.status.success());
    }
    let raw = files.path("again");
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw"], &[&path, &raw]);
    let model = fs::read(&raw).unwrap();
    assert!(model != disk());
    assert!(content(&path).unwrap() == model);
}

#[test]
fn a_qcow2_without_any_data_is_an_empty_disk() {
    let files = Files::new();
    let path = files.path("q");
    qemu_img(&["create", "-q", "-f", "qcow2"], &[&path, Path::new("10G")]);
    let (image, done) = take(&path).unwrap();
    assert_eq!((image.size(), done.new_chunks), (10 << 30, 0));
}

#[test]
fn what_a_qcow2_needs_beyond_itself_is_refused_with_the_way_out() {
    let files = Files::new();
    let raw = files.write("raw", &disk());
    let base = raw.to_str().unwrap();
    let path = files.path("q");
    let create = |options: &[&str]| {
        let args = [&["create", "-q", "-f", "qcow2"], options].concat();
        qemu_img(&args, &[&path, Path::new("4M")]);
    };
    create(&["-b", base, "-F", "raw"]);
    let says = ["backing file", base, "qemu-img convert"];
    check(&refusal(&path), ErrorKind::Unsupported, &path, &says);
    create(&["-o", &format!("data_file={}", files.path("data").display())]);
    check(
        &refusal(&path),
        ErrorKind::Unsupported,
        &path,
        &["external file", "qemu-img convert"],
    );
    create(&["-o", "extended_l2=on,cluster_size=64k"]);
    check(
        &refusal(&path),
        ErrorKind::Unsupported,
        &path,
        &["extended L2", "qemu-img convert"],
    );
    create(&["-o", "compression_type=zstd"]);
    check(
        &refusal(&path),
        ErrorKind::Unsupported,
        &path,
        &["compression", "qemu-img convert"],
    );
    create(&[]);
    for (byte, at, says) in [
        (1, 79, "dirty"),
        (2, 79, "corrupt"),
        (1, 72, "unknown"),
        (1, 35, "encrypted"),
    ] {
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] |= byte;
        let path = files.write("bits", &bytes);
        check(
            &refusal(&path),
            ErrorKind::Unsupported,
            &path,
            &[says, "qemu-img"],
        );
    }
    let mut bytes = fs::read(&path).unwrap();
    bytes[7] = 1;
    let path = files.write("old", &bytes);
    check(
        &refusal(&path),
        ErrorKind::Unsupported,
        &path,
        &["version 1", "qemu-img convert"],
    );
}

#[test]
fn header_fields_that_cannot_be_are_refused() {
    let files = Files::new();
    let good = qcow2(&files, &disk(), &[]);
    let good = fs::read(good).unwrap();
    for (at, value, says) in [
        (20, &22_u32.to_be_bytes()[..], "cluster_bits"),
        (20, &8_u32.to_be_bytes(), "cluster_bits"),
        (36, &0_u32.to_be_bytes(), "l1_size"),
        (36, &u32::MAX.to_be_bytes(), "l1_size"),
        (40, &123_u64.to_be_bytes(), "L1 table"),
        (40, &(1_u64 << 40).to_be_bytes(), "ends at offset"),
        (48, &(u64::MAX << 16).to_be_bytes(), "ends at offset"),
        (56, &0_u32.to_be_bytes(), "refcount"),
        (24, &0_u64.to_be_bytes(), "empty"),
        (24, &513_u64.to_be_bytes(), "sector"),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        let path = files.write("bad", &bytes);
        check(&refusal(&path), ErrorKind::InvalidFormat, &path, &[says]);
    }
}

#[test]
fn a_qcow2_that_was_cut_short_is_refused_with_the_offset() {
    for options in [&[][..], &["-c"], &["-o", "compat=0.10,cluster_size=4096"]] {
        let files = Files::new();
        let path = qcow2(&files, &disk(), options);
        let good = fs::read(&path).unwrap();
        for part in 0..40 {
            let len = good.len() * part / 40 / 512 * 512;
            let path = files.write("cut", &good[..len.max(104)]);
            let e = refusal(&path);
            check(
                &e,
                ErrorKind::InvalidFormat,
                &path,
                &["cut short", &format!("ends at offset {}", len.max(104))],
            );
        }
    }
}

/// What a flipped bit in the first clusters does: any outcome but a panic.
fn survives(good: &[u8], flips: &[(prop::sample::Index, u8)], within: usize) {
    let files = Files::new();
    let mut bytes = good.to_vec();
    for (at, bit) in flips {
        bytes[at.index(within.min(good.len()))] ^= 1_u8 << (bit % 8);
    }
    let path = files.write("flipped", &bytes);
    let Ok(mut source) = import::open(&path, Format::Auto) else {
        return;
    };
    // A flipped size can be large; what matters happens in the first part.
    let size = source.size().min(8 << 20);
    let mut at = 0;
    while at < size {
        let Ok(extent) = source.next_extent(at) else {
            return;
        };
        let end = extent.range.end().min(size);
        assert!(end > at);
        if extent.kind == ExtentKind::Data {
            let mut out = vec![0; usize::try_from((end - at).min(1 << 20)).unwrap()];
            let _ = source.read_at(at, &mut out);
        }
        at = end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_flipped_bits_in_a_qcow2_make_it_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        packed in any::<bool>(),
        within in prop::sample::select(vec![104_usize, 512, 1 << 30]),
    ) {
        let options: &[&str] = match packed {
            true => &["-c", "-o", "cluster_size=4096"],
            false => &["-o", "cluster_size=4096"],
        };
        let files = Files::new();
        let good = fs::read(qcow2(&files, &disk()[..700 * KIB], options)).unwrap();
        survives(&good, &flips, within);
    }
}
