//! Export: an image as a raw disk with holes where it holds zeros.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ingest::{Watch, is_zero};
use super::sealed::Image;
use crate::limits::CHUNK_BYTES;
use crate::limits::IMAGE_RUN_CHUNKS;
use crate::store::Buffer;
use crate::store::error::{Error, Result};
use crate::units::BLOCK_BYTES;

/// Where an exported disk goes. What is not written must read zeros.
pub trait ExportSink: std::fmt::Debug {
    /// Called first: bytes of the disk.
    fn begin(&mut self, size: u64) -> Result<()>;
    /// Bytes that are not all zeros.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Called last, when all was written: makes it durable.
    fn finish(&mut self) -> Result<()>;
}

/// A new sparse file.
#[derive(Debug)]
pub struct SparseFile {
    file: fs::File,
    path: PathBuf,
}

impl SparseFile {
    /// Makes the file; it must not exist yet.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = fs::File::options().write(true).create_new(true).open(path);
        let file = file.map_err(|e| failed(path, "create", e))?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }
}

fn failed(path: &Path, doing: &str, e: std::io::Error) -> Error {
    let why = format!("cannot {doing} {}: {e}", path.display());
    Error::io(e, why)
}

impl ExportSink for SparseFile {
    fn begin(&mut self, size: u64) -> Result<()> {
        self.file
            .set_len(size)
            .map_err(|e| failed(&self.path, "set the length of", e))
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| failed(&self.path, "write", e))
    }

    fn finish(&mut self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| failed(&self.path, "sync", e))
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
