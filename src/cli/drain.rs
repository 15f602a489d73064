//! `reveille drain`, `reveille undrain`, `reveille metrics`.

use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::Method;

use super::door::{Door, escape};
use super::node::tell;
use super::output::print_text;
use super::{Exit, progress};
use crate::api::DrainView;
use crate::head::{DrainAsk, NodesDone, UndrainAsk};

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// Only these nodes [default: the whole head]
    nodeset: Option<String>,
    /// Head that takes them over: ADDR or ADDR:PORT, with the same nodes and secrets
    #[arg(long, value_name = "ADDR[:PORT]")]
    to: Option<String>,
    /// Wait until they have left
    #[arg(long)]
    wait: bool,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct UndrainArgs {
    /// Only these nodes [default: every order to drain ends]
    nodeset: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn drain(door: &Door, args: DrainArgs) -> anyhow::Result<Exit> {
    let ask = DrainAsk {
        nodes: args.nodeset.clone(),
        to: args.to,
        dry_run: args.dry_run,
    };
    let done: NodesDone = door.post("/v1/drain", &ask).await?;
    tell(&done, "drained");
    if !args.wait || args.dry_run {
        return Ok(Exit::Good);
    }
    let began = Instant::now();
    loop {
        let left = view(door, args.nodeset.as_deref()).await?.connections;
        if left == 0 {
            return Ok(Exit::Good);
        }
        if began.elapsed() >= Duration::from_secs(args.timeout) {
            progress::say(&format!(
                "reveille: {left} connections are still there after {} s; the drain goes on",
                args.timeout
            ));
            return Ok(Exit::TimedOut);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) async fn undrain(door: &Door, args: UndrainArgs) -> anyhow::Result<Exit> {
    let ask = UndrainAsk {
        nodes: args.nodeset,
        dry_run: args.dry_run,
    };
    let done: NodesDone = door.call(Method::DELETE, "/v1/drain", &ask).await?;
    tell(&done, "undrained");
    Ok(Exit::Good)
}

async fn view(door: &Door, nodes: Option<&str>) -> anyhow::Result<DrainView> {
    let query = nodes.map_or(String::new(), |set| format!("?nodes={}", escape(set)));
    door.get(&format!("/v1/drain{query}")).await
}

pub(super) async fn metrics(door: &Door) -> anyhow::Result<Exit> {
    let text = door.text("/metrics").await?;
    print_text(&String::from_utf8(text).context("the head's metrics are not text")?);
    Ok(Exit::Good)
}
