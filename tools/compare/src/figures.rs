//! From rounds to figures: medians with their least and largest, ratios, and what must be reached.

use crate::cases::Row;
use crate::load::Round;
use crate::park::Target;
use crate::runner::Found;

/// The median of some figures, and how far they lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Least.
    pub least: f64,
    /// Largest.
    pub most: f64,
}

impl Spread {
    /// Of figures in any order; zeros for none.
    #[must_use]
    pub fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let at = |n: usize| figures.get(n).copied().unwrap_or(0.0);
        let n = figures.len();
        let median = if n % 2 == 1 {
            at(n / 2)
        } else {
            f64::midpoint(at((n / 2).saturating_sub(1)), at(n / 2))
        };
        Self {
            median,
            least: at(0),
            most: at(n.saturating_sub(1)),
        }
    }
}

/// A row on a target, in figures.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// A second: operations, or MiB where the row's transfers are large.
    pub rate: Spread,
    /// Half of all take no longer, microseconds.
    pub p50_us: f64,
    /// 99 of a hundred.
    pub p99_us: f64,
    /// Processor time of the server for each, microseconds.
    pub server_us: f64,
    /// The same of the load generator.
    pub load_us: f64,
}

fn rate(row: &Row, round: &Round) -> f64 {
    let each = row
        .large()
        .map_or(1.0, |len| f64::from(len) / f64::from(1 << 20));
    round.done as f64 * each / (round.ns as f64 / 1e9)
}

/// Of all rounds; none when there are none.
#[must_use]
pub fn summary(row: &Row, rounds: &[Round]) -> Option<Summary> {
    let median =
        |figure: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(figure).collect()).median;
    (!rounds.is_empty()).then(|| Summary {
        rate: Spread::of(rounds.iter().map(|round| rate(row, round)).collect()),
        p50_us: median(&|r| r.p50_ns as f64 / 1e3),
        p99_us: median(&|r| r.p99_ns as f64 / 1e3),
        server_us: median(&|r| r.server_ns as f64 / 1e3 / r.done as f64),
        load_us: median(&|r| r.load_ns as f64 / 1e3 / r.done as f64),
    })
}

/// A figure of a row on a target; none when it failed or was not asked for.
#[must_use]
pub fn find(all: &[Found], name: &str, target: Target) -> Option<Summary> {
    let found = all.iter().find(|found| found.row.name == name)?;
    let cell = found.cells.iter().find(|cell| cell.target == target)?;
    if cell.failure.is_some() {
        return None;
    }
    summary(&found.row, &cell.rounds)
}

/// What is compared with what.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// Our rate over another target's in the same row.
    Over(Target),
    /// Our rate over our own in another row.
    OverOwn(&'static str),
    /// Our processor time over another target's.
    CpuOver(Target),
    /// Our rate itself.
    Rate,
}

/// A figure that must be reached.
#[derive(Clone, Copy, Debug)]
struct Limit {
    row: &'static str,
    wanted: Wanted,
    /// At least; for processor time, at most.
    limit: f64,
    words: &'static str,
}

const fn limit(row: &'static str, wanted: Wanted, limit: f64, words: &'static str) -> Limit {
    Limit {
        row,
        wanted,
        limit,
        words,
    }
}

/// What this project has set itself.
const LIMITS: &[Limit] = &[
    limit("read-4k-1", Wanted::Over(Target::Tgt), 1.3, "1.3 x tgt"),
    limit("read-4k-1", Wanted::Over(Target::Bare), 0.8, "0.8 x bare"),
    limit("read-4k-32", Wanted::Over(Target::Tgt), 4.0, "4 x tgt"),
    limit(
        "read-4k-32",
        Wanted::CpuOver(Target::Tgt),
        0.25,
        "CPU at most 1/4 of tgt's",
    ),
    limit(
        "sessions-many",
        Wanted::OverOwn("read-4k-32"),
        1.0,
        "1 x the single session at depth 32",
    ),
    limit("read-256k-8", Wanted::Over(Target::Tgt), 1.6, "1.6 x tgt"),
    limit("read-256k-8", Wanted::Over(Target::Bare), 1.0, "1 x bare"),
    limit("write-4k-32", Wanted::Over(Target::Tgt), 3.0, "3 x tgt"),
    limit("login-8", Wanted::Rate, 10_000.0, "10,000 a second"),
    limit(
        "digests-on",
        Wanted::OverOwn("digests-off"),
        0.6,
        "0.6 x without digests",
    ),
    limit(
        "nodes-many",
        Wanted::OverOwn("nodes-one"),
        0.97,
        "0.97 x one node",
    ),
    limit(
        "golden-large",
        Wanted::OverOwn("golden-usual"),
        0.97,
        "0.97 x the usual image",
    ),
];

/// How a limit stands.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The limit in words.
    pub words: &'static str,
    /// What was found; none when one of its figures is missing.
    pub found: Option<f64>,
    /// It is reached.
    pub met: bool,
    /// How far above it (negative: below), in percent of the limit; for processor time, how far below.
    pub margin_percent: f64,
}

/// The limits of a row.
#[must_use]
pub fn verdicts(all: &[Found], name: &str) -> Vec<Verdict> {
    let own = LIMITS.iter().filter(|limit| limit.row == name);
    own.map(|limit| verdict(all, limit)).collect()
}

fn verdict(all: &[Found], limit: &Limit) -> Verdict {
    let ours = find(all, limit.row, Target::Ours);
    let over = |target| Some(ours?.rate.median / find(all, limit.row, target)?.rate.median);
    let found = match limit.wanted {
        Wanted::Over(target) => over(target),
        Wanted::OverOwn(row) => ours
            .zip(find(all, row, Target::Ours))
            .map(|(ours, other)| ours.rate.median / other.rate.median),
        Wanted::CpuOver(target) => ours
            .zip(find(all, limit.row, target))
            .map(|(ours, other)| ours.server_us / other.server_us),
        Wanted::Rate => ours.map(|ours| ours.rate.median),
    };
    let above = found.map_or(0.0, |found| (found / limit.limit - 1.0) * 100.0);
    let at_most = matches!(limit.wanted, Wanted::CpuOver(_));
    let margin_percent = if at_most { -above } else { above };
    Verdict {
        words: limit.words,
        found,
        met: found.is_some() && margin_percent >= 0.0,
        margin_percent,
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::cases::Act;
    use crate::runner::Cell;

    fn found(name: &str, rates: &[(Target, u64, u64)]) -> Found {
        let cell = |&(target, done, server_ns): &(Target, u64, u64)| Cell {
            target,
            rounds: vec![Round {
                done,
                ns: 1_000_000_000,
                server_ns,
                ..Round::default()
            }],
            failure: None,
        };
        Found {
            row: Row {
                name: name.into(),
                title: String::new(),
                act: Act::Logins { at_once: 1 },
                lanes: Vec::new(),
                warm_up: 0,
            },
            cells: rates.iter().map(cell).collect(),
            profile: None,
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_in_the_middle() {
        assert_eq!(
            Spread::of(vec![3.0, 1.0, 2.0]),
            Spread {
                median: 2.0,
                least: 1.0,
                most: 3.0
            }
        );
        assert!((Spread::of(vec![4.0, 1.0, 2.0, 3.0]).median - 2.5).abs() < 1e-9);
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }

    #[test]
    fn limits_are_met_missed_or_not_known() {
        let all = [found(
            "read-4k-32",
            &[
                (Target::Ours, 100_000, 500_000_000),
                (Target::Tgt, 20_000, 800_000_000),
            ],
        )];
        let said = verdicts(&all, "read-4k-32");
        assert!(
            said[0].met && (said[0].margin_percent - 25.0).abs() < 0.01,
            "{said:?}"
        );
        // 5 us against 40 us: an eighth where a quarter is the most.
        assert!(
            said[1].met && (said[1].margin_percent - 50.0).abs() < 0.01,
            "{said:?}"
        );
        let slow = [found(
            "read-4k-32",
            &[(Target::Ours, 60_000, 60), (Target::Tgt, 20_000, 60)],
        )];
        let said = verdicts(&slow, "read-4k-32");
        assert!(
            !said[0].met && (said[0].margin_percent + 25.0).abs() < 0.01,
            "{said:?}"
        );
        let alone = [found("read-4k-32", &[(Target::Ours, 60_000, 60)])];
        let said = verdicts(&alone, "read-4k-32");
        assert!(said.iter().all(|v| v.found.is_none() && !v.met));
    }

    #[test]
    fn a_failed_cell_has_no_figure() {
        let mut all = [found("login-8", &[(Target::Ours, 20_000, 1)])];
        assert!(verdicts(&all, "login-8")[0].met);
        all[0].cells[0].failure = Some("the byte at 7 is not the disk's".into());
        assert!(!verdicts(&all, "login-8")[0].met);
    }
}
