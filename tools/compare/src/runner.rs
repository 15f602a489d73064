//! Runs the groups: opens all sessions of a group, checks what they read, then round after round, each time all
//! rows on all targets (A B C A B C ...), only one of them at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cases::{Act, Group, Row, processes};
use crate::content;
use crate::flames::{Look, Profile};
use crate::load::{Load, Plan, Round};
use crate::login::open_disk;
use crate::logins::Logins;
use crate::options::Options;
use crate::park::{Park, Target, Which, Work};
use crate::session::Session;
use crate::verify;

/// Longest time until all sessions of a row are open on one target.
const OPEN_MAX: Duration = Duration::from_secs(90);
/// Nodes of foreign targets that log in by turns: as many names for one disk.
const LOGIN_NAMES: usize = 64;
/// Longest time to learn how they log in.
const RECORD_MAX: Duration = Duration::from_secs(20);
/// A round under `perf`.
const PROFILE_TIME: Duration = Duration::from_secs(5);

/// What a row found on a target.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Column.
    pub target: Target,
    /// All rounds.
    pub rounds: Vec<Round>,
    /// Why there are not more.
    pub failure: Option<String>,
}

/// What a row found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The row.
    pub row: Row,
    /// Its targets.
    pub cells: Vec<Cell>,
    /// Where our server's time went, if that was asked.
    pub profile: Option<Profile>,
}

#[derive(Debug)]
enum Bench {
    Io(Box<Load>, Plan),
    Logins(Logins),
}

/// One row on one target.
#[derive(Debug)]
struct Seat {
    row: usize,
    target: Target,
    which: Which,
    bench: Option<Bench>,
    rounds: Vec<Round>,
    failure: Option<String>,
}

impl Seat {
    fn fail(&mut self, error: &anyhow::Error) {
        let said = format!("{error:#}");
        eprintln!("compare: {}: {said}", self.target.title());
        self.failure = Some(said);
        self.bench = None;
    }
}

/// Runs a group.
pub fn run(park: &mut Park<'_>, group: &Group, options: &Options, pattern: &[u8]) -> Vec<Found> {
    // Started before the first of them is loaded: starting takes the processor.
    for which in processes(group) {
        let _ = park.server(which);
    }
    let mut seats = Vec::new();
    for (number, row) in group.iter().enumerate() {
        for (target, which) in &row.lanes {
            let mut seat = Seat {
                row: number,
                target: *target,
                which: *which,
                bench: None,
                rounds: Vec::new(),
                failure: None,
            };
            match open(park, row, *which, pattern) {
                Ok(bench) => seat.bench = Some(bench),
                Err(error) => seat.fail(&error),
            }
            seats.push(seat);
        }
    }
    warm_up(park, group, &mut seats, options.time, pattern);
    for _ in 0..options.rounds {
        for seat in &mut seats {
            if let Err(error) = round(park, seat, options.time, pattern) {
                seat.fail(&error);
            }
        }
    }
    for seat in &mut seats {
        if let Some(Bench::Io(load, plan)) = &mut seat.bench
            && matches!(plan.op, crate::session::Op::Write)
            && let Err(error) = verify::writes(load.sessions(), plan, pattern)
        {
            seat.fail(&error.context("what was written"));
        }
    }
    let mut found: Vec<Found> = group
        .iter()
        .map(|row| Found {
            row: row.clone(),
            cells: Vec::new(),
            profile: None,
        })
        .collect();
    for seat in seats.iter_mut().filter(|seat| seat.target == Target::Ours) {
        if let (Some(dir), Some(found)) = (&options.flames, found.get_mut(seat.row)) {
            match flames(park, seat, dir, &found.row.name, pattern) {
                Ok(profile) => found.profile = profile,
                Err(error) => eprintln!("compare: {}: no flame graph: {error:#}", found.row.name),
            }
        }
    }
    for seat in seats {
        if let Some(found) = found.get_mut(seat.row) {
            found.cells.push(Cell {
                target: seat.target,
                rounds: seat.rounds,
                failure: seat.failure,
            });
        }
    }
    found
}

/// Rounds that do not count, before the first that does.
fn warm_up(park: &mut Park<'_>, group: &Group, seats: &mut [Seat], time: Duration, pattern: &[u8]) {
    for seat in seats {
        for _ in 0..group.get(seat.row).map_or(0, |row| row.warm_up) {
            if let Err(error) = round(park, seat, time, pattern) {
                seat.fail(&error);
            }
        }
        seat.rounds.clear();
    }
}

/// One more round, which does not count, with `perf` beside the server.
fn flames(
    park: &mut Park<'_>,
    seat: &mut Seat,
    dir: &Path,
    name: &str,
    pattern: &[u8],
) -> Result<Option<Profile>> {
    if seat.bench.is_none() {
        return Ok(None);
    }
    let look = Look::begin(park.server(seat.which)?.pid(), dir, name)?;
    round(park, seat, PROFILE_TIME, pattern)?;
    seat.rounds.pop();
    look.end().map(Some)
}

fn round(park: &mut Park<'_>, seat: &mut Seat, time: Duration, pattern: &[u8]) -> Result<()> {
    let Some(bench) = &mut seat.bench else {
        return Ok(());
    };
    let pid = park.server(seat.which)?.pid();
    let round = match bench {
        Bench::Io(load, _) => load.run(pid, time, pattern),
        Bench::Logins(logins) => logins.run(pid, time),
    };
    seat.rounds.push(round?);
    Ok(())
}

fn open(park: &mut Park<'_>, row: &Row, which: Which, pattern: &[u8]) -> Result<Bench> {
    match row.act {
        Act::Io {
            plan,
            sessions,
            digests,
        } => {
            let mut opened = open_sessions(park, row.work(), which, &plan, sessions, digests)?;
            if row.work() != Work::Writes {
                let image = park.image_of(which);
                verify::reads(&mut opened, &plan, &image, pattern).context("what is read")?;
                warm(&mut opened, &plan, park, which, pattern)?;
            }
            Ok(Bench::Io(Box::new(Load::new(opened, plan)?), plan))
        }
        Act::Logins { at_once } => {
            let ours = matches!(which, Which::Ours);
            let names = if ours { park.scale.nodes } else { LOGIN_NAMES };
            let places = (0..names).map(|n| park.place(which, Work::Golden, n));
            let places = places.collect::<Result<Vec<_>>>()?;
            let logins = Logins::record(&places, at_once, Instant::now() + RECORD_MAX);
            Ok(Bench::Logins(logins.context("logging in")?))
        }
    }
}

fn open_sessions(
    park: &mut Park<'_>,
    work: Work,
    which: Which,
    plan: &Plan,
    sessions: usize,
    digests: bool,
) -> Result<Vec<Session>> {
    let began = Instant::now();
    let mut opened = Vec::new();
    for number in 0..sessions {
        let spent = began.elapsed();
        ensure!(
            spent < OPEN_MAX,
            "only {number} of {sessions} sessions open after {} s",
            spent.as_secs()
        );
        let place = park.place(which, work, number)?;
        let open = open_disk(&place, digests, plan.span.disk_bytes());
        let open = open.with_context(|| format!("session {number}"))?;
        opened.push(Session::new(open, place.lun, plan.depth)?);
    }
    Ok(opened)
}

/// Reads the whole working set once, so that no round meets what a target does only the first time.
fn warm(
    sessions: &mut [Session],
    plan: &Plan,
    park: &mut Park<'_>,
    which: Which,
    pattern: &[u8],
) -> Result<()> {
    let Some(session) = sessions.first_mut() else {
        return Ok(());
    };
    park.server(which)?;
    let len = content::TRANSFER_MAX as u64;
    let mut at = 0;
    while at < plan.span.bytes || session.outstanding() > 0 {
        while at < plan.span.bytes && session.has_room() {
            let len = u32::try_from(len)?;
            let offset = plan.span.place(at);
            session.submit(
                crate::session::Op::Read,
                offset,
                len,
                Instant::now(),
                pattern,
            );
            at += u64::from(len);
        }
        session.flush(pattern)?;
        ensure!(session.outstanding() > 0, "the target takes no commands");
        session.receive(true, pattern)?;
        session.release();
    }
    Ok(())
}
