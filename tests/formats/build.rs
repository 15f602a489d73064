//! VHD and VHDX files made by hand: what qemu-img cannot make, and what nobody should.

use super::noise;

pub(crate) const SECTOR: usize = 512;
pub(crate) const MIB: usize = 1 << 20;

pub(crate) fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn sum(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)))
}

pub(crate) fn mend_vhd_footer(footer: &mut [u8]) {
    put(footer, 64, &[0; 4]);
    let sum = sum(&footer[..512]);
    put(footer, 64, &sum.to_be_bytes());
}

pub(crate) fn mend_vhd_header(header: &mut [u8]) {
    put(header, 36, &[0; 4]);
    let sum = sum(&header[..1024]);
    put(header, 36, &sum.to_be_bytes());
}

/// Kinds of names, and the names.
type Names = Vec<(&'static str, String)>;

/// What a block of a built disk is.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    /// Not in this file.
    Absent,
    /// All of it, noise.
    Full,
    /// Sectors of noise where the pattern says so; the rest is the parent's.
    Some(u64),
    /// Zeros, whatever the parent has (VHDX only).
    Zero,
}

/// A disk to build.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: String,
    pub(crate) size: usize,
    pub(crate) block: usize,
    /// Bytes of a logical sector (VHDX).
    pub(crate) sector: usize,
    pub(crate) blocks: Vec<Block>,
    pub(crate) id: [u8; 16],
    /// Of a differencing disk: the parent's identity, and names for it.
    pub(crate) parent: Option<([u8; 16], Names)>,
    /// Seconds since 2000 (VHD).
    pub(crate) parent_changed: u32,
}

impl Plan {
    pub(crate) fn new(seed: &str, size: usize, block: usize, blocks: Vec<Block>) -> Self {
        let mut id = [0; 16];
        noise(&format!("id {seed}"), &mut id);
        Self {
            seed: seed.into(),
            size,
            block,
            sector: SECTOR,
            blocks,
            id,
            parent: None,
            parent_changed: 0,
        }
    }

    pub(crate) fn over(mut self, parent: &Self, names: &[(&'static str, &str)]) -> Self {
        let names = names.iter().map(|(kind, name)| (*kind, (*name).to_owned()));
        self.parent = Some((parent.id, names.collect()));
        self
    }

    /// Is this sector of a block in this file?
    fn here(&self, number: usize, sector: usize) -> bool {
        match &self.blocks[number] {
            Block::Full => true,
            Block::Some(pattern) => pattern.rotate_left(sector as u32) & 1 == 1,
            Block::Absent | Block::Zero => false,
        }
    }

    fn bytes(&self, number: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.block];
        noise(&format!("{} {number}", self.seed), &mut bytes);
        bytes
    }

    /// What the disk holds over `parent`: the model.
    pub(crate) fn model(&self, parent: &[u8]) -> Vec<u8> {
        let mut disk = parent.to_vec();
        disk.resize(self.size, 0);
        for number in 0..self.blocks.len() {
            let bytes = self.bytes(number);
            for (sector, part) in bytes.chunks(self.sector).enumerate() {
                let at = number * self.block + sector * self.sector;
                let end = (at + part.len()).min(self.size);
                if at >= end {
                    break;
                }
                if self.here(number, sector) {
                    disk[at..end].copy_from_slice(&part[..end - at]);
                } else if matches!(self.blocks[number], Block::Zero) {
                    disk[at..end].fill(0);
                }
            }
        }
        disk
    }

    pub(crate) fn vhd(&self) -> Vec<u8> {
        let kind = if self.parent.is_some() { 4_u32 } else { 3 };
        let mut footer = vec![0; 512];
        put(&mut footer, 0, b"conectix\0\0\0\x02\0\x01\0\0");
        put(&mut footer, 16, &512_u64.to_be_bytes());
        put(&mut footer, 28, b"win ");
        put(&mut footer, 40, &(self.size as u64).to_be_bytes());
        put(&mut footer, 48, &(self.size as u64).to_be_bytes());
        put(&mut footer, 56, &[0, 1, 2, 3]);
        put(&mut footer, 60, &kind.to_be_bytes());
        put(&mut footer, 68, &self.id);
        mend_vhd_footer(&mut footer);
        let mut header = vec![0; 1024];
        put(&mut header, 0, b"cxsparse");
        put(&mut header, 8, &[0xff; 8]);
        put(&mut header, 16, &8192_u64.to_be_bytes());
        put(&mut header, 24, &0x1_0000_u32.to_be_bytes());
        put(&mut header, 28, &(self.blocks.len() as u32).to_be_bytes());
        put(&mut header, 32, &(self.block as u32).to_be_bytes());
        let mut file = vec![0; 8192];
        if let Some((id, names)) = &self.parent {
            put(&mut header, 40, id);
            put(&mut header, 56, &self.parent_changed.to_be_bytes());
            for (nth, (kind, name)) in names.iter().enumerate() {
                let text: Vec<u8> = match *kind {
                    "MacX" => name.bytes().collect(),
                    _ => name.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                };
                let (at, place) = (576 + 24 * nth, 2048 + 512 * nth);
                put(&mut header, at, kind.as_bytes());
                put(&mut header, at + 4, &512_u32.to_be_bytes());
                put(&mut header, at + 8, &(text.len() as u32).to_be_bytes());
                put(&mut header, at + 16, &(place as u64).to_be_bytes());
                put(&mut file, place, &text);
            }
        }
        mend_vhd_header(&mut header);
        put(&mut file, 0, &footer);
        put(&mut file, 512, &header);
        let mut table: Vec<u8> = Vec::new();
        let mut data = Vec::new();
        let start = 8192 + (self.blocks.len() * 4).next_multiple_of(512);
        let bitmap_len = (self.block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        for (number, block) in self.blocks.iter().enumerate() {
            if matches!(block, Block::Absent | Block::Zero) {
                table.extend([0xff; 4]);
                continue;
            }
            table.extend((((start + data.len()) / SECTOR) as u32).to_be_bytes());
            let mut bitmap = vec![0_u8; bitmap_len];
            for sector in 0..self.block / SECTOR {
                if self.here(number, sector) {
                    bitmap[sector / 8] |= 0x80 >> (sector % 8);
                }
            }
            data.extend(bitmap);
            data.extend(self.bytes(number));
        }
        table.resize(start - 8192, 0xff);
        [file, table, data, footer].concat()
    }

    /// Entries of the block table of a VHDX, with its bitmap blocks behind the data.
    pub(crate) fn vhdx(&self) -> Vec<u8> {
        let ratio = (1 << 23) * self.sector / self.block;
        let chunks = self.blocks.len().div_ceil(ratio);
        let mut table = vec![0_u64; chunks * (ratio + 1)];
        let table_len = (table.len() * 8).next_multiple_of(MIB);
        let start = 3 * MIB + table_len;
        let mut data: Vec<u8> = Vec::new();
        for chunk in 0..chunks {
            let mut bits = vec![0_u8; MIB];
            let mut partial = false;
            for nth in 0..ratio.min(self.blocks.len() - chunk * ratio) {
                let number = chunk * ratio + nth;
                let place = (start + data.len()) as u64;
                let entry = &mut table[chunk * (ratio + 1) + nth];
                match self.blocks[number] {
                    Block::Absent => continue,
                    Block::Zero => {
                        *entry = 2;
                        continue;
                    }
                    Block::Full => *entry = place | 6,
                    Block::Some(_) => {
                        *entry = place | 7;
                        partial = true;
                    }
                }
                for sector in (0..self.block / self.sector).filter(|s| self.here(number, *s)) {
                    let bit = nth * (self.block / self.sector) + sector;
                    bits[bit / 8] |= 1 << (bit % 8);
                }
                data.extend(self.bytes(number));
            }
            if partial {
                table[chunk * (ratio + 1) + ratio] = (start + data.len()) as u64 | 6;
                data.extend(bits);
            }
        }
        let mut file = vec![0; start];
        put(&mut file, 0, b"vhdxfile");
        put(&mut file, 64 << 10, &vhdx_header(1, [0xbb; 16], [0; 16]));
        put(&mut file, 128 << 10, &vhdx_header(2, self.id, [0; 16]));
        let mut regions = vec![0; 64 << 10];
        put(&mut regions, 0, b"regi\0\0\0\0\x02");
        put(&mut regions, 16, &BAT);
        put(&mut regions, 32, &(3 * MIB as u64).to_le_bytes());
        put(&mut regions, 40, &(table_len as u32).to_le_bytes());
        put(&mut regions, 44, &[1]);
        put(&mut regions, 48, &META);
        put(&mut regions, 64, &(2 * MIB as u64).to_le_bytes());
        put(&mut regions, 72, &(MIB as u32).to_le_bytes());
        put(&mut regions, 76, &[1]);
        mend_vhdx(&mut regions);
        put(&mut file, 192 << 10, &regions);
        put(&mut file, 256 << 10, &regions);
        put(&mut file, 2 * MIB, &self.metadata());
        let table: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        put(&mut file, 3 * MIB, &table);
        file.extend(data);
        file
    }

    fn metadata(&self) -> Vec<u8> {
        let has_parent = if self.parent.is_some() { 2_u32 } else { 0 };
        let parameters = [(self.block as u32).to_le_bytes(), has_parent.to_le_bytes()].concat();
        let mut items = vec![
            (FILE_PARAMETERS, parameters),
            (DISK_SIZE, (self.size as u64).to_le_bytes().to_vec()),
            (LOGICAL_SECTOR, (self.sector as u32).to_le_bytes().to_vec()),
            (PHYSICAL_SECTOR, 4096_u32.to_le_bytes().to_vec()),
            (DISK_ID, self.id.to_vec()),
        ];
        if let Some((id, names)) = &self.parent {
            let mut pairs = vec![("parent_linkage".to_owned(), guid_text(id))];
            pairs.extend(
                names
                    .iter()
                    .map(|(key, name)| ((*key).to_owned(), name.clone())),
            );
            items.push((PARENT_LOCATOR, locator(&pairs)));
        }
        let mut out = vec![0; MIB];
        put(&mut out, 0, b"metadata");
        put(&mut out, 10, &(items.len() as u16).to_le_bytes());
        let mut place = 64 << 10;
        for (nth, (id, item)) in items.iter().enumerate() {
            let at = 32 + 32 * nth;
            put(&mut out, at, id);
            put(&mut out, at + 16, &(place as u32).to_le_bytes());
            put(&mut out, at + 20, &(item.len() as u32).to_le_bytes());
            put(&mut out, at + 24, &4_u32.to_le_bytes());
            put(&mut out, place, item);
            place += item.len();
        }
        out
    }
}

pub(crate) const BAT: [u8; 16] =
    *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
pub(crate) const META: [u8; 16] =
    *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
const FILE_PARAMETERS: [u8; 16] =
    *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
const DISK_SIZE: [u8; 16] = *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
const LOGICAL_SECTOR: [u8; 16] =
    *b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f";
const PHYSICAL_SECTOR: [u8; 16] =
    *b"\xc7\x48\xa3\xcd\x5d\x44\x71\x44\x9c\xc9\xe9\x88\x52\x51\xc5\x56";
const DISK_ID: [u8; 16] = *b"\xab\x12\xca\xbe\xe6\xb2\x23\x45\x93\xef\xc3\x09\xe0\x00\xc7\x46";
const PARENT_LOCATOR: [u8; 16] =
    *b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c";
const LOCATOR_VHDX: [u8; 16] = *b"\xb7\xef\x4a\xb0\x9e\xd1\x81\x4a\xb7\x89\x25\xb8\xe9\x44\x59\x13";

pub(crate) fn vhdx_header(sequence: u64, write_id: [u8; 16], log_id: [u8; 16]) -> Vec<u8> {
    let mut out = vec![0; 4096];
    put(&mut out, 0, b"head");
    put(&mut out, 8, &sequence.to_le_bytes());
    put(&mut out, 32, &write_id);
    put(&mut out, 48, &log_id);
    put(&mut out, 66, &1_u16.to_le_bytes());
    put(&mut out, 68, &(MIB as u32).to_le_bytes());
    put(&mut out, 72, &(MIB as u64).to_le_bytes());
    mend_vhdx(&mut out);
    out
}

pub(crate) fn mend_vhdx(out: &mut [u8]) {
    put(out, 4, &[0; 4]);
    let sum = crc32c::crc32c(out);
    put(out, 4, &sum.to_le_bytes());
}

fn guid_text(id: &[u8; 16]) -> String {
    let hex = |range: &[u8]| range.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let back = |range: &[u8]| hex(&range.iter().rev().copied().collect::<Vec<u8>>());
    format!(
        "{{{}-{}-{}-{}-{}}}",
        back(&id[..4]),
        back(&id[4..6]),
        back(&id[6..8]),
        hex(&id[8..10]),
        hex(&id[10..])
    )
}

fn locator(pairs: &[(String, String)]) -> Vec<u8> {
    let mut out = vec![0; 20 + 12 * pairs.len()];
    put(&mut out, 0, &LOCATOR_VHDX);
    put(&mut out, 18, &(pairs.len() as u16).to_le_bytes());
    for (nth, (key, value)) in pairs.iter().enumerate() {
        let wide = |text: &str| {
            text.encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<u8>>()
        };
        let (key, value) = (wide(key), wide(value));
        let at = 20 + 12 * nth;
        let key_at = out.len();
        put(&mut out, at, &(key_at as u32).to_le_bytes());
        put(
            &mut out,
            at + 4,
            &((key_at + key.len()) as u32).to_le_bytes(),
        );
        put(&mut out, at + 8, &(key.len() as u16).to_le_bytes());
        put(&mut out, at + 10, &(value.len() as u16).to_le_bytes());
        out.extend(key);
        out.extend(value);
    }
    out
}
