//! The laboratory: a real golden image, real diskless machines in QEMU and a network of their own, for
//! `tools/demo` and for the tests that boot whole systems.
//!
//! ```text
//!   Lab (a directory and a network namespace)
//!    ├── Net      bridge br0 10.77.0.1/24, one tap per node
//!    ├── Node     QEMU on a tap: BIOS or UEFI, serial console, power button
//!    ├── Guest    QEMU as a Linux initiator: a system of its own, two cards, obeys scripts
//!    └── Head     `reveille serve` inside the namespace
//!   golden        the disk images, built once by their recipes and kept
//!   versions      point versions of the golden image, step by step, and what they cost
//! ```
//! Everything a lab makes is named by its directory: `lab down DIR` (or dropping [`Lab`]) ends exactly the
//! processes inside its namespace and removes the namespace, whatever state they are in. Needs root.

pub mod console;
pub mod demo;
pub mod edk2;
pub mod forger;
pub mod golden;
pub mod guest;
pub mod head;
pub mod loopback;
pub mod net;
pub mod node;
pub mod nvram;
pub mod point;
pub mod proc;
pub mod qmp;
pub mod record;
pub mod versions;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

pub use guest::Guest;
pub use head::{Head, HeadSpec};
pub use net::Net;
pub use node::{Kind, Node, NodeSpec};

/// Environment variable that tells `lab power` where the lab is.
pub const LAB_ENV: &str = "REVEILLE_LAB";
/// Environment variable that keeps a lab's directory (logs, state) after the lab has ended.
pub const KEEP_ENV: &str = "REVEILLE_LAB_KEEP";

/// A directory with nodes, and the network namespace they live in.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    net: Net,
    /// The one that made it takes it down; `lab power` only visits.
    owner: bool,
}

impl Lab {
    /// Makes a lab with a directory of its own under the system's temporary directory.
    ///
    /// # Errors
    /// When the directory or the network cannot be made (not root, `ip` missing).
    pub fn new(purpose: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("reveille-lab-{purpose}-{}-{count}", std::process::id());
        Self::make(&std::env::temp_dir().join(name))
    }

    /// Makes a lab in `dir`, which must not hold one already.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn make(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("nodes"))
            .with_context(|| format!("cannot make the lab directory {}", dir.display()))?;
        let mark = dir.join("netns");
        anyhow::ensure!(
            !mark.exists(),
            "{} holds a lab already; `lab down {}` removes it",
            dir.display(),
            dir.display()
        );
        let name = Net::unique_name();
        // Written first: whatever happens next, `lab down` knows what to remove.
        fs::write(&mark, &name)?;
        let net = Net::make(&name)?;
        Ok(Self {
            dir: dir.to_owned(),
            net,
            owner: true,
        })
    }

    /// Visits the lab in `dir` (made by another process); dropping it leaves the lab alone.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(dir: &Path) -> Result<Self> {
        let mark = dir.join("netns");
        let name = fs::read_to_string(&mark)
            .with_context(|| format!("{} holds no lab; `lab up DIR` makes one", dir.display()))?;
        Ok(Self {
            dir: dir.to_owned(),
            net: Net::open(name.trim()),
            owner: false,
        })
    }

    /// The lab's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lab's network.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Defines a node: its tap is made, its settings are kept for `lab power`. It stays off.
    ///
    /// # Errors
    /// When its tap or its file cannot be made.
    pub fn add_node(&self, spec: &NodeSpec) -> Result<Node> {
        self.net.add_tap(&spec.tap())?;
        spec.write(&self.dir)?;
        self.node(&spec.name)
    }

    /// A node defined before.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn node(&self, name: &str) -> Result<Node> {
        Ok(Node::new(
            &self.dir,
            &self.net,
            NodeSpec::read(&self.dir, name)?,
        ))
    }

    /// All nodes defined in this lab, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn nodes(&self) -> Result<Vec<Node>> {
        let mut names: Vec<String> = fs::read_dir(self.dir.join("nodes"))?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                Some(name.strip_suffix(".node")?.to_owned())
            })
            .collect();
        names.sort();
        names.iter().map(|name| self.node(name)).collect()
    }

    /// Ends everything of this lab: processes in its namespace, the namespace, the mark in its directory.
    ///
    /// # Errors
    /// When the namespace cannot be removed.
    pub fn down(&self) -> Result<()> {
        self.net.remove()?;
        match fs::remove_file(self.dir.join("netns")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("the lab's mark cannot be removed")
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.owner {
            return;
        }
        if let Err(error) = self.down() {
            eprintln!("lab: {error:#}");
        }
        // The logs of a failed test are what one needs next.
        let keep = std::env::var_os(KEEP_ENV).is_some() || std::thread::panicking();
        if keep {
            eprintln!("lab: kept {}", self.dir.display());
        } else if self.dir.starts_with(std::env::temp_dir()) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
