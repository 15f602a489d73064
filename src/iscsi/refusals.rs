//! What refused peers cost us: the wait that a wrong secret earns, and how often a refusal is told. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::limits;
use crate::names::Iqn;

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

/// Wrong secrets by (address, initiator name), and by address alone for those who change their names. Only
/// the answer to a wrong secret waits: whoever has the right one is let in at once, whatever others did in
/// its name.
#[derive(Debug, Default)]
pub struct BackOff {
    table: HashMap<(IpAddr, Option<Iqn>), Failures>,
}

/// Wrong secrets of an address under different names that weigh as one.
const NAMES_PER_STEP: u32 = 16;

impl BackOff {
    /// A wrong secret came; how long its answer waits.
    pub fn failed(&mut self, address: IpAddr, name: &Iqn, now: Instant) -> Duration {
        let all = self.count((address, None), now) / NAMES_PER_STEP;
        let own = self.count((address, Some(name.clone())), now);
        let doublings = own.max(all).saturating_sub(1).min(16);
        (limits::BACK_OFF_FIRST * 2u32.pow(doublings)).min(limits::BACK_OFF_MAX)
    }

    /// The right secret came: what was held against the name at this address is forgotten.
    pub fn passed(&mut self, address: IpAddr, name: &Iqn) {
        if !self.table.is_empty() {
            self.table.remove(&(address, Some(name.clone())));
        }
    }

    fn count(&mut self, key: (IpAddr, Option<Iqn>), now: Instant) -> u32 {
        if !self.table.contains_key(&key) && self.table.len() >= limits::BACK_OFF_SOURCES_MAX {
            self.make_room(now);
        }
        let entry = self.table.entry(key).or_insert(Failures {
            count: 0,
            last: now,
        });
        if now.saturating_duration_since(entry.last) >= limits::BACK_OFF_FORGET {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        entry.count
    }

    fn make_room(&mut self, now: Instant) {
        let old = |f: &Failures| now.saturating_duration_since(f.last) >= limits::BACK_OFF_FORGET;
        self.table.retain(|_, failures| !old(failures));
        if self.table.len() < limits::BACK_OFF_SOURCES_MAX {
            return;
        }
        // The older half: looked through once for many that come.
        let mut times: Vec<Instant> = self.table.values().map(|f| f.last).collect();
        let middle = times.len() / 2;
        let (_, &mut middle, _) = times.select_nth_unstable(middle);
        self.table.retain(|_, failures| failures.last > middle);
    }
}

/// What is told of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<T> {
    /// The last one.
    pub what: T,
    /// How many more there were since the last time it was told.
    pub more: u64,
}

#[derive(Debug)]
struct Tally<T> {
    since: Instant,
    waiting: Option<Told<T>>,
}

/// Tells the first of a kind at once, then no more than one in an interval, with a count.
#[derive(Debug)]
pub struct Teller<K, T> {
    table: HashMap<K, Tally<T>>,
    second: Option<Instant>,
    told: u32,
    /// What found no place in the table.
    others: u64,
}

impl<K, T> Default for Teller<K, T> {
    fn default() -> Self {
        Self {
            table: HashMap::new(),
            second: None,
            told: 0,
            others: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, T> Teller<K, T> {
    /// Something of `key` happened; given back when it is to be told now.
    pub fn happened(&mut self, key: &K, what: T, now: Instant) -> Option<Told<T>> {
        if let Some(tally) = self.table.get_mut(key) {
            let more = tally.waiting.as_ref().map_or(0, |told| told.more + 1);
            tally.waiting = Some(Told { what, more });
            return None;
        }
        if self.table.len() >= limits::REFUSAL_SOURCES_MAX || !self.has_voice(now) {
            self.others += 1;
            return None;
        }
        let tally = Tally {
            since: now,
            waiting: None,
        };
        self.table.insert(key.clone(), tally);
        Some(Told { what, more: 0 })
    }

    /// What has waited long enough. Sources that were quiet for the interval are forgotten.
    pub fn due(&mut self, now: Instant) -> Vec<(K, Told<T>)> {
        let mut list = Vec::new();
        self.table.retain(|key, tally| {
            if now.saturating_duration_since(tally.since) < limits::REFUSAL_TOLD_EVERY {
                return true;
            }
            tally.since = now;
            let told = tally.waiting.take();
            let go_on = told.is_some();
            list.extend(told.map(|told| (key.clone(), told)));
            go_on
        });
        // Of very many sources only some are named.
        let named = list.len().min(limits::REFUSALS_TOLD_PER_SECOND as usize);
        self.others += list
            .drain(named..)
            .map(|(_, told)| told.more + 1)
            .sum::<u64>();
        list
    }

    /// How many were told nowhere, since the last call.
    pub fn take_others(&mut self) -> u64 {
        std::mem::take(&mut self.others)
    }

    fn has_voice(&mut self, now: Instant) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) > Duration::from_secs(1);
        if self.second.is_none_or(over) {
            self.second = Some(now);
            self.told = 0;
        }
        self.told += 1;
        self.told <= limits::REFUSALS_TOLD_PER_SECOND
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn name(n: usize) -> Iqn {
        Iqn::parse(&format!("iqn.2026-11.t:n{n}")).unwrap()
    }

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn waits_double_up_to_the_bound_and_are_forgotten_in_peace() {
        let now = Instant::now();
        let mut all = BackOff::default();
        let waits: Vec<_> = (0..10)
            .map(|_| all.failed(address(1), &name(1), now))
            .collect();
        assert_eq!(waits[0], limits::BACK_OFF_FIRST);
        assert_eq!(waits[1], 2 * limits::BACK_OFF_FIRST);
        assert_eq!(waits[9], limits::BACK_OFF_MAX);
        assert!(waits.is_sorted());
        let later = now + limits::BACK_OFF_FORGET;
        assert_eq!(
            all.failed(address(1), &name(1), later),
            limits::BACK_OFF_FIRST
        );
    }

    #[test]
    fn a_right_secret_clears_the_slate_and_others_have_their_own() {
        let now = Instant::now();
        let mut all = BackOff::default();
        for _ in 0..5 {
            all.failed(address(1), &name(1), now);
        }
        assert_eq!(
            all.failed(address(2), &name(1), now),
            limits::BACK_OFF_FIRST
        );
        all.passed(address(1), &name(1));
        assert_eq!(
            all.failed(address(1), &name(1), now),
            limits::BACK_OFF_FIRST
        );
    }

    #[test]
    fn whoever_changes_names_is_slowed_down_too() {
        let now = Instant::now();
        let mut all = BackOff::default();
        let waits: Vec<_> = (0..200)
            .map(|n| all.failed(address(1), &name(n), now))
            .collect();
        assert_eq!(waits[0], limits::BACK_OFF_FIRST);
        assert_eq!(waits[199], limits::BACK_OFF_MAX);
    }

    #[test]
    fn the_table_of_wrong_secrets_is_bounded() {
        let mut now = Instant::now();
        let mut all = BackOff::default();
        for n in 0..3 * limits::BACK_OFF_SOURCES_MAX {
            now += Duration::from_millis(1);
            all.failed(address(1), &name(n), now);
            assert!(all.table.len() <= limits::BACK_OFF_SOURCES_MAX);
        }
        assert_eq!(
            all.failed(address(1), &name(1), now),
            limits::BACK_OFF_MAX,
            "by its address"
        );
    }

    #[test]
    fn a_storm_is_told_once_in_an_interval_with_its_count() {
        let start = Instant::now();
        let mut teller = Teller::default();
        assert_eq!(teller.happened(&1, "a", start).unwrap().more, 0);
        for _ in 0..500 {
            assert!(teller.happened(&1, "b", start).is_none());
        }
        assert!(teller.due(start + Duration::from_secs(1)).is_empty());
        let told = teller.due(start + limits::REFUSAL_TOLD_EVERY);
        assert_eq!(
            told,
            [(
                1,
                Told {
                    what: "b",
                    more: 499
                }
            )]
        );
        assert!(
            teller
                .due(start + 2 * limits::REFUSAL_TOLD_EVERY)
                .is_empty()
        );
        assert!(
            teller
                .happened(&1, "c", start + 3 * limits::REFUSAL_TOLD_EVERY)
                .is_some()
        );
    }

    #[test]
    fn many_sources_have_one_voice_together() {
        let start = Instant::now();
        let mut teller = Teller::default();
        let told = (0..10_000)
            .filter(|n| teller.happened(n, (), start).is_some())
            .count();
        assert_eq!(told, limits::REFUSALS_TOLD_PER_SECOND as usize);
        assert_eq!(
            teller.take_others(),
            10_000 - u64::from(limits::REFUSALS_TOLD_PER_SECOND)
        );
        assert!(teller.table.len() <= limits::REFUSAL_SOURCES_MAX);
    }
}
