//! The catalog's file: opened or made with a mode that keeps its secrets.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{Builder, Database};

use super::error::{Error, ErrorKind, Result};
use super::{migrate, schema};
use crate::limits;

/// Only the owner may read: the file holds every node's CHAP secret.
const MODE: u32 = 0o600;

/// Opens the file at `path`, makes it if it is not there. Beside one of an older format a copy is kept first.
pub(super) fn open(path: &Path) -> Result<Database> {
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

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(limits::CATALOG_CACHE_BYTES);
    builder
}
