//! What boot services need of the head, as a trait: so that their tests need no state directory.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::catalog::{Binding, NodeRecord, PendingRecord};
use crate::events::Bus;
use crate::head::{Admission, Head, HeadError};
use crate::names::{BootId, Mac, NodeName};

/// The head as seen from here.
pub(crate) trait House: fmt::Debug + Send + Sync + 'static {
    /// The node with this network card.
    fn node(&self, mac: Mac) -> Option<Arc<NodeRecord>>;
    /// All addresses that node records fix. Looks at every node: asked at most once in a second.
    fn fixed_addresses(&self) -> Vec<Ipv4Addr>;
    /// May it boot now?
    fn admission(&self, node: &NodeName) -> Admission;
    /// Did the operating system of its boot under way log in?
    fn is_booted(&self, node: &NodeName) -> bool;
    /// Where events are told.
    fn bus(&self) -> &Bus;
    /// Makes the node's disk ready. May block.
    fn prepare_boot(&self, node: &NodeName, boot: BootId) -> Result<Arc<Binding>, HeadError>;
    /// Writes an unknown machine down. May block.
    fn note_pending(&self, machine: PendingRecord) -> Result<(), HeadError>;
}

impl House for Head {
    fn node(&self, mac: Mac) -> Option<Arc<NodeRecord>> {
        self.snapshot().node_by_mac(mac).cloned()
    }

    fn fixed_addresses(&self) -> Vec<Ipv4Addr> {
        self.snapshot().nodes().filter_map(|n| n.ip).collect()
    }

    fn admission(&self, node: &NodeName) -> Admission {
        self.gate().ask(node)
    }

    fn is_booted(&self, node: &NodeName) -> bool {
        Head::is_booted(self, node)
    }

    fn bus(&self) -> &Bus {
        Head::bus(self)
    }

    fn prepare_boot(&self, node: &NodeName, boot: BootId) -> Result<Arc<Binding>, HeadError> {
        Head::prepare_boot(self, node, boot)
    }

    fn note_pending(&self, machine: PendingRecord) -> Result<(), HeadError> {
        Head::note_pending(self, machine)
    }
}
