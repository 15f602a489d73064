//! Atomic writes: a redo record before the write in place, its retirement after it, and what readers see
//! meanwhile. `docs/formats/layer.md` has the order and the reasons.
//!
//! The caller holds the lock of the blocks from the record to the retirement, so nothing later can lie in
//! those blocks while a record stands: to write the record's bytes again is always right.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, RwLockReadGuard};

use super::core::Core;
use super::entry::{Entry, Redo};
use super::state::{Layer, OpenRedo};
use super::{checkpoint, lock, read};
use crate::store::{ErrorKind, Result};

/// While it lives, a reader of the layer takes the lock of the blocks instead of reading beside the writer.
#[derive(Debug)]
pub(in crate::store) struct Hidden<'a>(&'a Layer);

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        self.0.atomics_ended.fetch_add(1, SeqCst);
    }
}

impl Core {
    /// Keeps checkpoints and new soft logs out: they must not fall between a record and its write.
    pub(in crate::store) fn hold_snapshots(&self) -> RwLockReadGuard<'_, ()> {
        read(&self.atomics)
    }

    /// Removes every log that may hold bytes of atomic writes: the journals behind two new checkpoints, and
    /// the old soft log.
    pub(in crate::store) fn forget_redos(&self) -> Result<()> {
        checkpoint::write(self)?;
        checkpoint::write(self)?;
        self.rewrite_soft()
    }
}

impl Layer {
    /// From here on no reader looks at the blocks of an atomic write without their lock.
    pub(in crate::store) fn hide_from_readers(&self) -> Hidden<'_> {
        self.atomics_begun.fetch_add(1, SeqCst);
        Hidden(self)
    }

    /// What a reader remembers before it reads; none while an atomic write runs.
    pub(in crate::store) fn quiet(&self) -> Option<u64> {
        // Begun first: a write that begins in between shows up at the second look.
        let begun = self.atomics_begun.load(SeqCst);
        (self.atomics_ended.load(SeqCst) == begun).then_some(begun)
    }

    /// True when no atomic write has begun since.
    pub(in crate::store) fn still_quiet(&self, since: u64) -> bool {
        self.atomics_begun.load(SeqCst) == since
    }

    /// Hands the record to where it survives what the layer must survive: a durable layer's to the medium,
    /// a volatile layer's to the kernel.
    pub(in crate::store) fn log_redo(&self, core: &Core, redo: &Redo) -> Result<()> {
        let (durable, generation, birth) = {
            let mut state = self.state_mut();
            let facts = (!state.birth_durable).then(|| self.facts(&state));
            let durable = state.is_durable();
            state.journal_knows |= durable;
            (durable, state.generation, facts)
        };
        let entry = Entry::Redo {
            layer: self.id,
            generation,
            redo: redo.clone(),
        };
        if durable {
            let birth = birth.map(Entry::Layer);
            let entries = birth.into_iter().chain([entry]).collect();
            let done = core.journal.commit(entries, false, None);
            if core.journal.bytes() > core.options.journal_bytes {
                core.nudge();
            }
            if let Err(e) = done {
                if e.kind() == ErrorKind::Poisoned {
                    self.poison_for_good(core, &format!("the record of an atomic write: {e}"));
                }
                return Err(e.within(format!("layer {}", self.id)));
            }
        } else {
            let mut soft = lock(&core.soft);
            soft.append(&[entry]).inspect_err(|_| core.nudge())?;
            if soft.is_due(core.options.soft_bytes) {
                core.nudge();
            }
        }
        self.state_mut().redos.push(OpenRedo {
            redo: redo.clone(),
            settled: false,
            retiring: false,
        });
        Ok(())
    }

    /// The data file holds the write whole, or again what was there before: retires the record. When that
    /// fails the layer takes no more writes, since a restart would write the record over them.
    pub(in crate::store) fn retire_redo(self: &Arc<Self>, core: &Core, offset: u64) -> Result<()> {
        let (durable, generation) = {
            let mut state = self.state_mut();
            state.dirty = true;
            let open = state
                .redos
                .iter_mut()
                .find(|open| open.redo.offset == offset);
            if let Some(open) = open {
                open.settled = true;
            }
            (state.is_durable(), state.generation)
        };
        let done = if durable {
            self.flush(core, None)
        } else {
            let retire = Entry::Retire {
                layer: self.id,
                generation,
                offset,
            };
            let done = lock(&core.soft).append(&[retire]);
            if done.is_ok() {
                self.state_mut()
                    .redos
                    .retain(|open| open.redo.offset != offset);
            }
            done
        };
        done.inspect_err(|e| self.poison(&format!("an atomic write could not be finished: {e}")))
    }

    /// No more writes until a restart, which finishes the atomic write, or a reset.
    pub(in crate::store) fn poison(&self, why: &str) {
        let mut state = self.state_mut();
        if state.poisoned.is_none() {
            state.poisoned = Some(why.to_owned());
        }
    }
}
