//! Memory that connections hold: one budget, shared so that nobody can take it all. Pure but for its atomics.
//!
//! ```text
//!  0 ......................... DATA_BYTES_COMMON ............ 3/4 ............. DATA_BYTES_MAX
//!  shared on demand: a node     up to CONNECTION_RESERVE      up to CONNECTION_FLOOR
//!  may hold as much as is free  for everyone                  for everyone, always
//! ```
//! "As much as is free" is the dynamic threshold of shared-memory switches (Choudhury and Hahne, 1998): k
//! greedy nodes get 1/(k+1) each, and the last part stays free for whoever comes next.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::limits;
use crate::names::NodeName;

/// The whole server's.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    total: AtomicUsize,
    nodes: Mutex<HashMap<NodeName, Weak<AtomicUsize>>>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(limits::DATA_BYTES_MAX)
    }
}

/// The most that one connection may hold now of `most` bytes, when all others hold `others`, `siblings` of
/// them those of the same node. Half of `most` is shared out on demand; beyond three quarters there are only
/// floors.
#[must_use]
pub const fn allowance(most: usize, others: usize, siblings: usize) -> usize {
    let strangers = others.saturating_sub(siblings);
    let free = (most / 2).saturating_sub(strangers);
    let node = min(free / 2, limits::DATA_BYTES_PER_NODE);
    let share = min(node.saturating_sub(siblings), limits::CONNECTION_DATA_MAX);
    let reserve = min(
        (most / 4 * 3).saturating_sub(others),
        limits::CONNECTION_RESERVE,
    );
    max(max(share, reserve), limits::CONNECTION_FLOOR)
}

const fn min(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// One connection's account; what is booked is given back on drop.
#[derive(Debug)]
pub struct Account {
    budget: Arc<Budget>,
    node: Arc<AtomicUsize>,
    booked: usize,
}

impl Budget {
    /// Of so many bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            total: AtomicUsize::new(0),
            nodes: Mutex::default(),
        }
    }

    /// Bytes that all connections may hold.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Bytes that all connections hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// An account for a session of `node`; a discovery session has a share of its own.
    #[must_use]
    pub fn open(self: &Arc<Self>, node: Option<&NodeName>) -> Account {
        let share = match node {
            None => Arc::default(),
            Some(name) => {
                let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
                let known = nodes.get(name).and_then(Weak::upgrade);
                known.unwrap_or_else(|| {
                    if nodes.len() >= limits::SESSIONS_MAX {
                        nodes.retain(|_, share| share.strong_count() > 0);
                    }
                    let share = Arc::default();
                    nodes.insert(name.clone(), Arc::downgrade(&share));
                    share
                })
            }
        };
        Account {
            budget: Arc::clone(self),
            node: share,
            booked: 0,
        }
    }
}

impl Account {
    /// The most that this connection may hold now.
    #[must_use]
    pub fn allowance(&self) -> usize {
        let others = self.budget.held().saturating_sub(self.booked);
        let siblings = self.node.load(Relaxed).saturating_sub(self.booked);
        allowance(self.budget.most, others, siblings)
    }

    /// Books that the connection holds `bytes` now.
    pub fn book(&mut self, bytes: usize) {
        if bytes > self.booked {
            self.budget.total.fetch_add(bytes - self.booked, Relaxed);
            self.node.fetch_add(bytes - self.booked, Relaxed);
        } else {
            self.budget.total.fetch_sub(self.booked - bytes, Relaxed);
            self.node.fetch_sub(self.booked - bytes, Relaxed);
        }
        self.booked = bytes;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.book(0);
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn node(n: usize) -> NodeName {
        NodeName::parse(&format!("n{n}")).unwrap()
    }

    #[test]
    fn greedy_nodes_leave_room_for_the_next_one() {
        let budget = Arc::new(Budget::default());
        let mut greedy: Vec<Account> = Vec::new();
        for n in 0..1000 {
            // Several sessions each, and each takes all it may.
            for _ in 0..3 {
                let mut account = budget.open(Some(&node(n)));
                account.book(account.allowance());
                greedy.push(account);
            }
        }
        assert!(budget.held() <= limits::DATA_BYTES_MAX);
        let quiet = budget.open(Some(&node(5000)));
        assert!(quiet.allowance() >= limits::CONNECTION_FLOOR);
        drop(greedy);
        assert_eq!(budget.held(), 0);
        assert_eq!(quiet.allowance(), limits::CONNECTION_DATA_MAX);
    }

    #[test]
    fn one_node_with_many_sessions_keeps_within_its_share() {
        let budget = Arc::new(Budget::default());
        let mut held = 0;
        let greedy: Vec<Account> = (0..limits::SESSIONS_PER_TARGET)
            .map(|_| {
                let mut account = budget.open(Some(&node(1)));
                account.book(account.allowance());
                account
            })
            .inspect(|account| held += account.booked)
            .collect();
        let reserves = greedy.len() * limits::CONNECTION_RESERVE;
        assert!(held <= limits::DATA_BYTES_PER_NODE + reserves, "{held}");
        let other = budget.open(Some(&node(2)));
        assert_eq!(other.allowance(), limits::CONNECTION_DATA_MAX);
    }

    proptest! {
        #[test]
        fn the_whole_is_never_exceeded(
            acts in prop::collection::vec((0usize..40, 0usize..6, 0usize..3), 1..400)
        ) {
            let budget = Arc::new(Budget::default());
            let mut all: Vec<(usize, Account)> = (0..40)
                .map(|n| (n, budget.open(Some(&node(n % 6)))))
                .collect();
            for (who, _, act) in acts {
                let account = &mut all[who].1;
                let most = account.allowance();
                account.book(match act { 0 => 0, 1 => most / 3, _ => most });
                prop_assert!(budget.held() <= limits::DATA_BYTES_MAX);
                let sum: usize = all.iter().map(|(_, a)| a.booked).sum();
                prop_assert_eq!(sum, budget.held());
            }
        }
    }

    #[test]
    fn as_many_sessions_as_there_may_be_fit_with_what_all_of_them_may_take() {
        // Everyone takes all it may, one after another: the worst order there is.
        for most in [limits::DATA_BYTES_MAX, limits::DATA_BYTES_MIN] {
            let mut others = 0;
            for _ in 0..most / 4 / limits::CONNECTION_FLOOR {
                others += allowance(most, others, 0);
            }
            assert!(others <= most, "{others}");
        }
    }
}
