//! Import: one pass over a source, chunk by chunk, into packs.
//!
//! ```text
//!   source --read--> batches of 1 MiB --> 2 hash threads --> in order again --> packs, manifest
//!            the caller's thread                              the caller's thread
//! ```
//! New chunks are appended in disk order, so that a run of the disk is a run of the pack. Nothing but the
//! manifest makes a chunk part of an image: whatever an import leaves behind when it is killed is not
//! named by any manifest, and the next import or collection removes it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::import::{Extent, ExtentKind, Source};
use super::manifest::{self, Builder, ChunkId, Entry, Manifest, Place};
use super::pack::{self, Packs};
use super::sealed::Image;
use super::survey::Survey;
use crate::limits::CHUNK_BYTES;
use crate::limits::CHUNK_LEN;
use crate::limits::IMPORT_BATCH_CHUNKS;
use crate::limits::IMPORT_BATCHES;
use crate::limits::IMPORT_HASH_THREADS;
use crate::limits::IMPORT_STEPS;
use crate::limits::PACK_NUMBER_MAX;
use crate::store::Buffer;
use crate::store::disk::{Disk, File, OpenMode};
use crate::store::error::{Error, ErrorKind, Result};

/// How far a long operation has come, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the disk that are done.
    pub done: u64,
    /// Bytes of the disk.
    pub total: u64,
}

/// What goes with a long operation: someone who watches, and someone who may stop it.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a> {
    pub(super) progress: &'a dyn Fn(Progress),
    pub(super) cancel: &'a AtomicBool,
}

impl Watch<'_> {
    /// Reports; an error when the operation shall stop.
    pub(super) fn step(&self, done: u64, total: u64, what: &str) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                format!("{what} was cancelled"),
            ));
        }
        (self.progress)(Progress {
            done: done.min(total),
            total,
        });
        Ok(())
    }
}

/// What an import wrote, before it is sealed.
#[derive(Debug)]
pub(super) struct Ingested {
    pub(super) manifest: Manifest,
    pub(super) new_chunks: u64,
    /// Bad places that hold their chunk again.
    pub(super) mended: u64,
}

/// Reads the whole source; when it returns, every chunk that the manifest names is durable.
pub(super) fn ingest(
    source: &mut dyn Source,
    appender: Appender<'_>,
    watch: Watch<'_>,
) -> Result<Ingested> {
    let size = source.size();
    thread::scope(|scope| {
        // Closed when `jobs` is dropped, which ends the threads.
        let (jobs, todo) = bounded::<Batch>(IMPORT_BATCHES);
        let (ready, hashed) = bounded::<Hashed>(IMPORT_BATCHES);
        for number in 0..IMPORT_HASH_THREADS {
            let (todo, ready) = (todo.clone(), ready.clone());
            let builder = thread::Builder::new().name(format!("import-hash-{number}"));
            builder
                .spawn_scoped(scope, move || hash(&todo, &ready))
                .map_err(|e| Error::io(e, "cannot start a thread for hashing"))?;
        }
        drop((todo, ready));
        let line = Line {
            walk: Walk::new(source, size),
            jobs,
            hashed,
            steps: VecDeque::new(),
            early: HashMap::new(),
            batches: 0,
            given: 0,
            builder: Builder::new(size),
            appender,
        };
        line.run(watch)
    })
}

struct Batch {
    number: u64,
    chunks: usize,
    bytes: Buffer,
}

struct Hashed {
    number: u64,
    bytes: Buffer,
    /// `None` for a chunk of zeros.
    ids: Vec<Option<ChunkId>>,
}

fn hash(todo: &Receiver<Batch>, ready: &Sender<Hashed>) {
    while let Ok(batch) = todo.recv() {
        let chunks = batch.bytes.chunks_exact(CHUNK_LEN).take(batch.chunks);
        let ids = chunks
            .map(|chunk| (!is_zero(chunk)).then(|| ChunkId::of(chunk)))
            .collect();
        let done = Hashed {
            number: batch.number,
            bytes: batch.bytes,
            ids,
        };
        if ready.send(done).is_err() {
            return;
        }
    }
}

/// True when every byte is zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|part| part == &ZEROS[..part.len()])
}

/// One step of the disk, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Zeros(u64),
    /// Chunks taken over from the base image.
    Base(u64, u64),
    /// Chunks to read.
    Read(u64, usize),
}

/// A step under way.
enum Pending {
    Zeros(u64),
    Base(u64, u64),
    Hashing(u64),
}

/// Cuts a source into steps of whole chunks.
struct Walk<'a> {
    source: &'a mut dyn Source,
    size: u64,
    at: u64,
    extent: Option<Extent>,
}

impl<'a> Walk<'a> {
    fn new(source: &'a mut dyn Source, size: u64) -> Self {
        Self {
            source,
            size,
            at: 0,
            extent: None,
        }
    }

    fn next(&mut self) -> Result<Option<Step>> {
        let chunks = manifest::chunks_of(self.size);
        if self.at >= chunks {
            return Ok(None);
        }
        let first = self.at;
        if let (kind @ (ExtentKind::Zero | ExtentKind::Base), count) = self.whole(first)? {
            self.at += count;
            return Ok(Some(match kind {
                ExtentKind::Base => Step::Base(first, count),
                _ => Step::Zeros(count),
            }));
        }
        let mut count = 1;
        while count < IMPORT_BATCH_CHUNKS
            && first + (count as u64) < chunks
            && self.whole(first + count as u64)?.0 == ExtentKind::Data
        {
            count += 1;
        }
        self.at += count as u64;
        Ok(Some(Step::Read(first, count)))
    }

    /// What `chunk` holds as a whole and how many chunks from it on lie in the same extent; one that holds
    /// this and that is data.
    fn whole(&mut self, chunk: u64) -> Result<(ExtentKind, u64)> {
        let offset = chunk * CHUNK_BYTES;
        let extent = self.extent_at(offset)?;
        let end = extent.range.end();
        // The last chunk may be short.
        let last = if end >= self.size {
            manifest::chunks_of(self.size)
        } else {
            end / CHUNK_BYTES
        };
        match last.saturating_sub(chunk) {
            0 => Ok((ExtentKind::Data, 1)),
            count => Ok((extent.kind, count)),
        }
    }

    fn extent_at(&mut self, offset: u64) -> Result<Extent> {
        let holds = |e: &Extent| e.range.offset() <= offset && offset < e.range.end();
        if let Some(extent) = self.extent.filter(holds) {
            return Ok(extent);
        }
        let extent = self.source.next_extent(offset)?;
        if !holds(&extent) {
            let why = format!(
                "the source answered {} when asked for offset {offset}",
                extent.range
            );
            return Err(Error::new(ErrorKind::InvalidFormat, why));
        }
        self.extent = Some(extent);
        Ok(extent)
    }

    fn read(&mut self, first: u64, count: usize) -> Result<Buffer> {
        let mut bytes = Buffer::take(count * CHUNK_LEN);
        let offset = first * CHUNK_BYTES;
        let have = (self.size - offset).min((count * CHUNK_LEN) as u64);
        // At most a batch.
        let have = usize::try_from(have).unwrap_or(0);
        let (data, rest) = bytes.split_at_mut(have);
        rest.fill(0);
        self.source.read_at(offset, data)?;
        Ok(bytes)
    }
}

/// The assembly line: steps go in at the front and are written in order at the back.
struct Line<'a, 'b> {
    walk: Walk<'a>,
    jobs: Sender<Batch>,
    hashed: Receiver<Hashed>,
    steps: VecDeque<Pending>,
    /// Batches that were hashed before their turn.
    early: HashMap<u64, Hashed>,
    /// Batches under way.
    batches: usize,
    /// Batches ever given out.
    given: u64,
    builder: Builder,
    appender: Appender<'b>,
}

impl Line<'_, '_> {
    fn run(mut self, watch: Watch<'_>) -> Result<Ingested> {
        let size = self.walk.size;
        while let Some(step) = self.walk.next()? {
            watch.step(self.walk.at * CHUNK_BYTES, size, "the import")?;
            self.give(step)?;
            while self.batches >= IMPORT_BATCHES || self.steps.len() >= IMPORT_STEPS {
                self.take()?;
            }
        }
        while !self.steps.is_empty() {
            self.take()?;
        }
        self.walk.source.finish()?;
        let (new_chunks, mended) = self.appender.seal()?;
        Ok(Ingested {
            manifest: self.builder.finish()?,
            new_chunks,
            mended,
        })
    }

    fn give(&mut self, step: Step) -> Result<()> {
        let pending = match step {
            Step::Zeros(count) => Pending::Zeros(count),
            Step::Base(first, count) => Pending::Base(first, count),
            Step::Read(first, chunks) => {
                let bytes = self.walk.read(first, chunks)?;
                let number = self.given;
                self.given += 1;
                self.batches += 1;
                let batch = Batch {
                    number,
                    chunks,
                    bytes,
                };
                self.jobs.send(batch).map_err(|_| threads_ended())?;
                Pending::Hashing(number)
            }
        };
        self.steps.push_back(pending);
        Ok(())
    }

    /// Finishes the oldest step.
    fn take(&mut self) -> Result<()> {
        match self.steps.pop_front() {
            None => Ok(()),
            Some(Pending::Zeros(count)) => {
                self.builder.push_zeros(count);
                Ok(())
            }
            Some(Pending::Base(first, count)) => self.take_over(first, count),
            Some(Pending::Hashing(number)) => {
                let hashed = self.wait(number)?;
                self.batches -= 1;
                self.appender
                    .append(&hashed.ids, &hashed.bytes, &mut self.builder)
            }
        }
    }

    fn wait(&mut self, number: u64) -> Result<Hashed> {
        loop {
            if let Some(hashed) = self.early.remove(&number) {
                return Ok(hashed);
            }
            let hashed = self.hashed.recv().map_err(|_| threads_ended())?;
            self.early.insert(hashed.number, hashed);
        }
    }

    /// Names chunks of the base image, whose packs hold them already.
    fn take_over(&mut self, first: u64, count: u64) -> Result<()> {
        let base: Arc<Image> = self.walk.source.base().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidFormat,
                "the source refers to a base image and has none",
            )
        })?;
        for chunk in first..first + count {
            match base.entry(chunk) {
                Some(entry) => {
                    let place = self.appender.sound_place(entry)?;
                    self.builder.push(entry.id, place);
                }
                None => self.builder.push_zeros(1),
            }
        }
        Ok(())
    }
}

fn threads_ended() -> Error {
    Error::new(ErrorKind::Io, "the hashing threads ended early")
}

/// Writes new chunks behind the last used slot of the newest pack. What a manifest names is written
/// over only where it is known to be bad, with the very chunk that the manifest names.
#[derive(Debug)]
pub(super) struct Appender<'a> {
    disk: &'a dyn Disk,
    packs: &'a Packs,
    /// Slots of a full pack.
    slots: u32,
    index: HashMap<ChunkId, Place>,
    /// Bad places by the chunk that should be there.
    mendable: HashMap<ChunkId, Vec<Place>>,
    mended: u64,
    next: Place,
    /// Packs written to, not durable yet.
    written: BTreeMap<u32, Arc<dyn File>>,
    /// A pack was made: its name is not durable yet.
    named: bool,
    new_chunks: u64,
}

/// Neighbouring new chunks of a batch that go out in one write.
struct Run {
    first: Place,
    bytes: std::ops::Range<usize>,
}

impl<'a> Appender<'a> {
    /// Continues behind what the survey found in use.
    pub(super) fn new(
        disk: &'a dyn Disk,
        packs: &'a Packs,
        survey: Survey,
        slots: u32,
    ) -> Result<Self> {
        let next = survey.next_place(slots);
        let mut appender = Self {
            disk,
            packs,
            slots,
            index: survey.index,
            mendable: survey.mendable,
            mended: 0,
            next,
            written: BTreeMap::new(),
            named: false,
            new_chunks: 0,
        };
        if next.slot > 0 {
            let file = disk.open(&pack::path(next.pack), OpenMode::ReadWrite)?;
            appender.written.insert(next.pack, file);
        }
        Ok(appender)
    }

    /// Adds the chunks of a batch to the manifest, writing those that are nowhere yet.
    fn append(
        &mut self,
        ids: &[Option<ChunkId>],
        bytes: &[u8],
        builder: &mut Builder,
    ) -> Result<()> {
        let mut run: Option<Run> = None;
        for (nth, id) in ids.iter().enumerate() {
            let Some(id) = *id else {
                builder.push_zeros(1);
                continue;
            };
            let part = nth * CHUNK_LEN..(nth + 1) * CHUNK_LEN;
            self.mend(id, &bytes[part.clone()]);
            if let Some(&place) = self.index.get(&id) {
                builder.push(id, place);
                continue;
            }
            let place = self.claim()?;
            self.index.insert(id, place);
            builder.push(id, place);
            run = match run.take() {
                Some(run) if run.goes_on(place, &part) => Some(Run {
                    bytes: run.bytes.start..part.end,
                    ..run
                }),
                ended => {
                    self.write(ended, bytes)?;
                    Some(Run {
                        first: place,
                        bytes: part,
                    })
                }
            };
        }
        self.write(run, bytes)
    }

    /// Where the bytes of a chunk that is taken over lie: not where they were seen to be damaged.
    fn sound_place(&self, entry: Entry) -> Result<Place> {
        if !self.packs.bad.contains(entry.place) {
            return Ok(entry.place);
        }
        self.index.get(&entry.id).copied().ok_or_else(|| {
            let (pack, at) = (
                pack::path(entry.place.pack),
                pack::offset_of(entry.place.slot),
            );
            let why = format!(
                "the base image is damaged in {pack} at offset {at}; import it again to repair it"
            );
            Error::new(ErrorKind::Corrupt, why)
        })
    }

    /// Writes the chunk over the bad places that should hold it. Where the medium does not take it, it gets a new
    /// place like any other.
    fn mend(&mut self, id: ChunkId, bytes: &[u8]) {
        for place in self.mendable.remove(&id).unwrap_or_default() {
            match self.packs.mend(place, id, bytes) {
                Ok(true) => {
                    self.mended += 1;
                    self.index.entry(id).or_insert(place);
                }
                Ok(false) => tracing::warn!(?place, "a bad place does not take its chunk again"),
                Err(error) => tracing::warn!(?place, %error, "a bad place cannot be written"),
            }
        }
    }

    /// The next free slot; makes a pack when the last one is full.
    fn claim(&mut self) -> Result<Place> {
        if self.next.slot >= self.slots {
            self.next = Place {
                pack: self.next.pack + 1,
                slot: 0,
            };
        }
        if self.next.slot == 0 {
            if self.next.pack > PACK_NUMBER_MAX {
                return Err(Error::new(ErrorKind::NoSpace, "no pack number is left"));
            }
            let file = self
                .disk
                .open(&pack::path(self.next.pack), OpenMode::CreateNew)?;
            self.written.insert(self.next.pack, file);
            self.named = true;
        }
        let place = self.next;
        self.next.slot += 1;
        self.new_chunks += 1;
        self.packs.bad.forget(place);
        Ok(place)
    }

    fn write(&self, run: Option<Run>, bytes: &[u8]) -> Result<()> {
        let Some(run) = run else { return Ok(()) };
        let Some(file) = self.written.get(&run.first.pack) else {
            return Ok(());
        };
        file.write_at(pack::offset_of(run.first.slot), &bytes[run.bytes])
    }

    /// Makes all that was written durable; returns the numbers of new and of mended chunks.
    fn seal(self) -> Result<(u64, u64)> {
        if self.new_chunks > 0 {
            for file in self.written.values() {
                file.sync()?;
            }
        }
        if self.named {
            self.disk.sync_dir(pack::PACKS)?;
        }
        Ok((self.new_chunks, self.mended))
    }
}

impl Run {
    fn goes_on(&self, place: Place, part: &std::ops::Range<usize>) -> bool {
        let chunks = self.bytes.len() / CHUNK_LEN;
        self.bytes.end == part.start
            && self.first.pack == place.pack
            && self.first.slot as usize + chunks == place.slot as usize
    }
}
