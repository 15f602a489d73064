//! `reveille check`: the offline check of a state directory. Works on the files, never through a daemon.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::Exit;
use super::output::{Format, print_one};
use super::progress;
use crate::head::check::{CheckAsk, CheckReport, Finding, check};
use crate::units::HumanBytes;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also reads every chunk of every image and compares it with its id
    #[arg(long)]
    data: bool,
    /// Mends what can be mended safely: gives garbage back, restores from copies, moves aside; removes nothing
    /// that somebody may want
    #[arg(long)]
    repair: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(state: &Path, args: &Args) -> anyhow::Result<Exit> {
    let ask = CheckAsk {
        data: args.data,
        repair: args.repair,
    };
    let bar = progress::bytes("checking chunks");
    let report = check(
        state,
        ask,
        &|step| {
            bar.set_length(step.total);
            bar.set_position(step.done);
        },
        &AtomicBool::new(false),
    );
    bar.finish_and_clear();
    let report = report?;
    print_one(&report, args.output, || text(state, &report))?;
    Ok(if report.clean {
        Exit::Good
    } else {
        Exit::Failed
    })
}

fn text(state: &Path, report: &CheckReport) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        out += &one(finding);
    }
    for done in &report.repaired {
        out += &format!("repaired: {done}\n");
    }
    let counts = &report.counts;
    let data = match counts.data_bytes {
        0 => String::new(),
        bytes => format!(", {} of chunks read", HumanBytes(bytes)),
    };
    out += &format!(
        "{}: {} nodes, {} image versions, {} layers, {} chunks in {} packs{data}\n",
        state.display(),
        counts.nodes,
        counts.versions,
        counts.layers,
        counts.chunks,
        counts.packs
    );
    out += if report.clean {
        "no damage\n"
    } else {
        "DAMAGED\n"
    };
    out
}

fn one(finding: &Finding) -> String {
    let mut out = format!(
        "{}: {}: {}\n",
        finding.severity.as_str(),
        finding.object,
        finding.what
    );
    if !finding.images.is_empty() {
        out += &format!("  images: {}\n", finding.images.join(", "));
    }
    if !finding.nodes.is_empty() {
        out += &format!("  nodes: {}\n", finding.nodes);
    }
    out + &format!("  next: {}\n", finding.next)
}
