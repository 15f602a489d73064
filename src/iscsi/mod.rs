//! iSCSI target, RFC 7143: from bytes on a socket to SCSI commands and back. Level 5.
//!
//! ```text
//!   server.rs   listens, starts the door and the workers, hands connections on; farewell.rs: how they end
//!     shared.rs   what all connections share; what is refused is counted and told here
//!     gate.rs     who may wait for a login, fairly by address; pace.rs, refusals.rs: how often, how long (pure)
//!     budget.rs   memory, fairly by node                                                  (pure)
//!     login_driver.rs    the login phase, at the door: who must leave first, attaching the disk
//!       pulse.rs         one clock for short waits; chance.rs: random bytes
//!     driver.rs   one task per session: reads, parses, executes, answers in one write; turns.rs: its turn
//!     vigil.rs    whether a thread that has nothing to do looks again before it sleeps
//!       login.rs         login phase, with chap.rs and params.rs                     (pure)
//!       connection.rs    full feature phase: window, tasks, data, management         (pure)
//!         task.rs          task table, Data-In splitting, residuals                  (pure)
//!         text.rs          text requests: SendTargets                                (pure)
//!       sanitize.rs      SANITIZE, which outlives its session
//!       exec.rs          logical unit and volume: warm reads at once, the rest on the store's pool
//!       recorder.rs      notes what a node asks of its disk, while somebody wants a trace of it
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

pub mod bounds;
pub mod budget;
mod chance;
pub mod chap;
pub mod connection;
mod control;
#[cfg(test)]
mod door_test;
mod driver;
pub mod error;
mod exec;
mod farewell;
pub mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod gate;
pub mod initiator;
mod jobs;
pub mod keys;
pub mod login;
mod login_driver;
mod mailbox;
pub mod metrics;
pub mod ops;
pub mod pace;
pub mod params;
pub mod pdu;
mod portals;
mod pulse;
pub mod recorder;
pub mod refusals;
mod reserve;
mod rx;
mod sanitize;
pub mod serial;
pub mod server;
pub mod session;
mod shared;
mod space;
mod spare;
pub mod target;
mod task;
pub mod text;
mod turns;
mod tx;
mod vigil;

pub use bounds::Bounds;
pub use chap::{Algorithm, Algorithms};
pub use control::Control;
pub use error::{Error, ErrorKind};
pub use metrics::Metrics;
pub use params::Digests;
pub use recorder::{RecordState, Recorded, Recorder};
pub use server::{Options, Server};
pub use target::Auth;
