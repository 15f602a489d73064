//! Giving back what no image version names. Not while an import is on its way: its image has no name yet.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::Head;
use super::boot::NO_BOOT;
use super::error::{HeadError, HeadErrorKind, Result};
use crate::names::ImageId;

/// One import or collection at a time; a collection that met an import is owed.
#[derive(Debug, Default)]
pub(super) struct Collection {
    running: Mutex<()>,
    owed: AtomicBool,
}

impl Head {
    /// Held from the first byte of an import until its version is in the catalog.
    pub(super) fn importing(&self) -> Result<MutexGuard<'_, ()>> {
        match self.collection.running.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(guard)) => Ok(guard.into_inner()),
            Err(TryLockError::WouldBlock) => Err(HeadError::new(
                HeadErrorKind::Unavailable,
                "another import or collection of images is running; try again when it is done",
            )),
        }
    }

    /// Removes images that no name and no running boot needs. Answers the bytes given back; `None` when an
    /// import is running, after which it is done.
    ///
    /// # Errors
    /// The store's.
    pub fn collect_images(&self) -> Result<Option<u64>> {
        let _one = match self.collection.running.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => PoisonError::into_inner(guard),
            Err(TryLockError::WouldBlock) => {
                self.collection.owed.store(true, Ordering::SeqCst);
                return Ok(None);
            }
        };
        let mut freed = self.collect_now()?;
        // Who came meanwhile left it to us.
        while self.collection.owed.load(Ordering::SeqCst) {
            freed = freed.saturating_add(self.collect_now()?);
        }
        Ok(Some(freed))
    }

    /// After an import: what was put off for it.
    pub(super) fn collect_if_owed(&self) {
        if !self.collection.owed.load(Ordering::SeqCst) {
            return;
        }
        if let Err(error) = self.collect_images() {
            tracing::warn!(%error, "space of removed images was not given back");
        }
    }

    fn collect_now(&self) -> Result<u64> {
        self.collection.owed.store(false, Ordering::SeqCst);
        let now = self.snapshot();
        let named = now.images().flat_map(|i| &i.versions).map(|v| v.id);
        let bound = now.bindings().filter(|b| b.boot != NO_BOOT);
        let kept: HashSet<ImageId> = named.chain(bound.flat_map(|b| b.images())).collect();
        self.warm.let_go(&|id| kept.contains(&id));
        let collected = self.store.images.collect(&|id| kept.contains(&id))?;
        Ok(collected.bytes)
    }
}
