//! The images of one store directory.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use super::bad::{BadNews, BadPlace};
use super::export::{self, ExportSink};
use super::hot::HotBytes;
use super::import::Source;
use super::ingest::{self, Appender, Ingested, Progress, Watch};
use super::manifest::{self, Manifest};
use super::pack::{self, Packs};
use super::sealed::Image;
use super::survey::{self, Survey};
use crate::limits::CHUNK_BYTES;
use crate::limits::PACK_SLOTS;
use crate::store::ImageId;
use crate::store::disk::{Disk, OpenMode};
use crate::store::error::{Error, ErrorKind, Result};

pub(super) const TMP: &str = "images/tmp";

/// Golden images of a store directory: packs of chunks, a manifest for each version.
///
/// Who may open a directory is the caller's matter: one process at a time.
pub struct ImageStore {
    disk: Arc<dyn Disk>,
    packs: Packs,
    open: Mutex<HashMap<ImageId, Weak<Image>>>,
    // Held by an import or a collection: one at a time.
    writer: Mutex<()>,
    /// Slots of a full pack.
    slots: u32,
}

/// What an import did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Identity of the image; the caller registers it in the catalog.
    pub id: ImageId,
    /// Bytes of the disk.
    pub size: u64,
    /// Chunks of the disk.
    pub chunks: u64,
    /// Chunks that were not in the store yet.
    pub new_chunks: u64,
    /// Bytes written for them.
    pub new_bytes: u64,
    /// Bad places, of whatever image, that were written anew and hold their chunk again.
    pub mended: u64,
    /// Chunks of zeros, which take no space.
    pub zero_chunks: u64,
    /// The very same image was there before.
    pub already: bool,
}

/// What a collection gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests removed.
    pub manifests: u64,
    /// Packs removed as a whole.
    pub packs: u64,
    /// Bytes of the medium given back by removing packs, cutting tails and punching holes.
    pub bytes: u64,
}

/// A chunk that is not what was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadChunk {
    /// Number of the chunk on the disk.
    pub index: u64,
    /// Offset on the disk.
    pub offset: u64,
    /// The pack, the offset in it, and the cause.
    pub why: String,
}

impl ImageStore {
    /// Opens the images below `disk`'s root, making the directories when new. Reads no manifest and no pack:
    /// what it costs does not depend on how many there are.
    ///
    /// # Errors
    /// When the directories cannot be made or read.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        Self::with_pack_slots(disk, PACK_SLOTS)
    }

    /// With smaller packs, for tests.
    ///
    /// # Errors
    /// When the directories cannot be made or read.
    pub fn with_pack_slots(disk: Arc<dyn Disk>, slots: u32) -> Result<Self> {
        // Each time, since a crash may have kept some of these names and lost others.
        for path in [pack::PACKS, survey::MANIFESTS, super::warm::PROFILES, TMP] {
            disk.create_dir(path)?;
        }
        for path in ["images", ""] {
            disk.sync_dir(path)?;
        }
        // Manifests that were not finished belong to nobody.
        for name in disk.list(TMP)? {
            disk.remove(&format!("{TMP}/{name}"))?;
        }
        let packs = Packs::new(Arc::clone(&disk));
        if let Some(why) = packs.bad.load(&*disk)? {
            tracing::warn!(
                why,
                "which chunks were bad is not known any more; verify the images"
            );
        }
        Ok(Self {
            disk,
            packs,
            open: Mutex::default(),
            writer: Mutex::new(()),
            slots,
        })
    }

    /// How much of all images may be held in memory of our own, bytes. At first nothing.
    pub fn set_hot_bytes(&self, budget: u64) {
        self.packs.hot.set_budget(budget);
    }

    /// How much is held, and how much may be.
    #[must_use]
    pub fn hot_bytes(&self) -> HotBytes {
        self.packs.hot.bytes()
    }

    /// Makes an image of `source`. Blocking; hashes on two further threads. When it returns, the image
    /// survives kill -9 and power cut; until then nothing of it can be seen.
    ///
    /// # Errors
    /// `Busy` when another import or collection runs (wait for it and try again) or the source was
    /// changed meanwhile; `Cancelled`; `InvalidFormat` or `Unsupported` for what the source is; `Io`;
    /// `NoSpace`.
    pub fn import(
        &self,
        source: &mut dyn Source,
        progress: &dyn Fn(Progress),
        cancel: &AtomicBool,
    ) -> Result<Imported> {
        let _writing = self.writing("import")?;
        manifest::check_size(source.size())?;
        let mut survey = self.survey()?;
        survey.tidy(&*self.disk)?;
        let appender = Appender::new(&*self.disk, &self.packs, survey, self.slots)?;
        let done = ingest::ingest(source, appender, Watch { progress, cancel })
            .and_then(|ingested| self.seal(&ingested));
        if done.is_err() {
            // Gives the space of the failed attempt back now; if that fails too, the next import does it.
            let _ = self
                .survey()
                .and_then(|mut survey| survey.tidy(&*self.disk));
        }
        self.save_bad();
        done
    }

    /// Makes the manifest durable under its name, the last step of an import.
    fn seal(&self, ingested: &Ingested) -> Result<Imported> {
        let manifest = &ingested.manifest;
        let id = manifest.id();
        let bytes = manifest.encode();
        let there = match survey::read_file(&*self.disk, id) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            // Unreadable or damaged: the new one replaces it.
            Err(_) => Some(Vec::new()),
        };
        if there.as_ref().is_some_and(|there| self.stands(id, there)) {
            // Its name may be news to the medium: an earlier attempt may have ended right before this.
            self.disk.sync_dir(survey::MANIFESTS)?;
        } else {
            self.write_manifest(id, &bytes)?;
        }
        let data = manifest.entries().len() as u64;
        Ok(Imported {
            id,
            size: manifest.size(),
            chunks: manifest.chunks(),
            new_chunks: ingested.new_chunks,
            new_bytes: ingested.new_chunks * CHUNK_BYTES,
            mended: ingested.mended,
            zero_chunks: manifest.chunks() - data,
            already: there.is_some(),
        })
    }

    /// The manifest that is there is right, and so are its chunks as far as anybody knows. It stays: the new one
    /// may name other copies of the same chunks, of which a new process does not know that they are bad.
    fn stands(&self, id: ImageId, bytes: &[u8]) -> bool {
        let Ok(manifest) = Manifest::decode(bytes) else {
            return false;
        };
        let bad = &self.packs.bad;
        let places = manifest.entries().iter().map(|entry| entry.place);
        manifest.id() == id
            && !places.into_iter().any(|place| bad.contains(place))
            && Image::new(id, manifest, &self.packs).is_ok()
    }

    fn write_manifest(&self, id: ImageId, bytes: &[u8]) -> Result<()> {
        let tmp = format!("{TMP}/{id}");
        // Left over by an attempt that failed in this process.
        match self.disk.remove(&tmp) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = self.disk.open(&tmp, OpenMode::CreateNew)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        self.disk.rename(&tmp, &survey::manifest_path(id))?;
        self.disk.sync_dir(survey::MANIFESTS)
    }

    /// Opens an image; the same one while anybody holds it.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when its manifest or packs are damaged; `NewerVersion`; `Io`.
    pub fn open_image(&self, id: ImageId) -> Result<Arc<Image>> {
        let mut open = self.images();
        if let Some(image) = open.get(&id).and_then(Weak::upgrade) {
            return Ok(image);
        }
        let manifest = survey::read_manifest(&*self.disk, id).map_err(|e| match e.kind() {
            ErrorKind::NotFound => missing(id),
            _ => e,
        })?;
        let image = Arc::new(Image::new(id, manifest, &self.packs)?);
        open.retain(|_, image| image.strong_count() > 0);
        open.insert(id, Arc::downgrade(&image));
        Ok(image)
    }

    /// An image that somebody holds open, when that can be told without waiting.
    #[must_use]
    pub fn opened(&self, id: ImageId) -> Option<Arc<Image>> {
        self.open.try_lock().ok()?.get(&id)?.upgrade()
    }

    /// Whether the image has a manifest.
    ///
    /// # Errors
    /// `Io`.
    pub fn contains(&self, id: ImageId) -> Result<bool> {
        match self.disk.open(&survey::manifest_path(id), OpenMode::Read) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The images that have a manifest.
    ///
    /// # Errors
    /// `Io`.
    pub fn list(&self) -> Result<Vec<ImageId>> {
        survey::list(&*self.disk)
    }

    /// Removes an image; the space of its chunks comes back with the next collection.
    ///
    /// # Errors
    /// `NotFound`; `Busy` while somebody holds it open or an import runs; `Io`.
    pub fn remove(&self, id: ImageId) -> Result<()> {
        let _writing = self.writing("removal")?;
        let open = self.images();
        if open.get(&id).is_some_and(|image| image.strong_count() > 0) {
            let why = format!("image {id} is in use by a running node; stop its nodes first");
            return Err(Error::new(ErrorKind::Busy, why));
        }
        self.disk
            .remove(&survey::manifest_path(id))
            .map_err(|e| match e.kind() {
                ErrorKind::NotFound => missing(id),
                _ => e,
            })?;
        self.disk.sync_dir(survey::MANIFESTS)
    }

    /// Removes every image that `keep` denies and nobody holds open, and gives the space of chunks that no
    /// image names back. `keep` must not call the store.
    ///
    /// # Errors
    /// `Busy` when an import runs; `Corrupt` or `NewerVersion` when a manifest that stays cannot be read:
    /// then nobody knows which chunks it needs, and none is given back. `Io`.
    pub fn collect(&self, keep: &dyn Fn(ImageId) -> bool) -> Result<Collected> {
        let _writing = self.writing("collection")?;
        let manifests = self.drop_manifests(keep)?;
        let mut survey = self.survey()?;
        // Manifests are durably gone by now: a power cut cannot bring one back whose chunks are missing.
        let freed = survey.tidy(&*self.disk)?;
        let punched = survey.punch(&*self.disk)?;
        self.packs.bad.retain(|place| survey.names(place));
        self.save_bad();
        match survey.damaged() {
            Some(e) => Err(e.within("no space was given back, remove or repair the image")),
            None => Ok(Collected {
                manifests,
                packs: freed.packs,
                bytes: freed.bytes + punched,
            }),
        }
    }

    fn drop_manifests(&self, keep: &dyn Fn(ImageId) -> bool) -> Result<u64> {
        let open = self.images();
        let mut dropped = 0;
        for id in survey::list(&*self.disk)? {
            let held = open.get(&id).is_some_and(|image| image.strong_count() > 0);
            if !held && !keep(id) {
                self.disk.remove(&survey::manifest_path(id))?;
                dropped += 1;
            }
        }
        if dropped > 0 {
            self.disk.sync_dir(survey::MANIFESTS)?;
        }
        Ok(dropped)
    }

    /// Reads every chunk of an image from the medium, whatever is in memory, and compares it with its id.
    /// Blocking.
    ///
    /// # Errors
    /// `Corrupt` when the manifest itself is not that of the image; `NotFound`, `Cancelled`, `Io`. Bad chunks
    /// are the answer, not an error.
    pub fn verify(
        &self,
        id: ImageId,
        progress: &dyn Fn(Progress),
        cancel: &AtomicBool,
    ) -> Result<Vec<BadChunk>> {
        let image = self.open_image(id)?;
        let found = image.manifest().id();
        if found != id {
            let why = format!("the manifest of image {id} describes image {found}");
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
        let watch = Watch { progress, cancel };
        let mut bad = Vec::new();
        let mut judged = HashMap::new();
        for chunk in image.chunks() {
            let offset = chunk.index * CHUNK_BYTES;
            watch.step(offset, image.size(), "the verification")?;
            let scrub = || image.scrub(chunk.index).err().map(|e| e.to_string());
            let why: &Option<String> = judged.entry(chunk.place).or_insert_with(scrub);
            if let Some(why) = why {
                bad.push(BadChunk {
                    index: chunk.index,
                    offset,
                    why: why.clone(),
                });
            }
        }
        watch.step(image.size(), image.size(), "the verification")?;
        self.save_bad();
        Ok(bad)
    }

    /// Every place that is known to be bad.
    #[must_use]
    pub fn bad_places(&self) -> Vec<BadPlace> {
        self.packs.bad.all()
    }

    /// Changes whenever a place goes bad or heals.
    #[must_use]
    pub fn bad_generation(&self) -> u64 {
        self.packs.bad.generation()
    }

    /// What was found since the last call; each finding is answered once.
    #[must_use]
    pub fn take_bad_news(&self) -> Vec<BadNews> {
        self.packs.bad.take_news()
    }

    /// Has `bell` called whenever there is such news. It is called by whoever reads, so it must only wake
    /// somebody. The first bell stays.
    pub fn on_bad_news(&self, bell: impl Fn() + Send + Sync + 'static) {
        self.packs.bad.set_bell(Box::new(bell));
    }

    /// Writes down which places are bad, so that an import after a restart repairs them. What fails is
    /// logged: the scrub finds them again.
    pub fn save_bad(&self) {
        if let Err(error) = self.packs.bad.save(&*self.disk) {
            tracing::warn!(%error, "which chunks are bad cannot be written down");
        }
    }

    /// Writes the disk of an image to `out`, zeros left out. Blocking.
    ///
    /// # Errors
    /// Those of reading and of the sink; `Cancelled`.
    pub fn export(
        &self,
        id: ImageId,
        out: &mut dyn ExportSink,
        progress: &dyn Fn(Progress),
        cancel: &AtomicBool,
    ) -> Result<()> {
        let image = self.open_image(id)?;
        export::export(&image, out, Watch { progress, cancel })
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(super) fn open_pack(&self, number: u32) -> Result<Arc<pack::Pack>> {
        self.packs.open(number)
    }

    pub(super) fn bad_forget(&self, place: super::Place) {
        self.packs.bad.forget(place);
    }

    fn survey(&self) -> Result<Survey> {
        let open: Vec<_> = self.images().values().filter_map(Weak::upgrade).collect();
        Survey::take(&*self.disk, &self.packs.bad, &open)
    }

    fn images(&self) -> MutexGuard<'_, HashMap<ImageId, Weak<Image>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self, what: &str) -> Result<MutexGuard<'_, ()>> {
        match self.writer.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(guard)) => Ok(guard.into_inner()),
            Err(TryLockError::WouldBlock) => {
                let why = format!(
                    "an import, removal or collection of images is running; try this {what} again after it"
                );
                Err(Error::new(ErrorKind::Busy, why))
            }
        }
    }
}

impl fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageStore({:?})", self.disk)
    }
}

fn missing(id: ImageId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no image {id} in this store"),
    )
}
