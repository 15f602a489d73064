//! What every sector of a disk may hold, by what was sent to it and what was answered.
//!
//! A write that was sent may be there from then on, whole or in any of its sectors; a write that was answered
//! hides what had ended before it was sent. What a promise covers differs: the death of the process leaves every
//! answered write, a power cut those that were forced or flushed.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

pub(crate) const SECTOR: usize = 512;
pub(crate) type Bytes = [u8; SECTOR];

/// A sector's content before an ORWRITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// The image's.
    Golden,
    Zero,
    /// Written by the order of this number; tells its place too.
    Stamp(u32),
    /// Filled in by the WRITE SAME of this number.
    Same(u32),
}

/// A sector's content, and the number of the order that was ORed into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) plain: Plain,
    pub(crate) or: Option<u32>,
}

impl From<Plain> for Content {
    fn from(plain: Plain) -> Self {
        Self { plain, or: None }
    }
}

/// What an order leaves in its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stamp,
    Same,
    Zero,
    Or,
}

/// A change that an order makes: ranges in sectors.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) kind: Kind,
    pub(crate) ranges: Vec<Range<u64>>,
}

/// What must have outlived an accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Every answered write: the process died, the host lives.
    Answered,
    /// Every write that was forced, or flushed afterwards: the power was cut.
    Stable,
}

#[derive(Clone, Debug)]
struct Version {
    number: u32,
    content: Content,
    sent: u64,
    /// Nothing of it can come later; answered with success or not.
    ended: Option<u64>,
    good: bool,
    stable: bool,
}

#[derive(Clone, Debug)]
struct Sector {
    /// Known to be there before all versions.
    settled: Content,
    versions: Vec<Version>,
}

/// The model of one node's disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    node: u16,
    golden: Arc<Vec<u8>>,
    sectors: Vec<Sector>,
    clock: u64,
    last: u32,
    touched: Vec<Range<u64>>,
}

fn index(lba: u64) -> usize {
    usize::try_from(lba).unwrap()
}

/// The bytes of a stamped sector: sixteen equal pieces of 32 bytes.
fn stamp(node: u16, number: u32, lba: u64) -> Bytes {
    let mut piece = [0; 32];
    piece[..2].copy_from_slice(b"RV");
    piece[2..4].copy_from_slice(&node.to_be_bytes());
    piece[4..8].copy_from_slice(&number.to_be_bytes());
    piece[8..16].copy_from_slice(&lba.to_be_bytes());
    let mixed = (u64::from(node) << 48 ^ u64::from(number) ^ lba.rotate_left(20))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    piece[16..24].copy_from_slice(&mixed.to_be_bytes());
    piece[24..32].copy_from_slice(&(!mixed).to_be_bytes());
    let mut bytes = [0; SECTOR];
    for to in bytes.chunks_mut(32) {
        to.copy_from_slice(&piece);
    }
    bytes
}

/// What a sector seems to be, in words.
fn describe(bytes: &[u8]) -> String {
    if bytes.iter().all(|byte| *byte == 0) {
        return "zeros".into();
    }
    let first = &bytes[..32];
    let same = bytes.chunks(32).all(|piece| piece == first);
    let known = first.starts_with(b"RV");
    let number = |at: usize, len: usize| {
        first[at..at + len]
            .iter()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let (node, order, lba) = (number(2, 2), number(4, 4), number(8, 8));
    match (known, same) {
        (true, true) => format!("node {node}'s order {order} for sector {lba}"),
        (true, false) => {
            format!("a mixture that begins with node {node}'s order {order}, sector {lba}")
        }
        _ => format!("neither zeros nor a stamp: {:02x?}...", &first[..16]),
    }
}

impl Disk {
    pub(crate) fn new(node: u16, golden: Arc<Vec<u8>>) -> Self {
        let sector = Sector {
            settled: Plain::Golden.into(),
            versions: Vec::new(),
        };
        Self {
            node,
            sectors: vec![sector; golden.len() / SECTOR],
            golden,
            clock: 1,
            last: 0,
            touched: Vec::new(),
        }
    }

    /// Sectors of the disk.
    pub(crate) fn len(&self) -> u64 {
        self.sectors.len() as u64
    }

    /// Its content is the image's again; numbers go on, so that what was before is still recognised.
    pub(crate) fn reset(&mut self) {
        let last = self.last;
        *self = Self::new(self.node, Arc::clone(&self.golden));
        self.last = last;
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A number for the next order.
    pub(crate) fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// The number that the next order will have.
    pub(crate) const fn next_number(&self) -> u32 {
        self.last + 1
    }

    pub(crate) fn bytes(&self, content: Content, lba: u64) -> Bytes {
        let mut bytes = match content.plain {
            Plain::Golden => {
                let at = index(lba) * SECTOR;
                self.golden[at..at + SECTOR].try_into().unwrap()
            }
            Plain::Zero => [0; SECTOR],
            Plain::Stamp(number) => stamp(self.node, number, lba),
            Plain::Same(number) => self.same(number),
        };
        if let Some(number) = content.or {
            let more = stamp(self.node, number, lba);
            bytes.iter_mut().zip(more).for_each(|(a, b)| *a |= b);
        }
        bytes
    }

    /// The data-out of a WRITE SAME.
    pub(crate) fn same(&self, number: u32) -> Bytes {
        stamp(self.node, number, u64::MAX)
    }

    /// The data-out of a write.
    pub(crate) fn stamped(&self, number: u32, range: &Range<u64>) -> Vec<u8> {
        let mut all = Vec::with_capacity(index(range.end - range.start) * SECTOR);
        for lba in range.clone() {
            all.extend_from_slice(&stamp(self.node, number, lba));
        }
        all
    }

    /// The content, if there is only one that it can be.
    pub(crate) fn known(&self, lba: u64) -> Option<Content> {
        let sector = &self.sectors[index(lba)];
        match sector.versions.as_slice() {
            [] => Some(sector.settled),
            _ => {
                let mut legal = sector.legal(Promise::Answered);
                let only = legal.next()?;
                legal.all(|other| other == only).then_some(only)
            }
        }
    }

    /// An order goes out; the moment, for a flush.
    pub(crate) fn sent(&mut self, number: u32, effect: Option<&Effect>) -> u64 {
        let sent = self.tick();
        let Some(effect) = effect else { return sent };
        for lba in effect.ranges.iter().cloned().flatten() {
            let content = match effect.kind {
                Kind::Stamp => Plain::Stamp(number).into(),
                Kind::Same => Plain::Same(number).into(),
                Kind::Zero => Plain::Zero.into(),
                Kind::Or => {
                    let known = self
                        .known(lba)
                        .expect("ORWRITE goes over what is known only");
                    Content {
                        or: Some(number),
                        ..known
                    }
                }
            };
            self.sectors[index(lba)].versions.push(Version {
                number,
                content,
                sent,
                ended: None,
                good: false,
                stable: false,
            });
        }
        self.touched.extend(effect.ranges.iter().cloned());
        sent
    }

    /// An order was answered.
    pub(crate) fn ended(&mut self, number: u32, effect: Option<&Effect>, good: bool, stable: bool) {
        let now = self.tick();
        let ranges = effect.map_or(&[][..], |effect| &effect.ranges);
        for lba in ranges.iter().cloned().flatten() {
            let versions = &mut self.sectors[index(lba)].versions;
            for version in versions.iter_mut().filter(|v| v.number == number) {
                version.ended = Some(now);
                version.good = good;
                version.stable = good && stable;
            }
        }
    }

    /// A flush that was sent at `sent` was answered GOOD: all that was answered before is stable.
    pub(crate) fn flushed(&mut self, sent: u64) {
        for lba in self.touched.iter().cloned().flatten() {
            for version in &mut self.sectors[index(lba)].versions {
                version.stable |= version.good && version.ended.is_some_and(|at| at < sent);
            }
        }
    }

    /// What was sent to it since it was settled, in sectors.
    pub(crate) fn touched(&self) -> &[Range<u64>] {
        &self.touched
    }

    /// Compares what was read from `first` on; with success this is what the sectors hold from now on, if
    /// `settle`. The faults, at most a few.
    pub(crate) fn check(&self, first: u64, read: &[u8], promise: Promise) -> Vec<String> {
        let mut faults = Vec::new();
        for (lba, bytes) in (first..).zip(read.chunks(SECTOR)) {
            if self.found(lba, bytes, promise).is_none() && faults.len() < 4 {
                faults.push(self.explain(lba, bytes, promise));
            }
        }
        faults
    }

    fn found(&self, lba: u64, bytes: &[u8], promise: Promise) -> Option<Content> {
        let sector = &self.sectors[index(lba)];
        sector
            .legal(promise)
            .find(|content| self.bytes(*content, lba) == bytes)
    }

    fn explain(&self, lba: u64, bytes: &[u8], promise: Promise) -> String {
        let lost = match self.found(lba, bytes, Promise::Stable) {
            None => "a FLUSHED write is lost, or what is there was never written",
            Some(_) => "an answered write is lost",
        };
        let mut text = format!(
            "node {}, sector {lba}: {lost}: found {}",
            self.node,
            describe(bytes)
        );
        let golden = self.bytes(Plain::Golden.into(), lba);
        if golden == bytes {
            text += " (the image's)";
        }
        let legal: Vec<Content> = self.sectors[index(lba)].legal(promise).collect();
        let _ = write!(
            text,
            "; allowed {legal:?} of {:?}",
            self.sectors[index(lba)]
        );
        text
    }

    /// What was read, and found right, is what the sectors hold.
    pub(crate) fn settle(&mut self, first: u64, read: &[u8]) {
        for (lba, bytes) in (first..).zip(read.chunks(SECTOR)) {
            if let Some(content) = self.found(lba, bytes, Promise::Answered) {
                let sector = &mut self.sectors[index(lba)];
                sector.settled = content;
                sector.versions = Vec::new();
            }
        }
    }

    /// Everything that was touched has been read and settled.
    pub(crate) fn begin_round(&mut self) {
        self.touched.clear();
    }
}

impl Sector {
    fn legal(&self, promise: Promise) -> impl Iterator<Item = Content> {
        let counts = move |w: &Version| w.good && (promise == Promise::Answered || w.stable);
        let hidden = move |ended: u64| self.versions.iter().any(|w| counts(w) && w.sent > ended);
        let settled = (!hidden(0)).then_some(self.settled);
        let versions = self
            .versions
            .iter()
            .filter(move |v| !v.ended.is_some_and(hidden))
            .map(|v| v.content);
        settled.into_iter().chain(versions)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn disk() -> Disk {
        Disk::new(3, Arc::new(vec![0xee; 16 * SECTOR]))
    }

    fn write(disk: &mut Disk, lba: u64, answered: bool, stable: bool) -> u32 {
        let number = disk.number();
        let effect = Effect {
            kind: Kind::Stamp,
            ranges: std::iter::once(lba..lba + 1).collect(),
        };
        disk.sent(number, Some(&effect));
        if answered {
            disk.ended(number, Some(&effect), true, stable);
        }
        number
    }

    fn wrong(disk: &Disk, lba: u64, bytes: &[u8], promise: Promise) -> bool {
        !disk.check(lba, bytes, promise).is_empty()
    }

    #[test]
    fn an_answered_write_hides_what_was_before_and_a_sent_one_may_be_there() {
        let mut disk = disk();
        let first = write(&mut disk, 5, true, false);
        let second = write(&mut disk, 5, false, false);
        for (content, good) in [
            (Plain::Golden, false),
            (Plain::Zero, false),
            (Plain::Stamp(first), true),
            (Plain::Stamp(second), true),
        ] {
            let bytes = disk.bytes(content.into(), 5);
            assert_eq!(
                !wrong(&disk, 5, &bytes, Promise::Answered),
                good,
                "{content:?}"
            );
        }
    }

    #[test]
    fn a_power_cut_may_undo_what_was_not_flushed_and_nothing_else() {
        let mut disk = disk();
        let first = write(&mut disk, 5, true, true);
        let second = write(&mut disk, 5, true, false);
        let [golden, old, new] = [Plain::Golden, Plain::Stamp(first), Plain::Stamp(second)]
            .map(|content| disk.bytes(content.into(), 5));
        assert!(wrong(&disk, 5, &golden, Promise::Stable));
        assert!(
            !wrong(&disk, 5, &old, Promise::Stable) && wrong(&disk, 5, &old, Promise::Answered)
        );
        assert!(!wrong(&disk, 5, &new, Promise::Stable));
        let sent = disk.sent(99, None);
        write(&mut disk, 5, true, false);
        disk.flushed(sent);
        assert!(
            wrong(&disk, 5, &old, Promise::Stable),
            "the flush covers the second"
        );
        assert!(!wrong(&disk, 5, &new, Promise::Stable), "and not the third");
    }

    #[test]
    fn writes_that_overlapped_in_time_may_have_either_order() {
        let mut disk = disk();
        let effect = Effect {
            kind: Kind::Stamp,
            ranges: std::iter::once(2..3).collect(),
        };
        let (a, b) = (disk.number(), disk.number());
        disk.sent(a, Some(&effect));
        disk.sent(b, Some(&effect));
        disk.ended(b, Some(&effect), true, false);
        disk.ended(a, Some(&effect), true, false);
        for number in [a, b] {
            let bytes = disk.bytes(Plain::Stamp(number).into(), 2);
            assert!(!wrong(&disk, 2, &bytes, Promise::Answered));
        }
        assert_eq!(disk.known(2), None);
        disk.settle(2, &disk.bytes(Plain::Stamp(b).into(), 2));
        assert_eq!(disk.known(2), Some(Plain::Stamp(b).into()));
    }

    #[test]
    fn foreign_shifted_and_mixed_sectors_are_recognised() {
        let mut disk = disk();
        let number = write(&mut disk, 5, true, false);
        let right = disk.bytes(Plain::Stamp(number).into(), 5);
        assert!(!wrong(&disk, 5, &right, Promise::Answered));
        let mut mixed = right;
        mixed[480..].copy_from_slice(&[0xee; 32]);
        for bytes in [stamp(4, number, 5), stamp(3, number, 6), mixed] {
            let faults = disk.check(5, &bytes, Promise::Answered);
            assert_eq!(faults.len(), 1);
        }
        assert!(describe(&mixed).contains("mixture"));
    }
}
