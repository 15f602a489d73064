//! Raw files and block devices, holes left out.

use std::io;
use std::path::Path;

use rustix::fs::SeekFrom;

use super::{Extent, ExtentKind, Input, Source};
use crate::store::error::{Error, ErrorKind, Result};
use crate::store::image::inspect;
use crate::store::image::manifest;
use crate::units::ByteRange;

/// A file whose bytes are the disk's.
#[derive(Debug)]
pub struct Raw {
    input: Input,
}

impl Raw {
    pub(super) fn new(input: Input) -> Result<Self> {
        manifest::check_size(input.len).map_err(|e| e.within(input.path.display()))?;
        Ok(Self { input })
    }

    /// Where data begins at or after `from`; the end when there is none. A file that does not know its
    /// holes is all data.
    fn seek(&self, to: SeekFrom, none: u64) -> Result<u64> {
        match rustix::fs::seek(&self.input.file, to) {
            Ok(at) => Ok(at.min(self.input.len)),
            Err(rustix::io::Errno::NXIO) => Ok(self.input.len),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(none),
            Err(e) => {
                let why = format!(
                    "cannot look for holes in {}: {e}",
                    self.input.path.display()
                );
                Err(Error::io(io::Error::from(e), why))
            }
        }
    }
}

impl Source for Raw {
    fn size(&self) -> u64 {
        self.input.len
    }

    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        let data = self.seek(SeekFrom::Data(from), from)?.max(from);
        let (kind, end) = if data > from {
            (ExtentKind::Zero, data)
        } else {
            (
                ExtentKind::Data,
                self.seek(SeekFrom::Hole(from), self.input.len)?,
            )
        };
        let range = ByteRange::new(from, end.saturating_sub(from));
        let range = range.filter(|range| !range.is_empty());
        range.map(|range| Extent { range, kind }).ok_or_else(|| {
            self.input
                .refuse(&format!("ended before offset {from} while it was read"))
        })
    }

    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.input.read_at(offset, out)
    }

    fn finish(&mut self) -> Result<()> {
        self.input.check_unchanged()
    }
}

/// Refuses a disk whose partition table says that it is larger: it was cut short in copying.
pub(super) fn check_whole(path: &Path, len: u64, read: &mut inspect::Read<'_>) -> Result<()> {
    let found = inspect::inspect(len, read)?;
    if found.claimed_bytes <= len {
        return Ok(());
    }
    let why = format!(
        "{} ends at offset {len}, but its partition table needs {} bytes: it is cut short; copy it again \
         (or import it as it is with --format raw)",
        path.display(),
        found.claimed_bytes
    );
    Err(Error::new(ErrorKind::InvalidFormat, why))
}
