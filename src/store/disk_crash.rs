//! A disk that remembers every call, and yields what a power cut or a kill at any moment may leave.
//!
//! The model (that of [`super::disk`]): a write, a length or a hole is certain once a later sync of that file
//! returned; a name once a later sync of its directory returned; everything else may be there or not, each
//! on its own, writes torn at 512 bytes. After a sync that failed, what it should have saved may be gone
//! whatever later syncs say. Directories themselves are taken for durable when made.
//!
//! For tests, of this room and of others that keep files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, File, OpenMode};
use super::disk_memory::{MemoryDisk, Sparse};
use super::error::{Error, ErrorKind, Result};

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Op {
    Create {
        path: String,
        inode: usize,
    },
    Rename {
        from: String,
        to: String,
        inode: usize,
    },
    Remove {
        path: String,
    },
    Write {
        inode: usize,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    SetLen {
        inode: usize,
        len: u64,
    },
    Punch {
        inode: usize,
        offset: u64,
        len: u64,
    },
    Sync {
        inode: usize,
    },
    SyncFailed {
        inode: usize,
    },
    SyncDir {
        path: String,
    },
}

impl Op {
    // What it changes: a file, or (the largest number) the names.
    fn inode(&self) -> u64 {
        match self {
            Self::Write { inode, .. } | Self::SetLen { inode, .. } | Self::Punch { inode, .. } => {
                *inode as u64
            }
            _ => u64::MAX,
        }
    }
}

#[derive(Debug, Default)]
struct Tape {
    ops: Vec<Op>,
    names: BTreeMap<String, usize>,
    files: Vec<Sparse>,
    dirs: BTreeSet<String>,
    // What was there before the tape began; all of it durable.
    start: (BTreeMap<String, usize>, Vec<Sparse>),
    calls: u64,
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    call: u64,
    kind: io::ErrorKind,
    lasting: bool,
}

/// The recording disk. Clones share the tape.
#[derive(Clone, Debug, Default)]
pub struct CrashDisk {
    tape: Arc<Mutex<Tape>>,
}

#[derive(Debug)]
struct CrashFile {
    tape: Arc<Mutex<Tape>>,
    path: String,
    inode: usize,
}

fn locked(tape: &Mutex<Tape>) -> MutexGuard<'_, Tape> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn missing(path: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{path}: no such file"))
}

impl Tape {
    // Counts a call that changes something; an error if it is the one that must fail.
    fn call(&mut self, what: &str, path: &str) -> Result<()> {
        let now = self.calls;
        self.calls += 1;
        match self.failure {
            Some(fail) if now == fail.call || (fail.lasting && now > fail.call) => {
                let e = io::Error::from(fail.kind);
                Err(Error::io(e, format!("{what} {path}: injected failure")))
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, inode: usize, offset: u64, bytes: &[u8]) {
        self.files[inode].write(offset, bytes);
        self.ops.push(Op::Write {
            inode,
            offset,
            bytes: bytes.into(),
        });
    }
}

impl CrashDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that begins with a durable copy of what `disk` holds.
    #[must_use]
    pub fn over(disk: &MemoryDisk) -> Self {
        let (held, dirs) = disk.parts();
        let (mut names, mut files) = (BTreeMap::new(), Vec::new());
        for (path, bytes) in held {
            names.insert(path, files.len());
            files.push(bytes);
        }
        let start = (names.clone(), files.clone());
        let tape = Tape {
            names,
            files,
            dirs,
            start,
            ..Tape::default()
        };
        Self {
            tape: Arc::new(Mutex::new(tape)),
        }
    }

    /// Operations on the tape: a moment is the number of them that had happened.
    #[must_use]
    pub fn moment(&self) -> usize {
        locked(&self.tape).ops.len()
    }

    /// Calls so far that change something (each may be made to fail).
    #[must_use]
    pub fn calls(&self) -> u64 {
        locked(&self.tape).calls
    }

    /// Makes the call number `call` (counted from the disk's beginning) fail; with `lasting` all later ones
    /// too.
    pub fn fail_call(&self, call: u64, kind: io::ErrorKind, lasting: bool) {
        locked(&self.tape).failure = Some(Failure {
            call,
            kind,
            lasting,
        });
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        locked(&self.tape).failure = None;
    }

    /// What is left when only the process dies after `moment` operations: everything written. With `torn`
    /// the operation under way, if it is a write, has put that many of its bytes.
    #[must_use]
    pub fn process_kill(&self, moment: usize, torn: usize) -> MemoryDisk {
        let tape = locked(&self.tape);
        let mut image = Image::begin(&tape);
        for op in tape.ops.iter().take(moment) {
            image.apply(op);
        }
        if let Some(Op::Write {
            inode,
            offset,
            bytes,
        }) = tape.ops.get(moment)
        {
            // A kill is noticed between pages, so writes of whole sectors are torn between sectors.
            let whole =
                (offset % SECTOR as u64 == 0 && bytes.len() % SECTOR == 0).then_some(SECTOR);
            let torn = torn.min(bytes.len());
            image.files[*inode].write(*offset, &bytes[..torn - torn % whole.unwrap_or(1)]);
        }
        image.finish(&tape)
    }

    /// The disk as the next process finds it when this one dies after `moment` operations: everything
    /// written is there, and what was not synced is still not durable.
    #[must_use]
    pub fn fork_at(&self, moment: usize) -> Self {
        let tape = locked(&self.tape);
        let ops: Vec<Op> = tape.ops.iter().take(moment).cloned().collect();
        let mut image = Image::begin(&tape);
        ops.iter().for_each(|op| image.apply(op));
        let fork = Tape {
            ops,
            names: image.names,
            files: image.files,
            dirs: tape.dirs.clone(),
            start: tape.start.clone(),
            ..Tape::default()
        };
        Self {
            tape: Arc::new(Mutex::new(fork)),
        }
    }

    /// What a power cut after `moment` operations may leave: all cases if there are at most `bound`, else
    /// the two extremes and seeded samples of several kinds.
    #[must_use]
    pub fn crash_images(&self, moment: usize, seed: u64, bound: usize) -> Vec<MemoryDisk> {
        let tape = locked(&self.tape);
        let moment = moment.min(tape.ops.len());
        let ops = &tape.ops[..moment];
        let (base, open) = split(&tape, ops);
        let units = units(ops, &open);
        let mut random = Random(seed ^ (moment as u64) << 20);
        let all = 1_u64.checked_shl(u32::try_from(units.len()).unwrap_or(u32::MAX));
        let exhaustive = all.filter(|all| units.len() < 60 && *all <= bound as u64);
        let cases = exhaustive.unwrap_or(bound as u64);
        let choose = |case: u64, random: &mut Random| -> Vec<bool> {
            if exhaustive.is_some() {
                return (0..units.len()).map(|bit| case >> bit & 1 == 1).collect();
            }
            sample(case, ops, &units, random)
        };
        (0..cases)
            .map(|case| {
                let chosen = choose(case, &mut random);
                build(&tape, ops, &base, &open, &units, &chosen)
            })
            .collect()
    }
}

// Which operations are durable for certain.
fn certain(ops: &[Op]) -> Vec<bool> {
    let (mut files, mut dirs) = (BTreeSet::new(), BTreeSet::new());
    let mut out = vec![false; ops.len()];
    for (at, op) in ops.iter().enumerate().rev() {
        out[at] = match op {
            Op::Sync { inode } => {
                files.insert(*inode);
                true
            }
            Op::SyncFailed { inode } => {
                files.remove(inode);
                true
            }
            Op::SyncDir { path } => {
                dirs.insert(path.as_str());
                true
            }
            Op::Create { path, .. } | Op::Remove { path } | Op::Rename { to: path, .. } => {
                dirs.contains(parent(path))
            }
            Op::Write { inode, .. } | Op::SetLen { inode, .. } | Op::Punch { inode, .. } => {
                files.contains(inode)
            }
        };
    }
    out
}

// The state before the first uncertain operation of each file and of the names, and the operations that
// come behind: (operation, certain).
fn split(tape: &Tape, ops: &[Op]) -> (Image, Vec<(usize, bool)>) {
    let certain = certain(ops);
    let mut base = Image::begin(tape);
    let mut open = Vec::new();
    let mut unsettled = BTreeSet::new();
    for (at, op) in ops.iter().enumerate() {
        let of = op.inode();
        if !certain[at] {
            unsettled.insert(of);
        }
        if unsettled.contains(&of) {
            open.push((at, certain[at]));
        } else {
            base.apply(op);
        }
    }
    (base, open)
}

// What may be lost on its own: (operation, sector of a write).
fn units(ops: &[Op], open: &[(usize, bool)]) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    for (at, _) in open.iter().filter(|(_, certain)| !certain) {
        let count = match &ops[*at] {
            Op::Write { offset, bytes, .. } => sectors(*offset, bytes.len()),
            _ => 1,
        };
        out.extend((0..count).map(|sector| (*at, sector)));
    }
    out
}

// Sectors that a write touches; each may be torn from the others.
fn sectors(offset: u64, len: usize) -> usize {
    let inside = usize::try_from(offset % SECTOR as u64).unwrap_or(0);
    (inside + len).div_ceil(SECTOR)
}

// The part of a write in one of its sectors.
fn piece(offset: u64, len: usize, sector: usize) -> std::ops::Range<usize> {
    let inside = usize::try_from(offset % SECTOR as u64).unwrap_or(0);
    let start = (sector * SECTOR).saturating_sub(inside);
    let end = ((sector + 1) * SECTOR).saturating_sub(inside).min(len);
    start.min(end)..end
}

fn sample(case: u64, ops: &[Op], units: &[(usize, usize)], random: &mut Random) -> Vec<bool> {
    let salt = random.number();
    let cut = random.below(units.len() as u64 + 1);
    let keep = |i: usize, at: usize, random: &mut Random| match case {
        0 => false,
        1 => true,
        // Some files got everything, others nothing.
        n if n % 4 == 0 => Random(salt ^ ops[at].inode()).number() & 1 == 1,
        // In order up to a point.
        n if n % 4 == 1 => (i as u64) < cut,
        n if n % 4 == 2 => random.below(8) != 0,
        _ => random.number() & 1 == 1,
    };
    units
        .iter()
        .enumerate()
        .map(|(i, (at, _))| keep(i, *at, random))
        .collect()
}

fn build(
    tape: &Tape,
    ops: &[Op],
    base: &Image,
    open: &[(usize, bool)],
    units: &[(usize, usize)],
    chosen: &[bool],
) -> MemoryDisk {
    let mut image = base.clone();
    let mut unit = 0;
    for (at, certain) in open {
        if *certain {
            image.apply(&ops[*at]);
            continue;
        }
        while let Some((_, sector)) = units.get(unit).filter(|(of, _)| of == at) {
            if chosen[unit] {
                image.apply_part(&ops[*at], *sector);
            }
            unit += 1;
        }
    }
    image.finish(tape)
}

#[derive(Clone)]
struct Image {
    names: BTreeMap<String, usize>,
    files: Vec<Sparse>,
}

impl Image {
    fn begin(tape: &Tape) -> Self {
        let (names, mut files) = tape.start.clone();
        files.resize(tape.files.len(), Sparse::default());
        Self { names, files }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { path, inode } => {
                self.names.insert(path.clone(), *inode);
            }
            Op::Rename { from, to, inode } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *inode);
            }
            Op::Remove { path } => {
                self.names.remove(path);
            }
            Op::Write {
                inode,
                offset,
                bytes,
            } => self.files[*inode].write(*offset, bytes),
            Op::SetLen { inode, len } => self.files[*inode].set_len(*len),
            Op::Punch { inode, offset, len } => self.files[*inode].punch(*offset, *len),
            Op::Sync { .. } | Op::SyncFailed { .. } | Op::SyncDir { .. } => {}
        }
    }

    fn apply_part(&mut self, op: &Op, sector: usize) {
        let Op::Write {
            inode,
            offset,
            bytes,
        } = op
        else {
            return self.apply(op);
        };
        let part = piece(*offset, bytes.len(), sector);
        self.files[*inode].write(offset + part.start as u64, &bytes[part]);
    }

    fn finish(self, tape: &Tape) -> MemoryDisk {
        let mut files = self.files;
        let named = self
            .names
            .into_iter()
            .map(|(path, inode)| (path, std::mem::take(&mut files[inode])));
        MemoryDisk::from_parts(named.collect(), tape.dirs.clone())
    }
}

/// A small generator of numbers that look random (splitmix64), so that a seed repeats everything.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 for `n` = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n.max(1)
    }
}

impl Disk for CrashDisk {
    fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let mut tape = locked(&self.tape);
        let known = tape.names.get(path).copied();
        let inode = match (mode, known) {
            (OpenMode::CreateNew, Some(_)) => {
                return Err(Error::new(ErrorKind::Io, format!("{path}: exists already")));
            }
            (OpenMode::CreateNew, None) => {
                tape.call("create", path)?;
                let inode = tape.files.len();
                tape.files.push(Sparse::default());
                tape.names.insert(path.to_owned(), inode);
                tape.ops.push(Op::Create {
                    path: path.to_owned(),
                    inode,
                });
                inode
            }
            (_, Some(inode)) => inode,
            (_, None) => return Err(missing(path)),
        };
        Ok(Arc::new(CrashFile {
            tape: Arc::clone(&self.tape),
            path: path.to_owned(),
            inode,
        }))
    }

    fn remove(&self, path: &str) -> Result<()> {
        let mut tape = locked(&self.tape);
        if !tape.names.contains_key(path) {
            return Err(missing(path));
        }
        tape.call("remove", path)?;
        tape.names.remove(path);
        tape.ops.push(Op::Remove {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut tape = locked(&self.tape);
        tape.call("rename", from)?;
        let inode = tape.names.remove(from).ok_or_else(|| missing(from))?;
        tape.names.insert(to.to_owned(), inode);
        tape.ops.push(Op::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            inode,
        });
        Ok(())
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        let mut tape = locked(&self.tape);
        let mut dir = path;
        while !dir.is_empty() {
            tape.dirs.insert(dir.to_owned());
            dir = parent(dir);
        }
        Ok(())
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let tape = locked(&self.tape);
        if !path.is_empty() && !tape.dirs.contains(path) {
            return Err(missing(path));
        }
        let all = tape.names.keys().chain(&tape.dirs);
        let names = all.filter(|name| parent(name) == path);
        let last = |name: &String| name.rsplit('/').next().unwrap_or_default().to_owned();
        let names: BTreeSet<String> = names.map(last).collect();
        Ok(names.into_iter().collect())
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        let mut tape = locked(&self.tape);
        tape.call("sync directory", path)?;
        tape.ops.push(Op::SyncDir {
            path: path.to_owned(),
        });
        Ok(())
    }
}

impl CrashFile {
    fn tape(&self) -> MutexGuard<'_, Tape> {
        locked(&self.tape)
    }
}

impl File for CrashFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        if self.tape().files[self.inode].read(offset, out) {
            return Ok(());
        }
        let e = io::Error::from(io::ErrorKind::UnexpectedEof);
        Err(Error::io(
            e,
            format!("read {} at {offset}: behind its end", self.path),
        ))
    }

    fn try_read_at(&self, offset: u64, out: &mut [u8]) -> Result<bool> {
        self.read_at(offset, out).map(|()| true)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut tape = self.tape();
        if let Err(e) = tape.call("write", &self.path) {
            // A write that fails may have put a part.
            let half = bytes.len() / 2 / SECTOR * SECTOR;
            tape.write(self.inode, offset, &bytes[..half]);
            return Err(e);
        }
        tape.write(self.inode, offset, bytes);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut tape = self.tape();
        let inode = self.inode;
        let done = tape.call("sync", &self.path);
        tape.ops.push(if done.is_ok() {
            Op::Sync { inode }
        } else {
            Op::SyncFailed { inode }
        });
        done
    }

    fn len(&self) -> Result<u64> {
        Ok(self.tape().files[self.inode].len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut tape = self.tape();
        let inode = self.inode;
        tape.call("set length of", &self.path)?;
        tape.files[inode].set_len(len);
        tape.ops.push(Op::SetLen { inode, len });
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mut tape = self.tape();
        let inode = self.inode;
        tape.call("punch", &self.path)?;
        tape.files[inode].punch(offset, len);
        tape.ops.push(Op::Punch { inode, offset, len });
        Ok(())
    }

    fn allocated(&self) -> Result<u64> {
        Ok(self.tape().files[self.inode].allocated())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn contents(disk: &MemoryDisk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(path, OpenMode::Read).ok()?;
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        Some(bytes)
    }

    fn recorded() -> CrashDisk {
        let disk = CrashDisk::new();
        disk.create_dir("d").unwrap();
        let file = disk.open("d/a", OpenMode::CreateNew).unwrap();
        file.write_at(0, &[1; 1024]).unwrap();
        file.sync().unwrap();
        disk.sync_dir("d").unwrap();
        file.write_at(0, &[2; 1024]).unwrap();
        disk
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_tears_the_rest_by_sectors() {
        let disk = recorded();
        let images = disk.crash_images(disk.moment(), 1, 64);
        let all: BTreeSet<_> = images
            .iter()
            .map(|image| contents(image, "d/a").unwrap())
            .collect();
        assert_eq!(images.len(), 4);
        assert_eq!(all.len(), 4, "each of the two sectors is old or new");
        assert!(all.iter().all(|bytes| bytes.len() == 1024));
    }

    #[test]
    fn a_name_that_was_not_synced_is_there_or_not() {
        let disk = recorded();
        let images = disk.crash_images(3, 1, 64);
        let found = images
            .iter()
            .filter(|image| contents(image, "d/a").is_some())
            .count();
        assert_eq!((images.len(), found), (2, 1));
    }

    #[test]
    fn a_kill_keeps_everything_and_a_part_of_the_write_under_way() {
        let disk = recorded();
        let whole = disk.process_kill(disk.moment(), 0);
        assert_eq!(contents(&whole, "d/a").unwrap(), vec![2; 1024]);
        let torn = disk.process_kill(disk.moment() - 1, 700);
        assert_eq!(
            contents(&torn, "d/a").unwrap(),
            [vec![2; 512], vec![1; 512]].concat()
        );
    }

    #[test]
    fn what_a_failed_sync_should_have_saved_may_be_gone_for_ever() {
        let disk = recorded();
        let file = disk.open("d/a", OpenMode::ReadWrite).unwrap();
        disk.fail_call(disk.calls(), io::ErrorKind::Other, false);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(disk.crash_images(disk.moment(), 1, 64).len(), 4);
    }
}
