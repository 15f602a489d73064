//! `lab`: networks, images and diskless machines for Reveille, on this machine alone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Kind, LAB_ENV, Lab, NodeSpec, demo, golden, record, versions};

const USAGE: &str = "\
usage: lab COMMAND        (all of them as root)

  demo [--dir DIR] [--wave N] [--timeout S]
                          four nodes boot from one image, in waves; everything is removed again
  record [--out FILE] [--image RAW] [--timeout S] [--more S] [--memory MIB]
                          one node boots, and its boot is recorded as a trace for `reveille swarm`
  golden                  path of the golden Debian image; built on first use
  initiator               path of the Linux initiator's disk, for tests of the target; likewise

  versions DIR [--steps N] [--promoted N]
                          twenty point versions of the golden image and what they cost; DIR keeps the disks

  up DIR                  a lab: a directory and a network namespace with bridge br0, 10.77.0.1/24
  node DIR NUMBER KIND    a node in it: bios, bios-chain, uefi or uefi-rom; prints its name and MAC
  exec DIR COMMAND...     a command inside its network
  down DIR                ends everything inside and removes the network

  power on|off|cycle NODE the node's power button, for the head's power command
  type NODE LINE          types a line at the node's root shell and shows what it says
  log NODE                what the node's console has said since its last start
                          (these three find the lab by the environment variable REVEILLE_LAB)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<ExitCode> {
    match words {
        ["demo", flags @ ..] => demo::run(&demo_options(flags)?)?,
        ["record", flags @ ..] => record::run(&record_options(flags)?)?,
        ["golden"] => println!("{}", golden::debian12()?.display()),
        ["initiator"] => println!("{}", golden::initiator12()?.display()),
        ["versions", dir, flags @ ..] => versions::run(&versions_options(dir, flags)?)?,
        ["up", dir] => {
            // The lab outlives this process: `lab down` ends it.
            let lab = Lab::make(Path::new(dir))?;
            println!("{}", lab.net().name());
            std::mem::forget(lab);
        }
        ["node", dir, number, kind] => {
            let spec = NodeSpec::new(
                number.parse().context("the node's number")?,
                kind.parse::<Kind>()?,
            );
            Lab::open(Path::new(dir))?.add_node(&spec)?;
            println!("{} {}", spec.name, spec.mac());
        }
        ["exec", dir, program, rest @ ..] => {
            let status = Lab::open(Path::new(dir))?
                .net()
                .command(program)
                .args(rest)
                .status()?;
            return Ok(ExitCode::from(
                u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
            ));
        }
        ["down", dir] => Lab::open(Path::new(dir))?.down()?,
        ["power", action, name] => power(action, name)?,
        ["type", name, line] => {
            let typed = here()?
                .node(name)?
                .console()
                .type_line(line, Duration::from_secs(120))?;
            println!("{}", typed.output);
            return Ok(ExitCode::from(u8::try_from(typed.code).unwrap_or(1)));
        }
        ["log", name] => println!("{}", here()?.node(name)?.console().tail(usize::MAX)),
        ["-h" | "--help" | "help"] => print!("{USAGE}"),
        _ => {
            eprint!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn here() -> Result<Lab> {
    let dir = std::env::var_os(LAB_ENV).with_context(|| format!("{LAB_ENV} names no lab"))?;
    Lab::open(&PathBuf::from(dir))
}

fn power(action: &str, name: &str) -> Result<()> {
    let node = here()?.node(name)?;
    match action {
        "on" => node.power_on(),
        "off" => node.power_off(),
        "cycle" => node.power_cycle(),
        _ => bail!("`{action}` is no power action; there are on, off, cycle"),
    }
}

fn versions_options(dir: &str, flags: &[&str]) -> Result<versions::Options> {
    let mut options = versions::Options {
        dir: PathBuf::from(dir),
        steps: 20,
        promoted: 5,
    };
    let mut rest = flags;
    while let [flag, value, tail @ ..] = rest {
        match *flag {
            "--steps" => options.steps = value.parse().context("--steps")?,
            "--promoted" => options.promoted = value.parse().context("--promoted")?,
            _ => bail!("unknown flag {flag}\n{USAGE}"),
        }
        rest = tail;
    }
    if let [flag] = rest {
        bail!("{flag}: its value is missing\n{USAGE}");
    }
    Ok(options)
}

fn record_options(flags: &[&str]) -> Result<record::Options> {
    let mut options = record::Options::default();
    let mut rest = flags;
    while let [flag, value, tail @ ..] = rest {
        match *flag {
            "--out" => options.out = PathBuf::from(value),
            "--image" => options.image = Some(PathBuf::from(value)),
            "--timeout" => options.timeout_s = value.parse().context("--timeout")?,
            "--more" => options.more_s = value.parse().context("--more")?,
            "--memory" => options.memory_mib = value.parse().context("--memory")?,
            _ => bail!("unknown flag {flag}\n{USAGE}"),
        }
        rest = tail;
    }
    if let [flag] = rest {
        bail!("{flag}: its value is missing\n{USAGE}");
    }
    Ok(options)
}

fn demo_options(flags: &[&str]) -> Result<demo::Options> {
    let mut options = demo::Options::default();
    let mut rest = flags;
    while let [flag, value, tail @ ..] = rest {
        match *flag {
            "--dir" => options.dir = Some(PathBuf::from(value)),
            "--wave" => options.wave = value.parse().context("--wave")?,
            "--timeout" => options.timeout_s = value.parse().context("--timeout")?,
            _ => bail!("unknown flag {flag}\n{USAGE}"),
        }
        rest = tail;
    }
    if let [flag] = rest {
        bail!("{flag}: its value is missing\n{USAGE}");
    }
    Ok(options)
}
