//! SANITIZE.

use super::*;

const ERASE: [u8; 10] = [0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0];
const EXIT: [u8; 10] = [0x48, 0x1F, 0, 0, 0, 0, 0, 0, 0, 0];
const IN_PROGRESS: (u8, u8, u8) = (2, 0x04, 0x1B);
const FAILED: (u8, u8, u8) = (3, 0x31, 3);

fn sanitizable() -> Bench {
    with_traits(Traits {
        sanitize: true,
        ..Traits::default()
    })
}

fn overwrite(list: &[u8]) -> [u8; 10] {
    let [hi, lo] = u16::try_from(list.len()).unwrap().to_be_bytes();
    [0x48, 0x01, 0, 0, 0, 0, 0, hi, lo, 0]
}

#[test]
fn a_disk_without_the_trait_does_not_know_the_command() {
    let mut bench = Bench::new();
    assert_eq!(bench.bad(&ERASE), (5, 0x20, 0));
    let all = bench.good(&cdb12(0xA3, 0x0C, 0, 65_535));
    assert!(all[4..].chunks(8).all(|row| row[0] != 0x48));
    let one = bench.good(&[0xA3, 0x0C, 3, 0x48, 0, 2, 0, 0, 0, 255, 0, 0]);
    assert_eq!(one[1] & 7, 1, "not supported");
    let mut bench = sanitizable();
    let one = bench.good(&[0xA3, 0x0C, 3, 0x48, 0, 2, 0, 0, 0, 255, 0, 0]);
    assert_eq!(one[1] & 7, 3);
    assert_eq!(
        bench.good(&[0x12, 1, 0xB1, 0, 255, 0])[7],
        0x40,
        "WABEREQ=01b"
    );
}

#[test]
fn block_erase_leaves_zeros_and_overwrite_its_pattern() {
    let mut bench = sanitizable();
    bench.good_out(&cdb16(0x8A, 0, 0, 8), &pattern(8 * 512));
    bench.good(&ERASE);
    assert!(bench.disk.iter().all(|byte| *byte == 0));
    let list = [0x83, 0, 0, 4, 1, 2, 3, 4];
    bench.good_out(&overwrite(&list), &list);
    let BlockOp::Sanitize { wipe, .. } = bench.last_op() else {
        panic!("{:?}", bench.last_op());
    };
    let Wipe::Overwrite { passes, invert, .. } = wipe else {
        panic!("{wipe:?}");
    };
    assert_eq!((*passes, *invert), (3, true));
    assert_eq!(bench.disk[..8], [1, 2, 3, 4, 1, 2, 3, 4]);
    assert_eq!(bench.disk[bench.disk.len() - 4..], [1, 2, 3, 4]);
}

#[test]
fn wrong_lists_and_reserved_fields_are_refused() {
    let mut bench = sanitizable();
    for len in [0, 1, 4, 517] {
        let list = vec![1; len];
        assert_eq!(
            bench.bad_out(&overwrite(&list), &list),
            ILLEGAL_FIELD,
            "{len}"
        );
    }
    for list in [
        [0u8, 0, 0, 4, 1, 2, 3, 4],
        [1, 0, 0, 0, 1, 2, 3, 4],
        [1, 0, 2, 4, 1, 2, 3, 4],
        [0x21, 0, 0, 4, 1, 2, 3, 4],
    ] {
        assert_eq!(bench.bad_out(&overwrite(&list), &list), LIST_FIELD);
    }
    let short = [1, 0, 0, 5, 1, 2, 3, 4];
    assert_eq!(bench.bad_out(&overwrite(&short), &short), LIST_LENGTH);
    for at in 1..7 {
        let mut cdb = ERASE;
        cdb[at] |= 0x40;
        assert_eq!(bench.bad(&cdb), ILLEGAL_FIELD, "byte {at}");
    }
    for opcode in [ERASE, EXIT] {
        let mut cdb = opcode;
        cdb[8] = 8;
        assert_eq!(bench.bad_out(&cdb, &[0; 8]), ILLEGAL_FIELD);
    }
    assert_eq!(
        bench.bad(&[0x48, 3, 0, 0, 0, 0, 0, 0, 0, 0]),
        ILLEGAL_FIELD,
        "no crypto erase"
    );
    assert!(bench.ops.is_empty());
}

#[test]
fn while_it_runs_only_a_few_commands_pass_and_nothing_ends_it() {
    let mut bench = sanitizable();
    assert!(matches!(bench.lu.begin(A, &ERASE), Step::Run(_)));
    bench.lu.sanitize_progress(0x1234);
    for cdb in [
        &TEST_READY[..],
        &cdb16(0x88, 0, 0, 1),
        &[0x1B, 1, 0, 0, 3, 0],
        &ERASE,
        &EXIT,
    ] {
        let Step::Reply(reply) = bench.lu.begin(B, cdb) else {
            panic!("{cdb:02x?} passes");
        };
        assert_eq!(code(&reply), IN_PROGRESS, "{cdb:02x?}");
        assert_eq!(reply.sense.unwrap().as_slice()[15..18], [0x80, 0x12, 0x34]);
    }
    bench.good(&[0x12, 0, 0, 0, 96, 0]);
    bench.good(&cdb12(0xA0, 0, 0, 16));
    bench.good(&cdb12(0xA3, 0x0C, 0, 65_535));
    let sense = bench.good(&[0x03, 0, 0, 0, 18, 0]);
    assert_eq!((sense[2], sense[12], sense[13]), IN_PROGRESS);
    bench.lu.reset(Some(A));
    bench.lu.detach(B);
    bench.lu.sanitize_restore(None);
    assert_eq!(bench.bad(&TEST_READY), (6, 0x29, 3));
    assert_eq!(bench.bad(&TEST_READY), IN_PROGRESS);
    bench.lu.sanitize_ended(true);
    bench.good(&TEST_READY);
}

#[test]
fn a_write_that_began_before_it_does_not_land_behind_it() {
    let mut bench = sanitizable();
    let write = cdb16(0x8A, 0, 0, 1);
    assert!(matches!(bench.lu.begin(B, &write), Step::Data { .. }));
    assert!(matches!(bench.lu.begin(A, &ERASE), Step::Run(_)));
    let Step::Reply(reply) = bench.lu.data_out(B, &write, &[1; 512]) else {
        panic!("the write runs");
    };
    assert_eq!(code(&reply), IN_PROGRESS);
}

#[test]
fn a_failure_stays_until_it_is_done_again() {
    let mut bench = sanitizable();
    assert!(matches!(bench.lu.begin(A, &ERASE), Step::Run(_)));
    bench.lu.sanitize_ended(false);
    assert_eq!(bench.bad(&TEST_READY), FAILED);
    assert_eq!(bench.bad(&EXIT), FAILED, "without AUSE there is no way out");
    let mut unrestricted = ERASE;
    unrestricted[1] |= 0x20;
    assert_eq!(bench.bad(&unrestricted), ILLEGAL_FIELD);
    bench.good(&ERASE);
    bench.good(&TEST_READY);
}

#[test]
fn ause_lets_the_disk_be_used_again() {
    let mut bench = sanitizable();
    bench.lu.sanitize_restore(Some(true));
    assert_eq!(bench.bad(&TEST_READY), FAILED);
    bench.good(&EXIT);
    assert_eq!(*bench.last_op(), BlockOp::SanitizeForgotten);
    bench.good(&TEST_READY);
    bench.good(&EXIT);
    let failed = Outcome::Failed(Failure::Sanitize);
    assert_eq!(code(&bench.lu.done(A, &ERASE, failed)), FAILED);
}

#[test]
fn it_obeys_reservations_and_write_protection() {
    let mut bench = sanitizable();
    assert!(!bench.conflicts(B, &[0x16, 0, 0, 0, 0, 0], &[]));
    assert!(bench.conflicts(A, &ERASE, &[]));
    let mut bench = with_traits(Traits {
        sanitize: true,
        read_only: true,
        ..Traits::default()
    });
    assert_eq!(bench.bad(&ERASE), (7, 0x27, 0));
}

#[test]
fn immediate_is_handed_on() {
    let mut bench = sanitizable();
    let mut cdb = ERASE;
    cdb[1] |= 0xA0;
    let wanted = BlockOp::Sanitize {
        wipe: Wipe::Erase,
        immediate: true,
        unrestricted: true,
    };
    assert_eq!(bench.lu.begin(A, &cdb), Step::Run(wanted));
}
