//! What all layers of a store share, and the work that concerns more than one of them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};

use super::driver::Signal;
use super::entry::{Entry, Redo, Row};
use super::journal::Journal;
use super::map::{BlockMap, BlockState};
use super::soft::Soft;
use super::space::{LayerLimits, Limits, Room};
use super::state::{Layer, State, data_path};
use super::{Options, checkpoint, lock, read, write};
use crate::limits;
use crate::store::disk::Disk;
use crate::store::{Durability, LayerId, Result};

/// Shared by the store and every open volume.
#[derive(Debug)]
pub(in crate::store) struct Core {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) options: Options,
    pub(super) journal: Journal,
    pub(super) soft: Mutex<Soft>,
    pub(super) layers: RwLock<HashMap<LayerId, Arc<Layer>>>,
    pub(super) generation_next: AtomicU64,
    /// Epoch of the newest checkpoint; held while one is made.
    pub(super) checkpointed: Mutex<u32>,
    pub(super) signal: Arc<Signal>,
    pub(super) due: AtomicBool,
    /// Files that no generation in use names.
    pub(super) trash: Mutex<Vec<String>>,
    /// Held while they are removed.
    pub(super) emptying: Mutex<()>,
    /// Layers with an open data file, the longest open first.
    pub(super) open_files: Mutex<VecDeque<Weak<Layer>>>,
    /// Shared by atomic writes from their redo record to its end. Who begins a new soft log or a checkpoint
    /// holds it alone: neither may begin between a redo record and the write that it stands for.
    pub(super) atomics: RwLock<()>,
    pub(super) limits: RwLock<Limits>,
    pub(super) room: Room,
}

impl Core {
    /// A generation number that was never used.
    pub(super) fn generation(&self) -> u64 {
        self.generation_next.fetch_add(1, Ordering::Relaxed)
    }

    /// The layer if it is known.
    pub(super) fn known(&self, id: LayerId) -> Option<Arc<Layer>> {
        read(&self.layers).get(&id).cloned()
    }

    /// The layer, made in memory if it is not known.
    pub(super) fn layer(&self, id: LayerId) -> Arc<Layer> {
        if let Some(layer) = self.known(id) {
            return layer;
        }
        let fresh = || Arc::new(Layer::new(id, State::default()));
        Arc::clone(write(&self.layers).entry(id).or_insert_with(fresh))
    }

    /// What a layer may hold.
    pub(in crate::store) fn limits_of(&self, id: LayerId) -> LayerLimits {
        read(&self.limits).of(id)
    }

    pub(super) fn all(&self) -> Vec<Arc<Layer>> {
        read(&self.layers).values().cloned().collect()
    }

    /// Asks for upkeep soon.
    pub(super) fn nudge(&self) {
        self.due.store(true, Ordering::Relaxed);
        self.signal.ring();
    }

    /// Called at the end of an operation, with no lock held: does the upkeep here if nobody else does.
    pub(in crate::store) fn after_operation(&self) {
        if !self.options.background && self.due.load(Ordering::Relaxed) {
            self.maintain();
        }
    }

    /// Upkeep: entries nobody waits for, checkpoint, soft log, old files. What fails is tried again later.
    pub(super) fn maintain(&self) {
        self.due.store(false, Ordering::Relaxed);
        if self.journal.is_lazy()
            && let Err(e) = self.journal.commit(Vec::new(), false, None)
        {
            tracing::warn!("layers: births of volatile layers are not in the journal yet: {e}");
        }
        if self.journal.bytes() > self.options.journal_bytes
            && let Err(e) = checkpoint::write(self)
        {
            tracing::warn!("layers: no checkpoint, the journal goes on growing: {e}");
        }
        if lock(&self.soft).is_due(self.options.soft_bytes)
            && let Err(e) = self.rewrite_soft()
        {
            tracing::warn!("layers: the soft log goes on growing: {e}");
        }
        self.close_surplus();
        self.empty_trash();
    }

    /// Removes the files of generations that are over. When it returns, what was thrown away before the call takes
    /// no space, whoever removed it.
    pub(super) fn empty_trash(&self) {
        let _one = lock(&self.emptying);
        let trash = std::mem::take(&mut *lock(&self.trash));
        let freed = !trash.is_empty();
        for path in trash {
            if let Err(e) = self.disk.remove(&path) {
                tracing::warn!("layers: {path} stays until the next start: {e}");
            }
        }
        if freed {
            self.room.ask_anew();
        }
    }

    /// Begins a new soft log with what memory knows beyond the journal.
    pub(super) fn rewrite_soft(&self) -> Result<()> {
        let _no_atomics = write(&self.atomics);
        let mut soft = lock(&self.soft);
        let snapshot: Vec<Vec<Entry>> = self
            .all()
            .iter()
            .filter_map(|layer| soft_rows(layer))
            .collect();
        soft.rewrite(&snapshot, self.generation_next.load(Ordering::Relaxed))
    }

    /// What the journal says of all layers. The caller keeps commits out.
    pub(super) fn durable_rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for layer in self.all() {
            let mut state = layer.state_mut();
            if state.generation == 0 || state.removed {
                continue;
            }
            state.journal_knows |= state.is_durable();
            let facts = layer.facts(&state);
            let mut row = Row::new(facts, state.durable_map());
            if state.is_durable() {
                row.redos = state.redos.iter().map(|open| open.redo.clone()).collect();
            }
            rows.push(row);
        }
        rows
    }

    /// Ends the present generation of a layer: in memory and in the soft log at once, in the journal before
    /// it returns, on the file system later. With `forget` nothing of the layer stays.
    pub(super) fn retire(&self, layer: &Arc<Layer>, forget: bool) -> Result<()> {
        let mut handle = lock(&layer.handle);
        let _changes = layer.ranges.lock_all();
        let _flush = lock(&layer.flush);
        *handle = Weak::new();
        let Some((entry, commit)) = self.begin_generation(layer, forget)? else {
            if forget {
                write(&self.layers).remove(&layer.id);
            }
            return Ok(());
        };
        if commit {
            self.journal.commit(vec![entry], false, None).map_err(|e| {
                layer.poison_for_good(self, &format!("its reset may not be durable: {e}"));
                e.within(format!("reset of layer {}", layer.id))
            })?;
        } else {
            self.journal.lazily(entry);
        }
        let old_files = {
            let mut state = layer.state_mut();
            state.journal_knows = false;
            std::mem::take(&mut state.old_files)
        };
        lock(&self.trash).extend(old_files);
        if forget {
            write(&self.layers).remove(&layer.id);
        }
        self.nudge();
        Ok(())
    }

    // The change in memory and in the soft log; says what the journal must learn, and whether to wait for it.
    fn begin_generation(&self, layer: &Layer, forget: bool) -> Result<Option<(Entry, bool)>> {
        let mut soft = lock(&self.soft);
        let known = layer.state().generation != 0;
        let generation = if known { self.generation() } else { 0 };
        let id = layer.id;
        let entry = if forget {
            Entry::Remove {
                layer: id,
                generation,
            }
        } else {
            Entry::Reset {
                layer: id,
                generation,
            }
        };
        if known {
            soft.append(std::slice::from_ref(&entry))?;
        }
        let mut state = layer.state_mut();
        let old = std::mem::take(&mut *state);
        let volatile = old
            .birth
            .is_some_and(|birth| birth.durability == Durability::Volatile);
        state.generation = generation;
        state.session = old.session + 1;
        state.journal_knows = old.journal_knows;
        state.removed = forget;
        state.old_files = old.old_files;
        if old.file_exists {
            state.old_files.push(data_path(id, old.generation));
        }
        Ok(known.then_some((entry, old.journal_knows && !volatile)))
    }

    /// Notes an opened data file, and closes idle ones beyond the limit.
    pub(super) fn opened(&self, layer: &Arc<Layer>) {
        let mut open = lock(&self.open_files);
        open.push_back(Arc::downgrade(layer));
        let mut looks = limits::LAYER_FILES_LOOKED;
        while open.len() > self.options.files_open && looks > 0 {
            looks -= 1;
            let Some(oldest) = open.pop_front() else {
                break;
            };
            let Some(oldest) = oldest.upgrade() else {
                continue;
            };
            if Arc::ptr_eq(&oldest, layer) || !oldest.close_if_idle() {
                open.push_back(Arc::downgrade(&oldest));
            }
        }
        if open.len() > self.options.files_open {
            // All that were looked at are in use or hold unsynced bytes: the upkeep sees to it.
            self.nudge();
        }
    }

    // Files open beyond the limit: unsynced bytes are made durable first, then they are closed too.
    fn close_surplus(&self) {
        for _ in 0..limits::LAYER_FILES_LOOKED {
            let oldest = {
                let mut open = lock(&self.open_files);
                if open.len() <= self.options.files_open {
                    return;
                }
                open.pop_front().and_then(|layer| layer.upgrade())
            };
            if let Some(oldest) = oldest {
                // One that cannot be synced stays open: the kernel tells of a failed write-back once only.
                let synced = oldest.flush(self, None).is_ok();
                if !(synced && oldest.close_if_clean()) {
                    lock(&self.open_files).push_back(Arc::downgrade(&oldest));
                }
            }
        }
    }

    /// Closes data files that nobody used since the last call. Unsynced bytes of idle durable layers are made
    /// durable first.
    pub(super) fn close_idle(&self) {
        let all = std::mem::take(&mut *lock(&self.open_files));
        let mut keep: VecDeque<Weak<Layer>> = VecDeque::with_capacity(all.len());
        for layer in all {
            let Some(known) = layer.upgrade() else {
                continue;
            };
            let closed = if known.is_idle() {
                known.flush(self, None).is_ok() && known.close_if_clean()
            } else {
                known.close_if_idle()
            };
            if !closed {
                keep.push_back(layer);
            }
        }
        let mut open = lock(&self.open_files);
        keep.append(&mut open);
        *open = keep;
    }

    /// Data files that are open now.
    pub(super) fn files_open(&self) -> usize {
        let open = lock(&self.open_files);
        let held = |layer: &&Weak<Layer>| {
            layer
                .upgrade()
                .is_some_and(|layer| layer.state().file.is_some())
        };
        open.iter().filter(held).count()
    }
}

// What a new soft log must say of a layer: all of a volatile one, what is not durable of a durable one.
fn soft_rows(layer: &Layer) -> Option<Vec<Entry>> {
    let state = layer.state();
    if state.generation == 0 || state.removed {
        return None;
    }
    let (id, generation) = (layer.id, state.generation);
    let mut rows = vec![Entry::Layer(layer.facts(&state))];
    if state.is_durable() {
        let mut undo = state.pending.clone();
        undo.absorb(state.flushing.clone());
        if undo.is_empty() && state.birth_durable && state.damaged.is_none() && !state.sync_failed {
            return None;
        }
        let changes = undo
            .changes(&state.map)
            .into_iter()
            .map(|(to, span)| Entry::Blocks {
                layer: id,
                generation,
                state: to,
                span,
            });
        rows.extend(changes);
    } else {
        rows.extend(map_entries(id, generation, state.map.clone()));
        let redos = state.redos.iter().map(|open| open.redo.clone());
        rows.extend(redo_entries(id, generation, redos));
    }
    if state.sync_failed {
        rows.push(Entry::Poisoned {
            layer: id,
            generation,
        });
    }
    Some(rows)
}

/// The entries that say which atomic writes may be half done.
pub(super) fn redo_entries(
    layer: LayerId,
    generation: u64,
    redos: impl IntoIterator<Item = Redo>,
) -> impl Iterator<Item = Entry> {
    redos.into_iter().map(move |redo| Entry::Redo {
        layer,
        generation,
        redo,
    })
}

/// The entries that say a whole map.
pub(super) fn map_entries(layer: LayerId, generation: u64, mut map: BlockMap) -> Vec<Entry> {
    map.optimize();
    let sets = [
        (BlockState::Present, map.present),
        (BlockState::Zero, map.zero),
    ];
    let filled = sets.into_iter().filter(|(_, set)| !set.is_empty());
    let entry = |(state, set)| Entry::Map {
        layer,
        generation,
        state,
        set,
    };
    filled.map(entry).collect()
}
