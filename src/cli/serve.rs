//! `reveille serve`.

use super::{Exit, output};
use crate::config::Settings;
use crate::daemon;

/// Runs the head until it is told to stop.
pub(super) fn run(settings: &Settings) -> anyhow::Result<Exit> {
    crate::telemetry::start_logging("info");
    daemon::run(settings, |ready| output::print_text(&format!("{ready}\n")))?;
    Ok(Exit::Good)
}
