//! The catalog's file: where it lies, and how it is opened, made and replaced, with a mode that keeps its secrets.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Builder, Database};

use super::error::{Error, ErrorKind, Result};
use super::{migrate, schema};
use crate::limits;

/// Only the owner may read: the file holds every node's CHAP secret.
const MODE: u32 = 0o600;

#[expect(
    clippy::len_without_is_empty,
    reason = "nobody asks a file whether it is empty"
)]
/// An open file of a catalog. Positions and lengths are bytes.
///
/// What it must promise is what a file of the system does: a write is durable once a later `sync` returned.
/// Lack of space is told as [`io::ErrorKind::StorageFull`] or [`io::ErrorKind::QuotaExceeded`].
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

/// Where a catalog lies: its file, and a fresh one beside it that may take its place.
pub trait CatalogHome: fmt::Debug + Send + Sync + 'static {
    /// Opens the file; none if it is not there. Its name is durable. [`io::ErrorKind::WouldBlock`]: another has it.
    fn open(&self) -> io::Result<Option<Arc<dyn CatalogFile>>>;
    /// Makes an empty file under another name; what had that name goes.
    fn fresh(&self) -> io::Result<Arc<dyn CatalogFile>>;
    /// Puts the fresh file in the place of the file, durably.
    fn place(&self) -> io::Result<()>;
    /// Removes the fresh file, if there is one.
    fn discard(&self) -> io::Result<()>;
}

/// In the file system.
#[derive(Debug)]
pub(super) struct Beside {
    path: PathBuf,
    fresh: PathBuf,
}

impl Beside {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            fresh: path.with_extension("redb.new"),
        }
    }
}

impl CatalogHome for Beside {
    fn open(&self) -> io::Result<Option<Arc<dyn CatalogFile>>> {
        match own_file(&self.path, fs::OpenOptions::new().read(true).write(true)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
            Ok(file) => sync_parent(&self.path).map(|()| Some(file)),
        }
    }
    fn fresh(&self) -> io::Result<Arc<dyn CatalogFile>> {
        self.discard()?;
        let mut options = fs::OpenOptions::new();
        own_file(
            &self.fresh,
            options.read(true).write(true).create_new(true).mode(MODE),
        )
    }
    fn place(&self) -> io::Result<()> {
        fs::rename(&self.fresh, &self.path)?;
        sync_parent(&self.path)
    }
    fn discard(&self) -> io::Result<()> {
        match fs::remove_file(&self.fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// Closed to others, and locked for as long as it is open.
fn own_file(path: &Path, options: &fs::OpenOptions) -> io::Result<Arc<dyn CatalogFile>> {
    let file = options.open(path)?;
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.try_lock()?;
    Ok(Arc::new(OwnFile(file)))
}

#[derive(Debug)]
struct OwnFile(fs::File);

impl CatalogFile for OwnFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Keeps a copy of a file of an older format, at rest, before it is brought up: `catalog.redb.v1`, whole under
/// its name or not there at all.
pub(super) fn keep_copy(path: &Path, format: u64) -> Result<()> {
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
        Error::caused(ErrorKind::of(&e), context, e)
    })
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all())
}

/// Opens what lies at `home`, makes it if it is not there: as the fresh file first, since a file whose first pages
/// a power cut took half would be refused for ever. `shown` names it to people.
pub(super) fn open(home: &dyn CatalogHome, shown: &str) -> Result<(Database, Syncs)> {
    if let Some(opened) = open_placed(home, shown)? {
        // A file that was to take its place when the head died.
        drop(home.discard());
        return Ok(opened);
    }
    make(home, shown, &[])?;
    let opened = open_placed(home, shown)?;
    opened.ok_or_else(|| Error::new(ErrorKind::Io, format!("the catalog {shown} went away")))
}

/// Opens the file that is there.
pub(super) fn open_placed(
    home: &dyn CatalogHome,
    shown: &str,
) -> Result<Option<(Database, Syncs)>> {
    let opened = home.open().map_err(|e| failed("open", shown, e))?;
    opened.map(|file| open_file(file, shown)).transpose()
}

/// Writes a whole new file of the present format with `rows`, and puts it in its place.
pub(super) fn make(home: &dyn CatalogHome, shown: &str, rows: &[schema::Row]) -> Result<()> {
    let made = || {
        let file = home.fresh().map_err(|e| failed("make", shown, e))?;
        let (db, syncs) = open_file(file, shown)?;
        migrate::prepare(&db, migrate::MIGRATIONS)?;
        if !rows.is_empty() {
            schema::write(&db, rows)?;
        }
        // Closes it in order: its pages are durable, unless that says so.
        drop(db);
        if syncs.failed() {
            let context = format!("make the catalog {shown}: a sync failed");
            return Err(Error::new(ErrorKind::Io, context));
        }
        Ok(())
    };
    made().inspect_err(|_| drop(home.discard()))?;
    home.place()
        .map_err(|e| failed("put in its place", shown, e))
}

pub(super) fn failed(doing: &str, shown: &str, e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::WouldBlock => ErrorKind::Busy,
        _ => ErrorKind::of(&e),
    };
    let busy = if kind == ErrorKind::Busy {
        ": another process has it open"
    } else {
        ""
    };
    Error::caused(kind, format!("{doing} the catalog {shown}{busy}"), e)
}

fn open_file(file: Arc<dyn CatalogFile>, shown: &str) -> Result<(Database, Syncs)> {
    let syncs = Syncs::default();
    let made = builder().create_with_backend(Backend(file, syncs.clone()));
    let db = made.map_err(|e| schema::failed(format!("open the catalog {shown}"), e.into()))?;
    Ok((db, syncs))
}

/// Whether a sync of a file ever failed: then the system may take for written what is not, and nothing that stands
/// on its pages may be believed.
#[derive(Clone, Debug, Default)]
pub(super) struct Syncs(Arc<AtomicBool>);

impl Syncs {
    pub(super) fn failed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The door that redb knows.
#[derive(Debug)]
struct Backend(Arc<dyn CatalogFile>, Syncs);

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
        let done = self.0.sync();
        if done.is_err() {
            self.1.0.store(true, Ordering::Release);
        }
        done
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
