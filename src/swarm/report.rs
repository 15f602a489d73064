//! What came of a swarm: for people, for programs, and for the drawing. Pure.

use serde::Serialize;

use super::check::Mismatch;
use super::histogram::Percentiles;
use super::process::Usage;
use super::tally::{Counts, Stage, Tally};
use crate::limits::SWARM_NODES_TOLD;

/// What became of one node. Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub node: String,
    /// It went through the whole trace, without an error, and nothing that it read was wrong.
    pub done: bool,
    /// The first thing that went wrong and was not repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why its first lost connection was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_loss: Option<String>,
    /// When it began, since the start of the run.
    pub began_us: u64,
    /// When its last operation ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_us: Option<u64>,
    /// From one to the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_us: Option<u64>,
    /// From its first packet until it knew its disk, if it booted from the network.
    #[serde(skip_serializing_if = "is_zero")]
    pub netboot_us: u64,
    /// Its first login.
    pub login_us: u64,
    /// Its sessions.
    pub sessions_us: Vec<u64>,
    /// Reading back what it wrote.
    pub read_back_us: u64,
    /// Commands that ended.
    pub ops: u64,
    /// Bytes that came.
    pub read_bytes: u64,
    /// Bytes that went.
    pub written_bytes: u64,
    /// Operations that ended badly.
    pub errors: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// Sectors that held what they must not.
    pub bad_sectors: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl NodeReport {
    pub(super) fn new(node: String) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// What made it slow or fail, in a few words.
    #[must_use]
    pub fn why(&self) -> String {
        if let Some(reason) = &self.reason {
            return reason.clone();
        }
        match &self.first_loss {
            Some(loss) => format!("{} reconnects, the first since {loss}", self.reconnects),
            None => String::new(),
        }
    }
}

/// One line of the table of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StageLine {
    /// What was timed.
    pub stage: Stage,
    /// How long it took.
    #[serde(flatten)]
    pub times: Percentiles,
}

/// What the processes used for one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    /// Processor time of the step.
    pub cpu_us: u64,
    /// Memory at its most until then.
    pub resident_peak_bytes: u64,
}

impl Used {
    /// What was used between two looks.
    #[must_use]
    pub fn between(before: &Usage, after: &Usage) -> Self {
        Self {
            cpu_us: after.cpu_us.saturating_sub(before.cpu_us),
            resident_peak_bytes: after.resident_peak_bytes,
        }
    }
}

/// One storm.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Nodes that were to boot.
    pub nodes: usize,
    /// Nodes that did, without fault.
    pub done: usize,
    /// It was stopped before its end.
    pub stopped: bool,
    /// From the start to the end of the last boot, without reading back.
    pub seconds: f64,
    /// That, for each node.
    pub seconds_per_node: f64,
    /// Until everything was read back and logged out.
    pub seconds_in_all: f64,
    /// Amounts.
    pub counts: Counts,
    /// Times; stages that did not happen are left out.
    pub stages: Vec<StageLine>,
    /// What the server used, if it could be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Used>,
    /// What the swarm used.
    pub swarm: Used,
    /// Nodes with faults, the first of them.
    pub faulty: Vec<NodeReport>,
    /// The slowest nodes, the slowest first.
    pub slowest: Vec<NodeReport>,
    /// The first wrong bytes.
    pub mismatches: Vec<Mismatch>,
    /// When each boot ended, in order.
    pub boots_ended_us: Vec<u64>,
}

impl Step {
    pub(super) fn new(tally: Tally, nodes: &[NodeReport], elapsed_us: u64, stopped: bool) -> Self {
        let mut ended: Vec<u64> = nodes.iter().filter_map(|node| node.ended_us).collect();
        ended.sort_unstable();
        let last = match ended.last() {
            Some(last) if ended.len() == nodes.len() => *last,
            _ => elapsed_us,
        };
        let line = |stage: Stage| StageLine {
            stage,
            times: tally.times(stage).percentiles(),
        };
        let faulty = nodes.iter().filter(|node| !node.done);
        let mut slowest: Vec<&NodeReport> = nodes.iter().filter(|n| n.boot_us.is_some()).collect();
        slowest.sort_by_key(|node| std::cmp::Reverse(node.boot_us));
        let count = nodes.len();
        Self {
            nodes: count,
            done: nodes.iter().filter(|node| node.done).count(),
            stopped,
            seconds: seconds(last),
            seconds_per_node: seconds(last) / float(count.max(1)),
            seconds_in_all: seconds(elapsed_us),
            counts: tally.counts,
            stages: Stage::ALL
                .into_iter()
                .map(line)
                .filter(|line| line.times.count > 0)
                .collect(),
            server: None,
            swarm: Used::default(),
            faulty: faulty.take(SWARM_NODES_TOLD).cloned().collect(),
            slowest: slowest
                .into_iter()
                .take(SWARM_NODES_TOLD)
                .cloned()
                .collect(),
            mismatches: tally.mismatches,
            boots_ended_us: ended,
        }
    }

    /// The times of a stage.
    #[must_use]
    pub fn times(&self, stage: Stage) -> Option<&Percentiles> {
        let line = self.stages.iter().find(|line| line.stage == stage);
        line.map(|line| &line.times)
    }

    /// Nothing that was read was wrong.
    #[must_use]
    pub const fn is_true(&self) -> bool {
        self.counts.bad_sectors == 0
    }
}

/// Microseconds as seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "for people; 2^53 us are 285 years"
)]
#[must_use]
pub fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers of nodes and bytes, for people"
)]
fn float(n: usize) -> f64 {
    n as f64
}

/// Storms of several sizes over the same trace.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Format of this document.
    pub format: u32,
    /// Where the trace is from.
    pub trace: String,
    /// What was asked.
    pub target: String,
    /// Nodes thought as recorded.
    pub think: bool,
    /// The storms.
    pub steps: Vec<Step>,
    /// Change of seconds per node from the smallest to the largest step, in percent of the smallest, on the
    /// straight line that fits best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slope_percent: Option<f64>,
}

impl Report {
    /// Of these steps.
    #[must_use]
    pub fn new(trace: String, target: String, think: bool, steps: Vec<Step>) -> Self {
        let points: Vec<(f64, f64)> = steps
            .iter()
            .map(|step| (float(step.nodes), step.seconds_per_node))
            .collect();
        Self {
            format: 1,
            trace,
            target,
            think,
            slope_percent: slope_percent(&points),
            steps,
        }
    }
}

/// How much a value changes from the first to the last place, in percent of its value at the first, on the line
/// of least squares. None for fewer than two places, or when the line begins at nothing.
#[must_use]
pub fn slope_percent(points: &[(f64, f64)]) -> Option<f64> {
    let n = float(points.len());
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let over: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let under: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let least = points.iter().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let most = points.iter().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
    if points.len() < 2 || under <= 0.0 {
        return None;
    }
    let slope = over / under;
    let first = y + slope * (least - x);
    (first.abs() > f64::EPSILON).then(|| slope * (most - least) / first * 100.0)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_flat_line_has_no_slope_and_a_doubling_is_a_hundred_percent() {
        let close = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-9;
        assert!(close(
            slope_percent(&[(10.0, 0.1), (100.0, 0.1), (1000.0, 0.1)]),
            0.0
        ));
        assert!(close(
            slope_percent(&[(0.0, 1.0), (5.0, 1.5), (10.0, 2.0)]),
            100.0
        ));
        assert!(close(slope_percent(&[(10.0, 2.0), (0.0, 4.0)]), -50.0));
        assert_eq!(slope_percent(&[(10.0, 0.1)]), None);
        assert_eq!(slope_percent(&[(10.0, 0.1), (10.0, 0.2)]), None);
    }

    #[test]
    fn a_storm_lasts_until_its_last_boot_and_tells_its_slowest() {
        let node = |name: &str, boot_us: Option<u64>| NodeReport {
            node: name.into(),
            done: boot_us.is_some(),
            boot_us,
            ended_us: boot_us,
            ..NodeReport::default()
        };
        let nodes = vec![node("a", Some(2_000_000)), node("b", Some(3_000_000))];
        let step = Step::new(Tally::default(), &nodes, 9_000_000, false);
        assert!((step.seconds - 3.0).abs() < 1e-9 && (step.seconds_per_node - 1.5).abs() < 1e-9);
        assert_eq!((step.done, &*step.slowest[0].node), (2, "b"));
        let failed = vec![node("a", Some(2_000_000)), node("b", None)];
        let step = Step::new(Tally::default(), &failed, 9_000_000, true);
        assert!((step.seconds - 9.0).abs() < 1e-9);
        assert_eq!((step.done, &*step.faulty[0].node), (1, "b"));
    }
}
