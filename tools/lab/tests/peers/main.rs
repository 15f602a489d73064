//! The head under the hands of a real Linux initiator: open-iscsi, dm-multipath, sg3-utils, fio and file
//! systems, on an emulated machine (`tools/lab/recipes/initiator12`). Needs root, QEMU, and the release
//! build of the programs (`REVEILLE_BIN_DIR`).
//!
//! The machine is started once for all checks, so this program is its own test harness. It takes what
//! cargo's takes: parts of names to run only those, `--skip PART`, `--exact`, `--list`.

mod bench;
mod checks;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};
use bench::Bench;

type Check = (&'static str, fn(&mut Bench) -> Result<()>);

#[derive(Debug, Default)]
struct Options {
    parts: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    ignored_only: bool,
}

impl Options {
    fn read(args: impl Iterator<Item = String>) -> Self {
        let mut options = Self::default();
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--exact" => options.exact = true,
                "--list" => options.list = true,
                "--ignored" => options.ignored_only = true,
                "--skip" => options.skipped.extend(args.next()),
                // The others of cargo's harness with a value of their own.
                "--test-threads" | "--format" | "--color" | "--logfile" => drop(args.next()),
                flag if flag.starts_with("--") => {}
                part => options.parts.push(part.to_owned()),
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        let named = |part: &String| {
            if self.exact {
                name == part
            } else {
                name.contains(part.as_str())
            }
        };
        !self.ignored_only
            && (self.parts.is_empty() || self.parts.iter().any(named))
            && !self.skipped.iter().any(named)
    }
}

fn main() -> ExitCode {
    let options = Options::read(std::env::args().skip(1));
    let wanted: Vec<&Check> = checks::ALL
        .iter()
        .filter(|(name, _)| options.wants(name))
        .collect();
    if options.list {
        for (name, _) in &wanted {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", wanted.len());
    if wanted.is_empty() {
        return ExitCode::SUCCESS;
    }
    match run(&wanted) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("the initiator or its head did not start: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all; returns how many failed.
fn run(wanted: &[&Check]) -> Result<usize> {
    let began = Instant::now();
    let mut bench = Bench::new()?;
    println!("(initiator up after {:.0?})", began.elapsed());
    let mut failed = 0;
    for (name, check) in wanted {
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| check(&mut bench)))
            .unwrap_or_else(|_| Err(anyhow!("it panicked")));
        match result {
            Ok(()) => println!("test {name} ... ok ({:.0?})", began.elapsed()),
            Err(error) => {
                failed += 1;
                println!(
                    "test {name} ... FAILED ({:.0?})\n{error:#}\n",
                    began.elapsed()
                );
                bench.recover()?;
            }
        }
    }
    let passed = wanted.len() - failed;
    println!(
        "\ntest result: {passed} passed; {failed} failed; finished in {:.0?}",
        began.elapsed()
    );
    if failed > 0 {
        // A dropped lab keeps its directory only when this is set or a panic runs.
        println!("REVEILLE_LAB_KEEP=1 keeps the console and the head's log");
    }
    Ok(failed)
}
