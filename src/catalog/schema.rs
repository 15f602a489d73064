//! How the catalog lies in its file: one redb table for each kind of record, keys and values as text, values
//! as JSON. `docs/formats/catalog.md` describes it.
//!
//! The format has a number; `migrate` looks after it.

use std::fmt::{self, Display};
use std::io;
use std::sync::Arc;

use redb::{
    Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{Error, ErrorKind, Result};
use super::snapshot::Snapshot;
use super::{Binding, ImageRecord, NodeRecord, PendingRecord, ProfileRecord};

pub(super) type Table = TableDefinition<'static, &'static str, &'static str>;

pub(super) const META: Table = TableDefinition::new("meta");
/// Nodes by name.
pub(super) const NODES: Table = TableDefinition::new("nodes");
/// Profiles by name.
pub(super) const PROFILES: Table = TableDefinition::new("profiles");
/// Images by name.
pub(super) const IMAGES: Table = TableDefinition::new("images");
/// Bindings by layer number.
pub(super) const BINDINGS: Table = TableDefinition::new("bindings");
/// Machines that wait for approval, by MAC.
pub(super) const PENDING: Table = TableDefinition::new("pending");
/// Campaigns by number.
pub(super) const CAMPAIGNS: Table = TableDefinition::new("campaigns");
/// Counters by name.
pub(super) const COUNTERS: Table = TableDefinition::new("counters");
/// Single facts by name.
pub(super) const FACTS: Table = TableDefinition::new("facts");

pub(super) const ALL: [Table; 9] = [
    META, NODES, PROFILES, IMAGES, BINDINGS, PENDING, CAMPAIGNS, COUNTERS, FACTS,
];

/// One record to write, or to remove when it has no value.
pub(super) struct Row {
    table: Table,
    key: String,
    value: Option<String>,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.table.name() == other.table.name()
            && self.key == other.key
            && self.value == other.value
    }
}

impl fmt::Debug for Row {
    /// Without the value, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.value.is_some() {
            "put"
        } else {
            "remove"
        };
        write!(f, "{verb} {} `{}`", self.table.name(), self.key)
    }
}

impl Row {
    pub(super) fn put(table: Table, key: &impl ToString, record: &impl Serialize) -> Result<Self> {
        let key = key.to_string();
        let value = serde_json::to_string(record).map_err(|e| {
            let what = format!("{} record `{key}` cannot be written", table.name());
            Error::caused(ErrorKind::Invalid, what, e)
        })?;
        Ok(Self {
            table,
            key,
            value: Some(value),
        })
    }

    /// A value that is JSON text already.
    pub(super) fn put_text(table: Table, key: &impl ToString, text: &str) -> Self {
        Self {
            table,
            key: key.to_string(),
            value: Some(text.to_owned()),
        }
    }

    pub(super) fn remove(table: Table, key: &impl ToString) -> Self {
        Self {
            table,
            key: key.to_string(),
            value: None,
        }
    }
}

/// Writes all rows in one durable transaction, or none.
pub(super) fn write(db: &Database, rows: &[Row]) -> Result<()> {
    let tx = begin(db)?;
    write_rows(&tx, rows)?;
    commit(tx)
}

/// Two phases: without them a torn header could make a power cut undo a commit that was acknowledged
/// (redb's documentation of `set_two_phase_commit`).
pub(super) fn begin(db: &Database) -> Result<WriteTransaction> {
    let begun = db.begin_write();
    let mut tx = begun.map_err(|e| failed("begin a change", e.into()))?;
    tx.set_two_phase_commit(true);
    Ok(tx)
}

pub(super) fn write_rows(tx: &WriteTransaction, rows: &[Row]) -> Result<()> {
    for row in rows {
        let doing = || format!("write {} record `{}`", row.table.name(), row.key);
        let table = tx.open_table(row.table);
        let mut table = table.map_err(|e| failed(doing(), e.into()))?;
        let done = match &row.value {
            Some(value) => table.insert(row.key.as_str(), value.as_str()).map(drop),
            None => table.remove(row.key.as_str()).map(drop),
        };
        done.map_err(|e| failed(doing(), e.into()))?;
    }
    Ok(())
}

pub(super) fn commit(tx: WriteTransaction) -> Result<()> {
    tx.commit().map_err(|e| failed("commit a change", e.into()))
}

/// The tables that hold records, in the order in which they are read.
pub(super) const RECORDS: &[Table] =
    // Profiles before the nodes, which take settings from them.
    &[
        PROFILES, NODES, IMAGES, BINDINGS, PENDING, CAMPAIGNS, COUNTERS, FACTS,
    ];

pub(super) fn name_of(table: Table) -> String {
    table.name().to_owned()
}

/// Rows that write all of these records, in the order of the tables and of their keys.
pub(super) fn rows_of(all: &Snapshot) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for profile in all.profiles() {
        rows.push(Row::put(PROFILES, &profile.name, &**profile)?);
    }
    for node in all.nodes() {
        rows.push(Row::put(NODES, &node.name, &**node)?);
    }
    for image in all.images() {
        rows.push(Row::put(IMAGES, &image.name, &**image)?);
    }
    for binding in all.bindings() {
        rows.push(Row::put(BINDINGS, &binding.layer, &**binding)?);
    }
    for machine in all.all_pending() {
        rows.push(Row::put(PENDING, &machine.mac, &**machine)?);
    }
    for (id, text) in all.campaigns() {
        rows.push(Row::put_text(CAMPAIGNS, &id, text));
    }
    for (name, value) in all.counters() {
        rows.push(Row::put(COUNTERS, &name, &value)?);
    }
    for (name, text) in all.facts() {
        rows.push(Row::put(FACTS, &name, &text)?);
    }
    Ok(rows)
}

/// Reads all records. A record that breaks a rule makes the whole catalog corrupt: better no service than
/// two nodes with one disk.
pub(super) fn load(db: &Database) -> Result<Snapshot> {
    let mut all = Snapshot::default();
    for table in RECORDS {
        each(db, *table, |key, text| take(&mut all, *table, key, text))?;
    }
    Ok(all)
}

/// Adds one record to what was read so far.
pub(super) fn take(all: &mut Snapshot, table: Table, key: &str, text: &str) -> Result<()> {
    match table.name() {
        "profiles" => {
            let profile: ProfileRecord = read_json(text)?;
            same_key(key, &profile.name)?;
            all.insert_profile(Arc::new(profile))?;
        }
        "nodes" => {
            let mut node: NodeRecord = read_json(text)?;
            same_key(key, &node.name)?;
            let profile = all.profile_of(&node)?;
            node.fill(profile.as_ref().map(|p| &p.settings));
            all.insert_node(Arc::new(node))?;
        }
        "images" => {
            let image: ImageRecord = read_json(text)?;
            same_key(key, &image.name)?;
            all.insert_image(Arc::new(image))?;
        }
        "bindings" => {
            let binding: Binding = read_json(text)?;
            same_key(key, binding.layer)?;
            all.insert_binding(Arc::new(binding));
        }
        "pending" => {
            let machine: PendingRecord = read_json(text)?;
            same_key(key, machine.mac)?;
            all.insert_pending(Arc::new(machine))?;
        }
        "campaigns" => {
            let number = key.parse().ok();
            let id =
                number.ok_or_else(|| Error::new(ErrorKind::Corrupt, "its key is no number"))?;
            all.insert_campaign(id, text.into());
        }
        "counters" => all.set_counter(key, read_json(text)?),
        "facts" => all.set_fact(key, &read_json::<String>(text)?),
        other => {
            let why = format!("nothing is known of a table `{other}`");
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
    }
    Ok(())
}

pub(super) fn each(
    db: &Database,
    table: Table,
    mut take: impl FnMut(&str, &str) -> Result<()>,
) -> Result<()> {
    let doing = || format!("read the table {} of the catalog", table.name());
    let read = db.begin_read().map_err(|e| failed(doing(), e.into()))?;
    let records = read.open_table(table);
    let records = records.map_err(|e| failed(doing(), e.into()))?;
    for record in records.iter().map_err(|e| failed(doing(), e.into()))? {
        let (key, text) = record.map_err(|e| failed(doing(), e.into()))?;
        take(key.value(), text.value()).map_err(|e| {
            let what = format!("{} record `{}` of the catalog", table.name(), key.value());
            Error::caused(ErrorKind::Corrupt, what, e)
        })?;
    }
    Ok(())
}

fn read_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::caused(ErrorKind::Corrupt, "not readable", e))
}

fn same_key(key: &str, of: impl Display) -> Result<()> {
    let named = of.to_string();
    if named == key {
        return Ok(());
    }
    let context = format!("it is about `{named}`");
    Err(Error::new(ErrorKind::Corrupt, context))
}

/// Every failure of redb, sorted by what may be done about it.
pub(super) fn failed(doing: impl Display, e: redb::Error) -> Error {
    let kind = match &e {
        redb::Error::DatabaseAlreadyOpen => ErrorKind::Busy,
        redb::Error::UpgradeRequired(_)
        | redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::RepairAborted => ErrorKind::Corrupt,
        // What does not begin as a database does.
        redb::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => ErrorKind::Corrupt,
        redb::Error::Io(e) => ErrorKind::of(e),
        _ => ErrorKind::Io,
    };
    Error::caused(kind, doing, e)
}

#[cfg(test)]
mod test {
    use redb::backends::InMemoryBackend;

    use super::super::migrate::{MIGRATIONS, prepare};
    use super::*;

    fn database() -> Database {
        let made = Database::builder().create_with_backend(InMemoryBackend::new());
        made.unwrap()
    }

    #[test]
    fn a_record_that_cannot_be_read_is_named() {
        let db = database();
        prepare(&db, MIGRATIONS).unwrap();
        write(&db, &[Row::put_text(NODES, &"n1", "{}")]).unwrap();
        let error = load(&db).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("nodes record `n1`"), "{error}");
    }

    #[test]
    fn a_node_of_a_profile_that_is_not_there_makes_the_catalog_corrupt() {
        let db = database();
        prepare(&db, MIGRATIONS).unwrap();
        let node = r#"{"name":"n1","layer":1,"macs":[],"profile":"p","secret":"s","disk_uuid":"u","added":1}"#;
        write(&db, &[Row::put_text(NODES, &"n1", node)]).unwrap();
        let error = load(&db).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("profile `p`"), "{error}");
    }

    #[test]
    fn rows_do_not_print_secrets() {
        let row = Row::put_text(NODES, &"n1", "secret");
        assert_eq!(format!("{row:?}"), "put nodes `n1`");
    }
}
