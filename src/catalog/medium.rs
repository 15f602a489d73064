//! The open file, and how it comes back after a write that failed.
//!
//! redb takes nothing more after one I/O error. So the database is closed at once, and the next change opens it
//! anew, under the lock of the one writer:
//! ```text
//!   a write failed ──► open the file again: it holds what was acknowledged last? ──► go on with it
//!   a sync failed, or it does not ────────► write all records to a fresh file, put that in its place
//! ```
//! What was acknowledged last is the snapshot in memory, which readers go on with all the time. After a failed sync
//! the old file is not believed: the kernel may take pages for written that are not, and drop them later.

use std::fmt;
use std::sync::Arc;

use redb::Database;

use super::error::{Error, ErrorKind, Result};
use super::file::{self, CatalogHome, Syncs};
use super::schema::{self, Row};
use super::snapshot::Snapshot;
use super::{check, migrate};

/// What people can do about it.
const MAKE_ROOM: &str = "make room on the file system of the state directory (image versions or layers that nobody \
     needs, files of others) and do it again; no restart is needed";
const LOOK: &str = "look at the medium of the state directory and the kernel's log, then do it again; no restart is \
     needed";

/// The database of one catalog.
pub(super) struct Medium {
    /// None for a catalog in memory.
    home: Option<(Arc<dyn CatalogHome>, String)>,
    /// None since a write failed.
    db: Option<Database>,
    syncs: Syncs,
    /// The file in its place may be opened again.
    believed: bool,
}

impl Medium {
    /// Opens what lies at `home`; the database is checked and of the present format.
    pub(super) fn open(home: Arc<dyn CatalogHome>, shown: String) -> Result<Self> {
        let (mut db, syncs) = file::open(&*home, &shown)?;
        ready(&mut db)?;
        Ok(Self {
            home: Some((home, shown)),
            db: Some(db),
            syncs,
            believed: true,
        })
    }

    /// Over a database that cannot be opened again.
    pub(super) fn once(mut db: Database) -> Result<Self> {
        ready(&mut db)?;
        Ok(Self {
            home: None,
            db: Some(db),
            syncs: Syncs::default(),
            believed: true,
        })
    }

    /// All records as the file has them.
    pub(super) fn load(&self) -> Result<Snapshot> {
        schema::load(self.db.as_ref().ok_or_else(closed)?)
    }

    /// Writes all rows durably, or none; `now` is what was acknowledged last. After an earlier failure the file is
    /// brought back first.
    pub(super) fn write(&mut self, rows: &[Row], now: &Snapshot) -> Result<()> {
        if self.db.is_none() {
            self.come_back(now).map_err(|e| refused(&e))?;
            tracing::info!("the catalog takes changes again");
        }
        let done = schema::write(self.db.as_ref().ok_or_else(closed)?, rows);
        let Err(e) = done else {
            return Ok(());
        };
        if !matches!(e.kind(), ErrorKind::Io | ErrorKind::NoSpace) {
            return Err(e);
        }
        self.db = None;
        self.believed &= !self.syncs.failed();
        let told = refused(&e);
        tracing::error!(error = %told, "the catalog was not written");
        Err(told)
    }

    fn come_back(&mut self, now: &Snapshot) -> Result<()> {
        let (home, shown) = self.home.as_ref().ok_or_else(closed)?;
        let wanted = schema::rows_of(now)?;
        if self.believed {
            let again = reopen(&**home, shown)?;
            if let Some((db, syncs)) = again.filter(|(db, _)| holds(db, &wanted)) {
                (self.db, self.syncs) = (Some(db), syncs);
                return Ok(());
            }
        }
        // From here on the name may mean the old file or the new one, until all is done.
        self.believed = false;
        file::make(&**home, shown, &wanted)?;
        let (db, syncs) = reopen(&**home, shown)?.ok_or_else(closed)?;
        (self.db, self.syncs, self.believed) = (Some(db), syncs, true);
        Ok(())
    }
}

/// None when it is not there or damaged: then it is made anew from memory.
fn reopen(home: &dyn CatalogHome, shown: &str) -> Result<Option<(Database, Syncs)>> {
    let opened = file::open_placed(home, shown).and_then(|opened| {
        let Some((mut db, syncs)) = opened else {
            return Ok(None);
        };
        ready(&mut db)?;
        Ok((!syncs.failed()).then_some((db, syncs)))
    });
    match opened {
        Err(e) if e.kind() == ErrorKind::Corrupt => {
            tracing::error!(error = %e, "the catalog's file is written anew");
            Ok(None)
        }
        opened => opened,
    }
}

fn holds(db: &Database, wanted: &[Row]) -> bool {
    let found = schema::load(db).and_then(|found| schema::rows_of(&found));
    found.is_ok_and(|found| found == wanted)
}

fn ready(db: &mut Database) -> Result<()> {
    check::verify(db)?;
    migrate::prepare(db, migrate::MIGRATIONS)
}

fn closed() -> Error {
    let why = "the catalog takes no changes since one could not be written; start the head again";
    Error::new(ErrorKind::Io, why)
}

fn refused(e: &Error) -> Error {
    let next = match e.kind() {
        ErrorKind::NoSpace => MAKE_ROOM,
        ErrorKind::Io => LOOK,
        kind => return Error::new(kind, format!("the catalog could not be written: {e}")),
    };
    let context = format!("the catalog could not be written, nothing was changed: {e}; {next}");
    Error::new(e.kind(), context)
}

impl fmt::Debug for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Medium")
            .field("home", &self.home)
            .field("open", &self.db.is_some())
            .finish_non_exhaustive()
    }
}
