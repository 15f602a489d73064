//! The catalog's file: opened or made with a mode that keeps its secrets.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use redb::{Builder, Database};

use super::error::{Error, ErrorKind, Result};
use super::schema;
use crate::limits;

/// Only the owner may read: the file holds every node's CHAP secret.
const MODE: u32 = 0o600;

/// Opens the file at `path`, makes it if it is not there.
pub(super) fn open(path: &Path) -> Result<Database> {
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

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(limits::CATALOG_CACHE_BYTES);
    builder
}
