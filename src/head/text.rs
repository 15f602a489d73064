//! What an administrator told a head, as a text that reads, compares and merges well: `reveille export` writes it,
//! `reveille apply` makes a head be what it says. `docs/formats/export.md` describes it. Pure.
//!
//! ```text
//!   Snapshot ──► Document ──► print (YAML or JSON)
//!   text ──► tree (values with their lines, bounded) ──► read ──► Document ──► apply
//! ```

#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod print;
mod read;
mod tree;

use std::net::{Ipv4Addr, SocketAddr};

use super::Drains;
use crate::catalog::{Secret, Settings, Snapshot};
use crate::names::{ImageId, Mac, NodeName};

pub(super) use read::read;

/// The format of the text.
pub(super) const FORMAT: u64 = 1;

/// What is wrong with a text, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) message: String,
}

impl Fault {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
        }
    }
}

/// A whole text. A section that is not there says nothing about its objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Document {
    pub(super) images: Option<Vec<ImageText>>,
    pub(super) profiles: Option<Vec<ProfileText>>,
    pub(super) nodes: Option<Vec<NodeText>>,
    pub(super) drain: Option<Vec<OrderText>>,
    pub(super) identities: Option<Vec<IdentityText>>,
}

/// An image's names; not its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ImageText {
    pub(super) line: usize,
    pub(super) name: String,
    /// The number of the next version, where it is not one above the newest.
    pub(super) next: Option<u32>,
    /// The version that the bare name means, where an image was rolled back.
    pub(super) current: Option<u32>,
    pub(super) tags: Vec<(String, u32)>,
    pub(super) versions: Vec<VersionText>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct VersionText {
    pub(super) line: usize,
    pub(super) number: u32,
    pub(super) id: ImageId,
    pub(super) size: u64,
    pub(super) arch: Option<String>,
    pub(super) note: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct ProfileText {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) settings: Settings,
}

/// One node; the text has them in groups of equal settings.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeText {
    pub(super) line: usize,
    pub(super) name: NodeName,
    pub(super) profile: Option<String>,
    pub(super) own: Settings,
    pub(super) macs: Vec<Mac>,
    pub(super) ip: Option<Ipv4Addr>,
}

/// One order to drain: a node's, or the whole head's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OrderText {
    pub(super) line: usize,
    pub(super) node: Option<NodeName>,
    pub(super) to: Option<SocketAddr>,
}

/// What makes a node the same to itself on another head.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct IdentityText {
    pub(super) line: usize,
    pub(super) node: NodeName,
    pub(super) disk: String,
    pub(super) secret: Secret,
    pub(super) head_secret: Secret,
}

impl Document {
    /// Everything of a catalog that was told; with what only the nodes and this head know if `secrets`.
    pub(super) fn of(now: &Snapshot, drains: &Drains, secrets: bool) -> Self {
        let profiles = now.profiles().map(|p| ProfileText {
            line: 0,
            name: p.name.clone(),
            settings: p.settings.clone(),
        });
        let nodes = now.nodes().map(|n| NodeText {
            line: 0,
            name: n.name.clone(),
            profile: n.profile.clone(),
            own: n.own(),
            macs: n.macs.clone(),
            ip: n.ip,
        });
        let identities = now.nodes().map(|n| IdentityText {
            line: 0,
            node: n.name.clone(),
            disk: n.disk_uuid.clone(),
            secret: n.secret.clone(),
            head_secret: n.head_secret.clone(),
        });
        let whole = drains.whole.iter().map(|order| (None, order));
        let single = drains
            .nodes
            .iter()
            .map(|(name, order)| (Some(name.clone()), order));
        let orders = whole.chain(single).map(|(node, order)| OrderText {
            line: 0,
            node,
            to: order.to,
        });
        Self {
            images: Some(now.images().map(|image| image_text(image)).collect()),
            profiles: Some(profiles.collect()),
            nodes: Some(nodes.collect()),
            drain: Some(orders.collect()),
            identities: secrets.then(|| identities.collect()),
        }
    }

    /// One YAML document, with comments.
    pub(super) fn to_yaml(&self) -> String {
        print::yaml(self)
    }

    /// One JSON document.
    pub(super) fn to_json(&self) -> String {
        print::json(self)
    }
}

#[cfg(any(test, fuzzing))]
impl Document {
    /// Without lines, which a printed document does not have.
    fn plain(mut self) -> Self {
        for image in self.images.iter_mut().flatten() {
            image.line = 0;
            image.versions.iter_mut().for_each(|v| v.line = 0);
        }
        let profiles = self.profiles.iter_mut().flatten();
        profiles.for_each(|p| p.line = 0);
        self.nodes.iter_mut().flatten().for_each(|n| n.line = 0);
        self.drain.iter_mut().flatten().for_each(|o| o.line = 0);
        let identities = self.identities.iter_mut().flatten();
        identities.for_each(|i| i.line = 0);
        self
    }
}

fn image_text(image: &crate::catalog::ImageRecord) -> ImageText {
    let versions = image.versions.iter().map(|v| VersionText {
        line: 0,
        number: v.version,
        id: v.id,
        size: v.size,
        arch: v.arch.clone(),
        note: v.note.clone(),
    });
    let usual = image.newest().map_or(1, |v| v.version.saturating_add(1));
    ImageText {
        line: 0,
        name: image.name.clone(),
        next: (image.next_version != usual).then_some(image.next_version),
        current: image.held,
        tags: image.tags.iter().map(|(t, n)| (t.clone(), *n)).collect(),
        versions: versions.collect(),
    }
}

#[cfg(test)]
mod test;
