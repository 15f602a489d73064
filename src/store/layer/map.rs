//! Which 4 KiB blocks of a layer are present, zero or base; and what of that is not durable yet.

use std::ops::{Range, RangeInclusive};

use roaring::RoaringBitmap;

/// Consecutive block numbers, both ends included (so that the last block of 16 TiB fits).
pub(in crate::store) type Span = RangeInclusive<u32>;

/// Where a block's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum BlockState {
    /// In the image.
    Base,
    /// In the layer's data file.
    Present,
    /// Nowhere: it reads zeros and never falls through to the image.
    Zero,
}

/// The span of a run of blocks; `None` when it is empty or past block 2^32.
pub(in crate::store) fn span(blocks: &Range<u64>) -> Option<Span> {
    let last = blocks.end.checked_sub(1)?;
    if blocks.start > last {
        return None;
    }
    Some(u32::try_from(blocks.start).ok()?..=u32::try_from(last).ok()?)
}

/// Blocks in a span.
pub(in crate::store) fn span_len(span: &Span) -> u64 {
    u64::from(*span.end()) - u64::from(*span.start()) + 1
}

/// The state of every block. A block in neither set is base; none is in both.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::store) struct BlockMap {
    pub(super) present: RoaringBitmap,
    pub(super) zero: RoaringBitmap,
}

impl BlockMap {
    /// Blocks that are the layer's own.
    pub(in crate::store) fn own_blocks(&self) -> u64 {
        self.present.len()
    }

    /// The state of one block.
    pub(in crate::store) fn state(&self, block: u32) -> BlockState {
        if self.present.contains(block) {
            BlockState::Present
        } else if self.zero.contains(block) {
            BlockState::Zero
        } else {
            BlockState::Base
        }
    }

    /// Gives every block of `span` a state. Never called with `Base` outside recovery tests: a block
    /// that left the image stays out until the next generation.
    pub(in crate::store) fn set(&mut self, span: Span, state: BlockState) {
        match state {
            // Nearly every write of a small system is this one, and many are of one block.
            BlockState::Present if self.zero.is_empty() && span.start() == span.end() => {
                self.present.insert(*span.start());
            }
            BlockState::Present => {
                self.zero.remove_range(span.clone());
                self.present.insert_range(span);
            }
            BlockState::Zero => {
                self.present.remove_range(span.clone());
                self.zero.insert_range(span);
            }
            BlockState::Base => {
                self.present.remove_range(span.clone());
                self.zero.remove_range(span);
            }
        }
    }

    /// Gives every block of a set a state.
    pub(super) fn add(&mut self, set: RoaringBitmap, state: BlockState) {
        if state == BlockState::Zero {
            self.present -= &set;
            self.zero |= set;
        } else {
            self.zero -= &set;
            self.present |= set;
        }
    }

    /// The state at `at` and the last block up to `end` that shares it.
    pub(in crate::store) fn run_at(&self, at: u32, end: u32) -> (BlockState, u32) {
        let present = self.present.range(at..=end).next_range();
        if let Some(run) = &present
            && *run.start() == at
        {
            return (BlockState::Present, (*run.end()).min(end));
        }
        let zero = self.zero.range(at..=end).next_range();
        if let Some(run) = &zero
            && *run.start() == at
        {
            return (BlockState::Zero, (*run.end()).min(end));
        }
        let next = [present, zero]
            .into_iter()
            .flatten()
            .map(|run| *run.start())
            .min();
        // The run that starts behind `at` ends the base run one block earlier.
        let last = next.map_or(end, |start| start.saturating_sub(1).min(end));
        (BlockState::Base, last)
    }

    /// The runs of equal state in `span`, in order. Neighbours may share a state.
    pub(in crate::store) fn runs(
        &self,
        span: &Span,
    ) -> impl Iterator<Item = (BlockState, Span)> + '_ {
        let (mut at, end) = (u64::from(*span.start()), *span.end());
        std::iter::from_fn(move || {
            let start = u32::try_from(at).ok().filter(|start| *start <= end)?;
            let (state, last) = self.run_at(start, end);
            at = u64::from(last) + 1;
            Some((state, start..=last))
        })
    }

    /// True when every block of `span` is base: the fast path of reads.
    pub(in crate::store) fn is_base(&self, span: &Span) -> bool {
        if self.present.is_empty() && self.zero.is_empty() {
            return true;
        }
        self.run_at(*span.start(), *span.end()) == (BlockState::Base, *span.end())
    }

    /// Compresses runs, before a snapshot is taken or after one is read.
    pub(super) fn optimize(&mut self) {
        self.present.optimize();
        self.zero.optimize();
    }
}

/// The durable state of every block whose current state is not durable yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::store) struct Undo {
    base: RoaringBitmap,
    present: RoaringBitmap,
    zero: RoaringBitmap,
}

impl Undo {
    /// What must be undone in `current` to get `durable`.
    pub(super) fn between(durable: &BlockMap, current: &BlockMap) -> Self {
        let differ = (&durable.present ^ &current.present) | (&durable.zero ^ &current.zero);
        let present = &differ & &durable.present;
        let zero = &differ & &durable.zero;
        Self {
            base: differ - &present - &zero,
            present,
            zero,
        }
    }

    /// Remembers the states in `span` before they change, where no older one is remembered.
    pub(super) fn note(&mut self, span: &Span, before: &BlockMap) {
        if span.start() == span.end() {
            return self.note_one(*span.start(), before);
        }
        for (state, run) in before.runs(span) {
            let mut fresh = RoaringBitmap::new();
            fresh.insert_range(run.clone());
            for known in [&self.base, &self.present, &self.zero] {
                if known.range_cardinality(run.clone()) > 0 {
                    fresh -= known;
                }
            }
            match state {
                BlockState::Base => self.base |= fresh,
                BlockState::Present => self.present |= fresh,
                BlockState::Zero => self.zero |= fresh,
            }
        }
    }

    fn note_one(&mut self, block: u32, before: &BlockMap) {
        let known = [&self.base, &self.present, &self.zero];
        if known.iter().any(|set| set.contains(block)) {
            return;
        }
        match before.state(block) {
            BlockState::Base => self.base.insert(block),
            BlockState::Present => self.present.insert(block),
            BlockState::Zero => self.zero.insert(block),
        };
    }

    /// True when the block is not durably present, whatever it is now.
    pub(super) fn lacks(&self, block: u32) -> bool {
        self.base.contains(block) || self.zero.contains(block)
    }

    /// Puts back what was taken for a flush that failed: the older memory wins.
    pub(super) fn absorb(&mut self, older: Self) {
        let known = older.all();
        for set in [&mut self.base, &mut self.present, &mut self.zero] {
            *set -= &known;
        }
        self.base |= older.base;
        self.present |= older.present;
        self.zero |= older.zero;
    }

    /// Turns `map` back.
    pub(super) fn undo(&self, map: &mut BlockMap) {
        map.present -= &self.base;
        map.present -= &self.zero;
        map.zero -= &self.base;
        map.zero -= &self.present;
        map.present |= &self.present;
        map.zero |= &self.zero;
    }

    /// The current states of all remembered blocks, as runs.
    pub(super) fn changes(&self, current: &BlockMap) -> Vec<(BlockState, Span)> {
        let all = self.all();
        let mut out = Vec::new();
        for (state, set) in [
            (BlockState::Present, &all & &current.present),
            (BlockState::Zero, &all & &current.zero),
        ] {
            let mut runs = set.iter();
            while let Some(run) = runs.next_range() {
                out.push((state, run));
            }
        }
        out
    }

    /// True when everything is durable.
    pub(super) fn is_empty(&self) -> bool {
        self.base.is_empty() && self.present.is_empty() && self.zero.is_empty()
    }

    /// Number of blocks that wait.
    pub(super) fn len(&self) -> u64 {
        self.base.len() + self.present.len() + self.zero.len()
    }

    fn all(&self) -> RoaringBitmap {
        &self.base | &self.present | &self.zero
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    const BLOCKS: u32 = 96;

    fn state_of(n: u8) -> BlockState {
        match n % 3 {
            0 => BlockState::Base,
            1 => BlockState::Present,
            _ => BlockState::Zero,
        }
    }

    fn plain(map: &BlockMap) -> Vec<BlockState> {
        (0..BLOCKS).map(|b| map.state(b)).collect()
    }

    proptest! {
        #[test]
        fn runs_say_what_single_blocks_say(
            sets in prop::collection::vec((0..BLOCKS, 1..20u32, 0..3u8), 0..30),
            from in 0..BLOCKS, len in 1..40u32,
        ) {
            let mut map = BlockMap::default();
            let mut oracle = vec![BlockState::Base; BLOCKS as usize];
            for (at, n, state) in sets {
                let last = (at + n - 1).min(BLOCKS - 1);
                map.set(at..=last, state_of(state));
                for block in at..=last {
                    oracle[block as usize] = state_of(state);
                }
            }
            map.optimize();
            prop_assert_eq!(plain(&map), oracle);
            let span = from..=(from + len - 1).min(BLOCKS - 1);
            let mut at = *span.start();
            for (state, run) in map.runs(&span) {
                prop_assert_eq!(*run.start(), at);
                for block in run.clone() {
                    prop_assert_eq!(map.state(block), state);
                }
                at = *run.end() + 1;
            }
            prop_assert_eq!(at, *span.end() + 1);
            prop_assert_eq!(map.is_base(&span), span.clone().all(|b| map.state(b) == BlockState::Base));
        }

        #[test]
        fn undoing_gives_the_map_of_the_last_commit(
            steps in prop::collection::vec((0..BLOCKS, 1..20u32, 1..3u8, 0..8u8), 1..60),
        ) {
            let mut map = BlockMap::default();
            let (mut durable, mut pending) = (map.clone(), Undo::default());
            for (at, n, state, fate) in steps {
                let span = at..=(at + n - 1).min(BLOCKS - 1);
                pending.note(&span, &map);
                map.set(span.clone(), state_of(state));
                if fate == 0 {
                    // A commit whose records are exactly the changes.
                    for (state, run) in pending.changes(&map) {
                        durable.set(run, state);
                    }
                    pending = Undo::default();
                } else if fate == 1 {
                    // A commit that failed while another write came in.
                    let taken = std::mem::take(&mut pending);
                    pending.note(&span, &map);
                    map.set(span, BlockState::Zero);
                    pending.absorb(taken);
                }
                let mut back = map.clone();
                pending.undo(&mut back);
                prop_assert_eq!(plain(&back), plain(&durable));
                let mut again = map.clone();
                Undo::between(&durable, &map).undo(&mut again);
                prop_assert_eq!(plain(&again), plain(&durable));
            }
        }
    }

    #[test]
    fn the_last_block_of_the_largest_disk_is_a_block() {
        let mut map = BlockMap::default();
        let top = span(&((1 << 32) - 2..1 << 32)).unwrap();
        map.set(top.clone(), BlockState::Present);
        let runs: Vec<_> = map.runs(&(u32::MAX - 3..=u32::MAX)).collect();
        assert_eq!(runs.len(), 2);
        assert_eq!(runs[1], (BlockState::Present, top));
        assert!(span(&(5..5)).is_none());
        assert!(span(&(0..(1 << 32) + 1)).is_none());
    }
}
