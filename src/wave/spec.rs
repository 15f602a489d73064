//! What the administrator asked for.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::events::Stage;
use crate::limits;
use crate::names::NodeName;

/// How many nodes may boot at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WaveSize {
    /// Always this many.
    Fixed(u32),
    /// Starts at [`limits::WAVE_AUTO_START`], grows by one with each success, halves with each failure.
    Auto,
}

impl WaveSize {
    /// Reads `25` or `auto`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse() {
            Ok(n) if n > 0 => Ok(Self::Fixed(n)),
            _ => Err(format!(
                "wave size `{text}`: must be a number of nodes above 0, or `auto`"
            )),
        }
    }
}

impl fmt::Display for WaveSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl TryFrom<String> for WaveSize {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<WaveSize> for String {
    fn from(size: WaveSize) -> Self {
        size.to_string()
    }
}

/// When a node counts as up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// Its operating system logged in to its disk.
    OsLogin,
    /// It called the head's ready address, or its reads came to rest.
    #[default]
    Ready,
}

impl Until {
    /// The stage that ends a boot well.
    #[must_use]
    pub const fn stage(self) -> Stage {
        match self {
            Self::OsLogin => Stage::OsLogin,
            Self::Ready => Stage::Ready,
        }
    }
}

/// One node of a campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecNode {
    /// Its name.
    pub name: NodeName,
    /// It has a power driver: we can start it. Without one we wait for it to come by itself.
    pub power: bool,
    /// It is up already, with its disk open.
    pub up: bool,
}

/// A campaign as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The nodes, in the order in which they boot.
    pub nodes: Vec<SpecNode>,
    /// How many at a time.
    pub wave: WaveSize,
    /// When a node counts as up.
    pub until: Until,
    /// Restart nodes that are up, instead of leaving them alone.
    pub restart: bool,
    /// Milliseconds that one attempt of one node may take; for nodes without power, also how long we wait
    /// for them to come.
    pub timeout_ms: u64,
    /// Further attempts of a node that failed (only with a power driver).
    pub retries: u32,
}

impl Spec {
    /// Checks what a machine relies on.
    ///
    /// # Errors
    /// No nodes, too many, a node named twice, a timeout of zero.
    pub fn check(&self) -> Result<(), String> {
        if self.nodes.is_empty() {
            return Err("a campaign needs at least one node".into());
        }
        if self.nodes.len() > limits::CAMPAIGN_NODES_MAX {
            return Err(format!(
                "{} nodes are too many for one campaign; at most {}",
                self.nodes.len(),
                limits::CAMPAIGN_NODES_MAX
            ));
        }
        let mut names: Vec<_> = self.nodes.iter().map(|n| &n.name).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(format!("node {} is named twice", pair[0]));
        }
        if self.timeout_ms == 0 {
            return Err("the timeout must be above 0".into());
        }
        Ok(())
    }

    /// The time one attempt may take.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}
