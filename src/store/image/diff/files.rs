//! Two trees of files side by side.

use std::collections::BTreeMap;

use super::{FileChange, FileDifference, PartDifference, Side, Window, ext4, fat};
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
}

/// All names of a file system, by path in its own bytes.
pub(super) type Names = BTreeMap<Vec<u8>, Item>;

/// A file system that is open for reading.
pub(super) trait Tree {
    /// Every name below the root.
    fn names(&self) -> Result<Names>;
    /// Hands the content of a file or link to `each`, piece by piece; `false` from it ends the reading.
    fn content(&self, path: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<()>;
}

/// Adds a name; refuses more than there may be.
pub(super) fn note(names: &mut Names, path: Vec<u8>, item: Item) -> Result<()> {
    if names.len() >= limits::DIFF_FILES_MAX {
        let most = limits::DIFF_FILES_MAX;
        let why = format!("there are more than {most} files");
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    names.insert(path, item);
    Ok(())
}

/// The file system that begins at `start`, by its signature.
pub(super) fn probe(side: &Side, start: u64) -> Result<Option<&'static str>> {
    let mut head = [0; 2048];
    if start.saturating_add(2048) > side.size() {
        return Ok(None);
    }
    side.read(start, &mut head)?;
    let is = |at: usize, bytes: &[u8]| head.get(at..at + bytes.len()) == Some(bytes);
    Ok(match () {
        () if is(1080, &[0x53, 0xef]) => Some("ext4"),
        () if is(0, b"XFSB") => Some("xfs"),
        () if is(3, b"NTFS    ") => Some("ntfs"),
        () if is(0, b"LUKS\xba\xbe") => Some("luks"),
        () if is(536, b"LVM2 001") || is(24, b"LVM2 001") => Some("lvm"),
        () if fat::looks_like(&head) => Some("fat"),
        () => None,
    })
}

/// Fills in which files differ, or why that cannot be told.
pub(super) fn compare(
    before: &Side,
    after: &Side,
    part: &mut PartDifference,
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
    let (old, new) = (Window::new(before, part), Window::new(after, part));
    let told = match part.file_system.as_str() {
        "ext4" => ext4::open(old).and_then(|old| trees(&*old, &*ext4::open(new)?, watch)),
        "fat" => fat::open(old).and_then(|old| trees(&*old, &*fat::open(new)?, watch)),
        other => Err(Error::new(ErrorKind::Unsupported, no_reader(other))),
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

fn trees(old: &dyn Tree, new: &dyn Tree, watch: Watch<'_>) -> Result<FileDifference> {
    let (was, is) = (old.names()?, new.names()?);
    let mut found = FileDifference {
        looked_at: (was.len() + is.len()) as u64,
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
        } else if has_other_content(old, new, path, other, item)? {
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
    old: &dyn Tree,
    new: &dyn Tree,
    path: &[u8],
    was: &Item,
    is: &Item,
) -> Result<bool> {
    if !matches!(is.kind, Kind::File | Kind::Link) {
        return Ok(is.kind != Kind::Directory && was.size != is.size);
    }
    Ok(was.size != is.size || !same(old, new, path)?)
}

/// Whether a file of one size has one content: by its hash.
fn same(old: &dyn Tree, new: &dyn Tree, path: &[u8]) -> Result<bool> {
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
