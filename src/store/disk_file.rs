//! The real file system behind the door.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::ReadWriteFlags;

use super::disk::{Disk, File, OpenMode, Space};
use super::error::{Error, Result};

/// A directory of the real file system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl RealDisk {
    /// The tree below `root`, which must exist.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

// Words are found only when there is something to say: every call of a file comes by here.
fn failed<'a>(path: &'a Path, doing: &'a str) -> impl FnOnce(io::Error) -> Error + 'a {
    move |e| {
        let context = format!("{doing} {}: {e}", path.display());
        Error::io(e, context)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let path = self.at(path);
        let mut options = fs::OpenOptions::new();
        match mode {
            OpenMode::Read => options.read(true),
            OpenMode::ReadWrite => options.read(true).write(true),
            OpenMode::CreateNew => options.read(true).write(true).create_new(true),
        };
        let file = options.open(&path).map_err(failed(&path, "open"))?;
        Ok(Arc::new(RealFile { file, path }))
    }

    fn remove(&self, path: &str) -> Result<()> {
        let path = self.at(path);
        fs::remove_file(&path).map_err(failed(&path, "remove"))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let from = self.at(from);
        fs::rename(&from, self.at(to)).map_err(failed(&from, "rename"))
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        let path = self.at(path);
        fs::create_dir_all(&path).map_err(failed(&path, "make directory"))
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let path = self.at(path);
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort_unstable();
            Ok(names)
        };
        read().map_err(failed(&path, "list"))
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        let path = self.at(path);
        fs::File::open(&path)
            .and_then(|dir| dir.sync_all())
            .map_err(failed(&path, "sync directory"))
    }

    fn space(&self) -> Result<Option<Space>> {
        let told = rustix::fs::statvfs(&self.root)
            .map_err(|e| failed(&self.root, "ask for the space of")(e.into()))?;
        // What is available to us: root may also take what the file system keeps for it.
        let free = if rustix::process::geteuid().is_root() {
            told.f_bfree
        } else {
            told.f_bavail
        };
        Ok(Some(Space {
            total: told.f_blocks.saturating_mul(told.f_frsize),
            free: free.saturating_mul(told.f_frsize),
        }))
    }
}

impl File for RealFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(out, offset)
            .map_err(failed(&self.path, "read"))
    }

    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        let mut done = 0;
        while done < out.len() {
            let slice = io::IoSliceMut::new(&mut out[done..]);
            let at = offset + done as u64;
            let got = rustix::io::preadv2(&self.file, &mut [slice], at, ReadWriteFlags::NOWAIT);
            match got {
                Ok(0) => {
                    let e = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(failed(&self.path, "read")(e));
                }
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                // A file system without the flag answers "not supported": then every read may block.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::OPNOTSUPP) => return Ok(false),
                Err(e) => return Err(failed(&self.path, "read")(e.into())),
            }
        }
        Ok(true)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(failed(&self.path, "write"))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(failed(&self.path, "sync"))
    }

    fn len(&self) -> Result<u64> {
        let meta = self.file.metadata().map_err(failed(&self.path, "stat"))?;
        Ok(meta.len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file
            .set_len(len)
            .map_err(failed(&self.path, "set length of"))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, offset, len)
            .map_err(|e| failed(&self.path, "punch a hole in")(e.into()))
    }

    fn allocated(&self) -> Result<u64> {
        let meta = self.file.metadata().map_err(failed(&self.path, "stat"))?;
        Ok(meta.blocks() * 512)
    }

    fn advise_random(&self) {
        // Advice only: a file system that ignores it costs a little read-ahead.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::Random);
    }

    fn advise_unneeded(&self, offset: u64, len: u64) {
        let len = std::num::NonZeroU64::new(len);
        let _ = rustix::fs::fadvise(&self.file, offset, len, Advice::DontNeed);
    }
}
