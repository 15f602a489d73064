//! The commands about the unit as a whole: ready, sense, start and stop, removal, self-test.

use super::nexus::Attention;
use super::sense::Sense;
use super::{Answer, BlockOp, Call, LogicalUnit, Step};

/// TEST UNIT READY (SPC-4 6.47). A disk that is served is ready.
pub(super) fn test_ready(_: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    call.good()
}

/// REQUEST SENSE (SPC-4 6.39): a waiting unit attention, or why the disk is not ready, comes as data with GOOD.
pub(super) fn request_sense(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let nexus = lu.nexuses.get_mut(call.nexus);
    let attention = nexus.and_then(super::nexus::Nexus::take_attention);
    let sense = match attention {
        Some(attention) => attention.sense(),
        None => lu.not_ready().unwrap_or(Sense::NONE),
    };
    let descriptor = call.cdb.has(1, 0x01);
    call.cdb
        .answer(sense.encode(descriptor).as_slice().to_vec())
}

/// START STOP UNIT (SBC-3 5.25). Stopping flushes and changes nothing else: a node that is shut down or
/// hibernated sends it, and the next boot must find the disk running. There are no power conditions, so every
/// one of them is reached at once.
pub(super) fn start_stop(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let cdb = &call.cdb;
    let condition = cdb.byte(4) >> 4;
    let (starts, ejects) = (cdb.has(4, 0x01), cdb.has(4, 0x02));
    if condition == 0 && ejects {
        return lu.eject_or_load(call, starts);
    }
    if condition == 0 && starts && lu.ejected {
        return Err(Sense::NO_MEDIUM.into());
    }
    let starts = condition == 0 && starts;
    let keeps_cache = cdb.has(4, 0x04) || matches!(condition, 0x1 | 0x7);
    if starts || keeps_cache || lu.ejected {
        return call.good();
    }
    Ok(Step::Run(BlockOp::Flush))
}

impl LogicalUnit {
    /// LOEJ: the medium of a removable disk goes out or comes back, unless a nexus holds it where it is.
    fn eject_or_load(&mut self, call: &Call<'_>, load: bool) -> Answer {
        if !self.config.traits.removable {
            return Err(Sense::cdb_field(4, Some(1)).into());
        }
        if !self.removal_prevented_by.is_empty() {
            return Err(Sense::REMOVAL_PREVENTED.into());
        }
        let was_out = std::mem::replace(&mut self.ejected, !load);
        if load && was_out {
            for nexus in self.nexuses.others(call.nexus) {
                nexus.tell(Attention::MediumChanged);
            }
        }
        if load || was_out {
            return call.good();
        }
        // What was written is on the medium before it may be taken away.
        Ok(Step::Run(BlockOp::Flush))
    }

    /// Why a command that needs the medium cannot run now.
    pub(super) fn not_ready(&self) -> Option<Sense> {
        let out = self.ejected.then_some(Sense::NO_MEDIUM);
        self.sanitize.sense().or(out)
    }

    /// No nexus is left: a medium that was ejected is in the drive again, as after power on, so that the node
    /// can boot.
    pub(super) fn load_when_alone(&mut self) {
        if self.nexuses.all().next().is_none() {
            self.ejected = false;
        }
    }
}

/// PREVENT ALLOW MEDIUM REMOVAL (SBC-3 5.10): for each nexus, until it allows it or is lost, or a reset. A disk
/// that cannot be removed says GOOD and keeps nothing.
pub(super) fn prevent_allow(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let prevent = call.cdb.byte(4) & 0x03;
    if prevent > 1 {
        return Err(Sense::cdb_field(4, Some(1)).into());
    }
    lu.removal_prevented_by.retain(|nexus| *nexus != call.nexus);
    if prevent == 1 && lu.config.traits.removable {
        lu.removal_prevented_by.push(call.nexus);
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
