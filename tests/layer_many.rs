//! Many layers: few open files, a fast start, shared syncs.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code over small numbers"
)]

#[path = "layer_model/golden.rs"]
mod golden;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use golden::*;
use reveille::store::disk::{Disk, File, OpenMode};
use reveille::store::disk_file::RealDisk;
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::layer::Options;
use reveille::store::{Durability, LayerStore, Result};

// --- many layers, few files ---

/// Counts files that are open.
#[derive(Debug)]
struct Counting {
    disk: MemoryDisk,
    open: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
    opened: Mutex<usize>,
}

#[derive(Debug)]
struct Counted {
    file: Arc<dyn File>,
    open: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Disk for Counting {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let file = self.disk.open(path, mode)?;
        *self.opened.lock().unwrap() += 1;
        let now = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        Ok(Arc::new(Counted {
            file,
            open: Arc::clone(&self.open),
        }))
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.disk.remove(path)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn create_dir(&self, path: &str) -> Result<()> {
        self.disk.create_dir(path)
    }
    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.disk.list(path)
    }
    fn sync_dir(&self, path: &str) -> Result<()> {
        self.disk.sync_dir(path)
    }
}

impl File for Counted {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, out)
    }
    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.file.try_read_at(offset, out)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
    fn len(&self) -> Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.file.punch(offset, len)
    }
    fn allocated(&self) -> Result<u64> {
        self.file.allocated()
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
    let (open, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counting = || {
        Arc::new(Counting {
            disk: disk.clone(),
            open: Arc::clone(&open),
            peak: Arc::clone(&peak),
            opened: Mutex::new(0),
        })
    };
    let store = LayerStore::open_with(counting(), BOOT, options.clone())
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
        peak.load(Ordering::SeqCst) < 200,
        "{} files were open at once",
        peak.load(Ordering::SeqCst)
    );
    drop(store);
    assert_eq!(open.load(Ordering::SeqCst), 0);
    let again = counting();
    let began = Instant::now();
    let (store, report) =
        LayerStore::open_with(Arc::clone(&again) as Arc<dyn Disk>, BOOT, options).unwrap();
    let took = began.elapsed();
    println!(
        "start with 10,000 layers, {} records: {took:?} (unoptimized build)",
        report.records
    );
    assert_eq!((report.layers, report.lost_volatile.len()), (10_000, 0));
    assert!(
        *again.opened.lock().unwrap() < 10,
        "start-up opened {} files",
        again.opened.lock().unwrap()
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
