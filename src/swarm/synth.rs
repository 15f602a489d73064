//! Traces that nobody recorded: of a given shape, for tests and benches. Pure.

use crate::trace::{Op, OpKind, Session, Trace};

/// How much a made-up boot does.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of the disk, a multiple of 1 MiB.
    pub disk_bytes: u64,
    /// READs of the firmware's session.
    pub firmware_reads: u32,
    /// READs of the operating system's.
    pub os_reads: u32,
    /// Bytes of all READs together, about.
    pub read_bytes: u64,
    /// WRITEs.
    pub writes: u32,
    /// Bytes of all WRITEs together, about.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u32,
    /// Think time of the whole boot, microseconds.
    pub think_us: u64,
    /// Chance.
    pub seed: u64,
}

impl Shape {
    /// As a Debian 12 boot was recorded: 78 MB in 3,024 READs, 2.7 MB in 97 WRITEs, 12 flushes.
    #[must_use]
    pub const fn debian12() -> Self {
        Self {
            disk_bytes: 2 << 30,
            firmware_reads: 1100,
            os_reads: 1924,
            read_bytes: 78_000_000,
            writes: 97,
            write_bytes: 2_700_000,
            flushes: 12,
            think_us: 14_000_000,
            seed: 12,
        }
    }
}

/// A number from `low` to `high`.
fn pick(state: &mut u64, low: u64, high: u64) -> u64 {
    // xorshift64* (Vigna 2016).
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    let value = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
    low + value % (high - low + 1)
}

/// A trace of this shape: firmware that reads one thing after the other, then a system that reads up to eight at
/// once, writes, reads back some of what it wrote, and flushes.
#[must_use]
pub fn synthetic(shape: &Shape) -> Trace {
    let mut state = shape.seed | 1 << 40;
    let reads = shape.firmware_reads + shape.os_reads;
    let steps = u64::from(reads + shape.writes + shape.flushes).max(1);
    let think = shape.think_us / steps;
    let mean = |bytes: u64, count: u32| (bytes / u64::from(count.max(1)) / 512).max(1) * 512;
    let (read_len, write_len) = (
        mean(shape.read_bytes, reads),
        mean(shape.write_bytes, shape.writes),
    );
    let mut boot = Making {
        ops: Vec::new(),
        at_us: 1000,
        disk: shape.disk_bytes,
    };
    for _ in 0..shape.firmware_reads {
        boot.op(0, OpKind::Read, read_len, 400, &mut state);
        boot.at_us += 400 + think;
    }
    let os_at = boot.at_us + 2 * think;
    boot.at_us = os_at + think + 1;
    let every = |count: u32| (shape.os_reads / count.max(1)).max(1);
    let (mut written, mut flushed) = (0, 0);
    for n in 0..shape.os_reads {
        boot.op(1, OpKind::Read, read_len, 500, &mut state);
        // Bursts of eight at once.
        if n % 8 == 7 {
            boot.at_us += 600 + 8 * think;
        }
        if n % every(shape.writes) == 0 && written < shape.writes {
            written += 1;
            boot.op(1, OpKind::Write, write_len, 300, &mut state);
            boot.at_us += 400;
            if written % 5 == 0 {
                boot.again(think);
            }
        }
        if n % every(shape.flushes) == 3 && flushed < shape.flushes {
            flushed += 1;
            boot.flush(think);
        }
    }
    let session = |initiator: &str, login_at_us, logout_at_us| Session {
        initiator: initiator.into(),
        login_at_us,
        logout_at_us,
    };
    Trace {
        about: vec![("origin".into(), "made up, not recorded".into())],
        disk_bytes: shape.disk_bytes,
        sessions: vec![
            session("firmware", 1000, Some(os_at.saturating_sub(1))),
            session("os", os_at, None),
        ],
        ops: boot.ops,
    }
}

struct Making {
    ops: Vec<Op>,
    at_us: u64,
    disk: u64,
}

impl Making {
    fn op(&mut self, session: u16, kind: OpKind, mean: u64, took_us: u32, state: &mut u64) {
        // Sizes from half to one and a half of the mean, in blocks of 4 KiB where there is room.
        let grid = if mean >= 8192 { 4096 } else { 512 };
        let len = (pick(state, mean / 2, mean + mean / 2) / grid).max(1) * grid;
        let len = len.min(self.disk / 2);
        let offset = pick(state, 0, (self.disk - len) / grid) * grid;
        self.ops.push(Op {
            session,
            at_us: self.at_us,
            took_us,
            kind,
            offset,
            len: u32::try_from(len).unwrap_or(4096),
            fua: kind == OpKind::Write && self.ops.len().is_multiple_of(3),
        });
    }

    /// Reads what was written last.
    fn again(&mut self, think: u64) {
        let Some(last) = self.ops.last().copied() else {
            return;
        };
        self.ops.push(Op {
            at_us: self.at_us,
            kind: OpKind::Read,
            fua: false,
            ..last
        });
        self.at_us += 400 + think;
    }

    fn flush(&mut self, think: u64) {
        self.at_us += 600;
        self.ops.push(Op {
            session: 1,
            at_us: self.at_us,
            took_us: 900,
            kind: OpKind::Flush,
            offset: 0,
            len: 0,
            fua: false,
        });
        self.at_us += 1000 + think;
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn it_has_the_shape_that_was_asked_for_and_survives_its_file() {
        let trace = synthetic(&Shape::debian12());
        let sum = trace.summary();
        assert!(sum.reads >= 3024 && sum.reads < 3060, "{}", sum.reads);
        assert_eq!((sum.writes, sum.flushes), (97, 12));
        assert!(
            sum.read_bytes.abs_diff(78_000_000) < 6_000_000,
            "{}",
            sum.read_bytes
        );
        assert!(
            sum.write_bytes.abs_diff(2_700_000) < 600_000,
            "{}",
            sum.write_bytes
        );
        assert!(sum.depth_max >= 8, "{}", sum.depth_max);
        assert_eq!(Trace::read(&trace.write()).unwrap(), trace);
    }
}
