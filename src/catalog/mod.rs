//! Small durable facts: nodes, profiles, images, what layers are bound to, machines that wait for approval, campaigns.
//!
//! ```text
//!   transact(|changes| ...) ── checks ──► rows ──► redb, one two-phase commit ──► new Snapshot swapped in
//!   snapshot() ◄── every reader, without a lock, for as long as it likes
//! ```
//! - **record**: one fact, JSON in the file. **snapshot**: all records at one moment, immutable.
//! - **changes**: what one transaction does. It is checked first (names, MACs, addresses and layers are
//!   unique), then written whole, then seen. After an error nothing has changed.
//!
//! What this room never does: know images' bytes or layers' blocks (`store`, a sibling), mint secrets, or
//! ask who is logged in. Level 3.

mod changes;
pub mod check;
mod error;
mod file;
mod image;
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
use redb::Database;
use redb::backends::InMemoryBackend;

pub use changes::Changes;
pub use error::{Error, ErrorKind, Result};
pub use file::CatalogFile;
pub use image::{ImageRecord, ImageRef, LATEST, VersionRecord, VersionSelector};
pub use node::{
    Binding, BootMode, DiskTrait, DiskTraits, LayerMode, LoaderPolicy, Moving, NodeRecord,
    PendingRecord, Secret,
};
pub use profile::{ProfileRecord, Setting, SettingSet, Settings, parse_size, size_text};
pub use reservations::{DiskReservations, Held, HeldType, ReservationKey};
pub use snapshot::Snapshot;

/// The catalog of one head, open. One process at a time has it.
pub struct Catalog {
    db: Database,
    /// Held by the one transaction that runs.
    writer: Mutex<()>,
    current: ArcSwap<Snapshot>,
    rows_written: AtomicU64,
}

impl Catalog {
    /// Opens the file at `path` (mode 0600), makes it if it is not there. A file of a newer format is
    /// refused with [`ErrorKind::NewerVersion`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::over(file::open(path)?)
    }

    /// Opens the catalog in `file`, makes it if the file is empty.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(file: Arc<dyn CatalogFile>) -> Result<Self> {
        Self::with_backend(file::Backend(file))
    }

    /// A catalog that lives as long as the process.
    pub fn in_memory() -> Result<Self> {
        Self::with_backend(InMemoryBackend::new())
    }

    pub(crate) fn with_backend(backend: impl redb::StorageBackend) -> Result<Self> {
        let made = file::builder().create_with_backend(backend);
        Self::over(made.map_err(|e| schema::failed("open the catalog", e.into()))?)
    }

    fn over(mut db: Database) -> Result<Self> {
        check::verify(&mut db)?;
        migrate::prepare(&db, migrate::MIGRATIONS)?;
        let current = schema::load(&db)?;
        Ok(Self {
            db,
            writer: Mutex::new(()),
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
    /// fails, nothing changes. One at a time: `change` must not wait for long.
    pub fn transact<T, E: From<Error>>(
        &self,
        change: impl FnOnce(&mut Changes) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Changes::new(&self.current.load());
        let answer = change(&mut changes)?;
        let (next, rows) = changes.into_parts();
        if rows.is_empty() {
            return Ok(answer);
        }
        schema::write(&self.db, &rows)?;
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

#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod test;
