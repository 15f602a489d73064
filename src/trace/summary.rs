//! What a trace holds, in figures.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};

use super::{Op, OpKind, Trace};

/// What a trace holds. Distinct: bytes of the disk, each counted once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// READs.
    pub reads: u64,
    /// Bytes that they read.
    pub read_bytes: u64,
    /// Bytes of the disk that they read.
    pub read_bytes_distinct: u64,
    /// WRITEs.
    pub writes: u64,
    /// Bytes that they wrote.
    pub write_bytes: u64,
    /// Bytes of the disk that they wrote.
    pub write_bytes_distinct: u64,
    /// Ops that had to be on the medium before their answer.
    pub fua: u64,
    /// Flushes.
    pub flushes: u64,
    /// UNMAPs, and WRITE SAMEs of zeros.
    pub unmaps: u64,
    /// From the first login to the last end, microseconds.
    pub span_us: u64,
    /// Of it, the time in which at least one op was under way, microseconds. The rest is thinking.
    pub busy_us: u64,
    /// Most ops under way at one time.
    pub depth_max: u64,
    /// Each session.
    pub sessions: Vec<SessionSummary>,
}

/// What one session did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// What logged in.
    pub initiator: String,
    /// When, microseconds.
    pub login_at_us: u64,
    /// When it ended, microseconds.
    pub logout_at_us: Option<u64>,
    /// READs.
    pub reads: u64,
    /// Bytes that they read.
    pub read_bytes: u64,
    /// WRITEs.
    pub writes: u64,
    /// Bytes that they wrote.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

pub(super) fn of(trace: &Trace) -> Summary {
    let mut sum = Summary::default();
    for session in &trace.sessions {
        sum.sessions.push(SessionSummary {
            initiator: session.initiator.clone(),
            login_at_us: session.login_at_us,
            logout_at_us: session.logout_at_us,
            ..SessionSummary::default()
        });
        let end = session.logout_at_us.unwrap_or(session.login_at_us);
        sum.span_us = sum.span_us.max(end);
    }
    for op in &trace.ops {
        add(&mut sum, op);
    }
    sum.read_bytes_distinct = distinct(trace, OpKind::Read);
    sum.write_bytes_distinct = distinct(trace, OpKind::Write);
    (sum.depth_max, sum.busy_us) = depth(&trace.ops);
    sum
}

fn add(sum: &mut Summary, op: &Op) {
    let bytes = u64::from(op.len);
    let mut of_session = SessionSummary::default();
    let session = sum.sessions.get_mut(usize::from(op.session));
    let session = session.unwrap_or(&mut of_session);
    match op.kind {
        OpKind::Read => {
            sum.reads += 1;
            sum.read_bytes += bytes;
            session.reads += 1;
            session.read_bytes += bytes;
        }
        OpKind::Write => {
            sum.writes += 1;
            sum.write_bytes += bytes;
            session.writes += 1;
            session.write_bytes += bytes;
        }
        OpKind::Flush => {
            sum.flushes += 1;
            session.flushes += 1;
        }
        OpKind::Unmap | OpKind::WriteSame => sum.unmaps += 1,
    }
    sum.fua += u64::from(op.fua);
    sum.span_us = sum.span_us.max(op.end_us());
}

/// Bytes of the disk that ops of a kind touched.
fn distinct(trace: &Trace, kind: OpKind) -> u64 {
    let of_kind = trace.ops.iter().filter(|op| op.kind == kind);
    let span = |op: &Op| (op.offset, op.offset.saturating_add(u64::from(op.len)));
    union(of_kind.map(span).collect())
}

/// How much of a line the spans cover.
fn union(mut spans: Vec<(u64, u64)>) -> u64 {
    spans.sort_unstable();
    let (mut covered, mut reached) = (0, 0);
    for (from, to) in spans {
        let from = reached.max(from);
        covered += to.saturating_sub(from);
        reached = reached.max(to);
    }
    covered
}

/// Most ops under way at one time, and for how long any was.
fn depth(ops: &[Op]) -> (u64, u64) {
    let mut running = BinaryHeap::new();
    let mut most = 0;
    for op in ops {
        while running.peek().is_some_and(|Reverse(end)| *end <= op.at_us) {
            running.pop();
        }
        running.push(Reverse(op.end_us()));
        most = most.max(running.len() as u64);
    }
    let spans = ops.iter().map(|op| (op.at_us, op.end_us())).collect();
    (most, union(spans))
}
