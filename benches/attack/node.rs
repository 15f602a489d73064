//! The well-behaved node: paced reads, writes and flushes; fresh logins beside them; the head's memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use reveille::iscsi::initiator::engine::{Command, Completion, Transfer};
use reveille::iscsi::initiator::offer::Offer;
use reveille::iscsi::initiator::{Error, Initiator};
use reveille::iscsi::login::Credentials;

use crate::common::TestHead;

/// By number of node.
pub type Secrets = Vec<String>;

const PREFIX: &str = "iqn.2026-11.internal.reveille";
/// One burst of reads in this time: 1,000 reads a second.
const PACE: Duration = Duration::from_millis(4);
const DEPTH: usize = 4;
const LOGIN_EVERY: Duration = Duration::from_millis(500);

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
    pub logins: usize,
    pub logins_tried: usize,
    pub login_max_us: u64,
    pub rss_max: u64,
}

/// The login of a node's operating system; `port` tells its sessions apart.
pub fn offer(node: usize, port: u8, secret: &str) -> Offer {
    let name = format!("n{node}");
    Offer {
        isid: [0, 2, 0x3d, 0, 0, port],
        chap: Some(Credentials {
            user: name.clone(),
            secret: secret.as_bytes().to_vec(),
        }),
        ..Offer::new(
            &format!("{PREFIX}:{name}.initiator"),
            &format!("{PREFIX}:{name}"),
        )
    }
}

pub fn cdb10(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

/// Runs the node for `time`.
pub fn measure(head: &TestHead, secrets: &Secrets, time: Duration) -> Figures {
    let portal = head.portal.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (secret, pid, over) = (secrets[0].clone(), head.pid(), Arc::clone(&stop));
    let beside = std::thread::spawn(move || beside(portal, &secret, pid, &over));
    let runtime = runtime();
    let mut times = runtime.block_on(work(portal, &secrets[0], time)).unwrap();
    stop.store(true, Relaxed);
    let mut found = beside.join().unwrap();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    (found.p50_us, found.p99_us, found.max_us) = (at(50), at(99), at(100));
    found
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// The times of all reads and writes in microseconds.
async fn work(portal: SocketAddr, secret: &str, time: Duration) -> Result<Vec<u64>, Error> {
    let mut session = Initiator::connect(portal, offer(0, 1, secret)).await?;
    while session.read(0, &[0; 6], 0).await?.status != 0 {}
    let mut times = Vec::new();
    let mut clock = tokio::time::interval(PACE);
    let end = Instant::now() + time;
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0_u32.. {
        clock.tick().await;
        let start = Instant::now();
        if start >= end {
            break;
        }
        for lane in 0..DEPTH {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let lba = u32::try_from(dice % 16_000).unwrap() * 8;
            let command = if round % 8 == 0 && lane == 0 {
                Command::new(0, &cdb10(0x2a, lba, 8), Transfer::Out([7; 4096].into()))
            } else {
                Command::new(0, &cdb10(0x28, lba, 8), Transfer::In(4096, None))
            };
            session.submit(command)?;
        }
        for _ in 0..DEPTH {
            match session.complete().await? {
                Completion::Command(done) => assert_eq!(done.status, 0, "{:02x?}", done.sense),
                other => panic!("{other:?}"),
            }
            times.push(micros(start.elapsed()));
        }
        if round % 64 == 0 {
            session.read(0, &cdb10(0x35, 0, 0), 0).await?;
        }
    }
    session.logout().await?;
    Ok(times)
}

/// Logs in afresh now and then, and looks at the head's memory.
fn beside(portal: SocketAddr, secret: &str, pid: u32, stop: &AtomicBool) -> Figures {
    let mut found = Figures::default();
    runtime().block_on(async {
        let mut clock = tokio::time::interval(LOGIN_EVERY / 5);
        for round in 0_u32.. {
            clock.tick().await;
            if stop.load(Relaxed) {
                break;
            }
            found.rss_max = found.rss_max.max(rss(pid));
            if round % 5 != 0 {
                continue;
            }
            let start = Instant::now();
            found.logins_tried += 1;
            let limit = Duration::from_secs(5);
            let login = Initiator::connect(portal, offer(0, 2, secret));
            if let Ok(Ok(session)) = tokio::time::timeout(limit, login).await {
                found.logins += 1;
                found.login_max_us = found.login_max_us.max(micros(start.elapsed()));
                let _ = session.logout().await;
            }
        }
    });
    found
}

/// Resident memory of a process in bytes.
fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1))
        .map_or(0, |kib| kib.parse::<u64>().unwrap() * 1024)
}
