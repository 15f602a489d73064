//! The attacks, each bounded in time and number, from many addresses of loopback. They run in a process of their own
//! and print `connections attempts/s refused` at the end.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use reveille::iscsi::frame::Encoder;
use reveille::iscsi::initiator::offer::{Client, LoggedIn, Next};
use reveille::iscsi::pdu::{Bhs, RESERVED_TAG, op};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ACCOMPLICES;
use crate::node::{Secrets, cdb10, offer};

/// All attacks, in the order of the table.
pub const NAMES: &[&str] = &[
    "spin",
    "slow-loris",
    "half-open",
    "wrong-secret",
    "wrong-secret-as-the-node",
    "garbage",
    "giant-length",
    "connect-close",
    "login-logout",
    "zero-window",
    "nop-flood",
    "nop-unread",
    "cmdsn-abuse",
    "dead-data-out",
];

/// What an attacker knows and counts.
struct Plan {
    portal: SocketAddr,
    secrets: Secrets,
    end: Instant,
    connections: AtomicU64,
    attempts: AtomicU64,
    refused: AtomicU64,
}

type Shared = Rc<Plan>;

impl Plan {
    fn on(&self) -> bool {
        Instant::now() < self.end
    }

    fn attempt(&self) {
        self.attempts.fetch_add(1, Relaxed);
    }

    fn refusal(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Connects from one of `spread` addresses.
    async fn connect(&self, n: usize, spread: usize) -> Option<TcpStream> {
        let [.., b, c] = u32::try_from(n % spread + 1).unwrap().to_be_bytes();
        self.connect_from(Ipv4Addr::from([127, 66, b, c])).await
    }

    async fn connect_from(&self, address: Ipv4Addr) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind((address, 0).into()).ok()?;
        let stream = timeout(Duration::from_secs(2), socket.connect(self.portal)).await;
        match stream {
            Ok(Ok(stream)) => Some(stream),
            _ => {
                self.refusal();
                // No more ports, or the head does not take connections: no reason to spin.
                sleep(Duration::from_millis(5)).await;
                None
            }
        }
    }
}

/// Runs one attack as the environment says, and prints what it counted.
pub fn run(name: &str) {
    let var = |key: &str| std::env::var(key).unwrap();
    let seconds: u64 = var("REVEILLE_ATTACK_SECONDS").parse().unwrap();
    let start = Instant::now();
    let plan = Rc::new(Plan {
        portal: var("REVEILLE_ATTACK_PORTAL").parse().unwrap(),
        secrets: std::fs::read_to_string(var("REVEILLE_ATTACK_SECRETS"))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect(),
        end: start + Duration::from_secs(seconds),
        connections: AtomicU64::new(0),
        attempts: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    let local = tokio::task::LocalSet::new();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    local.block_on(&runtime, carry_out(name, Rc::clone(&plan)));
    let elapsed = start.elapsed().as_millis().max(1);
    let attempts = u128::from(plan.attempts.load(Relaxed));
    println!(
        "{} {} {}",
        plan.connections.load(Relaxed),
        attempts * 1000 / elapsed,
        plan.refused.load(Relaxed)
    );
}

async fn carry_out(name: &str, plan: Shared) {
    let mut tasks = JoinSet::new();
    let count = match name {
        "spin" => 0,
        "slow-loris" => 1000,
        "half-open" => 5000,
        "zero-window" => ACCOMPLICES * 4,
        "nop-flood" | "nop-unread" | "cmdsn-abuse" | "dead-data-out" => ACCOMPLICES,
        _ => 64,
    };
    for n in 0..count {
        let plan = Rc::clone(&plan);
        match name {
            "slow-loris" => tasks.spawn_local(slow_loris(plan, n)),
            "half-open" => tasks.spawn_local(half_open(plan, n)),
            "wrong-secret" => tasks.spawn_local(wrong_secret(plan, n, false)),
            "wrong-secret-as-the-node" => tasks.spawn_local(wrong_secret(plan, n, true)),
            "garbage" => tasks.spawn_local(nonsense(plan, n, vec![0x47; 512])),
            "giant-length" => tasks.spawn_local(nonsense(plan, n, giant())),
            "connect-close" => tasks.spawn_local(nonsense(plan, n, Vec::new())),
            "login-logout" => tasks.spawn_local(login_logout(plan, n)),
            "zero-window" => tasks.spawn_local(zero_window(plan, n)),
            _ => tasks.spawn_local(flood(plan, n, name.to_owned())),
        };
    }
    plan.connections
        .store(u64::try_from(count).unwrap(), Relaxed);
    if count == 0 {
        while plan.on() {
            plan.attempt();
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn giant() -> Vec<u8> {
    let mut bhs = Bhs::new(op::LOGIN | 0x40);
    bhs.put_u8(1, 0x87);
    bhs.put_u8(4, 255);
    bhs.set_data_len(0xff_ffff);
    bhs.0.to_vec()
}

async fn slow_loris(plan: Shared, n: usize) {
    while plan.on() {
        let Some(mut stream) = plan.connect(n, 100).await else {
            continue;
        };
        plan.attempt();
        let bhs = Bhs::new(op::LOGIN | 0x40);
        for byte in &bhs.0 {
            if !plan.on() {
                return;
            }
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            // A second of silence, or the end.
            if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_secs(1), stream.read(&mut [0])).await
            {
                plan.refusal();
                break;
            }
        }
    }
}

async fn half_open(plan: Shared, n: usize) {
    while plan.on() {
        let Some(mut stream) = plan.connect(n, 50).await else {
            continue;
        };
        plan.attempt();
        let rest = plan.end.saturating_duration_since(Instant::now());
        if timeout(rest, stream.read(&mut [0])).await.is_ok() {
            plan.refusal();
        }
    }
}

/// Says something senseless, and waits for the end.
async fn nonsense(plan: Shared, n: usize, bytes: Vec<u8>) {
    let mut round = n;
    while plan.on() {
        round += 64;
        let Some(mut stream) = plan.connect(round, 200).await else {
            continue;
        };
        plan.attempt();
        if bytes.is_empty() {
            continue;
        }
        let _ = stream.write_all(&bytes).await;
        let mut waste = [0; 64];
        while matches!(
            timeout(Duration::from_secs(5), stream.read(&mut waste)).await,
            Ok(Ok(1..))
        ) {}
        plan.refusal();
    }
}

async fn receive(stream: &mut TcpStream) -> Option<(Bhs, Vec<u8>)> {
    let mut bhs = Bhs([0; 48]);
    stream.read_exact(&mut bhs.0).await.ok()?;
    let len = bhs.data_len() as usize;
    let mut data = vec![0; len.next_multiple_of(4)];
    stream.read_exact(&mut data).await.ok()?;
    data.truncate(len);
    Some((bhs, data))
}

async fn log_in(
    stream: &mut TcpStream,
    node: usize,
    port: u8,
    secret: &str,
) -> Option<Box<LoggedIn>> {
    let mut client = Client::new(offer(node, port, secret));
    let (mut bhs, mut data) = client.start();
    loop {
        let mut bytes = Vec::new();
        Encoder::default().pdu(bhs, &[], &data, &mut bytes);
        stream.write_all(&bytes).await.ok()?;
        let (answer, text) = receive(stream).await?;
        match client.answer(&answer, &text).ok()? {
            Next::Send(next, text) => (bhs, data) = (next, text),
            Next::Done(login) => return Some(login),
            Next::Redirect(_) => return None,
        }
    }
}

/// In the name of other nodes from many addresses, or in the well-behaved node's own name and from its address.
async fn wrong_secret(plan: Shared, n: usize, as_the_node: bool) {
    let mut round = n;
    while plan.on() {
        round += 1;
        let stream = if as_the_node {
            plan.connect_from(Ipv4Addr::LOCALHOST).await
        } else {
            plan.connect(round, 16).await
        };
        let Some(mut stream) = stream else { continue };
        plan.attempt();
        let node = if as_the_node {
            0
        } else {
            1 + round % ACCOMPLICES
        };
        let login = log_in(&mut stream, node, 9, "not the secret!!");
        let rest = plan.end.saturating_duration_since(Instant::now());
        if let Ok(None) = timeout(rest, login).await {
            plan.refusal();
        }
    }
}

async fn login_logout(plan: Shared, n: usize) {
    let node = 1 + n % ACCOMPLICES;
    while plan.on() {
        let Some(mut stream) = plan.connect(n, 200).await else {
            continue;
        };
        plan.attempt();
        let rest = plan.end.saturating_duration_since(Instant::now());
        let port = u8::try_from(n).unwrap();
        let login = log_in(&mut stream, node, port, &plan.secrets[node]);
        let Ok(Some(_)) = timeout(rest, login).await else {
            plan.refusal();
            continue;
        };
        let mut bhs = Bhs::new(op::LOGOUT | 0x40);
        bhs.put_u8(1, 0x80);
        bhs.put_u32(16, 1);
        let _ = stream.write_all(&bhs.0).await;
        let _ = timeout(Duration::from_secs(1), receive(&mut stream)).await;
    }
}

fn command(n: u32, cmd_sn: u32, flags: u8, len: u32, cdb: &[u8]) -> Bhs {
    let mut bhs = Bhs::new(op::SCSI_COMMAND);
    bhs.put_u8(1, flags | 1);
    bhs.put_u32(16, n);
    bhs.put_u32(20, len);
    bhs.put_u32(24, cmd_sn);
    bhs.0[32..32 + cdb.len()].copy_from_slice(cdb);
    bhs
}

/// Asks for 64 reads of 1 MiB, and never takes any.
async fn zero_window(plan: Shared, n: usize) {
    let node = 1 + n % ACCOMPLICES;
    while plan.on() {
        let Some(mut stream) = plan.connect(n, 200).await else {
            continue;
        };
        plan.attempt();
        let port = u8::try_from(n).unwrap();
        let Some(login) = log_in(&mut stream, node, port, &plan.secrets[node]).await else {
            plan.refusal();
            continue;
        };
        for lane in 0..64 {
            let lba = u32::from(lane % 32_u8) * 2048;
            let cdb = cdb10(0x28, lba, 2048);
            let bhs = command(
                100 + u32::from(lane),
                login.cmd_sn + u32::from(lane),
                0xc0,
                1 << 20,
                &cdb,
            );
            let _ = stream.write_all(&bhs.0).await;
        }
        sleep(plan.end.saturating_duration_since(Instant::now())).await;
    }
}

/// A batch of PDUs that costs the head work and earns no rejects.
fn batch(name: &str, cmd_sn: u32, dead: (u32, u32)) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..256 {
        let bhs = match name {
            "cmdsn-abuse" => command(7, cmd_sn.wrapping_sub(9), 0xc0, 4096, &cdb10(0x28, 0, 8)),
            "dead-data-out" => {
                let mut bhs = Bhs::new(op::DATA_OUT);
                bhs.put_u32(16, dead.0);
                bhs.put_u32(20, dead.1);
                bhs
            }
            _ => {
                let mut bhs = Bhs::new(op::NOP_OUT | 0x40);
                bhs.put_u8(1, 0x80);
                bhs.put_u32(16, 5);
                bhs.put_u32(20, RESERVED_TAG);
                bhs.put_u32(24, cmd_sn);
                bhs
            }
        };
        bytes.extend_from_slice(&bhs.0);
    }
    bytes
}

/// A session that sends as fast as the head takes it.
async fn flood(plan: Shared, n: usize, name: String) {
    let node = 1 + n % ACCOMPLICES;
    while plan.on() {
        let Some(mut stream) = plan.connect(n, 200).await else {
            continue;
        };
        let Some(login) = log_in(&mut stream, node, 3, &plan.secrets[node]).await else {
            plan.refusal();
            continue;
        };
        let mut cmd_sn = login.cmd_sn;
        let mut dead = (0, 0);
        if name == "dead-data-out" {
            // A new nexus is told a unit attention or two first: each takes one command.
            for tag in 1..6 {
                let bhs = command(tag, cmd_sn, 0xa0, 4096, &cdb10(0x2a, 0, 8));
                cmd_sn += 1;
                let _ = stream.write_all(&bhs.0).await;
                let Some((answer, _)) = receive(&mut stream).await else {
                    break;
                };
                if answer.opcode() == op::R2T {
                    dead = (tag, answer.ttt());
                    break;
                }
            }
            let mut abort = Bhs::new(op::TASK_MANAGEMENT | 0x40);
            abort.put_u8(1, 0x81);
            abort.put_u32(16, 99);
            abort.put_u32(20, dead.0);
            abort.put_u32(24, cmd_sn);
            let _ = stream.write_all(&abort.0).await;
            let _ = receive(&mut stream).await;
        }
        let bytes = batch(&name, cmd_sn, dead);
        let (mut from, mut to) = stream.split();
        let send = async {
            while plan.on() && to.write_all(&bytes).await.is_ok() {
                plan.attempts.fetch_add(256, Relaxed);
            }
        };
        let take = async {
            if name == "nop-unread" {
                std::future::pending::<()>().await;
            }
            let mut waste = vec![0; 65_536];
            while matches!(from.read(&mut waste).await, Ok(1..)) {}
        };
        let rest = plan.end.saturating_duration_since(Instant::now());
        let both = async {
            tokio::select! { () = send => {}, () = take => {} }
        };
        let _ = timeout(rest, both).await;
        if plan.on() {
            plan.refusal();
        }
    }
}
