//! CRC32C as iSCSI's digests need it: `cargo bench --bench digest`. A header, a small and a large read, in one piece
//! and as it comes in pieces of a chunk.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reveille::iscsi::frame::Encoder;

const SIZES: [(&str, usize); 3] = [("48 B", 48), ("4 KiB", 4 << 10), ("256 KiB", 256 << 10)];

fn digests(c: &mut Criterion) {
    let bytes: Vec<u8> = (0..=250).cycle().take(256 << 10).collect();
    let encoder = Encoder {
        header_digest: true,
        data_digest: true,
    };
    let mut group = c.benchmark_group("digest");
    for (name, len) in SIZES {
        let Some(data) = bytes.get(..len) else {
            continue;
        };
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("crc32c/{name}"), |b| {
            b.iter(|| crc32c::crc32c(black_box(data)));
        });
        group.bench_function(format!("trailer in pieces of 64 KiB/{name}"), |b| {
            b.iter(|| encoder.trailer(len, black_box(data).chunks(64 << 10)));
        });
    }
    group.finish();
}

criterion_group!(benches, digests);
criterion_main!(benches);
