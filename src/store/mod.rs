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
pub mod disk_file;
pub mod error;
pub mod image;
pub mod layer;
pub mod pool;
pub mod volume;

use serde::{Deserialize, Serialize};

pub use crate::names::{ImageId, LayerId};
pub use buffer::{Buffer, Payload};
pub use error::{Error, ErrorKind, Result};
pub use image::Image;
pub use pool::Pool;
pub use volume::Volume;

/// What a FLUSH of a layer promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Flushed data survives kill -9 and power cut (persistent layers).
    Durable,
    /// Data survives the death of the server process, not of the host; FLUSH returns at once (ephemeral layers).
    Volatile,
}
