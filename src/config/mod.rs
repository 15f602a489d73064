//! `reveille.toml`: the file's shape, then validated settings. Knows no other room's options. Level 2.
//!
//! ```text
//!   file (as typed) ──► Settings (valid) ──► each room's Options, made by the daemon
//! ```
//! Unknown keys are errors with their line and the nearest known key. A flag beats the environment, which
//! beats the file, which beats the default.

mod bounds;
mod file;
mod nearest;
mod settings;

pub(crate) use nearest::nearest;
pub use settings::{
    AuthMode, BootSettings, ChapAlgorithm, ConfigError, DhcpMode, DigestMode, IscsiSettings,
    LimitSettings, Settings, StoreSettings, WaveSettings,
};

/// Where the file is looked for when neither `--config` nor `REVEILLE_CONFIG` names one.
pub const DEFAULT_PATH: &str = "/etc/reveille/reveille.toml";

/// The commented file that `config example` prints: every key with its default.
pub const EXAMPLE: &str = include_str!("example.toml");
