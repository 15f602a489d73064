//! Round trips, refusals, waits and figures of traces.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Error, ErrorKind, Op, OpKind, Session, Trace};

fn op(session: u16, at_us: u64, took_us: u32) -> Op {
    Op {
        session,
        at_us,
        took_us,
        kind: OpKind::Read,
        offset: 0,
        len: 512,
        fua: false,
    }
}

fn session(login_at_us: u64, logout_at_us: Option<u64>) -> Session {
    Session {
        initiator: "os".into(),
        login_at_us,
        logout_at_us,
    }
}

fn small() -> Trace {
    Trace {
        about: vec![("origin".into(), "a test".into())],
        disk_bytes: 1 << 20,
        sessions: vec![session(0, Some(900)), session(1000, None)],
        ops: vec![
            op(0, 100, 50),
            Op {
                kind: OpKind::Write,
                offset: 4096,
                len: 8192,
                fua: true,
                ..op(0, 120, 300)
            },
            Op {
                kind: OpKind::Flush,
                len: 0,
                ..op(1, 1500, 10)
            },
        ],
    }
}

const SMALL: &str = "reveille-trace 1\norigin: a test\ndisk-sectors: 2048\n\n0 login 0 os\n\
    100 read 0 50 0 1\n120 write 0 300 8 16 fua\n900 logout 0\n1000 login 1 os\n1500 flush 1 10 0 0\n";

fn packed(text: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(text).unwrap();
    out.finish().unwrap()
}

fn refused(text: &str) -> Error {
    Trace::read(&packed(text.as_bytes())).unwrap_err()
}

/// The refusal of a text whose events are these.
fn refused_events(events: &str) -> Error {
    refused(&format!("reveille-trace 1\ndisk-sectors: 2048\n\n{events}"))
}

// --- the file ---

#[test]
fn a_trace_is_written_as_the_document_says() {
    assert_eq!(small().text(), SMALL);
    assert_eq!(
        Trace::read(&packed(SMALL.as_bytes())).unwrap(),
        small(),
        "and read as it says"
    );
    assert_eq!(Trace::read(&small().write()).unwrap(), small());
}

#[test]
fn the_same_trace_gives_the_same_file() {
    assert_eq!(small().write(), small().write());
}

#[test]
fn ops_out_of_order_are_written_in_order() {
    let mut mixed = small();
    mixed.ops.reverse();
    assert_eq!(mixed.text(), SMALL);
}

#[test]
fn what_is_no_trace_is_told_so() {
    for bytes in [&b""[..], b"reveille-trace 1\n", b"PK\x03\x04", &[0x1f]] {
        let error = Trace::read(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotATrace, "{error}");
    }
    for text in ["", "hello\n", "reveille-trace x\n", "reveille-trace \n"] {
        assert_eq!(refused(text).kind(), ErrorKind::NotATrace, "{text:?}");
    }
    assert_eq!(
        refused("reveille-trace 2\n").kind(),
        ErrorKind::NewerVersion
    );
}

#[test]
fn a_damaged_file_is_told_so() {
    let whole = small().write();
    for cut in [3, 12, whole.len() / 2, whole.len() - 1] {
        let error = Trace::read(&whole[..cut]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{cut}: {error}");
    }
    let mut changed = whole.clone();
    let crc = changed.len() - 8;
    changed[crc] ^= 1;
    assert_eq!(
        Trace::read(&changed).unwrap_err().kind(),
        ErrorKind::Damaged
    );
    let two = [whole.clone(), whole].concat();
    assert_eq!(Trace::read(&two).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn a_wrong_line_is_named_with_its_cause() {
    for (events, line, cause) in [
        ("0 login 0 os\n0 read 0 1 2048 1\n", 5, "past the end"),
        ("0 login 0 os\n0 read 0 1 2000 49\n", 5, "past the end"),
        ("0 login 0 os\n0 read 0 1 0 0\n", 5, "of no sectors"),
        ("0 login 0 os\n0 read 0 1 0 1 fua\n", 5, "may not stand"),
        ("0 login 0 os\n0 write 0 1 0 1 FUA\n", 5, "may not stand"),
        ("0 login 0 os\n0 write 0 1 0 1 fua fua\n", 5, "more fields"),
        ("0 login 0 os\n0 write 0 1 0 1 \n", 5, "may not stand"),
        ("0 login 0 os\n0 write 0 1 0\n", 5, "is missing"),
        ("0 login 0 os\n0  read 0 1 0 1\n", 5, "is missing"),
        ("0 login 0 os\n+1 read 0 1 0 1\n", 5, "no number"),
        ("0 login 0 os\n01 read 0 1 0 1\n", 5, "no number"),
        ("0 login 0 os\n1 read 0 4294967296 0 1\n", 5, "is more than"),
        (
            "0 login 0 os\n99999999999999999999 read 0 1 0 1\n",
            5,
            "is more than",
        ),
        ("0 login 0 os\n1 trim 0 1 0 1\n", 5, "no event is called"),
        ("5 login 0 os\n4 read 0 1 0 1\n", 5, "goes back"),
        ("0 read 0 1 0 1\n", 4, "has not logged in"),
        ("0 login 1 os\n", 4, "the next is 0"),
        ("0 login 0 OS\n", 4, "what logged in is letters"),
        (
            "0 login 0 os\n1 logout 0\n1 logout 0\n",
            6,
            "has logged out",
        ),
        (
            "0 login 0 os\n1 logout 0\n2 read 0 1 0 1\n",
            6,
            "has logged out",
        ),
        ("0 login 0 os\n\n", 5, "the time is missing"),
        ("0 login 0 os", 4, "has no end"),
    ] {
        let error = refused_events(events);
        assert_eq!(error.line(), Some(line), "{events:?}: {error}");
        assert!(error.to_string().contains(cause), "{events:?}: {error}");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{events:?}: {error}");
    }
}

#[test]
fn a_wrong_head_is_named_with_its_cause() {
    for (head, cause) in [
        ("", "the empty line"),
        ("\n", "is missing in the head"),
        ("disk-sectors: 8\n", "the empty line"),
        ("disk-sectors: 8\ndisk-sectors: 8\n\n", "twice"),
        ("disk-sectors: 99999999999999\n\n", "is more than"),
        ("disk-sectors 8\n\n", "not `key: value`"),
        ("Origin: x\ndisk-sectors: 8\n\n", "a key is letters"),
        (
            "origin:  x\ndisk-sectors: 8\n\n",
            "begins or ends with a space",
        ),
        ("origin: \ndisk-sectors: 8\n\n", "is empty"),
        ("origin: a\u{7}b\ndisk-sectors: 8\n\n", "control character"),
    ] {
        let error = refused(&format!("reveille-trace 1\n{head}"));
        assert!(error.to_string().contains(cause), "{head:?}: {error}");
    }
    let text = b"reveille-trace 1\norigin: \xff\n";
    let error = Trace::read(&packed(text)).unwrap_err();
    assert!(error.to_string().contains("line 2: not UTF-8"), "{error}");
}

#[test]
fn every_limit_is_held() {
    let many = "key: value\n".repeat(crate::limits::TRACE_ABOUT_MAX + 1);
    let long = format!("key: {}\n", "x".repeat(crate::limits::TRACE_LINE_BYTES_MAX));
    for head in [many, long] {
        let error = refused(&format!("reveille-trace 1\n{head}"));
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    }
    let logins = (0..=crate::limits::TRACE_SESSIONS_MAX).map(|n| format!("{n} login {n} os\n"));
    let error = refused_events(&logins.collect::<String>());
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
}

#[test]
fn a_small_file_that_unpacks_to_much_is_refused_at_its_first_line() {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..16 {
        out.write_all(&vec![b'r'; 1 << 20]).unwrap();
    }
    let bomb = out.finish().unwrap();
    let error = Trace::read(&bomb).unwrap_err();
    assert_eq!((error.kind(), error.line()), (ErrorKind::TooLarge, Some(1)));
}

#[test]
fn whatever_is_given_as_its_origin_is_read_again() {
    let mut trace = small();
    trace.about = vec![
        ("Two Words".into(), "a\nb\r\u{0}".into()),
        (String::new(), "no key".into()),
        ("empty".into(), " \n ".into()),
        ("disk-sectors".into(), "1".into()),
        ("long".into(), "\u{20ac}".repeat(1000)),
    ];
    let read = Trace::read(&trace.write()).unwrap();
    let keys: Vec<&str> = read.about.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["two-words", "long"]);
    assert_eq!(read.about("two-words"), Some("a b"));
    assert_eq!((read.disk_bytes, &read.ops), (trace.disk_bytes, &trace.ops));
}

fn any_op(sessions: u16) -> impl Strategy<Value = Op> {
    let kind = prop::sample::select(OpKind::ALL.to_vec());
    // Few different times, so that many fall together.
    let times = (0u64..40, prop_oneof![Just(0u32), 0u32..30]);
    let place = (0u64..2000, 1u32..48);
    (0..sessions, times, kind, place, any::<bool>()).prop_map(
        |(session, (at_us, took_us), kind, (first, sectors), fua)| Op {
            session,
            at_us: at_us + 10,
            took_us,
            kind,
            offset: first * 512,
            len: if kind == OpKind::Flush {
                0
            } else {
                sectors * 512
            },
            fua: fua && kind.changes(),
        },
    )
}

fn any_trace() -> impl Strategy<Value = Trace> {
    let sessions = vec((0u64..10, prop::option::of(50u64..60)), 1..4);
    (sessions, vec(any_op(3), 0..40)).prop_map(|(mut times, mut ops)| {
        times.sort_unstable();
        ops.sort_by_key(|op| op.at_us);
        let count = u16::try_from(times.len()).unwrap();
        for op in &mut ops {
            op.session %= count;
        }
        Trace {
            about: vec![("origin".into(), "chance".into())],
            disk_bytes: 1 << 20,
            sessions: times
                .into_iter()
                .map(|(from, to)| session(from, to))
                .collect(),
            ops,
        }
    })
}

/// The words of the room's document, one by one: what had ended before an op arrived.
fn ended_before(trace: &Trace, at: usize) -> Vec<u32> {
    let op = trace.ops[at];
    let ended = |n: &usize| *n < at && trace.ops[*n].end_us() <= op.at_us;
    let found = (0..trace.ops.len()).filter(ended);
    found.map(|n| u32::try_from(n).unwrap()).collect()
}

proptest! {
    #[test]
    fn every_trace_comes_back_as_it_was(trace in any_trace()) {
        prop_assert_eq!(Trace::read(&trace.write()), Ok(trace));
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in vec(any::<u8>(), 0..200), cut in 0usize..300, flip in any::<u8>()) {
        let _ = Trace::read(&bytes);
        let _ = Trace::read(&packed(&bytes));
        let mut file = packed(SMALL.as_bytes());
        if let Some(byte) = file.get_mut(cut) {
            *byte ^= flip;
        }
        let _ = Trace::read(&file);
        let mut text = SMALL.as_bytes().to_vec();
        if let Some(byte) = text.get_mut(cut) {
            *byte ^= flip;
        }
        if let Ok(read) = Trace::read(&packed(&text)) {
            prop_assert_eq!(Trace::read(&read.write()), Ok(read));
        }
    }

    #[test]
    fn waits_say_exactly_what_had_ended(trace in any_trace()) {
        let (ends, waits) = (trace.ends(), trace.waits());
        prop_assert_eq!(waits.len(), trace.ops.len());
        for (at, wait) in waits.iter().enumerate() {
            let mut found = ends[..wait.before as usize].to_vec();
            found.sort_unstable();
            prop_assert_eq!(&found, &ended_before(&trace, at));
            let op = trace.ops[at];
            let login = trace.sessions[usize::from(op.session)].login_at_us;
            let last = found.iter().map(|n| trace.ops[*n as usize].end_us()).max();
            let since = last.unwrap_or(0).max(login);
            prop_assert_eq!(wait.think_us, op.at_us - since);
            match wait.after {
                Some(after) => prop_assert_eq!(trace.ops[after as usize].end_us(), since),
                None => prop_assert_eq!(login, since),
            }
        }
        prop_assert!(waits.is_sorted_by_key(|wait| wait.before));
    }

    #[test]
    fn a_replay_on_a_disk_of_the_same_speed_repeats_the_recording(trace in any_trace()) {
        let (ends, waits) = (trace.ends(), trace.waits());
        let mut started = vec![None; trace.ops.len()];
        for (at, wait) in waits.iter().enumerate() {
            let op = trace.ops[at];
            let login = trace.sessions[usize::from(op.session)].login_at_us;
            let end = |n: &u32| started[*n as usize].unwrap() + u64::from(trace.ops[*n as usize].took_us);
            let ready = ends[..wait.before as usize].iter().map(end).max();
            started[at] = Some(ready.unwrap_or(0).max(login) + wait.think_us);
            prop_assert_eq!(started[at], Some(op.at_us));
        }
    }

    #[test]
    fn logins_wait_for_what_had_ended(trace in any_trace()) {
        let (ends, logins) = (trace.ends(), trace.logins());
        let mut last_login = 0;
        for (session, wait) in trace.sessions.iter().zip(&logins) {
            let count = trace.ops.iter().filter(|op| op.end_us() <= session.login_at_us).count();
            prop_assert_eq!(wait.before as usize, count);
            let end = |n: &u32| trace.ops[*n as usize].end_us();
            let since = ends[..count].iter().map(end).max().unwrap_or(0).max(last_login);
            prop_assert_eq!(wait.think_us, session.login_at_us - since);
            last_login = session.login_at_us;
        }
    }

    #[test]
    fn figures_are_those_of_a_slow_count(trace in any_trace()) {
        let summary = trace.summary();
        let touched = |kind: OpKind| {
            let covers = |sector: &u64| trace.ops.iter().any(|op| {
                op.kind == kind && (op.offset..op.offset + u64::from(op.len)).contains(&(sector * 512))
            });
            (0..trace.disk_bytes / 512).filter(covers).count() as u64 * 512
        };
        prop_assert_eq!(summary.read_bytes_distinct, touched(OpKind::Read));
        prop_assert_eq!(summary.write_bytes_distinct, touched(OpKind::Write));
        let at = |us: u64| trace.ops.iter().filter(|op| op.at_us <= us && us < op.end_us()).count() as u64;
        let busy = (0..100).filter(|us| at(*us) > 0).count() as u64;
        prop_assert_eq!(summary.busy_us, busy);
        // An op that took no time counts for one at its moment.
        let most = (0..100).map(at).max().unwrap_or(0);
        prop_assert!(summary.depth_max >= most && summary.depth_max <= most + 1);
    }
}

// --- waits and figures, by hand ---

#[test]
fn an_op_waits_for_all_that_had_ended_and_thinks_from_the_last() {
    let waits = small().waits();
    let facts: Vec<_> = waits
        .iter()
        .map(|w| (w.before, w.after, w.think_us))
        .collect();
    assert_eq!(
        facts,
        [
            (0, None, 100),
            (0, None, 120),
            // Both ended before, but the login came later than they.
            (2, None, 500),
        ]
    );
    let logins: Vec<_> = small().logins();
    assert_eq!((logins[1].before, logins[1].after), (2, Some(1)));
    assert_eq!(logins[1].think_us, 1000 - 420);
}

#[test]
fn the_summary_counts_what_a_trace_holds() {
    let sum = small().summary();
    assert_eq!((sum.reads, sum.read_bytes), (1, 512));
    assert_eq!((sum.writes, sum.write_bytes, sum.fua), (1, 8192, 1));
    assert_eq!((sum.flushes, sum.unmaps), (1, 0));
    assert_eq!((sum.span_us, sum.busy_us, sum.depth_max), (1510, 330, 2));
    let of: Vec<_> = sum
        .sessions
        .iter()
        .map(|s| (s.reads, s.writes, s.flushes))
        .collect();
    assert_eq!(of, [(1, 1, 0), (0, 0, 1)]);
}

#[test]
fn an_empty_trace_has_figures_too() {
    let empty = Trace::default();
    assert_eq!(empty.summary(), super::Summary::default());
    assert_eq!((empty.waits(), empty.logins()), (vec![], vec![]));
    assert_eq!(Trace::read(&empty.write()).unwrap(), empty);
}
