//! Foreign initiators against a real head: libiscsi's test suite and QEMU's own driver.

mod common;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use common::{TestHead, raw_disk, tool};

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

/// Families and tests of libiscsi's suite, one per line: `pass`, `skip` or `fail`, the name, and for the
/// last two the reason. What is not listed must pass.
fn expectations() -> BTreeMap<String, String> {
    let text = include_str!("libiscsi.expect");
    let lines = text
        .lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let (verdict, rest) = line.split_once(' ').expect("verdict, name, reason");
            let name = rest.split_whitespace().next().expect("a name");
            (name.to_owned(), verdict.to_owned())
        })
        .collect()
}

/// One test of the suite by itself, so that a hang or a broken session cannot hide another result.
fn run_one(url: &str, test: &str) -> &'static str {
    let mut child = Command::new("timeout")
        .args([
            "--kill-after=5",
            "40",
            "iscsi-test-cu",
            "-d",
            "-n",
            "-t",
            test,
            url,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("iscsi-test-cu must be installed (tools/packages does it)");
    let output = {
        use std::io::Read;
        let mut text = String::new();
        let mut errors = String::new();
        let mut stderr = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || {
            let _ = stderr.read_to_string(&mut errors);
            errors
        });
        let _ = child.stdout.take().unwrap().read_to_string(&mut text);
        text + &reader.join().unwrap()
    };
    let status = child.wait().unwrap();
    if status.code() == Some(124) || status.code() == Some(137) {
        return "hung";
    }
    let asserts_failed = output.lines().any(|l| {
        let mut words = l.split_whitespace();
        words.next() == Some("asserts") && words.nth(2).is_some_and(|failed| failed != "0")
    });
    if !status.success() || asserts_failed {
        "fail"
    } else if output.contains("[SKIPPED]") {
        "skip"
    } else {
        "pass"
    }
}

#[test]
fn libiscsi_suite_passes_as_the_list_says() {
    let head = head_with_node(64, "ephemeral");
    let listed = tool("iscsi-test-cu", &["-l"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let wanted = ["SCSI.", "iSCSI."];
    let tests: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| l.matches('.').count() == 2 && wanted.iter().any(|w| l.starts_with(w)))
        .collect();
    assert!(
        tests.len() > 150,
        "only {} tests listed:\n{text}",
        tests.len()
    );
    let expected = expectations();
    let (mut counts, mut faults) = (BTreeMap::new(), Vec::new());
    for test in &tests {
        let verdict = run_one(&head.url("n1"), test);
        *counts.entry(verdict).or_insert(0) += 1;
        let wanted = expected.get(*test).map_or("pass", String::as_str);
        if verdict != wanted {
            faults.push(format!("{test}: {verdict}, expected {wanted}"));
        }
    }
    println!("libiscsi: {counts:?} of {}", tests.len());
    assert!(faults.is_empty(), "{counts:?}\n{}", faults.join("\n"));
}
