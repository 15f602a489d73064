//! Argv in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    reveille::cli::main().into()
}
