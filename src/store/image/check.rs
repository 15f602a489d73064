//! The offline check of images: reads every manifest, compares what they claim with each other and with the
//! packs, and on demand reads every chunk. Changes nothing and trusts nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;

use super::ingest::{Progress, Watch};
use super::manifest::{ChunkId, Manifest, Place};
use super::pack;
use super::survey;
use crate::limits::CHECK_BAD_CHUNKS_TOLD;
use crate::limits::CHUNK_BYTES;
use crate::limits::CHUNK_LEN;
use crate::store::ImageId;
use crate::store::check::{Fault, Severity};
use crate::store::disk::{Disk, File, OpenMode};
use crate::store::error::{ErrorKind, Result};

use Severity::{Damage, Garbage, Note};

/// An image whose manifest reads back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// Bytes of the disk.
    pub size: u64,
    /// Chunks with data.
    pub data_chunks: u64,
}

/// What the check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagesChecked {
    /// Findings.
    pub faults: Vec<Fault>,
    /// The images that can be opened as far as their manifests say.
    pub images: BTreeMap<ImageId, ImageFacts>,
    /// Manifests that are there and cannot be read.
    pub unreadable: BTreeSet<ImageId>,
    /// Packs.
    pub packs: u64,
    /// Different chunks that images name.
    pub chunks: u64,
    /// Bytes of chunks read and compared with their ids.
    pub bytes_read: u64,
}

const AGAIN: &str = "import the image again from its file, which repairs it, or remove the version";

/// Who claims a place, and for which content.
struct Claim {
    id: ChunkId,
    images: Vec<u32>,
}

#[derive(Default)]
struct Claims {
    names: Vec<ImageId>,
    places: BTreeMap<Place, Claim>,
    /// Places that images claim with different contents.
    contested: BTreeSet<Place>,
}

impl Claims {
    fn named(&self, images: &[u32]) -> Vec<ImageId> {
        let name = |n: &u32| self.names.get(usize::try_from(*n).ok()?).copied();
        images.iter().filter_map(name).collect()
    }
}

/// Checks the images below `disk`'s root; with `data` every chunk is read too.
///
/// # Errors
/// `Cancelled`, and `Io` when a directory cannot be listed. Everything else is a finding.
pub fn check(
    disk: &dyn Disk,
    data: bool,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<ImagesChecked> {
    let mut found = ImagesChecked::default();
    let mut claims = Claims::default();
    check_manifests(disk, &mut found, &mut claims)?;
    check_packs(disk, &mut found, &claims)?;
    for name in names(disk, super::store::TMP)? {
        let path = format!("{}/{name}", super::store::TMP);
        let what = "a manifest of an import that did not come to its end";
        found
            .faults
            .push(Fault::new(Garbage, path, what, "the next start removes it"));
    }
    found.chunks = claims.places.len() as u64;
    if data {
        let watch = Watch { progress, cancel };
        check_chunks(disk, &mut found, &claims, watch)?;
    }
    Ok(found)
}

/// The names in a directory; none when it is not there.
fn names(disk: &dyn Disk, dir: &str) -> Result<Vec<String>> {
    match disk.list(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

fn check_manifests(disk: &dyn Disk, found: &mut ImagesChecked, claims: &mut Claims) -> Result<()> {
    for name in names(disk, survey::MANIFESTS)? {
        let path = format!("{}/{name}", survey::MANIFESTS);
        let Some(id) = ImageId::parse(&name).filter(|id| id.to_string() == name) else {
            let what = "no image has this name";
            let fault = Fault::new(Note, path, what, "move it away if it is not yours");
            found.faults.push(fault);
            continue;
        };
        match survey::read_manifest(disk, id) {
            Ok(manifest) => check_manifest(id, &manifest, found, claims),
            Err(e) => {
                found.unreadable.insert(id);
                let what = format!("{e}; while it is there no space of any image is given back");
                let next = match e.kind() {
                    ErrorKind::NewerVersion => "run the newer Reveille that wrote it",
                    _ => AGAIN,
                };
                let fault = Fault::new(Damage, path, what, next);
                found.faults.push(fault.of_images([id]));
            }
        }
    }
    Ok(())
}

fn check_manifest(
    id: ImageId,
    manifest: &Manifest,
    found: &mut ImagesChecked,
    claims: &mut Claims,
) {
    let path = survey::manifest_path(id);
    let facts = ImageFacts {
        size: manifest.size(),
        data_chunks: manifest.entries().len() as u64,
    };
    if manifest.id() != id {
        let what = format!("it describes image {}, not this one", manifest.id());
        let fault = Fault::new(Damage, path.as_str(), what, AGAIN);
        found.faults.push(fault.of_images([id]));
        found.unreadable.insert(id);
        return;
    }
    let number = u32::try_from(claims.names.len()).unwrap_or(u32::MAX);
    claims.names.push(id);
    found.images.insert(id, facts);
    let mut torn = Vec::new();
    for entry in manifest.entries() {
        let claim = claims.places.entry(entry.place).or_insert_with(|| Claim {
            id: entry.id,
            images: Vec::new(),
        });
        if claim.id != entry.id {
            claims.contested.insert(entry.place);
            torn.push((entry.place, claim.images.clone()));
        } else if claim.images.last() != Some(&number) {
            claim.images.push(number);
        }
    }
    let Some((place, others)) = torn.first() else {
        return;
    };
    let what = format!(
        "{} of its chunks lie where another image has other ones, the first in slot {} of {}",
        torn.len(),
        place.slot,
        pack::path(place.pack)
    );
    let next = "`reveille check --data` tells which of them are whole; import the other again";
    let fault = Fault::new(Damage, path, what, next);
    let others = claims.named(others);
    found.faults.push(fault.of_images(others).of_images([id]));
}

fn check_packs(disk: &dyn Disk, found: &mut ImagesChecked, claims: &Claims) -> Result<()> {
    let mut there = BTreeSet::new();
    for name in names(disk, pack::PACKS)? {
        let path = format!("{}/{name}", pack::PACKS);
        match pack::number_of(&name) {
            Some(number) => {
                there.insert(number);
            }
            None => {
                let what = "no pack has this name";
                let fault = Fault::new(Note, path, what, "move it away if it is not yours");
                found.faults.push(fault);
            }
        }
    }
    found.packs = there.len() as u64;
    let named: BTreeSet<u32> = claims.places.keys().map(|place| place.pack).collect();
    for &number in there.union(&named) {
        let run = places_of(claims, number);
        let images: BTreeSet<u32> = run.clone().flat_map(|(_, c)| c.images.clone()).collect();
        let images: Vec<u32> = images.into_iter().collect();
        let used = Used {
            slots: run.clone().count() as u64,
            end: run.last().map_or(0, |(place, _)| place.slot + 1),
            images: claims.named(&images),
        };
        let known = found.unreadable.is_empty();
        found.faults.extend(check_pack(disk, number, &used, known));
    }
    Ok(())
}

fn places_of(claims: &Claims, pack: u32) -> impl Iterator<Item = (&Place, &Claim)> + Clone {
    let (first, last) = (Place { pack, slot: 0 }, u32::MAX);
    claims.places.range(first..=Place { pack, slot: last })
}

struct Used {
    slots: u64,
    end: u32,
    images: Vec<ImageId>,
}

/// With `known` every manifest was read, so what none of them names is garbage.
fn check_pack(disk: &dyn Disk, number: u32, used: &Used, known: bool) -> Option<Fault> {
    let path = pack::path(number);
    let looked = disk
        .open(&path, OpenMode::Read)
        .and_then(|file| Ok((file.len()?, file.allocated()?)));
    let (len, held) = match looked {
        Ok(looked) => looked,
        Err(e) => {
            let fault = Fault::new(Damage, path, format!("it cannot be opened: {e}"), AGAIN);
            return Some(fault.of_images(used.images.clone()));
        }
    };
    let end = pack::offset_of(used.end);
    if len < end {
        let what = format!("it has {len} bytes where chunks up to byte {end} are named");
        let fault = Fault::new(Damage, path, what, AGAIN);
        return Some(fault.of_images(used.images.clone()));
    }
    let needed = used.slots * CHUNK_BYTES;
    // File systems may hold a little more than was written; less is their compression or a copy's holes.
    let spare = held.saturating_sub(needed);
    if !known || spare < CHUNK_BYTES && len <= end {
        return None;
    }
    let what = format!("{} bytes in it belong to no image", spare.max(len - end));
    let next = "the next import or collection gives them back";
    Some(Fault::new(Garbage, path, what, next))
}

/// Where copies of each chunk lie that were read and are whole.
type Whole = HashMap<ChunkId, Place>;

fn check_chunks(
    disk: &dyn Disk,
    found: &mut ImagesChecked,
    claims: &Claims,
    watch: Watch<'_>,
) -> Result<()> {
    let total = claims.places.len() as u64 * CHUNK_BYTES;
    let (mut whole, mut bad): (Whole, Vec<(Place, String)>) = (HashMap::new(), Vec::new());
    let mut open: Option<(u32, Result<std::sync::Arc<dyn File>>)> = None;
    let mut bytes = vec![0; CHUNK_LEN];
    for (place, claim) in &claims.places {
        watch.step(found.bytes_read, total, "the check")?;
        if open.as_ref().is_none_or(|(pack, _)| *pack != place.pack) {
            open = Some((
                place.pack,
                disk.open(&pack::path(place.pack), OpenMode::Read),
            ));
        }
        found.bytes_read += CHUNK_BYTES;
        let Some((_, Ok(file))) = &open else {
            // Told with the pack.
            continue;
        };
        let offset = pack::offset_of(place.slot);
        match file.read_at(offset, &mut bytes) {
            Err(e) => bad.push((*place, format!("it cannot be read: {e}"))),
            Ok(()) if ChunkId::of(&bytes) == claim.id => {
                whole.insert(claim.id, *place);
            }
            Ok(()) => bad.push((*place, "its bytes are not those that were sealed".into())),
        }
    }
    watch.step(total, total, "the check")?;
    tell_bad(found, claims, &bad, &whole);
    Ok(())
}

fn tell_bad(found: &mut ImagesChecked, claims: &Claims, bad: &[(Place, String)], whole: &Whole) {
    for (place, why) in bad.iter().take(CHECK_BAD_CHUNKS_TOLD) {
        let Some(claim) = claims.places.get(place) else {
            continue;
        };
        let object = format!("slot {} of {}", place.slot, pack::path(place.pack));
        let what = format!("chunk {:?}: {why}", claim.id);
        let next = match whole.get(&claim.id) {
            Some(copy) => format!(
                "`reveille check --data --repair` copies it from slot {} of {}",
                copy.slot,
                pack::path(copy.pack)
            ),
            None => AGAIN.to_owned(),
        };
        let fault = Fault::new(Damage, object, what, next);
        let fault = fault.of_images(claims.named(&claim.images));
        found.faults.push(fault);
    }
    if let Some(more) = bad.get(CHECK_BAD_CHUNKS_TOLD..).filter(|m| !m.is_empty()) {
        let images = more
            .iter()
            .filter_map(|(place, _)| claims.places.get(place));
        let images: BTreeSet<u32> = images.flat_map(|c| c.images.clone()).collect();
        let images: Vec<u32> = images.into_iter().collect();
        let what = format!("{} more chunks are bad", more.len());
        let fault = Fault::new(Damage, pack::PACKS, what, AGAIN);
        found.faults.push(fault.of_images(claims.named(&images)));
    }
}

/// Writes chunks that are bad at one place and whole at another over the bad ones, durably. Answers how many.
///
/// # Errors
/// `Io`, `Cancelled`.
pub fn mend_chunks(disk: &dyn Disk, cancel: &AtomicBool) -> Result<u64> {
    let (mut found, mut claims) = (ImagesChecked::default(), Claims::default());
    check_manifests(disk, &mut found, &mut claims)?;
    let (mut whole, mut bad): (Whole, Vec<Place>) = (HashMap::new(), Vec::new());
    let watch = Watch {
        progress: &|_| {},
        cancel,
    };
    for (place, claim) in &claims.places {
        watch.step(0, 0, "the repair")?;
        match read_chunk(disk, *place) {
            Ok(bytes) if ChunkId::of(&bytes) == claim.id => {
                whole.insert(claim.id, *place);
            }
            _ => bad.push(*place),
        }
    }
    let mut mended = 0;
    // Of a contested place nobody knows whose bytes are there.
    for place in bad
        .into_iter()
        .filter(|place| !claims.contested.contains(place))
    {
        let Some(claim) = claims.places.get(&place) else {
            continue;
        };
        let Some(copy) = whole.get(&claim.id) else {
            continue;
        };
        let bytes = read_chunk(disk, *copy)?;
        // Again: the medium may answer otherwise the second time.
        let Ok(file) = disk.open(&pack::path(place.pack), OpenMode::ReadWrite) else {
            continue;
        };
        if ChunkId::of(&bytes) == claim.id {
            file.write_at(pack::offset_of(place.slot), &bytes)?;
            file.sync()?;
            mended += 1;
        }
    }
    Ok(mended)
}

fn read_chunk(disk: &dyn Disk, place: Place) -> Result<Vec<u8>> {
    let file = disk.open(&pack::path(place.pack), OpenMode::Read)?;
    let mut bytes = vec![0; CHUNK_LEN];
    file.read_at(pack::offset_of(place.slot), &mut bytes)?;
    Ok(bytes)
}
