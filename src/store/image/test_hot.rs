//! Chunks held in memory of our own: what is served from them, what comes in, what never does.

use std::sync::Arc;

use super::memory::MemoryDisk;
use super::pack::path as pack_path;
use super::test::{data, import, read_all, store, verify};
use super::*;
use crate::limits::CHUNK_LEN as CHUNK;
use crate::limits::{CHUNK_BYTES, HOT_READS_PER_LOOK};
use crate::store::ErrorKind;

/// A store with one image of four chunks, a hole, and a short one; nothing of it in memory.
fn cold(budget: u64) -> (MemoryDisk, ImageStore, Arc<Image>, Vec<u8>) {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let model = [data(4, 0, 1), vec![0; CHUNK], data(1, 512, 9)].concat();
    let id = import(&store, &model).unwrap().id;
    store.set_hot_bytes(budget);
    disk.evict(&pack_path(1));
    let image = store.open_image(id).unwrap();
    (disk, store, image, model)
}

fn shared(image: &Image, at: usize, len: usize) -> Option<Vec<u8>> {
    let payload = image.try_share(at as u64, len).unwrap()?;
    Some(payload.to_vec())
}

#[test]
fn what_was_read_once_is_shared_whatever_becomes_of_the_page_cache_and_the_medium() {
    let (disk, store, image, model) = cold(64 * CHUNK_BYTES);
    assert_eq!(shared(&image, 0, 4096), None);
    assert_eq!(read_all(&image).unwrap(), model);
    assert_eq!(
        store.hot_bytes().held,
        5 * CHUNK_BYTES,
        "the hole takes nothing"
    );
    disk.evict(&pack_path(1));
    disk.flip(&pack_path(1), 5);
    let (reads, tries) = (disk.calls().reads, disk.calls().tries);
    for (at, len) in [
        (0, 1),
        (0, model.len()),
        (CHUNK - 1, 2),
        (CHUNK / 2, 3 * CHUNK),
        (4 * CHUNK - 512, CHUNK + 1024),
        (model.len() - 512, 512),
        (7, 0),
    ] {
        assert_eq!(
            shared(&image, at, len).unwrap(),
            model[at..at + len],
            "{at} {len}"
        );
        let mut out = vec![1; len];
        assert!(image.try_read(at as u64, &mut out).unwrap());
        assert_eq!(out, model[at..at + len], "{at} {len}");
    }
    assert_eq!((disk.calls().reads, disk.calls().tries), (reads, tries));
    let outside = image.try_share(model.len() as u64 - 1, 2).unwrap_err();
    assert_eq!(outside.kind(), ErrorKind::OutOfBounds);
}

#[test]
fn two_versions_share_what_is_held() {
    let (_disk, store, image, mut model) = cold(64 * CHUNK_BYTES);
    read_all(&image).unwrap();
    model[0] ^= 1;
    let next = import(&store, &model).unwrap();
    let held = store.hot_bytes().held;
    let next = store.open_image(next.id).unwrap();
    assert_eq!(shared(&next, 0, 1), None, "that chunk is another one");
    let rest = CHUNK..model.len();
    assert_eq!(shared(&next, rest.start, rest.len()).unwrap(), model[rest]);
    assert_eq!(store.hot_bytes().held, held);
}

#[test]
fn bad_bytes_are_not_held() {
    let (disk, store, image, _) = cold(64 * CHUNK_BYTES);
    disk.flip(&pack_path(1), CHUNK + 5);
    assert_eq!(read_all(&image).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(shared(&image, CHUNK, 1), None);
    assert!(store.hot_bytes().held <= 4 * CHUNK_BYTES);
}

#[test]
fn a_look_at_all_chunks_holds_none_of_them() {
    let (_, store, image, _) = cold(64 * CHUNK_BYTES);
    assert_eq!(verify(&store, image.id()).unwrap(), []);
    assert_eq!(store.hot_bytes().held, 0);
}

#[test]
fn a_patrol_leaves_the_page_cache_without_what_is_held() {
    let (disk, store, image, _) = cold(64 * CHUNK_BYTES);
    read_all(&image).unwrap();
    disk.evict(&pack_path(1));
    for chunk in image.chunks() {
        store.patrol(chunk.place, chunk.id).unwrap();
    }
    assert_eq!(disk.cached(&pack_path(1)), 0);
}

#[test]
fn a_scrub_finds_on_the_medium_what_the_held_bytes_hide() {
    let (disk, store, image, model) = cold(64 * CHUNK_BYTES);
    read_all(&image).unwrap();
    disk.flip(&pack_path(1), 5);
    assert_eq!(verify(&store, image.id()).unwrap().len(), 1);
    // Nodes are not worse off for having been told.
    assert_eq!(shared(&image, 0, CHUNK).unwrap(), model[..CHUNK]);
}

#[test]
fn what_the_page_cache_serves_again_and_again_is_held_at_last() {
    let (disk, store, image, model) = cold(0);
    read_all(&image).unwrap();
    store.set_hot_bytes(64 * CHUNK_BYTES);
    let mut out = [0; 512];
    for _ in 0..2 * HOT_READS_PER_LOOK {
        assert!(image.try_read(512, &mut out).unwrap());
    }
    disk.evict(&pack_path(1));
    assert_eq!(shared(&image, 512, 512).unwrap(), model[512..1024]);
}

#[test]
fn a_budget_too_small_for_the_boot_is_kept_and_all_is_served() {
    let (_, store, image, model) = cold(2 * CHUNK_BYTES);
    for _ in 0..50 {
        assert_eq!(read_all(&image).unwrap(), model);
        assert!(store.hot_bytes().held <= 2 * CHUNK_BYTES);
    }
}
