//! Bounds against a greedy peer: memory, queues, functions, idle discovery.

use super::*;

const TASK_SET_FULL: u8 = 0x28;
const ABORT_TASK_SET: u8 = 2;

#[test]
fn a_command_without_memory_for_its_data_is_answered_task_set_full() {
    let mut peer = Peer::new();
    peer.conn.allow(4096);
    let data = pattern(8192);
    peer.write(1, 0, 16, 8192, &data);
    assert_eq!(peer.response(TASK_SET_FULL), (2, 8192));
    peer.write(2, 0, 8, 4096, &data[..4096]);
    assert_eq!(peer.response(good()), (0, 0));
    peer.read(3, 0, 1, 512);
    peer.expect(op::DATA_IN);
    assert_eq!((peer.conn.memory(), peer.conn.open_tasks()), (0, 0));
}

#[test]
fn data_that_was_dropped_for_want_of_memory_is_never_written() {
    let mut peer = Peer::new();
    let before = peer.disk(0, 16).to_vec();
    let mut bhs = command(1, 0xa0, 8192, 0x2a, 0, 16);
    bhs.set_data_len(8192);
    bhs.put_u32(24, peer.cmd_sn);
    peer.cmd_sn += 1;
    peer.conn.apply(
        Event::Pdu {
            bhs: &bhs,
            ahs: &[],
            data: Incoming::Dropped(8192),
            intact: true,
        },
        peer.now,
    );
    assert!(peer.conn.poll().is_none(), "nothing is left to do");
    let answer = peer.conn.poll_queued().expect("an answer");
    assert_eq!(answer.header.u8_at(3), TASK_SET_FULL);
    assert_eq!(peer.disk(0, 16), before);
    assert_eq!((peer.conn.memory(), peer.conn.open_tasks()), (0, 0));
}

#[test]
fn announced_data_counts_before_it_comes() {
    let mut peer = Peer::with(Options {
        negotiated: Negotiated {
            initial_r2t: false,
            ..agreed()
        },
        ..options(agreed())
    });
    peer.conn.allow(4096);
    let bhs = command(1, 0x20, 8192, 0x2a, 0, 16);
    peer.send(bhs, &[]);
    assert_eq!(peer.response(TASK_SET_FULL), (2, 8192));
    // What was announced may still come: it goes nowhere, silently.
    peer.data_out(1, RESERVED_TAG, 0, 0, true, &[9; 8192]);
    peer.silent();
    assert_eq!(peer.conn.memory(), 0);
}

#[test]
fn answers_that_nobody_takes_stop_the_input() {
    let mut peer = Peer::new();
    peer.socket_full = true;
    let mut sent = 0;
    while peer.conn.wants_input() {
        sent += 1;
        assert!(sent <= 2 * limits::ANSWERS_MAX, "no end of answers");
        let mut bhs = Bhs::new(op::TASK_MANAGEMENT);
        bhs.put_u8(1, 0x81);
        bhs.put_u32(16, 10_000 + u32::try_from(sent).unwrap());
        bhs.put_u32(20, 0x7777);
        peer.send(bhs, &[]);
    }
    assert_eq!(sent, limits::ANSWERS_MAX);
    let taken = std::iter::from_fn(|| peer.conn.poll_queued()).count();
    assert_eq!(taken, limits::ANSWERS_MAX);
    assert!(peer.conn.wants_input());
}

#[test]
fn functions_beyond_the_bound_are_rejected_at_once() {
    let mut peer = Peer::new();
    peer.hold_runs = true;
    peer.write(1, 0, 1, 512, &[9; 512]);
    let mut rejected = 0;
    for n in 0..limits::MANAGEMENT_MAX + 100 {
        let mut bhs = Bhs::new(op::TASK_MANAGEMENT);
        bhs.put_u8(1, 0x80 | ABORT_TASK_SET);
        bhs.put_u32(16, 100 + u32::try_from(n).unwrap());
        peer.send(bhs, &[]);
        if let Some(answer) = peer.inbox.pop_front() {
            assert_eq!(answer.header.u8_at(2), 0xff);
            rejected += 1;
        }
    }
    assert_eq!(rejected, 100);
    peer.dead.insert(1);
    peer.run_all();
    peer.pump();
    assert_eq!(peer.inbox.len(), limits::MANAGEMENT_MAX);
    assert_eq!(peer.conn.open_tasks(), 0);
}

#[test]
fn a_discovery_session_that_asks_nothing_is_closed() {
    let mut peer = Peer::with(Options {
        target: None,
        luns: Vec::new(),
        talkative: false,
        ..options(agreed())
    });
    peer.tick(1);
    assert!(peer.closed.is_none());
    peer.tick(limits::DISCOVERY_IDLE.as_secs());
    assert_eq!(peer.closed, Some(Why::Idle));
}
