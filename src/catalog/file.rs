//! The catalog's file: opened or made with a mode that keeps its secrets.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database};

use super::error::{Error, ErrorKind, Result};
use super::{migrate, schema};
use crate::limits;

/// Only the owner may read: the file holds every node's CHAP secret.
const MODE: u32 = 0o600;

/// Opens the file at `path`, makes it if it is not there: under another name first, since a file whose first
/// pages a power cut took half would be refused for ever. Beside one of an older format a copy is kept first.
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
        migrate::prepare(&db, migrate::MIGRATIONS)?;
        // Closes it in order: its pages are durable.
        drop(db);
        fs::rename(&fresh, path).map_err(failed)?;
    }
    let db = open_file(path)?;
    let Some(format) = migrate::older(&db, migrate::MIGRATIONS)? else {
        return Ok(db);
    };
    // Closed, so that the copy is of a file at rest.
    drop(db);
    keep_copy(path, format)?;
    open_file(path)
}

/// `catalog.redb.v1`: whole under its name or not there at all.
fn keep_copy(path: &Path, format: u64) -> Result<()> {
    let named = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let (new, copy) = (
        named(&format!(".v{format}.new")),
        named(&format!(".v{format}")),
    );
    let copied = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(MODE);
        let mut to = options.open(&new)?;
        to.set_permissions(fs::Permissions::from_mode(MODE))?;
        io::copy(&mut fs::File::open(path)?, &mut to)?;
        to.sync_all()?;
        fs::rename(&new, &copy)?;
        sync_parent(path)
    };
    copied().map_err(|e| {
        let context = format!(
            "keep a copy of the catalog of format {format} as {}; nothing was changed, make room and try again",
            copy.display()
        );
        Error::caused(ErrorKind::Io, context, e)
    })
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all())
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
    sync_parent(path).map_err(|e| failed("sync the directory of", e))?;
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
