//! A directory tree in memory, sparse, for tests and for measuring without a medium.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::disk::{Disk, File, OpenMode};
use super::error::{Error, ErrorKind, Result};

const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;

/// Bytes of a file: only the pages that were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sparse {
    // Shared by copies until one of them writes.
    pages: BTreeMap<u64, Arc<[u8; PAGE_LEN]>>,
    len: u64,
}

impl Sparse {
    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// True when it has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are held.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Fills `out` from `offset`; what lies behind the end is an error (`false`).
    pub fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return false;
        }
        for_pages(offset, out.len(), |page, at, from, n| {
            match self.pages.get(&page) {
                Some(bytes) => out[from..from + n].copy_from_slice(&bytes[at..at + n]),
                None => out[from..from + n].fill(0),
            }
        });
        true
    }

    /// Writes, growing as needed.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for_pages(offset, bytes.len(), |page, at, from, n| {
            let held = self
                .pages
                .entry(page)
                .or_insert_with(|| Arc::new([0; PAGE_LEN]));
            let held = Arc::make_mut(held);
            held[at..at + n].copy_from_slice(&bytes[from..from + n]);
        });
        if !bytes.is_empty() {
            self.len = self.len.max(offset + bytes.len() as u64);
        }
    }

    /// Cuts or grows.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            // With the rest of the last page.
            self.punch(len, u64::MAX);
        }
        self.len = len;
    }

    /// Makes a range read zeros and frees its whole pages.
    pub fn punch(&mut self, offset: u64, len: u64) {
        let end = offset
            .saturating_add(len)
            .min(self.len.next_multiple_of(PAGE));
        if offset >= end {
            return;
        }
        let pages: Vec<u64> = self
            .pages
            .range(offset / PAGE..end.div_ceil(PAGE))
            .map(|(p, _)| *p)
            .collect();
        for page in pages {
            let start = page * PAGE;
            let (from, to) = (offset.max(start) - start, end.min(start + PAGE) - start);
            if from == 0 && to == PAGE {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                let (from, to) = (usize::try_from(from), usize::try_from(to));
                if let (Ok(from), Ok(to)) = (from, to) {
                    Arc::make_mut(bytes)[from..to].fill(0);
                }
            }
        }
    }
}

// Calls `each(page, offset in the page, offset in the run, bytes)` for every page of a run.
fn for_pages(offset: u64, len: usize, mut each: impl FnMut(u64, usize, usize, usize)) {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let inside = usize::try_from(at % PAGE).unwrap_or(0);
        let n = (len - done).min(PAGE_LEN - inside);
        each(at / PAGE, inside, done, n);
        done += n;
    }
}

#[derive(Debug, Default)]
struct Tree {
    files: BTreeMap<String, Arc<RwLock<Sparse>>>,
    dirs: BTreeSet<String>,
}

/// The tree. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    tree: Arc<Mutex<Tree>>,
}

#[derive(Debug)]
struct MemoryFile {
    path: String,
    bytes: Arc<RwLock<Sparse>>,
}

impl MemoryDisk {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A tree that holds `files` and `dirs`.
    #[must_use]
    pub fn from_parts(files: BTreeMap<String, Sparse>, dirs: BTreeSet<String>) -> Self {
        let files = files
            .into_iter()
            .map(|(path, bytes)| (path, Arc::new(RwLock::new(bytes))));
        let tree = Tree {
            files: files.collect(),
            dirs,
        };
        Self {
            tree: Arc::new(Mutex::new(tree)),
        }
    }

    /// A copy of every file as it is now, and the directories.
    #[must_use]
    pub fn parts(&self) -> (BTreeMap<String, Sparse>, BTreeSet<String>) {
        let tree = self.tree();
        let copy = |bytes: &Arc<RwLock<Sparse>>| {
            bytes.read().unwrap_or_else(PoisonError::into_inner).clone()
        };
        let files = tree
            .files
            .iter()
            .map(|(path, bytes)| (path.clone(), copy(bytes)))
            .collect();
        (files, tree.dirs.clone())
    }

    /// An independent copy of the whole tree.
    #[must_use]
    pub fn fork(&self) -> Self {
        let (files, dirs) = self.parts();
        Self::from_parts(files, dirs)
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(path: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{path}: no such file"))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let mut tree = self.tree();
        let known = tree.files.get(path).cloned();
        let bytes = match (mode, known) {
            (OpenMode::CreateNew, Some(_)) => {
                return Err(Error::new(ErrorKind::Io, format!("{path}: exists already")));
            }
            (OpenMode::CreateNew, None) => {
                let dir = parent(path);
                if !dir.is_empty() && !tree.dirs.contains(dir) {
                    return Err(missing(dir));
                }
                let bytes = Arc::new(RwLock::new(Sparse::default()));
                tree.files.insert(path.to_owned(), Arc::clone(&bytes));
                bytes
            }
            (_, Some(bytes)) => bytes,
            (_, None) => return Err(missing(path)),
        };
        Ok(Arc::new(MemoryFile {
            path: path.to_owned(),
            bytes,
        }))
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.tree()
            .files
            .remove(path)
            .map(drop)
            .ok_or_else(|| missing(path))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut tree = self.tree();
        let bytes = tree.files.remove(from).ok_or_else(|| missing(from))?;
        tree.files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        let mut tree = self.tree();
        let mut dir = path;
        while !dir.is_empty() {
            tree.dirs.insert(dir.to_owned());
            dir = parent(dir);
        }
        Ok(())
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let tree = self.tree();
        if !path.is_empty() && !tree.dirs.contains(path) {
            return Err(missing(path));
        }
        let all = tree.files.keys().chain(&tree.dirs);
        let names = all.filter(|name| !name.is_empty() && parent(name) == path);
        let last = |name: &String| name.rsplit('/').next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = names.map(last).collect();
        Ok(names.into_iter().collect())
    }

    fn sync_dir(&self, _path: &str) -> Result<()> {
        Ok(())
    }
}

impl MemoryFile {
    fn with<T>(&self, change: impl FnOnce(&mut Sparse) -> T) -> T {
        change(&mut self.bytes.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl File for MemoryFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        if bytes.read(offset, out) {
            return Ok(());
        }
        let e = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        Err(Error::io(
            e,
            format!("read {} at {offset}: behind its end", self.path),
        ))
    }

    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.read_at(offset, out).map(|()| true)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.with(|file| file.write(offset, bytes));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self
            .bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.with(|file| file.set_len(len));
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.with(|file| file.punch(offset, len));
        Ok(())
    }

    fn allocated(&self) -> Result<u64> {
        Ok(self
            .bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .allocated())
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sparse_bytes_are_plain_bytes(
            steps in prop::collection::vec((0..4u8, 0..20_000u64, 0..9_000usize, any::<u8>()), 1..40),
        ) {
            let (mut sparse, mut plain) = (Sparse::default(), Vec::new());
            for (kind, offset, len, byte) in steps {
                let at = usize::try_from(offset).unwrap();
                match kind {
                    0 | 1 if len > 0 => {
                        plain.resize(plain.len().max(at + len), 0);
                        plain[at..at + len].fill(byte);
                        sparse.write(offset, &vec![byte; len]);
                    }
                    2 => {
                        plain.resize(at, 0);
                        sparse.set_len(offset);
                    }
                    _ => {
                        let end = (at + len).min(plain.len());
                        if at < end {
                            plain[at..end].fill(0);
                        }
                        sparse.punch(offset, len as u64);
                    }
                }
                let mut all = vec![1; plain.len()];
                prop_assert_eq!(sparse.len(), plain.len() as u64);
                prop_assert!(sparse.read(0, &mut all));
                prop_assert_eq!(&all, &plain);
            }
        }
    }

    #[test]
    fn names_are_listed_by_directory() {
        let disk = MemoryDisk::new();
        disk.create_dir("a/b").unwrap();
        disk.open("a/x", OpenMode::CreateNew).unwrap();
        disk.open("a/b/y", OpenMode::CreateNew).unwrap();
        assert!(disk.open("c/y", OpenMode::CreateNew).is_err());
        assert_eq!(disk.list("a").unwrap(), ["b", "x"]);
        disk.rename("a/x", "a/b/y").unwrap();
        assert_eq!(disk.list("a/b").unwrap(), ["y"]);
        assert!(disk.remove("a/x").is_err());
    }
}
