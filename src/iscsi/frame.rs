//! The shape of a PDU on the wire (RFC 7143 11.1, 11.2): header, additional header segments, padding,
//! digests. Both sides use it: the target and the initiator of this crate.
//!
//! Never does I/O and never copies a data segment. `rx.rs` keeps received bytes and asks the [`Decoder`]
//! what they are; `tx.rs` keeps what is to be sent and asks the [`Encoder`] what goes around it.
//!
//! ```text
//!  BHS 48 | AHS 4 x n | header digest 0/4 | data | pad 0..3 | data digest 0/4
//!  '--------- header_len --------------'  '------ data_len + trailer_len ---'
//! ```
//!
//! Every length is checked against the limit in force before anyone makes room for it.

use std::ops::Range;

use super::params::Negotiated;
use super::pdu::{BHS_BYTES, Bhs, op};
use crate::limits::TEXT_CHAIN_MAX;

/// Bytes in a digest.
const DIGEST_BYTES: usize = 4;
/// [`TEXT_CHAIN_MAX`] as the header counts it.
#[expect(clippy::cast_possible_truncation, reason = "8 KiB")]
const LOGIN_DATA_MAX: u32 = TEXT_CHAIN_MAX as u32;
/// Largest AHS: 255 words (RFC 7143 11.2.1.5).
pub const AHS_BYTES_MAX: usize = 255 * 4;

/// A header with its digest, without AHS.
pub const HEADER_BYTES_MAX: usize = BHS_BYTES + DIGEST_BYTES;
/// Longest padding with a digest.
pub const TRAILER_BYTES_MAX: usize = 3 + DIGEST_BYTES;

/// Bytes that fill `len` up to the next multiple of four.
#[must_use]
pub const fn pad_len(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// What the next PDUs must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    /// A CRC32C follows each header.
    pub header_digest: bool,
    /// A CRC32C follows each data segment that is not empty.
    pub data_digest: bool,
    /// Largest DataSegmentLength.
    pub data_max: u32,
    /// Largest AHS in bytes.
    pub ahs_max: usize,
    /// When set, the only byte a PDU may begin with.
    pub first_byte: Option<u8>,
}

impl Decoder {
    /// A target's rules before and during login: login requests only, no AHS, no digests, 8 KiB.
    #[must_use]
    pub const fn login() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            data_max: LOGIN_DATA_MAX,
            ahs_max: 0,
            first_byte: Some(op::LOGIN | 0x40),
        }
    }

    /// A target's rules after login.
    #[must_use]
    pub fn full_feature(agreed: &Negotiated) -> Self {
        Self {
            header_digest: agreed.header_digest,
            data_digest: agreed.data_digest,
            data_max: agreed.target_mrdsl,
            ahs_max: AHS_BYTES_MAX,
            first_byte: None,
        }
    }

    /// How much is needed of the PDU that `bytes` begins with, or its header once that is complete.
    pub fn head(&self, bytes: &[u8]) -> Result<Headed, Violation> {
        if let (Some(wanted), Some(&found)) = (self.first_byte, bytes.first())
            && wanted != found
        {
            return Err(Violation::Unexpected(found));
        }
        let Some((&bhs, rest)) = bytes.split_first_chunk::<BHS_BYTES>() else {
            return Ok(Headed::Need(BHS_BYTES));
        };
        let bhs = Bhs(bhs);
        if bhs.data_len() > self.data_max {
            return Err(Violation::DataTooLong(bhs.data_len(), self.data_max));
        }
        let ahs_len = bhs.ahs_len();
        if ahs_len > self.ahs_max {
            return Err(Violation::AhsTooLong(ahs_len));
        }
        let digest_len = if self.header_digest { DIGEST_BYTES } else { 0 };
        if rest.len() < ahs_len + digest_len {
            return Ok(Headed::Need(BHS_BYTES + ahs_len + digest_len));
        }
        if self.header_digest {
            let (covered, rest) = bytes.split_at(BHS_BYTES + ahs_len);
            if !rest.starts_with(&crc32c::crc32c(covered).to_le_bytes()) {
                return Err(Violation::HeaderDigest);
            }
        }
        Ok(Headed::Ready(Head {
            bhs,
            ahs_len,
            header_len: BHS_BYTES + ahs_len + digest_len,
            data_digest: self.data_digest && bhs.data_len() > 0,
        }))
    }
}

/// What [`Decoder::head`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headed {
    /// The buffer must hold this many bytes, counted from the PDU's first.
    Need(usize),
    /// The header is complete and sound.
    Ready(Head),
}

/// Why the stream cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Only login requests may come now.
    #[error("a PDU that begins with {0:#04x} came where only a login PDU may come")]
    Unexpected(u8),
    /// DataSegmentLength is above what we declared.
    #[error("DataSegmentLength {0} is above the limit of {1}")]
    DataTooLong(u32, u32),
    /// An AHS where there may be none.
    #[error("an AHS of {0} bytes came where none is allowed")]
    AhsTooLong(usize),
    /// RFC 7143 7.8: after a header digest error PDU boundaries are unknown.
    #[error("the header digest does not match")]
    HeaderDigest,
}

/// A complete header; its data segment may still be on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The basic header segment.
    pub bhs: Bhs,
    ahs_len: usize,
    header_len: usize,
    data_digest: bool,
}

impl Head {
    /// Where the AHS lies, counted from the PDU's first byte.
    #[must_use]
    pub const fn ahs(&self) -> Range<usize> {
        BHS_BYTES..BHS_BYTES + self.ahs_len
    }

    /// Where the data segment lies, without padding.
    #[must_use]
    pub const fn data(&self) -> Range<usize> {
        self.header_len..self.header_len + self.data_len()
    }

    /// Bytes of the data segment, without padding.
    #[must_use]
    pub const fn data_len(&self) -> usize {
        self.bhs.data_len() as usize
    }

    /// Bytes of padding and data digest.
    #[must_use]
    pub const fn trailer_len(&self) -> usize {
        pad_len(self.data_len()) + if self.data_digest { DIGEST_BYTES } else { 0 }
    }

    /// Bytes of the whole PDU.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.header_len + self.data_len() + self.trailer_len()
    }

    /// True when the data digest matches, or there is none. `trailer` is the padding with the digest.
    #[must_use]
    pub fn is_intact(&self, data: &[u8], trailer: &[u8]) -> bool {
        if !self.data_digest {
            return true;
        }
        let Some((pad, digest)) = trailer.split_last_chunk::<DIGEST_BYTES>() else {
            return false;
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(data), pad);
        crc.to_le_bytes() == *digest
    }
}

/// At most `N` bytes, on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Short<N> {
    const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    fn push(&mut self, more: &[u8]) {
        let end = self.len + more.len();
        self.bytes[self.len..end].copy_from_slice(more);
        self.len = end;
    }
}

impl<const N: usize> std::ops::Deref for Short<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// How PDUs are put on the wire. A vectored write sends `header`, the data pieces, `trailer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encoder {
    /// A CRC32C follows each header.
    pub header_digest: bool,
    /// A CRC32C follows each data segment that is not empty.
    pub data_digest: bool,
}

impl Encoder {
    /// After login.
    #[must_use]
    pub fn full_feature(agreed: &Negotiated) -> Self {
        Self {
            header_digest: agreed.header_digest,
            data_digest: agreed.data_digest,
        }
    }

    /// The header, with its digest when there is one. DataSegmentLength must be set; there is no AHS.
    #[must_use]
    pub fn header(&self, bhs: &Bhs) -> Short<HEADER_BYTES_MAX> {
        let mut out = Short::new();
        out.push(&bhs.0);
        if self.header_digest {
            out.push(&crc32c::crc32c(&bhs.0).to_le_bytes());
        }
        out
    }

    /// What follows `len` bytes of data: padding, and the digest over data and padding (RFC 7143
    /// 11.2.3). The data itself is looked at only for a digest.
    #[must_use]
    pub fn trailer<'a>(
        &self,
        len: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Short<TRAILER_BYTES_MAX> {
        let mut out = Short::new();
        let (pad, _) = [0; 3].split_at(pad_len(len));
        out.push(pad);
        if self.data_digest && len > 0 {
            let append = |crc, piece: &[u8]| crc32c::crc32c_append(crc, piece);
            let crc = pieces.into_iter().fold(0, append);
            out.push(&crc32c::crc32c_append(crc, pad).to_le_bytes());
        }
        out
    }

    /// Appends a whole PDU; sets DataSegmentLength and TotalAHSLength. `ahs` is padded to words and has
    /// at most [`AHS_BYTES_MAX`] bytes, `data` is below 16 MiB: callers split first.
    pub fn pdu(&self, mut bhs: Bhs, ahs: &[u8], data: &[u8], out: &mut Vec<u8>) {
        let words = u8::try_from(ahs.len().div_ceil(4)).expect("an AHS of at most 255 words");
        bhs.put_u8(4, words);
        bhs.set_data_len(u32::try_from(data.len()).expect("a data segment below 16 MiB"));
        let start = out.len();
        out.extend_from_slice(&bhs.0);
        out.extend_from_slice(ahs);
        out.resize(out.len() + pad_len(ahs.len()), 0);
        if self.header_digest {
            let crc = crc32c::crc32c(out.get(start..).unwrap_or_default());
            out.extend_from_slice(&crc.to_le_bytes());
        }
        out.extend_from_slice(data);
        out.extend_from_slice(&self.trailer(data.len(), [data]));
    }
}

/// One additional header segment (RFC 7143 11.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahs<'a> {
    /// AHSType: 1 extended CDB, 2 bidirectional read length.
    pub kind: u8,
    /// AHSLength bytes: the reserved byte and what follows the type.
    pub body: &'a [u8],
}

/// AHSType of an extended CDB; its body is a reserved byte, then CDB bytes 16 and on.
pub const AHS_EXTENDED_CDB: u8 = 1;
/// AHSType of a bidirectional read length; its body is a reserved byte, then 32 bits.
pub const AHS_BIDIRECTIONAL: u8 = 2;

/// Walks the segments of an AHS; `None` when a length is zero or runs past the end (Reject 0x09).
#[must_use]
pub fn walk_ahs(mut bytes: &[u8]) -> Option<Vec<Ahs<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (&[high, low, kind], rest) = bytes.split_first_chunk::<3>()?;
        let len = usize::from(u16::from_be_bytes([high, low]));
        let (body, rest) = rest.split_at_checked(len)?;
        if len == 0 {
            return None;
        }
        found.push(Ahs { kind, body });
        bytes = rest.get(pad_len(3 + len)..)?;
    }
    Some(found)
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn rules(header_digest: bool, data_digest: bool) -> Decoder {
        Decoder::full_feature(&Negotiated {
            header_digest,
            data_digest,
            target_mrdsl: 1 << 16,
            ..Negotiated::default()
        })
    }

    fn encoded(header_digest: bool, data_digest: bool, ahs: &[u8], data: &[u8]) -> Vec<u8> {
        let encoder = Encoder {
            header_digest,
            data_digest,
        };
        let mut bhs = Bhs::new(op::SCSI_COMMAND);
        bhs.put_u32(16, 0x1234);
        let mut out = Vec::new();
        encoder.pdu(bhs, ahs, data, &mut out);
        out
    }

    /// The header, if it is complete and sound.
    fn head(decoder: Decoder, bytes: &[u8]) -> Option<Head> {
        match decoder.head(bytes) {
            Ok(Headed::Ready(head)) => Some(head),
            _ => None,
        }
    }

    fn is_intact(head: &Head, bytes: &[u8]) -> bool {
        head.is_intact(&bytes[head.data()], &bytes[head.data().end..head.total()])
    }

    #[test]
    fn crc32c_matches_the_vectors_of_rfc_3720_b4() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        let read10 = [
            0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0, 0,
            0, 0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
        ];
        let vectors: [(&[u8], [u8; 4]); 5] = [
            (&[0; 32], [0xaa, 0x36, 0x91, 0x8a]),
            (&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            (&up, [0x4e, 0x79, 0xdd, 0x46]),
            (&down, [0x5c, 0xdb, 0x3f, 0x11]),
            (&read10, [0x56, 0x3a, 0x96, 0xd9]),
        ];
        for (bytes, on_the_wire) in vectors {
            assert_eq!(crc32c::crc32c(bytes).to_le_bytes(), on_the_wire);
        }
        let encoder = Encoder {
            header_digest: true,
            data_digest: true,
        };
        assert_eq!(encoder.header(&Bhs(read10))[48..], [0x56, 0x3a, 0x96, 0xd9]);
        let (a, b) = up.split_at(13);
        assert_eq!(encoder.trailer(32, [a, b])[..], [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn whole_pdus_yield_ranges_without_padding() {
        let bytes = encoded(true, true, &[0, 1, 1, 0], b"hello");
        assert_eq!(bytes.len(), 48 + 4 + 4 + 8 + 4);
        let head = head(rules(true, true), &bytes).unwrap();
        assert_eq!(&bytes[head.data()], b"hello");
        assert_eq!(&bytes[head.ahs()], [0, 1, 1, 0]);
        assert_eq!(head.total(), bytes.len());
        assert!(is_intact(&head, &bytes));
        assert!(!head.is_intact(b"hello", &bytes[head.data().end..head.total() - 1]));
        assert_eq!(head.bhs.itt(), 0x1234);
    }

    #[test]
    fn an_empty_data_segment_has_no_digest() {
        let bytes = encoded(false, true, &[], &[]);
        assert_eq!(bytes.len(), 48);
        let head = head(rules(false, true), &bytes).unwrap();
        assert_eq!((head.total(), is_intact(&head, &bytes)), (48, true));
    }

    #[test]
    fn lengths_are_refused_before_any_more_is_needed() {
        let mut bhs = Bhs::new(op::LOGIN | 0x40);
        bhs.set_data_len(8193);
        assert_eq!(
            Decoder::login().head(&bhs.0),
            Err(Violation::DataTooLong(8193, 8192))
        );
        bhs.set_data_len(8192);
        assert_eq!(head(Decoder::login(), &bhs.0).unwrap().total(), 48 + 8192);
        bhs.put_u8(4, 255);
        assert_eq!(
            Decoder::login().head(&bhs.0),
            Err(Violation::AhsTooLong(1020))
        );
        bhs.set_data_len((1 << 24) - 1);
        assert!(rules(false, false).head(&bhs.0).is_err());
    }

    #[test]
    fn strangers_are_refused_at_their_first_byte() {
        let hellos: [&[u8]; 4] = [&[0x16, 3, 1], b"GET / HTTP/1.1", &[0x03], &[0x00]];
        for hello in hellos {
            let found = hello[0];
            assert_eq!(
                Decoder::login().head(hello),
                Err(Violation::Unexpected(found))
            );
        }
        assert_eq!(Decoder::login().head(&[0x43]), Ok(Headed::Need(48)));
        assert_eq!(Decoder::login().head(&[]), Ok(Headed::Need(48)));
    }

    #[test]
    fn a_flipped_header_bit_breaks_the_stream() {
        let good = encoded(true, false, &[0, 1, 1, 0], b"data");
        for bit in 0..(52 + 4) * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = rules(true, false).head(&bytes);
            assert!(
                !matches!(found, Ok(Headed::Ready(_))),
                "bit {bit}: {found:?}"
            );
        }
    }

    #[test]
    fn a_flipped_data_bit_is_told_and_the_framing_stays() {
        let good = encoded(false, true, &[], b"seven b");
        for bit in 48 * 8..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let head = head(rules(false, true), &bytes).unwrap();
            assert_eq!(head.total(), good.len());
            assert!(!is_intact(&head, &bytes), "bit {bit}");
        }
    }

    #[test]
    fn ahs_lengths_that_lie_are_refused() {
        assert_eq!(walk_ahs(&[]), Some(vec![]));
        let two = [0, 1, 2, 9, 0, 5, 1, 0, 1, 2, 3, 4];
        let found = walk_ahs(&two).unwrap();
        assert_eq!((found[0].kind, found[0].body), (2, &[9][..]));
        assert_eq!((found[1].kind, found[1].body), (1, &[0, 1, 2, 3, 4][..]));
        let lies: [&[u8]; 4] = [&[0, 0, 1, 0], &[0, 2, 1, 0], &[255, 255, 1, 0], &[0, 1]];
        for lie in lies {
            assert_eq!(walk_ahs(lie), None);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_need_more_than_the_limits(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), header: bool, data: bool
        ) {
            for decoder in [rules(header, data), Decoder::login()] {
                match decoder.head(&bytes) {
                    Ok(Headed::Need(total)) => {
                        prop_assert!(total > bytes.len());
                        prop_assert!(total <= HEADER_BYTES_MAX + AHS_BYTES_MAX);
                    }
                    Ok(Headed::Ready(head)) => {
                        prop_assert!(head.data_len() <= 1 << 16);
                        prop_assert!(head.ahs().len() <= AHS_BYTES_MAX);
                    }
                    Err(_) => {}
                }
            }
            let _ = walk_ahs(&bytes);
        }
    }
}
