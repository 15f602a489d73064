//! When something is full: amounts noted once a minute, and the rate at which they grow. Pure; in memory only, so a
//! restart begins anew.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::names::LayerId;
use crate::units::{HumanBytes, UnixMillis};

/// How an amount grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// Bytes an hour over the last minutes.
    pub minutes_rate: u64,
    /// Bytes an hour over the last hours.
    pub hours_rate: u64,
    /// Seconds until it is full at the faster of both; none when nothing bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_s: Option<u64>,
}

impl Growth {
    /// Bytes an hour, by the faster of both: a warning that comes too early costs less.
    #[must_use]
    pub fn per_hour(&self) -> u64 {
        self.minutes_rate.max(self.hours_rate)
    }

    /// `in 3 h`, or `-`.
    #[must_use]
    pub fn full(&self) -> String {
        self.full_s
            .map_or("-".to_owned(), |s| format!("in {}", time(s)))
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (minutes, hours) = (HumanBytes(self.minutes_rate), HumanBytes(self.hours_rate));
        write!(
            f,
            "{minutes}/h over the last minutes, {hours}/h over the last hours"
        )?;
        match self.full_s {
            Some(s) => write!(f, "; full in {}", time(s)),
            None => Ok(()),
        }
    }
}

fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// What may get full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// The store's file system.
    Disk,
    /// A layer.
    Layer(LayerId),
}

/// One amount over time: each minute for the last few, then every ten minutes.
#[derive(Debug, Default)]
struct Trend {
    minutes: VecDeque<(UnixMillis, u64)>,
    hours: VecDeque<(UnixMillis, u64)>,
}

const MINUTES_KEPT: usize = 6;
const HOURS_KEPT: usize = 13;
const HOURS_GAP_MS: u64 = 600_000;

impl Trend {
    fn add(&mut self, at: UnixMillis, bytes: u64) {
        let last = self.minutes.back().copied();
        // A reset, or a clock that was set back: what was before tells nothing of what comes.
        if last.is_some_and(|(then, before)| at < then || bytes < before / 2) {
            *self = Self::default();
        }
        push(&mut self.minutes, MINUTES_KEPT, (at, bytes));
        let last = self.hours.back();
        if last.is_none_or(|(then, _)| at.since(*then) >= HOURS_GAP_MS) {
            push(&mut self.hours, HOURS_KEPT, (at, bytes));
        }
    }

    fn rates(&self) -> (u64, u64) {
        let Some(&(at, bytes)) = self.minutes.back() else {
            return (0, 0);
        };
        let rate = |first: Option<&(UnixMillis, u64)>| {
            let Some(&(then, before)) = first else {
                return 0;
            };
            let (grown, ms) = (bytes.saturating_sub(before), at.since(then));
            let per_hour = u128::from(grown) * 3_600_000 / u128::from(ms.max(1));
            u64::try_from(per_hour).unwrap_or(u64::MAX)
        };
        (rate(self.minutes.front()), rate(self.hours.front()))
    }
}

fn push(ring: &mut VecDeque<(UnixMillis, u64)>, most: usize, sample: (UnixMillis, u64)) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(sample);
}

/// The trends of all that may get full. What holds nothing has none.
#[derive(Debug, Default)]
pub(super) struct Trends(HashMap<Subject, Trend>);

impl Trends {
    /// Notes all amounts of one moment; what is not among them is forgotten.
    pub(super) fn add(&mut self, at: UnixMillis, amounts: impl Iterator<Item = (Subject, u64)>) {
        let mut seen = HashSet::new();
        for (subject, bytes) in amounts.filter(|(_, bytes)| *bytes > 0) {
            if seen.len() < limits::NODES_MAX {
                seen.insert(subject);
                self.0.entry(subject).or_default().add(at, bytes);
            }
        }
        self.0.retain(|subject, _| seen.contains(subject));
    }

    /// How a subject grows, and when it is full if `left` bytes are; none when it does not grow.
    pub(super) fn growth(&self, subject: Subject, left: Option<u64>) -> Option<Growth> {
        let (minutes_rate, hours_rate) = self.0.get(&subject)?.rates();
        let fastest = minutes_rate.max(hours_rate);
        let full = |left: u64| {
            let seconds = u128::from(left) * 3600 / u128::from(fastest);
            u64::try_from(seconds).unwrap_or(u64::MAX)
        };
        (fastest > 0).then(|| Growth {
            minutes_rate,
            hours_rate,
            full_s: left.map(full),
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const MIB: u64 = 1 << 20;
    const ONE: Subject = Subject::Layer(LayerId(1));

    fn minute(n: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + n * 60_000)
    }

    #[test]
    fn a_layer_that_grows_steadily_is_full_when_it_really_will_be() {
        let mut trends = Trends::default();
        for n in 0..=120 {
            trends.add(minute(n), [(ONE, 100 * MIB + n * MIB)].into_iter());
        }
        let growth = trends.growth(ONE, Some(180 * MIB)).unwrap();
        assert_eq!(growth.minutes_rate, 60 * MIB);
        assert_eq!(growth.hours_rate, 60 * MIB);
        assert_eq!(growth.full_s, Some(3 * 3600));
        assert_eq!(growth.full(), "in 3 h");
        assert_eq!(trends.growth(ONE, None).unwrap().full_s, None);
    }

    #[test]
    fn a_burst_counts_over_the_minutes_and_is_forgotten_by_them() {
        let mut trends = Trends::default();
        let held = |n: u64| if n < 60 { MIB } else { 601 * MIB };
        for n in 0..=61 {
            trends.add(minute(n), [(ONE, held(n))].into_iter());
        }
        let burst = trends.growth(ONE, Some(0)).unwrap();
        assert!(burst.minutes_rate > 5 * burst.hours_rate);
        for n in 62..=80 {
            trends.add(minute(n), [(ONE, held(n))].into_iter());
        }
        let later = trends.growth(ONE, Some(0)).unwrap();
        assert_eq!(later.minutes_rate, 0);
        assert!(later.hours_rate > 0);
    }

    #[test]
    fn what_does_not_grow_or_was_reset_or_is_gone_has_no_forecast() {
        let mut trends = Trends::default();
        for n in 0..10 {
            trends.add(
                minute(n),
                [(ONE, MIB * (n + 1)), (Subject::Disk, MIB)].into_iter(),
            );
        }
        assert!(trends.growth(ONE, None).is_some());
        assert_eq!(trends.growth(Subject::Disk, Some(1)), None);
        trends.add(minute(10), [(ONE, MIB)].into_iter());
        assert_eq!(trends.growth(ONE, None), None);
        assert!(!trends.0.contains_key(&Subject::Disk));
    }
}
