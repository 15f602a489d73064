//! Two trees of files side by side.

use std::collections::BTreeMap;

use super::content::{Both, Stream};
use super::window::{Changed, Window};
use super::{FileChange, FileDifference, PartDifference, Side, ext4, fat, ntfs, xfs};
use crate::limits;
use crate::store::error::{Error, ErrorKind, Result};
use crate::store::image::ingest::Watch;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Link,
    Other,
}

/// A name in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// Owner, mode, times: whatever the file system keeps beside the content.
    pub(super) attributes: [u64; 4],
    /// By what the file system finds it again; no difference by itself.
    pub(super) place: u64,
}

/// All names of a file system, by path in its own bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    by_path: BTreeMap<Vec<u8>, Item>,
    bytes: usize,
}

impl Names {
    /// Adds a name; refuses more than there may be.
    pub(super) fn add(&mut self, path: Vec<u8>, item: Item) -> Result<()> {
        if self.by_path.len() >= limits::DIFF_FILES_MAX {
            let most = limits::DIFF_FILES_MAX;
            let why = format!("there are more than {most} files");
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        self.count(path.len())?;
        self.by_path.insert(path, item);
        Ok(())
    }

    /// Counts bytes of names that are held: a few bytes of a directory can be part of very many paths.
    pub(super) fn count(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > limits::DIFF_PATH_BYTES_MAX {
            let most = limits::DIFF_PATH_BYTES_MAX >> 20;
            let why = format!("the paths of its files are longer than {most} MiB together");
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        Ok(())
    }
}

#[cfg(test)]
impl Names {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Item)> {
        self.by_path.iter()
    }
}

/// A file system that is open for reading. Content is told either by where it lies, or by its bytes.
pub(super) trait Tree {
    /// Every name below the root.
    fn names(&self) -> Result<Names>;

    /// Where the content of a file or link lies; `None` from a reader that only knows its bytes.
    fn streams(&self, item: &Item) -> Result<Option<Vec<Stream>>> {
        let _ = item;
        Ok(None)
    }

    /// Hands the content of a file or link to `each`, piece by piece; `false` from it ends the reading.
    fn content(&self, path: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
        let _ = (path, each);
        let why = "this reader knows where content lies, not its bytes";
        Err(Error::new(ErrorKind::Unsupported, why))
    }

    /// What it reads from.
    fn window(&self) -> &Window;

    /// What must be known of what it told.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

type Opened = Result<Box<dyn Tree>>;

/// The reader of a file system that [`probe`] names.
pub(super) fn reader(file_system: &str) -> Option<fn(Window) -> Opened> {
    match file_system {
        "ext4" => Some(ext4::open),
        "fat" => Some(fat::open),
        "ntfs" => Some(ntfs::open),
        "xfs" => Some(xfs::open),
        _ => None,
    }
}

/// The file system that begins at `start`, by its signature.
pub(super) fn probe(side: &Side, start: u64) -> Result<Option<&'static str>> {
    let mut head = [0; HEAD];
    if start.saturating_add(HEAD as u64) > side.size() {
        return Ok(None);
    }
    side.read(start, &mut head)?;
    Ok(known(&head))
}

/// Bytes of the start of a partition that tell its file system.
pub(super) const HEAD: usize = 2048;

/// The file system that begins like this.
pub(super) fn known(head: &[u8; HEAD]) -> Option<&'static str> {
    let is = |at: usize, bytes: &[u8]| head.get(at..at + bytes.len()) == Some(bytes);
    match () {
        () if is(1080, &[0x53, 0xef]) => Some("ext4"),
        () if is(0, b"XFSB") => Some("xfs"),
        () if is(3, b"NTFS    ") => Some("ntfs"),
        () if is(0, b"LUKS\xba\xbe") => Some("luks"),
        () if is(536, b"LVM2 001") || is(24, b"LVM2 001") => Some("lvm"),
        () if fat::looks_like(head) => Some("fat"),
        () => None,
    }
}

/// Fills in which files differ, or why that cannot be told.
pub(super) fn compare(
    before: &Side,
    after: &Side,
    part: &mut PartDifference,
    differing: &[u64],
    watch: Watch<'_>,
) -> Result<()> {
    let was = probe(before, part.start)?.unwrap_or("");
    if was != part.file_system {
        let name = |text: &str| {
            if text.is_empty() {
                "nothing known"
            } else {
                text
            }
            .to_owned()
        };
        let (was, is) = (name(was), name(&part.file_system));
        part.untold = Some(format!("the first disk has {was} there, the second {is}"));
        return Ok(());
    }
    let range = part.start..part.end;
    let (old, new) = (Window::new(before, &range), Window::new(after, &range));
    let changed = Changed {
        chunks: differing,
        start: part.start,
    };
    let told = match reader(&part.file_system) {
        Some(open) => open(old).and_then(|old| trees(&*old, &*open(new)?, changed, watch)),
        None => Err(Error::new(
            ErrorKind::Unsupported,
            no_reader(&part.file_system),
        )),
    };
    match told {
        Ok(files) => part.files = Some(files),
        Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
        // A damaged file system is a finding; its chunks are told all the same.
        Err(e) => part.untold = Some(e.to_string()),
    }
    Ok(())
}

fn no_reader(file_system: &str) -> String {
    match file_system {
        "" => "no file system is known there".to_owned(),
        "luks" => "it is encrypted".to_owned(),
        other => format!("files of {other} are not read here; compare chunks, or mount both"),
    }
}

/// The differences of two trees, whose window differs in `changed`.
pub(super) fn trees(
    old: &dyn Tree,
    new: &dyn Tree,
    changed: Changed<'_>,
    watch: Watch<'_>,
) -> Result<FileDifference> {
    let (was, is) = (old.names()?.by_path, new.names()?.by_path);
    let mut found = FileDifference {
        looked_at: (was.len() + is.len()) as u64,
        notes: notes(old, new),
        ..FileDifference::default()
    };
    for (path, item) in &was {
        if !is.contains_key(path) {
            add(&mut found.removed, &mut found.more, path, item, "");
        }
    }
    for (nth, (path, item)) in is.iter().enumerate() {
        if nth % 64 == 0 {
            watch.step(nth as u64, is.len() as u64, "the comparison")?;
        }
        let Some(other) = was.get(path) else {
            add(&mut found.added, &mut found.more, path, item, "");
            continue;
        };
        let what = if other.kind != item.kind {
            "kind"
        } else if has_other_content((old, new), changed, path, (other, item))? {
            "content"
        } else if other.attributes != item.attributes {
            "attributes"
        } else {
            continue;
        };
        add(&mut found.changed, &mut found.more, path, item, what);
    }
    Ok(found)
}

fn notes(old: &dyn Tree, new: &dyn Tree) -> Vec<String> {
    let of = |tree: &dyn Tree, which: &str| {
        let notes = tree.notes().into_iter();
        let told = notes.map(|note| format!("the {which} disk: {note}"));
        told.collect::<Vec<_>>()
    };
    [of(old, "first"), of(new, "second")].concat()
}

fn add(list: &mut Vec<FileChange>, more: &mut u64, path: &[u8], item: &Item, what: &str) {
    if list.len() >= limits::DIFF_LISTED_MAX {
        *more += 1;
        return;
    }
    list.push(FileChange {
        path: String::from_utf8_lossy(path).into_owned(),
        size: item.size,
        what: what.to_owned(),
    });
}

fn has_other_content(
    (old, new): (&dyn Tree, &dyn Tree),
    changed: Changed<'_>,
    path: &[u8],
    (was, is): (&Item, &Item),
) -> Result<bool> {
    if !matches!(is.kind, Kind::File | Kind::Link) {
        return Ok(is.kind != Kind::Directory && was.size != is.size);
    }
    if was.size != is.size {
        return Ok(true);
    }
    let named = |e: Error| {
        let path = String::from_utf8_lossy(path);
        e.within(path.escape_debug())
    };
    if let (Some(a), Some(b)) = (
        old.streams(was).map_err(named)?,
        new.streams(is).map_err(named)?,
    ) {
        let both = Both {
            old: old.window(),
            new: new.window(),
            changed,
        };
        return Ok(!both.same(&a, &b).map_err(named)?);
    }
    Ok(!same_bytes(old, new, path)?)
}

/// Whether a file of one size has one content: by its hash.
fn same_bytes(old: &dyn Tree, new: &dyn Tree, path: &[u8]) -> Result<bool> {
    let hash = |tree: &dyn Tree| {
        let mut hasher = blake3::Hasher::new();
        tree.content(path, &mut |bytes| {
            hasher.update(bytes);
            true
        })?;
        Ok::<_, Error>(hasher.finalize())
    };
    Ok(hash(old)? == hash(new)?)
}
