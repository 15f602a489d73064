//! The targets as processes: started on the servers' core, all in one temporary directory, ended by their number.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::proc::{self, wait_until};

use crate::login::Place;
use crate::machine::Machine;

/// Longest time until a server listens.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest time of an orderly end; then it is killed. tgt ends at once only if it has no targets.
const STOP_MAX: Duration = Duration::from_secs(10);
const STOP_FOREIGN_MAX: Duration = Duration::from_millis(200);
/// Before a node's or a target's own part of its name.
const PREFIX: &str = "iqn.2026-11.internal.compare";
const TGT_COMMANDS: &str = include_str!("../peers/tgt.commands");
/// Without these tgt refuses digests.
const TGT_DIGESTS: &str = "\
--op update --mode target --tid {tid} -n HeaderDigest -v None,CRC32C
--op update --mode target --tid {tid} -n DataDigest -v None,CRC32C
";
const ISTGT_CONF: &str = include_str!("../peers/istgt.conf");
const ISTGT_UNIT: &str = include_str!("../peers/istgt-unit.conf");

/// A running target.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    dir: PathBuf,
    patience: Duration,
}

impl Server {
    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// False when it has ended by itself.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last words of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = fs::read(self.dir.join("log")).unwrap_or_default();
        let tail = log
            .get(log.len().saturating_sub(2000)..)
            .unwrap_or_default();
        String::from_utf8_lossy(tail).into_owned()
    }

    /// A disk of it: `name` is a node's or a target's.
    #[must_use]
    pub fn place(&self, name: &str, lun: u8) -> Place {
        let target = format!("{PREFIX}:{name}");
        let initiator = format!("{target}.initiator");
        Place {
            address: self.address,
            names: Some((target, initiator)),
            lun,
        }
    }

    /// A disk of the bare server.
    #[must_use]
    pub const fn bare_place(&self, lun: u8) -> Place {
        Place {
            address: self.address,
            names: None,
            lun,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else {
            return;
        };
        proc::signal(pid, rustix::process::Signal::TERM);
        let child = &mut self.child;
        let ended = wait_until(self.patience, || !matches!(child.try_wait(), Ok(None)));
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The path of our program.
///
/// # Errors
/// When it is not there.
pub fn our_program() -> Result<PathBuf> {
    let dir = match std::env::var_os("REVEILLE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => std::env::current_exe()?
            .parent()
            .context("no directory")?
            .to_owned(),
    };
    let program = dir.join("reveille");
    let hint = "build it first (cargo build --release -p reveille), or name its directory in REVEILLE_BIN_DIR";
    ensure!(
        program.exists(),
        "there is no {}: {hint}",
        program.display()
    );
    Ok(program)
}

/// Version of an installed Debian package; none when it is not installed.
#[must_use]
pub fn package_version(name: &str) -> Option<String> {
    let said = proc::run(
        "dpkg-query",
        &["-W", "-f", "${db:Status-Abbrev} ${Version}", name],
    )
    .ok()?;
    said.strip_prefix("ii ")
        .map(|version| version.trim().to_owned())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))
}

fn command_in(dir: &Path, program: &Path) -> Result<Command> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))?;
    let mut command = Command::new(program);
    command.current_dir(dir).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

/// What a head of ours is started with.
#[derive(Clone, Debug)]
pub struct OurSpec<'a> {
    /// The golden image as a raw file.
    pub image: &'a Path,
    /// Nodes that are thrown away at each boot, as a node set.
    pub nodes: &'a str,
    /// Nodes that keep what they write; none when empty.
    pub keepers: &'a str,
}

/// Starts a head of ours.
///
/// # Errors
/// When a command fails or it does not become ready.
pub fn start_ours(machine: &Machine, dir: &Path, spec: &OurSpec<'_>) -> Result<Server> {
    make_dir(dir)?;
    let program = our_program()?;
    let config = dir.join("reveille.toml");
    let state = dir.join("state");
    fs::write(
        &config,
        format!(
            "[server]\nstate = \"{}\"\n[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\n\
             iqn_prefix = \"{PREFIX}\"\n[boot]\ninterfaces = []\n[store]\nscrub = \"off\"\n",
            state.display()
        ),
    )?;
    let (program_text, config_text) = (program.display().to_string(), config.display().to_string());
    let image = spec.image.display().to_string();
    let ask = |args: &[&str]| {
        let mut all = vec!["--config", &config_text];
        all.extend_from_slice(args);
        proc::run(&program_text, &all)
    };
    ask(&["image", "import", &image, "--name", "golden"])?;
    ask(&["node", "add", spec.nodes, "--image", "golden"])?;
    if !spec.keepers.is_empty() {
        ask(&[
            "node",
            "add",
            spec.keepers,
            "--image",
            "golden",
            "--mode",
            "persistent",
        ])?;
    }
    let mut command = command_in(dir, &program)?;
    command
        .args(["--config", &config_text, "serve"])
        .stdout(Stdio::piped());
    let (child, line) = say_first(machine, command, dir)?;
    let portal = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("iscsi="));
    let portal = portal.with_context(|| format!("no iSCSI address in `{line}`"));
    let address = portal.and_then(|all| Ok(all.split(',').next().unwrap_or_default().parse()?));
    finish(child, dir, address)
}

/// Starts the bare server: this program once more.
///
/// # Errors
/// When it does not say its port.
pub fn start_bare(machine: &Machine, dir: &Path, disks: &[&Path]) -> Result<Server> {
    make_dir(dir)?;
    let mut command = command_in(dir, &std::env::current_exe()?)?;
    command.arg("bare").args(disks).stdout(Stdio::piped());
    let (child, line) = say_first(machine, command, dir)?;
    let port = line
        .trim()
        .parse()
        .with_context(|| format!("no port in `{line}`"));
    finish(
        child,
        dir,
        port.map(|port: u16| (Ipv4Addr::LOCALHOST, port).into()),
    )
}

/// A server without an address is ended again.
fn finish(child: Child, dir: &Path, address: Result<SocketAddr>) -> Result<Server> {
    let mut server = Server {
        child,
        address: (Ipv4Addr::LOCALHOST, 0).into(),
        dir: dir.to_owned(),
        patience: STOP_MAX,
    };
    server.address = address?;
    Ok(server)
}

/// Starts a program and waits for its first line.
fn say_first(machine: &Machine, mut command: Command, dir: &Path) -> Result<(Child, String)> {
    let mut child = machine.on_server_core(|| command.spawn())?;
    let stdout = child.stdout.take().context("no stdout")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        let _ = sender.send(line);
        // Keeps the pipe open and empty for as long as the server lives.
        let _ = reader.read_to_end(&mut Vec::new());
    });
    match receiver.recv_timeout(START_MAX) {
        Ok(line) if !line.is_empty() => Ok((child, line)),
        _ => {
            let server = finish(child, dir, Ok((Ipv4Addr::LOCALHOST, 0).into()))?;
            bail!("it does not become ready: {}", server.last_words());
        }
    }
}

/// Starts a foreign server and waits until it listens.
fn listen_first(
    machine: &Machine,
    name: &str,
    mut command: Command,
    dir: &Path,
    port: u16,
) -> Result<Server> {
    let child = machine.on_server_core(|| command.spawn());
    let child = child.with_context(|| format!("{name} cannot be started"))?;
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let mut server = finish(child, dir, Ok(address))?;
    server.patience = STOP_FOREIGN_MAX;
    let began = Instant::now();
    let listens = wait_until(START_MAX, || {
        !server.is_alive() || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    });
    if listens.is_err() || !server.is_alive() {
        let said = server.last_words();
        bail!(
            "{name} does not listen after {} s: {said}",
            began.elapsed().as_secs()
        );
    }
    Ok(server)
}

/// A disk of a foreign target: the target's own part of its name, and the file.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Name.
    pub name: String,
    /// Raw file.
    pub file: PathBuf,
    /// Grants digests, where it must be told to.
    pub digests: bool,
}

/// Starts tgt with a target for each disk, at LUN 1.
///
/// # Errors
/// When it is not installed or refuses a command.
pub fn start_tgt(machine: &Machine, dir: &Path, disks: &[Disk]) -> Result<Server> {
    make_dir(dir)?;
    let port = free_port()?;
    let socket = dir.join("ipc");
    let mut command = command_in(dir, Path::new("tgtd"))?;
    // The control socket lies in our directory, so the number need not tell daemons apart.
    command
        .args([
            "-f",
            "-C",
            "1",
            "--iscsi",
            &format!("portal=127.0.0.1:{port}"),
        ])
        .env("TGT_IPC_SOCKET", &socket);
    let server = listen_first(machine, "tgtd", command, dir, port)?;
    for (disk, tid) in disks.iter().zip(1_u32..) {
        let digests = if disk.digests { TGT_DIGESTS } else { "" };
        for line in TGT_COMMANDS.lines().chain(digests.lines()) {
            let line = line
                .replace("{tid}", &tid.to_string())
                .replace("{iqn}", &format!("{PREFIX}:{}", disk.name));
            let file = disk.file.display().to_string();
            let words = line
                .split_whitespace()
                .map(|word| word.replace("{disk}", &file));
            let done = Command::new("tgtadm")
                .args(["-C", "1", "--lld", "iscsi"])
                .args(words)
                .env("TGT_IPC_SOCKET", &socket)
                .output()?;
            let said = String::from_utf8_lossy(&done.stderr);
            ensure!(done.status.success(), "tgtadm {line}: {said}");
        }
    }
    Ok(server)
}

/// Starts istgt with a target for each disk, at LUN 0.
///
/// # Errors
/// When it is not installed or does not listen.
pub fn start_istgt(
    machine: &Machine,
    dir: &Path,
    disks: &[Disk],
    sessions: usize,
) -> Result<Server> {
    make_dir(dir)?;
    let (port, control) = (free_port()?, free_port()?);
    fs::write(dir.join("auth.conf"), "")?;
    let mut units = String::new();
    for (disk, number) in disks.iter().zip(1_u32..) {
        let unit = ISTGT_UNIT
            .replace("{number}", &number.to_string())
            .replace("{name}", &disk.name)
            .replace(
                "{mib}",
                &(fs::metadata(&disk.file)?.len() >> 20).to_string(),
            )
            .replace("{disk}", &disk.file.display().to_string());
        units.push_str(&unit);
    }
    let text = ISTGT_CONF
        .replace("{base}", PREFIX)
        .replace("{dir}", &dir.display().to_string())
        .replace("{sessions}", &sessions.to_string())
        .replace("{control}", &control.to_string())
        .replace("{port}", &port.to_string())
        .replace("{units}", &units);
    let path = dir.join("istgt.conf");
    fs::write(&path, text)?;
    let mut command = command_in(dir, Path::new("istgt"))?;
    command.arg("-D").arg("-c").arg(&path);
    listen_first(machine, "istgt", command, dir, port)
}
