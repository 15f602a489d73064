//! A file of the store's door as the catalog's: both then lie on one medium, and one recording shows what a power
//! cut leaves of the two together.

use std::io;
use std::sync::Arc;

use super::error::Result;
use crate::catalog::{Catalog, CatalogFile};
use crate::store::disk::{Disk, File, OpenMode};
use crate::store::{Error, ErrorKind};

#[derive(Debug)]
struct OnDisk(Arc<dyn File>);

/// Opens the catalog at `path`, makes it if it is not there: under another name first, as in the file system.
pub(super) fn open(disk: &dyn Disk, path: &str) -> Result<Catalog> {
    let file = match disk.open(path, OpenMode::ReadWrite) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let fresh = format!("{path}.new");
            match disk.remove(&fresh) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
            let file: Arc<dyn CatalogFile> =
                Arc::new(OnDisk(disk.open(&fresh, OpenMode::CreateNew)?));
            drop(Catalog::open_in(file)?);
            disk.rename(&fresh, path)?;
            disk.open(path, OpenMode::ReadWrite)?
        }
        file => file?,
    };
    disk.sync_dir("")?;
    Ok(Catalog::open_in(Arc::new(OnDisk(file)))?)
}

fn told(error: Error) -> io::Error {
    io::Error::other(error)
}

impl CatalogFile for OnDisk {
    fn len(&self) -> io::Result<u64> {
        self.0.len().map_err(told)
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out).map_err(told)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes).map_err(told)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).map_err(told)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync().map_err(told)
    }
}
