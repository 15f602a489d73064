//! `reveille events`.

use hyper::Method;

use super::Exit;
use super::door::{Door, escape};
use super::output::{Format, clock, print_text};
use crate::events::{Event, EventKind};
use crate::units::HumanBytes;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these nodes
    nodeset: Option<String>,
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Output format: table or json (one document per line)
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(door: &Door, args: Args) -> anyhow::Result<Exit> {
    let mut path = format!("/v1/events?follow={}", args.follow);
    if let Some(set) = &args.nodeset {
        path += &format!("&nodes={}", escape(set));
    }
    door.lines(Method::GET, &path, &(), |event: Event| {
        let text = match args.output {
            Format::Table => sentence(&event),
            _ => serde_json::to_string(&event)?,
        };
        print_text(&(text + "\n"));
        Ok(())
    })
    .await?;
    Ok(Exit::Good)
}

/// One line for people: time, node, boot id, what.
fn sentence(event: &Event) -> String {
    let node = event.node.as_ref().map_or("-", |n| n.as_str());
    let boot = event.boot.map_or("-".to_owned(), |b| b.to_string());
    format!(
        "{}  {node:12} {boot:6} {}",
        clock(event.at),
        describe(&event.kind)
    )
}

fn describe(kind: &EventKind) -> String {
    match kind {
        EventKind::BootStarted { cause } => format!("boot began: {cause}"),
        EventKind::Power {
            action,
            error: None,
        } => format!("power {action}"),
        EventKind::Power {
            action,
            error: Some(why),
        } => format!("power {action} failed: {why}"),
        EventKind::UnknownMachine { mac, arch } => {
            format!("unknown machine {mac} ({arch}) asks to boot; see `node ls --pending`")
        }
        EventKind::Dhcp {
            mac,
            ip,
            arch,
            client,
            file,
        } => {
            let ip = ip.map_or(String::new(), |ip| format!(" {ip}"));
            let file = if file.is_empty() { "no file" } else { file };
            format!("dhcp {mac}{ip} ({client}, {arch}): {file}")
        }
        EventKind::Loader { file, bytes, by } => format!("loader {file}, {bytes} bytes by {by}"),
        EventKind::Script { decision, image } => {
            let image = image.as_ref().map_or(String::new(), |i| format!(" {i}"));
            format!("script: {decision}{image}")
        }
        EventKind::Queued { place } => format!("waits at place {place}"),
        EventKind::LayerReset { image } => format!("fresh layer over {image}"),
        EventKind::Login {
            initiator_kind,
            initiator,
            peer,
            session,
        } => {
            format!("login {session} by {initiator_kind:?} {initiator} from {peer}")
        }
        EventKind::LoginRefused { peer, status, why } => {
            format!("login from {peer} refused ({status:04x}): {why}")
        }
        EventKind::Logout {
            session,
            why,
            read_bytes,
            written_bytes,
        } => format!(
            "session {session} ended ({why}): {} read, {} written",
            HumanBytes(*read_bytes),
            HumanBytes(*written_bytes)
        ),
        EventKind::Ready { by } => format!("ready ({by:?})"),
        EventKind::Failed {
            stage,
            reason,
            next,
        } => format!("FAILED at {stage}: {reason}; {next}"),
        rare => describe_rare(rare),
    }
}

/// What seldom happens, and concerns more than one boot.
fn describe_rare(kind: &EventKind) -> String {
    match kind {
        EventKind::VolumeFailed { reason } => format!("disk failed: {reason}"),
        EventKind::LayerSpace { detail, .. } => format!("space: {detail}"),
        EventKind::ClonedInitiator {
            initiator,
            first,
            second,
        } => format!(
            "TWO MACHINES are {initiator}: {first} and {second} push each other out; \
             give one of them another name"
        ),
        EventKind::Drain { state, to } => {
            let to = to.map_or(String::new(), |to| format!(", logins go to {to}"));
            format!("drain {state}{to}")
        }
        EventKind::ChunkBad {
            chunks,
            pack,
            pack_offset,
            why,
            nodes,
            next,
            ..
        } => {
            let named = chunks.iter().map(|c| {
                format!(
                    "chunk {} of {} (bytes {} to {})",
                    c.chunk, c.image, c.from, c.to
                )
            });
            let named = named.collect::<Vec<_>>().join(", ");
            format!("BAD {named} in {pack} at {pack_offset}: {why}; disks of nodes {nodes}; {next}")
        }
        EventKind::ChunkHealed { pack, pack_offset } => {
            format!("the chunk in {pack} at {pack_offset} is good again")
        }
        EventKind::Campaign { id, state, detail } => format!("campaign {id} {state}: {detail}"),
        _ => String::new(),
    }
}
