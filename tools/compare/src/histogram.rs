//! Latencies without an allocation per entry: 64 steps for each power of two, so a figure is right within 1.6 %.

/// Steps within a power of two.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Entries that cover all of 64 bits.
const PLACES: usize = 59 * 64;
const _: () = assert!(PLACES as u64 == (64 - STEP_BITS as u64 + 1) * STEPS);

/// Counts of nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; PLACES],
            total: 0,
        }
    }
}

fn place(ns: u64) -> usize {
    let place = if ns < STEPS {
        ns
    } else {
        let shift = 63 - ns.leading_zeros() - STEP_BITS;
        (u64::from(shift) + 1) * STEPS + (ns >> shift) - STEPS
    };
    usize::try_from(place).unwrap_or(PLACES - 1)
}

/// The smallest value that belongs there.
fn value(place: usize) -> u64 {
    let place = place as u64;
    if place < STEPS {
        return place;
    }
    let shift = place / STEPS - 1;
    (place % STEPS + STEPS) << shift
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, ns: u64) {
        if let Some(count) = self.counts.get_mut(place(ns)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// The value that so many of a thousand entries do not exceed; zero when there is none.
    #[must_use]
    pub fn permille(&self, permille: u64) -> u64 {
        let wanted = (self.total * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return value(place);
            }
        }
        0
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_value_lands_within_a_64th_of_itself() {
        for shift in 0..63 {
            for ns in [
                1_u64 << shift,
                (1 << shift) + (1 << shift) / 3,
                u64::MAX >> shift,
            ] {
                let low = value(place(ns));
                assert!(low <= ns && ns - low <= ns / 64, "{ns} became {low}");
            }
        }
    }

    #[test]
    fn percentiles_are_those_of_a_sorted_list() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.permille(500), 0);
        for ns in 1..=1000 {
            histogram.add(ns);
        }
        for permille in [1_u64, 10, 500, 990, 1000] {
            let found = histogram.permille(permille);
            assert!(
                found <= permille && permille - found <= permille / 64,
                "{permille}: {found}"
            );
        }
    }
}
