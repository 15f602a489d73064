//! READs, residual counts, and other data-in.

use super::*;

/// Takes Data-In PDUs up to the one that ends the data; checks what links them.
fn data_in(peer: &mut Peer, itt: u32) -> (Vec<u8>, Vec<Bhs>) {
    let mut bytes = Vec::new();
    let mut headers = Vec::new();
    while peer
        .inbox
        .front()
        .is_some_and(|pdu| pdu.header.opcode() == op::DATA_IN && pdu.header.itt() == itt)
    {
        let pdu = peer.next();
        assert_eq!(pdu.header.u32_at(36) as usize, headers.len(), "DataSN");
        assert_eq!(pdu.header.u32_at(40) as usize, bytes.len(), "offset");
        assert_eq!(pdu.header.u32_at(20), RESERVED_TAG, "TTT");
        let Data::Payload(payload, range) = pdu.data else {
            panic!("no payload");
        };
        bytes.extend(payload.pieces(range).flatten());
        headers.push(pdu.header);
    }
    (bytes, headers)
}

#[test]
fn a_read_is_split_by_segment_and_burst_and_collapses_into_its_status() {
    let mut peer = Peer::new();
    peer.read(1, 8, 80, 80 * 512);
    let (bytes, headers) = data_in(&mut peer, 1);
    assert_eq!(bytes, peer.disk(8, 80));
    let lens: Vec<_> = headers.iter().map(Bhs::data_len).collect();
    assert_eq!(lens, [8192, 8192, 8192, 8192, 8192]);
    let flags: Vec<_> = headers.iter().map(Bhs::flags).collect();
    assert_eq!(
        flags,
        [0, 0x80, 0, 0x80, 0x81],
        "F at each burst's end, S only in the last"
    );
    assert!(
        headers
            .iter()
            .all(|h| h.u8_at(3) == good() && h.u32_at(44) == 0)
    );
    peer.silent();
    assert_eq!((peer.conn.open_tasks(), peer.conn.memory()), (0, 0));
}

#[test]
fn segments_that_do_not_divide_the_burst_end_with_it() {
    let mut peer = Peer::with(options(Negotiated {
        initiator_mrdsl: 3000,
        max_burst: 4096,
        ..agreed()
    }));
    peer.read(1, 0, 16, 8192);
    let (bytes, headers) = data_in(&mut peer, 1);
    assert_eq!(bytes, peer.disk(0, 16));
    let lens: Vec<_> = headers.iter().map(Bhs::data_len).collect();
    assert_eq!(lens, [3000, 1096, 3000, 1096]);
}

/// The residual matrix of libiscsi's iSCSIResiduals, one block.
#[test]
fn residuals_of_reads_are_told_in_a_response() {
    for (edtl, sent, bits, count) in [
        (0u32, 0usize, 4u8, 512u32),
        (10_000, 512, 2, 9488),
        (200, 200, 4, 312),
    ] {
        let mut peer = Peer::new();
        peer.read(1, 3, 1, edtl);
        let (bytes, headers) = data_in(&mut peer, 1);
        assert_eq!(bytes, peer.disk(3, 1)[..sent]);
        assert!(
            headers.iter().all(|h| h.flags() & 1 == 0),
            "no phase collapse"
        );
        assert_eq!(peer.response(good()), (bits, count), "EDTL {edtl}");
        peer.silent();
    }
}

#[test]
fn two_blocks_into_room_for_one_overflow_by_one() {
    let mut peer = Peer::new();
    peer.read(1, 3, 2, 512);
    let (bytes, _) = data_in(&mut peer, 1);
    assert_eq!(bytes, peer.disk(3, 1));
    assert_eq!(peer.response(good()), (4, 512));
}

#[test]
fn a_read_flagged_as_write_is_good_and_moves_nothing() {
    let mut peer = Peer::new();
    peer.send(command(1, 0xa0, 512, 0x28, 0, 1), &[0; 512]);
    assert_eq!(peer.response(good()), (2, 512));
    peer.silent();
}

#[test]
fn residuals_of_writes_follow_the_same_matrix() {
    for (edtl, bits, count) in [(0u32, 4u8, 512u32), (10_000, 2, 9488), (200, 4, 312)] {
        let mut peer = Peer::new();
        let data = vec![9; edtl.min(512) as usize];
        peer.write(1, 3, 1, edtl, &data);
        assert_eq!(peer.response(good()), (bits, count), "EDTL {edtl}");
        let written = if edtl >= 512 { 9 } else { 3 };
        assert_eq!(peer.disk(3, 1), [written; 512], "no torn block");
    }
    let mut peer = Peer::new();
    peer.write(1, 3, 2, 512, &[9; 512]);
    assert_eq!(peer.response(good()), (4, 512));
    assert_eq!(peer.disk(3, 2), [[9; 512], [4; 512]].concat());
}

#[test]
fn short_allocation_is_an_underflow_of_what_was_expected() {
    let mut peer = Peer::new();
    let mut inquiry = command(1, 0xc0, 255, 0x12, 0, 0);
    inquiry.put_u8(36, 36);
    peer.send(inquiry, &[]);
    let (bytes, _) = data_in(&mut peer, 1);
    assert_eq!(bytes, [7; 36]);
    assert_eq!(peer.response(good()), (2, 219));
}

#[test]
fn errors_carry_sense_and_leave_everything_over() {
    let mut peer = Peer::new();
    peer.read(1, 5000, 1, 512);
    let header = peer.inbox[0].header;
    peer.check(5, 0x21, 0);
    assert_eq!((header.flags(), header.u32_at(44)), (0x82, 512));
    assert_eq!(header.u32_at(36), 0, "ExpDataSN");
}

#[test]
fn exp_data_sn_counts_the_data_pdus_before_a_response() {
    let mut peer = Peer::new();
    peer.read(1, 0, 20, 30_000);
    let (_, headers) = data_in(&mut peer, 1);
    assert_eq!(headers.len(), 2);
    assert_eq!(peer.expect(op::SCSI_RESPONSE).u32_at(36), 2);
}

#[test]
fn reads_wait_while_the_peer_takes_nothing() {
    let mut peer = Peer::new();
    peer.socket_full = true;
    let sectors = 4096;
    for itt in 0..6 {
        peer.read(itt, 0, sectors, u32::from(sectors) * 512);
    }
    assert_eq!(peer.conn.waiting_reads(), 4, "two of 2 MiB fill the queue");
    assert!(peer.conn.memory() <= limits::SEND_QUEUE_BYTES);
    peer.socket_full = false;
    peer.pump();
    for itt in 0..6 {
        let (bytes, _) = data_in(&mut peer, itt);
        assert_eq!(bytes.len(), usize::from(sectors) * 512);
    }
    assert_eq!((peer.conn.memory(), peer.conn.open_tasks()), (0, 0));
}

#[test]
fn urgent_pdus_overtake_queued_data() {
    let mut peer = Peer::new();
    peer.socket_full = true;
    peer.read(1, 0, 80, 80 * 512);
    let mut nop = Bhs::new(op::NOP_OUT | 0x40);
    nop.put_u32(16, 2);
    nop.put_u32(20, RESERVED_TAG);
    peer.send(nop, b"ping");
    assert_eq!(peer.expect(op::NOP_IN).itt(), 2);
    peer.socket_full = false;
    peer.pump();
    assert_eq!(data_in(&mut peer, 1).0.len(), 80 * 512);
}
