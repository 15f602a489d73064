//! Machines that asked to boot and are nobody's node: bounded in number, written down now and then.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use super::Head;
use super::boot::lock;
use super::error::{HeadError, Result};
use crate::catalog::{PendingRecord, Snapshot};
use crate::limits;
use crate::names::Mac;
use crate::units::UnixMillis;

/// The machines as they are known now; the catalog has them as they were at the last write.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    machines: HashMap<Mac, PendingRecord>,
    changed: BTreeSet<Mac>,
    gone: BTreeSet<Mac>,
    written: Option<UnixMillis>,
}

impl Table {
    fn note(&mut self, machine: PendingRecord) {
        let mac = machine.mac;
        if !self.machines.contains_key(&mac) && self.machines.len() >= limits::PENDING_MAX {
            let silent = self.machines.values().min_by_key(|m| (m.last, m.mac));
            if let Some(mac) = silent.map(|m| m.mac) {
                self.discard(mac);
            }
        }
        self.changed.insert(mac);
        self.gone.remove(&mac);
        let asked = machine.asked.max(1);
        let Some(known) = self.machines.get_mut(&mac) else {
            self.machines
                .insert(mac, PendingRecord { asked, ..machine });
            return;
        };
        known.asked = known.asked.saturating_add(asked);
        known.last = known.last.max(machine.last);
        known.arch = machine.arch;
        known.uuid = machine.uuid.or(known.uuid.take());
    }

    fn discard(&mut self, mac: Mac) -> Option<PendingRecord> {
        let machine = self.machines.remove(&mac)?;
        self.changed.remove(&mac);
        self.gone.insert(mac);
        Some(machine)
    }

    fn is_due(&self, now: UnixMillis) -> bool {
        let gap = u64::try_from(limits::PENDING_WRITE_GAP.as_millis()).unwrap_or(u64::MAX);
        self.written
            .is_none_or(|written| now.since(written) >= gap || now < written)
    }
}

impl Waiting {
    pub(super) fn from(now: &Snapshot) -> Self {
        let all = now.all_pending().map(|m| (m.mac, PendingRecord::clone(m)));
        Self(Mutex::new(Table {
            machines: all.collect(),
            ..Table::default()
        }))
    }
}

impl Head {
    /// Remembers a machine that is nobody's node, and that it asked again. A machine that meanwhile became a
    /// node's is not remembered. Written down at most every [`limits::PENDING_WRITE_GAP`].
    pub fn note_pending(&self, machine: PendingRecord) -> Result<()> {
        if self.snapshot().node_by_mac(machine.mac).is_some() {
            return Ok(());
        }
        let now = machine.last;
        let mut table = lock(&self.waiting.0);
        table.note(machine);
        if table.is_due(now) {
            self.write_pending(&mut table)?;
            table.written = Some(now);
        }
        Ok(())
    }

    /// All machines that wait, the last to ask first.
    #[must_use]
    pub fn pending(&self) -> Vec<PendingRecord> {
        let table = lock(&self.waiting.0);
        let mut all: Vec<PendingRecord> = table.machines.values().cloned().collect();
        all.sort_by_key(|m| (std::cmp::Reverse(m.last), m.mac));
        all
    }

    /// Forgets a machine until it asks again.
    ///
    /// # Errors
    /// It does not wait; the catalog's.
    pub fn pending_forget(&self, mac: Mac) -> Result<PendingRecord> {
        let mut table = lock(&self.waiting.0);
        let missing = || {
            HeadError::not_found(format!(
                "no machine with MAC {mac} waits; `reveille node ls --pending` shows those that do"
            ))
        };
        let machine = table.discard(mac).ok_or_else(missing)?;
        self.write_pending(&mut table)?;
        Ok(machine)
    }

    pub(super) fn pending_machine(&self, mac: Mac) -> Option<PendingRecord> {
        lock(&self.waiting.0).machines.get(&mac).cloned()
    }

    /// After nodes took machines over: they wait no more.
    pub(super) fn pending_taken(&self, macs: impl Iterator<Item = Mac>) {
        let mut table = lock(&self.waiting.0);
        for mac in macs {
            table.machines.remove(&mac);
            table.changed.remove(&mac);
        }
    }

    /// Writes down what is known; for an orderly end.
    ///
    /// # Errors
    /// The catalog's.
    pub fn save_pending(&self) -> Result<()> {
        self.write_pending(&mut lock(&self.waiting.0))
    }

    fn write_pending(&self, table: &mut Table) -> Result<()> {
        self.catalog.transact(|changes| {
            for mac in &table.gone {
                changes.remove_pending(*mac);
            }
            for mac in &table.changed {
                if changes.view().node_by_mac(*mac).is_some() {
                    continue;
                }
                if let Some(machine) = table.machines.get(mac) {
                    changes.put_pending(machine.clone())?;
                }
            }
            Ok::<_, HeadError>(())
        })?;
        table.gone.clear();
        table.changed.clear();
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn machine(n: u64, last: u64) -> PendingRecord {
        let base = Mac::parse("52:54:00:00:00:00").unwrap();
        PendingRecord {
            mac: base.plus(n).unwrap(),
            arch: "bios".into(),
            uuid: None,
            first: UnixMillis(last),
            last: UnixMillis(last),
            asked: 1,
        }
    }

    #[test]
    fn asking_again_counts() {
        let mut table = Table::default();
        table.note(machine(1, 10));
        let mut again = machine(1, 30);
        again.arch = "uefi-x64".into();
        again.uuid = Some("u".into());
        table.note(again);
        table.note(machine(1, 20));
        let known = table.machines.values().next().unwrap();
        let times = (known.first.0, known.last.0, known.asked);
        assert_eq!(times, (10, 30, 3));
        assert_eq!(known.uuid.as_deref(), Some("u"));
    }

    #[test]
    fn the_longest_silent_goes_when_the_table_is_full() {
        let mut table = Table::default();
        for n in 0..=limits::PENDING_MAX as u64 {
            table.note(machine(n, 100 + n));
        }
        assert_eq!(table.machines.len(), limits::PENDING_MAX);
        assert!(!table.machines.contains_key(&machine(0, 0).mac));
        assert!(table.gone.contains(&machine(0, 0).mac));
    }

    #[test]
    fn writes_keep_their_gap_and_a_clock_that_goes_back_does_not_stop_them() {
        let mut table = Table::default();
        assert!(table.is_due(UnixMillis(0)));
        table.written = Some(UnixMillis(100_000));
        assert!(!table.is_due(UnixMillis(105_000)));
        assert!(table.is_due(UnixMillis(110_000)));
        assert!(table.is_due(UnixMillis(50_000)));
    }
}
