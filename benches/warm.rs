//! What warm data is worth and costs: `cargo bench --bench warm`.
//!
//! A boot-like list of reads (runs of 1 to 16 chunks all over a disk, read in pieces of 4 to 64 KiB) is replayed by
//! 50 readers, each with a volume of its own over one image on the real file system: with nothing in memory, then with
//! the profile brought in first. Bytes of the medium are those of `/proc/self/io`. Then: what recording adds to a
//! read from memory, and what one round of touching costs. Medians of `ROUNDS` rounds.
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use reveille::store::disk::{Disk, File, OpenMode};
use reveille::store::disk_file::RealDisk;
use reveille::store::image::import::{self, Format};
use reveille::store::image::{Image, ImageStore, Recorded, Recorder, Touch};
use reveille::store::layer::{Boot, LayerStore, Options};
use reveille::store::volume::{Base, Volume, VolumeSpec};
use reveille::store::{Durability, ImageId, LayerId};
use reveille::units::ByteRange;

const READERS: u32 = 50;
const CHUNK: u64 = 65_536;
/// Chunks of the disk: 512 MiB.
const CHUNKS: u64 = 8192;
/// Chunks of the boot: 128 MiB.
const WANTED: usize = 2048;
const ROUNDS: usize = 5;

fn main() {
    let dir = tempfile::Builder::new()
        .prefix("reveille-warm-")
        .tempdir_in(std::env::var("CARGO_TARGET_TMPDIR").unwrap_or_else(|_| "target".into()))
        .unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()));
    let store = ImageStore::open(Arc::clone(&disk)).unwrap();
    let id = make_image(&store, &dir.path().join("golden.raw"));
    let image = store.open_image(id).unwrap();
    let boot = boot_list();
    println!(
        "{READERS} readers, a boot of {} chunks ({} MiB) out of {} MiB",
        boot.len(),
        (boot.len() as u64 * CHUNK) >> 20,
        (CHUNKS * CHUNK) >> 20
    );
    println!("| run | medium MiB | wall ms | read median us | p99 us |");
    println!("| --- | --- | --- | --- | --- |");
    for (name, prefetched) in [("cold", false), ("prefetched", true)] {
        let mut rounds: Vec<Figures> = (0..ROUNDS)
            .map(|_| {
                evict(&*disk);
                storm(&image, &boot, prefetched)
            })
            .collect();
        rounds.sort_by_key(|f| f.wall);
        let f = &rounds[ROUNDS / 2];
        println!(
            "| {name} | {} (+{} ahead in {} ms) | {} | {} | {} |",
            f.medium >> 20,
            f.ahead >> 20,
            f.ahead_time.as_millis(),
            f.wall.as_millis(),
            f.median.as_micros(),
            f.p99.as_micros()
        );
    }
    recording(&image);
    let start = Instant::now();
    let warm = image.count_warm(&boot);
    println!(
        "one round of touching {warm} chunks: {} ms",
        start.elapsed().as_millis()
    );
}

/// Pseudo-random numbers, the same each run.
fn random() -> impl FnMut(u64) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

fn make_image(store: &ImageStore, path: &Path) -> ImageId {
    let mut next = random();
    let mut file = std::fs::File::create(path).unwrap();
    let mut chunk = vec![0; 65_536];
    for _ in 0..CHUNKS {
        for word in chunk.as_chunks_mut::<8>().0 {
            *word = next(u64::MAX).to_le_bytes();
        }
        file.write_all(&chunk).unwrap();
    }
    drop(file);
    let mut source = import::open(path, "raw".parse::<Format>().unwrap()).unwrap();
    let done = store.import(&mut *source, &|_| {}, &AtomicBool::new(false));
    drop(source);
    std::fs::remove_file(path).unwrap();
    done.unwrap().id
}

fn boot_list() -> Vec<Touch> {
    let mut next = random();
    let mut seen = std::collections::HashSet::new();
    let mut list = Vec::new();
    while list.len() < WANTED {
        let first = next(CHUNKS - 16);
        for chunk in first..=first + next(16) {
            if seen.insert(chunk) && list.len() < WANTED {
                list.push(Touch {
                    chunk: u32::try_from(chunk).unwrap(),
                    ms: 0,
                });
            }
        }
    }
    list
}

/// Takes the packs out of memory.
fn evict(disk: &dyn Disk) {
    for name in disk.list("images/packs").unwrap() {
        let file: Arc<dyn File> = disk
            .open(&format!("images/packs/{name}"), OpenMode::Read)
            .unwrap();
        file.advise_unneeded(0, file.len().unwrap());
    }
}

fn medium_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("read_bytes: "));
    line.unwrap().parse().unwrap()
}

#[derive(Debug)]
struct Figures {
    wall: Duration,
    median: Duration,
    p99: Duration,
    medium: u64,
    ahead: u64,
    ahead_time: Duration,
}

fn storm(image: &Arc<Image>, boot: &[Touch], prefetched: bool) -> Figures {
    let before = medium_bytes();
    let start = Instant::now();
    if prefetched {
        bring_in(image, boot);
    }
    let (ahead, ahead_time) = (medium_bytes() - before, start.elapsed());
    let base: Arc<dyn Base> = Arc::clone(image) as Arc<dyn Base>;
    let volumes = volumes(&base, READERS);
    let gate = Barrier::new(volumes.len());
    let start = Instant::now();
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let gate = &gate;
        let begin = |volume: &'_ Arc<Volume>| {
            let volume = Arc::clone(volume);
            scope.spawn(move || {
                gate.wait();
                replay(&volume, boot)
            })
        };
        let readers: Vec<_> = volumes.iter().map(begin).collect();
        readers
            .into_iter()
            .flat_map(|r| r.join().unwrap())
            .collect()
    });
    let wall = start.elapsed();
    times.sort_unstable();
    Figures {
        wall,
        median: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
        medium: medium_bytes() - before - ahead,
        ahead,
        ahead_time,
    }
}

/// As the head does: windows in the order of the disk, two reads at a time.
fn bring_in(image: &Image, boot: &[Touch]) {
    let mut boot = boot.to_vec();
    for window in boot.chunks_mut(512) {
        window.sort_unstable_by_key(|t| t.chunk);
    }
    let half = boot.len() / 2;
    thread::scope(|scope| {
        for part in [&boot[..half], &boot[half..]] {
            scope.spawn(move || {
                let mut at = 0;
                while at < part.len() {
                    at += image.fetch(&part[at..]).unwrap();
                }
            });
        }
    });
}

fn volumes(base: &Arc<dyn Base>, count: u32) -> Vec<Arc<Volume>> {
    let layers = reveille::store::disk_memory::MemoryDisk::default();
    let (layers, _) =
        LayerStore::open_with(Arc::new(layers), Boot::default(), Options::default()).unwrap();
    let open = |number: u32| {
        let spec = VolumeSpec {
            layer: LayerId(number),
            image: Arc::clone(base),
            durability: Durability::Volatile,
        };
        layers.volume(spec).unwrap()
    };
    (1..=count).map(open).collect()
}

fn replay(volume: &Volume, boot: &[Touch]) -> Vec<Duration> {
    let mut times = Vec::with_capacity(boot.len() * 2);
    let mut next = random();
    for touch in boot {
        let mut at = 0;
        while at < CHUNK {
            let len = (4096 << next(5)).min(CHUNK - at);
            let range = ByteRange::new(u64::from(touch.chunk) * CHUNK + at, len).unwrap();
            let start = Instant::now();
            let payload = match volume.try_read(range).unwrap() {
                Some(warm) => warm,
                None => volume.read(range).unwrap(),
            };
            times.push(start.elapsed());
            black_box(payload.len());
            at += len;
        }
    }
    times
}

/// Reads of 4 KiB from memory, with a recording and without, in turns.
fn recording(image: &Arc<Image>) {
    let plain: Arc<dyn Base> = Arc::clone(image) as Arc<dyn Base>;
    let recorded: Arc<dyn Base> = Arc::new(Recorded {
        image: Arc::clone(image),
        recorder: Arc::new(Recorder::new(image.chunk_count()).unwrap()),
    });
    let run = |base: &Arc<dyn Base>| {
        let volume = volumes(base, 1).remove(0);
        let span = 64 << 20;
        let pass = || {
            let start = Instant::now();
            for at in (0..span).step_by(4096) {
                let range = ByteRange::new(at, 4096).unwrap();
                let payload = volume.try_read(range).unwrap();
                black_box(payload.map_or_else(|| volume.read(range).unwrap().len(), |p| p.len()));
            }
            start.elapsed().as_nanos() as f64 / (span / 4096) as f64
        };
        pass();
        let mut times: Vec<f64> = (0..15).map(|_| pass()).collect();
        times.sort_by(f64::total_cmp);
        times[7]
    };
    let figures: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (run(&plain), run(&recorded))).collect();
    for (plain, recorded) in figures {
        println!("4 KiB from memory: {plain:.0} ns, while recorded {recorded:.0} ns");
    }
}
