//! An open file to import: read at any place, and watched for changes.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::magic::Magic;
use crate::store::error::{Error, ErrorKind, Result};

/// An open file to import with what it was like at the start.
#[derive(Debug)]
pub(in crate::store::image) struct Input {
    pub(super) file: fs::File,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    stamp: Stamp,
}

/// Tells whether a file was changed.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    /// Device and inode.
    file: (u64, u64),
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

impl Input {
    /// Opens a file or block device.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fail = |e: io::Error| {
            let why = format!("cannot open {}: {}", path.display(), plain(&e));
            Error::io(e, why)
        };
        let refuse = |why: &str| {
            Error::new(
                ErrorKind::InvalidFormat,
                format!("{} {why}", path.display()),
            )
        };
        // Asked before opening: a pipe would block there.
        let kind = fs::metadata(path).map_err(fail)?.file_type();
        if kind.is_dir() {
            return Err(refuse("is a directory, not a disk image"));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(refuse("is neither a file nor a block device"));
        }
        let file = fs::File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        let len = if kind.is_block_device() {
            io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(fail)?
        } else {
            meta.len()
        };
        if len == 0 {
            return Err(refuse("is empty (0 bytes)"));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            stamp: Stamp::of(&meta),
        })
    }

    /// Opens a file that another file names. The kernel follows no link and no `..` out of the directory,
    /// and nothing but a plain file is taken.
    pub(super) fn open_below(dir: &Path, relative: &Path) -> Result<Self> {
        let path = dir.join(relative);
        let fail = |e: io::Error| {
            let why = format!("cannot open {}: {}", path.display(), plain(&e));
            Error::io(e, why)
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let above = rustix::fs::openat(CWD, dir, flags | OFlags::DIRECTORY, Mode::empty());
        let above = above.map_err(|e| fail(e.into()))?;
        let stay = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(above, relative, flags, Mode::empty(), stay);
        let file = fs::File::from(file.map_err(|e| match e {
            rustix::io::Errno::XDEV => {
                let why = format!(
                    "{} leads out of {}, where nothing is read; bring the file there, or say where it is \
                     with --parents DIRECTORY",
                    path.display(),
                    dir.display()
                );
                Error::new(ErrorKind::InvalidFormat, why)
            }
            e => fail(e.into()),
        })?);
        let meta = file.metadata().map_err(fail)?;
        let input = Self {
            len: meta.len(),
            stamp: Stamp::of(&meta),
            file,
            path,
        };
        match meta.is_file() {
            true => Ok(input),
            false => Err(input.refuse("is not a plain file")),
        }
    }

    /// Which file it is, whatever its name.
    pub(super) const fn identity(&self) -> (u64, u64) {
        self.stamp.file
    }

    /// When it was last written to, in seconds since 1970.
    pub(super) fn changed_s(&self) -> u64 {
        u64::try_from(self.stamp.modified.0).unwrap_or(0)
    }

    /// Reads; the end of the file inside the range is an error that names where it ends.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|e| {
            let path = self.path.display();
            let len = self.file.metadata().map_or(self.len, |meta| meta.len());
            if e.kind() == io::ErrorKind::UnexpectedEof {
                let why = format!(
                    "{path} ends at offset {len}, bytes up to {} are needed: it was cut short",
                    offset.saturating_add(out.len() as u64)
                );
                return Error::new(ErrorKind::InvalidFormat, why);
            }
            let why = format!("cannot read {path} at offset {offset}: {}", plain(&e));
            Error::io(e, why)
        })
    }

    /// An error if somebody wrote to the file since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let meta = self.file.metadata();
        if meta.is_ok_and(|meta| Stamp::of(&meta) == self.stamp) {
            return Ok(());
        }
        let path = self.path.display();
        let why = format!(
            "{path} was changed while it was read; stop what writes to it and import again"
        );
        Err(Error::new(ErrorKind::Busy, why))
    }

    pub(super) fn refuse(&self, why: &str) -> Error {
        Error::new(
            ErrorKind::InvalidFormat,
            format!("{} {why}", self.path.display()),
        )
    }

    /// Its first and last bytes.
    pub(super) fn magic(&self) -> Result<Magic> {
        let mut head = [0; 512];
        let mut tail = [0; 512];
        let len = usize::try_from(self.len).unwrap_or(usize::MAX).min(512);
        self.read_at(0, &mut head[..len])?;
        if self.len >= 512 {
            self.read_at(self.len - 512, &mut tail)?;
        }
        Ok(Magic { head, tail })
    }
}

/// The message of an I/O error without its number.
fn plain(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => e.to_string(),
    }
}
