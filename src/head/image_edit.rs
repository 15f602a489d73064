//! Images' names: tags set and removed, versions removed when nobody uses them.

use serde::{Deserialize, Serialize};

use super::Head;
use super::boot::NO_BOOT;
use super::error::{HeadError, Result};
use super::images::{find, users};
use crate::catalog::{
    Binding, Changes, ImageRecord, ImageRef, LATEST, LayerMode, Snapshot, VersionRecord,
};
use crate::names::{ImageId, NodeName, NodeSet};

/// Puts a tag on a version, or moves it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTag {
    /// The version.
    pub image: ImageRef,
    /// The tag.
    pub tag: String,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// Removes a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageUntag {
    /// The image's name.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageTagged {
    /// The image's name.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// The version it is on now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The version it was on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u32>,
    /// The nodes whose next boot is another one by this.
    pub nodes: NodeSet,
    /// Nothing was done.
    pub dry_run: bool,
}

/// Removes a version, or an image with all versions where the reference names none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRemove {
    /// Which.
    pub image: ImageRef,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a removal did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRemoved {
    /// The versions removed: `debian12:3`.
    pub labels: Vec<String>,
    /// Bytes of the medium given back; absent when an import is running, after which it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed_bytes: Option<u64>,
    /// Nothing was done.
    pub dry_run: bool,
}

impl Head {
    /// Puts a tag on a version, or moves it there; moving it back is a rollback.
    ///
    /// # Errors
    /// No such version; a word that is no tag; the catalog's.
    pub fn image_tag(&self, ask: &ImageTag) -> Result<ImageTagged> {
        self.change(ask.dry_run, |changes| {
            let (image, version) = find(changes.view(), &ask.image)?;
            let (before, mut after) = (image.clone(), image.clone());
            after.tags.insert(ask.tag.clone(), version.version);
            retag(changes, &before, after, &ask.tag, ask.dry_run)
        })
    }

    /// Removes a tag.
    ///
    /// # Errors
    /// No such tag; nodes are set to it.
    pub fn image_untag(&self, ask: &ImageUntag) -> Result<ImageTagged> {
        let (name, tag) = (&ask.name, &ask.tag);
        self.change(ask.dry_run, |changes| {
            let missing = |what: String| HeadError::not_found(format!("there is no {what}"));
            let image = changes.view().image(name);
            let image = image.ok_or_else(|| missing(format!("image `{name}`")))?;
            let image = ImageRecord::clone(image);
            let mut after = image.clone();
            if tag == LATEST {
                let message =
                    format!("`{LATEST}` is what the bare name means; it cannot be removed");
                return Err(HeadError::invalid(message));
            }
            if after.tags.remove(tag).is_none() {
                return Err(missing(format!("tag {name}:{tag}")));
            }
            let left = users(changes.view(), &after).into_iter();
            let left: NodeSet = left.filter(|u| u.1.is_none()).map(|u| u.0).collect();
            if !left.is_empty() {
                return Err(HeadError::conflict(format!(
                    "{left} are set to {name}:{tag}; set them to another version first"
                )));
            }
            retag(changes, &image, after, tag, ask.dry_run)
        })
    }

    /// Removes a version or a whole image. Refused while a node is set to it, has it open (`busy`), or keeps
    /// a persistent layer over it.
    ///
    /// # Errors
    /// No such image; in use (the message names the nodes).
    pub fn image_remove(
        &self,
        ask: &ImageRemove,
        busy: &dyn Fn(&NodeName) -> bool,
    ) -> Result<ImageRemoved> {
        let labels = self.change(ask.dry_run, |changes| {
            let (image, versions) = wanted(changes.view(), &ask.image)?;
            refuse_set(changes.view(), &image, &versions)?;
            unbind(changes, &image, &versions, busy)?;
            let labels = versions.iter().map(|v| image.label(v.version)).collect();
            remove_versions(changes, image, &versions, ask.image.version.is_none())?;
            Ok(labels)
        })?;
        let freed_bytes = if ask.dry_run {
            None
        } else {
            self.collect_images()?
        };
        Ok(ImageRemoved {
            labels,
            freed_bytes,
            dry_run: ask.dry_run,
        })
    }
}

fn retag(
    changes: &mut Changes,
    before: &ImageRecord,
    after: ImageRecord,
    tag: &str,
    dry_run: bool,
) -> Result<ImageTagged> {
    let then = users(changes.view(), before);
    let now = users(changes.view(), &after);
    let moved = then.iter().zip(&now).filter(|(then, now)| then.1 != now.1);
    let tagged = ImageTagged {
        name: after.name.clone(),
        tag: tag.to_owned(),
        version: after.tags.get(tag).copied(),
        before: before.tags.get(tag).copied(),
        nodes: moved.map(|(_, now)| now.0.clone()).collect(),
        dry_run,
    };
    changes.put_image(after)?;
    Ok(tagged)
}

/// The image and those of its versions that a removal means.
fn wanted(now: &Snapshot, image: &ImageRef) -> Result<(ImageRecord, Vec<VersionRecord>)> {
    if image.version.is_none()
        && let Some(whole) = now.image(&image.name)
    {
        return Ok((ImageRecord::clone(whole), whole.versions.clone()));
    }
    let (record, version) = find(now, image)?;
    Ok((record.clone(), vec![version.clone()]))
}

fn refuse_set(now: &Snapshot, image: &ImageRecord, versions: &[VersionRecord]) -> Result<()> {
    let whole = versions.len() == image.versions.len();
    let used = |number: Option<u32>| {
        whole || number.is_some_and(|n| versions.iter().any(|v| v.version == n))
    };
    let set = users(now, image).into_iter().filter(|u| used(u.1));
    let set: NodeSet = set.map(|u| u.0).collect();
    let name = &image.name;
    if set.is_empty() {
        let mut refer = now.profiles().filter(|profile| {
            let wanted = profile.settings.image.as_ref();
            wanted
                .filter(|wanted| wanted.name == *name)
                .is_some_and(|wanted| {
                    used(image.select(wanted.version.as_ref()).map(|v| v.version))
                })
        });
        return match refer.next() {
            None => Ok(()),
            Some(profile) => Err(HeadError::conflict(format!(
                "image {name} is in use by profile `{0}`; \
                 set that to another version first: `reveille profile set {0} --image NAME`",
                profile.name
            ))),
        };
    }
    Err(HeadError::conflict(format!(
        "image {name} is in use: {set} would boot what you remove; set them to another version first"
    )))
}

/// Refuses where a layer needs the content; makes bindings of finished ephemeral boots void.
fn unbind(
    changes: &mut Changes,
    image: &ImageRecord,
    versions: &[VersionRecord],
    busy: &dyn Fn(&NodeName) -> bool,
) -> Result<()> {
    let now = changes.view();
    let goes = |id: ImageId| versions.iter().any(|v| v.id == id);
    let others = now.images().filter(|i| i.name != image.name);
    let others = others.flat_map(|i| &i.versions);
    let stays: Vec<ImageId> = others
        .chain(image.versions.iter().filter(|v| !versions.contains(v)))
        .map(|v| v.id)
        .filter(|id| goes(*id))
        .collect();
    let bound = now.bindings().filter(|b| b.boot != NO_BOOT);
    let bound: Vec<Binding> = bound
        .filter(|b| b.images().any(|id| goes(id) && !stays.contains(&id)))
        .map(|b| Binding::clone(b))
        .collect();
    let (mut open, mut kept) = (NodeSet::default(), NodeSet::default());
    for binding in &bound {
        let Some(node) = now.node_by_layer(binding.layer) else {
            continue;
        };
        if busy(&node.name) {
            open.insert(node.name.clone());
        } else if binding.mode == LayerMode::Persistent {
            kept.insert(node.name.clone());
        }
    }
    let name = &image.name;
    if !open.is_empty() {
        return Err(HeadError::conflict(format!(
            "image {name} is in use: {open} run from it now; boot them from another version first"
        )));
    }
    if !kept.is_empty() {
        return Err(HeadError::conflict(format!(
            "image {name} is in use: {kept} keep layers over it; `reveille layer reset` throws them away"
        )));
    }
    for mut binding in bound {
        binding.boot = NO_BOOT;
        changes.put_binding(binding)?;
    }
    Ok(())
}

fn remove_versions(
    changes: &mut Changes,
    mut image: ImageRecord,
    versions: &[VersionRecord],
    whole: bool,
) -> Result<()> {
    if whole {
        changes.remove_image(&image.name)?;
        return Ok(());
    }
    image.versions.retain(|v| !versions.contains(v));
    let left = image.clone();
    image
        .tags
        .retain(|_, number| left.version(*number).is_some());
    let newest = left.newest().map(|v| v.version);
    image.held = image
        .held
        .filter(|held| left.version(*held).is_some() && Some(*held) != newest);
    Ok(changes.put_image(image)?)
}
