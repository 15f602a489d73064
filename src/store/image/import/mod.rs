//! Where an image comes from: a disk file of one of many formats, a block device, or anything else that is
//! a [`Source`].
//!
//! ```text
//!   path --> Input --magic--> raw        holes are zeros
//!                             packed     gzip, xz, zstd of a raw disk: counted once, then read in order
//!                             qcow2      checked here, read by the imago library
//!                             chain      VHD, VHDX, VMDK: files, and where in them the disk's bytes lie
//! ```
//! A file is never taken for something it is not: what looks like a format that is not read here is refused
//! with the way out, not imported as raw bytes. What a file says about other files is followed only below
//! one directory. All readers but the shells (`input`, `raw`, `packed`, `chain`, `qcow2`) are pure. What is
//! read of each format, and what is refused: `docs/formats/foreign.md`.

mod chain;
mod input;
pub(super) mod layout;
mod magic;
mod packed;
pub mod qcow2;
mod qcow2_check;
pub mod raw;
pub(super) mod vhd;
pub(super) mod vhdx;
pub(super) mod vhdx_meta;
pub(super) mod vmdk;
pub(super) mod vmdk_text;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(super) use self::input::Input;
use self::magic::Content;
use super::ingest::{Progress, Watch};
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
    /// By the content of the file, never by its name.
    #[default]
    Auto,
    /// The bytes of the disk, whatever they look like.
    Raw,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
    /// Virtual PC, Hyper-V: fixed, dynamic, differencing.
    Vhd,
    /// Hyper-V: fixed, dynamic, differencing.
    Vhdx,
    /// VMware: sparse, stream-optimised, flat, split.
    Vmdk,
}

const FORMATS: [(&str, Format); 6] = [
    ("auto", Format::Auto),
    ("raw", Format::Raw),
    ("qcow2", Format::Qcow2),
    ("vhd", Format::Vhd),
    ("vhdx", Format::Vhdx),
    ("vmdk", Format::Vmdk),
];

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = FORMATS.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, format)| *format)
            .ok_or_else(|| format!("`{text}` is not a format: auto, raw, qcow2, vhd, vhdx or vmdk"))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = FORMATS.iter().find(|(_, format)| format == self);
        f.write_str(found.map_or("auto", |(name, _)| name))
    }
}

/// How a file is to be opened.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// What it is.
    pub format: Format,
    /// Where parents and extents that it names may be; else below its own directory.
    pub parents: Option<&'a Path>,
    /// Told while a compressed file is counted: bytes of the file.
    pub progress: &'a dyn Fn(Progress),
    /// Ends the counting.
    pub cancel: &'a AtomicBool,
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("format", &self.format)
            .field("parents", &self.parents)
            .finish_non_exhaustive()
    }
}

/// Opens a file or block device as a source, with no parents elsewhere and nobody who watches.
///
/// # Errors
/// Those of [`open_with`].
pub fn open(path: &Path, format: Format) -> Result<Box<dyn Source>> {
    let options = Options {
        format,
        parents: None,
        progress: &|_| {},
        cancel: &AtomicBool::new(false),
    };
    open_with(path, &options)
}

/// Opens a file or block device as a source.
///
/// # Errors
/// One line that names the file and the cause: not there, not readable, a directory, empty, cut short (with
/// the offset), damaged, a format or feature that is not supported (with the way out), a parent that is not
/// there or not the right one; cancelled.
pub fn open_with(path: &Path, options: &Options<'_>) -> Result<Box<dyn Source>> {
    let input = Input::open(path)?;
    let content = input.magic()?.content();
    let content = match options.format {
        Format::Auto => content,
        Format::Raw => return Ok(Box::new(raw::Raw::new(input)?)),
        Format::Qcow2 if content == Content::Qcow2 => content,
        Format::Qcow2 => {
            return Err(input.refuse("is not a qcow2 file: it does not begin with \"QFI\\xfb\""));
        }
        Format::Vhd => Content::Vhd,
        Format::Vhdx => Content::Vhdx,
        Format::Vmdk => Content::Vmdk,
    };
    Ok(match content {
        Content::Qcow2 => Box::new(qcow2::Qcow2::new(input)?),
        Content::Vhd => Box::new(chain::Chain::vhd(input, options.parents)?),
        Content::Vhdx => Box::new(chain::Chain::vhdx(input, options.parents)?),
        Content::Vmdk => Box::new(chain::Chain::vmdk(input, options.parents)?),
        Content::Packed(packing) => {
            let watch = Watch {
                progress: options.progress,
                cancel: options.cancel,
            };
            Box::new(packed::Packed::new(input, packing, watch)?)
        }
        Content::Foreign(name, way_out) => return Err(foreign(&input, name, way_out)),
        Content::Raw => {
            let read = &mut |offset, out: &mut [u8]| input.read_at(offset, out);
            raw::check_whole(&input.path, input.len, read)?;
            Box::new(raw::Raw::new(input)?)
        }
    })
}

fn foreign(input: &Input, name: &str, way_out: &str) -> Error {
    let what = input.path.display();
    let why = format!("{what} is a {name} file, which is not supported; {way_out}");
    Error::new(ErrorKind::Unsupported, why)
}

/// The check of a qcow2 file's mapping, for fuzz targets.
#[cfg(fuzzing)]
pub(super) fn qcow2_mapping(len: u64, read: &mut qcow2_check::Read<'_>) -> Result<u64> {
    qcow2_check::check(len, read)
}
