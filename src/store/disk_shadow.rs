//! A disk that may be written to and is not: changes stay in memory, what lies below is only read. So a check
//! can let a recovery run to its end and look at the outcome, and nothing has happened.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, File, OpenMode};
use super::error::{Error, ErrorKind, Result};

const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;

#[derive(Debug, Default)]
struct Changed {
    pages: BTreeMap<u64, Box<[u8]>>,
    len: u64,
    /// What lies below counts up to here; above it the file was cut once and holds zeros.
    below: u64,
}

#[derive(Debug)]
struct ShadowFile {
    path: String,
    base: Option<Arc<dyn File>>,
    changed: Mutex<Changed>,
}

#[derive(Debug, Default)]
struct Names {
    files: BTreeMap<String, Arc<ShadowFile>>,
    gone: BTreeSet<String>,
    dirs: BTreeSet<String>,
}

/// A shadow over another disk. Memory grows with what is changed, not with what is there.
#[derive(Debug)]
pub struct ShadowDisk {
    disk: Arc<dyn Disk>,
    names: Mutex<Names>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing(path: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{path}: no such file"))
}

impl ShadowDisk {
    /// A shadow over `disk` as it is.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            names: Mutex::default(),
        }
    }

    fn known(&self, names: &mut Names, path: &str) -> Result<Arc<ShadowFile>> {
        if let Some(file) = names.files.get(path) {
            return Ok(Arc::clone(file));
        }
        if names.gone.contains(path) {
            return Err(missing(path));
        }
        let base = self.disk.open(path, OpenMode::Read)?;
        let len = base.len()?;
        let changed = Changed {
            len,
            below: len,
            ..Changed::default()
        };
        let file = Arc::new(ShadowFile {
            path: path.to_owned(),
            base: Some(base),
            changed: Mutex::new(changed),
        });
        names.files.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

impl Disk for ShadowDisk {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let mut names = locked(&self.names);
        match (mode, self.known(&mut names, path)) {
            (OpenMode::CreateNew, Ok(_)) => {
                Err(Error::new(ErrorKind::Io, format!("{path}: exists already")))
            }
            (OpenMode::CreateNew, Err(e)) if e.kind() == ErrorKind::NotFound => {
                let file = Arc::new(ShadowFile {
                    path: path.to_owned(),
                    base: None,
                    changed: Mutex::default(),
                });
                names.gone.remove(path);
                names.files.insert(path.to_owned(), Arc::clone(&file));
                Ok(file)
            }
            (_, Ok(file)) => Ok(file),
            (_, Err(e)) => Err(e),
        }
    }

    fn remove(&self, path: &str) -> Result<()> {
        let mut names = locked(&self.names);
        self.known(&mut names, path)?;
        names.files.remove(path);
        names.gone.insert(path.to_owned());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut names = locked(&self.names);
        let file = self.known(&mut names, from)?;
        names.files.remove(from);
        names.gone.insert(from.to_owned());
        names.gone.remove(to);
        names.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        locked(&self.names).dirs.insert(path.to_owned());
        Ok(())
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let names = locked(&self.names);
        let below = match self.disk.list(path) {
            Ok(below) => below,
            Err(e) if e.kind() == ErrorKind::NotFound && names.dirs.contains(path) => Vec::new(),
            Err(e) => return Err(e),
        };
        let whole = |name: &String| match path {
            "" => name.clone(),
            dir => format!("{dir}/{name}"),
        };
        let mut found: BTreeSet<String> = below.into_iter().collect();
        found.retain(|name| !names.gone.contains(&whole(name)));
        for made in names.files.keys().chain(&names.dirs) {
            let (dir, name) = made.rsplit_once('/').unwrap_or(("", made));
            if dir == path && !name.is_empty() {
                found.insert(name.to_owned());
            }
        }
        Ok(found.into_iter().collect())
    }

    fn sync_dir(&self, _path: &str) -> Result<()> {
        Ok(())
    }
}

impl ShadowFile {
    /// The page as it is below.
    fn page_below(&self, changed: &Changed, page: u64) -> Result<Box<[u8]>> {
        let mut bytes = vec![0; PAGE_LEN].into_boxed_slice();
        let start = page * PAGE;
        let have = changed.below.saturating_sub(start).min(PAGE);
        let have = usize::try_from(have).unwrap_or(0);
        if let (Some(base), Some(out)) = (&self.base, bytes.get_mut(..have))
            && have > 0
        {
            base.read_at(start, out)?;
        }
        Ok(bytes)
    }

    /// Calls `each` with every page of a run: its number, the bytes in it, the bytes of the run.
    fn spans(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset.checked_add(done as u64).filter(|_| done < len)?;
            let inside = usize::try_from(at % PAGE).unwrap_or(0);
            let count = (len - done).min(PAGE_LEN - inside);
            let span = (at / PAGE, inside, done, count);
            done += count;
            Some(span)
        })
    }
}

impl File for ShadowFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let changed = locked(&self.changed);
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > changed.len) {
            let e = io::Error::from(io::ErrorKind::UnexpectedEof);
            let why = format!("read {} at {offset}: behind its end", self.path);
            return Err(Error::io(e, why));
        }
        if changed.pages.is_empty()
            && end.is_some_and(|end| end <= changed.below)
            && let Some(base) = &self.base
        {
            return base.read_at(offset, out);
        }
        for (page, inside, from, count) in Self::spans(offset, out.len()) {
            let below;
            let held = match changed.pages.get(&page) {
                Some(held) => held,
                None => {
                    below = self.page_below(&changed, page)?;
                    &below
                }
            };
            out[from..from + count].copy_from_slice(&held[inside..inside + count]);
        }
        Ok(())
    }

    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.read_at(offset, out).map(|()| true)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut changed = locked(&self.changed);
        for (page, inside, from, count) in Self::spans(offset, bytes.len()) {
            let mut held = match changed.pages.remove(&page) {
                Some(held) => held,
                None => self.page_below(&changed, page)?,
            };
            held[inside..inside + count].copy_from_slice(&bytes[from..from + count]);
            changed.pages.insert(page, held);
        }
        changed.len = changed.len.max(offset.saturating_add(bytes.len() as u64));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(locked(&self.changed).len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut changed = locked(&self.changed);
        if len < changed.len {
            changed.below = changed.below.min(len);
            let whole = len.div_ceil(PAGE);
            changed.pages.retain(|page, _| *page < whole);
            let inside = usize::try_from(len % PAGE).unwrap_or(0);
            if inside > 0
                && let Some(last) = changed.pages.get_mut(&(len / PAGE))
            {
                last[inside..].fill(0);
            }
        }
        changed.len = len;
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len).min(self.len()?);
        let mut at = offset;
        while at < end {
            let step = (end - at).min(PAGE);
            self.write_at(at, &vec![0; usize::try_from(step).unwrap_or(0)])?;
            at += step;
        }
        Ok(())
    }

    fn allocated(&self) -> Result<u64> {
        let own = locked(&self.changed).pages.len() as u64 * PAGE;
        let below = self.base.as_ref().map_or(Ok(0), |base| base.allocated())?;
        Ok(own.max(below))
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;
    use crate::store::disk_memory::MemoryDisk;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Punch(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_000_u64, prop::collection::vec(any::<u8>(), 0..9000))
                .prop_map(|(at, bytes)| Step::Write(at, bytes)),
            (0..20_000_u64).prop_map(Step::SetLen),
            (0..20_000_u64, 0..9000_u64).prop_map(|(at, len)| Step::Punch(at, len)),
        ]
    }

    fn apply(file: &dyn File, step: &Step) {
        match step {
            Step::Write(at, bytes) => file.write_at(*at, bytes).unwrap(),
            Step::SetLen(len) => file.set_len(*len).unwrap(),
            Step::Punch(at, len) => file.punch(*at, *len).unwrap(),
        }
    }

    fn whole(disk: &dyn Disk) -> Vec<u8> {
        let file = disk.open("d/a", OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn it_reads_as_if_it_were_written_and_nothing_is(
            before in prop::collection::vec(step(), 0..6),
            steps in prop::collection::vec(step(), 0..12),
        ) {
            let below = MemoryDisk::new();
            below.create_dir("d").unwrap();
            let file = below.open("d/a", OpenMode::CreateNew).unwrap();
            before.iter().for_each(|step| apply(&*file, step));
            let was = whole(&below);
            let model = below.fork();
            let shadow = ShadowDisk::new(Arc::new(below.clone()));
            for step in &steps {
                apply(&*model.open("d/a", OpenMode::ReadWrite).unwrap(), step);
                apply(&*shadow.open("d/a", OpenMode::ReadWrite).unwrap(), step);
                prop_assert!(whole(&shadow) == whole(&model));
            }
            prop_assert!(whole(&below) == was);
        }
    }

    #[test]
    fn names_change_in_the_shadow_only() {
        let below = MemoryDisk::new();
        below.create_dir("d").unwrap();
        below.open("d/a", OpenMode::CreateNew).unwrap();
        below.open("d/b", OpenMode::CreateNew).unwrap();
        let shadow = ShadowDisk::new(Arc::new(below.clone()));
        shadow.remove("d/a").unwrap();
        shadow.rename("d/b", "d/c").unwrap();
        shadow.create_dir("e").unwrap();
        shadow.open("e/x", OpenMode::CreateNew).unwrap();
        assert_eq!(shadow.list("d").unwrap(), ["c"]);
        assert_eq!(shadow.list("").unwrap(), ["d", "e"]);
        assert_eq!(shadow.list("e").unwrap(), ["x"]);
        assert!(shadow.open("d/a", OpenMode::Read).is_err());
        assert!(shadow.open("d/c", OpenMode::CreateNew).is_err());
        assert_eq!(below.list("d").unwrap(), ["a", "b"]);
        assert_eq!(below.list("").unwrap(), ["d"]);
    }
}
