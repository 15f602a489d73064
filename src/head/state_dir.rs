//! The state directory: whose it is, which format it has, and who holds it.
//!
//! ```text
//!   STATE/version        one number; written first
//!   STATE/lock           flock; holds the pid of who has it
//!   STATE/catalog.redb   the catalog
//!   STATE/store/         images and layers
//! ```

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::{HeadError, HeadErrorKind, Result};

/// Format of the directory as a whole: which files there are. The catalog and the store number their own.
const VERSION: u64 = 1;

/// The directory, held by this process until it is dropped.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    /// Closing it lets the lock go.
    _lock: fs::File,
}

impl StateDir {
    /// Makes the directory if it is not there (mode 0700), takes its lock, checks its version.
    pub(super) fn open(path: &Path) -> Result<Self> {
        prepare(path)?;
        let lock = take_lock(path)?;
        check_version(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// A name in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a directory in it, for the owner only; fine if it is there.
    pub(super) fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        let made = dir_builder().create(&path);
        made.map_err(|e| failed("make", &path, &e))?;
        Ok(path)
    }
}

fn dir_builder() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
}

fn failed(doing: &str, path: &Path, e: &io::Error) -> HeadError {
    let hint = match e.kind() {
        io::ErrorKind::PermissionDenied => "; run as the user who owns it (mostly root)",
        _ => "",
    };
    let message = format!("{doing} {}: {e}{hint}", path.display());
    HeadError::new(HeadErrorKind::Internal, message)
}

fn refused(message: String) -> HeadError {
    HeadError::new(HeadErrorKind::Refused, message)
}

/// A directory that others may enter is closed to them, but only if it is ours or empty: a slip in
/// `--state` must not change the mode of `/tmp`.
fn prepare(path: &Path) -> Result<()> {
    let made = dir_builder().create(path);
    made.map_err(|e| failed("make the state directory", path, &e))?;
    let meta = fs::metadata(path).map_err(|e| failed("look at", path, &e))?;
    if meta.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    let mut entries = fs::read_dir(path).map_err(|e| failed("list", path, &e))?;
    let ours = entries.next().is_none() || path.join("version").is_file();
    if !ours {
        return Err(refused(format!(
            "{} is no state directory of Reveille, holds other files and is open to other users; \
             choose an empty directory, or close it with `chmod 700`",
            path.display()
        )));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|e| failed("set the mode of", path, &e))
}

fn take_lock(dir: &Path) -> Result<fs::File> {
    let path = dir.join("lock");
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let opened = options.mode(0o600).open(&path);
    let mut file = opened.map_err(|e| failed("open", &path, &e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(dir, file)),
        Err(e) => return Err(failed("lock", &path, &e.into())),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(|e| failed("write", &path, &e))?;
    Ok(file)
}

fn held(dir: &Path, lock: fs::File) -> HeadError {
    let mut text = String::new();
    // What cannot be read is only a worse message.
    let _ = lock.take(32).read_to_string(&mut text);
    let holder = match text.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".to_owned(),
    };
    refused(format!(
        "the state directory {} is held by {holder}; reach a running daemon through its socket, or stop it first",
        dir.display()
    ))
}

fn check_version(dir: &Path) -> Result<()> {
    let path = dir.join("version");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return first_version(dir, &path),
        Err(e) => return Err(failed("read", &path, &e)),
    };
    let shown = path.display();
    match text.trim().parse::<u64>() {
        Ok(VERSION) => Ok(()),
        Ok(newer) if newer > VERSION => Err(refused(format!(
            "{shown}: the state directory has format {newer}, this program knows formats up to {VERSION}; \
             run the newer Reveille that wrote it"
        ))),
        _ => Err(refused(format!(
            "{shown} does not hold a format number; restore it (the present format is {VERSION})"
        ))),
    }
}

/// Written before anything else, so that a directory with a catalog and without a version is damaged.
fn first_version(dir: &Path, path: &Path) -> Result<()> {
    if dir.join("catalog.redb").exists() {
        return Err(refused(format!(
            "{} is missing though {} holds a catalog; restore the file (the present format is {VERSION})",
            path.display(),
            dir.display()
        )));
    }
    let fresh = dir.join("version.new");
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&fresh)?;
        file.write_all(format!("{VERSION}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|e| failed("write", path, &e))
}

/// What tells this start of the machine from every other.
pub(super) fn host_boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|e| failed("read", path, &e))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod test {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_directory_is_for_its_owner_only() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/state");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(fs::read_to_string(state.join("version")).unwrap(), "1\n");
    }

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let top = tempfile::tempdir().unwrap();
        let first = StateDir::open(top.path()).unwrap();
        let error = StateDir::open(top.path()).unwrap_err();
        assert_eq!(error.kind, HeadErrorKind::Refused);
        let pid = format!("process {}", std::process::id());
        assert!(error.message.contains(&pid), "{error}");
        drop(first);
        StateDir::open(top.path()).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused() {
        let top = tempfile::tempdir().unwrap();
        drop(StateDir::open(top.path()).unwrap());
        fs::write(top.path().join("version"), "2\n").unwrap();
        let error = StateDir::open(top.path()).unwrap_err();
        assert_eq!(error.kind, HeadErrorKind::Refused);
        assert!(error.message.contains("format 2"), "{error}");
        fs::write(top.path().join("version"), "?").unwrap();
        assert!(StateDir::open(top.path()).is_err());
    }

    #[test]
    fn a_catalog_without_its_version_is_not_taken_for_new() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("catalog.redb"), "x").unwrap();
        let close = fs::Permissions::from_mode(0o700);
        fs::set_permissions(top.path(), close).unwrap();
        let error = StateDir::open(top.path()).unwrap_err();
        assert!(error.message.contains("missing"), "{error}");
    }

    #[test]
    fn a_directory_of_others_keeps_its_mode() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("letter.txt"), "x").unwrap();
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = StateDir::open(top.path()).unwrap_err();
        assert_eq!(error.kind, HeadErrorKind::Refused);
        assert_eq!(mode(top.path()), 0o755);
    }

    #[test]
    fn an_open_directory_of_ours_is_closed() {
        let top = tempfile::tempdir().unwrap();
        drop(StateDir::open(top.path()).unwrap());
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o755)).unwrap();
        StateDir::open(top.path()).unwrap();
        assert_eq!(mode(top.path()), 0o700);
    }
}
