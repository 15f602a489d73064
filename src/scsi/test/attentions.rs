//! Every sense code and every unit attention that can occur, row by row of one table each.

use super::reservations::*;
use super::*;

type Cause = fn(&mut Bench) -> Reply;

/// Another kind of disk than the bench's.
const SMALL_BLOCKS: Traits = Traits {
    removable: false,
    read_only: false,
    small_blocks: true,
    sanitize: false,
    no_zero_count: false,
};

/// The unit's word on a READ that ended so.
fn after(bench: &mut Bench, outcome: Outcome) -> Reply {
    bench.lu.done(A, &cdb10(0x28, 0, 0, 1), outcome)
}

fn failed(bench: &mut Bench, failure: Failure) -> Reply {
    after(bench, Outcome::Failed(failure))
}

fn aptpl_that_fails(bench: &mut Bench) -> Reply {
    bench.saving = Saving::Failed;
    let mut list = list(0, 1);
    list[20] = 1;
    bench.run(A, &[0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list)
}

fn wrong_release(bench: &mut Bench) -> Reply {
    bench.pr_good(A, REGISTER, 0, 0, 1);
    bench.pr_good(A, RESERVE, 1, 1, 0);
    let reply = bench.pr(A, RELEASE, 3, 1, 0);
    bench.pr_good(A, REGISTER, 0, 1, 0);
    reply
}

fn full_table(bench: &mut Bench) -> Reply {
    for number in 0..crate::limits::REGISTRANTS_MAX as u64 {
        let nexus = NexusId(100 + number);
        bench.lu.attach(nexus, &port(&number.to_string()));
        bench.pr_good(nexus, REGISTER, 0, 0, 1);
        bench.lu.detach(nexus);
    }
    bench.pr(A, REGISTER, 0, 0, 1)
}

/// The control mode page with these bytes 2, 4 and 5.
fn set_control(bench: &mut Bench, nexus: NexusId, bytes: [u8; 3]) {
    let [two, four, five] = bytes;
    let list = [
        0,
        0,
        0,
        0,
        0x0A,
        10,
        2 | two,
        0x10,
        four,
        five,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let reply = bench.run(nexus, &[0x15, 0x10, 0, 0, 16, 0], &list);
    assert_eq!(reply.status, status::GOOD, "{reply:02x?}");
}

const D_SENSE: [u8; 3] = [0x04, 0, 0];
const SWP: [u8; 3] = [0, 0x08, 0];
const KEPT: [u8; 3] = [0, 0x20, 0];
const TAS: [u8; 3] = [0, 0, 0x40];

fn software_protected(bench: &mut Bench) -> Reply {
    let descriptor = bench.good(&[0x1A, 8, 0x0A, 0, 16, 0])[6] & 4;
    set_control(bench, A, [descriptor, SWP[1], 0]);
    bench.run(A, &cdb10(0x2A, 0, 0, 1), &[1; 512])
}

/// What happened, the code that tells it, how to make it happen.
const SENSES: [(&str, (u8, u8, u8), Cause); 24] = [
    ("unknown opcode", (5, 0x20, 0), |b| {
        b.run(A, &[0xFF; 16], &[])
    }),
    ("bad field in the CDB", (5, 0x24, 0), |b| {
        b.run(A, &[0x12, 2, 0, 0, 36, 0], &[])
    }),
    ("unknown service action", (5, 0x24, 0), |b| {
        b.run(A, &cdb12(0xA3, 0x0A, 0, 255), &[])
    }),
    ("LUN not supported", (5, 0x25, 0), |_| {
        absent_lun(&TEST_READY, &[0])
    }),
    ("address out of range", (5, 0x21, 0), |b| {
        b.run(A, &cdb10(0x28, 0, u32::MAX, 1), &[])
    }),
    ("the same without length", (5, 0x21, 0), |b| {
        b.run(A, &cdb10(0x28, 0, u32::MAX, 0), &[])
    }),
    ("parameter list length", (5, 0x1A, 0), |b| {
        b.run(A, &cdb10(0x42, 0, 0, 4), &[0; 4])
    }),
    ("field in the parameter list", (5, 0x26, 0), |b| {
        b.run(A, &[0x15, 0x10, 0, 0, 6, 0], &[0, 0, 0, 0, 0x3E, 0])
    }),
    ("invalid release", (5, 0x26, 4), wrong_release),
    ("no registration resources", (5, 0x55, 4), full_table),
    ("saving not supported", (5, 0x39, 0), |b| {
        b.run(A, &[0x1A, 0, 0xCA, 0, 255, 0], &[])
    }),
    ("becoming ready", (2, 4, 1), |b| {
        failed(b, Failure::NotReady)
    }),
    ("medium read error", (3, 0x11, 0), |b| {
        failed(b, Failure::MediumRead)
    }),
    ("damaged on the medium", (3, 0x11, 0), |b| {
        failed(b, Failure::Corrupt)
    }),
    ("medium write error", (3, 0x0C, 0), |b| {
        failed(b, Failure::MediumWrite)
    }),
    ("reservations not stored", (4, 0x44, 0), aptpl_that_fails),
    ("internal failure", (0xB, 0x44, 0), |b| {
        failed(b, Failure::Internal)
    }),
    ("fenced", (0xB, 0, 0), |b| failed(b, Failure::Fenced)),
    ("given up", (0xB, 0, 0), |b| failed(b, Failure::Aborted)),
    ("space allocation failed", (7, 0x27, 7), |b| {
        failed(b, Failure::OutOfSpace)
    }),
    ("software write protected", (7, 0x27, 2), software_protected),
    ("miscompare", (0xE, 0x1D, 0), |b| {
        after(b, Outcome::Differs { offset: 0x1234 })
    }),
    ("wrong size of data-out", (5, 0x24, 0), |b| {
        b.run(
            A,
            &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            &[0; 512],
        )
    }),
    ("write protected", (7, 0x27, 0), |b| {
        *b = Bench::with(LuConfig {
            traits: Traits {
                read_only: true,
                ..Traits::default()
            },
            ..config()
        });
        b.run(A, &cdb10(0x2A, 0, 0, 1), &[1; 512])
    }),
];

#[test]
fn every_failure_has_its_sense_in_both_formats() {
    for (name, expected, cause) in SENSES {
        for descriptor in [false, true] {
            let mut bench = Bench::new();
            if descriptor {
                set_control(&mut bench, A, D_SENSE);
            }
            let reply = cause(&mut bench);
            assert_eq!(code(&reply), expected, "{name}");
            // A target without that disk, and the disk that was made anew, know no D_SENSE.
            let knows = descriptor && !["LUN not supported", "write protected"].contains(&name);
            let first = reply.sense.unwrap().as_slice()[0] & 0x7F;
            assert_eq!(first, if knows { 0x72 } else { 0x70 }, "{name}");
        }
    }
}

#[test]
fn a_miscompare_tells_where_in_both_formats() {
    let sense = |bench: &mut Bench| {
        after(bench, Outcome::Differs { offset: 0x1234 })
            .sense
            .unwrap()
    };
    let mut bench = Bench::new();
    assert_eq!(
        sense(&mut bench).as_slice()[..7],
        [0xF0, 0, 0xE, 0, 0, 0x12, 0x34]
    );
    set_control(&mut bench, A, D_SENSE);
    let bytes = sense(&mut bench);
    assert_eq!(
        bytes.as_slice()[8..],
        [0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34]
    );
}

/// A and B registered, B reserved with a type that A shares.
fn shared(bench: &mut Bench) {
    bench.pr_good(A, REGISTER, 0, 0, 1);
    bench.pr_good(B, REGISTER, 0, 0, 2);
    bench.pr_good(B, RESERVE, 5, 2, 0);
}

type Event = fn(&mut Bench);

/// The code, who of A, B and C hears it, and what happened. B is who does it, where somebody does.
const ATTENTIONS: [((u8, u8), [bool; 3], Event); 14] = [
    ((0x29, 3), [true, true, true], |b| b.lu.reset(Some(B))),
    ((0x29, 4), [true, true, true], |b| b.lu.reset(None)),
    ((0x2A, 1), [true, false, true], |b| set_control(b, B, KEPT)),
    ((0x2A, 3), [true, false, false], |b| {
        shared(b);
        b.pr_good(B, CLEAR, 0, 2, 0);
    }),
    ((0x2A, 4), [true, false, false], |b| {
        shared(b);
        b.pr_good(B, RELEASE, 5, 2, 0);
    }),
    ((0x2A, 4), [true, false, false], |b| {
        shared(b);
        b.pr_good(B, REGISTER, 0, 2, 0);
    }),
    ((0x2A, 4), [true, false, false], |b| {
        shared(b);
        b.pr_good(B, PREEMPT, 6, 2, 2);
    }),
    ((0x2A, 5), [true, false, false], |b| {
        shared(b);
        b.pr_good(B, PREEMPT, 5, 2, 1);
    }),
    ((0x2A, 5), [true, false, false], |b| {
        shared(b);
        b.pr_good(B, PREEMPT_ABORT, 5, 2, 1);
    }),
    ((0x2F, 0), [true, false, true], |b| {
        b.lu.cleared_by_another(B);
    }),
    ((0x2A, 9), [true, true, true], |b| {
        b.lu.announce(News::Capacity);
    }),
    ((0x3F, 3), [true, true, true], |b| {
        b.lu.set_traits(SMALL_BLOCKS);
    }),
    ((0x3F, 0x0E), [true, true, true], |b| {
        b.lu.announce(News::Luns);
    }),
    ((0x38, 7), [true, true, true], |b| {
        b.lu.announce(News::SpaceThreshold);
    }),
];

#[test]
fn every_unit_attention_reaches_whom_it_concerns_and_once() {
    for (told, hears, happens) in ATTENTIONS {
        let mut bench = Bench::new();
        happens(&mut bench);
        for (nexus, hears) in [(A, hears[0]), (B, hears[1]), (C, hears[2])] {
            if nexus == A && told == (0x2A, 1) {
                // UA_INTLCK_CTRL was what changed: it stays until REQUEST SENSE.
                assert_eq!(bench.attention(nexus), Some(told));
                continue;
            }
            let heard = bench.run(nexus, &TEST_READY, &[]);
            let expected = hears.then_some((6, told.0, told.1));
            let code = (heard.status != status::GOOD).then(|| code(&heard));
            assert_eq!(code, expected, "{told:02x?} {nexus:?}");
            let _ = bench.attention(nexus);
            assert_eq!(bench.run(nexus, &TEST_READY, &[]).status, status::GOOD);
        }
        // A session that comes now hears nothing of it.
        bench.lu.attach(NexusId(9), &port("new"));
        assert_eq!(bench.attention(NexusId(9)), None);
    }
}

#[test]
fn a_unit_attention_comes_before_a_reservation_conflict_and_all_else() {
    let mut bench = Bench::held(3);
    bench.lu.announce(News::SpaceThreshold);
    for cdb in [
        &cdb10(0x28, 0, 0, 1)[..],
        &[0x16, 0, 0, 0, 0, 0],
        &[0xFF; 16],
    ] {
        assert_eq!(code(&bench.run(C, cdb, &[])), (6, 0x38, 7));
        bench.lu.announce(News::SpaceThreshold);
    }
}

#[test]
fn attentions_of_all_kinds_wait_in_their_order() {
    let mut bench = Bench::new();
    let rest = [News::SpaceThreshold, News::Luns];
    for _ in 0..3 {
        bench.lu.announce(News::Capacity);
        bench.lu.set_traits(SMALL_BLOCKS);
        rest.iter().for_each(|news| bench.lu.announce(*news));
    }
    bench.lu.cleared_by_another(B);
    // REPORT LUNS is itself what 3F/0E asks for, and runs past the others.
    bench.good(&cdb12(0xA0, 0, 0, 16));
    bench.good(&[0x12, 0, 0, 0, 36, 0]);
    for told in [(0x2A, 9), (0x3F, 3), (0x38, 7), (0x2F, 0)] {
        assert_eq!(bench.attention(A), Some(told));
    }
    assert_eq!(bench.attention(A), None);
    for told in [(0x2A, 9), (0x3F, 3), (0x38, 7), (0x3F, 0x0E)] {
        assert_eq!(bench.attention(B), Some(told));
    }
}

#[test]
fn with_interlock_a_unit_attention_stays_until_request_sense() {
    let mut bench = Bench::new();
    set_control(&mut bench, A, KEPT);
    assert_eq!(
        bench.good(&[0x1A, 8, 0x0A, 0, 255, 0])[4..9],
        [0x0A, 10, 2, 0x10, 0x20]
    );
    for nexus in [B, C] {
        assert_eq!(bench.attention(nexus), Some((0x2A, 1)));
    }
    bench.lu.announce(News::SpaceThreshold);
    for _ in 0..3 {
        assert_eq!(code(&bench.run(B, &TEST_READY, &[])), (6, 0x38, 7));
    }
    assert_eq!(bench.attention(B), Some((0x38, 7)));
    assert_eq!(bench.run(B, &TEST_READY, &[]).status, status::GOOD);
}

#[test]
fn other_interlocks_are_refused() {
    let mut bench = Bench::new();
    for interlock in [0x10, 0x30] {
        let list = [
            0, 0, 0, 0, 0x0A, 10, 2, 0x10, interlock, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(bench.bad_out(&[0x15, 0x10, 0, 0, 16, 0], &list), LIST_FIELD);
    }
}

#[test]
fn with_tas_cleared_commands_are_told_by_status_and_not_by_attention() {
    let mut bench = Bench::new();
    assert!(!bench.lu.tells_aborts());
    set_control(&mut bench, A, TAS);
    assert!(bench.lu.tells_aborts());
    assert_eq!(bench.attention(B), Some((0x2A, 1)));
    bench.lu.cleared_by_another(A);
    assert_eq!(bench.attention(B), None);
    bench.lu.reset(Some(A));
    assert!(!bench.lu.tells_aborts(), "as all modes");
}
