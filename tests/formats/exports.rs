//! Exports: what other programs make of them, and that they come back as the same image.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::image::{ExportFormat, ImageStore, Source};
use reveille::store::{ErrorKind, ImageId};

use super::{Files, MIB, by_qemu, disk, noise, open, tool};

const FORMATS: [(&str, &str); 4] = [
    ("raw", "raw"),
    ("qcow2", "qcow2"),
    ("vhd", "vpc"),
    ("vhdx", "vhdx"),
];

fn store() -> ImageStore {
    ImageStore::open(Arc::new(MemoryDisk::new())).unwrap()
}

fn import(store: &ImageStore, mut source: Box<dyn Source>) -> ImageId {
    let no = AtomicBool::new(false);
    store.import(&mut *source, &|_| {}, &no).unwrap().id
}

fn export(files: &Files, store: &ImageStore, id: ImageId, format: &str, name: &str) -> PathBuf {
    let path = files.path(name);
    let format: ExportFormat = format.parse().unwrap();
    let mut sink = format.create(&path, id).unwrap();
    store
        .export(id, &mut *sink, &|_| {}, &AtomicBool::new(false))
        .unwrap();
    path
}

/// Exports in all formats, asks qemu-img about each, and imports each again.
fn check_round_trip(bytes: &[u8]) {
    let (files, store) = (Files::new(), store());
    let raw = files.write("in", bytes);
    let format = reveille::store::image::import::Format::Raw;
    let id = import(
        &store,
        reveille::store::image::import::open(&raw, format).unwrap(),
    );
    for (ours, qemu) in FORMATS {
        let path = export(&files, &store, id, ours, ours);
        if qemu != "raw" && qemu != "vpc" {
            tool("qemu-img", &["check", "-q", "-f", qemu], &[&path]);
        }
        tool(
            "qemu-img",
            &["compare", "-q", "-f", qemu, "-F", "raw"],
            &[&path, &raw],
        );
        assert!(
            by_qemu(&path, qemu) == bytes,
            "{ours} of {} bytes",
            bytes.len()
        );
        let again = match ours {
            "raw" => reveille::store::image::import::open(&path, format),
            _ => open(&path),
        };
        assert_eq!(
            import(&store, again.unwrap()),
            id,
            "{ours} of {} bytes",
            bytes.len()
        );
        assert!(!files.path(&format!("{ours}.partial")).exists());
    }
}

#[test]
fn exports_are_what_qemu_reads_and_come_back_as_the_same_image() {
    check_round_trip(&disk());
}

#[test]
fn disks_of_odd_sizes_come_back_as_they_were() {
    for size in [
        512,
        4096,
        65_536,
        65_537 * 512,
        2 * MIB,
        2 * MIB + 512,
        33 * MIB - 512,
    ] {
        let mut bytes = vec![0; size];
        noise("odd", &mut bytes[..512]);
        noise("end", &mut bytes[size - 512..]);
        check_round_trip(&bytes);
    }
}

#[test]
fn a_disk_of_zeros_is_exported_without_data() {
    let (files, store) = (Files::new(), store());
    let raw = files.path("in");
    fs::File::create(&raw).unwrap().set_len(200 << 30).unwrap();
    let id = import(&store, open(&raw).unwrap());
    for (ours, qemu) in FORMATS {
        let path = export(&files, &store, id, ours, ours);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap());
        assert!(blocks * 512 < 3 << 20, "{ours}: {blocks} blocks");
        let info = tool("qemu-img", &["info", "--output=json", "-f", qemu], &[&path]);
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        assert_eq!(info["virtual-size"], 200_u64 << 30, "{ours}");
        assert_eq!(import(&store, open(&path).unwrap()), id, "{ours}");
    }
}

/// More tables than one, and data in the last of each.
#[test]
fn large_disks_with_little_data_are_exported_right() {
    let (files, store) = (Files::new(), store());
    let raw = files.path("in");
    let file = fs::File::create(&raw).unwrap();
    file.set_len((9 << 30) + 512).unwrap();
    for at in [
        0,
        (512 << 20) - 4096,
        512 << 20,
        (4 << 30) - 512,
        4 << 30,
        (9 << 30) - 100,
    ] {
        let mut bytes = [0; 612];
        noise(&format!("{at}"), &mut bytes);
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, at).unwrap();
    }
    let id = import(&store, open(&raw).unwrap());
    for (ours, qemu) in FORMATS {
        let path = export(&files, &store, id, ours, ours);
        if qemu == "qcow2" || qemu == "vhdx" {
            tool("qemu-img", &["check", "-q", "-f", qemu], &[&path]);
        }
        tool(
            "qemu-img",
            &["compare", "-q", "-f", qemu, "-F", "raw"],
            &[&path, &raw],
        );
        assert_eq!(import(&store, open(&path).unwrap()), id, "{ours}");
    }
}

#[test]
fn the_same_image_gives_the_same_file() {
    let (files, store) = (Files::new(), store());
    let id = import(&store, open(&files.write("in", &disk())).unwrap());
    for (ours, _) in FORMATS {
        let one = fs::read(export(&files, &store, id, ours, "one")).unwrap();
        let two = fs::read(export(&files, &store, id, ours, "two")).unwrap();
        assert!(one == two, "{ours}");
        fs::remove_file(files.path("one")).unwrap();
        fs::remove_file(files.path("two")).unwrap();
    }
}

#[test]
fn an_export_that_fails_leaves_nothing_and_harms_nothing() {
    let (files, store) = (Files::new(), store());
    let id = import(&store, open(&files.write("in", &disk())).unwrap());
    for (ours, _) in FORMATS {
        let format: ExportFormat = ours.parse().unwrap();
        let path = files.path("out");
        let mut sink = format.create(&path, id).unwrap();
        // Only one at a time.
        let e = format.create(&path, id).map(drop).unwrap_err();
        assert!(e.to_string().contains("out.partial is there"), "{e}");
        let stop = AtomicBool::new(true);
        let e = store.export(id, &mut *sink, &|_| {}, &stop).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Cancelled);
        drop(sink);
        // Somebody else makes a file of that name meanwhile.
        let mut sink = format.create(&path, id).unwrap();
        fs::write(&path, "mine").unwrap();
        let e = store
            .export(id, &mut *sink, &|_| {}, &AtomicBool::new(false))
            .unwrap_err();
        assert!(e.to_string().contains("exists already"), "{e}");
        drop(sink);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(format.create(&path, id).is_err());
        fs::remove_file(&path).unwrap();
        let left: Vec<_> = fs::read_dir(files.dir()).unwrap().collect();
        assert_eq!(left.len(), 1, "{ours}: {left:?}");
    }
}

#[test]
fn a_disk_that_a_vhd_cannot_hold_is_refused_before_anything_is_written() {
    let format: ExportFormat = "vhd".parse().unwrap();
    format.check_size(2040 << 30).unwrap();
    let e = format.check_size((2040 << 30) + 512).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("write it as vhdx"), "{e}");
    assert!(
        "vmdk"
            .parse::<ExportFormat>()
            .unwrap_err()
            .contains("raw, qcow2, vhd or vhdx")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6) })]
    #[test]
    fn random_disks_come_back(
        sectors in 1_usize..20_000,
        runs in prop::collection::vec((0_usize..20_000, 1_usize..400), 0..12),
    ) {
        let mut bytes = vec![0; sectors * 512];
        for (from, len) in runs {
            let from = from % sectors;
            let end = (from + len).min(sectors);
            noise(&format!("{from}"), &mut bytes[from * 512..end * 512]);
        }
        check_round_trip(&bytes);
    }
}
