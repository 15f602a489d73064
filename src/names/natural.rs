//! The order in which people count: `node2` before `node10`, `rack1-n9` before `rack1-n10`. Pure.

use std::cmp::Ordering;

/// Compares runs of digits as numbers of any length and all else byte by byte. Texts that differ only in
/// padding (`n1`, `n01`) are told apart by length and bytes, so that only equal texts compare equal.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (mut a, mut b) = after_prefix(left.as_bytes(), right.as_bytes());
    loop {
        let (a_digits, b_digits) = (digits(a), digits(b));
        if a_digits > 0 && b_digits > 0 {
            let (run_a, rest_a) = a.split_at(a_digits);
            let (run_b, rest_b) = b.split_at(b_digits);
            match compare_numbers(run_a, run_b) {
                Ordering::Equal => (a, b) = (rest_a, rest_b),
                unequal => return unequal,
            }
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, rest_a)), Some((y, rest_b))) if x == y => (a, b) = (rest_a, rest_b),
            (Some((x, _)), Some((y, _))) => return x.cmp(y),
            (None, None) => return left.len().cmp(&right.len()).then_with(|| left.cmp(right)),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
        }
    }
}

/// What follows the beginning that both have in common, with the whole of a number that was begun.
fn after_prefix<'a>(a: &'a [u8], b: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let prefix = a.get(..same).unwrap_or_default();
    let number = prefix.iter().rev().take_while(|d| d.is_ascii_digit());
    let begin = same - number.count();
    (a.split_at(begin).1, b.split_at(begin).1)
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|b| b.is_ascii_digit()).count()
}

fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let value = |run: &[u8]| run.iter().position(|&d| d != b'0').unwrap_or(run.len());
    let (a, b) = (a.split_at(value(a)).1, b.split_at(value(b)).1);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        let sorted = [
            "a", "a-1", "a0", "a1", "a01", "a1b", "a2", "a9", "a10", "a10-2", "a10-10", "b1",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
    }

    #[test]
    fn numbers_of_any_length_compare() {
        let long = "n123456789012345678901234567890";
        assert_eq!(compare("n9", long), Ordering::Less);
        assert_eq!(compare(long, long), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn it_is_a_total_order_and_equal_means_equal(
            a in "[ab0-1-]{0,6}", b in "[ab0-1-]{0,6}", c in "[ab0-1-]{0,6}",
        ) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &b) == Ordering::Equal, a == b);
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                prop_assert_ne!(compare(&a, &c), Ordering::Greater);
            }
        }
    }
}
