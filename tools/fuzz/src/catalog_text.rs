//! Texts that `apply -f` reads: whole ones as they are, or lines put together from the words of the format, so that
//! what is taken is often more than nothing.

use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use reveille::head::fuzzing;

/// What a line begins with, and goes on with.
const WORDS: &[&str] = &[
    "format: 1\n",
    "images:\n",
    "profiles:\n",
    "nodes:\n",
    "drain:\n",
    "identities:\n",
    "- nodes: ",
    "n[1-3]",
    "n1",
    "@all",
    "rack[1-2]n[01-12]",
    "  image: ",
    "debian12:3",
    "d",
    "  mode: ",
    "persistent",
    "ephemeral",
    "  boot: ",
    "local",
    "image",
    "  loader: ",
    "auto",
    "chain",
    "  disk: ",
    "[read-only, 512n]",
    "removable",
    "  layer-limit: ",
    "  layer-warn: ",
    "8G",
    "0",
    "none",
    "  power: ",
    "\"ipmitool -H {node} {action}\"",
    "  profile: ",
    "  macs: ",
    "  ips: ",
    "52:54:00:00:00:01",
    "10.0.0.1",
    "  next: ",
    "  tags:\n",
    "    stable: ",
    "  versions:\n",
    "    1:\n",
    "      id: 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n",
    "      size: ",
    "      note: ",
    "      arch: ",
    "  head: ",
    "  nodes:\n",
    "  to: ",
    "10.0.0.1:3260",
    "[fe80::1]:1",
    "  disk: ",
    "  secret: ",
    "  head_secret: ",
    "{",
    "}",
    "[",
    "]",
    ": ",
    ", ",
    "- ",
    "  ",
    "\n",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "# ",
    "null",
    "~",
    "\\u0000",
    "1e3",
    "0x10",
    "yes",
    "\u{85}",
    "\u{feff}",
    "\u{2028}",
    "\r",
    "\t",
];

pub(crate) fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = choose(&mut u);
}

fn choose(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let text = match u.arbitrary::<u8>()? % 2 {
        0 => String::from_utf8_lossy(u.bytes(u.len())?).into_owned(),
        _ => built(u)?,
    };
    let began = Instant::now();
    let read = fuzzing::catalog_text(&text);
    if crate::is_replay() {
        eprintln!("{text}\n{read:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "endless");
    if let Err((line, message)) = read {
        // In YAML a carriage return alone ends a line too.
        let lines = text.matches(['\n', '\r']).count() + 2;
        assert!(line <= lines, "line {line}: {message}");
        assert!(!message.is_empty() && message.len() < text.len() + 4000);
    }
    Ok(())
}

/// A byte is a word, or begins some characters of one's own.
fn built(u: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    let mut text = "format: 1\n".to_owned();
    while !u.is_empty() {
        let choice: u8 = u.arbitrary()?;
        match WORDS.get(usize::from(choice)) {
            Some(word) => text.push_str(word),
            None => {
                let len = usize::from(choice & 7).min(u.len());
                text.push_str(&String::from_utf8_lossy(u.bytes(len)?));
            }
        }
    }
    Ok(text)
}
