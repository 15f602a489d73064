//! The swarm's threads: each has its nodes, one poll, one buffer to receive into and one to send from.
//!
//! Memory: the golden bytes once; for each thread the two buffers; for each node what `node.rs` says, and here a
//! few hundred bytes and what the kernel did not take yet of what it sends. Nothing grows with what is read.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fd::AsRawFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::error::Error;
use super::micros;
use super::node::{Action, Node, World};
use super::report::{NodeReport, Step};
use super::tally::{Counts, Tally};
use crate::limits::{
    SWARM_EVENTS, SWARM_LOGINS_AT_ONCE, SWARM_RECEIVE_BYTES, SWARM_SEND_KEPT, SWARM_SWEEP,
};

mod side;

use side::Side;

/// When nodes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// All at once.
    Together,
    /// Evenly over this time.
    Ramp(Duration),
    /// So many at a time; the next when one is through.
    Wave(usize),
}

/// What a swarm that runs says and hears.
#[derive(Debug, Default)]
pub struct Live {
    booted: AtomicU64,
    over: AtomicU64,
    counts: [AtomicU64; 4],
    stop: AtomicBool,
}

/// How far a swarm is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Nodes whose boot is over.
    pub booted: u64,
    /// Nodes that are through, well or not.
    pub over: u64,
    /// Commands that ended.
    pub ops: u64,
    /// Bytes that came.
    pub read_bytes: u64,
    /// Operations that ended badly, and nodes that gave up.
    pub errors: u64,
    /// Wrong sectors.
    pub bad_sectors: u64,
}

impl Live {
    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let [ops, read_bytes, errors, bad_sectors] =
            self.counts.each_ref().map(|count| count.load(Relaxed));
        Progress {
            booted: self.booted.load(Relaxed),
            over: self.over.load(Relaxed),
            ops,
            read_bytes,
            errors,
            bad_sectors,
        }
    }

    /// Asks the swarm to end, soon and in order: what it has found until then is told.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// It was asked to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn add(&self, before: &Counts, after: &Counts) {
        let grown = [
            after.ops - before.ops,
            after.read_bytes - before.read_bytes,
            after.errors - before.errors,
            after.bad_sectors - before.bad_sectors,
        ];
        for (count, more) in self.counts.iter().zip(grown) {
            count.fetch_add(more, Relaxed);
        }
    }
}

/// Runs all nodes of `world` to their ends, on `threads` threads.
///
/// # Errors
/// The operating system refuses a poll, a timer or a thread. What nodes meet is in the step.
pub fn run(world: &World, start: Start, threads: usize, live: &Live) -> Result<Step, Error> {
    let count = world.nodes().len();
    let threads = match start {
        Start::Wave(size) => threads.min(size),
        _ => threads,
    };
    let threads = threads.clamp(1, count.max(1));
    let clock = Instant::now();
    let begin = |thread: usize| Thread::new(world, start, (thread, threads), live, clock);
    let mut all = Tally::default();
    let mut nodes = Vec::new();
    let ended: Vec<Result<(Tally, Vec<NodeReport>), Error>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let name = format!("swarm-{thread}");
                let work = move || begin(thread)?.run();
                std::thread::Builder::new()
                    .name(name)
                    .spawn_scoped(scope, work)
            })
            .collect();
        let joined = handles.into_iter().map(|handle| {
            let handle = handle.map_err(|e| Error::io("starting a thread of the swarm", &e))?;
            let panicked = |_| Error::invalid("a thread of the swarm panicked");
            handle.join().map_err(panicked)?
        });
        joined.collect()
    });
    let elapsed = micros(clock.elapsed());
    for one in ended {
        let (tally, reports) = one?;
        all.add(tally);
        nodes.extend(reports);
    }
    Ok(Step::new(all, &nodes, elapsed, live.is_stopped()))
}

/// A node and its socket.
#[derive(Debug)]
struct Seat {
    node: Node,
    stream: Option<TcpStream>,
    /// The connection is not made yet.
    opening: bool,
    /// Counted among the logins under way.
    entering: bool,
    /// The socket of its errand.
    side: Option<Side>,
    /// Counted among the errands under way.
    errand_counts: bool,
    /// The address that it speaks from.
    source: Option<IpAddr>,
    /// Waits until fewer logins, or errands, are under way.
    held: bool,
    /// What the kernel did not take yet.
    unsent: Vec<u8>,
    /// The moment that is in the heap for it.
    alarm: Option<u64>,
    booted: bool,
    over: bool,
}

struct Thread<'a> {
    world: &'a World,
    live: &'a Live,
    clock: Instant,
    poll: Poll,
    timer: rustix::fd::OwnedFd,
    /// What the timer is set to.
    armed: Option<u64>,
    seats: Vec<Seat>,
    /// Nodes that have not begun, and how many may go at a time: waves.
    waiting: VecDeque<usize>,
    alarms: BinaryHeap<Reverse<(u64, usize)>>,
    /// Nodes that wait until fewer logins are under way.
    held: VecDeque<usize>,
    logins: usize,
    logins_max: usize,
    /// The same of errands.
    held_errands: VecDeque<usize>,
    errands: usize,
    errands_max: usize,
    /// Those that waited, and whose turn it is.
    called: VecDeque<usize>,
    /// Sockets that filled the buffer: they have more.
    fuller: Vec<usize>,
    receive: Vec<u8>,
    out: Vec<u8>,
    tally: Tally,
    told: Counts,
    left: usize,
}

const TIMER: Token = Token(usize::MAX);

impl<'a> Thread<'a> {
    /// Thread `at` of `of`: every so manieth node is its own.
    fn new(
        world: &'a World,
        start: Start,
        (at, of): (usize, usize),
        live: &'a Live,
        clock: Instant,
    ) -> Result<Self, Error> {
        let poll = Poll::new().map_err(|e| Error::io("making a poll", &e))?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)
            .map_err(|e| Error::io("making a timer", &e.into()))?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)
            .map_err(|e| Error::io("watching a timer", &e))?;
        let count = world.nodes().len();
        let mut seats = Vec::new();
        for number in (at..count).step_by(of) {
            let begin = match start {
                Start::Ramp(time) => {
                    let all = micros(time) as u128 * number as u128 / count.max(1) as u128;
                    u64::try_from(all).unwrap_or(u64::MAX)
                }
                Start::Together | Start::Wave(_) => 0,
            };
            let id = u32::try_from(number).unwrap_or(u32::MAX);
            let source = world.nodes().get(number).and_then(|node| node.source);
            seats.push(Seat::new(Node::new(id, world, begin), begin, source));
        }
        let together = match start {
            Start::Wave(size) => size / of + usize::from(at < size % of),
            _ => seats.len(),
        };
        let alarms = seats.iter().zip(0..).take(together);
        let alarms = alarms.filter_map(|(seat, at)| Some(Reverse((seat.alarm?, at))));
        Ok(Self {
            world,
            live,
            clock,
            poll,
            timer,
            armed: None,
            alarms: alarms.collect(),
            waiting: (together..seats.len()).collect(),
            held: VecDeque::new(),
            logins: 0,
            logins_max: (SWARM_LOGINS_AT_ONCE / of).max(1),
            held_errands: VecDeque::new(),
            errands: 0,
            called: VecDeque::new(),
            errands_max: (world.errands_at_once() / of).max(1),
            fuller: Vec::new(),
            receive: vec![0; SWARM_RECEIVE_BYTES],
            out: Vec::new(),
            tally: Tally::default(),
            told: Counts::default(),
            left: seats.len(),
            seats,
        })
    }

    fn now(&self) -> u64 {
        micros(self.clock.elapsed())
    }

    fn run(mut self) -> Result<(Tally, Vec<NodeReport>), Error> {
        let mut events = Events::with_capacity(SWARM_EVENTS);
        let mut swept = 0;
        while self.left > 0 && !self.live.is_stopped() {
            self.call();
            self.ring();
            while !self.called.is_empty() {
                self.call();
                self.ring();
            }
            self.wait(&mut events)?;
            for at in std::mem::take(&mut self.fuller) {
                self.receive(at);
            }
            for event in &events {
                if event.token() == TIMER {
                    self.armed = None;
                    continue;
                }
                self.serve(event);
            }
            let now = self.now();
            if now.saturating_sub(swept) > micros(SWARM_SWEEP) {
                swept = now;
                self.sweep(now);
            }
            self.live.add(&self.told, &self.tally.counts);
            self.told = self.tally.counts;
        }
        for seat in &mut self.seats {
            seat.node.stop();
        }
        let reports = self.seats.iter().map(|seat| seat.node.report().clone());
        let reports = reports.collect();
        Ok((self.tally, reports))
    }

    /// Waits for sockets or the next alarm. The timer is set only when there is nothing else to do: that costs more
    /// than a look.
    fn wait(&mut self, events: &mut Events) -> Result<(), Error> {
        self.look(events, Duration::ZERO)?;
        if events.is_empty() && self.fuller.is_empty() {
            self.arm();
            self.look(events, SWARM_SWEEP)?;
        }
        Ok(())
    }

    fn look(&mut self, events: &mut Events, wait: Duration) -> Result<(), Error> {
        match self.poll.poll(events, Some(wait)) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                Err(Error::io("waiting for sockets", &e))
            }
            _ => Ok(()),
        }
    }

    /// Wakes nodes whose moment has come.
    fn ring(&mut self) {
        let now = self.now();
        while let Some(Reverse((due, at))) = self.alarms.peek().copied() {
            if due > now {
                break;
            }
            self.alarms.pop();
            let Some(seat) = self
                .seats
                .get_mut(at)
                .filter(|seat| seat.alarm == Some(due))
            else {
                continue;
            };
            seat.alarm = None;
            self.step(at, |node, world, tally, now, out| {
                node.drive(world, tally, now, out);
            });
        }
    }

    /// Sets the timer to the next alarm.
    fn arm(&mut self) {
        let next = self.alarms.peek().map(|Reverse((due, _))| *due);
        if next.is_none() || next == self.armed {
            return;
        }
        self.armed = next;
        let left = next.unwrap_or(0).saturating_sub(self.now()).max(1);
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Timespec {
            tv_sec: i64::try_from(left / 1_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(left % 1_000_000 * 1000).unwrap_or(0),
        };
        let setting = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        // A timer that cannot be set costs precision: the sweep comes anyway.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting);
    }

    fn sweep(&mut self, now: u64) {
        for at in 0..self.seats.len() {
            if self.seats.get(at).is_some_and(|seat| !seat.over) {
                self.step(at, |node, world, tally, _, _| node.sweep(world, tally, now));
            }
        }
    }

    /// One event of a node's socket, or of its errand's.
    fn serve(&mut self, event: &mio::event::Event) {
        let at = event.token().0 / 2;
        if event.token().0 % 2 == 1 {
            return self.serve_aside(at);
        }
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        if seat.opening {
            match seat.is_connected() {
                Ok(false) => return,
                Ok(true) => {
                    seat.opening = false;
                    self.step(at, Node::connected);
                }
                Err(error) => {
                    let why = format!("cannot connect: {error}");
                    self.step(at, |node, _, tally, now, _| node.lost(&why, tally, now));
                    return;
                }
            }
        } else if event.is_writable() && !seat.unsent.is_empty() {
            self.step(at, |_, _, _, _, _| {});
        }
        if event.is_readable() || event.is_read_closed() {
            self.receive(at);
            if event.is_read_closed() {
                self.fuller.push(at);
            }
        }
    }

    /// Reads once. A socket that fills the buffer is read again, after the others.
    fn receive(&mut self, at: usize) {
        let Some(stream) = self.seats.get_mut(at).and_then(|seat| seat.stream.as_mut()) else {
            return;
        };
        match stream.read(&mut self.receive) {
            Ok(0) => {
                let why = "the target closed the connection";
                self.step(at, |node, _, tally, now, _| node.lost(why, tally, now));
            }
            Ok(len) => {
                if len == self.receive.len() {
                    self.fuller.push(at);
                }
                let buffer = std::mem::take(&mut self.receive);
                let bytes = buffer.get(..len).unwrap_or_default();
                self.step(at, |node, world, tally, now, out| {
                    node.hear(bytes, world, tally, now, out);
                });
                self.receive = buffer;
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => {
                let why = format!("the connection broke: {e}");
                self.step(at, |node, _, tally, now, _| node.lost(&why, tally, now));
            }
        }
    }

    /// Lets a node do something, sends what it wants to send, and does what it wants done.
    fn step(
        &mut self,
        at: usize,
        what: impl FnOnce(&mut Node, &World, &mut Tally, u64, &mut Vec<u8>),
    ) {
        let now = self.now();
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        let mut out = std::mem::take(&mut self.out);
        what(&mut seat.node, self.world, &mut self.tally, now, &mut out);
        let mut sent = seat.send(&mut out);
        out.clear();
        out.shrink_to(SWARM_SEND_KEPT);
        self.out = out;
        self.send_aside(at, now);
        // A socket that breaks while it sends leads to another step; it cannot go on for ever.
        for _ in 0..8 {
            if let Err(error) = std::mem::replace(&mut sent, Ok(())) {
                let why = format!("the connection broke: {error}");
                if let Some(seat) = self.seats.get_mut(at) {
                    seat.node.lost(&why, &mut self.tally, now);
                }
            }
            if !self.act(at, now) {
                break;
            }
        }
        self.settle(at, now);
    }

    /// Does one thing that the node wants; false when there is none.
    fn act(&mut self, at: usize, now: u64) -> bool {
        let Some(seat) = self.seats.get_mut(at) else {
            return false;
        };
        if seat.node.wants_connection(now) && !seat.entering {
            if self.logins >= self.logins_max {
                if !std::mem::replace(&mut seat.held, true) {
                    self.held.push_back(at);
                }
                return false;
            }
            self.logins += 1;
            seat.entering = true;
        }
        match seat.node.action(now) {
            Action::Nothing => return self.act_aside(at, now),
            Action::Close => seat.close(),
            Action::Connect(address) => {
                seat.close();
                if let Err(error) = seat.connect(address, at, self.poll.registry()) {
                    let why = format!("cannot connect to {address}: {error}");
                    seat.node.lost(&why, &mut self.tally, now);
                }
            }
        }
        true
    }

    /// Notes what changed: the next alarm, logins that ended, nodes that are through.
    fn settle(&mut self, at: usize, now: u64) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        let due = seat.node.due();
        if let Some(due) = due.filter(|due| seat.alarm.is_none_or(|alarm| *due < alarm)) {
            // One that waits for its turn to log in, or to fetch, is called, not woken.
            let called = seat.node.wants_connection(now) || seat.node.wants_socket(now);
            if due > now || !called {
                seat.alarm = Some(due);
                self.alarms.push(Reverse((due, at)));
            }
        }
        let mut errand_freed = false;
        if seat.errand_counts && seat.side.is_none() {
            seat.errand_counts = false;
            self.errands -= 1;
            errand_freed = true;
        }
        let mut freed = false;
        if seat.entering && !seat.node.is_entering() {
            seat.entering = false;
            self.logins -= 1;
            freed = true;
        }
        if !seat.booted && seat.node.report().boot_us.is_some() {
            seat.booted = true;
            self.live.booted.fetch_add(1, Relaxed);
        }
        if !seat.over && seat.node.is_over() {
            seat.over = true;
            seat.close();
            self.left -= 1;
            self.live.over.fetch_add(1, Relaxed);
            self.next_of_wave(now);
        }
        let next_in = freed.then(|| self.held.pop_front()).flatten();
        let next_out = errand_freed.then(|| self.held_errands.pop_front());
        self.called
            .extend(next_in.into_iter().chain(next_out.flatten()));
    }

    /// Lets those go on whose turn it is. One that fails at once makes way for the next, however many there are.
    fn call(&mut self) {
        while let Some(next) = self.called.pop_front() {
            if let Some(seat) = self.seats.get_mut(next) {
                seat.held = false;
            }
            self.step(next, |_, _, _, _, _| {});
        }
    }

    fn next_of_wave(&mut self, now: u64) {
        if let Some(next) = self.waiting.pop_front()
            && let Some(seat) = self.seats.get_mut(next)
        {
            seat.alarm = Some(now);
            self.alarms.push(Reverse((now, next)));
        }
    }
}

impl Seat {
    const fn new(node: Node, begin: u64, source: Option<IpAddr>) -> Self {
        Self {
            node,
            stream: None,
            opening: false,
            entering: false,
            side: None,
            errand_counts: false,
            source,
            held: false,
            unsent: Vec::new(),
            alarm: Some(begin),
            booted: false,
            over: false,
        }
    }

    fn close(&mut self) {
        self.stream = None;
        self.opening = false;
        self.unsent = Vec::new();
    }

    /// As real initiators do: no delay for small segments, the kernel's own buffer sizes, and CUBIC, whatever this
    /// machine prefers: another way to pace a few bytes costs both ends processor time (BBR: 5 to 10 %).
    fn connect(&mut self, to: SocketAddr, at: usize, registry: &mio::Registry) -> io::Result<()> {
        let mut stream = side::connect(to, self.source)?;
        // A failure here costs time only.
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_tcp_congestion(&stream, "cubic");
        registry.register(
            &mut stream,
            Token(at * 2),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        self.stream = Some(stream);
        self.opening = true;
        Ok(())
    }

    fn is_connected(&self) -> io::Result<bool> {
        let Some(stream) = &self.stream else {
            return Ok(false);
        };
        is_connected(stream)
    }

    /// Sends what is left and `out` behind it; keeps what the kernel does not take.
    fn send(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        if self.opening {
            return Ok(());
        }
        if !self.unsent.is_empty() {
            self.unsent.append(out);
            std::mem::swap(&mut self.unsent, out);
            self.unsent.clear();
        }
        let mut sent = 0;
        while let Some(rest) = out.get(sent..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(len) => sent += len,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent.extend_from_slice(rest);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        self.unsent.shrink_to(SWARM_SEND_KEPT);
        Ok(())
    }
}

/// False while it is on its way.
fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(e) => Err(e),
    }
}
