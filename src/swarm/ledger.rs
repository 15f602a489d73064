//! What one node wrote, and in which order as far as the node can know: which states of a sector a read may see.
//! Pure.
//!
//! A write that has not ended may be seen or not. One that ended before a read began must be seen, unless a
//! later one replaced it. So reads that race with writes are checked as strictly as all others, against the
//! states the disk may have had.

/// What a change leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The node's own data.
    Data,
    /// Zeros.
    Zeros,
    /// Zeros or what was there before: an unmapped block may stay.
    Discard,
}

/// What a sector may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// What the image holds.
    Golden,
    /// The node's data of this generation.
    Own(u32),
    /// Zeros, by this generation.
    Zeros(u32),
}

/// A change is under way.
const OPEN: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Write {
    /// Bytes on the disk.
    start: u64,
    end: u64,
    generation: u32,
    change: Change,
    begun: u32,
    ended: u32,
}

/// The changes of one node. Its memory: 32 bytes for each.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    writes: Vec<Write>,
    clock: u32,
}

impl Ledger {
    /// The present: what a read notes when it begins.
    pub(super) const fn now(&self) -> u32 {
        self.clock
    }

    /// A change goes out. Sent again, it is the same change.
    pub(super) fn begin(&mut self, generation: u32, change: Change, start: u64, end: u64) {
        if self.writes.iter().any(|w| w.generation == generation) {
            return;
        }
        self.clock += 1;
        self.writes.push(Write {
            start,
            end,
            generation,
            change,
            begun: self.clock,
            ended: OPEN,
        });
    }

    /// The target said that it is done.
    pub(super) fn end(&mut self, generation: u32) {
        self.clock += 1;
        let clock = self.clock;
        let found = self.writes.iter_mut().find(|w| w.generation == generation);
        if let Some(write) = found.filter(|w| w.ended == OPEN) {
            write.ended = clock;
        }
    }

    /// True when any change touches these bytes.
    pub(super) fn touches(&self, start: u64, end: u64) -> bool {
        self.writes.iter().any(|w| w.start < end && start < w.end)
    }

    /// True when a discard touches these bytes.
    pub(super) fn discards(&self, start: u64, end: u64) -> bool {
        let mut all = self.writes.iter();
        all.any(|w| w.change == Change::Discard && w.start < end && start < w.end)
    }

    /// Generations of data that any write brings to this byte: those of every node that replays the same trace.
    pub(super) fn generations(&self, byte: u64) -> impl Iterator<Item = u32> {
        let covers = move |w: &&Write| w.start <= byte && byte < w.end;
        let data = |w: &&Write| w.change == Change::Data;
        self.writes
            .iter()
            .filter(covers)
            .filter(data)
            .map(|w| w.generation)
    }

    /// Every state in which a read that began at `since` may see this byte, the likeliest (latest) last.
    pub(super) fn states(&self, byte: u64, since: u32) -> impl Iterator<Item = State> {
        let covers = move |w: &&Write| w.start <= byte && byte < w.end;
        // Replaced for certain: something that ended before the read began, and began after `ended`.
        let replaced = move |ended: u32| {
            let mut over = self.writes.iter().filter(covers);
            over.any(|w| w.change != Change::Discard && w.begun > ended && w.ended <= since)
        };
        let golden = (!replaced(0)).then_some(State::Golden);
        let own = self
            .writes
            .iter()
            .filter(covers)
            .filter(move |w| !replaced(w.ended));
        golden.into_iter().chain(own.map(|w| match w.change {
            Change::Data => State::Own(w.generation),
            Change::Zeros | Change::Discard => State::Zeros(w.generation),
        }))
    }

    /// Bytes that hold the node's data or its zeros for certain, in pieces of at most `piece` bytes: what a
    /// node reads back at its end.
    pub(super) fn certain(&self, piece: u64) -> Vec<(u64, u64)> {
        let whole = |w: &&Write| w.change != Change::Discard && w.ended != OPEN;
        let ranges = self.writes.iter().filter(whole);
        let ranges = super::golden::merged(ranges.map(|w| (w.start, w.end - w.start)));
        let mut out = Vec::new();
        for (start, end) in ranges {
            let mut at = start;
            while at < end {
                let next = end.min(at + piece);
                out.push((at, next));
                at = next;
            }
        }
        out
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn states(ledger: &Ledger, byte: u64, since: u32) -> Vec<State> {
        ledger.states(byte, since).collect()
    }

    #[test]
    fn what_ended_before_the_read_must_be_seen() {
        let mut ledger = Ledger::default();
        let before = ledger.now();
        ledger.begin(1, Change::Data, 0, 512);
        assert_eq!(
            states(&ledger, 0, ledger.now()),
            [State::Golden, State::Own(1)]
        );
        ledger.end(1);
        assert_eq!(states(&ledger, 0, ledger.now()), [State::Own(1)]);
        assert_eq!(states(&ledger, 0, before), [State::Golden, State::Own(1)]);
        assert_eq!(states(&ledger, 512, ledger.now()), [State::Golden]);
    }

    #[test]
    fn writes_that_race_with_each_other_may_win_either_way() {
        let mut ledger = Ledger::default();
        ledger.begin(1, Change::Data, 0, 512);
        ledger.begin(2, Change::Data, 0, 512);
        ledger.end(1);
        ledger.end(2);
        let now = ledger.now();
        assert_eq!(states(&ledger, 0, now), [State::Own(1), State::Own(2)]);
        ledger.begin(3, Change::Zeros, 0, 512);
        ledger.end(3);
        assert_eq!(states(&ledger, 0, ledger.now()), [State::Zeros(3)]);
    }

    #[test]
    fn a_discard_may_leave_what_was_there() {
        let mut ledger = Ledger::default();
        ledger.begin(1, Change::Data, 0, 512);
        ledger.end(1);
        ledger.begin(2, Change::Discard, 0, 1024);
        ledger.end(2);
        let now = ledger.now();
        assert_eq!(states(&ledger, 0, now), [State::Own(1), State::Zeros(2)]);
        assert_eq!(states(&ledger, 600, now), [State::Golden, State::Zeros(2)]);
        assert_eq!(ledger.certain(4096), [(0, 512)]);
    }

    proptest! {
        /// A disk of one sector on which writes take effect at any moment between begin and end.
        #[test]
        fn whatever_a_real_disk_shows_is_among_the_states(steps in prop::collection::vec((0u8..4, 0usize..4), 1..60)) {
            let mut ledger = Ledger::default();
            let (mut disk, mut next) = (State::Golden, 0);
            let mut open: Vec<(u32, bool)> = Vec::new();
            let mut since = Vec::new();
            for (what, which) in steps {
                match what {
                    0 => {
                        next += 1;
                        ledger.begin(next, Change::Data, 0, 512);
                        open.push((next, false));
                    }
                    1 => if let Some(one) = open.get_mut(which).filter(|o| !o.1) {
                        disk = State::Own(one.0);
                        one.1 = true;
                    }
                    2 => if open.get(which).is_some_and(|o| o.1) {
                        ledger.end(open.remove(which).0);
                    }
                    _ => since.push(ledger.now()),
                }
                // Reads that began at any earlier moment, and one that begins now, may see the disk as it is.
                let now = ledger.now();
                for moment in since.iter().copied().chain([now]) {
                    prop_assert!(states(&ledger, 0, moment).contains(&disk));
                }
            }
        }
    }
}
