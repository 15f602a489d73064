//! `reveille export`, `reveille apply`.

use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::door::Door;
use super::output::print_text;
use super::{Exit, progress};
use crate::head::{Applied, Apply};
use crate::limits;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum TextFormat {
    /// With comments
    #[default]
    Yaml,
    /// For programs
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// With CHAP secrets and the identities of disks: to make another head the same to its nodes
    #[arg(long)]
    secrets: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: TextFormat,
}

#[derive(Debug, clap::Args)]
pub(super) struct ApplyArgs {
    /// The text, YAML or JSON, as `export` prints it; parts of it will do; - reads stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Remove what the text's sections do not name: nodes with their layers, profiles, orders to drain
    #[arg(long)]
    prune: bool,
    /// Take nodes and profiles whose images are not here yet
    #[arg(long)]
    missing_images: bool,
    /// Do it without asking
    #[arg(short, long)]
    yes: bool,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn export(door: &Door, args: &ExportArgs) -> anyhow::Result<Exit> {
    let json = args.output == TextFormat::Json;
    let path = format!("/v1/export?secrets={}&json={json}", args.secrets);
    if args.secrets && stdout_is_open_to_others() {
        progress::say(
            "note: this holds CHAP secrets and the file is open to others; \
             close it with `chmod 600`, or say `umask 077` first",
        );
    }
    let text = String::from_utf8(door.text(&path).await?).context("the export is not text")?;
    print_text(&text);
    Ok(Exit::Good)
}

/// True when stdout is a file that others may read.
fn stdout_is_open_to_others() -> bool {
    let link = std::fs::metadata("/proc/self/fd/1");
    link.is_ok_and(|meta| {
        meta.is_file() && meta.nlink() > 0 && meta.permissions().mode() & 0o077 != 0
    })
}

pub(super) async fn apply(door: &Door, args: ApplyArgs) -> anyhow::Result<Exit> {
    let stdin = args.file.as_os_str() == "-";
    let mut ask = Apply {
        text: read(&args.file)?,
        file: if stdin {
            "stdin".to_owned()
        } else {
            args.file.display().to_string()
        },
        prune: args.prune,
        missing_images: args.missing_images,
        expect: None,
        dry_run: true,
    };
    let plan: Applied = door.post("/v1/apply", &ask).await?;
    show(&plan, args.json)?;
    if plan.plan.is_empty() || args.dry_run {
        return Ok(Exit::Good);
    }
    if !args.yes && !confirmed(stdin)? {
        progress::say("nothing was done");
        return Ok(Exit::Refused);
    }
    // What was shown, or nothing.
    ask.expect = Some(plan.token);
    ask.dry_run = false;
    let done: Applied = door.post("/v1/apply", &ask).await?;
    for notice in done.notices.iter().filter(|n| !plan.notices.contains(n)) {
        progress::say(&format!("note: {notice}"));
    }
    progress::say(&format!("applied {}", ask.file));
    Ok(Exit::Good)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let most = limits::CATALOG_TEXT_BYTES_MAX as u64;
    let name = || format!("file {}", path.display());
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(most + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).with_context(name)?;
        file.take(most + 1).read_to_string(&mut text)
    };
    read.with_context(name)?;
    Ok(text)
}

fn show(plan: &Applied, json: bool) -> anyhow::Result<()> {
    if json {
        print_text(&(serde_json::to_string_pretty(plan)? + "\n"));
    } else if plan.plan.is_empty() {
        print_text("nothing to do\n");
    } else {
        let lines: Vec<String> = plan.plan.iter().map(|line| format!("{line}\n")).collect();
        print_text(&lines.concat());
    }
    for notice in &plan.notices {
        progress::say(&format!("note: {notice}"));
    }
    Ok(())
}

/// Asks on the terminal; where there is none, `-y` must have been given.
fn confirmed(stdin_is_taken: bool) -> anyhow::Result<bool> {
    let input = std::io::stdin();
    if stdin_is_taken || !input.is_terminal() {
        bail!(super::door::Refusal::new(
            Exit::Usage,
            "nothing was done: nobody can be asked here; look at the plan, then say -y"
        ));
    }
    let mut out = std::io::stderr();
    out.write_all(b"apply this? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
