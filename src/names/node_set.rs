//! Sets of node names in ClusterShell's syntax: `node[001-100]`, `r[1-4]n[1-24]`, `a,b!c&d^e`.
//! (Skeleton: only comma lists; the names room's owner completes it.)

use std::collections::BTreeSet;
use std::fmt;

use super::{NameError, NodeName};

/// A set of node names; prints folded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(BTreeSet<NodeName>);

impl NodeSet {
    /// Reads a node set expression.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        text.split(',')
            .map(NodeName::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The names, in the natural order (node2 before node10).
    pub fn iter(&self) -> impl Iterator<Item = &NodeName> {
        self.0.iter()
    }

    /// How many names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when it holds no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when it holds `name`.
    #[must_use]
    pub fn contains(&self, name: &NodeName) -> bool {
        self.0.contains(name)
    }
}

impl FromIterator<NodeName> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeName>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

impl fmt::Display for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(NodeName::as_str).collect();
        f.write_str(&names.join(","))
    }
}
