//! Many layers: few open files, a fast start, shared syncs.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code over small numbers"
)]

#[path = "layer_model/golden.rs"]
mod golden;
mod meddled;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use golden::*;
use meddled::{Meddler, meddled};
use reveille::store::disk::{Disk, File, OpenMode};
use reveille::store::disk_file::RealDisk;
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::layer::Options;
use reveille::store::{Durability, LayerStore, Result};

// --- many layers, few files ---

/// Counts files: open now, most at once, opened so far.
#[derive(Default)]
struct Counting {
    open: AtomicUsize,
    peak: AtomicUsize,
    opened: AtomicUsize,
}

impl Meddler for Counting {
    fn open(&self, disk: &dyn Disk, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let file = disk.open(path, mode)?;
        self.opened.fetch_add(1, Ordering::SeqCst);
        let now = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        Ok(file)
    }
    fn closed(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn ten_thousand_layers_start_in_well_under_a_second_and_open_no_file_each() {
    let disk = MemoryDisk::new();
    let options = Options {
        files_open: 100,
        background: false,
        ..Options::default()
    };
    let image = Golden::new(5);
    let count = Arc::new(Counting::default());
    let counting = meddled(disk.clone(), &count);
    let store = LayerStore::open_with(Arc::clone(&counting), BOOT, options.clone())
        .unwrap()
        .0;
    for layer in 0..10_000 {
        let class = if layer % 2 == 0 {
            Durability::Durable
        } else {
            Durability::Volatile
        };
        let volume = store.volume(spec(layer, &image, class)).unwrap();
        for block in [1, 5, 9] {
            volume.write(block * 4096, &[layer as u8; 4096]).unwrap();
        }
        if class == Durability::Durable {
            volume.flush().unwrap();
        }
    }
    assert!(
        count.peak.load(Ordering::SeqCst) < 200,
        "{} files were open at once",
        count.peak.load(Ordering::SeqCst)
    );
    drop(store);
    assert_eq!(count.open.load(Ordering::SeqCst), 0);
    count.opened.store(0, Ordering::SeqCst);
    let began = Instant::now();
    let (store, report) = LayerStore::open_with(counting, BOOT, options).unwrap();
    let took = began.elapsed();
    println!(
        "start with 10,000 layers, {} records: {took:?} (unoptimized build)",
        report.records
    );
    assert_eq!((report.layers, report.lost_volatile.len()), (10_000, 0));
    assert!(
        count.opened.load(Ordering::SeqCst) < 10,
        "start-up opened {} files",
        count.opened.load(Ordering::SeqCst)
    );
    let volume = store
        .volume(spec(77, &image, Durability::Volatile))
        .unwrap();
    assert_eq!(all(&volume)[4096..8192], [77; 4096]);
    // Generous: the test may run unoptimized on a busy machine.
    assert!(took.as_secs() < 5, "{took:?}");
}

fn flushes_per_second(dir: &Path, threads: u32) -> (f64, u64) {
    let store = LayerStore::open(Arc::new(RealDisk::new(dir)), BOOT)
        .unwrap()
        .0;
    let image = Golden::new(5);
    let rounds = 200 / threads.min(20);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for layer in 0..threads {
            let volume = store
                .volume(spec(layer, &image, Durability::Durable))
                .unwrap();
            scope.spawn(move || {
                for round in 0..u64::from(rounds) {
                    volume.write(round % 40 * 4096, &[1; 4096]).unwrap();
                    volume.flush().unwrap();
                }
            });
        }
    });
    (
        f64::from(rounds * threads) / began.elapsed().as_secs_f64(),
        store.journal_syncs(),
    )
}

#[test]
fn flushes_of_many_layers_share_journal_syncs() {
    for threads in [1, 32] {
        let dir = tempfile::tempdir().unwrap();
        let (rate, syncs) = flushes_per_second(dir.path(), threads);
        let flushes = 200 / threads.min(20) * threads;
        println!(
            "{threads} threads: {rate:.0} flushes/s, {syncs} journal syncs for {flushes} flushes"
        );
        assert!(
            threads == 1 || syncs * 3 < u64::from(flushes) * 2,
            "{syncs} syncs for {flushes} flushes"
        );
    }
}
