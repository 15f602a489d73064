//! Random histories of an image store, and the model that knows which images must be there at a moment, which
//! may be, and what each of them holds.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(clippy::unwrap_used, reason = "test code over small numbers")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use reveille::store::disk::{Disk, OpenMode};
use reveille::store::disk_crash::{CrashDisk, Random};
use reveille::store::disk_memory::MemoryDisk;
use reveille::store::image::{Extent, ExtentKind, Image, ImageStore, Imported, Source};
use reveille::store::{ImageId, Result};
use reveille::units::ByteRange;

pub(crate) const CHUNK: usize = 65_536;
/// Slots of a pack: small, so that packs fill, empty and are removed.
pub(crate) const SLOTS: u32 = 5;
const KINDS: u64 = 9;

pub(crate) type Outcome<T> = std::result::Result<T, String>;

/// A disk as the kinds of its chunks; 0 is a chunk of zeros. The last one is a sector short.
pub(crate) type Recipe = Vec<u8>;

pub(crate) fn seeds(first: u64, usual: u64) -> std::ops::Range<u64> {
    let times = std::env::var("REVEILLE_SEEDS");
    let times = times.ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    first..first + usual * times
}

fn chunk(kind: u8) -> &'static [u8] {
    static CHUNKS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let make = |kind: u8| {
        let mut bytes = vec![0; CHUNK];
        if kind > 0 {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[kind]).finalize_xof().fill(&mut bytes);
        }
        bytes
    };
    &CHUNKS.get_or_init(|| (0..=255).map(make).collect())[usize::from(kind)]
}

pub(crate) fn content(recipe: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(recipe.len() * CHUNK);
    for kind in recipe {
        bytes.extend_from_slice(chunk(*kind));
    }
    bytes.truncate(bytes.len() - 512);
    bytes
}

#[derive(Debug)]
struct Plain(Vec<u8>);

impl Source for Plain {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        Ok(Extent {
            range: ByteRange::new(from, self.0.len() as u64 - from).unwrap(),
            kind: ExtentKind::Data,
        })
    }
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0[from..from + out.len()]);
        Ok(())
    }
}

pub(crate) fn import(store: &ImageStore, recipe: &[u8]) -> Result<Imported> {
    let mut source = Plain(content(recipe));
    store.import(&mut source, &|_| {}, &AtomicBool::new(false))
}

pub(crate) fn open(disk: &Arc<dyn Disk>) -> Result<ImageStore> {
    ImageStore::with_pack_slots(Arc::clone(disk), SLOTS)
}

/// What is true at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// Named by somebody: must be there, whole.
    pub(crate) named: BTreeSet<ImageId>,
    /// Ever imported, or begun to be: may be there; if it is, whole.
    pub(crate) known: BTreeMap<ImageId, Recipe>,
    /// A chunk of this kind was harmed on the medium: images with it may answer with an error, never wrongly.
    pub(crate) harmed: BTreeSet<u8>,
    /// Imported again since, and found whole.
    pub(crate) repaired: BTreeSet<ImageId>,
}

impl World {
    fn may_fail(&self, id: ImageId, recipe: &[u8]) -> bool {
        !self.repaired.contains(&id) && recipe.iter().any(|kind| self.harmed.contains(kind))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) what: String,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) before: World,
    pub(crate) after: World,
}

struct Run<'a> {
    disk: &'a Arc<dyn Disk>,
    store: ImageStore,
    world: World,
    held: Vec<(Arc<Image>, Vec<u8>)>,
}

fn draw(random: &mut Random, world: &World) -> Recipe {
    let again = world.known.len() as u64;
    if again > 0 && random.below(3) == 0 {
        let nth = usize::try_from(random.below(again)).unwrap();
        return world.known.values().nth(nth).unwrap().clone();
    }
    let len = 1 + random.below(7);
    let kind = |random: &mut Random| u8::try_from(random.below(KINDS + 1)).unwrap();
    (0..len).map(|_| kind(random)).collect()
}

impl Run<'_> {
    /// One step; says what it was.
    fn step(&mut self, random: &mut Random) -> String {
        let named = self.world.named.len() as u64;
        let pick = |random: &mut Random, world: &World| {
            let nth = usize::try_from(random.below(named)).unwrap();
            *world.named.iter().nth(nth).unwrap()
        };
        match random.below(20) {
            0..9 => self.import(&draw(random, &self.world)),
            9..12 if named > 0 => {
                let id = pick(random, &self.world);
                self.world.named.remove(&id);
                format!("unname {id}")
            }
            12..15 => self.collect(),
            15 | 16 if named > 0 => {
                let id = pick(random, &self.world);
                if let Ok(image) = self.store.open_image(id) {
                    let recipe = &self.world.known[&id];
                    if !self.world.may_fail(id, recipe) {
                        self.held.push((image, content(recipe)));
                    }
                }
                format!("hold {id}")
            }
            17 if named > 0 && self.world.harmed.is_empty() => {
                let id = pick(random, &self.world);
                self.harm(id)
            }
            18 => {
                self.held.clear();
                self.store = open(self.disk).unwrap();
                "restart".into()
            }
            _ => {
                self.held.pop();
                "release".into()
            }
        }
    }

    fn import(&mut self, recipe: &Recipe) -> String {
        let done = import(&self.store, recipe).unwrap();
        self.world.known.insert(done.id, recipe.clone());
        self.world.named.insert(done.id);
        format!("import {recipe:?} as {}", done.id)
    }

    fn collect(&mut self) -> String {
        let named = self.world.named.clone();
        self.store.collect(&|id| named.contains(&id)).unwrap();
        let held = self.held.iter().map(|(image, _)| image.id());
        let expected: BTreeSet<ImageId> = named.iter().copied().chain(held).collect();
        let left: BTreeSet<ImageId> = self.store.list().unwrap().into_iter().collect();
        assert_eq!(left, expected, "a collection keeps what is named or open");
        "collect".into()
    }

    /// Flips a bit of a chunk on the medium, lets the store notice, and imports the image again.
    fn harm(&mut self, id: ImageId) -> String {
        let recipe = self.world.known[&id].clone();
        let image = self.store.open_image(id).unwrap();
        let Some(first) = image.chunks().next() else {
            return "harm nothing".into();
        };
        let used_elsewhere = self
            .held
            .iter()
            .any(|(held, _)| held.chunks().any(|chunk| chunk.place == first.place));
        if used_elsewhere {
            return "harm nothing that is held".into();
        }
        drop(image);
        let kind = recipe[usize::try_from(first.index).unwrap()];
        self.world.harmed.insert(kind);
        let path = format!("images/packs/{:08}.pack", first.place.pack);
        let file = self.disk.open(&path, OpenMode::ReadWrite).unwrap();
        let at = u64::from(first.place.slot) * CHUNK as u64 + 777;
        let mut byte = [0];
        file.read_at(at, &mut byte).unwrap();
        file.write_at(at, &[byte[0] ^ 4]).unwrap();
        file.sync().unwrap();
        let bad = verify(&self.store, id).unwrap();
        assert!(bad > 0, "a flipped bit is noticed");
        import(&self.store, &recipe).unwrap();
        assert_eq!(
            verify(&self.store, id).unwrap(),
            0,
            "importing again repairs"
        );
        self.world.repaired.insert(id);
        format!("harm and repair {id}")
    }
}

fn verify(store: &ImageStore, id: ImageId) -> Result<usize> {
    let found = store.verify(id, &|_| {}, &AtomicBool::new(false))?;
    Ok(found.len())
}

pub(crate) fn history(
    disk: &Arc<dyn Disk>,
    tape: &CrashDisk,
    seed: u64,
    length: usize,
) -> Vec<Event> {
    let mut random = Random(seed);
    let mut run = Run {
        disk,
        store: open(disk).unwrap(),
        world: World::default(),
        held: Vec::new(),
    };
    let mut events = Vec::new();
    for _ in 0..length {
        let (before, start) = (run.world.clone(), tape.moment());
        let what = run.step(&mut random);
        for (image, bytes) in &run.held {
            let mut found = vec![0; bytes.len()];
            image.read(0, &mut found).unwrap();
            assert!(
                found == *bytes,
                "after {what}: a running node's image changed"
            );
        }
        events.push(Event {
            what,
            start,
            end: tape.moment(),
            before,
            after: run.world.clone(),
        });
    }
    events
}

/// What must be true, and what may be, when `moment` operations had happened.
pub(crate) fn at(events: &[Event], moment: usize) -> World {
    world_at(events, moment, |event| event.start < moment)
}

/// The same when a part of the next operation may have happened too.
pub(crate) fn at_kill(events: &[Event], moment: usize) -> World {
    world_at(events, moment, |event| event.start <= moment)
}

fn world_at(events: &[Event], moment: usize, begun: impl Fn(&Event) -> bool) -> World {
    let mut world = World::default();
    for event in events {
        if event.end <= moment {
            world = event.after.clone();
        } else if begun(event) {
            world.known.extend(event.after.known.clone());
            world.harmed.extend(&event.after.harmed);
            world.named.retain(|id| event.after.named.contains(id));
            // While an image is imported again its old manifest may still be the one that is there.
            world
                .repaired
                .retain(|id| event.before.repaired.contains(id));
        } else if event.start > moment {
            break;
        }
    }
    world
}

fn whole(store: &ImageStore, id: ImageId, world: &World) -> Outcome<()> {
    let recipe = world.known.get(&id);
    let recipe = recipe.ok_or_else(|| format!("image {id} was never made"))?;
    let may_fail = world.may_fail(id, recipe);
    let read = || -> Result<Vec<u8>> {
        let image = store.open_image(id)?;
        let mut bytes = vec![0xee; usize::try_from(image.size()).unwrap()];
        image.read(0, &mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes == content(recipe) => Ok(()),
        Ok(_) => Err(format!("image {id} reads wrong bytes")),
        Err(_) if may_fail => Ok(()),
        Err(e) => Err(format!("image {id} {recipe:?}: {e}")),
    }
}

fn all_whole(store: &ImageStore, world: &World) -> Outcome<()> {
    let there = store.list().map_err(|e| e.to_string())?;
    for id in &there {
        whole(store, *id, world)?;
    }
    match world.named.iter().find(|id| !there.contains(id)) {
        Some(lost) => Err(format!("image {lost} is named and gone")),
        None => Ok(()),
    }
}

/// Bytes that packs hold beyond the chunks that images name.
fn surplus(disk: &dyn Disk, store: &ImageStore) -> Outcome<u64> {
    let mut places = BTreeSet::new();
    for id in store.list().map_err(|e| e.to_string())? {
        let image = store.open_image(id).map_err(|e| e.to_string())?;
        places.extend(image.chunks().map(|chunk| chunk.place));
    }
    let mut held = 0;
    for name in disk.list("images/packs").map_err(|e| e.to_string())? {
        let path = format!("images/packs/{name}");
        let file = disk
            .open(&path, OpenMode::Read)
            .map_err(|e| e.to_string())?;
        held += file.allocated().map_err(|e| e.to_string())?;
    }
    Ok(held.saturating_sub(places.len() as u64 * CHUNK as u64))
}

/// Opens what a cut or a kill left, compares with the model, collects, imports, and compares again.
pub(crate) fn check_image(image: &MemoryDisk, world: &World) -> Outcome<()> {
    let disk: Arc<dyn Disk> = Arc::new(image.clone());
    let store = open(&disk).map_err(|e| format!("it does not open: {e}"))?;
    let left = disk.list("images/tmp").map_err(|e| e.to_string())?;
    if !left.is_empty() {
        return Err("a half manifest stayed".into());
    }
    all_whole(&store, world)?;
    let keep = |id: ImageId| world.named.contains(&id);
    store
        .collect(&keep)
        .map_err(|e| format!("the collection: {e}"))?;
    let there: BTreeSet<ImageId> = store
        .list()
        .map_err(|e| e.to_string())?
        .into_iter()
        .collect();
    if there != world.named {
        return Err("a collection leaves what is named and nothing else".into());
    }
    all_whole(&store, world)?;
    match surplus(&*disk, &store)? {
        0 => {}
        bytes => return Err(format!("{bytes} bytes are nobody's after a collection")),
    }
    let mut world = world.clone();
    let recipe: Recipe = vec![1, 0, 2, 200, 3];
    let done = import(&store, &recipe).map_err(|e| format!("a new import: {e}"))?;
    world.named.insert(done.id);
    world.known.insert(done.id, recipe);
    all_whole(&store, &world)
}
