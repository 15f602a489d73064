//! Disks that interfere with the syncs of the one they wrap.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(clippy::unwrap_used, reason = "test code")]

use std::fmt;
use std::sync::{Arc, Mutex};

use reveille::store::Result;
use reveille::store::disk::{Disk, File, OpenMode};
use reveille::store::disk_crash::CrashDisk;

/// Does the journal's sync before the data's: presence before data.
#[derive(Clone, Debug)]
pub(crate) struct Swapped {
    pub(crate) disk: CrashDisk,
    pub(crate) waiting: Arc<Mutex<Vec<Arc<dyn File>>>>,
}

/// Calls something, once, before a data file is synced.
pub(crate) struct Hooked {
    pub(crate) disk: CrashDisk,
    pub(crate) hook: Hook,
}

pub(crate) type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

#[derive(Debug, PartialEq)]
enum Role {
    Data,
    Journal,
    Other,
}

impl Role {
    fn of(path: &str) -> Self {
        match path {
            p if p.starts_with("layers/data/") => Self::Data,
            p if p.starts_with("layers/journal") => Self::Journal,
            _ => Self::Other,
        }
    }
}

type Sync = Box<dyn Fn(&Arc<dyn File>) -> Result<()> + Send + std::marker::Sync>;

struct Wrapped {
    file: Arc<dyn File>,
    sync: Sync,
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl Swapped {
    fn sync(&self, role: &Role) -> Sync {
        let waiting = Arc::clone(&self.waiting);
        match role {
            Role::Data => Box::new(move |file| {
                waiting.lock().unwrap().push(Arc::clone(file));
                Ok(())
            }),
            Role::Journal => Box::new(move |file| {
                file.sync()?;
                waiting
                    .lock()
                    .unwrap()
                    .drain(..)
                    .try_for_each(|file| file.sync())
            }),
            Role::Other => Box::new(|file| file.sync()),
        }
    }
}

impl Hooked {
    fn sync(&self, role: &Role) -> Sync {
        let hook = Arc::clone(&self.hook);
        let is_data = *role == Role::Data;
        Box::new(move |file| {
            let hook = if is_data {
                hook.lock().unwrap().take()
            } else {
                None
            };
            if let Some(hook) = hook {
                hook();
            }
            file.sync()
        })
    }
}

macro_rules! wrapping_disk {
    ($name:ty) => {
        impl Disk for $name {
            fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
                Ok(Arc::new(Wrapped {
                    file: self.disk.open(path, mode)?,
                    sync: self.sync(&Role::of(path)),
                }))
            }
            fn remove(&self, path: &str) -> Result<()> {
                self.disk.remove(path)
            }
            fn rename(&self, from: &str, to: &str) -> Result<()> {
                self.disk.rename(from, to)
            }
            fn create_dir(&self, path: &str) -> Result<()> {
                self.disk.create_dir(path)
            }
            fn list(&self, path: &str) -> Result<Vec<String>> {
                self.disk.list(path)
            }
            fn sync_dir(&self, path: &str) -> Result<()> {
                self.disk.sync_dir(path)
            }
        }
    };
}

wrapping_disk!(Swapped);
wrapping_disk!(Hooked);

impl File for Wrapped {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, out)
    }
    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.file.try_read_at(offset, out)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync(&self) -> Result<()> {
        (self.sync)(&self.file)
    }
    fn len(&self) -> Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.file.punch(offset, len)
    }
    fn allocated(&self) -> Result<u64> {
        self.file.allocated()
    }
}
