//! MODE SENSE, MODE SELECT, unit attentions, and the small commands about the unit.

use super::*;

fn sense6(page: u8, flags: u8) -> [u8; 6] {
    [0x1A, flags, page, 0, 255, 0]
}

fn sense10(page: u8, flags: u8) -> [u8; 10] {
    [0x5A, flags, page, 0, 0, 0, 0, 1, 0, 0]
}

const DBD: u8 = 8;

/// A MODE SELECT(6) with one page.
fn select6(page: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let list = [&[0; 4], page].concat();
    (
        vec![0x15, 0x10, 0, 0, u8::try_from(list.len()).unwrap(), 0],
        list,
    )
}

const CONTROL: [u8; 12] = [0x0A, 10, 2, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];

fn control(d_sense: bool, swp: bool) -> [u8; 12] {
    let mut page = CONTROL;
    page[2] |= u8::from(d_sense) << 2;
    page[4] |= u8::from(swp) << 3;
    page
}

fn caching(wce: bool) -> [u8; 20] {
    let mut page = [0; 20];
    page[..3].copy_from_slice(&[8, 18, u8::from(wce) << 2]);
    page
}

#[test]
fn all_pages_are_the_single_pages_in_order() {
    let mut bench = Bench::new();
    for control in [0x00, 0x40, 0x80] {
        let all = bench.good(&sense6(control | 0x3F, DBD));
        assert_eq!(usize::from(all[0]) + 1, all.len());
        let mut joined = Vec::new();
        for page in [0x01, 0x08, 0x0A, 0x1C] {
            let one = bench.good(&sense6(control | page, DBD));
            assert_eq!(one[4], page);
            joined.extend_from_slice(&one[4..]);
        }
        assert_eq!(all[4..], joined);
        let subpages = bench.good(&[0x1A, DBD, control | 0x3F, 0xFF, 255, 0]);
        let provisioning = bench.good(&[0x1A, DBD, control | 0x1C, 0x02, 255, 0]);
        joined.extend_from_slice(&provisioning[4..]);
        assert_eq!(subpages[4..], joined);
        let both = bench.good(&[0x1A, DBD, control | 0x1C, 0xFF, 255, 0]);
        assert_eq!(both.len(), 4 + 12 + 24);
    }
}

#[test]
fn the_threshold_of_the_disk_is_in_its_mode_page_and_its_change_is_told() {
    let mut bench = Bench::new();
    let page = |bench: &mut Bench| bench.good(&[0x1A, DBD, 0x1C, 0x02, 255, 0])[4..].to_vec();
    let mut expected = [0; 24];
    expected[..4].copy_from_slice(&[0x5C, 2, 0, 20]);
    expected[16..18].copy_from_slice(&[0x01, 0x02]);
    assert_eq!(page(&mut bench), expected, "there is none");
    bench.lu.set_threshold(Some(3 << 30));
    assert_eq!(bench.bad(&[0; 6]), (6, 0x2A, 1));
    expected[16] = 0x81;
    expected[20..].copy_from_slice(&3072_u32.to_be_bytes());
    assert_eq!(page(&mut bench), expected);
    bench.lu.set_threshold(Some(3 << 30));
    bench.good(&[0; 6]);
    // LBPERE, so that an initiator knows that it is told.
    assert_eq!(bench.good(&sense6(0x01, DBD))[4 + 7], 0x80);
    // Given back as it came it changes nothing; anything else is refused.
    let (cdb, list) = select6(&expected);
    bench.good_out(&cdb, &list);
    let mut other = expected;
    other[23] = 1;
    let (cdb, list) = select6(&other);
    assert_eq!(bench.bad_out(&cdb, &list), LIST_FIELD);
    let (cdb, list) = select6(&expected[..20]);
    assert_eq!(bench.bad_out(&cdb, &list), (5, 0x1A, 0));
}

#[test]
fn headers_tell_of_dpo_fua_and_the_block_length() {
    let mut bench = Bench::new();
    let data = bench.good(&sense6(0x08, 0));
    assert_eq!(data[..12], [31, 0, 0x10, 8, 0, 0, 8, 0, 0, 0, 2, 0]);
    assert_eq!(data[12..], caching(true));
    let data = bench.good(&sense10(0x08, 0));
    assert_eq!(
        data[..16],
        [0, 34, 0, 0x10, 0, 0, 0, 8, 0, 0, 8, 0, 0, 0, 2, 0]
    );
    let data = bench.good(&sense10(0x08, 0x10));
    assert_eq!(data[..8], [0, 42, 0, 0x10, 1, 0, 0, 16]);
    assert_eq!(
        data[8..24],
        [0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0]
    );
}

#[test]
fn mode_sense_is_cut_at_every_allocation_length() {
    let mut bench = Bench::new();
    let whole = bench.good(&sense6(0x3F, 0));
    for alloc in 0..=255u8 {
        let cut = usize::from(alloc).min(whole.len());
        assert_eq!(bench.good(&[0x1A, 0, 0x3F, 0, alloc, 0]), whole[..cut]);
    }
}

#[test]
fn unknown_pages_and_saved_values_are_refused() {
    let mut bench = Bench::new();
    for page in [0x00, 0x02, 0x03, 0x19, 0x3E] {
        assert_eq!(bench.bad(&sense6(page, 0)), ILLEGAL_FIELD);
    }
    assert_eq!(bench.bad(&sense6(0xC8, 0)), (5, 0x39, 0));
    assert_eq!(bench.bad(&[0x1A, 0, 0x0A, 1, 255, 0]), ILLEGAL_FIELD);
}

#[test]
fn changeable_masks_show_wce_and_the_bits_of_the_control_page() {
    let mut bench = Bench::new();
    let data = bench.good(&sense6(0x7F, DBD));
    let set: Vec<_> = (4..data.len())
        .filter(|&at| data[at] != 0)
        .map(|at| (at, data[at]))
        .collect();
    // Page codes and lengths aside: WCE, D_SENSE, UA_INTLCK_CTRL and SWP, TAS.
    assert_eq!(
        set,
        [
            (4, 1),
            (5, 10),
            (16, 8),
            (17, 18),
            (18, 4),
            (36, 10),
            (37, 10),
            (38, 4),
            (40, 0x28),
            (41, 0x40),
            (48, 0x1C),
            (49, 10)
        ]
    );
}

#[test]
fn d_sense_changes_the_format_at_once() {
    let mut bench = Bench::new();
    let (cdb, list) = select6(&control(true, false));
    bench.good_out(&cdb, &list);
    let reply = bench.run(A, &cdb10(0x28, 0, u32::MAX, 1), &[]);
    assert_eq!(
        reply.sense.unwrap().as_slice(),
        [0x72, 5, 0x21, 0, 0, 0, 0, 0]
    );
    let (cdb, list) = select6(&control(false, false));
    bench.good_out(&cdb, &list);
    let reply = bench.run(A, &cdb10(0x28, 0, u32::MAX, 1), &[]);
    assert_eq!(reply.sense.unwrap().as_slice()[0], 0x70);
}

#[test]
fn swp_protects_and_shows() {
    let mut bench = Bench::new();
    let (cdb, list) = select6(&control(false, true));
    bench.good_out(&cdb, &list);
    assert_eq!(
        bench.bad_out(&cdb10(0x2A, 0, 0, 1), &[1; 512]),
        (7, 0x27, 2)
    );
    assert_eq!(bench.good(&sense6(0x0A, DBD))[2], 0x90);
    assert_eq!(bench.good(&sense6(0x0A, DBD))[4..], control(false, true));
    assert_eq!(
        bench.good(&sense6(0x8A, DBD))[4..],
        control(false, false),
        "default values"
    );
    let (cdb, list) = select6(&control(false, false));
    bench.good_out(&cdb, &list);
    bench.good_out(&cdb10(0x2A, 0, 0, 1), &[1; 512]);
}

#[test]
fn swp_set_while_data_is_on_its_way_stops_the_write() {
    let mut bench = Bench::new();
    let write = cdb10(0x2A, 0, 0, 1);
    assert!(matches!(bench.lu.begin(B, &write), Step::Data { .. }));
    let (cdb, list) = select6(&control(false, true));
    bench.good_out(&cdb, &list);
    let Step::Reply(reply) = bench.lu.data_out(B, &write, &[1; 512]) else {
        panic!("written");
    };
    assert_eq!(code(&reply), (7, 0x27, 2));
}

#[test]
fn turning_the_write_cache_off_flushes_and_forces() {
    let mut bench = Bench::new();
    let list = [&[0; 8][..], &caching(false)].concat();
    bench.good_out(&cdb10(0x55, 0x10, 0, 28), &list);
    assert_eq!(bench.ops, [BlockOp::Flush]);
    bench.good_out(&cdb10(0x2A, 0, 0, 1), &[1; 512]);
    assert!(matches!(bench.last_op(), BlockOp::Write { fua: true, .. }));
    assert_eq!(bench.good(&sense6(0x08, DBD))[4..], caching(false));
    bench.lu.reset(Some(A));
    assert_eq!(code(&bench.run(A, &TEST_READY, &[])), (6, 0x29, 3));
    assert_eq!(bench.good(&sense6(0x08, DBD))[4..], caching(true));
}

#[test]
fn a_write_cache_that_could_not_be_flushed_stays_on() {
    let mut bench = Bench::new();
    let (cdb, list) = select6(&caching(false));
    for _ in 0..2 {
        assert!(matches!(bench.lu.begin(A, &cdb), Step::Data { .. }));
        let flush = bench.lu.data_out(A, &cdb, &list);
        assert_eq!(flush, Step::Run(BlockOp::Flush), "every try flushes anew");
        let failed = Outcome::Failed(Failure::MediumWrite);
        let reply = bench.lu.done(A, &cdb, failed);
        assert_eq!(code(&reply), (3, 0x0C, 0));
        assert_eq!(bench.good(&sense6(0x08, DBD))[4..], caching(true));
        let told = bench.run(B, &TEST_READY, &[]);
        assert_eq!(code(&told), (6, 0x2A, 1), "changed, and changed back");
    }
}

#[test]
fn what_mode_sense_gives_mode_select_takes_back() {
    let mut bench = Bench::new();
    let mut list = bench.good(&sense6(0x3F, 0));
    list[0] = 0;
    let len = u8::try_from(list.len()).unwrap();
    bench.good_out(&[0x15, 0x10, 0, 0, len, 0], &list);
    let mut list = bench.good(&sense10(0x3F, 0x10));
    list[..2].fill(0);
    let len = u16::try_from(list.len()).unwrap();
    bench.good_out(&cdb10(0x55, 0x10, 0, len), &list);
    assert_eq!(
        code_free(&mut bench, B),
        None,
        "nothing changed, nobody is told"
    );
}

/// The unit attention that waits for a nexus.
fn code_free(bench: &mut Bench, nexus: NexusId) -> Option<(u8, u8, u8)> {
    let reply = bench.run(nexus, &TEST_READY, &[]);
    (reply.status != status::GOOD).then(|| code(&reply))
}

#[test]
fn mode_select_refuses_what_cannot_be_changed() {
    let mut bench = Bench::new();
    for at in 2..12 {
        for bit in 0..8 {
            let mut page = CONTROL;
            page[at] ^= 1 << bit;
            let (cdb, list) = select6(&page);
            if [(2, 2), (4, 3), (4, 5), (5, 6)].contains(&(at, bit)) {
                continue;
            }
            assert_eq!(bench.bad_out(&cdb, &list), LIST_FIELD, "{at} {bit}");
        }
    }
    for page in [
        &[0x02, 2, 0, 0][..],
        &[0x0A, 9, 2, 0x10, 0, 0, 0, 0, 0, 0, 0],
        &[0x4A, 1, 0, 0],
    ] {
        let (cdb, list) = select6(page);
        assert_eq!(bench.bad_out(&cdb, &list), LIST_FIELD);
    }
    assert_eq!(bench.good(&sense6(0x0A, DBD))[4..], CONTROL);
}

#[test]
fn a_bad_second_page_leaves_the_first_unchanged() {
    let mut bench = Bench::new();
    let (cdb, list) = select6(
        &[
            &control(true, true)[..],
            &[0x1C, 10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat(),
    );
    assert_eq!(bench.bad_out(&cdb, &list), LIST_FIELD);
    assert_eq!(bench.good(&sense6(0x0A, DBD))[4..], CONTROL);
}

#[test]
fn mode_select_checks_flags_and_block_descriptor() {
    let mut bench = Bench::new();
    bench.good(&[0x15, 0x10, 0, 0, 0, 0]);
    assert_eq!(bench.bad(&[0x15, 0x00, 0, 0, 4, 0]), ILLEGAL_FIELD, "PF");
    assert_eq!(bench.bad(&[0x15, 0x11, 0, 0, 4, 0]), ILLEGAL_FIELD, "SP");
    let with = |blocks: [u8; 8]| [&[0, 0, 0, 8][..], &blocks].concat();
    let cdb = [0x15, 0x10, 0, 0, 12, 0];
    bench.good_out(&cdb, &with([0, 0, 0, 0, 0, 0, 2, 0]));
    bench.good_out(&cdb, &with([0, 0, 8, 0, 0, 0, 2, 0]));
    assert_eq!(
        bench.bad_out(&cdb, &with([0, 0, 8, 1, 0, 0, 2, 0])),
        LIST_FIELD
    );
    assert_eq!(
        bench.bad_out(&cdb, &with([0, 0, 0, 0, 0, 0, 16, 0])),
        LIST_FIELD
    );
    let odd = [0, 0, 0, 4, 0, 0, 0, 0];
    assert_eq!(bench.bad_out(&[0x15, 0x10, 0, 0, 8, 0], &odd), LIST_FIELD);
}

#[test]
fn mode_select_lists_cut_anywhere_are_refused() {
    let pages = [&control(true, false)[..], &caching(true)].concat();
    for (opcode, header) in [(0x15, 4), (0x55, 8)] {
        let list = [&vec![0; header][..], &pages].concat();
        for cut in 1..list.len() {
            let mut bench = Bench::new();
            let announced = |len: usize| match opcode {
                0x15 => vec![0x15, 0x10, 0, 0, u8::try_from(len).unwrap(), 0],
                _ => cdb10(0x55, 0x10, 0, u16::try_from(len).unwrap()).to_vec(),
            };
            // The initiator's data ends early.
            assert_eq!(
                bench.bad_out(&announced(list.len()), &list[..cut]),
                LIST_LENGTH
            );
            // The list itself ends early; at a page's end it is whole.
            let reply = bench.run(A, &announced(cut), &list[..cut]);
            if cut == header || cut == header + 12 {
                assert_eq!(reply.status, status::GOOD);
            } else {
                assert_eq!(code(&reply), LIST_LENGTH);
            }
        }
    }
}

#[test]
fn a_changed_mode_is_told_to_the_others_once() {
    let mut bench = Bench::new();
    let (cdb, list) = select6(&control(true, false));
    bench.good_out(&cdb, &list);
    assert_eq!(code_free(&mut bench, A), None);
    for nexus in [B, C] {
        assert_eq!(code_free(&mut bench, nexus), Some((6, 0x2A, 1)));
        assert_eq!(code_free(&mut bench, nexus), None);
    }
}

#[test]
fn inquiry_report_luns_and_request_sense_run_past_a_unit_attention() {
    let mut bench = Bench::new();
    bench.lu.reset(None);
    bench.good(&[0x12, 0, 0, 0, 36, 0]);
    bench.good(&cdb12(0xA0, 0, 0, 16));
    let data = bench.good(&[0x03, 0, 0, 0, 252, 0]);
    assert_eq!((data[0], data[2], data[12], data[13]), (0x70, 6, 0x29, 4));
    let data = bench.good(&[0x03, 0, 0, 0, 252, 0]);
    assert_eq!((data.len(), data[2], data[12]), (18, 0, 0));
    bench.good(&TEST_READY);
}

#[test]
fn request_sense_obeys_desc_and_its_allocation_length() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.good(&[0x03, 1, 0, 0, 252, 0]),
        [0x72, 0, 0, 0, 0, 0, 0, 0]
    );
    for alloc in 0..=255u8 {
        let len = bench.good(&[0x03, 0, 0, 0, alloc, 0]).len();
        assert_eq!(len, usize::from(alloc).min(18));
    }
}

#[test]
fn resets_are_told_to_everyone_and_task_clearing_to_the_others() {
    let mut bench = Bench::new();
    bench.lu.cleared_by_another(A);
    assert_eq!(code_free(&mut bench, A), None);
    assert_eq!(code_free(&mut bench, B), Some((6, 0x2F, 0)));
    bench.lu.reset(Some(A));
    for nexus in [A, B] {
        assert_eq!(code_free(&mut bench, nexus), Some((6, 0x29, 3)));
    }
    assert_eq!(
        code_free(&mut bench, C),
        Some((6, 0x29, 3)),
        "the reset voids older news"
    );
    assert_eq!(code_free(&mut bench, C), None);
}

#[test]
fn a_new_session_hears_nothing_old() {
    let mut bench = Bench::new();
    bench.lu.reset(Some(A));
    bench.lu.detach(B);
    bench.lu.attach(B, &port("b"));
    assert_eq!(code_free(&mut bench, B), None);
}

#[test]
fn an_unknown_nexus_is_told_to_wait() {
    let mut bench = Bench::new();
    let reply = bench.run(NexusId(99), &TEST_READY, &[]);
    assert_eq!(reply.status, status::BUSY);
}

#[test]
fn stopping_flushes_and_the_disk_keeps_serving() {
    let mut bench = Bench::new();
    bench.good(&[0x1B, 0, 0, 0, 0, 0]);
    assert_eq!(bench.ops, [BlockOp::Flush]);
    bench.good(&TEST_READY);
    for byte4 in [0x01, 0x04, 0x10] {
        bench.good(&[0x1B, 1, 0, 0, byte4, 0]);
    }
    assert_eq!(bench.ops.len(), 1);
    assert_eq!(bench.bad(&[0x1B, 0, 0, 0, 0x02, 0]), ILLEGAL_FIELD, "LOEJ");
}

#[test]
fn prevent_and_self_test_are_accepted() {
    let mut bench = Bench::new();
    bench.good(&[0x1E, 0, 0, 0, 1, 0]);
    bench.good(&[0x1E, 0, 0, 0, 0, 0]);
    assert_eq!(bench.bad(&[0x1E, 0, 0, 0, 2, 0]), ILLEGAL_FIELD);
    bench.good(&[0x1D, 4, 0, 0, 0, 0]);
    assert_eq!(bench.bad(&[0x1D, 0x20, 0, 0, 0, 0]), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&[0x1D, 4, 0, 0, 8, 0]), ILLEGAL_FIELD);
}

#[test]
fn naca_link_and_short_cdbs_are_refused() {
    let mut bench = Bench::new();
    for control in [1, 4, 5] {
        assert_eq!(bench.bad(&[0, 0, 0, 0, 0, control]), ILLEGAL_FIELD);
        let mut read = cdb16(0x88, 0, 0, 1);
        read[15] = control;
        assert_eq!(bench.bad(&read), ILLEGAL_FIELD);
    }
    assert_eq!(bench.bad(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1]), ILLEGAL_FIELD);
    assert_eq!(bench.bad(&[]), ILLEGAL_FIELD);
}
