//! What the catalog costs: `cargo bench --bench catalog`. Prints medians.
//!
//! A head of its own in a temporary directory (`TMPDIR` chooses the medium): 10,000 nodes are applied to an empty
//! catalog, applied again (nothing to do), changed by one profile, exported, and the head is opened anew.
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use reveille::catalog::{BootMode, Settings};
use reveille::head::{Apply, Head, HeadOptions, ProfileChange};

const NODES: u32 = 10_000;
const RUNS: usize = 7;

fn text() -> String {
    let mut text = format!(
        "format: 1\nprofiles:\n  p: {{mode: persistent}}\nnodes:\n- nodes: n[00001-{NODES}]\n  profile: p\n  macs:\n"
    );
    for n in 1..=NODES {
        let [_, a, b, c] = n.to_be_bytes();
        writeln!(text, "    n{n:05}: \"52:54:00:{a:02x}:{b:02x}:{c:02x}\"").unwrap();
    }
    text
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort();
    all[all.len() / 2].as_secs_f64() * 1e3
}

fn timed<T>(into: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let answer = work();
    into.push(began.elapsed());
    answer
}

fn main() {
    let names = [
        "apply to an empty catalog",
        "apply again",
        "change of a profile",
        "export",
        "open",
    ];
    let mut times: [Vec<Duration>; 5] = Default::default();
    let ask = Apply {
        text: text(),
        ..Apply::default()
    };
    for run in 0..RUNS {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let options = HeadOptions::default();
        let head = Head::open(&state, &options).unwrap();
        let apply = || head.apply(&ask, &|_| false, &|_| false).unwrap();
        timed(&mut times[0], apply);
        let again = timed(&mut times[1], apply);
        assert!(again.plan.is_empty());
        let boot = if run % 2 == 0 {
            BootMode::Local
        } else {
            BootMode::Image
        };
        let change = ProfileChange {
            name: "p".into(),
            settings: Settings {
                boot: Some(boot),
                ..Settings::default()
            },
            ..ProfileChange::default()
        };
        timed(&mut times[2], || head.profile_set(&change).unwrap());
        let export = timed(&mut times[3], || head.export(true, false));
        assert!(export.len() > ask.text.len());
        drop(head);
        let head = timed(&mut times[4], || Head::open(&state, &options).unwrap());
        assert_eq!(head.snapshot().node_count(), NODES as usize);
    }
    println!("{NODES} nodes, medians of {RUNS}:");
    for (name, all) in names.iter().zip(times) {
        println!("{name:<28} {:>8.1} ms", median(all));
    }
}
