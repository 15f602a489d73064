//! Prints names folded: `r[1-2]n[01-24]`. Pure.
//!
//! Every run of digits in a name is an axis. Names that agree in all that is not a digit are points of one
//! space; points are merged into boxes axis by axis, from the last to the first, and only where all other
//! axes agree. So the result names exactly the given names, though not always in the fewest boxes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{NodeName, natural};

/// Longest run of digits that is a number; a longer one is text like any other.
pub(super) const DIGITS_MAX: usize = 18;

/// A number as it was written: `007` is 7 in 3 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Number {
    value: u64,
    width: usize,
}

type Axis = Vec<Number>;
type Cuboid = Vec<Axis>;

/// The names as one expression that reads back to the same names.
pub(super) fn fold<'a>(names: impl Iterator<Item = &'a NodeName>) -> String {
    let mut spaces: BTreeMap<Vec<&str>, BTreeSet<Cuboid>> = BTreeMap::new();
    for name in names {
        let (texts, point) = split(name.as_str());
        spaces.entry(texts).or_default().insert(point);
    }
    let mut printed: Vec<(String, String)> = Vec::new();
    for (texts, points) in spaces {
        for cuboid in merge(points, texts.len() - 1) {
            printed.push(print(&texts, &cuboid));
        }
    }
    printed.sort_unstable_by(|a, b| natural::compare(&a.0, &b.0));
    let folded: Vec<String> = printed.into_iter().map(|(_, text)| text).collect();
    folded.join(",")
}

/// `r1n02` as the texts `r`, `n`, `` and the point (1, 02).
fn split(name: &str) -> (Vec<&str>, Cuboid) {
    let (mut texts, mut point) = (Vec::new(), Vec::new());
    let (mut from, mut at) = (0, 0);
    while let Some(rest) = name.get(at..).filter(|rest| !rest.is_empty()) {
        let width = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = rest.get(..width).filter(|_| width <= DIGITS_MAX);
        if let Some(value) = number.and_then(|digits| digits.parse().ok()) {
            texts.push(name.get(from..at).unwrap_or_default());
            point.push(vec![Number { value, width }]);
            from = at + width;
        }
        at += width.max(1);
    }
    texts.push(name.get(from..).unwrap_or_default());
    (texts, point)
}

fn merge(points: BTreeSet<Cuboid>, axes: usize) -> BTreeSet<Cuboid> {
    let mut cuboids = points;
    for axis in (0..axes).rev() {
        let mut merged: BTreeMap<Cuboid, Axis> = BTreeMap::new();
        for mut cuboid in cuboids {
            let values = std::mem::take(&mut cuboid[axis]);
            merged.entry(cuboid).or_default().extend(values);
        }
        let whole = |(mut cuboid, mut values): (Cuboid, Axis)| {
            values.sort_unstable();
            cuboid[axis] = values;
            cuboid
        };
        cuboids = merged.into_iter().map(whole).collect();
    }
    cuboids
}

/// The first name of the cuboid, for sorting, and its folded text.
fn print(texts: &[&str], cuboid: &[Axis]) -> (String, String) {
    let (mut first, mut folded) = (String::new(), String::new());
    for (index, text) in texts.iter().enumerate() {
        first.push_str(text);
        folded.push_str(text);
        let Some(axis) = cuboid.get(index) else {
            continue;
        };
        if let Some(number) = axis.first() {
            first.push_str(&number.print());
        }
        match axis.as_slice() {
            [only] => folded.push_str(&only.print()),
            many => {
                let _ = write!(folded, "[{}]", ranges(many));
            }
        }
    }
    (first, folded)
}

fn ranges(values: &[Number]) -> String {
    let mut left: BTreeSet<Number> = values.iter().copied().collect();
    let mut texts = Vec::new();
    while let Some(first) = left.pop_first() {
        let mut last = first;
        while let Some(next) = last.next_beside(first).filter(|next| left.remove(next)) {
            last = next;
        }
        texts.push(if last == first {
            first.print()
        } else {
            format!("{}-{}", first.print(), last.print())
        });
    }
    texts.join(",")
}

impl Number {
    fn print(self) -> String {
        let width = self.width;
        format!("{:0width$}", self.value)
    }

    /// The number after this one in the range that `first` begins: of the same width where `first` is
    /// padded (a padded range never grows a digit), of its own width elsewhere.
    fn next_beside(self, first: Self) -> Option<Self> {
        let value = self.value.checked_add(1)?;
        let width = plain_width(value);
        if width > DIGITS_MAX {
            return None;
        }
        if first.width == plain_width(first.value) {
            return Some(Self { value, width });
        }
        let width_kept = first.width;
        (width <= width_kept).then_some(Self {
            value,
            width: width_kept,
        })
    }
}

fn plain_width(value: u64) -> usize {
    value
        .checked_ilog10()
        .map_or(1, |log| usize::try_from(log).unwrap_or(DIGITS_MAX) + 1)
}
