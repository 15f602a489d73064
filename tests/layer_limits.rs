//! Limits of layers, the reserve of the file system, and files that are open only while they are used.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code over small numbers"
)]

#[path = "layer_model/golden.rs"]
mod golden;
mod meddled;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use golden::*;
use meddled::{Meddler, meddled};
use reveille::limits;
use reveille::store::disk::{Disk, File, OpenMode, Space};
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::layer::{LayerLimits, Options};
use reveille::store::volume::Compared;
use reveille::store::{Durability, ErrorKind, LayerId, LayerStore, Result, Volume};
use reveille::units::ByteRange;

const BLOCK: u64 = 4096;

type Hook = Box<dyn FnOnce() + Send>;

/// A medium of a size, which may call something before a data file is opened or removed.
#[derive(Default)]
struct Medium {
    free: AtomicU64,
    before_open: Mutex<Option<Hook>>,
    before_remove: Mutex<Option<Hook>>,
    /// Told that somebody asks for its space.
    asked: Mutex<Option<Sender<()>>>,
}

impl Meddler for Medium {
    fn open(&self, disk: &dyn Disk, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let hook = match path.starts_with("layers/data/") {
            true => self.before_open.lock().unwrap().take(),
            false => None,
        };
        let file = disk.open(path, mode);
        if let Some(hook) = hook {
            hook();
        }
        file
    }
    fn remove(&self, disk: &dyn Disk, path: &str) -> Result<()> {
        let hook = match path.starts_with("layers/data/") {
            true => self.before_remove.lock().unwrap().take(),
            false => None,
        };
        if let Some(hook) = hook {
            hook();
        }
        disk.remove(path)
    }
    fn space(&self, _: &dyn Disk) -> Result<Option<Space>> {
        if let Some(asked) = self.asked.lock().unwrap().take() {
            asked.send(()).unwrap();
        }
        Ok(Some(Space {
            total: 1 << 40,
            free: self.free.load(Ordering::Relaxed),
        }))
    }
}

fn options(most: Option<u64>) -> Options {
    Options {
        limits: LayerLimits {
            warn: None,
            most: most.map(|blocks| blocks * BLOCK),
        },
        reserve: Some(64 * BLOCK),
        background: false,
        ..Options::default()
    }
}

fn store_on(disk: Arc<dyn Disk>, most: Option<u64>) -> LayerStore {
    LayerStore::open_with(disk, BOOT, options(most)).unwrap().0
}

fn limited(blocks: u64) -> (LayerStore, Arc<Golden>) {
    (
        store_on(Arc::new(MemoryDisk::new()), Some(blocks)),
        Golden::new(5),
    )
}

fn put(volume: &Volume, block: u64, byte: u8) -> Result<()> {
    volume.write(block * BLOCK, &[byte; 4096])
}

fn get(volume: &Volume, block: u64) -> Vec<u8> {
    volume.read(bytes(block, 1)).unwrap().to_vec()
}

fn kind<T: std::fmt::Debug>(done: Result<T>) -> ErrorKind {
    done.unwrap_err().kind()
}

fn bytes(block: u64, blocks: u64) -> ByteRange {
    ByteRange::new(block * BLOCK, blocks * BLOCK).unwrap()
}

#[test]
fn a_layer_at_its_limit_refuses_new_blocks_and_nothing_else() {
    let (store, image) = limited(10);
    let volume = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    let neighbour = store.volume(spec(2, &image, Durability::Durable)).unwrap();
    for block in 0..10 {
        put(&volume, block, 1).unwrap();
    }
    let refused = put(&volume, 10, 1).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(
        refused.to_string().contains("may hold 40.0 KiB"),
        "{refused}"
    );
    assert_eq!(
        kind(volume.write_atomic(11 * BLOCK, &[1; 512])),
        ErrorKind::NoSpace
    );
    assert_eq!(
        kind(volume.or_write(12 * BLOCK, &[1; 512])),
        ErrorKind::NoSpace
    );
    let held = get(&volume, 13);
    let swap = volume.compare_and_write(13 * BLOCK, &held, &[1; 4096]);
    assert_eq!(kind(swap), ErrorKind::NoSpace);
    // A write that needs one new block among old ones changes none of them.
    assert_eq!(
        kind(volume.write(8 * BLOCK, &[9; 3 * 4096])),
        ErrorKind::NoSpace
    );
    let mut right = image.bytes.clone();
    right[..10 * 4096].fill(1);
    assert_eq!(all(&volume), right);

    // Everything else goes on.
    put(&volume, 3, 2).unwrap();
    volume.write_atomic(4 * BLOCK, &[3; 4096]).unwrap();
    let swapped = volume.compare_and_write(5 * BLOCK, &[1; 512], &[4; 512]);
    assert_eq!(swapped.unwrap(), Compared::Written);
    volume.flush().unwrap();
    put(&neighbour, 10, 7).unwrap();
    neighbour.flush().unwrap();
    let stats = store.stats(LayerId(1));
    assert!(stats.at_limit && stats.present_blocks == 10);

    // What is given back may be taken again.
    volume.unmap(bytes(0, 2)).unwrap();
    put(&volume, 20, 5).unwrap();
    put(&volume, 21, 5).unwrap();
    assert_eq!(kind(put(&volume, 22, 5)), ErrorKind::NoSpace);
    assert_eq!(store.stats(LayerId(1)).present_blocks, 10);
}

#[test]
fn of_many_writes_at_once_those_that_fit_are_done() {
    let (store, image) = limited(6);
    let volume = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    put(&volume, 0, 1).unwrap();
    put(&volume, 1, 1).unwrap();
    let (new, part) = ([2; 4096], [3; 512]);
    let blocks = [20, 0, 21, 22, 23, 24, 20, 1];
    let mut writes: Vec<(u64, &[u8])> = blocks.map(|b| (b * BLOCK, &new[..])).into();
    writes.push((25 * BLOCK + 512, &part));
    writes.push((21 * BLOCK + 512, &part));
    let done: Vec<Option<ErrorKind>> = volume
        .write_many(&writes)
        .into_iter()
        .map(|done| done.err().map(|e| e.kind()))
        .collect();
    let full = Some(ErrorKind::NoSpace);
    let none = None;
    assert_eq!(
        done,
        [none, none, none, none, none, full, none, none, full, none]
    );
    for (block, byte) in [(20, 2), (0, 2), (22, 2), (23, 2), (1, 2)] {
        assert_eq!(get(&volume, block), [byte; 4096]);
    }
    assert_eq!(get(&volume, 21)[512..1024], [3; 512]);
    assert_eq!(store.stats(LayerId(1)).present_blocks, 6);
    assert!(volume.space_news().unwrap().at_limit);
    // Nothing of what was refused is held against it.
    volume.unmap(bytes(20, 2)).unwrap();
    put(&volume, 30, 1).unwrap();
    put(&volume, 31, 1).unwrap();
    assert_eq!(kind(put(&volume, 32, 1)), ErrorKind::NoSpace);
}

#[test]
fn many_writers_at_once_reach_the_limit_exactly() {
    for _ in 0..20 {
        let (store, image) = limited(20);
        let volume = store.volume(spec(1, &image, Durability::Volatile)).unwrap();
        let good = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (volume, good) = (&volume, &good);
                scope.spawn(move || {
                    for block in (thread..40).step_by(8) {
                        match put(volume, block, 1) {
                            Ok(()) => _ = good.fetch_add(1, Ordering::Relaxed),
                            Err(e) => assert_eq!(e.kind(), ErrorKind::NoSpace),
                        }
                    }
                });
            }
        });
        assert_eq!(good.load(Ordering::Relaxed), 20);
        assert_eq!(store.stats(LayerId(1)).present_blocks, 20);
    }
}

#[test]
fn a_warning_is_told_once_until_it_is_over_and_happens_again() {
    let (store, image) = limited(40);
    let limits = LayerLimits {
        warn: Some(16 * BLOCK),
        most: None,
    };
    store.set_limits(LayerId(1), Some(limits));
    let volume = store.volume(spec(1, &image, Durability::Volatile)).unwrap();
    let warned = |volume: &Volume| volume.space_news().is_some_and(|news| news.warned);
    for block in 0..16 {
        put(&volume, block, 1).unwrap();
    }
    assert!(!warned(&volume));
    put(&volume, 16, 1).unwrap();
    assert!(warned(&volume));
    // A node that trims and writes around it is not told without end.
    for _ in 0..5 {
        volume.unmap(bytes(16, 1)).unwrap();
        put(&volume, 16, 1).unwrap();
        assert!(!warned(&volume));
    }
    assert!(store.stats(LayerId(1)).warned);
    volume.unmap(bytes(10, 7)).unwrap();
    assert!(!store.stats(LayerId(1)).warned);
    for block in 10..17 {
        put(&volume, block, 1).unwrap();
    }
    assert!(warned(&volume));
}

#[test]
fn a_changed_limit_counts_at_once_and_a_refusal_is_told_once() {
    let (store, image) = limited(5);
    let volume = store.volume(spec(1, &image, Durability::Volatile)).unwrap();
    for block in 0..5 {
        put(&volume, block, 1).unwrap();
    }
    assert_eq!(volume.space_news(), None);
    for block in 5..9 {
        assert_eq!(kind(put(&volume, block, 1)), ErrorKind::NoSpace);
    }
    assert!(volume.space_news().unwrap().at_limit);
    assert_eq!(volume.space_news(), None);
    let raised = LayerLimits {
        warn: None,
        most: Some(8 * BLOCK),
    };
    store.set_limits(LayerId(1), Some(raised));
    assert!(volume.space_news().unwrap().changed);
    for block in 5..8 {
        put(&volume, block, 1).unwrap();
    }
    assert_eq!(kind(put(&volume, 8, 1)), ErrorKind::NoSpace);
    assert!(volume.space_news().unwrap().at_limit);
    // Below what it holds: it keeps all, and takes no more.
    let lowered = LayerLimits {
        most: Some(2 * BLOCK),
        ..raised
    };
    store.set_limits(LayerId(1), Some(lowered));
    put(&volume, 0, 2).unwrap();
    assert_eq!(kind(put(&volume, 9, 1)), ErrorKind::NoSpace);
    store.set_limits(LayerId(1), None);
    assert_eq!(
        kind(put(&volume, 9, 1)),
        ErrorKind::NoSpace,
        "the usual limit is 5"
    );
    // A reset gives all of it back.
    store.reset(LayerId(1)).unwrap();
    let volume = store.volume(spec(1, &image, Durability::Volatile)).unwrap();
    for block in 0..5 {
        put(&volume, block, 1).unwrap();
    }
}

#[test]
fn blocks_that_a_limited_layer_trims_one_by_one_leave_the_disk() {
    let (store, image) = limited(40);
    let volume = store.volume(spec(1, &image, Durability::Volatile)).unwrap();
    for block in 0..40 {
        put(&volume, block, 1).unwrap();
    }
    for block in (0..40).step_by(2) {
        volume.unmap(bytes(block, 1)).unwrap();
    }
    assert_eq!(store.stats(LayerId(1)).allocated_bytes, 20 * BLOCK);
}

#[test]
fn new_blocks_leave_the_reserve_of_the_file_system_alone() {
    let medium = Arc::new(Medium::default());
    medium.free.store(1 << 30, Ordering::Relaxed);
    let store = store_on(meddled(MemoryDisk::new(), &medium), None);
    let image = Golden::new(5);
    let open = |layer, class| store.volume(spec(layer, &image, class)).unwrap();
    let (a, b) = (open(1, Durability::Durable), open(2, Durability::Volatile));
    put(&a, 0, 1).unwrap();
    // Somebody else fills the disk. Within a grant nobody notices, and a grant is small.
    medium.free.store(64 * BLOCK, Ordering::Relaxed);
    let mut taken = 0;
    let refused = loop {
        match put(&a, 1 + taken % 39, 1).and_then(|()| a.unmap(bytes(1 + taken % 39, 1))) {
            Ok(()) => taken += 1,
            Err(e) => break e,
        }
    };
    assert!(taken <= 16, "{taken} blocks of a reserve of 64");
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(
        refused.to_string().contains("kept for flushes"),
        "{refused}"
    );
    assert_eq!(kind(put(&b, 0, 1)), ErrorKind::NoSpace);
    assert!(a.space_news().unwrap().disk_full);
    assert!(b.space_news().unwrap().disk_full);
    // Overwrites, flushes, checkpoints, resets go on.
    put(&a, 0, 2).unwrap();
    a.flush().unwrap();
    store.checkpoint().unwrap();
    store.reset(LayerId(2)).unwrap();
    // Room that comes back is found without anybody's help.
    medium.free.store(1 << 30, Ordering::Relaxed);
    put(&a, 30, 1).unwrap();
    put(&open(2, Durability::Volatile), 0, 1).unwrap();
}

#[test]
fn what_a_reset_has_thrown_away_counts_as_free_even_before_it_is_removed() {
    let medium = Arc::new(Medium::default());
    medium.free.store(1 << 30, Ordering::Relaxed);
    let disk = meddled(MemoryDisk::new(), &medium);
    let background = Options {
        background: true,
        ..options(None)
    };
    let store = LayerStore::open_with(disk, BOOT, background).unwrap().0;
    let image = Golden::new(5);
    let open = |layer| {
        store
            .volume(spec(layer, &image, Durability::Durable))
            .unwrap()
    };
    let (a, b) = (open(1), open(2));
    put(&b, 0, 1).unwrap();
    // The whole disk but the reserve is taken by others.
    medium.free.store(64 * BLOCK, Ordering::Relaxed);
    let mut next = 0;
    while put(&a, next, 1).is_ok() {
        next += 1;
    }
    // The file of the reset layer is not removed before the writer has found the disk full.
    let (asked, until_asked) = channel();
    *medium.asked.lock().unwrap() = Some(asked);
    let freed = Arc::clone(&medium);
    *medium.before_remove.lock().unwrap() = Some(Box::new(move || {
        until_asked.recv().unwrap();
        freed.free.store(1 << 30, Ordering::Relaxed);
    }));
    store.reset(LayerId(2)).unwrap();
    put(&a, next, 1).unwrap();
}

#[test]
fn files_that_nobody_uses_are_closed_and_opened_again_when_needed() {
    let disk = MemoryDisk::new();
    let store = store_on(Arc::new(disk.clone()), None);
    let image = Golden::new(5);
    let classes = [Durability::Durable, Durability::Volatile];
    let volumes: Vec<_> = (0..50)
        .map(|layer| {
            let class = classes[layer as usize % 2];
            let volume = store.volume(spec(layer, &image, class)).unwrap();
            put(&volume, 3, layer as u8).unwrap();
            volume
        })
        .collect();
    assert_eq!(store.files_open(), 50);
    store.close_idle();
    assert_eq!(store.files_open(), 50, "all were used since the last look");
    put(&volumes[7], 4, 1).unwrap();
    store.close_idle();
    assert_eq!(store.files_open(), 1, "the one that was used");
    for (layer, volume) in volumes.iter().enumerate() {
        assert_eq!(get(volume, 3), [layer as u8; 4096]);
        put(volume, 5, 9).unwrap();
        volume.flush().unwrap();
    }
    // What a durable layer had not flushed is on the medium since its file was closed.
    store.close_idle();
    put(&volumes[0], 6, 8).unwrap();
    store.close_idle();
    store.close_idle();
    assert_eq!(store.files_open(), 0);
    assert!(!store.stats(LayerId(0)).dirty);
    drop((volumes, store));
    let options = Options {
        background: false,
        ..Options::default()
    };
    let store = LayerStore::open_with(Arc::new(disk), [9; 16], options)
        .unwrap()
        .0;
    let volume = store.volume(spec(0, &image, Durability::Durable)).unwrap();
    assert_eq!(get(&volume, 6), [8; 4096]);
}

#[test]
fn with_more_dirty_files_than_the_limit_the_oldest_are_synced_and_closed() {
    let options = Options {
        files_open: 10,
        background: false,
        ..Options::default()
    };
    let store = LayerStore::open_with(Arc::new(MemoryDisk::new()), BOOT, options)
        .unwrap()
        .0;
    let image = Golden::new(5);
    for layer in 0..500 {
        let volume = store
            .volume(spec(layer, &image, Durability::Durable))
            .unwrap();
        put(&volume, 3, 1).unwrap();
        assert!(store.files_open() <= 12, "{}", store.files_open());
    }
    assert_eq!(limits::LAYER_FILES_OPEN, 8192);
}

#[test]
fn a_reader_that_opens_the_file_while_the_layer_is_reset_gives_nothing_to_its_successor() {
    let medium = Arc::new(Medium::default());
    medium.free.store(1 << 30, Ordering::Relaxed);
    let disk = meddled(MemoryDisk::new(), &medium);
    let store = Arc::new(store_on(Arc::clone(&disk), None));
    let image = Golden::new(5);
    let open = || store.volume(spec(1, &image, Durability::Volatile)).unwrap();
    let old = open();
    put(&old, 0, 1).unwrap();
    store.close_idle();
    store.close_idle();
    assert_eq!(store.files_open(), 0);
    let resets = Arc::clone(&store);
    *medium.before_open.lock().unwrap() = Some(Box::new(move || resets.reset(LayerId(1)).unwrap()));
    assert_eq!(kind(old.read(bytes(0, 1))), ErrorKind::Fenced);
    let new = open();
    put(&new, 5, 2).unwrap();
    let data = disk.list("layers/data").unwrap();
    let generation = store.stats(LayerId(1)).generation;
    assert_eq!(
        data,
        [format!("1.{generation}")],
        "the successor has a file of its own"
    );
    assert_eq!(get(&new, 0), image.bytes[..4096]);
}
