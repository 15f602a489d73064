//! Power cuts and kills at every moment of random histories of three layers, checked against a model.
//!
//! The model knows for every sector which contents are allowed at a moment: the last flushed one or any
//! written later; exactly the last one after a kill of the process. `swapped_syncs_are_found_out` proves that
//! the check can see the bug it is there for.

use std::fmt::Debug;
use std::io::ErrorKind as Failure;
use std::sync::{Arc, Mutex, OnceLock};

use reveille::store::disk::{Disk, File, OpenMode};
use reveille::store::disk_crash::{CrashDisk, Random};
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::layer::{Options, Recovery};
use reveille::store::volume::Base;
use reveille::store::{
    Durability, Error, ErrorKind, ImageId, LayerId, LayerStore, Result, Volume, VolumeSpec,
};
use reveille::units::ByteRange;

const SECTORS: u64 = 24 * 8 + 3;
const LAYERS: usize = 3;
const BOOT: [u8; 16] = [1; 16];
const NEXT_BOOT: [u8; 16] = [2; 16];
const BASE: u64 = 0xba5e;
const ZEROS: u64 = 0;

type Outcome<T> = std::result::Result<T, String>;

#[derive(Debug)]
struct Golden;

fn sector(tag: u64, layer: usize, lba: u64) -> Vec<u8> {
    let word = if tag == ZEROS {
        0
    } else {
        tag << 40 | (layer as u64) << 32 | lba
    };
    word.to_le_bytes().repeat(64)
}

fn sectors(tag: u64, layer: usize, first: u64, count: u64) -> Vec<u8> {
    let all: Vec<Vec<u8>> = (first..first + count)
        .map(|lba| sector(tag, layer, lba))
        .collect();
    all.concat()
}

fn golden() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| sectors(BASE, 9, 0, SECTORS))
}

impl Base for Golden {
    fn id(&self) -> ImageId {
        ImageId([7; 32])
    }
    fn size(&self) -> u64 {
        SECTORS * 512
    }
    fn try_read(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.read(offset, out).map(|()| true)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&golden()[at..at + out.len()]);
        Ok(())
    }
}

fn durability(layer: usize) -> Durability {
    if layer == 2 {
        Durability::Volatile
    } else {
        Durability::Durable
    }
}

fn id(layer: usize) -> LayerId {
    LayerId(u32::try_from(layer).unwrap() + 1)
}

fn options(step: u64) -> Options {
    Options {
        journal_bytes: 1500,
        journal_step: step,
        soft_bytes: 900,
        files_open: 2,
        background: false,
    }
}

fn open(disk: Arc<dyn Disk>, boot: [u8; 16]) -> Result<(LayerStore, Recovery)> {
    LayerStore::open_with(disk, boot, options(if boot == BOOT { 1024 } else { 0 }))
}

fn volume(store: &LayerStore, layer: usize) -> Result<Arc<Volume>> {
    store.volume(VolumeSpec {
        layer: id(layer),
        image: Arc::new(Golden),
        durability: durability(layer),
    })
}

// --- histories ---

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Write {
        layer: usize,
        first: u64,
        count: u64,
        tag: u64,
    },
    Unmap {
        layer: usize,
        first: u64,
        count: u64,
    },
    Flush {
        layer: usize,
    },
    Reset {
        layer: usize,
    },
    Remove {
        layer: usize,
    },
    Fence {
        layer: usize,
    },
    Checkpoint,
    Restart,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    what: What,
    /// Operations on the tape before the call, and when it had returned.
    start: usize,
    end: usize,
    good: bool,
}

fn choose(random: &mut Random, tag: u64) -> What {
    let layer = usize::try_from(random.below(LAYERS as u64)).unwrap();
    let wide = random.below(3) == 0;
    let count = 1 + random.below(if wide { SECTORS - 1 } else { 12 });
    let first = random.below(SECTORS - count + 1);
    match random.below(32) {
        0..15 => What::Write {
            layer,
            first,
            count,
            tag,
        },
        15..19 => What::Unmap {
            layer,
            first,
            count,
        },
        19..26 => What::Flush { layer },
        26 => What::Reset { layer },
        27 => What::Remove { layer },
        28 => What::Fence { layer },
        29 => What::Checkpoint,
        _ => What::Restart,
    }
}

fn run(store: &mut LayerStore, disk: &Arc<dyn Disk>, what: What) -> Result<()> {
    match what {
        What::Write {
            layer,
            first,
            count,
            tag,
        } => {
            let bytes = sectors(tag, layer, first, count);
            volume(store, layer)?.write(first * 512, &bytes)
        }
        What::Unmap {
            layer,
            first,
            count,
        } => volume(store, layer)?.unmap(ByteRange::of_sectors(first, count).unwrap()),
        What::Flush { layer } => volume(store, layer)?.flush(),
        What::Reset { layer } => store.reset(id(layer)),
        What::Remove { layer } => store.remove(id(layer)),
        What::Fence { layer } => {
            store.fence(id(layer));
            Ok(())
        }
        What::Checkpoint => store.checkpoint(),
        What::Restart => {
            *store = open(Arc::clone(disk), BOOT)?.0;
            Ok(())
        }
    }
}

fn history(disk: &Arc<dyn Disk>, tape: &CrashDisk, seed: u64, length: usize) -> Vec<Event> {
    let mut random = Random(seed);
    let mut store = open(Arc::clone(disk), BOOT).unwrap().0;
    let mut events = Vec::new();
    for tag in 1..=length as u64 {
        let what = choose(&mut random, tag);
        let start = tape.moment();
        run(&mut store, disk, what).unwrap_or_else(|e| panic!("seed {seed}, {what:?}: {e}"));
        let end = tape.moment();
        events.push(Event {
            what,
            start,
            end,
            good: true,
        });
    }
    events
}

// --- the model ---

/// Contents that a sector may have, oldest first; `true` for those that a success promised.
type Versions = Vec<(u64, bool)>;

/// One layer as it may be. More than one world only while nobody knows whether a reset happened.
#[derive(Clone, Debug)]
struct Model {
    worlds: Vec<Vec<Versions>>,
}

impl Model {
    fn fresh() -> Self {
        Self {
            worlds: vec![vec![vec![(BASE, true)]; SECTORS as usize]],
        }
    }

    fn put(&mut self, first: u64, count: u64, tag: u64, sure: bool) {
        let range = first as usize..(first + count) as usize;
        for world in &mut self.worlds {
            world[range.clone()]
                .iter_mut()
                .for_each(|versions| versions.push((tag, sure)));
        }
    }

    /// Nothing older than the last promised version counts any more.
    fn settle(&mut self) {
        for versions in self.worlds.iter_mut().flatten() {
            let last = versions.iter().rposition(|(_, sure)| *sure).unwrap_or(0);
            versions.drain(..last);
        }
    }

    fn apply(&mut self, me: usize, what: What, sure: bool, kill: bool) {
        match what {
            What::Write {
                layer,
                first,
                count,
                tag,
            } if layer == me => self.put(first, count, tag, sure),
            What::Unmap {
                layer,
                first,
                count,
            } if layer == me => self.put(first, count, ZEROS, sure),
            What::Flush { layer } if layer == me && sure => self.settle(),
            What::Reset { layer } | What::Remove { layer } if layer == me => {
                if sure {
                    *self = Self::fresh();
                } else {
                    self.worlds.extend(Self::fresh().worlds);
                }
            }
            _ => {}
        }
        if kill {
            self.settle();
        }
    }

    fn check(&self, me: usize, found: &[u64]) -> Outcome<()> {
        let wrong = |world: &Vec<Versions>| {
            found
                .iter()
                .zip(world)
                .position(|(tag, versions)| !versions.iter().any(|(ok, _)| ok == tag))
        };
        let mut firsts = self.worlds.iter().map(wrong);
        if firsts.any(|wrong| wrong.is_none()) {
            return Ok(());
        }
        let lba = wrong(&self.worlds[0]).unwrap_or(0);
        Err(format!(
            "layer {me}, sector {lba}: found {}, allowed {:?}",
            found[lba], self.worlds[0][lba]
        ))
    }
}

/// The model of one layer at a moment. After a power cut a volatile layer is empty.
fn model_at(events: &[Event], me: usize, moment: usize, kill: bool) -> Model {
    let mut model = Model::fresh();
    if durability(me) == Durability::Volatile && !kill {
        return model;
    }
    // After a kill the operation under way is the first of the next event.
    let begun = |event: &&Event| event.start < moment + usize::from(kill) || event.end <= moment;
    for event in events.iter().take_while(begun) {
        model.apply(me, event.what, event.good && event.end <= moment, kill);
    }
    model
}

/// The tag of every sector, or what is wrong with one.
fn contents(volume: &Volume, me: usize) -> Outcome<Vec<u64>> {
    let all = ByteRange::of_sectors(0, SECTORS).unwrap();
    let read = volume.read(all).map_err(|e| format!("layer {me}: {e}"))?;
    let bytes = read.pieces(0..read.len()).collect::<Vec<_>>().concat();
    let tag = |(lba, bytes): (usize, &[u8])| {
        let word = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        let (tag, owner) = (word >> 40, if word >> 40 == BASE { 9 } else { me });
        let right = bytes == sector(tag, owner, lba as u64);
        if right {
            Ok(tag)
        } else {
            Err(format!(
                "layer {me}, sector {lba}: foreign or mixed: {word:x}"
            ))
        }
    };
    bytes.chunks(512).enumerate().map(tag).collect()
}

fn check_store(store: &LayerStore, events: &[Event], moment: usize, kill: bool) -> Outcome<()> {
    for me in 0..LAYERS {
        let volume = volume(store, me).map_err(|e| format!("open layer {me}: {e}"))?;
        let found = contents(&volume, me)?;
        model_at(events, me, moment, kill).check(me, &found)?;
    }
    Ok(())
}

fn check_image(image: &MemoryDisk, boot: [u8; 16], events: &[Event], moment: usize) -> Outcome<()> {
    let kill = boot == BOOT;
    let (store, report) =
        open(Arc::new(image.clone()), boot).map_err(|e| format!("recovery: {e}"))?;
    if !report.damaged.is_empty() || !report.notes.is_empty() {
        return Err(format!(
            "recovery found damage where there is none: {report:?}"
        ));
    }
    check_store(&store, events, moment, kill)
}

fn explain(seed: u64, moment: usize, case: usize, events: &[Event], why: &str) -> String {
    let near = events.iter().rev().find(|event| event.start < moment);
    format!("seed {seed}, moment {moment}, case {case}, during {near:?}: {why}")
}

// --- power cuts ---

fn cut_everywhere(events: &[Event], tape: &CrashDisk, seed: u64, bound: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    for moment in 0..=tape.moment() {
        let images = tape.crash_images(moment, seed, bound);
        for (case, image) in images.iter().enumerate() {
            if let Err(why) = check_image(image, NEXT_BOOT, events, moment) {
                wrong.push(explain(seed, moment, case, events, &why));
            }
        }
    }
    wrong
}

#[test]
fn a_power_cut_at_any_moment_leaves_what_was_flushed_or_written_later() {
    for seed in 0..3 {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history(&disk, &tape, seed, 90);
        let wrong = cut_everywhere(&events, &tape, seed, 8);
        assert!(
            wrong.is_empty(),
            "{} violations, the first: {}",
            wrong.len(),
            wrong[0]
        );
    }
}

#[test]
fn a_short_history_survives_every_possible_power_cut() {
    for seed in 100..103 {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history(&disk, &tape, seed, 6);
        let wrong = cut_everywhere(&events, &tape, seed, 64);
        assert!(
            wrong.is_empty(),
            "{} violations, the first: {}",
            wrong.len(),
            wrong[0]
        );
    }
}

#[test]
fn a_killed_process_loses_no_acknowledged_write() {
    for seed in 200..204 {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history(&disk, &tape, seed, 90);
        let mut random = Random(seed);
        for moment in 0..=tape.moment() {
            let torn = usize::try_from(random.below(600)).unwrap();
            let image = tape.process_kill(moment, torn);
            let done = check_image(&image, BOOT, &events, moment);
            done.unwrap_or_else(|why| panic!("{}", explain(seed, moment, torn, &events, &why)));
        }
    }
}

#[test]
fn a_power_cut_after_a_kill_and_new_writes_keeps_what_was_flushed() {
    for seed in 300..306 {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history(&disk, &tape, seed, 60);
        // Every restart in the history is a kill; here the cut comes after one more, and a flush of all.
        let before = tape.moment();
        let mut store = open(Arc::clone(&disk), BOOT).unwrap().0;
        let mut all = events;
        for layer in 0..LAYERS {
            let what = What::Flush { layer };
            let start = tape.moment().max(before);
            run(&mut store, &disk, what).unwrap();
            let end = tape.moment();
            all.push(Event {
                what,
                start,
                end,
                good: true,
            });
        }
        let moment = tape.moment();
        for (case, image) in tape.crash_images(moment, seed, 200).iter().enumerate() {
            let done = check_image(image, NEXT_BOOT, &all, moment);
            done.unwrap_or_else(|why| panic!("{}", explain(seed, moment, case, &all, &why)));
        }
    }
}

#[test]
fn a_cut_during_recovery_changes_nothing_and_recovery_twice_is_recovery_once() {
    for seed in 400..406 {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history(&disk, &tape, seed, 50);
        let mut random = Random(seed);
        for _ in 0..12 {
            let moment = usize::try_from(random.below(tape.moment() as u64 + 1)).unwrap();
            let boot = if random.below(2) == 0 {
                BOOT
            } else {
                NEXT_BOOT
            };
            let image = match boot {
                BOOT => tape.process_kill(moment, 40),
                _ => tape.crash_images(moment, seed, 4).pop().unwrap(),
            };
            let again = CrashDisk::over(&image);
            let first = open(Arc::new(again.clone()), boot).unwrap().1;
            let second = open(Arc::new(again.clone()), boot).unwrap().1;
            assert_eq!(
                (first.layers, &first.lost_volatile),
                (second.layers, &second.lost_volatile)
            );
            for cut in 0..=again.moment() {
                let done = match boot {
                    BOOT => check_image(&again.process_kill(cut, 24), BOOT, &events, moment),
                    _ => {
                        let cuts = again.crash_images(cut, seed, 4);
                        cuts.iter()
                            .try_for_each(|cut| check_image(cut, [3; 16], &events, moment))
                    }
                };
                done.unwrap_or_else(|why| {
                    panic!("cut {cut}: {}", explain(seed, moment, 0, &events, &why))
                });
            }
        }
    }
}

#[test]
fn a_volatile_layer_that_the_host_took_along_is_told_until_it_is_used_again() {
    let disk = MemoryDisk::new();
    let (store, _) = open(Arc::new(disk.clone()), BOOT).unwrap();
    volume(&store, 2)
        .unwrap()
        .write(0, &sector(5, 2, 0))
        .unwrap();
    volume(&store, 0)
        .unwrap()
        .write(0, &sector(6, 0, 0))
        .unwrap();
    volume(&store, 0).unwrap().flush().unwrap();
    let before = store.stats(id(2)).generation;
    drop(store);
    for _ in 0..2 {
        let (store, report) = open(Arc::new(disk.clone()), NEXT_BOOT).unwrap();
        assert_eq!(report.lost_volatile, [id(2)]);
        assert!(store.stats(id(2)).generation > before && store.stats(id(2)).lost);
        assert_eq!(contents(&volume(&store, 2).unwrap(), 2).unwrap()[0], BASE);
        assert_eq!(contents(&volume(&store, 0).unwrap(), 0).unwrap()[0], 6);
    }
    let (store, _) = open(Arc::new(disk.clone()), [9; 16]).unwrap();
    store.reset(id(2)).unwrap();
    drop(store);
    assert_eq!(open(Arc::new(disk), [9; 16]).unwrap().1.lost_volatile, []);
}

// --- the check can see the bug ---

/// Does the journal's sync before the data's: presence before data.
#[derive(Clone, Debug)]
struct Swapped {
    disk: CrashDisk,
    waiting: Arc<Mutex<Vec<Arc<dyn File>>>>,
}

#[derive(Debug)]
struct SwappedFile {
    file: Arc<dyn File>,
    role: Role,
    waiting: Arc<Mutex<Vec<Arc<dyn File>>>>,
}

#[derive(Debug, PartialEq)]
enum Role {
    Data,
    Journal,
    Other,
}

impl Disk for Swapped {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let role = match path {
            p if p.starts_with("layers/data/") => Role::Data,
            p if p.starts_with("layers/journal") => Role::Journal,
            _ => Role::Other,
        };
        Ok(Arc::new(SwappedFile {
            file: self.disk.open(path, mode)?,
            role,
            waiting: Arc::clone(&self.waiting),
        }))
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.disk.remove(path)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn create_dir(&self, path: &str) -> Result<()> {
        self.disk.create_dir(path)
    }
    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.disk.list(path)
    }
    fn sync_dir(&self, path: &str) -> Result<()> {
        self.disk.sync_dir(path)
    }
}

impl File for SwappedFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, out)
    }
    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.file.try_read_at(offset, out)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync(&self) -> Result<()> {
        if self.role == Role::Data {
            self.waiting.lock().unwrap().push(Arc::clone(&self.file));
            return Ok(());
        }
        self.file.sync()?;
        if self.role == Role::Journal {
            self.waiting
                .lock()
                .unwrap()
                .drain(..)
                .try_for_each(|file| file.sync())?;
        }
        Ok(())
    }
    fn len(&self) -> Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.file.punch(offset, len)
    }
    fn allocated(&self) -> Result<u64> {
        self.file.allocated()
    }
}

#[test]
fn swapped_syncs_are_found_out() {
    // Flushes of new blocks only, so that the swap is the only fault: each has its journal sync.
    let mut found = 0;
    for seed in 500..504 {
        let tape = CrashDisk::new();
        let swapped = Swapped {
            disk: tape.clone(),
            waiting: Arc::default(),
        };
        let disk: Arc<dyn Disk> = Arc::new(swapped);
        let mut store = LayerStore::open_with(
            Arc::clone(&disk),
            BOOT,
            Options {
                journal_step: 0,
                background: false,
                ..Options::default()
            },
        );
        let store = &mut store.as_mut().unwrap().0;
        let mut events = Vec::new();
        for block in 0..20 {
            let write = What::Write {
                layer: 0,
                first: block * 8,
                count: 8,
                tag: block + 1,
            };
            for what in [write, What::Flush { layer: 0 }] {
                let start = tape.moment();
                run(store, &disk, what).unwrap();
                let end = tape.moment();
                events.push(Event {
                    what,
                    start,
                    end,
                    good: true,
                });
            }
        }
        found += cut_everywhere(&events, &tape, seed, 8).len();
    }
    assert!(
        found > 50,
        "presence before data went unseen ({found} violations found)"
    );
}

// --- failures ---

struct Ordeal {
    events: Vec<Event>,
    errors: Vec<(What, Error)>,
}

// Runs a history in which one call fails (and with `lasting` all after it for a while); what fails is noted
// in the model as "may have happened".
fn ordeal(tape: &CrashDisk, seed: u64, call: u64, kind: Failure, lasting: bool) -> Option<Ordeal> {
    let disk: Arc<dyn Disk> = Arc::new(tape.clone());
    let mut random = Random(seed);
    let mut store = open(Arc::clone(&disk), BOOT).unwrap().0;
    if call < tape.calls() {
        return None;
    }
    tape.fail_call(call, kind, lasting);
    let (mut events, mut errors) = (Vec::new(), Vec::new());
    let mut failing = 0;
    for tag in 1..=40 {
        let what = choose(&mut random, tag);
        if what == What::Restart {
            continue;
        }
        let start = tape.moment();
        let done = run(&mut store, &disk, what);
        let end = tape.moment();
        let good = done.is_ok();
        if let Err(e) = done {
            failing += 1;
            errors.push((what, e));
        }
        if failing == 4 {
            tape.heal();
        }
        events.push(Event {
            what,
            start,
            end,
            good,
        });
        if let Some(me) = layer_of(what)
            && let Ok(volume) = volume(&store, me)
        {
            let found = contents(&volume, me).unwrap();
            let checked = model_at(&events, me, end, true).check(me, &found);
            checked.unwrap_or_else(|why| {
                panic!("seed {seed}, call {call}, live after {what:?}: {why}")
            });
        }
    }
    tape.heal();
    Some(Ordeal { events, errors })
}

fn layer_of(what: What) -> Option<usize> {
    match what {
        What::Write { layer, .. }
        | What::Unmap { layer, .. }
        | What::Flush { layer }
        | What::Reset { layer }
        | What::Remove { layer }
        | What::Fence { layer } => Some(layer),
        What::Checkpoint | What::Restart => None,
    }
}

fn fail_every_call(kind: Failure, lasting: bool, seeds: std::ops::Range<u64>) {
    let mut hits = 0;
    for seed in seeds {
        for call in 0..400 {
            let tape = CrashDisk::new();
            let Some(ordeal) = ordeal(&tape, seed, call, kind, lasting) else {
                continue;
            };
            if tape.calls() <= call {
                break;
            }
            hits += usize::from(!ordeal.errors.is_empty());
            if !lasting {
                let mut hit: Vec<_> = ordeal
                    .errors
                    .iter()
                    .filter_map(|(what, _)| layer_of(*what))
                    .collect();
                hit.dedup();
                assert!(
                    hit.len() <= 1,
                    "seed {seed}, call {call}: more than one layer hurt: {:?}",
                    ordeal.errors
                );
            }
            let moment = tape.moment();
            let killed = check_image(&tape.process_kill(moment, 0), BOOT, &ordeal.events, moment);
            killed.unwrap_or_else(|why| {
                panic!(
                    "seed {seed}, call {call}, killed: {why}\n{:?}",
                    ordeal.errors
                )
            });
            for image in tape.crash_images(moment, seed, 6) {
                let cut = check_image(&image, NEXT_BOOT, &ordeal.events, moment);
                cut.unwrap_or_else(|why| {
                    panic!("seed {seed}, call {call}, cut: {why}\n{:?}", ordeal.errors)
                });
            }
        }
    }
    assert!(hits > 20, "too few failures reached an operation: {hits}");
}

#[test]
fn one_failing_call_hurts_one_layer_and_no_acknowledged_data() {
    fail_every_call(Failure::Other, false, 600..602);
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    fail_every_call(Failure::StorageFull, false, 610..611);
    fail_every_call(Failure::StorageFull, true, 612..614);
}

#[test]
fn a_medium_that_stays_broken_for_a_while_loses_nothing_that_was_flushed() {
    fail_every_call(Failure::Other, true, 620..622);
}

#[test]
fn after_a_failed_sync_the_layer_takes_no_write_but_reads_and_its_neighbour_goes_on() {
    let tape = CrashDisk::new();
    let (store, _) = open(Arc::new(tape.clone()), BOOT).unwrap();
    let (a, b) = (volume(&store, 0).unwrap(), volume(&store, 1).unwrap());
    a.write(0, &sector(1, 0, 0)).unwrap();
    b.write(0, &sector(2, 1, 0)).unwrap();
    tape.fail_call(tape.calls(), Failure::Other, false);
    assert_eq!(a.flush().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(
        a.write(0, &sector(3, 0, 0)).unwrap_err().kind(),
        ErrorKind::Poisoned
    );
    assert_eq!(a.flush().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(contents(&a, 0).unwrap()[0], 1);
    b.flush().unwrap();
    store.reset(id(0)).unwrap();
    let a = volume(&store, 0).unwrap();
    a.write(0, &sector(4, 0, 0)).unwrap();
    a.flush().unwrap();
}

// --- damage to the files ---

fn flushed_store(seed: u64) -> (MemoryDisk, Vec<Vec<u64>>) {
    let tape = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(tape.clone());
    let mut store = open(Arc::clone(&disk), BOOT).unwrap().0;
    let mut random = Random(seed);
    for tag in 1..60 {
        let what = choose(&mut random, tag);
        if what != What::Restart {
            run(&mut store, &disk, what).unwrap();
        }
    }
    for layer in 0..2 {
        let volume = volume(&store, layer).unwrap();
        volume.write(0, &sector(900, layer, 0)).unwrap();
        volume.flush().unwrap();
    }
    let all = (0..LAYERS).map(|me| contents(&volume(&store, me).unwrap(), me).unwrap());
    let all = all.collect();
    (tape.process_kill(tape.moment(), 0), all)
}

fn flip(image: &MemoryDisk, name: &str, byte: u64, bit: u8) -> MemoryDisk {
    let copy = image.fork();
    let file = copy.open(name, OpenMode::ReadWrite).unwrap();
    let mut held = [0];
    file.read_at(byte, &mut held).unwrap();
    file.write_at(byte, &[held[0] ^ 1 << bit]).unwrap();
    copy
}

// A flip either changes nothing that is read, or it is told.
fn check_flip(
    image: &MemoryDisk,
    boot: [u8; 16],
    right: &[Vec<u64>],
    layers: usize,
) -> Outcome<bool> {
    let (store, report) = match open(Arc::new(image.clone()), boot) {
        Ok(opened) => opened,
        Err(e) if e.kind() == ErrorKind::Corrupt || e.kind() == ErrorKind::NewerVersion => {
            return Ok(true);
        }
        Err(e) => return Err(format!("neither opened nor refused as corrupt: {e}")),
    };
    let told = report.torn_tail || !report.notes.is_empty() || !report.damaged.is_empty();
    for (me, right) in right.iter().enumerate().take(layers) {
        let Ok(volume) = volume(&store, me) else {
            if report.damaged.iter().any(|(layer, _)| *layer == id(me)) {
                continue;
            }
            return Err(format!("layer {me} refused but not reported: {report:?}"));
        };
        let found = contents(&volume, me);
        if found.as_ref() != Ok(right) && !told {
            return Err(format!("layer {me} changed and nobody says so: {report:?}"));
        }
        if let Err(why) = found {
            return Err(why);
        }
    }
    Ok(told)
}

#[test]
fn every_flipped_bit_of_journal_and_checkpoint_is_told_and_harms_no_more_than_what_follows() {
    let mut told = 0;
    for seed in 700..703 {
        let (image, right) = flushed_store(seed);
        let mut random = Random(seed);
        for name in image.list("layers").unwrap() {
            if !name.starts_with("journal") && !name.starts_with("checkpoint") {
                continue;
            }
            let name = format!("layers/{name}");
            let len = image.open(&name, OpenMode::Read).unwrap().len().unwrap();
            for byte in 0..len {
                let bit = u8::try_from(random.below(8)).unwrap();
                let flipped = flip(&image, &name, byte, bit);
                let done = check_flip(&flipped, NEXT_BOOT, &right, 2);
                told += usize::from(
                    done.unwrap_or_else(|why| panic!("seed {seed}, {name} byte {byte}: {why}")),
                );
            }
        }
    }
    assert!(told > 300, "hardly any flip was told: {told}");
}

#[test]
fn a_flipped_bit_of_the_newest_checkpoint_costs_nothing() {
    let (image, right) = flushed_store(710);
    let names = image.list("layers").unwrap();
    let epoch = |name: &String| name.strip_prefix("checkpoint.")?.parse::<u32>().ok();
    let newest = names.iter().filter_map(epoch).max().unwrap();
    let flipped = flip(&image, &format!("layers/checkpoint.{newest}"), 50, 3);
    let (store, report) = open(Arc::new(flipped.clone()), NEXT_BOOT).unwrap();
    assert_eq!(report.notes.len(), 1, "{report:?}");
    for (me, right) in right.iter().enumerate().take(2) {
        assert_eq!(&contents(&volume(&store, me).unwrap(), me).unwrap(), right);
    }
    drop(store);
    let again = open(Arc::new(flipped), NEXT_BOOT).unwrap().1;
    assert_eq!(
        again.notes,
        Vec::<String>::new(),
        "it was repaired at the first start"
    );
}

#[test]
fn flipped_bits_of_the_soft_log_never_panic_and_lost_layers_are_told() {
    let (image, right) = flushed_store(720);
    let names = image.list("layers").unwrap();
    let soft = names.iter().find(|name| name.starts_with("soft")).unwrap();
    let soft = format!("layers/{soft}");
    let len = image.open(&soft, OpenMode::Read).unwrap().len().unwrap();
    for byte in 0..len {
        let flipped = flip(&image, &soft, byte, (byte % 8) as u8);
        let (store, report) = open(Arc::new(flipped), BOOT).unwrap();
        for (me, right) in right.iter().enumerate().take(2) {
            if let Ok(volume) = volume(&store, me) {
                // What was flushed is in the journal.
                assert_eq!(
                    &contents(&volume, me).unwrap(),
                    right,
                    "byte {byte}: {report:?}"
                );
            }
        }
    }
}

#[test]
fn a_missing_or_short_data_file_makes_the_layer_damaged_never_golden() {
    let (image, _) = flushed_store(730);
    let names = image.list("layers/data").unwrap();
    let mine = names.iter().find(|name| name.starts_with("1.")).unwrap();
    let gone = image.fork();
    gone.remove(&format!("layers/data/{mine}")).unwrap();
    let (store, report) = open(Arc::new(gone), NEXT_BOOT).unwrap();
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(volume(&store, 0).unwrap_err().kind(), ErrorKind::Corrupt);
    store.reset(id(0)).unwrap();
    assert_eq!(contents(&volume(&store, 0).unwrap(), 0).unwrap()[0], BASE);

    let short = image.fork();
    let file = short
        .open(&format!("layers/data/{mine}"), OpenMode::ReadWrite)
        .unwrap();
    file.set_len(100).unwrap();
    let (store, _) = open(Arc::new(short), NEXT_BOOT).unwrap();
    let volume = volume(&store, 0).unwrap();
    let all = ByteRange::of_sectors(0, SECTORS).unwrap();
    assert_eq!(volume.read(all).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(
        volume.write(0, &[1; 512]).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn a_store_of_a_newer_program_is_refused() {
    let (image, _) = flushed_store(740);
    for name in image
        .list("layers")
        .unwrap()
        .iter()
        .filter(|name| name.starts_with("journal"))
    {
        image.remove(&format!("layers/{name}")).unwrap();
    }
    let missing = open(Arc::new(image), NEXT_BOOT).unwrap_err();
    assert_eq!(
        missing.kind(),
        ErrorKind::Corrupt,
        "a journal that is gone is not an empty one"
    );
}
