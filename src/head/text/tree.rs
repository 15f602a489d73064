//! YAML, of which JSON is a part, as a tree of values that know their lines. Bounded in depth and number; what
//! could grow beyond its text (anchors, aliases) or surprise (tags, several documents, a key twice) is refused.
//! Pure.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::Fault;
use crate::limits;

type Result<T> = std::result::Result<T, Fault>;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// `null`, `~`, or nothing at all.
    Null,
    Text(String),
    List(Vec<Value>),
    Map(Vec<(Key, Value)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) line: usize,
    pub(super) text: String,
}

/// A list or a map of which the end was not seen yet.
enum Open {
    List(usize, Vec<Value>),
    Map {
        line: usize,
        entries: Vec<(Key, Value)>,
        key: Option<Key>,
        seen: HashMap<String, usize>,
    },
}

/// Reads a text; `None` when there is nothing in it.
pub(super) fn parse(text: &str) -> Result<Option<Value>> {
    if text.len() > limits::CATALOG_TEXT_BYTES_MAX {
        let most = limits::CATALOG_TEXT_BYTES_MAX >> 20;
        let message = format!("the text is larger than {most} MiB; apply it in parts");
        return Err(Fault::new(1, message));
    }
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|e| Fault::new(e.marker().line(), format!("no YAML: {}", e.info())))?;
        reader.take(event, span)?;
    }
    Ok(reader.root)
}

#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    root: Option<Value>,
    documents: usize,
    values: usize,
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<()> {
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Fault::new(line, "a second document; give one in each file"));
                }
                Ok(())
            }
            Event::Alias(_) => Err(no_anchor(line)),
            Event::Scalar(text, style, anchor, tag) => {
                plain_only(line, anchor, tag.is_some())?;
                let null = style == ScalarStyle::Plain
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let kind = if null {
                    Kind::Null
                } else {
                    Kind::Text(text.into_owned())
                };
                self.put(Value { line, kind })
            }
            Event::SequenceStart(anchor, tag) => {
                plain_only(line, anchor, tag.is_some())?;
                self.begin(line, Open::List(line, Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                plain_only(line, anchor, tag.is_some())?;
                let map = Open::Map {
                    line,
                    entries: Vec::new(),
                    key: None,
                    seen: HashMap::new(),
                };
                self.begin(line, map)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(line, items)) => self.put(Value {
                    line,
                    kind: Kind::List(items),
                }),
                Some(Open::Map { line, entries, .. }) => self.put(Value {
                    line,
                    kind: Kind::Map(entries),
                }),
                None => Err(Fault::new(line, "an end without its beginning")),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, line: usize, open: Open) -> Result<()> {
        if self.open.len() >= limits::CATALOG_TEXT_DEPTH_MAX {
            let message = "values lie too deep in each other; nothing in this format lies so deep";
            return Err(Fault::new(line, message));
        }
        self.open.push(open);
        Ok(())
    }

    fn put(&mut self, value: Value) -> Result<()> {
        self.values += 1;
        if self.values > limits::CATALOG_TEXT_VALUES_MAX {
            let most = limits::CATALOG_TEXT_VALUES_MAX;
            let message = format!("more than {most} values; apply the text in parts");
            return Err(Fault::new(value.line, message));
        }
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Open::List(_, items)) => items.push(value),
            Some(Open::Map {
                entries, key, seen, ..
            }) => match key.take() {
                Some(key) => entries.push((key, value)),
                None => {
                    let Kind::Text(text) = value.kind else {
                        let message = "a key that is no word; write it as a text";
                        return Err(Fault::new(value.line, message));
                    };
                    let line = value.line;
                    if let Some(first) = seen.insert(text.clone(), line) {
                        let message = format!("`{text}` a second time, after line {first}");
                        return Err(Fault::new(line, message));
                    }
                    *key = Some(Key { line, text });
                }
            },
        }
        Ok(())
    }
}

fn plain_only(line: usize, anchor: usize, tagged: bool) -> Result<()> {
    if anchor != 0 {
        return Err(no_anchor(line));
    }
    if tagged {
        let message = "a tag (`!...`); this format has none, leave it out";
        return Err(Fault::new(line, message));
    }
    Ok(())
}

fn no_anchor(line: usize) -> Fault {
    Fault::new(
        line,
        "an anchor or alias (`&...`, `*...`); this format has none, write the value out",
    )
}
