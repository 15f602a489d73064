//! Calls of the medium that fail under the catalog, one after the other: the change is refused whole, readers go on,
//! the next change is taken with no restart, and a power cut at any moment leaves what was acknowledged.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::io::ErrorKind as Failure;
use std::sync::Arc;

use reveille::head::{Head, HeadError, HeadErrorKind, HeadOptions};
use reveille::store::disk::Disk;
use reveille::store::disk_crash::CrashDisk;

type Names = BTreeSet<String>;

fn open(disk: &Arc<dyn Disk>) -> Head {
    let options = HeadOptions {
        host_boot_id: Some("first start".into()),
        journal_bytes: Some(1500),
        soft_bytes: Some(900),
        foreground: true,
        ..HeadOptions::default()
    };
    Head::open_on(disk, &options).unwrap()
}

fn add(head: &Head, nodes: &str) -> Result<(), HeadError> {
    let ask = serde_json::from_value(serde_json::json!({"nodes": nodes})).unwrap();
    head.nodes_add(&ask).map(drop)
}

fn names(head: &Head) -> Names {
    let now = head.snapshot();
    now.nodes().map(|node| node.name.to_string()).collect()
}

fn set(all: &[&str]) -> Names {
    all.iter().map(|name| (*name).to_owned()).collect()
}

/// A head with node `a`, whose medium then begins to fail at its `call`-th call of the next change.
struct Ordeal {
    tape: CrashDisk,
    head: Head,
    began: usize,
    hit: bool,
    refused: bool,
}

fn ordeal(call: u64, kind: Failure, lasting: bool) -> Ordeal {
    let tape = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(tape.clone());
    let head = open(&disk);
    add(&head, "a").unwrap();
    let (began, first) = (tape.moment(), tape.calls());
    tape.fail_call(first + call, kind, lasting);
    let asked = add(&head, "r");
    let hit = tape.calls() > first + call;
    if let Err(e) = &asked {
        let wanted = if kind == Failure::StorageFull {
            HeadErrorKind::Unavailable
        } else {
            HeadErrorKind::Internal
        };
        assert_eq!(e.kind, wanted, "call {call}: {e}");
        assert!(e.to_string().contains("no restart is needed"), "{e}");
        assert_eq!(names(&head), set(&["a"]), "call {call}: nothing is seen");
    }
    Ordeal {
        tape,
        head,
        began,
        hit,
        refused: asked.is_err(),
    }
}

/// Cuts the power at every moment; `until` is where the last change was acknowledged.
fn cut(ordeal: &Ordeal, acknowledged: &Names, seed: u64) -> usize {
    let (tape, last) = (&ordeal.tape, ordeal.tape.moment());
    let on_the_way = [set(&["a"]), set(&["a", "r"]), acknowledged.clone()];
    let mut tried = 0;
    for moment in ordeal.began..=last {
        let bound = if moment == last { 24 } else { 3 };
        for image in tape.crash_images(moment, seed, bound) {
            let disk: Arc<dyn Disk> = Arc::new(image);
            let found = names(&open(&disk));
            let fits = if moment == last {
                found == *acknowledged
            } else {
                on_the_way.contains(&found)
            };
            assert!(fits, "call {seed}, moment {moment} of {last}: {found:?}");
            tried += 1;
        }
    }
    tried
}

fn fail_every_call(kind: Failure, lasting: bool) {
    let (mut refusals, mut tried) = (0, 0);
    for call in 0.. {
        let ordeal = ordeal(call, kind, lasting);
        if !ordeal.hit {
            break;
        }
        if lasting && ordeal.refused {
            add(&ordeal.head, "b").unwrap_err();
            assert_eq!(names(&ordeal.head), set(&["a"]));
        }
        refusals += usize::from(ordeal.refused);
        ordeal.tape.heal();
        add(&ordeal.head, "z").unwrap_or_else(|e| panic!("call {call}: it stays refused: {e}"));
        let wanted = if ordeal.refused {
            set(&["a", "z"])
        } else {
            set(&["a", "r", "z"])
        };
        assert_eq!(names(&ordeal.head), wanted, "call {call}");
        tried += cut(&ordeal, &wanted, call);
    }
    println!("{kind:?}, lasting {lasting}: {refusals} refusals, {tried} power cuts, 0 violations");
    assert!(refusals > 4 && tried > 100, "{refusals}, {tried}");
}

#[test]
fn a_call_that_fails_once_costs_one_change() {
    fail_every_call(Failure::Other, false);
}

#[test]
fn a_full_disk_costs_no_restart_and_nothing_that_was_acknowledged() {
    fail_every_call(Failure::StorageFull, true);
}

#[test]
fn a_medium_that_fails_for_a_while_costs_no_restart() {
    fail_every_call(Failure::Other, true);
}

/// What brings the file back may fail too, at any of its calls.
#[test]
fn coming_back_may_fail_and_is_tried_again() {
    let mut failures = 0;
    let mut first = 0;
    let last = loop {
        let ordeal = ordeal(first, Failure::Other, false);
        if !ordeal.hit {
            break first - 1;
        }
        first += 1;
    };
    // A write, and the sync at the end of the commit: the file is opened again, or replaced.
    for call in [0, last] {
        for second in 0.. {
            let ordeal = ordeal(call, Failure::Other, false);
            let before = ordeal.tape.calls();
            ordeal
                .tape
                .fail_call(before + second, Failure::Other, false);
            let came_back = add(&ordeal.head, "s").is_ok();
            let hit = ordeal.tape.calls() > before + second;
            ordeal.tape.heal();
            failures += usize::from(!came_back);
            add(&ordeal.head, "z").unwrap();
            let mut wanted = set(&["a", "z"]);
            if came_back {
                wanted.insert("s".into());
            }
            if !ordeal.refused {
                wanted.insert("r".into());
            }
            assert_eq!(names(&ordeal.head), wanted, "calls {call}, {second}");
            let moment = ordeal.tape.moment();
            for image in ordeal.tape.crash_images(moment, second, 8) {
                let disk: Arc<dyn Disk> = Arc::new(image);
                assert_eq!(names(&open(&disk)), wanted, "calls {call}, {second}, cut");
            }
            if !hit {
                break;
            }
        }
    }
    println!("{failures} times it did not come back at once");
    assert!(failures > 10, "{failures}");
}
