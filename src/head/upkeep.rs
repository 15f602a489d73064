//! The threads of a running head that nobody asks for: warm data and news of bad chunks on one, the scrub on the
//! other.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::{Head, ScrubOptions};
use crate::limits::PIN_BYTES;

/// What the upkeep does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpkeepOptions {
    /// The scrub.
    pub scrub: ScrubOptions,
    /// Memory that is kept warm for boot profiles, bytes; 0: nothing is brought in ahead.
    pub pin: u64,
}

impl Default for UpkeepOptions {
    fn default() -> Self {
        Self {
            scrub: ScrubOptions::default(),
            pin: PIN_BYTES,
        }
    }
}

/// The threads, running.
#[derive(Debug)]
pub struct Upkeep {
    head: Arc<Head>,
    threads: Vec<JoinHandle<()>>,
}

impl Upkeep {
    /// Starts them. Once for each head.
    ///
    /// # Errors
    /// When the operating system starts no further thread.
    pub fn start(head: &Arc<Head>, options: UpkeepOptions) -> io::Result<Self> {
        let mut upkeep = Self {
            head: Arc::clone(head),
            threads: Vec::new(),
        };
        let warm = Arc::clone(head);
        let builder = thread::Builder::new().name("head-warm".into());
        upkeep
            .threads
            .push(builder.spawn(move || warm.run_warm(options.pin))?);
        let scrub = Arc::clone(head);
        let builder = thread::Builder::new().name("head-scrub".into());
        upkeep
            .threads
            .push(builder.spawn(move || scrub.run_scrub(options.scrub))?);
        Ok(upkeep)
    }
}

impl Drop for Upkeep {
    /// Ends them and waits until they have.
    fn drop(&mut self) {
        self.head.warm.bell.end();
        self.head.scrub.bell.end();
        for thread in self.threads.drain(..) {
            // One that panicked was told by the runtime already.
            let _ = thread.join();
        }
    }
}
