//! WRITE ATOMIC(16), and WRITE SAME to the end of the disk.

use super::*;

fn atomic(lba: u64, blocks: u16, boundary: u16) -> [u8; 16] {
    let mut cdb = cdb16(0x9C, 0, lba, u32::from(blocks));
    cdb[10..12].copy_from_slice(&boundary.to_be_bytes());
    cdb
}

#[test]
fn an_atomic_write_is_one_operation() {
    let mut bench = Bench::new();
    let data = pattern(3 * 512);
    bench.good_out(&atomic(7, 3, 0), &data);
    let range = ByteRange::of_sectors(7, 3).unwrap();
    assert_eq!(*bench.last_op(), BlockOp::WriteAtomic { range, fua: false });
    assert_eq!(bench.good(&cdb16(0x88, 0, 7, 3)), data);
    let mut forced = atomic(7, 3, 0);
    forced[1] = 0x08;
    bench.good_out(&forced, &data);
    assert_eq!(*bench.last_op(), BlockOp::WriteAtomic { range, fua: true });
}

#[test]
fn what_cannot_be_atomic_is_refused() {
    let mut bench = Bench::new();
    assert_eq!(bench.bad(&atomic(0, 257, 0)), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&atomic(0, 2, 1)), ILLEGAL_FIELD, "a boundary");
    assert_eq!(bench.bad_out(&atomic(0, 2, 0), &[0; 512]), (5, 0x0E, 3));
    assert!(bench.ops.is_empty());
}

#[test]
fn the_end_of_the_disk_counts_before_the_atomic_length() {
    let mut bench = Bench::new();
    assert_eq!(bench.bad(&atomic(BLOCKS - 256, 512, 0)), OUT_OF_RANGE);
    assert_eq!(bench.bad(&atomic(BLOCKS + 1, 0, 0)), OUT_OF_RANGE);
    assert_eq!(bench.bad(&atomic(1 << 63, 1, 0)), OUT_OF_RANGE);
    bench.good(&atomic(0, 0, 0));
    bench.good_out(&atomic(BLOCKS - 256, 256, 0), &[1; 256 * 512]);
}

#[test]
fn block_limits_promise_what_is_done() {
    let mut bench = Bench::new();
    let page = bench.good(&[0x12, 1, 0xB0, 0, 255, 0]);
    assert_eq!(page[4] & 1, 0, "WSNZ");
    assert_eq!(page[44..48], 256u32.to_be_bytes());
    assert_eq!(page[48..64], [0; 16], "no alignment, granularity, boundary");
}

#[test]
fn write_same_of_no_blocks_goes_to_the_end() {
    for opcode in [0x41, 0x93] {
        let mut bench = Bench::new();
        let cdb = if opcode == 0x41 {
            cdb10(opcode, 0, 100, 0).to_vec()
        } else {
            cdb16(opcode, 0, 100, 0).to_vec()
        };
        bench.good_out(&cdb, &[7; 512]);
        assert!(bench.disk[..100 * 512].iter().all(|byte| *byte == 0));
        assert!(bench.disk[100 * 512..].iter().all(|byte| *byte == 7));
    }
    let mut bench = Bench::new();
    bench.good_out(&cdb16(0x93, 0, BLOCKS, 0), &[7; 512]);
    assert!(
        bench.ops.is_empty(),
        "nothing is left behind the last block"
    );
    assert_eq!(
        bench.bad_out(&cdb16(0x93, 0, BLOCKS + 1, 0), &[7; 512]),
        OUT_OF_RANGE
    );
}

#[test]
fn a_disk_with_wsnz_refuses_no_blocks() {
    let mut bench = with_traits(Traits {
        no_zero_count: true,
        ..Traits::default()
    });
    assert_eq!(bench.good(&[0x12, 1, 0xB0, 0, 255, 0])[4] & 1, 1);
    assert_eq!(
        bench.bad_out(&cdb10(0x41, 8, 0, 0), &[0; 512]),
        ILLEGAL_FIELD
    );
    assert_eq!(
        bench.bad_out(&cdb16(0x93, 0, 0, 0), &[0; 512]),
        ILLEGAL_FIELD
    );
    assert_eq!(
        bench.bad_out(&cdb16(0x93, 0, BLOCKS + 1, 0), &[0; 512]),
        OUT_OF_RANGE
    );
    bench.good_out(&cdb16(0x93, 0, 0, 1), &[7; 512]);
}

#[test]
fn no_blocks_are_too_many_when_the_rest_is_longer_than_the_limit() {
    let blocks = u64::from(crate::limits::WRITE_SAME_BLOCKS_MAX) + 1;
    let mut bench = Bench::with(LuConfig {
        size_bytes: blocks * 512,
        ..config()
    });
    assert_eq!(bench.bad(&cdb16(0x93, 0, 0, 0)), ILLEGAL_FIELD);
    let mut without_data = cdb16(0x93, 1, 1, 0);
    without_data[1] = 0x09;
    let step = bench.lu.begin(A, &without_data);
    assert!(matches!(
        step,
        Step::Run(BlockOp::WriteSame { pattern: None, .. })
    ));
}
