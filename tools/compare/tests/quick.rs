//! The tool itself: a whole comparison, small and short, of Reveille and the bare server. It asserts no speed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Where the program to be compared is: as for the lab, or beside this build's own.
fn programs() -> PathBuf {
    let dir = std::env::var_os("REVEILLE_BIN_DIR").map(PathBuf::from);
    let own = || {
        Path::new(env!("CARGO_BIN_EXE_compare"))
            .parent()
            .map(Path::to_owned)
    };
    let dir = dir.or_else(own).expect("a directory of programs");
    let hint = "`cargo build -p reveille` makes it, or REVEILLE_BIN_DIR says where it is";
    assert!(
        dir.join("reveille").exists(),
        "no reveille in {}: {hint}",
        dir.display()
    );
    dir
}

fn compare(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command.args(args).env("REVEILLE_BIN_DIR", programs());
    command.env("TMPDIR", dir).output().expect("compare starts")
}

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!(
            "reveille-compare-test-{name}-{}",
            std::process::id()
        ));
        std::fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Every case runs on us and, where it takes part, on the bare server; nothing stays behind.
#[test]
fn a_quick_comparison_measures_every_case_and_leaves_nothing() {
    let scratch = Scratch::new("all");
    let json = scratch.0.join("all.json");
    let json_text = json.display().to_string();
    let output = compare(
        &scratch.0,
        &["--quick", "--targets", "ours,bare", "--json", &json_text],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8_lossy(&output.stdout);
    let all: Value =
        serde_json::from_slice(&std::fs::read(&json).expect("the figures")).expect("JSON");
    let cases = all["cases"].as_array().expect("cases");
    assert!(cases.len() >= 16, "{cases:?}");
    for case in cases {
        let title = case["title"].as_str().expect("a title");
        assert!(
            table.contains(title),
            "{title} is not in the table:\n{table}"
        );
        let targets = case["targets"].as_object().expect("targets");
        assert!(targets.contains_key("ours"), "{case}");
        for figures in targets.values() {
            assert!(figures["failure"].is_null(), "{case}");
            let figures = &figures["figures"];
            assert!(
                figures["rate"].as_f64().is_some_and(|rate| rate > 0.0),
                "{case}"
            );
            assert!(
                figures["p99_us"].as_f64() >= figures["p50_us"].as_f64(),
                "{case}"
            );
            assert!(
                figures["server_cpu_us"].as_f64().is_some_and(|us| us > 0.0),
                "{case}"
            );
        }
    }
    let bare = cases
        .iter()
        .filter(|case| case["targets"]["bare"].is_object())
        .count();
    assert!(bare >= 9, "the bare server took part in {bare} cases");
    let memory = all["memory"].as_array().expect("memory");
    assert!(
        memory.iter().any(|step| step["sessions"] == 20),
        "{memory:?}"
    );
    std::fs::remove_file(&json).expect("the figures");
    let left: Vec<_> = std::fs::read_dir(&scratch.0)
        .expect("the directory")
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A case that fails on one target says so in its cell, and in the exit code; the others are measured.
#[test]
fn a_case_that_fails_on_one_target_is_told_and_the_others_go_on() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new("failing");
    let bin = scratch.0.join("bin");
    std::fs::create_dir_all(&bin).expect("a directory");
    let program = bin.join("reveille");
    let text = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo reveille 7\necho no luck today >&2\nexit 1\n";
    std::fs::write(&program, text).expect("a program");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("a program");
    let args = ["--quick", "--targets", "ours,bare", "--only", "read-4k-1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare"));
    command
        .args(args)
        .env("REVEILLE_BIN_DIR", &bin)
        .env("TMPDIR", &scratch.0);
    let output = command.output().expect("compare starts");
    assert_eq!(output.status.code(), Some(3));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("- Reveille: 7"), "{table}");
    let mut rows = table
        .lines()
        .filter(|line| line.starts_with("| 4 KiB random read, depth 1 |"));
    let row = rows.next().expect("the row");
    assert!(row.contains("no luck today") && row.contains("/s"), "{row}");
    assert!(row.contains("not measured"), "{row}");
}

#[test]
fn words_that_make_no_sense_are_refused_with_the_usage() {
    let scratch = Scratch::new("usage");
    let output = compare(&scratch.0, &["--targets", "spdk"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no such target: spdk"));
}
