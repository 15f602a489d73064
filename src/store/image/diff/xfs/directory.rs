//! The names of a directory: in its inode, or in blocks.

use super::super::bytes::{be16, be32, be64};
use super::super::window::Window;
use super::inode::{Format, Inode};
use super::shape::Shape;
use super::{fork, sum_is_right, wrong};
use crate::store::error::Result;

/// Blocks of a directory behind this byte of it are its index.
const INDEX: u64 = 1 << 35;
const FREE: u16 = 0xffff;
const HEADER: usize = 16;
const HEADER_SUMS: usize = 64;

type Entry = (Vec<u8>, u64);

/// Names and inode numbers, without `.` and `..`.
pub(super) fn entries(
    window: &Window,
    shape: &Shape,
    number: u64,
    inode: &Inode,
) -> Result<Vec<Entry>> {
    let damaged = || wrong(format!("directory {number} is damaged"));
    let mut out = Vec::new();
    if inode.format == Format::Here {
        let size = usize::try_from(inode.size).unwrap_or(usize::MAX);
        let body = inode.fork.get(..size).ok_or_else(damaged)?;
        short(body, shape.kinds, &mut out).ok_or_else(damaged)?;
        return Ok(out);
    }
    let extents = fork::extents(window, shape, inode)?;
    let len = shape.directory_bytes as u64;
    let mut bytes = vec![0; shape.directory_bytes];
    let mut next = 0;
    for (start, behind) in extents.ranges().filter(|(start, _)| *start < INDEX) {
        next = start.max(next) / len * len;
        while next < behind.min(INDEX) {
            extents.read(window, next, &mut bytes)?;
            block(shape, number, &bytes, &mut out).ok_or_else(damaged)?;
            next += len;
        }
    }
    Ok(out)
}

/// A name that is not the directory itself nor the one above it.
fn keep(name: &[u8], number: u64, out: &mut Vec<Entry>) {
    if !matches!(name, b"." | b"..") {
        out.push((name.to_vec(), number));
    }
}

/// The names that an inode has room for.
fn short(body: &[u8], kinds: bool, out: &mut Vec<Entry>) -> Option<()> {
    let (count, wide) = (*body.first()?, *body.get(1)? > 0);
    let width = if wide { 8 } else { 4 };
    let mut rest = body.get(2 + width..)?;
    for _ in 0..count {
        let len = usize::from(*rest.first()?);
        let name = rest.get(3..)?.get(..len)?;
        rest = rest.get(3 + len + usize::from(kinds)..)?;
        let number = match wide {
            true => be64(rest, 0)?,
            false => u64::from(be32(rest, 0)?),
        };
        rest = rest.get(width..)?;
        keep(name, number, out);
    }
    Some(())
}

/// The names of one block.
fn block(shape: &Shape, number: u64, bytes: &[u8], out: &mut Vec<Entry>) -> Option<()> {
    let magic = bytes.get(..4)?;
    let (alone, header) = match (magic, shape.sums) {
        (b"XDB3", true) => (true, HEADER_SUMS),
        (b"XDD3", true) => (false, HEADER_SUMS),
        (b"XD2B", false) => (true, HEADER),
        (b"XD2D", false) => (false, HEADER),
        _ => return None,
    };
    if shape.sums && (be64(bytes, 40)? != number || !sum_is_right(bytes, 4)) {
        return None;
    }
    let mut end = bytes.len();
    if alone {
        // Its index is in the same block: eight bytes for each name, and their number.
        end = end.checked_sub(8)?;
        let names = usize::try_from(be32(bytes, end)?).ok()?;
        end = end.checked_sub(names.checked_mul(8)?)?;
    }
    let mut rest = bytes.get(..end)?.get(header..)?;
    while !rest.is_empty() {
        let len = if be16(rest, 0)? == FREE {
            usize::from(be16(rest, 2)?)
        } else {
            let len = usize::from(*rest.get(8)?);
            keep(rest.get(9..)?.get(..len)?, be64(rest, 0)?, out);
            // Number, length, name, perhaps its kind, and where the entry lies.
            (9 + len + usize::from(shape.kinds) + 2).next_multiple_of(8)
        };
        if len < 8 || !len.is_multiple_of(8) {
            return None;
        }
        rest = rest.get(len..)?;
    }
    Some(())
}
