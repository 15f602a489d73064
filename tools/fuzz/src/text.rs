//! Texts of login and text requests, piece by piece: pairs, numbers, binary values, names, negotiation, and
//! the text machine of the full feature phase. The first byte chooses.

use std::collections::HashSet;

use arbitrary::Unstructured;
use reveille::iscsi::chap::{Algorithm, Algorithms, decode, hex};
use reveille::iscsi::keys::{Builder, Pair, number, parse, quote};
use reveille::iscsi::params::{Digests, Negotiated, Negotiation, Phase, Rule, SessionType, find};
use reveille::iscsi::pdu::{Bhs, RESERVED_TAG, op};
use reveille::iscsi::text::{Found, Step, Text};
use reveille::limits;
use reveille::names::Iqn;

pub(crate) fn run(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    match choice % 5 {
        0 => negotiation(rest, DIGESTS[usize::from(choice / 5) % DIGESTS.len()]),
        1 => binary(rest),
        2 => name(rest),
        3 => drop(requests(&mut Unstructured::new(rest))),
        _ => numbers(rest, algorithms(choice / 5)),
    }
}

/// The policies for digests of PDUs.
pub(crate) const DIGESTS: [Digests; 3] =
    [Digests::Offered, Digests::PreferNone, Digests::PreferCrc32c];

pub(crate) const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Md5,
    Algorithm::Sha1,
    Algorithm::Sha256,
    Algorithm::Sha3,
];

/// A policy for the digests of CHAP: all by their strength, or four out of the table, some more than once; and
/// the same as a list, the most wanted first.
pub(crate) fn algorithms(choice: u8) -> (Algorithms, [Algorithm; 4]) {
    if choice & 3 == 0 {
        let mut all = ALGORITHMS;
        all.reverse();
        return (Algorithms::default(), all);
    }
    let wanted = [0, 1, 2, 3].map(|n| ALGORITHMS[usize::from(choice.rotate_right(2 * n) & 3)]);
    (Algorithms::new(&wanted), wanted)
}

/// What such a policy takes of an offer, computed here once more.
pub(crate) fn taken(wanted: [Algorithm; 4], offer: &str) -> Option<Algorithm> {
    let is_in = |a: &Algorithm| offer.split(',').any(|n| number(n) == Some(a.number()));
    let whole = offer.split(',').all(|n| number(n).is_some());
    wanted.into_iter().find(|a| whole && is_in(a))
}

/// One text as the only offer of a login: each key is answered at most once, only what was offered is
/// answered, and what is agreed is within what we can do.
fn negotiation(text: &[u8], digests: Digests) {
    let text = text.get(..limits::TEXT_CHAIN_MAX).unwrap_or(text);
    let Ok(pairs) = parse(text, limits::LOGIN_KEYS_MAX) else {
        return;
    };
    assert!(pairs.len() <= limits::LOGIN_KEYS_MAX);
    let mut negotiation = Negotiation::new(digests);
    for pair in &pairs {
        let row = find(&pair.key);
        let done = negotiation.mark(&pair.key).and_then(|()| match row {
            None => {
                negotiation.unknown(&pair.key);
                Ok(())
            }
            Some(row) if matches!(row.phase, Phase::Operational | Phase::Any) => {
                negotiation.offer(row, pair)
            }
            Some(_) => Ok(()),
        });
        if let Err(refusal) = done {
            assert!(
                refusal
                    .to_string()
                    .bytes()
                    .all(|b| (b' '..=b'~').contains(&b))
            );
            return;
        }
    }
    let mut answer = Builder::new();
    negotiation.answer(true, &mut answer);
    let answer = answer.into_bytes();
    check_answer(&pairs, &answer);
    check_preference(&pairs, &answer, digests);
    check_agreed(&negotiation.result());
    let mut again = Builder::new();
    negotiation.answer(true, &mut again);
    assert!(again.is_empty(), "an offer is answered twice");
}

fn check_answer(offers: &[Pair], text: &[u8]) {
    assert!(text.len() <= limits::TEXT_CHAIN_MAX, "{} bytes", text.len());
    let answers = parse(text, limits::LOGIN_KEYS_MAX + 1).expect("our answer is not a text");
    let mut seen = HashSet::new();
    for answer in &answers {
        let key = answer.key.as_str();
        assert!(seen.insert(key), "`{key}` is answered twice");
        let Some(offer) = offers.iter().find(|offer| offer.key == key) else {
            assert_eq!(key, "MaxRecvDataSegmentLength", "`{key}` was not offered");
            continue;
        };
        check_value(offer, answer);
    }
}

/// A preferred digest is taken wherever it is offered.
fn check_preference(offers: &[Pair], text: &[u8], digests: Digests) {
    let preferred = match digests {
        Digests::Offered => return,
        Digests::PreferNone => "None",
        Digests::PreferCrc32c => "CRC32C",
    };
    for answer in parse(text, usize::MAX).expect("it was parsed before") {
        let offer = offers.iter().find(|offer| offer.key == answer.key);
        let offered = offer.is_some_and(|offer| offer.value.split(',').any(|v| v == preferred));
        assert!(
            !matches!(answer.key.as_str(), "HeaderDigest" | "DataDigest")
                || !offered
                || answer.value == preferred,
            "{}={} though {preferred} was offered",
            answer.key,
            answer.value
        );
    }
}

/// The answer follows from the offer by RFC 7143 6.2, computed here once more.
fn check_value(offer: &Pair, answer: &Pair) {
    let Some(row) = find(&offer.key) else {
        assert_eq!(answer.value, "NotUnderstood");
        return;
    };
    let said = answer.value.as_str();
    let offered = number(&offer.value).unwrap_or(0);
    match row.rule {
        Rule::List(..) => {
            let among = offer.value.split(',').any(|v| v == said);
            assert!(among || said == "Reject", "{}={said}", row.name);
        }
        Rule::BoolOr(_) | Rule::BoolAnd(_) => assert!(matches!(said, "Yes" | "No")),
        Rule::Min(low, high, _) => {
            let n = number(said).expect("a number");
            assert!(
                (low..=high).contains(&n) && n <= offered,
                "{}={said}",
                row.name
            );
        }
        Rule::Max(low, high, _) => {
            let n = number(said).expect("a number");
            assert!(
                (low..=high).contains(&n) && n >= offered,
                "{}={said}",
                row.name
            );
        }
        Rule::Fixed(fixed) => assert_eq!(said, fixed),
        Rule::DeclareNumber(low, high) => {
            assert!(number(said).is_some_and(|n| (low..=high).contains(&n)));
        }
        Rule::Declare => panic!("`{}` is declared and has no answer", row.name),
    }
}

/// What the connection machine may rely on.
pub(crate) fn check_agreed(agreed: &Negotiated) {
    assert!((512..1 << 24).contains(&agreed.initiator_mrdsl));
    assert!(agreed.target_mrdsl <= limits::TARGET_MRDSL);
    assert!((512..=limits::MAX_BURST_MAX).contains(&agreed.max_burst));
    assert!(agreed.first_burst >= 512 && agreed.first_burst <= agreed.max_burst);
    assert!((1..=limits::MAX_R2T).contains(&agreed.max_outstanding_r2t));
}

/// Binary values: nothing too long, nothing that means two things.
fn binary(rest: &[u8]) {
    let Some((&max, text)) = rest.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let max = usize::from(max) * 5;
    let Some(octets) = decode(text, max) else {
        return;
    };
    assert!(!octets.is_empty() && octets.len() <= max);
    let digits = &text[2..];
    if text.starts_with("0x") || text.starts_with("0X") {
        assert_eq!(hex(&octets)[2..], digits.to_ascii_lowercase());
    } else {
        assert_eq!(base64(&octets), digits, "two spellings of one value");
    }
    assert_eq!(decode(&hex(&octets), octets.len()), Some(octets));
}

fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in octets.chunks(3) {
        let mut word = [0; 3];
        word[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { digit.into() } else { '=' });
        }
    }
    text
}

/// Names that are taken are safe to print, to compare and to use as a file's name.
fn name(text: &[u8]) {
    assert!(quote(text).bytes().all(|b| (b' '..=b'~').contains(&b)));
    let text = String::from_utf8_lossy(text);
    let Ok(iqn) = Iqn::parse(&text) else { return };
    let name = iqn.as_str();
    assert!(name.len() <= 223 && name.eq_ignore_ascii_case(&text));
    assert!(
        name.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b))
    );
    assert_eq!(Iqn::parse(name).expect("its own spelling"), iqn);
}

/// Numbers agree with arithmetic in more bits; lists of algorithms hold what was chosen.
fn numbers(text: &[u8], (policy, wanted): (Algorithms, [Algorithm; 4])) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    if let Some(n) = number(text) {
        let (digits, radix) = match text.get(..2) {
            Some("0x" | "0X") => (&text[2..], 16),
            _ => (text, 10),
        };
        let mut value = 0_u128;
        for digit in digits.chars() {
            value = value * radix + u128::from(digit.to_digit(16).expect("a digit"));
            assert!(value <= u128::from(u32::MAX));
        }
        assert_eq!(value, u128::from(n));
    }
    assert_eq!(policy.choose(text), taken(wanted, text), "a digest of CHAP");
}

/// Text requests, one after the other, with the tags that were given or others.
fn requests(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let kind: u8 = u.arbitrary()?;
    let own = Iqn::parse("iqn.2026-11.t:own").expect("a name");
    let agreed = Negotiated {
        initiator_mrdsl: if kind & 2 == 0 { 512 } else { 8192 },
        ..Negotiated::default()
    };
    let mut text = match kind & 1 {
        0 => Text::new(SessionType::Normal, Some(own.clone()), 1, &agreed),
        _ => Text::new(SessionType::Discovery, None, 1, &agreed),
    };
    let mut tag = RESERVED_TAG;
    for _ in 0..40 {
        if u.is_empty() {
            break;
        }
        let (flags, how, len): (u8, u8, u8) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
        let len = usize::from(len).min(u.len());
        let data = u.bytes(len)?;
        let mut bhs = Bhs::new(op::TEXT);
        bhs.put_u8(1, flags);
        bhs.put_u32(16, u32::from(how >> 6));
        bhs.put_u32(
            20,
            if how & 3 == 0 {
                RESERVED_TAG
            } else {
                tag ^ u32::from(how & 4)
            },
        );
        let mut step = text.request(&bhs, data);
        if matches!(step, Step::Targets(_)) {
            let found = Found {
                name: own.clone(),
                portals: vec!["10.0.0.1:3260".into(); usize::from(how >> 3 & 1)],
            };
            step = text.targets(&vec![found; usize::from(how >> 4)]);
        }
        assert!((512..1 << 24).contains(&text.initiator_mrdsl()));
        match step {
            Step::Send(answer, data) => {
                assert!(data.len() <= text.initiator_mrdsl() as usize);
                assert_eq!(answer.itt(), bhs.itt());
                let (last, more) = (answer.flags() & 0x80 != 0, answer.flags() & 0x40 != 0);
                assert!(!(last && more), "F and C");
                assert!(!last || flags & 0x80 != 0, "F without being asked");
                assert_eq!(
                    last,
                    answer.ttt() == RESERVED_TAG,
                    "the tag says whether it goes on"
                );
                tag = answer.ttt();
            }
            Step::Reject(reason) => assert_eq!(reason, 4),
            Step::Targets(_) => panic!("asked for targets twice"),
        }
    }
    Ok(())
}
