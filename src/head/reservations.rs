//! Persistent reservations that outlive the head: kept with the binding of the disk they belong to.

use super::boot::NO_BOOT;
use super::error::{HeadError, HeadErrorKind, Result};
use super::{Attached, Head};
use crate::catalog::{Binding, DiskReservations};
use crate::names::{BootId, LayerId, NodeName};

/// One disk: a node's layer from one beginning to the next. A reset makes another disk, and so does a boot of
/// an ephemeral node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    /// What serial number and NAA designator derive from; a reset keeps it.
    pub uuid: String,
    layer: LayerId,
    /// The boot that began the layer's content.
    began: BootId,
}

impl Attached {
    /// Which disk this is.
    #[must_use]
    pub fn disk(&self) -> DiskIdentity {
        DiskIdentity {
            uuid: self.node.disk_uuid.clone(),
            layer: self.binding.layer,
            began: self.binding.begun(),
        }
    }

    /// The reservations that outlived the head, as they are written down.
    #[must_use]
    pub fn reservations(&self) -> Option<&DiskReservations> {
        self.binding.reservations.as_ref()
    }
}

impl Head {
    /// Writes down, durably, what of a disk's reservations outlives this process; `None` removes it. What is
    /// written already costs nothing. May block.
    ///
    /// # Errors
    /// `Gone` when `disk` is the node's disk no more; the catalog's. Then what was written before stays (after a
    /// failed write to the medium a restart finds the one or the other, as with every failed sync).
    pub fn keep_reservations(
        &self,
        node: &NodeName,
        disk: &DiskIdentity,
        what: Option<&DiskReservations>,
    ) -> Result<()> {
        self.catalog.transact(|changes| {
            let now = changes.view();
            let record = now.node(node.as_str());
            let ours = record.filter(|r| r.disk_uuid == disk.uuid && r.layer == disk.layer);
            let bound = ours.and_then(|record| now.binding(record.layer));
            let begun = |bound: &&std::sync::Arc<Binding>| {
                bound.boot != NO_BOOT && bound.begun() == disk.began
            };
            let Some(bound) = bound.filter(begun).cloned() else {
                let message = format!("node `{node}` has another disk by now; boot the node anew");
                return Err(HeadError::new(HeadErrorKind::Gone, message));
            };
            if bound.reservations.as_ref() == what {
                return Ok(());
            }
            let mut changed = Binding::clone(&bound);
            changed.reservations = what.cloned();
            changes.put_binding(changed)?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod test;
