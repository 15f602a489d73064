//! The socket of one session: bytes in by as few calls as possible, one vectored write out, nothing allocated on
//! the way.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Bytes of the receive buffer.
const BUFFER: usize = 256 << 10;
/// Slices of one vectored write.
const SLICES: usize = 64;

/// A run of bytes to send: of the headers, or of the pattern that writes carry.
#[derive(Clone, Copy, Debug)]
struct Run {
    pattern: bool,
    at: usize,
    len: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    heads: Vec<u8>,
    runs: Vec<Run>,
}

impl Wire {
    /// Over a connected socket whose timeouts are set.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: vec![0; BUFFER].into(),
            start: 0,
            end: 0,
            heads: Vec::with_capacity(64 << 10),
            runs: Vec::with_capacity(1024),
        }
    }

    /// For waiting on many.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Received bytes that nobody took yet.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Takes the first `n` of them.
    pub fn take(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }

    /// Queues header bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        let at = self.heads.len();
        self.heads.extend_from_slice(bytes);
        match self.runs.last_mut() {
            Some(run) if !run.pattern => run.len += bytes.len(),
            _ => self.runs.push(Run {
                pattern: false,
                at,
                len: bytes.len(),
            }),
        }
    }

    /// Queues bytes of the pattern.
    pub fn put_pattern(&mut self, at: usize, len: usize) {
        let pattern = true;
        self.runs.push(Run { pattern, at, len });
    }

    /// Sends all that is queued.
    ///
    /// # Errors
    /// When the peer closed, or took nothing for the time of the socket's timeout.
    pub fn flush(&mut self, pattern: &[u8]) -> Result<()> {
        let (mut first, mut sent_of_first) = (0, 0);
        while first < self.runs.len() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut used = 0;
            for (slice, run) in slices.iter_mut().zip(self.runs.iter().skip(first)) {
                let source = if run.pattern { pattern } else { &self.heads };
                let skip = if used == 0 { sent_of_first } else { 0 };
                let bytes = source.get(run.at + skip..run.at + run.len);
                *slice = IoSlice::new(bytes.context("a run beyond its source")?);
                used += 1;
            }
            let slices = slices.get(..used).unwrap_or_default();
            let mut sent = match (&self.stream).write_vectored(slices) {
                Ok(0) => bail!("the target took nothing"),
                Ok(sent) => sent,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(told("sending", e)),
            };
            while let Some(run) = self.runs.get(first) {
                let left = run.len - sent_of_first;
                if sent < left {
                    sent_of_first += sent;
                    break;
                }
                sent -= left;
                sent_of_first = 0;
                first += 1;
            }
        }
        self.heads.clear();
        self.runs.clear();
        Ok(())
    }

    /// Receives at most `most` bytes; false when none are there now (only without `wait`).
    ///
    /// # Errors
    /// When the target closed, or said nothing for the time of the socket's timeout.
    pub fn fill(&mut self, wait: bool, most: usize) -> Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < most {
            // Only a part of a header is ever left.
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let end = self.buffer.len().min(self.end + most);
        let room = self.buffer.get_mut(self.end..end).unwrap_or_default();
        let got = receive(&self.stream, room, flags(wait), wait)?;
        self.end += got;
        Ok(got > 0)
    }

    /// Lets the kernel drop at most `most` bytes of data that nobody wants to see (tcp(7), MSG_TRUNC); how many.
    ///
    /// # Errors
    /// As [`Wire::fill`].
    pub fn discard(&mut self, wait: bool, most: usize) -> Result<usize> {
        let most = most.min(self.buffer.len());
        let room = self.buffer.get_mut(..most).unwrap_or_default();
        receive(&self.stream, room, flags(wait) | RecvFlags::TRUNC, wait)
    }
}

const fn flags(wait: bool) -> RecvFlags {
    if wait {
        RecvFlags::empty()
    } else {
        RecvFlags::DONTWAIT
    }
}

fn receive(stream: &TcpStream, room: &mut [u8], flags: RecvFlags, wait: bool) -> Result<usize> {
    loop {
        match recv(stream, &mut *room, flags) {
            Ok((_, 0)) => bail!("the target closed the connection"),
            Ok((_, got)) => return Ok(got),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if !wait => return Ok(0),
            Err(e) => return Err(told("receiving", e.into())),
        }
    }
}

fn told(what: &str, error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow::anyhow!("{what}: nothing for the time that a peer may take")
        }
        _ => anyhow::Error::new(error).context(what.to_owned()),
    }
}
