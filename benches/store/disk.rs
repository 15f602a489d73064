//! A store on the real file system with a golden image of random data, for benches that look below iSCSI.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each bench uses its own part"
)]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use reveille::store::disk::Disk;
use reveille::store::disk_file::RealDisk;
use reveille::store::image::ImageStore;
use reveille::store::image::import::{self, Format};
use reveille::store::layer::{LayerStore, Options};
use reveille::store::volume::{Base, Volume, VolumeSpec};
use reveille::store::{Durability, LayerId};

/// Bytes of a block of a layer.
pub const BLOCK: u64 = 4096;
/// Bytes of the disk.
pub const SIZE: u64 = 1 << 30;
/// Bytes of it, from its beginning, that are data; the rest is a hole.
pub const DATA: u64 = 64 << 20;

/// Pseudo-random numbers, the same each run.
pub struct Random(u64);

impl Random {
    pub const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub const fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}

/// Layers over one image.
pub struct Store {
    layers: LayerStore,
    image: Arc<dyn Base>,
    // Goes last: the others have files in it.
    _dir: tempfile::TempDir,
}

impl Store {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("reveille-bench-")
            .tempdir_in(std::env::var("CARGO_TARGET_TMPDIR").unwrap_or_else(|_| "target".into()))
            .unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()));
        let images = ImageStore::open(Arc::clone(&disk)).unwrap();
        let raw = dir.path().join("golden.raw");
        let mut file = std::fs::File::create(&raw).unwrap();
        let (mut random, mut chunk) = (Random::new(), vec![0; 65_536]);
        for _ in 0..DATA / 65_536 {
            for word in chunk.as_chunks_mut::<8>().0 {
                *word = random.below(u64::MAX).to_le_bytes();
            }
            file.write_all(&chunk).unwrap();
        }
        file.set_len(SIZE).unwrap();
        let mut source = import::open(&raw, "raw".parse::<Format>().unwrap()).unwrap();
        let done = images.import(&mut *source, &|_| {}, &AtomicBool::new(false));
        let image: Arc<dyn Base> = images.open_image(done.unwrap().id).unwrap();
        let (layers, _) = LayerStore::open_with(disk, [1; 16], Options::default()).unwrap();
        Self {
            layers,
            image,
            _dir: dir,
        }
    }

    /// The disk of a node that keeps what it writes.
    pub fn volume(&self, number: u32) -> Arc<Volume> {
        let spec = VolumeSpec {
            layer: LayerId(number),
            image: Arc::clone(&self.image),
            durability: Durability::Durable,
        };
        self.layers.volume(spec).unwrap()
    }
}
