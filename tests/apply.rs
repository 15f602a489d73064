//! The catalog as text, over a real head: with a daemon and without.
#![allow(clippy::unwrap_used, reason = "helpers of tests, as in tests")]

mod common;

use std::process::Stdio;

use common::{TestHead, raw_disk};

fn with_image(mib: u64) -> TestHead {
    let head = TestHead::new();
    raw_disk(&head.path("golden.raw"), mib);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    head
}

fn file(head: &TestHead, name: &str, text: &str) -> String {
    let path = head.path(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

const RACK: &str = "\
format: 1
profiles:
  compute:
    image: golden
    mode: persistent
nodes:
- nodes: n[1-3]
  profile: compute
  macs:
    n1: \"52:54:00:00:00:01\"
    n2: \"52:54:00:00:00:02\"
";

/// What an administrator does with texts; the same with a daemon and without.
fn a_life(head: &TestHead) {
    let rack = file(head, "rack.yaml", RACK);
    let plan = head.good(&["apply", "-f", &rack, "--dry-run"]);
    assert_eq!(
        plan,
        "+ profile compute image golden, mode persistent\n+ node n[1-3] profile compute\n"
    );
    assert_eq!(head.good(&["node", "ls", "-o", "nodeset"]), "\n");
    let unasked = head.cli(&["apply", "-f", &rack]);
    assert_eq!(unasked.status.code(), Some(2), "nobody could be asked");
    assert_eq!(head.good(&["apply", "-f", &rack, "-y"]), plan);
    assert_eq!(head.good(&["apply", "-f", &rack]), "nothing to do\n");
    let export = head.good(&["export"]);
    assert!(
        export.contains("- nodes: n[1-3]\n  profile: compute\n"),
        "{export}"
    );
    assert!(!export.contains("secret:"), "{export}");
    let exported = file(head, "export.yaml", &export);
    assert_eq!(
        head.good(&["apply", "-f", &exported, "--prune"]),
        "nothing to do\n"
    );
    let json = file(
        head,
        "export.json",
        &head.good(&["export", "-o", "json", "--secrets"]),
    );
    assert_eq!(
        head.good(&["apply", "-f", &json, "--prune"]),
        "nothing to do\n"
    );

    let wrong = file(
        head,
        "wrong.yaml",
        &RACK.replace("profile: comp", "profil: comp"),
    );
    let said = head.bad(&["apply", "-f", &wrong, "-y"], 2);
    assert!(
        said.contains("wrong.yaml:8: ") && said.contains("`profile`"),
        "{said}"
    );
    let missing = file(
        head,
        "missing.yaml",
        &RACK.replace("image: golden", "image: gone"),
    );
    let said = head.bad(&["apply", "-f", &missing, "-y"], 4);
    assert!(
        said.contains("missing.yaml:3: ") && said.contains("no image gone"),
        "{said}"
    );

    let said = head.bad(&["profile", "rm", "compute"], 4);
    assert!(said.contains("n[1-3]"), "{said}");
    head.good(&["node", "set", "n2", "--mode", "ephemeral"]);
    let shown = head.good(&["node", "show", "n2"]);
    assert!(
        shown.contains("golden (profile compute)") && shown.contains("ephemeral\n"),
        "{shown}"
    );
    assert!(shown.contains("auto (default)"), "{shown}");
    assert_eq!(
        head.good(&["apply", "-f", &rack, "-y"]),
        "~ node n2 mode ephemeral -> (none)\n"
    );
    head.good(&[
        "profile", "set", "compute", "--boot", "local", "--clear", "mode",
    ]);
    let shown = head.good(&["profile", "show", "compute"]);
    assert!(
        shown.contains("local") && !shown.contains("persistent"),
        "{shown}"
    );
    assert!(
        head.good(&["node", "show", "n1"])
            .contains("local (profile compute)")
    );
    let few = file(head, "few.yaml", "format: 1\nprofiles: {}\nnodes: []\n");
    assert_eq!(head.good(&["apply", "-f", &few]), "nothing to do\n");
    let gone = head.good(&["apply", "-f", &few, "--prune", "-y"]);
    assert_eq!(gone, "- profile compute\n- node n[1-3]\n");
    assert_eq!(head.good(&["layer", "ls", "-o", "name"]), "");
}

#[test]
fn texts_are_applied_without_a_daemon() {
    a_life(&with_image(4));
}

#[test]
fn texts_are_applied_with_a_daemon() {
    let mut head = with_image(4);
    head.serve();
    a_life(&head);
    head.stop();
}

#[test]
fn an_export_moves_a_head_to_another_place() {
    let mut one = with_image(4);
    let rack = file(&one, "rack.yaml", RACK);
    one.good(&["apply", "-f", &rack, "-y"]);
    one.good(&["image", "tag", "golden:1", "stable"]);
    one.good(&["drain", "n3"]);
    one.serve();
    let export = one.good(&["export", "--secrets"]);
    one.kill();
    // The catalog is durable at the acknowledgement: the killed head says the same.
    assert_eq!(one.good(&["export", "--secrets"]), export);

    let other = TestHead::new();
    let raw = one.path("golden.raw").display().to_string();
    let text = file(&other, "all.yaml", &export);
    let said = other.bad_words(&["apply", "-f", &text, "-y"], 4);
    assert!(said.contains("no image golden"), "{said}");
    other.good(&["image", "import", &raw, "--name", "golden"]);
    other.good(&["apply", "-f", &text, "-y"]);
    assert_eq!(other.good(&["export", "--secrets"]), export);
}

#[test]
fn a_text_comes_by_stdin_and_a_large_one_too() {
    let mut head = with_image(4);
    head.serve();
    let mut text =
        "format: 1\nnodes:\n- nodes: n[00001-20000]\n  image: golden\n  macs:\n".to_owned();
    for n in 1..=20_000_u32 {
        text += &format!(
            "    n{n:05}: \"52:54:00:{:02x}:{:02x}:{:02x}\"\n",
            n >> 16,
            n >> 8 & 255,
            n & 255
        );
    }
    // Spaces, so that it is larger than what servers of HTTP take by default.
    text += &" ".repeat(4 << 20);
    let mut child = head
        .command()
        .args(["apply", "-f", "-", "-y"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let plan = String::from_utf8(output.stdout).unwrap();
    assert_eq!(plan, "+ node n[00001-20000] image golden\n");
    head.kill();
    assert_eq!(
        head.good(&["node", "ls", "-o", "nodeset"]),
        "n[00001-20000]\n"
    );
}
