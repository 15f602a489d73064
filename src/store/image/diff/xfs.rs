//! XFS, read only: names, sizes, times, and where files lie. Versions 4 and 5; the log is not played back.
//!
//! ```text
//!   superblock (`shape.rs`) --> root directory's inode number
//!   inode number --> place on the disk --> inode (`inode.rs`): mode, times, size, the fork of its data
//!   fork --> extents, in the inode or in a tree of blocks (`fork.rs`)
//!   directory --> names with inode numbers (`directory.rs`)
//!   log --> was it closed? (`log.rs`)
//! ```
//! A directory's blocks of names are read one after the other; its index of hashes, which only speeds up
//! looking for one name, is not. Every number is checked against the superblock's, and in version 5 every
//! checksum, owner and inode number. Directories that lie in two places, and thereby all circles, end it.
//!
//! Source: "XFS Algorithms & Data Structures", 3rd edition (2006-2018), chapters 5 to 18; `xfs_format.h`,
//! `xfs_da_format.h` and `xfs_log_format.h` of Linux for the features since, for facts. Why it is ours:
//! `docs/decisions/0022-file-systems-of-strangers.md`.

mod directory;
mod fork;
mod inode;
mod log;
mod shape;

use std::cell::Cell;
use std::collections::BTreeSet;

use super::content::{Held, Stream};
use super::files::{Item, Kind, Names, Tree};
use super::window::Window;
use crate::limits;
use crate::store::error::{Error, ErrorKind, Result};
use inode::{Format, Inode};
use shape::Shape;

/// Bytes that a symbolic link has at most.
const LINK_BYTES_MAX: u64 = 1024;
/// The header of each block of a symbolic link, version 5.
const LINK_HEADER: usize = 56;

fn wrong(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidFormat, format!("XFS: {why}"))
}

/// True when a checksum at `at`, counted with its own four bytes as zeros, is right. A fuzzer finds none.
fn sum_is_right(bytes: &[u8], at: usize) -> bool {
    let Some((before, rest)) = bytes.split_at_checked(at) else {
        return false;
    };
    let Some((sum, behind)) = rest.split_first_chunk::<4>() else {
        return false;
    };
    let whole = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    let whole = crc32c::crc32c_append(whole, behind);
    whole == u32::from_le_bytes(*sum) || cfg!(fuzzing)
}

struct Open {
    window: Window,
    shape: Shape,
    /// The log was not closed: what lies on the disk may be behind itself.
    dirty: bool,
    /// Names whose inodes could not be read where that may be the log's fault.
    unread: Cell<u64>,
}

pub(super) fn open(window: Window) -> Result<Box<dyn Tree>> {
    let shape = Shape::read(&window)?;
    let dirty = !log::is_closed(&window, &shape)?;
    Ok(Box::new(Open {
        window,
        shape,
        dirty,
        unread: Cell::new(0),
    }))
}

impl Open {
    fn inode(&self, number: u64) -> Result<Inode> {
        let damaged = || wrong(format!("inode {number} is damaged"));
        let at = self.shape.inode_at(number).ok_or_else(damaged)?;
        let mut bytes = vec![0; self.shape.inode_bytes];
        self.window.read(at, &mut bytes)?;
        Inode::decode(&self.shape, number, &bytes).ok_or_else(damaged)
    }

    /// An inode that a name leads to; `None` where it is not on the disk for want of the log.
    fn named(&self, number: u64) -> Result<Option<Inode>> {
        match self.inode(number) {
            Err(e) if self.dirty && e.kind() == ErrorKind::InvalidFormat => {
                self.unread.set(self.unread.get() + 1);
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn link(&self, inode: &Inode) -> Result<Vec<u8>> {
        let size = usize::try_from(inode.size.min(LINK_BYTES_MAX)).unwrap_or(0);
        let short = || wrong("a link ends before its size");
        if inode.format == Format::Here {
            return Ok(inode.fork.get(..size).ok_or_else(short)?.to_vec());
        }
        let extents = fork::extents(&self.window, &self.shape, inode)?;
        let block = self.shape.block_bytes();
        let header = if self.shape.sums { LINK_HEADER } else { 0 };
        let mut bytes = Vec::new();
        let mut at = 0;
        while bytes.len() < size {
            let mut one = vec![0; block];
            extents.read(&self.window, at, &mut one)?;
            bytes.extend_from_slice(one.get(header..).ok_or_else(short)?);
            at += block as u64;
        }
        bytes.truncate(size);
        Ok(bytes)
    }
}

fn item(number: u64, inode: &Inode) -> Item {
    let kind = inode.kind();
    let (seconds, nanos) = match kind {
        // The time of a directory says only that a name in it changed, which is told by the name.
        Kind::Directory => (0, 0),
        _ => inode.modified,
    };
    let owner = u64::from(inode.uid) << 32 | u64::from(inode.gid);
    Item {
        kind,
        size: match kind {
            Kind::File | Kind::Link => inode.size,
            _ => 0,
        },
        attributes: [u64::from(inode.mode), owner, seconds.cast_unsigned(), nanos],
        place: number,
    }
}

impl Tree for Open {
    fn names(&self) -> Result<Names> {
        let mut names = Names::default();
        let mut seen = BTreeSet::new();
        let mut todo = vec![(Vec::new(), self.shape.root, 0)];
        self.unread.set(0);
        while let Some((path, number, depth)) = todo.pop() {
            if depth > limits::DIFF_DEPTH_MAX {
                return Err(wrong("directories lie too deep"));
            }
            if !seen.insert(number) {
                return Err(wrong("a directory lies in itself, or in two places"));
            }
            let inode = self.inode(number)?;
            let entries = directory::entries(&self.window, &self.shape, number, &inode)?;
            for (name, number) in entries {
                let path: Vec<u8> = [&path[..], b"/", &name].concat();
                let Some(inode) = self.named(number)? else {
                    continue;
                };
                let item = item(number, &inode);
                if item.kind == Kind::Directory {
                    names.count(path.len())?;
                    todo.push((path.clone(), number, depth + 1));
                }
                names.add(path, item)?;
            }
        }
        Ok(names)
    }

    fn window(&self) -> &Window {
        &self.window
    }

    fn streams(&self, item: &Item) -> Result<Option<Vec<Stream>>> {
        let inode = self.inode(item.place)?;
        let held = match item.kind {
            Kind::Link if inode.size > LINK_BYTES_MAX => return Err(wrong("a link is too long")),
            Kind::Link => Held::Here(self.link(&inode)?),
            _ => {
                let mut extents = fork::extents(&self.window, &self.shape, &inode)?;
                extents.trim(item.size);
                Held::There(extents)
            }
        };
        Ok(Some(vec![Stream {
            key: Vec::new(),
            size: item.size,
            held,
        }]))
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.dirty {
            let note = "the log was not closed and is not played back: what was changed last may be missing";
            notes.push(note.to_owned());
        }
        let unread = self.unread.get();
        if unread > 0 {
            notes.push(format!(
                "{unread} names lead to files that are only in the log"
            ));
        }
        notes
    }
}
