//! The thread that does the upkeep of a store, so that no node's flush pays for a checkpoint.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::core::Core;
use super::lock;
use crate::limits;
use crate::store::{Error, Result};

#[derive(Debug, Default)]
struct Wishes {
    work: bool,
    stop: bool,
}

/// How the store's users ask for upkeep.
#[derive(Debug, Default)]
pub(super) struct Signal {
    wishes: Mutex<Wishes>,
    bell: Condvar,
}

impl Signal {
    /// Asks for upkeep; never waits for it.
    pub(super) fn ring(&self) {
        lock(&self.wishes).work = true;
        self.bell.notify_one();
    }

    fn stop(&self) {
        lock(&self.wishes).stop = true;
        self.bell.notify_one();
    }

    // Whether there is work; none when it is time to end. Waits `most` at most.
    fn wait(&self, most: Duration) -> Option<bool> {
        let wishes = lock(&self.wishes);
        let idle = |wishes: &mut Wishes| !wishes.work && !wishes.stop;
        let (mut wishes, _) = self
            .bell
            .wait_timeout_while(wishes, most, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let work = std::mem::take(&mut wishes.work);
        (!wishes.stop).then_some(work)
    }
}

/// The running thread; ends when dropped.
#[derive(Debug)]
pub(super) struct Driver {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts the thread.
    pub(super) fn start(core: &Arc<Core>) -> Result<Self> {
        let signal = Arc::clone(&core.signal);
        let (bell, core): (_, Weak<Core>) = (Arc::clone(&signal), Arc::downgrade(core));
        let run = move || {
            let mut looked = Instant::now();
            while let Some(work) = bell.wait(limits::LAYER_IDLE_LOOK) {
                let Some(core) = core.upgrade() else { return };
                if work {
                    core.maintain();
                }
                if looked.elapsed() >= limits::LAYER_IDLE_LOOK {
                    core.close_idle();
                    looked = Instant::now();
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("layer-upkeep".to_owned())
            .spawn(run);
        let thread = thread.map_err(|e| {
            let why = format!("start the thread for the layers' upkeep: {e}");
            Error::io(e, why)
        })?;
        Ok(Self {
            signal,
            thread: Some(thread),
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.signal.stop();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A thread that panicked has nothing left to say here.
            let _ = thread.join();
        }
    }
}
