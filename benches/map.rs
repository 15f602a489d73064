//! Who owns a range of a layered disk: `cargo bench --bench map`.
//!
//! `Volume::extent` asks the layer's map, behind its own lock, as every read does first. A disk of 1 GiB: its layer
//! empty; with one block in 64 of its own; with every block its own; with every other block a hole, the worst there is.
#![allow(clippy::unwrap_used, reason = "a bench")]

#[path = "store/disk.rs"]
mod disk;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use disk::{BLOCK, Random, SIZE, Store};
use reveille::store::volume::Volume;
use reveille::units::ByteRange;

/// Blocks of the disk.
const BLOCKS: u64 = SIZE / BLOCK;

fn unmap(volume: &Volume, block: u64, blocks: u64) {
    let range = ByteRange::new(block * BLOCK, blocks * BLOCK).unwrap();
    volume.unmap(range).unwrap();
}

/// Asks about a place anywhere, `len` bytes long.
fn ask(c: &mut Criterion, name: &str, volume: &Volume) {
    for (words, len) in [
        ("4 KiB", BLOCK),
        ("256 KiB", 256 << 10),
        ("64 MiB", 64 << 20),
    ] {
        let mut random = Random::new();
        c.bench_function(&format!("map/{name}/{words}"), |b| {
            b.iter(|| {
                let at = random.below((SIZE - len) / BLOCK) * BLOCK;
                volume.extent(black_box(at), len).unwrap()
            });
        });
    }
}

fn lookups(c: &mut Criterion) {
    let store = Store::new();
    ask(c, "empty", &store.volume(0));
    let sparse = store.volume(1);
    for block in (0..BLOCKS).step_by(64) {
        sparse.write(block * BLOCK, &[7; 4096]).unwrap();
    }
    ask(c, "sparse", &sparse);
    let dense = store.volume(2);
    unmap(&dense, 0, BLOCKS);
    ask(c, "dense", &dense);
    let worst = store.volume(3);
    for block in (0..BLOCKS).step_by(2) {
        unmap(&worst, block, 1);
    }
    ask(c, "every other", &worst);
}

criterion_group!(benches, lookups);
criterion_main!(benches);
