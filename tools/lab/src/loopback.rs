//! A head that serves disks on loopback and nothing else, for work that needs no machines and no network of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::head::tool;
use crate::proc;

const READY_WAIT: Duration = Duration::from_secs(60);
const STOP_WAIT: Duration = Duration::from_secs(60);

/// A running head; it is killed when this is dropped.
#[derive(Debug)]
pub struct Loopback {
    dir: PathBuf,
    program: PathBuf,
    child: Child,
    portal: String,
}

impl Loopback {
    /// Starts a head with its state, configuration and log in `dir`, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends first, or is not ready in a minute.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("directory {}", dir.display()))?;
        let state = dir.join("state");
        let config = format!(
            "[server]\nstate = \"{}\"\n[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\n",
            state.display()
        );
        fs::write(dir.join("reveille.toml"), config)?;
        let program = tool("reveille")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("head.log"))?;
        let mut child = Command::new(&program)
            .arg("--config")
            .arg(dir.join("reveille.toml"))
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start the head")?;
        let stdout = child.stdout.take().context("the head has no stdout")?;
        let mut head = Self {
            dir: dir.to_owned(),
            program,
            child,
            portal: String::new(),
        };
        let (sender, lines) = mpsc::channel();
        // Reads to the end, so that the head is never stopped by a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let Ok(line) = lines.recv_timeout(READY_WAIT) else {
            bail!("the head did not get ready: {}", head.log());
        };
        let mut words = line.split_whitespace();
        let portal = words.find_map(|word| word.strip_prefix("iscsi="));
        portal
            .with_context(|| format!("the head said `{line}`"))?
            .clone_into(&mut head.portal);
        Ok(head)
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The address of a node's disk, for initiators that name themselves as they like.
    #[must_use]
    pub fn url(&self, node: &str) -> String {
        let portal = &self.portal;
        format!("iscsi://{portal}/iqn.2026-11.internal.reveille:{node}/0")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("head.log")).unwrap_or_default()
    }

    /// Runs a command that must succeed and returns its standard output.
    ///
    /// # Errors
    /// When its exit code is not 0; what it said is in the error.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        let config = self.dir.join("reveille.toml");
        let mut all = vec!["--config", config.to_str().context("the lab's path")?];
        all.extend_from_slice(args);
        proc::run(&self.program.to_string_lossy(), &all)
    }

    /// Runs a command that must succeed and answers in JSON.
    ///
    /// # Errors
    /// As [`Loopback::run`].
    pub fn ask(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend_from_slice(&["-o", "json"]);
        let said = self.run(&all)?;
        serde_json::from_str(&said).with_context(|| format!("{args:?} said {said}"))
    }

    /// Asks it to end and waits for that.
    ///
    /// # Errors
    /// When it does not end, or ends badly.
    pub fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        proc::signal(pid, Signal::TERM);
        proc::wait_until(STOP_WAIT, || !proc::alive(pid)).context("the head does not end")?;
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "the head ended with {status}: {}",
            self.log()
        );
        Ok(())
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
