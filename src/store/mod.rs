//! Images, layers, and the volumes made of both. No tokio, no network.
//!
//! ```text
//!   volume (what a LUN serves)
//!     └─ layer: one node's own 4 KiB blocks ── present | zero | base
//!          └─ image version: 64 KiB chunks by BLAKE3 id ── packs
//! ```
//! - **image**: a golden disk, sealed and immutable; known by its [`ImageId`], the hash over its manifest.
//! - **layer**: one node's changes over one image; read depth is always one.
//! - **volume**: layer over image.
//!
//! What this room never does: ask the catalog (a sibling), know nodes, or answer for SCSI. Level 3.

pub mod buffer;
pub mod disk;
pub mod disk_crash;
pub mod disk_file;
pub mod disk_memory;
pub mod error;
pub mod image;
pub mod layer;
pub mod volume;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use buffer::{Buffer, Payload};
pub use error::{Error, ErrorKind, Result};
pub use image::Image;
pub use layer::LayerStore;
pub use volume::{Volume, VolumeSpec};

/// Identity of a sealed image version: BLAKE3-256 over its manifest. Prints as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(pub [u8; 32]);

impl ImageId {
    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text)
            .ok()
            .map(|h| Self(*h.as_bytes()))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for ImageId {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is not an image id of 64 hex digits"))
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.to_string()
    }
}

/// Number of a layer, given by the catalog and never reused on this head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub u32);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a FLUSH of a layer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Flushed data survives kill -9 and power cut (persistent layers).
    Durable,
    /// Data survives the death of the server process, not of the host; FLUSH returns at once (ephemeral layers).
    Volatile,
}
