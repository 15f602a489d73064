//! A file of the store's door as the catalog's: both then lie on one medium, and one recording shows what a power
//! cut leaves of the two together.

use std::io;
use std::sync::Arc;

use super::error::Result;
use crate::catalog::{Catalog, CatalogFile, CatalogHome};
use crate::store::disk::{Disk, File, OpenMode};
use crate::store::{Error, ErrorKind};

/// Opens the catalog at `path`, makes it if it is not there.
pub(super) fn open(disk: &Arc<dyn Disk>, path: &str) -> Result<Catalog> {
    Ok(Catalog::open_in(Arc::new(at(disk, path)))?)
}

/// Refuses one of a newer program before anything is changed.
pub(super) fn look(disk: &Arc<dyn Disk>, path: &str) -> Result<()> {
    Ok(Catalog::look_in(&at(disk, path))?)
}

fn at(disk: &Arc<dyn Disk>, path: &str) -> OnDisk {
    OnDisk {
        disk: Arc::clone(disk),
        path: path.to_owned(),
        fresh: format!("{path}.new"),
    }
}

/// A place at the top of a tree.
#[derive(Debug)]
struct OnDisk {
    disk: Arc<dyn Disk>,
    path: String,
    fresh: String,
}

impl CatalogHome for OnDisk {
    fn open(&self) -> io::Result<Option<Arc<dyn CatalogFile>>> {
        match self.disk.open(&self.path, OpenMode::ReadWrite) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(told(e)),
            Ok(file) => {
                self.disk.sync_dir("").map_err(told)?;
                Ok(Some(Arc::new(OpenFile(file))))
            }
        }
    }
    fn fresh(&self) -> io::Result<Arc<dyn CatalogFile>> {
        self.discard()?;
        let file = self.disk.open(&self.fresh, OpenMode::CreateNew);
        Ok(Arc::new(OpenFile(file.map_err(told)?)))
    }
    fn place(&self) -> io::Result<()> {
        let placed = self.disk.rename(&self.fresh, &self.path);
        placed.and_then(|()| self.disk.sync_dir("")).map_err(told)
    }
    fn discard(&self) -> io::Result<()> {
        match self.disk.remove(&self.fresh) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(told(e)),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct OpenFile(Arc<dyn File>);

fn told(error: Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::NoSpace => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl CatalogFile for OpenFile {
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
