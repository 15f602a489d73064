//! Turns of busy connections. A connection that used up its slice of the worker's time and has more to do
//! waits in line: only one of the line runs at a time, so a quiet neighbour never waits for more than one slice,
//! however many flood.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<(u64, Waker)>,
    running: Option<u64>,
    next: u64,
}

impl Line {
    fn call_next(&mut self) -> Option<Waker> {
        if self.running.is_some() {
            return None;
        }
        let (number, waker) = self.waiting.pop_front()?;
        self.running = Some(number);
        Some(waker)
    }
}

/// The line of one worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<Line>>);

/// A connection's place in the line, if it has one.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    number: u64,
    queued: bool,
}

impl Turns {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a connection of this worker.
    pub(super) fn turn(&self) -> Turn {
        let mut line = self.line();
        line.next += 1;
        Turn {
            number: line.next,
            queued: false,
            turns: self.clone(),
        }
    }
}

impl Turn {
    /// True while it has to wait; false when it may work.
    pub(super) fn waits(&self) -> bool {
        self.queued && self.turns.line().running != Some(self.number)
    }

    /// Its slice is over and there is more to do: it is woken when its turn comes. `wake` wakes whoever is next.
    pub(super) fn ask(&mut self, waker: &Waker, wake: impl FnOnce(Waker)) {
        let called = {
            let mut line = self.turns.line();
            if line.running == Some(self.number) {
                line.running = None;
            }
            line.waiting.retain(|(number, _)| *number != self.number);
            line.waiting.push_back((self.number, waker.clone()));
            line.call_next()
        };
        self.queued = true;
        if let Some(waker) = called {
            wake(waker);
        }
    }

    /// It has nothing more to do now.
    pub(super) fn rest(&mut self) {
        if !self.queued {
            return;
        }
        self.queued = false;
        let called = {
            let mut line = self.turns.line();
            if line.running == Some(self.number) {
                line.running = None;
            }
            line.waiting.retain(|(number, _)| *number != self.number);
            line.call_next()
        };
        if let Some(waker) = called {
            waker.wake();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.rest();
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::Wake;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn bell() -> (Arc<Bell>, Waker) {
        let bell = Arc::new(Bell::default());
        (Arc::clone(&bell), Waker::from(bell))
    }

    #[test]
    fn one_runs_and_the_others_follow_in_order() {
        let turns = Turns::default();
        let (mut a, mut b, mut c) = (turns.turn(), turns.turn(), turns.turn());
        let (bell_a, wake_a) = bell();
        let (bell_b, wake_b) = bell();
        let (bell_c, wake_c) = bell();
        a.ask(&wake_a, Waker::wake);
        b.ask(&wake_b, Waker::wake);
        c.ask(&wake_c, Waker::wake);
        assert!(!a.waits() && b.waits() && c.waits());
        a.ask(&wake_a, Waker::wake);
        assert!(a.waits() && !b.waits(), "behind the others");
        b.rest();
        assert!(!b.waits() && !c.waits());
        drop(c);
        assert!(!a.waits());
        let rung = [&bell_a, &bell_b, &bell_c].map(|bell| bell.0.load(Relaxed));
        assert_eq!(rung, [2, 1, 1]);
    }

    #[test]
    fn a_waiting_one_may_leave_the_line() {
        let turns = Turns::default();
        let (mut a, mut b) = (turns.turn(), turns.turn());
        let (_, wake) = bell();
        a.ask(&wake, Waker::wake);
        b.ask(&wake, Waker::wake);
        drop(b);
        a.rest();
        assert!(turns.line().waiting.is_empty() && turns.line().running.is_none());
        a.rest();
    }
}
