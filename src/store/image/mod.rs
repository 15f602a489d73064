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
//! - **profile**: which chunks a boot of a version reads, in order. **warm**: in memory and verified.
//! - **verified**: the chunk's bytes that are in memory were hashed and are the sealed ones (`pack.rs`).
//!
//! What this never does: change a sealed image, serve a byte that was not verified, or read packs at start.
//! An image exists when its manifest is there; everything else is garbage and is collected, never served.
//! The layout of the files is in `docs/formats/image.md`.
//!
//! [`ImageId`]: super::ImageId

mod bad;
pub mod check;
mod diff;
pub mod export;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hot;
pub mod import;
mod ingest;
pub mod inspect;
mod manifest;
mod pack;
pub mod profile;
mod profile_recorder;
mod promote;
mod scrub;
mod sealed;
mod store;
mod survey;
mod warm;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod test;
#[cfg(test)]
mod test_flips;
#[cfg(test)]
mod test_harm;
#[cfg(test)]
mod test_hot;
#[cfg(test)]
mod test_import;
#[cfg(test)]
mod test_warm;

pub use bad::{BadNews, BadPlace, Fault};
pub use diff::{Difference, FileChange, FileDifference, PartDifference, Side, difference};
pub use export::{ExportFormat, ExportSink, SparseFile};
pub use hot::HotBytes;
pub(in crate::store) use hot::HotChunk;
pub use import::{Extent, ExtentKind, Source};
pub use ingest::Progress;
pub use manifest::{ChunkId, Place};
pub use profile::{Profile, Touch};
pub use profile_recorder::{Recorded, Recorder};
pub use promote::{LayerSource, export_view, holds_the_same};
pub use sealed::{Image, ImageChunk, ImageStats};
pub use store::{BadChunk, Collected, ImageStore, Imported};
