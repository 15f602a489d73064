//! The receive buffer of both sides: PDUs as ranges into one buffer, no copy. What a PDU looks like is
//! said by `frame.rs`. Pure.
//!
//! A data segment that is not whole in the buffer and is large enough is handed out header first when the
//! reader wants it so: the rest of it can then be read straight to where it belongs.
//!
//! There is memory only while there are bytes: `rest` gives it back to its thread between two PDUs.

use std::ops::Range;

use super::frame::{Decoder, Head, Headed, Violation};
use super::pdu::{BHS_BYTES, Bhs, op};
use super::spare;
use crate::limits;

/// What the buffer holds next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Not enough for anything.
    More,
    /// A whole PDU.
    Whole(Frame),
    /// A header whose data segment is still coming, and where its AHS lies.
    Head(Head, Range<usize>),
    /// Bytes that are no PDU: the connection cannot go on.
    Broken(Violation),
}

/// A PDU in the buffer; valid until the next call of `space`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) bhs: Bhs,
    pub(super) ahs: Range<usize>,
    /// Data segment, without padding.
    pub(super) data: Range<usize>,
    /// The data digest was right, or there is none.
    pub(super) intact: bool,
}

/// The buffer.
#[derive(Debug)]
pub(super) struct Rx {
    /// Empty while there is nothing to hold.
    bytes: Vec<u8>,
    /// Bytes that it takes when it reads.
    size: usize,
    start: usize,
    end: usize,
    /// Bytes that the PDU at `start` needs in all.
    wanted: usize,
    crowded: bool,
    /// It grows so far under load; one PDU may still need more.
    size_max: usize,
    decoder: Decoder,
    direct: bool,
}

impl Rx {
    /// Expects PDUs as `decoder` says; whole ones only.
    pub(super) const fn new(decoder: Decoder, size_max: usize) -> Self {
        Self::sized(decoder, smaller(limits::RECEIVE_START, size_max), size_max)
    }

    /// For a stranger: room for a usual login request, and for the rest of a longer PDU only when its header was
    /// accepted.
    pub(super) const fn frugal(decoder: Decoder) -> Self {
        Self::sized(decoder, limits::RECEIVE_STRANGER, limits::RECEIVE_STRANGER)
    }

    const fn sized(decoder: Decoder, size: usize, size_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            size,
            start: 0,
            end: 0,
            wanted: BHS_BYTES,
            crowded: false,
            size_max,
            decoder,
            direct: false,
        }
    }

    /// Other rules begin with the next PDU.
    pub(super) const fn expect(&mut self, decoder: Decoder) {
        self.decoder = decoder;
    }

    /// From now on large segments of SCSI commands and Data-Out are handed out header first.
    pub(super) const fn hand_out_heads(&mut self) {
        self.direct = true;
    }

    /// From now on it may grow to `size_max` under load, and shrinks to it when it is empty.
    pub(super) const fn grow_to(&mut self, size_max: usize) {
        // That the small buffer of a stranger was full says nothing about load.
        self.crowded = self.crowded && self.size >= limits::RECEIVE_START;
        self.size_max = size_max;
        let least = smaller(limits::RECEIVE_START, size_max);
        let size = smaller(self.size, size_max);
        self.size = if size < least { least } else { size };
    }

    /// Bytes of memory it has, and how many it must have for the PDU that is coming.
    pub(super) fn memory(&self) -> (usize, usize) {
        (self.bytes.len(), self.wanted.max(self.bytes.len()))
    }

    /// Free memory to read into; never empty.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        if self.crowded && self.size < self.size_max {
            self.size = (self.size * 4).min(self.size_max);
        }
        self.crowded = false;
        let mut size = self.size.max(self.wanted).max(self.bytes.len());
        if self.start > 0 && (self.end == self.bytes.len() || self.start + self.wanted > size) {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == size {
            size = size.saturating_mul(2);
        }
        if size > self.bytes.len() {
            self.enlarge(size);
        }
        &mut self.bytes[self.end..]
    }

    fn enlarge(&mut self, size: usize) {
        let mut larger = spare::take(size);
        if let Some(all) = larger.get_mut(..self.end) {
            all.copy_from_slice(&self.bytes[..self.end]);
        }
        spare::give(std::mem::replace(&mut self.bytes, larger));
    }

    /// Nothing more is read now: without bytes it needs no memory.
    pub(super) fn rest(&mut self) {
        if self.start == self.end && !self.bytes.is_empty() {
            spare::give(std::mem::take(&mut self.bytes));
            self.start = 0;
            self.end = 0;
        }
    }

    /// The header that comes next, if all of it is here.
    pub(super) fn header(&self) -> Option<&[u8; BHS_BYTES]> {
        self.bytes.get(self.start..self.end)?.first_chunk()
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

    /// What comes next; consumes it.
    pub(super) fn next(&mut self) -> Found {
        let waiting = &self.bytes[self.start..self.end];
        let head = match self.decoder.head(waiting) {
            Err(violation) => return Found::Broken(violation),
            Ok(Headed::Need(len)) => {
                self.wanted = len;
                return Found::More;
            }
            Ok(Headed::Ready(head)) => head,
        };
        let base = self.start;
        let ahs = base + head.ahs().start..base + head.ahs().end;
        if waiting.len() < head.total() {
            if !self.splits(&head) {
                self.wanted = head.total();
                return Found::More;
            }
            self.wanted = 0;
            self.start = base + head.data().start;
            return Found::Head(head, ahs);
        }
        let (data, total) = (head.data(), head.total());
        let intact = head.is_intact(&waiting[data.clone()], &waiting[data.end..total]);
        self.wanted = 0;
        self.start = base + total;
        Found::Whole(Frame {
            bhs: head.bhs,
            ahs,
            data: base + data.start..base + data.end,
            intact,
        })
    }

    fn splits(&self, head: &Head) -> bool {
        self.direct
            && head.bhs.data_len() >= limits::DIRECT_BYTES_MIN
            && matches!(head.bhs.opcode(), op::SCSI_COMMAND | op::DATA_OUT)
    }

    /// A burst is over: the next buffer is a small one again.
    pub(super) fn shrink(&mut self) {
        self.size = limits::RECEIVE_START.min(self.size_max);
        if self.bytes.len() > self.size {
            self.rest();
        }
    }
}

const fn smaller(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

#[cfg(test)]
mod test {
    use super::super::connection::{Data, Pdu};
    use super::super::frame::{Encoder, TRAILER_BYTES_MAX};
    use super::super::params::Negotiated;
    use super::super::tx::Tx;
    use super::*;
    use proptest::prelude::*;
    use std::io::IoSlice;

    fn agreed(header_digest: bool, data_digest: bool) -> Negotiated {
        Negotiated {
            header_digest,
            data_digest,
            target_mrdsl: limits::TARGET_MRDSL,
            ..Negotiated::default()
        }
    }

    fn target_rx(header_digest: bool, data_digest: bool) -> Rx {
        let decoder = Decoder::full_feature(&agreed(header_digest, data_digest));
        let mut rx = Rx::new(decoder, limits::RECEIVE_MAX);
        rx.hand_out_heads();
        rx
    }

    fn wire(pdus: &[(u8, Vec<u8>)], header_digest: bool, data_digest: bool) -> Vec<u8> {
        let mut tx = Tx::new(Encoder::full_feature(&agreed(header_digest, data_digest)));
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
                Found::Head(head, _) => {
                    let (len, tail) = (head.data_len(), head.trailer_len());
                    assert!(tail <= TRAILER_BYTES_MAX);
                    let mut data = Vec::new();
                    let mut trailer = Vec::new();
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
                    let intact = head.is_intact(&data, &trailer);
                    found.push((head.bhs.opcode(), data, intact));
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
            let mut rx = target_rx(digests.0, digests.1);
            let chunk = if chunk % 7 == 0 { 1 + chunk % 50 } else { chunk };
            let found = read_all(&mut rx, &wire(&pdus, digests.0, digests.1), chunk);
            let expected: Vec<_> = pdus.into_iter().map(|(o, d)| (o, d, true)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let pdus = [(op::NOP_OUT, vec![1, 2, 3])];
        let good = wire(&pdus, true, true);
        assert_eq!(good.len(), 48 + 4 + 4 + 4);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let mut rx = target_rx(true, true);
            rx.space()[..bad.len()].copy_from_slice(&bad);
            rx.filled(bad.len());
            match rx.next() {
                Found::Broken(_) => assert!(at < 52, "byte {at}"),
                Found::Whole(frame) => assert!(!frame.intact && at >= 52, "byte {at}"),
                // The changed length asks for more than is there: the digest is checked when it comes.
                Found::More | Found::Head(..) => assert!((4..8).contains(&at), "byte {at}"),
            }
        }
    }

    #[test]
    fn a_stranger_gets_room_for_a_usual_request_and_then_for_its_one_pdu() {
        let mut rx = Rx::frugal(Decoder::login());
        assert_eq!(rx.space().len(), limits::RECEIVE_STRANGER);
        let mut header = Bhs::new(op::LOGIN | 0x40);
        header.set_data_len(8190);
        rx.space()[..48].copy_from_slice(&header.0);
        rx.filled(48);
        assert_eq!(rx.next(), Found::More);
        let mut left = 8192;
        while left > 0 {
            let len = rx.space().len().min(1000);
            left -= len;
            rx.filled(len);
            assert!(rx.bytes.len() <= 48 + 8192);
            if left > 0 {
                assert_eq!(rx.next(), Found::More);
            }
        }
        assert!(matches!(rx.next(), Found::Whole(_)));
        assert_eq!(rx.bytes.len(), 48 + 8192);
    }

    #[test]
    fn long_segments_are_refused_before_any_memory_is_taken() {
        let mut rx = Rx::new(Decoder::login(), limits::RECEIVE_MAX);
        let mut header = Bhs::new(op::LOGIN | 0x40);
        header.set_data_len(8193);
        rx.space()[..48].copy_from_slice(&header.0);
        rx.filled(48);
        assert!(matches!(rx.next(), Found::Broken(_)));
        assert_eq!(rx.bytes.len(), limits::RECEIVE_START);
    }

    #[test]
    fn the_buffer_grows_under_load_and_shrinks_when_quiet() {
        let mut rx = target_rx(false, false);
        let stream = wire(&vec![(op::NOP_OUT, vec![0; 4096]); 300], false, false);
        assert_eq!(read_all(&mut rx, &stream, usize::MAX).len(), 300);
        assert_eq!(rx.bytes.len(), limits::RECEIVE_MAX);
        rx.shrink();
        assert_eq!(rx.memory().0, 0);
        assert_eq!(rx.space().len(), limits::RECEIVE_START);
    }

    #[test]
    fn between_two_pdus_it_holds_no_memory_and_half_a_pdu_is_kept() {
        let mut rx = target_rx(false, false);
        rx.rest();
        assert_eq!(rx.memory().0, 0);
        let stream = wire(&vec![(op::NOP_OUT, vec![7; 100]); 2], false, false);
        let (first, second) = stream.split_at(stream.len() / 2 + 10);
        let mut rest = first;
        feed(&mut rx, &mut rest, usize::MAX);
        assert!(matches!(rx.next(), Found::Whole(_)));
        assert_eq!(rx.next(), Found::More);
        rx.rest();
        assert_eq!(rx.len(), 10);
        rest = second;
        feed(&mut rx, &mut rest, usize::MAX);
        assert!(matches!(rx.next(), Found::Whole(_)));
        rx.rest();
        assert_eq!(rx.memory().0, 0);
    }

    #[test]
    fn what_is_left_of_one_reader_is_never_taken_for_bytes_of_the_next() {
        let stream = wire(&[(op::NOP_OUT, vec![7; 100])], false, false);
        let mut one = target_rx(false, false);
        assert_eq!(read_all(&mut one, &stream, usize::MAX).len(), 1);
        one.rest();
        // It gets the same memory, with the old bytes in it.
        let mut other = target_rx(false, false);
        assert_eq!(other.space().len(), limits::RECEIVE_START);
        assert_eq!((other.len(), other.next()), (0, Found::More));
        other.filled(20);
        assert_eq!((other.len(), other.next()), (20, Found::More));
    }

    #[test]
    fn that_a_strangers_small_buffer_was_full_is_no_load() {
        let mut rx = Rx::frugal(Decoder::login());
        let len = rx.space().len();
        rx.filled(len);
        rx.take(len);
        rx.grow_to(limits::RECEIVE_MAX);
        assert_eq!(rx.space().len(), limits::RECEIVE_START);
    }
}
