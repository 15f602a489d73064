//! The bus: publishes events, keeps the newest, knows each node's boot under way.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use super::{Event, EventKind, Traffic};
use crate::limits;
use crate::names::{BootId, NodeName};
use crate::units::UnixMillis;

/// Hears events as they come. `recv` answers `Lagged(n)` after missing `n` of them.
pub type Subscription = broadcast::Receiver<Arc<Event>>;

/// Where events are told. Shared by every room of the daemon as an `Arc`.
#[derive(Debug)]
pub struct Bus {
    live: broadcast::Sender<Arc<Event>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    seq: u64,
    last_boot: u64,
    kept: VecDeque<Arc<Event>>,
    nodes: HashMap<NodeName, NodeNow>,
}

#[derive(Debug, Default)]
struct NodeNow {
    boot: Option<BootId>,
    traffic: Arc<Traffic>,
}

impl Bus {
    /// A bus whose first boot id follows `last_boot` (the last one this head ever gave out; the time in
    /// milliseconds serves when no record is kept, since it never goes back far).
    #[must_use]
    pub fn new(last_boot: u64) -> Self {
        let (live, _) = broadcast::channel(limits::EVENTS_LAG);
        let inner = Inner {
            last_boot,
            ..Inner::default()
        };
        Self {
            live,
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what happened; attaches the time, a number, and the node's boot under way.
    pub fn publish(&self, node: Option<&NodeName>, kind: EventKind) {
        let mut inner = self.lock();
        let boot = node.and_then(|n| inner.nodes.get(n)).and_then(|n| n.boot);
        inner.seq += 1;
        let event = Arc::new(Event {
            seq: inner.seq,
            at: UnixMillis::now(),
            node: node.cloned(),
            boot,
            kind,
        });
        if inner.kept.len() == limits::EVENTS_KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(Arc::clone(&event));
        // Sent under the lock so that subscribers see the order of `seq`; the channel never blocks.
        let _ = self.live.send(event);
    }

    /// Begins a new boot attempt of `node`: a fresh boot id and traffic counted from zero.
    pub fn begin_boot(&self, node: &NodeName, cause: &str) -> BootId {
        let boot = {
            let mut inner = self.lock();
            inner.last_boot += 1;
            let boot = BootId(inner.last_boot);
            let now = inner.nodes.entry(node.clone()).or_default();
            now.boot = Some(boot);
            now.traffic.reset();
            boot
        };
        let cause = cause.to_owned();
        self.publish(Some(node), EventKind::BootStarted { cause });
        boot
    }

    /// Takes up a boot that began before this process did, unless a newer one is known.
    pub fn resume_boot(&self, node: &NodeName, boot: BootId) {
        let mut inner = self.lock();
        let now = inner.nodes.entry(node.clone()).or_default();
        now.boot.get_or_insert(boot);
    }

    /// The boot attempt of `node` under way, or its last one.
    #[must_use]
    pub fn current_boot(&self, node: &NodeName) -> Option<BootId> {
        self.lock().nodes.get(node).and_then(|n| n.boot)
    }

    /// The counters that the node's sessions add to.
    #[must_use]
    pub fn traffic(&self, node: &NodeName) -> Arc<Traffic> {
        let mut inner = self.lock();
        Arc::clone(&inner.nodes.entry(node.clone()).or_default().traffic)
    }

    /// Forgets a node that was removed.
    pub fn forget(&self, node: &NodeName) {
        self.lock().nodes.remove(node);
    }

    /// The kept events with a number above `after`, oldest first.
    #[must_use]
    pub fn since(&self, after: u64) -> Vec<Arc<Event>> {
        let inner = self.lock();
        let from = inner.kept.partition_point(|e| e.seq <= after);
        inner.kept.range(from..).cloned().collect()
    }

    /// The kept events with a number above `after`, oldest first, and a subscription that goes on
    /// exactly where they end.
    #[must_use]
    pub fn replay_and_subscribe(&self, after: u64) -> (Vec<Arc<Event>>, Subscription) {
        let inner = self.lock();
        let from = inner.kept.partition_point(|e| e.seq <= after);
        let kept = inner.kept.range(from..).cloned().collect();
        (kept, self.live.subscribe())
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::events::ReadyBy;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[test]
    fn events_carry_the_boot_under_way() {
        let bus = Bus::new(41);
        let ready = EventKind::Ready { by: ReadyBy::Call };
        bus.publish(Some(&node("a")), ready.clone());
        let boot = bus.begin_boot(&node("a"), "test");
        bus.publish(Some(&node("a")), ready.clone());
        bus.publish(Some(&node("b")), ready);
        let (kept, _) = bus.replay_and_subscribe(0);
        let boots: Vec<_> = kept.iter().map(|e| e.boot).collect();
        assert_eq!(boot, BootId(42));
        assert_eq!(boots, [None, Some(boot), Some(boot), None]);
    }

    #[test]
    fn a_boot_goes_on_after_a_restart_unless_a_newer_one_began() {
        let bus = Bus::new(9);
        bus.resume_boot(&node("a"), BootId(7));
        assert_eq!(bus.current_boot(&node("a")), Some(BootId(7)));
        let newer = bus.begin_boot(&node("a"), "test");
        bus.resume_boot(&node("a"), BootId(7));
        assert_eq!(bus.current_boot(&node("a")), Some(newer));
    }

    #[tokio::test]
    async fn replay_and_subscription_leave_no_gap() {
        let bus = Bus::new(0);
        for _ in 0..5 {
            bus.publish(None, EventKind::Ready { by: ReadyBy::Call });
        }
        let (kept, mut live) = bus.replay_and_subscribe(2);
        bus.publish(None, EventKind::Ready { by: ReadyBy::Call });
        let seqs: Vec<_> = kept.iter().map(|e| e.seq).collect();
        assert_eq!(seqs, [3, 4, 5]);
        assert_eq!(live.recv().await.unwrap().seq, 6);
    }

    #[test]
    fn memory_is_bounded() {
        let bus = Bus::new(0);
        for _ in 0..limits::EVENTS_KEPT + 10 {
            bus.publish(None, EventKind::Ready { by: ReadyBy::Call });
        }
        let (kept, _) = bus.replay_and_subscribe(0);
        assert_eq!(kept.len(), limits::EVENTS_KEPT);
        assert_eq!(kept[0].seq, 11);
    }
}
