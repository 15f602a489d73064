//! `compare`: Reveille, tgt, istgt and a bare TCP server next to each other on the same bytes in the page cache, as
//! one table of ratios that anyone can make again (`tools/compare/run`).
//!
//! ```text
//!  options   what the command line says          storm     a boot storm instead, with `reveille swarm`
//!  park      files and servers, by `servers`     bare      the baseline server
//!  cases     what is measured                    figures   medians, ratios, limits
//!  runner    who is measured when                table     Markdown and JSON
//!    load      a round of commands, by `session` over `wire`
//!    logins    a round of logins                 memory    idle sessions
//!    verify    that the bytes are right          content   what bytes there are
//!                                                 flames    where a server's time goes
//! ```
//! Servers run on core 1, the load on core 0. All servers stay; only one of them has work at a time. Everything
//! has a time limit; a case that fails on a target is told in the table, and the others go on.

pub mod bare;
pub mod cases;
pub mod content;
pub mod figures;
pub mod flames;
pub mod histogram;
pub mod load;
pub mod login;
pub mod logins;
pub mod machine;
pub mod memory;
pub mod options;
pub mod park;
pub mod runner;
pub mod servers;
pub mod session;
pub mod storm;
pub mod table;
pub mod verify;
pub mod wire;

use std::path::Path;

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::options::{Options, USAGE};
use crate::park::{Park, Target};
use crate::table::Report;

/// Does what the words say; false when something failed on a target.
///
/// # Errors
/// When the words make no sense, or nothing can be measured at all.
pub fn run(words: &[&str]) -> Result<bool> {
    match words {
        ["bare", disks @ ..] => bare::serve(disks).map(|()| true),
        ["storm", rest @ ..] => storm::run(rest),
        ["-h" | "--help" | "help", ..] => {
            print!("{USAGE}");
            Ok(true)
        }
        ["cases"] => {
            list_cases()?;
            Ok(true)
        }
        rest => compare(rest),
    }
}

fn list_cases() -> Result<()> {
    let options = Options::read(&[])?;
    for row in cases::all(&options.scale).into_iter().flatten() {
        println!("{:16} {}", row.name, row.title);
    }
    println!("{:16} memory of idle sessions", "memory");
    Ok(())
}

/// False when something failed on a target.
fn compare(words: &[&str]) -> Result<bool> {
    let mut options = Options::read(words)?;
    let versions: Vec<(Target, Result<String, String>)> = options
        .targets
        .iter()
        .map(|target| (*target, target.version().map_err(|e| format!("{e:#}"))))
        .collect();
    // What is not installed is told once, at the head of the table.
    options.targets.retain(|target| {
        versions
            .iter()
            .any(|(known, version)| known == target && version.is_ok())
    });
    let machine = Machine::prepare(options.quick);
    let before = machine::load_average();
    let mut park = Park::new(&machine, &options.dir, options.scale)?;
    let pattern = content::pattern();
    let memory = if options.wants("memory") {
        eprintln!("compare: memory of idle sessions");
        memory::run(&mut park, &options)
    } else {
        Vec::new()
    };
    let mut rows = Vec::new();
    for group in cases::wanted(&options) {
        let names: Vec<&str> = group.iter().map(|row| row.name.as_str()).collect();
        eprintln!("compare: {}", names.join(", "));
        rows.extend(runner::run(&mut park, &group, &options, &pattern));
    }
    drop(park);
    if let Some(dir) = &options.flames {
        let profiles: Vec<_> = rows
            .iter()
            .filter_map(|found| found.profile.clone())
            .collect();
        put(Some(&dir.join("profiles.md")), &flames::markdown(&profiles))?;
    }
    let report = Report {
        versions,
        about: about(&options, &machine, &before),
        rows,
        memory,
    };
    put(options.out.as_deref(), &table::markdown(&report))?;
    if let Some(path) = &options.json {
        put(Some(path), &format!("{:#}\n", table::json(&report)))?;
    }
    let failed = |cell: &runner::Cell| cell.failure.is_some();
    Ok(!report
        .rows
        .iter()
        .any(|found| found.cells.iter().any(failed)))
}

fn about(options: &Options, machine: &Machine, before: &str) -> Vec<String> {
    let scale = &options.scale;
    vec![
        machine::describe(),
        machine.words(),
        format!(
            "medians of {} rounds of {} s, interleaved; in brackets the least and the largest",
            options.rounds,
            options.time.as_secs_f64()
        ),
        format!(
            "{} MiB of random data in the page cache; writes go to {} MiB",
            scale.golden_bytes >> 20,
            scale.write_bytes >> 20
        ),
        format!(
            "load averages before: {before}; after: {}",
            machine::load_average()
        ),
    ]
}

/// Writes to a file, or to standard output.
fn put(path: Option<&Path>, text: &str) -> Result<()> {
    match path {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
        }
        None => {
            print!("{text}");
            Ok(())
        }
    }
}
