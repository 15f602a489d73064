//! A trace of a real boot: one diskless machine boots from a golden image, and its head records what it asks.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::head::tool;
use crate::{Head, HeadSpec, Kind, Lab, NodeSpec, golden};

/// What `lab record` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The trace's file; must not exist.
    pub out: PathBuf,
    /// The golden image; built by its recipe when none is named.
    pub image: Option<PathBuf>,
    /// Seconds that the boot may take.
    pub timeout_s: u32,
    /// Seconds that the recording goes on when the node is ready.
    pub more_s: u32,
    /// MiB of the machine's memory.
    pub memory_mib: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            out: PathBuf::from("boot.trace.gz"),
            image: None,
            timeout_s: 1800,
            more_s: 60,
            memory_mib: 1024,
        }
    }
}

const ORIGIN: &str = "a machine emulated by QEMU without hardware help (TCG), BIOS PXE, iPXE of QEMU's option ROM: \
                      its think times are several times those of real hardware";

/// Runs it; all it started has ended when it returns.
///
/// # Errors
/// When the machine does not boot, or nothing was recorded.
pub fn run(options: &Options) -> Result<()> {
    let image = match &options.image {
        Some(image) => image.clone(),
        None => golden::debian12_standard()?,
    };
    let lab = Lab::new("record")?;
    let result = play(&lab, &image.to_string_lossy(), options);
    lab.down()?;
    result
}

fn play(lab: &Lab, image: &str, options: &Options) -> Result<()> {
    let mut spec = NodeSpec::new(1, Kind::Bios);
    spec.memory_mib = options.memory_mib;
    let node = lab.add_node(&spec)?;
    let mut head = Head::prepare(lab, HeadSpec::standard(lab, &tool("reveille")?))?;
    head.run(&["image", "import", image, "--name", "debian12"])?;
    let mac = node.spec().mac();
    head.run(&[
        "node",
        "add",
        node.name(),
        "--image",
        "debian12",
        "--mac",
        &mac,
    ])?;
    head.start()?;
    let out = std::path::absolute(&options.out).context("--out")?;
    let (out, timeout) = (out.to_string_lossy(), options.timeout_s.to_string());
    let more = options.more_s.to_string();
    let mut args = vec!["swarm", "record", node.name(), "-o", &out];
    args.extend(["--more", &more, "--timeout", &timeout, "--note", ORIGIN]);
    let mut recording = head
        .command(&args)
        .stderr(Stdio::piped())
        .spawn()
        .context("reveille swarm record")?;
    let stderr = recording.stderr.take().context("it has no stderr")?;
    let mut lines = BufReader::new(stderr).lines();
    // Its first line says that it has begun; the machine may start now.
    let begun = lines.next().transpose()?;
    if let Some(line) = &begun {
        eprintln!("{line}");
        node.power_on()?;
    }
    let rest = thread::spawn(move || lines.map_while(Result::ok).for_each(|l| eprintln!("{l}")));
    let status = recording.wait()?;
    ensure!(rest.join().is_ok(), "its stderr could not be read");
    if begun.is_none() || !status.success() {
        let tail = node.console().tail(30);
        bail!("`reveille swarm record` ended with {status}; the machine's console:\n{tail}");
    }
    eprintln!("{}", node.wait_ready(Duration::from_secs(60))?);
    node.power_off()?;
    head.stop()
}
