//! No acknowledged write and no answered flush is lost: on the wire by kill -9 at random moments of a real head
//! (`wire`), and through the same SCSI layer onto a recorded medium by power cuts at every moment (`cut`), since
//! a kill keeps the page cache and cannot show a sync that was forgotten.
//!
//! `REVEILLE_ROUNDS=1000` makes the rounds many, `REVEILLE_SEED=n` makes them those of an earlier run, as far as
//! a moment of another process can be repeated.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;
#[path = "flush_kill/cut.rs"]
mod cut;
mod meddled;
#[path = "flush_kill/model.rs"]
mod model;
#[path = "flush_kill/orders.rs"]
mod orders;
#[path = "flush_kill/wire.rs"]
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use common::{TestHead, raw_disk};
use wire::{Node, Tally, node, round};

const MIB: u64 = 8;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    number("REVEILLE_SEED").unwrap_or_else(|| u64::try_from(now.as_millis()).unwrap())
}

/// Two persistent and two ephemeral nodes; a journal so small that checkpoints and rewritings are always near.
fn bench() -> (TestHead, Vec<Node>) {
    let config = "[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\nworkers = 2\n\
                  [store]\njournal_kib = 1\nsoft_kib = 1\n";
    let mut head = TestHead::with_config(config);
    raw_disk(&head.path("golden.raw"), MIB);
    let golden = Arc::new(std::fs::read(head.path("golden.raw")).unwrap());
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    let nodes: Vec<Node> = [
        ("p1", "persistent"),
        ("e1", "ephemeral"),
        ("p2", "persistent"),
        ("e2", "ephemeral"),
    ]
    .into_iter()
    .zip(1..)
    .map(|((name, mode), number)| node(name, mode, number, &golden))
    .collect();
    for (node, last) in nodes.iter().zip(1..) {
        let mac = format!("52:54:00:00:00:{last:02x}");
        head.good(&[
            "node", "add", node.name, "--image", "golden", "--mac", &mac, "--mode", node.mode,
        ]);
    }
    head.serve();
    (head, nodes)
}

#[test]
fn no_acknowledged_write_and_no_flush_is_lost_by_kill_9() {
    let seed = seed();
    let rounds = number("REVEILLE_ROUNDS").unwrap_or(20);
    eprintln!("REVEILLE_SEED={seed} REVEILLE_ROUNDS={rounds}");
    let (mut head, nodes) = bench();
    let mut tally = Tally::default();
    for at in 0..rounds {
        let faults = round(&mut head, &nodes, seed.wrapping_add(at), &mut tally);
        if at % 100 == 99 {
            eprintln!("{tally:?}");
        }
        assert!(
            faults.is_empty(),
            "REVEILLE_SEED={seed}, round {at}: {} faults: {}\n{tally:?}\n{}",
            faults.len(),
            faults[..faults.len().min(5)].join("\n"),
            head.log()
        );
    }
    let checkpoints = newest_journal(&head);
    eprintln!("{tally:?}, journal {checkpoints}, nothing lost");
    assert!(
        checkpoints > rounds / 10,
        "hardly any checkpoint: {checkpoints}"
    );
    assert!(
        tally.kills >= rounds && tally.writes > rounds * 5,
        "{tally:?}"
    );
    assert!(tally.flushes > rounds / 2 && tally.open > 0, "{tally:?}");
}

/// Every checkpoint begins a journal with the next number.
fn newest_journal(head: &TestHead) -> u64 {
    let names = std::fs::read_dir(head.path("state/store/layers")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let numbers = names.filter_map(|name| name.strip_prefix("journal.")?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// The data files of the layers, sorted: layer and generation are their names.
fn data_files(head: &TestHead) -> Vec<PathBuf> {
    let dir = head.path("state/store/layers/data");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// A round with a head that is down in its midst while `harm` is done to the files. What was found wrong.
fn harmed(harm: impl Fn(&[PathBuf], &Path)) -> Vec<String> {
    let (mut head, nodes) = bench();
    let mut tally = Tally::default();
    for seed in 1..4 {
        assert_eq!(
            round(&mut head, &nodes, seed * 1000, &mut tally),
            Vec::<String>::new()
        );
    }
    head.kill();
    let copies = head.path("copies");
    std::fs::create_dir(&copies).unwrap();
    for file in data_files(&head) {
        std::fs::copy(&file, copies.join(file.file_name().unwrap())).unwrap();
    }
    head.serve();
    assert_eq!(wire::fill(&nodes, &head), Vec::<String>::new());
    head.kill();
    harm(&data_files(&head), &copies);
    head.serve();
    wire::read_all(&nodes, &head)
}

#[test]
fn what_is_kept_is_found_right_when_nothing_was_harmed() {
    assert_eq!(harmed(|_, _| ()), Vec::<String>::new());
}

#[test]
fn an_older_copy_of_a_layer_is_found_out() {
    let faults = harmed(|files, copies| {
        for file in files {
            let old = copies.join(file.file_name().unwrap());
            if old.exists() {
                std::fs::copy(old, file).unwrap();
            }
        }
    });
    assert!(
        faults.len() >= 4,
        "every node's loss must be seen: {faults:?}"
    );
}

#[test]
fn a_foreign_layer_is_found_out() {
    let faults = harmed(|files, _| {
        let aside = files[0].with_extension("aside");
        std::fs::rename(&files[0], &aside).unwrap();
        std::fs::rename(&files[1], &files[0]).unwrap();
        std::fs::rename(&aside, &files[1]).unwrap();
    });
    assert!(
        faults.iter().any(|fault| fault.contains("never written")),
        "{faults:?}"
    );
}
