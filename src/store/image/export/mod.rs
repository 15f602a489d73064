//! Export: an image as a disk file of one of several formats, with holes where it holds zeros.
//!
//! A file is written under the name `FILE.partial` and gets its own name when it is whole and durable: what
//! has the name is a whole disk, whatever happened. What is left of one that failed is removed; only a kill
//! leaves the partial file behind.

mod qcow2;
mod vhd;
mod vhdx;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{CWD, RenameFlags};

use super::ingest::{Watch, is_zero};
use super::sealed::Image;
use crate::limits::CHUNK_BYTES;
use crate::limits::IMAGE_RUN_CHUNKS;
use crate::store::error::{Error, ErrorKind, Result};
use crate::store::{Buffer, ImageId};
use crate::units::BLOCK_BYTES;

/// Where an exported disk goes. What is not written must read zeros.
pub trait ExportSink: fmt::Debug {
    /// Called first: bytes of the disk.
    fn begin(&mut self, size: u64) -> Result<()>;
    /// Bytes that are not all zeros, in the order of the disk.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Called last, when all was written: makes it durable.
    fn finish(&mut self) -> Result<()>;
}

/// Format of an exported file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportFormat {
    /// The bytes of the disk, with holes.
    #[default]
    Raw,
    /// QEMU copy-on-write, version 3.
    Qcow2,
    /// Virtual PC and Hyper-V, dynamic; disks of at most 2,040 GiB.
    Vhd,
    /// Hyper-V, dynamic.
    Vhdx,
}

impl FromStr for ExportFormat {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "vhd" => Ok(Self::Vhd),
            "vhdx" => Ok(Self::Vhdx),
            _ => Err(format!(
                "`{text}` is not a format to write: raw, qcow2, vhd or vhdx"
            )),
        }
    }
}

impl ExportFormat {
    /// Refuses a disk that the format cannot hold.
    ///
    /// # Errors
    /// `Unsupported` with the way out.
    pub fn check_size(self, size: u64) -> Result<()> {
        match self {
            Self::Vhd => vhd::check_size(size),
            Self::Raw | Self::Qcow2 | Self::Vhdx => Ok(()),
        }
    }

    /// Makes a file of this format, which must not exist yet. `id` gives the file its own identities, so
    /// that the same image always gives the same file.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn create(self, path: &Path, id: ImageId) -> Result<Box<dyn ExportSink>> {
        let file = SparseFile::create(path)?;
        Ok(match self {
            Self::Raw => Box::new(file),
            Self::Qcow2 => Box::new(qcow2::Qcow2::new(file)),
            Self::Vhd => Box::new(vhd::Vhd::new(file, id)),
            Self::Vhdx => Box::new(vhdx::Vhdx::new(file, id)),
        })
    }
}

/// A new sparse file.
#[derive(Debug)]
pub struct SparseFile {
    file: fs::File,
    path: PathBuf,
    partial: PathBuf,
    whole: bool,
}

impl SparseFile {
    /// Makes the file; it must not exist yet.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let mut partial = OsString::from(path);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = fs::File::options()
            .write(true)
            .create_new(true)
            .open(&partial);
        let file = file.map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                let why = format!(
                    "{} is there: an export to it runs, or was killed; remove it in that case",
                    partial.display()
                );
                Error::new(ErrorKind::Busy, why)
            }
            _ => failed(&partial, "create", e),
        })?;
        Ok(Self {
            file,
            path: path.to_owned(),
            partial,
            whole: false,
        })
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let done = self.file.write_all_at(bytes, offset);
        done.map_err(|e| failed(&self.path, "write", e))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let done = self.file.set_len(len);
        done.map_err(|e| failed(&self.path, "set the length of", e))
    }

    /// Makes it durable and gives it its name.
    fn publish(&mut self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| failed(&self.path, "sync", e))?;
        match rustix::fs::renameat_with(CWD, &self.partial, CWD, &self.path, RenameFlags::NOREPLACE)
        {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(exists(&self.path)),
            // Some network file systems cannot rename in this way: a link does not replace either.
            Err(_) => {
                let linked = fs::hard_link(&self.partial, &self.path);
                linked.map_err(|e| failed(&self.path, "name", e))?;
                let removed = fs::remove_file(&self.partial);
                removed.map_err(|e| failed(&self.partial, "remove", e))?;
            }
        }
        self.whole = true;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|e| failed(dir, "sync", e))
    }
}

impl Drop for SparseFile {
    fn drop(&mut self) {
        if !self.whole {
            // If it cannot go, its name still says what it is.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

fn exists(path: &Path) -> Error {
    let path = path.display();
    let why = format!("{path} exists already; choose another file, or remove it first");
    Error::new(ErrorKind::Busy, why)
}

fn failed(path: &Path, doing: &str, e: std::io::Error) -> Error {
    let why = format!("cannot {doing} {}: {e}", path.display());
    Error::io(e, why)
}

impl ExportSink for SparseFile {
    fn begin(&mut self, size: u64) -> Result<()> {
        self.set_len(size)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.put(offset, bytes)
    }

    fn finish(&mut self) -> Result<()> {
        self.publish()
    }
}

/// Takes a block's number, a place in it, and bytes.
type EachPart<'a> = dyn FnMut(u64, u64, &[u8]) -> Result<()> + 'a;

/// Calls `each` for the parts of `bytes` that lie in blocks of `block` bytes: the block's number, the place
/// in it, the part.
fn by_block(offset: u64, bytes: &[u8], block: u64, each: &mut EachPart<'_>) -> Result<()> {
    let (mut at, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        let within = at % block;
        let len = usize::try_from(block - within)
            .unwrap_or(usize::MAX)
            .min(rest.len());
        let (part, later) = rest.split_at(len);
        each(at / block, within, part)?;
        at += len as u64;
        rest = later;
    }
    Ok(())
}

/// Sets the bytes of a structure at a place in it.
fn set(out: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in out.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

pub(super) fn export(image: &Image, out: &mut dyn ExportSink, watch: Watch<'_>) -> Result<()> {
    let size = image.size();
    out.begin(size)?;
    let most = IMAGE_RUN_CHUNKS as u64 * CHUNK_BYTES;
    let mut at = 0;
    while at < size {
        watch.step(at, size, "the export")?;
        let (data, len) = image.extent(at, size - at);
        let len = if data { len.min(most) } else { len };
        if data {
            let mut bytes = Buffer::take(usize::try_from(len).unwrap_or(0));
            image.read(at, &mut bytes)?;
            write_sparse(out, at, &bytes)?;
        }
        at += len;
    }
    out.finish()?;
    watch.step(size, size, "the export")
}

/// Writes the runs of blocks that are not zeros.
fn write_sparse(out: &mut dyn ExportSink, offset: u64, bytes: &[u8]) -> Result<()> {
    let block = usize::try_from(BLOCK_BYTES).unwrap_or(4096);
    let mut start = 0;
    while start < bytes.len() {
        let blocks = || bytes[start..].chunks(block);
        let zeros: usize = blocks().take_while(|b| is_zero(b)).map(<[u8]>::len).sum();
        let skipped = bytes[start + zeros..].chunks(block);
        let data: usize = skipped.take_while(|b| !is_zero(b)).map(<[u8]>::len).sum();
        let from = start + zeros;
        if data > 0 {
            out.write_at(offset + from as u64, &bytes[from..from + data])?;
        }
        start = from + data;
    }
    Ok(())
}
