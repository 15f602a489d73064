//! What a LUN serves: a layer over an image.
//!
//! A read is planned under the layer's own lock (which runs come from the layer's file, which are zeros,
//! which are the image's) and carried out after it is let go. A change holds the lock of the blocks it
//! touches: the data goes to the file, then the change of the map to the soft log, then to memory; then it
//! is acknowledged.

mod atomic;
mod many;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use super::disk::File;
use super::image::Image;
use super::layer::map::{BlockState, Span, span, span_len};
use super::layer::state::{Layer, State};
use super::layer::{Birth, Core, LayerLimits, SpaceNews};
use super::{Buffer, Durability, Error, ErrorKind, ImageId, LayerId, Payload, Result};
use crate::limits;
use crate::units::{BLOCK_BYTES, ByteRange};

/// What lies under a layer: bytes that never change.
pub trait Base: Debug + Send + Sync {
    /// Identity; a layer is bound to it at its first change.
    fn id(&self) -> ImageId;
    /// Bytes of the disk.
    fn size(&self) -> u64;
    /// The bytes from `offset` on without a copy, where they are held in memory.
    fn try_share(&self, offset: u64, len: usize) -> Result<Option<Payload>> {
        let _ = (offset, len);
        Ok(None)
    }
    /// Fills `out` from `offset` if all of it is in memory; `false` if that would wait.
    fn try_read(&self, offset: u64, out: &mut [u8]) -> Result<bool>;
    /// Fills `out` from `offset`; may block.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()>;
}

impl Base for Image {
    fn id(&self) -> ImageId {
        self.id()
    }
    fn size(&self) -> u64 {
        self.size()
    }
    fn try_share(&self, offset: u64, len: usize) -> Result<Option<Payload>> {
        self.try_share(offset, len)
    }
    fn try_read(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.try_read(offset, out)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read(offset, out)
    }
}

/// Which layer over which image, and what its FLUSH promises.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    /// The layer.
    pub layer: LayerId,
    /// What lies under it; its size is the size of the disk.
    pub image: Arc<dyn Base>,
    /// What a FLUSH promises.
    pub durability: Durability,
}

/// State of an extent, for GET LBA STATUS (SBC-3 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentState {
    /// Holds data.
    Mapped,
    /// Reads zeros.
    Deallocated,
}

/// Space for a volume's own blocks; what it shows of its image takes none. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioned {
    /// Taken.
    pub used: u64,
    /// Left for it.
    pub available: u64,
    /// Other layers may take of that too: it is what the file system has left.
    pub shared: bool,
}

/// What COMPARE AND WRITE found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Equal; the new data is written.
    Written,
    /// The byte at this offset of the compared data is the first that differs; nothing is written.
    Differs(u64),
}

/// An open volume of one generation of one layer. Offsets may be any multiple of 512.
/// After a reset of the layer every operation answers `ErrorKind::Fenced`.
#[derive(Debug)]
pub struct Volume {
    core: Arc<Core>,
    layer: Arc<Layer>,
    base: Arc<dyn Base>,
    birth: Birth,
    session: u64,
}

// Where the pieces of a read come from, in order. Nearly every read has one.
struct Plan {
    pieces: Pieces,
    file: Option<Arc<dyn File>>,
}

enum Pieces {
    One(BlockState),
    Many(Vec<(BlockState, usize)>),
}

impl Pieces {
    fn has(&self, state: BlockState) -> bool {
        match self {
            Self::One(one) => *one == state,
            Self::Many(all) => all.iter().any(|(piece, _)| *piece == state),
        }
    }
}

// What must be put before and behind the data of a write, so that no block of the file is half filled: whence the
// bytes come that its first and its last block lack.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    head: Option<BlockState>,
    tail: Option<BlockState>,
}

impl Volume {
    pub(in crate::store) fn new(
        core: Arc<Core>,
        layer: Arc<Layer>,
        base: Arc<dyn Base>,
        birth: Birth,
        session: u64,
    ) -> Self {
        Self {
            core,
            layer,
            base,
            birth,
            session,
        }
    }

    pub(in crate::store) const fn birth(&self) -> Birth {
        self.birth
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.birth.size
    }

    /// The layer it shows.
    #[must_use]
    pub fn layer(&self) -> LayerId {
        self.layer.id
    }

    /// What its FLUSH promises.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.birth.durability
    }

    /// What it may hold.
    #[must_use]
    pub fn limits(&self) -> LayerLimits {
        self.core.limits_of(self.layer.id)
    }

    /// How much of the space for its own blocks is used, and how much there still is: up to its limit, up to the
    /// reserve of the file system, up to the end of the disk, whatever comes first. May block.
    ///
    /// # Errors
    /// The file system does not tell.
    pub fn provisioned(&self) -> Result<Provisioned> {
        let used = self.layer.state().map.own_blocks() * BLOCK_BYTES;
        let most = self.limits().most.unwrap_or(u64::MAX).min(self.size());
        let own = most.saturating_sub(used);
        let spare = self.core.spare()?;
        Ok(Provisioned {
            used,
            available: spare.map_or(own, |spare| own.min(spare)),
            shared: spare.is_some_and(|spare| spare < own),
        })
    }

    /// What its owner should hear about its space since the last call.
    #[must_use]
    pub fn space_news(&self) -> Option<SpaceNews> {
        self.layer.space_news()
    }

    /// The bytes if all are in memory, else `None`. Never blocks on I/O, takes no global lock.
    pub fn try_read(&self, range: ByteRange) -> Result<Option<Payload>> {
        let len = self.checked_len(range)?;
        let Some(quiet) = self.layer.quiet() else {
            return Ok(None);
        };
        let plan = self.plan(range)?;
        if let Pieces::One(BlockState::Base) = plan.pieces
            && let Some(shared) = self.base.try_share(range.offset(), len)?
        {
            return Ok(self.layer.still_quiet(quiet).then_some(shared));
        }
        let mut buffer = Buffer::take(len);
        let ready = match (&plan.pieces, &plan.file) {
            (Pieces::One(BlockState::Zero), _) => {
                buffer.fill(0);
                true
            }
            (Pieces::One(BlockState::Base), _) => {
                self.base.try_read(range.offset(), &mut buffer)?
            }
            (pieces, None) if pieces.has(BlockState::Present) => false,
            _ => each_piece(&plan, range.offset(), &mut buffer, |state, at, out| match (
                state, &plan.file,
            ) {
                (BlockState::Present, Some(file)) => file.try_read_at(at, out),
                _ => self.base.try_read(at, out),
            })?,
        };
        let whole = ready && self.layer.still_quiet(quiet);
        Ok(whole.then(|| buffer.freeze()))
    }

    /// The bytes; may block.
    pub fn read(&self, range: ByteRange) -> Result<Payload> {
        let mut buffer = Buffer::take(self.checked_len(range)?);
        if let Some(quiet) = self.layer.quiet() {
            self.read_into(range, &mut buffer)?;
            if self.layer.still_quiet(quiet) {
                return Ok(buffer.freeze());
            }
        }
        // An atomic write runs or ran beside: with the lock of the blocks none of it is seen half done.
        let _held = self.layer.ranges.lock(range.blocks());
        self.read_into(range, &mut buffer)?;
        Ok(buffer.freeze())
    }

    /// Writes; may block. When it returns, the data survives the death of this process.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = self.range(offset, data.len())?;
        if range.is_empty() {
            return Ok(());
        }
        let done = {
            let _held = self.layer.ranges.lock(range.blocks());
            self.write_held(range, data)
        };
        self.core.after_operation();
        done
    }

    /// When it returns, all earlier writes are as durable as the layer's class promises. May block.
    pub fn flush(&self) -> Result<()> {
        let done = self.layer.flush(&self.core, Some(self.session));
        self.core.after_operation();
        done
    }

    /// Makes the range read zeros and gives its space back; exact to the byte. May block.
    pub fn unmap(&self, range: ByteRange) -> Result<()> {
        self.check_bounds(range)?;
        if range.is_empty() {
            return Ok(());
        }
        let done = {
            let _held = self.layer.ranges.lock(range.blocks());
            self.unmap_held(range)
        };
        self.core.after_operation();
        done
    }

    /// The state at `offset` and how many bytes from there share it, looking at most at `len` bytes.
    pub fn extent(&self, offset: u64, len: u64) -> Result<(ExtentState, u64)> {
        let range = ByteRange::new(offset, len.min(self.size().saturating_sub(offset)));
        let range = range.ok_or_else(|| self.outside(offset, len))?;
        self.check_bounds(range)?;
        let state = self.state()?;
        let Some(blocks) = span(&range.blocks()) else {
            return Ok((ExtentState::Mapped, 0));
        };
        let mut found: Option<ExtentState> = None;
        let mut end = range.end();
        for (block, run) in state.map.runs(&blocks) {
            let here = match block {
                BlockState::Zero => ExtentState::Deallocated,
                _ => ExtentState::Mapped,
            };
            if *found.get_or_insert(here) != here {
                end = u64::from(*run.start()) * BLOCK_BYTES;
                break;
            }
        }
        Ok((found.unwrap_or(ExtentState::Mapped), end - offset))
    }

    /// Writes `new` over `old` if the disk holds `old`, atomically against every other write (SBC-3 5.2).
    /// May block. The two must have one length.
    pub fn compare_and_write(&self, offset: u64, old: &[u8], new: &[u8]) -> Result<Compared> {
        if old.len() != new.len() {
            let why = format!(
                "compare {} bytes but write {}: the two must have one length",
                old.len(),
                new.len()
            );
            return Err(Error::new(ErrorKind::OutOfBounds, why));
        }
        let range = self.range(offset, old.len())?;
        if range.is_empty() {
            return Ok(Compared::Written);
        }
        let done = {
            let _held = self.layer.ranges.lock(range.blocks());
            let mut held = Buffer::take(old.len());
            self.read_into(range, &mut held)?;
            match held.iter().zip(old).position(|(a, b)| a != b) {
                Some(at) => Ok(Compared::Differs(at as u64)),
                None => self.write_held(range, new).map(|()| Compared::Written),
            }
        };
        self.core.after_operation();
        done
    }

    /// ORs `data` into the disk, atomically against every other write (SBC-3 5.5). May block.
    pub fn or_write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let range = self.range(offset, data.len())?;
        if range.is_empty() {
            return Ok(());
        }
        let done = {
            let _held = self.layer.ranges.lock(range.blocks());
            let mut held = Buffer::take(data.len());
            self.read_into(range, &mut held)?;
            for (byte, more) in held.iter_mut().zip(data) {
                *byte |= more;
            }
            self.write_held(range, &held)
        };
        self.core.after_operation();
        done
    }

    // --- reading ---

    fn state(&self) -> Result<std::sync::RwLockReadGuard<'_, State>> {
        let state = self.layer.state();
        state.check(self.layer.id, self.session)?;
        Ok(state)
    }

    fn plan(&self, range: ByteRange) -> Result<Plan> {
        let state = self.state()?;
        let Some(blocks) = span(&range.blocks()) else {
            return Ok(Plan {
                pieces: Pieces::One(BlockState::Zero),
                file: None,
            });
        };
        let one = |state, file| Plan {
            pieces: Pieces::One(state),
            file,
        };
        if state.map.is_base(&blocks) {
            return Ok(one(BlockState::Base, None));
        }
        let (first, last) = state.map.run_at(*blocks.start(), *blocks.end());
        if state.file.is_some() {
            self.layer.touch();
        }
        if last == *blocks.end() {
            return Ok(one(first, state.file.clone()));
        }
        let mut pieces: Vec<(BlockState, usize)> = Vec::new();
        for (from, run) in state.map.runs(&blocks) {
            let len = usize::try_from(clip(&run, range).len()).unwrap_or(0);
            match pieces.last_mut() {
                Some((same, sum)) if *same == from => *sum += len,
                _ => pieces.push((from, len)),
            }
        }
        Ok(Plan {
            pieces: Pieces::Many(pieces),
            file: state.file.clone(),
        })
    }

    fn read_into(&self, range: ByteRange, out: &mut [u8]) -> Result<()> {
        let mut plan = self.plan(range)?;
        if plan.file.is_none() && plan.pieces.has(BlockState::Present) {
            let file = self.layer.file(&self.core)?;
            // The layer may have been reset while the file was opened: then this answers `Fenced`.
            plan = self.plan(range)?;
            plan.file = Some(file);
        }
        each_piece(&plan, range.offset(), out, |state, at, out| {
            match (state, &plan.file) {
                (BlockState::Present, Some(file)) => file.read_at(at, out)?,
                _ => self.base.read(at, out)?,
            }
            Ok(true)
        })?;
        Ok(())
    }

    // --- changing; the caller holds the blocks' lock ---

    fn write_held(&self, range: ByteRange, data: &[u8]) -> Result<()> {
        self.layer
            .begin_change(&self.core, self.session, self.birth)?;
        let mut fresh = Vec::new();
        let ends = self.plan_write(&*self.state()?, range, &mut fresh)?;
        let claim = self.layer.claim(&self.core, &fresh)?;
        let file = self.file_for_write()?;
        self.layer.before_change(&range.blocks());
        self.put(&*file, range, data, ends)?;
        self.layer
            .publish(&self.core, BlockState::Present, &fresh, Some(claim))
            .map_err(|e| self.full(e))
    }

    // The data into the data file, with whole blocks wherever the layer had none of its own.
    fn put(&self, file: &dyn File, range: ByteRange, data: &[u8], ends: Ends) -> Result<()> {
        let written = match ends {
            Ends {
                head: None,
                tail: None,
            } => file.write_at(range.offset(), data),
            _ => {
                let whole = self.completed(file, range, data, ends);
                whole.and_then(|(start, whole)| file.write_at(start, &whole))
            }
        };
        written.map_err(|e| self.full(e).within(format!("layer {}", self.layer.id)))
    }

    fn file_for_write(&self) -> Result<Arc<dyn File>> {
        self.layer.file(&self.core).map_err(|e| self.full(e))
    }

    // The file system was full in spite of the reserve (a quota, another program): the owner is told.
    fn full(&self, e: Error) -> Error {
        if e.kind() == ErrorKind::NoSpace {
            self.layer.disk_is_full();
        }
        e
    }

    // What the first and the last block lack; the blocks that become present go to `fresh`.
    fn plan_write(&self, state: &State, range: ByteRange, fresh: &mut Vec<Span>) -> Result<Ends> {
        let blocks =
            span(&range.blocks()).ok_or_else(|| self.outside(range.offset(), range.len()))?;
        let absent = |block: u32| {
            let state = state.map.state(block);
            (state != BlockState::Present).then_some(state)
        };
        let head = if range.offset().is_multiple_of(BLOCK_BYTES) {
            None
        } else {
            absent(*blocks.start())
        };
        let whole_end = range.end().is_multiple_of(BLOCK_BYTES) || range.end() == self.size();
        let tail = if whole_end {
            None
        } else {
            absent(*blocks.end())
        };
        if blocks.start() == blocks.end() {
            if absent(*blocks.start()).is_some() {
                fresh.push(blocks);
            }
        } else {
            let runs = state.map.runs(&blocks);
            let absent = runs.filter(|(state, _)| *state != BlockState::Present);
            fresh.extend(absent.map(|(_, run)| run));
        }
        Ok(Ends { head, tail })
    }

    // The data with what its first and last block lack, and where it begins.
    fn completed(
        &self,
        file: &dyn File,
        range: ByteRange,
        data: &[u8],
        Ends { head, tail }: Ends,
    ) -> Result<(u64, Buffer)> {
        let start = if head.is_some() {
            range.offset() / BLOCK_BYTES * BLOCK_BYTES
        } else {
            range.offset()
        };
        let end = if tail.is_some() {
            range.end().next_multiple_of(BLOCK_BYTES).min(self.size())
        } else {
            range.end()
        };
        let before = usize::try_from(range.offset() - start).unwrap_or(0);
        let behind = usize::try_from(end - range.end()).unwrap_or(0);
        let mut whole = Buffer::take(before + data.len() + behind);
        let (first, rest) = whole.split_at_mut(before);
        let (middle, last) = rest.split_at_mut(data.len());
        self.complete(file, head, start, first)?;
        middle.copy_from_slice(data);
        self.complete(file, tail, range.end(), last)?;
        Ok((start, whole))
    }

    fn complete(
        &self,
        file: &dyn File,
        from: Option<BlockState>,
        offset: u64,
        out: &mut [u8],
    ) -> Result<()> {
        match from {
            Some(BlockState::Base) if !out.is_empty() => self.base.read(offset, out),
            Some(BlockState::Present) if !out.is_empty() => file.read_at(offset, out),
            _ => {
                out.fill(0);
                Ok(())
            }
        }
    }

    fn unmap_held(&self, range: ByteRange) -> Result<()> {
        self.layer
            .begin_change(&self.core, self.session, self.birth)?;
        let whole = self.whole_blocks(range);
        let (first, last) = (
            whole.start * BLOCK_BYTES,
            (whole.end * BLOCK_BYTES).min(self.size()),
        );
        if whole.is_empty() {
            // Parts of one block, or of two neighbours.
            let middle = first.min(range.end());
            self.zero_part(range.offset(), middle)?;
            return self.zero_part(middle, range.end());
        }
        self.zero_part(range.offset(), first)?;
        self.zero_part(last, range.end())?;
        let Some(blocks) = span(&whole) else {
            return Ok(());
        };
        self.layer.before_change(&whole);
        let (mut changed, mut freed) = (Vec::new(), Vec::new());
        // A limit counts present blocks: of a limited layer every trimmed block leaves the disk, or a node could
        // hold many times its limit by trimming in short runs.
        let shortest = match self.limits().most {
            Some(_) => 1,
            None => limits::LAYER_PUNCH_BLOCKS,
        };
        for (state, run) in self.state()?.map.runs(&blocks) {
            if state == BlockState::Present && span_len(&run) >= shortest {
                freed.push(run.clone());
            }
            if state != BlockState::Zero {
                changed.push(run);
            }
        }
        self.layer
            .publish(&self.core, BlockState::Zero, &changed, None)?;
        self.give_back(&freed);
        Ok(())
    }

    // The blocks that lie in `range` whole; the last one of the disk may be short.
    fn whole_blocks(&self, range: ByteRange) -> Range<u64> {
        let start = range.offset().div_ceil(BLOCK_BYTES);
        let end = if range.end() == self.size() {
            range.end().div_ceil(BLOCK_BYTES)
        } else {
            range.end() / BLOCK_BYTES
        };
        start..end
    }

    // Zeros in a part of one block: written, unless the block reads zeros anyway.
    fn zero_part(&self, from: u64, to: u64) -> Result<()> {
        let range = ByteRange::new(from, to.saturating_sub(from)).filter(|range| !range.is_empty());
        let Some((range, block)) = range.and_then(|range| Some((range, span(&range.blocks())?)))
        else {
            return Ok(());
        };
        if self.state()?.map.state(*block.start()) == BlockState::Zero {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(range.len()).unwrap_or(0)];
        self.write_held(range, &zeros)
    }

    // Safe at once: until the zero record is durable a power cut may show the old data or, in the blocks
    // still called present, the zeros of the hole. Both are what an unflushed UNMAP may leave.
    fn give_back(&self, freed: &[Span]) {
        let file = self.layer.state().file.clone();
        let Some(file) = file else { return };
        for run in freed {
            let from = u64::from(*run.start()) * BLOCK_BYTES;
            // A file system that cannot only keeps the space.
            let _ = file.punch(from, span_len(run) * BLOCK_BYTES);
        }
    }

    // --- bounds ---

    fn range(&self, offset: u64, len: usize) -> Result<ByteRange> {
        let range =
            ByteRange::new(offset, len as u64).ok_or_else(|| self.outside(offset, len as u64))?;
        self.check_bounds(range)?;
        Ok(range)
    }

    fn checked_len(&self, range: ByteRange) -> Result<usize> {
        self.check_bounds(range)?;
        usize::try_from(range.len()).map_err(|_| self.outside(range.offset(), range.len()))
    }

    fn check_bounds(&self, range: ByteRange) -> Result<()> {
        if range.fits(self.size()) {
            Ok(())
        } else {
            Err(self.outside(range.offset(), range.len()))
        }
    }

    fn outside(&self, offset: u64, len: u64) -> Error {
        let why = format!(
            "layer {}: {len} bytes at {offset} of a disk of {} bytes",
            self.layer.id,
            self.size()
        );
        Error::new(ErrorKind::OutOfBounds, why)
    }
}

// The part of `range` that a run of blocks covers.
fn clip(run: &Span, range: ByteRange) -> ByteRange {
    let blocks = ByteRange::new(
        u64::from(*run.start()) * BLOCK_BYTES,
        span_len(run) * BLOCK_BYTES,
    );
    let empty = ByteRange::new(range.offset(), 0).unwrap_or(range);
    blocks
        .and_then(|blocks| blocks.overlap(range))
        .unwrap_or(empty)
}

// Calls `fill(state, offset, out)` for the pieces that are not zeros; ends early when one is not ready.
fn each_piece(
    plan: &Plan,
    offset: u64,
    out: &mut [u8],
    mut fill: impl FnMut(BlockState, u64, &mut [u8]) -> Result<bool>,
) -> Result<bool> {
    let one;
    let pieces = match &plan.pieces {
        Pieces::One(state) => {
            one = [(*state, out.len())];
            &one[..]
        }
        Pieces::Many(all) => all,
    };
    let (mut at, mut rest) = (offset, out);
    for (state, len) in pieces {
        let (out, behind) = rest.split_at_mut((*len).min(rest.len()));
        rest = behind;
        if *state == BlockState::Zero {
            out.fill(0);
        } else if !fill(*state, at, out)? {
            return Ok(false);
        }
        at += *len as u64;
    }
    Ok(true)
}
