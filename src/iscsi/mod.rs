//! iSCSI target, RFC 7143: from bytes on a socket to SCSI commands and back. Level 5.
//!
//! ```text
//!   server.rs   listens, starts workers, hands connections out
//!     driver.rs   one task per connection: reads, parses, executes, answers in one write
//!     login_driver.rs    its login phase: who must leave first, attaching the disk
//!       login.rs         login phase, with chap.rs and params.rs                     (pure)
//!       connection.rs    full feature phase: window, tasks, data, management         (pure)
//!         task.rs          task table, Data-In splitting, residuals                  (pure)
//!         text.rs          text requests: SendTargets                                (pure)
//!       exec.rs          logical unit and volume: warm reads at once, the rest on the store's pool
//!     target.rs   node to target: access, identity of its disk, its open sessions
//!     session.rs  session identity, CmdSN window, who must leave when who comes       (pure)
//!   initiator.rs  the other side: tests and virtual nodes log in with it
//!     engine.rs, offer.rs  its full feature phase and its login                      (pure)
//!   both sides    pdu/ header, frame.rs shape and digests, rx.rs received bytes, tx.rs what is to be
//!                 sent, keys.rs text pairs, serial.rs numbers that wrap              (pure)
//! ```
//! What this room never does: decide what a SCSI command means (`scsi`), keep bytes (`store`), or know why a
//! node boots (`boot`, `wave`: they hear events).
//!
//! Words: **PDU**, **BHS** (its first 48 bytes), **ITT** and **TTT** (the initiator's and our tag of a task
//! or transfer), **CmdSN**, **StatSN**, **R2T** as in RFC 7143 section 2. **Nexus**: one session seen from
//! SCSI.

pub mod chap;
pub mod connection;
mod driver;
pub mod error;
mod exec;
pub mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod initiator;
pub mod keys;
pub mod login;
mod login_driver;
pub mod metrics;
mod ops;
pub mod params;
pub mod pdu;
mod rx;
pub mod serial;
pub mod server;
pub mod session;
pub mod target;
mod task;
pub mod text;
mod tx;

pub use error::{Error, ErrorKind};
pub use metrics::Metrics;
pub use server::{Options, Server};
pub use target::Auth;
