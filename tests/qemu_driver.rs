//! QEMU's own iSCSI driver (libiscsi inside) against a real head: CHAP, header digests, discard, zeros, deep
//! queues, and a head that goes away under it.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use common::{PATIENCE, TestHead, raw_disk, tool};

const TARGET: &str = "iqn.2026-11.internal.reveille:n1";

fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().port()
}

/// A head with node n1 on an image of 64 MiB, always at the same port.
fn head(auth: &str) -> TestHead {
    let port = free_port();
    let config = format!("[iscsi]\nlisten = [\"127.0.0.1:{port}\"]\nauth = \"{auth}\"\n");
    let mut head = TestHead::with_config(&config);
    raw_disk(&head.path("golden.raw"), 64);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    let add = [
        "node",
        "add",
        "n1",
        "--image",
        "golden",
        "--mac",
        "52:54:00:00:00:01",
    ];
    head.good(&[&add[..], &["--mode", "persistent"]].concat());
    head.serve();
    head
}

/// QEMU's options for the disk of n1 behind `portal`.
fn disk(portal: SocketAddr, more: &str) -> String {
    format!("driver=iscsi,transport=tcp,portal={portal},target={TARGET},lun=0{more}")
}

/// One command of `qemu-io`, which must go well.
fn io(disk: &str, command: &str) -> String {
    let output = try_io(&[], disk, command);
    let said = both(&output);
    assert!(
        output.status.success() && !said.contains("failed"),
        "{command}: {said}"
    );
    said
}

fn try_io(objects: &[&str], disk: &str, command: &str) -> Output {
    let options = objects.iter().flat_map(|object| ["--object", object]);
    let args: Vec<&str> = options
        .chain(["--image-opts", disk, "-c", command])
        .collect();
    tool("qemu-io", &args)
}

fn both(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A connection in between, which listens to what is said and can flip a bit of it.
struct Between {
    address: SocketAddr,
    /// What the target said, all connections one behind another.
    heard: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
}

impl Between {
    /// Flips a bit of the byte with this number of the first connection's requests.
    fn new(target: SocketAddr, flip: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = heard.clone();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        std::thread::spawn(move || {
            let mut flip = flip;
            for client in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Relaxed);
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                let (to, from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let flip = flip.take();
                std::thread::spawn(move || pass(from, to, flip, &Mutex::default()));
                let ear = ear.clone();
                std::thread::spawn(move || pass(server, client, None, &ear));
            }
        });
        Self {
            address,
            heard,
            connections,
        }
    }

    fn has_heard(&self, words: &str) -> bool {
        let heard = self.heard.lock().unwrap();
        heard.windows(words.len()).any(|w| w == words.as_bytes())
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, flip: Option<usize>, ear: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 65_536];
    let mut passed = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Some(at) = flip
            .and_then(|at| at.checked_sub(passed))
            .filter(|at| *at < count)
        {
            buffer[at] ^= 0x10;
        }
        passed += count;
        ear.lock().unwrap().extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn header_digests_are_agreed_on_and_every_byte_comes_through() {
    let head = head("none");
    let between = Between::new(head.portal.unwrap(), None);
    let with = disk(between.address, ",header-digest=crc32c");
    io(&with, "write -P 0x5a 1M 3M");
    io(&with, "read -P 0x5a 1M 3M");
    assert!(between.has_heard("HeaderDigest=CRC32C"));
    let copy = head.path("copy.raw").display().to_string();
    let convert = ["convert", "--image-opts", "-O", "raw", &with, &copy];
    let copied = tool("qemu-img", &convert);
    assert!(copied.status.success(), "{}", both(&copied));
    let mut wanted = std::fs::read(head.path("golden.raw")).unwrap();
    wanted[1 << 20..4 << 20].fill(0x5a);
    assert!(wanted == std::fs::read(copy).unwrap(), "the copy differs");
}

#[test]
fn a_bit_flipped_in_a_header_is_noticed_and_the_command_is_done_again() {
    let head = head("none");
    // Behind the login's 468 bytes lie 52 for each command, a header and its digest: 1,092 up to the read.
    for flip in (730..1_090).step_by(37) {
        let between = Between::new(head.portal.unwrap(), Some(flip));
        let with = disk(between.address, ",header-digest=crc32c");
        let said = io(&with, "read -P 0 64576k 64k");
        assert!(said.contains("read 65536/65536"), "{flip}: {said}");
        let connections = between.connections.load(Relaxed);
        assert!(connections > 1, "{flip}: nobody noticed");
    }
}

#[test]
fn only_the_nodes_own_name_and_secret_open_its_disk() {
    let head = head("chap");
    let said = head.good(&["node", "secret", "n1", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&said).unwrap();
    let secret = list[0]["secret"].as_str().unwrap();
    let name = ",initiator-name=iqn.2026-11.internal.reveille:initiator:n1";
    let portal = head.portal.unwrap();
    let open = |user: &str, password: &str| {
        let with = disk(portal, &format!("{name},user={user},password-secret=s0"));
        let object = format!("secret,id=s0,data={password}");
        let output = try_io(&[&object], &with, "read 0 64k");
        let said = both(&output);
        (
            output.status.success() && said.contains("read 65536/65536"),
            said,
        )
    };
    let (opened, said) = open("n1", secret);
    assert!(opened, "{said}");
    for (user, password) in [("n1", "not-the-secret-1"), ("n2", secret)] {
        let (opened, said) = open(user, password);
        assert!(!opened, "{user} got in");
        assert!(said.contains("Authentication"), "{said}");
    }
    let nobody = try_io(&[], &disk(portal, name), "read 0 64k");
    assert!(!nobody.status.success(), "no credentials were asked for");
}

/// Bytes that the disk says hold data, by GET LBA STATUS.
fn data_bytes(disk: &str) -> u64 {
    let output = tool("qemu-img", &["map", "--output=json", "--image-opts", disk]);
    assert!(output.status.success(), "{}", both(&output));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let data = list
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["data"] == true);
    data.map(|e| e["length"].as_u64().unwrap()).sum()
}

#[test]
fn discarded_ranges_read_as_zeros_and_are_told_as_holes() {
    let head = head("none");
    let with = disk(head.portal.unwrap(), ",discard=unmap");
    io(&with, "write -P 0x77 8M 2M");
    let before = data_bytes(&with);
    io(&with, "discard 8M 1M");
    io(&with, "read -P 0 8M 1M");
    io(&with, "read -P 0x77 9M 1M");
    assert_eq!(data_bytes(&with), before - (1 << 20));
    // Over the golden image's own data: it must not shine through.
    io(&with, "discard 0 8M");
    io(&with, "read -P 0 0 8M");
}

#[test]
fn written_zeros_become_holes_where_qemu_detects_them() {
    let head = head("none");
    let with = disk(head.portal.unwrap(), ",discard=unmap,detect-zeroes=unmap");
    io(&with, "write -P 0x77 8M 2M");
    let before = data_bytes(&with);
    io(&with, "write -P 0 8M 1M");
    io(&with, "write -z 9M 512k");
    io(&with, "read -P 0 8M 1536k");
    io(&with, "read -P 0x77 9728k 512k");
    assert!(data_bytes(&with) <= before - (1 << 20), "zeros take space");
}

#[test]
fn deep_queues_of_reads_writes_and_flushes_all_end() {
    let head = head("none");
    let with = disk(head.portal.unwrap(), "");
    let bench = |options: &[&str]| {
        let fixed = ["bench", "--image-opts", "-t", "none"];
        let args = [&fixed[..], options, &[&with]].concat();
        let output = tool("qemu-img", &args);
        assert!(output.status.success(), "{options:?}: {}", both(&output));
    };
    bench(&["-c", "5000", "-d", "64", "-s", "4096"]);
    bench(&["-c", "300", "-d", "16", "-s", "262144"]);
    bench(&[
        "-c",
        "2000",
        "-d",
        "32",
        "-s",
        "4096",
        "-w",
        "--pattern=66",
        "--flush-interval=64",
    ]);
    io(&with, "read -P 66 0 8000k");
}

/// `qemu-io` that stays: one session over many commands.
struct Session {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Session {
    fn open(disk: &str) -> Self {
        let mut command = Command::new("qemu-io");
        command.args(["--image-opts", disk]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .all(|line| sender.send(line).is_ok());
        });
        Self {
            child,
            stdin,
            lines,
        }
    }

    fn say(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
        self.stdin.flush().unwrap();
    }

    /// Waits for the command's answer.
    fn hear(&self, wanted: &str) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap();
            assert!(!line.contains("failed"), "{line}");
            if line.contains(wanted) {
                return;
            }
        }
    }

    fn end(mut self) {
        self.say("quit");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_open_disk_goes_on_when_the_head_was_killed_and_came_back() {
    let mut head = head("none");
    let mut session = Session::open(&disk(head.portal.unwrap(), ""));
    for round in 1..=3_u8 {
        session.say(&format!("write -P {round} {round}M 64k"));
        session.hear("wrote 65536/65536");
        head.kill();
        // Asked while nobody is there: the answer comes when the head is back.
        session.say(&format!("read -P {round} {round}M 64k"));
        head.serve();
        session.hear("read 65536/65536");
    }
    for round in 1..=3_u8 {
        session.say(&format!("read -P {round} {round}M 64k"));
        session.hear("read 65536/65536");
    }
    session.end();
}
