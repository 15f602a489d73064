//! What a disk's owner and its initiators hear when its space runs short: an event and a line in the log for the one,
//! a unit attention for the others (SBC-3 4.7.3.8). Each once, until it is over and happens again.

use super::shared::Shared;
use super::target::{Session, Unit};
use crate::events::EventKind;
use crate::scsi::News;
use crate::store::layer::SpaceNews;
use crate::units::HumanBytes;

/// Passes on what the volume has to tell since the last call; mostly nothing.
pub(super) fn tell(shared: &Shared, session: &Session) {
    let Some(unit) = session.unit.as_ref() else {
        return;
    };
    let Some(news) = unit.volume.space_news() else {
        return;
    };
    {
        let mut device = unit.device();
        if news.changed {
            device.set_threshold(unit.volume.limits().warn);
        }
        if news.warned {
            device.announce(News::SpaceThreshold);
        }
    }
    let node = &session.node.name;
    for (state, detail) in sentences(unit, news, node.as_str()) {
        tracing::warn!(%node, state, "{detail}");
        let state = state.to_owned();
        let event = EventKind::LayerSpace { state, detail };
        shared.targets.head().bus().publish(Some(node), event);
    }
}

fn sentences(unit: &Unit, news: SpaceNews, node: &str) -> Vec<(&'static str, String)> {
    let limits = unit.volume.limits();
    let size = |bytes: Option<u64>| HumanBytes(bytes.unwrap_or(0)).to_string();
    let mut all = Vec::new();
    if news.warned {
        let warn = size(limits.warn);
        all.push((
            "warned",
            format!(
                "its layer holds more than {warn}; `reveille layer show {node}` tells how it grows"
            ),
        ));
    }
    if news.at_limit {
        let most = size(limits.most);
        all.push((
            "at-limit",
            format!(
                "its layer is at its limit of {most}: writes of new blocks are refused; trim on the node, or \
                 `reveille node set {node} --layer-limit SIZE`"
            ),
        ));
    }
    if news.disk_full {
        let why = "the head's file system is down to its reserve: writes of new blocks are refused; free space on \
                   it, or `reveille layer reset` nodes that can start anew";
        all.push(("disk-full", why.to_owned()));
    }
    all
}
