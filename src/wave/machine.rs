//! A campaign as a pure machine: hears events and the time, says who is powered, admitted or given up.
//!
//! ```text
//!            place free                     until-stage seen
//!   Queued ─────────────► Booting ──────────────────────────► Up
//!     ▲                      │ timeout, power error
//!     └──── attempts left ◄──┴────────────────► Failed (stage, reason, next step)
//! ```
//! Nodes without a power driver get a place only once they were seen asking; until then they hold none.

use std::collections::{BTreeSet, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::spec::{Spec, WaveSize};
use crate::events::{Event, EventKind, Stage};
use crate::limits;
use crate::names::{BootId, NodeName};
use crate::power::Action;
use crate::units::UnixMillis;

/// Where a node of the campaign stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum NodeState {
    /// Waits for a place in the wave.
    Queued,
    /// Has a place.
    Booting {
        /// When it got it.
        since: UnixMillis,
    },
    /// Up.
    Up {
        /// When.
        at: UnixMillis,
        /// Milliseconds from its place in the wave to up; zero when it was up before.
        took_ms: u64,
    },
    /// Given up.
    Failed {
        /// The stage it did not get past.
        failed_at: Stage,
        /// What was seen, and what to do.
        reason: String,
        /// It ran out of time, and nothing worse.
        timed_out: bool,
    },
}

/// One node of the campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The node.
    pub node: NodeName,
    /// It can be switched on.
    pub power: bool,
    /// Its state.
    #[serde(flatten)]
    pub state: NodeState,
    /// Attempts begun.
    pub attempts: u32,
    /// The furthest stage of this attempt.
    pub stage: Stage,
    /// The boot attempt whose events count; none until one began.
    pub boot: Option<BootId>,
    /// It asked to boot while it had no place.
    pub seen: bool,
    /// The last refusal heard.
    pub refusal: Option<String>,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the node wait at the gate: `queued` behind those who wait already, or without a place until it comes.
    Hold {
        /// The node.
        node: NodeName,
        /// It has a place in the queue.
        queued: bool,
    },
    /// Let the node through the gate.
    Admit(NodeName),
    /// Switch its power.
    Power(NodeName, Action),
    /// Tell why the node failed.
    Fail {
        /// The node.
        node: NodeName,
        /// The stage it did not get past.
        stage: Stage,
        /// What was seen.
        reason: String,
        /// What to do.
        next: String,
    },
    /// The campaign is over.
    Finished(Summary),
}

/// Counts of a campaign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Nodes in it.
    pub nodes: u32,
    /// Waiting for a place.
    pub queued: u32,
    /// Booting.
    pub booting: u32,
    /// Up.
    pub up: u32,
    /// Given up.
    pub failed: u32,
    /// Places in the wave now.
    pub wave: u32,
}

/// The campaign. Serialises whole, so that it goes on after the head's restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    spec: Spec,
    entries: Vec<Entry>,
    /// Places in the wave.
    wave: u32,
    started: UnixMillis,
    finished: Option<UnixMillis>,
    // What follows is derived from the entries, so that an event costs the same in any campaign.
    #[serde(skip)]
    index: HashMap<NodeName, usize>,
    #[serde(skip)]
    counts: Summary,
    /// Queued nodes that could use a place, in order.
    #[serde(skip)]
    startable: BTreeSet<usize>,
    #[serde(skip)]
    effects: VecDeque<Effect>,
}

impl Machine {
    /// A campaign that begins now. `spec` must have passed its check.
    #[must_use]
    pub fn new(spec: Spec, now: UnixMillis) -> Self {
        let wave = match spec.wave {
            WaveSize::Fixed(n) => n,
            WaveSize::Auto => limits::WAVE_AUTO_START,
        };
        let entry = |n: &super::spec::SpecNode| Entry {
            node: n.name.clone(),
            power: n.power,
            state: if n.up && !spec.restart {
                NodeState::Up {
                    at: now,
                    took_ms: 0,
                }
            } else {
                NodeState::Queued
            },
            attempts: 0,
            stage: Stage::Off,
            boot: None,
            seen: false,
            refusal: None,
        };
        let entries = spec.nodes.iter().map(entry).collect();
        let mut machine = Self {
            spec,
            entries,
            wave,
            started: now,
            finished: None,
            index: HashMap::new(),
            counts: Summary::default(),
            startable: BTreeSet::new(),
            effects: VecDeque::new(),
        };
        machine.resume(now);
        machine
    }

    /// Takes up a campaign (again, after reading it back): every queued node is held, free places are
    /// given.
    pub fn resume(&mut self, now: UnixMillis) {
        self.counts = Summary::default();
        self.startable.clear();
        self.index.clear();
        for i in 0..self.entries.len() {
            let entry = &self.entries[i];
            self.index.insert(entry.node.clone(), i);
            self.counts.nodes += 1;
            *count_of(&mut self.counts, &entry.state) += 1;
            if entry.state == NodeState::Queued {
                let queued = entry.power || entry.seen;
                let node = entry.node.clone();
                self.effects.push_back(Effect::Hold { node, queued });
                if queued {
                    self.startable.insert(i);
                }
            }
        }
        self.fill(now);
    }

    /// The nodes, in the order of the specification.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What was asked for.
    #[must_use]
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// When it began.
    #[must_use]
    pub const fn started(&self) -> UnixMillis {
        self.started
    }

    /// When it ended.
    #[must_use]
    pub const fn finished(&self) -> Option<UnixMillis> {
        self.finished
    }

    /// Counts.
    #[must_use]
    pub const fn summary(&self) -> Summary {
        Summary {
            wave: self.wave,
            ..self.counts
        }
    }

    /// What to do next; call until `None`.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Hears an event of the head.
    pub fn apply(&mut self, event: &Event, now: UnixMillis) {
        let Some(&i) = event.node.as_ref().and_then(|n| self.index.get(n)) else {
            return;
        };
        match &event.kind {
            EventKind::BootStarted { .. } => self.boot_started(i, event.boot),
            EventKind::LoginRefused { why, .. } => self.entries[i].refusal = Some(why.clone()),
            kind => {
                if let Some(stage) = kind.stage().filter(|&s| s != Stage::Failed) {
                    self.stage_seen(i, stage, event.boot, now);
                }
            }
        }
        self.fill(now);
    }

    /// The power driver failed for a node.
    pub fn power_failed(&mut self, node: &NodeName, error: &str, now: UnixMillis) {
        if let Some(&i) = self.index.get(node)
            && matches!(self.entries[i].state, NodeState::Booting { .. })
        {
            let reason = format!("power: {error}");
            let next = "run the power command by hand".to_owned();
            self.attempt_failed(i, (reason, next), false, now);
            self.fill(now);
        }
    }

    /// Time passes: attempts run out, and nodes that never came are given up.
    pub fn tick(&mut self, now: UnixMillis) {
        for i in 0..self.entries.len() {
            let entry = &self.entries[i];
            let since = match entry.state {
                NodeState::Booting { since } => since,
                NodeState::Queued if !entry.power && !entry.seen => self.started,
                _ => continue,
            };
            if now.since(since) >= self.spec.timeout_ms {
                let seconds = self.spec.timeout_ms / 1000;
                let cause = diagnose(entry, seconds);
                self.attempt_failed(i, cause, true, now);
            }
        }
        self.fill(now);
    }

    /// Ends the campaign: who waits or boots is let go, and nothing more is done.
    pub fn abort(&mut self, now: UnixMillis) {
        for i in 0..self.entries.len() {
            let entry = &self.entries[i];
            if matches!(entry.state, NodeState::Queued | NodeState::Booting { .. }) {
                self.effects.push_back(Effect::Admit(entry.node.clone()));
                let failed = NodeState::Failed {
                    failed_at: entry.stage,
                    reason: "the campaign was aborted".to_owned(),
                    timed_out: false,
                };
                self.enter(i, failed);
            }
        }
        self.finish(now);
    }

    fn boot_started(&mut self, i: usize, boot: Option<BootId>) {
        let entry = &mut self.entries[i];
        if matches!(entry.state, NodeState::Queued | NodeState::Booting { .. }) {
            entry.boot = boot;
            entry.stage = Stage::Off;
        }
    }

    fn stage_seen(&mut self, i: usize, stage: Stage, boot: Option<BootId>, now: UnixMillis) {
        let until = self.spec.until.stage();
        let entry = &mut self.entries[i];
        // What an earlier boot still does (a stale session, a late ready call) must not count for this one.
        if entry.boot.is_none() && !entry.power && stage <= Stage::Script {
            entry.boot = boot;
        }
        if boot.is_none() || entry.boot != boot {
            return;
        }
        entry.stage = entry.stage.max(stage);
        match entry.state {
            NodeState::Queued if !entry.seen => {
                entry.seen = true;
                if self.startable.insert(i) {
                    let node = entry.node.clone();
                    self.effects.push_back(Effect::Hold { node, queued: true });
                }
            }
            NodeState::Booting { since } if entry.stage >= until => {
                let took_ms = now.since(since);
                self.enter(i, NodeState::Up { at: now, took_ms });
                if self.spec.wave == WaveSize::Auto {
                    self.wave = (self.wave + 1).min(limits::WAVE_AUTO_MAX);
                }
            }
            _ => {}
        }
    }

    /// `cause` is what was seen, and what to do.
    fn attempt_failed(
        &mut self,
        i: usize,
        cause: (String, String),
        timed_out: bool,
        now: UnixMillis,
    ) {
        if self.spec.wave == WaveSize::Auto {
            self.wave = (self.wave / 2).max(1);
        }
        let retries = self.spec.retries;
        let entry = &mut self.entries[i];
        if entry.power && entry.attempts <= retries {
            // It keeps its place: a retry must not wait behind the whole queue.
            self.start(i, now);
            return;
        }
        let (reason, next) = cause;
        let stage = entry.stage;
        let node = entry.node.clone();
        let failed = NodeState::Failed {
            failed_at: stage,
            reason: format!("{reason}; {next}"),
            timed_out,
        };
        self.enter(i, failed);
        // Given up, not locked out: if it comes later it boots.
        self.effects.push_back(Effect::Admit(node.clone()));
        self.effects.push_back(Effect::Fail {
            node,
            stage,
            reason,
            next,
        });
    }

    /// Gives a node a place: admits it, and switches it on if we can.
    fn start(&mut self, i: usize, now: UnixMillis) {
        let restart = self.spec.restart;
        self.enter(i, NodeState::Booting { since: now });
        let entry = &mut self.entries[i];
        entry.attempts += 1;
        self.effects.push_back(Effect::Admit(entry.node.clone()));
        if !entry.power {
            return;
        }
        // A node that already waits at the gate needs no power; a second attempt needs a fresh start.
        let action = match (entry.attempts, entry.seen, restart) {
            (1, true, _) => return,
            (1, false, false) => Action::On,
            _ => Action::Cycle,
        };
        entry.boot = None;
        entry.stage = Stage::Powered;
        entry.refusal = None;
        let node = entry.node.clone();
        self.effects.push_back(Effect::Power(node, action));
    }

    /// Changes the state of a node and what is derived from it.
    fn enter(&mut self, i: usize, state: NodeState) {
        let entry = &mut self.entries[i];
        *count_of(&mut self.counts, &entry.state) -= 1;
        *count_of(&mut self.counts, &state) += 1;
        entry.state = state;
        self.startable.remove(&i);
    }

    /// Gives free places to who is next, and ends the campaign when all is done.
    fn fill(&mut self, now: UnixMillis) {
        if self.finished.is_some() {
            return;
        }
        while self.counts.booting < self.wave {
            let Some(&next) = self.startable.first() else {
                break;
            };
            self.start(next, now);
        }
        if self.counts.queued + self.counts.booting == 0 {
            self.finish(now);
        }
    }

    fn finish(&mut self, now: UnixMillis) {
        if self.finished.is_none() {
            self.finished = Some(now);
            self.effects.push_back(Effect::Finished(self.summary()));
        }
    }
}

fn count_of<'a>(counts: &'a mut Summary, state: &NodeState) -> &'a mut u32 {
    match state {
        NodeState::Queued => &mut counts.queued,
        NodeState::Booting { .. } => &mut counts.booting,
        NodeState::Up { .. } => &mut counts.up,
        NodeState::Failed { .. } => &mut counts.failed,
    }
}

/// Says what the furthest stage means, and what to do about it.
fn diagnose(entry: &Entry, seconds: u64) -> (String, String) {
    let refusal = entry.refusal.as_deref();
    let (seen, next) = match entry.stage {
        Stage::Off if !entry.power => (
            "it never asked to boot, and has no power command",
            "switch it on by hand, or set one with `node set --power`",
        ),
        Stage::Off | Stage::Powered => (
            "power was switched on but no DHCP request came",
            "check that it boots from the network first, its cable, its MAC address, and the \
             switch port's spanning tree",
        ),
        Stage::Dhcp => (
            "it got a DHCP answer but fetched neither a loader nor a script",
            "check that UDP 69 and the HTTP port are reachable, and that no other DHCP server answers it",
        ),
        Stage::Loader => (
            "it fetched the loader but asked for no script",
            "look at its screen: the loader may not know its network card",
        ),
        Stage::Script => (
            "it got its script but its firmware did not log in",
            "check that the iSCSI port is reachable from it",
        ),
        Stage::FirmwareLogin => (
            "its firmware logged in but no operating system did",
            "check that the image's initramfs logs in through iBFT (see docs/operations.md), and its console",
        ),
        Stage::OsLogin => (
            "its operating system logged in but it did not become ready",
            "look at its console; a stuck service or a full file system are usual",
        ),
        Stage::Ready | Stage::Failed => ("it stopped", "look at its console"),
    };
    let reason = match refusal {
        Some(why) => format!("after {seconds} s: {seen}; its last login was refused: {why}"),
        None => format!("after {seconds} s: {seen}"),
    };
    (reason, next.to_owned())
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod test;
