//! `reveille swarm`: traces of boots, and what is done with them.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Subcommand;
use hyper::Method;
use serde::Serialize;

use super::door::{Door, broken_off};
use super::image::absolute;
use super::output::{Format, facts, print_one};
use super::{Exit, progress, swarm_run};
use crate::api::{Line, RecordAsk, RecordDone, RecordEnd, RecordStep, RecordStop, RecordUntil};
use crate::config::Settings;
use crate::limits;
use crate::names::NodeName;
use crate::trace::{SessionSummary, Summary, Trace};
use crate::units::HumanBytes;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Records the boot of a node as a trace: what it asks of its disk, and when
    Record(Record),
    /// Shows what a trace holds
    Show(Show),
    /// Boots virtual nodes that replay a trace, and looks at every byte that they read
    Run(Box<swarm_run::Args>),
}

#[derive(Debug, clap::Args)]
pub(super) struct Record {
    /// The node
    node: NodeName,
    /// The trace's file, on the head's machine
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// When it is over: `ready`, `logout`, or a time from the first login like 90s, 10m, 2h
    #[arg(long, value_name = "END", default_value = "ready", value_parser = until)]
    until: RecordUntil,
    /// With `--until ready`: go on for so long after it, since a system still reads and writes then
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    more: u64,
    /// Give up when it did not come that far after so many seconds; what there is is written
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    /// Replace the file
    #[arg(long)]
    force: bool,
    /// A line on its origin to keep in the trace; may be repeated
    #[arg(long = "note", value_name = "TEXT")]
    notes: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The trace
    file: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

fn until(text: &str) -> Result<RecordUntil, String> {
    match text {
        "ready" => return Ok(RecordUntil::Ready),
        "logout" => return Ok(RecordUntil::Logout),
        _ => {}
    }
    let (digits, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(digits) if text.ends_with('m') => (digits, 60),
        Some(digits) if text.ends_with('h') => (digits, 3600),
        Some(digits) => (digits, 1),
        None => (text, 1),
    };
    let count = digits.parse::<u64>().ok();
    let seconds = count.and_then(|count| count.checked_mul(unit));
    match seconds {
        Some(seconds) if seconds > 0 && !digits.starts_with('+') => {
            Ok(RecordUntil::Seconds(seconds))
        }
        _ => Err("wanted: ready, logout, or a time like 90s, 10m, 2h".to_owned()),
    }
}

/// Runs a verb; those that ask a head open their own way to it.
pub(super) fn run(settings: &Settings, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Show(args) => show(&args),
        Verb::Run(args) => swarm_run::run(settings, &args),
        Verb::Record(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let door = Door::open(&settings.socket, &settings.state).await?;
                record(&door, args).await
            })
        }
    }
}

// --- record ---

async fn record(door: &Door, args: Record) -> anyhow::Result<Exit> {
    let ask = RecordAsk {
        node: args.node,
        path: absolute(&args.out)?,
        until: args.until,
        more_s: args.more,
        timeout_s: args.timeout,
        force: args.force,
        notes: args.notes,
    };
    let done = follow(door, &ask).await?;
    if done.path.is_none() {
        return Ok(nothing(&ask, done.end));
    }
    print_one(&done, args.output, || recorded(&done))?;
    let (exit, said) = match done.end {
        RecordEnd::Reached => (Exit::Good, None),
        RecordEnd::Stopped => (Exit::Good, Some("it was ended before")),
        RecordEnd::TimedOut => (Exit::TimedOut, Some("it did not come in time")),
        RecordEnd::Full => (Exit::Failed, Some("the trace was full before")),
    };
    if let Some(said) = said {
        let end = ending(&ask);
        progress::say(&format!(
            "reveille: the trace does not reach to {end}: {said}; it holds what there was"
        ));
    }
    Ok(exit)
}

fn nothing(ask: &RecordAsk, end: RecordEnd) -> Exit {
    let RecordAsk {
        node, timeout_s, ..
    } = ask;
    if end == RecordEnd::TimedOut {
        progress::say(&format!(
            "reveille: node {node} did not log in within {timeout_s} s; nothing was recorded, no file was written"
        ));
        return Exit::TimedOut;
    }
    progress::say(&format!(
        "reveille: node {node} has not logged in; nothing was recorded, no file was written"
    ));
    Exit::Failed
}

/// What a recording was to last for, in words.
fn ending(ask: &RecordAsk) -> String {
    match ask.until {
        RecordUntil::Ready => format!("{} s after the node's readiness", ask.more_s),
        RecordUntil::Logout => "the node's logout".to_owned(),
        RecordUntil::Seconds(seconds) => format!("{seconds} s after the first login"),
    }
}

/// Asks the head to record and waits for the end. Ctrl-C ends the recording, not the wait for its file.
async fn follow(door: &Door, ask: &RecordAsk) -> anyhow::Result<RecordDone> {
    let node = &ask.node;
    let bar = progress::words();
    let (mut result, mut begun) = (None, false);
    let each = |line: Line<RecordDone, RecordStep>| {
        match line {
            Line::Progress(step) => {
                if !std::mem::replace(&mut begun, true) {
                    progress::say(&begin(ask, &step));
                }
                bar.set_message(how_far(&step));
            }
            Line::Done(done) => result = Some(done),
            Line::Error(fault) => return Err(broken_off(fault)),
        }
        Ok(())
    };
    let ended = {
        let lines = door.lines(Method::POST, "/v1/swarm/record", ask, each);
        tokio::pin!(lines);
        let mut asked = false;
        loop {
            tokio::select! {
                ended = &mut lines => break ended,
                _ = tokio::signal::ctrl_c() => {
                    if std::mem::replace(&mut asked, true) {
                        return Err(anyhow!("interrupted; the head writes what there is by itself"));
                    }
                    let stop = RecordStop { node: node.clone() };
                    // There is none when it has just ended by itself.
                    let _: anyhow::Result<()> = door.post("/v1/swarm/stop", &stop).await;
                }
            }
        }
    };
    bar.finish_and_clear();
    ended?;
    result.context("the head stopped before the recording was over; see whether the file is there")
}

fn begin(ask: &RecordAsk, step: &RecordStep) -> String {
    let node = &ask.node;
    let from = if step.was_logged_in {
        "which is logged in already, from now"
    } else {
        "from its next login"
    };
    format!(
        "recording node {node}, {from} to {}; Ctrl-C ends it earlier",
        ending(ask)
    )
}

fn how_far(step: &RecordStep) -> String {
    let RecordStep { reads, writes, .. } = step;
    if step.sessions == 0 {
        return "waiting for its login".to_owned();
    }
    let (read, written) = (HumanBytes(step.read_bytes), HumanBytes(step.write_bytes));
    format!("{reads} reads ({read}), {writes} writes ({written})")
}

fn recorded(done: &RecordDone) -> String {
    let path = done.path.as_ref().map(|path| path.display().to_string());
    let mut text = format!(
        "{} ({})\n",
        path.unwrap_or_default(),
        HumanBytes(done.file_bytes)
    );
    text += &figures(&done.summary);
    for note in &done.notes {
        text += &format!("note: {note}\n");
    }
    text
}

// --- show ---

/// A trace, as programs read it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    about: &'a [(String, String)],
    disk_bytes: u64,
    #[serde(flatten)]
    summary: Summary,
}

fn show(args: &Show) -> anyhow::Result<Exit> {
    let trace = load(&args.file)?;
    let shown = Shown {
        about: &trace.about,
        disk_bytes: trace.disk_bytes,
        summary: trace.summary(),
    };
    print_one(&shown, args.output, || {
        let mut text = String::new();
        for (key, value) in &trace.about {
            text += &format!("{key}: {value}\n");
        }
        text += &facts(&[("disk", HumanBytes(trace.disk_bytes).to_string())]);
        text + &figures(&shown.summary)
    })?;
    Ok(Exit::Good)
}

/// Reads a trace's file.
pub(super) fn load(path: &Path) -> anyhow::Result<Trace> {
    let told = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("trace {told}"))?;
    let mut bytes = Vec::new();
    let mut some = file.take(limits::TRACE_FILE_BYTES_MAX + 1);
    some.read_to_end(&mut bytes)
        .with_context(|| format!("trace {told}"))?;
    if bytes.len() as u64 > limits::TRACE_FILE_BYTES_MAX {
        let most = HumanBytes(limits::TRACE_FILE_BYTES_MAX);
        return Err(anyhow!("{told} is larger than {most}; this is no trace"));
    }
    Trace::read(&bytes).with_context(|| format!("trace {told}"))
}

fn figures(summary: &Summary) -> String {
    let distinct = |all: u64, distinct: u64| {
        let (all, distinct) = (HumanBytes(all), HumanBytes(distinct));
        format!("{all}, {distinct} distinct")
    };
    let Summary { reads, writes, .. } = summary;
    let read = distinct(summary.read_bytes, summary.read_bytes_distinct);
    let written = distinct(summary.write_bytes, summary.write_bytes_distinct);
    let mut text = facts(&[
        ("reads", format!("{reads} ({read})")),
        (
            "writes",
            format!("{writes} ({written}), {} FUA", summary.fua),
        ),
        ("flushes", summary.flushes.to_string()),
        ("unmaps", summary.unmaps.to_string()),
        ("time", seconds(summary.span_us)),
        ("busy", seconds(summary.busy_us)),
        ("depth", format!("{} at most", summary.depth_max)),
    ]);
    for (number, session) in summary.sessions.iter().enumerate() {
        let _ = writeln!(text, "session {number}: {}", one_session(session));
    }
    text
}

fn one_session(session: &SessionSummary) -> String {
    let until = session.logout_at_us.map_or("the end".to_owned(), seconds);
    let (read, written) = (
        HumanBytes(session.read_bytes),
        HumanBytes(session.write_bytes),
    );
    format!(
        "{}, {} to {until}: {} reads ({read}), {} writes ({written}), {} flushes",
        session.initiator,
        seconds(session.login_at_us),
        session.reads,
        session.writes,
        session.flushes,
    )
}

/// Microseconds as seconds with three digits.
fn seconds(us: u64) -> String {
    format!("{}.{:03} s", us / 1_000_000, us / 1000 % 1000)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn ends_are_words_or_times() {
        for (text, wanted) in [
            ("ready", Some(RecordUntil::Ready)),
            ("logout", Some(RecordUntil::Logout)),
            ("90", Some(RecordUntil::Seconds(90))),
            ("90s", Some(RecordUntil::Seconds(90))),
            ("10m", Some(RecordUntil::Seconds(600))),
            ("2h", Some(RecordUntil::Seconds(7200))),
            ("0", None),
            ("", None),
            ("s", None),
            ("+5", None),
            ("-5", None),
            ("1d", None),
            ("5124095576030432h", None),
            ("5ss", None),
        ] {
            assert_eq!(until(text).ok(), wanted, "{text}");
        }
    }

    #[test]
    fn times_are_told_in_seconds() {
        assert_eq!(seconds(0), "0.000 s");
        assert_eq!(seconds(61_002_999), "61.002 s");
    }
}
