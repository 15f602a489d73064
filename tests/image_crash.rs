//! Power cuts and kills at every moment of random histories of an image store: imports that share chunks,
//! repairs, removals and collections under open images, checked against a model.
//! `lies_about_syncs_are_found_out` proves that the check can see the bugs it is there for.

#![allow(clippy::unwrap_used, reason = "test code")]

mod image_model;
#[path = "image_model/lying.rs"]
mod lying;
mod meddled;

use std::sync::Arc;

use image_model::*;
use lying::{Lie, Lying};
use reveille::store::disk::Disk;
use reveille::store::disk_crash::{CrashDisk, Random};

/// What was tried and what was wrong.
#[derive(Default)]
struct Tally {
    tried: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn check(
        &mut self,
        found: Outcome<()>,
        seed: u64,
        moment: usize,
        case: usize,
        events: &[Event],
    ) {
        self.tried += 1;
        let Err(why) = found else { return };
        let under_way = events.iter().find(|e| e.start < moment && moment <= e.end);
        let under_way = under_way.map_or("nothing", |e| e.what.as_str());
        self.wrong.push(format!(
            "seed {seed}, moment {moment}, case {case}, during `{under_way}`: {why}"
        ));
    }

    fn tell(&self, what: &str) {
        println!(
            "images, {what}: {} crash images, {} violations",
            self.tried,
            self.wrong.len()
        );
        assert!(
            self.wrong.is_empty(),
            "{} violations, the first: {}",
            self.wrong.len(),
            self.wrong[0]
        );
    }
}

fn recorded(seed: u64, length: usize) -> (CrashDisk, Vec<Event>) {
    let tape = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(tape.clone());
    let events = history(&disk, &tape, seed, length);
    (tape, events)
}

fn cut_everywhere(tally: &mut Tally, tape: &CrashDisk, events: &[Event], seed: u64, bound: usize) {
    for moment in 0..=tape.moment() {
        let world = at(events, moment);
        let images = tape.crash_images(moment, seed, bound);
        for (case, image) in images.iter().enumerate() {
            tally.check(check_image(image, &world), seed, moment, case, events);
        }
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_every_named_image_whole_and_the_rest_is_collected() {
    let mut tally = Tally::default();
    for seed in seeds(0, 3) {
        let (tape, events) = recorded(seed, 14);
        cut_everywhere(&mut tally, &tape, &events, seed, 4);
    }
    tally.tell("power cuts");
}

#[test]
fn a_kill_at_any_moment_leaves_every_named_image_whole_and_the_rest_is_collected() {
    let mut tally = Tally::default();
    for seed in seeds(100, 4) {
        let (tape, events) = recorded(seed, 14);
        let mut random = Random(seed);
        for moment in 0..=tape.moment() {
            let torn = usize::try_from(random.below(200_000)).unwrap();
            let image = tape.process_kill(moment, torn);
            let found = check_image(&image, &at_kill(&events, moment));
            tally.check(found, seed, moment, torn, &events);
        }
    }
    tally.tell("kills");
}

#[test]
fn a_cut_while_traces_are_tidied_and_a_new_import_runs_changes_nothing() {
    let mut tally = Tally::default();
    for seed in seeds(200, 3) {
        let (tape, events) = recorded(seed, 12);
        let mut random = Random(seed);
        for _ in 0..3 {
            let moment = usize::try_from(random.below(tape.moment() as u64 + 1)).unwrap();
            let image = tape.crash_images(moment, seed, 4).pop().unwrap();
            let mut world = at(&events, moment);
            let again = CrashDisk::over(&image);
            let disk: Arc<dyn Disk> = Arc::new(again.clone());
            let store = open(&disk).unwrap();
            let named = world.named.clone();
            store.collect(&|id| named.contains(&id)).unwrap();
            let recipe = vec![7, 201, 8, 202];
            let done = import(&store, &recipe).unwrap();
            world.known.insert(done.id, recipe);
            for cut in 0..=again.moment() {
                for (case, image) in again.crash_images(cut, seed, 3).iter().enumerate() {
                    tally.check(check_image(image, &world), seed, moment, case, &events);
                }
            }
        }
    }
    tally.tell("cuts during recovery");
}

/// A disk that is full or broken at one call: the operation fails or not, and nothing that was sealed suffers.
#[test]
fn a_call_that_fails_harms_nothing_that_was_sealed() {
    let mut tally = Tally::default();
    let (first, second) = (vec![1, 2, 0, 3, 4, 5], vec![9, 1, 8, 3, 7, 6]);
    let calls = {
        let tape = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(tape.clone());
        let store = open(&disk).unwrap();
        import(&store, &first).unwrap();
        let from = tape.calls();
        import(&store, &second).unwrap();
        store.remove(import(&store, &second).unwrap().id).unwrap();
        store.collect(&|_| true).unwrap();
        from..tape.calls()
    };
    for call in calls {
        for lasting in [false, true] {
            let tape = CrashDisk::new();
            let disk: Arc<dyn Disk> = Arc::new(tape.clone());
            let store = open(&disk).unwrap();
            let kept = import(&store, &first).unwrap().id;
            tape.fail_call(call, std::io::ErrorKind::StorageFull, lasting);
            let mut world = World::default();
            world.named.insert(kept);
            world.known.insert(kept, first.clone());
            let made = import(&store, &second);
            if let Ok(done) = &made {
                world.named.insert(done.id);
                let _ = store.collect(&|id| id == kept || id == done.id);
            }
            tape.heal();
            let done = import(&store, &second).unwrap();
            world.known.insert(done.id, second.clone());
            world.named.insert(done.id);
            let end = tape.moment();
            for (case, image) in tape.crash_images(end, call, 3).iter().enumerate() {
                let number = usize::try_from(call).unwrap();
                tally.check(check_image(image, &world), call, number, case, &[]);
            }
        }
    }
    tally.tell("failed calls");
}

/// The test of the test.
#[test]
fn lies_about_syncs_are_found_out() {
    for lie in [
        Lie::PacksLate,
        Lie::ManifestUnsynced,
        Lie::RemovalLate,
        Lie::NamingLate,
    ] {
        let mut tally = Tally::default();
        for seed in 0..6 {
            let tape = CrashDisk::new();
            let disk = Lying::over(tape.clone(), lie);
            let events = history(&disk, &tape, seed, 14);
            cut_everywhere(&mut tally, &tape, &events, seed, 4);
            if !tally.wrong.is_empty() {
                break;
            }
        }
        println!(
            "{lie:?}: {} violations in {}",
            tally.wrong.len(),
            tally.tried
        );
        assert!(!tally.wrong.is_empty(), "{lie:?} was not noticed");
    }
}
