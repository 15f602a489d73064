//! The commands about the unit as a whole: ready, sense, start and stop, removal, self-test.

use super::sense::Sense;
use super::{Answer, BlockOp, Call, LogicalUnit, Step};

/// TEST UNIT READY (SPC-4 6.47). A disk that is served is ready.
pub(super) fn test_ready(_: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    call.good()
}

/// REQUEST SENSE (SPC-4 6.39): a waiting unit attention comes as data, and with GOOD.
pub(super) fn request_sense(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let nexus = lu.nexuses.get_mut(call.nexus);
    let attention = nexus.and_then(super::nexus::Nexus::take_attention);
    let sense = attention.map_or(Sense::NONE, super::nexus::Attention::sense);
    let descriptor = call.cdb.has(1, 0x01);
    call.cdb
        .answer(sense.encode(descriptor).as_slice().to_vec())
}

/// START STOP UNIT (SBC-3 5.25). Stopping flushes and changes nothing else: a node that is shut down or
/// hibernated sends it, and the next boot must find the disk running.
pub(super) fn start_stop(_: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    let condition = cdb.byte(4) >> 4;
    if !matches!(condition, 0x0..=0x3 | 0x7 | 0xA | 0xB) {
        return Err(Sense::cdb_field(4, Some(7)).into());
    }
    if condition == 0 && cdb.has(4, 0x02) {
        // LOEJ: nothing can be ejected.
        return Err(Sense::cdb_field(4, Some(1)).into());
    }
    let starts = condition == 0 && cdb.has(4, 0x01);
    let keeps_cache = cdb.has(4, 0x04) || matches!(condition, 0x1 | 0x7);
    if starts || keeps_cache {
        return call.good();
    }
    Ok(Step::Run(BlockOp::Flush))
}

/// PREVENT ALLOW MEDIUM REMOVAL (SBC-3 5.10): always true of a disk that cannot be removed, so nothing is
/// kept.
pub(super) fn prevent_allow(_: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let prevent = call.cdb.byte(4) & 0x03;
    if prevent > 1 {
        return Err(Sense::cdb_field(4, Some(1)).into());
    }
    call.good()
}

/// SEND DIAGNOSTIC (SPC-4 6.42): the default self-test, which finds nothing. No background self-tests, no
/// pages.
pub(super) fn send_diagnostic(_: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    if call.cdb.has(1, 0xE0) {
        return Err(Sense::cdb_field(1, Some(7)).into());
    }
    if call.cdb.u16(3) != 0 {
        return Err(Sense::cdb_field(3, None).into());
    }
    call.good()
}
