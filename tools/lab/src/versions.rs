//! Twenty successive point versions of a real Debian disk: what they cost over the space of one.
//!
//! ```text
//!   golden disk, aged to the oldest packages the archive has      version 1
//!     step by step, as an administrator does (point.rs)           versions 2 to 21, imported as whole raw files
//!   every version out again, hashes compared; versions 7 to 16 removed; the others out again
//!   the first steps once more over iSCSI, mounted: promoted from the node's layer, and beside it
//!     imported as a whole into another store: the same identity, two times and costs
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::golden;
use crate::loopback::Loopback;
use crate::point::{self, Changes, Step};
use crate::proc;

/// What `lab versions` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory for disks, stores and package lists, a few GB; it stays.
    pub dir: PathBuf,
    /// How many of the twenty steps are made; with 0 only those over iSCSI.
    pub steps: usize,
    /// How many steps are made again over iSCSI and promoted.
    pub promoted: usize,
}

/// What version 1 has more than the golden disk, so that there is something to keep up to date.
const SERVICES: &[&str] = &[
    "install",
    "openssh-server",
    "curl",
    "rsync",
    "python3-minimal",
    "ca-certificates",
];

/// The laboratory's image packs its initrd as small as it can be, for emulated machines. Real ones do not.
const AS_REAL: &[&str] = &[
    "run",
    "sed -i /COMPRESSLEVEL/d /etc/initramfs-tools/conf.d/reveille",
];

/// The twenty steps.
const PLAN: [&[&str]; 20] = [
    &["upgrade", "tzdata"],
    &["kernel"],
    &["upgrade", "openssl", "libssl3"],
    &[
        "upgrade",
        "openssh-server",
        "openssh-client",
        "openssh-sftp-server",
    ],
    &[
        "upgrade",
        "systemd",
        "systemd-sysv",
        "libsystemd0",
        "libsystemd-shared",
        "udev",
        "libudev1",
    ],
    &["kernel"],
    &[
        "upgrade",
        "util-linux",
        "util-linux-extra",
        "bsdutils",
        "mount",
        "libblkid1",
        "libfdisk1",
        "libmount1",
        "libsmartcols1",
        "libuuid1",
    ],
    &["install", "chrony", "tcpdump"],
    &["upgrade", "libc6", "libc-bin"],
    &["kernel"],
    &["upgrade", "curl", "libcurl4", "rsync", "ca-certificates"],
    &["upgrade", "perl-base", "liblzma5", "libexpat1"],
    &["kernel"],
    &["install", "munge", "slurmd"],
    &["upgrade", "openssl", "libssl3"],
    &["kernel"],
    &["remove", "tcpdump", "chrony"],
    &["upgrade", "tzdata", "open-iscsi", "libopeniscsiusr"],
    &["kernel"],
    &["upgrade"],
];

/// Versions that are removed in the end: the middle ten.
const REMOVED: std::ops::RangeInclusive<usize> = 7..=16;

/// Work goes on in a directory, with one store per way.
struct Work {
    dir: PathBuf,
    disk: PathBuf,
}

/// One version that was imported.
struct Row {
    step: Step,
    changed: Changes,
    /// Bytes of the raw file on the file system, holes left out.
    sparse: u64,
    new_chunks: u64,
    new_bytes: u64,
    took: Duration,
    /// Bytes of all images on the file system after it.
    store: u64,
    hash: String,
}

/// Runs it and prints the tables; nothing is mounted or running when it returns.
///
/// # Errors
/// When a step fails, or a version does not come back as it was imported.
pub fn run(options: &Options) -> Result<()> {
    let dir = std::path::absolute(&options.dir)?;
    fs::create_dir_all(&dir).with_context(|| format!("directory {}", dir.display()))?;
    let work = Work {
        disk: dir.join("disk.raw"),
        dir,
    };
    work.make_base()?;
    if options.steps > 0 {
        work.whole_files(&PLAN[..options.steps.min(PLAN.len())])?;
    }
    if options.promoted > 0 {
        work.promotions(&PLAN[..options.promoted.min(PLAN.len())])?;
    }
    Ok(())
}

impl Work {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Version 1, `base.raw`: kept, so that a second run begins with the same disk.
    fn make_base(&self) -> Result<()> {
        let base = self.path("base.raw");
        if base.exists() {
            return Ok(());
        }
        let golden = golden::debian12()?;
        copy(&golden, &self.disk)?;
        for words in [AS_REAL, SERVICES, &["age"]] {
            let step = self.step(words)?;
            say(&format!(
                "version 1: {}, {} packages: {}",
                step.kind, step.packages, step.what
            ));
        }
        copy(&self.disk, &base)
    }

    fn step(&self, words: &[&str]) -> Result<Step> {
        let disk = self.disk.to_string_lossy().into_owned();
        point::step(&disk, &self.path("keep"), words)
    }

    /// A head with an empty store.
    fn head(&self, name: &str) -> Result<Loopback> {
        let dir = self.path(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        Loopback::start(&dir)
    }

    /// All versions, imported as whole raw files.
    fn whole_files(&self, plan: &[&[&str]]) -> Result<()> {
        let head = self.head("whole")?;
        let (before, mut rows) = (self.path("before.raw"), Vec::new());
        copy(&self.path("base.raw"), &self.disk)?;
        println!(
            "\n| version | packages | step | changed MB | zeroed MB | new chunks | new MB | store MB | import s |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        let first = Step {
            kind: "first".into(),
            packages: 0,
            what: "the aged golden disk".into(),
        };
        rows.push(self.import(&head, first, Changes::default())?);
        tell(&rows);
        for words in plan {
            copy(&self.disk, &before)?;
            let step = self.step(words)?;
            let changed = point::changes(&before, &self.disk)?;
            rows.push(self.import(&head, step, changed)?);
            tell(&rows);
        }
        sums(&rows)?;
        shared(&head, rows.len())?;
        let all: Vec<usize> = (1..=rows.len()).collect();
        self.come_back(&head, &rows, &all)?;
        if rows.len() > *REMOVED.end() {
            self.remove_middle(&head, &rows)?;
        }
        head.stop()
    }

    fn import(&self, head: &Loopback, step: Step, changed: Changes) -> Result<Row> {
        let hash = point::hash(&self.disk)?;
        let disk = self.disk.to_string_lossy();
        let began = Instant::now();
        let done = head.ask(&["image", "import", &disk, "--name", "debian12"])?;
        let took = began.elapsed();
        Ok(Row {
            step,
            changed,
            sparse: point::space(&self.disk)?,
            new_chunks: number(&done, "new_chunks")?,
            new_bytes: number(&done, "new_bytes")?,
            took,
            store: point::space(&images(head))?,
            hash,
        })
    }

    /// Every one of `versions` is whole on the medium, and comes out as it went in.
    fn come_back(&self, head: &Loopback, rows: &[Row], versions: &[usize]) -> Result<()> {
        let out = self.path("out.raw");
        for &version in versions {
            let label = format!("debian12:{version}");
            head.run(&["image", "verify", &label])?;
            let _ = fs::remove_file(&out);
            head.run(&["image", "export", &label, &out.to_string_lossy()])?;
            let row = rows.get(version - 1).context("no such version")?;
            ensure!(
                point::hash(&out)? == row.hash,
                "{label} does not come out as it was imported"
            );
        }
        fs::remove_file(&out)?;
        say(&format!(
            "{} versions verified, exported and equal to what was imported (SHA-256)",
            versions.len()
        ));
        Ok(())
    }

    fn remove_middle(&self, head: &Loopback, rows: &[Row]) -> Result<()> {
        let before = point::space(&images(head))?;
        for version in REMOVED {
            head.run(&["image", "rm", &format!("debian12:{version}")])?;
        }
        let after = point::space(&images(head))?;
        let brought: u64 = rows[REMOVED.start() - 1..*REMOVED.end()]
            .iter()
            .map(|row| row.new_bytes)
            .sum();
        say(&format!(
            "versions {} to {} removed: {} of {} MB came back (their imports had written {} MB, of which later \
             versions use the rest)",
            REMOVED.start(),
            REMOVED.end(),
            mega(before - after),
            mega(before),
            mega(brought)
        ));
        let left: Vec<usize> = (1..=rows.len()).filter(|v| !REMOVED.contains(v)).collect();
        self.come_back(head, rows, &left)
    }

    /// The first steps again, over iSCSI into a node's layer, promoted; and imported as whole files beside it.
    fn promotions(&self, plan: &[&[&str]]) -> Result<()> {
        let (layers, twin) = (self.head("layers")?, self.head("twin")?);
        let base = self.path("base.raw").to_string_lossy().into_owned();
        for head in [&layers, &twin] {
            head.run(&["image", "import", &base, "--name", "debian12"])?;
        }
        // A node for each step: its first boot begins on the newest version, with an empty layer.
        let nodes = format!("n[1-{}]", plan.len());
        let add = ["node", "add", &nodes, "--image", "debian12"];
        layers.run(&[&add[..], &["--mode", "persistent"]].concat())?;
        println!(
            "\n| step | packages | layer MB | chunks read | new chunks | new MB | promote s | whole import s | new MB |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
        for (words, number) in plan.iter().zip(1..) {
            self.promotion(&layers, &twin, &format!("n{number}"), words)?;
        }
        let stores = (
            point::space(&images(&layers))?,
            point::space(&images(&twin))?,
        );
        say(&format!(
            "all with the same identities both ways; the stores hold {} and {} MB",
            mega(stores.0),
            mega(stores.1)
        ));
        layers.stop()?;
        twin.stop()
    }

    fn promotion(
        &self,
        layers: &Loopback,
        twin: &Loopback,
        node: &str,
        words: &[&str],
    ) -> Result<()> {
        let step = point::step(&layers.url(node), &self.path("keep"), words)?;
        let began = Instant::now();
        let promoted = layers.ask(&["layer", "promote", node, "--name", "debian12"])?;
        let promote_time = began.elapsed();
        let label = promoted["label"].as_str().context("no label")?;
        let out = self.path("promoted.raw");
        let _ = fs::remove_file(&out);
        let out_name = out.to_string_lossy();
        layers.run(&["image", "export", label, &out_name])?;
        let began = Instant::now();
        let whole = twin.ask(&["image", "import", &out_name, "--name", "debian12"])?;
        let whole_time = began.elapsed();
        fs::remove_file(&out)?;
        ensure!(
            promoted["id"] == whole["id"] && promoted["id"].is_string(),
            "{label}: the promotion is {} and the import {}",
            promoted["id"],
            whole["id"]
        );
        println!(
            "| {} | {} | {} | {} | {} | {} | {:.2} | {:.2} | {} |",
            words.join(" "),
            step.packages,
            mega(number(&promoted, "data_bytes")?),
            number(&promoted, "touched_chunks")?,
            number(&promoted, "new_chunks")?,
            mega(number(&promoted, "new_bytes")?),
            promote_time.as_secs_f64(),
            whole_time.as_secs_f64(),
            mega(number(&whole, "new_bytes")?),
        );
        Ok(())
    }
}

fn tell(rows: &[Row]) {
    let Some(row) = rows.last() else { return };
    println!(
        "| {} | {} | {}: {} | {} | {} | {} | {} | {} | {:.2} |",
        rows.len(),
        row.step.packages,
        row.step.kind,
        shortened(&row.step.what),
        mega(row.changed.written_bytes()),
        mega(row.changed.zeroed * 4096),
        row.new_chunks,
        mega(row.new_bytes),
        mega(row.store),
        row.took.as_secs_f64()
    );
}

fn sums(rows: &[Row]) -> Result<()> {
    let (first, last) = (
        rows.first().context("no versions")?,
        rows.last().context("no versions")?,
    );
    let files: u64 = rows.iter().map(|row| row.sparse).sum();
    let changed: u64 = rows.iter().map(|row| row.changed.written_bytes()).sum();
    let again = rows.iter().filter(|row| row.step.kind == "reinstall");
    say(&format!(
        "{} versions take {} MB, {:.2} times version 1 ({} MB); as raw files with holes they would take {} MB. \
         Changed in 4 KiB blocks: {} MB, stored for it: {} MB. Steps that only installed the same again: {}",
        rows.len(),
        mega(last.store),
        ratio(last.store, first.store),
        mega(first.store),
        mega(files),
        mega(changed),
        mega(rows.iter().skip(1).map(|row| row.new_bytes).sum()),
        again.count()
    ));
    Ok(())
}

/// What the first and the last version have in common, which memory holds once.
fn shared(head: &Loopback, last: usize) -> Result<()> {
    let (first, last) = ("debian12:1".to_owned(), format!("debian12:{last}"));
    let found = head.ask(&["image", "diff", &first, &last, "--no-files"])?;
    let shown = head.ask(&["image", "show", &first])?;
    let data = number(&shown["versions"][0], "data_chunks")?;
    say(&format!(
        "{first} has {data} chunks with data; {} of the disk's chunks differ from {last}",
        number(&found, "differing_chunks")?
    ));
    Ok(())
}

fn images(head: &Loopback) -> PathBuf {
    head.state().join("store/images")
}

fn number(answer: &Value, key: &str) -> Result<u64> {
    answer[key]
        .as_u64()
        .with_context(|| format!("no {key} in {answer}"))
}

/// The first of many words.
fn shortened(what: &str) -> String {
    let mut words = what.split(", ");
    let some: Vec<&str> = words.by_ref().take(2).collect();
    let more = if words.next().is_some() { ", ..." } else { "" };
    format!("{}{more}", some.join(", "))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "two digits of a ratio are printed"
)]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

/// Megabytes with one digit.
fn mega(bytes: u64) -> String {
    let tenths = (bytes + 50_000) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// A copy with holes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    proc::run("cp", &["--sparse=always", &from, &to]).map(drop)
}

fn say(text: &str) {
    println!("\n{text}");
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn megabytes_are_rounded_to_a_digit() {
        assert_eq!(mega(0), "0.0");
        assert_eq!(mega(1_049_999), "1.0");
        assert_eq!(mega(1_950_000), "2.0");
        assert_eq!(mega(123_449_999), "123.4");
    }

    #[test]
    fn long_lists_are_shortened_to_two() {
        assert_eq!(shortened("a 1 -> 2"), "a 1 -> 2");
        assert_eq!(shortened("a, b"), "a, b");
        assert_eq!(shortened("a, b, c"), "a, b, ...");
    }

    #[test]
    fn the_plan_has_twenty_steps_and_removes_ten_of_the_middle() {
        assert!(PLAN.iter().all(|words| !words.is_empty()));
        assert_eq!(REMOVED.count(), 10);
    }
}
