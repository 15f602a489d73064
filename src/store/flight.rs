//! One does the work, the others wait for it: a boot storm asks for the same cold chunk a thousand times.
//!
//! ```text
//!   join(key) -- nobody works on it --> Lead -- finish(value) -.
//!        `------ somebody does ------> Wait <------------------' the same value, cloned
//! ```
//! A leader that gives up without a value (its [`Lead`] is dropped) wakes the waiters, who join again.
//! Rule for callers: never wait while holding an unfinished lead, then no circle can form.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Work under way, by key. Values are cloned to every waiter.
#[derive(Debug)]
pub struct Flight<K, V> {
    going: Mutex<HashMap<K, Arc<Work<V>>>>,
}

struct Work<V> {
    outcome: Mutex<Outcome<V>>,
    ended: Condvar,
}

#[derive(Clone)]
enum Outcome<V> {
    Going,
    Done(V),
    GivenUp,
}

/// What [`Flight::join`] makes of the caller.
#[derive(Debug)]
pub enum Join<'a, K: Eq + Hash + Copy, V: Clone> {
    /// Do the work and call [`Lead::finish`].
    Lead(Lead<'a, K, V>),
    /// Somebody else does it.
    Wait(Waiter<V>),
}

/// The duty to do the work for a key.
pub struct Lead<'a, K: Eq + Hash + Copy, V: Clone> {
    flight: &'a Flight<K, V>,
    key: K,
    work: Arc<Work<V>>,
    value: Option<V>,
}

/// A place among those who wait.
pub struct Waiter<V> {
    work: Arc<Work<V>>,
}

impl<K: Eq + Hash + Copy, V: Clone> Flight<K, V> {
    /// Nothing under way.
    #[must_use]
    pub fn new() -> Self {
        Self {
            going: Mutex::default(),
        }
    }

    /// Leads the work for `key`, or waits for the one who does.
    pub fn join(&self, key: K) -> Join<'_, K, V> {
        let mut going = self.going.lock().unwrap_or_else(PoisonError::into_inner);
        match going.entry(key) {
            Entry::Occupied(there) => Join::Wait(Waiter {
                work: Arc::clone(there.get()),
            }),
            Entry::Vacant(free) => {
                let work = Arc::new(Work::new());
                free.insert(Arc::clone(&work));
                Join::Lead(Lead {
                    flight: self,
                    key,
                    work,
                    value: None,
                })
            }
        }
    }

    /// Leads the work for `key` if nobody does yet.
    pub fn try_lead(&self, key: K) -> Option<Lead<'_, K, V>> {
        match self.join(key) {
            Join::Lead(lead) => Some(lead),
            Join::Wait(_) => None,
        }
    }
}

impl<K: Eq + Hash + Copy, V: Clone> Default for Flight<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Clone> Work<V> {
    fn new() -> Self {
        Self {
            outcome: Mutex::new(Outcome::Going),
            ended: Condvar::new(),
        }
    }
}

impl<K: Eq + Hash + Copy, V: Clone> Lead<'_, K, V> {
    /// The key that this lead is for.
    #[must_use]
    pub fn key(&self) -> K {
        self.key
    }

    /// Hands the value to all who wait and ends the work.
    pub fn finish(mut self, value: V) {
        self.value = Some(value);
    }
}

impl<K: Eq + Hash + Copy, V: Clone> Drop for Lead<'_, K, V> {
    fn drop(&mut self) {
        let outcome = match self.value.take() {
            Some(value) => Outcome::Done(value),
            None => Outcome::GivenUp,
        };
        // First out of the table, then the news: who joins from here on starts anew.
        let mut going = self
            .flight
            .going
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        going.remove(&self.key);
        drop(going);
        *self
            .work
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = outcome;
        self.work.ended.notify_all();
    }
}

impl<V: Clone> Waiter<V> {
    /// Blocks until the leader is done; `None` when it gave up: join again.
    #[must_use]
    pub fn wait(self) -> Option<V> {
        let mut outcome = self
            .work
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*outcome {
                Outcome::Done(value) => return Some(value.clone()),
                Outcome::GivenUp => return None,
                Outcome::Going => {
                    outcome = self
                        .work
                        .ended
                        .wait(outcome)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl<K: Eq + Hash + Copy + fmt::Debug, V: Clone> fmt::Debug for Lead<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lead({:?})", self.key)
    }
}

impl<V> fmt::Debug for Waiter<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiter")
    }
}

impl<V> fmt::Debug for Work<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

#[cfg(test)]
mod test {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn one_leads_and_all_get_its_value() {
        let flight = Flight::<u32, u32>::new();
        let worked = AtomicU32::new(0);
        let joined = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match flight.join(7) {
                    Join::Lead(lead) => {
                        joined.fetch_add(1, Ordering::SeqCst);
                        // All eight are in before the work ends, so seven must be waiting.
                        while joined.load(Ordering::SeqCst) < 8 {
                            thread::yield_now();
                        }
                        worked.fetch_add(1, Ordering::SeqCst);
                        lead.finish(42);
                    }
                    Join::Wait(waiter) => {
                        joined.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(waiter.wait(), Some(42));
                    }
                });
            }
        });
        assert_eq!(worked.into_inner(), 1);
    }

    #[test]
    fn a_finished_key_starts_anew() {
        let flight = Flight::<u32, u32>::new();
        flight.try_lead(1).unwrap().finish(1);
        assert!(flight.try_lead(1).is_some());
    }

    #[test]
    fn a_leader_that_gives_up_sends_the_waiters_back() {
        let flight = Flight::<u32, u32>::new();
        let lead = flight.try_lead(1).unwrap();
        let Join::Wait(waiter) = flight.join(1) else {
            panic!("second leader")
        };
        drop(lead);
        assert_eq!(waiter.wait(), None);
        assert!(matches!(flight.join(1), Join::Lead(_)));
    }

    #[test]
    fn other_keys_do_not_wait() {
        let flight = Flight::<u32, u32>::new();
        let _one = flight.try_lead(1).unwrap();
        assert!(flight.try_lead(1).is_none());
        assert!(flight.try_lead(2).is_some());
    }
}
