//! For tests: a disk in memory with a page cache before its medium, faults, and power cuts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::store::disk::{Disk, File, OpenMode};
use crate::store::error::{Error, ErrorKind, Result};

const PAGE: usize = 4096;

/// Counts of calls since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// Calls that change something.
    pub(super) changes: u64,
    pub(super) opens: u64,
    pub(super) reads: u64,
    pub(super) tries: u64,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Arc<MemoryFile>>,
    durable: BTreeMap<String, Arc<MemoryFile>>,
    calls: Calls,
    /// From this many changes on every call fails: the process is dead.
    dead_after: Option<u64>,
    around: Option<Around>,
}

/// What happens right before and right after the bytes of a no-wait read are copied.
pub(super) struct Around {
    pub(super) before: Box<dyn FnOnce() + Send>,
    pub(super) after: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Around")
    }
}

/// The disk; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct Bytes {
    medium: Vec<u8>,
    durable: Vec<u8>,
    cache: BTreeMap<usize, Vec<u8>>,
}

#[derive(Debug)]
struct MemoryFile {
    disk: Arc<Mutex<State>>,
    bytes: Mutex<Bytes>,
}

/// An open file.
#[derive(Debug)]
struct Handle(Arc<MemoryFile>);

fn dead() -> Error {
    Error::new(ErrorKind::Io, "the process is dead")
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl State {
    fn alive(&self) -> Result<()> {
        match self.dead_after {
            Some(after) if self.calls.changes >= after => Err(dead()),
            _ => Ok(()),
        }
    }

    fn change(&mut self) -> Result<()> {
        self.alive()?;
        self.calls.changes += 1;
        self.alive()
    }
}

impl MemoryDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn file(&self, path: &str) -> Arc<MemoryFile> {
        Arc::clone(self.state().names.get(path).expect("no such file"))
    }

    pub(super) fn calls(&self) -> Calls {
        self.state().calls
    }

    /// Every call after `changes` more changes fails.
    pub(super) fn die_after(&self, changes: u64) {
        let mut state = self.state();
        state.dead_after = Some(state.calls.changes + changes);
    }

    /// A new process: calls work again.
    pub(super) fn revive(&self) {
        self.state().dead_after = None;
    }

    /// Power fails: of what was not synced an arbitrary part (by `coin`) is lost.
    pub(super) fn cut_power(&self, coin: &mut dyn FnMut() -> bool) {
        let mut state = self.state();
        let paths: Vec<String> = state
            .names
            .keys()
            .chain(state.durable.keys())
            .cloned()
            .collect();
        for path in paths {
            if coin() {
                match state.durable.get(&path).cloned() {
                    Some(file) => state.names.insert(path.clone(), file),
                    None => state.names.remove(&path),
                };
            }
        }
        for file in state.names.values() {
            file.bytes.lock().unwrap().lose(coin);
        }
        state.durable = state.names.clone();
    }

    /// Drops all pages of a file from memory.
    pub(super) fn evict(&self, path: &str) {
        self.file(path).bytes.lock().unwrap().cache.clear();
    }

    /// Pages of a file that are in memory.
    pub(super) fn cached(&self, path: &str) -> usize {
        self.file(path).bytes.lock().unwrap().cache.len()
    }

    /// Flips a bit on the medium, not in memory.
    pub(super) fn flip(&self, path: &str, offset: usize) {
        self.file(path).bytes.lock().unwrap().medium[offset] ^= 1;
    }

    /// The same of a chosen bit.
    pub(super) fn flip_bit(&self, path: &str, offset: usize, bit: u32) {
        self.file(path).bytes.lock().unwrap().medium[offset] ^= 1 << bit;
    }

    /// Another disk with what is on the medium of this one, all of it durable.
    pub(super) fn deep_copy(&self) -> Self {
        let copy = Self::default();
        for (path, file) in &self.state().names {
            let medium = file.bytes.lock().unwrap().medium.clone();
            let bytes = Bytes {
                durable: medium.clone(),
                medium,
                cache: BTreeMap::new(),
            };
            let file = Arc::new(MemoryFile {
                disk: Arc::clone(&copy.0),
                bytes: Mutex::new(bytes),
            });
            copy.state().names.insert(path.clone(), file);
        }
        let names = copy.state().names.clone();
        copy.state().durable = names;
        copy
    }

    /// Lets something happen around the next no-wait read.
    pub(super) fn around_next_try(&self, around: Around) {
        self.state().around = Some(around);
    }

    /// All bytes of a file on the medium.
    pub(super) fn bytes(&self, path: &str) -> Vec<u8> {
        self.file(path).bytes.lock().unwrap().medium.clone()
    }

    pub(super) fn cut(&self, path: &str, len: usize) {
        let file = self.file(path);
        let mut bytes = file.bytes.lock().unwrap();
        bytes.medium.truncate(len);
        bytes.cache.clear();
    }

    pub(super) fn names(&self, dir: &str) -> Vec<String> {
        self.list(dir).unwrap()
    }
}

impl Bytes {
    fn lose(&mut self, coin: &mut dyn FnMut() -> bool) {
        self.cache.clear();
        self.durable
            .resize(self.durable.len().max(self.medium.len()), 0);
        if coin() {
            self.medium.truncate(self.durable.len());
        }
        let mut at = 0;
        while at < self.medium.len() {
            let end = (at + 512).min(self.medium.len());
            if self.medium[at..end] != self.durable[at..end] && coin() {
                let old = self.durable[at..end].to_vec();
                self.medium[at..end].copy_from_slice(&old);
            }
            at = end;
        }
        self.durable = self.medium.clone();
    }

    fn page(&self, number: usize) -> Vec<u8> {
        let from = number * PAGE;
        let mut page = vec![0; PAGE];
        let have = self.medium.len().saturating_sub(from).min(PAGE);
        page[..have].copy_from_slice(&self.medium[from..from + have]);
        page
    }

    fn changed(&mut self, offset: usize, len: usize) {
        for number in offset / PAGE..(offset + len).div_ceil(PAGE) {
            let page = self.page(number);
            self.cache.insert(number, page);
        }
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let mut state = self.state();
        state.alive()?;
        state.calls.opens += 1;
        let there = state.names.get(path).cloned();
        let file = match (there, mode) {
            (Some(_), OpenMode::CreateNew) => {
                return Err(Error::new(ErrorKind::Busy, format!("{path} exists")));
            }
            (Some(file), _) => file,
            (None, OpenMode::CreateNew) => {
                state.change()?;
                let disk = Arc::clone(&self.0);
                let file = Arc::new(MemoryFile {
                    disk,
                    bytes: Mutex::default(),
                });
                state.names.insert(path.into(), Arc::clone(&file));
                file
            }
            (None, _) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{path}: no such file"),
                ));
            }
        };
        Ok(Arc::new(Handle(file)))
    }

    fn remove(&self, path: &str) -> Result<()> {
        let mut state = self.state();
        state.change()?;
        let gone = state.names.remove(path);
        gone.map(drop)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, path))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut state = self.state();
        state.change()?;
        let file = state.names.remove(from);
        let file = file.ok_or_else(|| Error::new(ErrorKind::NotFound, from))?;
        state.names.insert(to.into(), file);
        Ok(())
    }

    fn create_dir(&self, _path: &str) -> Result<()> {
        self.state().change()
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        let inside = state.names.keys().filter(|name| parent(name) == path);
        Ok(inside
            .map(|name| name[path.len() + 1..].to_owned())
            .collect())
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        let mut state = self.state();
        state.change()?;
        let names = state.names.clone();
        state.durable.retain(|name, _| parent(name) != path);
        state
            .durable
            .extend(names.into_iter().filter(|(name, _)| parent(name) == path));
        Ok(())
    }
}

impl Handle {
    fn alive(&self, count: impl FnOnce(&mut Calls)) -> Result<()> {
        let mut state = self.0.disk.lock().unwrap();
        count(&mut state.calls);
        state.alive()
    }

    fn change(&self) -> Result<MutexGuard<'_, Bytes>> {
        self.0.disk.lock().unwrap().change()?;
        Ok(self.0.bytes.lock().unwrap())
    }

    /// Page by page, each under the lock alone, as the kernel copies; `None` when `load` is false and a page
    /// is not in memory.
    fn copy(&self, offset: u64, out: &mut [u8], load: bool) -> Result<Option<()>> {
        let offset = usize::try_from(offset).unwrap();
        let mut done = 0;
        while done < out.len() {
            let mut bytes = self.0.bytes.lock().unwrap();
            let (at, end) = (offset + done, offset + out.len());
            if end > bytes.medium.len() {
                return Err(Error::new(ErrorKind::Io, "unexpected end of file"));
            }
            let number = at / PAGE;
            if !bytes.cache.contains_key(&number) {
                if !load {
                    return Ok(None);
                }
                let page = bytes.page(number);
                bytes.cache.insert(number, page);
            }
            let len = (PAGE - at % PAGE).min(out.len() - done);
            let page = &bytes.cache[&number][at % PAGE..][..len];
            out[done..done + len].copy_from_slice(page);
            done += len;
            drop(bytes);
            std::thread::yield_now();
        }
        Ok(Some(()))
    }
}

impl File for Handle {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.alive(|calls| calls.reads += 1)?;
        self.copy(offset, out, true).map(drop)
    }

    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.alive(|calls| calls.tries += 1)?;
        let around = self.0.disk.lock().unwrap().around.take();
        let Some(around) = around else {
            return Ok(self.copy(offset, out, false)?.is_some());
        };
        (around.before)();
        let copied = self.copy(offset, out, false)?.is_some();
        (around.after)();
        Ok(copied)
    }

    fn write_at(&self, offset: u64, new: &[u8]) -> Result<()> {
        let mut bytes = self.change()?;
        let offset = usize::try_from(offset).unwrap();
        let end = (offset + new.len()).max(bytes.medium.len());
        bytes.medium.resize(end, 0);
        bytes.medium[offset..offset + new.len()].copy_from_slice(new);
        bytes.changed(offset, new.len());
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut bytes = self.change()?;
        bytes.durable = bytes.medium.clone();
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.0.bytes.lock().unwrap().medium.len() as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut bytes = self.change()?;
        bytes.medium.resize(usize::try_from(len).unwrap(), 0);
        bytes.cache.clear();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mut bytes = self.change()?;
        let offset = usize::try_from(offset).unwrap();
        let len = usize::try_from(len).unwrap();
        bytes.medium[offset..offset + len].fill(0);
        bytes.changed(offset, len);
        Ok(())
    }

    fn allocated(&self) -> Result<u64> {
        let bytes = self.0.bytes.lock().unwrap();
        let full = bytes
            .medium
            .chunks(PAGE)
            .filter(|page| page.iter().any(|&b| b != 0))
            .count();
        Ok((full * PAGE) as u64)
    }

    fn advise_unneeded(&self, offset: u64, len: u64) {
        let (from, end) = (offset / PAGE as u64, (offset + len) / PAGE as u64);
        let inside = |number: usize| (from..end).contains(&(number as u64));
        self.0
            .bytes
            .lock()
            .unwrap()
            .cache
            .retain(|&number, _| !inside(number));
    }
}
