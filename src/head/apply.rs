//! Makes the catalog be what a text says: the plan first, then all of it in one commit, or nothing.

mod plan;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{HeadError, Result};
use super::layers::refuse_busy;
use super::{Head, text};
use crate::catalog::NodeRecord;
use crate::names::{NodeName, NodeSet};
use crate::units::UnixMillis;

/// A text to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Apply {
    /// YAML or JSON, as [`Head::export`] writes it; parts of it will do.
    pub text: String,
    /// What errors call it: a file's name.
    pub file: String,
    /// Removes what sections that are there do not name.
    pub prune: bool,
    /// Takes nodes and profiles whose images are not here yet.
    pub missing_images: bool,
    /// The token of a plan that was shown: another plan is refused.
    pub expect: Option<String>,
    /// Only tell.
    pub dry_run: bool,
}

/// What applying a text did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What is added, changed and removed; empty when the catalog is so already.
    pub plan: Vec<PlanLine>,
    /// What the operator should know besides, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Names this plan.
    pub token: String,
    /// Nothing was done.
    pub dry_run: bool,
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanVerb {
    /// It is new.
    Add,
    /// It is there and differs.
    Change,
    /// It goes.
    Remove,
}

/// One line of a plan: an object, or nodes for which the same happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanLine {
    /// What becomes of it.
    pub verb: PlanVerb,
    /// `node`, `profile`, `image`, `drain`.
    pub kind: String,
    /// Its name; nodes as a node set.
    pub name: String,
    /// In what it differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<PlanField>,
}

/// One difference. Secrets have no values here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanField {
    /// Which field.
    pub field: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl std::fmt::Display for PlanLine {
    /// `+ node n1 image a:1`, `~ node n2 image a:1 -> a:2`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.verb {
            PlanVerb::Add => '+',
            PlanVerb::Change => '~',
            PlanVerb::Remove => '-',
        };
        write!(f, "{sign} {} {}", self.kind, self.name)?;
        for (at, field) in self.fields.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma} {}", field.field)?;
            match (&field.from, &field.to) {
                (None, None) => f.write_str(" changed")?,
                (None, Some(to)) if self.verb == PlanVerb::Add => write!(f, " {to}")?,
                (from, to) => {
                    let text = |side: &Option<String>| side.clone().unwrap_or("(none)".into());
                    write!(f, " {} -> {}", text(from), text(to))?;
                }
            }
        }
        Ok(())
    }
}

impl Head {
    /// Everything that this head was told, as text; with CHAP secrets and disk identities if `secrets`.
    #[must_use]
    pub fn export(&self, secrets: bool, json: bool) -> String {
        let document = text::Document::of(&self.snapshot(), &self.drains(), secrets);
        if json {
            document.to_json()
        } else {
            document.to_yaml()
        }
    }

    /// Makes the catalog be what a text says, in one commit. Nodes for which `busy` says that their disk is open
    /// are not removed; `own` tells whether an address is this head's, to which nobody is sent.
    ///
    /// # Errors
    /// The text is wrong (file and line are named), something in it cannot be (a MAC of two nodes, an image that
    /// is not here), or the plan is not the one that was shown. Then nothing was done.
    pub fn apply(
        &self,
        ask: &Apply,
        busy: &dyn Fn(&NodeName) -> bool,
        own: &dyn Fn(SocketAddr) -> bool,
    ) -> Result<Applied> {
        let place = |line: usize| match ask.file.as_str() {
            "" => format!("line {line}"),
            file => format!("{file}:{line}"),
        };
        let document = text::read(&ask.text)
            .map_err(|fault| HeadError::invalid(fault.message).within(place(fault.line)))?;
        let how = plan::How {
            prune: ask.prune,
            missing_images: ask.missing_images,
            now: UnixMillis::now(),
            place: &place,
            own,
        };
        let planned = self.change(ask.dry_run, |changes| {
            let planned = plan::make(changes, &document, &how)?;
            let goes: NodeSet = planned.removed.iter().map(|n| n.name.clone()).collect();
            refuse_busy(&goes, busy, "they cannot be removed")?;
            let token = token(&planned.lines);
            if ask.expect.as_ref().is_some_and(|shown| *shown != token) {
                return Err(HeadError::conflict(
                    "the catalog was changed since the plan was shown; look at the new one and apply again",
                ));
            }
            Ok((planned, token))
        })?;
        let (planned, token) = planned;
        let mut notices = planned.notices;
        if !ask.dry_run {
            notices.extend(self.applied(&planned.removed, planned.macs));
        }
        Ok(Applied {
            plan: planned.lines,
            notices,
            token,
            dry_run: ask.dry_run,
        })
    }

    /// What follows from a commit.
    fn applied(
        &self,
        removed: &[Arc<NodeRecord>],
        macs: BTreeSet<crate::names::Mac>,
    ) -> Vec<String> {
        self.read_drains();
        self.apply_all_limits();
        self.pending_taken(macs.into_iter());
        let set: NodeSet = removed.iter().map(|n| n.name.clone()).collect();
        self.nodes_gone(&set, removed)
    }
}

/// Tells one plan from another.
fn token(lines: &[PlanLine]) -> String {
    let mut hasher = blake3::Hasher::new();
    for line in lines {
        hasher.update(line.to_string().as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize().to_hex().chars().take(16).collect()
}

#[cfg(test)]
mod test;
