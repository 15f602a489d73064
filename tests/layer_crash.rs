//! Power cuts and kills at every moment of random histories of three layers, checked against a model.
//! `swapped_syncs_are_found_out` proves that the check can see the bug it is there for.

#![expect(clippy::unwrap_used, reason = "test code")]

mod layer_model;
mod meddled;
#[path = "layer_model/wrapped.rs"]
mod wrapped;

use std::sync::Arc;

use layer_model::*;
use meddled::meddled;
use reveille::store::LayerStore;
use reveille::store::disk::Disk;
use reveille::store::disk_crash::{CrashDisk, Random};
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::layer::Options;
use wrapped::{Hooked, Swapped};

// --- power cuts ---

fn cut_everywhere(events: &[Event], tape: &CrashDisk, seed: u64, bound: usize) -> Vec<String> {
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for moment in 0..=tape.moment() {
        let images = tape.crash_images(moment, seed, bound);
        tried += images.len();
        for (case, image) in images.iter().enumerate() {
            if let Err(why) = check_image(image, NEXT_BOOT, events, moment) {
                wrong.push(explain(seed, moment, case, events, &why));
            }
        }
    }
    println!(
        "layers, seed {seed}: {tried} crash images, {} violations",
        wrong.len()
    );
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

// --- atomic writes ---

/// As the usual histories, with an atomic write every third time.
fn with_atomics(random: &mut Random, tag: u64) -> What {
    match choose(random, tag) {
        What::Write {
            layer,
            first,
            count,
            tag,
        } if random.below(3) < 2 => What::Atomic {
            layer,
            first,
            count,
            tag,
        },
        other => other,
    }
}

#[test]
fn an_atomic_write_is_whole_or_absent_after_any_power_cut() {
    for seed in seeds(500, 2) {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history_of(&disk, &tape, seed, 60, with_atomics);
        assert!(
            events
                .iter()
                .any(|e| matches!(e.what, What::Atomic { layer: 0 | 1, .. }))
        );
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
fn a_single_atomic_write_survives_every_possible_power_cut() {
    for (seed, layer) in [(0, 0), (1, 1), (2, 0), (3, 0)] {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let steps = [
            What::Write {
                layer,
                first: 3,
                count: 20,
                tag: 1,
            },
            What::Flush { layer },
            What::Unmap {
                layer,
                first: 24,
                count: 8,
            },
            What::Atomic {
                layer,
                first: 5,
                count: 40,
                tag: 2,
            },
            What::Write {
                layer,
                first: 7,
                count: 9,
                tag: 3,
            },
        ];
        // Once more over blocks that an unflushed write has made its own: the record alone may be left of them.
        let steps = if seed < 3 {
            steps.to_vec()
        } else {
            vec![
                What::Write {
                    layer,
                    first: 17,
                    count: 30,
                    tag: 1,
                },
                What::Atomic {
                    layer,
                    first: 20,
                    count: 22,
                    tag: 2,
                },
            ]
        };
        let step = |_: &mut Random, tag: u64| steps[usize::try_from(tag).unwrap() - 1];
        let events = history_of(&disk, &tape, seed, steps.len(), step);
        let wrong = cut_everywhere(&events, &tape, seed, 200);
        assert!(wrong.is_empty(), "{} violations: {}", wrong.len(), wrong[0]);
    }
}

#[test]
fn an_atomic_write_is_whole_or_absent_after_any_kill() {
    for seed in seeds(520, 2) {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history_of(&disk, &tape, seed, 60, with_atomics);
        let mut random = Random(seed);
        for moment in 0..=tape.moment() {
            for torn in [0, 512, usize::try_from(random.below(40_000)).unwrap()] {
                let image = tape.process_kill(moment, torn);
                let done = check_image(&image, BOOT, &events, moment);
                done.unwrap_or_else(|why| panic!("{}", explain(seed, moment, torn, &events, &why)));
            }
        }
    }
}

#[test]
fn a_cut_while_an_atomic_write_is_finished_by_recovery_changes_nothing() {
    for seed in seeds(540, 1) {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history_of(&disk, &tape, seed, 12, with_atomics);
        for moment in 0..=tape.moment() {
            let image = tape.crash_images(moment, seed, 2).pop().unwrap();
            let again = CrashDisk::over(&image);
            open(Arc::new(again.clone()), NEXT_BOOT).unwrap();
            for cut in 0..=again.moment() {
                for (case, cut) in again.crash_images(cut, seed, 2).iter().enumerate() {
                    let done = check_image(cut, [3; 16], &events, moment);
                    done.unwrap_or_else(|why| {
                        panic!("{}", explain(seed, moment, case, &events, &why))
                    });
                }
            }
        }
    }
}

/// The test of the test: plain writes of the same sizes are torn, and the check sees it.
#[test]
fn torn_writes_are_found_out() {
    let mut torn = 0;
    for seed in seeds(560, 1) {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let mut events = history(&disk, &tape, seed, 60);
        for event in &mut events {
            if let What::Write {
                layer,
                first,
                count,
                tag,
            } = event.what
            {
                event.what = What::Atomic {
                    layer,
                    first,
                    count,
                    tag,
                };
            }
        }
        torn += cut_everywhere(&events, &tape, seed, 8)
            .iter()
            .filter(|why| why.contains("torn"))
            .count();
    }
    assert!(torn > 0, "no plain write was ever torn");
}

#[test]
fn erased_bytes_are_in_no_file_any_more() {
    let tape = CrashDisk::new();
    let store = open(Arc::new(tape.clone()), BOOT).unwrap().0;
    let marked = |tape: &CrashDisk| {
        let needle = &sector(9, 0, 40)[..16];
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let mut found = Vec::new();
        for dir in ["layers", "layers/data"] {
            for name in disk.list(dir).unwrap() {
                let path = format!("{dir}/{name}");
                let Ok(file) = disk.open(&path, reveille::store::disk::OpenMode::Read) else {
                    continue;
                };
                let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
                file.read_at(0, &mut bytes).unwrap();
                if bytes.windows(needle.len()).any(|here| here == needle) {
                    found.push(path);
                }
            }
        }
        found
    };
    let disk = volume(&store, 0).unwrap();
    disk.write_atomic(40 * 512, &sectors(9, 0, 40, 3)).unwrap();
    disk.write(0, &sectors(9, 0, 0, 30)).unwrap();
    disk.flush().unwrap();
    assert_eq!(marked(&tape).len(), 2, "the data file and the journal");
    disk.erase().unwrap();
    assert_eq!(marked(&tape), Vec::<String>::new());
    assert!(contents(&disk, 0).unwrap().iter().all(|tag| *tag == ZEROS));
    for image in tape.crash_images(tape.moment(), 1, 40) {
        let (store, _) = open(Arc::new(image), NEXT_BOOT).unwrap();
        let found = contents(&volume(&store, 0).unwrap(), 0).unwrap();
        assert!(found.iter().all(|tag| *tag == ZEROS), "{found:?}");
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

#[test]
fn what_is_flushed_after_a_kill_at_any_moment_survives_the_power_cut_that_follows() {
    for seed in seeds(350, 3) {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let events = history(&disk, &tape, seed, 40);
        for moment in 0..=tape.moment() {
            let next = tape.fork_at(moment);
            let disk: Arc<dyn Disk> = Arc::new(next.clone());
            let mut store = open(Arc::clone(&disk), BOOT).unwrap().0;
            let mut all: Vec<Event> = events
                .iter()
                .copied()
                .filter(|event| event.start <= moment)
                .collect();
            all.iter_mut()
                .filter(|event| event.end > moment)
                .for_each(|event| event.good = false);
            for layer in 0..2 {
                let what = What::Flush { layer };
                let start = next.moment();
                run(&mut store, &disk, what).unwrap();
                let end = next.moment();
                all.push(Event {
                    what,
                    start,
                    end,
                    good: true,
                });
            }
            let now = next.moment();
            for (case, image) in next.crash_images(now, seed, 6).iter().enumerate() {
                let done = check_image(image, NEXT_BOOT, &all, now);
                done.unwrap_or_else(|why| panic!("{}", explain(seed, moment, case, &events, &why)));
            }
        }
    }
}

#[test]
fn a_checkpoint_in_the_midst_of_a_flush_does_not_put_presence_before_data() {
    let tape = CrashDisk::new();
    let hooked = Arc::new(Hooked::default());
    let store = Arc::new(open(meddled(tape.clone(), &hooked), BOOT).unwrap().0);
    let volume = volume(&store, 0).unwrap();
    volume.write(0, &sectors(3, 0, 0, 16)).unwrap();
    let mine = Arc::clone(&store);
    *hooked.hook.lock().unwrap() = Some(Box::new(move || mine.checkpoint().unwrap()));
    let start = tape.moment();
    volume.flush().unwrap();
    assert!(
        hooked.hook.lock().unwrap().is_none(),
        "the checkpoint came before the data's sync"
    );
    let write = Event {
        what: What::Write {
            layer: 0,
            first: 0,
            count: 16,
            tag: 3,
        },
        start: 0,
        end: start,
        good: true,
    };
    for moment in start..=tape.moment() {
        for image in tape.crash_images(moment, 1, 64) {
            check_image(&image, NEXT_BOOT, &[write], moment).unwrap();
        }
    }
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

#[test]
fn swapped_syncs_are_found_out() {
    // Flushes of new blocks only, so that the swap is the only fault: each has its journal sync.
    let mut found = 0;
    for seed in 500..504 {
        let tape = CrashDisk::new();
        let disk = meddled(tape.clone(), &Arc::new(Swapped::default()));
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
