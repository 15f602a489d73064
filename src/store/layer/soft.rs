//! The soft log: what every layer has changed, handed to the kernel before a write is acknowledged, never
//! synced. It counts only while the host that wrote it is up: then the page cache holds the data as well.

use std::sync::Arc;

use super::entry::{Entry, Header, VERSION};
use super::frame::{Log, Role};
use super::{Boot, DIR};
use crate::store::disk::Disk;
use crate::store::{Error, ErrorKind, Result};

/// Path of the soft log of a number.
pub(super) fn path(number: u32) -> String {
    format!("{DIR}/soft.{number}")
}

/// The mark of a boot of the host in every frame.
pub(super) fn stamp(boot: &Boot) -> u32 {
    crc32c::crc32c(boot) >> 8
}

/// The soft log in use.
#[derive(Debug)]
pub(super) struct Soft {
    disk: Arc<dyn Disk>,
    boot: Boot,
    log: Option<Log>,
    number: u32,
    // Size right after the last rewriting.
    base: u64,
    // Why nothing may be appended before a rewriting: a newer file that looks complete could not be removed, so
    // that this one would be passed over; or it lacks what memory knows.
    blocked: Option<String>,
}

impl Soft {
    /// Knows no file yet; numbers up to `number` are used.
    pub(super) fn new(disk: Arc<dyn Disk>, boot: Boot, number: u32) -> Self {
        Self {
            disk,
            boot,
            log: None,
            number,
            base: 0,
            blocked: None,
        }
    }

    /// Hands `entries` to the kernel. The caller publishes the change before it lets go of this log, so
    /// that a rewriting finds each change either in the old file's successor or in memory.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<()> {
        if let Some(why) = &self.blocked {
            let why = format!("the soft log takes nothing until it is rewritten: {why}");
            return Err(Error::new(ErrorKind::Io, why));
        }
        let Some(log) = &mut self.log else {
            let why =
                "there was no room for a new soft log; free space on the file system of the layers";
            return Err(Error::new(ErrorKind::NoSpace, why));
        };
        let mark = log.append(entries)?;
        log.advance(mark);
        Ok(())
    }

    /// Hands over entries that must not be missing. When that fails nothing else is taken until a rewriting, which
    /// says all that memory knows.
    pub(super) fn append_or_block(&mut self, entries: &[Entry]) -> Result<()> {
        self.append(entries).inspect_err(|e| {
            self.blocked = Some(format!("a failed sync could not be noted in it: {e}"));
        })
    }

    /// True when the file has grown by `limit` beyond twice its size after the last rewriting, or when
    /// nothing can be appended before one.
    pub(super) fn is_due(&self, limit: u64) -> bool {
        let bytes = self.log.as_ref().map_or(0, |log| log.mark.end);
        self.log.is_none()
            || self.blocked.is_some()
            || bytes > self.base.saturating_mul(2).saturating_add(limit)
    }

    /// Goes on in a new file that begins with `snapshot` (one list per layer); the old one is removed.
    pub(super) fn rewrite(&mut self, snapshot: &[Vec<Entry>], generation_next: u64) -> Result<()> {
        let number = self.number.checked_add(1).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the soft log has used up its numbers",
            )
        })?;
        self.number = number;
        let path = path(number);
        match self.fill(&path, number, snapshot, generation_next) {
            Ok(log) => {
                self.base = log.mark.end;
                let old = self.log.replace(log);
                self.blocked = None;
                if let Some(old) = old {
                    // The higher number wins, so a left-over only takes space until the next start.
                    let _ = self.disk.remove(&self::path(old.epoch));
                }
                Ok(())
            }
            Err(e) => {
                // It must not look complete to a recovery while we go on in the old file.
                if let Err(stuck) = self.disk.remove(&path)
                    && stuck.kind() != ErrorKind::NotFound
                {
                    self.blocked = Some(stuck.to_string());
                }
                Err(e.within("rewrite the soft log"))
            }
        }
    }

    fn fill(
        &self,
        path: &str,
        number: u32,
        snapshot: &[Vec<Entry>],
        generation_next: u64,
    ) -> Result<Log> {
        let mut log = Log::create(&*self.disk, path, Role::Soft, number, 0)?;
        log.stamp = stamp(&self.boot);
        let header = Header {
            version: VERSION,
            boot: self.boot,
            generation_next,
            ..Header::default()
        };
        let layers = u32::try_from(snapshot.len()).unwrap_or(u32::MAX);
        let first = [Entry::Header(header)];
        let last = [Entry::End { layers }];
        let all = std::iter::once(&first[..]).chain(snapshot.iter().map(Vec::as_slice));
        for entries in all.chain(std::iter::once(&last[..])) {
            let mark = log.append(entries)?;
            log.advance(mark);
        }
        Ok(log)
    }
}
