//! Profiles: settings that nodes share. A node's own setting wins over its profile's.

use serde::{Deserialize, Serialize};

use super::Head;
use super::error::{HeadError, Result};
use super::node_edit::folded_notices;
use super::nodes::{check_image, no_profile};
use crate::catalog::{Changes, NodeRecord, ProfileRecord, SettingSet, Settings, Snapshot};
use crate::names::NodeSet;
use crate::units::UnixMillis;

/// Adds a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileAdd {
    /// Its name.
    pub name: String,
    /// What it sets.
    pub settings: Settings,
    /// Only tell.
    pub dry_run: bool,
}

/// Changes a profile, and so all nodes that have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileChange {
    /// Its name.
    pub name: String,
    /// What it sets besides, or instead.
    pub settings: Settings,
    /// What it sets no more.
    pub clear: SettingSet,
    /// Only tell.
    pub dry_run: bool,
}

/// Removes a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileRemove {
    /// Its name.
    pub name: String,
    /// Only tell.
    pub dry_run: bool,
}

/// What became of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileDone {
    /// Its name.
    pub name: String,
    /// The nodes for which something is different now.
    pub nodes: NodeSet,
    /// What the operator should know besides, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Nothing was done.
    pub dry_run: bool,
}

/// A profile as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileView {
    /// Its name.
    pub name: String,
    /// What it sets.
    pub settings: Settings,
    /// The version that its image means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The nodes that have it.
    pub nodes: NodeSet,
    /// When it was added.
    pub added: UnixMillis,
}

impl Head {
    /// One profile, or all by name.
    ///
    /// # Errors
    /// There is no profile of that name.
    pub fn profiles(&self, name: Option<&str>) -> Result<Vec<ProfileView>> {
        let now = self.snapshot();
        let Some(name) = name else {
            return Ok(now.profiles().map(|p| view(&now, p)).collect());
        };
        let found = now.profile(name).ok_or_else(|| no_profile(name))?;
        Ok(vec![view(&now, found)])
    }

    /// Adds a profile.
    ///
    /// # Errors
    /// The name is taken or none; an image that does not exist.
    pub fn profile_add(&self, ask: &ProfileAdd) -> Result<ProfileDone> {
        let name = &ask.name;
        self.change(ask.dry_run, |changes| {
            if changes.view().profile(name).is_some() {
                return Err(HeadError::conflict(format!(
                    "profile `{name}` exists already; change it with `reveille profile set {name}`"
                )));
            }
            check_image(changes, ask.settings.image.as_ref())?;
            Ok(changes.put_profile(ProfileRecord {
                name: name.clone(),
                settings: ask.settings.clone(),
                added: UnixMillis::now(),
            })?)
        })?;
        Ok(ProfileDone {
            name: name.clone(),
            nodes: NodeSet::default(),
            notices: Vec::new(),
            dry_run: ask.dry_run,
        })
    }

    /// Changes a profile: one record, whatever the number of its nodes. What runs stays as it is until its next
    /// boot.
    ///
    /// # Errors
    /// There is no such profile, or no such image; one setting is set and cleared.
    pub fn profile_set(&self, ask: &ProfileChange) -> Result<ProfileDone> {
        let mut both = ask.settings.clone();
        both.clear(ask.clear);
        if both != ask.settings {
            let message = "a setting cannot be set and cleared at once; leave one of the two out";
            return Err(HeadError::invalid(message));
        }
        let (nodes, notices) = self.change(ask.dry_run, |changes| {
            let before = changes.view().profile(&ask.name).cloned();
            let before = before.ok_or_else(|| no_profile(&ask.name))?;
            let mut kept = before.settings.clone();
            kept.clear(ask.clear);
            let settings = ask.settings.over(&kept);
            check_image(changes, ask.settings.image.as_ref())?;
            put(changes, &before, settings)
        })?;
        if !ask.dry_run {
            self.apply_limits(&nodes);
        }
        Ok(ProfileDone {
            name: ask.name.clone(),
            nodes,
            notices,
            dry_run: ask.dry_run,
        })
    }

    /// Removes a profile that no node has.
    ///
    /// # Errors
    /// There is no such profile; nodes have it (the message names them).
    pub fn profile_remove(&self, ask: &ProfileRemove) -> Result<ProfileDone> {
        self.change(ask.dry_run, |changes| {
            if changes.view().profile(&ask.name).is_none() {
                return Err(no_profile(&ask.name));
            }
            changes.remove_profile(&ask.name)?;
            Ok(())
        })?;
        Ok(ProfileDone {
            name: ask.name.clone(),
            nodes: NodeSet::default(),
            notices: Vec::new(),
            dry_run: ask.dry_run,
        })
    }
}

/// Writes the new settings, and tells for which nodes something is different by them.
fn put(
    changes: &mut Changes,
    before: &ProfileRecord,
    settings: Settings,
) -> Result<(NodeSet, Vec<String>)> {
    let users = changes.view().nodes_of_profile(&before.name);
    let record = |now: &Snapshot, name: &str| now.node(name).map(|n| NodeRecord::clone(n));
    let old: Vec<_> = users
        .iter()
        .filter_map(|name| record(changes.view(), name.as_str()))
        .collect();
    if settings != before.settings {
        changes.put_profile(ProfileRecord {
            settings,
            ..before.clone()
        })?;
    }
    let new = old.iter().filter_map(|old| {
        let new = changes.view().node(old.name.as_str())?;
        (new.in_force() != old.in_force()).then_some(&**new)
    });
    let new: Vec<&NodeRecord> = new.collect();
    let notices = folded_notices(changes.view(), new.iter().copied());
    let nodes = new.iter().map(|node| node.name.clone()).collect();
    Ok((nodes, notices))
}

fn view(now: &Snapshot, profile: &ProfileRecord) -> ProfileView {
    let image = profile.settings.image.as_ref();
    let version = image.and_then(|image| {
        let version = now.resolve(image)?;
        Some(format!("{}:{}", image.name, version.version))
    });
    ProfileView {
        name: profile.name.clone(),
        settings: profile.settings.clone(),
        version,
        nodes: now.nodes_of_profile(&profile.name),
        added: profile.added,
    }
}

#[cfg(test)]
mod test;
