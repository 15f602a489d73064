//! What a check may mend: garbage goes, redundancy is used, and what cannot be read is moved aside, never
//! removed. Everything here is what a start or a collection would do, or writes bytes whose hash is known.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Parts;
use crate::head::STORE;
use crate::head::error::Result;
use crate::names::ImageId;
use crate::store;
use crate::store::check::Severity;
use crate::store::disk::Disk;
use crate::store::disk_below::BelowDisk;
use crate::store::layer::{LayerStore, Options};
use crate::units::HumanBytes;

/// Mends, and tells what was done.
pub(super) fn repair(
    disk: &Arc<dyn Disk>,
    host_boot: &str,
    parts: &Parts,
    data: bool,
    cancel: &AtomicBool,
) -> Result<Vec<String>> {
    let below: Arc<dyn Disk> = Arc::new(BelowDisk::new(Arc::clone(disk), STORE));
    let mut done = Vec::new();
    if data {
        let chunks = store::image::check::mend_chunks(&*below, cancel)?;
        if chunks > 0 {
            done.push(format!(
                "{chunks} bad chunks were written anew from copies with the same id"
            ));
        }
    }
    aside(&*below, parts, &mut done)?;
    images(&below, parts, &mut done)?;
    layers(&below, host_boot, parts, &mut done)?;
    Ok(done)
}

/// Manifests that cannot be read and that no name needs: they only keep all space from being given back.
fn aside(disk: &dyn Disk, parts: &Parts, done: &mut Vec<String>) -> Result<()> {
    if !parts.catalog.opens || !parts.catalog.faults.is_empty() {
        return Ok(());
    }
    for id in parts
        .images
        .unreadable
        .iter()
        .filter(|id| !is_named(parts, **id))
    {
        disk.create_dir("images/damaged")?;
        disk.rename(
            &format!("images/manifests/{id}"),
            &format!("images/damaged/{id}"),
        )?;
        disk.sync_dir("images/damaged")?;
        disk.sync_dir("images/manifests")?;
        disk.sync_dir("images")?;
        done.push(format!(
            "the manifest of image {id}, which cannot be read and has no name, was moved to images/damaged"
        ));
    }
    Ok(())
}

fn is_named(parts: &Parts, id: ImageId) -> bool {
    let now = &parts.catalog.records;
    let versions = now.images().flat_map(|image| &image.versions);
    versions.map(|v| v.id).any(|named| named == id) || now.bindings().any(|b| b.image == id)
}

/// Gives back what no manifest names. Manifests stay, named or not: an older catalog may have been restored.
fn images(disk: &Arc<dyn Disk>, parts: &Parts, done: &mut Vec<String>) -> Result<()> {
    let garbage = |fault: &&store::check::Fault| fault.severity == Severity::Garbage;
    if !parts.images.faults.iter().any(|fault| garbage(&fault)) {
        return Ok(());
    }
    let images = store::image::ImageStore::open(Arc::clone(disk))?;
    match images.collect(&|_| true) {
        Ok(freed) => done.push(format!(
            "{} in packs that belonged to no image were given back",
            HumanBytes(freed.bytes)
        )),
        // A manifest that stays cannot be read: told as damage.
        Err(e) => tracing::warn!(%e, "space was not given back"),
    }
    Ok(())
}

/// A start of the layers: torn tails go, damaged logs are kept aside, and new checkpoints are written.
fn layers(
    disk: &Arc<dyn Disk>,
    host_boot: &str,
    parts: &Parts,
    done: &mut Vec<String>,
) -> Result<()> {
    let wanted =
        |fault: &store::check::Fault| fault.severity != Severity::Note && fault.layers.is_empty();
    if !parts.layers.opens || !parts.layers.faults.iter().any(wanted) {
        return Ok(());
    }
    let options = Options {
        background: false,
        ..Options::default()
    };
    let boot = store::boot_of(host_boot);
    let (layers, _) = LayerStore::open_with(Arc::clone(disk), boot, options)?;
    // Two: the one before must read back as well, with the journals since.
    layers.checkpoint()?;
    layers.checkpoint()?;
    layers.close()?;
    done.push("the layers were started once, and two new checkpoints were written".to_owned());
    Ok(())
}
