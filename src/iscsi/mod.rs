//! iSCSI target, RFC 7143. (Skeleton.)

pub mod login;
pub mod params;
pub mod pdu;
