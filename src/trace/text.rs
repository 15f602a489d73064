//! The file: gzip of a text of lines. `docs/formats/trace.md` says what stands in it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};

use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};

use super::{Error, ErrorKind, Op, OpKind, Session, Trace};
use crate::limits::{
    DISK_BYTES_MAX, TRACE_ABOUT_MAX, TRACE_LINE_BYTES_MAX, TRACE_OPS_MAX, TRACE_SESSIONS_MAX,
    TRACE_SPAN_US_MAX, TRACE_TEXT_BYTES_MAX,
};
use crate::units::SECTOR_BYTES;

const MAGIC: &str = "reveille-trace";
const VERSION: &str = "1";
const DISK: &str = "disk-sectors";
const INITIATOR_BYTES_MAX: usize = 16;
const KEY_BYTES_MAX: usize = 32;

type Result<T> = std::result::Result<T, Error>;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

// --- reading ---

pub(super) fn read(bytes: &[u8]) -> Result<Trace> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        let message =
            "this is no trace: not compressed with gzip; `reveille swarm record` makes one";
        return Err(Error::new(ErrorKind::NotATrace, message));
    }
    let mut lines = Lines::new(bytes);
    let mut parser = Parser::default();
    let read = parse(&mut lines, &mut parser);
    read.map_err(|error| match error.line() {
        None => error.at_line(lines.number),
        Some(_) => error,
    })?;
    if !lines.text.into_inner().into_inner().is_empty() {
        let message = "something follows the end of the trace; is it two files in one?";
        return Err(Error::new(ErrorKind::Damaged, message));
    }
    Ok(parser.trace)
}

fn parse(lines: &mut Lines<'_>, parser: &mut Parser) -> Result<()> {
    match lines.next()? {
        Some(line) => magic(line)?,
        None => return Err(Error::new(ErrorKind::NotATrace, "this is no trace: empty")),
    }
    loop {
        match lines.next()? {
            Some("") => break,
            Some(line) => parser.about(line)?,
            None => {
                return Err(invalid(
                    "the empty line behind the head of the trace is missing",
                ));
            }
        }
    }
    if parser.disk_sectors.is_none() {
        return Err(invalid(format!(
            "`{DISK}: NUMBER` is missing in the head of the trace"
        )));
    }
    while let Some(line) = lines.next()? {
        parser.event(line)?;
    }
    Ok(())
}

fn magic(line: &str) -> Result<()> {
    match line.split_once(' ') {
        Some((MAGIC, VERSION)) => Ok(()),
        Some((MAGIC, other)) if other.bytes().all(|b| b.is_ascii_digit()) && !other.is_empty() => {
            let message = format!(
                "the trace is of format {other}, this program reads format {VERSION}; take a newer Reveille"
            );
            Err(Error::new(ErrorKind::NewerVersion, message))
        }
        _ => {
            let message = format!("this is no trace: it does not begin with `{MAGIC} {VERSION}`");
            Err(Error::new(ErrorKind::NotATrace, message))
        }
    }
}

/// Lines of what gzip holds, never more than the limits.
struct Lines<'a> {
    text: BufReader<GzDecoder<&'a [u8]>>,
    line: Vec<u8>,
    /// Of the last line read, from 1.
    number: u64,
    bytes: u64,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            text: BufReader::new(GzDecoder::new(bytes)),
            line: Vec::new(),
            number: 0,
            bytes: 0,
        }
    }

    fn next(&mut self) -> Result<Option<&str>> {
        self.line.clear();
        self.number += 1;
        let mut text = (&mut self.text).take(TRACE_LINE_BYTES_MAX as u64 + 1);
        let got = text.read_until(b'\n', &mut self.line).map_err(|e| {
            let message = format!("the file is damaged or cut off: {e}; take a whole copy");
            Error::new(ErrorKind::Damaged, message)
        })?;
        if got == 0 {
            return Ok(None);
        }
        self.bytes += got as u64;
        if self.bytes > TRACE_TEXT_BYTES_MAX {
            let message = format!("the text is longer than {TRACE_TEXT_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let Some((b'\n', line)) = self.line.split_last() else {
            return Err(if got > TRACE_LINE_BYTES_MAX {
                let message = format!("longer than {TRACE_LINE_BYTES_MAX} bytes");
                Error::new(ErrorKind::TooLarge, message)
            } else {
                invalid("the last line has no end")
            });
        };
        let text = std::str::from_utf8(line).map_err(|_| invalid("not UTF-8"))?;
        Ok(Some(text))
    }
}

#[derive(Default)]
struct Parser {
    trace: Trace,
    disk_sectors: Option<u64>,
    /// Time of the last event.
    last_us: u64,
}

impl Parser {
    fn about(&mut self, line: &str) -> Result<()> {
        let Some((key, value)) = line.split_once(": ") else {
            return Err(invalid("not `key: value`"));
        };
        if !is_word(key, KEY_BYTES_MAX) {
            let message = "a key is letters a-z, digits and `-`, at most 32";
            return Err(invalid(message));
        }
        if value.trim() != value || value.is_empty() || value.chars().any(char::is_control) {
            return Err(invalid(format!(
                "the value of `{key}` is empty, begins or ends with a space, or holds a control character"
            )));
        }
        if key == DISK {
            return self.disk(value);
        }
        if self.trace.about.len() == TRACE_ABOUT_MAX {
            let message = format!("more than {TRACE_ABOUT_MAX} lines in the head");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        self.trace.about.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    fn disk(&mut self, value: &str) -> Result<()> {
        let sectors = number(value, "sectors", DISK_BYTES_MAX / SECTOR_BYTES)?;
        if self.disk_sectors.replace(sectors).is_some() {
            return Err(invalid(format!("`{DISK}` is there twice")));
        }
        self.trace.disk_bytes = sectors * SECTOR_BYTES;
        Ok(())
    }

    fn event(&mut self, line: &str) -> Result<()> {
        let mut words = line.split(' ');
        let mut word = |what: &str| {
            let word = words.next().filter(|word| !word.is_empty());
            word.ok_or_else(|| {
                invalid(format!(
                    "{what} is missing (fields are parted by one space)"
                ))
            })
        };
        let at_us = number(word("the time")?, "time", TRACE_SPAN_US_MAX)?;
        if at_us < self.last_us {
            let last = self.last_us;
            return Err(invalid(format!(
                "the time goes back, from {last} to {at_us}"
            )));
        }
        let kind = word("the kind of event")?;
        let session = number(word("the session")?, "session", u64::from(u16::MAX))?;
        match kind {
            "login" => self.login(session, word("what logged in")?, at_us)?,
            "logout" => self.logout(session, at_us)?,
            _ => {
                let of_kind = OpKind::ALL.into_iter().find(|op| op.word() == kind);
                let Some(kind) = of_kind else {
                    return Err(invalid(format!("no event is called `{kind}`")));
                };
                let took = number(word("the duration")?, "duration", u64::from(u32::MAX))?;
                let place = (word("the first sector")?, word("the number of sectors")?);
                let fua = words.next();
                self.op((session, at_us, took), kind, place, fua)?;
            }
        }
        if words.next().is_some() {
            return Err(invalid("more fields than this event has"));
        }
        self.last_us = at_us;
        Ok(())
    }

    fn login(&mut self, session: u64, initiator: &str, at_us: u64) -> Result<()> {
        let next = self.trace.sessions.len();
        if session != next as u64 {
            return Err(invalid(format!(
                "session {session} logs in, but the next is {next}"
            )));
        }
        if next == TRACE_SESSIONS_MAX {
            let message = format!("more than {TRACE_SESSIONS_MAX} sessions");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        if !is_word(initiator, INITIATOR_BYTES_MAX) {
            let message = "what logged in is letters a-z, digits and `-`, at most 16";
            return Err(invalid(message));
        }
        self.trace.sessions.push(Session {
            initiator: initiator.to_owned(),
            login_at_us: at_us,
            logout_at_us: None,
        });
        Ok(())
    }

    /// The session, while it is logged in.
    fn session(&mut self, session: u64) -> Result<&mut Session> {
        let at = usize::try_from(session).unwrap_or(usize::MAX);
        match self.trace.sessions.get_mut(at) {
            None => Err(invalid(format!("session {session} has not logged in"))),
            Some(found) if found.logout_at_us.is_some() => {
                Err(invalid(format!("session {session} has logged out")))
            }
            Some(found) => Ok(found),
        }
    }

    fn logout(&mut self, session: u64, at_us: u64) -> Result<()> {
        self.session(session)?.logout_at_us = Some(at_us);
        Ok(())
    }

    fn op(
        &mut self,
        (session, at_us, took): (u64, u64, u64),
        kind: OpKind,
        (first, sectors): (&str, &str),
        fua: Option<&str>,
    ) -> Result<()> {
        self.session(session)?;
        if self.trace.ops.len() == TRACE_OPS_MAX {
            let message = format!("more than {TRACE_OPS_MAX} operations");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let disk = self.disk_sectors.unwrap_or(0);
        let first = number(first, "first sector", disk)?;
        let most = u64::from(u32::MAX) / SECTOR_BYTES;
        let sectors = number(sectors, "number of sectors", most)?;
        if sectors > disk - first {
            return Err(invalid(format!(
                "sectors {first}+{sectors} are past the end of the disk of {disk}"
            )));
        }
        if sectors == 0 && kind != OpKind::Flush {
            return Err(invalid(format!("a {} of no sectors", kind.word())));
        }
        let fua = match fua {
            None => false,
            Some("fua") if kind.changes() => true,
            Some(other) => {
                let message = format!("`{other}` may not stand behind a {}", kind.word());
                return Err(invalid(message));
            }
        };
        let small = "was compared with a bound that fits";
        self.trace.ops.push(Op {
            session: u16::try_from(session).expect(small),
            at_us,
            took_us: u32::try_from(took).expect(small),
            kind,
            offset: first * SECTOR_BYTES,
            len: u32::try_from(sectors * SECTOR_BYTES).expect(small),
            fua,
        });
        Ok(())
    }
}

/// A decimal number as the writer writes it: digits, no sign, no leading zero, at most `most`.
fn number(text: &str, what: &str, most: u64) -> Result<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    let shown: String = text.chars().take(24).collect();
    if !plain {
        return Err(invalid(format!("the {what} is no number: `{shown}`")));
    }
    match text.parse() {
        Ok(value) if value <= most => Ok(value),
        _ => Err(invalid(format!("the {what} {shown} is more than {most}"))),
    }
}

fn is_word(text: &str, bytes_max: usize) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= bytes_max && text.bytes().all(plain)
}

// --- writing ---

pub(super) fn write(trace: &Trace) -> Vec<u8> {
    // No time and no host in the head: the same trace gives the same file.
    let mut out = GzBuilder::new()
        .operating_system(255)
        .write(Vec::new(), Compression::best());
    let written = out.write_all(text(trace).as_bytes());
    let done = written.and_then(|()| out.finish());
    done.expect("memory takes every byte")
}

pub(super) fn text(trace: &Trace) -> String {
    let mut out = format!("{MAGIC} {VERSION}\n");
    for (key, value) in trace.about.iter().take(TRACE_ABOUT_MAX) {
        if let Some((key, value)) = about(key, value) {
            line(&mut out, format_args!("{key}: {value}"));
        }
    }
    let sectors = trace.disk_bytes / SECTOR_BYTES;
    line(&mut out, format_args!("{DISK}: {sectors}\n"));
    for (at, what) in events(trace) {
        match what {
            What::Login(n, initiator) => {
                line(&mut out, format_args!("{at} login {n} {initiator}"));
            }
            What::Logout(n) => line(&mut out, format_args!("{at} logout {n}")),
            What::Op(op) => {
                let first = op.offset / SECTOR_BYTES;
                let sectors = u64::from(op.len).div_ceil(SECTOR_BYTES);
                let (word, session, took) = (op.kind.word(), op.session, op.took_us);
                let fua = if op.fua && op.kind.changes() {
                    " fua"
                } else {
                    ""
                };
                line(
                    &mut out,
                    format_args!("{at} {word} {session} {took} {first} {sectors}{fua}"),
                );
            }
        }
    }
    out
}

fn line(out: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(out, "{what}").expect("a text takes every byte");
}

enum What<'a> {
    Login(usize, &'a str),
    Op(&'a Op),
    Logout(usize),
}

/// All events in their order; of one moment logins come first and logouts last.
fn events(trace: &Trace) -> Vec<(u64, What<'_>)> {
    let mut all: Vec<(u64, What<'_>)> = Vec::new();
    for (n, session) in trace.sessions.iter().enumerate() {
        all.push((session.login_at_us, What::Login(n, &session.initiator)));
    }
    all.extend(trace.ops.iter().map(|op| (op.at_us, What::Op(op))));
    for (n, session) in trace.sessions.iter().enumerate() {
        all.extend(session.logout_at_us.map(|at| (at, What::Logout(n))));
    }
    all.sort_by_key(|(at, _)| *at);
    all
}

/// A line of the head as it may stand there: whatever is given, it is read again.
fn about(key: &str, value: &str) -> Option<(String, String)> {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '-',
    };
    let key: String = key.chars().map(plain).take(KEY_BYTES_MAX).collect();
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let value: String = value.chars().map(plain).collect();
    let mut value = value.trim();
    let room = TRACE_LINE_BYTES_MAX - KEY_BYTES_MAX - 4;
    while value.len() > room {
        let mut cut = room;
        while !value.is_char_boundary(cut) {
            cut -= 1;
        }
        value = value.get(..cut).unwrap_or_default().trim_end();
    }
    let kept = !key.is_empty() && !value.is_empty() && key != DISK;
    kept.then(|| (key, value.to_owned()))
}
