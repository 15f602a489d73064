//! What the rest of the program may ask of a running server.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use super::driver::Note;
use super::shared::Shared;
use crate::names::NodeName;

/// A way to a running server; cheap to clone.
#[derive(Clone, Debug)]
pub struct Control(Arc<Shared>);

impl Control {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Every counter, in the text format of Prometheus.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.0.metrics.render(&self.0.gauges())
    }

    /// Is this address one that the server listens at?
    #[must_use]
    pub fn is_own(&self, address: SocketAddr) -> bool {
        is_local(address, self.0.targets.portals())
    }

    /// Connections of these nodes, or all there are.
    #[must_use]
    pub fn sessions(&self, nodes: Option<&[NodeName]>) -> usize {
        match nodes {
            Some(nodes) => self.0.targets.handles_of(nodes).len(),
            None => self.0.gauges().connections,
        }
    }

    /// Asks the initiators of these nodes, or all, to leave.
    pub fn drain(&self, nodes: Option<&[NodeName]>) {
        self.tell(nodes, || Note::Drain);
    }

    /// They may stay after all.
    pub fn undrain(&self, nodes: Option<&[NodeName]>) {
        self.tell(nodes, || Note::Stay);
    }

    fn tell(&self, nodes: Option<&[NodeName]>, note: fn() -> Note) {
        match nodes {
            None => self.0.tell_all(note),
            Some(nodes) => {
                for handle in self.0.targets.handles_of(nodes) {
                    let _ = handle.send(note());
                }
            }
        }
    }
}

/// Does somebody who dials `address` reach one of these listeners, as far as this machine knows?
pub(super) fn is_local(address: SocketAddr, listeners: &[SocketAddr]) -> bool {
    let same_port = |listener: &&SocketAddr| listener.port() == address.port();
    listeners.iter().filter(same_port).any(|listener| {
        listener.ip() == address.ip()
            || (listener.ip().is_unspecified() && UdpSocket::bind((address.ip(), 0)).is_ok())
    })
}
