//! Steps from one point version of a golden disk to the next, and what a step changed on the disk.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::golden::source_root;
use crate::proc;

/// A block of the file systems we compare.
const BLOCK: usize = 4096;
/// A chunk of the store: what it shares is shared in these.
const CHUNK: usize = 64 * 1024;

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `upgrade`, `reinstall` (nothing newer was left), `kernel`, `install`, `remove`, `age`, `run`.
    pub kind: String,
    /// Packages that came, went or changed.
    pub packages: u32,
    /// Each of them, with its versions.
    pub what: String,
}

/// Makes one step (`tools/lab/recipes/point-version`) on a disk: a raw file or an `iscsi:` address. `keep` is where
/// package lists stay between steps.
///
/// # Errors
/// When the step fails; its words are in the error. The disk is unmounted all the same.
pub fn step(disk: &str, keep: &Path, words: &[&str]) -> Result<Step> {
    let recipe = source_root().join("tools/lab/recipes/point-version");
    let keep = keep.to_string_lossy();
    let mut args = vec!["--disk", disk, "--keep", &keep];
    args.extend_from_slice(words);
    let said = proc::run(&recipe.to_string_lossy(), &args)?;
    let line = |key: &str| {
        let found = said.lines().find_map(|line| line.strip_prefix(key));
        found.with_context(|| format!("the step said no `{key}`: {said}"))
    };
    Ok(Step {
        kind: line("kind=")?.to_owned(),
        packages: line("packages=")?.parse().context("packages=")?,
        what: line("what=")?.to_owned(),
    })
}

/// How two disks of one size differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Blocks of 4 KiB that hold other data than before.
    pub written: u64,
    /// Blocks that held data before and read zeros now.
    pub zeroed: u64,
    /// Chunks of 64 KiB with at least one such block.
    pub chunks: u64,
}

impl Changes {
    /// Bytes of the blocks that hold other data than before.
    #[must_use]
    pub const fn written_bytes(&self) -> u64 {
        self.written * BLOCK as u64
    }
}

/// Compares two disks block by block.
///
/// # Errors
/// When they cannot be read, or have not the same size.
pub fn changes(before: &Path, after: &Path) -> Result<Changes> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let (before, after) = (open(before)?, open(after)?);
    let size = after.metadata()?.len();
    ensure!(
        before.metadata()?.len() == size,
        "the disks have not the same size"
    );
    let mut old = vec![0; CHUNK];
    let mut new = vec![0; CHUNK];
    let mut found = Changes::default();
    let mut at = 0;
    while at < size {
        let len = usize::try_from((size - at).min(CHUNK as u64))?;
        before.read_exact_at(&mut old[..len], at)?;
        after.read_exact_at(&mut new[..len], at)?;
        at += len as u64;
        if old[..len] == new[..len] {
            continue;
        }
        found.chunks += 1;
        let blocks = old[..len].chunks(BLOCK).zip(new[..len].chunks(BLOCK));
        for (_, new) in blocks.filter(|(old, new)| old != new) {
            if new.iter().all(|byte| *byte == 0) {
                found.zeroed += 1;
            } else {
                found.written += 1;
            }
        }
    }
    Ok(found)
}

/// Bytes that a file, or everything below a directory, takes on the file system.
///
/// # Errors
/// When something there cannot be looked at.
pub fn space(path: &Path) -> Result<u64> {
    let about = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    let mut sum = about.blocks() * 512;
    if about.is_dir() {
        for entry in fs::read_dir(path)? {
            sum += space(&entry?.path())?;
        }
    }
    Ok(sum)
}

/// The SHA-256 of a file, as `sha256sum` says it.
///
/// # Errors
/// When it cannot be read.
pub fn hash(path: &Path) -> Result<String> {
    let said = proc::run("sha256sum", &[&path.to_string_lossy()])?;
    let word = said.split_whitespace().next();
    Ok(word.context("sha256sum said nothing")?.to_owned())
}

#[cfg(test)]
mod test {
    use super::*;

    fn disk(name: &str, size: u64, data: &[(u64, &[u8])]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("point-{}-{name}", std::process::id()));
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in data {
            file.write_all_at(bytes, *at).unwrap();
        }
        path
    }

    #[test]
    fn changed_blocks_zeroed_blocks_and_chunks_are_counted_apart() {
        // A size that ends inside of a chunk and inside of a block.
        let size = 5 * CHUNK as u64 + 5000;
        let before = disk(
            "before",
            size,
            &[(0, &[1; 8192]), (3 * CHUNK as u64, &[2; 4096])],
        );
        let last = (size - 1, &[9_u8][..]);
        let after = disk(
            "after",
            size,
            &[
                (0, &[1; 4096]),
                (4095, &[7, 7]),
                (3 * CHUNK as u64, &[2]),
                last,
            ],
        );
        let found = changes(&before, &after).unwrap();
        // Chunk 0: block 0 (its last byte), block 1; chunk 3: block 0; the last block of the disk.
        let expected = Changes {
            written: 4,
            zeroed: 0,
            chunks: 3,
        };
        assert_eq!(found, expected);
        let back = changes(&after, &before).unwrap();
        let expected = Changes {
            written: 3,
            zeroed: 1,
            chunks: 3,
        };
        assert_eq!(back, expected);
        assert_eq!(changes(&after, &after).unwrap(), Changes::default());
        assert_ne!(hash(&before).unwrap(), hash(&after).unwrap());
        let short = disk("short", 4096, &[]);
        assert!(changes(&short, &after).is_err());
        for path in [before, after, short] {
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn holes_take_no_space() {
        let path = disk("sparse", 1 << 30, &[(1 << 29, &[1; 4096])]);
        let taken = space(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!((4096..1 << 20).contains(&taken), "{taken}");
    }
}
