//! PERSISTENT RESERVE IN and OUT (SPC-4 5.13, 6.15, 6.16).
//!
//! A registrant is an initiator port (name and ISID), not a session: it stays when the session ends.
//!
//! ```text
//!   unregistered -- REGISTER key --> registered -- RESERVE type --> holder
//!        ^                              |  ^                          |
//!        +-- REGISTER 0, CLEAR, PREEMPT-+  +-- RELEASE ---------------+
//! ```
//! With the all-registrants types every registrant is a holder, and the last one to leave releases.
//!
//! A change is planned on a copy and takes effect whole. When it must outlive a restart (APTPL) it is first
//! given out to be written down, and takes effect when that is done:
//!
//! ```text
//!   data_out --> Plan --+-- nothing stored changes --> adopted --> Reply
//!                       +-- Step::Save -- on the medium --> saved --> adopted --> Reply
//! ```

use crate::limits::{REGISTRANTS_MAX, RESERVE_LIST_BYTES_MAX};

use super::block::want;
use super::nexus::Attention;
use super::registrations::{Registrant, Reservation, ReservationType, Reservations};
use super::sense::Sense;
use super::transport_id::{self, Initiator};
use super::{Answer, Call, LogicalUnit, Refusal, Registrations, Reply, Step, status};

/// A change that was decided and did not take effect yet.
#[derive(Debug)]
pub(super) struct Plan {
    next: Reservations,
    /// Ports that hear of it.
    told: Vec<(String, Attention)>,
    /// Ports whose commands end before the answer: PREEMPT AND ABORT.
    abort: Vec<String>,
}

impl Plan {
    fn of(lu: &LogicalUnit) -> Self {
        Self {
            next: lu.persist.clone(),
            told: Vec::new(),
            abort: Vec::new(),
        }
    }

    fn tell(&mut self, ports: Vec<String>, attention: Attention) {
        self.told.extend(ports.into_iter().map(|p| (p, attention)));
    }

    /// The other registrants hear of it.
    fn tell_others(&mut self, port: &str, attention: Attention) {
        self.tell(self.next.table.others(port), attention);
    }

    /// After a reservation of this kind ended: registrants that shared its rights hear 2A/04.
    fn tell_released(&mut self, port: &str, kind: ReservationType) {
        if kind.opens_to_registrants() {
            self.tell_others(port, Attention::ReservationsReleased);
        }
    }
}

/// How the writing of a [`Step::Save`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saving {
    /// It is on stable storage.
    Done,
    /// It was not begun; the initiator may try again.
    Busy,
    /// It failed: 04/44/00.
    Failed,
}

impl LogicalUnit {
    /// Takes over what outlived a restart of the target (APTPL). For a unit that nobody uses yet.
    pub fn restore(&mut self, kept: Registrations) {
        self.persist = Reservations::restored(kept);
    }

    /// The change that the last [`Step::Save`] named was written down, or was not: then all is as before.
    pub fn saved(&mut self, end: Saving) -> Reply {
        let plan = self.planned.take();
        match (end, plan) {
            (Saving::Done, Some(plan)) => self.adopt(*plan),
            (Saving::Busy, _) => Reply::of_status(status::BUSY),
            (Saving::Failed, _) | (_, None) => self.check(Sense::TARGET_FAILURE),
        }
    }

    /// Lets a plan take effect; at once when nothing stored changes by it.
    fn carry_out(&mut self, plan: Plan) -> Answer {
        let new = plan.next.stored();
        if self.persist.stored() == new {
            return Ok(Step::Reply(self.adopt(plan)));
        }
        let save = Step::Save(new.cloned().map(Box::new));
        self.planned = Some(Box::new(plan));
        Ok(save)
    }

    fn adopt(&mut self, plan: Plan) -> Reply {
        self.persist = plan.next;
        for (port, attention) in plan.told {
            for nexus in self.nexuses.of_port(&port) {
                nexus.tell(attention);
            }
        }
        let mut abort = Vec::new();
        for port in plan.abort {
            abort.extend(self.nexuses.of_port(&port).map(|nexus| nexus.id));
        }
        Reply {
            abort,
            ..Reply::good()
        }
    }
}

/// A PERSISTENT RESERVE OUT parameter list.
struct List<'a> {
    own: u64,
    action: u64,
    /// Byte 20: SPEC_I_PT, ALL_TG_PT, APTPL.
    flags: u8,
    bytes: &'a [u8],
}

const LIST_LEN: usize = 24;
const SPEC_I_PT: u8 = 0x08;
const ALL_TG_PT: u8 = 0x04;
const APTPL: u8 = 0x01;
/// Flags of REGISTER AND MOVE, in byte 17.
const MOVE_UNREG: u8 = 0x02;
const MOVE_APTPL: u8 = 0x01;

const REGISTER: u8 = 0x00;
const PREEMPT_AND_ABORT: u8 = 0x05;
const REGISTER_AND_IGNORE: u8 = 0x06;
const REGISTER_AND_MOVE: u8 = 0x07;

/// What every service action of PERSISTENT RESERVE OUT needs first: the list, and the port that sends it.
/// `None`: the list has yet to come, ask for it with [`want_list`].
fn prologue<'a>(lu: &LogicalUnit, call: &Call<'a>) -> Result<Option<(List<'a>, String)>, Refusal> {
    if lu.reserved_by.is_some() {
        // Even of this nexus: the two ways to reserve do not mix (SPC-2 5.5.1).
        return Err(Refusal::Conflict);
    }
    let len = list_len(call);
    let longer = matches!(call.cdb.action(), REGISTER | REGISTER_AND_MOVE);
    if len < LIST_LEN || (len > LIST_LEN && !longer) || len > RESERVE_LIST_BYTES_MAX {
        return Err(Sense::LIST_LENGTH.into());
    }
    let Some(data) = call.data else {
        return Ok(None);
    };
    if lu.planned.is_some() {
        return Err(Refusal::Busy);
    }
    let bytes = data.get(..len).ok_or(Sense::LIST_LENGTH)?;
    let key = |at: usize| {
        let key = bytes.get(at..).and_then(|tail| tail.first_chunk());
        u64::from_be_bytes(key.copied().unwrap_or_default())
    };
    let list = List {
        own: key(0),
        action: key(8),
        flags: bytes.get(20).copied().unwrap_or(0),
        bytes,
    };
    let nexus = lu.nexuses.get(call.nexus).ok_or(Refusal::Busy)?;
    Ok(Some((list, nexus.port.clone())))
}

/// As [`prologue`], for the actions that only a registrant with the right key may do.
fn registered<'a>(
    lu: &LogicalUnit,
    call: &Call<'a>,
) -> Result<Option<(List<'a>, String)>, Refusal> {
    let found = prologue(lu, call)?;
    match &found {
        Some((list, port)) if lu.persist.table.key_of(port) != Some(list.own) => {
            Err(Refusal::Conflict)
        }
        _ => Ok(found),
    }
}

fn list_len(call: &Call<'_>) -> usize {
    usize::try_from(call.cdb.u32(5)).unwrap_or(usize::MAX)
}

fn want_list(call: &Call<'_>) -> Answer {
    want(list_len(call) as u64, false)
}

/// The TransportIDs from byte `at` of the list on: their length in four bytes, then they, and nothing else.
fn transport_ids(list: &List<'_>, at: usize) -> Result<Vec<Initiator>, Sense> {
    let tail = list.bytes.get(at..).unwrap_or_default();
    let (len, ids) = tail.split_first_chunk::<4>().ok_or(Sense::LIST_LENGTH)?;
    if usize::try_from(u32::from_be_bytes(*len)) != Ok(ids.len()) {
        return Err(Sense::LIST_LENGTH);
    }
    transport_id::parse_all(ids, at + 4)
}

/// REGISTER, REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7).
pub(super) fn register(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let ignores_key = call.cdb.action() == REGISTER_AND_IGNORE;
    let Some((list, port)) = prologue(lu, call)? else {
        return want_list(call);
    };
    let names_others = list.flags & SPEC_I_PT != 0;
    if names_others && ignores_key {
        return Err(Sense::list_field(20, Some(3)).into());
    }
    if !names_others && list.bytes.len() != LIST_LEN {
        return Err(Sense::LIST_LENGTH.into());
    }
    let others = if names_others {
        transport_ids(&list, LIST_LEN)?
    } else {
        Vec::new()
    };
    let current = lu.persist.table.key_of(&port);
    if !ignores_key && list.own != current.unwrap_or(0) {
        return Err(Refusal::Conflict);
    }
    if names_others && current.is_some() {
        // Only a port that is new may register others with itself.
        return Err(Sense::list_field(20, Some(3)).into());
    }
    if list.action == 0 && current.is_none() {
        return call.good();
    }
    let mut plan = Plan::of(lu);
    if list.action == 0 {
        if let Some(kind) = plan.next.table.unregister(&port) {
            plan.tell_released(&port, kind);
        }
    } else {
        let all_ports = list.flags & ALL_TG_PT != 0;
        let table = &mut plan.next.table;
        table.register(&port, list.action, all_ports)?;
        for other in named(lu, &others)? {
            if table.key_of(&other).is_none() {
                table.register(&other, list.action, all_ports)?;
            }
        }
    }
    plan.next.persists = list.flags & APTPL != 0;
    plan.next.count_change();
    lu.carry_out(plan)
}

/// The ports that TransportIDs name: of a device those that are known, logged in now or registered.
fn named(lu: &LogicalUnit, initiators: &[Initiator]) -> Result<Vec<String>, Sense> {
    let mut ports = Vec::new();
    for initiator in initiators {
        let known = match initiator {
            Initiator::Port(port) => vec![port.clone()],
            Initiator::Device(_) => known_ports(lu, initiator),
        };
        if known.is_empty() {
            // Nothing could be registered for it, and GOOD would say otherwise.
            return Err(Sense::list_field(28, None));
        }
        ports.extend(known);
        if ports.len() > 2 * REGISTRANTS_MAX {
            return Err(Sense::NO_REGISTRATION_RESOURCES);
        }
    }
    Ok(ports)
}

fn known_ports(lu: &LogicalUnit, device: &Initiator) -> Vec<String> {
    let registered = lu.persist.table.registrants.iter().map(|r| &r.port);
    let all = lu.nexuses.ports().chain(registered);
    let mut ports: Vec<String> = all.filter(|p| device.is(p)).cloned().collect();
    ports.sort();
    ports.dedup();
    ports
}

/// REGISTER AND MOVE (SPC-4 5.13.8): the holder hands the reservation to another port.
pub(super) fn register_and_move(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let Some((list, port)) = registered(lu, call)? else {
        return want_list(call);
    };
    let [flags, relative_hi, relative_lo] = match list.bytes.get(17..20) {
        Some(&[flags, hi, lo]) => [flags, hi, lo],
        _ => return Err(Sense::LIST_LENGTH.into()),
    };
    let ids = transport_ids(&list, 20)?;
    let shared = lu.persist.table.kind().is_some_and(ReservationType::of_all);
    if shared || !lu.persist.table.holds(&port) {
        return Err(Refusal::Conflict);
    }
    if list.action == 0 {
        return Err(Sense::list_field(8, None).into());
    }
    if [relative_hi, relative_lo] != TARGET_PORT {
        return Err(Sense::list_field(18, None).into());
    }
    let [Initiator::Port(to)] = &ids[..] else {
        return Err(Sense::list_field(24, None).into());
    };
    if *to == port {
        return Err(Sense::list_field(24, None).into());
    }
    let mut plan = Plan::of(lu);
    let table = &mut plan.next.table;
    if flags & MOVE_UNREG != 0 {
        table.remove(|r| r.port == port);
    }
    let all_ports = table
        .registrants
        .iter()
        .any(|r| r.port == *to && r.all_ports);
    table.register(to, list.action, all_ports)?;
    if let Some(reservation) = &mut table.reservation {
        reservation.holder.clone_from(to);
    }
    plan.next.persists = flags & MOVE_APTPL != 0;
    plan.next.count_change();
    lu.carry_out(plan)
}

/// RESERVE.
pub(super) fn reserve(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let kind = ReservationType::of_cdb(call.cdb.byte(2))?;
    let Some((_, port)) = registered(lu, call)? else {
        return want_list(call);
    };
    let mut plan = Plan::of(lu);
    let table = &mut plan.next.table;
    match table.kind() {
        None => table.reservation = Some(Reservation { holder: port, kind }),
        Some(held) if held == kind && table.holds(&port) => {}
        Some(_) => return Err(Refusal::Conflict),
    }
    lu.carry_out(plan)
}

/// RELEASE: of a reservation that this nexus does not hold does nothing, and is GOOD.
pub(super) fn release(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let Some((_, port)) = registered(lu, call)? else {
        return want_list(call);
    };
    let table = &lu.persist.table;
    let Some(kind) = table.kind().filter(|_| table.holds(&port)) else {
        return call.good();
    };
    if ReservationType::of_cdb(call.cdb.byte(2)) != Ok(kind) {
        return Err(Sense::INVALID_RELEASE.into());
    }
    let mut plan = Plan::of(lu);
    plan.next.table.reservation = None;
    plan.tell_released(&port, kind);
    lu.carry_out(plan)
}

/// CLEAR: everyone's registration and the reservation.
pub(super) fn clear(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let Some((_, port)) = registered(lu, call)? else {
        return want_list(call);
    };
    let mut plan = Plan::of(lu);
    plan.tell_others(&port, Attention::ReservationsPreempted);
    plan.next.table = Registrations::default();
    plan.next.count_change();
    lu.carry_out(plan)
}

/// PREEMPT, PREEMPT AND ABORT (SPC-4 5.13.11.4, 5.13.11.5).
pub(super) fn preempt(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let Some((list, port)) = registered(lu, call)? else {
        return want_list(call);
    };
    let mut plan = Plan::of(lu);
    let victims = preempted(&mut plan, call, list.action, &port)?;
    plan.next.count_change();
    if call.cdb.action() == PREEMPT_AND_ABORT {
        plan.abort.clone_from(&victims);
    }
    plan.tell(victims, Attention::RegistrationsPreempted);
    lu.carry_out(plan)
}

/// Removes the registrants whose key is `key` (0: all others, from an all-registrants reservation), and
/// takes the reservation over when it was theirs. The ports removed.
fn preempted(
    plan: &mut Plan,
    call: &Call<'_>,
    key: u64,
    port: &str,
) -> Result<Vec<String>, Refusal> {
    let table = &mut plan.next.table;
    let old = table.kind();
    let takes_over = match &table.reservation {
        Some(reservation) if reservation.kind.of_all() => key == 0,
        Some(reservation) => key != 0 && table.key_of(&reservation.holder) == Some(key),
        None => false,
    };
    if key == 0 && !takes_over {
        return Err(Sense::list_field(8, None).into());
    }
    if !takes_over {
        let victims = table.remove(|r| r.key == key && r.port != port);
        return if victims.is_empty() {
            Err(Refusal::Conflict)
        } else {
            Ok(victims)
        };
    }
    let kind = ReservationType::of_cdb(call.cdb.byte(2))?;
    let chosen = |r: &Registrant| (key == 0 || r.key == key) && r.port != port;
    let victims = table.remove(chosen);
    table.reservation = Some(Reservation {
        holder: port.to_owned(),
        kind,
    });
    if old.is_some_and(|old| old != kind) {
        plan.tell_others(port, Attention::ReservationsReleased);
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
    let keys = lu.persist.table.registrants.iter();
    let keys: Vec<u8> = keys.flat_map(|r| r.key.to_be_bytes()).collect();
    report(lu, call, &keys)
}

/// READ RESERVATION. An all-registrants reservation has no single holder: its key reads 0.
pub(super) fn read_reservation(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let mut data = Vec::new();
    let table = &lu.persist.table;
    if let Some(reservation) = &table.reservation {
        let key = if reservation.kind.of_all() {
            0
        } else {
            table.key_of(&reservation.holder).unwrap_or(0)
        };
        data.extend_from_slice(&key.to_be_bytes());
        data.extend_from_slice(&[0, 0, 0, 0, 0, reservation.kind.code(), 0, 0]);
    }
    report(lu, call, &data)
}

/// CRH, SIP_C, ATP_C, PTPL_C: SPC-2's RESERVE lives beside, others can be registered, all target ports at
/// once, and registrations outlive a restart when asked to.
const CAPABILITIES: u8 = 0x10 | 0x08 | 0x04 | 0x01;
/// TMV: the type mask counts. PTPL_A: the registrations there are would outlive a restart.
const TMV: u8 = 0x80;
const PTPL_A: u8 = 0x01;
/// WR_EX_AR, EX_AC_RO, WR_EX_RO, EX_AC, WR_EX; EX_AC_AR.
const TYPE_MASK: [u8; 2] = [0xEA, 0x01];

/// REPORT CAPABILITIES (SPC-4 6.15.4). ALLOW COMMANDS 000b: nothing is said of them.
pub(super) fn capabilities(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    if lu.reserved_by.is_some() {
        return Err(Refusal::Conflict);
    }
    let active = if lu.persist.persists { PTPL_A } else { 0 };
    let [types, more_types] = TYPE_MASK;
    let data = vec![0, 8, CAPABILITIES, TMV | active, types, more_types, 0, 0];
    call.cdb.answer(data)
}

/// RELATIVE TARGET PORT IDENTIFIER of the one target port.
const TARGET_PORT: [u8; 2] = [0, 1];

/// READ FULL STATUS: each registrant with its own key and TransportID (SPC-4 6.15.5).
pub(super) fn read_full_status(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let mut data = Vec::new();
    let table = &lu.persist.table;
    let kind = table.kind().map(ReservationType::code);
    for registrant in &table.registrants {
        let holds = table.holds(&registrant.port);
        let scope_type = kind.filter(|_| holds).unwrap_or(0);
        let flags = u8::from(registrant.all_ports) << 1 | u8::from(holds);
        data.extend_from_slice(&registrant.key.to_be_bytes());
        data.extend_from_slice(&[0, 0, 0, 0, flags, scope_type, 0, 0, 0, 0]);
        data.extend_from_slice(&TARGET_PORT);
        let id = transport_id::encode(&registrant.port)?;
        let len = u32::try_from(id.len()).map_err(|_| Sense::INTERNAL)?;
        data.extend_from_slice(&len.to_be_bytes());
        data.extend_from_slice(&id);
    }
    report(lu, call, &data)
}
