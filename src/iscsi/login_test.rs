//! The login machine against scripted initiators, and against malformed input.

use super::*;
use crate::iscsi::chap::{Algorithm, decode, hex};
use crate::iscsi::initiator::ErrorKind;
use crate::iscsi::initiator::offer::{Client, LoggedIn, Next, Offer};
use crate::iscsi::initiator::profiles::{
    EDK2, IPXE, LIBISCSI, OPEN_ISCSI, PROFILES, Profile, WINDOWS,
};

#[path = "login_abuse_test.rs"]
mod abuse;

const NODE: &str = "iqn.2010-04.org.ipxe:node1";
const TARGET: &str = "iqn.2026-11.internal.reveille:node1";
const NAMES: &str = "InitiatorName=iqn.2010-04.org.ipxe:node1\0\
                     TargetName=iqn.2026-11.internal.reveille:node1\0";

fn credentials(user: &str, secret: &str) -> Credentials {
    Credentials {
        user: user.into(),
        secret: secret.into(),
    }
}

fn ours() -> Credentials {
    credentials("node1", "sixteen-letters!")
}

fn proof() -> Credentials {
    credentials("head", "other-sixteen-ls")
}

fn open() -> Access {
    Access::Allow {
        chap: None,
        mutual: None,
    }
}

fn chap() -> Access {
    Access::Allow {
        chap: Some(ours()),
        mutual: Some(proof()),
    }
}

fn hidden() -> Access {
    Access::Deny {
        behind_chap: true,
        status: status::NOT_FOUND,
        why: "no such target".into(),
    }
}

fn entropy() -> [u8; 64] {
    std::array::from_fn(|at| u8::try_from(at * 3 + 7).unwrap())
}

fn options() -> Options {
    Options {
        portal_group: 1,
        first_stat_sn: u32::MAX - 1,
        entropy: entropy(),
        algorithms: Algorithms::default(),
        accepted: Instant::now(),
    }
}

fn machine() -> Login {
    Login::new(options())
}

/// How a login ended, on our side.
#[derive(Debug)]
struct Ended {
    established: Option<Established>,
    status: u16,
    closed: Option<String>,
    responses: Vec<(Bhs, Vec<u8>)>,
}

/// Feeds one request; answers the machine's questions; collects what it says.
fn feed(login: &mut Login, bhs: &Bhs, data: &[u8], access: &Access) -> Ended {
    login.apply(Event::Request(bhs, data));
    let mut ended = Ended {
        established: None,
        status: 0,
        closed: None,
        responses: Vec::new(),
    };
    while let Some(output) = login.poll() {
        match output {
            Output::Send(bhs, data) => {
                assert!(ended.closed.is_none(), "a response after Close");
                assert_eq!(usize::try_from(bhs.data_len()), Ok(data.len()));
                ended.status = bhs.u16_at(36);
                ended.responses.push((bhs, data));
            }
            Output::Ask(_) => login.apply(Event::Access(access.clone())),
            Output::Enter(established) => {
                ended.established = Some(*established);
                login.apply(Event::Entered { tsih: 77 });
            }
            Output::Finished => {}
            Output::Close(why) => ended.closed = Some(why),
        }
    }
    ended
}

/// Runs a whole login: our side's record and the initiator's.
fn pair(offer: Offer, access: &Access) -> Result<(LoggedIn, Established), (ErrorKind, String)> {
    let mut login = machine();
    let mut client = Client::new(offer);
    let (mut bhs, mut data) = client.start();
    loop {
        let ended = feed(&mut login, &bhs, &data, access);
        let [(answer, text)] = ended.responses.as_slice() else {
            panic!("one request, {} responses", ended.responses.len());
        };
        match client.answer(answer, text) {
            Ok(Next::Send(next, more)) => (bhs, data) = (next, more),
            Ok(Next::Done(done)) => return Ok((*done, ended.established.expect("established"))),
            Ok(Next::Redirect(to)) => {
                assert!(ended.closed.is_some());
                return Err((ErrorKind::Refused(status::MOVED_TEMPORARILY), to));
            }
            Err(error) => return Err((error.kind(), ended.closed.unwrap_or(error.to_string()))),
        }
    }
}

fn offer(profile: &Profile) -> Offer {
    Offer {
        profile: *profile,
        ..Offer::new(NODE, TARGET)
    }
}

fn with_chap(profile: &Profile) -> Offer {
    Offer {
        chap: Some(ours()),
        ..offer(profile)
    }
}

fn mutual(profile: &Profile) -> Offer {
    Offer {
        mutual: Some(proof()),
        entropy: [0x5a; 33],
        ..with_chap(profile)
    }
}

fn refused(result: Result<(LoggedIn, Established), (ErrorKind, String)>) -> u16 {
    match result {
        Err((ErrorKind::Refused(status), _)) => status,
        other => panic!("{other:?}"),
    }
}

/// A request with raw stage bits.
fn request(flags: u8, text: &str) -> (Bhs, Vec<u8>) {
    let mut bhs = Bhs::new(op::LOGIN | 0x40);
    bhs.put_u8(1, flags);
    bhs.0[8..14].copy_from_slice(&[0x40, 0, 0x27, 0x23, 1, 2]);
    bhs.put_u32(16, 9);
    bhs.put_u32(24, 100);
    bhs.set_data_len(u32::try_from(text.len()).unwrap());
    (bhs, text.as_bytes().to_vec())
}

fn say(login: &mut Login, flags: u8, text: &str, access: &Access) -> Ended {
    let (bhs, data) = request(flags, text);
    feed(login, &bhs, &data, access)
}

/// One request to a fresh machine.
fn once(flags: u8, text: &str, access: &Access) -> Ended {
    say(&mut machine(), flags, text, access)
}

fn first(flags: u8, keys: &str, access: &Access) -> Ended {
    once(flags, &format!("{NAMES}{keys}"), access)
}

/// Security stage, T, next operational.
const SEC_OP: u8 = 0x81;
/// Security stage, T, straight to full feature.
const SEC_FULL: u8 = 0x83;
/// Operational stage, T, to full feature.
const OP_FULL: u8 = 0x87;

#[test]
fn every_initiator_logs_in_without_chap() {
    for profile in PROFILES {
        let (client, ours) = pair(offer(profile), &open()).expect(profile.name);
        assert_eq!(client.agreed, ours.negotiated, "{}", profile.name);
        assert_eq!(client.tsih, 77);
        assert_eq!(
            (client.cmd_sn, client.exp_stat_sn),
            (ours.cmd_sn, ours.stat_sn)
        );
        assert_eq!(client.max_cmd_sn, ours.cmd_sn + COMMAND_WINDOW - 1);
        assert!(!ours.authenticated);
        assert_eq!(ours.ask.target.as_ref().unwrap().as_str(), TARGET);
    }
}

#[test]
fn every_initiator_logs_in_with_chap_and_with_mutual_chap() {
    for profile in PROFILES {
        for offer in [with_chap(profile), mutual(profile)] {
            let (client, ours) = pair(offer, &chap()).expect(profile.name);
            assert!(ours.authenticated);
            assert_eq!(client.agreed, ours.negotiated, "{}", profile.name);
        }
    }
}

#[test]
fn every_initiator_proves_itself_and_is_shown_a_proof_with_every_digest() {
    for profile in PROFILES {
        for offered in ["5", "6", "7", "8", "7,5", "5,6,7,8", "8,7,6,5"] {
            for asks in [true, false] {
                let mut offer = if asks {
                    mutual(profile)
                } else {
                    with_chap(profile)
                };
                offer.profile.chap_algorithms = offered;
                let (_, ours) = pair(offer, &chap()).expect(profile.name);
                assert_eq!((ours.authenticated, ours.proven), (true, asks));
            }
        }
    }
}

#[test]
fn discovery_is_behind_the_same_chap_in_both_directions() {
    for profile in PROFILES {
        let asking = |offer: Offer| Offer {
            target: None,
            ..offer
        };
        let (_, ours) = pair(asking(mutual(profile)), &chap()).expect(profile.name);
        assert!(ours.authenticated && ours.proven && ours.ask.target.is_none());
        assert_eq!(refused(pair(asking(offer(profile)), &chap())), 0x0201);
        assert_eq!(refused(pair(asking(with_chap(profile)), &hidden())), 0x0201);
    }
}

#[test]
fn the_policy_decides_among_what_is_offered() {
    let policy = Algorithms::new(&[Algorithm::Sha1, Algorithm::Sha256]);
    let chosen = |offered: &str| {
        let mut login = Login::new(Options {
            algorithms: policy,
            ..options()
        });
        let access = chap();
        say(&mut login, 0, &format!("{NAMES}AuthMethod=CHAP\0"), &access);
        let ended = say(&mut login, 0, &format!("CHAP_A={offered}\0"), &access);
        let text = String::from_utf8(ended.responses[0].1.clone()).unwrap();
        (ended.status, text.split('\0').next().unwrap().to_owned())
    };
    assert_eq!(chosen("8,7,6,5"), (0, "CHAP_A=6".into()));
    assert_eq!(chosen("8,7,5"), (0, "CHAP_A=7".into()));
    assert_eq!(chosen("8,5").0, 0x0201);
}

#[test]
fn a_login_in_one_stage_carries_all_keys_at_once() {
    let profile = Profile {
        one_stage: true,
        security_always: true,
        ..OPEN_ISCSI
    };
    let (client, ours) = pair(offer(&profile), &open()).unwrap();
    assert_eq!(ours.negotiated.target_mrdsl, 262_144);
    assert_eq!(client.agreed, ours.negotiated);
    let (client, ours) = pair(mutual(&profile), &chap()).unwrap();
    assert_eq!(client.agreed, ours.negotiated);
    assert_eq!(ours.negotiated.max_burst, 1 << 20);
}

#[test]
fn digests_are_agreed_when_they_stand_first() {
    let offer = offer(&LIBISCSI)
        .with("HeaderDigest", "CRC32C,None")
        .with("DataDigest", "CRC32C");
    let (client, ours) = pair(offer, &open()).unwrap();
    assert!(ours.negotiated.header_digest && ours.negotiated.data_digest);
    assert_eq!(client.agreed, ours.negotiated);
}

#[test]
fn a_wrong_secret_user_or_missing_chap_is_0201() {
    for profile in PROFILES {
        let mut wrong = with_chap(profile);
        wrong.chap = Some(credentials("node1", "sixteen-letters?"));
        assert_eq!(refused(pair(wrong, &chap())), 0x0201, "{}", profile.name);
        let mut other = with_chap(profile);
        other.chap = Some(credentials("node2", "sixteen-letters!"));
        assert_eq!(refused(pair(other, &chap())), 0x0201, "{}", profile.name);
        assert_eq!(
            refused(pair(offer(profile), &chap())),
            0x0201,
            "{}",
            profile.name
        );
    }
}

#[test]
fn an_unknown_name_cannot_be_told_from_a_wrong_secret() {
    let transcript = |access: &Access| {
        let mut wrong = with_chap(&EDK2);
        wrong.chap = Some(credentials("node1", "sixteen-letters?"));
        let mut login = machine();
        let mut client = Client::new(wrong);
        let (mut bhs, mut data) = client.start();
        let mut seen = Vec::new();
        loop {
            let ended = feed(&mut login, &bhs, &data, access);
            seen.extend(ended.responses.clone());
            match client.answer(&seen.last().unwrap().0, &seen.last().unwrap().1) {
                Ok(Next::Send(next, more)) => (bhs, data) = (next, more),
                _ => return seen,
            }
        }
    };
    assert_eq!(transcript(&hidden()), transcript(&chap()));
    for flags in [SEC_OP, SEC_FULL, OP_FULL] {
        let keys = if flags == OP_FULL {
            ""
        } else {
            "AuthMethod=None\0"
        };
        let (one, two) = (first(flags, keys, &hidden()), first(flags, keys, &chap()));
        assert_eq!(one.responses, two.responses);
        assert_eq!(one.status, 0x0201);
    }
}

#[test]
fn a_hidden_denial_stays_a_denial_for_the_right_secret() {
    assert_eq!(refused(pair(with_chap(&EDK2), &hidden())), 0x0201);
    assert_eq!(refused(pair(with_chap(&IPXE), &hidden())), 0x0201);
}

#[test]
fn an_open_denial_tells_its_status() {
    let deny = Access::Deny {
        behind_chap: false,
        status: 0x0203,
        why: "no such target".into(),
    };
    for profile in PROFILES {
        assert_eq!(refused(pair(offer(profile), &deny)), 0x0203);
    }
}

#[test]
fn a_target_that_cannot_prove_itself_is_not_trusted_by_our_initiator() {
    let mut wary = mutual(&OPEN_ISCSI);
    wary.mutual = Some(credentials("head", "third-sixteen-ls"));
    assert_eq!(pair(wary, &chap()).unwrap_err().0, ErrorKind::Untrusted);
}

#[test]
fn the_chap_transcript_of_ipxe_holds_t_back_until_the_end() {
    let mut login = machine();
    let access = chap();
    let ended = say(
        &mut login,
        SEC_OP,
        &format!("{NAMES}AuthMethod=CHAP,None\0"),
        &access,
    );
    let (bhs, text) = &ended.responses[0];
    assert_eq!(text, b"AuthMethod=CHAP\0TargetPortalGroupTag=1\0");
    assert_eq!(
        (bhs.flags(), bhs.u32_at(24), bhs.u32_at(28)),
        (0, u32::MAX - 1, 100)
    );
    let ended = say(&mut login, SEC_OP, "CHAP_A=5\0", &access);
    let (bhs, text) = &ended.responses[0];
    let challenge = &entropy()[1..17];
    let expected = format!("CHAP_A=5\0CHAP_I=7\0CHAP_C={}\0", hex(challenge));
    assert_eq!(
        (bhs.flags(), String::from_utf8_lossy(text).as_ref()),
        (0, expected.as_str())
    );
    let r = hex(&Algorithm::Md5.response(7, b"sixteen-letters!", challenge));
    let ended = say(
        &mut login,
        SEC_OP,
        &format!("CHAP_N=node1\0CHAP_R={r}\0"),
        &access,
    );
    let (bhs, text) = &ended.responses[0];
    assert_eq!((bhs.flags(), text.len(), bhs.u32_at(24)), (SEC_OP, 0, 0));
    let ended = say(&mut login, OP_FULL, "HeaderDigest=None\0", &access);
    let (bhs, text) = &ended.responses[0];
    assert_eq!(
        text,
        b"HeaderDigest=None\0MaxRecvDataSegmentLength=262144\0"
    );
    assert_eq!(
        (bhs.flags(), bhs.u16_at(14), bhs.u32_at(24)),
        (OP_FULL, 77, 1)
    );
    let established = ended.established.unwrap();
    assert_eq!((established.cmd_sn, established.stat_sn), (100, 2));
    assert_eq!(established.ask.isid, [0x40, 0, 0x27, 0x23, 1, 2]);
}

#[test]
fn mutual_proof_and_t_come_in_the_same_response() {
    let mut login = machine();
    let access = chap();
    say(&mut login, 0, &format!("{NAMES}AuthMethod=CHAP\0"), &access);
    let ended = say(&mut login, 0, "CHAP_A=7\0", &access);
    let text = String::from_utf8(ended.responses[0].1.clone()).unwrap();
    let challenge = text
        .split(['\0', '='])
        .nth(5)
        .and_then(|c| decode(c, 64))
        .unwrap();
    assert_eq!(challenge.len(), 32);
    let r = hex(&Algorithm::Sha256.response(7, b"sixteen-letters!", &challenge));
    let keys = format!("CHAP_N=node1\0CHAP_R={r}\0CHAP_I=1\0CHAP_C=0x0102\0");
    let ended = say(&mut login, SEC_OP, &keys, &access);
    let right = hex(&Algorithm::Sha256.response(1, b"other-sixteen-ls", &[1, 2]));
    let expected = format!("CHAP_N=head\0CHAP_R={right}\0");
    assert_eq!(ended.responses[0].1, expected.as_bytes());
    assert_eq!(ended.responses[0].0.flags(), SEC_OP);
}

#[test]
fn chap_abuse_is_0201_and_never_enters() {
    let access = chap();
    let challenge = hex(&entropy()[1..17]);
    let r = hex(&Algorithm::Md5.response(7, b"sixteen-letters!", &entropy()[1..17]));
    let good = format!("CHAP_N=node1\0CHAP_R={r}\0");
    let long = format!("{good}CHAP_I=1\0CHAP_C=0x{}\0", "00".repeat(1024));
    let scripts: [&[&str]; 20] = [
        &["CHAP_N=node1\0CHAP_R=0x00\0"],
        &["CHAP_A=\0"],
        &["CHAP_A=56\0"],
        &["CHAP_A=999\0"],
        &["CHAP_A=4,9\0"],
        &["CHAP_A=5\0", "CHAP_A=5\0"],
        &["CHAP_A=5\0", "CHAP_N=node1\0"],
        &["CHAP_A=5\0", "CHAP_R=0x00\0"],
        &[
            "CHAP_A=5\0",
            "CHAP_N=node1\0CHAP_R=0x0011223344556677889900112233445566\0",
        ],
        &["CHAP_A=5\0", "CHAP_N=node1\0CHAP_R=0x001\0"],
        &["CHAP_A=5\0", "CHAP_N=node1\0CHAP_R=0bAA=A\0"],
        &[
            "CHAP_A=5\0",
            "CHAP_N=node1\0CHAP_R=0bAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0",
        ],
        &["CHAP_A=5\0", "CHAP_N=node1\0CHAP_R=0b!!!!\0"],
        &["CHAP_A=5\0", "CHAP_N=node1\0CHAP_R=\0"],
        &["CHAP_A=5\0", &format!("{good}CHAP_I=256\0CHAP_C=0x01\0")],
        &["CHAP_A=5\0", &format!("{good}CHAP_I=1\0")],
        &[
            "CHAP_A=5\0",
            &format!("{good}CHAP_I=7\0CHAP_C={challenge}\0"),
        ],
        &["CHAP_A=5\0", &format!("{good}CHAP_I=1\0CHAP_C=0x\0")],
        &["CHAP_A=5\0", &good, &good],
        &["CHAP_A=5\0", &format!("{good}CHAP_R={r}\0")],
    ];
    for script in scripts {
        let mut login = machine();
        say(&mut login, 0, &format!("{NAMES}AuthMethod=CHAP\0"), &access);
        let mut last = None;
        for text in script {
            last = Some(say(&mut login, 0, text, &access));
        }
        let last = last.unwrap();
        assert_eq!(last.status, 0x0201, "{script:?}");
        assert!(last.closed.is_some() && last.established.is_none());
    }
    let mut login = machine();
    say(&mut login, 0, &format!("{NAMES}AuthMethod=CHAP\0"), &access);
    say(&mut login, 0, "CHAP_A=5\0", &access);
    assert_eq!(
        say(&mut login, SEC_OP, &long, &access).status,
        0,
        "1,024 octets are legal"
    );
}

#[test]
fn a_challenge_longer_than_1024_octets_is_malformed() {
    let access = chap();
    let mut login = machine();
    say(&mut login, 0, &format!("{NAMES}AuthMethod=CHAP\0"), &access);
    say(&mut login, 0, "CHAP_A=5\0", &access);
    let text = format!(
        "CHAP_N=a\0CHAP_R=0x00\0CHAP_I=1\0CHAP_C=0x{}\0",
        "00".repeat(1025)
    );
    assert_eq!(say(&mut login, 0, &text, &access).status, 0x0200);
}

#[test]
fn stages_cannot_be_abused_to_bypass_chap() {
    let access = chap();
    assert_eq!(first(OP_FULL, "", &access).status, 0x0201);
    assert_eq!(first(0x04, "", &access).status, 0x0201);
    assert_eq!(first(SEC_FULL, "", &access).status, 0x0201);
    assert_eq!(first(SEC_FULL, "AuthMethod=None\0", &access).status, 0x0201);
    let held = first(SEC_FULL, "AuthMethod=CHAP\0", &access);
    assert_eq!((held.status, held.responses[0].0.flags()), (0, 0));
    let mut login = machine();
    say(
        &mut login,
        SEC_FULL,
        &format!("{NAMES}AuthMethod=CHAP\0"),
        &access,
    );
    let jump = say(&mut login, OP_FULL, "", &access);
    assert_eq!((jump.status, jump.established.is_none()), (0x0200, true));
    let mut login = machine();
    say(
        &mut login,
        SEC_FULL,
        &format!("{NAMES}AuthMethod=CHAP\0"),
        &access,
    );
    for _ in 1..LOGIN_PDUS_MAX {
        let idle = say(&mut login, SEC_FULL, "", &access);
        assert_eq!((idle.status, idle.responses[0].0.flags()), (0, 0));
    }
    assert_eq!(say(&mut login, SEC_FULL, "", &access).status, 0x0200);
}

#[test]
fn bad_stage_bits_are_0200() {
    // NSG 2; CSG 3; CSG 2; NSG not after CSG; T with C.
    for flags in [0x82, 0x8c | 3, 0x88 | 3, 0x80, 0x84 | 1, 0xc1, 0x0c] {
        let ended = first(flags, "AuthMethod=None\0", &open());
        assert_eq!(ended.status, 0x0200, "{flags:#x}");
        assert!(ended.closed.is_some());
        assert_eq!(ended.responses[0].0.flags() & 0x80, 0);
    }
}

#[test]
fn a_stage_is_left_only_when_asked() {
    let mut login = machine();
    let ended = say(&mut login, 0, &format!("{NAMES}AuthMethod=None\0"), &open());
    assert_eq!(ended.responses[0].0.flags(), 0);
    let ended = say(&mut login, SEC_OP, "", &open());
    assert_eq!(ended.responses[0].0.flags(), SEC_OP);
    let ended = say(&mut login, 0x04, "InitialR2T=No\0", &open());
    assert_eq!(ended.responses[0].0.flags(), 0x04);
    let ended = say(&mut login, 0x04, "ImmediateData=Yes\0", &open());
    assert_eq!(ended.responses[0].1, b"ImmediateData=Yes\0");
    assert!(ended.established.is_none());
    assert!(say(&mut login, OP_FULL, "", &open()).established.is_some());
}

/// The final response's text and what was established, with the text cut at `cut` by the C bit.
fn cut_login(flags: u8, text: &str, cut: usize) -> (Vec<u8>, Negotiated) {
    let mut login = machine();
    let (head, tail) = text.split_at(cut);
    let part = say(&mut login, flags & 0x0c | 0x40, head, &open());
    assert!(part.responses[0].1.is_empty());
    assert_eq!(part.responses[0].0.flags(), flags & 0x0c);
    let ended = say(&mut login, flags, tail, &open());
    (
        ended.responses[0].1.clone(),
        ended.established.unwrap().negotiated,
    )
}

#[test]
fn a_text_cut_at_any_byte_gives_the_same_login() {
    let keys: String = WINDOWS
        .keys
        .iter()
        .map(|(k, v)| format!("{k}={v}\0"))
        .collect();
    let text = format!("{NAMES}SessionType=Normal\0{keys}");
    let whole = once(OP_FULL, &text, &open());
    let whole = (
        whole.responses[0].1.clone(),
        whole.established.unwrap().negotiated,
    );
    for cut in 0..=text.len() {
        assert_eq!(cut_login(OP_FULL, &text, cut), whole, "cut at {cut}");
    }
}

#[test]
fn operational_keys_in_the_security_stage_are_answered_in_the_operational_stage() {
    let mut login = machine();
    let text = format!("{NAMES}AuthMethod=None\0InitialR2T=No\0X-a=1\0");
    let ended = say(&mut login, SEC_OP, &text, &open());
    let expected = b"AuthMethod=None\0TargetPortalGroupTag=1\0X-a=NotUnderstood\0";
    assert_eq!(ended.responses[0].1, expected);
    let ended = say(&mut login, OP_FULL, "ImmediateData=No\0", &open());
    let expected = b"InitialR2T=Yes\0ImmediateData=No\0MaxRecvDataSegmentLength=262144\0";
    assert_eq!(ended.responses[0].1, expected);
}

#[test]
fn the_portal_group_comes_once_in_whatever_stage_is_first() {
    let ended = first(OP_FULL, "InitialR2T=Yes\0", &open());
    let text = String::from_utf8(ended.responses[0].1.clone()).unwrap();
    assert!(
        text.starts_with("TargetPortalGroupTag=1\0InitialR2T=Yes\0"),
        "{text}"
    );
    let discovery = "InitiatorName=iqn.a\0SessionType=Discovery\0InitialR2T=Yes\0";
    let ended = once(OP_FULL, discovery, &open());
    assert!(!ended.responses[0].1.starts_with(b"TargetPortalGroupTag"));
}

#[test]
fn discovery_sessions_have_no_target_and_the_same_chap() {
    let mut offer = Offer::discovery(NODE);
    let (_, ours) = pair(offer.clone(), &open()).unwrap();
    assert_eq!(ours.ask.session_type, SessionType::Discovery);
    assert_eq!(ours.ask.target, None);
    assert_eq!(refused(pair(offer.clone(), &chap())), 0x0201);
    offer.chap = Some(super::test::ours());
    assert!(pair(offer, &chap()).unwrap().1.authenticated);
}

#[test]
fn redirects_carry_only_the_address() {
    let ended = first(
        SEC_OP,
        "AuthMethod=None\0",
        &Access::Redirect("10.0.0.2:3260".into()),
    );
    assert_eq!(ended.responses[0].1, b"TargetAddress=10.0.0.2:3260\0");
    assert_eq!((ended.status, ended.responses[0].0.flags()), (0x0101, 0));
    assert!(ended.closed.unwrap().contains("10.0.0.2"));
    let away = pair(offer(&IPXE), &Access::Redirect("10.0.0.2:3260".into())).unwrap_err();
    assert_eq!(away.1, "10.0.0.2:3260");
}

#[test]
fn a_refusal_to_enter_reaches_the_initiator() {
    let run = |event: Event<'_>| {
        let mut login = machine();
        let (bhs, data) = request(OP_FULL, NAMES);
        login.apply(Event::Request(&bhs, &data));
        assert!(matches!(login.poll(), Some(Output::Ask(_))));
        login.apply(Event::Access(open()));
        assert!(matches!(login.poll(), Some(Output::Enter(_))));
        assert!(login.poll().is_none());
        login.apply(event);
        let Some(Output::Send(bhs, _)) = login.poll() else {
            panic!()
        };
        assert!(matches!(login.poll(), Some(Output::Close(_))));
        assert!(login.poll().is_none());
        (bhs.u16_at(36), bhs.u16_at(14), bhs.flags() & 0x80)
    };
    let refused = |status| Event::Refused {
        status,
        why: "no room".into(),
    };
    assert_eq!(run(refused(0x0302)), (0x0302, 0, 0));
    assert_eq!(
        run(refused(0)),
        (0x0300, 0, 0),
        "a refusal never says success"
    );
    assert_eq!(
        run(refused(0x0101)),
        (0x0300, 0, 0),
        "a redirect needs an address"
    );
    assert_eq!(run(Event::Entered { tsih: 0 }), (0x0300, 0, 0));
    let (bhs, data) = request(OP_FULL, "");
    assert_eq!(
        run(Event::Request(&bhs, &data)).0,
        0x0200,
        "a request before the answer"
    );
}

#[test]
fn deadlines_count_from_accept() {
    let accepted = Instant::now();
    let mut login = Login::new(Options {
        accepted,
        ..options()
    });
    assert_eq!(login.deadline(), accepted + FIRST_PDU_WAIT);
    say(&mut login, 0, &format!("{NAMES}AuthMethod=None\0"), &open());
    assert_eq!(login.deadline(), accepted + LOGIN_WAIT);
}

#[test]
fn nothing_is_said_after_the_end() {
    let mut login = machine();
    say(&mut login, OP_FULL, NAMES, &open());
    let after = say(&mut login, OP_FULL, NAMES, &open());
    assert!(after.responses.is_empty() && after.closed.is_none());
    let mut login = machine();
    say(&mut login, SEC_OP, "novalue\0", &open());
    assert!(say(&mut login, SEC_OP, NAMES, &open()).responses.is_empty());
}
