//! Where each node stands, kept up to date from the events.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast::error::RecvError;

use crate::events::{Bus, NodeTimeline, Stage, Timeline};
use crate::names::NodeName;

/// The folded events of all nodes.
#[derive(Debug, Default)]
pub struct Board {
    timeline: Mutex<Timeline>,
}

impl Board {
    /// A board that follows `bus` until the runtime ends. Call inside a tokio runtime.
    #[must_use]
    pub fn follow(bus: Arc<Bus>) -> Arc<Self> {
        let board = Arc::new(Self::default());
        let following = Arc::clone(&board);
        tokio::spawn(async move {
            let (kept, mut live) = bus.replay_and_subscribe(0);
            let mut heard = 0;
            for event in kept {
                heard = event.seq;
                following.apply(&event);
            }
            loop {
                match live.recv().await {
                    Ok(event) => {
                        heard = event.seq;
                        following.apply(&event);
                    }
                    Err(RecvError::Lagged(_)) => {
                        let (kept, again) = bus.replay_and_subscribe(heard);
                        live = again;
                        for event in kept {
                            heard = event.seq;
                            following.apply(&event);
                        }
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
        board
    }

    fn apply(&self, event: &crate::events::Event) {
        let mut timeline = self.timeline.lock().unwrap_or_else(PoisonError::into_inner);
        timeline.apply(event);
    }

    /// What was seen of a node.
    #[must_use]
    pub fn node(&self, node: &NodeName) -> Option<NodeTimeline> {
        let timeline = self.timeline.lock().unwrap_or_else(PoisonError::into_inner);
        timeline.node(node.as_str()).cloned()
    }

    /// True while the node has its disk open.
    #[must_use]
    pub fn is_open(&self, node: &NodeName) -> bool {
        self.node(node).is_some_and(|n| !n.sessions.is_empty())
    }

    /// True when its operating system runs from its disk.
    #[must_use]
    pub fn is_up(&self, node: &NodeName) -> bool {
        let up = [Stage::OsLogin, Stage::Ready];
        self.node(node)
            .is_some_and(|n| !n.sessions.is_empty() && up.contains(&n.stage))
    }

    /// Forgets a removed node.
    pub fn forget(&self, node: &NodeName) {
        let mut timeline = self.timeline.lock().unwrap_or_else(PoisonError::into_inner);
        timeline.forget(node.as_str());
    }
}
