//! TransportIDs of iSCSI: how a parameter list names an initiator (SPC-4 7.6.4.6).
//!
//! ```text
//!   byte 0        1        2..4               4..
//!   FORMAT | 5h   0        ADDITIONAL LENGTH  name, NUL, padded to a multiple of 4
//!   00b: the device, `iqn...`    01b: one port, `iqn...,i,0x<ISID, 12 digits>`
//! ```

use crate::names::Iqn;

use super::inquiry;
use super::sense::Sense;

/// PROTOCOL IDENTIFIER of iSCSI.
const ISCSI: u8 = 0x05;
const FORMAT_DEVICE: u8 = 0x00;
const FORMAT_PORT: u8 = 0x40;
const HEADER_LEN: usize = 4;
/// Least ADDITIONAL LENGTH.
const NAME_LEN_MIN: usize = 20;
/// Between name and ISID of a port.
const SEPARATOR: &str = ",i,0x";
const ISID_DIGITS: usize = 12;

/// Whom a TransportID names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Initiator {
    /// All ports of this name.
    Device(String),
    /// This port.
    Port(String),
}

impl Initiator {
    /// True for the port `port`.
    pub(super) fn is(&self, port: &str) -> bool {
        match self {
            Self::Port(own) => own == port,
            Self::Device(name) => port
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.starts_with(SEPARATOR)),
        }
    }
}

/// All TransportIDs of `list`, which begins at byte `at` of the parameter list.
pub(super) fn parse_all(mut list: &[u8], mut at: usize) -> Result<Vec<Initiator>, Sense> {
    let mut found = Vec::new();
    while !list.is_empty() {
        let (initiator, rest) = parse(list, at)?;
        at += list.len() - rest.len();
        list = rest;
        found.push(initiator);
    }
    Ok(found)
}

/// The first TransportID of `list`, which begins at byte `at` of the parameter list, and what follows it.
fn parse(list: &[u8], at: usize) -> Result<(Initiator, &[u8]), Sense> {
    let wrong = |offset: usize| Sense::list_field(u16::try_from(at + offset).unwrap_or(0), None);
    let (header, rest) = list
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(Sense::LIST_LENGTH)?;
    let [code, _, hi, lo] = *header;
    if code & 0x0F != ISCSI {
        return Err(wrong(0));
    }
    let len = usize::from(u16::from_be_bytes([hi, lo]));
    if len < NAME_LEN_MIN || !len.is_multiple_of(4) {
        return Err(wrong(2));
    }
    let (name, rest) = rest.split_at_checked(len).ok_or(Sense::LIST_LENGTH)?;
    let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.len() == name.len() {
        // No NUL at its end.
        return Err(wrong(HEADER_LEN));
    }
    let text = std::str::from_utf8(text).map_err(|_| wrong(HEADER_LEN))?;
    let initiator = match code & 0xC0 {
        FORMAT_DEVICE => Iqn::parse(text)
            .ok()
            .map(|n| Initiator::Device(n.to_string())),
        FORMAT_PORT => port_name(text).map(Initiator::Port),
        _ => return Err(wrong(0)),
    };
    Ok((initiator.ok_or(wrong(HEADER_LEN))?, rest))
}

/// `text` as a session's port is called: lower case, twelve digits.
fn port_name(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let (name, isid) = text.split_once(SEPARATOR)?;
    let name = Iqn::parse(name).ok()?;
    let is_isid = isid.len() == ISID_DIGITS && isid.bytes().all(|b| b.is_ascii_hexdigit());
    is_isid.then(|| format!("{name}{SEPARATOR}{isid}"))
}

/// The TransportID of a port.
pub(super) fn encode(port: &str) -> Result<Vec<u8>, Sense> {
    let mut name = inquiry::name(port);
    name.resize(name.len().max(NAME_LEN_MIN), 0);
    let len = u16::try_from(name.len()).map_err(|_| Sense::INTERNAL)?;
    let mut bytes = vec![FORMAT_PORT | ISCSI, 0];
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&name);
    Ok(bytes)
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    const PORT: &str = "iqn.2026-11.test:a,i,0x00023d000001";

    fn with(format: u8, text: &str) -> Vec<u8> {
        let mut bytes = encode(text).unwrap();
        bytes[0] = format;
        bytes
    }

    #[test]
    fn what_is_encoded_is_understood() {
        let two = [encode(PORT).unwrap(), with(0x05, "iqn.2026-11.test:a")].concat();
        let found = parse_all(&two, 28).unwrap();
        let expected = [
            Initiator::Port(PORT.into()),
            Initiator::Device("iqn.2026-11.test:a".into()),
        ];
        assert_eq!(found, expected);
        assert!(found.iter().all(|initiator| initiator.is(PORT)));
        assert!(!found[1].is("iqn.2026-11.test:ab,i,0x00023d000001"));
    }

    #[test]
    fn names_are_normalised() {
        let loud = encode("IQN.2026-11.Test:A,I,0X00023D000001").unwrap();
        assert_eq!(parse_all(&loud, 0).unwrap(), [Initiator::Port(PORT.into())]);
    }

    #[test]
    fn short_names_are_padded_to_the_least_length() {
        assert_eq!(encode("iqn.a").unwrap().len(), 24);
    }

    #[test]
    fn wrong_ids_are_refused_with_their_place() {
        let field = |at| Err(Sense::list_field(at, None));
        let cases = [
            (with(0x46, PORT), field(28)),
            (with(0x85, PORT), field(28)),
            (with(0x05, PORT), field(32)),
            (with(0x45, "iqn.2026-11.test:abcdef"), field(32)),
            (with(0x45, "iqn.2026-11.test:a,i,0x00023d00000g"), field(32)),
            (with(0x45, "iqn.2026-11.test:a,i,0x023d000001"), field(32)),
            (vec![0x45, 0, 0, 16, 0, 0, 0, 0], field(30)),
            (vec![0x45, 0, 0, 21, 0, 0, 0, 0], field(30)),
            (vec![0x45, 0, 0], Err(Sense::LIST_LENGTH)),
            ([&[0x45, 0, 0, 20][..], &[b'i'; 20]].concat(), field(32)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse_all(&bytes, 28), expected, "{bytes:02x?}");
        }
        let whole = encode(PORT).unwrap();
        for cut in 1..whole.len() {
            assert_eq!(parse_all(&whole[..cut], 0), Err(Sense::LIST_LENGTH));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_all(&bytes, 24);
        }
    }
}
