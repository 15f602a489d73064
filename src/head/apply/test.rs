use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::test::{Bench, refused};
use super::*;
use crate::catalog::{ImageRef, LayerMode, Snapshot};
use crate::head::{DrainAsk, HeadErrorKind, ImageRollback};

fn ask(text: &str) -> Apply {
    Apply {
        text: format!("format: 1\n{text}"),
        file: "f.yaml".into(),
        ..Apply::default()
    }
}

fn apply(bench: &Bench, ask: &Apply) -> Result<Applied> {
    bench.head().apply(ask, &|_| false, &|_| false)
}

fn lines(done: &Applied) -> Vec<String> {
    done.plan.iter().map(ToString::to_string).collect()
}

fn done(bench: &Bench, text: &str) -> Vec<String> {
    lines(&apply(bench, &ask(text)).unwrap())
}

fn pruned(bench: &Bench, text: &str) -> Vec<String> {
    let ask = Apply {
        prune: true,
        ..ask(text)
    };
    lines(&apply(bench, &ask).unwrap())
}

const RACK: &str = "\
profiles:
  compute: {image: d, mode: persistent}
nodes:
- nodes: n[1-3]
  profile: compute
  macs:
    n1: \"52:54:00:00:00:01\"
    n2: [\"52:54:00:00:00:02\", \"52:54:00:00:00:12\"]
  ips: {n1: 10.0.0.1}
- nodes: m1
  image: d:1
  mode: ephemeral
";

#[test]
fn a_text_is_applied_once_and_then_there_is_nothing_to_do() {
    let mut bench = Bench::new();
    bench.import("d", 1);
    let first = done(&bench, RACK);
    let wanted = [
        "+ profile compute image d, mode persistent",
        "+ node m1 image d:1, mode ephemeral",
        "+ node n[1-3] profile compute",
    ];
    assert_eq!(first, wanted);
    let rows = bench.head().catalog.rows_written();
    assert_eq!(done(&bench, RACK), Vec::<String>::new());
    assert_eq!(bench.head().catalog.rows_written(), rows);
    bench.reopen();
    let now = bench.head().snapshot();
    let n2 = now.node("n2").unwrap();
    assert_eq!((n2.mode, n2.macs.len()), (LayerMode::Persistent, 2));
    assert_eq!(
        now.node_by_ip([10, 0, 0, 1].into()).unwrap().name.as_str(),
        "n1"
    );
}

#[test]
fn a_plan_says_what_differs_and_only_that() {
    let bench = Bench::new();
    bench.import("d", 1);
    bench.import("d", 2);
    done(&bench, RACK);
    let other = RACK
        .replace("compute: {image: d,", "compute: {image: d:2,")
        .replace("image: d:1", "image: d:2")
        .replace("10.0.0.1", "10.0.0.9");
    let dry = Apply {
        dry_run: true,
        ..ask(&other)
    };
    let wanted = [
        "~ profile compute image d -> d:2",
        "~ node m1 image d:1 -> d:2",
        "~ node n1 ip 10.0.0.1 -> 10.0.0.9",
    ];
    assert_eq!(lines(&apply(&bench, &dry).unwrap()), wanted);
    assert_eq!(done(&bench, &other), wanted, "a rehearsal did nothing");
    assert_eq!(done(&bench, &other), Vec::<String>::new());
    let less = "nodes:\n- nodes: n2\n";
    let wanted = "~ node n2 profile compute -> (none), \
                  macs 52:54:00:00:00:02 52:54:00:00:00:12 -> (none)";
    assert_eq!(done(&bench, less), [wanted]);
}

#[test]
fn an_export_makes_another_head_the_same() {
    let one = Bench::new();
    one.import("d", 1);
    one.import("d", 2);
    done(&one, RACK);
    let tag = "images:\n  d:\n    tags: {stable: 1}\n";
    assert_eq!(done(&one, tag), ["~ image d tag stable (none) -> 1"]);
    let drain = DrainAsk {
        nodes: Some("n[1-2]".into()),
        to: Some("10.0.0.7".into()),
        dry_run: false,
    };
    one.head().drain(&drain, &|_| false).unwrap();
    let back = ImageRollback {
        image: ImageRef::parse("d").unwrap(),
        to: None,
        dry_run: false,
    };
    one.head().image_rollback(&back).unwrap();
    for json in [false, true] {
        let text = one.head().export(true, json);
        let other = Bench::new();
        // The same disks under another name, and in another order.
        other.import("x", 2);
        other.import("x", 1);
        let ask = Apply {
            prune: true,
            text: text.clone(),
            ..Apply::default()
        };
        apply(&other, &ask).unwrap();
        assert_eq!(other.head().export(true, json), text);
        assert_eq!(lines(&apply(&other, &ask).unwrap()), Vec::<String>::new());
        let (one, other) = (one.head().snapshot(), other.head().snapshot());
        let id = |now: &Snapshot| now.node("n2").unwrap().disk_uuid.clone();
        assert_eq!(id(&one), id(&other));
        let means = |now: &Snapshot| now.image("d").unwrap().current().unwrap().version;
        assert_eq!((means(&one), means(&other)), (1, 1), "rolled back");
    }
}

#[test]
fn a_roll_back_is_taken_over_taken_back_and_waits_for_its_version() {
    let bench = Bench::new();
    bench.import("d", 1);
    bench.import("d", 2);
    let means = |bench: &Bench| {
        let now = bench.head().snapshot();
        now.image("d").unwrap().current().unwrap().version
    };
    let text = "images:\n  d:\n    current: 1\n";
    assert_eq!(done(&bench, text), ["~ image d current (none) -> 1"]);
    assert_eq!(means(&bench), 1);
    assert_eq!(done(&bench, text), Vec::<String>::new());
    // The newest is what the name means by itself.
    assert_eq!(
        done(&bench, "images:\n  d:\n    current: 2\n"),
        ["~ image d current 1 -> (none)"]
    );
    assert_eq!(means(&bench), 2);
    done(&bench, text);
    assert_eq!(
        done(&bench, "images:\n  d: {}\n"),
        ["~ image d current 1 -> (none)"]
    );
    // A version that the text does not tell of and nobody has is an error; one that it tells of may come later.
    let error = apply(&bench, &ask("images:\n  d:\n    current: 7\n")).unwrap_err();
    assert!(error.to_string().contains("no version 7"), "{error}");
    let id = "ab".repeat(32);
    let later = format!(
        "images:\n  d:\n    current: 7\n    versions:\n      7: {{id: \"{id}\", size: 1048576}}\n"
    );
    let told = apply(&bench, &ask(&later)).unwrap();
    assert!(told.notices[0].contains("d:7 is not here"), "{told:?}");
    assert_eq!(means(&bench), 2);
}

#[test]
fn secrets_are_in_the_text_only_when_asked_for() {
    let bench = Bench::new();
    bench.import("d", 1);
    done(&bench, RACK);
    let now = bench.head().snapshot();
    let secret = |text: &str| {
        let mut nodes = now.nodes();
        nodes.any(|n| text.contains(&n.secret.0) || text.contains(&n.head_secret.0))
    };
    assert!(!secret(&bench.head().export(false, false)));
    assert!(secret(&bench.head().export(true, false)));
    let text = bench
        .head()
        .export(true, false)
        .replace(&now.node("n1").unwrap().secret.0, "new-secret-16chr");
    let done = apply(
        &bench,
        &Apply {
            text,
            ..Apply::default()
        },
    )
    .unwrap();
    assert_eq!(lines(&done), ["~ node n1 secrets changed"]);
}

#[test]
fn nodes_may_exchange_their_macs_and_addresses() {
    let bench = Bench::new();
    let text = |a: &str, b: &str| {
        format!(
            "nodes:\n- nodes: n[1-2]\n  boot: local\n  macs: {{n{a}: \"52:54:00:00:00:01\", \
             n{b}: \"52:54:00:00:00:02\"}}\n  ips: {{n{a}: 10.0.0.1, n{b}: 10.0.0.2}}\n"
        )
    };
    done(&bench, &text("1", "2"));
    assert_eq!(done(&bench, &text("2", "1")).len(), 2);
    let now = bench.head().snapshot();
    assert_eq!(
        now.node_by_ip([10, 0, 0, 1].into()).unwrap().name.as_str(),
        "n2"
    );
    let mac = crate::names::Mac::parse("52:54:00:00:00:02").unwrap();
    assert_eq!(now.node_by_mac(mac).unwrap().name.as_str(), "n1");
}

#[test]
fn what_the_text_does_not_name_goes_only_with_prune() {
    let bench = Bench::new();
    bench.import("d", 1);
    done(&bench, RACK);
    assert_eq!(
        done(&bench, "nodes: []\nprofiles: {}"),
        Vec::<String>::new()
    );
    let few = "nodes:\n- {nodes: m1, image: \"d:1\", mode: ephemeral}\n";
    assert_eq!(pruned(&bench, few), ["- node n[1-3]"]);
    assert_eq!(pruned(&bench, "profiles: {}\n"), ["- profile compute"]);
    let kept = Apply {
        prune: true,
        ..ask("images: {}\n")
    };
    let kept = apply(&bench, &kept).unwrap();
    assert!(
        kept.plan.is_empty() && kept.notices[0].contains("d:1 stays"),
        "{kept:?}"
    );
    assert_eq!(bench.head().snapshot().node_count(), 1);
}

#[test]
fn nodes_that_have_their_disk_open_are_not_removed() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let ask = Apply {
        prune: true,
        ..ask("nodes: []\n")
    };
    let busy = |node: &NodeName| node.as_str() == "n2";
    refused(
        bench.head().apply(&ask, &busy, &|_| false),
        HeadErrorKind::Conflict,
        &["n2"],
    );
    assert_eq!(bench.head().snapshot().node_count(), 3);
}

#[test]
fn images_that_are_not_here_are_told_and_needed_only_by_who_boots_them() {
    let bench = Bench::new();
    bench.import("d", 1);
    let id = "ab".repeat(32);
    let images = format!(
        "images:\n  e:\n    tags: {{stable: 1}}\n    versions:\n      1: {{id: \"{id}\", size: 1048576}}\n"
    );
    let told = apply(&bench, &ask(&images)).unwrap();
    assert!(told.plan.is_empty(), "{told:?}");
    assert!(told.notices[0].contains("e:1 is not here") && told.notices[0].contains("import"));
    let text = format!("{images}nodes:\n- nodes: n1\n  image: e:stable\n");
    refused(
        apply(&bench, &ask(&text)),
        HeadErrorKind::Conflict,
        &[
            "f.yaml:8: node `n1`",
            "no image e:stable",
            "--missing-images",
        ],
    );
    let taken = Apply {
        missing_images: true,
        ..ask(&text)
    };
    let taken = apply(&bench, &taken).unwrap();
    assert_eq!(lines(&taken), ["+ node n1 image e:stable"]);
    assert!(
        taken
            .notices
            .iter()
            .any(|n| n.contains("n1 cannot boot before e:stable"))
    );
    // Another content under a number that is taken.
    let other = images
        .replace("  e:", "  d:")
        .replace("    tags: {stable: 1}\n", "");
    refused(
        apply(&bench, &ask(&other)),
        HeadErrorKind::Conflict,
        &["f.yaml:5", "d:1 is another content"],
    );
}

#[test]
fn an_error_anywhere_does_nothing_and_names_its_line() {
    let bench = Bench::new();
    bench.import("d", 1);
    done(&bench, RACK);
    let before = bench.head().export(true, false);
    let refuse = |text: &str, kind, words: &[&str]| {
        refused(apply(&bench, &ask(text)), kind, words);
        assert_eq!(bench.head().export(true, false), before);
    };
    use HeadErrorKind::{Conflict, Invalid, NotFound};
    let new = "nodes:\n- nodes: z[1-9]\n";
    let taken = format!("{new}- nodes: z0\n  macs: \"52:54:00:00:00:01\"\n");
    refuse(
        &taken,
        Conflict,
        &["f.yaml:4: ", "52:54:00:00:00:01", "`n1`"],
    );
    refuse(
        &format!("{new}  profile: p\n"),
        NotFound,
        &["f.yaml:3: ", "`p`"],
    );
    refuse(
        &format!("{new}drain:\n  nodes:\n  - nodes: q\n"),
        NotFound,
        &["f.yaml:6: ", "`q`"],
    );
    refuse(
        &format!("{new}identities:\n  q: {{disk: a, secret: b, head_secret: c}}"),
        NotFound,
        &["f.yaml:5", "`q`"],
    );
    refuse(
        &format!("{new}identities:\n  z1: {{disk: a, secret: b, head_secret: c}}"),
        Invalid,
        &["secret"],
    );
    refuse(
        &format!("{new}  nods: 1\n"),
        Invalid,
        &["f.yaml:4: ", "`nodes`"],
    );
}

#[test]
fn a_plan_that_was_shown_is_the_one_that_is_done() {
    let bench = Bench::new();
    bench.import("d", 1);
    let dry = Apply {
        dry_run: true,
        ..ask(RACK)
    };
    let shown = apply(&bench, &dry).unwrap();
    done(&bench, "nodes:\n- {nodes: m1, boot: local}\n");
    let late = Apply {
        expect: Some(shown.token),
        ..ask(RACK)
    };
    refused(
        apply(&bench, &late),
        HeadErrorKind::Conflict,
        &["since the plan was shown"],
    );
    let shown = apply(&bench, &dry).unwrap();
    let right = Apply {
        expect: Some(shown.token.clone()),
        ..ask(RACK)
    };
    assert_eq!(apply(&bench, &right).unwrap().token, shown.token);
}

#[test]
fn orders_to_drain_are_given_and_taken_back() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let text = "drain:\n  head: {to: 10.0.0.9}\n  nodes:\n  - nodes: n[1-2]\n";
    let wanted = ["+ drain head to 10.0.0.9:3260", "+ drain n[1-2] to nowhere"];
    assert_eq!(done(&bench, text), wanted);
    let since = bench.head().drains().whole.clone().unwrap().since;
    assert_eq!(done(&bench, text), Vec::<String>::new());
    let one = text.replace("n[1-2]", "n1");
    assert_eq!(done(&bench, &one), Vec::<String>::new());
    assert_eq!(pruned(&bench, &one), ["- drain n2"]);
    let drains = bench.head().drains();
    assert_eq!(
        (drains.nodes.len(), drains.whole.clone().unwrap().since),
        (1, since)
    );
    let own = |to: SocketAddr| to.port() == 3260;
    refused(
        bench.head().apply(&ask(text), &|_| false, &own),
        HeadErrorKind::Invalid,
        &["f.yaml:3: ", "is this head"],
    );
}

/// Nodes as a text would have them: name to (mode, boot, last byte of the MAC, in a profile).
type Told = BTreeMap<u8, (u8, u8, u8, bool)>;

fn any_told() -> impl Strategy<Value = Told> {
    let node = (0..3_u8, 0..2_u8, 0..40_u8, any::<bool>());
    prop::collection::btree_map(0..12_u8, node, 0..12).prop_map(|mut all: Told| {
        let mut seen = std::collections::BTreeSet::new();
        // A MAC that is another's already is none.
        all.values_mut().for_each(|node| {
            if !seen.insert(node.2) {
                node.2 = 0;
            }
        });
        all
    })
}

fn told_text(told: &Told) -> String {
    let mut text = "profiles:\n  p: {mode: persistent}\nnodes:\n".to_owned();
    if told.is_empty() {
        text = text.replace("nodes:", "nodes: []");
    }
    for (name, (mode, boot, mac, profile)) in told {
        text += &format!("- nodes: n{name}\n");
        text += ["", "  mode: ephemeral\n", "  mode: persistent\n"][usize::from(*mode)];
        text += ["", "  boot: local\n"][usize::from(*boot)];
        if *mac > 0 {
            text += &format!("  macs: \"52:54:00:00:00:{mac:02x}\"\n");
        }
        if *profile {
            text += "  profile: p\n";
        }
    }
    text
}

/// Every node by name with its verb, as a plan tells.
fn verbs(done: &Applied) -> BTreeMap<String, PlanVerb> {
    let nodes = done.plan.iter().filter(|line| line.kind == "node");
    let each = nodes.flat_map(|line| {
        let set = NodeSet::parse(&line.name).unwrap();
        let names: Vec<String> = set.iter().map(ToString::to_string).collect();
        names.into_iter().map(|name| (name, line.verb))
    });
    each.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_plan_tells_exactly_what_a_change_of_the_text_changes(a in any_told(), b in any_told()) {
        let bench = Bench::new();
        pruned(&bench, &told_text(&a));
        let ask = Apply { prune: true, ..ask(&told_text(&b)) };
        let done = apply(&bench, &ask).unwrap();
        let names: std::collections::BTreeSet<&u8> = a.keys().chain(b.keys()).collect();
        let mut wanted = BTreeMap::new();
        for name in names {
            let verb = match (a.get(name), b.get(name)) {
                (None, _) => PlanVerb::Add,
                (_, None) => PlanVerb::Remove,
                (Some(was), Some(is)) if was != is => PlanVerb::Change,
                _ => continue,
            };
            wanted.insert(format!("n{name}"), verb);
        }
        prop_assert_eq!(verbs(&done), wanted);
        prop_assert!(apply(&bench, &ask).unwrap().plan.is_empty());
        let now = bench.head().snapshot();
        prop_assert_eq!(now.node_count(), b.len());
        for (name, (mode, boot, mac, profile)) in &b {
            let node = now.node(&format!("n{name}")).unwrap();
            let persistent = *mode == 2 || (*mode == 0 && *profile);
            prop_assert_eq!(node.mode == LayerMode::Persistent, persistent);
            prop_assert_eq!(node.boot == crate::catalog::BootMode::Local, *boot == 1);
            let macs: Vec<u8> = node.macs.iter().map(|m| m.octets()[5]).collect();
            prop_assert_eq!(macs, if *mac > 0 { vec![*mac] } else { Vec::new() });
        }
        // And as text again, on another head.
        let other = Bench::new();
        let text = bench.head().export(true, false);
        let again = Apply { text: text.clone(), ..Apply::default() };
        apply(&other, &again).unwrap();
        prop_assert_eq!(other.head().export(true, false), text);
    }
}
