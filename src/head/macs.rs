//! Which node gets which MAC: from a list, or counted up from one. Pure.

use std::collections::BTreeMap;

use super::error::{HeadError, Result};
use crate::names::{Mac, NodeName, NodeSet};

/// Where the addresses of new nodes come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum MacSource<'a> {
    /// None: the nodes' firmware has a fixed configuration.
    None,
    /// The first node gets this one, the next the one above, in natural order.
    From(Mac),
    /// Lines of `MAC...` in the order of the nodes, or of `NAME MAC...`; `#` starts a comment.
    List(&'a str),
}

/// The addresses of each node of `nodes`.
pub(super) fn assign(nodes: &NodeSet, from: MacSource<'_>) -> Result<BTreeMap<NodeName, Vec<Mac>>> {
    match from {
        MacSource::None => Ok(nodes.iter().map(|n| (n.clone(), Vec::new())).collect()),
        MacSource::From(base) => count_up(nodes, base),
        MacSource::List(text) => from_list(nodes, text),
    }
}

fn count_up(nodes: &NodeSet, base: Mac) -> Result<BTreeMap<NodeName, Vec<Mac>>> {
    let mac = |(node, steps): (&NodeName, u64)| {
        let mac = base.plus(steps).filter(|mac| mac.is_unicast());
        let wrong = || {
            HeadError::invalid(format!(
                "node `{node}`: {steps} above MAC {base} is no usable address; begin lower"
            ))
        };
        Ok((node.clone(), vec![mac.ok_or_else(wrong)?]))
    };
    nodes.iter().zip(0..).map(mac).collect()
}

fn from_list(nodes: &NodeSet, text: &str) -> Result<BTreeMap<NodeName, Vec<Mac>>> {
    let lines = parse(text)?;
    let all = if lines.iter().all(|line| line.name.is_none()) {
        in_order(nodes, lines)?
    } else {
        by_name(nodes, lines)?
    };
    let mut owners: BTreeMap<Mac, &NodeName> = BTreeMap::new();
    for (node, macs) in &all {
        for mac in macs {
            if let Some(other) = owners.insert(*mac, node) {
                let message = format!("MAC {mac} is given to node `{other}` and to `{node}`");
                return Err(HeadError::invalid(message));
            }
        }
    }
    Ok(all)
}

struct Line {
    number: usize,
    name: Option<NodeName>,
    macs: Vec<Mac>,
}

fn parse(text: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|word| !word.is_empty())
            .peekable();
        let Some(first) = words.peek() else { continue };
        let within = |e| HeadError::from(e).within(format!("line {number} of the MAC list"));
        let name = match Mac::parse(first) {
            Ok(_) => None,
            Err(_) => Some(NodeName::parse(first).map_err(within)?),
        };
        let macs = words.skip(usize::from(name.is_some())).map(Mac::parse);
        let macs: Vec<Mac> = macs
            .collect::<std::result::Result<_, _>>()
            .map_err(within)?;
        if macs.is_empty() {
            let message = format!("line {number} of the MAC list has a name and no MAC");
            return Err(HeadError::invalid(message));
        }
        lines.push(Line { number, name, macs });
    }
    Ok(lines)
}

fn in_order(nodes: &NodeSet, lines: Vec<Line>) -> Result<BTreeMap<NodeName, Vec<Mac>>> {
    let (wanted, given) = (nodes.len(), lines.len());
    if wanted != given {
        return Err(HeadError::invalid(format!(
            "{wanted} nodes, but {given} lines in the MAC list; give one line for each node"
        )));
    }
    let macs = lines.into_iter().map(|line| line.macs);
    Ok(nodes.iter().cloned().zip(macs).collect())
}

fn by_name(nodes: &NodeSet, lines: Vec<Line>) -> Result<BTreeMap<NodeName, Vec<Mac>>> {
    let mut all = BTreeMap::new();
    for line in lines {
        let number = line.number;
        let wrong = |why: String| {
            let message = format!("line {number} of the MAC list {why}");
            Err(HeadError::invalid(message))
        };
        let Some(name) = line.name else {
            return wrong("has no name, others have; name all or none".into());
        };
        if !nodes.contains(&name) {
            return wrong(format!("names `{name}`, which is not among {nodes}"));
        }
        if all.insert(name.clone(), line.macs).is_some() {
            return wrong(format!("names `{name}` again; put its MACs on one line"));
        }
    }
    let without: NodeSet = nodes
        .iter()
        .filter(|n| !all.contains_key(n))
        .cloned()
        .collect();
    if !without.is_empty() {
        let message = format!("the MAC list has no line for {without}");
        return Err(HeadError::invalid(message));
    }
    Ok(all)
}

#[cfg(test)]
mod test {
    use super::*;

    fn nodes() -> NodeSet {
        NodeSet::parse("n[9-11]").unwrap()
    }

    fn assigned(from: MacSource<'_>) -> Vec<String> {
        let all = assign(&nodes(), from).unwrap();
        let line = |(name, macs): (NodeName, Vec<Mac>)| {
            let macs: Vec<String> = macs.iter().map(ToString::to_string).collect();
            format!("{name} {}", macs.join(" "))
        };
        all.into_iter().map(line).collect()
    }

    fn why(list: &str) -> String {
        assign(&nodes(), MacSource::List(list)).unwrap_err().message
    }

    #[test]
    fn addresses_are_counted_up_in_natural_order() {
        let base = Mac::parse("52:54:00:00:00:ff").unwrap();
        assert_eq!(
            assigned(MacSource::From(base)),
            [
                "n9 52:54:00:00:00:ff",
                "n10 52:54:00:00:01:00",
                "n11 52:54:00:00:01:01"
            ]
        );
        let end = Mac::parse("fe:ff:ff:ff:ff:fe").unwrap();
        let error = assign(&nodes(), MacSource::From(end)).unwrap_err();
        assert!(error.message.contains("n11"), "{error}");
    }

    #[test]
    fn a_list_gives_them_in_order_or_by_name() {
        let wanted = [
            "n9 52:54:00:00:00:01",
            "n10 52:54:00:00:00:02 52:54:00:00:00:12",
            "n11 52:54:00:00:00:03",
        ];
        let in_order =
            "# rack 1\n525400000001\n\n52-54-00-00-00-02, 5254.0000.0012 # two\n525400000003\n";
        assert_eq!(assigned(MacSource::List(in_order)), wanted);
        let by_name = "n11 525400000003\nn9\t525400000001\nn10 525400000002 525400000012";
        assert_eq!(assigned(MacSource::List(by_name)), wanted);
    }

    #[test]
    fn lists_that_do_not_fit_say_where() {
        assert!(why("525400000001").contains("3 nodes, but 1 lines"));
        assert!(why("n9 525400000001").contains("no line for n[10-11]"));
        assert!(why("n1 525400000001").contains("line 1 of the MAC list names `n1`"));
        assert!(why("n9 525400000001\nn9 525400000002").contains("line 2"));
        assert!(why("n9 525400000001\n525400000002").contains("name all or none"));
        assert!(why("n9").contains("no MAC"));
        assert!(why("n9 52540000000g").contains("line 1"));
        let twice = why("525400000001\n525400000002\n525400000001");
        assert!(twice.contains("`n9` and to `n11`"), "{twice}");
    }
}
