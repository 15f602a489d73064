//! The commands that read, write, verify and flush blocks (SBC-3 clause 5).

use crate::limits::{ATOMIC_BYTES_MAX, COMPARE_AND_WRITE_BLOCKS_MAX, TRANSFER_MAX};
use crate::units::{ByteRange, SECTOR_BYTES};

use super::cdb::Cdb;
use super::sense::Sense;
use super::{Answer, BlockOp, Call, LogicalUnit, Refusal, SECTOR_LEN, Step};

impl LogicalUnit {
    /// The range that a CDB names. Zero blocks may stand just behind the last block; further out is an
    /// error.
    pub(super) fn range(&self, cdb: &Cdb) -> Result<ByteRange, Sense> {
        let (lba, blocks) = cdb.span();
        self.blocks_range(lba, blocks)
    }

    /// `blocks` blocks from `lba`, inside the disk.
    pub(super) fn blocks_range(&self, lba: u64, blocks: u64) -> Result<ByteRange, Sense> {
        let end = lba.checked_add(blocks).ok_or(Sense::LBA_OUT_OF_RANGE)?;
        if end > self.blocks() {
            return Err(Sense::LBA_OUT_OF_RANGE);
        }
        ByteRange::of_sectors(lba, blocks).ok_or(Sense::LBA_OUT_OF_RANGE)
    }

    /// The range of a command that moves it over the wire: no protection information, not too long.
    fn transfer(&self, cdb: &Cdb) -> Result<ByteRange, Sense> {
        cdb.refuse_protect()?;
        let range = self.range(cdb)?;
        if range.len() > TRANSFER_MAX {
            return Err(Sense::cdb_field(cdb.length_at(), None));
        }
        Ok(range)
    }

    /// FUA, or a disk without a volatile cache.
    pub(super) fn forced(&self, cdb: &Cdb) -> bool {
        let fua = cdb.opcode() >= 0x20 && cdb.has(1, 0x08);
        fua || self.writes_through()
    }

    pub(super) fn writes_through(&self) -> bool {
        !self.modes.write_cache()
    }
}

/// Asks for `len` bytes of data-out.
pub(super) fn want(len: u64, exact: bool) -> Answer {
    let len = u32::try_from(len).map_err(|_| Sense::INVALID_FIELD_IN_CDB)?;
    Ok(Step::Data { len, exact })
}

/// The part of `range` for which data has come. An initiator may announce less than its CDB asks for (RFC
/// 7143 11.4.5.1): whole sectors count; a torn sector is refused before anything is written.
fn arrived(range: ByteRange, data: &[u8]) -> Result<ByteRange, Sense> {
    let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
    if len >= range.len() {
        return Ok(range);
    }
    if !len.is_multiple_of(SECTOR_BYTES) {
        return Err(Sense::WRONG_DATA_SIZE);
    }
    ByteRange::new(range.offset(), len).ok_or(Sense::INTERNAL)
}

/// The way of all commands whose data-out is the blocks of their range.
fn with_blocks(call: &Call<'_>, range: ByteRange, op: impl FnOnce(ByteRange) -> BlockOp) -> Answer {
    if range.is_empty() {
        return call.good();
    }
    let Some(data) = call.data else {
        return want(range.len(), false);
    };
    let range = arrived(range, data)?;
    if range.is_empty() {
        return call.good();
    }
    Ok(Step::Run(op(range)))
}

/// READ(6), (10), (12), (16). FUA asks for nothing more: what the cache holds is what the medium will hold.
pub(super) fn read(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let range = lu.transfer(&call.cdb)?;
    if range.is_empty() {
        return call.good();
    }
    Ok(Step::Run(BlockOp::Read(range)))
}

/// WRITE(6), (10), (12), (16).
pub(super) fn write(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let range = lu.transfer(&call.cdb)?;
    let fua = lu.forced(&call.cdb);
    with_blocks(call, range, |range| BlockOp::Write { range, fua })
}

/// WRITE ATOMIC(16): all blocks or none, whatever happens (SBC-4 4.29). Less data than blocks is refused: half
/// of the command would be no atomic write.
pub(super) fn write_atomic(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    let range = lu.transfer(cdb)?;
    if cdb.u16(10) != 0 {
        // ATOMIC BOUNDARY: none is offered in VPD page B0h.
        return Err(Sense::cdb_field(10, None).into());
    }
    if range.len() > ATOMIC_BYTES_MAX {
        return Err(Sense::cdb_field(cdb.length_at(), None).into());
    }
    if range.is_empty() {
        return call.good();
    }
    let Some(data) = call.data else {
        return want(range.len(), false);
    };
    if u64::try_from(data.len()).is_ok_and(|len| len < range.len()) {
        return Err(Sense::WRONG_DATA_SIZE.into());
    }
    let fua = lu.forced(cdb);
    Ok(Step::Run(BlockOp::WriteAtomic { range, fua }))
}

/// ORWRITE(16).
pub(super) fn or_write(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let range = lu.transfer(&call.cdb)?;
    let fua = lu.forced(&call.cdb);
    with_blocks(call, range, |range| BlockOp::OrWrite { range, fua })
}

/// WRITE AND VERIFY(10), (12), (16): always to the medium; BYTCHK=01b compares afterwards.
pub(super) fn write_verify(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let check = call.cdb.byte_check();
    if check > 1 {
        return Err(Sense::cdb_field(1, Some(2)).into());
    }
    let range = lu.transfer(&call.cdb)?;
    with_blocks(call, range, |range| match check {
        0 => BlockOp::Write { range, fua: true },
        _ => BlockOp::WriteCompare { range },
    })
}

/// VERIFY(10), (12), (16). BYTCHK=00b uses no data-out, even when some is sent. It is answered from the
/// capacity alone: what the store holds is verified against its checksum whenever it is read.
pub(super) fn verify(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    call.cdb.refuse_protect()?;
    match call.cdb.byte_check() {
        0 => lu.range(&call.cdb).map_err(Refusal::from)?,
        1 => {
            let range = lu.transfer(&call.cdb)?;
            return with_blocks(call, range, |range| BlockOp::Compare {
                range,
                one_block: false,
            });
        }
        3 => return verify_one_block(lu, call),
        _ => return Err(Sense::cdb_field(1, Some(2)).into()),
    };
    call.good()
}

/// BYTCHK=11b: one sector of data-out, compared with every sector of the range.
fn verify_one_block(lu: &LogicalUnit, call: &Call<'_>) -> Answer {
    let range = lu.transfer(&call.cdb)?;
    if range.is_empty() {
        return call.good();
    }
    match call.data {
        None => want(SECTOR_BYTES, false),
        Some([]) => call.good(),
        Some(data) if one_sector(data).is_none() => Err(Sense::WRONG_DATA_SIZE.into()),
        Some(_) => Ok(Step::Run(BlockOp::Compare {
            range,
            one_block: true,
        })),
    }
}

/// The first sector of the data-out.
pub(super) fn one_sector(data: &[u8]) -> Option<&[u8; SECTOR_LEN]> {
    data.first_chunk()
}

/// COMPARE AND WRITE. Zero blocks is GOOD, but only without data: 256 blocks do not fit the field.
pub(super) fn compare_and_write(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    cdb.refuse_protect()?;
    if cdb.span().1 > COMPARE_AND_WRITE_BLOCKS_MAX {
        return Err(Sense::cdb_field(13, None).into());
    }
    let range = lu.transfer(cdb)?;
    let both = range.len() * 2;
    let Some(data) = call.data else {
        return want(both, true);
    };
    if u64::try_from(data.len()) != Ok(both) {
        return Err(Sense::cdb_field(13, None).into());
    }
    if range.is_empty() {
        return call.good();
    }
    let fua = lu.forced(cdb);
    Ok(Step::Run(BlockOp::CompareAndWrite { range, fua }))
}

/// PRE-FETCH(10), (16): a hint. The range is checked; nothing is promised to be in the cache, so the answer
/// is GOOD and never CONDITION MET. A length of 0 means up to the last block.
pub(super) fn prefetch(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    lu.range(&call.cdb)?;
    call.good()
}

/// SYNCHRONIZE CACHE(10), (16): flushes everything, whatever the range; IMMED is not made use of.
pub(super) fn synchronize(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    lu.range(&call.cdb)?;
    Ok(Step::Run(BlockOp::Flush))
}
