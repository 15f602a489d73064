//! What the records of the master file table add up to: files by number, and their paths.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::super::bytes::{le32, le64};
use super::super::files::{Item, Kind, Names};
use super::record::{Attribute, Body, Record, Reference};
use super::{DATA, REPARSE_POINT, reparse_tag, wrong};
use crate::limits;
use crate::store::error::Result;

const STANDARD_INFORMATION: u32 = 0x10;
const FILE_NAME: u32 = 0x30;
const ROOT: u64 = 5;
/// Records below are the file system's own.
const FIRST_FILE: u64 = 16;
const NAME_FOR_DOS: u8 = 2;
/// Tags of symbolic links and of junctions.
const LINKS: [u32; 2] = [0xa000_000c, 0xa000_0003];

/// What is known of the file of one record and of those that add to it.
#[derive(Debug, Default)]
struct File {
    sequence: u16,
    /// Its own record was seen, not only one that adds to it.
    seen: bool,
    directory: bool,
    link: bool,
    size: u64,
    attributes: [u64; 4],
    names: Vec<(Reference, Box<[u8]>)>,
    extensions: Vec<(u64, u16)>,
}

/// All files.
#[derive(Debug, Default)]
pub(super) struct Table {
    files: BTreeMap<u64, File>,
    names: usize,
    bytes: usize,
    lost: std::cell::Cell<u64>,
}

impl Table {
    /// Takes a record in; `false` when it makes no sense.
    pub(super) fn take(&mut self, number: u64, record: &Record) -> Result<bool> {
        let Some(attributes) = record.attributes() else {
            return Ok(false);
        };
        if number < FIRST_FILE && number != ROOT {
            return Ok(true);
        }
        let full =
            self.files.len() >= limits::DIFF_FILES_MAX || self.names >= limits::DIFF_FILES_MAX;
        if full || self.bytes > limits::DIFF_PATH_BYTES_MAX {
            return Err(wrong("there are more files than are compared here"));
        }
        let file = match record.base {
            None => {
                let file = self.files.entry(number).or_default();
                file.seen = true;
                file.sequence = record.sequence;
                file.directory = record.directory;
                file
            }
            Some(base) => {
                let file = self.files.entry(base.number).or_default();
                file.extensions.push((number, base.sequence));
                file
            }
        };
        for one in &attributes {
            let before = file.names.len();
            file.take(one, record.base);
            if let Some((_, name)) = file.names.get(before) {
                self.names += 1;
                self.bytes += name.len();
            }
        }
        Ok(true)
    }

    /// Records that add to a file.
    pub(super) fn extensions(&self, number: u64) -> impl Iterator<Item = &u64> {
        let file = self.files.get(&number);
        let own = file.into_iter().flat_map(|file| {
            let own = file.sequence;
            file.extensions.iter().filter(move |(_, of)| *of == own)
        });
        own.map(|(number, _)| number)
    }

    /// What must be known of the names.
    pub(super) fn note(&self) -> Option<String> {
        let lost = self.lost.get();
        (lost > 0).then(|| format!("{lost} files have no directory and are left out; run chkdsk"))
    }

    pub(super) fn names(&self) -> Result<Names> {
        let mut names = Names::default();
        let mut paths = Paths {
            files: &self.files,
            known: HashMap::from([(ROOT, Whole::Path(Rc::from(&b""[..])))]),
        };
        let mut lost = 0;
        for (number, file) in &self.files {
            if *number == ROOT || !file.seen {
                continue;
            }
            for (parent, name) in &file.names {
                match paths.of(*parent, &mut names)? {
                    Whole::Path(directory) => {
                        let path = [&directory[..], b"/", name].concat();
                        names.add(path, file.item(*number))?;
                    }
                    Whole::Hidden => {}
                    Whole::Lost => lost += 1,
                }
            }
        }
        self.lost.set(lost);
        Ok(names)
    }
}

impl File {
    /// Takes an attribute of its own record, or of one that adds to it.
    fn take(&mut self, one: &Attribute<'_>, base: Option<Reference>) {
        match (one.kind, &one.body) {
            (STANDARD_INFORMATION, Body::Here(bytes)) if base.is_none() => {
                let changed = le64(bytes, 8).filter(|_| !self.directory);
                let flags = le32(bytes, 32).map(u64::from);
                let security = le32(bytes, 52).map(u64::from);
                self.attributes = [flags, changed, security, None].map(Option::unwrap_or_default);
            }
            (FILE_NAME, Body::Here(bytes)) => {
                if let Some(name) = file_name(bytes) {
                    self.names.push(name);
                }
            }
            (DATA, body) if one.name.is_empty() && one.first_cluster() == 0 => {
                self.size = match body {
                    Body::Here(bytes) => bytes.len() as u64,
                    Body::There { size, .. } => *size,
                };
            }
            (REPARSE_POINT, body) => {
                self.link = reparse_tag(body).is_some_and(|tag| LINKS.contains(&tag));
            }
            _ => {}
        }
    }

    fn item(&self, number: u64) -> Item {
        let kind = match (self.link, self.directory) {
            (true, _) => Kind::Link,
            (_, true) => Kind::Directory,
            _ => Kind::File,
        };
        Item {
            kind,
            size: self.size,
            attributes: self.attributes,
            place: number,
        }
    }
}

/// The directory and the name; `None` for a second, short name of the same entry.
fn file_name(bytes: &[u8]) -> Option<(Reference, Box<[u8]>)> {
    let parent = Reference::of(le64(bytes, 0)?);
    let chars = usize::from(*bytes.get(64)?);
    if *bytes.get(65)? == NAME_FOR_DOS {
        return None;
    }
    let units = bytes.get(66..)?.get(..chars * 2)?;
    Some((parent, text(units).into()))
}

/// UTF-16 as UTF-8; halves of pairs as if they were characters, so that no two names become one.
fn text(units: &[u8]) -> Vec<u8> {
    let (units, _) = units.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    let mut out = Vec::new();
    for one in char::decode_utf16(units) {
        match one {
            Ok(one) => out.extend_from_slice(one.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let [high, low] = half.unpaired_surrogate().to_be_bytes();
                let first = 0xe0 | high >> 4;
                let second = 0x80 | (high & 0x0f) << 2 | low >> 6;
                out.extend_from_slice(&[first, second, 0x80 | low & 0x3f]);
            }
        }
    }
    out
}

/// What the way up from a directory leads to.
#[derive(Clone, Debug)]
enum Whole {
    Path(Rc<[u8]>),
    /// Among the file system's own files.
    Hidden,
    /// Nowhere: in circles, too deep, or to a record that is none.
    Lost,
}

struct Paths<'a> {
    files: &'a BTreeMap<u64, File>,
    known: HashMap<u64, Whole>,
}

impl Paths<'_> {
    /// The path of a directory. Each is made once, from the one above it.
    fn of(&mut self, directory: Reference, names: &mut Names) -> Result<Whole> {
        let mut way = Vec::new();
        let mut at = directory;
        let mut path = loop {
            if at.number < FIRST_FILE && at.number != ROOT {
                break Whole::Hidden;
            }
            let file = self.files.get(&at.number).filter(|file| file.seen);
            let fits = |file: &&File| file.directory && file.sequence == at.sequence;
            let Some(file) = file.filter(fits) else {
                break Whole::Lost;
            };
            if let Some(known) = self.known.get(&at.number) {
                break known.clone();
            }
            let Some((parent, name)) = file.names.first() else {
                break Whole::Lost;
            };
            if way.len() >= limits::DIFF_DEPTH_MAX {
                break Whole::Lost;
            }
            way.push((at.number, name));
            at = *parent;
        };
        for (number, name) in way.into_iter().rev() {
            if let Whole::Path(above) = &path {
                let whole = [&above[..], b"/", name].concat();
                names.count(whole.len())?;
                path = Whole::Path(Rc::from(whole));
            }
            self.known.insert(number, path.clone());
        }
        Ok(path)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_become_utf_8_and_no_two_become_one() {
        let utf16 = |units: &[u16]| {
            let bytes: Vec<u8> = units.iter().flat_map(|u| u.to_le_bytes()).collect();
            text(&bytes)
        };
        let plain: Vec<u16> = "a\u{e4}\u{20ac}\u{1f600}".encode_utf16().collect();
        assert_eq!(utf16(&plain), "a\u{e4}\u{20ac}\u{1f600}".as_bytes());
        assert_eq!(utf16(&[0xd800]), [0xed, 0xa0, 0x80]);
        assert_eq!(utf16(&[0xdfff, 0x61]), [0xed, 0xbf, 0xbf, 0x61]);
        assert_ne!(utf16(&[0xd800]), utf16(&[0xd801]));
    }

    fn directory(parent: u64, name: &str) -> File {
        let parent = Reference {
            number: parent,
            sequence: 1,
        };
        File {
            sequence: 1,
            seen: true,
            directory: true,
            names: vec![(parent, name.as_bytes().into())],
            ..File::default()
        }
    }

    #[test]
    fn directories_in_circles_hidden_or_without_a_parent_have_no_path() {
        let table = Table {
            files: BTreeMap::from([
                (ROOT, directory(ROOT, ".")),
                (20, directory(ROOT, "a")),
                (21, directory(20, "b")),
                (22, directory(23, "c")),
                (23, directory(22, "d")),
                (24, directory(11, "hidden")),
                (25, directory(99, "lost")),
            ]),
            ..Table::default()
        };
        let names = table.names().unwrap();
        let paths: Vec<_> = names.iter().map(|(path, _)| path.as_slice()).collect();
        assert_eq!(paths, [&b"/a"[..], b"/a/b"]);
        assert!(
            table.note().unwrap().starts_with("3 files"),
            "{:?}",
            table.note()
        );
    }

    #[test]
    fn a_chain_of_directories_too_deep_is_lost_not_followed() {
        let most = limits::DIFF_DEPTH_MAX as u64;
        let last = 20 + 3 * most - 1;
        let above = |n: u64| if n == last { ROOT } else { n + 1 };
        let deep = (20..=last).map(|n| (n, directory(above(n), "x")));
        let mut files: BTreeMap<u64, File> = deep.collect();
        files.insert(ROOT, directory(ROOT, "."));
        let table = Table {
            files,
            ..Table::default()
        };
        let names = table.names().unwrap();
        assert_eq!(names.iter().count() as u64, most);
        let note = table.note().unwrap();
        assert!(note.starts_with(&format!("{} files", 2 * most)), "{note}");
    }
}
