//! Atomic writes: after a power cut, a kill or a failed call the range is wholly old or wholly new, and no
//! reader ever sees a part of each (SBC-4 4.29).

use super::{Ends, Volume, clip};
use crate::limits;
use crate::store::disk::File;
use crate::store::layer::Redo;
use crate::store::layer::map::{BlockState, Span, span};
use crate::store::{Buffer, Error, ErrorKind, Result};
use crate::units::{BLOCK_BYTES, ByteRange};

/// What stood in the layer's file where an atomic write goes: to put it back when the write fails.
type Before = Vec<(u64, Buffer)>;

impl Volume {
    /// Writes all of `data` or nothing, whatever happens meanwhile. At most
    /// [`limits::ATOMIC_BYTES_MAX`] bytes. On a durable layer it is on the medium when this returns. May block.
    pub fn write_atomic(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = self.range(offset, data.len())?;
        if range.len() > limits::ATOMIC_BYTES_MAX {
            let most = limits::ATOMIC_BYTES_MAX;
            let why = format!("{} bytes at once: atomic are up to {most}", range.len());
            return Err(Error::new(ErrorKind::OutOfBounds, why));
        }
        if range.is_empty() {
            return Ok(());
        }
        let done = {
            let _held = self.layer.ranges.lock(range.blocks());
            let _snapshots = self.core.hold_snapshots();
            let _hidden = self.layer.hide_from_readers();
            self.write_atomic_held(range, data)
        };
        self.core.after_operation();
        done
    }

    fn write_atomic_held(&self, range: ByteRange, data: &[u8]) -> Result<()> {
        self.layer
            .begin_change(&self.core, self.session, self.birth)?;
        let mut fresh = Vec::new();
        let ends = self.plan_atomic(range, &mut fresh)?;
        let claim = self.layer.claim(&self.core, &fresh)?;
        let file = self.file_for_write()?;
        let (start, whole) = self.completed(&*file, range, data, ends)?;
        let before = self.before(&*file, start, whole.len() as u64)?;
        let redo = Redo {
            offset: start,
            data: whole[..].into(),
        };
        self.layer.log_redo(&self.core, &redo)?;
        self.layer.before_change(&range.blocks());
        let written = file
            .write_at(start, &whole)
            .map_err(|e| self.full(e).within(format!("layer {}", self.layer.id)))
            .and_then(|()| {
                self.layer
                    .publish(&self.core, BlockState::Present, &fresh, Some(claim))
            });
        if let Err(e) = written {
            self.take_back(&*file, &before, start);
            return Err(e);
        }
        self.layer.retire_redo(&self.core, start)
    }

    // As of a plain write. But the record may be all that a power cut leaves of a block which was never flushed: then
    // it must hold that block whole, though the layer has it.
    fn plan_atomic(&self, range: ByteRange, fresh: &mut Vec<Span>) -> Result<Ends> {
        let state = self.state()?;
        let mut ends = self.plan_write(&state, range, fresh)?;
        let Some(blocks) = span(&range.blocks()) else {
            return Ok(ends);
        };
        let lost = |block| (!state.keeps(block)).then_some(BlockState::Present);
        if !range.offset().is_multiple_of(BLOCK_BYTES) {
            ends.head = ends.head.or_else(|| lost(*blocks.start()));
        }
        if !range.end().is_multiple_of(BLOCK_BYTES) && range.end() != self.size() {
            ends.tail = ends.tail.or_else(|| lost(*blocks.end()));
        }
        Ok(ends)
    }

    fn before(&self, file: &dyn File, start: u64, len: u64) -> Result<Before> {
        let range = ByteRange::new(start, len).ok_or_else(|| self.outside(start, len))?;
        let Some(blocks) = span(&range.blocks()) else {
            return Ok(Vec::new());
        };
        let present: Vec<Span> = {
            let state = self.state()?;
            let runs = state.map.runs(&blocks);
            runs.filter(|(state, _)| *state == BlockState::Present)
                .map(|(_, run)| run)
                .collect()
        };
        let mut before = Vec::with_capacity(present.len());
        for run in present {
            let piece = clip(&run, range);
            let mut bytes = Buffer::take(usize::try_from(piece.len()).unwrap_or(0));
            file.read_at(piece.offset(), &mut bytes)?;
            before.push((piece.offset(), bytes));
        }
        Ok(before)
    }

    // The write failed half way: what was there goes back, and the record must not be written at a restart.
    // When that fails too, the layer takes no more writes, and a restart finishes the write.
    fn take_back(&self, file: &dyn File, before: &Before, start: u64) {
        let back = before
            .iter()
            .try_for_each(|(at, bytes)| file.write_at(*at, bytes));
        match back {
            Ok(()) => {
                if let Err(e) = self.layer.retire_redo(&self.core, start) {
                    tracing::warn!("layer {}: {e}", self.layer.id);
                }
            }
            Err(e) => self.layer.poison(&format!(
                "an atomic write failed and could not be undone: {e}"
            )),
        }
    }

    /// Makes every block read zeros, gives all space back, and leaves no copy of the old bytes in any file of
    /// the layer or of the logs. On a durable layer it is on the medium when this returns. What the file
    /// system or the medium keeps below it is not reached. May block.
    pub fn erase(&self) -> Result<()> {
        let size = self.size();
        {
            let _held = self.layer.ranges.lock_all();
            self.layer
                .begin_change(&self.core, self.session, self.birth)?;
            self.layer.before_erase();
            let file = self.layer.file(&self.core)?;
            let blocks = span(&(0..size.div_ceil(BLOCK_BYTES)));
            let Some(blocks) = blocks else { return Ok(()) };
            let changed: Vec<Span> = {
                let state = self.state()?;
                let runs = state.map.runs(&blocks);
                runs.filter(|(state, _)| *state != BlockState::Zero)
                    .map(|(_, run)| run)
                    .collect()
            };
            self.layer
                .publish(&self.core, BlockState::Zero, &changed, None)?;
            // Zero on the medium first: holes in blocks still called present would be zeros as well, but a cut
            // must not bring the old bytes back.
            self.layer.flush(&self.core, Some(self.session))?;
            scrub(&*file)?;
            file.sync()?;
        }
        self.core.forget_redos()?;
        self.core.after_operation();
        Ok(())
    }
}

/// Empties a data file but keeps its length. Where the file system cannot punch, zeros are written.
fn scrub(file: &dyn File) -> Result<()> {
    let len = file.len()?;
    if len == 0 || file.punch(0, len).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; usize::try_from(limits::PASS_BYTES.min(len)).unwrap_or(0)];
    let mut at = 0;
    while at < len {
        let part = (len - at).min(limits::PASS_BYTES);
        let bytes = usize::try_from(part).ok().and_then(|n| zeros.get(..n));
        file.write_at(at, bytes.unwrap_or_default())?;
        at += part;
    }
    Ok(())
}
