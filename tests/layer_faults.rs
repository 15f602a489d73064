//! Calls that fail, full disks, flipped bits and missing files: no acknowledged data is lost unsaid.

#![expect(clippy::unwrap_used, reason = "test code")]

mod layer_model;

use std::io::ErrorKind as Failure;
use std::sync::Arc;

use layer_model::*;
use reveille::store::disk::{Disk, OpenMode};
use reveille::store::disk_crash::{CrashDisk, Random};
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::{Error, ErrorKind};
use reveille::units::ByteRange;

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
    fail_every_call(Failure::Other, false, seeds(600, 2));
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    fail_every_call(Failure::StorageFull, false, seeds(610, 1));
    fail_every_call(Failure::StorageFull, true, seeds(612, 2));
}

#[test]
fn a_medium_that_stays_broken_for_a_while_loses_nothing_that_was_flushed() {
    fail_every_call(Failure::Other, true, seeds(620, 2));
}

/// What each sector holds at the end, when writes that failed may or may not have been done.
fn check_many(done: &[bool], found: &[u64], tags: &[(u64, u64, u64)]) {
    for (lba, tag) in found.iter().enumerate() {
        let lba = lba as u64;
        let mut allowed = vec![if lba < 16 { 7 } else { BASE }];
        for ((first, count, tag), done) in tags.iter().zip(done) {
            if (*first..first + count).contains(&lba) {
                allowed.retain(|_| !done);
                allowed.push(*tag);
            }
        }
        assert!(
            allowed.contains(tag),
            "sector {lba}: {tag}, not {allowed:?}"
        );
    }
}

#[test]
fn one_failing_call_fails_no_write_beside_it_and_loses_none_that_was_acknowledged() {
    // Over held blocks, new blocks whole and in part, and one over another of them.
    let tags = [
        (0, 4, 11),
        (24, 8, 12),
        (43, 2, 13),
        (8, 8, 14),
        (60, 30, 15),
        (28, 2, 16),
        (100, 8, 17),
    ];
    let (mut alone, mut together) = (0, 0);
    for call in 0..60 {
        let tape = CrashDisk::new();
        let (store, _) = open(Arc::new(tape.clone()), BOOT).unwrap();
        let volume = volume(&store, 0).unwrap();
        volume.write(0, &sectors(7, 0, 0, 16)).unwrap();
        tape.fail_call(tape.calls() + call, Failure::Other, false);
        let bytes = tags.map(|(first, count, tag)| sectors(tag, 0, first, count));
        let writes: Vec<(u64, &[u8])> = tags
            .iter()
            .zip(&bytes)
            .map(|((first, ..), bytes)| (first * 512, &bytes[..]))
            .collect();
        let done = volume.write_many(&writes);
        let good: Vec<bool> = done.iter().map(Result::is_ok).collect();
        check_many(&good, &contents(&volume, 0).unwrap(), &tags);
        let image = tape.process_kill(tape.moment(), 0);
        let (again, _) = open(Arc::new(image), BOOT).unwrap();
        let found = contents(&layer_model::volume(&again, 0).unwrap(), 0).unwrap();
        check_many(&good, &found, &tags);
        match good.iter().filter(|good| !**good).count() {
            0 => break,
            1 => alone += 1,
            // The record of all of them: those over held blocks need none.
            n => {
                assert!(n < tags.len() && good[0] && good[3], "{done:?}");
                together += 1;
            }
        }
    }
    assert!(
        alone >= 6 && together >= 1,
        "{alone} alone, {together} together"
    );
}

#[test]
fn a_start_on_a_full_disk_reads_and_takes_writes_again_when_there_is_room() {
    let (image, right) = flushed_store(650);
    // Syncs of a full disk work; here they count as calls that fail, so let the first few pass.
    let full = (0..10).find_map(|calls| {
        let tape = CrashDisk::over(&image);
        tape.fail_call(calls, Failure::StorageFull, true);
        let (store, _) = open(Arc::new(tape.clone()), BOOT).ok()?;
        Some((tape, store))
    });
    let (tape, store) = full.unwrap();
    for (me, right) in right.iter().enumerate() {
        assert_eq!(&contents(&volume(&store, me).unwrap(), me).unwrap(), right);
    }
    let fresh = volume(&store, 1).unwrap();
    store.reset(id(1)).unwrap_err();
    tape.heal();
    let _ = fresh.write(0, &sector(4000, 1, 0));
    volume(&store, 1)
        .unwrap()
        .write(0, &sector(4001, 1, 0))
        .unwrap();
    let (store, _) = open(Arc::new(tape.clone()), BOOT).unwrap();
    assert_eq!(contents(&volume(&store, 1).unwrap(), 1).unwrap()[0], 4001);
    assert_eq!(
        &contents(&volume(&store, 2).unwrap(), 2).unwrap(),
        &right[2]
    );
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
        found?;
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
fn a_journal_that_is_gone_is_not_an_empty_one() {
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

// --- a failed sync is remembered ---

/// One head that is killed and started again on one host: the page cache stays, the medium is what it is.
fn again(tape: &CrashDisk) -> reveille::store::LayerStore {
    open(Arc::new(tape.clone()), BOOT).unwrap().0
}

#[test]
fn a_layer_whose_sync_failed_stays_poisoned_over_a_restart_of_the_process_and_not_of_the_host() {
    let tape = CrashDisk::new();
    let (store, _) = open(Arc::new(tape.clone()), BOOT).unwrap();
    let (a, b) = (volume(&store, 0).unwrap(), volume(&store, 1).unwrap());
    a.write(0, &sector(1, 0, 0)).unwrap();
    b.write(0, &sector(2, 1, 0)).unwrap();
    tape.fail_call(tape.calls(), Failure::Other, false);
    assert_eq!(a.flush().unwrap_err().kind(), ErrorKind::Poisoned);
    drop((a, b, store));
    // Again and again: each start writes the soft log anew.
    for _ in 0..3 {
        let (store, report) = open(Arc::new(tape.clone()), BOOT).unwrap();
        assert_eq!(report.poisoned, [id(0)]);
        assert!(store.stats(id(0)).poisoned);
        let (a, b) = (volume(&store, 0).unwrap(), volume(&store, 1).unwrap());
        assert_eq!(a.flush().unwrap_err().kind(), ErrorKind::Poisoned);
        let refused = a.write(0, &sector(3, 0, 0)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Poisoned);
        assert!(refused.to_string().contains("reset the layer"), "{refused}");
        assert_eq!(contents(&a, 0).unwrap()[0], 1, "reads go on");
        b.write(0, &sector(4, 1, 0)).unwrap();
        b.flush().unwrap();
        store.checkpoint().unwrap();
    }
    let image = tape.process_kill(tape.moment(), 0);
    let (store, report) = open(Arc::new(image), NEXT_BOOT).unwrap();
    assert!(report.poisoned.is_empty(), "the page cache is gone");
    let a = volume(&store, 0).unwrap();
    a.write(0, &sector(5, 0, 0)).unwrap();
    a.flush().unwrap();
    // A reset ends it too, for good.
    again(&tape).reset(id(0)).unwrap();
    let store = again(&tape);
    let a = volume(&store, 0).unwrap();
    a.write(0, &sector(6, 0, 0)).unwrap();
    a.flush().unwrap();
}

/// What each layer's newest flush that was answered GOOD promised for its first sector; 0 for nothing yet.
type Promised = [u64; 3];

/// Writes and flushes; a failed flush promises nothing.
fn work(store: &reveille::store::LayerStore, promised: &mut Promised, tag: u64) {
    for (layer, promised) in promised.iter_mut().enumerate().take(2) {
        let Ok(volume) = volume(store, layer) else {
            continue;
        };
        let wrote = volume
            .write(0, &sector(tag + layer as u64, layer, 0))
            .is_ok();
        let known = contents(&volume, layer).unwrap()[0];
        if volume.flush().is_ok() {
            assert!(wrote || known != 0);
            *promised = known;
        }
    }
}

/// One call fails at `call`, the process is killed and started again, goes on, is killed again; then the power is cut.
/// What any flush promised, before or after, must be on the medium.
fn fail_kill_go_on(call: u64) -> Option<usize> {
    let tape = CrashDisk::new();
    let mut promised = Promised::default();
    let mut store = again(&tape);
    if call < tape.calls() {
        return Some(0);
    }
    work(&store, &mut promised, 100);
    tape.fail_call(call, Failure::Other, false);
    work(&store, &mut promised, 200);
    store.checkpoint().ok();
    work(&store, &mut promised, 300);
    let reached = tape.calls() > call;
    tape.heal();
    let mut poisoned = 0;
    for start in 0..2 {
        drop(store);
        let (fresh, report) = open(Arc::new(tape.clone()), BOOT).unwrap();
        store = fresh;
        poisoned += report.poisoned.len();
        work(&store, &mut promised, 400 + start * 100);
    }
    drop(store);
    for (at, image) in tape
        .crash_images(tape.moment(), call, 24)
        .into_iter()
        .enumerate()
    {
        let (store, report) = open(Arc::new(image), NEXT_BOOT).unwrap();
        for (layer, right) in promised.into_iter().enumerate().take(2) {
            let found = volume(&store, layer).map(|volume| contents(&volume, layer).unwrap()[0]);
            let found =
                found.unwrap_or_else(|e| panic!("call {call}, cut {at}, layer {layer}: {e}"));
            // A later write that no flush promised may be there as well: its tag is larger.
            assert!(
                right == 0 || found >= right && found != BASE,
                "call {call}, cut {at}, layer {layer}: {found} where {right} was promised; {report:?}"
            );
        }
    }
    reached.then_some(poisoned)
}

#[test]
fn no_flush_after_a_failed_sync_and_a_kill_promises_what_is_not_on_the_medium() {
    let (mut call, mut poisoned) = (0, 0);
    while let Some(found) = fail_kill_go_on(call) {
        poisoned += found;
        call += 1;
    }
    println!("{call} calls failed one by one, {poisoned} starts with a poisoned layer");
    assert!(
        call > 20 && poisoned > 6,
        "{call} calls, {poisoned} poisoned"
    );
}
