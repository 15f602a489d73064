//! What differs between two image versions, or between a node's disk and the version below it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::Head;
use super::error::{HeadError, Result};
use super::images::{Report, find};
use crate::catalog::ImageRef;
use crate::names::NodeName;
use crate::store::image::{Side, difference};

pub use crate::store::image::{Difference, FileChange, FileDifference, PartDifference};

/// Compares two image versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDiff {
    /// The first.
    pub before: ImageRef,
    /// The second.
    pub after: ImageRef,
    /// Also the files of partitions that differ; without, only manifests are read.
    #[serde(default)]
    pub files: bool,
}

/// Compares a node's disk with the version below its layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerDiff {
    /// The node.
    pub node: NodeName,
    /// Also the files of partitions that differ.
    #[serde(default)]
    pub files: bool,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// `debian12:3`.
    pub before: String,
    /// `debian12:4`, or the node.
    pub after: String,
    /// What differs.
    #[serde(flatten)]
    pub difference: Difference,
}

impl Head {
    /// Compares two image versions. Blocking; with files also long.
    ///
    /// # Errors
    /// No such version; cancelled; the store's.
    pub fn image_diff(
        &self,
        ask: &ImageDiff,
        report: Report<'_>,
        cancel: &AtomicBool,
    ) -> Result<Compared> {
        let now = self.snapshot();
        let side = |image: &ImageRef| {
            let (record, version) = find(&now, image)?;
            let open = self.store.images.open_image(version.id)?;
            Ok::<_, HeadError>((record.label(version.version), Side::Image(open)))
        };
        let (before, old) = side(&ask.before)?;
        let (after, new) = side(&ask.after)?;
        Ok(Compared {
            before,
            after,
            difference: difference(&old, &new, ask.files, report, cancel)?,
        })
    }

    /// Compares a node's disk, as it is at this moment, with the version below it. Blocking and long.
    ///
    /// # Errors
    /// No such node; it has no disk of its own; cancelled; the store's.
    pub fn layer_diff(
        &self,
        ask: &LayerDiff,
        report: Report<'_>,
        cancel: &AtomicBool,
    ) -> Result<Compared> {
        // Looking harms nobody: a node that runs is looked at as it is.
        let moment = self.moment(&ask.node, &|_| false, true, "compared")?;
        let old = Side::Image(Arc::clone(moment.frozen.base()));
        let new = Side::View(Arc::new(moment.frozen));
        Ok(Compared {
            before: moment.binding.label.clone(),
            after: format!("node {}", ask.node),
            difference: difference(&old, &new, ask.files, report, cancel)?,
        })
    }
}
