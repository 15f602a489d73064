//! Where the bytes of a file lie, and whether two files hold the same.
//!
//! ```text
//!   at one place on both disks, in no chunk that differs --> the same, not read
//!   a hole in both                                       --> the same, whatever its length
//!   anything else                                        --> read and compared; the first other byte ends it
//! ```

use super::window::{Changed, Window};
use crate::limits;
use crate::store::error::{Error, ErrorKind, Result};

/// A run of bytes of a file. What no extent holds reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First byte of the file.
    pub(super) at: u64,
    /// First byte of the partition.
    pub(super) disk: u64,
    /// Bytes, at least one.
    pub(super) len: u64,
}

/// Extents in the order of the file, none over another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extents(Vec<Extent>);

impl Extents {
    /// Adds one that lies behind all others; `None` when it does not, is empty, or they are too many.
    pub(super) fn push(&mut self, extent: Extent) -> Option<()> {
        let end = self
            .0
            .last()
            .map_or(Some(0), |last| last.at.checked_add(last.len));
        let fits = extent.at >= end? && extent.len > 0;
        let ends = extent.at.checked_add(extent.len).is_some();
        if !fits || !ends || extent.disk.checked_add(extent.len).is_none() {
            return None;
        }
        if self.0.len() >= limits::DIFF_EXTENTS_MAX {
            return None;
        }
        self.0.push(extent);
        Some(())
    }

    /// Drops what lies at or behind `len` of the file.
    pub(super) fn trim(&mut self, len: u64) {
        self.0.retain(|extent| extent.at < len);
        if let Some(last) = self.0.last_mut() {
            last.len = last.len.min(len - last.at);
        }
    }

    /// First bytes of the file that lie together, and the bytes behind them.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|one| (one.at, one.at + one.len))
    }

    /// How many bytes from `at` on lie together, and where on the disk; `None` for a hole.
    fn span(&self, at: u64) -> (u64, Option<u64>) {
        let behind = self
            .0
            .partition_point(|extent| extent.at + extent.len <= at);
        match self.0.get(behind) {
            None => (u64::MAX - at, None),
            Some(extent) if at < extent.at => (extent.at - at, None),
            Some(extent) => {
                let into = at - extent.at;
                (extent.len - into, Some(extent.disk + into))
            }
        }
    }

    /// Fills a buffer from a byte of the file.
    pub(super) fn read(&self, window: &Window, mut at: u64, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            let (len, disk) = self.span(at);
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(out.len());
            let (part, rest) = out.split_at_mut(len);
            match disk {
                Some(disk) => window.read(disk, part)?,
                None => part.fill(0),
            }
            out = rest;
            at = at.saturating_add(len as u64);
        }
        Ok(())
    }
}

/// How a stream is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// In the records of the file system itself.
    Here(Vec<u8>),
    /// In places of the partition.
    There(Extents),
}

/// Bytes of a file that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    /// What it is, in the file system's own bytes; of no meaning here but to be equal.
    pub(super) key: Vec<u8>,
    /// Bytes.
    pub(super) size: u64,
    /// Where they are.
    pub(super) held: Held,
}

impl Stream {
    fn span(&self, at: u64) -> (u64, Option<u64>) {
        match &self.held {
            Held::Here(_) => (self.size - at, None),
            Held::There(extents) => extents.span(at),
        }
    }

    /// True when a place without an extent is zeros.
    const fn has_holes(&self) -> bool {
        matches!(self.held, Held::There(_))
    }

    fn read(&self, window: &Window, at: u64, out: &mut [u8]) -> Result<()> {
        match &self.held {
            Held::There(extents) => extents.read(window, at, out),
            Held::Here(bytes) => {
                let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
                let from = from.and_then(|bytes| bytes.get(..out.len()));
                let short = || Error::new(ErrorKind::InvalidFormat, "a file ends before its size");
                out.copy_from_slice(from.ok_or_else(short)?);
                Ok(())
            }
        }
    }
}

/// Two disks, and in which chunks they differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Both<'a> {
    pub(super) old: &'a Window,
    pub(super) new: &'a Window,
    pub(super) changed: Changed<'a>,
}

impl Both<'_> {
    /// True when the streams are as many, of the same keys and sizes, and hold the same bytes.
    pub(super) fn same(&self, old: &[Stream], new: &[Stream]) -> Result<bool> {
        let alike = |(a, b): (&Stream, &Stream)| a.key == b.key && a.size == b.size;
        if old.len() != new.len() || !old.iter().zip(new).all(alike) {
            return Ok(false);
        }
        for (a, b) in old.iter().zip(new) {
            if !self.same_stream(a, b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn same_stream(&self, a: &Stream, b: &Stream) -> Result<bool> {
        let mut buffers = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < a.size {
            let ((len_a, place_a), (len_b, place_b)) = (a.span(at), b.span(at));
            let mut len = len_a.min(len_b).min(a.size - at);
            match (place_a, place_b) {
                (None, None) if a.has_holes() && b.has_holes() => {
                    at += len;
                    continue;
                }
                (Some(place), Some(other)) if place == other => {
                    let next = self.changed.next(place).unwrap_or(u64::MAX);
                    let unchanged = next.saturating_sub(place).min(len);
                    if unchanged > 0 {
                        at += unchanged;
                        continue;
                    }
                    let here = self.changed.start.saturating_add(place);
                    len = len.min(limits::CHUNK_BYTES - here % limits::CHUNK_BYTES);
                }
                _ => {}
            }
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let len = len.min(limits::CHUNK_LEN);
            buffers.0.resize(len, 0);
            buffers.1.resize(len, 0);
            a.read(self.old, at, &mut buffers.0)?;
            b.read(self.new, at, &mut buffers.1)?;
            if buffers.0 != buffers.1 {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod test {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::store::disk_memory::Sparse;

    const CHUNK: u64 = limits::CHUNK_BYTES;

    fn disk(bytes: &[u8]) -> Window {
        let mut disk = Sparse::default();
        disk.write(0, bytes);
        Window::in_memory(disk)
    }

    fn stream(size: u64, list: &[(u64, u64, u64)]) -> Stream {
        let mut extents = Extents::default();
        for &(at, disk, len) in list {
            extents.push(Extent { at, disk, len }).unwrap();
        }
        let held = Held::There(extents);
        Stream {
            key: Vec::new(),
            size,
            held,
        }
    }

    #[test]
    fn extents_over_each_other_empty_or_past_all_numbers_are_refused() {
        let mut extents = Extents::default();
        let mut push = |at, disk, len| extents.push(Extent { at, disk, len }).is_some();
        assert!(push(10, 0, 10));
        assert!(!push(19, 0, 1));
        assert!(!push(20, 0, 0));
        assert!(!push(20, u64::MAX, 2));
        assert!(!push(u64::MAX, 0, 2));
        assert!(push(20, 0, 1));
    }

    #[test]
    fn a_huge_hole_costs_nothing_and_equals_written_zeros() {
        let window = disk(&[0; 8192]);
        let both = Both {
            old: &window,
            new: &window,
            changed: Changed {
                chunks: &[0],
                start: 0,
            },
        };
        let hole = stream(1 << 50, &[]);
        let hole = std::slice::from_ref(&hole);
        assert!(both.same(hole, hole).unwrap());
        let written = stream(1 << 50, &[(1 << 40, 0, 8192)]);
        assert!(both.same(hole, &[written]).unwrap());
    }

    #[test]
    fn bytes_in_records_are_compared_with_bytes_in_places() {
        let window = disk(b"....abcd");
        let both = Both {
            old: &window,
            new: &window,
            changed: Changed {
                chunks: &[],
                start: 0,
            },
        };
        let here = |text: &[u8]| Stream {
            key: Vec::new(),
            size: 4,
            held: Held::Here(text.to_vec()),
        };
        assert!(
            both.same(&[here(b"abcd")], &[stream(4, &[(0, 4, 4)])])
                .unwrap()
        );
        assert!(
            !both
                .same(&[here(b"abcx")], &[stream(4, &[(0, 4, 4)])])
                .unwrap()
        );
        assert!(!both.same(&[here(b"\0\0\0x")], &[stream(4, &[])]).unwrap());
        assert!(
            both.same(&[here(b"abc")], &[stream(4, &[(0, 4, 4)])])
                .is_err()
        );
    }

    fn layout() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
        let part = (0..3_u64, 0..5 * CHUNK, 1..2 * CHUNK);
        prop::collection::vec(part, 0..6).prop_map(|parts| {
            let mut end = 0;
            let one = |(gap, disk, len): (u64, u64, u64)| {
                let at = end + gap * 700;
                end = at + len;
                (at, disk, len)
            };
            parts.into_iter().map(one).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The oracle reads both files whole.
        #[test]
        fn the_comparison_agrees_with_reading_everything(
            old_layout in layout(),
            other_layout in layout(),
            one_layout in any::<bool>(),
            pokes in prop::collection::vec((0..7 * CHUNK, any::<u8>()), 0..3),
            size in 0..12 * CHUNK,
            start_odd in any::<bool>(),
        ) {
            let start = if start_odd { 4096 } else { 0 };
            let whole = vec![0_u8; usize::try_from(7 * CHUNK).unwrap()];
            let mut poked = whole.clone();
            for (at, byte) in pokes {
                poked[usize::try_from(at).unwrap()] = byte;
            }
            let chunk = |n: u64| {
                let at = |end: u64| usize::try_from((end * CHUNK).saturating_sub(start)).unwrap();
                let range = at(n)..at(n + 1).min(whole.len());
                whole[range.clone()] != poked[range]
            };
            let chunks: Vec<u64> = (0..=7).filter(|n| chunk(*n)).collect();
            let new_layout = if one_layout { &old_layout } else { &other_layout };
            let (a, b) = (stream(size, &old_layout), stream(size, new_layout));
            let (old, new) = (disk(&whole), disk(&poked));
            let read = |stream: &Stream, window: &Window| {
                let mut out = vec![0; usize::try_from(size).unwrap()];
                stream.read(window, 0, &mut out).unwrap();
                out
            };
            let expected = read(&a, &old) == read(&b, &new);
            let both = Both {
                old: &old,
                new: &new,
                changed: Changed { chunks: &chunks, start },
            };
            prop_assert_eq!(both.same(&[a], &[b]).unwrap(), expected);
        }
    }

    #[test]
    fn what_did_not_change_is_not_read() {
        let mut sparse = Sparse::default();
        sparse.set_len(1 << 30);
        let window = Window::in_memory(sparse);
        let shared = Arc::new(stream(1 << 29, &[(0, 0, 1 << 29)]));
        let both = Both {
            old: &window,
            new: &window,
            changed: Changed {
                chunks: &[5],
                start: 0,
            },
        };
        let streams = std::slice::from_ref(&*shared);
        // The budget is for four readings of the disk; a thousand comparisons of half of it fit.
        for _ in 0..1000 {
            assert!(both.same(streams, streams).unwrap());
        }
    }
}
