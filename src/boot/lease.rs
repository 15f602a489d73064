//! Which machine has which address. Pure: time is an argument, nothing is written to disk.
//!
//! A restart of the head must not move live nodes, although nothing is kept: a node's *home* (a number
//! that the catalog never reuses) picks the same address every time, and a machine that comes with an
//! address of the range keeps it when nobody else has it.
//!
//! ```text
//!   free --assign--> attributed (MAC, until) --expired, and no other left--> attributed to another
//!     ^                       |
//!     +--- after a while ----bad <--DECLINE
//! ```
//! An attribution outlives its lease, so that a machine which comes back gets what it had.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use super::Moment;
use crate::limits;
use crate::names::Mac;

/// What a machine would like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) mac: Mac,
    /// The address its node record fixes.
    pub(crate) fixed: Option<Ipv4Addr>,
    /// A node's number: where in the range it lives when nothing else is known. Strangers have none.
    pub(crate) home: Option<u32>,
    /// The address it says it has.
    pub(crate) asked: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Machine(Mac),
    /// A client found another one using it.
    Bad,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    holder: Holder,
    until: Moment,
}

/// The range with its attributions. Every operation is O(log n).
#[derive(Debug)]
pub(crate) struct Pool {
    first: u32,
    last: u32,
    free: Runs,
    entries: BTreeMap<u32, Entry>,
    by_mac: HashMap<Mac, u32>,
    by_time: BTreeSet<(Moment, u32)>,
    /// Addresses of node records; never given to others.
    fixed: HashSet<u32>,
}

impl Pool {
    /// A range from `first` to `last`, both included. `None` when it is empty or longer than
    /// `limits::LEASE_RANGE_MAX`.
    pub(crate) fn new(first: Ipv4Addr, last: Ipv4Addr) -> Option<Self> {
        let (first, last) = (u32::from(first), u32::from(last));
        let span = last.checked_sub(first)?;
        if span >= limits::LEASE_RANGE_MAX {
            return None;
        }
        let mut free = Runs::default();
        free.give(first, last);
        Some(Self {
            first,
            last,
            free,
            entries: BTreeMap::new(),
            by_mac: HashMap::new(),
            by_time: BTreeSet::new(),
            fixed: HashSet::new(),
        })
    }

    /// Says which addresses node records fix. One that another machine has at the moment is taken from it:
    /// its next request is refused and it gets another.
    pub(crate) fn set_fixed(&mut self, fixed: impl Iterator<Item = Ipv4Addr>) {
        let now: HashSet<u32> = fixed.map(u32::from).collect();
        let gone: Vec<u32> = self.fixed.difference(&now).copied().collect();
        let new: Vec<u32> = now.difference(&self.fixed).copied().collect();
        for ip in gone {
            if (self.first..=self.last).contains(&ip) && !self.entries.contains_key(&ip) {
                self.free.give(ip, ip);
            }
        }
        for &ip in &new {
            self.drop_entry(ip);
            self.free.take(ip);
        }
        self.fixed = now;
    }

    /// Chooses the address of `want.mac` and keeps it until `until`. `None` when the range is used up.
    pub(crate) fn assign(&mut self, want: Want, now: Moment, until: Moment) -> Option<Ipv4Addr> {
        if let Some(ip) = want.fixed {
            self.leave(want.mac);
            return Some(ip);
        }
        let ip = self.choose(want, now)?;
        // An offer must not shorten a lease that runs.
        let running = self
            .entries
            .get(&ip)
            .filter(|e| e.holder == Holder::Machine(want.mac));
        let until = running.map_or(until, |e| e.until.max(until));
        self.attribute(want.mac, ip, until);
        Some(Ipv4Addr::from(ip))
    }

    /// Confirms that `want.mac` has `ip` until `until`. False when it must not have it.
    pub(crate) fn confirm(&mut self, want: Want, ip: Ipv4Addr, now: Moment, until: Moment) -> bool {
        if let Some(fixed) = want.fixed {
            self.leave(want.mac);
            return fixed == ip;
        }
        let key = u32::from(ip);
        let mine = self.by_mac.get(&want.mac) == Some(&key);
        if !mine && !self.is_open(key, now) {
            return false;
        }
        self.attribute(want.mac, key, until);
        true
    }

    /// The client gives its address back; it would still get the same one.
    pub(crate) fn release(&mut self, mac: Mac, ip: Ipv4Addr, now: Moment) {
        let key = u32::from(ip);
        if self.by_mac.get(&mac) == Some(&key) {
            self.attribute(mac, key, now);
        }
    }

    /// The client found `ip` in use by another: nobody gets it for a while.
    pub(crate) fn decline(&mut self, mac: Mac, ip: Ipv4Addr, now: Moment) {
        let key = u32::from(ip);
        if self.by_mac.get(&mac) != Some(&key) {
            return;
        }
        self.drop_entry(key);
        self.free.take(key);
        let until = now + limits::LEASE_DECLINED;
        let holder = Holder::Bad;
        self.entries.insert(key, Entry { holder, until });
        self.by_time.insert((until, key));
    }

    fn choose(&mut self, want: Want, now: Moment) -> Option<u32> {
        if let Some(&ip) = self.by_mac.get(&want.mac) {
            return Some(ip);
        }
        let asked = want.asked.map(u32::from);
        if let Some(ip) = asked.filter(|&ip| self.is_open(ip, now)) {
            return Some(ip);
        }
        let home = self.home(want);
        let found = self
            .free
            .at_or_after(home)
            .or_else(|| self.free.at_or_after(0));
        found.or_else(|| self.oldest_expired(now))
    }

    /// Nodes are numbered from the low end; strangers live in the upper quarter, out of their way.
    fn home(&self, want: Want) -> u32 {
        // `new` keeps the span below 2^20, so nothing here overflows.
        let size = self.last - self.first + 1;
        let Some(number) = want.home else {
            let [.., a, b, c] = want.mac.octets();
            let spread = u32::from_be_bytes([0, a, b, c]);
            return self.last - spread % size.div_ceil(4);
        };
        self.first + number % size
    }

    /// Free, or its lease has ended, and no record fixes it.
    fn is_open(&self, ip: u32, now: Moment) -> bool {
        if !(self.first..=self.last).contains(&ip) || self.fixed.contains(&ip) {
            return false;
        }
        self.entries.get(&ip).is_none_or(|e| e.until <= now)
    }

    fn oldest_expired(&self, now: Moment) -> Option<u32> {
        let &(until, ip) = self.by_time.first()?;
        (until <= now).then_some(ip)
    }

    /// Makes `ip` the address of `mac` and of no other, and the only one of `mac`.
    fn attribute(&mut self, mac: Mac, ip: u32, until: Moment) {
        if self.by_mac.get(&mac) != Some(&ip) {
            self.leave(mac);
        }
        self.drop_entry(ip);
        self.free.take(ip);
        let holder = Holder::Machine(mac);
        self.entries.insert(ip, Entry { holder, until });
        self.by_mac.insert(mac, ip);
        self.by_time.insert((until, ip));
    }

    /// Takes the dynamic address of `mac` back.
    fn leave(&mut self, mac: Mac) {
        if let Some(&ip) = self.by_mac.get(&mac) {
            self.drop_entry(ip);
        }
    }

    /// Removes what is known of `ip` and makes it free.
    fn drop_entry(&mut self, ip: u32) {
        let Some(entry) = self.entries.remove(&ip) else {
            return;
        };
        self.by_time.remove(&(entry.until, ip));
        if let Holder::Machine(mac) = entry.holder {
            self.by_mac.remove(&mac);
        }
        self.free.give(ip, ip);
    }
}

/// Runs of free addresses: start to end, both included, never touching.
#[derive(Debug, Default)]
struct Runs(BTreeMap<u32, u32>);

impl Runs {
    fn at_or_after(&self, ip: u32) -> Option<u32> {
        let before = self.0.range(..=ip).next_back();
        if let Some((_, &end)) = before
            && end >= ip
        {
            return Some(ip);
        }
        self.0.range(ip..).next().map(|(&start, _)| start)
    }

    fn take(&mut self, ip: u32) {
        let Some((&start, &end)) = self.0.range(..=ip).next_back() else {
            return;
        };
        if end < ip {
            return;
        }
        self.0.remove(&start);
        if start < ip {
            self.0.insert(start, ip - 1);
        }
        if ip < end {
            self.0.insert(ip + 1, end);
        }
    }

    /// Gives back a run of which no address is free.
    fn give(&mut self, mut start: u32, mut end: u32) {
        let before = self.0.range(..=start).next_back();
        if let Some((&s, &e)) = before
            && e.checked_add(1) == Some(start)
        {
            self.0.remove(&s);
            start = s;
        }
        if let Some(next) = end.checked_add(1)
            && let Some(e) = self.0.remove(&next)
        {
            end = e;
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const HOUR: Moment = Duration::from_secs(3600);

    fn ip(low: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0000 + low)
    }

    fn mac(n: u64) -> Mac {
        Mac::new([2, 0, 0, 0, 0, 0]).plus(n).unwrap()
    }

    fn want(n: u64, home: u32) -> Want {
        Want {
            mac: mac(n),
            fixed: None,
            home: Some(home),
            asked: None,
        }
    }

    fn pool(size: u32) -> Pool {
        Pool::new(ip(0), ip(size - 1)).unwrap()
    }

    #[test]
    fn a_node_lives_at_home_and_stays_there() {
        let mut pool = pool(10);
        let now = Duration::ZERO;
        assert_eq!(pool.assign(want(1, 7), now, HOUR), Some(ip(7)));
        assert_eq!(pool.assign(want(2, 7), now, HOUR), Some(ip(8)));
        assert_eq!(
            pool.assign(want(1, 3), now + HOUR * 9, HOUR * 10),
            Some(ip(7))
        );
    }

    #[test]
    fn a_restart_of_the_head_moves_no_live_node() {
        let (now, mut before) = (Duration::ZERO, pool(10));
        let got: Vec<_> = (0..5_u32)
            .map(|n| before.assign(want(u64::from(n), n * 7), now, HOUR).unwrap())
            .collect();
        let mut after = pool(10);
        for n in [3_u32, 0, 4, 1, 2] {
            let held = got[n as usize];
            assert!(after.confirm(want(u64::from(n), n * 7), held, now, HOUR));
        }
    }

    #[test]
    fn an_address_of_another_is_not_confirmed() {
        let (now, mut pool) = (Duration::ZERO, pool(10));
        pool.assign(want(1, 0), now, HOUR);
        assert!(!pool.confirm(want(2, 0), ip(0), now, HOUR));
        assert!(pool.confirm(want(2, 0), ip(0), HOUR, HOUR * 2));
        assert!(!pool.confirm(want(3, 0), ip(10), now, HOUR));
        assert_eq!(pool.assign(want(1, 0), HOUR, HOUR * 2), Some(ip(1)));
    }

    #[test]
    fn fixed_addresses_belong_to_their_nodes_only() {
        let (now, mut pool) = (Duration::ZERO, pool(2));
        pool.assign(want(1, 0), now, HOUR);
        pool.set_fixed([ip(0), ip(99)].into_iter());
        assert!(!pool.confirm(want(1, 0), ip(0), now, HOUR));
        assert_eq!(pool.assign(want(1, 0), now, HOUR), Some(ip(1)));
        let fixed = Want {
            fixed: Some(ip(0)),
            ..want(2, 0)
        };
        assert_eq!(pool.assign(fixed, now, HOUR), Some(ip(0)));
        assert!(pool.confirm(fixed, ip(0), now, HOUR));
        assert!(!pool.confirm(fixed, ip(1), now, HOUR));
        assert_eq!(pool.assign(want(3, 0), now, HOUR), None);
        pool.set_fixed(std::iter::empty());
        assert_eq!(pool.assign(want(3, 0), now, HOUR), Some(ip(0)));
    }

    #[test]
    fn strangers_live_at_the_upper_end_and_an_offer_shortens_no_lease() {
        let (now, mut pool) = (Duration::ZERO, pool(100));
        let stranger = Want {
            home: None,
            ..want(1, 0)
        };
        let got = pool.assign(stranger, now, HOUR).unwrap();
        assert!(got >= ip(75), "{got}");
        pool.assign(stranger, now, limits::LEASE_OFFER);
        assert!(!pool.confirm(want(2, 0), got, HOUR / 2, HOUR));
    }

    #[test]
    fn a_full_range_reuses_the_longest_expired_lease() {
        let mut pool = pool(2);
        pool.assign(want(1, 0), Duration::ZERO, HOUR);
        pool.assign(want(2, 0), Duration::ZERO, HOUR * 2);
        assert_eq!(pool.assign(want(3, 0), Duration::ZERO, HOUR), None);
        let now = HOUR * 3;
        assert_eq!(pool.assign(want(3, 0), now, now + HOUR), Some(ip(0)));
    }

    #[test]
    fn a_declined_address_rests_and_comes_back() {
        let mut pool = pool(2);
        let now = Duration::ZERO;
        assert_eq!(pool.assign(want(1, 0), now, HOUR), Some(ip(0)));
        pool.decline(mac(9), ip(0), now);
        pool.decline(mac(1), ip(0), now);
        assert_eq!(pool.assign(want(1, 0), now, HOUR), Some(ip(1)));
        assert_eq!(pool.assign(want(2, 0), now, HOUR), None);
        let later = now + limits::LEASE_DECLINED;
        assert_eq!(pool.assign(want(2, 0), later, later + HOUR), Some(ip(0)));
    }

    #[test]
    fn ten_thousand_nodes_get_ten_thousand_addresses() {
        let mut pool = pool(10_000);
        let mut seen = HashSet::new();
        for n in 0..10_000 {
            let got = pool.assign(want(n, 0), Duration::ZERO, HOUR).unwrap();
            assert!(seen.insert(got));
        }
        assert_eq!(pool.assign(want(10_000, 0), Duration::ZERO, HOUR), None);
    }

    #[test]
    fn senseless_ranges_are_refused() {
        assert!(Pool::new(ip(5), ip(4)).is_none());
        assert!(Pool::new(Ipv4Addr::new(0, 0, 0, 0), Ipv4Addr::BROADCAST).is_none());
    }

    /// The stupid pool: a list of who may rely on what until when.
    #[derive(Default)]
    struct Model(HashMap<Ipv4Addr, (Mac, Moment)>);

    impl Model {
        fn grant(&mut self, mac: Mac, ip: Ipv4Addr, now: Moment, until: Moment) {
            if let Some((other, end)) = self.0.get(&ip) {
                assert!(*other == mac || *end <= now, "{ip} given twice");
            }
            self.0.retain(|_, (m, _)| *m != mac);
            self.0.insert(ip, (mac, until));
        }
    }

    fn self_check(pool: &Pool) {
        for (&ip, entry) in &pool.entries {
            assert!(pool.by_time.contains(&(entry.until, ip)));
            assert!(pool.free.at_or_after(ip) != Some(ip));
            if let Holder::Machine(mac) = entry.holder {
                assert_eq!(pool.by_mac.get(&mac), Some(&ip));
            }
        }
        assert_eq!(pool.by_time.len(), pool.entries.len());
        for ip in pool.first..=pool.last {
            let free = pool.free.at_or_after(ip) == Some(ip);
            let held = pool.entries.contains_key(&ip) || pool.fixed.contains(&ip);
            assert!(free != held, "{ip:x} free {free}");
        }
    }

    proptest! {
        #[test]
        fn no_two_machines_ever_hold_one_address(
            steps in prop::collection::vec((0..6_u8, 0..12_u64, 0..14_u32, 0..40_u64), 1..200),
        ) {
            let mut pool = pool(8);
            let mut model = Model::default();
            let mut now = Duration::ZERO;
            for (kind, who, at, pass) in steps {
                now += Duration::from_secs(pass);
                let until = now + Duration::from_secs(60);
                let asked = Want { asked: Some(ip(at)), ..want(who, at) };
                match kind {
                    0 => if let Some(got) = pool.assign(want(who, at), now, until) {
                        model.grant(mac(who), got, now, until);
                    },
                    1 => if let Some(got) = pool.assign(asked, now, until) {
                        model.grant(mac(who), got, now, until);
                    },
                    2 => if pool.confirm(want(who, at), ip(at), now, until) {
                        model.grant(mac(who), ip(at), now, until);
                    },
                    3 => {
                        pool.release(mac(who), ip(at), now);
                        if model.0.get(&ip(at)).is_some_and(|(m, _)| *m == mac(who)) {
                            model.0.insert(ip(at), (mac(who), now));
                        }
                    }
                    4 => {
                        pool.decline(mac(who), ip(at), now);
                        if model.0.get(&ip(at)).is_some_and(|(m, _)| *m == mac(who)) {
                            model.0.remove(&ip(at));
                        }
                    }
                    _ => {
                        let fixed = [ip(at), ip(at / 2)];
                        pool.set_fixed(fixed.into_iter());
                        model.0.retain(|ip, _| !fixed.contains(ip));
                    }
                }
                self_check(&pool);
            }
        }
    }
}
