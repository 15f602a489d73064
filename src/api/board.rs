//! Where each node stands, kept up to date from the events.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::events::{Bus, Follower, NodeTimeline, Stage, Timeline};
use crate::limits;
use crate::names::NodeName;

/// The folded events of all nodes. Whoever asks hears of all that has happened until then.
#[derive(Debug)]
pub struct Board(Mutex<State>);

#[derive(Debug)]
struct State {
    timeline: Timeline,
    events: Follower,
}

impl Board {
    /// A board that follows `bus` until the runtime ends. Call inside a tokio runtime.
    #[must_use]
    pub fn follow(bus: &Arc<Bus>) -> Arc<Self> {
        let board = Arc::new(Self::over(bus));
        let following = Arc::clone(&board);
        let mut bell = Follower::from_now(bus);
        // Nobody waits for this: it reads before the bus forgets, and is no reason to wake up for each event.
        tokio::spawn(async move {
            loop {
                bell.ready().await;
                tokio::time::sleep(limits::BOARD_EVERY).await;
                while bell.try_next().is_some() {}
                drop(following.read());
            }
        });
        board
    }

    fn over(bus: &Arc<Bus>) -> Self {
        Self(Mutex::new(State {
            timeline: Timeline::default(),
            events: Follower::after(bus, 0),
        }))
    }

    /// The board, with all that has happened.
    fn read(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(event) = state.events.try_next() {
            state.timeline.apply(&event);
        }
        state
    }

    /// What was seen of a node.
    #[must_use]
    pub fn node(&self, node: &NodeName) -> Option<NodeTimeline> {
        self.read().timeline.node(node.as_str()).cloned()
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
        self.read().timeline.forget(node.as_str());
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::events::{EventKind, InitiatorKind};
    use crate::names::Iqn;

    #[test]
    fn what_was_just_said_is_on_the_board_when_it_is_asked() {
        let bus = Arc::new(Bus::new(0));
        let board = Board::over(&bus);
        let node = NodeName::parse("n1").unwrap();
        let login = EventKind::Login {
            initiator_kind: InitiatorKind::Os,
            initiator: Iqn::parse("iqn.2026-11.test:n1").unwrap(),
            peer: ([127, 0, 0, 1], 1).into(),
            session: 7,
        };
        bus.publish(Some(&node), login);
        assert!(board.is_open(&node) && board.is_up(&node));
        let logout = EventKind::Logout {
            session: 7,
            why: "logout".into(),
            read_bytes: 0,
            written_bytes: 0,
        };
        bus.publish(Some(&node), logout);
        assert!(!board.is_open(&node));
        board.forget(&node);
        assert_eq!(board.node(&node), None);
    }
}
