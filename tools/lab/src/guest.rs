//! A Linux initiator: QEMU with a system of its own, two network cards on two bridges, and a port over
//! which the host has scripts run.
//!
//! ```text
//!   host ── RUN id bytes, script ──► virtio-serial port ──► tools/lab/recipes/initiator12: bash
//!        ◄─ DONE id code bytes, output ─┘
//! ```
//! The port loses and doubles nothing, which the emulated serial line does not promise. The console is
//! kept as a file, for what the kernel says. What the guest writes to its own disk is gone when it ends.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::net::{BRIDGE, Net, SECOND_ADDRESS, SECOND_BRIDGE};
use crate::{Lab, proc};

/// Its taps, one for each bridge.
pub const TAPS: [&str; 2] = ["path0", "path1"];
const CARDS: [&str; 2] = ["52:54:00:78:00:01", "52:54:00:78:01:01"];

/// How long an emulated processor may take from power on to its first answer, on a machine that has more
/// to do.
const BOOT_WAIT: Duration = Duration::from_secs(300);
const READ_STEP: Duration = Duration::from_millis(200);
/// A script's output is for people to read; more than this is a fault of the script.
const OUTPUT_MAX: usize = 16 << 20;

/// What a script did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What it wrote, both streams.
    pub output: String,
    /// Its exit code.
    pub code: i32,
}

/// A Linux initiator that runs. Dropping it pulls its plug.
#[derive(Debug)]
pub struct Guest {
    dir: PathBuf,
    net: Net,
    image: PathBuf,
    machine: Option<Machine>,
    count: u64,
}

#[derive(Debug)]
struct Machine {
    child: Child,
    port: UnixStream,
    /// Bytes behind the last answer.
    rest: Vec<u8>,
}

impl Guest {
    /// Starts `image` (see [`crate::golden::initiator12`]) in the lab and waits until it listens.
    ///
    /// # Errors
    /// When the second bridge or the taps cannot be made, or the system is not up in time; the end of its
    /// console is in the error.
    pub fn boot(lab: &Lab, image: &Path) -> Result<Self> {
        let net = lab.net();
        net.add_bridge(SECOND_BRIDGE, SECOND_ADDRESS)?;
        for (tap, bridge) in TAPS.into_iter().zip([BRIDGE, SECOND_BRIDGE]) {
            net.add_tap_on(tap, bridge)?;
        }
        let mut guest = Self {
            dir: lab.dir().to_owned(),
            net: net.clone(),
            image: image.to_owned(),
            machine: None,
            count: 0,
        };
        guest.power_on()?;
        Ok(guest)
    }

    /// Off and on again: whatever hung in it is gone.
    ///
    /// # Errors
    /// When it is not up in time.
    pub fn power_cycle(&mut self) -> Result<()> {
        self.power_off();
        self.power_on()
    }

    fn power_off(&mut self) {
        if let Some(mut machine) = self.machine.take() {
            let _ = machine.child.kill();
            let _ = machine.child.wait();
        }
    }

    fn power_on(&mut self) -> Result<()> {
        let socket = self.dir.join("guest.port");
        let _ = fs::remove_file(&socket);
        let child = self.command(&socket)?.spawn();
        let mut child = child.context("cannot start QEMU; tools/packages installs it")?;
        let connected = proc::wait_until(Duration::from_secs(30), || {
            socket.exists() || child.try_wait().is_ok_and(|end| end.is_some())
        });
        let port = connected.and_then(|()| Ok(UnixStream::connect(&socket)?));
        let port = match port.context("the guest's port") {
            Ok(port) => port,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = fs::read_to_string(self.dir.join("guest.qemu.log")).unwrap_or_default();
                return Err(error.context(format!("QEMU said: {}", said.trim())));
            }
        };
        port.set_read_timeout(Some(READ_STEP))?;
        self.machine = Some(Machine {
            child,
            port,
            rest: Vec::new(),
        });
        let ran = self.sh("cat /proc/uptime", BOOT_WAIT)?;
        if ran.code != 0 {
            bail!("the guest's first command failed: {}", ran.output);
        }
        Ok(())
    }

    /// QEMU's command line. The kernel is started directly; no firmware, no boot loader.
    fn command(&self, socket: &Path) -> Result<Command> {
        let image = self.image.display();
        let mut command = Command::new("nice");
        command.args(["-n", "5", "ip", "netns", "exec", self.net.name()]);
        command.args(["qemu-system-x86_64", "-name", "initiator", "-nodefaults"]);
        command.args(["-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-machine", "pc,graphics=off", "-cpu", "Nehalem-v1"]);
        command.args(["-accel", "tcg,thread=multi,tb-size=256"]);
        command.args(["-smp", "2", "-m", "512"]);
        command.args(["-kernel", &format!("{image}.kernel")]);
        command.args(["-initrd", &format!("{image}.initrd")]);
        // Names eth0 and eth1 in the order of the cards below.
        let kernel = "root=/dev/vda ro console=ttyS0,115200 net.ifnames=0 init=/lab/init \
                      mitigations=off panic=1";
        command.args(["-append", kernel]);
        let disk = format!("file={image},format=raw,if=none,id=root,snapshot=on,cache=unsafe");
        command.args(["-drive", &disk, "-device", "virtio-blk-pci,drive=root"]);
        for (tap, mac) in TAPS.into_iter().zip(CARDS) {
            let backend = format!("tap,id={tap},ifname={tap},script=no,downscript=no");
            let card = format!("virtio-net-pci,netdev={tap},mac={mac},romfile=");
            command.args(["-netdev", &backend, "-device", &card]);
        }
        command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
        let port = format!("socket,id=lab,path={},server=on,wait=off", socket.display());
        command.args(["-chardev", &port]);
        command.args(["-device", "virtserialport,chardev=lab,name=lab"]);
        let console = format!(
            "file,id=console,path={},append=on",
            self.console().display()
        );
        command.args(["-chardev", &console, "-serial", "chardev:console"]);
        let said = File::create(self.dir.join("guest.qemu.log"))?;
        command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        Ok(command)
    }

    /// The file with everything its console has said.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir.join("guest.console.log")
    }

    /// Has a script run by bash and waits for its end.
    ///
    /// # Errors
    /// When it does not end within `limit` (the guest answers nothing more then, until it is power-cycled),
    /// or the guest is gone.
    pub fn sh(&mut self, script: &str, limit: Duration) -> Result<Ran> {
        let end = Instant::now() + limit;
        self.count += 1;
        let id = self.count;
        let machine = self.machine.as_mut().context("the guest is off")?;
        let ran = machine.run(id, script, end);
        ran.with_context(|| {
            let console = fs::read(self.console()).unwrap_or_default();
            let text = String::from_utf8_lossy(&console).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            format!(
                "a script in the guest (limit {} s); its console:\n{tail}",
                limit.as_secs()
            )
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.power_off();
    }
}

impl Machine {
    fn run(&mut self, id: u64, script: &str, end: Instant) -> Result<Ran> {
        // Counted in bytes, as bash does in the C locale.
        write!(self.port, "RUN {id} {}\n{script}", script.len())?;
        loop {
            if let Some(ran) = take_answer(&mut self.rest, id)? {
                return Ok(ran);
            }
            if Instant::now() >= end {
                bail!("it did not end in time");
            }
            let mut buffer = [0_u8; 16 * 1024];
            match self.port.read(&mut buffer) {
                Ok(0) => bail!("the guest went off"),
                Ok(n) => self.rest.extend_from_slice(&buffer[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e).context("the guest's port"),
            }
        }
    }
}

/// Takes the answer to script `id` out of `bytes`, once it is whole. Answers to earlier scripts, which
/// nobody waits for any more, are dropped.
fn take_answer(bytes: &mut Vec<u8>, id: u64) -> Result<Option<Ran>> {
    loop {
        let Some(line_end) = bytes.iter().position(|&b| b == b'\n') else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&bytes[..line_end]).into_owned();
        let words: Vec<&str> = line.split(' ').collect();
        let ["DONE", whose, code, length] = words[..] else {
            bail!("the guest's port said `{line}`");
        };
        let length: usize = length.parse().context("length of an output")?;
        if length > OUTPUT_MAX {
            bail!("a script wrote {length} bytes");
        }
        let whole = line_end + 1 + length;
        if bytes.len() < whole {
            return Ok(None);
        }
        let ran = Ran {
            output: String::from_utf8_lossy(&bytes[line_end + 1..whole]).into_owned(),
            code: code.parse().context("exit code")?,
        };
        let wanted = whose.parse() == Ok(id);
        bytes.drain(..whole);
        if wanted {
            return Ok(Some(ran));
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn an_answer_is_taken_when_it_is_whole_and_no_sooner() {
        let whole = b"DONE 7 3 6\na\nb\n\n!".to_vec();
        for cut in 0..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            assert_eq!(take_answer(&mut bytes, 7).unwrap(), None, "{cut}");
            assert_eq!(bytes.len(), cut);
        }
        let mut bytes = [&whole[..], b"DONE 8"].concat();
        let ran = take_answer(&mut bytes, 7).unwrap().unwrap();
        assert_eq!((ran.output.as_str(), ran.code), ("a\nb\n\n!", 3));
        assert_eq!(bytes, b"DONE 8");
    }

    #[test]
    fn late_answers_to_scripts_given_up_are_dropped() {
        let mut bytes = b"DONE 1 0 2\nxyDONE 2 0 1\nz".to_vec();
        assert_eq!(take_answer(&mut bytes, 2).unwrap().unwrap().output, "z");
        assert!(bytes.is_empty());
    }

    #[test]
    fn noise_on_the_port_is_an_error_and_not_an_answer() {
        assert!(take_answer(&mut b"what?\n".to_vec(), 1).is_err());
        assert!(take_answer(&mut b"DONE 1 0 99999999\n".to_vec(), 1).is_err());
    }
}
