//! The cases: what is measured, on which targets. Rows of one group run interleaved, so that they can be compared
//! with each other as well.

use crate::content::Span;
use crate::load::{Order, Plan};
use crate::options::{Options, Scale};
use crate::park::{TARGETS, Target, Which, Work};
use crate::session::Op;

/// What a row does.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Reads or writes.
    Io {
        /// What is sent.
        plan: Plan,
        /// How many sessions send it.
        sessions: usize,
        /// With header and data digests.
        digests: bool,
    },
    /// Logins and logouts.
    Logins {
        /// So many at a time.
        at_once: usize,
    },
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name for options and for limits.
    pub name: String,
    /// In words.
    pub title: String,
    /// What it does.
    pub act: Act,
    /// Who takes part, in which process.
    pub lanes: Vec<(Target, Which)>,
    /// Rounds before the first that counts, in which servers get to know what they should hold in memory.
    pub warm_up: u32,
}

/// Reveille holds a chunk in memory once it was read some 16 times: in so many rounds of a second, all of 1 GiB.
const WARM_UP: u32 = 4;

/// Rows that run interleaved.
pub type Group = Vec<Row>;

const USUAL: [(Target, Which); 4] = [
    (Target::Ours, Which::Ours),
    (Target::Tgt, Which::Tgt),
    (Target::Istgt, Which::Istgt),
    (Target::Bare, Which::Bare),
];

/// Transfers that are told in MiB a second.
pub const LARGE: u32 = 64 << 10;

impl Row {
    fn new(name: &str, title: &str, plan: Plan) -> Self {
        let act = Act::Io {
            plan,
            sessions: 1,
            digests: false,
        };
        Self {
            name: name.into(),
            title: title.into(),
            act,
            lanes: USUAL.to_vec(),
            warm_up: 0,
        }
    }

    fn warm(mut self) -> Self {
        self.warm_up = WARM_UP;
        self
    }

    fn on(mut self, lanes: &[(Target, Which)]) -> Self {
        self.lanes = lanes.to_vec();
        self
    }

    fn sessions(mut self, wanted: usize) -> Self {
        if let Act::Io { sessions, .. } = &mut self.act {
            *sessions = wanted;
        }
        self
    }

    fn digests(mut self) -> Self {
        if let Act::Io { digests, .. } = &mut self.act {
            *digests = true;
        }
        self
    }

    /// Which disk it works on.
    #[must_use]
    pub const fn work(&self) -> Work {
        match self.act {
            Act::Io { plan, .. } if matches!(plan.op, Op::Write) => Work::Writes,
            Act::Io { digests: true, .. } => Work::Digests,
            _ => Work::Golden,
        }
    }

    /// Bytes of each, when they are worth telling.
    #[must_use]
    pub const fn large(&self) -> Option<u32> {
        match self.act {
            Act::Io { plan, .. } if plan.len >= LARGE => Some(plan.len),
            _ => None,
        }
    }
}

/// All groups, in the order in which they run.
#[must_use]
pub fn all(scale: &Scale) -> Vec<Group> {
    let golden = Span::first(scale.golden_bytes);
    let random = Plan {
        op: Op::Read,
        len: 4096,
        order: Order::Random,
        span: golden,
        depth: 32,
        flush_every: 0,
    };
    let sequential = |len| Plan {
        len,
        order: Order::Sequential,
        depth: 8,
        ..random
    };
    let write = |plan| Plan {
        op: Op::Write,
        span: Span::first(scale.write_bytes),
        ..plan
    };
    let flushed = Plan {
        flush_every: 32,
        ..write(random)
    };
    let [few, many] = scale.sessions;
    let four = Plan { depth: 4, ..random };
    let of = |n: usize| format!("4 KiB random read, {n} sessions, depth 4");
    let read_32 = Row::new("read-4k-32", "4 KiB random read, depth 32", random);
    let read_1 = Plan { depth: 1, ..random };
    let (seq_256, seq_64) = (sequential(256 << 10), sequential(64 << 10));
    let mut groups: Vec<Group> = vec![
        vec![Row::new("read-4k-1", "4 KiB random read, depth 1", read_1)],
        vec![
            read_32,
            Row::new("sessions-few", &of(few), four).sessions(few),
            Row::new("sessions-many", &of(many), four).sessions(many),
        ],
        vec![Row::new(
            "read-256k-8",
            "256 KiB sequential read, depth 8",
            seq_256,
        )],
        vec![Row::new(
            "read-64k-8",
            "64 KiB sequential read, depth 8",
            seq_64,
        )],
        vec![Row::new(
            "write-4k-32",
            "4 KiB random write, depth 32",
            write(random),
        )],
        vec![Row::new(
            "flush-4k-32",
            "the same, a flush after every 32",
            flushed,
        )],
        vec![Row::new(
            "write-256k-8",
            "256 KiB sequential write, depth 8",
            write(seq_256),
        )],
        vec![login(1), login(8)],
    ];
    groups.extend(ours_against_ours(scale, random));
    groups
}

/// What only we, or only we and tgt, are asked.
fn ours_against_ours(scale: &Scale, random: Plan) -> [Group; 3] {
    let both = [(Target::Ours, Which::Ours), (Target::Tgt, Which::Tgt)];
    let one = [(Target::Ours, Which::One)];
    let read = |name: &str, words: &str, plan: Plan| {
        Row::new(name, &format!("4 KiB random read, depth 32, {words}"), plan)
    };
    let stretched = Plan {
        span: scale.big_span(),
        ..random
    };
    let many = format!("{} nodes defined", scale.nodes_many);
    let mib = scale.golden_bytes >> 20;
    let small = format!("golden image of {mib} MiB");
    let large = format!("golden image of {} MiB", mib * scale.big_factor);
    [
        vec![
            read("digests-off", "no digests", random).on(&both),
            read("digests-on", "header and data digests", random)
                .on(&both)
                .digests(),
        ],
        vec![
            read("nodes-one", "1 node defined", random).on(&one),
            read("nodes-many", &many, random).on(&[(Target::Ours, Which::Many)]),
        ],
        vec![
            // Each is a server of its own, and what the others did before must not count.
            read("golden-usual", &small, random).on(&one).warm(),
            read("golden-large", &large, stretched)
                .on(&[(Target::Ours, Which::Big)])
                .warm(),
        ],
    ]
}

fn login(at_once: usize) -> Row {
    let words = if at_once == 1 {
        "one at a time".into()
    } else {
        format!("{at_once} at a time")
    };
    Row {
        name: format!("login-{at_once}"),
        title: format!("login and logout, {words}"),
        act: Act::Logins { at_once },
        lanes: USUAL
            .into_iter()
            .filter(|(target, _)| *target != Target::Bare)
            .collect(),
        warm_up: 0,
    }
}

/// The groups that are wanted, with the targets that are wanted.
#[must_use]
pub fn wanted(options: &Options) -> Vec<Group> {
    let mut groups = all(&options.scale);
    for group in &mut groups {
        // What belongs together is measured together.
        if !group.iter().any(|row| options.wants(&row.name)) {
            group.clear();
        }
        for row in group {
            row.lanes
                .retain(|(target, _)| options.targets.contains(target));
        }
    }
    groups.retain(|group| group.iter().any(|row| !row.lanes.is_empty()));
    groups
}

/// Processes that take part in a group, each once.
#[must_use]
pub fn processes(group: &Group) -> Vec<Which> {
    let mut all: Vec<Which> = group
        .iter()
        .flat_map(|row| row.lanes.iter().map(|lane| lane.1))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

const _: () = assert!(TARGETS.len() == USUAL.len());
