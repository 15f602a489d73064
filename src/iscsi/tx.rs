//! The send queue: PDUs as slices for one vectored write, with padding and digests. Pure.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::connection::{Data, Pdu};
use super::pdu::BHS_BYTES;
use super::rx::Rx;
use crate::limits;

/// PDUs that wait for the socket.
#[derive(Debug)]
pub(super) struct Tx {
    items: VecDeque<Item>,
    /// Bytes of the first item that are gone.
    gone: usize,
    bytes: usize,
    pushed: u64,
    header_digest: bool,
    data_digest: bool,
}

#[derive(Debug)]
struct Item {
    head: [u8; BHS_BYTES + 4],
    head_len: usize,
    data: Data,
    /// Padding, then digest.
    tail: [u8; 8],
    tail_len: usize,
}

impl Item {
    fn len(&self) -> usize {
        self.head_len + self.data.len() + self.tail_len
    }

    /// Its parts in order, until `each` says no.
    fn parts<'a>(&'a self, mut each: impl FnMut(&'a [u8]) -> bool) -> bool {
        if !each(&self.head[..self.head_len]) {
            return false;
        }
        let all = match &self.data {
            Data::None => true,
            Data::Inline(bytes) => each(bytes),
            Data::Payload(payload, range) => payload.pieces(range.clone()).all(&mut each),
        };
        all && (self.tail_len == 0 || each(&self.tail[..self.tail_len]))
    }
}

impl Tx {
    pub(super) const fn new(header_digest: bool, data_digest: bool) -> Self {
        Self {
            items: VecDeque::new(),
            gone: 0,
            bytes: 0,
            pushed: 0,
            header_digest,
            data_digest,
        }
    }

    /// Queues a PDU.
    pub(super) fn push(&mut self, pdu: Pdu) {
        let mut head = [0; BHS_BYTES + 4];
        head[..BHS_BYTES].copy_from_slice(&pdu.header.0);
        let mut head_len = BHS_BYTES;
        if self.header_digest {
            head[BHS_BYTES..].copy_from_slice(&crc32c::crc32c(&pdu.header.0).to_le_bytes());
            head_len += 4;
        }
        let len = pdu.data.len();
        let mut item = Item {
            head,
            head_len,
            data: pdu.data,
            tail: [0; 8],
            tail_len: Rx::padding(len),
        };
        if self.data_digest && len > 0 {
            let mut crc = 0;
            let mut first = true;
            item.parts(|part| {
                // The header is the first part; it has a digest of its own.
                if !std::mem::take(&mut first) {
                    crc = crc32c::crc32c_append(crc, part);
                }
                true
            });
            let at = item.tail_len;
            item.tail[at..at + 4].copy_from_slice(&crc.to_le_bytes());
            item.tail_len += 4;
        }
        self.bytes += item.len();
        self.pushed += 1;
        self.items.push_back(item);
    }

    /// Bytes that wait.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// PDUs queued since the last call.
    pub(super) const fn take_pushed(&mut self) -> u64 {
        let pushed = self.pushed;
        self.pushed = 0;
        pushed
    }

    /// Fills `out` with what waits, in order; returns how many slices it used.
    pub(super) fn slices<'a>(
        &'a self,
        out: &mut [IoSlice<'a>; limits::SEND_BATCH_SLICES],
    ) -> usize {
        let mut used = 0;
        let mut skip = self.gone;
        for item in &self.items {
            let room = item.parts(|part| {
                if used == out.len() {
                    return false;
                }
                let cut = skip.min(part.len());
                skip -= cut;
                if cut < part.len() {
                    out[used] = IoSlice::new(&part[cut..]);
                    used += 1;
                }
                true
            });
            if !room {
                break;
            }
        }
        used
    }

    /// `n` bytes are gone.
    pub(super) fn sent(&mut self, n: usize) {
        self.bytes = self.bytes.saturating_sub(n);
        self.gone += n;
        while let Some(first) = self.items.front() {
            let len = first.len();
            if self.gone < len {
                break;
            }
            self.gone -= len;
            self.items.pop_front();
        }
    }

    /// Gives memory of a burst back.
    pub(super) fn shrink(&mut self) {
        self.items.shrink_to(4);
    }
}

#[cfg(test)]
mod test {
    use super::super::pdu::{Bhs, op};
    use super::*;
    use crate::store::Payload;

    #[test]
    fn partial_writes_go_on_where_they_stopped() {
        let mut tx = Tx::new(true, true);
        let mut expected = Vec::new();
        for n in 1..40u8 {
            let mut header = Bhs::new(op::DATA_IN);
            header.set_data_len(u32::from(n));
            let payload = Payload::from(vec![n; usize::from(n) + 3]);
            let data = Data::Payload(payload, 3..usize::from(n) + 3);
            expected.extend_from_slice(&header.0);
            expected.extend_from_slice(&crc32c::crc32c(&header.0).to_le_bytes());
            let mut segment = vec![n; usize::from(n)];
            segment.resize(segment.len().next_multiple_of(4), 0);
            expected.extend_from_slice(&segment);
            expected.extend_from_slice(&crc32c::crc32c(&segment).to_le_bytes());
            tx.push(Pdu { header, data });
        }
        assert_eq!(tx.bytes(), expected.len());
        let mut sent = Vec::new();
        for step in (1..).map(|i| 1 + i * 37 % 211) {
            if tx.is_empty() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); limits::SEND_BATCH_SLICES];
            let count = tx.slices(&mut slices);
            let all: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).collect();
            let n = all.len().min(step);
            sent.extend_from_slice(&all[..n]);
            tx.sent(n);
        }
        assert_eq!(sent, expected);
        assert_eq!(tx.bytes(), 0);
    }
}
