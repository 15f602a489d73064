//! Bytes on their way between files and sockets, without an allocation per byte.
//!
//! A [`Buffer`] comes from its thread's free list and goes back to the list of the thread that drops it;
//! a [`Payload`] is a cheap, shared, read-only view of one or more of them.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use super::image::HotChunk;
use crate::limits::CHUNK_LEN;

/// Size classes kept for reuse; a larger buffer is allocated and freed each time.
const CLASSES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Bytes of each class kept per thread.
const KEPT_BYTES: usize = 4 << 20;

/// Free buffers by class.
type FreeLists = [Vec<Box<[u8]>>; CLASSES.len()];

thread_local! {
    static FREE: RefCell<FreeLists> = const { RefCell::new([const { Vec::new() }; CLASSES.len()]) };
}

/// A writable run of bytes. What it holds before it is written is unspecified bytes of this process's own
/// buffers: always fill a buffer whole before its bytes leave.
pub struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes, reused when one is free.
    #[must_use]
    pub fn take(len: usize) -> Self {
        let Some(class) = CLASSES.iter().position(|&size| len <= size) else {
            return Self {
                bytes: vec![0; len].into_boxed_slice(),
                len,
            };
        };
        let reused = FREE.with_borrow_mut(|free| free[class].pop());
        let bytes = reused.unwrap_or_else(|| vec![0; CLASSES[class]].into_boxed_slice());
        Self { bytes, len }
    }

    /// Bytes of memory that a buffer of `len` bytes takes: what a budget must count.
    #[must_use]
    pub fn footprint(len: usize) -> usize {
        if len == 0 {
            return 0;
        }
        let class = CLASSES.iter().find(|&&size| len <= size);
        class.copied().unwrap_or(len)
    }

    /// Makes it shareable and read-only.
    #[must_use]
    pub fn freeze(self) -> Payload {
        let len = self.len;
        Payload::one(Slice {
            owner: Owner::Buffer(Arc::new(self)),
            range: 0..len,
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if let Some(class) = CLASSES.iter().position(|&size| size == bytes.len()) {
            // A thread that ends has no list any more: then the memory is simply freed.
            let _ = FREE.try_with(|free| {
                let list = &mut free.borrow_mut()[class];
                if list.len() * CLASSES[class] < KEPT_BYTES {
                    list.push(bytes);
                }
            });
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[derive(Clone)]
enum Owner {
    Buffer(Arc<Buffer>),
    Vec(Arc<Vec<u8>>),
    /// Bytes that stay where they are: nothing was copied for this payload.
    Hot(Arc<HotChunk>),
    Zeros,
}

/// What chunks of zeros are sent from.
static ZEROS: [u8; CHUNK_LEN] = [0; CHUNK_LEN];

#[derive(Clone)]
struct Slice {
    owner: Owner,
    range: Range<usize>,
}

impl Slice {
    fn bytes(&self) -> &[u8] {
        match &self.owner {
            Owner::Buffer(buffer) => &buffer[self.range.clone()],
            Owner::Vec(vec) => &vec[self.range.clone()],
            Owner::Hot(chunk) => &chunk.bytes()[self.range.clone()],
            Owner::Zeros => &ZEROS[self.range.clone()],
        }
    }
}

/// Read-only bytes in one or more shared pieces, in order. Cloning copies no byte.
#[derive(Clone, Default)]
pub struct Payload {
    // Nearly every read is one piece; the list allocates only for the rest.
    first: Option<Slice>,
    more: Vec<Slice>,
    len: usize,
}

impl Payload {
    fn one(slice: Slice) -> Self {
        let len = slice.range.len();
        Self {
            first: Some(slice),
            more: Vec::new(),
            len,
        }
    }

    /// A part of a chunk that is held in memory, shared. Panics when the chunk has less.
    pub(super) fn hot(chunk: Arc<HotChunk>, range: Range<usize>) -> Self {
        assert!(range.end <= chunk.bytes().len(), "past the end of a chunk");
        Self::one(Slice {
            owner: Owner::Hot(chunk),
            range,
        })
    }

    /// At most [`CHUNK_LEN`] zeros.
    pub(super) fn zeros(len: usize) -> Self {
        Self::one(Slice {
            owner: Owner::Zeros,
            range: 0..len.min(CHUNK_LEN),
        })
    }

    /// Number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True when it holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the pieces of `other` behind its own.
    pub fn append(&mut self, other: Self) {
        self.len += other.len;
        let pieces = other.first.into_iter().chain(other.more);
        for piece in pieces {
            if self.first.is_none() {
                self.first = Some(piece);
            } else {
                self.more.push(piece);
            }
        }
    }

    /// The bytes `range` of the whole as contiguous pieces in order, for a vectored write.
    ///
    /// Panics when `range` ends behind the payload's end: callers slice what they measured.
    pub fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        assert!(range.end <= self.len, "slice past the end of a payload");
        let mut at = 0;
        self.first
            .iter()
            .chain(&self.more)
            .filter_map(move |piece| {
                let bytes = piece.bytes();
                let start = range.start.max(at);
                let end = range.end.min(at + bytes.len());
                let base = at;
                at += bytes.len();
                (start < end).then(|| &bytes[start - base..end - base])
            })
    }

    /// A copy of all bytes, for tests and small answers.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces(0..self.len).flatten().copied().collect()
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self::one(Slice {
            owner: Owner::Vec(Arc::new(bytes)),
            range,
        })
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn buffers_are_reused_by_class() {
        let buffer = Buffer::take(5000);
        let address = buffer.as_ptr();
        drop(buffer);
        assert_eq!(Buffer::take(16 << 10).as_ptr(), address);
    }

    #[test]
    fn payloads_slice_across_pieces() {
        let mut all = Payload::from(vec![1, 2, 3]);
        let mut buffer = Buffer::take(3);
        buffer.copy_from_slice(&[4, 5, 6]);
        all.append(buffer.freeze());
        let cut: Vec<u8> = all.pieces(2..5).flatten().copied().collect();
        assert_eq!(cut, [3, 4, 5]);
        assert_eq!(all.to_vec(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(all.pieces(3..3).count(), 0);
    }
}
