//! What others tell a connection's task: a queue that costs next to nothing while it is empty, in memory (a
//! channel made of blocks holds a block of them) as in time (looking into an empty one is one load). Unbounded
//! in itself: each sender has few things under way, all bounded elsewhere. Pure.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    waker: Option<Waker>,
    senders: usize,
    /// The receiver lives.
    open: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// There may be something to see: items, or the end.
    news: AtomicBool,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the receiver to look. Called with the lock given back.
    fn ring(waker: Option<Waker>) {
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Puts things in.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Shared<T>>);

/// Takes them out, in order.
#[derive(Debug)]
pub(super) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The waker that the senders have.
    known: Option<Waker>,
}

/// An empty one.
pub(super) fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            items: VecDeque::new(),
            waker: None,
            senders: 1,
            open: true,
        }),
        news: AtomicBool::new(false),
    });
    let receiver = Receiver {
        shared: Arc::clone(&shared),
        known: None,
    };
    (Sender(shared), receiver)
}

impl<T> Sender<T> {
    /// Puts `item` in; gives it back when nobody will take it out any more.
    pub(super) fn send(&self, item: T) -> Result<(), T> {
        let mut state = self.0.state();
        if !state.open {
            return Err(item);
        }
        state.items.push_back(item);
        self.0.news.store(true, Ordering::Release);
        let waker = state.waker.clone();
        drop(state);
        Shared::<T>::ring(waker);
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.senders -= 1;
        if state.senders > 0 {
            return;
        }
        self.0.news.store(true, Ordering::Release);
        let waker = state.waker.take();
        drop(state);
        Shared::<T>::ring(waker);
    }
}

impl<T> Receiver<T> {
    /// The next thing; none when it is empty and all senders are gone.
    pub(super) fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        ready!(self.poll_news(cx));
        Poll::Ready(self.shared.state().items.pop_front())
    }

    /// Ready when there is something to take out, or the end.
    pub(super) fn poll_news(&mut self, cx: &Context<'_>) -> Poll<()> {
        let known = self.known.as_ref();
        if known.is_some_and(|known| known.will_wake(cx.waker()))
            && !self.shared.news.load(Ordering::Acquire)
        {
            return Poll::Pending;
        }
        let mut state = self.shared.state();
        if !state.items.is_empty() || state.senders == 0 {
            return Poll::Ready(());
        }
        // A burst is over.
        state.items.shrink_to(4);
        self.shared.news.store(false, Ordering::Release);
        state.waker = Some(cx.waker().clone());
        self.known.clone_from(&state.waker);
        Poll::Pending
    }

    /// Waits for the next thing.
    pub(super) async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.shared.state();
            state.open = false;
            state.waker = None;
            std::mem::take(&mut state.items)
        };
        // Outside of the lock: what is dropped may send.
        drop(left);
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_receiver_that_found_nothing_is_woken_whenever_something_comes() {
        let (sender, mut receiver) = mailbox();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let cx = Context::from_waker(&waker);
        for round in 1..4 {
            assert!(receiver.poll_recv(&cx).is_pending());
            sender.send(round).unwrap();
            assert_eq!(bell.0.load(Ordering::Relaxed), round);
            assert_eq!(receiver.poll_recv(&cx), Poll::Ready(Some(round)));
        }
    }

    #[test]
    fn another_task_that_takes_over_is_the_one_that_is_woken() {
        let (sender, mut receiver) = mailbox();
        let bells = [Arc::new(Bell::default()), Arc::new(Bell::default())];
        for bell in &bells {
            let waker = Waker::from(Arc::clone(bell));
            assert!(
                receiver
                    .poll_recv(&Context::from_waker(&waker))
                    .is_pending()
            );
        }
        sender.send(()).unwrap();
        let rung = bells.map(|bell| bell.0.load(Ordering::Relaxed));
        assert_eq!(rung, [0, 1]);
    }

    #[test]
    fn the_end_is_told_after_what_was_sent() {
        let (sender, mut receiver) = mailbox();
        let other = sender.clone();
        other.send('a').unwrap();
        drop(sender);
        other.send('b').unwrap();
        drop(other);
        let cx = Context::from_waker(Waker::noop());
        let all: Vec<_> = (0..3).map(|_| receiver.poll_recv(&cx)).collect();
        let told = ['a', 'b'].map(|item| Poll::Ready(Some(item)));
        assert_eq!(all, [told[0], told[1], Poll::Ready(None)]);
    }

    #[test]
    fn what_nobody_will_take_comes_back_and_what_waited_is_dropped() {
        let (sender, receiver) = mailbox();
        let item = Arc::new(());
        sender.send(Arc::clone(&item)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(sender.send(item).is_err());
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let (sender, mut receiver) = mailbox();
        let threads: Vec<_> = (0..4u32)
            .map(|n| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for i in 0..1000 {
                        sender.send((n, i)).unwrap();
                    }
                })
            })
            .collect();
        drop(sender);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut next = [0; 4];
        runtime.block_on(async {
            while let Some((n, i)) = receiver.recv().await {
                assert_eq!(next[n as usize], i);
                next[n as usize] += 1;
            }
        });
        assert_eq!(next, [1000; 4]);
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
