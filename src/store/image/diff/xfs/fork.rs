//! Where the data of a file lies: a list of extents, or a tree of blocks that ends in such lists.

use super::super::bytes::{be16, be64};
use super::super::content::{Extent, Extents};
use super::super::window::Window;
use super::inode::{Format, Inode};
use super::shape::Shape;
use super::{sum_is_right, wrong};
use crate::limits;
use crate::store::error::{Error, Result};

const RECORD: usize = 16;
/// Key and pointer of a node.
const PAIR: usize = 16;
const HEADER: usize = 24;
const HEADER_SUMS: usize = 72;
/// Levels of a tree: more than a file of 2^63 bytes needs.
const LEVELS_MAX: u16 = 9;

fn damaged(inode: &Inode) -> Error {
    wrong(format!(
        "the extents of inode {} make no sense, or are too many",
        inode.number
    ))
}

/// The extents of a file, in order. What was reserved and never written is none: it reads as zeros.
pub(super) fn extents(window: &Window, shape: &Shape, inode: &Inode) -> Result<Extents> {
    let mut out = Extents::default();
    match inode.format {
        Format::None | Format::Here => {}
        Format::Extents => {
            let len = usize::try_from(inode.extents).unwrap_or(usize::MAX);
            let list = len
                .checked_mul(RECORD)
                .and_then(|len| inode.fork.get(..len));
            let told = list.and_then(|list| records(shape, list, &mut out));
            told.ok_or_else(|| damaged(inode))?;
        }
        Format::Tree => tree(window, shape, inode, &mut out)?,
    }
    Ok(out)
}

/// Adds the extents of a list.
fn records(shape: &Shape, list: &[u8], out: &mut Extents) -> Option<()> {
    for record in list.chunks_exact(RECORD) {
        let (high, low) = (be64(record, 0)?, be64(record, 8)?);
        // One bit: never written; 54: first block of the file; 52: of the disk; 21: how many.
        let unwritten = high >> 63 == 1;
        let at = high >> 9 & ((1 << 54) - 1);
        let block = (high & 0x1ff) << 43 | low >> 21;
        let count = low & 0x1f_ffff;
        let disk = shape.blocks_at(block, count)?;
        if !unwritten {
            out.push(Extent {
                at: at.checked_mul(1 << shape.block_log)?,
                disk,
                len: count << shape.block_log,
            })?;
        }
    }
    Some(())
}

fn tree(window: &Window, shape: &Shape, inode: &Inode, out: &mut Extents) -> Result<()> {
    let root = || {
        let level = be16(&inode.fork, 0).filter(|level| (1..=LEVELS_MAX).contains(level))?;
        let count = usize::from(be16(&inode.fork, 2)?);
        Some((level, pointers(inode.fork.get(4..)?, count)?))
    };
    let (level, children) = root().ok_or_else(|| damaged(inode))?;
    // From the last to the first, so that the first is on top.
    let mut todo: Vec<(u16, u64)> = Vec::new();
    todo.extend(children.into_iter().rev().map(|block| (level - 1, block)));
    let mut bytes = vec![0; shape.block_bytes()];
    while let Some((level, block)) = todo.pop() {
        let at = shape.blocks_at(block, 1).ok_or_else(|| damaged(inode))?;
        window.read(at, &mut bytes)?;
        let (count, body) =
            block_body(shape, inode, level, &bytes).ok_or_else(|| damaged(inode))?;
        if level == 0 {
            let list = body.get(..count.saturating_mul(RECORD));
            let told = list.and_then(|list| records(shape, list, out));
            told.ok_or_else(|| damaged(inode))?;
            continue;
        }
        let children = pointers(body, count).ok_or_else(|| damaged(inode))?;
        todo.extend(children.into_iter().rev().map(|block| (level - 1, block)));
        if todo.len() > limits::DIFF_EXTENTS_MAX {
            return Err(damaged(inode));
        }
    }
    Ok(())
}

/// How many records a block of the tree has, and what follows its header.
fn block_body<'a>(
    shape: &Shape,
    inode: &Inode,
    level: u16,
    bytes: &'a [u8],
) -> Option<(usize, &'a [u8])> {
    let (magic, header) = if shape.sums {
        (b"BMA3", HEADER_SUMS)
    } else {
        (b"BMAP", HEADER)
    };
    let own = !shape.sums || (be64(bytes, 56)? == inode.number && sum_is_right(bytes, 64));
    if !bytes.starts_with(magic) || be16(bytes, 4)? != level || !own {
        return None;
    }
    Some((usize::from(be16(bytes, 6)?), bytes.get(header..)?))
}

/// The pointers of a node: behind as many keys as there is room for.
fn pointers(body: &[u8], count: usize) -> Option<Vec<u64>> {
    let room = body.len() / PAIR;
    if count == 0 || count > room {
        return None;
    }
    let pointers = body.get(room * 8..)?.get(..count * 8)?;
    let (pointers, _) = pointers.as_chunks::<8>();
    Some(
        pointers
            .iter()
            .map(|raw| u64::from_be_bytes(*raw))
            .collect(),
    )
}
