//! Everything that a machine may send before it has a disk: DHCP, TFTP, HTTP.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Unstructured;
use reveille::boot::DhcpMode;
use reveille::boot::fuzzing::{FIXED, HEAD, RANGE, Rig, Tftp, card, secret};
use reveille::limits;
use reveille::names::Mac;

const MODES: [DhcpMode; 3] = [DhcpMode::Server, DhcpMode::Proxy, DhcpMode::Off];
/// Client classes and user classes that firmware sends.
const CLASSES: [&[u8]; 4] = [
    b"PXEClient:Arch:00000:UNDI:002001",
    b"HTTPClient",
    b"",
    b"MSFT 5.0",
];

/// What DHCP gave away, as an observer sees it.
struct Watch {
    rig: Rig,
    mode: DhcpMode,
    now: Duration,
    /// Who was told an address by ACK, and until when.
    leases: HashMap<Ipv4Addr, (Mac, Duration)>,
    offered: HashMap<Mac, Ipv4Addr>,
}

pub(crate) fn dhcp(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = conversation(&mut u);
}

fn conversation(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let config: u8 = u.arbitrary()?;
    let mode = MODES[usize::from(config & 0x7f) % MODES.len()];
    let mut watch = Watch {
        rig: Rig::new(mode, config & 0x80 == 0),
        mode,
        now: Duration::from_secs(1000),
        leases: HashMap::new(),
        offered: HashMap::new(),
    };
    for _ in 0..60 {
        if u.is_empty() {
            break;
        }
        watch.turn(u)?;
    }
    Ok(())
}

impl Watch {
    fn turn(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let what: u8 = u.arbitrary()?;
        match what & 7 {
            0 => self.now += Duration::from_secs(u64::from(u.arbitrary::<u16>()?)),
            1 => {
                let len = usize::from(u.arbitrary::<u16>()? % 700).min(u.len());
                let bytes = u.bytes(len)?.to_vec();
                self.hear(what & 8 != 0, &bytes);
            }
            2 => self.script(what >> 3),
            3 => {
                self.rig.hold(what >> 3 & 3, what & 0x80 != 0);
                self.rig.loader_sent(
                    Ipv4Addr::from(u32::from(RANGE.0) + u32::from(what >> 5)),
                    self.now,
                );
            }
            _ => {
                let bytes = self.message(u)?;
                self.hear(what & 0x38 == 0x38, &bytes);
            }
        }
        Ok(())
    }

    /// A message of one of eight machines, four of them nodes.
    fn message(&self, u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
        let (who, kind, class, more): (u8, u8, u8, u8) = (
            u.arbitrary()?,
            u.arbitrary()?,
            u.arbitrary()?,
            u.arbitrary()?,
        );
        let mac = card(who & 0x0f);
        let mut bytes = vec![0; 240];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&[9, 9, who, kind]);
        bytes[9] = more;
        bytes[28..34].copy_from_slice(&mac.octets());
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        let mut option = |code: u8, data: &[u8]| {
            bytes.extend_from_slice(&[code, data.len() as u8]);
            bytes.extend_from_slice(data);
        };
        option(
            53,
            &[[1, 3, 3, 3, 4, 7, 8, kind >> 3][usize::from(kind & 7)]],
        );
        let offered = self.offered.get(&mac).copied();
        let ip = match who >> 6 {
            0 | 1 => offered,
            2 => Some(Ipv4Addr::from(u32::from(RANGE.0) + u32::from(more & 15))),
            _ => None,
        };
        if let Some(ip) = ip {
            option(50, &ip.octets());
        }
        if class & 0x10 != 0 {
            option(54, &if class & 0x20 == 0 { HEAD } else { FIXED }.octets());
        }
        let name = CLASSES[usize::from(class & 3)];
        if !name.is_empty() {
            option(60, name);
        }
        if class & 4 != 0 {
            option(77, b"iPXE");
            option(175, &[19, 1, 1, 17, 1, 1]);
        }
        if class & 8 != 0 {
            option(93, &[0, [0, 7, 11, 16][usize::from(kind >> 6)]]);
        }
        if class & 0x40 != 0 {
            option(97, &[more; 17]);
        }
        let len = usize::from(more & 0x3f).min(u.len());
        let raw = u.bytes(len)?;
        bytes.extend_from_slice(raw);
        bytes.push(255);
        if kind & 0x20 != 0 {
            bytes[12..16].copy_from_slice(&ip.unwrap_or(FIXED).octets());
        }
        if class & 0x80 != 0 {
            bytes[24..28].copy_from_slice(&[10, 77, 0, 9]);
        }
        Ok(bytes)
    }

    fn hear(&mut self, on_4011: bool, bytes: &[u8]) {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 99), 68);
        let Some((to, answer)) = self.rig.dhcp(on_4011, from, bytes, self.now) else {
            self.forget(bytes);
            return;
        };
        assert!(self.mode != DhcpMode::Off, "DHCP is off");
        assert!(
            answer.len() >= 300 && answer.len() <= bytes.len() + 1200,
            "{} bytes",
            answer.len()
        );
        assert_eq!(answer[0], 2);
        assert_eq!(answer[4..8], bytes[4..8], "another transaction");
        assert_eq!(answer[28..34], bytes[28..34], "for another machine");
        let options = options(&answer[240..]);
        let kind = options.get(&53).and_then(|o| o.first().copied());
        assert!(matches!(kind, Some(2 | 5 | 6)), "message type {kind:?}");
        assert_eq!(
            options.get(&54).map(Vec::as_slice),
            Some(&HEAD.octets()[..])
        );
        self.check_place(to, from, bytes, kind);
        let ip = Ipv4Addr::new(answer[16], answer[17], answer[18], answer[19]);
        if self.mode == DhcpMode::Proxy || on_4011 {
            assert!(ip.is_unspecified(), "a proxy gives addresses away");
            return;
        }
        self.grant(ip, kind, &options, &bytes[28..34]);
    }

    fn check_place(&self, to: SocketAddrV4, from: SocketAddrV4, bytes: &[u8], kind: Option<u8>) {
        let field =
            |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        let good = to == from
            || to == SocketAddrV4::new(Ipv4Addr::BROADCAST, 68)
            || to == SocketAddrV4::new(field(24), 67)
            || (to == SocketAddrV4::new(field(12), 68) && kind != Some(6));
        assert!(good, "an answer to {to}");
    }

    /// An address is one machine's at a time.
    fn grant(
        &mut self,
        ip: Ipv4Addr,
        kind: Option<u8>,
        options: &HashMap<u8, Vec<u8>>,
        mac: &[u8],
    ) {
        if ip.is_unspecified() {
            return;
        }
        let mac = Mac::new(mac.try_into().expect("six octets"));
        let in_range = (RANGE.0..=RANGE.1).contains(&ip);
        assert!(
            in_range || (ip == FIXED && mac == card(2)),
            "{ip} for {mac}"
        );
        self.offered.insert(mac, ip);
        // Who asks anew has given up what it had (RFC 2131 3.2).
        self.leases.retain(|_, (holder, _)| *holder != mac);
        if kind != Some(5) {
            return;
        }
        let seconds = options
            .get(&51)
            .and_then(|o| <[u8; 4]>::try_from(o.as_slice()).ok());
        let seconds =
            u32::from_be_bytes(seconds.expect("an ACK with an address and no lease time"));
        let until = self.now + Duration::from_secs(seconds.into());
        if let Some((other, their_end)) = self.leases.insert(ip, (mac, until)) {
            assert!(
                other == mac || their_end <= self.now,
                "{ip} is {other}'s and {mac}'s"
            );
        }
    }

    /// DECLINE and RELEASE give an address back; so does taking another server's offer.
    fn forget(&mut self, bytes: &[u8]) {
        let Some(mac) = bytes.get(28..34).and_then(|m| m.try_into().ok()) else {
            return;
        };
        let mac = Mac::new(mac);
        self.leases.retain(|_, (holder, _)| *holder != mac);
    }

    /// No machine is told the secret of another, and no line is one that we did not mean.
    fn script(&self, who: u8) {
        let mac = card(who & 7);
        let peer = self.offered.get(&mac).copied().unwrap_or(FIXED);
        let text = self.rig.script(mac, "bios", IpAddr::V4(peer), self.now);
        check_script(&text, who & 7);
    }
}

fn check_script(text: &str, who: u8) {
    assert!(text.starts_with("#!ipxe\n") && text.ends_with('\n') && text.len() < 4096);
    assert!(
        text.bytes()
            .all(|b| b == b'\n' || (b' '..=b'~').contains(&b)),
        "{text:?}"
    );
    let verbs = [
        "#!ipxe", "echo", "set", "sanboot", "sleep", "chain", "exit", "dhcp",
    ];
    for line in text.lines() {
        let verb = line.split(' ').next().unwrap_or_default();
        assert!(verbs.contains(&verb) || verb.starts_with(':'), "{line}");
    }
    for other in (1..=4).filter(|n| *n != who) {
        assert!(
            !text.contains(&secret(other)),
            "the secret of node {other} for {who}"
        );
    }
}

/// Options of a message, joined as RFC 3396 says.
fn options(mut bytes: &[u8]) -> HashMap<u8, Vec<u8>> {
    let mut found: HashMap<u8, Vec<u8>> = HashMap::new();
    while let Some((&code, rest)) = bytes.split_first() {
        bytes = rest;
        match code {
            0 => {}
            255 => return found,
            _ => {
                let (&len, rest) = rest.split_first().expect("an option without a length");
                let (data, rest) = rest.split_at_checked(len.into()).expect("an option is cut");
                found.entry(code).or_default().extend_from_slice(data);
                bytes = rest;
            }
        }
    }
    panic!("an answer without its end");
}

/// A transfer with a client that is slow, loses, repeats, or lies.
pub(crate) fn tftp(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = transfer(&mut u);
}

/// Half of the sizes lie near a block's end.
fn file_of(size: u16) -> Arc<[u8]> {
    let size = match size {
        0x8000.. => (size >> 4 & 0x3f) * 512 + (size & 0x0f),
        size => size,
    };
    (0..u32::from(size))
        .map(|n| (n * 7 + n / 256) as u8)
        .collect()
}

fn transfer(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let (size, len): (u16, u8) = (u.arbitrary()?, u.arbitrary()?);
    let file = file_of(size);
    let request = u.bytes(usize::from(len).min(u.len()))?;
    let mut now = Duration::from_secs(5);
    let Some(mut transfer) = Tftp::begin(request, Arc::clone(&file), now) else {
        return Ok(());
    };
    let mut got: Vec<u8> = Vec::new();
    let (mut block, mut highest, mut sent) = (512, 0_u16, 0_u32);
    for _ in 0..600 {
        while let Some(packet) = transfer.poll(now) {
            sent += 1;
            assert!(sent < 60_000, "a transfer without an end");
            assert!(packet.len() <= 4 + usize::from(limits::TFTP_BLOCK_MAX));
            match packet[1] {
                6 => block = agreed(&packet).unwrap_or(512),
                3 => {
                    let number = u16::from_be_bytes([packet[2], packet[3]]);
                    if number == highest.wrapping_add(1) {
                        highest = number;
                        got.extend_from_slice(&packet[4..]);
                        assert!(file.starts_with(&got), "block {number} holds other bytes");
                        assert_eq!(
                            packet.len() < 4 + block,
                            got.len() == file.len() && packet.len() < 4 + block
                        );
                    }
                }
                other => panic!("opcode {other}"),
            }
        }
        if transfer.ended().is_some() || u.is_empty() {
            break;
        }
        let step: u8 = u.arbitrary()?;
        let ack = |number: u16| [vec![0, 4], number.to_be_bytes().to_vec()].concat();
        match step & 7 {
            0..=3 => transfer.hear(&ack(highest)),
            4 => transfer.hear(&ack(highest.wrapping_sub(1))),
            5 => transfer.hear(&ack(u.arbitrary()?)),
            6 => {
                let raw = u.bytes(usize::from(step >> 3).min(u.len()))?.to_vec();
                transfer.hear(&raw);
            }
            _ => now = transfer.tick(now).max(now) + Duration::from_millis(1),
        }
    }
    if transfer.ended() == Some(true) {
        assert!(
            got == *file,
            "ended whole with {} of {} bytes",
            got.len(),
            file.len()
        );
    }
    silence_ends(&mut transfer, now);
    Ok(())
}

/// Whatever it was told, a client that falls silent is given up.
fn silence_ends(transfer: &mut Tftp, mut now: Duration) {
    for _ in 0..4 * (limits::TFTP_RETRIES + 1) {
        while transfer.poll(now).is_some() {}
        now = transfer.tick(now).max(now) + Duration::from_millis(1);
        while transfer.poll(now).is_some() {}
    }
    assert!(
        transfer.ended().is_some(),
        "a silent client is never given up"
    );
}

/// The block size in an OACK.
fn agreed(packet: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(&packet[2..]).expect("an OACK is text");
    let mut words = text.split('\0');
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        if name == "blksize" {
            return value.parse().ok();
        }
    }
    None
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without I/O");
}

/// A GET with any target: a status that we know, and a text that can be shown.
pub(crate) fn http(input: &[u8]) {
    let Some((&config, target)) = input.split_first() else {
        return;
    };
    let Ok(target) = std::str::from_utf8(target) else {
        return;
    };
    let rig = Rig::new(MODES[usize::from(config) % MODES.len()], true);
    let peer = SocketAddr::from(([10, 77, 0, 50 + (config >> 4)], 1234));
    let Some((status, body)) = RUNTIME.with(|rt| rt.block_on(rig.get(target, peer))) else {
        return;
    };
    assert!(
        matches!(status, 200 | 400 | 403 | 404),
        "status {status} for {target:?}"
    );
    assert!(body.len() < 8192, "{} bytes for {target:?}", body.len());
    let text = String::from_utf8(body).expect("a text");
    let path = target.split(['?', '#']).next().unwrap_or_default();
    if status == 200 && path == "/boot" {
        let told = (1..=4).find(|n| text.contains(&secret(*n)));
        check_script(&text, told.unwrap_or(0));
        assert!(told.is_none_or(|n| config % 3 == 2 && target.contains("mac") && n > 0));
    }
}
