//! Persistent reservations beyond one port and one life: APTPL, SPEC_I_PT, ALL_TG_PT, REGISTER AND MOVE.

use super::reservations::*;
use super::*;

const APTPL: u8 = 0x01;
const ALL_TG_PT: u8 = 0x04;
const SPEC_I_PT: u8 = 0x08;
/// REGISTER AND MOVE: UNREG, APTPL.
const UNREG: u8 = 0x02;

const WRITE: [u8; 10] = [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const SECTOR: [u8; 512] = [1; 512];

/// A TransportID: of a port (01b), or of a device (00b).
fn transport_id(format: u8, name: &str) -> Vec<u8> {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    text.resize(text.len().next_multiple_of(4).max(20), 0);
    let mut id = vec![format << 6 | 5, 0];
    id.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
    id.extend_from_slice(&text);
    id
}

fn cdb_of(action: u8, kind: u8, len: usize) -> [u8; 10] {
    let [a, b, c, d] = u32::try_from(len).unwrap().to_be_bytes();
    [0x5F, action, kind, 0, 0, a, b, c, d, 0]
}

impl Bench {
    /// REGISTER or REGISTER AND IGNORE EXISTING KEY with flags.
    fn register(&mut self, nexus: NexusId, action: u8, keys: (u64, u64), flags: u8) -> Reply {
        let mut list = list(keys.0, keys.1);
        list[20] = flags;
        self.run(nexus, &cdb_of(action, 0, 24), &list)
    }

    fn register_with(
        &mut self,
        nexus: NexusId,
        keys: (u64, u64),
        flags: u8,
        ids: &[Vec<u8>],
    ) -> Reply {
        let mut list = list(keys.0, keys.1);
        list[20] = flags | SPEC_I_PT;
        let ids = ids.concat();
        list.extend_from_slice(&u32::try_from(ids.len()).unwrap().to_be_bytes());
        list.extend_from_slice(&ids);
        self.run(nexus, &cdb_of(REGISTER, 0, list.len()), &list)
    }

    fn hand_over(&mut self, keys: (u64, u64), flags: u8, target_port: u16, id: &[u8]) -> Reply {
        let list = move_list(keys, flags, target_port, id);
        self.run(A, &cdb_of(MOVE, 0, list.len()), &list)
    }

    fn ports(&self) -> Vec<&str> {
        let stored = self.stored.as_ref().unwrap();
        stored.registrants.iter().map(|r| r.port.as_str()).collect()
    }
}

fn move_list(keys: (u64, u64), flags: u8, target_port: u16, id: &[u8]) -> Vec<u8> {
    let mut list = list(keys.0, keys.1);
    list[17] = flags;
    list[18..20].copy_from_slice(&target_port.to_be_bytes());
    list[20..24].copy_from_slice(&u32::try_from(id.len()).unwrap().to_be_bytes());
    list.extend_from_slice(id);
    list
}

fn good(reply: &Reply) {
    assert_eq!(reply.status, status::GOOD, "{reply:02x?}");
}

// --- APTPL ---

#[test]
fn with_aptpl_every_type_survives_a_restart_and_holds_on() {
    for kind in [1, 3, 5, 6, 7, 8] {
        let mut bench = Bench::new();
        good(&bench.register(A, REGISTER, (0, 1), APTPL));
        good(&bench.register(B, REGISTER, (0, 2), APTPL));
        bench.pr_good(A, RESERVE, kind, 1, 0);
        assert_eq!(bench.saves, 3);
        bench.restart();
        let key = if kind >= 7 { 0 } else { 1 };
        assert_eq!(bench.reservation(), Some((key, kind)));
        assert_eq!(bench.keys(), (0, vec![1, 2]), "PRGENERATION begins anew");
        assert!(!bench.conflicts(A, &WRITE, &SECTOR));
        assert_eq!(!bench.conflicts(B, &WRITE, &SECTOR), kind >= 5);
        assert!(bench.conflicts(C, &WRITE, &SECTOR));
        bench.pr_good(A, RELEASE, kind, 1, 0);
        bench.restart();
        assert_eq!(bench.reservation(), None, "a release is written down too");
    }
}

#[test]
fn without_aptpl_nothing_is_written_and_nothing_survives() {
    let mut bench = Bench::held(3);
    assert_eq!(bench.saves, 0);
    bench.restart();
    assert!(bench.keys().1.is_empty());
    assert!(!bench.conflicts(C, &WRITE, &SECTOR));
}

#[test]
fn the_last_registration_decides_about_aptpl() {
    let mut bench = Bench::new();
    let active = |bench: &mut Bench| bench.good(&[0x5E, 2, 0, 0, 0, 0, 0, 0, 8, 0])[3] & 1 != 0;
    good(&bench.register(A, REGISTER, (0, 1), APTPL));
    assert!(active(&mut bench));
    good(&bench.register(B, REGISTER_IGNORE, (0, 2), 0));
    assert!(!active(&mut bench));
    assert_eq!(bench.stored, None, "removed, and not only forgotten");
    good(&bench.register(A, REGISTER, (1, 1), APTPL));
    assert_eq!(bench.ports(), [port("a"), port("b")]);
    good(&bench.register(A, REGISTER, (1, 0), APTPL));
    assert_eq!(bench.ports(), [port("b")]);
    // What asks for nothing decides nothing.
    good(&bench.register(C, REGISTER, (0, 0), 0));
    assert!(active(&mut bench));
    good(&bench.register(B, REGISTER, (2, 0), APTPL));
    assert_eq!(bench.stored, None, "nobody is left");
}

#[test]
fn clear_and_preempt_are_written_down() {
    let mut bench = Bench::new();
    for (nexus, key) in [(A, 1), (B, 2), (C, 3)] {
        good(&bench.register(nexus, REGISTER, (0, key), APTPL));
    }
    bench.pr_good(A, RESERVE, 1, 1, 0);
    bench.pr_good(B, PREEMPT_ABORT, 3, 2, 1);
    assert_eq!(bench.ports(), [port("b"), port("c")]);
    bench.restart();
    assert_eq!(bench.reservation(), Some((2, 3)));
    bench.pr_good(B, CLEAR, 0, 2, 0);
    assert_eq!(bench.stored, None);
}

#[test]
fn a_change_that_cannot_be_written_down_does_not_happen() {
    for (end, status_told) in [
        (Saving::Failed, status::CHECK_CONDITION),
        (Saving::Busy, status::BUSY),
    ] {
        let mut bench = Bench::new();
        good(&bench.register(A, REGISTER, (0, 1), APTPL));
        good(&bench.register(B, REGISTER, (0, 2), APTPL));
        bench.pr_good(A, RESERVE, 1, 1, 0);
        let before = (bench.keys(), bench.look(3), bench.stored.clone());
        bench.saving = end;
        for (action, kind, key, new) in [
            (REGISTER, 0, 2, 0),
            (PREEMPT_ABORT, 1, 2, 1),
            (CLEAR, 0, 2, 0),
        ] {
            let mut list = list(key, new);
            list[20] = APTPL;
            let reply = bench.run(B, &cdb_of(action, kind, 24), &list);
            assert_eq!(reply.status, status_told);
            assert!(reply.abort.is_empty(), "nobody's commands end");
            if end == Saving::Failed {
                assert_eq!(code(&reply), (4, 0x44, 0));
            }
        }
        assert_eq!((bench.keys(), bench.look(3), bench.stored.clone()), before);
        assert_eq!(bench.attention(A), None, "and nobody hears of it");
        bench.saving = Saving::Done;
        bench.pr_good(B, PREEMPT, 1, 2, 1);
        assert_eq!(bench.attention(A), Some((0x2A, 5)));
    }
}

#[test]
fn while_a_change_is_written_down_all_is_as_before() {
    let mut bench = Bench::new();
    let mut aptpl = list(0, 1);
    aptpl[20] = APTPL;
    let register = cdb_of(REGISTER, 0, 24);
    let Step::Save(Some(kept)) = bench.lu.data_out(A, &register, &aptpl) else {
        panic!("not to be written down");
    };
    assert_eq!(kept.registrants.len(), 1);
    assert!(bench.keys().1.is_empty());
    for (cdb, out) in [
        (&register[..], &list(0, 2)[..]),
        (&[0x16, 0, 0, 0, 0, 0], &[]),
    ] {
        assert_eq!(bench.run(B, cdb, out).status, status::BUSY, "one at a time");
    }
    good(&bench.run(B, &WRITE, &SECTOR));
    good(&bench.lu.saved(Saving::Done));
    assert_eq!(bench.keys(), (1, vec![1]));
    assert_eq!(
        code(&bench.lu.saved(Saving::Done)),
        (4, 0x44, 0),
        "nothing was asked"
    );
}

#[test]
fn a_reset_of_the_unit_keeps_what_is_stored() {
    let mut bench = Bench::new();
    good(&bench.register(A, REGISTER, (0, 1), APTPL));
    bench.pr_good(A, RESERVE, 3, 1, 0);
    bench.lu.reset(Some(C));
    assert_eq!(bench.attention(A), Some((0x29, 3)));
    assert_eq!(bench.reservation(), Some((1, 3)));
    assert_eq!(bench.ports(), [port("a")]);
}

// --- ALL_TG_PT ---

#[test]
fn all_target_ports_are_one_and_full_status_tells_who_asked_for_all() {
    let mut bench = Bench::new();
    good(&bench.register(A, REGISTER, (0, 1), ALL_TG_PT));
    good(&bench.register(B, REGISTER, (0, 2), 0));
    bench.pr_good(A, RESERVE, 5, 1, 0);
    let data = bench.look(3);
    let second = 8 + 24 + usize::from(data[8 + 23]);
    assert_eq!(
        (data[8 + 12], data[8 + 13]),
        (0x03, 5),
        "ALL_TG_PT, R_HOLDER"
    );
    assert_eq!((data[second + 12], data[second + 13]), (0x00, 0));
    assert_eq!(data[8 + 18..8 + 20], [0, 1], "relative target port");
}

// --- SPEC_I_PT ---

#[test]
fn a_new_registrant_registers_others_with_itself() {
    let mut bench = Bench::new();
    let away = "iqn.2026-11.test:away,i,0x00023d000009";
    let ids = [transport_id(1, &port("b")), transport_id(1, away)];
    good(&bench.register_with(A, (0, 7), APTPL, &ids));
    assert_eq!(bench.keys(), (1, vec![7, 7, 7]));
    assert_eq!(bench.ports(), [&port("a"), &port("b"), away]);
    bench.pr_good(B, RESERVE, 5, 7, 0);
    bench.lu.attach(NexusId(9), away);
    assert!(
        !bench.conflicts(NexusId(9), &WRITE, &SECTOR),
        "it was not there then"
    );
    assert!(bench.conflicts(C, &WRITE, &SECTOR));
    assert_eq!(bench.attention(B), None);
}

#[test]
fn a_device_means_all_its_ports_that_are_known() {
    let mut bench = Bench::new();
    bench
        .lu
        .attach(NexusId(8), "iqn.2026-11.test:b,i,0x00023d000002");
    bench
        .lu
        .attach(NexusId(9), "iqn.2026-11.test:bb,i,0x00023d000001");
    good(&bench.register_with(A, (0, 7), APTPL, &[transport_id(0, "iqn.2026-11.test:b")]));
    let expected = [
        &port("a"),
        &port("b"),
        "iqn.2026-11.test:b,i,0x00023d000002",
    ];
    assert_eq!(bench.ports(), expected);
    let unknown = [transport_id(0, "iqn.2026-11.test:nobody")];
    assert_eq!(
        code(&bench.register_with(C, (0, 7), 0, &unknown)),
        LIST_FIELD
    );
    assert_eq!(bench.keys().1.len(), 3);
}

#[test]
fn who_is_registered_keeps_the_key_it_has() {
    let mut bench = Bench::new();
    good(&bench.register(B, REGISTER, (0, 2), 0));
    good(&bench.register_with(A, (0, 7), 0, &[transport_id(1, &port("b"))]));
    assert_eq!(bench.keys().1, [2, 7]);
}

#[test]
fn only_a_new_registrant_may_name_others() {
    let mut bench = Bench::new();
    let ids = [transport_id(1, &port("b"))];
    good(&bench.register(A, REGISTER, (0, 1), 0));
    for new in [0, 5] {
        assert_eq!(code(&bench.register_with(A, (1, new), 0, &ids)), LIST_FIELD);
    }
    assert_eq!(
        bench.register_with(C, (9, 5), 0, &ids).status,
        status::RESERVATION_CONFLICT
    );
    // With IGNORE EXISTING KEY nobody may.
    assert_eq!(
        code(&bench.register(C, REGISTER_IGNORE, (0, 5), SPEC_I_PT)),
        LIST_FIELD
    );
    assert_eq!(bench.keys(), (1, vec![1]));
}

#[test]
fn a_list_of_transport_ids_is_checked_whole_before_anything_is_registered() {
    let mut bench = Bench::new();
    let whole = {
        let mut list = list(0, 7);
        list[20] = SPEC_I_PT;
        let ids = [transport_id(1, &port("b")), transport_id(1, &port("c"))].concat();
        list.extend_from_slice(&u32::try_from(ids.len()).unwrap().to_be_bytes());
        list.extend_from_slice(&ids);
        list
    };
    for cut in 24..whole.len() {
        // The list ends early, by the CDB or on the wire.
        assert_eq!(
            bench.bad_out(&cdb_of(REGISTER, 0, cut), &whole[..cut]),
            LIST_LENGTH
        );
        assert_eq!(
            bench.bad_out(&cdb_of(REGISTER, 0, whole.len()), &whole[..cut]),
            LIST_LENGTH
        );
    }
    let mut long = whole.clone();
    long.extend_from_slice(&[0; 4]);
    assert_eq!(
        bench.bad_out(&cdb_of(REGISTER, 0, long.len()), &long),
        LIST_LENGTH
    );
    let second = 28 + transport_id(1, &port("b")).len();
    let mut fibre_channel = whole.clone();
    fibre_channel[second] = 0x00;
    assert_eq!(
        bench.bad_out(&cdb_of(REGISTER, 0, whole.len()), &fibre_channel),
        LIST_FIELD
    );
    assert_eq!(
        bench.bad_out(&cdb_of(REGISTER, 0, usize::from(u16::MAX)), &whole),
        LIST_LENGTH
    );
    assert_eq!(bench.keys(), (0, vec![]));
    assert_eq!(bench.saves, 0);
    good(&bench.run(A, &cdb_of(REGISTER, 0, whole.len()), &whole));
}

#[test]
fn others_that_do_not_fit_the_table_are_all_refused() {
    let mut bench = Bench::new();
    for number in 0..crate::limits::REGISTRANTS_MAX as u64 - 2 {
        let nexus = NexusId(100 + number);
        bench.lu.attach(nexus, &port(&number.to_string()));
        bench.pr_good(nexus, REGISTER, 0, 0, 1);
    }
    let before = bench.keys();
    let ids = [transport_id(1, &port("b")), transport_id(1, &port("c"))];
    assert_eq!(code(&bench.register_with(A, (0, 7), 0, &ids)), (5, 0x55, 4));
    assert_eq!(bench.keys(), before);
    good(&bench.register_with(A, (0, 7), 0, &ids[..1]));
}

// --- REGISTER AND MOVE ---

#[test]
fn the_holder_hands_its_reservation_on() {
    for kind in [1, 3, 5, 6] {
        for (flags, keys) in [(0, vec![1, 2, 9]), (UNREG, vec![2, 9])] {
            let mut bench = Bench::held(kind);
            let to = transport_id(1, &port("c"));
            good(&bench.hand_over((1, 9), flags, 1, &to));
            assert_eq!(bench.keys(), (3, keys), "{kind} {flags}");
            assert_eq!(bench.reservation(), Some((9, kind)));
            assert!(!bench.conflicts(C, &WRITE, &SECTOR));
            let a_writes = kind >= 5 && flags == 0;
            assert_eq!(!bench.conflicts(A, &WRITE, &SECTOR), a_writes);
            assert_eq!((bench.attention(B), bench.attention(C)), (None, None));
        }
    }
}

#[test]
fn moving_to_a_registrant_changes_its_key() {
    let mut bench = Bench::held(1);
    good(&bench.hand_over((1, 22), 0, 1, &transport_id(1, &port("b"))));
    assert_eq!(bench.keys().1, [1, 22]);
    assert_eq!(bench.reservation(), Some((22, 1)));
}

#[test]
fn a_move_carries_aptpl() {
    let mut bench = Bench::held(3);
    let away = "iqn.2026-11.test:away,i,0x00023d000009";
    good(&bench.hand_over((1, 9), UNREG | APTPL, 1, &transport_id(1, away)));
    assert_eq!(bench.ports(), [&port("b"), away]);
    bench.restart();
    assert_eq!(bench.reservation(), Some((9, 3)));
    bench.lu.attach(NexusId(9), away);
    assert!(!bench.conflicts(NexusId(9), &WRITE, &SECTOR));
}

#[test]
fn only_the_holder_moves_and_only_to_one_other_port() {
    let to = transport_id(1, &port("c"));
    let mut bench = Bench::new();
    let conflict = status::RESERVATION_CONFLICT;
    assert_eq!(
        bench.hand_over((0, 9), 0, 1, &to).status,
        conflict,
        "a stranger"
    );
    bench.pr_good(A, REGISTER, 0, 0, 1);
    assert_eq!(
        bench.hand_over((1, 9), 0, 1, &to).status,
        conflict,
        "nothing is held"
    );
    let mut bench = Bench::held(3);
    assert_eq!(
        bench.hand_over((2, 9), 0, 1, &to).status,
        conflict,
        "wrong key"
    );
    for kind in [7, 8] {
        let reply = Bench::held(kind).hand_over((1, 9), 0, 1, &to);
        assert_eq!(reply.status, conflict, "all hold it together");
    }
    for (new, target_port, id) in [
        (0, 1, to.clone()),
        (9, 0, to.clone()),
        (9, 2, to.clone()),
        (9, 1, transport_id(1, &port("a"))),
        (9, 1, transport_id(0, "iqn.2026-11.test:c")),
        (9, 1, [to.clone(), transport_id(1, &port("b"))].concat()),
        (9, 1, Vec::new()),
    ] {
        assert_eq!(
            code(&bench.hand_over((1, new), 0, target_port, &id)),
            LIST_FIELD
        );
    }
    let list = move_list((1, 9), 0, 1, &to);
    for cut in 0..list.len() {
        let cdb = cdb_of(MOVE, 0, list.len());
        assert_eq!(bench.bad_out(&cdb, &list[..cut]), LIST_LENGTH);
        assert_eq!(
            bench.bad_out(&cdb_of(MOVE, 0, cut), &list[..cut]),
            LIST_LENGTH
        );
    }
    assert_eq!(bench.keys(), (2, vec![1, 2]));
    assert_eq!(bench.reservation(), Some((1, 3)));
}

// --- several sessions of one port, sessions that come back ---

#[test]
fn who_comes_back_with_its_isid_is_the_registrant_and_hears_only_what_comes_then() {
    let mut bench = Bench::held(1);
    bench.lu.detach(A);
    bench.pr_good(B, PREEMPT, 3, 2, 1);
    let again = NexusId(9);
    bench.lu.attach(again, &port("a"));
    assert_eq!(bench.attention(again), None, "it was not there");
    assert!(bench.conflicts(again, &WRITE, &SECTOR));
    bench.pr_good(again, REGISTER, 0, 0, 5);
    bench.lu.detach(again);
    bench.lu.attach(A, &port("a"));
    bench.pr_good(A, PREEMPT, 3, 5, 2);
    assert_eq!(bench.attention(B), Some((0x2A, 5)));
    assert_eq!(bench.attention(C), None, "C was never registered");
}
