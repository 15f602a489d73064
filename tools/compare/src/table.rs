//! What was found, as Markdown for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::figures::{Summary, Verdict, find, summary, verdicts};
use crate::memory::Step;
use crate::park::{TARGETS, Target};
use crate::runner::{Cell, Found};

/// Longest text of a failure in a cell.
const CELL_CHARS: usize = 120;

/// All that a run found, and what it ran on.
#[derive(Debug)]
pub struct Report {
    /// Columns with their versions, or why they are missing.
    pub versions: Vec<(Target, Result<String, String>)>,
    /// Lines about the machine and the run.
    pub about: Vec<String>,
    /// Rows.
    pub rows: Vec<Found>,
    /// Memory of idle sessions.
    pub memory: Vec<Step>,
}

/// A rate of operations, or of MiB.
fn rate(value: f64, large: bool) -> String {
    if large {
        format!("{value:.0} MiB/s")
    } else if value < 1000.0 {
        format!("{value:.1} /s")
    } else {
        format!("{:.1} k/s", value / 1e3)
    }
}

fn cell(found: &Found, target: Target) -> Option<&Cell> {
    found.cells.iter().find(|cell| cell.target == target)
}

fn rate_cell(found: &Found, target: Target) -> String {
    let Some(cell) = cell(found, target) else {
        return "-".into();
    };
    if let Some(failure) = &cell.failure {
        return format!("failed: {}", one_line(failure));
    }
    let large = found.row.large().is_some();
    summary(&found.row, &cell.rounds).map_or_else(
        || "-".into(),
        |s| {
            let [least, most] = [s.rate.least, s.rate.most].map(|value| rate(value, large));
            let least = least.split(' ').next().unwrap_or_default().to_owned();
            format!("{} ({least} to {most})", rate(s.rate.median, large))
        },
    )
}

/// For a cell of a table: the end of a long text, where the cause is.
fn one_line(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ").replace('|', "/");
    let skip = text.chars().count().saturating_sub(CELL_CHARS);
    let dots = if skip > 0 { "... " } else { "" };
    dots.chars()
        .chain(text.trim_end().chars().skip(skip))
        .collect()
}

fn ratio(found: &[Found], name: &str, target: Target) -> String {
    let ours = find(found, name, Target::Ours);
    let other = find(found, name, target);
    ours.zip(other).map_or_else(
        || "-".into(),
        |(ours, other)| format!("{:.2}", ours.rate.median / other.rate.median),
    )
}

fn verdict_words(verdict: &Verdict) -> String {
    let words = verdict.words;
    match verdict.found {
        None => format!("{words}: not measured"),
        Some(found) => {
            let state = if verdict.met { "met" } else { "**not met**" };
            format!(
                "{words}: {state}, {found:.2} ({:+.0} %)",
                verdict.margin_percent
            )
        }
    }
}

fn latency(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "-".into(),
        |s| format!("{:.0} / {:.0}", s.p50_us, s.p99_us),
    )
}

fn micros(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.1}"))
}

/// The document.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    for line in &report.about {
        let _ = writeln!(out, "- {line}");
    }
    for (target, version) in &report.versions {
        let said = version.as_ref().unwrap_or_else(|why| why);
        let _ = writeln!(out, "- {}: {}", target.title(), one_line(said));
    }
    out.push_str("- SPDK: no Debian package, so it is not measured here\n\n");
    ratios(report, &mut out);
    times(report, &mut out);
    memory(report, &mut out);
    out
}

fn ratios(report: &Report, out: &mut String) {
    out.push_str(
        "| case | Reveille | tgt | istgt | bare TCP | x tgt | x istgt | x bare | must reach |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for found in &report.rows {
        let name = &found.row.name;
        let _ = write!(out, "| {} |", found.row.title);
        for target in TARGETS {
            let _ = write!(out, " {} |", rate_cell(found, target));
        }
        for target in [Target::Tgt, Target::Istgt, Target::Bare] {
            let _ = write!(out, " {} |", ratio(&report.rows, name, target));
        }
        let verdicts: Vec<String> = verdicts(&report.rows, name)
            .iter()
            .map(verdict_words)
            .collect();
        let _ = writeln!(out, " {} |", verdicts.join("; "));
    }
    out.push('\n');
}

/// Latency and processor time; the last columns: beyond what the load can send, the load is measured, no server.
fn times(report: &Report, out: &mut String) {
    out.push_str(
        "| case | Reveille p50 / p99 us | tgt | istgt | bare TCP | Reveille CPU us each | tgt | istgt | bare TCP | \
         load's own CPU us each | so at most |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for found in &report.rows {
        let name = &found.row.name;
        let _ = write!(out, "| {} |", found.row.title);
        let summaries = TARGETS.map(|target| find(&report.rows, name, target));
        for summary in summaries {
            let _ = write!(out, " {} |", latency(summary));
        }
        for summary in summaries {
            let _ = write!(out, " {} |", micros(summary.map(|s| s.server_us)));
        }
        let load = summaries
            .into_iter()
            .flatten()
            .map(|s| s.load_us)
            .reduce(f64::min);
        let each = found
            .row
            .large()
            .map_or(1.0, |len| f64::from(len) / f64::from(1 << 20));
        let most = load.map_or_else(String::new, |us| {
            rate(1e6 / us * each, found.row.large().is_some())
        });
        let _ = writeln!(out, " {} | {most} |", micros(load));
    }
    out.push('\n');
}

fn memory(report: &Report, out: &mut String) {
    if report.memory.is_empty() {
        return;
    }
    out.push_str(
        "| idle sessions | server | own MiB | resident MiB | KiB each | threads | opened in s | |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for step in &report.memory {
        let _ = writeln!(
            out,
            "| {} | {} | {:.1} | {:.1} | {:.1} | {} | {:.2} | {} |",
            step.sessions,
            step.target.title(),
            step.memory.own as f64 / f64::from(1 << 20),
            step.memory.resident as f64 / f64::from(1 << 20),
            step.each as f64 / 1024.0,
            step.memory.threads,
            step.time.as_secs_f64(),
            step.failure.as_deref().map(one_line).unwrap_or_default(),
        );
    }
}

/// All figures.
#[must_use]
pub fn json(report: &Report) -> Value {
    let versions: serde_json::Map<String, Value> = report
        .versions
        .iter()
        .map(|(target, version)| (target.word().to_owned(), json!(version.as_ref().ok())))
        .collect();
    json!({
        "about": report.about,
        "versions": versions,
        "cases": report.rows.iter().map(|found| row_json(&report.rows, found)).collect::<Vec<_>>(),
        "memory": report.memory.iter().map(step_json).collect::<Vec<_>>(),
    })
}

fn row_json(all: &[Found], found: &Found) -> Value {
    let name = &found.row.name;
    let targets: serde_json::Map<String, Value> = found
        .cells
        .iter()
        .map(|cell| (cell.target.word().to_owned(), cell_json(found, cell)))
        .collect();
    let limits: Vec<Value> = verdicts(all, name)
        .iter()
        .map(|v| json!({"limit": v.words, "found": v.found, "met": v.met, "margin_percent": v.margin_percent}))
        .collect();
    json!({
        "name": name,
        "title": found.row.title,
        "unit": if found.row.large().is_some() { "MiB/s" } else { "1/s" },
        "targets": targets,
        "limits": limits,
    })
}

fn cell_json(found: &Found, cell: &Cell) -> Value {
    let rounds: Vec<Value> = cell
        .rounds
        .iter()
        .map(|r| {
            json!({"done": r.done, "ns": r.ns, "p50_ns": r.p50_ns, "p99_ns": r.p99_ns,
                   "server_cpu_ns": r.server_ns, "load_cpu_ns": r.load_ns})
        })
        .collect();
    let figures = summary(&found.row, &cell.rounds).map(|s| {
        json!({"rate": s.rate.median, "rate_min": s.rate.least, "rate_max": s.rate.most, "p50_us": s.p50_us,
               "p99_us": s.p99_us, "server_cpu_us": s.server_us, "load_cpu_us": s.load_us})
    });
    json!({"failure": cell.failure, "figures": figures, "rounds": rounds})
}

fn step_json(step: &Step) -> Value {
    json!({
        "target": step.target.word(), "sessions_wanted": step.wanted, "sessions": step.sessions,
        "own_bytes": step.memory.own, "resident_bytes": step.memory.resident, "bytes_each": step.each,
        "threads": step.memory.threads, "seconds": step.time.as_secs_f64(), "failure": step.failure,
    })
}
