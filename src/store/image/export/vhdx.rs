//! VHDX, dynamic: \[MS-VHDX\]. All numbers are little-endian.
//!
//! Headers and region tables in the first MiB, then an empty log, the metadata, the block table, and blocks
//! of 2 MiB as they come. What makes it a VHDX is written last.

use super::super::import::vhdx::{BAT_REGION, META_REGION, checksum};
use super::super::import::vhdx_meta::{
    DISK_ID, DISK_SIZE, FILE_PARAMETERS, LOGICAL_SECTOR, PHYSICAL_SECTOR,
};
use super::{ExportSink, SparseFile, by_block, set};
use crate::store::ImageId;
use crate::store::error::{Error, ErrorKind, Result};

const MIB: u64 = 1 << 20;
const BLOCK: u32 = 2 << 20;
const SECTOR: u32 = 512;
/// Payload blocks between two entries for bitmap blocks.
const RATIO: u64 = (1 << 23) * SECTOR as u64 / BLOCK as u64;
const LOG_AT: u64 = MIB;
const META_AT: u64 = 2 * MIB;
const BAT_AT: u64 = 3 * MIB;
const FULLY_PRESENT: u64 = 6;
const REQUIRED: u32 = 4;
const OF_DISK: u32 = 2;

/// A VHDX file under way.
#[derive(Debug)]
pub(super) struct Vhdx {
    file: SparseFile,
    id: ImageId,
    size: u64,
    /// Entries of the block table, bitmap blocks included.
    table: Vec<u64>,
    /// First byte that is not used.
    end: u64,
}

impl Vhdx {
    pub(super) const fn new(file: SparseFile, id: ImageId) -> Self {
        Self {
            file,
            id,
            size: 0,
            table: Vec::new(),
            end: 0,
        }
    }

    fn write_block(&mut self, number: u64, within: u64, bytes: &[u8]) -> Result<()> {
        let index = usize::try_from(number + number / RATIO);
        let entry = index.ok().and_then(|at| self.table.get_mut(at));
        let outside = || Error::new(ErrorKind::OutOfBounds, "an export left its disk");
        let entry = entry.ok_or_else(outside)?;
        if *entry == 0 {
            *entry = self.end | FULLY_PRESENT;
            self.end += u64::from(BLOCK);
        }
        self.file.put((*entry & !(MIB - 1)) + within, bytes)
    }

    /// A GUID of this file: from the image's identity, in the form of a random one.
    fn guid(&self, part: usize) -> [u8; 16] {
        let mut out = [0; 16];
        set(
            &mut out,
            0,
            self.id.0.get(part..part + 16).unwrap_or_default(),
        );
        out[7] = out[7] & 0x0f | 0x40;
        out[8] = out[8] & 0x3f | 0x80;
        out
    }

    fn header(&self, sequence: u64) -> Vec<u8> {
        let mut out = vec![0; 4096];
        set(&mut out, 0, b"head");
        set(&mut out, 8, &sequence.to_le_bytes());
        set(&mut out, 16, &self.guid(16));
        set(&mut out, 32, &self.guid(0));
        set(&mut out, 66, &1_u16.to_le_bytes());
        set(&mut out, 68, &u32::try_from(MIB).unwrap_or(0).to_le_bytes());
        set(&mut out, 72, &LOG_AT.to_le_bytes());
        sealed(out)
    }

    fn regions(&self) -> Vec<u8> {
        let mut out = vec![0; 64 << 10];
        set(&mut out, 0, b"regi");
        set(&mut out, 8, &2_u32.to_le_bytes());
        let table = (self.table.len() as u64 * 8).next_multiple_of(MIB);
        for (at, id, place, bytes) in [
            (16, BAT_REGION, BAT_AT, table),
            (48, META_REGION, META_AT, MIB),
        ] {
            set(&mut out, at, &id);
            set(&mut out, at + 16, &place.to_le_bytes());
            set(
                &mut out,
                at + 24,
                &u32::try_from(bytes).unwrap_or(0).to_le_bytes(),
            );
            set(&mut out, at + 28, &1_u32.to_le_bytes());
        }
        sealed(out)
    }

    fn metadata(&self) -> Vec<u8> {
        let mut out = vec![0; (64 << 10) + 64];
        set(&mut out, 0, b"metadata");
        let parameters = u64::from(BLOCK).to_le_bytes();
        let (size, id) = (self.size.to_le_bytes(), self.guid(8));
        let (logical, physical) = (SECTOR.to_le_bytes(), 4096_u32.to_le_bytes());
        let items: [([u8; 16], &[u8], u32); 5] = [
            (FILE_PARAMETERS, &parameters, REQUIRED),
            (DISK_SIZE, &size, REQUIRED | OF_DISK),
            (DISK_ID, &id, REQUIRED | OF_DISK),
            (LOGICAL_SECTOR, &logical, REQUIRED | OF_DISK),
            (PHYSICAL_SECTOR, &physical, REQUIRED | OF_DISK),
        ];
        set(&mut out, 10, &5_u16.to_le_bytes());
        let mut place: u32 = 64 << 10;
        for ((id, item, flags), at) in items.into_iter().zip((32..).step_by(32)) {
            let bytes = u32::try_from(item.len()).unwrap_or(0);
            set(&mut out, at, &id);
            set(&mut out, at + 16, &place.to_le_bytes());
            set(&mut out, at + 20, &bytes.to_le_bytes());
            set(&mut out, at + 24, &flags.to_le_bytes());
            set(&mut out, usize::try_from(place).unwrap_or(0), item);
            place += bytes;
        }
        out
    }
}

/// With its checksum.
fn sealed(mut out: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&out);
    set(&mut out, 4, &sum.to_le_bytes());
    out
}

impl ExportSink for Vhdx {
    fn begin(&mut self, size: u64) -> Result<()> {
        self.size = size;
        let blocks = size.div_ceil(BLOCK.into());
        let entries = blocks + blocks.saturating_sub(1) / RATIO;
        self.table = vec![0; usize::try_from(entries).unwrap_or(0)];
        self.end = BAT_AT + (entries * 8).next_multiple_of(MIB);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        by_block(offset, bytes, BLOCK.into(), &mut |number, within, part| {
            self.write_block(number, within, part)
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.file.set_len(self.end)?;
        let table: Vec<u8> = self
            .table
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        self.file.put(BAT_AT, &table)?;
        self.file.put(META_AT, &self.metadata())?;
        for (at, sequence) in [(64 << 10, 1), (128 << 10, 2)] {
            self.file.put(at, &self.header(sequence))?;
        }
        for at in [192 << 10, 256 << 10] {
            self.file.put(at, &self.regions())?;
        }
        let creator = "Reveille".encode_utf16().flat_map(u16::to_le_bytes);
        let creator: Vec<u8> = b"vhdxfile".iter().copied().chain(creator).collect();
        self.file.put(0, &creator)?;
        self.file.publish()
    }
}
