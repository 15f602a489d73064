//! `reveille swarm run`: a boot storm of virtual nodes.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::ValueEnum;

use super::door::{Door, Refusal};
use super::output::stderr_is_lively;
use super::swarm_boot::{self, BootArgs};
use super::swarm_nodes::{self, Storm};
use super::{Exit, progress, swarm_told};
use crate::config::Settings;
use crate::limits::{SWARM_NODES_MAX, SWARM_THREADS_MAX};
use crate::swarm::{
    Golden, Live, Pace, Plan, Process, Progress, Report, Start, Step, Used, Verify, World,
    run as storm, storm_svg,
};
use crate::trace::Trace;
use crate::units::HumanBytes;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The virtual nodes: how many, or a nodeset like node[001-100]; on this head they must be its nodes
    #[arg(long, value_name = "N|NODESET", required_unless_present = "steps")]
    pub(super) nodes: Option<String>,
    /// The recorded boot that each of them replays
    #[arg(long, value_name = "FILE")]
    pub(super) trace: PathBuf,
    /// Several storms, of so many nodes each, and how the time per node changes
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) steps: Vec<u32>,
    /// Another target than this head
    #[arg(long, value_name = "ADDR:PORT", requires = "target_name")]
    pub(super) target: Option<SocketAddr>,
    /// Its target names: {node} is the node's name, {n} its number from 1
    #[arg(long, value_name = "TEMPLATE", requires = "target")]
    pub(super) target_name: Option<String>,
    /// Initiator names there
    #[arg(
        long,
        value_name = "TEMPLATE",
        requires = "target",
        default_value = "iqn.2026-11.internal.reveille.swarm:{node}"
    )]
    pub(super) initiator_name: String,
    /// Number of the disk at its target
    #[arg(long, value_name = "LUN", default_value_t = 0)]
    pub(super) lun: u8,
    /// The golden image as a raw file, to compare with [default: that of this head's nodes, from its store]
    #[arg(long, value_name = "FILE")]
    pub(super) image: Option<PathBuf>,
    /// Nodes never think: how much can the target carry?
    #[arg(long)]
    no_think: bool,
    /// Nodes think so many times faster
    #[arg(
        long,
        value_name = "FACTOR",
        default_value_t = 1.0,
        conflicts_with = "no_think"
    )]
    speed: f64,
    /// Nodes begin evenly over this time, like 30s, 5m [default: all at once]
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "wave")]
    ramp: Option<Duration>,
    /// At most so many at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    wave: Option<u32>,
    /// Threads [default: one for each processor that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,
    /// Longest wait for the answer to one command
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "60s")]
    timeout: Duration,
    /// What is compared
    #[arg(long, value_enum, default_value_t)]
    pub(super) verify: VerifyArg,
    /// Leave out all that would change a disk
    #[arg(long)]
    pub(super) read_only: bool,
    /// Number from which the nodes' data is made [default: by chance]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Process of another target, to tell its processor time and memory
    #[arg(long, value_name = "PID", requires = "target")]
    server_pid: Option<u32>,
    #[command(flatten)]
    boot: BootArgs,
    /// Write the report there as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw it there
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum VerifyArg {
    /// Every read, and what was written is read back at the end
    #[default]
    All,
    /// Every read
    Reads,
    /// Nothing
    None,
}

/// `500ms`, `30s`, `5m`, `1h`.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits) {
        Some("ms") => 1,
        Some("s" | "") => 1000,
        Some("m") => 60_000,
        Some("h") => 3_600_000,
        _ => 0,
    };
    let ms = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    ms.filter(|ms| *ms > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| "must be a time above 0, like 500ms, 30s, 5m or 1h".to_owned())
}

/// A usage error with one sentence.
pub(super) fn usage(message: &str) -> anyhow::Error {
    Refusal::new(Exit::Usage, message).into()
}

/// Runs the storms.
pub(super) fn run(settings: &Settings, args: &Args) -> anyhow::Result<Exit> {
    let mut plan = plan(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wanted = wanted(args)?;
    let (found, path) = runtime.block_on(async {
        let door = match args.target {
            Some(_) => None,
            None => Some(Door::daemon(&settings.socket).await?),
        };
        let mut found = match (args.target, &door) {
            (Some(target), _) => swarm_nodes::foreign(args, target, wanted)?,
            (None, Some(door)) => swarm_nodes::own(door, args, wanted, &mut plan).await?,
            (None, None) => return Err(anyhow!("there is neither a head nor another target")),
        };
        let boot = &args.boot;
        let path = swarm_boot::prepare(boot, settings, door.as_ref(), &mut found.nodes).await?;
        Ok((found, path))
    })?;
    let counts = counts(args, found.nodes.len())?;
    let golden = golden(args, &plan, &found)?;
    let server = found.server_pid.or(args.server_pid).map(Process::of);
    let server = server.transpose().map_err(|e| anyhow!(e))?;
    let target = found.words.clone();
    let mut world = world(args, plan, golden, found)?;
    world.boot = path;
    let steps = storms(&runtime, args, world, &counts, server.as_ref())?;
    let name = args.trace.file_name().unwrap_or_default().to_string_lossy();
    let report = Report::new(name.into_owned(), target, !args.no_think, steps);
    if let Some(path) = &args.json {
        write(path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    if let Some(path) = &args.plot {
        write(path, &storm_svg(&report))?;
    }
    swarm_told::print(&report);
    Ok(exit(&report))
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let trace: Trace = super::swarm::load(&args.trace)?;
    if !(0.001..=1e6).contains(&args.speed) {
        return Err(usage("--speed must be between 0.001 and 1000000"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in bounds, as checked"
    )]
    let speed_mille = (args.speed * 1000.0) as u64;
    let pace = Pace {
        think: !args.no_think,
        speed_mille,
    };
    let plan = Plan::new(&trace, pace);
    plan.map_err(|e| usage(&format!("{}: {e}", args.trace.display())))
}

/// The largest number of nodes that any storm needs, when numbers were given and no names.
fn wanted(args: &Args) -> anyhow::Result<Option<usize>> {
    let number = args.nodes.as_ref().map(|text| text.parse::<u32>());
    let most = args.steps.iter().copied().max();
    let most = match number {
        Some(Ok(0)) => return Err(usage("--nodes must be at least 1")),
        Some(Ok(number)) => Some(most.map_or(number, |most| most.max(number))),
        Some(Err(_)) => None,
        None => most,
    };
    let most = most.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
    match most {
        Some(most) if most > SWARM_NODES_MAX => Err(usage(&format!(
            "one swarm has at most {SWARM_NODES_MAX} nodes"
        ))),
        most => Ok(most),
    }
}

/// How many nodes each storm has.
fn counts(args: &Args, there: usize) -> anyhow::Result<Vec<usize>> {
    if args.steps.is_empty() {
        return Ok(vec![there]);
    }
    let counts = args
        .steps
        .iter()
        .map(|n| usize::try_from(*n).unwrap_or(usize::MAX));
    let counts: Vec<usize> = counts.collect();
    match counts.iter().find(|count| **count > there) {
        Some(count) => Err(usage(&format!(
            "--steps wants {count} nodes, but there are {there}"
        ))),
        None => Ok(counts),
    }
}

/// The image's bytes: from the file that was named, or from the head's store.
fn golden(args: &Args, plan: &Plan, found: &Storm) -> anyhow::Result<Option<Golden>> {
    if args.verify == VerifyArg::None {
        return Ok(None);
    }
    let ranges = plan.read_ranges();
    let Some(path) = &args.image else {
        let Some(bytes) = &found.image else {
            return Err(usage(
                "give the golden image as a raw file (--image), or --verify none",
            ));
        };
        let mut rest = bytes.as_slice();
        let take = |_: u64, out: &mut [u8]| -> anyhow::Result<()> {
            let (now, later) = rest
                .split_at_checked(out.len())
                .ok_or_else(|| anyhow!("the head's answer is too short; its log says why"))?;
            out.copy_from_slice(now);
            rest = later;
            Ok(())
        };
        return Golden::load(&ranges, take).map(Some);
    };
    let told = path.display();
    let file = File::open(path).with_context(|| format!("image {told}"))?;
    let size = file
        .metadata()
        .with_context(|| format!("image {told}"))?
        .len();
    let reach = ranges.last().map_or(0, |(_, end)| *end);
    if size < reach {
        return Err(usage(&format!(
            "the trace reads up to byte {reach}, but {told} has {size}; give the image of that trace"
        )));
    }
    let read = |offset: u64, out: &mut [u8]| -> anyhow::Result<()> {
        file.read_exact_at(out, offset)
            .with_context(|| format!("image {told}"))
    };
    Golden::load(&ranges, read).map(Some)
}

fn world(args: &Args, plan: Plan, golden: Option<Golden>, found: Storm) -> anyhow::Result<World> {
    let mut world = World::new(plan, golden, found.nodes).map_err(|e| usage(&e.to_string()))?;
    world.seed = match args.seed {
        Some(seed) => seed,
        None => getrandom::u64().context("drawing a number by chance")?,
    };
    world.verify = match args.verify {
        VerifyArg::All => Verify::All,
        VerifyArg::Reads => Verify::Reads,
        VerifyArg::None => Verify::None,
    };
    world.read_only = args.read_only;
    world.lun = args.lun;
    world.answer_wait = args.timeout;
    Ok(world)
}

/// All storms, one after the other; one that was stopped is the last.
fn storms(
    runtime: &tokio::runtime::Runtime,
    args: &Args,
    mut world: World,
    counts: &[usize],
    server: Option<&Process>,
) -> anyhow::Result<Vec<Step>> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = args.threads.map(|n| usize::try_from(n).unwrap_or(1));
    let threads = threads.unwrap_or(cores).min(SWARM_THREADS_MAX);
    let start = match (args.ramp, args.wave) {
        (Some(time), _) => Start::Ramp(time),
        (None, Some(size)) => Start::Wave(usize::try_from(size).unwrap_or(usize::MAX)),
        (None, None) => Start::Together,
    };
    let own = Process::of(std::process::id()).map_err(|e| anyhow!(e))?;
    let all = world.nodes().to_vec();
    let mut steps = Vec::new();
    for count in counts {
        world.set_nodes(all.iter().take(*count).cloned().collect());
        let looks = |process: &Process| process.usage().ok();
        let before = (server.and_then(looks), own.usage().map_err(|e| anyhow!(e))?);
        let live = Live::default();
        let mut step = one(runtime, &world, start, threads, &live)?;
        let after = (server.and_then(looks), own.usage().map_err(|e| anyhow!(e))?);
        step.swarm = Used::between(&before.1, &after.1);
        if let (Some(before), Some(after)) = (before.0, after.0) {
            step.server = Some(Used::between(&before, &after));
        }
        let stopped = step.stopped;
        steps.push(step);
        if stopped {
            break;
        }
        world.seed = world.seed.wrapping_add(1);
    }
    Ok(steps)
}

/// One storm on threads of its own, while this one shows how it goes and hears Ctrl-C.
fn one(
    runtime: &tokio::runtime::Runtime,
    world: &World,
    start: Start,
    threads: usize,
    live: &Live,
) -> anyhow::Result<Step> {
    std::thread::scope(|scope| {
        let work = scope.spawn(|| storm(world, start, threads, live));
        let nodes = world.nodes().len();
        runtime.block_on(watch(nodes, live, || work.is_finished()));
        let step = work.join().map_err(|_| anyhow!("the swarm panicked"))?;
        step.map_err(|e| anyhow!(e))
    })
}

const LOOK_EVERY: Duration = Duration::from_millis(20);
const SAY_EVERY: u32 = 50;

async fn watch(nodes: usize, live: &Live, over: impl Fn() -> bool) {
    let bar = progress::nodes();
    bar.set_length(nodes as u64);
    let lively = stderr_is_lively();
    let mut looks = 0u32;
    let mut last = Progress::default();
    while !over() {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {
                if !live.is_stopped() {
                    progress::say("stopping; the report is of what there is");
                }
                live.stop();
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        looks += 1;
        if !looks.is_multiple_of(SAY_EVERY) {
            continue;
        }
        let now = live.progress();
        let words = format!(
            "{} read, {}/s, {} commands/s, {} errors, {} wrong sectors",
            HumanBytes(now.read_bytes),
            HumanBytes(now.read_bytes - last.read_bytes),
            now.ops - last.ops,
            now.errors,
            now.bad_sectors
        );
        if lively {
            bar.set_position(now.booted);
            bar.set_message(words);
        } else {
            progress::say(&format!("{} of {nodes} booted, {words}", now.booted));
        }
        last = now;
    }
    bar.finish_and_clear();
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let told = || format!("writing {}", path.display());
    let mut file = File::create(path).with_context(told)?;
    file.write_all(text.as_bytes()).with_context(told)
}

fn exit(report: &Report) -> Exit {
    let steps = &report.steps;
    if !steps.iter().all(Step::is_true) {
        return Exit::Failed;
    }
    if steps.iter().all(|step| step.done == step.nodes) {
        return Exit::Good;
    }
    Exit::Partly
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("30"), Ok(Duration::from_secs(30)));
        assert_eq!(time("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "0s", "5x", "-1s", "99999999999999999999h"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
