use super::*;
use crate::catalog::LayerMode;
use crate::head::HeadErrorKind;
use crate::head::ImageTag;
use crate::head::test::{Bench, byte, refused};

fn ask(image: &str, to: Option<u32>) -> ImageRollback {
    ImageRollback {
        image: ImageRef::parse(image).unwrap(),
        to,
        dry_run: false,
    }
}

fn three_versions(mode: LayerMode) -> Bench {
    let bench = Bench::with_nodes(mode);
    bench.import("d", 2);
    bench.import("d", 3);
    bench
}

#[test]
fn a_bare_name_goes_back_until_the_next_new_version() {
    let bench = three_versions(LayerMode::Ephemeral);
    bench.boot("n1");
    let told = ImageRollback {
        dry_run: true,
        ..ask("d", None)
    };
    let told = bench.head().image_rollback(&told).unwrap();
    assert_eq!((told.version, told.before, told.newest), (2, 3, 3));
    assert_eq!(told.next[0].nodes.to_string(), "n[1-3]");
    assert_eq!(told.next[0].version.as_deref(), Some("d:2"));
    assert_eq!(bench.boot("n1").label, "d:3");
    let done = bench.head().image_rollback(&ask("d", None)).unwrap();
    assert_eq!((done.version, done.before, done.next), (2, 3, told.next));
    // What runs stays.
    assert_eq!(byte(&bench.os("n1"), 0), 3);
    assert_eq!(bench.boot("n1").label, "d:2");
    bench.set_image("n2", "d:latest");
    assert_eq!(bench.boot("n2").label, "d:2");
    assert_eq!(
        bench
            .head()
            .image_rollback(&ask("d", None))
            .unwrap()
            .version,
        1
    );
    let oldest = bench.head().image_rollback(&ask("d", None));
    refused(oldest, HeadErrorKind::Conflict, &["d:1", "earliest"]);
    let forward = bench.head().image_rollback(&ask("d", Some(3))).unwrap();
    assert_eq!((forward.version, forward.before), (3, 1));
    assert_eq!(bench.head().snapshot().image("d").unwrap().held, None);
    bench
        .head()
        .image_rollback(&ask("d:latest", Some(1)))
        .unwrap();
    assert_eq!(bench.boot("n3").label, "d:1");
    bench.import("d", 4);
    assert_eq!(bench.boot("n3").label, "d:4");
}

#[test]
fn a_tag_goes_back_and_bare_names_stay() {
    let bench = three_versions(LayerMode::Ephemeral);
    let tag = ImageTag {
        image: ImageRef::parse("d:3").unwrap(),
        tag: "stable".into(),
        dry_run: false,
    };
    bench.head().image_tag(&tag).unwrap();
    bench.set_image("n1", "d:stable");
    let done = bench.head().image_rollback(&ask("d:stable", None)).unwrap();
    assert_eq!((done.name.as_str(), done.version), ("d:stable", 2));
    assert_eq!(done.next.len(), 1);
    assert_eq!(done.next[0].nodes.to_string(), "n1");
    assert_eq!(bench.boot("n1").label, "d:2");
    assert_eq!(bench.boot("n2").label, "d:3");
}

#[test]
fn what_cannot_be_rolled_back_is_refused() {
    let bench = three_versions(LayerMode::Ephemeral);
    let run = |image: &str, to| bench.head().image_rollback(&ask(image, to));
    refused(
        run("d:2", None),
        HeadErrorKind::Invalid,
        &["always is version 2", "--to 2"],
    );
    refused(run("d", Some(9)), HeadErrorKind::NotFound, &["d:9"]);
    refused(run("x", None), HeadErrorKind::NotFound, &["`x`"]);
    refused(run("d:beta", None), HeadErrorKind::NotFound, &["d:beta"]);
}

#[test]
fn a_rolled_back_version_is_in_use_and_its_removal_is_refused() {
    let bench = three_versions(LayerMode::Ephemeral);
    bench.head().image_rollback(&ask("d", None)).unwrap();
    let idle = |_: &crate::names::NodeName| false;
    refused(
        bench.remove_image("d:2", &idle),
        HeadErrorKind::Conflict,
        &["n[1-3]"],
    );
    bench.remove_image("d:3", &idle).unwrap();
    assert_eq!(bench.head().snapshot().image("d").unwrap().held, None);
    assert_eq!(bench.boot("n1").label, "d:2");
}

#[test]
fn nodes_that_a_roll_back_does_not_move_are_told_with_the_reason() {
    let bench = three_versions(LayerMode::Persistent);
    bench.boot("n1");
    bench.os("n1").volume.write(0, &[9; 512]).unwrap();
    let done = bench.head().image_rollback(&ask("d", None)).unwrap();
    assert_eq!(done.next.len(), 2);
    let stays = done.next.iter().find(|next| next.kept.is_some()).unwrap();
    assert_eq!(stays.nodes.to_string(), "n1");
    assert_eq!(stays.version.as_deref(), Some("d:3"));
    let why = stays.kept.as_deref().unwrap();
    for part in ["4.0 KiB", "d:3", "layer reset n1", "layer promote n1"] {
        assert!(why.contains(part), "{why} lacks {part}");
    }
    let goes = done.next.iter().find(|next| next.kept.is_none()).unwrap();
    assert_eq!(goes.nodes.to_string(), "n[2-3]");
    assert_eq!(bench.boot("n1").label, "d:3");
}

#[test]
fn a_note_is_set_and_cleared() {
    let bench = three_versions(LayerMode::Ephemeral);
    let set = |note: Option<&str>| {
        let ask = ImageNote {
            image: ImageRef::parse("d:2").unwrap(),
            note: note.map(str::to_owned),
            dry_run: false,
        };
        bench.head().image_note(&ask).unwrap()
    };
    let done = set(Some("good kernel"));
    assert_eq!((done.label.as_str(), done.before), ("d:2", None));
    let noted = || bench.head().images()[0].versions[1].record.note.clone();
    assert_eq!(noted().as_deref(), Some("good kernel"));
    assert_eq!(set(None).before.as_deref(), Some("good kernel"));
    assert_eq!(noted(), None);
    let long = ImageNote {
        image: ImageRef::parse("d").unwrap(),
        note: Some("x".repeat(100_000)),
        dry_run: false,
    };
    refused(
        bench.head().image_note(&long),
        HeadErrorKind::Invalid,
        &["shorten"],
    );
}
