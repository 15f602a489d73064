//! What a promotion costs against the bytes that changed: `cargo bench --bench promote`.
//!
//! A disk of 4 GiB, half of it data; 1, 16 and 256 MiB of it are changed by a layer, in runs of 1 MiB spread over
//! the disk; the store lies in a temporary directory (`REVEILLE_BENCH_DIR` names another place). Medians of five.
//! Beside it the time to import the whole disk as a raw file, which is what a promotion saves.
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use reveille::store::disk::Disk;
use reveille::store::disk_file::RealDisk;
use reveille::store::image::{ImageStore, LayerSource, import};
use reveille::store::layer::LayerStore;
use reveille::store::{Durability, ImageId, LayerId, VolumeSpec};

const MIB: u64 = 1 << 20;
const DISK: u64 = 4096 * MIB;
const ROUNDS: u64 = 5;

fn main() {
    let top = match std::env::var_os("REVEILLE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let store = top.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&store));
    let images = ImageStore::open(Arc::clone(&disk)).unwrap();
    let layers = LayerStore::open(Arc::clone(&disk), [1; 16]).unwrap().0;
    let raw = golden(top.path());
    let began = Instant::now();
    let base = take_in(&images, &raw);
    println!("import of the whole disk: {:?}", began.elapsed());
    println!("changed MiB | median | new MiB | worst");
    for changed in [0, 1, 16, 256] {
        let mut times: Vec<Duration> = Vec::new();
        let mut new = 0;
        for round in 0..ROUNDS {
            let layer = LayerId(u32::try_from(changed * ROUNDS + round + 1).unwrap());
            let image = images.open_image(base).unwrap();
            let spec = VolumeSpec {
                layer,
                image: Arc::clone(&image) as _,
                durability: Durability::Durable,
            };
            let volume = layers.volume(spec).unwrap();
            for n in 0..changed {
                let at = n * (DISK / MIB / changed) * MIB;
                volume
                    .write(at, &noise(changed << 32 | round << 24 | n))
                    .unwrap();
            }
            volume.flush().unwrap();
            let began = Instant::now();
            let mut source = LayerSource(layers.view(layer, image).unwrap());
            let done = images
                .import(&mut source, &|_| {}, &AtomicBool::new(false))
                .unwrap();
            times.push(began.elapsed());
            new = done.new_bytes / MIB;
            drop((source, volume));
            layers.remove(layer).unwrap();
            images.collect(&|id| id == base).unwrap();
        }
        times.sort_unstable();
        println!("{changed:>11} | {:?} | {new} | {:?}", times[2], times[4]);
    }
}

/// A mebibyte that no other seed gives.
fn noise(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(MIB).unwrap()];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn golden(top: &Path) -> PathBuf {
    let path = top.join("golden.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(DISK).unwrap();
    for n in 0..DISK / MIB / 2 {
        file.write_all_at(&noise(n), 2 * n * MIB).unwrap();
    }
    path
}

fn take_in(images: &ImageStore, raw: &Path) -> ImageId {
    let mut source = import::open(raw, import::Format::Raw).unwrap();
    let done = images.import(&mut *source, &|_| {}, &AtomicBool::new(false));
    done.unwrap().id
}
