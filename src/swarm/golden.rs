//! The golden bytes: what the image holds where the trace reads, once in memory for all nodes. Pure.

use crate::limits::SWARM_GOLDEN_BYTES_MAX;

use super::error::Error;

/// Bytes of the image, by their places on the disk.
#[derive(Debug, Default)]
pub struct Golden {
    /// First byte on the disk, end, and where it lies in `bytes`; sorted, apart from each other.
    ranges: Vec<(u64, u64, usize)>,
    bytes: Vec<u8>,
}

/// Ranges of offset and length as sorted ones that neither touch nor overlap: first byte and end.
pub(super) fn merged(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = ranges
        .filter(|(_, len)| *len > 0)
        .map(|(offset, len)| (offset, offset.saturating_add(len)))
        .collect();
    all.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, end) in all {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

impl Golden {
    /// Reads `ranges` (first byte and end, as `Plan::read_ranges` gives them) by `read`.
    ///
    /// # Errors
    /// More bytes than one swarm holds; what `read` says.
    pub fn load<E: From<Error>>(
        ranges: &[(u64, u64)],
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let total: u64 = ranges.iter().map(|(start, end)| end - start).sum();
        if total > SWARM_GOLDEN_BYTES_MAX {
            let why = format!(
                "the trace reads {total} different bytes, but at most {SWARM_GOLDEN_BYTES_MAX} are held for \
                 comparison; give --verify none, or a shorter trace"
            );
            return Err(Error::invalid(why).into());
        }
        let mut golden = Self {
            ranges: Vec::with_capacity(ranges.len()),
            bytes: vec![0; usize::try_from(total).unwrap_or(0)],
        };
        let mut rest = golden.bytes.as_mut_slice();
        let mut at = 0;
        for &(start, end) in ranges {
            let len = usize::try_from(end - start).unwrap_or(0);
            let Some((piece, more)) = std::mem::take(&mut rest).split_at_mut_checked(len) else {
                break;
            };
            read(start, piece)?;
            golden.ranges.push((start, end, at));
            at += len;
            rest = more;
        }
        Ok(golden)
    }

    /// Bytes held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True when nothing is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Where the byte at `offset` of the disk lies here, if `len` bytes from there are held.
    pub(super) fn place(&self, offset: u64, len: u64) -> Option<usize> {
        let after = self.ranges.partition_point(|r| r.0 <= offset);
        let &(start, end, at) = self.ranges.get(after.checked_sub(1)?)?;
        if offset.checked_add(len)? > end {
            return None;
        }
        Some(at + usize::try_from(offset - start).ok()?)
    }

    /// Bytes from a place that [`Golden::place`] gave.
    pub(super) fn at(&self, place: usize, len: usize) -> &[u8] {
        let end = place.saturating_add(len);
        self.bytes.get(place..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn byte_at(offset: u64) -> u8 {
        u8::try_from(offset.wrapping_mul(167) % 251).unwrap()
    }

    fn load(ranges: &[(u64, u64)]) -> Golden {
        let read = |offset: u64, out: &mut [u8]| {
            for (at, byte) in (offset..).zip(out) {
                *byte = byte_at(at);
            }
            Ok::<_, Error>(())
        };
        Golden::load(ranges, read).unwrap()
    }

    proptest! {
        #[test]
        fn every_range_asked_for_is_found_whole(asked in prop::collection::vec((0u64..9000, 0u64..700), 0..40)) {
            let ranges = merged(asked.iter().copied());
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].1 < pair[1].0);
            }
            let golden = load(&ranges);
            for (offset, len) in asked.into_iter().filter(|(_, len)| *len > 0) {
                let place = golden.place(offset, len).unwrap();
                let bytes = golden.at(place, usize::try_from(len).unwrap());
                prop_assert_eq!(bytes.len() as u64, len);
                for (at, byte) in (offset..).zip(bytes) {
                    prop_assert_eq!(*byte, byte_at(at));
                }
            }
            prop_assert_eq!(golden.place(20_000, 1), None);
        }
    }

    #[test]
    fn more_than_may_be_held_is_refused_before_memory_is_taken() {
        let end = SWARM_GOLDEN_BYTES_MAX + 1;
        let error = Golden::load(&[(0, end)], |_, _| Ok::<_, Error>(())).unwrap_err();
        assert!(error.to_string().contains("--verify none"), "{error}");
    }
}
