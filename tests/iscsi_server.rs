//! The iSCSI server as a whole: our own strict initiator over loopback against a real head in a process of
//! its own. What single machines do is tested beside them; here it is what only the whole can get wrong.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

#[path = "iscsi_server/abuse.rs"]
mod abuse;
#[path = "iscsi_server/chap.rs"]
mod chap;
mod common;
#[path = "iscsi_server/leaving.rs"]
mod leaving;

use std::collections::HashMap;
use std::ops::Range;

use common::{PATIENCE, TestHead, raw_disk};
use reveille::iscsi::frame::Encoder;
use reveille::iscsi::initiator::engine::{Command, Completion, Done, Transfer};
use reveille::iscsi::initiator::offer::Offer;
use reveille::iscsi::initiator::{ErrorKind, Initiator};
use reveille::iscsi::pdu::op;
use tokio::time::timeout;

const PREFIX: &str = "iqn.2026-11.internal.reveille";
const SECTOR: usize = 512;
const MIB: u64 = 16;
const GOOD: u8 = 0;
const CHECK: u8 = 2;
/// Task management functions (RFC 7143 11.5.1).
const ABORT_TASK: u8 = 1;
const LUN_RESET: u8 = 5;

/// A head with these nodes (name, mode), running.
fn head_with(auth: &str, nodes: &[(&str, &str)]) -> TestHead {
    let config = format!("[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"{auth}\"\n");
    head_of(&config, nodes)
}

/// The same with a configuration of its own.
fn head_of(config: &str, nodes: &[(&str, &str)]) -> TestHead {
    let mut head = TestHead::with_config(config);
    raw_disk(&head.path("golden.raw"), MIB);
    let raw = head.path("golden.raw").display().to_string();
    head.good(&["image", "import", &raw, "--name", "golden"]);
    for (at, (name, mode)) in nodes.iter().enumerate() {
        let mac = format!("52:54:00:00:00:{:02x}", at + 1);
        head.good(&[
            "node", "add", name, "--image", "golden", "--mac", &mac, "--mode", mode,
        ]);
    }
    head.serve();
    head
}

fn target(node: &str) -> String {
    format!("{PREFIX}:{node}")
}

/// An operating system's login; `port` tells its sessions apart.
fn offer(node: &str, port: u8) -> Offer {
    Offer {
        isid: [0x00, 0x02, 0x3d, 0, 0, port],
        ..Offer::new(&format!("{PREFIX}:{node}.initiator"), &target(node))
    }
}

async fn connect(
    head: &TestHead,
    offer: Offer,
) -> Result<Initiator, reveille::iscsi::initiator::Error> {
    let portal = head.portal.expect("the head runs");
    timeout(PATIENCE, Initiator::connect(portal, offer))
        .await
        .expect("the login hangs")
}

/// Logs in, and takes the unit attentions that a new nexus is told.
async fn log_in(head: &TestHead, offer: Offer) -> Initiator {
    let mut session = connect(head, offer).await.unwrap();
    settle(&mut session).await;
    session
}

async fn settle(session: &mut Initiator) {
    for _ in 0..8 {
        let ready = session.read(0, &[0; 6], 0).await.unwrap();
        if ready.status == GOOD {
            return;
        }
        assert_eq!(
            (ready.status, ready.sense[2] & 15),
            (CHECK, 6),
            "{:02x?}",
            ready.sense
        );
    }
    panic!("the unit attentions do not end");
}

/// The status of a login that must be refused.
async fn refused(head: &TestHead, offer: Offer) -> u16 {
    match connect(head, offer).await.map_err(|e| e.kind()) {
        Err(ErrorKind::Refused(status)) => status,
        other => panic!("not refused: {other:?}"),
    }
}

fn cdb(opcode: u8, lba: usize, blocks: usize) -> [u8; 10] {
    let [a, b, c, d] = u32::try_from(lba).unwrap().to_be_bytes();
    let [high, low] = u16::try_from(blocks).unwrap().to_be_bytes();
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}

fn read_of(range: &Range<usize>) -> Command {
    let len = u32::try_from(range.len() * SECTOR).unwrap();
    let cdb = cdb(0x28, range.start, range.len());
    Command::new(0, &cdb, Transfer::In(len, Some(Vec::new())))
}

fn write_of(range: &Range<usize>, data: &[u8]) -> Command {
    assert_eq!(range.len() * SECTOR, data.len());
    Command::new(
        0,
        &cdb(0x2a, range.start, range.len()),
        Transfer::Out(data.into()),
    )
}

async fn read(session: &mut Initiator, range: Range<usize>) -> Vec<u8> {
    let done = session.execute(read_of(&range)).await.unwrap();
    assert_eq!(done.status, GOOD, "{:02x?}", done.sense);
    done.data
}

async fn write(session: &mut Initiator, range: Range<usize>, data: &[u8]) -> Done {
    let done = session.execute(write_of(&range, data)).await.unwrap();
    assert_eq!(done.status, GOOD, "{:02x?}", done.sense);
    done
}

/// The next command that ends.
async fn next_done(session: &mut Initiator) -> Done {
    let said = timeout(PATIENCE, session.complete())
        .await
        .expect("a command hangs");
    match said.unwrap() {
        Completion::Command(done) => done,
        other => panic!("{other:?}"),
    }
}

/// xorshift: the same on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % below
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let seed = self.roll(1 << 30);
        (0..len)
            .map(|at| u8::try_from((seed + at * 31 + at / SECTOR) & 0xff).unwrap())
            .collect()
    }
}

#[tokio::test]
async fn discovery_shows_a_node_its_own_target_only() {
    let mut head = head_with("chap", &[("n1", "ephemeral"), ("n2", "ephemeral")]);
    let names = |found: Vec<(String, String)>| -> Vec<String> {
        let names = found.into_iter().filter(|(key, _)| key == "TargetName");
        names.map(|(_, name)| name).collect()
    };
    let asks = |node: &str, chap| Offer {
        target: None,
        chap,
        ..offer(node, 1)
    };
    let chap = Some(chap::secret_of(&head, "n1"));
    let mut session = connect(&head, asks("n1", chap.clone())).await.unwrap();
    assert_eq!(
        names(session.send_targets("All").await.unwrap()),
        [target("n1")]
    );
    assert!(names(session.send_targets(&target("n2")).await.unwrap()).is_empty());
    let address = session.send_targets(&target("n1")).await.unwrap();
    let portal = format!("{},1", head.portal.unwrap());
    assert!(
        address.contains(&("TargetAddress".into(), portal)),
        "{address:?}"
    );
    assert_eq!(refused(&head, asks("n1", None)).await, 0x0201);
    assert_eq!(refused(&head, asks("n2", chap)).await, 0x0201);
    head.stop();

    let open = head_with("none", &[("n1", "ephemeral"), ("n2", "ephemeral")]);
    let mut session = connect(&open, asks("n1", None)).await.unwrap();
    let mut all = names(session.send_targets("All").await.unwrap());
    all.sort();
    assert_eq!(all, [target("n1"), target("n2")]);
    assert_eq!(session.logout().await.unwrap(), 0);
}

#[tokio::test]
async fn unknown_targets_are_not_found() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    for name in [
        target("n2"),
        target("n1x"),
        "iqn.2026-11.internal.other:n1".into(),
    ] {
        let ask = Offer {
            target: Some(name.clone()),
            ..offer("n1", 1)
        };
        assert_eq!(refused(&head, ask).await, 0x0203, "{name}");
    }
    let _ = log_in(&head, offer("n1", 1)).await;
}

#[tokio::test]
async fn digests_guard_both_directions() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    let guarded = || {
        offer("n1", 1)
            .with("HeaderDigest", "CRC32C")
            .with("DataDigest", "CRC32C")
    };
    let mut session = log_in(&head, guarded()).await;
    let agreed = session.login().agreed.clone();
    assert!(agreed.header_digest && agreed.data_digest);
    let mut dice = Dice(0xd1e5);
    for blocks in [1, 7, 8, 129, 1024] {
        let data = dice.bytes(blocks * SECTOR);
        write(&mut session, 100..100 + blocks, &data).await;
        assert!(
            read(&mut session, 100..100 + blocks).await == data,
            "{blocks} blocks"
        );
    }
    // A write whose data was damaged on its way is refused, and changes nothing.
    for blocks in [1, 64] {
        let before = read(&mut session, 100..100 + blocks).await;
        let mut bhs = session.engine().request(op::SCSI_COMMAND, false);
        bhs.put_u8(1, 0xa1);
        bhs.put_u32(16, 0x7777);
        bhs.put_u32(20, u32::try_from(blocks * SECTOR).unwrap());
        bhs.0[32..42].copy_from_slice(&cdb(0x2a, 100, blocks));
        bhs.set_data_len(u32::try_from(blocks * SECTOR).unwrap());
        let mut bytes = Vec::new();
        Encoder::full_feature(&agreed).pdu(bhs, &[], &vec![9; blocks * SECTOR], &mut bytes);
        bytes[60] ^= 1;
        let mut wire = session.into_wire();
        wire.put(&bytes);
        wire.flush().await.unwrap();
        let (answer, header) = wire.receive().await.unwrap().unwrap();
        assert_eq!(
            (answer.opcode(), answer.u8_at(2)),
            (op::REJECT, 2),
            "{blocks}"
        );
        assert_eq!(header[..48], bhs.0);
        session = log_in(&head, guarded()).await;
        assert!(read(&mut session, 100..100 + blocks).await == before);
    }
    // After a damaged header nothing can be trusted: the connection ends.
    let mut bytes = Vec::new();
    let ping = session.engine().request(op::NOP_OUT, true);
    Encoder::full_feature(&agreed).pdu(ping, &[], b"hello", &mut bytes);
    bytes[20] ^= 1;
    let mut wire = session.into_wire();
    wire.put(&bytes);
    wire.flush().await.unwrap();
    assert!(wire.receive().await.unwrap().is_none());
}

#[tokio::test]
async fn thirty_two_mixed_commands_agree_with_a_model() {
    const DEPTH: usize = 32;
    let head = head_with("none", &[("n1", "ephemeral")]);
    let mut model = std::fs::read(head.path("golden.raw")).unwrap();
    let mut session = log_in(&head, offer("n1", 1)).await;
    let mut dice = Dice(32);
    // One command at a time in each of the parts, so that every answer is determined.
    let part = model.len() / SECTOR / DEPTH;
    let mut running: HashMap<u64, Option<Range<usize>>> = HashMap::new();
    let (mut reads, mut writes) = (0, 0);
    let mut free: Vec<usize> = (0..DEPTH).collect();
    for turn in 0..1500 {
        if let Some(lane) = free.pop() {
            let blocks = 1 + dice.roll(if turn % 10 == 0 { 300 } else { 16 });
            let start = lane * part + dice.roll(part - blocks);
            let range = start..start + blocks;
            let bytes = start * SECTOR..(start + blocks) * SECTOR;
            let token = u64::try_from(lane).unwrap();
            let command = if dice.roll(2) == 0 {
                let data = dice.bytes(bytes.len());
                model[bytes].copy_from_slice(&data);
                running.insert(token, None);
                write_of(&range, &data)
            } else {
                running.insert(token, Some(bytes));
                read_of(&range)
            };
            session.submit(command.token(token)).unwrap();
        }
        if free.is_empty() && running.len() == DEPTH {
            let done = next_done(&mut session).await;
            assert_eq!(done.status, GOOD, "{:02x?}", done.sense);
            match running
                .remove(&done.token)
                .expect("one answer for each command")
            {
                Some(bytes) => {
                    assert!(done.data == model[bytes], "turn {turn}");
                    reads += 1;
                }
                None => writes += 1,
            }
            free.push(usize::try_from(done.token).unwrap());
        }
    }
    assert!(reads > 500 && writes > 500);
    while !running.is_empty() {
        running
            .remove(&next_done(&mut session).await.token)
            .expect("one answer each");
    }
    for at in 0..DEPTH {
        let range = at * part..(at + 1) * part;
        let bytes = range.start * SECTOR..range.end * SECTOR;
        assert!(read(&mut session, range).await == model[bytes], "part {at}");
    }
}

#[tokio::test]
async fn a_mebibyte_goes_out_with_the_command_and_by_r2t() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    let mut dice = Dice(1 << 20);
    for (immediate, mrdsl) in [("Yes", "262144"), ("No", "262144"), ("Yes", "4096")] {
        let ask = offer("n1", 1)
            .with("ImmediateData", immediate)
            .with("MaxRecvDataSegmentLength", mrdsl)
            .with("MaxBurstLength", "262144");
        let mut session = log_in(&head, ask).await;
        assert_eq!(session.login().agreed.immediate_data, immediate == "Yes");
        for start in [4096, 4099] {
            let data = dice.bytes(1 << 20);
            let done = write(&mut session, start..start + 2048, &data).await;
            assert!(done.r2ts >= 3, "{} R2Ts", done.r2ts);
            assert_eq!(done.sent, 1 << 20);
            assert!(read(&mut session, start..start + 2048).await == data);
        }
    }
}

/// Parts of the disk with a slow write each, and their blocks.
const LANES: usize = 100;
const LANE: usize = 8;

/// One command at a time leaves nothing to do when it is answered, however long the answer took: there is nothing to
/// wait in line for.
#[tokio::test]
async fn one_command_at_a_time_never_waits_in_line() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    let turns = || {
        let text = head.good(&["metrics"]);
        let mut lines = text.lines().map(str::to_owned);
        lines.find(|line| line.starts_with("reveille_iscsi_turns_total"))
    };
    let mut session = log_in(&head, offer("n1", 1)).await;
    // The socket is new to its worker: the first answer has to wait for it.
    read(&mut session, 0..8).await;
    let before = turns();
    assert!(before.is_some());
    for at in 0..200 {
        read(&mut session, at * 8..at * 8 + 8).await;
    }
    assert_eq!(turns(), before);
}

fn lane_range(lane: usize) -> Range<usize> {
    lane * LANE..(lane + 1) * LANE
}

/// Sends more forced writes than the head has I/O threads, so that many of them wait inside; their tags.
async fn send_slow_writes(session: &mut Initiator) -> Vec<u32> {
    let mut tags = Vec::new();
    for lane in 0..LANES {
        let mut command = write_of(&lane_range(lane), &[0xaa; LANE * SECTOR]);
        command.cdb[1] = 0x08;
        tags.push(session.submit(command).unwrap());
    }
    session.flush().await.unwrap();
    tags
}

/// Nothing that was promised to be over lands any more: what is read at once, the last part first, is what
/// is read after all other work of the disk. Then all parts get `value`.
async fn stands_still(session: &mut Initiator, value: u8) {
    let mut first = Vec::new();
    for lane in (0..LANES).rev() {
        first.push(read(session, lane_range(lane)).await);
    }
    let flushed = session.read(0, &cdb(0x35, 0, 0), 0).await.unwrap();
    assert_eq!(flushed.status, GOOD);
    for lane in 0..LANES {
        let again = read(session, lane_range(lane)).await;
        assert!(
            again == first[LANES - 1 - lane],
            "a late write in part {lane}"
        );
        write(session, lane_range(lane), &[value; LANE * SECTOR]).await;
    }
    for lane in 0..LANES {
        let now = read(session, lane_range(lane)).await;
        assert!(
            now.iter().all(|byte| *byte == value),
            "a late write in part {lane}"
        );
    }
}

#[tokio::test]
async fn a_new_login_of_the_same_port_ends_the_old_one_and_no_write_lands_late() {
    let head = head_with("none", &[("n1", "persistent")]);
    for round in 0..6_u8 {
        let mut old = log_in(&head, offer("n1", 1)).await;
        send_slow_writes(&mut old).await;
        let mut new = connect(&head, offer("n1", 1)).await.unwrap();
        assert_ne!(new.login().tsih, old.login().tsih);
        settle(&mut new).await;
        stands_still(&mut new, round).await;
        let end = loop {
            match timeout(PATIENCE, old.complete())
                .await
                .expect("the old session lives on")
            {
                Ok(_) => {}
                Err(error) => break error.kind(),
            }
        };
        assert!(matches!(end, ErrorKind::Closed | ErrorKind::Io), "{end:?}");
    }
}

#[tokio::test]
async fn two_ports_of_one_initiator_work_side_by_side() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    let mut first = log_in(&head, offer("n1", 1)).await;
    let mut second = log_in(&head, offer("n1", 2)).await;
    for round in 0..20_u8 {
        let (one, other) = if round % 2 == 0 {
            (&mut first, &mut second)
        } else {
            (&mut second, &mut first)
        };
        write(one, 0..64, &vec![round; 64 * SECTOR]).await;
        assert_eq!(read(other, 0..64).await, vec![round; 64 * SECTOR]);
    }
    assert_eq!(first.logout().await.unwrap(), 0);
    assert_eq!(read(&mut second, 0..1).await, vec![19; SECTOR]);
}

#[tokio::test]
async fn a_lun_reset_under_load_ends_all_tasks_and_no_write_lands_late() {
    let head = head_with("none", &[("n1", "persistent")]);
    for round in 0..4_u8 {
        let mut session = log_in(&head, offer("n1", 1)).await;
        let mut other = log_in(&head, offer("n1", 2)).await;
        send_slow_writes(&mut other).await;
        let mut tags = send_slow_writes(&mut session).await;
        let reset = session.task_management(LUN_RESET, 0, u32::MAX);
        assert_eq!(
            timeout(PATIENCE, reset).await.expect("no answer").unwrap(),
            0
        );
        while let Some(Completion::Command(done)) = session.try_complete() {
            tags.retain(|tag| *tag != done.tag);
        }
        // What was not answered before the reset never will be.
        for tag in tags {
            session.engine().forget(tag);
        }
        assert_eq!(session.engine().outstanding(), 0);
        settle(&mut session).await;
        stands_still(&mut session, round).await;
        assert_eq!(session.nop(b"still there").await.unwrap(), b"still there");
    }
}

#[tokio::test]
async fn an_aborted_write_is_never_answered_and_never_lands() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    let mut session = log_in(&head, offer("n1", 1).with("ImmediateData", "No")).await;
    for round in 0..20_u8 {
        write(&mut session, 0..1024, &vec![round; 1024 * SECTOR]).await;
        let mut load = Vec::new();
        for lane in 0..16 {
            let range = 4096 + lane * 64..4096 + lane * 64 + 64;
            load.push(session.submit(read_of(&range)).unwrap());
        }
        // Its R2T is on the way when the abort leaves: no data of it was sent.
        let tag = session
            .submit(write_of(&(0..1024), &vec![0xaa; 1024 * SECTOR]))
            .unwrap();
        let response = session.task_management(ABORT_TASK, 0, tag).await.unwrap();
        assert_eq!(response, 0, "round {round}");
        while !load.is_empty() {
            let done = next_done(&mut session).await;
            assert_ne!(done.tag, tag, "round {round}: answered after its abort");
            assert_eq!(done.status, GOOD);
            load.retain(|waiting| *waiting != done.tag);
        }
        let now = read(&mut session, 0..1024).await;
        assert!(
            now.iter().all(|byte| *byte == round),
            "round {round}: it landed"
        );
        assert_eq!(
            session.task_management(ABORT_TASK, 0, tag).await.unwrap(),
            1
        );
    }
}

/// One part of the disk: what was acknowledged, and the write that may be under way.
struct Part {
    bytes: Vec<u8>,
    pending: Option<(Range<usize>, Vec<u8>)>,
}

impl Part {
    /// True when `found` is what may be there after a crash.
    fn explains(&self, found: &[u8]) -> bool {
        found.chunks(SECTOR).enumerate().all(|(block, sector)| {
            let here = block * SECTOR..(block + 1) * SECTOR;
            let in_flight = self.pending.as_ref().and_then(|(range, data)| {
                let at = here.start.checked_sub(range.start * SECTOR)?;
                data.get(at..at + SECTOR)
            });
            sector == &self.bytes[here] || in_flight == Some(sector)
        })
    }
}

async fn acknowledged_writes_survive(mode: &str) {
    const PARTS: usize = 16;
    let mut head = head_with("none", &[("n1", mode)]);
    let golden = std::fs::read(head.path("golden.raw")).unwrap();
    let blocks = golden.len() / SECTOR / PARTS;
    let mut parts: Vec<Part> = golden
        .chunks(blocks * SECTOR)
        .map(|bytes| Part {
            bytes: bytes.to_vec(),
            pending: None,
        })
        .collect();
    let mut dice = Dice(9);
    for round in 0..4 {
        let mut session = log_in(&head, offer("n1", 1)).await;
        for (at, part) in parts.iter_mut().enumerate() {
            let found = read(&mut session, at * blocks..(at + 1) * blocks).await;
            assert!(
                part.explains(&found),
                "{mode}, kill {round}: part {at} lost a write"
            );
            *part = Part {
                bytes: found,
                pending: None,
            };
        }
        let mut acknowledged = 0;
        while acknowledged < 150 + round * 77 {
            for (at, part) in parts.iter_mut().enumerate() {
                if part.pending.is_some() {
                    continue;
                }
                let len = 1 + dice.roll(40);
                let start = dice.roll(blocks - len);
                let data = dice.bytes(len * SECTOR);
                let range = at * blocks + start..at * blocks + start + len;
                let token = u64::try_from(at).unwrap();
                session
                    .submit(write_of(&range, &data).token(token))
                    .unwrap();
                part.pending = Some((start..start + len, data));
            }
            let done = next_done(&mut session).await;
            assert_eq!(done.status, GOOD, "{:02x?}", done.sense);
            let part = &mut parts[usize::try_from(done.token).unwrap()];
            let (range, data) = part.pending.take().expect("it was under way");
            part.bytes[range.start * SECTOR..range.end * SECTOR].copy_from_slice(&data);
            acknowledged += 1;
        }
        session.flush().await.unwrap();
        head.kill();
        head.serve();
    }
}

#[tokio::test]
async fn acknowledged_writes_of_an_ephemeral_node_survive_kill_9() {
    acknowledged_writes_survive("ephemeral").await;
}

#[tokio::test]
async fn acknowledged_writes_of_a_persistent_node_survive_kill_9() {
    acknowledged_writes_survive("persistent").await;
}

#[tokio::test]
async fn a_forced_reset_ends_the_session_and_only_a_new_boot_gets_a_disk() {
    let head = head_with("none", &[("n1", "persistent"), ("n2", "persistent")]);
    let mut bystander = log_in(&head, offer("n2", 1)).await;
    let mut session = log_in(&head, offer("n1", 1)).await;
    let golden = read(&mut session, 0..8).await;
    write(&mut session, 0..8, &[0xaa; 8 * SECTOR]).await;
    head.good(&["layer", "reset", "n1", "--force"]);
    let end = loop {
        match timeout(PATIENCE, session.execute(read_of(&(0..8))))
            .await
            .expect("it hangs")
        {
            // Whatever else it may say, it must not serve a disk that is not the node's any more.
            Ok(done) => assert_eq!(done.status, CHECK, "served after the reset"),
            Err(error) => break error.kind(),
        }
    };
    assert!(matches!(end, ErrorKind::Closed | ErrorKind::Io), "{end:?}");
    assert_eq!(
        refused(&head, offer("n1", 1)).await,
        0x0202,
        "a running system has lost its disk"
    );
    let boots = Offer {
        isid: [0x40, 0x00, 0x27, 0x23, 0, 1],
        ..offer("n1", 1)
    };
    let mut fresh = log_in(&head, boots).await;
    assert_eq!(read(&mut fresh, 0..8).await, golden);
    assert_eq!(read(&mut bystander, 0..8).await, golden);
}
