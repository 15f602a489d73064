//! The program's own log. Names no other room. Level 1.
//!
//! Who reads which level: `error`: an operator's request or a node's disk failed; `warn`: it will, if
//! nobody acts; `info`: rare things worth knowing in production; `debug`: one line per session or boot
//! request; `trace`: the data path, compiled out of release builds.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging to stderr. `REVEILLE_LOG` holds a filter such as `info,reveille::iscsi=debug`.
/// A second call changes nothing.
pub fn start_logging(default_filter: &str) {
    let filter =
        EnvFilter::try_from_env("REVEILLE_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Fails only when a subscriber is set already, as in tests.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(true)
        .try_init();
}
