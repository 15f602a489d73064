//! Boot services as a whole, over a head that is a table in memory: [`flows`] with bytes and a virtual
//! clock, [`live`] over real sockets on the loopback.

mod flows;
mod live;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use super::house::House;
use crate::catalog::{Binding, LayerMode, NodeRecord, PendingRecord};
use crate::events::{Bus, EventKind};
use crate::head::{Admission, Gate, HeadError, HeadErrorKind};
use crate::names::{BootId, ImageId, LayerId, Mac, NodeName};
use crate::units::UnixMillis;

/// A head without a state directory.
#[derive(Debug)]
struct Table {
    nodes: Mutex<HashMap<Mac, Arc<NodeRecord>>>,
    gate: Gate,
    bus: Bus,
    pending: Mutex<Vec<PendingRecord>>,
    prepared: Mutex<Vec<BootId>>,
    broken: Mutex<Option<HeadErrorKind>>,
    booted: Mutex<HashSet<NodeName>>,
}

impl Table {
    fn new(nodes: Vec<NodeRecord>) -> Arc<Self> {
        let table = Arc::new(Self {
            nodes: Mutex::default(),
            gate: Gate::default(),
            bus: Bus::new(0),
            pending: Mutex::default(),
            prepared: Mutex::default(),
            broken: Mutex::default(),
            booted: Mutex::default(),
        });
        nodes.into_iter().for_each(|n| table.add(n));
        table
    }

    fn add(&self, node: NodeRecord) {
        let node = Arc::new(node);
        for mac in &node.macs {
            self.nodes.lock().unwrap().insert(*mac, Arc::clone(&node));
        }
    }

    fn events(&self) -> Vec<EventKind> {
        let (kept, _) = self.bus.replay_and_subscribe(0);
        kept.iter().map(|e| e.kind.clone()).collect()
    }

    /// Names of the events with what matters in them.
    fn story(&self) -> Vec<String> {
        let tell = |e: &EventKind| match e {
            EventKind::BootStarted { .. } => "started".to_owned(),
            EventKind::Dhcp { client, file, .. } => format!("dhcp {client} {file}"),
            EventKind::Loader { file, by, .. } => format!("loader {file} {by}"),
            EventKind::Script { decision, image } => {
                format!("script {decision} {}", image.as_deref().unwrap_or("-"))
            }
            EventKind::Queued { place } => format!("queued {place}"),
            EventKind::Ready { .. } => "ready".to_owned(),
            EventKind::Failed { stage, reason, .. } => format!("failed {stage} {reason}"),
            EventKind::UnknownMachine { mac, arch } => format!("unknown {mac} {arch}"),
            other => format!("{other:?}"),
        };
        self.events().iter().map(tell).collect()
    }
}

impl House for Table {
    fn node(&self, mac: Mac) -> Option<Arc<NodeRecord>> {
        self.nodes.lock().unwrap().get(&mac).cloned()
    }

    fn fixed_addresses(&self) -> Vec<Ipv4Addr> {
        self.nodes
            .lock()
            .unwrap()
            .values()
            .filter_map(|n| n.ip)
            .collect()
    }

    fn is_booted(&self, node: &NodeName) -> bool {
        self.booted.lock().unwrap().contains(node)
    }

    fn admission(&self, node: &NodeName) -> Admission {
        self.gate.ask(node)
    }

    fn bus(&self) -> &Bus {
        &self.bus
    }

    fn prepare_boot(&self, _: &NodeName, boot: BootId) -> Result<Arc<Binding>, HeadError> {
        if let Some(kind) = *self.broken.lock().unwrap() {
            let message = "image `debian12` has no version; import one".to_owned();
            return Err(HeadError { kind, message });
        }
        self.prepared.lock().unwrap().push(boot);
        Ok(Arc::new(Binding {
            layer: LayerId(17),
            label: "debian12:3".into(),
            image: ImageId([0; 32]),
            mode: LayerMode::Ephemeral,
            boot,
            at: UnixMillis(0),
            began: None,
            moving: None,
            reservations: None,
        }))
    }

    fn note_pending(&self, machine: PendingRecord) -> Result<(), HeadError> {
        self.pending.lock().unwrap().push(machine);
        Ok(())
    }
}
