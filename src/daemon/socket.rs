//! The control socket: only its owner may connect.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// Listens at `path`. The state directory's lock is held already, so a socket that is left there is nobody's,
/// unless another head was pointed at the same path.
pub(super) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!(
            "control socket {}: another head answers there; give this one its own with --socket",
            path.display()
        );
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("control socket {}", path.display()));
        }
        _ => {}
    }
    let what = || {
        format!(
            "control socket {}: cannot listen; does its directory exist, and is the path below 108 bytes?",
            path.display()
        )
    };
    let listener = UnixListener::bind(path).with_context(what)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(what)?;
    Ok(listener)
}
