//! The nearest known word to a mistyped one.

/// The candidate with the fewest edits to `given`, if they are few enough to be a slip.
pub(crate) fn nearest<'a>(given: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|c| (edits(given, c), *c))
        .filter(|(n, c)| *n <= 1 + c.len() / 4)
        .min()
        .map(|(_, c)| c)
}

/// Levenshtein distance over bytes; keys are short.
fn edits(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let keys = ["listen", "iqn_prefix", "auth", "interfaces"];
        assert_eq!(nearest("listn", &keys), Some("listen"));
        assert_eq!(nearest("interface", &keys), Some("interfaces"));
        assert_eq!(nearest("iqn-prefix", &keys), Some("iqn_prefix"));
        assert_eq!(nearest("colour", &keys), None);
    }
}
