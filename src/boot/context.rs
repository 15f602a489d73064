//! What is remembered of each machine's boot under way. Pure: time is an argument.
//!
//! The one question of weight: does this request begin a new boot, or is it a later stage of one that
//! runs? Firmware asks for an address again at every stage (ROM, loader), so a boot begins when
//!
//! ```text
//!   nothing is known of the machine                       "first request of its firmware"
//!   it was silent for BOOT_QUIET                          "firmware asked after silence"
//!   its script was served, and firmware starts over       "firmware started over after its script"
//!   its loader ran, and the ROM starts over               "firmware started over after its loader"
//! ```
//! An operating system's DHCP never begins one.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use super::Moment;
use super::facts::{Arch, Client, Facts, MessageType};
use crate::limits;
use crate::names::{BootId, Mac};

/// One machine's boot.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The attempt's number; none while the machine is nobody's node.
    pub(crate) boot: Option<BootId>,
    pub(crate) arch: Arch,
    pub(crate) uuid: Option<String>,
    /// How often a stranger asked since it was written down last.
    pub(crate) asked: u64,
    /// Its address, as far as this head gave it or overheard it.
    pub(crate) ip: Option<Ipv4Addr>,
    /// Firmware or its script was last heard.
    heard: Moment,
    loader_at: Option<Moment>,
    loaders_told: u8,
    /// iPXE asked for an address in this boot.
    ipxe_seen: bool,
    script_at: Option<Moment>,
    noted: Option<Moment>,
    told: Option<(Moment, String)>,
    script_said: Option<(Moment, String)>,
    queued: Option<(Moment, u32)>,
}

/// What a plan may know of the boot so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// A loader was fetched a moment ago: iPXE that asks now is that loader.
    pub(crate) loader_fresh: bool,
    /// The machine was sent to a loader again and again without a script being asked for.
    pub(crate) circling: bool,
}

/// All machines, bounded by `limits::BOOT_CONTEXTS_MAX`.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    machines: HashMap<Mac, Attempt>,
    by_ip: HashMap<Ipv4Addr, Mac>,
    /// Who goes first when the table is full: strangers, then the longest silent.
    order: BTreeSet<(bool, Moment, Mac)>,
}

impl Contexts {
    /// Takes note of a request by firmware. The answer is why a new boot begins, if one does.
    pub(crate) fn firmware(
        &mut self,
        facts: &Facts,
        known: bool,
        now: Moment,
    ) -> Option<&'static str> {
        let cause = match self.machines.get(&facts.mac) {
            None => Some("first request of its firmware"),
            Some(attempt) => attempt.begins_anew(facts, now),
        };
        if cause.is_some() {
            self.begin(facts, now);
        }
        let attempt = self.machines.get_mut(&facts.mac)?;
        attempt.arch = facts.arch;
        attempt.ipxe_seen |= matches!(facts.client, Client::Ipxe(_));
        if facts.uuid.is_some() {
            attempt.uuid = facts.uuid_text();
        }
        if facts.message == MessageType::Discover {
            attempt.asked += 1;
        }
        self.touch(facts.mac, known, now);
        cause
    }

    /// What is known of a machine.
    pub(crate) fn get(&self, mac: Mac) -> Option<&Attempt> {
        self.machines.get(&mac)
    }

    /// Which machine has this address.
    pub(crate) fn machine_at(&self, ip: Ipv4Addr) -> Option<Mac> {
        self.by_ip.get(&ip).copied()
    }

    /// The number of the boot under way.
    pub(crate) fn set_boot(&mut self, mac: Mac, boot: BootId) {
        if let Some(attempt) = self.machines.get_mut(&mac) {
            attempt.boot = Some(boot);
        }
    }

    /// The machine has this address, given or overheard. Unknown machines are not remembered for it.
    pub(crate) fn set_ip(&mut self, mac: Mac, ip: Ipv4Addr) {
        let Some(attempt) = self.machines.get_mut(&mac) else {
            return;
        };
        let old = attempt.ip.replace(ip);
        if let Some(old) = old.filter(|old| *old != ip)
            && self.by_ip.get(&old) == Some(&mac)
        {
            self.by_ip.remove(&old);
        }
        if let Some(other) = self.by_ip.insert(ip, mac).filter(|other| *other != mac)
            && let Some(attempt) = self.machines.get_mut(&other)
        {
            attempt.ip = None;
        }
    }

    /// A loader was fetched whole from `ip`.
    pub(crate) fn loader_sent(&mut self, ip: Ipv4Addr, now: Moment) -> Option<Mac> {
        let mac = self.machine_at(ip)?;
        let attempt = self.machines.get_mut(&mac)?;
        attempt.loader_at = Some(now);
        let known = attempt.boot.is_some();
        self.touch(mac, known, now);
        Some(mac)
    }

    /// iPXE was sent to a loader once more.
    pub(crate) fn loader_told(&mut self, mac: Mac) {
        if let Some(attempt) = self.machines.get_mut(&mac) {
            attempt.loaders_told = attempt.loaders_told.saturating_add(1);
        }
    }

    /// The script was asked for and waits or goes on; the boot is alive.
    pub(crate) fn polled(&mut self, mac: Mac, now: Moment) {
        if let Some(attempt) = self.machines.get_mut(&mac) {
            attempt.loaders_told = 0;
            let known = attempt.boot.is_some();
            self.touch(mac, known, now);
        }
    }

    /// The script that starts the disk was served.
    pub(crate) fn script_served(&mut self, mac: Mac, now: Moment) {
        if let Some(attempt) = self.machines.get_mut(&mac) {
            attempt.script_at = Some(now);
            attempt.queued = None;
        }
    }

    /// How far the boot has come.
    pub(crate) fn progress(&self, mac: Mac, now: Moment) -> Progress {
        let Some(attempt) = self.machines.get(&mac) else {
            return Progress::default();
        };
        let age = attempt.loader_at.map(|at| now.saturating_sub(at));
        Progress {
            loader_fresh: age.is_some_and(|age| age <= limits::LOADER_FRESH),
            circling: attempt.loaders_told >= limits::LOADER_CHAIN_MAX,
        }
    }

    /// Was the machine heard lately enough to be told a secret?
    pub(crate) fn is_under_way(&self, mac: Mac, now: Moment) -> bool {
        let heard = self.machines.get(&mac).map(|a| a.heard);
        heard.is_some_and(|at| now.saturating_sub(at) <= limits::SCRIPT_WINDOW)
    }

    /// Is it time to write this stranger down (again)? Counts as written. The answer is how often it asked
    /// since the last time.
    pub(crate) fn note_due(&mut self, mac: Mac, now: Moment) -> Option<u64> {
        let attempt = self.machines.get_mut(&mac)?;
        let due = attempt
            .noted
            .is_none_or(|at| now.saturating_sub(at) >= limits::PENDING_EVERY);
        if !due {
            return None;
        }
        attempt.noted = Some(now);
        Some(std::mem::take(&mut attempt.asked).max(1))
    }

    /// Is this answer worth an event? The same one again within a moment is not.
    pub(crate) fn answer_is_news(&mut self, mac: Mac, answer: &str, now: Moment) -> bool {
        let Some(attempt) = self.machines.get_mut(&mac) else {
            return false;
        };
        if let Some((at, told)) = &attempt.told
            && told == answer
            && now.saturating_sub(*at) < limits::DHCP_EVENT_EVERY
        {
            return false;
        }
        attempt.told = Some((now, answer.to_owned()));
        true
    }

    /// Is this decision on a script worth an event? While it stays the same it is not.
    pub(crate) fn script_is_news(&mut self, mac: Mac, decision: &str, now: Moment) -> bool {
        let Some(attempt) = self.machines.get_mut(&mac) else {
            return false;
        };
        if let Some((at, said)) = &attempt.script_said
            && said == decision
            && now.saturating_sub(*at) < limits::BOOT_QUIET
        {
            return false;
        }
        attempt.script_said = Some((now, decision.to_owned()));
        true
    }

    /// Is this place in the queue worth an event? A change is, but not more often than now and then.
    pub(crate) fn place_is_news(&mut self, mac: Mac, place: u32, now: Moment) -> bool {
        let Some(attempt) = self.machines.get_mut(&mac) else {
            return false;
        };
        if let Some((at, old)) = attempt.queued
            && (old == place || now.saturating_sub(at) < limits::QUEUED_EVERY)
        {
            return false;
        }
        attempt.queued = Some((now, place));
        true
    }

    fn begin(&mut self, facts: &Facts, now: Moment) {
        let old = self.machines.get(&facts.mac);
        let fresh = Attempt {
            boot: None,
            arch: facts.arch,
            uuid: facts.uuid_text(),
            asked: old.map_or(0, |a| a.asked),
            ip: old.and_then(|a| a.ip),
            heard: old.map_or(now, |a| a.heard),
            loader_at: None,
            loaders_told: 0,
            ipxe_seen: false,
            script_at: None,
            noted: old.and_then(|a| a.noted),
            told: None,
            script_said: None,
            queued: None,
        };
        if old.is_none() {
            self.make_room();
        }
        self.machines.insert(facts.mac, fresh);
    }

    fn touch(&mut self, mac: Mac, known: bool, now: Moment) {
        let Some(attempt) = self.machines.get_mut(&mac) else {
            return;
        };
        let old = std::mem::replace(&mut attempt.heard, now);
        for was_known in [false, true] {
            self.order.remove(&(was_known, old, mac));
        }
        self.order.insert((known, now, mac));
    }

    fn make_room(&mut self) {
        while self.machines.len() >= limits::BOOT_CONTEXTS_MAX {
            let Some((_, _, mac)) = self.order.pop_first() else {
                return;
            };
            if let Some(attempt) = self.machines.remove(&mac)
                && let Some(ip) = attempt.ip
                && self.by_ip.get(&ip) == Some(&mac)
            {
                self.by_ip.remove(&ip);
            }
        }
    }
}

impl Attempt {
    fn begins_anew(&self, facts: &Facts, now: Moment) -> Option<&'static str> {
        if facts.message != MessageType::Discover {
            return None;
        }
        let since = |at: Moment| now.saturating_sub(at);
        if since(self.heard) >= limits::BOOT_QUIET {
            return Some("firmware asked after silence");
        }
        if self
            .script_at
            .is_some_and(|at| since(at) >= limits::BOOT_RESTART)
        {
            return Some("firmware started over after its script");
        }
        let rom = !matches!(facts.client, Client::Ipxe(_));
        let loader = self.loader_at;
        if rom && self.ipxe_seen && loader.is_some_and(|at| since(at) >= limits::BOOT_RESTART) {
            return Some("firmware started over after its loader");
        }
        None
    }
}

#[cfg(test)]
mod test {
    use super::super::facts::test::{MAC, ipxe, plain, pxe};
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(1000 + seconds)
    }

    fn facts(packet: &super::super::packet::Packet) -> Facts {
        Facts::of(packet).unwrap()
    }

    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    #[test]
    fn the_stages_of_one_boot_are_one_boot() {
        let mut all = Contexts::default();
        assert!(all.firmware(&facts(&pxe(1, 7)), true, at(0)).is_some());
        assert!(all.firmware(&facts(&pxe(1, 7)), true, at(4)).is_none());
        assert!(all.firmware(&facts(&pxe(3, 7)), true, at(4)).is_none());
        all.set_ip(MAC, IP);
        assert_eq!(all.loader_sent(IP, at(8)), Some(MAC));
        assert!(all.firmware(&facts(&ipxe(1, 7)), true, at(20)).is_none());
        assert!(all.firmware(&facts(&ipxe(3, 7)), true, at(20)).is_none());
        assert!(all.progress(MAC, at(20)).loader_fresh);
        all.polled(MAC, at(21));
        all.script_served(MAC, at(21));
        assert!(all.firmware(&facts(&ipxe(1, 7)), true, at(21)).is_none());
    }

    #[test]
    fn a_reset_after_the_script_is_a_new_boot() {
        let mut all = Contexts::default();
        all.firmware(&facts(&ipxe(1, 0)), true, at(0));
        all.script_served(MAC, at(2));
        let cause = all.firmware(&facts(&ipxe(1, 0)), true, at(30));
        assert_eq!(cause, Some("firmware started over after its script"));
        assert!(all.firmware(&facts(&ipxe(1, 0)), true, at(31)).is_none());
    }

    #[test]
    fn a_rom_that_starts_over_after_its_loader_is_a_new_boot() {
        let mut all = Contexts::default();
        all.firmware(&facts(&pxe(1, 0)), true, at(0));
        all.set_ip(MAC, IP);
        all.loader_sent(IP, at(2));
        // The ROM may repeat itself before its loader speaks.
        assert!(all.firmware(&facts(&pxe(1, 0)), true, at(7)).is_none());
        all.firmware(&facts(&ipxe(1, 0)), true, at(8));
        assert!(all.firmware(&facts(&pxe(1, 0)), true, at(20)).is_some());
        assert!(!all.progress(MAC, at(20)).loader_fresh);
    }

    #[test]
    fn silence_ends_a_boot_and_waiting_does_not() {
        let mut all = Contexts::default();
        all.firmware(&facts(&ipxe(1, 0)), true, at(0));
        for second in (3..600).step_by(3) {
            all.polled(MAC, at(second));
        }
        assert!(all.firmware(&facts(&ipxe(1, 0)), true, at(610)).is_none());
        assert!(all.firmware(&facts(&ipxe(1, 0)), true, at(671)).is_some());
    }

    #[test]
    fn secrets_are_told_only_while_the_machine_is_heard() {
        let mut all = Contexts::default();
        assert!(!all.is_under_way(MAC, at(0)));
        all.firmware(&facts(&ipxe(1, 0)), true, at(0));
        assert!(all.is_under_way(MAC, at(600)));
        assert!(!all.is_under_way(MAC, at(601)));
    }

    #[test]
    fn an_address_belongs_to_its_last_owner() {
        let mut all = Contexts::default();
        let mut other = facts(&ipxe(1, 0));
        other.mac = MAC.plus(1).unwrap();
        all.firmware(&facts(&ipxe(1, 0)), true, at(0));
        all.firmware(&other, true, at(0));
        all.set_ip(MAC, IP);
        all.set_ip(other.mac, IP);
        assert_eq!(all.machine_at(IP), Some(other.mac));
        assert_eq!(all.get(MAC).unwrap().ip, None);
        // An operating system of an unknown machine leaves no trace.
        all.set_ip(facts(&plain(3)).mac.plus(9).unwrap(), IP);
        assert_eq!(all.machine_at(IP), Some(other.mac));
    }

    #[test]
    fn strangers_leave_the_full_table_before_nodes() {
        let mut all = Contexts::default();
        let mut asker = facts(&ipxe(1, 0));
        all.firmware(&asker, true, at(0));
        all.set_ip(MAC, IP);
        let count = u64::try_from(limits::BOOT_CONTEXTS_MAX).unwrap() + 10;
        for n in 1..count {
            asker.mac = MAC.plus(n).unwrap();
            all.firmware(&asker, false, at(1) + Duration::from_millis(n));
        }
        assert_eq!(all.machines.len(), limits::BOOT_CONTEXTS_MAX);
        assert_eq!(all.order.len(), limits::BOOT_CONTEXTS_MAX);
        assert!(all.get(MAC).is_some());
        assert!(all.get(MAC.plus(1).unwrap()).is_none());
        assert!(all.get(asker.mac).is_some());
    }

    #[test]
    fn events_and_notes_are_not_repeated_in_a_hurry() {
        let mut all = Contexts::default();
        for _ in 0..3 {
            all.firmware(&facts(&ipxe(1, 0)), false, at(0));
        }
        assert_eq!(all.note_due(MAC, at(0)), Some(3));
        assert_eq!(all.note_due(MAC, at(59)), None);
        assert_eq!(all.note_due(MAC, at(60)), Some(1));
        assert!(all.answer_is_news(MAC, "a", at(0)));
        assert!(!all.answer_is_news(MAC, "a", at(1)));
        assert!(all.answer_is_news(MAC, "b", at(1)));
        assert!(all.place_is_news(MAC, 9, at(0)));
        assert!(!all.place_is_news(MAC, 8, at(3)));
        assert!(all.place_is_news(MAC, 7, at(10)));
        assert!(!all.place_is_news(MAC, 7, at(30)));
    }

    #[test]
    fn a_chain_in_circles_is_noticed() {
        let mut all = Contexts::default();
        all.firmware(&facts(&ipxe(1, 0)), true, at(0));
        for _ in 0..limits::LOADER_CHAIN_MAX {
            assert!(!all.progress(MAC, at(0)).circling);
            all.loader_told(MAC);
        }
        assert!(all.progress(MAC, at(0)).circling);
        all.polled(MAC, at(1));
        assert!(!all.progress(MAC, at(1)).circling);
    }
}
