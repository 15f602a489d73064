//! The command; see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match compare::run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        // A target failed: the table says which and why.
        Ok(false) => ExitCode::from(3),
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}
