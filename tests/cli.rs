//! The command line as an administrator meets it: what it prints, what it refuses, and that a refusal
//! changes nothing.

mod common;

use std::process::{Command, Stdio};

use common::{PATIENCE, TestHead, raw_disk, tool};

fn with_image() -> TestHead {
    let head = TestHead::new();
    raw_disk(&head.path("golden.raw"), 8);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    head
}

/// Everything a refusal must leave alone.
fn everything(head: &TestHead) -> String {
    ["image", "node", "layer"]
        .map(|noun| head.good(&[noun, "ls", "-o", "json"]))
        .join("\n")
}

#[test]
fn images_are_imported_listed_tagged_exported_and_removed() {
    let head = with_image();
    assert_eq!(head.good(&["image", "ls", "-o", "name"]), "golden:1\n");
    let shown = head.good(&["image", "show", "golden"]);
    assert!(
        shown.contains("golden:1") && shown.contains("8.0 MiB"),
        "{shown}"
    );
    head.good(&["image", "tag", "golden:1", "stable"]);
    let out = head.path("out.raw").display().to_string();
    head.good(&["image", "export", "golden:stable", &out]);
    let same = std::fs::read(head.path("golden.raw")).unwrap() == std::fs::read(&out).unwrap();
    assert!(same, "the export differs from what was imported");
    assert!(
        head.good(&["image", "verify", "golden"])
            .contains("is good")
    );
    head.good(&["image", "rm", "golden"]);
    assert_eq!(head.good(&["image", "ls", "-o", "name"]), "");
}

#[test]
fn a_qcow2_file_gives_the_same_image_as_its_raw_content() {
    let head = with_image();
    let (raw, qcow) = (head.path("golden.raw"), head.path("golden.qcow2"));
    let (raw, qcow) = (raw.display().to_string(), qcow.display().to_string());
    let made = tool("qemu-img", &["convert", "-c", "-O", "qcow2", &raw, &qcow]);
    assert!(made.status.success());
    let said = head.good(&["image", "import", &qcow, "--name", "golden"]);
    assert!(said.contains("this very content already"), "{said}");
}

#[test]
fn five_hundred_nodes_are_one_command_and_read_back_as_one_set() {
    let head = with_image();
    head.good(&[
        "node",
        "add",
        "node[001-500]",
        "--image",
        "golden",
        "--mac",
        "52:54:00:00:00:01",
    ]);
    assert_eq!(
        head.good(&["node", "ls", "-o", "nodeset"]),
        "node[001-500]\n"
    );
    let last = head.good(&["node", "show", "node500"]);
    assert!(last.contains("52:54:00:00:01:f4"), "{last}");
}

#[test]
fn macs_come_from_a_file() {
    let head = with_image();
    let macs = head.path("macs.txt");
    std::fs::write(&macs, "a1 52:54:00:00:00:0a\na2 52-54-00-00-00-0b\n").unwrap();
    let macs = macs.display().to_string();
    head.good(&[
        "node", "add", "a[1-2]", "--image", "golden", "--macs", &macs,
    ]);
    assert!(
        head.good(&["node", "show", "a2"])
            .contains("52:54:00:00:00:0b")
    );
}

#[test]
fn secrets_are_shown_only_when_asked_for() {
    let head = with_image();
    head.good(&["node", "add", "n1", "--image", "golden"]);
    let secrets = |node: &str| -> serde_json::Value {
        serde_json::from_str(&head.good(&["node", "secret", node, "-o", "json"])).unwrap()
    };
    let first = secrets("n1")[0].clone();
    let (node, ours) = (
        first["secret"].as_str().unwrap(),
        first["head_secret"].as_str().unwrap(),
    );
    assert_eq!((node.len(), ours.len()), (16, 16));
    assert_eq!(
        (&first["user"], &first["head_user"]),
        (&"n1".into(), &"reveille".into())
    );
    for args in [
        &["node", "show", "n1", "-o", "json"][..],
        &["node", "show", "n1"],
        &["node", "ls", "-o", "json"],
        &["events", "--help"],
    ] {
        let text = head.good(args);
        assert!(!text.contains(node) && !text.contains(ours), "{args:?}");
    }
    head.good(&["node", "set", "n1", "--new-secret"]);
    let second = secrets("n1")[0].clone();
    assert_ne!(first["secret"], second["secret"]);
    assert_ne!(first["head_secret"], second["head_secret"]);
    head.bad(&["node", "secret", "n2"], 1);
}

#[test]
fn bad_input_is_refused_in_one_line_and_changes_nothing() {
    let head = with_image();
    head.good(&[
        "node",
        "add",
        "n[1-3]",
        "--image",
        "golden",
        "--mac",
        "52:54:00:00:00:01",
    ]);
    let before = everything(&head);
    let empty = head.path("empty.raw");
    std::fs::write(&empty, "").unwrap();
    let broken = head.path("broken.qcow2");
    std::fs::write(&broken, b"QFI\xfb\0\0\0\x03 and then nothing of the sort").unwrap();
    let (empty, broken) = (empty.display().to_string(), broken.display().to_string());
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["image", "import", "/no/such/file", "--name", "x"],
            1,
            "/no/such/file",
        ),
        (&["image", "import", &empty, "--name", "x"], 1, "empty"),
        (
            &["image", "import", &broken, "--name", "x"],
            1,
            "broken.qcow2",
        ),
        (&["image", "show", "nothere"], 1, "nothere"),
        (&["image", "rm", "golden"], 4, "n[1-3]"),
        (&["node", "add", "n2", "--image", "golden"], 4, "n2"),
        (&["node", "add", "m1", "--image", "nothere"], 1, "nothere"),
        (
            &[
                "node",
                "add",
                "m1",
                "--image",
                "golden",
                "--mac",
                "52:54:00:00:00:02",
            ],
            4,
            "52:54:00:00:00:02",
        ),
        (&["node", "add", "m[1-", "--image", "golden"], 2, "m[1-"),
        (
            &["node", "add", "m[1-999999999]", "--image", "golden"],
            2,
            "m[1-999999999]",
        ),
        (&["node", "add", "M1", "--image", "golden"], 2, "M1"),
        (
            &["node", "add", "m1", "--power", "ipmitool {host}"],
            2,
            "{host}",
        ),
        (&["node", "ls", "nobody"], 1, "nobody"),
        (&["node", "set", "n[1-9]", "--boot", "local"], 1, "n[4-9]"),
        (&["layer", "reset", "nobody"], 1, "nobody"),
        (&["boot", "n1"], 4, "reveille serve"),
    ];
    for (args, code, named) in cases {
        let said = head.bad(args, *code);
        assert!(
            said.contains(named),
            "{args:?} does not name {named}: {said}"
        );
    }
    assert_eq!(everything(&head), before);
}

#[test]
fn wrong_arguments_and_configurations_are_usage_errors() {
    let head = TestHead::with_config("[iscsi]\nlisten = [\"127.0.0.1:0\"]\nlissten = 3\n");
    let said = head.bad(&["node", "ls"], 2);
    assert!(
        said.contains("line 5") && said.contains("did you mean `listen`"),
        "{said}"
    );
    assert_eq!(head.cli(&["node", "frobnicate"]).status.code(), Some(2));
    assert_eq!(head.cli(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_state_directory_of_a_newer_version_is_refused_untouched() {
    let head = with_image();
    let version = head.path("state/version");
    let kept = std::fs::read_to_string(&version).unwrap();
    std::fs::write(&version, "9999\n").unwrap();
    let said = head.bad(&["node", "ls"], 4);
    assert!(said.contains("9999") && said.contains("newer"), "{said}");
    std::fs::write(&version, kept).unwrap();
    assert_eq!(head.good(&["image", "ls", "-o", "name"]), "golden:1\n");
}

#[test]
fn a_port_in_use_is_named_and_the_head_does_not_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let head = TestHead::with_config(&format!("[iscsi]\nlisten = [\"{address}\"]\n"));
    let output = head.cli(&["serve"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn commands_reach_the_daemon_and_a_second_daemon_is_refused() {
    let mut head = with_image();
    head.serve();
    head.good(&["node", "add", "n1", "--image", "golden"]);
    assert_eq!(head.good(&["node", "ls", "-o", "name"]), "n1\n");
    assert!(head.good(&["status"]).contains("off"));
    let pid = head.pid().to_string();
    let said = head.cli(&["serve"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains(&pid), "who holds it is not named: {said}");
    head.stop();
    assert_eq!(head.good(&["node", "ls", "-o", "name"]), "n1\n");
}

#[test]
fn a_killed_import_leaves_nothing_registered() {
    let head = TestHead::new();
    raw_disk(&head.path("big.raw"), 1024);
    let raw = head.path("big.raw");
    let mut child = Command::new(env!("CARGO_BIN_EXE_reveille"))
        .arg("--config")
        .arg(head.path("reveille.toml"))
        .args([
            "image",
            "import",
            &raw.display().to_string(),
            "--name",
            "big",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Killed as soon as chunks are on their way into a pack: in the middle of the work.
    let packs = head.path("state/store/images/packs");
    let began = std::time::Instant::now();
    let in_the_middle = || {
        let written = |dir: &std::path::Path| -> u64 {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .filter_map(|e| e.metadata().ok())
                .map(|m| m.len())
                .sum()
        };
        written(&packs) > 1 << 20
    };
    while !in_the_middle() {
        assert!(began.elapsed() < PATIENCE, "the import never wrote");
        assert!(
            child.try_wait().unwrap().is_none(),
            "the import was over too soon"
        );
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(head.good(&["image", "ls", "-o", "name"]), "");
    let raw = raw.display().to_string();
    head.good(&["image", "import", &raw, "--name", "big"]);
    assert!(head.good(&["image", "verify", "big"]).contains("is good"));
}
