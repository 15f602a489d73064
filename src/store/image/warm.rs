//! Chunks brought into memory before anybody asks, kept there, and the profiles that say which.

use std::collections::HashMap;
use std::sync::Arc;

use super::manifest::ChunkId;
use super::pack::Wanted;
use super::profile::{Profile, Touch};
use super::sealed::Image;
use super::store::ImageStore;
use crate::limits::{CHUNK_BYTES, CHUNK_LEN, IMAGE_RUN_CHUNKS, PROFILE_CHUNKS_MAX};
use crate::store::Buffer;
use crate::store::ImageId;
use crate::store::disk::{Disk, OpenMode};
use crate::store::error::{Error, ErrorKind, Result};

pub(super) const PROFILES: &str = "images/profiles";

fn path(id: ImageId) -> String {
    format!("{PROFILES}/{id}")
}

impl Image {
    /// True when the chunk is in memory and verified; a chunk of zeros always is. Looking keeps it there: the
    /// kernel takes it for one in use. Never waits.
    #[must_use]
    pub fn touch(&self, chunk: u64, scratch: &mut [u8]) -> bool {
        let at = chunk.saturating_mul(CHUNK_BYTES);
        let len = self.size().saturating_sub(at).min(CHUNK_BYTES);
        let part = usize::try_from(len)
            .ok()
            .and_then(|len| scratch.get_mut(..len));
        part.is_none_or(|part| {
            // What is held needs no copy, and the look keeps it held.
            part.is_empty()
                || matches!(self.try_share(at, part.len()), Ok(Some(_)))
                || self.try_read(at, part).unwrap_or(false)
        })
    }

    /// How many of these chunks are warm. Copies each once: not for hot paths.
    #[must_use]
    pub fn count_warm(&self, chunks: &[Touch]) -> usize {
        let mut scratch = Buffer::take(CHUNK_LEN);
        let warm = |t: &&Touch| self.touch(u64::from(t.chunk), &mut scratch);
        chunks.iter().filter(warm).count()
    }

    /// Brings the first of `chunks` in, together with those behind it in the list that lie behind it in the pack,
    /// by one read. Returns how many of the list are done, at least one. Who wants one of them meanwhile
    /// waits for this read and makes none. May block.
    ///
    /// # Errors
    /// As a read of the first chunk: damaged, or not to be read.
    pub fn fetch(&self, chunks: &[Touch]) -> Result<usize> {
        let entries = chunks.iter().take(IMAGE_RUN_CHUNKS);
        let mut run: Vec<Wanted> = Vec::new();
        let mut first = None;
        for touch in entries {
            let Some(entry) = self.entry(u64::from(touch.chunk)) else {
                break;
            };
            let next = first.is_none_or(|(pack, slot)| {
                pack == entry.place.pack && slot + 1 == entry.place.slot
            });
            if !next {
                break;
            }
            first = Some((entry.place.pack, entry.place.slot));
            run.push(Wanted {
                id: entry.id,
                slot: entry.place.slot,
            });
        }
        let Some(touch) = chunks.first().filter(|_| !run.is_empty()) else {
            return Ok(1);
        };
        self.load_run(u64::from(touch.chunk), &run)
    }
}

impl ImageStore {
    /// The profile of an image version; none when there is none, or when it is damaged, which is logged.
    #[must_use]
    pub fn profile(&self, id: ImageId) -> Option<Profile> {
        match read(self.disk(), id) {
            Ok(profile) => Some(profile),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, "a boot profile is left out and will be recorded anew");
                None
            }
        }
    }

    /// Writes a profile down.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub fn save_profile(&self, profile: &Profile) -> Result<()> {
        let disk = self.disk();
        let tmp = format!("images/tmp/profile-{}", profile.image());
        match disk.remove(&tmp) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = disk.open(&tmp, OpenMode::CreateNew)?;
        file.write_at(0, &profile.encode())?;
        file.sync()?;
        disk.rename(&tmp, &path(profile.image()))?;
        disk.sync_dir(PROFILES)
    }

    /// Removes a profile; true when there was one.
    ///
    /// # Errors
    /// `Io`.
    pub fn drop_profile(&self, id: ImageId) -> Result<bool> {
        match self.disk().remove(&path(id)) {
            Ok(()) => self.disk().sync_dir(PROFILES).map(|()| true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Removes the profiles of images that `keep` denies.
    ///
    /// # Errors
    /// `Io`.
    pub fn retain_profiles(&self, keep: &dyn Fn(ImageId) -> bool) -> Result<()> {
        let names = self.disk().list(PROFILES)?;
        let gone = names.iter().filter_map(|name| ImageId::parse(name));
        for id in gone.filter(|&id| !keep(id)) {
            self.drop_profile(id)?;
        }
        Ok(())
    }

    /// The profile that `new` begins with: that of `old` for the chunks that both have. Not written down.
    ///
    /// # Errors
    /// As [`ImageStore::open_image`].
    pub fn inherited_profile(&self, old: &Profile, new: ImageId) -> Result<Profile> {
        let (from, to) = (self.open_image(old.image())?, self.open_image(new)?);
        Ok(inherit(old, &from, &to))
    }
}

fn inherit(old: &Profile, from: &Image, to: &Arc<Image>) -> Profile {
    let chunks = to.chunks();
    let moved: HashMap<ChunkId, u64> = chunks.map(|c| (c.id, c.index)).collect();
    old.inherit(
        to.id(),
        |chunk| from.chunk_id(u64::from(chunk)),
        |chunk, id| {
            // Where it was if it is there, else wherever it is.
            if to.chunk_id(u64::from(chunk)) == Some(id) {
                return Some(chunk);
            }
            moved.get(&id).and_then(|&at| u32::try_from(at).ok())
        },
    )
}

fn read(disk: &dyn Disk, id: ImageId) -> Result<Profile> {
    let path = path(id);
    let file = disk.open(&path, OpenMode::Read)?;
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if len > 64 + PROFILE_CHUNKS_MAX * 12 {
        let why = format!("{path} has {len} bytes, more than any profile");
        return Err(Error::new(ErrorKind::Corrupt, why));
    }
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes)?;
    let profile = Profile::decode(&bytes).map_err(|e| e.within(&path))?;
    if profile.image() != id {
        let why = format!("{path} is the profile of image {}", profile.image());
        return Err(Error::new(ErrorKind::Corrupt, why));
    }
    Ok(profile)
}
