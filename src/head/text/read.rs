//! From the tree of values to a document: every key is known, every value is of its type, or the line says
//! what is wrong. Pure.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::de::DeserializeOwned;

use super::tree::{Key, Kind, Value, parse};
use super::{
    Document, FORMAT, Fault, IdentityText, ImageText, NodeText, OrderText, ProfileText, VersionText,
};
use crate::catalog::{
    DiskTrait, DiskTraits, ImageRef, ProfileRecord, Secret, Settings, VersionSelector, parse_size,
};
use crate::config::nearest;
use crate::names::{Mac, NodeName, NodeSet, parse_portal};

type Result<T> = std::result::Result<T, Fault>;
type Fields = BTreeMap<&'static str, Value>;

const SETTINGS: [&str; 8] = [
    "image",
    "mode",
    "boot",
    "loader",
    "disk",
    "layer-limit",
    "layer-warn",
    "power",
];

/// Reads a text in YAML or JSON.
pub(in crate::head) fn read(text: &str) -> Result<Document> {
    let Some(root) = parse(text)? else {
        return Err(Fault::new(
            1,
            format!("nothing; begin with `format: {FORMAT}`"),
        ));
    };
    let top = [
        "format",
        "images",
        "profiles",
        "nodes",
        "drain",
        "identities",
    ];
    let line = root.line;
    let mut fields = fields(root, "the text", &top)?;
    let format = fields.remove("format").ok_or_else(|| {
        Fault::new(
            line,
            format!("no `format`; say `format: {FORMAT}` if that is meant"),
        )
    })?;
    let (at, number) = (format.line, parsed::<u64>(format, "format")?);
    if number != FORMAT {
        let message = format!(
            "format {number}; this program knows format {FORMAT}, use the Reveille that wrote it"
        );
        return Err(Fault::new(at, message));
    }
    // With --prune the one reading would remove everything, the other nothing.
    for (name, value) in &fields {
        if matches!(value.kind, Kind::Null) {
            let message = format!(
                "`{name}` has no value; say `[]` or `{{}}` for none of them, or leave it out"
            );
            return Err(Fault::new(value.line, message));
        }
    }
    let mut section = |name| fields.remove(name);
    Ok(Document {
        images: section("images").map(images).transpose()?,
        profiles: section("profiles").map(profiles).transpose()?,
        nodes: section("nodes").map(nodes).transpose()?,
        drain: section("drain").map(drain).transpose()?,
        identities: section("identities").map(identities).transpose()?,
    })
}

fn images(value: Value) -> Result<Vec<ImageText>> {
    let image = |(key, value): (Key, Value)| {
        image_name(&key)?;
        let what = format!("image `{}`", key.text);
        let mut fields = fields(value, &what, &["next", "current", "tags", "versions"])?;
        let next = fields.remove("next");
        let current = fields.remove("current");
        let tags = fields.remove("tags").map(|v| entries(v, "tags"));
        let tag = |(key, value): (Key, Value)| {
            tag_name(&key)?;
            let number = parsed(value, &format!("tag `{}`", key.text))?;
            Ok((key.text, number))
        };
        let tags = tags.transpose()?.unwrap_or_default().into_iter().map(tag);
        let versions = fields.remove("versions").map(|v| entries(v, "versions"));
        let versions = versions.transpose()?.unwrap_or_default().into_iter();
        let mut versions = versions
            .map(|(k, v)| version(&key.text, &k, v))
            .collect::<Result<Vec<_>>>()?;
        versions.sort_by_key(|v| v.number);
        let mut tags = tags.collect::<Result<Vec<(String, u32)>>>()?;
        tags.sort();
        Ok(ImageText {
            line: key.line,
            next: next.map(|v| parsed(v, "next")).transpose()?,
            current: current.map(|v| parsed(v, "current")).transpose()?,
            tags,
            versions,
            name: key.text,
        })
    };
    entries(value, "images")?.into_iter().map(image).collect()
}

/// A name without a version: what stands in the catalog must be able to stand in a command and in a text.
fn image_name(key: &Key) -> Result<()> {
    match ImageRef::parse(&key.text) {
        Ok(image) if image.version.is_none() => Ok(()),
        Ok(_) => {
            let why = format!("image `{}`: versions stand below `versions`", key.text);
            Err(Fault::new(key.line, why))
        }
        Err(why) => Err(Fault::new(key.line, why)),
    }
}

fn tag_name(key: &Key) -> Result<()> {
    match VersionSelector::parse(&key.text) {
        Ok(VersionSelector::Tag(_)) => Ok(()),
        Ok(_) => {
            let why = format!("tag `{}`: a number cannot be a tag", key.text);
            Err(Fault::new(key.line, why))
        }
        Err(why) => Err(Fault::new(key.line, why)),
    }
}

fn version(image: &str, key: &Key, value: Value) -> Result<VersionText> {
    let line = key.line;
    let what = format!("version `{image}:{}`", key.text);
    let number = key.text.parse().ok().filter(|n: &u32| *n > 0);
    let number = number
        .ok_or_else(|| Fault::new(line, format!("{what}: a version is a number from 1 up")))?;
    let mut fields = fields(value, &what, &["id", "size", "arch", "note"])?;
    let mut need = |name: &'static str| {
        let found = fields.remove(name);
        found.ok_or_else(|| Fault::new(line, format!("{what}: no `{name}`")))
    };
    let id = need("id")?;
    let (at, id) = (id.line, text(id, "id")?);
    let id = crate::names::ImageId::parse(&id).ok_or_else(|| {
        Fault::new(
            at,
            format!("{what}: `{id}` is no content id of 64 hex digits"),
        )
    })?;
    let size = parsed(need("size")?, "size")?;
    let mut optional = |name: &'static str| fields.remove(name).map(|v| text(v, name)).transpose();
    Ok(VersionText {
        line,
        number,
        id,
        size,
        arch: optional("arch")?,
        note: optional("note")?,
    })
}

fn profiles(value: Value) -> Result<Vec<ProfileText>> {
    let profile = |(key, value): (Key, Value)| {
        ProfileRecord::check_name(&key.text).map_err(|why| Fault::new(key.line, why))?;
        let what = format!("profile `{}`", key.text);
        let mut fields = fields(value, &what, &SETTINGS)?;
        Ok(ProfileText {
            line: key.line,
            settings: settings(&mut fields, &what)?,
            name: key.text,
        })
    };
    entries(value, "profiles")?
        .into_iter()
        .map(profile)
        .collect()
}

fn settings(fields: &mut Fields, of: &str) -> Result<Settings> {
    let mut take = |name: &str| {
        fields
            .remove(name)
            .filter(|v| !matches!(v.kind, Kind::Null))
    };
    let what = |name: &str| format!("{name} of {of}");
    Ok(Settings {
        image: take("image")
            .map(|v| parsed::<ImageRef>(v, &what("image")))
            .transpose()?,
        mode: take("mode").map(|v| word(v, &what("mode"))).transpose()?,
        boot: take("boot").map(|v| word(v, &what("boot"))).transpose()?,
        loader: take("loader")
            .map(|v| word(v, &what("loader")))
            .transpose()?,
        disk: take("disk").map(|v| disk(v, &what("disk"))).transpose()?,
        layer_limit: take("layer-limit")
            .map(|v| size(v, &what("layer-limit")))
            .transpose()?,
        layer_warn: take("layer-warn")
            .map(|v| size(v, &what("layer-warn")))
            .transpose()?,
        power: take("power")
            .map(|v| power(v, &what("power")))
            .transpose()?,
    })
}

fn disk(value: Value, what: &str) -> Result<DiskTraits> {
    if !matches!(value.kind, Kind::List(_)) {
        return parsed(value, what);
    }
    let line = value.line;
    let words = items(value, what)?.into_iter();
    let words = words.map(|v| word::<DiskTrait>(v, what));
    DiskTraits::try_from(words.collect::<Result<Vec<_>>>()?)
        .map_err(|why| Fault::new(line, format!("{what}: {why}")))
}

fn size(value: Value, what: &str) -> Result<u64> {
    let line = value.line;
    parse_size(&text(value, what)?).map_err(|why| Fault::new(line, format!("{what}: {why}")))
}

/// A command that cannot work is refused here, not when five hundred nodes wait for it.
fn power(value: Value, what: &str) -> Result<String> {
    let line = value.line;
    let command = text(value, what)?;
    crate::power::Exec::parse(&command)
        .map_err(|why| Fault::new(line, format!("{what}: {why}")))?;
    Ok(command)
}

fn nodes(value: Value) -> Result<Vec<NodeText>> {
    let mut all: BTreeMap<NodeName, NodeText> = BTreeMap::new();
    for value in items(value, "nodes")? {
        for node in group(value)? {
            let (line, name) = (node.line, node.name.clone());
            if let Some(first) = all.insert(name.clone(), node) {
                let at = first.line;
                let message = format!("node `{name}` a second time, after line {at}");
                return Err(Fault::new(line, message));
            }
        }
    }
    Ok(all.into_values().collect())
}

fn group(value: Value) -> Result<Vec<NodeText>> {
    let line = value.line;
    let mut known = vec!["nodes", "profile", "macs", "ips"];
    known.extend(SETTINGS);
    let mut fields = fields(value, "a group of nodes", &known)?;
    let set = fields.remove("nodes");
    let set = set.ok_or_else(|| Fault::new(line, "a group of nodes without `nodes`"))?;
    let set: NodeSet = node_set(set)?;
    let what = format!("nodes {set}");
    let profile = fields.remove("profile").map(|v| text(v, "profile"));
    let profile = profile.transpose()?;
    let macs = fields.remove("macs").map(|v| by_node(v, &set, "macs"));
    let mut macs = macs.transpose()?.unwrap_or_default();
    let ips = fields.remove("ips").map(|v| by_node(v, &set, "ips"));
    let mut ips = ips.transpose()?.unwrap_or_default();
    let own = settings(&mut fields, &what)?;
    let node = |name: &NodeName| {
        let macs = macs.remove(name).map(|v| macs_of(name, v)).transpose()?;
        let ip = ips.remove(name);
        let ip = ip.map(|v| parsed(v, &format!("address of node `{name}`")));
        Ok(NodeText {
            line,
            name: name.clone(),
            profile: profile.clone(),
            own: own.clone(),
            macs: macs.unwrap_or_default(),
            ip: ip.transpose()?,
        })
    };
    set.iter().map(node).collect()
}

/// A map from nodes of `set`; where that is one node, its value alone will do.
fn by_node(value: Value, set: &NodeSet, what: &str) -> Result<BTreeMap<NodeName, Value>> {
    if matches!(value.kind, Kind::Null) {
        return Ok(BTreeMap::new());
    }
    if let (1, Some(only)) = (set.len(), set.iter().next())
        && !matches!(value.kind, Kind::Map(_))
    {
        return Ok(BTreeMap::from([(only.clone(), value)]));
    }
    let mut all = BTreeMap::new();
    for (key, value) in entries(value, what)? {
        let name = node_name(&key)?;
        if !set.contains(&name) {
            let message = format!("{what} of node `{name}`, which is not among {set}");
            return Err(Fault::new(key.line, message));
        }
        all.insert(name, value);
    }
    Ok(all)
}

fn macs_of(name: &NodeName, value: Value) -> Result<Vec<Mac>> {
    let what = format!("MAC of node `{name}`");
    match value.kind {
        Kind::Null => Ok(Vec::new()),
        Kind::List(items) => items.into_iter().map(|v| parsed(v, &what)).collect(),
        _ => Ok(vec![parsed(value, &what)?]),
    }
}

fn drain(value: Value) -> Result<Vec<OrderText>> {
    let mut fields = fields(value, "drain", &["head", "nodes"])?;
    let mut orders = Vec::new();
    if let Some(head) = fields.remove("head") {
        let line = head.line;
        let to = order_to(&mut self::fields(head, "drain of the head", &["to"])?)?;
        let node = None;
        orders.push(OrderText { line, node, to });
    }
    let mut all: BTreeMap<NodeName, OrderText> = BTreeMap::new();
    let groups = fields.remove("nodes").map(|v| items(v, "drain of nodes"));
    for group in groups.transpose()?.unwrap_or_default() {
        let line = group.line;
        let mut fields = self::fields(group, "drain of nodes", &["nodes", "to"])?;
        let set = fields.remove("nodes");
        let set = set.ok_or_else(|| Fault::new(line, "an order to drain without `nodes`"))?;
        let to = order_to(&mut fields)?;
        for name in node_set(set)?.iter() {
            let node = Some(name.clone());
            let order = OrderText { line, node, to };
            if all.insert(name.clone(), order).is_some() {
                let message = format!("node `{name}` is drained a second time");
                return Err(Fault::new(line, message));
            }
        }
    }
    orders.extend(all.into_values());
    Ok(orders)
}

fn order_to(fields: &mut Fields) -> Result<Option<std::net::SocketAddr>> {
    let to = fields
        .remove("to")
        .filter(|v| !matches!(v.kind, Kind::Null));
    to.map(|v| {
        let line = v.line;
        parse_portal(&text(v, "to")?).map_err(|e| Fault::new(line, e.to_string()))
    })
    .transpose()
}

fn identities(value: Value) -> Result<Vec<IdentityText>> {
    let identity = |(key, value): (Key, Value)| {
        let line = key.line;
        let node = node_name(&key)?;
        let what = format!("identity of node `{node}`");
        let mut fields = fields(value, &what, &["disk", "secret", "head_secret"])?;
        let mut need = |name: &'static str| {
            let found = fields.remove(name);
            let found = found.ok_or_else(|| Fault::new(line, format!("{what}: no `{name}`")))?;
            text(found, name)
        };
        Ok(IdentityText {
            line,
            disk: need("disk")?,
            secret: Secret(need("secret")?),
            head_secret: Secret(need("head_secret")?),
            node,
        })
    };
    let all = entries(value, "identities")?.into_iter().map(identity);
    let mut all = all.collect::<Result<Vec<_>>>()?;
    all.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(all)
}

/// The fields of a map of which every key is known.
fn fields(value: Value, what: &str, known: &[&'static str]) -> Result<Fields> {
    let mut all = Fields::new();
    for (key, value) in entries(value, what)? {
        let Some(name) = known.iter().find(|name| **name == key.text) else {
            let hint = match nearest(&key.text, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", known.join(", ")),
            };
            let message = format!("{what}: there is no `{}`; {hint}", key.text);
            return Err(Fault::new(key.line, message));
        };
        all.insert(name, value);
    }
    Ok(all)
}

/// The entries of a map; nothing at all is an empty one.
fn entries(value: Value, what: &str) -> Result<Vec<(Key, Value)>> {
    match value.kind {
        Kind::Map(entries) => Ok(entries),
        Kind::Null => Ok(Vec::new()),
        _ => Err(Fault::new(
            value.line,
            format!("{what}: must be a map of `key: value`"),
        )),
    }
}

fn items(value: Value, what: &str) -> Result<Vec<Value>> {
    match value.kind {
        Kind::List(items) => Ok(items),
        Kind::Null => Ok(Vec::new()),
        _ => Err(Fault::new(
            value.line,
            format!("{what}: must be a list of `- ...`"),
        )),
    }
}

fn text(value: Value, what: &str) -> Result<String> {
    match value.kind {
        Kind::Text(text) => Ok(text),
        Kind::Null => Err(Fault::new(value.line, format!("{what}: has no value"))),
        _ => Err(Fault::new(
            value.line,
            format!("{what}: must be one value, not a list or map"),
        )),
    }
}

fn parsed<T: FromStr<Err: Display>>(value: Value, what: &str) -> Result<T> {
    let line = value.line;
    let text = text(value, what)?;
    let wrong = |e: T::Err| Fault::new(line, format!("{what} `{text}`: {e}"));
    text.parse().map_err(wrong)
}

/// A word of one of the catalog's enums, by its serde name.
fn word<T: DeserializeOwned>(value: Value, what: &str) -> Result<T> {
    let line = value.line;
    let quoted = serde_json::Value::String(text(value, what)?);
    serde_json::from_value(quoted).map_err(|e| Fault::new(line, format!("{what}: {e}")))
}

fn node_name(key: &Key) -> Result<NodeName> {
    NodeName::parse(&key.text).map_err(|e| Fault::new(key.line, e.to_string()))
}

fn node_set(value: Value) -> Result<NodeSet> {
    let line = value.line;
    let set = NodeSet::parse(&text(value, "nodes")?);
    let set = set.map_err(|e| Fault::new(line, e.to_string()))?;
    if set.is_empty() {
        return Err(Fault::new(line, "`nodes` names no node"));
    }
    Ok(set)
}
