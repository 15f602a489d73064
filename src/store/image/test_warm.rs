//! Cold reads that are shared, boots that are recorded, chunks brought in ahead, and the scrub's manners.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use super::memory::MemoryDisk;
use super::pack::path as pack_path;
use super::test::{data, import, store};
use super::*;
use crate::limits::CHUNK_BYTES;
use crate::limits::CHUNK_LEN as CHUNK;
use crate::store::layer::{Boot, LayerStore, Options};
use crate::store::volume::{Base, Volume, VolumeSpec};
use crate::store::{Durability, LayerId};
use crate::units::ByteRange;

const READERS: u32 = 100;

/// Volumes of their own over one image; their layers lie on another disk.
fn volumes(base: &Arc<dyn Base>, count: u32) -> Vec<Arc<Volume>> {
    let layers: Arc<dyn crate::store::disk::Disk> = Arc::new(MemoryDisk::default());
    let (layers, _) = LayerStore::open_with(layers, Boot::default(), Options::default()).unwrap();
    let open = |number: u32| {
        let spec = VolumeSpec {
            layer: LayerId(number),
            image: Arc::clone(base),
            durability: Durability::Volatile,
        };
        layers.volume(spec).unwrap()
    };
    (1..=count).map(open).collect()
}

fn read(volume: &Volume, range: ByteRange) -> Vec<u8> {
    let payload = match volume.try_read(range).unwrap() {
        Some(warm) => warm,
        None => volume.read(range).unwrap(),
    };
    payload
        .pieces(0..payload.len())
        .collect::<Vec<_>>()
        .concat()
}

#[test]
fn a_hundred_nodes_that_want_one_cold_chunk_make_one_read_of_the_medium() {
    for prefetch in [false, true] {
        let disk = MemoryDisk::default();
        let store = store(&disk);
        let model = data(4, 0, 1);
        let id = import(&store, &model).unwrap().id;
        disk.evict(&pack_path(1));
        let image = store.open_image(id).unwrap();
        let base: Arc<dyn Base> = Arc::clone(&image) as Arc<dyn Base>;
        let volumes = volumes(&base, READERS);
        let before = disk.calls().reads;
        let start = Barrier::new(volumes.len() + usize::from(prefetch));
        thread::scope(|scope| {
            if prefetch {
                let (image, start) = (&image, &start);
                scope.spawn(move || {
                    start.wait();
                    image.fetch(&[Touch { chunk: 2, ms: 0 }]).unwrap();
                });
            }
            for (nth, volume) in volumes.iter().enumerate() {
                let (start, model) = (&start, &model);
                scope.spawn(move || {
                    let at = 2 * CHUNK + nth * 512;
                    let range = ByteRange::new(at as u64, 4096).unwrap();
                    start.wait();
                    assert!(read(volume, range) == model[at..at + 4096]);
                });
            }
        });
        assert_eq!(disk.calls().reads - before, 1, "prefetch: {prefetch}");
    }
}

#[test]
fn a_boot_is_recorded_in_its_order_without_chunks_of_zeros_and_each_chunk_once() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let mut model = data(6, 0, 1);
    model[3 * CHUNK..4 * CHUNK].fill(0);
    let image = store
        .open_image(import(&store, &model).unwrap().id)
        .unwrap();
    let recorder = Arc::new(Recorder::new(image.chunk_count()).unwrap());
    let base: Arc<dyn Base> = Arc::new(Recorded {
        image: Arc::clone(&image),
        recorder: Arc::clone(&recorder),
    });
    let volume = volumes(&base, 1).remove(0);
    let at = |offset: u64, len: u64| ByteRange::new(offset, len).unwrap();
    for range in [
        at(4 * CHUNK_BYTES, 512),
        at(0, 512),
        at(4 * CHUNK_BYTES + 512, 512),
        at(2 * CHUNK_BYTES - 512, 2 * CHUNK_BYTES + 1024),
    ] {
        read(&volume, range);
    }
    // What the node has itself is not the image's.
    volume.write(5 * CHUNK_BYTES, &[7; CHUNK]).unwrap();
    read(&volume, at(5 * CHUNK_BYTES, 4096));
    let touches = recorder.close(&image);
    let chunks: Vec<u32> = touches.iter().map(|t| t.chunk).collect();
    assert_eq!(chunks, [4, 0, 1, 2]);
    assert!(touches.is_sorted_by_key(|t| t.ms));
    read(&volume, at(0, 512));
    assert_eq!(
        recorder.close(&image).len(),
        4,
        "nothing is added once it is closed"
    );
}

#[test]
fn many_readers_are_recorded_without_losing_a_chunk() {
    let recorder = Recorder::new(4096).unwrap();
    thread::scope(|scope| {
        for reader in 0..8_u64 {
            let recorder = &recorder;
            scope.spawn(move || {
                for n in 0..4096 {
                    recorder.note((n * 61 + reader * 512) % 4096 * CHUNK_BYTES, 512);
                }
            });
        }
    });
    assert_eq!(recorder.len(), 4096);
}

#[test]
fn chunks_brought_in_are_warm_until_they_leave_memory() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let model = data(8, 0, 1);
    let image = store
        .open_image(import(&store, &model).unwrap().id)
        .unwrap();
    let wanted: Vec<Touch> = [0, 1, 2, 5, 6].map(|chunk| Touch { chunk, ms: 0 }).into();
    let bring = || {
        let (mut at, before) = (0, disk.calls().reads);
        while at < wanted.len() {
            at += image.fetch(&wanted[at..]).unwrap();
        }
        disk.calls().reads - before
    };
    for pack in 1..=2 {
        disk.evict(&pack_path(pack));
    }
    assert_eq!(image.count_warm(&wanted), 0);
    assert_eq!(bring(), 2, "neighbours come by one read");
    assert_eq!(image.count_warm(&wanted), 5);
    let before = disk.calls().reads;
    let mut out = vec![0; 3 * CHUNK];
    assert!(
        image.try_read(0, &mut out).unwrap(),
        "nobody waits for them"
    );
    assert!(out == model[..3 * CHUNK]);
    assert_eq!(disk.calls().reads, before);
    disk.evict(&pack_path(1));
    assert_eq!(image.count_warm(&wanted), 2, "those of the second pack");
    bring();
    assert_eq!(image.count_warm(&wanted), 5);
}

#[test]
fn a_bad_chunk_in_a_profile_is_told_and_the_others_come() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let image = store
        .open_image(import(&store, &data(3, 0, 1)).unwrap().id)
        .unwrap();
    disk.flip(&pack_path(1), CHUNK + 5);
    disk.evict(&pack_path(1));
    let wanted: Vec<Touch> = [0, 1, 2].map(|chunk| Touch { chunk, ms: 0 }).into();
    let mut at = 0;
    while at < wanted.len() {
        at += image.fetch(&wanted[at..]).unwrap_or(1);
    }
    assert_eq!(image.count_warm(&wanted), 2);
    assert_eq!(store.bad_places().len(), 1);
}

#[test]
fn the_scrub_finds_what_is_bad_and_leaves_memory_as_it_was() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let id = import(&store, &data(5, 0, 1)).unwrap().id;
    let image = store.open_image(id).unwrap();
    disk.evict(&pack_path(1));
    let hot: Vec<Touch> = [1, 3].map(|chunk| Touch { chunk, ms: 0 }).into();
    let cold: Vec<Touch> = [0, 2, 4].map(|chunk| Touch { chunk, ms: 0 }).into();
    for one in &hot {
        image.fetch(&[*one]).unwrap();
    }
    disk.flip(&pack_path(1), 4 * CHUNK);
    let chunks = store.chunks_in(&(0..=9), None).unwrap();
    assert_eq!(chunks.len(), 5);
    let bad: Vec<u32> = chunks
        .iter()
        .filter(|(place, id)| store.patrol(**place, **id).is_err())
        .map(|(place, _)| place.slot)
        .collect();
    assert_eq!(bad, [4]);
    assert_eq!((image.count_warm(&hot), image.count_warm(&cold)), (2, 0));
    let mut byte = [0; 1];
    let file =
        crate::store::disk::Disk::open(&disk, &pack_path(1), crate::store::disk::OpenMode::Read);
    let there = |slot: u32| {
        file.as_ref()
            .unwrap()
            .try_read_at(pack::offset_of(slot), &mut byte)
    };
    let memory: Vec<bool> = (0..5).map(there).map(Result::unwrap).collect();
    assert_eq!(
        memory,
        [false, true, false, true, false],
        "not even unverified"
    );
}

#[test]
fn profiles_are_kept_inherited_and_removed_with_their_images() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let first = data(4, 0, 1);
    let mut second = data(1, 0, 9);
    second.extend_from_slice(&first);
    second[2 * CHUNK..3 * CHUNK].copy_from_slice(&data(1, 0, 8));
    let (old, new) = (
        import(&store, &first).unwrap().id,
        import(&store, &second).unwrap().id,
    );
    let mut profile = Profile::new(old);
    profile.merge(&[0, 1, 3].map(|chunk| Touch { chunk, ms: chunk }));
    store.save_profile(&profile).unwrap();
    assert_eq!(self::store(&disk).profile(old).as_ref(), Some(&profile));
    assert_eq!(store.profile(new), None);
    let next = store.inherited_profile(&profile, new).unwrap();
    let chunks: Vec<u32> = next.wanted().iter().map(|t| t.chunk).collect();
    assert_eq!(chunks, [1, 4], "one on, and chunk 1 has changed");
    store.save_profile(&next).unwrap();
    store.retain_profiles(&|id| id == new).unwrap();
    assert_eq!((store.profile(old), store.profile(new)), (None, Some(next)));
    let path = format!("images/profiles/{new}");
    disk.flip(&path, 70);
    disk.evict(&path);
    assert_eq!(store.profile(new), None, "a damaged one is left out");
    assert!(store.drop_profile(new).unwrap());
    assert!(!store.drop_profile(new).unwrap());
}

/// Prefetch, readers and evictions at the same time: wrong bytes never leave, and all end.
#[test]
fn prefetch_beside_readers_and_evictions_serves_only_what_was_sealed() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let model = data(4, 0, 1);
    let image = store
        .open_image(import(&store, &model).unwrap().id)
        .unwrap();
    let wanted: Vec<Touch> = (0..4).map(|chunk| Touch { chunk, ms: 0 }).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..3_usize {
            let (image, model, stop) = (&image, &model, &stop);
            scope.spawn(move || {
                let mut out = vec![0; CHUNK + 512];
                while !stop.load(Ordering::Relaxed) {
                    let at = reader * CHUNK;
                    let ok = image.try_read(at as u64, &mut out).unwrap();
                    let ok = ok || image.read(at as u64, &mut out).is_ok();
                    assert!(ok && out == model[at..at + out.len()]);
                }
            });
        }
        for _ in 0..200 {
            disk.evict(&pack_path(1));
            let mut at = 0;
            while at < wanted.len() {
                at += image.fetch(&wanted[at..]).unwrap();
            }
            store
                .patrol(Place { pack: 1, slot: 1 }, image.chunk_id(1).unwrap())
                .unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}
