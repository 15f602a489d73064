//! A real head in a directory of its own, on loopback, for tests that talk to it from outside.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "helpers of tests")]

pub mod session;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

/// Longest time anything here is waited for; reaching it is a failure with a reason, never a pass.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A head that may be running.
pub struct TestHead {
    /// Its directory: `state/`, `reveille.toml`.
    pub dir: tempfile::TempDir,
    child: Option<Child>,
    /// The first line of its stdout comes here.
    said: Option<Mutex<mpsc::Receiver<String>>>,
    /// Where its iSCSI listens while it runs.
    pub portal: Option<SocketAddr>,
    /// All addresses where it listens, `portal` first.
    pub portals: Vec<SocketAddr>,
    /// The line that it said when it was ready.
    pub ready: String,
    /// Shell commands in a mount namespace of the head's own, before it starts in it: what they mount goes with it.
    pub mounts: Option<String>,
}

impl TestHead {
    /// A directory with a configuration: iSCSI on a free port of loopback, nothing else.
    pub fn new() -> Self {
        Self::with_config("[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\n")
    }

    /// A directory with this configuration (the state directory is added).
    pub fn with_config(text: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("reveille-")
            .tempdir()
            .unwrap();
        let state = dir.path().join("state");
        let text = format!("[server]\nstate = \"{}\"\n{text}", state.display());
        std::fs::write(dir.path().join("reveille.toml"), text).unwrap();
        Self {
            dir,
            child: None,
            said: None,
            portal: None,
            portals: Vec::new(),
            ready: String::new(),
            mounts: None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command line against this head, not started.
    pub fn command(&self) -> Command {
        // As for the lab: another build of the program, such as a release.
        let other = std::env::var_os("REVEILLE_BIN_DIR");
        let other = other.map(|dir| Path::new(&dir).join("reveille"));
        let program = other.unwrap_or_else(|| env!("CARGO_BIN_EXE_reveille").into());
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(self.path("reveille.toml"))
            .env("NO_COLOR", "1");
        command
    }

    /// `reveille serve`, in its mount namespace if it wants one. The process is the head's own either way.
    fn server(&self) -> Command {
        let mut plain = self.command();
        plain.arg("serve");
        let Some(mounts) = &self.mounts else {
            return plain;
        };
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command
            .args(["--mount", "--propagation", "private", "--", "sh", "-c"])
            .arg(format!("{mounts} && exec \"$0\" \"$@\""))
            .arg(plain.get_program())
            .args(plain.get_args())
            .env("NO_COLOR", "1");
        command
    }

    /// Runs a command line against this head.
    pub fn cli(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    /// Runs a command line that must succeed; gives its stdout.
    pub fn good(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert!(
            output.status.success(),
            "reveille {} failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command line that must fail with this code; gives its stderr, which must be one line.
    pub fn bad(&self, args: &[&str], code: i32) -> String {
        let output = self.cli(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "reveille {}: {said}",
            args.join(" ")
        );
        assert_eq!(said.trim().lines().count(), 1, "not one clear line: {said}");
        said
    }

    /// Runs a command line that must fail with this code; gives its stderr, however many lines.
    pub fn bad_words(&self, args: &[&str], code: i32) -> String {
        let output = self.cli(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        said
    }

    /// Starts `reveille serve` and waits for its ready line.
    pub fn serve(&mut self) {
        self.begin();
        let line = self.said(PATIENCE).unwrap_or_default();
        if !line.starts_with("ready ") {
            self.kill();
            panic!("the head did not become ready: `{line}`\n{}", self.log());
        }
        let portal = line
            .split_whitespace()
            .find_map(|w| w.strip_prefix("iscsi="));
        let portals = portal.map(|all| all.split(',').map(|p| p.parse().unwrap()));
        self.portals = portals.map_or_else(Vec::new, Iterator::collect);
        self.portal = self.portals.first().copied();
        self.ready = line;
    }

    /// Where a service listens, by its word in the ready line: `http`, `tftp`.
    pub fn service(&self, name: &str) -> String {
        let mut words = self.ready.split_whitespace();
        let found = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found
            .unwrap_or_else(|| panic!("no {name} in `{}`", self.ready))
            .to_owned()
    }

    /// Starts `reveille serve` and does not wait.
    pub fn begin(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("serve.log"))
            .unwrap();
        let mut child = self
            .server()
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let _ = sender.send(line);
            // Keeps the pipe open and empty for as long as the head lives.
            let _ = reader.read_to_string(&mut String::new());
        });
        self.said = Some(Mutex::new(receiver));
        self.child = Some(child);
    }

    /// The first line that a head which was begun says, within this time.
    pub fn said(&mut self, within: Duration) -> Option<String> {
        self.said
            .as_mut()?
            .get_mut()
            .unwrap()
            .recv_timeout(within)
            .ok()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and waits for the orderly end.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    /// `iscsi://127.0.0.1:PORT/TARGET/0` of a node.
    pub fn url(&self, node: &str) -> String {
        let portal = self.portal.expect("the head runs");
        format!("iscsi://{portal}/iqn.2026-11.internal.reveille:{node}/0")
    }
}

impl Drop for TestHead {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A sparse raw disk of `mib` MiB with recognisable, pseudo-random data in some of its places.
pub fn raw_disk(path: &Path, mib: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(mib << 20).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in (0..mib * 16).step_by(3) {
        let mut bytes = vec![0; 40_000];
        for word in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        file.write_all_at(&bytes, chunk << 16).unwrap();
    }
}

/// Runs a foreign tool, which must be there: `tools/test` installs it.
pub fn tool(name: &str, args: &[&str]) -> Output {
    Command::new(name)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{name} must be installed (tools/packages does it): {e}"))
}
