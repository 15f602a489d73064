//! Turning nodes on and off. Level 3.
//!
//! One driver exists: a command of the administrator's ([`Exec`]), which is how a site calls its own
//! tool today. It never decides *when* a node is switched: that is the waves' business.

mod exec;

use std::fmt;

use crate::names::{Mac, NodeName};

pub use exec::Exec;

/// What to do with a node's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Switch on; fine if it is on.
    On,
    /// Switch off; fine if it is off.
    Off,
    /// Off and on again; on if it was off.
    Cycle,
}

impl Action {
    /// The word that the command template gets.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Cycle => "cycle",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The node that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub node: NodeName,
    /// Its first network card.
    pub mac: Option<Mac>,
}

/// Why the power could not be switched: the driver's own words and the next step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PowerError(pub String);
