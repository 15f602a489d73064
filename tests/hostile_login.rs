//! Malformed and hostile logins against a real head over TCP: rows 1 to 12 and 32 of the list of malformed input
//! (docs/testing.md). After each, a well-behaved session works, a new one gets in, and the head has not grown.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;
mod hostile;

use std::io::{Read, Write};
use std::time::Instant;

use hostile::{LAST, LOGIN, PREFIX, Raw, Scene, names, target};
use reveille::iscsi::chap::{Algorithm, decode, hex};
use reveille::iscsi::pdu::{Bhs, op};
use reveille::limits;

/// Security stage.
const SECURITY: u8 = 0x00;
/// Operational stage, no T.
const OPERATIONAL: u8 = 0x04;

/// Row 1.
#[test]
fn garbage_tls_and_http_are_closed_without_an_answer() {
    let mut scene = Scene::new();
    let mut command = Bhs::new(op::SCSI_COMMAND);
    command.put_u8(1, 0xc1);
    let garbage: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: head\r\n\r\n",
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0; 48],
        &[0xff; 4096],
        &[0x03; 48],
        b"\r\n",
        &command.0,
    ];
    for bytes in garbage {
        let mut raw = scene.stranger();
        raw.send(bytes);
        assert!(raw.closed().is_empty(), "answered {bytes:02x?}");
    }
    scene.check();
}

/// Row 2.
#[test]
fn half_a_header_and_a_byte_a_second_end_with_the_deadline() {
    let mut scene = Scene::new();
    let start = Instant::now();
    let mut half: Vec<Raw> = (0..8).map(|_| scene.stranger()).collect();
    for (at, raw) in half.iter_mut().enumerate() {
        raw.send(&Bhs::new(LOGIN).0[..[0, 1, 5, 20, 40, 45, 46, 47][at]]);
    }
    let mut slow = scene.stranger();
    let mut sent = 0;
    while slow.stream.write_all(&[[LOGIN, 0][sent.min(1)]]).is_ok() {
        sent += 1;
        assert!(
            start.elapsed() < 3 * limits::LOGIN_WAIT,
            "{sent} bytes taken"
        );
        // A byte a second: the wait for the answer that never comes is the pause.
        slow.stream
            .set_read_timeout(Some(std::time::Duration::from_secs(1)))
            .unwrap();
        if matches!(slow.stream.read(&mut [0]), Ok(0)) {
            break;
        }
    }
    assert!(start.elapsed() >= limits::FIRST_PDU_WAIT / 2);
    for raw in &mut half {
        assert!(raw.closed().is_empty());
    }
    scene.check();
}

/// Row 3.
#[test]
fn giant_lengths_are_closed_before_anything_is_allocated() {
    let mut scene = Scene::new();
    for (len, ahs) in [
        (0xff_ffff, 0),
        (8193, 0),
        (0, 255),
        (0, 1),
        (0xff_ffff, 255),
    ] {
        let mut raws: Vec<Raw> = (0..20).map(|_| scene.stranger()).collect();
        for raw in &mut raws {
            let mut bhs = raw.login_request(LAST, b"");
            bhs.set_data_len(len);
            bhs.put_u8(4, ahs);
            raw.send(&bhs.0);
        }
        for raw in &mut raws {
            assert!(raw.closed().is_empty(), "length {len}, AHS {ahs}");
        }
    }
    scene.check_within(16 << 20);
}

/// Row 4.
#[test]
fn text_without_its_end_is_refused() {
    let mut scene = Scene::new();
    for len in [1, 8189, 8190, 8191, 8192] {
        let mut text = names("n1").into_bytes();
        text.resize(len.max(text.len()), b'a');
        text.truncate(len);
        assert_eq!(scene.stranger().status(LAST, &text), 0x0200, "{len}");
    }
    scene.check();
}

/// Row 5.
#[test]
fn long_and_countless_keys_are_refused_within_bounds() {
    let mut scene = Scene::new();
    let long = |len: usize| format!("X-{}=1\0", "k".repeat(len - 2));
    let many: String = (0..limits::LOGIN_KEYS_MAX + 1)
        .map(|n| format!("X-{n}=1\0"))
        .collect();
    let huge = format!("X-a={}\0", "v".repeat(7000));
    for (text, wanted) in [
        (long(63), 0),
        (long(64), 0x0200),
        (long(65), 0x0200),
        (long(7000), 0x0200),
        (huge, 0x0200),
        (many, 0x0200),
    ] {
        let mut raw = scene.stranger();
        let text = format!("{}{text}", names("n1"));
        let (bhs, answer) = raw.say(OPERATIONAL, text.as_bytes()).unwrap();
        assert_eq!(bhs.u16_at(36), wanted, "{text:.80}");
        assert!(answer.len() <= limits::TEXT_CHAIN_MAX);
    }
    // 10,000 keys in as many requests as it takes: the chain, the keys and the requests have their bounds.
    let mut raw = scene.stranger();
    let piece = "X-a=1\0".repeat(1300);
    let status = (0..10).map(|_| raw.status(0x44, piece.as_bytes()));
    assert!(status.into_iter().any(|status| status == 0x0200));
    scene.check();
}

/// Row 6.
#[test]
fn malformed_keys_and_numbers_are_refused_and_never_wrap() {
    let mut scene = Scene::new();
    for (text, wanted) in [
        ("novalue\0", 0x0200),
        ("=x\0", 0x0200),
        ("MaxBurstLength=512\0MaxBurstLength=512\0", 0x0200),
        (
            "InitiatorName=iqn.2026-11.t:a\0InitiatorName=iqn.2026-11.t:a\0",
            0x0200,
        ),
    ] {
        let text = if text.starts_with("Init") {
            text.to_owned()
        } else {
            format!("{}{text}", names("n1"))
        };
        let status = scene.stranger().status(OPERATIONAL, text.as_bytes());
        assert_eq!(status, wanted, "{text:?}");
    }
    for value in [
        "0",
        "-1",
        "4294967808",
        "4294967296",
        "0x",
        "1e3",
        " 512",
        "512 ",
        "",
        "0x1ffffffff",
    ] {
        let mut raw = scene.stranger();
        let text = format!("{}MaxBurstLength={value}\0", names("n1"));
        let (bhs, answer) = raw.say(OPERATIONAL, text.as_bytes()).unwrap();
        let said = String::from_utf8(answer).unwrap();
        let refused = bhs.u16_at(36) == 0x0200 || said.contains("MaxBurstLength=Reject\0");
        assert!(refused, "{value:?}: {:#06x} {said:?}", bhs.u16_at(36));
    }
    scene.check();
}

/// Row 7.
#[test]
fn endless_continuation_ends() {
    let mut scene = Scene::new();
    for piece in [&b"a"[..], b""] {
        let mut raw = scene.stranger();
        let mut answers = 0;
        let end = loop {
            match raw.say(0x44, piece) {
                Some((bhs, _)) if bhs.u16_at(36) == 0 => answers += 1,
                Some((bhs, _)) => break bhs.u16_at(36),
                None => panic!("closed without a status"),
            }
            assert!(answers <= limits::LOGIN_PDUS_MAX);
        };
        assert_eq!(end, 0x0200);
    }
    let both = scene.stranger().status(0xc7, names("n1").as_bytes());
    assert_eq!(both, 0x0200, "C and T");
    scene.check();
}

/// Row 8.
#[test]
fn no_stage_is_jumped_to_get_around_chap() {
    let mut scene = Scene::with_auth("chap");
    let text = format!("{}AuthMethod=CHAP,None\0", names("n1"));
    let none = format!("{}AuthMethod=None\0", names("n1"));
    for (flags, text, what) in [
        (0x82, &text, "NSG 2"),
        (0x88, &text, "CSG 2"),
        (0x8c, &text, "CSG 3"),
        (0x80, &text, "T to the same stage"),
        (0x84, &text, "T backwards"),
        (0x85, &text, "T to the same operational stage"),
        (LAST, &text, "CSG 1 first"),
        (OPERATIONAL, &text, "CSG 1 first, without T"),
        (0x83, &none, "T from 0 to 3 with AuthMethod None"),
        (0x81, &none, "T from 0 to 1 with AuthMethod None"),
        (0x83, &names("n1"), "T from 0 to 3 without AuthMethod"),
        (0x81, &names("n1"), "T from 0 to 1 without AuthMethod"),
    ] {
        let mut raw = scene.stranger();
        let status = raw.status(flags, text.as_bytes());
        assert!(matches!(status, 0x0200 | 0x0201), "{what}: {status:#06x}");
    }
    // With CHAP on the way T is held back; the next request must be of the security stage.
    let mut raw = scene.stranger();
    let (bhs, _) = raw.say(0x83, text.as_bytes()).unwrap();
    assert_eq!((bhs.u16_at(36), bhs.flags() & 0x80), (0, 0));
    let status = raw.status(LAST, b"");
    assert!(matches!(status, 0x0200 | 0x0201), "{status:#06x}");
    scene.check();
}

/// Agrees on CHAP; identifier and challenge.
fn challenged(raw: &mut Raw, node: &str) -> (u8, Vec<u8>) {
    let text = format!("{}AuthMethod=CHAP\0", names(node));
    assert_eq!(raw.status(SECURITY, text.as_bytes()), 0);
    let (bhs, answer) = raw.say(SECURITY, b"CHAP_A=5\0").unwrap();
    assert_eq!(bhs.u16_at(36), 0);
    let answer = String::from_utf8(answer).unwrap();
    let value = |key: &str| {
        let pair = answer.split('\0').find_map(|pair| pair.strip_prefix(key));
        pair.unwrap_or_else(|| panic!("no {key} in {answer:?}"))
            .to_owned()
    };
    let identifier = value("CHAP_I=").parse().unwrap();
    (identifier, decode(&value("CHAP_C="), 1024).unwrap())
}

/// Row 9.
#[test]
fn chap_out_of_order_or_shape_is_an_authentication_failure() {
    let mut scene = Scene::with_auth("chap");
    let secret = scene.secret("n1").secret;
    let method = format!("{}AuthMethod=CHAP\0", names("n1"));
    for first in [
        "CHAP_N=n1\0CHAP_R=0x00\0",
        "CHAP_A=56\0",
        "CHAP_A=\0",
        "CHAP_A=999\0",
        "CHAP_A=5,7,5,7,6,8,x\0CHAP_R=0x00\0",
        "CHAP_I=256\0",
    ] {
        let mut raw = scene.stranger();
        assert_eq!(raw.status(SECURITY, method.as_bytes()), 0);
        let status = raw.status(SECURITY, first.as_bytes());
        assert!(
            matches!(status, 0x0200 | 0x0201 | 0x0207),
            "{first:?}: {status:#06x}"
        );
    }
    let r17 = format!("0x{}", "ab".repeat(17));
    let oversize = format!("0b{}", "A".repeat(4000));
    for (n, r) in [
        (None, Some("0x00112233445566778899aabbccddeeff")),
        (Some("n1"), None),
        (Some("n1"), Some(r17.as_str())),
        (Some("n1"), Some("0x0")),
        (Some("n1"), Some("0x")),
        (Some("n1"), Some("0xgg112233445566778899aabbccddeeff")),
        (Some("n1"), Some(oversize.as_str())),
        (Some("n1"), Some("0bA=AA")),
        (Some("n1"), Some("0b!!!!")),
        (Some("n1"), Some("plain")),
        (Some("n2"), Some("0x00112233445566778899aabbccddeeff")),
    ] {
        let mut raw = scene.stranger();
        challenged(&mut raw, "n1");
        let mut text = String::new();
        n.inspect(|n| text += &format!("CHAP_N={n}\0"));
        r.inspect(|r| text += &format!("CHAP_R={r}\0"));
        let status = raw.status(0x81, text.as_bytes());
        assert!(
            matches!(status, 0x0200 | 0x0201 | 0x0207),
            "{n:?} {r:?}: {status:#06x}"
        );
    }
    // The right response, but with a challenge for the head that is ours again, or too long: no proof is given.
    for reflect in [true, false] {
        let mut raw = scene.stranger();
        let (identifier, challenge) = challenged(&mut raw, "n1");
        let algorithm = Algorithm::of(5).unwrap();
        let right = hex(&algorithm.response(identifier, &secret, &challenge));
        let theirs = if reflect { challenge } else { vec![7; 1025] };
        let theirs = hex(&theirs);
        let text = format!("CHAP_N=n1\0CHAP_R={right}\0CHAP_I=1\0CHAP_C={theirs}\0");
        let status = raw.status(0x81, text.as_bytes());
        assert!(matches!(status, 0x0200 | 0x0201 | 0x0207), "{status:#06x}");
    }
    scene.check();
}

/// Row 10.
#[test]
fn nothing_may_change_in_the_middle_of_a_login() {
    let mut scene = Scene::new();
    type Change = fn(&mut Bhs);
    let changes: [(&str, Change); 4] = [
        ("ISID", |bhs| bhs.put_u8(9, 0x77)),
        ("CID", |bhs| bhs.put_u16(20, 99)),
        ("ITT", |bhs| bhs.put_u32(16, 99)),
        ("TSIH", |bhs| bhs.put_u16(14, 99)),
    ];
    for (what, change) in changes {
        let mut raw = scene.stranger();
        assert_eq!(raw.status(OPERATIONAL, names("n1").as_bytes()), 0);
        let mut bhs = raw.login_request(LAST, b"");
        change(&mut bhs);
        raw.put(bhs, b"");
        let (answer, _) = raw.receive().unwrap();
        assert_eq!(answer.u16_at(36), 0x0200, "{what}");
    }
    let mut raw = scene.stranger();
    assert_eq!(raw.status(OPERATIONAL, names("n1").as_bytes()), 0);
    assert_eq!(
        raw.status(LAST, names("n2").as_bytes()),
        0x0200,
        "the names"
    );
    scene.check();
}

/// Row 11.
#[test]
fn a_foreign_session_can_be_neither_joined_nor_replaced_without_its_secret() {
    let mut scene = Scene::with_auth("chap");
    // The bystander is n2 with port 1; its handle is small.
    for tsih in [1, 2, 3, 0xffff] {
        let mut raw = scene.stranger();
        let text = format!("{}AuthMethod=CHAP\0", names("n2"));
        let mut bhs = raw.login_request(SECURITY, text.as_bytes());
        bhs.put_u16(14, tsih);
        raw.put(bhs, text.as_bytes());
        assert_eq!(raw.receive().unwrap().0.u16_at(36), 0x020a, "{tsih}");
    }
    let mut raw = scene.stranger();
    raw.isid[5] = 1;
    challenged(&mut raw, "n2");
    scene.check();
    let wrong = hex(&[0; 16]);
    let text = format!("CHAP_N=n2\0CHAP_R={wrong}\0");
    assert_eq!(raw.status(0x81, text.as_bytes()), 0x0201);
    scene.check();
}

/// Row 12: 500 half-open logins and a run of connects; how fast others log in is measured by `cargo bench`.
#[test]
fn others_log_in_beside_half_open_logins() {
    let mut scene = Scene::new();
    let half: Vec<Raw> = (0..500)
        .map(|n| {
            let mut raw = scene.stranger();
            match n % 3 {
                0 => {}
                1 => raw.send(&[LOGIN]),
                _ => {
                    let bhs = raw.login_request(OPERATIONAL, names("n1").as_bytes());
                    raw.put(bhs, names("n1").as_bytes());
                }
            }
            raw
        })
        .collect();
    scene.check();
    let loopback = hostile::fresh_address();
    for _ in 0..1000 {
        drop(Raw::from(scene.portal, loopback));
    }
    scene.check();
    drop(half);
    scene.check();
}

/// Row 32.
#[test]
fn hostile_names_are_refused_and_never_shown_raw() {
    let mut scene = Scene::new();
    let long = format!("iqn.2026-11.t:{}", "a".repeat(220));
    for name in [
        "",
        "n1",
        "iqn.2026-11.t:\u{430}bc",
        "iqn.2026-11.t:a\nroot",
        "iqn.2026-11.t:\u{1b}[2J",
        "iqn.2026-11.t:a b",
        "iqn.2026-11.t:../../../etc/passwd",
        "../../etc/passwd",
        &long,
    ] {
        let text = format!("InitiatorName={name}\0TargetName={}\0", target("n1"));
        let status = scene.stranger().status(OPERATIONAL, text.as_bytes());
        assert_eq!(status, 0x0200, "{name:?}");
        let text = format!("InitiatorName=iqn.2026-11.t:x\0TargetName={name}\0");
        let status = scene.stranger().status(OPERATIONAL, text.as_bytes());
        assert!(matches!(status, 0x0200 | 0x0203), "{name:?}: {status:#06x}");
    }
    let text = format!(
        "InitiatorName=iqn.2026-11.t:a\0b\0TargetName={}\0",
        target("n1")
    );
    assert_eq!(
        scene.stranger().status(OPERATIONAL, text.as_bytes()),
        0x0200
    );
    // Upper case is folded (RFC 3722), so it names the same initiator.
    let upper = format!("InitiatorName={}:N1.INITIATOR\0", PREFIX.to_uppercase());
    let status = scene.stranger().status(
        OPERATIONAL,
        format!("{upper}TargetName={}\0", target("n1")).as_bytes(),
    );
    assert!(matches!(status, 0 | 0x0200), "{status:#06x}");
    scene.check();
    let log = scene.head.log();
    let raw = |c: char| c.is_control() && c != '\n';
    assert!(!log.contains(raw), "control characters in the log");
    assert!(!log.lines().any(|line| line.starts_with("root")));
}
