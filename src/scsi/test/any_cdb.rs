//! Whatever comes in: no panic, no range outside the disk, a legal status, no more data than asked for.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::opcode::COMMANDS;
use super::*;

/// Random bytes, mostly behind an opcode (and service action) that exists, with numbers near the edges.
fn cdbs() -> impl Strategy<Value = Vec<u8>> {
    let rows: Vec<(u8, Option<u8>)> = COMMANDS
        .iter()
        .map(|c| (c.opcode(), c.has_action.then_some(c.action())))
        .collect();
    let edge = prop_oneof![
        Just(0u8),
        Just(1),
        Just(7),
        Just(8),
        Just(0xFF),
        any::<u8>()
    ];
    let known =
        (select(rows), vec(edge, 16), 6..=16usize).prop_map(|((opcode, action), mut cdb, len)| {
            cdb[0] = opcode;
            if let Some(action) = action {
                cdb[1] = action;
            }
            // The control byte, so that most commands get further.
            for at in [5, 9, 11, 15] {
                cdb[at] &= 0xF0;
            }
            cdb.truncate(len.max(if opcode >= 0x80 { 16 } else { 10 }));
            cdb
        });
    prop_oneof![9 => known, 1 => vec(any::<u8>(), 0..20)]
}

fn data_outs() -> impl Strategy<Value = Vec<u8>> {
    let sizes = select(vec![0, 1, 4, 8, 24, 40, 200, 512, 1024, 4096]);
    let byte = prop_oneof![4 => Just(0u8), 1 => any::<u8>()];
    (sizes, vec(byte, 64)).prop_map(|(len, seed)| seed.into_iter().cycle().take(len).collect())
}

fn check_range(range: ByteRange) {
    assert!(!range.is_empty());
    assert!(range.fits(SIZE));
    assert!(range.offset().is_multiple_of(512) && range.len().is_multiple_of(512));
}

fn check_op(op: &BlockOp) {
    match op {
        BlockOp::Flush | BlockOp::SanitizeForgotten => {}
        BlockOp::Sanitize { wipe, .. } => {
            let passes = match wipe {
                Wipe::Erase => 1,
                Wipe::Overwrite { passes, .. } => *passes,
            };
            assert!((1..=31).contains(&passes));
        }
        BlockOp::Copy { moves, .. } => {
            for one in moves {
                check_range(one.from);
                check_range(one.to);
                assert_eq!(one.from.len(), one.to.len());
            }
        }
        BlockOp::Unmap { ranges, .. } => ranges.iter().copied().for_each(check_range),
        BlockOp::Read(range)
        | BlockOp::Write { range, .. }
        | BlockOp::WriteAtomic { range, .. }
        | BlockOp::WriteSame { range, .. }
        | BlockOp::Compare { range, .. }
        | BlockOp::WriteCompare { range }
        | BlockOp::CompareAndWrite { range, .. }
        | BlockOp::OrWrite { range, .. }
        | BlockOp::Extents { range, .. } => check_range(*range),
        BlockOp::Provision => {}
    }
}

fn check_reply(cdb: &[u8], reply: &Reply) {
    match reply.status {
        status::GOOD => assert!(reply.sense.is_none()),
        status::CHECK_CONDITION => {
            let (key, _, _) = code(reply);
            assert!(matches!(key, 2 | 5 | 6 | 7 | 0xA | 0xE), "{cdb:02x?} {key}");
        }
        status::RESERVATION_CONFLICT => assert!(reply.sense.is_none() && reply.data.is_empty()),
        other => panic!("status {other:02x} for {cdb:02x?}"),
    }
    if !reply.data.is_empty() {
        let len = reply.data.len() as u64;
        match direction(cdb) {
            Some(Direction::In(max)) => assert!(len <= max, "{cdb:02x?} {len} {max}"),
            other => panic!("data-in from {cdb:02x?}: {other:?}"),
        }
    }
}

/// `direction` and the step that asks for data name the same length.
fn check_want(bench: &mut Bench, nexus: NexusId, cdb: &[u8]) {
    if let Step::Data { len, .. } = bench.lu.begin(nexus, cdb) {
        assert_eq!(
            direction(cdb),
            Some(Direction::Out(len.into())),
            "{cdb:02x?}"
        );
        assert!(u64::from(len) <= crate::limits::TRANSFER_MAX);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_sequence_of_commands_breaks_the_unit(
        commands in vec((0..3u64, cdbs(), data_outs(), any::<bool>()), 1..60),
    ) {
        // One that has every command.
        let mut bench = with_traits(Traits {
            removable: true,
            sanitize: true,
            ..Traits::default()
        });
        for (nexus, cdb, out, resets) in commands {
            let nexus = NexusId(nexus + 1);
            check_want(&mut bench, nexus, &cdb);
            // What the look ahead began is not carried out.
            bench.lu.sanitize_ended(true);
            let reply = bench.run(nexus, &cdb, &out);
            check_reply(&cdb, &reply);
            bench.ops.drain(..).for_each(|op| check_op(&op));
            if resets && cdb.len() == 7 {
                bench.lu.reset(Some(nexus));
            }
        }
    }

    #[test]
    fn data_that_nobody_asked_for_breaks_nothing(cdb in cdbs(), out in data_outs()) {
        let mut bench = Bench::new();
        match bench.lu.data_out(A, &cdb, &out) {
            Step::Run(op) => check_op(&op),
            Step::Reply(reply) => check_reply(&cdb, &reply),
            Step::Data { .. } => panic!("asked again: {cdb:02x?}"),
            Step::Save(kept) => assert!(kept.is_some_and(|kept| !kept.registrants.is_empty())),
        }
    }

    #[test]
    fn any_outcome_gives_a_legal_reply(
        cdb in cdbs(),
        offset in any::<u64>(),
        runs in vec((0..3000u64, 0..64u64, any::<bool>()), 0..8),
    ) {
        let mut bench = Bench::new();
        let extent = |(lba, n, mapped)| Extent { range: ByteRange::of_sectors(lba, n).unwrap(), mapped };
        let extents = Outcome::Extents(runs.into_iter().map(extent).collect());
        let told = Provision { used_bytes: offset, available_bytes: !offset, shared: offset % 2 == 1 };
        let told = Outcome::Provision(told);
        for outcome in [Outcome::Done, Outcome::Data { len: offset }, Outcome::Differs { offset }, extents, told] {
            let reply = bench.lu.done(A, &cdb, outcome);
            prop_assert!(matches!(reply.status, status::GOOD | status::CHECK_CONDITION));
        }
    }

    #[test]
    fn an_absent_lun_answers_anything(cdb in vec(any::<u8>(), 0..20), luns in vec(any::<u16>(), 0..5)) {
        let reply = absent_lun(&cdb, &luns);
        prop_assert!(matches!(reply.status, status::GOOD | status::CHECK_CONDITION));
    }

    /// A disk as a plain array, with the commands that change it, is the oracle.
    #[test]
    fn the_disk_holds_what_was_written(writes in vec((0..BLOCKS, 1..16u8, any::<u8>(), 0..4u8), 1..40)) {
        let mut bench = Bench::new();
        let mut oracle = vec![0u8; usize::try_from(SIZE).unwrap()];
        for (lba, n, byte, how) in writes {
            let n = u64::from(n).min(BLOCKS - lba);
            let place = span(ByteRange::of_sectors(lba, n).unwrap());
            let count = u32::try_from(n).unwrap();
            let data = vec![byte; place.len()];
            match how {
                0 => drop(bench.good_out(&cdb16(0x8A, 0, lba, count), &data)),
                1 => drop(bench.good_out(&cdb16(0x93, 0, lba, count), &data[..512])),
                2 => drop(bench.good_out(&cdb16(0x8E, 2, lba, count), &data)),
                _ => {
                    bench.good_out(&cdb16(0x8B, 0, lba, count), &data);
                    oracle[place].iter_mut().for_each(|held| *held |= byte);
                    continue;
                }
            }
            oracle[place].fill(byte);
        }
        prop_assert_eq!(&bench.disk, &oracle);
        let all = bench.good(&cdb16(0x88, 0, 0, u32::try_from(BLOCKS).unwrap()));
        prop_assert_eq!(all, oracle);
    }
}
