//! One layer in memory: its maps, its file, and the rules by which they change.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};

use super::core::Core;
use super::entry::{Birth, Entry, Facts, Redo};
use super::journal::Outcome;
use super::map::{BlockMap, BlockState, Span, Undo};
use super::range_lock::RangeLock;
use super::space::{Claim, News, Told};
use super::view::Kept;
use super::{DATA_DIR, lock, read, write};
use crate::store::disk::{File, OpenMode};
use crate::store::volume::Volume;
use crate::store::{Durability, Error, ErrorKind, LayerId, Result};
use crate::units::BLOCK_BYTES;

/// A layer and its locks. Order of taking: `handle`, `ranges`, the store's `atomics`, `flush`, `make`, the
/// soft log, `state`.
#[derive(Debug)]
pub(in crate::store) struct Layer {
    pub(in crate::store) id: LayerId,
    /// Held by every change, for the blocks it touches.
    pub(in crate::store) ranges: RangeLock,
    /// The open volume; held while one is opened, reset or fenced.
    pub(super) handle: Mutex<Weak<Volume>>,
    /// One flush at a time; who waited finds its work done.
    pub(super) flush: Mutex<()>,
    // One maker or opener of the data file at a time.
    make: Mutex<()>,
    state: RwLock<State>,
    // Used since the closer of idle files looked last.
    touched: AtomicBool,
    /// Atomic writes begun and ended: a reader that sees no difference saw none of them half done.
    pub(super) atomics_begun: AtomicU64,
    pub(super) atomics_ended: AtomicU64,
    /// What its owner should hear about its space.
    pub(super) news: News,
}

/// What is true of a layer now.
#[derive(Debug, Default)]
pub(in crate::store) struct State {
    /// 0: nothing was ever written.
    pub(in crate::store) generation: u64,
    pub(in crate::store) birth: Option<Birth>,
    /// Handles of another session are fenced.
    pub(in crate::store) session: u64,
    /// The host went down and took a volatile layer's content along.
    pub(in crate::store) lost: bool,
    pub(in crate::store) damaged: Option<String>,
    pub(in crate::store) poisoned: Option<String>,
    /// It is poisoned by a failed sync: the soft log says so.
    pub(super) sync_failed: bool,
    pub(in crate::store) map: BlockMap,
    /// The data file, if it is open.
    pub(in crate::store) file: Option<Arc<dyn File>>,
    /// Changes that no flush took yet, and those that one is writing.
    pub(super) pending: Undo,
    pub(super) flushing: Undo,
    /// The data file may hold bytes that are not durable.
    pub(super) dirty: bool,
    pub(super) file_exists: bool,
    pub(super) name_durable: bool,
    /// The flush in progress makes the file's name durable.
    pub(super) naming: bool,
    /// The journal knows this birth.
    pub(super) birth_durable: bool,
    /// The journal may hold something of this layer that a reset must overrule.
    pub(super) journal_knows: bool,
    pub(super) removed: bool,
    /// Files of earlier generations that go when the reset is durable.
    pub(super) old_files: Vec<String>,
    /// Atomic writes whose redo record is not retired.
    pub(super) redos: Vec<OpenRedo>,
    /// Blocks that writes under way will make present.
    pub(super) claimed: u64,
    /// What the owner was told of its space.
    pub(super) told: Told,
    /// Someone reads this generation as it was at an earlier moment.
    pub(super) frozen: Option<Arc<Kept>>,
}

/// An atomic write between its redo record and its retirement.
#[derive(Clone, Debug)]
pub(super) struct OpenRedo {
    pub(super) redo: Redo,
    /// The data file holds it whole (or holds again what was there): the next flush retires it.
    pub(super) settled: bool,
    /// The flush in progress retires it.
    pub(super) retiring: bool,
}

impl State {
    pub(super) fn is_durable(&self) -> bool {
        self.birth
            .is_some_and(|birth| birth.durability == Durability::Durable)
    }

    /// Refuses handles of an earlier session, and layers that must not be served.
    pub(in crate::store) fn check(&self, layer: LayerId, session: u64) -> Result<()> {
        if self.session != session {
            let why = format!(
                "layer {layer}: the handle was fenced by a reset or a new session; open it again"
            );
            return Err(Error::new(ErrorKind::Fenced, why));
        }
        self.check_damage(layer)
    }

    pub(super) fn check_damage(&self, layer: LayerId) -> Result<()> {
        match &self.damaged {
            Some(why) => Err(Error::new(
                ErrorKind::Corrupt,
                format!("layer {layer} is damaged: {why}; reset it or restore it from a copy"),
            )),
            None => Ok(()),
        }
    }

    pub(super) fn check_poison(&self, layer: LayerId) -> Result<()> {
        match &self.poisoned {
            Some(why) => Err(Error::new(
                ErrorKind::Poisoned,
                format!(
                    "layer {layer} takes no more writes: {why}; check the medium, then reset the layer, \
                     or restart this machine to go on with what the medium holds"
                ),
            )),
            None => Ok(()),
        }
    }

    /// True when the block is present and stays so over the loss of all that no flush has brought to the medium.
    pub(in crate::store) fn keeps(&self, block: u32) -> bool {
        let lost = self.is_durable() && (self.pending.lacks(block) || self.flushing.lacks(block));
        self.map.state(block) == BlockState::Present && !lost
    }

    /// The map that the journal tells.
    pub(super) fn durable_map(&self) -> BlockMap {
        let mut map = BlockMap::default();
        if self.is_durable() {
            map = self.map.clone();
            self.pending.undo(&mut map);
            self.flushing.undo(&mut map);
        }
        map
    }
}

/// Path of a data file.
pub(super) fn data_path(layer: LayerId, generation: u64) -> String {
    format!("{DATA_DIR}/{}.{generation}", layer.0)
}

impl Layer {
    pub(super) fn new(id: LayerId, state: State) -> Self {
        Self {
            id,
            ranges: RangeLock::default(),
            handle: Mutex::default(),
            flush: Mutex::default(),
            make: Mutex::default(),
            state: RwLock::new(state),
            touched: AtomicBool::new(false),
            atomics_begun: AtomicU64::new(0),
            atomics_ended: AtomicU64::new(0),
            news: News::default(),
        }
    }

    /// A look at the state; never held across I/O.
    pub(in crate::store) fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        read(&self.state)
    }

    pub(super) fn state_mut(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        write(&self.state)
    }

    pub(super) fn facts(&self, state: &State) -> Facts {
        Facts {
            layer: self.id,
            generation: state.generation,
            birth: state.birth,
            lost: state.lost,
            damaged: state.damaged.is_some(),
        }
    }

    /// Everything a change needs: a live handle, a healthy layer, a generation bound to its image.
    pub(in crate::store) fn begin_change(
        &self,
        core: &Core,
        session: u64,
        birth: Birth,
    ) -> Result<()> {
        {
            let state = self.state();
            state.check(self.id, session)?;
            state.check_poison(self.id)?;
            if state.birth.is_some() {
                return Ok(());
            }
        }
        let _one = lock(&self.make);
        if self.state().birth.is_some() {
            return Ok(());
        }
        let mut soft = lock(&core.soft);
        let generation = match self.state().generation {
            0 => core.generation(),
            reset => reset,
        };
        let facts = Facts {
            layer: self.id,
            generation,
            birth: Some(birth),
            lost: false,
            damaged: false,
        };
        soft.append(&[Entry::Layer(facts)])
            .inspect_err(|_| core.nudge())?;
        let mut state = self.state_mut();
        state.generation = generation;
        state.birth = Some(birth);
        state.lost = false;
        drop(state);
        if birth.durability == Durability::Volatile {
            // So that after a crash of the host its owner can be told what was lost.
            core.journal.lazily(Entry::Layer(facts));
            core.nudge();
        }
        Ok(())
    }

    /// The data file, opened or made if need be. May block.
    pub(in crate::store) fn file(self: &Arc<Self>, core: &Core) -> Result<Arc<dyn File>> {
        self.touched.store(true, Ordering::Relaxed);
        if let Some(file) = &self.state().file {
            return Ok(Arc::clone(file));
        }
        let _one = lock(&self.make);
        let (exists, generation, needed) = {
            let state = self.state();
            if let Some(file) = &state.file {
                return Ok(Arc::clone(file));
            }
            (state.file_exists, state.generation, needed_bytes(&state))
        };
        let path = data_path(self.id, generation);
        let file = if exists {
            self.open_existing(core, &path, needed)?
        } else {
            make(core, &path)?
        };
        file.advise_random();
        {
            let mut state = self.state_mut();
            if state.generation != generation {
                // A reader does not hold the blocks: the layer may have been reset meanwhile, and its successor
                // must not write into the old file.
                let why = format!("layer {} was reset while its file was opened", self.id);
                return Err(Error::new(ErrorKind::Fenced, why));
            }
            state.file = Some(Arc::clone(&file));
            state.file_exists = true;
        }
        core.opened(self);
        Ok(file)
    }

    fn open_existing(&self, core: &Core, path: &str, needed: u64) -> Result<Arc<dyn File>> {
        let file = core.disk.open(path, OpenMode::ReadWrite)?;
        let len = file.len()?;
        if len < needed {
            let why = format!("{path} has {len} bytes where blocks up to {needed} were written");
            self.state_mut().damaged = Some(why.clone());
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("layer {}: {why}", self.id),
            ));
        }
        Ok(file)
    }

    /// Makes changes known: to the kernel first, in one record, then to readers. The data is in the file already
    /// (`claim` is what a write of it took before), and the caller holds the blocks' lock. Nothing of it is known
    /// when it fails.
    pub(in crate::store) fn publish(
        &self,
        core: &Core,
        to: BlockState,
        spans: &[Span],
        claim: Option<Claim<'_>>,
    ) -> Result<()> {
        let wrote = claim.is_some();
        if spans.is_empty() {
            if wrote {
                self.mark_dirty();
            }
            return Ok(());
        }
        let mut soft = lock(&core.soft);
        let generation = self.state().generation;
        let entries: Vec<Entry> = spans
            .iter()
            .map(|span| self.blocks(generation, to, span))
            .collect();
        soft.append(&entries).inspect_err(|_| core.nudge())?;
        let due = soft.is_due(core.options.soft_bytes);
        let mut guard = self.state_mut();
        let state = &mut *guard;
        let durable = state.is_durable();
        for span in spans {
            if durable {
                state.pending.note(span, &state.map);
            }
            state.map.set(span.clone(), to);
        }
        state.dirty |= wrote;
        if let Some(claim) = claim {
            claim.settle(state);
        }
        self.watch(core, state);
        drop(guard);
        drop(soft);
        if due {
            core.nudge();
        }
        Ok(())
    }

    /// Bytes that are not durable were written into the data file: a flush that took the mark before they came
    /// may have passed them by.
    pub(in crate::store) fn mark_dirty(&self) {
        // Mostly set already: then readers are not held up.
        if !self.state().dirty {
            self.state_mut().dirty = true;
        }
    }

    fn blocks(&self, generation: u64, state: BlockState, span: &Span) -> Entry {
        Entry::Blocks {
            layer: self.id,
            generation,
            state,
            span: span.clone(),
        }
    }

    /// Makes everything durable that was acknowledged before the call: the data, then its presence.
    pub(in crate::store) fn flush(
        self: &Arc<Self>,
        core: &Core,
        session: Option<u64>,
    ) -> Result<()> {
        let _one = lock(&self.flush);
        let Some((dirty, entries, needs_name)) = self.take_for_flush(session)? else {
            return Ok(());
        };
        if dirty {
            self.sync_data(core)?;
        }
        if entries.is_empty() {
            return Ok(());
        }
        let done = core
            .journal
            .commit(entries, needs_name, Some(Arc::clone(self)));
        if core.journal.bytes() > core.options.journal_bytes {
            core.nudge();
        }
        done.map_err(|e| {
            if e.kind() == ErrorKind::Poisoned {
                self.poison_for_good(core, &e.to_string());
            }
            e.within(format!("flush of layer {}", self.id))
        })
    }

    /// A sync failed, so nobody knows what is on the medium, and the kernel may call clean what is not there: no
    /// more writes until a reset, or until the host's page cache is gone. The soft log keeps it over a restart
    /// of the process.
    pub(super) fn poison_for_good(&self, core: &Core, why: &str) {
        let mut soft = lock(&core.soft);
        let (layer, generation) = {
            let mut state = self.state_mut();
            if state.poisoned.is_none() {
                state.poisoned = Some(why.to_owned());
            }
            if std::mem::replace(&mut state.sync_failed, true) {
                return;
            }
            (self.id, state.generation)
        };
        if let Err(e) = soft.append_or_block(&[Entry::Poisoned { layer, generation }]) {
            tracing::error!("layer {layer}: its failed sync is not noted yet: {e}");
            core.nudge();
        }
    }

    fn sync_data(self: &Arc<Self>, core: &Core) -> Result<()> {
        let synced = self.file(core).and_then(|file| file.sync());
        synced.map_err(|e| {
            let why = format!("its data could not be made durable: {e}");
            {
                let mut state = self.state_mut();
                let taken = std::mem::take(&mut state.flushing);
                state.pending.absorb(taken);
            }
            self.poison_for_good(core, &why);
            Error::new(ErrorKind::Poisoned, format!("layer {}: {why}", self.id))
        })
    }

    fn take_for_flush(&self, session: Option<u64>) -> Result<Option<(bool, Vec<Entry>, bool)>> {
        let mut guard = self.state_mut();
        let state = &mut *guard;
        if let Some(session) = session {
            state.check(self.id, session)?;
        }
        if !state.is_durable() || state.removed {
            return Ok(None);
        }
        state.check_poison(self.id)?;
        let dirty = std::mem::take(&mut state.dirty) && state.file_exists;
        let mut entries = Vec::new();
        if !state.birth_durable {
            entries.push(Entry::Layer(self.facts(state)));
            state.journal_knows = true;
        }
        let changes = state.pending.changes(&state.map);
        state.flushing = std::mem::take(&mut state.pending);
        entries.extend(
            changes
                .iter()
                .map(|(to, span)| self.blocks(state.generation, *to, span)),
        );
        let generation = state.generation;
        for open in state.redos.iter_mut().filter(|open| open.settled) {
            open.retiring = true;
            entries.push(Entry::Retire {
                layer: self.id,
                generation,
                offset: open.redo.offset,
            });
        }
        state.naming = !entries.is_empty() && state.file_exists && !state.name_durable;
        Ok(Some((dirty, entries, state.naming)))
    }

    /// Told by the journal how the commit of the flush in progress ended.
    pub(super) fn settle(&self, outcome: &Outcome) {
        let mut guard = self.state_mut();
        let state = &mut *guard;
        if !matches!(outcome, Outcome::Done) {
            state
                .redos
                .iter_mut()
                .for_each(|open| open.retiring = false);
        }
        match outcome {
            Outcome::Done => {
                state.flushing = Undo::default();
                state.redos.retain(|open| !open.retiring);
                state.birth_durable = true;
                state.name_durable |= state.naming;
            }
            Outcome::Refused(..) => {
                let taken = std::mem::take(&mut state.flushing);
                state.pending.absorb(taken);
            }
            Outcome::Unknown(why) => {
                let taken = std::mem::take(&mut state.flushing);
                state.pending.absorb(taken);
                state.poisoned = Some(why.clone());
            }
        }
    }

    /// Closes the data file if nothing would be lost or forgotten by it.
    pub(super) fn close_if_idle(&self) -> bool {
        if self.touched.swap(false, Ordering::Relaxed) {
            return false;
        }
        let mut state = self.state_mut();
        // A failed write-back is told to those who had the file open: a dirty one stays open until synced.
        if state.is_durable() && state.dirty {
            return false;
        }
        state.file = None;
        true
    }

    /// The same for one that is in use, which opens it again: only what must not be forgotten keeps it open.
    pub(super) fn close_if_clean(&self) -> bool {
        self.touched.store(false, Ordering::Relaxed);
        self.close_if_idle()
    }

    /// Someone uses the open data file.
    pub(in crate::store) fn touch(&self) {
        // Mostly set already: then no other processor's copy of it is taken away.
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }

    /// True when it was not used since the last look of the closer.
    pub(super) fn is_idle(&self) -> bool {
        !self.touched.load(Ordering::Relaxed)
    }
}

fn make(core: &Core, path: &str) -> Result<Arc<dyn File>> {
    match core.disk.open(path, OpenMode::CreateNew) {
        Ok(file) => Ok(file),
        // Generations are never used twice, so a file of this name was never part of anything.
        Err(e) => match core.disk.open(path, OpenMode::ReadWrite) {
            Ok(file) => file.set_len(0).map(|()| file),
            Err(_) => Err(e),
        },
    }
}

// The least length of the data file.
pub(super) fn needed_bytes(state: &State) -> u64 {
    let blocks = state
        .map
        .present
        .max()
        .map_or(0, |last| u64::from(last) + 1);
    let size = state.birth.map_or(0, |birth| birth.size);
    (blocks * BLOCK_BYTES).min(size)
}
