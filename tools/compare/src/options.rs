//! What the command line says.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::content::{PIECE, Span};
use crate::park::{TARGETS, Target};

/// Sizes of what is compared.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Bytes of the golden image, all of them data.
    pub golden_bytes: u64,
    /// Bytes that writes go to.
    pub write_bytes: u64,
    /// Nodes of our usual head.
    pub nodes: usize,
    /// Nodes of the head with many.
    pub nodes_many: usize,
    /// How often larger the larger golden image is.
    pub big_factor: u64,
    /// Sessions at a time, few and many.
    pub sessions: [usize; 2],
    /// Idle sessions whose memory is looked at.
    pub idle: &'static [usize],
}

impl Scale {
    /// The working set of an image that is stretched to its size.
    #[must_use]
    pub const fn big_span(&self) -> Span {
        Span {
            bytes: self.golden_bytes,
            stride: self.big_factor * PIECE,
        }
    }
}

/// What is measured by default.
const FULL: Scale = Scale {
    golden_bytes: 1 << 30,
    write_bytes: 256 << 20,
    nodes: 1000,
    nodes_many: 10_000,
    big_factor: 10,
    sessions: [16, 64],
    idle: &[1, 100, 500, 1000],
};

/// Enough to see that everything works.
const QUICK: Scale = Scale {
    golden_bytes: 16 << 20,
    write_bytes: 8 << 20,
    nodes: 40,
    nodes_many: 200,
    big_factor: 10,
    sessions: [2, 4],
    idle: &[1, 20],
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sizes.
    pub scale: Scale,
    /// A test: neither cores nor priority are taken.
    pub quick: bool,
    /// Rounds of each case and target.
    pub rounds: usize,
    /// Time of a round.
    pub time: Duration,
    /// Columns.
    pub targets: Vec<Target>,
    /// Beginnings of the cases that are wanted; all when empty.
    pub only: Vec<String>,
    /// Where the files go.
    pub dir: PathBuf,
    /// Where everything goes as JSON.
    pub json: Option<PathBuf>,
    /// Where the table goes; standard output if none.
    pub out: Option<PathBuf>,
    /// Where flame graphs of our server go, one for each case, if they are wanted.
    pub flames: Option<PathBuf>,
}

/// The text of `--help`.
pub const USAGE: &str = "\
usage: tools/compare/run [OPTION...]           one table of ratios
       tools/compare/run storm [OPTION...]     the same boot storm against Reveille and tgt
       tools/compare/run cases                 names of the cases

  --targets ours,tgt,istgt,bare   the columns (default: all)
  --only CASE,...                 only cases whose name begins so (see `cases`; `memory` is one)
  --rounds N                      rounds of each case and target, interleaved (default 5); the median counts
  --seconds S                     of each round (default 2)
  --dir DIR                       some 7 GiB of files go there (default: TMPDIR or /tmp)
  --json FILE                     all figures, with every round
  --out FILE                      the table (default: standard output)
  --flames DIR                    after the rounds of each case another one of Reveille alone with `perf` beside it:
                                  DIR/CASE.svg (and DIR/profiles.md: what takes most; needs linux-perf)
  --quick                         a test of the tool: small, short, on no core in particular

  storm:
  --trace FILE                    a recorded boot (reveille swarm record)
  --image FILE                    the raw golden image that it was recorded on, or one as large
  --nodes 10,50,...               how many nodes boot at a time (default 10,50,100,250,500,1000)
  --targets ours,tgt              (default: both)
  --limit S                       longest time of one storm (default 600)
  --dir DIR, --json FILE, --out FILE  as above
  --ramp S                        with the trace's think times, nodes begun evenly over S seconds (default: without
                                  think times, all together)
  --flames DIR                    DIR/storm-N.svg of Reveille's server in each storm, whose times do not count
";

impl Options {
    /// Reads the words behind the program's name.
    ///
    /// # Errors
    /// When they are not in the usage.
    pub fn read(words: &[&str]) -> Result<Self> {
        let quick = words.contains(&"--quick");
        let mut options = Self {
            scale: if quick { QUICK } else { FULL },
            quick,
            rounds: if quick { 1 } else { 5 },
            time: Duration::from_millis(if quick { 200 } else { 2000 }),
            targets: TARGETS.to_vec(),
            only: Vec::new(),
            dir: std::env::temp_dir(),
            json: None,
            out: None,
            flames: None,
        };
        let mut rest = words.iter();
        while let Some(flag) = rest.next() {
            if *flag == "--quick" {
                continue;
            }
            let value = *rest
                .next()
                .with_context(|| format!("{flag}: its value is missing\n{USAGE}"))?;
            match *flag {
                "--targets" => options.targets = targets(value)?,
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--rounds" => options.rounds = value.parse().context("--rounds")?,
                "--seconds" => {
                    options.time =
                        Duration::try_from_secs_f64(value.parse().context("--seconds")?)?;
                }
                "--dir" => options.dir = value.into(),
                "--json" => options.json = Some(value.into()),
                "--out" => options.out = Some(value.into()),
                "--flames" => options.flames = Some(value.into()),
                _ => bail!("unknown flag {flag}\n{USAGE}"),
            }
        }
        ensure!(options.rounds > 0, "--rounds: at least one");
        Ok(options)
    }

    /// True when a case of this name is wanted.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }
}

/// The targets of a list.
///
/// # Errors
/// When there is none of that name.
pub fn targets(list: &str) -> Result<Vec<Target>> {
    let find = |word: &str| TARGETS.into_iter().find(|target| target.word() == word);
    let each = list.split(',').map(|word| {
        find(word)
            .with_context(|| format!("no such target: {word}; there are ours, tgt, istgt, bare"))
    });
    each.collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn words_become_options_and_unknown_ones_are_refused() {
        let options = Options::read(&[
            "--quick",
            "--targets",
            "ours,bare",
            "--only",
            "read-4k,login",
        ])
        .unwrap();
        assert_eq!(options.targets, [Target::Ours, Target::Bare]);
        assert!(
            options.wants("read-4k-32")
                && options.wants("login-1")
                && !options.wants("write-4k-32")
        );
        assert_eq!(options.rounds, 1);
        for bad in [
            ["--targets", "spdk"],
            ["--what", "ever"],
            ["--rounds", "0"],
            ["--seconds", "-1"],
        ] {
            assert!(Options::read(&bad).is_err(), "{bad:?}");
        }
        assert!(Options::read(&["--out"]).is_err());
    }
}
