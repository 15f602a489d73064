//! Exclusive locks on runs of blocks of one layer, granted in the order of asking.
//!
//! Every change of a layer holds the lock of the blocks it touches. So a block that must first be completed
//! from the image cannot swallow a neighbour's write, and COMPARE AND WRITE is atomic. First come, first
//! served: a lock on everything (reset) cannot be starved by a stream of small ones.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Inner {
    ticket_next: u64,
    // In the order of asking: entry i is granted when no earlier entry overlaps it.
    entries: VecDeque<(u64, Range<u64>)>,
}

/// The locks of one layer.
#[derive(Debug, Default)]
pub(in crate::store) struct RangeLock {
    inner: Mutex<Inner>,
    freed: Condvar,
}

/// Holds a run of blocks until dropped.
#[derive(Debug)]
pub(in crate::store) struct RangeGuard<'a> {
    owner: &'a RangeLock,
    ticket: u64,
}

impl RangeLock {
    /// Waits until nobody who asked earlier holds a block of `blocks`.
    pub(in crate::store) fn lock(&self, blocks: Range<u64>) -> RangeGuard<'_> {
        let mut inner = self.inner();
        let ticket = inner.ticket_next;
        inner.ticket_next += 1;
        inner.entries.push_back((ticket, blocks.clone()));
        while inner.blocked(ticket, &blocks) {
            inner = self
                .freed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        RangeGuard {
            owner: self,
            ticket,
        }
    }

    /// Waits until every earlier change of the layer has ended.
    pub(in crate::store) fn lock_all(&self) -> RangeGuard<'_> {
        self.lock(0..u64::MAX)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn blocked(&self, ticket: u64, blocks: &Range<u64>) -> bool {
        self.entries
            .iter()
            .take_while(|(earlier, _)| *earlier != ticket)
            .any(|(_, held)| held.start < blocks.end && blocks.start < held.end)
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut inner = self.owner.inner();
        inner.entries.retain(|(ticket, _)| *ticket != self.ticket);
        let waiting = !inner.entries.is_empty();
        drop(inner);
        if waiting {
            self.owner.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn separate_runs_do_not_wait_for_each_other() {
        let lock = RangeLock::default();
        let _a = lock.lock(0..4);
        let _b = lock.lock(4..8);
    }

    #[test]
    fn overlapping_runs_exclude_each_other() {
        let lock = Arc::new(RangeLock::default());
        let inside = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let (lock, inside) = (Arc::clone(&lock), Arc::clone(&inside));
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        let _held = lock.lock(i..8);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        drop(lock.lock_all());
    }
}
