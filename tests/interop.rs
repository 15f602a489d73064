//! Foreign initiators against a real head: libiscsi's test suite and QEMU's own driver.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{TestHead, raw_disk, tool};

/// Nodes, and so tests, at a time.
const LANES: usize = 4;

fn head_with_node(mib: u64, mode: &str) -> TestHead {
    let mut head = TestHead::new();
    raw_disk(&head.path("golden.raw"), mib);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    head.good(&[
        "node",
        "add",
        "n1",
        "--image",
        "golden",
        "--mac",
        "52:54:00:00:00:01",
        "--mode",
        mode,
    ]);
    head.serve();
    head
}

#[test]
fn qemu_copies_a_disk_out_bit_exact() {
    let head = head_with_node(64, "ephemeral");
    let (raw, out) = (head.path("golden.raw"), head.path("out.raw"));
    let copied = tool(
        "qemu-img",
        &[
            "convert",
            "-O",
            "raw",
            "-f",
            "raw",
            &head.url("n1"),
            &out.display().to_string(),
        ],
    );
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    assert!(
        std::fs::read(raw).unwrap() == std::fs::read(out).unwrap(),
        "the copy differs"
    );
}

#[test]
fn qemu_writes_stay_with_their_node() {
    let mut head = head_with_node(64, "persistent");
    head.good(&[
        "node",
        "add",
        "n2",
        "--image",
        "golden",
        "--mac",
        "52:54:00:00:00:02",
    ]);
    let io = |node: &str, command: &str| {
        let url = head.url(node);
        let output = tool("qemu-io", &["-f", "raw", "-c", command, &url]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && !text.contains("failed"),
            "{command}: {text}"
        );
    };
    io("n1", "write -P 0x5a 1M 64k");
    io("n1", "read -P 0x5a 1M 64k");
    let before = std::fs::read(head.path("golden.raw")).unwrap();
    let other = head.path("n2.raw").display().to_string();
    let copy = tool(
        "qemu-img",
        &["convert", "-O", "raw", "-f", "raw", &head.url("n2"), &other],
    );
    assert!(copy.status.success());
    assert!(
        before == std::fs::read(other).unwrap(),
        "n2 sees what n1 wrote"
    );
    assert!(head.good(&["image", "verify", "golden"]).contains("good"));
    head.kill();
    head.serve();
    let url = head.url("n1");
    let again = tool("qemu-io", &["-f", "raw", "-c", "read -P 0x5a 1M 64k", &url]);
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(
        again.status.success() && !text.contains("failed"),
        "after kill -9: {text}"
    );
}

/// `tests/libiscsi.expect`: name to verdict. A test that is not listed there must pass.
fn expectations() -> BTreeMap<String, String> {
    let text = include_str!("libiscsi.expect");
    let lines = text
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let (verdict, name) = (
                words.next().expect("a verdict"),
                words.next().expect("a name"),
            );
            assert!(matches!(verdict, "skip" | "fail"), "{line}");
            assert!(
                words.next().is_some_and(|reason| reason.len() > 10),
                "no reason: {line}"
            );
            (name.to_owned(), verdict.to_owned())
        })
        .collect()
}

/// The suite's own list, `FAMILY.SUITE.TEST` of the two families.
fn listed_tests() -> Vec<String> {
    let listed = tool("iscsi-test-cu", &["-l"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let is_test = |l: &&str| {
        l.matches('.').count() == 2 && (l.starts_with("SCSI.") || l.starts_with("iSCSI."))
    };
    let tests: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(is_test)
        .map(Into::into)
        .collect();
    assert!(
        tests.len() > 200,
        "only {} tests listed:\n{text}",
        tests.len()
    );
    tests
}

/// One test of the suite by itself, so that a hang or a broken session cannot hide another result: its
/// verdict, and what the tool said.
fn run_one(url: &str, test: &str) -> (&'static str, String) {
    let mut command = Command::new("timeout");
    command.args([
        "--kill-after=5",
        "40",
        "iscsi-test-cu",
        "-d",
        "-S",
        "-n",
        "-t",
        test,
        url,
    ]);
    if multipath_node(test).is_some() {
        command.arg(url);
    }
    let output = command.output().expect("timeout runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if matches!(output.status.code(), Some(124 | 137)) {
        return ("hung", said);
    }
    // `asserts TOTAL RAN PASSED FAILED INACTIVE`: without this line the tool did not get to its end.
    let failed = said.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("asserts")).then(|| words.nth(3).map(str::to_owned))?
    });
    let verdict = match failed.as_deref() {
        Some("0") if output.status.success() && said.contains("[SKIPPED]") => "skip",
        Some("0") if output.status.success() => "pass",
        _ => "fail",
    };
    (verdict, said)
}

/// The node of a test with two paths. It must be a fresh one: CompareAndWrite counts on zeros in LBA 256,
/// which it does not write itself.
fn multipath_node(test: &str) -> Option<String> {
    let name = test.strip_prefix("SCSI.MultipathIO.")?;
    Some(format!("multipath-{}", name.to_lowercase()))
}

/// A head with nodes n1 to n4, so that tests run side by side and yet alone on their disk, and one for
/// each test with two paths.
fn head_with_lanes(tests: &[String]) -> TestHead {
    let mut head = TestHead::new();
    raw_disk(&head.path("golden.raw"), 64);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    let lanes = (1..=LANES).map(|lane| format!("n{lane}"));
    let nodes = lanes.chain(tests.iter().filter_map(|test| multipath_node(test)));
    for (at, name) in nodes.enumerate() {
        let mac = format!("52:54:00:00:00:{at:02x}");
        head.good(&["node", "add", &name, "--image", "golden", "--mac", &mac]);
    }
    head.serve();
    head
}

#[test]
fn libiscsi_suite_passes_as_the_list_says() {
    let (tests, expected) = (listed_tests(), expectations());
    let head = head_with_lanes(&tests);
    let mut faults: Vec<String> = expected
        .keys()
        .filter(|name| !tests.contains(name))
        .map(|name| format!("{name}: listed in libiscsi.expect, unknown to the tool"))
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for lane in 1..=LANES {
            let (head, next, results, tests) = (&head, &next, &results, &tests);
            scope.spawn(move || {
                while let Some(test) = tests.get(next.fetch_add(1, Relaxed)) {
                    let node = multipath_node(test).unwrap_or_else(|| format!("n{lane}"));
                    let (verdict, said) = run_one(&head.url(&node), test);
                    results.lock().unwrap().push((test, verdict, said));
                }
            });
        }
    });
    let mut counts = BTreeMap::new();
    for (test, verdict, said) in results.into_inner().unwrap() {
        *counts.entry(verdict).or_insert(0) += 1;
        let wanted = expected.get(test).map_or("pass", String::as_str);
        if verdict != wanted {
            faults.push(format!("{test}: {verdict}, expected {wanted}\n{said}"));
        }
    }
    println!("libiscsi: {counts:?} of {}", tests.len());
    assert!(faults.is_empty(), "{counts:?}\n{}", faults.join("\n"));
}
