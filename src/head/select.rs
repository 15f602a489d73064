//! Node set expressions against the nodes there are: `@all`, `@image:NAME`, `@profile:NAME`, `@mode:persistent`.

use std::sync::Arc;

use super::Head;
use super::error::{HeadError, Result};
use crate::catalog::{NodeRecord, Snapshot};
use crate::names::NodeSet;

impl Head {
    /// The nodes that an expression names; each of them exists.
    ///
    /// # Errors
    /// The expression is wrong or names nobody; it names nodes that do not exist.
    pub fn select(&self, nodes: &str) -> Result<NodeSet> {
        select(&self.snapshot(), nodes)
    }

    /// The records of the nodes in an expression, or of all, in natural order.
    pub(super) fn chosen(
        &self,
        now: &Snapshot,
        nodes: Option<&str>,
    ) -> Result<Vec<Arc<NodeRecord>>> {
        let Some(nodes) = nodes else {
            return Ok(now.nodes().cloned().collect());
        };
        let set = select(now, nodes)?;
        let record = |name| now.node(crate::names::NodeName::as_str(name)).cloned();
        Ok(set.iter().filter_map(record).collect())
    }
}

fn select(now: &Snapshot, nodes: &str) -> Result<NodeSet> {
    let set = parse(now, nodes)?;
    if set.is_empty() {
        let message = format!("`{nodes}` names no node; `reveille node ls` shows those there are");
        return Err(HeadError::not_found(message));
    }
    let missing = |name: &&crate::names::NodeName| now.node(name.as_str()).is_none();
    let missing: NodeSet = set.iter().filter(missing).cloned().collect();
    if missing.is_empty() {
        return Ok(set);
    }
    Err(HeadError::not_found(format!(
        "there is no node {missing}; `reveille node ls` shows those there are"
    )))
}

/// The set that an expression means; its nodes need not exist.
pub(super) fn parse(now: &Snapshot, nodes: &str) -> Result<NodeSet> {
    Ok(NodeSet::parse_with(nodes, &|group| group_of(now, group))?)
}

fn group_of(now: &Snapshot, group: &str) -> std::result::Result<NodeSet, String> {
    let those = |which: &dyn Fn(&NodeRecord) -> bool| {
        let nodes = now.nodes().filter(|node| which(node));
        Ok(nodes.map(|node| node.name.clone()).collect())
    };
    match group.split_once(':') {
        None if group == "all" => those(&|_| true),
        Some(("image", image)) if now.image(image).is_some() => {
            those(&|node| node.image.as_ref().is_some_and(|i| i.name == image))
        }
        Some(("image", _)) => Err("there is no such image".into()),
        Some(("profile", name)) if now.profile(name).is_some() => Ok(now.nodes_of_profile(name)),
        Some(("profile", _)) => Err("there is no such profile".into()),
        Some(("mode", mode @ ("ephemeral" | "persistent"))) => {
            those(&|node| node.mode.as_str() == mode)
        }
        _ => Err(
            "groups are @all, @image:NAME, @profile:NAME and @mode:ephemeral or persistent".into(),
        ),
    }
}
