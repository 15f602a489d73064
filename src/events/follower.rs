//! A reader of events: gets every one, in order, also when it fell behind; and is not woken for each of many.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;

use super::Event;
use super::bus::{Bus, Subscription};
use crate::limits;

/// Reads the events of a bus.
///
/// ```text
///   loop { ready().await; while let Some(event) = try_next() { ... } }
/// ```
/// The first event after a quiet time is there at once. Those that follow are left to gather for
/// [`limits::EVENTS_GATHER`]: a storm of logins would otherwise pay for waking every reader, twice each.
#[derive(Debug)]
pub struct Follower {
    bus: Arc<Bus>,
    live: Subscription,
    /// Read ahead, oldest first.
    ahead: VecDeque<Arc<Event>>,
    /// The last event that was taken from the bus.
    heard: u64,
    /// Nothing is waited for before this.
    gather_until: Option<Instant>,
}

impl Follower {
    /// From the first kept event with a number above `after` on.
    #[must_use]
    pub fn after(bus: &Arc<Bus>, after: u64) -> Self {
        let (kept, live) = bus.replay_and_subscribe(after);
        Self {
            bus: Arc::clone(bus),
            live,
            heard: kept.last().map_or(after, |event| event.seq),
            ahead: kept.into(),
            gather_until: None,
        }
    }

    /// From the next event on.
    #[must_use]
    pub fn from_now(bus: &Arc<Bus>) -> Self {
        let mut follower = Self::after(bus, 0);
        follower.ahead = VecDeque::new();
        follower
    }

    /// The next event, if it has happened.
    pub fn try_next(&mut self) -> Option<Arc<Event>> {
        loop {
            if let Some(event) = self.ahead.pop_front() {
                return Some(event);
            }
            // All that was kept may have gone through it.
            self.ahead = VecDeque::new();
            match self.live.try_recv() {
                Ok(event) => {
                    self.heard = event.seq;
                    return Some(event);
                }
                Err(TryRecvError::Lagged(_)) => self.read_again(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// Waits until `try_next` has something. May be dropped and called again: nothing is lost.
    pub async fn ready(&mut self) {
        if let Some(until) = self.gather_until {
            tokio::time::sleep_until(until).await;
            self.gather_until = None;
        }
        while self.ahead.is_empty() {
            match self.live.recv().await {
                Ok(event) => {
                    self.heard = event.seq;
                    self.ahead.push_back(event);
                }
                Err(RecvError::Lagged(_)) => self.read_again(),
                // We hold the bus ourselves: it does not close.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
        self.gather_until = Some(Instant::now() + limits::EVENTS_GATHER);
    }

    /// What was missed, as far as it is kept.
    fn read_again(&mut self) {
        let (kept, live) = self.bus.replay_and_subscribe(self.heard);
        self.live = live;
        self.heard = kept.last().map_or(self.heard, |event| event.seq);
        self.ahead = kept.into();
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::events::{EventKind, ReadyBy};

    fn publish(bus: &Bus, count: usize) {
        for _ in 0..count {
            bus.publish(None, EventKind::Ready { by: ReadyBy::Call });
        }
    }

    fn seqs(follower: &mut Follower) -> Vec<u64> {
        std::iter::from_fn(|| follower.try_next())
            .map(|event| event.seq)
            .collect()
    }

    fn is_ready(follower: &mut Follower) -> bool {
        use std::task::{Context, Poll, Waker};
        let ready = std::pin::pin!(follower.ready());
        let mut cx = Context::from_waker(Waker::noop());
        ready.poll(&mut cx) == Poll::Ready(())
    }

    #[test]
    fn what_was_kept_comes_first_and_what_happens_follows() {
        let bus = Arc::new(Bus::new(0));
        publish(&bus, 5);
        let mut all = Follower::after(&bus, 3);
        let mut new = Follower::from_now(&bus);
        publish(&bus, 2);
        assert_eq!(seqs(&mut all), [4, 5, 6, 7]);
        assert_eq!(seqs(&mut new), [6, 7]);
        assert_eq!(seqs(&mut all), [0; 0]);
    }

    #[test]
    fn a_reader_that_fell_behind_misses_nothing() {
        let bus = Arc::new(Bus::new(0));
        publish(&bus, 1);
        let mut follower = Follower::from_now(&bus);
        publish(&bus, 3 * limits::EVENTS_LAG);
        let last = 3 * limits::EVENTS_LAG as u64 + 1;
        assert_eq!(seqs(&mut follower), (2..=last).collect::<Vec<_>>());
        publish(&bus, 1);
        assert_eq!(seqs(&mut follower), [last + 1]);
    }

    #[tokio::test]
    async fn the_first_event_is_heard_at_once_and_those_after_it_together() {
        let bus = Arc::new(Bus::new(0));
        let mut follower = Follower::after(&bus, 0);
        assert!(!is_ready(&mut follower));
        publish(&bus, 1);
        assert!(is_ready(&mut follower));
        assert_eq!(seqs(&mut follower), [1]);
        publish(&bus, 2);
        let until = follower.gather_until.expect("it lets the next ones gather");
        follower.ready().await;
        assert!(Instant::now() >= until);
        assert_eq!(seqs(&mut follower), [2, 3]);
    }

    #[tokio::test]
    async fn an_event_that_was_waited_for_in_vain_is_not_lost() {
        let bus = Arc::new(Bus::new(0));
        let mut follower = Follower::after(&bus, 0);
        for _ in 0..3 {
            tokio::select! {
                biased;
                () = follower.ready() => panic!("nothing has happened"),
                () = tokio::task::yield_now() => {}
            }
        }
        publish(&bus, 1);
        follower.ready().await;
        assert_eq!(seqs(&mut follower), [1]);
    }
}
