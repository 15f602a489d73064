//! TFTP (RFC 1350) for loaders: reading only, octet only, with options (RFC 2347), block size (RFC 2348),
//! size and timeout (RFC 2349) and window (RFC 7440). Pure: packets and time in, packets out.
//!
//! ```text
//!   RRQ --> opening (OACK sent) --ACK 0--> sending --ACK of the last block--> whole
//!    |                                        ^  |
//!    +-------- no option agreed to -----------+  +--silence, TFTP_RETRIES times--> silent
//! ```
//! Blocks are counted in 64 bits inside; on the wire the count rolls over at 65,536.

use std::sync::Arc;
use std::time::Duration;

use super::Moment;
use crate::limits;

/// Error codes (RFC 1350 page 10, RFC 2347).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    NotFound = 1,
    Denied = 2,
    Illegal = 4,
}

/// A read request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// The file's name without leading slashes.
    pub(crate) file: String,
    block: Option<u16>,
    window: Option<u16>,
    timeout: Option<u8>,
    tsize: bool,
}

/// What came in on the port of requests, or into a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Read(Request),
    Ack(u16),
    Error(String),
    /// Answer it with this error, if it came as a request.
    Bad(Code, &'static str),
}

impl Message {
    /// Reads any packet.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let Some((opcode, rest)) = bytes.split_first_chunk::<2>() else {
            return Self::Bad(Code::Illegal, "shorter than an operation code");
        };
        match u16::from_be_bytes(*opcode) {
            1 => read_request(rest),
            2 => Self::Bad(Code::Denied, "this server takes no files"),
            4 => match rest.first_chunk::<2>() {
                Some(block) => Self::Ack(u16::from_be_bytes(*block)),
                None => Self::Bad(Code::Illegal, "acknowledgement without a block"),
            },
            5 => {
                let text = rest.get(2..).unwrap_or_default();
                let text = text.split(|b| *b == 0).next().unwrap_or_default();
                let text: String = String::from_utf8_lossy(text).chars().take(80).collect();
                Self::Error(text.escape_default().to_string())
            }
            _ => Self::Bad(Code::Illegal, "unknown operation"),
        }
    }
}

fn read_request(bytes: &[u8]) -> Message {
    let bad = Message::Bad(Code::Illegal, "a read request that cannot be read");
    let Ok(text) = std::str::from_utf8(bytes) else {
        return bad;
    };
    // Some ROMs leave out the last zero, or fill the packet up behind it.
    let mut words = text.split('\0');
    let (Some(file), Some(mode)) = (words.next(), words.next()) else {
        return bad;
    };
    if !mode.eq_ignore_ascii_case("octet") {
        return Message::Bad(Code::Illegal, "only mode octet is served");
    }
    let mut request = Request {
        file: file.trim_start_matches(['/', '\\']).to_owned(),
        ..Request::default()
    };
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        match name.to_ascii_lowercase().as_str() {
            // RFC 2348: 8 to 65,464; an option out of range is left unanswered, as if unknown.
            "blksize" => request.block = number(value, 8, 65_464),
            "windowsize" => request.window = number(value, 1, 65_535),
            "timeout" => {
                request.timeout = number(value, 1, 255).and_then(|n| u8::try_from(n).ok());
            }
            "tsize" => request.tsize = true,
            _ => {}
        }
    }
    Message::Read(request)
}

fn number(text: &str, least: u16, most: u16) -> Option<u16> {
    let number: u16 = text.parse().ok()?;
    (least..=most).contains(&number).then_some(number)
}

/// An ERROR packet.
pub(crate) fn error(code: Code, text: &str) -> Vec<u8> {
    let mut out = vec![0, 5, 0, code as u8];
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    out
}

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The last block was acknowledged.
    Whole,
    /// The client said it wants no more (many ask for the size this way).
    Refused(String),
    /// The client fell silent.
    Silent,
}

/// One file on its way to one client.
#[derive(Debug)]
pub(crate) struct Transfer {
    file: Arc<[u8]>,
    block: usize,
    window: u64,
    timeout: Duration,
    /// The OACK while it is not acknowledged.
    opening: Option<Vec<u8>>,
    opening_due: bool,
    /// Blocks acknowledged.
    acked: u64,
    /// The block to send next, counted from 1.
    next: u64,
    /// The highest block sent.
    sent: u64,
    /// The last block: the first that is not full.
    last: u64,
    /// A repeated acknowledgement made us repeat this window already.
    hurried: bool,
    deadline: Moment,
    retries: u32,
    ended: Option<Ended>,
}

impl Transfer {
    /// Begins; the first packets wait in [`Self::poll`].
    pub(crate) fn new(request: &Request, file: Arc<[u8]>, now: Moment) -> Self {
        let block = request.block.map(|b| b.min(limits::TFTP_BLOCK_MAX));
        let window = request.window.map(|w| w.min(limits::TFTP_WINDOW_MAX));
        let opening = oack(request, block, window, file.len());
        let block = usize::from(block.unwrap_or(512));
        let seconds = request.timeout.map(|t| Duration::from_secs(u64::from(t)));
        Self {
            last: whole(file.len() / block) + 1,
            file,
            block,
            window: u64::from(window.unwrap_or(1)),
            timeout: seconds.unwrap_or(limits::TFTP_TIMEOUT),
            opening_due: opening.is_some(),
            opening,
            acked: 0,
            next: 1,
            sent: 0,
            hurried: false,
            deadline: now,
            retries: 0,
            ended: None,
        }
    }

    /// Takes in a packet of the client.
    pub(crate) fn apply(&mut self, message: Message) {
        match message {
            Message::Ack(block) => self.ack(block),
            Message::Error(text) => self.ended = Some(Ended::Refused(text)),
            // A repeated request belongs to the other port; anything else is noise.
            Message::Read(_) | Message::Bad(..) => {}
        }
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, now: Moment) {
        let waits = self.opening_due || self.in_window();
        if self.ended.is_some() || waits || now < self.deadline {
            return;
        }
        self.retries += 1;
        if self.retries > limits::TFTP_RETRIES {
            self.ended = Some(Ended::Silent);
            return;
        }
        self.opening_due = self.opening.is_some();
        self.next = self.acked + 1;
    }

    /// The next packet to send, if one is due.
    pub(crate) fn poll(&mut self, now: Moment) -> Option<Vec<u8>> {
        if self.ended.is_some() {
            return None;
        }
        if let Some(oack) = &self.opening {
            if !std::mem::take(&mut self.opening_due) {
                return None;
            }
            let packet = oack.clone();
            self.deadline = now + self.patience();
            return Some(packet);
        }
        if !self.in_window() {
            return None;
        }
        let packet = self.data(self.next);
        self.sent = self.sent.max(self.next);
        self.next += 1;
        self.deadline = now + self.patience();
        Some(packet)
    }

    /// When to call [`Self::tick`] at the latest.
    pub(crate) fn deadline(&self) -> Moment {
        self.deadline
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    fn ack(&mut self, wire: u16) {
        if self.opening.is_some() {
            if wire == 0 {
                self.opening = None;
                self.retries = 0;
            }
            return;
        }
        // Modulo 65,536, how far beyond the acknowledged blocks? The window is far smaller.
        let ahead = u64::from(wire.wrapping_sub(low(self.acked)));
        if ahead == 0 {
            // The client misses the window's first block. With a window of one this answer would double
            // every packet for ever (the Sorcerer's Apprentice, RFC 1123 4.2.3.1): there, time decides.
            if self.window > 1 && !self.hurried && self.sent > self.acked {
                self.hurried = true;
                self.next = self.acked + 1;
            }
            return;
        }
        if ahead > self.sent - self.acked {
            return;
        }
        self.acked += ahead;
        // RFC 7440 section 4: what follows the acknowledged block is a new window.
        self.next = self.acked + 1;
        self.hurried = false;
        self.retries = 0;
        if self.acked == self.last {
            self.ended = Some(Ended::Whole);
        }
    }

    fn in_window(&self) -> bool {
        self.opening.is_none() && self.next <= self.last && self.next <= self.acked + self.window
    }

    fn patience(&self) -> Duration {
        let factor = 1_u32 << self.retries.min(8);
        let longest = limits::TFTP_TIMEOUT_MAX.max(self.timeout);
        self.timeout.saturating_mul(factor).min(longest)
    }

    fn data(&self, number: u64) -> Vec<u8> {
        let at = usize::try_from(number - 1).map_or(usize::MAX, |n| n.saturating_mul(self.block));
        let end = at.saturating_add(self.block).min(self.file.len());
        let part = self.file.get(at..end).unwrap_or_default();
        let mut out = Vec::with_capacity(4 + part.len());
        out.extend_from_slice(&[0, 3]);
        out.extend_from_slice(&low(number).to_be_bytes());
        out.extend_from_slice(part);
        out
    }
}

/// The low 16 bits.
fn low(number: u64) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or(0)
}

fn whole(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX - 1)
}

/// The options agreed to; none when the client asked for none of ours.
fn oack(
    request: &Request,
    block: Option<u16>,
    window: Option<u16>,
    size: usize,
) -> Option<Vec<u8>> {
    let mut out = vec![0, 6];
    let mut add = |name: &str, value: String| {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend_from_slice(value.as_bytes());
        out.push(0);
    };
    if let Some(block) = block {
        add("blksize", block.to_string());
    }
    if request.tsize {
        add("tsize", size.to_string());
    }
    if let Some(timeout) = request.timeout {
        add("timeout", timeout.to_string());
    }
    if let Some(window) = window {
        add("windowsize", window.to_string());
    }
    (out.len() > 2).then_some(out)
}

#[cfg(test)]
pub(crate) mod test {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    pub(crate) fn rrq(file: &str, options: &[(&str, &str)]) -> Vec<u8> {
        let mut out = vec![0, 1];
        for word in [file, "octet"] {
            out.extend_from_slice(word.as_bytes());
            out.push(0);
        }
        for (name, value) in options {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            out.extend_from_slice(value.as_bytes());
            out.push(0);
        }
        out
    }

    fn request(file: &str, options: &[(&str, &str)]) -> Request {
        match Message::parse(&rrq(file, options)) {
            Message::Read(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn file(len: usize) -> Arc<[u8]> {
        (0..len)
            .map(|n| u8::try_from(n * 7 % 251).unwrap())
            .collect()
    }

    fn at(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    fn drain(transfer: &mut Transfer, now: Moment) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| transfer.poll(now)).collect()
    }

    #[test]
    fn a_rom_that_asks_for_the_size_and_goes_away_is_no_trouble() {
        let request = request("/undionly.kpxe", &[("tsize", "0"), ("blksize", "1456")]);
        assert_eq!(request.file, "undionly.kpxe");
        let mut transfer = Transfer::new(&request, file(1000), at(0));
        let expected = b"\0\x06blksize\x001428\0tsize\x001000\0".to_vec();
        assert_eq!(drain(&mut transfer, at(0)), [expected]);
        transfer.apply(Message::parse(b"\0\x05\0\0TFTP Aborted\0"));
        assert_eq!(
            transfer.ended(),
            Some(&Ended::Refused("TFTP Aborted".into()))
        );
    }

    #[test]
    fn without_options_the_first_block_comes_at_once() {
        let mut transfer = Transfer::new(&request("x", &[]), file(512), at(0));
        let packets = drain(&mut transfer, at(0));
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].len(), 516);
        transfer.apply(Message::Ack(1));
        // A file of whole blocks ends with an empty one.
        assert_eq!(drain(&mut transfer, at(0)), [vec![0, 3, 0, 2]]);
        transfer.apply(Message::Ack(2));
        assert_eq!(transfer.ended(), Some(&Ended::Whole));
    }

    #[test]
    fn a_window_is_sent_in_one_go_and_starts_anew_after_a_gap() {
        let options = [("blksize", "8"), ("windowsize", "4")];
        let mut transfer = Transfer::new(&request("x", &options), file(100), at(0));
        drain(&mut transfer, at(0));
        transfer.apply(Message::Ack(0));
        let numbers = |packets: Vec<Vec<u8>>| packets.iter().map(|p| p[3]).collect::<Vec<_>>();
        assert_eq!(numbers(drain(&mut transfer, at(0))), [1, 2, 3, 4]);
        transfer.apply(Message::Ack(2));
        assert_eq!(numbers(drain(&mut transfer, at(0))), [3, 4, 5, 6]);
        // The same again: the first of the window was lost; repeated once, then only by time.
        transfer.apply(Message::Ack(2));
        assert_eq!(numbers(drain(&mut transfer, at(0))), [3, 4, 5, 6]);
        transfer.apply(Message::Ack(2));
        assert!(drain(&mut transfer, at(0)).is_empty());
    }

    #[test]
    fn repeated_acknowledgements_do_not_double_the_packets() {
        let mut transfer = Transfer::new(&request("x", &[]), file(5000), at(0));
        drain(&mut transfer, at(0));
        transfer.apply(Message::Ack(1));
        assert_eq!(drain(&mut transfer, at(0)).len(), 1);
        transfer.apply(Message::Ack(1));
        assert!(drain(&mut transfer, at(0)).is_empty());
        // Nor does an acknowledgement of what was never sent.
        transfer.apply(Message::Ack(9));
        assert!(drain(&mut transfer, at(0)).is_empty());
    }

    #[test]
    fn silence_is_repeated_to_and_then_given_up() {
        let mut transfer = Transfer::new(&request("x", &[]), file(10), at(0));
        let mut sent = drain(&mut transfer, at(0)).len();
        let mut waits = Vec::new();
        let mut now = at(0);
        while transfer.ended().is_none() {
            waits.push((transfer.deadline() - now).as_secs());
            now = transfer.deadline();
            transfer.tick(now);
            sent += drain(&mut transfer, now).len();
        }
        assert_eq!(transfer.ended(), Some(&Ended::Silent));
        assert_eq!(sent, 8);
        assert_eq!(waits, [1, 2, 4, 8, 8, 8, 8, 8]);
    }

    #[test]
    fn the_clients_timeout_is_kept() {
        let asks = request("x", &[("timeout", "3")]);
        let mut transfer = Transfer::new(&asks, file(10), at(0));
        assert_eq!(
            drain(&mut transfer, at(0)),
            [b"\0\x06timeout\x003\0".to_vec()]
        );
        assert_eq!(transfer.deadline(), at(3000));
        transfer.tick(at(2999));
        assert!(drain(&mut transfer, at(2999)).is_empty());
        transfer.tick(at(3000));
        assert_eq!(drain(&mut transfer, at(3000)).len(), 1);
    }

    #[test]
    fn requests_that_are_not_served_get_their_error() {
        let write = [&[0, 2][..], &rrq("x", &[])[2..]].concat();
        assert!(matches!(
            Message::parse(&write),
            Message::Bad(Code::Denied, _)
        ));
        let ascii = b"\0\x01x\0netascii\0";
        assert!(matches!(
            Message::parse(ascii),
            Message::Bad(Code::Illegal, _)
        ));
        assert!(matches!(
            Message::parse(b"\0\x01x"),
            Message::Bad(Code::Illegal, _)
        ));
        assert!(matches!(Message::parse(b""), Message::Bad(..)));
        assert_eq!(error(Code::NotFound, "no"), b"\0\x05\0\x01no\0");
    }

    #[test]
    fn senseless_options_are_left_unanswered() {
        let options = [
            ("blksize", "7"),
            ("windowsize", "0"),
            ("timeout", "256"),
            ("x", "y"),
        ];
        let mut transfer = Transfer::new(&request("x", &options), file(3), at(0));
        assert_eq!(drain(&mut transfer, at(0))[0][..4], [0, 3, 0, 1]);
    }

    /// A model client (RFC 1350, RFC 7440) that keeps what it got.
    struct Client {
        got: Vec<u8>,
        expected: u64,
        block: usize,
        window: u64,
        since_ack: u64,
        complained: bool,
        finished: bool,
    }

    impl Client {
        fn new(block: usize, window: u64) -> Self {
            Self {
                got: Vec::new(),
                expected: 1,
                block,
                window,
                since_ack: 0,
                complained: false,
                finished: false,
            }
        }

        fn last_ack(&self) -> Vec<u8> {
            [&[0, 4][..], &low(self.expected - 1).to_be_bytes()].concat()
        }

        fn take(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
            if packet[..2] == [0, 6] {
                return (self.expected == 1).then(|| vec![0, 4, 0, 0]);
            }
            if packet[2..4] != low(self.expected).to_be_bytes() || self.finished {
                let first = !std::mem::replace(&mut self.complained, true);
                return (first || self.finished).then(|| self.last_ack());
            }
            self.complained = false;
            self.got.extend_from_slice(&packet[4..]);
            self.expected += 1;
            self.since_ack += 1;
            self.finished = packet.len() - 4 < self.block;
            if self.finished || self.since_ack == self.window {
                self.since_ack = 0;
                return Some(self.last_ack());
            }
            None
        }
    }

    /// Runs a transfer over a channel whose fate for each packet comes from `fates`: 0 lost, 1 doubled,
    /// 2 late, else in order. Virtual time.
    fn run(size: usize, block: u16, window: u16, fates: &[u8]) -> (Transfer, Client, Moment) {
        let (b, w) = (block.to_string(), window.to_string());
        let asks = request("x", &[("blksize", &b), ("windowsize", &w)]);
        let mut transfer = Transfer::new(&asks, file(size), at(0));
        let mut client = Client::new(usize::from(block), u64::from(window));
        let mut wire: BTreeMap<(Moment, usize), (bool, Vec<u8>)> = BTreeMap::new();
        let (mut now, mut count) = (at(0), 0_usize);
        let mut client_timer = at(3000);
        let mut put = |wire: &mut BTreeMap<_, _>, now: Moment, up: bool, packet: Vec<u8>| {
            let fate = fates.get(count).copied().unwrap_or(9);
            count += 2;
            let late = if fate == 2 { at(40) } else { at(5) };
            if fate == 1 {
                wire.insert((now + at(6), count + 1), (up, packet.clone()));
            }
            if fate != 0 {
                wire.insert((now + late, count), (up, packet));
            }
        };
        while transfer.ended().is_none() {
            while let Some(packet) = transfer.poll(now) {
                put(&mut wire, now, false, packet);
            }
            let next = wire.first_key_value().map(|(k, _)| k.0);
            let timer = transfer.deadline().min(client_timer);
            now = next.unwrap_or(timer).min(timer).max(now);
            if now >= client_timer {
                // A client that hears nothing repeats itself too.
                client_timer = now + at(3000);
                put(&mut wire, now, true, client.last_ack());
            }
            let due = wire.first_entry().filter(|e| e.key().0 <= now);
            if let Some((up, packet)) = due.map(|e| e.remove()) {
                if up {
                    transfer.apply(Message::parse(&packet));
                } else if let Some(answer) = client.take(&packet) {
                    client_timer = now + at(3000);
                    put(&mut wire, now, true, answer);
                }
            }
            transfer.tick(now);
        }
        (transfer, client, now)
    }

    #[test]
    fn block_numbers_roll_over() {
        let (transfer, client, _) = run(70_000 * 8 + 3, 8, 16, &[]);
        assert_eq!(transfer.ended(), Some(&Ended::Whole));
        assert_eq!(client.got, file(70_000 * 8 + 3)[..]);
    }

    #[test]
    fn a_good_line_needs_one_round_trip_for_each_window() {
        let (_, client, took) = run(1428 * 160, 1428, 16, &[]);
        assert_eq!(client.got.len(), 1428 * 160);
        // Opening, ten windows, and the empty last block: each 10 ms on this wire.
        assert_eq!(took, at(120));
    }

    proptest! {
        #[test]
        fn the_file_arrives_whole_over_a_bad_line(
            size in 0_usize..3000,
            block in 8_u16..600,
            window in 1_u16..16,
            fates in prop::collection::vec(0_u8..12, 0..900),
        ) {
            let (transfer, client, _) = run(size, block, window, &fates);
            // The line becomes good after 900 packets, so only a client that never heard may fail.
            if transfer.ended() == Some(&Ended::Whole) {
                prop_assert_eq!(&client.got[..], &file(size)[..]);
            } else {
                prop_assert_eq!(transfer.ended(), Some(&Ended::Silent));
                // Giving up takes eight losses in a row of our packets or their answers.
                prop_assert!(fates.iter().filter(|f| **f == 0).count() >= 8);
            }
        }

        #[test]
        fn no_packet_makes_the_machine_panic(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..30),
            first in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let head = [&[0, 1][..], &first].concat();
            let _ = Message::parse(&head);
            let asks = request("x", &[("blksize", "64"), ("windowsize", "7")]);
            let mut transfer = Transfer::new(&asks, file(2000), at(0));
            let mut now = at(0);
            for packet in packets {
                drain(&mut transfer, now);
                transfer.apply(Message::parse(&packet));
                let ack = [&[0, 4][..], &packet[..packet.len().min(2)]].concat();
                transfer.apply(Message::parse(&ack));
                now += at(700);
                transfer.tick(now);
            }
        }
    }
}
