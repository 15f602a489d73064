//! Boot storms against a real head, and against tgt: every byte is looked at, and what is wrong is found.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

use common::{PATIENCE, TestHead, raw_disk};
use reveille::swarm::{Shape, synthetic};
use serde_json::Value;

const MIB: u64 = 48;

fn shape() -> Shape {
    Shape {
        disk_bytes: MIB << 20,
        firmware_reads: 30,
        os_reads: 120,
        read_bytes: 3_000_000,
        writes: 24,
        write_bytes: 600_000,
        flushes: 4,
        think_us: 1_000_000,
        seed: 9,
    }
}

/// A head with `nodes` ephemeral nodes, and the trace's file.
fn head_with(config: &str, nodes: u32, shape: &Shape) -> (TestHead, String) {
    let mut head = TestHead::with_config(config);
    raw_disk(&head.path("golden.raw"), MIB);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    let set = format!("n[1-{nodes}]");
    head.good(&["node", "add", &set, "--image", "golden"]);
    let trace = head.path("boot.trace.gz");
    std::fs::write(&trace, synthetic(shape).write()).unwrap();
    head.serve();
    let trace = trace.display().to_string();
    (head, trace)
}

fn head(nodes: u32) -> (TestHead, String) {
    let config = "[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\n";
    head_with(config, nodes, &shape())
}

fn json(head: &TestHead, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(head.path(name)).unwrap()).unwrap()
}

fn number(step: &Value, path: &str) -> u64 {
    step.pointer(path).and_then(Value::as_u64).unwrap()
}

/// A storm of `nodes` that runs, and the lines that it says meanwhile.
fn started(
    head: &TestHead,
    trace: &str,
    nodes: &str,
    json: &str,
) -> (Child, Lines<BufReader<ChildStderr>>) {
    let mut storm = head
        .command()
        .args([
            "swarm", "run", "--trace", trace, "--nodes", nodes, "--json", json,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(storm.stderr.take().unwrap()).lines();
    (storm, lines)
}

#[test]
fn twenty_nodes_boot_and_every_byte_is_looked_at() {
    let (head, trace) = head(20);
    let (json_file, svg) = (head.path("storm.json"), head.path("storm.svg"));
    let files = [json_file.display().to_string(), svg.display().to_string()];
    let args = ["swarm", "run", "--trace", &trace, "--no-think"];
    let more = ["--steps", "5,20", "--json", &files[0], "--plot", &files[1]];
    let text = head.good(&[&args[..], &more].concat());
    assert!(
        text.contains("os session") && text.contains("time per node"),
        "{text}"
    );
    let report = json(&head, "storm.json");
    let sum = synthetic(&shape()).summary();
    for (step, nodes) in report["steps"].as_array().unwrap().iter().zip([5, 20]) {
        assert_eq!(
            (number(step, "/nodes"), number(step, "/done")),
            (nodes, nodes)
        );
        for none in [
            "bad_sectors",
            "errors",
            "unverified_bytes",
            "reconnects",
            "skipped",
        ] {
            assert_eq!(
                number(step, &format!("/counts/{none}")),
                0,
                "{none}: {step:#}"
            );
        }
        let read = number(step, "/counts/read_bytes");
        assert_eq!(read, number(step, "/counts/verified_bytes"));
        assert!(
            read >= nodes * (sum.read_bytes + sum.write_bytes_distinct),
            "{read}"
        );
        assert_eq!(
            number(step, "/counts/written_bytes"),
            nodes * sum.write_bytes
        );
        assert_eq!(
            step["boots_ended_us"].as_array().unwrap().len() as u64,
            nodes
        );
        assert!(number(step, "/server/resident_peak_bytes") > 1 << 20);
        let stages = step["stages"].as_array().unwrap();
        let flush = stages.iter().find(|line| line["stage"] == "flush").unwrap();
        assert_eq!(number(flush, "/count"), nodes * sum.flushes);
    }
    let slope = report["slope_percent"].as_f64().unwrap();
    assert!(slope.is_finite());
    let drawing = std::fs::read_to_string(&svg).unwrap();
    assert!(drawing.starts_with("<?xml") && drawing.ends_with("</svg>\n"));
}

#[test]
fn think_times_waves_and_nodesets_are_kept() {
    let (head, trace) = head(6);
    let file = head.path("storm.json").display().to_string();
    let base = ["swarm", "run", "--trace", &trace, "--json", &file];
    head.good(
        &[
            &base[..],
            &["--nodes", "n[2-5]", "--wave", "2", "--speed", "2"],
        ]
        .concat(),
    );
    let report = json(&head, "storm.json");
    let step = &report["steps"][0];
    assert_eq!(number(step, "/done"), 4);
    let boots = step["slowest"].as_array().unwrap();
    let mut names: Vec<&str> = boots.iter().map(|n| n["node"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["n2", "n3", "n4", "n5"]);
    // Half of the think time of the trace, twice one after the other.
    let seconds = step["seconds"].as_f64().unwrap();
    assert!(seconds > 0.8, "{seconds}");
    for boot in boots {
        assert!(number(boot, "/boot_us") > 400_000);
    }
}

#[test]
fn a_head_that_demands_secrets_gets_them() {
    for auth in ["chap", "mutual"] {
        let config = format!("[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"{auth}\"\n");
        let (head, trace) = head_with(&config, 3, &shape());
        head.good(&[
            "swarm",
            "run",
            "--trace",
            &trace,
            "--no-think",
            "--nodes",
            "3",
        ]);
    }
}

#[test]
fn a_flipped_byte_of_the_image_is_found_and_ends_with_code_1() {
    let (head, trace) = head(3);
    let reads = synthetic(&shape());
    let first = reads.ops[0];
    let other = head.path("other.raw");
    std::fs::copy(head.path("golden.raw"), &other).unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&other)
        .unwrap();
    let mut byte = [0];
    let at = first.offset + 700;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    let other = other.display().to_string();
    let args = [
        "swarm",
        "run",
        "--trace",
        &trace,
        "--no-think",
        "--nodes",
        "3",
        "--image",
        &other,
    ];
    let said = head.bad_words(&args, 1);
    let sector = at / 512 * 512;
    let words = format!("read wrong bytes at {sector} (1 sectors): expected the golden image");
    assert!(said.contains(&words), "{said}");
    assert!(said.contains("of 3 nodes 3 had faults: n[1-3]"), "{said}");
    // The same storm against the right image is clean.
    let raw = head.path("golden.raw").display().to_string();
    head.good(&[&args[..8], &[raw.as_str()]].concat());
}

#[test]
fn nodes_go_on_when_the_head_is_killed_and_comes_back() {
    let port = {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap().port()
    };
    let config = format!("[iscsi]\nlisten = [\"127.0.0.1:{port}\"]\nauth = \"none\"\n");
    let long = Shape {
        think_us: 6_000_000,
        ..shape()
    };
    let (mut head, trace) = head_with(&config, 8, &long);
    let file = head.path("storm.json").display().to_string();
    let (mut storm, mut lines) = started(&head, &trace, "8", &file);
    // A line a second: after the third the nodes are in the middle of their boots.
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains("0 of 8 booted"), "{line}");
    }
    head.kill();
    head.serve();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let status = storm.wait().unwrap();
    assert!(status.success(), "{rest:#?}");
    let report = json(&head, "storm.json");
    let step = &report["steps"][0];
    assert_eq!(number(step, "/done"), 8);
    assert!(number(step, "/counts/reconnects") >= 8, "{step:#}");
    assert_eq!(number(step, "/counts/bad_sectors"), 0);
}

#[test]
fn a_read_only_storm_leaves_layers_empty() {
    let (head, trace) = head(2);
    let base = [
        "swarm",
        "run",
        "--trace",
        &trace,
        "--no-think",
        "--nodes",
        "2",
    ];
    let output = head.cli(&[&base[..], &["--read-only"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("56 commands"),
        "{said}"
    );
    let held = |head: &TestHead| -> u64 {
        let layers: Value =
            serde_json::from_str(&head.good(&["layer", "ls", "-o", "json"])).unwrap();
        let all = layers.as_array().unwrap().iter();
        all.map(|layer| number(layer, "/data_bytes")).sum()
    };
    assert_eq!(held(&head), 0);
    head.good(&base);
    assert!(held(&head) > 0);
}

#[test]
fn ctrl_c_ends_in_order_with_what_there_is() {
    let slow = Shape {
        think_us: 3_600_000_000,
        ..shape()
    };
    let config = "[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\n";
    let (head, trace) = head_with(config, 2, &slow);
    let file = head.path("storm.json").display().to_string();
    let (mut storm, mut lines) = started(&head, &trace, "2", &file);
    lines.next().unwrap().unwrap();
    let pid = storm.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(storm.wait().unwrap().code(), Some(3), "{rest:#?}");
    let report = json(&head, "storm.json");
    assert_eq!(report["steps"][0]["stopped"], Value::Bool(true));
    let why = report["steps"][0]["faulty"][0]["reason"].as_str().unwrap();
    assert!(why.starts_with("stopped while"), "{why}");
}

#[test]
fn what_cannot_be_is_refused_with_one_line() {
    let (mut head, trace) = head(2);
    let run = |more: &[&str], code: i32, words: &str| {
        let said = head.bad(
            &[&["swarm", "run", "--trace", &trace][..], more].concat(),
            code,
        );
        assert!(said.contains(words), "{more:?}: {said}");
    };
    run(&["--nodes", "3"], 4, "only 2 of this head");
    run(&["--nodes", "0"], 2, "at least 1");
    run(&["--nodes", "x9"], 1, "there is no node x9");
    run(&["--nodes", "n[1-2]", "--steps", "1,3"], 2, "wants 3 nodes");
    run(&["--nodes", "2", "--speed", "0"], 2, "--speed");
    run(&["--nodes", "99999"], 2, "at most 20000 nodes");
    let shared = [
        "--target",
        "127.0.0.1:9",
        "--target-name",
        "iqn.2026-11.test:all",
    ];
    run(
        &[&shared[..], &["--nodes", "2"]].concat(),
        2,
        "needs {node} or {n}",
    );
    run(&[&shared[..], &["--nodes", "1"]].concat(), 2, "--image");
    head.good(&["node", "set", "n2", "--mode", "persistent"]);
    run(&["--nodes", "n[1-2]"], 4, "n2 is persistent");
    run(&["--nodes", "2"], 4, "only 1 of this head");
    let far = Shape {
        disk_bytes: (MIB + 16) << 20,
        ..shape()
    };
    let beyond = head.path("beyond.trace.gz");
    std::fs::write(&beyond, synthetic(&far).write()).unwrap();
    let beyond = beyond.display().to_string();
    let said = head.bad(&["swarm", "run", "--trace", &beyond, "--nodes", "1"], 2);
    assert!(said.contains("take the trace of such a disk"), "{said}");
    let said = head.bad(
        &["swarm", "run", "--trace", "/nonexistent", "--nodes", "1"],
        1,
    );
    assert!(said.contains("/nonexistent"), "{said}");
    head.stop();
    let said = head.bad(&["swarm", "run", "--trace", &trace, "--nodes", "1"], 1);
    assert!(said.contains("reveille serve"), "{said}");
}

/// A head that serves boots on the loopback, its loader, and the arguments of a storm that boots from there.
fn booting_head(nodes: u32) -> (TestHead, Vec<u8>, Vec<String>) {
    let loaders = tempfile::tempdir().unwrap();
    let loader: Vec<u8> = (0..70_001u32).map(|n| n.to_le_bytes()[1]).collect();
    std::fs::write(loaders.path().join("undionly.kpxe"), &loader).unwrap();
    let config = format!(
        "[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"mutual\"\n[boot]\ninterfaces = [\"lo\"]\ndhcp = \"off\"\n\
         tftp = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\nloaders = \"{}\"\n",
        loaders.path().display()
    );
    let mut head = TestHead::with_config(&config);
    raw_disk(&head.path("golden.raw"), MIB);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    let set = format!("n[1-{nodes}]");
    let first = "52:54:00:77:00:01";
    head.good(&["node", "add", &set, "--image", "golden", "--mac", first]);
    let trace = head.path("boot.trace.gz");
    std::fs::write(&trace, synthetic(&shape()).write()).unwrap();
    head.serve();
    let (trace, json) = (trace.display().to_string(), head.path("storm.json"));
    let (tftp, http) = (head.service("tftp"), head.service("http"));
    let json = json.display().to_string();
    let args = [
        "swarm",
        "run",
        "--trace",
        &trace,
        "--no-think",
        "--json",
        &json,
    ];
    let more = ["--boot", "--tftp", &tftp, "--http", &http];
    let args = args.iter().chain(&more).map(ToString::to_string);
    (head, loader, args.collect())
}

fn stage_count(step: &Value, stage: &str) -> u64 {
    let stages = step["stages"].as_array().unwrap();
    let line = stages.iter().find(|line| line["stage"] == stage);
    line.map_or(0, |line| number(line, "/count"))
}

#[test]
fn nodes_boot_from_the_network_and_say_that_they_are_ready() {
    let (head, loader, args) = booting_head(40);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    head.good(&[&args[..], &["--nodes", "40"]].concat());
    let report = json(&head, "storm.json");
    let step = &report["steps"][0];
    assert_eq!(number(step, "/done"), 40, "{step:#}");
    for none in ["bad_sectors", "errors", "unverified_bytes", "reconnects"] {
        assert_eq!(number(step, &format!("/counts/{none}")), 0, "{none}");
    }
    let read = number(step, "/counts/read_bytes");
    assert_eq!(read, number(step, "/counts/verified_bytes"));
    assert!(read >= 40 * synthetic(&shape()).summary().read_bytes);
    assert_eq!(
        number(step, "/counts/loader_bytes"),
        40 * loader.len() as u64
    );
    for stage in ["loader", "script", "ready", "boot"] {
        assert_eq!(stage_count(step, stage), 40, "{stage}: {step:#}");
    }
    assert!(number(step, "/slowest/0/netboot_us") > 0);
    // The head saw the same boots: each script, each ready call.
    let status: Value = serde_json::from_str(&head.good(&["status", "-o", "json"])).unwrap();
    for node in status.as_array().unwrap() {
        let stages = node["stages"].as_array().unwrap();
        let seen = |name: &str| stages.iter().any(|entry| entry["stage"] == name);
        assert!(seen("script") && seen("ready"), "{node:#}");
    }
    assert_eq!(status.as_array().unwrap().len(), 40);
}

#[test]
fn a_machine_that_the_head_does_not_know_is_named_with_what_its_screen_says() {
    let (head, _, args) = booting_head(3);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let macs = head.path("macs");
    std::fs::write(&macs, "n2 52:54:00:99:00:02\n").unwrap();
    let macs = macs.display().to_string();
    let said = head.bad_words(&[&args[..], &["--nodes", "3", "--macs", &macs]].concat(), 3);
    let words = "node n2: SCRIPT: the head's script starts no disk: unknown machine 52:54:00:99:00:02 (bios) waits \
                 for approval";
    assert!(said.contains(words), "{said}");
    assert!(said.contains("of 3 nodes 1 had faults: n2"), "{said}");
    let report = json(&head, "storm.json");
    assert_eq!(number(&report["steps"][0], "/done"), 2);
    // A loader that the head has not got.
    let said = head.bad_words(
        &[&args[..], &["--nodes", "1", "--firmware", "uefi"]].concat(),
        3,
    );
    assert!(
        said.contains("node n1: TFTP: ") && said.contains("refused ipxe.efi: error 1"),
        "{said}"
    );
    // A node of which nobody knows what machine it is.
    head.good(&["node", "add", "x1", "--image", "golden"]);
    let said = head.bad(&[&args[..], &["--nodes", "x1"]].concat(), 4);
    assert!(said.contains("node x1 has no hardware address"), "{said}");
}

/// tgt with one file for each node, ended with this value.
struct Tgt {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Tgt {
    fn start(golden: &std::path::Path, nodes: u32) -> Self {
        let port = {
            let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            probe.local_addr().unwrap().port()
        };
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new("tgtd")
            .args([
                "-f",
                "-C",
                "7",
                "--iscsi",
                &format!("portal=127.0.0.1:{port}"),
            ])
            .env("TGT_IPC_SOCKET", dir.path().join("ipc"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("tgt must be installed (tools/packages does it): {e}"));
        let tgt = Self { child, dir, port };
        let began = Instant::now();
        while !tgt.admin("--op show --mode target") {
            assert!(began.elapsed() < PATIENCE, "tgtd does not answer");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        for n in 1..=nodes {
            let disk = tgt.disk(n);
            std::fs::copy(golden, &disk).unwrap();
            let disk = disk.display();
            let tid = format!("--tid {n}");
            assert!(tgt.admin(&format!(
                "--op new --mode target {tid} -T iqn.2026-11.test:{n}"
            )));
            assert!(tgt.admin(&format!(
                "--op new --mode logicalunit {tid} --lun 1 -b {disk}"
            )));
            assert!(tgt.admin(&format!("--op bind --mode target {tid} -I ALL")));
        }
        tgt
    }

    fn disk(&self, n: u32) -> PathBuf {
        self.dir.path().join(format!("disk{n}"))
    }

    fn admin(&self, line: &str) -> bool {
        let output = Command::new("tgtadm")
            .args(["-C", "7", "--lld", "iscsi"])
            .args(line.split(' '))
            .env("TGT_IPC_SOCKET", self.dir.path().join("ipc"))
            .output();
        output.unwrap().status.success()
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn another_target_is_rehearsed_the_same_way() {
    let head = TestHead::new();
    let golden = head.path("golden.raw");
    raw_disk(&golden, MIB);
    let trace = head.path("boot.trace.gz");
    std::fs::write(&trace, synthetic(&shape()).write()).unwrap();
    let tgt = Tgt::start(&golden, 4);
    let target = format!("127.0.0.1:{}", tgt.port);
    let (trace, image) = (trace.display().to_string(), golden.display().to_string());
    let (file, pid) = (
        head.path("storm.json").display().to_string(),
        tgt.child.id().to_string(),
    );
    let args = [
        "swarm",
        "run",
        "--trace",
        &trace,
        "--no-think",
        "--nodes",
        "4",
        "--target",
        &target,
        "--target-name",
        "iqn.2026-11.test:{n}",
        "--lun",
        "1",
        "--image",
        &image,
        "--json",
        &file,
        "--server-pid",
        &pid,
    ];
    head.good(&args);
    let report = json(&head, "storm.json");
    let step = &report["steps"][0];
    assert_eq!(
        (number(step, "/done"), number(step, "/counts/bad_sectors")),
        (4, 0)
    );
    assert_eq!(number(step, "/counts/unverified_bytes"), 0);
    assert!(number(step, "/server/cpu_us") > 0);
    // The disks are written now: another storm over them finds the writes of the first, and says so.
    let said = head.bad_words(&args, 1);
    assert!(
        said.contains("expected the golden image, found write"),
        "{said}"
    );
    assert!(said.contains("of another run"), "{said}");
}
