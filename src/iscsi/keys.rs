//! Text of login and text PDUs: `key=value` pairs, each ended by a NUL (RFC 7143 6.1).
//!
//! Works on slices with their own length; nothing here trusts a NUL to be there. Keys are compared
//! whole and case-sensitively by the callers, never by prefix.

use crate::limits::TEXT_CHAIN_MAX;

/// Longest key in bytes (RFC 7143 6.1).
pub const KEY_MAX: usize = 63;
/// Longest value in bytes, but for the keys that say otherwise (RFC 7143 6.1).
pub const VALUE_MAX: usize = 255;
/// Longest CHAP_C or CHAP_R: 1,024 octets in hexadecimal with prefix (RFC 7143 12.1.3).
pub const BINARY_VALUE_MAX: usize = 2 + 2 * 1024;

/// Why a text is not a run of `key=value` pairs. The sentence is safe to log: bytes are escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub String);

/// A key with its value, both as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Left of the first `=`.
    pub key: String,
    /// Right of it.
    pub value: String,
}

/// Splits `text` into pairs; `pairs_max` bounds their number.
///
/// Lenient where peers are sloppy: repeated NULs and a last unit without NUL are taken. Strict where
/// leniency would be a hole: a unit without `=`, an empty key, a key of more than 63 bytes or outside
/// the standard-label alphabet, a value that is too long or not UTF-8 are errors.
pub fn parse(text: &[u8], pairs_max: usize) -> Result<Vec<Pair>, TextError> {
    let mut pairs = Vec::new();
    for unit in text
        .split(|&byte| byte == 0)
        .filter(|unit| !unit.is_empty())
    {
        if pairs.len() == pairs_max {
            return Err(TextError(format!("more than {pairs_max} keys")));
        }
        pairs.push(parse_unit(unit)?);
    }
    Ok(pairs)
}

fn parse_unit(unit: &[u8]) -> Result<Pair, TextError> {
    let Some(at) = unit.iter().position(|&byte| byte == b'=') else {
        return Err(TextError(format!("`{}` has no `=`", quote(unit))));
    };
    let (key, rest) = unit.split_at(at);
    let value = rest.get(1..).unwrap_or_default();
    if key.is_empty() || key.len() > KEY_MAX || !key.iter().all(|&byte| is_label(byte)) {
        return Err(TextError(format!("`{}` is not a key", quote(key))));
    }
    let (Ok(key), Ok(value)) = (std::str::from_utf8(key), std::str::from_utf8(value)) else {
        return Err(TextError(format!(
            "the value of `{}` is not UTF-8",
            quote(key)
        )));
    };
    if value.len() > value_max(key) {
        return Err(TextError(format!(
            "the value of `{key}` has {} bytes",
            value.len()
        )));
    }
    Ok(Pair {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

fn value_max(key: &str) -> usize {
    match key {
        "CHAP_C" | "CHAP_R" => BINARY_VALUE_MAX,
        _ => VALUE_MAX,
    }
}

/// The standard-label alphabet (RFC 7143 6.1).
const fn is_label(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'@' | b'_')
}

/// At most 40 characters of a peer's bytes, escaped so that a log line stays one plain line.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let shown = bytes.get(..40).unwrap_or(bytes);
    let mut text: String = shown.escape_ascii().to_string();
    if shown.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

/// Reads a number as RFC 7143 6.1 spells it: decimal, or hexadecimal after `0x` or `0X`; no sign, no
/// blank. `None` when it is not one or does not fit.
#[must_use]
pub fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // `from_str_radix` would take a sign.
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// Pieces of one text that came with the C bit, put together (RFC 7143 6.1, 11.10.2, 11.12.3).
#[derive(Debug, Default)]
pub struct Chain {
    bytes: Vec<u8>,
}

impl Chain {
    /// Adds a piece; an error when the whole would pass [`TEXT_CHAIN_MAX`].
    pub fn push(&mut self, piece: &[u8]) -> Result<(), TextError> {
        if piece.len() > TEXT_CHAIN_MAX - self.bytes.len() {
            return Err(TextError(format!(
                "text of more than {TEXT_CHAIN_MAX} bytes"
            )));
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// The whole text; the chain is empty after.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// Builds a text. What it yields is exactly what DataSegmentLength counts: the last NUL is in, padding
/// is not (iPXE takes padding inside the counted length for a broken string).
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// An empty text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `key=value` and the NUL.
    pub fn push(&mut self, key: &str, value: &str) -> &mut Self {
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.push(b'=');
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True when nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The text.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A text on its way out in pieces no longer than the peer takes; each but the last goes with C = 1.
#[derive(Debug, Default)]
pub struct Pieces {
    bytes: Vec<u8>,
    sent: usize,
}

impl Pieces {
    /// All of `bytes` is still to be sent.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, sent: 0 }
    }

    /// The next piece of at most `len_max` bytes, and whether more follow.
    pub fn next(&mut self, len_max: usize) -> (&[u8], bool) {
        let rest = self.bytes.get(self.sent..).unwrap_or_default();
        let piece = rest.get(..len_max.max(1)).unwrap_or(rest);
        self.sent += piece.len();
        (piece, self.sent < self.bytes.len())
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &[u8]) -> Result<Vec<(String, String)>, TextError> {
        Ok(parse(text, 64)?
            .into_iter()
            .map(|p| (p.key, p.value))
            .collect())
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.into(), value.into())
    }

    #[test]
    fn pairs_end_at_nul() {
        assert_eq!(
            pairs(b"A=1\0B=two=3\0").unwrap(),
            [pair("A", "1"), pair("B", "two=3")]
        );
    }

    #[test]
    fn repeated_nuls_and_a_missing_last_nul_are_tolerated() {
        assert_eq!(pairs(b"\0\0A=1\0\0\0B=\0\0C=3").unwrap().len(), 3);
        assert_eq!(pairs(b"").unwrap(), []);
    }

    #[test]
    fn broken_units_are_refused() {
        let long_key = [vec![b'k'; 64], b"=1\0".to_vec()].concat();
        let long_value = [b"K=".to_vec(), vec![b'v'; 256]].concat();
        let broken: [&[u8]; 8] = [
            b"novalue\0",
            b"=x\0",
            b"a b=1\0",
            b"a\n=1\0",
            b"K=\xff\xfe\0",
            b"k\xc3\xa4=1\0",
            &long_key,
            &long_value,
        ];
        for text in broken {
            assert!(pairs(text).is_err(), "{}", quote(text));
        }
    }

    #[test]
    fn eight_kilobytes_without_nul_are_no_pair() {
        for len in 8189..=8192 {
            assert!(pairs(&vec![b'A'; len]).is_err());
            let mut text = b"InitiatorName=".to_vec();
            text.resize(len, b'a');
            assert!(pairs(&text).is_err());
        }
    }

    #[test]
    fn only_chap_values_may_be_long() {
        let text = |key: &str, len: usize| format!("{key}={}\0", "a".repeat(len)).into_bytes();
        assert!(pairs(&text("CHAP_C", BINARY_VALUE_MAX)).is_ok());
        assert!(pairs(&text("CHAP_C", BINARY_VALUE_MAX + 1)).is_err());
        assert!(pairs(&text("CHAP_N", 255)).is_ok());
        assert!(pairs(&text("CHAP_N", 256)).is_err());
    }

    #[test]
    fn too_many_pairs_are_refused() {
        let text = "A=1\0".repeat(65);
        assert!(parse(text.as_bytes(), 64).is_err());
        assert_eq!(parse("A=1\0".repeat(64).as_bytes(), 64).unwrap().len(), 64);
    }

    #[test]
    fn numbers_never_wrap_and_take_no_sign() {
        for bad in [
            "",
            "-1",
            "+1",
            " 512",
            "512 ",
            "1e3",
            "0x",
            "4294967808",
            "0x1ffffffff",
            "x1",
        ] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
        assert_eq!(number("262144"), Some(262_144));
        assert_eq!(number("0x40000"), Some(262_144));
        assert_eq!(number("0XfF"), Some(255));
        assert_eq!(number("007"), Some(7));
    }

    #[test]
    fn chains_are_bounded() {
        let mut chain = Chain::default();
        chain.push(&[0; TEXT_CHAIN_MAX - 1]).unwrap();
        chain.push(&[0]).unwrap();
        assert!(chain.push(&[0]).is_err());
        assert_eq!(chain.take().len(), TEXT_CHAIN_MAX);
        assert!(chain.push(&[0]).is_ok());
    }

    #[test]
    fn the_built_text_counts_the_last_nul_and_no_padding() {
        let mut text = Builder::new();
        text.push("A", "1").push("Bc", "22");
        assert_eq!(text.into_bytes(), b"A=1\0Bc=22\0");
    }

    #[test]
    fn quoted_bytes_stay_on_one_plain_line() {
        assert_eq!(quote(b"a\nb\x1b[31m\xff"), "a\\nb\\x1b[31m\\xff");
        assert!(quote(&[7; 500]).len() < 200);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(text in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(pairs) = parse(&text, 64) {
                for pair in pairs {
                    prop_assert!(!pair.key.is_empty() && pair.key.len() <= KEY_MAX);
                    prop_assert!(!pair.value.contains('\0'));
                }
            }
        }

        #[test]
        fn built_texts_are_read_back(
            given in proptest::collection::vec(("[A-Z][A-Za-z0-9._@+-]{0,62}", "[ -~]{0,255}"), 0..20)
        ) {
            let mut text = Builder::new();
            for (key, value) in &given {
                text.push(key, value);
            }
            prop_assert_eq!(pairs(&text.into_bytes()).unwrap(), given);
        }

        #[test]
        fn pieces_put_together_are_the_text(
            text in proptest::collection::vec(any::<u8>(), 0..300), len_max in 0_usize..40
        ) {
            let mut pieces = Pieces::new(text.clone());
            let mut whole = Vec::new();
            loop {
                let (piece, more) = pieces.next(len_max);
                prop_assert!(piece.len() <= len_max.max(1));
                whole.extend_from_slice(piece);
                if !more {
                    break;
                }
            }
            prop_assert_eq!(whole, text);
        }
    }
}
