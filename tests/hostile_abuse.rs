//! Commands, management and endings that nobody sane sends, against a real head over TCP: rows 23 to 31 of the
//! list of malformed input (docs/testing.md), each beside a well-behaved session.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;
mod hostile;

use std::net::Shutdown;
use std::time::Instant;

use common::PATIENCE;
use hostile::{CHECK, Dice, GOOD, Raw, Scene, cdb10, sense};
use reveille::iscsi::frame::Encoder;
use reveille::iscsi::pdu::{RESERVED_TAG, op};
use reveille::limits;

/// RESERVATION CONFLICT.
const CONFLICT: u8 = 0x18;

/// Row 23.
#[test]
fn every_command_with_random_bytes_is_answered() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let mut dice = Dice(23);
    for opcode in 0..=255_u8 {
        for round in 0..6 {
            let mut cdb = [0; 16];
            cdb.fill_with(|| dice.byte());
            if round < 3 {
                // Near the ends of the numbers: addresses and lengths whose sum does not fit.
                cdb[2..14].fill([0xff, 0x00, 0x7f][round]);
            }
            cdb[0] = opcode;
            let len = [0, 1, 4, 96, 255, 260][round];
            let done = raw.command(0xc0, len, &cdb, &[]);
            assert!(done.2.len() <= len as usize, "{cdb:02x?}");
            if done.0 == CHECK {
                assert!(sense(&done.1).0 != 0, "{cdb:02x?}");
            }
        }
    }
    raw.silent("after all");
    scene.check();
}

/// Row 23, the allocation lengths.
#[test]
fn every_allocation_length_is_kept() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    for len in 0..=260_u16 {
        let [high, low] = len.to_be_bytes();
        for cdb in [
            [0x12, 0, 0, high, low, 0, 0, 0, 0, 0, 0, 0],
            [0x12, 1, 0x83, high, low, 0, 0, 0, 0, 0, 0, 0],
            [0xa0, 0, 0, 0, 0, 0, 0, 0, high, low, 0, 0],
            [0xa3, 0x0c, 0, 0, 0, 0, 0, 0, high, low, 0, 0],
            [0x5a, 0, 0x3f, 0, 0, 0, 0, high, low, 0, 0, 0],
        ] {
            let done = raw.command(0xc0, 1024, &cdb, &[]);
            assert!(done.2.len() <= usize::from(len), "{cdb:02x?}");
        }
    }
    scene.check();
}

/// Row 24.
#[test]
fn parameter_lists_cut_anywhere_change_nothing() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let before = raw.command(0xc0, 65_536, &cdb10(0x28, 0, 128), &[]).2;
    let unmap = [
        0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0,
    ];
    let caching = [
        0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x12, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let register = [0; 24];
    for (opcode, service, list) in [
        (0x42_u8, 0_u8, &unmap[..]),
        (0x55, 0x10, &caching),
        (0x5f, 0x01, &register),
        (0x5f, 0x02, &register),
    ] {
        for len in 0..list.len() {
            let mut cdb = [0; 10];
            (cdb[0], cdb[1]) = (opcode, service);
            cdb[8] = u8::try_from(len).unwrap();
            let edtl = u32::try_from(len).unwrap();
            let flags = if len == 0 { 0x80 } else { 0xa0 };
            let done = raw.command(flags, edtl, &cdb, &list[..len]);
            let told = sense(&done.1);
            let said = matches!(
                (done.0, told),
                (GOOD, _) | (CONFLICT, _) | (CHECK, (5, 0x1a | 0x26 | 0x24 | 0x20, _))
            );
            assert!(said, "{opcode:#x} cut at {len}: {} {told:02x?}", done.0);
        }
    }
    let after = raw.command(0xc0, 65_536, &cdb10(0x28, 0, 128), &[]).2;
    assert!(before == after);
    scene.check();
}

/// Row 25.
#[test]
fn management_of_what_is_not_there_is_answered_and_floods_are_bounded() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    assert_eq!(raw.manage(1, 0, 0x7777), 1, "no such task");
    assert_eq!(raw.manage(2, 7 << 48, 0), 2, "no such LUN");
    assert_eq!(raw.manage(5, u64::MAX, 0), 2, "no such LUN");
    for function in [0, 3, 9, 10, 11, 12, 0x7f] {
        assert_eq!(raw.manage(function, 0, 0), 5, "function {function}");
    }
    assert_eq!(raw.manage(8, 0, 0), 4);
    // An abort while an R2T is open, then a reset under load.
    let write = raw.scsi(0xa0, 65_536, &cdb10(0x2a, 0, 128));
    raw.put(write, b"");
    assert_eq!(raw.receive().unwrap().0.opcode(), op::R2T);
    assert_eq!(raw.manage(1, 0, write.itt()), 0);
    for lane in 0..100 {
        let bhs = raw.scsi(0xc0, 4096, &cdb10(0x28, lane * 8, 8));
        raw.put(bhs, b"");
    }
    assert_eq!(raw.manage(5, 0, 0), 0);
    raw.settle();
    // 20,000 that nobody waits for, each with a command number of its own.
    for _ in 0..20_000 {
        let mut bhs = raw.request(op::TASK_MANAGEMENT);
        bhs.put_u8(1, 0x80 | 2);
        raw.put(bhs, b"");
        if raw.itt.is_multiple_of(64) {
            raw.ping();
        }
    }
    raw.ping();
    scene.check();
}

/// Row 26.
#[test]
fn connections_cut_anywhere_leave_nothing_behind() {
    let mut scene = Scene::new();
    let mut probe = scene.session();
    let write = probe.scsi(0xa0, 4096, &cdb10(0x2a, 200, 8));
    let mut bytes = Vec::new();
    Encoder::default().pdu(write, &[], &[5; 4096], &mut bytes);
    for cut in [1, 47, 48, 49, 100, 2048, 4143] {
        for hard in [true, false] {
            let mut raw = scene.session();
            let mut bhs = write;
            bhs.put_u32(24, raw.cmd_sn);
            bytes[24..28].copy_from_slice(&bhs.0[24..28]);
            raw.send(&bytes[..cut]);
            if hard {
                raw.reset();
            } else {
                raw.stream.shutdown(Shutdown::Write).unwrap();
                raw.closed();
            }
        }
    }
    // RESERVE(6) of a session that is cut is free again.
    let mut holder = scene.stranger();
    holder.log_in("n1", 21, "");
    holder.settle();
    let mut other = scene.stranger();
    other.log_in("n1", 22, "");
    other.settle();
    assert_eq!(holder.command(0x80, 0, &[0x16, 0, 0, 0, 0, 0], &[]).0, GOOD);
    let read = |raw: &mut Raw| raw.command(0xc0, 512, &cdb10(0x28, 0, 1), &[]).0;
    assert_eq!(read(&mut other), CONFLICT);
    holder.reset();
    let start = Instant::now();
    while read(&mut other) != GOOD {
        assert!(
            start.elapsed() < PATIENCE,
            "the reservation outlives its session"
        );
    }
    scene.check();
}

/// Row 27 (both directions: `digests_guard_both_directions`).
#[test]
fn corrupted_digests_close_or_reject() {
    let mut scene = Scene::new();
    let digests = Encoder {
        header_digest: true,
        data_digest: true,
    };
    for (flip, wanted) in [
        (5, None),
        (20, None),
        (49, None),
        (60, Some(2)),
        (4147, Some(2)),
    ] {
        let mut raw = scene.stranger();
        raw.log_in("n1", 1, "HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
        let bhs = raw.scsi(0xa0, 4096, &cdb10(0x2a, 0, 8));
        let mut bytes = Vec::new();
        digests.pdu(bhs, &[], &[9; 4096], &mut bytes);
        bytes[flip] ^= 0x40;
        raw.send(&bytes);
        match wanted {
            None => assert!(raw.closed().is_empty(), "byte {flip}"),
            Some(reason) => {
                let mut head = [0; 52];
                std::io::Read::read_exact(&mut raw.stream, &mut head).unwrap();
                assert_eq!(
                    (head[0] & 0x3f, head[2]),
                    (op::REJECT, reason),
                    "byte {flip}"
                );
            }
        }
    }
    scene.check();
}

/// Row 28.
#[test]
fn logouts_are_answered_and_nothing_lands_after_them() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let logout = |raw: &mut Raw, reason: u8, cid: u16| {
        let mut bhs = raw.request(op::LOGOUT | 0x40);
        bhs.put_u8(1, 0x80 | reason);
        bhs.put_u16(20, cid);
        raw.put(bhs, b"");
    };
    for (reason, cid, response) in [(1, 99, 1), (2, 1, 2), (9, 1, 2)] {
        logout(&mut raw, reason, cid);
        let (bhs, _) = raw.receive().unwrap();
        assert_eq!(
            (bhs.opcode(), bhs.u8_at(2)),
            (op::LOGOUT_RESPONSE, response)
        );
    }
    for lane in 0..60 {
        let bhs = raw.scsi(0xa0, 4096, &cdb10(0x2a, lane * 8, 8));
        raw.put(bhs, &[0xaa; 4096]);
    }
    logout(&mut raw, 0, 0);
    logout(&mut raw, 0, 0);
    let said = raw.closed();
    let farewells = said
        .iter()
        .filter(|bhs| bhs.opcode() == op::LOGOUT_RESPONSE);
    assert_eq!(farewells.count(), 1, "{said:?}");
    // What is there now is what stays there.
    let mut next = scene.session();
    let read = |raw: &mut Raw| raw.command(0xc0, 245_760, &cdb10(0x28, 0, 480), &[]).2;
    let first = read(&mut next);
    assert_eq!(next.command(0x80, 0, &cdb10(0x35, 0, 0), &[]).0, GOOD);
    assert!(first == read(&mut next), "a write landed after the logout");
    scene.check();
}

/// Row 29. Such peers are dropped after a minute (`SEND_STALL`).
#[test]
fn peers_that_never_read_hold_no_more_than_their_share() {
    let mut scene = Scene::new();
    let deaf: Vec<Raw> = (0..24)
        .map(|n| {
            let mut raw = Raw::with_window(scene.portal, hostile::fresh_address(), Some(2048));
            let name = format!("deaf-{n}");
            raw.log_in_as(&name, "n1", "MaxRecvDataSegmentLength=262144\0");
            raw.settle();
            for lane in 0..64 {
                let bhs = raw.scsi(0xc0, 1 << 20, &cdb10(0x28, lane % 7 * 2048, 2048));
                raw.put(bhs, b"");
            }
            raw
        })
        .collect();
    let bound = u64::try_from(limits::DATA_BYTES_PER_NODE).unwrap();
    scene.check_within(bound + (64 << 20));
    let start = std::time::Instant::now();
    while !scene
        .head
        .good(&["events"])
        .contains("stalled: it takes no answer")
    {
        assert!(
            start.elapsed() < 3 * limits::SEND_STALL,
            "nobody was dropped"
        );
        scene.check_within(bound + (64 << 20));
    }
    drop(deaf);
    scene.check_within(bound + (64 << 20));
}

/// Beyond row 29: answers to management pile up behind reads that nobody takes.
#[test]
fn management_behind_reads_that_nobody_takes_is_bounded() {
    let mut scene = Scene::new();
    let mut raw = Raw::with_window(scene.portal, hostile::fresh_address(), Some(2048));
    raw.log_in("n1", 1, "MaxRecvDataSegmentLength=262144\0");
    raw.settle();
    for lane in 0..8 {
        let bhs = raw.scsi(0xc0, 1 << 20, &cdb10(0x28, lane % 7 * 2048, 2048));
        raw.put(bhs, b"");
    }
    // Far more than the sockets hold; when the head stops to read, so do we.
    raw.stream
        .set_write_timeout(Some(std::time::Duration::from_millis(500)))
        .unwrap();
    let mut taken = 0;
    let mut batch = Vec::new();
    for _ in 0..400_000 {
        let mut bhs = raw.request(op::TASK_MANAGEMENT);
        bhs.put_u8(1, 0x81);
        bhs.put_u32(20, RESERVED_TAG);
        batch.extend_from_slice(&bhs.0);
        if batch.len() >= 48 * 1024 {
            if std::io::Write::write_all(&mut raw.stream, &batch).is_err() {
                break;
            }
            taken += batch.len();
            batch.clear();
        }
    }
    assert!(
        taken < 12 << 20,
        "the head took {taken} bytes and forgot to stop"
    );
    scene.check_within(48 << 20);
}

/// Row 30, over the wire (every failing call: `tests/layer_faults.rs`): an image whose bytes are gone.
#[test]
fn a_failing_disk_is_a_medium_error_and_nobody_elses_trouble() {
    let scene = Scene::new();
    let packs = files_below(&scene.head.path("state"), "pack");
    assert!(!packs.is_empty(), "no pack file was found");
    let mut raw = scene.session();
    for pack in packs {
        let len = std::fs::metadata(&pack).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(&pack).unwrap();
        std::os::unix::fs::FileExt::write_all_at(
            &file,
            &vec![0x5a; usize::try_from(len).unwrap() - 8192],
            8192,
        )
        .unwrap();
    }
    let mut bad = 0;
    for lba in (0..16_000).step_by(64) {
        let done = raw.command(0xc0, 32_768, &cdb10(0x28, lba, 64), &[]);
        if done.0 != GOOD {
            assert_eq!((done.0, sense(&done.1).0), (CHECK, 3), "{:02x?}", done.1);
            bad += 1;
        }
    }
    assert!(bad > 0, "damaged bytes were served as good ones");
    assert_eq!(
        raw.manage(5, 0, 0),
        0,
        "management is answered all the same"
    );
}

fn files_below(dir: &std::path::Path, ending: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.to_string_lossy().contains(ending) {
            found.push(path);
        }
    }
    found
}

/// Row 31 (between all steps of a write: `tests/layer_crash.rs`, `acknowledged_writes_*_survive_kill_9`).
#[test]
fn a_flushed_write_survives_a_killed_head_and_its_node_comes_back() {
    let mut scene = Scene::new();
    let mut raw = scene.session();
    let done = raw.command(0xa0, 4096, &cdb10(0x2a, 80, 8), &[0x31; 4096]);
    assert_eq!(done.0, GOOD);
    assert_eq!(raw.command(0x80, 0, &cdb10(0x35, 0, 0), &[]).0, GOOD);
    scene.head.kill();
    assert!(raw.closed().is_empty());
    scene.head.serve();
    scene.portal = scene.head.portal.unwrap();
    let mut raw = scene.session();
    let back = raw.command(0xc0, 4096, &cdb10(0x28, 80, 8), &[]);
    assert!(back.0 == GOOD && back.2 == [0x31; 4096]);
}
