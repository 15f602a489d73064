//! qcow2, version 3: the layout is in QEMU's `docs/interop/qcow2.txt`. All numbers are big-endian.
//!
//! Header, L1 table, then L2 tables and data as they come, then the refcounts. The header is written last.

use super::{ExportSink, SparseFile, by_block, set};
use crate::store::error::{Error, ErrorKind, Result};

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_LEN: usize = 1 << CLUSTER_BITS;
/// Entries of an L2 table, and clusters of the refcount table that one cluster of it names.
const PER_TABLE: u64 = CLUSTER / 8;
/// Clusters that one block of 16-bit refcounts counts.
const PER_BLOCK: u64 = CLUSTER / 2;
/// The cluster has one user and may be written to in place.
const COPIED: u64 = 1 << 63;

/// A qcow2 file under way.
#[derive(Debug)]
pub(super) struct Qcow2 {
    file: SparseFile,
    size: u64,
    l1: Vec<u64>,
    /// Number and entries of the L2 table that is being filled.
    l2: Option<(u64, Vec<u64>)>,
    /// First cluster that is not used.
    next: u64,
}

impl Qcow2 {
    pub(super) fn new(file: SparseFile) -> Self {
        Self {
            file,
            size: 0,
            l1: Vec::new(),
            l2: None,
            next: 0,
        }
    }

    fn claim(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn write_cluster(&mut self, number: u64, within: u64, bytes: &[u8]) -> Result<()> {
        let table = number / PER_TABLE;
        if self.l2.as_ref().is_none_or(|(held, _)| *held != table) {
            self.flush_table()?;
            let place = self.claim() * CLUSTER;
            let backwards =
                || Error::new(ErrorKind::OutOfBounds, "an export went back on its disk");
            let entry = usize::try_from(table)
                .ok()
                .and_then(|at| self.l1.get_mut(at));
            let entry = entry.filter(|entry| **entry == 0).ok_or_else(backwards)?;
            *entry = place | COPIED;
            let entries = usize::try_from(PER_TABLE).unwrap_or(0);
            self.l2 = Some((table, vec![0; entries]));
        }
        let new = self.next;
        let Some((_, entries)) = &mut self.l2 else {
            return Ok(());
        };
        let at = usize::try_from(number % PER_TABLE).unwrap_or(0);
        if entries[at] == 0 {
            entries[at] = (new * CLUSTER) | COPIED;
            self.next += 1;
        }
        self.file.put((entries[at] & !COPIED) + within, bytes)
    }

    fn flush_table(&mut self) -> Result<()> {
        let Some((number, entries)) = self.l2.take() else {
            return Ok(());
        };
        let entry = usize::try_from(number).ok().and_then(|at| self.l1.get(at));
        let place = entry.map_or(0, |entry| entry & !COPIED);
        self.file.put(place, &big_endian(&entries))
    }

    /// Refcounts of one for every cluster, their own included: where their table is and its clusters.
    fn write_refcounts(&mut self) -> Result<(u64, u64)> {
        let (mut blocks, mut tables) = (1, 1);
        loop {
            let total: u64 = self.next + blocks + tables;
            let needed = (total.div_ceil(PER_BLOCK), blocks.div_ceil(PER_TABLE));
            if needed == (blocks, tables) {
                break;
            }
            (blocks, tables) = needed;
        }
        let first = self.next;
        let total = first + blocks + tables;
        for block in 0..blocks {
            let counted = (total - block * PER_BLOCK).min(PER_BLOCK);
            let mut bytes = vec![0; CLUSTER_LEN];
            for count in bytes.as_chunks_mut::<2>().0.iter_mut().zip(0..counted) {
                *count.0 = 1_u16.to_be_bytes();
            }
            self.file.put((first + block) * CLUSTER, &bytes)?;
        }
        let table: Vec<u64> = (0..blocks).map(|block| (first + block) * CLUSTER).collect();
        let at = (first + blocks) * CLUSTER;
        self.file.put(at, &big_endian(&table))?;
        self.next = total;
        Ok((at, tables))
    }

    fn header(&self, refcounts: (u64, u64)) -> Vec<u8> {
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        // Behind the 104 bytes stands the empty list of extensions.
        let mut out = vec![0; 112];
        set(&mut out, 0, b"QFI\xfb\0\0\0\x03");
        set(&mut out, 20, &CLUSTER_BITS.to_be_bytes());
        set(&mut out, 24, &self.size.to_be_bytes());
        set(&mut out, 36, &narrow(self.l1.len() as u64));
        set(&mut out, 40, &CLUSTER.to_be_bytes());
        set(&mut out, 48, &refcounts.0.to_be_bytes());
        set(&mut out, 56, &narrow(refcounts.1));
        set(&mut out, 96, &4_u32.to_be_bytes());
        set(&mut out, 100, &104_u32.to_be_bytes());
        out
    }
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| entry.to_be_bytes())
        .collect()
}

impl ExportSink for Qcow2 {
    fn begin(&mut self, size: u64) -> Result<()> {
        self.size = size;
        let entries = size.div_ceil(CLUSTER * PER_TABLE);
        self.l1 = vec![0; usize::try_from(entries).unwrap_or(0)];
        self.next = 1 + (entries * 8).div_ceil(CLUSTER);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        by_block(offset, bytes, CLUSTER, &mut |number, within, part| {
            self.write_cluster(number, within, part)
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.flush_table()?;
        self.file.put(CLUSTER, &big_endian(&self.l1))?;
        let refcounts = self.write_refcounts()?;
        self.file.set_len(self.next * CLUSTER)?;
        self.file.put(0, &self.header(refcounts))?;
        self.file.publish()
    }
}
