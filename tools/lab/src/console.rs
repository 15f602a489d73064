//! A node's serial console: waiting for what it says, and typing on it.
//!
//! QEMU writes everything the console says to a log file, whether someone listens or not, and offers a
//! socket to type on. A lab image runs a root shell there (images/recipes/debian12 --lab).

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What the lab image's shell says before it reads its first line.
pub const SHELL_READY: &str = "reveille-console: shell ready";
/// What the image says when the system is up.
pub const SYSTEM_READY: &str = "reveille-ready: host";

const POLL: Duration = Duration::from_millis(50);
const TAIL_LINES: usize = 30;

/// A reader and typist; keeps its own place in what was said.
#[derive(Debug)]
pub struct Console {
    log: PathBuf,
    socket: PathBuf,
    place: u64,
}

/// What a typed command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    /// Its output, both streams, without control sequences.
    pub output: String,
    /// Its exit code.
    pub code: i32,
}

impl Console {
    /// Listens from byte `place` of the log on.
    #[must_use]
    pub fn new(log: &Path, socket: &Path, place: u64) -> Self {
        Self {
            log: log.to_owned(),
            socket: socket.to_owned(),
            place,
        }
    }

    /// Waits for a line that holds `pattern`, returns that line, and goes on behind it.
    ///
    /// # Errors
    /// When it does not come within `limit`; the last lines of the console are in the error.
    pub fn wait_for(&mut self, pattern: &str, limit: Duration) -> Result<String> {
        self.wait_for_any(&[pattern], limit).map(|(_, line)| line)
    }

    /// As [`Console::wait_for`] for several patterns; tells which came first.
    ///
    /// # Errors
    /// As [`Console::wait_for`].
    pub fn wait_for_any(&mut self, patterns: &[&str], limit: Duration) -> Result<(usize, String)> {
        let end = Instant::now() + limit;
        loop {
            let late = Instant::now() >= end;
            let text = self.unread()?;
            let first = patterns
                .iter()
                .enumerate()
                .filter_map(|(i, pattern)| Some((find(&text, pattern.as_bytes())?, i)))
                .min();
            if let Some((at, which)) = first {
                let start = text[..at]
                    .iter()
                    .rposition(|&b| b == b'\n')
                    .map_or(0, |p| p + 1);
                let stop = text[at..]
                    .iter()
                    .position(|&b| b == b'\n')
                    .map_or(text.len(), |p| at + p);
                self.place += u64::try_from(stop)?;
                return Ok((which, clean(&text[start..stop])));
            }
            if late {
                bail!(
                    "the console did not say {patterns:?} within {} s; its last lines:\n{}",
                    limit.as_secs(),
                    self.tail(TAIL_LINES)
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// True when the console has said `pattern` since the place it was read to.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn has_said(&self, pattern: &str) -> Result<bool> {
        Ok(find(&self.unread()?, pattern.as_bytes()).is_some())
    }

    /// Types `line` at the shell, waits for its end, and returns what it wrote.
    ///
    /// # Errors
    /// When the console cannot be opened, or the command does not end within `limit`.
    pub fn type_line(&mut self, line: &str, limit: Duration) -> Result<Typed> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mark = format!(
            "{}x{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        // The quotes keep an echo of the typed line from looking like the marks themselves.
        let typed = format!("echo LAB''BEGIN-{mark}; {line}\necho LAB''END-{mark}-$?-\n");
        let mut socket = UnixStream::connect(&self.socket)
            .with_context(|| format!("console socket {}", self.socket.display()))?;
        socket.write_all(typed.as_bytes())?;
        socket.set_nonblocking(true)?;
        let (begin, finish) = (format!("LABBEGIN-{mark}"), format!("LABEND-{mark}-"));
        let end = Instant::now() + limit;
        loop {
            let late = Instant::now() >= end;
            drain(&mut socket)?;
            let text = self.unread()?;
            if let Some(typed) = cut(&text, &begin, &finish) {
                self.place += u64::try_from(text.len())?;
                return Ok(typed);
            }
            if late {
                bail!(
                    "`{line}` did not end on the console within {} s; its last lines:\n{}",
                    limit.as_secs(),
                    self.tail(TAIL_LINES)
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// As [`Console::type_line`], and the command must succeed.
    ///
    /// # Errors
    /// As [`Console::type_line`], and when its exit code is not 0.
    pub fn run(&mut self, line: &str, limit: Duration) -> Result<String> {
        let typed = self.type_line(line, limit)?;
        if typed.code != 0 {
            bail!(
                "`{line}` on the console ended with {}: {}",
                typed.code,
                typed.output
            );
        }
        Ok(typed.output)
    }

    /// The last lines said, without control sequences and empty lines.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = clean(&std::fs::read(&self.log).unwrap_or_default());
        let all: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn unread(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match File::open(&self.log) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(self.place))?;
                file.read_to_end(&mut bytes)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("console log {}", self.log.display())),
        }
        Ok(bytes)
    }
}

/// What QEMU sends to the typist is in the log too; unread, it would stop the guest's console.
fn drain(socket: &mut UnixStream) -> Result<()> {
    let mut buffer = [0_u8; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => bail!("the node went off while a command ran on its console"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("console socket"),
        }
    }
}

/// The output between the marks and the exit code behind the second, once both are there.
fn cut(text: &[u8], begin: &str, finish: &str) -> Option<Typed> {
    let start = find(text, begin.as_bytes())? + begin.len();
    let body = &text[start..];
    let stop = find(body, finish.as_bytes())?;
    let rest = &body[stop + finish.len()..];
    let end = rest.iter().position(|&b| b == b'-')?;
    let code = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    let output = clean(&body[..stop]);
    // Where the terminal echoes, the line that prints the second mark is in between.
    let lines: Vec<&str> = output
        .lines()
        .filter(|line| !line.contains("LAB''END"))
        .collect();
    let output = lines.join("\n").trim().to_owned();
    Some(Typed { output, code })
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len().max(1))
        .position(|window| window == pattern)
}

/// Text without carriage returns and terminal control sequences.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.peek() == Some(&'[') => {
                chars.next();
                // Parameters end with the first byte of @ to ~ (ECMA-48, 5.4).
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\u{1b}' => {
                chars.next();
            }
            '\r' => {}
            c if c == '\n' || c == '\t' || !c.is_control() => out.push(c),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod test {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("lab-console-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn control_sequences_are_taken_out() {
        assert_eq!(
            clean(b"\x1b[2J\x1b[01;01H\x1b[0mBooting\r\n\x1bcok\x07"),
            "Booting\nok"
        );
    }

    #[test]
    fn waiting_returns_the_whole_line_and_goes_on_behind_it() {
        let dir = scratch("wait");
        let log = dir.join("log");
        std::fs::write(&log, "one\r\nnode1 is up now\r\nnode1 is up again\r\n").unwrap();
        let mut console = Console::new(&log, &dir.join("none"), 0);
        let limit = Duration::from_secs(1);
        assert_eq!(console.wait_for("is up", limit).unwrap(), "node1 is up now");
        assert_eq!(
            console.wait_for("is up", limit).unwrap(),
            "node1 is up again"
        );
        assert!(!console.has_said("is up").unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn silence_is_an_error_that_shows_the_last_lines() {
        let dir = scratch("silence");
        let log = dir.join("log");
        std::fs::write(&log, "kernel panic: no root\n").unwrap();
        let mut console = Console::new(&log, &dir.join("none"), 0);
        let error = console
            .wait_for("login:", Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("login:") && error.contains("kernel panic: no root"),
            "{error}"
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// A console that behaves like the lab image's: a shell reads the socket, all it says goes to both.
    fn fake_console(dir: &Path, echo: bool) -> (PathBuf, PathBuf) {
        let (log, socket) = (dir.join("log"), dir.join("socket"));
        let listener = UnixListener::bind(&socket).unwrap();
        let log_path = log.clone();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut log = File::create(log_path).unwrap();
            for line in
                std::io::BufRead::lines(std::io::BufReader::new(stream.try_clone().unwrap()))
            {
                let Ok(line) = line else { return };
                if echo {
                    writeln!(log, "{line}\r").unwrap();
                }
                let out = std::process::Command::new("bash")
                    .args(["-c", &line])
                    .output()
                    .unwrap();
                log.write_all(&out.stdout).unwrap();
            }
        });
        (log, socket)
    }

    #[test]
    fn a_typed_line_returns_its_own_output_even_when_the_console_echoes() {
        for echo in [false, true] {
            let dir = scratch(if echo { "echo" } else { "quiet" });
            let (log, socket) = fake_console(&dir, echo);
            let mut console = Console::new(&log, &socket, 0);
            let typed = console
                .type_line("printf 'a\\nb\\n'", Duration::from_secs(10))
                .unwrap();
            // Each line runs in a shell of its own here, so `$?` of the second line is 0.
            assert_eq!(
                typed,
                Typed {
                    output: "a\nb".into(),
                    code: 0
                }
            );
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }

    #[test]
    fn the_exit_code_is_read_behind_the_second_mark() {
        let text = b"noise LABBEGIN-7\r\nout\r\nLABEND-7-3-\r\n";
        let typed = cut(text, "LABBEGIN-7", "LABEND-7-").unwrap();
        assert_eq!(
            typed,
            Typed {
                output: "out".into(),
                code: 3
            }
        );
        assert_eq!(cut(&text[..32], "LABBEGIN-7", "LABEND-7-"), None);
    }
}
