//! A boot storm: `cargo bench --bench storm [10 50 100 250 500 1000]`.
//!
//! A release head with so many ephemeral nodes over one image, and `reveille swarm run --no-think` against it, as two
//! processes that share all cores of this machine. Every byte is compared. For each number of nodes: seconds, seconds
//! per node, latency of reads, processor time and memory of both; at the end the slope of seconds per node.
//!
//! The trace is `images/traces/debian-12-boot.trace.gz`, and the image the raw file that `REVEILLE_GOLDEN` names; with
//! neither, a made-up boot of the same shape over a made-up image. `REVEILLE_TRACE` names another trace.
//! `REVEILLE_STORM_ARGS` are further arguments of `swarm run`. The raw report goes to `target/storm.json`, a
//! drawing to `target/storm.svg`.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a bench")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::TestHead;
use reveille::swarm::{Shape, synthetic};
use reveille::trace::{OpKind, Trace};
use serde_json::Value;

const RECORDED: &str = "images/traces/debian-12-boot.trace.gz";

fn main() {
    let counts: Vec<u32> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let counts = if counts.is_empty() {
        vec![10, 50, 100]
    } else {
        counts
    };
    let mut head = TestHead::with_config("[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\n");
    let (trace, golden) = boot(&head);
    let file = golden.display().to_string();
    head.good(&["image", "import", &file, "--name", "golden"]);
    let most = counts.iter().max().unwrap();
    head.good(&["node", "add", &format!("n[1-{most}]"), "--image", "golden"]);
    head.serve();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("trace {}; load before: {}", trace.display(), load.trim());
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let (json, svg) = (target.join("storm.json"), target.join("storm.svg"));
    let steps: Vec<String> = counts.iter().map(u32::to_string).collect();
    let status = head
        .command()
        .args(["swarm", "run", "--no-think", "--trace"])
        .arg(&trace)
        .args(["--steps", &steps.join(",")])
        .arg("--json")
        .arg(&json)
        .arg("--plot")
        .arg(&svg)
        .args(more())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    println!("swarm: {status}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    table(&report);
    head.stop();
}

fn more() -> Vec<String> {
    let more = std::env::var("REVEILLE_STORM_ARGS").unwrap_or_default();
    more.split_whitespace().map(str::to_owned).collect()
}

/// The trace's file and the image's.
fn boot(head: &TestHead) -> (PathBuf, PathBuf) {
    let recorded = std::env::var_os("REVEILLE_TRACE").map(PathBuf::from);
    let recorded = recorded.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORDED));
    let golden = std::env::var_os("REVEILLE_GOLDEN").map(PathBuf::from);
    match golden {
        Some(golden) => (recorded, golden),
        None if std::env::var_os("REVEILLE_TRACE").is_some() => {
            let trace = Trace::read(&std::fs::read(&recorded).unwrap()).unwrap();
            let golden = head.path("golden.raw");
            image(&trace, &golden);
            (recorded, golden)
        }
        None => {
            let trace = synthetic(&Shape::debian12());
            let (file, golden) = (head.path("boot.trace.gz"), head.path("golden.raw"));
            std::fs::write(&file, trace.write()).unwrap();
            image(&trace, &golden);
            println!("no REVEILLE_GOLDEN: a made-up boot over a made-up image");
            (file, golden)
        }
    }
}

/// A sparse image with bytes that no compression shortens, wherever the trace reads.
fn image(trace: &Trace, path: &Path) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(trace.disk_bytes).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for op in trace.ops.iter().filter(|op| op.kind == OpKind::Read) {
        let mut bytes = vec![0; usize::try_from(op.len).unwrap()];
        for word in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        file.write_all_at(&bytes, op.offset).unwrap();
    }
}

fn table(report: &Value) {
    println!(
        "| nodes | booted | s | ms per node | read GiB | compared GiB | read p50 ms | read p99 ms | boot p50 s | \
         boot max s | errors | wrong | reconnects | server CPU s | ms/boot | s/GiB | server MiB | \
         swarm CPU s | swarm MiB |"
    );
    println!("|{}", " --- |".repeat(19));
    for step in report["steps"].as_array().unwrap() {
        row(step);
    }
    if let Some(slope) = report["slope_percent"].as_f64() {
        println!("slope of seconds per node, smallest to largest: {slope:+.1} %");
    }
}

fn row(step: &Value) {
    let at = |path: &str| {
        step.pointer(path)
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN)
    };
    let stage = |name: &str, what: &str| {
        let stages = step["stages"].as_array().unwrap();
        let line = stages.iter().find(|line| line["stage"] == name);
        line.and_then(|line| line[what].as_f64())
            .unwrap_or(f64::NAN)
    };
    let gib = |path: &str| at(path) / f64::from(1 << 30);
    let mib = |path: &str| at(path) / f64::from(1 << 20);
    let moved = gib("/counts/read_bytes") + gib("/counts/written_bytes");
    let cpu = at("/server/cpu_us") / 1e6;
    println!(
        "| {} | {} | {:.2} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {} | {} | {:.2} | \
         {:.1} | {:.3} | {:.0} | {:.2} | {:.0} |",
        at("/nodes"),
        at("/done"),
        at("/seconds"),
        at("/seconds_per_node") * 1e3,
        gib("/counts/read_bytes"),
        gib("/counts/verified_bytes"),
        stage("read", "p50_us") / 1e3,
        stage("read", "p99_us") / 1e3,
        stage("boot", "p50_us") / 1e6,
        stage("boot", "max_us") / 1e6,
        at("/counts/errors"),
        at("/counts/bad_sectors"),
        at("/counts/reconnects"),
        cpu,
        cpu / at("/nodes") * 1e3,
        cpu / moved,
        mib("/server/resident_peak_bytes"),
        at("/swarm/cpu_us") / 1e6,
        mib("/swarm/resident_peak_bytes"),
    );
}
