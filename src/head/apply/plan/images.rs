//! Images' names: versions known by their content, tags; and who would boot what is not here. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::super::error::{HeadError, HeadErrorKind, Result};
use super::super::super::text::{Document, ImageText, VersionText};
use super::super::PlanVerb;
use super::{How, Planned, field, line};
use crate::catalog::{Changes, ImageRecord, ImageRef, Snapshot, VersionRecord};
use crate::names::{ImageId, NodeName, NodeSet};

/// Takes over what the text says of an image, as far as its content is here.
pub(super) fn put_image(
    changes: &mut Changes,
    image: &ImageText,
    how: &How<'_>,
    planned: &mut Planned,
) -> Result<()> {
    let old = changes.view().image(&image.name).cloned();
    let mut new = match &old {
        Some(old) => ImageRecord::clone(old),
        None => ImageRecord::new(&image.name),
    };
    for version in &image.versions {
        let at = |e: HeadError| e.within((how.place)(version.line));
        put_version(changes.view(), &mut new, version, planned).map_err(at)?;
    }
    let mut fields = Vec::new();
    let tags: BTreeMap<String, u32> = image
        .tags
        .iter()
        .filter(|(_, number)| new.version(*number).is_some() || !is_told(image, *number))
        .cloned()
        .collect();
    let names: BTreeSet<&String> = new.tags.keys().chain(tags.keys()).collect();
    for tag in names {
        let text = |tags: &BTreeMap<String, u32>| tags.get(tag).map(ToString::to_string);
        fields.extend(field(format!("tag {tag}"), text(&new.tags), text(&tags)));
    }
    new.tags = tags;
    let newest = new.newest().map_or(0, |v| v.version);
    let next = new.next_version.max(newest.saturating_add(1));
    let next = next.max(image.next.unwrap_or(0));
    if image.next.is_some() && next != new.next_version {
        let was = Some(new.next_version.to_string());
        fields.extend(field("next", was, Some(next.to_string())));
    }
    new.next_version = next;
    let held = held_by(image, &new);
    let text = |held: Option<u32>| held.map(|number| number.to_string());
    fields.extend(field("current", text(new.held), text(held)));
    new.held = held;
    let same = old.as_ref().is_some_and(|old| **old == new);
    if same || (old.is_none() && new.versions.is_empty()) {
        return Ok(());
    }
    if !fields.is_empty() || old.is_none() {
        let verb = match old {
            Some(_) => PlanVerb::Change,
            None => PlanVerb::Add,
        };
        planned.lines.push(line(verb, "image", &image.name, fields));
    }
    let at = |e: HeadError| e.within((how.place)(image.line));
    changes.put_image(new).map_err(|e| at(e.into()))
}

/// The version that the image is rolled back to when the text is done.
fn held_by(image: &ImageText, new: &ImageRecord) -> Option<u32> {
    let current = image.current?;
    // Told with the others that are not here: as it is, until it has come and the text is applied again.
    if new.version(current).is_none() && is_told(image, current) {
        return new.held;
    }
    let newest = new.newest().map(|v| v.version);
    (newest != Some(current)).then_some(current)
}

/// A version that the text tells of, so that it may be missing here.
fn is_told(image: &ImageText, number: u32) -> bool {
    image.versions.iter().any(|v| v.number == number)
}

fn put_version(
    now: &Snapshot,
    image: &mut ImageRecord,
    version: &VersionText,
    planned: &mut Planned,
) -> Result<()> {
    let label = image.label(version.number);
    if let Some(known) = image.version(version.number)
        && known.id != version.id
    {
        return Err(HeadError::conflict(format!(
            "{label} is another content here ({}); give the text's version another number, or remove this one",
            known.id
        )));
    }
    let Some(content) = content(now, image, version.id) else {
        planned.notices.push(format!(
            "{label} is not here (content {}, {} bytes); import it: `reveille image import FILE --name {}`, \
             then apply again",
            version.id, version.size, image.name
        ));
        return Ok(());
    };
    if content.size != version.size {
        return Err(HeadError::conflict(format!(
            "{label}: the content has {} bytes and not {}; correct `size`",
            content.size, version.size
        )));
    }
    let old = image.version(version.number).cloned();
    let new = VersionRecord {
        version: version.number,
        arch: version.arch.clone(),
        note: version.note.clone(),
        ..old.clone().unwrap_or(content)
    };
    let of = |f: fn(&VersionRecord) -> Option<String>| old.as_ref().and_then(f);
    let mut fields = Vec::new();
    fields.extend(field("arch", of(|v| v.arch.clone()), new.arch.clone()));
    fields.extend(field("note", of(|v| v.note.clone()), new.note.clone()));
    let verb = match old {
        Some(_) if fields.is_empty() => return Ok(()),
        Some(_) => PlanVerb::Change,
        None => PlanVerb::Add,
    };
    planned.lines.push(line(verb, "image", label, fields));
    image.versions.retain(|v| v.version != version.number);
    image.versions.push(new);
    image.versions.sort_by_key(|v| v.version);
    Ok(())
}

/// Any version here that has this content; its bytes are in the store as long as one names them.
fn content(now: &Snapshot, image: &ImageRecord, id: ImageId) -> Option<VersionRecord> {
    let here = image.versions.iter();
    let all = here.chain(now.images().flat_map(|i| &i.versions));
    all.into_iter().find(|v| v.id == id).cloned()
}

/// Only names go: content that nothing else names could not be brought back from a text.
pub(super) fn prune_versions(
    changes: &mut Changes,
    document: &Document,
    planned: &mut Planned,
) -> Result<()> {
    let Some(images) = &document.images else {
        return Ok(());
    };
    let told = |name: &str, number: u32| {
        let image = images.iter().find(|image| image.name == name);
        image.is_some_and(|image| is_told(image, number))
    };
    let all = changes.view().images();
    let all: Vec<(String, VersionRecord)> = all
        .flat_map(|i| i.versions.iter().map(|v| (i.name.clone(), v.clone())))
        .collect();
    let stays = all.iter().filter(|(name, v)| told(name, v.version));
    let stays: BTreeSet<[u8; 32]> = stays.map(|(_, v)| v.id.0).collect();
    for (name, version) in all.iter().filter(|(name, v)| !told(name, v.version)) {
        let Some(image) = changes.view().image(name) else {
            continue;
        };
        let label = image.label(version.version);
        if !stays.contains(&version.id.0) {
            planned.notices.push(format!(
                "{label} stays, because no text could bring its content back; `reveille image rm {label}` removes it"
            ));
            continue;
        }
        let mut image = ImageRecord::clone(image);
        image.versions.retain(|v| v.version != version.version);
        image.tags.retain(|_, number| *number != version.version);
        if image.versions.is_empty() {
            changes.remove_image(name)?;
        } else {
            changes.put_image(image)?;
        }
        planned
            .lines
            .push(line(PlanVerb::Remove, "image", label, Vec::new()));
    }
    Ok(())
}

/// What the text names must be there, and what was there before must not be lost by it.
pub(super) fn check_images(
    before: &Snapshot,
    after: &Snapshot,
    document: &Document,
    how: &How<'_>,
    planned: &mut Planned,
) -> Result<()> {
    let nodes = document.nodes.iter().flatten();
    let told: HashMap<&NodeName, usize> = nodes.map(|n| (&n.name, n.line)).collect();
    let profiles = document.profiles.iter().flatten();
    let told_profiles: HashMap<&str, usize> = profiles.map(|p| (p.name.as_str(), p.line)).collect();
    let lost = |image: &ImageRef| before.resolve(image).is_some();
    let mut missing = BTreeMap::<String, NodeSet>::new();
    for profile in after.profiles() {
        let Some(image) = &profile.settings.image else {
            continue;
        };
        let line = told_profiles.get(profile.name.as_str()).copied();
        if after.resolve(image).is_none() && (line.is_some() || lost(image)) {
            refuse_missing(&format!("profile `{}`", profile.name), image, line, how)?;
            missing.entry(image.to_string()).or_default();
        }
    }
    for node in after.nodes() {
        let Some(image) = &node.image else { continue };
        let line = told.get(&node.name).copied();
        if after.resolve(image).is_none() && (line.is_some() || lost(image)) {
            refuse_missing(&format!("node `{}`", node.name), image, line, how)?;
            let set = missing.entry(image.to_string()).or_default();
            set.insert(node.name.clone());
        }
    }
    for (image, set) in missing {
        let who = if set.is_empty() {
            "profiles name".to_owned()
        } else {
            format!("{set} cannot boot before")
        };
        planned
            .notices
            .push(format!("{who} {image}, which is not here yet"));
    }
    Ok(())
}

fn refuse_missing(who: &str, image: &ImageRef, line: Option<usize>, how: &How<'_>) -> Result<()> {
    if how.missing_images {
        return Ok(());
    }
    let error = HeadError::new(
        HeadErrorKind::Conflict,
        format!(
            "{who}: there is no image {image}; import it first, or take it as it is with --missing-images"
        ),
    );
    Err(match line {
        Some(line) => error.within((how.place)(line)),
        None => error,
    })
}
