//! Power cuts and kills at every moment of random histories of three layers, checked against a model.
//! `swapped_syncs_are_found_out` proves that the check can see the bug it is there for.

#![expect(clippy::unwrap_used, reason = "test code")]

mod layer_model;

use std::sync::{Arc, Mutex};

use layer_model::*;
use reveille::store::disk::{Disk, File, OpenMode};
use reveille::store::disk_crash::{CrashDisk, Random};
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::layer::Options;
use reveille::store::{LayerStore, Result};

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
    for seed in seeds(0, 3) {
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
    for seed in seeds(100, 3) {
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
    for seed in seeds(200, 4) {
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
    for seed in seeds(300, 6) {
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
    for seed in seeds(400, 6) {
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

// --- several nodes at once ---

// Each layer has a thread of its own; the tape's moments order what they did. Flushes share syncs, and
// checkpoints fall between a commit and what follows it.
fn crowd(tape: &CrashDisk, seed: u64, length: u64) -> Vec<Event> {
    let disk: Arc<dyn Disk> = Arc::new(tape.clone());
    let store = open(disk, BOOT).unwrap().0;
    let one = |me: usize| {
        let mut random = Random(seed * 10 + me as u64);
        let mut events = Vec::new();
        for tag in 1..=length {
            let what = choose(&mut random, tag);
            let other =
                matches!(what, What::Restart) || layer_of(what).is_some_and(|layer| layer != me);
            if other {
                continue;
            }
            let start = tape.moment();
            run_live(&store, what).unwrap_or_else(|e| panic!("seed {seed}, {what:?}: {e}"));
            let end = tape.moment();
            events.push(Event {
                what,
                start,
                end,
                good: true,
            });
        }
        events
    };
    let mut events: Vec<Event> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..LAYERS).map(|me| scope.spawn(move || one(me))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    events.sort_by_key(|event| event.start);
    events
}

#[test]
fn nodes_that_write_and_flush_at_once_survive_power_cuts_and_kills() {
    for seed in seeds(800, 4) {
        let tape = CrashDisk::new();
        let events = crowd(&tape, seed, 200);
        let mut random = Random(seed);
        for _ in 0..120 {
            let moment = usize::try_from(random.below(tape.moment() as u64 + 1)).unwrap();
            for (case, image) in tape.crash_images(moment, seed, 6).iter().enumerate() {
                let done = check_image(image, NEXT_BOOT, &events, moment);
                done.unwrap_or_else(|why| panic!("{}", explain(seed, moment, case, &events, &why)));
            }
            let done = check_image(&tape.process_kill(moment, 0), BOOT, &events, moment);
            done.unwrap_or_else(|why| {
                panic!("killed: {}", explain(seed, moment, 0, &events, &why))
            });
        }
    }
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
