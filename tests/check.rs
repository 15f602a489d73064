//! `reveille check` against harm of every kind in every file: it tells, or the head serves rightly; and it never
//! panics. Then the command: exit codes, words, and the holder of the lock.

#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::TestHead;
use reveille::catalog::ImageRef;
use reveille::head::check::{CheckAsk, CheckReport, check_disk};
use reveille::head::{Head, HeadOptions};
use reveille::names::NodeName;
use reveille::store::check::Severity;
use reveille::store::disk::{Disk, OpenMode};
use reveille::store::disk_crash::Random;
use reveille::store::disk_memory::MemoryDisk;
use reveille::units::ByteRange;

const LEN: usize = 3 * 65_536;
const BOOT: &str = "first start";
const NEXT: &str = "next start";

fn seeds(usual: u64) -> std::ops::Range<u64> {
    let times = std::env::var("REVEILLE_SEEDS");
    let times = times.ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    0..usual * times
}

fn ask<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn open(disk: &MemoryDisk, boot: &str) -> Result<Head, String> {
    let options = HeadOptions {
        host_boot_id: Some(boot.into()),
        foreground: true,
        journal_bytes: Some(1500),
        ..HeadOptions::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Head::open_on(&disk, &options).map_err(|e| e.to_string())
}

fn golden(version: u8) -> Vec<u8> {
    let mut bytes = vec![7; LEN];
    bytes[65_536..].fill(version);
    bytes
}

/// Two versions of an image, four persistent nodes that wrote, two ephemeral ones.
fn state() -> MemoryDisk {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::new();
    let head = open(&disk, BOOT).unwrap();
    for version in [1, 2] {
        let path = dir.path().join("d.raw");
        std::fs::write(&path, golden(version)).unwrap();
        let import = ask(serde_json::json!({"path": path, "name": "d", "format": "raw"}));
        head.image_import(&import, &|_| {}, &AtomicBool::new(false))
            .unwrap();
    }
    for (nodes, mode) in [("n[1-4]", "persistent"), ("e[1-2]", "ephemeral")] {
        let add = ask(serde_json::json!({"nodes": nodes, "image": "d", "mode": mode}));
        head.nodes_add(&add).unwrap();
    }
    for node in ["n1", "n2", "n3", "n4", "e1"] {
        let attached = head.attach(&NodeName::parse(node).unwrap(), true).unwrap();
        for block in 0..8_u8 {
            let offset = u64::from(block) * 8192;
            attached.volume.write(offset, &[100 + block; 4096]).unwrap();
            attached.volume.flush().unwrap();
        }
    }
    head.close();
    drop(head);
    disk
}

fn check(disk: &MemoryDisk, data: bool, repair: bool) -> Result<CheckReport, String> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let ask = CheckAsk { data, repair };
    check_disk(&disk, NEXT, ask, &|_| {}, &AtomicBool::new(false)).map_err(|e| e.to_string())
}

fn damage(report: &CheckReport) -> Vec<String> {
    let bad = report.findings.iter();
    let bad = bad.filter(|f| f.severity == Severity::Damage);
    bad.map(|f| {
        format!(
            "{}: {} [{} {:?}] {}",
            f.object, f.what, f.nodes, f.images, f.next
        )
    })
    .collect()
}

/// A node or an image version, and what it reads.
type Served = (String, Result<Vec<u8>, String>);

/// All that the nodes and image versions read; an error where they are refused.
fn served(disk: &MemoryDisk) -> Result<Vec<Served>, String> {
    let head = open(disk, NEXT)?;
    let now = head.snapshot();
    let mut all = Vec::new();
    let nodes: Vec<NodeName> = now.nodes().map(|n| n.name.clone()).collect();
    for node in nodes {
        let read = || {
            let attached = head.attach(&node, true).map_err(|e| e.to_string())?;
            let range = ByteRange::new(0, LEN as u64).unwrap();
            let read = attached.volume.read(range);
            Ok(read.map_err(|e| e.to_string())?.to_vec())
        };
        all.push((node.to_string(), read()));
    }
    for image in now.images() {
        for version in &image.versions {
            let label = image.label(version.version);
            let verify = ask(serde_json::json!({"image": label}));
            let found = head.image_verify(&verify, &|_| {}, &AtomicBool::new(false));
            let found = found.map_err(|e| e.to_string());
            let whole = found.and_then(|f| match f.bad.first() {
                None => Ok(f.id.to_string().into_bytes()),
                Some(bad) => Err(bad.why.clone()),
            });
            all.push((label, whole));
        }
    }
    Ok(all)
}

/// Harms one file; says how.
fn harm(disk: &MemoryDisk, random: &mut Random) -> (String, bool) {
    let (files, _) = disk.parts();
    let paths: Vec<&String> = files.keys().collect();
    let at = usize::try_from(random.below(paths.len() as u64)).unwrap();
    let path = paths[at].clone();
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    let len = file.len().unwrap();
    // Most of a catalog's file was never used: look for bytes that are something.
    let mut offset = random.below(len);
    for _ in 0..40 {
        let mut byte = [0];
        file.read_at(offset, &mut byte).unwrap();
        if byte[0] != 0 {
            break;
        }
        let within = 1 << (6 + random.below(20));
        offset = random.below(len.min(within));
    }
    let how = match random.below(8) {
        0 => {
            file.set_len(offset).unwrap();
            "cut"
        }
        1 => {
            let end = (offset + 4096).min(len);
            let zeros = vec![0; usize::try_from(end - offset).unwrap()];
            file.write_at(offset, &zeros).unwrap();
            "zeroed"
        }
        2 => {
            file.write_at(len, &[0xa5; 700]).unwrap();
            "lengthened"
        }
        3 => {
            disk.remove(&path).unwrap();
            "removed"
        }
        _ => {
            let mut byte = [0];
            file.read_at(offset, &mut byte).unwrap();
            file.write_at(offset, &[byte[0] ^ 1 << random.below(8)])
                .unwrap();
            "flipped"
        }
    };
    // The blocks of a layer have no checksums: bits that flip there are the medium's business.
    let unseen = path.contains("layers/data/") && ["flipped", "zeroed"].contains(&how);
    (format!("{path} {how} at {offset} of {len}"), unseen)
}

#[test]
fn harm_anywhere_is_told_or_the_head_serves_what_it_served() {
    let whole = state();
    assert_eq!(
        damage(&check(&whole, true, false).unwrap()),
        Vec::<String>::new()
    );
    let before = check(&whole, true, false).unwrap().findings;
    let right = served(&whole.fork()).unwrap();
    let (mut told, mut harmless, mut wrong) = (0, 0, Vec::new());
    for seed in seeds(160) {
        let disk = whole.fork();
        let (how, unseen) = harm(&disk, &mut Random(seed));
        let found = catch_unwind(AssertUnwindSafe(|| check(&disk, true, false)));
        let Ok(found) = found else {
            wrong.push(format!("seed {seed}: {how}: the check panicked"));
            continue;
        };
        let silent = found.is_ok_and(|report| report.findings == before);
        let serving = catch_unwind(AssertUnwindSafe(|| served(&disk)));
        let Ok(serving) = serving else {
            wrong.push(format!("seed {seed}: {how}: the head panicked"));
            continue;
        };
        if unseen {
            continue;
        }
        match (silent, serving) {
            (false, _) => told += 1,
            (true, Ok(now)) if now == right => harmless += 1,
            (true, Ok(_)) => {
                wrong.push(format!("seed {seed}: {how}: not told, and served wrongly"));
            }
            (true, Err(e)) => wrong.push(format!("seed {seed}: {how}: not told, and refused: {e}")),
        }
    }
    println!(
        "check: {told} harms told, {harmless} harmless, {} wrong",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
    assert!(told > harmless, "most harms do harm");
}

#[test]
fn a_repair_of_any_harm_leaves_nothing_worse_and_never_panics() {
    let whole = state();
    for seed in 1000..1000 + seeds(40).end {
        let disk = whole.fork();
        let (how, _) = harm(&disk, &mut Random(seed));
        let served_before = served(&disk.fork());
        let done = catch_unwind(AssertUnwindSafe(|| check(&disk, true, true)));
        let done = done.unwrap_or_else(|_| panic!("seed {seed}: {how}: the repair panicked"));
        if done.is_err() {
            continue;
        }
        let Ok(before) = served_before else { continue };
        let after = served(&disk).unwrap_or_else(|e| panic!("seed {seed}: {how}: {e}"));
        for (was, is) in before.iter().zip(&after) {
            let worse = was.1.is_ok() && was != is;
            assert!(
                !worse,
                "seed {seed}: {how}: {} got worse: {:?}",
                was.0,
                is.1.as_ref().err()
            );
        }
    }
}

fn flip(disk: &MemoryDisk, path: &str, at: u64) {
    let file = disk.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_at(at, &mut byte).unwrap();
    file.write_at(at, &[byte[0] ^ 8]).unwrap();
}

#[test]
fn a_bad_chunk_is_told_with_the_images_and_nodes_that_need_it() {
    let disk = state();
    // Slot 0 is the chunk that both versions share.
    flip(&disk, "store/images/packs/00000001.pack", 5);
    assert_eq!(
        damage(&check(&disk, false, false).unwrap()),
        Vec::<String>::new()
    );
    let said = damage(&check(&disk, true, false).unwrap()).join("\n");
    for word in ["slot 0", "[e[1-2],n[1-4] [\"d:1\", \"d:2\"]]", "import"] {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

#[test]
fn a_missing_manifest_is_told_with_the_nodes_that_boot_it() {
    let disk = state();
    for name in disk.list("store/images/manifests").unwrap() {
        disk.remove(&format!("store/images/manifests/{name}"))
            .unwrap();
    }
    let said = damage(&check(&disk, false, false).unwrap()).join("\n");
    assert!(
        said.contains("image d:2: its manifest is missing"),
        "{said}"
    );
    assert!(said.contains("n[1-4]"), "{said}");
}

#[test]
fn a_damaged_checkpoint_is_made_good_by_a_repair() {
    let disk = state();
    {
        let head = open(&disk, BOOT).unwrap();
        let path = NodeName::parse("n1").unwrap();
        for block in 0..60_u64 {
            let attached = head.attach(&path, true).unwrap();
            attached
                .volume
                .write(block % 16 * 4096, &[9; 4096])
                .unwrap();
            attached.volume.flush().unwrap();
        }
    }
    let names = disk.list("store/layers").unwrap();
    let newest = names
        .iter()
        .filter(|n| n.starts_with("checkpoint."))
        .max_by_key(|n| {
            n.trim_start_matches("checkpoint.")
                .parse::<u32>()
                .unwrap_or(0)
        });
    let newest = newest.expect("the journal is small, so there are checkpoints");
    let right = served(&disk.fork()).unwrap();
    flip(&disk, &format!("store/layers/{newest}"), 40);
    let said = damage(&check(&disk, false, false).unwrap()).join("\n");
    assert!(said.contains(newest.as_str()), "{said}");
    let report = check(&disk, false, true).unwrap();
    assert_eq!(damage(&report), Vec::<String>::new());
    assert!(
        report
            .repaired
            .iter()
            .any(|done| done.contains("checkpoints"))
    );
    assert_eq!(served(&disk).unwrap(), right);
}

/// Imports the file of a version again under another name.
fn import_again(head: &Head, version: u8, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.raw");
    std::fs::write(&path, golden(version)).unwrap();
    let import = ask(serde_json::json!({"path": path, "name": name, "format": "raw"}));
    head.image_import(&import, &|_| {}, &AtomicBool::new(false))
        .unwrap();
}

#[test]
fn a_bad_chunk_with_a_copy_is_written_anew_by_a_repair() {
    let disk = state();
    let right = served(&disk.fork()).unwrap();
    let second = {
        let head = open(&disk, BOOT).unwrap();
        let second = ImageRef::parse("d:2").unwrap();
        head.snapshot().resolve(&second).unwrap().id
    };
    let second = format!("store/images/manifests/{second}");
    flip(&disk, "store/images/packs/00000001.pack", 5);
    flip(&disk, &second, 70);
    {
        // A head that notices, and an import of the first version. While a manifest cannot be read no bad place is
        // written over, so the first version gets a new one, and the second keeps the bad one.
        let head = open(&disk, BOOT).unwrap();
        let verify = ask(serde_json::json!({"image": "d:1"}));
        let found = head.image_verify(&verify, &|_| {}, &AtomicBool::new(false));
        assert!(!found.unwrap().bad.is_empty());
        import_again(&head, 1, "e");
    }
    flip(&disk, &second, 70);
    let said = damage(&check(&disk, true, false).unwrap()).join("\n");
    assert!(said.contains("copies it from slot"), "{said}");
    assert!(said.contains("d:2") && !said.contains("d:1"), "{said}");
    let report = check(&disk, true, true).unwrap();
    assert_eq!(damage(&report), Vec::<String>::new());
    assert!(
        report
            .repaired
            .iter()
            .any(|done| done.contains("written anew"))
    );
    let now = served(&disk).unwrap();
    assert!(right.iter().all(|was| now.contains(was)));
}

#[test]
fn traces_are_garbage_and_a_repair_gives_their_space_back() {
    let disk = state();
    let put = |path: &str, len: usize| {
        let file = disk.open(path, OpenMode::CreateNew).unwrap();
        file.write_at(0, &vec![5; len]).unwrap();
    };
    put("store/images/packs/00000009.pack", 200_000);
    put("store/images/tmp/x", 10);
    put("store/layers/checkpoint.99.tmp", 10);
    put("store/layers/data/77.1", 4096);
    put("store/layers/letter.txt", 10);
    let report = check(&disk, false, false).unwrap();
    assert!(report.clean, "{:?}", damage(&report));
    let of = |severity: Severity| {
        let found = report
            .findings
            .iter()
            .filter(move |f| f.severity == severity);
        found
            .map(|f| f.object.clone())
            .collect::<Vec<_>>()
            .join(" ")
    };
    for word in ["00000009.pack", "tmp/x", "checkpoint.99.tmp", "data/77.1"] {
        assert!(of(Severity::Garbage).contains(word), "{word}");
    }
    assert!(of(Severity::Note).contains("letter.txt"));
    let after = check(&disk, false, true).unwrap();
    let left = after.findings.iter().map(|f| f.object.as_str());
    assert_eq!(left.collect::<Vec<_>>(), ["layers/letter.txt"]);
    assert!(disk.open("store/layers/letter.txt", OpenMode::Read).is_ok());
}

#[test]
fn an_image_without_a_name_is_told_and_kept() {
    let disk = state();
    // The catalog of before an import is put back.
    let before = disk.fork();
    {
        let head = open(&disk, BOOT).unwrap();
        import_again(&head, 9, "later");
    }
    let (mut files, dirs) = disk.parts();
    let (old, _) = before.parts();
    files.insert("catalog.redb".into(), old["catalog.redb"].clone());
    let disk = MemoryDisk::from_parts(files, dirs);
    for repair in [false, true] {
        let report = check(&disk, true, repair).unwrap();
        assert!(report.clean, "{:?}", damage(&report));
        let told = report
            .findings
            .iter()
            .filter(|f| f.what.contains("no image version"));
        assert_eq!(told.count(), 1);
    }
}

#[test]
fn a_check_writes_nothing() {
    let disk = state();
    flip(&disk, "store/images/packs/00000001.pack", 5);
    let names = disk.list("store/layers").unwrap();
    flip(
        &disk,
        &format!(
            "store/layers/{}",
            names.iter().find(|n| n.contains('.')).unwrap()
        ),
        50,
    );
    let before = disk.parts();
    check(&disk, true, false).unwrap();
    assert!(disk.parts() == before);
}

// --- the command ---

fn head_with_image() -> TestHead {
    let head = TestHead::new();
    std::fs::write(head.path("d.raw"), golden(3)).unwrap();
    let path = head.path("d.raw");
    head.good(&["image", "import", path.to_str().unwrap(), "--name", "d"]);
    head.good(&["node", "add", "n[1-2]", "--image", "d"]);
    head
}

#[test]
fn the_command_says_no_damage_and_exits_with_0() {
    let head = head_with_image();
    let said = head.good(&["check", "--data"]);
    assert!(said.ends_with("no damage\n"), "{said}");
    assert!(said.contains("2 nodes, 1 image versions"), "{said}");
    let json = head.good(&["check", "-o", "json"]);
    let report: CheckReport = serde_json::from_str(&json).unwrap();
    assert!(report.clean && report.counts.nodes == 2);
}

#[test]
fn the_command_names_what_is_damaged_and_exits_with_1() {
    let head = head_with_image();
    let packs = head.path("state/store/images/packs/00000001.pack");
    let mut bytes = std::fs::read(&packs).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&packs, bytes).unwrap();
    head.good(&["check"]);
    let output = head.cli(&["check", "--data"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in [
        "damage: slot 0",
        "images: d:1",
        "nodes: n[1-2]",
        "next: import",
        "DAMAGED",
    ] {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

#[test]
fn a_directory_that_is_not_there_exits_with_2_and_is_not_made() {
    let head = TestHead::new();
    let said = head.bad(&["check"], 2);
    assert!(said.contains("there is no state directory"), "{said}");
    assert!(!head.path("state").exists());
}

#[test]
fn a_running_head_is_not_checked_and_the_refusal_names_it() {
    let mut head = head_with_image();
    head.serve();
    let said = head.bad(&["check"], 4);
    for word in [
        "is held by process ",
        "(reveille ",
        " since 20",
        "stop it first",
    ] {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    head.kill();
    // The lock of a head that was killed is nobody's.
    head.good(&["check"]);
}
