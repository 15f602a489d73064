//! The CHAP secrets of nodes: shown only when asked for by name, and minted where they are missing.

use serde::{Deserialize, Serialize};

use super::error::Result;
use super::{Head, mint};
use crate::catalog::{Catalog, NodeRecord, Secret};
use crate::names::NodeName;

/// CHAP_N of every head: the name under which a head proves itself (mutual CHAP). The secrets differ from
/// node to node, so the name need not.
pub const HEAD_USER: &str = "reveille";

/// What an administrator types into an initiator by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSecret {
    /// The node.
    pub node: NodeName,
    /// CHAP user of its initiator.
    pub user: String,
    /// Secret of its initiator.
    pub secret: Secret,
    /// CHAP user of the head, for mutual CHAP.
    pub head_user: String,
    /// Secret with which the head answers this node.
    pub head_secret: Secret,
}

impl Head {
    /// The CHAP secrets of the nodes in an expression. What this returns belongs on a terminal, never in a log.
    ///
    /// # Errors
    /// A node that does not exist.
    pub fn node_secrets(&self, nodes: &str) -> Result<Vec<NodeSecret>> {
        let now = self.snapshot();
        let chosen = self.chosen(&now, Some(nodes))?;
        let view = |node: &NodeRecord| NodeSecret {
            node: node.name.clone(),
            user: node.name.to_string(),
            secret: node.secret.clone(),
            head_user: HEAD_USER.to_owned(),
            head_secret: node.head_secret.clone(),
        };
        Ok(chosen.iter().map(|node| view(node)).collect())
    }
}

/// Nodes of an older program have no secret for the direction from the head to them: mints what is missing.
pub(super) fn complete(catalog: &Catalog) -> Result<()> {
    let now = catalog.snapshot();
    let lacking: Vec<NodeName> = now
        .nodes()
        .filter(|node| node.head_secret.is_empty())
        .map(|node| node.name.clone())
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let count = lacking.len();
    catalog.transact(|changes| {
        for name in &lacking {
            let Some(old) = changes.view().node(name.as_str()).cloned() else {
                continue;
            };
            let mut node = NodeRecord::clone(&old);
            while node.head_secret.is_empty() || node.head_secret == node.secret {
                (_, node.head_secret) = mint::secrets()?;
            }
            changes.put_node(node)?;
        }
        Ok::<_, super::HeadError>(())
    })?;
    tracing::info!(
        count,
        "nodes got a secret for the head's side of mutual CHAP"
    );
    Ok(())
}
