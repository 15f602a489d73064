//! Flipped bits, one at a time, anywhere in the files of an image store: what was sealed is served, or the
//! damage is told; wrong bytes never.

use std::sync::Arc;

use super::memory::MemoryDisk;
use super::pack::path as pack_path;
use super::test::{data, import, read_all, store};
use super::*;
use crate::limits::CHUNK_BYTES;
use crate::limits::CHUNK_LEN as CHUNK;
use crate::store::ImageId;
use crate::store::error::ErrorKind;

/// What a campaign came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    tried: u64,
    /// The image was not opened.
    refused: u64,
    /// The ranges of the flipped chunk were, and all others were right.
    caught: u64,
    /// No image has the byte.
    harmless: u64,
}

/// How many times as far as usual: `REVEILLE_SEEDS`.
fn times() -> u64 {
    let times = std::env::var("REVEILLE_SEEDS");
    times.ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Three versions that share chunks, with holes, over two packs of five slots; the last chunk is short.
fn versions() -> Vec<Vec<u8>> {
    let mut first = data(4, 0, 1);
    first[CHUNK..2 * CHUNK].fill(0);
    let mut second = first.clone();
    second[2 * CHUNK..3 * CHUNK].copy_from_slice(&data(1, 0, 2));
    second.extend_from_slice(&data(1, CHUNK - 1536, 3));
    let mut third = second.clone();
    third[..CHUNK].copy_from_slice(&data(1, 0, 4));
    third.extend_from_slice(&first[2 * CHUNK..3 * CHUNK]);
    third.truncate(6 * CHUNK - 512);
    vec![first, second, third]
}

struct Bench {
    disk: MemoryDisk,
    images: Vec<(ImageId, Vec<u8>)>,
}

fn bench() -> Bench {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let images = versions().into_iter();
    let images = images.map(|model| (import(&store, &model).unwrap().id, model));
    let images: Vec<_> = images.collect();
    assert_eq!(disk.names("images/packs").len(), 2, "over two packs");
    Bench { disk, images }
}

impl Bench {
    /// Reads every sector of every image of a store opened afresh. `bad` says which chunks of which image may
    /// fail, and then must.
    fn judge(&self, bad: &dyn Fn(&ImageChunk) -> bool, tally: &mut Tally) {
        let store = store(&self.disk);
        let mut failed = 0;
        for (id, model) in &self.images {
            let image = store.open_image(*id).unwrap();
            let hit: Vec<u64> = image.chunks().filter(bad).map(|c| c.index).collect();
            for (index, part) in (0_u64..).zip(model.chunks(CHUNK)) {
                // Odd places within the chunk, over its end, and the whole of it.
                for (from, len) in [(0, part.len()), (part.len() - 512, 512), (512, 512)] {
                    let at = index * CHUNK_BYTES + from as u64;
                    let mut out = vec![0xee; len];
                    match image.read(at, &mut out) {
                        Ok(()) => {
                            assert!(!hit.contains(&index), "{id} chunk {index} was served");
                            assert!(out == part[from..from + len], "{id} {at}: wrong bytes");
                        }
                        Err(e) => {
                            assert!(hit.contains(&index), "{id} chunk {index}: {e}");
                            assert_eq!(e.kind(), ErrorKind::Corrupt);
                            assert_eq!(e.disk_offset(), Some(at), "{e}");
                            assert!(out.iter().all(|&b| b == 0xee), "bytes left");
                            failed += 1;
                        }
                    }
                }
            }
        }
        tally.tried += 1;
        match failed {
            0 => tally.harmless += 1,
            _ => tally.caught += 1,
        }
        let told = store.take_bad_news().len();
        assert_eq!(told, usize::from(failed > 0), "each place is told once");
    }
}

/// Offsets of a slot that are tried: its ends, a middle, and more with `REVEILLE_SEEDS`.
fn offsets(slot: u32) -> Vec<usize> {
    let more = (times() - 1) * 16;
    let mut at = vec![0, 1, CHUNK / 2, CHUNK - 513, CHUNK - 1];
    at.extend((0..more).map(|n| {
        let throw =
            blake3::hash(&[slot.to_le_bytes(), u32::try_from(n).unwrap().to_le_bytes()].concat());
        usize::from(u16::from_le_bytes(*throw.as_bytes().first_chunk().unwrap()))
    }));
    at
}

#[test]
fn every_flip_in_a_pack_fails_the_ranges_of_its_chunk_and_no_others() {
    let bench = bench();
    let mut tally = Tally::default();
    for pack in 1..=2 {
        let path = pack_path(pack);
        let slots = u32::try_from(bench.disk.bytes(&path).len() / CHUNK).unwrap();
        for slot in 0..slots {
            for at in offsets(slot) {
                let at = slot as usize * CHUNK + at;
                bench.disk.flip(&path, at);
                bench.disk.evict(&path);
                let place = Place { pack, slot };
                bench.judge(&|chunk| chunk.place == place, &mut tally);
                bench.disk.flip(&path, at);
                bench.disk.evict(&path);
            }
        }
    }
    println!("packs: {tally:?}");
    assert_eq!((tally.caught, tally.harmless), (tally.tried, 0));
    assert!(tally.tried >= 30, "{tally:?}");
    bench.judge(&|_| false, &mut tally);
}

#[test]
fn every_flip_in_a_manifest_is_refused_and_harms_no_other_image() {
    let bench = bench();
    let mut tally = Tally::default();
    for (id, _) in &bench.images {
        let path = survey::manifest_path(*id);
        // Header, bits, ids, places and checksum: every byte of it, each bit with REVEILLE_SEEDS.
        let bits = if times() > 1 { 8 } else { 1 };
        for at in 0..bench.disk.bytes(&path).len() {
            for bit in 0..bits {
                bench.disk.flip_bit(&path, at, bit);
                bench.disk.evict(&path);
                let store = store(&bench.disk);
                let e = store.open_image(*id).unwrap_err();
                assert!(
                    [ErrorKind::Corrupt, ErrorKind::NewerVersion].contains(&e.kind()),
                    "byte {at}: {e}"
                );
                assert!(e.to_string().contains(&path), "{e}");
                tally.tried += 1;
                tally.refused += 1;
                bench.disk.flip_bit(&path, at, bit);
                bench.disk.evict(&path);
            }
        }
        // The others do not notice.
        bench.disk.flip(&path, 70);
        bench.disk.evict(&path);
        let store = store(&bench.disk);
        for (other, model) in bench.images.iter().filter(|(other, _)| other != id) {
            assert!(read_all(&store.open_image(*other).unwrap()).unwrap() == *model);
        }
        bench.disk.flip(&path, 70);
        bench.disk.evict(&path);
    }
    println!("manifests: {tally:?}");
    assert_eq!(tally.refused, tally.tried);
}

#[test]
fn every_cut_of_a_pack_is_refused_at_open() {
    let bench = bench();
    let whole = bench.disk.bytes(&pack_path(1)).len();
    for len in [0, 1, CHUNK, whole - CHUNK, whole - 1] {
        let disk = bench.disk.deep_copy();
        disk.cut(&pack_path(1), len);
        // The second version names the last slot of the first pack.
        let (id, _) = bench.images[1];
        let e = store(&disk).open_image(id).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{len}: {e}");
    }
}

#[test]
fn a_repair_of_one_version_mends_all_of_them_under_open_images() {
    let bench = bench();
    let store = store(&bench.disk);
    let open: Vec<Arc<Image>> = bench
        .images
        .iter()
        .map(|(id, _)| store.open_image(*id).unwrap())
        .collect();
    // The chunk that is last in all three: of the first version chunk 3.
    let shared = open[0].chunks().last().unwrap();
    assert!(
        open.iter()
            .all(|image| image.chunk_id(3) == Some(shared.id))
    );
    let path = pack_path(shared.place.pack);
    bench
        .disk
        .flip(&path, shared.place.slot as usize * CHUNK + 9);
    bench.disk.evict(&path);
    for image in &open {
        assert_eq!(read_all(image).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert_eq!(store.bad_places().len(), 1);
    let again = import(&store, &bench.images[0].1).unwrap();
    assert_eq!((again.mended, again.new_chunks), (1, 0));
    assert_eq!(store.bad_places(), []);
    for (image, (_, model)) in open.iter().zip(&bench.images) {
        assert!(read_all(image).unwrap() == *model);
    }
    bench.disk.evict(&path);
    for (image, (_, model)) in open.iter().zip(&bench.images) {
        assert!(read_all(image).unwrap() == *model, "on the medium too");
    }
}

#[test]
fn an_import_after_a_restart_repairs_what_was_found_before() {
    let bench = bench();
    let (id, model) = &bench.images[2];
    bench.disk.flip(&pack_path(1), 9);
    bench.disk.evict(&pack_path(1));
    let first = store(&bench.disk);
    let found = super::test::verify(&first, bench.images[0].0).unwrap();
    assert_eq!(found.len(), 1);
    drop(first);
    let store = store(&bench.disk);
    assert_eq!(store.bad_places().len(), 1, "known after the restart");
    assert_eq!(import(&store, &bench.images[0].1).unwrap().mended, 1);
    assert!(read_all(&store.open_image(*id).unwrap()).unwrap() == *model);
    drop(store);
    assert_eq!(self::store(&bench.disk).bad_places(), []);
}

#[test]
fn a_repair_that_is_killed_leaves_the_chunk_bad_or_good_and_nothing_else_harmed() {
    let bench = bench();
    bench.disk.flip(&pack_path(1), 9);
    bench.disk.evict(&pack_path(1));
    super::test::verify(&store(&bench.disk), bench.images[0].0).unwrap();
    let model = &bench.images[0].1;
    for changes in 0..40 {
        let disk = bench.disk.deep_copy();
        let victim = store(&disk);
        disk.die_after(changes);
        let done = import(&victim, model).is_ok();
        drop(victim);
        disk.revive();
        let mut throws = blake3::Hasher::new()
            .update(&u64::to_le_bytes(changes))
            .finalize_xof();
        disk.cut_power(&mut || {
            let mut byte = [0];
            throws.fill(&mut byte);
            byte[0] & 1 == 1
        });
        let store = store(&disk);
        for (id, model) in &bench.images {
            let image = store.open_image(*id).unwrap();
            for (index, part) in (0_u64..).zip(model.chunks(CHUNK)) {
                let mut out = vec![0; part.len()];
                if image.read(index * CHUNK_BYTES, &mut out).is_ok() {
                    assert!(out == *part, "wrong bytes after {changes}");
                } else {
                    assert!(index == 0 && !done, "chunk {index} after {changes}");
                }
            }
        }
        import(&store, model).unwrap();
        for (id, model) in &bench.images {
            assert!(read_all(&store.open_image(*id).unwrap()).unwrap() == *model);
        }
    }
}
