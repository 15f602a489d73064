//! The catalog's file: opened or made with a mode that keeps its secrets.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use redb::{Builder, Database};

use super::error::{Error, ErrorKind, Result};
use super::schema;
use crate::limits;

/// Only the owner may read: the file holds every node's CHAP secret.
const MODE: u32 = 0o600;

/// Opens the file at `path`, makes it if it is not there: under another name first, since a file whose first
/// pages a power cut took half would be refused for ever.
pub(super) fn open(path: &Path) -> Result<Database> {
    if !path.exists() {
        let fresh = path.with_extension("redb.new");
        let failed = |e: io::Error| {
            let context = format!("make the catalog {}", path.display());
            Error::caused(ErrorKind::Io, context, e)
        };
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let db = open_file(&fresh)?;
        schema::prepare(&db, schema::MIGRATIONS)?;
        // Closes it in order: its pages are durable.
        drop(db);
        fs::rename(&fresh, path).map_err(failed)?;
    }
    open_file(path)
}

fn open_file(path: &Path) -> Result<Database> {
    let shown = path.display();
    let failed = |doing: &str, e: io::Error| {
        let context = format!("{doing} the catalog {shown}");
        Error::caused(ErrorKind::Io, context, e)
    };
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let opened = options.mode(MODE).open(path);
    let file = opened.map_err(|e| failed("open", e))?;
    let mode = fs::Permissions::from_mode(MODE);
    let closed = file.set_permissions(mode);
    closed.map_err(|e| failed("set the mode of", e))?;
    let made = builder().create_file(file);
    let db = made.map_err(|e| schema::failed(format!("open the catalog {shown}"), e.into()))?;
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))
        .and_then(|dir| dir.sync_all())
        .map_err(|e| failed("sync the directory of", e))?;
    Ok(db)
}

#[expect(
    clippy::len_without_is_empty,
    reason = "nobody asks a file whether it is empty"
)]
/// A catalog's file that lies somewhere else than in the file system. Positions and lengths are bytes.
///
/// What it must promise is what a file of the system does: a write is durable once a later `sync` returned.
pub trait CatalogFile: fmt::Debug + Send + Sync + 'static {
    /// Length.
    fn len(&self) -> io::Result<u64>;
    /// Fills `out` from `offset`; an error behind the end.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or grows with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes every completed write and the length durable.
    fn sync(&self) -> io::Result<()>;
}

/// The door that redb knows.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<dyn CatalogFile>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(limits::CATALOG_CACHE_BYTES);
    builder
}
