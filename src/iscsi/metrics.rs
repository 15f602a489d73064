//! Counters of the whole server, for the metrics page. Added to once per batch, never per PDU.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What the server has done since it started, and what it holds now.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections turned away because too many had not logged in yet.
    pub turned_away: Counter,
    /// Logins that reached the full feature phase.
    pub logins: Counter,
    /// Logins under mutual CHAP whose initiator did not ask the head to prove itself.
    pub one_way: Counter,
    /// Logins refused.
    pub refused: Counter,
    /// Connections in the full feature phase now.
    pub sessions: Counter,
    /// PDUs received in the full feature phase.
    pub pdus_in: Counter,
    /// PDUs sent in the full feature phase.
    pub pdus_out: Counter,
    /// Write calls that carried them.
    pub writes_out: Counter,
    /// READs answered from memory, without an I/O thread.
    pub warm_reads: Counter,
    /// READs that had to go to an I/O thread.
    pub cold_reads: Counter,
    /// Bytes read for initiators.
    pub read_bytes: Counter,
    /// Bytes written for initiators.
    pub written_bytes: Counter,
    /// Commands answered BUSY because the I/O threads' queue was full.
    pub busy: Counter,
}

/// One number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Relaxed);
        }
    }

    /// Takes one away (for numbers of things that exist now).
    pub fn take_one(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Metrics {
    /// Every number with its name, in a stable order.
    #[must_use]
    pub fn all(&self) -> [(&'static str, u64); 14] {
        [
            ("connections_accepted_total", self.accepted.get()),
            ("connections_turned_away_total", self.turned_away.get()),
            ("logins_total", self.logins.get()),
            ("logins_one_way_total", self.one_way.get()),
            ("logins_refused_total", self.refused.get()),
            ("sessions", self.sessions.get()),
            ("pdus_in_total", self.pdus_in.get()),
            ("pdus_out_total", self.pdus_out.get()),
            ("socket_writes_total", self.writes_out.get()),
            ("reads_warm_total", self.warm_reads.get()),
            ("reads_cold_total", self.cold_reads.get()),
            ("read_bytes_total", self.read_bytes.get()),
            ("written_bytes_total", self.written_bytes.get()),
            ("busy_total", self.busy.get()),
        ]
    }
}
