//! Flipped bits, evictions, kills, power cuts and damage: nothing wrong leaves, nothing sealed is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::memory::{Around, MemoryDisk};
use super::pack::path as pack_path;
use super::test::{Hidden, Meddling, Plain, data, import, read_all, store, verify};
use super::*;
use crate::limits::CHUNK_BYTES;
use crate::limits::CHUNK_LEN as CHUNK;
use crate::store::disk::{Disk, OpenMode};
use crate::store::disk_file::RealDisk;
use crate::store::error::ErrorKind;

#[test]
fn a_flipped_bit_is_noticed_before_its_bytes_leave() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let model = data(4, 0, 1);
    let id = import(&store, &model).unwrap().id;
    disk.evict(&pack_path(1));
    disk.flip(&pack_path(1), 2 * CHUNK + 77);
    let image = store.open_image(id).unwrap();
    let mut out = vec![0xee; 512];
    let at = 2 * CHUNK_BYTES + 4096;
    let e = image.read(at, &mut out).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    for part in [
        id.to_string(),
        "chunk 2".into(),
        "disk offset 131072".into(),
        pack_path(1),
        "at offset 131072".into(),
    ] {
        assert!(e.to_string().contains(&part), "{e} lacks {part}");
    }
    assert!(out.iter().all(|&b| b == 0xee), "bytes left");
    assert!(!image.try_read(at, &mut out).unwrap());
    let mut out = vec![0; CHUNK];
    image.read(CHUNK_BYTES, &mut out).unwrap();
    assert!(out == model[CHUNK..2 * CHUNK], "its neighbour is fine");
    let mut out = vec![0; 4 * CHUNK];
    let e = image.read(0, &mut out).unwrap_err();
    assert!(e.to_string().contains("chunk 2"), "{e}");
    let bad = verify(&store, id).unwrap();
    assert_eq!(
        bad.iter().map(|b| (b.index, b.offset)).collect::<Vec<_>>(),
        [(2, 131_072)]
    );
}

#[test]
fn a_bit_flipped_on_the_medium_after_the_check_is_noticed_when_it_is_read_again() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let model = data(2, 0, 1);
    let image = store
        .open_image(import(&store, &model).unwrap().id)
        .unwrap();
    assert!(read_all(&image).unwrap() == model);
    disk.flip(&pack_path(1), 10);
    let mut out = vec![0; 512];
    assert!(image.try_read(0, &mut out).unwrap(), "still in memory");
    assert!(out == model[..512], "memory holds the checked bytes");
    disk.evict(&pack_path(1));
    assert!(!image.try_read(0, &mut out).unwrap(), "gone from memory");
    let before = disk.calls().tries;
    assert!(!image.try_read(0, &mut out).unwrap());
    assert_eq!(
        disk.calls().tries,
        before,
        "known to be gone, not asked again"
    );
    assert_eq!(
        image.read(0, &mut out).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    assert!(
        !image.try_read(0, &mut out).unwrap(),
        "in memory again, but bad"
    );
    image.read(CHUNK_BYTES, &mut out).unwrap();
}

#[test]
fn verify_asks_the_medium_and_not_memory() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let model = data(3, 0, 1).repeat(2);
    let id = import(&store, &model).unwrap().id;
    let image = store.open_image(id).unwrap();
    assert!(read_all(&image).unwrap() == model);
    disk.flip(&pack_path(1), CHUNK + 10);
    let bad = verify(&store, id).unwrap();
    assert_eq!(
        bad.iter().map(|b| b.index).collect::<Vec<_>>(),
        [1, 4],
        "both that share the chunk"
    );
    assert!(bad[0].why.contains(&pack_path(1)), "{}", bad[0].why);
}

#[test]
fn importing_again_repairs_a_bad_chunk() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let model = data(4, 0, 1);
    let id = import(&store, &model).unwrap().id;
    disk.flip(&pack_path(1), CHUNK + 10);
    assert_eq!(verify(&store, id).unwrap().len(), 1);
    let again = import(&store, &model).unwrap();
    assert_eq!((again.id, again.new_chunks, again.already), (id, 0, true));
    assert_eq!(again.mended, 1);
    assert_eq!(verify(&store, id).unwrap(), []);
    assert!(read_all(&store.open_image(id).unwrap()).unwrap() == model);
    assert!(read_all(&self::store(&disk).open_image(id).unwrap()).unwrap() == model);
}

/// The race that the second look at the states is for: while a reader copies, the pages leave memory, come
/// back changed, leave again, and come back as they were.
#[test]
fn bytes_that_changed_under_a_reader_do_not_leave() {
    for comes_back in [false, true] {
        let disk = MemoryDisk::default();
        let store = store(&disk);
        let model = data(2, 0, 1);
        let image = store
            .open_image(import(&store, &model).unwrap().id)
            .unwrap();
        assert!(read_all(&image).unwrap() == model);
        let reload = |good: bool| {
            let (disk, image) = (disk.clone(), Arc::clone(&image));
            move || {
                disk.flip(&pack_path(1), 10);
                disk.evict(&pack_path(1));
                assert_eq!(image.read(0, &mut [0; 512]).is_ok(), good);
            }
        };
        let after: Box<dyn FnOnce() + Send> = match comes_back {
            true => Box::new(reload(true)),
            false => Box::new(|| {}),
        };
        disk.around_next_try(Around {
            before: Box::new(reload(false)),
            after,
        });
        let mut out = [0; 512];
        assert!(
            !image.try_read(0, &mut out).unwrap(),
            "comes back: {comes_back}"
        );
        assert!(out != model[..512], "the reader did copy changed bytes");
    }
}

/// Many readers while pages leave memory and bits flip on the medium: wrong bytes never leave. Whatever is held in
/// memory of our own: nothing, one chunk at a time, or both.
#[test]
fn no_wrong_byte_leaves_under_eviction_and_flips() {
    for chunks in 0..3 {
        storm_under_flips(chunks * CHUNK as u64);
    }
}

fn storm_under_flips(hot: u64) {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    store.set_hot_bytes(hot);
    let model = data(2, 0, 1);
    let image = store
        .open_image(import(&store, &model).unwrap().id)
        .unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..3_usize {
            let (image, model, stop) = (&image, &model, &stop);
            scope.spawn(move || {
                let mut out = vec![0; 3 * 4096];
                while !stop.load(Ordering::Relaxed) {
                    let at = (reader * 4096 + CHUNK - 8192) % CHUNK;
                    let ok = image.try_read(at as u64, &mut out).unwrap();
                    let ok = ok || image.read(at as u64, &mut out).is_ok();
                    assert!(!ok || out == model[at..at + out.len()], "wrong bytes left");
                }
            });
        }
        for round in 0..400 {
            disk.flip(&pack_path(1), (round * 97) % CHUNK);
            disk.evict(&pack_path(1));
            thread::yield_now();
            // And back, so that it can be verified again at times.
            disk.flip(&pack_path(1), (round * 97) % CHUNK);
            disk.evict(&pack_path(1));
            thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    disk.evict(&pack_path(1));
    assert!(read_all(&image).unwrap() == model);
}

/// A fair coin, the same throws each run.
fn coin() -> impl FnMut() -> bool {
    let mut throws = blake3::Hasher::new().update(b"coin").finalize_xof();
    move || {
        let mut byte = [0];
        throws.fill(&mut byte);
        byte[0] & 1 == 1
    }
}

/// Kills an import after each number of changes, cuts the power, and looks at what is left.
#[test]
fn a_killed_import_leaves_nothing_and_harms_nothing() {
    let (old, new) = (
        data(7, 512, 1),
        [data(3, 0, 1), vec![0; CHUNK], data(6, 0, 2)].concat(),
    );
    let mut coin = coin();
    for power in [false, true, true, true] {
        for step in 0.. {
            let disk = MemoryDisk::default();
            let old_id = import(&store(&disk), &old).unwrap().id;
            let first = store(&disk);
            disk.die_after(step);
            let outcome = import(&first, &new);
            disk.revive();
            if power {
                disk.cut_power(&mut coin);
            }
            let again = store(&disk);
            assert_eq!(disk.names("images/tmp"), Vec::<String>::new());
            assert!(
                read_all(&again.open_image(old_id).unwrap()).unwrap() == old,
                "step {step}"
            );
            assert_eq!(verify(&again, old_id).unwrap(), []);
            if let Ok(done) = &outcome {
                assert!(read_all(&again.open_image(done.id).unwrap()).unwrap() == new);
            }
            let done = import(&again, &new).unwrap();
            assert!(
                read_all(&again.open_image(done.id).unwrap()).unwrap() == new,
                "step {step}"
            );
            assert_eq!(verify(&again, done.id).unwrap(), []);
            let slots: usize = disk
                .names(pack::PACKS)
                .iter()
                .map(|n| disk.bytes(&format!("{}/{n}", pack::PACKS)).len() / CHUNK)
                .sum();
            assert_eq!(slots, 13, "space was lost at step {step}");
            if outcome.is_ok() {
                assert!(step > 8, "the test saw the steps of an import");
                break;
            }
        }
    }
}

/// The same for a collection.
#[test]
fn a_killed_collection_harms_nothing() {
    let (keep, drop) = (
        [data(3, 0, 1), data(3, 0, 2)].concat(),
        [data(2, 0, 3), data(3, 0, 1), data(9, 0, 4)].concat(),
    );
    let mut coin = coin();
    for power in [false, true, true, true, true, true] {
        for step in 0.. {
            let disk = MemoryDisk::default();
            let setup = store(&disk);
            let drop_id = import(&setup, &drop).unwrap().id;
            let keep_id = import(&setup, &keep).unwrap().id;
            let first = store(&disk);
            disk.die_after(step);
            let outcome = first.collect(&|id| id == keep_id);
            disk.revive();
            if power {
                disk.cut_power(&mut coin);
            }
            let again = store(&disk);
            assert_eq!(verify(&again, keep_id).unwrap(), []);
            // Either gone, or whole: a manifest never outlives its chunks.
            if again.contains(drop_id).unwrap() {
                assert_eq!(verify(&again, drop_id).unwrap(), [], "step {step}");
            }
            again.collect(&|id| id == keep_id).unwrap();
            assert!(!again.contains(drop_id).unwrap());
            assert!(read_all(&again.open_image(keep_id).unwrap()).unwrap() == keep);
            if outcome.is_ok() {
                assert!(step > 3, "the test saw the steps of a collection");
                break;
            }
        }
    }
}

#[test]
fn a_cancelled_import_gives_its_space_back() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let kept = data(2, 0, 9);
    let id = import(&store, &kept).unwrap().id;
    let cancel = AtomicBool::new(false);
    let plain = Plain {
        bytes: data(300, 0, 1),
        grain: 0,
    };
    let mut reads = 0;
    let stop = || {
        reads += 1;
        cancel.store(reads == 15, Ordering::Relaxed);
    };
    let done = store.import(&mut Meddling(plain, Hidden(stop)), &|_| {}, &cancel);
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(disk.names(pack::PACKS), ["00000001.pack"]);
    assert_eq!(disk.bytes(&pack_path(1)).len(), 2 * CHUNK);
    assert_eq!(store.list().unwrap(), [id]);
}

#[test]
fn a_damaged_manifest_is_refused_and_its_chunks_are_kept() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let id = import(&store, &data(3, 0, 1)).unwrap().id;
    let path = survey::manifest_path(id);
    disk.flip(&path, 70);
    disk.evict(&path);
    assert_eq!(store.open_image(id).unwrap_err().kind(), ErrorKind::Corrupt);
    let packs = disk.bytes(&pack_path(1));
    let other = import(&store, &data(2, 0, 2)).unwrap().id;
    assert_eq!(verify(&store, other).unwrap(), []);
    let e = store.collect(&|_| true).unwrap_err();
    assert!(
        e.kind() == ErrorKind::Corrupt && e.to_string().contains(&id.to_string()),
        "{e}"
    );
    assert!(disk.bytes(&pack_path(1)) == packs, "its pack is untouched");
    // Importing it again writes a good manifest.
    assert!(import(&store, &data(3, 0, 1)).unwrap().already);
    assert_eq!(verify(&store, id).unwrap(), []);
    store.collect(&|_| true).unwrap();
}

#[test]
fn a_pack_that_is_short_or_missing_is_named() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let id = import(&store, &data(3, 0, 1)).unwrap().id;
    disk.cut(&pack_path(1), 2 * CHUNK + 100);
    let e = store.open_image(id).unwrap_err();
    assert!(
        e.kind() == ErrorKind::Corrupt && e.to_string().contains(&pack_path(1)),
        "{e}"
    );
    crate::store::disk::Disk::remove(&disk, &pack_path(1)).unwrap();
    let e = store.open_image(id).unwrap_err();
    assert!(
        e.kind() == ErrorKind::Corrupt && e.to_string().contains(&pack_path(1)),
        "{e}"
    );
}

/// The same with real files and the kernel's own page cache.
#[test]
fn real_pages_that_left_memory_are_checked_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(dir.path()));
    let store = ImageStore::open(disk.clone()).unwrap();
    let model = data(4, 0, 1);
    let image = store
        .open_image(import(&store, &model).unwrap().id)
        .unwrap();
    assert!(read_all(&image).unwrap() == model);
    let pack = disk.open(&pack_path(1), OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    pack.read_at(CHUNK_BYTES + 5, &mut byte).unwrap();
    pack.write_at(CHUNK_BYTES + 5, &[byte[0] ^ 1]).unwrap();
    pack.sync().unwrap();
    pack.advise_unneeded(0, 4 * CHUNK_BYTES);
    let mut out = vec![0; 4 * CHUNK];
    // Some file systems live in memory: nothing can leave it there.
    if image.try_read(0, &mut out).unwrap() {
        return;
    }
    let e = image.read(0, &mut out).unwrap_err();
    assert!(
        e.kind() == ErrorKind::Corrupt && e.to_string().contains("chunk 1 "),
        "{e}"
    );
    image.read(2 * CHUNK_BYTES, &mut out[..2 * CHUNK]).unwrap();
    assert!(
        image
            .try_read(2 * CHUNK_BYTES, &mut out[..2 * CHUNK])
            .unwrap(),
        "warm again"
    );
    assert!(out[..2 * CHUNK] == model[2 * CHUNK..]);
    assert_eq!(verify(&store, image.id()).unwrap().len(), 1);
}
