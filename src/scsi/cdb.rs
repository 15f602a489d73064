//! A command descriptor block and its fields: where LBA, lengths and flags stand (SPC-4 4.3, SBC-3 5).

use crate::units::SECTOR_BYTES;

use super::Answer;
use super::opcode;
use super::sense::Sense;

/// A CDB, zero-padded to the 16 bytes that every command of ours fits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cdb([u8; 16]);

/// Which way data moves, and how many bytes the CDB asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// To the initiator: an allocation length (an upper bound), or blocks (exactly).
    In(u64),
    /// From the initiator.
    Out(u64),
}

impl Cdb {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut cdb = [0; 16];
        for (to, from) in cdb.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self(cdb)
    }

    pub(super) fn opcode(&self) -> u8 {
        self.0[0]
    }

    /// SERVICE ACTION, for the opcodes that have one.
    pub(super) fn action(&self) -> u8 {
        self.0[1] & 0x1F
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(super) fn has(&self, at: usize, mask: u8) -> bool {
        self.byte(at) & mask != 0
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let tail = self.0.get(at..).unwrap_or(&[]);
        tail.first_chunk().copied().unwrap_or([0; N])
    }

    /// LOGICAL BLOCK ADDRESS and the number of blocks, by the form that the opcode's group has.
    pub(super) fn span(&self) -> (u64, u64) {
        match self.opcode() {
            opcode::COMPARE_AND_WRITE_16 => (self.u64(2), u64::from(self.byte(13))),
            opcode::WRITE_ATOMIC_16 => (self.u64(2), u64::from(self.u16(12))),
            0x00..=0x1F => {
                // A 21-bit address; a length of 0 means 256 blocks (SBC-3 5.9).
                let lba = self.u32(0) & 0x1F_FFFF;
                let blocks = match self.byte(4) {
                    0 => 256,
                    blocks => u64::from(blocks),
                };
                (u64::from(lba), blocks)
            }
            0x20..=0x5F => (u64::from(self.u32(2)), u64::from(self.u16(7))),
            0xA0..=0xBF => (u64::from(self.u32(2)), u64::from(self.u32(6))),
            _ => (self.u64(2), u64::from(self.u32(10))),
        }
    }

    /// Byte of the CDB where the number of blocks begins, for field pointers.
    pub(super) fn length_at(&self) -> u16 {
        match self.opcode() {
            opcode::COMPARE_AND_WRITE_16 => 13,
            opcode::WRITE_ATOMIC_16 => 12,
            0x00..=0x1F => 4,
            0x20..=0x5F => 7,
            0xA0..=0xBF => 6,
            _ => 10,
        }
    }

    /// Refuses RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT: the disk has no protection information.
    pub(super) fn refuse_protect(&self) -> Result<(), Sense> {
        // The 6-byte forms have address bits here.
        if self.opcode() >= 0x20 && self.has(1, 0xE0) {
            return Err(Sense::cdb_field(1, Some(7)));
        }
        Ok(())
    }

    /// BYTCHK of the VERIFY and WRITE AND VERIFY commands.
    pub(super) fn byte_check(&self) -> u8 {
        (self.byte(1) >> 1) & 3
    }

    /// See [`super::direction`].
    pub(super) fn direction(&self) -> Direction {
        let (_, blocks) = self.span();
        let bytes = blocks.saturating_mul(SECTOR_BYTES);
        match self.opcode() {
            0x03 | 0x12 | 0x1A | 0x25 | 0x37 | 0x4D | 0x5A | 0x5E | 0x84 | 0x9E | 0xA0 | 0xA3
            | 0xB7 => Direction::In(self.allocation()),
            0x08 | 0x28 | 0x88 | 0xA8 => Direction::In(bytes),
            0x0A | 0x2A | 0x2E | 0x8A | 0x8B | 0x8E | 0x9C | 0xAA | 0xAE => Direction::Out(bytes),
            0x2F | 0x8F | 0xAF => match self.byte_check() {
                1 => Direction::Out(bytes),
                3 => Direction::Out(SECTOR_BYTES),
                _ => Direction::None,
            },
            0x89 => Direction::Out(bytes.saturating_mul(2)),
            0x93 if self.has(1, 0x01) => Direction::None,
            0x41 | 0x93 => Direction::Out(SECTOR_BYTES),
            0x15 => Direction::Out(u64::from(self.byte(4))),
            0x1D => Direction::Out(u64::from(self.u16(3))),
            0x42 | 0x55 => Direction::Out(u64::from(self.u16(7))),
            0x48 if self.action() == 0x01 => Direction::Out(u64::from(self.u16(7))),
            0x5F => Direction::Out(u64::from(self.u32(5))),
            0x83 => Direction::Out(u64::from(self.u32(10))),
            _ => Direction::None,
        }
    }

    /// ALLOCATION LENGTH of the commands that answer with a small block of data.
    pub(super) fn allocation(&self) -> u64 {
        match self.opcode() {
            0x03 | 0x1A => u64::from(self.byte(4)),
            0x12 => u64::from(self.u16(3)),
            0x25 => 8,
            0x37 | 0x4D | 0x5A | 0x5E => u64::from(self.u16(7)),
            0x84 | 0x9E => u64::from(self.u32(10)),
            0xA0 | 0xA3 | 0xB7 => u64::from(self.u32(6)),
            _ => 0,
        }
    }

    /// GOOD with `data`, cut at the allocation length.
    pub(super) fn answer(&self, mut data: Vec<u8>) -> Answer {
        let allocation = usize::try_from(self.allocation()).unwrap_or(usize::MAX);
        data.truncate(allocation);
        Ok(super::Step::Reply(super::Reply::with(data)))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn each_group_has_its_own_place_for_address_and_length() {
        let span = |bytes: &[u8]| Cdb::new(bytes).span();
        assert_eq!(span(&[0x08, 0xFF, 0xFF, 0xFE, 0, 0]), (0x1F_FFFE, 256));
        assert_eq!(span(&[0x0A, 0, 0, 7, 9, 0]), (7, 9));
        assert_eq!(
            span(&[0x28, 0, 1, 2, 3, 4, 0, 0xFF, 0xFF, 0]),
            (0x0102_0304, 65_535)
        );
        assert_eq!(span(&[0xA8, 0, 0, 0, 0, 5, 0, 1, 0, 0, 0, 0]), (5, 65_536));
        let mut read16 = [0u8; 16];
        read16[0] = 0x88;
        read16[2] = 0x80;
        read16[13] = 3;
        assert_eq!(span(&read16), (1 << 63, 3));
        let mut swap = read16;
        swap[0] = 0x89;
        swap[10] = 0xFF;
        assert_eq!(span(&swap), (1 << 63, 3));
    }

    #[test]
    fn a_short_cdb_reads_as_zeros() {
        assert_eq!(Cdb::new(&[0x88, 0, 1]).span(), (1 << 56, 0));
        assert_eq!(Cdb::new(&[]).opcode(), 0);
    }

    #[test]
    fn direction_follows_byte_check() {
        let verify = |byte1| Cdb::new(&[0x2F, byte1, 0, 0, 0, 0, 0, 0, 4, 0]).direction();
        assert_eq!(verify(0), Direction::None);
        assert_eq!(verify(2), Direction::Out(2048));
        assert_eq!(verify(6), Direction::Out(512));
    }
}
