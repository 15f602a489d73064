//! A document as text: the same for the same catalog, byte for byte; one line for one fact. Pure.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Document, FORMAT, IdentityText, ImageText, NodeText, OrderText};
use crate::catalog::{Setting, Settings};
use crate::names::NodeSet;

const HEADER: &str = "\
# What this head was told. `reveille apply -f FILE` makes a head be so.
# Left out: images' bytes (reveille image export), layers and what they are bound to, campaigns,
# machines that wait for approval, counters.
";
const NO_SECRETS: &str =
    "# Left out too, as --secrets was not given: CHAP secrets and identities of disks.\n";
const SECRETS: &str = "# Holds CHAP secrets: keep it as closely as the state directory.\n";

/// A value to print. Maps keep their order.
enum Out {
    Number(u64),
    Text(String),
    /// Always in quotes: other readers of YAML might take it for a number.
    Quoted(String),
    List(Vec<Out>),
    Map(Vec<(String, Out)>),
}

impl Serialize for Out {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Text(text) | Self::Quoted(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

pub(super) fn json(document: &Document) -> String {
    let out = Out::Map(sections(document));
    let text = serde_json::to_string_pretty(&out);
    text.expect("maps with text keys, numbers and texts are JSON") + "\n"
}

pub(super) fn yaml(document: &Document) -> String {
    let secrets = document.identities.is_some();
    let mut text = HEADER.to_owned() + if secrets { SECRETS } else { NO_SECRETS };
    for (at, (key, value)) in sections(document).into_iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        entry(&mut text, 0, &key, &value);
    }
    text
}

fn sections(document: &Document) -> Vec<(String, Out)> {
    let mut all = vec![named("format", Out::Number(FORMAT))];
    if let Some(images) = &document.images {
        let images = images.iter().map(|i| (i.name.clone(), image(i)));
        all.push(named("images", Out::Map(images.collect())));
    }
    if let Some(profiles) = &document.profiles {
        let profile = |p: &super::ProfileText| (p.name.clone(), Out::Map(settings(&p.settings)));
        let profiles = profiles.iter().map(profile);
        all.push(named("profiles", Out::Map(profiles.collect())));
    }
    if let Some(nodes) = &document.nodes {
        all.push(named("nodes", Out::List(groups(nodes))));
    }
    if let Some(orders) = &document.drain {
        all.push(named("drain", Out::Map(drain(orders))));
    }
    if let Some(identities) = &document.identities {
        let identities = identities.iter().map(identity);
        all.push(named("identities", Out::Map(identities.collect())));
    }
    all
}

fn named(key: &str, value: Out) -> (String, Out) {
    (key.to_owned(), value)
}

fn image(image: &ImageText) -> Out {
    let mut all = Vec::new();
    if let Some(next) = image.next {
        all.push(named("next", Out::Number(next.into())));
    }
    if let Some(current) = image.current {
        all.push(named("current", Out::Number(current.into())));
    }
    if !image.tags.is_empty() {
        let tags = image.tags.iter();
        let tags = tags.map(|(tag, number)| (tag.clone(), Out::Number((*number).into())));
        all.push(named("tags", Out::Map(tags.collect())));
    }
    let version = |v: &super::VersionText| {
        let mut fields = vec![
            named("id", Out::Quoted(v.id.to_string())),
            named("size", Out::Number(v.size)),
        ];
        let texts = [("arch", &v.arch), ("note", &v.note)];
        for (key, text) in texts {
            fields.extend(text.clone().map(|text| named(key, Out::Text(text))));
        }
        (v.number.to_string(), Out::Map(fields))
    };
    let versions = image.versions.iter().map(version).collect();
    all.push(named("versions", Out::Map(versions)));
    Out::Map(all)
}

fn settings(settings: &Settings) -> Vec<(String, Out)> {
    let value = |one: Setting| Some(named(one.as_str(), Out::Text(settings.text(one)?)));
    Setting::ALL.into_iter().filter_map(value).collect()
}

/// Nodes with equal settings together, in the order of their first.
fn groups(nodes: &[NodeText]) -> Vec<Out> {
    let mut groups: Vec<Vec<&NodeText>> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for node in nodes {
        let values: Vec<_> = Setting::ALL.map(|one| node.own.text(one)).into();
        let at = *known
            .entry((node.profile.as_deref(), values))
            .or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.push(node),
            None => groups.push(vec![node]),
        }
    }
    groups.iter().map(|group| one_group(group)).collect()
}

fn one_group(group: &[&NodeText]) -> Out {
    let set: NodeSet = group.iter().map(|node| node.name.clone()).collect();
    let mut all = vec![named("nodes", Out::Text(set.to_string()))];
    if let Some(first) = group.first() {
        let profile = first.profile.clone();
        all.extend(profile.map(|name| named("profile", Out::Text(name))));
        all.extend(settings(&first.own));
    }
    let macs = |node: &&NodeText| {
        let mut macs = node.macs.iter().map(|mac| Out::Quoted(mac.to_string()));
        let value = match node.macs.len() {
            0 => return None,
            1 => macs.next()?,
            _ => Out::List(macs.collect()),
        };
        Some((node.name.to_string(), value))
    };
    let macs: Vec<_> = group.iter().filter_map(macs).collect();
    let ip = |node: &&NodeText| {
        let ip = node.ip?;
        Some((node.name.to_string(), Out::Quoted(ip.to_string())))
    };
    let ips: Vec<_> = group.iter().filter_map(ip).collect();
    for (key, values) in [("macs", macs), ("ips", ips)] {
        if !values.is_empty() {
            all.push(named(key, Out::Map(values)));
        }
    }
    Out::Map(all)
}

fn drain(orders: &[OrderText]) -> Vec<(String, Out)> {
    let place =
        |to: Option<std::net::SocketAddr>| to.map(|to| named("to", Out::Quoted(to.to_string())));
    let mut all = Vec::new();
    let mut by_place = std::collections::BTreeMap::<_, NodeSet>::new();
    for order in orders {
        match &order.node {
            None => all.push(named(
                "head",
                Out::Map(place(order.to).into_iter().collect()),
            )),
            Some(name) => {
                by_place.entry(order.to).or_default().insert(name.clone());
            }
        }
    }
    if !by_place.is_empty() {
        let group = |(to, set): (_, NodeSet)| {
            let mut fields = vec![named("nodes", Out::Text(set.to_string()))];
            fields.extend(place(to));
            Out::Map(fields)
        };
        let groups = by_place.into_iter().map(group).collect();
        all.push(named("nodes", Out::List(groups)));
    }
    all
}

fn identity(identity: &IdentityText) -> (String, Out) {
    let fields = vec![
        named("disk", Out::Quoted(identity.disk.clone())),
        named("secret", Out::Quoted(identity.secret.0.clone())),
        named("head_secret", Out::Quoted(identity.head_secret.0.clone())),
    ];
    (identity.node.to_string(), Out::Map(fields))
}

fn entry(text: &mut String, depth: usize, key: &str, value: &Out) {
    text.push_str(&"  ".repeat(depth));
    // Version numbers are the only keys of digits.
    let number = key.parse::<u32>().is_ok_and(|n| n.to_string() == key);
    let key = if number { key.to_owned() } else { scalar(key) };
    text.push_str(&key);
    text.push(':');
    match value {
        Out::Map(entries) if !entries.is_empty() => {
            text.push('\n');
            for (key, value) in entries {
                entry(text, depth + 1, key, value);
            }
        }
        Out::List(items) if items.iter().any(|i| matches!(i, Out::Map(_))) => {
            text.push('\n');
            for item in items {
                list_item(text, depth, item);
            }
        }
        value => {
            text.push(' ');
            text.push_str(&inline(value));
            text.push('\n');
        }
    }
}

/// The first field of a map stands behind the dash, the others below it.
fn list_item(text: &mut String, depth: usize, item: &Out) {
    let mut own = String::new();
    match item {
        Out::Map(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                entry(&mut own, depth + 1, key, value);
            }
        }
        other => own = "  ".repeat(depth + 1) + &inline(other) + "\n",
    }
    let indent = "  ".repeat(depth);
    text.push_str(&indent);
    text.push_str("- ");
    text.push_str(own.get(indent.len() + 2..).unwrap_or_default());
}

fn inline(value: &Out) -> String {
    match value {
        Out::Number(number) => number.to_string(),
        Out::Text(text) => scalar(text),
        Out::Quoted(text) => quoted(text),
        Out::List(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Out::Map(_) => "{}".to_owned(),
    }
}

/// Without quotes where no reader of YAML could take it for anything but a text.
fn scalar(text: &str) -> String {
    const OTHERS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/-[],:".contains(&b);
    let colon_ends = text.ends_with(':');
    let word = begins
        && text.bytes().all(plain)
        && !colon_ends
        && !OTHERS.contains(&text.to_ascii_lowercase().as_str());
    if word { text.to_owned() } else { quoted(text) }
}

/// As in JSON; what does not show or breaks lines is written as its number.
fn quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::from("\"");
    for c in text.chars() {
        let hidden = matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        );
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() || hidden => {
                // All of them are below U+10000.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
