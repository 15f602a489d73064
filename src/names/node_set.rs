//! Sets of node names in ClusterShell's syntax: `node[001-100]`, `r[1-4]n[1-24]`, `a,b!c&d^e`, `@all`.
//!
//! ```text
//!   expression = operand { operator operand }          from left to right, no precedence
//!   operator   = "," union | "!" minus | "&" and | "^" xor
//!   operand    = "@" group | text { "[" ranges "]" [ text ] }
//!   ranges     = range { "," range }      range = number [ "-" number [ "/" step ] ]
//! ```
//! Padding is kept: `[08-11]` is 08, 09, 10, 11. Both ends of a padded range have the same number of digits.
//! Sizes are counted before anything is expanded. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::fold::{self, DIGITS_MAX};
use super::{NameError, NodeName};
use crate::limits;

/// A set of node names, in natural order; prints folded.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeSet(BTreeSet<NodeName>);

/// Says which nodes a group has; the error is a clause that says why it cannot.
pub type Groups<'a> = &'a dyn Fn(&str) -> Result<NodeSet, String>;

#[derive(Clone, Copy, Debug)]
enum Operator {
    Union,
    Minus,
    And,
    Xor,
}

impl NodeSet {
    /// Reads an expression that names no group.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Self::parse_with(text, &|_| {
            Err("groups are not known here; name the nodes".into())
        })
    }

    /// Reads an expression; `groups` answers for `@name` (`all` for `@all` and `@*`).
    pub fn parse_with(text: &str, groups: Groups<'_>) -> Result<Self, NameError> {
        if text.len() > limits::NODE_SET_TEXT_MAX {
            let why = format!("is longer than {} bytes", limits::NODE_SET_TEXT_MAX);
            return Err(NameError::new("node set", text, why));
        }
        let mut parser = Parser {
            text,
            groups,
            names_left: limits::NODE_SET_NAMES_MAX,
        };
        parser.expression()
    }

    /// The names, in the natural order (node2 before node10).
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &NodeName> {
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

    /// Adds `name`; `false` if it was there.
    pub fn insert(&mut self, name: NodeName) -> bool {
        self.0.insert(name)
    }

    /// Takes `name` out; `false` if it was not there.
    pub fn remove(&mut self, name: &NodeName) -> bool {
        self.0.remove(name)
    }

    fn combine(&mut self, operator: Operator, other: Self) {
        match operator {
            Operator::Union => self.0.extend(other.0),
            Operator::Minus => self.0.retain(|name| !other.0.contains(name)),
            Operator::And => self.0.retain(|name| other.0.contains(name)),
            Operator::Xor => {
                for name in other.0 {
                    if !self.0.remove(&name) {
                        self.0.insert(name);
                    }
                }
            }
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    groups: Groups<'a>,
    /// Names that the operands still to come may expand to.
    names_left: usize,
}

/// A stretch of an operand.
enum Piece<'a> {
    Text(&'a str),
    Ranges(Vec<Range>),
}

#[derive(Clone, Copy)]
struct Range {
    first: u64,
    last: u64,
    step: u64,
    /// Digits to pad to; 0 for none.
    width: usize,
}

impl Range {
    fn count(self) -> u64 {
        (self.last - self.first) / self.step + 1
    }
}

impl<'a> Parser<'a> {
    fn wrong(&self, why: impl Into<String>) -> NameError {
        NameError::new("node set", self.text, why)
    }

    fn expression(&mut self) -> Result<NodeSet, NameError> {
        let mut set = NodeSet::default();
        let mut operator = Operator::Union;
        let mut rest = self.text;
        loop {
            let end = self.operand_end(rest)?;
            let (operand, tail) = rest.split_at(end);
            let other = self.operand(operand.trim())?;
            set.combine(operator, other);
            let mut symbols = tail.chars();
            operator = match symbols.next() {
                None => return Ok(set),
                Some('!') => Operator::Minus,
                Some('&') => Operator::And,
                Some('^') => Operator::Xor,
                Some(_) => Operator::Union,
            };
            rest = symbols.as_str();
        }
    }

    /// Where the operand at the start of `rest` ends: at an operator outside brackets.
    fn operand_end(&self, rest: &str) -> Result<usize, NameError> {
        let mut inside = false;
        for (at, symbol) in rest.char_indices() {
            match symbol {
                '[' if inside => return Err(self.wrong("has a `[` inside brackets")),
                '[' => inside = true,
                ']' if !inside => return Err(self.wrong("has a `]` without its `[`")),
                ']' => inside = false,
                ',' | '!' | '&' | '^' if !inside => return Ok(at),
                _ => {}
            }
        }
        if inside {
            return Err(self.wrong("has a `[` without its `]`"));
        }
        Ok(rest.len())
    }

    fn operand(&mut self, operand: &'a str) -> Result<NodeSet, NameError> {
        if operand.is_empty() {
            return Err(self.wrong("misses a name before, after or between its operators"));
        }
        if let Some(group) = operand.strip_prefix('@') {
            let group = if group == "*" { "all" } else { group };
            let named = |why| self.wrong(format!("group `@{group}`: {why}"));
            let set = (self.groups)(group).map_err(named)?;
            self.spend(u64::try_from(set.len()).unwrap_or(u64::MAX))?;
            return Ok(set);
        }
        let pieces = self.pieces(operand)?;
        let mut count = 1_u64;
        for piece in &pieces {
            if let Piece::Ranges(ranges) = piece {
                let sum = ranges
                    .iter()
                    .fold(0, |n: u64, r| n.saturating_add(r.count()));
                count = count.saturating_mul(sum);
            }
        }
        self.spend(count)?;
        expand(&pieces)
            .iter()
            .map(|name| NodeName::parse(name))
            .collect()
    }

    fn spend(&mut self, names: u64) -> Result<(), NameError> {
        let left = usize::try_from(names)
            .ok()
            .and_then(|n| self.names_left.checked_sub(n));
        let max = limits::NODE_SET_NAMES_MAX;
        let many = || self.wrong(format!("names more than {max} nodes; use smaller ranges"));
        self.names_left = left.ok_or_else(many)?;
        Ok(())
    }

    fn pieces(&self, operand: &'a str) -> Result<Vec<Piece<'a>>, NameError> {
        let mut pieces = Vec::new();
        let mut rest = operand;
        while let Some((text, tail)) = rest.split_once('[') {
            // `operand_end` has paired the brackets.
            let (inside, after) = tail.split_once(']').unwrap_or((tail, ""));
            pieces.push(Piece::Text(text));
            let ranges = inside.split(',').map(|text| self.range(text));
            pieces.push(Piece::Ranges(ranges.collect::<Result<_, _>>()?));
            rest = after;
        }
        pieces.push(Piece::Text(rest));
        Ok(pieces)
    }

    fn range(&self, text: &str) -> Result<Range, NameError> {
        let (span, step) = match text.split_once('/') {
            Some((span, step)) => (span, self.number(step)?),
            None => (text, 1),
        };
        let (begin, end) = span.split_once('-').unwrap_or((span, span));
        let (first, last) = (self.number(begin)?, self.number(end)?);
        if step == 0 || first > last || (text.contains('/') && !span.contains('-')) {
            let why = format!("range `{text}` must rise, like 1-9 or 0-100/4");
            return Err(self.wrong(why));
        }
        let is_padded = |digits: &str| digits.len() > 1 && digits.starts_with('0');
        let padded = is_padded(begin) || is_padded(end);
        if padded && begin.len() != end.len() {
            let why = format!("both ends of the padded range `{text}` need as many digits");
            return Err(self.wrong(why));
        }
        let width = if padded { begin.len() } else { 0 };
        Ok(Range {
            first,
            last,
            step,
            width,
        })
    }

    fn number(&self, digits: &str) -> Result<u64, NameError> {
        let good = (1..=DIGITS_MAX).contains(&digits.len())
            && digits.bytes().all(|digit| digit.is_ascii_digit());
        let value = good.then(|| digits.parse().ok()).flatten();
        let bad: String = digits.chars().take(40).collect();
        value.ok_or_else(|| {
            let why = format!("`{bad}` in brackets is not a number of 1 to {DIGITS_MAX} digits");
            self.wrong(why)
        })
    }
}

fn expand(pieces: &[Piece<'_>]) -> Vec<String> {
    let mut names = vec![String::new()];
    for piece in pieces {
        match piece {
            Piece::Text(text) => {
                for name in &mut names {
                    name.push_str(text);
                }
            }
            Piece::Ranges(ranges) => {
                let mut longer = Vec::new();
                for name in &names {
                    longer.extend(ranges.iter().flat_map(|range| range.after(name)));
                }
                names = longer;
            }
        }
    }
    names
}

impl Range {
    fn after(self, name: &str) -> impl Iterator<Item = String> {
        let width = self.width;
        (0..self.count()).map(move |n| format!("{name}{:0width$}", self.first + n * self.step))
    }
}

impl FromIterator<NodeName> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeName>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

impl IntoIterator for NodeSet {
    type Item = NodeName;
    type IntoIter = std::collections::btree_set::IntoIter<NodeName>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Extend<NodeName> for NodeSet {
    fn extend<I: IntoIterator<Item = NodeName>>(&mut self, names: I) {
        self.0.extend(names);
    }
}

impl fmt::Display for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&fold::fold(self.iter()))
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for NodeSet {
    type Error = NameError;
    /// The printed form of any set, the empty one included.
    fn try_from(text: String) -> Result<Self, NameError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        Self::parse(&text)
    }
}

impl From<NodeSet> for String {
    fn from(set: NodeSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    fn folded(text: &str) -> String {
        NodeSet::parse(text).unwrap().to_string()
    }

    fn expanded(text: &str) -> Vec<String> {
        let set = NodeSet::parse(text).unwrap();
        set.iter().map(ToString::to_string).collect()
    }

    fn why(text: &str) -> String {
        NodeSet::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn facts_of_the_clustershell_manual_hold() {
        // Expansions and foldings that its nodeset manual gives as examples.
        assert_eq!(expanded("node[1-5]").len(), 5);
        assert_eq!(folded("node1,node2,node3"), "node[1-3]");
        assert_eq!(folded("node1,node3,node5"), "node[1,3,5]");
        assert_eq!(folded("node[0-7]!node3"), "node[0-2,4-7]");
        assert_eq!(folded("node[0-10]&node[8-13]"), "node[8-10]");
        assert_eq!(folded("node[0-7]^node[4-10]"), "node[0-3,8-10]");
        assert_eq!(folded("node[32-33,36]!node33,node40"), "node[32,36,40]");
        assert_eq!(
            expanded("da[2-3]c[1-2]"),
            ["da2c1", "da2c2", "da3c1", "da3c2"]
        );
    }

    #[test]
    fn padding_is_kept() {
        assert_eq!(expanded("n[008-011]"), ["n008", "n009", "n010", "n011"]);
        assert_eq!(folded("n[001-100]"), "n[001-100]");
        assert_eq!(folded("n08,n09,n10,n11"), "n[08-11]");
        assert_eq!(folded("n8,n9,n10,n11"), "n[8-11]");
        assert_eq!(folded("n98,n99,n100"), "n[98-100]");
        assert_eq!(folded("n[08-99],n100"), "n[08-99,100]");
        assert_eq!(folded("n1,n01,n2,n02"), "n[1-2,01-02]");
    }

    #[test]
    fn steps_count() {
        assert_eq!(expanded("n[0-10/4]"), ["n0", "n4", "n8"]);
        assert_eq!(expanded("n[0-100/4]").len(), 26);
    }

    #[test]
    fn several_dimensions_fold_exactly() {
        assert_eq!(folded("r[1-4]n[1-24]"), "r[1-4]n[1-24]");
        assert_eq!(folded("r[1-2]n[1-2],r3n1"), "r[1-2]n[1-2],r3n1");
        assert_eq!(folded("a1-ib0,a2-ib0"), "a[1-2]-ib0");
        assert_eq!(folded("x1,y2,x2,mgmt"), "mgmt,x[1-2],y2");
    }

    #[test]
    fn names_come_in_natural_order() {
        assert_eq!(expanded("n10,n2,n1,m3"), ["m3", "n1", "n2", "n10"]);
    }

    #[test]
    fn groups_are_answered_by_the_caller() {
        let groups = |group: &str| match group {
            "all" => NodeSet::parse("n[1-4]").map_err(|e| e.to_string()),
            _ => Err("no such group".to_owned()),
        };
        let parse = |text: &str| NodeSet::parse_with(text, &groups);
        assert_eq!(parse("@all!n2").unwrap().to_string(), "n[1,3-4]");
        assert_eq!(parse("@*&n[2-9]").unwrap().to_string(), "n[2-4]");
        let error = parse("@rack1").unwrap_err().to_string();
        assert!(error.contains("@rack1") && error.contains("no such group"));
        assert!(why("@all").contains("name the nodes"));
    }

    #[test]
    fn wrong_expressions_say_what_is_wrong() {
        assert!(why("").contains("misses a name"));
        assert!(why("a,,b").contains("misses a name"));
        assert!(why("a!").contains("misses a name"));
        assert!(why("n[1-3").contains("without its `]`"));
        assert!(why("n1-3]").contains("without its `[`"));
        assert!(why("n[[1]]").contains("inside brackets"));
        assert!(why("n[]").contains("not a number"));
        assert!(why("n[1-x]").contains("not a number"));
        assert!(why("n[9-1]").contains("must rise"));
        assert!(why("n[1-9/0]").contains("must rise"));
        assert!(why("n[5/2]").contains("must rise"));
        assert!(why("n[01-100]").contains("as many digits"));
        assert!(why("Node1").contains("not allowed"));
    }

    #[test]
    fn huge_sets_are_refused_before_they_are_expanded() {
        assert!(why("n[1-100001]").contains("more than 100000"));
        assert!(why("n[0-999999999999999999]").contains("more than 100000"));
        assert!(why("a[1-99999]b[1-99999]c[1-99999]d[1-99999]").contains("more than"));
        assert!(why("n[1-60000],m[1-60000]").contains("more than"));
        assert_eq!(NodeSet::parse("n[1-100000]").unwrap().len(), 100_000);
    }

    #[test]
    fn the_printed_form_is_its_json_form() {
        let set = NodeSet::parse("n[1-3],m").unwrap();
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#""m,n[1-3]""#);
        assert_eq!(serde_json::from_str::<NodeSet>(&text).unwrap(), set);
        let none: NodeSet = serde_json::from_str(r#""""#).unwrap();
        assert!(none.is_empty());
    }

    fn any_name() -> impl Strategy<Value = NodeName> {
        let number = prop_oneof!["[0-9]", "0[0-9]", "1[0-2]", "00[0-9]", "9{18,20}"];
        ("[ab]", number.clone(), "(-|c|\\.)", number, "(z)?")
            .prop_map(|(a, b, c, d, e)| NodeName::parse(&format!("{a}{b}{c}{d}{e}")).unwrap())
    }

    fn any_set() -> impl Strategy<Value = NodeSet> {
        prop::collection::vec(any_name(), 1..60).prop_map(NodeSet::from_iter)
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(set in any_set()) {
            prop_assert_eq!(NodeSet::parse(&set.to_string()).unwrap(), set);
        }

        #[test]
        fn operators_do_what_sets_do(a in any_set(), b in any_set()) {
            let combined = |operator| {
                let mut set = a.clone();
                set.combine(operator, b.clone());
                set.0
            };
            prop_assert_eq!(combined(Operator::Union), &a.0 | &b.0);
            prop_assert_eq!(combined(Operator::Minus), &a.0 - &b.0);
            prop_assert_eq!(combined(Operator::And), &a.0 & &b.0);
            prop_assert_eq!(combined(Operator::Xor), &a.0 ^ &b.0);
        }

        #[test]
        fn no_text_panics(text in "[an0-9\\[\\],!&^@/* -]{0,40}") {
            let _ = NodeSet::parse(&text);
        }
    }
}
