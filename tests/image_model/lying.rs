//! A disk that lies about one sync: the bug that the crash tests are there for.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(clippy::unwrap_used, reason = "test code")]

use std::sync::{Arc, Mutex};

use reveille::store::Result;
use reveille::store::disk::{Disk, File};
use reveille::store::disk_crash::CrashDisk;

use crate::meddled::{Meddler, meddled};

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

/// What a disk does that lies, beside the truth.
pub(crate) struct Lying {
    lie: Lie,
    waiting: Mutex<Vec<Arc<dyn File>>>,
    removed: Mutex<bool>,
}

impl Lying {
    /// A disk over `disk` that tells this lie.
    pub(crate) fn over(disk: CrashDisk, lie: Lie) -> Arc<dyn Disk> {
        let lying = Self {
            lie,
            waiting: Mutex::default(),
            removed: Mutex::default(),
        };
        meddled(disk, &Arc::new(lying))
    }
}

impl Meddler for Lying {
    fn remove(&self, disk: &dyn Disk, path: &str) -> Result<()> {
        if path.contains("images/manifests/") {
            *self.removed.lock().unwrap() = true;
        }
        disk.remove(path)
    }
    fn sync_dir(&self, disk: &dyn Disk, path: &str) -> Result<()> {
        let manifests = path.ends_with("images/manifests");
        let removal = manifests && std::mem::take(&mut *self.removed.lock().unwrap());
        match self.lie {
            Lie::RemovalLate if removal => return Ok(()),
            Lie::NamingLate if manifests && !removal => return Ok(()),
            _ => {}
        }
        disk.sync_dir(path)?;
        if manifests {
            let late: Vec<_> = self.waiting.lock().unwrap().drain(..).collect();
            late.iter().try_for_each(|file| file.sync())?;
        }
        Ok(())
    }
    fn sync(&self, file: &Arc<dyn File>, path: &str) -> Result<()> {
        match self.lie {
            Lie::PacksLate if path.contains("images/packs/") => {
                self.waiting.lock().unwrap().push(Arc::clone(file));
                Ok(())
            }
            Lie::ManifestUnsynced if path.contains("images/tmp/") => Ok(()),
            Lie::CatalogNever if path.starts_with("catalog") => Ok(()),
            _ => file.sync(),
        }
    }
}
