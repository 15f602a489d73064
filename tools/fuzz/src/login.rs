//! The login machine against a model of an initiator that may know the secret or not, and our own
//! initiator's login against answers that no target should give.

use std::collections::HashSet;
use std::time::Instant;

use arbitrary::Unstructured;
use reveille::iscsi::chap::{Algorithm, decode, hex};
use reveille::iscsi::initiator::offer::{Client, Next, Offer};
use reveille::iscsi::initiator::profiles::PROFILES;
use reveille::iscsi::keys::parse;
use reveille::iscsi::login::{Access, Credentials, Event, Login, Options, Output};
use reveille::iscsi::params::{TABLE, status};
use reveille::iscsi::pdu::{Bhs, op};
use reveille::limits;

use crate::text::{ALGORITHMS, DIGESTS, algorithms, check_agreed, taken};

const USER: &str = "node1";
const SECRET: &[u8] = b"sixteen-letters!";
const PROOF: &[u8] = b"other-sixteen-ls";
/// What the model says when it does not know the secret.
const WRONG: &[u8] = b"not-the-secret!!";
/// The model's own challenge, when it wants a proof of the target: identifier and value.
const COUNTER: (u8, [u8; 16]) = (1, *b"prove it to me!!");
const NAMES: [&str; 2] = [
    "InitiatorName=iqn.2010-04.org.ipxe:node1\0TargetName=iqn.2026-11.t:node1\0",
    "InitiatorName=iqn.a\0SessionType=Discovery\0",
];
const VALUES: [&str; 28] = [
    "None",
    "CHAP",
    "CHAP,None",
    "None,CHAP",
    "Yes",
    "No",
    "5",
    "7",
    "5,7",
    "56",
    "0",
    "1",
    "512",
    "8192",
    "262144",
    "16777215",
    "4294967808",
    "0x200",
    "-1",
    "CRC32C,None",
    "Normal",
    "iqn.a",
    "node1",
    "Reject",
    "6",
    "8",
    "8,7,6,5",
    "5,6,7,8",
];

fn credentials(user: &str, secret: &[u8]) -> Credentials {
    Credentials {
        user: user.into(),
        secret: secret.into(),
    }
}

fn access(policy: u8) -> Access {
    let deny = |behind_chap| Access::Deny {
        behind_chap,
        status: status::NOT_FOUND,
        why: "no such target".into(),
    };
    match policy % 6 {
        0 => Access::Allow {
            chap: None,
            mutual: None,
        },
        1 | 2 => Access::Allow {
            chap: Some(credentials(USER, SECRET)),
            mutual: (policy % 6 == 2).then(|| credentials("head", PROOF)),
        },
        3 => deny(true),
        4 => deny(false),
        _ => Access::Redirect("10.0.0.2:3260".into()),
    }
}

/// What the model saw and did.
struct Peer {
    knows: bool,
    access: Access,
    /// Digests of CHAP, the most wanted first.
    wanted: [Algorithm; 4],
    /// The last list of them that was offered.
    algorithms: String,
    /// Algorithm, identifier, challenge: once the target has asked.
    challenge: Option<(Algorithm, u8, Vec<u8>)>,
    /// It sent the right response to that challenge, with the right name, in a whole request.
    proven: bool,
    /// The right response stands in the text that is being put together.
    proof_in_text: bool,
    offered: HashSet<String>,
    answered: HashSet<String>,
    text: Vec<u8>,
    stat_sn: Option<u32>,
    closed: bool,
    entered: bool,
}

pub(crate) fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = converse(&mut u);
}

fn converse(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let config: u8 = u.arbitrary()?;
    let seed: u8 = u.arbitrary()?;
    let mut peer = Peer {
        knows: config & 0x80 != 0,
        access: access(config & 0x3f),
        wanted: ALGORITHMS,
        algorithms: String::new(),
        challenge: None,
        proven: false,
        proof_in_text: false,
        offered: HashSet::new(),
        answered: HashSet::new(),
        text: Vec::new(),
        stat_sn: None,
        closed: false,
        entered: false,
    };
    let (policy, wanted) = algorithms(u.arbitrary()?);
    peer.wanted = wanted;
    let mut login = Login::new(Options {
        portal_group: 1,
        first_stat_sn: u32::MAX - u32::from(seed & 3),
        entropy: std::array::from_fn(|n| {
            seed.wrapping_mul(31)
                .wrapping_add((n as u8).wrapping_mul(7))
        }),
        algorithms: policy,
        digests: DIGESTS[usize::from(seed >> 2) % DIGESTS.len()],
        accepted: Instant::now(),
    });
    for _ in 0..2 * limits::LOGIN_PDUS_MAX {
        if u.is_empty() {
            break;
        }
        let (bhs, data) = request(u, &mut peer)?;
        feed(&mut login, &mut peer, &bhs, &data);
    }
    Ok(())
}

/// One request: header with few things wrong, text of keys, of raw bytes, or of the right response.
fn request(u: &mut Unstructured<'_>, peer: &mut Peer) -> arbitrary::Result<(Bhs, Vec<u8>)> {
    let mut bhs = Bhs::new(op::LOGIN | 0x40);
    bhs.put_u8(1, u.arbitrary()?);
    bhs.put_u32(16, 1);
    bhs.put_u32(24, 9);
    let keys: u8 = u.arbitrary()?;
    let mut text = Vec::new();
    peer.proof_in_text &= !peer.text.is_empty();
    for _ in 0..keys & 0x1f {
        if u.is_empty() {
            break;
        }
        pair(u, peer, &mut text)?;
    }
    if keys & 0x20 != 0 {
        let (at, byte): (u8, u8) = (u.arbitrary()?, u.arbitrary()?);
        bhs.put_u8(usize::from(at % 48), byte);
    }
    // A request may be cut: the rest comes later or never.
    if keys & 0x40 != 0 {
        let keep: u16 = u.arbitrary()?;
        text.truncate(usize::from(keep));
    }
    if keys & 0x80 == 0 {
        bhs.set_data_len(u32::try_from(text.len()).unwrap_or(0).min((1 << 24) - 1));
    }
    Ok((bhs, text))
}

fn pair(u: &mut Unstructured<'_>, peer: &mut Peer, text: &mut Vec<u8>) -> arbitrary::Result<()> {
    let choice: u8 = u.arbitrary()?;
    match choice {
        0xff | 0xfe => text.extend_from_slice(NAMES[usize::from(choice & 1)].as_bytes()),
        0xf0..=0xf7 => text.extend_from_slice(respond(peer, choice & 7).as_bytes()),
        0xe0..=0xef => {
            let len = usize::from(u.arbitrary::<u8>()?).min(u.len());
            let raw = u.bytes(len)?;
            text.extend_from_slice(raw);
            text.push(0);
        }
        _ => {
            let row = &TABLE[usize::from(choice) % TABLE.len()];
            let value: u8 = u.arbitrary()?;
            let value = VALUES[usize::from(value) % VALUES.len()];
            text.extend_from_slice(format!("{}={value}\0", row.name).as_bytes());
        }
    }
    Ok(())
}

/// A response to the challenge: the right one only for `how` = 0 and a peer that knows the secret.
fn respond(peer: &mut Peer, how: u8) -> String {
    let Some((algorithm, identifier, challenge)) = peer.challenge.clone() else {
        return format!("CHAP_N={USER}\0CHAP_R=0x{}\0", "00".repeat(16));
    };
    let secret = if peer.knows { SECRET } else { WRONG };
    let right = algorithm.response(identifier, secret, &challenge);
    let other = match how {
        1 => algorithm.response(identifier.wrapping_add(1), secret, &challenge),
        2 => algorithm.response(identifier, secret, &challenge[1..]),
        3 => algorithm.response(identifier, PROOF, &challenge),
        4 => right[..right.len() - 1].to_vec(),
        5 => [right.clone(), vec![0]].concat(),
        _ => right.clone(),
    };
    let user = if how == 6 { "node2" } else { USER };
    if how == 0 || how == 7 {
        peer.proof_in_text = peer.knows;
    }
    let mutual = match (how, COUNTER) {
        (7, (identifier, challenge)) => {
            format!("CHAP_I={identifier}\0CHAP_C={}\0", hex(&challenge))
        }
        _ => String::new(),
    };
    format!("CHAP_N={user}\0CHAP_R={}\0{mutual}", hex(&other))
}

fn feed(login: &mut Login, peer: &mut Peer, bhs: &Bhs, data: &[u8]) {
    let more = bhs.flags() & 0x40 != 0;
    peer.text.extend_from_slice(data);
    if !more {
        let text = std::mem::take(&mut peer.text);
        if let Ok(pairs) = parse(&text, usize::MAX) {
            for pair in pairs {
                if pair.key == "CHAP_A" {
                    peer.algorithms = pair.value;
                }
                peer.offered.insert(pair.key);
            }
        }
        peer.proven |= std::mem::take(&mut peer.proof_in_text);
    }
    let was_closed = peer.closed || peer.entered;
    login.apply(Event::Request(bhs, data));
    let mut responses = 0;
    while let Some(output) = login.poll() {
        assert!(!was_closed, "after the end: {output:?}");
        match output {
            Output::Send(answer, data) => {
                responses += 1;
                check_response(peer, bhs, &answer, &data);
            }
            Output::Ask(_) => login.apply(Event::Access(peer.access.clone())),
            Output::Enter(established) => {
                check_entry(peer, established.authenticated);
                check_agreed(&established.negotiated);
                peer.entered = true;
                login.apply(Event::Entered { tsih: 77 });
            }
            Output::Finished => assert!(peer.entered),
            Output::Close(why) => {
                assert!(
                    why.bytes().all(|b| (b' '..=b'~').contains(&b)),
                    "log: {why:?}"
                );
                peer.closed = true;
            }
        }
    }
    assert!(responses <= 1, "{responses} answers to one request");
    assert!(
        was_closed || responses == 1 || peer.closed,
        "a request without an answer"
    );
}

/// The promise above all: with CHAP demanded, nobody enters who did not prove the secret.
fn check_entry(peer: &Peer, authenticated: bool) {
    match &peer.access {
        Access::Allow { chap: None, .. } => assert!(!authenticated),
        Access::Allow { .. } => {
            assert!(authenticated, "entered without CHAP");
            assert!(peer.proven, "entered without the right response");
        }
        _ => panic!("entered though it was denied"),
    }
}

fn check_response(peer: &mut Peer, asked: &Bhs, answer: &Bhs, data: &[u8]) {
    assert!(!peer.closed, "a response after the end");
    assert_eq!(answer.opcode(), op::LOGIN_RESPONSE);
    assert_eq!(answer.data_len() as usize, data.len());
    assert!(data.len() <= limits::TEXT_CHAIN_MAX);
    let stat_sn = answer.u32_at(24);
    assert!(
        peer.stat_sn
            .is_none_or(|last| stat_sn == last.wrapping_add(1)),
        "StatSN"
    );
    peer.stat_sn = Some(stat_sn);
    let code = answer.u16_at(36);
    let transit = answer.flags() & 0x80 != 0;
    assert!(!transit || code == 0, "T with a failure");
    assert!(
        !transit || asked.flags() & 0x80 != 0,
        "T that was not asked for"
    );
    if transit && !matches!(peer.access, Access::Allow { chap: None, .. }) {
        assert!(peer.proven, "a stage was granted before authentication");
    }
    let full = transit && answer.flags() & 3 == 3;
    assert_eq!(
        answer.u16_at(14) != 0,
        full && peer.entered,
        "a handle before the end"
    );
    assert!(matches!(code >> 8, 0..=3));
    let pairs = parse(data, usize::MAX).expect("our answer is not a text");
    for pair in pairs {
        let target_says = [
            "TargetPortalGroupTag",
            "MaxRecvDataSegmentLength",
            "TargetAddress",
        ];
        let chap = pair.key.starts_with("CHAP_");
        let free = chap || target_says.contains(&pair.key.as_str());
        assert!(
            free || peer.offered.contains(&pair.key),
            "{} was not offered",
            pair.key
        );
        assert!(
            chap || peer.answered.insert(pair.key.clone()),
            "{} twice",
            pair.key
        );
        hear(peer, &pair.key, &pair.value);
    }
}

/// Keeps the challenge.
fn hear(peer: &mut Peer, key: &str, value: &str) {
    match key {
        "CHAP_A" => {
            assert!(peer.challenge.is_none(), "a second challenge");
            let algorithm = value.parse().ok().and_then(Algorithm::of);
            let algorithm = algorithm.expect("a digest of the table");
            let expected = taken(peer.wanted, &peer.algorithms);
            assert_eq!(expected, Some(algorithm), "a digest against the policy");
            peer.challenge = Some((algorithm, 0, Vec::new()));
        }
        "CHAP_I" => {
            if let Some(challenge) = &mut peer.challenge {
                challenge.1 = value.parse().expect("an octet");
            }
        }
        "CHAP_C" => {
            if let Some(challenge) = &mut peer.challenge {
                challenge.2 = decode(value, 1024).expect("a challenge");
            }
        }
        "CHAP_R" => {
            assert!(peer.proven, "we proved ourselves to a stranger");
            let (algorithm, ..) = peer.challenge.as_ref().expect("a challenge came first");
            let (identifier, challenge) = COUNTER;
            let proof = algorithm.response(identifier, PROOF, &challenge);
            assert_eq!(
                decode(value, 64),
                Some(proof),
                "a proof that proves nothing"
            );
        }
        _ => {}
    }
}

/// Our own initiator against any answers: it ends, refuses, or goes on, and asks for little.
pub(crate) fn client(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = hostile_target(&mut u);
}

fn hostile_target(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let config: u8 = u.arbitrary()?;
    let mut offer = Offer::new("iqn.a:node1", "iqn.a:target");
    offer.profile = *PROFILES[usize::from(config & 7) % PROFILES.len()];
    offer.chap = (config & 8 != 0).then(|| credentials(USER, SECRET));
    offer.mutual = (config & 16 != 0).then(|| credentials("head", PROOF));
    let secured = offer.mutual.is_some() && offer.chap.is_some();
    let mut client = Client::new(offer);
    let (mut asked, _) = client.start();
    let mut wanted = Vec::new();
    let mut proven = false;
    for turn in 0..3 * limits::LOGIN_PDUS_MAX {
        let how: u8 = u.arbitrary()?;
        let mut answer = Bhs::new(op::LOGIN_RESPONSE);
        answer.put_u8(1, u.arbitrary()?);
        answer.0[8..14].copy_from_slice(&asked.0[8..14]);
        answer.put_u32(16, asked.itt());
        answer.put_u16(14, u16::from(how & 1));
        // StatSN counts up, ExpCmdSN stays: else no initiator looks any further.
        answer.put_sequence(turn, asked.cmd_sn(), asked.cmd_sn());
        if how & 2 != 0 {
            let (at, byte): (u8, u8) = (u.arbitrary()?, u.arbitrary()?);
            answer.put_u8(usize::from(at % 48), byte);
        }
        let len = usize::from(u.arbitrary::<u16>()? % 9000).min(u.len());
        let data = u.bytes(len)?.to_vec();
        answer.set_data_len(u32::try_from(data.len()).unwrap_or(0));
        let said = parse(&data, usize::MAX).unwrap_or_default();
        let response = said.iter().find(|pair| pair.key == "CHAP_R");
        let response = response.and_then(|pair| decode(&pair.value, 64));
        proven |= response.is_some_and(|response| wanted.contains(&response));
        match client.answer(&answer, &data) {
            Ok(Next::Send(next, data)) => {
                assert!(data.len() <= limits::TEXT_CHAIN_MAX);
                wanted.extend(proofs(&data));
                asked = next;
            }
            Ok(Next::Done(done)) => {
                assert!(
                    proven || !secured,
                    "a target that proved nothing was believed"
                );
                let agreed = &done.agreed;
                assert!((512..1 << 24).contains(&agreed.target_mrdsl));
                assert!(
                    (512..1 << 24).contains(&agreed.max_burst) && agreed.max_outstanding_r2t > 0
                );
                return Ok(());
            }
            Ok(Next::Redirect(_)) | Err(_) => return Ok(()),
        }
        if u.is_empty() {
            return Ok(());
        }
    }
    panic!("a login that does not end");
}

/// The answers that prove the target, to the challenge in one of our initiator's requests.
fn proofs(text: &[u8]) -> Vec<Vec<u8>> {
    let pairs = parse(text, usize::MAX).unwrap_or_default();
    let get = |key: &str| pairs.iter().find(|pair| pair.key == key);
    let (Some(i), Some(c)) = (get("CHAP_I"), get("CHAP_C")) else {
        return Vec::new();
    };
    let identifier = i.value.parse().expect("our own identifier");
    let challenge = decode(&c.value, 1024).expect("our own challenge");
    ALGORITHMS
        .map(|algorithm| algorithm.response(identifier, PROOF, &challenge))
        .to_vec()
}
