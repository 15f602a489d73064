//! Receive buffers of this thread that no connection uses now. A connection has one only while it reads; between
//! two PDUs it has none, so a quiet session costs no buffer, and busy ones share few that stay in the processor's
//! cache. Pure but for its thread-local list.

use std::cell::RefCell;

use crate::limits;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare::new()) };
}

/// The list; the one used last is taken first.
#[derive(Debug)]
struct Spare {
    all: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spare {
    const fn new() -> Self {
        Self {
            all: Vec::new(),
            bytes: 0,
        }
    }

    fn take(&mut self, size: usize) -> Option<Vec<u8>> {
        let at = self.all.iter().rposition(|one| one.len() == size)?;
        self.bytes -= size;
        Some(self.all.remove(at))
    }

    /// Keeps it; what was not used for longest goes for it.
    fn give(&mut self, buffer: Vec<u8>) {
        let size = buffer.len();
        if !(limits::RECEIVE_START..=limits::RECEIVE_MAX).contains(&size) {
            return;
        }
        while self.bytes + size > limits::RECEIVE_SPARE_BYTES {
            if self.all.is_empty() {
                return;
            }
            self.bytes -= self.all.remove(0).len();
        }
        self.bytes += size;
        self.all.push(buffer);
    }
}

/// A buffer of `size` bytes. What it holds is unspecified bytes that this process once received, or zeros.
pub(super) fn take(size: usize) -> Vec<u8> {
    let kept = SPARE.try_with(|spare| spare.borrow_mut().take(size));
    kept.ok().flatten().unwrap_or_else(|| vec![0; size])
}

/// Gives one back to this thread's list.
pub(super) fn give(buffer: Vec<u8>) {
    // A thread that ends has no list any more: then the memory is simply freed.
    let _ = SPARE.try_with(|spare| spare.borrow_mut().give(buffer));
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_buffer_used_last_is_taken_first() {
        let mut spare = Spare::new();
        for mark in 1..=3 {
            let mut buffer = vec![0; limits::RECEIVE_START];
            buffer[0] = mark;
            spare.give(buffer);
        }
        assert!(spare.take(limits::RECEIVE_MAX).is_none());
        assert_eq!(spare.take(limits::RECEIVE_START).unwrap()[0], 3);
        assert_eq!(spare.take(limits::RECEIVE_START).unwrap()[0], 2);
    }

    #[test]
    fn what_is_kept_is_bounded_and_odd_sizes_are_not() {
        let mut spare = Spare::new();
        for _ in 0..1000 {
            spare.give(vec![0; limits::RECEIVE_START]);
            spare.give(vec![0; limits::RECEIVE_MAX]);
            spare.give(vec![0; 48]);
            spare.give(vec![0; limits::RECEIVE_MAX + 1]);
        }
        let held: usize = spare.all.iter().map(Vec::len).sum();
        assert_eq!(held, spare.bytes);
        assert!(held <= limits::RECEIVE_SPARE_BYTES);
        assert!(spare.take(48).is_none());
        assert!(spare.take(limits::RECEIVE_MAX).is_some());
    }
}
