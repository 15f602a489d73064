//! The I/O threads: the only threads of the data path that may block on a medium.
//!
//! Bounded: when the queue is full the caller is told at once and answers "busy" to its node.
//! Jobs do not panic by policy (the release build aborts on a panic).
//!
//! A lock and a condition, not a channel: the channels at hand let a receiver spin and yield before it sleeps. On a
//! core that the connections need too, those yields were a fifth of all processor time under small writes
//! (`docs/performance.md`). Of the threads that sleep the one that fell asleep last is woken: its stack and its free
//! lists are still in the processor's caches, and under light load all work is done by one or two threads.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

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
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that sleep and were not woken yet; the last one has slept the shortest.
    asleep: Vec<Thread>,
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
            let me = thread::current();
            let id = me.id();
            state.asleep.push(me);
            drop(state);
            thread::park();
            state = self.state();
            // It may have woken for another reason, such as a signal of a lock that its last job used.
            state.asleep.retain(|sleeper| sleeper.id() != id);
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
        let sleeper = state.asleep.pop();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.unpark();
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
        let asleep = {
            let mut state = self.queue.state();
            state.closed = true;
            std::mem::take(&mut state.asleep)
        };
        asleep.iter().for_each(Thread::unpark);
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
    fn one_job_at_a_time_is_always_done_by_the_same_thread() {
        let (tell, told) = bounded(1);
        let pool = Pool::new(5, 10).unwrap();
        let mut seen = Vec::new();
        for _ in 0..30 {
            while pool.queue.state().asleep.len() < 5 {
                thread::yield_now();
            }
            let tell = tell.clone();
            pool.submit(Box::new(move || {
                tell.send(thread::current().id()).unwrap();
            }))
            .unwrap();
            seen.push(told.recv().unwrap());
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "{seen:?}");
    }

    #[test]
    fn a_thread_that_wakes_for_nothing_sleeps_again_and_is_still_found() {
        let (tell, told) = bounded(1);
        let pool = Pool::new(1, 10).unwrap();
        for turn in 0..100 {
            for handle in &pool.threads {
                handle.thread().unpark();
            }
            let tell = tell.clone();
            pool.submit(Box::new(move || tell.send(turn).unwrap()))
                .unwrap();
            assert_eq!(told.recv().unwrap(), turn);
        }
    }

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
