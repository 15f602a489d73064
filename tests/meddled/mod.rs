//! A disk over another, in some of whose calls a test meddles: it lies, counts, waits, or does something first.

#![allow(dead_code, reason = "each test program uses a part")]

use std::fmt::{self, Debug};
use std::sync::Arc;

use reveille::store::Result;
use reveille::store::disk::{Disk, File, OpenMode, Space};

/// What a test does in place of a call; what it does not say passes through.
pub(crate) trait Meddler: Send + Sync + 'static {
    fn open(&self, disk: &dyn Disk, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        disk.open(path, mode)
    }
    fn remove(&self, disk: &dyn Disk, path: &str) -> Result<()> {
        disk.remove(path)
    }
    fn sync_dir(&self, disk: &dyn Disk, path: &str) -> Result<()> {
        disk.sync_dir(path)
    }
    fn space(&self, disk: &dyn Disk) -> Result<Option<Space>> {
        disk.space()
    }
    /// Of an open file.
    fn sync(&self, file: &Arc<dyn File>, _path: &str) -> Result<()> {
        file.sync()
    }
    /// An open file is let go.
    fn closed(&self) {}
}

/// `disk`, with `meddler` in its calls.
pub(crate) fn meddled<M: Meddler>(disk: impl Disk + 'static, meddler: &Arc<M>) -> Arc<dyn Disk> {
    Arc::new(Meddled {
        disk: Arc::new(disk),
        meddler: Arc::clone(meddler),
    })
}

struct Meddled<M> {
    disk: Arc<dyn Disk>,
    meddler: Arc<M>,
}

struct MeddledFile<M: Meddler> {
    file: Arc<dyn File>,
    path: String,
    meddler: Arc<M>,
}

impl<M> Debug for Meddled<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meddled({:?})", self.disk)
    }
}

impl<M: Meddler> Debug for MeddledFile<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl<M: Meddler> Drop for MeddledFile<M> {
    fn drop(&mut self) {
        self.meddler.closed();
    }
}

impl<M: Meddler> Disk for Meddled<M> {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        Ok(Arc::new(MeddledFile {
            file: self.meddler.open(&*self.disk, path, mode)?,
            path: path.to_owned(),
            meddler: Arc::clone(&self.meddler),
        }))
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.meddler.remove(&*self.disk, path)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn create_dir(&self, path: &str) -> Result<()> {
        self.disk.create_dir(path)
    }
    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.disk.list(path)
    }
    fn sync_dir(&self, path: &str) -> Result<()> {
        self.meddler.sync_dir(&*self.disk, path)
    }
    fn space(&self) -> Result<Option<Space>> {
        self.meddler.space(&*self.disk)
    }
}

impl<M: Meddler> File for MeddledFile<M> {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, out)
    }
    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.file.try_read_at(offset, out)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync(&self) -> Result<()> {
        self.meddler.sync(&self.file, &self.path)
    }
    fn len(&self) -> Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.file.punch(offset, len)
    }
    fn allocated(&self) -> Result<u64> {
        self.file.allocated()
    }
}
