//! Tells when a node that cannot say so is ready: its operating system logged in, and then its disk was
//! left alone for a while. Pure.

use std::collections::HashMap;

use crate::events::{Event, EventKind, Stage};
use crate::limits;
use crate::names::NodeName;
use crate::units::UnixMillis;

/// Nodes between their operating system's login and ready.
#[derive(Debug, Default)]
pub struct Settle {
    watched: HashMap<NodeName, UnixMillis>,
}

impl Settle {
    /// Hears an event.
    pub fn apply(&mut self, event: &Event) {
        let Some(node) = &event.node else { return };
        match &event.kind {
            EventKind::BootStarted { .. } | EventKind::Ready { .. } => {
                self.watched.remove(node);
            }
            kind if kind.stage() == Some(Stage::OsLogin) => {
                self.watched.insert(node.clone(), event.at);
            }
            _ => {}
        }
    }

    /// The nodes that came to rest by `now`; each is told once. `last_io` gives the last read or write of a node.
    pub fn settled(
        &mut self,
        now: UnixMillis,
        last_io: impl Fn(&NodeName) -> UnixMillis,
    ) -> Vec<NodeName> {
        let rest = u64::try_from(limits::SETTLE.as_millis()).unwrap_or(u64::MAX);
        let calm = |(node, login): &(&NodeName, &UnixMillis)| {
            now.since(**login) >= rest && now.since(last_io(node)) >= rest
        };
        let mut done: Vec<_> = self
            .watched
            .iter()
            .filter(calm)
            .map(|(node, _)| node.clone())
            .collect();
        done.sort_unstable();
        for node in &done {
            self.watched.remove(node);
        }
        done
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::events::{InitiatorKind, ReadyBy};
    use crate::names::{BootId, Iqn};

    fn event(at: u64, kind: EventKind) -> Event {
        Event {
            seq: at,
            at: UnixMillis(at),
            node: Some(NodeName::parse("n1").unwrap()),
            boot: Some(BootId(1)),
            kind,
        }
    }

    fn os_login() -> EventKind {
        EventKind::Login {
            initiator_kind: InitiatorKind::Os,
            initiator: Iqn::parse("iqn.2026-11.test:n1").unwrap(),
            peer: "127.0.0.1:9".parse().unwrap(),
            session: 1,
        }
    }

    #[test]
    fn a_node_settles_once_after_its_reads_stop() {
        let mut settle = Settle::default();
        settle.apply(&event(1000, os_login()));
        assert!(
            settle
                .settled(UnixMillis(10_900), |_| UnixMillis(1000))
                .is_empty()
        );
        assert!(
            settle
                .settled(UnixMillis(12_000), |_| UnixMillis(5000))
                .is_empty()
        );
        let done = settle.settled(UnixMillis(15_000), |_| UnixMillis(5000));
        assert_eq!(done.len(), 1);
        assert!(
            settle
                .settled(UnixMillis(99_000), |_| UnixMillis(5000))
                .is_empty()
        );
    }

    #[test]
    fn a_ready_call_or_a_new_boot_ends_the_watch() {
        for end in [
            EventKind::Ready { by: ReadyBy::Call },
            EventKind::BootStarted { cause: "t".into() },
        ] {
            let mut settle = Settle::default();
            settle.apply(&event(1000, os_login()));
            settle.apply(&event(2000, end));
            assert!(
                settle
                    .settled(UnixMillis(90_000), |_| UnixMillis(0))
                    .is_empty()
            );
        }
    }
}
