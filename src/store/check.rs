//! What a check of the store's files finds, in words. The checks themselves are beside the formats:
//! [`super::image::check`] and [`super::layer::check`].

use serde::{Deserialize, Serialize};

use super::{ImageId, LayerId};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something that was kept is lost, or will not be served.
    Damage,
    /// Space that nobody needs: the trace of something that did not come to its end.
    Garbage,
    /// Worth knowing, nothing is wrong.
    Note,
}

impl Severity {
    /// The word that people and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Garbage => "garbage",
            Self::Note => "note",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// The file or the thing.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The images that need it.
    pub images: Vec<ImageId>,
    /// The layers that need it.
    pub layers: Vec<LayerId>,
    /// What to do, as a clause.
    pub next: String,
}

impl Fault {
    /// A finding that concerns no image and no layer yet.
    pub fn new(
        severity: Severity,
        object: impl Into<String>,
        what: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            object: object.into(),
            what: what.into(),
            images: Vec::new(),
            layers: Vec::new(),
            next: next.into(),
        }
    }

    /// With the images that need it.
    #[must_use]
    pub fn of_images(mut self, images: impl IntoIterator<Item = ImageId>) -> Self {
        self.images.extend(images);
        self.images.sort_unstable();
        self.images.dedup();
        self
    }

    /// With a layer that needs it.
    #[must_use]
    pub fn of_layer(mut self, layer: LayerId) -> Self {
        self.layers.push(layer);
        self
    }
}
