//! Flame graphs: where a server's processor time goes under a load. Linux `perf` looks, the `inferno` crate folds and
//! draws. Never in a timed round: looking costs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph;
use lab::proc::wait_until;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::time::Timespec;

/// Looks a second: prime, so that nothing that goes round falls into step with it.
const HERTZ: &str = "499";
/// How stacks are taken: with the unwind tables, since programs keep no frame pointers.
const STACKS: &str = "dwarf,8192";
/// Longest time until `perf` answers, or has written what it saw.
const PERF_MAX: Duration = Duration::from_secs(60);
/// Functions that a profile names.
const TOLD: usize = 8;

/// Where time went, in percent of all samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// The case.
    pub name: String,
    /// Samples.
    pub samples: u64,
    /// In the kernel.
    pub kernel: f64,
    /// Functions by what they took themselves, the largest first.
    pub own: Vec<(String, f64)>,
}

/// `perf` beside a process.
#[derive(Debug)]
pub struct Look {
    perf: Child,
    control: File,
    answers: File,
    data: PathBuf,
    name: String,
    dir: PathBuf,
}

impl Look {
    /// Begins to look at a process; `dir` gets `NAME.svg` in the end.
    ///
    /// # Errors
    /// When `perf` is not installed or may not look.
    pub fn begin(pid: u32, dir: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let [control, answers] =
            ["control", "answers"].map(|end| dir.join(format!("{name}.{end}")));
        for path in [&control, &answers] {
            let _ = fs::remove_file(path);
            mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?;
        }
        let data = dir.join(format!("{name}.data"));
        let ends = format!("fifo:{},{}", control.display(), answers.display());
        // Both ways, so that opening waits for nobody.
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let (control_end, answers_end) = (open(&control)?, open(&answers)?);
        let perf = Command::new("perf")
            .args(["record", "-q", "-D", "-1", "-F", HERTZ])
            .args(["--call-graph", STACKS, "--control", &ends])
            .args(["-p", &pid.to_string(), "-o"])
            .arg(&data)
            .stdin(Stdio::null())
            .spawn()
            .context("perf (Debian package linux-perf)")?;
        let mut look = Self {
            perf,
            control: control_end,
            answers: answers_end,
            data,
            name: name.to_owned(),
            dir: dir.to_owned(),
        };
        let begun = look.tell("enable");
        for path in [&control, &answers] {
            let _ = fs::remove_file(path);
        }
        begun.context("perf did not begin")?;
        Ok(look)
    }

    fn tell(&mut self, word: &str) -> Result<()> {
        writeln!(self.control, "{word}")?;
        let mut fds = [PollFd::new(&self.answers, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: i64::try_from(PERF_MAX.as_secs())?,
            tv_nsec: 0,
        };
        ensure!(poll(&mut fds, Some(&limit))? > 0, "no answer to `{word}`");
        let mut said = [0; 16];
        let len = self.answers.read(&mut said)?;
        ensure!(
            said[..len].starts_with(b"ack"),
            "a strange answer to `{word}`"
        );
        Ok(())
    }

    /// Ends it, and draws.
    ///
    /// # Errors
    /// When nothing was seen.
    pub fn end(mut self) -> Result<Profile> {
        self.tell("disable")?;
        writeln!(self.control, "stop")?;
        let perf = &mut self.perf;
        wait_until(PERF_MAX, || perf.try_wait().is_ok_and(|end| end.is_some()))
            .context("perf does not end")?;
        let folded = fold(&self.data)?;
        let _ = fs::remove_file(&self.data);
        let mut options = flamegraph::Options::default();
        options.title = format!("Reveille: {}", self.name);
        options.min_width = 0.2;
        options.deterministic = true;
        let svg = self.dir.join(format!("{}.svg", self.name));
        let out = File::create(&svg).with_context(|| format!("writing {}", svg.display()))?;
        flamegraph::from_reader(&mut options, &*folded, out).context("drawing")?;
        profile(&self.name, &String::from_utf8_lossy(&folded))
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if !self.perf.try_wait().is_ok_and(|end| end.is_some()) {
            let _ = self.perf.kill();
            let _ = self.perf.wait();
        }
    }
}

/// One line for each different stack, with its number of samples behind it.
fn fold(data: &Path) -> Result<Vec<u8>> {
    let mut script = Command::new("perf")
        .args(["script", "--no-inline", "-i"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("perf script")?;
    let said = script.stdout.take().context("its output")?;
    let mut folded = Vec::new();
    let done = Folder::default().collapse(BufReader::new(said), &mut folded);
    let status = script.wait()?;
    done.context("folding")?;
    if !status.success() || folded.is_empty() {
        bail!("perf saw nothing");
    }
    Ok(folded)
}

fn profile(name: &str, folded: &str) -> Result<Profile> {
    let (mut samples, mut kernel) = (0u64, 0u64);
    let mut own: BTreeMap<&str, u64> = BTreeMap::new();
    for line in folded.lines() {
        let Some((stack, count)) = line.rsplit_once(' ') else {
            continue;
        };
        let count: u64 = count.parse().context("a count of samples")?;
        samples += count;
        if stack.split(';').any(is_entry) {
            kernel += count;
        }
        *own.entry(stack.rsplit(';').next().unwrap_or(stack))
            .or_default() += count;
    }
    ensure!(samples > 0, "no samples");
    let percent = |count: u64| count as f64 * 100.0 / samples as f64;
    let mut own: Vec<(String, f64)> = own
        .into_iter()
        .map(|(name, n)| (short(name), percent(n)))
        .collect();
    own.sort_by(|a, b| b.1.total_cmp(&a.1));
    own.truncate(TOLD);
    Ok(Profile {
        name: name.to_owned(),
        samples,
        kernel: percent(kernel),
        own,
    })
}

/// The last two parts of a path.
fn short(name: &str) -> String {
    let mut parts: Vec<&str> = name.rsplitn(3, "::").take(2).collect();
    parts.reverse();
    parts.join("::").replace(['<', '>'], "")
}

/// Ways into the kernel, as stacks on x86-64 and arm64 show them.
fn is_entry(frame: &str) -> bool {
    const WAYS: [&str; 6] = [
        "entry_SYSCALL_64",
        "asm_sysvec",
        "asm_exc_",
        "asm_common_interrupt",
        "el0",
        "ret_from_fork",
    ];
    WAYS.iter().any(|way| frame.starts_with(way))
}

/// A table of profiles.
#[must_use]
pub fn markdown(profiles: &[Profile]) -> String {
    let mut out = String::from("| case | kernel | what takes most itself |\n| --- | --- | --- |\n");
    for one in profiles {
        let own = one
            .own
            .iter()
            .map(|(name, share)| format!("`{name}` {share:.0} %"));
        let own = own.collect::<Vec<_>>().join(", ");
        // Writing to a string does not fail.
        let _ = writeln!(out, "| {} | {:.0} % | {own} |", one.name, one.kernel);
    }
    out
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn stacks_become_shares() {
        let folded = "a;main;entry_SYSCALL_64_after_hwframe;copy 6\na;main;work 3\na;main 1\n";
        let found = profile("x", folded).unwrap();
        assert_eq!((found.samples, found.kernel), (10, 60.0));
        let own: Vec<_> = found
            .own
            .iter()
            .map(|(name, share)| (&**name, *share))
            .collect();
        assert_eq!(own, [("copy", 60.0), ("work", 30.0), ("main", 10.0)]);
        assert!(
            markdown(&[found]).contains("| x | 60 % | `copy` 60 %, `work` 30 %, `main` 10 % |")
        );
    }

    #[test]
    fn long_paths_are_told_by_their_ends() {
        let names = ["copy", "a::b::c", "a::<impl x::y::Z>::d", "__memcmp.isra.0"];
        let told = names.map(short);
        assert_eq!(told, ["copy", "b::c", "Z::d", "__memcmp.isra.0"]);
    }

    #[test]
    fn nothing_seen_is_an_error() {
        assert!(profile("x", "").is_err());
    }
}
