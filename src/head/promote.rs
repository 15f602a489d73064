//! Promotion: what a node's layer shows becomes a new image version.
//!
//! ```text
//!   under the node's lock: binding known, layer frozen     (a moment; a boot waits for it)
//!   chunks the layer touched --> packs, manifest           (durable; named by nobody)
//!   catalog: version, tags                                 (from here on it exists)
//! ```
//! The node's own layer and binding are left alone. Its next boot decides (`rebase.rs`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::Head;
use super::boot::{self, NO_BOOT};
use super::error::{HeadError, Result};
use super::images::{Report, register, users};
use super::layers::LayerUse;
use super::rollback::NextBoot;
use crate::catalog::{Binding, ImageRef, LayerMode, NodeRecord, VersionRecord};
use crate::limits;
use crate::names::{ImageId, NodeName, NodeSet};
use crate::store::image::{ExportSink, LayerSource, SparseFile, export_view};
use crate::store::layer::LayerView as Frozen;
use crate::units::UnixMillis;

/// Makes an image version of a node's layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerPromote {
    /// Whose layer.
    pub node: NodeName,
    /// `debian12` for its next version, `debian12:7` for that one.
    pub name: ImageRef,
    /// Free text.
    #[serde(default)]
    pub note: Option<String>,
    /// Tags to put on the version.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Even while the node has its disk open.
    #[serde(default)]
    pub force: bool,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a promotion did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPromoted {
    /// `debian12:4`.
    pub label: String,
    /// Content identity; absent when nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ImageId>,
    /// Whose layer.
    pub node: NodeName,
    /// The version below that layer.
    pub base: String,
    /// How much the layer held.
    #[serde(flatten)]
    pub held: LayerUse,
    /// Bytes of the disk.
    pub size: u64,
    /// Chunks of the disk.
    pub chunks: u64,
    /// Chunks of which the layer holds a part: those that were, or would be, read.
    pub touched_chunks: u64,
    /// Chunks that no image had yet.
    pub new_chunks: u64,
    /// Bytes written for them.
    pub new_bytes: u64,
    /// Chunks of zeros.
    pub zero_chunks: u64,
    /// The image had this very content already: no version was added.
    pub already: bool,
    /// The nodes whose next boot is another one by this.
    pub next: Vec<NextBoot>,
    /// What the operator should know besides, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Nothing was done.
    pub dry_run: bool,
}

/// Writes a node's whole disk, as it is now, to a raw file with holes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerExport {
    /// Whose disk.
    pub node: NodeName,
    /// The file, which must not exist, as seen by the head.
    pub path: PathBuf,
    /// Even while the node has its disk open.
    #[serde(default)]
    pub force: bool,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// What such an export did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerExported {
    /// Whose disk.
    pub node: NodeName,
    /// The version below its layer.
    pub base: String,
    /// The file.
    pub path: PathBuf,
    /// Bytes of the disk.
    pub size: u64,
    /// Nothing was done.
    pub dry_run: bool,
}

/// A node's disk at one moment.
pub(super) struct Moment {
    pub(super) node: Arc<NodeRecord>,
    pub(super) binding: Arc<Binding>,
    pub(super) frozen: Frozen,
    pub(super) running: bool,
}

impl Head {
    /// Makes what a node's layer shows a new version of an image. Reads only the chunks that the layer
    /// touched. Blocking; when it returns the version survives a power cut. A node that runs is refused
    /// unless forced: then the version is what a power cut of the node would have left at that moment.
    ///
    /// # Errors
    /// No such node; it never booted, or its layer is gone or not sound; it runs (`busy`); what
    /// [`Head::image_import`] refuses.
    pub fn layer_promote(
        &self,
        ask: &LayerPromote,
        busy: &dyn Fn(&NodeName) -> bool,
        report: Report<'_>,
        cancel: &AtomicBool,
    ) -> Result<LayerPromoted> {
        let moment = self.moment(&ask.node, busy, ask.force, "made a version")?;
        let held = self.layer_use(moment.node.layer);
        let mut done = self.promise(ask, &moment, held)?;
        if ask.dry_run {
            return Ok(done);
        }
        let unnamed = self.importing()?;
        let Moment {
            node,
            binding,
            frozen,
            running,
        } = moment;
        let mut source = LayerSource(frozen);
        let imported = self.store.images.import(&mut source, report, cancel);
        drop(source);
        let named = imported
            .map_err(HeadError::from)
            .and_then(|imported| Ok((self.name_version(ask, &binding, &imported)?, imported)));
        drop(unnamed);
        self.collect_if_owed();
        let ((label, already, next), imported) = named?;
        done.notices = notices(&node, &binding, running);
        Ok(LayerPromoted {
            label,
            id: Some(imported.id),
            new_chunks: imported.new_chunks,
            new_bytes: imported.new_bytes,
            zero_chunks: imported.zero_chunks,
            already,
            next,
            dry_run: false,
            ..done
        })
    }

    /// What is known before a byte is read; refuses what the catalog would refuse.
    fn promise(
        &self,
        ask: &LayerPromote,
        moment: &Moment,
        held: LayerUse,
    ) -> Result<LayerPromoted> {
        let (size, binding) = (moment.frozen.size(), &moment.binding);
        let touched = moment.frozen.touched().into_iter();
        let record = self.version_of_layer(ask, binding, ImageId([0; 32]), size);
        let (label, next) = self.catalog.rehearse(|changes| {
            let before = changes.view().clone();
            let (label, _) = register(changes, &ask.name, &ask.tags, record)?;
            let next = self.moved(&before, changes.view(), &ask.name.name);
            Ok::<_, HeadError>((label, next))
        })?;
        Ok(LayerPromoted {
            label,
            id: None,
            node: ask.node.clone(),
            base: binding.label.clone(),
            held,
            size,
            chunks: size.div_ceil(limits::CHUNK_BYTES),
            touched_chunks: touched.map(|run| run.end - run.start).sum(),
            new_chunks: 0,
            new_bytes: 0,
            zero_chunks: 0,
            already: false,
            next,
            notices: notices(&moment.node, binding, moment.running),
            dry_run: true,
        })
    }

    fn name_version(
        &self,
        ask: &LayerPromote,
        binding: &Binding,
        done: &crate::store::image::Imported,
    ) -> Result<(String, bool, Vec<NextBoot>)> {
        let record = self.version_of_layer(ask, binding, done.id, done.size);
        let before = self.snapshot();
        let (label, already) = self
            .catalog
            .transact(|changes| register(changes, &ask.name, &ask.tags, record))?;
        let next = self.moved(&before, &self.snapshot(), &ask.name.name);
        Ok((label, already, next))
    }

    fn version_of_layer(
        &self,
        ask: &LayerPromote,
        binding: &Binding,
        id: ImageId,
        size: u64,
    ) -> VersionRecord {
        let now = self.snapshot();
        let all = now.images().flat_map(|image| &image.versions);
        let mut same = all.filter(|version| version.id == binding.image);
        VersionRecord {
            version: 0,
            id,
            size,
            arch: same.next().and_then(|version| version.arch.clone()),
            note: ask.note.clone(),
            source: format!("layer of node {} over {}", ask.node, binding.label),
            created: UnixMillis::now(),
        }
    }

    /// Writes the whole disk of a node as it is at this moment to a new raw file. What a failed export left
    /// is removed. Blocking and long.
    ///
    /// # Errors
    /// As [`Head::layer_promote`]; the file exists or cannot be written.
    pub fn layer_export(
        &self,
        ask: &LayerExport,
        busy: &dyn Fn(&NodeName) -> bool,
        report: Report<'_>,
        cancel: &AtomicBool,
    ) -> Result<LayerExported> {
        let path = &ask.path;
        if path.exists() {
            let path = path.display();
            let message = format!("{path} exists already; choose another file, or remove it first");
            return Err(HeadError::conflict(message));
        }
        let moment = self.moment(&ask.node, busy, ask.force, "exported")?;
        if !ask.dry_run {
            let mut file = SparseFile::create(path)?;
            let sink: &mut dyn ExportSink = &mut file;
            let written = export_view(&moment.frozen, sink, report, cancel);
            written.map_err(|e| {
                // A half disk is worse than none; if it cannot go, the message still says that it failed.
                let _ = std::fs::remove_file(path);
                HeadError::from(e).within(format!("export to {}", path.display()))
            })?;
        }
        Ok(LayerExported {
            node: ask.node.clone(),
            base: moment.binding.label.clone(),
            path: path.clone(),
            size: moment.frozen.size(),
            dry_run: ask.dry_run,
        })
    }

    /// A node's disk as it is now, for reading only.
    pub(super) fn moment(
        &self,
        node: &NodeName,
        busy: &dyn Fn(&NodeName) -> bool,
        force: bool,
        what: &str,
    ) -> Result<Moment> {
        let record = self.record(node)?;
        let run = self.runs.of(&record.name);
        // With it no boot can change the binding or the layer before the layer is frozen.
        let run = boot::lock(&run);
        let record = self.record(node)?;
        let running = busy(&record.name);
        if running && !force {
            return Err(HeadError::conflict(format!(
                "node `{node}` has its disk open: a file system under writes is not clean, and what is {what} \
                 would have to be repaired at its first use; switch the node off first, or take what a power \
                 cut would leave with --force"
            )));
        }
        if run.is_half_done() {
            let message = format!("the disk of node `{node}` is being made ready; try again");
            return Err(HeadError::new(super::HeadErrorKind::Unavailable, message));
        }
        let binding = self.bound_now(&record)?;
        let base = self.store.images.open_image(binding.image)?;
        let frozen = self.store.layers.view(record.layer, base);
        let frozen = frozen.map_err(|e| HeadError::from(e).within(format!("node `{node}`")))?;
        Ok(Moment {
            node: record,
            binding,
            frozen,
            running,
        })
    }

    fn bound_now(&self, record: &NodeRecord) -> Result<Arc<Binding>> {
        let name = &record.name;
        let now = self.snapshot();
        let none = |why: &str| {
            let message = format!("node `{name}` has no disk of its own: {why}; boot it first");
            Err(HeadError::conflict(message))
        };
        match now.binding(record.layer) {
            None => none("it never booted"),
            Some(binding) if binding.boot == NO_BOOT => none("its layer was reset"),
            Some(binding) if self.is_lost(binding) => {
                none("its ephemeral layer went with the last restart of the head's machine")
            }
            Some(binding) => Ok(Arc::clone(binding)),
        }
    }

    /// The nodes whose next boot is another one in `now` than it was in `before`.
    pub(super) fn moved(
        &self,
        before: &crate::catalog::Snapshot,
        now: &crate::catalog::Snapshot,
        image: &str,
    ) -> Vec<NextBoot> {
        let of = |at: &crate::catalog::Snapshot| {
            at.image(image)
                .map(|image| users(at, image))
                .unwrap_or_default()
        };
        let then = of(before);
        let moved = of(now).into_iter().filter(|user| !then.contains(user));
        let moved: NodeSet = moved.map(|user| user.0).collect();
        self.next_boots(now, &moved)
    }
}

/// What becomes of the promoted node itself.
fn notices(node: &NodeRecord, binding: &Binding, running: bool) -> Vec<String> {
    let (name, label) = (&node.name, &binding.label);
    let mut out = Vec::new();
    if running {
        out.push(format!(
            "`{name}` was running: the version is what a power cut at that moment would have left, so its \
             file systems replay their journals at the first use; `{name}` goes on over {label}"
        ));
    }
    out.push(match binding.mode {
        LayerMode::Ephemeral => format!(
            "the layer of `{name}` stays as it is over {label}, and is thrown away at its next boot"
        ),
        LayerMode::Persistent => format!(
            "the layer of `{name}` is kept over {label}; if its next boot means the new version and the \
             layer has not changed until then, it moves there and begins empty"
        ),
    });
    out
}

#[cfg(test)]
pub(super) mod test;
