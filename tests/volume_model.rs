//! Volumes against a plain array of bytes: random streams, threads, single promises, real files.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code over small numbers"
)]

#[path = "layer_model/golden.rs"]
mod golden;

use std::collections::BTreeMap;
use std::sync::Arc;

use golden::*;
use proptest::prelude::*;
use reveille::store::disk::{Disk, OpenMode};
use reveille::store::disk_crash::Random;
use reveille::store::disk_file::RealDisk;
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::layer::Options;
use reveille::store::volume::{Base, Compared, ExtentState};
use reveille::store::{
    Durability, ErrorKind, ImageId, LayerId, LayerStore, Result, Volume, VolumeSpec,
};
use reveille::units::ByteRange;

fn small() -> Options {
    Options {
        journal_bytes: 2000,
        journal_step: 4096,
        soft_bytes: 1000,
        files_open: 2,
        background: false,
        ..Options::default()
    }
}

fn memory() -> LayerStore {
    LayerStore::open_with(Arc::new(MemoryDisk::new()), BOOT, small())
        .unwrap()
        .0
}

fn bytes(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.number() as u8 | 1).collect()
}

// --- random streams against an array ---

struct Pair {
    disk: Arc<dyn Disk>,
    store: LayerStore,
    images: [Arc<Golden>; 2],
    plain: Vec<Vec<u8>>,
}

impl Pair {
    fn new(disk: Arc<dyn Disk>) -> Self {
        let images = [Golden::new(3), Golden::new(90)];
        Self {
            store: LayerStore::open_with(Arc::clone(&disk), BOOT, small())
                .unwrap()
                .0,
            disk,
            plain: (0..4)
                .map(|layer| images[layer % 2].bytes.clone())
                .collect(),
            images,
        }
    }

    fn volume(&self, layer: usize) -> Arc<Volume> {
        let durability = if layer < 2 {
            Durability::Durable
        } else {
            Durability::Volatile
        };
        let spec = spec(layer as u32, &self.images[layer % 2], durability);
        self.store.volume(spec).unwrap()
    }

    fn step(&mut self, random: &mut Random) {
        let layer = random.below(4) as usize;
        let volume = self.volume(layer);
        let sectors = SIZE as u64 / 512;
        let wide = random.below(4) == 0;
        let count = 1 + random.below(if wide { sectors - 1 } else { 20 });
        let first = random.below(sectors - count + 1);
        let range = ByteRange::of_sectors(first, count).unwrap();
        let (at, len) = ((first * 512) as usize, (count * 512) as usize);
        match random.below(24) {
            0..6 => {
                let data = bytes(random, len);
                volume.write(range.offset(), &data).unwrap();
                self.plain[layer][at..at + len].copy_from_slice(&data);
            }
            6..9 => self.write_many(random, layer),
            9..12 => {
                volume.unmap(range).unwrap();
                self.plain[layer][at..at + len].fill(0);
            }
            12..15 => volume.flush().unwrap(),
            15 => {
                let new = bytes(random, len);
                let old = self.plain[layer][at..at + len].to_vec();
                assert_eq!(
                    volume
                        .compare_and_write(range.offset(), &old, &new)
                        .unwrap(),
                    Compared::Written
                );
                self.plain[layer][at..at + len].copy_from_slice(&new);
            }
            16 => {
                let mut old = self.plain[layer][at..at + len].to_vec();
                let wrong = random.below(old.len() as u64) as usize;
                old[wrong] ^= 0x10;
                let found = volume
                    .compare_and_write(range.offset(), &old, &old)
                    .unwrap();
                assert_eq!(found, Compared::Differs(wrong as u64));
            }
            17 => {
                let data = bytes(random, len);
                volume.or_write(range.offset(), &data).unwrap();
                self.plain[layer][at..at + len]
                    .iter_mut()
                    .zip(&data)
                    .for_each(|(a, b)| *a |= b);
            }
            18 if random.below(3) == 0 => self.reset(layer),
            19 => self.store.fence(LayerId(layer as u32)),
            20 => {
                drop(volume);
                self.store = LayerStore::open_with(Arc::clone(&self.disk), BOOT, small())
                    .unwrap()
                    .0;
            }
            _ => self.check_read(layer, range),
        }
        self.check_extents(layer);
    }

    // Some of them share blocks or sectors; one in a while is past the end of the disk, one is empty.
    fn write_many(&mut self, random: &mut Random, layer: usize) {
        let sectors = SIZE as u64 / 512;
        let near = random.below(sectors);
        let writes: Vec<(u64, Vec<u8>)> = (0..1 + random.below(12))
            .map(|_| {
                let at = match random.below(3) {
                    0 => near.saturating_sub(random.below(16)),
                    _ => random.below(sectors),
                };
                let count = random.below(18);
                (at * 512, bytes(random, (count * 512) as usize))
            })
            .collect();
        let slices: Vec<(u64, &[u8])> = writes.iter().map(|(at, b)| (*at, &b[..])).collect();
        let done = self.volume(layer).write_many(&slices);
        assert_eq!(done.len(), writes.len());
        for ((at, data), done) in writes.iter().zip(done) {
            let range = *at as usize..*at as usize + data.len();
            if range.end > SIZE {
                assert_eq!(done.unwrap_err().kind(), ErrorKind::OutOfBounds);
            } else {
                done.unwrap();
                self.plain[layer][range].copy_from_slice(data);
            }
        }
    }

    fn reset(&mut self, layer: usize) {
        self.store.reset(LayerId(layer as u32)).unwrap();
        self.plain[layer] = self.images[layer % 2].bytes.clone();
    }

    fn check_read(&self, layer: usize, range: ByteRange) {
        let volume = self.volume(layer);
        let (at, end) = (range.offset() as usize, range.end() as usize);
        let read = volume.read(range).unwrap().to_vec();
        assert!(read == self.plain[layer][at..end], "layer {layer}, {range}");
        if let Some(fast) = volume.try_read(range).unwrap() {
            assert!(fast.to_vec() == read, "layer {layer}, {range}: try_read");
        }
    }

    fn check_extents(&self, layer: usize) {
        let volume = self.volume(layer);
        let mut at = 0;
        while at < volume.size() {
            let (state, len) = volume.extent(at, volume.size()).unwrap();
            assert!(len > 0);
            let bytes = &self.plain[layer][at as usize..(at + len) as usize];
            if state == ExtentState::Deallocated {
                assert!(
                    bytes.iter().all(|byte| *byte == 0),
                    "deallocated but not zero"
                );
            }
            at += len;
        }
        assert_eq!(at, volume.size());
    }

    fn check_all(&self) {
        for layer in 0..4 {
            assert!(
                all(&self.volume(layer)) == self.plain[layer],
                "layer {layer}"
            );
        }
    }
}

#[test]
fn random_streams_match_a_plain_array_in_memory() {
    for seed in 0..12 {
        let mut random = Random(seed);
        let mut pair = Pair::new(Arc::new(MemoryDisk::new()));
        for _ in 0..150 {
            pair.step(&mut random);
        }
        pair.check_all();
    }
}

#[test]
fn random_streams_match_a_plain_array_on_real_files() {
    for seed in 50..53 {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random(seed);
        let mut pair = Pair::new(Arc::new(RealDisk::new(dir.path())));
        for _ in 0..150 {
            pair.step(&mut random);
        }
        pair.check_all();
        pair.store.close().unwrap();
        // After an orderly stop the host may go down: durable layers keep everything.
        let disk = RealDisk::new(dir.path());
        pair.store = LayerStore::open_with(Arc::new(disk), [2; 16], small())
            .unwrap()
            .0;
        for layer in 0..2 {
            assert!(
                all(&pair.volume(layer)) == pair.plain[layer],
                "layer {layer}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn one_write_changes_its_bytes_and_no_others(
        offset in 0..SIZE as u64, len in 1..20_000u64, hole in any::<bool>(), before in any::<bool>(),
    ) {
        let len = len.min(SIZE as u64 - offset);
        let image = Golden::new(5);
        let volume = memory().volume(spec(1, &image, Durability::Durable)).unwrap();
        let mut plain = image.bytes.clone();
        if before {
            volume.unmap(ByteRange::new(4096, 5 * 4096).unwrap()).unwrap();
            plain[4096..6 * 4096].fill(0);
        }
        let range = offset as usize..(offset + len) as usize;
        if hole {
            volume.unmap(ByteRange::new(offset, len).unwrap()).unwrap();
            plain[range].fill(0);
        } else {
            volume.write(offset, &vec![0xee; len as usize]).unwrap();
            plain[range].fill(0xee);
        }
        prop_assert!(all(&volume) == plain);
    }
}

// --- single promises ---

#[test]
fn a_layer_that_was_never_written_has_no_file_and_reads_the_image_without_waiting() {
    let disk = MemoryDisk::new();
    let store = LayerStore::open_with(Arc::new(disk.clone()), BOOT, small())
        .unwrap()
        .0;
    let image = Golden::new(5);
    let volume = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    let read = volume
        .try_read(ByteRange::new(512, 8192).unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(read.to_vec(), image.bytes[512..8704]);
    volume.flush().unwrap();
    assert!(disk.list("layers/data").unwrap().is_empty());
    assert!(store.layers().is_empty());
    assert_eq!(store.stats(LayerId(1)).generation, 0);
}

#[test]
fn a_read_that_would_wait_says_so() {
    let image = Arc::new(Golden {
        bytes: Golden::bytes(1, SIZE),
        cold: true,
    });
    let store = memory();
    let volume = store.volume(spec(1, &image, Durability::Volatile)).unwrap();
    volume.write(0, &[9; 4096]).unwrap();
    assert!(
        volume
            .try_read(ByteRange::new(0, 4096).unwrap())
            .unwrap()
            .is_some()
    );
    assert!(
        volume
            .try_read(ByteRange::new(0, 4608).unwrap())
            .unwrap()
            .is_none()
    );
    assert!(volume.read(ByteRange::new(0, 4608).unwrap()).is_ok());
}

#[test]
fn calls_outside_the_disk_are_refused() {
    let store = memory();
    let volume = store
        .volume(spec(1, &Golden::new(5), Durability::Durable))
        .unwrap();
    let end = SIZE as u64;
    let kinds = [
        volume
            .read(ByteRange::new(end - 512, 1024).unwrap())
            .unwrap_err()
            .kind(),
        volume
            .try_read(ByteRange::new(end, 512).unwrap())
            .unwrap_err()
            .kind(),
        volume.write(end - 512, &[0; 1024]).unwrap_err().kind(),
        volume.write(u64::MAX, &[0; 1024]).unwrap_err().kind(),
        volume
            .unmap(ByteRange::new(end, 1).unwrap())
            .unwrap_err()
            .kind(),
        volume.or_write(end, &[1]).unwrap_err().kind(),
        volume
            .compare_and_write(end, &[1], &[1])
            .unwrap_err()
            .kind(),
        volume.extent(end + 1, 1).unwrap_err().kind(),
    ];
    assert!(
        kinds.iter().all(|kind| *kind == ErrorKind::OutOfBounds),
        "{kinds:?}"
    );
}

#[test]
fn another_image_size_or_class_is_refused_until_reset() {
    let disk = MemoryDisk::new();
    let open = || {
        LayerStore::open_with(Arc::new(disk.clone()), BOOT, small())
            .unwrap()
            .0
    };
    let (mine, other) = (Golden::new(5), Golden::new(6));
    let longer = Arc::new(Golden {
        bytes: Golden::bytes(5, SIZE + 512),
        cold: false,
    });
    let store = open();
    let held = store.volume(spec(1, &mine, Durability::Durable)).unwrap();
    let busy = store
        .volume(spec(1, &other, Durability::Durable))
        .unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    assert!(Arc::ptr_eq(
        &held,
        &store.volume(spec(1, &mine, Durability::Durable)).unwrap()
    ));
    held.write(0, &[1; 512]).unwrap();
    drop((held, store));
    let store = open();
    for wrong in [
        spec(1, &other, Durability::Durable),
        spec(1, &longer, Durability::Durable),
        spec(1, &mine, Durability::Volatile),
    ] {
        let refused = store.volume(wrong).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidFormat, "{refused}");
    }
    store.reset(LayerId(1)).unwrap();
    store
        .volume(spec(1, &other, Durability::Volatile))
        .unwrap()
        .write(0, &[1; 512])
        .unwrap();
}

#[test]
fn a_reset_fences_old_handles_and_gives_the_space_back() {
    let disk = MemoryDisk::new();
    let store = LayerStore::open_with(Arc::new(disk.clone()), BOOT, small())
        .unwrap()
        .0;
    let image = Golden::new(5);
    let old = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    old.write(0, &[1; 9000]).unwrap();
    old.flush().unwrap();
    let generation = store.stats(LayerId(1)).generation;
    store.reset(LayerId(1)).unwrap();
    store.reset(LayerId(77)).unwrap();
    let range = ByteRange::new(0, 512).unwrap();
    let kinds = [
        old.read(range).unwrap_err().kind(),
        old.try_read(range).unwrap_err().kind(),
        old.write(0, &[1; 512]).unwrap_err().kind(),
        old.unmap(range).unwrap_err().kind(),
        old.flush().unwrap_err().kind(),
        old.extent(0, 512).unwrap_err().kind(),
    ];
    assert!(
        kinds.iter().all(|kind| *kind == ErrorKind::Fenced),
        "{kinds:?}"
    );
    assert!(disk.list("layers/data").unwrap().is_empty());
    assert!(store.stats(LayerId(1)).generation > generation);
    let fresh = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    assert!(all(&fresh) == image.bytes);
    store.remove(LayerId(1)).unwrap();
    assert!(store.layers().is_empty());
}

#[test]
fn a_fence_keeps_the_data_and_the_next_handle_sees_it() {
    let store = memory();
    let image = Golden::new(5);
    let old = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    old.write(0, &[7; 512]).unwrap();
    store.fence(LayerId(1));
    assert_eq!(
        old.write(0, &[8; 512]).unwrap_err().kind(),
        ErrorKind::Fenced
    );
    let new = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    assert_eq!(all(&new)[..512], [7; 512]);
    new.flush().unwrap();
}

#[test]
fn unmapped_blocks_give_their_space_back_and_count_as_deallocated() {
    let dir = tempfile::tempdir().unwrap();
    let store = LayerStore::open(Arc::new(RealDisk::new(dir.path())), BOOT)
        .unwrap()
        .0;
    let image = Golden::new(5);
    let volume = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    volume.write(0, &[7; 40 * 4096]).unwrap();
    volume.flush().unwrap();
    let before = store.stats(LayerId(1));
    volume
        .unmap(ByteRange::new(512, 39 * 4096).unwrap())
        .unwrap();
    let after = store.stats(LayerId(1));
    assert_eq!(
        (
            before.present_blocks,
            after.present_blocks,
            after.zero_blocks
        ),
        (40, 2, 38)
    );
    assert!(
        before.allocated_bytes >= 40 * 4096 && after.allocated_bytes <= 8 * 4096,
        "{before:?} {after:?}"
    );
    assert_eq!(
        volume.extent(512, 8192).unwrap(),
        (ExtentState::Mapped, 4096 - 512)
    );
    assert_eq!(
        volume.extent(4096, 8192).unwrap(),
        (ExtentState::Deallocated, 8192)
    );
    assert_eq!(after.pending_blocks, 38);
}

#[test]
fn zero_blocks_stay_zero_though_a_copy_tool_punched_or_filled_the_file() {
    let disk = MemoryDisk::new();
    let store = LayerStore::open_with(Arc::new(disk.clone()), BOOT, small())
        .unwrap()
        .0;
    let image = Golden::new(5);
    let volume = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    volume.write(0, &[0; 8192]).unwrap();
    volume.write(8192, &[3; 4096]).unwrap();
    volume.unmap(ByteRange::new(8192, 4096).unwrap()).unwrap();
    let name = &disk.list("layers/data").unwrap()[0];
    let file = disk
        .open(&format!("layers/data/{name}"), OpenMode::ReadWrite)
        .unwrap();
    file.punch(0, 8192).unwrap();
    assert_eq!(all(&volume)[..12288], [0; 12288]);
}

// --- threads ---

#[test]
fn eight_threads_on_one_volume_agree_with_the_model_through_flushes_and_a_reset() {
    let store = Arc::new(
        LayerStore::open(Arc::new(MemoryDisk::new()), BOOT)
            .unwrap()
            .0,
    );
    let image = Golden::new(5);
    let volume = store.volume(spec(1, &image, Durability::Durable)).unwrap();
    // Each thread owns every eighth sector: neighbours in one block must never swallow each other's.
    let work = |me: usize, volume: &Volume, rounds: usize| -> Option<BTreeMap<usize, u8>> {
        let mut random = Random(me as u64);
        let mut mine = BTreeMap::new();
        for round in 0..rounds {
            let sector = me + 8 * random.below(SIZE as u64 / 512 / 8) as usize;
            let tag = (round % 250) as u8 + 1;
            let range = ByteRange::of_sectors(sector as u64, 1).unwrap();
            let done = match random.below(8) {
                0 => volume.unmap(range).map(|()| Some(0)),
                1 => volume.flush().map(|()| None),
                2 => {
                    let held = volume.read(range).ok()?.to_vec();
                    let expected = mine
                        .get(&sector)
                        .map_or(image.bytes[sector * 512], |tag| *tag);
                    assert_eq!(held[0], expected, "thread {me}, sector {sector}");
                    volume
                        .compare_and_write(range.offset(), &held, &[tag; 512])
                        .map(|found| {
                            assert_eq!(found, Compared::Written);
                            Some(tag)
                        })
                }
                _ => volume
                    .write(range.offset(), &[tag; 512])
                    .map(|()| Some(tag)),
            };
            match done {
                Ok(Some(tag)) => drop(mine.insert(sector, tag)),
                Ok(None) => {}
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Fenced);
                    return None;
                }
            }
        }
        Some(mine)
    };
    let held = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|me| {
                scope.spawn({
                    let volume = &volume;
                    move || work(me, volume, 300)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap().unwrap())
            .collect::<Vec<_>>()
    });
    let mut plain = image.bytes.clone();
    for (sector, tag) in held.into_iter().flatten() {
        plain[sector * 512..][..512].fill(tag);
    }
    assert!(all(&volume) == plain);
    // Now a reset in the midst: everybody is fenced, and nothing of the old generation shows.
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|me| {
                scope.spawn({
                    let volume = &volume;
                    move || write_until_fenced(me, volume)
                })
            })
            .collect();
        store.reset(LayerId(1)).unwrap();
        let fresh = store.volume(spec(1, &image, Durability::Durable)).unwrap();
        assert!(all(&fresh) == image.bytes);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert!(
            all(&fresh) == image.bytes,
            "a write of the old session came through"
        );
    });
}

fn write_until_fenced(me: usize, volume: &Volume) {
    loop {
        match volume.write(me as u64 * 512, &[9; 512]) {
            Ok(()) => {}
            Err(e) => return assert_eq!(e.kind(), ErrorKind::Fenced),
        }
    }
}

/// An image that takes its time, so that what is not locked out gets in between.
#[derive(Debug)]
struct Slow;

impl Base for Slow {
    fn id(&self) -> ImageId {
        ImageId([4; 32])
    }
    fn size(&self) -> u64 {
        64 * 4096
    }
    fn try_read(&self, _offset: u64, _out: &mut [u8]) -> Result<bool> {
        Ok(false)
    }
    fn read(&self, _offset: u64, out: &mut [u8]) -> Result<()> {
        (0..20).for_each(|_| std::thread::yield_now());
        out.fill(0);
        Ok(())
    }
}

fn over_slow_image(work: impl Fn(u64, &Volume) + Sync) -> Vec<u8> {
    let store = memory();
    let spec = VolumeSpec {
        layer: LayerId(1),
        image: Arc::new(Slow),
        durability: Durability::Volatile,
    };
    let volume = store.volume(spec).unwrap();
    let start = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for me in 0..8 {
            let (work, volume, start) = (&work, &volume, &start);
            scope.spawn(move || {
                for block in 0..64 {
                    start.wait();
                    work(me + 8 * block, volume);
                }
            });
        }
    });
    all(&volume)
}

#[test]
fn first_writes_to_the_sectors_of_one_block_do_not_swallow_each_other() {
    let held = over_slow_image(|sector, volume| volume.write(sector * 512, &[7; 512]).unwrap());
    assert!(held.iter().all(|byte| *byte == 7));
}

#[test]
fn or_writes_of_many_threads_to_one_sector_lose_no_bit() {
    let held = over_slow_image(|n, volume| volume.or_write(n / 8 * 4096, &[1 << (n % 8)]).unwrap());
    assert!(held.iter().step_by(4096).all(|byte| *byte == 0xff));
}
