//! `reveille layer promote`, `reveille layer export`, `reveille image rollback`, `reveille image note`.

use std::path::PathBuf;

use super::Exit;
use super::door::Door;
use super::image::{absolute, long};
use super::output::{Format, print_one, print_text};
use super::progress;
use crate::catalog::ImageRef;
use crate::head::{
    ImageNote, ImageNoted, ImageRollback, ImageRolledBack, LayerExport, LayerExported,
    LayerPromote, LayerPromoted, NextBoot,
};
use crate::names::NodeName;
use crate::units::HumanBytes;

#[derive(Debug, clap::Args)]
pub(super) struct Promote {
    /// The node
    node: NodeName,
    /// The image's name; the next version number is given by itself
    #[arg(long)]
    name: ImageRef,
    /// A note for people
    #[arg(long)]
    note: Option<String>,
    /// Tags to put on the new version
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Even while the node has its disk open: what a power cut would leave at this moment
    #[arg(long)]
    force: bool,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// The node
    node: NodeName,
    /// The file to write; it must not exist
    path: PathBuf,
    /// Even while the node has its disk open: what a power cut would leave at this moment
    #[arg(long)]
    force: bool,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    /// The image, or a tag of it, like debian12 or debian12:stable
    image: ImageRef,
    /// The version [default: the one before the present one]
    #[arg(long, value_name = "VERSION")]
    to: Option<u32>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Note {
    /// The image version [default of a bare name: the one it means]
    image: ImageRef,
    /// The note; an empty one clears it
    text: String,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn promote(door: &Door, args: Promote) -> anyhow::Result<Exit> {
    let ask = LayerPromote {
        node: args.node,
        name: args.name,
        note: args.note,
        tags: args.tags,
        force: args.force,
        dry_run: args.dry_run,
    };
    let bar = progress::bytes("promote");
    let done: LayerPromoted = long(door, "/v1/layers/promote", &ask, bar).await?;
    print_one(&done, args.output, || promoted(&done))?;
    Ok(Exit::Good)
}

fn promoted(done: &LayerPromoted) -> String {
    let LayerPromoted {
        label, node, base, ..
    } = done;
    let touched = format!("{} of {} chunks", done.touched_chunks, done.chunks);
    let mut text = if done.dry_run {
        format!("would make {label} of node {node} over {base}: {touched} would be read\n")
    } else if done.already {
        format!("{label} has this very content already; nothing was added\n")
    } else {
        let new = HumanBytes(done.new_bytes);
        format!(
            "{label}: node {node} over {base}, {touched} read, {} new ({new})\n",
            done.new_chunks
        )
    };
    text += &next_boots(&done.next);
    for notice in &done.notices {
        text += &format!("note: {notice}\n");
    }
    text
}

/// Who boots what next, line by line.
fn next_boots(next: &[NextBoot]) -> String {
    let line = |next: &NextBoot| {
        let version = next.version.as_deref().unwrap_or("nothing");
        match &next.kept {
            None => format!("next boot of {}: {version}\n", next.nodes),
            Some(why) => format!("{} stays on {version}: {why}\n", next.nodes),
        }
    };
    next.iter().map(line).collect()
}

pub(super) async fn export(door: &Door, args: Export) -> anyhow::Result<Exit> {
    let ask = LayerExport {
        node: args.node,
        path: absolute(&args.path)?,
        force: args.force,
        dry_run: args.dry_run,
    };
    let bar = progress::bytes("export");
    let done: LayerExported = long(door, "/v1/layers/export", &ask, bar).await?;
    let verb = if done.dry_run { "would write" } else { "wrote" };
    print_text(&format!(
        "{verb} the disk of node {} (over {}) to {} ({})\n",
        done.node,
        done.base,
        done.path.display(),
        HumanBytes(done.size)
    ));
    Ok(Exit::Good)
}

pub(super) async fn rollback(door: &Door, args: Rollback) -> anyhow::Result<Exit> {
    let ask = ImageRollback {
        image: args.image,
        to: args.to,
        dry_run: args.dry_run,
    };
    let done: ImageRolledBack = door.post("/v1/images/rollback", &ask).await?;
    print_one(&done, args.output, || {
        let means = if done.dry_run { "would mean" } else { "means" };
        let (name, version, before) = (&done.name, done.version, done.before);
        let mut text = format!("{name} {means} version {version} (it was {before})\n");
        text += &next_boots(&done.next);
        if version != done.newest && !name.contains(':') {
            text += &format!(
                "note: it stays there until {name} gets a new version, or `reveille image rollback {name} --to {}`\n",
                done.newest
            );
        }
        text
    })?;
    Ok(Exit::Good)
}

pub(super) async fn note(door: &Door, args: Note) -> anyhow::Result<Exit> {
    let ask = ImageNote {
        image: args.image,
        note: Some(args.text).filter(|text| !text.is_empty()),
        dry_run: args.dry_run,
    };
    let done: ImageNoted = door.post("/v1/images/note", &ask).await?;
    let would = if done.dry_run { "would be" } else { "is" };
    let quoted = |note: Option<&str>| note.map_or("none".to_owned(), |text| format!("\"{text}\""));
    print_text(&format!(
        "the note of {} {would} {} (was {})\n",
        done.label,
        quoted(done.note.as_deref()),
        quoted(done.before.as_deref())
    ));
    Ok(Exit::Good)
}
