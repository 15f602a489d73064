//! Real file systems, made and changed by the tools that everybody uses.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::store::image::ImageStore;
use crate::store::image::memory::MemoryDisk;
use crate::store::image::test::{Plain, run};

const MIB: usize = 1 << 20;

pub(super) fn tool(line: &[&str]) {
    let done = Command::new(line[0]).args(&line[1..]).output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line:?}: {told}");
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(super) fn images() -> ImageStore {
    ImageStore::open(Arc::new(MemoryDisk::default())).unwrap()
}

pub(super) fn side(images: &ImageStore, bytes: Vec<u8>) -> Side {
    let done = run(images, &mut Plain { bytes, grain: 4096 }).unwrap();
    Side::Image(images.open_image(done.id).unwrap())
}

pub(super) fn differ(before: &Side, after: &Side) -> Difference {
    difference(before, after, true, &|_| {}, &AtomicBool::new(false)).unwrap()
}

pub(super) fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

pub(super) struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// An ext4 of 8 MiB and the same after someone worked in it.
    fn ext4(&self) -> (Vec<u8>, Vec<u8>) {
        self.put("tree/etc/hosts", b"one\n");
        self.put("tree/etc/same-size", b"aaaa");
        self.put("tree/usr/large", &[7; 300_000]);
        self.put("tree/gone", b"x");
        self.put("tree/kept", &[5; 9_000]);
        let (tree, disk) = (self.path("tree"), self.path("ext4"));
        std::fs::write(&disk, vec![0; 8 * MIB]).unwrap();
        tool(&["mkfs.ext4", "-q", "-F", "-d", text(&tree), text(&disk)]);
        let before = bytes(&disk);
        let new = self.put("new", b"bbbb");
        let (disk, new) = (text(&disk), text(&new));
        tool(&["debugfs", "-w", "-R", "rm /gone", disk]);
        tool(&["debugfs", "-w", "-R", "rm /etc/same-size", disk]);
        let into = format!("write {new} /etc/same-size");
        tool(&["debugfs", "-w", "-R", &into, disk]);
        tool(&[
            "debugfs",
            "-w",
            "-R",
            &format!("write {new} /usr/added"),
            disk,
        ]);
        tool(&["debugfs", "-w", "-R", "sif /kept mode 0100600", disk]);
        (before, bytes(&self.path("ext4")))
    }

    fn fat(&self, bits: &str, mib: usize) -> (Vec<u8>, Vec<u8>) {
        let disk = self.path("fat");
        std::fs::write(&disk, vec![0; mib * MIB]).unwrap();
        tool(&["mkfs.vfat", "-F", bits, text(&disk)]);
        let mtool = |line: &[&str]| {
            let all = [&[line[0], "-i", text(&disk)], &line[1..]].concat();
            tool(&all);
        };
        let small = self.put("small", b"aaaa");
        let large = self.put("large", &[3; 200_000]);
        mtool(&["mmd", "::EFI", "::EFI/debian"]);
        mtool(&["mcopy", text(&large), "::EFI/debian/a rather long name.efi"]);
        mtool(&["mcopy", text(&small), "::EFI/GRUB.CFG"]);
        mtool(&["mcopy", text(&small), "::EFI/gone.txt"]);
        let before = bytes(&disk);
        let other = self.put("other", b"bbbb");
        mtool(&["mdel", "::EFI/gone.txt", "::EFI/GRUB.CFG"]);
        mtool(&["mcopy", text(&other), "::EFI/GRUB.CFG"]);
        mtool(&["mcopy", text(&other), "::EFI/debian/newcomer.efi"]);
        (before, bytes(&disk))
    }
}

pub(super) fn paths(list: &[FileChange]) -> Vec<(String, String)> {
    let one = |file: &FileChange| (file.path.clone(), file.what.clone());
    list.iter().map(one).collect()
}

pub(super) fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(a, b)| ((*a).into(), (*b).into()))
        .collect()
}

#[test]
fn files_of_ext4_are_told() {
    let (before, after) = Files::new().ext4();
    let images = images();
    let (old, new) = (side(&images, before.clone()), side(&images, after));
    let found = differ(&old, &new);
    assert_eq!(found.parts.len(), 1);
    let part = &found.parts[0];
    assert_eq!((part.number, part.file_system.as_str()), (0, "ext4"));
    assert!(part.differing_chunks > 0 && part.differing_chunks == found.differing_chunks);
    let files = part
        .files
        .as_ref()
        .unwrap_or_else(|| panic!("{:?}", part.untold));
    assert_eq!(paths(&files.added), pairs(&[("/usr/added", "")]));
    assert_eq!(paths(&files.removed), pairs(&[("/gone", "")]));
    let changed = pairs(&[("/etc/same-size", "content"), ("/kept", "attributes")]);
    assert_eq!(paths(&files.changed), changed);
    let back = differ(&new, &old);
    assert_eq!(
        back.parts[0].files.as_ref().unwrap().removed[0].path,
        "/usr/added"
    );
    let none = differ(&old, &side(&images, before));
    assert_eq!(none.differing_chunks, 0);
    assert_eq!(none.parts[0].files, Some(FileDifference::default()));
}

#[test]
fn files_of_every_fat_are_told() {
    for (bits, mib) in [("12", 4), ("16", 16), ("32", 40)] {
        let (before, after) = Files::new().fat(bits, mib);
        let images = images();
        let found = differ(&side(&images, before), &side(&images, after));
        let part = &found.parts[0];
        assert_eq!(part.file_system, "fat", "FAT{bits}");
        let files = part
            .files
            .as_ref()
            .unwrap_or_else(|| panic!("{:?}", part.untold));
        assert_eq!(
            paths(&files.added),
            pairs(&[("/EFI/debian/newcomer.efi", "")]),
            "FAT{bits}"
        );
        assert_eq!(
            paths(&files.removed),
            pairs(&[("/EFI/gone.txt", "")]),
            "FAT{bits}"
        );
        assert_eq!(
            paths(&files.changed),
            pairs(&[("/EFI/GRUB.CFG", "content")]),
            "FAT{bits}"
        );
        // /EFI, /EFI/debian and what lies in them.
        assert_eq!(files.looked_at, 5 + 5, "FAT{bits}");
    }
}

#[test]
fn differences_are_told_by_partition_and_what_cannot_be_told_has_a_reason() {
    let files = Files::new();
    let disk = files.path("disk");
    std::fs::write(&disk, vec![0; 32 * MIB]).unwrap();
    let table = files.put("table", b"label: gpt\nsize=8M\nsize=8M\nsize=8M\n");
    let line = format!("sfdisk -q {} < {}", text(&disk), text(&table));
    tool(&["sh", "-c", &line]);
    let (old, new) = files.ext4();
    let mut before = bytes(&disk);
    let mut after = before.clone();
    before[MIB..9 * MIB].copy_from_slice(&old);
    after[MIB..9 * MIB].copy_from_slice(&new);
    before[9 * MIB..9 * MIB + 6].copy_from_slice(b"LUKS\xba\xbe");
    after[9 * MIB..9 * MIB + 6].copy_from_slice(b"LUKS\xba\xbe");
    after[10 * MIB] = 1;
    after[20 * MIB] = 1;
    after[446] = 1;
    let images = images();
    let found = differ(&side(&images, before), &side(&images, after));
    assert_eq!((found.chunks, found.outside_chunks), (512, 1));
    assert_eq!(found.parts.len(), 3);
    let [one, two, three] = &found.parts[..] else {
        panic!()
    };
    assert_eq!((one.number, one.file_system.as_str()), (1, "ext4"));
    assert_eq!(one.files.as_ref().unwrap().added.len(), 1);
    assert_eq!(
        (two.file_system.as_str(), two.differing_chunks),
        ("luks", 1)
    );
    let why = two.untold.as_deref().unwrap();
    assert!(why.contains("encrypted"), "{two:?}");
    assert_eq!(three.differing_chunks, 1);
    assert!(three.untold.as_deref().unwrap().contains("no file system"));
    let sum: u64 = found.parts.iter().map(|part| part.differing_chunks).sum();
    assert_eq!(sum + found.outside_chunks, found.differing_chunks);
}

#[test]
fn disks_of_two_sizes_are_compared_to_the_longer_end() {
    let images = images();
    let short = side(&images, vec![3; 2 * MIB]);
    let long = side(&images, vec![3; 3 * MIB]);
    for (before, after) in [(&short, &long), (&long, &short)] {
        let found = differ(before, after);
        assert_eq!((found.chunks, found.differing_chunks), (48, 16));
        assert_eq!(found.differing_bytes, MIB as u64);
    }
}

/// Damage anywhere in a file system is told, at worst as a partition whose files cannot be told.
fn harm(good: &[u8], places: &[(prop::sample::Index, u8)]) {
    let images = images();
    let old = side(&images, good.to_vec());
    let mut bad = good.to_vec();
    for (at, byte) in places {
        // The tables are at the front: that is where harm is done.
        let front = bad.len().min(400_000);
        bad[at.index(front)] = *byte;
    }
    let new = side(&images, bad);
    for found in [differ(&old, &new), differ(&new, &old)] {
        assert_eq!(found.parts.len(), 1, "{found:?}");
    }
}

fn specimens() -> &'static [Vec<u8>] {
    static ALL: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let files = Files::new();
        vec![files.ext4().0, files.fat("12", 4).0, files.fat("16", 16).0]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn damaged_file_systems_end_in_an_answer(
        which in 0..3_usize,
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
    ) {
        harm(&specimens()[which], &places);
    }
}
