//! A directory of a disk as a disk of its own, so that the catalog and the store of one state directory may
//! lie on one recorded medium.

use std::sync::Arc;

use super::disk::{Disk, File, OpenMode};
use super::error::Result;

/// The tree below one directory of another tree.
#[derive(Clone, Debug)]
pub struct BelowDisk {
    disk: Arc<dyn Disk>,
    dir: String,
}

impl BelowDisk {
    /// What lies below `dir` of `disk`; the directory must exist before files are made in it.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: &str) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
        }
    }

    fn at(&self, path: &str) -> String {
        if path.is_empty() {
            return self.dir.clone();
        }
        format!("{}/{path}", self.dir)
    }
}

impl Disk for BelowDisk {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        self.disk.open(&self.at(path), mode)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.disk.remove(&self.at(path))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(&self.at(from), &self.at(to))
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.disk.create_dir(&self.at(path))
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        self.disk.list(&self.at(path))
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        self.disk.sync_dir(&self.at(path))
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::store::disk_memory::MemoryDisk;

    #[test]
    fn what_is_made_below_is_seen_above_with_its_directory() {
        let whole: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        whole.create_dir("store").unwrap();
        let below = BelowDisk::new(Arc::clone(&whole), "store");
        below.create_dir("d").unwrap();
        below.open("d/a", OpenMode::CreateNew).unwrap();
        below.rename("d/a", "d/b").unwrap();
        below.sync_dir("").unwrap();
        assert_eq!(whole.list("store/d").unwrap(), ["b"]);
        assert_eq!(below.list("").unwrap(), ["d"]);
        below.remove("d/b").unwrap();
        assert!(whole.open("store/d/b", OpenMode::Read).is_err());
    }
}
