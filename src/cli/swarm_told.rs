//! What a storm was like, for people.

use super::output::{print_table, print_text};
use super::progress::say;
use crate::names::{NodeName, NodeSet};
use crate::swarm::{NodeReport, Report, Stage, Step, Used, seconds};
use crate::units::HumanBytes;

/// Prints the tables to stdout, and what went wrong to stderr.
pub(super) fn print(report: &Report) {
    print_table(
        &[
            "nodes",
            "booted",
            "time",
            "per node",
            "read",
            "compared",
            "commands/s",
            "read p50",
            "read p99",
            "errors",
            "wrong",
            "reconnects",
            "swarm cpu",
            "swarm memory",
            "server cpu",
            "cpu/boot",
            "cpu/GiB",
            "server memory",
        ],
        report.steps.iter().map(step_row),
    );
    if let Some(slope) = report.slope_percent {
        print_text(&format!(
            "\ntime per node from the smallest to the largest storm: {slope:+.1} %\n"
        ));
    }
    let Some(last) = report.steps.last() else {
        return;
    };
    print_text("\n");
    print_table(
        &["stage", "count", "p50", "p90", "p99", "max"],
        last.stages.iter().map(|line| {
            let times = &line.times;
            vec![
                line.stage.name().to_owned(),
                times.count.to_string(),
                time(times.p50_us),
                time(times.p90_us),
                time(times.p99_us),
                time(times.max_us),
            ]
        }),
    );
    print_text("\n");
    print_table(
        &["slowest", "boot", "first login", "sessions", "why"],
        last.slowest.iter().take(5).map(node_row),
    );
    for step in &report.steps {
        faults(step);
    }
}

fn step_row(step: &Step) -> Vec<String> {
    let read = step.times(Stage::Read);
    let counts = &step.counts;
    let per_second = |n: u64| format!("{:.0}", ratio(n, 1) / step.seconds_in_all.max(1e-6));
    let server = |of: &dyn Fn(&Used) -> String| step.server.as_ref().map_or("-".to_owned(), of);
    vec![
        step.nodes.to_string(),
        step.done.to_string(),
        format!("{:.2} s", step.seconds),
        format!("{:.1} ms", step.seconds_per_node * 1000.0),
        HumanBytes(counts.read_bytes).to_string(),
        HumanBytes(counts.verified_bytes).to_string(),
        per_second(counts.ops),
        read.map_or("-".into(), |times| time(times.p50_us)),
        read.map_or("-".into(), |times| time(times.p99_us)),
        counts.errors.to_string(),
        counts.bad_sectors.to_string(),
        counts.reconnects.to_string(),
        time(step.swarm.cpu_us),
        HumanBytes(step.swarm.resident_peak_bytes).to_string(),
        server(&|used| time(used.cpu_us)),
        server(&|used| time(used.cpu_us.checked_div(step.nodes as u64).unwrap_or(0))),
        server(&|used| {
            let gib = ratio(counts.read_bytes + counts.written_bytes, 1 << 30);
            format!("{:.3} s", seconds(used.cpu_us) / gib.max(1e-9))
        }),
        server(&|used| HumanBytes(used.resident_peak_bytes).to_string()),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(n: u64, by: u64) -> f64 {
    n as f64 / by as f64
}

/// Microseconds with a unit that fits.
fn time(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{:.1} ms", ratio(us, 1000)),
        _ => format!("{:.2} s", ratio(us, 1_000_000)),
    }
}

fn node_row(node: &NodeReport) -> Vec<String> {
    let sessions: Vec<String> = node.sessions_us.iter().map(|us| time(*us)).collect();
    vec![
        node.node.clone(),
        node.boot_us.map_or("-".into(), time),
        time(node.login_us),
        sessions.join(", "),
        node.why(),
    ]
}

/// What went wrong, and with whom: the nodes as a nodeset where their names are such.
fn faults(step: &Step) {
    for wrong in &step.mismatches {
        say(&wrong.to_string());
    }
    if step.counts.skipped > 0 {
        say(&format!(
            "{} commands that would change a disk were left out (--read-only)",
            step.counts.skipped
        ));
    }
    if step.counts.unverified_bytes > 0 {
        let bytes = HumanBytes(step.counts.unverified_bytes);
        say(&format!("{bytes} could not be compared, or were not to be"));
    }
    for node in &step.faulty {
        say(&format!("node {}: {}", node.node, node.why()));
    }
    let failed = step.nodes - step.done;
    if failed > 0 {
        let names = step
            .faulty
            .iter()
            .filter_map(|node| NodeName::parse(&node.node).ok());
        let names: NodeSet = names.collect();
        let more = failed.saturating_sub(step.faulty.len());
        let rest = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        say(&format!(
            "of {} nodes {failed} had faults: {names}{rest}",
            step.nodes
        ));
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn times_have_the_unit_that_fits() {
        assert_eq!(
            [time(999), time(1500), time(2_000_000)],
            ["999 us", "1.5 ms", "2.00 s"]
        );
    }
}
