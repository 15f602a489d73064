//! QEMU's control socket, as far as a power button needs it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Runs one command without arguments: `system_reset`, `system_powerdown`, `quit`, `query-status`.
///
/// # Errors
/// When QEMU is not there, does not answer within ten seconds, or refuses.
pub fn execute(socket: &Path, command: &str) -> Result<Value> {
    let context = || format!("QEMU's control socket {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(context)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut stream = stream;
    let mut answer = || -> Result<Value> {
        loop {
            let line = lines
                .next()
                .context("closed the connection")?
                .with_context(context)?;
            let value: Value = serde_json::from_str(&line)?;
            if let Some(error) = value.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            // Events come in between.
            if let Some(result) = value.get("return").or_else(|| value.get("QMP")) {
                return Ok(result.clone());
            }
        }
    };
    answer()?;
    for word in ["qmp_capabilities", command] {
        writeln!(stream, "{{\"execute\":\"{word}\"}}")?;
        let result = answer()?;
        if word == command {
            return Ok(result);
        }
    }
    bail!("QEMU did not answer {command}")
}
