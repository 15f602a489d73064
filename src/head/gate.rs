//! Who may boot now, and who waits at which place. Waves write it, boot services read it. Pure but for its lock.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::names::NodeName;

/// The answer to "may this node boot now?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Admit,
    /// Not yet; 1 is next.
    Wait {
        /// Its place in the queue.
        place: u32,
    },
}

/// The table. A node that no campaign holds is admitted.
#[derive(Debug, Default)]
pub struct Gate {
    held: Mutex<HashMap<NodeName, u32>>,
}

impl Gate {
    /// Makes `node` wait at `place`, or moves it there.
    pub fn hold(&self, node: &NodeName, place: u32) {
        self.lock().insert(node.clone(), place);
    }

    /// Lets `node` through from now on.
    pub fn admit(&self, node: &NodeName) {
        self.lock().remove(node);
    }

    /// May it boot now?
    #[must_use]
    pub fn ask(&self, node: &NodeName) -> Admission {
        self.lock()
            .get(node)
            .map_or(Admission::Admit, |&place| Admission::Wait { place })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeName, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
