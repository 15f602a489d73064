//! Boot services: everything a diskless machine asks before it has a disk. DHCP (as the network's server,
//! or as ProxyDHCP beside a foreign one), port 4011, TFTP, and HTTP for boot scripts, loaders and the
//! ready call. Level 5.
//!
//! ```text
//!          bytes -> packet -> facts --+
//!   catalog, gate -> node, admission -+-> plan -+-> dhcp    an answer with the next thing to load
//!        what was seen -> context ----+         +-> script  text for iPXE
//!
//!   server, desk, http, listener, links: sockets, tasks, the clock
//!   service, answer: the state that they share; no sockets       lease: who has which address
//! ```
//!
//! One plan is made for each request and all services render it, so they cannot disagree. What this room
//! never does: it never multicasts, never opens a file after start, never decides who may boot (the gate
//! does), and never serves a block of a disk.
//!
//! Words: *firmware* is whatever asks before an operating system runs (PXE ROM, iPXE, UEFI HTTP boot);
//! *loader* is a network boot program, here always an iPXE; *script* is what iPXE runs; a *stranger* is a
//! machine that no node record claims.

mod answer;
mod assets;
mod context;
mod desk;
mod dhcp;
mod error;
mod facts;
#[cfg(fuzzing)]
pub mod fuzzing;
mod house;
mod http;
mod lease;
mod links;
mod listener;
mod packet;
mod plan;
mod script;
mod server;
mod service;
#[cfg(test)]
mod test;
mod tftp;

pub use error::{BootError, BootErrorKind};
pub use script::Auth;
pub use server::{BootServices, Options, Running};
pub use service::DhcpMode;

/// Time since the services started: a clock that never goes back and that a test can set.
pub(crate) type Moment = std::time::Duration;
