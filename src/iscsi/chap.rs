//! CHAP (RFC 1994) as iSCSI uses it (RFC 7143 12.1): the target's side as a pure machine, the digests,
//! and the spelling of binary values.
//!
//! ```text
//! initiator: CHAP_A=7,5            target: CHAP_A=7 CHAP_I=93 CHAP_C=0x...
//! initiator: CHAP_N= CHAP_R= [CHAP_I= CHAP_C=]   target: [CHAP_N= CHAP_R=]
//! R = H(identifier octet, secret, challenge)
//! ```

use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;
use sha3::Sha3_256;
use subtle::ConstantTimeEq as _;

use super::login::Credentials;

/// Longest challenge or response in octets (RFC 7143 12.1.3).
pub const BINARY_MAX: usize = 1024;

/// A digest for CHAP, with its number in the IANA registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// 5, the one every initiator knows.
    Md5,
    /// 6.
    Sha1,
    /// 7, what EDK2 prefers and may have as its only one.
    Sha256,
    /// 8, SHA3-256.
    Sha3,
}

/// Which digests are taken, in the order of preference. Holds each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithms([Option<Algorithm>; 4]);

impl Default for Algorithms {
    /// All, the strongest first.
    fn default() -> Self {
        Self([
            Some(Algorithm::Sha3),
            Some(Algorithm::Sha256),
            Some(Algorithm::Sha1),
            Some(Algorithm::Md5),
        ])
    }
}

impl Algorithms {
    /// These, in this order; later repetitions are left out.
    #[must_use]
    pub fn new(wanted: &[Algorithm]) -> Self {
        let mut list = [None; 4];
        for one in wanted {
            if !list.contains(&Some(*one))
                && let Some(place) = list.iter_mut().find(|place| place.is_none())
            {
                *place = Some(*one);
            }
        }
        Self(list)
    }

    /// Our choice from an initiator's list: the first of ours that it offers. `None` when the list is
    /// malformed or holds none of ours. Elements are whole numbers: `56` offers neither 5 nor 6.
    #[must_use]
    pub fn choose(self, offer: &str) -> Option<Algorithm> {
        let mut offered = Vec::new();
        for element in offer.split(',') {
            offered.push(super::keys::number(element)?);
        }
        let mut ours = self.0.into_iter().flatten();
        ours.find(|one| offered.contains(&one.number()))
    }

    /// `8 (SHA3-256), 7 (SHA-256)`, for the log.
    fn names(self) -> String {
        let one = |a: Algorithm| format!("{} ({})", a.number(), a.name());
        let all: Vec<String> = self.0.into_iter().flatten().map(one).collect();
        all.join(", ")
    }
}

impl Algorithm {
    /// The one with this number in CHAP_A.
    #[must_use]
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            5 => Some(Self::Md5),
            6 => Some(Self::Sha1),
            7 => Some(Self::Sha256),
            8 => Some(Self::Sha3),
            _ => None,
        }
    }

    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha3 => "SHA3-256",
        }
    }

    /// The number in CHAP_A.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Md5 => 5,
            Self::Sha1 => 6,
            Self::Sha256 => 7,
            Self::Sha3 => 8,
        }
    }

    /// Octets of a response, and of the challenges we make (open-iscsi derives lengths from it).
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha3 => 32,
        }
    }

    /// The response that proves knowledge of `secret`.
    #[must_use]
    pub fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        let parts = [&[identifier], secret, challenge];
        match self {
            Self::Md5 => digest::<Md5>(parts),
            Self::Sha1 => digest::<Sha1>(parts),
            Self::Sha256 => digest::<Sha256>(parts),
            Self::Sha3 => digest::<Sha3_256>(parts),
        }
    }
}

fn digest<D: sha2::Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
    let mut digest = D::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().to_vec()
}

/// Spells octets as `0x...` in lower case; EDK2 and libiscsi read nothing else.
#[must_use]
pub fn hex(octets: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + 2 * octets.len());
    text.push_str("0x");
    for octet in octets {
        let _ = write!(text, "{octet:02x}");
    }
    text
}

/// Reads a binary value: `0x` with an even number of hexadecimal digits, or `0b` with padded base64
/// (RFC 7143 6.1). `None` when malformed, empty, or longer than `len_max` octets; the length is
/// checked before anything is decoded.
#[must_use]
pub fn decode(text: &str, len_max: usize) -> Option<Vec<u8>> {
    let (prefix, digits) = text.as_bytes().split_at_checked(2)?;
    let octets = match prefix {
        b"0x" | b"0X" if digits.len() <= 2 * len_max => decode_hex(digits)?,
        b"0b" | b"0B" if digits.len() <= len_max.div_ceil(3) * 4 => decode_base64(digits)?,
        _ => return None,
    };
    (!octets.is_empty() && octets.len() <= len_max).then_some(octets)
}

fn decode_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let nibble = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let octet = |&[high, low]: &[u8; 2]| Some((nibble(high)? << 4) | nibble(low)?);
    pairs.iter().map(octet).collect()
}

/// Strict RFC 4648 base64: whole groups of four, padding only at the end, no stray bits.
fn decode_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let (groups, []) = digits.as_chunks::<4>() else {
        return None;
    };
    let mut octets = Vec::with_capacity(groups.len() * 3);
    for (at, group) in groups.iter().enumerate() {
        let padding = group.iter().rev().take_while(|&&c| c == b'=').count();
        if padding > 2 || (padding > 0 && at + 1 != groups.len()) {
            return None;
        }
        let mut bits = 0_u32;
        for &digit in group.get(..4 - padding)? {
            bits = (bits << 6) | u32::from(sextet(digit)?);
        }
        bits <<= 6 * padding;
        let [_, bytes @ ..] = bits.to_be_bytes();
        let (kept, dropped) = bytes.split_at(3 - padding);
        if dropped.iter().any(|&byte| byte != 0) {
            return None;
        }
        octets.extend_from_slice(kept);
    }
    Some(octets)
}

const fn sextet(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// The CHAP keys of one login request, as they came.
#[derive(Debug, Default)]
pub struct ChapKeys {
    /// CHAP_A.
    pub a: Option<String>,
    /// CHAP_N.
    pub n: Option<String>,
    /// CHAP_R.
    pub r: Option<String>,
    /// CHAP_I.
    pub i: Option<String>,
    /// CHAP_C.
    pub c: Option<String>,
}

impl ChapKeys {
    /// True when the request carries none of them.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.a.is_none()
            && self.n.is_none()
            && self.r.is_none()
            && self.i.is_none()
            && self.c.is_none()
    }
}

/// What to answer to a request's CHAP keys.
#[derive(Debug, PartialEq, Eq)]
pub enum ChapAnswer {
    /// `CHAP_A`, `CHAP_I`, `CHAP_C`: prove yourself.
    Challenge {
        /// The chosen digest's number.
        a: u32,
        /// The identifier.
        i: u8,
        /// The challenge, spelled in hexadecimal.
        c: String,
    },
    /// The initiator proved itself; with our own proof when it asked for one: `CHAP_N`, `CHAP_R`.
    Passed(Option<(String, String)>),
}

/// Who is allowed to pass.
#[derive(Debug)]
enum Verdict {
    /// Whoever knows the secret.
    Secret(Credentials),
    /// No one: the name is unknown or forbidden, and the peer must not learn that. The dummy secret
    /// keeps the work, and so the time, the same.
    Hidden(Credentials, String),
}

/// The target's side of CHAP, for one login.
#[derive(Debug)]
pub struct Challenger {
    verdict: Verdict,
    mutual: Option<Credentials>,
    algorithms: Algorithms,
    identifier: u8,
    random: [u8; 32],
    sent: Option<Algorithm>,
}

impl Challenger {
    /// Demands `credentials`; proves ourselves with `mutual` when asked. `entropy` must be fresh.
    #[must_use]
    pub fn new(credentials: Credentials, mutual: Option<Credentials>, entropy: &[u8; 64]) -> Self {
        Self::build(Verdict::Secret(credentials), mutual, entropy)
    }

    /// Goes through the motions and lets no one pass; `why` is for the log.
    #[must_use]
    pub fn hidden(why: String, entropy: &[u8; 64]) -> Self {
        let (_, dummy) = entropy.split_at(48);
        let dummy = Credentials {
            user: String::new(),
            secret: dummy.to_vec(),
        };
        Self::build(Verdict::Hidden(dummy, why), None, entropy)
    }

    fn build(verdict: Verdict, mutual: Option<Credentials>, entropy: &[u8; 64]) -> Self {
        let [identifier, ..] = *entropy;
        let mut random = [0; 32];
        random.copy_from_slice(&entropy[1..33]);
        Self {
            verdict,
            mutual,
            algorithms: Algorithms::default(),
            identifier,
            random,
            sent: None,
        }
    }

    /// Takes these digests instead of all.
    #[must_use]
    pub const fn with_algorithms(mut self, algorithms: Algorithms) -> Self {
        self.algorithms = algorithms;
        self
    }

    /// Takes in a request's CHAP keys. The error is for the log only: the peer learns 0x0201.
    pub fn hear(&mut self, keys: &ChapKeys) -> Result<ChapAnswer, String> {
        match (self.sent, keys) {
            (
                None,
                ChapKeys {
                    a: Some(a),
                    n: None,
                    r: None,
                    i: None,
                    c: None,
                },
            ) => self.challenge(a),
            (
                Some(sent),
                ChapKeys {
                    a: None,
                    n: Some(n),
                    r: Some(r),
                    i,
                    c,
                },
            ) => {
                self.check(sent, n, r)?;
                let proof = match (i, c) {
                    (None, None) => None,
                    (Some(i), Some(c)) => Some(self.prove(sent, i, c)?),
                    _ => return Err("CHAP_I and CHAP_C must come together".into()),
                };
                Ok(ChapAnswer::Passed(proof))
            }
            _ => Err("CHAP keys are missing or out of order".into()),
        }
    }

    fn challenge(&mut self, offer: &str) -> Result<ChapAnswer, String> {
        let Some(algorithm) = self.algorithms.choose(offer) else {
            let offer = super::keys::quote(offer.as_bytes());
            return Err(format!(
                "CHAP_A=`{offer}` offers none of {}",
                self.algorithms.names()
            ));
        };
        self.sent = Some(algorithm);
        Ok(ChapAnswer::Challenge {
            a: algorithm.number(),
            i: self.identifier,
            c: hex(self.challenge_octets(algorithm)),
        })
    }

    fn challenge_octets(&self, algorithm: Algorithm) -> &[u8] {
        self.random.split_at(algorithm.digest_len()).0
    }

    /// Checks name and response together, so that neither can be probed alone.
    fn check(&self, sent: Algorithm, name: &str, response: &str) -> Result<(), String> {
        let (Verdict::Secret(known) | Verdict::Hidden(known, _)) = &self.verdict;
        let given = decode(response, sent.digest_len()).unwrap_or_default();
        let right = sent.response(self.identifier, &known.secret, self.challenge_octets(sent));
        let same_name = name.as_bytes().ct_eq(known.user.as_bytes());
        let good = bool::from(given.ct_eq(&right) & same_name);
        match &self.verdict {
            Verdict::Hidden(_, why) => Err(why.clone()),
            Verdict::Secret(_) if good => Ok(()),
            Verdict::Secret(_) if bool::from(same_name) => Err("the CHAP response is wrong".into()),
            Verdict::Secret(_) => Err(format!(
                "CHAP_N=`{}` is not the user of this node",
                super::keys::quote(name.as_bytes())
            )),
        }
    }

    /// Mutual CHAP: our answer to the initiator's challenge.
    fn prove(&self, sent: Algorithm, i: &str, c: &str) -> Result<(String, String), String> {
        let identifier = super::keys::number(i).and_then(|n| u8::try_from(n).ok());
        let identifier = identifier.ok_or("CHAP_I is not an octet")?;
        let challenge = decode(c, BINARY_MAX).ok_or("CHAP_C is malformed")?;
        // RFC 7143 9.2.1: our own challenge sent back would make us compute the peer's answer.
        if challenge == self.challenge_octets(sent) {
            return Err("CHAP_C is our own challenge (reflection attack)".into());
        }
        let own = self
            .mutual
            .as_ref()
            .ok_or("the initiator wants a proof, but there is no secret for it")?;
        if let Verdict::Secret(theirs) = &self.verdict
            && bool::from(theirs.secret.ct_eq(&own.secret))
        {
            return Err("both directions of CHAP share one secret; set different ones".into());
        }
        let response = sent.response(identifier, &own.secret, &challenge);
        Ok((own.user.clone(), hex(&response)))
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn credentials(user: &str, secret: &str) -> Credentials {
        Credentials {
            user: user.into(),
            secret: secret.into(),
        }
    }

    fn entropy() -> [u8; 64] {
        std::array::from_fn(|at| u8::try_from(at * 3 + 1).unwrap())
    }

    fn challenger() -> Challenger {
        Challenger::new(
            credentials("node1", "sixteen-letters!"),
            Some(credentials("head", "other-sixteen-ls")),
            &entropy(),
        )
    }

    fn ask(a: &str) -> ChapKeys {
        ChapKeys {
            a: Some(a.into()),
            ..ChapKeys::default()
        }
    }

    fn reply(n: &str, r: &str) -> ChapKeys {
        ChapKeys {
            n: Some(n.into()),
            r: Some(r.into()),
            ..ChapKeys::default()
        }
    }

    fn challenged(chap: &mut Challenger, offer: &str) -> (Algorithm, u8, Vec<u8>) {
        let ChapAnswer::Challenge { a, i, c } = chap.hear(&ask(offer)).unwrap() else {
            panic!("no challenge");
        };
        let algorithm = Algorithm::of(a).unwrap();
        let challenge = decode(&c, 64).unwrap();
        assert_eq!(challenge.len(), algorithm.digest_len());
        (algorithm, i, decode(&c, 64).unwrap())
    }

    #[test]
    fn the_strongest_offered_digest_is_chosen() {
        let all = Algorithms::default();
        assert_eq!(all.choose("5"), Some(Algorithm::Md5));
        assert_eq!(all.choose("7,5"), Some(Algorithm::Sha256));
        assert_eq!(all.choose("5,6,7,8"), Some(Algorithm::Sha3));
        assert_eq!(all.choose("5,6"), Some(Algorithm::Sha1));
        assert_eq!(all.choose("99,5"), Some(Algorithm::Md5));
        for bad in ["", "56", "999", "5,", ",5", "5 ", "MD5", "5;7", "-5"] {
            assert_eq!(all.choose(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_digest_that_the_policy_leaves_out_is_never_chosen() {
        let modern = Algorithms::new(&[Algorithm::Sha256, Algorithm::Sha3, Algorithm::Sha256]);
        assert_eq!(modern.choose("5,6"), None);
        assert_eq!(modern.choose("8,7,5"), Some(Algorithm::Sha256));
        assert_eq!(modern.choose("8"), Some(Algorithm::Sha3));
        assert_eq!(Algorithms::new(&[]).choose("5,6,7,8"), None);
        let mut chap = challenger().with_algorithms(modern);
        let why = chap.hear(&ask("5")).unwrap_err();
        assert!(why.contains("7 (SHA-256), 8 (SHA3-256)"), "{why}");
    }

    #[test]
    fn md5_response_matches_a_known_vector() {
        // printf '\x01secret\x00\x11\x22\x33' | md5sum, and the same for sha256sum.
        let challenge = [0x00, 0x11, 0x22, 0x33];
        assert_eq!(
            hex(&Algorithm::Md5.response(1, b"secret", &challenge)),
            "0x98ce819c9fdb98a42d8bbc93ef2af654"
        );
        assert_eq!(
            hex(&Algorithm::Sha256.response(1, b"secret", &challenge)),
            "0xb71add8980379ed29a641be2e384a1cd67efae9ad7974d80d3ee24c34d703931"
        );
    }

    #[test]
    fn sha1_and_sha3_responses_match_known_vectors() {
        // printf '\x01secret\x00\x11\x22\x33' | openssl dgst -sha1, and the same for -sha3-256.
        let challenge = [0x00, 0x11, 0x22, 0x33];
        assert_eq!(
            hex(&Algorithm::Sha1.response(1, b"secret", &challenge)),
            "0x80ce221f5890e3f20dc157b5d35cc22822637f5b"
        );
        assert_eq!(
            hex(&Algorithm::Sha3.response(1, b"secret", &challenge)),
            "0x7a370d2892189421f32f0630e9aa286dd020a2d10d54ff8be02a1188f7912ed1"
        );
    }

    #[test]
    fn binary_values_are_read_strictly() {
        assert_eq!(decode("0x0aFF", 2), Some(vec![0x0a, 0xff]));
        assert_eq!(decode("0X00", 1), Some(vec![0]));
        assert_eq!(decode("0bAQID", 3), Some(vec![1, 2, 3]));
        assert_eq!(decode("0bAQI=", 2), Some(vec![1, 2]));
        assert_eq!(decode("0BAQ==", 1), Some(vec![1]));
        let bad = [
            "",
            "0",
            "0x",
            "0b",
            "0x0",
            "0x0g",
            "0x000",
            "12",
            "0bAQ=",
            "0bA===",
            "0b====",
            "0bAR==",
            "0bAQ==AQID",
            "0bA=ID",
            "0bAQ\u{e4}",
            "0x\u{e4}",
            "0bAQI_",
        ];
        for text in bad {
            assert_eq!(decode(text, 64), None, "{text:?}");
        }
    }

    #[test]
    fn binary_values_over_the_bound_are_refused() {
        assert_eq!(decode(&format!("0x{}", "00".repeat(17)), 16), None);
        assert!(decode(&format!("0x{}", "00".repeat(16)), 16).is_some());
        assert_eq!(decode(&format!("0b{}", "AAAA".repeat(6)), 16), None);
        assert_eq!(
            decode(&format!("0x{}", "00".repeat(1025)), BINARY_MAX),
            None
        );
    }

    #[test]
    fn the_right_response_passes_with_each_digest_and_spelling() {
        for offer in ["5", "7"] {
            let mut chap = challenger();
            let (algorithm, i, c) = challenged(&mut chap, offer);
            assert_eq!(c.len(), algorithm.digest_len());
            let r = hex(&algorithm.response(i, b"sixteen-letters!", &c)).to_uppercase();
            assert_eq!(chap.hear(&reply("node1", &r)), Ok(ChapAnswer::Passed(None)));
        }
    }

    #[test]
    fn wrong_names_responses_and_lengths_fail() {
        let good = |chap: &mut Challenger| {
            let (algorithm, i, c) = challenged(chap, "5");
            algorithm.response(i, b"sixteen-letters!", &c)
        };
        let mut chap = challenger();
        let r = good(&mut chap);
        assert!(chap.hear(&reply("node2", &hex(&r))).is_err());
        assert!(chap.hear(&reply("", &hex(&r))).is_err());
        for bad in [
            "0x",
            "0x00",
            &hex(&r[..15]),
            &format!("{}00", hex(&r)),
            "zz",
        ] {
            assert!(chap.hear(&reply("node1", bad)).is_err(), "{bad}");
        }
        let mut flipped = r.clone();
        flipped[0] ^= 1;
        assert!(chap.hear(&reply("node1", &hex(&flipped))).is_err());
    }

    #[test]
    fn keys_out_of_order_fail() {
        let mut chap = challenger();
        assert!(chap.hear(&reply("node1", "0x00")).is_err());
        let _ = challenged(&mut chap, "5");
        assert!(chap.hear(&ask("5")).is_err());
        let only_n = ChapKeys {
            n: Some("node1".into()),
            ..ChapKeys::default()
        };
        assert!(chap.hear(&only_n).is_err());
    }

    #[test]
    fn mutual_chap_proves_the_target() {
        let mut chap = challenger();
        let (algorithm, i, c) = challenged(&mut chap, "7,5");
        let mut keys = reply(
            "node1",
            &hex(&algorithm.response(i, b"sixteen-letters!", &c)),
        );
        keys.i = Some("200".into());
        keys.c = Some(hex(&[9; 32]));
        let expected = hex(&algorithm.response(200, b"other-sixteen-ls", &[9; 32]));
        assert_eq!(
            chap.hear(&keys),
            Ok(ChapAnswer::Passed(Some(("head".into(), expected))))
        );
    }

    #[test]
    fn mutual_chap_refuses_reflection_bad_keys_and_shared_secrets() {
        let run = |mut chap: Challenger, i: Option<&str>, c: Option<String>| {
            let (algorithm, id, own) = challenged(&mut chap, "5");
            let mut keys = reply(
                "node1",
                &hex(&algorithm.response(id, b"sixteen-letters!", &own)),
            );
            keys.i = i.map(Into::into);
            keys.c = c.or_else(|| Some(hex(&own)));
            chap.hear(&keys).unwrap_err()
        };
        assert!(run(challenger(), Some("1"), None).contains("reflection"));
        let fine = || Some(hex(&[9; 16]));
        assert!(run(challenger(), Some("256"), fine()).contains("octet"));
        assert!(run(challenger(), None, fine()).contains("together"));
        assert!(run(challenger(), Some("1"), Some(hex(&[9; 1025]))).contains("malformed"));
        let shared = credentials("head", "sixteen-letters!");
        let one = credentials("node1", "sixteen-letters!");
        let chap = Challenger::new(one.clone(), Some(shared), &entropy());
        assert!(run(chap, Some("1"), fine()).contains("share"));
        let chap = Challenger::new(one, None, &entropy());
        assert!(run(chap, Some("1"), fine()).contains("no secret"));
    }

    #[test]
    fn a_hidden_denial_lets_no_response_pass() {
        let mut chap = Challenger::hidden("unknown name".into(), &entropy());
        let (algorithm, i, c) = challenged(&mut chap, "5");
        let lucky = algorithm.response(i, &entropy()[48..], &c);
        assert_eq!(
            chap.hear(&reply("", &hex(&lucky))),
            Err("unknown name".into())
        );
    }

    proptest! {
        #[test]
        fn hex_is_read_back(octets in proptest::collection::vec(any::<u8>(), 1..64)) {
            prop_assert_eq!(decode(&hex(&octets), 64), Some(octets));
        }

        #[test]
        fn any_text_is_decoded_within_bounds_or_refused(text in ".{0,80}", bound in 0_usize..40) {
            if let Some(octets) = decode(&text, bound) {
                prop_assert!(octets.len() <= bound);
            }
        }
    }
}
