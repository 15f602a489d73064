//! The CHAP secrets of nodes: shown only when asked for by name, and minted where they are missing.

use serde::{Deserialize, Serialize};

use super::error::{HeadError, Result};
use super::{Head, NodesDone, mint};
use crate::catalog::{Catalog, NodeRecord, Secret};
use crate::names::{NodeName, NodeSet};

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

/// Secrets that come from elsewhere: those of another head that serves the same nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSecretsSet {
    /// As [`Head::node_secrets`] of the other head gave them.
    pub secrets: Vec<NodeSecret>,
    /// Only tell.
    pub dry_run: bool,
}

impl Head {
    /// Takes secrets over, all or none, so that a node may log in to several heads.
    ///
    /// # Errors
    /// A node that does not exist, a secret that some initiator could not use, or one for both directions.
    pub fn node_secrets_set(&self, ask: &NodeSecretsSet) -> Result<NodesDone> {
        if ask.secrets.is_empty() {
            return Err(HeadError::invalid("there are no secrets to take over"));
        }
        for new in &ask.secrets {
            check(&new.node, "secret", &new.secret)?;
            check(&new.node, "head_secret", &new.head_secret)?;
            if new.user != new.node.as_str() || new.head_user != HEAD_USER {
                return Err(HeadError::invalid(format!(
                    "users cannot be chosen: that of {0} must be {0}, that of the head {HEAD_USER}",
                    new.node
                )));
            }
        }
        self.change(ask.dry_run, |changes| {
            for new in &ask.secrets {
                let old = changes.view().node(new.node.as_str()).cloned();
                let old = old.ok_or_else(|| {
                    HeadError::not_found(format!("there is no node {}", new.node))
                })?;
                let mut node = NodeRecord::clone(&old);
                node.secret = new.secret.clone();
                node.head_secret = new.head_secret.clone();
                changes.put_node(node)?;
            }
            Ok(())
        })?;
        let names: NodeSet = ask.secrets.iter().map(|new| new.node.clone()).collect();
        Ok(NodesDone {
            nodes: names,
            notices: vec![
                "what runs on them knows their old secrets until its next boot".to_owned(),
            ],
            dry_run: ask.dry_run,
        })
    }
}

/// 12 to 16 characters is what Windows takes; 96 bits want 16 of our own. No secret may break a script.
pub(super) fn check(node: &NodeName, which: &str, secret: &Secret) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._+=/:".contains(c);
    if (12..=16).contains(&secret.0.len()) && secret.0.chars().all(plain) {
        return Ok(());
    }
    Err(HeadError::invalid(format!(
        "{which} of {node} must have 12 to 16 characters of a-z, A-Z, 0-9 and -._+=/:"
    )))
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

#[cfg(test)]
mod test {
    use super::super::test::Bench;
    use super::*;
    use crate::catalog::LayerMode;
    use crate::head::NodeChange;

    #[test]
    fn new_secrets_replace_both_directions_and_outlast_a_restart() {
        let mut bench = Bench::with_nodes(LayerMode::Ephemeral);
        let of = |bench: &Bench, node: &str| bench.head().node_secrets(node).unwrap().remove(0);
        let (old, other) = (of(&bench, "n1"), of(&bench, "n2"));
        let ask = NodeChange {
            nodes: "n1".into(),
            new_secret: true,
            ..NodeChange::default()
        };
        bench.head().nodes_set(&ask).unwrap();
        let new = of(&bench, "n1");
        let all = [&old.secret, &old.head_secret, &new.secret, &new.head_secret];
        for (at, one) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|other| other != one));
        }
        bench.reopen();
        assert_eq!((of(&bench, "n1"), of(&bench, "n2")), (new, other));
    }

    #[test]
    fn a_node_of_an_older_program_gets_its_second_secret_once() {
        let mut bench = Bench::with_nodes(LayerMode::Ephemeral);
        let of = |bench: &Bench| bench.head().node_secrets("n1").unwrap().remove(0);
        let before = of(&bench);
        let older = |changes: &mut crate::catalog::Changes| {
            let old = changes.view().node("n1").cloned().unwrap();
            let mut node = crate::catalog::NodeRecord::clone(&old);
            node.head_secret = crate::catalog::Secret::default();
            Ok::<_, HeadError>(changes.put_node(node)?)
        };
        bench.head().catalog.transact(older).unwrap();
        bench.reopen();
        let minted = of(&bench);
        assert_eq!(minted.secret, before.secret);
        assert_eq!(minted.head_secret.0.len(), 16);
        assert_ne!(minted.head_secret, minted.secret);
        bench.reopen();
        assert_eq!(of(&bench), minted);
    }

    #[test]
    fn one_secret_for_both_directions_is_refused() {
        let bench = Bench::with_nodes(LayerMode::Ephemeral);
        let same = |changes: &mut crate::catalog::Changes| {
            let old = changes.view().node("n1").cloned().unwrap();
            let mut node = crate::catalog::NodeRecord::clone(&old);
            node.head_secret = node.secret.clone();
            Ok::<_, HeadError>(changes.put_node(node)?)
        };
        let error = bench.head().catalog.transact(same).unwrap_err();
        assert!(error.message.contains("both directions"), "{error}");
    }

    #[test]
    fn secrets_are_taken_over_from_another_head_all_or_none() {
        let bench = Bench::with_nodes(LayerMode::Ephemeral);
        let secrets = || bench.head().node_secrets("n[1-2]").unwrap();
        let before = secrets();
        let set = |secrets: Vec<NodeSecret>| {
            let ask = NodeSecretsSet {
                secrets,
                dry_run: false,
            };
            bench.head().node_secrets_set(&ask).map_err(|e| e.message)
        };
        let mut new = before.clone();
        new[0].secret = crate::catalog::Secret("AAAAAAAAAAAAAAAA".into());
        for (text, word) in [("short", "12 to 16"), ("with space in it", "12 to 16")] {
            let mut bad = new.clone();
            bad[1].head_secret = crate::catalog::Secret(text.into());
            assert!(set(bad).unwrap_err().contains(word));
        }
        let mut same = new.clone();
        same[1].head_secret = same[1].secret.clone();
        assert!(set(same).unwrap_err().contains("both directions"));
        let mut user = new.clone();
        user[0].user = "admin".into();
        assert!(set(user).unwrap_err().contains("users cannot be chosen"));
        assert_eq!(secrets(), before, "nothing was changed");
        set(new.clone()).unwrap();
        assert_eq!(secrets(), new);
    }
}
