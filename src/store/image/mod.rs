//! Golden images: sealed disks, cut into chunks of 64 KiB that are stored once, whatever image they are in.
//!
//! ```text
//!   import::Source --ingest--> packs/00000001.pack   chunks by BLAKE3-256 id, appended, never written over
//!                         `--> manifests/ID           for each chunk of a disk: zeros, or its id and place
//!   Image::try_read -- page cache only, verified chunks only --> bytes        (async workers)
//!   Image::read ------ medium -- BLAKE3 -- equal? -------------> bytes        (I/O threads)
//! ```
//! - **chunk**: 64 KiB of a disk, the unit of content addressing. **slot**: a place for one in a pack.
//! - **pack**: a file of chunks. **manifest**: the list of a version's chunks; its hash is the [`ImageId`].
//! - **verified**: the chunk's bytes that are in memory were hashed and are the sealed ones (`pack.rs`).
//!
//! What this never does: change a sealed image, serve a byte that was not verified, or read packs at start.
//! An image exists when its manifest is there; everything else is garbage and is collected, never served.
//! The layout of the files is in `docs/formats/image.md`.
//!
//! [`ImageId`]: super::ImageId

pub mod export;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod import;
mod ingest;
pub mod inspect;
mod manifest;
mod pack;
mod sealed;
mod store;
mod survey;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod test;
#[cfg(test)]
mod test_harm;
#[cfg(test)]
mod test_import;

pub use export::{ExportFormat, ExportSink, SparseFile};
pub use import::{Extent, ExtentKind, Source};
pub use ingest::Progress;
pub use manifest::{ChunkId, Place};
pub use sealed::{Image, ImageChunk, ImageStats};
pub use store::{BadChunk, Collected, ImageStore, Imported};
