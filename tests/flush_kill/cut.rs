//! The same kinds of commands through the SCSI layer onto a disk that records every call, and power cuts at
//! every moment of it: GOOD to SYNCHRONIZE CACHE, to FUA, and to anything while the write cache is off means
//! that the medium has it.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use reveille::iscsi::ops;
use reveille::scsi::{BlockOp, LogicalUnit, LuConfig, NexusId, Reply, Step, Traits};
use reveille::store::disk::{Disk as Medium, File};
use reveille::store::disk_crash::{CrashDisk, Random};
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::layer::Options;
use reveille::store::volume::Base;
use reveille::store::{Durability, ImageId, LayerId, LayerStore, Result, Volume, VolumeSpec};
use reveille::units::ByteRange;

use crate::meddled::{Meddler, meddled};

use super::model::{Disk, Promise, SECTOR};
use super::number;
use super::orders::{Order, Shape, draw};

const SECTORS: u64 = 24 * 8 + 3;
const LAYERS: usize = 3;
const BOOT: [u8; 16] = [1; 16];
const NEXT_BOOT: [u8; 16] = [2; 16];
const NEXUS: NexusId = NexusId(1);
const SHAPE: Shape = Shape {
    longest: 40,
    hot: (5, 60),
};

#[derive(Debug)]
struct Image(Arc<Vec<u8>>);

impl Base for Image {
    fn id(&self) -> ImageId {
        ImageId([7; 32])
    }
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn try_read(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.read(offset, out).map(|()| true)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0[at..at + out.len()]);
        Ok(())
    }
}

fn golden() -> Arc<Vec<u8>> {
    let bytes = (0..usize::try_from(SECTORS).unwrap() * SECTOR)
        .map(|at| (at / SECTOR).to_le_bytes()[0] ^ 0x5a);
    Arc::new(bytes.collect())
}

/// The last layer is an ephemeral node's.
fn durability(layer: usize) -> Durability {
    if layer == LAYERS - 1 {
        Durability::Volatile
    } else {
        Durability::Durable
    }
}

fn volume(store: &LayerStore, layer: usize, golden: &Arc<Vec<u8>>) -> Result<Arc<Volume>> {
    store.volume(VolumeSpec {
        layer: LayerId(u32::try_from(layer).unwrap() + 1),
        image: Arc::new(Image(Arc::clone(golden))),
        durability: durability(layer),
    })
}

fn open(disk: Arc<dyn Medium>, boot: [u8; 16]) -> Result<LayerStore> {
    let options = Options {
        journal_bytes: 1500,
        journal_step: if boot == BOOT { 1024 } else { 0 },
        soft_bytes: 900,
        files_open: 2,
        background: false,
        ..Options::default()
    };
    LayerStore::open_with(disk, boot, options).map(|(store, _)| store)
}

fn unit() -> LogicalUnit {
    let mut unit = LogicalUnit::new(LuConfig {
        size_bytes: SECTORS * 512,
        serial: "0123456789abcdef".into(),
        naa: [0x60; 16],
        target_name: "iqn.2026-11.internal.reveille:n1".into(),
        write_back: true,
        traits: Traits::default(),
        lun: 0,
        luns: vec![0],
    });
    unit.attach(
        NEXUS,
        "iqn.2026-11.internal.reveille:n1.initiator,i,0x00023d000001",
    );
    unit
}

// --- one command ---

/// A fault built into the target, for tests of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// FUA is not honoured.
    ForgetsFua,
    /// SYNCHRONIZE CACHE is answered at once.
    ForgetsFlush,
    /// The write cache is never off.
    IgnoresWce,
}

fn spoil(op: BlockOp, fault: Fault) -> Option<BlockOp> {
    match (op, fault) {
        (BlockOp::Flush, Fault::ForgetsFlush) => None,
        (BlockOp::Write { range, .. }, Fault::ForgetsFua) => {
            Some(BlockOp::Write { range, fua: false })
        }
        (BlockOp::OrWrite { range, .. }, Fault::ForgetsFua) => {
            Some(BlockOp::OrWrite { range, fua: false })
        }
        (BlockOp::CompareAndWrite { range, .. }, Fault::ForgetsFua) => {
            Some(BlockOp::CompareAndWrite { range, fua: false })
        }
        (op, _) => Some(op),
    }
}

/// What the target does with a command once all its data is here.
fn execute(
    unit: &mut LogicalUnit,
    volume: &Volume,
    cdb: &[u8],
    out: &[u8],
    fault: Fault,
) -> (Reply, Vec<u8>) {
    let mut step = unit.begin(NEXUS, cdb);
    if let Step::Data { len, .. } = step {
        assert_eq!(usize::try_from(len).unwrap(), out.len(), "{cdb:02x?}");
        step = unit.data_out(NEXUS, cdb, out);
    }
    match step {
        Step::Reply(reply) => (reply, Vec::new()),
        Step::Data { .. } => panic!("{cdb:02x?} asks for data twice"),
        Step::Save(_) => panic!("{cdb:02x?} keeps reservations"),
        Step::Run(op) => {
            let Some(op) = spoil(op, fault) else {
                return (Reply::good(), Vec::new());
            };
            let (outcome, payload, _) = ops::run(volume, &op, out);
            let read = payload.map_or_else(Vec::new, |p| {
                p.pieces(0..p.len()).collect::<Vec<_>>().concat()
            });
            (unit.done(NEXUS, cdb, outcome), read)
        }
    }
}

// --- histories ---

#[derive(Clone, Debug)]
enum What {
    Order(usize, Order),
    /// MODE SELECT of the write cache.
    Cache(usize, bool),
    Checkpoint,
    /// The process dies and another one goes on.
    Restart,
}

#[derive(Clone, Debug)]
struct Event {
    what: What,
    /// Calls on the tape before the command, and when it was answered.
    start: usize,
    end: usize,
    good: bool,
    /// The write cache was off, or the command said so itself: stable when answered.
    forced: bool,
}

/// A target with three disks over one medium.
struct Bench {
    disk: Arc<dyn Medium>,
    tape: CrashDisk,
    golden: Arc<Vec<u8>>,
    store: LayerStore,
    units: Vec<LogicalUnit>,
    models: Vec<Disk>,
    cache: [bool; LAYERS],
    fault: Fault,
    events: Vec<Event>,
    random: Random,
}

fn models(golden: &Arc<Vec<u8>>) -> Vec<Disk> {
    (1..)
        .take(LAYERS)
        .map(|node| Disk::new(node, Arc::clone(golden)))
        .collect()
}

impl Bench {
    fn new(disk: Arc<dyn Medium>, tape: &CrashDisk, seed: u64, fault: Fault) -> Self {
        let golden = golden();
        Self {
            store: open(Arc::clone(&disk), BOOT).unwrap(),
            disk,
            tape: tape.clone(),
            units: (0..LAYERS).map(|_| unit()).collect(),
            models: models(&golden),
            golden,
            cache: [true; LAYERS],
            fault,
            events: Vec::new(),
            random: Random(seed),
        }
    }

    fn run(&mut self, layer: usize, cdb: &[u8], out: &[u8]) -> (Reply, Vec<u8>) {
        let volume = volume(&self.store, layer, &self.golden).unwrap();
        execute(&mut self.units[layer], &volume, cdb, out, self.fault)
    }

    fn keep(&mut self, what: What, start: usize, good: bool, forced: bool) {
        let end = self.tape.moment();
        self.events.push(Event {
            what,
            start,
            end,
            good,
            forced,
        });
    }

    fn step(&mut self, restarts: bool) {
        let layer = usize::try_from(self.random.below(LAYERS as u64)).unwrap();
        match self.random.below(40) {
            0..3 => self.switch_cache(layer),
            3 => {
                let start = self.tape.moment();
                let good = self.store.checkpoint().is_ok();
                self.keep(What::Checkpoint, start, good, false);
            }
            4 if restarts => {
                let start = self.tape.moment();
                self.store = open(Arc::clone(&self.disk), BOOT).unwrap();
                self.units = (0..LAYERS).map(|_| unit()).collect();
                self.cache = [true; LAYERS];
                self.keep(What::Restart, start, true, false);
            }
            _ => self.order(layer),
        }
    }

    fn order(&mut self, layer: usize) {
        let order = draw(&self.models[layer], SHAPE, &mut self.random, &[]);
        let forced = order.forced || !self.cache[layer];
        let model = &mut self.models[layer];
        model.number();
        let sent = model.sent(order.number, order.effect.as_ref());
        let start = self.tape.moment();
        let (reply, read) = self.run(layer, &order.cdb, &order.out);
        let good = reply.status == 0;
        let key = reply
            .sense
            .as_ref()
            .map_or(0, |sense| sense.as_slice()[2] & 15);
        assert!(
            !order.miscompares || !good && matches!(key, 0x0e | 0x03),
            "{order:?}: {reply:?}"
        );
        let model = &mut self.models[layer];
        model.ended(order.number, order.effect.as_ref(), good, forced);
        if order.flushes && good {
            model.flushed(sent);
        }
        if good && order.data_in > 0 {
            let faults = model.check(order.alone[0].start, &read, Promise::Answered);
            assert!(faults.is_empty(), "while it lived: {faults:?}");
        }
        self.keep(What::Order(layer, order), start, good, forced);
    }

    /// MODE SELECT(6): the caching page with WCE as given.
    fn switch_cache(&mut self, layer: usize) {
        let on = self.random.below(3) == 0;
        let mut list = vec![0; 4];
        list.extend_from_slice(&[0x08, 18, if on { 0x04 } else { 0 }]);
        list.resize(24, 0);
        let sent = self.models[layer].sent(0, None);
        let start = self.tape.moment();
        let (reply, _) = self.run(layer, &[0x15, 0x10, 0, 0, 24, 0], &list);
        let good = reply.status == 0;
        if good && self.cache[layer] && !on {
            self.models[layer].flushed(sent);
        }
        let turned_off = self.cache[layer] && !on;
        self.keep(What::Cache(layer, on), start, good, turned_off);
        if good && self.fault != Fault::IgnoresWce {
            self.cache[layer] = on;
        } else if good {
            // The target believes that it is on, and tells that it is off.
            self.run(layer, &[0x15, 0x10, 0, 0, 24, 0], &with_cache_on(&list));
            self.cache[layer] = on;
        }
    }
}

fn with_cache_on(list: &[u8]) -> Vec<u8> {
    let mut list = list.to_vec();
    list[6] = 0x04;
    list
}

fn history(
    disk: Arc<dyn Medium>,
    tape: &CrashDisk,
    seed: u64,
    length: usize,
    fault: Fault,
) -> Vec<Event> {
    let mut bench = Bench::new(disk, tape, seed, fault);
    for _ in 0..length {
        bench.step(true);
    }
    for event in &bench.events {
        let miscompares = matches!(&event.what, What::Order(_, order) if order.miscompares);
        assert!(event.good != miscompares, "seed {seed}: {event:?}");
    }
    bench.events
}

/// What the initiator of each layer knew at a moment of the tape.
fn models_at(events: &[Event], moment: usize, kill: bool) -> Vec<Disk> {
    let mut models = models(&golden());
    // After a kill the operation under way is the first of the next event.
    let begun = |event: &&Event| event.start < moment + usize::from(kill) || event.end <= moment;
    for event in events.iter().take_while(begun) {
        let over = event.end <= moment;
        match &event.what {
            What::Order(layer, order) => {
                let model = &mut models[*layer];
                let sent = model.sent(order.number, order.effect.as_ref());
                if over {
                    model.ended(
                        order.number,
                        order.effect.as_ref(),
                        event.good,
                        event.forced,
                    );
                }
                if over && event.good && order.flushes {
                    model.flushed(sent);
                }
            }
            What::Cache(layer, false) if over && event.good && event.forced => {
                let sent = models[*layer].sent(0, None);
                models[*layer].flushed(sent);
            }
            _ => {}
        }
    }
    models
}

fn read_all(
    store: &LayerStore,
    layer: usize,
    golden: &Arc<Vec<u8>>,
) -> std::result::Result<Vec<u8>, String> {
    let whole = ByteRange::of_sectors(0, SECTORS).unwrap();
    let read = volume(store, layer, golden).and_then(|volume| volume.read(whole));
    let read = read.map_err(|e| format!("layer {layer}: {e}"))?;
    Ok(read.pieces(0..read.len()).collect::<Vec<_>>().concat())
}

/// What is wrong with what a cut or a kill left.
fn check(image: &MemoryDisk, boot: [u8; 16], models: &[Disk]) -> Vec<String> {
    let golden = golden();
    let store = match open(Arc::new(image.clone()), boot) {
        Ok(store) => store,
        Err(e) => return vec![format!("recovery: {e}")],
    };
    let mut faults = Vec::new();
    for (layer, model) in models.iter().enumerate() {
        let read = match read_all(&store, layer, &golden) {
            Ok(read) => read,
            Err(why) => {
                faults.push(why);
                continue;
            }
        };
        match (boot == BOOT, durability(layer)) {
            (true, _) => faults.extend(model.check(0, &read, Promise::Answered)),
            (false, Durability::Durable) => faults.extend(model.check(0, &read, Promise::Stable)),
            // The host took it along: it is the image's again, never half of it.
            (false, Durability::Volatile) if read != *golden => {
                faults.push(format!(
                    "layer {layer}: something is left of a lost ephemeral layer"
                ));
            }
            (false, Durability::Volatile) => {}
        }
    }
    faults
}

/// Power cuts at every moment, and one kill at each. What was found wrong.
fn cut_everywhere(events: &[Event], tape: &CrashDisk, seed: u64, bound: usize) -> Vec<String> {
    cut_until(events, tape, seed, bound, usize::MAX)
}

/// The same until so many faults are found.
fn cut_until(
    events: &[Event],
    tape: &CrashDisk,
    seed: u64,
    bound: usize,
    enough: usize,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let tell = |moment: usize, what: String, faults: Vec<String>| {
        let near = events.iter().rev().find(|event| event.start < moment);
        faults.into_iter().map(move |fault| {
            format!("seed {seed}, moment {moment}, {what}: {fault}; during {near:?}")
        })
    };
    for moment in 0..=tape.moment() {
        if wrong.len() >= enough {
            break;
        }
        let models = models_at(events, moment, false);
        for (case, image) in tape.crash_images(moment, seed, bound).iter().enumerate() {
            wrong.extend(tell(
                moment,
                format!("cut {case}"),
                check(image, NEXT_BOOT, &models),
            ));
        }
        let torn = usize::try_from(Random(seed ^ moment as u64).below(4096)).unwrap();
        let killed = check(
            &tape.process_kill(moment, torn),
            BOOT,
            &models_at(events, moment, true),
        );
        wrong.extend(tell(moment, "kill".into(), killed));
    }
    wrong
}

/// `usual` seeds from `first`; `REVEILLE_SEEDS=n` asks for n times as many.
fn seeds(first: u64, usual: u64) -> Range<u64> {
    first..first + usual * number("REVEILLE_SEEDS").unwrap_or(1)
}

#[test]
fn every_good_flush_and_forced_write_survives_every_power_cut() {
    let (mut forced, mut flushed, mut uncached) = (0, 0, 0);
    for seed in seeds(7000, 3) {
        let tape = CrashDisk::new();
        let events = history(Arc::new(tape.clone()), &tape, seed, 70, Fault::None);
        let wrong = cut_everywhere(&events, &tape, seed, 6);
        assert!(
            wrong.is_empty(),
            "{} violations, the first: {}",
            wrong.len(),
            wrong[0]
        );
        for event in &events {
            if let What::Order(_, order) = &event.what {
                forced += usize::from(event.good && order.forced);
                flushed += usize::from(event.good && order.flushes);
                uncached += usize::from(
                    event.good && order.effect.is_some() && event.forced && !order.forced,
                );
            }
        }
    }
    assert!(
        forced > 5 && flushed > 5 && uncached > 5,
        "{forced} {flushed} {uncached}"
    );
}

#[test]
fn a_short_history_of_commands_survives_every_possible_power_cut() {
    for seed in seeds(7100, 3) {
        let tape = CrashDisk::new();
        let events = history(Arc::new(tape.clone()), &tape, seed, 6, Fault::None);
        let wrong = cut_everywhere(&events, &tape, seed, 64);
        assert!(
            wrong.is_empty(),
            "{} violations, the first: {}",
            wrong.len(),
            wrong[0]
        );
    }
}

// --- targets and media with faults ---

/// True when a target with this fault is found out.
fn is_found(fault: Fault) -> bool {
    (7200..7208).any(|seed| {
        let tape = CrashDisk::new();
        let events = history(Arc::new(tape.clone()), &tape, seed, 60, fault);
        !cut_until(&events, &tape, seed, 4, 1).is_empty()
    })
}

#[test]
fn a_forgotten_fua_is_found_out() {
    assert!(is_found(Fault::ForgetsFua));
}

#[test]
fn a_forgotten_flush_is_found_out() {
    assert!(is_found(Fault::ForgetsFlush));
}

#[test]
fn a_write_cache_that_stays_on_is_found_out() {
    assert!(is_found(Fault::IgnoresWce));
}

type OnSync = Arc<dyn Fn(&str, &CrashDisk, &Arc<dyn File>) -> Result<()> + Send + Sync>;

/// A disk with its own idea of a sync.
struct Wilful {
    tape: CrashDisk,
    on_sync: OnSync,
}

impl Wilful {
    fn over(tape: &CrashDisk, on_sync: OnSync) -> Arc<dyn Medium> {
        let wilful = Self {
            tape: tape.clone(),
            on_sync,
        };
        meddled(tape.clone(), &Arc::new(wilful))
    }
}

impl Meddler for Wilful {
    fn sync(&self, file: &Arc<dyn File>, path: &str) -> Result<()> {
        (self.on_sync)(path, &self.tape, file)
    }
}

/// True when a medium is found out whose syncs of some files do nothing.
fn lies_are_found(about: &'static str) -> bool {
    (7300..7308).any(|seed| {
        let tape = CrashDisk::new();
        let lies: OnSync = Arc::new(move |path, _, file| match path.starts_with(about) {
            true => Ok(()),
            false => file.sync(),
        });
        let disk = Wilful::over(&tape, lies);
        let events = history(disk, &tape, seed, 60, Fault::None);
        !cut_until(&events, &tape, seed, 4, 1).is_empty()
    })
}

#[test]
fn a_medium_that_lies_about_syncs_is_found_out() {
    assert!(lies_are_found("layers/data/"), "of the data");
    assert!(lies_are_found("layers/journal"), "of the journal");
}

// --- a sync that fails ---

/// One history in which sync number `fail` fails, once. None when there were not as many.
fn with_failed_sync(seed: u64, fail: u64) -> Option<(Vec<Event>, CrashDisk, String)> {
    let tape = CrashDisk::new();
    let state: Arc<Mutex<(Option<u64>, Option<String>)>> = Arc::default();
    let seen = Arc::clone(&state);
    let on_sync: OnSync = Arc::new(move |path, tape, file| {
        let mut seen = seen.lock().unwrap();
        let now = seen.0;
        seen.0 = now.map(|count| count + 1);
        if now == Some(fail) {
            seen.1 = Some(path.to_owned());
            tape.fail_call(tape.calls(), io::ErrorKind::Other, false);
        }
        file.sync()
    });
    let disk = Wilful::over(&tape, on_sync);
    let mut bench = Bench::new(disk, &tape, seed, Fault::None);
    // The syncs of the start are not the matter here.
    state.lock().unwrap().0 = Some(0);
    for _ in 0..60 {
        bench.step(false);
    }
    let hit = state.lock().unwrap().1.clone()?;
    Some((bench.events, tape, hit))
}

fn is_flush(event: &Event) -> bool {
    match &event.what {
        What::Order(_, order) => order.flushes || order.effect.is_some() && event.forced,
        What::Cache(..) => event.forced,
        _ => false,
    }
}

const fn layer_of(event: &Event) -> Option<usize> {
    match &event.what {
        What::Order(layer, _) | What::Cache(layer, _) => Some(*layer),
        _ => None,
    }
}

#[test]
fn after_a_failed_sync_no_flush_is_answered_good_any_more() {
    let (mut failed, mut refused) = (0, 0);
    for seed in seeds(7400, 2) {
        for fail in 0..200 {
            let Some((events, tape, hit)) = with_failed_sync(seed, fail) else {
                break;
            };
            let told = |event: &&Event| {
                is_flush(event) && !event.good && layer_of(event) != Some(LAYERS - 1)
            };
            let compared =
                |event: &&Event| !matches!(&event.what, What::Order(_, o) if o.miscompares);
            if let Some(first) = events
                .iter()
                .filter(compared)
                .position(|event| told(&event))
            {
                let all: Vec<&Event> = events.iter().filter(compared).collect();
                let layer = layer_of(all[first]);
                let later = all[first..]
                    .iter()
                    .filter(|e| layer_of(e) == layer && is_flush(e));
                for event in later {
                    assert!(
                        !event.good,
                        "seed {seed}, sync {fail} of {hit} failed, and later a flush was GOOD: {event:?}"
                    );
                    refused += 1;
                }
                failed += 1;
            }
            let moment = tape.moment();
            let models = models_at(&events, moment, false);
            for image in tape.crash_images(moment, seed, 6) {
                let wrong = check(&image, NEXT_BOOT, &models);
                assert!(
                    wrong.is_empty(),
                    "seed {seed}, sync {fail} of {hit} failed: {wrong:?}"
                );
            }
        }
    }
    assert!(
        failed > 10 && refused > failed,
        "{failed} syncs failed under a command, {refused} refused"
    );
}
