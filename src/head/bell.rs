//! Wakes a thread of the upkeep, and tells it to end.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Clones ring the same bell.
#[derive(Clone, Debug, Default)]
pub(super) struct Bell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    over: bool,
}

impl Bell {
    /// Wakes who waits, or who waits next.
    pub(super) fn ring(&self) {
        self.set(|state| state.rung = true);
    }

    /// Nobody waits any more.
    pub(super) fn end(&self) {
        self.set(|state| state.over = true);
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.rung.notify_all();
    }

    /// True when the work is to end.
    pub(super) fn is_over(&self) -> bool {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).over
    }

    /// Waits for a ring, at most this long. False when the work is to end.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .0
            .rung
            .wait_timeout_while(state, at_most, |state| !state.rung && !state.over);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.rung = false;
        !state.over
    }
}
