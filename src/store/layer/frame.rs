//! Frames: the checksummed, chained envelopes in which all logs are written (`docs/formats/layer.md`).
//!
//! A frame counts only if its own checksum is right and it names the checksum of the frame before it. So a
//! torn tail, an old content of the file, or what is left of an append that failed is never taken for news.

use std::sync::Arc;

use super::entry::{Entries, Entry};
use crate::limits;
use crate::store::disk::{Disk, File, OpenMode};
use crate::store::{Error, ErrorKind, Result};

const MAGIC: u32 = u32::from_le_bytes(*b"RVLF");
/// Bytes before the payload.
pub(super) const FRAME_HEAD: usize = 32;
const ALIGN: usize = 8;

/// What a log is for; a frame of one is never taken for a frame of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Journal = 1,
    Checkpoint = 2,
    Soft = 3,
}

/// A place in a log: behind a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Bytes before this place.
    pub(super) end: u64,
    /// Number of the next frame.
    pub(super) seq: u32,
    /// Checksum of the frame before.
    pub(super) crc: u32,
}

/// Writes frames one behind the other.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) file: Arc<dyn File>,
    pub(super) role: Role,
    pub(super) epoch: u32,
    /// Mark of the writer in every frame, 24 bits (soft log: from the host's boot id).
    pub(super) stamp: u32,
    pub(super) mark: Mark,
    // Bytes already written with zeros ahead, so that an append does not change the file's size.
    ahead: u64,
    step: u64,
}

impl Log {
    /// Makes a new file. Nothing in it is durable before a sync of the file and its directory.
    pub(super) fn create(
        disk: &dyn Disk,
        path: &str,
        role: Role,
        epoch: u32,
        step: u64,
    ) -> Result<Self> {
        Ok(Self {
            file: disk.open(path, OpenMode::CreateNew)?,
            role,
            epoch,
            stamp: 0,
            mark: Mark::default(),
            ahead: 0,
            step,
        })
    }

    /// Goes on behind `mark` in a file of `len` bytes.
    pub(super) fn resume(
        file: Arc<dyn File>,
        role: Role,
        epoch: u32,
        mark: Mark,
        len: u64,
        step: u64,
    ) -> Self {
        Self {
            file,
            role,
            epoch,
            stamp: 0,
            mark,
            ahead: len,
            step,
        }
    }

    /// Writes `entries` and says where the log would then end. The log itself goes on from there only
    /// after [`Log::advance`]: an append that failed is written over by the next one.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<Mark> {
        let (bytes, mark) = self.frames(entries);
        if mark.end > self.ahead && self.step > 0 {
            // Never over frames: zeros that could not be written once leave `ahead` behind the mark.
            let from = self.ahead.max(self.mark.end);
            let to = mark.end.next_multiple_of(self.step);
            let zeros = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
            // Only speed is lost when there is no room for it.
            if self.file.write_at(from, &zeros).is_ok() {
                self.ahead = to;
            }
        }
        self.file.write_at(self.mark.end, &bytes)?;
        Ok(mark)
    }

    /// Accepts what `append` wrote.
    pub(super) fn advance(&mut self, mark: Mark) {
        self.mark = mark;
    }

    fn frames(&self, entries: &[Entry]) -> (Vec<u8>, Mark) {
        let mut mark = self.mark;
        let batch = mark.seq;
        let (mut out, mut payload) = (Vec::new(), Vec::new());
        let mut rest = entries.iter().peekable();
        while let Some(entry) = rest.next() {
            entry.encode(&mut payload);
            if rest.peek().is_none() || payload.len() >= limits::LAYER_FRAME_BYTES {
                self.seal(&mut payload, batch, &mut mark, &mut out);
            }
        }
        (out, mark)
    }

    fn seal(&self, payload: &mut Vec<u8>, batch: u32, mark: &mut Mark, out: &mut Vec<u8>) {
        payload.resize(payload.len().next_multiple_of(ALIGN), 0);
        let len = u32::try_from(payload.len()).expect("maps of 2^32 blocks serialize below 4 GiB");
        let start = out.len();
        for word in [
            MAGIC,
            len,
            self.epoch,
            mark.seq,
            batch,
            mark.crc,
            self.role as u32 | self.stamp << 8,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), payload);
        out.extend_from_slice(&crc.to_le_bytes());
        out.append(payload);
        *mark = Mark {
            end: mark.end + (out.len() - start) as u64,
            seq: mark.seq.wrapping_add(1),
            crc,
        };
    }
}

/// One frame in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    seq: u32,
    batch: u32,
    previous: u32,
    crc: u32,
    pub(super) payload: &'a [u8],
}

/// Reads the valid run of a log.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    role: Role,
    epoch: u32,
    stamp: Option<u32>,
    pub(super) mark: Mark,
}

impl<'a> Cursor<'a> {
    /// With a `stamp` only frames that bear it count.
    pub(super) fn new(bytes: &'a [u8], role: Role, epoch: u32, stamp: Option<u32>) -> Self {
        Self {
            bytes,
            role,
            epoch,
            stamp,
            mark: Mark::default(),
        }
    }

    /// What stands behind the valid run.
    fn rest(&self) -> &'a [u8] {
        let at = usize::try_from(self.mark.end).unwrap_or(usize::MAX);
        self.bytes.get(at..).unwrap_or_default()
    }

    /// True when only zeros (or nothing) follow the valid run.
    pub(super) fn is_clean(&self) -> bool {
        self.rest().iter().all(|byte| *byte == 0)
    }

    /// Frames behind the break that were certainly written after the broken one was accepted: proof that
    /// the break is damage, not a torn tail. Also the broken frame itself, as far as it can be read.
    pub(super) fn behind_break(&self) -> Vec<&'a [u8]> {
        let rest = self.rest();
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(bytes) = rest.get(at..) {
            if bytes.len() < FRAME_HEAD {
                break;
            }
            match self.parse(bytes) {
                Some(frame) if at > 0 && frame.batch > self.mark.seq => {
                    found.push(frame.payload);
                    at += FRAME_HEAD + frame.payload.len();
                }
                _ => at += ALIGN,
            }
        }
        if !found.is_empty() {
            let broken = rest.get(FRAME_HEAD..).unwrap_or_default();
            let len = rest
                .get(4..8)
                .and_then(|b| b.first_chunk())
                .map(|b| u32::from_le_bytes(*b));
            let len = usize::try_from(len.unwrap_or(0))
                .unwrap_or(0)
                .min(broken.len());
            found.push(&broken[..len]);
        }
        found
    }

    // A frame that is right in itself; whether it is the expected one is the caller's business.
    fn parse(&self, bytes: &'a [u8]) -> Option<Frame<'a>> {
        if !bytes.starts_with(&MAGIC.to_le_bytes()) {
            return None;
        }
        let (head, body) = bytes.split_at_checked(FRAME_HEAD)?;
        let mut words = [0; FRAME_HEAD / 4];
        for (word, raw) in words.iter_mut().zip(head.chunks_exact(4)) {
            *word = u32::from_le_bytes(*raw.first_chunk()?);
        }
        let [_magic, len, epoch, seq, batch, previous, role, crc] = words;
        let stamped = self.stamp.is_none_or(|stamp| stamp == role >> 8);
        if epoch != self.epoch || role & 0xff != self.role as u32 || !stamped {
            return None;
        }
        let payload = body.get(..usize::try_from(len).ok()?)?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..FRAME_HEAD - 4]), payload);
        (sum == crc).then_some(Frame {
            seq,
            batch,
            previous,
            crc,
            payload,
        })
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let frame = self.parse(self.rest())?;
        if frame.seq != self.mark.seq || frame.previous != self.mark.crc {
            return None;
        }
        self.mark = Mark {
            end: self.mark.end + (FRAME_HEAD + frame.payload.len()) as u64,
            seq: frame.seq.wrapping_add(1),
            crc: frame.crc,
        };
        Some(frame)
    }
}

impl<'a> Frame<'a> {
    /// Its entries.
    pub(super) fn entries(&self) -> Entries<'a> {
        Entries(self.payload)
    }
}

/// A whole log file in memory.
pub(super) fn read_all(file: &dyn File, path: &str) -> Result<Vec<u8>> {
    let len = file.len()?;
    if len > limits::LAYER_LOG_BYTES_MAX {
        let why = format!(
            "{path} has {len} bytes, more than any log of ours; move it away and start again"
        );
        return Err(Error::new(ErrorKind::Corrupt, why));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}
