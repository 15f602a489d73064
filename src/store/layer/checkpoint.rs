//! Checkpoints: the whole durable state in one file, so that the journal before it is not needed.
//!
//! The journal changes first (a moment without commits), then the file is written in peace: should power fail
//! meanwhile, the old checkpoint and both journals say the same.

use std::sync::atomic::Ordering;

use super::core::{Core, map_entries, redo_entries};
use super::entry::{Entry, Header, Row, VERSION};
use super::frame::{Log, Role};
use super::write as exclusive;
use super::{DIR, journal, lock};
use crate::store::disk::Disk;
use crate::store::{ErrorKind, Result};

/// Path of the checkpoint with which the journal of the same epoch begins.
pub(super) fn path(epoch: u32) -> String {
    format!("{DIR}/checkpoint.{epoch}")
}

/// Makes a checkpoint of all layers. Flushes go on meanwhile, except for the change of journals.
pub(super) fn write(core: &Core) -> Result<()> {
    let mut last = lock(&core.checkpointed);
    let generation_next = core.generation_next.load(Ordering::Relaxed);
    let (epoch, rows) = {
        let _no_atomics = exclusive(&core.atomics);
        let mut active = core.journal.active();
        core.journal.rotate(&mut active, generation_next)?;
        (active.log.epoch, core.durable_rows())
    };
    save(&*core.disk, epoch, rows, generation_next)?;
    let previous = std::mem::replace(&mut *last, epoch);
    clean(&*core.disk, previous);
    Ok(())
}

/// Writes the checkpoint of `epoch`; durable when it returns.
pub(super) fn save(
    disk: &dyn Disk,
    epoch: u32,
    rows: Vec<Row>,
    generation_next: u64,
) -> Result<()> {
    let (path, draft) = (path(epoch), format!("{}.tmp", path(epoch)));
    if let Err(e) = disk.remove(&draft)
        && e.kind() != ErrorKind::NotFound
    {
        return Err(e);
    }
    let write = || -> Result<()> {
        let mut log = Log::create(disk, &draft, Role::Checkpoint, epoch, 0)?;
        let header = Header {
            version: VERSION,
            generation_next,
            ..Header::default()
        };
        let mut put = |entries: &[Entry]| -> Result<()> {
            let mark = log.append(entries)?;
            log.advance(mark);
            Ok(())
        };
        put(&[Entry::Header(header)])?;
        let layers = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let mut batch = Vec::new();
        for row in rows {
            let (layer, generation) = (row.facts.layer, row.facts.generation);
            batch.push(Entry::Layer(row.facts));
            batch.extend(map_entries(layer, generation, row.map));
            batch.extend(redo_entries(layer, generation, row.redos));
            if batch.len() >= BATCH_ENTRIES {
                put(&batch)?;
                batch.clear();
            }
        }
        batch.push(Entry::End { layers });
        put(&batch)?;
        log.file.sync()?;
        disk.rename(&draft, &path)?;
        disk.sync_dir(DIR)
    };
    write().map_err(|e| {
        // A draft is never read; one that stays is replaced by the next.
        let _ = disk.remove(&draft);
        e.within("checkpoint of the layers")
    })
}

// Entries per write call: enough that small layers cost no call of their own.
const BATCH_ENTRIES: usize = 256;

// Removes what neither the newest checkpoint nor the one before needs. The one before is kept, with all
// journals since, for the day the newest does not read back.
fn clean(disk: &dyn Disk, previous: u32) {
    let Ok(names) = disk.list(DIR) else { return };
    for name in names {
        let Some((kind, number)) = name.split_once('.') else {
            continue;
        };
        let Ok(epoch) = number.parse::<u32>() else {
            continue;
        };
        let old = match kind {
            "checkpoint" if epoch < previous => path(epoch),
            "journal" if epoch < previous => journal::path(epoch),
            _ => continue,
        };
        if let Err(e) = disk.remove(&old) {
            tracing::warn!("layers: {old} stays until the next checkpoint: {e}");
        }
    }
}
