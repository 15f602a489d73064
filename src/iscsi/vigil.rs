//! The vigil of a worker, or of the door: when nothing is left to do it looks at its sockets some more before it
//! sleeps. To be woken costs more than the answer that a node with one command at a time waits for, and costs the
//! node's own processor as well.
//!
//! ```text
//!   answered ──> looks again and again ── answered ──> ...
//!                  │ nobody spoke for VIGIL            ──> sleeps; in vain each time: more and more answers go by
//!                  │ something else used the processor ──> sleeps, many times as long as that lasted
//! ```
//! So it costs nothing where it does not help: a node that thinks for long between its commands, and a processor that
//! others want, are both noticed.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::driver::wake_after_look;
use crate::limits;

/// The vigil of one thread; its connections tell it when they have answered.
#[derive(Clone, Debug)]
pub(super) struct Vigil(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    watch: Watch,
    /// Who looks, while it sleeps.
    keeper: Option<Waker>,
}

/// What is decided, without the clock and the runtime.
#[derive(Debug)]
struct Watch {
    /// None: asleep.
    until: Option<Instant>,
    /// The last look, and whether a connection had its turn since.
    looked: Instant,
    worked: bool,
    /// Somebody spoke since this vigil began.
    fruitful: bool,
    /// Vigils in vain since the last that was not.
    in_vain: u32,
    /// Answers that go by before the next.
    skip: u32,
    /// None before this: the processor is wanted elsewhere.
    not_before: Instant,
}

impl Watch {
    const fn new(now: Instant) -> Self {
        Self {
            until: None,
            looked: now,
            worked: false,
            fruitful: false,
            in_vain: 0,
            skip: 0,
            not_before: now,
        }
    }

    /// Takes in that a connection has answered all it was asked; true when a vigil begins.
    fn answered(&mut self, now: Instant) -> bool {
        self.worked = true;
        if let Some(until) = &mut self.until {
            self.fruitful = true;
            *until = now + limits::VIGIL;
            return false;
        }
        if now < self.not_before {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.until = Some(now + limits::VIGIL);
        self.looked = now;
        self.fruitful = false;
        true
    }

    /// Before each look; false when it is time to sleep.
    fn goes_on(&mut self, now: Instant) -> bool {
        let Some(until) = self.until else {
            return false;
        };
        let away = now.saturating_duration_since(self.looked);
        self.looked = now;
        // The time between two looks is short unless connections worked or this thread did not run.
        if !std::mem::take(&mut self.worked) && away > limits::VIGIL_DISTURBED {
            self.not_before = now + away * limits::VIGIL_REST;
            self.until = None;
        } else if now >= until {
            self.until = None;
            if self.fruitful {
                self.in_vain = 0;
            } else {
                self.in_vain = (self.in_vain + 1).min(limits::VIGILS_IN_VAIN);
                self.skip = 1 << self.in_vain;
            }
        }
        self.until.is_some()
    }
}

impl Vigil {
    /// For a worker, which has to run `keep`.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            watch: Watch::new(Instant::now()),
            keeper: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of this worker has answered all that it was asked.
    pub(super) fn answered(&self, now: Instant) {
        let mut state = self.state();
        if state.watch.answered(now)
            && let Some(keeper) = state.keeper.take()
        {
            drop(state);
            keeper.wake();
        }
    }

    /// Keeps watch; for ever.
    pub(super) async fn keep(self) {
        poll_fn(|cx| self.look(cx)).await;
    }

    fn look(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.watch.goes_on(Instant::now()) {
            wake_after_look(cx.waker().clone());
        } else {
            state.keeper = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::limits::{VIGIL, VIGIL_DISTURBED, VIGIL_REST, VIGILS_IN_VAIN};
    use std::time::Duration;

    const LOOK: Duration = Duration::from_micros(1);

    /// Looks until it sleeps; how long that took.
    fn sleeps_after(watch: &mut Watch, now: &mut Instant) -> Duration {
        let begun = *now;
        while watch.goes_on(*now) {
            *now += LOOK;
        }
        *now - begun
    }

    #[test]
    fn it_watches_for_a_while_after_each_answer() {
        let mut now = Instant::now();
        let mut watch = Watch::new(now);
        assert!(!watch.goes_on(now));
        assert!(watch.answered(now), "begins");
        now += VIGIL / 2;
        assert!(
            watch.goes_on(now),
            "a connection worked: that was no disturbance"
        );
        assert!(!watch.answered(now), "goes on");
        assert_eq!(sleeps_after(&mut watch, &mut now), VIGIL);
        assert!(
            watch.answered(now),
            "somebody spoke: the next one is kept at once"
        );
    }

    #[test]
    fn whoever_thinks_for_long_is_watched_for_less_and_less() {
        let mut now = Instant::now();
        let mut watch = Watch::new(now);
        let mut begun = Vec::new();
        for answer in 0..3 << VIGILS_IN_VAIN {
            if watch.answered(now) {
                begun.push(answer);
                sleeps_after(&mut watch, &mut now);
            }
            now += 100 * VIGIL;
        }
        assert_eq!(begun[..4], [0, 3, 8, 17]);
        let last = begun.windows(2).last().map(|pair| pair[1] - pair[0]);
        assert_eq!(last, Some((1 << VIGILS_IN_VAIN) + 1));
    }

    #[test]
    fn it_yields_to_whoever_wants_the_processor() {
        let mut now = Instant::now();
        let mut watch = Watch::new(now);
        assert!(watch.answered(now));
        assert!(watch.goes_on(now));
        let away = VIGIL_DISTURBED * 2;
        now += away;
        assert!(!watch.goes_on(now), "this thread did not run");
        assert!(!watch.answered(now + away * VIGIL_REST - LOOK));
        assert!(watch.answered(now + away * VIGIL_REST));
    }

    #[test]
    fn the_keeper_sleeps_and_is_woken() {
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        use std::task::Wake;
        #[derive(Default)]
        struct Bell(AtomicUsize);
        impl Wake for Bell {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let vigil = Vigil::new();
        assert!(vigil.look(&Context::from_waker(&waker)).is_pending());
        vigil.answered(Instant::now());
        vigil.answered(Instant::now());
        assert_eq!(bell.0.load(Relaxed), 1, "once is enough");
    }
}
