//! Warm data: boots are recorded, what they read is brought into memory before the next ones ask, and kept there.
//!
//! ```text
//!   firmware login of a new boot --Recorder--> ready --merge--> profile on the medium
//!   boot begins, campaign begins, head starts --> bring in what the profile says --> look again every 30 s
//! ```
//! All of it is a help and nothing depends on it: reads that are not warm are answered as ever. What is brought
//! in goes through the I/O threads, a few reads at a time, behind the reads that nodes wait for.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use serde::{Deserialize, Serialize};

use super::Head;
use super::bell::Bell;
use super::boot::{NO_BOOT, lock};
use super::error::{HeadError, Result};
use super::images::find;
use crate::catalog::{Binding, ImageRef, Snapshot};
use crate::events::{Event, EventKind};
use crate::limits::{
    CHUNK_BYTES, CHUNK_LEN, IMAGE_RUN_CHUNKS, PIN_EVERY, PREFETCH_AGAIN, PREFETCH_QUEUE,
    PREFETCH_READS, PROFILE_AT_ONCE, PROFILE_BOOTS, PROFILE_RECORD_MAX, SCRUB_BOOTING_MAX,
    SCRUB_YIELDS,
};
use crate::names::{BootId, ImageId, NodeName};
use crate::store::Buffer;
use crate::store::image::{ChunkId, Image, Profile, Recorded, Recorder, Touch};
use crate::store::volume::Base;

/// How often the upkeep looks at events and news when nothing wakes it.
const LOOK: Duration = Duration::from_secs(1);
/// Touches of a boot that are put in the order of the disk before they are read: ahead of the boot by less than
/// a moment, and sequential on the medium.
const WINDOW: usize = 512;
/// While nodes wait for I/O threads, nothing is brought in for this long.
const YIELD: Duration = Duration::from_millis(5);
/// An I/O thread that does not come back with a chunk in this time is not waited for any longer.
const LOST: Duration = Duration::from_secs(60);

/// What is known of boots and memory since this process started.
#[derive(Debug, Default)]
pub(super) struct Warm {
    state: Mutex<State>,
    pub(super) bell: Bell,
}

#[derive(Debug, Default)]
struct State {
    recordings: HashMap<NodeName, Recording>,
    /// Nodes whose next boot is recorded whatever is known already.
    asked: HashSet<NodeName>,
    profiles: HashMap<ImageId, Option<Arc<Profile>>>,
    queue: VecDeque<ImageId>,
    fetched: HashMap<ImageId, Instant>,
    booting: HashMap<NodeName, Instant>,
    /// Images that were brought in: what is verified is known for as long as somebody has them open.
    held: HashMap<ImageId, Arc<Image>>,
    /// Chunks of each version that are kept in memory.
    pinned: HashMap<ImageId, usize>,
    /// The last event taken in.
    heard: u64,
    /// Memory for warm data.
    budget: u64,
    /// Bytes brought in ahead since the start.
    brought: u64,
}

#[derive(Debug)]
struct Recording {
    boot: BootId,
    image: ImageId,
    recorder: Arc<Recorder>,
    began: Instant,
}

/// Asks for the boot profile of an image version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootProfileAsk {
    /// The version.
    pub image: ImageRef,
    /// Throw it away; the next boots are recorded anew.
    #[serde(default)]
    pub drop: bool,
    /// Record the next boot of this node, whatever is known already.
    #[serde(default)]
    pub record: Option<NodeName>,
}

/// The boot profile of an image version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootProfileView {
    /// `debian12:3`.
    pub image: String,
    /// Boots of this version that were recorded.
    pub boots: u32,
    /// It began as that of an earlier version.
    pub inherited: bool,
    /// Chunks that at least half of the boots read.
    pub chunks: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Of these, in memory and verified now.
    pub warm: usize,
    /// Of these, kept in memory.
    pub pinned: usize,
    /// Nodes whose boots are being recorded, or will be.
    pub recording: Vec<NodeName>,
}

impl Warm {
    /// True while a node boots, as far as it was heard of.
    pub(super) fn is_booting(&self, now: Instant) -> bool {
        let state = lock(&self.state);
        let mut since = state.booting.values();
        since.any(|&since| now.duration_since(since) < SCRUB_YIELDS)
    }

    /// The version's chunks will be wanted soon.
    fn want(&self, image: ImageId) {
        let mut state = lock(&self.state);
        let again = |at: &Instant| at.elapsed() < PREFETCH_AGAIN;
        let fresh = state.fetched.get(&image).is_some_and(again);
        let full = state.queue.len() >= PREFETCH_QUEUE;
        if state.budget == 0 || fresh || full || state.queue.contains(&image) {
            return;
        }
        state.queue.push_back(image);
        drop(state);
        self.bell.ring();
    }

    /// Lets go of images that `keep` denies, so that their space can be given back.
    pub(super) fn let_go(&self, keep: &dyn Fn(ImageId) -> bool) {
        lock(&self.state).held.retain(|id, _| keep(*id));
    }

    /// The recording that goes on for this boot.
    fn recorder(&self, node: &NodeName, boot: BootId) -> Option<Arc<Recorder>> {
        let state = lock(&self.state);
        let recording = state.recordings.get(node).filter(|r| r.boot == boot)?;
        Some(Arc::clone(&recording.recorder))
    }

    /// Begins to record a boot, if it is wanted.
    fn begin(&self, node: &NodeName, binding: &Binding, image: &Image, known: u32) {
        let mut state = lock(&self.state);
        let asked = state.asked.remove(node);
        let going = state.recordings.values();
        let going = going.filter(|r| r.image == image.id()).count();
        // A persistent layer that is kept answers part of the reads itself.
        let usual = binding.began.is_none() && known < PROFILE_BOOTS && going < PROFILE_AT_ONCE;
        if !asked && !usual {
            return;
        }
        if let Some(recorder) = Recorder::new(image.chunk_count()) {
            let recording = Recording {
                boot: binding.boot,
                image: image.id(),
                recorder: Arc::new(recorder),
                began: Instant::now(),
            };
            state.recordings.insert(node.clone(), recording);
        }
    }
}

impl Head {
    /// The image below a node's layer, with a record of its reads while a boot is being recorded.
    pub(super) fn base_for(
        &self,
        node: &NodeName,
        binding: &Binding,
        firmware: bool,
    ) -> Result<Arc<dyn Base>> {
        let image = self.store.images.open_image(binding.image)?;
        if firmware && self.warm.recorder(node, binding.boot).is_none() {
            let known = self.profile(binding.image).map_or(0, |p| p.recorded());
            self.warm.begin(node, binding, &image, known);
        }
        Ok(self.base_over(node, binding, image))
    }

    /// As [`Self::base_for`]; none when the image or its profile would have to be read from the medium.
    pub(super) fn base_at_once(
        &self,
        node: &NodeName,
        binding: &Binding,
        firmware: bool,
    ) -> Option<Arc<dyn Base>> {
        let image = self.store.images.opened(binding.image)?;
        if firmware && self.warm.recorder(node, binding.boot).is_none() {
            let known = lock(&self.warm.state).profiles.get(&binding.image)?.clone();
            let known = known.map_or(0, |p| p.recorded());
            self.warm.begin(node, binding, &image, known);
        }
        Some(self.base_over(node, binding, image))
    }

    fn base_over(&self, node: &NodeName, binding: &Binding, image: Arc<Image>) -> Arc<dyn Base> {
        self.warm.want(binding.image);
        match self.warm.recorder(node, binding.boot) {
            Some(recorder) => Arc::new(Recorded { image, recorder }),
            None => image,
        }
    }

    /// A boot of this node was made ready.
    pub(super) fn boot_prepared(&self, binding: &Binding) {
        self.warm.want(binding.image);
    }

    /// Nodes are about to be switched on: what their boots read is brought in.
    pub fn expect_boots<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeName>) {
        let now = self.snapshot();
        let mut images = HashSet::new();
        for node in nodes {
            let record = now.node(node.as_str());
            let image = record.and_then(|record| record.image.as_ref());
            images.extend(image.and_then(|image| now.resolve(image)).map(|v| v.id));
        }
        for image in images {
            self.warm.want(image);
        }
    }

    /// Shows, drops or records the boot profile of an image version. Blocking.
    ///
    /// # Errors
    /// No such version or node; the store's.
    pub fn image_profile(&self, ask: &BootProfileAsk) -> Result<BootProfileView> {
        let now = self.snapshot();
        let (record, version) = find(&now, &ask.image)?;
        if let Some(node) = &ask.record {
            let node = self.record(node)?;
            let resolved = node.image.as_ref().and_then(|image| now.resolve(image));
            if resolved.is_none_or(|v| v.id != version.id) {
                let label = record.label(version.version);
                let message = format!(
                    "node `{0}` would not boot {label}; set it with `reveille node set {0} --image {label}`",
                    node.name
                );
                return Err(HeadError::invalid(message));
            }
            lock(&self.warm.state).asked.insert(node.name.clone());
        }
        if ask.drop {
            self.store.images.drop_profile(version.id)?;
            let mut state = lock(&self.warm.state);
            state.profiles.insert(version.id, None);
            state.pinned.remove(&version.id);
        }
        let mut view = BootProfileView {
            image: record.label(version.version),
            ..BootProfileView::default()
        };
        if let Some(profile) = self.profile(version.id).filter(|p| p.boots() > 0) {
            let wanted = profile.wanted();
            let image = self.store.images.open_image(version.id)?;
            view.boots = profile.recorded();
            view.inherited = profile.is_inherited();
            view.chunks = wanted.len();
            view.bytes = wanted.len() as u64 * CHUNK_BYTES;
            view.warm = image.count_warm(&wanted);
        }
        let state = lock(&self.warm.state);
        view.pinned = state.pinned.get(&version.id).copied().unwrap_or(0);
        let going = state.recordings.iter();
        let going = going.filter(|(_, r)| r.image == version.id);
        view.recording = going.map(|(node, _)| node.clone()).collect();
        view.recording.extend(state.asked.iter().cloned());
        view.recording.sort_unstable();
        Ok(view)
    }

    /// The profile of a version: its own, or what it inherits from the newest earlier one that has any.
    fn profile(&self, id: ImageId) -> Option<Arc<Profile>> {
        if let Some(known) = lock(&self.warm.state).profiles.get(&id) {
            return known.clone();
        }
        let stored = self.store.images.profile(id);
        let profile = stored.or_else(|| self.inherit(id)).map(Arc::new);
        let mut state = lock(&self.warm.state);
        state.profiles.entry(id).or_insert(profile).clone()
    }

    fn inherit(&self, id: ImageId) -> Option<Profile> {
        let now = self.snapshot();
        let of_it = |v: &crate::catalog::VersionRecord| v.id == id;
        let image = now.images().find(|i| i.versions.iter().any(of_it))?;
        let own = image.versions.iter().find(|v| of_it(v))?.version;
        let earlier = image.versions.iter().rev().filter(|v| v.version < own);
        let old = earlier
            .filter(|v| v.id != id)
            .find_map(|v| self.store.images.profile(v.id))?;
        match self.store.images.inherited_profile(&old, id) {
            Ok(profile) => {
                self.save(&profile);
                Some(profile)
            }
            Err(error) => {
                tracing::warn!(%error, "a version inherits no boot profile");
                None
            }
        }
    }

    fn save(&self, profile: &Profile) {
        if let Err(error) = self.store.images.save_profile(profile) {
            tracing::warn!(%error, "a boot profile was not written down");
        }
    }

    /// The upkeep's thread: until the bell says that it is over.
    pub(super) fn run_warm(&self, budget: u64) {
        lock(&self.warm.state).budget = budget;
        self.drop_stray_profiles();
        let bad = self.store.images.bad_places().len();
        if bad > 0 {
            tracing::warn!(
                bad,
                "chunks of images are known to be bad; `reveille image show` tells which"
            );
        }
        let mut pinned: Option<Instant> = None;
        loop {
            self.tell_bad();
            self.hear_boots();
            while let Some(image) = self.next_wanted() {
                self.bring_in(image, budget);
            }
            if pinned.is_none_or(|at| at.elapsed() >= PIN_EVERY) {
                self.pin(budget);
                pinned = Some(Instant::now());
            }
            if !self.warm.bell.wait(LOOK) {
                break;
            }
        }
        self.tell_bad();
        self.hear_boots();
    }

    fn drop_stray_profiles(&self) {
        let now = self.snapshot();
        let known = self.known_images(&now);
        if let Err(error) = self.store.images.retain_profiles(&|id| known.contains(&id)) {
            tracing::warn!(%error, "boot profiles of removed images stay");
        }
    }

    /// Takes in what happened since the last time: boots that began, and those that are over.
    pub(super) fn hear_boots(&self) {
        let heard = lock(&self.warm.state).heard;
        let news = self.bus.since(heard);
        for event in &news {
            self.hear_boot(event);
        }
        let mut state = lock(&self.warm.state);
        state.heard = news.last().map_or(heard, |event| event.seq);
        state
            .recordings
            .retain(|_, r| r.began.elapsed() < PROFILE_RECORD_MAX);
        state
            .booting
            .retain(|_, since| since.elapsed() < SCRUB_YIELDS);
    }

    fn hear_boot(&self, event: &Event) {
        let Some(node) = &event.node else { return };
        // In a storm nearly all are logins and logouts.
        if matches!(
            event.kind,
            EventKind::Login { .. } | EventKind::Logout { .. }
        ) {
            return;
        }
        let mut state = lock(&self.warm.state);
        match &event.kind {
            EventKind::BootStarted { .. } => {
                if state.booting.len() < SCRUB_BOOTING_MAX {
                    state.booting.insert(node.clone(), Instant::now());
                }
                // A boot that was not ready before the next began is no example.
                let over = |r: &Recording| event.boot.is_some_and(|new| r.boot.0 < new.0);
                if state.recordings.get(node).is_some_and(over) {
                    state.recordings.remove(node);
                }
            }
            EventKind::Ready { .. } => {
                state.booting.remove(node);
                let same = |r: &Recording| Some(r.boot) == event.boot;
                if !state.recordings.get(node).is_some_and(same) {
                    return;
                }
                let recording = state.recordings.remove(node);
                drop(state);
                if let Some(recording) = recording {
                    self.recorded(node, &recording);
                }
            }
            EventKind::Failed { .. } => {
                state.booting.remove(node);
                if state
                    .recordings
                    .get(node)
                    .is_some_and(|r| Some(r.boot) == event.boot)
                {
                    state.recordings.remove(node);
                }
            }
            _ => {}
        }
    }

    /// A recorded boot is ready: it goes into the version's profile.
    fn recorded(&self, node: &NodeName, recording: &Recording) {
        let image = match self.store.images.open_image(recording.image) {
            Ok(image) => image,
            Err(error) => {
                tracing::warn!(%node, %error, "a recorded boot is lost");
                return;
            }
        };
        let touches = recording.recorder.close(&image);
        if touches.is_empty() {
            return;
        }
        let known = self.profile(recording.image);
        let mut profile = known.map_or_else(
            || Profile::new(recording.image),
            |known| Profile::clone(&known),
        );
        profile.merge(&touches);
        self.save(&profile);
        tracing::info!(%node, chunks = touches.len(), boots = profile.boots(), "a boot was recorded");
        let mut state = lock(&self.warm.state);
        state
            .profiles
            .insert(recording.image, Some(Arc::new(profile)));
        // There is more to bring in than before.
        state.fetched.remove(&recording.image);
    }

    fn next_wanted(&self) -> Option<ImageId> {
        lock(&self.warm.state).queue.pop_front()
    }

    /// Keeps the profiles of the versions that nodes use warm, those of most nodes first, within the budget.
    pub(super) fn pin(&self, budget: u64) {
        let now = self.snapshot();
        let most = usize::try_from(budget / CHUNK_BYTES).unwrap_or(usize::MAX);
        // What versions share is kept once.
        let mut kept: HashSet<ChunkId> = HashSet::new();
        let mut pinned = HashMap::new();
        for id in by_use(&now) {
            let Some(profile) = self.profile(id) else {
                continue;
            };
            let Ok(image) = self.store.images.open_image(id) else {
                continue;
            };
            let mut wanted = profile.wanted();
            wanted.retain(|t| {
                let id = image.chunk_id(u64::from(t.chunk));
                id.is_some_and(|id| {
                    let room = kept.len() < most;
                    room && kept.insert(id) || kept.contains(&id)
                })
            });
            pinned.insert(id, wanted.len());
            self.bring(&image, wanted);
        }
        let mut state = lock(&self.warm.state);
        state.held.retain(|id, _| pinned.contains_key(id));
        state.pinned = pinned;
    }

    /// Brings in what is not there of a version's profile, at most `budget` bytes of it.
    fn bring_in(&self, id: ImageId, budget: u64) {
        // Noted also when there is nothing to bring in: else every login would wake this thread to find that out.
        lock(&self.warm.state).fetched.insert(id, Instant::now());
        let Some(profile) = self.profile(id) else {
            return;
        };
        let mut wanted = profile.wanted();
        wanted.truncate(usize::try_from(budget / CHUNK_BYTES).unwrap_or(usize::MAX));
        match self.store.images.open_image(id) {
            Ok(image) => self.bring(&image, wanted),
            Err(error) => tracing::warn!(%error, "a boot profile cannot be used"),
        }
    }

    fn bring(&self, image: &Arc<Image>, mut wanted: Vec<Touch>) {
        for window in wanted.chunks_mut(WINDOW) {
            window.sort_unstable_by_key(|t| t.chunk);
        }
        let brought = self.prefetch(image, &wanted);
        let mut state = lock(&self.warm.state);
        state.brought += brought as u64 * CHUNK_BYTES;
        state.fetched.insert(image.id(), Instant::now());
        state.held.insert(image.id(), Arc::clone(image));
    }

    /// Reads what is cold of these chunks, a few runs at a time, by the I/O threads. Answers how many were cold.
    fn prefetch(&self, image: &Arc<Image>, wanted: &[Touch]) -> usize {
        let (done, ended) = bounded::<()>(PREFETCH_READS);
        let mut scratch = Buffer::take(CHUNK_LEN);
        let (mut at, mut cold, mut flying) = (0, 0, 0);
        while at < wanted.len() && !self.warm.bell.is_over() {
            if image.touch(u64::from(wanted[at].chunk), &mut scratch) {
                at += 1;
                continue;
            }
            if flying >= PREFETCH_READS {
                flying -= 1;
                if ended.recv_timeout(LOST).is_err() {
                    break;
                }
            }
            while self.store.pool.waiting() > 0 && self.warm.bell.wait(YIELD) {}
            let run = neighbours(&wanted[at..]);
            let warm = |t: &Touch| image.touch(u64::from(t.chunk), &mut scratch);
            // Up to the next that is there already.
            let cold_ones = run
                .iter()
                .skip(1)
                .position(warm)
                .map_or(run.len(), |n| n + 1);
            let run = run.get(..cold_ones).unwrap_or(run);
            let (image, run, done) = (Arc::clone(image), run.to_vec(), done.clone());
            at += run.len();
            cold += run.len();
            let job = move || {
                fetch_all(&image, &run);
                let _ = done.send(());
            };
            if self.store.pool.submit(Box::new(job)).is_ok() {
                flying += 1;
            }
        }
        for _ in 0..flying {
            let _ = ended.recv_timeout(LOST);
        }
        cold
    }

    /// Gauges of integrity and warm data, in the text format of Prometheus. Blocking.
    #[must_use]
    pub fn upkeep_metrics(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let mut gauge = |name: &str, kind: &str, help: &str, value: u64| {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "# HELP reveille_{name} {help}\n# TYPE reveille_{name} {kind}\nreveille_{name} {value}"
            );
        };
        let bad = self.store.images.bad_places().len() as u64;
        gauge(
            "image_bad_places",
            "gauge",
            "Places of packs that do not hold their chunk.",
            bad,
        );
        let hot = self.store.images.hot_bytes();
        let help = "Bytes of golden chunks that are held in memory of the head's own.";
        gauge("image_memory_bytes", "gauge", help, hot.held);
        let help = "Bytes that they may take.";
        gauge("image_memory_limit_bytes", "gauge", help, hot.budget);
        let view = self.scrub_figures();
        gauge(
            "scrub_bytes",
            "gauge",
            "Bytes read by the scrub under way.",
            view.bytes,
        );
        let finished = view.finished.unwrap_or_default().0;
        let help = "When the last scrub of all images ended, in milliseconds since 1970.";
        gauge("scrub_finished_milliseconds", "gauge", help, finished);
        let (brought, kept) = {
            let state = lock(&self.warm.state);
            let kept: usize = state.pinned.values().sum();
            (state.brought, kept as u64 * CHUNK_BYTES)
        };
        let help = "Bytes brought into memory ahead of the nodes' reads.";
        gauge("prefetched_bytes_total", "counter", help, brought);
        gauge(
            "pinned_bytes",
            "gauge",
            "Bytes of boot profiles that are kept in memory.",
            kept,
        );
        let mut by_image: BTreeMap<String, u64> = BTreeMap::new();
        for damage in self.damages().unwrap_or_default() {
            for image in damage.images {
                *by_image.entry(image).or_default() += 1;
            }
        }
        if !by_image.is_empty() {
            text += "# HELP reveille_image_bad_chunks Bad chunks of an image version.\n\
                     # TYPE reveille_image_bad_chunks gauge\n";
        }
        for (image, count) in by_image {
            let _ = writeln!(
                text,
                "reveille_image_bad_chunks{{image=\"{image}\"}} {count}"
            );
        }
        text
    }
}

/// The versions that nodes stand on or would boot, those of most nodes first.
fn by_use(now: &Snapshot) -> Vec<ImageId> {
    let mut users: HashMap<ImageId, usize> = HashMap::new();
    for node in now.nodes() {
        let next = node.image.as_ref().and_then(|image| now.resolve(image));
        let next = next.map(|v| v.id);
        let bound = now.binding(node.layer).filter(|b| b.boot != NO_BOOT);
        let bound = bound.map(|b| b.image).filter(|id| Some(*id) != next);
        for id in next.into_iter().chain(bound) {
            *users.entry(id).or_default() += 1;
        }
    }
    let mut all: Vec<(ImageId, usize)> = users.into_iter().collect();
    all.sort_unstable_by_key(|(id, count)| (usize::MAX - count, *id));
    all.into_iter().map(|(id, _)| id).collect()
}

/// The chunks at the head of the list that follow each other on the disk, as many as one read takes.
fn neighbours(wanted: &[Touch]) -> &[Touch] {
    let next = wanted
        .windows(2)
        .take(IMAGE_RUN_CHUNKS - 1)
        .take_while(|pair| pair[0].chunk.checked_add(1) == Some(pair[1].chunk));
    let len = 1 + next.count();
    wanted.get(..len).unwrap_or(wanted)
}

fn fetch_all(image: &Image, run: &[Touch]) {
    let mut at = 0;
    while let Some(rest) = run.get(at..).filter(|rest| !rest.is_empty()) {
        match image.fetch(rest) {
            Ok(done) => at += done,
            // Whoever reads it is told; here the next one matters.
            Err(_) => at += 1,
        }
    }
}
