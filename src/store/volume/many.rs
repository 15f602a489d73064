//! Many writes in one go: one lock, one look at the state, one claim of space, one record in the soft log and one
//! change of the map for all of them.
//!
//! Each write ends as if it were alone, in the order given. Writes that share a block go in rounds, one after the
//! other; what a round cannot do as one (there is not space for all of it, say) is done write by write.

use super::{Ends, Volume};
use crate::store::layer::map::{BlockState, Span};
use crate::store::{Error, Result};
use crate::units::ByteRange;

/// A write that has something to write, on the disk.
#[derive(Clone, Copy, Debug)]
struct One<'a> {
    /// Its place among all writes.
    index: usize,
    range: ByteRange,
    data: &'a [u8],
}

/// What a write of a round needs.
#[derive(Clone, Copy, Debug)]
struct Step {
    ends: Ends,
    /// How many of the round's fresh runs are its own.
    fresh: usize,
}

impl Volume {
    /// Writes `(offset, data)` one after the other; may block. For each of them: when this returns its data survives
    /// the death of this process, or its error says why not, as with [`Volume::write`].
    pub fn write_many(&self, writes: &[(u64, &[u8])]) -> Vec<Result<()>> {
        let mut done: Vec<Result<()>> = Vec::with_capacity(writes.len());
        let mut todo = Vec::with_capacity(writes.len());
        for (index, (offset, data)) in writes.iter().enumerate() {
            let range = self.range(*offset, data.len());
            if let Ok(range) = range
                && !range.is_empty()
            {
                todo.push(One { index, range, data });
            }
            done.push(range.map(|_| ()));
        }
        if todo.is_empty() {
            return done;
        }
        {
            let runs = todo.iter().map(|one| one.range.blocks());
            let _held = self.layer.ranges.lock_many(runs);
            let mut rest = &todo[..];
            while !rest.is_empty() {
                let (round, later) = rest.split_at(apart(rest));
                self.write_round(round, &mut done);
                rest = later;
            }
        }
        self.core.after_operation();
        done
    }

    // Writes that share no block. The caller holds their blocks' lock.
    fn write_round(&self, round: &[One<'_>], done: &mut [Result<()>]) {
        if round.len() > 1 && self.write_together(round, done).is_ok() {
            return;
        }
        for one in round {
            done[one.index] = self.write_held(one.range, one.data);
        }
    }

    // An error: nothing was written, and each may be tried alone. From the first byte on each has its own answer.
    fn write_together(&self, round: &[One<'_>], done: &mut [Result<()>]) -> Result<()> {
        self.layer
            .begin_change(&self.core, self.session, self.birth)?;
        let mut fresh: Vec<Span> = Vec::new();
        let steps = self.plan_round(round, &mut fresh)?;
        let claim = self.layer.claim(&self.core, &fresh)?;
        let file = self.file_for_write()?;
        let runs = round.iter().map(|one| one.range.blocks());
        self.layer.before_changes(runs);
        let mut failed = false;
        for (one, step) in round.iter().zip(&steps) {
            done[one.index] = self.put(&*file, one.range, one.data, step.ends);
            failed |= done[one.index].is_err();
        }
        if failed {
            fresh = of_those_done(round, &steps, fresh, done);
        }
        let told = self
            .layer
            .publish(&self.core, BlockState::Present, &fresh, Some(claim));
        if let Err(e) = told.map_err(|e| self.full(e)) {
            // What went over blocks that the layer holds needs no record.
            self.layer.mark_dirty();
            for (one, step) in round.iter().zip(&steps) {
                if step.fresh > 0 && done[one.index].is_ok() {
                    done[one.index] = Err(Error::new(e.kind(), e.to_string()));
                }
            }
        }
        Ok(())
    }

    fn plan_round(&self, round: &[One<'_>], fresh: &mut Vec<Span>) -> Result<Vec<Step>> {
        let state = self.state()?;
        let mut steps = Vec::with_capacity(round.len());
        for one in round {
            let before = fresh.len();
            let ends = self.plan_write(&state, one.range, fresh)?;
            let fresh = fresh.len() - before;
            steps.push(Step { ends, fresh });
        }
        Ok(steps)
    }
}

// How many from the first on share no block with one before; at least one.
fn apart(writes: &[One<'_>]) -> usize {
    let shares = |at: usize| {
        let blocks = writes[at].range.blocks();
        let mut earlier = writes[..at].iter().map(|one| one.range.blocks());
        earlier.any(|other| other.start < blocks.end && blocks.start < other.end)
    };
    (1..writes.len())
        .find(|at| shares(*at))
        .unwrap_or(writes.len())
}

// The fresh runs of the writes that did not fail.
fn of_those_done(
    round: &[One<'_>],
    steps: &[Step],
    fresh: Vec<Span>,
    done: &[Result<()>],
) -> Vec<Span> {
    let mut runs = fresh.into_iter();
    let mut kept = Vec::new();
    for (one, step) in round.iter().zip(steps) {
        let mine = runs.by_ref().take(step.fresh);
        if done[one.index].is_ok() {
            kept.extend(mine);
        } else {
            mine.for_each(drop);
        }
    }
    kept
}
