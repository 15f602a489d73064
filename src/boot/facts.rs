//! What a request tells about the machine that sent it. Pure.

use std::fmt;
use std::net::Ipv4Addr;

use super::packet::{Packet, code};
use crate::names::Mac;

/// DHCP message types (RFC 2132 9.6) that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageType {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

/// Processor and firmware (RFC 4578 2.1 and IANA's list of processor architecture types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Arch {
    Bios,
    UefiIa32,
    UefiX64,
    UefiArm32,
    UefiArm64,
    Other(u16),
}

impl Arch {
    /// From option 93. The HTTP boot types say the same of the processor.
    pub(crate) const fn of_code(code: u16) -> Self {
        match code {
            0 | 20 => Self::Bios,
            6 | 15 => Self::UefiIa32,
            // 7 is "EFI BC" in IANA's list, but firmware of x86-64 sends it.
            7 | 9 | 16 | 17 => Self::UefiX64,
            10 | 18 => Self::UefiArm32,
            11 | 19 => Self::UefiArm64,
            other => Self::Other(other),
        }
    }

    /// From its name, or from iPXE's `PLATFORM-BUILDARCH`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "bios" | "pcbios-i386" | "pcbios-x86_64" => Self::Bios,
            "uefi-ia32" | "efi-i386" => Self::UefiIa32,
            "uefi-x64" | "efi-x86_64" => Self::UefiX64,
            "uefi-arm32" | "efi-arm32" => Self::UefiArm32,
            "uefi-arm64" | "efi-arm64" => Self::UefiArm64,
            other => Self::Other(other.strip_prefix("arch-")?.parse().ok()?),
        })
    }

    pub(crate) const fn is_uefi(self) -> bool {
        !matches!(self, Self::Bios)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "bios",
            Self::UefiIa32 => "uefi-ia32",
            Self::UefiX64 => "uefi-x64",
            Self::UefiArm32 => "uefi-arm32",
            Self::UefiArm64 => "uefi-arm64",
            Self::Other(code) => return write!(f, "arch-{code}"),
        })
    }
}

/// What iPXE was built with, as far as a boot needs it (its feature list in option 175).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) http: bool,
    pub(crate) iscsi: bool,
}

impl Features {
    /// Can it run our script and open the disk?
    pub(crate) const fn suffice(self) -> bool {
        self.http && self.iscsi
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// A plain PXE ROM.
    Pxe,
    /// iPXE, from a ROM or loaded by us.
    Ipxe(Features),
    /// UEFI HTTP boot.
    Http,
    /// An operating system.
    Plain,
}

impl Client {
    pub(crate) const fn is_firmware(self) -> bool {
        !matches!(self, Self::Plain)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pxe => "pxe",
            Self::Ipxe(_) => "ipxe",
            Self::Http => "http",
            Self::Plain => "os",
        }
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) message: MessageType,
    pub(crate) mac: Mac,
    pub(crate) arch: Arch,
    pub(crate) client: Client,
    /// Option 97, its 16 bytes in the order of the wire.
    pub(crate) uuid: Option<[u8; 16]>,
    pub(crate) requested: Option<Ipv4Addr>,
    pub(crate) server: Option<Ipv4Addr>,
    pub(crate) ciaddr: Option<Ipv4Addr>,
    pub(crate) giaddr: Option<Ipv4Addr>,
    /// Seconds since the client began.
    pub(crate) secs: u16,
    /// Codes that the client asks for (option 55).
    pub(crate) wanted: Vec<u8>,
}

impl Facts {
    /// Reads them from a request. The error is a clause for the log.
    pub(crate) fn of(packet: &Packet) -> Result<Self, &'static str> {
        if packet.reply {
            return Err("an answer, not a request");
        }
        let octets = packet.mac.octets();
        if octets[0] & 1 == 1 || octets == [0; 6] {
            return Err("no station's hardware address");
        }
        let options = &packet.options;
        let message = match options.get(code::MESSAGE) {
            Some([1]) => MessageType::Discover,
            Some([3]) => MessageType::Request,
            Some([4]) => MessageType::Decline,
            Some([7]) => MessageType::Release,
            Some([8]) => MessageType::Inform,
            _ => return Err("no message type that a client sends"),
        };
        let some = |ip: Ipv4Addr| (!ip.is_unspecified()).then_some(ip);
        Ok(Self {
            message,
            mac: packet.mac,
            arch: arch(packet),
            client: client(packet),
            uuid: uuid(packet),
            requested: options.ip(code::REQUESTED_IP).and_then(some),
            server: options.ip(code::SERVER).and_then(some),
            ciaddr: some(packet.ciaddr),
            giaddr: some(packet.giaddr),
            secs: packet.secs,
            wanted: options.get(code::WANTED).unwrap_or_default().to_vec(),
        })
    }

    /// The identifier as text, in the order of the wire: `01020304-0506-...`.
    pub(crate) fn uuid_text(&self) -> Option<String> {
        self.uuid.as_ref().map(uuid_text)
    }

    pub(crate) fn wants(&self, code: u8) -> bool {
        self.wanted.contains(&code)
    }
}

/// Sixteen bytes as `8-4-4-4-12` hexadecimal digits.
fn uuid_text(uuid: &[u8; 16]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Option 93 holds a list; the first is the best. Without it the vendor class says it (PXE 2.1, 2.2.2):
/// `PXEClient:Arch:00007:UNDI:003016`. A client that says nothing is taken for a BIOS one.
fn arch(packet: &Packet) -> Arch {
    let list = packet.options.get(code::ARCH);
    if let Some([high, low, ..]) = list {
        return Arch::of_code(u16::from_be_bytes([*high, *low]));
    }
    let class = packet.options.get(code::CLASS).unwrap_or_default();
    let named = std::str::from_utf8(class)
        .ok()
        .and_then(|c| c.split_once(":Arch:"))
        .and_then(|(_, rest)| rest.get(..5))
        .and_then(|digits| digits.parse().ok());
    named.map_or(Arch::Bios, Arch::of_code)
}

fn client(packet: &Packet) -> Client {
    let options = &packet.options;
    let user = options.get(code::USER_CLASS).unwrap_or_default();
    // iPXE sends the bare word; RFC 3004 puts a length before each class.
    let by_class = user == b"iPXE" || user.starts_with(b"\x04iPXE");
    let extra = options.get(code::IPXE).unwrap_or_default();
    if by_class || !extra.is_empty() {
        return Client::Ipxe(features(extra));
    }
    let class = options.get(code::CLASS).unwrap_or_default();
    if class.starts_with(b"HTTPClient") {
        Client::Http
    } else if class.starts_with(b"PXEClient") {
        Client::Pxe
    } else {
        Client::Plain
    }
}

/// iPXE's encapsulated options: 17 is iSCSI, 19 is HTTP, each with a version above zero.
fn features(mut bytes: &[u8]) -> Features {
    let mut found = Features::default();
    while let Some((&tag, rest)) = bytes.split_first() {
        bytes = rest;
        if tag == code::PAD {
            continue;
        }
        if tag == code::END {
            break;
        }
        let Some((&len, rest)) = rest.split_first() else {
            break;
        };
        let Some((value, rest)) = rest.split_at_checked(usize::from(len)) else {
            break;
        };
        let on = value.iter().any(|b| *b != 0);
        match tag {
            17 => found.iscsi = on,
            19 => found.http = on,
            _ => {}
        }
        bytes = rest;
    }
    found
}

fn uuid(packet: &Packet) -> Option<[u8; 16]> {
    let (kind, rest) = packet.options.get(code::UUID)?.split_first()?;
    let uuid: [u8; 16] = rest.try_into().ok()?;
    // All zeros or all ones is firmware that has none.
    (*kind == 0 && uuid != [0; 16] && uuid != [255; 16]).then_some(uuid)
}

#[cfg(test)]
pub(crate) mod test {
    use super::*;
    use proptest::prelude::*;

    pub(crate) const MAC: Mac = Mac::new([0x52, 0x54, 0, 0x77, 0, 1]);

    /// What iPXE of QEMU's option ROM sends (feature list: DNS HTTP iSCSI NFS TFTP AoE ...).
    pub(crate) fn ipxe(message: u8, arch: u16) -> Packet {
        let mut packet = Packet::request(MAC, 1);
        let options = &mut packet.options;
        options.push(code::MESSAGE, &[message]);
        options.push(57, &1472_u16.to_be_bytes());
        options.push(code::ARCH, &arch.to_be_bytes());
        options.push(94, &[1, 2, 1]);
        options.push(code::CLASS, b"PXEClient:Arch:00000:UNDI:002001");
        options.push(code::USER_CLASS, b"iPXE");
        let wanted = [
            1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 175, 203,
        ];
        options.push(code::WANTED, &wanted);
        let extra = [
            0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 0xeb, 3, 1, 0, 0, 0x17, 1, 1, 0x22, 1, 1, 0x13, 1, 1,
            0x11, 1, 1, 0x15, 1, 1, 0x12, 1, 1,
        ];
        options.push(code::IPXE, &extra);
        options.push(code::CLIENT, &[1, 0x52, 0x54, 0, 0x77, 0, 1]);
        options.push(code::UUID, &[[0].as_slice(), &[7; 16]].concat());
        packet
    }

    /// What a PXE ROM or OVMF's own client sends.
    pub(crate) fn pxe(message: u8, arch: u16) -> Packet {
        let mut packet = Packet::request(MAC, 2);
        let options = &mut packet.options;
        options.push(code::MESSAGE, &[message]);
        options.push(57, &1260_u16.to_be_bytes());
        options.push(
            code::WANTED,
            &[1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 43, 54, 60, 66, 67, 97],
        );
        options.push(code::UUID, &[[0].as_slice(), &[7; 16]].concat());
        options.push(94, &[1, 3, 16]);
        options.push(code::ARCH, &arch.to_be_bytes());
        let class = format!("PXEClient:Arch:{arch:05}:UNDI:003016");
        options.push(code::CLASS, class.as_bytes());
        packet
    }

    /// What UEFI HTTP boot sends.
    pub(crate) fn http(message: u8, arch: u16) -> Packet {
        let mut packet = pxe(message, arch);
        let mut options = super::super::packet::Options::default();
        options.push(code::MESSAGE, &[message]);
        options.push(code::ARCH, &arch.to_be_bytes());
        options.push(code::CLASS, b"HTTPClient:Arch:00016:UNDI:003001");
        packet.options = options;
        packet
    }

    /// What a booted Linux sends.
    pub(crate) fn plain(message: u8) -> Packet {
        let mut packet = Packet::request(MAC, 3);
        packet.options.push(code::MESSAGE, &[message]);
        packet.options.push(code::CLASS, b"Linux ipconfig");
        packet
            .options
            .push(code::WANTED, &[1, 3, 6, 12, 15, 17, 26, 28]);
        packet
    }

    #[test]
    fn qemu_ipxe_is_known_with_its_features() {
        let facts = Facts::of(&ipxe(1, 0)).unwrap();
        let all = Features {
            http: true,
            iscsi: true,
        };
        assert_eq!(facts.client, Client::Ipxe(all));
        assert_eq!(facts.arch, Arch::Bios);
        assert_eq!(facts.message, MessageType::Discover);
        let uuid = "07070707-0707-0707-0707-070707070707";
        assert_eq!(facts.uuid_text().as_deref(), Some(uuid));
    }

    #[test]
    fn clients_are_told_apart() {
        assert_eq!(Facts::of(&pxe(1, 7)).unwrap().client, Client::Pxe);
        assert_eq!(Facts::of(&http(1, 16)).unwrap().client, Client::Http);
        assert_eq!(Facts::of(&plain(1)).unwrap().client, Client::Plain);
        let mut bare = plain(1);
        bare.options.push(code::USER_CLASS, b"\x04iPXE");
        let client = Facts::of(&bare).unwrap().client;
        assert_eq!(client, Client::Ipxe(Features::default()));
    }

    #[test]
    fn architectures_of_both_boot_ways_are_known() {
        let table = [
            (0, Arch::Bios),
            (6, Arch::UefiIa32),
            (7, Arch::UefiX64),
            (9, Arch::UefiX64),
            (11, Arch::UefiArm64),
            (15, Arch::UefiIa32),
            (16, Arch::UefiX64),
            (19, Arch::UefiArm64),
            (20, Arch::Bios),
            (27, Arch::Other(27)),
        ];
        for (code, arch) in table {
            assert_eq!(Facts::of(&pxe(1, code)).unwrap().arch, arch);
            assert_eq!(Arch::parse(&arch.to_string()), Some(arch));
        }
        assert_eq!(Arch::parse("efi-x86_64"), Some(Arch::UefiX64));
        assert_eq!(Arch::parse("pcbios-i386"), Some(Arch::Bios));
        assert_eq!(Arch::parse("toaster"), None);
    }

    #[test]
    fn the_vendor_class_stands_in_for_option_93() {
        let mut packet = Packet::request(MAC, 1);
        packet.options.push(code::MESSAGE, &[1]);
        packet
            .options
            .push(code::CLASS, b"PXEClient:Arch:00009:UNDI:003016");
        assert_eq!(Facts::of(&packet).unwrap().arch, Arch::UefiX64);
    }

    #[test]
    fn group_addresses_and_answers_are_refused() {
        let mut packet = plain(1);
        packet.mac = Mac::new([0xff; 6]);
        assert!(Facts::of(&packet).is_err());
        let mut packet = plain(1);
        packet.reply = true;
        assert!(Facts::of(&packet).is_err());
        assert!(Facts::of(&plain(2)).is_err());
    }

    proptest! {
        #[test]
        fn no_option_makes_facts_panic(
            options in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        ) {
            let mut packet = Packet::request(MAC, 9);
            packet.options.push(code::MESSAGE, &[1]);
            for (code, data) in options {
                packet.options.push(code, &data);
            }
            let _ = Facts::of(&packet);
        }
    }
}
