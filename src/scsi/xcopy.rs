//! EXTENDED COPY(LID1) and RECEIVE COPY RESULTS: copies within the disk that the session has logged in to
//! (SPC-4 6.4, 6.23, 7.8.17).
//!
//! A target descriptor is compared with this logical unit and nothing else: what another session, target or
//! node has can not be named, whatever identifiers an initiator knows (CVE-2020-28374 was a search through
//! all disks of a server). Everything is checked before the first byte is copied.

use crate::limits::{COPIES_MAX, COPY_RESULTS_KEPT, COPY_SEGMENTS_MAX, COPY_TARGETS_MAX};
use crate::units::{ByteRange, SECTOR_BYTES};

use super::block::want;
use super::inquiry;
use super::sense::Sense;
use super::{Answer, BlockOp, Call, Failure, LogicalUnit, NexusId, Refusal, Reply, Step};

const HEADER: usize = 16;
const TARGET: usize = 32;
const SEGMENT: usize = 28;
/// Identification descriptor; block to block.
const TARGET_CODE: u8 = 0xE4;
const SEGMENT_CODE: u8 = 0x02;
/// Largest list of descriptors of both kinds.
const LIST_MAX: usize = COPY_TARGETS_MAX as usize * TARGET + COPY_SEGMENTS_MAX as usize * SEGMENT;
/// A segment counts its blocks in 16 bits.
const SEGMENT_BYTES_MAX: u32 = u16::MAX as u32 * 512;

/// A run of the disk and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// From here.
    pub from: ByteRange,
    /// To here; as long.
    pub to: ByteRange,
}

/// What RECEIVE COPY STATUS tells of a list identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    nexus: NexusId,
    list: u8,
    /// COPY MANAGER STATUS: 0 runs, 1 done, 2 failed.
    status: u8,
    segments: u16,
}

/// Copies that run, and results that may be asked for.
#[derive(Debug, Default)]
pub(super) struct Copies {
    running: u8,
    results: Vec<Outcome>,
}

impl Copies {
    /// The results of a nexus that is gone go with it.
    pub(super) fn forget(&mut self, nexus: NexusId) {
        self.results.retain(|result| result.nexus != nexus);
    }

    /// A reset ends all results.
    pub(super) fn reset(&mut self) {
        self.results.clear();
    }

    fn keep(&mut self, result: Outcome) {
        let same = |old: &Outcome| old.nexus == result.nexus && old.list == result.list;
        self.results.retain(|old| !same(old));
        if self.results.len() >= COPY_RESULTS_KEPT {
            self.results.remove(0);
        }
        self.results.push(result);
    }
}

/// The head of a parameter list.
struct Header {
    /// Held for RECEIVE COPY STATUS under this identifier.
    list: Option<u8>,
    targets: usize,
    segments: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let two = bytes.get(at..).and_then(|rest| rest.first_chunk());
    two.map_or(0, |two| u16::from_be_bytes(*two))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk());
    four.map_or(0, |four| u32::from_be_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..).and_then(|rest| rest.first_chunk());
    eight.map_or(0, |eight| u64::from_be_bytes(*eight))
}

fn field(at: usize) -> Sense {
    Sense::list_field(u16::try_from(at).unwrap_or(u16::MAX), None)
}

fn header(list: &[u8]) -> Result<Header, Sense> {
    let head = list.get(..HEADER).ok_or(Sense::LIST_LENGTH)?;
    let (id, usage) = (head[0], head[1] >> 3 & 3);
    let kept = match usage {
        0 => Some(id),
        2 => None,
        // Without an identifier there must be none.
        3 if id == 0 => None,
        3 => return Err(field(0)),
        _ => return Err(field(1)),
    };
    let targets = usize::from(u16_at(head, 2));
    let segments = usize::try_from(u32_at(head, 8)).map_err(|_| Sense::LIST_LENGTH)?;
    if u32_at(head, 12) != 0 {
        return Err(Sense::INLINE_DATA);
    }
    let both = targets.checked_add(segments).ok_or(Sense::LIST_LENGTH)?;
    if both > LIST_MAX || list.len() < HEADER + both {
        return Err(Sense::LIST_LENGTH);
    }
    if !targets.is_multiple_of(TARGET) {
        return Err(field(2));
    }
    Ok(Header {
        list: kept,
        targets,
        segments,
    })
}

/// EXTENDED COPY(LID1).
pub(super) fn extended_copy(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let len = call.cdb.u32(10);
    if len == 0 {
        return call.good();
    }
    if len as usize > HEADER + LIST_MAX + usize::from(u16::MAX) {
        return Err(Sense::LIST_LENGTH.into());
    }
    let Some(data) = call.data else {
        return want(len.into(), false);
    };
    let list = data.get(..len as usize).ok_or(Sense::LIST_LENGTH)?;
    let head = header(list)?;
    let (targets, rest) = list
        .get(HEADER..)
        .and_then(|rest| rest.split_at_checked(head.targets))
        .ok_or(Sense::LIST_LENGTH)?;
    let segments = rest.get(..head.segments).ok_or(Sense::LIST_LENGTH)?;
    let here = lu.targets(targets)?;
    let moves = lu.moves(segments, HEADER + head.targets, &here)?;
    if lu.copies.running >= COPIES_MAX {
        return Err(Refusal::Busy);
    }
    let count = u16::try_from(moves.len()).unwrap_or(u16::MAX);
    lu.copies.running += 1;
    if let Some(list) = head.list {
        lu.copies.keep(Outcome {
            nexus: call.nexus,
            list,
            status: 0,
            segments: 0,
        });
    }
    Ok(Step::Run(BlockOp::Copy {
        moves,
        list: head.list,
        segments: count,
        fua: lu.writes_through(),
    }))
}

impl LogicalUnit {
    /// For each target descriptor, whether it names this disk.
    fn targets(&self, list: &[u8]) -> Result<Vec<bool>, Sense> {
        let count = list.len() / TARGET;
        if count > usize::from(COPY_TARGETS_MAX) {
            return Err(Sense::TOO_MANY_TARGETS);
        }
        let mut here = Vec::with_capacity(count);
        for (index, target) in list.chunks_exact(TARGET).enumerate() {
            let at = HEADER + index * TARGET;
            if target[0] != TARGET_CODE {
                return Err(Sense::UNSUPPORTED_TARGET);
            }
            let block = u32_at(target, 28) & 0x00FF_FFFF;
            let disk = target[1] & 0x1F == 0;
            if disk && u64::from(block) != SECTOR_BYTES {
                return Err(field(at + 29));
            }
            here.push(disk && self.is_named(target));
        }
        Ok(here)
    }

    /// True when the identification descriptor holds a designator of this very disk: NAA or T10 vendor id.
    fn is_named(&self, target: &[u8]) -> bool {
        let (code_set, kind, len) = (target[4] & 0x0F, target[5], usize::from(target[7]));
        let Some(designator) = target.get(8..8 + len).filter(|_| len <= 20) else {
            return false;
        };
        match (code_set, kind & 0x30, kind & 0x0F) {
            (1, 0, 3) => designator == self.config.naa,
            (2, 0, 1) => designator == inquiry::vendor_id(&self.config),
            _ => false,
        }
    }

    /// The copies that the segment descriptors ask for, all checked.
    fn moves(&self, list: &[u8], start: usize, here: &[bool]) -> Result<Vec<Move>, Sense> {
        let mut rest = list;
        let mut moves = Vec::new();
        let mut count = 0u16;
        while !rest.is_empty() {
            let at = start + (list.len() - rest.len());
            let len = 4 + usize::from(u16_at(rest, 2));
            if count == COPY_SEGMENTS_MAX {
                return Err(Sense::TOO_MANY_SEGMENTS);
            }
            if rest[0] != SEGMENT_CODE {
                return Err(Sense::UNSUPPORTED_SEGMENT);
            }
            let (segment, behind) = rest.split_at_checked(len).ok_or(Sense::LIST_LENGTH)?;
            if len != SEGMENT {
                return Err(field(at + 2));
            }
            moves.extend(self.segment(segment, count, here)?);
            count += 1;
            rest = behind;
        }
        Ok(moves)
    }

    fn segment(&self, segment: &[u8], number: u16, here: &[bool]) -> Result<Option<Move>, Sense> {
        let is_here = |at| here.get(usize::from(u16_at(segment, at))) == Some(&true);
        if !is_here(4) || !is_here(6) {
            return Err(Sense::COPY_TARGET_UNREACHABLE.with_information(number.into()));
        }
        let blocks = u64::from(u16_at(segment, 10));
        let range = |at| self.blocks_range(u64_at(segment, at), blocks);
        let (Ok(from), Ok(to)) = (range(12), range(20)) else {
            return Err(Sense::COPY_ABORTED.with_information(number.into()));
        };
        Ok((!from.is_empty()).then_some(Move { from, to }))
    }

    /// The volume has ended a copy.
    pub(super) fn copied(
        &mut self,
        nexus: NexusId,
        list: Option<u8>,
        segments: u16,
        failure: Option<Failure>,
    ) -> Reply {
        self.copies.running = self.copies.running.saturating_sub(1);
        if let Some(list) = list
            && self.nexuses.get(nexus).is_some()
        {
            self.copies.keep(Outcome {
                nexus,
                list,
                status: if failure.is_none() { 1 } else { 2 },
                segments,
            });
        }
        match failure {
            None => Reply::good(),
            Some(Failure::OutOfSpace | Failure::Fenced | Failure::Aborted | Failure::NotReady) => {
                self.check(failure.map_or(Sense::INTERNAL, Failure::sense))
            }
            Some(_) => self.check(Sense::COPY_DEVICE_FAILURE.with_information(segments.into())),
        }
    }
}

/// RECEIVE COPY STATUS(LID1): a result is told once it is final only once.
pub(super) fn copy_status(lu: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let list = call.cdb.byte(2);
    let mine = |result: &Outcome| result.nexus == call.nexus && result.list == list;
    let at = lu.copies.results.iter().position(mine);
    let at = at.ok_or(Sense::cdb_field(2, None))?;
    let result = lu.copies.results[at];
    if result.status != 0 {
        lu.copies.results.remove(at);
    }
    let [hi, lo] = result.segments.to_be_bytes();
    // AVAILABLE DATA; no held data; no transfer count is kept.
    call.cdb
        .answer(vec![0, 0, 0, 8, result.status, hi, lo, 0, 0, 0, 0, 0])
}

/// RECEIVE COPY OPERATING PARAMETERS.
pub(super) fn operating_parameters(_: &mut LogicalUnit, call: &Call<'_>) -> Answer {
    let mut data = vec![0; 44];
    let mut put = |at: usize, bytes: &[u8]| {
        data.splice(at..at + bytes.len(), bytes.iter().copied());
    };
    put(0, &42u32.to_be_bytes());
    put(8, &COPY_TARGETS_MAX.to_be_bytes());
    put(10, &COPY_SEGMENTS_MAX.to_be_bytes());
    put(12, &u32::try_from(LIST_MAX).unwrap_or(0).to_be_bytes());
    put(16, &SEGMENT_BYTES_MAX.to_be_bytes());
    // Copies at a time: in all, and of one nexus. Granularity of a segment: one block.
    put(34, &u16::from(COPIES_MAX).to_be_bytes());
    put(36, &[COPIES_MAX, 9]);
    put(43, &[2]);
    data.extend_from_slice(&[SEGMENT_CODE, TARGET_CODE]);
    call.cdb.answer(data)
}

/// VPD 8Fh: the third-party copy commands that are here (SPC-4 7.8.17.4).
pub(super) fn page(_: &LogicalUnit) -> Vec<u8> {
    vec![0, 1, 0, 8, 7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03]
}
