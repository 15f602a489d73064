//! READ CAPACITY(10), (16) and GET LBA STATUS (SBC-3 5.4, 5.15, 5.16).

use crate::limits::{EXTENT_BYTES_MAX, EXTENTS_MAX};
use crate::units::{BLOCK_BYTES, ByteRange, SECTOR_BYTES};

use super::cdb::Cdb;
use super::sense::Sense;
use super::{Answer, BlockOp, Call, Extent, LogicalUnit, Reply, Step};

/// log2 of the logical blocks in a physical block: 512e.
pub(super) const PHYSICAL_EXPONENT: u8 = 3;

const _: () = assert!(SECTOR_BYTES << PHYSICAL_EXPONENT == BLOCK_BYTES);
const SECTOR: u32 = 512;
const _: () = assert!(SECTOR as u64 == SECTOR_BYTES);

/// READ CAPACITY(10). FFFFFFFFh sends the initiator to READ CAPACITY(16).
pub(super) fn read_10(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    if !call.cdb.has(8, 0x01) && call.cdb.u32(2) != 0 {
        return Err(Sense::cdb_field(2, None).into());
    }
    let last = u32::try_from(lu.last_block()).unwrap_or(u32::MAX);
    let mut data = last.to_be_bytes().to_vec();
    data.extend_from_slice(&SECTOR.to_be_bytes());
    call.cdb.answer(data)
}

/// READ CAPACITY(16).
pub(super) fn read_16(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    if !call.cdb.has(14, 0x01) && call.cdb.u64(2) != 0 {
        return Err(Sense::cdb_field(2, None).into());
    }
    let mut data = vec![0; 32];
    data.splice(0..8, lu.last_block().to_be_bytes());
    data.splice(8..12, SECTOR.to_be_bytes());
    // No protection; 512e or 512n; LBPME and LBPRZ: unmapped blocks exist and read zeros; aligned at 0.
    data.splice(13..15, [lu.physical_exponent(), 0xC0]);
    call.cdb.answer(data)
}

/// GET LBA STATUS: asks the volume, from the given block on.
pub(super) fn get_lba_status(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let range = lu.status_range(&call.cdb)?;
    let wanted = call.cdb.u32(10).saturating_sub(8) / 16;
    if wanted == 0 {
        return call.cdb.answer(status_header(0));
    }
    Ok(Step::Run(BlockOp::Extents {
        range,
        count_max: wanted.min(EXTENTS_MAX),
    }))
}

/// PARAMETER DATA LENGTH counts what follows it: 4 reserved bytes and the descriptors.
fn status_header(descriptors: usize) -> Vec<u8> {
    let len = u32::try_from(descriptors * 16 + 4).unwrap_or(u32::MAX);
    let mut data = len.to_be_bytes().to_vec();
    data.extend_from_slice(&[0; 4]);
    data
}

impl LogicalUnit {
    /// log2 of the logical blocks in a physical one: 512e, or 512n for software that wants nothing else.
    pub(super) fn physical_exponent(&self) -> u8 {
        if self.config.traits.small_blocks {
            0
        } else {
            PHYSICAL_EXPONENT
        }
    }

    pub(super) fn last_block(&self) -> u64 {
        self.blocks().saturating_sub(1)
    }

    fn status_range(&self, cdb: &Cdb) -> Result<ByteRange, Sense> {
        let lba = cdb.u64(2);
        if lba >= self.blocks() {
            return Err(Sense::LBA_OUT_OF_RANGE);
        }
        let blocks = (self.blocks() - lba).min(EXTENT_BYTES_MAX / SECTOR_BYTES);
        ByteRange::of_sectors(lba, blocks).ok_or(Sense::LBA_OUT_OF_RANGE)
    }

    /// The answer to GET LBA STATUS. Extents are taken as far as they follow on each other from the asked
    /// block; neighbours of one state become one descriptor.
    pub(super) fn lba_status(&self, cdb: &Cdb, extents: &[Extent]) -> Reply {
        let Ok(range) = self.status_range(cdb) else {
            return self.check(Sense::INTERNAL);
        };
        let runs = joined(range, extents);
        let mut data = status_header(runs.len());
        for run in &runs {
            let lba = run.range.offset() / SECTOR_BYTES;
            let blocks = u32::try_from(run.range.len() / SECTOR_BYTES).unwrap_or(u32::MAX);
            data.extend_from_slice(&lba.to_be_bytes());
            data.extend_from_slice(&blocks.to_be_bytes());
            data.extend_from_slice(&[u8::from(!run.mapped), 0, 0, 0]);
        }
        let allocation = usize::try_from(cdb.allocation()).unwrap_or(usize::MAX);
        data.truncate(allocation);
        Reply::with(data)
    }
}

fn joined(range: ByteRange, extents: &[Extent]) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    let mut at = range.offset();
    for extent in extents {
        let Some(part) = extent.range.overlap(range).filter(|p| p.offset() == at) else {
            continue;
        };
        at = part.end();
        match runs.last_mut() {
            Some(last) if last.mapped == extent.mapped => {
                let len = last.range.len() + part.len();
                last.range = ByteRange::new(last.range.offset(), len).unwrap_or(last.range);
            }
            _ => runs.push(Extent {
                range: part,
                mapped: extent.mapped,
            }),
        }
    }
    runs
}
