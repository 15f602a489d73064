//! The recording initiator: several nodes with several sessions each, many commands under way, and a head that
//! is killed in the middle of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use reveille::iscsi::frame::Encoder;
use reveille::iscsi::initiator::engine::{Command, Completion, Done, Transfer};
use reveille::iscsi::initiator::offer::Offer;
use reveille::iscsi::initiator::{ErrorKind, Initiator};
use reveille::iscsi::pdu::op;
use reveille::store::disk_crash::Random;
use tokio::time::timeout;

use super::common::{PATIENCE, TestHead};
use super::model::{Disk, Promise, SECTOR};
use super::orders::{Order, Shape, blocks, draw, flush, write_of};

const PREFIX: &str = "iqn.2026-11.internal.reveille";
const GOOD: u8 = 0;
const SHAPE: Shape = Shape {
    longest: 2048,
    hot: (3, 1024),
};

/// A node and what its disk must hold.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) mode: &'static str,
    disk: RefCell<Disk>,
    running: RefCell<Vec<Order>>,
}

/// What was done over all rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) rounds: u64,
    /// Answered changes of any kind.
    pub(crate) writes: u64,
    /// Of these, with FUA or verified.
    pub(crate) forced: u64,
    pub(crate) flushes: u64,
    pub(crate) reads: u64,
    /// Changes that were sent and not answered when the head died.
    pub(crate) open: u64,
    pub(crate) kills: u64,
    /// Of these, in the middle of a start.
    pub(crate) kills_in_start: u64,
    pub(crate) resets: u64,
    pub(crate) sectors_checked: u64,
}

/// When the head dies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    /// After so many commands were handed to the sockets, whatever was answered.
    Sent(u64),
    /// After so many answers.
    Answered(u64),
    /// After so many answers, with a WRITE sent up to a part of its bytes (in thousandths).
    InsidePdu(u64, u64),
    /// After so many microseconds.
    Time(u64),
}

impl Moment {
    pub(crate) fn draw(random: &mut Random) -> Self {
        match random.below(4) {
            0 => Self::Sent(1 + random.below(160)),
            1 => Self::Answered(1 + random.below(120)),
            2 => Self::InsidePdu(1 + random.below(80), random.below(1000)),
            _ => Self::Time(random.below(60_000)),
        }
    }
}

/// One round's head, while it lives.
struct Run<'a> {
    head: RefCell<&'a mut TestHead>,
    dead: Cell<bool>,
    moment: Moment,
    sent: Cell<u64>,
    answered: Cell<u64>,
    tally: RefCell<&'a mut Tally>,
    faults: RefCell<Vec<String>>,
}

impl Run<'_> {
    fn kill(&self) {
        if !self.dead.replace(true) {
            self.head.borrow_mut().kill();
        }
    }

    fn note_sent(&self) {
        self.sent.set(self.sent.get() + 1);
        if matches!(self.moment, Moment::Sent(n) if self.sent.get() >= n) {
            self.kill();
        }
    }

    fn note_answered(&self) {
        self.answered.set(self.answered.get() + 1);
        if matches!(self.moment, Moment::Answered(n) if self.answered.get() >= n) {
            self.kill();
        }
    }

    /// How much of a PDU the session that asks shall send before it ends everything.
    fn part_of_pdu(&self) -> Option<u64> {
        match self.moment {
            Moment::InsidePdu(n, part) if self.answered.get() >= n && !self.dead.get() => {
                Some(part)
            }
            _ => None,
        }
    }
}

pub(crate) fn node(
    name: &'static str,
    mode: &'static str,
    number: u16,
    golden: &Arc<Vec<u8>>,
) -> Node {
    Node {
        name,
        mode,
        disk: RefCell::new(Disk::new(number, Arc::clone(golden))),
        running: RefCell::default(),
    }
}

fn offer(node: &str, isid: [u8; 6]) -> Offer {
    Offer {
        isid,
        ..Offer::new(
            &format!("{PREFIX}:{node}.initiator"),
            &format!("{PREFIX}:{node}"),
        )
    }
}

/// Logs in, and takes the unit attentions that a new nexus is told.
async fn log_in(head: &TestHead, node: &str, isid: [u8; 6]) -> Result<Initiator, String> {
    let portal = head.portal.expect("the head runs");
    let login = timeout(PATIENCE, Initiator::connect(portal, offer(node, isid)));
    let login = login
        .await
        .map_err(|_| format!("{node}: the login hangs"))?;
    let mut session = login.map_err(|e| format!("{node}: no login: {e}"))?;
    for _ in 0..8 {
        let ready = session.read(0, &[0; 6], 0).await;
        let ready = ready.map_err(|e| format!("{node}: {e}"))?;
        if ready.status == GOOD {
            return Ok(session);
        }
    }
    Err(format!("{node}: the unit attentions do not end"))
}

const fn system(port: u8) -> [u8; 6] {
    [0x00, 0x02, 0x3d, 0, 0, port]
}

/// A firmware's session, the one that takes a fresh disk after a reset.
const FIRMWARE: [u8; 6] = [0x40, 0x00, 0x27, 0x23, 0, 1];

fn command(order: &Order) -> Command {
    let transfer = match (order.out.is_empty(), order.data_in) {
        (false, _) => Transfer::Out(order.out.clone().into()),
        (true, 0) => Transfer::None,
        (true, len) => Transfer::In(len, Some(Vec::new())),
    };
    Command::new(0, &order.cdb, transfer).token(order.number.into())
}

/// Sends one more command and notes it; what was sent, with its moment.
fn submit(
    run: &Run<'_>,
    node: &Node,
    session: &mut Initiator,
    random: &mut Random,
) -> (Order, u64) {
    let order = draw(&node.disk.borrow(), SHAPE, random, &node.running.borrow());
    let mut disk = node.disk.borrow_mut();
    assert_eq!(disk.number(), order.number);
    let sent = disk.sent(order.number, order.effect.as_ref());
    drop(disk);
    session.submit(command(&order)).unwrap();
    node.running.borrow_mut().push(order.clone());
    run.note_sent();
    (order, sent)
}

/// Keeps `depth` commands under way until the head is dead.
async fn work(run: &Run<'_>, node: &Node, mut session: Initiator, seed: u64, depth: usize) {
    let mut random = Random(seed);
    let mut open: HashMap<u64, (Order, u64)> = HashMap::new();
    loop {
        if let Some(part) = run.part_of_pdu() {
            return cut_inside(run, node, session, part, random).await;
        }
        while !run.dead.get() && open.len() < depth && session.engine().window() > 0 {
            let (order, sent) = submit(run, node, &mut session, &mut random);
            open.insert(order.number.into(), (order, sent));
        }
        if open.is_empty() {
            return;
        }
        let said = timeout(PATIENCE, session.complete()).await;
        match said.unwrap_or_else(|_| panic!("{}: a command hangs", node.name)) {
            Ok(Completion::Command(done)) => {
                let (order, sent) = open.remove(&done.token).expect("it was sent");
                answered(run, node, &order, sent, &done);
                run.note_answered();
            }
            Ok(other) => panic!("{}: {other:?}", node.name),
            Err(error) => {
                let gone = matches!(error.kind(), ErrorKind::Closed | ErrorKind::Io);
                assert!(run.dead.get() && gone, "{}: {error}", node.name);
                let changes = open.values().filter(|(order, _)| order.effect.is_some());
                run.tally.borrow_mut().open += changes.count() as u64;
                return;
            }
        }
    }
}

fn answered(run: &Run<'_>, node: &Node, order: &Order, sent: u64, done: &Done) {
    node.running
        .borrow_mut()
        .retain(|other| other.number != order.number);
    let mut disk = node.disk.borrow_mut();
    let mut tally = run.tally.borrow_mut();
    let miscompared = done.status == 2 && done.sense.get(2).is_some_and(|key| key & 15 == 0x0e);
    let right = if order.miscompares {
        miscompared
    } else {
        done.status == GOOD
    };
    if !right {
        let why = format!("{}: {order:?} ended with {done:?}", node.name);
        run.faults.borrow_mut().push(why);
    }
    disk.ended(order.number, order.effect.as_ref(), right, order.forced);
    if order.flushes && right {
        disk.flushed(sent);
        tally.flushes += 1;
    }
    if order.effect.is_some() {
        tally.writes += 1;
        tally.forced += u64::from(order.forced);
    }
    if order.data_in > 0 && right {
        tally.reads += 1;
        let first = order.alone[0].start;
        let faults = disk.check(first, &done.data, Promise::Answered);
        let live = faults
            .into_iter()
            .map(|fault| format!("read while it lived: {fault}"));
        run.faults.borrow_mut().extend(live);
    }
}

/// Sends the beginning of a WRITE and kills. Not one sector of it may ever be seen: its data never came whole.
async fn cut_inside(
    run: &Run<'_>,
    node: &Node,
    mut session: Initiator,
    part: u64,
    mut random: Random,
) {
    let number = node.disk.borrow_mut().number();
    let range: Range<u64> = match random.below(1000) {
        first if first % 2 == 0 => first..first + 16,
        first => first..first + 3,
    };
    let data = node.disk.borrow().stamped(number, &range);
    let mut bhs = session.engine().request(op::SCSI_COMMAND, false);
    bhs.put_u8(1, 0xa1);
    bhs.put_u32(16, 0x7fff_0000);
    bhs.put_u32(20, u32::try_from(data.len()).unwrap());
    bhs.0[32..42].copy_from_slice(&blocks(0x2a, 0x08, &range));
    let mut bytes = Vec::new();
    Encoder::full_feature(&session.login().agreed).pdu(bhs, &[], &data, &mut bytes);
    let some = usize::try_from(part * bytes.len() as u64 / 1000)
        .unwrap()
        .max(1);
    let mut wire = session.into_wire();
    wire.put(&bytes[..some]);
    let sent = timeout(PATIENCE, wire.flush()).await;
    sent.expect("sending hangs").unwrap();
    run.kill();
}

/// One round: load, kill, perhaps kills in the midst of starts, a start, and everything read back.
/// What was found wrong.
pub(crate) fn round(
    head: &mut TestHead,
    nodes: &[Node],
    seed: u64,
    tally: &mut Tally,
) -> Vec<String> {
    let mut random = Random(seed);
    tally.rounds += 1;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut faults = runtime.block_on(async {
        if random.below(8) == 0 {
            reset_one(head, nodes, tally, &mut random).await;
        }
        load(head, nodes, &mut random, tally).await
    });
    restart(head, &mut random, tally);
    let whole = tally.rounds.is_multiple_of(10);
    faults.extend(runtime.block_on(read_back(head, nodes, whole, tally)));
    faults
}

async fn load(
    head: &mut TestHead,
    nodes: &[Node],
    random: &mut Random,
    tally: &mut Tally,
) -> Vec<String> {
    let mut sessions = Vec::new();
    for node in nodes {
        for port in 1..=2 {
            match log_in(head, node.name, system(port)).await {
                Ok(session) => sessions.push((node, session)),
                Err(why) => return vec![why],
            }
        }
    }
    let run = Run {
        head: RefCell::new(head),
        dead: Cell::new(false),
        moment: Moment::draw(random),
        sent: Cell::new(0),
        answered: Cell::new(0),
        tally: RefCell::new(tally),
        faults: RefCell::default(),
    };
    let works = sessions.into_iter().map(|(node, session)| {
        let (seed, depth) = (random.number(), 1 + random.below(12));
        work(&run, node, session, seed, usize::try_from(depth).unwrap())
    });
    let works = join_all(works.collect::<Vec<_>>());
    let clock = async {
        if let Moment::Time(us) = run.moment {
            // The moment itself is what is drawn; nothing is waited for.
            tokio::time::sleep(Duration::from_micros(us)).await;
            run.kill();
        }
    };
    tokio::join!(works, clock);
    assert!(run.dead.get(), "the moment {:?} never came", run.moment);
    let faults = run.faults.take();
    for node in nodes {
        node.running.borrow_mut().clear();
    }
    tally.kills += 1;
    faults
}

/// Starts the head; one time in four it is killed before it is ready, perhaps several times in a row.
fn restart(head: &mut TestHead, random: &mut Random, tally: &mut Tally) {
    while random.below(4) == 0 {
        head.begin();
        // Returns early when it is ready: then this was a kill of an idle head.
        let ready = head
            .said(Duration::from_micros(random.below(120_000)))
            .is_some();
        head.kill();
        tally.kills += 1;
        tally.kills_in_start += u64::from(!ready);
    }
    head.serve();
}

/// Gives a node a fresh disk over the image: another generation of its layer.
async fn reset_one(head: &TestHead, nodes: &[Node], tally: &mut Tally, random: &mut Random) {
    let node = &nodes[usize::try_from(random.below(nodes.len() as u64)).unwrap()];
    head.good(&["layer", "reset", node.name, "--force"]);
    let firmware = log_in(head, node.name, FIRMWARE).await.unwrap();
    firmware.logout().await.unwrap();
    node.disk.borrow_mut().reset();
    tally.resets += 1;
}

/// Reads what was touched, and the neighbours; with `whole` everything.
async fn read_back(head: &TestHead, nodes: &[Node], whole: bool, tally: &mut Tally) -> Vec<String> {
    let all = nodes.iter().map(|node| read_node(head, node, whole));
    let mut faults = Vec::new();
    for (checked, wrong) in join_all(all).await {
        tally.sectors_checked += checked;
        faults.extend(wrong);
    }
    faults
}

async fn read_node(head: &TestHead, node: &Node, whole: bool) -> (u64, Vec<String>) {
    let mut session = match log_in(head, node.name, system(1)).await {
        Ok(session) => session,
        Err(why) => return (0, vec![why]),
    };
    let mut wanted = wanted(&node.disk.borrow(), whole);
    let (mut checked, mut faults, mut under_way) = (0, Vec::new(), 0);
    loop {
        while under_way < 8
            && let Some(range) = wanted.pop()
        {
            let len = u32::try_from((range.end - range.start) * 512).unwrap();
            let cdb = blocks(0x88, 0, &range);
            let transfer = Transfer::In(len, Some(Vec::new()));
            session
                .submit(Command::new(0, &cdb, transfer).token(range.start))
                .unwrap();
            under_way += 1;
        }
        if under_way == 0 {
            break;
        }
        let said = timeout(PATIENCE, session.complete())
            .await
            .expect("a read hangs");
        match said {
            Ok(Completion::Command(done)) if done.status == GOOD => {
                let mut disk = node.disk.borrow_mut();
                faults.extend(disk.check(done.token, &done.data, Promise::Answered));
                disk.settle(done.token, &done.data);
                checked += (done.data.len() / SECTOR) as u64;
                under_way -= 1;
            }
            other => {
                faults.push(format!("{}: reading back: {other:?}", node.name));
                return (checked, faults);
            }
        }
    }
    node.disk.borrow_mut().begin_round();
    // What is read back is not flushed by that: some rounds begin with a flush of it all.
    if checked.is_multiple_of(2) {
        let order = flush(0, &mut Random(checked));
        let done = session.execute(command(&order)).await;
        if !matches!(&done, Ok(done) if done.status == GOOD) {
            faults.push(format!("{}: flush after the start: {done:?}", node.name));
        }
    }
    (checked, faults)
}

/// The ranges to read, merged, in pieces of at most 1 MiB.
fn wanted(disk: &Disk, whole: bool) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = if whole {
        std::iter::once(0..disk.len()).collect()
    } else {
        let near = |r: &Range<u64>| r.start.saturating_sub(8)..(r.end + 8).min(disk.len());
        disk.touched().iter().map(near).collect()
    };
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    let pieces = |range: Range<u64>| {
        let starts = (range.start..range.end).step_by(2048);
        starts.map(move |start| start..(start + 2048).min(range.end))
    };
    merged.into_iter().flat_map(pieces).collect()
}

/// Writes one large stamped range to every node, answered and not flushed; for tests of the tests.
pub(crate) fn fill(nodes: &[Node], head: &TestHead) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut faults = Vec::new();
        for node in nodes {
            let mut session = log_in(head, node.name, system(1)).await.unwrap();
            let order = {
                let mut disk = node.disk.borrow_mut();
                let len = disk.len();
                let order = write_of(&mut disk, len - 1024..len);
                disk.sent(order.number, order.effect.as_ref());
                order
            };
            let done = session.execute(command(&order)).await.unwrap();
            if done.status != GOOD {
                faults.push(format!("{}: {done:?}", node.name));
            }
            let mut disk = node.disk.borrow_mut();
            disk.ended(order.number, order.effect.as_ref(), true, false);
        }
        faults
    })
}

/// Reads back what was touched.
pub(crate) fn read_all(nodes: &[Node], head: &TestHead) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(read_back(head, nodes, false, &mut Tally::default()))
}
