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
pub mod check;
pub mod disk;
pub mod disk_below;
pub mod disk_crash;
pub mod disk_file;
pub mod disk_memory;
pub mod disk_shadow;
pub mod error;
pub mod flight;
pub mod image;
pub mod layer;
pub mod pool;
pub mod volume;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;

pub use crate::names::{ImageId, LayerId};
pub use buffer::{Buffer, Payload};
pub use error::{Error, ErrorKind, Result};
pub use image::Image;
pub use layer::LayerStore;
pub use pool::Pool;
pub use volume::{Volume, VolumeSpec};

/// Images, layers and I/O threads of one store directory.
#[derive(Debug)]
pub struct Store {
    /// Golden images.
    pub images: image::ImageStore,
    /// What nodes changed over them.
    pub layers: layer::LayerStore,
    /// Threads that may block; for those who must not.
    pub pool: Arc<Pool>,
}

impl Store {
    /// Opens what lies below `disk`'s root. `host_boot_id` changes with each start of the host: then what
    /// was never made durable is gone.
    ///
    /// # Errors
    /// Those of the images and the layers; when no thread can be started.
    pub fn open(
        disk: &Arc<dyn disk::Disk>,
        host_boot_id: &str,
        options: layer::Options,
    ) -> Result<(Self, layer::Recovery)> {
        let images = image::ImageStore::open(Arc::clone(disk))?;
        let boot = boot_of(host_boot_id);
        let (layers, recovery) = layer::LayerStore::open_with(Arc::clone(disk), boot, options)?;
        let pool = pool::Pool::new(limits::IO_THREADS, limits::IO_QUEUE)
            .map_err(|e| Error::io(e, "the I/O threads cannot be started"))?;
        let store = Self {
            images,
            layers,
            pool: Arc::new(pool),
        };
        Ok((store, recovery))
    }
}

/// The text that tells one start of the host from the next, in the layers' fixed size.
#[must_use]
pub fn boot_of(host_boot_id: &str) -> layer::Boot {
    let mut boot = layer::Boot::default();
    blake3::Hasher::new()
        .update(host_boot_id.as_bytes())
        .finalize_xof()
        .fill(&mut boot);
    boot
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
