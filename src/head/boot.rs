//! A node's disk: made ready at the beginning of a boot, opened at each login of that boot.
//!
//! ```text
//!   prepare_boot(boot)   ephemeral: layer reset ──► binding {image version now, boot}
//!                        persistent: layer holds data? keep it and its image : as above
//!                                    shows the very bytes of the version meant now? move (`rebase.rs`)
//!   attach(firmware)     boot under way and not yet used by an operating system? its binding : a new boot
//!   attach(os)           the binding there is; never a new disk under a running system
//! ```
//! Reset first, binding second: after a crash between them the layer is empty under its old image, which
//! is a disk; the other way round, old data would lie over a new image, which is none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{HeadError, HeadErrorKind, Result};
use super::{Attached, Head};
use crate::catalog::{Binding, LayerMode, Moving, NodeRecord, Snapshot, VersionRecord};
use crate::events::EventKind;
use crate::limits;
use crate::names::{BootId, LayerId, NodeName};
use crate::store::Durability;
use crate::store::volume::Base;
use crate::units::UnixMillis;

/// No boot has this number: a binding with it was made void by a reset, and no login gets it.
pub(super) const NO_BOOT: BootId = BootId(0);

/// What is known of a node's boot since this process started.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// An operating system logged in during this boot.
    os_seen: Option<BootId>,
    /// A reset was begun and the new binding is not written.
    half_done: bool,
}

/// One lock for each node, so that a slow reset holds up nobody else.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<HashMap<NodeName, Arc<Mutex<Run>>>>);

impl Runs {
    pub(super) fn of(&self, node: &NodeName) -> Arc<Mutex<Run>> {
        let mut all = lock(&self.0);
        if let Some(run) = all.get(node) {
            return Arc::clone(run);
        }
        Arc::clone(all.entry(node.clone()).or_default())
    }

    pub(super) fn forget(&self, node: &NodeName) {
        lock(&self.0).remove(node);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a boot of a node stands on.
struct Plan {
    binding: Binding,
    layer: Fate,
}

/// What becomes of a layer at a boot.
enum Fate {
    /// Its data stays.
    Kept,
    /// It begins anew.
    Fresh,
    /// It is emptied over a version that shows what it showed.
    Moved { from: Arc<Binding>, to: Moving },
}

impl Run {
    /// True between the reset of a layer and its new binding.
    pub(super) const fn is_half_done(&self) -> bool {
        self.half_done
    }
}

impl Head {
    /// Makes `node`'s disk ready for the boot attempt `boot`: resolves its image, starts an ephemeral layer
    /// anew, binds. Doing it again for the same `boot` changes nothing. Returns the binding. May block.
    pub fn prepare_boot(&self, node: &NodeName, boot: BootId) -> Result<Arc<Binding>> {
        let record = self.record(node)?;
        let run = self.runs.of(&record.name);
        let mut run = lock(&run);
        // Again under the lock: the node may have been changed or removed meanwhile.
        let record = self.record(node)?;
        self.prepare(&record, boot, &mut run)
    }

    /// Opens the disk of `node` for a login. A firmware login when no boot is under way, or when the boot
    /// under way had an operating system's login already, begins a new boot first (a node with a fixed
    /// firmware configuration never asks for a script). May block.
    pub fn attach(&self, node: &NodeName, firmware: bool) -> Result<Attached> {
        let record = self.record(node)?;
        let run = self.runs.of(&record.name);
        let mut run = lock(&run);
        let record = self.record(node)?;
        let binding = match self.binding_there_is(&record, &run, firmware) {
            Some(binding) => binding?,
            None => self.bind(&record, &mut run, firmware)?,
        };
        // After a restart of the head the events of a boot that goes on still belong to it.
        self.bus.resume_boot(node, binding.boot);
        let base = self
            .base_for(node, &binding, firmware)
            .map_err(|e| not_opened(node, e))?;
        self.open_bound(record, binding, base, firmware, &mut run)
    }

    /// As [`Self::attach`], for a login that needs nothing of the medium and no lock that somebody has: most
    /// logins of operating systems are such. None when it is not one; nothing was done then.
    #[must_use]
    pub fn attach_at_once(&self, node: &NodeName, firmware: bool) -> Option<Result<Attached>> {
        // No lock is made for a node that is none.
        self.snapshot().node(node.as_str())?;
        let run = self.runs.of(node);
        let mut run = run.try_lock().ok()?;
        let record = match self.record(node) {
            Ok(record) => record,
            Err(e) => return Some(Err(e)),
        };
        let binding = match self.binding_there_is(&record, &run, firmware)? {
            Ok(binding) => binding,
            Err(e) => return Some(Err(e)),
        };
        let base = self.base_at_once(node, &binding, firmware)?;
        self.bus.resume_boot(node, binding.boot);
        Some(self.open_bound(record, binding, base, firmware, &mut run))
    }

    /// The rest of an attach, which does not wait: what is bound is opened.
    fn open_bound(
        &self,
        record: Arc<NodeRecord>,
        binding: Arc<Binding>,
        base: Arc<dyn Base>,
        firmware: bool,
        run: &mut Run,
    ) -> Result<Attached> {
        let node = &record.name;
        self.limit(&record);
        let durability = match binding.mode {
            LayerMode::Persistent => Durability::Durable,
            LayerMode::Ephemeral => Durability::Volatile,
        };
        let volume = self
            .volume(binding.layer, base, durability)
            .map_err(|e| not_opened(node, e))?;
        if !firmware {
            run.os_seen = Some(binding.boot);
        }
        let sanitize = self.sanitize_cut(record.layer);
        Ok(Attached {
            node: record,
            binding,
            volume,
            sanitize,
        })
    }

    /// True when the operating system of the node's boot under way has logged in: that boot is over, and a
    /// script with its secret is nobody's any more. Never waits.
    #[must_use]
    pub fn is_booted(&self, node: &NodeName) -> bool {
        let run = self.runs.of(node);
        let seen = run.try_lock().ok().and_then(|run| run.os_seen);
        seen.is_some() && seen == self.bus.current_boot(node)
    }

    pub(super) fn record(&self, node: &NodeName) -> Result<Arc<NodeRecord>> {
        let now = self.snapshot();
        let record = now.node(node.as_str()).cloned();
        record.ok_or_else(|| HeadError::not_found(format!("there is no node `{node}`")))
    }

    /// The binding that a login finds, when it needs no new one; or why there is none for it.
    fn binding_there_is(
        &self,
        record: &NodeRecord,
        run: &Run,
        firmware: bool,
    ) -> Option<Result<Arc<Binding>>> {
        let now = self.snapshot();
        let binding = now.binding(record.layer)?;
        if !firmware {
            return Some(self.binding_for_os(record, binding, run));
        }
        let boot = self.boot_for_firmware(record, run)?;
        (binding.boot == boot).then(|| Ok(Arc::clone(binding)))
    }

    /// The boot under way that a firmware login belongs to.
    fn boot_for_firmware(&self, record: &NodeRecord, run: &Run) -> Option<BootId> {
        let under_way = self.bus.current_boot(&record.name);
        under_way.filter(|boot| run.os_seen != Some(*boot))
    }

    /// A binding for a login that finds none.
    fn bind(&self, record: &NodeRecord, run: &mut Run, firmware: bool) -> Result<Arc<Binding>> {
        let (under_way, cause) = if firmware {
            (self.boot_for_firmware(record, run), "firmware login")
        } else {
            let under_way = self.bus.current_boot(&record.name);
            (under_way, "operating system login")
        };
        let boot = under_way.unwrap_or_else(|| self.bus.begin_boot(&record.name, cause));
        self.prepare(record, boot, run)
    }

    /// A system that runs keeps the disk it has, or is told that it is gone; a fresh disk under it would
    /// end in a damaged one.
    fn binding_for_os(
        &self,
        record: &NodeRecord,
        binding: &Arc<Binding>,
        run: &Run,
    ) -> Result<Arc<Binding>> {
        let name = &record.name;
        let gone = |why: &str| {
            let message = format!("node `{name}`: {why}; boot the node anew");
            Err(HeadError::new(HeadErrorKind::Gone, message))
        };
        if run.half_done || binding.boot == NO_BOOT || self.is_moved(record, binding) {
            return gone("its layer was reset after this boot began");
        }
        if self.is_lost(binding) {
            return gone("its ephemeral layer went with the last restart of the head's machine");
        }
        if self.is_torn(binding) {
            return gone(
                "the head's machine went down under it, and writes it had not flushed may be missing",
            );
        }
        Ok(Arc::clone(binding))
    }

    /// True for an ephemeral binding of a boot before the host was restarted: its layer was never durable.
    pub(super) fn is_lost(&self, binding: &Binding) -> bool {
        binding.mode == LayerMode::Ephemeral && binding.boot.0 <= self.lost_boots
    }

    /// True for a persistent binding of a boot before the host went down without an orderly stop of the head.
    /// Its layer is as sound as a disk after a power cut; but the system that was running believes in writes
    /// that were answered and not flushed, so it must not go on with it.
    fn is_torn(&self, binding: &Binding) -> bool {
        binding.mode == LayerMode::Persistent && binding.boot.0 <= self.torn_boots
    }

    fn prepare(&self, record: &NodeRecord, boot: BootId, run: &mut Run) -> Result<Arc<Binding>> {
        let now = self.snapshot();
        if let Some(binding) = now.binding(record.layer).filter(|b| b.boot == boot) {
            return Ok(Arc::clone(binding));
        }
        self.reserve_boots(boot)?;
        let plan = self.plan(&now, record, boot)?;
        // Whoever had the disk open until now has it no more.
        match &plan.layer {
            Fate::Kept => self.layer_fence(record.layer),
            Fate::Fresh => {
                run.half_done = true;
                self.layer_reset(record.layer)?;
            }
            Fate::Moved { from, to } => {
                run.half_done = true;
                self.move_layer(from, to)?;
            }
        }
        let image = plan.binding.image;
        let bound = self.catalog.transact(|changes| {
            let known = changes.view().images().flat_map(|i| &i.versions);
            if !known.map(|v| v.id).any(|id| id == image) {
                let label = &plan.binding.label;
                let message = format!("image {label} was removed a moment ago; try again");
                return Err(HeadError::not_found(message));
            }
            Ok(changes.put_binding(plan.binding)?)
        })?;
        run.half_done = false;
        self.boot_prepared(&bound);
        if matches!(plan.layer, Fate::Fresh) {
            let image = bound.label.clone();
            let reset = EventKind::LayerReset { image };
            self.bus.publish(Some(&record.name), reset);
        }
        Ok(bound)
    }

    fn plan(&self, now: &Snapshot, record: &NodeRecord, boot: BootId) -> Result<Plan> {
        let at = UnixMillis::now();
        if let Some(old) = self.kept(now, record) {
            // Nobody may write between the comparison and the move.
            self.layer_fence(record.layer);
            let kept = Binding {
                boot,
                at,
                began: Some(old.begun()),
                moving: None,
                ..Binding::clone(old)
            };
            return Ok(match self.can_move(now, record, old) {
                Some(to) => Plan {
                    binding: moved(kept, &to),
                    layer: Fate::Moved {
                        from: Arc::clone(old),
                        to,
                    },
                },
                None => Plan {
                    binding: relabelled(now, record, kept),
                    layer: Fate::Kept,
                },
            });
        }
        if let Some((old, to)) = self.emptied(now, record) {
            let binding = Binding {
                boot,
                at,
                began: Some(old.begun()),
                moving: None,
                ..Binding::clone(old)
            };
            return Ok(Plan {
                binding: moved(binding, to),
                layer: Fate::Kept,
            });
        }
        let (label, version) = resolve(now, record)?;
        let binding = Binding {
            layer: record.layer,
            label,
            image: version.id,
            mode: record.mode,
            boot,
            at,
            began: None,
            moving: None,
            reservations: None,
        };
        Ok(Plan {
            binding,
            layer: Fate::Fresh,
        })
    }

    /// A move that a crash cut between the emptying of the layer and the new binding: the disk is the
    /// version moved to.
    fn emptied<'a>(
        &self,
        now: &'a Snapshot,
        record: &NodeRecord,
    ) -> Option<(&'a Arc<Binding>, &'a Moving)> {
        let old = now.binding(record.layer)?;
        let both = record.mode == LayerMode::Persistent && old.mode == LayerMode::Persistent;
        let to = old
            .moving
            .as_ref()
            .filter(|_| both && self.is_moved(record, old))?;
        Some((old, to))
    }

    fn is_moved(&self, record: &NodeRecord, binding: &Binding) -> bool {
        binding.moving.is_some() && !self.layer_use(record.layer).holds_data()
    }

    /// The binding that a persistent layer with data stays with, whatever the node's image is now.
    fn kept<'a>(&self, now: &'a Snapshot, record: &NodeRecord) -> Option<&'a Arc<Binding>> {
        let old = now.binding(record.layer)?;
        let both = record.mode == LayerMode::Persistent && old.mode == LayerMode::Persistent;
        // A layer that cannot be read may hold everything: only a reset by hand gives it up.
        let worth =
            self.layer_use(record.layer).holds_data() || self.layer_trouble(record.layer).is_some();
        if !both || old.boot == NO_BOOT || !worth {
            return None;
        }
        Some(old)
    }

    /// Writes down, block by block, how far boot ids may have been given out.
    fn reserve_boots(&self, boot: BootId) -> Result<()> {
        let half = limits::BOOT_ID_BLOCK / 2;
        let reserved = self.snapshot().counter(super::BOOTS);
        if boot.0.saturating_add(half) <= reserved {
            return Ok(());
        }
        let next = boot.0.saturating_add(limits::BOOT_ID_BLOCK);
        self.catalog.transact(|changes| {
            let next = next.max(changes.view().counter(super::BOOTS));
            Ok(changes.set_counter(super::BOOTS, next)?)
        })
    }

    /// Forgets what boots knew of layers that were reset by hand, in one change of the catalog.
    pub(super) fn make_void(&self, layers: impl Iterator<Item = LayerId>) -> Result<()> {
        self.catalog.transact(|changes| {
            for layer in layers {
                let bound = changes.view().binding(layer).cloned();
                if let Some(bound) = bound.filter(|b| b.boot != NO_BOOT) {
                    let mut void = Binding::clone(&bound);
                    void.boot = NO_BOOT;
                    void.began = None;
                    void.moving = None;
                    void.reservations = None;
                    changes.put_binding(void)?;
                }
            }
            Ok(())
        })
    }
}

fn not_opened(node: &NodeName, error: HeadError) -> HeadError {
    error.within(format!("node `{node}`: the disk cannot be opened"))
}

/// The binding of a layer that was moved.
fn moved(kept: Binding, to: &Moving) -> Binding {
    Binding {
        label: to.label.clone(),
        image: to.image,
        ..kept
    }
}

/// Two versions can have one content: then the node is on the one that it is set to.
fn relabelled(now: &Snapshot, record: &NodeRecord, kept: Binding) -> Binding {
    match resolve(now, record) {
        Ok((label, version)) if version.id == kept.image => Binding { label, ..kept },
        _ => kept,
    }
}

/// The label and the version that the node's image means now.
fn resolve<'a>(now: &'a Snapshot, record: &NodeRecord) -> Result<(String, &'a VersionRecord)> {
    let name = &record.name;
    let Some(wanted) = &record.image else {
        return Err(HeadError::invalid(format!(
            "node `{name}` has no image; give it one with `reveille node set {name} --image NAME`"
        )));
    };
    let Some(version) = now.resolve(wanted) else {
        return Err(HeadError::not_found(format!(
            "node `{name}`: there is no image {wanted}; import it, or choose one of `reveille image ls`"
        )));
    };
    Ok((format!("{}:{}", wanted.name, version.version), version))
}

#[cfg(test)]
mod test;
