//! Files of every format, frozen: what an earlier program wrote must be read bit for bit by every later one, and
//! what this program writes for the same input may not change without a new version of the format.
//!
//! The files in `tests/fixtures/` are texts: each line holds 32 bytes of a file in hexadecimal, or a run of one
//! byte or of one word of eight; what no line names is zero. They were written by `every_format_has_its_fixture`
//! below, which never replaces one:
//!
//! ```text
//! REVEILLE_FIXTURES=write cargo test --test fixtures every_format
//! ```

#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

mod layer_model;

use layer_model::{BOOT, Golden, NEXT_BOOT, SECTORS, golden, sectors};
use reveille::head::{Head, HeadOptions};
use reveille::names::NodeName;
use reveille::store::disk::{Disk, OpenMode};
use reveille::store::disk_crash::CrashDisk;
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::image::ImageStore;
use reveille::store::{Durability, ErrorKind, LayerId, LayerStore, Volume, VolumeSpec};
use reveille::trace::{Op, OpKind, Session, Trace};
use reveille::units::ByteRange;

type Files = BTreeMap<String, Vec<u8>>;

// --- the texts ---

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn encode(files: &Files) -> String {
    let mut out = String::new();
    for (path, bytes) in files {
        writeln!(out, "file {path} {}", bytes.len()).unwrap();
        let mut at = 0;
        while at < bytes.len() {
            let hex = |bytes: &[u8]| -> String {
                bytes.iter().map(|byte| format!("{byte:02x}")).collect()
            };
            let run = [1, 8].map(|unit| (unit, alike(&bytes[at..], unit)));
            if let Some((unit, count)) = run.into_iter().find(|(unit, count)| unit * count >= 32) {
                let word = &bytes[at..at + unit];
                if word != [0] {
                    writeln!(out, "{at:x} {count}*{}", hex(word)).unwrap();
                }
                at += unit * count;
                continue;
            }
            let line = &bytes[at..bytes.len().min(at + 32)];
            writeln!(out, "{at:x} {}", hex(line)).unwrap();
            at += line.len();
        }
    }
    out
}

/// How often the first `unit` bytes are repeated, themselves counted.
fn alike(bytes: &[u8], unit: usize) -> usize {
    let mut words = bytes.chunks_exact(unit);
    let first = words.next();
    first.map_or(0, |first| {
        1 + words.take_while(|word| *word == first).count()
    })
}

fn decode(text: &str) -> Files {
    let mut files = Files::new();
    let mut last = String::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        if let Some(rest) = line.strip_prefix("file ") {
            let (path, len) = rest.split_once(' ').unwrap();
            files.insert(path.to_owned(), vec![0; len.parse().unwrap()]);
            path.clone_into(&mut last);
            continue;
        }
        let (at, what) = line.split_once(' ').unwrap();
        let at = usize::from_str_radix(at, 16).unwrap();
        let byte = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
        let word = |hex: &str| -> Vec<u8> {
            (0..hex.len() / 2)
                .map(|n| byte(&hex[2 * n..2 * n + 2]))
                .collect()
        };
        let bytes = match what.split_once('*') {
            Some((count, hex)) => word(hex).repeat(count.parse().unwrap()),
            None => word(what),
        };
        files.get_mut(&last).unwrap()[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    files
}

#[test]
fn the_texts_hold_every_byte() {
    let mut files = Files::new();
    files.insert("a".into(), vec![0; 100]);
    files.insert(
        "b/c".into(),
        [vec![1; 40], vec![0; 33], vec![2, 3, 4]].concat(),
    );
    files.insert("d".into(), Vec::new());
    files.insert("e".into(), [1, 2, 3, 4, 5, 6, 7, 8].repeat(9));
    assert!(decode(&encode(&files)) == files);
}

fn read(name: &str) -> Files {
    decode(&std::fs::read_to_string(fixture(name)).unwrap())
}

fn files_of(disk: &MemoryDisk) -> Files {
    let (files, _) = disk.parts();
    let whole = |bytes: reveille::store::disk_memory::Sparse| {
        let mut out = vec![0; usize::try_from(bytes.len()).unwrap()];
        assert!(bytes.read(0, &mut out));
        out
    };
    files
        .into_iter()
        .map(|(path, bytes)| (path, whole(bytes)))
        .collect()
}

fn disk_of(files: &Files) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for (path, bytes) in files {
        if let Some((dir, _)) = path.rsplit_once('/') {
            let mut made = String::new();
            for part in dir.split('/') {
                made = if made.is_empty() {
                    part.into()
                } else {
                    format!("{made}/{part}")
                };
                disk.create_dir(&made).unwrap();
            }
        }
        let file = disk.open(path, OpenMode::CreateNew).unwrap();
        file.write_at(0, bytes).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }
    disk
}

/// The same files, or the first that differs.
fn assert_same(found: &Files, wanted: &Files) {
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(wanted));
    for (path, bytes) in found {
        let wanted = &wanted[path];
        let at = bytes.iter().zip(wanted).position(|(a, b)| a != b);
        assert!(
            bytes == wanted,
            "{path} differs at byte {at:?}, {} and {} bytes",
            bytes.len(),
            wanted.len()
        );
    }
}

// --- images ---

/// Chunks of one byte each, so that the text stays small; 0 is zeros.
const IMAGES: [&[u8]; 2] = [&[1, 2, 0, 3, 3, 4], &[1, 5, 0, 0, 3, 6, 7, 7]];

fn plain(kinds: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = kinds.iter().flat_map(|kind| vec![*kind; 65_536]).collect();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

fn write_images() -> Files {
    let disk = MemoryDisk::new();
    let dir = tempfile::tempdir().unwrap();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = ImageStore::with_pack_slots(shared, 5).unwrap();
    for kinds in IMAGES {
        let path = dir.path().join("source.raw");
        std::fs::write(&path, plain(kinds)).unwrap();
        let mut source =
            reveille::store::image::import::open(&path, "raw".parse().unwrap()).unwrap();
        store
            .import(&mut *source, &|_| {}, &AtomicBool::new(false))
            .unwrap();
    }
    files_of(&disk)
}

#[test]
fn images_of_format_1_are_read_bit_for_bit() {
    let files = read("image-v1.txt");
    let disk: Arc<dyn Disk> = Arc::new(disk_of(&files));
    let store = ImageStore::open(disk).unwrap();
    let mut found: Vec<Vec<u8>> = Vec::new();
    for id in store.list().unwrap() {
        assert_eq!(
            store.verify(id, &|_| {}, &AtomicBool::new(false)).unwrap(),
            []
        );
        let image = store.open_image(id).unwrap();
        let mut bytes = vec![0xee; usize::try_from(image.size()).unwrap()];
        image.read(0, &mut bytes).unwrap();
        found.push(bytes);
    }
    let mut wanted = IMAGES.map(plain).to_vec();
    found.sort();
    wanted.sort();
    assert!(found == wanted);
}

#[test]
fn images_are_written_as_format_1_says() {
    assert_same(&write_images(), &read("image-v1.txt"));
}

// --- layers ---

fn layer_options() -> reveille::store::layer::Options {
    reveille::store::layer::Options {
        journal_bytes: 1 << 20,
        journal_step: 0,
        soft_bytes: 1 << 20,
        files_open: 8,
        background: false,
        ..Default::default()
    }
}

fn open_layers(disk: &MemoryDisk, boot: [u8; 16]) -> LayerStore {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (store, report) = LayerStore::open_with(disk, boot, layer_options()).unwrap();
    assert_eq!((report.damaged, report.notes), (vec![], vec![]));
    store
}

fn volume(store: &LayerStore, durability: Durability) -> Arc<Volume> {
    let spec = VolumeSpec {
        layer: LayerId(1),
        image: Arc::new(Golden),
        durability,
    };
    store.volume(spec).unwrap()
}

fn whole(volume: &Volume) -> Vec<u8> {
    let range = ByteRange::new(0, SECTORS * 512).unwrap();
    volume.read(range).unwrap().to_vec()
}

/// The same history on one layer; what a reader finds while the host is up, and after it went down.
fn write_layer(durability: Durability, atomic: bool) -> (Files, Vec<u8>, Vec<u8>) {
    let disk = MemoryDisk::new();
    let store = open_layers(&disk, BOOT);
    let node = volume(&store, durability);
    let write = |first: u64, count: u64, tag: u64| {
        node.write(first * 512, &sectors(tag, 0, first, count))
            .unwrap();
    };
    write(8, 16, 1);
    node.flush().unwrap();
    store.checkpoint().unwrap();
    write(3, 2, 2);
    if atomic {
        node.write_atomic(40 * 512, &sectors(3, 0, 40, 24)).unwrap();
    }
    node.unmap(ByteRange::new(64 * 512, 16 * 512).unwrap())
        .unwrap();
    node.flush().unwrap();
    let flushed = whole(&node);
    write(100, 8, 4);
    write(8, 1, 5);
    let last = whole(&node);
    // A kill: nothing is closed.
    let files = files_of(&disk);
    let mut after_cut = flushed;
    match durability {
        Durability::Volatile => golden().clone_into(&mut after_cut),
        // In a block that was there already: nobody says that it may not have arrived.
        Durability::Durable => after_cut[8 * 512..9 * 512].copy_from_slice(&last[8 * 512..9 * 512]),
    }
    (files, last, after_cut)
}

fn layer_files(atomic: bool) -> Files {
    let mut all = Files::new();
    for (name, durability) in [
        ("durable", Durability::Durable),
        ("volatile", Durability::Volatile),
    ] {
        let (files, _, _) = write_layer(durability, atomic);
        all.extend(
            files
                .into_iter()
                .map(|(path, bytes)| (format!("{name}/{path}"), bytes)),
        );
    }
    all
}

fn part(all: &Files, name: &str) -> Files {
    let mine = |(path, bytes): (&String, &Vec<u8>)| {
        path.strip_prefix(&format!("{name}/"))
            .map(|path| (path.to_owned(), bytes.clone()))
    };
    all.iter().filter_map(mine).collect()
}

fn layers_are_read(fixture: &str, atomic: bool) {
    let all = read(fixture);
    for (name, durability) in [
        ("durable", Durability::Durable),
        ("volatile", Durability::Volatile),
    ] {
        let (_, up, down) = write_layer(durability, atomic);
        for (boot, wanted) in [(BOOT, up), (NEXT_BOOT, down)] {
            let disk = disk_of(&part(&all, name));
            let store = open_layers(&disk, boot);
            assert!(
                whole(&volume(&store, durability)) == wanted,
                "{name}, boot {boot:?}"
            );
        }
    }
}

/// The version in the first entry of a log: behind the frame's head of 32 bytes and the entry's kind.
fn layer_version(files: &Files) -> u8 {
    let journal = files.iter().find(|(path, _)| path.contains("/journal."));
    journal.unwrap().1[33]
}

#[test]
fn layers_of_format_1_are_read_bit_for_bit() {
    layers_are_read("layer-v1.txt", false);
}

#[test]
fn layers_of_format_2_are_read_bit_for_bit() {
    layers_are_read("layer-v2.txt", true);
}

#[test]
fn layers_of_format_3_are_read_bit_for_bit() {
    layers_are_read("layer-v3.txt", true);
}

#[test]
fn layers_are_written_as_their_format_says() {
    let files = layer_files(true);
    let name = format!("layer-v{}.txt", layer_version(&files));
    let path = fixture(&name);
    assert!(
        path.exists(),
        "a new format needs its fixture: see the head of this file"
    );
    assert_same(&files, &read(&name));
}

/// A durable layer whose sync failed, and the process killed: entry 13 is in its soft log.
fn write_poisoned() -> (Files, Vec<u8>) {
    let tape = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(tape.clone());
    let (store, _) = LayerStore::open_with(disk, BOOT, layer_options()).unwrap();
    let node = volume(&store, Durability::Durable);
    node.write(8 * 512, &sectors(1, 0, 8, 16)).unwrap();
    node.flush().unwrap();
    node.write(3 * 512, &sectors(2, 0, 3, 2)).unwrap();
    tape.fail_call(tape.calls(), std::io::ErrorKind::Other, false);
    assert_eq!(node.flush().unwrap_err().kind(), ErrorKind::Poisoned);
    let shown = whole(&node);
    (files_of(&tape.process_kill(tape.moment(), 0)), shown)
}

/// Layers that take no writes when the files are opened during this start of the host.
fn poisoned(files: &Files, boot: [u8; 16]) -> (Vec<LayerId>, LayerStore) {
    let disk: Arc<dyn Disk> = Arc::new(disk_of(files));
    let (store, report) = LayerStore::open_with(disk, boot, layer_options()).unwrap();
    assert_eq!((report.damaged, report.notes), (vec![], vec![]));
    (report.poisoned, store)
}

#[test]
fn a_poisoned_layer_of_format_3_is_read_as_one() {
    let files = read("layer-v3-poisoned.txt");
    // The frozen file really has the entry: kind 13, layer 1, generation 1.
    let entry = [13, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let has = |bytes: &Vec<u8>| bytes.windows(entry.len()).any(|at| at == entry);
    let soft = files.iter().filter(|(path, _)| path.contains("/soft."));
    assert_eq!(soft.filter(|(_, bytes)| has(bytes)).count(), 1);
    let (_, shown) = write_poisoned();
    let (found, store) = poisoned(&files, BOOT);
    assert_eq!(found, [LayerId(1)]);
    let node = volume(&store, Durability::Durable);
    assert!(whole(&node) == shown);
    let refused = node.write(0, &[1; 512]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Poisoned);
    let (found, store) = poisoned(&files, NEXT_BOOT);
    assert_eq!(found, [], "another start of the host ends it");
    let node = volume(&store, Durability::Durable);
    node.write(0, &[1; 512]).unwrap();
    node.flush().unwrap();
}

#[test]
fn a_poisoned_layer_is_written_as_format_3_says() {
    let (files, _) = write_poisoned();
    let name = format!("layer-v{}-poisoned.txt", layer_version(&files));
    assert_same(&files, &read(&name));
}

fn words(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The same logs with 1 for their version, every frame sealed anew, as programs of format 1 wrote them: format 2
/// added two kinds of entries, which are not in `files`. Written from docs/formats/layer.md alone.
fn as_format_1(files: &Files) -> Files {
    let mut out = files.clone();
    // Journals in their order, since each names the checksum of the last frame of the one before.
    let mut last_of_journal = BTreeMap::new();
    for (path, bytes) in &mut out {
        let Some(name) = path.split_once("layers/").map(|split| split.1) else {
            continue;
        };
        if name.starts_with("data/") {
            continue;
        }
        let (kind, number) = name.split_once('.').unwrap();
        let number: u32 = number.parse().unwrap();
        let store = path.split_once('/').unwrap().0.to_owned();
        let (mut at, mut previous, mut first) = (0, 0, true);
        while at + 32 <= bytes.len() && &bytes[at..at + 4] == b"RVLF" {
            let len = usize::try_from(words(bytes, at + 4)).unwrap();
            bytes[at + 20..at + 24].copy_from_slice(&u32::to_le_bytes(previous));
            if first {
                assert_eq!(bytes[at + 32], 1, "a header comes first");
                bytes[at + 33] = 1;
                let before = number
                    .checked_sub(1)
                    .and_then(|n| last_of_journal.get(&(store.clone(), n)));
                if let (Some(crc), "journal") = (before, kind) {
                    // Kind, version, boot id, next generation, end before: 34 bytes.
                    bytes[at + 66..at + 70].copy_from_slice(&u32::to_le_bytes(*crc));
                }
            }
            let sum = crc32c::crc32c(&bytes[at..at + 28]);
            let sum = crc32c::crc32c_append(sum, &bytes[at + 32..at + 32 + len]);
            bytes[at + 28..at + 32].copy_from_slice(&sum.to_le_bytes());
            (at, previous, first) = (at + 32 + len, sum, false);
        }
        if kind == "journal" {
            last_of_journal.insert((store, number), previous);
        }
    }
    out
}

// --- a whole state directory ---

fn ask<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn head_options(boot: &str) -> HeadOptions {
    HeadOptions {
        host_boot_id: Some(boot.into()),
        foreground: true,
        ..HeadOptions::default()
    }
}

fn write_state() -> Files {
    let disk = MemoryDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = tempfile::tempdir().unwrap();
    let head = Head::open_on(&shared, &head_options("first")).unwrap();
    for kinds in IMAGES {
        let path = dir.path().join("golden.raw");
        std::fs::write(&path, plain(kinds)).unwrap();
        let import = serde_json::json!({"path": path, "name": "debian12", "format": "raw", "arch": "x86_64",
            "note": "frozen", "tags": ["stable"]});
        head.image_import(&ask(import), &|_| {}, &AtomicBool::new(false))
            .unwrap();
    }
    let kept = serde_json::json!({"nodes": "node[1-2]", "image": "debian12:stable", "mode": "persistent",
        "mac": "52:54:00:00:00:01", "ip": "10.0.0.1"});
    head.nodes_add(&ask(kept)).unwrap();
    let fresh = serde_json::json!({"nodes": "rack3-n04", "image": "debian12:1", "power": "ipmi {node} {action}",
        "disk": ["512n"]});
    head.nodes_add(&ask(fresh)).unwrap();
    for (node, byte) in [("node1", 0xa1), ("rack3-n04", 0xa2)] {
        let attached = head.attach(&NodeName::parse(node).unwrap(), true).unwrap();
        attached.volume.write(8192, &[byte; 5000]).unwrap();
        attached.volume.flush().unwrap();
    }
    head.put_campaign(1, r#"{"wave":25}"#).unwrap();
    head.close();
    drop(head);
    files_of(&disk)
}

/// The catalog's records as JSON, one to a line: what the file holds, whatever redb makes of it.
fn records(head: &Head) -> String {
    let now = head.snapshot();
    let line = |value: serde_json::Result<String>| value.unwrap() + "\n";
    let nodes = now.nodes().map(|n| line(serde_json::to_string(&**n)));
    let images = now.images().map(|i| line(serde_json::to_string(&**i)));
    let bindings = now.bindings().map(|b| line(serde_json::to_string(&**b)));
    let campaigns = now.campaigns().map(|(id, text)| format!("{id} {text}\n"));
    nodes
        .chain(images)
        .chain(bindings)
        .chain(campaigns)
        .collect()
}

/// A record as it was and as it is: what is left out now is a default of then.
fn is_same_record(was: &str, now: &str) -> bool {
    let defaults = serde_json::json!({"mode": "ephemeral", "boot": "image", "loader": "auto"});
    let read = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    let (Some(was), Some(now)) = (read(was), read(now)) else {
        return was == now;
    };
    let fields = |value: &serde_json::Value| value.as_object().unwrap().clone();
    let kept = |(key, value): (&String, &serde_json::Value)| {
        now.get(key).or(defaults.get(key)) == Some(value)
    };
    fields(&was).iter().all(kept) && fields(&now).keys().all(|key| was.get(key).is_some())
}

#[test]
fn a_state_directory_of_format_1_is_served_bit_for_bit() {
    is_served("state-v1", is_same_record);
}

#[test]
fn a_state_directory_with_a_catalog_of_format_2_is_served_bit_for_bit() {
    is_served("state-v1-catalog-v2", |was, now| was == now);
}

fn is_served(name: &str, same: fn(&str, &str) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("state");
    for (path, bytes) in read(&format!("{name}.txt")) {
        let path = top.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::write(top.join("version"), "1\n").unwrap();
    let head = Head::open(&top, &head_options("first")).unwrap();
    let wanted = std::fs::read_to_string(fixture(&format!("{name}.records"))).unwrap();
    let found = records(&head);
    assert_eq!(wanted.lines().count(), found.lines().count());
    for (was, now) in wanted.lines().zip(found.lines()) {
        assert!(same(was, now), "was: {was}\nnow: {now}");
    }
    for (node, kinds, byte) in [("node1", IMAGES[1], 0xa1), ("rack3-n04", IMAGES[0], 0xa2)] {
        let attached = head.attach(&NodeName::parse(node).unwrap(), false).unwrap();
        let mut wanted = plain(kinds);
        wanted[8192..8192 + 5000].fill(byte);
        let range = ByteRange::new(0, wanted.len() as u64).unwrap();
        assert!(
            attached.volume.read(range).unwrap().to_vec() == wanted,
            "{node}"
        );
    }
    for label in ["debian12:1", "debian12:2"] {
        let verify = ask(serde_json::json!({"image": label}));
        let found = head
            .image_verify(&verify, &|_| {}, &AtomicBool::new(false))
            .unwrap();
        assert!(found.bad.is_empty());
    }
}

// --- making them ---

fn keep(name: &str, origin: &str, text: &str) {
    let path = fixture(name);
    if path.exists() {
        return;
    }
    let write = std::env::var_os("REVEILLE_FIXTURES").is_some_and(|word| word == "write");
    assert!(write, "{name} is missing: see the head of this file");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, format!("{origin}{text}")).unwrap();
    println!("{name} is new");
}

// --- traces ---

/// Every kind of line that a trace can have.
fn trace() -> Trace {
    let session = |initiator: &str, login_at_us, logout_at_us| Session {
        initiator: initiator.to_owned(),
        login_at_us,
        logout_at_us,
    };
    let op = |kind: OpKind, n: u32| Op {
        session: u16::from(n > 2),
        at_us: u64::from(n) * 1000,
        took_us: n * 7,
        kind,
        offset: u64::from(n) * 4096,
        len: if kind == OpKind::Flush { 0 } else { n * 512 },
        fua: kind.changes() && n.is_multiple_of(2),
    };
    Trace {
        about: vec![
            ("origin".to_owned(), "tests/fixtures.rs".to_owned()),
            ("note".to_owned(), "every kind of line".to_owned()),
        ],
        disk_bytes: 1 << 20,
        sessions: vec![
            session("firmware", 0, Some(2500)),
            session("os", 2600, None),
        ],
        ops: OpKind::ALL
            .into_iter()
            .chain(OpKind::ALL)
            .zip(1..)
            .map(|(kind, n)| op(kind, n))
            .collect(),
    }
}

#[test]
fn traces_of_format_1_are_read_bit_for_bit() {
    let files = read("trace-v1.txt");
    assert_eq!(Trace::read(&files["boot.trace.gz"]).unwrap(), trace());
}

/// The text, since another compressor may pack it otherwise.
#[test]
fn traces_are_written_as_format_1_says() {
    let files = read("trace-v1.txt");
    let text = std::str::from_utf8(&files["boot.trace"]).unwrap();
    assert_eq!(trace().text(), text);
}

#[test]
fn every_format_has_its_fixture() {
    let by = env!("CARGO_PKG_VERSION");
    let origin = |what: &str| format!("# {what}; reveille {by}, tests/fixtures.rs\n");
    keep(
        "image-v1.txt",
        &origin("two images in packs of 5 slots"),
        &encode(&write_images()),
    );
    let old = as_format_1(&layer_files(false));
    keep(
        "layer-v1.txt",
        &origin("layers, sealed anew as format 1"),
        &encode(&old),
    );
    let files = layer_files(true);
    let name = format!("layer-v{}.txt", layer_version(&files));
    keep(
        &name,
        &origin("a durable and a volatile layer, killed"),
        &encode(&files),
    );
    let (files, _) = write_poisoned();
    keep(
        &format!("layer-v{}-poisoned.txt", layer_version(&files)),
        &origin("a durable layer whose sync failed, killed"),
        &encode(&files),
    );
    let files = Files::from([
        ("boot.trace".to_owned(), trace().text().into_bytes()),
        ("boot.trace.gz".to_owned(), trace().write()),
    ]);
    keep(
        "trace-v1.txt",
        &origin("a trace, its text and its file"),
        &encode(&files),
    );
    assert!(fixture("state-v1.txt").exists(), "its catalog has format 1");
    if !fixture("state-v1-catalog-v2.txt").exists() {
        let files = write_state();
        let disk: Arc<dyn Disk> = Arc::new(disk_of(&files));
        let head = Head::open_on(&disk, &head_options("first")).unwrap();
        keep("state-v1-catalog-v2.records", "", &records(&head));
        keep(
            "state-v1-catalog-v2.txt",
            &origin("a state directory after an orderly stop"),
            &encode(&files),
        );
    }
}
