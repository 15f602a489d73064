//! The conformance ledger (docs/protocols/iscsi.md and scsi.md) against the tree: every row names a clause, files
//! and tests that exist, and everything that a peer can meet - commands, pages, PDUs, keys, codes - has its row.
//!
//! A row is `| clause | what | file | test |`. Files are relative to the document's room unless they begin with
//! `src/`. A test is a function's name, or `SCSI.Suite.Test` or `SCSI.Suite.*` of libiscsi's suite. In sections of
//! codes the first word in backticks of `what` is the code. What is left out says "not implemented", and its test
//! holds the refusal.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::tool;
use reveille::iscsi::params;
use reveille::scsi::{LogicalUnit, LuConfig, NexusId, Step, Traits, command_name};

const HEADER: [&str; 4] = ["clause", "what", "file", "test"];
const LEFT_OUT: &str = "not implemented";
/// What a clause may begin with.
const STANDARDS: &[&str] = &[
    "1994", "3720", "7143", "7144", "7145", "SAM-5", "SBC-2", "SBC-3", "SBC-4", "SPC-2", "SPC-3",
    "SPC-4", "ours",
];

struct Document {
    path: &'static str,
    /// Where its files are.
    room: &'static str,
    text: String,
}

struct Row {
    place: String,
    section: String,
    cells: Vec<String>,
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn documents() -> [Document; 2] {
    [
        ("docs/protocols/iscsi.md", "src/iscsi"),
        ("docs/protocols/scsi.md", "src/scsi"),
    ]
    .map(|(path, room)| Document {
        path,
        room,
        text: read(path),
    })
}

/// The cells of a table's line. A bar inside a cell is written `\|`.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let hidden = inner.replace("\\|", "\u{1}");
    Some(
        hidden
            .split('|')
            .map(|cell| cell.trim().replace('\u{1}', "|"))
            .collect(),
    )
}

/// The rows of all tables with this header.
fn rows(document: &Document, header: &[&str]) -> Vec<Row> {
    let (mut section, mut inside) = (String::new(), false);
    let mut found = Vec::new();
    for (line, number) in document.text.lines().zip(1..) {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim().to_owned();
        }
        let Some(cells) = cells(line) else {
            inside = false;
            continue;
        };
        if cells == header {
            inside = true;
        } else if inside
            && !cells
                .iter()
                .all(|cell| cell.chars().all(|c| "-: ".contains(c)))
        {
            let place = format!("{}:{number}", document.path);
            let section = section.clone();
            found.push(Row {
                place,
                section,
                cells,
            });
        }
    }
    found
}

/// Words in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

impl Row {
    fn what(&self) -> &str {
        &self.cells[1]
    }

    fn is_left_out(&self) -> bool {
        self.what().contains(LEFT_OUT)
    }

    /// The code that the row is about.
    fn code(&self) -> Option<&str> {
        quoted(self.what()).first().copied()
    }
}

/// Every function that is a test, in the program, its tests and the lab's.
fn tests_of_the_tree() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for dir in ["src", "tests", "tools/lab/src", "tools/lab/tests"] {
        gather(&top().join(dir), &mut names);
    }
    assert!(names.len() > 300, "only {} tests found", names.len());
    names
}

fn gather(dir: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            gather(&path, names);
        } else if path.extension().is_some_and(|e| e == "rs") {
            names.extend(tests_of(&fs::read_to_string(&path).unwrap()));
        }
    }
}

fn tests_of(text: &str) -> Vec<String> {
    let (mut marked, mut names) = (false, Vec::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(rest) = line
            .strip_prefix("async ")
            .unwrap_or(line)
            .strip_prefix("fn ")
        {
            if marked {
                let name = rest.split(['(', '<']).next().unwrap_or_default();
                names.push(name.to_owned());
            }
            marked = false;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            marked = false;
        }
    }
    names
}

/// libiscsi's own list: `FAMILY.SUITE.TEST`.
fn libiscsi() -> Vec<String> {
    let listed = tool("iscsi-test-cu", &["-l"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let is_test = |line: &&str| {
        line.matches('.').count() == 2 && (line.starts_with("SCSI.") || line.starts_with("iSCSI."))
    };
    let tests: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(is_test)
        .map(Into::into)
        .collect();
    assert!(
        tests.len() > 200,
        "iscsi-test-cu -l lists only {} tests",
        tests.len()
    );
    tests
}

/// Tests of libiscsi that do not pass, with their verdict.
fn expected() -> BTreeMap<String, String> {
    let text = read("tests/libiscsi.expect");
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let pair = |line: &str| {
        let mut words = line.split_whitespace();
        let (verdict, name) = (words.next().unwrap(), words.next().unwrap());
        (name.to_owned(), verdict.to_owned())
    };
    lines.map(pair).collect()
}

fn report(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "\n{} faults in the ledger:\n{}\n",
        faults.len(),
        faults.join("\n")
    );
}

// --- rows ---

/// What rows are checked against.
struct Known {
    tests: BTreeSet<String>,
    libiscsi: Vec<String>,
    expected: BTreeMap<String, String>,
}

fn faults_of(row: &Row, room: &str, known: &Known) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |why: String| faults.push(format!("{}: {why}", row.place));
    let [clause, what, file, test] = row.cells.as_slice() else {
        fault(format!(
            "{} cells where 4 are due; write a bar as \\|",
            row.cells.len()
        ));
        return faults;
    };
    let standard = clause.split_whitespace().next().unwrap_or_default();
    if !STANDARDS.contains(&standard) || clause.len() <= standard.len() {
        fault(format!(
            "`{clause}` is no clause: one of {STANDARDS:?}, then its number or name"
        ));
    }
    if what.is_empty() {
        fault("nothing is said in `what`".into());
    }
    if quoted(file).is_empty() {
        fault("no file in backticks".into());
    }
    for name in quoted(file) {
        let path = if name.starts_with("src/") {
            name.to_owned()
        } else {
            format!("{room}/{name}")
        };
        if !top().join(&path).exists() {
            fault(format!("there is no file {path}"));
        }
    }
    if quoted(test).is_empty() {
        fault("no test in backticks".into());
    }
    for name in quoted(test) {
        let foreign = name.starts_with("SCSI.") || name.starts_with("iSCSI.");
        if foreign {
            foreign_faults(row, name, known)
                .into_iter()
                .for_each(&mut fault);
        } else if !known.tests.contains(name) {
            fault(format!(
                "there is no test `{name}` (#[test] fn {name}) in src, tests or tools/lab"
            ));
        }
    }
    faults
}

/// A test of libiscsi must be in its list, and pass, or the row says that it does not.
fn foreign_faults(row: &Row, name: &str, known: &Known) -> Vec<String> {
    let all = name.strip_suffix('*');
    let meant: Vec<&String> = known
        .libiscsi
        .iter()
        .filter(|test| all.map_or(*test == name, |prefix| test.starts_with(prefix)))
        .collect();
    if meant.is_empty() {
        return vec![format!("`iscsi-test-cu -l` lists no test `{name}`")];
    }
    let said = row.cells.join(" ");
    let silent = |test: &&String| {
        let last = test.rsplit('.').next().unwrap_or_default();
        known.expected.contains_key(test.as_str()) && !said.contains(last) && !row.is_left_out()
    };
    let tell = |test: &String| {
        let verdict = &known.expected[test];
        format!(
            "{test} is `{verdict}` in tests/libiscsi.expect: name it in the row and say why, or drop it"
        )
    };
    meant.into_iter().filter(silent).map(tell).collect()
}

#[test]
fn every_row_names_a_clause_files_and_tests_that_exist() {
    let known = Known {
        tests: tests_of_the_tree(),
        libiscsi: libiscsi(),
        expected: expected(),
    };
    let mut faults = Vec::new();
    for document in documents() {
        let rows = rows(&document, &HEADER);
        assert!(
            rows.len() > 60,
            "{}: only {} rows",
            document.path,
            rows.len()
        );
        for row in &rows {
            faults.extend(faults_of(row, document.room, &known));
        }
    }
    report(&faults);
}

#[test]
fn a_faulty_row_is_found_out() {
    let known = Known {
        tests: BTreeSet::from(["a_test".to_owned()]),
        libiscsi: vec!["SCSI.Read10.Simple".into(), "SCSI.Read10.Zero".into()],
        expected: BTreeMap::from([("SCSI.Read10.Zero".to_owned(), "skip".to_owned())]),
    };
    let count = |line: &str| {
        let row = Row {
            place: "x:1".into(),
            section: "Commands".into(),
            cells: cells(line).unwrap(),
        };
        faults_of(&row, "src/scsi", &known).len()
    };
    assert_eq!(
        count("| SBC-3 5.11 | READ | `block.rs`, `src/lib.rs` | `a_test`, `SCSI.Read10.Simple` |"),
        0
    );
    assert_eq!(
        count("| SBC-3 5.11 | but Zero is skipped | `block.rs` | `SCSI.Read10.*` |"),
        0
    );
    for wrong in [
        "| SBC-3 | READ | `block.rs` | `a_test` |",
        "| SBC-9 5.11 | READ | `block.rs` | `a_test` |",
        "| SBC-3 5.11 |  | `block.rs` | `a_test` |",
        "| SBC-3 5.11 | READ | block.rs | `a_test` |",
        "| SBC-3 5.11 | READ | `blocks.rs` | `a_test` |",
        "| SBC-3 5.11 | READ | `block.rs` | |",
        "| SBC-3 5.11 | READ | `block.rs` | `a_tes` |",
        "| SBC-3 5.11 | READ | `block.rs` | `SCSI.Read11.*` |",
        "| SBC-3 5.11 | READ | `block.rs` | `SCSI.Read10.*` |",
        "| SBC-3 5.11 | READ | `block.rs` |",
    ] {
        assert_eq!(count(wrong), 1, "{wrong}");
    }
}

// --- codes ---

/// Faults of a section of codes: all that the program has, and nothing else unless it is said to be left out.
fn compare(document: &Document, section: &str, have: &BTreeMap<String, String>) -> Vec<String> {
    let place = format!("{}, section `{section}`", document.path);
    assert!(
        !have.is_empty(),
        "{place}: nothing was found in the program"
    );
    let rows = rows(document, &HEADER);
    let rows: Vec<&Row> = rows.iter().filter(|row| row.section == section).collect();
    let mut faults = Vec::new();
    for row in &rows {
        match row.code() {
            None => faults.push(format!("{}: no code in backticks", row.place)),
            Some(code) if row.is_left_out() && is_had(have, code) => {
                faults.push(format!(
                    "{}: `{code}` is said to be left out, and is there",
                    row.place
                ));
            }
            Some(code) if !have.contains_key(code) && !row.is_left_out() => {
                let why = "the program has no such code: drop the row, or say \"not implemented\"";
                faults.push(format!("{}: `{code}`: {why}", row.place));
            }
            Some(_) => {}
        }
    }
    for (code, name) in have {
        let count = rows.iter().filter(|row| row.code() == Some(code)).count();
        if count != 1 {
            faults.push(format!(
                "{place}: {count} rows for `{code}` ({name}); add `| clause | `{code}` {name}: ... | `file` | `test` |`"
            ));
        }
    }
    faults
}

/// The code itself, or one of its service actions.
fn is_had(have: &BTreeMap<String, String>, code: &str) -> bool {
    let is = |known: &String| {
        known == code
            || known
                .strip_prefix(code)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    have.keys().any(is)
}

fn unit() -> LogicalUnit {
    let mut unit = LogicalUnit::new(LuConfig {
        size_bytes: 1 << 20,
        serial: "0123456789abcdef".into(),
        naa: [0x60; 16],
        target_name: "iqn.2026-11.internal.reveille:n1".into(),
        write_back: true,
        // So that all that can be served is.
        traits: Traits {
            sanitize: true,
            ..Traits::default()
        },
        lun: 0,
        luns: vec![0],
    });
    unit.attach(
        NexusId(1),
        "iqn.2026-11.internal.reveille:n1.initiator,i,0x00023d000001",
    );
    unit
}

fn answer(cdb: &[u8]) -> Vec<u8> {
    match unit().begin(NexusId(1), cdb) {
        Step::Reply(reply) if reply.status == 0 => reply.data,
        other => panic!("{cdb:02x?}: {other:?}"),
    }
}

/// What REPORT SUPPORTED OPERATION CODES tells, which is the table that dispatches.
fn commands() -> BTreeMap<String, String> {
    let data = answer(&[0xA3, 0x0C, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0]);
    let one = |row: &[u8]| {
        let has_action = row[5] & 1 != 0;
        let code = if has_action {
            format!("{:02X}h/{:02X}h", row[0], row[3])
        } else {
            format!("{:02X}h", row[0])
        };
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (row[0], if has_action { row[3] } else { 0 });
        (code, command_name(&cdb).to_owned())
    };
    data[4..].chunks_exact(8).map(one).collect()
}

#[test]
fn every_command_has_its_row_and_no_row_invents_one() {
    let [_, scsi] = documents();
    let have = commands();
    let mut faults = compare(&scsi, "Commands", &have);
    for row in rows(&scsi, &HEADER)
        .iter()
        .filter(|row| row.section == "Commands")
    {
        let name = row.code().and_then(|code| have.get(code));
        if let Some(name) = name.filter(|name| !row.what().contains(name.as_str())) {
            faults.push(format!("{}: the program calls it {name}", row.place));
        }
    }
    report(&faults);
}

fn hex_codes(bytes: &[u8], what: &str) -> BTreeMap<String, String> {
    bytes
        .iter()
        .map(|code| (format!("{code:02X}h"), what.to_owned()))
        .collect()
}

#[test]
fn every_page_that_is_served_has_its_row() {
    let [_, scsi] = documents();
    let vital = answer(&[0x12, 1, 0, 0, 255, 0]);
    let mut faults = compare(
        &scsi,
        "Vital product data",
        &hex_codes(&vital[4..], "VPD page"),
    );
    let modes = answer(&[0x5A, 0x08, 0x3F, 0, 0, 0, 0, 0xFF, 0xFF, 0]);
    let (mut rest, mut codes) = (&modes[8..], Vec::new());
    while let [code, len, ..] = *rest {
        codes.push(code & 0x3F);
        rest = &rest[2 + usize::from(len)..];
    }
    faults.extend(compare(
        &scsi,
        "Mode pages",
        &hex_codes(&codes, "mode page"),
    ));
    let logs = answer(&[0x4D, 0, 0x40, 0, 0, 0, 0, 0, 255, 0]);
    faults.extend(compare(
        &scsi,
        "Log pages",
        &hex_codes(&logs[4..], "log page"),
    ));
    report(&faults);
}

/// `[pub] const NAME: u8 = VALUE;` of a stretch of source.
fn constants(text: &str) -> Vec<(String, u32)> {
    let one = |line: &str| {
        let (_, rest) = line.trim().split_once("const ")?;
        let (name, rest) = rest.split_once(':')?;
        let (_, value) = rest.split_once("= ")?;
        Some((name.to_owned(), value_of(value.trim_end_matches(';'))?))
    };
    text.lines().filter_map(one).collect()
}

fn value_of(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The source from the line that holds `from` to the first line after it that is `to`, less its indentation.
fn stretch(path: &str, from: &str, to: &str) -> String {
    let text = read(path);
    let lines = text.lines().skip_while(|line| !line.contains(from)).skip(1);
    let found: Vec<&str> = lines.take_while(|line| line.trim_end() != to).collect();
    assert!(
        !found.is_empty(),
        "{path}: no `{from}`; tests/ledger.rs must learn where it went"
    );
    found.join("\n")
}

fn module(path: &str, name: &str, width: usize) -> BTreeMap<String, String> {
    let found = constants(&stretch(path, &format!("mod {name} {{"), "}"));
    found
        .into_iter()
        .map(|(name, value)| (format!("{value:#0width$x}"), name))
        .collect()
}

#[test]
fn every_pdu_key_status_and_reason_has_its_row() {
    let [iscsi, _] = documents();
    let mut faults = compare(&iscsi, "PDUs", &module("src/iscsi/pdu/bhs.rs", "op", 4));
    let keys = params::TABLE
        .iter()
        .map(|row| (row.name.to_owned(), format!("{:?}", row.rule)));
    faults.extend(compare(&iscsi, "Keys", &keys.collect()));
    let statuses = module("src/iscsi/params.rs", "status", 6);
    faults.extend(compare(&iscsi, "Login status", &statuses));
    faults.extend(unlisted_statuses(&statuses));
    let reasons = module("src/iscsi/connection.rs", "reason", 4);
    faults.extend(compare(&iscsi, "Reject reasons", &reasons));
    report(&faults);
}

/// Login statuses that are written as numbers must be those of the list.
fn unlisted_statuses(known: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    for path in [
        "src/iscsi/login.rs",
        "src/iscsi/login_driver.rs",
        "src/iscsi/target.rs",
    ] {
        let text = read(path);
        for (at, _) in text.match_indices("0x0") {
            let word: String = text[at..]
                .chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect();
            let status = word.len() == 6 && matches!(word.as_bytes()[3], b'1'..=b'3');
            if status && !known.contains_key(&word) {
                faults.push(format!(
                    "{path}: login status {word} is not in src/iscsi/params.rs"
                ));
            }
        }
    }
    faults
}

#[test]
fn every_task_management_function_and_response_has_its_row() {
    let [iscsi, _] = documents();
    let path = "src/iscsi/connection/manage.rs";
    let arms = stretch(path, "fn manage(", "    }");
    let arms = arms
        .lines()
        .filter_map(|line| line.trim().split_once(" => "));
    let functions =
        arms.filter_map(|(number, _)| Some((value_of(number)?.to_string(), "function".to_owned())));
    let mut faults = compare(&iscsi, "Task management functions", &functions.collect());
    let responses = constants(&stretch(path, "/// Responses", "#[derive(Debug)]"));
    let responses = responses
        .into_iter()
        .map(|(name, value)| (value.to_string(), name));
    faults.extend(compare(
        &iscsi,
        "Task management responses",
        &responses.collect(),
    ));
    let source = read("src/iscsi/connection/leave.rs");
    let events = source
        .split("put_u8(36, ")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let events = events.map(|event| (event.to_owned(), "event".to_owned()));
    faults.extend(compare(&iscsi, "Asynchronous events", &events.collect()));
    report(&faults);
}

/// The arguments of every `call(` in a source, without its tests.
fn arguments(path: &str, call: &str) -> Vec<Vec<String>> {
    let text = read(path);
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let inside = text
        .split(call)
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    inside
        .map(|list| list.split(',').map(|word| word.trim().to_owned()).collect())
        .collect()
}

#[test]
fn every_sense_code_and_unit_attention_has_its_row() {
    let [_, scsi] = documents();
    let keys: BTreeMap<String, u32> = constants(&stretch("src/scsi/sense.rs", "mod key {", "}"))
        .into_iter()
        .collect();
    let mut senses = BTreeMap::new();
    for call in arguments("src/scsi/sense.rs", "Self::new(") {
        let [key, asc, ascq] = call.as_slice() else {
            continue;
        };
        let key = key.strip_prefix("key::").and_then(|key| keys.get(key));
        if let (Some(key), Some(asc), Some(ascq)) = (key, value_of(asc), value_of(ascq)) {
            senses.insert(
                format!("{key:02X}/{asc:02X}/{ascq:02X}"),
                "sense".to_owned(),
            );
        }
    }
    let mut faults = compare(&scsi, "Sense data", &senses);
    let mut attentions = BTreeMap::new();
    for call in arguments("src/scsi/nexus.rs", "Sense::attention(") {
        if let [Some(asc), Some(ascq)] =
            call.iter().map(|word| value_of(word)).collect::<Vec<_>>()[..]
        {
            attentions.insert(format!("{asc:02X}/{ascq:02X}"), "unit attention".to_owned());
        }
    }
    faults.extend(compare(&scsi, "Unit attentions", &attentions));
    report(&faults);
}

#[test]
fn a_code_without_a_row_and_a_row_without_a_code_are_found_out() {
    let table = "## Commands\n| clause | what | file | test |\n|---|---|---|---|\n\
                 | SBC-3 5.11 | `28h` READ(10) | `block.rs` | `t` |\n\
                 | SBC-3 5.24 | `48h/01h` SANITIZE: not implemented | `opcode.rs` | `t` |\n";
    let document = Document {
        path: "x",
        room: "src/scsi",
        text: table.to_owned(),
    };
    let have = |codes: &[&str]| {
        codes
            .iter()
            .map(|c| ((*c).to_owned(), "name".to_owned()))
            .collect()
    };
    let count = |codes: &[&str]| compare(&document, "Commands", &have(codes)).len();
    assert_eq!(count(&["28h"]), 0);
    assert_eq!(count(&["28h", "2Ah"]), 1, "no row");
    assert_eq!(count(&["2Ah"]), 2, "another row");
    assert_eq!(count(&["28h", "48h/01h"]), 1, "said to be left out");
}

// --- libiscsi ---

#[test]
fn the_table_of_libiscsi_agrees_with_its_list_and_our_expectations() {
    let [_, scsi] = documents();
    let mut suites: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let expected = expected();
    for test in libiscsi() {
        let suite = test.rsplit_once('.').unwrap().0.to_owned();
        let (all, pass) = suites.entry(suite).or_default();
        *all += 1;
        *pass += usize::from(!expected.contains_key(&test));
    }
    let rows = rows(&scsi, &["suite", "tests", "pass", "why not all"]);
    let mut faults = Vec::new();
    for row in &rows {
        let suite = quoted(&row.cells[0]).first().copied().unwrap_or_default();
        let Some((all, pass)) = suites.remove(suite) else {
            faults.push(format!(
                "{}: `{suite}` is no suite of iscsi-test-cu, or stands twice",
                row.place
            ));
            continue;
        };
        if row.cells[1] != all.to_string() || row.cells[2] != pass.to_string() {
            faults.push(format!(
                "{}: {suite} has {all} tests, and {pass} pass by tests/libiscsi.expect",
                row.place
            ));
        }
        if (pass == all) != row.cells[3].is_empty() {
            faults.push(format!("{}: say why exactly when not all pass", row.place));
        }
    }
    let missing = suites.iter().map(|(suite, (all, pass))| {
        format!(
            "{}: no row for a suite; add `| `{suite}` | {all} | {pass} | |`",
            scsi.path
        )
    });
    faults.extend(missing);
    report(&faults);
}
