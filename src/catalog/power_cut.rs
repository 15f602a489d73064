//! What a power cut may leave of the catalog's file: every write since the last sync may be there, not there, or
//! torn between sectors, in any combination (some of them, chosen with a fixed seed). Each is opened and must be the
//! state before the commit under way or the one after it. Tests only.

use std::io;
use std::sync::{Arc, Mutex};

use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend};

use super::migrate::{self, MIGRATIONS, test::all_rows, test::frozen};
use super::schema;
use super::{Catalog, Result, file};

const SECTOR: usize = 512;
/// Subsets with torn writes tried at each cut.
const TORN: u64 = 6;
/// Writes of which each is left out once.
const LEFT_OUT: usize = 8;

#[derive(Clone, Debug)]
enum Op {
    Write(usize, Vec<u8>),
    Len(usize),
    Sync,
}

/// Memory that remembers all that is done to it.
#[derive(Clone, Debug)]
struct Recorder {
    bytes: Arc<InMemoryBackend>,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Recorder {
    fn over(content: &[u8]) -> Self {
        Self {
            bytes: Arc::new(memory(content)),
            ops: Arc::default(),
        }
    }

    fn did(&self, op: Op) {
        self.ops.lock().unwrap().push(op);
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.bytes.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.did(Op::Len(usize::try_from(len).unwrap()));
        self.bytes.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.did(Op::Sync);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.did(Op::Write(usize::try_from(offset).unwrap(), data.to_vec()));
        self.bytes.write(offset, data)
    }
}

fn memory(content: &[u8]) -> InMemoryBackend {
    let bytes = InMemoryBackend::new();
    bytes.set_len(content.len() as u64).unwrap();
    if !content.is_empty() {
        bytes.write(0, content).unwrap();
    }
    bytes
}

/// One word after the other, the same in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Does `op` to `bytes`; of a write only the sectors that `keep` takes.
fn does(bytes: &mut Vec<u8>, op: &Op, mut keep: impl FnMut() -> bool) {
    match op {
        Op::Sync => {}
        Op::Len(len) => {
            if keep() {
                bytes.resize(*len, 0);
            }
        }
        Op::Write(at, data) => {
            let mut at = *at;
            let mut rest = data.as_slice();
            while !rest.is_empty() {
                let len = rest.len().min(SECTOR - at % SECTOR);
                let (sector, after) = rest.split_at(len);
                if keep() {
                    bytes.resize(bytes.len().max(at + len), 0);
                    bytes[at..at + len].copy_from_slice(sector);
                }
                (at, rest) = (at + len, after);
            }
        }
    }
}

/// Calls `each` with every file that a power cut during `ops` may leave; answers how many.
fn cuts(base: &[u8], ops: &[Op], mut each: impl FnMut(Vec<u8>)) -> usize {
    let mut durable = base.to_vec();
    let mut pending: Vec<&Op> = Vec::new();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut tried = 0;
    for op in ops {
        if matches!(op, Op::Sync) {
            for op in pending.drain(..) {
                does(&mut durable, op, || true);
            }
            continue;
        }
        pending.push(op);
        // All of them; all but one; some, torn. None of them is what the cut before this one left.
        for without in (0..pending.len())
            .rev()
            .take(LEFT_OUT)
            .map(Some)
            .chain([None])
        {
            let mut left = durable.clone();
            for (at, op) in pending.iter().enumerate() {
                does(&mut left, op, || Some(at) != without);
            }
            each(left);
            tried += 1;
        }
        for _ in 0..TORN {
            let mut left = durable.clone();
            let mut bits = chance.next();
            for op in &pending {
                does(&mut left, op, || {
                    bits = if bits <= 1 { chance.next() } else { bits >> 1 };
                    bits & 1 == 1
                });
            }
            each(left);
            tried += 1;
        }
    }
    tried
}

fn open(content: &[u8]) -> Database {
    let opened = file::builder().create_with_backend(memory(content));
    opened.expect("a power cut leaves a file that opens")
}

#[test]
fn a_power_cut_in_a_migration_leaves_the_old_format_or_the_new_one() {
    let base = frozen();
    let old = all_rows(&open(&base));
    let recorder = Recorder::over(&base);
    let db = file::builder()
        .create_with_backend(recorder.clone())
        .unwrap();
    migrate::prepare(&db, MIGRATIONS).unwrap();
    let new = all_rows(&db);
    assert_ne!(old, new);
    drop(db);
    let ops = recorder.ops.lock().unwrap().clone();
    let (mut before, mut after) = (0, 0);
    let tried = cuts(&base, &ops, |left| {
        let db = open(&left);
        let rows = all_rows(&db);
        assert!(rows == old || rows == new, "neither the one nor the other");
        if rows == old {
            before += 1;
        } else {
            after += 1;
        }
        // The next start goes on from there.
        migrate::prepare(&db, MIGRATIONS).unwrap();
        assert_eq!(all_rows(&db), new);
        schema::load(&db).unwrap();
    });
    println!("{tried} files after power cuts: {before} of format 1, {after} of format 2");
    assert!(before > 0 && after > 0);
}

#[test]
fn a_power_cut_in_a_commit_leaves_the_catalog_before_or_after_it() {
    let recorder = Recorder::over(&[]);
    let catalog = Catalog::with_backend(recorder.clone()).unwrap();
    let note = |n: u32, value: &str| {
        let done: Result<()> = catalog
            .transact(|tx| (0..n).try_for_each(|at| tx.set_fact(&format!("fact{at}"), value)));
        done.unwrap();
    };
    note(200, "old");
    let len = usize::try_from(recorder.bytes.len().unwrap()).unwrap();
    let mut base = vec![0; len];
    recorder.bytes.read(0, &mut base).unwrap();
    recorder.ops.lock().unwrap().clear();
    note(300, "new");
    let ops = recorder.ops.lock().unwrap().clone();
    let (mut before, mut after) = (0, 0);
    let tried = cuts(&base, &ops, |left| {
        let now = schema::load(&open(&left)).unwrap();
        let values = (0..300).map(|at| now.fact(&format!("fact{at}")));
        let values: Vec<_> = values.map(|v| v.map(str::to_owned)).collect();
        let is = |value: &str, n: usize| {
            let mut all = values.iter().enumerate();
            all.all(|(at, v)| v.as_deref() == (at < n).then_some(value))
        };
        assert!(is("old", 200) || is("new", 300), "a mixture");
        if is("old", 200) {
            before += 1;
        } else {
            after += 1;
        }
    });
    println!("{tried} files after power cuts: {before} before the commit, {after} after it");
    assert!(before > 0 && after > 0);
    // Acknowledged: all is synced, and a cut from here on loses nothing.
    assert!(matches!(ops.last(), Some(Op::Sync)), "nothing is pending");
    let mut durable = base.clone();
    ops.iter().for_each(|op| does(&mut durable, op, || true));
    let now = schema::load(&open(&durable)).unwrap();
    assert_eq!(now.fact("fact299"), Some("new"));
}
