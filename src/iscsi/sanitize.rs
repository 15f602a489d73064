//! Carries out SANITIZE: a task beside the connections, which goes on when the command's session ends. The work
//! is cut into pieces of bounded size for the store's pool, and paced, so that nodes which boot keep the
//! medium. That it runs is written down first; who finds that note at an attach finds a disk that was not
//! sanitized to its end.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::shared::Shared;
use super::target::Unit;
use crate::limits;
use crate::scsi::{SECTOR_LEN, Wipe};
use crate::store::{Buffer, Error, ErrorKind, Result, Volume};

/// Lets changes of a disk through, and knows which were asked for before a sanitize operation began: they
/// must not land behind it.
#[derive(Debug, Default)]
pub(super) struct Gate(RwLock<u64>);

impl Gate {
    /// What a change that is asked for now must show later.
    pub(super) fn epoch(&self) -> u64 {
        *self.read()
    }

    /// Held by a change while it runs; none when a sanitize operation has begun since it was asked for.
    pub(super) fn enter(&self, epoch: u64) -> Option<RwLockReadGuard<'_, u64>> {
        let now = self.read();
        (*now == epoch).then_some(now)
    }

    /// The same for several changes at once: those that were asked for in the epoch that is told may run while the
    /// guard is held, and no others.
    pub(super) fn enter_many(&self) -> RwLockReadGuard<'_, u64> {
        self.read()
    }

    /// Waits for changes that run, and turns away those that were asked for and do not run yet.
    fn shut_out(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn read(&self) -> RwLockReadGuard<'_, u64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an operation stands: passes done, bytes of the pass at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    pass: u8,
    at: u64,
}

/// Runs `wipe` on the disk to its end, tells the device server, and then says whether it went well. The
/// device server has been told already that it runs.
pub(super) async fn run(shared: Arc<Shared>, unit: Unit, wipe: Wipe, unrestricted: bool) -> bool {
    let layer = unit.volume.layer();
    let (head, gate) = (Arc::clone(shared.targets.head()), Arc::clone(&unit.gate));
    let noted = on_pool(&shared, move || {
        gate.shut_out();
        head.sanitize_begun(layer, unrestricted)
            .map_err(|e| Error::new(ErrorKind::Io, format!("it could not be written down: {e}")))
    });
    let done = match noted.await {
        Ok(()) => work(&shared, &unit, wipe).await,
        Err(e) => Err(e),
    };
    let head = Arc::clone(shared.targets.head());
    let done = match done {
        Ok(()) => {
            let forget = move || {
                head.sanitize_over(layer)
                    .map_err(|e| Error::new(ErrorKind::Io, format!("its note stays: {e}")))
            };
            on_pool(&shared, forget).await
        }
        Err(e) => Err(e),
    };
    if let Err(e) = &done {
        tracing::warn!("layer {layer}: SANITIZE failed: {e}");
    }
    // A layer that was thrown away meanwhile has nothing left to sanitize.
    let gone = matches!(&done, Err(e) if e.kind() == ErrorKind::Fenced);
    unit.device().sanitize_ended(done.is_ok() || gone);
    done.is_ok()
}

async fn work(shared: &Arc<Shared>, unit: &Unit, wipe: Wipe) -> Result<()> {
    let volume = Arc::clone(&unit.volume);
    match wipe {
        Wipe::Erase => on_pool(shared, move || volume.erase()).await,
        Wipe::Overwrite {
            pattern,
            passes,
            invert,
        } => {
            let mut place = Place::default();
            while let Some(next) = step(place, volume.size(), passes) {
                let due = Instant::now() + pace(next, place, volume.size());
                let (to, block) = (Arc::clone(&volume), block(&pattern, place.pass, invert));
                on_pool(shared, move || fill(&to, place.at, &block)).await?;
                let total = volume.size().saturating_mul(passes.into());
                unit.device()
                    .sanitize_progress(progress(next, volume.size(), total));
                tokio::time::sleep_until(due.into()).await;
                place = next;
            }
            on_pool(shared, move || volume.flush()).await
        }
    }
}

/// Runs `job` on the store's pool; waits for a place when its queue is full.
async fn on_pool<T: Send + 'static>(
    shared: &Arc<Shared>,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (tell, told) = oneshot::channel();
    let mut job = Some((job, tell));
    loop {
        let place = Arc::new(std::sync::Mutex::new(job.take()));
        let theirs = Arc::clone(&place);
        let take = move || {
            let taken = theirs.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((job, tell)) = taken {
                // Nobody listens any more when the server ends.
                let _ = tell.send(job());
            }
        };
        if shared.pool.submit(Box::new(take)).is_ok() {
            break;
        }
        job = place.lock().unwrap_or_else(PoisonError::into_inner).take();
        tokio::time::sleep(limits::SANITIZE_RETRY).await;
    }
    told.await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Cancelled, "the store is closed")))
}

/// Where the work stands when the piece at `place` is done; none when nothing is left.
fn step(place: Place, size: u64, passes: u8) -> Option<Place> {
    if place.pass >= passes || size == 0 {
        return None;
    }
    let at = place.at.saturating_add(limits::PASS_BYTES).min(size);
    Some(if at == size {
        Place {
            pass: place.pass + 1,
            at: 0,
        }
    } else {
        Place { at, ..place }
    })
}

const fn written(place: Place, size: u64) -> u64 {
    (place.pass as u64)
        .saturating_mul(size)
        .saturating_add(place.at)
}

/// The time that the piece between two places may take at the least.
fn pace(next: Place, place: Place, size: u64) -> Duration {
    let bytes = written(next, size).saturating_sub(written(place, size));
    let micros = u128::from(bytes) * 1_000_000 / u128::from(limits::SANITIZE_BYTES_PER_SECOND);
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

fn progress(place: Place, size: u64, total: u64) -> u16 {
    let part = u128::from(written(place, size)) * 65_536 / u128::from(total.max(1));
    u16::try_from(part).unwrap_or(u16::MAX)
}

fn block(pattern: &[u8; SECTOR_LEN], pass: u8, invert: bool) -> [u8; SECTOR_LEN] {
    let inverse = if invert && pass % 2 == 1 { 0xFF } else { 0 };
    pattern.map(|byte| byte ^ inverse)
}

/// Writes one piece of the disk full of `block`.
fn fill(volume: &Volume, at: u64, block: &[u8; SECTOR_LEN]) -> Result<()> {
    let len = limits::PASS_BYTES.min(volume.size().saturating_sub(at));
    let mut bytes = Buffer::take(usize::try_from(len).unwrap_or(0));
    for sector in bytes.chunks_mut(SECTOR_LEN) {
        sector.copy_from_slice(&block[..sector.len()]);
    }
    volume.write(at, &bytes)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_pieces_cover_every_pass_and_end() {
        let size = 2 * limits::PASS_BYTES + 512;
        let mut place = Place::default();
        let mut steps = vec![place];
        while let Some(next) = step(place, size, 2) {
            assert!(written(next, size) > written(place, size));
            assert!(written(next, size) - written(place, size) <= limits::PASS_BYTES);
            place = next;
            steps.push(place);
        }
        assert_eq!(steps.len(), 7);
        assert_eq!(written(place, size), 2 * size);
        assert_eq!(progress(place, size, 2 * size), u16::MAX);
        assert_eq!(progress(steps[3], size, 2 * size), 32_768);
    }

    #[test]
    fn the_pace_is_that_of_the_limit() {
        let bytes = limits::PASS_BYTES;
        let next = Place { pass: 0, at: bytes };
        let took = pace(next, Place::default(), 8 * bytes);
        let each = bytes * 1_000_000 / limits::SANITIZE_BYTES_PER_SECOND;
        assert_eq!(took, Duration::from_micros(each));
    }

    #[test]
    fn every_second_pass_is_the_inverse_when_asked_for() {
        let pattern = [0xA5; SECTOR_LEN];
        assert_eq!(block(&pattern, 0, true), pattern);
        assert_eq!(block(&pattern, 1, true), [0x5A; SECTOR_LEN]);
        assert_eq!(block(&pattern, 1, false), pattern);
    }

    #[test]
    fn a_change_asked_for_before_a_sanitize_does_not_run_behind_it() {
        let gate = Gate::default();
        let before = gate.epoch();
        assert!(gate.enter(before).is_some());
        gate.shut_out();
        assert!(gate.enter(before).is_none());
        assert!(gate.enter(gate.epoch()).is_some());
    }
}
