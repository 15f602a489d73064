//! How often something may happen, per key: a burst first, then one at a time. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Counts by the virtual scheduling of GCRA: one moment for each key, the end of what it has used up.
#[derive(Debug)]
pub struct Pace<K> {
    every: Duration,
    burst: u32,
    keys_max: usize,
    used_until: HashMap<K, Instant>,
}

impl<K: Clone + Eq + Hash> Pace<K> {
    /// `burst` at once, then one in each `every`; at most `keys_max` keys are remembered.
    #[must_use]
    pub fn new(every: Duration, burst: u32, keys_max: usize) -> Self {
        Self {
            every,
            burst,
            keys_max,
            used_until: HashMap::new(),
        }
    }

    /// How long one more of `key` would have to wait now.
    #[must_use]
    pub fn wait(&self, key: &K, now: Instant) -> Duration {
        let used = self
            .used_until
            .get(key)
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        (used + self.every).saturating_sub(self.every * self.burst.max(1))
    }

    /// Counts one of `key`, and tells how long it has to wait.
    pub fn take(&mut self, key: &K, now: Instant) -> Duration {
        let wait = self.wait(key, now);
        if !self.used_until.contains_key(key) {
            self.make_room(now);
        }
        let until = self.used_until.entry(key.clone()).or_insert(now);
        *until = (*until).max(now) + self.every;
        wait
    }

    /// Counts one of `key` that is never held up: what it uses up stays within the burst and one more.
    pub fn note(&mut self, key: &K, now: Instant) {
        if self.wait(key, now) <= self.every {
            self.take(key, now);
        }
    }

    /// Keys that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used_until.len()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used_until.is_empty()
    }

    /// Forgets keys that have used up nothing; when that is not enough, the one that is soonest forgiven.
    fn make_room(&mut self, now: Instant) {
        if self.used_until.len() < self.keys_max {
            return;
        }
        self.used_until.retain(|_, until| *until > now);
        while self.used_until.len() >= self.keys_max.max(1) {
            let soonest = self.used_until.iter().min_by_key(|(_, until)| **until);
            let Some(key) = soonest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.used_until.remove(&key);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    #[test]
    fn a_burst_is_free_and_the_rest_comes_one_by_one() {
        let start = Instant::now();
        let mut pace = Pace::new(STEP, 4, 8);
        for _ in 0..4 {
            assert_eq!(pace.take(&"a", start), Duration::ZERO);
        }
        assert_eq!(pace.take(&"a", start), STEP);
        assert_eq!(pace.take(&"a", start), 2 * STEP);
        assert_eq!(pace.take(&"b", start), Duration::ZERO, "others are free");
        assert_eq!(pace.wait(&"a", start + 6 * STEP), Duration::ZERO);
        assert_eq!(pace.take(&"a", start + 60 * STEP), Duration::ZERO);
    }

    #[test]
    fn notes_never_use_up_more_than_the_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(STEP, 4, 8);
        for _ in 0..1000 {
            pace.note(&"a", start);
        }
        assert!(pace.wait(&"a", start) > Duration::ZERO);
        assert_eq!(pace.wait(&"a", start + 3 * STEP), Duration::ZERO);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let start = Instant::now();
        let mut pace = Pace::new(STEP, 1, 8);
        for _ in 0..20 {
            pace.take(&0, start);
        }
        for key in 1..1000 {
            pace.take(&key, start);
            assert!(pace.len() <= 8);
        }
        assert!(pace.wait(&0, start) > 10 * STEP);
    }
}
