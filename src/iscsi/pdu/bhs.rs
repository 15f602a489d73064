//! The 48 bytes every PDU begins with (RFC 7143 11.1, 11.2). Big-endian.

/// Bytes in a basic header segment.
pub const BHS_BYTES: usize = 48;

/// No task, no transfer: the reserved tag (RFC 7143 11.2.1.8).
pub const RESERVED_TAG: u32 = 0xffff_ffff;

/// Initiator opcodes (RFC 7143 11.2.1.2), without the immediate bit.
pub mod op {
    #![allow(missing_docs, reason = "the names are the standard's")]
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const SCSI_RESPONSE: u8 = 0x21;
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC: u8 = 0x32;
    pub const REJECT: u8 = 0x3f;
}

/// A basic header segment, as bytes with named places. Fields whose meaning depends on the opcode are
/// reached through `u8_at`, `u16_at`, `u32_at` and `u64_at` with the offsets of RFC 7143 section 11.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bhs(pub [u8; BHS_BYTES]);

const _: () = assert!(size_of::<Bhs>() == 48);

impl Bhs {
    /// All zeros but for the opcode byte.
    #[must_use]
    pub const fn new(opcode: u8) -> Self {
        let mut bytes = [0; BHS_BYTES];
        bytes[0] = opcode;
        Self(bytes)
    }

    /// Opcode without the immediate bit.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// The I bit (0x40).
    #[must_use]
    pub const fn immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// Byte 1: F bit and opcode-specific flags.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.0[1]
    }

    /// TotalAHSLength in bytes (the field counts words of four).
    #[must_use]
    pub const fn ahs_len(&self) -> usize {
        self.0[4] as usize * 4
    }

    /// DataSegmentLength in bytes, without padding.
    #[must_use]
    pub const fn data_len(&self) -> u32 {
        u32::from_be_bytes([0, self.0[5], self.0[6], self.0[7]])
    }

    /// Sets DataSegmentLength. Panics above 2^24 - 1: callers split by MRDSL first.
    pub const fn set_data_len(&mut self, len: u32) {
        assert!(len < 1 << 24, "data segment of 16 MiB or more");
        let [_, a, b, c] = len.to_be_bytes();
        self.0[5] = a;
        self.0[6] = b;
        self.0[7] = c;
    }

    /// LUN field, bytes 8 to 15.
    #[must_use]
    pub fn lun(&self) -> u64 {
        self.u64_at(8)
    }

    /// Initiator task tag, bytes 16 to 19.
    #[must_use]
    pub fn itt(&self) -> u32 {
        self.u32_at(16)
    }

    /// One byte at `at` (must be below 48).
    #[must_use]
    pub const fn u8_at(&self, at: usize) -> u8 {
        self.0[at]
    }

    /// Two bytes at `at`.
    #[must_use]
    pub fn u16_at(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// Four bytes at `at`.
    #[must_use]
    pub fn u32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// Eight bytes at `at`.
    #[must_use]
    pub fn u64_at(&self, at: usize) -> u64 {
        (u64::from(self.u32_at(at)) << 32) | u64::from(self.u32_at(at + 4))
    }

    /// Puts one byte.
    pub const fn put_u8(&mut self, at: usize, value: u8) {
        self.0[at] = value;
    }

    /// Puts two bytes.
    pub fn put_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Puts four bytes.
    pub fn put_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Puts eight bytes.
    pub fn put_u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
}

impl std::fmt::Debug for Bhs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Bhs(op {:02x} flags {:02x} ahs {} data {} itt {:08x})",
            self.0[0],
            self.0[1],
            self.ahs_len(),
            self.data_len(),
            self.itt()
        )
    }
}

/// Places that most PDUs share (RFC 7143 11.2.1, and 24 to 35 in section 11's tables).
impl Bhs {
    /// Target transfer tag, bytes 20 to 23.
    #[must_use]
    pub fn ttt(&self) -> u32 {
        self.u32_at(20)
    }

    /// CmdSN of an initiator's PDU, bytes 24 to 27.
    #[must_use]
    pub fn cmd_sn(&self) -> u32 {
        self.u32_at(24)
    }

    /// ExpStatSN of an initiator's PDU, bytes 28 to 31.
    #[must_use]
    pub fn exp_stat_sn(&self) -> u32 {
        self.u32_at(28)
    }

    /// StatSN, ExpCmdSN and MaxCmdSN of a target's PDU, bytes 24 to 35.
    pub fn put_sequence(&mut self, stat_sn: u32, exp_cmd_sn: u32, max_cmd_sn: u32) {
        self.put_u32(24, stat_sn);
        self.put_u32(28, exp_cmd_sn);
        self.put_u32(32, max_cmd_sn);
    }
}
