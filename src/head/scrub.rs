//! The scrub: every chunk of every image is read from the medium again and again, slowly, so that damage is
//! found while the disk that was imported is still at hand.
//!
//! ```text
//!   resting --period over, or asked--> reading pack by pack --end--> resting
//!                 ^ a note of the place, each GiB --> goes on there after a restart
//! ```
//! It reads at a set rate, waits while nodes boot or reads wait for a thread, and leaves in memory only what was
//! there. Layers have no checksums: it does not look at them.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Head;
use super::bell::Bell;
use super::boot::lock;
use super::error::{HeadError, Result};
use super::images::find;
use crate::catalog::ImageRef;
use crate::limits::{CHUNK_BYTES, SCRUB_EVERY, SCRUB_NOTE_BYTES, SCRUB_PACKS, SCRUB_RATE};
use crate::names::ImageId;
use crate::store::image::Place;
use crate::units::UnixMillis;

/// The fact of the catalog that says how far it is.
const FACT: &str = "scrub";
/// How long it waits before it looks again whether it may go on.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// From the end of one pass to the beginning of the next; none: only when asked.
    pub every: Option<Duration>,
    /// Bytes read in a second.
    pub rate: u64,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self {
            every: Some(SCRUB_EVERY),
            rate: SCRUB_RATE,
        }
    }
}

/// How far a pass is: the durable note.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Note {
    /// The pass under way: when it began, and the pack and slot that come next.
    began: Option<UnixMillis>,
    pack: u32,
    slot: u32,
    /// It looks at one image only.
    only: Option<ImageId>,
    bytes: u64,
    bad: u64,
    /// The last full pass that ended.
    finished: Option<UnixMillis>,
    last_bytes: u64,
    last_bad: u64,
    paused: bool,
}

/// The scrub of a head.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    note: Mutex<Note>,
    pub(super) bell: Bell,
    options: Mutex<ScrubOptions>,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScrubOrder {
    /// Only tell.
    Status,
    /// Begin a pass now, over all images or the one that is named.
    Now,
    /// Stop until it is resumed, over restarts too.
    Pause,
    /// Go on.
    Resume,
}

/// Asks the scrub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubAsk {
    /// What to do.
    pub order: ScrubOrder,
    /// Only this version.
    #[serde(default)]
    pub image: Option<ImageRef>,
}

/// How the scrub stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubView {
    /// `resting`, `reading`, `waiting` (for nodes that boot), `paused`.
    pub state: String,
    /// When the pass under way began.
    pub began: Option<UnixMillis>,
    /// The pack it is at.
    pub pack: u32,
    /// Packs there are.
    pub packs: u32,
    /// Bytes read in it.
    pub bytes: u64,
    /// Bad chunks it found.
    pub bad: u64,
    /// When the last full pass ended.
    pub finished: Option<UnixMillis>,
    /// Bytes of that.
    pub last_bytes: u64,
    /// Bad chunks it found.
    pub last_bad: u64,
    /// When the next one begins by itself.
    pub next: Option<UnixMillis>,
    /// Bytes read in a second at most.
    pub rate: u64,
}

impl Head {
    /// Reads where an earlier process left off.
    pub(super) fn load_scrub(&self) {
        let now = self.snapshot();
        let Some(text) = now.fact(FACT) else { return };
        match serde_json::from_str(text) {
            Ok(note) => *lock(&self.scrub.note) = note,
            Err(error) => tracing::warn!(%error, "how far the scrub was is not understood"),
        }
    }

    /// Asks the scrub for something; answers how it stands then. Blocking.
    ///
    /// # Errors
    /// No such image; the catalog's.
    pub fn scrub(&self, ask: &ScrubAsk) -> Result<ScrubView> {
        let now = self.snapshot();
        let only = match &ask.image {
            Some(image) => Some(find(&now, image)?.1.id),
            None => None,
        };
        if only.is_some() && ask.order != ScrubOrder::Now {
            let message = "one image can only be scrubbed now; leave the image out, or add --now";
            return Err(HeadError::invalid(message));
        }
        {
            let mut note = lock(&self.scrub.note);
            match ask.order {
                ScrubOrder::Status => {}
                ScrubOrder::Now => {
                    note.begin(only, UnixMillis::now());
                    note.paused = false;
                }
                ScrubOrder::Pause => note.paused = true,
                ScrubOrder::Resume => note.paused = false,
            }
        }
        if ask.order != ScrubOrder::Status {
            self.save_scrub()?;
            self.scrub.bell.ring();
        }
        self.scrub_view()
    }

    fn scrub_view(&self) -> Result<ScrubView> {
        let note = lock(&self.scrub.note).clone();
        let options = *lock(&self.scrub.options);
        let state = match (note.paused, note.began) {
            (true, _) => "paused",
            (false, None) => "resting",
            (false, Some(_)) if self.scrub_must_wait() => "waiting",
            (false, Some(_)) => "reading",
        };
        Ok(ScrubView {
            state: state.to_owned(),
            began: note.began,
            pack: note.pack,
            packs: self.store.images.packs()?.last().copied().unwrap_or(0),
            bytes: note.bytes,
            bad: note.bad,
            finished: note.finished,
            last_bytes: note.last_bytes,
            last_bad: note.last_bad,
            next: options.every.map(|every| note.due(every)),
            rate: options.rate,
        })
    }

    /// The figures alone, without looking at the medium.
    pub(super) fn scrub_figures(&self) -> ScrubView {
        let note = lock(&self.scrub.note).clone();
        ScrubView {
            bytes: note.bytes,
            finished: note.finished,
            ..ScrubView::default()
        }
    }

    fn save_scrub(&self) -> Result<()> {
        let note = lock(&self.scrub.note).clone();
        let text = serde_json::to_string(&note).unwrap_or_default();
        self.catalog
            .transact(|changes| Ok(changes.set_fact(FACT, &text)?))
    }

    fn note_scrub(&self) {
        if let Err(error) = self.save_scrub() {
            tracing::warn!(%error, "how far the scrub is was not written down");
        }
    }

    /// Reads have the medium for themselves while nodes boot.
    fn scrub_must_wait(&self) -> bool {
        self.store.pool.waiting() > 0 || self.warm.is_booting(Instant::now())
    }

    /// The scrub's thread: until the bell says that it is over.
    pub(super) fn run_scrub(&self, options: ScrubOptions) {
        *lock(&self.scrub.options) = options;
        let bell = &self.scrub.bell;
        while !bell.is_over() {
            let wait = self.scrub_wait(options);
            if wait.is_zero() {
                self.scrub_pass(options.rate.max(CHUNK_BYTES));
            } else if !bell.wait(wait.min(Duration::from_secs(3600))) {
                break;
            }
        }
        self.note_scrub();
    }

    /// How long until there is something to do.
    fn scrub_wait(&self, options: ScrubOptions) -> Duration {
        let now = UnixMillis::now();
        let mut note = lock(&self.scrub.note);
        if note.paused {
            return SCRUB_EVERY;
        }
        if note.began.is_some() {
            return Duration::ZERO;
        }
        let Some(every) = options.every else {
            return SCRUB_EVERY;
        };
        if note.finished.is_none() {
            // A new head: the images were verified when they were imported.
            note.finished = Some(now);
        }
        let wait = note.due(every).since(now);
        if wait == 0 {
            note.begin(None, now);
        }
        Duration::from_millis(wait)
    }

    /// Goes on with the pass under way until it ends or is interrupted.
    pub(super) fn scrub_pass(&self, rate: u64) {
        let mut pace = Pace::new(rate);
        let mut unsaved = 0;
        loop {
            let note = lock(&self.scrub.note).clone();
            let Some(began) = note.began.filter(|_| !note.paused) else {
                return;
            };
            let last = match self.store.images.packs() {
                Ok(packs) => packs.last().copied().unwrap_or(0),
                Err(error) => return self.scrub_failed(&error),
            };
            if note.pack > last {
                return self.scrub_ended();
            }
            let packs = note.pack..=note.pack.saturating_add(SCRUB_PACKS - 1);
            let chunks = match self.store.images.chunks_in(&packs, note.only) {
                Ok(chunks) => chunks,
                Err(error) => return self.scrub_failed(&error),
            };
            let from = Place {
                pack: note.pack,
                slot: note.slot,
            };
            for (&place, &id) in chunks.range(from..) {
                if !self.scrub_may_go_on(began, &mut pace) {
                    return;
                }
                let bad = self.store.images.patrol(place, id).is_err();
                self.scrub_step(place, bad);
                unsaved += CHUNK_BYTES;
                if unsaved >= SCRUB_NOTE_BYTES {
                    unsaved = 0;
                    self.note_scrub();
                }
            }
            let mut note = lock(&self.scrub.note);
            if note.began == Some(began) {
                note.pack = packs.end().saturating_add(1);
                note.slot = 0;
            }
        }
    }

    /// For tests: goes on until this many bytes of the pass are read, and stops as if it was killed there.
    #[cfg(test)]
    pub(super) fn scrub_to(&self, bytes: u64) {
        let chunks = self.store.images.chunks_in(&(0..=u32::MAX), None);
        for (place, id) in chunks.unwrap_or_default() {
            if lock(&self.scrub.note).bytes >= bytes {
                break;
            }
            let bad = self.store.images.patrol(place, id).is_err();
            self.scrub_step(place, bad);
        }
        self.note_scrub();
    }

    fn scrub_step(&self, place: Place, bad: bool) {
        let mut note = lock(&self.scrub.note);
        note.pack = place.pack;
        note.slot = place.slot + 1;
        note.bytes += CHUNK_BYTES;
        note.bad += u64::from(bad);
    }

    /// Waits for its turn. False when the pass was ended, paused or begun anew meanwhile.
    fn scrub_may_go_on(&self, began: UnixMillis, pace: &mut Pace) -> bool {
        loop {
            let wait = match self.scrub_must_wait() {
                true => LOOK_AGAIN,
                false => pace.wait(Instant::now()),
            };
            if !wait.is_zero() && !self.scrub.bell.wait(wait) {
                return false;
            }
            let note = lock(&self.scrub.note);
            if note.paused || note.began != Some(began) || self.scrub.bell.is_over() {
                return false;
            }
            if wait.is_zero() {
                return true;
            }
        }
    }

    fn scrub_ended(&self) {
        let (bytes, bad, one) = {
            let mut note = lock(&self.scrub.note);
            let pass = (note.bytes, note.bad, note.only.is_some());
            note.end(UnixMillis::now());
            pass
        };
        let what = if one { "one image" } else { "all images" };
        tracing::info!(bytes, bad, "the scrub has read {what}");
        self.note_scrub();
    }

    fn scrub_failed(&self, error: &crate::store::Error) {
        tracing::warn!(%error, "the scrub cannot go on; it tries again");
        self.scrub.bell.wait(Duration::from_secs(60));
    }
}

impl Note {
    fn begin(&mut self, only: Option<ImageId>, now: UnixMillis) {
        self.began = Some(now);
        (self.pack, self.slot, self.bytes, self.bad) = (0, 0, 0, 0);
        self.only = only;
    }

    fn end(&mut self, now: UnixMillis) {
        self.began = None;
        // One image is not all of them.
        if self.only.take().is_none() {
            (self.last_bytes, self.last_bad) = (self.bytes, self.bad);
            self.finished = Some(now);
        }
    }

    fn due(&self, every: Duration) -> UnixMillis {
        let after = self.finished.unwrap_or_default().0;
        let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        UnixMillis(after.saturating_add(every))
    }
}

/// Spreads reads over time. Time that was not used is not made up for.
#[derive(Debug)]
struct Pace {
    rate: u64,
    free_at: Option<Instant>,
}

impl Pace {
    const fn new(rate: u64) -> Self {
        Self {
            rate,
            free_at: None,
        }
    }

    /// Zero, and one chunk is booked; or how long until one may be.
    fn wait(&mut self, now: Instant) -> Duration {
        let free_at = self.free_at.unwrap_or(now);
        if free_at > now {
            return free_at.duration_since(now);
        }
        let costs = CHUNK_BYTES.saturating_mul(1_000_000_000) / self.rate.max(1);
        self.free_at = Some(now + Duration::from_nanos(costs));
        Duration::ZERO
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_pace_keeps_its_rate_and_makes_up_for_nothing() {
        let mut pace = Pace::new(CHUNK_BYTES * 10);
        let start = Instant::now();
        assert_eq!(pace.wait(start), Duration::ZERO);
        assert_eq!(pace.wait(start), Duration::from_millis(100));
        let later = start + Duration::from_secs(5);
        assert_eq!(pace.wait(later), Duration::ZERO);
        assert_eq!(pace.wait(later), Duration::from_millis(100));
    }

    #[test]
    fn a_pass_over_one_image_is_no_pass_over_all() {
        let mut note = Note::default();
        note.begin(Some(ImageId([1; 32])), UnixMillis(5));
        note.bytes = 64;
        note.end(UnixMillis(9));
        assert_eq!(
            (note.finished, note.began, note.last_bytes),
            (None, None, 0)
        );
        note.begin(None, UnixMillis(10));
        note.bytes = 128;
        note.end(UnixMillis(20));
        assert_eq!(
            (note.finished, note.last_bytes),
            (Some(UnixMillis(20)), 128)
        );
        assert_eq!(note.due(Duration::from_millis(7)), UnixMillis(27));
    }
}
