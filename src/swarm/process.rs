//! Processor time and memory of a process, as Linux tells them in `/proc`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::error::Error;

/// A process that is looked at.
#[derive(Clone, Debug)]
pub struct Process {
    dir: PathBuf,
    ticks_per_second: u64,
}

/// What it has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Processor time of all its threads, microseconds.
    pub cpu_us: u64,
    /// Memory that is resident now, bytes.
    pub resident_bytes: u64,
    /// The most that ever was, bytes.
    pub resident_peak_bytes: u64,
}

impl Process {
    /// The process with this number.
    ///
    /// # Errors
    /// It does not run, or may not be looked at.
    pub fn of(pid: u32) -> Result<Self, Error> {
        let process = Self {
            dir: PathBuf::from(format!("/proc/{pid}")),
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
        };
        process.usage().map(|_| process)
    }

    /// What it has used until now.
    ///
    /// # Errors
    /// It does not run any more.
    pub fn usage(&self) -> Result<Usage, Error> {
        let read = |name: &str| {
            let path = self.dir.join(name);
            std::fs::read_to_string(&path)
                .map_err(|e| Error::io(&format!("reading {}", path.display()), &e))
        };
        let ticks = cpu_ticks(&read("stat")?).ok_or_else(|| {
            Error::invalid(format!("{}/stat is not understood", self.dir.display()))
        })?;
        let status = read("status")?;
        let kib = |key: &str| field(&status, key).unwrap_or(0) << 10;
        let us = u128::from(ticks) * 1_000_000 / u128::from(self.ticks_per_second);
        Ok(Usage {
            cpu_us: u64::try_from(us).unwrap_or(u64::MAX),
            resident_bytes: kib("VmRSS:"),
            resident_peak_bytes: kib("VmHWM:"),
        })
    }
}

impl Usage {
    /// Processor time since an earlier look.
    #[must_use]
    pub const fn cpu_since(&self, earlier: &Self) -> Duration {
        Duration::from_micros(self.cpu_us.saturating_sub(earlier.cpu_us))
    }
}

/// User and system time of `/proc/PID/stat` (proc(5)): fields 14 and 15. The second one, the name, may hold
/// anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    next()?.checked_add(next()?)
}

fn field(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_with_brackets_and_spaces_do_not_shift_the_fields() {
        let stat = "42 (a) b ) S 1 2 3 4 5 6 7 8 9 10 70 7 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(77));
        assert_eq!(cpu_ticks("42 (a"), None);
        assert_eq!(
            field("VmPeak:\t 9 kB\nVmRSS:\t  12 kB\n", "VmRSS:"),
            Some(12)
        );
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let own = Process::of(std::process::id()).unwrap();
        let first = own.usage().unwrap();
        assert!(first.resident_peak_bytes >= 1 << 20);
        // Until the clock of /proc has moved: it counts in hundredths of a second.
        let mut sum = 0u64;
        while own.usage().unwrap().cpu_since(&first).is_zero() {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(Process::of(u32::MAX).is_err());
    }
}
