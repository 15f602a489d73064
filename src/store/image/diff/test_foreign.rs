//! NTFS and XFS, made and changed by Linux (`tests/fixtures/file-systems/make`), against what it said of them.

use std::collections::BTreeMap;
use std::io::Read;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::content::{Held, Stream};
use super::files::{Kind, Tree, reader};
use super::test::{Files, bytes, differ, images, pairs, paths, side, text, tool};
use super::window::Window;
use super::{Difference, FileDifference};
use crate::store::disk_memory::Sparse;

fn fixture(name: &str) -> Vec<u8> {
    let top = env!("CARGO_MANIFEST_DIR");
    std::fs::read(format!("{top}/tests/fixtures/file-systems/{name}")).unwrap()
}

fn disk(name: &str) -> Vec<u8> {
    let packed = fixture(&format!("{name}.zst"));
    let mut whole = Vec::new();
    let mut reader = ruzstd::decoding::StreamingDecoder::new(&packed[..]).unwrap();
    reader.read_to_end(&mut whole).unwrap();
    whole
}

fn tree(file_system: &str, bytes: &[u8]) -> Box<dyn Tree> {
    let mut disk = Sparse::default();
    disk.write(0, bytes);
    let open = reader(file_system).unwrap();
    open(Window::in_memory(disk)).unwrap()
}

/// Bytes of a stream.
fn content(tree: &dyn Tree, stream: &Stream) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(stream.size).unwrap()];
    match &stream.held {
        Held::Here(bytes) => out.copy_from_slice(bytes),
        Held::There(extents) => extents.read(tree.window(), 0, &mut out).unwrap(),
    }
    out
}

/// Kind, size, time and digest of every path, as the fixture's list has them.
fn listed(tree: &dyn Tree, time_unit: fn(&[u64; 4]) -> u64) -> BTreeMap<String, [String; 4]> {
    let names = tree.names().unwrap();
    let mut list = BTreeMap::new();
    for (path, item) in names.iter() {
        let path = String::from_utf8(path.clone()).unwrap();
        let none = || "-".to_owned();
        let line = match item.kind {
            Kind::Directory => ["d".into(), none(), none(), none()],
            Kind::Link => ["l".into(), none(), none(), none()],
            Kind::Other => ["o".into(), none(), none(), none()],
            Kind::File => {
                let streams = tree.streams(item).unwrap().unwrap();
                let digest = Sha256::digest(content(tree, &streams[0]));
                let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
                let (size, time) = (item.size, time_unit(&item.attributes));
                ["f".into(), size.to_string(), time.to_string(), hex]
            }
        };
        list.insert(path, line);
    }
    list
}

fn expected(name: &str) -> BTreeMap<String, [String; 4]> {
    let text = String::from_utf8(fixture(&format!("{name}.list"))).unwrap();
    let line = |line: &str| {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let [kind, size, time, digest, path] = words[..] else {
            panic!("{line}");
        };
        (
            path.to_owned(),
            [kind, size, time, digest].map(str::to_owned),
        )
    };
    text.lines().map(line).collect()
}

fn agree(seen: &BTreeMap<String, [String; 4]>, wanted: &BTreeMap<String, [String; 4]>) {
    for (path, line) in wanted {
        assert_eq!(seen.get(path), Some(line), "{path}");
    }
    let more: Vec<_> = seen
        .keys()
        .filter(|path| !wanted.contains_key(*path))
        .collect();
    assert!(more.is_empty(), "{more:?}");
}

/// Seconds since 1970 of a count of 100 nanoseconds since 1601.
fn windows_seconds(attributes: &[u64; 4]) -> u64 {
    attributes[1] / 10_000_000 - 11_644_473_600
}

#[test]
fn every_file_of_an_xfs_is_as_linux_says() {
    for name in ["xfs5-before", "xfs5-after"] {
        let tree = tree("xfs", &disk(name));
        agree(&listed(&*tree, |a| a[2]), &expected(name));
        assert_eq!(tree.notes(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn every_file_of_an_xfs_of_version_4_is_there() {
    let tree = tree("xfs", &disk("xfs4"));
    let mut seen = listed(&*tree, |a| a[2]);
    for line in seen.values_mut() {
        line[2] = "-".into();
    }
    agree(&seen, &expected("xfs4"));
}

#[test]
fn every_file_of_an_ntfs_is_as_linux_says() {
    for name in ["ntfs-before", "ntfs-after"] {
        let tree = tree("ntfs", &disk(name));
        let mut seen = listed(&*tree, windows_seconds);
        let mut wanted = expected(name);
        // What is compressed is compared as it is stored, not unpacked.
        let packed = wanted.remove("/packed/file").unwrap();
        let stored = seen.remove("/packed/file").unwrap();
        assert_eq!(packed[..3], stored[..3]);
        agree(&seen, &wanted);
        assert_eq!(tree.notes(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn links_of_xfs_lead_where_they_were_made_to() {
    let tree = tree("xfs", &disk("xfs5-before"));
    let names = tree.names().unwrap();
    let target = |path: &str| {
        let (_, item) = names
            .iter()
            .find(|(p, _)| p.as_slice() == path.as_bytes())
            .unwrap();
        assert_eq!(item.kind, Kind::Link);
        content(&*tree, &tree.streams(item).unwrap().unwrap()[0])
    };
    assert_eq!(target("/link"), b"short");
    let long = "path says nothing much".repeat(50);
    assert!(long.as_bytes().starts_with(&target("/etc/long-link")));
    assert!(target("/etc/long-link").len() > 800);
}

fn told(found: &Difference) -> &FileDifference {
    let part = &found.parts[0];
    part.files
        .as_ref()
        .unwrap_or_else(|| panic!("{:?}", part.untold))
}

const LONG: &str = "/many/a file with a rather long name so that few fit into a block, number 7";

#[test]
fn files_of_xfs_are_told() {
    let images = images();
    let (before, after) = (disk("xfs5-before"), disk("xfs5-after"));
    let (old, new) = (side(&images, before), side(&images, after));
    let found = differ(&old, &new);
    assert_eq!(found.parts[0].file_system, "xfs");
    let files = told(&found);
    assert_eq!(
        paths(&files.added),
        pairs(&[("/many/7", ""), ("/usr/lib/added", "")])
    );
    assert_eq!(paths(&files.removed), pairs(&[("/gone", ""), (LONG, "")]));
    let changed = pairs(&[
        ("/etc/hosts", "content"),
        ("/etc/hosts.link", "content"),
        ("/etc/same-time", "content"),
        ("/link", "content"),
        ("/pieces", "content"),
        ("/usr/lib/deep/deeper/middle", "content"),
        ("/usr/lib/large", "attributes"),
    ]);
    assert_eq!(paths(&files.changed), changed);
    assert_eq!(files.notes, Vec::<String>::new());
}

#[test]
fn files_of_ntfs_are_told() {
    let images = images();
    let (before, after) = (disk("ntfs-before"), disk("ntfs-after"));
    let (old, new) = (side(&images, before), side(&images, after));
    let found = differ(&old, &new);
    assert_eq!(found.parts[0].file_system, "ntfs");
    let files = told(&found);
    assert_eq!(
        paths(&files.added),
        pairs(&[("/many/7", ""), ("/usr/lib/added", "")])
    );
    assert_eq!(paths(&files.removed), pairs(&[("/gone", ""), (LONG, "")]));
    let changed = pairs(&[
        ("/etc/hosts", "content"),
        ("/etc/hosts.link", "content"),
        // Its own bytes are the same, those of a second stream are not.
        ("/etc/hosts.stream", "content"),
        ("/etc/same-time", "content"),
        ("/pieces", "content"),
        ("/usr/lib/deep/deeper/middle", "content"),
        ("/usr/lib/large", "attributes"),
    ]);
    assert_eq!(paths(&files.changed), changed);
    assert_eq!(files.notes, Vec::<String>::new());
}

#[test]
fn an_xfs_that_was_running_is_told_with_a_note() {
    let images = images();
    let (old, new) = (
        side(&images, disk("xfs5-after")),
        side(&images, disk("xfs5-running")),
    );
    let found = differ(&old, &new);
    let files = told(&found);
    assert_eq!(files.notes.len(), 1, "{:?}", files.notes);
    assert!(files.notes[0].starts_with("the second disk: the log was not closed"));
    let found = differ(&new, &old);
    assert!(told(&found).notes[0].starts_with("the first disk: the log"));
}

#[test]
fn an_ntfs_in_use_or_marked_as_damaged_is_told_with_a_note() {
    let good = disk("ntfs-before");
    let notes = |bytes: &[u8]| tree("ntfs", bytes).notes();
    // The log is empty; a restart page with one client in use takes the place of its first page.
    let mut used = good.clone();
    let log = good
        .windows(4096)
        .step_by(4096)
        .position(|page| page.iter().all(|b| *b == 0xff));
    let log = log.unwrap() * 4096;
    used[log..log + 64].fill(0);
    used[log..log + 4].copy_from_slice(b"RSTR");
    used[log + 24] = 48;
    used[log + 48..log + 56].copy_from_slice(&77_u64.to_le_bytes());
    assert!(
        notes(&used)[0].contains("journal was in use"),
        "{:?}",
        notes(&used)
    );
    used[log + 62] = 2;
    assert_eq!(notes(&used), Vec::<String>::new());
    used[log + 62] = 0;
    used[log + 60..log + 62].fill(0xff);
    assert_eq!(notes(&used), Vec::<String>::new());
}

#[test]
fn a_flipped_bit_in_an_xfs_inode_is_told_not_believed() {
    let mut bytes = disk("xfs5-before");
    let inode = bytes
        .windows(2)
        .step_by(512)
        .skip(64)
        .position(|two| two == b"IN")
        .unwrap()
        + 64;
    // The size of the first inode, the root directory's.
    bytes[inode * 512 + 60] ^= 1;
    let images = images();
    let found = differ(&side(&images, disk("xfs5-before")), &side(&images, bytes));
    let why = found.parts[0].untold.as_deref().unwrap();
    assert!(
        why.contains("XFS: inode") && why.contains("is damaged"),
        "{why}"
    );
}

impl Files {
    fn ntfs_put(&self, disk: &str, content: &[u8], name: &str) {
        let from = self.put("content", content);
        tool(&["ntfscp", "-q", "-f", disk, text(&from), name]);
    }
}

#[test]
fn files_that_ntfscp_writes_are_told() {
    let files = Files::new();
    let disk = files.path("ntfs");
    std::fs::write(&disk, vec![0; 4 << 20]).unwrap();
    let name = text(&disk);
    let line = [
        "mkntfs", "-F", "-q", "-Q", "-s", "512", "-p", "0", "-H", "0", "-S", "0", "-c", "512", name,
    ];
    tool(&line);
    files.ntfs_put(name, b"one", "small");
    files.ntfs_put(name, &[7; 90_000], "large");
    files.ntfs_put(name, &[9; 30_000], "kept");
    let before = bytes(&disk);
    files.ntfs_put(name, b"two", "small");
    let mut large = vec![7; 90_000];
    large[50_000] = 8;
    files.ntfs_put(name, &large, "large");
    files.ntfs_put(name, b"new", "added");
    let images = images();
    let (old, new) = (side(&images, before), side(&images, bytes(&disk)));
    let found = differ(&old, &new);
    let files = told(&found);
    assert_eq!(paths(&files.added), pairs(&[("/added", "")]));
    assert_eq!(paths(&files.removed), pairs(&[]));
    let changed = pairs(&[("/large", "content"), ("/small", "content")]);
    assert_eq!(paths(&files.changed), changed);
}

#[test]
fn what_mkfs_xfs_is_told_to_put_in_is_found() {
    let files = Files::new();
    let text_of = |names: &[(&str, &str)]| {
        let line = |(name, from): &(&str, &str)| {
            let from = files.put(from, from.as_bytes());
            format!("{name} ---644 3 4 {}\n", text(&from))
        };
        let lines: String = names.iter().map(line).collect();
        format!("/dev/null\n0 0\nd--755 0 0\netc d--755 0 0\n{lines}$\nlink l--777 0 0 etc/a\n$\n")
    };
    let make = |name: &str, names: &[(&str, &str)]| {
        let proto = files.put("proto", text_of(names).as_bytes());
        let disk = files.path(name);
        std::fs::File::create(&disk)
            .unwrap()
            .set_len(16 << 20)
            .unwrap();
        // mkfs.xfs makes none of less than 300 MB but for tests, which it knows by these.
        let mkfs = "TEST_DIR=/x TEST_DEV=/x QA_CHECK_FS=1 exec mkfs.xfs -q -f -p";
        tool(&[
            "sh",
            "-c",
            &format!("{mkfs} {} {}", text(&proto), text(&disk)),
        ]);
        bytes(&disk)
    };
    let before = make("before", &[("a", "one"), ("b", "two"), ("c", "three")]);
    let after = make("after", &[("a", "one"), ("b", "TWO"), ("d", "three")]);
    let images = images();
    let found = differ(&side(&images, before), &side(&images, after));
    let files = told(&found);
    assert_eq!(files.looked_at, 10);
    assert_eq!(paths(&files.added), pairs(&[("/etc/d", "")]));
    assert_eq!(paths(&files.removed), pairs(&[("/etc/c", "")]));
    let content: Vec<_> = files
        .changed
        .iter()
        .filter(|f| f.what == "content")
        .collect();
    assert_eq!(content.len(), 1, "{content:?}");
    assert_eq!(content[0].path, "/etc/b");
}

/// Disks, and the sectors of each in which something stands.
fn specimens() -> &'static [(Sparse, Vec<usize>)] {
    static ALL: std::sync::OnceLock<Vec<(Sparse, Vec<usize>)>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let one = |name: &str| {
            let bytes = disk(name);
            let mut disk = Sparse::default();
            disk.set_len(bytes.len() as u64);
            let varied = |(_, sector): &(usize, &[u8])| sector.iter().any(|b| *b != sector[0]);
            let sectors = bytes.chunks(512).enumerate().filter(varied);
            let places = sectors.map(|(number, sector)| {
                disk.write(number as u64 * 512, sector);
                number
            });
            let places = places.collect();
            (disk, places)
        };
        ["ntfs-before", "xfs4", "xfs5-before"].map(one).to_vec()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// At worst an error that says why; here only that there is an end without a panic.
    #[test]
    fn damaged_ntfs_and_xfs_end_in_an_answer(
        which in 0..3_usize,
        places in prop::collection::vec((any::<prop::sample::Index>(), 0..512_u64, any::<u8>()), 1..40),
    ) {
        let (good, sectors) = &specimens()[which];
        let mut bad = good.clone();
        for (sector, at, byte) in places {
            // Boot sector and superblock one time in many, or nothing else would ever be reached.
            let number = sectors[sector.index(sectors.len())] as u64;
            bad.write(number * 512 + at, &[byte]);
        }
        let _ = super::fuzzing::files(good.clone(), bad.clone());
        let _ = super::fuzzing::files(bad, good.clone());
    }
}
