//! The offline check of a state directory: everything is read, nothing is trusted, and without `repair` nothing
//! is written.
//!
//! ```text
//!   version, lock ─► catalog (a copy in memory) ─► images, layers (a shadow) ─► cross: names against things
//!                                                                     repair: only what cannot be wrong
//! ```
//! - **damage**: something that was kept is lost or will not be served. **garbage**: space that nobody needs.
//!   **note**: worth knowing.
//!
//! What this never does: open a head, run beside one (the lock is taken), or remove what somebody may want.

mod cross;
mod repair;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::error::{HeadError, HeadErrorKind, Result};
use super::images::Progress;
use super::state_dir::{self, StateDir};
use super::{CATALOG, STORE};
use crate::catalog;
use crate::limits;
use crate::names::NodeSet;
use crate::store;
use crate::store::check::{Fault, Severity};
use crate::store::disk::{Disk, OpenMode};
use crate::store::disk_below::BelowDisk;
use crate::store::disk_file::RealDisk;
use crate::store::image::check::ImagesChecked;
use crate::store::layer::check::LayersChecked;
use crate::units::HumanBytes;

/// What to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckAsk {
    /// Every chunk against its id too.
    pub data: bool,
    /// Mend what can be mended safely.
    pub repair: bool,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or the thing.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The nodes that it concerns.
    pub nodes: NodeSet,
    /// The image versions that it concerns: `debian12:3`.
    pub images: Vec<String>,
    /// What to do.
    pub next: String,
}

/// How much was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckCounts {
    /// Nodes in the catalog.
    pub nodes: u64,
    /// Image versions in the catalog.
    pub versions: u64,
    /// Manifests that read back.
    pub manifests: u64,
    /// Packs.
    pub packs: u64,
    /// Different chunks.
    pub chunks: u64,
    /// Layers with a generation.
    pub layers: u64,
    /// Records of the layers' logs.
    pub records: u64,
    /// Bytes of chunks compared with their ids.
    pub data_bytes: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// No damage was found.
    pub clean: bool,
    /// Findings, worst first.
    pub findings: Vec<Finding>,
    /// What `repair` did, in sentences.
    pub repaired: Vec<String>,
    /// How much was looked at.
    pub counts: CheckCounts,
}

/// All that was read, before the parts are compared.
pub(super) struct Parts {
    pub(super) catalog: catalog::check::Checked,
    pub(super) images: ImagesChecked,
    pub(super) layers: LayersChecked,
}

/// Checks the state directory at `path`. Blocking and long.
///
/// # Errors
/// `Refused` while a process holds the directory (the message names it) or when a newer program wrote it;
/// `Invalid` when there is none; what cannot be listed. Damage is the answer, not an error.
pub fn check(
    path: &Path,
    ask: CheckAsk,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<CheckReport> {
    let (state, wrong) = StateDir::inspect(path)?;
    if let Some(why) = wrong.as_ref().filter(|why| why.contains("newer Reveille")) {
        return Err(HeadError::new(HeadErrorKind::Refused, why.as_str()));
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(path));
    let boot = state_dir::host_boot_id()?;
    let mut report = check_disk(&disk, &boot, ask, progress, cancel)?;
    if let Some(why) = wrong {
        let next = "write the number of the format back into the file";
        let fault = Fault::new(Severity::Damage, "version", why, next);
        report.findings.push(cross::plain(fault));
    }
    report.findings.extend(strangers(path));
    report.findings.extend(room(path));
    report.finish();
    drop(state);
    Ok(report)
}

/// Checks what lies on `disk` as in a state directory; `host_boot` tells the present start of the host. For
/// [`check`], and for media that record.
///
/// # Errors
/// As [`check`], without the lock and the version.
pub fn check_disk(
    disk: &Arc<dyn Disk>,
    host_boot: &str,
    ask: CheckAsk,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<CheckReport> {
    let parts = read(disk, host_boot, ask.data, progress, cancel)?;
    if parts.catalog.newer {
        let (_, why) = parts.catalog.faults.first().cloned().unwrap_or_default();
        return Err(HeadError::new(HeadErrorKind::Refused, why));
    }
    if !ask.repair {
        return Ok(cross::report(&parts));
    }
    let repaired = repair::repair(disk, host_boot, &parts, ask.data, cancel)?;
    let parts = read(disk, host_boot, ask.data, progress, cancel)?;
    let mut report = cross::report(&parts);
    report.repaired = repaired;
    Ok(report)
}

fn read(
    disk: &Arc<dyn Disk>,
    host_boot: &str,
    data: bool,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<Parts> {
    let below: Arc<dyn Disk> = Arc::new(BelowDisk::new(Arc::clone(disk), STORE));
    Ok(Parts {
        catalog: read_catalog(&**disk),
        images: store::image::check::check(&*below, data, progress, cancel)?,
        layers: store::layer::check::check(&below, store::boot_of(host_boot))?,
    })
}

fn read_catalog(disk: &dyn Disk) -> catalog::check::Checked {
    let bytes = || -> store::Result<Vec<u8>> {
        let file = disk.open(CATALOG, OpenMode::Read)?;
        let len = file.len()?;
        if len > limits::CHECK_CATALOG_BYTES_MAX {
            let why = format!("{CATALOG} has {len} bytes, more than any catalog");
            return Err(store::Error::new(store::ErrorKind::Corrupt, why));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    };
    match bytes() {
        Ok(bytes) => catalog::check::check(&bytes),
        Err(e) => catalog::check::Checked {
            faults: vec![(CATALOG.to_owned(), e.to_string())],
            ..catalog::check::Checked::default()
        },
    }
}

/// What lies in the directory and is not ours.
fn strangers(path: &Path) -> Vec<Finding> {
    const OURS: &[&str] = &[
        "version",
        "version.new",
        "lock",
        CATALOG,
        "catalog.redb.new",
        STORE,
    ];
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|e| e.file_name());
    let strange = names.filter(|name| {
        let ours = |name: &str| OURS.contains(&name) || name.starts_with("reveille.");
        name.to_str().is_none_or(|name| !ours(name))
    });
    let told = strange.map(|name| {
        let object = name.to_string_lossy().into_owned();
        let what = "no file of a state directory has this name";
        let next = "move it away if it is not yours";
        cross::plain(Fault::new(Severity::Note, object, what, next))
    });
    told.collect()
}

/// Little space is left.
fn room(path: &Path) -> Option<Finding> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let whole = stat.f_blocks.saturating_mul(stat.f_frsize);
    let least = whole / 100 * limits::CHECK_FREE_PERCENT_MIN;
    if free >= limits::CHECK_FREE_BYTES_MIN || free >= least {
        return None;
    }
    let (free, whole) = (HumanBytes(free), HumanBytes(whole));
    let what = format!("{free} of {whole} are free");
    let next =
        "remove image versions or layers that nobody needs, or give the file system more space";
    let fault = Fault::new(Severity::Note, "the file system", what, next);
    Some(cross::plain(fault))
}

impl CheckReport {
    fn finish(&mut self) {
        self.findings.sort_by_key(|finding| finding.severity);
        self.clean = !self
            .findings
            .iter()
            .any(|finding| finding.severity == Severity::Damage);
    }
}
