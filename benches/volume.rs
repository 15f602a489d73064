//! What the store adds to a read or a write: `cargo bench --bench volume`.
//!
//! Reads of 4 KiB and 256 KiB that lie in the page cache, of the golden image and of a layer, by the two doors that
//! the server has (`try_read` on its own thread, `read` on the pool's); and writes of 4 KiB to a layer, over blocks
//! that it holds and over new ones, one by one and many at once.
#![allow(clippy::unwrap_used, reason = "a bench")]

#[path = "store/disk.rs"]
mod disk;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use disk::{BLOCK, DATA, Random, SIZE, Store};
use reveille::store::volume::Volume;
use reveille::units::ByteRange;

fn reads(c: &mut Criterion, name: &str, volume: &Volume) {
    let mut group = c.benchmark_group(format!("volume/{name}"));
    for (words, len) in [("4 KiB", BLOCK), ("256 KiB", 256 << 10)] {
        group.throughput(Throughput::Bytes(len));
        let mut random = Random::new();
        let mut anywhere = || {
            let at = random.below((DATA - len) / BLOCK) * BLOCK;
            ByteRange::new(at, len).unwrap()
        };
        for _ in 0..2 * DATA / BLOCK {
            black_box(volume.read(anywhere()).unwrap());
        }
        group.bench_function(format!("try_read/{words}"), |b| {
            b.iter(|| {
                let range = anywhere();
                // Where the medium's memory is short, what was warm may have gone.
                let warm = volume.try_read(range).unwrap();
                warm.unwrap_or_else(|| volume.read(range).unwrap())
            });
        });
        group.bench_function(format!("read/{words}"), |b| {
            b.iter(|| volume.read(anywhere()).unwrap());
        });
    }
    group.finish();
}

/// Writes of one go.
const AT_ONCE: u64 = MANY.len() as u64;
const MANY: [(); 16] = [(); 16];

fn writes(c: &mut Criterion, held: &Volume, fresh: &Volume) {
    let mut group = c.benchmark_group("volume/layer");
    group.throughput(Throughput::Bytes(BLOCK));
    let block = [0x5a; 4096];
    let mut random = Random::new();
    group.bench_function("write over held blocks/4 KiB", |b| {
        b.iter(|| {
            held.write(random.below(DATA / BLOCK) * BLOCK, &block)
                .unwrap();
        });
    });
    group.throughput(Throughput::Bytes(AT_ONCE * BLOCK));
    group.bench_function("16 writes at once over held blocks/4 KiB", |b| {
        b.iter(|| {
            let writes = MANY.map(|()| (random.below(DATA / BLOCK) * BLOCK, &block[..]));
            held.write_many(&writes)
        });
    });
    let mut next = 0;
    group.bench_function("16 writes at once of new blocks/4 KiB", |b| {
        b.iter(|| {
            // A run of more than the upper half goes over blocks that it holds.
            next = (next + AT_ONCE) % (SIZE / BLOCK / 2 / AT_ONCE * AT_ONCE);
            let mut at = SIZE / BLOCK / 2 + next;
            let writes = MANY.map(|()| {
                at += 1;
                ((at - 1) * BLOCK, &block[..])
            });
            fresh.write_many(&writes)
        });
    });
    group.throughput(Throughput::Bytes(BLOCK));
    let mut next = 0;
    group.bench_function("write of new blocks/4 KiB", |b| {
        b.iter(|| {
            fresh.write(next * BLOCK, &block).unwrap();
            // A run of more than a whole disk goes over blocks that it holds.
            next = (next + 1) % (SIZE / BLOCK / 2);
        });
    });
    group.finish();
}

fn volumes(c: &mut Criterion) {
    let store = Store::new();
    reads(c, "golden", &store.volume(0));
    let held = store.volume(1);
    for at in (0..DATA).step_by(1 << 20) {
        held.write(at, &vec![0x5a; 1 << 20]).unwrap();
    }
    held.flush().unwrap();
    reads(c, "layer", &held);
    writes(c, &held, &store.volume(2));
}

criterion_group!(benches, volumes);
criterion_main!(benches);
