//! A disk whose bytes lie in other files' formats: one file, several beside each other (VMDK), or a child and
//! its parents (VHD, VHDX).
//!
//! A file names its parent or its extents itself, and the file may be hostile: it is followed only below one
//! directory, by a lookup that the kernel keeps from leaving it, and a parent must have the identity that
//! the child wrote down. Depth and number are bounded, and no file is its own ancestor.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use flate2::{Decompress, FlushDecompress, Status};

use super::layout::{Hold, Layout, ParentAsk, Piece, shown};
use super::vhd::Vhd;
use super::vhdx::Vhdx;
use super::vmdk::{self, SparseExtent};
use super::vmdk_text::{self, Kind, TextExtent};
use super::{Extent, ExtentKind, Input, Source};
use crate::limits::IMPORT_CHAIN_MAX;
use crate::limits::IMPORT_PIECES_MERGED;
use crate::limits::VMDK_TEXT_BYTES_MAX;
use crate::store::error::{Error, ErrorKind, Result};
use crate::store::image::manifest;
use crate::units::ByteRange;

/// Seconds by which the clock of a file system may round.
const CLOCK_SLACK: u64 = 2;

/// A run of the disk in one file.
#[derive(Debug)]
struct Part {
    start: u64,
    len: u64,
    layout: Box<dyn Layout>,
    input: Option<Input>,
}

/// A disk over its parent.
#[derive(Debug)]
struct Level {
    parts: Vec<Part>,
    size: u64,
}

/// A disk of one or many files.
pub(super) struct Chain {
    /// The child first.
    levels: Vec<Level>,
    name: String,
    packed: Vec<u8>,
    inflated: Inflated,
}

/// The grain that was inflated last.
#[derive(Default)]
struct Inflated {
    bytes: Vec<u8>,
    from: Option<(usize, u64)>,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("name", &self.name)
            .field("levels", &self.levels)
            .finish_non_exhaustive()
    }
}

/// Where the bytes of a piece are, in all the chain.
enum Found {
    Zero,
    File(usize, usize, u64),
    Packed(usize, Run),
}

#[derive(Clone, Copy)]
struct Run {
    at: u64,
    len: u32,
    whole: u32,
    skip: u32,
}

/// A mapping that has an identity and may ask for a parent.
trait Linked: Layout + Sized + 'static {
    const NAME: &'static str;
    fn open(input: &Input) -> Result<Self>;
    fn id(&self) -> [u8; 16];
    fn parent(&self) -> Option<&ParentAsk>;
}

impl Linked for Vhd {
    const NAME: &'static str = "VHD";
    fn open(input: &Input) -> Result<Self> {
        Self::open(input.len, &mut |offset, out| input.read_at(offset, out))
    }
    fn id(&self) -> [u8; 16] {
        self.id()
    }
    fn parent(&self) -> Option<&ParentAsk> {
        self.parent()
    }
}

impl Linked for Vhdx {
    const NAME: &'static str = "VHDX";
    fn open(input: &Input) -> Result<Self> {
        Self::open(input.len, &mut |offset, out| input.read_at(offset, out))
    }
    fn id(&self) -> [u8; 16] {
        self.id()
    }
    fn parent(&self) -> Option<&ParentAsk> {
        self.parent()
    }
}

impl Chain {
    /// A VHD with its parents, which are looked for below `parents`, or else below the file's directory.
    pub(super) fn vhd(input: Input, parents: Option<&Path>) -> Result<Self> {
        Self::linked::<Vhd>(input, parents)
    }

    /// A VHDX with its parents, looked for like those of a VHD.
    pub(super) fn vhdx(input: Input, parents: Option<&Path>) -> Result<Self> {
        Self::linked::<Vhdx>(input, parents)
    }

    fn linked<T: Linked>(input: Input, parents: Option<&Path>) -> Result<Self> {
        let name = input.path.display().to_string();
        let place = Place::new(&input, parents);
        let mut levels = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let shown = input.path.display().to_string();
            if !seen.insert(input.identity()) {
                return Err(input.refuse(&format!("is its own ancestor in the chain of {name}")));
            }
            if levels.len() >= IMPORT_CHAIN_MAX {
                let why = format!(
                    "{name} has more than {IMPORT_CHAIN_MAX} ancestors; merge the chain where it was made"
                );
                return Err(Error::new(ErrorKind::Unsupported, why));
            }
            let layout = T::open(&input).map_err(|e| e.within(&shown))?;
            if let Some(ask) = layout.parent() {
                let parent = place.find(&ask.names).map_err(|e| {
                    e.within(format!("{shown} is only the difference to its parent"))
                })?;
                check_parent::<T>(&shown, ask, &parent)?;
                next = Some(parent);
            }
            levels.push(Level::single(Box::new(layout), input));
        }
        Self::new(name, levels)
    }

    /// A VMDK file: a sparse extent, or a text that names extents.
    pub(super) fn vmdk(input: Input, parents: Option<&Path>) -> Result<Self> {
        let name = input.path.display().to_string();
        let within = |e: Error| e.within(&name);
        let mut start = [0; 4];
        if input.len >= 4 {
            input.read_at(0, &mut start)?;
        }
        let level = if start == vmdk::MAGIC {
            let mut read = |offset, out: &mut [u8]| input.read_at(offset, out);
            let text = vmdk::text(input.len, &mut read).map_err(within)?;
            // Extents of split disks may have room for a descriptor, and none in it.
            let Some(text) = text.filter(|text| text.starts_with(vmdk_text::MAGIC)) else {
                let why = "is one extent of a disk; import the text file that describes the disk";
                return Err(input.refuse(why));
            };
            let extents = vmdk_text::parse(&text).map_err(within)?;
            let layout = SparseExtent::open(input.len, &mut read).map_err(within)?;
            let one = matches!(extents.as_slice(), [one] if one.bytes == layout.size()
                && matches!(one.kind, Kind::Sparse(_)));
            if !one {
                return Err(
                    input.refuse("describes other extents than the one it is; copy it again")
                );
            }
            Level::single(Box::new(layout), input)
        } else {
            let bytes = input.len.min(VMDK_TEXT_BYTES_MAX);
            let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
            input.read_at(0, &mut text)?;
            if input.len > bytes || !text.starts_with(vmdk_text::MAGIC) {
                return Err(
                    input.refuse("is no VMDK file: it is neither an extent nor a descriptor")
                );
            }
            let extents = vmdk_text::parse(&text).map_err(within)?;
            Level::described(&Place::new(&input, parents), extents).map_err(within)?
        };
        Self::new(name, vec![level])
    }

    fn new(name: String, levels: Vec<Level>) -> Result<Self> {
        let chain = Self {
            levels,
            name,
            packed: Vec::new(),
            inflated: Inflated::default(),
        };
        manifest::check_size(chain.size()).map_err(|e| e.within(&chain.name))?;
        Ok(chain)
    }

    /// Where byte `from` is, and for how many bytes that holds.
    fn find(&mut self, from: u64) -> Result<(u64, Found)> {
        let mut most = self.size().saturating_sub(from);
        for (depth, level) in self.levels.iter_mut().enumerate() {
            if from >= level.size {
                // The child is larger than its parent.
                return Ok((most, Found::Zero));
            }
            most = most.min(level.size - from);
            let (number, piece) = level.piece(from).map_err(|e| e.within(&self.name))?;
            most = most.min(piece.len);
            let found = match piece.hold {
                Hold::Zero => Found::Zero,
                Hold::File(at) => Found::File(depth, number, at),
                Hold::Parent => continue,
                Hold::Packed {
                    at,
                    len,
                    whole,
                    skip,
                } => {
                    let run = Run {
                        at,
                        len,
                        whole,
                        skip,
                    };
                    Found::Packed(number, run)
                }
            };
            return Ok((most, found));
        }
        let why = format!(
            "{}: disk offset {from} is in a parent that is not there",
            self.name
        );
        Err(Error::new(ErrorKind::InvalidFormat, why))
    }

    fn input(&self, depth: usize, number: usize) -> Result<&Input> {
        let part = self
            .levels
            .get(depth)
            .and_then(|level| level.parts.get(number));
        let gone = || {
            Error::new(
                ErrorKind::InvalidFormat,
                format!("{}: no such extent", self.name),
            )
        };
        part.and_then(|part| part.input.as_ref()).ok_or_else(gone)
    }

    fn inflate(&mut self, part: usize, run: Run, out: &mut [u8]) -> Result<()> {
        if self.inflated.from != Some((part, run.at)) {
            self.inflated.from = None;
            let mut packed = std::mem::take(&mut self.packed);
            packed.resize(usize::try_from(run.len).unwrap_or(0), 0);
            self.input(0, part)?.read_at(run.at, &mut packed)?;
            let whole = usize::try_from(run.whole).unwrap_or(0);
            let done = inflate(&packed, whole, &mut self.inflated.bytes);
            self.packed = packed;
            let why = |what: &str| {
                let why = format!(
                    "{}: the grain at file offset {} {what}; copy the file again",
                    self.name, run.at
                );
                Error::new(ErrorKind::InvalidFormat, why)
            };
            done.map_err(why)?;
            self.inflated.from = Some((part, run.at));
        }
        let from = usize::try_from(run.skip).unwrap_or(usize::MAX);
        let held = self.inflated.bytes.get(from..).unwrap_or_default();
        let Some(held) = held.get(..out.len()) else {
            let why = format!(
                "{}: the grain at file offset {} inflates to {} bytes only; copy the file again",
                self.name,
                run.at,
                self.inflated.bytes.len()
            );
            return Err(Error::new(ErrorKind::InvalidFormat, why));
        };
        out.copy_from_slice(held);
        Ok(())
    }
}

/// Inflates a zlib run of at most `whole` bytes.
fn inflate(
    packed: &[u8],
    whole: usize,
    out: &mut Vec<u8>,
) -> std::result::Result<(), &'static str> {
    // One byte more shows that there is more.
    out.clear();
    out.reserve_exact(whole + 1);
    let mut state = Decompress::new(true);
    let status = state.decompress_vec(packed, out, FlushDecompress::Finish);
    match status {
        _ if out.len() > whole => Err("inflates to more than a grain"),
        Ok(Status::StreamEnd) => Ok(()),
        _ => Err("does not inflate"),
    }
}

impl Source for Chain {
    fn size(&self) -> u64 {
        self.levels.first().map_or(0, |level| level.size)
    }

    fn next_extent(&mut self, from: u64) -> Result<Extent> {
        let size = self.size();
        let (mut end, mut kind) = (from, None);
        for _ in 0..IMPORT_PIECES_MERGED {
            if end >= size {
                break;
            }
            let (len, found) = self.find(end)?;
            let this = match found {
                Found::Zero => ExtentKind::Zero,
                _ => ExtentKind::Data,
            };
            if *kind.get_or_insert(this) != this {
                break;
            }
            end += len;
        }
        let range = ByteRange::new(from, end - from).filter(|range| !range.is_empty());
        match (range, kind) {
            (Some(range), Some(kind)) => Ok(Extent { range, kind }),
            _ => {
                let why = format!("{}: nothing is at disk offset {from}", self.name);
                Err(Error::new(ErrorKind::OutOfBounds, why))
            }
        }
    }

    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            let (len, found) = self.find(at)?;
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            if len == 0 {
                let why = format!("{}: nothing is at disk offset {at}", self.name);
                return Err(Error::new(ErrorKind::OutOfBounds, why));
            }
            let (now, later) = rest.split_at_mut(len);
            match found {
                Found::Zero => now.fill(0),
                Found::File(depth, part, place) => self.input(depth, part)?.read_at(place, now)?,
                Found::Packed(part, run) => self.inflate(part, run, now)?,
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let parts = self.levels.iter().flat_map(|level| &level.parts);
        parts
            .filter_map(|part| part.input.as_ref())
            .try_for_each(Input::check_unchanged)
    }
}

impl Level {
    fn single(layout: Box<dyn Layout>, input: Input) -> Self {
        let size = layout.size();
        let part = Part {
            start: 0,
            len: size,
            layout,
            input: Some(input),
        };
        Self {
            parts: vec![part],
            size,
        }
    }

    /// The extents that a text names, each in its file.
    fn described(place: &Place, extents: Vec<TextExtent>) -> Result<Self> {
        let (mut parts, mut size) = (Vec::new(), 0);
        for extent in extents {
            let (layout, input): (Box<dyn Layout>, _) = match extent.kind {
                Kind::Zero => (
                    Box::new(Plain {
                        size: extent.bytes,
                        at: None,
                    }),
                    None,
                ),
                Kind::Flat(name, at) => {
                    let input = place.find(&[name])?;
                    if at
                        .checked_add(extent.bytes)
                        .is_none_or(|end| end > input.len)
                    {
                        let why = format!(
                            "ends at offset {}, bytes {at}+{} are needed: it was cut short",
                            input.len, extent.bytes
                        );
                        return Err(input.refuse(&why));
                    }
                    let plain = Plain {
                        size: extent.bytes,
                        at: Some(at),
                    };
                    (Box::new(plain), Some(input))
                }
                Kind::Sparse(name) => {
                    let input = place.find(&[name])?;
                    let shown = input.path.display().to_string();
                    let read = &mut |offset, out: &mut [u8]| input.read_at(offset, out);
                    let layout =
                        SparseExtent::open(input.len, read).map_err(|e| e.within(shown))?;
                    if layout.size() != extent.bytes {
                        let (is, said) = (layout.size(), extent.bytes);
                        return Err(input.refuse(&format!(
                            "holds {is} bytes of a disk, the descriptor says {said}; copy both again"
                        )));
                    }
                    (Box::new(layout), Some(input))
                }
            };
            parts.push(Part {
                start: size,
                len: extent.bytes,
                layout,
                input,
            });
            size += extent.bytes;
        }
        Ok(Self { parts, size })
    }

    /// The piece at `from`, which lies on the disk, and the number of its part.
    fn piece(&mut self, from: u64) -> Result<(usize, Piece)> {
        let number = self
            .parts
            .partition_point(|part| part.start <= from)
            .saturating_sub(1);
        let gone = || Error::new(ErrorKind::InvalidFormat, "a disk without extents");
        let part = self.parts.get_mut(number).ok_or_else(gone)?;
        let input = part.input.as_ref();
        let mut read = |offset, out: &mut [u8]| match input {
            Some(input) => input.read_at(offset, out),
            None => Err(gone()),
        };
        let within = from - part.start;
        let mut piece = part.layout.piece(within, &mut read)?;
        piece.len = piece.len.min(part.len.saturating_sub(within));
        Ok((number, piece))
    }
}

/// A run of zeros, or of a file's bytes as they are.
#[derive(Debug)]
struct Plain {
    size: u64,
    at: Option<u64>,
}

impl Layout for Plain {
    fn size(&self) -> u64 {
        self.size
    }

    fn piece(&mut self, from: u64, _: &mut super::layout::Read<'_>) -> Result<Piece> {
        let len = self.size.saturating_sub(from);
        let hold = self.at.map_or(Hold::Zero, |at| Hold::File(at + from));
        Ok(Piece { len, hold })
    }
}

/// Refuses a parent that is another disk than the child was made from, or was written to since.
fn check_parent<T: Linked>(child: &str, ask: &ParentAsk, parent: &Input) -> Result<()> {
    let shown = parent.path.display();
    let other = |why: String| Error::new(ErrorKind::InvalidFormat, why);
    let layout = T::open(parent).map_err(|e| e.within(&shown))?;
    if layout.id() != ask.id {
        let name = T::NAME;
        return Err(other(format!(
            "{shown} is not the {name} disk that {child} was made from, or was written to since (its \
             identity differs); bring the right parent"
        )));
    }
    let changed = parent.changed_s();
    if let Some(then) = ask
        .changed
        .filter(|then| changed > then.saturating_add(CLOCK_SLACK))
    {
        return Err(other(format!(
            "{shown} was changed after {child} was made from it; bring the parent as it was, or, if it was \
             only copied, set its time back: touch -d @{then} {shown}"
        )));
    }
    Ok(())
}

/// Where files that a file names are looked for.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn new(input: &Input, parents: Option<&Path>) -> Self {
        let beside = || input.path.parent().map(Path::to_owned);
        let dir = parents.map(Path::to_owned).or_else(beside);
        let dir = dir.filter(|dir| !dir.as_os_str().is_empty());
        Self {
            dir: dir.unwrap_or_else(|| PathBuf::from(".")),
        }
    }

    /// Opens the first of these names that is a file below the directory. A relative path is followed as it
    /// is; of an absolute one only the last part counts.
    fn find(&self, names: &[String]) -> Result<Input> {
        let mut refused = None;
        for name in names {
            for relative in candidates(name) {
                match Input::open_below(&self.dir, &relative) {
                    Ok(input) => return Ok(input),
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => refused = refused.or(Some(e)),
                }
            }
        }
        Err(refused.unwrap_or_else(|| {
            let dir = self.dir.display();
            let names: Vec<String> = names.iter().take(4).map(|n| format!("`{}`", shown(n))).collect();
            let why = format!(
                "{} is not below {dir}; bring it there, or say where it is with --parents DIRECTORY",
                names.join(" or ")
            );
            Error::new(ErrorKind::NotFound, why)
        }))
    }
}

/// Paths below the directory that a name may mean, best first.
fn candidates(name: &str) -> Vec<PathBuf> {
    let name = name
        .strip_prefix("file://")
        .unwrap_or(name)
        .replace('\\', "/");
    let parts: Vec<&str> = name
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    let Some(last) = parts.last().filter(|last| **last != "..") else {
        return Vec::new();
    };
    let absolute = name.starts_with('/') || parts.first().is_some_and(|p| p.ends_with(':'));
    let last = last.rsplit(':').next().unwrap_or(last);
    let mut found = Vec::new();
    if !absolute && !parts.contains(&"..") {
        found.push(parts.iter().collect());
    }
    found.push(PathBuf::from(last));
    found.dedup();
    found.retain(|path| !path.as_os_str().is_empty());
    found
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_are_followed_only_downwards() {
        for (name, paths) in [
            (".\\parent.vhd", &["parent.vhd"][..]),
            ("sub/parent.vhd", &["sub/parent.vhd", "parent.vhd"]),
            ("C:\\VMs\\parent.vhd", &["parent.vhd"]),
            ("/etc/shadow", &["shadow"]),
            ("..\\..\\etc\\shadow", &["shadow"]),
            ("a/../../b", &["b"]),
            ("file:///Users/x/p.vhd", &["p.vhd"]),
            ("..", &[]),
            ("", &[]),
            ("C:", &[]),
        ] {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            assert_eq!(candidates(name), paths, "{name}");
        }
    }
}
