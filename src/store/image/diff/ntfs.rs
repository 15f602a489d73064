//! NTFS, read only: names, sizes, times, and where the streams of a file lie.
//!
//! ```text
//!   boot sector --> place of the master file table ($MFT, itself the file of record 0)
//!   $MFT, front to back --> records: names with their directory's number, sizes, times  (`record.rs`)
//!   numbers of directories, up to the root (record 5) --> paths
//! ```
//! The table is read as it lies: no index of a directory is followed, so none can lead in circles, and the cost
//! is one sequential reading of the table. All streams of a file count as its content, so also those in which
//! Windows keeps the packed form of system files; what is compressed or encrypted is compared as it is stored.
//! The log is not played back; where it was in use, the notes say so.
//!
//! Sources: the documentation of the Linux-NTFS project ("NTFS Documentation", R. Russon, Y. Fledel), and
//! the structures in `layout.h` of ntfs-3g, for facts. Why not the crate `ntfs`:
//! `docs/decisions/0022-file-systems-of-strangers.md`.

mod names;
mod record;

use std::collections::BTreeMap;

use super::bytes::{le16, le32, le64};
use super::content::{Extent, Extents, Held, Stream};
use super::files::{Item, Names, Tree};
use super::window::Window;
use crate::limits;
use crate::store::error::{Error, ErrorKind, Result};
use names::Table;
use record::{Attribute, Body, Found, Place, Record};

const ATTRIBUTE_LIST: u32 = 0x20;
const VOLUME_INFORMATION: u32 = 0x70;
const DATA: u32 = 0x80;
const REPARSE_POINT: u32 = 0xc0;
const EXTENDED_ATTRIBUTES: u32 = 0xe0;

/// Records of the table itself, its log and the volume.
const MFT: u64 = 0;
const LOG_FILE: u64 = 2;
const VOLUME: u64 = 3;

/// Bytes of the table that are read at once.
const BATCH: u64 = 256 << 10;

fn wrong(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidFormat, format!("NTFS: {why}"))
}

/// The numbers of the boot sector that matter.
#[derive(Clone, Copy, Debug)]
struct Shape {
    cluster: u64,
    clusters: u64,
    record: u64,
    table: u64,
}

impl Shape {
    fn decode(sector: &[u8], len: u64) -> Option<Self> {
        let bytes = u64::from(le16(sector, 11)?);
        let per_cluster = match *sector.get(13)? {
            // A power of two, negated, from 2^-244 on.
            many @ 244.. => 1 << (256 - u64::from(many)),
            few => u64::from(few),
        };
        let sane = bytes.is_power_of_two() && (512..=4096).contains(&bytes);
        if !sane || !per_cluster.is_power_of_two() {
            return None;
        }
        let cluster = bytes * per_cluster;
        let record = match sector.get(64)?.cast_signed() {
            few @ 1.. => cluster.checked_mul(u64::from(few.unsigned_abs()))?,
            power @ -31..=-1 => 1 << power.unsigned_abs(),
            _ => return None,
        };
        let table = le64(sector, 48)?;
        let clusters = len / cluster;
        let sane = cluster <= 2 << 20
            && record.is_power_of_two()
            && (512..=65_536).contains(&record)
            && table < clusters;
        sane.then_some(Self {
            cluster,
            clusters,
            record,
            table,
        })
    }

    fn place(&self) -> Place {
        Place {
            cluster: self.cluster,
            clusters: self.clusters,
        }
    }
}

struct Open {
    window: Window,
    shape: Shape,
    /// Where the master file table lies, and how many records it has.
    table: Extents,
    records: u64,
    found: Table,
    notes: Vec<String>,
}

pub(super) fn open(window: Window) -> Result<Box<dyn Tree>> {
    let mut sector = [0; 512];
    window.read(0, &mut sector)?;
    let shape = Shape::decode(&sector, window.len());
    let shape = shape.ok_or_else(|| wrong("its first sector makes no sense"))?;
    let mut open = Open {
        window,
        shape,
        table: Extents::default(),
        records: 0,
        found: Table::default(),
        notes: Vec::new(),
    };
    open.find_table()?;
    open.scan()?;
    open.look_at_volume()?;
    Ok(Box::new(open))
}

impl Open {
    /// The record of a number; `None` when it holds nothing.
    fn record(&self, number: u64) -> Result<Found> {
        if number >= self.records {
            return Ok(Found::Nothing);
        }
        let len = usize::try_from(self.shape.record).unwrap_or(0);
        let mut bytes = vec![0; len];
        let at = number.saturating_mul(self.shape.record);
        self.table.read(&self.window, at, &mut bytes)?;
        Ok(Record::decode(bytes))
    }

    /// The table is a file of its own record 0. What that record has no room for lies in others, whose numbers
    /// its list of attributes has; each lies in a part of the table that is known by then.
    fn find_table(&mut self) -> Result<()> {
        let len = self.shape.record;
        let start = Extent {
            at: 0,
            disk: self.shape.table.saturating_mul(self.shape.cluster),
            len,
        };
        let pushed = self.table.push(start);
        pushed.ok_or_else(|| wrong("the table of files lies nowhere"))?;
        self.records = 1;
        let Found::Record(base) = self.record(MFT)? else {
            return Err(wrong("the first record of the table of files is damaged"));
        };
        let mut pieces = vec![base];
        let mut known = 0;
        loop {
            let stream = self.stream(&pieces, DATA)?;
            let stream = stream.ok_or_else(|| wrong("the table of files has no content"))?;
            let Held::There(extents) = stream.held else {
                return Err(wrong("the table of files lies in its own record"));
            };
            self.table = extents;
            let most = self.window.len() / self.shape.record;
            self.records = (stream.size / self.shape.record).min(most);
            let more = self.table_records(&pieces)?;
            let Some(next) = more.get(known) else {
                return Ok(());
            };
            known += 1;
            if known > limits::DIFF_TABLE_PARTS_MAX {
                return Err(wrong("the table of files has too many parts"));
            }
            if let Found::Record(piece) = self.record(*next)? {
                pieces.push(piece);
            }
        }
    }

    /// Numbers of the records that hold further parts of the table's own content.
    fn table_records(&self, pieces: &[Record]) -> Result<Vec<u64>> {
        let Some(list) = self.stream(pieces, ATTRIBUTE_LIST)? else {
            return Ok(Vec::new());
        };
        let len = usize::try_from(list.size).unwrap_or(usize::MAX);
        if len > limits::DIFF_INLINE_BYTES_MAX {
            return Err(wrong("the table of files has too many parts"));
        }
        let mut bytes = vec![0; len];
        match &list.held {
            Held::There(extents) => extents.read(&self.window, 0, &mut bytes)?,
            Held::Here(held) => bytes.clone_from(held),
        }
        Ok(record::listed(&bytes, DATA))
    }

    /// Reads the whole table once.
    fn scan(&mut self) -> Result<()> {
        let len = usize::try_from(self.shape.record).unwrap_or(0);
        let in_batch = BATCH / self.shape.record;
        let mut damaged = 0_u64;
        let mut number = 0;
        while number < self.records {
            let count = in_batch.min(self.records - number);
            let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * len];
            let at = number * self.shape.record;
            self.table.read(&self.window, at, &mut bytes)?;
            for raw in bytes.chunks_exact(len) {
                match Record::decode(raw.to_vec()) {
                    Found::Record(record) => {
                        damaged += u64::from(!self.found.take(number, &record)?);
                    }
                    Found::Damaged => damaged += 1,
                    Found::Nothing => {}
                }
                number += 1;
            }
        }
        if damaged > 0 {
            let note = format!("{damaged} records of its table of files are damaged; run chkdsk");
            self.notes.push(note);
        }
        Ok(())
    }

    /// Base record and extensions of a file.
    fn pieces(&self, number: u64) -> Result<Vec<Record>> {
        let mut pieces = Vec::new();
        let extensions = self.found.extensions(number);
        for number in std::iter::once(&number).chain(extensions) {
            match self.record(*number)? {
                Found::Record(record) => pieces.push(record),
                _ => return Err(wrong(format!("record {number} is damaged"))),
            }
        }
        Ok(pieces)
    }

    /// The one stream without a name of a kind.
    fn stream(&self, pieces: &[Record], kind: u32) -> Result<Option<Stream>> {
        let groups = grouped(pieces)?;
        let found = groups
            .iter()
            .find(|(key, _)| key.0 == kind && key.1.is_empty());
        let found = found.map(|(key, parts)| joined(self.shape.place(), key, parts));
        found.transpose()
    }

    fn look_at_volume(&mut self) -> Result<()> {
        if let Found::Record(volume) = self.record(VOLUME)? {
            let attributes = volume.attributes().unwrap_or_default();
            let info = attributes.iter().find(|a| a.kind == VOLUME_INFORMATION);
            if let Some(Body::Here(bytes)) = info.map(|a| &a.body)
                && le16(bytes, 10).is_some_and(|flags| flags & 1 != 0)
            {
                let note =
                    "the volume is marked as not clean; Windows will check it at its next start";
                self.notes.push(note.to_owned());
            }
        }
        if self.log_in_use()? {
            let note = "the journal was in use and is not played back: what was changed last may be missing";
            self.notes.push(note.to_owned());
        }
        Ok(())
    }

    /// Whether the journal's newer restart page says that somebody works in the volume.
    fn log_in_use(&self) -> Result<bool> {
        let Found::Record(log) = self.record(LOG_FILE)? else {
            return Ok(false);
        };
        let stream = self.stream(&[log], DATA)?;
        let Some(Held::There(extents)) = stream.map(|stream| stream.held) else {
            return Ok(false);
        };
        let mut newest = None;
        for page in [0, 4096] {
            let mut bytes = [0; 512];
            extents.read(&self.window, page, &mut bytes)?;
            newest = newest.max(restart_area(&bytes));
        }
        Ok(newest.is_some_and(|(_, in_use)| in_use))
    }
}

/// The log sequence number of a restart page, and whether the log was in use.
fn restart_area(page: &[u8]) -> Option<(u64, bool)> {
    if !page.starts_with(b"RSTR") {
        return None;
    }
    let area = page.get(usize::from(le16(page, 24)?)..)?;
    let (clients, flags) = (le16(area, 12)?, le16(area, 14)?);
    Some((le64(area, 0)?, clients != 0xffff && flags & 2 == 0))
}

/// Kind and name of a stream.
type Key<'a> = (u32, &'a [u8]);
type Groups<'a> = BTreeMap<Key<'a>, Vec<Attribute<'a>>>;

/// The streams of a file, each with its parts in the order of the file.
fn grouped(pieces: &[Record]) -> Result<Groups<'_>> {
    let mut groups = Groups::new();
    for piece in pieces {
        let attributes = piece.attributes();
        for one in attributes.ok_or_else(|| wrong("a record is damaged"))? {
            groups.entry((one.kind, one.name)).or_default().push(one);
        }
    }
    for parts in groups.values_mut() {
        parts.sort_by_key(|part| part.first_cluster());
    }
    Ok(groups)
}

/// One stream of its parts.
fn joined(place: Place, key: &Key<'_>, parts: &[Attribute<'_>]) -> Result<Stream> {
    let first = parts.first().ok_or_else(|| wrong("a stream of nothing"))?;
    let mut stream = Stream {
        key: [&key.0.to_le_bytes(), &first.flags.to_le_bytes()[..], key.1].concat(),
        size: 0,
        held: Held::Here(Vec::new()),
    };
    match &first.body {
        Body::Here(bytes) => {
            stream.size = bytes.len() as u64;
            stream.held = Held::Here(bytes.to_vec());
        }
        Body::There { size, written, .. } => {
            let mut extents = Extents::default();
            let mut next = 0;
            for part in parts {
                next = place.add(part, next, &mut extents).ok_or_else(|| {
                    wrong("the places of a stream make no sense, or are too many")
                })?;
            }
            stream.size = *size;
            if first.is_packed() {
                // Compared as it is stored: its length when unpacked is then a part of what it is.
                stream.key.extend_from_slice(&size.to_le_bytes());
                stream.size = next.saturating_mul(place.cluster);
            } else {
                extents.trim((*written).min(*size));
            }
            stream.held = Held::There(extents);
        }
    }
    Ok(stream)
}

impl Tree for Open {
    fn names(&self) -> Result<Names> {
        self.found.names()
    }

    fn window(&self) -> &Window {
        &self.window
    }

    fn streams(&self, item: &Item) -> Result<Option<Vec<Stream>>> {
        let pieces = self.pieces(item.place)?;
        let mut streams = Vec::new();
        for (key, parts) in &grouped(&pieces)? {
            if matches!(key.0, DATA | REPARSE_POINT | EXTENDED_ATTRIBUTES) {
                streams.push(joined(self.shape.place(), key, parts)?);
            }
        }
        Ok(Some(streams))
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        notes.extend(self.found.note());
        notes
    }
}

/// The tag of a reparse point, which says what it is.
fn reparse_tag(body: &Body<'_>) -> Option<u32> {
    match body {
        Body::Here(bytes) => le32(bytes, 0),
        Body::There { .. } => None,
    }
}
