//! Reveille wakes a whole diskless cluster from one golden image.
//!
//! The map of the house. (Completed with each room.)

pub mod api;
pub mod boot;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod events;
pub mod head;
pub mod iscsi;
pub mod limits;
pub mod names;
pub mod power;
pub mod scsi;
pub mod store;
pub mod telemetry;
pub mod units;
pub mod wave;
