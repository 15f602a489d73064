//! Bad chunks, as people need to know them: which image version, which bytes, where on the medium, whose disks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::Head;
use super::boot::{NO_BOOT, lock};
use super::error::Result;
use crate::catalog::Snapshot;
use crate::events::{EventKind, HurtChunk};
use crate::limits::{BAD_NAMED_MAX, CHUNK_BYTES};
use crate::names::{ImageId, NodeName, NodeSet};
use crate::store::image::{BadNews, BadPlace, Fault};
use crate::units::UnixMillis;

/// What to do about it.
const NEXT: &str = "import the same disk again with `reveille image import`; \
                    running nodes see the repair with their next read";

/// A bad chunk of an image version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// `debian12:3`; several names where they mean the same content.
    pub images: Vec<String>,
    /// Number of the chunk on the disk.
    pub chunk: u64,
    /// First byte of it on the disk.
    pub from: u64,
    /// Last byte.
    pub to: u64,
    /// The pack it lies in, below the store's directory.
    pub pack: String,
    /// Offset in the pack, bytes.
    pub pack_offset: u64,
    /// When it was found.
    pub found: UnixMillis,
    /// What is wrong.
    pub why: String,
    /// The nodes whose disks stand on the version.
    pub nodes: NodeSet,
    /// What to do.
    pub next: String,
}

/// A bad chunk of some content, whatever its names.
#[derive(Debug)]
struct Spot {
    image: ImageId,
    chunk: u64,
    bad: BadPlace,
}

/// What was worked out last, and from what.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    generation: u64,
    images: BTreeSet<ImageId>,
    spots: Arc<Vec<Spot>>,
}

impl Head {
    /// Every bad chunk of every image version. Costs nothing while none is known; else it reads manifests
    /// once. Blocking.
    ///
    /// # Errors
    /// None at present; an image that cannot be opened is logged and left out.
    pub fn damages(&self) -> Result<Vec<Damage>> {
        if self.store.images.bad_places().is_empty() {
            return Ok(Vec::new());
        }
        let now = self.snapshot();
        let spots = self.spots(&now);
        Ok(spots.iter().map(|spot| damage(&now, spot)).collect())
    }

    /// For each node whose disk stands on a version with bad chunks: a sentence. Blocking.
    ///
    /// # Errors
    /// As [`Head::damages`].
    pub fn damaged_nodes(&self) -> Result<BTreeMap<NodeName, String>> {
        let mut found = BTreeMap::new();
        for one in self.damages()? {
            for node in one.nodes.iter() {
                let text = format!("chunk {} of {} is bad", one.chunk, one.images.join(", "));
                found.entry(node.clone()).or_insert(text);
            }
        }
        Ok(found)
    }

    /// Tells what was found bad or healed since the last call: one event and one log line for each place.
    pub(super) fn tell_bad(&self) {
        let news = self.store.images.take_bad_news();
        if news.is_empty() {
            return;
        }
        let now = self.snapshot();
        for one in news {
            match one {
                BadNews::Found(bad) => self.tell_found(&now, bad),
                BadNews::Healed(bad) => {
                    let (pack, pack_offset) = (bad.pack_path(), bad.pack_offset());
                    tracing::info!(pack, pack_offset, "a bad chunk is good again");
                    self.bus
                        .publish(None, EventKind::ChunkHealed { pack, pack_offset });
                }
            }
        }
        self.store.images.save_bad();
    }

    fn tell_found(&self, now: &Snapshot, bad: BadPlace) {
        let spots = self.spots(now);
        let here: Vec<Damage> = spots
            .iter()
            .filter(|spot| spot.bad.place == bad.place)
            .map(|spot| damage(now, spot))
            .collect();
        if here.is_empty() {
            // Removed while it was read: its place was given back, and nobody misses the bytes.
            self.store.images.forget_bad(bad.place);
            return;
        }
        let nodes: NodeSet = here.iter().flat_map(|d| d.nodes.iter().cloned()).collect();
        let named = here.iter().take(BAD_NAMED_MAX).map(|d| HurtChunk {
            image: d.images.join(", "),
            chunk: d.chunk,
            from: d.from,
            to: d.to,
        });
        let kind = EventKind::ChunkBad {
            chunks: named.collect(),
            more: here.len().saturating_sub(BAD_NAMED_MAX),
            pack: bad.pack_path(),
            pack_offset: bad.pack_offset(),
            why: why(bad.fault).to_owned(),
            nodes,
            next: NEXT.to_owned(),
        };
        for d in here.iter().take(BAD_NAMED_MAX) {
            tracing::error!(
                image = %d.images.join(", "),
                chunk = d.chunk,
                from = d.from,
                to = d.to,
                pack = d.pack,
                pack_offset = d.pack_offset,
                why = d.why,
                nodes = %d.nodes,
                "a chunk of an image is bad; {NEXT}"
            );
        }
        self.bus.publish(None, kind);
    }

    /// The bad chunks of every image that has a name or a layer over it.
    fn spots(&self, now: &Snapshot) -> Arc<Vec<Spot>> {
        let images = self.known_images(now);
        let generation = self.store.images.bad_generation();
        let mut cached = lock(&self.bad.0);
        if cached.generation == generation && cached.images == images {
            return Arc::clone(&cached.spots);
        }
        let mut spots = Vec::new();
        for &image in &images {
            match self.store.images.bad_chunks(image) {
                Ok(bad) => {
                    let spot = |(chunk, bad)| Spot { image, chunk, bad };
                    spots.extend(bad.into_iter().map(spot));
                }
                Err(error) => tracing::error!(%image, %error, "an image cannot be looked at"),
            }
        }
        *cached = Cached {
            generation,
            images,
            spots: Arc::new(spots),
        };
        Arc::clone(&cached.spots)
    }

    pub(super) fn known_images(&self, now: &Snapshot) -> BTreeSet<ImageId> {
        let named = now.images().flat_map(|i| &i.versions).map(|v| v.id);
        let bound = now.bindings().filter(|b| b.boot != NO_BOOT);
        named.chain(bound.map(|b| b.image)).collect()
    }
}

const fn why(fault: Fault) -> &'static str {
    match fault {
        Fault::Changed => "its bytes are not those that were sealed",
        Fault::Unreadable => "the medium does not give its bytes",
    }
}

fn damage(now: &Snapshot, spot: &Spot) -> Damage {
    let from = spot.chunk * CHUNK_BYTES;
    let versions = now
        .images()
        .flat_map(|i| i.versions.iter().map(move |v| (i, v)));
    let of_it = versions.filter(|(_, v)| v.id == spot.image);
    let mut size = u64::MAX;
    let mut images: Vec<String> = of_it
        .map(|(image, v)| {
            size = v.size;
            image.label(v.version)
        })
        .collect();
    let bound = now
        .bindings()
        .filter(|b| b.boot != NO_BOOT && b.image == spot.image);
    let mut nodes = NodeSet::default();
    for binding in bound {
        if images.is_empty() {
            images.push(format!("{} (removed)", binding.label));
        }
        let node = now.node_by_layer(binding.layer);
        nodes.extend(node.map(|node| node.name.clone()));
    }
    Damage {
        images,
        chunk: spot.chunk,
        from,
        to: from.saturating_add(CHUNK_BYTES).min(size).saturating_sub(1),
        pack: spot.bad.pack_path(),
        pack_offset: spot.bad.pack_offset(),
        found: spot.bad.found,
        why: why(spot.bad.fault).to_owned(),
        nodes,
        next: NEXT.to_owned(),
    }
}
