//! Sense data: key, additional code, and how the two formats write them (SPC-4 4.5).

/// Sense keys (SPC-4 table 48).
mod key {
    pub(super) const NO_SENSE: u8 = 0x0;
    pub(super) const NOT_READY: u8 = 0x2;
    pub(super) const MEDIUM_ERROR: u8 = 0x3;
    pub(super) const HARDWARE_ERROR: u8 = 0x4;
    pub(super) const ILLEGAL_REQUEST: u8 = 0x5;
    pub(super) const UNIT_ATTENTION: u8 = 0x6;
    pub(super) const DATA_PROTECT: u8 = 0x7;
    pub(super) const COPY_ABORTED: u8 = 0xA;
    pub(super) const ABORTED_COMMAND: u8 = 0xB;
    pub(super) const MISCOMPARE: u8 = 0xE;
}

/// Where the offending field is (SPC-4 4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    in_cdb: bool,
    byte: u16,
    bit: Option<u8>,
}

/// Why a command did not end well, before it is put into bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    key: u8,
    asc: u8,
    ascq: u8,
    information: Option<u64>,
    field: Option<Field>,
    /// PROGRESS INDICATION, in the place of a field pointer.
    progress: Option<u16>,
}

impl Sense {
    /// Nothing to report: 00/00/00, the answer of REQUEST SENSE when all is well.
    pub const NONE: Self = Self::new(key::NO_SENSE, 0x00, 0x00);
    /// The disk is not ready yet and becomes so by itself: 02/04/01. Initiators retry.
    pub const BECOMING_READY: Self = Self::new(key::NOT_READY, 0x04, 0x01);
    /// SANITIZE is at work: 02/04/1B, with its progress.
    pub const SANITIZE_IN_PROGRESS: Self = Self::new(key::NOT_READY, 0x04, 0x1B);
    /// A removable disk was ejected: 02/3A/00.
    pub const NO_MEDIUM: Self = Self::new(key::NOT_READY, 0x3A, 0x00);
    /// SANITIZE did not get to its end: 03/31/03.
    pub const SANITIZE_FAILED: Self = Self::new(key::MEDIUM_ERROR, 0x31, 0x03);
    /// A write did not reach the medium: 03/0C/00.
    pub const WRITE_ERROR: Self = Self::new(key::MEDIUM_ERROR, 0x0C, 0x00);
    /// The medium does not give the data back: 03/11/00.
    pub const READ_ERROR: Self = Self::new(key::MEDIUM_ERROR, 0x11, 0x00);
    /// A parameter list is cut short or has a wrong length: 05/1A/00.
    pub const LIST_LENGTH: Self = Self::new(key::ILLEGAL_REQUEST, 0x1A, 0x00);
    /// No such command here: 05/20/00.
    pub const INVALID_OPCODE: Self = Self::new(key::ILLEGAL_REQUEST, 0x20, 0x00);
    /// A block address outside the disk: 05/21/00.
    pub const LBA_OUT_OF_RANGE: Self = Self::new(key::ILLEGAL_REQUEST, 0x21, 0x00);
    /// A CDB field holds what it must not: 05/24/00.
    pub const INVALID_FIELD_IN_CDB: Self = Self::new(key::ILLEGAL_REQUEST, 0x24, 0x00);
    /// No logical unit at this LUN: 05/25/00.
    pub const LUN_NOT_SUPPORTED: Self = Self::new(key::ILLEGAL_REQUEST, 0x25, 0x00);
    /// A parameter list field holds what it must not: 05/26/00.
    pub const INVALID_FIELD_IN_LIST: Self = Self::new(key::ILLEGAL_REQUEST, 0x26, 0x00);
    /// RELEASE with another scope or type than the reservation has: 05/26/04.
    pub const INVALID_RELEASE: Self = Self::new(key::ILLEGAL_REQUEST, 0x26, 0x04);
    /// EXTENDED COPY: more target descriptors than we take, 05/26/06.
    pub const TOO_MANY_TARGETS: Self = Self::new(key::ILLEGAL_REQUEST, 0x26, 0x06);
    /// EXTENDED COPY: a target descriptor of another type than E4h, 05/26/07.
    pub const UNSUPPORTED_TARGET: Self = Self::new(key::ILLEGAL_REQUEST, 0x26, 0x07);
    /// EXTENDED COPY: more segment descriptors than we take, 05/26/08.
    pub const TOO_MANY_SEGMENTS: Self = Self::new(key::ILLEGAL_REQUEST, 0x26, 0x08);
    /// EXTENDED COPY: a segment descriptor of another type than 02h, 05/26/09.
    pub const UNSUPPORTED_SEGMENT: Self = Self::new(key::ILLEGAL_REQUEST, 0x26, 0x09);
    /// EXTENDED COPY: inline data, of which we take none, 05/26/0B.
    pub const INLINE_DATA: Self = Self::new(key::ILLEGAL_REQUEST, 0x26, 0x0B);
    /// PREVENT ALLOW MEDIUM REMOVAL holds the medium: 05/53/02.
    pub const REMOVAL_PREVENTED: Self = Self::new(key::ILLEGAL_REQUEST, 0x53, 0x02);
    /// EXTENDED COPY: a segment goes beyond the disk, 0A/00/00.
    pub const COPY_ABORTED: Self = Self::new(key::COPY_ABORTED, 0x00, 0x00);
    /// EXTENDED COPY: reading or writing failed, 0A/0D/01.
    pub const COPY_DEVICE_FAILURE: Self = Self::new(key::COPY_ABORTED, 0x0D, 0x01);
    /// EXTENDED COPY: a descriptor names no disk of this session, 0A/0D/02.
    pub const COPY_TARGET_UNREACHABLE: Self = Self::new(key::COPY_ABORTED, 0x0D, 0x02);
    /// Saved mode pages are asked for and there are none: 05/39/00.
    pub const SAVING_NOT_SUPPORTED: Self = Self::new(key::ILLEGAL_REQUEST, 0x39, 0x00);
    /// The table of registrants is full: 05/55/04.
    pub const NO_REGISTRATION_RESOURCES: Self = Self::new(key::ILLEGAL_REQUEST, 0x55, 0x04);
    /// The data-out buffer does not have the size that the command needs: 05/0E/03
    /// (INVALID FIELD IN COMMAND INFORMATION UNIT).
    pub const WRONG_DATA_SIZE: Self = Self::new(key::ILLEGAL_REQUEST, 0x0E, 0x03);
    /// The whole disk is read-only: 07/27/00.
    pub const WRITE_PROTECTED: Self = Self::new(key::DATA_PROTECT, 0x27, 0x00);
    /// An initiator has set SWP: 07/27/02.
    pub const SOFTWARE_WRITE_PROTECTED: Self = Self::new(key::DATA_PROTECT, 0x27, 0x02);
    /// No space left for this disk's changes: 07/27/07.
    pub const SPACE_ALLOCATION_FAILED: Self = Self::new(key::DATA_PROTECT, 0x27, 0x07);
    /// Ended by a fence or a fail-over; initiators retry: 0B/00/00.
    pub const ABORTED: Self = Self::new(key::ABORTED_COMMAND, 0x00, 0x00);
    /// Something inside the target failed; initiators retry: 0B/44/00.
    pub const INTERNAL: Self = Self::new(key::ABORTED_COMMAND, 0x44, 0x00);
    /// Something inside the target failed, and trying again does not help by itself: 04/44/00.
    pub const TARGET_FAILURE: Self = Self::new(key::HARDWARE_ERROR, 0x44, 0x00);
    /// iSCSI: data came that nobody allowed, 0B/0C/0C (RFC 7143 11.4.7.2).
    pub const UNEXPECTED_UNSOLICITED_DATA: Self = Self::new(key::ABORTED_COMMAND, 0x0C, 0x0C);
    /// iSCSI: a data digest is wrong, 0B/47/05 (RFC 7143 11.4.7.2).
    pub const PROTOCOL_CRC_ERROR: Self = Self::new(key::ABORTED_COMMAND, 0x47, 0x05);
    /// DATA PHASE ERROR: Data-Out out of sequence.
    pub const DATA_PHASE_ERROR: Self = Self::new(key::ABORTED_COMMAND, 0x4B, 0x00);
    /// TOO MUCH WRITE DATA.
    pub const TOO_MUCH_WRITE_DATA: Self = Self::new(key::ABORTED_COMMAND, 0x4B, 0x02);
    /// DATA OFFSET ERROR.
    pub const DATA_OFFSET_ERROR: Self = Self::new(key::ABORTED_COMMAND, 0x4B, 0x05);
    /// The medium holds other data than was sent: 0E/1D/00.
    pub const MISCOMPARE: Self = Self::new(key::MISCOMPARE, 0x1D, 0x00);

    const fn new(key: u8, asc: u8, ascq: u8) -> Self {
        Self {
            key,
            asc,
            ascq,
            information: None,
            field: None,
            progress: None,
        }
    }

    /// A unit attention with this additional sense code.
    pub(super) const fn attention(asc: u8, ascq: u8) -> Self {
        Self::new(key::UNIT_ATTENTION, asc, ascq)
    }

    /// 05/24/00 that points at a byte of the CDB and, when one bit field is at fault, its highest bit.
    pub(super) const fn cdb_field(byte: u16, bit: Option<u8>) -> Self {
        Self::INVALID_FIELD_IN_CDB.at(true, byte, bit)
    }

    /// 05/26/00 that points at a byte of the parameter list.
    pub(super) const fn list_field(byte: u16, bit: Option<u8>) -> Self {
        Self::INVALID_FIELD_IN_LIST.at(false, byte, bit)
    }

    const fn at(mut self, in_cdb: bool, byte: u16, bit: Option<u8>) -> Self {
        self.field = Some(Field { in_cdb, byte, bit });
        self
    }

    /// The same with an INFORMATION field (a block address, or the offset of a difference).
    #[must_use]
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// The same with a PROGRESS INDICATION, of 65,536 (SPC-4 4.5.2.4.4).
    #[must_use]
    pub const fn with_progress(mut self, progress: u16) -> Self {
        self.progress = Some(progress);
        self
    }

    /// SENSE KEY SPECIFIC: a field pointer or a progress.
    fn specific(self) -> Option<[u8; 3]> {
        let progress = self.progress.map(|progress| {
            let [hi, lo] = progress.to_be_bytes();
            [0x80, hi, lo]
        });
        progress.or(self.field.map(Field::encode))
    }

    /// Sense key, additional sense code, qualifier.
    #[must_use]
    pub const fn code(self) -> (u8, u8, u8) {
        (self.key, self.asc, self.ascq)
    }

    /// The bytes in descriptor format (response code 72h) or fixed format (70h).
    #[must_use]
    pub fn encode(self, descriptor: bool) -> SenseBytes {
        if descriptor {
            self.encode_descriptor()
        } else {
            self.encode_fixed()
        }
    }

    /// SPC-4 4.5.3. An INFORMATION value beyond 32 bits does not fit: VALID stays 0.
    fn encode_fixed(self) -> SenseBytes {
        let mut out = SenseBytes::default();
        out.put(&[0x70, 0, self.key]);
        match self.information.map(u32::try_from) {
            Some(Ok(information)) => {
                out.bytes[0] |= 0x80;
                out.put(&information.to_be_bytes());
            }
            _ => out.put(&[0; 4]),
        }
        out.put(&[10, 0, 0, 0, 0, self.asc, self.ascq, 0]);
        out.put(&self.specific().unwrap_or([0; 3]));
        out
    }

    /// SPC-4 4.5.2.
    fn encode_descriptor(self) -> SenseBytes {
        let mut out = SenseBytes::default();
        out.put(&[0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0]);
        if let Some(information) = self.information {
            out.put(&[0x00, 0x0A, 0x80, 0x00]);
            out.put(&information.to_be_bytes());
        }
        if let Some([a, b, c]) = self.specific() {
            out.put(&[0x02, 0x06, 0, 0, a, b, c, 0]);
        }
        out.bytes[7] = out.len.saturating_sub(8);
        out
    }
}

impl Field {
    fn encode(self) -> [u8; 3] {
        let place = if self.in_cdb { 0x40 } else { 0 };
        let bit = self.bit.map_or(0, |bit| 0x08 | (bit & 7));
        let [hi, lo] = self.byte.to_be_bytes();
        [0x80 | place | bit, hi, lo]
    }
}

/// Sense data as it goes over the wire; held in place, so an error allocates nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenseBytes {
    bytes: [u8; SenseBytes::MAX],
    len: u8,
}

impl SenseBytes {
    /// Descriptor header 8, information 12, sense key specific 8.
    const MAX: usize = 28;

    fn put(&mut self, part: &[u8]) {
        for &byte in part {
            if let Some(slot) = self.bytes.get_mut(usize::from(self.len)) {
                *slot = byte;
                self.len += 1;
            }
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn fixed_format_carries_the_field_pointer() {
        let bytes = Sense::cdb_field(2, Some(5)).encode(false);
        assert_eq!(
            bytes.as_slice(),
            [
                0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xCD, 0, 2
            ]
        );
        let bytes = Sense::list_field(0x0102, None).encode(false);
        assert_eq!(bytes.as_slice()[12..], [0x26, 0, 0, 0x80, 1, 2]);
    }

    #[test]
    fn fixed_format_is_valid_only_when_information_fits() {
        let small = Sense::MISCOMPARE.with_information(0x1234).encode(false);
        assert_eq!(small.as_slice()[..7], [0xF0, 0, 0x0E, 0, 0, 0x12, 0x34]);
        let large = Sense::MISCOMPARE.with_information(1 << 32).encode(false);
        assert_eq!(large.as_slice()[..7], [0x70, 0, 0x0E, 0, 0, 0, 0]);
    }

    #[test]
    fn descriptor_format_counts_its_descriptors() {
        assert_eq!(
            Sense::INVALID_OPCODE.encode(true).as_slice(),
            [0x72, 5, 0x20, 0, 0, 0, 0, 0]
        );
        let both = Sense::cdb_field(9, None).with_information(1 << 32);
        let bytes = both.encode(true);
        assert_eq!(bytes.as_slice().len(), SenseBytes::MAX);
        assert_eq!(bytes.as_slice()[7], 20);
        assert_eq!(
            bytes.as_slice()[8..20],
            [0, 0x0A, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0]
        );
        assert_eq!(bytes.as_slice()[20..], [2, 6, 0, 0, 0xC0, 0, 9, 0]);
    }
}
