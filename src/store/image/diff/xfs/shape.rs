//! The superblock: sizes, places of inodes and blocks.

use super::super::bytes::{be16, be32, be64};
use super::super::window::Window;
use super::{sum_is_right, wrong};
use crate::store::error::Result;

/// Bytes of the first sector that say everything.
const HEAD: usize = 512;
/// Largest sector.
const SECTOR_MAX: usize = 32 << 10;

const VERSION_DIR2: u16 = 0x2000;
const VERSION_MORE: u16 = 0x8000;
const MORE_NAMES_HAVE_KIND: u32 = 0x200;

const KIND_IN_NAMES: u32 = 0x01;
const NEEDS_REPAIR: u32 = 0x10;
/// Kinds of names, sparse inodes, the id of metadata, wide times, damage, many extents, exchanged ranges,
/// parents, a directory of metadata. What came later (zones) changes where files lie.
const KNOWN: u32 = 0x1ff;

/// The numbers of the superblock that matter, checked against each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) block_log: u32,
    group_blocks: u64,
    groups: u64,
    group_block_log: u32,
    inode_log: u32,
    in_block_log: u32,
    pub(super) inode_bytes: usize,
    /// Bytes of a block of a directory.
    pub(super) directory_bytes: usize,
    /// Inode of the root directory.
    pub(super) root: u64,
    /// Version 5: structures have checksums and say whose they are.
    pub(super) sums: bool,
    /// Names in directories have a byte for what they name.
    pub(super) kinds: bool,
    /// The log in this partition: first byte, bytes.
    pub(super) log: Option<(u64, u64)>,
}

impl Shape {
    pub(super) fn read(window: &Window) -> Result<Self> {
        let mut head = vec![0; HEAD];
        window.read(0, &mut head)?;
        let no_sense = || wrong("its superblock makes no sense");
        let version = be16(&head, 100).ok_or_else(no_sense)?;
        let sums = version & 0x0f == 5;
        if sums {
            let len = usize::from(be16(&head, 102).unwrap_or(0));
            if !len.is_power_of_two() || !(HEAD..=SECTOR_MAX).contains(&len) {
                return Err(no_sense());
            }
            let mut sector = vec![0; len];
            window.read(0, &mut sector)?;
            if !sum_is_right(&sector, 224) {
                return Err(wrong("the checksum of its superblock does not match"));
            }
        }
        let shape = Self::decode(&head, version).ok_or_else(no_sense)?;
        check_features(&head, version)?;
        Ok(shape)
    }

    fn decode(head: &[u8], version: u16) -> Option<Self> {
        let byte = |at: usize| head.get(at).copied().map(u32::from);
        let (block_log, inode_log) = (byte(120)?, byte(122)?);
        let (in_block_log, group_block_log, extra) = (byte(123)?, byte(124)?, byte(192)?);
        let sums = version & 0x0f == 5;
        let inode_bytes = be16(head, 104)?;
        let sane = matches!(version & 0x0f, 4 | 5)
            && head.starts_with(b"XFSB")
            && (9..=16).contains(&block_log)
            && be32(head, 4)? == 1 << block_log
            && (8..=11).contains(&inode_log)
            && u32::from(inode_bytes) == 1 << inode_log
            && inode_log.checked_add(in_block_log)? == block_log
            && group_block_log <= 31
            && u64::from(be32(head, 84)?) <= 1 << group_block_log
            && block_log.checked_add(extra)? <= 16
            && head.get(126) == Some(&0);
        if !sane {
            return None;
        }
        let shape = Self {
            block_log,
            group_blocks: u64::from(be32(head, 84)?),
            groups: u64::from(be32(head, 88)?),
            group_block_log,
            inode_log,
            in_block_log,
            inode_bytes: usize::from(inode_bytes),
            directory_bytes: 1 << (block_log + extra),
            root: be64(head, 56)?,
            sums,
            kinds: match sums {
                true => be32(head, 216)? & KIND_IN_NAMES != 0,
                false => {
                    version & VERSION_MORE != 0 && be32(head, 200)? & MORE_NAMES_HAVE_KIND != 0
                }
            },
            log: None,
        };
        let log = match be64(head, 48)? {
            0 => None,
            start => {
                let blocks = u64::from(be32(head, 96)?);
                Some((shape.blocks_at(start, blocks)?, blocks << block_log))
            }
        };
        Some(Self { log, ..shape })
    }

    pub(super) const fn block_bytes(&self) -> usize {
        1 << self.block_log
    }

    /// First byte of `count` blocks of one allocation group; `None` when they do not lie in one.
    pub(super) fn blocks_at(&self, block: u64, count: u64) -> Option<u64> {
        let group = block >> self.group_block_log;
        let inside = block & ((1 << self.group_block_log) - 1);
        let end = inside.checked_add(count)?;
        if group >= self.groups || end > self.group_blocks {
            return None;
        }
        let whole = group.checked_mul(self.group_blocks)?.checked_add(inside)?;
        whole.checked_mul(1 << self.block_log)
    }

    /// First byte of an inode.
    pub(super) fn inode_at(&self, number: u64) -> Option<u64> {
        let inside = number & ((1 << self.in_block_log) - 1);
        let block = self.blocks_at(number >> self.in_block_log, 1)?;
        block.checked_add(inside << self.inode_log)
    }
}

fn check_features(head: &[u8], version: u16) -> Result<()> {
    if version & 0x0f == 4 && version & VERSION_DIR2 == 0 {
        return Err(wrong(
            "its directories are of the first kind; Linux reads them no more either",
        ));
    }
    let incompatible = match version & 0x0f {
        5 => be32(head, 216).unwrap_or(u32::MAX),
        _ => 0,
    };
    if incompatible & !KNOWN != 0 {
        let new = incompatible & !KNOWN;
        return Err(wrong(format!(
            "it has features that are not read here ({new:#x})"
        )));
    }
    if incompatible & NEEDS_REPAIR != 0 {
        return Err(wrong("it is marked as damaged; run xfs_repair"));
    }
    if be64(head, 16) != Some(0) {
        return Err(wrong("a part of its files lies on a realtime device"));
    }
    Ok(())
}
