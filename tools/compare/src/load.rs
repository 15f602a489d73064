//! One round of load: so many sessions, each with so many commands under way, for so long.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use crate::content::{Random, Span};
use crate::histogram::Histogram;
use crate::login::SILENCE_MAX;
use crate::machine::{Cpu, own_cpu_ns};
use crate::session::{Op, Session};

/// Where the next command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Anywhere.
    Random,
    /// Behind the one before, and from the beginning again.
    Sequential,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Read or write.
    pub op: Op,
    /// Bytes of each.
    pub len: u32,
    /// Where.
    pub order: Order,
    /// Working set.
    pub span: Span,
    /// Commands of a session at a time.
    pub depth: usize,
    /// One flush after so many; 0: none.
    pub flush_every: u32,
}

/// Draws commands.
#[derive(Debug)]
pub struct Drawer {
    plan: Plan,
    random: Random,
    at: u64,
    since_flush: u32,
}

impl Drawer {
    /// Of a plan.
    #[must_use]
    pub const fn new(plan: Plan, seed: u64) -> Self {
        Self {
            plan,
            random: Random::new(seed),
            at: 0,
            since_flush: 0,
        }
    }

    /// The next command.
    pub fn draw(&mut self) -> (Op, u64, u32) {
        let plan = &self.plan;
        if plan.flush_every > 0 && self.since_flush == plan.flush_every {
            self.since_flush = 0;
            return (Op::Flush, 0, 0);
        }
        self.since_flush += 1;
        let len = u64::from(plan.len);
        let at = match plan.order {
            Order::Random => self.random.below(plan.span.bytes / len) * len,
            Order::Sequential => {
                let at = self.at;
                self.at = (at + len) % plan.span.bytes;
                at
            }
        };
        (plan.op, plan.span.place(at), plan.len)
    }
}

/// What a round found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// Reads or writes (logins, for logins).
    pub done: u64,
    /// Nanoseconds of the round.
    pub ns: u64,
    /// Half of all latencies are not above it, nanoseconds.
    pub p50_ns: u64,
    /// 99 of a hundred.
    pub p99_ns: u64,
    /// Processor time of the server, nanoseconds.
    pub server_ns: u64,
    /// Processor time of the load generator.
    pub load_ns: u64,
}

/// The measured part of a round: it begins when the load runs, and ends before it is let run dry.
#[derive(Debug)]
pub struct Watch {
    pid: u32,
    begins: Instant,
    time: Duration,
    running: Option<(Instant, Cpu, u64)>,
    round: Option<Round>,
    histogram: Histogram,
    done: u64,
    /// Processor time that the load spent looking whether there is something to do.
    idle_ns: u64,
}

impl Watch {
    /// Over a process, for so long.
    #[must_use]
    pub fn new(pid: u32, time: Duration) -> Self {
        Self {
            pid,
            begins: Instant::now() + (time / 10).min(Duration::from_millis(100)),
            time,
            running: None,
            round: None,
            histogram: Histogram::default(),
            done: 0,
            idle_ns: 0,
        }
    }

    /// True when the round is over.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.round.is_some()
    }

    /// Looks at the clock.
    pub fn tick(&mut self, now: Instant) {
        match &self.running {
            None if now >= self.begins && self.round.is_none() => {
                let cpu = Cpu::of(self.pid);
                self.running = Some((Instant::now(), cpu, own_cpu_ns()));
            }
            Some((began, cpu, own)) if now >= *began + self.time => {
                let now = Instant::now();
                self.round = Some(Round {
                    done: self.done,
                    ns: nanoseconds(now - *began),
                    p50_ns: self.histogram.permille(500),
                    p99_ns: self.histogram.permille(990),
                    server_ns: Cpu::of(self.pid).since(cpu),
                    load_ns: (own_cpu_ns() - own).saturating_sub(self.idle_ns),
                });
                self.running = None;
            }
            _ => {}
        }
    }

    /// One more is done.
    pub fn count(&mut self, took: Duration) {
        if self.running.is_some() {
            self.done += 1;
            self.histogram.add(nanoseconds(took));
        }
    }

    /// The load looked for so much processor time whether there is something to do, and had none.
    pub const fn looked(&mut self, cpu_ns: u64) {
        if self.running.is_some() {
            self.idle_ns += cpu_ns;
        }
    }

    /// What it found.
    ///
    /// # Errors
    /// When the round is not over or nothing was done in it.
    pub fn finish(self) -> Result<Round> {
        let round = self.round.context("the round did not end")?;
        ensure!(round.done > 0, "nothing was done in a whole round");
        Ok(round)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Sessions under load together.
pub struct Load {
    sessions: Vec<Session>,
    drawer: Drawer,
    /// Waits for many; one session waits in its own receive call.
    epoll: Option<OwnedFd>,
    events: Vec<Event>,
}

impl std::fmt::Debug for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Load")
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

impl Load {
    /// Of sessions that are open.
    ///
    /// # Errors
    /// When the system has no room for them.
    pub fn new(sessions: Vec<Session>, plan: Plan) -> Result<Self> {
        let mut load = Self {
            events: Vec::with_capacity(sessions.len()),
            sessions,
            drawer: Drawer::new(plan, 3),
            epoll: None,
        };
        if load.sessions.len() > 1 {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            for (number, session) in load.sessions.iter_mut().enumerate() {
                let data = EventData::new_u64(number as u64);
                epoll::add(
                    &epoll,
                    session.wire().stream().as_fd(),
                    data,
                    EventFlags::IN,
                )?;
            }
            load.epoll = Some(epoll);
        }
        Ok(load)
    }

    /// The sessions.
    pub const fn sessions(&mut self) -> &mut Vec<Session> {
        &mut self.sessions
    }

    /// Runs a round.
    ///
    /// # Errors
    /// When the target is silent, closes, breaks the protocol or fails a command.
    pub fn run(&mut self, pid: u32, time: Duration, pattern: &[u8]) -> Result<Round> {
        let mut watch = Watch::new(pid, time);
        let mut now = Instant::now();
        let last = now + time + 2 * SILENCE_MAX;
        for session in &mut self.sessions {
            refill(session, &mut self.drawer, now, pattern)?;
        }
        while self.outstanding() > 0 {
            if self.epoll.is_some() {
                self.wait()?;
                for at in 0..self.events.len() {
                    let number = self.events.get(at).map_or(0, |event| event.data.u64());
                    let number = usize::try_from(number)?;
                    self.serve(number, false, &mut watch, &mut now, pattern)?;
                }
            } else {
                self.serve(0, true, &mut watch, &mut now, pattern)?;
            }
            ensure!(now < last, "the round does not come to an end");
        }
        watch.finish()
    }

    fn outstanding(&self) -> usize {
        self.sessions.iter().map(Session::outstanding).sum()
    }

    fn wait(&mut self) -> Result<()> {
        let Some(epoll) = &self.epoll else {
            return Ok(());
        };
        let time = Timespec {
            tv_sec: i64::try_from(SILENCE_MAX.as_secs())?,
            tv_nsec: 0,
        };
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        let got = epoll::wait(epoll, room, Some(&time))?;
        ensure!(got > 0, "nothing for the time that a peer may take");
        Ok(())
    }

    /// Takes what one session received, and gives it new work while the round lasts.
    fn serve(
        &mut self,
        number: usize,
        wait: bool,
        watch: &mut Watch,
        now: &mut Instant,
        pattern: &[u8],
    ) -> Result<()> {
        let session = self.sessions.get_mut(number).context("no such session")?;
        session.receive(wait, pattern)?;
        if !session.ended().is_empty() {
            *now = Instant::now();
            for tag in session.ended() {
                if let Some(slot) = session.slot(*tag).filter(|slot| slot.op != Op::Flush) {
                    watch.count(*now - slot.at);
                }
            }
            session.release();
            watch.tick(*now);
        }
        if !watch.is_over() {
            return refill(session, &mut self.drawer, *now, pattern);
        }
        // Data-Out and answers to pings go on.
        session.flush(pattern)
    }
}

fn refill(session: &mut Session, drawer: &mut Drawer, now: Instant, pattern: &[u8]) -> Result<()> {
    while session.has_room() {
        let (op, offset, len) = drawer.draw();
        session.submit(op, offset, len, now, pattern);
    }
    session.flush(pattern)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::content::PIECE;

    fn plan(order: Order, flush_every: u32) -> Plan {
        Plan {
            op: Op::Write,
            len: 4096,
            order,
            span: Span {
                bytes: 4 * PIECE,
                stride: 10 * PIECE,
            },
            depth: 1,
            flush_every,
        }
    }

    #[test]
    fn random_places_are_whole_blocks_inside_the_working_set() {
        let mut drawer = Drawer::new(plan(Order::Random, 0), 7);
        let mut pieces = [false; 4];
        for _ in 0..1000 {
            let (_, offset, len) = drawer.draw();
            assert!(offset % 4096 == 0 && offset % (10 * PIECE) < PIECE && len == 4096);
            pieces[usize::try_from(offset / (10 * PIECE)).unwrap()] = true;
        }
        assert_eq!(pieces, [true; 4]);
    }

    #[test]
    fn sequences_begin_again_and_flushes_come_in_between() {
        let mut drawer = Drawer::new(plan(Order::Sequential, 32), 0);
        let drawn: Vec<_> = (0..1024 + 33).map(|_| drawer.draw()).collect();
        assert_eq!(drawn[1], (Op::Write, 4096, 4096));
        assert_eq!(drawn[32], (Op::Flush, 0, 0));
        assert_eq!(drawn[33], (Op::Write, 32 * 4096, 4096));
        assert_eq!(drawn[1024 + 32], (Op::Write, 0, 4096));
    }
}
