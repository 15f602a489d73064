//! Times in logarithmic buckets: an error of at most one part in 64, whatever the range. Pure.
//!
//! Values below 128 have a bucket each. Above, each doubling has 64 of the same width.

use serde::Serialize;

/// Buckets of one doubling, as a power of two.
const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;

/// Counts of values.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
    min: u64,
}

/// What is told of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Values.
    pub count: u64,
    /// Mean.
    pub mean_us: u64,
    /// Half of the values are not above.
    pub p50_us: u64,
    /// Nine in ten.
    pub p90_us: u64,
    /// Ninety-nine in a hundred.
    pub p99_us: u64,
    /// The largest, exactly.
    pub max_us: u64,
}

fn bucket(value: u64) -> usize {
    let high = 63 - (value | 1).leading_zeros();
    if high <= SUB_BITS {
        return usize::try_from(value).unwrap_or(0);
    }
    let shift = high - SUB_BITS;
    let within = (value >> shift) - SUB;
    usize::try_from(u64::from(shift + 1) * SUB + within).unwrap_or(0)
}

/// The largest value of a bucket.
fn top(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB {
        return bucket;
    }
    let shift = bucket / SUB - 1;
    let within = bucket % SUB + SUB;
    // In this order the last bucket does not overflow.
    (within << shift) + ((1 << shift) - 1)
}

impl Histogram {
    /// Counts a value.
    pub(super) fn record(&mut self, value: u64) {
        let at = bucket(value);
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.min = if self.count == 0 {
            value
        } else {
            self.min.min(value)
        };
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Adds what another one counted.
    pub(super) fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.min = if self.count == 0 {
            other.min
        } else {
            self.min.min(other.min)
        };
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// The smallest value that at least `per_mille` of a thousand values do not pass; at most 1/64 above it. 0
    /// when there is none.
    #[must_use]
    pub(super) fn quantile(&self, per_mille: u64) -> u64 {
        let wanted = u128::from(self.count) * u128::from(per_mille.min(1000));
        let wanted = u64::try_from(wanted.div_ceil(1000)).unwrap_or(self.count);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return top(at).clamp(self.min, self.max);
            }
        }
        self.max
    }

    /// What is told of it.
    #[must_use]
    pub(super) fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.count,
            mean_us: self.sum.checked_div(self.count).unwrap_or(0),
            p50_us: self.quantile(500),
            p90_us: self.quantile(900),
            p99_us: self.quantile(990),
            max_us: self.max,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gap_up_to_the_end() {
        let mut expected = 0;
        for at in 0..=bucket(u64::MAX) {
            assert_eq!(bucket(expected), at);
            assert_eq!(bucket(top(at)), at);
            expected = top(at).wrapping_add(1);
        }
        assert_eq!(expected, 0, "the last bucket ends with the last number");
    }

    #[test]
    fn nothing_counted_is_told_as_nothing() {
        assert_eq!(Histogram::default().percentiles(), Percentiles::default());
    }

    fn values() -> impl Strategy<Value = Vec<u64>> {
        let one = prop_oneof![0u64..200, 0u64..100_000, any::<u64>()];
        prop::collection::vec(one, 1..300)
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_values_within_a_64th(values in values(), per_mille in 0u64..=1000) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.record(*v));
            let mut sorted = values;
            sorted.sort_unstable();
            let rank = (sorted.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = sorted[usize::try_from(rank).unwrap() - 1];
            let found = histogram.quantile(per_mille);
            prop_assert!(found >= exact && found - exact <= exact / 64, "{found} for {exact}");
            prop_assert_eq!(histogram.percentiles().max_us, sorted[sorted.len() - 1]);
        }

        #[test]
        fn two_added_are_one_that_counted_all(a in values(), b in values()) {
            let of = |values: &[u64]| {
                let mut h = Histogram::default();
                values.iter().for_each(|v| h.record(*v));
                h
            };
            let mut sum = of(&a);
            sum.add(&of(&b));
            let all = of(&[a, b].concat());
            prop_assert_eq!(sum.percentiles(), all.percentiles());
            prop_assert_eq!(sum.quantile(0), all.quantile(0));
        }
    }
}
