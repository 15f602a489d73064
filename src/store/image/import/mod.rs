//! Where an image comes from: a raw or qcow2 file, a block device, or anything else that is a [`Source`].
//!
//! A file is never taken for something it is not: what looks like a format that is not read here is refused
//! with the way out, not imported as raw bytes.

pub mod qcow2;
mod qcow2_check;
pub mod raw;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::sealed::Image;
use crate::store::error::{Error, ErrorKind, Result};
use crate::units::ByteRange;

/// What a part of a source holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes to read.
    Data,
    /// Zeros; need not be read.
    Zero,
    /// The bytes that [`Source::base`] has at the same place; whole chunks of it are taken over unread.
    Base,
}

/// A part of a source whose bytes are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which part.
    pub range: ByteRange,
    /// What it holds.
    pub kind: ExtentKind,
}

/// A disk to import. Blocking.
pub trait Source: fmt::Debug {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// The extent that holds byte `from`, which lies on the disk. It may begin before `from` and may be
    /// shorter than what is alike, but holds at least that byte.
    fn next_extent(&mut self, from: u64) -> Result<Extent>;

    /// Fills `out` from `offset`; must answer for every range of the disk, whatever its extents.
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()>;

    /// The image that `Base` extents refer to.
    fn base(&self) -> Option<Arc<Image>> {
        None
    }

    /// Called when everything was read, before the image is sealed: an error if the source changed meanwhile.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Format of a file to import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// By the first bytes of the file.
    #[default]
    Auto,
    /// The bytes of the disk, whatever they look like.
    Raw,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "vhd" | "vhdx" | "vmdk" => {
                Err(format!("format {text} is not supported yet; {CONVERT}"))
            }
            _ => Err(format!("`{text}` is not a format: auto, raw or qcow2")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

const CONVERT: &str = "convert it first: qemu-img convert -O raw IN OUT";
const UNPACK: &str = "unpack it first";

/// Opens a file or block device as a source.
///
/// # Errors
/// One line that names the file and the cause: not there, not readable, a directory, empty, cut short (with
/// the offset), a format or feature that is not supported (with the way out).
pub fn open(path: &Path, format: Format) -> Result<Box<dyn Source>> {
    let input = Input::open(path)?;
    let magic = input.magic()?;
    match format {
        Format::Raw => Ok(Box::new(raw::Raw::new(input)?)),
        Format::Qcow2 if magic.qcow2() => Ok(Box::new(qcow2::Qcow2::new(input)?)),
        Format::Qcow2 => {
            Err(input.refuse("is not a qcow2 file: it does not begin with \"QFI\\xfb\""))
        }
        Format::Auto if magic.qcow2() => Ok(Box::new(qcow2::Qcow2::new(input)?)),
        Format::Auto => {
            if let Some((name, way_out)) = magic.foreign() {
                let what = input.path.display();
                let why = format!("{what} is a {name} file, which is not supported yet; {way_out}");
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
            raw::check_whole(&input)?;
            Ok(Box::new(raw::Raw::new(input)?))
        }
    }
}

/// The check of a qcow2 file's mapping, for fuzz targets.
#[cfg(fuzzing)]
pub(super) fn qcow2_mapping(len: u64, read: &mut qcow2_check::Read<'_>) -> Result<u64> {
    qcow2_check::check(len, read)
}

/// An open file to import with what it was like at the start.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) file: fs::File,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    stamp: Stamp,
}

/// Tells whether a file was changed.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

impl Input {
    fn open(path: &Path) -> Result<Self> {
        let fail = |e: io::Error| {
            let why = format!("cannot open {}: {}", path.display(), plain(&e));
            Error::io(e, why)
        };
        let refuse = |why: &str| {
            Error::new(
                ErrorKind::InvalidFormat,
                format!("{} {why}", path.display()),
            )
        };
        // Asked before opening: a pipe would block there.
        let kind = fs::metadata(path).map_err(fail)?.file_type();
        if kind.is_dir() {
            return Err(refuse("is a directory, not a disk image"));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(refuse("is neither a file nor a block device"));
        }
        let file = fs::File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        let len = if kind.is_block_device() {
            io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(fail)?
        } else {
            meta.len()
        };
        if len == 0 {
            return Err(refuse("is empty (0 bytes)"));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            stamp: Stamp::of(&meta),
        })
    }

    /// Reads; the end of the file inside the range is an error that names where it ends.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|e| {
            let path = self.path.display();
            let len = self.file.metadata().map_or(self.len, |meta| meta.len());
            if e.kind() == io::ErrorKind::UnexpectedEof {
                let why = format!(
                    "{path} ends at offset {len}, bytes up to {} are needed: it was cut short",
                    offset.saturating_add(out.len() as u64)
                );
                return Error::new(ErrorKind::InvalidFormat, why);
            }
            let why = format!("cannot read {path} at offset {offset}: {}", plain(&e));
            Error::io(e, why)
        })
    }

    /// An error if somebody wrote to the file since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let meta = self.file.metadata();
        if meta.is_ok_and(|meta| Stamp::of(&meta) == self.stamp) {
            return Ok(());
        }
        let path = self.path.display();
        let why = format!(
            "{path} was changed while it was read; stop what writes to it and import again"
        );
        Err(Error::new(ErrorKind::Busy, why))
    }

    pub(super) fn refuse(&self, why: &str) -> Error {
        Error::new(
            ErrorKind::InvalidFormat,
            format!("{} {why}", self.path.display()),
        )
    }

    fn magic(&self) -> Result<Magic> {
        let mut head = [0; 512];
        let mut tail = [0; 512];
        let len = usize::try_from(self.len).unwrap_or(usize::MAX).min(512);
        self.read_at(0, &mut head[..len])?;
        if self.len >= 512 {
            self.read_at(self.len - 512, &mut tail)?;
        }
        Ok(Magic { head, tail })
    }
}

/// The message of an I/O error without its number.
fn plain(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => e.to_string(),
    }
}

/// First and last sector of a file.
struct Magic {
    head: [u8; 512],
    tail: [u8; 512],
}

impl Magic {
    fn qcow2(&self) -> bool {
        self.head.starts_with(b"QFI\xfb")
    }

    /// Name of a format that is not read here, and what to do.
    fn foreign(&self) -> Option<(&'static str, &'static str)> {
        const STARTS: [(&[u8], &str, &str); 13] = [
            (b"vhdxfile", "VHDX", CONVERT),
            (b"KDMV", "VMDK", CONVERT),
            (b"COWD", "VMDK", CONVERT),
            (b"# Disk DescriptorFile", "VMDK descriptor", CONVERT),
            (b"conectix", "VHD", CONVERT),
            (b"QED\0", "QED", CONVERT),
            (b"\x1f\x8b\x08", "gzip", UNPACK),
            (b"\xfd7zXZ\0", "xz", UNPACK),
            (b"\x28\xb5\x2f\xfd", "zstd", UNPACK),
            (b"\x04\x22\x4d\x18", "lz4", UNPACK),
            (b"BZh", "bzip2", UNPACK),
            (b"PK\x03\x04", "zip", UNPACK),
            (b"7z\xbc\xaf\x27\x1c", "7z", UNPACK),
        ];
        let start = STARTS
            .iter()
            .find(|(magic, ..)| self.head.starts_with(magic));
        if let Some(&(_, name, way_out)) = start {
            return Some((name, way_out));
        }
        if self.head[64..].starts_with(&[0x7f, 0x10, 0xda, 0xbe]) {
            return Some(("VDI", CONVERT));
        }
        if self.head[257..].starts_with(b"ustar") {
            return Some(("tar", UNPACK));
        }
        self.tail
            .starts_with(b"conectix")
            .then_some(("VHD (fixed)", CONVERT))
    }
}
