//! Counters of the whole server, and their text form for collectors. Added to once per batch, never per PDU.

use std::fmt::Write as _;
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
    /// Logins that ended with an answer, by its status.
    pub results: Results,
    /// Connections in the full feature phase now.
    pub sessions: Counter,
    /// PDUs received in the full feature phase.
    pub pdus_in: Counter,
    /// PDUs sent in the full feature phase.
    pub pdus_out: Counter,
    /// Write calls that carried them.
    pub writes_out: Counter,
    /// Times a busy connection let others of its thread go first.
    pub turns: Counter,
    /// READs answered from memory, without an I/O thread.
    pub warm_reads: Counter,
    /// READs that had to go to an I/O thread.
    pub cold_reads: Counter,
    /// Bytes read for initiators.
    pub read_bytes: Counter,
    /// Bytes written for initiators.
    pub written_bytes: Counter,
    /// Time from a READ that may begin until its answer is ready.
    pub read_time: Histogram,
    /// The same of writes, flushes and all other operations of the disk, from when their data is here.
    pub write_time: Histogram,
    /// Commands answered BUSY or TASK SET FULL: no I/O thread, or no memory.
    pub busy: Counter,
    /// PDUs rejected in the full feature phase.
    pub rejects: Counter,
    /// Connections that ended with a header whose digest was wrong.
    pub header_digests: Counter,
    /// Data segments whose digest was wrong.
    pub data_digests: Counter,
    /// Connections that had to leave before their login was over, for newcomers of other addresses.
    pub evicted: Counter,
    /// Connections that ended without a login: silence, garbage, closed by the peer.
    pub unfinished: Counter,
    /// Wrong secrets whose answer had to wait.
    pub delayed: Counter,
    /// Sessions pushed out by others: reinstated, handed over, booted anew, too many.
    pub replaced: Counter,
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

/// Every status that a login can end with (RFC 7143 11.13.5), in order; anything else is counted with the last.
const STATUSES: [u16; 17] = [
    0x0000, 0x0101, 0x0200, 0x0201, 0x0202, 0x0203, 0x0204, 0x0205, 0x0206, 0x0207, 0x0208, 0x0209,
    0x020a, 0x020b, 0x0300, 0x0301, 0x0302,
];

/// Logins by the status of their last answer.
#[derive(Debug, Default)]
pub struct Results([Counter; STATUSES.len()]);

impl Results {
    /// A login ended with this status.
    pub fn ended(&self, status: u16) {
        let at = STATUSES.iter().position(|known| *known == status);
        if let Some(counter) = at.map_or(self.0.last(), |at| self.0.get(at)) {
            counter.add(1);
        }
    }

    /// Logins that ended with this status.
    #[must_use]
    pub fn of(&self, status: u16) -> u64 {
        let at = STATUSES.iter().position(|known| *known == status);
        at.and_then(|at| self.0.get(at)).map_or(0, Counter::get)
    }
}

/// Upper bounds of a histogram's buckets in microseconds, and as they are written, in seconds.
const BOUNDS: [(u64, &str); 15] = [
    (50, "0.00005"),
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (5_000_000, "5"),
];

/// Times, by size.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One more than bounds: what is beyond all of them.
    buckets: [Counter; BOUNDS.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// `count` operations took this long each.
    pub fn add(&self, took: std::time::Duration, count: u64) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.iter().position(|(bound, _)| us <= *bound);
        if let Some(bucket) = self.buckets.get(at.unwrap_or(BOUNDS.len())) {
            bucket.add(count);
        }
        self.sum_us.add(us.saturating_mul(count));
    }

    /// Operations counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    fn render(&self, text: &mut String, name: &str, help: &str) {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut below = 0;
        for ((_, bound), bucket) in BOUNDS.iter().zip(&self.buckets) {
            below += bucket.get();
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        // Read once, so that the whole agrees with the last bucket whatever is added meanwhile.
        let all = below + self.buckets.last().map_or(0, Counter::get);
        let sum = self.sum_us.get();
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {all}");
        let _ = writeln!(
            text,
            "{name}_sum {}.{:06}",
            sum / 1_000_000,
            sum % 1_000_000
        );
        let _ = writeln!(text, "{name}_count {all}");
    }
}

/// What is there now and not counted here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Connections, those that have not logged in included.
    pub connections: usize,
    /// Bytes of memory that connections hold.
    pub memory: usize,
    /// Bytes that they may hold together.
    pub memory_max: usize,
}

impl Metrics {
    /// All of it in the text format of Prometheus, version 0.0.4.
    #[must_use]
    pub fn render(&self, now: &Gauges) -> String {
        let mut text = String::with_capacity(8192);
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(
                text,
                "# HELP reveille_iscsi_{name} {help}\n# TYPE reveille_iscsi_{name} {kind}\n\
                 reveille_iscsi_{name} {value}"
            );
        };
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        one(
            "connections",
            "gauge",
            "Connections now.",
            wide(now.connections),
        );
        one(
            "sessions",
            "gauge",
            "Connections that have logged in.",
            self.sessions.get(),
        );
        one(
            "memory_bytes",
            "gauge",
            "Memory that connections hold.",
            wide(now.memory),
        );
        let most = wide(now.memory_max);
        one(
            "memory_limit_bytes",
            "gauge",
            "Memory that they may hold.",
            most,
        );
        for (name, help, counter) in self.counters() {
            one(name, "counter", help, counter.get());
        }
        let name = "reveille_iscsi_login_results_total";
        let _ = writeln!(
            text,
            "# HELP {name} Logins by the status that answered them (RFC 7143 11.13.5).\n# TYPE {name} counter"
        );
        for (status, counter) in STATUSES.iter().zip(&self.results.0) {
            let _ = writeln!(text, "{name}{{status=\"{status:04x}\"}} {}", counter.get());
        }
        let read = "READs from their beginning to their answer, without the network.";
        self.read_time
            .render(&mut text, "reveille_iscsi_read_seconds", read);
        let write = "Writes, flushes and the like, from when their data is here to their answer.";
        self.write_time
            .render(&mut text, "reveille_iscsi_write_seconds", write);
        text
    }

    /// Everything that only grows: name, what it is, number.
    #[rustfmt::skip]
    const fn counters(&self) -> [(&'static str, &'static str, &Counter); 21] {
        [
            ("connections_accepted_total", "Connections accepted.", &self.accepted),
            ("connections_turned_away_total", "Connections closed at the door.", &self.turned_away),
            ("newcomers_evicted_total", "Newcomers that had to go for others.", &self.evicted),
            ("logins_total", "Logins that began a session.", &self.logins),
            ("logins_one_way_total", "Logins under mutual CHAP that wanted no proof.", &self.one_way),
            ("logins_refused_total", "Logins refused.", &self.refused),
            ("logins_unfinished_total", "Connections that ended without a login.", &self.unfinished),
            ("logins_delayed_total", "Wrong secrets whose answer had to wait.", &self.delayed),
            ("sessions_replaced_total", "Sessions pushed out by newer ones.", &self.replaced),
            ("pdus_in_total", "PDUs received by sessions.", &self.pdus_in),
            ("pdus_out_total", "PDUs sent by sessions.", &self.pdus_out),
            ("socket_writes_total", "Write calls that carried them.", &self.writes_out),
            ("turns_total", "Times a busy connection let others go first.", &self.turns),
            ("rejects_total", "PDUs rejected.", &self.rejects),
            ("header_digest_errors_total", "Headers with a wrong digest.", &self.header_digests),
            ("data_digest_errors_total", "Data with a wrong digest.", &self.data_digests),
            ("reads_warm_total", "READs answered from memory.", &self.warm_reads),
            ("reads_cold_total", "READs that an I/O thread did.", &self.cold_reads),
            ("read_bytes_total", "Bytes read for nodes.", &self.read_bytes),
            ("written_bytes_total", "Bytes written for nodes.", &self.written_bytes),
            ("busy_total", "Commands answered BUSY or TASK SET FULL.", &self.busy),
        ]
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_histogram_counts_each_operation_once_and_adds_its_time() {
        let times = Histogram::default();
        times.add(Duration::from_micros(50), 3);
        times.add(Duration::from_micros(51), 1);
        times.add(Duration::from_secs(9), 2);
        assert_eq!(times.count(), 6);
        let mut text = String::new();
        times.render(&mut text, "t", "Times.");
        for line in [
            "# TYPE t histogram",
            "t_bucket{le=\"0.00005\"} 3",
            "t_bucket{le=\"0.0001\"} 4",
            "t_bucket{le=\"5\"} 4",
            "t_bucket{le=\"+Inf\"} 6",
            "t_sum 18.000201",
            "t_count 6",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn logins_are_counted_by_their_status() {
        let results = Results::default();
        for status in [0, 0x0201, 0x0201, 0x0101, 0x7777] {
            results.ended(status);
        }
        assert_eq!((results.of(0), results.of(0x0201)), (1, 2));
        assert_eq!(results.of(0x0302), 1, "what is not known is out of order");
    }

    #[test]
    fn the_text_form_is_what_collectors_read() {
        let metrics = Metrics::default();
        metrics.logins.add(4);
        metrics.results.ended(0x0203);
        let gauges = Gauges {
            connections: 7,
            memory: 1 << 20,
            memory_max: 1 << 30,
        };
        let text = metrics.render(&gauges);
        assert!(text.ends_with('\n'));
        let mut named = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(named.insert(name.to_owned()), "{name} twice");
                assert!(["counter", "gauge", "histogram"].contains(&kind));
                assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let family = name.split('{').next().unwrap();
                assert!(named.iter().any(|known| family.starts_with(known.as_str())));
            }
        }
        assert!(text.contains("reveille_iscsi_logins_total 4\n"));
        assert!(text.contains("reveille_iscsi_login_results_total{status=\"0203\"} 1\n"));
        assert!(text.contains("reveille_iscsi_connections 7\n"));
    }
}
