//! Bounds of a server that an administrator may set; the rest is `limits.rs`.

use crate::limits;

/// Bounds that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sessions of one node, whatever initiators they name; the longest quiet one goes first.
    pub sessions_per_node: usize,
    /// Connections in the full feature phase, whole server.
    pub sessions: usize,
    /// Bytes that all connections may hold together.
    pub data_bytes: usize,
    /// Connections that have not logged in yet, whole server.
    pub newcomers: usize,
    /// The same of one address.
    pub newcomers_per_address: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sessions_per_node: limits::SESSIONS_PER_TARGET,
            sessions: limits::SESSIONS_MAX,
            data_bytes: limits::DATA_BYTES_MAX,
            newcomers: limits::UNAUTHENTICATED_MAX,
            newcomers_per_address: limits::UNAUTHENTICATED_PER_ADDRESS,
        }
    }
}
