//! What a PDU costs before anyone knows what it means: `cargo bench --bench pdu`.
//!
//! Headers read and written, alone and with digests, and a batch as it lies in a receive buffer: 32 READ commands, or
//! the 32 answers of 4 KiB to them.
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use reveille::iscsi::frame::{Decoder, Encoder, Headed};
use reveille::iscsi::params::Negotiated;
use reveille::iscsi::pdu::{Bhs, op};

const BATCH: u32 = 32;

fn rules(digests: bool) -> (Encoder, Decoder) {
    let agreed = Negotiated {
        header_digest: digests,
        data_digest: digests,
        ..Negotiated::default()
    };
    (
        Encoder::full_feature(&agreed),
        Decoder::full_feature(&agreed),
    )
}

/// READ(10) of 4 KiB.
fn read_command(number: u32) -> Bhs {
    let mut bhs = Bhs::new(op::SCSI_COMMAND);
    bhs.put_u8(1, 0xc1);
    bhs.put_u32(16, number);
    bhs.put_u32(20, 4096);
    bhs.put_u32(24, number);
    bhs.put_u8(32, 0x28);
    bhs.put_u32(34, number * 8);
    bhs.put_u16(39, 8);
    bhs
}

/// The last and only Data-In of it, with status.
fn data_in(number: u32) -> Bhs {
    let mut bhs = Bhs::new(op::DATA_IN);
    bhs.put_u8(1, 0x81);
    bhs.put_u32(16, number);
    bhs.put_sequence(number, number, number + 128);
    bhs
}

/// Walks over all PDUs of a buffer, as the receive buffer does; how many.
fn walk(decoder: &Decoder, mut bytes: &[u8]) -> u32 {
    let mut found = 0;
    while let Ok(Headed::Ready(head)) = decoder.head(bytes) {
        let data = &bytes[head.data()];
        assert!(head.is_intact(data, &bytes[head.data().end..head.total()]));
        black_box((head.bhs.itt(), data.len()));
        bytes = &bytes[head.total()..];
        found += 1;
    }
    found
}

fn headers(c: &mut Criterion) {
    for (name, digests) in [("plain", false), ("digests", true)] {
        let (encoder, decoder) = rules(digests);
        let bhs = read_command(7);
        let wire = encoder.header(&bhs);
        c.bench_function(&format!("pdu/header/encode/{name}"), |b| {
            b.iter(|| encoder.header(black_box(&bhs)));
        });
        c.bench_function(&format!("pdu/header/decode/{name}"), |b| {
            b.iter(|| decoder.head(black_box(&wire)).unwrap());
        });
    }
}

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("pdu/32 READ commands");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    for (name, digests) in [("plain", false), ("digests", true)] {
        let (encoder, decoder) = rules(digests);
        let mut wire = Vec::new();
        group.bench_function(format!("encode/{name}"), |b| {
            b.iter(|| {
                wire.clear();
                for number in 0..BATCH {
                    encoder.pdu(read_command(number), &[], &[], &mut wire);
                }
                wire.len()
            });
        });
        wire.clear();
        for number in 0..BATCH {
            encoder.pdu(read_command(number), &[], &[], &mut wire);
        }
        group.bench_function(format!("decode/{name}"), |b| {
            b.iter(|| assert_eq!(walk(&decoder, black_box(&wire)), BATCH));
        });
    }
    group.finish();
}

fn answers(c: &mut Criterion) {
    let data = vec![0xa5; 4096];
    let mut group = c.benchmark_group("pdu/32 Data-In of 4 KiB");
    group.throughput(Throughput::Bytes(u64::from(BATCH) * 4096));
    for (name, digests) in [("plain", false), ("digests", true)] {
        let (encoder, decoder) = rules(digests);
        // The target sends headers and trailers around data that stays where it is.
        group.bench_function(format!("encode around/{name}"), |b| {
            b.iter(|| {
                for number in 0..BATCH {
                    let mut bhs = data_in(number);
                    bhs.set_data_len(4096);
                    black_box(encoder.header(&bhs));
                    black_box(encoder.trailer(data.len(), [data.as_slice()]));
                }
            });
        });
        let mut wire = Vec::new();
        for number in 0..BATCH {
            encoder.pdu(data_in(number), &[], &data, &mut wire);
        }
        group.bench_function(format!("decode/{name}"), |b| {
            b.iter(|| assert_eq!(walk(&decoder, black_box(&wire)), BATCH));
        });
    }
    group.finish();
}

criterion_group!(benches, headers, commands, answers);
criterion_main!(benches);
