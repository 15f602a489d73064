//! READ, WRITE, VERIFY, WRITE AND VERIFY, COMPARE AND WRITE, ORWRITE, PRE-FETCH, SYNCHRONIZE CACHE.

use super::*;

fn bytes(offset: u64, len: u64) -> ByteRange {
    ByteRange::new(offset, len).unwrap()
}

/// The same command in all the forms it has.
fn forms(six: Option<u8>, ten: u8, twelve: u8, sixteen: u8, lba: u32, n: u8) -> Vec<Vec<u8>> {
    let mut all = vec![
        cdb10(ten, 0, lba, n.into()).to_vec(),
        cdb12(twelve, 0, lba, n.into()).to_vec(),
        cdb16(sixteen, 0, lba.into(), n.into()).to_vec(),
    ];
    if let Some(six) = six {
        let [_, a, b, c] = lba.to_be_bytes();
        all.push(vec![six, a, b, c, n, 0]);
    }
    all
}

#[test]
fn every_form_of_read_returns_what_every_form_of_write_wrote() {
    for write in forms(Some(0x0A), 0x2A, 0xAA, 0x8A, 5, 3) {
        let mut bench = Bench::new();
        let data = pattern(3 * 512);
        bench.good_out(&write, &data);
        assert_eq!(
            *bench.last_op(),
            BlockOp::Write {
                range: bytes(5 * 512, 3 * 512),
                fua: false
            }
        );
        for read in forms(Some(0x08), 0x28, 0xA8, 0x88, 5, 3) {
            assert_eq!(bench.good(&read), data, "{write:02x?} {read:02x?}");
        }
    }
}

#[test]
fn write_asks_for_exactly_its_blocks() {
    let mut bench = Bench::new();
    let step = bench.lu.begin(A, &cdb10(0x2A, 0, 0, 7));
    assert_eq!(
        step,
        Step::Data {
            len: 7 * 512,
            exact: false
        }
    );
}

#[test]
fn zero_means_256_blocks_in_the_six_byte_forms() {
    let mut bench = Bench::new();
    assert_eq!(bench.good(&[0x08, 0, 0, 0, 0, 0]).len(), 256 * 512);
    let step = bench.lu.begin(A, &[0x0A, 0, 0, 0, 0, 0]);
    assert_eq!(
        step,
        Step::Data {
            len: 256 * 512,
            exact: false
        }
    );
}

#[test]
fn the_last_block_is_served_and_the_next_is_not() {
    let mut bench = Bench::new();
    let last = u32::try_from(BLOCKS).unwrap() - 1;
    let pairs = [
        forms(Some(0x08), 0x28, 0xA8, 0x88, last, 1)
            .into_iter()
            .zip(forms(Some(0x08), 0x28, 0xA8, 0x88, last, 2)),
        forms(None, 0x2F, 0xAF, 0x8F, last, 1)
            .into_iter()
            .zip(forms(None, 0x2F, 0xAF, 0x8F, last, 2)),
    ];
    for (inside, outside) in pairs.into_iter().flatten() {
        bench.good(&inside);
        assert_eq!(bench.bad(&outside), OUT_OF_RANGE, "{outside:02x?}");
    }
    for outside in forms(Some(0x0A), 0x2A, 0xAA, 0x8A, last, 2) {
        assert_eq!(bench.bad(&outside), OUT_OF_RANGE);
    }
}

#[test]
fn zero_blocks_are_good_up_to_the_end_and_not_beyond() {
    let mut bench = Bench::new();
    let end = u32::try_from(BLOCKS).unwrap();
    let opcodes = [
        (0x28, 0xA8, 0x88),
        (0x2A, 0xAA, 0x8A),
        (0x2E, 0xAE, 0x8E),
        (0x2F, 0xAF, 0x8F),
    ];
    for (ten, twelve, sixteen) in opcodes {
        for at in [0, end] {
            for cdb in forms(None, ten, twelve, sixteen, at, 0) {
                assert!(bench.good(&cdb).is_empty());
            }
        }
        for at in [end + 1, u32::MAX] {
            for cdb in forms(None, ten, twelve, sixteen, at, 0) {
                assert_eq!(bench.bad(&cdb), OUT_OF_RANGE);
            }
        }
        assert_eq!(bench.bad(&cdb16(sixteen, 0, u64::MAX, 0)), OUT_OF_RANGE);
    }
    assert!(bench.ops.is_empty());
}

#[test]
fn addresses_near_two_to_the_64_do_not_wrap() {
    let mut bench = Bench::new();
    for opcode in [0x88, 0x8A, 0x8B, 0x8E, 0x8F, 0x90, 0x91, 0x93] {
        for (lba, n) in [
            (u64::MAX, 1),
            (u64::MAX, u32::MAX),
            (1 << 55, 1),
            (u64::MAX - 3, 8),
        ] {
            assert_eq!(
                bench.bad(&cdb16(opcode, 0, lba, n)),
                OUT_OF_RANGE,
                "{opcode:02x}"
            );
        }
    }
}

#[test]
fn protection_information_is_refused() {
    let mut bench = Bench::new();
    for protect in 1..8 {
        for opcode in [0x28, 0x2A, 0x2E, 0x2F, 0x41] {
            assert_eq!(bench.bad(&cdb10(opcode, protect << 5, 0, 1)), ILLEGAL_FIELD);
        }
        for opcode in [0xA8, 0xAA, 0xAE, 0xAF] {
            assert_eq!(bench.bad(&cdb12(opcode, protect << 5, 0, 1)), ILLEGAL_FIELD);
        }
        for opcode in [0x88, 0x89, 0x8A, 0x8B, 0x8E, 0x8F, 0x93] {
            assert_eq!(bench.bad(&cdb16(opcode, protect << 5, 0, 1)), ILLEGAL_FIELD);
        }
    }
}

#[test]
fn dpo_and_fua_are_accepted_and_fua_reaches_the_volume() {
    let mut bench = Bench::new();
    for flags in [0x08, 0x10, 0x18] {
        bench.good(&cdb10(0x28, flags, 0, 1));
        bench.good_out(&cdb10(0x2A, flags, 0, 1), &[1; 512]);
        let fua = flags & 0x08 != 0;
        assert_eq!(
            *bench.last_op(),
            BlockOp::Write {
                range: bytes(0, 512),
                fua
            }
        );
        bench.good_out(&cdb16(0x8B, flags, 0, 1), &[1; 512]);
        assert_eq!(
            *bench.last_op(),
            BlockOp::OrWrite {
                range: bytes(0, 512),
                fua
            }
        );
    }
}

#[test]
fn without_a_write_cache_every_change_is_forced_to_the_medium() {
    let mut bench = Bench::with(LuConfig {
        write_back: false,
        ..config()
    });
    let mut unmap = [0; 24];
    unmap[3] = 16;
    unmap[19] = 8;
    bench.good_out(&[0x0A, 0, 0, 0, 1, 0], &[1; 512]);
    bench.good_out(&cdb10(0x2A, 0, 0, 1), &[1; 512]);
    bench.good_out(&cdb16(0x8B, 0, 0, 1), &[1; 512]);
    bench.good_out(&cdb10(0x41, 0, 0, 1), &[1; 512]);
    let mut swap = cdb16(0x89, 0, 0, 0);
    swap[13] = 1;
    bench.good_out(&swap, &[1; 1024]);
    bench.good_out(&cdb10(0x42, 0, 0, 24), &unmap);
    for op in &bench.ops {
        assert!(format!("{op:?}").contains("fua: true"), "{op:?}");
    }
    assert_eq!(bench.ops.len(), 6);
}

#[test]
fn a_shorter_data_out_writes_the_sectors_that_came() {
    let mut bench = Bench::new();
    bench.good_out(&cdb10(0x2A, 0, 0, 2), &[9; 512]);
    assert_eq!(bench.disk[..1024], [[9; 512], [0; 512]].concat());
    bench.good_out(&cdb10(0x2A, 0, 4, 2), &[]);
    assert_eq!(bench.ops.len(), 1);
}

#[test]
fn a_torn_sector_is_refused_and_nothing_is_written() {
    for cdb in [
        cdb10(0x2A, 0, 0, 1),
        cdb10(0x2E, 0, 0, 1),
        cdb10(0x2E, 2, 0, 2),
    ] {
        for len in [1, 200, 511] {
            let mut bench = Bench::new();
            assert_eq!(bench.bad_out(&cdb, &vec![9; len]), (5, 0x0E, 3));
            assert!(bench.ops.is_empty());
        }
    }
}

#[test]
fn transfers_beyond_the_limit_are_refused_and_the_largest_of_firmware_is_served() {
    let mut bench = Bench::with(LuConfig {
        size_bytes: 1 << 40,
        ..config()
    });
    let largest = bench.lu.begin(A, &cdb10(0x28, 0, 0, 65_535));
    assert_eq!(largest, Step::Run(BlockOp::Read(bytes(0, 65_535 * 512))));
    assert!(matches!(
        bench.lu.begin(A, &cdb16(0x88, 0, 0, 65_536)),
        Step::Run(_)
    ));
    for opcode in [0x88, 0x8A, 0x8B, 0x8E] {
        let Step::Reply(reply) = bench.lu.begin(A, &cdb16(opcode, 0, 0, 65_537)) else {
            panic!("{opcode:02x} runs");
        };
        assert_eq!(code(&reply), ILLEGAL_FIELD);
    }
    // VERIFY without data moves nothing and has no limit.
    assert!(matches!(
        bench.lu.begin(A, &cdb16(0x8F, 0, 0, 1 << 30)),
        Step::Reply(Reply {
            status: status::GOOD,
            ..
        })
    ));
}

#[test]
fn verify_compares_only_when_asked() {
    let mut bench = Bench::new();
    bench.good_out(&cdb10(0x2A, 0, 8, 2), &pattern(1024));
    for (opcode, flags) in [(0x2F, 0x00), (0x2F, 0x10)] {
        bench.good_out(&cdb10(opcode, flags, 8, 2), &[0xFF; 1024]);
    }
    bench.good_out(&cdb10(0x2F, 0x02, 8, 2), &pattern(1024));
    bench.good_out(&cdb12(0xAF, 0x02, 8, 2), &pattern(1024));
    bench.good_out(&cdb16(0x8F, 0x02, 8, 2), &pattern(1024));
    let mut other = pattern(1024);
    other[700] ^= 1;
    let reply = bench.run(A, &cdb16(0x8F, 0x02, 8, 2), &other);
    assert_eq!(code(&reply), (0x0E, 0x1D, 0));
    assert_eq!(
        reply.sense.unwrap().as_slice()[..7],
        [0xF0, 0, 0x0E, 0, 0, 0x02, 0xBC]
    );
}

#[test]
fn byte_check_3_compares_one_sector_with_all() {
    let mut bench = Bench::new();
    bench.good_out(&cdb10(0x2A, 0, 0, 4), &[7; 2048]);
    let step = bench.lu.begin(A, &cdb10(0x2F, 0x06, 0, 4));
    assert_eq!(
        step,
        Step::Data {
            len: 512,
            exact: false
        }
    );
    bench.good_out(&cdb10(0x2F, 0x06, 0, 4), &[7; 512]);
    assert_eq!(
        bench.bad_out(&cdb10(0x2F, 0x06, 0, 5), &[7; 512]),
        (0x0E, 0x1D, 0)
    );
    assert_eq!(
        bench.bad_out(&cdb10(0x2F, 0x06, 0, 4), &[7; 100]),
        (5, 0x0E, 3)
    );
}

#[test]
fn byte_check_2_is_reserved() {
    let mut bench = Bench::new();
    assert_eq!(bench.bad(&cdb10(0x2F, 0x04, 0, 1)), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&cdb10(0x2E, 0x04, 0, 1)), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&cdb16(0x8E, 0x06, 0, 1)), ILLEGAL_FIELD);
}

#[test]
fn write_and_verify_goes_to_the_medium() {
    let mut bench = Bench::new();
    bench.good_out(&cdb10(0x2E, 0, 0, 1), &[1; 512]);
    assert_eq!(
        *bench.last_op(),
        BlockOp::Write {
            range: bytes(0, 512),
            fua: true
        }
    );
    bench.good_out(&cdb12(0xAE, 0x02, 1, 1), &[2; 512]);
    assert_eq!(
        *bench.last_op(),
        BlockOp::WriteCompare {
            range: bytes(512, 512)
        }
    );
    assert_eq!(bench.disk[..1024], [[1; 512], [2; 512]].concat());
}

fn swap(lba: u64, n: u8) -> [u8; 16] {
    let mut cdb = cdb16(0x89, 0, lba, 0);
    cdb[13] = n;
    cdb
}

#[test]
fn compare_and_write_writes_only_over_what_was_expected() {
    let mut bench = Bench::new();
    let step = bench.lu.begin(A, &swap(2, 2));
    assert_eq!(
        step,
        Step::Data {
            len: 2048,
            exact: true
        }
    );
    bench.good_out(&swap(2, 2), &[[0; 1024], [5; 1024]].concat());
    assert_eq!(bench.disk[1024..2048], [5; 1024]);

    let mut wrong = [[5; 1024], [6; 1024]].concat();
    wrong[1023] = 4;
    let reply = bench.run(A, &swap(2, 2), &wrong);
    assert_eq!(code(&reply), (0x0E, 0x1D, 0));
    assert_eq!(reply.sense.unwrap().as_slice()[3..7], [0, 0, 3, 0xFF]);
    assert_eq!(bench.disk[1024..2048], [5; 1024]);
}

#[test]
fn compare_and_write_wants_exactly_two_halves() {
    let mut bench = Bench::new();
    for len in [0, 512, 1023, 1025, 2048] {
        assert_eq!(bench.bad_out(&swap(0, 1), &vec![0; len]), ILLEGAL_FIELD);
    }
    bench.good_out(&swap(0, 0), &[]);
    // 256 blocks: the field wraps to zero, the data does not.
    assert_eq!(bench.bad_out(&swap(0, 0), &[0; 512]), ILLEGAL_FIELD);
    assert_eq!(
        bench.bad_out(&swap(BLOCKS - 1, 2), &[0; 2048]),
        OUT_OF_RANGE
    );
    assert!(bench.ops.is_empty());
}

#[test]
fn orwrite_sets_bits() {
    let mut bench = Bench::new();
    bench.good_out(&cdb16(0x8A, 0, 0, 1), &[0x0F; 512]);
    bench.good_out(&cdb16(0x8B, 0, 0, 1), &[0xF0; 512]);
    assert_eq!(bench.disk[..512], [0xFF; 512]);
}

#[test]
fn prefetch_checks_its_range() {
    let mut bench = Bench::new();
    let end = u32::try_from(BLOCKS).unwrap();
    for flags in [0, 2] {
        bench.good(&cdb10(0x34, flags, 0, 8));
        bench.good(&cdb16(0x90, flags, 0, 8));
        bench.good(&cdb10(0x34, flags, end, 0));
        assert_eq!(bench.bad(&cdb10(0x34, flags, end, 1)), OUT_OF_RANGE);
        assert_eq!(
            bench.bad(&cdb16(0x90, flags, u64::from(end) + 1, 0)),
            OUT_OF_RANGE
        );
    }
}

#[test]
fn synchronize_cache_flushes_even_with_immed() {
    let mut bench = Bench::new();
    for cdb in [cdb10(0x35, 0, 0, 0), cdb10(0x35, 2, 8, 8)] {
        bench.good(&cdb);
        assert_eq!(*bench.last_op(), BlockOp::Flush);
    }
    bench.good(&cdb16(0x91, 2, 0, 0));
    assert_eq!(bench.ops.len(), 3);
    assert_eq!(bench.bad(&cdb16(0x91, 0, BLOCKS, 1)), OUT_OF_RANGE);
}

#[test]
fn failures_of_the_volume_have_their_sense() {
    let mut bench = Bench::new();
    let cdb = cdb10(0x2A, 0, 0, 1);
    let table = [
        (Failure::OutOfSpace, (7, 0x27, 7)),
        (Failure::MediumRead, (3, 0x11, 0)),
        (Failure::MediumWrite, (3, 0x0C, 0)),
        (Failure::Corrupt, (3, 0x11, 0)),
        (Failure::Internal, (0x0B, 0x44, 0)),
        (Failure::Fenced, (0x0B, 0, 0)),
        (Failure::Aborted, (0x0B, 0, 0)),
        (Failure::NotReady, (2, 4, 1)),
    ];
    for (failure, sense) in table {
        let reply = bench.lu.done(A, &cdb, Outcome::Failed(failure));
        assert_eq!(code(&reply), sense);
    }
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let mut bench = Bench::with(LuConfig {
        traits: Traits {
            read_only: true,
            ..Traits::default()
        },
        ..config()
    });
    let mut all = vec![
        swap(0, 1).to_vec(),
        vec![0x0A, 0, 0, 0, 1, 0],
        cdb10(0x42, 0, 0, 24).to_vec(),
    ];
    for opcode in [0x2A, 0x2E, 0x41] {
        all.push(cdb10(opcode, 0, 0, 1).to_vec());
    }
    for opcode in [0xAA, 0xAE] {
        all.push(cdb12(opcode, 0, 0, 1).to_vec());
    }
    for opcode in [0x8A, 0x8B, 0x8E, 0x93] {
        all.push(cdb16(opcode, 0, 0, 1).to_vec());
    }
    for cdb in &all {
        assert_eq!(bench.bad(cdb), (7, 0x27, 0), "{cdb:02x?}");
    }
    bench.good(&cdb10(0x28, 0, 0, 1));
    bench.good(&cdb10(0x35, 0, 0, 0));
    assert_eq!(bench.good(&[0x1A, 0x08, 0x3F, 0, 255, 0])[2], 0x90);
}
