//! Persistent reservations (SPC-4 5.13, 6.15, 6.16).
//!
//! A registrant is an initiator port (name and ISID), not a session: it stays when the session ends.
//! Nothing survives a restart of the target: PTPL_C=0, and APTPL=1 is refused.
//!
//! ```text
//!   unregistered -- REGISTER key --> registered -- RESERVE type --> holder
//!        ^                              |  ^                          |
//!        +-- REGISTER 0, CLEAR, PREEMPT-+  +-- RELEASE ---------------+
//! ```
//! With the all-registrants types every registrant is a holder, and the last one to leave releases.

use crate::limits::REGISTRANTS_MAX;

use super::block::want;
use super::inquiry;
use super::nexus::Attention;
use super::sense::Sense;
use super::{Answer, Call, LogicalUnit, NexusId, Refusal, Reply, Step};

/// Who else may do what (SPC-4 table 62).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrants = 5,
    ExclusiveAccessRegistrants = 6,
    WriteExclusiveAll = 7,
    ExclusiveAccessAll = 8,
}

impl Kind {
    /// SCOPE (must be the whole unit) and TYPE of a CDB.
    fn of(scope_type: u8) -> Result<Self, Sense> {
        Ok(match scope_type {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            scope if scope >= 0x10 => return Err(Sense::cdb_field(2, Some(7))),
            _ => return Err(Sense::cdb_field(2, Some(3))),
        })
    }

    /// All registrants hold it together.
    fn of_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }

    /// Registrants have the holder's rights: the registrants-only and all-registrants types.
    fn opens_to_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Everyone may read.
    fn lets_read(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll
        )
    }

    fn byte(self) -> u8 {
        self as u8
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Registrant {
    port: String,
    key: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reservation {
    /// The port that reserved; of no meaning for the all-registrants types.
    holder: String,
    kind: Kind,
}

/// Registrants and reservation of a logical unit.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    /// PRGENERATION: counts changes of the registrants, wraps.
    generation: u32,
    registrants: Vec<Registrant>,
    reservation: Option<Reservation>,
}

impl Reservations {
    pub(super) fn is_free(&self) -> bool {
        self.reservation.is_none()
    }

    pub(super) fn has_registrants(&self) -> bool {
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

    fn kind(&self) -> Option<Kind> {
        self.reservation
            .as_ref()
            .map(|reservation| reservation.kind)
    }

    fn key_of(&self, port: &str) -> Option<u64> {
        let found = self.registrants.iter().find(|r| r.port == port);
        found.map(|registrant| registrant.key)
    }

    fn holds(&self, port: &str) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.of_all() {
                self.key_of(port).is_some()
            } else {
                reservation.holder == port
            }
        })
    }

    fn count_change(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Sets or adds the key of `port`.
    fn register(&mut self, port: &str, key: u64) -> Result<(), Sense> {
        if let Some(registrant) = self.registrants.iter_mut().find(|r| r.port == port) {
            registrant.key = key;
        } else if self.registrants.len() < REGISTRANTS_MAX {
            let port = port.to_owned();
            self.registrants.push(Registrant { port, key });
        } else {
            return Err(Sense::NO_REGISTRATION_RESOURCES);
        }
        Ok(())
    }

    /// Removes `port`; the kind of the reservation that ends by it, if one does.
    fn unregister(&mut self, port: &str) -> Option<Kind> {
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
    fn remove(&mut self, choose: impl Fn(&Registrant) -> bool) -> Vec<String> {
        let (gone, kept) = std::mem::take(&mut self.registrants)
            .into_iter()
            .partition(choose);
        self.registrants = kept;
        let gone: Vec<Registrant> = gone;
        gone.into_iter().map(|registrant| registrant.port).collect()
    }
}

/// The 24 bytes of a PERSISTENT RESERVE OUT parameter list.
struct Keys {
    own: u64,
    action: u64,
    flags: u8,
}

const LIST_LEN: usize = 24;
const SPEC_I_PT: u8 = 0x08;
const ALL_TG_PT: u8 = 0x04;
const APTPL: u8 = 0x01;

/// What every service action of PERSISTENT RESERVE OUT needs first: the list, and the port that sends it.
/// `None`: the list has yet to come, ask for it with [`want_list`].
fn prologue(lu: &LogicalUnit, call: &Call<'_>) -> Result<Option<(Keys, String)>, Refusal> {
    if lu.reserved_by.is_some() {
        // Even of this nexus: the two ways to reserve do not mix (SPC-2 5.5.1).
        return Err(Refusal::Conflict);
    }
    if call.cdb.u32(5) != 24 {
        return Err(Sense::LIST_LENGTH.into());
    }
    let Some(data) = call.data else {
        return Ok(None);
    };
    let list = data.first_chunk::<LIST_LEN>().ok_or(Sense::LIST_LENGTH)?;
    let key = |at: usize| {
        let bytes = list.get(at..).and_then(|tail| tail.first_chunk());
        u64::from_be_bytes(bytes.copied().unwrap_or_default())
    };
    let keys = Keys {
        own: key(0),
        action: key(8),
        flags: list[20],
    };
    let nexus = lu.nexuses.get(call.nexus).ok_or(Refusal::Busy)?;
    Ok(Some((keys, nexus.port.clone())))
}

/// As [`prologue`], for the actions that only a registrant with the right key may do.
fn registered(lu: &LogicalUnit, call: &Call<'_>) -> Result<Option<(Keys, String)>, Refusal> {
    let found = prologue(lu, call)?;
    match &found {
        Some((keys, port)) if lu.persist.key_of(port) != Some(keys.own) => Err(Refusal::Conflict),
        _ => Ok(found),
    }
}

fn want_list() -> Answer {
    want(LIST_LEN as u64, false)
}

impl LogicalUnit {
    /// Unit attention for the registrants other than `port`.
    fn tell_registrants(&mut self, port: &str, attention: Attention) {
        for registrant in &self.persist.registrants {
            if registrant.port != port {
                for nexus in self.nexuses.of_port(&registrant.port) {
                    nexus.tell(attention);
                }
            }
        }
    }

    /// Unit attention for `ports`; the nexuses that they have here.
    fn tell_ports(&mut self, ports: &[String], attention: Attention) -> Vec<NexusId> {
        let mut reached = Vec::new();
        for port in ports {
            for nexus in self.nexuses.of_port(port) {
                nexus.tell(attention);
                reached.push(nexus.id);
            }
        }
        reached
    }

    /// After a reservation of this kind ended: registrants that shared its rights hear 2A/04.
    fn tell_released(&mut self, port: &str, kind: Kind) {
        if kind.opens_to_registrants() {
            self.tell_registrants(port, Attention::ReservationsReleased);
        }
    }
}

/// REGISTER, REGISTER AND IGNORE EXISTING KEY.
pub(super) fn register(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let ignores_key = call.cdb.action() == 0x06;
    let Some((keys, port)) = prologue(lu, call)? else {
        return want_list();
    };
    if keys.flags & (SPEC_I_PT | ALL_TG_PT | APTPL) != 0 {
        return Err(Sense::list_field(20, None).into());
    }
    let current = lu.persist.key_of(&port);
    if !ignores_key && keys.own != current.unwrap_or(0) {
        return Err(Refusal::Conflict);
    }
    if keys.action != 0 {
        lu.persist.register(&port, keys.action)?;
    } else if current.is_none() {
        return call.good();
    } else if let Some(kind) = lu.persist.unregister(&port) {
        lu.tell_released(&port, kind);
    }
    lu.persist.count_change();
    call.good()
}

/// RESERVE.
pub(super) fn reserve(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let kind = Kind::of(call.cdb.byte(2))?;
    let Some((_, port)) = registered(lu, call)? else {
        return want_list();
    };
    match &lu.persist.reservation {
        None => lu.persist.reservation = Some(Reservation { holder: port, kind }),
        Some(reservation) if reservation.kind == kind && lu.persist.holds(&port) => {}
        Some(_) => return Err(Refusal::Conflict),
    }
    call.good()
}

/// RELEASE: of a reservation that this nexus does not hold does nothing, and is GOOD.
pub(super) fn release(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let Some((_, port)) = registered(lu, call)? else {
        return want_list();
    };
    let Some(kind) = lu.persist.kind().filter(|_| lu.persist.holds(&port)) else {
        return call.good();
    };
    if Kind::of(call.cdb.byte(2)) != Ok(kind) {
        return Err(Sense::INVALID_RELEASE.into());
    }
    lu.persist.reservation = None;
    lu.tell_released(&port, kind);
    call.good()
}

/// CLEAR: everyone's registration and the reservation.
pub(super) fn clear(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let Some((_, port)) = registered(lu, call)? else {
        return want_list();
    };
    lu.tell_registrants(&port, Attention::ReservationsPreempted);
    lu.persist.registrants.clear();
    lu.persist.reservation = None;
    lu.persist.count_change();
    call.good()
}

/// PREEMPT, PREEMPT AND ABORT (SPC-4 5.13.11.4, 5.13.11.5).
pub(super) fn preempt(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let aborts = call.cdb.action() == 0x05;
    let Some((keys, port)) = registered(lu, call)? else {
        return want_list();
    };
    let victims = preempted(lu, call, keys.action, &port)?;
    lu.persist.count_change();
    let reached = lu.tell_ports(&victims, Attention::RegistrationsPreempted);
    Ok(Step::Reply(Reply {
        abort: if aborts { reached } else { Vec::new() },
        ..Reply::good()
    }))
}

/// Removes the registrants whose key is `key` (0: all others, from an all-registrants reservation), and
/// takes the reservation over when it was theirs. The ports removed.
fn preempted(
    lu: &mut LogicalUnit,
    call: &Call<'_>,
    key: u64,
    port: &str,
) -> Result<Vec<String>, Refusal> {
    let old = lu.persist.kind();
    let takes_over = match &lu.persist.reservation {
        Some(reservation) if reservation.kind.of_all() => key == 0,
        Some(reservation) => key != 0 && lu.persist.key_of(&reservation.holder) == Some(key),
        None => false,
    };
    if key == 0 && !takes_over {
        return Err(Sense::list_field(8, None).into());
    }
    if !takes_over {
        let victims = lu.persist.remove(|r| r.key == key && r.port != port);
        return if victims.is_empty() {
            Err(Refusal::Conflict)
        } else {
            Ok(victims)
        };
    }
    let kind = Kind::of(call.cdb.byte(2))?;
    let chosen = |r: &Registrant| (key == 0 || r.key == key) && r.port != port;
    let victims = lu.persist.remove(chosen);
    lu.persist.reservation = Some(Reservation {
        holder: port.to_owned(),
        kind,
    });
    if old.is_some_and(|old| old != kind) {
        lu.tell_registrants(port, Attention::ReservationsReleased);
    }
    Ok(victims)
}

/// PRGENERATION and ADDITIONAL LENGTH before `rest`; the length counts all of it, however little is wanted.
fn report(lu: &LogicalUnit, call: &Call<'_>, rest: &[u8]) -> Answer {
    if lu.reserved_by.is_some() {
        return Err(Refusal::Conflict);
    }
    let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let mut data = lu.persist.generation.to_be_bytes().to_vec();
    data.extend_from_slice(&len.to_be_bytes());
    data.extend_from_slice(rest);
    call.cdb.answer(data)
}

/// READ KEYS.
pub(super) fn read_keys(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let keys = lu.persist.registrants.iter();
    let keys: Vec<u8> = keys.flat_map(|r| r.key.to_be_bytes()).collect();
    report(lu, call, &keys)
}

/// READ RESERVATION. An all-registrants reservation has no single holder: its key reads 0.
pub(super) fn read_reservation(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let mut data = Vec::new();
    if let Some(reservation) = &lu.persist.reservation {
        let key = if reservation.kind.of_all() {
            0
        } else {
            lu.persist.key_of(&reservation.holder).unwrap_or(0)
        };
        data.extend_from_slice(&key.to_be_bytes());
        data.extend_from_slice(&[0, 0, 0, 0, 0, reservation.kind.byte(), 0, 0]);
    }
    report(lu, call, &data)
}

/// REPORT CAPABILITIES: no compatible reservations, no SPEC_I_PT, ALL_TG_PT, PTPL; TMV and the six types.
pub(super) fn capabilities(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    if lu.reserved_by.is_some() {
        return Err(Refusal::Conflict);
    }
    call.cdb.answer(vec![0, 8, 0, 0x80, 0xEA, 0x01, 0, 0])
}

/// READ FULL STATUS: each registrant with its own key and TransportID (SPC-4 7.6.4.5, format 01b).
pub(super) fn read_full_status(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let mut data = Vec::new();
    let kind = lu.persist.kind().map(Kind::byte);
    for registrant in &lu.persist.registrants {
        let holds = lu.persist.holds(&registrant.port);
        let scope_type = kind.filter(|_| holds).unwrap_or(0);
        data.extend_from_slice(&registrant.key.to_be_bytes());
        data.extend_from_slice(&[0, 0, 0, 0, u8::from(holds), scope_type, 0, 0, 0, 0, 0, 1]);
        let name = inquiry::name(&registrant.port);
        let name_len = u16::try_from(name.len()).map_err(|_| Sense::INTERNAL)?;
        data.extend_from_slice(&(u32::from(name_len) + 4).to_be_bytes());
        data.extend_from_slice(&[0x45, 0]);
        data.extend_from_slice(&name_len.to_be_bytes());
        data.extend_from_slice(&name);
    }
    report(lu, call, &data)
}
