//! The state directory: whose it is, which format it has, and who holds it.
//!
//! ```text
//!   STATE/version        one number; written first
//!   STATE/lock           flock; says who has it: pid, host, program, since when; empty after an orderly end
//!   STATE/catalog.redb   the catalog
//!   STATE/store/         images and layers
//! ```

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::{HeadError, HeadErrorKind, Result};
use crate::limits;
use crate::units::UnixMillis;

/// Format of the directory as a whole: which files there are. The catalog and the store number their own.
const VERSION: u64 = 1;

/// The directory, held by this process until it is dropped.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    /// Closing it lets the lock go.
    lock: fs::File,
}

impl Drop for StateDir {
    /// An orderly end is told by an empty file. What fails is only a worse message later.
    fn drop(&mut self) {
        let _ = self.lock.set_len(0);
    }
}

impl StateDir {
    /// Makes the directory if it is not there (mode 0700), takes its lock, checks its version.
    pub(super) fn open(path: &Path) -> Result<Self> {
        prepare(path)?;
        let lock = take_lock(path)?;
        check_version(path)?;
        Ok(Self {
            path: path.to_owned(),
            lock,
        })
    }

    /// Takes the lock of a directory that must be there, for a check. What is wrong with its version is the
    /// second answer: a check goes on where a start would not.
    pub(super) fn inspect(path: &Path) -> Result<(Self, Option<String>)> {
        if !path.is_dir() {
            return Err(HeadError::invalid(format!(
                "there is no state directory {}; name the right one with `--state`",
                path.display()
            )));
        }
        if !path.join("version").exists() && !path.join(super::CATALOG).exists() {
            return Err(HeadError::invalid(format!(
                "{} is no state directory of Reveille: it has neither `version` nor `{}`",
                path.display(),
                super::CATALOG
            )));
        }
        let lock = take_lock(path)?;
        let wrong = match fs::read_to_string(path.join("version")) {
            Ok(text) => judge_version(&path.join("version"), &text).err(),
            Err(e) => Some(failed("read", &path.join("version"), &e)),
        };
        let state = Self {
            path: path.to_owned(),
            lock,
        };
        Ok((state, wrong.map(|e| e.message)))
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
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(dir, &Holder::read(&mut file))),
        Err(rustix::io::Errno::NOLCK | rustix::io::Errno::OPNOTSUPP) => {
            return Err(refused(format!(
                "the file system of {} knows no locks, so nobody could tell two heads apart; put the state \
                 directory on a file system of this machine",
                dir.display()
            )));
        }
        Err(e) => return Err(failed("lock", &path, &e.into())),
    }
    let before = Holder::read(&mut file);
    let ours = Holder::ours();
    take_over(dir, &before, &ours, shared_file_system(&file))?;
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(ours.text().as_bytes()))
        .map_err(|e| failed("write", &path, &e))?;
    Ok(file)
}

/// The lock is ours; was it left by somebody who may still be there? On a file system that several machines
/// share, a lock of another machine may not be seen here.
fn take_over(dir: &Path, before: &Holder, ours: &Holder, shared: Option<&str>) -> Result<()> {
    let Some(pid) = &before.pid else {
        return Ok(());
    };
    let elsewhere = before.host.is_some() && before.host != ours.host;
    if elsewhere && let Some(kind) = shared {
        return Err(refused(format!(
            "the state directory {} was held by {before} and not let go, and lies on {kind}, where locks of \
             other machines may not be seen; make sure that it is gone, then remove {} and try again",
            dir.display(),
            dir.join("lock").display()
        )));
    }
    tracing::info!(pid, holder = %before, "the lock of a process that is gone is taken over");
    Ok(())
}

/// The name of the file system, if other machines may have it mounted too.
fn shared_file_system(file: &fs::File) -> Option<&'static str> {
    let stat = rustix::fs::fstatfs(file).ok()?;
    shared_kind(u64::try_from(stat.f_type).ok()? & 0xffff_ffff)
}

/// By the numbers of linux/magic.h and of the file systems' own headers.
fn shared_kind(magic: u64) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "SMB",
        0x00c3_6400 => "Ceph",
        0x0102_1997 => "9p",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x0bd0_0bd0 => "Lustre",
        0x5346_414f => "AFS",
        _ => return None,
    })
}

/// Who has, or had, the lock: the lines of the lock file. Older programs wrote the pid alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holder {
    pid: Option<String>,
    host: Option<String>,
    program: Option<String>,
    since: Option<String>,
}

impl Holder {
    fn ours() -> Self {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        let program = format!("reveille {}", env!("CARGO_PKG_VERSION"));
        Self {
            pid: Some(std::process::id().to_string()),
            host: Some(printable(&host)),
            program: Some(program),
            since: Some(utc(UnixMillis::now())),
        }
    }

    fn read(file: &mut fs::File) -> Self {
        let mut bytes = Vec::new();
        // What cannot be read is only a worse message.
        let _ = file.rewind();
        let _ = file
            .take(limits::LOCK_TEXT_BYTES_MAX)
            .read_to_end(&mut bytes);
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    fn parse(text: &str) -> Self {
        let mut holder = Self::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or(("pid", line));
            let value = printable(value.trim());
            let place = match key {
                "pid" if value.parse::<u32>().is_ok() => &mut holder.pid,
                "host" => &mut holder.host,
                "program" => &mut holder.program,
                "since" => &mut holder.since,
                _ => continue,
            };
            *place = Some(value).filter(|value| !value.is_empty());
        }
        holder
    }

    fn text(&self) -> String {
        let lines = [
            ("pid", &self.pid),
            ("host", &self.host),
            ("program", &self.program),
            ("since", &self.since),
        ];
        let line = |(key, value): &(&str, &Option<String>)| {
            value.as_ref().map(|value| format!("{key} {value}\n"))
        };
        lines.iter().filter_map(line).collect()
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.pid {
            Some(pid) => write!(f, "process {pid}")?,
            None => f.write_str("another process")?,
        }
        if let Some(program) = &self.program {
            write!(f, " ({program})")?;
        }
        if let Some(host) = &self.host {
            write!(f, " on {host}")?;
        }
        if let Some(since) = &self.since {
            write!(f, " since {since}")?;
        }
        Ok(())
    }
}

/// A text from a file as it may stand in a message.
fn printable(text: &str) -> String {
    let plain = |c: &char| c.is_ascii_graphic() || *c == ' ';
    text.chars().filter(plain).take(100).collect()
}

/// `2026-11-21T17:15:44Z`: the time on every machine's clock, whatever its zone.
fn utc(at: UnixMillis) -> String {
    let stamp = i64::try_from(at.0 / 1000).ok();
    let stamp = stamp.and_then(|s| jiff::Timestamp::from_second(s).ok());
    stamp.map_or_else(String::new, |stamp| stamp.to_string())
}

fn held(dir: &Path, holder: &Holder) -> HeadError {
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
    judge_version(&path, &text)
}

fn judge_version(path: &Path, text: &str) -> Result<()> {
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
    fn the_refusal_names_pid_host_program_and_since_when() {
        let top = tempfile::tempdir().unwrap();
        let _first = StateDir::open(top.path()).unwrap();
        let said = StateDir::open(top.path()).unwrap_err().message;
        let host = rustix::system::uname();
        let host = host.nodename().to_str().unwrap().to_owned();
        for word in [
            format!("process {} (reveille ", std::process::id()),
            format!(" on {host} since 20"),
        ] {
            assert!(said.contains(&word), "no `{word}` in: {said}");
        }
        let said = StateDir::inspect(top.path()).unwrap_err();
        assert_eq!(said.kind, HeadErrorKind::Refused);
        assert!(said.message.contains(&host), "{said}");
    }

    #[test]
    fn an_orderly_end_leaves_an_empty_lock() {
        let top = tempfile::tempdir().unwrap();
        let state = StateDir::open(top.path()).unwrap();
        let lock = state.join("lock");
        assert!(fs::read_to_string(&lock).unwrap().starts_with("pid "));
        drop(state);
        assert_eq!(fs::read(&lock).unwrap(), b"");
    }

    #[test]
    fn a_lock_that_a_dead_process_left_is_taken_over() {
        let top = tempfile::tempdir().unwrap();
        drop(StateDir::open(top.path()).unwrap());
        for left in [
            "4000000\n",
            "pid 4000000\nhost elsewhere\nprogram reveille 0.0.1\nsince 2020-01-01T00:00:00Z\n",
            "\0\u{fffd}garbage",
        ] {
            fs::write(top.path().join("lock"), left).unwrap();
            let state = StateDir::open(top.path()).unwrap();
            let now = fs::read_to_string(state.join("lock")).unwrap();
            let ours = format!("pid {}\n", std::process::id());
            assert!(now.starts_with(&ours), "{now}");
            assert!(!now.contains("4000000"), "{now}");
        }
    }

    #[test]
    fn another_machines_lock_is_not_taken_over_where_locks_are_not_seen() {
        let dir = Path::new("/s");
        let ours = Holder::ours();
        let text = "pid 7\nhost elsewhere\nprogram reveille 0.1.0\nsince 2026-01-01T00:00:00Z\n";
        let theirs = Holder::parse(text);
        assert_eq!(theirs.text(), text);
        take_over(dir, &theirs, &ours, None).unwrap();
        let said = take_over(dir, &theirs, &ours, Some("NFS")).unwrap_err();
        for word in ["process 7", "elsewhere", "2026-01-01", "NFS", "/s/lock"] {
            assert!(said.message.contains(word), "no `{word}` in: {said}");
        }
        // Our own machine's lock is seen here, so its holder is dead.
        let mine = Holder {
            pid: Some("7".into()),
            ..ours.clone()
        };
        take_over(dir, &mine, &ours, Some("NFS")).unwrap();
        // Let go in order: nobody.
        take_over(dir, &Holder::parse(""), &ours, Some("NFS")).unwrap();
    }

    #[test]
    fn file_systems_of_many_machines_are_known_by_their_numbers() {
        assert_eq!(shared_kind(0x6969), Some("NFS"));
        assert_eq!(shared_kind(0xfe53_4d42), Some("SMB"));
        // ext4, XFS, tmpfs.
        for local in [0xef53, 0x5846_5342, 0x0102_1994] {
            assert_eq!(shared_kind(local), None);
        }
    }

    #[test]
    fn a_check_looks_only_at_a_state_directory_that_is_there() {
        let top = tempfile::tempdir().unwrap();
        let none = top.path().join("none");
        assert_eq!(
            StateDir::inspect(&none).unwrap_err().kind,
            HeadErrorKind::Invalid
        );
        assert!(!none.exists());
        assert_eq!(
            StateDir::inspect(top.path()).unwrap_err().kind,
            HeadErrorKind::Invalid
        );
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
        drop(StateDir::open(top.path()).unwrap());
        assert_eq!(StateDir::inspect(top.path()).unwrap().1, None);
        fs::write(top.path().join("version"), "9\n").unwrap();
        let wrong = StateDir::inspect(top.path()).unwrap().1.unwrap();
        assert!(wrong.contains("format 9"), "{wrong}");
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
