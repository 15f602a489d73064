//! What all connections share: who is there, who may come in, what memory is left, and what was refused.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bounds::Bounds;
use super::budget::Budget;
use super::driver::{Handle, Note};
use super::gate::{self, Cause, Gate, Place, Verdict};
use super::mailbox::{self, mailbox};
use super::metrics::{Gauges, Metrics};
use super::pace::Pace;
use super::recorder::Recorders;
use super::refusals::{BackOff, Teller, Told};
use super::target::{Targets, lock};
use crate::events::EventKind;
use crate::limits;
use crate::names::{Iqn, NodeName};
use crate::store::Pool;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) targets: Targets,
    pub(super) pool: Arc<Pool>,
    pub(super) metrics: Metrics,
    /// Memory of all connections.
    pub(super) budget: Arc<Budget>,
    pub(super) recorders: Recorders,
    door: Mutex<Door>,
    back_off: Mutex<BackOff>,
    entries: Mutex<Pace<NodeName>>,
    discoveries: Mutex<HashMap<IpAddr, usize>>,
    refusals: Mutex<Teller<Source, Refused>>,
    links: Mutex<HashMap<u64, Handle>>,
    /// A connection has ended.
    unlinked: Condvar,
    next_link: AtomicU64,
    stopped: AtomicBool,
    pub(super) bounds: Bounds,
}

#[derive(Debug)]
struct Door {
    gate: Gate,
    /// How to reach those who wait at the gate.
    handles: HashMap<Place, Handle>,
}

/// What is counted as one source of refusals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Source {
    address: IpAddr,
    node: Option<NodeName>,
    status: u16,
}

#[derive(Debug)]
struct Refused {
    peer: SocketAddr,
    why: Cow<'static, str>,
}

/// A place among the connections that have not logged in. Dropped before `pass`, it counts as a failure of
/// its address.
#[derive(Debug)]
pub(super) struct Newcomer {
    shared: Arc<Shared>,
    place: Place,
    address: IpAddr,
    pub(super) handle: Handle,
    pub(super) notes: Option<mailbox::Receiver<Note>>,
    passed: bool,
}

impl Newcomer {
    /// It has logged in, or it is not its fault that it did not.
    pub(super) const fn pass(&mut self) {
        self.passed = true;
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut door = lock(&self.shared.door);
        door.handles.remove(&self.place);
        if self.passed || self.shared.is_stopped() {
            door.gate.pass(self.place);
        } else {
            self.shared.metrics.unfinished.add(1);
            door.gate.fail(self.place, self.address, Instant::now());
        }
    }
}

/// An entry in the list of all connections; taken out on drop.
#[derive(Debug)]
pub(super) struct Link(Arc<Shared>, u64);

impl Drop for Link {
    fn drop(&mut self) {
        lock(&self.0.links).remove(&self.1);
        // Only the end of the server waits for it, and tells so first; telling nobody would still cost a call.
        if self.0.stopped.load(SeqCst) {
            self.0.unlinked.notify_all();
        }
    }
}

/// One of the sessions that there are, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<Shared>);

impl Counted {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.metrics.sessions.add(1);
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.sessions.take_one();
    }
}

/// A discovery session's place; given back on drop.
#[derive(Debug)]
pub(super) struct Discovery(Arc<Shared>, IpAddr);

impl Drop for Discovery {
    fn drop(&mut self) {
        let mut all = lock(&self.0.discoveries);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

impl Shared {
    pub(super) fn new(targets: Targets, pool: Arc<Pool>, bounds: Bounds) -> Self {
        Self {
            targets,
            pool,
            metrics: Metrics::default(),
            budget: Arc::new(Budget::new(bounds.data_bytes)),
            recorders: Recorders::default(),
            door: Mutex::new(Door {
                gate: Gate::new(bounds.newcomers, bounds.newcomers_per_address),
                handles: HashMap::new(),
            }),
            back_off: Mutex::default(),
            entries: Mutex::new(Pace::new(
                limits::ENTRY_EVERY,
                limits::ENTRY_BURST,
                limits::SESSIONS_MAX,
            )),
            discoveries: Mutex::default(),
            refusals: Mutex::default(),
            links: Mutex::default(),
            unlinked: Condvar::new(),
            bounds,
            next_link: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
        }
    }

    /// Counts a connection that was accepted; none when it has to go at once. Another may have to go for it.
    pub(super) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<Newcomer> {
        self.metrics.accepted.add(1);
        let mut door = lock(&self.door);
        match door.gate.arrive(peer.ip(), Instant::now()) {
            Verdict::Enter { place, evict } => {
                if let Some(evicted) = evict.and_then(|place| door.handles.remove(&place)) {
                    self.metrics.evicted.add(1);
                    let _ = evicted.send(leave("others wait for its place"));
                }
                let (handle, notes) = mailbox();
                door.handles.insert(place, handle.clone());
                drop(door);
                Some(Newcomer {
                    shared: Arc::clone(self),
                    place,
                    address: peer.ip(),
                    handle,
                    notes: Some(notes),
                    passed: false,
                })
            }
            Verdict::TurnAway(cause) => {
                drop(door);
                self.turn_away(peer, cause);
                None
            }
        }
    }

    fn turn_away(&self, peer: SocketAddr, cause: Cause) {
        self.metrics.turned_away.add(1);
        self.refused(peer, None, 0, Cow::Borrowed(cause.why()));
    }

    /// Gives back what the greediest of the strangers holds: file numbers are short.
    pub(super) fn shed(&self) {
        let mut door = lock(&self.door);
        let victim = door.gate.shed();
        if let Some(handle) = victim.and_then(|place| door.handles.remove(&place)) {
            self.metrics.evicted.add(1);
            let _ = handle.send(leave("file numbers are short"));
        }
    }

    /// Makes a connection reachable for drain and shutdown.
    pub(super) fn register(self: &Arc<Self>, handle: &Handle) -> Link {
        let number = self.next_link.fetch_add(1, Relaxed);
        lock(&self.links).insert(number, handle.clone());
        // Asked after the entry is made: `stop` either finds the entry or is found here.
        if self.stopped.load(SeqCst) {
            let _ = handle.send(leave("the head stops"));
        }
        Link(Arc::clone(self), number)
    }

    /// A place for a discovery session, when there is one.
    pub(super) fn discover(self: &Arc<Self>, address: IpAddr) -> Option<Discovery> {
        let source = gate::source(address);
        let mut all = lock(&self.discoveries);
        let whole: usize = all.values().sum();
        let own = all.get(&source).copied().unwrap_or(0);
        if whole >= limits::DISCOVERY_MAX || own >= limits::DISCOVERY_PER_ADDRESS {
            return None;
        }
        all.insert(source, own + 1);
        Some(Discovery(Arc::clone(self), source))
    }

    /// How long a login to `node` waits for its turn; none when that is not worth waiting for.
    pub(super) fn entry_wait(&self, node: &NodeName, patience: Duration) -> Option<Duration> {
        let now = Instant::now();
        let mut entries = lock(&self.entries);
        (entries.wait(node, now) < patience).then(|| entries.take(node, now))
    }

    /// A wrong secret came: how long its answer waits.
    pub(super) fn wrong_secret(&self, address: IpAddr, name: &Iqn) -> Duration {
        self.metrics.delayed.add(1);
        let source = gate::source(address);
        lock(&self.back_off).failed(source, name, Instant::now())
    }

    /// The right secret came.
    pub(super) fn right_secret(&self, address: IpAddr, name: &Iqn) {
        lock(&self.back_off).passed(gate::source(address), name);
    }

    /// Something was refused: it is told once, then counted and told now and then. A status of 0 means that
    /// there was no answer; such things are for the log only.
    pub(super) fn refused(
        &self,
        peer: SocketAddr,
        node: Option<NodeName>,
        status: u16,
        why: Cow<'static, str>,
    ) {
        let source = Source {
            address: gate::source(peer.ip()),
            node,
            status,
        };
        let refused = Refused { peer, why };
        let told = lock(&self.refusals).happened(&source, refused, Instant::now());
        if let Some(told) = told {
            self.tell(&source, told);
        }
    }

    /// Tells what was only counted so far; called now and then.
    pub(super) fn tell_due(&self) {
        let (due, others) = {
            let mut refusals = lock(&self.refusals);
            (refusals.due(Instant::now()), refusals.take_others())
        };
        for (source, told) in due {
            self.tell(&source, told);
        }
        if others > 0 {
            tracing::info!(others, "refused connections of further sources");
        }
    }

    fn tell(&self, source: &Source, told: Told<Refused>) {
        let Told { what, more } = told;
        let why = match more {
            0 => what.why.into_owned(),
            _ => format!("{} (and {more} more from {})", what.why, source.address),
        };
        tracing::info!(peer = %what.peer, status = source.status, why, "login refused");
        if source.status != 0 {
            let event = EventKind::LoginRefused {
                peer: what.peer,
                status: source.status,
                why,
            };
            self.targets
                .head()
                .bus()
                .publish(source.node.as_ref(), event);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Asks every connection to end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, SeqCst);
        self.tell_all(|| leave("the head stops"));
    }

    /// From here on nobody new comes in.
    pub(super) fn close_door(&self) {
        self.stopped.store(true, SeqCst);
    }

    /// Lets every connection finish what is under way and close, and waits for that. True when all went in time.
    pub(super) fn finish(&self, patience: Duration) -> bool {
        self.tell_all(|| Note::Finish);
        let links = lock(&self.links);
        let waited = self
            .unlinked
            .wait_timeout_while(links, patience, |links| !links.is_empty());
        let (links, _) = waited.unwrap_or_else(PoisonError::into_inner);
        links.is_empty()
    }

    /// What is there now.
    pub(super) fn gauges(&self) -> Gauges {
        Gauges {
            connections: lock(&self.links).len(),
            memory: self.budget.held(),
            memory_max: self.budget.most(),
        }
    }

    /// Tells every connection.
    pub(super) fn tell_all(&self, note: impl Fn() -> Note) {
        for link in lock(&self.links).values() {
            let _ = link.send(note());
        }
    }
}

const fn leave(why: &'static str) -> Note {
    Note::Leave { why, done: None }
}
