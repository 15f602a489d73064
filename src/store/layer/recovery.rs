//! Start-up: what the files say, put together (`docs/formats/layer.md` gives the order and the reasons).
//! Opens no data file of a layer.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::entry::{Birth, Entry, GENERATION_MAX, Header, Redo, Row, Table, VERSION, unborn};
use super::frame::{Cursor, Log, Mark, Role, read_all};
use super::map::{BlockState, Undo};
use super::soft::Soft;
use super::state::{Layer, State, data_path};
use super::{Boot, DATA_DIR, DIR, Options, Recovery, checkpoint, journal, soft};
use crate::store::disk::{Disk, OpenMode};
use crate::store::{Durability, Error, ErrorKind, LayerId, Result};

/// All that a store needs to go on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) log: Log,
    pub(super) soft: Soft,
    pub(super) layers: HashMap<LayerId, Arc<Layer>>,
    pub(super) generation_next: u64,
    pub(super) checkpointed: u32,
    pub(super) trash: Vec<String>,
    /// Files to remove once the new soft log stands.
    pub(super) stray: Vec<String>,
    pub(super) report: Recovery,
}

#[derive(Debug, Default)]
struct Found {
    journals: BTreeSet<u32>,
    checkpoints: BTreeSet<u32>,
    softs: BTreeSet<u32>,
    drafts: Vec<String>,
}

// What reading one log gave.
struct Replay<'a> {
    header: Option<Header>,
    ended: bool,
    frames: u32,
    mark: Mark,
    clean: bool,
    behind: Vec<&'a [u8]>,
}

// The journals from a checkpoint on.
struct Chain {
    last: u32,
    mark: Mark,
    len: u64,
    torn: bool,
    damage: Option<String>,
    suspects: Vec<Entry>,
    // A journal that was made but never used.
    unused: Option<u32>,
}

fn corrupt(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, why)
}

/// Reads everything and leaves a journal to go on with.
pub(super) fn recover(disk: &Arc<dyn Disk>, boot: Boot, options: &Options) -> Result<Recovered> {
    disk.create_dir(DATA_DIR)?;
    let found = find(&**disk)?;
    let (mut report, mut soft_report) = (Recovery::default(), Recovery::default());
    // First, since it changes nothing: a soft log of a newer program is refused before a journal is touched.
    let (entries, same_boot) = read_soft(&**disk, &found, boot, &mut soft_report)?;
    let (mut durable, mut log, mut checkpointed) =
        read_journals(&**disk, &found, options, &mut report)?;
    report.notes.append(&mut soft_report.notes);
    let mut now = present_state(&durable, entries, same_boot, &mut report);
    if now.rows.values().any(|row| row.poisoned) {
        // A journal whose sync failed may be whole in the page cache alone, and nothing tells which one it was:
        // what comes after must not stand on it.
        (log, checkpointed) = renew(&**disk, &log, options, &durable)?;
    }
    let finished = finish_atomics(&**disk, &mut durable, &mut now, &mut report)?;
    let files = data_files(&**disk, &mut now)?;
    let mut fixups = overruled(&durable, &now);
    fixups.extend(finished);
    if !fixups.is_empty() {
        // The soft log alone does not survive a power cut, and files are removed on the word of it.
        let mark = log.append(&fixups)?;
        log.file.sync()?;
        log.advance(mark);
    }
    let trash = files
        .iter()
        .filter(|file| !now.names(file))
        .map(|(_, _, name)| format!("{DATA_DIR}/{name}"));
    let trash = trash.collect();
    let exists: BTreeSet<(u32, u64)> = files
        .iter()
        .map(|(layer, generation, _)| (*layer, *generation))
        .collect();
    report.records = durable.records + now.records;
    let mut layers = HashMap::with_capacity(now.rows.len());
    for (id, row) in now.rows {
        let file_exists = exists.contains(&(id.0, row.facts.generation));
        let state = state_of(row, durable.rows.get(&id), file_exists);
        if let Some(why) = &state.damaged {
            report.damaged.push((id, why.clone()));
        }
        if state.poisoned.is_some() {
            report.poisoned.push(id);
        }
        layers.insert(id, Arc::new(Layer::new(id, state)));
    }
    report.layers = layers.len();
    report.damaged.sort();
    report.poisoned.sort_unstable();
    let number = found.softs.last().copied().unwrap_or(0);
    let softs = found.softs.iter().map(|number| soft::path(*number));
    Ok(Recovered {
        log,
        soft: Soft::new(Arc::clone(disk), boot, number),
        layers,
        generation_next: now.generation_next.max(1),
        checkpointed,
        trash,
        stray: softs.chain(found.drafts.iter().cloned()).collect(),
        report,
    })
}

fn find(disk: &dyn Disk) -> Result<Found> {
    let mut found = Found::default();
    for name in disk.list(DIR)? {
        if name.ends_with(".tmp") {
            found.drafts.push(format!("{DIR}/{name}"));
        }
        let Some((kind, number)) = name.split_once('.') else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        match kind {
            "journal" => found.journals.insert(number),
            "checkpoint" => found.checkpoints.insert(number),
            "soft" => found.softs.insert(number),
            _ => continue,
        };
    }
    Ok(found)
}

fn load(disk: &dyn Disk, path: &str) -> Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    read_all(&*file, path)
}

fn replay<'a>(
    bytes: &'a [u8],
    role: Role,
    epoch: u32,
    stamp: Option<u32>,
    stop: Option<u64>,
    each: &mut dyn FnMut(Entry),
) -> Result<Replay<'a>> {
    let mut cursor = Cursor::new(bytes, role, epoch, stamp);
    let (mut header, mut ended, mut frames) = (None, false, 0);
    while stop.is_none_or(|stop| cursor.mark.end < stop) {
        let Some(frame) = cursor.next() else { break };
        frames += 1;
        for entry in frame.entries() {
            let entry = entry
                .map_err(|()| corrupt(format!("{role:?} {epoch}: an entry of no known kind")))?;
            match &entry {
                Entry::Header(h) if h.version > VERSION => {
                    let why = format!(
                        "{role:?} {epoch} has format {}; this program reads up to {VERSION}",
                        h.version
                    );
                    return Err(Error::new(ErrorKind::NewerVersion, why));
                }
                Entry::Header(h) => header = Some(*h),
                Entry::End { .. } => ended = true,
                _ => {}
            }
            each(entry);
        }
    }
    Ok(Replay {
        header,
        ended,
        frames,
        mark: cursor.mark,
        clean: cursor.is_clean(),
        behind: cursor.behind_break(),
    })
}

/// The durable state, and the journal to go on with.
fn read_journals(
    disk: &dyn Disk,
    found: &Found,
    options: &Options,
    report: &mut Recovery,
) -> Result<(Table, Log, u32)> {
    if let Some(log) = first_start(disk, found, options)? {
        return Ok((Table::default(), log, 1));
    }
    let (mut table, from) = newest_checkpoint(disk, found, report)?;
    let chain = replay_chain(disk, found, from, &mut table)?;
    report.torn_tail = chain.torn;
    let fell_back = !report.notes.is_empty();
    if let Some(why) = &chain.damage {
        report.notes.push(why.clone());
        for entry in &chain.suspects {
            suspect(&mut table, entry);
        }
    }
    if chain.damage.is_some() || fell_back {
        let (log, epoch) = repair(disk, found, options, &table)?;
        return Ok((table, log, epoch));
    }
    if let Some(unused) = chain.unused {
        disk.remove(&journal::path(unused))?;
    }
    let file = disk.open(&journal::path(chain.last), OpenMode::ReadWrite)?;
    let mut len = chain.len;
    if chain.torn {
        file.set_len(chain.mark.end)?;
        len = chain.mark.end;
    }
    // A process that was killed may have left frames that are not durable yet; the state is built on them.
    file.sync()?;
    disk.sync_dir(DIR)?;
    let log = Log::resume(
        file,
        Role::Journal,
        chain.last,
        chain.mark,
        len,
        options.journal_step,
    );
    Ok((table, log, from))
}

// A store without a journal, or whose very first journal never became durable.
fn first_start(disk: &dyn Disk, found: &Found, options: &Options) -> Result<Option<Log>> {
    if !found.checkpoints.is_empty() || found.journals.iter().any(|epoch| *epoch != 1) {
        return Ok(None);
    }
    if found.journals.contains(&1) {
        let bytes = load(disk, &journal::path(1))?;
        let read = replay(&bytes, Role::Journal, 1, Some(0), None, &mut |_| {})?;
        if read.frames > 0 || !read.behind.is_empty() {
            return Ok(None);
        }
    }
    disk.sync_dir("")?;
    let header = Header {
        version: VERSION,
        ..Header::default()
    };
    journal::begin(disk, 1, header, options.journal_step).map(Some)
}

fn newest_checkpoint(
    disk: &dyn Disk,
    found: &Found,
    report: &mut Recovery,
) -> Result<(Table, u32)> {
    for epoch in found.checkpoints.iter().rev() {
        let bytes = load(disk, &checkpoint::path(*epoch))?;
        let mut table = Table::default();
        let read = replay(
            &bytes,
            Role::Checkpoint,
            *epoch,
            Some(0),
            None,
            &mut |entry| table.apply(entry),
        );
        match read {
            Ok(read) if read.ended => return Ok((table, *epoch)),
            Err(e) if e.kind() == ErrorKind::NewerVersion => return Err(e),
            _ => report.notes.push(format!(
                "checkpoint.{epoch} is damaged; the one before and its journals serve"
            )),
        }
    }
    // The journal of epoch 1 begins with nothing.
    if found.journals.contains(&1) {
        return Ok((Table::default(), 1));
    }
    Err(corrupt(
        "no checkpoint of the layers reads back; restore the directory `layers` from a copy",
    ))
}

fn replay_chain(disk: &dyn Disk, found: &Found, from: u32, table: &mut Table) -> Result<Chain> {
    let mut epoch = from;
    let mut next = load_journal(disk, found, epoch)?;
    loop {
        let bytes = next;
        // The last number there is has no successor.
        let after = epoch.saturating_add(1);
        let successor = after > epoch && found.journals.contains(&after);
        next = if successor {
            load_journal(disk, found, after)?
        } else {
            Vec::new()
        };
        let link = if successor {
            link(&next, found, after)?
        } else {
            Link::None
        };
        let stop = match &link {
            Link::Used(header) => Some(header.previous_end),
            _ => None,
        };
        let read = replay(&bytes, Role::Journal, epoch, Some(0), stop, &mut |entry| {
            table.apply(entry);
        })?;
        let mut chain = Chain {
            last: epoch,
            mark: read.mark,
            len: bytes.len() as u64,
            torn: !read.clean,
            damage: None,
            suspects: Vec::new(),
            unused: matches!(link, Link::Unused).then_some(after),
        };
        let broken = match &link {
            Link::Used(h) => (read.mark.end, read.mark.crc) != (h.previous_end, h.previous_crc),
            Link::Unreadable => true,
            _ => !read.behind.is_empty() || read.header.is_none(),
        };
        if broken {
            chain.damage = Some(format!(
                "journal.{epoch} is damaged at byte {}",
                read.mark.end
            ));
            read.behind
                .iter()
                .for_each(|payload| named_in(payload, &mut chain.suspects));
            for later in found.journals.range((Excluded(epoch), Unbounded)) {
                let bytes = load_journal(disk, found, *later)?;
                let cursor = Cursor::new(&bytes, Role::Journal, *later, Some(0));
                cursor
                    .behind_break()
                    .iter()
                    .for_each(|payload| named_in(payload, &mut chain.suspects));
            }
            return Ok(chain);
        }
        if !matches!(link, Link::Used(_)) {
            return Ok(chain);
        }
        epoch = after;
    }
}

fn load_journal(disk: &dyn Disk, found: &Found, epoch: u32) -> Result<Vec<u8>> {
    if !found.journals.contains(&epoch) {
        let why = format!(
            "journal.{epoch} of the layers is missing; restore the directory `layers` from a copy"
        );
        return Err(corrupt(why));
    }
    load(disk, &journal::path(epoch))
}

enum Link {
    None,
    /// Made by an attempt that failed, or that power ended: the journal before it is still the last.
    Unused,
    Used(Header),
    Unreadable,
}

// What a journal says about the one before it. A journal is in use once it holds a frame or an entry beyond its
// header, or something was made after it.
fn link(bytes: &[u8], found: &Found, epoch: u32) -> Result<Link> {
    let mut says = false;
    let read = replay(bytes, Role::Journal, epoch, Some(0), None, &mut |entry| {
        says |= !matches!(entry, Entry::Header(_));
    })?;
    let later = found.journals.last().is_some_and(|last| *last > epoch);
    let used = says
        || read.frames > 1
        || !read.behind.is_empty()
        || later
        || found.checkpoints.range(epoch..).next().is_some();
    Ok(match (used, read.header) {
        (false, _) => Link::Unused,
        (true, Some(header)) => Link::Used(header),
        (true, None) => Link::Unreadable,
    })
}

fn named_in(payload: &[u8], out: &mut Vec<Entry>) {
    out.extend(super::entry::Entries(payload).map_while(|entry| entry.ok()));
}

// Marks the layer of an entry that could not be applied in its place.
fn suspect(table: &mut Table, entry: &Entry) {
    let generation = match entry {
        Entry::Layer(facts) => facts.generation,
        Entry::Blocks { generation, .. }
        | Entry::Map { generation, .. }
        | Entry::Reset { generation, .. }
        | Entry::Remove { generation, .. }
        | Entry::Redo { generation, .. }
        | Entry::Retire { generation, .. }
        | Entry::Poisoned { generation, .. }
        | Entry::Damaged { generation, .. } => *generation,
        Entry::Header(_) | Entry::End { .. } => return,
    };
    if let Some(layer) = entry.layer() {
        table.apply(Entry::Damaged { layer, generation });
    }
}

// After damage: a new journal and checkpoint say what is known now; the damaged files are kept aside.
fn repair(disk: &dyn Disk, found: &Found, options: &Options, table: &Table) -> Result<(Log, u32)> {
    let last = found
        .journals
        .last()
        .max(found.checkpoints.last())
        .copied()
        .unwrap_or(0);
    let epoch = last
        .checked_add(1)
        .ok_or_else(|| corrupt("the layers' journal has used up its numbers"))?;
    let header = Header {
        version: VERSION,
        generation_next: table.generation_next,
        ..Header::default()
    };
    let log = journal::begin(disk, epoch, header, options.journal_step)?;
    // With the atomic writes that are still to be finished.
    let rows: Vec<Row> = table.rows.values().cloned().collect();
    checkpoint::save(disk, epoch, rows, table.generation_next)?;
    let journals = found.journals.iter().map(|epoch| journal::path(*epoch));
    let checkpoints = found
        .checkpoints
        .iter()
        .map(|epoch| checkpoint::path(*epoch));
    for path in journals.chain(checkpoints) {
        disk.rename(&path, &format!("{path}.damaged"))?;
    }
    disk.sync_dir(DIR)?;
    Ok((log, epoch))
}

// A new journal after the last one, with a checkpoint of its own, so that no later start needs what is before.
fn renew(disk: &dyn Disk, last: &Log, options: &Options, table: &Table) -> Result<(Log, u32)> {
    let epoch = last
        .epoch
        .checked_add(1)
        .ok_or_else(|| corrupt("the layers' journal has used up its numbers"))?;
    let header = Header {
        version: VERSION,
        generation_next: table.generation_next,
        previous_end: last.mark.end,
        previous_crc: last.mark.crc,
        ..Header::default()
    };
    let log = journal::begin(disk, epoch, header, options.journal_step)?;
    let rows: Vec<Row> = table.rows.values().cloned().collect();
    checkpoint::save(disk, epoch, rows, table.generation_next)?;
    Ok((log, epoch))
}

fn read_soft(
    disk: &dyn Disk,
    found: &Found,
    boot: Boot,
    report: &mut Recovery,
) -> Result<(Vec<Entry>, bool)> {
    for number in found.softs.iter().rev() {
        let bytes = load(disk, &soft::path(*number))?;
        let (ours, role) = (Some(soft::stamp(&boot)), Role::Soft);
        let of_this_boot = replay(&bytes, role, *number, ours, None, &mut |_| {});
        let same = of_this_boot.is_ok_and(|read| read.frames > 0 || !read.behind.is_empty());
        let mut entries = Vec::new();
        let stamp = if same { ours } else { None };
        let read = replay(&bytes, role, *number, stamp, None, &mut |entry| {
            entries.push(entry);
        });
        let read = match read {
            Ok(read) => read,
            // What it holds of volatile layers must not be lost to a program that is too old.
            Err(e) if e.kind() == ErrorKind::NewerVersion => return Err(e),
            Err(_) => {
                report
                    .notes
                    .push(format!("soft.{number} does not read back"));
                continue;
            }
        };
        // The mark in the frames is short; the header has the whole boot id.
        let same = same && read.header.is_none_or(|header| header.boot == boot);
        if !read.ended {
            if same && !read.behind.is_empty() {
                report.notes.push(format!(
                    "soft.{number} is damaged: unflushed writes may be lost"
                ));
            }
            continue;
        }
        if same && !read.behind.is_empty() {
            report.notes.push(format!(
                "soft.{number} is damaged at byte {}",
                read.mark.end
            ));
            let mut lost = Vec::new();
            read.behind
                .iter()
                .for_each(|payload| named_in(payload, &mut lost));
            // Applied like any entry: the layers named behind the damage are not to be served.
            let mut table = Table::default();
            lost.iter().for_each(|entry| suspect(&mut table, entry));
            entries.extend(table.rows.values().map(|row| Entry::Damaged {
                layer: row.facts.layer,
                generation: row.facts.generation,
            }));
        }
        return Ok((entries, same));
    }
    Ok((Vec::new(), false))
}

fn is_volatile(birth: Option<Birth>) -> bool {
    birth.is_some_and(|birth| birth.durability == Durability::Volatile)
}

// Journal and soft log together. While the host is up the soft log knows every volatile layer; after it
// went down, none of them has its content any more.
fn present_state(
    durable: &Table,
    soft: Vec<Entry>,
    same_boot: bool,
    report: &mut Recovery,
) -> Table {
    let mut now = durable.clone();
    now.records = 0;
    if same_boot {
        now.rows.retain(|_, row| !is_volatile(row.facts.birth));
        soft.into_iter().for_each(|entry| now.apply(entry));
    } else {
        let mut before = durable.clone();
        soft.into_iter().for_each(|entry| before.apply(entry));
        now.generation_next = now.generation_next.max(before.generation_next);
        let lost = |row: &&Row| is_volatile(row.facts.birth) || row.facts.lost;
        let mut lost: Vec<LayerId> = before
            .rows
            .values()
            .filter(lost)
            .map(|row| row.facts.layer)
            .collect();
        lost.sort_unstable();
        for layer in lost {
            let facts = unborn(layer, now.generation_next, true);
            now.generation_next += 1;
            let row = Row::new(facts, super::map::BlockMap::default());
            now.rows.insert(layer, row);
        }
    }
    let lost = now
        .rows
        .values()
        .filter(|row| row.facts.lost)
        .map(|row| row.facts.layer);
    report.lost_volatile = lost.collect();
    report.lost_volatile.sort_unstable();
    now
}

/// Writes what atomic writes left half done whole into the data files, durably, and gives what the journal
/// must learn of it. Their blocks were locked when the head ended, so nothing newer can lie there.
fn finish_atomics(
    disk: &dyn Disk,
    durable: &mut Table,
    now: &mut Table,
    report: &mut Recovery,
) -> Result<Vec<Entry>> {
    let mut learned = Vec::new();
    for (id, row) in &mut now.rows {
        let generation = row.facts.generation;
        for redo in std::mem::take(&mut row.redos) {
            let Some(span) = redo.span().filter(|_| !row.facts.damaged) else {
                continue;
            };
            if let Err(e) = redo_whole(disk, &data_path(*id, generation), &redo) {
                report.notes.push(format!(
                    "layer {id}: an atomic write could not be finished: {e}"
                ));
                row.facts.damaged = true;
                continue;
            }
            row.map.set(span.clone(), BlockState::Present);
            if is_volatile(row.facts.birth) {
                continue;
            }
            if let Some(old) = durable.rows.get_mut(id)
                && old.facts.generation == generation
            {
                old.map.set(span.clone(), BlockState::Present);
            }
            learned.push(Entry::Blocks {
                layer: *id,
                generation,
                state: BlockState::Present,
                span,
            });
            learned.push(Entry::Retire {
                layer: *id,
                generation,
                offset: redo.offset,
            });
        }
    }
    Ok(learned)
}

fn redo_whole(disk: &dyn Disk, path: &str, redo: &Redo) -> Result<()> {
    let file = match disk.open(path, OpenMode::ReadWrite) {
        Err(e) if e.kind() == ErrorKind::NotFound => disk.open(path, OpenMode::CreateNew)?,
        file => file?,
    };
    file.write_at(redo.offset, &redo.data)?;
    file.sync()?;
    disk.sync_dir(DATA_DIR)
}

type DataFile = (u32, u64, String);

fn data_files(disk: &dyn Disk, now: &mut Table) -> Result<Vec<DataFile>> {
    let mut files = Vec::new();
    for name in disk.list(DATA_DIR)? {
        let parts = name
            .split_once('.')
            .and_then(|(l, g)| Some((l.parse().ok()?, g.parse().ok()?)));
        let Some((layer, generation)) = parts else {
            continue;
        };
        let generation: u64 = generation;
        if generation > GENERATION_MAX {
            // No file of ours: it has no business here, but nobody knows whose it is.
            continue;
        }
        now.generation_next = now.generation_next.max(generation.saturating_add(1));
        files.push((layer, generation, name));
    }
    Ok(files)
}

impl Table {
    fn names(&self, (layer, generation, _): &DataFile) -> bool {
        let row = self.rows.get(&LayerId(*layer));
        row.is_some_and(|row| row.facts.generation == *generation)
    }
}

// Resets and removals that only the soft log knows.
fn overruled(durable: &Table, now: &Table) -> Vec<Entry> {
    let mut out = Vec::new();
    for (layer, old) in &durable.rows {
        if is_volatile(old.facts.birth) {
            continue;
        }
        let layer = *layer;
        match now.rows.get(&layer) {
            None => out.push(Entry::Remove {
                layer,
                generation: old.facts.generation,
            }),
            Some(row) if row.facts.generation > old.facts.generation => out.push(Entry::Reset {
                layer,
                generation: row.facts.generation,
            }),
            Some(_) => {}
        }
    }
    out
}

fn state_of(row: Row, durable: Option<&Row>, file_exists: bool) -> State {
    let facts = row.facts;
    let journalled = durable.filter(|old| old.facts.generation == facts.generation);
    let mut state = State {
        generation: facts.generation,
        birth: facts.birth,
        lost: facts.lost,
        map: row.map,
        file_exists,
        name_durable: journalled.is_some_and(|old| !old.map.present.is_empty()),
        birth_durable: journalled.is_some_and(|old| old.facts.birth.is_some()),
        journal_knows: durable.is_some_and(|old| !is_volatile(old.facts.birth)),
        // What an earlier process wrote may still be in the page cache alone.
        dirty: file_exists,
        ..State::default()
    };
    if row.poisoned {
        let why = "a sync of it failed before this start, and the medium may lack what was written";
        state.poisoned = Some(why.to_owned());
        state.sync_failed = true;
    }
    state.map.optimize();
    if state.is_durable() {
        let empty = super::map::BlockMap::default();
        state.pending = Undo::between(journalled.map_or(&empty, |old| &old.map), &state.map);
    }
    if facts.damaged {
        state.damaged = Some("records of it were lost to damage of the journal".to_owned());
    } else if !state.map.present.is_empty() && !file_exists {
        state.damaged = Some("its data file is missing".to_owned());
    }
    state
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::store::disk_memory::MemoryDisk;

    #[test]
    fn a_store_of_a_newer_program_is_refused() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        disk.create_dir(DATA_DIR).unwrap();
        let header = Header {
            version: VERSION + 1,
            ..Header::default()
        };
        journal::begin(&*disk, 1, header, 0).unwrap();
        let refused = recover(&disk, [1; 16], &Options::default()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NewerVersion);
    }
    #[test]
    fn a_store_of_an_earlier_format_is_read_as_it_is() {
        for version in 1..VERSION {
            let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
            disk.create_dir(DATA_DIR).unwrap();
            let header = Header {
                version,
                ..Header::default()
            };
            let mut log = journal::begin(&*disk, 1, header, 0).unwrap();
            let reset = Entry::Reset {
                layer: LayerId(1),
                generation: 4,
            };
            log.append(&[reset]).unwrap();
            let found = recover(&disk, [1; 16], &Options::default()).unwrap();
            assert_eq!((found.layers.len(), found.generation_next), (1, 5));
            assert!(found.report.poisoned.is_empty());
        }
    }
    /// Found by the fuzz target `store`: the number after the last one was asked for.
    #[test]
    fn the_last_number_of_a_journal_is_no_overflow() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        disk.create_dir(DATA_DIR).unwrap();
        let header = Header {
            version: VERSION,
            ..Header::default()
        };
        journal::begin(&*disk, u32::MAX, header, 0).unwrap();
        checkpoint::save(&*disk, u32::MAX, Vec::new(), 7).unwrap();
        let found = recover(&disk, [1; 16], &Options::default()).unwrap();
        assert_eq!((found.checkpointed, found.generation_next), (u32::MAX, 7));
        assert!(found.report.notes.is_empty(), "{:?}", found.report.notes);
    }
    /// Found by the fuzz target `store`: counting on from 2^64 - 1.
    #[test]
    fn generations_that_cannot_be_are_refused() {
        for generation in [u64::MAX, GENERATION_MAX + 1] {
            let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
            disk.create_dir(DATA_DIR).unwrap();
            let header = Header {
                version: VERSION,
                ..Header::default()
            };
            let mut log = journal::begin(&*disk, 1, header, 0).unwrap();
            let layer = LayerId(1);
            log.append(&[Entry::Reset { layer, generation }]).unwrap();
            let refused = recover(&disk, [1; 16], &Options::default()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt);
        }
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
        disk.create_dir(DATA_DIR).unwrap();
        let name = format!("{DATA_DIR}/1.{}", u64::MAX);
        disk.open(&name, OpenMode::CreateNew).unwrap();
        let found = recover(&disk, [1; 16], &Options::default()).unwrap();
        assert_eq!((found.generation_next, found.trash.len()), (1, 0));
    }
}
