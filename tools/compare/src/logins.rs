//! Logins and logouts, as many as go: connect, log in, log out, and wait for the target to close. What the login
//! machine said once, answer by answer, is replayed; the answers are looked at as far as that costs nothing.
//!
//! This side makes as many connections as the target and sits on one core like it, so what it saves the target can
//! show: it does not sleep between answers that follow each other soon (a target would pay for waking it), and what
//! the target has closed it drops without a farewell.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reveille::iscsi::frame::pad_len;
use reveille::iscsi::pdu::{BHS_BYTES, Bhs, op};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::set_socket_linger;
use rustix::time::Timespec;

use crate::load::{Round, Watch};
use crate::login::{Place, SILENCE_MAX, log_in};
use crate::machine::own_cpu_ns;

/// Bytes of an answer to a login.
const ANSWER_MAX: usize = 16 << 10;
/// So long it looks for the next answer before it sleeps.
const LOOKS: Duration = Duration::from_micros(100);

/// What one node says to log in.
#[derive(Debug)]
struct Script {
    place: Place,
    requests: Vec<Vec<u8>>,
}

/// Logins of many nodes, one after the other or so many at a time.
#[derive(Debug)]
pub struct Logins {
    scripts: Vec<Script>,
    next: usize,
    at_once: usize,
}

/// One login under way.
#[derive(Debug)]
struct Lane {
    stream: TcpStream,
    script: usize,
    /// Requests sent; one more than there are: the logout.
    sent: usize,
    /// The logout was answered.
    out: bool,
    began: Instant,
    buffer: Vec<u8>,
    filled: usize,
}

impl Logins {
    /// Logs each of them in once, and remembers how.
    ///
    /// # Errors
    /// When a login fails, or takes so long that there is no time for the others.
    pub fn record(places: &[Place], at_once: usize, until: Instant) -> Result<Self> {
        let mut scripts = Vec::new();
        for place in places {
            let mut open = log_in(place, false)?;
            let login = open.login.as_ref();
            let login = login.context("there is no login to the bare server")?;
            let goodbye = logout(login.cmd_sn, login.exp_stat_sn);
            open.stream.write_all(&goodbye)?;
            // Answer and close; some targets keep the session's place until they have said both.
            open.stream
                .read_to_end(&mut Vec::new())
                .context("logging out")?;
            scripts.push(Script {
                place: place.clone(),
                requests: open.sent,
            });
            // Those that are slow get by with fewer.
            if Instant::now() > until && scripts.len() >= at_once {
                break;
            }
        }
        ensure!(!scripts.is_empty(), "no node to log in");
        Ok(Self {
            scripts,
            next: 0,
            at_once,
        })
    }

    /// Runs a round.
    ///
    /// # Errors
    /// When a login fails.
    pub fn run(&mut self, pid: u32, time: Duration) -> Result<Round> {
        let mut watch = Watch::new(pid, time);
        let last = Instant::now() + time + 2 * SILENCE_MAX;
        let mut lanes = Vec::with_capacity(self.at_once);
        for _ in 0..self.at_once {
            lanes.push(self.begin(vec![0; ANSWER_MAX])?);
        }
        while !lanes.is_empty() {
            let ready = match self.at_once {
                // It waits in its own read.
                1 => Ready { some: 1, closed: 0 },
                _ => wait_for(&lanes, &mut watch)?,
            };
            ensure!(Instant::now() < last, "the round does not come to an end");
            // From behind: a lane that ends is taken out.
            for at in (0..lanes.len())
                .rev()
                .filter(|at| ready.some >> at & 1 == 1)
            {
                let Some(lane) = lanes.get_mut(at) else {
                    continue;
                };
                let over = self.step(lane)? || lane.out && ready.closed >> at & 1 == 1;
                if !over {
                    continue;
                }
                let now = Instant::now();
                watch.count(now - lane.began);
                watch.tick(now);
                let lane = lanes.swap_remove(at);
                // The target's side is closed: no farewell is owed to it.
                set_socket_linger(&lane.stream, Some(Duration::ZERO))?;
                drop(lane.stream);
                if !watch.is_over() {
                    lanes.push(self.begin(lane.buffer)?);
                }
            }
        }
        watch.finish()
    }

    fn begin(&mut self, buffer: Vec<u8>) -> Result<Lane> {
        let script = self.next % self.scripts.len();
        self.next += 1;
        let began = Instant::now();
        let said = self.scripts.get(script).context("no such node")?;
        // No more calls than needed: what we spend here the target cannot show.
        let mut stream = TcpStream::connect(said.place.address).context("connecting")?;
        if self.at_once == 1 {
            stream.set_read_timeout(Some(SILENCE_MAX))?;
        }
        stream.write_all(said.requests.first().context("a login of no request")?)?;
        Ok(Lane {
            stream,
            script,
            sent: 1,
            out: false,
            began,
            buffer,
            filled: 0,
        })
    }

    /// Takes what came and says what is next; true when the target has closed after the logout.
    fn step(&self, lane: &mut Lane) -> Result<bool> {
        let room = lane.buffer.get_mut(lane.filled..).unwrap_or_default();
        ensure!(!room.is_empty(), "an answer to a login without end");
        match lane.stream.read(room) {
            Ok(0) if lane.out => return Ok(true),
            Ok(0) => bail!("the target closed the connection in the middle of a login"),
            Ok(len) => lane.filled += len,
            // Both have said all: it does not matter which of them closes how.
            Err(e) if lane.out && e.kind() == ErrorKind::ConnectionReset => return Ok(true),
            Err(e) => return Err(e).context("logging in and out"),
        }
        let received = lane.buffer.get(..lane.filled).unwrap_or_default();
        let Some((&header, rest)) = received.split_first_chunk::<BHS_BYTES>() else {
            return Ok(false);
        };
        let answer = Bhs(header);
        let len = usize::try_from(answer.data_len())?;
        if rest.len() < len + pad_len(len) {
            return Ok(false);
        }
        lane.filled = 0;
        self.answer(lane, &answer)?;
        Ok(false)
    }

    fn answer(&self, lane: &mut Lane, answer: &Bhs) -> Result<()> {
        let script = self.scripts.get(lane.script).context("no such node")?;
        match answer.opcode() {
            op::LOGIN_RESPONSE => {
                let status = answer.u16_at(36);
                ensure!(status == 0, "a login is refused with status {status:#06x}");
                if let Some(request) = script.requests.get(lane.sent) {
                    lane.stream.write_all(request)?;
                } else {
                    let stat_sn = answer.u32_at(24).wrapping_add(1);
                    lane.stream.write_all(&logout(answer.u32_at(28), stat_sn))?;
                }
                lane.sent += 1;
            }
            op::LOGOUT_RESPONSE => {
                ensure!(answer.u8_at(2) == 0, "the target refuses a logout");
                lane.out = true;
            }
            other => bail!("opcode {other:#04x} in a login"),
        }
        Ok(())
    }
}

/// The logout of a session.
fn logout(cmd_sn: u32, exp_stat_sn: u32) -> [u8; BHS_BYTES] {
    let mut bhs = Bhs::new(op::LOGOUT | 0x40);
    bhs.put_u8(1, 0x80);
    bhs.put_u32(16, 2);
    bhs.put_u32(24, cmd_sn);
    bhs.put_u32(28, exp_stat_sn);
    bhs.0
}

/// Lanes, one bit each.
struct Ready {
    /// Have something to read.
    some: u64,
    /// Their target says nothing more after that.
    closed: u64,
}

/// Waits until some have something to say.
fn wait_for(lanes: &[Lane], watch: &mut Watch) -> Result<Ready> {
    let mut fds: Vec<PollFd<'_>> = lanes
        .iter()
        .map(|lane| PollFd::from_borrowed_fd(lane.stream.as_fd(), PollFlags::IN | PollFlags::RDHUP))
        .collect();
    let at_once = Timespec::default();
    if poll(&mut fds, Some(&at_once))? == 0 {
        let (began, cpu) = (Instant::now(), own_cpu_ns());
        let mut ready = 0;
        while ready == 0 && began.elapsed() < LOOKS {
            ready = poll(&mut fds, Some(&at_once))?;
        }
        watch.looked(own_cpu_ns() - cpu);
        if ready == 0 {
            let time = Timespec::try_from(SILENCE_MAX)?;
            ready = poll(&mut fds, Some(&time))?;
        }
        ensure!(ready > 0, "nothing for the time that a peer may take");
    }
    let bits = |wanted: PollFlags| {
        let lanes = fds.iter().enumerate();
        let with = lanes.filter(|(_, fd)| fd.revents().intersects(wanted));
        with.fold(0, |bits, (at, _)| bits | 1 << at)
    };
    Ok(Ready {
        some: bits(PollFlags::all()),
        closed: bits(PollFlags::RDHUP),
    })
}
