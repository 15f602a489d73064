//! Processes and commands: running one, asking whether one lives, ending one by its number.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Runs a command to its end and returns what it wrote to stdout.
///
/// # Errors
/// When it cannot be started or ends badly; its last words are in the error.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let line = || format!("{program} {}", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot start `{}`; tools/packages installs it", line()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` ended with {}: {}", line(), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// True while process `pid` runs (a zombie does not).
#[must_use]
pub fn alive(pid: i32) -> bool {
    // Field 3, after the name in parentheses, which may itself hold blanks and parentheses.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().chars().next()? != 'Z'))
        .unwrap_or(false)
}

/// The command line of a process, blanks between the words; empty when it is gone.
#[must_use]
pub fn command_line(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw).replace('\0', " ")
}

/// The number in a pid file, if the file is there and whole.
#[must_use]
pub fn pid_in(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Sends a signal to one process; no error when it is gone already.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends a process at once and waits until it is gone.
///
/// # Errors
/// When it is still there after five seconds.
pub fn kill_now(pid: i32) -> Result<()> {
    signal(pid, Signal::KILL);
    wait_until(Duration::from_secs(5), || !alive(pid))
        .with_context(|| format!("process {pid} does not end"))
}

/// Asks until `done` says yes.
///
/// # Errors
/// When it has not by then.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("nothing within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processor time that a process has used so far (user and system, all threads).
#[must_use]
pub fn cpu_seconds(pid: i32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // Fields 14 and 15 of proc(5), counted from field 3.
    let user: u32 = fields.nth(11)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    let ticks = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some((f64::from(user) + f64::from(system)) / f64::from(ticks))
}

/// Bytes that a process has made the kernel read from a medium so far (proc(5), `io`).
#[must_use]
pub fn read_bytes(pid: i32) -> Option<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes:"));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn this_process_lives_and_an_ended_child_does_not() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(alive(me));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(!alive(pid));
    }

    #[test]
    fn a_killed_process_is_gone_when_kill_returns() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        kill_now(pid).unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn processor_time_grows_with_work() {
        let me = i32::try_from(std::process::id()).unwrap();
        let before = cpu_seconds(me).unwrap();
        let mut sum = 0_u64;
        let end = Instant::now() + Duration::from_secs(30);
        while cpu_seconds(me).unwrap() < before + 0.05 && Instant::now() < end {
            sum = (0..100_000).fold(sum, |a, b| a.wrapping_mul(31).wrapping_add(b));
        }
        assert!(cpu_seconds(me).unwrap() >= before + 0.05, "{sum}");
    }

    #[test]
    fn a_failing_command_tells_its_last_words() {
        let error = run("sh", &["-c", "echo no such thing >&2; exit 3"]).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
    }
}
