//! `reveille image diff` and `reveille layer diff`.

use super::Exit;
use super::door::Door;
use super::image::long;
use super::output::{Format, print_one};
use super::progress;
use crate::catalog::ImageRef;
use crate::head::{Compared, FileChange, FileDifference, ImageDiff, LayerDiff, PartDifference};
use crate::names::NodeName;
use crate::units::HumanBytes;

#[derive(Debug, clap::Args)]
pub(super) struct OfImages {
    /// The first version
    before: ImageRef,
    /// The second version
    after: ImageRef,
    /// Only chunks and bytes, from the manifests alone
    #[arg(long)]
    no_files: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct OfLayer {
    /// The node
    node: NodeName,
    /// Only chunks and bytes
    #[arg(long)]
    no_files: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn images(door: &Door, args: OfImages) -> anyhow::Result<Exit> {
    let ask = ImageDiff {
        before: args.before,
        after: args.after,
        files: !args.no_files,
    };
    let done: Compared = long(door, "/v1/images/diff", &ask, progress::bytes("diff")).await?;
    print_one(&done, args.output, || describe(&done))?;
    Ok(Exit::Good)
}

pub(super) async fn layer(door: &Door, args: OfLayer) -> anyhow::Result<Exit> {
    let ask = LayerDiff {
        node: args.node,
        files: !args.no_files,
    };
    let done: Compared = long(door, "/v1/layers/diff", &ask, progress::bytes("diff")).await?;
    print_one(&done, args.output, || describe(&done))?;
    Ok(Exit::Good)
}

fn describe(done: &Compared) -> String {
    let found = &done.difference;
    let mut text = format!(
        "{} -> {}: {} of {} chunks differ ({})\n",
        done.before,
        done.after,
        found.differing_chunks,
        found.chunks,
        HumanBytes(found.differing_bytes)
    );
    if found.size_before != found.size_after {
        let (before, after) = (HumanBytes(found.size_before), HumanBytes(found.size_after));
        text += &format!("size: {before} -> {after}\n");
    }
    if found.outside_chunks > 0 {
        let chunks = found.outside_chunks;
        text += &format!("outside of partitions: {chunks} chunks differ\n");
    }
    for part in &found.parts {
        text += &part_text(part);
    }
    text
}

fn part_text(part: &PartDifference) -> String {
    let name = match part.number {
        0 => "whole disk".to_owned(),
        number => format!("partition {number}"),
    };
    let system = match part.file_system.as_str() {
        "" => String::new(),
        system => format!(" ({system})"),
    };
    let chunks = part.differing_chunks;
    let mut text = format!("{name}{system}: {chunks} chunks differ\n");
    if let Some(why) = &part.untold {
        text += &format!("  files cannot be told: {why}\n");
    }
    if let Some(files) = part.files.as_ref().filter(|_| chunks > 0) {
        text += &files_text(files);
    }
    text
}

fn files_text(files: &FileDifference) -> String {
    let mut lines: Vec<(&FileChange, char)> = Vec::new();
    lines.extend(files.removed.iter().map(|file| (file, '-')));
    lines.extend(files.added.iter().map(|file| (file, '+')));
    lines.extend(files.changed.iter().map(|file| (file, '~')));
    lines.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    let mut text = String::new();
    for (file, sign) in lines {
        let what = match file.what.as_str() {
            "" => String::new(),
            what => format!(", {what}"),
        };
        let size = HumanBytes(file.size);
        text += &format!("  {sign} {} ({size}{what})\n", file.path.escape_debug());
    }
    if files.more > 0 {
        text += &format!("  and {} more\n", files.more);
    }
    if text.is_empty() {
        text = "  no file differs\n".to_owned();
    }
    for note in &files.notes {
        text += &format!("  note: {note}\n");
    }
    text
}
