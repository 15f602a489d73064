//! The offline check of a catalog's bytes: opened as a copy in memory, so that nothing on the medium changes,
//! and read record by record, so that one bad record does not hide the others.

use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend};

use super::error::{Error, ErrorKind, Result};
use super::file;
use super::migrate;
use super::schema;
use super::snapshot::Snapshot;

/// What is in a catalog, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Checked {
    /// The records that can be read and break no rule. Empty when the file cannot be opened.
    pub records: Snapshot,
    /// The file opens and every table can be walked.
    pub opens: bool,
    /// A newer program wrote it.
    pub newer: bool,
    /// What is wrong: the thing, and the cause.
    pub faults: Vec<(String, String)>,
}

/// Checks the bytes of a catalog's file.
#[must_use]
pub fn check(bytes: &[u8]) -> Checked {
    let mut found = Checked::default();
    if let Err(e) = check_file(bytes, &mut found) {
        found.newer = e.kind() == ErrorKind::NewerVersion;
        found.faults.push(("the catalog".to_owned(), e.to_string()));
        found.opens = false;
    }
    found
}

fn check_file(bytes: &[u8], found: &mut Checked) -> Result<()> {
    let mut db = open_copy(bytes)?;
    verify(&mut db)?;
    migrate::prepare(&db, migrate::MIGRATIONS)?;
    found.opens = true;
    let all = &mut found.records;
    let faults = &mut found.faults;
    for table in schema::RECORDS {
        schema::each(&db, *table, |key, text| {
            // A record that breaks a rule is told, and the next one is looked at.
            if let Err(e) = schema::take(all, *table, key, text) {
                let object = format!("{} record `{key}`", schema::name_of(*table));
                faults.push((object, e.to_string()));
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn open_copy(bytes: &[u8]) -> Result<Database> {
    let copy = InMemoryBackend::new();
    let failed = |e| Error::caused(ErrorKind::Io, "copy the catalog", e);
    copy.set_len(bytes.len() as u64).map_err(failed)?;
    copy.write(0, bytes).map_err(failed)?;
    let db = file::builder().create_with_backend(copy);
    db.map_err(|e| schema::failed("open the catalog", e.into()))
}

/// Every page against its checksum: redb does not look at them when a file was closed in order.
///
/// # Errors
/// `Corrupt`.
pub(super) fn verify(db: &mut Database) -> Result<()> {
    let corrupt = |why: &str| {
        let next = "restore the file from a copy, or load an export into a new state directory";
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("the catalog is damaged: {why}; {next}"),
        ))
    };
    match db.check_integrity() {
        Ok(true) => Ok(()),
        Ok(false) => corrupt("pages do not match their checksums or are counted wrongly"),
        Err(e) => corrupt(&e.to_string()),
    }
}

/// The snapshot of a catalog's bytes, for comparing; `None` when anything is wrong.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Arc<Snapshot>> {
    let found = check(bytes);
    (found.opens && found.faults.is_empty()).then(|| Arc::new(found.records))
}
