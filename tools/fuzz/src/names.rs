//! What people and scripts type: node sets, node names, addresses. The first byte chooses.

use std::collections::BTreeSet;

use reveille::limits;
use reveille::names::{Mac, NodeName, NodeSet};

pub(crate) fn run(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    match choice % 3 {
        0 => node_set(&text),
        1 => mac(&text),
        _ => node_name(&text),
    }
}

/// What an expression yields is bounded, and its folded form means the same.
fn node_set(text: &str) {
    let groups = |name: &str| match name {
        "all" => NodeSet::parse("n[1-40]").map_err(|e| e.to_string()),
        "few" => NodeSet::parse("n[1-3]").map_err(|e| e.to_string()),
        _ => Err("there is no such group".to_owned()),
    };
    let set = match NodeSet::parse_with(text, &groups) {
        Ok(set) => set,
        Err(error) => {
            assert!(
                error.to_string().len() < 2000,
                "an error of {} bytes",
                error.to_string().len()
            );
            return;
        }
    };
    assert!(set.len() <= limits::NODE_SET_NAMES_MAX);
    if set.is_empty() || set.len() > 5000 {
        return;
    }
    let folded = set.to_string();
    let again = NodeSet::parse(&folded).expect("its own folded form");
    assert!(again == set, "`{text}` folds to `{folded}`");
    if !text.contains(['[', '@', '!', '&', '^']) {
        let listed: BTreeSet<&str> = text.split(',').map(str::trim).collect();
        assert_eq!(listed.len(), set.len());
    }
}

fn mac(text: &str) {
    let Ok(mac) = Mac::parse(text) else { return };
    assert_eq!(Mac::parse(&mac.to_string()), Ok(mac));
    let digits = |text: &str| {
        let kept = text.chars().filter(char::is_ascii_hexdigit);
        kept.collect::<String>().to_ascii_lowercase()
    };
    assert_eq!(digits(text), digits(&mac.to_string()));
    assert!(text.len() <= 17);
}

/// A name that is taken is a host name label, a file name and a part of an iSCSI name without a surprise.
fn node_name(text: &str) {
    let Ok(name) = NodeName::parse(text) else {
        return;
    };
    assert_eq!(name.as_str(), text);
    assert!(
        text.len() <= NodeName::LEN_MAX && !text.starts_with(['.', '-']) && !text.contains("..")
    );
    assert!(
        text.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    );
    let set = NodeSet::parse(text).expect("a single name is a set");
    assert!(set.len() == 1 && set.contains(&name));
}
