use proptest::prelude::*;

use super::*;
use crate::catalog::{BootMode, DiskTraits, ImageRef, LayerMode, LoaderPolicy, Setting};

fn why(text: &str) -> String {
    let fault = read(text).expect_err("this text is wrong");
    format!("{}: {}", fault.line, fault.message)
}

fn refused(text: &str, words: &[&str]) {
    let why = why(text);
    for word in words {
        assert!(why.contains(word), "no `{word}` in: {why}");
    }
}

#[test]
fn every_wrong_key_value_and_shape_is_refused_with_its_line() {
    refused("", &["1: nothing", "format: 1"]);
    refused("nodes: []", &["no `format`"]);
    refused("format: 1\nnodes:\n", &["`nodes` has no value", "`[]`"]);
    refused("format: 2", &["1: format 2", "format 1"]);
    refused("format: one", &["format `one`"]);
    refused("- format: 1", &["must be a map"]);
    refused(
        "format: 1\nnode: []",
        &["2: ", "no `node`", "mean `nodes`?"],
    );
    refused("format: 1\nformat: 1", &["2: ", "after line 1"]);
    refused(
        "format: 1\nnodes:\n- nodes: n1\n  imge: d",
        &["4: ", "mean `image`?"],
    );
    refused(
        "format: 1\nnodes:\n- nodes: n1\n  colour: d",
        &["4: ", "there are nodes, profile"],
    );
    refused("format: 1\nnodes:\n- nodes: n[1-2\n", &["3: "]);
    refused(
        "format: 1\nnodes:\n- image: d\n",
        &["3: ", "without `nodes`"],
    );
    refused("format: 1\nnodes: n1\n", &["2: ", "must be a list"]);
    refused("format: 1\nnodes:\n- nodes: [n1]\n", &["3: ", "not a list"]);
    refused(
        "format: 1\nnodes:\n- nodes: n1\n  mode: forever\n",
        &["4: ", "`forever`", "`persistent`"],
    );
    refused(
        "format: 1\nnodes:\n- nodes: n1\n  disk: [read-only, sanitize]\n",
        &["4: ", "choose one"],
    );
    refused(
        "format: 1\nnodes:\n- nodes: n[1-2]\n  macs:\n    n3: \"52:54:00:00:00:01\"\n",
        &["5: ", "`n3`", "n[1-2]"],
    );
    refused(
        "format: 1\nnodes:\n- nodes: n1\n  macs: [\"52:54\"]\n",
        &["4: ", "`52:54`"],
    );
    refused(
        "format: 1\nnodes:\n- nodes: n[1-3]\n- nodes: n2\n",
        &["4: ", "`n2` a second time", "line 3"],
    );
    refused(
        "format: 1\nnodes:\n- nodes: n1\n  power: \"\"\n",
        &["4: ", "power"],
    );
    refused(
        "format: 1\nimages:\n  d:\n    versions:\n      1: {id: \"00\", size: 1}\n",
        &["5: ", "content id"],
    );
    refused(
        "format: 1\nimages:\n  d:\n    versions:\n      0: {}\n",
        &["5: ", "from 1 up"],
    );
    refused("format: 1\nprofiles:\n  P/: {}\n", &["3: ", "profile name"]);
    refused(
        "format: 1\nidentities:\n  n1: {disk: a, secret: b}\n",
        &["3: ", "no `head_secret`"],
    );
    refused("format: 1\ndrain:\n  head: {to: head2}\n", &["3: "]);
}

#[test]
fn images_and_tags_have_names_that_can_be_written_again() {
    let long = "a".repeat(1100);
    for name in [&long, "deb:3", "two words", "-x", "\"a\\nb\""] {
        refused(
            &format!("format: 1\nimages:\n  {name}:\n    next: 1\n"),
            &["3: "],
        );
    }
    for tag in [&long, "7", "0", "two words"] {
        let text = format!("format: 1\nimages:\n  deb:\n    next: 1\n    tags:\n      {tag}: 1\n");
        refused(&text, &["6: "]);
    }
}

#[test]
fn hostile_texts_are_refused_before_they_grow() {
    let laughs = "format: 1\na: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n";
    refused(laughs, &["2: ", "anchor"]);
    refused("format: 1\nnodes: *n\n", &[": "]);
    refused("format: !!int 1\n", &["1: ", "tag"]);
    refused("format: 1\n---\nformat: 1\n", &["second document"]);
    refused("format: 1\n? [a]\n: b\n", &["2: ", "no word"]);
    for deep in ["[", "{a: ", "- ", "? "] {
        let text = format!("format: 1\nnodes: \n{}", deep.repeat(100_000));
        assert!(read(&text).is_err(), "{deep}");
    }
    refused(&format!("[{}", "[".repeat(50)), &["too deep"]);
    let large = " ".repeat(crate::limits::CATALOG_TEXT_BYTES_MAX + 1);
    refused(&large, &["larger than"]);
    let set = "format: 1\nnodes:\n- nodes: n[1-99999999]\n";
    refused(set, &["3: "]);
}

#[test]
fn json_and_yaml_of_people_are_read_alike() {
    let yaml = "# ours\nformat: 1\nnodes:\n  - nodes: n1\n    disk: [removable, 512n]\n    \
                macs: 52-54-00-00-00-01\n    ips: {n1: 10.0.0.1}\n  - {nodes: \"a[1-2]\", mode: persistent}\n";
    let json = r#"{"format":1,"nodes":[
        {"nodes":"a[1-2]","mode":"persistent"},
        {"nodes":"n1","disk":"512n,removable","macs":{"n1":["52:54:00:00:00:01"]},"ips":{"n1":"10.0.0.1"}}]}"#;
    let (yaml, json) = (read(yaml).unwrap(), read(json).unwrap());
    assert_eq!(plain(yaml.clone()), plain(json));
    let nodes = yaml.nodes.unwrap();
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes[0].own.mode, Some(LayerMode::Persistent));
    assert_eq!(nodes[2].own.disk, "removable,512n".parse().ok());
    assert_eq!(
        (nodes[0].line, nodes[2].line),
        (8, 4),
        "where each is told of"
    );
    assert!(yaml.profiles.is_none(), "nothing was said of them");
}

fn plain(document: Document) -> Document {
    document.plain()
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let image = prop::option::of("[a-z][a-z0-9]{0,5}(:[1-9][0-9]?|:[a-z]{1,5})?");
    let word = 0..3_u8;
    let power = prop::option::of("ipmitool -H [{]node[}] [\"'#: a-z\\\\]{0,9} [{]action[}]");
    let warn = prop::option::of(0..1_u64 << 40);
    let limit = prop::option::of((1..1_u64 << 22).prop_map(|mib| mib << 20));
    (
        image,
        word.clone(),
        word.clone(),
        word.clone(),
        word,
        (warn, limit),
        power,
    )
        .prop_map(
            |(image, mode, boot, loader, disk, (warn, limit), power)| Settings {
                image: image.map(|text| ImageRef::parse(&text).unwrap()),
                mode: [
                    None,
                    Some(LayerMode::Ephemeral),
                    Some(LayerMode::Persistent),
                ][usize::from(mode)],
                boot: [None, Some(BootMode::Image), Some(BootMode::Local)][usize::from(boot)],
                loader: [None, Some(LoaderPolicy::Auto), Some(LoaderPolicy::Chain)]
                    [usize::from(loader)],
                disk: [
                    None,
                    Some(DiskTraits::default()),
                    "wsnz,read-only".parse().ok(),
                ][usize::from(disk)],
                layer_limit: limit,
                layer_warn: warn.map(|warn| limit.map_or(warn, |most| warn.min(most))),
                power: power.filter(|text| crate::power::Exec::parse(text).is_ok()),
            },
        )
}

fn any_nodes() -> impl Strategy<Value = Vec<NodeText>> {
    let node = (
        any_settings(),
        prop::option::of("[a-z]{1,4}"),
        prop::collection::vec(any::<[u8; 6]>(), 0..3),
        prop::option::of(any::<u32>()),
    );
    prop::collection::btree_map("[a-z0-9]([a-z0-9-]{0,4}[a-z0-9])?", node, 0..12).prop_map(|all| {
        let node =
            |(name, (own, profile, macs, ip)): (String, (_, _, Vec<[u8; 6]>, Option<u32>))| {
                NodeText {
                    line: 0,
                    name: NodeName::parse(&name).unwrap(),
                    profile,
                    own,
                    macs: macs.into_iter().map(Mac::new).collect(),
                    ip: ip.map(Ipv4Addr::from),
                }
            };
        let mut nodes: Vec<NodeText> = all.into_iter().map(node).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    })
}

fn any_image() -> impl Strategy<Value = ImageText> {
    let version = (any::<[u8; 32]>(), any::<u64>(), prop::option::of(".{0,20}"));
    let versions = prop::collection::btree_map(1..50_u32, version, 0..4);
    let tags = prop::collection::btree_map("[a-z]{1,6}", 1..50_u32, 0..3);
    let numbers = (prop::option::of(50..99_u32), prop::option::of(1..50_u32));
    (versions, tags, numbers).prop_map(|(versions, tags, (next, current))| ImageText {
        line: 0,
        name: "d".into(),
        next,
        current,
        tags: tags.into_iter().collect(),
        versions: versions
            .into_iter()
            .map(|(number, (id, size, note))| VersionText {
                line: 0,
                number,
                id: ImageId(id),
                size,
                arch: note.as_ref().map(|_| "x86_64".to_owned()),
                note,
            })
            .collect(),
    })
}

fn any_document() -> impl Strategy<Value = Document> {
    let secrets = any::<bool>();
    (any_nodes(), any_settings(), any_image(), secrets).prop_map(
        |(nodes, settings, image, secrets)| {
            let identity = |node: &NodeText| IdentityText {
                line: 0,
                node: node.name.clone(),
                disk: "0x1".into(),
                secret: Secret("1e5".into()),
                head_secret: Secret("no".into()),
            };
            let order = |node: &NodeText| OrderText {
                line: 0,
                node: Some(node.name.clone()),
                to: (node.macs.len() > 1).then(|| ([10, 0, 0, 1], 3260).into()),
            };
            let whole = settings.mode.map(|_| OrderText {
                line: 0,
                node: None,
                to: None,
            });
            Document {
                identities: secrets.then(|| nodes.iter().map(identity).collect()),
                drain: Some(whole.into_iter().chain(nodes.iter().map(order)).collect()),
                nodes: Some(nodes),
                profiles: Some(vec![ProfileText {
                    line: 0,
                    name: "on".into(),
                    settings,
                }]),
                images: Some(vec![image]),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_printed_reads_back_in_both_forms(document in any_document()) {
        let yaml = document.to_yaml();
        for text in [&yaml, &document.to_json()] {
            let back = read(text).map_err(|f| format!("line {}: {}\n{text}", f.line, f.message));
            prop_assert_eq!(&plain(back.unwrap()), &document, "{}", text);
        }
        prop_assert_eq!(yaml, document.to_yaml());
    }

    #[test]
    fn other_readers_of_yaml_see_the_same(document in any_document()) {
        let yaml: serde_json::Value = serde_norway::from_str(&document.to_yaml()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&document.to_json()).unwrap();
        prop_assert_eq!(yaml, json);
    }

    #[test]
    fn no_text_panics(text in "(format: 1\n)?(nodes:|images:|- |  |\n|\"|'|n[1-2]|: |[{}\\[\\],&*!|>%@`#\t]|.){0,60}") {
        let _ = read(&text);
    }
}

#[test]
fn nodes_with_equal_settings_are_one_group() {
    let own = Settings {
        image: Some(ImageRef::parse("d:1").unwrap()),
        ..Settings::default()
    };
    let node = |n: u8, own: &Settings| NodeText {
        line: 0,
        name: NodeName::parse(&format!("n{n}")).unwrap(),
        profile: None,
        own: own.clone(),
        macs: vec![Mac::new([0x52, 0x54, 0, 0, 0, n])],
        ip: None,
    };
    let document = Document {
        nodes: Some(vec![
            node(9, &own),
            node(10, &own),
            node(11, &Settings::default()),
        ]),
        ..Document::default()
    };
    let text = document.to_yaml();
    let body: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    let wanted = [
        "format: 1",
        "",
        "nodes:",
        "- nodes: n[9-10]",
        "  image: d:1",
        "  macs:",
        "    n9: \"52:54:00:00:00:09\"",
        "    n10: \"52:54:00:00:00:0a\"",
        "- nodes: n11",
        "  macs:",
        "    n11: \"52:54:00:00:00:0b\"",
    ];
    assert_eq!(body, wanted);
    assert!(Setting::ALL.len() == 8, "each of them is printed and read");
}
