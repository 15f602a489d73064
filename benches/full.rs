//! What a full layer and a full disk do to a neighbour: `cargo bench --bench full`.
//!
//! A node writes 4 KiB over blocks that it holds, one every 2 ms, every eighth with a flush: alone; beside a node
//! that writes new blocks without pause; beside one that does so against its layer's limit; and beside one on a
//! disk that is down to its reserve. `REVEILLE_FULL_SECONDS` is the time of each (default 8).
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a bench")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "space/wire.rs"]
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::TestHead;

const PACE: Duration = Duration::from_millis(2);

fn seconds() -> Duration {
    let set = std::env::var("REVEILLE_FULL_SECONDS").ok();
    Duration::from_secs(set.and_then(|text| text.parse().ok()).unwrap_or(8))
}

/// Microseconds of every write, and of every flush, of the neighbour.
async fn neighbour(head: &TestHead) -> (Vec<u64>, Vec<u64>) {
    let mut session = wire::log_in(head, "b").await;
    for block in 0..256 {
        assert_eq!(wire::write(&mut session, 50_000 + block, 1).await.status, 0);
    }
    wire::flush(&mut session).await;
    let (mut writes, mut flushes) = (Vec::new(), Vec::new());
    let mut clock = tokio::time::interval(PACE);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let end = Instant::now() + seconds();
    for n in 0_u32.. {
        clock.tick().await;
        let began = Instant::now();
        if began > end {
            break;
        }
        let done = wire::write(&mut session, 50_000 + n * 7 % 256, 2).await;
        assert_eq!(done.status, 0, "{:02x?}", done.sense);
        writes.push(u64::try_from(began.elapsed().as_micros()).unwrap());
        if n % 8 == 0 {
            let began = Instant::now();
            wire::flush(&mut session).await;
            flushes.push(u64::try_from(began.elapsed().as_micros()).unwrap());
        }
    }
    (writes, flushes)
}

/// Writes new blocks until it is told to stop; how many were taken and refused.
async fn writer(
    head: &TestHead,
    node: &str,
    stop: &AtomicBool,
    taken: &AtomicU64,
    refused: &AtomicU64,
) {
    let mut session = wire::log_in(head, node).await;
    for block in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let done = wire::write(&mut session, block % 200_000, 1).await;
        let counter = if done.status == 0 { taken } else { refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn run(what: &str, head: &TestHead, beside: Option<&str>) {
    let (stop, taken, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (mut writes, mut flushes) = std::thread::scope(|scope| {
        if let Some(node) = beside {
            let (stop, taken, refused) = (&stop, &taken, &refused);
            scope.spawn(move || {
                wire::runtime().block_on(writer(head, node, stop, taken, refused));
            });
        }
        let found = wire::runtime().block_on(neighbour(head));
        stop.store(true, Ordering::Relaxed);
        found
    });
    writes.sort_unstable();
    flushes.sort_unstable();
    let at = |times: &[u64], percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what:44} {:>7} {:>7} {:>8}  {:>7} {:>7}   {} taken, {} refused",
        at(&writes, 50),
        at(&writes, 99),
        at(&writes, 100),
        at(&flushes, 50),
        at(&flushes, 99),
        taken.load(Ordering::Relaxed),
        refused.load(Ordering::Relaxed),
    );
}

fn main() {
    println!("load {}; the neighbour in microseconds", wire::load());
    println!(
        "{:44} {:>7} {:>7} {:>8}  {:>7} {:>7}",
        "", "write50", "write99", "max", "flush50", "flush99"
    );
    let mut head = TestHead::new();
    wire::import_golden(&head);
    head.good(&[
        "node",
        "add",
        "a,b,c,d",
        "--image",
        "golden",
        "--mode",
        "persistent",
    ]);
    head.serve();
    run("alone", &head, None);
    run("beside one that writes new blocks", &head, Some("a"));
    head.good(&["node", "set", "c", "--layer-limit", "1M"]);
    run("beside one at its limit", &head, Some("c"));
    head.stop();
    let config = std::fs::read_to_string(head.path("reveille.toml")).unwrap();
    let config = format!("{config}\n[limits]\nreserve = \"1000T\"\n");
    std::fs::write(head.path("reveille.toml"), config).unwrap();
    head.serve();
    run("beside one on a disk down to its reserve", &head, Some("d"));
    run("alone, after all", &head, None);
    println!("load {}", wire::load());
}
