//! A look at a catalog's file that changes no byte of it, so that a file of a newer program is refused untouched:
//! redb itself writes to whatever it opens. What it writes here stays in memory, laid over the file.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Result;
use super::file::{self, CatalogFile, CatalogHome};
use super::{migrate, schema};

const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;

/// The format of the file if it has to be brought up; none for one of the present format, and when there is no
/// file. A newer one is refused.
pub(super) fn older(home: &dyn CatalogHome, shown: &str) -> Result<Option<u64>> {
    let opened = home.open();
    let Some(below) = opened.map_err(|e| file::failed("open", shown, e))? else {
        return Ok(None);
    };
    let len = below.len().map_err(|e| file::failed("open", shown, e))?;
    if len == 0 {
        return Ok(None);
    }
    let over = Over {
        below,
        changed: Mutex::new(Changed {
            pages: BTreeMap::new(),
            len,
            kept: len,
        }),
    };
    let db = file::builder().create_with_backend(over);
    let db = db.map_err(|e| schema::failed(format!("open the catalog {shown}"), e.into()))?;
    migrate::older(&db, migrate::MIGRATIONS)
}

#[derive(Debug)]
struct Over {
    below: Arc<dyn CatalogFile>,
    changed: Mutex<Changed>,
}

#[derive(Debug)]
struct Changed {
    pages: BTreeMap<u64, Box<[u8; PAGE_LEN]>>,
    len: u64,
    /// Bytes of the file that still show: it was never cut below.
    kept: u64,
}

impl Over {
    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, changed: &Changed, page: u64) -> io::Result<Box<[u8; PAGE_LEN]>> {
        if let Some(bytes) = changed.pages.get(&page) {
            return Ok(bytes.clone());
        }
        let mut bytes = Box::new([0; PAGE_LEN]);
        let from = page * PAGE;
        let held = changed.kept.saturating_sub(from).min(PAGE);
        // At most a page.
        let held = usize::try_from(held).unwrap_or(0);
        if held > 0 {
            self.below.read_at(from, &mut bytes[..held])?;
        }
        Ok(bytes)
    }
}

/// The parts of a run: page, offset in it, offset in the run, bytes.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset.checked_add(done as u64)?;
        let inside = usize::try_from(at % PAGE).unwrap_or(0);
        let n = (len - done).min(PAGE_LEN - inside);
        let part = (at / PAGE, inside, done, n);
        done += n;
        (n > 0).then_some(part)
    })
}

impl redb::StorageBackend for Over {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changed().len)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = self.changed();
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > changed.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, inside, at, n) in parts(offset, out.len()) {
            let bytes = self.page(&changed, page)?;
            out[at..at + n].copy_from_slice(&bytes[inside..inside + n]);
        }
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changed = self.changed();
        if len < changed.len {
            // With zeros behind the cut, should it grow again.
            let page = len / PAGE;
            let mut last = self.page(&changed, page)?;
            let inside = usize::try_from(len % PAGE).unwrap_or(0);
            last[inside..].fill(0);
            drop(changed.pages.split_off(&page));
            changed.pages.insert(page, last);
            changed.kept = changed.kept.min(len);
        }
        changed.len = len;
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = self.changed();
        for (page, inside, at, n) in parts(offset, data.len()) {
            let mut bytes = self.page(&changed, page)?;
            bytes[inside..inside + n].copy_from_slice(&data[at..at + n]);
            changed.pages.insert(page, bytes);
            let end = offset.saturating_add((at + n) as u64);
            changed.len = changed.len.max(end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;
    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    use super::*;

    #[derive(Debug)]
    struct Fixed(Vec<u8>);

    impl CatalogFile for Fixed {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }
        fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let at = usize::try_from(offset).unwrap();
            out.copy_from_slice(&self.0[at..at + out.len()]);
            Ok(())
        }
        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            panic!("it writes")
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            panic!("it cuts")
        }
        fn sync(&self) -> io::Result<()> {
            panic!("it syncs")
        }
    }

    fn whole(of: &impl StorageBackend) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(of.len().unwrap()).unwrap()];
        of.read(0, &mut all).unwrap();
        all
    }

    proptest! {
        #[test]
        fn it_reads_as_if_it_were_written_and_nothing_is(
            len in 0..20_000_usize,
            steps in prop::collection::vec((0..3_u8, 0..20_000_u64, 1..9_000_usize), 1..20),
        ) {
            let start: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let plain = InMemoryBackend::new();
            plain.set_len(len as u64).unwrap();
            plain.write(0, &start).unwrap();
            let kept = len as u64;
            let changed = Changed { pages: BTreeMap::new(), len: kept, kept };
            let over = Over { below: Arc::new(Fixed(start)), changed: Mutex::new(changed) };
            for (tag, (kind, at, n)) in steps.into_iter().enumerate() {
                if kind == 0 {
                    over.set_len(at).unwrap();
                    plain.set_len(at).unwrap();
                    continue;
                }
                let now = plain.len().unwrap();
                if at.saturating_add(n as u64) > now {
                    plain.set_len(at + n as u64).unwrap();
                    over.set_len(at + n as u64).unwrap();
                }
                let bytes = vec![u8::try_from(tag + 1).unwrap(); n];
                over.write(at, &bytes).unwrap();
                plain.write(at, &bytes).unwrap();
                prop_assert!(whole(&over) == whole(&plain));
            }
            prop_assert!(whole(&over) == whole(&plain));
        }
    }
}
