//! The receive buffer and the PDU finder (RFC 7143 11.2): ranges into one buffer, no copy. Pure.
//!
//! A data segment that is not whole in the buffer and is large enough is handed out header first, so that
//! the rest of it can be read straight to where it belongs.

use std::ops::Range;

use super::pdu::{BHS_BYTES, Bhs, op};
use crate::limits;

/// Bytes of a digest.
const DIGEST: usize = 4;

/// What the buffer holds next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Not enough for anything.
    More,
    /// A whole PDU.
    Whole(Frame),
    /// A header whose data segment is still coming.
    Head(Frame),
    /// Bytes that are no PDU: the connection cannot go on.
    Broken(&'static str),
}

/// A PDU in the buffer; valid until the next call of `space`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) bhs: Bhs,
    pub(super) ahs: Range<usize>,
    /// Data segment, without padding; empty in a `Head`.
    pub(super) data: Range<usize>,
    /// The data digest was right, or there is none.
    pub(super) intact: bool,
}

/// The buffer.
#[derive(Debug)]
pub(super) struct Rx {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that the PDU at `start` needs in all.
    wanted: usize,
    crowded: bool,
    header_digest: bool,
    data_digest: bool,
    data_max: u32,
    direct: bool,
}

impl Rx {
    /// For the login phase: no digests, small data segments.
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; limits::RECEIVE_START],
            start: 0,
            end: 0,
            wanted: 0,
            crowded: false,
            header_digest: false,
            data_digest: false,
            data_max: 8192,
            direct: false,
        }
    }

    /// The full feature phase begins with the next PDU.
    pub(super) const fn full_feature(&mut self, header_digest: bool, data_digest: bool) {
        self.header_digest = header_digest;
        self.data_digest = data_digest;
        self.data_max = limits::TARGET_MRDSL;
        self.direct = true;
    }

    /// Free memory to read into; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        let mut size = self.bytes.len();
        if self.crowded && size < limits::RECEIVE_MAX {
            size = (size * 4).min(limits::RECEIVE_MAX);
        }
        self.crowded = false;
        size = size.max(self.wanted);
        if self.start > 0 && (self.end == self.bytes.len() || self.start + self.wanted > size) {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == size {
            size = size.saturating_mul(2).min(limits::RECEIVE_MAX);
        }
        if size > self.bytes.len() {
            self.bytes.resize(size, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// `n` bytes were read into `space`.
    pub(super) fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
        self.crowded = self.end == self.bytes.len();
    }

    /// The bytes of a range of a frame.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Takes up to `n` bytes of a data segment whose header was handed out.
    pub(super) fn take(&mut self, n: usize) -> &[u8] {
        let n = n.min(self.end - self.start);
        let taken = &self.bytes[self.start..self.start + n];
        self.start += n;
        taken
    }

    /// Bytes that wait.
    pub(super) const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Padding of a data segment.
    pub(super) const fn padding(len: usize) -> usize {
        len.wrapping_neg() % 4
    }

    /// Padding and digest behind a data segment of `len` bytes, which is not empty.
    pub(super) const fn trailer(&self, len: usize) -> usize {
        let digest = if self.data_digest { DIGEST } else { 0 };
        Self::padding(len) + digest
    }

    /// Checks a data segment that was read elsewhere against its trailer.
    pub(super) fn is_intact(&self, data: &[u8], trailer: &[u8]) -> bool {
        if !self.data_digest {
            return true;
        }
        let Some((padding, digest)) = trailer.split_last_chunk::<DIGEST>() else {
            return false;
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(data), padding);
        crc.to_le_bytes() == *digest
    }

    /// What comes next; consumes it.
    pub(super) fn next(&mut self) -> Found {
        self.wanted = BHS_BYTES;
        let waiting = &self.bytes[self.start..self.end];
        let Some(bhs) = waiting.first_chunk::<BHS_BYTES>() else {
            return Found::More;
        };
        let bhs = Bhs(*bhs);
        if bhs.data_len() > self.data_max {
            return Found::Broken("data segment longer than declared");
        }
        let ahs = BHS_BYTES..BHS_BYTES + bhs.ahs_len();
        let head = ahs.end + if self.header_digest { DIGEST } else { 0 };
        let data_len = bhs.data_len() as usize;
        let trailer = if data_len == 0 {
            0
        } else {
            self.trailer(data_len)
        };
        let whole = head + data_len + trailer;
        self.wanted = whole;
        if waiting.len() < head {
            return Found::More;
        }
        let splits = self.direct
            && waiting.len() < whole
            && bhs.data_len() >= limits::DIRECT_BYTES_MIN
            && matches!(bhs.opcode(), op::SCSI_COMMAND | op::DATA_OUT);
        if waiting.len() < whole && !splits {
            return Found::More;
        }
        if self.header_digest {
            let crc = crc32c::crc32c(&waiting[..ahs.end]);
            if crc.to_le_bytes() != waiting[ahs.end..head] {
                return Found::Broken("header digest error");
            }
        }
        let base = self.start;
        let mut frame = Frame {
            bhs,
            ahs: base + ahs.start..base + ahs.end,
            data: 0..0,
            intact: true,
        };
        self.wanted = 0;
        if splits {
            self.start = base + head;
            return Found::Head(frame);
        }
        let data = base + head..base + head + data_len;
        frame.intact = data_len == 0
            || self.is_intact(
                &self.bytes[data.clone()],
                &self.bytes[data.end..base + whole],
            );
        frame.data = data;
        self.start = base + whole;
        Found::Whole(frame)
    }

    /// Gives the memory of a burst back.
    pub(super) fn shrink(&mut self) {
        if self.start == self.end && self.bytes.len() > limits::RECEIVE_START {
            self.bytes = vec![0; limits::RECEIVE_START];
            self.start = 0;
            self.end = 0;
        }
    }
}

#[cfg(test)]
mod test {
    use super::super::connection::{Data, Pdu};
    use super::super::tx::Tx;
    use super::*;
    use proptest::prelude::*;
    use std::io::IoSlice;

    fn wire(pdus: &[(u8, Vec<u8>)], header_digest: bool, data_digest: bool) -> Vec<u8> {
        let mut tx = Tx::new(header_digest, data_digest);
        for (opcode, data) in pdus {
            let mut header = Bhs::new(*opcode);
            header.set_data_len(u32::try_from(data.len()).unwrap());
            let data = if data.is_empty() {
                Data::None
            } else {
                Data::Inline(data.clone())
            };
            tx.push(Pdu { header, data });
        }
        let mut all = Vec::new();
        while !tx.is_empty() {
            let mut slices = [IoSlice::new(&[]); limits::SEND_BATCH_SLICES];
            let count = tx.slices(&mut slices);
            let before = all.len();
            for slice in &slices[..count] {
                all.extend_from_slice(slice);
            }
            let sent = all.len() - before;
            tx.sent(sent);
        }
        all
    }

    /// Reads `stream` in chunks through an `Rx` and gives back every PDU.
    fn read_all(rx: &mut Rx, stream: &[u8], chunk: usize) -> Vec<(u8, Vec<u8>, bool)> {
        let mut found = Vec::new();
        let mut rest = stream;
        loop {
            match rx.next() {
                Found::Whole(f) => {
                    found.push((f.bhs.opcode(), rx.bytes(f.data).to_vec(), f.intact));
                }
                Found::Head(f) => {
                    let len = f.bhs.data_len() as usize;
                    let mut data = Vec::new();
                    let mut trailer = Vec::new();
                    let tail = rx.trailer(len);
                    while data.len() < len || trailer.len() < tail {
                        if rx.len() == 0 {
                            feed(rx, &mut rest, chunk);
                        }
                        let left = len - data.len();
                        data.extend_from_slice(rx.take(left));
                        if data.len() == len {
                            let left = tail - trailer.len();
                            trailer.extend_from_slice(rx.take(left));
                        }
                    }
                    let intact = rx.is_intact(&data, &trailer);
                    found.push((f.bhs.opcode(), data, intact));
                }
                Found::More if rest.is_empty() => return found,
                Found::More => feed(rx, &mut rest, chunk),
                Found::Broken(why) => panic!("{why}"),
            }
        }
    }

    fn feed(rx: &mut Rx, rest: &mut &[u8], chunk: usize) {
        let space = rx.space();
        let n = space.len().min(chunk).min(rest.len());
        space[..n].copy_from_slice(&rest[..n]);
        rx.filled(n);
        *rest = &rest[n..];
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn what_is_sent_is_found_however_it_is_cut(
            lens in prop::collection::vec(0usize..20_000, 1..12),
            chunk in 1usize..70_000,
            digests in any::<(bool, bool)>(),
        ) {
            let ops = [op::SCSI_COMMAND, op::DATA_OUT, op::NOP_OUT];
            let pdus: Vec<_> = lens
                .iter()
                .enumerate()
                .map(|(i, &len)| (ops[i % 3], vec![u8::try_from(i).unwrap(); len]))
                .collect();
            let mut rx = Rx::new();
            rx.full_feature(digests.0, digests.1);
            let chunk = if chunk % 7 == 0 { 1 + chunk % 50 } else { chunk };
            let found = read_all(&mut rx, &wire(&pdus, digests.0, digests.1), chunk);
            let expected: Vec<_> = pdus.into_iter().map(|(o, d)| (o, d, true)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn digests_are_those_of_rfc_3720() {
        assert_eq!(
            crc32c::crc32c(&[0; 32]).to_le_bytes(),
            [0xaa, 0x36, 0x91, 0x8a]
        );
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let pdus = [(op::NOP_OUT, vec![1, 2, 3])];
        let good = wire(&pdus, true, true);
        assert_eq!(good.len(), 48 + 4 + 4 + 4);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let mut rx = Rx::new();
            rx.full_feature(true, true);
            rx.space()[..bad.len()].copy_from_slice(&bad);
            rx.filled(bad.len());
            match rx.next() {
                Found::Broken(_) => assert!(at < 52, "byte {at}"),
                Found::Whole(frame) => assert!(!frame.intact && at >= 52, "byte {at}"),
                // The changed length asks for more than is there: the digest is checked when it comes.
                Found::More | Found::Head(_) => assert!((4..8).contains(&at), "byte {at}"),
            }
        }
    }

    #[test]
    fn long_segments_are_refused_before_any_memory_is_taken() {
        let mut rx = Rx::new();
        let mut header = Bhs::new(op::LOGIN);
        header.set_data_len(8193);
        rx.space()[..48].copy_from_slice(&header.0);
        rx.filled(48);
        assert!(matches!(rx.next(), Found::Broken(_)));
        assert_eq!(rx.bytes.len(), limits::RECEIVE_START);
    }

    #[test]
    fn the_buffer_grows_under_load_and_shrinks_when_quiet() {
        let mut rx = Rx::new();
        rx.full_feature(false, false);
        let stream = wire(&vec![(op::NOP_OUT, vec![0; 4096]); 300], false, false);
        assert_eq!(read_all(&mut rx, &stream, usize::MAX).len(), 300);
        assert_eq!(rx.bytes.len(), limits::RECEIVE_MAX);
        rx.shrink();
        assert_eq!(rx.bytes.len(), limits::RECEIVE_START);
    }
}
