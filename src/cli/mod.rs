//! The command line. Level 9.
//!
//! One file per noun; each turns arguments into one request and the answer into text. Data goes to stdout,
//! everything else to stderr. Exit codes are one enum, [`Exit`].

mod apply;
mod boot;
mod campaign;
mod check;
mod config;
mod door;
mod drain;
mod events;
mod image;
mod image_diff;
mod image_profile;
mod layer;
mod node;
mod output;
mod profile;
mod progress;
mod promote;
mod scrub;
mod serve;
mod status;
mod swarm;
mod swarm_boot;
mod swarm_nodes;
mod swarm_run;
mod swarm_told;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{DEFAULT_PATH, Settings};
use door::{Door, Refusal};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All good.
    Good = 0,
    /// Failed.
    Failed = 1,
    /// The arguments or the configuration are wrong.
    Usage = 2,
    /// Some nodes failed; they are on stderr as a nodeset.
    Partly = 3,
    /// Refused by a check: in use, exists already, of a newer version.
    Refused = 4,
    /// Timed out.
    TimedOut = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Wakes a whole diskless cluster from one golden image.
#[derive(Debug, Parser)]
#[command(name = "reveille", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// Configuration file [default: /etc/reveille/reveille.toml, if it is there]
    #[arg(long, global = true, env = "REVEILLE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// State directory [default: from the configuration]
    #[arg(long, global = true, env = "REVEILLE_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Control socket of the daemon [default: reveille.sock in the state directory]
    #[arg(long, global = true, env = "REVEILLE_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the head in the foreground; prints one line `ready ...` when every service listens
    Serve,
    /// Golden images
    #[command(subcommand, visible_alias = "images")]
    Image(image::Verb),
    /// Nodes
    #[command(subcommand, visible_alias = "nodes")]
    Node(node::Verb),
    /// Settings that nodes share
    #[command(subcommand, visible_alias = "profiles")]
    Profile(profile::Verb),
    /// Layers: what nodes changed
    #[command(subcommand, visible_alias = "layers")]
    Layer(layer::Verb),
    /// Boots nodes in waves
    Boot(boot::BootArgs),
    /// Restarts nodes in waves
    Reboot(boot::BootArgs),
    /// Switches nodes off
    Off(boot::OffArgs),
    /// Mass boots under way and past
    #[command(subcommand, visible_alias = "campaigns")]
    Campaign(campaign::Verb),
    /// Shows where each node stands
    Status(status::Args),
    /// Shows what happened
    Events(events::Args),
    /// Asks nodes to leave this head and sends their later logins to another, until `undrain`
    Drain(drain::DrainArgs),
    /// Takes nodes in again
    Undrain(drain::UndrainArgs),
    /// Prints everything that this head was told as text: for backup, comparison, and `apply`
    Export(apply::ExportArgs),
    /// Makes this head be what a text says: shows the plan, asks, then does all of it or nothing
    Apply(apply::ApplyArgs),
    /// Virtual nodes, and the traces of boots that they replay
    #[command(subcommand)]
    Swarm(swarm::Verb),
    /// Prints the counters of the running head, in the text format of Prometheus
    Metrics,
    /// Checks the state directory of a head that is stopped: catalog, images, layers, and that they fit together
    Check(check::Args),
    /// Checks or writes a configuration
    #[command(subcommand)]
    Config(config::Verb),
    /// Prints a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and go to stdout.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Good
            };
        }
    };
    match run(cli) {
        Ok(exit) => exit,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "reveille: {error:#}");
            exit_of(&error)
        }
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    use crate::head::HeadErrorKind as Kind;
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.exit;
    }
    if error.is::<crate::config::ConfigError>() || error.is::<crate::names::NameError>() {
        return Exit::Usage;
    }
    match error
        .downcast_ref::<crate::head::HeadError>()
        .map(|e| e.kind)
    {
        Some(Kind::Invalid) => Exit::Usage,
        Some(Kind::Conflict | Kind::Refused) => Exit::Refused,
        _ => Exit::Failed,
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    if let Command::Completion { shell } = cli.command {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "reveille", &mut text);
        output::print_text(&String::from_utf8_lossy(&text));
        return Ok(Exit::Good);
    }
    if let Command::Config(verb) = cli.command {
        return config::run(&verb, cli.global.config.as_deref());
    }
    let settings = settings(&cli.global)?;
    if let Command::Serve = cli.command {
        return serve::run(&settings);
    }
    crate::telemetry::start_logging("warn");
    if let Command::Check(args) = &cli.command {
        return check::run(&settings.state, args);
    }
    if let Command::Swarm(verb) = cli.command {
        return swarm::run(&settings, verb);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let door = Door::open(&settings.socket, &settings.state).await?;
        match cli.command {
            Command::Image(verb) => image::run(&door, verb).await,
            Command::Node(verb) => node::run(&door, verb).await,
            Command::Profile(verb) => profile::run(&door, verb).await,
            Command::Layer(verb) => layer::run(&door, verb).await,
            Command::Boot(args) => boot::boot(&door, args, false).await,
            Command::Reboot(args) => boot::boot(&door, args, true).await,
            Command::Off(args) => boot::off(&door, args).await,
            Command::Campaign(verb) => campaign::run(&door, verb).await,
            Command::Status(args) => status::run(&door, args).await,
            Command::Events(args) => events::run(&door, args).await,
            Command::Drain(args) => drain::drain(&door, args).await,
            Command::Undrain(args) => drain::undrain(&door, args).await,
            Command::Export(args) => apply::export(&door, &args).await,
            Command::Apply(args) => apply::apply(&door, args).await,
            Command::Metrics => drain::metrics(&door).await,
            Command::Serve
            | Command::Check(_)
            | Command::Swarm(_)
            | Command::Config(_)
            | Command::Completion { .. } => Ok(Exit::Good),
        }
    })
}

/// Flags over environment (clap has merged the two) over file over defaults.
fn settings(global: &Global) -> anyhow::Result<Settings> {
    let mut settings = match &global.config {
        Some(path) => Settings::load(path)?,
        None if Path::new(DEFAULT_PATH).exists() => Settings::load(Path::new(DEFAULT_PATH))?,
        None => Settings::default(),
    };
    if let Some(state) = &global.state {
        settings.set_state(state.clone());
    }
    if let Some(socket) = &global.socket {
        settings.socket.clone_from(socket);
    }
    Ok(settings)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_argument_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_may_stand_before_or_after_the_noun() {
        for line in [
            ["reveille", "--state", "/s", "node", "ls"],
            ["reveille", "node", "ls", "--state", "/s"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.global.state.as_deref(), Some(Path::new("/s")));
        }
    }
}
