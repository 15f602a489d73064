//! Random histories of three layers, and the model that knows what a sector may hold at a moment: the last
//! flushed content or one written later; exactly the last one after a kill of the process.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code over small numbers"
)]

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use reveille::store::disk::Disk;
use reveille::store::disk_crash::{CrashDisk, Random};
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::layer::{Options, Recovery};
use reveille::store::volume::Base;
use reveille::store::{Durability, ImageId, LayerId, LayerStore, Result, Volume, VolumeSpec};
use reveille::units::ByteRange;

pub(crate) const SECTORS: u64 = 24 * 8 + 3;
pub(crate) const LAYERS: usize = 3;
pub(crate) const BOOT: [u8; 16] = [1; 16];
pub(crate) const NEXT_BOOT: [u8; 16] = [2; 16];
pub(crate) const BASE: u64 = 0xba5e;
pub(crate) const ZEROS: u64 = 0;

pub(crate) type Outcome<T> = std::result::Result<T, String>;

#[derive(Debug)]
pub(crate) struct Golden;

pub(crate) fn sector(tag: u64, layer: usize, lba: u64) -> Vec<u8> {
    let word = if tag == ZEROS {
        0
    } else {
        tag << 40 | (layer as u64) << 32 | lba
    };
    word.to_le_bytes().repeat(64)
}

pub(crate) fn sectors(tag: u64, layer: usize, first: u64, count: u64) -> Vec<u8> {
    let all: Vec<Vec<u8>> = (first..first + count)
        .map(|lba| sector(tag, layer, lba))
        .collect();
    all.concat()
}

pub(crate) fn golden() -> &'static [u8] {
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

pub(crate) fn durability(layer: usize) -> Durability {
    if layer == 2 {
        Durability::Volatile
    } else {
        Durability::Durable
    }
}

pub(crate) fn id(layer: usize) -> LayerId {
    LayerId(u32::try_from(layer).unwrap() + 1)
}

pub(crate) fn options(step: u64) -> Options {
    Options {
        journal_bytes: 1500,
        journal_step: step,
        soft_bytes: 900,
        files_open: 2,
        background: false,
        ..Options::default()
    }
}

pub(crate) fn open(disk: Arc<dyn Disk>, boot: [u8; 16]) -> Result<(LayerStore, Recovery)> {
    LayerStore::open_with(disk, boot, options(if boot == BOOT { 1024 } else { 0 }))
}

pub(crate) fn volume(store: &LayerStore, layer: usize) -> Result<Arc<Volume>> {
    store.volume(VolumeSpec {
        layer: id(layer),
        image: Arc::new(Golden),
        durability: durability(layer),
    })
}

// --- histories ---

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum What {
    Write {
        layer: usize,
        first: u64,
        count: u64,
        tag: u64,
    },
    /// Several writes at once; see [`pieces`].
    Many {
        layer: usize,
        first: u64,
        count: u64,
        tag: u64,
    },
    /// Never drawn by `choose`: tests of atomic writes put it in.
    Atomic {
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
pub(crate) struct Event {
    pub(crate) what: What,
    /// Operations on the tape before the call, and when it had returned.
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) good: bool,
}

pub(crate) fn choose(random: &mut Random, tag: u64) -> What {
    let layer = usize::try_from(random.below(LAYERS as u64)).unwrap();
    let wide = random.below(3) == 0;
    let count = 1 + random.below(if wide { SECTORS - 1 } else { 12 });
    let first = random.below(SECTORS - count + 1);
    match random.below(32) {
        0..10 => What::Write {
            layer,
            first,
            count,
            tag,
        },
        10..15 => What::Many {
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

/// The writes of a `Many`, in order: first sector, count, tag. Some share blocks, some sectors; each has a tag of its
/// own, which no other event has.
pub(crate) fn pieces(first: u64, count: u64, tag: u64) -> Vec<(u64, u64, u64)> {
    let mut random = Random(tag << 16 | first << 8 | count);
    (0..2 + random.below(5))
        .map(|n| {
            let start = random.below(count);
            let len = 1 + random.below((count - start).min(20));
            (first + start, len, tag + (n << 12))
        })
        .collect()
}

pub(crate) fn run(store: &mut LayerStore, disk: &Arc<dyn Disk>, what: What) -> Result<()> {
    if what == What::Restart {
        *store = open(Arc::clone(disk), BOOT)?.0;
    }
    run_live(store, what)
}

pub(crate) fn run_live(store: &LayerStore, what: What) -> Result<()> {
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
        What::Many {
            layer,
            first,
            count,
            tag,
        } => {
            let pieces = pieces(first, count, tag);
            let bytes: Vec<(u64, Vec<u8>)> = pieces
                .iter()
                .map(|(first, count, tag)| (first * 512, sectors(*tag, layer, *first, *count)))
                .collect();
            let writes: Vec<(u64, &[u8])> = bytes.iter().map(|(at, b)| (*at, &b[..])).collect();
            let done = volume(store, layer)?.write_many(&writes);
            assert_eq!(done.len(), writes.len());
            done.into_iter().collect()
        }
        What::Atomic {
            layer,
            first,
            count,
            tag,
        } => {
            let bytes = sectors(tag, layer, first, count);
            volume(store, layer)?.write_atomic(first * 512, &bytes)
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
        What::Restart => Ok(()),
    }
}

pub(crate) fn layer_of(what: What) -> Option<usize> {
    match what {
        What::Write { layer, .. }
        | What::Many { layer, .. }
        | What::Atomic { layer, .. }
        | What::Unmap { layer, .. }
        | What::Flush { layer }
        | What::Reset { layer }
        | What::Remove { layer }
        | What::Fence { layer } => Some(layer),
        What::Checkpoint | What::Restart => None,
    }
}

/// `usual` seeds from `first`; `REVEILLE_SEEDS=n` asks for n times as many.
pub(crate) fn seeds(first: u64, usual: u64) -> std::ops::Range<u64> {
    let times = std::env::var("REVEILLE_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    first..first + usual * times
}

pub(crate) fn history(
    disk: &Arc<dyn Disk>,
    tape: &CrashDisk,
    seed: u64,
    length: usize,
) -> Vec<Event> {
    history_of(disk, tape, seed, length, choose)
}

pub(crate) fn history_of(
    disk: &Arc<dyn Disk>,
    tape: &CrashDisk,
    seed: u64,
    length: usize,
    choose: impl Fn(&mut Random, u64) -> What,
) -> Vec<Event> {
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
pub(crate) type Versions = Vec<(u64, bool)>;

/// One layer as it may be. More than one world only while nobody knows whether a reset happened.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    worlds: Vec<Vec<Versions>>,
}

impl Model {
    pub(crate) fn fresh() -> Self {
        Self {
            worlds: vec![vec![vec![(BASE, true)]; SECTORS as usize]],
        }
    }

    pub(crate) fn put(&mut self, first: u64, count: u64, tag: u64, sure: bool) {
        let range = first as usize..(first + count) as usize;
        for world in &mut self.worlds {
            world[range.clone()]
                .iter_mut()
                .for_each(|versions| versions.push((tag, sure)));
        }
    }

    /// Nothing older than the last promised version counts any more.
    pub(crate) fn settle(&mut self) {
        for versions in self.worlds.iter_mut().flatten() {
            let last = versions.iter().rposition(|(_, sure)| *sure).unwrap_or(0);
            versions.drain(..last);
        }
    }

    /// The same for some sectors: an atomic write of a durable layer is on the medium when it returns.
    fn settle_range(&mut self, first: u64, count: u64) {
        for world in &mut self.worlds {
            for versions in &mut world[first as usize..(first + count) as usize] {
                let last = versions.iter().rposition(|(_, sure)| *sure).unwrap_or(0);
                versions.drain(..last);
            }
        }
    }

    pub(crate) fn apply(&mut self, me: usize, what: What, sure: bool, kill: bool) {
        match what {
            What::Write {
                layer,
                first,
                count,
                tag,
            } if layer == me => self.put(first, count, tag, sure),
            What::Many {
                layer,
                first,
                count,
                tag,
            } if layer == me => {
                for (first, count, tag) in pieces(first, count, tag) {
                    self.put(first, count, tag, sure);
                }
            }
            What::Atomic {
                layer,
                first,
                count,
                tag,
            } if layer == me => {
                self.put(first, count, tag, sure);
                if sure {
                    self.settle_range(first, count);
                }
            }
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

    pub(crate) fn check(&self, me: usize, found: &[u64]) -> Outcome<()> {
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
pub(crate) fn model_at(events: &[Event], me: usize, moment: usize, kill: bool) -> Model {
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

/// The atomic write under way at a moment is there whole or not at all.
pub(crate) fn check_atomic(store: &LayerStore, events: &[Event], moment: usize) -> Outcome<()> {
    for event in events {
        let What::Atomic {
            layer,
            first,
            count,
            tag,
        } = event.what
        else {
            continue;
        };
        if event.start > moment || event.end <= moment {
            continue;
        }
        let volume = volume(store, layer).map_err(|e| e.to_string())?;
        let found = contents(&volume, layer)?;
        let range = &found[first as usize..(first + count) as usize];
        let new = range.iter().filter(|here| **here == tag).count();
        if new != 0 && new != range.len() {
            return Err(format!("torn: {new} of {count} sectors are new: {range:?}"));
        }
    }
    Ok(())
}

/// The tag of every sector, or what is wrong with one.
pub(crate) fn contents(volume: &Volume, me: usize) -> Outcome<Vec<u64>> {
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

pub(crate) fn check_store(
    store: &LayerStore,
    events: &[Event],
    moment: usize,
    kill: bool,
) -> Outcome<()> {
    for me in 0..LAYERS {
        let volume = volume(store, me).map_err(|e| format!("open layer {me}: {e}"))?;
        let found = contents(&volume, me)?;
        model_at(events, me, moment, kill).check(me, &found)?;
    }
    Ok(())
}

pub(crate) fn check_image(
    image: &MemoryDisk,
    boot: [u8; 16],
    events: &[Event],
    moment: usize,
) -> Outcome<()> {
    let kill = boot == BOOT;
    let (store, report) =
        open(Arc::new(image.clone()), boot).map_err(|e| format!("recovery: {e}"))?;
    if !report.damaged.is_empty() || !report.notes.is_empty() {
        return Err(format!(
            "recovery found damage where there is none: {report:?}"
        ));
    }
    check_store(&store, events, moment, kill)?;
    check_atomic(&store, events, moment)
}

pub(crate) fn explain(
    seed: u64,
    moment: usize,
    case: usize,
    events: &[Event],
    why: &str,
) -> String {
    let near = events.iter().rev().find(|event| event.start < moment);
    format!("seed {seed}, moment {moment}, case {case}, during {near:?}: {why}")
}
