//! The same boot storm on Reveille and on tgt: `reveille swarm run` replays a recorded boot as so many nodes at
//! once. Nothing is pinned: server and swarm share the machine, as the limits of a storm are meant.
//!
//! tgt has one target for each node, all on the same file. Nodes would overwrite each other's bytes there, so that
//! its storm is without the writes; ours runs both ways.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::proc::wait_until;
use serde_json::{Value, json};

use crate::flames::{self, Look};
use crate::machine::{self, Cpu, Machine, Memory};
use crate::options::{self, USAGE};
use crate::park::Target;
use crate::servers::{self, Disk, OurSpec, Server};

/// Before a node's number in its target's name.
const TARGET_NAME: &str = "iqn.2026-11.internal.compare:n{n}";

#[derive(Clone, Debug)]
struct Options {
    trace: PathBuf,
    image: PathBuf,
    nodes: Vec<usize>,
    targets: Vec<Target>,
    limit: Duration,
    dir: PathBuf,
    json: Option<PathBuf>,
    out: Option<PathBuf>,
    flames: Option<PathBuf>,
    /// With the trace's think times, all nodes begun within so many seconds.
    ramp: Option<u64>,
}

/// One storm.
#[derive(Clone, Debug)]
struct Found {
    lane: &'static str,
    nodes: usize,
    /// Of the whole command.
    wall: Duration,
    /// Server's processor time and its memory at the end.
    server: Duration,
    memory: Memory,
    /// What the swarm says.
    said: Value,
    failure: Option<String>,
}

/// Runs all storms and writes the tables; false when one failed.
///
/// # Errors
/// When the words make no sense or a server cannot be started.
pub fn run(words: &[&str]) -> Result<bool> {
    let options = read(words)?;
    // No cores and no priority of ours: both are the server's and the swarm's.
    let machine = Machine::prepare(true);
    let dir = options
        .dir
        .join(format!("reveille-storm-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    let found = storms(&options, &machine, &dir);
    let _ = fs::remove_dir_all(&dir);
    let found = found?;
    let text = markdown(&found);
    match &options.out {
        Some(path) => fs::write(path, text)?,
        None => print!("{text}"),
    }
    if let Some(path) = &options.json {
        let all: Vec<Value> = found.iter().map(found_json).collect();
        fs::write(
            path,
            format!(
                "{:#}\n",
                json!({"machine": machine::describe(), "storms": all})
            ),
        )?;
    }
    Ok(!found.iter().any(Found::failed))
}

fn read(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        trace: PathBuf::new(),
        image: PathBuf::new(),
        nodes: vec![10, 50, 100, 250, 500, 1000],
        targets: vec![Target::Ours, Target::Tgt],
        limit: Duration::from_secs(600),
        dir: std::env::temp_dir(),
        json: None,
        out: None,
        flames: None,
        ramp: None,
    };
    let mut rest = words;
    while let [flag, value, tail @ ..] = rest {
        match *flag {
            "--trace" => options.trace = value.into(),
            "--image" => options.image = value.into(),
            "--nodes" => {
                let each = value.split(',').map(|n| n.parse().context("--nodes"));
                options.nodes = each.collect::<Result<_>>()?;
            }
            "--targets" => options.targets = options::targets(value)?,
            "--limit" => options.limit = Duration::from_secs(value.parse().context("--limit")?),
            "--dir" => options.dir = value.into(),
            "--json" => options.json = Some(value.into()),
            "--out" => options.out = Some(value.into()),
            "--flames" => options.flames = Some(value.into()),
            "--ramp" => options.ramp = Some(value.parse().context("--ramp")?),
            _ => bail!("unknown flag {flag}\n{USAGE}"),
        }
        rest = tail;
    }
    ensure!(rest.is_empty(), "a flag without its value\n{USAGE}");
    for (flag, path) in [("--trace", &options.trace), ("--image", &options.image)] {
        ensure!(
            path.is_file(),
            "{flag}: there is no file `{}`\n{USAGE}",
            path.display()
        );
    }
    options.trace = fs::canonicalize(&options.trace)?;
    options.image = fs::canonicalize(&options.image)?;
    let known = |target: &Target| matches!(target, Target::Ours | Target::Tgt);
    ensure!(
        options.targets.iter().all(known),
        "a storm is for ours and tgt"
    );
    ensure!(
        options.nodes.iter().all(|n| (1..=100_000).contains(n)),
        "--nodes: from 1 to 100000"
    );
    Ok(options)
}

fn storms(options: &Options, machine: &Machine, dir: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for nodes in &options.nodes {
        for target in &options.targets {
            let lanes: &[(&'static str, bool)] = match target {
                Target::Tgt => &[("tgt, reads only", true)],
                _ => &[("Reveille", false), ("Reveille, reads only", true)],
            };
            for (lane, read_only) in lanes {
                eprintln!("compare: {nodes} nodes on {lane}");
                let storm = storm(options, machine, dir, *target, *nodes, *read_only);
                let mut storm = storm.unwrap_or_else(|error| Found {
                    lane,
                    nodes: *nodes,
                    wall: Duration::ZERO,
                    server: Duration::ZERO,
                    memory: Memory::default(),
                    said: Value::Null,
                    failure: Some(format!("{error:#}")),
                });
                storm.lane = lane;
                // At once: a long row of storms may be cut off.
                eprintln!("{}", line(&storm));
                found.push(storm);
            }
        }
    }
    Ok(found)
}

/// A server of its own for each storm: no layer and no memory of the one before.
fn start(
    machine: &Machine,
    dir: &Path,
    options: &Options,
    target: Target,
    nodes: usize,
) -> Result<Server> {
    if target == Target::Tgt {
        let disk = |n: usize| Disk {
            name: format!("n{n}"),
            file: options.image.clone(),
            digests: false,
        };
        let disks: Vec<Disk> = (0..=nodes).map(disk).collect();
        return servers::start_tgt(machine, dir, &disks);
    }
    let nodes = format!("n[0-{nodes}]");
    let spec = OurSpec {
        image: &options.image,
        nodes: &nodes,
        keepers: "",
    };
    servers::start_ours(machine, dir, &spec)
}

fn storm(
    options: &Options,
    machine: &Machine,
    dir: &Path,
    target: Target,
    nodes: usize,
    read_only: bool,
) -> Result<Found> {
    let place = dir.join("server");
    let server = start(machine, &place, options, target, nodes)?;
    let pid = server.pid();
    let report = dir.join("swarm.json");
    let before = Cpu::of(pid);
    let began = Instant::now();
    let said = fs::File::create(dir.join("swarm.log"))?;
    let child = swarm(options, &server, (target, nodes, read_only), &report)?
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .spawn()?;
    let flames = options
        .flames
        .as_ref()
        .filter(|_| target == Target::Ours && !read_only);
    let look = flames.map(|dir| Look::begin(pid, dir, &format!("storm-{nodes}")));
    let ended = end(child, options.limit);
    let wall = began.elapsed();
    if let Some(look) = look {
        let profile = look.and_then(Look::end)?;
        eprint!("{}", flames::markdown(&[profile]));
    }
    let words = fs::read_to_string(dir.join("swarm.log")).unwrap_or_default();
    let tail: Vec<&str> = words.lines().rev().take(3).collect();
    let failure = match ended {
        Ok(true) => None,
        Ok(false) => Some(format!("the swarm failed: {}", tail.join(" / "))),
        Err(error) => Some(format!("{error:#}")),
    };
    let text = fs::read_to_string(&report).unwrap_or_default();
    let _ = fs::remove_file(&report);
    let found = Found {
        lane: "",
        nodes,
        wall,
        server: Duration::from_nanos(Cpu::of(pid).since(&before)),
        memory: Memory::of(pid),
        said: serde_json::from_str(&text).unwrap_or(Value::Null),
        failure,
    };
    drop(server);
    fs::remove_dir_all(&place)?;
    Ok(found)
}

fn swarm(
    options: &Options,
    server: &Server,
    (target, nodes, read_only): (Target, usize, bool),
    report: &Path,
) -> Result<Command> {
    let mut command = Command::new(servers::our_program()?);
    command.args(["swarm", "run"]);
    match options.ramp {
        Some(seconds) => command.args(["--ramp", &format!("{seconds}s")]),
        None => command.arg("--no-think"),
    };
    command.args(["--nodes", &nodes.to_string()]);
    command.arg("--trace").arg(&options.trace);
    command.args(["--target", &server.address.to_string()]);
    command.args(["--target-name", TARGET_NAME]);
    command.arg("--image").arg(&options.image);
    command.arg("--json").arg(report);
    command.args(["--server-pid", &server.pid().to_string()]);
    if target == Target::Tgt {
        // LUN 0 is tgt's own.
        command.args(["--lun", "1"]);
    }
    if read_only {
        command.arg("--read-only");
    }
    Ok(command)
}

/// Waits for its end; true when it ended well. What takes too long is ended.
fn end(mut child: Child, limit: Duration) -> Result<bool> {
    let mut status = None;
    let waited = wait_until(limit, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    match (waited, status) {
        (Ok(()), Some(status)) => Ok(status.success()),
        _ => {
            let _ = child.kill();
            let _ = child.wait();
            bail!("no end within {} s", limit.as_secs());
        }
    }
}

/// What `reveille swarm run --json` says of the only storm that it ran, by a path of names.
fn number(said: &Value, path: &str) -> Option<f64> {
    said.pointer("/steps/0")?.pointer(path)?.as_f64()
}

/// The times of a stage, in microseconds.
fn stage(said: &Value, stage: &str, figure: &str) -> Option<f64> {
    let stages = said.pointer("/steps/0/stages")?.as_array()?;
    let line = stages
        .iter()
        .find(|line| line.get("stage").is_some_and(|name| name == stage))?;
    line.get(figure)?.as_f64()
}

impl Found {
    /// From the first login to the end of the last boot.
    fn seconds(&self) -> Option<f64> {
        number(&self.said, "/seconds")
    }

    fn failed(&self) -> bool {
        let clean = |path| number(&self.said, path) == Some(0.0);
        self.failure.is_some() || !clean("/counts/errors") || !clean("/counts/bad_sectors")
    }
}

/// Change of the time per node from the smallest to the largest storm of a lane, in percent of the smallest.
fn slope_percent(found: &[Found], lane: &str) -> Option<f64> {
    let own = found
        .iter()
        .filter(|storm| storm.lane == lane && !storm.failed());
    let points: Vec<(f64, f64)> = own
        .filter_map(|storm| Some((storm.nodes as f64, storm.seconds()? / storm.nodes as f64)))
        .collect();
    let n = points.len() as f64;
    let (x, y) = (
        points.iter().map(|p| p.0).sum::<f64>() / n,
        points.iter().map(|p| p.1).sum::<f64>() / n,
    );
    let over: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let under: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let (least, most) = points
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(least, most), p| {
            (least.min(p.0), most.max(p.0))
        });
    let first = y + over / under * (least - x);
    (under > 0.0 && first > 0.0).then(|| over / under * (most - least) / first * 100.0)
}

fn markdown(found: &[Found]) -> String {
    let mut out = format!(
        "- {}; server and swarm share all cores\n",
        machine::describe()
    );
    out.push_str("- tgt: one target per node on the same file, so only the reads of the boot\n\n");
    out.push_str(
        "| nodes | server | s | ms a node | booted | errors | bad sectors | read p50 / p99 us | write p99 us | \
         server CPU s | peak MiB | own MiB | threads | |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for storm in found {
        let _ = writeln!(out, "{}", line(storm));
    }
    out.push('\n');
    let mut lanes: Vec<&str> = found.iter().map(|storm| storm.lane).collect();
    lanes.sort_unstable();
    lanes.dedup();
    for lane in lanes {
        if let Some(slope) = slope_percent(found, lane) {
            let _ = writeln!(
                out,
                "- {lane}: seconds per node change by {slope:+.1} % over these sizes"
            );
        }
    }
    out
}

fn line(storm: &Found) -> String {
    let said = &storm.said;
    let show = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
    };
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let per_node = storm
        .seconds()
        .map(|seconds| seconds * 1e3 / storm.nodes as f64);
    let reads =
        [stage(said, "read", "p50_us"), stage(said, "read", "p99_us")].map(|us| show(us, 0));
    let peak = number(said, "/server/resident_peak_bytes").map(mib);
    let failure = storm
        .failure
        .clone()
        .unwrap_or_default()
        .replace(['|', '\n'], " ");
    let cells = [
        storm.nodes.to_string(),
        storm.lane.to_owned(),
        show(storm.seconds(), 2),
        show(per_node, 1),
        show(number(said, "/done"), 0),
        show(number(said, "/counts/errors"), 0),
        show(number(said, "/counts/bad_sectors"), 0),
        reads.join(" / "),
        show(stage(said, "write", "p99_us"), 0),
        format!("{:.1}", storm.server.as_secs_f64()),
        show(peak, 0),
        format!("{:.0}", mib(storm.memory.own as f64)),
        storm.memory.threads.to_string(),
        failure,
    ];
    format!("| {} |", cells.join(" | "))
}

fn found_json(found: &Found) -> Value {
    json!({
        "server": found.lane, "nodes": found.nodes, "seconds": found.wall.as_secs_f64(),
        "server_cpu_seconds": found.server.as_secs_f64(), "own_bytes": found.memory.own,
        "resident_bytes": found.memory.resident, "threads": found.memory.threads,
        "failure": found.failure, "swarm": found.said,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn found(nodes: usize, said: Value) -> Found {
        Found {
            lane: "Reveille",
            nodes,
            wall: Duration::ZERO,
            server: Duration::ZERO,
            memory: Memory::default(),
            said,
            failure: None,
        }
    }

    fn report(seconds: f64, errors: u32) -> Value {
        json!({"format": 1, "steps": [{
            "seconds": seconds, "done": 10, "counts": {"errors": errors, "bad_sectors": 0},
            "stages": [{"stage": "login", "p99_us": 9}, {"stage": "read", "p50_us": 70, "p99_us": 300}],
            "server": {"cpu_us": 5, "resident_peak_bytes": 1 << 20},
        }]})
    }

    #[test]
    fn the_report_of_the_swarm_becomes_a_row() {
        let row = line(&found(10, report(1.5, 0)));
        assert!(
            row.starts_with("| 10 | Reveille | 1.50 | 150.0 | 10 | 0 | 0 | 70 / 300 | - |"),
            "{row}"
        );
    }

    #[test]
    fn a_storm_without_a_report_or_with_errors_failed() {
        assert!(!found(10, report(1.5, 0)).failed());
        assert!(found(10, report(1.5, 2)).failed());
        assert!(found(10, Value::Null).failed());
    }

    #[test]
    fn a_time_per_node_that_grows_by_half_has_that_slope() {
        let all = [
            found(10, report(1.0, 0)),
            found(20, report(2.5, 0)),
            found(30, report(4.5, 0)),
        ];
        let slope = slope_percent(&all, "Reveille").unwrap();
        assert!((slope - 50.0).abs() < 1e-6, "{slope}");
        assert!(slope_percent(&all[..1], "Reveille").is_none());
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(end(child, Duration::from_millis(50)).is_err());
        assert!(
            end(
                Command::new("true").spawn().unwrap(),
                Duration::from_secs(60)
            )
            .unwrap()
        );
        assert!(
            !end(
                Command::new("false").spawn().unwrap(),
                Duration::from_secs(60)
            )
            .unwrap()
        );
    }

    #[test]
    fn a_storm_without_its_files_is_refused() {
        assert!(read(&["--trace", "/nonexistent", "--image", "/nonexistent"]).is_err());
        assert!(read(&["--nodes"]).is_err());
    }
}
