//! The image store against plain vectors of bytes, with flips, evictions, kills and power cuts.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::memory::MemoryDisk;
use super::pack::path as pack_path;
use super::*;
use crate::limits::CHUNK_BYTES;
use crate::limits::CHUNK_LEN as CHUNK;
use crate::store::ImageId;
use crate::store::disk_file::RealDisk;
use crate::store::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// A source in memory.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) bytes: Vec<u8>,
    /// Unit in which zeros are told; 0 tells nothing.
    pub(super) grain: usize,
}

impl Source for Plain {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        let from = usize::try_from(from).unwrap();
        let rest = &self.bytes[from..];
        let (kind, len) = if self.grain == 0 {
            (ExtentKind::Data, rest.len())
        } else {
            let zero = |part: &[u8]| part.iter().all(|&b| b == 0);
            let first = zero(rest.chunks(self.grain).next().unwrap());
            let alike = rest
                .chunks(self.grain)
                .take_while(|part| zero(part) == first);
            let kind = if first {
                ExtentKind::Zero
            } else {
                ExtentKind::Data
            };
            (kind, alike.map(<[u8]>::len).sum())
        };
        Ok(Extent {
            range: ByteRange::new(from as u64, len as u64).unwrap(),
            kind,
        })
    }

    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.bytes[from..from + out.len()]);
        Ok(())
    }
}

pub(super) fn run(store: &ImageStore, source: &mut dyn Source) -> Result<Imported> {
    store.import(source, &|_| {}, &AtomicBool::new(false))
}

pub(super) fn import(store: &ImageStore, bytes: &[u8]) -> Result<Imported> {
    run(
        store,
        &mut Plain {
            bytes: bytes.to_vec(),
            grain: 512,
        },
    )
}

pub(super) fn store(disk: &MemoryDisk) -> ImageStore {
    ImageStore::with_pack_slots(Arc::new(disk.clone()), 5).unwrap()
}

/// `chunks` chunks of data, all different, the last `less` bytes short.
pub(super) fn data(chunks: usize, less: usize, salt: u8) -> Vec<u8> {
    let mut bytes = vec![0; chunks * CHUNK - less];
    blake3::Hasher::new()
        .update(&[salt])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

pub(super) fn verify(store: &ImageStore, id: ImageId) -> Result<Vec<BadChunk>> {
    store.verify(id, &|_| {}, &AtomicBool::new(false))
}

pub(super) fn read_all(image: &Image) -> Result<Vec<u8>> {
    let mut bytes = vec![0xee; usize::try_from(image.size()).unwrap()];
    image.read(0, &mut bytes)?;
    Ok(bytes)
}

/// Runs of data on a sparse disk: start and length in sectors, and a salt.
fn sparse() -> impl Strategy<Value = Vec<u8>> {
    let run = (0_usize..2500, 1_usize..400, any::<u8>());
    (1_usize..2600, prop::collection::vec(run, 0..6)).prop_map(|(sectors, runs)| {
        let mut bytes = vec![0; sectors * 512];
        for (start, len, salt) in runs {
            let end = ((start + len) * 512).min(bytes.len());
            if let Some(part) = bytes.get_mut(start * 512..end) {
                blake3::Hasher::new()
                    .update(&[salt])
                    .finalize_xof()
                    .fill(part);
            }
        }
        bytes
    })
}

fn check_reads(image: &Image, model: &[u8], ranges: &[(prop::sample::Index, prop::sample::Index)]) {
    for (from, len) in ranges {
        let from = from.index(model.len());
        let len = len.index(model.len() - from + 1);
        let mut out = vec![0xee; len];
        let warm = image.try_read(from as u64, &mut out).unwrap();
        if warm {
            assert!(out == model[from..from + len], "try_read {from}+{len}");
        }
        out.fill(0xee);
        image.read(from as u64, &mut out).unwrap();
        assert!(out == model[from..from + len], "read {from}+{len}");
        assert!(
            image.try_read(from as u64, &mut out).unwrap(),
            "warm after a read"
        );
        let range = ByteRange::new(from as u64, len as u64).unwrap();
        if image.is_zero(range) {
            assert!(out.iter().all(|&b| b == 0), "{range} is not zero");
        }
        let (data, alike) = image.extent(from as u64, len as u64);
        assert!(alike <= len as u64 && (alike > 0 || len == 0));
        assert_eq!(
            image.is_zero(range),
            len == 0 || (!data && alike == len as u64)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn reads_equal_what_was_imported(
        first in sparse(),
        second in sparse(),
        grain in prop::sample::select(vec![0_usize, 512, 4096, 65_536]),
        ranges in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 12),
    ) {
        let disk = MemoryDisk::default();
        let store = store(&disk);
        for model in [&first, &second] {
            let done = run(&store, &mut Plain { bytes: model.clone(), grain }).unwrap();
            let image = store.open_image(done.id).unwrap();
            prop_assert_eq!(image.size(), model.len() as u64);
            let zeros = model.chunks(CHUNK).filter(|chunk| chunk.iter().all(|&b| b == 0)).count();
            prop_assert_eq!(done.zero_chunks, zeros as u64);
            check_reads(&image, model, &ranges);
        }
        // The first one is still what it was, in a new process too.
        let store = self::store(&disk);
        let id = import(&store, &first).unwrap();
        prop_assert!(id.already);
        check_reads(&store.open_image(id.id).unwrap(), &first, &ranges);
        prop_assert_eq!(verify(&store, id.id).unwrap(), vec![]);
    }
}

#[test]
fn real_files_serve_what_was_imported() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(Arc::new(RealDisk::new(dir.path()))).unwrap();
    let mut model = data(40, 512, 1);
    model[3 * CHUNK..9 * CHUNK].fill(0);
    let done = import(&store, &model).unwrap();
    let image = store.open_image(done.id).unwrap();
    let mut out = vec![0; 64 * 1024];
    assert!(
        !image.try_read(0, &mut out).unwrap(),
        "nothing is verified yet"
    );
    assert!(read_all(&image).unwrap() == model);
    assert!(image.try_read(512, &mut out).unwrap(), "warm");
    assert!(out == model[512..512 + out.len()]);
    assert_eq!(verify(&store, done.id).unwrap(), []);
    let stats = ImageStats {
        data_chunks: 34,
        zero_chunks: 6,
        distinct_chunks: 34,
    };
    assert_eq!(image.stats(), stats);
    assert_eq!(image.chunks().count(), 34);
}

#[test]
fn the_same_image_is_stored_once() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let model = data(12, 512, 1);
    let first = import(&store, &model).unwrap();
    assert_eq!(
        (first.new_chunks, first.chunks, first.already),
        (12, 12, false)
    );
    let again = import(&store, &model).unwrap();
    assert_eq!(
        (again.new_chunks, again.already, again.id),
        (0, true, first.id)
    );
    // Told as zeros or read as zeros, the identity is that of the content.
    let other = MemoryDisk::default();
    let mut source = Plain {
        bytes: model,
        grain: 0,
    };
    assert_eq!(run(&self::store(&other), &mut source).unwrap().id, first.id);
}

#[test]
fn a_changed_byte_makes_one_new_chunk() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let mut model = data(12, 0, 1);
    let first = import(&store, &model).unwrap();
    model[7 * CHUNK + 5] ^= 1;
    let second = import(&store, &model).unwrap();
    assert_eq!(
        (second.new_chunks, second.new_bytes, second.already),
        (1, CHUNK_BYTES, false)
    );
    assert_ne!(second.id, first.id);
    let both = (
        store.open_image(first.id).unwrap(),
        store.open_image(second.id).unwrap(),
    );
    let differ = (0..12).filter(|&at| both.0.chunk_id(at) != both.1.chunk_id(at));
    assert_eq!(differ.collect::<Vec<_>>(), [7]);
}

#[test]
fn equal_chunks_of_one_disk_are_stored_once() {
    let disk = MemoryDisk::default();
    let model = data(1, 0, 1).repeat(9);
    let done = import(&store(&disk), &model).unwrap();
    assert_eq!(done.new_chunks, 1);
    let image = store(&disk).open_image(done.id).unwrap();
    assert_eq!(image.stats().distinct_chunks, 1);
    assert!(read_all(&image).unwrap() == model);
}

#[test]
fn packs_end_at_their_bound_and_the_last_is_continued() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    import(&store, &data(7, 0, 1)).unwrap();
    import(&store, &data(4, 0, 2)).unwrap();
    assert_eq!(
        disk.names(pack::PACKS),
        ["00000001.pack", "00000002.pack", "00000003.pack"]
    );
    let lens = [1, 2, 3].map(|n| disk.bytes(&pack_path(n)).len() / CHUNK);
    assert_eq!(lens, [5, 5, 1]);
}

#[test]
fn neighbouring_chunks_are_read_as_one() {
    let disk = MemoryDisk::default();
    let store = ImageStore::open(Arc::new(disk.clone())).unwrap();
    let done = import(&store, &data(12, 0, 1)).unwrap();
    let image = store.open_image(done.id).unwrap();
    let before = disk.calls();
    let mut out = vec![0; 9 * CHUNK];
    image.read(1000, &mut out).unwrap();
    assert_eq!(disk.calls().reads - before.reads, 1);
    let before = disk.calls();
    assert!(image.try_read(1000, &mut out).unwrap());
    assert_eq!(
        (
            disk.calls().tries - before.tries,
            disk.calls().reads - before.reads
        ),
        (1, 0)
    );
}

#[test]
fn versions_share_what_is_verified() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let mut model = data(3, 0, 1);
    let first = import(&store, &model).unwrap();
    model[0] ^= 1;
    let second = import(&store, &model).unwrap();
    let (first, second) = (
        store.open_image(first.id).unwrap(),
        store.open_image(second.id).unwrap(),
    );
    read_all(&first).unwrap();
    let mut out = [0; 4096];
    assert!(
        second.try_read(CHUNK_BYTES, &mut out).unwrap(),
        "a chunk that both have"
    );
    assert!(!second.try_read(0, &mut out).unwrap(), "its own chunk");
}

#[test]
fn a_collection_gives_back_what_no_image_needs() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let shared = data(2, 0, 1);
    let drop = [data(3, 0, 2), shared.clone(), data(6, 0, 3)].concat();
    let dropped = import(&store, &drop).unwrap().id;
    let kept = import(&store, &shared).unwrap().id;
    let done = store.collect(&|id| id == kept).unwrap();
    assert_eq!(
        done,
        Collected {
            manifests: 1,
            packs: 2,
            bytes: 9 * CHUNK_BYTES
        }
    );
    assert_eq!(disk.names(pack::PACKS), ["00000001.pack"]);
    assert!(
        disk.bytes(&pack_path(1))[..3 * CHUNK]
            .iter()
            .all(|&b| b == 0),
        "a hole"
    );
    assert_eq!(
        store.open_image(dropped).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(verify(&store, kept).unwrap(), []);
    assert_eq!(store.collect(&|_| true).unwrap(), Collected::default());
    let again = import(&store, &drop).unwrap();
    assert_eq!((again.id, again.new_chunks), (dropped, 9));
    assert!(read_all(&store.open_image(dropped).unwrap()).unwrap() == drop);
}

#[test]
fn what_is_open_is_neither_removed_nor_collected() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let model = data(3, 0, 1);
    let id = import(&store, &model).unwrap().id;
    let image = store.open_image(id).unwrap();
    assert!(Arc::ptr_eq(&image, &store.open_image(id).unwrap()));
    assert_eq!(store.remove(id).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(store.collect(&|_| false).unwrap(), Collected::default());
    assert!(read_all(&image).unwrap() == model);
    drop(image);
    store.remove(id).unwrap();
    assert!(!store.contains(id).unwrap());
    assert_eq!(store.remove(id).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.collect(&|_| true).unwrap().packs, 1);
}

#[test]
fn start_up_reads_neither_manifests_nor_packs() {
    let disk = MemoryDisk::default();
    let setup = store(&disk);
    for salt in 0..20 {
        import(&setup, &data(2, 0, salt)).unwrap();
    }
    let before = disk.calls();
    let store = store(&disk);
    assert_eq!(
        (disk.calls().opens, disk.calls().reads),
        (before.opens, before.reads)
    );
    assert_eq!(store.list().unwrap().len(), 20);
}

/// A source that does something in the middle of being read.
pub(super) struct Meddling<F: FnMut()>(pub(super) Plain, pub(super) Hidden<F>);

pub(super) struct Hidden<F>(pub(super) F);

impl<F: FnMut()> std::fmt::Debug for Meddling<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddling")
    }
}

impl<F: FnMut()> Source for Meddling<F> {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        self.0.next_extent(from)
    }
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        (self.1.0)();
        self.0.read_at(offset, out)
    }
}

#[test]
fn a_second_import_at_the_same_time_is_told_to_wait() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let mut kinds = Vec::new();
    let plain = Plain {
        bytes: data(2, 0, 1),
        grain: 0,
    };
    let other = || {
        kinds.push(import(&store, &data(1, 0, 2)).unwrap_err().kind());
        kinds.push(store.collect(&|_| false).unwrap_err().kind());
    };
    run(&store, &mut Meddling(plain, Hidden(other))).unwrap();
    assert_eq!(kinds, [ErrorKind::Busy, ErrorKind::Busy]);
}

#[test]
fn progress_grows_to_the_whole() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let seen = std::cell::RefCell::new(Vec::new());
    let note = |p: Progress| seen.borrow_mut().push((p.done, p.total));
    let cancel = AtomicBool::new(false);
    let bytes = data(40, 512, 1);
    let size = bytes.len() as u64;
    let id = store
        .import(&mut Plain { bytes, grain: 0 }, &note, &cancel)
        .unwrap()
        .id;
    assert!(seen.borrow().is_sorted());
    assert_eq!(seen.borrow().last(), Some(&(size, size)));
    seen.borrow_mut().clear();
    store.verify(id, &note, &cancel).unwrap();
    assert_eq!(seen.borrow().last(), Some(&(size, size)));
}

/// What a layer over an image looks like to an import: own parts, the rest as the base has it.
#[derive(Debug)]
struct Layered {
    base: Arc<Image>,
    own: Vec<(usize, Vec<u8>)>,
    read: usize,
}

impl Source for Layered {
    fn size(&self) -> u64 {
        self.base.size()
    }
    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        let from = usize::try_from(from).unwrap();
        let end = usize::try_from(self.size()).unwrap();
        let inside = self
            .own
            .iter()
            .find(|(at, b)| (*at..at + b.len()).contains(&from));
        let next = self
            .own
            .iter()
            .map(|(at, _)| *at)
            .filter(|&at| at > from)
            .min();
        let (kind, end) = match inside {
            Some((at, bytes)) => (ExtentKind::Data, at + bytes.len()),
            None => (ExtentKind::Base, next.unwrap_or(end)),
        };
        Ok(Extent {
            range: ByteRange::new(from as u64, (end - from) as u64).unwrap(),
            kind,
        })
    }
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read += out.len();
        self.base.read(offset, out)?;
        let start = usize::try_from(offset).unwrap();
        for (at, bytes) in &self.own {
            for (nth, &byte) in bytes.iter().enumerate() {
                if let Some(out) = (at + nth).checked_sub(start).and_then(|at| out.get_mut(at)) {
                    *out = byte;
                }
            }
        }
        Ok(())
    }
    fn base(&self) -> Option<Arc<Image>> {
        Some(Arc::clone(&self.base))
    }
}

#[test]
fn a_promoted_layer_reads_only_the_chunks_it_touched() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let mut model = data(30, 512, 1);
    model[4 * CHUNK..6 * CHUNK].fill(0);
    let base = store
        .open_image(import(&store, &model).unwrap().id)
        .unwrap();
    let own = vec![
        (2 * CHUNK + 4096, vec![7; 4096]),
        (5 * CHUNK - 512, vec![8; 1024]),
    ];
    let mut layer = Layered {
        base,
        own: own.clone(),
        read: 0,
    };
    let done = run(&store, &mut layer).unwrap();
    assert_eq!((done.new_chunks, layer.read), (3, 3 * CHUNK));
    for (at, bytes) in own {
        model[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    assert!(read_all(&store.open_image(done.id).unwrap()).unwrap() == model);
    assert_eq!(
        import(&store, &model).unwrap().id,
        done.id,
        "the same as importing its bytes"
    );
}

#[test]
fn an_export_equals_the_disk_and_keeps_holes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let mut model = data(40, 512, 1);
    model[CHUNK..30 * CHUNK].fill(0);
    model[31 * CHUNK + 8192..31 * CHUNK + 20_480].fill(0);
    let id = import(&store, &model).unwrap().id;
    let path = dir.path().join("out");
    let no = AtomicBool::new(false);
    store
        .export(id, &mut SparseFile::create(&path).unwrap(), &|_| {}, &no)
        .unwrap();
    assert!(std::fs::read(&path).unwrap() == model);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
    assert!(blocks * 512 <= 11 * CHUNK_BYTES, "{blocks} blocks");
    let e = SparseFile::create(&path).unwrap_err();
    assert!(e.to_string().contains("out"), "{e}");
}

#[test]
fn reads_past_the_end_are_refused() {
    let disk = MemoryDisk::default();
    let store = store(&disk);
    let image = store
        .open_image(import(&store, &data(1, 512, 1)).unwrap().id)
        .unwrap();
    let mut out = [0; 512];
    for at in [image.size(), image.size() - 256, u64::MAX] {
        assert_eq!(
            image.read(at, &mut out).unwrap_err().kind(),
            ErrorKind::OutOfBounds
        );
        assert_eq!(
            image.try_read(at, &mut out).unwrap_err().kind(),
            ErrorKind::OutOfBounds
        );
    }
    image.read(image.size(), &mut []).unwrap();
}

#[test]
fn a_source_that_answers_nonsense_is_refused() {
    #[derive(Debug)]
    struct Stuck;
    impl Source for Stuck {
        fn size(&self) -> u64 {
            1 << 20
        }
        fn next_extent(&mut self, _from: u64) -> Result<Extent> {
            Ok(Extent {
                range: ByteRange::new(0, 512).unwrap(),
                kind: ExtentKind::Zero,
            })
        }
        fn read_at(&mut self, _offset: u64, _out: &mut [u8]) -> Result<()> {
            Err(Error::new(ErrorKind::Io, "no"))
        }
    }
    let disk = MemoryDisk::default();
    assert!(run(&store(&disk), &mut Stuck).is_err());
    for size in [0, 511, 513] {
        let bytes = vec![1; size];
        assert!(
            run(&store(&disk), &mut Plain { bytes, grain: 0 }).is_err(),
            "{size} bytes"
        );
    }
}
