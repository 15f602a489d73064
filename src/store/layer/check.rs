//! The offline check of layers: lets the recovery run over a shadow of the files, so that it says exactly what the
//! next start would find, and reads the logs that a start does not need. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entry::Entry;
use super::frame::{Cursor, Mark, Role, read_all};
use super::state::{data_path, needed_bytes};
use super::{Boot, DATA_DIR, DIR, LayerStore, Options, checkpoint, journal};
use crate::store::check::{Fault, Severity};
use crate::store::disk::{Disk, OpenMode};
use crate::store::disk_shadow::ShadowDisk;
use crate::store::{Durability, ErrorKind, ImageId, LayerId, Result};

use Severity::{Damage, Garbage, Note};

/// A layer as the next start would have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerFacts {
    /// Its image, size and class; `None` before its first change.
    pub birth: Option<(ImageId, u64, Durability)>,
    /// It would not be served.
    pub damaged: bool,
    /// Its content went with the host.
    pub lost: bool,
    /// 4 KiB blocks of its own.
    pub present_blocks: u64,
}

/// What the check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayersChecked {
    /// Findings.
    pub faults: Vec<Fault>,
    /// The layers; none when they cannot be opened at all.
    pub layers: BTreeMap<LayerId, LayerFacts>,
    /// The next start would open them.
    pub opens: bool,
    /// Records read.
    pub records: u64,
}

/// Checks the layers below `disk`'s root. `boot` tells the present start of the host.
///
/// # Errors
/// When a directory cannot be listed. Everything else is a finding.
pub fn check(disk: &Arc<dyn Disk>, boot: Boot) -> Result<LayersChecked> {
    let mut found = LayersChecked::default();
    let listed = match disk.list(DIR) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found_nothing()),
        listed => listed?,
    };
    let mut data = match disk.list(DATA_DIR) {
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        listed => listed?,
    };
    check_names(&listed, &mut data, &mut found);
    check_logs(&**disk, &listed, &mut found);
    let options = Options {
        background: false,
        ..Options::default()
    };
    let shadow: Arc<dyn Disk> = Arc::new(ShadowDisk::new(Arc::clone(disk)));
    match LayerStore::open_with(shadow, boot, options) {
        Ok((store, report)) => {
            found.opens = true;
            found.records = report.records;
            tell(&report, &mut found);
            check_states(&**disk, &store, &data, &mut found);
        }
        Err(e) => {
            let next = match e.kind() {
                ErrorKind::NewerVersion => "run the newer Reveille that wrote them",
                _ => "restore the directory `store/layers` from a copy",
            };
            found.faults.push(Fault::new(
                Damage,
                DIR,
                format!("no layer can be served: {e}"),
                next,
            ));
        }
    }
    Ok(found)
}

fn found_nothing() -> LayersChecked {
    LayersChecked {
        opens: true,
        ..LayersChecked::default()
    }
}

fn tell(report: &super::Recovery, found: &mut LayersChecked) {
    for note in &report.notes {
        let next = "`reveille check --repair`, or the next start, goes on with what is whole and keeps \
                    the damaged files aside";
        found.faults.push(Fault::new(Damage, DIR, note, next));
    }
    for (layer, why) in &report.damaged {
        let object = format!("layer {layer}");
        let next =
            "reset it with `reveille layer reset`, or restore the state directory from a copy";
        found
            .faults
            .push(Fault::new(Damage, object, why, next).of_layer(*layer));
    }
    if report.torn_tail {
        let what = "the journal ends inside a record: power failed, or the process was killed, while it was \
                    written; nothing that was acknowledged is missing";
        found
            .faults
            .push(Fault::new(Note, DIR, what, "the next start cuts it off"));
    }
}

/// Files whose names mean nothing, or that are left over. Keeps the data files in `data`.
fn check_names(listed: &[String], data: &mut Vec<String>, found: &mut LayersChecked) {
    for name in listed.iter().filter(|name| *name != "data") {
        let path = format!("{DIR}/{name}");
        let numbered = name.split_once('.').and_then(|(kind, number)| {
            let known = ["journal", "checkpoint", "soft"].contains(&kind);
            known.then(|| number.parse::<u32>().ok()).flatten()
        });
        let fault = if numbered.is_some() {
            continue;
        } else if name.ends_with(".tmp") {
            let what = "a checkpoint that was not finished";
            Fault::new(Garbage, path, what, "the next start removes it")
        } else if name.ends_with(".damaged") {
            let what = "an earlier start could not read it and kept it aside";
            Fault::new(
                Note,
                path,
                what,
                "remove it when nobody wants to look at it",
            )
        } else {
            let what = "no file of the layers has this name";
            Fault::new(Note, path, what, "move it away if it is not yours")
        };
        found.faults.push(fault);
    }
    let known = |name: &String| data_name(name).is_some();
    for name in data.iter().filter(|name| !known(name)) {
        let what = "no data file of a layer has this name";
        let path = format!("{DATA_DIR}/{name}");
        let next = "move it away if it is not yours";
        found.faults.push(Fault::new(Note, path, what, next));
    }
    data.retain(known);
}

fn data_name(name: &str) -> Option<(LayerId, u64)> {
    let (layer, generation) = name.split_once('.')?;
    let (layer, generation) = (LayerId(layer.parse().ok()?), generation.parse().ok()?);
    let known = format!("{}.{generation}", layer.0) == name;
    (known && generation <= super::entry::GENERATION_MAX).then_some((layer, generation))
}

/// What one log says when it is read alone.
#[derive(Default)]
struct Log {
    mark: Mark,
    /// Where its header says that the one before ends.
    previous: Option<Mark>,
    ended: bool,
    frames: u32,
    clean: bool,
    nonsense: bool,
}

fn read_log(disk: &dyn Disk, path: &str, role: Role, epoch: u32) -> Result<Log> {
    let file = disk.open(path, OpenMode::Read)?;
    let bytes = read_all(&*file, path)?;
    let mut cursor = Cursor::new(&bytes, role, epoch, Some(0));
    let mut log = Log::default();
    for frame in cursor.by_ref() {
        log.frames += 1;
        for entry in frame.entries() {
            match entry {
                Ok(Entry::Header(header)) => {
                    log.previous = Some(Mark {
                        end: header.previous_end,
                        seq: 0,
                        crc: header.previous_crc,
                    });
                }
                Ok(Entry::End { .. }) => log.ended = true,
                Ok(_) => {}
                Err(()) => log.nonsense = true,
            }
        }
    }
    log.mark = cursor.mark;
    log.clean = cursor.is_clean();
    Ok(log)
}

/// Every checkpoint and journal on its own: those that a start passes by are what it falls back on.
fn check_logs(disk: &dyn Disk, listed: &[String], found: &mut LayersChecked) {
    let numbers = |kind: &str| -> BTreeSet<u32> {
        let of = |name: &String| name.strip_prefix(kind)?.parse().ok();
        listed.iter().filter_map(of).collect()
    };
    let checkpoints = numbers("checkpoint.");
    let newest = checkpoints.last().copied().unwrap_or(1);
    for &epoch in &checkpoints {
        let path = checkpoint::path(epoch);
        let what = match read_log(disk, &path, Role::Checkpoint, epoch) {
            Ok(log) if log.ended && log.clean && !log.nonsense => continue,
            Ok(_) => "it does not read back to its end".to_owned(),
            Err(e) => format!("it cannot be read: {e}"),
        };
        let next = "`reveille check --repair` writes a new one";
        found.faults.push(Fault::new(Damage, path, what, next));
    }
    let journals = numbers("journal.");
    // The ones behind the newest checkpoint are judged by the recovery.
    for &epoch in journals.iter().filter(|epoch| **epoch < newest) {
        let path = journal::path(epoch);
        let after = epoch
            .checked_add(1)
            .filter(|after| journals.contains(after))
            .and_then(|after| read_log(disk, &journal::path(after), Role::Journal, after).ok());
        let named = after.and_then(|log| log.previous);
        let what = match (read_log(disk, &path, Role::Journal, epoch), named) {
            (Ok(log), Some(named)) if !log.nonsense => {
                if (log.mark.end, log.mark.crc) == (named.end, named.crc) {
                    continue;
                }
                format!("it reads back to byte {} of {}", log.mark.end, named.end)
            }
            (Ok(_), _) => "it does not read back, or the one behind it does not".to_owned(),
            (Err(e), _) => format!("it cannot be read: {e}"),
        };
        let what = format!("{what}; the newest checkpoint does not need it, the one before does");
        let next = "`reveille check --repair` writes new checkpoints, which do not need it";
        found.faults.push(Fault::new(Damage, path, what, next));
    }
}

/// The layers as recovered, against their data files.
fn check_states(disk: &dyn Disk, store: &LayerStore, data: &[String], found: &mut LayersChecked) {
    let mut named = BTreeSet::new();
    for layer in store.core.all() {
        let state = layer.state();
        if state.generation == 0 || state.removed {
            continue;
        }
        named.insert((layer.id, state.generation));
        let birth = state.birth.map(|b| (b.image, b.size, b.durability));
        let facts = LayerFacts {
            birth,
            damaged: state.damaged.is_some(),
            lost: state.lost,
            present_blocks: state.map.present.len(),
        };
        found.layers.insert(layer.id, facts);
        if state.map.present.is_empty() || state.damaged.is_some() {
            continue;
        }
        let needed = needed_bytes(&state);
        let path = data_path(layer.id, state.generation);
        let len = disk.open(&path, OpenMode::Read).and_then(|f| f.len());
        let what = match len {
            Ok(len) if len >= needed => continue,
            Ok(len) => format!("it has {len} bytes where blocks up to {needed} were written"),
            Err(e) => format!("it cannot be opened: {e}"),
        };
        let next = "reset the layer with `reveille layer reset`, or restore the file from a copy";
        found
            .faults
            .push(Fault::new(Damage, path, what, next).of_layer(layer.id));
    }
    for name in data {
        if data_name(name).is_some_and(|file| !named.contains(&file)) {
            let path = format!("{DATA_DIR}/{name}");
            let what = "it belongs to a generation of a layer that is over";
            let next = "the upkeep of a running head removes it";
            found.faults.push(Fault::new(Garbage, path, what, next));
        }
    }
}
