//! The I/O threads: the only threads of the data path that may block on a medium.
//!
//! Bounded: when the queue is full the caller is told at once and answers "busy" to its node.
//! Jobs do not panic by policy (the release build aborts on a panic).

use std::fmt;
use std::io;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Work for an I/O thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// The queue is full (or the pool is being dropped); the job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all I/O threads are busy and their queue is full")]
pub struct Full;

/// Named threads that take jobs from one bounded queue in order.
pub struct Pool {
    // Taken only by drop, which closes the queue by it.
    queue: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads (at least one) over a queue of `queue` jobs (at least one).
    ///
    /// # Errors
    /// When the operating system starts no further thread; those started before end again.
    pub fn new(threads: usize, queue: usize) -> io::Result<Self> {
        let (sender, receiver) = bounded(queue.max(1));
        let mut pool = Self {
            queue: Some(sender),
            threads: Vec::new(),
        };
        for number in 0..threads.max(1) {
            let jobs = receiver.clone();
            let name = format!("store-io-{number}");
            pool.threads.push(
                thread::Builder::new()
                    .name(name)
                    .spawn(move || work(&jobs))?,
            );
        }
        Ok(pool)
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`Full`] when the queue holds its bound already; the job is dropped without having run.
    pub fn submit(&self, job: Job) -> Result<(), Full> {
        let queue = self.queue.as_ref().ok_or(Full)?;
        queue.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Full,
        })
    }

    /// Jobs that no thread has taken yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.as_ref().map_or(0, Sender::len)
    }
}

fn work(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        job();
    }
}

impl Drop for Pool {
    /// Runs what is queued, then joins the threads.
    fn drop(&mut self) {
        self.queue = None;
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
