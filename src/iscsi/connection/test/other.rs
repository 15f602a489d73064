//! The window, NOP, Text, Reject, pings, drain.

use super::*;

fn nop(itt: u32, immediate: bool) -> Bhs {
    let mut bhs = Bhs::new(op::NOP_OUT | u8::from(immediate) << 6);
    bhs.put_u8(1, 0x80);
    bhs.put_u32(16, itt);
    bhs.put_u32(20, RESERVED_TAG);
    bhs
}

fn inline(pdu: &Pdu) -> &[u8] {
    match &pdu.data {
        Data::Inline(bytes) => bytes,
        Data::None => &[],
        Data::Payload(..) => panic!("a payload"),
    }
}

#[test]
fn commands_outside_the_window_are_ignored_and_the_connection_lives() {
    let mut peer = Peer::new();
    for cmd_sn in [
        99,
        100 + limits::COMMAND_WINDOW,
        100u32.wrapping_add(1 << 31),
        u32::MAX,
    ] {
        let mut bhs = command(1, 0xc0, 512, 0x28, 0, 1);
        bhs.put_u32(24, cmd_sn);
        peer.send_raw(&bhs, &[]);
        peer.silent();
    }
    assert!(peer.closed.is_none());
    peer.read(2, 0, 1, 512);
    let header = peer.expect(op::DATA_IN);
    assert_eq!(
        (header.u32_at(28), header.u32_at(32)),
        (101, 100 + limits::COMMAND_WINDOW)
    );
}

#[test]
fn a_skipped_command_number_closes() {
    let mut peer = Peer::new();
    peer.cmd_sn += 1;
    peer.read(1, 0, 1, 512);
    assert!(matches!(peer.closed, Some(Why::Protocol(_))));
}

#[test]
fn numbers_wrap_around() {
    let mut peer = Peer::with(Options {
        cmd_sn: u32::MAX - 1,
        stat_sn: u32::MAX - 1,
        ..options(agreed())
    });
    for itt in 0..5 {
        peer.read(itt, 0, 1, 512);
        assert_eq!(peer.expect(op::DATA_IN).itt(), itt);
    }
    assert_eq!(peer.cmd_sn, 3);
}

#[test]
fn a_full_window_takes_no_more_and_opens_with_the_answers() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    for itt in 0..limits::COMMAND_WINDOW {
        peer.read(itt, 0, 1, 512);
    }
    peer.read(1000, 0, 1, 512);
    assert_eq!(peer.conn.open_tasks(), limits::COMMAND_WINDOW as usize);
    peer.run_all();
    peer.pump();
    let last = peer.inbox.back().unwrap().header;
    assert_eq!(
        last.u32_at(32).wrapping_sub(last.u32_at(28)),
        limits::COMMAND_WINDOW - 1
    );
    assert_eq!(peer.inbox.len(), limits::COMMAND_WINDOW as usize);
}

#[test]
fn nop_out_is_echoed_byte_for_byte() {
    let mut peer = Peer::new();
    let data = pattern(77);
    peer.send(nop(5, false), &data);
    let pdu = peer.next();
    assert_eq!((pdu.header.opcode(), pdu.header.itt()), (op::NOP_IN, 5));
    assert_eq!(pdu.header.u32_at(20), RESERVED_TAG);
    assert_eq!(inline(&pdu), data);
    let mut answer = nop(RESERVED_TAG, true);
    answer.put_u32(20, 9);
    peer.send(answer, &[]);
    peer.silent();
}

#[test]
fn too_many_immediate_commands_are_rejected() {
    let mut peer = Peer::new();
    for itt in 0..1000 {
        let mut bhs = nop(itt, true);
        bhs.put_u32(24, 100);
        let event = Event::Pdu {
            bhs: &bhs,
            ahs: &[],
            data: Incoming::Slice(&[]),
            intact: true,
        };
        peer.open.insert(itt, 1);
        peer.conn.apply(event, peer.now);
    }
    peer.pump();
    let immediates = limits::IMMEDIATE_MAX as usize;
    for _ in 0..immediates {
        let _ = peer.expect(op::NOP_IN);
    }
    for _ in 0..limits::REJECTS_PER_MINUTE {
        assert_eq!(peer.expect(op::REJECT).u8_at(2), reason::IMMEDIATES);
    }
    assert!(
        matches!(peer.closed, Some(Why::Protocol(_))),
        "a flood ends"
    );
    peer.silent();
}

#[test]
fn immediate_commands_are_free_again_once_answered() {
    let mut peer = Peer::new();
    for itt in 0..100 {
        peer.send(nop(itt, true), &[]);
        let _ = peer.expect(op::NOP_IN);
        peer.manage(1000 + itt, 1, 5);
        let _ = peer.expect(op::TASK_MANAGEMENT_RESPONSE);
    }
}

#[test]
fn a_tag_in_use_is_rejected_and_the_task_goes_on() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.read(1, 0, 1, 512);
    peer.read(1, 8, 1, 512);
    let pdu = peer.next();
    assert_eq!(pdu.header.u8_at(2), reason::TASK_IN_PROGRESS);
    assert_eq!(inline(&pdu)[16..20], [0, 0, 0, 1], "the header comes back");
    peer.run_all();
    peer.pump();
    assert_eq!(peer.expect(op::DATA_IN).itt(), 1);
    peer.silent();
}

#[test]
fn pdus_that_make_no_sense_are_rejected_with_their_reason() {
    let mut peer = Peer::new();
    let mut final_missing = command(1, 0x40, 512, 0x28, 0, 1);
    final_missing.put_u32(16, 1);
    peer.send(final_missing, &[]);
    assert_eq!(peer.expect(op::REJECT).u8_at(2), reason::FIELD);
    peer.send(command(RESERVED_TAG, 0xc0, 512, 0x28, 0, 1), &[]);
    assert_eq!(peer.expect(op::REJECT).u8_at(2), reason::FIELD);
    for (opcode, expected) in [
        (op::SNACK, reason::SNACK),
        (op::LOGIN, reason::PROTOCOL),
        (0x1c, reason::UNSUPPORTED),
        (0x3f, reason::UNSUPPORTED),
        (op::SCSI_RESPONSE, reason::UNSUPPORTED),
    ] {
        peer.send_raw(&Bhs::new(opcode), &[]);
        assert_eq!(
            peer.expect(op::REJECT).u8_at(2),
            expected,
            "opcode {opcode:02x}"
        );
    }
    peer.read(9, 0, 1, 512);
    assert_eq!(peer.expect(op::DATA_IN).itt(), 9);
}

#[test]
fn bidirectional_commands_are_unknown() {
    let mut peer = Peer::new();
    peer.send(command(1, 0xe0, 512, 0x53, 0, 1), &[]);
    peer.check(5, 0x20, 0);
}

fn text(itt: u32, flags: u8, ttt: u32) -> Bhs {
    let mut bhs = Bhs::new(op::TEXT);
    bhs.put_u8(1, flags);
    bhs.put_u32(16, itt);
    bhs.put_u32(20, ttt);
    bhs
}

fn found(count: usize) -> Vec<Found> {
    let target = |n| Found {
        name: Iqn::parse(&format!("iqn.2026-11.t:n{n:04}")).unwrap(),
        portals: vec!["192.0.2.1:3260".into()],
    };
    (0..count).map(target).collect()
}

/// What `found(1)` becomes.
const LISTED: &str = "TargetName=iqn.2026-11.t:n0000\0TargetAddress=192.0.2.1:3260,1\0";

#[test]
fn send_targets_answers_good_requests_and_refuses_others() {
    let mut peer = Peer::new();
    peer.list = found(1);
    for (request, answer) in [
        ("SendTargets=Alle\0", "SendTargets=Reject\0"),
        (
            "SendTargetsPlease=All\0",
            "SendTargetsPlease=NotUnderstood\0",
        ),
        ("sENDtARGETS=aLL\0", "sENDtARGETS=NotUnderstood\0"),
        ("SendTargets=All\0", LISTED),
        ("SendTargets=\0", LISTED),
        ("MaxBurstLength=512\0", "MaxBurstLength=Reject\0"),
    ] {
        peer.send(text(1, 0x80, RESERVED_TAG), request.as_bytes());
        let pdu = peer.next();
        assert_eq!(pdu.header.flags(), 0x80);
        assert_eq!(pdu.header.u32_at(20), RESERVED_TAG);
        assert_eq!(String::from_utf8_lossy(inline(&pdu)), answer);
    }
}

#[test]
fn long_lists_go_out_in_parts() {
    let mut peer = Peer::with(Options {
        target: None,
        ..options(agreed())
    });
    peer.list = found(20_000 / LISTED.len());
    let request = b"MaxRecvDataSegmentLength=8000\0SendTargets=All\0";
    peer.send(text(1, 0x80, RESERVED_TAG), request);
    let mut all = Vec::new();
    for n in 0..3 {
        let pdu = peer.next();
        all.extend_from_slice(inline(&pdu));
        let last = n == 2;
        assert_eq!(pdu.header.flags(), if last { 0x80 } else { 0x40 });
        if !last {
            let tag = pdu.header.u32_at(20);
            assert_ne!(tag, RESERVED_TAG);
            peer.send(text(1, 0x80, tag), &[]);
        }
    }
    let all = String::from_utf8(all).unwrap();
    assert!(all.starts_with(LISTED) && all.len() == 20_000 / LISTED.len() * LISTED.len());
    peer.read(2, 0, 1, 512);
    assert_eq!(
        peer.expect(op::REJECT).u8_at(2),
        reason::UNSUPPORTED,
        "no SCSI in discovery"
    );
}

#[test]
fn requests_in_parts_are_joined_and_bounded() {
    let mut peer = Peer::new();
    peer.list = found(1);
    peer.send(text(1, 0x40, RESERVED_TAG), b"SendTar");
    let first = peer.next();
    assert_eq!((first.header.flags(), inline(&first).len()), (0, 0));
    let tag = first.header.u32_at(20);
    peer.send(text(1, 0x40, tag), b"");
    let tag = peer.expect(op::TEXT_RESPONSE).u32_at(20);
    peer.send(text(1, 0x80, tag), b"gets=All\0");
    assert_eq!(inline(&peer.next()), LISTED.as_bytes());
    peer.send(text(1, 0x80, tag), b"late");
    assert_eq!(
        peer.expect(op::REJECT).u8_at(2),
        reason::PROTOCOL,
        "the exchange is over"
    );
    peer.send(text(2, 0xc0, RESERVED_TAG), b"both");
    assert_eq!(peer.expect(op::REJECT).u8_at(2), reason::PROTOCOL);
    peer.send(text(3, 0x40, RESERVED_TAG), &[b'a'; 8192]);
    let tag = peer.expect(op::TEXT_RESPONSE).u32_at(20);
    peer.send(text(3, 0x40, tag), b"a");
    assert_eq!(peer.expect(op::REJECT).u8_at(2), reason::PROTOCOL);
}

#[test]
fn only_a_peer_that_answered_once_must_go_on_answering() {
    let mut peer = Peer::new();
    peer.tick(1);
    peer.tick(40);
    let ping = peer.expect(op::NOP_IN);
    assert_eq!(ping.itt(), RESERVED_TAG);
    for _ in 0..5 {
        peer.tick(100);
    }
    peer.silent();
    assert!(peer.closed.is_none(), "iPXE never answers");
    let mut answer = nop(RESERVED_TAG, true);
    answer.put_u32(20, ping.u32_at(20));
    peer.send(answer, &[]);
    peer.tick(40);
    let _ = peer.expect(op::NOP_IN);
    peer.tick(40);
    assert_eq!(peer.closed, Some(Why::Silent));
}

#[test]
fn firmware_is_never_pinged_nor_told_of_a_drain() {
    let mut peer = Peer::with(Options {
        talkative: false,
        ..options(agreed())
    });
    peer.tick(1);
    peer.tick(1000);
    peer.silent();
    peer.conn.apply(Event::Drain, peer.now);
    peer.pump();
    peer.silent();
    assert_eq!(peer.closed, Some(Why::Drained));
}

#[test]
fn firmware_gets_its_answer_before_it_is_closed() {
    let mut peer = Peer::with(Options {
        talkative: false,
        ..options(agreed())
    });
    peer.hold_runs = true;
    peer.read(1, 0, 40, 40 * 512);
    peer.conn.apply(Event::Drain, peer.now);
    peer.pump();
    peer.tick(5);
    assert!(peer.closed.is_none());
    peer.run_all();
    peer.pump();
    let sent: usize = peer.inbox.drain(..).map(|pdu| pdu.data.len()).sum();
    assert_eq!(sent, 40 * 512);
    assert_eq!(peer.closed, Some(Why::Drained));
}

#[test]
fn a_drain_that_is_called_off_lets_the_session_stay() {
    let mut peer = Peer::new();
    peer.conn.apply(Event::Drain, peer.now);
    peer.pump();
    let _ = peer.expect(op::ASYNC);
    peer.conn.apply(Event::Stay, peer.now);
    peer.tick(20);
    assert!(peer.closed.is_none());
    peer.read(1, 0, 1, 512);
    assert_eq!(peer.expect(op::DATA_IN).itt(), 1);
    // A second drain is told again.
    peer.conn.apply(Event::Drain, peer.now);
    peer.pump();
    let _ = peer.expect(op::ASYNC);
}

#[test]
fn after_the_grace_what_was_begun_is_finished_and_no_more_is_granted() {
    let mut peer = Peer::new();
    peer.conn.apply(Event::Drain, peer.now);
    peer.pump();
    let _ = peer.expect(op::ASYNC);
    peer.hold_runs = true;
    peer.read(1, 0, 1, 512);
    peer.tick(10);
    assert!(peer.closed.is_none(), "a command is under way");
    let last = peer.conn.numbers.max_cmd_sn();
    peer.read(2, 0, 1, 512);
    assert_eq!(peer.conn.numbers.max_cmd_sn(), last, "the window stands");
    peer.run_all();
    peer.pump();
    let answered: Vec<u32> = peer.inbox.drain(..).map(|pdu| pdu.header.itt()).collect();
    assert_eq!(answered, [1, 2], "what it was allowed to send is answered");
    assert_eq!(peer.closed, Some(Why::Drained));
}

#[test]
fn a_session_that_never_rests_is_closed_in_the_end() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.read(1, 0, 1, 512);
    peer.conn.apply(Event::Finish, peer.now);
    peer.pump();
    peer.tick(limits::DRY_WAIT.as_secs() - 1);
    assert!(peer.closed.is_none());
    peer.tick(1);
    assert_eq!(peer.closed, Some(Why::Stopping));
}

#[test]
fn a_stopping_head_closes_a_quiet_session_without_a_word() {
    let mut peer = Peer::new();
    peer.conn.apply(Event::Finish, peer.now);
    peer.pump();
    peer.silent();
    assert_eq!(peer.closed, Some(Why::Stopping));
}

#[test]
fn a_logout_during_a_drain_is_answered() {
    let mut peer = Peer::new();
    peer.conn.apply(Event::Drain, peer.now);
    peer.pump();
    let _ = peer.expect(op::ASYNC);
    peer.tick(3);
    peer.logout(1, 0, 3);
    assert_eq!(peer.expect(op::LOGOUT_RESPONSE).u8_at(2), 0);
    assert_eq!(peer.closed, Some(Why::Logout));
}

#[test]
fn a_drain_asks_for_logout_and_closes_after_a_while() {
    let mut peer = Peer::new();
    peer.conn.apply(Event::Drain, peer.now);
    peer.pump();
    let header = peer.expect(op::ASYNC);
    assert_eq!((header.u8_at(36), header.u16_at(42)), (1, 10));
    peer.tick(5);
    assert!(peer.closed.is_none());
    peer.tick(5);
    assert_eq!(peer.closed, Some(Why::Drained));
}

/// Found by the fuzz target `connection`: an idle peer was pinged behind its Logout response.
#[test]
fn nothing_is_said_after_the_end() {
    let mut peer = Peer::new();
    peer.read(1, 0, 8, 4096);
    peer.inbox.clear();
    peer.logout(9, 0, 3);
    peer.expect(op::LOGOUT_RESPONSE);
    assert_eq!(peer.closed, Some(Why::Logout));
    peer.tick(1);
    peer.tick(1000);
    peer.conn.apply(Event::Drain, peer.now);
    let event = Event::ClearedByOther {
        lun: None,
        tell: false,
        ticket: 1,
    };
    peer.conn.apply(event, peer.now);
    peer.pump();
    peer.silent();
    assert!(!peer.conn.has_queued() && peer.conn.poll_queued().is_none());
}

/// Found by the fuzz target `connection`: memory that came too late led to an R2T behind the end.
#[test]
fn memory_that_comes_behind_the_end_asks_for_no_data() {
    let mut peer = Peer::new();
    peer.hold_memory = true;
    peer.write(1, 0, 8, 4096, &[]);
    for _ in 0..=limits::REJECTS_PER_MINUTE {
        let mut bhs = Bhs::new(op::SNACK);
        bhs.put_u32(16, 2);
        peer.send_raw(&bhs, &[]);
    }
    assert_eq!(peer.closed, Some(Why::Protocol("too many rejected PDUs")));
    peer.inbox.clear();
    peer.grant_all();
    peer.silent();
}

#[test]
fn a_command_with_a_broken_data_digest_was_never_received() {
    let mut peer = Peer::new();
    let write = command(1, 0xa0, 512, 0x2a, 0, 1);
    broken(&mut peer, write, &[1; 512]);
    assert_eq!(peer.disk(0, 1), [0; 512]);
    assert_eq!(peer.conn.numbers.exp_cmd_sn().0, peer.cmd_sn);
    // RFC 7143 7.3: the initiator may send it again under its number.
    peer.write(1, 0, 1, 512, &[1; 512]);
    assert_eq!(peer.response(good()), (0, 0));
    assert_eq!(peer.disk(0, 1), [1; 512]);
    let faults = peer.conn.take_faults();
    assert_eq!((faults.rejects, faults.data_digests), (1, 1));
    assert_eq!(peer.conn.take_faults().rejects, 0);
}

/// Sends a PDU whose data digest is wrong, which must be rejected with reason 2 and nothing else.
fn broken(peer: &mut Peer, mut bhs: Bhs, data: &[u8]) {
    bhs.put_u32(24, peer.cmd_sn);
    bhs.set_data_len(u32::try_from(data.len()).unwrap());
    let event = Event::Pdu {
        bhs: &bhs,
        ahs: &[],
        data: Incoming::Slice(data),
        intact: false,
    };
    peer.conn.apply(event, peer.now);
    peer.pump();
    let pdu = peer.next();
    assert_eq!(pdu.header.opcode(), op::REJECT);
    assert_eq!(pdu.header.u8_at(2), reason::DATA_DIGEST);
    assert_eq!(inline(&pdu), bhs.0, "the header that earned it");
    peer.silent();
}

#[test]
fn an_abort_fills_the_hole_that_a_rejected_command_left() {
    let mut peer = Peer::new();
    let lost = peer.cmd_sn;
    broken(&mut peer, command(1, 0xa0, 512, 0x2a, 0, 1), &[1; 512]);
    peer.cmd_sn += 1;
    let mut abort = Bhs::new(op::TASK_MANAGEMENT | 0x40);
    abort.put_u8(1, 0x81);
    abort.put_u32(16, 2);
    abort.put_u32(20, 1);
    abort.put_u32(32, lost);
    peer.send(abort, &[]);
    let header = peer.expect(op::TASK_MANAGEMENT_RESPONSE);
    assert_eq!((header.itt(), header.u8_at(2)), (2, 0));
    peer.read(3, 0, 1, 512);
    assert_eq!(peer.expect(op::DATA_IN).itt(), 3);
    assert!(peer.closed.is_none());
}

#[test]
fn who_goes_on_past_a_rejected_command_begins_a_new_session() {
    let mut peer = Peer::new();
    broken(&mut peer, command(1, 0xa0, 512, 0x2a, 0, 1), &[1; 512]);
    peer.cmd_sn += 1;
    peer.send_gone(command(2, 0xc0, 512, 0x28, 0, 1));
    assert!(matches!(peer.closed, Some(Why::Protocol(_))));
    assert_eq!(peer.disk(0, 1), [0; 512]);
}

#[test]
fn pings_and_texts_with_broken_data_are_rejected_and_do_nothing() {
    let mut peer = Peer::new();
    peer.list = found(1);
    broken(&mut peer, nop(1, true), b"hello");
    broken(&mut peer, text(2, 0x80, RESERVED_TAG), b"SendTargets=All\0");
    peer.send(nop(3, true), b"hello");
    assert_eq!(inline(&peer.next()), b"hello");
    peer.send(text(4, 0x80, RESERVED_TAG), b"SendTargets=All\0");
    assert_eq!(inline(&peer.next()), LISTED.as_bytes());
}
