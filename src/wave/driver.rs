//! The shell of the waves: feeds events and time to the campaigns' machines, carries out what they say.
//!
//! One task owns the loop; `Waves` is the handle that others hold. A machine is only ever touched under the
//! lock, and nothing slow is done under it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::machine::{Effect, Machine, Summary};
use super::settle::Settle;
use super::spec::Spec;
use crate::events::{Event, EventKind, Follower, ReadyBy};
use crate::head::Head;
use crate::limits;
use crate::names::NodeName;
use crate::power::{Action, Exec, PowerError, Target};
use crate::units::UnixMillis;

/// Why a campaign cannot be started or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CampaignError {
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Nodes are in another campaign.
    #[error("{0}")]
    Busy(String),
    /// No such campaign.
    #[error("there is no campaign {0} under way; see `reveille campaign ls`")]
    NotFound(u64),
}

/// All campaigns of this head.
#[derive(Debug)]
pub struct Waves {
    head: Arc<Head>,
    state: Mutex<State>,
    changed: Notify,
    power_slots: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    campaigns: BTreeMap<u64, Machine>,
    /// Campaigns whose effects are still to be carried out.
    active: BTreeSet<u64>,
    /// The unfinished campaign that a node is in.
    owner: HashMap<NodeName, u64>,
    /// Campaigns to be written down.
    dirty: HashSet<u64>,
}

/// A power command ended badly.
struct PowerFailed(NodeName, String);

impl Waves {
    /// Reads back the campaigns that were under way and takes them up; the loop runs until the runtime ends.
    /// Call inside a tokio runtime.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn start(head: Arc<Head>) -> Result<Arc<Self>, crate::head::HeadError> {
        let mut state = State::default();
        let now = UnixMillis::now();
        for (id, text) in head.campaigns()? {
            match serde_json::from_str::<Machine>(&text) {
                Ok(mut machine) => {
                    if machine.finished().is_none() {
                        machine.resume(now);
                        state.active.insert(id);
                        let nodes = machine.entries().iter().map(|e| (e.node.clone(), id));
                        state.owner.extend(nodes);
                    }
                    state.campaigns.insert(id, machine);
                }
                Err(error) => tracing::error!(id, %error, "a campaign cannot be read back"),
            }
        }
        let waves = Arc::new(Self {
            head,
            state: Mutex::new(state),
            changed: Notify::new(),
            power_slots: Arc::new(Semaphore::new(limits::POWER_PARALLEL)),
        });
        tokio::spawn(Arc::clone(&waves).run());
        Ok(waves)
    }

    /// Starts a campaign and gives its number.
    ///
    /// # Errors
    /// A bad specification, or nodes that another campaign is booting.
    pub fn begin(&self, spec: Spec) -> Result<u64, CampaignError> {
        spec.check().map_err(CampaignError::Invalid)?;
        // What their boots read comes into memory while they are switched on.
        let names = spec.nodes.iter().map(|n| &n.name);
        self.head.expect_boots(names);
        let now = UnixMillis::now();
        let mut state = self.lock();
        for node in &spec.nodes {
            if let Some(id) = state.owner.get(&node.name) {
                return Err(CampaignError::Busy(format!(
                    "node {} is being booted by campaign {id}; wait for it or abort it first",
                    node.name
                )));
            }
        }
        let id = self
            .head
            .next_campaign()
            .map_err(|e| CampaignError::Busy(e.to_string()))?;
        let (nodes, wave) = (spec.nodes.len(), spec.wave);
        let owned = spec.nodes.iter().map(|n| (n.name.clone(), id));
        state.owner.extend(owned);
        state.active.insert(id);
        state.campaigns.insert(id, Machine::new(spec, now));
        state.dirty.insert(id);
        drop(state);
        self.tell(id, "started", format!("{nodes} nodes in waves of {wave}"));
        self.changed.notify_one();
        Ok(id)
    }

    /// Ends a campaign; its nodes are let through.
    ///
    /// # Errors
    /// No such campaign under way.
    pub fn abort(&self, id: u64) -> Result<(), CampaignError> {
        let mut state = self.lock();
        let machine = state
            .campaigns
            .get_mut(&id)
            .filter(|m| m.finished().is_none())
            .ok_or(CampaignError::NotFound(id))?;
        machine.abort(UnixMillis::now());
        state.dirty.insert(id);
        drop(state);
        self.tell(id, "aborted", "by request".to_owned());
        self.changed.notify_one();
        Ok(())
    }

    /// A copy of a campaign.
    #[must_use]
    pub fn campaign(&self, id: u64) -> Option<Machine> {
        self.lock().campaigns.get(&id).cloned()
    }

    /// A copy of every campaign known, oldest first.
    #[must_use]
    pub fn campaigns(&self) -> Vec<(u64, Machine)> {
        let state = self.lock();
        let all = state.campaigns.iter();
        all.map(|(id, machine)| (*id, machine.clone())).collect()
    }

    /// Switches nodes outside any campaign, [`limits::POWER_PARALLEL`] at a time; answers those that failed.
    pub async fn power(
        self: &Arc<Self>,
        nodes: Vec<NodeName>,
        action: Action,
    ) -> Vec<(NodeName, PowerError)> {
        let mut running = JoinSet::new();
        for node in nodes {
            let waves = Arc::clone(self);
            running.spawn(async move {
                let result = waves.switch(&node, action).await;
                result.err().map(|error| (node, error))
            });
        }
        let mut failed: Vec<_> = running.join_all().await.into_iter().flatten().collect();
        failed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        failed
    }

    async fn run(self: Arc<Self>) {
        let (power_failed, mut failures) = mpsc::unbounded_channel();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut settle = Settle::default();
        let mut events = Follower::from_now(self.head.bus());
        loop {
            tokio::select! {
                () = events.ready() => {
                    while let Some(event) = events.try_next() {
                        self.hear(&event, &mut settle);
                    }
                }
                Some(PowerFailed(node, why)) = failures.recv() => self.power_failed(&node, &why),
                _ = second.tick() => {
                    self.tick(&mut settle);
                    self.save().await;
                }
                () = self.changed.notified() => {}
            }
            self.carry_out(&power_failed);
        }
    }

    fn hear(&self, event: &Event, settle: &mut Settle) {
        settle.apply(event);
        let Some(node) = &event.node else { return };
        let mut state = self.lock();
        let Some(&id) = state.owner.get(node) else {
            return;
        };
        if let Some(machine) = state.campaigns.get_mut(&id) {
            machine.apply(event, event.at);
            state.dirty.insert(id);
        }
    }

    fn power_failed(&self, node: &NodeName, why: &str) {
        let mut state = self.lock();
        let Some(&id) = state.owner.get(node) else {
            return;
        };
        if let Some(machine) = state.campaigns.get_mut(&id) {
            machine.power_failed(node, why, UnixMillis::now());
            state.dirty.insert(id);
        }
    }

    fn tick(&self, settle: &mut Settle) {
        let now = UnixMillis::now();
        let bus = self.head.bus();
        for node in settle.settled(now, |node| bus.traffic(node).totals().last_io) {
            let by = ReadyBy::Settled;
            bus.publish(Some(&node), EventKind::Ready { by });
        }
        for machine in self.lock().campaigns.values_mut() {
            if machine.finished().is_none() {
                machine.tick(now);
            }
        }
    }

    /// Takes the effects of all unfinished campaigns and carries them out.
    fn carry_out(self: &Arc<Self>, power_failed: &mpsc::UnboundedSender<PowerFailed>) {
        let mut effects = Vec::new();
        {
            let mut state = self.lock();
            let State {
                campaigns, active, ..
            } = &mut *state;
            for &id in &*active {
                if let Some(machine) = campaigns.get_mut(&id) {
                    effects.extend(std::iter::from_fn(|| machine.poll()).map(|e| (id, e)));
                }
            }
        }
        for (id, effect) in effects {
            self.carry_out_one(id, effect, power_failed);
        }
    }

    fn carry_out_one(
        self: &Arc<Self>,
        id: u64,
        effect: Effect,
        power_failed: &mpsc::UnboundedSender<PowerFailed>,
    ) {
        match effect {
            Effect::Hold { node, queued } => self.head.gate().hold(&node, queued),
            Effect::Admit(node) => self.head.gate().admit(&node),
            Effect::Power(node, action) => {
                let waves = Arc::clone(self);
                let power_failed = power_failed.clone();
                tokio::spawn(async move {
                    if let Err(error) = waves.switch(&node, action).await {
                        // The loop lives as long as the runtime that this task runs on.
                        let _ = power_failed.send(PowerFailed(node, error.0));
                    }
                });
            }
            Effect::Fail {
                node,
                stage,
                reason,
                next,
            } => self.head.bus().publish(
                Some(&node),
                EventKind::Failed {
                    stage,
                    reason,
                    next,
                },
            ),
            Effect::Finished(summary) => self.finished(id, summary),
        }
    }

    fn finished(&self, id: u64, summary: Summary) {
        let mut state = self.lock();
        state.owner.retain(|_, owner| *owner != id);
        state.active.remove(&id);
        state.dirty.insert(id);
        drop(state);
        let Summary {
            nodes, up, failed, ..
        } = summary;
        self.tell(
            id,
            "finished",
            format!("{up} of {nodes} nodes up, {failed} failed"),
        );
    }

    /// Runs a node's power command and tells what came of it.
    async fn switch(&self, node: &NodeName, action: Action) -> Result<(), PowerError> {
        let record = self.head.snapshot().node(node.as_str()).cloned();
        let record = record.ok_or_else(|| PowerError(format!("node {node} was removed")))?;
        let template = record.power.as_deref().ok_or_else(|| {
            PowerError(format!(
                "node {node} has no power command; set one with `node set {node} --power`"
            ))
        })?;
        let exec = Exec::parse(template)?;
        let target = Target {
            node: node.clone(),
            mac: record.macs.first().copied(),
        };
        let told = |error: Option<String>| EventKind::Power {
            action: action.word().to_owned(),
            error,
        };
        let _slot = self.power_slots.acquire().await;
        self.head.bus().publish(Some(node), told(None));
        let result = exec.run(action, &target).await;
        if let Err(error) = &result {
            self.head
                .bus()
                .publish(Some(node), told(Some(error.0.clone())));
        }
        result
    }

    /// Writes changed campaigns down, so that they go on after a restart.
    async fn save(&self) {
        let changed: Vec<(u64, String)> = {
            let mut state = self.lock();
            let dirty = std::mem::take(&mut state.dirty);
            let text = |id: u64| {
                let machine = state.campaigns.get(&id)?;
                serde_json::to_string(machine).ok().map(|text| (id, text))
            };
            dirty.into_iter().filter_map(text).collect()
        };
        if changed.is_empty() {
            return;
        }
        let head = Arc::clone(&self.head);
        let written = tokio::task::spawn_blocking(move || {
            changed
                .iter()
                .try_for_each(|(id, text)| head.put_campaign(*id, text))
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "a campaign could not be written down"),
            Err(error) => tracing::error!(%error, "writing a campaign down was interrupted"),
        }
    }

    fn tell(&self, id: u64, state: &str, detail: String) {
        let state = state.to_owned();
        let kind = EventKind::Campaign { id, state, detail };
        self.head.bus().publish(None, kind);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
