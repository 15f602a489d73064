//! Giving space back, and filling: UNMAP, WRITE SAME(10), (16) (SBC-3 4.7, 5.28, 5.43).

use crate::limits::{UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, WRITE_SAME_BLOCKS_MAX};
use crate::units::{ByteRange, SECTOR_BYTES};

use super::block::{one_sector, want};
use super::cdb::Cdb;
use super::sense::Sense;
use super::{Answer, BlockOp, Call, LogicalUnit, Step};

const LIST_HEADER: usize = 8;
const DESCRIPTOR: usize = 16;

/// UNMAP.
pub(super) fn unmap(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    if cdb.has(1, 0x01) {
        // ANCHOR: anchored blocks are not supported.
        return Err(Sense::cdb_field(1, Some(0)).into());
    }
    let len = usize::from(cdb.u16(7));
    if len == 0 {
        return call.good();
    }
    if len < LIST_HEADER {
        return Err(Sense::LIST_LENGTH.into());
    }
    let Some(data) = call.data else {
        return want(len as u64, false);
    };
    let list = data.get(..len).ok_or(Sense::LIST_LENGTH)?;
    let ranges = lu.unmap_ranges(list)?;
    if ranges.is_empty() {
        return call.good();
    }
    let fua = lu.writes_through();
    Ok(Step::Run(BlockOp::Unmap { ranges, fua }))
}

impl LogicalUnit {
    /// The ranges of a parameter list, all checked before anything is changed. A tail that is no whole
    /// descriptor is ignored.
    fn unmap_ranges(&self, list: &[u8]) -> Result<Vec<ByteRange>, Sense> {
        let (head, rest) = list
            .split_at_checked(LIST_HEADER)
            .ok_or(Sense::LIST_LENGTH)?;
        let len = match *head {
            [_, _, hi, lo, ..] => usize::from(u16::from_be_bytes([hi, lo])) / DESCRIPTOR,
            _ => 0,
        };
        if len > usize::from(UNMAP_DESCRIPTORS_MAX) {
            return Err(Sense::list_field(2, None));
        }
        let descriptors = rest.get(..len * DESCRIPTOR).ok_or(Sense::LIST_LENGTH)?;
        let mut ranges = Vec::with_capacity(len);
        let mut left = u64::from(UNMAP_BLOCKS_MAX);
        for (index, bytes) in descriptors.chunks_exact(DESCRIPTOR).enumerate() {
            let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *bytes else {
                return Err(Sense::LIST_LENGTH);
            };
            let lba = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            let blocks = u64::from(u32::from_be_bytes([i, j, k, l]));
            let range = self.blocks_range(lba, blocks)?;
            let at = u16::try_from(LIST_HEADER + index * DESCRIPTOR + 8).unwrap_or(u16::MAX);
            left = left
                .checked_sub(blocks)
                .ok_or(Sense::list_field(at, None))?;
            if !range.is_empty() {
                ranges.push(range);
            }
        }
        Ok(ranges)
    }
}

impl LogicalUnit {
    /// No blocks means all from here to the last one, unless WSNZ=1 (SBC-3 5.42).
    fn same_range(&self, cdb: &Cdb) -> Result<ByteRange, Sense> {
        let (lba, blocks) = cdb.span();
        if blocks == 0 && self.config.traits.no_zero_count {
            self.blocks_range(lba, 0)?;
            return Err(Sense::cdb_field(cdb.length_at(), None));
        }
        let to_the_end = self.blocks().saturating_sub(lba);
        self.blocks_range(lba, if blocks == 0 { to_the_end } else { blocks })
    }
}

/// WRITE SAME(10), (16).
///
/// One sector of data-out, or none with NDOB. A sector of zeros is handed on as "zeros", with UNMAP or
/// without: the blocks read zeros either way, and a thin disk may deallocate such blocks by itself (SBC-3
/// 4.7.4.6).
pub(super) fn write_same(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    cdb.refuse_protect()?;
    if cdb.has(1, 0x10) {
        return Err(Sense::cdb_field(1, Some(4)).into());
    }
    if cdb.has(1, 0x06) {
        // PBDATA, LBDATA: obsolete.
        return Err(Sense::cdb_field(1, Some(2)).into());
    }
    let without_data = cdb.opcode() == 0x93 && cdb.has(1, 0x01);
    if cdb.opcode() == 0x41 && cdb.has(1, 0x01) {
        return Err(Sense::cdb_field(1, Some(0)).into());
    }
    let range = lu.same_range(cdb)?;
    let max = u64::from(WRITE_SAME_BLOCKS_MAX) * SECTOR_BYTES;
    if range.len() > max {
        return Err(Sense::cdb_field(cdb.length_at(), None).into());
    }
    let fua = lu.writes_through();
    let filled = |pattern| {
        if range.is_empty() {
            // Behind the last block there is nothing left to fill.
            return call.good();
        }
        Ok(Step::Run(BlockOp::WriteSame {
            range,
            pattern,
            fua,
        }))
    };
    if without_data {
        return filled(None);
    }
    let Some(data) = call.data else {
        return want(SECTOR_BYTES, true);
    };
    let sector = one_sector(data).filter(|sector| sector.len() == data.len());
    let sector = sector.ok_or(Sense::cdb_field(cdb.length_at(), None))?;
    if sector.iter().all(|&byte| byte == 0) {
        return filled(None);
    }
    filled(Some(Box::new(*sector)))
}
