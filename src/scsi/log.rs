//! LOG SENSE: the lists of the log pages, and how full a thin disk is (SPC-4 6.8, 7.3; SBC-4 6.4.5).
//!
//! Page 0Ch counts in threshold sets, as mode page 1Ch/02h does: what is used is rounded up, what is available down
//! (SBC-4 E.5), so a count above the threshold is a threshold that was passed. Used are the blocks of the disk's own;
//! what it shares with its image takes nothing of it, although GET LBA STATUS rightly calls it mapped.

use super::cdb::Cdb;
use super::mode::THRESHOLD_SET_BYTES;
use super::sense::Sense;
use super::{Answer, BlockOp, Call, LogicalUnit, Provision, Reply, Step};

const SUPPORTED: u8 = 0x00;
const PROVISIONING: u8 = 0x0C;
const ALL_SUBPAGES: u8 = 0xFF;
/// SPF: the page has a subpage code.
const SPF: u8 = 0x40;
/// DS: nothing of the page is saved.
const DS: u8 = 0x80;
/// Page, subpage; ascending.
const PAGES: [(u8, u8); 3] = [(SUPPORTED, 0), (SUPPORTED, ALL_SUBPAGES), (PROVISIONING, 0)];

/// Parameter codes of page 0Ch, the same numbers as THRESHOLD RESOURCE of mode page 1Ch/02h.
const AVAILABLE: u16 = 0x0001;
const USED: u16 = 0x0002;
/// FORMAT AND LINKING 11b: a list in binary.
const BINARY_LIST: u8 = 0x03;
/// RESOURCE COUNT, SCOPE, three reserved bytes.
const RESOURCE_LEN: u8 = 8;
/// SCOPE: of this logical unit alone; shared with others.
const DEDICATED: u8 = 0x01;
const SHARED: u8 = 0x02;

/// LOG SENSE.
pub(super) fn sense(_: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    if cdb.has(1, 0x01) {
        // SP: there is nothing to save.
        return Err(Sense::cdb_field(1, Some(0)).into());
    }
    let (page, sub) = (cdb.byte(2) & 0x3F, cdb.byte(3));
    if !PAGES.iter().any(|known| known.0 == page) {
        return Err(Sense::cdb_field(2, Some(5)).into());
    }
    match (page, sub) {
        (SUPPORTED, 0) => {
            let whole = PAGES.iter().filter(|page| page.1 == 0);
            cdb.answer(with_header(SUPPORTED, whole.map(|page| page.0).collect()))
        }
        (SUPPORTED, ALL_SUBPAGES) => {
            let pairs = PAGES.iter().flat_map(|page| [page.0, page.1]).collect();
            let mut data = with_header(SPF | SUPPORTED, pairs);
            if let Some(code) = data.get_mut(1) {
                *code = ALL_SUBPAGES;
            }
            cdb.answer(data)
        }
        (PROVISIONING, 0) if cdb.u16(5) <= USED => Ok(Step::Run(BlockOp::Provision)),
        // PARAMETER POINTER: there is no parameter from there on.
        (PROVISIONING, 0) => Err(Sense::cdb_field(5, None).into()),
        _ => Err(Sense::cdb_field(3, None).into()),
    }
}

fn with_header(page: u8, body: Vec<u8>) -> Vec<u8> {
    let [hi, lo] = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut data = vec![page, 0, hi, lo];
    data.extend(body);
    data
}

impl LogicalUnit {
    /// Page 0Ch, from the parameter on at which PARAMETER POINTER points.
    pub(super) fn provisioning(&self, cdb: &Cdb, told: Provision) -> Reply {
        let scope = if told.shared { SHARED } else { DEDICATED };
        let available = told.available_bytes / THRESHOLD_SET_BYTES;
        let used = told.used_bytes.div_ceil(THRESHOLD_SET_BYTES);
        let mut body = Vec::with_capacity(24);
        for (code, count, scope) in [(AVAILABLE, available, scope), (USED, used, DEDICATED)] {
            if code < cdb.u16(5) {
                continue;
            }
            body.extend_from_slice(&code.to_be_bytes());
            body.extend_from_slice(&[BINARY_LIST, RESOURCE_LEN]);
            body.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
            body.extend_from_slice(&[scope, 0, 0, 0]);
        }
        let mut data = with_header(DS | PROVISIONING, body);
        data.truncate(usize::try_from(cdb.allocation()).unwrap_or(usize::MAX));
        Reply::with(data)
    }
}
