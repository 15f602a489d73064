//! Promotion against an oracle: the bytes that the layer showed, imported as a raw disk.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::store::disk::Disk;
use crate::store::disk_crash::CrashDisk;
use crate::store::error::ErrorKind;
use crate::store::image::{ImageStore, Imported};
use crate::store::layer::{LayerStore, Options};
use crate::store::{Durability, ImageId, LayerId, Volume, VolumeSpec};
use crate::units::ByteRange;

const SECTOR: u64 = 512;
/// Five chunks and a short one that ends inside of a block.
const SECTORS: u64 = 5 * 128 + 43;
const LAYER: LayerId = LayerId(7);

/// The bytes of the disk as they should be.
type Model = Vec<u8>;

struct Stores {
    images: ImageStore,
    layers: LayerStore,
}

fn stores(disk: &Arc<dyn Disk>, boot: u8) -> Stores {
    let options = Options {
        background: false,
        journal_step: 0,
        ..Options::default()
    };
    Stores {
        images: ImageStore::with_pack_slots(Arc::clone(disk), 4).unwrap(),
        layers: LayerStore::open_with(Arc::clone(disk), [boot; 16], options)
            .unwrap()
            .0,
    }
}

fn fresh() -> (CrashDisk, Stores) {
    let tape = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(tape.clone());
    (tape, stores(&disk, 1))
}

/// Chunk 1 and the first half of chunk 3 are zeros; the others are all different.
fn golden() -> Model {
    let sector = |n: u64| match n {
        128..256 | 384..448 => [0; 512].to_vec(),
        n => (n + 1).to_le_bytes().repeat(64),
    };
    (0..SECTORS).flat_map(sector).collect()
}

fn import(images: &ImageStore, bytes: &[u8]) -> Imported {
    let mut plain = crate::store::image::test::Plain {
        bytes: bytes.to_vec(),
        grain: 512,
    };
    images
        .import(&mut plain, &|_| {}, &AtomicBool::new(false))
        .unwrap()
}

fn volume(stores: &Stores, base: ImageId) -> Arc<Volume> {
    let spec = VolumeSpec {
        layer: LAYER,
        image: stores.images.open_image(base).unwrap(),
        durability: Durability::Durable,
    };
    stores.layers.volume(spec).unwrap()
}

fn view(stores: &Stores, base: ImageId) -> Result<LayerView> {
    let image = stores.images.open_image(base)?;
    stores.layers.view(LAYER, image)
}

fn promote(stores: &Stores, source: &mut dyn Source) -> Result<Imported> {
    stores
        .images
        .import(source, &|_| {}, &AtomicBool::new(false))
}

fn bytes_of(images: &ImageStore, id: ImageId) -> Model {
    let image = images.open_image(id).unwrap();
    let mut out = vec![0; usize::try_from(image.size()).unwrap()];
    image.read(0, &mut out).unwrap();
    out
}

fn raw_id(bytes: &[u8]) -> ImageId {
    import(&fresh().1.images, bytes).id
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Write {
        at: u64,
        count: u64,
        tag: u8,
    },
    Atomic {
        at: u64,
        count: u64,
        tag: u8,
    },
    Unmap {
        at: u64,
        count: u64,
    },
    /// Writes what the image has there.
    Same {
        at: u64,
        count: u64,
    },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = (0..SECTORS, 1..200_u64, 0..6_u8, 0..8_u8).prop_map(|(at, count, tag, kind)| {
        let count = count.min(SECTORS - at);
        match kind {
            0..4 => Change::Write { at, count, tag },
            4 => Change::Atomic { at, count, tag },
            5 => Change::Same { at, count },
            _ => Change::Unmap { at, count },
        }
    });
    prop::collection::vec(one, 0..12)
}

fn apply(volume: &Volume, model: &mut Model, golden: &[u8], change: Change) {
    let place = |at: u64, count: u64| (at * SECTOR, usize::try_from(count * SECTOR).unwrap());
    let part = |model: &mut Model, at: u64, bytes: &[u8]| {
        let at = usize::try_from(at).unwrap();
        model[at..at + bytes.len()].copy_from_slice(bytes);
    };
    match change {
        Change::Write { at, count, tag } => {
            let (at, len) = place(at, count);
            volume.write(at, &vec![tag; len]).unwrap();
            part(model, at, &vec![tag; len]);
        }
        Change::Atomic { at, count, tag } => {
            let (at, len) = place(at, count);
            volume.write_atomic(at, &vec![tag; len]).unwrap();
            part(model, at, &vec![tag; len]);
        }
        Change::Same { at, count } => {
            let (at, len) = place(at, count);
            let from = usize::try_from(at).unwrap();
            let same = golden[from..from + len].to_vec();
            volume.write(at, &same).unwrap();
            part(model, at, &same);
        }
        Change::Unmap { at, count } => {
            let (at, len) = place(at, count);
            let range = ByteRange::new(at, len as u64).unwrap();
            volume.unmap(range).unwrap();
            part(model, at, &vec![0; len]);
        }
    }
}

/// Changes the layer each time the import has read a part of it.
#[derive(Debug)]
struct Restless<'a> {
    inner: LayerSource,
    volume: &'a Volume,
    model: &'a mut Model,
    later: std::vec::IntoIter<Change>,
}

impl Source for Restless<'_> {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        self.inner.next_extent(from)
    }
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        for change in self.later.by_ref().take(3) {
            apply(self.volume, self.model, &golden(), change);
        }
        self.inner.read_at(offset, out)
    }
    fn base(&self) -> Option<Arc<Image>> {
        self.inner.base()
    }
    fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }
}

fn read_all(volume: &Volume) -> Model {
    let all = ByteRange::new(0, volume.size()).unwrap();
    volume.read(all).unwrap().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_promoted_layer_is_the_image_that_an_import_of_its_bytes_makes(
        before in changes(), later in changes(), flush in any::<bool>(),
    ) {
        let (_tape, stores) = fresh();
        let golden = golden();
        let base = import(&stores.images, &golden).id;
        let disk = volume(&stores, base);
        let mut model = golden.clone();
        for change in before {
            apply(&disk, &mut model, &golden, change);
        }
        if flush {
            disk.flush().unwrap();
        }
        let moment = model.clone();
        let frozen = view(&stores, base).unwrap();
        let touched: u64 = frozen.touched().iter().map(|run| run.end - run.start).sum();
        let mut source = Restless {
            inner: LayerSource(frozen),
            volume: &disk,
            model: &mut model,
            later: later.into_iter(),
        };
        let done = promote(&stores, &mut source).unwrap();
        drop(source);
        prop_assert_eq!(done.id, raw_id(&moment));
        prop_assert!(done.new_chunks <= touched);
        prop_assert!(bytes_of(&stores.images, done.id) == moment);
        prop_assert!(bytes_of(&stores.images, base) == golden, "the base changed");
        prop_assert!(read_all(&disk) == model, "the node's disk changed");
        // What the node sees is the new version exactly when it changed nothing meanwhile.
        let frozen = view(&stores, base).unwrap();
        let new = stores.images.open_image(done.id).unwrap();
        let same = holds_the_same(&frozen, &new, u64::MAX).unwrap();
        prop_assert_eq!(same, Some(model == moment));
    }
}

fn changed(stores: &Stores, base: ImageId) -> (Arc<Volume>, Model) {
    let (disk, mut model) = (volume(stores, base), golden());
    for change in [
        Change::Write {
            at: 3,
            count: 5,
            tag: 9,
        },
        Change::Unmap {
            at: 250,
            count: 140,
        },
        Change::Write {
            at: 650,
            count: 20,
            tag: 8,
        },
    ] {
        apply(&disk, &mut model, &golden(), change);
    }
    disk.flush().unwrap();
    (disk, model)
}

#[test]
fn a_power_cut_or_kill_at_any_moment_leaves_the_new_version_whole_or_nothing() {
    let (tape, stores) = fresh();
    let base = import(&stores.images, &golden()).id;
    let (_disk, model) = changed(&stores, base);
    let wanted = raw_id(&model);
    let start = tape.moment();
    let mut source = LayerSource(view(&stores, base).unwrap());
    let done = promote(&stores, &mut source).unwrap();
    assert_eq!(done.id, wanted);
    let end = tape.moment();
    let (mut whole, mut tried) = (0, 0);
    for moment in start..=end {
        let mut images = tape.crash_images(moment, 3, 24);
        images.push(tape.process_kill(moment, 600));
        for image in images {
            tried += 1;
            let disk: Arc<dyn Disk> = Arc::new(image);
            let again = stores_after(&disk);
            let there = again.images.contains(wanted).unwrap();
            assert!(there || moment < end, "answered, but gone");
            if there {
                whole += 1;
                assert!(bytes_of(&again.images, wanted) == model, "moment {moment}");
            }
            assert!(bytes_of(&again.images, base) == golden(), "moment {moment}");
            assert!(read_all(&volume(&again, base)) == model, "moment {moment}");
            // Not in the catalog: it goes, and takes nothing of the base along.
            again.images.collect(&|id| id == base).unwrap();
            assert_eq!(again.images.list().unwrap(), [base]);
            assert!(bytes_of(&again.images, base) == golden(), "moment {moment}");
        }
    }
    assert!(whole > 0 && whole < tried, "{whole} of {tried}");
}

fn stores_after(disk: &Arc<dyn Disk>) -> Stores {
    stores(disk, 2)
}

#[test]
fn a_full_medium_leaves_everything_as_it_was() {
    let (tape, stores) = fresh();
    let base = import(&stores.images, &golden()).id;
    let (disk, model) = changed(&stores, base);
    let mut failed = 0;
    for call in 0..40 {
        tape.fail_call(tape.calls() + call, std::io::ErrorKind::StorageFull, false);
        let mut source = LayerSource(view(&stores, base).unwrap());
        let done = promote(&stores, &mut source);
        drop(source);
        tape.heal();
        let Err(e) = done else { break };
        failed += 1;
        assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}");
        // Failed as late as the manifest's name: no catalog has it, so it is collected.
        stores.images.collect(&|id| id == base).unwrap();
        assert_eq!(stores.images.list().unwrap(), [base]);
        assert!(bytes_of(&stores.images, base) == golden());
        assert!(read_all(&disk) == model);
    }
    assert!(failed > 3, "{failed} calls failed");
    let mut source = LayerSource(view(&stores, base).unwrap());
    let done = promote(&stores, &mut source).unwrap();
    assert_eq!(done.id, raw_id(&model));
}

#[test]
fn a_reset_in_the_midst_does_not_reach_the_view() {
    let (_tape, stores) = fresh();
    let base = import(&stores.images, &golden()).id;
    let (disk, model) = changed(&stores, base);
    let mut source = LayerSource(view(&stores, base).unwrap());
    drop(disk);
    stores.layers.reset(LAYER).unwrap();
    let disk = volume(&stores, base);
    disk.write(0, &[3; 4096]).unwrap();
    let done = promote(&stores, &mut source).unwrap();
    assert_eq!(done.id, raw_id(&model));
    assert_eq!(read_all(&disk)[4096..], golden()[4096..]);
}

#[test]
fn a_sanitized_layer_is_not_promoted_half_old() {
    let (_tape, stores) = fresh();
    let base = import(&stores.images, &golden()).id;
    let (disk, _) = changed(&stores, base);
    let mut source = LayerSource(view(&stores, base).unwrap());
    disk.erase().unwrap();
    let e = promote(&stores, &mut source).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy);
    assert!(e.to_string().contains("sanitized"), "{e}");
    assert_eq!(stores.images.list().unwrap(), [base]);
}

#[test]
fn one_view_of_a_layer_at_a_time_and_of_its_own_image_only() {
    let (_tape, stores) = fresh();
    let base = import(&stores.images, &golden()).id;
    let (_disk, _) = changed(&stores, base);
    let first = view(&stores, base).unwrap();
    assert_eq!(view(&stores, base).unwrap_err().kind(), ErrorKind::Busy);
    drop(first);
    assert!(view(&stores, base).is_ok());
    let other = import(&stores.images, &[5; 1 << 20]).id;
    let e = view(&stores, other).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidFormat);
}

#[test]
fn a_chunk_known_to_be_damaged_is_not_carried_into_a_new_version() {
    let (tape, stores) = fresh();
    let base = import(&stores.images, &golden()).id;
    let (_disk, model) = changed(&stores, base);
    let image = stores.images.open_image(base).unwrap();
    let victim = image.chunks().find(|chunk| chunk.index == 4).unwrap();
    let path = crate::store::image::pack::path(victim.place.pack);
    let disk: Arc<dyn Disk> = Arc::new(tape);
    let file = disk
        .open(&path, crate::store::disk::OpenMode::ReadWrite)
        .unwrap();
    let at = u64::from(victim.place.slot) * CHUNK_BYTES;
    file.write_at(at, &[0xee; 16]).unwrap();
    let found = stores
        .images
        .verify(base, &|_| {}, &AtomicBool::new(false))
        .unwrap();
    assert_eq!(found.len(), 1);
    let e = promote(&stores, &mut LayerSource(view(&stores, base).unwrap())).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(e.to_string().contains("import it again"), "{e}");
    // Importing the base again puts good bytes elsewhere; the promotion takes those.
    import(&stores.images, &golden());
    let mut source = LayerSource(view(&stores, base).unwrap());
    let done = promote(&stores, &mut source).unwrap();
    assert!(bytes_of(&stores.images, done.id) == model);
}
