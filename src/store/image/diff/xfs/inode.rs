//! An inode: what a file is. Pure.

use super::super::bytes::{be16, be32, be64};
use super::super::files::Kind;
use super::shape::Shape;
use super::sum_is_right;

/// Bytes before the fork of the data: versions 1 and 2, version 3.
const CORE: usize = 100;
const CORE_3: usize = 176;
const WIDE_TIMES: u64 = 1 << 3;
const MANY_EXTENTS: u64 = 1 << 4;
/// Wide times count nanoseconds from the earliest second that 32 bits can tell.
const WIDE_START: i64 = -(1 << 31);

/// How the data of a file is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// There is none: a device, a socket.
    None,
    /// In the inode.
    Here,
    /// By a list of extents in the inode.
    Extents,
    /// By a tree of blocks whose root is in the inode.
    Tree,
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970, nanoseconds.
    pub(super) modified: (i64, u64),
    /// Bytes.
    pub(super) size: u64,
    pub(super) format: Format,
    pub(super) number: u64,
    /// Extents that the list in the inode, or the whole tree, has.
    pub(super) extents: u64,
    pub(super) fork: Vec<u8>,
}

impl Inode {
    /// `None` when the bytes are no inode, or not this one.
    pub(super) fn decode(shape: &Shape, number: u64, bytes: &[u8]) -> Option<Self> {
        let version = *bytes.get(4)?;
        let fits = if shape.sums {
            version == 3 && sum_is_right(bytes, 100) && be64(bytes, 152)? == number
        } else {
            matches!(version, 1 | 2)
        };
        let mode = be16(bytes, 2)?;
        if !bytes.starts_with(b"IN") || !fits || mode == 0 {
            return None;
        }
        let flags = if version == 3 { be64(bytes, 120)? } else { 0 };
        let extents = match flags & MANY_EXTENTS {
            0 => u64::from(be32(bytes, 76)?),
            _ => be64(bytes, 24)?,
        };
        let core = if version == 3 { CORE_3 } else { CORE };
        let rest = bytes.get(core..)?;
        // The fork of attributes begins at so many times eight bytes.
        let fork = match usize::from(*bytes.get(82)?) * 8 {
            0 => rest,
            len => rest.get(..len)?,
        };
        Some(Self {
            mode,
            uid: be32(bytes, 8)?,
            gid: be32(bytes, 12)?,
            modified: modified(bytes, flags)?,
            size: be64(bytes, 56).filter(|size| *size < 1 << 63)?,
            format: match *bytes.get(5)? {
                0 => Format::None,
                1 => Format::Here,
                2 => Format::Extents,
                3 => Format::Tree,
                _ => return None,
            },
            number,
            extents,
            fork: fork.to_vec(),
        })
    }

    pub(super) const fn kind(&self) -> Kind {
        match self.mode >> 12 {
            0o4 => Kind::Directory,
            0o10 => Kind::File,
            0o12 => Kind::Link,
            _ => Kind::Other,
        }
    }
}

fn modified(bytes: &[u8], flags: u64) -> Option<(i64, u64)> {
    if flags & WIDE_TIMES != 0 {
        let nanos = be64(bytes, 40)?;
        let seconds = i64::try_from(nanos / 1_000_000_000).ok()?;
        return Some((seconds + WIDE_START, nanos % 1_000_000_000));
    }
    let seconds = i64::from(be32(bytes, 40)?.cast_signed());
    Some((seconds, u64::from(be32(bytes, 44)?)))
}
