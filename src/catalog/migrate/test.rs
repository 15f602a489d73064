use redb::TableHandle;
use redb::backends::InMemoryBackend;

use super::*;
use crate::catalog::schema::{PENDING, load, write};
use crate::catalog::{BootMode, Catalog, LayerMode, LoaderPolicy, Setting, Snapshot};

/// The frozen catalog of format 1, as its program left it.
pub(in crate::catalog) fn frozen() -> Vec<u8> {
    let text = include_str!("../../../tests/fixtures/catalog-v1.hex");
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let len: usize = lines.next().unwrap().parse().unwrap();
    let mut bytes = vec![0; len];
    for line in lines {
        let (at, hex) = line.split_once(' ').unwrap();
        let at = usize::from_str_radix(at, 16).unwrap();
        for (place, pair) in (at..).zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).unwrap();
            bytes[place] = u8::from_str_radix(pair, 16).unwrap();
        }
    }
    bytes
}

fn database() -> Database {
    let made = Database::builder().create_with_backend(InMemoryBackend::new());
    made.unwrap()
}

/// A step for the test: every waiting machine is forgotten.
fn forget_pending(tx: &WriteTransaction) -> Result<()> {
    let deleted = tx.delete_table(PENDING);
    deleted.map_err(|e| failed("forget", e.into())).map(drop)
}

/// A step for the test: adds its mark to those of the steps before.
fn mark(tx: &WriteTransaction) -> Result<()> {
    let mut table = tx.open_table(schema::FACTS).unwrap();
    let before = table
        .get("mark")
        .unwrap()
        .map_or(String::new(), |m| m.value().to_owned());
    let text = format!("{before}x");
    table.insert("mark", text.as_str()).unwrap();
    Ok(())
}

fn fail(_: &WriteTransaction) -> Result<()> {
    Err(Error::new(ErrorKind::Corrupt, "this step never works"))
}

fn marks(db: &Database) -> usize {
    let read = db.begin_read().unwrap();
    let table = read.open_table(schema::FACTS).unwrap();
    table.get("mark").unwrap().map_or(0, |m| m.value().len())
}

#[test]
fn a_newer_format_is_refused_with_the_numbers() {
    let db = database();
    prepare(&db, MIGRATIONS).unwrap();
    write(&db, &[Row::put_text(META, &"format", "9")]).unwrap();
    let error = prepare(&db, MIGRATIONS).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerVersion);
    let text = error.to_string();
    assert!(
        text.contains("format 9") && text.contains("up to 2"),
        "{text}"
    );
}

#[test]
fn an_older_format_is_brought_up_once() {
    let db = database();
    prepare(&db, &[]).unwrap();
    write(&db, &[Row::put_text(PENDING, &"x", "{}")]).unwrap();
    assert!(load(&db).is_err());
    prepare(&db, &[forget_pending]).unwrap();
    assert_eq!(format_of(&db).unwrap(), Some(2));
    load(&db).unwrap();
    write(&db, &[Row::put_text(PENDING, &"x", "{}")]).unwrap();
    prepare(&db, &[forget_pending]).unwrap();
    assert!(load(&db).is_err());
}

#[test]
fn a_chain_runs_each_step_once_and_stops_at_the_one_that_fails() {
    let db = database();
    prepare(&db, &[]).unwrap();
    prepare(&db, &[mark, mark, fail, mark]).unwrap_err();
    assert_eq!((format_of(&db).unwrap(), marks(&db)), (Some(3), 2));
    prepare(&db, &[mark, mark, mark, mark]).unwrap();
    assert_eq!((format_of(&db).unwrap(), marks(&db)), (Some(5), 4));
}

#[test]
fn a_format_that_is_no_number_is_corrupt() {
    let db = database();
    prepare(&db, MIGRATIONS).unwrap();
    write(&db, &[Row::put_text(META, &"format", "new")]).unwrap();
    let error = prepare(&db, MIGRATIONS).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

fn is_the_frozen_one(now: &Snapshot) {
    let node = |name: &str| now.node(name).unwrap();
    let (one, two, three) = (node("node1"), node("node2"), node("node3"));
    assert_eq!(one.image.as_ref().unwrap().to_string(), "debian12:stable");
    assert_eq!(
        (one.mode, one.boot, one.loader),
        (LayerMode::Ephemeral, BootMode::Image, LoaderPolicy::Auto)
    );
    assert!(one.inherits.has(Setting::Mode) && !one.inherits.has(Setting::Image));
    assert_eq!(
        (two.mode, two.boot, two.loader),
        (LayerMode::Persistent, BootMode::Local, LoaderPolicy::Chain)
    );
    assert_eq!(two.disk.to_string(), "512n,read-only");
    assert_eq!(two.power.as_deref(), Some("power {node} {action}"));
    assert!(two.inherits.is_empty());
    assert!(three.image.is_none() && three.head_secret.is_empty() && three.macs.is_empty());
    assert_eq!(one.macs[0].to_string(), "52:54:00:00:00:01");
    assert_eq!(one.ip.unwrap().to_string(), "10.0.0.1");
    assert_eq!(one.secret.0, "0123456789abcdef");
    assert_eq!(two.head_secret.0, "fedcba9876543210");
    assert_eq!(one.disk_uuid, "00000000-0000-4000-8000-000000000001");
    let image = now.image("debian12").unwrap();
    assert_eq!((image.versions.len(), image.tags["stable"]), (3, 2));
    assert_eq!(image.versions[1].note.as_deref(), Some("second"));
    assert_eq!(now.binding(one.layer).unwrap().boot.0, 31);
    let reserved = now.binding(two.layer).unwrap();
    let keys = &reserved.reservations.as_ref().unwrap().registrants;
    assert_eq!((keys.len(), keys[0].key), (1, 7));
    assert_eq!(now.all_pending().count(), 1);
    assert_eq!(&**now.campaign(4).unwrap(), r#"{"wave":25}"#);
    assert_eq!((now.counter("boots"), now.counter("layers")), (77, 3));
    assert_eq!(now.fact("host_boot"), Some("frozen"));
    assert!(now.fact("drain").unwrap().contains("node2"));
    assert_eq!(now.profiles().count(), 0);
}

#[test]
fn the_frozen_catalog_of_format_1_is_brought_up_and_a_copy_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    let old = frozen();
    std::fs::write(&path, &old).unwrap();
    // What a kill in the middle of an earlier copy left.
    std::fs::write(dir.path().join("catalog.redb.v1.new"), "half").unwrap();
    for _ in 0..2 {
        let catalog = Catalog::open(&path).unwrap();
        is_the_frozen_one(&catalog.snapshot());
    }
    let copy = dir.path().join("catalog.redb.v1");
    assert!(!dir.path().join("catalog.redb.v1.new").exists());
    // Another program of format 1 could go on with the copy.
    std::fs::rename(&copy, &path).unwrap();
    is_the_frozen_one(&Catalog::open(&path).unwrap().snapshot());
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds secrets");
}

#[test]
fn a_newer_file_keeps_its_records_and_gets_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    std::fs::write(&path, frozen()).unwrap();
    let set = |format: &str| {
        let db = Database::open(&path).unwrap();
        write(&db, &[Row::put_text(META, &"format", format)]).unwrap();
    };
    set("3");
    let error = Catalog::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerVersion);
    let names = std::fs::read_dir(dir.path()).unwrap();
    assert_eq!(names.count(), 1, "only the catalog");
    set("1");
    is_the_frozen_one(&Catalog::open(&path).unwrap().snapshot());
}

#[test]
fn every_table_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<&str> = ALL.iter().map(TableHandle::name).collect();
    assert_eq!(names.len(), ALL.len());
}

/// The bytes of every table of a file, whatever its format.
pub(in crate::catalog) fn all_rows(db: &Database) -> Vec<(String, String, String)> {
    let read = db.begin_read().unwrap();
    let mut rows = Vec::new();
    for table in ALL {
        let Ok(open) = read.open_table(table) else {
            continue;
        };
        for record in open.iter().unwrap() {
            let (key, value) = record.unwrap();
            let row = (
                table.name().to_owned(),
                key.value().to_owned(),
                value.value().to_owned(),
            );
            rows.push(row);
        }
    }
    rows
}
