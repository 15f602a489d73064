//! Who may wait for a login: places for connections that have not logged in, shared fairly between source
//! addresses. Pure.
//!
//! One address may use what nobody else needs. When places are short, the oldest connection of the greediest
//! address goes first, so that a flood from one machine pushes out itself and nobody else. An address whose
//! attempts keep failing is turned away at the door for a moment: that costs us one accept.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use super::pace::Pace;
use crate::limits;

/// Name of a place.
pub type Place = u64;

/// What happens to a connection that was just accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may log in; another may have to leave for it.
    Enter {
        /// Its place, to be given back.
        place: Place,
        /// The place to be cleared.
        evict: Option<Place>,
    },
    /// It is closed at once.
    TurnAway(Cause),
}

/// Why a connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// All places are taken by connections that are still young.
    Full,
    /// Too many attempts of its address have failed just now.
    Failures,
}

impl Cause {
    /// For the log.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Full => "too many connections have not logged in yet",
            Self::Failures => "too many logins of this address have failed just now",
        }
    }
}

/// The places.
#[derive(Debug)]
pub struct Gate {
    waiting: BTreeMap<Place, (IpAddr, Instant)>,
    /// Places of each address, oldest first. Places that were given back are skipped when met.
    sources: HashMap<IpAddr, VecDeque<Place>>,
    /// Number of places of each address, to find the greediest.
    order: BTreeSet<(usize, IpAddr)>,
    failures: Pace<IpAddr>,
    next: Place,
    places: usize,
    per_source: usize,
}

/// What counts as one source: an IPv4 address, or the /64 of an IPv6 one, which one machine may own whole.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new(
            limits::UNAUTHENTICATED_MAX,
            limits::UNAUTHENTICATED_PER_ADDRESS,
        )
    }
}

impl Gate {
    /// With so many places, and so many of them for one source.
    #[must_use]
    pub fn new(places: usize, per_source: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            sources: HashMap::new(),
            order: BTreeSet::new(),
            failures: Pace::new(
                limits::FAILURE_EVERY,
                limits::FAILURE_BURST,
                limits::FAILURE_SOURCES_MAX,
            ),
            next: 1,
            places,
            per_source,
        }
    }

    /// A connection from `address` was accepted.
    pub fn arrive(&mut self, address: IpAddr, now: Instant) -> Verdict {
        let source = source(address);
        if !self.failures.wait(&source, now).is_zero() {
            return Verdict::TurnAway(Cause::Failures);
        }
        let own = self.sources.get(&source).map_or(0, VecDeque::len);
        let evict = if own >= self.per_source {
            self.oldest_of(source)
        } else if self.waiting.len() >= self.places {
            match self.victim(own, now) {
                Some(victim) => Some(victim),
                None => return Verdict::TurnAway(Cause::Full),
            }
        } else {
            None
        };
        if let Some(victim) = evict {
            self.take_out(victim);
        }
        let place = self.next;
        self.next += 1;
        self.waiting.insert(place, (source, now));
        self.resize(source, |places| places.push_back(place));
        Verdict::Enter { place, evict }
    }

    /// A connection has logged in.
    pub fn pass(&mut self, place: Place) {
        self.take_out(place);
    }

    /// A connection is gone without a login; that counts against its address.
    pub fn fail(&mut self, place: Place, address: IpAddr, now: Instant) {
        self.take_out(place);
        self.failures.note(&source(address), now);
    }

    /// File numbers are short: the oldest of the greediest must go.
    pub fn shed(&mut self) -> Option<Place> {
        let &(_, greediest) = self.order.last()?;
        let victim = self.oldest_of(greediest)?;
        self.take_out(victim);
        Some(victim)
    }

    /// Connections that have not logged in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Who goes when all places are taken, for a newcomer whose address has `own` of them.
    fn victim(&self, own: usize, now: Instant) -> Option<Place> {
        let &(most, greediest) = self.order.last()?;
        if most > 1 && most > own {
            return self.oldest_of(greediest);
        }
        let (&oldest, (_, since)) = self.waiting.first_key_value()?;
        (now.saturating_duration_since(*since) >= limits::NEWCOMER_GRACE).then_some(oldest)
    }

    fn oldest_of(&self, source: IpAddr) -> Option<Place> {
        self.sources.get(&source)?.front().copied()
    }

    fn take_out(&mut self, place: Place) {
        if let Some((source, _)) = self.waiting.remove(&place) {
            self.resize(source, |places| {
                // Mostly the oldest or the newest: both are found at once.
                if let Ok(at) = places.binary_search(&place) {
                    places.remove(at);
                }
            });
        }
    }

    fn resize(&mut self, source: IpAddr, change: impl FnOnce(&mut VecDeque<Place>)) {
        let places = self.sources.entry(source).or_default();
        self.order.remove(&(places.len(), source));
        change(places);
        if places.is_empty() {
            self.sources.remove(&source);
        } else {
            self.order.insert((places.len(), source));
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, n])
    }

    fn entered(verdict: Verdict) -> (Place, Option<Place>) {
        match verdict {
            Verdict::Enter { place, evict } => (place, evict),
            Verdict::TurnAway(cause) => panic!("{cause:?}"),
        }
    }

    #[test]
    fn a_flood_from_one_address_pushes_out_itself() {
        let now = Instant::now();
        let mut gate = Gate::new(8, 4);
        let flood: Vec<_> = (0..6)
            .map(|_| entered(gate.arrive(address(1), now)))
            .collect();
        assert_eq!(flood[4].1, Some(flood[0].0), "its own oldest");
        assert_eq!(gate.len(), 4);
        for n in 2..6 {
            assert_eq!(entered(gate.arrive(address(n), now)).1, None);
        }
        let late = entered(gate.arrive(address(9), now));
        assert_eq!(late.1, Some(flood[2].0), "the greediest gives way");
        assert_eq!(gate.len(), 8);
    }

    #[test]
    fn many_young_strangers_are_not_pushed_out_and_old_ones_are() {
        let start = Instant::now();
        let mut gate = Gate::new(8, 4);
        let first = entered(gate.arrive(address(1), start)).0;
        for n in 2..=8 {
            gate.arrive(address(n), start);
        }
        assert_eq!(
            gate.arrive(address(9), start),
            Verdict::TurnAway(Cause::Full)
        );
        let later = start + limits::NEWCOMER_GRACE;
        assert_eq!(entered(gate.arrive(address(9), later)).1, Some(first));
    }

    #[test]
    fn an_address_that_only_fails_is_turned_away_for_a_moment_and_no_other_is() {
        let start = Instant::now();
        let mut gate = Gate::default();
        let mut now = start;
        let mut turned_away = 0;
        for _ in 0..10_000 {
            now += Duration::from_micros(100);
            match gate.arrive(address(1), now) {
                Verdict::Enter { place, .. } => gate.fail(place, address(1), now),
                Verdict::TurnAway(Cause::Failures) => turned_away += 1,
                Verdict::TurnAway(Cause::Full) => panic!("nobody waits"),
            }
        }
        assert!(turned_away > 9_000, "{turned_away}");
        entered(gate.arrive(address(2), now));
        entered(gate.arrive(address(1), now + 2 * limits::FAILURE_EVERY));
    }

    #[test]
    fn logins_that_pass_cost_an_address_nothing() {
        let now = Instant::now();
        let mut gate = Gate::default();
        for _ in 0..1000 {
            let (place, _) = entered(gate.arrive(address(1), now));
            gate.pass(place);
        }
        assert!(gate.is_empty() && gate.failures.is_empty());
    }

    #[test]
    fn an_ipv6_machine_with_many_addresses_is_one_source() {
        let a: IpAddr = "2001:db8:1:2:3::9".parse().unwrap();
        let b: IpAddr = "2001:db8:1:2::1".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(source(a), source(b));
        assert_eq!(source(mapped), IpAddr::from([10, 0, 0, 1]));
    }

    proptest! {
        #[test]
        fn books_agree_and_bounds_hold(acts in prop::collection::vec((0u8..4, 0u8..6, 0u64..40), 1..300)) {
            let mut gate = Gate::new(12, 5);
            let mut now = Instant::now();
            let mut live: Vec<(Place, IpAddr)> = Vec::new();
            for (act, who, pick) in acts {
                now += Duration::from_millis(u64::from(act) * 100);
                let pick = usize::try_from(pick).unwrap() % live.len().max(1);
                match act {
                    0 if !live.is_empty() => gate.pass(live.remove(pick).0),
                    1 if !live.is_empty() => {
                        let (place, from) = live.remove(pick);
                        gate.fail(place, from, now);
                    }
                    _ => if let Verdict::Enter { place, evict } = gate.arrive(address(who), now) {
                        live.retain(|(p, _)| Some(*p) != evict);
                        live.push((place, address(who)));
                    },
                }
                prop_assert_eq!(gate.len(), live.len());
                prop_assert!(gate.len() <= 12);
                for n in 0..6 {
                    let own = live.iter().filter(|(_, a)| *a == address(n)).count();
                    prop_assert!(own <= 5);
                    prop_assert_eq!(own, gate.sources.get(&address(n)).map_or(0, VecDeque::len));
                }
                prop_assert_eq!(gate.order.len(), gate.sources.len());
            }
        }
    }
}
