//! qcow2 through the imago library. `qcow2_check` has looked at the whole mapping before, so that a file that
//! is cut short or asks for what we do not support is refused in words before the first byte is read.

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2 as ImagoQcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, StorageOpenOptions};

use super::qcow2_check;
use super::{Extent, ExtentKind, Input, Source};
use crate::store::error::{Error, ErrorKind, Result};
use crate::store::image::manifest;
use crate::units::ByteRange;

/// A qcow2 file without backing file.
#[derive(Debug)]
pub struct Qcow2 {
    input: Input,
    access: FormatAccess<ImagoFile>,
    size: u64,
}

impl Qcow2 {
    pub(super) fn new(input: Input) -> Result<Self> {
        let name = input.path.display().to_string();
        let size = qcow2_check::check(input.len, &mut |offset, out| input.read_at(offset, out))
            .and_then(|size| manifest::check_size(size).map(|()| size))
            .map_err(|e| e.within(&name))?;
        let fail = |e: std::io::Error| unreadable(&name, &e);
        let file = input.file.try_clone().map_err(fail)?;
        let file = ImagoFile::from_open_file(file, StorageOpenOptions::new()).map_err(fail)?;
        let gate = DenyImplicitOpenGate::default();
        let qcow2 = ImagoQcow2::<ImagoFile>::builder(file)
            .open(gate)
            .map_err(fail)?;
        let access = FormatAccess::new(qcow2);
        if access.size() != size {
            return Err(input.refuse("has a size that two readers disagree about"));
        }
        Ok(Self {
            input,
            access,
            size,
        })
    }
}

impl Source for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        let fail = |e: std::io::Error| unreadable(&self.input.path.display().to_string(), &e);
        let mapped = self
            .access
            .get_mapping(from, self.size.saturating_sub(from));
        let (mapping, len) = mapped.map_err(fail)?;
        let kind = match mapping {
            Mapping::Zero { .. } => ExtentKind::Zero,
            _ => ExtentKind::Data,
        };
        let range = ByteRange::new(from, len).filter(|range| !range.is_empty());
        range.map(|range| Extent { range, kind }).ok_or_else(|| {
            self.input
                .refuse(&format!("has no mapping for disk offset {from}"))
        })
    }

    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        let done = self.access.read(out, offset);
        done.map_err(|e| {
            unreadable(
                &format!("{} (disk offset {offset})", self.input.path.display()),
                &e,
            )
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.input.check_unchanged()
    }
}

fn unreadable(what: &str, e: &std::io::Error) -> Error {
    Error::new(
        ErrorKind::InvalidFormat,
        format!("cannot read {what} as qcow2: {e}"),
    )
}
