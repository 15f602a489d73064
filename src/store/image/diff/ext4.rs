//! ext2, ext3 and ext4 through the crate `ext4-view`, which reads only, plays the journal back in memory, and
//! checks what it reads.

use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType, Metadata, PathBuf};

use super::files::{Item, Kind, Names, Tree};
use super::window::Window;
use crate::limits;
use crate::store::error::{Error, ErrorKind, Result};

struct Reader(Window);

impl Ext4Read for Reader {
    fn read(
        &mut self,
        start: u64,
        out: &mut [u8],
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.read(start, out)?)
    }
}

struct Open {
    fs: Ext4,
    window: Window,
}

pub(super) fn open(window: Window) -> Result<Box<dyn Tree>> {
    let reader = Box::new(Reader(window.clone()));
    let fs = Ext4::load(reader).map_err(|e| failed("the file system", &e))?;
    Ok(Box::new(Open { fs, window }))
}

fn failed(what: &str, e: &Ext4Error) -> Error {
    Error::new(ErrorKind::InvalidFormat, format!("ext4, {what}: {e}"))
}

fn path_of(bytes: &[u8]) -> Result<PathBuf> {
    PathBuf::try_from(bytes).map_err(|_| {
        let name = String::from_utf8_lossy(bytes);
        Error::new(ErrorKind::InvalidFormat, format!("ext4: {name} is no path"))
    })
}

fn item(metadata: &Metadata) -> Item {
    let kind = match metadata.file_type() {
        FileType::Directory => Kind::Directory,
        FileType::Regular => Kind::File,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    let modified = metadata.modified();
    // The time of a directory says only that a name in it changed, which is told by the name.
    let (seconds, nanos) = match kind {
        Kind::Directory => (0, 0),
        _ => (modified.seconds().cast_unsigned(), modified.nanoseconds()),
    };
    let owner = u64::from(metadata.uid()) << 32 | u64::from(metadata.gid());
    Item {
        kind,
        size: metadata.len(),
        attributes: [u64::from(metadata.mode()), owner, seconds, u64::from(nanos)],
        place: 0,
    }
}

impl Tree for Open {
    fn names(&self) -> Result<Names> {
        let mut names = Names::default();
        let mut todo = vec![(PathBuf::new("/"), 0)];
        while let Some((directory, depth)) = todo.pop() {
            let shown = directory.display().to_string();
            let entries = self.fs.read_dir(&directory);
            for entry in entries.map_err(|e| failed(&shown, &e))? {
                let entry = entry.map_err(|e| failed(&shown, &e))?;
                if matches!(entry.file_name().as_ref(), b"." | b"..") {
                    continue;
                }
                let path = entry.path();
                let metadata = entry.metadata().map_err(|e| failed(&shown, &e))?;
                let item = item(&metadata);
                if item.kind == Kind::Directory {
                    if depth >= limits::DIFF_DEPTH_MAX {
                        let why = format!("ext4: {shown} lies too deep");
                        return Err(Error::new(ErrorKind::InvalidFormat, why));
                    }
                    todo.push((path.clone(), depth + 1));
                }
                names.add(AsRef::<[u8]>::as_ref(&path).to_vec(), item)?;
            }
        }
        Ok(names)
    }

    fn window(&self) -> &Window {
        &self.window
    }

    fn content(&self, path: &[u8], each: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
        let path = path_of(path)?;
        let shown = path.display().to_string();
        let wrong = |e: Ext4Error| failed(&shown, &e);
        let metadata = self.fs.symlink_metadata(&path).map_err(wrong)?;
        if metadata.is_symlink() {
            let target = self.fs.read_link(&path).map_err(wrong)?;
            each(target.as_ref());
            return Ok(());
        }
        let mut file = self.fs.open(&path).map_err(wrong)?;
        let mut buffer = vec![0; limits::CHUNK_LEN];
        loop {
            let read = file.read_bytes(&mut buffer).map_err(wrong)?;
            // Holes cost no read, but their zeros cost time.
            self.window.spend(read as u64)?;
            if read == 0 || !each(&buffer[..read]) {
                return Ok(());
            }
        }
    }
}
