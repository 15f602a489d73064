//! One head's state directory opened whole: catalog and store together, and what spans both. Level 4.
//! (Skeleton: the owner completes it; names and signatures are the contract.)
//!
//! Siblings `catalog` and `store` never call each other; whatever needs both (registering an import,
//! binding a node's layer to an image version at a boot, removing what nobody uses) is here.

pub mod gate;

use std::sync::Arc;

use crate::catalog::{Binding, NodeRecord, PendingRecord, Snapshot};
use crate::events::Bus;
use crate::names::{BootId, NodeName};
use crate::store::Volume;

pub use gate::{Admission, Gate};

/// Everything a head keeps, shared by all rooms above as an `Arc`.
#[derive(Debug)]
pub struct Head {
    bus: Arc<Bus>,
    gate: Gate,
}

/// A node's disk, ready to be served.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The node.
    pub node: Arc<NodeRecord>,
    /// What it is bound to.
    pub binding: Arc<Binding>,
    /// The disk.
    pub volume: Arc<Volume>,
}

/// Why it could not be done: a kind for the wire and the exit code, a sentence for people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct HeadError {
    /// What may be done about it.
    pub kind: HeadErrorKind,
    /// Object, cause, next step.
    pub message: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadErrorKind {
    /// No such object.
    NotFound,
    /// It exists already, or is in use.
    Conflict,
    /// The request itself is wrong.
    Invalid,
    /// May heal by waiting (store busy, starting, out of space).
    Unavailable,
    /// The state directory was written by a newer version, or is held by another process.
    Refused,
    /// Everything else; the log has more.
    Internal,
}

impl Head {
    /// The catalog as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        todo!()
    }
    /// Where events are told.
    #[must_use]
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }
    /// Who may boot now.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }
    /// Makes `node`'s disk ready for the boot attempt `boot`: resolves its image, starts an ephemeral layer
    /// anew, binds. Doing it again for the same `boot` changes nothing. Returns the binding. May block.
    pub fn prepare_boot(&self, _node: &NodeName, _boot: BootId) -> Result<Arc<Binding>, HeadError> {
        todo!()
    }
    /// Opens the disk of `node` for a login. A firmware login when no boot is under way, or when the boot
    /// under way had an operating system's login already, begins a new boot first (a node with a fixed
    /// firmware configuration never asks for a script). May block.
    pub fn attach(&self, _node: &NodeName, _firmware: bool) -> Result<Attached, HeadError> {
        todo!()
    }
    /// Every campaign written down, as JSON, by number.
    pub fn campaigns(&self) -> Result<Vec<(u64, String)>, HeadError> {
        todo!()
    }
    /// Writes a campaign down.
    pub fn put_campaign(&self, _id: u64, _json: &str) -> Result<(), HeadError> {
        todo!()
    }
    /// Remembers a machine that is nobody's node.
    pub fn note_pending(&self, _machine: PendingRecord) -> Result<(), HeadError> {
        todo!()
    }
}
