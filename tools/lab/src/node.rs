//! A diskless machine: QEMU with one network card and no disk.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::console::Console;
use crate::net::Net;
use crate::{proc, qmp};

/// What the machine's firmware is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// BIOS with iPXE in the card's ROM.
    Bios,
    /// The same machine; the head is told to give it another iPXE first (`undionly.kpxe`).
    BiosChain,
    /// UEFI with a plain PXE client and no ROM in the card.
    Uefi,
    /// UEFI with iPXE in the card's ROM.
    UefiRom,
}

impl Kind {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Bios, "bios"),
        (Self::BiosChain, "bios-chain"),
        (Self::Uefi, "uefi"),
        (Self::UefiRom, "uefi-rom"),
    ];

    /// Whether it is a UEFI machine.
    #[must_use]
    pub fn is_uefi(self) -> bool {
        matches!(self, Self::Uefi | Self::UefiRom)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL
            .iter()
            .find(|(kind, _)| kind == self)
            .map_or("?", |(_, word)| word);
        f.write_str(word)
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.iter().find(|(_, word)| *word == text);
        known.map(|(kind, _)| *kind).with_context(|| {
            let words = Self::ALL.map(|(_, word)| word).join(", ");
            format!("`{text}` is no kind of machine; there are {words}")
        })
    }
}

/// A machine before it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name, as the head knows it.
    pub name: String,
    /// Its number in the lab (1 to 99): its tap and its MAC address come from it.
    pub number: u8,
    /// Its firmware.
    pub kind: Kind,
    /// Its memory.
    pub memory_mib: u32,
    /// A local disk (raw), started from when there is one; golden images are tried out this way.
    pub disk: Option<PathBuf>,
}

impl NodeSpec {
    /// `node1` and so on, with the memory its kind needs.
    #[must_use]
    pub fn new(number: u8, kind: Kind) -> Self {
        // OVMF itself takes more than a BIOS.
        let memory_mib = if kind.is_uefi() { 512 } else { 256 };
        Self {
            name: format!("node{number}"),
            number,
            kind,
            memory_mib,
            disk: None,
        }
    }

    /// Its MAC address (QEMU's own prefix, locally administered).
    #[must_use]
    pub fn mac(&self) -> String {
        format!("52:54:00:77:00:{:02x}", self.number)
    }

    /// Its tap.
    #[must_use]
    pub fn tap(&self) -> String {
        format!("tap{}", self.number)
    }

    fn path(lab: &Path, name: &str) -> PathBuf {
        lab.join("nodes").join(format!("{name}.node"))
    }

    /// Keeps it in the lab's directory, as `key=value` lines.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, lab: &Path) -> Result<()> {
        let mut text = format!(
            "number={}\nkind={}\nmemory_mib={}\n",
            self.number, self.kind, self.memory_mib
        );
        if let Some(disk) = &self.disk {
            text += &format!("disk={}\n", disk.display());
        }
        fs::write(Self::path(lab, &self.name), text).context("cannot keep the node's settings")
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When there is no such node, or its file is damaged.
    pub fn read(lab: &Path, name: &str) -> Result<Self> {
        let path = Self::path(lab, name);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("no node `{name}` in this lab ({})", path.display()))?;
        let mut spec = Self::new(0, Kind::Bios);
        name.clone_into(&mut spec.name);
        for line in text.lines() {
            let (key, value) = line
                .split_once('=')
                .with_context(|| format!("{name}: `{line}`"))?;
            match key {
                "number" => spec.number = value.parse()?,
                "kind" => spec.kind = value.parse()?,
                "memory_mib" => spec.memory_mib = value.parse()?,
                "disk" => spec.disk = Some(PathBuf::from(value)),
                _ => bail!("{name}: unknown setting `{key}`"),
            }
        }
        Ok(spec)
    }
}

/// A machine of a lab, on or off.
#[derive(Clone, Debug)]
pub struct Node {
    spec: NodeSpec,
    net: Net,
    dir: PathBuf,
}

impl Node {
    pub(crate) fn new(lab: &Path, net: &Net, spec: NodeSpec) -> Self {
        Self {
            spec,
            net: net.clone(),
            dir: lab.join("nodes"),
        }
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.{suffix}", self.spec.name))
    }

    /// Everything its serial console has said since the lab was made.
    #[must_use]
    pub fn serial_log(&self) -> PathBuf {
        self.file("serial.log")
    }

    /// Its console, from its last start on.
    #[must_use]
    pub fn console(&self) -> Console {
        let start = fs::read_to_string(self.file("start"))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        Console::new(
            &self.serial_log(),
            &self.file("console"),
            start.unwrap_or(0),
        )
    }

    /// Its process, while it is on. A stale pid file with another process's number does not count.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        let pid = proc::pid_in(&self.file("pid"))?;
        let mine = proc::command_line(pid).contains(&*self.file("qmp").to_string_lossy());
        (mine && proc::alive(pid)).then_some(pid)
    }

    /// Presses the button of a machine that is off; nothing when it is on.
    ///
    /// # Errors
    /// When QEMU does not start; its words are in the error.
    pub fn power_on(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        self.mark_start()?;
        let _ = fs::remove_file(self.file("pid"));
        let output = self
            .command()?
            .output()
            .context("cannot start QEMU; tools/packages installs it")?;
        if !output.status.success() {
            let said = fs::read_to_string(self.file("qemu.log")).unwrap_or_default();
            bail!(
                "{}: QEMU ended with {}: {}",
                self.name(),
                output.status,
                said.trim()
            );
        }
        Ok(())
    }

    /// Pulls the plug; nothing when it is off.
    ///
    /// # Errors
    /// When the process does not end.
    pub fn power_off(&self) -> Result<()> {
        match self.pid() {
            Some(pid) => proc::kill_now(pid),
            None => Ok(()),
        }
    }

    /// Off and on again.
    ///
    /// # Errors
    /// As [`Node::power_off`] and [`Node::power_on`].
    pub fn power_cycle(&self) -> Result<()> {
        self.power_off()?;
        self.power_on()
    }

    /// The reset button: the machine starts anew without losing power.
    ///
    /// # Errors
    /// When it is off.
    pub fn reset(&self) -> Result<()> {
        self.mark_start()?;
        qmp::execute(&self.file("qmp"), "system_reset").map(drop)
    }

    /// Notes where in the log this start begins.
    fn mark_start(&self) -> Result<()> {
        let length = fs::metadata(self.serial_log()).map_or(0, |m| m.len());
        fs::write(self.file("start"), length.to_string())
            .context("cannot write to the lab's directory")
    }

    /// QEMU's command line. Emulated processors (TCG) run everywhere; Linux wants at least this model.
    fn command(&self) -> Result<Command> {
        let spec = &self.spec;
        let mut command = Command::new("nice");
        command.args([
            "-n",
            "5",
            "ip",
            "netns",
            "exec",
            self.net.name(),
            "qemu-system-x86_64",
        ]);
        command.args([
            "-name",
            &spec.name,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]);
        command.args([
            "-accel",
            "tcg,thread=multi,tb-size=128",
            "-cpu",
            "Nehalem-v1",
        ]);
        command.args(["-m", &spec.memory_mib.to_string()]);
        // Without graphics the firmware writes to the serial console, so iPXE's words are in the log.
        command.args(["-machine", "pc,graphics=off"]);
        let number = spec.number;
        command.args([
            "-uuid",
            &format!("52455645-494c-4c45-0000-0000000000{number:02x}"),
        ]);
        self.add_devices(&mut command);
        if spec.kind.is_uefi() {
            self.add_ovmf(&mut command)?;
        } else {
            // A real machine tries its boot devices again and again, too.
            command.args(["-boot", "reboot-timeout=5000"]);
        }
        let (log, console) = (self.serial_log(), self.file("console"));
        let (log, console) = (log.display(), console.display());
        let serial = format!(
            "socket,id=serial0,path={console},server=on,wait=off,logfile={log},logappend=on"
        );
        command.args(["-chardev", &serial, "-serial", "chardev:serial0"]);
        command.args([
            "-qmp",
            &format!("unix:{},server=on,wait=off", self.file("qmp").display()),
        ]);
        command
            .args(["-daemonize", "-pidfile"])
            .arg(self.file("pid"));
        let said = fs::File::create(self.file("qemu.log"))?;
        command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        Ok(command)
    }

    /// Network card and, where it has one, disk, in the order in which firmware tries them.
    fn add_devices(&self, command: &mut Command) {
        let spec = &self.spec;
        let tap = spec.tap();
        command.args([
            "-netdev",
            &format!("tap,id=net0,ifname={tap},script=no,downscript=no"),
        ]);
        let rom = if spec.kind == Kind::Uefi {
            ",romfile="
        } else {
            ""
        };
        let order = if spec.disk.is_some() { 2 } else { 1 };
        let card = format!(
            "virtio-net-pci,netdev=net0,mac={},bootindex={order}{rom}",
            spec.mac()
        );
        command.args(["-device", &card]);
        if let Some(disk) = &spec.disk {
            let path = disk.display();
            command.args([
                "-drive",
                &format!("file={path},format=raw,if=none,id=disk0"),
            ]);
            command.args(["-device", "virtio-blk-pci,drive=disk0,bootindex=1"]);
        }
    }

    /// The file with a UEFI machine's settings (OVMF's variable store).
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.file("vars.fd")
    }

    /// Changes a UEFI machine's settings while it is off, beginning with the firmware's defaults.
    ///
    /// # Errors
    /// When there is no OVMF, the file cannot be written, or `change` fails.
    pub fn change_settings(&self, change: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let path = self.settings();
        let from = if path.exists() {
            path.clone()
        } else {
            ovmf()?.1
        };
        let mut store = fs::read(&from).context("cannot read OVMF's settings")?;
        change(&mut store)?;
        fs::write(&path, store).context("cannot write OVMF's settings")
    }

    fn add_ovmf(&self, command: &mut Command) -> Result<()> {
        let (code, settings) = ovmf()?;
        let own = self.settings();
        if !own.exists() {
            fs::copy(&settings, &own).context("cannot copy OVMF's settings")?;
        }
        for (unit, path, access) in [(0, code, ",readonly=on"), (1, own, "")] {
            let file = path.display();
            let flash = format!("if=pflash,format=raw,unit={unit},file={file}{access}");
            command.args(["-drive", &flash]);
        }
        Ok(())
    }

    /// Waits until the image says that the system is up, and returns its line.
    ///
    /// # Errors
    /// When it is not up by then; the last lines of its console are in the error.
    pub fn wait_ready(&self, limit: Duration) -> Result<String> {
        let name = self.name();
        let mut console = self.console();
        console
            .wait_for(crate::console::SYSTEM_READY, limit)
            .with_context(|| format!("{name} is not up"))
    }

    /// Waits for the lab image's shell and returns a console to type on.
    ///
    /// # Errors
    /// When it is not there by then.
    pub fn wait_shell(&self, limit: Duration) -> Result<Console> {
        let name = self.name();
        let mut console = self.console();
        console
            .wait_for(crate::console::SHELL_READY, limit)
            .with_context(|| format!("{name}: no shell"))?;
        Ok(console)
    }
}

/// OVMF's code and its default settings.
fn ovmf() -> Result<(PathBuf, PathBuf)> {
    let builds = [
        ("OVMF_CODE.fd", "OVMF_VARS.fd"),
        ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
    ];
    let dir = Path::new("/usr/share/OVMF");
    builds
        .iter()
        .map(|(code, settings)| (dir.join(code), dir.join(settings)))
        .find(|(code, _)| code.exists())
        .context("no OVMF in /usr/share/OVMF; tools/packages installs it")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_node_is_read_back_as_it_was_written() {
        let lab = std::env::temp_dir().join(format!("lab-node-{}", std::process::id()));
        fs::create_dir_all(lab.join("nodes")).unwrap();
        for kind in Kind::ALL.map(|(kind, _)| kind) {
            let mut spec = NodeSpec::new(7, kind);
            spec.disk = (kind == Kind::Uefi).then(|| PathBuf::from("/some/disk.raw"));
            spec.write(&lab).unwrap();
            assert_eq!(NodeSpec::read(&lab, "node7").unwrap(), spec);
        }
        assert!(NodeSpec::read(&lab, "node8").is_err());
        fs::remove_dir_all(&lab).unwrap();
    }

    #[test]
    fn an_unknown_kind_is_refused_with_the_known_ones() {
        let error = "arm".parse::<Kind>().unwrap_err().to_string();
        assert!(error.contains("bios-chain"), "{error}");
    }
}
