//! Power cuts at every write and sync of a whole state directory, catalog and store on one recorded medium:
//! imports, nodes, boots, writes, resets, removals, collections. After each cut the offline check must find no
//! damage, the head must start, and everything that was acknowledged must be there.
//! `lies_about_syncs_are_found_out` proves that this can see the bugs it is there for.

#![expect(clippy::unwrap_used, reason = "test code")]

#[path = "image_model/lying.rs"]
mod lying;
mod meddled;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lying::{Lie, Lying};
use reveille::head::check::{CheckAsk, check_disk};
use reveille::head::{Head, HeadOptions};
use reveille::names::NodeName;
use reveille::store::check::Severity;
use reveille::store::disk::Disk;
use reveille::store::disk_crash::{CrashDisk, Random};
use reveille::store::disk_memory::MemoryDisk;
use reveille::units::ByteRange;

const CHUNKS: usize = 2;
const LEN: usize = CHUNKS * 65_536;
const BLOCK: usize = 4096;
const FIRST: &str = "first start";
const NEXT: &str = "next start";

type Outcome<T> = Result<T, String>;

fn seeds(first: u64, usual: u64) -> std::ops::Range<u64> {
    let times = std::env::var("REVEILLE_SEEDS");
    let times = times.ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    first..first + usual * times
}

/// The disk of a source: every byte of a chunk says which.
fn golden(kind: u8) -> Vec<u8> {
    // The first chunk is shared by all.
    let mut bytes = vec![0x11; 65_536];
    bytes.resize(LEN, kind);
    bytes
}

fn source(dir: &Path, kind: u8) -> String {
    let path = dir.join(format!("{kind}.raw"));
    if !path.exists() {
        std::fs::write(&path, golden(kind)).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

fn open(disk: &Arc<dyn Disk>, boot: &str) -> Outcome<Head> {
    let options = HeadOptions {
        host_boot_id: Some(boot.into()),
        journal_bytes: Some(1500),
        soft_bytes: Some(900),
        foreground: true,
        ..HeadOptions::default()
    };
    Head::open_on(disk, &options).map_err(|e| e.to_string())
}

fn ask<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn name(node: &str) -> NodeName {
    NodeName::parse(node).unwrap()
}

/// What is known of a node's disk: block to the byte it is full of. Written and flushed, or only written.
#[derive(Clone, Debug, Default, PartialEq)]
struct Disk1 {
    /// The image it stands on.
    image: Option<String>,
    flushed: BTreeMap<usize, u8>,
    later: Vec<(usize, u8)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct World {
    /// All names in the catalog, as text.
    names: String,
    /// Persistent nodes.
    disks: BTreeMap<String, Disk1>,
    /// Image id to the bytes of its disk.
    contents: BTreeMap<String, Arc<Vec<u8>>>,
}

struct Event {
    what: String,
    start: usize,
    end: usize,
    before: World,
    after: World,
}

/// All names and what they mean, without secrets and times.
fn names(head: &Head) -> String {
    let now = head.snapshot();
    let images = now.images().map(|i| {
        let versions: Vec<_> = i
            .versions
            .iter()
            .map(|v| (v.version, v.id, v.size))
            .collect();
        let (tags, held) = (&i.tags, i.held);
        format!(
            "{} {versions:?} {tags:?} {held:?} {}",
            i.name, i.next_version
        )
    });
    let nodes = now.nodes().map(|n| {
        let power = &n.power;
        format!("{} {} {:?} {} {power:?}", n.name, n.layer, n.image, n.mode)
    });
    let bindings = now.bindings().map(|b| {
        format!(
            "{} {} {} {:?} {}",
            b.layer, b.label, b.image, b.boot, b.mode
        )
    });
    images
        .chain(nodes)
        .chain(bindings)
        .collect::<Vec<_>>()
        .join("\n")
}

struct Run<'a> {
    dir: &'a Path,
    disk: &'a Arc<dyn Disk>,
    head: Option<Head>,
    world: World,
    next_kind: u8,
    tag: u8,
}

impl Run<'_> {
    fn head(&self) -> &Head {
        self.head.as_ref().unwrap()
    }

    fn import(&mut self) -> String {
        self.next_kind += 1;
        let kind = self.next_kind;
        let path = source(self.dir, kind);
        let import = ask(serde_json::json!({"path": path, "name": "d", "format": "raw"}));
        let done = self
            .head()
            .image_import(&import, &|_| {}, &AtomicBool::new(false));
        let id = done.unwrap().id.unwrap();
        let content = Arc::new(golden(kind));
        self.world.contents.insert(id.to_string(), content);
        format!("import {kind}")
    }

    fn add(&mut self, persistent: bool) -> String {
        let at = self.head().snapshot().counter("layers") + 1;
        let mode = if persistent {
            "persistent"
        } else {
            "ephemeral"
        };
        let node = format!("n{at}");
        let add = ask(serde_json::json!({"nodes": node, "image": "d", "mode": mode}));
        self.head().nodes_add(&add).unwrap();
        if persistent {
            self.world.disks.insert(node.clone(), Disk1::default());
        }
        format!("add {node} {mode}")
    }

    fn node(&self, random: &mut Random) -> Option<String> {
        let now = self.head().snapshot();
        let all: Vec<String> = now.nodes().map(|n| n.name.to_string()).collect();
        let at = usize::try_from(random.below(all.len() as u64)).unwrap();
        all.get(at).cloned()
    }

    fn boot(&mut self, node: &str) -> String {
        let head = self.head();
        let boot = head.bus().begin_boot(&name(node), "test");
        let Ok(bound) = head.prepare_boot(&name(node), boot) else {
            return format!("{node} has no image");
        };
        let image = Some(bound.image.to_string());
        if let Some(disk) = self.world.disks.get_mut(node)
            && disk.image != image
        {
            // Only an empty layer moves on to another image, or one whose disk is that image: it is empty then.
            *disk = Disk1::default();
            disk.image = image;
        }
        format!("boot {node}")
    }

    fn write(&mut self, node: &str, random: &mut Random) -> String {
        let Ok(attached) = self.head().attach(&name(node), false) else {
            return format!("{node} has no disk");
        };
        // Tags above all kinds of images.
        self.tag = self.tag.checked_add(1).unwrap_or(130).max(130);
        let block = usize::try_from(random.below((LEN / BLOCK) as u64)).unwrap();
        let offset = (block * BLOCK) as u64;
        attached.volume.write(offset, &[self.tag; BLOCK]).unwrap();
        let flush = random.below(3) > 0;
        if flush {
            attached.volume.flush().unwrap();
        }
        let image = attached.binding.image.to_string();
        if let Some(disk) = self.world.disks.get_mut(node) {
            disk.image = Some(image);
            disk.later.push((block, self.tag));
            if flush {
                disk.flushed.extend(std::mem::take(&mut disk.later));
            }
        }
        format!("write {node} block {block} tag {} flush {flush}", self.tag)
    }

    fn reset(&mut self, node: &str) -> String {
        let reset = ask(serde_json::json!({"nodes": node, "force": true}));
        self.head().layers_reset(&reset, &|_| false).unwrap();
        if let Some(disk) = self.world.disks.get_mut(node) {
            *disk = Disk1::default();
        }
        format!("reset {node}")
    }

    fn remove_node(&mut self, node: &str) -> String {
        let remove = ask(serde_json::json!({"nodes": node, "force": true}));
        self.head().nodes_remove(&remove, &|_| false).unwrap();
        self.world.disks.remove(node);
        format!("remove {node}")
    }

    fn remove_image(&mut self, random: &mut Random) -> String {
        let now = self.head().snapshot();
        let Some(image) = now.image("d") else {
            return "no image".into();
        };
        let at = usize::try_from(random.below(image.versions.len() as u64)).unwrap();
        let Some(version) = image.versions.get(at) else {
            return "no version".into();
        };
        let remove = ask(serde_json::json!({"image": format!("d:{}", version.version)}));
        match self.head().image_remove(&remove, &|_| false) {
            Ok(_) => format!("remove version {}", version.version),
            Err(e) => format!("refused: {e}"),
        }
    }

    fn promote(&mut self, node: &str) -> String {
        let attached = self.head().attach(&name(node), false).unwrap();
        let range = ByteRange::new(0, LEN as u64).unwrap();
        let shown = attached.volume.read(range).unwrap().to_vec();
        let promote = ask(serde_json::json!({"node": node, "name": "d"}));
        let done =
            self.head()
                .layer_promote(&promote, &|_| false, &|_| {}, &AtomicBool::new(false));
        let done = done.unwrap();
        let id = done.id.unwrap().to_string();
        self.world.contents.insert(id, Arc::new(shown));
        format!("promote {node} to {}", done.label)
    }

    fn roll_back(&mut self) -> String {
        let back = ask(serde_json::json!({"image": "d"}));
        match self.head().image_rollback(&back) {
            Ok(_) => "roll back".into(),
            Err(e) => format!("refused: {e}"),
        }
    }

    /// A text with many nodes, all of them changed by every next one.
    fn apply(&mut self) -> String {
        self.tag = self.tag.checked_add(1).unwrap_or(130).max(130);
        let mut text = "format: 1\nnodes:\n".to_owned();
        for node in 1..=60 {
            writeln!(
                text,
                "- nodes: x{node}\n  power: \"drive {} {{node}} {{action}}\"",
                self.tag
            )
            .unwrap();
        }
        let apply = ask(
            serde_json::json!({"text": text, "file": "x.yaml", "prune": false,
            "missing_images": false, "dry_run": false}),
        );
        self.head().apply(&apply, &|_| false, &|_| false).unwrap();
        format!("apply {}", self.tag)
    }

    /// A life of versions: promoted, moved to, rolled back, with texts in between.
    fn version_step(&mut self, random: &mut Random, nth: usize) -> String {
        match nth {
            0 => self.import(),
            1 => self.add(true),
            2 | 5 | 10 | 13 => self.boot("n1"),
            3 | 7 | 12 => self.write("n1", random),
            4 | 9 => self.promote("n1"),
            6 | 11 => self.apply(),
            8 => self.roll_back(),
            _ => self.remove_image(random),
        }
    }

    fn random_step(&mut self, random: &mut Random, nth: usize) -> String {
        match nth {
            0 => self.import(),
            1 => {
                let persistent = random.below(3) > 0;
                self.add(persistent)
            }
            _ => self.step(random),
        }
    }

    fn step(&mut self, random: &mut Random) -> String {
        let node = self.node(random);
        match (random.below(20), node) {
            (0..3, _) => self.import(),
            (3..6, _) => {
                let persistent = random.below(3) > 0;
                self.add(persistent)
            }
            (6..9, Some(node)) => self.boot(&node),
            (9..15, Some(node)) => self.write(&node, random),
            (15, Some(node)) => self.reset(&node),
            (16, Some(node)) => self.remove_node(&node),
            (17, _) => self.remove_image(random),
            (18, _) => {
                self.head = None;
                self.head = Some(open(self.disk, FIRST).unwrap());
                // Closed in order, so all is flushed.
                for disk in self.world.disks.values_mut() {
                    disk.flushed.extend(std::mem::take(&mut disk.later));
                }
                "restart".into()
            }
            _ => {
                self.head().collect_images().unwrap();
                "collect".into()
            }
        }
    }
}

type Steps = fn(&mut Run<'_>, &mut Random, usize) -> String;

fn history(
    dir: &Path,
    disk: &Arc<dyn Disk>,
    tape: &CrashDisk,
    seed: u64,
    (length, steps): (usize, Steps),
) -> Vec<Event> {
    let mut random = Random(seed);
    let mut run = Run {
        dir,
        disk,
        head: Some(open(disk, FIRST).unwrap()),
        world: World::default(),
        next_kind: 0x20,
        tag: 129,
    };
    let mut events = Vec::new();
    for nth in 0..length {
        let (before, start) = (run.world.clone(), tape.moment());
        let what = steps(&mut run, &mut random, nth);
        run.world.names = names(run.head());
        let (after, end) = (run.world.clone(), tape.moment());
        events.push(Event {
            what,
            start,
            end,
            before,
            after,
        });
    }
    events
}

/// The worlds that may be found after `moment` operations: one, or the two around what was under way.
fn worlds(events: &[Event], moment: usize) -> Vec<&World> {
    let under_way = events.iter().find(|e| e.start < moment && moment < e.end);
    if let Some(event) = under_way {
        return vec![&event.before, &event.after];
    }
    let last = events.iter().rfind(|e| e.end <= moment);
    last.map_or_else(Vec::new, |event| vec![&event.after])
}

fn no_damage(disk: &Arc<dyn Disk>, boot: &str) -> Outcome<Vec<String>> {
    let ask = CheckAsk {
        data: true,
        repair: false,
    };
    let report = check_disk(disk, boot, ask, &|_| {}, &AtomicBool::new(false));
    let report = report.map_err(|e| format!("check: {e}"))?;
    let told = |severity: Severity| {
        let of = report
            .findings
            .iter()
            .filter(move |f| f.severity == severity);
        of.map(|f| format!("{}: {}", f.object, f.what))
            .collect::<Vec<_>>()
    };
    match told(Severity::Damage).first() {
        Some(damage) => Err(format!("the check found damage: {damage}")),
        None => Ok(told(Severity::Garbage)),
    }
}

type Contents = BTreeMap<String, Arc<Vec<u8>>>;

/// Whether these bytes are a disk over `base` with what `disk` says was written to it.
fn is_over(bytes: &[u8], base: &[u8], disk: &Disk1, ours: bool) -> bool {
    bytes
        .chunks(512)
        .zip(base.chunks(512))
        .enumerate()
        .all(|(sector, (found, base))| {
            let block = sector * 512 / BLOCK;
            let flushed = disk.flushed.get(&block);
            let later = disk.later.iter().filter(|(b, _)| ours && *b == block);
            let tagged = |tag: u8| found == [tag; 512];
            flushed.map_or(found == base, |tag| tagged(*tag)) || later.map(|l| l.1).any(tagged)
        })
}

/// Whether the disk that a node gets over `image` is one that its world allows. A layer that moved stands on
/// another image than it did, and shows the same.
fn disk_fits(bytes: &[u8], image: &str, disk: &Disk1, contents: &Contents) -> bool {
    let ours = disk.image.as_deref() == Some(image);
    if (ours || disk.flushed.is_empty()) && is_over(bytes, &contents[image], disk, ours) {
        return true;
    }
    let before = disk.image.as_ref().map(|image| &contents[image]);
    before.is_some_and(|before| is_over(bytes, before, disk, true))
}

fn check_nodes(head: &Head, worlds: &[&World]) -> Outcome<()> {
    let now = head.snapshot();
    let mut contents = Contents::new();
    worlds
        .iter()
        .for_each(|world| contents.extend(world.contents.clone()));
    for node in now.nodes() {
        let wanted = node.image.as_ref().and_then(|image| now.resolve(image));
        let attached = match head.attach(&node.name, true) {
            Ok(attached) => attached,
            Err(_) if wanted.is_none() => continue,
            Err(e) => return Err(format!("node {}: {e}", node.name)),
        };
        let image = attached.binding.image.to_string();
        if !contents.contains_key(&image) {
            return Err("a node got an image that nobody made".into());
        }
        let range = ByteRange::new(0, LEN as u64).unwrap();
        let read = attached.volume.read(range);
        let bytes = read
            .map_err(|e| format!("node {}: {e}", node.name))?
            .to_vec();
        let found = node.name.to_string();
        // An empty disk is what a reset or a boot under way leaves, and what an ephemeral node gets.
        let known: Vec<&Disk1> = worlds.iter().filter_map(|w| w.disks.get(&found)).collect();
        let empty = Disk1::default();
        let cleared = known.windows(2).any(|pair| pair[0] != pair[1]) || known.is_empty();
        let fits = |disk| disk_fits(&bytes, &image, disk, &contents);
        let fits =
            known.iter().any(|disk| fits(disk)) || cleared && may_be_empty(&known) && fits(&empty);
        if !fits {
            return Err(format!(
                "node {found}: its disk is none that it may be: {known:?}"
            ));
        }
    }
    Ok(())
}

/// One of the two worlds has nothing flushed, or there is none: the layer was being made empty.
fn may_be_empty(known: &[&Disk1]) -> bool {
    known.is_empty() || known.iter().any(|disk| disk.flushed.is_empty())
}

fn check_state(image: &MemoryDisk, worlds: &[&World]) -> Outcome<()> {
    let disk: Arc<dyn Disk> = Arc::new(image.clone());
    if !worlds.is_empty() {
        no_damage(&disk, NEXT)?;
    }
    let head = open(&disk, NEXT).map_err(|e| format!("the head does not start: {e}"))?;
    let found = names(&head);
    if !worlds.is_empty() && !worlds.iter().any(|world| world.names == found) {
        let wanted: Vec<&str> = worlds.iter().map(|w| w.names.as_str()).collect();
        return Err(format!(
            "the names are\n{found}\nand should be one of\n{wanted:#?}"
        ));
    }
    for image in head.snapshot().images() {
        for version in &image.versions {
            let label = image.label(version.version);
            let verify = ask(serde_json::json!({"image": label}));
            let verified = head.image_verify(&verify, &|_| {}, &AtomicBool::new(false));
            let verified = verified.map_err(|e| format!("{label} is named and not there: {e}"))?;
            if !verified.bad.is_empty() {
                return Err(format!("{label} is damaged"));
            }
        }
    }
    check_nodes(&head, worlds)?;
    head.collect_images()
        .map_err(|e| format!("the collection: {e}"))?;
    head.close();
    drop(head);
    let garbage = no_damage(&disk, NEXT)?;
    let garbage: Vec<&String> = garbage
        .iter()
        .filter(|g| !g.contains("layers/data"))
        .collect();
    match garbage.first() {
        Some(left) => Err(format!("garbage is left: {left}")),
        None => Ok(()),
    }
}

fn cut_everywhere(
    tape: &CrashDisk,
    events: &[Event],
    seed: u64,
    bound: usize,
) -> (usize, Vec<String>) {
    let (mut tried, mut wrong) = (0, Vec::new());
    for moment in 0..=tape.moment() {
        let worlds = worlds(events, moment);
        for (case, image) in tape.crash_images(moment, seed, bound).iter().enumerate() {
            tried += 1;
            if let Err(why) = check_state(image, &worlds) {
                let under_way = events.iter().find(|e| e.start < moment && moment <= e.end);
                let under_way = under_way.map_or("the first start", |e| e.what.as_str());
                wrong.push(format!(
                    "seed {seed}, moment {moment}, case {case}, during `{under_way}`: {why}"
                ));
            }
        }
    }
    (tried, wrong)
}

#[test]
fn a_power_cut_at_any_moment_leaves_names_with_their_things_and_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = 0;
    for seed in seeds(0, 2) {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history(
            dir.path(),
            &disk,
            &tape,
            seed,
            (14, |run, random, nth| run.random_step(random, nth)),
        );
        let (tried, wrong) = cut_everywhere(&tape, &events, seed, 2);
        all += tried;
        println!(
            "state, seed {seed}: {tried} crash images, {} violations",
            wrong.len()
        );
        assert!(
            wrong.is_empty(),
            "{} violations, the first: {}",
            wrong.len(),
            wrong[0]
        );
    }
    println!("state: {all} crash images, 0 violations");
}

#[test]
fn promotions_moves_roll_backs_and_texts_survive_a_power_cut_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    for seed in seeds(80, 1) {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history(
            dir.path(),
            &disk,
            &tape,
            seed,
            (15, |run, random, nth| run.version_step(random, nth)),
        );
        let did = |what: &str| events.iter().filter(|e| e.what.starts_with(what)).count();
        assert_eq!((did("promote"), did("apply"), did("roll back")), (2, 2, 1));
        let moved = &events[5];
        let image = |world: &World| world.disks["n1"].image.clone();
        assert!(
            image(&moved.before) != image(&moved.after),
            "the layer moved"
        );
        let (tried, wrong) = cut_everywhere(&tape, &events, seed, 2);
        println!(
            "versions, seed {seed}: {tried} crash images, {} violations",
            wrong.len()
        );
        assert!(wrong.is_empty(), "the first: {}", wrong[0]);
    }
}

#[test]
fn a_cut_while_the_head_starts_after_a_cut_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut tried = 0;
    for seed in seeds(50, 1) {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history(
            dir.path(),
            &disk,
            &tape,
            seed,
            (12, |run, random, nth| run.random_step(random, nth)),
        );
        let mut random = Random(seed);
        for _ in 0..2 {
            let moment = usize::try_from(random.below(tape.moment() as u64 + 1)).unwrap();
            let worlds = worlds(&events, moment);
            let image = tape.crash_images(moment, seed, 4).pop().unwrap();
            let again = CrashDisk::over(&image);
            let second: Arc<dyn Disk> = Arc::new(again.clone());
            let head = open(&second, NEXT).unwrap();
            head.collect_images().unwrap();
            drop(head);
            for cut in 0..=again.moment() {
                for (case, image) in again.crash_images(cut, seed, 1).iter().enumerate() {
                    tried += 1;
                    let found = check_state(image, &worlds);
                    found.unwrap_or_else(|why| {
                        panic!("seed {seed}, moment {moment}, cut {cut}, case {case}: {why}")
                    });
                }
            }
        }
    }
    println!("state, cuts while starting: {tried} crash images, 0 violations");
}

/// The test of the test.
#[test]
fn lies_about_syncs_are_found_out() {
    let dir = tempfile::tempdir().unwrap();
    for lie in [Lie::NamingLate, Lie::CatalogNever, Lie::RemovalLate] {
        let (mut tried, mut found) = (0, Vec::new());
        for seed in 0..8 {
            let tape = CrashDisk::new();
            let disk = Lying::over(tape.clone(), lie);
            let length = if lie == Lie::RemovalLate { 16 } else { 4 };
            let events = history(
                dir.path(),
                &disk,
                &tape,
                seed,
                (length, |run, random, nth| run.random_step(random, nth)),
            );
            let removes = |e: &Event| e.what.starts_with("remove version");
            let from = match lie {
                Lie::RemovalLate => match events.iter().find(|e| removes(e)) {
                    Some(event) => event.start,
                    None => continue,
                },
                _ => events[0].start,
            };
            for moment in from..=tape.moment() {
                let worlds = worlds(&events, moment);
                for image in tape.crash_images(moment, seed, 3) {
                    tried += 1;
                    found.extend(check_state(&image, &worlds).err());
                }
                if found.len() > 3 {
                    break;
                }
            }
            if !found.is_empty() {
                break;
            }
        }
        println!("{lie:?}: {} violations in {tried}", found.len());
        assert!(!found.is_empty(), "{lie:?} was not noticed");
    }
}
