//! Layers made versions, versions rolled back and compared, with QEMU's initiator as the node.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use common::session::{FIRMWARE, OS, cdb10, log_in, read, run, write};
use common::{PATIENCE, TestHead, raw_disk, tool};
use reveille::iscsi::initiator::Initiator;

fn head(mib: u64) -> TestHead {
    let mut head = TestHead::new();
    raw_disk(&head.path("golden.raw"), mib);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    head.good(&["node", "add", "n[1-3]", "--image", "golden"]);
    head.serve();
    head
}

/// Runs commands of `qemu-io` as a node.
fn node(head: &TestHead, node: &str, commands: &[&str]) {
    let url = head.url(node);
    let mut args = vec!["-f", "raw"];
    for command in commands {
        args.extend(["-c", *command]);
    }
    args.push(&url);
    let output = tool("qemu-io", &args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && !text.contains("failed"),
        "{node} {commands:?}: {text}"
    );
}

/// A node that stays logged in.
struct Running(Child, BufReader<std::process::ChildStdout>);

impl Running {
    fn begin(head: &TestHead, node: &str) -> Self {
        let mut child = Command::new("qemu-io")
            .args(["-f", "raw", &head.url(node)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    fn does(&mut self, command: &str, says: &str) {
        let stdin = self.0.stdin.as_mut().unwrap();
        writeln!(stdin, "{command}").unwrap();
        let mut line = String::new();
        while !line.contains(says) {
            line.clear();
            assert!(
                self.1.read_line(&mut line).unwrap() > 0,
                "{command}: it ended"
            );
            assert!(!line.contains("failed"), "{command}: {line}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_one_node_wrote_is_the_next_boot_of_another_and_goes_back_in_one_command() {
    let head = head(64);
    node(
        &head,
        "n1",
        &[
            "write -P 0x5a 1M 128k",
            "write -P 0x5b 1M 4k",
            "discard 2M 1M",
        ],
    );
    let told = head.good(&["layer", "promote", "n1", "--name", "golden", "--dry-run"]);
    assert!(
        told.contains("would make golden:2 of node n1 over golden:1"),
        "{told}"
    );
    assert!(told.contains("next boot of n[1-3]: golden:2"), "{told}");
    let before = head.good(&["image", "ls", "-o", "name"]);
    assert_eq!(before, "golden:1\n");
    let said = head.good(&[
        "layer", "promote", "n1", "--name", "golden", "--note", "with 5a", "--tag", "good",
    ]);
    assert!(
        said.contains("golden:2") && said.contains("18 of 1024 chunks read, 2 new"),
        "{said}"
    );
    assert!(said.contains("thrown away at its next boot"), "{said}");
    // The node itself goes on over version 1 with its own layer.
    node(&head, "n1", &["read -P 0x5b 1M 4k", "write -P 0x66 1M 4k"]);
    assert!(head.good(&["layer", "show", "n1"]).contains("golden:1"));
    let reads = [
        "read -P 0x5b 1M 4k",
        "read -P 0x5a 1028k 124k",
        "read -P 0 2M 1M",
    ];
    node(&head, "n2", &reads);
    assert!(head.good(&["layer", "show", "n2"]).contains("golden:2"));
    assert!(
        head.good(&["image", "verify", "golden:2"])
            .contains("is good")
    );
    // Byte for byte what an import of the same disk gives.
    let out = head.path("promoted.raw").display().to_string();
    head.good(&["image", "export", "golden:good", &out]);
    let again = head.good(&["image", "import", &out, "--name", "golden"]);
    assert!(
        again.contains("golden:2 has this very content already"),
        "{again}"
    );

    let told = head.good(&["image", "rollback", "golden", "--dry-run"]);
    assert!(
        told.contains("golden would mean version 1 (it was 2)"),
        "{told}"
    );
    let said = head.good(&["image", "rollback", "golden"]);
    assert!(said.contains("next boot of n[1-3]: golden:1"), "{said}");
    let third = head.path("third.raw").display().to_string();
    let url = head.url("n3");
    let copy = tool(
        "qemu-img",
        &["convert", "-O", "raw", "-f", "raw", &url, &third],
    );
    assert!(copy.status.success());
    assert!(std::fs::read(third).unwrap() == std::fs::read(head.path("golden.raw")).unwrap());
    // Who runs from version 2 runs on.
    node(&head, "n2", &reads);
    head.good(&["image", "note", "golden:1", "the safe one"]);
    let shown = head.good(&["image", "ls"]);
    assert!(
        shown.contains("the safe one") && shown.contains("with 5a"),
        "{shown}"
    );
    let refused = head.bad(&["image", "rollback", "golden"], 4);
    assert!(refused.contains("earliest"), "{refused}");
}

#[test]
fn a_running_node_is_promoted_only_by_force_and_notices_nothing() {
    let head = head(64);
    let mut running = Running::begin(&head, "n1");
    running.does("write -P 0x11 0 1M", "wrote");
    let refused = head.bad(&["layer", "promote", "n1", "--name", "golden"], 4);
    assert!(
        refused.contains("n1") && refused.contains("--force"),
        "{refused}"
    );
    let said = head.good(&["layer", "promote", "n1", "--name", "golden", "--force"]);
    assert!(said.contains("power cut"), "{said}");
    running.does("write -P 0x22 0 1M", "wrote");
    running.does("read -P 0x22 0 1M", "read");
    node(&head, "n2", &["read -P 0x11 0 1M"]);
    let out = head.path("n1.raw").display().to_string();
    head.bad(&["layer", "export", "n1", &out], 4);
    head.good(&["layer", "export", "n1", &out, "--force"]);
    assert!(
        std::fs::read(&out).unwrap()[..1 << 20]
            .iter()
            .all(|b| *b == 0x22)
    );
}

#[test]
fn differences_are_told_in_chunks_and_as_json() {
    let head = head(16);
    node(&head, "n1", &["write -P 0x5a 1M 64k"]);
    let said = head.good(&["layer", "diff", "n1"]);
    assert!(
        said.contains("golden:1 -> node n1: 1 of 256 chunks differ"),
        "{said}"
    );
    head.good(&["layer", "promote", "n1", "--name", "golden"]);
    let said = head.good(&["image", "diff", "golden:1", "golden:2", "-o", "json"]);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(found["differing_chunks"], 1);
    assert_eq!(found["differing_bytes"], 65_536);
    assert!(found["parts"][0]["untold"].is_string(), "{said}");
    let same = head.good(&["image", "diff", "golden:2", "golden:2"]);
    assert!(same.contains("0 of 256 chunks differ"), "{same}");
}

fn pack_bytes(head: &TestHead) -> u64 {
    let packs = head.path("state/store/images/packs");
    let files = std::fs::read_dir(packs).unwrap();
    files.map(|f| f.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_promotion_cut_by_kill_9_leaves_nothing_and_is_repeated() {
    let mut head = head(256);
    let writes: Vec<String> = (0..48)
        .map(|n| format!("write -P {} {}M 4M", n + 1, n * 4))
        .collect();
    node(
        &head,
        "n1",
        &writes.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    // Over the life of a persistent layer the node would see it again; this one is gone with no boot.
    let before = pack_bytes(&head);
    let mut child = Command::new(env!("CARGO_BIN_EXE_reveille"))
        .args(["layer", "promote", "n1", "--name", "golden", "--state"])
        .arg(head.path("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while pack_bytes(&head) == before && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "nothing was written");
        std::thread::yield_now();
    }
    head.kill();
    let answered = child.wait().unwrap().success();
    head.serve();
    let versions = head.good(&["image", "ls", "-o", "name"]);
    let there = versions == "golden:1\ngolden:2\n";
    assert!(there || versions == "golden:1\n", "{versions}");
    assert!(there || !answered, "answered, but gone");
    assert!(
        head.good(&["image", "verify", "golden:1"])
            .contains("is good")
    );
    head.good(&["layer", "promote", "n1", "--name", "golden"]);
    assert!(
        head.good(&["image", "verify", "golden:2"])
            .contains("is good")
    );
    node(&head, "n2", &["read -P 1 0 4M", "read -P 48 188M 4M"]);
}

/// All 16 MiB of a disk.
async fn whole(session: &mut Initiator) -> Vec<u8> {
    let mut all = Vec::new();
    for lba in (0..32_768).step_by(512) {
        all.extend(read(session, lba, 512).await);
    }
    all
}

/// A boot as iPXE and the operating system after it make one.
async fn boot(head: &TestHead, node: &str) -> Initiator {
    let firmware = log_in(head, node, FIRMWARE).await;
    firmware.logout().await.unwrap();
    log_in(head, node, OS).await
}

fn layer(head: &TestHead, node: &str) -> (String, u64) {
    let text = head.good(&["layer", "show", node, "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    let image = shown["image"].as_str().unwrap().to_owned();
    (image, shown["data_bytes"].as_u64().unwrap())
}

#[tokio::test]
async fn a_promoted_persistent_layer_moves_at_the_next_login_and_shows_the_same_bytes() {
    let mut head = head(16);
    head.good(&["node", "set", "n[1-2]", "--mode", "persistent"]);
    let mut n1 = boot(&head, "n1").await;
    write(&mut n1, 2048, &[0x5a; 131_072]).await;
    write(&mut n1, 2049, &[0x5b; 512]).await;
    let zeros = [
        &[0, 22, 0, 16, 0, 0, 0, 0][..],
        &4096_u64.to_be_bytes(),
        &2048_u32.to_be_bytes(),
        &[0; 4],
    ];
    let unmapped = run(
        &mut n1,
        &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0],
        Some(&zeros.concat()),
        0,
    )
    .await;
    assert_eq!(unmapped.status, 0);
    let flushed = run(&mut n1, &cdb10(0x35, 0, 0, 0), None, 0).await;
    assert_eq!(flushed.status, 0);
    let shown = whole(&mut n1).await;
    head.good(&["layer", "promote", "n1", "--name", "golden", "--force"]);
    // Logged in it stays where it is.
    assert_eq!(layer(&head, "n1"), ("golden:1".to_owned(), 131_072));
    assert!(whole(&mut n1).await == shown);
    n1.logout().await.unwrap();

    let mut n1 = boot(&head, "n1").await;
    assert_eq!(
        layer(&head, "n1"),
        ("golden:2".to_owned(), 0),
        "moved, and empty"
    );
    assert!(whole(&mut n1).await == shown, "byte for byte");
    // What it writes now is its own again, over the new version; so it is after kill -9.
    write(&mut n1, 9000, &[0x66; 4096]).await;
    let flushed = run(&mut n1, &cdb10(0x35, 0, 0, 0), None, 0).await;
    assert_eq!(flushed.status, 0);
    head.kill();
    head.serve();
    let mut n1 = boot(&head, "n1").await;
    let mut wanted = shown.clone();
    wanted[9000 * 512..9008 * 512].fill(0x66);
    assert!(whole(&mut n1).await == wanted);
    assert_eq!(layer(&head, "n1").0, "golden:2");
    // Another node of that version sees what was promoted, and nothing later.
    let mut n2 = boot(&head, "n2").await;
    assert!(whole(&mut n2).await == shown);
    head.stop();
}
