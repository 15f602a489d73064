//! All targets of a comparison and the files that they serve, in one temporary directory. A target is started when
//! a case first needs it and stays, idle, to the end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use crate::content::{Span, copy_first, make_golden};
use crate::login::Place;
use crate::machine::Machine;
use crate::options::Scale;
use crate::servers::{self, Disk, OurSpec, Server};

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Reveille.
    Ours,
    /// Linux SCSI target framework.
    Tgt,
    /// FreeBSD's former target.
    Istgt,
    /// The baseline.
    Bare,
}

/// All columns.
pub const TARGETS: [Target; 4] = [Target::Ours, Target::Tgt, Target::Istgt, Target::Bare];

impl Target {
    /// As an option names it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Tgt => "tgt",
            Self::Istgt => "istgt",
            Self::Bare => "bare",
        }
    }

    /// As a table names it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ours => "Reveille",
            Self::Bare => "bare TCP",
            other => other.word(),
        }
    }

    /// Its version; an error says why it cannot run.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn version(self) -> Result<String> {
        match self {
            Self::Ours => {
                let program = servers::our_program()?.display().to_string();
                let said = lab::proc::run(&program, &["--version"])?;
                Ok(said.split_whitespace().last().unwrap_or("?").to_owned())
            }
            Self::Bare => Ok(env!("CARGO_PKG_VERSION").to_owned()),
            Self::Tgt | Self::Istgt => {
                let missing = || anyhow!("the Debian package {} is not installed", self.word());
                servers::package_version(self.word()).with_context(missing)
            }
        }
    }
}

/// A process: of ours there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// Reveille with a thousand nodes.
    Ours,
    /// Reveille with a single node.
    One,
    /// Reveille with ten thousand nodes.
    Many,
    /// Reveille with a single node and a golden image ten times as large.
    Big,
    /// tgt.
    Tgt,
    /// istgt.
    Istgt,
    /// The bare server.
    Bare,
}

/// What a session works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reads of the golden image.
    Golden,
    /// The same with digests.
    Digests,
    /// A disk of its own, to write.
    Writes,
}

/// See the module.
#[derive(Debug)]
pub struct Park<'a> {
    machine: &'a Machine,
    dir: PathBuf,
    /// Sizes.
    pub scale: Scale,
    servers: BTreeMap<Which, std::result::Result<Server, String>>,
}

impl<'a> Park<'a> {
    /// Makes the golden image in a new directory below `dir`.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn new(machine: &'a Machine, dir: &Path, scale: Scale) -> Result<Self> {
        let dir = dir.join(format!("reveille-compare-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let park = Self {
            machine,
            dir,
            scale,
            servers: BTreeMap::new(),
        };
        make_golden(&park.golden(), Span::first(scale.golden_bytes))?;
        Ok(park)
    }

    fn golden(&self) -> PathBuf {
        self.dir.join("golden.raw")
    }

    fn big(&self) -> PathBuf {
        self.dir.join("big.raw")
    }

    /// The file that a process's golden disk must read like.
    #[must_use]
    pub fn image_of(&self, which: Which) -> PathBuf {
        if which == Which::Big {
            self.big()
        } else {
            self.golden()
        }
    }

    /// The process; it is started if need be.
    ///
    /// # Errors
    /// When it cannot be started (said again each time), or has ended.
    pub fn server(&mut self, which: Which) -> Result<&mut Server> {
        if !self.servers.contains_key(&which) {
            let started = self.start(which).map_err(|e| format!("{e:#}"));
            self.servers.insert(which, started);
        }
        match self.servers.get_mut(&which) {
            Some(Ok(server)) => {
                if server.is_alive() {
                    return Ok(server);
                }
                Err(anyhow!("it has ended: {}", server.last_words()))
            }
            Some(Err(why)) => Err(anyhow!("{why}")),
            None => Err(anyhow!("not started")),
        }
    }

    /// Starts it anew, with nothing of its past in memory.
    pub fn forget(&mut self, which: Which) {
        if let Some(Ok(server)) = self.servers.remove(&which) {
            drop(server);
        }
        let _ = fs::remove_dir_all(self.dir.join(format!("{which:?}").to_lowercase()));
    }

    fn start(&self, which: Which) -> Result<Server> {
        let dir = self.dir.join(format!("{which:?}").to_lowercase());
        let golden = self.golden();
        let ours = |image: &Path, nodes: usize, keepers: &str| {
            let nodes = format!("n[{:05}-{nodes:05}]", 1);
            let spec = OurSpec {
                image,
                nodes: &nodes,
                keepers,
            };
            servers::start_ours(self.machine, &dir, &spec)
        };
        match which {
            Which::Ours => ours(&golden, self.scale.nodes, "w1"),
            Which::One => ours(&golden, 1, ""),
            Which::Many => ours(&golden, self.scale.nodes_many, ""),
            Which::Big => {
                make_golden(&self.big(), self.scale.big_span())?;
                ours(&self.big(), 1, "")
            }
            Which::Tgt => servers::start_tgt(self.machine, &dir, &self.disks("tgt")?),
            Which::Istgt => {
                let sessions = self.scale.idle.iter().copied().max().unwrap_or(0) + 128;
                servers::start_istgt(self.machine, &dir, &self.disks("istgt")?, sessions)
            }
            Which::Bare => {
                let disks = self.disks("bare")?;
                let files: Vec<&Path> = disks.iter().map(|disk| disk.file.as_path()).collect();
                servers::start_bare(self.machine, &dir, &files)
            }
        }
    }

    /// The golden image, a disk to write, and the golden image with digests.
    fn disks(&self, whose: &str) -> Result<[Disk; 3]> {
        let file = self.dir.join(format!("writes-{whose}.raw"));
        copy_first(&self.golden(), &file, self.scale.write_bytes)?;
        let disk = |name: &str, file: PathBuf| Disk {
            name: name.into(),
            file,
            digests: name == "digests",
        };
        Ok([
            disk("golden", self.golden()),
            disk("writes", file),
            disk("digests", self.golden()),
        ])
    }

    /// The disk of a process's session `number`. Ours are nodes, each with a disk of its own.
    ///
    /// # Errors
    /// As [`Park::server`].
    pub fn place(&mut self, which: Which, work: Work, number: usize) -> Result<Place> {
        let server = self.server(which)?;
        let name = match work {
            Work::Golden => "golden",
            Work::Digests => "digests",
            Work::Writes => "writes",
        };
        Ok(match which {
            Which::Tgt => server.place(name, 1),
            Which::Istgt => server.place(name, 0),
            Which::Bare => server.bare_place(u8::from(work == Work::Writes)),
            _ if work == Work::Writes => server.place("w1", 0),
            _ => server.place(&format!("n{:05}", number + 1), 0),
        })
    }
}

impl Drop for Park<'_> {
    fn drop(&mut self) {
        self.servers.clear();
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("compare: {} stays: {error}", self.dir.display());
        }
    }
}
