//! Names against things: what the catalog says exists must be in the store, and what is in the store must have a
//! name. Pure.

use std::collections::BTreeSet;

use super::{CheckCounts, CheckReport, Finding, Parts};
use crate::catalog::{Binding, LayerMode, Snapshot};
use crate::head::boot::NO_BOOT;
use crate::names::{ImageId, LayerId, NodeSet};
use crate::store::Durability;
use crate::store::check::{Fault, Severity};
use crate::store::image::check::ImageFacts;

use Severity::{Damage, Garbage, Note};

/// A finding that concerns no node and no image.
pub(super) fn plain(fault: Fault) -> Finding {
    Finding {
        severity: fault.severity,
        object: fault.object,
        what: fault.what,
        nodes: NodeSet::default(),
        images: Vec::new(),
        next: fault.next,
    }
}

/// All findings, with the nodes and image versions that they concern.
pub(super) fn report(parts: &Parts) -> CheckReport {
    let now = &parts.catalog.records;
    let mut faults: Vec<Fault> = Vec::new();
    for (object, what) in &parts.catalog.faults {
        let next = if parts.catalog.opens {
            "the head does not start with it; restore catalog.redb from a copy"
        } else {
            "restore catalog.redb from a copy: nobody knows which node has which layer without it"
        };
        faults.push(Fault::new(Damage, object, what, next));
    }
    faults.extend(parts.images.faults.iter().cloned());
    faults.extend(parts.layers.faults.iter().cloned());
    if parts.catalog.opens {
        versions(parts, &mut faults);
        nodes(now, &mut faults);
        bindings(parts, &mut faults);
        nameless(parts, &mut faults);
    }
    let findings = faults.into_iter().map(|fault| named(now, fault));
    let mut report = CheckReport {
        findings: findings.collect(),
        counts: counts(parts),
        ..CheckReport::default()
    };
    report.finish();
    report
}

fn counts(parts: &Parts) -> CheckCounts {
    let now = &parts.catalog.records;
    CheckCounts {
        nodes: now.node_count() as u64,
        versions: now.images().map(|image| image.versions.len() as u64).sum(),
        manifests: parts.images.images.len() as u64,
        packs: parts.images.packs,
        chunks: parts.images.chunks,
        layers: parts.layers.layers.len() as u64,
        records: parts.layers.records,
        data_bytes: parts.images.bytes_read,
    }
}

/// The labels of the images and the nodes that boot them or stand on them, and those of the layers.
fn named(now: &Snapshot, fault: Fault) -> Finding {
    let hit = |id: ImageId| fault.images.contains(&id);
    let labels = now.images().flat_map(|image| {
        let versions = image.versions.iter().filter(|v| hit(v.id));
        versions.map(|v| image.label(v.version)).collect::<Vec<_>>()
    });
    let bound = |layer: LayerId| now.binding(layer).filter(|b| b.boot != NO_BOOT);
    let concerned = now.nodes().filter(|node| {
        let wanted = node.image.as_ref().and_then(|image| now.resolve(image));
        fault.layers.contains(&node.layer)
            || wanted.is_some_and(|version| hit(version.id))
            || bound(node.layer).is_some_and(|binding| hit(binding.image))
    });
    let nodes: NodeSet = concerned.map(|node| node.name.clone()).collect();
    let images = labels.collect();
    Finding {
        nodes,
        images,
        ..plain(fault)
    }
}

fn versions(parts: &Parts, faults: &mut Vec<Fault>) {
    for image in parts.catalog.records.images() {
        for version in &image.versions {
            let object = format!("image {}", image.label(version.version));
            let wrong = match thing(parts, version.id) {
                Thing::Told => continue,
                Thing::Missing => "its manifest is missing".to_owned(),
                Thing::There(facts) if facts.size == version.size => continue,
                Thing::There(facts) => format!(
                    "the catalog says {} bytes, its manifest {}",
                    version.size, facts.size
                ),
            };
            let next = "import it again from its file, or remove the version";
            faults.push(Fault::new(Damage, object, wrong, next).of_images([version.id]));
        }
    }
}

enum Thing {
    There(ImageFacts),
    /// It is there and damaged: told already.
    Told,
    Missing,
}

fn thing(parts: &Parts, id: ImageId) -> Thing {
    match parts.images.images.get(&id) {
        Some(facts) => Thing::There(*facts),
        None if parts.images.unreadable.contains(&id) => Thing::Told,
        None => Thing::Missing,
    }
}

fn nodes(now: &Snapshot, faults: &mut Vec<Fault>) {
    let given = now.counter("layers");
    for node in now.nodes() {
        let object = format!("node {}", node.name);
        if u64::from(node.layer.0) > given {
            let what = format!(
                "it has layer {}, and only layers up to {given} were given out: the number would be given twice",
                node.layer
            );
            let next = "restore catalog.redb from a copy";
            faults.push(Fault::new(Damage, &object, what, next).of_layer(node.layer));
        }
        if let Some(image) = node
            .image
            .as_ref()
            .filter(|image| now.resolve(image).is_none())
        {
            let what = format!("it is set to image {image}, which is not there");
            let next = format!(
                "import it, or set another with `reveille node set {} --image NAME`",
                node.name
            );
            faults.push(Fault::new(Note, object, what, next).of_layer(node.layer));
        }
    }
}

fn bindings(parts: &Parts, faults: &mut Vec<Fault>) {
    let now = &parts.catalog.records;
    for binding in now.bindings() {
        let object = format!("binding of layer {}", binding.layer);
        if now.node_by_layer(binding.layer).is_none() {
            let next = "restore catalog.redb from a copy if a node is missing";
            let fault = Fault::new(Damage, object, "no node has this layer", next);
            faults.push(fault.of_layer(binding.layer));
            continue;
        }
        if binding.boot == NO_BOOT {
            continue;
        }
        if let Thing::Missing = thing(parts, binding.image) {
            let what = format!("its image {} is not there", binding.label);
            let next = "import the image again from its file, or reset the layer";
            let fault = Fault::new(Damage, &object, what, next);
            faults.push(fault.of_layer(binding.layer).of_images([binding.image]));
        }
        if let Some(what) = mismatch(parts, binding) {
            let next = "reset the layer with `reveille layer reset`";
            faults.push(Fault::new(Damage, object, what, next).of_layer(binding.layer));
        }
    }
}

/// A layer that was born over something else than its binding says cannot be opened.
fn mismatch(parts: &Parts, binding: &Binding) -> Option<String> {
    let layer = parts.layers.layers.get(&binding.layer)?;
    let (image, _, durability) = layer.birth?;
    if image != binding.image {
        return Some(format!(
            "its blocks belong to image {image}, the binding says {} ({})",
            binding.image, binding.label
        ));
    }
    let wanted = match binding.mode {
        LayerMode::Persistent => Durability::Durable,
        LayerMode::Ephemeral => Durability::Volatile,
    };
    (durability != wanted).then(|| {
        format!(
            "its layer is {durability:?}, the binding is {}",
            binding.mode
        )
    })
}

/// Things without a name.
fn nameless(parts: &Parts, faults: &mut Vec<Fault>) {
    let now = &parts.catalog.records;
    let versions = now.images().flat_map(|image| &image.versions).map(|v| v.id);
    let bound = now.bindings().filter(|b| b.boot != NO_BOOT);
    let named: BTreeSet<ImageId> = versions.chain(bound.map(|b| b.image)).collect();
    for id in parts.images.images.keys().filter(|id| !named.contains(id)) {
        let what = "no image version and no running boot names it: an import whose name was never written \
                    down, or a removal that was not finished";
        let next = "the next removal of an image gives its space back; after restoring an older catalog, \
                    import its file again first";
        faults.push(Fault::new(Garbage, format!("image {id}"), what, next));
    }
    for layer in parts.layers.layers.keys() {
        if now.node_by_layer(*layer).is_none() {
            let object = format!("layer {layer}");
            let next = "the next start removes it";
            faults.push(Fault::new(Garbage, object, "no node has it", next));
        }
    }
}
