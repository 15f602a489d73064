use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::catalog::{BootMode, ImageRef, LayerMode, PendingRecord};
use crate::names::{Mac, NodeName};
use crate::units::{ByteRange, UnixMillis};

/// A state directory, a head over it, and image files beside it.
pub(super) struct Bench {
    top: tempfile::TempDir,
    host_boot: String,
    /// Those of the next start.
    pub(super) options: HeadOptions,
    head: Option<Head>,
}

const MIB: usize = 1 << 20;

impl Bench {
    pub(super) fn new() -> Self {
        let mut bench = Self {
            top: tempfile::tempdir().unwrap(),
            host_boot: "first".into(),
            options: HeadOptions::default(),
            head: None,
        };
        bench.reopen();
        bench
    }

    /// With image `d`, whose version 1 is all 1, and nodes `n[1-3]` set to it.
    pub(super) fn with_nodes(mode: LayerMode) -> Self {
        let bench = Self::new();
        bench.import("d", 1);
        bench.add("n[1-3]", mode);
        bench
    }

    /// The state directory.
    pub(super) fn state(&self) -> PathBuf {
        self.top.path().join("state")
    }

    pub(super) fn head(&self) -> &Head {
        self.head.as_ref().unwrap()
    }

    pub(super) fn reopen(&mut self) {
        self.head = None;
        let options = HeadOptions {
            host_boot_id: Some(self.host_boot.clone()),
            ..self.options.clone()
        };
        let head = Head::open(&self.top.path().join("state"), &options);
        self.head = Some(head.unwrap());
    }

    /// Ends the head, in order.
    pub(super) fn close(&mut self) {
        self.head = None;
    }

    /// Why the state is refused.
    pub(super) fn refusal(&self) -> HeadError {
        assert!(self.head.is_none(), "it is open");
        let options = HeadOptions {
            host_boot_id: Some(self.host_boot.clone()),
            ..self.options.clone()
        };
        Head::open(&self.state(), &options).unwrap_err()
    }

    /// The files of a directory of the state are gone when the head is next opened.
    pub(super) fn lose(&mut self, dir: &str) {
        self.head = None;
        let dir = self.top.path().join("state").join(dir);
        for entry in std::fs::read_dir(dir).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        self.reopen();
    }

    pub(super) fn restart_host(&mut self) {
        self.host_boot.push('+');
        self.reopen();
    }

    fn file(&self, byte: u8) -> PathBuf {
        let path = self.top.path().join(format!("{byte}.raw"));
        std::fs::write(&path, vec![byte; MIB]).unwrap();
        path
    }

    fn ask(&self, name: &str, byte: u8) -> ImageImport {
        ImageImport {
            path: self.file(byte),
            name: ImageRef::parse(name).unwrap(),
            format: "raw".into(),
            parents: None,
            arch: Some("x86_64".into()),
            note: None,
            tags: Vec::new(),
            dry_run: false,
        }
    }

    fn run(&self, ask: &ImageImport) -> Result<ImageImported> {
        self.head()
            .image_import(ask, &|_| (), &AtomicBool::new(false))
    }

    pub(super) fn import(&self, name: &str, byte: u8) -> ImageImported {
        self.run(&self.ask(name, byte)).unwrap()
    }

    pub(super) fn add(&self, nodes: &str, mode: LayerMode) {
        let ask = NodeAdd {
            mode: Some(mode),
            ..add_ask(nodes)
        };
        self.head().nodes_add(&ask).unwrap();
    }

    pub(super) fn set_image(&self, nodes: &str, image: &str) -> NodesDone {
        let ask = NodeChange {
            nodes: nodes.into(),
            image: Some(Some(ImageRef::parse(image).unwrap())),
            ..NodeChange::default()
        };
        self.head().nodes_set(&ask).unwrap()
    }

    /// Begins a boot as the boot services do.
    pub(super) fn boot(&self, node: &str) -> Arc<Binding> {
        let boot = self.head().bus().begin_boot(&name(node), "test");
        self.head().prepare_boot(&name(node), boot).unwrap()
    }

    pub(super) fn login(&self, node: &str, firmware: bool) -> Result<Attached> {
        let node = name(node);
        // As the iSCSI server does it: most of these tests go both ways.
        match self.head().attach_at_once(&node, firmware) {
            Some(done) => done,
            None => self.head().attach(&node, firmware),
        }
    }

    pub(super) fn os(&self, node: &str) -> Attached {
        self.login(node, false).unwrap()
    }

    pub(super) fn reset(&self, nodes: &str) {
        let ask = LayerReset {
            nodes: nodes.into(),
            ..LayerReset::default()
        };
        self.head().layers_reset(&ask, &|_| false).unwrap();
    }

    pub(super) fn remove_image(
        &self,
        image: &str,
        busy: &dyn Fn(&NodeName) -> bool,
    ) -> Result<ImageRemoved> {
        let ask = ImageRemove {
            image: ImageRef::parse(image).unwrap(),
            dry_run: false,
        };
        self.head().image_remove(&ask, busy)
    }
}

pub(super) fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

pub(super) fn add_ask(nodes: &str) -> NodeAdd {
    NodeAdd {
        nodes: nodes.into(),
        image: Some(ImageRef::parse("d").unwrap()),
        ..NodeAdd::default()
    }
}

pub(super) fn byte(disk: &Attached, offset: u64) -> u8 {
    let range = ByteRange::new(offset, 512).unwrap();
    disk.volume.read(range).unwrap().to_vec()[0]
}

pub(super) fn refused<T: std::fmt::Debug>(result: Result<T>, kind: HeadErrorKind, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    for word in words {
        assert!(error.message.contains(word), "no `{word}` in: {error}");
    }
}

// --- images ---

#[test]
fn an_import_makes_the_next_version_and_survives_reopening() {
    let mut bench = Bench::new();
    let first = bench.import("d", 1);
    assert_eq!((first.label.as_str(), first.already), ("d:1", false));
    assert_eq!(first.size, MIB as u64);
    assert_eq!(bench.import("d", 2).label, "d:2");
    bench.reopen();
    let images = bench.head().images();
    let versions: Vec<u32> = images[0]
        .versions
        .iter()
        .map(|v| v.record.version)
        .collect();
    assert_eq!((images.len(), versions), (1, vec![1, 2]));
    assert_eq!(images[0].versions[0].record.id, first.id.unwrap());
    assert_eq!(images[0].versions[1].tags, ["latest"]);
}

#[test]
fn the_same_content_again_is_the_same_version() {
    let bench = Bench::new();
    bench.import("d", 1);
    let mut ask = bench.ask("d", 1);
    ask.tags = vec!["stable".into()];
    let again = bench.run(&ask).unwrap();
    assert_eq!((again.label.as_str(), again.already), ("d:1", true));
    let view = &bench.head().images()[0].versions;
    assert_eq!((view.len(), view[0].tags.len()), (1, 2));
    // Under another name it is another image with the same chunks.
    let other = bench.import("e", 1);
    assert_eq!((other.label.as_str(), other.new_chunks), ("e:1", 0));
}

#[test]
fn version_numbers_may_be_chosen_but_never_used_again() {
    let bench = Bench::new();
    assert_eq!(bench.import("d:5", 1).label, "d:5");
    assert_eq!(bench.import("d", 2).label, "d:6");
    for taken in ["d:5", "d:4", "d:6"] {
        let ask = bench.ask(taken, 3);
        refused(
            bench.run(&ask),
            HeadErrorKind::Conflict,
            &[taken, "next is 7"],
        );
    }
    let ask = bench.ask("d:stable", 3);
    refused(bench.run(&ask), HeadErrorKind::Invalid, &["tag `stable`"]);
}

#[test]
fn a_rehearsed_import_tells_the_label_and_does_nothing() {
    let bench = Bench::new();
    let mut ask = bench.ask("d", 1);
    ask.dry_run = true;
    let told = bench.run(&ask).unwrap();
    assert_eq!((told.label.as_str(), told.id), ("d:1", None));
    assert!(bench.head().images().is_empty());
    ask.path = bench.top.path().join("missing.raw");
    refused(bench.run(&ask), HeadErrorKind::NotFound, &["missing.raw"]);
    ask.format = "vdi".into();
    refused(bench.run(&ask), HeadErrorKind::Invalid, &["vdi"]);
}

#[test]
fn tags_move_and_tell_whose_boot_changes() {
    let bench = Bench::new();
    bench.import("d", 1);
    bench.import("d", 2);
    let tag = |version: &str, tag: &str| {
        bench.head().image_tag(&ImageTag {
            image: ImageRef::parse(version).unwrap(),
            tag: tag.into(),
            dry_run: false,
        })
    };
    tag("d:1", "stable").unwrap();
    bench.add("n[1-3]", LayerMode::Ephemeral);
    bench.set_image("n[1-2]", "d:stable");
    let moved = tag("d:2", "stable").unwrap();
    assert_eq!((moved.before, moved.version), (Some(1), Some(2)));
    assert_eq!(moved.nodes.to_string(), "n[1-2]");
    refused(tag("d:7", "x"), HeadErrorKind::NotFound, &["d:7"]);
    refused(tag("d:1", "latest"), HeadErrorKind::Invalid, &["latest"]);
    let untag = || {
        bench.head().image_untag(&ImageUntag {
            name: "d".into(),
            tag: "stable".into(),
            dry_run: false,
        })
    };
    refused(untag(), HeadErrorKind::Conflict, &["n[1-2]", "d:stable"]);
    bench.set_image("n[1-2]", "d");
    assert_eq!(untag().unwrap().before, Some(2));
    refused(untag(), HeadErrorKind::NotFound, &["d:stable"]);
}

#[test]
fn an_image_in_use_is_not_removed_and_its_users_are_named() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.import("d", 2);
    bench.set_image("n[1-2]", "d:1");
    let idle = |_: &NodeName| false;
    let named = ["n[1-2]", "in use"];
    refused(
        bench.remove_image("d:1", &idle),
        HeadErrorKind::Conflict,
        &named,
    );
    refused(
        bench.remove_image("d:2", &idle),
        HeadErrorKind::Conflict,
        &["n3"],
    );
    refused(
        bench.remove_image("d", &idle),
        HeadErrorKind::Conflict,
        &["n[1-3]"],
    );
    refused(
        bench.remove_image("x", &idle),
        HeadErrorKind::NotFound,
        &["`x`"],
    );
    // Set to another version, but still running from this one.
    bench.boot("n1");
    bench.set_image("n[1-2]", "d:2");
    let n1 = |node: &NodeName| *node == name("n1");
    refused(
        bench.remove_image("d:1", &n1),
        HeadErrorKind::Conflict,
        &["n1 run from it"],
    );
    let removed = bench.remove_image("d:1", &idle).unwrap();
    assert_eq!(removed.labels, ["d:1"]);
    // A system that was not seen when its image went does not get another disk.
    refused(
        bench.login("n1", false),
        HeadErrorKind::Gone,
        &["n1", "boot the node anew"],
    );
    assert_eq!(bench.boot("n1").label, "d:2");
}

#[test]
fn removal_gives_the_space_back() {
    let bench = Bench::new();
    let id = bench.import("d", 1).id.unwrap();
    bench.import("e", 2);
    let removed = bench.remove_image("d", &|_| false).unwrap();
    assert!(removed.freed_bytes.is_some());
    let left = bench.head().store.images.list().unwrap();
    assert_eq!(left.len(), 1);
    assert!(!left.contains(&id));
    assert_eq!(bench.head().images().len(), 1);
}

#[test]
fn content_that_another_image_names_stays() {
    let bench = Bench::new();
    bench.import("d", 1);
    bench.import("e", 1);
    bench.remove_image("d", &|_| false).unwrap();
    assert_eq!(bench.head().store.images.list().unwrap().len(), 1);
    let view = bench.head().image_show(&ImageRef::parse("e:1").unwrap());
    assert!(view.unwrap().versions[0].disk.is_some());
}

#[test]
fn an_image_is_shown_verified_and_exported() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let image = ImageRef::parse("d:1").unwrap();
    let view = bench.head().image_show(&image).unwrap();
    assert_eq!(view.nodes.to_string(), "n[1-3]");
    assert_eq!(view.versions[0].data_chunks, Some(16));
    assert_eq!(view.versions[0].disk.as_ref().unwrap()["table"], "none");
    let ask = ImageVerify {
        image: image.clone(),
    };
    let no = AtomicBool::new(false);
    let verified = bench.head().image_verify(&ask, &|_| (), &no).unwrap();
    assert_eq!((verified.label.as_str(), verified.bad.len()), ("d:1", 0));
    let ask = ImageExport {
        image,
        path: bench.top.path().join("out.raw"),
        format: "raw".into(),
        dry_run: false,
    };
    bench.head().image_export(&ask, &|_| (), &no).unwrap();
    assert_eq!(std::fs::read(&ask.path).unwrap(), vec![1; MIB]);
    let again = bench.head().image_export(&ask, &|_| (), &no);
    refused(again, HeadErrorKind::Conflict, &["out.raw"]);
}

#[test]
fn a_cancelled_export_leaves_no_file() {
    let bench = Bench::new();
    bench.import("d", 1);
    let ask = ImageExport {
        image: ImageRef::parse("d").unwrap(),
        path: bench.top.path().join("out.raw"),
        format: "raw".into(),
        dry_run: false,
    };
    let yes = AtomicBool::new(true);
    refused(
        bench.head().image_export(&ask, &|_| (), &yes),
        HeadErrorKind::Unavailable,
        &["out.raw", "cancelled"],
    );
    let left = std::fs::read_dir(bench.top.path()).unwrap();
    let left = left.filter(|e| {
        e.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("out")
    });
    assert_eq!(left.count(), 0);
}

// --- nodes ---

#[test]
fn nodes_are_added_with_all_that_is_theirs() {
    let bench = Bench::new();
    bench.import("d", 1);
    let ask = NodeAdd {
        mac: Some(Mac::parse("52:54:00:00:00:01").unwrap()),
        ip: Some("10.0.0.1".parse().unwrap()),
        ..add_ask("n[1-500]")
    };
    let rows = bench.head().catalog.rows_written();
    let began = std::time::Instant::now();
    let done = bench.head().nodes_add(&ask).unwrap();
    println!("500 nodes in {:?}", began.elapsed());
    assert_eq!(done.nodes.to_string(), "n[1-500]");
    // A row for each node and one for its layer's number: nothing that depends on how many there are.
    assert_eq!(bench.head().catalog.rows_written() - rows, 1000);
    let views = bench.head().nodes(Some("n500")).unwrap();
    let last = &views[0];
    assert_eq!(last.macs[0].to_string(), "52:54:00:00:01:f4");
    assert_eq!(last.ip.unwrap().to_string(), "10.0.1.244");
    assert_eq!(last.version.as_deref(), Some("d:1"));
    let all = bench.head().nodes(None).unwrap();
    let secrets = bench.head().node_secrets("n[1-500]").unwrap();
    let both = secrets.iter().flat_map(|n| [&n.secret.0, &n.head_secret.0]);
    let both: std::collections::HashSet<_> = both.collect();
    assert!(both.iter().all(|text| text.len() == 16));
    let uuids: std::collections::HashSet<_> = all.iter().map(|n| &n.disk_uuid).collect();
    assert_eq!((both.len(), uuids.len()), (1000, 500));
    assert!(bench.head().store.layers.layers().is_empty());
}

#[test]
fn nodes_are_added_all_or_none() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let add = |ask: NodeAdd| bench.head().nodes_add(&ask);
    let again = add(add_ask("n[2-6]"));
    refused(again, HeadErrorKind::Conflict, &["n[2-3] exist already"]);
    let no_image = NodeAdd {
        image: Some(ImageRef::parse("x:1").unwrap()),
        ..add_ask("m1")
    };
    refused(add(no_image), HeadErrorKind::NotFound, &["x:1", "import"]);
    let mac = Some(Mac::parse("52:54:00:00:00:01").unwrap());
    add(NodeAdd {
        mac,
        ..add_ask("m1")
    })
    .unwrap();
    let taken = NodeAdd {
        macs: Some("525400000009\n525400000001".into()),
        ..add_ask("m[2-3]")
    };
    refused(
        add(taken),
        HeadErrorKind::Conflict,
        &["m3", "52:54:00:00:00:01", "`m1`"],
    );
    refused(
        add(add_ask("@nobody")),
        HeadErrorKind::Invalid,
        &["@nobody"],
    );
    assert_eq!(bench.head().nodes(None).unwrap().len(), 4);
    let dry = NodeAdd {
        dry_run: true,
        ..add_ask("k[1-9]")
    };
    assert_eq!(add(dry).unwrap().nodes.len(), 9);
    assert_eq!(bench.head().nodes(None).unwrap().len(), 4);
}

#[test]
fn nodes_are_chosen_by_sets_and_groups() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    bench.import("e", 2);
    bench.add("p1", LayerMode::Persistent);
    bench.set_image("n3", "e");
    let chosen = |text: &str| bench.head().select(text).unwrap().to_string();
    assert_eq!(chosen("@all"), "n[1-3],p1");
    assert_eq!(chosen("@all!@image:e"), "n[1-2],p1");
    assert_eq!(chosen("@mode:persistent"), "p1");
    let select = |text: &str| bench.head().select(text);
    refused(select("n[3-5]"), HeadErrorKind::NotFound, &["n[4-5]"]);
    refused(select("n1&n2"), HeadErrorKind::NotFound, &["names no node"]);
    refused(select("@rack1"), HeadErrorKind::Invalid, &["@image:NAME"]);
}

#[test]
fn what_a_change_leaves_out_stays_and_null_clears() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let set = |json: &str| {
        let ask: NodeChange = serde_json::from_str(json).unwrap();
        bench.head().nodes_set(&ask)
    };
    let n1 = || bench.head().nodes(Some("n1")).unwrap().remove(0);
    set(r#"{"nodes":"n1","power":"ipmi {node}","ip":"10.0.0.9","boot":"local"}"#).unwrap();
    assert_eq!(n1().power.as_deref(), Some("ipmi {node}"));
    set(r#"{"nodes":"n1","power":null,"macs":["52:54:00:00:00:01"]}"#).unwrap();
    let now = n1();
    assert_eq!(
        (now.power, now.boot, now.macs.len()),
        (None, BootMode::Local, 1)
    );
    assert_eq!(now.ip.unwrap().to_string(), "10.0.0.9");
    let taken = set(r#"{"nodes":"n2","macs":["52:54:00:00:00:01"]}"#);
    refused(taken, HeadErrorKind::Conflict, &["n2", "`n1`"]);
    let many = set(r#"{"nodes":"n[1-2]","ip":"10.0.0.8"}"#);
    refused(many, HeadErrorKind::Invalid, &["n[1-2]"]);
    let missing = set(r#"{"nodes":"n1","image":"x"}"#);
    refused(missing, HeadErrorKind::NotFound, &["image x"]);
    assert!(serde_json::from_str::<NodeChange>(r#"{"nodes":"n1","colour":1}"#).is_err());
}

#[test]
fn a_removed_node_takes_its_layer_along() {
    let bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(0, &[9; 512]).unwrap();
    let layer = disk.node.layer;
    let ask = NodeRemove {
        nodes: "n[1-2]".into(),
        ..NodeRemove::default()
    };
    let busy = |node: &NodeName| *node == name("n1");
    let remove = |ask: &NodeRemove| bench.head().nodes_remove(ask, &busy);
    refused(
        remove(&ask),
        HeadErrorKind::Conflict,
        &["n1 have their disks open"],
    );
    let force = NodeRemove { force: true, ..ask };
    assert_eq!(remove(&force).unwrap().nodes.to_string(), "n[1-2]");
    assert!(disk.volume.read(ByteRange::new(0, 512).unwrap()).is_err());
    assert!(!bench.head().layer_use(layer).holds_data());
    refused(bench.login("n1", false), HeadErrorKind::NotFound, &["n1"]);
    // Its name may come back; its layer's number does not.
    bench.add("n1", LayerMode::Persistent);
    let now = bench.head().snapshot();
    assert!(now.node("n1").unwrap().layer > now.node("n3").unwrap().layer);
}

#[test]
fn a_layer_that_no_node_has_is_removed_at_the_next_start() {
    let mut bench = Bench::with_nodes(LayerMode::Persistent);
    bench.boot("n1");
    let disk = bench.os("n1");
    disk.volume.write(0, &[9; 512]).unwrap();
    let layer = disk.node.layer;
    drop(disk);
    // As if the process had died between the two halves of a removal.
    let remove = |changes: &mut crate::catalog::Changes| changes.remove_node(&name("n1"));
    bench.head().catalog.transact(remove).unwrap();
    bench.reopen();
    assert!(!bench.head().layer_use(layer).holds_data());
}

// --- machines that wait ---

fn machine(n: u64, at: u64) -> PendingRecord {
    let base = Mac::parse("52:54:00:00:00:00").unwrap();
    PendingRecord {
        mac: base.plus(n).unwrap(),
        arch: "bios".into(),
        uuid: None,
        first: UnixMillis(at),
        last: UnixMillis(at),
        asked: 1,
    }
}

#[test]
fn a_waiting_machine_is_approved_once() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let head = bench.head();
    head.note_pending(machine(1, 1000)).unwrap();
    head.note_pending(machine(1, 2000)).unwrap();
    assert_eq!(head.pending()[0].asked, 2);
    let ask: NodeApprove = serde_json::from_str(
        r#"{"mac":"52:54:00:00:00:01","name":"m1","image":"d","mode":"persistent"}"#,
    )
    .unwrap();
    head.node_approve(&ask).unwrap();
    assert!(head.pending().is_empty());
    let now = head.snapshot();
    assert_eq!(now.node_by_mac(ask.mac).unwrap().name, ask.name);
    assert!(now.pending(ask.mac).is_none());
    // It may ask once more before it knows.
    head.note_pending(machine(1, 3000)).unwrap();
    assert!(head.pending().is_empty());
    refused(head.node_approve(&ask), HeadErrorKind::Conflict, &["`m1`"]);
    let stranger = NodeApprove {
        mac: machine(2, 0).mac,
        ..ask
    };
    refused(
        head.node_approve(&stranger),
        HeadErrorKind::NotFound,
        &["let it boot once"],
    );
}

#[test]
fn waiting_machines_are_written_now_and_then_and_survive() {
    let mut bench = Bench::new();
    bench.head().note_pending(machine(1, 1000)).unwrap();
    let rows = bench.head().catalog.rows_written();
    for n in 0..50 {
        bench.head().note_pending(machine(n, 1500)).unwrap();
    }
    assert_eq!(bench.head().catalog.rows_written(), rows);
    bench.head().note_pending(machine(1, 60_000)).unwrap();
    assert_eq!(bench.head().catalog.rows_written(), rows + 50);
    bench.reopen();
    let pending = bench.head().pending();
    assert_eq!((pending.len(), pending[0].asked), (50, 3));
    bench.head().pending_forget(machine(1, 0).mac).unwrap();
    bench.reopen();
    assert_eq!(bench.head().pending().len(), 49);
}

// --- the whole ---

#[test]
fn one_process_at_a_time_has_a_state_directory() {
    let bench = Bench::new();
    let second = Head::open(&bench.top.path().join("state"), &HeadOptions::default());
    let pid = format!("process {}", std::process::id());
    refused(second, HeadErrorKind::Refused, &[&pid, "socket"]);
}

#[test]
fn campaigns_are_kept_and_numbered() {
    let mut bench = Bench::new();
    let id = bench.head().next_campaign().unwrap();
    bench.head().put_campaign(id, r#"{"nodes":"n1"}"#).unwrap();
    bench.head().put_campaign(id, r#"{"nodes":"n2"}"#).unwrap();
    bench.reopen();
    let kept = bench.head().campaigns().unwrap();
    assert_eq!(kept, [(id, r#"{"nodes":"n2"}"#.to_owned())]);
    assert!(bench.head().next_campaign().unwrap() > id);
}

#[test]
fn secrets_stay_out_of_debug_text() {
    let bench = Bench::with_nodes(LayerMode::Ephemeral);
    let secrets = bench.head().node_secrets("n1").unwrap().remove(0);
    let text = format!(
        "{:?} {:?} {secrets:?}",
        bench.head().snapshot(),
        bench.head()
    );
    assert!(!text.contains(&secrets.secret.0) && !text.contains(&secrets.head_secret.0));
}
