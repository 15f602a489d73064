//! Folds events into where each node's boot stands. Pure.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Event, EventKind, InitiatorKind, Stage};
use crate::names::{BootId, NodeName};
use crate::units::UnixMillis;

/// When a stage was first reached in a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageEntry {
    /// The stage.
    pub stage: Stage,
    /// When.
    pub at: UnixMillis,
}

/// One node's last boot as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTimeline {
    /// The attempt.
    pub boot: Option<BootId>,
    /// The furthest stage reached, or `Failed`, or `Off`.
    pub stage: Stage,
    /// When that was.
    pub since: UnixMillis,
    /// Every stage of this attempt with its first moment, in order of time.
    pub stages: Vec<StageEntry>,
    /// The image version it boots.
    pub image: Option<String>,
    /// Its place in the queue while it waits.
    pub place: Option<u32>,
    /// Why it failed and what to do, or the last refusal seen.
    pub reason: Option<String>,
    /// Sessions that are open now.
    pub sessions: Vec<u16>,
}

/// All nodes' timelines. Feed it every event in order.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    nodes: HashMap<NodeName, NodeTimeline>,
}

impl Timeline {
    /// The timeline of `node`, if anything was ever seen of it.
    #[must_use]
    pub fn node(&self, node: &str) -> Option<&NodeTimeline> {
        self.nodes.get(node)
    }

    /// Takes in one event.
    pub fn apply(&mut self, event: &Event) {
        let Some(node) = &event.node else { return };
        let line = self.nodes.entry(node.clone()).or_default();
        line.apply(event);
    }

    /// Forgets a node that was removed.
    pub fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
    }
}

impl NodeTimeline {
    fn apply(&mut self, event: &Event) {
        match &event.kind {
            EventKind::BootStarted { .. } => self.start(event),
            EventKind::Power { action, error } => self.power(action, error.as_deref(), event.at),
            EventKind::Dhcp { .. } => self.reach(Stage::Dhcp, event.at),
            EventKind::Loader { .. } => self.reach(Stage::Loader, event.at),
            EventKind::Script { decision, image } => self.script(decision, image, event.at),
            EventKind::Queued { place } => self.place = Some(*place),
            EventKind::Login {
                initiator_kind,
                session,
                ..
            } => {
                self.sessions.push(*session);
                let firmware = *initiator_kind == InitiatorKind::Firmware;
                let stage = if firmware {
                    Stage::FirmwareLogin
                } else {
                    Stage::OsLogin
                };
                self.reach(stage, event.at);
            }
            EventKind::LoginRefused { why, .. } => self.reason = Some(why.clone()),
            EventKind::Logout { session, .. } => self.sessions.retain(|s| s != session),
            EventKind::Ready { .. } => self.reach(Stage::Ready, event.at),
            EventKind::Failed { reason, next, .. } => {
                self.reason = Some(format!("{reason}; {next}"));
                self.stage = Stage::Failed;
                self.since = event.at;
                self.stages.push(StageEntry {
                    stage: Stage::Failed,
                    at: event.at,
                });
            }
            EventKind::VolumeFailed { reason } => self.reason = Some(reason.clone()),
            EventKind::UnknownMachine { .. }
            | EventKind::LayerReset { .. }
            | EventKind::Campaign { .. } => {}
        }
    }

    /// A new attempt keeps the sessions (an old one may still be open) and the power-on that caused it.
    fn start(&mut self, event: &Event) {
        let powered = self
            .stages
            .last()
            .filter(|e| self.stage == Stage::Powered && e.stage == Stage::Powered)
            .copied();
        *self = Self {
            boot: event.boot,
            sessions: std::mem::take(&mut self.sessions),
            since: event.at,
            ..Self::default()
        };
        if let Some(entry) = powered {
            self.stages.push(entry);
            self.stage = Stage::Powered;
        }
    }

    fn power(&mut self, action: &str, error: Option<&str>, at: UnixMillis) {
        if let Some(error) = error {
            self.reason = Some(format!("power {action}: {error}"));
            return;
        }
        self.stages.clear();
        self.reason = None;
        self.place = None;
        self.stage = Stage::Off;
        self.since = at;
        if action != "off" {
            self.reach(Stage::Powered, at);
        }
    }

    fn script(&mut self, decision: &str, image: &Option<String>, at: UnixMillis) {
        if decision == "boot" {
            self.place = None;
            self.image.clone_from(image);
        }
        self.reach(Stage::Script, at);
    }

    /// Enters `stage` unless the boot is already past it.
    fn reach(&mut self, stage: Stage, at: UnixMillis) {
        if self.stages.iter().any(|e| e.stage == stage) {
            return;
        }
        self.stages.push(StageEntry { stage, at });
        if stage > self.stage {
            self.stage = stage;
            self.since = at;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::events::ReadyBy;

    fn feed(line: &mut Timeline, at: u64, boot: u64, kind: EventKind) {
        line.apply(&Event {
            seq: at,
            at: UnixMillis(at),
            node: Some(NodeName::parse("n1").unwrap()),
            boot: Some(BootId(boot)),
            kind,
        });
    }

    fn power(action: &str) -> EventKind {
        EventKind::Power {
            action: action.into(),
            error: None,
        }
    }

    fn started() -> EventKind {
        EventKind::BootStarted { cause: "t".into() }
    }

    #[test]
    fn a_boot_goes_through_its_stages_and_never_back() {
        let mut all = Timeline::default();
        feed(&mut all, 1, 1, power("on"));
        feed(&mut all, 2, 1, started());
        feed(
            &mut all,
            3,
            1,
            EventKind::Loader {
                file: "x".into(),
                bytes: 1,
                by: "tftp".into(),
            },
        );
        feed(
            &mut all,
            4,
            1,
            EventKind::Script {
                decision: "boot".into(),
                image: Some("d:1".into()),
            },
        );
        feed(
            &mut all,
            5,
            1,
            EventKind::Loader {
                file: "x".into(),
                bytes: 1,
                by: "tftp".into(),
            },
        );
        feed(&mut all, 6, 1, EventKind::Ready { by: ReadyBy::Call });
        let line = all.node("n1").unwrap();
        let stages: Vec<_> = line.stages.iter().map(|e| (e.stage, e.at.0)).collect();
        assert_eq!(
            stages,
            [
                (Stage::Powered, 1),
                (Stage::Loader, 3),
                (Stage::Script, 4),
                (Stage::Ready, 6)
            ]
        );
        assert_eq!(line.image.as_deref(), Some("d:1"));
    }

    #[test]
    fn a_second_boot_starts_clean_and_a_failure_says_why() {
        let mut all = Timeline::default();
        feed(&mut all, 1, 1, started());
        feed(&mut all, 2, 1, EventKind::Ready { by: ReadyBy::Call });
        feed(&mut all, 3, 2, started());
        assert_eq!(all.node("n1").unwrap().stage, Stage::Off);
        let failed = EventKind::Failed {
            stage: Stage::Dhcp,
            reason: "no script was asked for".into(),
            next: "look at its screen".into(),
        };
        feed(&mut all, 4, 2, failed);
        let line = all.node("n1").unwrap();
        assert_eq!(line.stage, Stage::Failed);
        assert!(line.reason.as_ref().unwrap().contains("look at its screen"));
    }
}
