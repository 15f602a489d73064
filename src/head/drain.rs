//! Draining: nodes are asked to leave this head, and later logins go to another. An order stands until it is
//! taken back, over restarts too: a head that was drained for its maintenance must not take nodes in by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::error::{HeadError, Result};
use super::{Head, NodesDone};
use crate::catalog::{Catalog, Changes, Snapshot};
use crate::limits;
use crate::names::{NodeName, NodeSet, parse_portal};
use crate::units::UnixMillis;

/// The fact of the catalog that holds the orders, as JSON.
const FACT: &str = "drain";

/// Where logins go instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The other head; none refuses them until the order is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SocketAddr>,
    /// Since when.
    pub since: UnixMillis,
}

/// Every order that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drains {
    /// For the whole head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<Order>,
    /// For single nodes.
    pub nodes: BTreeMap<NodeName, Order>,
}

impl Drains {
    /// The order that a login to `node` meets; none for a name that is no node's meets only that of the head.
    #[must_use]
    pub fn order_for(&self, node: Option<&NodeName>) -> Option<&Order> {
        node.and_then(|name| self.nodes.get(name))
            .or(self.whole.as_ref())
    }
}

/// Asks nodes to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainAsk {
    /// Which: a node set expression; the whole head when left out.
    pub nodes: Option<String>,
    /// Where they shall go: `ADDR[:PORT]` of a head that serves the same nodes.
    pub to: Option<String>,
    /// Only tell.
    pub dry_run: bool,
}

/// Takes orders back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UndrainAsk {
    /// Which: a node set expression; every order when left out.
    pub nodes: Option<String>,
    /// Only tell.
    pub dry_run: bool,
}

impl Head {
    /// The orders that stand.
    #[must_use]
    pub fn drains(&self) -> std::sync::Arc<Drains> {
        self.drains.load_full()
    }

    /// Writes an order down. `own` tells whether an address is this head's: nobody is sent in a circle.
    ///
    /// # Errors
    /// Nodes that do not exist; an address that is none, or this head's.
    pub fn drain(&self, ask: &DrainAsk, own: &dyn Fn(SocketAddr) -> bool) -> Result<NodesDone> {
        let to = ask.to.as_deref().map(parse_portal).transpose()?;
        if let Some(to) = to.filter(|to| own(*to)) {
            let message = format!("{to} is this head; name another that serves the same nodes");
            return Err(HeadError::invalid(message));
        }
        let order = Order {
            to,
            since: UnixMillis::now(),
        };
        let set = self.named(ask.nodes.as_deref())?;
        self.change_drains(ask.dry_run, |drains| {
            match &ask.nodes {
                None => drains.whole = Some(order),
                Some(_) => {
                    let orders = set.iter().map(|name| (name.clone(), order.clone()));
                    drains.nodes.extend(orders);
                }
            }
            Ok(())
        })?;
        Ok(NodesDone {
            nodes: set,
            notices: notices(to),
            dry_run: ask.dry_run,
        })
    }

    /// Takes orders back.
    ///
    /// # Errors
    /// Nodes that do not exist, or that are not drained by an order of their own.
    pub fn undrain(&self, ask: &UndrainAsk) -> Result<NodesDone> {
        let set = self.named(ask.nodes.as_deref())?;
        self.change_drains(ask.dry_run, |drains| {
            if ask.nodes.is_none() {
                *drains = Drains::default();
                return Ok(());
            }
            let other = set.iter().filter(|name| !drains.nodes.contains_key(*name));
            let other: NodeSet = other.cloned().collect();
            if !other.is_empty() {
                let message = if drains.whole.is_some() {
                    format!("{other} are drained with the whole head; `reveille undrain` ends that")
                } else {
                    format!("{other} are not drained; `reveille status` shows who is")
                };
                return Err(HeadError::conflict(message));
            }
            for name in set.iter() {
                drains.nodes.remove(name);
            }
            Ok(())
        })?;
        Ok(NodesDone {
            nodes: set,
            notices: Vec::new(),
            dry_run: ask.dry_run,
        })
    }

    /// Orders of nodes that were removed: a later node of the same name is another.
    pub(super) fn forget_drains(&self, gone: &NodeSet) -> Result<()> {
        if gone
            .iter()
            .all(|name| !self.drains().nodes.contains_key(name))
        {
            return Ok(());
        }
        self.change_drains(false, |drains| {
            drains.nodes.retain(|name, _| !gone.contains(name));
            Ok(())
        })
    }

    fn named(&self, nodes: Option<&str>) -> Result<NodeSet> {
        match nodes {
            Some(nodes) => self.select(nodes),
            None => Ok(self.snapshot().nodes().map(|n| n.name.clone()).collect()),
        }
    }

    fn change_drains(
        &self,
        dry_run: bool,
        change: impl FnOnce(&mut Drains) -> Result<()>,
    ) -> Result<()> {
        self.change(dry_run, |changes| {
            let mut new = read(changes.view().fact(FACT));
            change(&mut new)?;
            write(changes, &new)
        })?;
        if !dry_run {
            self.read_drains();
        }
        Ok(())
    }

    /// After a change of the orders: shows those that stand to who asks.
    pub(super) fn read_drains(&self) {
        // Read again in turn: of two changes at one time the later one is what stays here too.
        let _turn = self
            .drain_turn
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let stands = read(self.snapshot().fact(FACT));
        self.drains.store(std::sync::Arc::new(stands));
    }
}

/// The orders in a catalog.
pub(super) fn of(now: &Snapshot) -> Drains {
    read(now.fact(FACT))
}

pub(super) fn write(changes: &mut Changes, new: &Drains) -> Result<()> {
    if new.nodes.len() > limits::DRAINED_MAX {
        return Err(HeadError::invalid("too many nodes are drained one by one"));
    }
    let text = serde_json::to_string(new)
        .map_err(|e| HeadError::invalid(format!("the order cannot be written: {e}")))?;
    Ok(changes.set_fact(FACT, &text)?)
}

/// The orders that an earlier run left.
pub(super) fn load(catalog: &Catalog) -> Drains {
    let drains = read(catalog.snapshot().fact(FACT));
    if let Some(whole) = &drains.whole {
        let to = whole.to.map_or("nowhere".to_owned(), |to| to.to_string());
        tracing::warn!(
            to,
            "this head is drained; `reveille undrain` takes nodes in again"
        );
    } else if !drains.nodes.is_empty() {
        tracing::warn!(
            nodes = drains.nodes.len(),
            "nodes are drained from this head"
        );
    }
    drains
}

fn read(fact: Option<&str>) -> Drains {
    let Some(text) = fact.filter(|text| !text.is_empty()) else {
        return Drains::default();
    };
    serde_json::from_str(text).unwrap_or_else(|error| {
        tracing::error!(%error, "orders to drain cannot be read and do not stand any more");
        Drains::default()
    })
}

fn notices(to: Option<SocketAddr>) -> Vec<String> {
    match to {
        Some(to) if to.is_ipv6() => {
            vec![format!(
                "iPXE cannot follow a redirect to {to}: it knows IPv4 only"
            )]
        }
        Some(_) => Vec::new(),
        None => vec![
            "no other head is named: their logins are refused for now (0x0301) until `undrain`"
                .to_owned(),
        ],
    }
}

#[cfg(test)]
mod test {
    use super::super::test::Bench;
    use super::*;
    use crate::catalog::LayerMode;
    use crate::head::NodeRemove;

    #[test]
    fn an_order_to_drain_stands_until_it_is_taken_back() {
        let mut bench = Bench::with_nodes(LayerMode::Ephemeral);
        let ask = |nodes: Option<&str>, to: Option<&str>| DrainAsk {
            nodes: nodes.map(str::to_owned),
            to: to.map(str::to_owned),
            dry_run: false,
        };
        let nobody = |_| false;
        let name = |n: &str| crate::names::NodeName::parse(n).unwrap();
        let to = |bench: &Bench, node: &str| {
            let drains = bench.head().drains();
            drains.order_for(Some(&name(node))).map(|order| order.to)
        };
        let other = Some("10.0.0.2:3260".parse().unwrap());
        assert_eq!(to(&bench, "n1"), None);
        let dry = DrainAsk {
            dry_run: true,
            ..ask(None, None)
        };
        bench.head().drain(&dry, &nobody).unwrap();
        assert_eq!(to(&bench, "n1"), None, "only told");
        bench
            .head()
            .drain(&ask(Some("n1"), Some("10.0.0.2")), &nobody)
            .unwrap();
        assert_eq!((to(&bench, "n1"), to(&bench, "n2")), (Some(other), None));
        bench.head().drain(&ask(None, None), &nobody).unwrap();
        assert_eq!(
            (to(&bench, "n1"), to(&bench, "n2")),
            (Some(other), Some(None))
        );
        bench.reopen();
        assert_eq!(
            (to(&bench, "n1"), to(&bench, "n2")),
            (Some(other), Some(None))
        );
        let back = |nodes: Option<&str>| UndrainAsk {
            nodes: nodes.map(str::to_owned),
            dry_run: false,
        };
        let error = bench.head().undrain(&back(Some("n2"))).unwrap_err();
        assert!(error.message.contains("with the whole head"), "{error}");
        bench.head().undrain(&back(Some("n1"))).unwrap();
        assert_eq!(
            to(&bench, "n1"),
            Some(None),
            "the head's own order still stands"
        );
        bench.head().undrain(&back(None)).unwrap();
        bench.reopen();
        assert_eq!(to(&bench, "n1"), None);
    }

    #[test]
    fn a_drain_in_a_circle_or_to_nowhere_is_refused() {
        let bench = Bench::with_nodes(LayerMode::Ephemeral);
        let ask = |to: &str| DrainAsk {
            to: Some(to.to_owned()),
            ..DrainAsk::default()
        };
        let own = |to: std::net::SocketAddr| to.port() == 3261;
        let why = |to: &str| bench.head().drain(&ask(to), &own).unwrap_err().message;
        assert!(why("10.0.0.1:3261").contains("is this head"));
        assert!(why("head2").contains("IP address"));
        assert!(why("0.0.0.0").contains("no place"));
        assert_eq!(*bench.head().drains(), crate::head::Drains::default());
    }

    #[test]
    fn a_removed_node_takes_its_order_to_drain_along() {
        let bench = Bench::with_nodes(LayerMode::Ephemeral);
        let ask = DrainAsk {
            nodes: Some("n1".into()),
            ..DrainAsk::default()
        };
        bench.head().drain(&ask, &|_| false).unwrap();
        let remove = NodeRemove {
            nodes: "n1".into(),
            ..NodeRemove::default()
        };
        bench.head().nodes_remove(&remove, &|_| false).unwrap();
        assert!(bench.head().drains().nodes.is_empty());
    }
}
