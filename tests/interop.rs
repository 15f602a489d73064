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

use common::{TestHead, raw_disk, session, tool};

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

/// LOG SENSE page 0Ch of a real session, decoded by sg3_utils.
#[tokio::test]
async fn sg_logs_reads_how_full_a_disk_is() {
    let head = head_with_node(64, "persistent");
    head.good(&["node", "set", "n1", "--layer-limit", "10M"]);
    let mut session = session::log_in(&head, "n1", session::OS).await;
    session::write(&mut session, 0, &[7; 65_536]).await;
    for (page, wanted) in [
        (0x40, vec!["0x0c", "provisioning"]),
        (0x4C, vec!["available", "9", "used", "1", "dedicated"]),
    ] {
        let cdb = [0x4D, 0, page, 0, 0, 0, 0, 0, 255, 0];
        let done = session::run(&mut session, &cdb, None, 255).await;
        assert_eq!(done.status, 0, "{:02x?}", done.sense);
        let path = head.path("page.bin");
        std::fs::write(&path, &done.data).unwrap();
        let path = path.display().to_string();
        let shown = tool("sg_logs", &["--raw", "--pdt=0", &format!("--in={path}")]);
        let shown = String::from_utf8_lossy(&shown.stdout).to_lowercase();
        for word in wanted {
            assert!(shown.contains(word), "no `{word}` in: {shown}");
        }
    }
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

/// Disk traits that a suite's tests ask for; all others run on a plain disk. UnmapSingle counts on blocks that it
/// can unmap one by one. UnmapUntilEnd of WRITE SAME(10) wants a count of zero refused, or else zeros where it
/// sent FFh with UNMAP=1, which a disk with LBPRZ=1 must write as they are.
const TRAITS: &[(&str, &str)] = &[
    ("SCSI.NoMedia.", "removable"),
    ("SCSI.PreventAllow.", "removable"),
    ("SCSI.StartStopUnit.", "removable"),
    ("SCSI.ReadOnly.", "read-only"),
    ("SCSI.GetLBAStatus.UnmapSingle", "512n"),
    ("SCSI.Sanitize.", "sanitize"),
    ("SCSI.WriteSame10.UnmapUntilEnd", "wsnz"),
];

/// This one wants a sanitize operation that is still at work after 5 seconds, and then sleeps a minute itself.
const RESET_IN_SANITIZE: &str = "SCSI.Sanitize.Reset";

fn trait_of(test: &str) -> &'static str {
    let suits = |(suite, _): &&(&str, &str)| test.starts_with(suite);
    TRAITS
        .iter()
        .find(suits)
        .map_or("default", |(_, word)| word)
}

/// The node on which a lane runs a test. Tests with two paths need a fresh one: CompareAndWrite counts on
/// zeros in LBA 256, which it does not write itself.
fn node_of(test: &str, lane: usize) -> String {
    if test == RESET_IN_SANITIZE {
        return "sanitize-reset".to_owned();
    }
    match test.strip_prefix("SCSI.MultipathIO.") {
        Some(name) => format!("multipath-{}", name.to_lowercase()),
        None => format!("{}-{lane}", trait_of(test)),
    }
}

/// This one asserts a flag of its own before anything can have set it; `libiscsi_flag.c` sets it.
const NEEDS_FLAG: &str = "iSCSI.iSCSITMF.LUNResetSimpleAsync";

/// `libiscsi_flag.c` as a library to preload.
fn flag_library() -> std::path::PathBuf {
    let library = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("libiscsi_flag.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libiscsi_flag.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .args([source, "-ldl"])
        .status();
    assert!(built.expect("a C compiler").success());
    library
}

/// One test of the suite by itself, so that a hang or a broken session cannot hide another result: its
/// verdict, and what the tool said.
fn run_one(url: &str, test: &str) -> (&'static str, String) {
    let limit = if test == RESET_IN_SANITIZE {
        "120"
    } else {
        "30"
    };
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", limit, "iscsi-test-cu", "-d", "-n"]);
    if trait_of(test) == "sanitize" {
        command.arg("-S");
    }
    if test == NEEDS_FLAG {
        command.env("LD_PRELOAD", flag_library());
    }
    command.args(["-t", test, url]);
    if test.starts_with("SCSI.MultipathIO.") {
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

/// A head with a node for each lane and disk trait, so that tests run side by side and yet alone on their disk.
fn head_with_lanes(tests: &[String]) -> TestHead {
    let mut head = TestHead::new();
    raw_disk(&head.path("golden.raw"), 64);
    let large = std::fs::File::create(head.path("large.raw")).unwrap();
    large.set_len(512 << 20).unwrap();
    for name in ["golden", "large"] {
        let raw = head.path(&format!("{name}.raw")).display().to_string();
        head.good(&["image", "import", &raw, "--name", name]);
    }
    let all = tests
        .iter()
        .flat_map(|test| (1..=LANES).map(move |lane| (node_of(test, lane), trait_of(test))));
    let nodes: BTreeMap<String, &str> = all.collect();
    for (at, (name, traits)) in nodes.iter().enumerate() {
        let image = if name == "sanitize-reset" {
            "large"
        } else {
            "golden"
        };
        let mac = format!("52:54:00:00:00:{at:02x}");
        head.good(&[
            "node", "add", name, "--image", image, "--mac", &mac, "--disk", traits,
        ]);
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
                    let (verdict, said) = run_one(&head.url(&node_of(test, lane)), test);
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
    let count = |verdict| counts.get(verdict).copied().unwrap_or(0);
    println!(
        "libiscsi: {} pass, {} fail, {} skip, {} hung",
        count("pass"),
        count("fail"),
        count("skip"),
        count("hung")
    );
    assert!(faults.is_empty(), "{counts:?}\n{}", faults.join("\n"));
}
