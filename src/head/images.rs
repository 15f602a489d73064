//! Images: imported, listed, shown, verified, exported. Every call to the store's images but the opening of
//! a node's disk and the collection is here.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::error::{HeadError, Result};
use super::{Damage, Head};
use crate::catalog::{
    Changes, ImageRecord, ImageRef, LATEST, Snapshot, VersionRecord, VersionSelector,
};
use crate::names::{ImageId, NodeSet};
use crate::store::image::{ExportFormat, Image, import, inspect};
use crate::units::UnixMillis;

pub use crate::store::image::Progress;

/// Who watches long work.
pub(super) type Report<'a> = &'a dyn Fn(Progress);

/// Imports a file as an image version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageImport {
    /// The file or block device, as seen by the head.
    pub path: PathBuf,
    /// `debian12` for its next version, `debian12:7` for that one.
    pub name: ImageRef,
    /// `auto`, `raw`, `qcow2`, `vhd`, `vhdx` or `vmdk`.
    #[serde(default = "auto")]
    pub format: String,
    /// Directory of the parents or extents that the file names; else its own.
    #[serde(default)]
    pub parents: Option<PathBuf>,
    /// `x86_64` or `arm64`.
    #[serde(default)]
    pub arch: Option<String>,
    /// Free text.
    #[serde(default)]
    pub note: Option<String>,
    /// Tags to put on the version.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

fn auto() -> String {
    "auto".to_owned()
}

fn raw() -> String {
    "raw".to_owned()
}

/// What an import did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageImported {
    /// `debian12:3`.
    pub label: String,
    /// Content identity; absent when nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ImageId>,
    /// Bytes of the disk.
    pub size: u64,
    /// Chunks of the disk.
    pub chunks: u64,
    /// Chunks that no image had yet.
    pub new_chunks: u64,
    /// Bytes written for them.
    pub new_bytes: u64,
    /// Bad places that were written anew and hold their chunk again.
    #[serde(default)]
    pub mended: u64,
    /// Chunks of zeros.
    pub zero_chunks: u64,
    /// The image had this very content already: no version was added.
    pub already: bool,
    /// Nothing was done.
    pub dry_run: bool,
}

/// An image as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// Its name.
    pub name: String,
    /// Its versions, oldest first.
    pub versions: Vec<VersionView>,
    /// The nodes set to it.
    pub nodes: NodeSet,
}

/// One version of an image as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    /// What the catalog says.
    #[serde(flatten)]
    pub record: VersionRecord,
    /// Its tags; the newest one has `latest`.
    pub tags: Vec<String>,
    /// The nodes that would boot it now.
    pub nodes: NodeSet,
    /// Chunks that hold data; only where one version was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_chunks: Option<u64>,
    /// Partition table and boot code; only where one version was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<serde_json::Value>,
    /// What of it is damaged; only where an image was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<Damage>,
}

/// Verifies an image version, chunk by chunk, from the medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageVerify {
    /// Which.
    pub image: ImageRef,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVerified {
    /// `debian12:3`.
    pub label: String,
    /// Content identity.
    pub id: ImageId,
    /// Bytes of the disk.
    pub size: u64,
    /// What is damaged; empty when all is well.
    pub bad: Vec<BadPlace>,
}

/// A damaged chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPlace {
    /// Offset on the disk in bytes.
    pub offset: u64,
    /// Where it lies, and the cause.
    pub why: String,
}

/// Writes an image version to a disk file with holes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageExport {
    /// Which.
    pub image: ImageRef,
    /// The file, which must not exist, as seen by the head.
    pub path: PathBuf,
    /// `raw`, `qcow2`, `vhd` or `vhdx`.
    #[serde(default = "raw")]
    pub format: String,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an export did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageExported {
    /// `debian12:3`.
    pub label: String,
    /// The file.
    pub path: PathBuf,
    /// Bytes of the disk.
    pub size: u64,
    /// Nothing was done.
    pub dry_run: bool,
}

impl Head {
    /// Imports a file. Blocking and long; when it returns the version survives a power cut.
    ///
    /// # Errors
    /// The file's (named); a version number that is or was in use; another import is running.
    pub fn image_import(
        &self,
        ask: &ImageImport,
        report: Report<'_>,
        cancel: &AtomicBool,
    ) -> Result<ImageImported> {
        let format = ask.format.parse().map_err(HeadError::invalid)?;
        let record = version_of(ask, ImageId([0; 32]), 0);
        // What the catalog would refuse is refused before hours of reading.
        let planned = self
            .catalog
            .rehearse(|changes| register(changes, &ask.name, &ask.tags, record))?;
        let options = import::Options {
            format,
            parents: ask.parents.as_deref(),
            progress: report,
            cancel,
        };
        let mut source = import::open_with(&ask.path, &options)?;
        let size = source.size();
        if ask.dry_run {
            return Ok(ImageImported {
                label: planned.0,
                id: None,
                size,
                chunks: size.div_ceil(crate::limits::CHUNK_BYTES),
                new_chunks: 0,
                new_bytes: 0,
                mended: 0,
                zero_chunks: 0,
                already: false,
                dry_run: true,
            });
        }
        let unnamed = self.importing()?;
        let done = self.store.images.import(&mut *source, report, cancel)?;
        let record = version_of(ask, done.id, done.size);
        let named = self
            .catalog
            .transact(|changes| register(changes, &ask.name, &ask.tags, record));
        drop(unnamed);
        self.collect_if_owed();
        let (label, already) = named?;
        Ok(ImageImported {
            label,
            id: Some(done.id),
            size: done.size,
            chunks: done.chunks,
            new_chunks: done.new_chunks,
            new_bytes: done.new_bytes,
            mended: done.mended,
            zero_chunks: done.zero_chunks,
            already,
            dry_run: false,
        })
    }

    /// All images by name.
    #[must_use]
    pub fn images(&self) -> Vec<ImageView> {
        let now = self.snapshot();
        now.images().map(|image| image_view(&now, image)).collect()
    }

    /// One image with all versions, or, where the reference names a version, only that one with what is on
    /// its disk. Blocking.
    ///
    /// # Errors
    /// No such image or version; the store's.
    pub fn image_show(&self, image: &ImageRef) -> Result<ImageView> {
        let now = self.snapshot();
        let (record, version) = find(&now, image)?;
        let mut view = image_view(&now, record);
        if image.version.is_some() {
            view.versions
                .retain(|v| v.record.version == version.version);
            view.nodes = NodeSet::default();
        }
        let shown = view.versions.iter_mut();
        for shown in shown.filter(|v| v.record.version == version.version) {
            let open = self.store.images.open_image(version.id)?;
            let mut read = |offset, out: &mut [u8]| open.read(offset, out);
            // Damage there must not hide what else is to be said.
            let found = inspect::inspect(version.size, &mut read);
            shown.data_chunks = Some(open.stats().data_chunks);
            shown.disk = found
                .ok()
                .and_then(|found| serde_json::to_value(found).ok());
            if image.version.is_some() {
                view.nodes = shown.nodes.clone();
            }
        }
        let damages = self.damages()?;
        for shown in &mut view.versions {
            let label = record.label(shown.record.version);
            let of_it = damages.iter().filter(|d| d.images.contains(&label));
            shown.bad = of_it.cloned().collect();
        }
        Ok(view)
    }

    /// Reads every chunk from the medium. Damage is the answer, not an error. Blocking and long.
    ///
    /// # Errors
    /// No such version; cancelled; the store's.
    pub fn image_verify(
        &self,
        ask: &ImageVerify,
        report: Report<'_>,
        cancel: &AtomicBool,
    ) -> Result<ImageVerified> {
        let now = self.snapshot();
        let (record, version) = find(&now, &ask.image)?;
        let bad = self.store.images.verify(version.id, report, cancel)?;
        let place = |bad: crate::store::image::BadChunk| BadPlace {
            offset: bad.offset,
            why: bad.why,
        };
        Ok(ImageVerified {
            label: record.label(version.version),
            id: version.id,
            size: version.size,
            bad: bad.into_iter().map(place).collect(),
        })
    }

    /// An image version to read from, by its identity. Blocking.
    ///
    /// # Errors
    /// There is none; the store's.
    pub fn image_reader(&self, id: ImageId) -> Result<Arc<Image>> {
        Ok(self.store.images.open_image(id)?)
    }

    /// Writes a version to a new disk file. What a failed export left is removed. Blocking and long.
    ///
    /// # Errors
    /// No such version; the disk is too large for the format; the file exists or cannot be written;
    /// cancelled; the store's.
    pub fn image_export(
        &self,
        ask: &ImageExport,
        report: Report<'_>,
        cancel: &AtomicBool,
    ) -> Result<ImageExported> {
        let format: ExportFormat = ask.format.parse().map_err(HeadError::invalid)?;
        let now = self.snapshot();
        let (record, version) = find(&now, &ask.image)?;
        format.check_size(version.size)?;
        if ask.path.symlink_metadata().is_ok() {
            let path = ask.path.display();
            let message = format!("{path} exists already; choose another file, or remove it first");
            return Err(HeadError::conflict(message));
        }
        if !ask.dry_run {
            let within = |e| HeadError::from(e).within(format!("export to {}", ask.path.display()));
            let mut file = format.create(&ask.path, version.id)?;
            let written = self
                .store
                .images
                .export(version.id, &mut *file, report, cancel);
            written.map_err(within)?;
        }
        Ok(ImageExported {
            label: record.label(version.version),
            path: ask.path.clone(),
            size: version.size,
            dry_run: ask.dry_run,
        })
    }
}

fn version_of(ask: &ImageImport, id: ImageId, size: u64) -> VersionRecord {
    VersionRecord {
        version: 0,
        id,
        size,
        arch: ask.arch.clone(),
        note: ask.note.clone(),
        source: ask.path.display().to_string(),
        created: UnixMillis::now(),
    }
}

/// Names new content: a new version, or the one of this image that has this content already. A new version
/// ends a roll-back. Answers its label, and whether it was there.
pub(super) fn register(
    changes: &mut Changes,
    wanted_name: &ImageRef,
    tags: &[String],
    mut record: VersionRecord,
) -> Result<(String, bool)> {
    let name = &wanted_name.name;
    let found = changes.view().image(name);
    let mut image = found.map_or_else(|| ImageRecord::new(name), |image| ImageRecord::clone(image));
    let same = image.versions.iter().find(|v| v.id == record.id);
    let there = same.map(|v| v.version);
    let wanted = number_for(&image, wanted_name)?;
    let number = there.filter(|n| wanted_name.version.is_none() || *n == wanted);
    let already = number.is_some();
    let number = number.unwrap_or(wanted);
    if !already {
        if image.version(number).is_some() || number < image.next_version {
            return Err(HeadError::conflict(format!(
                "version {name}:{number} is or was in use and is never given again; the next is {}",
                image.next_version
            )));
        }
        record.version = number;
        image.versions.push(record);
        image.next_version = number.saturating_add(1);
        image.held = None;
    }
    for tag in tags {
        if tag != LATEST {
            image.tags.insert(tag.clone(), number);
        }
    }
    let label = image.label(number);
    changes.put_image(image)?;
    Ok((label, already))
}

fn number_for(image: &ImageRecord, name: &ImageRef) -> Result<u32> {
    match &name.version {
        None => Ok(image.next_version),
        Some(VersionSelector::Number(number)) => Ok(*number),
        Some(VersionSelector::Tag(tag)) => Err(HeadError::invalid(format!(
            "`{name}`: a new version has a number; name it `{}` and put the tag `{tag}` on it",
            name.name
        ))),
    }
}

/// The image and the version that a reference means now.
pub(super) fn find<'a>(
    now: &'a Snapshot,
    image: &ImageRef,
) -> Result<(&'a ImageRecord, &'a VersionRecord)> {
    let missing = |why: String| {
        let message = format!("{why}; `reveille image ls` shows those there are");
        HeadError::not_found(message)
    };
    let record = now.image(&image.name);
    let record = record.ok_or_else(|| missing(format!("there is no image `{}`", image.name)))?;
    let version = record.select(image.version.as_ref());
    let version = version.ok_or_else(|| missing(format!("there is no image version {image}")))?;
    Ok((record, version))
}

/// The nodes set to an image with the number of the version that each would boot now. Looks at every node:
/// for requests of people, not for boots.
pub(super) fn users(
    now: &Snapshot,
    image: &ImageRecord,
) -> Vec<(crate::names::NodeName, Option<u32>)> {
    let set = now.nodes().filter_map(|node| {
        let reference = node.image.as_ref().filter(|r| r.name == image.name)?;
        let version = image.select(reference.version.as_ref());
        Some((node.name.clone(), version.map(|v| v.version)))
    });
    set.collect()
}

fn image_view(now: &Snapshot, image: &ImageRecord) -> ImageView {
    let users = users(now, image);
    let version = |record: &VersionRecord| {
        let nodes = users.iter().filter(|(_, n)| *n == Some(record.version));
        VersionView {
            record: record.clone(),
            tags: image
                .tags_of(record.version)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            nodes: nodes.map(|(name, _)| name.clone()).collect(),
            data_chunks: None,
            disk: None,
            bad: Vec::new(),
        }
    };
    ImageView {
        name: image.name.clone(),
        versions: image.versions.iter().map(version).collect(),
        nodes: users.iter().map(|(name, _)| name.clone()).collect(),
    }
}
