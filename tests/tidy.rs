//! The tree is tested too: levels of rooms, purity, sizes, characters, marks left behind.
//!
//! Every fault is printed at once, with file, line and rule.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// A room may name only rooms of a lower level; rooms of one level never meet. See docs/architecture.md.
const LEVELS: &[(&str, u8)] = &[
    ("units", 0),
    ("limits", 0),
    ("names", 1),
    ("telemetry", 1),
    ("trace", 1),
    ("events", 2),
    ("config", 2),
    ("scsi", 3),
    ("store", 3),
    ("catalog", 3),
    ("power", 3),
    ("head", 4),
    ("iscsi", 5),
    ("boot", 5),
    ("wave", 6),
    ("swarm", 6),
    ("api", 7),
    ("daemon", 8),
    ("cli", 9),
];

/// Files that decide and never do: no sockets, files, clocks or threads of their own.
const PURE: &[&str] = &[
    "src/limits.rs",
    "src/names/",
    "src/trace/",
    "src/scsi/",
    "src/events/timeline.rs",
    "src/head/text.rs",
    "src/head/text/",
    "src/iscsi/pdu/",
    "src/iscsi/keys.rs",
    "src/iscsi/params.rs",
    "src/iscsi/login.rs",
    "src/iscsi/chap.rs",
    "src/iscsi/serial.rs",
    "src/iscsi/session.rs",
    "src/iscsi/portals.rs",
    "src/iscsi/connection/leave.rs",
    "src/iscsi/budget.rs",
    "src/iscsi/gate.rs",
    "src/iscsi/pace.rs",
    "src/iscsi/refusals.rs",
    "src/iscsi/text.rs",
    "src/iscsi/frame.rs",
    "src/iscsi/rx.rs",
    "src/iscsi/tx.rs",
    "src/iscsi/task.rs",
    "src/iscsi/connection.rs",
    "src/iscsi/connection/command.rs",
    "src/iscsi/connection/data.rs",
    "src/iscsi/connection/manage.rs",
    "src/iscsi/connection/talk.rs",
    "src/iscsi/initiator/engine.rs",
    "src/iscsi/initiator/offer.rs",
    "src/iscsi/initiator/profiles.rs",
    "src/store/layer/frame.rs",
    "src/store/layer/map.rs",
    "src/store/image/manifest.rs",
    "src/store/image/inspect.rs",
    "src/store/image/import/layout.rs",
    "src/store/image/import/magic.rs",
    "src/store/image/import/qcow2_check.rs",
    "src/store/image/import/vhd.rs",
    "src/store/image/import/vhdx.rs",
    "src/store/image/import/vhdx_meta.rs",
    "src/store/image/import/vmdk.rs",
    "src/store/image/import/vmdk_text.rs",
    "src/boot/facts.rs",
    "src/boot/plan.rs",
    "src/boot/dhcp.rs",
    "src/boot/lease.rs",
    "src/boot/tftp.rs",
    "src/boot/script.rs",
    "src/boot/context.rs",
    "src/wave/machine.rs",
    "src/wave/spec.rs",
    "src/wave/settle.rs",
    "src/swarm/check.rs",
    "src/swarm/data.rs",
    "src/swarm/firmware.rs",
    "src/swarm/firmware/",
    "src/swarm/flow.rs",
    "src/swarm/golden.rs",
    "src/swarm/histogram.rs",
    "src/swarm/ledger.rs",
    "src/swarm/link.rs",
    "src/swarm/node.rs",
    "src/swarm/node/answer.rs",
    "src/swarm/node/command.rs",
    "src/swarm/node/errands.rs",
    "src/swarm/plan.rs",
    "src/swarm/plot.rs",
    "src/swarm/report.rs",
    "src/swarm/synth.rs",
    "src/swarm/tally.rs",
];

const BANNED_IN_PURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "TcpStream",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
    "UnixMillis::now",
    "thread::spawn",
    "thread::sleep",
    "getrandom",
];

/// Nowhere in the program: a sleep hides a missing condition, a process exit skips clean-up.
const BANNED_EVERYWHERE: &[&str] = &[
    "thread::sleep",
    "todo!(",
    "unimplemented!(",
    "process::exit",
];

/// Where a sleep is right, and why.
const SLEEPS: &[(&str, &str)] = &[
    (
        "src/iscsi/server.rs",
        "accept without free descriptors: nothing wakes us when some come back",
    ),
    (
        "tools/lab/",
        "consoles and processes of emulated machines can only be asked again",
    ),
];

const FUNCTION_LINES_MAX: usize = 70;
const TEST_FUNCTION_LINES_MAX: usize = 120;
const FILE_LINES_MAX: usize = 800;
const LINE_COLUMNS_MAX: usize = 120;

/// Longer files, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// A dependency that only these places may name, so that it can be exchanged there.
const NAMED_ONLY_IN: &[(&str, &[&str])] = &[
    ("redb::", &["src/catalog/"]),
    ("imago::", &["src/store/image/import/"]),
    ("dhcproto::", &["src/boot/dhcp.rs", "src/boot/facts.rs"]),
    (
        "axum::",
        &["src/api/", "src/boot/", "src/cli/door.rs", "src/daemon/"],
    ),
    ("clap::", &["src/cli/"]),
    (
        "anyhow::",
        &["src/cli/", "src/daemon/", "src/main.rs", "tools/"],
    ),
    (
        "rustix::",
        &[
            "src/store/",
            "src/head/",
            "src/catalog/",
            "src/boot/",
            "src/daemon/",
            "src/iscsi/farewell.rs",
            "src/iscsi/server.rs",
            "src/swarm/",
            "tools/",
        ],
    ),
];

struct Source {
    /// Path from the top of the tree, with `/`.
    path: String,
    text: String,
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dirs: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for dir in dirs {
        walk(&top().join(dir), &mut found);
    }
    assert!(!found.is_empty(), "no sources found below {dirs:?}");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(dir: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                walk(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let relative = path.strip_prefix(top()).unwrap().to_string_lossy();
            found.push(Source {
                path: relative.replace('\\', "/"),
                text: fs::read_to_string(&path).unwrap(),
            });
        }
    }
}

fn report(faults: &str) {
    assert!(faults.is_empty(), "\n{faults}");
}

fn level(room: &str) -> Option<u8> {
    LEVELS.iter().find(|(name, _)| *name == room).map(|l| l.1)
}

/// The room that a file of `src/` belongs to; `None` for lib.rs and main.rs, which name all.
fn room(path: &str) -> Option<String> {
    let rest = path.strip_prefix("src/")?;
    let first = rest.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib" && name != "main").then(|| name.to_owned())
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn rooms_name_only_lower_rooms() {
    let mut faults = String::new();
    for file in sources(&["src"]) {
        let Some(own) = room(&file.path) else {
            continue;
        };
        let Some(own_level) = level(&own) else {
            let _ = writeln!(
                faults,
                "{}: room `{own}` has no level in tests/tidy.rs",
                file.path
            );
            continue;
        };
        for (number, line) in file
            .text
            .lines()
            .enumerate()
            .filter(|(_, l)| !is_comment(l))
        {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + 7..];
                let named: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let place = format!("{}:{}", file.path, number + 1);
                if rest.starts_with('{') {
                    let _ = writeln!(faults, "{place}: one `use` line per room, please");
                } else if named != own && level(&named).is_none_or(|l| l >= own_level) {
                    let _ = writeln!(faults, "{place}: {own} must not name {named}");
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn pure_files_do_nothing_on_their_own() {
    let mut faults = String::new();
    for file in sources(&["src"]) {
        if !PURE.iter().any(|p| file.path.starts_with(p)) {
            continue;
        }
        for (number, line) in program_lines(&file.text) {
            for word in BANNED_IN_PURE.iter().filter(|w| line.contains(**w)) {
                let _ = writeln!(faults, "{}:{number}: pure file names {word}", file.path);
            }
        }
    }
    for path in PURE.iter().filter(|p| p.ends_with(".rs")) {
        if !top().join(path).exists() {
            let _ = writeln!(faults, "{path}: listed as pure, but there is no such file");
        }
    }
    report(&faults);
}

/// Lines outside comments and before the test module, with their numbers.
fn program_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .zip(1..)
        .map(|(line, number)| (number, line))
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !is_comment(line))
}

#[test]
fn banned_words_stay_out() {
    let mut faults = String::new();
    for file in sources(&["src", "tools"]) {
        for (number, line) in program_lines(&file.text) {
            let sleeps = SLEEPS.iter().any(|(path, _)| file.path.starts_with(path));
            let banned = BANNED_EVERYWHERE.iter().filter(|w| line.contains(**w));
            for word in banned.filter(|w| !sleeps || **w != "thread::sleep") {
                let _ = writeln!(faults, "{}:{number}: {word} is banned", file.path);
            }
            for (word, places) in NAMED_ONLY_IN {
                if line.contains(word) && !places.iter().any(|p| file.path.starts_with(p)) {
                    let _ = writeln!(
                        faults,
                        "{}:{number}: {word} belongs in {} only",
                        file.path,
                        places.join(", ")
                    );
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn sources_are_ascii_short_and_finished() {
    let mut faults = String::new();
    for file in sources(&["src", "tests", "tools", "benches"]) {
        let lines = file.text.lines().count();
        let allowed = LONG_FILES.iter().any(|(path, _)| *path == file.path);
        if lines > FILE_LINES_MAX && !allowed {
            let _ = writeln!(
                faults,
                "{}: {lines} lines, at most {FILE_LINES_MAX}",
                file.path
            );
        }
        for (number, line) in file.text.lines().zip(1..).map(|(l, n)| (n, l)) {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS_MAX {
                let _ = writeln!(faults, "{}:{number}: {columns} columns", file.path);
            }
            // Drawings in comments may use box characters; code may not.
            if !line.is_ascii() && !is_comment(line) {
                let _ = writeln!(faults, "{}:{number}: not ASCII", file.path);
            }
            let marks = ["FIX".to_owned() + "ME", "XX".to_owned() + "X"];
            if marks.iter().any(|m| line.contains(m.as_str())) {
                let _ = writeln!(faults, "{}:{number}: an unfinished mark", file.path);
            }
            if line.trim_start().starts_with("#[ignore") {
                let _ = writeln!(faults, "{}:{number}: a test that never runs", file.path);
            }
        }
    }
    report(&faults);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut faults = String::new();
    for file in sources(&["src", "tests", "tools", "benches"]) {
        let tests_from = file
            .text
            .lines()
            .position(|l| l.trim() == "#[cfg(test)]")
            .unwrap_or(usize::MAX);
        let all_test = file.path.starts_with("tests/")
            || file.path.contains("/tests/")
            || file.path.contains("/test/")
            || file.path.ends_with("test.rs");
        for (line, length, name) in functions(&file.text) {
            let in_test = all_test || line > tests_from;
            let most = if in_test {
                TEST_FUNCTION_LINES_MAX
            } else {
                FUNCTION_LINES_MAX
            };
            if length > most {
                let _ = writeln!(faults, "{}:{line}: {name} has {length} lines", file.path);
            }
        }
    }
    report(&faults);
}

/// First line, length and name of each function: from `fn` to the brace at the same indentation, which
/// rustfmt guarantees.
fn functions(text: &str) -> Vec<(usize, usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let words: Vec<&str> = body.split_whitespace().collect();
        let Some(at) = words.iter().position(|w| *w == "fn") else {
            continue;
        };
        let qualifiers = [
            "pub",
            "pub(crate)",
            "pub(super)",
            "pub(in",
            "async",
            "const",
            "unsafe",
            "extern",
        ];
        if is_comment(line) || !words[..at].iter().all(|w| qualifiers.contains(w)) {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let end = lines[start..]
            .iter()
            .position(|l| *l == close || (l.starts_with(&close) && l.len() <= close.len() + 1));
        let one_line = body.ends_with('}') || body.ends_with(';');
        let length = if one_line {
            1
        } else {
            end.map_or(1, |e| e + 1)
        };
        let name = words.get(at + 1).unwrap_or(&"?");
        let name = name.split(['(', '<']).next().unwrap_or("?");
        found.push((start + 1, length, name.to_owned()));
    }
    found
}

#[test]
fn documents_name_files_that_exist() {
    let mut faults = String::new();
    let mut documents = vec![top().join("README.md")];
    let mut folders = vec![top().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                documents.push(path);
            }
        }
    }
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for word in text.split(|c: char| c.is_whitespace() || "`()[],;:".contains(c)) {
            let word = word.trim_end_matches('.');
            let ours = ["src/", "docs/", "tests/", "tools/", "images/", "benches/"];
            let path = ours.iter().any(|p| word.starts_with(p)) && !word.contains(['*', '<', '{']);
            if path && !top().join(word).exists() {
                let _ = writeln!(faults, "{}: no such file {word}", document.display());
            }
        }
    }
    report(&faults);
}

#[test]
fn functions_are_measured_right() {
    let text =
        "fn a() {\n    x();\n}\n\npub async fn b(\n    c: u8,\n) -> u8 {\n    c\n}\nfn d();\n";
    let found = functions(text);
    let lengths: Vec<_> = found
        .iter()
        .map(|(line, len, name)| (*line, *len, name.as_str()))
        .collect();
    assert_eq!(lengths, [(1, 3, "a"), (5, 5, "b"), (10, 1, "d")]);
}
