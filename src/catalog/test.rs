use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;
use crate::limits;
use crate::names::{BootId, ImageId, LayerId, Mac, NodeName};
use crate::units::UnixMillis;

/// Memory that outlives a catalog, counts what is written to it, and may stop working.
#[derive(Clone, Debug)]
struct Medium {
    bytes: Arc<InMemoryBackend>,
    written: Arc<AtomicU64>,
    writes_left: Arc<AtomicU64>,
}

impl Medium {
    fn new() -> Self {
        Self {
            bytes: Arc::new(InMemoryBackend::new()),
            written: Arc::default(),
            writes_left: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    /// What a process that starts after a kill of this one finds.
    fn after_kill(&self) -> Self {
        let copy = Self::new();
        let len = self.bytes.len().unwrap();
        let mut all = vec![0; usize::try_from(len).unwrap()];
        self.bytes.read(0, &mut all).unwrap();
        copy.bytes.set_len(len).unwrap();
        copy.bytes.write(0, &all).unwrap();
        copy
    }

    fn open(&self) -> Catalog {
        Catalog::with_backend(self.clone()).unwrap()
    }

    fn spend(&self) -> io::Result<()> {
        let take = |left: u64| left.checked_sub(1);
        let spent = self
            .writes_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        spent.map(drop).map_err(|_| io::Error::other("cut off"))
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.bytes.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.spend()?;
        self.bytes.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.spend()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.spend()?;
        self.written.fetch_add(data.len() as u64, Ordering::SeqCst);
        self.bytes.write(offset, data)
    }
}

fn name(n: u32) -> NodeName {
    NodeName::parse(&format!("node{n}")).unwrap()
}

fn mac(n: u32) -> Mac {
    let base = Mac::parse("52:54:00:00:00:00").unwrap();
    base.plus(u64::from(n)).unwrap()
}

pub(super) fn node(n: u32) -> NodeRecord {
    NodeRecord {
        name: name(n),
        layer: LayerId(n),
        macs: vec![mac(n)],
        ip: Some(Ipv4Addr::from(0x0a00_0000 + n)),
        image: Some(ImageRef::parse("debian12:stable").unwrap()),
        mode: LayerMode::Ephemeral,
        boot: BootMode::Image,
        loader: LoaderPolicy::Auto,
        disk: crate::catalog::DiskTraits::default(),
        layer_limit: None,
        layer_warn: None,
        power: None,
        profile: None,
        inherits: crate::catalog::SettingSet::default(),
        secret: Secret("0123456789abcdef".into()),
        head_secret: Secret("fedcba9876543210".into()),
        disk_uuid: format!("00000000-0000-4000-8000-{n:012x}"),
        added: UnixMillis(1_700_000_000_000),
    }
}

pub(super) fn image(versions: u32) -> ImageRecord {
    let mut image = ImageRecord::new("debian12");
    for version in 1..=versions {
        image.versions.push(VersionRecord {
            version,
            id: ImageId([u8::try_from(version).unwrap(); 32]),
            size: 1 << 20,
            arch: Some("x86_64".into()),
            note: None,
            source: "debian12.raw".into(),
            created: UnixMillis(5),
        });
    }
    image.next_version = versions + 1;
    image
}

fn binding(layer: u32, boot: u64) -> Binding {
    Binding {
        layer: LayerId(layer),
        label: "debian12:1".into(),
        image: ImageId([1; 32]),
        mode: LayerMode::Ephemeral,
        boot: BootId(boot),
        at: UnixMillis(9),
        began: None,
        moving: None,
        reservations: None,
    }
}

/// The same disk with reservations under `key`; none for 0.
pub(super) fn reserved(layer: u32, boot: u64, key: u64) -> Binding {
    let port = format!("iqn.2026-11.t:node{layer},i,0x00023d000001");
    let reservations = DiskReservations {
        registrants: vec![ReservationKey {
            port: port.clone(),
            key,
            all_ports: key.is_multiple_of(2),
        }],
        held: Some(Held {
            by: port,
            kind: HeldType::WriteExclusiveAllRegistrants,
        }),
    };
    Binding {
        began: Some(BootId(boot / 2)),
        moving: None,
        reservations: (key != 0).then_some(reservations),
        ..binding(layer, boot)
    }
}

pub(super) fn machine(n: u32) -> PendingRecord {
    PendingRecord {
        mac: mac(n),
        arch: "uefi-x64".into(),
        uuid: None,
        first: UnixMillis(1),
        last: UnixMillis(2),
        asked: 3,
    }
}

pub(super) fn add(catalog: &Catalog, nodes: impl IntoIterator<Item = NodeRecord>) -> Result<()> {
    let mut nodes = nodes.into_iter();
    catalog.transact(|tx| nodes.try_for_each(|node| tx.add_node(node)))
}

#[test]
fn records_survive_reopening() {
    let medium = Medium::new();
    let catalog = medium.open();
    let done: Result<()> = catalog.transact(|tx| {
        tx.put_image(image(2))?;
        tx.add_node(node(7))?;
        tx.put_binding(binding(7, 31))?;
        tx.put_pending(machine(90))?;
        tx.put_campaign(4, r#"{"wave":25}"#)?;
        tx.set_counter("boots", 77)
    });
    done.unwrap();
    drop(catalog);
    let now = medium.open().snapshot();
    assert_eq!(**now.node("node7").unwrap(), node(7));
    assert_eq!(**now.node_by_mac(mac(7)).unwrap(), node(7));
    assert_eq!(
        **now.node_by_ip(Ipv4Addr::new(10, 0, 0, 7)).unwrap(),
        node(7)
    );
    assert_eq!(**now.node_by_layer(LayerId(7)).unwrap(), node(7));
    assert_eq!(**now.image("debian12").unwrap(), image(2));
    assert_eq!(**now.binding(LayerId(7)).unwrap(), binding(7, 31));
    assert_eq!(**now.pending(mac(90)).unwrap(), machine(90));
    assert_eq!(&**now.campaign(4).unwrap(), r#"{"wave":25}"#);
    assert_eq!(now.counter("boots"), 77);
}

#[test]
fn what_must_be_unique_is_refused_with_its_owner() {
    let catalog = Catalog::in_memory().unwrap();
    add(&catalog, [node(1), node(2)]).unwrap();
    let refused = |change: &dyn Fn(&mut NodeRecord)| {
        let mut wanted = node(3);
        change(&mut wanted);
        let error = add(&catalog, [wanted]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        error.to_string()
    };
    let text = refused(&|n| n.name = name(2));
    assert!(text.contains("`node2` exists already"), "{text}");
    let text = refused(&|n| n.macs.push(mac(2)));
    assert!(
        text.contains("52:54:00:00:00:02") && text.contains("`node2`"),
        "{text}"
    );
    let text = refused(&|n| n.ip = node(1).ip);
    assert!(
        text.contains("10.0.0.1") && text.contains("`node1`"),
        "{text}"
    );
    let text = refused(&|n| n.layer = LayerId(1));
    assert!(text.contains("layer 1"), "{text}");
    assert_eq!(catalog.snapshot().node_count(), 2);
}

#[test]
fn a_node_may_change_and_its_old_addresses_are_free_again() {
    let catalog = Catalog::in_memory().unwrap();
    add(&catalog, [node(1)]).unwrap();
    let mut changed = node(1);
    changed.macs = vec![mac(50), mac(51)];
    changed.ip = None;
    catalog.transact(|tx| tx.put_node(changed.clone())).unwrap();
    let now = catalog.snapshot();
    assert!(now.node_by_mac(mac(1)).is_none());
    assert!(now.node_by_ip(Ipv4Addr::new(10, 0, 0, 1)).is_none());
    assert_eq!(**now.node_by_mac(mac(51)).unwrap(), changed);
    let mut other = node(2);
    other.macs = vec![mac(1)];
    add(&catalog, [other]).unwrap();
}

#[test]
fn records_that_are_wrong_by_themselves_are_refused() {
    let catalog = Catalog::in_memory().unwrap();
    let refused = |change: &dyn Fn(&mut NodeRecord)| {
        let mut wanted = node(1);
        change(&mut wanted);
        let error = add(&catalog, [wanted]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    assert!(refused(&|n| n.macs = vec![mac(1), mac(1)]).contains("twice"));
    assert!(refused(&|n| n.macs = vec![Mac::new([0xff; 6])]).contains("group address"));
    assert!(refused(&|n| n.macs = (0..17).map(mac).collect()).contains("more than 16"));
    assert!(refused(&|n| n.ip = Some(Ipv4Addr::BROADCAST)).contains("255.255.255.255"));
}

#[test]
fn an_error_in_the_middle_changes_nothing() {
    let catalog = Catalog::in_memory().unwrap();
    add(&catalog, [node(1)]).unwrap();
    let rows = catalog.rows_written();
    add(&catalog, [node(2), node(3), node(1)]).unwrap_err();
    let now = catalog.snapshot();
    assert_eq!((now.node_count(), catalog.rows_written()), (1, rows));
    assert!(now.node("node2").is_none() && now.node_by_mac(mac(2)).is_none());
}

#[test]
fn a_snapshot_never_changes() {
    let catalog = Catalog::in_memory().unwrap();
    add(&catalog, [node(1)]).unwrap();
    let before = catalog.snapshot();
    catalog
        .transact(|tx| tx.remove_node(&name(1)).map(drop))
        .unwrap();
    assert!(before.node("node1").is_some());
    assert!(catalog.snapshot().node("node1").is_none());
}

#[test]
fn a_rehearsal_is_checked_but_not_done() {
    let catalog = Catalog::in_memory().unwrap();
    catalog.rehearse(|tx| tx.add_node(node(1))).unwrap();
    assert_eq!(catalog.snapshot().node_count(), 0);
    add(&catalog, [node(1)]).unwrap();
    catalog.rehearse(|tx| tx.add_node(node(1))).unwrap_err();
}

#[test]
fn removing_a_node_unbinds_its_layer() {
    let catalog = Catalog::in_memory().unwrap();
    let bind = |layer| catalog.transact(|tx| tx.put_binding(binding(layer, 1)).map(drop));
    assert_eq!(bind(1).unwrap_err().kind(), ErrorKind::NotFound);
    add(&catalog, [node(1)]).unwrap();
    bind(1).unwrap();
    catalog
        .transact(|tx| tx.remove_node(&name(1)).map(drop))
        .unwrap();
    assert!(catalog.snapshot().binding(LayerId(1)).is_none());
}

#[test]
fn layer_numbers_are_never_given_twice() {
    let medium = Medium::new();
    let take = |catalog: &Catalog| catalog.transact(Changes::take_layer).unwrap();
    let catalog = medium.open();
    assert_eq!(take(&catalog), LayerId(1));
    catalog.rehearse(Changes::take_layer).unwrap();
    assert_eq!(take(&catalog), LayerId(2));
    drop(catalog);
    assert_eq!(take(&medium.open()), LayerId(3));
    let back: Result<()> = medium.open().transact(|tx| tx.set_counter("layers", 1));
    assert_eq!(back.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn only_so_many_campaigns_are_kept() {
    let catalog = Catalog::in_memory().unwrap();
    let all: Result<()> = catalog.transact(|tx| {
        (0..limits::CAMPAIGNS_KEPT as u64 + 3).try_for_each(|id| tx.put_campaign(id, "{}"))
    });
    all.unwrap();
    let kept = catalog.campaigns();
    assert_eq!((kept.len(), kept[0].0), (limits::CAMPAIGNS_KEPT, 3));
    let error = catalog.put_campaign(9, "{").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn waiting_machines_are_bounded() {
    let catalog = Catalog::in_memory().unwrap();
    let most = u32::try_from(limits::PENDING_MAX).unwrap();
    let put = |n| catalog.transact(move |tx| tx.put_pending(machine(n)));
    let fill: Result<()> =
        catalog.transact(|tx| (0..most).try_for_each(|n| tx.put_pending(machine(n))));
    fill.unwrap();
    assert_eq!(put(most).unwrap_err().kind(), ErrorKind::Full);
    put(0).unwrap();
}

#[test]
fn the_file_is_for_its_owner_only_and_opened_once() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    let catalog = Catalog::open(&path).unwrap();
    add(&catalog, [node(1)]).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(Catalog::open(&path).unwrap_err().kind(), ErrorKind::Busy);
    drop(catalog);
    assert_eq!(Catalog::open(&path).unwrap().snapshot().node_count(), 1);
}

#[test]
fn a_file_that_is_no_catalog_is_called_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    std::fs::write(&path, [7; 8192]).unwrap();
    let error = Catalog::open(&path).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io),
        "{error}"
    );
    assert!(error.to_string().contains("catalog.redb"), "{error}");
}

/// Bytes that adding 10 nodes writes to the medium when `before` nodes exist.
fn bytes_for_ten(before: u32) -> (u64, u64) {
    let medium = Medium::new();
    let catalog = medium.open();
    add(&catalog, (0..before).map(node)).unwrap();
    let (bytes, rows) = (
        medium.written.load(Ordering::SeqCst),
        catalog.rows_written(),
    );
    add(&catalog, (before..before + 10).map(node)).unwrap();
    let after = medium.written.load(Ordering::SeqCst);
    (after - bytes, catalog.rows_written() - rows)
}

#[test]
fn the_ten_thousandth_node_costs_what_the_hundredth_did() {
    let (bytes_few, rows_few) = bytes_for_ten(100);
    let (bytes_many, rows_many) = bytes_for_ten(10_000);
    assert_eq!((rows_few, rows_many), (10, 10));
    assert!(
        bytes_many < bytes_few * 4,
        "10 nodes wrote {bytes_few} bytes after 100, {bytes_many} after 10,000"
    );
}

#[test]
fn five_hundred_nodes_are_one_commit() {
    let catalog = Catalog::in_memory().unwrap();
    let began = std::time::Instant::now();
    add(&catalog, (0..500).map(node)).unwrap();
    println!("500 nodes in {:?}", began.elapsed());
    assert_eq!(catalog.rows_written(), 500);
}

#[test]
fn a_cut_at_any_write_leaves_the_state_before_or_after() {
    for writes in 0..200 {
        let medium = Medium::new();
        let catalog = medium.open();
        add(&catalog, (0..20).map(node)).unwrap();
        medium.writes_left.store(writes, Ordering::SeqCst);
        let whole = add(&catalog, (20..60).map(node)).is_ok();
        let seen = catalog.snapshot().node_count();
        assert_eq!(seen, if whole { 60 } else { 20 });
        let found = medium.after_kill().open().snapshot().node_count();
        assert!(found == seen || (!whole && found == 60), "cut at {writes}");
        if whole {
            assert!(writes > 3);
            return;
        }
        // What comes after a failure is refused too; it never mixes with it.
        let error = add(&catalog, [node(99)]).unwrap_err().to_string();
        assert!(error.contains("start the head again"), "{error}");
    }
    panic!("the commit never came through");
}

#[test]
fn a_cut_while_reservations_are_written_leaves_those_before_or_after() {
    for writes in 0..200 {
        let medium = Medium::new();
        let catalog = medium.open();
        add(&catalog, [node(1)]).unwrap();
        let keep = |key| catalog.transact(|tx| tx.put_binding(reserved(1, 8, key)).map(drop));
        keep(6).unwrap();
        medium.writes_left.store(writes, Ordering::SeqCst);
        let whole = keep(7).is_ok();
        let key_of = |now: &Snapshot| {
            let bound = now.binding(LayerId(1)).unwrap();
            bound.reservations.as_ref().unwrap().registrants[0].key
        };
        assert_eq!(key_of(&catalog.snapshot()), if whole { 7 } else { 6 });
        let found = key_of(&medium.after_kill().open().snapshot());
        assert!(found == 7 || (!whole && found == 6), "cut at {writes}");
        if whole {
            assert!(writes > 3);
            return;
        }
    }
    panic!("the commit never came through");
}

#[test]
fn bindings_of_older_programs_are_read() {
    let text = r#"{"layer":17,"label":"d:1","image":"IMAGE","mode":"ephemeral","boot":5,"at":9}"#;
    let text = text.replace("IMAGE", &"01".repeat(32));
    let bound: Binding = serde_json::from_str(&text).unwrap();
    assert_eq!((bound.begun(), &bound.reservations), (BootId(5), &None));
    assert_eq!(serde_json::to_string(&bound).unwrap(), text, "and by them");
}

#[derive(Clone, Debug)]
enum Step {
    Add(u32, u32),
    Change(u32, u32),
    Remove(u32),
    Image(u32),
    DropImage,
    Bind(u32, u64),
    Reserve(u32, u64),
    Pending(u32),
    Forget(u32),
    Layer,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    nodes: BTreeMap<NodeName, NodeRecord>,
    images: BTreeMap<String, ImageRecord>,
    bindings: BTreeMap<LayerId, Binding>,
    pending: BTreeMap<Mac, PendingRecord>,
    layers: u64,
}

fn with_mac(n: u32, card: u32) -> NodeRecord {
    let mut record = node(n);
    record.macs = vec![mac(card)];
    record.ip = card
        .is_multiple_of(2)
        .then(|| Ipv4Addr::from(0x0a00_0000 + card));
    record
}

impl Model {
    /// The stupid way: look at everything.
    fn put(&mut self, record: NodeRecord) -> bool {
        let clash = self.nodes.values().any(|o| {
            o.name != record.name
                && (o.macs.iter().any(|m| record.macs.contains(m))
                    || (o.ip.is_some() && o.ip == record.ip))
        });
        if !clash {
            self.nodes.insert(record.name.clone(), record);
        }
        !clash
    }

    fn step(&mut self, step: &Step) -> bool {
        match *step {
            Step::Add(n, _) if self.nodes.contains_key(&name(n)) => false,
            Step::Add(n, card) | Step::Change(n, card) => self.put(with_mac(n, card)),
            Step::Remove(n) => {
                self.bindings.remove(&LayerId(n));
                self.nodes.remove(&name(n)).is_some()
            }
            Step::Image(n) => {
                self.images.insert("debian12".into(), image(n));
                true
            }
            Step::DropImage => self.images.remove("debian12").is_some(),
            Step::Bind(n, boot) => {
                let known = self.nodes.contains_key(&name(n));
                if known {
                    self.bindings.insert(LayerId(n), binding(n, boot));
                }
                known
            }
            Step::Reserve(n, key) => {
                let known = self.nodes.contains_key(&name(n));
                if known {
                    self.bindings.insert(LayerId(n), reserved(n, 8, key));
                }
                known
            }
            Step::Pending(n) => {
                self.pending.insert(mac(n), machine(n));
                true
            }
            Step::Forget(n) => self.pending.remove(&mac(n)).is_some(),
            Step::Layer => {
                self.layers += 1;
                true
            }
        }
    }

    fn of(now: &Snapshot) -> Self {
        Self {
            nodes: now
                .nodes()
                .map(|n| (n.name.clone(), (**n).clone()))
                .collect(),
            images: now
                .images()
                .map(|i| (i.name.clone(), (**i).clone()))
                .collect(),
            bindings: now.bindings().map(|b| (b.layer, (**b).clone())).collect(),
            pending: now.all_pending().map(|p| (p.mac, (**p).clone())).collect(),
            layers: now.counter("layers"),
        }
    }

    /// The indexes say what the tables say.
    fn check_indexes(&self, now: &Snapshot) {
        for n in 0..12 {
            let by_mac = self.nodes.values().find(|o| o.macs.contains(&mac(n)));
            assert_eq!(now.node_by_mac(mac(n)).map(|o| &**o), by_mac);
            let ip = Ipv4Addr::from(0x0a00_0000 + n);
            let by_ip = self.nodes.values().find(|o| o.ip == Some(ip));
            assert_eq!(now.node_by_ip(ip).map(|o| &**o), by_ip);
            let by_layer = self.nodes.values().find(|o| o.layer == LayerId(n));
            assert_eq!(now.node_by_layer(LayerId(n)).map(|o| &**o), by_layer);
        }
    }
}

fn step(tx: &mut Changes, step: &Step) -> Result<()> {
    match *step {
        Step::Add(n, card) => tx.add_node(with_mac(n, card)),
        Step::Change(n, card) => tx.put_node(with_mac(n, card)),
        Step::Remove(n) => tx.remove_node(&name(n)).map(drop),
        Step::Image(n) => tx.put_image(image(n)),
        Step::DropImage => tx.remove_image("debian12").map(drop),
        Step::Bind(n, boot) => tx.put_binding(binding(n, boot)).map(drop),
        Step::Reserve(n, key) => tx.put_binding(reserved(n, 8, key)).map(drop),
        Step::Pending(n) => tx.put_pending(machine(n)),
        Step::Forget(n) => tx
            .remove_pending(mac(n))
            .map(drop)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "none")),
        Step::Layer => tx.take_layer().map(drop),
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let n = 0..10_u32;
    prop_oneof![
        4 => (n.clone(), n.clone()).prop_map(|(n, card)| Step::Add(n, card)),
        3 => (n.clone(), n.clone()).prop_map(|(n, card)| Step::Change(n, card)),
        2 => n.clone().prop_map(Step::Remove),
        1 => (0..5_u32).prop_map(Step::Image),
        1 => Just(Step::DropImage),
        2 => (n.clone(), any::<u64>()).prop_map(|(n, boot)| Step::Bind(n, boot)),
        2 => (n.clone(), any::<u64>()).prop_map(|(n, key)| Step::Reserve(n, key)),
        1 => n.clone().prop_map(Step::Pending),
        1 => n.prop_map(Step::Forget),
        1 => Just(Step::Layer),
    ]
}

#[derive(Clone, Debug)]
enum Turn {
    Transaction(Vec<Step>),
    Reopen,
    Kill,
}

fn any_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        8 => prop::collection::vec(any_step(), 1..5).prop_map(Turn::Transaction),
        1 => Just(Turn::Reopen),
        1 => Just(Turn::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_is_a_set_of_maps_that_survives(turns in prop::collection::vec(any_turn(), 1..40)) {
        let mut medium = Medium::new();
        let mut catalog = medium.open();
        let mut model = Model::default();
        for turn in &turns {
            match turn {
                Turn::Transaction(steps) => {
                    let mut next = model.clone();
                    let good = steps.iter().all(|s| next.step(s));
                    let done = catalog.transact(|tx| steps.iter().try_for_each(|s| step(tx, s)));
                    prop_assert_eq!(done.is_ok(), good);
                    if good {
                        model = next;
                    }
                }
                Turn::Reopen => {
                    drop(catalog);
                    catalog = medium.open();
                }
                Turn::Kill => {
                    medium = medium.after_kill();
                    catalog = medium.open();
                }
            }
            let now = catalog.snapshot();
            prop_assert_eq!(&Model::of(&now), &model);
            model.check_indexes(&now);
        }
    }
}
