//! INQUIRY: standard data and the vital product data pages (SPC-4 6.6, 7.8; SBC-3 6.6).

use crate::limits;
use crate::units::{BLOCK_BYTES, SECTOR_BYTES};

use super::capacity::PHYSICAL_EXPONENT;
use super::cdb::Cdb;
use super::sense::Sense;
use super::xcopy;
use super::{Answer, Call, LogicalUnit, LuConfig};

// Windows device ids and Linux udev rules hang on these: they never change between releases.
const VENDOR: &[u8; 8] = b"REVEILLE";
const PRODUCT: &[u8; 16] = b"Virtual disk    ";
const REVISION: &[u8; 4] = b"1   ";

/// SAM-5, iSCSI, SPC-4, SBC-3 (SPC-4 table 142 ff.). "SBC-3" is what makes a 3Ch long page B0 right.
const VERSIONS: [u16; 4] = [0x00A0, 0x0960, 0x0460, 0x04C0];

/// PERIPHERAL QUALIFIER 000b, direct access device.
const DISK: u8 = 0x00;
/// PERIPHERAL QUALIFIER 011b, type 1Fh: nothing can be here.
const ABSENT: u8 = 0x7F;

const STANDARD_LEN: usize = 96;
/// 3PC: EXTENDED COPY is known.
const THIRD_PARTY_COPY: u8 = 0x08;
const EVPD: u8 = 0x01;
/// Blocks in a physical block: the grain in which space is given back.
const GRAIN: u32 = 8;
const _: () = assert!(GRAIN as u64 * SECTOR_BYTES == BLOCK_BYTES);
const _: () = assert!(GRAIN == 1 << PHYSICAL_EXPONENT);
/// Medium rotation rate 0001h: not rotating, so that guests trim instead of defragmenting.
const NOT_ROTATING: [u8; 2] = [0, 1];
/// LBPU, LBPWS, LBPWS10, LBPRZ.
const PROVISIONING: u8 = 0x80 | 0x40 | 0x20 | 0x04;
const THIN: u8 = 2;
/// log2 of the logical blocks in a threshold set: thresholds of mode page 1Ch/02h count whole MiB (SBC-3 6.6.6).
const THRESHOLD_EXPONENT: u8 = 11;
const _: () = assert!(SECTOR_BYTES << THRESHOLD_EXPONENT == super::mode::THRESHOLD_SET_BYTES);
/// Page 87h: one descriptor for all mode pages and subpages, MODE PAGE POLICY 00b, shared by all initiators.
const MODE_POLICY: [u8; 4] = [0x3F, 0xFF, 0x00, 0x00];
/// RELATIVE TARGET PORT IDENTIFIER and TARGET PORT GROUP. All portals of a target are one iSCSI portal group,
/// and a portal group is a SCSI target port (RFC 7143 4.4.1, 4.4.2): whatever way an initiator takes, it is the same
/// port, so that a session left behind on one portal is reinstated through the other, and a persistent
/// registration is found again.
const PORT_NUMBER: [u8; 4] = [0, 0, 0, 1];

struct Page {
    code: u8,
    build: fn(&LogicalUnit) -> Vec<u8>,
}

/// The pages, ascending; page 00h lists them.
static PAGES: [Page; 10] = [
    Page {
        code: 0x00,
        build: page_list,
    },
    Page {
        code: 0x80,
        build: |lu| clean(&lu.config.serial, 36),
    },
    Page {
        code: 0x83,
        build: |lu| identification(&lu.config),
    },
    Page {
        code: 0x86,
        build: extended,
    },
    Page {
        code: 0x87,
        build: |_| MODE_POLICY.to_vec(),
    },
    Page {
        code: 0x88,
        build: |lu| ports(&lu.config),
    },
    Page {
        code: 0x8F,
        build: xcopy::page,
    },
    Page {
        code: 0xB0,
        build: block_limits,
    },
    Page {
        code: 0xB1,
        build: characteristics,
    },
    Page {
        code: 0xB2,
        build: |_| vec![THRESHOLD_EXPONENT, PROVISIONING, THIN, 0],
    },
];

/// INQUIRY of a disk that is here.
pub(super) fn inquiry(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    check(cdb)?;
    if !cdb.has(1, EVPD) {
        return cdb.answer(standard(DISK, lu.config.traits.removable));
    }
    let code = cdb.byte(2);
    let page = PAGES.iter().find(|page| page.code == code);
    let page = page.ok_or(Sense::cdb_field(2, None))?;
    let body = (page.build)(lu);
    let len = u16::try_from(body.len()).map_err(|_| Sense::INTERNAL)?;
    let mut data = vec![DISK, code];
    data.extend_from_slice(&len.to_be_bytes());
    data.extend_from_slice(&body);
    cdb.answer(data)
}

/// INQUIRY of a LUN where there is nothing: GOOD, and the qualifier says so (SPC-4 6.6.2).
pub(super) fn absent(cdb: &Cdb) -> Answer {
    check(cdb)?;
    if cdb.has(1, EVPD) {
        return Err(Sense::cdb_field(1, Some(0)).into());
    }
    cdb.answer(standard(ABSENT, false))
}

/// CMDDT is obsolete; a page code needs EVPD.
fn check(cdb: &Cdb) -> Result<(), Sense> {
    if cdb.has(1, 0x02) {
        return Err(Sense::cdb_field(1, Some(1)));
    }
    if !cdb.has(1, EVPD) && cdb.byte(2) != 0 {
        return Err(Sense::cdb_field(2, None));
    }
    Ok(())
}

fn standard(peripheral: u8, removable: bool) -> Vec<u8> {
    let mut data = Vec::with_capacity(STANDARD_LEN);
    let rmb = u8::from(removable) << 7;
    let copies = if peripheral == DISK {
        THIRD_PARTY_COPY
    } else {
        0
    };
    // SPC-4, HISUP and format 2, length of the rest, no ALUA, one port, CMDQUE.
    data.extend_from_slice(&[peripheral, rmb, 0x06, 0x12, 0x5B, copies, 0, 0x02]);
    data.extend_from_slice(VENDOR);
    data.extend_from_slice(PRODUCT);
    data.extend_from_slice(REVISION);
    data.resize(58, 0);
    for version in VERSIONS {
        data.extend_from_slice(&version.to_be_bytes());
    }
    data.resize(STANDARD_LEN, 0);
    data
}

fn page_list(_: &LogicalUnit) -> Vec<u8> {
    PAGES.iter().map(|page| page.code).collect()
}

/// At most `max` printable ASCII bytes of `text`.
fn clean(text: &str, max: usize) -> Vec<u8> {
    let printable = |b: &u8| (0x20..0x7F).contains(b);
    text.bytes().filter(printable).take(max).collect()
}

/// Code set, association and type of a designator (SPC-4 7.8.5.1).
mod designator {
    pub(super) const BINARY: u8 = 1;
    pub(super) const ASCII: u8 = 2;
    pub(super) const UTF8: u8 = 3;
    pub(super) const UNIT: u8 = 0x00;
    /// PIV and association 01b.
    pub(super) const PORT: u8 = 0x90;
    /// PIV and association 10b.
    pub(super) const TARGET: u8 = 0xA0;
    /// PROTOCOL IDENTIFIER 5h, iSCSI; counts where PIV is set.
    pub(super) const ISCSI: u8 = 0x50;
    pub(super) const VENDOR_ID: u8 = 1;
    pub(super) const NAA: u8 = 3;
    pub(super) const RELATIVE_PORT: u8 = 4;
    pub(super) const PORT_GROUP: u8 = 5;
    pub(super) const NAME: u8 = 8;
}

/// Page 83h. NAA first: Windows setup stops with 0xF4 without it, Linux and ESXi name the disk by it. WinPE
/// needs the SCSI name strings after an iPXE sanhook.
fn identification(config: &LuConfig) -> Vec<u8> {
    use designator::{ASCII, BINARY, ISCSI, NAA, NAME, PORT, PORT_GROUP, RELATIVE_PORT};
    use designator::{TARGET, UNIT, UTF8, VENDOR_ID};
    let vendor = vendor_id(config);
    let target = String::from_utf8_lossy(&clean(&config.target_name, 223)).into_owned();
    let mut page = Vec::new();
    put(&mut page, BINARY, UNIT | NAA, &config.naa);
    put(&mut page, ASCII, UNIT | VENDOR_ID, &vendor);
    put(&mut page, UTF8, UNIT | NAME, &name(&naa_name(&config.naa)));
    let binary = ISCSI | BINARY;
    put(&mut page, binary, PORT | RELATIVE_PORT, &PORT_NUMBER);
    put(&mut page, binary, PORT | PORT_GROUP, &PORT_NUMBER);
    put(&mut page, ISCSI | UTF8, PORT | NAME, &port_name(config));
    put(&mut page, ISCSI | UTF8, TARGET | NAME, &name(&target));
    page
}

/// Name of the target port: the target's, and its portal group (RFC 7143 4.4.2).
fn port_name(config: &LuConfig) -> Vec<u8> {
    let target = clean(&config.target_name, 223);
    name(&format!("{},t,0x0001", String::from_utf8_lossy(&target)))
}

/// Page 88h: the one target port and its name (SPC-4 7.8.13). Initiator ports are the initiator's to tell.
fn ports(config: &LuConfig) -> Vec<u8> {
    use designator::{ISCSI, NAME, PORT, UTF8};
    let mut descriptors = Vec::new();
    put(
        &mut descriptors,
        ISCSI | UTF8,
        PORT | NAME,
        &port_name(config),
    );
    let len = u16::try_from(descriptors.len()).unwrap_or(0);
    let [_, _, hi, lo] = PORT_NUMBER;
    let mut page = vec![0, 0, hi, lo, 0, 0, 0, 0, 0, 0];
    page.extend_from_slice(&len.to_be_bytes());
    page.extend_from_slice(&descriptors);
    page
}

/// The T10 vendor id designator.
pub(super) fn vendor_id(config: &LuConfig) -> Vec<u8> {
    let mut vendor = VENDOR.to_vec();
    vendor.extend_from_slice(PRODUCT.trim_ascii_end());
    vendor.push(b' ');
    vendor.extend_from_slice(&clean(&config.serial, 36));
    vendor
}

fn put(page: &mut Vec<u8>, code_set: u8, kind: u8, value: &[u8]) {
    if let Ok(len) = u8::try_from(value.len()) {
        page.extend_from_slice(&[code_set, kind, 0, len]);
        page.extend_from_slice(value);
    }
}

/// A SCSI name string: ends with NUL, padded to a multiple of 4.
pub(super) fn name(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn naa_name(naa: &[u8]) -> String {
    let mut text = String::from("naa.");
    for byte in naa {
        for digit in [byte >> 4, byte & 0xF] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

/// Page 86h: SIMPSUP, ORDSUP, HEADSUP; V_SUP tells of a volatile cache.
fn extended(lu: &LogicalUnit) -> Vec<u8> {
    let mut page = vec![0; 0x3C];
    page.splice(1..3, [0x07, u8::from(!lu.writes_through())]);
    page
}

/// Page B0h. Offsets are those of the page less its 4-byte header.
fn block_limits(lu: &LogicalUnit) -> Vec<u8> {
    let mut page = vec![0; 0x3C];
    let mut put = |at: usize, bytes: &[u8]| {
        page.splice(at..at + bytes.len(), bytes.iter().copied());
    };
    let swap = u8::try_from(limits::COMPARE_AND_WRITE_BLOCKS_MAX).unwrap_or(u8::MAX);
    let wsnz = u8::from(lu.config.traits.no_zero_count);
    put(0, &[wsnz, swap]);
    put(2, &[0, 1 << lu.physical_exponent()]);
    put(4, &limits::TRANSFER_BLOCKS_ADVISED.to_be_bytes());
    put(16, &limits::UNMAP_BLOCKS_MAX.to_be_bytes());
    put(20, &u32::from(limits::UNMAP_DESCRIPTORS_MAX).to_be_bytes());
    put(24, &GRAIN.to_be_bytes());
    // UGAVALID: the alignment of 0 counts.
    put(28, &[0x80, 0, 0, 0]);
    put(32, &u64::from(limits::WRITE_SAME_BLOCKS_MAX).to_be_bytes());
    // MAXIMUM ATOMIC TRANSFER LENGTH; any alignment, any number of blocks, no boundaries.
    put(40, &limits::ATOMIC_BLOCKS_MAX.to_be_bytes());
    page
}

fn characteristics(lu: &LogicalUnit) -> Vec<u8> {
    let mut page = vec![0; 0x3C];
    page.splice(0..2, NOT_ROTATING);
    if lu.config.traits.sanitize {
        // WABEREQ=01b: reads after BLOCK ERASE succeed. WACEREQ=00b: no CRYPTOGRAPHIC ERASE.
        page.splice(3..4, [0x40]);
    }
    page
}
