//! iSCSI target, RFC 7143. (Skeleton.)

pub mod chap;
pub mod frame;
pub mod initiator;
pub mod keys;
pub mod login;
pub mod params;
pub mod pdu;
pub mod serial;
pub mod text;
