//! EXTENDED COPY(LID1) and RECEIVE COPY RESULTS.

use super::*;
use crate::limits::{COPIES_MAX, COPY_SEGMENTS_MAX, COPY_TARGETS_MAX};

fn extended(len: usize) -> [u8; 16] {
    cdb16(0x83, 0, 0, u32::try_from(len).unwrap())
}

fn status_of(list: u8) -> [u8; 16] {
    let mut cdb = cdb16(0x84, 0, 0, 255);
    cdb[2] = list;
    cdb
}

/// An identification descriptor with this designator.
fn target(code_set: u8, kind: u8, designator: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xE4, 0, 0, 0, code_set, kind, 0];
    bytes.push(u8::try_from(designator.len()).unwrap());
    bytes.extend_from_slice(designator);
    bytes.resize(28, 0);
    bytes.extend_from_slice(&[0, 0, 2, 0]);
    bytes
}

fn me() -> Vec<u8> {
    target(1, 3, &config().naa)
}

fn segment(indices: (u16, u16), blocks: u16, from: u64, to: u64) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0x18];
    bytes.extend_from_slice(&indices.0.to_be_bytes());
    bytes.extend_from_slice(&indices.1.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&blocks.to_be_bytes());
    bytes.extend_from_slice(&from.to_be_bytes());
    bytes.extend_from_slice(&to.to_be_bytes());
    bytes
}

fn list(id: u8, usage: u8, targets: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (targets, segments) = (targets.concat(), segments.concat());
    let mut bytes = vec![id, usage << 3];
    bytes.extend_from_slice(&u16::try_from(targets.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&u32::try_from(segments.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&targets);
    bytes.extend_from_slice(&segments);
    bytes
}

fn copy(bench: &mut Bench, list: &[u8]) -> Reply {
    bench.run(A, &extended(list.len()), list)
}

#[test]
fn segments_are_copied_in_their_order() {
    let mut bench = Bench::new();
    let data = pattern(16 * 512);
    bench.good_out(&cdb16(0x8A, 0, 0, 16), &data);
    let segments = [segment((0, 1), 16, 0, 100), segment((0, 0), 4, 100, 0)];
    let reply = copy(&mut bench, &list(1, 2, &[me(), me()], &segments));
    assert_eq!(reply.status, status::GOOD);
    assert_eq!(bench.good(&cdb16(0x88, 0, 100, 16)), data);
    assert_eq!(bench.good(&cdb16(0x88, 0, 0, 16)), data);
}

#[test]
fn only_this_very_disk_can_be_named() {
    let mut bench = Bench::new();
    let mut other = config().naa;
    other[15] ^= 1;
    let vendor = super::super::inquiry::vendor_id(&config());
    let named = target(2, 1, &vendor[..vendor.len().min(20)]);
    for stranger in [
        target(1, 3, &other),
        target(1, 3, &config().naa[..8]),
        target(1, 0x13, &config().naa),
        target(3, 8, b"naa.6202"),
        named,
    ] {
        let list = list(1, 2, &[me(), stranger], &[segment((0, 1), 1, 0, 9)]);
        assert_eq!(code(&copy(&mut bench, &list)), (0xA, 0x0D, 2));
    }
    assert!(bench.ops.is_empty());
    let vendor_target = config();
    let short = LuConfig {
        serial: String::new(),
        ..vendor_target
    };
    let vendor = super::super::inquiry::vendor_id(&short);
    assert!(vendor.len() > 20, "a vendor id never fits the descriptor");
}

#[test]
fn nothing_is_copied_when_anything_is_wrong() {
    let mut bench = Bench::new();
    let good = segment((0, 0), 1, 0, 9);
    let beyond = segment((0, 0), 2, 0, BLOCKS - 1);
    let reply = copy(&mut bench, &list(1, 2, &[me()], &[good.clone(), beyond]));
    assert_eq!(code(&reply), (0xA, 0, 0));
    let index = segment((0, 1), 1, 0, 9);
    let reply = copy(&mut bench, &list(1, 2, &[me()], &[good.clone(), index]));
    assert_eq!(code(&reply), (0xA, 0x0D, 2));
    let mut stream = good.clone();
    stream[0] = 3;
    let reply = copy(&mut bench, &list(1, 2, &[me()], &[good.clone(), stream]));
    assert_eq!(code(&reply), (5, 0x26, 9));
    let mut fibre = me();
    fibre[0] = 0xE0;
    let reply = copy(
        &mut bench,
        &list(1, 2, &[fibre], std::slice::from_ref(&good)),
    );
    assert_eq!(code(&reply), (5, 0x26, 7));
    let mut inline = list(1, 2, &[me()], &[good]);
    inline[15] = 4;
    assert_eq!(code(&copy(&mut bench, &inline)), (5, 0x26, 0x0B));
    assert!(bench.ops.is_empty());
}

#[test]
fn lists_that_are_cut_or_too_long_are_refused() {
    let mut bench = Bench::new();
    let whole = list(1, 2, &[me()], &[segment((0, 0), 1, 0, 9)]);
    for cut in [1, 15, 16 + 31, whole.len() - 1] {
        assert_eq!(code(&copy(&mut bench, &whole[..cut])), LIST_LENGTH, "{cut}");
    }
    bench.good(&extended(0));
    let targets = vec![me(); usize::from(COPY_TARGETS_MAX) + 1];
    let segments = vec![segment((0, 0), 1, 0, 9); usize::from(COPY_SEGMENTS_MAX) + 1];
    let many = list(1, 2, &targets, &segments[..1]);
    assert_eq!(code(&copy(&mut bench, &many)), (5, 0x26, 6));
    let many = list(1, 2, &targets[..1], &segments);
    assert_eq!(code(&copy(&mut bench, &many)), (5, 0x26, 8));
    let many = list(1, 2, &targets, &segments);
    assert_eq!(code(&copy(&mut bench, &many)), LIST_LENGTH);
}

#[test]
fn a_held_result_is_told_once_and_only_to_its_nexus() {
    let mut bench = Bench::new();
    assert_eq!(bench.bad(&status_of(7)), ILLEGAL_FIELD);
    let list = list(7, 0, &[me()], &[segment((0, 0), 1, 0, 9)]);
    assert_eq!(copy(&mut bench, &list).status, status::GOOD);
    assert_eq!(code(&bench.run(B, &status_of(7), &[])), ILLEGAL_FIELD);
    let told = bench.good(&status_of(7));
    assert_eq!(told, [0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(bench.bad(&status_of(7)), ILLEGAL_FIELD);
}

#[test]
fn a_discarded_result_and_that_of_a_lost_nexus_are_not_held() {
    let mut bench = Bench::new();
    let one = [segment((0, 0), 1, 0, 9)];
    copy(&mut bench, &list(7, 2, &[me()], &one));
    assert_eq!(bench.bad(&status_of(7)), ILLEGAL_FIELD);
    copy(&mut bench, &list(7, 0, &[me()], &one));
    bench.lu.attach(A, &port("a"));
    assert_eq!(bench.bad(&status_of(7)), ILLEGAL_FIELD);
}

#[test]
fn a_copy_under_way_says_so_and_there_is_room_for_few() {
    let mut bench = Bench::new();
    let held = list(7, 0, &[me()], &[segment((0, 0), 1, 0, 9)]);
    let cdb = extended(held.len());
    for _ in 0..COPIES_MAX {
        assert!(matches!(bench.lu.data_out(A, &cdb, &held), Step::Run(_)));
    }
    assert_eq!(bench.good(&status_of(7))[4], 0);
    let Step::Reply(full) = bench.lu.data_out(A, &cdb, &held) else {
        panic!("one too many");
    };
    assert_eq!(full.status, status::BUSY);
    let failed = Outcome::Copied {
        list: Some(7),
        segments: 0,
        failure: Some(Failure::MediumRead),
    };
    assert_eq!(code(&bench.lu.done(A, &cdb, failed)), (0xA, 0x0D, 1));
    assert_eq!(bench.good(&status_of(7))[4], 2);
    assert!(matches!(bench.lu.data_out(A, &cdb, &held), Step::Run(_)));
}

#[test]
fn copies_obey_reservations_and_write_protection() {
    let mut bench = Bench::new();
    let list = list(1, 2, &[me()], &[segment((0, 0), 1, 0, 9)]);
    assert!(!bench.conflicts(B, &[0x16, 0, 0, 0, 0, 0], &[]));
    assert!(bench.conflicts(A, &extended(list.len()), &list));
    assert!(bench.conflicts(A, &status_of(1), &[]));
    let mut bench = with_traits(Traits {
        read_only: true,
        ..Traits::default()
    });
    assert_eq!(code(&copy(&mut bench, &list)), (7, 0x27, 0));
}

#[test]
fn parameters_and_page_say_what_there_is() {
    let mut bench = Bench::new();
    let told = bench.good(&cdb16(0x84, 3, 0, 255));
    assert_eq!(told.len(), 46);
    assert_eq!(told[..4], 42u32.to_be_bytes());
    assert_eq!(told[8..10], COPY_TARGETS_MAX.to_be_bytes());
    assert_eq!(told[10..12], COPY_SEGMENTS_MAX.to_be_bytes());
    assert_eq!(told[43..], [2, 0x02, 0xE4]);
    let page = bench.good(&[0x12, 1, 0x8F, 0, 255, 0]);
    assert_eq!(page.len() % 4, 0);
    assert_eq!(page[4..8], [0, 1, 0, 8]);
    assert_eq!(bench.good(&[0x12, 0, 0, 0, 96, 0])[5] & 8, 8, "3PC");
}
