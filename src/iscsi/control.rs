//! What the rest of the program may ask of a running server.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use super::driver::Note;
use super::error::Error;
use super::recorder::{self, Recorder};
use super::shared::Shared;
use super::target::Auth;
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

    /// Where the server listens.
    #[must_use]
    pub fn portals(&self) -> &[SocketAddr] {
        self.0.targets.portals()
    }

    /// Who may log in.
    #[must_use]
    pub fn auth(&self) -> Auth {
        self.0.targets.auth()
    }

    /// The names of a node's target and of its initiator.
    #[must_use]
    pub fn names_of(&self, node: &NodeName) -> (String, String) {
        self.0.targets.names_of(node)
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

    /// Begins to note what this node asks of its disk.
    ///
    /// # Errors
    /// The node is being recorded already, or as many others as may be.
    pub fn record(&self, node: &NodeName) -> Result<Recorder, Error> {
        let logged_in = self.sessions(Some(std::slice::from_ref(node))) > 0;
        Recorder::begin(Arc::clone(&self.0), node, logged_in)
    }

    /// Asks the recording of this node to end; false when there is none.
    #[must_use]
    pub fn stop_recording(&self, node: &NodeName) -> bool {
        recorder::stop(&self.0.recorders, node)
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
