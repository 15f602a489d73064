use super::super::test::{Bench, add_ask, refused};
use super::*;
use crate::catalog::{BootMode, ImageRef, LayerMode, Setting};
use crate::head::{HeadErrorKind, NodeAdd, NodeChange, Origin};

fn settings(image: &str, mode: LayerMode) -> Settings {
    Settings {
        image: Some(ImageRef::parse(image).unwrap()),
        mode: Some(mode),
        ..Settings::default()
    }
}

/// Profile `p` (image `d:1`, persistent) and nodes `n[1-2]` that have it; `n2` is ephemeral by itself.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.import("d", 1);
    bench.import("d", 2);
    let ask = ProfileAdd {
        name: "p".into(),
        settings: settings("d:1", LayerMode::Persistent),
        dry_run: false,
    };
    bench.head().profile_add(&ask).unwrap();
    let mut ask = NodeAdd {
        profile: Some("p".into()),
        image: None,
        ..add_ask("n1")
    };
    bench.head().nodes_add(&ask).unwrap();
    ask.nodes = "n2".into();
    ask.mode = Some(LayerMode::Ephemeral);
    bench.head().nodes_add(&ask).unwrap();
    bench
}

fn in_force(bench: &Bench, node: &str) -> (String, LayerMode) {
    let now = bench.head().snapshot();
    let node = now.node(node).unwrap();
    let image = node.image.as_ref().map(ToString::to_string);
    (image.unwrap_or_default(), node.mode)
}

fn set(bench: &Bench, ask: ProfileChange) -> ProfileDone {
    let ask = ProfileChange {
        name: "p".into(),
        ..ask
    };
    bench.head().profile_set(&ask).unwrap()
}

#[test]
fn a_node_has_its_profiles_settings_unless_it_has_its_own() {
    let mut bench = bench();
    for _ in 0..2 {
        assert_eq!(
            in_force(&bench, "n1"),
            ("d:1".into(), LayerMode::Persistent)
        );
        assert_eq!(in_force(&bench, "n2"), ("d:1".into(), LayerMode::Ephemeral));
        bench.reopen();
    }
    let views = bench.head().nodes(Some("n2")).unwrap();
    let from = &views[0].from;
    assert_eq!(from[&Setting::Image], Origin::Profile);
    assert_eq!(from[&Setting::Mode], Origin::Own);
    assert_eq!(from[&Setting::Boot], Origin::Default);
    assert!(!from.contains_key(&Setting::Power));
}

#[test]
fn a_profiles_change_is_one_record_and_reaches_its_nodes() {
    let mut bench = bench();
    let rows = bench.head().catalog.rows_written();
    let done = set(
        &bench,
        ProfileChange {
            settings: settings("d:2", LayerMode::Ephemeral),
            ..ProfileChange::default()
        },
    );
    assert_eq!(bench.head().catalog.rows_written() - rows, 1);
    assert_eq!(done.nodes.to_string(), "n[1-2]");
    for _ in 0..2 {
        assert_eq!(in_force(&bench, "n1"), ("d:2".into(), LayerMode::Ephemeral));
        bench.reopen();
    }
    let done = set(
        &bench,
        ProfileChange {
            clear: "mode,image".parse().unwrap(),
            ..ProfileChange::default()
        },
    );
    assert_eq!(done.nodes.to_string(), "n[1-2]");
    assert_eq!(
        in_force(&bench, "n1"),
        (String::new(), LayerMode::Ephemeral)
    );
}

#[test]
fn a_node_gives_its_own_settings_up_and_changes_its_profile() {
    let bench = bench();
    let ask = |nodes: &str| NodeChange {
        nodes: nodes.into(),
        ..NodeChange::default()
    };
    let inherit = NodeChange {
        inherit: "mode".parse().unwrap(),
        ..ask("n2")
    };
    bench.head().nodes_set(&inherit).unwrap();
    assert_eq!(in_force(&bench, "n2").1, LayerMode::Persistent);
    // What is said is its own even where the profile says the same.
    let same = NodeChange {
        mode: Some(LayerMode::Persistent),
        ..ask("n2")
    };
    bench.head().nodes_set(&same).unwrap();
    set(
        &bench,
        ProfileChange {
            settings: settings("d:2", LayerMode::Ephemeral),
            ..ProfileChange::default()
        },
    );
    assert_eq!(
        in_force(&bench, "n2"),
        ("d:2".into(), LayerMode::Persistent)
    );
    let none = NodeChange {
        profile: Some(None),
        ..ask("n[1-2]")
    };
    bench.head().nodes_set(&none).unwrap();
    assert_eq!(
        in_force(&bench, "n1"),
        (String::new(), LayerMode::Ephemeral)
    );
    assert_eq!(
        in_force(&bench, "n2"),
        (String::new(), LayerMode::Persistent)
    );
    let unknown = NodeChange {
        profile: Some(Some("q".into())),
        ..ask("n1")
    };
    refused(
        bench.head().nodes_set(&unknown),
        HeadErrorKind::NotFound,
        &["profile `q`"],
    );
}

#[test]
fn a_profile_in_use_stays_and_names_its_nodes() {
    let bench = bench();
    let ask = ProfileRemove {
        name: "p".into(),
        dry_run: false,
    };
    let words = ["`p` is in use by n[1-2]", "node set"];
    refused(
        bench.head().profile_remove(&ask),
        HeadErrorKind::Conflict,
        &words,
    );
    bench.head().select("@profile:p").unwrap();
    let none = NodeChange {
        nodes: "@profile:p".into(),
        profile: Some(None),
        ..NodeChange::default()
    };
    bench.head().nodes_set(&none).unwrap();
    bench.head().profile_remove(&ask).unwrap();
    assert!(bench.head().profiles(None).unwrap().is_empty());
    refused(
        bench.head().profile_remove(&ask),
        HeadErrorKind::NotFound,
        &["profile ls"],
    );
}

#[test]
fn wrong_profiles_are_refused() {
    let bench = bench();
    let add = |name: &str, image: &str| {
        bench.head().profile_add(&ProfileAdd {
            name: name.into(),
            settings: settings(image, LayerMode::Ephemeral),
            dry_run: false,
        })
    };
    refused(add("p", "d"), HeadErrorKind::Conflict, &["profile set p"]);
    refused(add("q", "e"), HeadErrorKind::NotFound, &["image e"]);
    refused(add("Q/", "d"), HeadErrorKind::Invalid, &["profile name"]);
    let both = ProfileChange {
        name: "p".into(),
        clear: "mode".parse().unwrap(),
        settings: Settings {
            mode: Some(LayerMode::Ephemeral),
            boot: Some(BootMode::Local),
            ..Settings::default()
        },
        dry_run: false,
    };
    refused(
        bench.head().profile_set(&both),
        HeadErrorKind::Invalid,
        &["set and cleared"],
    );
}

#[test]
fn the_image_of_a_profile_is_in_use() {
    let bench = bench();
    let none = NodeChange {
        nodes: "n[1-2]".into(),
        profile: Some(None),
        ..NodeChange::default()
    };
    refused(
        bench.remove_image("d:1", &|_| false),
        HeadErrorKind::Conflict,
        &["n[1-2]"],
    );
    bench.head().nodes_set(&none).unwrap();
    refused(
        bench.remove_image("d:1", &|_| false),
        HeadErrorKind::Conflict,
        &["profile `p`"],
    );
    bench.remove_image("d:2", &|_| false).unwrap();
}
