//! What the readers of disk formats have in common: where the bytes of a disk lie in its file, told piece by
//! piece. Pure over a reader.
//!
//! A reader looks at every table when a file is opened, so that a file that is cut short or contradicts
//! itself is refused before the first byte of the disk is read. Tables are never held whole: a hostile file
//! may claim large ones.

use std::fmt;

use crate::limits::DISK_BYTES_MAX;
use crate::limits::IMPORT_TABLE_PAGE;
use crate::store::error::{Error, ErrorKind, Result};
use crate::units::SECTOR_BYTES;

/// Fills a buffer from an offset of the file.
pub(super) type Read<'a> = dyn FnMut(u64, &mut [u8]) -> Result<()> + 'a;

/// Where the bytes of a piece are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::image) enum Hold {
    /// Nowhere: zeros.
    Zero,
    /// In the file from this offset on.
    File(u64),
    /// At the same place of the parent's disk.
    Parent,
    /// Within a deflated run of the file.
    Packed {
        /// Where the run lies in the file.
        at: u64,
        /// Bytes of it.
        len: u32,
        /// Bytes that it inflates to, at most.
        whole: u32,
        /// Bytes of these before the piece.
        skip: u32,
    },
}

/// A part of a disk that is held in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::image) struct Piece {
    /// Bytes, at least one.
    pub(in crate::store::image) len: u64,
    /// Where.
    pub(in crate::store::image) hold: Hold,
}

/// The mapping of one file, checked.
pub(in crate::store::image) trait Layout: fmt::Debug + Send {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// The piece that begins at `from`, which lies on the disk; it may reach past the end of the disk.
    fn piece(&mut self, from: u64, read: &mut Read<'_>) -> Result<Piece>;
}

/// The parent that a differencing disk asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::image) struct ParentAsk {
    /// Its identity, as the format has it.
    pub(in crate::store::image) id: [u8; 16],
    /// Where it may be, best first: file names as the file has them.
    pub(in crate::store::image) names: Vec<String>,
    /// When it was last changed, in seconds since 1970, if that is known.
    pub(in crate::store::image) changed: Option<u64>,
}

/// Fields of a structure. One that the buffer lacks is zero.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let held = self.0.get(at..).and_then(<[u8]>::first_chunk);
        held.copied().unwrap_or([0; N])
    }

    pub(super) fn be16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(super) fn be32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(super) fn be64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    pub(super) fn le16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(super) fn le32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(super) fn le64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}

/// UTF-16 text up to its first zero.
pub(super) fn utf16(bytes: &[u8], big_endian: bool) -> String {
    let units = bytes.as_chunks::<2>().0.iter();
    let units = units.map(|raw| match big_endian {
        true => u16::from_be_bytes(*raw),
        false => u16::from_le_bytes(*raw),
    });
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

/// How wide the entries of a table are, and in which order their bytes stand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Width {
    /// 32 bits, big-endian.
    Be32,
    /// 32 bits, little-endian.
    Le32,
    /// 64 bits, little-endian.
    Le64,
}

impl Width {
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::Be32 | Self::Le32 => 4,
            Self::Le64 => 8,
        }
    }
}

/// A table in a file, of which one page is in memory.
pub(super) struct Table {
    at: u64,
    entries: u64,
    width: Width,
    page: Vec<u8>,
    page_number: Option<u64>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} entries at {})", self.entries, self.at)
    }
}

impl Table {
    /// A table that lies inside the file; the caller has looked.
    pub(super) fn new(at: u64, entries: u64, width: Width) -> Self {
        Self {
            at,
            entries,
            width,
            page: Vec::new(),
            page_number: None,
        }
    }

    pub(super) const fn entries(&self) -> u64 {
        self.entries
    }

    /// An entry; one outside the table is zero.
    pub(super) fn get(&mut self, index: u64, read: &mut Read<'_>) -> Result<u64> {
        if index >= self.entries {
            return Ok(0);
        }
        let place = index * self.width.bytes();
        let number = place / IMPORT_TABLE_PAGE;
        if self.page_number != Some(number) {
            let start = number * IMPORT_TABLE_PAGE;
            let whole = self.entries * self.width.bytes();
            let len = whole.saturating_sub(start).min(IMPORT_TABLE_PAGE);
            self.page_number = None;
            self.page.resize(usize::try_from(len).unwrap_or(0), 0);
            read(self.at + start, &mut self.page)?;
            self.page_number = Some(number);
        }
        let fields = Fields(&self.page);
        let at = usize::try_from(place % IMPORT_TABLE_PAGE).unwrap_or(0);
        Ok(match self.width {
            Width::Be32 => fields.be32(at).into(),
            Width::Le32 => fields.le32(at).into(),
            Width::Le64 => fields.le64(at),
        })
    }
}

/// Bits that say of each sector of a block whether it is held here, and how long what they say goes on.
pub(super) fn bit_run(from: u64, end: u64, bit: &dyn Fn(u64) -> bool) -> (bool, u64) {
    let first = bit(from);
    let mut at = from + 1;
    while at < end && bit(at) == first {
        at += 1;
    }
    (first, at - from)
}

/// A reader's errors, which all name the format and the next step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blame(pub(super) &'static str);

impl Blame {
    pub(super) fn bad(self, why: impl fmt::Display) -> Error {
        let name = self.0;
        let why =
            format!("damaged {name} file: {why}; copy it again, or mend it where it was made");
        Error::new(ErrorKind::InvalidFormat, why)
    }

    pub(super) fn cut(self, len: u64, at: u64, bytes: u64, what: impl fmt::Display) -> Error {
        let why = format!(
            "the {} file ends at offset {len}, but {what} lies at {at}+{bytes}: it is cut short; copy it again",
            self.0
        );
        Error::new(ErrorKind::InvalidFormat, why)
    }

    pub(super) fn unsupported(self, why: impl fmt::Display, way_out: &str) -> Error {
        let why = format!("the {} file {why}; {way_out}", self.0);
        Error::new(ErrorKind::Unsupported, why)
    }

    /// An error unless `bytes` from `at` lie in a file of `len` bytes.
    pub(super) fn inside(
        self,
        len: u64,
        at: u64,
        bytes: u64,
        what: impl fmt::Display,
    ) -> Result<()> {
        match at.checked_add(bytes) {
            Some(end) if end <= len => Ok(()),
            _ => Err(self.cut(len, at, bytes, what)),
        }
    }

    /// An error unless a disk may have this size.
    pub(super) fn size(self, size: u64) -> Result<()> {
        if size == 0 || !size.is_multiple_of(SECTOR_BYTES) {
            let why = format!(
                "its disk is said to have {size} bytes, which is no whole number of sectors"
            );
            return Err(self.bad(why));
        }
        if size > DISK_BYTES_MAX {
            let why = format!(
                "has a disk of {size} bytes, the largest supported one has {DISK_BYTES_MAX}"
            );
            return Err(self.unsupported(why, "import a smaller disk"));
        }
        Ok(())
    }
}

/// A name out of a file, for one line of a message.
pub(super) fn shown(name: &str) -> String {
    const CHARS_SHOWN: usize = 200;
    let mut text: String = name.chars().take(CHARS_SHOWN).collect();
    if text.len() < name.len() {
        text.push_str("...");
    }
    text.escape_debug().to_string()
}
