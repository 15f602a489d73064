//! The table behind persistent reservations: who is registered with which key, and who holds the disk
//! (SPC-4 5.13). Knows no CDB and tells nobody; `persist.rs` does.
//!
//! A registration belongs to an initiator port (name and ISID) and a target port, not to a session: it stays
//! when the session ends, and who comes back with the same ISID is the registrant again. All portals are one
//! portal group, so there is one target port, and the initiator port alone is the key.

use crate::limits::REGISTRANTS_MAX;

use super::sense::Sense;

/// Who else may do what beside a persistent reservation (SPC-4 table 62). The number is the TYPE code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationType {
    /// Everyone reads, the holder writes.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 3,
    /// Everyone reads, registrants write.
    WriteExclusiveRegistrants = 5,
    /// Registrants read and write.
    ExclusiveAccessRegistrants = 6,
    /// As `WriteExclusiveRegistrants`, and every registrant is a holder.
    WriteExclusiveAll = 7,
    /// As `ExclusiveAccessRegistrants`, and every registrant is a holder.
    ExclusiveAccessAll = 8,
}

impl ReservationType {
    /// By TYPE code.
    #[must_use]
    pub const fn of_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }

    /// The TYPE code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// SCOPE (must be the whole unit) and TYPE of a CDB.
    pub(super) fn of_cdb(scope_type: u8) -> Result<Self, Sense> {
        let bit = if scope_type >= 0x10 { 7 } else { 3 };
        Self::of_code(scope_type).ok_or(Sense::cdb_field(2, Some(bit)))
    }

    /// All registrants hold it together.
    pub(super) const fn of_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Registrants have the holder's rights: the registrants-only and all-registrants types.
    pub(super) const fn opens_to_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Everyone may read.
    const fn lets_read(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll
        )
    }
}

/// An initiator port that has registered a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// Initiator port name: `iqn...,i,0x<ISID>`.
    pub port: String,
    /// Reservation key, never 0.
    pub key: u64,
    /// Registered with ALL_TG_PT; READ FULL STATUS tells so.
    pub all_ports: bool,
}

/// Who holds the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The port that reserved; of no meaning for the all-registrants types.
    pub holder: String,
    /// Its type.
    pub kind: ReservationType,
}

/// Registrants and reservation: what outlives a restart of the target when APTPL is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registrations {
    /// In the order in which they came.
    pub registrants: Vec<Registrant>,
    /// The reservation, when there is one.
    pub reservation: Option<Reservation>,
}

impl Registrations {
    pub(super) const fn is_free(&self) -> bool {
        self.reservation.is_none()
    }

    pub(super) const fn has_registrants(&self) -> bool {
        !self.registrants.is_empty()
    }

    /// May `port` do this beside the reservation?
    pub(super) fn allows(&self, port: &str, only_reads: bool) -> bool {
        let Some(reservation) = &self.reservation else {
            return true;
        };
        let kind = reservation.kind;
        self.holds(port)
            || (kind.opens_to_registrants() && self.key_of(port).is_some())
            || (only_reads && kind.lets_read())
    }

    pub(super) fn kind(&self) -> Option<ReservationType> {
        self.reservation.as_ref().map(|r| r.kind)
    }

    pub(super) fn key_of(&self, port: &str) -> Option<u64> {
        let found = self.registrants.iter().find(|r| r.port == port);
        found.map(|registrant| registrant.key)
    }

    pub(super) fn holds(&self, port: &str) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.of_all() {
                self.key_of(port).is_some()
            } else {
                reservation.holder == port
            }
        })
    }

    /// RESERVE and RELEASE of SPC-2 do nothing and are GOOD from here (SPC-4 5.13.3): the holder, and every
    /// registrant beside a registrants-only or all-registrants reservation.
    pub(super) fn makes_reserve_void(&self, port: &str) -> bool {
        let open = self
            .kind()
            .is_some_and(ReservationType::opens_to_registrants);
        self.holds(port) || (open && self.key_of(port).is_some())
    }

    /// The ports registered beside `port`.
    pub(super) fn others(&self, port: &str) -> Vec<String> {
        let others = self.registrants.iter().filter(|r| r.port != port);
        others.map(|r| r.port.clone()).collect()
    }

    /// Sets or adds the key of `port`.
    pub(super) fn register(&mut self, port: &str, key: u64, all_ports: bool) -> Result<(), Sense> {
        if let Some(registrant) = self.registrants.iter_mut().find(|r| r.port == port) {
            registrant.key = key;
            registrant.all_ports = all_ports;
        } else if self.registrants.len() < REGISTRANTS_MAX {
            let port = port.to_owned();
            self.registrants.push(Registrant {
                port,
                key,
                all_ports,
            });
        } else {
            return Err(Sense::NO_REGISTRATION_RESOURCES);
        }
        Ok(())
    }

    /// Removes `port`; the kind of the reservation that ends by it, if one does.
    pub(super) fn unregister(&mut self, port: &str) -> Option<ReservationType> {
        let held = self.holds(port);
        self.registrants
            .retain(|registrant| registrant.port != port);
        let kind = self.kind()?;
        let ends = held && (!kind.of_all() || self.registrants.is_empty());
        if ends {
            self.reservation = None;
        }
        ends.then_some(kind)
    }

    /// Removes the registrants that `choose` names; their ports.
    pub(super) fn remove(&mut self, choose: impl Fn(&Registrant) -> bool) -> Vec<String> {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.registrants)
            .into_iter()
            .partition(choose);
        self.registrants = kept;
        gone.into_iter().map(|registrant| registrant.port).collect()
    }

    /// What of a table from storage can be true: keys are not 0, ports are there once, there are no more than
    /// allowed, and a reservation has a registrant who holds it.
    pub(super) fn sound(mut self) -> Self {
        let mut seen = std::collections::HashSet::new();
        self.registrants
            .retain(|r| r.key != 0 && seen.insert(r.port.clone()));
        self.registrants.truncate(REGISTRANTS_MAX);
        let held = |reservation: &Reservation| {
            let holder = &reservation.holder;
            let ports = &mut self.registrants.iter();
            ports.any(|r| reservation.kind.of_all() || r.port == *holder)
        };
        self.reservation = self.reservation.take_if(|r| held(r));
        self
    }
}

/// The table of a logical unit while it lives.
#[derive(Clone, Debug, Default)]
pub(super) struct Reservations {
    /// PRGENERATION: counts changes of the registrants, wraps; 0 after each start of the target (SPC-4 6.15.2
    /// sets it to 0 by power on whatever APTPL says).
    pub(super) generation: u32,
    /// The last APTPL bit that a registration carried: the table outlives a restart.
    pub(super) persists: bool,
    pub(super) table: Registrations,
}

impl Reservations {
    /// A table that outlived a restart.
    pub(super) fn restored(table: Registrations) -> Self {
        Self {
            generation: 0,
            persists: true,
            table: table.sound(),
        }
    }

    /// What must be on stable storage.
    pub(super) fn stored(&self) -> Option<&Registrations> {
        (self.persists && self.table.has_registrants()).then_some(&self.table)
    }

    pub(super) const fn count_change(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn registrant(port: &str, key: u64) -> Registrant {
        Registrant {
            port: port.into(),
            key,
            all_ports: false,
        }
    }

    #[test]
    fn codes_and_types_agree() {
        let known: Vec<u8> = (0..=255)
            .filter(|&code| ReservationType::of_code(code).is_some())
            .collect();
        assert_eq!(known, [1, 3, 5, 6, 7, 8]);
        for code in known {
            assert_eq!(ReservationType::of_code(code).unwrap().code(), code);
        }
    }

    #[test]
    fn a_table_from_storage_is_made_sound() {
        let held = |holder: &str, kind| {
            Some(Reservation {
                holder: holder.into(),
                kind,
            })
        };
        let table = Registrations {
            registrants: vec![registrant("a", 1), registrant("b", 0), registrant("a", 2)],
            reservation: held("b", ReservationType::WriteExclusive),
        };
        let sound = table.clone().sound();
        assert_eq!(sound.registrants, [registrant("a", 1)]);
        assert_eq!(sound.reservation, None, "nobody is there to release it");
        let all = Registrations {
            reservation: held("b", ReservationType::WriteExclusiveAll),
            ..table
        };
        assert!(all.sound().reservation.is_some());
    }
}
