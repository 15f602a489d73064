//! The shared journal: what is durable of all layers, and how many flushes share one sync.
//!
//! Whoever comes first leads: it takes the requests of all who wait, writes them as one batch, syncs once,
//! and tells every layer its outcome before anybody else may append or take a snapshot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::entry::{Entry, Header, VERSION};
use super::frame::{Log, Role};
use super::state::Layer;
use super::{DATA_DIR, DIR, lock};
use crate::store::disk::Disk;
use crate::store::{Error, ErrorKind, Result};

/// Path of the journal of an epoch.
pub(super) fn path(epoch: u32) -> String {
    format!("{DIR}/journal.{epoch}")
}

/// How a commit ended, told to the layer before the next commit begins.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Durable.
    Done,
    /// Nothing was written that counts: it may be tried again.
    Refused(ErrorKind, String),
    /// A sync failed: nobody knows what is on the medium.
    Unknown(String),
}

impl Outcome {
    fn into_result(self) -> Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Refused(kind, why) => Err(Error::new(kind, why)),
            Self::Unknown(why) => Err(Error::new(ErrorKind::Poisoned, why)),
        }
    }
}

#[derive(Debug)]
struct Request {
    entries: Vec<Entry>,
    needs_name: bool,
    layer: Option<Arc<Layer>>,
    outcome: Arc<OnceLock<Outcome>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Request>,
    lazy: Vec<Entry>,
    led: bool,
}

/// The journal in use.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) log: Log,
    // After a failed sync nothing may be appended to this file any more.
    broken: bool,
}

/// The journal and those who wait for it.
#[derive(Debug)]
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    step: u64,
    active: Mutex<Active>,
    queue: Mutex<Queue>,
    done: Condvar,
    bytes: AtomicU64,
    syncs: AtomicU64,
}

impl Journal {
    pub(super) fn new(disk: Arc<dyn Disk>, log: Log, step: u64) -> Self {
        Self {
            disk,
            step,
            bytes: AtomicU64::new(log.mark.end),
            syncs: AtomicU64::new(0),
            active: Mutex::new(Active { log, broken: false }),
            queue: Mutex::default(),
            done: Condvar::new(),
        }
    }

    /// Bytes in the journal in use.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Syncs of journal files so far.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Makes `entries` durable. With `needs_name` the directory of the data files is synced before. The
    /// layer is settled with the outcome before any later commit or snapshot.
    pub(super) fn commit(
        &self,
        entries: Vec<Entry>,
        needs_name: bool,
        layer: Option<Arc<Layer>>,
    ) -> Result<()> {
        let outcome = Arc::new(OnceLock::new());
        let request = Request {
            entries,
            needs_name,
            layer,
            outcome: Arc::clone(&outcome),
        };
        let mut queue = lock(&self.queue);
        queue.waiting.push(request);
        loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone().into_result();
            }
            if queue.led {
                queue = self
                    .done
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.led = true;
            let batch = std::mem::take(&mut queue.waiting);
            let lazy = std::mem::take(&mut queue.lazy);
            drop(queue);
            let lazy = self.lead(batch, lazy);
            queue = lock(&self.queue);
            queue.lazy.splice(0..0, lazy);
            queue.led = false;
            self.done.notify_all();
        }
    }

    /// Adds an entry that nobody waits for: it goes with the next commit.
    pub(super) fn lazily(&self, entry: Entry) {
        lock(&self.queue).lazy.push(entry);
    }

    /// True when entries wait that nobody waits for.
    pub(super) fn is_lazy(&self) -> bool {
        !lock(&self.queue).lazy.is_empty()
    }

    /// Keeps every commit out while held.
    pub(super) fn active(&self) -> MutexGuard<'_, Active> {
        lock(&self.active)
    }

    // Writes one batch and settles all. Gives the lazy entries back if they were not written.
    fn lead(&self, batch: Vec<Request>, lazy: Vec<Entry>) -> Vec<Entry> {
        let mut active = self.active();
        let names = self.sync_names(&batch);
        let (ready, unnamed): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|request| names.is_ok() || !request.needs_name);
        let mut entries: Vec<Entry> = Vec::new();
        for request in &ready {
            entries.extend_from_slice(&request.entries);
        }
        entries.extend_from_slice(&lazy);
        let outcome = self.write(&mut active, &entries);
        let written = matches!(outcome, Outcome::Done);
        let unknown = names
            .err()
            .map(|e| Outcome::Unknown(format!("the layer's file name: {e}")));
        let settled = ready.into_iter().map(|request| (request, outcome.clone()));
        let others = unnamed.into_iter().zip(unknown.into_iter().cycle());
        for (request, outcome) in settled.chain(others) {
            if let Some(layer) = &request.layer {
                layer.settle(&outcome);
            }
            // Set once: the request is owned by this batch alone.
            let _ = request.outcome.set(outcome);
        }
        drop(active);
        if written { Vec::new() } else { lazy }
    }

    fn sync_names(&self, batch: &[Request]) -> Result<()> {
        if batch.iter().any(|request| request.needs_name) {
            self.disk.sync_dir(DATA_DIR)?;
        }
        Ok(())
    }

    fn write(&self, active: &mut Active, entries: &[Entry]) -> Outcome {
        if entries.is_empty() {
            return Outcome::Done;
        }
        if active.broken
            && let Err(e) = self.rotate(active, 0)
        {
            return Outcome::Refused(
                e.kind(),
                format!("the layers' journal failed before; a new one: {e}"),
            );
        }
        let mark = match active.log.append(entries) {
            Ok(mark) => mark,
            Err(e) => return Outcome::Refused(e.kind(), format!("the layers' journal: {e}")),
        };
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if let Err(e) = active.log.file.sync() {
            active.broken = true;
            return Outcome::Unknown(format!("the layers' journal: {e}"));
        }
        active.log.advance(mark);
        self.bytes.store(mark.end, Ordering::Relaxed);
        Outcome::Done
    }

    /// Goes on in a new file whose header says where the old one ends. Called with commits kept out.
    pub(super) fn rotate(&self, active: &mut Active, generation_next: u64) -> Result<()> {
        let old = &active.log;
        let epoch = old.epoch.checked_add(1).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the layers' journal has used up its numbers",
            )
        })?;
        let header = Header {
            version: VERSION,
            generation_next,
            previous_end: old.mark.end,
            previous_crc: old.mark.crc,
            ..Header::default()
        };
        let log = begin(&*self.disk, epoch, header, self.step)?;
        self.bytes.store(log.mark.end, Ordering::Relaxed);
        *active = Active { log, broken: false };
        Ok(())
    }
}

/// Makes a durable, empty journal; one that a failed attempt left is replaced.
pub(super) fn begin(disk: &dyn Disk, epoch: u32, header: Header, step: u64) -> Result<Log> {
    let path = path(epoch);
    if let Err(e) = disk.remove(&path)
        && e.kind() != ErrorKind::NotFound
    {
        return Err(e);
    }
    let make = || -> Result<Log> {
        let mut log = Log::create(disk, &path, Role::Journal, epoch, step)?;
        let mark = log.append(&[Entry::Header(header)])?;
        log.advance(mark);
        log.file.sync()?;
        disk.sync_dir(DIR)?;
        Ok(log)
    };
    make().inspect_err(|_| {
        // A journal without frames is ignored by recovery, so it may stay if this fails too.
        let _ = disk.remove(&path);
    })
}
