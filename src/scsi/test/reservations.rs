//! RESERVE, RELEASE, PERSISTENT RESERVE IN and OUT.

use super::*;

const TYPES: [u8; 6] = [1, 3, 5, 6, 7, 8];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const SECTOR: [u8; 512] = [1; 512];

pub(super) const REGISTER: u8 = 0;
pub(super) const RESERVE: u8 = 1;
pub(super) const RELEASE: u8 = 2;
pub(super) const CLEAR: u8 = 3;
pub(super) const PREEMPT: u8 = 4;
pub(super) const PREEMPT_ABORT: u8 = 5;
pub(super) const REGISTER_IGNORE: u8 = 6;
pub(super) const MOVE: u8 = 7;

pub(super) fn list(key: u64, new: u64) -> Vec<u8> {
    let mut list = key.to_be_bytes().to_vec();
    list.extend_from_slice(&new.to_be_bytes());
    list.resize(24, 0);
    list
}

impl Bench {
    pub(super) fn pr(&mut self, nexus: NexusId, action: u8, kind: u8, key: u64, new: u64) -> Reply {
        let cdb = [0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0];
        self.run(nexus, &cdb, &list(key, new))
    }

    pub(super) fn pr_good(&mut self, nexus: NexusId, action: u8, kind: u8, key: u64, new: u64) {
        let reply = self.pr(nexus, action, kind, key, new);
        assert_eq!(
            reply.status,
            status::GOOD,
            "{action} {kind} {key} {new}: {reply:02x?}"
        );
    }

    fn pr_conflict(&mut self, nexus: NexusId, action: u8, kind: u8, key: u64, new: u64) {
        let reply = self.pr(nexus, action, kind, key, new);
        assert_eq!(
            reply.status,
            status::RESERVATION_CONFLICT,
            "{action} {kind} {key} {new}"
        );
    }

    /// PERSISTENT RESERVE IN by a nexus that hears no news.
    pub(super) fn look(&mut self, action: u8) -> Vec<u8> {
        let observer = NexusId(1000);
        self.lu.attach(observer, &port("observer"));
        let reply = self.run(observer, &[0x5E, action, 0, 0, 0, 0, 0, 1, 0, 0], &[]);
        assert_eq!(reply.status, status::GOOD);
        reply.data
    }

    /// PRGENERATION and keys.
    pub(super) fn keys(&mut self) -> (u32, Vec<u64>) {
        let data = self.look(0);
        let keys = data[8..]
            .chunks(8)
            .map(|key| u64::from_be_bytes(key.try_into().unwrap()));
        (
            u32::from_be_bytes(data[..4].try_into().unwrap()),
            keys.collect(),
        )
    }

    /// Key and type of the reservation.
    pub(super) fn reservation(&mut self) -> Option<(u64, u8)> {
        let data = self.look(1);
        let key = data.get(8..16)?;
        Some((u64::from_be_bytes(key.try_into().unwrap()), data[21]))
    }

    pub(super) fn attention(&mut self, nexus: NexusId) -> Option<(u8, u8)> {
        let data = self.run(nexus, &[3, 0, 0, 0, 18, 0], &[]).data;
        (data[2] == 6).then_some((data[12], data[13]))
    }

    /// A (key 1) and B (key 2) registered, A holds a reservation of `kind`, C is a stranger.
    pub(super) fn held(kind: u8) -> Self {
        let mut bench = Self::new();
        bench.pr_good(A, REGISTER, 0, 0, 1);
        bench.pr_good(B, REGISTER, 0, 0, 2);
        bench.pr_good(A, RESERVE, kind, 1, 0);
        bench
    }
}

#[test]
fn access_follows_the_matrix_of_types() {
    // (type, registrant reads, registrant writes, stranger reads, stranger writes): true is allowed.
    let matrix = [
        (1, true, false, true, false),
        (3, false, false, false, false),
        (5, true, true, true, false),
        (6, true, true, false, false),
        (7, true, true, true, false),
        (8, true, true, false, false),
    ];
    for (kind, b_reads, b_writes, c_reads, c_writes) in matrix {
        let mut bench = Bench::held(kind);
        assert!(!bench.conflicts(A, &READ, &[]), "{kind}");
        assert!(!bench.conflicts(A, &WRITE, &SECTOR), "{kind}");
        assert_eq!(!bench.conflicts(B, &READ, &[]), b_reads, "{kind}");
        assert_eq!(!bench.conflicts(B, &WRITE, &SECTOR), b_writes, "{kind}");
        assert_eq!(!bench.conflicts(C, &READ, &[]), c_reads, "{kind}");
        assert_eq!(!bench.conflicts(C, &WRITE, &SECTOR), c_writes, "{kind}");
    }
}

#[test]
fn ownership_follows_the_matrix_of_types() {
    for kind in TYPES {
        let all = kind >= 7;
        let mut bench = Bench::held(kind);
        assert_eq!(bench.reservation(), Some((if all { 0 } else { 1 }, kind)));
        // Reserving again: the holder may, with the same type; of an all-registrants type everyone holds.
        bench.pr_good(A, RESERVE, kind, 1, 0);
        let other = if kind == 1 { 3 } else { 1 };
        bench.pr_conflict(A, RESERVE, other, 1, 0);
        assert_eq!(bench.pr(B, RESERVE, kind, 2, 0).status == status::GOOD, all);
        // The holder leaves: the reservation ends, unless others hold it too.
        bench.pr_good(A, REGISTER, 0, 1, 0);
        assert_eq!(bench.reservation().is_some(), all, "{kind}");
        let told = if matches!(kind, 5 | 6) {
            Some((0x2A, 4))
        } else {
            None
        };
        assert_eq!(bench.attention(B), told, "{kind}");
        bench.pr_good(B, REGISTER, 0, 2, 0);
        assert_eq!(bench.reservation(), None);
        assert!(bench.keys().1.is_empty());
    }
}

#[test]
fn some_commands_run_beside_every_reservation() {
    let beside: [&[u8]; 9] = [
        &TEST_READY,
        &[0x12, 0, 0, 0, 36, 0],
        &[0x03, 0, 0, 0, 18, 0],
        &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0],
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0],
        &[0x1B, 0, 0, 0, 1, 0],
        &[0x1E, 0, 0, 0, 0, 0],
        &[0x5E, 3, 0, 0, 0, 0, 0, 1, 0, 0],
    ];
    let changing: [&[u8]; 7] = [
        &RESERVE_6,
        &RELEASE_6,
        &[0x1B, 0, 0, 0, 0, 0],
        &[0x1E, 0, 0, 0, 1, 0],
        &[0x15, 0x10, 0, 0, 0, 0],
        &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    for kind in TYPES {
        let mut bench = Bench::held(kind);
        for cdb in beside {
            assert!(!bench.conflicts(C, cdb, &[]), "{kind} {cdb:02x?}");
        }
        for cdb in changing {
            assert!(bench.conflicts(C, cdb, &[]), "{kind} {cdb:02x?}");
        }
        let mode_sense = [0x1A, 0, 0x3F, 0, 255, 0];
        assert_eq!(
            bench.conflicts(C, &mode_sense, &[]),
            matches!(kind, 3 | 6 | 8)
        );
    }
}

#[test]
fn the_generation_counts_registrations_and_not_reservations() {
    let mut bench = Bench::new();
    let expect = |bench: &mut Bench, count: u32| assert_eq!(bench.keys().0, count);
    expect(&mut bench, 0);
    bench.pr_good(A, REGISTER, 0, 0, 1);
    expect(&mut bench, 1);
    bench.pr_good(A, REGISTER, 0, 1, 5);
    expect(&mut bench, 2);
    bench.pr_good(A, REGISTER_IGNORE, 0, 77, 1);
    expect(&mut bench, 3);
    bench.pr_good(B, REGISTER, 0, 0, 2);
    bench.pr_good(A, RESERVE, 1, 1, 0);
    bench.pr_good(A, RELEASE, 1, 1, 0);
    expect(&mut bench, 4);
    bench.pr_good(A, PREEMPT, 1, 1, 2);
    expect(&mut bench, 5);
    bench.pr_good(A, CLEAR, 0, 1, 0);
    expect(&mut bench, 6);
    bench.pr_good(A, REGISTER, 0, 0, 0);
    bench.pr_good(A, REGISTER_IGNORE, 0, 9, 0);
    expect(&mut bench, 6);
}

#[test]
fn registering_needs_the_right_key() {
    let mut bench = Bench::new();
    bench.pr_conflict(A, REGISTER, 0, 5, 1);
    bench.pr_good(A, REGISTER, 0, 0, 1);
    bench.pr_conflict(A, REGISTER, 0, 0, 2);
    bench.pr_conflict(A, REGISTER, 0, 9, 0);
    bench.pr_good(A, REGISTER, 0, 1, 2);
    assert_eq!(bench.keys().1, [2]);
    bench.pr_good(A, REGISTER, 0, 2, 0);
    bench.pr_conflict(A, REGISTER, 0, 2, 0);
    assert!(bench.keys().1.is_empty());
}

#[test]
fn every_other_action_needs_a_registration_with_its_key() {
    let mut bench = Bench::held(1);
    for action in [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT] {
        bench.pr_conflict(C, action, 1, 0, 1);
        bench.pr_conflict(B, action, 1, 1, 1);
    }
    assert_eq!(bench.reservation(), Some((1, 1)));
}

#[test]
fn the_registration_outlives_the_session() {
    let mut bench = Bench::held(3);
    bench.lu.detach(A);
    assert!(bench.conflicts(C, &READ, &[]));
    bench.lu.attach(NexusId(9), &port("a"));
    assert!(!bench.conflicts(NexusId(9), &READ, &[]));
    bench.lu.reset(None);
    assert_eq!(bench.attention(C), Some((0x29, 4)));
    assert!(bench.conflicts(C, &READ, &[]), "a reset does not release");
    bench.lu.attach(NexusId(10), &port("other"));
    assert!(bench.conflicts(NexusId(10), &READ, &[]));
}

#[test]
fn releasing_checks_holder_and_type() {
    let mut bench = Bench::held(5);
    bench.pr_good(B, RELEASE, 5, 2, 0);
    assert_eq!(bench.reservation(), Some((1, 5)), "not the holder");
    assert_eq!(code(&bench.pr(A, RELEASE, 6, 1, 0)), (5, 0x26, 4));
    bench.pr_good(A, RELEASE, 5, 1, 0);
    assert_eq!(bench.reservation(), None);
    assert_eq!(bench.attention(B), Some((0x2A, 4)));
    assert_eq!(bench.attention(A), None);
    bench.pr_good(A, RELEASE, 5, 1, 0);
    let mut bench = Bench::held(1);
    bench.pr_good(A, RELEASE, 1, 1, 0);
    assert_eq!(bench.attention(B), None, "write exclusive tells nobody");
}

#[test]
fn clear_removes_everything_and_tells_the_others() {
    let mut bench = Bench::held(8);
    bench.pr_good(B, CLEAR, 0, 2, 0);
    assert!(bench.keys().1.is_empty());
    assert_eq!(bench.reservation(), None);
    assert_eq!(bench.attention(A), Some((0x2A, 3)));
    assert_eq!((bench.attention(B), bench.attention(C)), (None, None));
}

#[test]
fn preempting_the_holder_takes_the_reservation() {
    for kind in [1, 3, 5, 6] {
        let mut bench = Bench::held(kind);
        bench.pr_good(C, REGISTER, 0, 0, 3);
        bench.pr_good(B, PREEMPT, 8, 2, 1);
        assert_eq!(bench.keys().1, [2, 3]);
        assert_eq!(bench.reservation(), Some((0, 8)));
        assert_eq!(bench.attention(A), Some((0x2A, 5)));
        assert_eq!(bench.attention(B), None);
        assert_eq!(bench.attention(C), Some((0x2A, 4)), "the type changed");
        assert!(bench.conflicts(A, &READ, &[]));
    }
}

#[test]
fn preempting_another_registrant_only_removes_it() {
    for kind in TYPES {
        let mut bench = Bench::held(kind);
        bench.pr_good(A, PREEMPT, 1, 1, 2);
        assert_eq!(bench.keys().1, [1]);
        let key = if kind >= 7 { 0 } else { 1 };
        assert_eq!(bench.reservation(), Some((key, kind)));
        assert_eq!(bench.attention(B), Some((0x2A, 5)));
    }
}

#[test]
fn preempting_with_key_zero_needs_an_all_registrants_type() {
    for kind in [1, 3, 5, 6] {
        let mut bench = Bench::held(kind);
        assert_eq!(code(&bench.pr(B, PREEMPT, 1, 2, 0)), LIST_FIELD);
    }
    for kind in [7, 8] {
        let mut bench = Bench::held(kind);
        bench.pr_good(B, PREEMPT, 3, 2, 0);
        assert_eq!(bench.keys().1, [2]);
        assert_eq!(bench.reservation(), Some((2, 3)));
    }
}

#[test]
fn preempting_nobody_is_a_conflict() {
    let mut bench = Bench::held(1);
    bench.pr_conflict(B, PREEMPT, 1, 2, 99);
    bench.pr_conflict(B, PREEMPT, 1, 2, 2);
    let (generation, keys) = bench.keys();
    assert_eq!((generation, keys), (2, vec![1, 2]));
}

#[test]
fn a_holder_preempts_itself_to_change_the_type() {
    let mut bench = Bench::held(5);
    bench.pr_good(A, PREEMPT, 3, 1, 1);
    assert_eq!(bench.keys().1, [1, 2]);
    assert_eq!(bench.reservation(), Some((1, 3)));
    assert_eq!(bench.attention(B), Some((0x2A, 4)));
}

#[test]
fn preempt_and_abort_names_the_sessions_to_abort() {
    let mut bench = Bench::held(1);
    bench.lu.attach(NexusId(9), &port("a"));
    let reply = bench.pr(B, PREEMPT_ABORT, 1, 2, 1);
    assert_eq!(
        (reply.status, reply.abort),
        (status::GOOD, vec![A, NexusId(9)])
    );
    let mut bench = Bench::held(1);
    assert_eq!(bench.pr(B, PREEMPT, 1, 2, 1).abort, []);
}

#[test]
fn parameter_lists_of_any_other_length_are_refused() {
    let mut bench = Bench::new();
    for action in 0..7 {
        for len in (0..=64u8).filter(|len| *len != 24) {
            let cdb = [0x5F, action, 1, 0, 0, 0, 0, 0, len, 0];
            assert_eq!(bench.bad_out(&cdb, &[0; 64]), LIST_LENGTH);
        }
        for cut in 0..24 {
            let cdb = [0x5F, action, 1, 0, 0, 0, 0, 0, 24, 0];
            assert_eq!(bench.bad_out(&cdb, &list(0, 1)[..cut]), LIST_LENGTH);
        }
    }
    assert_eq!(bench.keys(), (0, vec![]));
}

#[test]
fn what_is_not_supported_is_refused() {
    let mut bench = Bench::new();
    for action in 8..32 {
        assert_eq!(code(&bench.pr(A, action, 1, 0, 0)), ILLEGAL_FIELD);
        assert!(action < 4 || bench.bad(&[0x5E, action, 0, 0, 0, 0, 0, 0, 8, 0]) == ILLEGAL_FIELD);
    }
    bench.pr_good(A, REGISTER, 0, 0, 1);
    for kind in [0, 2, 4, 9, 0x0F, 0x11, 0x23] {
        assert_eq!(code(&bench.pr(A, RESERVE, kind, 1, 0)), ILLEGAL_FIELD);
    }
}

#[test]
fn the_table_of_registrants_has_an_end() {
    let mut bench = Bench::new();
    for number in 0..crate::limits::REGISTRANTS_MAX as u64 {
        let nexus = NexusId(100 + number);
        bench.lu.attach(nexus, &port(&number.to_string()));
        bench.pr_good(nexus, REGISTER, 0, 0, 1);
    }
    assert_eq!(code(&bench.pr(A, REGISTER, 0, 0, 1)), (5, 0x55, 4));
}

#[test]
fn read_answers_have_the_full_length_however_little_is_wanted() {
    let mut bench = Bench::held(5);
    for alloc in 0..=16u8 {
        let data = bench.good(&[0x5E, 0, 0, 0, 0, 0, 0, 0, alloc, 0]);
        assert_eq!(data.len(), usize::from(alloc));
        assert!(alloc < 8 || data[4..8] == [0, 0, 0, 16]);
    }
    assert_eq!(
        bench.good(&[0x5E, 2, 0, 0, 0, 0, 0, 0, 255, 0]),
        [0, 8, 0x1D, 0x80, 0xEA, 1, 0, 0]
    );
}

#[test]
fn full_status_gives_each_registrant_its_own_key_and_name() {
    let mut bench = Bench::held(5);
    let data = bench.good(&[0x5E, 3, 0, 0, 0, 0, 0, 4, 0, 0]);
    let mut rest = &data[8..];
    for (key, holds, name) in [(1, true, "a"), (2, false, "b")] {
        let port = port(name);
        let padded = (port.len() + 1).next_multiple_of(4);
        let (entry, tail) = rest.split_at(24 + 4 + padded);
        assert_eq!(entry[..8], u64::to_be_bytes(key));
        assert_eq!(entry[12..14], if holds { [1, 5] } else { [0, 0] });
        assert_eq!(
            entry[18..24],
            [0, 1, 0, 0, 0, u8::try_from(padded + 4).unwrap()]
        );
        assert_eq!(entry[24..28], [0x45, 0, 0, u8::try_from(padded).unwrap()]);
        assert_eq!(&entry[28..28 + port.len()], port.as_bytes());
        assert_eq!(entry[28 + port.len()], 0);
        rest = tail;
    }
    assert!(rest.is_empty());
}

const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const RELEASE_6: [u8; 6] = [0x17, 0, 0, 0, 0, 0];

#[test]
fn reserve_keeps_others_out_of_all_but_three_commands() {
    let mut bench = Bench::new();
    assert!(!bench.conflicts(A, &RESERVE_6, &[]));
    assert!(!bench.conflicts(A, &RESERVE_6, &[]));
    assert!(!bench.conflicts(A, &WRITE, &SECTOR));
    let shut: [&[u8]; 7] = [
        &TEST_READY,
        &RESERVE_6,
        &READ,
        &[0x1A, 0, 0x3F, 0, 255, 0],
        &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0],
        &cdb10(0x56, 0, 0, 0),
    ];
    for cdb in shut {
        assert!(bench.conflicts(B, cdb, &[]), "{cdb:02x?}");
    }
    for cdb in [
        &[0x12, 0, 0, 0, 36, 0][..],
        &[3, 0, 0, 0, 18, 0],
        &cdb12(0xA0, 0, 0, 16),
        &RELEASE_6,
    ] {
        assert!(!bench.conflicts(B, cdb, &[]));
    }
    assert!(
        bench.conflicts(B, &READ, &[]),
        "RELEASE by another changes nothing"
    );
    assert!(!bench.conflicts(A, &cdb10(0x57, 0, 0, 0), &[]));
    assert!(!bench.conflicts(B, &READ, &[]));
}

#[test]
fn reserve_ends_with_the_session_and_with_a_reset() {
    let mut bench = Bench::new();
    bench.good(&RESERVE_6);
    bench.lu.detach(A);
    assert!(!bench.conflicts(B, &RESERVE_6, &[]));
    bench.lu.reset(Some(C));
    assert_eq!(bench.attention(C), Some((0x29, 3)));
    assert!(!bench.conflicts(C, &RESERVE_6, &[]));
}

#[test]
fn the_two_ways_to_reserve_do_not_mix() {
    let mut bench = Bench::new();
    bench.pr_good(B, REGISTER, 0, 0, 2);
    assert!(bench.conflicts(A, &RESERVE_6, &[]));
    assert!(bench.conflicts(B, &RESERVE_6, &[]));
    assert!(bench.conflicts(A, &RELEASE_6, &[]));
    assert!(bench.conflicts(B, &RELEASE_6, &[]));
    bench.pr_good(B, REGISTER, 0, 2, 0);
    bench.good(&RESERVE_6);
    bench.pr_conflict(A, REGISTER, 0, 0, 1);
    assert!(bench.conflicts(A, &[0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[]));
}

#[test]
fn whoever_shares_in_a_persistent_reservation_reserves_in_vain_and_well() {
    for kind in TYPES {
        let mut bench = Bench::held(kind);
        for cdb in [
            &RESERVE_6[..],
            &RELEASE_6,
            &cdb10(0x56, 0, 0, 0),
            &cdb10(0x57, 0, 0, 0),
        ] {
            assert!(!bench.conflicts(A, cdb, &[]), "the holder, {kind}");
            assert_eq!(
                !bench.conflicts(B, cdb, &[]),
                kind >= 5,
                "a registrant, {kind}"
            );
            assert!(bench.conflicts(C, cdb, &[]), "a stranger, {kind}");
        }
        let key = if kind >= 7 { 0 } else { 1 };
        assert_eq!(bench.reservation(), Some((key, kind)));
        bench.pr_good(A, CLEAR, 0, 1, 0);
        assert!(
            !bench.conflicts(C, &READ, &[]),
            "nothing was reserved, {kind}"
        );
    }
}

#[test]
fn third_parties_and_extents_are_refused() {
    let mut bench = Bench::new();
    for flags in [0x10, 0x01] {
        assert_eq!(bench.bad(&[0x16, flags, 0, 0, 0, 0]), ILLEGAL_FIELD);
        assert_eq!(bench.bad(&[0x17, flags, 0, 0, 0, 0]), ILLEGAL_FIELD);
    }
    assert_eq!(bench.bad(&cdb10(0x56, 0x02, 0, 0)), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&cdb10(0x57, 0x00, 0, 8)), ILLEGAL_FIELD);
}

#[test]
fn a_reservation_made_meanwhile_does_not_stop_a_write_on_its_way() {
    let mut bench = Bench::new();
    assert!(matches!(bench.lu.begin(B, &WRITE), Step::Data { .. }));
    bench.good(&RESERVE_6);
    assert!(matches!(
        bench.lu.data_out(B, &WRITE, &SECTOR),
        Step::Run(_)
    ));
}
