//! Malformed and hostile sessions against a real head over TCP: rows 13 to 22 of the list of malformed input
//! (docs/testing.md). After each, a well-behaved session works, a new one gets in, and the head has not grown.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;
mod hostile;

use std::time::Instant;

use common::PATIENCE;
use hostile::{
    CHECK, Dice, GOOD, LAST, PREFIX, Raw, SECTOR, Scene, TASK_SET_FULL, cdb10, names, sense,
};
use reveille::iscsi::pdu::{Bhs, RESERVED_TAG, op};
use reveille::limits;

/// Reject reasons (RFC 7143 11.17.1).
const PROTOCOL: u8 = 0x04;
const UNSUPPORTED: u8 = 0x05;
const IMMEDIATES: u8 = 0x06;
const IN_PROGRESS: u8 = 0x07;
const FIELD: u8 = 0x09;

fn bytes(blocks: u16) -> u32 {
    u32::from(blocks) * 512
}

/// A write that waits for data: its tag and the R2T's transfer tag.
fn open_write(raw: &mut Raw, blocks: u16) -> (u32, u32) {
    let bhs = raw.scsi(0xa0, bytes(blocks), &cdb10(0x2a, 0, blocks));
    raw.put(bhs, b"");
    let (r2t, _) = raw.receive().unwrap();
    assert_eq!((r2t.opcode(), r2t.itt()), (op::R2T, bhs.itt()));
    (bhs.itt(), r2t.ttt())
}

fn data_out(itt: u32, ttt: u32, sn: u32, offset: u32, last: bool) -> Bhs {
    let mut bhs = Bhs::new(op::DATA_OUT);
    bhs.put_u8(1, if last { 0x80 } else { 0 });
    bhs.put_u32(16, itt);
    bhs.put_u32(20, ttt);
    bhs.put_u32(36, sn);
    bhs.put_u32(40, offset);
    bhs
}

/// Row 13.
#[test]
fn each_pdu_has_its_phase() {
    let mut scene = Scene::new();
    let mut raw = scene.stranger();
    let early = raw.scsi(0xc0, 512, &cdb10(0x28, 0, 1));
    raw.put(early, b"");
    assert!(raw.closed().is_empty(), "a command before the login");
    let mut raw = scene.session();
    let text = names("n1");
    let again = raw.login_request(LAST, text.as_bytes());
    raw.put(again, text.as_bytes());
    raw.rejected(PROTOCOL, "a login in the full feature phase");
    raw.silent("after it");
    let mut raw = scene.stranger();
    let discovery = format!("InitiatorName={PREFIX}:n1.initiator\0SessionType=Discovery\0");
    assert_eq!(raw.status(LAST, discovery.as_bytes()), 0);
    for opcode in [op::SCSI_COMMAND, op::TASK_MANAGEMENT] {
        let mut bhs = raw.request(opcode);
        bhs.put_u8(1, 0x81);
        raw.put(bhs, b"");
        raw.rejected(UNSUPPORTED, "SCSI in a discovery session");
    }
    scene.check();
}

/// Row 14.
#[test]
fn every_opcode_with_random_headers_is_answered_or_closed_and_never_hangs() {
    let mut scene = Scene::new();
    let mut dice = Dice(14);
    for opcode in 0..0x40_u8 {
        let mut raw = scene.session();
        for round in 0..4 {
            let mut bhs = Bhs::new(opcode | if round % 2 == 0 { 0x40 } else { 0 });
            bhs.0[1..48].fill_with(|| dice.byte());
            bhs.put_u8(4, dice.byte() % 3);
            bhs.set_data_len(u32::from(dice.byte()));
            bhs.put_u32(24, raw.cmd_sn);
            let ahs: Vec<u8> = (0..bhs.ahs_len()).map(|_| dice.byte()).collect();
            raw.put_ahs(bhs, &ahs, &vec![dice.byte(); bhs.data_len() as usize]);
        }
        let mut ping = Bhs::new(op::NOP_OUT | 0x40);
        ping.put_u8(1, 0x80);
        ping.put_u32(16, 0x5eed);
        ping.put_u32(20, RESERVED_TAG);
        raw.put(ping, b"");
        // `receive` fails when neither comes.
        while let Some((answer, _)) = raw.receive() {
            if (answer.opcode(), answer.itt()) == (op::NOP_IN, 0x5eed) {
                break;
            }
        }
    }
    scene.check();
}

/// Row 15.
#[test]
fn command_numbers_outside_the_window_are_ignored_and_gaps_end_the_session() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let right = raw.cmd_sn;
    for (off, what) in [
        (u32::MAX, "one below"),
        (0x8000_0000, "half the circle off"),
        (0x7fff_ffff, "just ahead of half"),
        (limits::COMMAND_WINDOW, "one above the window"),
        (limits::COMMAND_WINDOW + 5, "above the window"),
    ] {
        for _ in 0..20 {
            let mut bhs = raw.scsi(0x80, 0, &[0; 6]);
            bhs.put_u32(24, right.wrapping_add(off));
            raw.put(bhs, b"");
        }
        raw.cmd_sn = right;
        raw.silent(what);
    }
    assert_eq!(raw.command(0x80, 0, &[0; 6], &[]).0, GOOD);
    for gap in [1, limits::COMMAND_WINDOW - 2] {
        let mut raw = scene.session();
        let mut bhs = raw.scsi(0x80, 0, &[0; 6]);
        bhs.put_u32(24, bhs.cmd_sn() + gap);
        raw.put(bhs, b"");
        assert!(raw.closed().is_empty(), "a gap of {gap}");
    }
    // The numbers wrap.
    let mut raw = scene.stranger();
    raw.cmd_sn = u32::MAX - 2;
    raw.log_in("n1", 1, "");
    raw.settle();
    for _ in 0..10 {
        assert_eq!(raw.command(0x80, 0, &[0; 6], &[]).0, GOOD);
    }
    assert!(raw.cmd_sn < 20);
    scene.check();
}

/// Row 16.
#[test]
fn pings_and_management_that_nobody_reads_are_bounded() {
    let mut scene = Scene::new();
    let mut deaf: Vec<Raw> = Vec::new();
    for immediate in [0x40, 0] {
        for opcode in [op::NOP_OUT, op::TASK_MANAGEMENT] {
            let mut raw = Raw::with_window(scene.portal, hostile::fresh_address(), Some(2048));
            raw.log_in("n1", u8::try_from(deaf.len()).unwrap() + 1, "");
            let echo = vec![7; if opcode == op::NOP_OUT { 65_536 } else { 0 }];
            raw.stream.set_nonblocking(true).unwrap();
            for _ in 0..1000 {
                let mut bhs = raw.request(opcode | immediate);
                bhs.put_u8(1, 0x81);
                // What does not fit any more is dropped: then the head has stopped to read.
                raw.put(bhs, &echo);
            }
            deaf.push(raw);
        }
    }
    scene.check_within(48 << 20);
    drop(deaf);
    // A peer that reads is told when it has too many immediate commands: here they wait behind writes.
    let mut raw = scene.session();
    open_write(&mut raw, 64);
    for _ in 0..limits::IMMEDIATE_MAX {
        let bhs = raw.scsi(0xa0, 4096, &cdb10(0x2a, 8, 8));
        let mut bhs = bhs;
        bhs.put_u8(0, op::SCSI_COMMAND | 0x40);
        raw.cmd_sn -= 1;
        bhs.put_u32(24, raw.cmd_sn);
        raw.put(bhs, b"");
        assert_eq!(raw.receive().unwrap().0.opcode(), op::R2T);
    }
    let bhs = raw.request(op::NOP_OUT | 0x40);
    raw.put(bhs, b"");
    raw.rejected(IMMEDIATES, "one more immediate command");
    scene.check();
}

/// Row 17.
#[test]
fn tags_in_use_and_the_reserved_tag_are_rejected() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let (itt, ttt) = open_write(&mut raw, 8);
    let mut twin = raw.scsi(0xc0, 512, &cdb10(0x28, 0, 1));
    twin.put_u32(16, itt);
    raw.put(twin, b"");
    raw.rejected(IN_PROGRESS, "a tag in use");
    let mut none = raw.scsi(0xc0, 512, &cdb10(0x28, 0, 1));
    none.put_u32(16, RESERVED_TAG);
    raw.put(none, b"");
    raw.rejected(FIELD, "the reserved tag");
    // The first owner of the tag is not disturbed.
    raw.put(data_out(itt, ttt, 0, 0, true), &[3; 4096]);
    assert_eq!(raw.outcome(itt).0, GOOD);
    let back = raw.command(0xc0, 4096, &cdb10(0x28, 0, 8), &[]);
    assert!(back.0 == GOOD && back.2 == [3; 4096]);
    scene.check();
}

/// Row 18, first half: data for transfers that are not there.
#[test]
fn data_for_foreign_and_ended_transfers_goes_nowhere() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let before = raw.command(0xc0, 32_768, &cdb10(0x28, 0, 64), &[]).2;
    raw.put(data_out(1, 0x7fff_0000, 0, 0, true), &[9; 512]);
    raw.rejected(FIELD, "a transfer tag that never was");
    let (itt, ttt) = open_write(&mut raw, 8);
    raw.put(data_out(itt + 77, ttt, 0, 0, true), &[9; 512]);
    raw.rejected(FIELD, "another task's transfer tag");
    assert_eq!(raw.manage(1, 0, itt), 0);
    for _ in 0..100 {
        raw.put(data_out(itt, ttt, 0, 0, true), &[9; 4096]);
    }
    raw.silent("data after the abort");
    // A write that is over: its status came before the data.
    let wrong = raw.scsi(0x20, 4096, &cdb10(0x2a, u32::MAX, 8));
    raw.put(wrong, b"");
    let (status, told, ..) = raw.outcome(wrong.itt());
    assert_eq!(status, CHECK, "{told:02x?}");
    raw.put(data_out(wrong.itt(), RESERVED_TAG, 0, 0, true), &[9; 4096]);
    raw.silent("unsolicited data after the status");
    let after = raw.command(0xc0, 32_768, &cdb10(0x28, 0, 64), &[]).2;
    assert!(before == after);
    scene.check();
}

/// Row 18, second half: data that does not fit its transfer.
#[test]
fn data_out_of_order_or_shape_ends_its_task_and_touches_nothing() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let before = raw.command(0xc0, 32_768, &cdb10(0x28, 0, 64), &[]).2;
    for (sn, offset, len, last, what) in [
        (1, 0, 4096, true, "DataSN too high"),
        (27, 0, 4096, true, "DataSN far too high"),
        (u32::MAX, 0, 4096, true, "DataSN -1"),
        (0, 512, 3584, true, "a gap"),
        (0, u32::MAX - 100, 4096, true, "an offset that would wrap"),
        (0, 4096, 512, true, "beyond the transfer"),
        (0, 0, 4608, true, "more than was asked for"),
        (0, 0, 512, true, "F too early"),
    ] {
        let (itt, ttt) = open_write(&mut raw, 8);
        raw.put(data_out(itt, ttt, sn, offset, last), &vec![9; len]);
        let (status, told, ..) = raw.outcome(itt);
        assert_eq!((status, sense(&told).0), (CHECK, 0x0b), "{what}");
        // The rest of the burst is swallowed.
        raw.put(data_out(itt, ttt, 1, 512, true), &[9; 3584]);
        raw.silent(what);
    }
    let (itt, ttt) = open_write(&mut raw, 8);
    raw.put(data_out(itt, ttt, 0, 0, false), &[9; 1024]);
    raw.put(data_out(itt, ttt, 1, 512, true), &[9; 3584]);
    assert_eq!(raw.outcome(itt).0, CHECK, "an overlap");
    let after = raw.command(0xc0, 32_768, &cdb10(0x28, 0, 64), &[]).2;
    assert!(before == after, "nothing of it was written");
    scene.check();
}

/// Row 19.
#[test]
fn immediate_data_beyond_what_was_agreed_is_refused() {
    let mut scene = Scene::new();
    let keys = "FirstBurstLength=4096\0ImmediateData=Yes\0InitialR2T=Yes\0";
    let mut raw = scene.session_with(keys);
    let before = raw.command(0xc0, 32_768, &cdb10(0x28, 0, 64), &[]).2;
    for (flags, edtl, len, what) in [
        (0xa0, 8192, 8192, "more than FirstBurstLength"),
        (0xa0, 512, 1024, "more than the expected length"),
        (0xc0, 4096, 512, "with a read"),
        (0x80, 0, 512, "with no direction"),
        (
            0x20,
            8192,
            512,
            "unsolicited data announced with InitialR2T",
        ),
    ] {
        let opcode = if flags & 0x40 == 0 { 0x2a } else { 0x28 };
        let blocks = u16::try_from(edtl / 512).unwrap();
        let (status, told, ..) = raw.command(flags, edtl, &cdb10(opcode, 0, blocks), &vec![9; len]);
        assert_eq!(
            (status, sense(&told)),
            (CHECK, (0x0b, 0x0c, 0x0c)),
            "{what}"
        );
    }
    let mut raw = scene.session_with("ImmediateData=No\0");
    let (status, told, ..) = raw.command(0xa0, 512, &cdb10(0x2a, 0, 1), &[9; 512]);
    assert_eq!(
        (status, sense(&told)),
        (CHECK, (0x0b, 0x0c, 0x0c)),
        "ImmediateData=No"
    );
    let after = raw.command(0xc0, 32_768, &cdb10(0x28, 0, 64), &[]).2;
    assert!(before == after, "nothing of it was written");
    // Above our MaxRecvDataSegmentLength the frame itself cannot be trusted.
    let mut bhs = raw.scsi(0xa0, 1 << 20, &cdb10(0x2a, 0, 2048));
    bhs.set_data_len(limits::TARGET_MRDSL + 1);
    raw.send(&bhs.0);
    assert!(raw.closed().is_empty());
    scene.check();
}

/// Row 20.
#[test]
fn expected_lengths_of_all_kinds_give_residuals_and_no_memory() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    for (edtl, residual, len) in [
        (0, (0x04, 512), 0),
        (1, (0x04, 511), 1),
        (511, (0x04, 1), 511),
        (512, (0, 0), 512),
        (10_000, (0x02, 9488), 512),
        (u32::MAX, (0x02, u32::MAX - 512), 512),
    ] {
        let done = raw.command(0xc0, edtl, &cdb10(0x28, 0, 1), &[]);
        assert_eq!(
            (done.0, done.2.len(), done.3),
            (GOOD, len, residual),
            "EDTL {edtl}"
        );
    }
    // Beyond the disk it is no question of memory at all.
    for edtl in [0, 511, u32::MAX] {
        let done = raw.command(0xc0, edtl, &cdb10(0x28, 0, u16::MAX), &[]);
        assert_eq!(
            (done.0, sense(&done.1)),
            (CHECK, (5, 0x21, 0)),
            "EDTL {edtl}"
        );
    }
    // Writes that announce 4 GiB and name one block: one R2T for one block, and the rest is left over.
    let mut tags = Vec::new();
    for _ in 0..64 {
        let bhs = raw.scsi(0xa0, u32::MAX, &cdb10(0x2a, 0, 1));
        raw.put(bhs, b"");
        let (r2t, _) = raw.receive().unwrap();
        assert_eq!((r2t.opcode(), r2t.u32_at(44)), (op::R2T, 512));
        tags.push((bhs.itt(), r2t.ttt()));
    }
    scene.check_within(16 << 20);
    for (itt, ttt) in tags {
        raw.put(data_out(itt, ttt, 0, 0, true), &[1; SECTOR]);
        let done = raw.outcome(itt);
        assert_eq!((done.0, done.3), (GOOD, (0x02, u32::MAX - 512)));
    }
    scene.check();
}

/// Row 21.
#[test]
fn malformed_additional_headers_are_rejected() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let cdb = [0, 5, 1, 0, 1, 2, 3, 4];
    let twice = [cdb, cdb].concat();
    let long = [&[3, 0, 1, 0][..], &[0; 764]].concat();
    let cases: [(&[u8], &str); 6] = [
        (&[0, 5, 9, 0, 1, 2, 3, 4], "an unknown type"),
        (&[0, 0, 1, 0], "a length of zero"),
        (&[0, 9, 1, 0, 1, 2, 3, 4], "past the end"),
        (&[0xff, 0xff, 1, 0], "far past the end"),
        (&twice, "two extended CDBs"),
        (&long, "a CDB longer than SPC allows"),
    ];
    for (ahs, what) in cases {
        let mut bhs = raw.scsi(0x80, 0, &[0; 6]);
        bhs.put_u8(4, u8::try_from(ahs.len() / 4).unwrap());
        raw.put_ahs(bhs, ahs, b"");
        raw.rejected(FIELD, what);
    }
    let mut bhs = raw.scsi(0xe0, 512, &cdb10(0x28, 0, 1));
    bhs.put_u8(4, 2);
    raw.put_ahs(bhs, &[0, 5, 2, 0, 0, 0, 2, 0], b"");
    assert_eq!(raw.outcome(bhs.itt()).0, CHECK, "bidirectional");
    raw.silent("after all");
    scene.check();
}

/// Row 22.
#[test]
fn text_requests_have_their_rules() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let text = |raw: &mut Raw, flags: u8, ttt: u32, data: &[u8]| {
        let mut bhs = raw.request(op::TEXT | 0x40);
        bhs.put_u8(1, flags);
        bhs.put_u32(20, ttt);
        raw.put(bhs, data);
        raw.receive().expect("an answer")
    };
    let (bhs, _) = text(&mut raw, 0x00, RESERVED_TAG, b"SendTargets=All\0");
    assert!(
        matches!(bhs.opcode(), op::TEXT_RESPONSE | op::REJECT),
        "{bhs:?}"
    );
    for (flags, ttt, data, what) in [
        (
            0x80,
            0x1234_5678,
            &b"SendTargets=\0"[..],
            "a foreign transfer tag",
        ),
        (0xc0, RESERVED_TAG, b"SendTargets=\0", "F and C"),
    ] {
        let (bhs, _) = text(&mut raw, flags, ttt, data);
        assert_eq!(
            (bhs.opcode(), bhs.u8_at(2)),
            (op::REJECT, PROTOCOL),
            "{what}"
        );
    }
    let (bhs, _) = text(&mut raw, 0x40, RESERVED_TAG, b"");
    assert!(
        matches!(bhs.opcode(), op::TEXT_RESPONSE | op::REJECT),
        "C without data"
    );
    // A new limit for what we send, then a list.
    let (bhs, _) = text(
        &mut raw,
        0x80,
        RESERVED_TAG,
        b"MaxRecvDataSegmentLength=512\0",
    );
    assert_eq!(bhs.opcode(), op::TEXT_RESPONSE);
    let (bhs, data) = text(&mut raw, 0x80, RESERVED_TAG, b"SendTargets=\0");
    assert_eq!(bhs.opcode(), op::TEXT_RESPONSE);
    assert!(data.len() <= 512 && data.starts_with(b"TargetName="));
    let read = raw.command(0xc0, 4096, &cdb10(0x28, 0, 8), &[]);
    assert_eq!((read.0, read.2.len()), (GOOD, 4096));
    // A chain without end.
    let mut chain = raw.request(op::TEXT | 0x40);
    chain.put_u8(1, 0x40);
    let end = (0..4).find(|_| {
        raw.put(chain, &[b'a'; 4096]);
        let (bhs, _) = raw.receive().expect("an answer");
        chain.put_u32(20, bhs.ttt());
        bhs.opcode() == op::REJECT
    });
    assert!(end.is_some(), "a chain of 16 KiB was taken");
    scene.check();
}

/// Beyond row 20: many writes that ask for much, and whose data never comes.
#[test]
fn writes_whose_data_never_comes_take_no_more_memory_than_their_share() {
    let mut scene = Scene::new();
    let mut greedy: Vec<Raw> = (0..12)
        .map(|n| {
            let mut raw = scene.stranger();
            raw.log_in_as(&format!("greedy-{n}"), "n1", "");
            raw.settle();
            for _ in 0..limits::COMMAND_WINDOW - 1 {
                let bhs = raw.scsi(0xa0, 1 << 20, &cdb10(0x2a, 0, 2048));
                raw.put(bhs, b"");
            }
            raw
        })
        .collect();
    // 12 x 127 MiB are wanted, more than a node may hold: some are told so after a while, the rest are asked for
    // their data.
    let start = Instant::now();
    let (mut full, mut asked) = (0, 0);
    while full == 0 || asked == 0 {
        assert!(start.elapsed() < PATIENCE, "{full} refused, {asked} asked");
        for raw in &mut greedy {
            for bhs in raw.ping() {
                asked += usize::from(bhs.opcode() == op::R2T);
                let status = (bhs.opcode(), bhs.u8_at(3));
                full += usize::from(status == (op::SCSI_RESPONSE, TASK_SET_FULL));
            }
        }
    }
    let bound = u64::try_from(limits::DATA_BYTES_PER_NODE).unwrap();
    scene.check_within(bound + (64 << 20));
}
