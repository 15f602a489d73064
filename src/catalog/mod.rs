//! Small durable facts: nodes, profiles, images, what layers are bound to, machines that wait for approval, campaigns.
//!
//! ```text
//!   transact(|changes| ...) ── checks ──► rows ──► redb, one two-phase commit ──► new Snapshot swapped in
//!   snapshot() ◄── every reader, without a lock, for as long as it likes
//! ```
//! - **record**: one fact, JSON in the file. **snapshot**: all records at one moment, immutable.
//! - **changes**: what one transaction does. It is checked first (names, MACs, addresses and layers are
//!   unique), then written whole, then seen. After an error nothing has changed, and the file is opened anew by
//!   the next change (`medium`): a disk that was full needs no restart.
//!
//! What this room never does: know images' bytes or layers' blocks (`store`, a sibling), mint secrets, or
//! ask who is logged in. Level 3.

mod changes;
pub mod check;
mod error;
mod file;
mod image;
mod look;
mod medium;
mod migrate;
mod node;
mod profile;
mod reservations;
mod schema;
mod snapshot;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use redb::backends::InMemoryBackend;

pub use changes::Changes;
pub use error::{Error, ErrorKind, Result};
pub use file::{CatalogFile, CatalogHome};
pub use image::{ImageRecord, ImageRef, LATEST, VersionRecord, VersionSelector};
pub use node::{
    Binding, BootMode, DiskTrait, DiskTraits, LayerMode, LoaderPolicy, Moving, NodeRecord,
    PendingRecord, Secret,
};
pub use profile::{ProfileRecord, Setting, SettingSet, Settings, parse_size, size_text};
pub use reservations::{DiskReservations, Held, HeldType, ReservationKey};
pub use snapshot::Snapshot;

use medium::Medium;

/// What people are told of one that has no path.
const IN_HOME: &str = "of this medium";

/// The catalog of one head, open. One process at a time has it.
pub struct Catalog {
    /// Locked by the one transaction that runs.
    medium: Mutex<Medium>,
    current: ArcSwap<Snapshot>,
    rows_written: AtomicU64,
}

impl Catalog {
    /// Opens the file at `path` (mode 0600), makes it if it is not there. A file of a newer format is
    /// refused with [`ErrorKind::NewerVersion`].
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let home = Arc::new(file::Beside::new(path));
        if let Some(format) = look::older(&*home, &shown)? {
            file::keep_copy(path, format)?;
        }
        Self::over(Medium::open(home, shown)?)
    }

    /// Refuses what [`Self::open`] would refuse for its format, and changes no byte. Fine when there is no file.
    ///
    /// # Errors
    /// `NewerVersion`; `Corrupt`; `Busy`; `Io`.
    pub fn look(path: &Path) -> Result<()> {
        let shown = path.display().to_string();
        look::older(&file::Beside::new(path), &shown).map(drop)
    }

    /// As [`Self::look`], for [`Self::open_in`].
    ///
    /// # Errors
    /// As [`Self::look`].
    pub fn look_in(home: &dyn CatalogHome) -> Result<()> {
        look::older(home, IN_HOME).map(drop)
    }

    /// Opens the catalog that lies at `home`, makes it if it is not there.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(home: Arc<dyn CatalogHome>) -> Result<Self> {
        Self::over(Medium::open(home, IN_HOME.to_owned())?)
    }

    /// A catalog that lives as long as the process.
    pub fn in_memory() -> Result<Self> {
        Self::with_backend(InMemoryBackend::new())
    }

    pub(crate) fn with_backend(backend: impl redb::StorageBackend) -> Result<Self> {
        let made = file::builder().create_with_backend(backend);
        let db = made.map_err(|e| schema::failed("open the catalog", e.into()))?;
        Self::over(Medium::once(db)?)
    }

    fn over(medium: Medium) -> Result<Self> {
        let current = medium.load()?;
        Ok(Self {
            medium: Mutex::new(medium),
            current: ArcSwap::from_pointee(current),
            rows_written: AtomicU64::new(0),
        })
    }

    /// All records as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Runs `change`, commits what it said durably, and shows it to readers. If `change` or the commit
    /// fails, nothing changes, and the next change is tried on a file that was opened anew. One at a time: `change`
    /// must not wait for long.
    pub fn transact<T, E: From<Error>>(
        &self,
        change: impl FnOnce(&mut Changes) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let medium = self.medium.lock();
        let mut medium = medium.unwrap_or_else(PoisonError::into_inner);
        let mut changes = Changes::new(&self.current.load());
        let answer = change(&mut changes)?;
        let (next, rows) = changes.into_parts();
        if rows.is_empty() {
            return Ok(answer);
        }
        medium.write(&rows, &self.current.load())?;
        let count = rows.len() as u64;
        self.rows_written.fetch_add(count, Ordering::Relaxed);
        self.current.store(Arc::new(next));
        Ok(answer)
    }

    /// Runs `change` and forgets what it did: for telling beforehand what would happen.
    pub fn rehearse<T, E: From<Error>>(
        &self,
        change: impl FnOnce(&mut Changes) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        change(&mut Changes::new(&self.current.load()))
    }

    /// All campaigns by number: their records as JSON text.
    #[must_use]
    pub fn campaigns(&self) -> Vec<(u64, Arc<str>)> {
        let all = self.current.load();
        all.campaigns()
            .map(|(id, text)| (id, Arc::clone(text)))
            .collect()
    }

    /// Writes a campaign's record, JSON text, down. The oldest beyond
    /// [`crate::limits::CAMPAIGNS_KEPT`] goes.
    pub fn put_campaign(&self, id: u64, json: &str) -> Result<()> {
        self.transact(|changes| changes.put_campaign(id, json))
    }

    /// Records written since this catalog was opened.
    #[must_use]
    pub fn rows_written(&self) -> u64 {
        self.rows_written.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.current.load();
        f.debug_struct("Catalog")
            .field("nodes", &now.node_count())
            .finish_non_exhaustive()
    }
}

/// For tests: the file at `path` says that a program of another format wrote it.
#[cfg(test)]
pub(crate) fn claim_format(path: &Path, format: u64) {
    let home = file::Beside::new(path);
    let (db, _) = file::open_placed(&home, "").unwrap().unwrap();
    let row = schema::Row::put_text(schema::META, &"format", &format.to_string());
    schema::write(&db, &[row]).unwrap();
}

#[cfg(test)]
mod healing;
#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod test;
