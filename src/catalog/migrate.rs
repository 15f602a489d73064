//! From format to format. A file with a higher number is refused and left as it is; one with a lower number is
//! brought up in steps, each in one transaction with its new number, so that a kill or a power cut at any
//! moment leaves the file in one format or the next, never between. `file` keeps a copy of the old file first.

use redb::{Database, ReadableDatabase, ReadableTable, TableError, WriteTransaction};
use serde_json::Value;

use super::error::{Error, ErrorKind, Result};
use super::schema::{self, ALL, META, NODES, Row, failed};

/// One step: what the format before needs to become the next. It must not use the types of records: those go on
/// changing, and a step does not.
pub(super) type Migration = fn(&WriteTransaction) -> Result<()>;

/// From format 1 to 2, from 2 to 3, ...
pub(super) const MIGRATIONS: &[Migration] = &[only_own_settings];

/// Makes the tables of a new file, or brings an older file to the present format.
pub(super) fn prepare(db: &Database, migrations: &[Migration]) -> Result<()> {
    let present = migrations.len() as u64 + 1;
    let Some(found) = format_of(db)? else {
        let tx = schema::begin(db)?;
        return finish(tx, present);
    };
    refuse_newer(found, present)?;
    for (step, to) in migrations.iter().zip(2..) {
        if to <= found {
            continue;
        }
        let tx = schema::begin(db)?;
        step(&tx)?;
        finish(tx, to)?;
        tracing::info!(
            from = to - 1,
            to,
            "the catalog was brought to another format"
        );
    }
    Ok(())
}

/// The format of a file that has to be brought up; `None` for a new file and for one of the present format.
pub(super) fn older(db: &Database, migrations: &[Migration]) -> Result<Option<u64>> {
    let present = migrations.len() as u64 + 1;
    let found = format_of(db)?;
    if let Some(found) = found {
        refuse_newer(found, present)?;
    }
    Ok(found.filter(|found| *found < present))
}

fn refuse_newer(found: u64, present: u64) -> Result<()> {
    if found <= present {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NewerVersion,
        format!(
            "the catalog has format {found}, this program knows formats up to {present}; \
             run the newer Reveille that wrote it, or restore a copy from before"
        ),
    ))
}

fn format_of(db: &Database) -> Result<Option<u64>> {
    let doing = "read the catalog's format";
    let read = db.begin_read().map_err(|e| failed(doing, e.into()))?;
    let table = match read.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(e) => return Err(failed(doing, e.into())),
    };
    let format = table.get("format").map_err(|e| failed(doing, e.into()))?;
    let Some(format) = format else {
        return Ok(None);
    };
    let number = format.value().parse().ok().filter(|&n| n > 0);
    let wrong = || Error::new(ErrorKind::Corrupt, "the catalog's format is not a number");
    number.map(Some).ok_or_else(wrong)
}

/// The tables that are missing, the number and who wrote it; then all of it at once.
fn finish(tx: WriteTransaction, format: u64) -> Result<()> {
    let doing = "make the catalog's tables";
    for table in ALL {
        tx.open_table(table).map_err(|e| failed(doing, e.into()))?;
    }
    let format = Row::put_text(META, &"format", &format.to_string());
    let by = Row::put(META, &"written_by", &env!("CARGO_PKG_VERSION"))?;
    schema::write_rows(&tx, &[format, by])?;
    schema::commit(tx)
}

/// 1 to 2: a node's record holds only what is the node's own. Until now it held every setting, so what has its
/// default was never said, as far as anyone can tell. Fields that this step does not know stay.
fn only_own_settings(tx: &WriteTransaction) -> Result<()> {
    let doing = "bring the nodes to format 2";
    let table = tx.open_table(NODES);
    let mut table = table.map_err(|e| failed(doing, e.into()))?;
    let mut rows = Vec::new();
    for record in table.iter().map_err(|e| failed(doing, e.into()))? {
        let (key, text) = record.map_err(|e| failed(doing, e.into()))?;
        let name = key.value().to_owned();
        rows.push((name.clone(), without_defaults(&name, text.value())?));
    }
    for (name, text) in rows {
        let done = table.insert(name.as_str(), text.as_str()).map(drop);
        done.map_err(|e| failed(doing, e.into()))?;
    }
    Ok(())
}

fn without_defaults(name: &str, text: &str) -> Result<String> {
    let broken = |e: Option<serde_json::Error>| {
        let what = format!("nodes record `{name}` of the catalog is not readable");
        match e {
            Some(e) => Error::caused(ErrorKind::Corrupt, what, e),
            None => Error::new(ErrorKind::Corrupt, what),
        }
    };
    let mut record: Value = serde_json::from_str(text).map_err(|e| broken(Some(e)))?;
    let fields = record.as_object_mut().ok_or_else(|| broken(None))?;
    let defaults = [("mode", "ephemeral"), ("boot", "image"), ("loader", "auto")];
    for (field, default) in defaults {
        if fields.get(field).and_then(Value::as_str) == Some(default) {
            fields.remove(field);
        }
    }
    if fields.get("image").is_some_and(Value::is_null) {
        fields.remove("image");
    }
    Ok(record.to_string())
}

#[cfg(test)]
pub(super) mod test;
