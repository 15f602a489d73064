//! What meddles with the syncs of the layers' files.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::sync::{Arc, Mutex};

use reveille::store::Result;
use reveille::store::disk::File;

use crate::meddled::Meddler;

/// Does the journal's sync before the data's: presence before data.
#[derive(Default)]
pub(crate) struct Swapped {
    waiting: Mutex<Vec<Arc<dyn File>>>,
}

impl Meddler for Swapped {
    fn sync(&self, file: &Arc<dyn File>, path: &str) -> Result<()> {
        if is_data(path) {
            self.waiting.lock().unwrap().push(Arc::clone(file));
            return Ok(());
        }
        file.sync()?;
        if path.starts_with("layers/journal") {
            let waiting: Vec<_> = self.waiting.lock().unwrap().drain(..).collect();
            waiting.iter().try_for_each(|file| file.sync())?;
        }
        Ok(())
    }
}

/// Calls something, once, before a data file is synced.
#[derive(Default)]
pub(crate) struct Hooked {
    pub(crate) hook: Mutex<Option<Hook>>,
}

pub(crate) type Hook = Box<dyn FnOnce() + Send>;

impl Meddler for Hooked {
    fn sync(&self, file: &Arc<dyn File>, path: &str) -> Result<()> {
        let hook = if is_data(path) {
            self.hook.lock().unwrap().take()
        } else {
            None
        };
        if let Some(hook) = hook {
            hook();
        }
        file.sync()
    }
}

fn is_data(path: &str) -> bool {
    path.starts_with("layers/data/")
}
