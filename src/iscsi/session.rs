//! What a session is: its identity, its numbers, and who must leave when a new one comes. Pure.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::serial::{CmdSn, StatSn};
use crate::events::InitiatorKind;
use crate::limits;
use crate::names::{Iqn, Mac};
use crate::scsi::NexusId;

/// First four bytes of every ISID that iPXE makes (type EN, enterprise 10019).
const IPXE_ISID: [u8; 4] = [0x40, 0x00, 0x27, 0x23];

/// How a command number lies to what is expected (RFC 7143 4.2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is the expected one.
    InOrder,
    /// Below or above the window: to be ignored silently.
    Outside,
    /// In the window, but others are missing before it. With one connection nothing can fill the hole.
    Gap,
}

/// CmdSN window and StatSN of a session with one connection.
#[derive(Clone, Debug)]
pub struct Numbers {
    exp_cmd_sn: CmdSn,
    stat_sn: StatSn,
    window: u32,
    open: u32,
    /// The last CmdSN that will ever be taken.
    frozen: Option<CmdSn>,
}

impl Numbers {
    /// As the login left them; `window` commands may be open at a time.
    #[must_use]
    pub const fn new(cmd_sn: CmdSn, stat_sn: StatSn, window: u32) -> Self {
        Self {
            exp_cmd_sn: cmd_sn,
            stat_sn,
            window,
            open: 0,
            frozen: None,
        }
    }

    /// Grants no more than what the initiator was told it may send: the window closes as it is used.
    pub const fn freeze(&mut self) {
        if self.frozen.is_none() {
            self.frozen = Some(self.max_cmd_sn());
        }
    }

    /// The next CmdSN.
    #[must_use]
    pub const fn exp_cmd_sn(&self) -> CmdSn {
        self.exp_cmd_sn
    }

    /// The last CmdSN that would be taken now. Never goes backwards: a command that opens moves both ends.
    #[must_use]
    pub const fn max_cmd_sn(&self) -> CmdSn {
        if let Some(last) = self.frozen {
            return last;
        }
        let free = self.window.saturating_sub(self.open);
        self.exp_cmd_sn.plus(free).minus(1)
    }

    /// StatSN of the next status.
    #[must_use]
    pub const fn stat_sn(&self) -> StatSn {
        self.stat_sn
    }

    /// Where `cmd_sn` lies.
    #[must_use]
    pub const fn place(&self, cmd_sn: CmdSn) -> Arrival {
        if !cmd_sn.is_within(self.exp_cmd_sn, self.max_cmd_sn()) {
            Arrival::Outside
        } else if cmd_sn.steps_from(self.exp_cmd_sn) == 0 {
            Arrival::InOrder
        } else {
            Arrival::Gap
        }
    }

    /// The expected command has come.
    pub const fn take(&mut self) {
        self.exp_cmd_sn = self.exp_cmd_sn.next();
    }

    /// A command that will stay for a while uses a place of the window.
    pub const fn open(&mut self) {
        self.open += 1;
    }

    /// It is finished; its place is free again.
    pub const fn close(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// The StatSN of a status that goes out now.
    pub const fn take_stat_sn(&mut self) -> StatSn {
        let now = self.stat_sn;
        self.stat_sn = now.next();
        now
    }
}

/// Session identity on a target (RFC 7143 4.4.4): two sessions never share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// InitiatorName.
    pub initiator: Iqn,
    /// The initiator's part of the session id.
    pub isid: [u8; 6],
    /// Target portal group.
    pub portal_group: u16,
}

impl Identity {
    /// The SCSI initiator port's name (RFC 7143 4.4.2 note): what reservations are held by.
    #[must_use]
    pub fn port_name(&self) -> String {
        let [a, b, c, d, e, g] = self.isid;
        format!(
            "{},i,0x{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{g:02x}",
            self.initiator
        )
    }
}

/// What kind of initiator has this ISID: iPXE signs its own; EDK2 takes the card's address with the two
/// type bits cleared (IScsiProto.c), so the node's `macs` tell it from all others.
#[must_use]
pub fn kind_of(isid: [u8; 6], macs: &[Mac]) -> InitiatorKind {
    let is_card = |mac: &Mac| {
        let mut octets = mac.octets();
        octets[0] &= 0x3f;
        octets == isid
    };
    if isid.starts_with(&IPXE_ISID) || macs.iter().any(is_card) {
        InitiatorKind::Firmware
    } else {
        InitiatorKind::Os
    }
}

/// Why an older session has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The same initiator port logged in again (RFC 7143 6.3.5).
    Reinstated,
    /// Firmware left it behind when its operating system took over.
    HandedOver,
    /// Firmware logs in: whatever ran on this node runs no more.
    NewBoot,
    /// Too many sessions of this initiator, or on this target; this one was quiet the longest.
    TooMany,
}

impl Eviction {
    /// For the log and the Logout event.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Reinstated => "reinstated",
            Self::HandedOver => "handed over to the operating system",
            Self::NewBoot => "the node boots anew",
            Self::TooMany => "too many sessions of this initiator or target",
        }
    }
}

/// Who a session belongs to.
#[derive(Clone, Debug)]
pub struct Member {
    /// Identity.
    pub identity: Identity,
    /// Firmware or operating system.
    pub kind: InitiatorKind,
    /// The peer's address.
    pub address: IpAddr,
    /// Its nexus.
    pub nexus: NexusId,
    /// Milliseconds since 1970 of its last command; its connection writes it.
    pub active_ms: Arc<AtomicU64>,
}

/// The sessions of one target. `T` is the shell's way to reach a session.
#[derive(Debug)]
pub struct Registry<T> {
    seats: Vec<Seat<T>>,
    last_tsih: u16,
    seats_max: usize,
    /// Who was pushed out from one address by the same name at another, the latest last.
    moves: VecDeque<Move>,
}

/// A session of `initiator` at `from` had to leave for one at `to`.
#[derive(Debug, PartialEq, Eq)]
struct Move {
    initiator: Iqn,
    from: IpAddr,
    to: IpAddr,
    told: bool,
}

#[derive(Debug)]
struct Seat<T> {
    member: Member,
    tsih: u16,
    leaving: bool,
    handle: T,
}

/// A new session's place.
#[derive(Debug)]
pub struct Entered<T> {
    /// Its handle for the initiator, never zero.
    pub tsih: u16,
    /// Sessions that must be gone before the login is answered.
    pub victims: Vec<(T, Eviction)>,
    /// Two machines use this initiator's name in turn and push each other out: their addresses. Said once.
    pub clones: Option<(IpAddr, IpAddr)>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self::new(limits::SESSIONS_PER_TARGET)
    }
}

impl<T> Registry<T> {
    /// For a target that has at most so many sessions.
    #[must_use]
    pub const fn new(seats_max: usize) -> Self {
        Self {
            seats: Vec::new(),
            last_tsih: 0,
            seats_max,
            moves: VecDeque::new(),
        }
    }
}

impl<T: Clone> Registry<T> {
    /// Takes in a new session, and tells who must leave for it. A victim keeps its seat until `leave`, so
    /// that every newcomer waits for it. None when all handles are taken.
    pub fn enter(&mut self, member: Member, handle: T) -> Option<Entered<T>> {
        let tsih = self.free_tsih()?;
        let mut victims = Vec::new();
        let mut moved_from = None;
        for seat in &mut self.seats {
            if let Some(why) = conflict(&seat.member, &member) {
                seat.leaving = true;
                victims.push((seat.handle.clone(), why));
                let same_name = seat.member.identity.initiator == member.identity.initiator;
                if same_name && seat.member.address != member.address {
                    moved_from = Some(seat.member.address);
                }
            }
        }
        let clones = moved_from.and_then(|from| self.note_move(&member, from));
        let own = |seat: &Seat<T>| seat.member.identity.initiator == member.identity.initiator;
        let per_initiator = limits::SESSIONS_PER_INITIATOR.min(self.seats_max);
        while let Some(seat) = self.surplus(own, per_initiator) {
            seat.leaving = true;
            victims.push((seat.handle.clone(), Eviction::TooMany));
        }
        while let Some(seat) = self.surplus(|_| true, self.seats_max) {
            seat.leaving = true;
            victims.push((seat.handle.clone(), Eviction::TooMany));
        }
        self.last_tsih = tsih;
        self.seats.push(Seat {
            member,
            tsih,
            leaving: false,
            handle,
        });
        Some(Entered {
            tsih,
            victims,
            clones,
        })
    }

    /// One move is a machine that got another address. The way back is a second machine with the same name.
    fn note_move(&mut self, new: &Member, from: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let initiator = &new.identity.initiator;
        let to = new.address;
        let back = |m: &&mut Move| m.initiator == *initiator && m.from == to && m.to == from;
        if let Some(there) = self.moves.iter_mut().find(back) {
            let first = !std::mem::replace(&mut there.told, true);
            return first.then_some((to, from));
        }
        let known = |m: &Move| m.initiator == *initiator && m.from == from && m.to == to;
        if !self.moves.iter().any(known) {
            if self.moves.len() >= limits::MOVES_REMEMBERED {
                self.moves.pop_front();
            }
            self.moves.push_back(Move {
                initiator: initiator.clone(),
                from,
                to,
                told: false,
            });
        }
        None
    }

    /// Every session.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.seats.iter().map(|seat| &seat.handle)
    }

    /// A session is gone.
    pub fn leave(&mut self, nexus: NexusId) {
        self.seats.retain(|seat| seat.member.nexus != nexus);
    }

    /// All sessions but `nexus`.
    pub fn others(&self, nexus: NexusId) -> impl Iterator<Item = &T> {
        self.seats
            .iter()
            .filter(move |seat| seat.member.nexus != nexus)
            .map(|seat| &seat.handle)
    }

    /// The sessions with one of these nexuses.
    pub fn named(&self, nexuses: &[NexusId]) -> impl Iterator<Item = (NexusId, &T)> {
        let wanted = |seat: &&Seat<T>| nexuses.contains(&seat.member.nexus);
        self.seats
            .iter()
            .filter(wanted)
            .map(|seat| (seat.member.nexus, &seat.handle))
    }

    /// Number of sessions, those that are leaving included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.seats.len()
    }

    /// True without any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// The longest quiet one of those sessions, when there is no room for one more beside `most`.
    fn surplus(&mut self, which: impl Fn(&Seat<T>) -> bool, most: usize) -> Option<&mut Seat<T>> {
        let stays = |seat: &&mut Seat<T>| !seat.leaving && which(seat);
        if self.seats.iter_mut().filter(stays).count() < most {
            return None;
        }
        self.seats
            .iter_mut()
            .filter(stays)
            .min_by_key(|seat| seat.member.active_ms.load(Relaxed))
    }

    fn free_tsih(&self) -> Option<u16> {
        let taken = |tsih: u16| self.seats.iter().any(|seat| seat.tsih == tsih);
        (1..=u16::MAX)
            .map(|step| self.last_tsih.wrapping_add(step))
            .find(|&tsih| tsih != 0 && !taken(tsih))
    }
}

/// Why `old` must leave for `new`, if it must.
fn conflict(old: &Member, new: &Member) -> Option<Eviction> {
    if old.identity == new.identity {
        return Some(Eviction::Reinstated);
    }
    let same_name = old.identity.initiator == new.identity.initiator;
    match (old.kind, new.kind) {
        (InitiatorKind::Os, InitiatorKind::Firmware) => Some(Eviction::NewBoot),
        (InitiatorKind::Firmware, InitiatorKind::Os) if same_name && old.address == new.address => {
            Some(Eviction::HandedOver)
        }
        _ => None,
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn member(name: &str, isid: u8, kind: InitiatorKind, nexus: u64) -> Member {
        Member {
            identity: Identity {
                initiator: Iqn::parse(&format!("iqn.2026-11.t:{name}")).unwrap(),
                isid: [0, 2, 0x3d, 0, 0, isid],
                portal_group: 1,
            },
            kind,
            address: IpAddr::from([127, 0, 0, 1]),
            nexus: NexusId(nexus),
            active_ms: Arc::new(AtomicU64::new(nexus)),
        }
    }

    #[test]
    fn the_window_opens_with_the_last_command_and_never_shrinks() {
        let mut n = Numbers::new(CmdSn(7), StatSn(100), 4);
        assert_eq!((n.exp_cmd_sn().0, n.max_cmd_sn().0), (7, 10));
        n.take();
        n.open();
        assert_eq!((n.exp_cmd_sn().0, n.max_cmd_sn().0), (8, 10));
        n.close();
        assert_eq!(n.max_cmd_sn(), CmdSn(11));
        n.take();
        assert_eq!(
            n.max_cmd_sn(),
            CmdSn(12),
            "a command that is answered at once moves both ends"
        );
    }

    #[test]
    fn a_closed_window_takes_nothing() {
        let mut n = Numbers::new(CmdSn(u32::MAX), StatSn(0), 1);
        assert_eq!(n.place(CmdSn(u32::MAX)), Arrival::InOrder);
        n.take();
        n.open();
        assert_eq!(n.max_cmd_sn(), n.exp_cmd_sn().minus(1));
        assert_eq!(n.place(CmdSn(0)), Arrival::Outside);
    }

    proptest! {
        #[test]
        fn places_agree_with_arithmetic_without_wrap(start in any::<u32>(), ahead in -300i64..300) {
            let n = Numbers::new(CmdSn(start), StatSn(0), 128);
            let cmd_sn = u32::try_from((i64::from(start) + ahead).rem_euclid(1 << 32)).unwrap();
            let expected = match ahead {
                0 => Arrival::InOrder,
                1..128 => Arrival::Gap,
                _ => Arrival::Outside,
            };
            prop_assert_eq!(n.place(CmdSn(cmd_sn)), expected);
        }
    }

    #[test]
    fn the_same_port_replaces_its_old_session() {
        let mut all = Registry::default();
        let first = all
            .enter(member("a", 1, InitiatorKind::Os, 1), "one")
            .unwrap();
        let second = all
            .enter(member("a", 1, InitiatorKind::Os, 2), "two")
            .unwrap();
        assert!(first.victims.is_empty());
        assert_eq!(second.victims, [("one", Eviction::Reinstated)]);
        assert_ne!(first.tsih, second.tsih);
        all.leave(NexusId(1));
        assert_eq!(all.others(NexusId(9)).collect::<Vec<_>>(), [&"two"]);
    }

    #[test]
    fn two_ports_of_one_initiator_live_side_by_side() {
        let mut all = Registry::default();
        let _ = all.enter(member("a", 1, InitiatorKind::Os, 1), 1).unwrap();
        let second = all.enter(member("a", 2, InitiatorKind::Os, 2), 2).unwrap();
        assert!(second.victims.is_empty());
    }

    #[test]
    fn firmware_ends_what_ran_before_and_the_system_ends_its_firmware() {
        let mut all = Registry::default();
        let _ = all.enter(member("a", 1, InitiatorKind::Os, 1), 1).unwrap();
        let boot = all
            .enter(member("b", 2, InitiatorKind::Firmware, 2), 2)
            .unwrap();
        assert_eq!(boot.victims, [(1, Eviction::NewBoot)]);
        all.leave(NexusId(1));
        let other = all.enter(member("c", 3, InitiatorKind::Os, 3), 3).unwrap();
        assert!(
            other.victims.is_empty(),
            "another initiator's firmware stays"
        );
        let mut far = member("b", 4, InitiatorKind::Os, 4);
        far.address = IpAddr::from([127, 0, 0, 9]);
        assert!(all.enter(far, 4).unwrap().victims.is_empty());
        let system = all.enter(member("b", 5, InitiatorKind::Os, 5), 5).unwrap();
        assert_eq!(system.victims, [(2, Eviction::HandedOver)]);
    }

    fn at(mut member: Member, address: u8) -> Member {
        member.address = IpAddr::from([10, 0, 0, address]);
        member
    }

    #[test]
    fn two_machines_with_one_name_are_told_once_with_both_addresses() {
        let mut all = Registry::default();
        let os = |nexus| member("a", 1, InitiatorKind::Os, nexus);
        let told = |entered: Entered<i32>| entered.clones;
        assert_eq!(told(all.enter(at(os(1), 1), 1).unwrap()), None);
        // A move alone is a machine with a new address.
        assert_eq!(told(all.enter(at(os(2), 2), 2).unwrap()), None);
        all.leave(NexusId(1));
        let back = told(all.enter(at(os(3), 1), 3).unwrap());
        let address = |n| IpAddr::from([10, 0, 0, n]);
        assert_eq!(back, Some((address(1), address(2))));
        all.leave(NexusId(2));
        for nexus in 4..40 {
            let place = if nexus % 2 == 0 { 2 } else { 1 };
            let entered = all.enter(at(os(nexus), place), 0).unwrap();
            assert_eq!(entered.clones, None, "said already");
            all.leave(NexusId(nexus - 1));
        }
    }

    #[test]
    fn a_machine_that_wanders_is_no_second_machine() {
        let mut all = Registry::default();
        for (nexus, place) in (1..100u8).enumerate() {
            let nexus = u64::try_from(nexus).unwrap();
            let new = at(member("a", 1, InitiatorKind::Os, nexus), place);
            assert_eq!(all.enter(new, ()).unwrap().clones, None);
            all.leave(NexusId(nexus.wrapping_sub(1)));
        }
        assert!(all.moves.len() <= limits::MOVES_REMEMBERED);
    }

    #[test]
    fn a_cloned_machine_that_boots_is_found_by_its_firmware_too() {
        let mut all = Registry::default();
        let enter = |all: &mut Registry<u64>, kind, isid, nexus, place| {
            let new = at(member("a", isid, kind, nexus), place);
            all.enter(new, nexus).unwrap().clones
        };
        assert_eq!(enter(&mut all, InitiatorKind::Os, 1, 1, 1), None);
        assert_eq!(enter(&mut all, InitiatorKind::Firmware, 9, 2, 2), None);
        all.leave(NexusId(1));
        assert_eq!(enter(&mut all, InitiatorKind::Os, 1, 3, 2), None);
        all.leave(NexusId(2));
        let told = enter(&mut all, InitiatorKind::Firmware, 8, 4, 1);
        assert!(told.is_some(), "the first machine boots again");
    }

    #[test]
    fn a_frozen_window_is_used_up_and_never_shrinks() {
        let mut n = Numbers::new(CmdSn(u32::MAX - 1), StatSn(0), 4);
        n.take();
        n.open();
        let last = n.max_cmd_sn();
        n.freeze();
        for _ in 0..3 {
            assert_eq!(n.place(n.exp_cmd_sn()), Arrival::InOrder);
            n.take();
            n.close();
            n.freeze();
            assert_eq!(n.max_cmd_sn(), last);
        }
        assert_eq!(n.place(n.exp_cmd_sn()), Arrival::Outside);
    }

    #[test]
    fn the_longest_quiet_session_makes_room() {
        let mut all = Registry::default();
        for n in 0..limits::SESSIONS_PER_INITIATOR {
            let isid = u8::try_from(n).unwrap();
            let m = member("a", isid, InitiatorKind::Os, 10 + u64::from(isid));
            m.active_ms.store(if n == 3 { 1 } else { 50 }, Relaxed);
            assert!(all.enter(m, n).unwrap().victims.is_empty());
        }
        let next = all
            .enter(member("a", 99, InitiatorKind::Os, 99), 99)
            .unwrap();
        assert_eq!(next.victims, [(3, Eviction::TooMany)]);
    }

    #[test]
    fn a_target_has_so_many_sessions_whatever_names_they_give() {
        let mut all = Registry::default();
        let mut left = 0;
        let mut few = Registry::new(2);
        for n in 0..5 {
            let new = member(&format!("n{n}"), 1, InitiatorKind::Os, n);
            let entered = few.enter(new, n).unwrap();
            assert_eq!(entered.victims.len(), usize::from(n > 1), "a setting of 2");
        }
        for n in 0..2 * limits::SESSIONS_PER_TARGET {
            let nexus = u64::try_from(n).unwrap();
            let entered = all
                .enter(member(&format!("n{n}"), 1, InitiatorKind::Os, nexus), n)
                .unwrap();
            left += entered.victims.len();
        }
        assert_eq!(left, limits::SESSIONS_PER_TARGET);
    }

    #[test]
    fn firmware_is_known_by_its_isid() {
        let mac = Mac::parse("52:54:00:12:34:56").unwrap();
        let edk2 = [0x12, 0x54, 0x00, 0x12, 0x34, 0x56];
        assert_eq!(
            kind_of([0x40, 0, 0x27, 0x23, 9, 9], &[]),
            InitiatorKind::Firmware
        );
        assert_eq!(kind_of(edk2, &[mac]), InitiatorKind::Firmware);
        assert_eq!(kind_of(edk2, &[]), InitiatorKind::Os);
        assert_eq!(kind_of([0, 2, 0x3d, 0, 0, 1], &[mac]), InitiatorKind::Os);
    }

    #[test]
    fn port_names_carry_the_isid() {
        let m = member("a", 7, InitiatorKind::Os, 1);
        assert_eq!(m.identity.port_name(), "iqn.2026-11.t:a,i,0x00023d000007");
    }
}
