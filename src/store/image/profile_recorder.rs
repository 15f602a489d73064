//! Records which chunks of an image one boot reads, beside its reads: no lock, no allocation, and after a chunk's
//! first read one load of a bit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::profile::Touch;
use super::sealed::Image;
use crate::limits::{CHUNK_BYTES, PROFILE_CHUNKS_MAX, PROFILE_DISK_CHUNKS_MAX};
use crate::store::ImageId;
use crate::store::Payload;
use crate::store::error::Result;
use crate::store::volume::Base;

/// The record of one boot.
pub struct Recorder {
    open: AtomicBool,
    began: Instant,
    /// A bit for each chunk of the disk: it was read.
    seen: Box<[AtomicU64]>,
    /// Chunk number plus one, then milliseconds, 32 bits each, in the order of first reading.
    log: Box<[AtomicU64]>,
    used: AtomicUsize,
}

impl Recorder {
    /// For a disk of `chunks` chunks; `None` for one so large that its bits would cost too much.
    #[must_use]
    pub fn new(chunks: u64) -> Option<Self> {
        let chunks = usize::try_from(chunks).ok()?;
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        (chunks <= PROFILE_DISK_CHUNKS_MAX).then(|| Self {
            open: AtomicBool::new(true),
            began: Instant::now(),
            seen: zeros(chunks.div_ceil(64)),
            log: zeros(chunks.min(PROFILE_CHUNKS_MAX)),
            used: AtomicUsize::new(0),
        })
    }

    /// A read of the image.
    pub fn note(&self, offset: u64, len: usize) {
        // Relaxed throughout: the bits only say who is first, and the log is read after the boot.
        if len == 0 || !self.open.load(Ordering::Relaxed) {
            return;
        }
        let last = (offset + (len as u64 - 1)) / CHUNK_BYTES;
        for chunk in offset / CHUNK_BYTES..=last {
            self.touch(chunk);
        }
    }

    fn touch(&self, chunk: u64) {
        let bit = 1 << (chunk % 64);
        let word = usize::try_from(chunk / 64).ok();
        let Some(word) = word.and_then(|at| self.seen.get(at)) else {
            return;
        };
        if word.load(Ordering::Relaxed) & bit != 0
            || word.fetch_or(bit, Ordering::Relaxed) & bit != 0
        {
            return;
        }
        let at = self.used.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = self.log.get(at) {
            let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            entry.store(
                (chunk + 1) << 32 | ms.min(u64::from(u32::MAX)),
                Ordering::Relaxed,
            );
        }
    }

    /// Chunks read so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used.load(Ordering::Relaxed).min(self.log.len())
    }

    /// True before the first read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the record. What was read, in order; chunks of zeros, which cost nothing, are left out.
    #[must_use]
    pub fn close(&self, image: &Image) -> Vec<Touch> {
        self.open.store(false, Ordering::Relaxed);
        let touch = |entry: &AtomicU64| {
            let entry = entry.load(Ordering::Relaxed);
            let chunk = (entry >> 32).checked_sub(1)?;
            image.chunk_id(chunk)?;
            Some(Touch {
                chunk: u32::try_from(chunk).ok()?,
                ms: u32::try_from(entry & u64::from(u32::MAX)).unwrap_or(u32::MAX),
            })
        };
        self.log.iter().take(self.len()).filter_map(touch).collect()
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorder({} chunks)", self.len())
    }
}

/// An image whose reads are recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The image.
    pub image: Arc<Image>,
    /// The record.
    pub recorder: Arc<Recorder>,
}

impl Base for Recorded {
    fn id(&self) -> ImageId {
        self.image.id()
    }
    fn size(&self) -> u64 {
        self.image.size()
    }
    fn try_share(&self, offset: u64, len: usize) -> Result<Option<Payload>> {
        self.recorder.note(offset, len);
        self.image.try_share(offset, len)
    }
    fn try_read(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.recorder.note(offset, out.len());
        self.image.try_read(offset, out)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.recorder.note(offset, out.len());
        self.image.read(offset, out)
    }
}
