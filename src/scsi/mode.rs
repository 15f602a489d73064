//! Mode parameters: MODE SENSE and MODE SELECT (SPC-4 6.9 to 6.12, 7.5; SBC-3 6.5).
//!
//! Pages 01, 08, 0A, 1C, 1C/02. Changeable: WCE (08), D_SENSE, SWP, UA_INTLCK_CTRL (00b, 10b) and TAS (0A). Nothing
//! is saved.

use crate::units::SECTOR_BYTES;

use super::block::want;
use super::cdb::Cdb;
use super::nexus::Attention;
use super::sense::Sense;
use super::{Answer, BlockOp, Call, LogicalUnit, LuConfig, NexusId, Step};

const WCE: u8 = 0x04;
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;
/// UA_INTLCK_CTRL 10b: a unit attention stays until REQUEST SENSE fetches it. 11b is not offered.
const UA_INTLCK: u8 = 0x20;
const TAS: u8 = 0x40;
/// DEVICE-SPECIFIC PARAMETER: write-protected; DPO and FUA are known.
const WP: u8 = 0x80;
const DPOFUA: u8 = 0x10;
const ALL_PAGES: u8 = 0x3F;
const ALL_SUBPAGES: u8 = 0xFF;
/// SPF: the page has a subpage code and two bytes of length.
const SPF: u8 = 0x40;
/// LBPERE: thresholds are told and allocation that fails is told as such (SBC-3 6.5.8).
const LBPERE: u8 = 0x80;
/// ENABLED, soft threshold, ARMING 001b: told when what is used grows past it (SBC-3 6.5.9).
const THRESHOLD_ENABLED: u8 = 0x80;
const ARMED_UPWARDS: u8 = 0x01;
/// THRESHOLD RESOURCE: used LBA mapping resources.
const USED_RESOURCES: u8 = 0x02;
/// Bytes of a threshold set.
pub(super) const THRESHOLD_SET_BYTES: u64 = 1 << 20;

/// The changeable mode parameters of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    write_cache: bool,
    descriptor_sense: bool,
    software_protected: bool,
    keeps_attentions: bool,
    tells_aborts: bool,
    /// Threshold sets in use beyond which initiators are told. Set by the target, not by initiators.
    threshold: Option<u32>,
}

impl Modes {
    /// The default values.
    pub(super) fn of(config: &LuConfig) -> Self {
        Self {
            write_cache: config.write_back,
            descriptor_sense: false,
            software_protected: false,
            keeps_attentions: false,
            tells_aborts: false,
            threshold: None,
        }
    }

    /// WCE: writes may be answered before they are on the medium.
    pub(super) fn write_cache(self) -> bool {
        self.write_cache
    }

    /// D_SENSE: sense data goes out in descriptor format.
    pub(super) fn descriptor_sense(self) -> bool {
        self.descriptor_sense
    }

    /// UA_INTLCK_CTRL 10b: unit attentions stay until REQUEST SENSE.
    pub(super) fn keeps_attentions(self) -> bool {
        self.keeps_attentions
    }

    /// TAS: commands that another nexus aborts are answered TASK ABORTED.
    pub(super) fn tells_aborts(self) -> bool {
        self.tells_aborts
    }

    /// SWP: an initiator has set the disk read-only.
    pub(super) fn software_protected(self) -> bool {
        self.software_protected
    }
}

/// A page: header, then its values. `mask` has the changeable bits set; both begin behind the header of 2 bytes,
/// or 4 with a subpage code.
struct Page {
    code: u8,
    /// 0: the page has no subpage code.
    sub: u8,
    len: usize,
    values: fn(Modes) -> [u8; BODY_MAX],
    mask: [u8; BODY_MAX],
    keep: fn(&mut Modes, &[u8; BODY_MAX]),
}

/// Longest page body: page 1Ch/02h.
const BODY_MAX: usize = 20;

const fn body<const N: usize>(bytes: [u8; N]) -> [u8; BODY_MAX] {
    let mut all = [0; BODY_MAX];
    let mut at = 0;
    while at < N {
        all[at] = bytes[at];
        at += 1;
    }
    all
}

const fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

/// Ascending.
static PAGES: [Page; 5] = [
    // Read-write error recovery: nothing to recover by ourselves.
    Page {
        code: 0x01,
        sub: 0,
        len: 10,
        values: |_| body([0, 0, 0, 0, 0, LBPERE]),
        mask: body([]),
        keep: |_, _| {},
    },
    // Caching: WCE; RCD=0, the read cache is on.
    Page {
        code: 0x08,
        sub: 0,
        len: 18,
        values: |modes| body([flag(modes.write_cache, WCE)]),
        mask: body([WCE]),
        keep: |modes, new| modes.write_cache = new[0] & WCE != 0,
    },
    // Control: TST=0, GLTSD=1, unrestricted reordering, QERR=0.
    Page {
        code: 0x0A,
        sub: 0,
        len: 10,
        values: |modes| {
            let sense = flag(modes.descriptor_sense, D_SENSE);
            let protected = flag(modes.software_protected, SWP);
            let interlock = flag(modes.keeps_attentions, UA_INTLCK);
            let aborts = flag(modes.tells_aborts, TAS);
            body([0x02 | sense, 0x10, protected | interlock, aborts])
        },
        mask: body([D_SENSE, 0, SWP | UA_INTLCK, TAS]),
        keep: |modes, new| {
            modes.descriptor_sense = new[0] & D_SENSE != 0;
            modes.software_protected = new[2] & SWP != 0;
            modes.keeps_attentions = new[2] & UA_INTLCK != 0;
            modes.tells_aborts = new[3] & TAS != 0;
        },
    },
    // Informational exceptions control: DEXCPT, there are none to report.
    Page {
        code: 0x1C,
        sub: 0,
        len: 10,
        values: |_| body([0x08]),
        mask: body([]),
        keep: |_, _| {},
    },
    // Logical block provisioning: SITUA=0, every nexus is told; one threshold, the warning of the disk's layer.
    Page {
        code: 0x1C,
        sub: 0x02,
        len: 20,
        values: threshold,
        mask: body([]),
        keep: |_, _| {},
    },
];

fn threshold(modes: Modes) -> [u8; BODY_MAX] {
    let mut page = body([]);
    let count = modes.threshold.unwrap_or(0).to_be_bytes();
    let enabled = flag(modes.threshold.is_some(), THRESHOLD_ENABLED);
    let descriptor = [enabled | ARMED_UPWARDS, USED_RESOURCES, 0, 0];
    let bytes = descriptor.into_iter().chain(count);
    for (slot, byte) in page.iter_mut().skip(12).zip(bytes) {
        *slot = byte;
    }
    page
}

impl Page {
    /// What comes before its values.
    fn header(&self) -> Vec<u8> {
        let len = u8::try_from(self.len).unwrap_or(0);
        if self.sub == 0 {
            vec![self.code, len]
        } else {
            vec![SPF | self.code, self.sub, 0, len]
        }
    }

    /// True when MODE SENSE asks for it with these codes (SPC-4 table 156).
    const fn is_asked(&self, code: u8, subpage: u8) -> bool {
        (code == ALL_PAGES || self.code == code) && (subpage == ALL_SUBPAGES || self.sub == subpage)
    }
}

/// MODE SENSE(6), (10).
pub(super) fn sense(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    let long = cdb.opcode() == 0x5A;
    let (code, subpage) = (cdb.byte(2) & 0x3F, cdb.byte(3));
    if !PAGES.iter().any(|page| page.is_asked(code, ALL_SUBPAGES)) {
        return Err(Sense::cdb_field(2, Some(5)).into());
    }
    let chosen = |page: &&Page| page.is_asked(code, subpage);
    let single = subpage == 0x00 || subpage == ALL_SUBPAGES || code != ALL_PAGES;
    if !single || !PAGES.iter().any(|page| chosen(&page)) {
        return Err(Sense::cdb_field(3, None).into());
    }
    let control = cdb.byte(2) >> 6;
    let default = lu.default_modes();
    let mut pages = Vec::with_capacity(64);
    for page in PAGES.iter().filter(chosen) {
        let values = match control {
            0 => (page.values)(lu.modes),
            1 => page.mask,
            2 => (page.values)(default),
            _ => return Err(Sense::SAVING_NOT_SUPPORTED.into()),
        };
        pages.extend_from_slice(&page.header());
        pages.extend(values.iter().take(page.len));
    }
    let long_lba = long && cdb.has(1, 0x10);
    let blocks = if cdb.has(1, 0x08) {
        Vec::new()
    } else {
        lu.block_descriptor(long_lba)
    };
    cdb.answer(lu.mode_data(long, long_lba, &blocks, &pages))
}

impl LogicalUnit {
    /// The mode parameters without what initiators changed.
    pub(super) fn default_modes(&self) -> Modes {
        Modes {
            threshold: self.modes.threshold,
            ..Modes::of(&self.config)
        }
    }

    /// The bytes in use beyond which [`super::News::SpaceThreshold`] is announced, for mode page 1Ch/02h.
    pub fn set_threshold(&mut self, bytes: Option<u64>) {
        let sets = bytes.map(|bytes| bytes / THRESHOLD_SET_BYTES);
        let threshold = sets.map(|sets| u32::try_from(sets).unwrap_or(u32::MAX));
        if std::mem::replace(&mut self.modes.threshold, threshold) != threshold {
            for nexus in self.nexuses.all() {
                nexus.tell(Attention::ModeChanged);
            }
        }
    }

    /// SBC-3 6.5.2: number and length of the blocks. VMware reads the length from here.
    fn block_descriptor(&self, long_lba: bool) -> Vec<u8> {
        let blocks = self.blocks();
        let len = u32::try_from(SECTOR_BYTES).unwrap_or(0);
        let mut bytes = Vec::with_capacity(16);
        if long_lba {
            bytes.extend_from_slice(&blocks.to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
        } else {
            let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&blocks.to_be_bytes());
        }
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes
    }

    /// Header (4 or 8 bytes), block descriptor, pages. MODE DATA LENGTH does not count itself.
    fn mode_data(&self, long: bool, long_lba: bool, blocks: &[u8], pages: &[u8]) -> Vec<u8> {
        let protected = self.config.traits.read_only || self.modes.software_protected;
        let device = flag(protected, WP) | DPOFUA;
        let blocks_len = u8::try_from(blocks.len()).unwrap_or(0);
        let rest = blocks.len() + pages.len();
        let mut data = Vec::with_capacity(8 + rest);
        if long {
            let len = u16::try_from(6 + rest).unwrap_or(u16::MAX);
            data.extend_from_slice(&len.to_be_bytes());
            data.extend_from_slice(&[0, device, u8::from(long_lba), 0, 0, blocks_len]);
        } else {
            let len = u8::try_from(3 + rest).unwrap_or(u8::MAX);
            data.extend_from_slice(&[len, 0, device, blocks_len]);
        }
        data.extend_from_slice(blocks);
        data.extend_from_slice(pages);
        data
    }

    /// The parameters that the list asks for; nothing is changed until all of it is found right.
    fn selected(&self, long: bool, list: &[u8]) -> Result<Modes, Sense> {
        let header = if long { 8 } else { 4 };
        let (head, rest) = list.split_at_checked(header).ok_or(Sense::LIST_LENGTH)?;
        let (blocks_len, long_lba) = match *head {
            [_, _, _, _, flags, _, hi, lo] => {
                (usize::from(u16::from_be_bytes([hi, lo])), flags & 1 != 0)
            }
            [_, _, _, len] => (usize::from(len), false),
            _ => (0, false),
        };
        let (blocks, mut pages) = rest
            .split_at_checked(blocks_len)
            .ok_or(Sense::LIST_LENGTH)?;
        self.check_block_descriptor(blocks, long_lba, header)?;
        let mut modes = self.modes;
        while !pages.is_empty() {
            let at = list.len() - pages.len();
            pages = take_page(&mut modes, pages, at)?;
        }
        Ok(modes)
    }

    /// Absent, or what the disk has: its size and block length cannot be set. Zero blocks means "as it is".
    fn check_block_descriptor(&self, bytes: &[u8], long: bool, at: usize) -> Result<(), Sense> {
        let (blocks, size) = match *bytes {
            [] => return Ok(()),
            [a, b, c, d, _, e, f, g] if !long => {
                let blocks = u32::from_be_bytes([a, b, c, d]);
                let all = u32::try_from(self.blocks()).unwrap_or(u32::MAX);
                let same = blocks == 0 || blocks == all;
                (same, u32::from_be_bytes([0, e, f, g]))
            }
            [a, b, c, d, e, f, g, h, _, _, _, _, s, t, u, v] if long => {
                let blocks = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                let same = blocks == 0 || blocks == self.blocks();
                (same, u32::from_be_bytes([s, t, u, v]))
            }
            _ => return Err(list_field(at.saturating_sub(1))),
        };
        if !blocks || u64::from(size) != SECTOR_BYTES {
            return Err(list_field(at));
        }
        Ok(())
    }
}

/// Checks one page of a MODE SELECT and keeps its values; the rest of the list comes back.
fn take_page<'a>(modes: &mut Modes, list: &'a [u8], at: usize) -> Result<&'a [u8], Sense> {
    let (&[code, second], mut rest) = list.split_first_chunk().ok_or(Sense::LIST_LENGTH)?;
    // Bit 7 is PS, reserved here.
    let sub = if code & SPF == 0 { 0 } else { second };
    let known = |page: &&Page| page.code == code & 0x3F && page.sub == sub;
    let page = PAGES.iter().find(known).ok_or(list_field(at))?;
    let (mut len, mut header) = (usize::from(second), 2);
    if code & SPF != 0 {
        if sub == 0 {
            return Err(list_field(at));
        }
        let (bytes, behind) = rest.split_first_chunk().ok_or(Sense::LIST_LENGTH)?;
        (len, header, rest) = (usize::from(u16::from_be_bytes(*bytes)), 4, behind);
    }
    if len != page.len {
        return Err(list_field(at + header - 1));
    }
    let (new, rest) = rest.split_at_checked(page.len).ok_or(Sense::LIST_LENGTH)?;
    let current = (page.values)(*modes);
    let mut kept = [0; BODY_MAX];
    for (index, &byte) in new.iter().enumerate() {
        let (Some(&old), Some(&mask), Some(slot)) = (
            current.get(index),
            page.mask.get(index),
            kept.get_mut(index),
        ) else {
            return Err(Sense::INTERNAL);
        };
        if (byte ^ old) & !mask != 0 {
            return Err(list_field(at + header + index));
        }
        *slot = byte;
    }
    (page.keep)(modes, &kept);
    Ok(rest)
}

fn list_field(at: usize) -> Sense {
    Sense::list_field(u16::try_from(at).unwrap_or(u16::MAX), None)
}

/// True for MODE SELECT(6), (10).
pub(super) fn is_select(cdb: &Cdb) -> bool {
    matches!(cdb.opcode(), 0x15 | 0x55)
}

impl LogicalUnit {
    /// The flush of a MODE SELECT that switched the write cache off has failed, so the disk still holds
    /// unwritten data: the cache is on as before. The others heard of the change and hear of its end.
    pub(super) fn keep_write_cache(&mut self, by: NexusId) {
        if self.modes.write_cache {
            return;
        }
        self.modes.write_cache = true;
        for nexus in self.nexuses.others(by) {
            nexus.tell(Attention::ModeChanged);
        }
    }
}

/// MODE SELECT(6), (10).
pub(super) fn select(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    let long = cdb.opcode() == 0x55;
    if !cdb.has(1, 0x10) {
        return Err(Sense::cdb_field(1, Some(4)).into());
    }
    if cdb.has(1, 0x01) {
        return Err(Sense::cdb_field(1, Some(0)).into());
    }
    let len = if long {
        usize::from(cdb.u16(7))
    } else {
        usize::from(cdb.byte(4))
    };
    if len == 0 {
        return call.good();
    }
    let Some(data) = call.data else {
        return want(len as u64, false);
    };
    let list = data.get(..len).ok_or(Sense::LIST_LENGTH)?;
    let new = lu.selected(long, list)?;
    let old = std::mem::replace(&mut lu.modes, new);
    if new != old {
        for nexus in lu.nexuses.others(call.nexus) {
            nexus.tell(Attention::ModeChanged);
        }
    }
    if old.write_cache && !new.write_cache {
        // From now on the disk is said to hold no unwritten data: make it true before GOOD.
        return Ok(Step::Run(BlockOp::Flush));
    }
    call.good()
}
