//! Attempts of UEFI's own iSCSI initiator (EDK2 `NetworkPkg/IScsiDxe`, in Debian's OVMF): what its setup menu
//! would write into the machine's settings, written without hands.
//!
//! The layout is that of `ISCSI_ATTEMPT_CONFIG_NVDATA` (packed, 1,049 bytes) in EDK2 of 2022; the firmware
//! itself makes eight empty ones at its first start, and a test compares their length.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use crate::nvram::{self, NV_BS};

/// Bytes of one attempt.
pub const ATTEMPT_BYTES: usize = 1049;
/// Attempts that the firmware makes, empty, at its first start. It must find them made.
const ATTEMPTS: u8 = 8;
/// `gIScsiConfigGuid`.
const CONFIG_GUID: &str = "4b47d616-a8d6-4552-9d44-ccad2e0f4cf9";
/// `gEfiIScsiInitiatorNameProtocolGuid`.
const INITIATOR_GUID: &str = "59324945-ec44-4c0d-b1cd-9db139df070c";
/// Connecting may take this long; the firmware's own default of 1,000 ms is short for emulated machines.
const CONNECT_TIMEOUT_MS: u16 = 10_000;
const CONNECT_RETRIES: u8 = 2;

/// What the initiator proves itself with, and what it wants proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chap {
    /// Its name and secret.
    pub own: (String, String),
    /// The target's name and secret: mutual CHAP.
    pub reverse: Option<(String, String)>,
}

/// Where the target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// DHCP tells address and target (option 17, RFC 4173).
    Dhcp,
    /// Written in the attempt.
    Fixed {
        /// The machine's own address; the netmask is 255.255.255.0.
        own: Ipv4Addr,
        /// The portal, port 3260.
        portal: Ipv4Addr,
        /// The target's name.
        name: String,
    },
}

/// One attempt; it is enabled.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The initiator's name.
    pub initiator: String,
    /// The card it goes through.
    pub mac: String,
    /// Where to.
    pub target: Target,
    /// Without it, no security stage worth the name.
    pub chap: Option<Chap>,
}

/// Fields are put one behind another; text is filled up with zeros.
struct Fields(Vec<u8>);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    fn text(&mut self, text: &str, size: usize) -> Result<&mut Self> {
        ensure!(text.len() < size, "`{text}` is longer than {size} bytes");
        Ok(self.bytes(text.as_bytes()).zeros(size - text.len()))
    }

    /// `EFI_IP_ADDRESS`: 16 bytes, an IPv4 address in the first four.
    fn address(&mut self, ip: Option<Ipv4Addr>) -> &mut Self {
        self.bytes(&ip.map_or([0; 4], |ip| ip.octets())).zeros(12)
    }
}

impl Attempt {
    /// The variable's value.
    fn bytes(&self) -> Result<Vec<u8>> {
        let mut f = Fields(Vec::with_capacity(ATTEMPT_BYTES));
        // Link, NicIndex; AttemptConfigIndex; success and path flags, mode, two string tokens.
        f.zeros(17).bytes(&[1]).zeros(8);
        f.text("Attempt 1", 12)?
            .text(&self.mac.to_uppercase(), 96)?;
        // Name servers and DHCP server.
        f.zeros(48);
        self.session(&mut f)?;
        self.credentials(&mut f)?;
        // AutoConfigureSuccess; Actived.
        f.bytes(&[0, 1]);
        Ok(f.0)
    }

    fn session(&self, f: &mut Fields) -> Result<()> {
        let (own, portal, name) = match &self.target {
            Target::Dhcp => (None, None, ""),
            Target::Fixed { own, portal, name } => (Some(*own), Some(*portal), name.as_str()),
        };
        let dhcp = u8::from(own.is_none());
        // TargetPort, Enabled, IpMode (IPv4).
        f.bytes(&3260_u16.to_le_bytes()).bytes(&[1, 0]).address(own);
        let mask = if own.is_some() {
            [255, 255, 255, 0]
        } else {
            [0; 4]
        };
        // SubnetMask, Gateway, InitiatorInfoFromDhcp, TargetInfoFromDhcp.
        f.bytes(&mask).address(None).bytes(&[dhcp, dhcp]);
        f.text(name, 224)?.address(portal);
        // PrefixLength, BootLun.
        f.zeros(9);
        f.bytes(&CONNECT_TIMEOUT_MS.to_le_bytes())
            .bytes(&[CONNECT_RETRIES]);
        // IsId, as the menu does it: the card's address with the first two bits cut off.
        let mut isid = mac_bytes(&self.mac)?;
        isid[0] &= 0x3f;
        f.bytes(&isid);
        // RedirectFlag, OriginalTargetPort, OriginalTargetIp, DnsMode, TargetUrl.
        f.zeros(1 + 2 + 16 + 1 + 255);
        Ok(())
    }

    fn credentials(&self, f: &mut Fields) -> Result<()> {
        let Some(chap) = &self.chap else {
            // AuthenticationType none.
            f.zeros(1 + 289);
            return Ok(());
        };
        let none = (String::new(), String::new());
        let reverse = chap.reverse.as_ref();
        // AuthenticationType CHAP; CHAPType one-way or mutual.
        f.bytes(&[1, u8::from(reverse.is_some())]);
        for (name, secret) in [&chap.own, reverse.unwrap_or(&none)] {
            f.text(name, 127)?.text(secret, 17)?;
        }
        Ok(())
    }

    /// Writes it into the machine's settings (OVMF's variable store), which no attempt may be in yet.
    ///
    /// # Errors
    /// When the store is none, or full, or a name is too long.
    pub fn install(&self, store: &mut [u8]) -> Result<()> {
        let (config, initiator) = (nvram::guid(CONFIG_GUID)?, nvram::guid(INITIATOR_GUID)?);
        let made: Vec<u8> = (1..=ATTEMPTS).collect();
        let mut name = self.initiator.clone().into_bytes();
        name.push(0);
        nvram::add(store, config, "InitialAttemptOrder", NV_BS, &made)?;
        nvram::add(store, config, "AttemptOrder", NV_BS, &[1])?;
        nvram::add(store, initiator, "I_NAME", NV_BS, &name)?;
        nvram::add(store, initiator, "Attempt 1", NV_BS, &self.bytes()?)
    }
}

/// Length of the attempts that the firmware made by itself in this store, if it did.
///
/// # Errors
/// When the store is none.
pub fn attempt_bytes_of_firmware(store: &[u8]) -> Result<Option<usize>> {
    let made = nvram::read(store, nvram::guid(INITIATOR_GUID)?, "Attempt 1")?;
    Ok(made.map(|bytes| bytes.len()))
}

fn mac_bytes(mac: &str) -> Result<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = mac
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect();
    let bytes = bytes.with_context(|| format!("`{mac}` is no MAC address"))?;
    bytes
        .try_into()
        .ok()
        .with_context(|| format!("`{mac}` is no MAC address"))
}

#[cfg(test)]
mod test {
    use super::*;

    fn attempt(target: Target, chap: Option<Chap>) -> Attempt {
        Attempt {
            initiator: "iqn.2026-11.lab:node1".into(),
            mac: "52:54:00:77:00:01".into(),
            target,
            chap,
        }
    }

    fn pair(name: &str, secret: &str) -> (String, String) {
        (name.into(), secret.into())
    }

    #[test]
    fn every_attempt_has_the_length_that_the_firmware_expects() {
        let fixed = Target::Fixed {
            own: [10, 77, 0, 2].into(),
            portal: [10, 77, 0, 1].into(),
            name: "iqn.2026-11.lab:disk".into(),
        };
        let one_way = Chap {
            own: pair("n", "0123456789abcdef"),
            reverse: None,
        };
        let mutual = Chap {
            reverse: Some(pair("t", "fedcba9876543210")),
            ..one_way.clone()
        };
        for chap in [None, Some(one_way), Some(mutual)] {
            for target in [Target::Dhcp, fixed.clone()] {
                assert_eq!(
                    attempt(target, chap.clone()).bytes().unwrap().len(),
                    ATTEMPT_BYTES
                );
            }
        }
    }

    #[test]
    fn fields_are_where_the_firmware_looks_for_them() {
        let chap = Chap {
            own: pair("own-name", "own-secret-1234"),
            reverse: Some(pair("their-name", "their-secret-12")),
        };
        let target = Target::Fixed {
            own: [10, 77, 0, 2].into(),
            portal: [10, 77, 0, 1].into(),
            name: "iqn.2026-11.lab:disk".into(),
        };
        let bytes = attempt(target, Some(chap)).bytes().unwrap();
        let at = |offset: usize, want: &[u8]| assert_eq!(&bytes[offset..offset + want.len()], want);
        at(17, &[1]);
        at(26, b"Attempt 1\0");
        at(38, b"52:54:00:77:00:01\0");
        // The session's part begins at 182.
        at(182, &3260_u16.to_le_bytes());
        at(184, &[1, 0, 10, 77, 0, 2]);
        at(202, &[255, 255, 255, 0]);
        at(222, &[0, 0]);
        at(224, b"iqn.2026-11.lab:disk\0");
        at(448, &[10, 77, 0, 1]);
        at(473, &10_000_u16.to_le_bytes());
        at(476, &[0x12, 0x54, 0, 0x77, 0, 1]);
        at(757, &[1, 1]);
        at(759, b"own-name\0");
        at(886, b"own-secret-1234\0");
        at(903, b"their-name\0");
        at(1030, b"their-secret-12\0");
        at(1048, &[1]);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let chap = Chap {
            own: pair("n", "a secret of more than 16"),
            reverse: None,
        };
        assert!(attempt(Target::Dhcp, Some(chap)).bytes().is_err());
    }
}
