//! What a newer program wrote is refused, and no byte of it is changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::test::{Bench, byte, refused};
use super::*;
use crate::catalog::{LayerMode, claim_format};

/// Every file below, whole, but for the lock, which says who asked last.
fn files(top: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(top).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("state/lock") {
            continue;
        }
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    all
}

/// A state with an image, a persistent layer that holds data, one of an ephemeral node, and checkpoints.
fn state() -> Bench {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    bench.add("e1", LayerMode::Ephemeral);
    for node in ["n1", "e1"] {
        bench.boot(node);
        let disk = bench.os(node);
        disk.volume.write(4096, &[9; 8192]).unwrap();
        disk.volume.flush().unwrap();
    }
    bench.head().store.layers.checkpoint().unwrap();
    bench.os("n1").volume.write(40_960, &[8; 4096]).unwrap();
    bench.close();
    bench
}

/// The newest file of the layers whose name begins so.
fn log(bench: &Bench, name: &str) -> PathBuf {
    let mut all: Vec<PathBuf> = files(&bench.state().join("store/layers"))
        .into_keys()
        .filter(|path| {
            let file = path.file_name().unwrap().to_str().unwrap();
            file.starts_with(name)
        })
        .collect();
    all.sort();
    all.pop().unwrap_or_else(|| panic!("no {name}"))
}

/// The header of a log says a format that nobody knows, sealed as it should be (docs/formats/layer.md).
fn newer_log(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    assert_eq!((&bytes[..4], bytes[32]), (&b"RVLF"[..], 1), "a header");
    let len = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    let end = 32 + usize::try_from(len).unwrap();
    bytes[33] = 99;
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..28]), &bytes[32..end]);
    bytes[28..32].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[track_caller]
fn is_refused_untouched(bench: &Bench, words: &[&str]) {
    let before = files(&bench.state());
    assert!(before.len() > 6, "{:?}", before.keys());
    for _ in 0..2 {
        refused::<()>(Err(bench.refusal()), HeadErrorKind::Refused, words);
        let after = files(&bench.state());
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            after.keys().collect::<Vec<_>>()
        );
        for (path, bytes) in &before {
            assert!(after[path] == *bytes, "{} was changed", path.display());
        }
    }
}

#[test]
fn a_newer_state_directory_is_refused_untouched() {
    let bench = state();
    std::fs::write(bench.state().join("version"), "2\n").unwrap();
    is_refused_untouched(&bench, &["2"]);
}

#[test]
fn a_newer_catalog_is_refused_untouched() {
    let bench = state();
    claim_format(&bench.state().join("catalog.redb"), 77);
    is_refused_untouched(&bench, &["format 77", "newer Reveille"]);
}

#[test]
fn newer_logs_of_layers_are_refused_untouched() {
    for name in ["journal.", "checkpoint.", "soft."] {
        let bench = state();
        newer_log(&log(&bench, name));
        is_refused_untouched(&bench, &["format 99"]);
    }
}

#[test]
fn a_newer_image_is_refused_untouched_and_the_head_serves_the_others() {
    let mut bench = state();
    bench.reopen();
    bench.import("other", 2);
    let name = bench.head().images()[0].versions[0].record.id.to_string();
    bench.close();
    let images = bench.state().join("store/images");
    let all = files(&images);
    let path = all
        .keys()
        .find(|path| path.to_string_lossy().contains(&name));
    let path = path.unwrap().clone();
    let mut bytes = all[&path].clone();
    bytes[8] = 99;
    std::fs::write(&path, &bytes).unwrap();
    let before = files(&images);
    bench.reopen();
    refused(
        bench.login("n2", true).map(drop),
        HeadErrorKind::Refused,
        &["format 99"],
    );
    bench.set_image("n3", "other");
    assert_eq!(byte(&bench.login("n3", true).unwrap(), 0), 2);
    refused(
        bench.head().collect_images(),
        HeadErrorKind::Refused,
        &["format 99"],
    );
    bench.close();
    let after = files(&images);
    for (path, bytes) in &before {
        assert!(after[path] == *bytes, "{} was changed", path.display());
    }
}
