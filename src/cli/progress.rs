//! Progress on stderr: bars on a terminal, nothing elsewhere.

use std::io::Write;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::stderr_is_lively;

fn bar(template: &str) -> ProgressBar {
    let target = if stderr_is_lively() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> "))
}

/// A bar that counts bytes.
pub(super) fn bytes(what: &str) -> ProgressBar {
    let bar = bar("{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_message(what.to_owned());
    bar
}

/// A bar that counts nodes.
pub(super) fn nodes() -> ProgressBar {
    bar("[{bar:40}] {pos}/{len} {msg} {elapsed}")
}

/// No bar: what happens, in words, and for how long.
pub(super) fn words() -> ProgressBar {
    bar("{msg} {elapsed}")
}

/// A line on stderr.
pub(super) fn say(text: &str) {
    // Nobody reads stderr: nothing can be done about it.
    let _ = writeln!(std::io::stderr(), "{text}");
}
