//! What a login agreed on. (Skeleton: the owner adds the negotiation table that makes it.)

/// Session type (RFC 7143 13.21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionType {
    /// Only SendTargets, NOP and Logout.
    Discovery,
    /// SCSI.
    Normal,
}

/// The result of negotiation, with RFC 7143 section 13's defaults where a key was not offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// CRC32C over headers.
    pub header_digest: bool,
    /// CRC32C over data segments.
    pub data_digest: bool,
    /// Largest data segment the initiator takes.
    pub initiator_mrdsl: u32,
    /// Largest data segment we take.
    pub target_mrdsl: u32,
    /// Unsolicited Data-Out needs an R2T first.
    pub initial_r2t: bool,
    /// Data in the command PDU is allowed.
    pub immediate_data: bool,
    /// Bytes of one solicited sequence.
    pub max_burst: u32,
    /// Bytes of unsolicited data of one command.
    pub first_burst: u32,
    /// R2Ts outstanding per task.
    pub max_outstanding_r2t: u16,
    /// DefaultTime2Wait in seconds.
    pub time2wait: u16,
    /// DefaultTime2Retain in seconds.
    pub time2retain: u16,
}

impl Default for Negotiated {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initiator_mrdsl: 8192,
            target_mrdsl: 8192,
            initial_r2t: true,
            immediate_data: true,
            max_burst: 262_144,
            first_burst: 65_536,
            max_outstanding_r2t: 1,
            time2wait: 2,
            time2retain: 20,
        }
    }
}
