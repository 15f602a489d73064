use std::sync::Arc;

use super::*;
use crate::head::promote::test::{ask, promote};
use crate::head::test::{Bench, byte, name};

fn changed(bench: &Bench) {
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(4096, &[9; 4096]).unwrap();
    disk.volume.flush().unwrap();
}

fn label(bench: &Bench) -> String {
    bench.head().layers(Some("n1")).unwrap()[0]
        .image
        .clone()
        .unwrap()
}

fn own_bytes(bench: &Bench) -> u64 {
    bench.head().layers(Some("n1")).unwrap()[0].held.data_bytes
}

#[test]
fn a_promoted_layer_that_did_not_change_moves_to_its_version_and_begins_empty() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    changed(&bench);
    promote(&bench, &ask("n1", "d")).unwrap();
    let began = bench.os("n1").binding.begun();
    // What proves it is on the medium, not in this process.
    bench.reopen();
    let bound = bench.boot("n1");
    assert_eq!((bound.label.as_str(), bound.moving.as_ref()), ("d:2", None));
    assert_eq!(
        bound.begun(),
        began,
        "the same disk for whoever reserved it"
    );
    assert_eq!(own_bytes(&bench), 0);
    let disk = bench.os("n1");
    assert_eq!((byte(&disk, 0), byte(&disk, 4096)), (1, 9));
    disk.volume.write(0, &[5; 512]).unwrap();
    drop(disk);
    bench.boot("n1");
    assert_eq!((label(&bench), byte(&bench.os("n1"), 0)), ("d:2".into(), 5));
}

#[test]
fn a_promoted_layer_that_changed_since_is_kept_and_told_why() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    changed(&bench);
    promote(&bench, &ask("n1", "d")).unwrap();
    bench.os("n1").volume.write(4096, &[8; 512]).unwrap();
    assert_eq!(bench.boot("n1").label, "d:1");
    assert_eq!(
        (byte(&bench.os("n1"), 4096), byte(&bench.os("n1"), 4608)),
        (8, 9)
    );
    let layer = bench.head().layers(Some("n1")).unwrap().remove(0);
    let node = bench.head().nodes(Some("n1")).unwrap().remove(0);
    assert_eq!(layer.wanted.as_deref(), Some("d:2"));
    assert_eq!(layer.kept, node.kept);
    let why = layer.kept.unwrap();
    for part in ["d:1", "d:2", "layer reset n1", "layer promote n1"] {
        assert!(why.contains(part), "{why} lacks {part}");
    }
    // Put back, it is the version again.
    bench.os("n1").volume.write(4096, &[9; 512]).unwrap();
    assert_eq!(bench.boot("n1").label, "d:2");
    assert_eq!(bench.head().layers(Some("n1")).unwrap()[0].kept, None);
}

#[test]
fn a_version_of_other_bytes_moves_nobody() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    changed(&bench);
    bench.import("d", 2);
    assert_eq!(bench.boot("n1").label, "d:1");
    assert_eq!(
        (byte(&bench.os("n1"), 0), byte(&bench.os("n1"), 4096)),
        (1, 9)
    );
}

#[test]
fn writing_back_what_the_image_had_is_no_change_that_keeps_a_layer() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    changed(&bench);
    promote(&bench, &ask("n1", "d")).unwrap();
    bench.boot("n1");
    bench.os("n1").volume.write(0, &[7; 512]).unwrap();
    bench.os("n1").volume.write(0, &[1; 512]).unwrap();
    bench.os("n1").volume.write(4096, &[1; 4096]).unwrap();
    // The disk is byte for byte version 1 again.
    let back = crate::head::ImageRollback {
        image: crate::catalog::ImageRef::parse("d").unwrap(),
        to: None,
        dry_run: false,
    };
    bench.head().image_rollback(&back).unwrap();
    assert_eq!(bench.boot("n1").label, "d:1");
    assert_eq!(own_bytes(&bench), 0);
    assert_eq!(byte(&bench.os("n1"), 4096), 1);
}

#[test]
fn a_move_cut_before_or_after_the_layer_was_emptied_shows_the_same_disk() {
    for emptied in [false, true] {
        let mut bench = Bench::with_nodes(LayerMode::Persistent);
        changed(&bench);
        promote(&bench, &ask("n1", "d")).unwrap();
        let head = bench.head();
        let record = head.record(&name("n1")).unwrap();
        let now = head.snapshot();
        let old = Arc::clone(now.binding(record.layer).unwrap());
        head.layer_fence(record.layer);
        let to = head.can_move(&now, &record, &old).unwrap();
        if emptied {
            head.move_layer(&old, &to).unwrap();
        } else {
            let leaving = Binding {
                moving: Some(to),
                ..Binding::clone(&old)
            };
            let put = head.catalog.transact(|changes| {
                changes.put_binding(leaving)?;
                Ok::<_, crate::head::HeadError>(())
            });
            put.unwrap();
        }
        // The name means something else by the time the head is back.
        bench.reopen();
        bench.import("d", 3);
        let removed = bench.remove_image("d:2", &|_| false);
        assert!(removed.is_err(), "the version moved to is needed");
        let gone = bench.login("n1", false);
        assert_eq!(gone.is_err(), emptied);
        let bound = bench.boot("n1");
        let wanted = if emptied { "d:2" } else { "d:1" };
        assert_eq!(
            (bound.label.as_str(), bound.moving.as_ref()),
            (wanted, None)
        );
        let disk = bench.os("n1");
        assert_eq!((byte(&disk, 0), byte(&disk, 4096)), (1, 9));
    }
}

#[test]
fn a_second_name_of_the_same_content_relabels_the_binding() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    changed(&bench);
    bench.import("e", 1);
    bench.set_image("n1", "e");
    assert_eq!(bench.boot("n1").label, "e:1");
    assert_eq!(byte(&bench.os("n1"), 4096), 9);
}

#[test]
fn a_layer_beyond_the_limit_of_a_comparison_stays_and_is_told_why() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    changed(&bench);
    bench.os("n1").volume.write(300_000, &[7; 512]).unwrap();
    bench.os("n1").volume.flush().unwrap();
    promote(&bench, &ask("n1", "d")).unwrap();
    // Two chunks are touched; one may be read.
    bench.options.rebase_bytes = Some(65_536);
    bench.reopen();
    assert_eq!(bench.boot("n1").label, "d:1");
    assert_eq!(byte(&bench.os("n1"), 4096), 9);
    // Where a manifest tells, nothing needs to be read, however large the layer is.
    bench.import("d", 3);
    assert_eq!(bench.boot("n1").label, "d:1");
    bench.options.rebase_bytes = Some(4096);
    bench.reopen();
    let layer = bench.head().layers(Some("n1")).unwrap().remove(0);
    let why = layer.kept.unwrap();
    for part in ["d:1", "too much to be compared at a boot", "layer reset n1"] {
        assert!(why.contains(part), "{why} lacks {part}");
    }
}

#[test]
fn a_layer_at_the_limit_of_a_comparison_moves() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    changed(&bench);
    promote(&bench, &ask("n1", "d")).unwrap();
    bench.options.rebase_bytes = Some(65_536);
    bench.reopen();
    assert_eq!(bench.boot("n1").label, "d:2");
    assert_eq!((own_bytes(&bench), byte(&bench.os("n1"), 4096)), (0, 9));
}
