//! Bad chunks as facts, the scrub over restarts, boots that are recorded and their chunks brought in.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::test::{Bench, name};
use super::*;
use crate::catalog::{ImageRef, LayerMode};
use crate::events::{Event, EventKind, ReadyBy};
use crate::limits::{CHUNK_BYTES, CHUNK_LEN};
use crate::store::Payload;
use crate::units::ByteRange;

const CHUNKS: usize = 12;

/// A disk of chunks that are all different.
fn disk(salt: u8) -> Vec<u8> {
    let mut bytes = vec![0; CHUNKS * CHUNK_LEN];
    blake3::Hasher::new()
        .update(&[salt])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn import(bench: &Bench, image: &str, bytes: &[u8]) -> ImageImported {
    let path = bench.state().join("../golden.raw");
    std::fs::write(&path, bytes).unwrap();
    let ask = ImageImport {
        parents: None,
        path,
        name: ImageRef::parse(image).unwrap(),
        format: "raw".into(),
        arch: None,
        note: None,
        tags: Vec::new(),
        dry_run: false,
    };
    let done = bench
        .head()
        .image_import(&ask, &|_| (), &AtomicBool::new(false));
    done.unwrap()
}

fn pack(bench: &Bench) -> PathBuf {
    bench.state().join("store/images/packs/00000001.pack")
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path);
    let (file, mut byte) = (file.unwrap(), [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn events(bench: &Bench) -> Vec<Arc<Event>> {
    bench.head().bus().since(0)
}

fn bad_events(bench: &Bench) -> Vec<EventKind> {
    let all = events(bench);
    let bad = all.iter().map(|e| e.kind.clone());
    bad.filter(|k| matches!(k, EventKind::ChunkBad { .. }))
        .collect()
}

fn read(volume: &crate::store::Volume, chunk: u64) -> crate::store::Result<Payload> {
    volume.read(ByteRange::new(chunk * CHUNK_BYTES, 4096).unwrap())
}

/// Two versions of `g` that share chunks; n1 stands on the first, n2 on the second, n3 on another image.
fn bench() -> Bench {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let first = disk(1);
    let mut second = first.clone();
    second[..CHUNK_LEN].copy_from_slice(&disk(2)[..CHUNK_LEN]);
    import(&bench, "g", &first);
    import(&bench, "g", &second);
    bench.set_image("n1", "g:1");
    bench.set_image("n2", "g:2");
    for node in ["n1", "n2", "n3"] {
        bench.boot(node);
    }
    bench
}

/// Slot of the pack where chunk `number` of version 1 of `g` lies: behind the one chunk of image `d`.
const fn slot(number: u64) -> u64 {
    number + 1
}

#[test]
fn a_bad_chunk_is_told_once_with_versions_range_place_and_nodes() {
    let bench = bench();
    flip(&pack(&bench), slot(5) * CHUNK_BYTES + 100);
    for node in ["n1", "n2"] {
        let attached = bench.os(node);
        for _ in 0..3 {
            let e = read(&attached.volume, 5).unwrap_err();
            assert_eq!(e.disk_offset(), Some(5 * CHUNK_BYTES));
            bench.head().tell_bad();
        }
        assert!(read(&attached.volume, 6).is_ok());
    }
    let told = bad_events(&bench);
    let [
        EventKind::ChunkBad {
            chunks,
            pack,
            pack_offset,
            nodes,
            ..
        },
    ] = &told[..]
    else {
        panic!("not told once: {told:?}")
    };
    let named: Vec<_> = chunks
        .iter()
        .map(|c| (c.image.as_str(), c.chunk, c.from, c.to))
        .collect();
    let (from, to) = (5 * CHUNK_BYTES, 6 * CHUNK_BYTES - 1);
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named.contains(&("g:1", 5, from, to)) && named.contains(&("g:2", 5, from, to)));
    assert_eq!(
        (pack.as_str(), *pack_offset),
        ("images/packs/00000001.pack", slot(5) * CHUNK_BYTES)
    );
    assert_eq!(nodes.to_string(), "n[1-2]");
    let hurt = bench.head().damaged_nodes().unwrap();
    assert_eq!(
        hurt.keys().map(ToString::to_string).collect::<Vec<_>>(),
        ["n1", "n2"]
    );
    let shown = bench
        .head()
        .image_show(&ImageRef::parse("g:2").unwrap())
        .unwrap();
    assert_eq!(shown.versions[0].bad.len(), 1);
    assert_eq!(shown.versions[0].bad[0].nodes.to_string(), "n2");
    let metrics = bench.head().upkeep_metrics();
    assert!(metrics.contains("reveille_image_bad_places 1"), "{metrics}");
    assert!(
        metrics.contains("reveille_image_bad_chunks{image=\"g:2\"} 1"),
        "{metrics}"
    );
}

#[test]
fn a_repair_takes_effect_under_running_nodes_and_is_told() {
    let bench = bench();
    flip(&pack(&bench), slot(5) * CHUNK_BYTES + 100);
    let (one, two) = (bench.os("n1"), bench.os("n2"));
    assert!(read(&one.volume, 5).is_err() && read(&two.volume, 5).is_err());
    bench.head().tell_bad();
    let done = import(&bench, "g", &disk(1));
    assert_eq!((done.mended, done.new_chunks, done.already), (1, 0, true));
    for attached in [&one, &two] {
        let payload = read(&attached.volume, 5).unwrap();
        let bytes: Vec<&[u8]> = payload.pieces(0..payload.len()).collect();
        assert!(bytes.concat() == disk(1)[5 * CHUNK_LEN..5 * CHUNK_LEN + 4096]);
    }
    bench.head().tell_bad();
    let healed = |e: &Arc<Event>| matches!(e.kind, EventKind::ChunkHealed { .. });
    assert_eq!(events(&bench).iter().filter(|e| healed(e)).count(), 1);
    assert_eq!(bench.head().damages().unwrap(), []);
}

#[test]
fn what_is_bad_is_known_after_a_restart_and_not_told_again() {
    let mut bench = bench();
    flip(&pack(&bench), slot(5) * CHUNK_BYTES + 100);
    assert!(read(&bench.os("n1").volume, 5).is_err());
    bench.head().tell_bad();
    bench.reopen();
    assert_eq!(bench.head().damages().unwrap().len(), 2);
    bench.head().tell_bad();
    assert_eq!(bad_events(&bench), []);
    assert_eq!(import(&bench, "g", &disk(1)).mended, 1);
    assert_eq!(bench.head().damages().unwrap(), []);
}

fn order(bench: &Bench, order: ScrubOrder, image: Option<&str>) -> ScrubView {
    let image = image.map(|text| ImageRef::parse(text).unwrap());
    bench.head().scrub(&ScrubAsk { order, image }).unwrap()
}

/// Nodes are up, so that the scrub need not wait for them.
fn all_ready(bench: &Bench) {
    for node in ["n1", "n2", "n3"] {
        let ready = EventKind::Ready { by: ReadyBy::Call };
        bench.head().bus().publish(Some(&name(node)), ready);
    }
    bench.head().hear_boots();
}

#[test]
fn the_scrub_reads_every_chunk_once_and_tells_what_is_bad() {
    let bench = bench();
    all_ready(&bench);
    flip(&pack(&bench), slot(7) * CHUNK_BYTES);
    assert_eq!(order(&bench, ScrubOrder::Now, None).state, "reading");
    bench.head().scrub_pass(1 << 40);
    bench.head().tell_bad();
    let view = order(&bench, ScrubOrder::Status, None);
    // One of `d`, twelve of the first version, one more of the second.
    assert_eq!((view.last_bytes, view.last_bad), (14 * CHUNK_BYTES, 1));
    assert!(
        view.finished.is_some() && view.state == "resting",
        "{view:?}"
    );
    assert_eq!(bad_events(&bench).len(), 1);
    let one = order(&bench, ScrubOrder::Now, Some("d:1"));
    assert_eq!(one.state, "reading");
    bench.head().scrub_pass(1 << 40);
    let after = order(&bench, ScrubOrder::Status, None);
    // What it read is not told as that of all images.
    assert_eq!(after.bytes, CHUNK_BYTES);
    assert_eq!(
        (after.last_bytes, after.finished),
        (14 * CHUNK_BYTES, view.finished)
    );
}

#[test]
fn the_scrub_goes_on_after_a_restart_where_it_stopped_and_stays_paused() {
    let mut bench = bench();
    all_ready(&bench);
    order(&bench, ScrubOrder::Now, None);
    bench.head().scrub_to(5 * CHUNK_BYTES);
    order(&bench, ScrubOrder::Pause, None);
    bench.reopen();
    assert_eq!(order(&bench, ScrubOrder::Status, None).state, "paused");
    bench.head().scrub_pass(1 << 40);
    assert_eq!(
        order(&bench, ScrubOrder::Status, None).bytes,
        5 * CHUNK_BYTES
    );
    order(&bench, ScrubOrder::Resume, None);
    bench.head().scrub_pass(1 << 40);
    let view = order(&bench, ScrubOrder::Status, None);
    assert_eq!(
        view.last_bytes,
        14 * CHUNK_BYTES,
        "no chunk twice, none left out"
    );
}

#[test]
fn the_scrub_waits_while_nodes_boot() {
    let bench = bench();
    bench.head().hear_boots();
    assert_eq!(order(&bench, ScrubOrder::Now, None).state, "waiting");
    all_ready(&bench);
    assert_eq!(order(&bench, ScrubOrder::Status, None).state, "reading");
}

fn profile(bench: &Bench, image: &str) -> BootProfileView {
    let ask = BootProfileAsk {
        image: ImageRef::parse(image).unwrap(),
        drop: false,
        record: None,
    };
    bench.head().image_profile(&ask).unwrap()
}

/// A boot of `node` that reads these chunks and is ready.
fn boot_reading(bench: &Bench, node: &str, chunks: &[u64]) {
    bench.boot(node);
    let firmware = bench.login(node, true).unwrap();
    for &chunk in chunks {
        read(&firmware.volume, chunk).unwrap();
    }
    let ready = EventKind::Ready { by: ReadyBy::Call };
    bench.head().bus().publish(Some(&name(node)), ready);
    bench.head().hear_boots();
}

#[test]
fn boots_are_recorded_by_themselves_kept_inherited_and_dropped() {
    let mut bench = bench();
    boot_reading(&bench, "n1", &[3, 4, 9]);
    boot_reading(&bench, "n1", &[3, 0, 9]);
    boot_reading(&bench, "n1", &[3, 0, 8]);
    let view = profile(&bench, "g:1");
    assert_eq!(
        (view.boots, view.chunks, view.inherited),
        (3, 3, false),
        "{view:?}"
    );
    bench.head().pin(u64::MAX);
    let view = profile(&bench, "g:1");
    assert_eq!((view.warm, view.pinned), (3, 3));
    bench.reopen();
    assert_eq!(profile(&bench, "g:1").chunks, 3, "kept over a restart");
    let next = profile(&bench, "g:2");
    assert_eq!(
        (next.boots, next.chunks, next.inherited),
        (0, 2, true),
        "chunk 0 is another"
    );
    let drop = BootProfileAsk {
        image: ImageRef::parse("g:2").unwrap(),
        drop: true,
        record: None,
    };
    assert_eq!(bench.head().image_profile(&drop).unwrap().chunks, 0);
}

#[test]
fn a_boot_that_fails_or_is_begun_anew_is_no_example() {
    let bench = bench();
    bench.boot("n1");
    read(&bench.login("n1", true).unwrap().volume, 3).unwrap();
    bench.boot("n1");
    let ready = EventKind::Ready { by: ReadyBy::Call };
    bench.head().bus().publish(Some(&name("n1")), ready);
    bench.head().hear_boots();
    assert_eq!(profile(&bench, "g:1").boots, 0);
}

#[test]
fn enough_boots_are_enough_until_one_is_asked_for() {
    let bench = bench();
    for _ in 0..crate::limits::PROFILE_BOOTS + 3 {
        boot_reading(&bench, "n1", &[1]);
    }
    assert_eq!(profile(&bench, "g:1").boots, crate::limits::PROFILE_BOOTS);
    let ask = |node: &str| BootProfileAsk {
        image: ImageRef::parse("g:1").unwrap(),
        drop: false,
        record: Some(name(node)),
    };
    assert_eq!(
        bench.head().image_profile(&ask("n1")).unwrap().recording,
        [name("n1")]
    );
    boot_reading(&bench, "n1", &[1]);
    assert_eq!(
        profile(&bench, "g:1").boots,
        crate::limits::PROFILE_BOOTS + 1
    );
    assert!(
        bench.head().image_profile(&ask("n2")).is_err(),
        "it boots another version"
    );
}

#[test]
fn a_restart_brings_the_profiles_of_the_nodes_versions_in_within_the_budget() {
    let mut bench = bench();
    boot_reading(&bench, "n1", &[3, 4, 5, 9]);
    for budget in [2, 100] {
        bench.reopen();
        assert_eq!(
            profile(&bench, "g:1").warm,
            0,
            "nothing is verified after a start"
        );
        bench.head().pin(budget * CHUNK_BYTES);
        let view = profile(&bench, "g:1");
        let expected = usize::try_from(budget).unwrap().min(4);
        assert_eq!((view.warm, view.pinned), (expected, expected));
    }
}

#[test]
fn what_is_warm_is_neither_brought_in_nor_counted_again() {
    let mut bench = bench();
    boot_reading(&bench, "n1", &[3, 4, 5, 9]);
    bench.reopen();
    bench.boot("n1");
    let firmware = bench.login("n1", true).unwrap();
    read(&firmware.volume, 4).unwrap();
    for _ in 0..2 {
        bench.head().pin(u64::MAX);
        let wanted = format!("reveille_prefetched_bytes_total {}\n", 3 * CHUNK_BYTES);
        let metrics = bench.head().upkeep_metrics();
        assert!(metrics.contains(&wanted), "{metrics}");
    }
    assert_eq!(profile(&bench, "g:1").warm, 4);
}
