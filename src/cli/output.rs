//! What commands print: tables for people, stable JSON for programs, names and nodesets for pipes.
//! Data goes to stdout, everything else to stderr.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;

use comfy_table::{ContentArrangement, Table, TableStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::names::{NodeName, NodeSet};
use crate::units::UnixMillis;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// The same as YAML.
    Yaml,
    /// One name per line.
    Name,
    /// All names folded into a nodeset.
    Nodeset,
}

/// A list that can be printed in every format.
pub(super) struct Listing<'a, T> {
    pub(super) items: &'a [T],
    pub(super) header: &'a [&'a str],
    pub(super) row: &'a dyn Fn(&T) -> Vec<String>,
    pub(super) name: &'a dyn Fn(&T) -> String,
}

impl<T: Serialize> Listing<'_, T> {
    /// Prints the list.
    pub(super) fn print(&self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Table => {
                print_table(self.header, self.items.iter().map(|i| (self.row)(i)));
            }
            Format::Json | Format::Yaml => print_value(&self.items, format)?,
            Format::Name => {
                let names: Vec<String> = self.items.iter().map(|i| (self.name)(i) + "\n").collect();
                print_text(&names.concat());
            }
            Format::Nodeset => {
                let names = self.items.iter().map(|i| NodeName::parse(&(self.name)(i)));
                let set: NodeSet = names.collect::<Result<Vec<_>, _>>()?.into_iter().collect();
                print_text(&format!("{set}\n"));
            }
        }
        Ok(())
    }
}

/// Prints one object: JSON or YAML as it is, otherwise the lines that `text` makes.
pub(super) fn print_one<T: Serialize>(
    value: &T,
    format: Format,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Json | Format::Yaml => print_value(value, format),
        _ => {
            print_text(&text());
            Ok(())
        }
    }
}

fn print_value<T: Serialize>(value: &T, format: Format) -> anyhow::Result<()> {
    let text = if format == Format::Yaml {
        serde_norway::to_string(value)?
    } else {
        serde_json::to_string_pretty(value)? + "\n"
    };
    print_text(&text);
    Ok(())
}

/// Columns without frames; nothing but the header when there is no row.
pub(super) fn print_table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    let text: Vec<String> = table
        .to_string()
        .lines()
        .map(|l| l.strip_prefix(' ').unwrap_or(l).trim_end().to_owned() + "\n")
        .collect();
    print_text(&text.concat());
}

/// Writes to stdout; a reader that went away is not an error.
pub(super) fn print_text(text: &str) {
    let mut out = std::io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        // `reveille node ls | head`: the rest is not wanted.
    }
}

/// Prints `key: value` lines with the values in one column; empty values are left out.
pub(super) fn facts(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(k, _)| k.len()).max().unwrap_or(0) + 1;
    let line = |(key, value): &(&str, String)| {
        (!value.is_empty()).then(|| format!("{:width$} {value}\n", format!("{key}:")))
    };
    lines.iter().filter_map(line).collect()
}

/// `12 s ago`, `3 h ago`: how long before `now`.
pub(super) fn ago(at: UnixMillis, now: UnixMillis) -> String {
    match now.since(at) / 1000 {
        s @ 0..=99 => format!("{s} s ago"),
        s @ 100..=5999 => format!("{} min ago", s / 60),
        s @ 6000..=172_799 => format!("{} h ago", s / 3600),
        s => format!("{} d ago", s / 86_400),
    }
}

/// Local time to the millisecond.
pub(super) fn clock(at: UnixMillis) -> String {
    let stamp = i64::try_from(at.0)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(
        || at.0.to_string(),
        |t| {
            t.to_zoned(TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S%.3f")
                .to_string()
        },
    )
}

/// True when progress bars and colours are welcome on stderr.
pub(super) fn stderr_is_lively() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn facts_align_and_leave_out_what_is_empty() {
        let text = facts(&[
            ("name", "a".into()),
            ("note", String::new()),
            ("longer", "b".into()),
        ]);
        assert_eq!(text, "name:   a\nlonger: b\n");
    }

    #[test]
    fn times_read_well() {
        let now = UnixMillis(10_000_000);
        assert_eq!(ago(UnixMillis(9_990_000), now), "10 s ago");
        assert_eq!(ago(UnixMillis(9_000_000), now), "16 min ago");
        assert_eq!(ago(UnixMillis(1_000_000), now), "2 h ago");
    }
}
