//! Orders to drain. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::drain::{self, Drains, Order};
use super::super::super::error::{HeadError, Result};
use super::super::super::text::OrderText;
use super::super::PlanVerb;
use super::{How, Planned, field, line};
use crate::catalog::Changes;
use crate::names::{NodeName, NodeSet};

pub(super) fn put_drains(
    changes: &mut Changes,
    orders: &[OrderText],
    how: &How<'_>,
    planned: &mut Planned,
) -> Result<()> {
    let old = drain::of(changes.view());
    let mut new = Drains {
        whole: old.whole.clone(),
        nodes: old.nodes.clone(),
    };
    if how.prune {
        new = Drains::default();
    }
    for order in orders {
        let at = |e: HeadError| e.within((how.place)(order.line));
        if let Some(to) = order.to.filter(|to| (how.own)(*to)) {
            let message = format!("{to} is this head; name another that serves the same nodes");
            return Err(at(HeadError::invalid(message)));
        }
        let was = old
            .nodes
            .iter()
            .find(|(n, _)| Some(*n) == order.node.as_ref());
        let was = match &order.node {
            None => old.whole.as_ref(),
            Some(_) => was.map(|(_, order)| order),
        };
        // An order that stands goes on from when it was given.
        let kept = was.filter(|was| was.to == order.to).cloned();
        let given = kept.unwrap_or(Order {
            to: order.to,
            since: how.now,
        });
        match &order.node {
            None => new.whole = Some(given),
            Some(name) if changes.view().node(name.as_str()).is_some() => {
                new.nodes.insert(name.clone(), given);
            }
            Some(name) => {
                let message = format!("drain: there is no node `{name}`");
                return Err(at(HeadError::not_found(message)));
            }
        }
    }
    // Those of nodes that are gone went with them.
    let gone = |name: &NodeName| changes.view().node(name.as_str()).is_none();
    new.nodes.retain(|name, _| !gone(name));
    if new == old {
        return Ok(());
    }
    drain_lines(&old, &new, planned);
    drain::write(changes, &new)
}

fn drain_lines(old: &Drains, new: &Drains, planned: &mut Planned) {
    let to = |order: &Order| order.to.map_or("nowhere".to_owned(), |to| to.to_string());
    let mut folded = BTreeMap::<(PlanVerb, Option<String>, Option<String>), NodeSet>::new();
    let verb = |was: Option<&Order>, is: Option<&Order>| match (was, is) {
        (None, Some(_)) => Some(PlanVerb::Add),
        (Some(was), Some(is)) if was.to != is.to => Some(PlanVerb::Change),
        (Some(_), None) => Some(PlanVerb::Remove),
        _ => None,
    };
    let whole = (old.whole.as_ref(), new.whole.as_ref());
    if let Some(verb) = verb(whole.0, whole.1) {
        let fields = match verb {
            PlanVerb::Remove => None,
            _ => field("to", whole.0.map(to), whole.1.map(to)),
        };
        let fields = fields.into_iter().collect();
        planned.lines.push(line(verb, "drain", "head", fields));
    }
    let names: BTreeSet<&NodeName> = old.nodes.keys().chain(new.nodes.keys()).collect();
    for name in names {
        let (was, is) = (old.nodes.get(name), new.nodes.get(name));
        if let Some(verb) = verb(was, is) {
            let key = (verb, was.map(to), is.map(to));
            folded.entry(key).or_default().insert(name.clone());
        }
    }
    for ((verb, from, to), set) in folded {
        let fields = match verb {
            PlanVerb::Remove => Vec::new(),
            _ => field("to", from, to).into_iter().collect(),
        };
        planned
            .lines
            .push(line(verb, "drain", set.to_string(), fields));
    }
}
