//! Campaigns: booting many nodes in waves, without a storm. Level 6.
//!
//! ```text
//!   spec ──► machine (pure) ──effects──► driver ──► power, gate, bus
//!               ▲                          │
//!               └──── events, time ◄───────┘
//! ```
//! - **campaign**: a mass boot. **wave**: the nodes that may boot at the same time.
//! - A node is *queued* until a place in the wave is free, *booting* while it has one, then *up* or *failed*.
//!
//! What this room never does: talk to a node, or know about sockets. It hears what the head observes and
//! says who may go on. `machine` can be replayed from an event log.

mod driver;
mod machine;
mod settle;
mod spec;

pub use driver::{CampaignError, Waves};
pub use machine::{Effect, Entry, Machine, NodeState, Summary};
pub use settle::Settle;
pub use spec::{Spec, SpecNode, Until, WaveSize};
