//! Who may boot now, and who waits at which place. Waves write it, boot services read it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::names::NodeName;

/// The answer to "may this node boot now?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Admit,
    /// Not yet; 1 is next. Never less than the true place: it shrinks as those in front are let through.
    Wait {
        /// Its place in the queue.
        place: u32,
    },
}

/// The table. A node that no campaign holds is admitted. Every call costs O(log n).
#[derive(Debug, Default)]
pub struct Gate {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    tickets: BTreeSet<u64>,
    held: HashMap<NodeName, Option<u64>>,
}

impl Gate {
    /// Makes `node` wait: behind all who are queued, or without a place until it is queued.
    /// A node that has a place keeps it.
    pub fn hold(&self, node: &NodeName, queued: bool) {
        let mut inner = self.lock();
        if inner.held.get(node).is_some_and(Option::is_some) {
            return;
        }
        let ticket = queued.then(|| {
            inner.next += 1;
            let ticket = inner.next;
            inner.tickets.insert(ticket);
            ticket
        });
        inner.held.insert(node.clone(), ticket);
    }

    /// Lets `node` through from now on.
    pub fn admit(&self, node: &NodeName) {
        let mut inner = self.lock();
        if let Some(Some(ticket)) = inner.held.remove(node) {
            inner.tickets.remove(&ticket);
        }
    }

    /// May it boot now?
    #[must_use]
    pub fn ask(&self, node: &NodeName) -> Admission {
        let inner = self.lock();
        let Some(ticket) = inner.held.get(node) else {
            return Admission::Admit;
        };
        let first = inner.tickets.first().copied().unwrap_or(inner.next + 1);
        let place = ticket.unwrap_or(inner.next + 1).saturating_sub(first) + 1;
        Admission::Wait {
            place: u32::try_from(place).unwrap_or(u32::MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn node(i: usize) -> NodeName {
        NodeName::parse(&format!("n{i}")).unwrap()
    }

    #[test]
    fn a_node_that_nobody_holds_is_admitted() {
        assert_eq!(Gate::default().ask(&node(1)), Admission::Admit);
    }

    #[test]
    fn places_follow_the_order_and_move_up() {
        let gate = Gate::default();
        for i in 0..3 {
            gate.hold(&node(i), true);
        }
        assert_eq!(gate.ask(&node(2)), Admission::Wait { place: 3 });
        gate.admit(&node(0));
        assert_eq!(gate.ask(&node(0)), Admission::Admit);
        assert_eq!(gate.ask(&node(2)), Admission::Wait { place: 2 });
        gate.hold(&node(2), true);
        assert_eq!(gate.ask(&node(2)), Admission::Wait { place: 2 });
    }

    #[test]
    fn a_node_without_a_place_stands_behind_everyone() {
        let gate = Gate::default();
        gate.hold(&node(9), false);
        assert_eq!(gate.ask(&node(9)), Admission::Wait { place: 1 });
        gate.hold(&node(1), true);
        gate.hold(&node(2), true);
        assert_eq!(gate.ask(&node(9)), Admission::Wait { place: 3 });
        gate.hold(&node(9), true);
        gate.admit(&node(1));
        assert_eq!(gate.ask(&node(9)), Admission::Wait { place: 2 });
    }
}
