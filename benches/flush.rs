//! What a flush costs when many nodes flush at once: `cargo bench --bench flush`.
//!
//! Each of 1, 50, 500 nodes writes 4 KiB and flushes, on as many threads as the server has for I/O; against as
//! many plain files in one directory, each with an `fdatasync` of its own. *new*: the block is the layer's first
//! of that place, so the journal has to say so; *over*: the layer holds it already. Then the same through iSCSI.
//! The directory is `REVEILLE_FLUSH_DIR` or cargo's own for benches; it must be on a real disk. Medians of
//! `REVEILLE_FLUSH_ROUNDS` (default 15) rounds.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a bench")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "space/wire.rs"]
mod wire;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::TestHead;
use reveille::limits;
use reveille::store::disk_file::RealDisk;
use reveille::store::volume::Base;
use reveille::store::{Durability, ImageId, LayerId, LayerStore, Result, Volume, VolumeSpec};

#[derive(Debug)]
struct Zeros;

impl Base for Zeros {
    fn id(&self) -> ImageId {
        ImageId([1; 32])
    }
    fn size(&self) -> u64 {
        1 << 30
    }
    fn try_read(&self, _: u64, out: &mut [u8]) -> Result<bool> {
        out.fill(0);
        Ok(true)
    }
    fn read(&self, _: u64, out: &mut [u8]) -> Result<()> {
        out.fill(0);
        Ok(())
    }
}

fn rounds() -> u64 {
    let set = std::env::var("REVEILLE_FLUSH_ROUNDS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(15)
}

/// Lets every one of `of` do `work` once, on the server's number of threads; the time over all of them.
fn round<T: Sync>(of: &[T], work: impl Fn(&T) + Sync) -> Duration {
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..of.len().min(limits::IO_THREADS) {
            scope.spawn(|| {
                while let Some(one) = of.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(one);
                }
            });
        }
    });
    began.elapsed()
}

/// Medians of new blocks and of overwrites, for one flush.
fn measure<T: Sync>(of: &[T], work: impl Fn(&T, u64) + Sync) -> (Duration, Duration) {
    let count = u32::try_from(of.len()).unwrap();
    let mut times = (Vec::new(), Vec::new());
    round(of, |one| work(one, 0));
    for n in 0..rounds() {
        // Apart, so that no two are one run of the file.
        times
            .0
            .push(round(of, |one| work(one, (n + 1) * 2)) / count);
    }
    for n in 0..rounds() {
        times
            .1
            .push(round(of, |one| work(one, (n + 1) * 2)) / count);
    }
    (wire::median(&mut times.0), wire::median(&mut times.1))
}

fn plain(dir: &Path, count: u32) -> (Duration, Duration) {
    let files: Vec<File> = (0..count)
        .map(|n| File::create_new(dir.join(n.to_string())).unwrap())
        .collect();
    measure(&files, |file, block| {
        file.write_all_at(&[1; 4096], block * 4096).unwrap();
        file.sync_data().unwrap();
    })
}

fn layers(dir: &Path, count: u32) -> ((Duration, Duration), u64) {
    let disk = Arc::new(RealDisk::new(dir));
    let (store, _) = LayerStore::open(disk, [1; 16]).unwrap();
    let open = |layer| {
        let spec = VolumeSpec {
            layer: LayerId(layer),
            image: Arc::new(Zeros),
            durability: Durability::Durable,
        };
        store.volume(spec).unwrap()
    };
    let volumes: Vec<Arc<Volume>> = (0..count).map(open).collect();
    let times = measure(&volumes, |volume, block| {
        volume.write(block * 4096, &[1; 4096]).unwrap();
        volume.flush().unwrap();
    });
    (times, store.journal_syncs())
}

/// The same through a head; all nodes' sessions on one thread of ours.
fn through_iscsi(count: u32) -> (Duration, Duration) {
    let mut head = TestHead::new();
    wire::import_golden(&head);
    let nodes = format!("n[1-{count}]");
    head.good(&[
        "node",
        "add",
        &nodes,
        "--image",
        "golden",
        "--mode",
        "persistent",
    ]);
    head.serve();
    wire::runtime().block_on(async {
        let mut sessions = Vec::new();
        for n in 1..=count {
            sessions.push(wire::log_in(&head, &format!("n{n}")).await);
        }
        let mut times = (Vec::new(), Vec::new());
        for n in 0..rounds() * 2 {
            let block = u32::try_from((n % rounds() + 1) * 2).unwrap() + 1000;
            let began = Instant::now();
            let mut all = tokio::task::JoinSet::new();
            for mut session in sessions.drain(..) {
                all.spawn(async move {
                    wire::write(&mut session, block, 1).await;
                    wire::flush(&mut session).await;
                    session
                });
            }
            sessions = all.join_all().await;
            let one = began.elapsed() / count;
            if n < rounds() {
                times.0.push(one);
            } else {
                times.1.push(one);
            }
        }
        (wire::median(&mut times.0), wire::median(&mut times.1))
    })
}

fn row(what: &str, count: u32, (new, over): (Duration, Duration), note: &str) {
    println!(
        "{what:24} {count:5} {:>10} us {:>10} us   {note}",
        new.as_micros(),
        over.as_micros()
    );
}

fn main() {
    let top = std::env::var("REVEILLE_FLUSH_DIR").unwrap_or(env!("CARGO_TARGET_TMPDIR").into());
    println!(
        "one flush, medians of {} rounds, in {top}; load {}",
        rounds(),
        wire::load()
    );
    println!(
        "{:24} {:>5} {:>13} {:>13}",
        "", "nodes", "new block", "overwrite"
    );
    for count in [1, 50, 500] {
        let dir = tempfile::tempdir_in(&top).unwrap();
        row(
            "a file each, fdatasync",
            count,
            plain(dir.path(), count),
            "",
        );
        drop(dir);
        let dir = tempfile::tempdir_in(&top).unwrap();
        let (times, syncs) = layers(dir.path(), count);
        let flushes = u64::from(count) * (2 * rounds() + 1);
        let note = format!("{flushes} flushes: {flushes} data syncs, {syncs} journal syncs");
        row("layers", count, times, &note);
    }
    for count in [1, 50] {
        row("layers through iSCSI", count, through_iscsi(count), "");
    }
    println!("load after: {}", wire::load());
}
