//! DHCP messages as bytes (RFC 2131 section 2, options RFC 2132). Pure: bytes in, bytes out.
//!
//! An own codec of options as plain bytes: boot firmware sends options that a typed codec refuses (user
//! class without lengths, architectures it does not know), and some of it reads only messages laid out
//! the way BOOTP did. Meaning is in [`super::facts`].

use std::net::Ipv4Addr;

use crate::names::Mac;

/// Bytes before the options: the fixed part and the magic cookie.
const FIXED: usize = 240;
/// The magic cookie (RFC 2131 section 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// BOOTP's message size, below which some firmware drops an answer (RFC 1542 2.1).
const SIZE_MIN: usize = 300;
/// The broadcast flag (RFC 2131 figure 2).
const BROADCAST: u16 = 0x8000;

/// Option codes (RFC 2132 unless told).
pub(crate) mod code {
    pub(crate) const NETMASK: u8 = 1;
    pub(crate) const ROUTER: u8 = 3;
    pub(crate) const DNS: u8 = 6;
    pub(crate) const HOST_NAME: u8 = 12;
    pub(crate) const DOMAIN: u8 = 15;
    pub(crate) const ROOT_PATH: u8 = 17;
    pub(crate) const BROADCAST: u8 = 28;
    pub(crate) const VENDOR: u8 = 43;
    pub(crate) const REQUESTED_IP: u8 = 50;
    pub(crate) const LEASE_TIME: u8 = 51;
    pub(crate) const OVERLOAD: u8 = 52;
    pub(crate) const MESSAGE: u8 = 53;
    pub(crate) const SERVER: u8 = 54;
    pub(crate) const WANTED: u8 = 55;
    pub(crate) const TEXT: u8 = 56;
    pub(crate) const RENEW: u8 = 58;
    pub(crate) const REBIND: u8 = 59;
    pub(crate) const CLASS: u8 = 60;
    pub(crate) const CLIENT: u8 = 61;
    pub(crate) const TFTP_NAME: u8 = 66;
    pub(crate) const FILE: u8 = 67;
    /// RFC 3004.
    pub(crate) const USER_CLASS: u8 = 77;
    /// RFC 3046.
    pub(crate) const RELAY: u8 = 82;
    /// RFC 4578.
    pub(crate) const ARCH: u8 = 93;
    /// RFC 4578.
    pub(crate) const UUID: u8 = 97;
    /// Etherboot's encapsulated options.
    pub(crate) const IPXE: u8 = 175;
    pub(crate) const PAD: u8 = 0;
    pub(crate) const END: u8 = 255;
}

/// Options in the order in which they are sent; a code appears once (RFC 3396 joins split ones).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    pub(crate) fn get(&self, code: u8) -> Option<&[u8]> {
        let found = self.0.iter().find(|(c, _)| *c == code);
        found.map(|(_, data)| data.as_slice())
    }

    /// Adds an option at the end. One with the same code is continued, as RFC 3396 says.
    pub(crate) fn push(&mut self, code: u8, data: &[u8]) {
        match self.0.iter_mut().find(|(c, _)| *c == code) {
            Some((_, whole)) => whole.extend_from_slice(data),
            None => self.0.push((code, data.to_vec())),
        }
    }

    pub(crate) fn ip(&self, code: u8) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.get(code)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    }

    pub(crate) fn push_ip(&mut self, code: u8, ip: Ipv4Addr) {
        self.push(code, &ip.octets());
    }

    pub(crate) fn push_seconds(&mut self, code: u8, seconds: u64) {
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.push(code, &seconds.to_be_bytes());
    }

    /// Takes in one options field. Bytes after the end, or an option cut short, are left out: firmware
    /// is known to send both.
    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((&code, rest)) = bytes.split_first() {
            bytes = rest;
            match code {
                code::PAD => {}
                code::END => return,
                _ => {
                    let Some((&len, rest)) = rest.split_first() else {
                        return;
                    };
                    let Some((data, rest)) = rest.split_at_checked(usize::from(len)) else {
                        return;
                    };
                    self.push(code, data);
                    bytes = rest;
                }
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for (code, data) in &self.0 {
            if data.is_empty() {
                out.extend_from_slice(&[*code, 0]);
            }
            for part in data.chunks(255) {
                // `chunks(255)` makes no longer part.
                out.extend_from_slice(&[*code, u8::try_from(part.len()).unwrap_or(255)]);
                out.extend_from_slice(part);
            }
        }
        out.push(code::END);
    }
}

/// A DHCP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// True from a server (BOOTREPLY).
    pub(crate) reply: bool,
    pub(crate) mac: Mac,
    pub(crate) hops: u8,
    pub(crate) xid: u32,
    pub(crate) secs: u16,
    pub(crate) broadcast: bool,
    pub(crate) ciaddr: Ipv4Addr,
    pub(crate) yiaddr: Ipv4Addr,
    pub(crate) siaddr: Ipv4Addr,
    pub(crate) giaddr: Ipv4Addr,
    /// Server name, without the zeros; at most 63 bytes are sent.
    pub(crate) sname: Vec<u8>,
    /// Boot file, without the zeros; at most 127 bytes are sent.
    pub(crate) file: Vec<u8>,
    pub(crate) options: Options,
}

impl Packet {
    /// Longest boot file of the fixed field, which must end with a zero.
    pub(crate) const FILE_MAX: usize = 127;

    /// A request with nothing in it.
    #[cfg(test)]
    pub(crate) fn request(mac: Mac, xid: u32) -> Self {
        let zero = Ipv4Addr::UNSPECIFIED;
        Self {
            reply: false,
            mac,
            hops: 0,
            xid,
            secs: 0,
            broadcast: false,
            ciaddr: zero,
            yiaddr: zero,
            siaddr: zero,
            giaddr: zero,
            sname: Vec::new(),
            file: Vec::new(),
            options: Options::default(),
        }
    }

    /// The answer to this request with nothing in it yet (RFC 2131 table 3: what is copied).
    pub(crate) fn answer(&self) -> Self {
        Self {
            reply: true,
            hops: 0,
            secs: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            sname: Vec::new(),
            file: Vec::new(),
            options: Options::default(),
            ..*self
        }
    }

    /// Reads a message of an Ethernet client. The error is a clause for the log.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (fixed, options) = bytes
            .split_first_chunk::<FIXED>()
            .ok_or("shorter than a DHCP message")?;
        if fixed[236..240] != COOKIE {
            return Err("no DHCP cookie (plain BOOTP?)");
        }
        if fixed[1] != 1 || fixed[2] != 6 {
            return Err("not an Ethernet hardware address");
        }
        let ip = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
        let mut mac = [0; 6];
        mac.copy_from_slice(&fixed[28..34]);
        let (sname, file) = (&fixed[44..108], &fixed[108..236]);
        let mut all = Options::default();
        all.read(options);
        let overload = all.get(code::OVERLOAD).and_then(|o| o.first().copied());
        let (file_has, sname_has) = match overload {
            Some(1) => (true, false),
            Some(2) => (false, true),
            Some(3) => (true, true),
            _ => (false, false),
        };
        if file_has {
            all.read(file);
        }
        if sname_has {
            all.read(sname);
        }
        Ok(Self {
            reply: fixed[0] == 2,
            mac: Mac::new(mac),
            hops: fixed[3],
            xid: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            secs: u16::from_be_bytes([fixed[8], fixed[9]]),
            broadcast: u16::from_be_bytes([fixed[10], fixed[11]]) & BROADCAST != 0,
            ciaddr: ip(12),
            yiaddr: ip(16),
            siaddr: ip(20),
            giaddr: ip(24),
            sname: text(sname, sname_has),
            file: text(file, file_has),
            options: all,
        })
    }

    /// The message as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fixed = [0_u8; FIXED];
        fixed[0] = if self.reply { 2 } else { 1 };
        fixed[1] = 1;
        fixed[2] = 6;
        fixed[3] = self.hops;
        fixed[4..8].copy_from_slice(&self.xid.to_be_bytes());
        fixed[8..10].copy_from_slice(&self.secs.to_be_bytes());
        let flags = if self.broadcast { BROADCAST } else { 0 };
        fixed[10..12].copy_from_slice(&flags.to_be_bytes());
        let ips = [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr];
        for (field, ip) in fixed[12..28].chunks_exact_mut(4).zip(ips) {
            field.copy_from_slice(&ip.octets());
        }
        fixed[28..34].copy_from_slice(&self.mac.octets());
        // One byte stays zero at the end of each, so that a reader of C strings finds it.
        for (to, from) in fixed[44..107].iter_mut().zip(&self.sname) {
            *to = *from;
        }
        for (to, from) in fixed[108..108 + Self::FILE_MAX].iter_mut().zip(&self.file) {
            *to = *from;
        }
        fixed[236..240].copy_from_slice(&COOKIE);
        let mut out = fixed.to_vec();
        self.options.write(&mut out);
        if out.len() < SIZE_MIN {
            out.resize(SIZE_MIN, 0);
        }
        out
    }
}

/// A fixed field up to its first zero; nothing when it holds options.
fn text(field: &[u8], overloaded: bool) -> Vec<u8> {
    if overloaded {
        return Vec::new();
    }
    field.iter().copied().take_while(|b| *b != 0).collect()
}

#[cfg(test)]
mod test {
    use super::*;
    use dhcproto::{Decodable, Encodable, v4};
    use proptest::prelude::*;

    fn sample() -> Packet {
        let mut packet = Packet::request(Mac::new([0x52, 0x54, 0, 1, 2, 3]), 0xdead_beef);
        packet.secs = 4;
        packet.broadcast = true;
        packet.giaddr = Ipv4Addr::new(10, 0, 0, 9);
        packet.file = b"undionly.kpxe".to_vec();
        packet.options.push(code::MESSAGE, &[1]);
        packet.options.push(code::USER_CLASS, b"iPXE");
        packet.options.push(code::VENDOR, &[7; 300]);
        packet
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let packet = sample();
        assert_eq!(Packet::parse(&packet.encode()).unwrap(), packet);
        assert!(packet.answer().encode().len() >= SIZE_MIN);
    }

    #[test]
    fn another_codec_reads_what_we_write() {
        let mut packet = sample();
        packet.options = Options::default();
        packet.options.push(code::MESSAGE, &[2]);
        packet
            .options
            .push_ip(code::SERVER, Ipv4Addr::new(10, 0, 0, 1));
        packet.options.push_seconds(code::LEASE_TIME, 600);
        packet.options.push(code::HOST_NAME, b"node001");
        packet.reply = true;
        packet.yiaddr = Ipv4Addr::new(10, 0, 0, 77);
        let bytes = packet.encode();
        let theirs = v4::Message::decode(&mut dhcproto::Decoder::new(&bytes)).unwrap();
        assert_eq!(theirs.opcode(), v4::Opcode::BootReply);
        assert_eq!(theirs.yiaddr(), packet.yiaddr);
        assert_eq!(theirs.giaddr(), packet.giaddr);
        assert_eq!(theirs.xid(), packet.xid);
        let file = theirs.fname_str().unwrap().unwrap();
        assert_eq!(file.trim_end_matches('\0'), "undionly.kpxe");
        assert_eq!(theirs.opts().msg_type(), Some(v4::MessageType::Offer));
        let name = theirs.opts().get(v4::OptionCode::Hostname).unwrap();
        assert_eq!(*name, v4::DhcpOption::Hostname("node001".into()));
        let lease = theirs.opts().get(v4::OptionCode::AddressLeaseTime).unwrap();
        assert_eq!(*lease, v4::DhcpOption::AddressLeaseTime(600));
    }

    #[test]
    fn we_read_what_another_codec_writes() {
        let mut theirs = v4::Message::default();
        theirs.set_chaddr(&[2, 0, 0, 0, 0, 5]).set_xid(7);
        let opts = theirs.opts_mut();
        opts.insert(v4::DhcpOption::MessageType(v4::MessageType::Request));
        opts.insert(v4::DhcpOption::RequestedIpAddress([10, 1, 2, 3].into()));
        let packet = Packet::parse(&theirs.to_vec().unwrap()).unwrap();
        assert_eq!(packet.xid, 7);
        assert_eq!(packet.mac, Mac::new([2, 0, 0, 0, 0, 5]));
        assert_eq!(
            packet.options.ip(code::REQUESTED_IP),
            Some([10, 1, 2, 3].into())
        );
    }

    #[test]
    fn options_in_the_name_fields_are_found() {
        let mut bytes = sample().encode();
        bytes[108..236].fill(0);
        bytes[108..112].copy_from_slice(&[93, 2, 0, 7]);
        bytes[44..108].fill(0);
        bytes[44..47].copy_from_slice(&[12, 1, b'x']);
        bytes.truncate(240);
        bytes.extend_from_slice(&[52, 1, 3, 255]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.options.get(code::ARCH), Some(&[0, 7][..]));
        assert_eq!(packet.options.get(code::HOST_NAME), Some(&b"x"[..]));
        assert!(packet.file.is_empty());
    }

    #[test]
    fn foreign_hardware_and_bootp_are_refused() {
        let mut bytes = sample().encode();
        bytes[2] = 20;
        assert!(Packet::parse(&bytes).is_err());
        let mut bytes = sample().encode();
        bytes[236] = 0;
        assert!(Packet::parse(&bytes).is_err());
        assert!(Packet::parse(&[]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let _ = Packet::parse(&bytes);
        }

        #[test]
        fn a_good_head_with_any_options_parses_and_encodes(
            tail in prop::collection::vec(any::<u8>(), 0..600),
            names in prop::collection::vec(any::<u8>(), 192),
        ) {
            let mut bytes = sample().encode();
            bytes.truncate(FIXED);
            bytes[44..236].copy_from_slice(&names);
            bytes.extend_from_slice(&tail);
            let packet = Packet::parse(&bytes).unwrap();
            let again = Packet::parse(&packet.encode());
            prop_assert!(again.is_ok());
        }
    }
}
