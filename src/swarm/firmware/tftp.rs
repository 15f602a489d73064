//! TFTP as a PXE ROM fetches its loader: RFC 1350 with the options of RFC 2347 to 2349. Pure: datagrams and time in,
//! datagrams out.
//!
//! ```text
//!   RRQ tsize --OACK--> ERROR "aborted" --> RRQ blksize --OACK--> ACK 0 --DATA 1--> ACK 1 ... --short DATA--> whole
//!   `-- a buffer must be made first ---'    `-------- the file, one block at a time ----------------'
//! ```
//! Each of the two requests is a transfer of its own: the answer's port is the transfer's (RFC 1350, 4), and whatever
//! comes from elsewhere is answered with error 5 and changes nothing.

use std::net::{IpAddr, SocketAddr};

use super::micros;
use crate::limits::{
    LOADER_BYTES_MAX, SWARM_TFTP_BLOCK, SWARM_TFTP_TRIES, SWARM_TFTP_WAIT, SWARM_TFTP_WAIT_MAX,
};

/// A file on its way.
#[derive(Debug)]
pub(super) struct Fetch {
    file: String,
    server: SocketAddr,
    phase: Phase,
    /// The transfer's other end, once it has answered.
    peer: Option<SocketAddr>,
    /// What is repeated when nothing comes.
    last: Vec<u8>,
    /// Datagrams to send.
    out: Vec<(SocketAddr, Vec<u8>)>,
    deadline: u64,
    tries: u32,
    block_size: usize,
    /// Blocks that came whole.
    blocks: u64,
    announced: Option<u64>,
    received: u64,
    sum: u32,
    /// The next transfer has no port of its own yet.
    anew: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// How large is it?
    Size,
    /// The request went; an OACK or the first block is due.
    Asked,
    Receiving,
    Ended(Result<Loaded, String>),
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Bytes.
    pub(crate) bytes: u64,
    /// Their CRC-32C.
    pub(crate) sum: u32,
}

impl Fetch {
    /// Asks `server` for `file`.
    pub(super) fn new(server: SocketAddr, file: &str, now: u64) -> Self {
        Self {
            file: file.to_owned(),
            server,
            phase: Phase::Size,
            peer: None,
            last: Vec::new(),
            out: Vec::new(),
            deadline: now,
            tries: 0,
            block_size: 512,
            blocks: 0,
            announced: None,
            received: 0,
            sum: 0,
            anew: true,
        }
    }

    /// A port of its own is there: the request goes out.
    pub(super) fn begin(&mut self, now: u64) {
        self.anew = false;
        let block = SWARM_TFTP_BLOCK.to_string();
        let mut request = vec![0, 1];
        let size: &[&str] = match self.phase {
            Phase::Size => &["tsize", "0"],
            _ => &[],
        };
        let words = [&self.file, "octet", "blksize", &block];
        for word in words.iter().copied().chain(size.iter().copied()) {
            request.extend_from_slice(word.as_bytes());
            request.push(0);
        }
        self.peer = None;
        self.tries = 0;
        self.say(request, now);
    }

    /// Sends what is repeated until an answer comes.
    fn say(&mut self, packet: Vec<u8>, now: u64) {
        self.last = packet;
        self.repeat(now);
    }

    fn repeat(&mut self, now: u64) {
        let to = self.peer.unwrap_or(self.server);
        self.out.push((to, self.last.clone()));
        let wait = SWARM_TFTP_WAIT.saturating_mul(1 << self.tries.min(8));
        self.deadline = now.saturating_add(micros(wait.min(SWARM_TFTP_WAIT_MAX)));
    }

    /// A new transfer begins: it wants a fresh port, and then `begin`.
    pub(super) const fn wants_port(&self) -> bool {
        self.anew
    }

    /// Whom it asks.
    pub(super) const fn server(&self) -> SocketAddr {
        self.server
    }

    /// The next datagram to send.
    pub(super) fn next_out(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        (!self.out.is_empty()).then(|| self.out.remove(0))
    }

    /// When `tick` has something to do.
    pub(super) fn due(&self) -> Option<u64> {
        (!self.anew && self.ended().is_none()).then_some(self.deadline)
    }

    /// How it ended, once it has.
    pub(super) fn ended(&self) -> Option<&Result<Loaded, String>> {
        match &self.phase {
            Phase::Ended(how) => Some(how),
            _ => None,
        }
    }

    /// Time passes: what was not answered is repeated, and given up in the end.
    pub(super) fn tick(&mut self, now: u64) {
        if self.anew || self.ended().is_some() || now < self.deadline {
            return;
        }
        self.tries += 1;
        if self.tries < SWARM_TFTP_TRIES {
            return self.repeat(now);
        }
        let (file, server, blocks) = (&self.file, self.server, self.blocks);
        let why = match (&self.phase, self.peer) {
            (_, None) => {
                format!("no answer from {server} to {SWARM_TFTP_TRIES} requests for {file}")
            }
            _ => format!("{server} fell silent after block {blocks} of {file}"),
        };
        self.end(Err(why));
    }

    fn end(&mut self, how: Result<Loaded, String>) {
        self.phase = Phase::Ended(how);
    }

    /// A datagram came.
    pub(super) fn hear(&mut self, from: SocketAddr, packet: &[u8], now: u64) {
        if self.anew || self.ended().is_some() || !same_host(from.ip(), self.server.ip()) {
            return;
        }
        if self.peer.is_some_and(|peer| peer != from) {
            self.out.push((from, error(5, "unknown transfer")));
            return;
        }
        let Some((opcode, rest)) = packet.split_first_chunk::<2>() else {
            return;
        };
        match u16::from_be_bytes(*opcode) {
            3 => self.data(from, rest, now),
            5 => self.refused(rest),
            6 => self.options(from, rest, now),
            _ => {}
        }
    }

    fn refused(&mut self, rest: &[u8]) {
        let code = rest
            .first_chunk::<2>()
            .map_or(0, |c| u16::from_be_bytes(*c));
        let text = rest.get(2..).unwrap_or_default();
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let text: String = String::from_utf8_lossy(text).chars().take(80).collect();
        let (server, file, text) = (self.server, &self.file, text.escape_debug());
        let why = format!("{server} refused {file}: error {code}, {text}");
        self.end(Err(why));
    }

    /// An OACK (RFC 2347): the size is known, or the blocks begin.
    fn options(&mut self, from: SocketAddr, rest: &[u8], now: u64) {
        if !matches!(self.phase, Phase::Size | Phase::Asked) {
            // The acknowledgement of it was lost.
            if self.phase == Phase::Receiving && self.blocks == 0 {
                self.repeat(now);
            }
            return;
        }
        let mut words = rest.split(|byte| *byte == 0);
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            let value = std::str::from_utf8(value).ok();
            let value = value.and_then(|text| text.parse::<u64>().ok());
            if name.eq_ignore_ascii_case(b"tsize") {
                self.announced = value;
            } else if name.eq_ignore_ascii_case(b"blksize") {
                // RFC 2348: not more than what was asked.
                let agreed = value.filter(|n| (8..=u64::from(SWARM_TFTP_BLOCK)).contains(n));
                let Some(agreed) = agreed.and_then(|n| usize::try_from(n).ok()) else {
                    self.out
                        .push((from, error(8, "no such block size was asked for")));
                    let why = format!(
                        "{} answered with a block size that was not asked",
                        self.server
                    );
                    return self.end(Err(why));
                };
                self.block_size = agreed;
            }
        }
        if self.phase == Phase::Size {
            return self.sized(from);
        }
        self.peer = Some(from);
        self.phase = Phase::Receiving;
        self.tries = 0;
        self.say(ack(0), now);
    }

    /// The size is known: that transfer is left, as ROMs do, and the file asked for.
    fn sized(&mut self, from: SocketAddr) {
        self.out.push((from, error(0, "TFTP Aborted")));
        if let Some(size) = self.announced.filter(|size| *size > LOADER_BYTES_MAX) {
            let why = format!(
                "{} is said to have {size} bytes: no loader is as large",
                self.file
            );
            return self.end(Err(why));
        }
        self.phase = Phase::Asked;
        self.anew = true;
    }

    fn data(&mut self, from: SocketAddr, rest: &[u8], now: u64) {
        let Some((number, bytes)) = rest.split_first_chunk::<2>() else {
            return;
        };
        let number = u16::from_be_bytes(*number);
        if matches!(self.phase, Phase::Size | Phase::Asked) {
            // A server without options begins at once, with blocks of 512 bytes.
            if self.phase == Phase::Asked {
                self.block_size = 512;
            }
            self.peer = Some(from);
            self.phase = Phase::Receiving;
        }
        if number == low(self.blocks) && self.blocks > 0 {
            // It did not hear that we have it.
            return self.out.push((from, ack(number)));
        }
        if number != low(self.blocks + 1) || bytes.len() > self.block_size {
            return;
        }
        self.blocks += 1;
        self.received += bytes.len() as u64;
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.tries = 0;
        self.say(ack(number), now);
        if self.received > LOADER_BYTES_MAX {
            let why = format!("{} does not end: no loader is as large", self.file);
            return self.end(Err(why));
        }
        if bytes.len() < self.block_size {
            self.whole();
        }
    }

    fn whole(&mut self) {
        let (bytes, sum) = (self.received, self.sum);
        let how = match self.announced.filter(|size| *size != bytes) {
            Some(size) => {
                let file = &self.file;
                Err(format!(
                    "{file} was said to have {size} bytes, but {bytes} came"
                ))
            }
            None => Ok(Loaded { bytes, sum }),
        };
        self.end(how);
    }
}

/// The low 16 bits: block numbers roll over.
fn low(number: u64) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or(0)
}

fn ack(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    vec![0, 4, high, low]
}

fn error(code: u8, text: &str) -> Vec<u8> {
    let mut out = vec![0, 5, 0, code];
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    out
}

fn same_host(a: IpAddr, b: IpAddr) -> bool {
    a.to_canonical() == b.to_canonical()
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    const PORT: &str = "10.0.0.1:69";

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A server that serves one file as the RFCs say: a transfer of its own for each request.
    struct Server {
        file: Vec<u8>,
        options: bool,
        transfer: u16,
        block: usize,
        aborted: u32,
    }

    impl Server {
        fn new(file: Vec<u8>, options: bool) -> Self {
            Self {
                file,
                options,
                transfer: 0,
                block: 512,
                aborted: 0,
            }
        }

        fn data(&self, number: usize) -> Vec<u8> {
            let at = ((number - 1) * self.block).min(self.file.len());
            let end = (at + self.block).min(self.file.len());
            let mut out = vec![0, 3];
            out.extend_from_slice(&low(number as u64).to_be_bytes());
            out.extend_from_slice(&self.file[at..end]);
            out
        }

        fn from(&self) -> SocketAddr {
            SocketAddr::new(addr(PORT).ip(), 2000 + self.transfer)
        }

        /// What it says to a datagram, given how many blocks the client has.
        fn hear(&mut self, to: SocketAddr, packet: &[u8], have: u64) -> Option<Vec<u8>> {
            match packet[1] {
                1 => {
                    assert_eq!(to, addr(PORT));
                    self.transfer += 1;
                    let text = String::from_utf8(packet[2..].to_vec()).unwrap();
                    let words: Vec<&str> = text.split_terminator('\0').collect();
                    assert_eq!(words[..2], ["undionly.kpxe", "octet"]);
                    if !self.options {
                        return Some(self.data(1));
                    }
                    let at = words.iter().position(|w| *w == "blksize").unwrap();
                    self.block = words[at + 1].parse().unwrap();
                    let mut out = format!("\0\x06blksize\0{}\0", self.block).into_bytes();
                    if words.contains(&"tsize") {
                        out.extend_from_slice(format!("tsize\0{}\0", self.file.len()).as_bytes());
                    }
                    Some(out)
                }
                4 if to == self.from() => {
                    let number = usize::try_from(have).unwrap() + 1;
                    assert_eq!(packet[2..4], low(have).to_be_bytes());
                    (number <= self.file.len() / self.block + 1).then(|| self.data(number))
                }
                5 => {
                    self.aborted += 1;
                    None
                }
                _ => None,
            }
        }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len)
            .map(|n| u8::try_from(n * 7 % 251).unwrap())
            .collect()
    }

    /// Runs a fetch over a line that loses what `lost` says; how it ended, and when.
    fn run(server: &mut Server, lost: &[bool]) -> (Result<Loaded, String>, u64) {
        let mut now = 0;
        let mut fetch = Fetch::new(addr(PORT), "undionly.kpxe", now);
        let mut fates = lost.iter().copied();
        loop {
            while let Some((to, packet)) = fetch.next_out() {
                if fates.next() == Some(true) {
                    continue;
                }
                let have = fetch.blocks;
                if let Some(answer) = server.hear(to, &packet, have)
                    && fates.next() != Some(true)
                {
                    now += 100;
                    fetch.hear(server.from(), &answer, now);
                }
            }
            if let Some(how) = fetch.ended() {
                return (how.clone(), now);
            }
            if fetch.wants_port() {
                fetch.begin(now);
                continue;
            }
            now = now.max(fetch.due().unwrap());
            fetch.tick(now);
        }
    }

    fn begun(file: &str) -> Fetch {
        let mut fetch = Fetch::new(addr(PORT), file, 0);
        fetch.begin(0);
        fetch
    }

    fn loaded(file: &[u8]) -> Loaded {
        Loaded {
            bytes: file.len() as u64,
            sum: crc32c::crc32c(file),
        }
    }

    #[test]
    fn a_loader_comes_whole_after_its_size_was_asked() {
        for len in [0, 1, 1431, 1432, 1433, 70_000] {
            let mut server = Server::new(bytes(len), true);
            let (how, took) = run(&mut server, &[]);
            assert_eq!(how, Ok(loaded(&bytes(len))), "{len}");
            assert_eq!((server.transfer, server.aborted), (2, 1));
            assert!(took < 1_000_000, "no timer was needed");
        }
    }

    #[test]
    fn a_server_without_options_is_heard_in_blocks_of_512() {
        let mut server = Server::new(bytes(5120), false);
        assert_eq!(run(&mut server, &[]).0, Ok(loaded(&bytes(5120))));
        assert_eq!(server.transfer, 1);
    }

    #[test]
    fn block_numbers_roll_over() {
        let mut server = Server::new(bytes(66_000 * 512 - 1), false);
        // More than may be: it is stopped; what fits goes past 65,535 blocks.
        let len = usize::try_from(LOADER_BYTES_MAX).unwrap() / 512 * 512 - 1;
        assert!(len / 512 >= 65_535);
        server.file.truncate(len);
        assert_eq!(run(&mut server, &[]).0, Ok(loaded(&bytes(len))));
    }

    #[test]
    fn silence_is_repeated_to_with_longer_and_longer_waits_and_told_in_the_end() {
        let mut fetch = begun("undionly.kpxe");
        let (mut sent, mut waits, mut now) = (0, Vec::new(), 0);
        while fetch.ended().is_none() {
            while fetch.next_out().is_some() {
                sent += 1;
            }
            waits.push((fetch.due().unwrap() - now) / 1_000_000);
            now = fetch.due().unwrap();
            fetch.tick(now);
        }
        assert_eq!(sent, SWARM_TFTP_TRIES);
        assert_eq!(waits[..5], [1, 2, 4, 8, 8]);
        let why = fetch.ended().unwrap().clone().unwrap_err();
        assert!(
            why.contains("no answer from 10.0.0.1:69") && why.contains("undionly.kpxe"),
            "{why}"
        );
    }

    #[test]
    fn a_stranger_is_sent_away_and_changes_nothing() {
        let mut server = Server::new(bytes(3000), true);
        let mut fetch = begun("undionly.kpxe");
        // Size, abort, request, OACK.
        while fetch.phase != Phase::Receiving {
            let Some((to, packet)) = fetch.next_out() else {
                fetch.begin(4);
                continue;
            };
            if let Some(answer) = server.hear(to, &packet, 0) {
                fetch.hear(server.from(), &answer, 5);
            }
        }
        while fetch.next_out().is_some() {}
        fetch.hear(addr("10.0.0.1:999"), &[0, 3, 0, 1, 66], 6);
        fetch.hear(addr("10.0.0.7:999"), &[0, 3, 0, 1, 66], 6);
        assert_eq!(
            fetch.next_out().unwrap(),
            (addr("10.0.0.1:999"), error(5, "unknown transfer"))
        );
        assert_eq!((fetch.next_out(), fetch.blocks), (None, 0));
    }

    #[test]
    fn refusals_and_senseless_answers_are_told() {
        let why = |packet: &[u8]| {
            let mut fetch = begun("x");
            fetch.hear(addr("10.0.0.1:2000"), packet, 1);
            fetch.ended().unwrap().clone().unwrap_err()
        };
        let said = why(b"\0\x05\0\x01there is no such loader here\0");
        assert_eq!(
            said,
            "10.0.0.1:69 refused x: error 1, there is no such loader here"
        );
        assert!(why(b"\0\x06blksize\x009000\0").contains("block size"));
        assert!(why(b"\0\x06tsize\x0099999999999\0").contains("no loader is as large"));
    }

    #[test]
    fn a_size_that_is_not_true_is_told() {
        let mut fetch = begun("x");
        fetch.hear(
            addr("10.0.0.1:2000"),
            b"\0\x06blksize\x001432\0tsize\x0010\0",
            1,
        );
        fetch.begin(1);
        fetch.hear(addr("10.0.0.1:2001"), b"\0\x06blksize\x001432\0", 2);
        fetch.hear(
            addr("10.0.0.1:2001"),
            &[&[0, 3, 0, 1][..], &[7; 9]].concat(),
            3,
        );
        let why = fetch.ended().unwrap().clone().unwrap_err();
        assert_eq!(why, "x was said to have 10 bytes, but 9 came");
    }

    proptest! {
        #[test]
        fn a_loader_comes_whole_over_a_bad_line(
            len in 0usize..20_000,
            lost in prop::collection::vec(prop::bool::weighted(0.2), 0..60),
        ) {
            let mut server = Server::new(bytes(len), true);
            match run(&mut server, &lost).0 {
                Ok(found) => prop_assert_eq!(found, loaded(&bytes(len))),
                // Giving up takes as many losses in a row as there are tries.
                Err(_) => prop_assert!(lost.iter().filter(|l| **l).count() >= SWARM_TFTP_TRIES as usize),
            }
        }

        #[test]
        fn no_datagram_makes_the_machine_panic(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..40),
        ) {
            let mut fetch = begun("x");
            for (at, mut packet) in (0u64..).zip(packets) {
                if let Some(first) = packet.first_mut() {
                    *first = 0;
                }
                fetch.hear(addr("10.0.0.1:2000"), &packet, at);
                fetch.tick(at * 900_000);
                while fetch.next_out().is_some() {}
                if fetch.wants_port() {
                    fetch.begin(at);
                }
            }
        }
    }
}
