//! The I/O threads: the only threads of the data path that may block on a medium.
//!
//! Bounded: when the queue is full the caller is told at once and answers "busy" to its node.
//! Jobs do not panic by policy (the release build aborts on a panic).
//!
//! A lock and a condition, not a channel: the channels at hand let a receiver spin and yield before it sleeps. On a
//! core that the connections need too, those yields were a fifth of all processor time under small writes
//! (`docs/performance.md`).

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Work for an I/O thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// The queue is full (or the pool is being dropped); the job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all I/O threads are busy and their queue is full")]
pub struct Full;

/// Named threads that take jobs from one bounded queue in order.
pub struct Pool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

struct Queue {
    most: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that sleep and were not woken yet.
    asleep: usize,
    closed: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; none when the queue is closed and empty.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.asleep += 1;
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            // Also when nobody woke it: one waking too many is no harm, one too few would be.
            state.asleep = state.asleep.saturating_sub(1);
        }
    }
}

impl Pool {
    /// Starts `threads` threads (at least one) over a queue of `queue` jobs (at least one).
    ///
    /// # Errors
    /// When the operating system starts no further thread; those started before end again.
    pub fn new(threads: usize, queue: usize) -> io::Result<Self> {
        let queue = Queue {
            most: queue.max(1),
            state: Mutex::default(),
            wake: Condvar::new(),
        };
        let mut pool = Self {
            queue: Arc::new(queue),
            threads: Vec::new(),
        };
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&pool.queue);
            let name = format!("store-io-{number}");
            let work = move || {
                while let Some(job) = queue.next() {
                    job();
                }
            };
            pool.threads
                .push(thread::Builder::new().name(name).spawn(work)?);
        }
        Ok(pool)
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`Full`] when the queue holds its bound already; the job is dropped without having run.
    pub fn submit(&self, job: Job) -> Result<(), Full> {
        let mut state = self.queue.state();
        if state.closed || state.jobs.len() >= self.queue.most {
            return Err(Full);
        }
        state.jobs.push_back(job);
        // Waking costs a system call: only when somebody sleeps.
        let sleeps = state.asleep > 0;
        drop(state);
        if sleeps {
            self.queue.wake.notify_one();
        }
        Ok(())
    }

    /// Jobs that no thread has taken yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.state().jobs.len()
    }
}

impl Drop for Pool {
    /// Runs what is queued, then joins the threads.
    fn drop(&mut self) {
        self.queue.state().closed = true;
        self.queue.wake.notify_all();
        let me = thread::current().id();
        for handle in self.threads.drain(..) {
            // The last owner may be a job itself: its thread ends by itself after the queue closed.
            if handle.thread().id() != me {
                let _ = handle.join();
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Pool({} threads, {} waiting)",
            self.threads.len(),
            self.waiting()
        )
    }
}

#[cfg(test)]
mod test {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn every_job_runs_before_drop_returns() {
        let ran = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(3, 100).unwrap();
        for _ in 0..50 {
            let ran = Arc::clone(&ran);
            pool.submit(Box::new(move || {
                ran.fetch_add(1, Ordering::SeqCst);
            }))
            .unwrap();
        }
        drop(pool);
        assert_eq!(ran.load(Ordering::SeqCst), 50);
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let (release, gate) = bounded::<()>(0);
        let (started, running) = bounded::<()>(1);
        let pool = Pool::new(1, 1).unwrap();
        pool.submit(Box::new(move || {
            started.send(()).unwrap();
            let _ = gate.recv();
        }))
        .unwrap();
        running.recv().unwrap();
        pool.submit(Box::new(|| {})).unwrap();
        assert_eq!(pool.waiting(), 1);
        assert_eq!(pool.submit(Box::new(|| {})), Err(Full));
        drop(release);
    }

    #[test]
    fn threads_carry_a_name() {
        let (tell, told) = bounded(1);
        let pool = Pool::new(1, 1).unwrap();
        pool.submit(Box::new(move || {
            tell.send(thread::current().name().map(str::to_owned))
                .unwrap();
        }))
        .unwrap();
        assert_eq!(told.recv().unwrap().as_deref(), Some("store-io-0"));
    }

    #[test]
    fn the_last_owner_may_be_a_job() {
        let (done, ended) = bounded(1);
        let pool = Arc::new(Pool::new(2, 4).unwrap());
        let inner = Arc::clone(&pool);
        let (go, gate) = bounded::<()>(0);
        pool.submit(Box::new(move || {
            let _ = gate.recv();
            drop(inner);
            done.send(()).unwrap();
        }))
        .unwrap();
        drop(pool);
        go.send(()).unwrap();
        ended.recv().unwrap();
    }
}
