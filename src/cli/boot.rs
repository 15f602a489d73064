//! `reveille boot|reboot|off`.

use std::time::Duration;

use clap::ValueEnum;
use hyper::Method;
use indicatif::ProgressBar;

use super::door::{Door, escape};
use super::output::{Format, print_one, print_text};
use super::{Exit, progress};
use crate::api::{BootAsk, CampaignView, PowerAsk, PowerFailure, Started};
use crate::names::{NodeName, NodeSet};
use crate::units::UnixMillis;
use crate::wave::{Entry, NodeState, Until};

#[derive(Debug, clap::Args)]
pub(super) struct BootArgs {
    /// The nodes, like node[001-100]
    nodeset: String,
    /// Nodes that boot at the same time: a number, or `auto` [default: from the configuration]
    #[arg(long, value_name = "N|auto")]
    wave: Option<String>,
    /// Wait until every node is up or has failed; Ctrl-C leaves, the campaign goes on
    #[arg(long)]
    wait: bool,
    /// Time that one attempt of one node may take, like 600 or 10m [default: from the configuration]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    timeout: Option<u64>,
    /// Further attempts of a node that failed [default: from the configuration]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// When a node counts as up
    #[arg(long, value_enum, default_value_t = UntilArg::Ready)]
    until: UntilArg,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UntilArg {
    /// Its operating system logged in to its disk
    OsLogin,
    /// It called the head, or its reads came to rest
    Ready,
}

#[derive(Debug, clap::Args)]
pub(super) struct OffArgs {
    /// The nodes
    nodeset: String,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// `600`, `600s`, `10m`, `1h` in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|n| n.checked_mul(unit))
        .filter(|&n| n > 0)
        .ok_or_else(|| "must be a time above 0, like 600, 600s, 10m or 1h".to_owned())
}

pub(super) async fn boot(door: &Door, args: BootArgs, restart: bool) -> anyhow::Result<Exit> {
    let ask = BootAsk {
        nodes: args.nodeset,
        wave: args.wave,
        timeout_s: args.timeout,
        retries: args.retries,
        until: match args.until {
            UntilArg::OsLogin => Until::OsLogin,
            UntilArg::Ready => Until::Ready,
        },
        restart,
        dry_run: args.dry_run,
    };
    let started: Started = door.post("/v1/campaigns", &ask).await?;
    let Some(id) = started.id else {
        return print_one(&started, args.output, || plan(&started)).map(|()| Exit::Good);
    };
    if !args.wait {
        let nodes = started.spec.nodes.len();
        let text = || format!("campaign {id}: {nodes} nodes; follow it with `reveille status`\n");
        return print_one(&started, args.output, text).map(|()| Exit::Good);
    }
    tokio::select! {
        view = watch(door, id) => report(&view?, args.output),
        _ = tokio::signal::ctrl_c() => {
            print_text(&format!("left campaign {id}, which goes on; `reveille status` shows it\n"));
            Ok(Exit::Good)
        }
    }
}

/// What a dry run says.
fn plan(started: &Started) -> String {
    let spec = &started.spec;
    let set = |wanted: &dyn Fn(bool, bool) -> bool| -> String {
        let chosen = spec.nodes.iter().filter(|n| wanted(n.power, n.up));
        let set: NodeSet = chosen.map(|n| n.name.clone()).collect();
        set.to_string()
    };
    let lines = [
        (
            "switch on",
            set(&|power, up| power && (!up || spec.restart)),
        ),
        (
            "wait for",
            set(&|power, up| !power && (!up || spec.restart)),
        ),
        ("leave alone, up already", set(&|_, up| up && !spec.restart)),
    ];
    let mut text = format!("in waves of {}:\n", spec.wave);
    for (what, nodes) in lines.iter().filter(|(_, nodes)| !nodes.is_empty()) {
        text += &format!("  {what}: {nodes}\n");
    }
    text
}

/// Follows a campaign to its end; asks again whenever something happened.
async fn watch(door: &Door, id: u64) -> anyhow::Result<CampaignView> {
    let path = format!("/v1/campaigns/{id}");
    let bar = progress::nodes();
    let mut view: CampaignView = door.get(&path).await?;
    bar.set_length(u64::from(view.summary.nodes));
    while view.finished.is_none() {
        show(&bar, &view);
        tokio::time::sleep(Duration::from_millis(500)).await;
        view = door.get(&path).await?;
    }
    bar.finish_and_clear();
    Ok(view)
}

fn show(bar: &ProgressBar, view: &CampaignView) {
    let s = view.summary;
    bar.set_position(u64::from(s.up + s.failed));
    bar.set_message(format!(
        "{} up, {} booting, {} waiting, {} failed",
        s.up, s.booting, s.queued, s.failed
    ));
}

/// The end of a campaign: figures on stdout, failed nodes on stderr, the exit code that fits.
fn report(view: &CampaignView, format: Format) -> anyhow::Result<Exit> {
    print_one(view, format, || describe(view))?;
    let failed = |e: &&Entry| matches!(e.state, NodeState::Failed { .. });
    let names: NodeSet = view
        .nodes
        .iter()
        .filter(failed)
        .map(|e| e.node.clone())
        .collect();
    let late = |e: &Entry| matches!(e.state, NodeState::Failed { timed_out, .. } if timed_out);
    let all_late = view.nodes.iter().filter(failed).all(late);
    Ok(match tell_failed(&names, view.summary.up > 0) {
        Exit::Failed if all_late => Exit::TimedOut,
        exit => exit,
    })
}

/// A campaign in words, with the reason of each failed node.
pub(super) fn describe(view: &CampaignView) -> String {
    let s = view.summary;
    let now = UnixMillis::now();
    let took = view.finished.unwrap_or(now).since(view.started);
    let mut text = format!(
        "campaign {}: {} of {} nodes up {} {}.{} s, {} failed\n",
        view.id,
        s.up,
        s.nodes,
        if view.finished.is_some() {
            "in"
        } else {
            "after"
        },
        took / 1000,
        took % 1000 / 100,
        s.failed
    );
    for entry in &view.nodes {
        if let NodeState::Failed {
            failed_at, reason, ..
        } = &entry.state
        {
            text += &format!("  {} failed at {failed_at}: {reason}\n", entry.node);
        }
    }
    text
}

fn tell_failed(failed: &NodeSet, some_good: bool) -> Exit {
    if failed.is_empty() {
        return Exit::Good;
    }
    progress::say(&failed.to_string());
    if some_good {
        Exit::Partly
    } else {
        Exit::Failed
    }
}

pub(super) async fn off(door: &Door, args: OffArgs) -> anyhow::Result<Exit> {
    let ask = PowerAsk {
        nodes: args.nodeset.clone(),
        action: "off".to_owned(),
        dry_run: args.dry_run,
    };
    let failures: Vec<PowerFailure> = door.call(Method::POST, "/v1/power", &ask).await?;
    if args.dry_run {
        print_text(&format!("would switch off {}\n", args.nodeset));
        return Ok(Exit::Good);
    }
    for failure in &failures {
        progress::say(&format!("{}: {}", failure.node, failure.error));
    }
    let path = format!("/v1/nodes?nodes={}", escape(&args.nodeset));
    let asked: Vec<serde_json::Value> = door.get(&path).await?;
    let failed: NodeSet = failures
        .iter()
        .map(|f| f.node.clone())
        .collect::<Vec<NodeName>>()
        .into_iter()
        .collect();
    Ok(tell_failed(&failed, asked.len() > failures.len()))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("2h"), Ok(7200));
        for bad in ["", "0", "m", "-1", "1d", "99999999999999999999h"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
