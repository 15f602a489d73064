//! What idle sessions cost a server: its memory with none and with so many of them.

use std::time::{Duration, Instant};

use crate::login::{Open, open_disk};
use crate::machine::Memory;
use crate::options::Options;
use crate::park::{Park, Target, Which, Work};

/// Longest time that the sessions of one step may take to open.
const STEP_MAX: Duration = Duration::from_secs(30);

/// A server with so many sessions.
#[derive(Clone, Debug)]
pub struct Step {
    /// Whose.
    pub target: Target,
    /// How many were wanted.
    pub wanted: usize,
    /// How many are there.
    pub sessions: usize,
    /// Memory with them.
    pub memory: Memory,
    /// What is more than with none, for each session: own bytes.
    pub each: u64,
    /// Time to open them, since the step before.
    pub time: Duration,
    /// Why there are not more.
    pub failure: Option<String>,
}

/// All steps of all targets.
pub fn run(park: &mut Park<'_>, options: &Options) -> Vec<Step> {
    let lanes = [
        (Target::Ours, Which::Ours),
        (Target::Tgt, Which::Tgt),
        (Target::Istgt, Which::Istgt),
    ];
    let mut steps = Vec::new();
    for (target, which) in lanes {
        if options.targets.contains(&target) {
            steps.extend(of_target(park, target, which));
            // What follows shall not meet what a thousand sessions leave behind.
            park.forget(which);
        }
    }
    steps
}

fn of_target(park: &mut Park<'_>, target: Target, which: Which) -> Vec<Step> {
    let mut step = Step {
        target,
        wanted: 0,
        sessions: 0,
        memory: Memory::default(),
        each: 0,
        time: Duration::ZERO,
        failure: None,
    };
    let pid = match park.server(which) {
        Ok(server) => server.pid(),
        Err(error) => {
            step.failure = Some(format!("{error:#}"));
            return vec![step];
        }
    };
    let empty = Memory::of(pid);
    step.memory = empty;
    let mut steps = vec![step.clone()];
    let mut open: Vec<Open> = Vec::new();
    for wanted in park.scale.idle {
        let began = Instant::now();
        step.wanted = *wanted;
        while open.len() < *wanted && step.failure.is_none() {
            let place = park.place(which, Work::Golden, open.len());
            match place.and_then(|place| open_disk(&place, false, 0)) {
                Ok(session) => open.push(session),
                Err(error) => step.failure = Some(format!("{error:#}")),
            }
            if began.elapsed() > STEP_MAX && open.len() < *wanted {
                step.failure = Some(format!("only so many within {} s", STEP_MAX.as_secs()));
            }
        }
        step.sessions = open.len();
        step.time = began.elapsed();
        step.memory = Memory::of(pid);
        let more = step.memory.own.saturating_sub(empty.own);
        step.each = more.checked_div(open.len() as u64).unwrap_or(0);
        steps.push(step.clone());
        if step.failure.is_some() {
            break;
        }
    }
    steps
}
