//! Block operations on a volume: every way a command may touch the disk, and what each failure means to SCSI.

use crate::limits;
use crate::scsi::{BlockOp, Extent, Failure, Move, Outcome, Provision};
use crate::store::volume::{Compared, ExtentState};
use crate::store::{Buffer, Error, ErrorKind, Payload, Result, Volume};
use crate::units::{ByteRange, SECTOR_BYTES};

/// What this file needs of a volume, so that a test can stand in for one.
#[expect(missing_docs, reason = "each is the volume's function of that name")]
pub trait Medium {
    fn read(&self, range: ByteRange) -> Result<Payload>;
    fn write(&self, offset: u64, data: &[u8]) -> Result<()>;
    fn write_many(&self, writes: &[(u64, &[u8])]) -> Vec<Result<()>> {
        let one = |(offset, data): &(u64, &[u8])| self.write(*offset, data);
        writes.iter().map(one).collect()
    }
    fn flush(&self) -> Result<()>;
    fn unmap(&self, range: ByteRange) -> Result<()>;
    fn extent(&self, offset: u64, len: u64) -> Result<(ExtentState, u64)>;
    fn compare_and_write(&self, offset: u64, old: &[u8], new: &[u8]) -> Result<Compared>;
    fn or_write(&self, offset: u64, data: &[u8]) -> Result<()>;
    fn write_atomic(&self, offset: u64, data: &[u8]) -> Result<()>;
    fn provision(&self) -> Result<Provision>;
}

impl Medium for Volume {
    fn read(&self, range: ByteRange) -> Result<Payload> {
        Self::read(self, range)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        Self::write(self, offset, data)
    }
    fn write_many(&self, writes: &[(u64, &[u8])]) -> Vec<Result<()>> {
        Self::write_many(self, writes)
    }
    fn flush(&self) -> Result<()> {
        Self::flush(self)
    }
    fn unmap(&self, range: ByteRange) -> Result<()> {
        Self::unmap(self, range)
    }
    fn extent(&self, offset: u64, len: u64) -> Result<(ExtentState, u64)> {
        Self::extent(self, offset, len)
    }
    fn compare_and_write(&self, offset: u64, old: &[u8], new: &[u8]) -> Result<Compared> {
        Self::compare_and_write(self, offset, old, new)
    }
    fn or_write(&self, offset: u64, data: &[u8]) -> Result<()> {
        Self::or_write(self, offset, data)
    }
    fn write_atomic(&self, offset: u64, data: &[u8]) -> Result<()> {
        Self::write_atomic(self, offset, data)
    }
    fn provision(&self) -> Result<Provision> {
        let told = self.provisioned()?;
        Ok(Provision {
            used_bytes: told.used,
            available_bytes: told.available,
            shared: told.shared,
        })
    }
}

/// What a failure of the store means to SCSI, on the way in (`writing`) or out.
pub(super) const fn failure(kind: ErrorKind, writing: bool) -> Failure {
    match kind {
        ErrorKind::NoSpace => Failure::OutOfSpace,
        ErrorKind::Fenced | ErrorKind::Cancelled => Failure::Fenced,
        ErrorKind::Poisoned => Failure::MediumWrite,
        ErrorKind::Io if writing => Failure::MediumWrite,
        ErrorKind::Io | ErrorKind::NotFound => Failure::MediumRead,
        ErrorKind::Corrupt => Failure::Corrupt,
        ErrorKind::InvalidFormat
        | ErrorKind::Unsupported
        | ErrorKind::OutOfBounds
        | ErrorKind::Busy
        | ErrorKind::NewerVersion => Failure::Internal,
    }
}

/// How an operation ends that the store did not do. A medium that cannot be read names its first bad block.
pub(super) fn failed(e: &Error, writing: bool) -> Outcome {
    match (failure(e.kind(), writing), e.disk_offset()) {
        (Failure::Corrupt | Failure::MediumRead, Some(offset)) => Outcome::Unreadable {
            lba: offset / SECTOR_BYTES,
        },
        (failure, _) => Outcome::Failed(failure),
    }
}

/// True when the operation changes the disk.
pub(super) const fn writes(op: &BlockOp) -> bool {
    !matches!(
        op,
        BlockOp::Read(_) | BlockOp::Compare { .. } | BlockOp::Extents { .. } | BlockOp::Provision
    )
}

/// A write that nothing waits for beyond its own end: several may share a job.
pub(super) const fn is_plain_write(op: &BlockOp) -> bool {
    matches!(op, BlockOp::Write { fua: false, .. })
}

/// Bytes that the operation brings to the disk, for the counters.
pub(super) const fn written_bytes(op: &BlockOp) -> u64 {
    match op {
        BlockOp::Write { range, .. }
        | BlockOp::WriteAtomic { range, .. }
        | BlockOp::WriteCompare { range }
        | BlockOp::CompareAndWrite { range, .. }
        | BlockOp::OrWrite { range, .. } => range.len(),
        _ => 0,
    }
}

/// Runs `op` with its data-out; may block. The payload is that of a READ; the kind says what the store met.
pub fn run(
    medium: &impl Medium,
    op: &BlockOp,
    data: &[u8],
) -> (Outcome, Option<Payload>, Option<ErrorKind>) {
    if let BlockOp::Read(range) = op {
        return match medium.read(*range) {
            Ok(payload) => (Outcome::Done, Some(payload), None),
            Err(e) => (failed(&e, false), None, Some(e.kind())),
        };
    }
    match change(medium, op, data) {
        Ok(outcome) => (outcome, None, None),
        Err(e) => {
            let (outcome, kind) = told(&e, writes(op));
            (outcome, None, Some(kind))
        }
    }
}

fn told(e: &Error, writing: bool) -> (Outcome, ErrorKind) {
    tracing::debug!(error = %e, "block operation failed");
    (failed(e, writing), e.kind())
}

/// Runs plain writes in the order given, each with its data-out; may block. Says of each how it ended.
pub(super) fn run_writes<'a>(
    medium: &impl Medium,
    writes: &[(ByteRange, &'a [u8])],
) -> Vec<(Outcome, Option<ErrorKind>)> {
    let whole = |(range, data): &(ByteRange, &'a [u8])| {
        let len = usize::try_from(range.len()).ok()?;
        Some((range.offset(), data.get(..len)?))
    };
    let all: Vec<(u64, &[u8])> = writes.iter().filter_map(whole).collect();
    let mut done = medium.write_many(&all).into_iter();
    let outcome = |one| match whole(one).and_then(|_| done.next()) {
        Some(Ok(())) => (Outcome::Done, None),
        Some(Err(e)) => {
            let (outcome, kind) = told(&e, true);
            (outcome, Some(kind))
        }
        // Too little data is our own fault.
        None => (Outcome::Failed(Failure::Internal), None),
    };
    writes.iter().map(outcome).collect()
}

fn change(medium: &impl Medium, op: &BlockOp, data: &[u8]) -> Result<Outcome> {
    match op {
        BlockOp::Read(_) => Ok(Outcome::Failed(Failure::Internal)),
        BlockOp::Write { range, fua } => with(data, *range, |data| {
            medium.write(range.offset(), data)?;
            flush_if(medium, *fua)
        }),
        BlockOp::WriteAtomic { range, fua } => with(data, *range, |data| {
            medium.write_atomic(range.offset(), data)?;
            flush_if(medium, *fua)
        }),
        BlockOp::Copy {
            moves,
            list,
            segments,
            fua,
        } => Ok(copy(medium, moves, (*list, *segments), *fua)),
        // Not of a volume alone: the executor has them.
        BlockOp::Sanitize { .. } | BlockOp::SanitizeForgotten => {
            Ok(Outcome::Failed(Failure::Internal))
        }
        BlockOp::Flush => medium.flush().map(|()| Outcome::Done),
        BlockOp::Unmap { ranges, fua } => {
            for range in ranges {
                medium.unmap(*range)?;
            }
            flush_if(medium, *fua)
        }
        BlockOp::WriteSame {
            range,
            pattern,
            fua,
        } => {
            match pattern {
                Some(sector) => repeat(medium, *range, sector.as_slice())?,
                None => medium.unmap(*range)?,
            }
            flush_if(medium, *fua)
        }
        BlockOp::Compare { range, one_block } => compare(medium, *range, data, *one_block),
        BlockOp::WriteCompare { range } => with(data, *range, |data| {
            medium.write(range.offset(), data)?;
            medium.flush()?;
            compare(medium, *range, data, false)
        }),
        BlockOp::CompareAndWrite { range, fua } => compare_and_write(medium, *range, data, *fua),
        BlockOp::OrWrite { range, fua } => with(data, *range, |data| {
            medium.or_write(range.offset(), data)?;
            flush_if(medium, *fua)
        }),
        BlockOp::Extents { range, count_max } => extents(medium, *range, *count_max),
        BlockOp::Provision => medium.provision().map(Outcome::Provision),
    }
}

/// Runs `f` on as much of the data-out as the range has; too little is our own fault.
fn with(
    data: &[u8],
    range: ByteRange,
    f: impl FnOnce(&[u8]) -> Result<Outcome>,
) -> Result<Outcome> {
    match usize::try_from(range.len())
        .ok()
        .and_then(|len| data.get(..len))
    {
        Some(data) => f(data),
        None => Ok(Outcome::Failed(Failure::Internal)),
    }
}

fn flush_if(medium: &impl Medium, fua: bool) -> Result<Outcome> {
    if fua {
        medium.flush()?;
    }
    Ok(Outcome::Done)
}

/// The range in runs of bounded length.
fn compare_passes(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let count = range.len().div_ceil(limits::PASS_BYTES);
    (0..count).filter_map(move |n| {
        let done = n * limits::PASS_BYTES;
        let len = (range.len() - done).min(limits::PASS_BYTES);
        ByteRange::new(range.offset() + done, len)
    })
}

/// Writes one sector over and over.
fn repeat(medium: &impl Medium, range: ByteRange, block: &[u8]) -> Result<()> {
    let size = usize::try_from(range.len().min(limits::PASS_BYTES)).unwrap_or(usize::MAX);
    let mut pattern = Buffer::take(size);
    for chunk in pattern.chunks_mut(block.len()) {
        chunk.copy_from_slice(&block[..chunk.len()]);
    }
    for pass in compare_passes(range) {
        let len = usize::try_from(pass.len()).unwrap_or(size);
        medium.write(pass.offset(), &pattern[..len.min(size)])?;
    }
    Ok(())
}

/// EXTENDED COPY: moves one after the other, each in passes of bounded size.
fn copy(
    medium: &impl Medium,
    moves: &[Move],
    (list, segments): (Option<u8>, u16),
    fua: bool,
) -> Outcome {
    let mut done = 0;
    let mut failed = None;
    for one in moves {
        if let Err(e) = move_blocks(medium, *one) {
            tracing::debug!(error = %e, "EXTENDED COPY failed");
            failed = Some(failure(e.kind(), true));
            break;
        }
        done += 1;
    }
    if failed.is_none()
        && fua
        && let Err(e) = medium.flush()
    {
        failed = Some(failure(e.kind(), true));
    }
    Outcome::Copied {
        list,
        segments: if failed.is_none() { segments } else { done },
        failure: failed,
    }
}

/// A destination behind its source is filled from its end, so that no block of the source is overwritten before
/// it was read. What the source has given back is given back in the destination too.
fn move_blocks(medium: &impl Medium, one: Move) -> Result<()> {
    let backwards = one.to.offset() > one.from.offset();
    let count = one.from.len().div_ceil(limits::PASS_BYTES);
    for n in 0..count {
        let pass = if backwards { count - 1 - n } else { n };
        let done = pass * limits::PASS_BYTES;
        let len = (one.from.len() - done).min(limits::PASS_BYTES);
        let from = ByteRange::new(one.from.offset() + done, len);
        let to = ByteRange::new(one.to.offset() + done, len);
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(());
        };
        if medium.extent(from.offset(), len)? == (ExtentState::Deallocated, len) {
            medium.unmap(to)?;
            continue;
        }
        let held = medium.read(from)?;
        let bytes: Vec<&[u8]> = held.pieces(0..held.len()).collect();
        match bytes.as_slice() {
            [one] => medium.write(to.offset(), one)?,
            many => medium.write(to.offset(), &many.concat())?,
        }
    }
    Ok(())
}

fn compare(
    medium: &impl Medium,
    range: ByteRange,
    data: &[u8],
    one_block: bool,
) -> Result<Outcome> {
    let expected = if one_block { SECTOR_BYTES } else { range.len() };
    let Some(data) = usize::try_from(expected)
        .ok()
        .and_then(|len| data.get(..len))
    else {
        return Ok(Outcome::Failed(Failure::Internal));
    };
    let mut at = 0;
    for pass in compare_passes(range) {
        let here = medium.read(pass)?;
        for piece in here.pieces(0..here.len()) {
            if let Some(offset) = difference(data, at, piece) {
                return Ok(Outcome::Differs {
                    offset: offset as u64,
                });
            }
            at += piece.len();
        }
    }
    Ok(Outcome::Done)
}

/// The first byte of `data`, read in a circle from `at` on, that differs from `piece`.
fn difference(data: &[u8], at: usize, mut piece: &[u8]) -> Option<usize> {
    let mut start = at % data.len();
    while !piece.is_empty() {
        let run = piece.len().min(data.len() - start);
        let (here, rest) = piece.split_at(run);
        let ours = &data[start..start + run];
        if ours != here {
            let first = ours.iter().zip(here).position(|(a, b)| a != b)?;
            return Some(start + first);
        }
        start = (start + run) % data.len();
        piece = rest;
    }
    None
}

fn compare_and_write(
    medium: &impl Medium,
    range: ByteRange,
    data: &[u8],
    fua: bool,
) -> Result<Outcome> {
    let halves = usize::try_from(range.len()).ok().and_then(|len| {
        let (old, rest) = data.split_at_checked(len)?;
        Some((old, rest.get(..len)?))
    });
    let Some((old, new)) = halves else {
        return Ok(Outcome::Failed(Failure::Internal));
    };
    match medium.compare_and_write(range.offset(), old, new)? {
        Compared::Written => flush_if(medium, fua),
        Compared::Differs(offset) => Ok(Outcome::Differs { offset }),
    }
}

/// Extents from the start of the range, neighbours of one state joined; the first always begins there.
fn extents(medium: &impl Medium, range: ByteRange, count_max: u32) -> Result<Outcome> {
    let count_max = usize::try_from(count_max).unwrap_or(usize::MAX);
    let mut found: Vec<Extent> = Vec::new();
    let mut at = range.offset();
    while at < range.end() && found.len() < count_max {
        let (state, len) = medium.extent(at, range.end() - at)?;
        let len = len.clamp(1, range.end() - at);
        let mapped = state == ExtentState::Mapped;
        match found.last_mut() {
            Some(last) if last.mapped == mapped => {
                if let Some(joined) = ByteRange::new(last.range.offset(), last.range.len() + len) {
                    last.range = joined;
                }
            }
            _ => found.extend(ByteRange::new(at, len).map(|range| Extent { range, mapped })),
        }
        at += len;
    }
    Ok(Outcome::Extents(found))
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::store::Error;
    use std::cell::{Cell, RefCell};

    #[derive(Default)]
    struct Memory {
        bytes: RefCell<Vec<u8>>,
        flushes: Cell<u32>,
        broken: Option<ErrorKind>,
    }

    impl Memory {
        fn at(&self, offset: u64, len: usize) -> Result<std::ops::Range<usize>> {
            if let Some(kind) = self.broken {
                return Err(Error::new(kind, "broken on purpose"));
            }
            let start = usize::try_from(offset).unwrap();
            Ok(start..start + len)
        }
    }

    impl Medium for Memory {
        fn read(&self, range: ByteRange) -> Result<Payload> {
            let at = self.at(range.offset(), usize::try_from(range.len()).unwrap())?;
            Ok(Payload::from(self.bytes.borrow()[at].to_vec()))
        }
        fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
            let at = self.at(offset, data.len())?;
            self.bytes.borrow_mut()[at].copy_from_slice(data);
            Ok(())
        }
        fn flush(&self) -> Result<()> {
            self.flushes.set(self.flushes.get() + 1);
            Ok(())
        }
        fn unmap(&self, range: ByteRange) -> Result<()> {
            let at = self.at(range.offset(), usize::try_from(range.len()).unwrap())?;
            self.bytes.borrow_mut()[at].fill(0);
            Ok(())
        }
        fn extent(&self, offset: u64, len: u64) -> Result<(ExtentState, u64)> {
            let at = self.at(offset, 512)?;
            let zero = self.bytes.borrow()[at].iter().all(|b| *b == 0);
            let state = if zero {
                ExtentState::Deallocated
            } else {
                ExtentState::Mapped
            };
            Ok((state, len.min(512)))
        }
        fn compare_and_write(&self, offset: u64, old: &[u8], new: &[u8]) -> Result<Compared> {
            let at = self.at(offset, old.len())?;
            let here = self.bytes.borrow()[at].to_vec();
            match here.iter().zip(old).position(|(a, b)| a != b) {
                Some(first) => Ok(Compared::Differs(first as u64)),
                None => self.write(offset, new).map(|()| Compared::Written),
            }
        }
        fn or_write(&self, offset: u64, data: &[u8]) -> Result<()> {
            let at = self.at(offset, data.len())?;
            let mut bytes = self.bytes.borrow_mut();
            bytes[at].iter_mut().zip(data).for_each(|(a, b)| *a |= b);
            Ok(())
        }
        fn write_atomic(&self, offset: u64, data: &[u8]) -> Result<()> {
            self.write(offset, data)
        }
        fn provision(&self) -> Result<Provision> {
            self.at(0, 0)?;
            Ok(Provision {
                used_bytes: 3,
                available_bytes: 5,
                shared: false,
            })
        }
    }

    #[test]
    fn copies_that_overlap_read_the_source_as_it_was() {
        let pass = limits::PASS_BYTES / 512;
        let before: Vec<u8> = (0..3_u32 << 20).map(|at| (at / 512 % 251) as u8).collect();
        for (from, to) in [(0, 100), (100, 0), (7, 7 + pass), (pass, 1)] {
            let disk = disk();
            disk.bytes.borrow_mut().copy_from_slice(&before);
            let blocks = 2 * pass - 200;
            let op = BlockOp::Copy {
                moves: vec![Move {
                    from: sectors(from, blocks),
                    to: sectors(to, blocks),
                }],
                list: Some(3),
                segments: 1,
                fua: true,
            };
            let done = Outcome::Copied {
                list: Some(3),
                segments: 1,
                failure: None,
            };
            assert_eq!(outcome(&disk, &op, &[]), done);
            assert_eq!(disk.flushes.get(), 1);
            let mut after = before.clone();
            let at = |lba: u64| usize::try_from(lba * 512).unwrap();
            after.copy_within(at(from)..at(from + blocks), at(to));
            assert!(*disk.bytes.borrow() == after, "{from} to {to}");
        }
    }

    #[test]
    fn a_copy_that_fails_tells_how_far_it_came() {
        let disk = Memory {
            broken: Some(ErrorKind::NoSpace),
            ..disk()
        };
        let op = BlockOp::Copy {
            moves: vec![Move {
                from: sectors(0, 8),
                to: sectors(8, 8),
            }],
            list: None,
            segments: 1,
            fua: false,
        };
        let failed = Outcome::Copied {
            list: None,
            segments: 0,
            failure: Some(Failure::OutOfSpace),
        };
        assert_eq!(outcome(&disk, &op, &[]), failed);
    }

    fn disk() -> Memory {
        Memory {
            bytes: RefCell::new(vec![0; 3 << 20]),
            ..Memory::default()
        }
    }

    fn sectors(lba: u64, count: u64) -> ByteRange {
        ByteRange::of_sectors(lba, count).unwrap()
    }

    fn outcome(disk: &Memory, op: &BlockOp, data: &[u8]) -> Outcome {
        run(disk, op, data).0
    }

    #[test]
    fn writes_are_flushed_only_when_forced() {
        let disk = disk();
        for (fua, flushes) in [(false, 0), (true, 1)] {
            let op = BlockOp::Write {
                range: sectors(1, 1),
                fua,
            };
            assert_eq!(outcome(&disk, &op, &[7; 600]), Outcome::Done);
            assert_eq!(disk.flushes.get(), flushes);
        }
        assert_eq!(disk.bytes.borrow()[512..1024], [7; 512]);
        assert_eq!(
            disk.bytes.borrow()[1024],
            0,
            "data beyond the range is not written"
        );
    }

    #[test]
    fn a_disk_says_how_full_it_is() {
        let told = Provision {
            used_bytes: 3,
            available_bytes: 5,
            shared: false,
        };
        let asked = outcome(&disk(), &BlockOp::Provision, &[]);
        assert_eq!(asked, Outcome::Provision(told));
        assert!(!writes(&BlockOp::Provision));
    }

    #[test]
    fn too_little_data_is_never_written() {
        let disk = disk();
        let op = BlockOp::Write {
            range: sectors(0, 2),
            fua: false,
        };
        assert_eq!(
            outcome(&disk, &op, &[7; 512]),
            Outcome::Failed(Failure::Internal)
        );
        assert_eq!(disk.bytes.borrow()[0], 0);
    }

    #[test]
    fn each_of_many_writes_has_its_own_end() {
        let disk = disk();
        let (old, new) = ([7; 1024], [8; 512]);
        let writes = [
            (sectors(0, 2), &old[..]),
            (sectors(4, 2), &new[..]),
            (sectors(1, 1), &new[..]),
        ];
        let done = run_writes(&disk, &writes);
        let failed = (Outcome::Failed(Failure::Internal), None);
        assert_eq!(done, [(Outcome::Done, None), failed, (Outcome::Done, None)]);
        let bytes = disk.bytes.borrow();
        assert_eq!(bytes[..512], [7; 512]);
        assert_eq!(bytes[512..1024], [8; 512], "in the order given");
        assert!(bytes[1024..].iter().all(|byte| *byte == 0));
        drop(bytes);
        let full = Memory {
            broken: Some(ErrorKind::NoSpace),
            ..disk
        };
        let refused = (
            Outcome::Failed(Failure::OutOfSpace),
            Some(ErrorKind::NoSpace),
        );
        assert_eq!(run_writes(&full, &writes[..1]), [refused]);
    }

    #[test]
    fn a_pattern_is_repeated_over_the_whole_range() {
        let disk = disk();
        let pattern: Vec<u8> = (0..=255).chain(0..=255).collect();
        let sector: [u8; 512] = pattern.clone().try_into().unwrap();
        let op = BlockOp::WriteSame {
            range: sectors(1, 4097),
            pattern: Some(Box::new(sector)),
            fua: false,
        };
        assert_eq!(outcome(&disk, &op, &[]), Outcome::Done);
        let bytes = disk.bytes.borrow().clone();
        assert!(
            bytes[512..4098 * 512]
                .chunks(512)
                .all(|block| block == pattern)
        );
        assert_eq!(bytes[..512], [0; 512]);
        assert_eq!(bytes[4098 * 512], 0);
        let compare = |range| BlockOp::Compare {
            range,
            one_block: true,
        };
        assert_eq!(
            outcome(&disk, &compare(sectors(1, 4097)), &pattern),
            Outcome::Done
        );
        disk.bytes.borrow_mut()[4097 * 512 + 9] ^= 1;
        assert_eq!(
            outcome(&disk, &compare(sectors(1, 4097)), &pattern),
            Outcome::Differs { offset: 9 }
        );
    }

    #[test]
    fn comparison_tells_the_first_difference_across_passes() {
        let disk = disk();
        let data = vec![0; 2 << 20];
        disk.bytes.borrow_mut()[(1 << 20) + 77] = 1;
        let op = BlockOp::Compare {
            range: sectors(0, 4096),
            one_block: false,
        };
        let offset = (1 << 20) + 77;
        assert_eq!(outcome(&disk, &op, &data), Outcome::Differs { offset });
        assert_eq!(
            outcome(&disk, &op, &data[..9]),
            Outcome::Failed(Failure::Internal)
        );
    }

    #[test]
    fn compare_and_write_takes_both_halves() {
        let disk = disk();
        let op = BlockOp::CompareAndWrite {
            range: sectors(2, 1),
            fua: true,
        };
        let both = [vec![0; 512], vec![9; 512]].concat();
        assert_eq!(outcome(&disk, &op, &both), Outcome::Done);
        assert_eq!(outcome(&disk, &op, &both), Outcome::Differs { offset: 0 });
        assert_eq!(disk.flushes.get(), 1);
        assert_eq!(
            outcome(&disk, &op, &both[..1023]),
            Outcome::Failed(Failure::Internal)
        );
    }

    #[test]
    fn extents_of_one_state_are_joined() {
        let disk = disk();
        disk.bytes.borrow_mut()[1024..2048].fill(1);
        let op = BlockOp::Extents {
            range: sectors(1, 5),
            count_max: 9,
        };
        let runs = [
            (sectors(1, 1), false),
            (sectors(2, 2), true),
            (sectors(4, 2), false),
        ];
        let expected = runs.map(|(range, mapped)| Extent { range, mapped }).into();
        assert_eq!(outcome(&disk, &op, &[]), Outcome::Extents(expected));
    }

    #[test]
    fn failures_are_told_by_direction() {
        let broken = |kind| Memory {
            broken: Some(kind),
            ..disk()
        };
        let write = BlockOp::OrWrite {
            range: sectors(0, 1),
            fua: false,
        };
        let read = BlockOp::Read(sectors(0, 1));
        let data = [1; 512];
        let case = |kind, op| outcome(&broken(kind), op, &data);
        assert_eq!(
            case(ErrorKind::Io, &write),
            Outcome::Failed(Failure::MediumWrite)
        );
        assert_eq!(
            case(ErrorKind::Io, &read),
            Outcome::Failed(Failure::MediumRead)
        );
        assert_eq!(
            case(ErrorKind::Corrupt, &write),
            Outcome::Failed(Failure::Corrupt)
        );
        assert_eq!(
            case(ErrorKind::NoSpace, &write),
            Outcome::Failed(Failure::OutOfSpace)
        );
        assert_eq!(
            case(ErrorKind::Poisoned, &write),
            Outcome::Failed(Failure::MediumWrite)
        );
        assert_eq!(
            case(ErrorKind::Fenced, &read),
            Outcome::Failed(Failure::Fenced)
        );
    }
}
