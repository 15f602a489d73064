//! A layer over its image as the source of a new image version.
//!
//! ```text
//!   chunk        of the image alone -> taken over by id and place, not read
//!                zeros of the layer alone -> a chunk of zeros, not read
//!                anything else -> read through the view, hashed, stored once
//! ```
//! So the work is that of the chunks which the layer touched, and the manifest is the one that an import of
//! the same bytes as a raw file makes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::export::ExportSink;
use super::import::{Extent, ExtentKind, Source};
use super::ingest::{Progress, Watch, is_zero};
use super::manifest::ChunkId;
use super::sealed::Image;
use crate::limits::{CHUNK_BYTES, CHUNK_LEN};
use crate::store::Buffer;
use crate::store::error::Result;
use crate::store::layer::{LayerView, ViewState};

/// A view as a source to import.
#[derive(Debug)]
pub struct LayerSource(pub LayerView);

impl Source for LayerSource {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        let (state, range) = self.0.extent(from);
        let kind = match state {
            ViewState::Base => ExtentKind::Base,
            ViewState::Own => ExtentKind::Data,
            ViewState::Zero => ExtentKind::Zero,
        };
        Ok(Extent { range, kind })
    }

    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.read(offset, out)?;
        // An import reads the disk once, from its beginning to its end.
        self.0.passed(offset + out.len() as u64);
        Ok(())
    }

    fn base(&self) -> Option<Arc<Image>> {
        Some(Arc::clone(self.0.base()))
    }

    fn finish(&mut self) -> Result<()> {
        self.0.check()
    }
}

/// Whether a layer over its image shows the very bytes of another image, found out by reading the chunks
/// that the layer touches until one differs. `None` when they agree as far as manifests tell, but more than
/// `most` bytes would have to be read. May block.
///
/// # Errors
/// Those of reading.
pub fn holds_the_same(view: &LayerView, other: &Image, most: u64) -> Result<Option<bool>> {
    let base = view.base();
    if base.size() != other.size() {
        return Ok(Some(false));
    }
    let touched = view.touched();
    let mut at = 0;
    for run in &touched {
        if (at..run.start).any(|chunk| base.chunk_id(chunk) != other.chunk_id(chunk)) {
            return Ok(Some(false));
        }
        at = run.end;
    }
    if (at..base.chunk_count()).any(|chunk| base.chunk_id(chunk) != other.chunk_id(chunk)) {
        return Ok(Some(false));
    }
    let chunks: u64 = touched.iter().map(|run| run.end - run.start).sum();
    if chunks.saturating_mul(CHUNK_BYTES) > most {
        return Ok(None);
    }
    for chunk in touched.into_iter().flatten() {
        if chunk_of(view, chunk)? != other.chunk_id(chunk) {
            return Ok(Some(false));
        }
    }
    view.check()?;
    Ok(Some(true))
}

/// Writes the disk that a view shows to `out`, chunks of zeros left out. Blocking.
///
/// # Errors
/// Those of reading and of the sink; `Cancelled`.
pub fn export_view(
    view: &LayerView,
    out: &mut dyn ExportSink,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<()> {
    let watch = Watch { progress, cancel };
    let size = view.size();
    out.begin(size)?;
    let mut bytes = Buffer::take(CHUNK_LEN);
    let mut at = 0;
    while at < size {
        watch.step(at, size, "the export")?;
        let (state, alike) = view.extent(at);
        let zeros = match state {
            ViewState::Zero => alike.len(),
            ViewState::Base => match view.base().extent(at, alike.len()) {
                (false, zeros) => zeros,
                _ => 0,
            },
            ViewState::Own => 0,
        };
        // Up to the end of the chunk, so that reads are whole chunks.
        let rest = CHUNK_BYTES - at % CHUNK_BYTES;
        let len = if zeros > 0 { zeros } else { rest }.min(size - at);
        if zeros == 0 {
            // At most a chunk.
            let part = &mut bytes[..usize::try_from(len).unwrap_or(0)];
            view.read(at, part)?;
            if !is_zero(part) {
                out.write_at(at, part)?;
            }
        }
        at += len;
        view.passed(at);
    }
    view.check()?;
    out.finish()?;
    watch.step(size, size, "the export")
}

/// Identity of a chunk of a view; `None` for zeros.
pub(super) fn chunk_of(view: &LayerView, chunk: u64) -> Result<Option<ChunkId>> {
    let offset = chunk * CHUNK_BYTES;
    let (state, alike) = view.extent(offset);
    let len = view.size().saturating_sub(offset).min(CHUNK_BYTES);
    if state == ViewState::Zero && alike.len() >= len {
        return Ok(None);
    }
    let mut bytes = Buffer::take(CHUNK_LEN);
    // At most a chunk.
    let (data, rest) = bytes.split_at_mut(usize::try_from(len).unwrap_or(0));
    rest.fill(0);
    view.read(offset, data)?;
    Ok((!is_zero(&bytes)).then(|| ChunkId::of(&bytes)))
}

#[cfg(test)]
mod test;
