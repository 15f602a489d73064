//! What belongs to this machine: cores, priority, and the figures of `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Where servers run.
const SERVER_CORE: usize = 1;
/// Where the load generator runs.
const LOAD_CORE: usize = 0;

/// How much of the machine we could get.
#[derive(Clone, Debug)]
pub struct Machine {
    pinned: bool,
    /// Of the load generator, in words.
    pub priority: &'static str,
}

impl Machine {
    /// Takes the load's core and a high priority; with `modest` neither (tests).
    #[must_use]
    pub fn prepare(modest: bool) -> Self {
        allow_open_files();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pinned = !modest && cores >= 2 && pin(LOAD_CORE);
        let priority = if modest { "as usual" } else { raise_priority() };
        Self { pinned, priority }
    }

    /// Runs `start` on the servers' core: what it starts stays there.
    pub fn on_server_core<T>(&self, start: impl FnOnce() -> T) -> T {
        if self.pinned {
            pin(SERVER_CORE);
        }
        let made = start();
        if self.pinned {
            pin(LOAD_CORE);
        }
        made
    }

    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        let place = if self.pinned {
            "server on core 1, load on core 0"
        } else {
            "nothing is pinned"
        };
        format!("{place}; load generator's priority: {}", self.priority)
    }
}

fn pin(core: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).is_ok()
}

fn allow_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Too few are told by what then fails.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Real time where that is allowed, else the best niceness we get. Nothing that we start inherits it.
fn raise_priority() -> &'static str {
    let me = std::process::id().to_string();
    let real_time = Command::new("chrt")
        .args(["--reset-on-fork", "--fifo", "--pid", "10", &me])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if real_time.is_ok_and(|status| status.success()) {
        "real time"
    } else if rustix::process::setpriority_process(None, -20).is_ok() {
        "nice -20"
    } else {
        "as usual"
    }
}

/// Nanoseconds that each thread of a process has been on a processor.
#[derive(Clone, Debug, Default)]
pub struct Cpu(BTreeMap<String, u64>);

impl Cpu {
    /// Of a process, by `/proc/PID/task/*/schedstat`.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let mut all = BTreeMap::new();
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
            return Self(all);
        };
        for task in tasks.flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            if let Some(ns) = text
                .split_whitespace()
                .next()
                .and_then(|ns| ns.parse().ok())
            {
                all.insert(task.file_name().to_string_lossy().into_owned(), ns);
            }
        }
        Self(all)
    }

    /// What was used since an earlier look; threads that have ended since are not in it.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> u64 {
        let used = self.0.iter().map(|(thread, now)| {
            let before = earlier.0.get(thread).copied().unwrap_or(0);
            now.saturating_sub(before)
        });
        used.sum()
    }
}

/// Nanoseconds that this thread has been on a processor.
#[must_use]
pub fn own_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident bytes.
    pub resident: u64,
    /// Those of them that are its own and no file's.
    pub own: u64,
    /// Threads.
    pub threads: u64,
}

impl Memory {
    /// Of a process, by `/proc/PID/status`; zeros when it is gone.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let find = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
        };
        Self {
            resident: find("VmRSS:") << 10,
            own: (find("RssAnon:") + find("RssShmem:")) << 10,
            threads: find("Threads:"),
        }
    }
}

/// What else this machine did: the load averages.
#[must_use]
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().take(3).collect();
    words.join(" ")
}

/// Processor, number of cores, kernel.
#[must_use]
pub fn describe() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |line: &str| Some(line.split_once(':')?.1.trim().to_owned());
    let mut models = info.lines().filter(|line| line.starts_with("model name"));
    let model = models
        .next()
        .and_then(value)
        .unwrap_or_else(|| "unknown processor".into());
    let cores = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn processor_time_of_a_thread_that_works_grows() {
        let (cpu, own) = (Cpu::of(std::process::id()), own_cpu_ns());
        let mut sum = 0_u64;
        while own_cpu_ns() < own + 20_000_000 {
            sum = (0..100_000).fold(sum, |a, b| a.wrapping_mul(31).wrapping_add(b));
        }
        let used = Cpu::of(std::process::id()).since(&cpu);
        assert!(used >= 10_000_000, "{used} {sum}");
    }

    #[test]
    fn this_process_has_memory_and_threads() {
        let memory = Memory::of(std::process::id());
        assert!(memory.own > 0 && memory.resident >= memory.own && memory.threads >= 1);
    }
}
