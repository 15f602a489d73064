//! PERSISTENT RESERVE OUT beside its connection: one change of a disk's reservations at a time, on stable
//! storage before it is answered (APTPL), and PREEMPT AND ABORT answered only when nothing of the preempted
//! sessions runs any more.
//!
//! ```text
//!   turn of this disk --> data_out --+--> Reply ------------------------------+--> commands of the
//!     (in order of arrival)          +--> Save --> I/O thread, fsync --> saved+     victims end --> answer
//! ```
//! The turn is given up before the wait for the victims: two sessions that preempt each other would wait for
//! each other otherwise.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::exec::{all, clear};
use super::target::{OpenTarget, Session, Unit};
use crate::catalog::{DiskReservations, Held, HeldType, ReservationKey};
use crate::head::Head;
use crate::limits;
use crate::names::NodeName;
use crate::scsi::{NexusId, Registrant, Registrations, Reply, Reservation, ReservationType};
use crate::scsi::{Saving, Sense, Step};
use crate::store::Pool;

/// PERSISTENT RESERVE OUT.
const OPCODE: u8 = 0x5F;

/// True for the commands that a [`Change`] carries out.
pub(super) fn is_change(cdb: &[u8]) -> bool {
    cdb.first() == Some(&OPCODE)
}

/// One PERSISTENT RESERVE OUT whose data-out is here.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) head: Arc<Head>,
    pub(super) pool: Arc<Pool>,
    pub(super) target: Arc<OpenTarget>,
    pub(super) node: NodeName,
    pub(super) nexus: NexusId,
    pub(super) unit: Unit,
    pub(super) cdb: Vec<u8>,
    pub(super) data: Vec<u8>,
}

impl Change {
    pub(super) fn new(
        session: &Session,
        unit: &Unit,
        pool: &Arc<Pool>,
        head: &Arc<Head>,
        (cdb, data): (&[u8], &[u8]),
    ) -> Self {
        Self {
            head: Arc::clone(head),
            pool: Arc::clone(pool),
            target: Arc::clone(session.target()),
            node: session.node.name.clone(),
            nexus: session.nexus,
            unit: unit.clone(),
            cdb: cdb.to_vec(),
            data: data.to_vec(),
        }
    }

    /// Carries it out; its answer.
    pub(super) async fn run(self) -> Step {
        let turn = self.unit.turn.lock().await;
        let step = self
            .unit
            .device()
            .data_out(self.nexus, &self.cdb, &self.data);
        let step = match step {
            Step::Save(kept) => {
                let end = self.save(kept).await;
                Step::Reply(self.unit.device().saved(end))
            }
            step => step,
        };
        drop(turn);
        match step {
            Step::Reply(reply) if !reply.abort.is_empty() => {
                Step::Reply(self.await_victims(reply).await)
            }
            step => step,
        }
    }

    async fn save(&self, kept: Option<Box<Registrations>>) -> Saving {
        let record = kept.map(|kept| record_of(*kept));
        let (done, wait) = oneshot::channel();
        let (head, node) = (Arc::clone(&self.head), self.node.clone());
        let disk = self.unit.disk.clone();
        let job = Box::new(move || {
            let _ = done.send(head.keep_reservations(&node, &disk, record.as_ref()));
        });
        if self.pool.submit(job).is_err() {
            return Saving::Busy;
        }
        match wait.await {
            Ok(Ok(())) => Saving::Done,
            Ok(Err(error)) => {
                tracing::error!(node = %self.node, %error, "reservations were not written down");
                Saving::Failed
            }
            Err(_) => Saving::Failed,
        }
    }

    /// GOOD promises that no write of a preempted session lands any more. When one hangs for too long, the
    /// reservation has changed hands all the same, but that promise cannot be given: 04/44/00.
    async fn await_victims(&self, mut reply: Reply) -> Reply {
        let victims = std::mem::take(&mut reply.abort);
        let victims = self.target.named(self.nexus, &victims);
        let (lun, tell) = (Some(self.unit.lun), self.unit.device().tells_aborts());
        let waits = all(clear(&victims, lun, tell));
        match tokio::time::timeout(limits::TASK_MANAGEMENT_WAIT, waits).await {
            Ok(()) => reply,
            Err(_) => {
                tracing::warn!(node = %self.node, "commands of a preempted session hang");
                self.unit.device().check(Sense::TARGET_FAILURE)
            }
        }
    }
}

const TYPES: [(ReservationType, HeldType); 6] = [
    (ReservationType::WriteExclusive, HeldType::WriteExclusive),
    (ReservationType::ExclusiveAccess, HeldType::ExclusiveAccess),
    (
        ReservationType::WriteExclusiveRegistrants,
        HeldType::WriteExclusiveRegistrantsOnly,
    ),
    (
        ReservationType::ExclusiveAccessRegistrants,
        HeldType::ExclusiveAccessRegistrantsOnly,
    ),
    (
        ReservationType::WriteExclusiveAll,
        HeldType::WriteExclusiveAllRegistrants,
    ),
    (
        ReservationType::ExclusiveAccessAll,
        HeldType::ExclusiveAccessAllRegistrants,
    ),
];

fn record_of(kept: Registrations) -> DiskReservations {
    let key = |r: Registrant| ReservationKey {
        port: r.port,
        key: r.key,
        all_ports: r.all_ports,
    };
    let held = |r: Reservation| {
        let found = TYPES.iter().find(|(kind, _)| *kind == r.kind);
        found.map(|&(_, kind)| Held { by: r.holder, kind })
    };
    DiskReservations {
        registrants: kept.registrants.into_iter().map(key).collect(),
        held: kept.reservation.and_then(held),
    }
}

/// What a logical unit takes back.
pub(super) fn from_record(record: &DiskReservations) -> Registrations {
    let registrant = |r: &ReservationKey| Registrant {
        port: r.port.clone(),
        key: r.key,
        all_ports: r.all_ports,
    };
    let reservation = |held: &Held| {
        let found = TYPES.iter().find(|(_, kind)| *kind == held.kind);
        let holder = held.by.clone();
        found.map(|&(kind, _)| Reservation { holder, kind })
    };
    Registrations {
        registrants: record.registrants.iter().map(registrant).collect(),
        reservation: record.held.as_ref().and_then(reservation),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_type_goes_to_the_file_and_comes_back() {
        for code in [1, 3, 5, 6, 7, 8] {
            let table = Registrations {
                registrants: vec![Registrant {
                    port: "iqn.2026-11.t:a,i,0x00023d000001".into(),
                    key: 7,
                    all_ports: code == 5,
                }],
                reservation: Some(Reservation {
                    holder: "iqn.2026-11.t:a,i,0x00023d000001".into(),
                    kind: ReservationType::of_code(code).unwrap(),
                }),
            };
            assert_eq!(from_record(&record_of(table.clone())), table);
        }
    }
}
