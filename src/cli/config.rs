//! `reveille config check|example`.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Exit, output};
use crate::config::{DEFAULT_PATH, EXAMPLE, Settings};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Reads a configuration and says what is wrong with it
    Check {
        /// The file [default: the one in use]
        file: Option<PathBuf>,
    },
    /// Prints a commented configuration with every key and its default
    Example,
}

pub(super) fn run(verb: &Verb, in_use: Option<&Path>) -> anyhow::Result<Exit> {
    match verb {
        Verb::Example => output::print_text(EXAMPLE),
        Verb::Check { file } => {
            let path = file
                .as_deref()
                .or(in_use)
                .unwrap_or(Path::new(DEFAULT_PATH));
            Settings::load(path)?;
            output::print_text(&format!("{} is good\n", path.display()));
        }
    }
    Ok(Exit::Good)
}
