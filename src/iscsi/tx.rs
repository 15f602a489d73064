//! The send queue: PDUs as slices for one vectored write, with padding and digests. Pure.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::connection::{Data, Pdu};
use super::frame::{Encoder, HEADER_BYTES_MAX, Short, TRAILER_BYTES_MAX};
use crate::limits;

/// PDUs that wait for the socket.
#[derive(Debug)]
pub(super) struct Tx {
    items: VecDeque<Item>,
    /// Bytes of the first item that are gone.
    gone: usize,
    bytes: usize,
    /// Bytes of memory of inline data and of the items themselves.
    control: usize,
    pushed: u64,
    encoder: Encoder,
}

#[derive(Debug)]
struct Item {
    header: Short<HEADER_BYTES_MAX>,
    data: Data,
    trailer: Short<TRAILER_BYTES_MAX>,
}

impl Item {
    fn len(&self) -> usize {
        self.header.len() + self.data.len() + self.trailer.len()
    }

    /// Memory it takes beside the payload, which its task has booked.
    const fn control(&self) -> usize {
        let inline = match &self.data {
            Data::Inline(bytes) => bytes.len(),
            Data::None | Data::Payload(..) => 0,
        };
        inline + size_of::<Self>()
    }

    /// Its parts in order.
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.header[..])
            .chain(self.data.pieces())
            .chain(std::iter::once(&self.trailer[..]))
    }
}

impl Tx {
    pub(super) const fn new(encoder: Encoder) -> Self {
        Self {
            items: VecDeque::new(),
            gone: 0,
            bytes: 0,
            control: 0,
            pushed: 0,
            encoder,
        }
    }

    /// Queues a PDU.
    pub(super) fn push(&mut self, pdu: Pdu) {
        let item = Item {
            header: self.encoder.header(&pdu.header),
            trailer: self.encoder.trailer(pdu.data.len(), pdu.data.pieces()),
            data: pdu.data,
        };
        self.bytes += item.len();
        self.control += item.control();
        self.pushed += 1;
        self.items.push_back(item);
    }

    /// Bytes that wait.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory of what waits, beside payloads.
    pub(super) const fn control(&self) -> usize {
        self.control
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

    /// True when all that waits fits in `SEND_SHORT_SLICES`, unless a payload is in many pieces.
    pub(super) fn is_short(&self) -> bool {
        self.items.len() * 3 <= limits::SEND_SHORT_SLICES
    }

    /// Fills `out` with what waits, in order; returns how many slices it used.
    pub(super) fn slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        let mut skip = self.gone;
        let mut parts = self.items.iter().flat_map(Item::parts);
        let _ = parts.try_for_each(|part| {
            let cut = skip.min(part.len());
            skip -= cut;
            if cut < part.len() {
                *out.get_mut(used)? = IoSlice::new(&part[cut..]);
                used += 1;
            }
            Some(())
        });
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
            self.control = self.control.saturating_sub(first.control());
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
        let mut tx = Tx::new(Encoder {
            header_digest: true,
            data_digest: true,
        });
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
        assert_eq!((tx.bytes(), tx.control()), (0, 0));
    }
}
