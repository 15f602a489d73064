//! Disk traits: removable, write-protected, 512n.

use super::*;

const EJECT: [u8; 6] = [0x1B, 0, 0, 0, 0x02, 0];
const LOAD: [u8; 6] = [0x1B, 0, 0, 0, 0x03, 0];
const PREVENT: [u8; 6] = [0x1E, 0, 0, 0, 1, 0];
const ALLOW: [u8; 6] = [0x1E, 0, 0, 0, 0, 0];
const NO_MEDIUM: (u8, u8, u8) = (2, 0x3A, 0);
const PREVENTED: (u8, u8, u8) = (5, 0x53, 2);

fn removable() -> Bench {
    with_traits(Traits {
        removable: true,
        ..Traits::default()
    })
}

#[test]
fn an_ejected_disk_is_not_ready_until_it_is_loaded() {
    let mut bench = removable();
    assert_eq!(bench.good(&[0x12, 0, 0, 0, 96, 0])[1], 0x80, "RMB");
    bench.good(&EJECT);
    assert_eq!(*bench.last_op(), BlockOp::Flush);
    for cdb in [
        &TEST_READY[..],
        &cdb10(0x25, 0, 0, 0),
        &cdb10(0x28, 0, 0, 1),
        &cdb10(0x2A, 0, 0, 1),
        &cdb10(0x34, 0, 0, 1),
        &cdb10(0x35, 0, 0, 1),
        &cdb10(0x42, 0, 0, 24),
        &cdb16(0x9E, 0x10, 0, 32),
        &cdb16(0x9E, 0x12, 0, 24),
        &cdb16(0x9C, 0, 0, 1),
        &cdb16(0x83, 0, 0, 16),
    ] {
        assert_eq!(bench.bad(cdb), NO_MEDIUM, "{cdb:02x?}");
    }
    bench.good(&[0x12, 0, 0, 0, 96, 0]);
    bench.good(&[0x1A, 0, 0x3F, 0, 255, 0]);
    let sense = bench.good(&[0x03, 0, 0, 0, 18, 0]);
    assert_eq!((sense[2], sense[12], sense[13]), NO_MEDIUM);
    bench.good(&EJECT);
    bench.good(&LOAD);
    bench.good(&TEST_READY);
    assert_eq!(code(&bench.run(B, &TEST_READY, &[])), (6, 0x28, 0));
}

#[test]
fn prevention_holds_the_medium_for_every_nexus_and_in_both_directions() {
    let mut bench = removable();
    bench.good(&PREVENT);
    assert_eq!(bench.bad(&EJECT), PREVENTED);
    assert_eq!(code(&bench.run(B, &EJECT, &[])), PREVENTED);
    bench.good(&TEST_READY);
    assert_eq!(bench.run(B, &ALLOW, &[]).status, status::GOOD);
    assert_eq!(
        bench.bad(&EJECT),
        PREVENTED,
        "one nexus cannot allow for another"
    );
    bench.good(&ALLOW);
    bench.good(&EJECT);
    bench.good(&PREVENT);
    assert_eq!(bench.bad(&LOAD), PREVENTED);
    bench.good(&ALLOW);
    bench.good(&LOAD);
}

#[test]
fn prevention_ends_with_its_nexus_and_with_a_reset() {
    let mut bench = removable();
    bench.good(&PREVENT);
    bench.lu.attach(A, &port("a"));
    bench.good(&EJECT);
    bench.good(&LOAD);
    bench.good(&PREVENT);
    bench.lu.reset(Some(A));
    assert_eq!(bench.bad(&TEST_READY), (6, 0x29, 3));
    bench.good(&EJECT);
}

#[test]
fn the_medium_is_back_when_nobody_is_left() {
    let mut bench = removable();
    bench.good(&EJECT);
    for nexus in [A, B, C] {
        bench.lu.detach(nexus);
    }
    bench.lu.attach(A, &port("a"));
    bench.good(&TEST_READY);
}

#[test]
fn a_fixed_disk_can_be_locked_and_not_ejected() {
    let mut bench = Bench::new();
    bench.good(&PREVENT);
    assert_eq!(bench.bad(&EJECT), ILLEGAL_FIELD);
    bench.good(&TEST_READY);
}

#[test]
fn power_conditions_never_eject() {
    let mut bench = removable();
    for condition in 1..16 {
        bench.good(&[0x1B, 1, 0, 0, condition << 4 | 0x02, 0]);
        bench.good(&TEST_READY);
    }
}

#[test]
fn new_traits_count_at_once_and_are_told() {
    let mut bench = removable();
    bench.good(&EJECT);
    bench.lu.set_traits(Traits {
        read_only: true,
        small_blocks: true,
        ..Traits::default()
    });
    assert_eq!(bench.bad(&TEST_READY), (6, 0x3F, 3));
    bench.good(&TEST_READY);
    assert_eq!(bench.bad(&cdb16(0x8A, 0, 0, 1)), (7, 0x27, 0));
    assert_eq!(bench.good(&cdb16(0x9E, 0x10, 0, 32))[13], 0, "512n");
    assert_eq!(bench.good(&[0x12, 1, 0xB0, 0, 255, 0])[6..8], [0, 1]);
    bench.lu.set_traits(Traits {
        read_only: true,
        small_blocks: true,
        ..Traits::default()
    });
    bench.good(&TEST_READY);
}
