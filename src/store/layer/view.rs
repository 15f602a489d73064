//! A view: a layer over its image as it was at one moment, while its node may go on writing.
//!
//! ```text
//!   freeze   all blocks locked for as long as it takes to copy the map; the data file is held open
//!   write    a block that the view still needs from the data file is copied aside before it changes
//!   read     map of that moment: base -> image | zero -> zeros | present -> data file, copies laid over it
//!   passed   what lies before the reader's place is needed no more, and not copied any more
//! ```
//! Only blocks that were *present* need copies: what was zero or base at that moment is told by the map of
//! that moment, whatever is written there later. A reader looks at the copies after it read the file, and a
//! writer copies before it writes, so what the reader hands out is old even where the two meet.
//!
//! A reset begins a new generation with a file of its own: the view keeps the old one and loses nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use roaring::RoaringBitmap;

use super::map::{BlockMap, BlockState, span};
use super::state::Layer;
use super::{LayerStore, lock};
use crate::limits;
use crate::store::disk::File;
use crate::store::image::Image;
use crate::store::{Error, ErrorKind, LayerId, Result};
use crate::units::{BLOCK_BYTES, ByteRange, HumanBytes};

/// Blocks of a chunk.
const CHUNK_BLOCKS: u64 = limits::CHUNK_BYTES / BLOCK_BYTES;

/// Where the bytes of a part of a view come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewState {
    /// The image.
    Base,
    /// The layer.
    Own,
    /// Nowhere: zeros.
    Zero,
}

/// What a view needs of the data file and what was copied aside.
#[derive(Debug)]
pub(super) struct Kept {
    file: Option<Arc<dyn File>>,
    size: u64,
    /// Blocks that may be copied aside.
    most: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Blocks that only the data file holds as the view shows them.
    needed: RoaringBitmap,
    copies: BTreeMap<u32, Box<[u8]>>,
    /// Why the view cannot go on.
    broken: Option<String>,
}

/// A layer over its image at one moment. One at a time for a layer; gone when dropped.
#[derive(Debug)]
pub struct LayerView {
    layer: Arc<Layer>,
    base: Arc<Image>,
    map: BlockMap,
    kept: Arc<Kept>,
}

impl LayerStore {
    /// What a layer over `base` shows at this moment: every write that was answered before the call, none
    /// that is begun after it. Waits for writes under way; holds up later ones only while a map is copied.
    ///
    /// # Errors
    /// `Busy` when there is a view of this layer already; `InvalidFormat` when the layer belongs to another
    /// image; `Corrupt` and `Poisoned` when the layer is not sound; what the medium reports.
    pub fn view(&self, id: LayerId, base: Arc<Image>) -> Result<LayerView> {
        let core = &self.core;
        let layer = core.layer(id);
        let _changes = layer.ranges.lock_all();
        let present = {
            let state = layer.state();
            check(&layer, &base)?;
            state.check_damage(id)?;
            state.check_poison(id)?;
            !state.map.present.is_empty()
        };
        let file = present.then(|| layer.file(core)).transpose()?;
        let mut state = layer.state_mut();
        if state.frozen.is_some() {
            let why = format!("layer {id} is being read already; try again when that is done");
            return Err(Error::new(ErrorKind::Busy, why));
        }
        let map = state.map.clone();
        let inner = Inner {
            needed: map.present.clone(),
            ..Inner::default()
        };
        let kept = Arc::new(Kept {
            file,
            size: base.size(),
            most: core.options.view_blocks,
            inner: Mutex::new(inner),
        });
        state.frozen = Some(Arc::clone(&kept));
        drop(state);
        Ok(LayerView {
            layer: Arc::clone(&layer),
            base,
            map,
            kept,
        })
    }
}

fn range_of(from: u64, end: u64) -> ByteRange {
    let range = ByteRange::new(from, end.saturating_sub(from));
    range.expect("an end that is a number makes no overflow")
}

fn check(layer: &Layer, base: &Image) -> Result<()> {
    let state = layer.state();
    let Some(birth) = state.birth else {
        return Ok(());
    };
    if birth.image == base.id() && birth.size == base.size() {
        return Ok(());
    }
    let (id, known, asked) = (layer.id, birth.image, base.id());
    let why = format!("layer {id} belongs to image {known}, not {asked}");
    Err(Error::new(ErrorKind::InvalidFormat, why))
}

impl Layer {
    /// Called before blocks change, with their lock held: a view keeps what it still needs of them.
    pub(in crate::store) fn before_change(&self, blocks: &Range<u64>) {
        self.before_changes(std::iter::once(blocks.clone()));
    }

    /// The same for several runs of blocks.
    pub(in crate::store) fn before_changes(&self, runs: impl Iterator<Item = Range<u64>>) {
        // None begins meanwhile: that takes the lock of all blocks.
        let kept = self.state().frozen.clone();
        if let Some(kept) = kept {
            runs.for_each(|blocks| kept.copy(&blocks));
        }
    }

    /// Called before the layer's bytes are destroyed on purpose: no copy of them may stay.
    pub(in crate::store) fn before_erase(&self) {
        if let Some(kept) = self.state().frozen.clone() {
            lock(&kept.inner).give_up(format!("layer {} is being sanitized", self.id));
        }
    }
}

impl Inner {
    fn give_up(&mut self, why: String) {
        *self = Self {
            broken: Some(why),
            ..Self::default()
        };
    }
}

impl Kept {
    fn copy(&self, blocks: &Range<u64>) {
        let Some(span) = span(blocks) else { return };
        let mut inner = lock(&self.inner);
        if inner.needed.is_empty() {
            return;
        }
        let mut wanted = RoaringBitmap::new();
        wanted.insert_range(span);
        wanted &= &inner.needed;
        let held = (inner.copies.len() as u64).saturating_add(wanted.len());
        if held > self.most {
            let most = HumanBytes(self.most.saturating_mul(BLOCK_BYTES));
            inner.give_up(format!(
                "its node wrote over more than {most} of its own data meanwhile; switch it off, or try when it \
                 is quiet"
            ));
            return;
        }
        for block in &wanted {
            match self.read_block(block) {
                Ok(bytes) => drop(inner.copies.insert(block, bytes)),
                Err(e) => return inner.give_up(format!("a block could not be kept: {e}")),
            }
        }
        inner.needed -= wanted;
    }

    fn read_block(&self, block: u32) -> Result<Box<[u8]>> {
        let at = u64::from(block) * BLOCK_BYTES;
        let len = self.size.saturating_sub(at).min(BLOCK_BYTES);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        if let Some(file) = &self.file {
            file.read_at(at, &mut bytes)?;
        }
        Ok(bytes.into())
    }

    /// Lays the copies over what was read from `range` of the data file.
    fn overlay(&self, range: ByteRange, out: &mut [u8]) -> Result<()> {
        let inner = lock(&self.inner);
        if let Some(why) = &inner.broken {
            return Err(Error::new(ErrorKind::Busy, why.clone()));
        }
        let Some(blocks) = span(&range.blocks()) else {
            return Ok(());
        };
        for (block, bytes) in inner.copies.range(blocks) {
            let at = u64::from(*block) * BLOCK_BYTES;
            let Some(here) = ByteRange::new(at, bytes.len() as u64).and_then(|b| b.overlap(range))
            else {
                continue;
            };
            // All of these lie in one block or in `out`.
            let from = usize::try_from(here.offset() - at).unwrap_or(0);
            let to = usize::try_from(here.offset() - range.offset()).unwrap_or(0);
            let len = usize::try_from(here.len()).unwrap_or(0);
            out[to..to + len].copy_from_slice(&bytes[from..from + len]);
        }
        Ok(())
    }
}

impl LayerView {
    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.base.size()
    }

    /// The image below.
    #[must_use]
    pub const fn base(&self) -> &Arc<Image> {
        &self.base
    }

    /// True when the layer says nothing of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.present.is_empty() && self.map.zero.is_empty()
    }

    /// Where the byte at `from`, which lies on the disk, comes from, and the part of the disk from there on
    /// that is alike.
    #[must_use]
    pub fn extent(&self, from: u64) -> (ViewState, ByteRange) {
        let whole = range_of(from, self.size());
        let Some(blocks) = span(&whole.blocks()) else {
            return (ViewState::Base, whole);
        };
        let (state, last) = self.map.run_at(*blocks.start(), *blocks.end());
        let end = ((u64::from(last) + 1) * BLOCK_BYTES).min(self.size());
        let part = range_of(from, end);
        let state = match state {
            BlockState::Base => ViewState::Base,
            BlockState::Present => ViewState::Own,
            BlockState::Zero => ViewState::Zero,
        };
        (state, part)
    }

    /// The chunks of which the layer holds a part, as runs of their numbers, in order.
    #[must_use]
    pub fn touched(&self) -> Vec<Range<u64>> {
        let all = &self.map.present | &self.map.zero;
        let mut runs = all.iter();
        let mut out: Vec<Range<u64>> = Vec::new();
        while let Some(run) = runs.next_range() {
            let first = u64::from(*run.start()) / CHUNK_BLOCKS;
            let end = u64::from(*run.end()) / CHUNK_BLOCKS + 1;
            match out.last_mut() {
                Some(last) if first <= last.end => last.end = last.end.max(end),
                _ => out.push(first..end),
            }
        }
        out
    }

    /// Fills `out` from `offset`. May block.
    ///
    /// # Errors
    /// `OutOfBounds`; `Busy` when the node wrote over more of what the view needs than is kept, or sanitized
    /// its disk; those of image and medium.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset, out.len() as u64).filter(|r| r.fits(self.size()));
        let Some(range) = range else {
            let why = format!("{} bytes at {offset} of a view: past its end", out.len());
            return Err(Error::new(ErrorKind::OutOfBounds, why));
        };
        let (mut at, mut rest) = (offset, &mut *out);
        while !rest.is_empty() {
            let (state, part) = self.extent(at);
            let len = usize::try_from(part.len()).unwrap_or(usize::MAX);
            let (piece, behind) = rest.split_at_mut(len.min(rest.len()));
            match (state, &self.kept.file) {
                (ViewState::Own, Some(file)) => file.read_at(at, piece)?,
                (ViewState::Base, _) => self.base.read(at, piece)?,
                _ => piece.fill(0),
            }
            at += piece.len() as u64;
            rest = behind;
        }
        self.kept.overlay(range, out)
    }

    /// Says that nothing before `offset` will be read any more.
    pub fn passed(&self, offset: u64) {
        let Ok(block) = u32::try_from(offset / BLOCK_BYTES) else {
            return;
        };
        let mut inner = lock(&self.kept.inner);
        inner.needed.remove_range(..block);
        inner.copies = inner.copies.split_off(&block);
    }

    /// An error if the view could not be kept whole: what was read may be of two moments.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn check(&self) -> Result<()> {
        self.kept.overlay(range_of(0, 0), &mut [])
    }
}

impl Drop for LayerView {
    fn drop(&mut self) {
        let mut state = self.layer.state_mut();
        let mine = |kept: &Arc<Kept>| Arc::ptr_eq(kept, &self.kept);
        if state.frozen.as_ref().is_some_and(mine) {
            state.frozen = None;
        }
    }
}
