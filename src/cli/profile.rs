//! `reveille profile ...`.

use clap::Subcommand;
use hyper::Method;

use super::Exit;
use super::door::{Door, escape};
use super::node::{word, words};
use super::output::{Format, Listing, clock, facts, print_one, print_text};
use super::progress;
use crate::catalog::{DiskTraits, ImageRef, Setting, SettingSet, Settings, parse_size};
use crate::head::{ProfileAdd, ProfileChange, ProfileDone, ProfileRemove, ProfileView};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Adds a profile
    Add(Add),
    /// Changes a profile, and so all its nodes; what runs stays as it is until its next boot
    Set(Set),
    /// Lists profiles
    Ls {
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Shows a profile whole
    Show {
        /// Its name
        name: String,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Removes a profile that no node has
    Rm {
        /// Its name
        name: String,
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// What nodes and profiles set; what is left out comes from elsewhere.
#[derive(Debug, clap::Args)]
pub(super) struct Given {
    /// What they boot, like debian12, debian12:3 or debian12:stable
    #[arg(long)]
    image: Option<ImageRef>,
    /// What becomes of their changes at each boot [where nobody says: ephemeral]
    #[arg(long, value_parser = words(&["ephemeral", "persistent"]))]
    mode: Option<String>,
    /// What they are told when they ask: boot their image, or go on to their local disk [where nobody says: image]
    #[arg(long, value_parser = words(&["image", "local"]))]
    boot: Option<String>,
    /// `chain`: replace even an iPXE in their firmware by the head's loader [where nobody says: auto]
    #[arg(long, value_parser = words(&["auto", "chain"]))]
    loader: Option<String>,
    /// What their disks are beyond plain ones: 512n, removable, read-only, sanitize, wsnz, comma separated;
    /// default for none
    #[arg(long, value_name = "LIST")]
    disk: Option<DiskTraits>,
    /// What their layers may hold, like 4G; `none` for no limit [where nobody says: the head's]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    layer_limit: Option<u64>,
    /// From which size of their layers on to warn, like 3G; `none` for never [where nobody says: the head's]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    layer_warn: Option<u64>,
    /// Power command with {node}, {mac} and {action} (on, off, cycle)
    #[arg(long, value_name = "COMMAND")]
    power: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl Given {
    pub(super) fn settings(self) -> anyhow::Result<Settings> {
        Ok(Settings {
            image: self.image,
            mode: self.mode.as_deref().map(word).transpose()?,
            boot: self.boot.as_deref().map(word).transpose()?,
            loader: self.loader.as_deref().map(word).transpose()?,
            disk: self.disk,
            layer_limit: self.layer_limit,
            layer_warn: self.layer_warn,
            power: self.power,
        })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Its name
    name: String,
    #[command(flatten)]
    given: Given,
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// Its name
    name: String,
    #[command(flatten)]
    given: Given,
    /// Settings it has no more: image, mode, boot, loader, disk, layer-limit, layer-warn, power,
    /// comma separated, or all
    #[arg(long, value_name = "LIST")]
    clear: Option<SettingSet>,
}

pub(super) async fn run(door: &Door, verb: Verb) -> anyhow::Result<Exit> {
    const PATH: &str = "/v1/profiles";
    match verb {
        Verb::Add(Add { name, given }) => {
            let ask = ProfileAdd {
                name,
                dry_run: given.dry_run,
                settings: given.settings()?,
            };
            tell(&door.post(PATH, &ask).await?, "added");
        }
        Verb::Set(Set { name, given, clear }) => {
            let ask = ProfileChange {
                name,
                dry_run: given.dry_run,
                settings: given.settings()?,
                clear: clear.unwrap_or_default(),
            };
            tell(&door.call(Method::PATCH, PATH, &ask).await?, "changed");
        }
        Verb::Ls { output } => list(&door.get::<Vec<ProfileView>>(PATH).await?, output)?,
        Verb::Show { name, output } => {
            let path = format!("{PATH}?name={}", escape(&name));
            let found: Vec<ProfileView> = door.get(&path).await?;
            for profile in &found {
                print_one(profile, output, || describe(profile))?;
            }
        }
        Verb::Rm { name, dry_run } => {
            let ask = ProfileRemove { name, dry_run };
            tell(&door.call(Method::DELETE, PATH, &ask).await?, "removed");
        }
    }
    Ok(Exit::Good)
}

fn tell(done: &ProfileDone, what: &str) {
    let would = if done.dry_run { "would have " } else { "" };
    print_text(&format!("{would}{what} profile {}\n", done.name));
    if !done.nodes.is_empty() {
        let (nodes, many) = (&done.nodes, done.nodes.len());
        progress::say(&format!(
            "note: {nodes} ({many}) boot by it from their next boot on"
        ));
    }
    for notice in &done.notices {
        progress::say(&format!("note: {notice}"));
    }
}

fn list(profiles: &[ProfileView], output: Format) -> anyhow::Result<()> {
    let value = |p: &ProfileView, one| p.settings.text(one).unwrap_or_else(|| "-".into());
    Listing {
        items: profiles,
        header: &["profile", "image", "mode", "boot", "nodes"],
        row: &|p| {
            vec![
                p.name.clone(),
                value(p, Setting::Image),
                value(p, Setting::Mode),
                value(p, Setting::Boot),
                p.nodes.len().to_string(),
            ]
        },
        name: &|p| p.name.clone(),
    }
    .print(output)
}

fn describe(p: &ProfileView) -> String {
    let mut lines = vec![("profile", p.name.clone())];
    for one in Setting::ALL {
        lines.push((one.as_str(), p.settings.text(one).unwrap_or_default()));
    }
    lines.push(("boots now", p.version.clone().unwrap_or_default()));
    if !p.nodes.is_empty() {
        lines.push(("nodes", format!("{} ({})", p.nodes, p.nodes.len())));
    }
    lines.push(("added", clock(p.added)));
    facts(&lines)
}
