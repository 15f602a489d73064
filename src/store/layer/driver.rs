//! The thread that does the upkeep of a store, so that no node's flush pays for a checkpoint.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use super::core::Core;
use super::lock;
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

    // False when it is time to end.
    fn wait(&self) -> bool {
        let mut wishes = lock(&self.wishes);
        while !wishes.work && !wishes.stop {
            wishes = self
                .bell
                .wait(wishes)
                .unwrap_or_else(PoisonError::into_inner);
        }
        wishes.work = false;
        !wishes.stop
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
            while bell.wait() {
                let Some(core) = core.upgrade() else { return };
                core.maintain();
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
