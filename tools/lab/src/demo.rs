//! The demonstration: four diskless machines wake from one golden image, two at a time.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::head::{power_command, tool};
use crate::{Head, HeadSpec, Kind, Lab, Node, NodeSpec, golden};

/// What `lab demo` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the lab; one of its own when none is named.
    pub dir: Option<PathBuf>,
    /// Nodes that boot at the same time.
    pub wave: u32,
    /// Seconds that one attempt of one node may take.
    pub timeout_s: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dir: None,
            wave: 2,
            timeout_s: 600,
        }
    }
}

const NODES: [Kind; 4] = [Kind::Bios, Kind::Bios, Kind::BiosChain, Kind::Uefi];
// Emulated machines on a busy host take their time.
const SHELL_WAIT: Duration = Duration::from_secs(300);

/// Runs it; all it started has ended when it returns.
///
/// # Errors
/// When any step fails, or a node does not come up, or sees what another node wrote.
pub fn run(options: &Options) -> Result<()> {
    let began = Instant::now();
    let image = golden::debian12()?;
    let lab = match &options.dir {
        Some(dir) => Lab::make(dir)?,
        None => Lab::new("demo")?,
    };
    let result = play(&lab, &image.to_string_lossy(), options);
    if let Err(error) = &result {
        show_evidence(&lab);
        say(&format!("the demonstration failed: {error}"));
    }
    lab.down()?;
    result?;
    say(&format!(
        "done in {} s; every process and the network are gone again",
        began.elapsed().as_secs()
    ));
    print!("{ON_A_REAL_NETWORK}");
    Ok(())
}

fn play(lab: &Lab, image: &str, options: &Options) -> Result<()> {
    let nodes = NODES
        .iter()
        .zip(1..)
        .map(|(&kind, number)| lab.add_node(&NodeSpec::new(number, kind)))
        .collect::<Result<Vec<_>>>()?;
    let mut spec = HeadSpec::standard(lab, &tool("reveille")?);
    // Nodes make the head prove itself, in iPXE and in Debian.
    spec.config = spec
        .config
        .replace("[iscsi]\n", "[iscsi]\nauth = \"mutual\"\n");
    let mut head = Head::prepare(lab, spec)?;

    say("one golden image");
    show(&head, &["image", "import", image, "--name", "debian12"])?;
    say(
        "four nodes: two with iPXE in ROM, one that is chained to another iPXE, one with plain UEFI PXE",
    );
    add_nodes(&head, &nodes)?;
    show(&head, &["node", "ls"])?;

    say("the head: DHCP, TFTP, HTTP and iSCSI with mutual CHAP, on a network of its own");
    let (ready, took) = head.start()?;
    println!("{ready}   ({} ms)", took.as_millis());
    let cpu_before = head.cpu_seconds().unwrap_or(0.0);
    let (wave, timeout) = (options.wave.to_string(), options.timeout_s.to_string());
    let boot = [
        "boot",
        "node[1-4]",
        "--wave",
        &wave,
        "--wait",
        "--timeout",
        &timeout,
    ];
    say(&format!("reveille {}", boot.join(" ")));
    let began = Instant::now();
    let status = head.command(&boot).status().context("reveille boot")?;
    ensure!(status.success(), "`reveille boot` ended with {status}");
    let boot_s = began.elapsed().as_secs();
    let cpu_s = head.cpu_seconds().unwrap_or(0.0) - cpu_before;

    say("where each node stands, and what happened");
    show(&head, &["status"])?;
    show(&head, &["events"])?;
    summary(&head, nodes.len(), boot_s, cpu_s)?;
    prove_private_disks(&nodes)?;
    show(&head, &["layer", "ls"])?;
    head.stop()
}

fn add_nodes(head: &Head, nodes: &[Node]) -> Result<()> {
    let power = power_command()?;
    for node in nodes {
        let mac = node.spec().mac();
        let mut args = vec![
            "node",
            "add",
            node.name(),
            "--image",
            "debian12",
            "--mac",
            &mac,
        ];
        args.extend(["--power", &power]);
        if node.spec().kind == Kind::BiosChain {
            args.extend(["--loader", "chain"]);
        }
        head.run(&args)?;
    }
    Ok(())
}

/// Seconds and bytes of each node, and what the boots cost the head.
fn summary(head: &Head, nodes: usize, boot_s: u64, cpu_s: f64) -> Result<()> {
    say("summary");
    let status: Value = serde_json::from_str(&head.run(&["status", "-o", "json"])?)
        .context("`reveille status -o json`")?;
    let list = status
        .as_array()
        .context("`reveille status -o json` is no list")?;
    println!(
        "{:<8} {:<10} {:>8} {:>10} {:>10}",
        "node", "stage", "seconds", "MB read", "MB written"
    );
    for node in list {
        let at = |entry: Option<&Value>| entry.and_then(|e| e["at"].as_u64());
        let stages = node["stages"].as_array();
        let first = at(stages.and_then(|s| s.first()));
        let last = at(stages.and_then(|s| s.last()));
        let seconds = match (first, last) {
            (Some(first), Some(last)) => format!("{}", last.saturating_sub(first) / 1000),
            _ => "-".to_owned(),
        };
        println!(
            "{:<8} {:<10} {seconds:>8} {:>10} {:>10}",
            node["node"].as_str().unwrap_or("?"),
            node["stage"].as_str().unwrap_or("?"),
            megabytes(&node["traffic"]["read_bytes"]),
            megabytes(&node["traffic"]["written_bytes"]),
        );
    }
    ensure!(
        list.len() == nodes,
        "the head lists {} nodes instead of {nodes}",
        list.len()
    );
    let mean = cpu_s / f64::from(u32::try_from(nodes)?);
    println!(
        "all {nodes} nodes in {boot_s} s; the head used {cpu_s:.2} s of processor time, {mean:.2} s per boot"
    );
    println!(
        "(the machines are emulated, instruction by instruction: their seconds are not real machines')"
    );
    Ok(())
}

fn megabytes(bytes: &Value) -> String {
    let tenths = bytes.as_u64().unwrap_or(0) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Each node writes its name to the same file of the same image, and then finds its own name there.
fn prove_private_disks(nodes: &[Node]) -> Result<()> {
    say("every node writes to the same file of the same image, and finds only its own words");
    for node in nodes {
        let mut console = node.wait_shell(SHELL_WAIT)?;
        let line = format!("echo written by {} > /root/who && sync", node.name());
        console.run(&line, SHELL_WAIT)?;
    }
    for node in nodes {
        let mut console = node.wait_shell(SHELL_WAIT)?;
        console.run("echo 3 > /proc/sys/vm/drop_caches", SHELL_WAIT)?;
        let who = console.run("cat /root/who", SHELL_WAIT)?;
        let host = console.run("cat /proc/sys/kernel/hostname", SHELL_WAIT)?;
        let disk = console.run(
            "cat /sys/class/iscsi_session/session*/targetname | head -n 1",
            SHELL_WAIT,
        )?;
        println!(
            "{:<8} host name {host:<8} root disk {disk:<48} /root/who: {who}",
            node.name()
        );
        if who.lines().last() != Some(&*format!("written by {}", node.name())) {
            bail!("{} reads `{who}` where it wrote its own name", node.name());
        }
    }
    Ok(())
}

fn show(head: &Head, args: &[&str]) -> Result<()> {
    println!("$ reveille {}", args.join(" "));
    print!("{}", head.run(args)?);
    Ok(())
}

/// The last words of the head and of every node that is on.
fn show_evidence(lab: &Lab) {
    let log = fs::read_to_string(lab.dir().join("head.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    eprintln!(
        "-- head\n{}",
        lines[lines.len().saturating_sub(40)..].join("\n")
    );
    for node in lab.nodes().unwrap_or_default() {
        if node.serial_log().exists() {
            eprintln!("-- {}\n{}", node.name(), node.console().tail(25));
        }
    }
}

fn say(text: &str) {
    println!("\n== {text}");
}

const ON_A_REAL_NETWORK: &str = "
The same on a real network (as root on the storage head):

  1. Make or bring a golden image: any disk that boots with its root on iSCSI from the iBFT.
     images/README.md says what that takes; images/recipes/debian12 builds one for real machines:
         images/recipes/debian12 --output debian12.raw --size 4096
  2. Tell the head where its nodes are, in /etc/reveille/reveille.toml:
         [boot]
         interfaces = [\"eth1\"]
         dhcp = \"proxy\"        # beside the DHCP server that is there; \"server\" where there is none
  3. Fill it and start it:
         reveille image import debian12.raw --name debian12
         reveille node add node[001-100] --image debian12 --macs macs.txt \\
             --power 'ipmitool -I lanplus -H bmc-{node} -U admin -f /etc/reveille/bmc chassis power {action}'
         reveille serve
  4. Wake them, 25 at a time, and watch:
         reveille boot node[001-100] --wave 25 --wait
         reveille status
";
