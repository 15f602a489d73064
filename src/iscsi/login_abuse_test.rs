//! Malformed and hostile logins, and the fuzzers.

use super::*;
use proptest::prelude::*;

#[test]
fn frames_that_deserve_no_answer_close_at_once() {
    let access = open();
    let silent = |change: &dyn Fn(&mut Bhs), data: &[u8]| {
        let (mut bhs, _) = request(SEC_OP, "");
        bhs.set_data_len(u32::try_from(data.len()).unwrap());
        change(&mut bhs);
        let ended = feed(&mut machine(), &bhs, data, &access);
        assert!(ended.responses.is_empty() && ended.closed.is_some());
    };
    silent(&|bhs| bhs.put_u8(0, op::SCSI_COMMAND), &[]);
    silent(&|bhs| bhs.put_u8(0, op::LOGIN), &[]);
    silent(&|bhs| bhs.put_u8(4, 255), &[]);
    silent(&|_| {}, &[b'a'; 8193]);
    silent(&|bhs| bhs.set_data_len(4), b"a=1");
}

#[test]
fn versions_tsih_and_session_types_have_their_status() {
    let (mut bhs, data) = request(SEC_OP, &format!("{NAMES}AuthMethod=None\0"));
    bhs.put_u8(3, 1);
    let ended = feed(&mut machine(), &bhs, &data, &open());
    assert_eq!(ended.status, 0x0205);
    assert_eq!(ended.responses[0].0.u16_at(2), 0);
    let (mut bhs, data) = request(SEC_OP, NAMES);
    bhs.put_u16(14, 1234);
    let ended = feed(&mut machine(), &bhs, &data, &open());
    assert_eq!((ended.status, ended.responses[0].0.u16_at(14)), (0x020a, 0));
    assert_eq!(first(SEC_OP, "SessionType=Other\0", &open()).status, 0x0209);
    assert_eq!(first(SEC_OP, "SendTargets=All\0", &open()).status, 0x020b);
    assert_eq!(
        first(SEC_OP, "TargetAddress=1.2.3.4\0", &open()).status,
        0x0200
    );
    assert_eq!(
        once(SEC_OP, "InitiatorName=iqn.a\0", &open()).status,
        0x0207
    );
    assert_eq!(once(SEC_OP, "TargetName=iqn.a\0", &open()).status, 0x0207);
    assert_eq!(once(SEC_OP, "", &open()).status, 0x0207);
}

#[test]
fn bad_names_are_refused_and_never_logged_raw() {
    let long = format!("iqn.{}", "a".repeat(220));
    for name in [
        "",
        "node1",
        "iqn.a/../../etc",
        "iqn.\u{430}bc",
        "iqn.a\nroot",
        "iqn.\u{1b}[2J",
        &long,
        "iqn.a b",
    ] {
        let ended = once(
            SEC_OP,
            &format!("InitiatorName={name}\0TargetName=iqn.t\0"),
            &open(),
        );
        assert_eq!(ended.status, 0x0200, "{name:?}");
        let why = ended.closed.unwrap();
        assert!(
            why.chars().all(|c| c.is_ascii() && !c.is_ascii_control()),
            "{why}"
        );
    }
    let mut login = machine();
    let (bhs, data) = request(
        SEC_OP,
        "InitiatorName=IQN.2010-04.ORG.ipxe:A\0TargetName=iqn.T\0",
    );
    login.apply(Event::Request(&bhs, &data));
    let Some(Output::Ask(ask)) = login.poll() else {
        panic!()
    };
    assert_eq!(ask.initiator.as_str(), "iqn.2010-04.org.ipxe:a");
}

#[test]
fn what_must_stay_the_same_may_not_change() {
    for (at, name) in [
        (8, "ISID"),
        (13, "ISID"),
        (15, "TSIH"),
        (19, "ITT"),
        (21, "CID"),
    ] {
        let mut login = machine();
        say(&mut login, 0, &format!("{NAMES}AuthMethod=None\0"), &open());
        let (mut bhs, data) = request(SEC_OP, "");
        bhs.0[at] ^= 1;
        let ended = feed(&mut login, &bhs, &data, &open());
        assert_eq!(ended.status, 0x0200, "{name}");
    }
    let mut login = machine();
    say(&mut login, 0, &format!("{NAMES}AuthMethod=None\0"), &open());
    assert_eq!(
        say(&mut login, SEC_OP, "InitiatorName=iqn.b\0", &open()).status,
        0x0200
    );
    let mut login = machine();
    say(&mut login, 0, &format!("{NAMES}AuthMethod=None\0"), &open());
    assert_eq!(
        say(&mut login, SEC_OP, "SessionType=Discovery\0", &open()).status,
        0x0200
    );
}

#[test]
fn malformed_texts_are_0200_or_rejected() {
    let eight = "A".repeat(8192);
    let many = "X-a=1\0".repeat(1000);
    let unknown: String = (0..70).map(|n| format!("X-{n}=1\0")).collect();
    for text in [
        "novalue\0",
        "=x\0",
        "X-a=1\0X-a=1\0",
        "MaxBurstLength=0\0",
        "MaxBurstLength=-1\0",
        "MaxBurstLength=4294967808\0",
        "MaxBurstLength=0x\0",
        "MaxBurstLength=1e3\0",
        "MaxBurstLength= 512\0",
        "InitialR2T=No\0InitialR2T=No\0",
        &eight,
        &many,
        &unknown,
        &format!("{}=1\0", "k".repeat(64)),
        &format!("X-a={}\0", "v".repeat(8000)),
    ] {
        // Without the names, so that the whole stays within 8 KiB.
        let whole = if text.len() < 1000 {
            format!("{NAMES}{text}")
        } else {
            text.to_owned()
        };
        assert_eq!(
            once(SEC_OP, &whole, &open()).status,
            0x0200,
            "{}",
            quote(text.as_bytes())
        );
    }
    let unknown: String = (0..62)
        .map(|n| format!("X-{n}{}=v\0", "k".repeat(59)))
        .collect();
    let ended = first(OP_FULL, &unknown, &open());
    assert_eq!(ended.status, 0);
    assert_eq!(
        ended.responses[0].1.len(),
        "TargetPortalGroupTag=1\0".len() + {
            (0..62)
                .map(|n| format!("X-{n}=NotUnderstood\0").len() + 59)
                .sum::<usize>()
        }
    );
}

#[test]
fn keys_are_counted_over_the_whole_login() {
    let mut login = machine();
    let keys =
        |from: usize| -> String { (from..from + 40).map(|n| format!("X-{n}=1\0")).collect() };
    let begin = say(&mut login, 0x04, &format!("{NAMES}{}", keys(0)), &open());
    assert_eq!(begin.status, 0);
    assert_eq!(say(&mut login, 0x04, &keys(40), &open()).status, 0x0200);
}

#[test]
fn endless_continuation_is_bounded() {
    let mut login = machine();
    for _ in 0..LOGIN_PDUS_MAX {
        let ended = say(&mut login, 0x40, "a", &open());
        assert_eq!((ended.status, ended.responses[0].0.flags()), (0, 0));
        assert!(ended.responses[0].1.is_empty());
    }
    assert_eq!(say(&mut login, 0x40, "", &open()).status, 0x0200);
    let mut login = machine();
    say(&mut login, 0x40, &"a".repeat(8000), &open());
    assert_eq!(
        say(&mut login, 0x40, &"a".repeat(193), &open()).status,
        0x0200
    );
}

/// Texts that are nearly right, for the fuzzer.
fn texts() -> impl Strategy<Value = String> {
    let known = prop::sample::select(
        crate::iscsi::params::TABLE
            .iter()
            .map(|row| row.name)
            .collect::<Vec<_>>(),
    );
    let value = prop_oneof![
        Just("None".to_owned()),
        Just("CHAP".to_owned()),
        Just("CHAP,None".to_owned()),
        Just("Yes".to_owned()),
        Just("5".to_owned()),
        Just("0x00".to_owned()),
        Just("iqn.a".to_owned()),
        Just("Normal".to_owned()),
        "[ -~]{0,20}",
    ];
    let pair = (
        prop_oneof![known.prop_map(str::to_owned), "[A-Za-z=]{0,70}"],
        value,
    );
    proptest::collection::vec(pair.prop_map(|(k, v)| format!("{k}={v}\0")), 0..6)
        .prop_map(|pairs| pairs.concat())
}

proptest! {
    #[test]
    fn any_requests_end_within_the_limit_and_never_enter_without_chap(
        start in prop::sample::select(vec!["", NAMES]),
        requests in proptest::collection::vec((any::<u8>(), texts()), 20),
    ) {
        let mut login = machine();
        let mut closed = 0;
        for (at, (flags, text)) in requests.into_iter().enumerate() {
            let text = if at == 0 { format!("{start}{text}") } else { text };
            let ended = say(&mut login, flags, &text, &chap());
            prop_assert!(ended.established.is_none());
            closed += u32::from(ended.closed.is_some());
            for (bhs, data) in ended.responses {
                prop_assert!(data.len() <= TEXT_CHAIN_MAX);
                prop_assert_eq!(bhs.u16_at(14), 0);
            }
        }
        prop_assert_eq!(closed, 1);
    }

    #[test]
    fn random_headers_and_bytes_never_panic(
        header in proptest::collection::vec(any::<u8>(), 48),
        data in proptest::collection::vec(any::<u8>(), 0..200),
        honest: bool,
    ) {
        let mut bytes = [0; 48];
        bytes.copy_from_slice(&header);
        let mut bhs = Bhs(bytes);
        if honest {
            bhs.put_u8(0, 0x43);
            bhs.put_u8(4, 0);
            bhs.set_data_len(u32::try_from(data.len()).unwrap());
        }
        let ended = feed(&mut machine(), &bhs, &data, &open());
        prop_assert!(ended.responses.len() <= 1);
    }

    #[test]
    fn chap_logins_cut_into_many_pieces_still_pass(cuts in proptest::collection::vec(1_usize..60, 1..4)) {
        let mut login = machine();
        let r = hex(&Algorithm::Md5.response(7, b"sixteen-letters!", &entropy()[1..17]));
        let mut last = None;
        for (flags, text) in [
            (0, format!("{NAMES}AuthMethod=CHAP\0")),
            (0, "CHAP_A=5\0".to_owned()),
            (SEC_FULL, format!("CHAP_N=node1\0CHAP_R={r}\0")),
        ] {
            let mut rest = text.as_str();
            for cut in &cuts {
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                say(&mut login, 0x40, head, &chap());
                rest = tail;
            }
            last = Some(say(&mut login, flags, rest, &chap()));
        }
        prop_assert!(last.unwrap().established.unwrap().authenticated);
    }
}
