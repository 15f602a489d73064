//! A disk that lies about one sync: the bug that the crash tests are there for.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(clippy::unwrap_used, reason = "test code")]

use std::sync::{Arc, Mutex};

use reveille::store::Result;
use reveille::store::disk::{Disk, File, OpenMode};
use reveille::store::disk_crash::CrashDisk;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The packs' syncs come behind that of the manifests' directory.
    PacksLate,
    /// A manifest is renamed without having been synced.
    ManifestUnsynced,
    /// The sync behind the removal of manifests comes after packs were removed and punched.
    RemovalLate,
    /// The sync behind the naming of a manifest comes only with the next one.
    NamingLate,
    /// The catalog's syncs do nothing.
    CatalogNever,
}

#[derive(Clone, Debug)]
pub(crate) struct Lying {
    pub(crate) disk: CrashDisk,
    pub(crate) lie: Lie,
    waiting: Arc<Mutex<Vec<Arc<dyn File>>>>,
    removed: Arc<Mutex<bool>>,
}

impl Lying {
    pub(crate) fn new(disk: CrashDisk, lie: Lie) -> Self {
        Self {
            disk,
            lie,
            waiting: Arc::default(),
            removed: Arc::default(),
        }
    }
}

#[derive(Debug)]
struct LyingFile {
    file: Arc<dyn File>,
    path: String,
    disk: Lying,
}

impl Disk for Lying {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        Ok(Arc::new(LyingFile {
            file: self.disk.open(path, mode)?,
            path: path.to_owned(),
            disk: self.clone(),
        }))
    }
    fn remove(&self, path: &str) -> Result<()> {
        if path.contains("images/manifests/") {
            *self.removed.lock().unwrap() = true;
        }
        self.disk.remove(path)
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
        let manifests = path.ends_with("images/manifests");
        let removal = manifests && std::mem::take(&mut *self.removed.lock().unwrap());
        match self.lie {
            Lie::RemovalLate if removal => return Ok(()),
            Lie::NamingLate if manifests && !removal => return Ok(()),
            _ => {}
        }
        self.disk.sync_dir(path)?;
        if manifests {
            let late: Vec<_> = self.waiting.lock().unwrap().drain(..).collect();
            late.iter().try_for_each(|file| file.sync())?;
        }
        Ok(())
    }
}

impl File for LyingFile {
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
        match self.disk.lie {
            Lie::PacksLate if self.path.contains("images/packs/") => {
                let file = Arc::clone(&self.file);
                self.disk.waiting.lock().unwrap().push(file);
                Ok(())
            }
            Lie::ManifestUnsynced if self.path.contains("images/tmp/") => Ok(()),
            Lie::CatalogNever if self.path.starts_with("catalog") => Ok(()),
            _ => self.file.sync(),
        }
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
