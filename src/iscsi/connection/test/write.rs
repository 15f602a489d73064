//! WRITEs: immediate, unsolicited and solicited data, and what may be wrong with it.

use super::*;

#[test]
fn immediate_data_alone_is_a_write_in_one_round() {
    let mut peer = Peer::new();
    let data = pattern(4096);
    peer.write(1, 8, 8, 4096, &data);
    assert_eq!(peer.response(good()), (0, 0));
    assert_eq!(peer.disk(8, 8), data);
    peer.silent();
    assert_eq!((peer.conn.memory(), peer.conn.open_tasks()), (0, 0));
}

#[test]
fn the_rest_behind_immediate_data_is_asked_for() {
    let mut peer = Peer::new();
    let data = pattern(12_288);
    peer.write(1, 0, 24, 12_288, &data[..8192]);
    let r2t = peer.expect(op::R2T);
    assert_eq!(
        (r2t.u32_at(36), r2t.u32_at(40), r2t.u32_at(44)),
        (0, 8192, 4096)
    );
    peer.silent();
    peer.fulfil(&r2t, &data, 512);
    let header = peer.expect(op::SCSI_RESPONSE);
    assert_eq!(header.u32_at(36), 1, "ExpDataSN counts the R2T");
    assert_eq!(peer.disk(0, 24), data);
}

#[test]
fn each_burst_has_its_own_r2t_in_order() {
    let mut peer = Peer::new();
    let data = pattern(40_960);
    peer.write(1, 0, 80, 40_960, &[]);
    let mut tags = HashSet::new();
    for (sn, offset, len) in [(0, 0, 16_384), (1, 16_384, 16_384), (2, 32_768, 8192)] {
        let r2t = peer.expect(op::R2T);
        peer.silent();
        assert_eq!(
            (r2t.u32_at(36), r2t.u32_at(40), r2t.u32_at(44)),
            (sn, offset, len)
        );
        assert!(tags.insert(r2t.u32_at(20)), "tag used twice");
        peer.fulfil(&r2t, &data, 8192);
    }
    assert_eq!(peer.response(good()), (0, 0));
    assert_eq!(peer.disk(0, 80), data);
}

#[test]
fn several_r2ts_may_be_open_when_agreed() {
    let mut peer = Peer::with(options(Negotiated {
        max_outstanding_r2t: 3,
        ..agreed()
    }));
    let data = pattern(81_920);
    peer.write(1, 0, 160, 81_920, &[]);
    let first: Vec<_> = (0..3).map(|_| peer.expect(op::R2T)).collect();
    peer.silent();
    peer.fulfil(&first[0], &data, 4096);
    let fourth = peer.expect(op::R2T);
    peer.fulfil(&first[1], &data, 4096);
    let fifth = peer.expect(op::R2T);
    for r2t in [&first[2], &fourth, &fifth] {
        peer.fulfil(r2t, &data, 16_384);
    }
    assert_eq!(peer.response(good()), (0, 0));
    assert_eq!(peer.disk(0, 160), data);
}

#[test]
fn no_r2t_leaves_before_there_is_memory() {
    let mut peer = Peer::new();
    peer.hold_memory = true;
    let data = pattern(16_384);
    peer.write(1, 0, 32, 16_384, &data[..8192]);
    peer.silent();
    peer.grant_all();
    let r2t = peer.expect(op::R2T);
    peer.fulfil(&r2t, &data, 8192);
    assert_eq!(peer.response(good()), (0, 0));
    assert_eq!(peer.disk(0, 32), data, "immediate data survived the move");
}

#[test]
fn a_write_that_gets_no_memory_may_be_given_back() {
    let mut peer = Peer::new();
    peer.hold_memory = true;
    peer.write(1, 0, 32, 16_384, &[1; 8192]);
    let full = Reply {
        status: 0x28,
        ..Reply::default()
    };
    let task = peer.wanted[0];
    peer.conn.apply(Event::Done(task, full, None), peer.now);
    peer.pump();
    assert_eq!(peer.response(0x28), (2, 8192));
    assert_eq!((peer.conn.memory(), peer.conn.open_tasks()), (0, 0));
    peer.grant_all();
    peer.silent();
}

#[test]
fn memory_follows_the_command_and_not_the_announcement() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.write(1, 0, 1, u32::MAX, &[5; 512]);
    assert_eq!(peer.conn.memory(), Buffer::footprint(512));
    peer.run_all();
    peer.pump();
    assert_eq!(peer.response(good()), (2, u32::MAX - 512));
}

fn unsolicited() -> Peer {
    Peer::with(options(Negotiated {
        initial_r2t: false,
        ..agreed()
    }))
}

#[test]
fn unsolicited_data_is_taken_up_to_the_first_burst() {
    let mut peer = unsolicited();
    let data = pattern(16_384);
    peer.send(command(1, 0x20, 16_384, 0x2a, 0, 32), &data[..2048]);
    peer.silent();
    peer.data_out(1, RESERVED_TAG, 0, 2048, false, &data[2048..4096]);
    peer.silent();
    peer.data_out(1, RESERVED_TAG, 1, 4096, true, &data[4096..8192]);
    let r2t = peer.expect(op::R2T);
    assert_eq!((r2t.u32_at(40), r2t.u32_at(44)), (8192, 8192));
    peer.fulfil(&r2t, &data, 8192);
    assert_eq!(peer.response(good()), (0, 0));
    assert_eq!(peer.disk(0, 32), data);
}

#[test]
fn more_unsolicited_data_than_agreed_ends_the_task() {
    let mut peer = unsolicited();
    peer.send(command(1, 0x20, 16_384, 0x2a, 0, 32), &[0; 8000]);
    peer.data_out(1, RESERVED_TAG, 0, 8000, true, &[0; 512]);
    peer.check(0x0b, 0x4b, 0x02);
    assert_eq!(peer.disk(0, 1), [0; 512]);
}

#[test]
fn unsolicited_data_of_a_failed_command_is_swallowed() {
    let mut peer = unsolicited();
    peer.send(command(1, 0x20, 8192, 0x2a, 5000, 16), &[1; 512]);
    peer.check(5, 0x21, 0);
    peer.data_out(1, RESERVED_TAG, 0, 512, true, &[1; 7680]);
    peer.silent();
    assert!(peer.closed.is_none());
}

#[test]
fn data_that_was_not_agreed_on_is_refused() {
    let refused = |options: Options, flags: u8, len: usize| {
        let mut peer = Peer::with(options);
        peer.send(command(1, flags, 16_384, 0x2a, 0, 32), &vec![1; len]);
        peer.check(0x0b, 0x0c, 0x0c);
        peer.silent();
        assert_eq!(peer.disk(0, 1), [0; 512]);
        assert_eq!(peer.conn.open_tasks(), 0);
    };
    let no_immediate = Negotiated {
        immediate_data: false,
        ..agreed()
    };
    refused(options(no_immediate), 0xa0, 512);
    refused(options(agreed()), 0xa0, 8193);
    refused(options(agreed()), 0x20, 512);
    let mut peer = Peer::new();
    peer.send(command(1, 0xc0, 512, 0x28, 0, 1), &[1; 4]);
    peer.check(0x0b, 0x0c, 0x0c);
}

/// libiscsi's iSCSIDataSnInvalid: none of these may end in GOOD, nor touch the disk.
#[test]
fn wrong_data_sequence_numbers_end_the_task_once() {
    for (first, second) in [(0u32, 0u32), (27, 28), (u32::MAX, 0), (1, 0)] {
        let mut peer = Peer::new();
        peer.write(1, 0, 16, 8192, &[]);
        let tag = peer.expect(op::R2T).u32_at(20);
        peer.data_out(1, tag, first, 0, false, &[1; 4096]);
        peer.data_out(1, tag, second, 4096, true, &[1; 4096]);
        peer.check(0x0b, 0x4b, 0x00);
        peer.silent();
        assert_eq!(peer.disk(0, 1), [0; 512]);
        assert!(peer.closed.is_none());
    }
}

#[test]
fn wrong_offsets_and_lengths_end_the_task() {
    let case = |offset, len: usize, last, ascq| {
        let mut peer = Peer::new();
        peer.write(1, 0, 16, 8192, &[]);
        let tag = peer.expect(op::R2T).u32_at(20);
        peer.data_out(1, tag, 0, offset, last, &vec![1; len]);
        peer.check(0x0b, 0x4b, ascq);
        assert_eq!(peer.disk(0, 1), [0; 512]);
    };
    case(512, 512, false, 0x05);
    case(u32::MAX, 512, false, 0x05);
    case(0, 8193, true, 0x02);
    case(0, 512, true, 0x00);
}

#[test]
fn foreign_and_invented_tags_touch_nothing() {
    let mut peer = Peer::new();
    peer.write(1, 0, 16, 8192, &[]);
    peer.write(2, 100, 16, 8192, &[]);
    let one = peer.expect(op::R2T);
    let two = peer.expect(op::R2T);
    for tag in [two.u32_at(20), one.u32_at(20) ^ 1, 0x7fff_0000] {
        peer.data_out(1, tag, 0, 0, false, &[1; 512]);
        let header = peer.expect(op::REJECT);
        assert_eq!(header.u8_at(2), reason::FIELD);
    }
    let data = pattern(8192);
    peer.fulfil(&two, &data, 8192);
    peer.fulfil(&one, &data, 8192);
    assert_eq!(peer.response(good()), (0, 0));
    assert_eq!(peer.response(good()), (0, 0));
    assert_eq!(peer.disk(0, 16), data);
}

#[test]
fn a_broken_data_digest_ends_the_task() {
    let mut peer = Peer::new();
    peer.write(1, 0, 16, 8192, &[]);
    let mut bhs = Bhs::new(op::DATA_OUT);
    bhs.put_u8(1, 0x80);
    bhs.put_u32(16, 1);
    bhs.put_u32(20, peer.expect(op::R2T).u32_at(20));
    bhs.set_data_len(8192);
    let place = peer.conn.data_out(&bhs, peer.now);
    assert!(matches!(place, Place::Task(_, 0)));
    peer.conn.landed(&bhs, place, false, peer.now);
    peer.pump();
    assert_eq!(peer.expect(op::REJECT).u8_at(2), reason::DATA_DIGEST);
    peer.check(0x0b, 0x47, 0x05);
}

#[test]
fn ordered_commands_wait_and_are_waited_for() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    let simple = |itt| command(itt, 0xc1, 512, 0x28, 0, 1);
    let ordered = |itt| command(itt, 0xc2, 512, 0x28, 0, 1);
    let head = |itt| command(itt, 0xc3, 512, 0x28, 0, 1);
    for bhs in [simple(1), simple(2), ordered(3), simple(4), head(5)] {
        peer.send(bhs, &[]);
    }
    let mut order = Vec::new();
    while !peer.runs.is_empty() {
        peer.run_all();
        peer.pump();
        order.push(
            peer.inbox
                .drain(..)
                .map(|p| p.header.itt())
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(order, [vec![1, 2, 5], vec![3], vec![4]]);
}

#[test]
fn a_peer_that_owes_data_is_not_waited_for_forever() {
    let mut peer = Peer::new();
    peer.write(1, 0, 16, 8192, &[]);
    peer.tick(10);
    assert!(peer.closed.is_none());
    peer.tick(limits::SEND_STALL.as_secs());
    assert_eq!(peer.closed, Some(Why::Stalled));
}
