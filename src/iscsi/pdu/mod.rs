//! PDUs: raw header in `bhs`; each family's fields where it is handled.

pub mod bhs;

pub use bhs::{BHS_BYTES, Bhs, RESERVED_TAG, op};
