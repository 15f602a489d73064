//! What I/O threads do for a connection: one block operation, or the writes that it gathered.

use std::time::Instant;

use super::connection::TaskId;
use super::ops;
use super::sanitize::Gate;
use crate::scsi::{BlockOp, Failure, Outcome};
use crate::store::{Buffer, ErrorKind, Payload, Volume};

/// One block operation that was run.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) task: TaskId,
    pub(super) outcome: Outcome,
    pub(super) error: Option<ErrorKind>,
    pub(super) payload: Option<Payload>,
    /// Comes back so that the connection's thread gets it for its free list.
    pub(super) buffer: Option<Buffer>,
    /// Bytes that it brought to the disk, if it went well.
    pub(super) written: u64,
    pub(super) read: bool,
    pub(super) since: Instant,
}

/// One block operation to run.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) task: TaskId,
    pub(super) op: BlockOp,
    pub(super) data: Option<(Buffer, usize)>,
    /// When it was asked for, as sanitize operations count.
    pub(super) epoch: u64,
    pub(super) since: Instant,
}

/// Runs gathered plain writes in their order; may block.
pub(super) fn run_writes(items: Vec<Item>, volume: &Volume, gate: &Gate) -> Vec<Finished> {
    let entered = gate.enter_many();
    let mut writes = Vec::with_capacity(items.len());
    for item in &items {
        if let BlockOp::Write { range, .. } = &item.op
            && item.epoch == *entered
        {
            writes.push((*range, item.data()));
        }
    }
    let mut done = ops::run_writes(volume, &writes).into_iter();
    let finish = |item: Item| {
        let runs = item.epoch == *entered;
        match runs.then(|| done.next()).flatten() {
            Some((outcome, error)) => item.finish(outcome, None, error),
            None => item.turned_away(),
        }
    };
    items.into_iter().map(finish).collect()
}

impl Item {
    fn data(&self) -> &[u8] {
        match &self.data {
            Some((buffer, len)) => buffer.get(..*len).unwrap_or_default(),
            None => &[],
        }
    }

    /// Runs it; may block.
    pub(super) fn run(self, volume: &Volume, gate: &Gate) -> Finished {
        let changes = ops::writes(&self.op);
        let entered = if changes {
            gate.enter(self.epoch)
        } else {
            None
        };
        if changes && entered.is_none() {
            return self.turned_away();
        }
        let (outcome, payload, error) = ops::run(volume, &self.op, self.data());
        self.finish(outcome, payload, error)
    }

    fn finish(
        self,
        outcome: Outcome,
        payload: Option<Payload>,
        error: Option<ErrorKind>,
    ) -> Finished {
        Finished {
            task: self.task,
            outcome,
            error,
            payload,
            written: ops::written_bytes(&self.op),
            read: matches!(self.op, BlockOp::Read(_)),
            since: self.since,
            buffer: self.data.map(|(buffer, _)| buffer),
        }
    }

    /// A sanitize operation came before it.
    fn turned_away(self) -> Finished {
        let outcome = match self.op {
            BlockOp::Copy { list, .. } => Outcome::Copied {
                list,
                segments: 0,
                failure: Some(Failure::Aborted),
            },
            _ => Outcome::Failed(Failure::Aborted),
        };
        Finished {
            task: self.task,
            outcome,
            error: None,
            payload: None,
            written: 0,
            read: false,
            since: self.since,
            buffer: self.data.map(|(buffer, _)| buffer),
        }
    }
}
