//! UNMAP, WRITE SAME, GET LBA STATUS.

use super::*;

fn unmap_list(runs: &[(u64, u32)]) -> Vec<u8> {
    let len = u16::try_from(runs.len() * 16).unwrap();
    let mut list = (len + 6).to_be_bytes().to_vec();
    list.extend_from_slice(&len.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    for (lba, blocks) in runs {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    list
}

fn unmap(bench: &mut Bench, list: &[u8]) -> Reply {
    let len = u16::try_from(list.len()).unwrap();
    bench.run(A, &cdb10(0x42, 0, 0, len), list)
}

/// The descriptors of GET LBA STATUS: (LBA, blocks, state).
fn lba_status(bench: &mut Bench, lba: u64, alloc: u32) -> Vec<(u64, u32, u8)> {
    let data = bench.good(&cdb16(0x9E, 0x12, lba, alloc));
    let runs = data.get(8..).unwrap_or(&[]).chunks_exact(16);
    let run = |bytes: &[u8]| {
        let lba = u64::from_be_bytes(bytes[..8].try_into().unwrap());
        (
            lba,
            u32::from_be_bytes(bytes[8..12].try_into().unwrap()),
            bytes[12],
        )
    };
    runs.map(run).collect()
}

#[test]
fn unmap_frees_all_its_ranges() {
    let mut bench = Bench::new();
    bench.good_out(&cdb10(0x2A, 0, 0, 64), &[1; 64 * 512]);
    let reply = unmap(
        &mut bench,
        &unmap_list(&[(0, 8), (16, 8), (20, 4), (BLOCKS, 0)]),
    );
    assert_eq!(reply.status, status::GOOD);
    let range = |lba, n| ByteRange::of_sectors(lba, n).unwrap();
    assert_eq!(
        *bench.last_op(),
        BlockOp::Unmap {
            ranges: vec![range(0, 8), range(16, 8), range(20, 4)],
            fua: false
        }
    );
    let states = lba_status(&mut bench, 0, 1000);
    assert_eq!(states[..4], [(0, 8, 1), (8, 8, 0), (16, 8, 1), (24, 40, 0)]);
}

#[test]
fn unmap_of_nothing_is_good() {
    let mut bench = Bench::new();
    bench.good(&cdb10(0x42, 0, 0, 0));
    assert_eq!(unmap(&mut bench, &unmap_list(&[])).status, status::GOOD);
    assert_eq!(
        unmap(&mut bench, &unmap_list(&[(0, 0), (BLOCKS, 0)])).status,
        status::GOOD
    );
    assert!(bench.ops.is_empty());
}

#[test]
fn one_range_outside_the_disk_stops_all_of_an_unmap() {
    let mut bench = Bench::new();
    for bad in [(BLOCKS, 1), (BLOCKS + 1, 0), (u64::MAX, 1), (0, u32::MAX)] {
        let reply = unmap(&mut bench, &unmap_list(&[(0, 8), bad]));
        assert_eq!(code(&reply), OUT_OF_RANGE);
    }
    assert!(bench.ops.is_empty());
}

#[test]
fn unmap_beyond_its_limits_is_refused() {
    let mut bench = Bench::with(LuConfig {
        size_bytes: 1 << 40,
        ..config()
    });
    let reply = unmap(&mut bench, &unmap_list(&[(0, 1 << 19), (0, (1 << 19) + 1)]));
    assert_eq!(code(&reply), LIST_FIELD);
    assert_eq!(
        code(&unmap(&mut bench, &unmap_list(&[(0, 1); 257]))),
        LIST_FIELD
    );
    let mut bench = Bench::new();
    assert_eq!(
        unmap(&mut bench, &unmap_list(&[(0, 1); 256])).status,
        status::GOOD
    );
}

#[test]
fn anchored_unmap_is_refused() {
    assert_eq!(Bench::new().bad(&cdb10(0x42, 1, 0, 24)), ILLEGAL_FIELD);
}

#[test]
fn unmap_lists_cut_anywhere_are_refused() {
    let list = unmap_list(&[(0, 8), (16, 8)]);
    for cut in 1..list.len() {
        let mut bench = Bench::new();
        assert_eq!(code(&unmap(&mut bench, &list[..cut])), LIST_LENGTH, "{cut}");
        let len = u16::try_from(list.len()).unwrap();
        assert_eq!(
            bench.bad_out(&cdb10(0x42, 0, 0, len), &list[..cut]),
            LIST_LENGTH
        );
        assert!(bench.ops.is_empty());
    }
}

#[test]
fn a_tail_that_is_no_descriptor_is_ignored() {
    let mut bench = Bench::new();
    let mut list = unmap_list(&[(0, 8)]);
    list[3] += 7;
    list.extend_from_slice(&[0xFF; 7]);
    assert_eq!(unmap(&mut bench, &list).status, status::GOOD);
}

#[test]
fn write_same_fills_with_one_sector() {
    for cdb in [cdb10(0x41, 0, 4, 8).to_vec(), cdb16(0x93, 0, 4, 8).to_vec()] {
        let mut bench = Bench::new();
        let step = bench.lu.begin(A, &cdb);
        assert_eq!(
            step,
            Step::Data {
                len: 512,
                exact: true
            }
        );
        bench.good_out(&cdb, &pattern(512));
        assert_eq!(bench.disk[4 * 512..12 * 512], pattern(512).repeat(8));
    }
}

#[test]
fn write_same_of_zeros_may_give_space_back() {
    for flags in [0x00, 0x08] {
        let mut bench = Bench::new();
        bench.good_out(&cdb10(0x2A, 0, 0, 16), &[1; 16 * 512]);
        bench.good_out(&cdb16(0x93, flags, 0, 8), &[0; 512]);
        assert!(matches!(
            bench.last_op(),
            BlockOp::WriteSame { pattern: None, .. }
        ));
        assert_eq!(lba_status(&mut bench, 0, 24), [(0, 8, 1)]);
    }
}

#[test]
fn write_same_with_unmap_and_a_pattern_writes_the_pattern() {
    let mut bench = Bench::new();
    bench.good_out(&cdb10(0x41, 0x08, 0, 2), &[3; 512]);
    assert_eq!(bench.disk[..1024], [3; 1024]);
}

#[test]
fn ndob_takes_no_data() {
    let mut bench = Bench::new();
    bench.good_out(&cdb10(0x2A, 0, 0, 8), &[1; 8 * 512]);
    bench.good(&cdb16(0x93, 0x01, 0, 8));
    assert_eq!(bench.disk[..4096], [0; 4096]);
    bench.good(&cdb16(0x93, 0x09, 0, 8));
    assert_eq!(
        bench.bad(&cdb10(0x41, 0x01, 0, 8)),
        ILLEGAL_FIELD,
        "not in the 10-byte form"
    );
}

#[test]
fn write_same_checks_flags_counts_and_data() {
    let mut bench = Bench::new();
    for flags in [0x10, 0x18, 0x02, 0x04] {
        assert_eq!(bench.bad(&cdb10(0x41, flags, 0, 1)), ILLEGAL_FIELD);
        assert_eq!(bench.bad(&cdb16(0x93, flags, 0, 1)), ILLEGAL_FIELD);
    }
    assert_eq!(bench.bad(&cdb16(0x93, 0, 0, 0)), ILLEGAL_FIELD, "no data");
    assert_eq!(bench.bad(&cdb16(0x93, 0, BLOCKS, 1)), OUT_OF_RANGE);
    for len in [0, 256, 511, 513, 1024] {
        assert_eq!(
            bench.bad_out(&cdb10(0x41, 0x08, 0, 1), &vec![0; len]),
            ILLEGAL_FIELD
        );
    }
    let mut large = Bench::with(LuConfig {
        size_bytes: 1 << 40,
        ..config()
    });
    assert_eq!(large.bad(&cdb16(0x93, 1, 0, 2_097_153)), ILLEGAL_FIELD);
    assert!(matches!(
        large.lu.begin(A, &cdb16(0x93, 1, 0, 65_536)),
        Step::Run(_)
    ));
    assert!(bench.ops.is_empty());
}

#[test]
fn lba_status_begins_at_the_asked_block() {
    let mut bench = Bench::new();
    bench.good_out(&cdb10(0x2A, 0, 8, 16), &[1; 16 * 512]);
    assert_eq!(
        lba_status(&mut bench, 3, 1000)[..2],
        [(3, 5, 1), (8, 16, 0)]
    );
    assert_eq!(lba_status(&mut bench, 11, 24), [(11, 8 - 3, 0)]);
    assert_eq!(
        lba_status(&mut bench, 11, 5000)[..],
        [(11, 13, 0), (24, 2048 - 24, 1)]
    );
    let last = lba_status(&mut bench, BLOCKS - 1, 24);
    assert_eq!(last, [(BLOCKS - 1, 1, 1)]);
}

#[test]
fn lba_status_without_room_for_a_descriptor_gives_the_header() {
    let mut bench = Bench::new();
    for alloc in 0..24u8 {
        let data = bench.good(&cdb16(0x9E, 0x12, 0, alloc.into()));
        let cut = usize::from(alloc).min(8);
        assert_eq!(data, [0, 0, 0, 4, 0, 0, 0, 0][..cut]);
    }
    assert!(bench.ops.is_empty());
    assert_eq!(bench.bad(&cdb16(0x9E, 0x12, BLOCKS, 24)), OUT_OF_RANGE);
}

#[test]
fn lba_status_length_counts_its_descriptors_and_looks_are_bounded() {
    let mut bench = Bench::new();
    let data = bench.good(&cdb16(0x9E, 0x12, 0, 24));
    assert_eq!(data[..4], [0, 0, 0, 20]);
    let mut large = Bench::with(LuConfig {
        size_bytes: 1 << 44,
        ..config()
    });
    let Step::Run(BlockOp::Extents { range, count_max }) =
        large.lu.begin(A, &cdb16(0x9E, 0x12, 8, u32::MAX))
    else {
        panic!("not looked up");
    };
    assert_eq!(
        (range.offset(), range.len(), count_max),
        (4096, 1 << 32, 256)
    );
}

#[test]
fn lba_status_ignores_extents_that_do_not_follow() {
    let mut bench = Bench::new();
    let at = |lba, n, mapped| Extent {
        range: ByteRange::of_sectors(lba, n).unwrap(),
        mapped,
    };
    let outcome = Outcome::Extents(vec![
        at(0, 8, true),
        at(4, 8, true),
        at(8, 8, true),
        at(24, 8, false),
    ]);
    let reply = bench.lu.done(A, &cdb16(0x9E, 0x12, 2, 1000), outcome);
    assert_eq!(
        reply.data[8..],
        [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 14, 0, 0, 0, 0]
    );
}
