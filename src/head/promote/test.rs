use std::sync::atomic::AtomicBool;

use super::*;
use crate::catalog::LayerMode;
use crate::head::HeadErrorKind;
use crate::head::test::{Bench, byte, name, refused};
use crate::units::ByteRange;

pub(crate) fn ask(node: &str, image: &str) -> LayerPromote {
    LayerPromote {
        node: name(node),
        name: ImageRef::parse(image).unwrap(),
        note: None,
        tags: Vec::new(),
        force: false,
        dry_run: false,
    }
}

pub(crate) fn promote(bench: &Bench, ask: &LayerPromote) -> Result<LayerPromoted> {
    let idle = |_: &NodeName| false;
    bench
        .head()
        .layer_promote(ask, &idle, &|_| (), &AtomicBool::new(false))
}

#[test]
fn a_promoted_layer_is_a_version_that_other_nodes_boot() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(4096, &[9; 4096]).unwrap();
    let unmapped = ByteRange::new(65_536, 65_536).unwrap();
    disk.volume.unmap(unmapped).unwrap();
    let mut wanted = ask("n1", "d");
    wanted.note = Some("with nine".into());
    wanted.tags = vec!["stable".into()];
    let done = promote(&bench, &wanted).unwrap();
    assert_eq!((done.label.as_str(), done.base.as_str()), ("d:2", "d:1"));
    assert_eq!(
        (done.touched_chunks, done.new_chunks, done.zero_chunks),
        (2, 1, 1)
    );
    assert_eq!(done.next.len(), 1);
    assert_eq!(done.next[0].nodes.to_string(), "n[1-3]");
    assert_eq!(done.next[0].version.as_deref(), Some("d:2"));
    assert!(
        done.notices.iter().any(|n| n.contains("thrown away")),
        "{:?}",
        done.notices
    );
    // The node goes on as it was.
    assert_eq!(bench.os("n1").binding.label, "d:1");
    disk.volume.write(0, &[7; 512]).unwrap();
    assert_eq!((byte(&disk, 0), byte(&disk, 4096)), (7, 9));
    assert_eq!(bench.boot("n2").label, "d:2");
    let other = bench.os("n2");
    assert_eq!(
        (byte(&other, 0), byte(&other, 4096), byte(&other, 65_536)),
        (1, 9, 0)
    );
    assert_eq!(byte(&other, 131_072), 1);
    let image = ImageRef::parse("d:stable").unwrap();
    let shown = bench.head().image_show(&image).unwrap();
    assert_eq!(shown.versions[0].record.version, 2);
    assert_eq!(shown.versions[0].record.note.as_deref(), Some("with nine"));
    assert_eq!(shown.versions[0].record.source, "layer of node n1 over d:1");
    assert_eq!(shown.versions[0].record.arch.as_deref(), Some("x86_64"));
}

#[test]
fn what_a_promotion_would_do_is_told_and_not_done() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    let told = LayerPromote {
        dry_run: true,
        ..ask("n1", "d")
    };
    let done = promote(&bench, &told).unwrap();
    assert_eq!((done.label.as_str(), done.touched_chunks), ("d:2", 1));
    assert_eq!(done.next[0].version.as_deref(), Some("d:2"));
    assert_eq!(bench.head().images()[0].versions.len(), 1);
    assert_eq!(bench.boot("n2").label, "d:1");
}

#[test]
fn a_running_node_is_refused_unless_forced_and_told_what_that_means() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    let run = |ask: &LayerPromote| {
        let busy = |_: &NodeName| true;
        bench
            .head()
            .layer_promote(ask, &busy, &|_| (), &AtomicBool::new(false))
    };
    refused(
        run(&ask("n1", "d")),
        HeadErrorKind::Conflict,
        &["n1", "not clean", "--force"],
    );
    let forced = LayerPromote {
        force: true,
        ..ask("n1", "d")
    };
    let done = run(&forced).unwrap();
    assert!(done.notices[0].contains("power cut"), "{:?}", done.notices);
    assert_eq!(byte(&bench.login("n2", true).unwrap(), 0), 9);
}

#[test]
fn what_cannot_be_promoted_is_refused_with_the_reason() {
    let mut bench = Bench::with_nodes(LayerMode::Ephemeral);
    let never = promote(&bench, &ask("n1", "d"));
    refused(never, HeadErrorKind::Conflict, &["n1", "never booted"]);
    refused(
        promote(&bench, &ask("n9", "d")),
        HeadErrorKind::NotFound,
        &["n9"],
    );
    bench.boot("n1");
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    let used = promote(&bench, &ask("n1", "d:1"));
    refused(used, HeadErrorKind::Conflict, &["d:1", "never given again"]);
    let tag = promote(&bench, &ask("n1", "d:stable"));
    refused(tag, HeadErrorKind::Invalid, &["stable", "number"]);
    bench.restart_host();
    let lost = promote(&bench, &ask("n1", "d"));
    refused(lost, HeadErrorKind::Conflict, &["n1", "restart"]);
    bench.boot("n1");
    bench.reset("n1");
    let reset = promote(&bench, &ask("n1", "d"));
    refused(reset, HeadErrorKind::Conflict, &["n1", "reset"]);
}

#[test]
fn an_unchanged_layer_makes_no_second_version() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    let done = promote(&bench, &ask("n1", "d")).unwrap();
    assert!(done.already && done.next.is_empty());
    assert_eq!(done.label, "d:1");
}

#[test]
fn a_version_in_use_outlives_its_name() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(0, &[9; 512]).unwrap();
    promote(&bench, &ask("n1", "d")).unwrap();
    // Everybody would boot version 2; n1 still runs from version 1.
    let open = |node: &NodeName| node.as_str() == "n1";
    refused(
        bench.remove_image("d:1", &open),
        HeadErrorKind::Conflict,
        &["n1", "run from it"],
    );
    bench.head().collect_images().unwrap();
    assert_eq!((byte(&disk, 0), byte(&disk, 4096)), (9, 1));
    assert_eq!(bench.boot("n1").label, "d:2");
    assert_eq!(byte(&bench.os("n1"), 0), 9);
    bench.remove_image("d:1", &|_| false).unwrap();
    assert_eq!(
        (byte(&bench.os("n1"), 0), byte(&bench.os("n1"), 4096)),
        (9, 1)
    );
}

#[test]
fn an_exported_disk_is_what_the_node_sees() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(70_000 / 512 * 512, &[9; 1024]).unwrap();
    disk.volume
        .unmap(ByteRange::new(131_072, 200_704).unwrap())
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ask = LayerExport {
        node: name("n1"),
        path: dir.path().join("n1.raw"),
        force: false,
        dry_run: false,
    };
    let run = || {
        let idle = |_: &NodeName| false;
        bench
            .head()
            .layer_export(&ask, &idle, &|_| (), &AtomicBool::new(false))
    };
    run().unwrap();
    let all = ByteRange::new(0, disk.volume.size()).unwrap();
    let seen = disk.volume.read(all).unwrap();
    assert!(std::fs::read(&ask.path).unwrap() == seen.to_vec());
    refused(run(), HeadErrorKind::Conflict, &["exists already"]);
}

/// A promotion of `n1`, which writes `each` again and again while its layer is read.
fn promote_under_writes(bench: &Bench, each: &[u64]) -> Result<LayerPromoted> {
    let disk = bench.os("n1");
    let (busy, tag) = (|_: &NodeName| true, std::cell::Cell::new(100));
    let forced = LayerPromote {
        force: true,
        ..ask("n1", "d")
    };
    let write = |_| {
        tag.set(tag.get() + 1);
        for at in each {
            disk.volume.write(*at, &[tag.get(); 4096]).unwrap();
        }
    };
    let done = bench
        .head()
        .layer_promote(&forced, &busy, &write, &AtomicBool::new(false));
    assert!(tag.get() > 100, "nothing was written meanwhile");
    for at in each {
        assert_eq!(byte(&disk, *at), tag.get(), "the node goes on");
    }
    done
}

#[test]
fn a_promotion_under_a_node_that_writes_too_much_ends_without_a_version() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    bench.options.view_blocks = Some(4);
    bench.reopen();
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(0, &[9; 512 * 1024]).unwrap();
    disk.volume.flush().unwrap();
    let from = 256 * 1024;
    // Four blocks may be kept, five not; the last is read long after the first was written.
    let blocks: Vec<u64> = (0..5).map(|n| from + n * 40_960).collect();
    let error = promote_under_writes(&bench, &blocks);
    refused(
        error,
        HeadErrorKind::Unavailable,
        &["16.0 KiB", "of its own data meanwhile", "when it is quiet"],
    );
    assert_eq!(bench.head().images()[0].versions.len(), 1, "no version");
    let packs = || {
        let dir = std::fs::read_dir(bench.state().join("store/images/packs")).unwrap();
        let bytes = dir.map(|file| file.unwrap().metadata().unwrap().len());
        bytes.sum::<u64>()
    };
    bench.head().collect_images().unwrap();
    let before = packs();
    // The node is served as before, others too, and nothing is left behind that is in the way.
    disk.volume.write(0, &[8; 4096]).unwrap();
    assert_eq!(byte(&bench.login("n2", true).unwrap(), from), 1);
    let done = promote_under_writes(&bench, &blocks[..4]).unwrap();
    assert_eq!(done.label, "d:2");
    assert!(packs() > before);
    let other = bench.login("n3", true).unwrap();
    assert_eq!((byte(&other, 0), byte(&other, 4096)), (8, 9));
    // Those that were written while it was read are of the moment before: of the last round of the first try.
    let then = byte(&other, blocks[0]);
    assert!(then > 100, "{then}");
    assert!(blocks.iter().all(|at| byte(&other, *at) == then));
}
