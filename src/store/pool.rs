//! Threads that may block. (Stand-in with the contract's signature; the store's owner has the real one.)

use std::fmt;

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::limits;

/// A job.
pub type Job = Box<dyn FnOnce() + Send>;

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A fixed number of threads with one bounded queue.
pub struct Pool {
    jobs: Sender<Job>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} waiting)", self.jobs.len())
    }
}

impl Pool {
    /// Starts `threads` threads.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let (jobs, inbox) = bounded::<Job>(limits::IO_QUEUE);
        for n in 0..threads {
            let inbox = inbox.clone();
            std::thread::Builder::new()
                .name(format!("store-io-{n}"))
                .spawn(move || inbox.iter().for_each(|job| job()))?;
        }
        Ok(Self { jobs })
    }

    /// Gives a job to the next free thread.
    pub fn submit(&self, job: Job) -> Result<(), Full> {
        self.jobs.try_send(job).map_err(|e| match e {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Full,
        })
    }
}
