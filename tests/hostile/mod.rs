//! Raw peers without manners, and a scene to try them on: a real head with a well-behaved session beside them.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use reveille::iscsi::frame::Encoder;
use reveille::iscsi::initiator::Initiator;
use reveille::iscsi::initiator::engine::{Command, Transfer};
use reveille::iscsi::initiator::offer::Offer;
use reveille::iscsi::login::Credentials;
use reveille::iscsi::pdu::{Bhs, RESERVED_TAG, op};
use socket2::{Domain, Socket, Type};
use tokio::time::timeout;

use crate::common::{PATIENCE, TestHead, raw_disk};

pub const PREFIX: &str = "iqn.2026-11.internal.reveille";
pub const SECTOR: usize = 512;
pub const MIB: u64 = 8;
pub const GOOD: u8 = 0;
pub const CHECK: u8 = 2;
pub const TASK_SET_FULL: u8 = 0x28;
/// First byte of a login request.
pub const LOGIN: u8 = op::LOGIN | 0x40;
/// Operational stage, straight to the full feature phase.
pub const LAST: u8 = 0x87;

pub fn target(node: &str) -> String {
    format!("{PREFIX}:{node}")
}

/// An address of loopback that nobody has used yet: limits are per address.
pub fn fresh_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Relaxed);
    let pid = std::process::id() % 200;
    let [.., b, c] = (n + 1).to_be_bytes();
    Ipv4Addr::from([127, u8::try_from(20 + pid).unwrap(), b, c])
}

/// A head with nodes n1 and n2, and a session of n2 that must never notice anything.
pub struct Scene {
    pub head: TestHead,
    pub portal: SocketAddr,
    runtime: tokio::runtime::Runtime,
    bystander: Initiator,
    secret: Option<Credentials>,
    pid: u32,
    rss: u64,
    turn: u8,
}

impl Scene {
    pub fn new() -> Self {
        Self::with_auth("none")
    }

    pub fn with_auth(auth: &str) -> Self {
        let config = format!("[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"{auth}\"\n");
        let mut head = TestHead::with_config(&config);
        raw_disk(&head.path("golden.raw"), MIB);
        let raw = head.path("golden.raw").display().to_string();
        head.good(&["image", "import", &raw, "--name", "golden"]);
        for (at, name) in ["n1", "n2"].iter().enumerate() {
            let mac = format!("52:54:00:00:00:{:02x}", at + 1);
            head.good(&["node", "add", name, "--image", "golden", "--mac", &mac]);
        }
        head.serve();
        let portal = head.portal.unwrap();
        let secret = (auth == "chap").then(|| secret_of(&head, "n2"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let bystander = runtime.block_on(log_in(portal, "n2", 1, secret.clone()));
        let pid = head.pid();
        let mut scene = Self {
            head,
            portal,
            runtime,
            bystander,
            secret,
            pid,
            rss: 0,
            turn: 0,
        };
        scene.use_disk();
        scene.rss = rss(pid);
        scene
    }

    pub fn secret(&self, node: &str) -> Credentials {
        secret_of(&self.head, node)
    }

    /// A connection from an address of its own.
    pub fn stranger(&self) -> Raw {
        Raw::from(self.portal, fresh_address())
    }

    /// A session of n1, from an address of its own.
    pub fn session(&self) -> Raw {
        self.session_with("")
    }

    /// The same, with further keys.
    pub fn session_with(&self, keys: &str) -> Raw {
        let mut raw = self.stranger();
        raw.log_in("n1", 1, keys);
        raw.settle();
        raw
    }

    /// The well-behaved session works, a new one gets in, and the head is the same and has not grown.
    pub fn check(&mut self) {
        self.check_within(64 << 20);
    }

    pub fn check_within(&mut self, growth: u64) {
        self.use_disk();
        let (portal, secret) = (self.portal, self.secret.clone());
        let fresh = self.runtime.block_on(log_in(portal, "n2", 2, secret));
        drop(fresh);
        assert_eq!(self.head.pid(), self.pid);
        let now = rss(self.pid);
        assert!(now > 0, "the head is gone: {}", self.head.log());
        assert!(
            now < self.rss + growth,
            "the head grew from {} to {now} bytes",
            self.rss
        );
        assert!(!self.head.log().contains("panicked"), "{}", self.head.log());
    }

    fn use_disk(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        let data = vec![self.turn; 8 * SECTOR];
        let session = &mut self.bystander;
        let work = async {
            let write = Command::new(0, &cdb10(0x2a, 64, 8), Transfer::Out(data[..].into()));
            assert_eq!(session.execute(write).await.unwrap().status, GOOD);
            let len = u32::try_from(data.len()).unwrap();
            let back = session.read(0, &cdb10(0x28, 64, 8), len).await.unwrap();
            assert_eq!(back.data, data);
        };
        let work = async { timeout(PATIENCE, work).await };
        self.runtime
            .block_on(work)
            .expect("the well-behaved session hangs");
    }
}

/// Resident memory of a process in bytes; 0 when it is gone.
pub fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1))
        .map_or(0, |kib| kib.parse::<u64>().unwrap() * 1024)
}

fn secret_of(head: &TestHead, node: &str) -> Credentials {
    let shown = head.good(&["node", "secret", node, "-o", "json"]);
    let mut shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    if shown.is_array() {
        shown = shown[0].take();
    }
    Credentials {
        user: node.into(),
        secret: shown["secret"].as_str().unwrap().as_bytes().to_vec(),
    }
}

async fn log_in(portal: SocketAddr, node: &str, port: u8, chap: Option<Credentials>) -> Initiator {
    let offer = Offer {
        isid: [0, 2, 0x3d, 0, 0, port],
        chap,
        ..Offer::new(&format!("{PREFIX}:{node}.initiator"), &target(node))
    };
    let session = timeout(PATIENCE, Initiator::connect(portal, offer)).await;
    let mut session = session.expect("the login hangs").unwrap();
    for _ in 0..8 {
        if session.read(0, &[0; 6], 0).await.unwrap().status == GOOD {
            return session;
        }
    }
    panic!("the unit attentions do not end");
}

pub fn cdb10(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}

/// A connection that says what it likes.
pub struct Raw {
    pub stream: TcpStream,
    pub cmd_sn: u32,
    pub itt: u32,
    pub cid: u16,
    pub isid: [u8; 6],
}

impl Raw {
    pub fn from(portal: SocketAddr, source: Ipv4Addr) -> Self {
        Self::with_window(portal, source, None)
    }

    /// `window` bytes of receive buffer: a peer that takes little.
    pub fn with_window(portal: SocketAddr, source: Ipv4Addr, window: Option<usize>) -> Self {
        let start = Instant::now();
        let socket = loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
            if let Some(bytes) = window {
                socket.set_recv_buffer_size(bytes).unwrap();
            }
            match socket.connect(&portal.into()) {
                Ok(()) => break socket,
                // The head may turn a connection away before `connect` has returned; initiators try again.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    assert!(start.elapsed() < PATIENCE, "every connection is reset");
                }
                Err(error) => panic!("{source} does not reach {portal}: {error}"),
            }
        };
        socket.set_tcp_nodelay(true).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            cmd_sn: 1,
            itt: 0x100,
            cid: 1,
            isid: [0, 2, 0x3d, 0, 0, 9],
        }
    }

    /// Sends bytes; a peer that has closed meanwhile is no error here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn put(&mut self, bhs: Bhs, data: &[u8]) {
        self.put_ahs(bhs, &[], data);
    }

    pub fn put_ahs(&mut self, bhs: Bhs, ahs: &[u8], data: &[u8]) {
        let mut bytes = Vec::new();
        Encoder::default().pdu(bhs, ahs, data, &mut bytes);
        self.send(&bytes);
    }

    /// The next PDU; none when the head closed.
    pub fn receive(&mut self) -> Option<(Bhs, Vec<u8>)> {
        let mut bhs = Bhs([0; 48]);
        if !self.fill(&mut bhs.0) {
            return None;
        }
        let len = bhs.data_len() as usize;
        let mut data = vec![0; len.next_multiple_of(4)];
        if !self.fill(&mut data) {
            return None;
        }
        data.truncate(len);
        Some((bhs, data))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> bool {
        match self.stream.read_exact(bytes) {
            Ok(()) => true,
            Err(e) => {
                let waited = matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!waited, "the head neither answers nor closes");
                false
            }
        }
    }

    /// Reads until the head closes; what it said before.
    pub fn closed(&mut self) -> Vec<Bhs> {
        std::iter::from_fn(|| self.receive().map(|(bhs, _)| bhs)).collect()
    }

    /// The next PDU, which must be a Reject with this reason.
    pub fn rejected(&mut self, reason: u8, what: &str) {
        let (bhs, header) = self.receive().unwrap_or_else(|| panic!("{what}: closed"));
        assert_eq!((bhs.opcode(), bhs.u8_at(2)), (op::REJECT, reason), "{what}");
        assert_eq!(header.len(), 48, "{what}");
    }

    /// A login request with the stage flags and text.
    pub fn login_request(&self, flags: u8, text: &[u8]) -> Bhs {
        let mut bhs = Bhs::new(LOGIN);
        bhs.put_u8(1, flags);
        bhs.0[8..14].copy_from_slice(&self.isid);
        bhs.put_u32(16, 1);
        bhs.put_u16(20, self.cid);
        bhs.put_u32(24, self.cmd_sn);
        bhs.set_data_len(u32::try_from(text.len()).unwrap());
        bhs
    }

    /// One login request and its answer; none when the head closed.
    pub fn say(&mut self, flags: u8, text: &[u8]) -> Option<(Bhs, Vec<u8>)> {
        let bhs = self.login_request(flags, text);
        self.put(bhs, text);
        self.receive()
    }

    /// The status of a login request's answer.
    pub fn status(&mut self, flags: u8, text: &[u8]) -> u16 {
        let (bhs, _) = self.say(flags, text).expect("an answer");
        assert_eq!(bhs.opcode(), op::LOGIN_RESPONSE);
        bhs.u16_at(36)
    }

    /// Logs in without CHAP.
    pub fn log_in(&mut self, node: &str, port: u8, keys: &str) {
        self.isid[5] = port;
        self.enter(&format!("{}{keys}", names(node)));
    }

    /// Logs in to a node under a name that nobody else has.
    pub fn log_in_as(&mut self, who: &str, node: &str, keys: &str) {
        let initiator = format!("InitiatorName=iqn.2026-11.t:{who}\0");
        self.enter(&format!("{initiator}TargetName={}\0{keys}", target(node)));
    }

    fn enter(&mut self, text: &str) {
        let (bhs, answer) = self.say(LAST, text.as_bytes()).expect("an answer");
        let said = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!((bhs.u16_at(36), bhs.flags()), (0, LAST), "{said}");
    }

    /// Takes the unit attentions that a new nexus is told.
    pub fn settle(&mut self) {
        for _ in 0..8 {
            if self.command(0x80, 0, &[0; 6], &[]).0 == GOOD {
                return;
            }
        }
        panic!("the unit attentions do not end");
    }

    /// A request of the full feature phase with the next CmdSN and a new tag.
    pub fn request(&mut self, opcode: u8) -> Bhs {
        self.itt += 1;
        let mut bhs = Bhs::new(opcode);
        bhs.put_u8(1, 0x80);
        bhs.put_u32(16, self.itt);
        bhs.put_u32(20, RESERVED_TAG);
        bhs.put_u32(24, self.cmd_sn);
        if opcode & 0x40 == 0 {
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
        }
        bhs
    }

    /// A SCSI command with these flags (0x80 F, 0x40 R, 0x20 W) and expected length.
    pub fn scsi(&mut self, flags: u8, edtl: u32, cdb: &[u8]) -> Bhs {
        let mut bhs = self.request(op::SCSI_COMMAND);
        bhs.put_u8(1, flags | 1);
        bhs.put_u32(20, edtl);
        let cdb = &cdb[..cdb.len().min(16)];
        bhs.0[32..32 + cdb.len()].copy_from_slice(cdb);
        bhs
    }

    /// Runs a command with immediate data; status, sense, data, and the residual as flags and count.
    pub fn command(
        &mut self,
        flags: u8,
        edtl: u32,
        cdb: &[u8],
        data: &[u8],
    ) -> (u8, Vec<u8>, Vec<u8>, (u8, u32)) {
        let bhs = self.scsi(flags, edtl, cdb);
        self.put(bhs, data);
        self.outcome(bhs.itt())
    }

    /// The outcome of a command that was sent; R2Ts and other things on the way are a failure.
    pub fn outcome(&mut self, itt: u32) -> (u8, Vec<u8>, Vec<u8>, (u8, u32)) {
        let mut received = Vec::new();
        loop {
            let (bhs, data) = self.receive().expect("the head closed on a command");
            assert_eq!(bhs.itt(), itt, "{bhs:?}");
            let residual = (bhs.flags() & 0x06, bhs.u32_at(44));
            match bhs.opcode() {
                op::DATA_IN => {
                    received.extend(data);
                    if bhs.flags() & 1 != 0 {
                        return (bhs.u8_at(3), Vec::new(), received, residual);
                    }
                }
                op::SCSI_RESPONSE => {
                    assert_eq!(bhs.u8_at(2), 0);
                    let sense = data.get(2..).unwrap_or_default().to_vec();
                    return (bhs.u8_at(3), sense, received, residual);
                }
                other => panic!("opcode {other:#x} for a command"),
            }
        }
    }

    /// Pings; whatever comes before its answer.
    pub fn ping(&mut self) -> Vec<Bhs> {
        let bhs = self.request(op::NOP_OUT | 0x40);
        self.put(bhs, b"");
        let mut before = Vec::new();
        loop {
            let (answer, _) = self.receive().expect("the head closed instead of a ping");
            if answer.opcode() == op::NOP_IN && answer.itt() == bhs.itt() {
                return before;
            }
            before.push(answer);
        }
    }

    /// Nothing was said since the last answer, and nothing is now.
    pub fn silent(&mut self, what: &str) {
        let said = self.ping();
        assert!(said.is_empty(), "{what}: {said:?}");
    }

    /// Task management, immediate; its response.
    pub fn manage(&mut self, function: u8, lun: u64, tag: u32) -> u8 {
        let mut bhs = self.request(op::TASK_MANAGEMENT | 0x40);
        bhs.put_u8(1, 0x80 | function);
        bhs.put_u64(8, lun);
        bhs.put_u32(20, tag);
        self.put(bhs, b"");
        loop {
            let (answer, _) = self.receive().expect("the head closed on task management");
            if answer.opcode() == op::TASK_MANAGEMENT_RESPONSE && answer.itt() == bhs.itt() {
                return answer.u8_at(2);
            }
        }
    }

    /// Ends with a reset instead of a farewell.
    pub fn reset(self) {
        let socket = Socket::from(self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// The keys every login begins with.
pub fn names(node: &str) -> String {
    format!(
        "InitiatorName={PREFIX}:{node}.initiator\0TargetName={}\0SessionType=Normal\0",
        target(node)
    )
}

/// Key, ASC and ASCQ of fixed or descriptor sense.
pub fn sense(bytes: &[u8]) -> (u8, u8, u8) {
    if bytes.len() < 14 {
        return (0, 0, 0);
    }
    match bytes[0] & 0x7f {
        0x72 | 0x73 => (bytes[1] & 15, bytes[2], bytes[3]),
        _ => (bytes[2] & 15, bytes[12], bytes[13]),
    }
}

/// xorshift: the same on every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[3]
    }
}
