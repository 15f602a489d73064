//! Exclusive locks on runs of blocks of one layer, granted in the order of asking; several runs may be one lock.
//!
//! Every change of a layer holds the lock of the blocks it touches. So a block that must first be completed
//! from the image cannot swallow a neighbour's write, and COMPARE AND WRITE is atomic. First come, first
//! served: a lock on everything (reset) cannot be starved by a stream of small ones.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Inner {
    ticket_next: u64,
    // In the order of asking: one ticket, one or more runs. A ticket is granted when no earlier one overlaps it.
    entries: Vec<(u64, Range<u64>)>,
    // Who sleeps: waking costs a system call, and mostly nobody does.
    waiting: usize,
}

/// The locks of one layer.
#[derive(Debug, Default)]
pub(in crate::store) struct RangeLock {
    inner: Mutex<Inner>,
    freed: Condvar,
}

/// Holds runs of blocks until dropped.
#[derive(Debug)]
pub(in crate::store) struct RangeGuard<'a> {
    owner: &'a RangeLock,
    ticket: u64,
}

impl RangeLock {
    /// Waits until nobody who asked earlier holds a block of `blocks`.
    pub(in crate::store) fn lock(&self, blocks: Range<u64>) -> RangeGuard<'_> {
        self.lock_many(std::iter::once(blocks))
    }

    /// The same for several runs at once, which may overlap each other. All are granted together: who asks for
    /// many cannot block, nor be blocked by, another such one for ever.
    pub(in crate::store) fn lock_many(
        &self,
        runs: impl Iterator<Item = Range<u64>>,
    ) -> RangeGuard<'_> {
        let mut inner = self.inner();
        let ticket = inner.ticket_next;
        inner.ticket_next += 1;
        inner
            .entries
            .extend(runs.filter(|run| !run.is_empty()).map(|run| (ticket, run)));
        while inner.blocked(ticket) {
            inner.waiting += 1;
            inner = self
                .freed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
            inner.waiting -= 1;
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
    fn blocked(&self, ticket: u64) -> bool {
        // Tickets only grow, and entries leave without changing their order.
        let earlier = self.entries.partition_point(|(other, _)| *other < ticket);
        let (earlier, rest) = self.entries.split_at(earlier);
        let mine = rest.iter().take_while(|(other, _)| *other == ticket);
        let overlap = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        !earlier.is_empty()
            && mine.map(|(_, run)| run).any(|run| {
                let mut held = earlier.iter().map(|(_, held)| held);
                held.any(|held| overlap(held, run))
            })
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut inner = self.owner.inner();
        inner.entries.retain(|(ticket, _)| *ticket != self.ticket);
        let waiting = inner.waiting > 0;
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
    fn many_runs_are_one_lock_and_may_overlap_each_other() {
        let lock = RangeLock::default();
        let held = lock.lock_many([0..4, 2..6, 9..9, 20..21].into_iter());
        let _between = lock.lock(6..20);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| drop(lock.lock(5..6)));
            while lock.inner().waiting == 0 {
                std::thread::yield_now();
            }
            assert!(!waits.is_finished());
            drop(held);
        });
        assert_eq!(lock.inner().entries.len(), 1);
    }

    #[test]
    fn who_asks_for_many_runs_is_served_beside_others_that_do() {
        let lock = RangeLock::default();
        let inside: [AtomicU32; 8] = Default::default();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (lock, inside) = (&lock, &inside);
                scope.spawn(move || {
                    for turn in 0..300 {
                        // In another order each time: locks taken one by one would end in a deadlock.
                        let mine = [turn % 8, (turn * 5 + thread) % 8, (thread + 3) % 8];
                        let _held = lock.lock_many(mine.map(|at| at..at + 1).into_iter());
                        let mut blocks = mine.to_vec();
                        blocks.sort_unstable();
                        blocks.dedup();
                        let place = |at: &u64| usize::try_from(*at).unwrap();
                        let counts = || blocks.iter().map(|at| &inside[place(at)]);
                        for count in counts() {
                            assert_eq!(count.fetch_add(1, Ordering::SeqCst), 0);
                        }
                        for count in counts() {
                            count.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        drop(lock.lock_all());
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
