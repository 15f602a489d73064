//! The swarm: virtual nodes that replay recorded boots against an iSCSI target, ours or another, and look at
//! every byte that comes back. Level 6.
//!
//! ```text
//!   plan.rs       a trace, made ready: which operation waits for which, and for how long          (pure)
//!   flow.rs       one session of one node: what may start now                                     (pure)
//!   node.rs       one node: login, probes, operations, retries, reading back, logout              (pure)
//!   firmware.rs   before that: loader by TFTP, script by HTTP; after it the ready call            (pure)
//!   link.rs       its connection: PDUs out, PDUs in, Data-In handed on in place                   (pure)
//!   check.rs      is this what the disk must hold? golden.rs, ledger.rs, data.rs: what that is    (pure)
//!   tally.rs      counts and times; histogram.rs                                                  (pure)
//!   report.rs     what came of it, as text and JSON; plot.rs: as a drawing                        (pure)
//!   synth.rs      traces that nobody recorded                                                     (pure)
//!   runner.rs     threads, sockets, clock: one poll and one receive buffer per thread
//!   process.rs    processor time and memory of a process
//! ```
//! What this room never does: keep what it reads (a payload is compared where it was received), run a thread or
//! a buffer per node, or touch a disk that it was not told to.
//!
//! Words: **trace** (a recorded boot), **node** (one replay of it), **golden** (what the image holds where the
//! trace reads), **generation** (the number of a write in its node's trace: which write a sector is from),
//! **think time** (what the recorded node did between the end of one operation and the start of the next),
//! **storm** (many nodes at once), **errand** (what a node does beside its disk: loader, script, ready call).

mod check;
mod data;
mod error;
mod firmware;
mod flow;
mod golden;
mod histogram;
mod ledger;
mod link;
mod node;
mod plan;
mod plot;
mod process;
mod report;
mod runner;
mod synth;
mod tally;

pub use check::Mismatch;
pub use error::{Error, ErrorKind};
pub use firmware::{BootPath, Firmware};
pub use golden::Golden;
pub use histogram::Percentiles;
pub use node::{Identity, Verify, World};
pub use plan::{Pace, Plan, Who};
pub use plot::storm_svg;
pub use process::{Process, Usage};
pub use report::{NodeReport, Report, StageLine, Step, Used, seconds, slope_percent};
pub use runner::{Live, Progress, Start, run};
pub use synth::{Shape, synthetic};
pub use tally::{Counts, Stage};

/// Microseconds of the run.
fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "node_test.rs"]
mod node_test;
