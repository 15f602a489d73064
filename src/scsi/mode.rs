//! Mode parameters: MODE SENSE and MODE SELECT (SPC-4 6.9 to 6.12, 7.5; SBC-3 6.5).
//!
//! Pages 01, 08, 0A, 1C. Changeable: WCE (08), D_SENSE, SWP, UA_INTLCK_CTRL (00b, 10b) and TAS (0A). Nothing is
//! saved.

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

/// The changeable mode parameters of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    write_cache: bool,
    descriptor_sense: bool,
    software_protected: bool,
    keeps_attentions: bool,
    tells_aborts: bool,
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

/// A page: header, then its values. `mask` has the changeable bits set; both begin behind the 2-byte
/// header.
struct Page {
    code: u8,
    len: usize,
    values: fn(Modes) -> [u8; BODY_MAX],
    mask: [u8; BODY_MAX],
    keep: fn(&mut Modes, &[u8; BODY_MAX]),
}

/// Longest page body: page 08h.
const BODY_MAX: usize = 18;

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
static PAGES: [Page; 4] = [
    // Read-write error recovery: nothing to recover by ourselves.
    Page {
        code: 0x01,
        len: 10,
        values: |_| body([]),
        mask: body([]),
        keep: |_, _| {},
    },
    // Caching: WCE; RCD=0, the read cache is on.
    Page {
        code: 0x08,
        len: 18,
        values: |modes| body([flag(modes.write_cache, WCE)]),
        mask: body([WCE]),
        keep: |modes, new| modes.write_cache = new[0] & WCE != 0,
    },
    // Control: TST=0, GLTSD=1, unrestricted reordering, QERR=0.
    Page {
        code: 0x0A,
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
        len: 10,
        values: |_| body([0x08]),
        mask: body([]),
        keep: |_, _| {},
    },
];

/// MODE SENSE(6), (10).
pub(super) fn sense(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    let long = cdb.opcode() == 0x5A;
    let (code, subpage) = (cdb.byte(2) & 0x3F, cdb.byte(3));
    if !matches!(subpage, 0x00 | 0xFF) {
        return Err(Sense::cdb_field(3, None).into());
    }
    let chosen = |page: &&Page| code == ALL_PAGES || page.code == code;
    if !PAGES.iter().any(|page| chosen(&page)) {
        return Err(Sense::cdb_field(2, Some(5)).into());
    }
    let control = cdb.byte(2) >> 6;
    let default = Modes::of(&lu.config);
    let mut pages = Vec::with_capacity(64);
    for page in PAGES.iter().filter(chosen) {
        let values = match control {
            0 => (page.values)(lu.modes),
            1 => page.mask,
            2 => (page.values)(default),
            _ => return Err(Sense::SAVING_NOT_SUPPORTED.into()),
        };
        let len = u8::try_from(page.len).unwrap_or(0);
        pages.extend_from_slice(&[page.code, len]);
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
    let (&[code, len], rest) = list.split_first_chunk().ok_or(Sense::LIST_LENGTH)?;
    // Bit 7 is PS, reserved here; bit 6 is SPF, and we have no subpages.
    let page = PAGES.iter().find(|page| page.code == code & 0x7F);
    let page = page.ok_or(list_field(at))?;
    if usize::from(len) != page.len {
        return Err(list_field(at + 1));
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
            return Err(list_field(at + 2 + index));
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
