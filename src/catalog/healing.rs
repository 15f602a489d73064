//! A catalog whose medium refuses writes for a while goes on afterwards by itself. Tests only; the power cuts around
//! it are in `tests/catalog_faults.rs`.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::file::Beside;
use super::schema;
use super::test::{add, image, machine, node, reserved};
use super::*;
use crate::units::UnixMillis;

const WELL: u8 = 0;
const FULL: u8 = 1;
const UNSYNCED: u8 = 2;

/// A real file, and what is wrong with it.
#[derive(Clone, Debug)]
struct Ailing<T> {
    inner: T,
    ill: Arc<AtomicU8>,
}

impl<T> Ailing<T> {
    fn refuse_if(&self, ill: u8, kind: io::ErrorKind) -> io::Result<()> {
        if self.ill.load(Ordering::SeqCst) == ill {
            return Err(kind.into());
        }
        Ok(())
    }

    fn over(&self, file: Arc<dyn CatalogFile>) -> Arc<dyn CatalogFile> {
        let ill = Arc::clone(&self.ill);
        Arc::new(Ailing { inner: file, ill })
    }
}

impl CatalogHome for Ailing<Arc<Beside>> {
    fn open(&self) -> io::Result<Option<Arc<dyn CatalogFile>>> {
        Ok(self.inner.open()?.map(|file| self.over(file)))
    }
    fn fresh(&self) -> io::Result<Arc<dyn CatalogFile>> {
        Ok(self.over(self.inner.fresh()?))
    }
    fn place(&self) -> io::Result<()> {
        self.inner.place()
    }
    fn discard(&self) -> io::Result<()> {
        self.inner.discard()
    }
}

impl CatalogFile for Ailing<Arc<dyn CatalogFile>> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.refuse_if(FULL, io::ErrorKind::StorageFull)?;
        self.inner.write_at(offset, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.refuse_if(UNSYNCED, io::ErrorKind::Other)?;
        self.inner.sync()
    }
}

struct Case {
    catalog: Catalog,
    ill: Arc<AtomicU8>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

/// A catalog with a record of every kind.
fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    let ill = Arc::new(AtomicU8::new(WELL));
    let home = Ailing {
        inner: Arc::new(Beside::new(&path)),
        ill: Arc::clone(&ill),
    };
    let catalog = Catalog::open_in(Arc::new(home)).unwrap();
    let filled: Result<()> = catalog.transact(|tx| {
        tx.put_profile(ProfileRecord {
            name: "compute".into(),
            settings: Settings {
                mode: Some(LayerMode::Persistent),
                ..Settings::default()
            },
            added: UnixMillis(3),
        })?;
        (1..20).try_for_each(|n| tx.add_node(node(n)))?;
        let mut with_profile = node(20);
        with_profile.profile = Some("compute".into());
        tx.add_node(with_profile)?;
        tx.put_image(image(3))?;
        tx.put_binding(reserved(1, 8, 5))?;
        tx.put_pending(machine(99))?;
        tx.put_campaign(7, r#"{"of":"7"}"#)?;
        tx.take_layer()?;
        tx.set_fact("host_boot", "abc")
    });
    filled.unwrap();
    Case {
        catalog,
        ill,
        path,
        _dir: dir,
    }
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

/// What a start of the head would find has the same records as what is in memory.
fn assert_file_is_snapshot(case: Case) {
    let shown = schema::rows_of(&case.catalog.snapshot()).unwrap();
    let Case { catalog, path, .. } = &case;
    assert!(catalog.snapshot().node("node21").is_none());
    let (path, _dir) = (path.clone(), case._dir);
    drop(case.catalog);
    let found = Catalog::open(&path).unwrap();
    assert!(schema::rows_of(&found.snapshot()).unwrap() == shown);
    assert!(found.snapshot().node("node22").is_some());
}

#[test]
fn records_in_memory_are_written_as_they_were() {
    let case = case();
    let wanted = schema::rows_of(&case.catalog.snapshot()).unwrap();
    let medium = case.catalog.medium.lock().unwrap();
    let found = schema::rows_of(&medium.load().unwrap()).unwrap();
    assert!(found == wanted);
    assert_eq!(wanted.len(), 27);
}

#[test]
fn a_full_disk_is_told_and_forgotten_when_there_is_room() {
    let case = case();
    let (file, before) = (inode(&case.path), case.catalog.snapshot());
    case.ill.store(FULL, Ordering::SeqCst);
    for _ in 0..3 {
        let error = add(&case.catalog, [node(21)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let said = error.to_string();
        assert!(
            said.contains("make room") && said.contains("no restart"),
            "{said}"
        );
        assert!(Arc::ptr_eq(&case.catalog.snapshot(), &before));
    }
    assert!(!case.path.with_extension("redb.new").exists());
    case.ill.store(WELL, Ordering::SeqCst);
    add(&case.catalog, [node(22)]).unwrap();
    assert_eq!(inode(&case.path), file, "the same file goes on");
    assert_file_is_snapshot(case);
}

#[test]
fn a_file_whose_sync_failed_is_replaced() {
    let case = case();
    let file = inode(&case.path);
    case.ill.store(UNSYNCED, Ordering::SeqCst);
    for _ in 0..3 {
        let error = add(&case.catalog, [node(21)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("kernel's log"), "{error}");
    }
    // Its bytes may say that the change was made; nobody believes them any more.
    case.ill.store(WELL, Ordering::SeqCst);
    add(&case.catalog, [node(22)]).unwrap();
    assert_ne!(inode(&case.path), file);
    assert!(!case.path.with_extension("redb.new").exists());
    assert_file_is_snapshot(case);
}

#[test]
fn a_damaged_file_is_written_anew_from_memory() {
    let case = case();
    case.ill.store(FULL, Ordering::SeqCst);
    add(&case.catalog, [node(21)]).unwrap_err();
    let len = std::fs::metadata(&case.path).unwrap().len();
    std::fs::write(&case.path, vec![7; usize::try_from(len).unwrap()]).unwrap();
    case.ill.store(WELL, Ordering::SeqCst);
    add(&case.catalog, [node(22)]).unwrap();
    assert_file_is_snapshot(case);
}

#[test]
fn a_file_that_was_to_take_the_place_goes_with_the_next_start() {
    let case = case();
    let stale = case.path.with_extension("redb.new");
    std::fs::write(&stale, "half").unwrap();
    let path = case.path.clone();
    drop(case.catalog);
    assert_eq!(Catalog::open(&path).unwrap().snapshot().node_count(), 20);
    assert!(!stale.exists());
}
