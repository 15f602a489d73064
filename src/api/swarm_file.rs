//! The file that a trace goes to: known to be possible before the boot, there only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::head::{HeadError, HeadErrorKind};

/// A file that is being made beside its place; goes when it is dropped before [`Self::keep`].
#[derive(Debug)]
pub(super) struct TraceFile {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    force: bool,
}

impl TraceFile {
    /// Makes the file beside `path`. What stands there already is refused unless `force`, and then only a
    /// regular file may be replaced.
    pub(super) fn create(path: &Path, force: bool) -> Result<Self, HeadError> {
        let told = path.display();
        let refused = |why: String| HeadError::new(HeadErrorKind::Conflict, why);
        match fs::symlink_metadata(path) {
            Ok(_) if !force => return Err(taken(path)),
            Ok(found) if !found.is_file() => {
                return Err(refused(format!(
                    "{told} is no regular file; choose another name for the trace"
                )));
            }
            _ => {}
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            let message = format!("{told} is no name for a file; give one for the trace");
            return Err(HeadError::new(HeadErrorKind::Invalid, message));
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let name = name.to_string_lossy();
        let partial = parent.join(format!(".{name}.partial-{}-{}", number.0, number.1));
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&partial);
        let file = made.map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => HeadErrorKind::Invalid,
                _ => HeadErrorKind::Unavailable,
            };
            let parent = parent.display();
            let message = format!("no file can be made in {parent}: {e}; choose another place");
            HeadError::new(kind, message)
        })?;
        Ok(Self {
            path: path.to_owned(),
            partial,
            file,
            force,
        })
    }

    /// Writes all of it, makes it durable and puts it in its place.
    pub(super) fn keep(mut self, bytes: &[u8]) -> Result<(), HeadError> {
        let written = self
            .file
            .write_all(bytes)
            .and_then(|()| self.file.sync_all());
        written.map_err(|e| self.failed(&e))?;
        if self.force {
            fs::rename(&self.partial, &self.path).map_err(|e| self.failed(&e))?;
        } else {
            // A link does not replace what came there meanwhile; the other name goes with `self`.
            fs::hard_link(&self.partial, &self.path).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => taken(&self.path),
                _ => self.failed(&e),
            })?;
        }
        if let Some(dir) = self.path.parent() {
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(|e| self.failed(&e))?;
        }
        Ok(())
    }

    fn failed(&self, e: &io::Error) -> HeadError {
        let path = self.path.display();
        let message = format!(
            "the trace could not be written to {path}, and is lost: {e}; make room there or choose another place, \
             and record again"
        );
        HeadError::new(HeadErrorKind::Unavailable, message)
    }
}

impl Drop for TraceFile {
    fn drop(&mut self) {
        // After a rename it is gone already.
        let _ = fs::remove_file(&self.partial);
    }
}

fn taken(path: &Path) -> HeadError {
    let path = path.display();
    let message = format!("{path} exists already; choose another file, or replace it with --force");
    HeadError::new(HeadErrorKind::Conflict, message)
}

#[cfg(test)]
mod test {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let all = fs::read_dir(dir).unwrap().flatten();
        let mut names: Vec<_> = all
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.trace.gz");
        drop(TraceFile::create(&path, false).unwrap());
        assert_eq!(names(dir.path()), [""; 0]);
        let file = TraceFile::create(&path, false).unwrap();
        assert!(!path.exists());
        file.keep(b"whole").unwrap();
        assert_eq!(names(dir.path()), ["a.trace.gz"]);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn what_is_there_is_replaced_only_by_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.trace.gz");
        let before = TraceFile::create(&path, false).unwrap();
        fs::write(&path, b"old").unwrap();
        let error = TraceFile::create(&path, false).unwrap_err();
        assert_eq!(error.kind, HeadErrorKind::Conflict);
        let error = before.keep(b"new").unwrap_err();
        assert_eq!(error.kind, HeadErrorKind::Conflict, "came there meanwhile");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let file = TraceFile::create(&path, true).unwrap();
        assert_eq!(
            fs::read(&path).unwrap(),
            b"old",
            "until the new one is whole"
        );
        file.keep(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.trace.gz"]);
    }

    #[test]
    fn nothing_but_a_regular_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [dir.path(), link.as_path(), Path::new("/dev/full")] {
            let error = TraceFile::create(path, true).unwrap_err();
            assert_eq!(error.kind, HeadErrorKind::Conflict, "{error}");
        }
        let error = TraceFile::create(&dir.path().join("none/a"), false).unwrap_err();
        assert_eq!(error.kind, HeadErrorKind::Invalid, "{error}");
    }
}
