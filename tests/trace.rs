//! Traces recorded from a real head: our own initiator is the node, the command line records it.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use common::{PATIENCE, TestHead};
use reveille::iscsi::initiator::Initiator;
use reveille::iscsi::initiator::engine::{self, Done, Transfer};
use reveille::iscsi::initiator::offer::Offer;
use reveille::trace::{OpKind, Trace};
use tokio::time::timeout;

const PREFIX: &str = "iqn.2026-11.internal.reveille";
const DISK: u64 = 64 << 20;
const IPXE: [u8; 6] = [0x40, 0, 0x27, 0x23, 0, 1];
const LINUX: [u8; 6] = [0x00, 0x02, 0x3d, 0, 0, 1];

/// A head with nodes `n1` and `n2`.
fn head() -> TestHead {
    let mut head = TestHead::new();
    let raw = head.path("golden.raw");
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(DISK).unwrap();
    let raw = raw.display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    let add = ["node", "add", "n[1-2]", "--image", "golden"];
    head.good(&[&add[..], &["--mode", "persistent"]].concat());
    head.serve();
    head
}

/// `reveille swarm record`, and what it says on stderr, line by line.
struct Recording {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Recording {
    fn begin(head: &TestHead, args: &[&str]) -> Self {
        let mut child = head
            .command()
            .args(["swarm", "record"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, said }
    }

    /// The next line that it says.
    fn says(&self) -> String {
        self.said.recv_timeout(PATIENCE).unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end: its exit code, stdout, and what else it said.
    fn end(mut self) -> (Option<i32>, String, String) {
        let mut out = String::new();
        let stdout = self.child.stdout.take().unwrap();
        BufReader::new(stdout).read_to_string(&mut out).unwrap();
        let code = self.child.wait().unwrap().code();
        let said: Vec<String> = self.said.iter().collect();
        (code, out, said.join("\n"))
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(self) -> (Option<i32>, String, String) {
        self.signal("-INT");
        self.end()
    }
}

struct Disk(Initiator);

impl Disk {
    async fn open(head: &TestHead, node: &str, isid: [u8; 6]) -> Self {
        let names = (
            format!("{PREFIX}:{node}.initiator"),
            format!("{PREFIX}:{node}"),
        );
        let offer = Offer {
            isid,
            ..Offer::new(&names.0, &names.1)
        };
        let portal = head.portal.unwrap();
        let login = timeout(PATIENCE, Initiator::connect(portal, offer)).await;
        Self(login.expect("the login hangs").unwrap())
    }

    async fn run(&mut self, cdb: &[u8], out: Option<&[u8]>, into: u32) -> Done {
        loop {
            let done = match out {
                Some(data) => {
                    let data = Transfer::Out(data.to_vec().into());
                    let command = engine::Command::new(0, cdb, data);
                    timeout(PATIENCE, self.0.execute(command)).await
                }
                None => timeout(PATIENCE, self.0.read(0, cdb, into)).await,
            };
            let done = done.expect("a command hangs").unwrap();
            let attention = done.sense.get(2).is_some_and(|key| key & 0xf == 6);
            if done.status == 2 && attention {
                continue;
            }
            return done;
        }
    }

    async fn good(&mut self, cdb: &[u8], out: Option<&[u8]>, into: u32) {
        let done = self.run(cdb, out, into).await;
        assert_eq!(done.status, 0, "{:02x?}", done.sense);
    }

    async fn read(&mut self, sector: u32, count: u8) {
        let [a, b, c, d] = sector.to_be_bytes();
        let cdb = [0x28, 0, a, b, c, d, 0, 0, count, 0];
        self.good(&cdb, None, u32::from(count) * 512).await;
    }

    async fn write(&mut self, sector: u32, count: u8, fua: bool) {
        let [a, b, c, d] = sector.to_be_bytes();
        let fua = if fua { 8 } else { 0 };
        let cdb = [0x2a, fua, a, b, c, d, 0, 0, count, 0];
        let data = vec![7; usize::from(count) * 512];
        self.good(&cdb, Some(&data), 0).await;
    }

    async fn flush(&mut self) {
        self.good(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], None, 0).await;
    }

    async fn unmap(&mut self, sector: u64, count: u32) {
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        list.extend_from_slice(&sector.to_be_bytes());
        list.extend_from_slice(&count.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
        let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        self.good(&cdb, Some(&list), 0).await;
    }

    async fn logout(self) {
        timeout(PATIENCE, self.0.logout()).await.unwrap().unwrap();
    }
}

fn trace(path: &Path) -> Trace {
    Trace::read(&std::fs::read(path).unwrap()).unwrap()
}

/// Asks again until the answer is yes.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what} never came");
        std::thread::yield_now();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn a_boot_is_recorded_as_it_happened() {
    let head = head();
    let path = head.path("boot.trace.gz");
    let file = path.display().to_string();
    let recording = Recording::begin(&head, &["n1", "-o", &file, "--note", "made by a test"]);
    assert!(recording.says().contains("from its next login"));
    let mut firmware = Disk::open(&head, "n1", IPXE).await;
    firmware.read(0, 1).await;
    firmware.read(2048, 16).await;
    firmware.logout().await;
    let mut system = Disk::open(&head, "n1", LINUX).await;
    let mut neighbour = Disk::open(&head, "n2", LINUX).await;
    neighbour.read(99, 9).await;
    system.read(4096, 128).await;
    system.write(64, 8, false).await;
    system.write(72, 8, true).await;
    system.flush().await;
    system.unmap(128, 16).await;
    // Refused: past the end. Not in the trace.
    let wrong = [0x28, 0, 0x7f, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(system.run(&wrong, None, 512).await.status, 2);
    system.read(64, 8).await;
    let (code, out, said) = recording.interrupt();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("it was ended before"), "{said}");
    assert!(out.contains("reads:   4"), "{out}");

    let trace = trace(&path);
    let facts: Vec<_> = trace
        .ops
        .iter()
        .map(|op| (op.session, op.kind, op.offset / 512, op.len / 512, op.fua))
        .collect();
    assert_eq!(
        facts,
        [
            (0, OpKind::Read, 0, 1, false),
            (0, OpKind::Read, 2048, 16, false),
            (1, OpKind::Read, 4096, 128, false),
            (1, OpKind::Write, 64, 8, false),
            (1, OpKind::Write, 72, 8, true),
            (1, OpKind::Flush, 0, 0, false),
            (1, OpKind::Unmap, 128, 16, false),
            (1, OpKind::Read, 64, 8, false),
        ]
    );
    let kinds: Vec<_> = trace.sessions.iter().map(|s| &*s.initiator).collect();
    assert_eq!(kinds, ["firmware", "os"]);
    assert_eq!(trace.disk_bytes, DISK);
    assert_eq!(trace.sessions[0].login_at_us, 0);
    let left = trace.sessions[0].logout_at_us.unwrap();
    assert!(trace.ops[1].end_us() <= left);
    assert_eq!(trace.sessions[1].logout_at_us, None);
    // One command at a time: each waited for all before it.
    for (number, wait) in trace.waits().iter().enumerate() {
        assert_eq!(wait.before as usize, number, "{:?}", trace.ops);
    }
    assert!(trace.about("image").unwrap().starts_with("golden:1 ("));
    assert_eq!(trace.about("note"), Some("made by a test"));
    assert!(trace.about("origin").unwrap().contains("node n1"));

    let json = head.good(&["swarm", "show", &file, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["reads"], &json["writes"]), (&4.into(), &2.into()));
    assert_eq!(json["read_bytes"], (1 + 16 + 128 + 8) * 512);
    assert_eq!(json["disk_bytes"], DISK);
    let table = head.good(&["swarm", "show", &file]);
    assert!(table.contains("session 1: os"), "{table}");
}

/// Commands that came in one piece did not wait for each other, however fast each was answered.
#[tokio::test]
async fn commands_that_came_together_wait_for_nothing_of_each_other() {
    let head = head();
    let path = head.path("boot.trace.gz");
    let file = path.display().to_string();
    let recording = Recording::begin(&head, &["n1", "-o", &file]);
    recording.says();
    let mut disk = Disk::open(&head, "n1", LINUX).await;
    disk.read(0, 1).await;
    for n in 0..8_u8 {
        let cdb = [0x28, 0, 0, 0, n, 0, 0, 0, 8, 0];
        let command = engine::Command::new(0, &cdb, Transfer::In(4096, None));
        disk.0.submit(command).unwrap();
    }
    for _ in 0..8 {
        timeout(PATIENCE, disk.0.complete()).await.unwrap().unwrap();
    }
    disk.read(0, 1).await;
    let (code, _, said) = recording.interrupt();
    assert_eq!(code, Some(0), "{said}");
    let trace = trace(&path);
    let befores: Vec<_> = trace.waits().iter().map(|wait| wait.before).collect();
    assert_eq!(befores, [0, 1, 1, 1, 1, 1, 1, 1, 1, 9]);
    assert_eq!(trace.summary().depth_max, 8);
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_at_once() {
    let head = head();
    let file = head.path("boot.trace.gz").display().to_string();
    let said = head.bad(&["swarm", "record", "n9", "-o", &file], 1);
    assert!(said.contains("no node is called `n9`"), "{said}");
    let none = head.path("none/boot.trace.gz").display().to_string();
    let said = head.bad(&["swarm", "record", "n1", "-o", &none], 2);
    assert!(said.contains("choose another place"), "{said}");
    let args = ["swarm", "record", "n1", "-o", &file, "--timeout", "0"];
    assert!(head.bad(&args, 2).contains("1 to"));
    let args = ["swarm", "record", "n1", "-o", &file, "--until", "soon"];
    assert!(head.bad_words(&args, 2).contains("wanted: ready"));

    let first = Recording::begin(&head, &["n1", "-o", &file]);
    first.says();
    let other = head.path("other.trace.gz").display().to_string();
    let said = head.bad(&["swarm", "record", "n1", "-o", &other], 4);
    assert!(said.contains("is being recorded already"), "{said}");
    // Its neighbour has nothing to do with it.
    let second = Recording::begin(&head, &["n2", "-o", &other]);
    second.says();
    for recording in [first, second] {
        let (code, out, said) = recording.interrupt();
        assert_eq!((code, &*out), (Some(1), ""), "{said}");
        assert!(said.contains("has not logged in"), "{said}");
    }
    assert!(!Path::new(&file).exists() && !Path::new(&other).exists());

    std::fs::write(&file, "mine").unwrap();
    let said = head.bad(&["swarm", "record", "n1", "-o", &file], 4);
    assert!(said.contains("exists already"), "{said}");
    let forced = Recording::begin(&head, &["n1", "-o", &file, "--force"]);
    forced.says();
    Disk::open(&head, "n1", LINUX).await.read(0, 8).await;
    let (code, _, said) = forced.interrupt();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(trace(Path::new(&file)).ops.len(), 1);
}

#[test]
fn without_a_daemon_nothing_is_recorded() {
    let head = TestHead::new();
    let file = head.path("boot.trace.gz").display().to_string();
    let said = head.bad(&["swarm", "record", "n1", "-o", &file], 4);
    assert!(said.contains("no daemon runs"), "{said}");
}

#[test]
fn a_node_that_never_boots_ends_with_code_5_and_no_file() {
    let head = head();
    let path = head.path("boot.trace.gz");
    let file = path.display().to_string();
    let args = ["swarm", "record", "n1", "-o", &file, "--timeout", "1"];
    let output = head.cli(&args);
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output).contains("did not log in within 1 s"));
    let left = std::fs::read_dir(head.dir.path()).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    let partial = |name: &&std::ffi::OsString| name.to_string_lossy().contains("boot.trace");
    assert_eq!(left.iter().find(partial), None);
}

#[tokio::test]
async fn a_node_that_gets_stuck_ends_with_code_5_and_what_there_was() {
    let head = head();
    let path = head.path("boot.trace.gz");
    let file = path.display().to_string();
    let mut disk = Disk::open(&head, "n1", LINUX).await;
    let recording = Recording::begin(&head, &["n1", "-o", &file, "--timeout", "3"]);
    assert!(recording.says().contains("logged in already"));
    disk.read(8, 8).await;
    let (code, _, said) = recording.end();
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains("after the node's readiness: it did not come"),
        "{said}"
    );
    let trace = trace(&path);
    assert_eq!((trace.ops.len(), trace.sessions[0].login_at_us), (1, 0));
    let note = trace.about("note").unwrap();
    assert!(note.contains("before the recording began"), "{note}");
}

#[tokio::test]
async fn until_a_time_and_until_logout_end_by_themselves() {
    let head = head();
    let paths = [head.path("1.trace.gz"), head.path("2.trace.gz")];
    let files = paths.each_ref().map(|path| path.display().to_string());
    let time = Recording::begin(&head, &["n1", "-o", &files[0], "--until", "5s"]);
    let logout = Recording::begin(&head, &["n2", "-o", &files[1], "--until", "logout"]);
    time.says();
    logout.says();
    for node in ["n1", "n2"] {
        let mut disk = Disk::open(&head, node, LINUX).await;
        disk.read(0, 8).await;
        disk.logout().await;
    }
    for (recording, path) in [time, logout].into_iter().zip(&paths) {
        let (code, _, said) = recording.end();
        assert_eq!((code, &*said), (Some(0), ""));
        let trace = trace(path);
        assert_eq!(trace.ops.len(), 1);
        assert!(trace.sessions[0].logout_at_us.is_some());
    }
}

#[tokio::test]
async fn a_killed_command_and_a_stopped_head_leave_what_there_was() {
    let mut head = head();
    let paths = [head.path("1.trace.gz"), head.path("2.trace.gz")];
    let files = paths.each_ref().map(|path| path.display().to_string());
    for (file, path) in files.iter().zip(&paths) {
        let recording = Recording::begin(&head, &["n1", "-o", file]);
        recording.says();
        Disk::open(&head, "n1", LINUX).await.read(0, 8).await;
        if path == &paths[0] {
            recording.signal("-KILL");
            wait_for("the trace", || path.exists());
        } else {
            head.stop();
        }
        recording.end();
        assert_eq!(trace(path).ops.len(), 1);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_no_file() {
    let mut head = TestHead::new();
    let small = head.path("small");
    std::fs::create_dir(&small).unwrap();
    let shown = small.display();
    head.mounts = Some(format!("mount -t tmpfs -o size=4k none {shown}"));
    let raw = head.path("golden.raw");
    let file = std::fs::File::create(&raw).unwrap();
    file.set_len(DISK).unwrap();
    head.good(&[
        "image",
        "import",
        &raw.display().to_string(),
        "--name",
        "golden",
    ]);
    let add = ["node", "add", "n1", "--image", "golden"];
    head.good(&[&add[..], &["--mode", "persistent"]].concat());
    head.serve();
    let file = small.join("boot.trace.gz").display().to_string();
    let recording = Recording::begin(&head, &["n1", "-o", &file]);
    recording.says();
    let mut disk = Disk::open(&head, "n1", LINUX).await;
    // Of no pattern that a compressor could find.
    let mut state = 1_u32;
    for _ in 0..1500 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [first, second, count, _] = state.to_be_bytes();
        let sector = u32::from(u16::from_be_bytes([first, second]));
        disk.read(sector, 1 + count % 64).await;
    }
    let (code, out, said) = recording.interrupt();
    assert_eq!((code, &*out), (Some(1), ""), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert!(said.contains("make room"), "{said}");
    // The place is as empty as before: a small trace fits.
    let recording = Recording::begin(&head, &["n1", "-o", &file]);
    recording.says();
    disk.read(0, 1).await;
    let (code, _, said) = recording.interrupt();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_file_that_is_no_trace_is_refused_with_its_line() {
    let head = TestHead::new();
    let path = head.path("wrong");
    let file = path.display().to_string();
    let show = ["swarm", "show", &file];
    assert!(head.bad(&show, 1).contains("No such file"));
    std::fs::write(&path, "hello").unwrap();
    assert!(head.bad(&show, 1).contains("this is no trace"));
}

/// The trace that is handed out with the program: a whole boot, readable, with its origin told.
#[test]
fn the_trace_of_the_debian_boot_is_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/traces/debian-12-boot.trace.gz");
    let trace = trace(&path);
    let sum = trace.summary();
    assert_eq!((sum.reads, sum.writes, sum.flushes), (3676, 61, 12));
    let kinds: Vec<_> = sum.sessions.iter().map(|s| &*s.initiator).collect();
    assert_eq!(kinds, ["firmware", "firmware", "os", "os"]);
    assert!(trace.about("image").is_some() && trace.about("note").is_some());
    assert_eq!(trace.waits().len(), trace.ops.len());
}
