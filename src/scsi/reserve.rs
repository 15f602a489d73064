//! RESERVE and RELEASE (SPC-2 7.21, 7.16), and the check of all reservations before a command runs.

use super::opcode::Access;
use super::sense::Sense;
use super::{Answer, Call, LogicalUnit, NexusId, Refusal};

impl LogicalUnit {
    /// RESERVATION CONFLICT when a reservation of another nexus forbids this kind of access.
    pub(super) fn check_reservations(&self, nexus: NexusId, access: Access) -> Result<(), Refusal> {
        if access == Access::Always {
            return Ok(());
        }
        if self.reserved_by.is_some_and(|holder| holder != nexus) {
            return Err(Refusal::Conflict);
        }
        if access == Access::Query || self.persist.table.is_free() {
            return Ok(());
        }
        let port = self.nexuses.get(nexus).map_or("", |n| n.port.as_str());
        if self.persist.table.allows(port, access == Access::Read) {
            Ok(())
        } else {
            Err(Refusal::Conflict)
        }
    }
}

/// RESERVE(6), (10): the whole unit for this nexus.
pub(super) fn reserve(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    check_form(call)?;
    if let Some(answer) = beside_registrations(lu, call) {
        return answer;
    }
    lu.reserved_by = Some(call.nexus);
    call.good()
}

/// RELEASE(6), (10): of another nexus's reservation does nothing, and is GOOD.
pub(super) fn release(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    check_form(call)?;
    if let Some(answer) = beside_registrations(lu, call) {
        return answer;
    }
    if lu.reserved_by == Some(call.nexus) {
        lu.reserved_by = None;
    }
    call.good()
}

/// What becomes of both commands while ports are registered. They do nothing and are GOOD from who shares in a
/// persistent reservation already (SPC-4 5.13.3, CRH=1), and conflict from all others (SPC-2 5.5.1). `None`:
/// nobody is registered, and SPC-2 alone holds.
fn beside_registrations(lu: &LogicalUnit, call: &Call<'_>) -> Option<Answer> {
    if lu.planned.is_some() {
        // Whether somebody is registered is being written down.
        return Some(Err(Refusal::Busy));
    }
    let table = &lu.persist.table;
    if !table.has_registrants() {
        return None;
    }
    let port = lu.nexuses.get(call.nexus).map_or("", |n| n.port.as_str());
    if table.makes_reserve_void(port) {
        Some(call.good())
    } else {
        Some(Err(Refusal::Conflict))
    }
}

/// No third party, no extents, no parameter list.
fn check_form(call: &Call<'_>) -> Result<(), Sense> {
    let cdb = &call.cdb;
    if cdb.has(1, 0x10) {
        return Err(Sense::cdb_field(1, Some(4)));
    }
    if cdb.has(1, 0x01) {
        return Err(Sense::cdb_field(1, Some(0)));
    }
    if cdb.opcode() >= 0x20 && cdb.has(1, 0x02) {
        return Err(Sense::cdb_field(1, Some(1)));
    }
    if cdb.opcode() >= 0x20 && cdb.u16(7) != 0 {
        return Err(Sense::cdb_field(7, None));
    }
    Ok(())
}
