//! The head under test: `reveille serve` inside the lab's namespace, and its command line.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;

use crate::net::{BRIDGE, HEAD_ADDRESS, RANGE};
use crate::proc;
use crate::{LAB_ENV, Lab};

const READY_WAIT: Duration = Duration::from_secs(30);
const STOP_WAIT: Duration = Duration::from_secs(20);

/// How a head is started.
#[derive(Clone, Debug)]
pub struct HeadSpec {
    /// The program.
    pub binary: PathBuf,
    /// Text of `reveille.toml`.
    pub config: String,
    /// More environment variables for the daemon.
    pub env: Vec<(String, String)>,
}

impl HeadSpec {
    /// A head that serves the lab's bridge: DHCP server, TFTP, HTTP, iSCSI, state inside the lab.
    #[must_use]
    pub fn standard(lab: &Lab, binary: &Path) -> Self {
        let dir = lab.dir().display();
        let config = format!(
            "[server]\nstate = \"{dir}/state\"\n\n\
             [iscsi]\nlisten = [\"{HEAD_ADDRESS}:3260\"]\n\n\
             [boot]\ninterfaces = [\"{BRIDGE}\"]\ndhcp = \"server\"\nrange = \"{RANGE}\"\n\
             tftp = \"{HEAD_ADDRESS}:69\"\nhttp = \"{HEAD_ADDRESS}:8068\"\n\n\
             [api]\nsocket = \"{dir}/reveille.sock\"\n"
        );
        Self {
            binary: binary.to_owned(),
            config,
            env: Vec::new(),
        }
    }
}

/// What a command of the command line did.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Its exit code (-1 when a signal ended it).
    pub code: i32,
}

/// A head, running or not.
#[derive(Debug)]
pub struct Head {
    spec: HeadSpec,
    lab_dir: PathBuf,
    net: crate::Net,
    child: Option<Child>,
}

impl Head {
    /// Prepares a head: writes its configuration. Commands work at once (they open the state themselves).
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn prepare(lab: &Lab, spec: HeadSpec) -> Result<Self> {
        fs::create_dir_all(lab.dir().join("state"))?;
        fs::write(lab.dir().join("reveille.toml"), &spec.config)?;
        Ok(Self {
            spec,
            lab_dir: lab.dir().to_owned(),
            net: lab.net().clone(),
            child: None,
        })
    }

    /// Prepares a head and starts it.
    ///
    /// # Errors
    /// As [`Head::prepare`] and [`Head::start`].
    pub fn launch(lab: &Lab, spec: HeadSpec) -> Result<Self> {
        let mut head = Self::prepare(lab, spec)?;
        head.start()?;
        Ok(head)
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.lab_dir.join("reveille.toml")
    }

    /// Its state directory, as [`HeadSpec::standard`] names it.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.lab_dir.join("state")
    }

    /// What it wrote to stderr, over all its starts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.lab_dir.join("head.log")
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        i32::try_from(self.child.as_ref()?.id())
            .ok()
            .filter(|&pid| proc::alive(pid))
    }

    /// Processor time it has used since its last start.
    #[must_use]
    pub fn cpu_seconds(&self) -> Option<f64> {
        proc::cpu_seconds(self.pid()?)
    }

    /// Starts it and waits for its line `ready ...`, which is returned with the time it took.
    ///
    /// # Errors
    /// When it ends first, or is not ready within 30 seconds; the end of its log is in the error.
    pub fn start(&mut self) -> Result<(String, Duration)> {
        self.kill()?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let began = Instant::now();
        let mut command = self.net.command(&self.spec.binary.to_string_lossy());
        command.arg("--config").arg(self.config()).arg("serve");
        command
            .env(LAB_ENV, &self.lab_dir)
            .envs(self.spec.env.iter().cloned());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().context("cannot start the head")?;
        let stdout = child.stdout.take().context("the head has no stdout")?;
        self.child = Some(child);
        let (sender, lines) = mpsc::channel();
        // Reads to the end, so that a head that goes on writing is never stopped by a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let end = began + READY_WAIT;
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with("ready") => return Ok((line, began.elapsed())),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.kill()?;
                    bail!(
                        "the head was not ready within 30 s; its log:\n{}",
                        self.log_tail()
                    );
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    self.kill()?;
                    bail!(
                        "the head ended before it was ready; its log:\n{}",
                        self.log_tail()
                    );
                }
            }
        }
    }

    /// `kill -9`, as a power cut would.
    ///
    /// # Errors
    /// When the process does not end.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        child.kill().context("the head cannot be killed")?;
        child.wait().context("the head does not end").map(drop)
    }

    /// `kill -9` and a new start; returns the time from the kill to ready.
    ///
    /// # Errors
    /// As [`Head::kill`] and [`Head::start`].
    pub fn crash_and_restart(&mut self) -> Result<Duration> {
        self.kill()?;
        self.start().map(|(_, took)| took)
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    /// When it does not end within 20 seconds (it is killed then) or ends badly.
    pub fn stop(&mut self) -> Result<()> {
        let Some(pid) = self.pid() else {
            return self.kill();
        };
        proc::signal(pid, Signal::TERM);
        let ended = proc::wait_until(STOP_WAIT, || !proc::alive(pid));
        let mut child = self.child.take().context("the head is gone")?;
        if let Err(error) = ended {
            child.kill()?;
            child.wait()?;
            return Err(error.context("the head did not end when asked to"));
        }
        let status = child.wait()?;
        if !status.success() {
            bail!(
                "the head ended with {status}; its log:\n{}",
                self.log_tail()
            );
        }
        Ok(())
    }

    /// A command of the command line, ready to run.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.spec.binary);
        command.arg("--config").arg(self.config()).args(args);
        command
            .env(LAB_ENV, &self.lab_dir)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn ask(&self, args: &[&str]) -> Result<Answer> {
        let output = self
            .command(args)
            .output()
            .context("cannot start reveille")?;
        Ok(Answer {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        })
    }

    /// Runs a command that must succeed and returns its standard output.
    ///
    /// # Errors
    /// When its exit code is not 0; what it said is in the error.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let answer = self.ask(args)?;
        if answer.code == 0 {
            return Ok(answer.stdout);
        }
        let line = args.join(" ");
        let Answer {
            stdout,
            stderr,
            code,
        } = answer;
        Err(anyhow!(
            "`reveille {line}` ended with {code}:\n{stdout}{stderr}"
        ))
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// A power command for [`crate::Lab`]'s nodes: what a real site does with `ipmitool`.
///
/// # Errors
/// When the `lab` program is not built.
pub fn power_command() -> Result<String> {
    Ok(format!(
        "{} power {{action}} {{node}}",
        tool("lab")?.display()
    ))
}

/// A program built from this source tree: beside the running one, or named by `REVEILLE_BIN_DIR`.
///
/// # Errors
/// When it is not there.
pub fn tool(name: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("REVEILLE_BIN_DIR") {
        let path = PathBuf::from(dir).join(name);
        return path
            .exists()
            .then_some(path)
            .with_context(|| format!("no {name} in REVEILLE_BIN_DIR"));
    }
    let me = std::env::current_exe().context("the running program's path")?;
    // Test programs live one directory further down, in `deps`.
    let found = me
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "`{name}` is not built beside {}; `cargo build --workspace` makes it",
            me.display()
        )
    })
}
