//! `reveille image ...`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use hyper::Method;
use indicatif::ProgressBar;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::door::{Door, broken_off, escape};
use super::output::{Format, Listing, ago, clock, facts, print_one, print_text};
use super::{Exit, image_diff, progress, promote};
use crate::api::Line;
use crate::catalog::ImageRef;
use crate::head::{
    Damage, ImageExport, ImageExported, ImageImport, ImageImported, ImageRemove, ImageRemoved,
    ImageTag, ImageTagged, ImageUntag, ImageVerified, ImageVerify, ImageView, VersionView,
};
use crate::units::{HumanBytes, UnixMillis};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Reads a disk file in and seals it as the next version of an image
    Import(Import),
    /// Lists images and their versions
    Ls {
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Shows an image, or one version of it with its partition table
    Show {
        /// The image, like debian12, debian12:3 or debian12:stable
        image: ImageRef,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Reads every chunk again and compares it with its hash
    Verify {
        /// The image version [default of a bare name: the one it means]
        image: ImageRef,
    },
    /// Reads all images again in the background, slowly: shows how far it is, begins, pauses
    Scrub(super::scrub::Args),
    /// Shows what boots of a version read, and how much of it is in memory
    Profile(super::image_profile::Args),
    /// Puts a tag on a version, moves it there, or removes it
    Tag {
        /// The version; with --delete the image
        image: ImageRef,
        /// The tag
        tag: String,
        /// Remove the tag
        #[arg(long)]
        delete: bool,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Lets an image's name, or a tag, mean an earlier version again
    Rollback(promote::Rollback),
    /// Shows what differs between two versions: chunks, and files where they can be told
    Diff(image_diff::OfImages),
    /// Sets the note of a version
    Note(promote::Note),
    /// Removes a version, or a whole image
    Rm {
        /// The version; a bare name means the image with all its versions
        image: ImageRef,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Writes a version out as a disk file with holes
    Export {
        /// The image version [default of a bare name: the newest]
        image: ImageRef,
        /// The file to write; it must not exist
        path: PathBuf,
        /// Format of the file: raw, qcow2, vhd or vhdx
        #[arg(long, default_value = "raw")]
        format: String,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The disk file
    path: PathBuf,
    /// The image's name; the next version number is given by itself
    #[arg(long)]
    name: ImageRef,
    /// Format of the file: raw, qcow2, vhd, vhdx, vmdk, or auto by its content
    #[arg(long, default_value = "auto")]
    format: String,
    /// Directory of the parents or extents that the file names [default: its own directory]
    #[arg(long, value_name = "DIRECTORY")]
    parents: Option<PathBuf>,
    /// Architecture of the operating system on it, like x86_64
    #[arg(long)]
    arch: Option<String>,
    /// A note for people
    #[arg(long)]
    note: Option<String>,
    /// Tags to put on the new version
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Only check the file and the names
    #[arg(long)]
    dry_run: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(door: &Door, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Import(args) => import(door, args).await,
        Verb::Ls { output } => list(door, output).await,
        Verb::Show { image, output } => show(door, &image, output).await,
        Verb::Verify { image } => verify(door, image).await,
        Verb::Tag {
            image,
            tag,
            delete,
            dry_run,
        } => set_tag(door, image, tag, delete, dry_run).await,
        Verb::Rollback(args) => promote::rollback(door, args).await,
        Verb::Diff(args) => image_diff::images(door, args).await,
        Verb::Note(args) => promote::note(door, args).await,
        Verb::Scrub(args) => super::scrub::run(door, args).await,
        Verb::Profile(args) => super::image_profile::run(door, args).await,
        Verb::Rm { image, dry_run } => remove(door, image, dry_run).await,
        Verb::Export {
            image,
            path,
            format,
            dry_run,
        } => export(door, image, &path, format, dry_run).await,
    }
}

/// Runs long work with a bar and gives its result.
pub(super) async fn long<T: DeserializeOwned>(
    door: &Door,
    path: &str,
    ask: &impl Serialize,
    bar: ProgressBar,
) -> anyhow::Result<T> {
    let mut result = None;
    let each = |line: Line<T>| {
        match line {
            Line::Progress(step) => {
                bar.set_length(step.total);
                bar.set_position(step.done);
            }
            Line::Done(done) => result = Some(done),
            Line::Error(fault) => return Err(broken_off(fault)),
        }
        Ok(())
    };
    let ended = door.lines(Method::POST, path, ask, each).await;
    bar.finish_and_clear();
    ended?;
    result.context("the head stopped before the work was done; nothing was registered")
}

/// The daemon may have another working directory than this process.
pub(super) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("path {}", path.display()))
}

async fn import(door: &Door, args: Import) -> anyhow::Result<Exit> {
    let ask = ImageImport {
        path: absolute(&args.path)?,
        name: args.name,
        format: args.format,
        parents: args.parents.as_deref().map(absolute).transpose()?,
        arch: args.arch,
        note: args.note,
        tags: args.tags,
        dry_run: args.dry_run,
    };
    let done: ImageImported = long(door, "/v1/images", &ask, progress::bytes("import")).await?;
    print_one(&done, args.output, || {
        let size = HumanBytes(done.size);
        if done.dry_run {
            return format!("would import {} ({size})\n", done.label);
        }
        if done.already {
            return format!(
                "{} has this very content already; nothing was added\n",
                done.label
            );
        }
        format!(
            "{}: {size}, {} chunks of which {} are new ({}) and {} zero\n",
            done.label,
            done.chunks,
            done.new_chunks,
            HumanBytes(done.new_bytes),
            done.zero_chunks
        )
    })?;
    Ok(Exit::Good)
}

#[derive(Serialize)]
struct VersionLine {
    image: String,
    #[serde(flatten)]
    version: VersionView,
}

async fn list(door: &Door, output: Format) -> anyhow::Result<Exit> {
    let images: Vec<ImageView> = door.get("/v1/images").await?;
    let lines: Vec<VersionLine> = images
        .into_iter()
        .flat_map(|image| {
            let name = image.name;
            image.versions.into_iter().map(move |version| VersionLine {
                image: name.clone(),
                version,
            })
        })
        .collect();
    let now = UnixMillis::now();
    Listing {
        items: &lines,
        header: &["image", "tags", "size", "created", "id", "nodes", "note"],
        row: &|l| {
            let record = &l.version.record;
            vec![
                format!("{}:{}", l.image, record.version),
                l.version.tags.join(","),
                HumanBytes(record.size).to_string(),
                ago(record.created, now),
                record.id.to_string()[..12].to_owned(),
                l.version.nodes.to_string(),
                record.note.clone().unwrap_or_default(),
            ]
        },
        name: &|l| format!("{}:{}", l.image, l.version.record.version),
    }
    .print(output)?;
    Ok(Exit::Good)
}

async fn show(door: &Door, image: &ImageRef, output: Format) -> anyhow::Result<Exit> {
    // A bare name shows the version it means: that is what a node set to it would boot.
    let text = String::from(image.clone());
    let mut path = format!("/v1/image?image={}", escape(&text));
    if image.version.is_none() {
        path = format!("/v1/image?image={}", escape(&format!("{text}:latest")));
    }
    let view: ImageView = door.get(&path).await?;
    print_one(&view, output, || {
        let all = view.versions.iter().map(|v| describe(&view.name, v));
        all.collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Good)
}

fn describe(name: &str, version: &VersionView) -> String {
    let record = &version.record;
    let chunks = record.size.div_ceil(crate::limits::CHUNK_BYTES);
    let chunks = match version.data_chunks {
        Some(data) => format!("{chunks}, {data} with data"),
        None => chunks.to_string(),
    };
    facts(&[
        ("image", format!("{name}:{}", record.version)),
        ("tags", version.tags.join(", ")),
        ("id", record.id.to_string()),
        (
            "size",
            format!("{} ({} bytes)", HumanBytes(record.size), record.size),
        ),
        ("chunks", chunks),
        ("architecture", record.arch.clone().unwrap_or_default()),
        ("note", record.note.clone().unwrap_or_default()),
        ("source", record.source.clone()),
        ("created", clock(record.created)),
        ("nodes", version.nodes.to_string()),
        ("disk", version.disk.as_ref().map(disk).unwrap_or_default()),
        ("damage", damage(&version.bad)),
    ])
}

/// Each bad chunk on a line, and what to do.
fn damage(bad: &[Damage]) -> String {
    let line = |d: &Damage| {
        format!(
            "chunk {} (bytes {} to {}) in {} at {}: {}; disks of nodes: {}",
            d.chunk, d.from, d.to, d.pack, d.pack_offset, d.why, d.nodes
        )
    };
    let mut lines: Vec<String> = bad.iter().map(line).collect();
    lines.extend(bad.first().map(|d| d.next.clone()));
    lines.join("\n  ")
}

/// Partition table and boot code in a few lines, from the inspection's JSON.
fn disk(found: &serde_json::Value) -> String {
    let word = |key: &str| found[key].as_str().unwrap_or("unknown").to_owned();
    let esp = if found["esp"].as_bool() == Some(true) {
        ", EFI system partition"
    } else {
        ""
    };
    let mut lines = vec![format!(
        "partition table {}, boot code {}{esp}",
        word("table"),
        word("boot_code")
    )];
    for part in found["partitions"].as_array().into_iter().flatten() {
        let text = |key: &str| part[key].as_str().unwrap_or_default();
        let bytes = |key: &str| part[key].as_u64().unwrap_or(0);
        let kind = match text("kind_name") {
            "" => text("kind"),
            name => name,
        };
        let size = HumanBytes(bytes("end").saturating_sub(bytes("start")));
        let active = if part["active"].as_bool() == Some(true) {
            ", active"
        } else {
            ""
        };
        let (number, name) = (&part["number"], text("name"));
        lines.push(format!("  {number}: {kind}, {size}{active} {name}"));
    }
    for problem in found["problems"].as_array().into_iter().flatten() {
        lines.push(format!("  note: {}", problem.as_str().unwrap_or_default()));
    }
    lines.join("\n  ")
}

async fn verify(door: &Door, image: ImageRef) -> anyhow::Result<Exit> {
    let ask = ImageVerify { image };
    let done: ImageVerified =
        long(door, "/v1/images/verify", &ask, progress::bytes("verify")).await?;
    if done.bad.is_empty() {
        let size = HumanBytes(done.size);
        print_text(&format!(
            "{} is good: {size} read and compared\n",
            done.label
        ));
        return Ok(Exit::Good);
    }
    for bad in &done.bad {
        print_text(&format!(
            "{} at byte {}: {}\n",
            done.label, bad.offset, bad.why
        ));
    }
    progress::say(&format!(
        "{}: {} places are damaged; import the same file again to repair them",
        done.label,
        done.bad.len()
    ));
    Ok(Exit::Failed)
}

async fn set_tag(
    door: &Door,
    image: ImageRef,
    tag: String,
    delete: bool,
    dry_run: bool,
) -> anyhow::Result<Exit> {
    let done: ImageTagged = if delete {
        let name = image.name;
        let ask = ImageUntag { name, tag, dry_run };
        door.call(Method::DELETE, "/v1/images/tag", &ask).await?
    } else {
        let ask = ImageTag {
            image,
            tag,
            dry_run,
        };
        door.post("/v1/images/tag", &ask).await?
    };
    let place = |version: Option<u32>| version.map_or("nowhere".into(), |v| format!("version {v}"));
    let would = if done.dry_run { "would be on" } else { "is on" };
    let mut text = format!(
        "{}:{} {would} {} (was on {})\n",
        done.name,
        done.tag,
        place(done.version),
        place(done.before)
    );
    if !done.nodes.is_empty() {
        text += &format!("changes the next boot of {}\n", done.nodes);
    }
    print_text(&text);
    Ok(Exit::Good)
}

async fn remove(door: &Door, image: ImageRef, dry_run: bool) -> anyhow::Result<Exit> {
    let ask = ImageRemove { image, dry_run };
    let done: ImageRemoved = door.call(Method::DELETE, "/v1/images", &ask).await?;
    let labels = done.labels.join(", ");
    print_text(&match (done.dry_run, done.freed_bytes) {
        (true, _) => format!("would remove {labels}\n"),
        (false, Some(bytes)) => format!("removed {labels}; {} freed\n", HumanBytes(bytes)),
        (false, None) => format!("removed {labels}; its space is freed later\n"),
    });
    Ok(Exit::Good)
}

async fn export(
    door: &Door,
    image: ImageRef,
    path: &Path,
    format: String,
    dry_run: bool,
) -> anyhow::Result<Exit> {
    let ask = ImageExport {
        image,
        path: absolute(path)?,
        format,
        dry_run,
    };
    let done: ImageExported =
        long(door, "/v1/images/export", &ask, progress::bytes("export")).await?;
    let verb = if done.dry_run { "would write" } else { "wrote" };
    print_text(&format!(
        "{verb} {} to {} ({})\n",
        done.label,
        done.path.display(),
        HumanBytes(done.size)
    ));
    Ok(Exit::Good)
}
