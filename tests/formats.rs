//! Disk formats against `qemu-img`, and against disks and damage made by hand.
//!
//! The oracle of what qemu-img can make is what `qemu-img convert -O raw` makes of the same file; that of
//! differencing chains is the model that built them.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    unreachable_pub,
    dead_code,
    reason = "test code over small numbers"
)]

#[path = "formats/build.rs"]
mod build;
#[path = "formats/chains.rs"]
mod chains;
#[path = "formats/cli.rs"]
mod cli;
mod common;
#[path = "formats/exports.rs"]
mod exports;
#[path = "formats/hostile.rs"]
mod hostile;
#[path = "formats/packed.rs"]
mod packed;
#[path = "formats/qemu.rs"]
mod qemu;
#[path = "formats/random.rs"]
mod random;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use reveille::store::image::import::{self, Format, Options};
use reveille::store::image::{ExtentKind, Source};
use reveille::store::{Error, ErrorKind};

pub(crate) const KIB: usize = 1024;
pub(crate) const MIB: usize = 1 << 20;

/// A directory of files.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// Noise that is the same for the same seed.
pub(crate) fn noise(seed: &str, out: &mut [u8]) {
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(out);
}

/// A disk of 5 MiB and a bit with text, noise and zeros, not a whole number of anything but sectors.
pub(crate) fn disk() -> Vec<u8> {
    let mut bytes = vec![0; 5100 * KIB + 512];
    for (from, len) in [
        (0, 70),
        (200, 1),
        (513, 128),
        (1024, 4),
        (2000, 600),
        (5099, 1),
    ] {
        noise(
            &format!("{from}"),
            &mut bytes[from * KIB..(from + len) * KIB],
        );
    }
    let end = bytes.len();
    bytes[end - 512..].fill(7);
    bytes[1500 * KIB..1900 * KIB].fill(b'a');
    bytes
}

/// Runs a tool, which must be installed (`tools/packages`), and which must succeed.
pub(crate) fn tool(name: &str, args: &[&str], paths: &[&Path]) -> Vec<u8> {
    let output = Command::new(name).args(args).args(paths).output();
    let output =
        output.unwrap_or_else(|e| panic!("{name} must be installed (tools/packages): {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?} {paths:?}: {said}");
    output.stdout
}

/// What `qemu-img convert` makes of a file.
pub(crate) fn by_qemu(path: &Path, format: &str) -> Vec<u8> {
    let out = path.with_extension("qemu-raw");
    tool(
        "qemu-img",
        &["convert", "-f", format, "-O", "raw"],
        &[path, &out],
    );
    let bytes = fs::read(&out).unwrap();
    fs::remove_file(&out).unwrap();
    bytes
}

pub(crate) fn open(path: &Path) -> Result<Box<dyn Source>, Error> {
    import::open(path, Format::Auto)
}

pub(crate) fn open_with_parents(path: &Path, parents: &Path) -> Result<Box<dyn Source>, Error> {
    let options = Options {
        format: Format::Auto,
        parents: Some(parents),
        progress: &|_| {},
        cancel: &AtomicBool::new(false),
    };
    import::open_with(path, &options)
}

/// The whole disk, read as an import reads it: what is said to be zeros is not read.
pub(crate) fn drain(source: &mut dyn Source) -> Result<Vec<u8>, Error> {
    let size = source.size();
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    let mut at = 0;
    while at < size {
        let extent = source.next_extent(at)?;
        assert!(
            extent.range.offset() <= at && at < extent.range.end(),
            "no way on from {at}"
        );
        let end = extent.range.end().min(size);
        if extent.kind == ExtentKind::Data {
            source.read_at(at, &mut bytes[at as usize..end as usize])?;
        }
        at = end;
    }
    source.finish()?;
    Ok(bytes)
}

pub(crate) fn content(path: &Path) -> Result<Vec<u8>, Error> {
    drain(&mut *open(path)?)
}

/// Content read at places that cross every border, against the whole.
pub(crate) fn check_anywhere(source: &mut dyn Source, whole: &[u8]) {
    let size = whole.len();
    for (from, len) in [
        (0, 1),
        (511, 2),
        (65_535, 3),
        (1000, 70_000),
        (size - 1, 1),
        (size / 2, 5000),
    ] {
        if from >= size {
            continue;
        }
        let len = len.min(size - from);
        let mut out = vec![0xee; len];
        source.read_at(from as u64, &mut out).unwrap();
        assert!(out == whole[from..from + len], "{from}+{len}");
    }
}

/// The file is refused in one line that names it and says these things.
pub(crate) fn refused(path: &Path, kind: ErrorKind, says: &[&str]) -> String {
    let refused = content(path).map(|bytes| bytes.len());
    let e = refused.expect_err("a file that must be refused");
    check(&e, kind, path, says)
}

pub(crate) fn check(e: &Error, kind: ErrorKind, path: &Path, says: &[&str]) -> String {
    let text = e.to_string();
    assert_eq!(e.kind(), kind, "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    let name = path.file_name().unwrap().to_str().unwrap();
    for part in says.iter().chain([&name]) {
        assert!(text.contains(part), "`{text}` lacks `{part}`");
    }
    text
}
