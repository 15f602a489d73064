//! Reservations and identity as the whole keeps them: our own strict initiator against a real head that is
//! killed and started again.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;

use std::net::SocketAddr;

use common::{PATIENCE, TestHead, raw_disk};
use reveille::iscsi::initiator::Initiator;
use reveille::iscsi::initiator::engine::{Command, Completion, Done, Transfer};
use reveille::iscsi::initiator::offer::Offer;
use tokio::time::timeout;

const PREFIX: &str = "iqn.2026-11.internal.reveille";
const SECTOR: usize = 512;
const GOOD: u8 = 0x00;
const CHECK: u8 = 0x02;
const CONFLICT: u8 = 0x18;
const TASK_ABORTED: u8 = 0x40;
const APTPL: u8 = 1;

// Service actions of PERSISTENT RESERVE OUT.
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const CLEAR: u8 = 3;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;

/// Types.
const EXCLUSIVE_ACCESS: u8 = 3;
const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;

/// A head with these nodes (name, mode), running, with two portals.
fn head_with(nodes: &[(&str, &str)]) -> TestHead {
    let listen = "[iscsi]\nlisten = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\nauth = \"none\"\n";
    let mut head = TestHead::with_config(listen);
    raw_disk(&head.path("golden.raw"), 16);
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

/// An operating system's login; `port` tells its sessions apart.
fn offer(node: &str, port: u8) -> Offer {
    let (initiator, target) = (
        format!("{PREFIX}:{node}.initiator"),
        format!("{PREFIX}:{node}"),
    );
    Offer {
        isid: [0x00, 0x02, 0x3d, 0, 0, port],
        ..Offer::new(&initiator, &target)
    }
}

async fn connect(portal: SocketAddr, offer: Offer) -> Initiator {
    let login = timeout(PATIENCE, Initiator::connect(portal, offer)).await;
    login.expect("the login hangs").unwrap()
}

async fn log_in(head: &TestHead, node: &str, port: u8) -> Initiator {
    connect(head.portal.expect("the head runs"), offer(node, port)).await
}

/// Firmware logs in: the node boots anew.
async fn boot(head: &TestHead, node: &str) {
    let firmware = Offer {
        isid: [0x40, 0x00, 0x27, 0x23, 0, 1],
        ..offer(node, 1)
    };
    let session = connect(head.portal.unwrap(), firmware).await;
    assert_eq!(session.logout().await.unwrap(), 0);
}

fn list(key: u64, new: u64, flags: u8) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), new.to_be_bytes()].concat();
    list.resize(24, 0);
    list[20] = flags;
    list
}

fn change(action: u8, kind: u8, (key, new): (u64, u64), flags: u8) -> Command {
    let cdb = [0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0];
    Command::new(0, &cdb, Transfer::Out(list(key, new, flags).into()))
}

async fn run(session: &mut Initiator, command: Command) -> Done {
    let done = timeout(PATIENCE, session.execute(command)).await;
    done.expect("a command hangs").unwrap()
}

/// A change that must be GOOD.
async fn pr(session: &mut Initiator, action: u8, kind: u8, keys: (u64, u64), flags: u8) {
    let done = run(session, change(action, kind, keys, flags)).await;
    assert_eq!(done.status, GOOD, "{action} {keys:?}: {:02x?}", done.sense);
}

async fn keys(session: &mut Initiator) -> (u32, Vec<u64>) {
    let data = good(session, &[0x5E, 0, 0, 0, 0, 0, 0, 16, 0, 0]).await;
    let key = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    let generation = u32::from_be_bytes(data[..4].try_into().unwrap());
    (generation, data[8..].chunks(8).map(key).collect())
}

/// Key and type of the reservation.
async fn reservation(session: &mut Initiator) -> Option<(u64, u8)> {
    let data = good(session, &[0x5E, 1, 0, 0, 0, 0, 0, 16, 0, 0]).await;
    let key = data.get(8..16)?;
    Some((u64::from_be_bytes(key.try_into().unwrap()), data[21]))
}

/// The data of a command that must be GOOD.
async fn good(session: &mut Initiator, cdb: &[u8]) -> Vec<u8> {
    let done = timeout(PATIENCE, session.read(0, cdb, 4096)).await;
    let done = done.expect("a command hangs").unwrap();
    assert_eq!(done.status, GOOD, "{cdb:02x?}: {:02x?}", done.sense);
    done.data
}

fn write_of(lba: usize, blocks: usize, byte: u8) -> Command {
    let [a, b, c, d] = u32::try_from(lba).unwrap().to_be_bytes();
    let blocks_be = u16::try_from(blocks).unwrap().to_be_bytes();
    let cdb = [0x2A, 0x08, a, b, c, d, 0, blocks_be[0], blocks_be[1], 0];
    Command::new(0, &cdb, Transfer::Out(vec![byte; blocks * SECTOR].into()))
}

async fn write_status(session: &mut Initiator) -> u8 {
    run(session, write_of(0, 8, 7)).await.status
}

async fn read_blocks(session: &mut Initiator, lba: usize, blocks: usize) -> Vec<u8> {
    let [a, b, c, d] = u32::try_from(lba).unwrap().to_be_bytes();
    let cdb = [0x28, 0, a, b, c, d, 0, 0, u8::try_from(blocks).unwrap(), 0];
    let len = u32::try_from(blocks * SECTOR).unwrap();
    let done = run(
        session,
        Command::new(0, &cdb, Transfer::In(len, Some(Vec::new()))),
    )
    .await;
    assert_eq!(done.status, GOOD, "{:02x?}", done.sense);
    done.data
}

fn kill_and_serve(head: &mut TestHead) {
    head.kill();
    head.serve();
}

#[tokio::test]
async fn with_aptpl_registrations_and_reservation_survive_kill_9() {
    for mode in ["persistent", "ephemeral"] {
        let mut head = head_with(&[("n1", mode)]);
        let mut first = log_in(&head, "n1", 1).await;
        let mut second = log_in(&head, "n1", 2).await;
        pr(&mut first, REGISTER, 0, (0, 0xA1), APTPL).await;
        pr(&mut second, REGISTER, 0, (0, 0xA2), APTPL).await;
        pr(&mut first, RESERVE, EXCLUSIVE_ACCESS, (0xA1, 0), 0).await;
        kill_and_serve(&mut head);
        // Whoever comes first, the reservation is there before it.
        let mut second = log_in(&head, "n1", 2).await;
        assert_eq!(write_status(&mut second).await, CONFLICT, "{mode}");
        let mut first = log_in(&head, "n1", 1).await;
        assert_eq!(
            write_status(&mut first).await,
            GOOD,
            "no unit attention, no conflict"
        );
        assert_eq!(keys(&mut first).await, (0, vec![0xA1, 0xA2]));
        assert_eq!(
            reservation(&mut first).await,
            Some((0xA1, EXCLUSIVE_ACCESS))
        );
        // A registration without the bit takes all back, durably.
        pr(&mut first, REGISTER_AND_IGNORE, 0, (0, 0xA1), 0).await;
        kill_and_serve(&mut head);
        let mut second = log_in(&head, "n1", 2).await;
        assert_eq!(keys(&mut second).await, (0, vec![]));
        assert_eq!(write_status(&mut second).await, GOOD);
    }
}

#[tokio::test]
async fn without_aptpl_a_registration_survives_its_session_and_not_the_head() {
    let mut head = head_with(&[("n1", "persistent")]);
    let mut first = log_in(&head, "n1", 1).await;
    let mut second = log_in(&head, "n1", 2).await;
    pr(&mut first, REGISTER, 0, (0, 1), 0).await;
    pr(&mut first, RESERVE, EXCLUSIVE_ACCESS, (1, 0), 0).await;
    assert_eq!(first.logout().await.unwrap(), 0);
    assert_eq!(write_status(&mut second).await, CONFLICT);
    let mut stranger = log_in(&head, "n1", 3).await;
    assert_eq!(write_status(&mut stranger).await, CONFLICT);
    let mut first = log_in(&head, "n1", 1).await;
    assert_eq!(
        write_status(&mut first).await,
        GOOD,
        "the same ISID is the registrant"
    );
    let again = log_in(&head, "n1", 1).await;
    drop(first);
    let mut first = again;
    assert_eq!(write_status(&mut first).await, GOOD, "reinstated");
    kill_and_serve(&mut head);
    let mut second = log_in(&head, "n1", 2).await;
    assert_eq!(keys(&mut second).await, (0, vec![]));
    assert_eq!(write_status(&mut second).await, GOOD);
}

#[tokio::test]
async fn every_answered_change_survives_kill_9_at_any_moment() {
    let mut head = head_with(&[("n1", "ephemeral")]);
    let mut key = 1;
    let mut session = log_in(&head, "n1", 1).await;
    pr(&mut session, REGISTER, 0, (0, key), APTPL).await;
    for round in 0..8 {
        for _ in 0..round {
            pr(&mut session, REGISTER, 0, (key, key + 1), APTPL).await;
            key += 1;
        }
        // One more is under way when the head dies.
        session
            .submit(change(REGISTER, 0, (key, key + 1), APTPL))
            .unwrap();
        session.flush().await.unwrap();
        if round % 2 == 1 {
            let done = timeout(PATIENCE, session.complete())
                .await
                .unwrap()
                .unwrap();
            assert!(matches!(done, Completion::Command(done) if done.status == GOOD));
            key += 1;
        }
        kill_and_serve(&mut head);
        session = log_in(&head, "n1", 1).await;
        let (_, found) = keys(&mut session).await;
        let answered = round % 2 == 1;
        assert!(
            found == [key] || (!answered && found == [key + 1]),
            "round {round}: {found:?} after {key}"
        );
        key = found[0];
    }
    pr(&mut session, CLEAR, 0, (key, 0), 0).await;
    kill_and_serve(&mut head);
    let mut session = log_in(&head, "n1", 1).await;
    assert_eq!(keys(&mut session).await, (0, vec![]));
}

#[tokio::test]
async fn a_new_boot_drops_the_reservations_of_an_ephemeral_disk_and_no_other() {
    for (mode, kept) in [("ephemeral", false), ("persistent", true)] {
        let mut head = head_with(&[("n1", mode)]);
        let mut session = log_in(&head, "n1", 1).await;
        assert_eq!(write_status(&mut session).await, GOOD);
        pr(&mut session, REGISTER, 0, (0, 1), APTPL).await;
        pr(
            &mut session,
            RESERVE,
            WRITE_EXCLUSIVE_REGISTRANTS,
            (1, 0),
            0,
        )
        .await;
        boot(&head, "n1").await;
        for life in ["the same head", "another head"] {
            let mut session = log_in(&head, "n1", 1).await;
            let expected = if kept { vec![1] } else { vec![] };
            assert_eq!(keys(&mut session).await.1, expected, "{mode}, {life}");
            let mut other = log_in(&head, "n1", 2).await;
            let status = write_status(&mut other).await;
            assert_eq!(status == CONFLICT, kept, "{mode}, {life}: {status:02x}");
            kill_and_serve(&mut head);
        }
    }
}

#[tokio::test]
async fn changes_of_many_sessions_at_once_all_count() {
    let head = head_with(&[("n1", "ephemeral")]);
    let mut sessions = Vec::new();
    for port in 1..=6 {
        sessions.push(log_in(&head, "n1", port).await);
    }
    for session in &mut sessions {
        for key in 0..20 {
            let flags = if key % 2 == 0 { APTPL } else { 0 };
            session
                .submit(change(REGISTER, 0, (key, key + 1), flags))
                .unwrap();
        }
        session.flush().await.unwrap();
    }
    for session in &mut sessions {
        for _ in 0..20 {
            let said = timeout(PATIENCE, session.complete())
                .await
                .unwrap()
                .unwrap();
            assert!(matches!(said, Completion::Command(done) if done.status == GOOD));
        }
    }
    assert_eq!(
        keys(&mut sessions[0]).await,
        (120, vec![20; 6]),
        "none was lost or BUSY"
    );
}

/// Parts of the disk with a slow write each, and their blocks.
const LANES: usize = 100;
const LANE: usize = 8;

async fn send_slow_writes(session: &mut Initiator) {
    for lane in 0..LANES {
        session.submit(write_of(lane * LANE, LANE, 0xaa)).unwrap();
    }
    session.flush().await.unwrap();
}

#[tokio::test]
async fn preempt_and_abort_is_answered_when_nothing_of_the_victim_runs() {
    for tas in [false, true] {
        let head = head_with(&[("n1", "persistent")]);
        let mut victim = log_in(&head, "n1", 1).await;
        let mut heir = log_in(&head, "n1", 2).await;
        if tas {
            let page = [0, 0, 0, 0, 0x0A, 10, 2, 0x10, 0, 0x40, 0, 0, 0, 0, 0, 0];
            let select = Command::new(
                0,
                &[0x15, 0x10, 0, 0, 16, 0],
                Transfer::Out(page.to_vec().into()),
            );
            assert_eq!(run(&mut victim, select).await.status, GOOD);
            assert_eq!(
                write_status(&mut heir).await,
                CHECK,
                "it hears of the new mode"
            );
        }
        let mut all_aborted = 0;
        for round in 0..5 {
            pr(&mut victim, REGISTER_AND_IGNORE, 0, (0, 1), 0).await;
            pr(&mut heir, REGISTER_AND_IGNORE, 0, (0, 2), 0).await;
            pr(&mut victim, RESERVE, WRITE_EXCLUSIVE_REGISTRANTS, (1, 0), 0).await;
            send_slow_writes(&mut victim).await;
            let kind = WRITE_EXCLUSIVE_REGISTRANTS;
            pr(&mut heir, PREEMPT_AND_ABORT, kind, (2, 1), 0).await;
            let mut first = Vec::new();
            for lane in (0..LANES).rev() {
                first.push(read_blocks(&mut heir, lane * LANE, LANE).await);
            }
            for lane in 0..LANES {
                let again = read_blocks(&mut heir, lane * LANE, LANE).await;
                assert!(
                    again == first[LANES - 1 - lane],
                    "round {round}: a late write in {lane}"
                );
            }
            for lane in 0..LANES {
                let byte = u8::try_from(round).unwrap();
                let clean = run(&mut heir, write_of(lane * LANE, LANE, byte)).await;
                assert_eq!(clean.status, GOOD);
            }
            let aborted = told_of_their_end(&mut victim, tas).await;
            all_aborted += aborted;
            settle(&mut victim).await;
            pr(&mut heir, CLEAR, 0, (2, 0), 0).await;
        }
        assert_eq!(
            all_aborted > 0,
            tas,
            "no write was under way: the test shows nothing"
        );
    }
}

/// Takes in what the victim is told: the answers before its end, and with TAS one for each command. How many
/// were TASK ABORTED.
async fn told_of_their_end(victim: &mut Initiator, tas: bool) -> usize {
    // Behind all that was on its way.
    victim.nop(b"all told?").await.unwrap();
    let (mut told, mut aborted) = (0, 0);
    while let Some(said) = victim.try_complete() {
        let Completion::Command(done) = said else {
            panic!("{said:?}");
        };
        told += 1;
        match done.status {
            GOOD => {}
            TASK_ABORTED if tas => aborted += 1,
            // 2A/05, then the reservation.
            CHECK => assert_eq!(
                (done.sense[2] & 15, done.sense[12], done.sense[13]),
                (6, 0x2A, 5)
            ),
            CONFLICT => {}
            other => panic!("status {other:02x}"),
        }
    }
    if tas {
        while told < LANES {
            let said = timeout(PATIENCE, victim.complete())
                .await
                .expect("never told");
            let Completion::Command(done) = said.unwrap() else {
                continue;
            };
            told += 1;
            aborted += usize::from(done.status == TASK_ABORTED);
        }
        assert_eq!(victim.engine().outstanding(), 0);
    } else {
        // What was not answered never will be: a new session has its numbers to itself.
        assert_eq!(aborted, 0);
    }
    aborted
}

#[tokio::test]
async fn two_sessions_that_preempt_each_other_both_get_an_answer() {
    let head = head_with(&[("n1", "ephemeral")]);
    for _ in 0..10 {
        let mut one = log_in(&head, "n1", 1).await;
        let mut two = log_in(&head, "n1", 2).await;
        pr(&mut one, REGISTER_AND_IGNORE, 0, (0, 1), APTPL).await;
        pr(&mut two, REGISTER_AND_IGNORE, 0, (0, 2), APTPL).await;
        one.submit(change(PREEMPT_AND_ABORT, 5, (1, 2), 0)).unwrap();
        two.submit(change(PREEMPT_AND_ABORT, 5, (2, 1), 0)).unwrap();
        one.flush().await.unwrap();
        two.flush().await.unwrap();
        // The one that came second is aborted with the other's tasks, or finds itself preempted.
        let first = tokio::select! {
            said = one.complete() => said.unwrap(),
            said = two.complete() => said.unwrap(),
            () = tokio::time::sleep(PATIENCE) => panic!("they wait for each other"),
        };
        let Completion::Command(done) = first else {
            panic!("{first:?}");
        };
        assert!(
            [GOOD, CONFLICT, CHECK].contains(&done.status),
            "{:02x}",
            done.status
        );
        let mut third = log_in(&head, "n1", 3).await;
        let (_, left) = keys(&mut third).await;
        assert_eq!(left.len(), 1, "one of them won: {left:?}");
        pr(&mut third, REGISTER, 0, (0, 3), 0).await;
        pr(&mut third, CLEAR, 0, (3, 0), 0).await;
    }
}

/// Takes the unit attentions that wait.
async fn settle(session: &mut Initiator) {
    for _ in 0..8 {
        if run(session, Command::new(0, &[0; 6], Transfer::None))
            .await
            .status
            == GOOD
        {
            return;
        }
    }
    panic!("the unit attentions do not end");
}

/// VPD pages 80h, 83h and 88h.
async fn identity(session: &mut Initiator) -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    for page in [0x80, 0x83, 0x88] {
        pages.push(good(session, &[0x12, 1, page, 16, 0, 0]).await);
    }
    pages
}

#[tokio::test]
async fn portals_are_one_port_and_what_is_registered_on_one_holds_on_the_other() {
    let head = head_with(&[("n1", "ephemeral")]);
    let [near, far] = head.portals[..] else {
        panic!("two portals: {:?}", head.portals);
    };
    let mut one = connect(near, offer("n1", 1)).await;
    let mut two = connect(far, offer("n1", 2)).await;
    assert_eq!(
        identity(&mut one).await,
        identity(&mut two).await,
        "two paths, one disk"
    );
    pr(&mut one, REGISTER, 0, (0, 1), 0).await;
    pr(&mut one, RESERVE, EXCLUSIVE_ACCESS, (1, 0), 0).await;
    assert_eq!(
        write_status(&mut two).await,
        CONFLICT,
        "another ISID is another port"
    );
    // The port comes back through the other portal: its session is reinstated, its registration found.
    let mut again = connect(far, offer("n1", 1)).await;
    assert_eq!(write_status(&mut again).await, GOOD);
    let end = timeout(PATIENCE, one.complete())
        .await
        .expect("it lives on");
    assert!(end.is_err(), "two sessions with one identity");
}

#[tokio::test]
async fn a_disk_keeps_its_name_over_restart_boot_and_reset_and_shares_it_with_none() {
    let mut head = head_with(&[("n1", "persistent"), ("n2", "ephemeral")]);
    let first = identity(&mut log_in(&head, "n1", 1).await).await;
    let other = identity(&mut log_in(&head, "n2", 1).await).await;
    for (ours, theirs) in first.iter().zip(&other) {
        assert_ne!(ours, theirs);
    }
    kill_and_serve(&mut head);
    assert_eq!(identity(&mut log_in(&head, "n1", 1).await).await, first);
    head.good(&["layer", "reset", "n1", "--force"]);
    boot(&head, "n1").await;
    assert_eq!(identity(&mut log_in(&head, "n1", 1).await).await, first);
    boot(&head, "n2").await;
    assert_eq!(identity(&mut log_in(&head, "n2", 1).await).await, other);
}
