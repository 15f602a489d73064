//! Full layers and full file systems as nodes meet them: our own initiator against a real head, whose state directory
//! is a small file system of its own in the second half.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::TestHead;
use common::session::{OS, connect, run, sense};
use reveille::iscsi::initiator::Initiator;
use reveille::iscsi::initiator::engine::Done;
use serde_json::Value;

const GOOD: u8 = 0x00;
const CHECK: u8 = 0x02;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Bytes of one write.
const PIECE: u64 = 128 * KIB;
const DISK: u64 = 128 * MIB;

const NO_SPACE: [u8; 3] = [7, 0x27, 7];
const SOFT_THRESHOLD: [u8; 3] = [6, 0x38, 7];

/// A node's session, and the unit attentions that it heard.
struct Disk {
    session: Initiator,
    heard: Vec<[u8; 3]>,
}

impl Disk {
    async fn open(head: &TestHead, node: &str) -> Self {
        Self {
            session: connect(head, node, OS).await,
            heard: Vec::new(),
        }
    }

    /// Runs a command until it is answered with something else than a unit attention.
    async fn run(&mut self, cdb: &[u8], out: Option<&[u8]>, into: u32) -> Done {
        loop {
            let done = run(&mut self.session, cdb, out, into).await;
            if done.status == CHECK && sense(&done)[0] == 6 {
                self.heard.push(sense(&done));
                continue;
            }
            return done;
        }
    }

    async fn write(&mut self, at: u64, byte: u8) -> Result<(), [u8; 3]> {
        let blocks = u16::try_from(PIECE / 512).unwrap().to_be_bytes();
        let [a, b, c, d] = u32::try_from(at / 512).unwrap().to_be_bytes();
        let cdb = [0x2A, 0, a, b, c, d, 0, blocks[0], blocks[1], 0];
        let data = vec![byte; usize::try_from(PIECE).unwrap()];
        result(&self.run(&cdb, Some(&data), 0).await)
    }

    async fn read(&mut self, at: u64) -> Vec<u8> {
        let blocks = u16::try_from(PIECE / 512).unwrap().to_be_bytes();
        let [a, b, c, d] = u32::try_from(at / 512).unwrap().to_be_bytes();
        let cdb = [0x28, 0, a, b, c, d, 0, blocks[0], blocks[1], 0];
        let done = self.run(&cdb, None, u32::try_from(PIECE).unwrap()).await;
        assert_eq!(done.status, GOOD, "{:02x?}", done.sense);
        done.data
    }

    async fn flush(&mut self) -> Result<(), [u8; 3]> {
        result(&self.run(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], None, 0).await)
    }

    async fn unmap(&mut self, at: u64, len: u64) -> Result<(), [u8; 3]> {
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        list.extend_from_slice(&(at / 512).to_be_bytes());
        list.extend_from_slice(&u32::try_from(len / 512).unwrap().to_be_bytes());
        list.extend_from_slice(&[0; 4]);
        let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        result(&self.run(&cdb, Some(&list), 0).await)
    }

    /// WRITE SAME(16) with UNMAP, of zeros.
    async fn write_same_unmap(&mut self, at: u64, len: u64) -> Result<(), [u8; 3]> {
        let mut cdb = vec![0x93, 0x08];
        cdb.extend_from_slice(&(at / 512).to_be_bytes());
        cdb.extend_from_slice(&u32::try_from(len / 512).unwrap().to_be_bytes());
        cdb.extend_from_slice(&[0, 0]);
        result(&self.run(&cdb, Some(&[0; 512]), 0).await)
    }

    /// Writes piece after piece from `at` on until one is refused; how many were taken.
    async fn fill(&mut self, at: u64, byte: u8) -> u64 {
        for n in 0.. {
            let at = at + n * PIECE;
            assert!(at + PIECE <= DISK, "nothing stops this writer");
            if let Err(sense) = self.write(at, byte).await {
                assert_eq!(sense, NO_SPACE);
                return n;
            }
        }
        unreachable!()
    }

    /// LOG SENSE page 0Ch: threshold sets available and used, and whether the available ones are shared.
    async fn provisioned(&mut self) -> (u32, u32, bool) {
        let done = self.run(&[0x4D, 0, 0x4C, 0, 0, 0, 0, 0, 255, 0], None, 255);
        let page = done.await.data;
        let [
            0x8C,
            0,
            0,
            24,
            0,
            1,
            3,
            8,
            a,
            b,
            c,
            d,
            scope,
            _,
            _,
            _,
            0,
            2,
            3,
            8,
            e,
            f,
            g,
            h,
            1,
            ..,
        ] = page[..]
        else {
            panic!("{page:02x?}");
        };
        let count = |bytes: [u8; 4]| u32::from_be_bytes(bytes);
        (count([a, b, c, d]), count([e, f, g, h]), scope == 2)
    }

    async fn holds(&mut self, at: u64, pieces: u64, byte: u8) {
        for n in 0..pieces {
            let data = self.read(at + n * PIECE).await;
            assert!(
                data.iter().all(|b| *b == byte),
                "piece {n} of {pieces} is not {byte}"
            );
        }
    }
}

fn result(done: &Done) -> Result<(), [u8; 3]> {
    match done.status {
        GOOD => Ok(()),
        CHECK => Err(sense(done)),
        other => panic!("status {other:#04x}"),
    }
}

fn golden(head: &TestHead) -> String {
    let path = head.path("golden.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(DISK).unwrap();
    file.write_all_at(&[0xA5; 65_536], 64 * MIB).unwrap();
    path.display().to_string()
}

/// Nodes `a` and `b`, both persistent, so that their flushes count.
fn add_nodes(head: &TestHead) {
    let raw = golden(head);
    head.good(&["image", "import", &raw, "--name", "golden"]);
    head.good(&[
        "node",
        "add",
        "a,b",
        "--image",
        "golden",
        "--mode",
        "persistent",
    ]);
}

fn layer(head: &TestHead, node: &str) -> Value {
    let text = head.good(&["layer", "show", node, "-o", "json"]);
    serde_json::from_str(&text).unwrap()
}

fn figure(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[tokio::test]
async fn a_full_layer_is_refused_new_blocks_and_its_neighbour_notices_nothing() {
    let mut head = TestHead::new();
    add_nodes(&head);
    head.serve();
    let (mut a, mut b) = (Disk::open(&head, "a").await, Disk::open(&head, "b").await);
    a.write(0, 1).await.unwrap();
    // Set under the running node.
    head.good(&[
        "node",
        "set",
        "a",
        "--layer-limit",
        "4M",
        "--layer-warn",
        "2M",
    ]);
    assert_eq!(a.fill(0, 1).await, 32, "4 MiB in pieces of 128 KiB");
    assert_eq!(
        a.heard
            .iter()
            .filter(|sense| **sense == SOFT_THRESHOLD)
            .count(),
        1,
        "{:02x?}",
        a.heard
    );
    let page = a.run(&[0x1A, 8, 0x1C, 2, 255, 0], None, 255).await.data;
    assert_eq!(
        page[4 + 16..],
        [0x81, 2, 0, 0, 0, 0, 0, 2],
        "threshold of 2 MiB"
    );

    assert_eq!(a.provisioned().await, (0, 4, false));
    assert_eq!(
        b.provisioned().await.1,
        0,
        "what is the image's takes nothing"
    );

    let told = head.good(&["node", "show", "a"]);
    assert!(told.contains("FULL: 4.0 MiB of 4.0 MiB"), "{told}");
    let log = head.log();
    assert_eq!(log.matches("at its limit of 4.0 MiB").count(), 1, "{log}");
    assert_eq!(log.matches("holds more than 2.0 MiB").count(), 1, "{log}");
    let metrics = head.good(&["metrics"]);
    assert!(
        metrics.contains("\nreveille_layers_at_limit 1\n"),
        "{metrics}"
    );

    // Everything but new blocks goes on.
    a.write(0, 2).await.unwrap();
    a.flush().await.unwrap();
    a.holds(0, 1, 2).await;
    a.holds(PIECE, 31, 1).await;
    for n in 0..64 {
        b.write(n * PIECE, 7).await.unwrap();
    }
    b.flush().await.unwrap();
    assert!(b.heard.is_empty(), "{:02x?}", b.heard);

    // What is trimmed is given back, to the node and to the file system.
    let before = figure(&layer(&head, "a"), "allocated_bytes");
    a.unmap(0, MIB).await.unwrap();
    a.write_same_unmap(MIB, MIB).await.unwrap();
    let after = figure(&layer(&head, "a"), "allocated_bytes");
    assert!(
        before >= 4 * MIB && after <= before - 2 * MIB,
        "{before}, then {after}"
    );
    assert_eq!(a.provisioned().await, (2, 2, false));
    assert_eq!(a.fill(8 * MIB, 3).await, 16, "2 MiB");
    head.good(&["node", "set", "a", "--layer-limit", "5M"]);
    assert_eq!(a.fill(16 * MIB, 4).await, 8, "1 MiB more at once");
    a.flush().await.unwrap();

    // The limit is the node's, and outlives the head.
    drop((a, b));
    head.kill();
    head.serve();
    let mut a = Disk::open(&head, "a").await;
    a.holds(8 * MIB, 16, 3).await;
    assert_eq!(a.write(32 * MIB, 1).await, Err(NO_SPACE));
    head.good(&["node", "set", "a", "--layer-limit", "none"]);
    a.write(32 * MIB, 1).await.unwrap();
    head.stop();
}

/// A head whose state directory is a file system of this size.
fn small(size: &str) -> TestHead {
    let mut head = TestHead::new();
    let (state, socket) = (head.path("state"), head.path("api.sock"));
    std::fs::create_dir(&state).unwrap();
    let text = format!(
        "[server]\nstate = \"{}\"\n[api]\nsocket = \"{}\"\n[iscsi]\nlisten = [\"127.0.0.1:0\"]\n\
         auth = \"none\"\n[limits]\nreserve = \"12M\"\n",
        state.display(),
        socket.display()
    );
    std::fs::write(head.path("reveille.toml"), text).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size={size},mode=0700 none '{}'",
        state.display()
    );
    head.mounts = Some(mount);
    head.serve();
    add_nodes(&head);
    head
}

/// Catalog commands of every kind.
fn catalog_works(head: &TestHead, round: u32) {
    let nodes = format!("more{round}-[001-200]");
    head.good(&["node", "add", &nodes, "--image", "golden"]);
    head.good(&["node", "set", &nodes, "--mode", "persistent"]);
    head.good(&["node", "rm", &nodes]);
    head.good(&["image", "tag", "golden", &format!("tag{round}")]);
    assert!(head.good(&["node", "ls"]).contains("persistent"));
}

#[tokio::test]
async fn a_disk_down_to_its_reserve_hurts_the_one_who_needs_new_blocks_and_nobody_else() {
    let head = small("64m");
    let (mut a, mut b) = (Disk::open(&head, "a").await, Disk::open(&head, "b").await);
    for n in 0..16 {
        b.write(n * PIECE, 7).await.unwrap();
    }
    b.flush().await.unwrap();
    let taken = a.fill(0, 1).await;
    assert!(taken > 100, "only {taken} pieces fit into 64 MiB");
    let used = u32::try_from((taken * PIECE).div_ceil(MIB)).unwrap();
    assert_eq!(a.provisioned().await, (0, used, true));
    assert_eq!(b.provisioned().await, (0, 2, true), "shared by all");
    assert!(head.log().contains("down to its reserve"), "{}", head.log());

    // The reserve is there, and is used by all else.
    let metrics = head.good(&["metrics"]);
    let free = metrics
        .lines()
        .find_map(|line| line.strip_prefix("reveille_store_free_bytes "));
    let free: u64 = free.unwrap().parse().unwrap();
    assert!(free > 8 * MIB && free < 14 * MIB, "{free} bytes are free");
    a.write(0, 2).await.unwrap();
    a.flush().await.unwrap();
    for round in 0..20 {
        b.write(round % 16 * PIECE, 8).await.unwrap();
        b.flush().await.unwrap();
    }
    catalog_works(&head, 1);
    a.holds(PIECE, taken - 1, 1).await;

    // Space that is given back goes to whoever writes next.
    a.unmap(PIECE, 8 * MIB).await.unwrap();
    assert!(a.fill(80 * MIB, 3).await >= 32, "half of what came back");
    head.good(&["layer", "reset", "b", "--force"]);
    assert!(a.fill(100 * MIB, 4).await >= 4);
    a.holds(80 * MIB, 32, 3).await;
}

#[tokio::test]
async fn a_disk_that_is_really_full_hurts_the_writer_only_and_heals_when_there_is_room() {
    let head = small("64m");
    let (mut a, mut b) = (Disk::open(&head, "a").await, Disk::open(&head, "b").await);
    for n in 0..16 {
        a.write(n * PIECE, 1).await.unwrap();
        b.write(n * PIECE, 7).await.unwrap();
    }
    a.flush().await.unwrap();
    b.flush().await.unwrap();
    // Somebody else takes every byte, the reserve too: seen through the head's own mounts.
    let state = head.path("state").display().to_string();
    let filler = format!("/proc/{}/root{state}/filler", head.pid());
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    for disk in [&mut a, &mut b] {
        assert_eq!(disk.write(32 * MIB, 9).await, Err(NO_SPACE));
        disk.write(0, 2).await.unwrap();
        disk.flush().await.unwrap();
        disk.holds(0, 1, 2).await;
    }
    a.holds(PIECE, 15, 1).await;
    b.holds(PIECE, 15, 7).await;
    assert!(head.good(&["node", "ls"]).contains("golden"));
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    a.write(32 * MIB, 9).await.unwrap();
    b.write(32 * MIB, 9).await.unwrap();
    a.flush().await.unwrap();
    b.flush().await.unwrap();
    a.holds(32 * MIB, 1, 9).await;
    catalog_works(&head, 2);
}

#[tokio::test]
async fn a_full_disk_refuses_catalog_changes_until_there_is_room_and_needs_no_restart() {
    let head = small("64m");
    let (mut a, mut b) = (Disk::open(&head, "a").await, Disk::open(&head, "b").await);
    for n in 0..16 {
        b.write(n * PIECE, 7).await.unwrap();
    }
    b.flush().await.unwrap();
    // One node reads all the time, and another writes over what it has.
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let reader = tokio::spawn(async move {
        let mut rounds = 0_u64;
        while !stopped.load(Ordering::SeqCst) {
            b.holds(0, 16, 7).await;
            rounds += 1;
        }
        rounds
    });
    a.write(0, 1).await.unwrap();
    let state = head.path("state").display().to_string();
    let filler = format!("/proc/{}/root{state}/filler", head.pid());
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let before = head.good(&["node", "ls"]);
    // More than what is free inside the catalog's file.
    let many = ["node", "add", "late-[0001-5000]", "--image", "golden"];
    for round in 0..3 {
        let said = head.bad(&many, 1);
        for part in [
            "No space left",
            "nothing was changed",
            "make room",
            "no restart",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(head.good(&["node", "ls"]), before);
        a.write(0, 2 + round).await.unwrap();
        a.flush().await.unwrap();
    }
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    head.good(&many);
    assert!(head.good(&["node", "ls"]).contains("late-5000"));
    catalog_works(&head, 3);
    a.holds(0, 1, 4).await;
    stop.store(true, Ordering::SeqCst);
    assert!(reader.await.unwrap() > 0);
    assert!(
        head.log().contains("the catalog takes changes again"),
        "{}",
        head.log()
    );
}
