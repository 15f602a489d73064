//! The real thing: a process that writes to real files is killed with SIGKILL; every write that it said was
//! done is there when the next one opens the layers.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code over small numbers"
)]

#[path = "layer_model/golden.rs"]
mod golden;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use golden::*;
use reveille::store::disk_crash::Random;
use reveille::store::disk_file::RealDisk;
use reveille::store::layer::Options;
use reveille::store::{Durability, LayerStore};

/// By (layer, sector): the last write done, and one begun behind it.
type Told = BTreeMap<(u32, u64), (Option<u8>, Option<u8>)>;

const DIRECTORY: &str = "REVEILLE_TEST_KILL_DIR";

fn open(dir: &Path) -> LayerStore {
    // Small bounds, so that checkpoints and rewritings are under way when the kill comes.
    let options = Options {
        journal_bytes: 4000,
        soft_bytes: 4000,
        journal_step: 4096,
        ..Options::default()
    };
    LayerStore::open_with(Arc::new(RealDisk::new(dir)), BOOT, options)
        .unwrap()
        .0
}

fn class(layer: u32) -> Durability {
    if layer.is_multiple_of(2) {
        Durability::Durable
    } else {
        Durability::Volatile
    }
}

#[test]
// A role, not a test: the other test starts this binary again with a directory, and kills it.
fn writer_that_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let store = Arc::new(open(Path::new(&dir)));
    let image = Golden::new(5);
    std::thread::scope(|scope| {
        for layer in 0..4 {
            let (store, image) = (Arc::clone(&store), Arc::clone(&image));
            scope.spawn(move || write_for_ever(&store, &image, layer));
        }
    });
}

fn write_for_ever(store: &LayerStore, image: &Arc<Golden>, layer: u32) {
    let volume = store.volume(spec(layer, image, class(layer))).unwrap();
    let mut random = Random(u64::from(layer) + u64::from(std::process::id()));
    for round in 1..100_000_u64 {
        let tag = (round % 255) as u8;
        // One alone, or several at once.
        let count = [1, 6][usize::from(round % 3 == 0)];
        let sectors: Vec<u64> = (0..count)
            .map(|_| random.below(SIZE as u64 / 512))
            .collect();
        let tell = |word: &str| {
            let lines = sectors
                .iter()
                .map(|sector| format!("{word} {layer} {sector} {tag}"));
            println_now(&lines.collect::<Vec<_>>().join("\n"));
        };
        // Told before and after, so that the reader knows which writes were under way.
        tell("begin");
        if let [sector] = sectors[..] {
            volume.write(sector * 512, &[tag; 512]).unwrap();
        } else {
            let data = [tag; 512];
            let writes: Vec<(u64, &[u8])> = sectors.iter().map(|s| (s * 512, &data[..])).collect();
            volume
                .write_many(&writes)
                .into_iter()
                .for_each(|done| done.unwrap());
        }
        tell("done");
        if round % 7 == 0 {
            volume.flush().unwrap();
        }
    }
}

fn println_now(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut told: Told = BTreeMap::new();
    for round in 0..4_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_that_is_killed", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 300 + 517 * round;
        lines
            .by_ref()
            .take(wanted)
            .for_each(|line| note(&mut told, &line.unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said between the decision and its death.
        lines.for_each(|line| note(&mut told, &line.unwrap()));
        check(dir.path(), &mut told);
    }
}

fn note(told: &mut Told, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let ["begin" | "done", layer, sector, tag] = words[..] else {
        return;
    };
    let entry = told
        .entry((layer.parse().unwrap(), sector.parse().unwrap()))
        .or_default();
    let tag = Some(tag.parse().unwrap());
    *entry = if words[0] == "done" {
        (tag, None)
    } else {
        (entry.0, tag)
    };
}

fn check(dir: &Path, told: &mut Told) {
    let store = open(dir);
    let image = Golden::new(5);
    let volumes: Vec<_> = (0..4)
        .map(|layer| all(&store.volume(spec(layer, &image, class(layer))).unwrap()))
        .collect();
    let done = told.values().filter(|(done, _)| done.is_some()).count();
    assert!(done > 50, "hardly anything was written before the kill");
    for ((layer, sector), entry) in told.iter_mut() {
        let at = *sector as usize * 512;
        let held = &volumes[*layer as usize][at..at + 512];
        let is = |tag: Option<u8>| match tag {
            Some(tag) => held.iter().all(|byte| *byte == tag),
            None => held == &image.bytes[at..at + 512],
        };
        let begun = entry.1.is_some() && is(entry.1);
        assert!(
            is(entry.0) || begun,
            "layer {layer}, sector {sector}: {} is neither of {entry:?}",
            held[0]
        );
        *entry = if begun {
            (entry.1, None)
        } else {
            (entry.0, None)
        };
    }
}
