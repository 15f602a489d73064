//! What many nodes cost: `cargo bench --bench scale [10 1000 10000]`.
//!
//! For each number: adding them with one command over the socket, restarts of the head until its first login is
//! answered, disk and descriptors and memory of nodes that do nothing, one write of each, a restart after that,
//! and a reset of all. A release head on the disk of the temporary directory.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a bench")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "space/wire.rs"]
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::TestHead;

/// Sessions that write at the same time.
const WRITERS: u32 = 32;

/// Bytes on the disk below a directory.
fn held(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => held(&entry.path()) + entry.metadata().unwrap().blocks() * 512,
            false => entry.metadata().unwrap().blocks() * 512,
        })
        .sum()
}

/// Resident memory in KiB, and open files.
fn process(head: &TestHead) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", head.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = line.unwrap().trim_end_matches("kB").trim().parse().unwrap();
    let files = std::fs::read_dir(format!("/proc/{}/fd", head.pid()))
        .unwrap()
        .count();
    (rss, files)
}

/// From the start of the process to the answer to a login; five times, by kill -9 and by orderly stops.
fn restarts(head: &mut TestHead, node: &str) -> (Duration, Duration) {
    let mut once = |gently: bool| {
        if gently {
            head.stop();
        } else {
            head.kill();
        }
        let began = Instant::now();
        head.serve();
        let session = wire::runtime().block_on(wire::log_in(head, node));
        let took = began.elapsed();
        drop(session);
        took
    };
    let mut gentle: Vec<_> = (0..5).map(|_| once(true)).collect();
    let mut killed: Vec<_> = (0..5).map(|_| once(false)).collect();
    (wire::median(&mut gentle), wire::median(&mut killed))
}

fn write_once_each(head: &TestHead, count: u32) {
    let next = AtomicU32::new(1);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS.min(count) {
            scope.spawn(|| {
                wire::runtime().block_on(async {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n > count {
                            return;
                        }
                        let mut session = wire::log_in(head, &format!("node{n:05}")).await;
                        let done = wire::write(&mut session, 50_000, 1).await;
                        assert_eq!(done.status, 0, "{:02x?}", done.sense);
                        session.logout().await.unwrap();
                    }
                });
            });
        }
    });
}

fn time(what: &str, work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    let took = began.elapsed();
    println!("  {what:58} {:>9} ms", took.as_millis());
    took
}

fn measure(count: u32) {
    println!("{count} nodes; load {}", wire::load());
    let mut head = TestHead::new();
    wire::import_golden(&head);
    head.serve();
    let (empty, before) = (held(&head.path("state")), process(&head));
    let nodes = format!("node[00001-{count:05}]");
    let add = [
        "node",
        "add",
        &nodes,
        "--image",
        "golden",
        "--mode",
        "persistent",
    ];
    time("node add, whole command", || drop(head.good(&add)));
    let (rss, files) = process(&head);
    let disk = held(&head.path("state")).saturating_sub(empty);
    println!(
        "  an idle node: {} B of disk, {:.2} open files, {} B of memory",
        disk / u64::from(count),
        (files as f64 - before.1 as f64) / f64::from(count),
        (rss.saturating_sub(before.0) << 10) / u64::from(count)
    );
    let last = format!("node{count:05}");
    let (gentle, killed) = restarts(&mut head, &last);
    println!("  start to first login answered, after a stop {gentle:?}, after kill -9 {killed:?}");
    let (rss, files) = process(&head);
    println!("  head after that start: {rss} KiB, {files} open files");
    time("login, boot, write of 4 KiB, logout: all of them", || {
        write_once_each(&head, count);
    });
    let (rss, files) = process(&head);
    println!("  right after it: {rss} KiB, {files} open files");
    let began = Instant::now();
    while process(&head).1 > files.min(100) && began.elapsed() < Duration::from_secs(150) {
        std::thread::sleep(Duration::from_secs(1));
    }
    let files = process(&head).1;
    println!(
        "  {} s later: {files} open files",
        began.elapsed().as_secs()
    );
    let (gentle, killed) = restarts(&mut head, &last);
    println!("  start to first login answered, after a stop {gentle:?}, after kill -9 {killed:?}");
    let (rss, files) = process(&head);
    println!("  head after that start: {rss} KiB, {files} open files");
    time("layer reset of one", || {
        drop(head.good(&["layer", "reset", &last, "--force"]));
    });
    time("layer reset of all", || {
        drop(head.good(&["layer", "reset", &nodes, "--force"]));
    });
    time("layer ls", || drop(head.good(&["layer", "ls"])));
    head.stop();
}

fn main() {
    let wanted: Vec<u32> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let counts = if wanted.is_empty() {
        vec![10, 1_000, 10_000]
    } else {
        wanted
    };
    let all = Arc::new(counts);
    all.iter().for_each(|count| measure(*count));
    println!("load after: {}", wire::load());
}
