//! Going back to an earlier version of an image, notes on versions, and who boots what next.

use serde::{Deserialize, Serialize};

use super::Head;
use super::error::{HeadError, Result};
use super::images::find;
use crate::catalog::{ImageRef, LATEST, Snapshot, VersionSelector};
use crate::names::NodeSet;

/// Lets a bare name, or a tag, mean an earlier version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRollback {
    /// `debian12`, or a tag of it: `debian12:stable`.
    pub image: ImageRef,
    /// The version; the one before the present one when absent.
    #[serde(default)]
    pub to: Option<u32>,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a roll-back did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRolledBack {
    /// `debian12` or `debian12:stable`.
    pub name: String,
    /// The version that it means now.
    pub version: u32,
    /// The version that it meant before.
    pub before: u32,
    /// The newest version there is.
    pub newest: u32,
    /// The nodes whose next boot is another one by this.
    pub next: Vec<NextBoot>,
    /// Nothing was done.
    pub dry_run: bool,
}

/// What the next boot of some nodes will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextBoot {
    /// The nodes.
    pub nodes: NodeSet,
    /// The version that they will boot; absent when they have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why that is not the version that their setting means, with the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// Sets the note of a version, or clears it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageNote {
    /// Which.
    pub image: ImageRef,
    /// The note; none clears it.
    #[serde(default)]
    pub note: Option<String>,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of a note.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNoted {
    /// `debian12:3`.
    pub label: String,
    /// The note now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The note before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Nothing was done.
    pub dry_run: bool,
}

impl Head {
    /// Lets a bare name (and `latest`) or a tag mean an earlier version again. No node that runs is touched;
    /// a bare name stays there until the next new version of the image, a tag until it is moved.
    ///
    /// # Errors
    /// No such image, tag or version; there is no earlier version; its content is not in the store.
    pub fn image_rollback(&self, ask: &ImageRollback) -> Result<ImageRolledBack> {
        let tag = match &ask.image.version {
            None => None,
            Some(VersionSelector::Tag(tag)) if tag == LATEST => None,
            Some(VersionSelector::Tag(tag)) => Some(tag),
            Some(VersionSelector::Number(number)) => {
                let name = &ask.image.name;
                return Err(HeadError::invalid(format!(
                    "`{}` always is version {number}; roll `{name}` or a tag of it back, with `--to {number}` \
                     for that version",
                    ask.image
                )));
            }
        };
        self.change(ask.dry_run, |changes| {
            let old = changes.view().clone();
            let (image, present) = find(&old, &ask.image)?;
            let target = match ask.to {
                Some(number) => image.version(number).ok_or_else(|| {
                    let label = image.label(number);
                    HeadError::not_found(format!(
                        "there is no image version {label}; `reveille image ls` shows those there are"
                    ))
                })?,
                None => {
                    let earlier = image.versions.iter().rev();
                    let mut earlier = earlier.filter(|v| v.version < present.version);
                    earlier.next().ok_or_else(|| {
                        HeadError::conflict(format!(
                            "{} is the earliest version there is of {}; there is nothing to go back to",
                            image.label(present.version),
                            image.name
                        ))
                    })?
                }
            };
            if !self.store.images.contains(target.id)? {
                let label = image.label(target.version);
                let message = format!("the content of {label} is not in the store; import it again");
                return Err(HeadError::conflict(message));
            }
            let newest = image.newest().map_or(target.version, |v| v.version);
            let mut after = image.clone();
            match tag {
                Some(tag) => drop(after.tags.insert(tag.clone(), target.version)),
                None => after.held = (target.version != newest).then_some(target.version),
            }
            changes.put_image(after)?;
            Ok(ImageRolledBack {
                name: match tag {
                    Some(tag) => format!("{}:{tag}", image.name),
                    None => image.name.clone(),
                },
                version: target.version,
                before: present.version,
                newest,
                next: self.moved(&old, changes.view(), &image.name),
                dry_run: ask.dry_run,
            })
        })
    }

    /// Sets or clears the note of a version.
    ///
    /// # Errors
    /// No such version; the note is too long.
    pub fn image_note(&self, ask: &ImageNote) -> Result<ImageNoted> {
        self.change(ask.dry_run, |changes| {
            let (image, version) = find(changes.view(), &ask.image)?;
            let (label, number) = (image.label(version.version), version.version);
            let before = version.note.clone();
            let mut after = image.clone();
            let noted = after.versions.iter_mut().filter(|v| v.version == number);
            for version in noted {
                version.note.clone_from(&ask.note);
            }
            changes.put_image(after)?;
            Ok(ImageNoted {
                label,
                note: ask.note.clone(),
                before,
                dry_run: ask.dry_run,
            })
        })
    }

    /// What the next boots of nodes will be, those alike together.
    pub(super) fn next_boots(&self, now: &Snapshot, nodes: &NodeSet) -> Vec<NextBoot> {
        let mut all: Vec<(super::rebase::Outlook, Vec<crate::names::NodeName>)> = Vec::new();
        for name in nodes.iter() {
            let Some(record) = now.node(name.as_str()) else {
                continue;
            };
            let outlook = self.outlook(now, record);
            match all.iter_mut().find(|(known, _)| *known == outlook) {
                Some((_, alike)) => alike.push(name.clone()),
                None => all.push((outlook, vec![name.clone()])),
            }
        }
        let next = all.into_iter().map(|(outlook, alike)| NextBoot {
            nodes: alike.into_iter().collect(),
            version: outlook.label,
            kept: outlook.kept,
        });
        next.collect()
    }
}

#[cfg(test)]
mod test;
