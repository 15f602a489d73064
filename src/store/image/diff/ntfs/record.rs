//! A record of the master file table: its sectors mended, its attributes, their places on the disk. Pure.

use super::super::bytes::{le16, le32, le64};
use super::super::content::{Extent, Extents};

/// The last two bytes of each so many are kept elsewhere.
const STRIDE: usize = 512;
const END: u32 = 0xffff_ffff;
const IN_USE: u16 = 1;
const DIRECTORY: u16 = 2;
const COMPRESSED: u16 = 0x00ff;
const ENCRYPTED: u16 = 0x4000;

/// What the place of a record holds.
#[derive(Debug)]
pub(super) enum Found {
    /// No record, or one that is free.
    Nothing,
    /// One that was in use, and is not whole.
    Damaged,
    Record(Record),
}

/// A record in use, whole.
#[derive(Debug)]
pub(super) struct Record {
    bytes: Vec<u8>,
    /// How often the record was used anew.
    pub(super) sequence: u16,
    /// The record that this one adds to, if so: number and sequence.
    pub(super) base: Option<Reference>,
    pub(super) directory: bool,
}

/// Number and sequence of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) number: u64,
    pub(super) sequence: u16,
}

impl Reference {
    pub(super) fn of(raw: u64) -> Self {
        Self {
            number: raw & 0xffff_ffff_ffff,
            sequence: u16::try_from(raw >> 48).unwrap_or(0),
        }
    }
}

/// One attribute, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u32,
    /// UTF-16, little endian.
    pub(super) name: &'a [u8],
    pub(super) flags: u16,
    pub(super) body: Body<'a>,
}

#[derive(Clone, Debug)]
pub(super) enum Body<'a> {
    /// In the record.
    Here(&'a [u8]),
    /// In clusters.
    There {
        /// First cluster of the stream that this part has.
        first: u64,
        /// Bytes of the stream, and how many of them were written; the rest reads as zeros.
        size: u64,
        written: u64,
        pairs: &'a [u8],
    },
}

impl Attribute<'_> {
    pub(super) const fn first_cluster(&self) -> u64 {
        match self.body {
            Body::Here(_) => 0,
            Body::There { first, .. } => first,
        }
    }

    /// Compressed or encrypted: its clusters do not hold its bytes.
    pub(super) const fn is_packed(&self) -> bool {
        self.flags & (COMPRESSED | ENCRYPTED) != 0
    }
}

impl Record {
    pub(super) fn decode(mut bytes: Vec<u8>) -> Found {
        let Some(flags) = le16(&bytes, 22).filter(|_| bytes.starts_with(b"FILE")) else {
            return if bytes.starts_with(b"BAAD") {
                Found::Damaged
            } else {
                Found::Nothing
            };
        };
        if flags & IN_USE == 0 {
            return Found::Nothing;
        }
        let mut whole = || {
            mend(&mut bytes)?;
            let base = Reference::of(le64(&bytes, 32)?);
            Some((le16(&bytes, 16)?, base))
        };
        match whole() {
            None => Found::Damaged,
            Some((sequence, base)) => Found::Record(Self {
                bytes,
                sequence,
                base: (base.number != 0 || base.sequence != 0).then_some(base),
                directory: flags & DIRECTORY != 0,
            }),
        }
    }

    /// `None` when they make no sense.
    pub(super) fn attributes(&self) -> Option<Vec<Attribute<'_>>> {
        let used = usize::try_from(le32(&self.bytes, 24)?).ok()?;
        let mut rest = self.bytes.get(..used)?;
        rest = rest.get(usize::from(le16(rest, 20)?)..)?;
        let mut all = Vec::new();
        loop {
            let kind = le32(rest, 0)?;
            if kind == END {
                return Some(all);
            }
            let len = usize::try_from(le32(rest, 4)?).ok()?;
            if len < 24 || !len.is_multiple_of(8) {
                return None;
            }
            let (one, behind) = rest.split_at_checked(len)?;
            all.push(attribute(kind, one)?);
            rest = behind;
        }
    }
}

/// Puts the last bytes of each sector back; `None` when the sectors were not written together.
fn mend(bytes: &mut [u8]) -> Option<()> {
    let at = usize::from(le16(bytes, 4)?);
    let count = usize::from(le16(bytes, 6)?);
    let sectors = bytes.len() / STRIDE;
    if count != sectors + 1 {
        return None;
    }
    let kept = bytes.get(at..)?.get(..count * 2)?.to_vec();
    let (mark, kept) = kept.split_at_checked(2)?;
    for (sector, own) in bytes.chunks_exact_mut(STRIDE).zip(kept.chunks_exact(2)) {
        let last = sector.last_chunk_mut::<2>()?;
        if last != mark {
            return None;
        }
        last.copy_from_slice(own);
    }
    Some(())
}

fn attribute(kind: u32, bytes: &[u8]) -> Option<Attribute<'_>> {
    let chars = usize::from(*bytes.get(9)?);
    let name = match chars {
        0 => &[],
        _ => bytes
            .get(usize::from(le16(bytes, 10)?)..)?
            .get(..chars * 2)?,
    };
    let body = if *bytes.get(8)? == 0 {
        let len = usize::try_from(le32(bytes, 16)?).ok()?;
        let at = usize::from(le16(bytes, 20)?);
        Body::Here(bytes.get(at..)?.get(..len)?)
    } else {
        let first = le64(bytes, 16)?;
        // Only the first part has the sizes.
        let sizes = (first == 0).then(|| (le64(bytes, 48), le64(bytes, 56)));
        let (size, written) = sizes.unwrap_or((Some(0), Some(0)));
        Body::There {
            first,
            size: size?,
            written: written?,
            pairs: bytes.get(usize::from(le16(bytes, 32)?)..)?,
        }
    };
    Some(Attribute {
        kind,
        name,
        flags: le16(bytes, 12)?,
        body,
    })
}

/// Clusters of the volume.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Bytes of one.
    pub(super) cluster: u64,
    pub(super) clusters: u64,
}

impl Place {
    /// Adds the extents of a part that begins at cluster `next` of its stream; the cluster behind it. `None`
    /// when they make no sense.
    pub(super) fn add(&self, part: &Attribute<'_>, next: u64, out: &mut Extents) -> Option<u64> {
        let Body::There { first, pairs, .. } = &part.body else {
            return None;
        };
        if *first != next {
            return None;
        }
        let (mut at, mut disk, mut pairs) = (next, 0_i64, *pairs);
        loop {
            let (head, rest) = pairs.split_first()?;
            if *head == 0 {
                return Some(at);
            }
            let (len_bytes, rest) = rest.split_at_checked(usize::from(head & 0x0f))?;
            let (step_bytes, rest) = rest.split_at_checked(usize::from(head >> 4))?;
            pairs = rest;
            let len = u64::try_from(number(len_bytes)?)
                .ok()
                .filter(|len| *len > 0)?;
            let end = at.checked_add(len)?;
            // A stream ends below 2^63 bytes.
            end.checked_mul(self.cluster).filter(|end| *end < 1 << 63)?;
            if !step_bytes.is_empty() {
                disk = disk.checked_add(number(step_bytes)?)?;
                let start = u64::try_from(disk).ok()?;
                let behind = start.checked_add(len)?;
                if behind > self.clusters {
                    return None;
                }
                out.push(Extent {
                    at: at * self.cluster,
                    disk: start * self.cluster,
                    len: len * self.cluster,
                })?;
            }
            at = end;
        }
    }
}

/// A number of up to eight bytes, with its sign.
fn number(bytes: &[u8]) -> Option<i64> {
    let last = bytes.last()?;
    if bytes.len() > 8 {
        return None;
    }
    let mut wide = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

/// Numbers of the records that a list of attributes names for further parts of an attribute of a kind.
pub(super) fn listed(mut list: &[u8], kind: u32) -> Vec<u64> {
    let mut numbers = Vec::new();
    let entry = |list: &[u8]| {
        let len = usize::from(le16(list, 4)?);
        Some((le32(list, 0)?, len, le64(list, 8)?, le64(list, 16)?))
    };
    while let Some((of, len, first, record)) = entry(list) {
        if of == kind && first > 0 {
            numbers.push(Reference::of(record).number);
        }
        match list.split_at_checked(len).filter(|_| len >= 24) {
            Some((_, behind)) => list = behind,
            None => break,
        }
    }
    numbers
}

#[cfg(test)]
mod test {
    use super::*;

    fn runs(pairs: &[u8]) -> Option<(u64, Extents)> {
        let part = Attribute {
            kind: 0x80,
            name: &[],
            flags: 0,
            body: Body::There {
                first: 0,
                size: 0,
                written: 0,
                pairs,
            },
        };
        let place = Place {
            cluster: 4096,
            clusters: 1 << 20,
        };
        let mut extents = Extents::default();
        let end = place.add(&part, 0, &mut extents)?;
        Some((end, extents))
    }

    #[test]
    fn runs_go_on_from_the_one_before_and_may_step_back_or_be_holes() {
        // 0x38 clusters at 0x342573; 0x114 clusters 0x211e5 further; a hole of 9; 0x42 clusters 0x300 back.
        let pairs = [
            0x21, 0x38, 0x73, 0x25, 0x32, 0x14, 0x01, 0xe5, 0x11, 0x02, 0x01, 0x09, 0x21, 0x42,
            0x00, 0xfd, 0x00,
        ];
        let (end, extents) = runs(&pairs).unwrap();
        assert_eq!(end, 0x38 + 0x114 + 9 + 0x42);
        let mut wanted = Extents::default();
        let second = 0x2573 + 0x211e5;
        for (at, disk, len) in [
            (0, 0x2573, 0x38),
            (0x38, second, 0x114),
            (0x38 + 0x114 + 9, second - 0x300, 0x42),
        ] {
            let extent = Extent {
                at: at * 4096,
                disk: disk * 4096,
                len: len * 4096,
            };
            wanted.push(extent).unwrap();
        }
        assert_eq!(extents, wanted);
    }

    #[test]
    fn runs_outside_of_the_volume_without_length_or_without_end_are_refused() {
        for pairs in [
            &[0x31, 0x01, 0x00, 0x00, 0x10, 0x00][..],
            &[0x11, 0x01, 0xff, 0x00],
            &[0x11, 0x00, 0x01, 0x00],
            &[0x11, 0xff, 0x01, 0x00],
            &[0x10, 0x01, 0x00],
            &[0x11, 0x01, 0x01],
            &[0xff, 0x01],
            &[0x08, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0x00],
            &[],
        ] {
            assert!(runs(pairs).is_none(), "{pairs:x?}");
        }
    }

    #[test]
    fn a_torn_record_is_damaged_and_a_free_one_is_nothing() {
        let mut bytes = vec![0; 1024];
        bytes[..4].copy_from_slice(b"FILE");
        bytes[4] = 48;
        bytes[6] = 3;
        bytes[22] = 1;
        bytes[48..54].copy_from_slice(&[7, 0, 1, 2, 3, 4]);
        assert!(matches!(Record::decode(bytes.clone()), Found::Damaged));
        bytes[510] = 7;
        bytes[1022] = 7;
        let Found::Record(record) = Record::decode(bytes.clone()) else {
            panic!("a whole record");
        };
        assert_eq!(record.bytes[510..512], [1, 2]);
        assert_eq!(record.bytes[1022..], [3, 4]);
        bytes[22] = 0;
        assert!(matches!(Record::decode(bytes), Found::Nothing));
    }
}
