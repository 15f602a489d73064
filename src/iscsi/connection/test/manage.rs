//! Task management and Logout: an answer of 0 means that nothing follows.

use super::*;

const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_TASK_SET: u8 = 4;
const LUN_RESET: u8 = 5;
const COLD_RESET: u8 = 7;

/// The next PDU answers `itt` with this response.
fn answered(peer: &mut Peer, itt: u32, response: u8) {
    let header = peer.expect(op::TASK_MANAGEMENT_RESPONSE);
    assert_eq!((header.itt(), header.u8_at(2)), (itt, response));
}

#[test]
fn a_task_that_waits_for_data_is_aborted_at_once_and_its_data_swallowed() {
    let mut peer = Peer::new();
    peer.write(1, 0, 16, 8192, &[]);
    let r2t = peer.expect(op::R2T);
    peer.data_out(1, r2t.u32_at(20), 0, 0, false, &[1; 512]);
    peer.manage(2, ABORT_TASK, 1);
    peer.dead.insert(1);
    answered(&mut peer, 2, 0);
    peer.data_out(1, r2t.u32_at(20), 1, 512, true, &[1; 7680]);
    peer.silent();
    assert_eq!(
        peer.disk(0, 2),
        [[0; 512], [1; 512]].concat(),
        "the disk as it was made"
    );
    assert_eq!((peer.conn.memory(), peer.conn.open_tasks()), (0, 0));
}

#[test]
fn a_running_write_is_waited_for_and_then_never_answered() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.write(1, 0, 1, 512, &[9; 512]);
    peer.manage(2, ABORT_TASK, 1);
    peer.silent();
    peer.dead.insert(1);
    peer.run_all();
    peer.pump();
    answered(&mut peer, 2, 0);
    peer.silent();
    assert_eq!((peer.conn.memory(), peer.conn.open_tasks()), (0, 0));
}

#[test]
fn an_answer_that_is_on_its_way_is_taken_back_or_was_first() {
    let mut peer = Peer::new();
    peer.socket_full = true;
    peer.read(1, 0, 80, 80 * 512);
    let first = peer.conn.poll_queued().unwrap();
    peer.receive(first);
    peer.manage(2, ABORT_TASK, 1);
    peer.socket_full = false;
    let _ = peer.expect(op::DATA_IN);
    peer.dead.insert(1);
    peer.pump();
    answered(&mut peer, 2, 0);

    peer.read(3, 0, 1, 512);
    let _ = peer.expect(op::DATA_IN);
    peer.manage(4, ABORT_TASK, 3);
    answered(&mut peer, 4, 1);
}

#[test]
fn tasks_in_every_state_end_with_the_task_set() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.read(1, 0, 1, 512);
    peer.write(2, 0, 16, 8192, &[]);
    let _ = peer.expect(op::R2T);
    peer.hold_memory = true;
    peer.write(3, 0, 16, 8192, &[]);
    peer.send(command(4, 0xc2, 512, 0x28, 0, 1), &[]);
    peer.manage(5, ABORT_TASK_SET, RESERVED_TAG);
    peer.silent();
    peer.dead.extend([1, 2, 3, 4]);
    peer.run_all();
    peer.grant_all();
    answered(&mut peer, 5, 0);
    peer.silent();
    assert_eq!((peer.conn.memory(), peer.conn.open_tasks()), (0, 0));
    peer.hold_runs = false;
    peer.read(6, 0, 1, 512);
    assert_eq!(peer.expect(op::DATA_IN).itt(), 6);
}

#[test]
fn a_reset_reaches_beyond_the_session_after_its_own_tasks_ended() {
    for (function, expected) in [
        (LUN_RESET, Management::LunReset(0)),
        (CLEAR_TASK_SET, Management::ClearTaskSet(0)),
    ] {
        let mut peer = Peer::new();
        peer.hold_runs = true;
        peer.hold_management = true;
        peer.read(1, 0, 1, 512);
        peer.manage(2, function, RESERVED_TAG);
        assert!(peer.managed.is_empty(), "its own task still runs");
        peer.run_all();
        peer.pump();
        let [(number, management)] = peer.managed[..] else {
            panic!("the shell was not asked once");
        };
        assert_eq!(management, expected);
        peer.silent();
        peer.conn.apply(Event::Managed(number, 0), peer.now);
        peer.pump();
        answered(&mut peer, 2, 0);
    }
}

#[test]
fn a_cold_reset_is_answered_and_then_closes() {
    let mut peer = Peer::new();
    peer.manage(1, COLD_RESET, RESERVED_TAG);
    answered(&mut peer, 1, 0);
    assert_eq!(peer.closed, Some(Why::ColdReset));
}

#[test]
fn functions_that_do_not_exist_here_get_their_own_codes() {
    let mut peer = Peer::new();
    for (function, response) in [(3, 5), (8, 4), (9, 5), (12, 5), (100, 5)] {
        peer.manage(function.into(), function, RESERVED_TAG);
        answered(&mut peer, function.into(), response);
    }
    let mut bhs = Bhs::new(op::TASK_MANAGEMENT | 0x40);
    bhs.put_u8(1, 0x80 | LUN_RESET);
    bhs.put_u8(9, 5);
    bhs.put_u32(16, 200);
    peer.send(bhs, &[]);
    answered(&mut peer, 200, 2);
    peer.manage(201, ABORT_TASK, 77);
    answered(&mut peer, 201, 1);
}

#[test]
fn a_function_that_cannot_end_its_task_in_time_says_so() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.write(1, 0, 1, 512, &[9; 512]);
    peer.manage(2, ABORT_TASK, 1);
    peer.tick(5);
    peer.silent();
    peer.tick(5);
    answered(&mut peer, 2, 0xff);
    peer.dead.insert(1);
    peer.run_all();
    peer.pump();
    peer.silent();
    assert_eq!(peer.conn.open_tasks(), 0);
}

#[test]
fn another_sessions_reset_ends_tasks_silently() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.read(1, 0, 1, 512);
    let event = Event::ClearedByOther {
        tell: false,
        lun: Some(0),
        ticket: 42,
    };
    peer.conn.apply(event, peer.now);
    peer.pump();
    assert!(peer.cleared.is_empty());
    peer.dead.insert(1);
    peer.run_all();
    peer.pump();
    assert_eq!(peer.cleared, [42]);
    peer.silent();
}

/// The statuses of the SCSI Responses that came, by tag.
fn statuses(peer: &mut Peer) -> Vec<(u32, u8)> {
    let responses = peer
        .inbox
        .drain(..)
        .filter(|pdu| pdu.header.opcode() == op::SCSI_RESPONSE);
    responses
        .map(|pdu| (pdu.header.itt(), pdu.header.u8_at(3)))
        .collect()
}

#[test]
fn another_sessions_abort_is_told_when_tas_is_set() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.read(1, 0, 1, 512);
    peer.write(2, 0, 16, 8192, &[]);
    let _ = peer.expect(op::R2T);
    let event = Event::ClearedByOther {
        lun: Some(0),
        tell: true,
        ticket: 42,
    };
    peer.conn.apply(event, peer.now);
    peer.pump();
    assert_eq!(statuses(&mut peer), [(2, 0x40)], "it waited for its data");
    assert!(peer.cleared.is_empty(), "the read still runs");
    peer.run_all();
    peer.pump();
    assert_eq!(statuses(&mut peer), [(1, 0x40)]);
    assert_eq!(peer.cleared, [42]);
    assert_eq!(peer.conn.open_tasks(), 0);
}

#[test]
fn the_initiators_own_abort_silences_an_abort_that_was_to_be_told() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.read(1, 0, 1, 512);
    let event = Event::ClearedByOther {
        lun: Some(0),
        tell: true,
        ticket: 42,
    };
    peer.conn.apply(event, peer.now);
    peer.manage(2, ABORT_TASK, 1);
    peer.dead.insert(1);
    peer.run_all();
    peer.pump();
    assert_eq!(peer.cleared, [42]);
    answered(&mut peer, 2, 0);
    peer.silent();
}

#[test]
fn logout_waits_for_what_runs_and_closes_after_its_answer() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.write(1, 0, 1, 512, &[9; 512]);
    peer.write(2, 0, 16, 8192, &[]);
    let _ = peer.expect(op::R2T);
    peer.logout(3, 0, 0);
    peer.silent();
    assert!(peer.closed.is_none());
    peer.dead.extend([1, 2]);
    peer.run_all();
    peer.pump();
    let header = peer.expect(op::LOGOUT_RESPONSE);
    assert_eq!((header.itt(), header.u8_at(2)), (3, 0));
    assert_eq!(peer.closed, Some(Why::Logout));
}

#[test]
fn logout_of_another_connection_or_for_recovery_changes_nothing() {
    let mut peer = Peer::new();
    peer.logout(1, 1, 9);
    assert_eq!(peer.expect(op::LOGOUT_RESPONSE).u8_at(2), 1);
    peer.logout(2, 2, 3);
    assert_eq!(peer.expect(op::LOGOUT_RESPONSE).u8_at(2), 2);
    assert!(peer.closed.is_none());
    peer.logout(3, 1, 3);
    assert_eq!(peer.expect(op::LOGOUT_RESPONSE).u8_at(2), 0);
    assert_eq!(peer.closed, Some(Why::Logout));
}
