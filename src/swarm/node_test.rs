//! Whole nodes against a model of a target, on a virtual clock.

use std::collections::BTreeMap;

use super::data::{Author, append};
use super::error::Error;
use super::firmware::{BootPath, Wish};
use super::golden::Golden;
use super::node::{Action, Identity, Node, Verify, World};
use super::plan::{Pace, Plan};
use super::synth::{Shape, synthetic};
use super::tally::{Stage, Tally};
use crate::iscsi::frame::{Decoder, Encoder, Headed};
use crate::iscsi::pdu::{Bhs, RESERVED_TAG, op};
use crate::names::Mac;
use crate::trace::{Op, OpKind, Session, Trace};

const DISK: usize = 4 << 20;
const PLAIN: Encoder = Encoder {
    header_digest: false,
    data_digest: false,
};

fn golden_byte(at: usize) -> u8 {
    u8::try_from((at / 512 * 31 + at) % 251).unwrap()
}

/// What the model does to commands, by their number in the whole run.
type Faults = BTreeMap<u32, Fault>;

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// This status, with this sense key and code.
    Status(u8, u8, u8),
    /// The connection breaks before the answer.
    Break,
    /// Nothing is said.
    Silence,
    /// The command is not done, but said to be.
    Lie,
}

/// A disk behind one connection at a time.
#[derive(Debug)]
struct Target {
    disk: Vec<u8>,
    inbox: Vec<u8>,
    stat_sn: u32,
    cmd_sn: u32,
    logged_in: bool,
    /// Writes that wait for more data: tag, offset, bytes so far, wanted.
    writes: BTreeMap<u32, (u64, Vec<u8>, usize)>,
    commands: u32,
    faults: Faults,
    logins: Vec<[u8; 6]>,
    refuse: Option<u16>,
    broken: bool,
}

impl Target {
    fn new() -> Self {
        Self {
            disk: (0..DISK).map(golden_byte).collect(),
            inbox: Vec::new(),
            stat_sn: 1,
            cmd_sn: 1,
            logged_in: false,
            writes: BTreeMap::new(),
            commands: 0,
            faults: Faults::new(),
            logins: Vec::new(),
            refuse: None,
            broken: false,
        }
    }

    fn connect(&mut self) {
        self.inbox.clear();
        self.writes.clear();
        self.logged_in = false;
        self.broken = false;
    }

    fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.inbox.extend_from_slice(bytes);
        let mut out = Vec::new();
        let decoder = Decoder {
            data_max: 1 << 20,
            first_byte: None,
            ..Decoder::login()
        };
        while let Ok(Headed::Ready(head)) = decoder.head(&self.inbox) {
            if self.inbox.len() < head.total() || self.broken {
                break;
            }
            let pdu: Vec<u8> = self.inbox.drain(..head.total()).collect();
            self.pdu(&head.bhs, &pdu[head.data()], &mut out);
        }
        out
    }

    fn reply(&mut self, mut bhs: Bhs, tag: u32, data: &[u8], out: &mut Vec<u8>) {
        bhs.put_u32(16, tag);
        bhs.put_sequence(self.stat_sn, self.cmd_sn, self.cmd_sn + 31);
        PLAIN.pdu(bhs, &[], data, out);
    }

    fn pdu(&mut self, bhs: &Bhs, data: &[u8], out: &mut Vec<u8>) {
        match bhs.opcode() {
            op::LOGIN => self.login(bhs, out),
            op::SCSI_COMMAND => self.command(bhs, data, out),
            op::DATA_OUT => self.data_out(bhs, data, out),
            op::LOGOUT => {
                let mut answer = Bhs::new(op::LOGOUT_RESPONSE);
                answer.put_u8(1, 0x80);
                self.reply(answer, bhs.itt(), &[], out);
            }
            other => panic!("opcode {other:#x}"),
        }
    }

    fn login(&mut self, bhs: &Bhs, out: &mut Vec<u8>) {
        let mut answer = Bhs::new(op::LOGIN_RESPONSE);
        let flags = bhs.flags();
        answer.0[8..14].copy_from_slice(&bhs.0[8..14]);
        self.cmd_sn = bhs.cmd_sn();
        let first = !self.logged_in;
        let mut text = "";
        if let Some(status) = self.refuse {
            answer.put_u16(36, status);
        } else {
            answer.put_u8(1, flags);
            if flags & 0x83 == 0x83 {
                answer.put_u16(14, 7);
                self.logins.push(*bhs.0[8..14].first_chunk().unwrap());
            }
            if first {
                text = "TargetPortalGroupTag=1\0";
                self.logged_in = true;
            }
        }
        let text = if flags & 0x0c == 0 && first && self.refuse.is_none() {
            format!("{text}AuthMethod=None\0")
        } else {
            text.to_owned()
        };
        self.reply(answer, bhs.itt(), text.as_bytes(), out);
        self.stat_sn += 1;
    }

    fn status(&mut self, tag: u32, status: u8, sense: &[u8], out: &mut Vec<u8>) {
        let mut answer = Bhs::new(op::SCSI_RESPONSE);
        answer.put_u8(1, 0x80);
        answer.put_u8(3, status);
        self.reply(answer, tag, sense, out);
        self.stat_sn += 1;
    }

    fn command(&mut self, bhs: &Bhs, data: &[u8], out: &mut Vec<u8>) {
        self.commands += 1;
        self.cmd_sn += 1;
        let (tag, len) = (bhs.itt(), bhs.u32_at(20) as usize);
        let cdb = &bhs.0[32..48];
        let mut lie = false;
        match self.faults.get(&self.commands) {
            Some(Fault::Status(status, key, asc)) => {
                let mut sense = vec![0; 20];
                (sense[1], sense[2], sense[4], sense[14]) = (18, 0x70, *key, *asc);
                let sense = if *status == 2 { sense } else { Vec::new() };
                return self.status(tag, *status, &sense, out);
            }
            Some(Fault::Break) => {
                self.broken = true;
                return;
            }
            Some(Fault::Silence) => return,
            Some(Fault::Lie) => lie = true,
            None => {}
        }
        let lba10 = u64::from(u32::from_be_bytes(*cdb[2..6].first_chunk().unwrap())) * 512;
        match cdb[0] {
            0x28 => {
                let at = usize::try_from(lba10).unwrap();
                let bytes = self.disk[at..at + len].to_vec();
                self.data_in(tag, &bytes, out);
            }
            0x2a => {
                if lie {
                    return self.status(tag, 0, &[], out);
                }
                self.writes.insert(tag, (lba10, data.to_vec(), len));
                self.more(tag, out);
            }
            0x12 => self.data_in(tag, &[0; 36], out),
            0x9e => {
                let mut bytes = [0; 32];
                bytes[..8].copy_from_slice(&(self.disk.len() as u64 / 512 - 1).to_be_bytes());
                bytes[10] = 2;
                bytes[14] = 0xc0;
                self.data_in(tag, &bytes, out);
            }
            0x00 | 0x35 => self.status(tag, 0, &[], out),
            other => panic!("command {other:#x}"),
        }
    }

    fn data_in(&mut self, tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
        for (sn, piece) in (0u32..).zip(bytes.chunks(8192)) {
            let mut bhs = Bhs::new(op::DATA_IN);
            let at = sn * 8192;
            let last = at as usize + piece.len() == bytes.len();
            bhs.put_u8(1, if last { 0x81 } else { 0 });
            bhs.put_u32(36, sn);
            bhs.put_u32(40, at);
            self.reply(bhs, tag, piece, out);
        }
        self.stat_sn += 1;
    }

    fn data_out(&mut self, bhs: &Bhs, data: &[u8], out: &mut Vec<u8>) {
        let write = self.writes.get_mut(&bhs.itt()).unwrap();
        assert_eq!(bhs.u32_at(40) as usize, write.1.len());
        write.1.extend_from_slice(data);
        if bhs.flags() & 0x80 != 0 {
            self.more(bhs.itt(), out);
        }
    }

    fn more(&mut self, tag: u32, out: &mut Vec<u8>) {
        let (at, bytes, wanted) = &self.writes[&tag];
        if bytes.len() == *wanted {
            let at = usize::try_from(*at).unwrap();
            self.disk[at..at + wanted].copy_from_slice(bytes);
            self.writes.remove(&tag);
            return self.status(tag, 0, &[], out);
        }
        let (have, left) = (bytes.len(), wanted - bytes.len());
        let mut r2t = Bhs::new(op::R2T);
        r2t.put_u8(1, 0x80);
        r2t.put_u32(20, 99);
        r2t.put_u32(40, u32::try_from(have).unwrap());
        r2t.put_u32(44, u32::try_from(left.min(16_384)).unwrap());
        assert_ne!(tag, RESERVED_TAG);
        self.reply(r2t, tag, &[], out);
    }
}

fn identity(name: &str) -> Identity {
    Identity {
        name: name.into(),
        portal: "127.0.0.1:3260".parse().unwrap(),
        target: format!("iqn.2026-11.test:{name}"),
        initiator: format!("iqn.2026-11.test:{name}.i"),
        chap: None,
        mutual: None,
        mac: None,
        source: None,
    }
}

fn world(trace: &Trace, think: bool) -> World {
    let pace = Pace {
        think,
        speed_mille: 1000,
    };
    let plan = Plan::new(trace, pace).unwrap();
    let read = |offset: u64, out: &mut [u8]| {
        for (at, byte) in (usize::try_from(offset).unwrap()..).zip(out) {
            *byte = golden_byte(at);
        }
        Ok::<_, Error>(())
    };
    let golden = Golden::load(&plan.read_ranges(), read).unwrap();
    let nodes = ["a", "b", "c"].map(identity).to_vec();
    World::new(plan, Some(golden), nodes).unwrap()
}

fn boot() -> Trace {
    synthetic(&Shape {
        disk_bytes: DISK as u64,
        firmware_reads: 20,
        os_reads: 64,
        read_bytes: 1 << 20,
        writes: 12,
        write_bytes: 400_000,
        flushes: 3,
        think_us: 2_000_000,
        seed: 3,
    })
}

/// A run of one node, to its end.
struct Play {
    node: Node,
    tally: Tally,
    target: Target,
    now: u64,
    reachable: bool,
    /// The script that boot services hand out.
    script: String,
    /// What was asked of them.
    asked: Vec<String>,
    /// The connection to the disk breaks when the ready call comes, and the call is answered after the next login.
    breaks_at_ready: bool,
    ready_waits: Option<usize>,
}

impl Play {
    fn new(world: &World) -> Self {
        Self {
            node: Node::new(1, world, 0),
            tally: Tally::default(),
            target: Target::new(),
            now: 0,
            reachable: true,
            script: String::new(),
            asked: Vec::new(),
            breaks_at_ready: false,
            ready_waits: None,
        }
    }

    /// Boot services, whose answers come at once.
    fn aside(&mut self, world: &World, out: &mut Vec<u8>) {
        match self.node.wish(self.now) {
            Some(Wish::Tcp(to)) => {
                assert_eq!(to.port(), 8068);
                self.node.errand_opened(self.now);
                self.node.errand_connected();
            }
            Some(Wish::Udp(to)) => panic!("no TFTP at {to}"),
            Some(Wish::Close) | None => {}
        }
        let mut answer = None;
        while let Some((_, bytes)) = self.node.errand_out() {
            let request = String::from_utf8(bytes).unwrap();
            let path = request.split(' ').nth(1).unwrap().to_owned();
            answer = Some(if path.starts_with("/ready") {
                "ok".to_owned()
            } else {
                self.script.clone()
            });
            self.asked.push(path);
        }
        if answer.is_some() && std::mem::take(&mut self.breaks_at_ready) {
            if self
                .asked
                .last()
                .is_some_and(|path| path.starts_with("/ready"))
            {
                self.ready_waits = Some(self.target.logins.len());
                return self.node.lost("it broke", &mut self.tally, self.now);
            }
            self.breaks_at_ready = true;
        }
        let again = self
            .ready_waits
            .filter(|logins| *logins < self.target.logins.len());
        let answer = answer.or_else(|| again.map(|_| "ok".to_owned()));
        if let Some(body) = answer {
            self.ready_waits = None;
            let len = body.len();
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{body}");
            let heard = (None, text.as_bytes());
            self.node
                .errand_hears(heard, world, &mut self.tally, self.now, out);
        }
    }

    /// Bytes reach the node in pieces of `cut`.
    fn run(&mut self, world: &World, cut: usize) {
        let mut out = Vec::new();
        for _ in 0..1_000_000 {
            if self.node.is_over() {
                return;
            }
            self.now += 1;
            match self.node.action(self.now) {
                Action::Connect(_) if !self.reachable => {
                    self.node.lost("nobody listens", &mut self.tally, self.now);
                }
                Action::Connect(_) => {
                    self.target.connect();
                    out.clear();
                    self.node
                        .connected(world, &mut self.tally, self.now, &mut out);
                }
                Action::Close => out.clear(),
                Action::Nothing => {
                    self.aside(world, &mut out);
                    self.node.drive(world, &mut self.tally, self.now, &mut out);
                }
            }
            if out.is_empty() {
                // Nothing to do now: on to the next moment.
                self.now = self.node.due().unwrap_or(self.now + 250_000).max(self.now);
                self.node.sweep(world, &mut self.tally, self.now);
                continue;
            }
            let said = self.target.hear(&out);
            out.clear();
            for piece in said.chunks(cut) {
                self.node
                    .hear(piece, world, &mut self.tally, self.now, &mut out);
            }
            if self.target.broken {
                out.clear();
                self.node.lost("it broke", &mut self.tally, self.now);
            }
        }
        panic!("no end: {:?}", self.node);
    }

    fn reason(&self) -> &str {
        self.node.report().reason.as_deref().unwrap_or_default()
    }
}

fn play(world: &World, faults: impl IntoIterator<Item = (u32, Fault)>) -> Play {
    let mut play = Play::new(world);
    play.target.faults = faults.into_iter().collect();
    play.run(world, 1000);
    play
}

#[test]
fn a_node_boots_reads_back_and_leaves_whatever_the_cuts() {
    let trace = boot();
    for cut in [7, 48, 8240, 1 << 20] {
        let world = world(&trace, false);
        let mut play = Play::new(&world);
        play.run(&world, cut);
        let report = play.node.report();
        assert!(report.done, "{report:?}");
        let counts = &play.tally.counts;
        assert_eq!(
            counts.bad_sectors + counts.errors + counts.retries,
            0,
            "{counts:?}"
        );
        assert_eq!(counts.read_bytes, counts.verified_bytes);
        assert!(counts.written_bytes > 300_000);
        let sum = trace.summary();
        assert_eq!(counts.written_bytes, sum.write_bytes);
        assert!(counts.read_bytes >= sum.read_bytes + sum.write_bytes_distinct);
        // Firmware first, then the system.
        assert_eq!(play.target.logins.len(), 2);
        assert_eq!(play.target.logins[0][..4], [0x40, 0, 0x27, 0x23]);
        assert_eq!(play.target.logins[1][..3], [0, 2, 0x3d]);
        assert_eq!(play.tally.times(Stage::Boot).percentiles().count, 1);
        assert_eq!(play.tally.times(Stage::Write).percentiles().count, 12);
    }
}

/// A world whose nodes fetch a script, and the script.
fn netboot_world(trace: &Trace) -> (World, String) {
    let mut world = world(trace, false);
    let mac = Mac::parse("52:54:00:77:00:02").unwrap();
    let nodes = world.nodes().iter().cloned().map(|node| Identity {
        mac: Some(mac),
        target: "to be told by the script".into(),
        ..node
    });
    world.set_nodes(nodes.collect());
    world.boot = BootPath {
        http: Some("127.0.0.1:8068".parse().unwrap()),
        ..BootPath::default()
    };
    let script = "#!ipxe\nset initiator-iqn iqn.2026-11.test:b.i\nsanboot iscsi:127.0.0.1::3260:0:iqn.2026-11.test:b\n";
    (world, script.to_owned())
}

#[test]
fn a_node_that_boots_from_the_network_says_that_it_is_up_before_it_reads_back() {
    let trace = boot();
    let (world, script) = netboot_world(&trace);
    let mut play = Play::new(&world);
    play.script = script;
    play.run(&world, 1000);
    assert!(play.node.report().done, "{:?}", play.node.report());
    let wanted = [
        "/boot?mac=52:54:00:77:00:02&arch=bios",
        "/ready?mac=52:54:00:77:00:02",
    ];
    assert_eq!(play.asked, wanted);
    assert_eq!(play.target.logins.len(), 2);
    let count = |stage| play.tally.times(stage).percentiles().count;
    let stages = [Stage::Script, Stage::Boot, Stage::Ready, Stage::Verify].map(count);
    assert_eq!(stages, [1, 1, 1, 1]);
}

#[test]
fn a_connection_that_breaks_during_the_ready_call_costs_neither_the_call_nor_the_reading_back() {
    let trace = boot();
    for verify in [Verify::All, Verify::Reads] {
        let (mut world, script) = netboot_world(&trace);
        world.verify = verify;
        let mut play = Play::new(&world);
        (play.script, play.breaks_at_ready) = (script, true);
        play.run(&world, 1000);
        let report = play.node.report();
        assert!(report.done && report.reconnects == 1, "{report:?}");
        assert_eq!((play.asked.len(), play.target.logins.len()), (2, 3));
        let count = |stage| play.tally.times(stage).percentiles().count;
        let back = u64::from(verify == Verify::All);
        let stages = [Stage::Boot, Stage::Ready, Stage::Verify].map(count);
        assert_eq!(stages, [1, 1, back]);
    }
}

#[test]
fn a_node_without_a_script_never_logs_in() {
    let trace = boot();
    let (world, _) = netboot_world(&trace);
    let mut play = Play::new(&world);
    play.script =
        "#!ipxe\necho Reveille: n1 has no image\nsleep 5\nchain http://127.0.0.1:8068/boot\n"
            .into();
    play.run(&world, 1000);
    assert_eq!(play.target.logins.len(), 0);
    assert_eq!(
        play.reason(),
        "SCRIPT: the head's script starts no disk: n1 has no image"
    );
}

#[test]
fn think_time_is_kept() {
    let trace = boot();
    let last = trace.ops.iter().map(Op::end_us).max().unwrap();
    let busy = trace.summary().busy_us;
    let with = play(&world(&trace, true), []);
    let boot = with.node.report().boot_us.unwrap();
    let recorded = last - trace.sessions[0].login_at_us;
    // The model answers at once, so what is left is think time.
    assert!(
        boot + busy + 100_000 >= recorded,
        "{boot} us, {recorded} recorded, {busy} busy"
    );
    assert!(boot <= recorded + 100_000, "{boot} us, {recorded} recorded");
    let without = play(&world(&trace, false), []);
    assert!(without.node.report().boot_us.unwrap() < recorded / 10);
}

#[test]
fn another_nodes_bytes_a_lost_write_and_a_flipped_bit_are_told_apart() {
    let trace = boot();
    let world = world(&trace, false);
    let write = trace
        .ops
        .iter()
        .position(|op| op.kind == OpKind::Write)
        .unwrap();
    let author = Author {
        seed: world.seed,
        node: 2,
        generation: u32::try_from(write).unwrap(),
    };
    // What another node wrote shines through where this one reads the image.
    let read = trace.ops[0];
    let mut foreign = Play::new(&world);
    let at = usize::try_from(read.offset).unwrap();
    let mut bytes = Vec::new();
    append(author, read.offset, 512, &mut bytes);
    foreign.target.disk[at..at + 512].copy_from_slice(&bytes);
    foreign.run(&world, 999);
    let mismatch = &foreign.tally.mismatches[0];
    assert_eq!((mismatch.offset, &*mismatch.node), (read.offset, "b"));
    assert_eq!(mismatch.expected, "the golden image");
    assert_eq!(mismatch.found, format!("write {write} of node c"));
    assert!(!foreign.node.report().done);
    let mut flipped = Play::new(&world);
    flipped.target.disk[at + 3] ^= 1;
    flipped.run(&world, 999);
    assert_eq!(flipped.tally.mismatches[0].found, "bytes that nobody wrote");
    // A write that the target forgot is found when it is read back.
    let commands = (1..200).find_map(|n| {
        let lied = play(&world, [(n, Fault::Lie)]);
        (lied.tally.counts.bad_sectors > 0).then_some(lied)
    });
    let lied = commands.unwrap();
    assert!(
        lied.tally.mismatches[0]
            .expected
            .starts_with("its own write")
    );
}

#[test]
fn what_passes_is_sent_again_and_what_stays_is_an_error() {
    let world = world(&boot(), false);
    let faults = [
        (1, Fault::Status(2, 6, 0x29)),
        (8, Fault::Status(8, 0, 0)),
        (20, Fault::Status(0x28, 0, 0)),
        (40, Fault::Status(2, 11, 0)),
    ];
    let passing = play(&world, faults);
    assert!(passing.node.report().done, "{}", passing.reason());
    assert_eq!(passing.tally.counts.retries, 4);
    let staying = play(&world, [(30, Fault::Status(2, 3, 0x11))]);
    assert!(!staying.node.report().done);
    assert!(
        staying
            .reason()
            .contains("CHECK CONDITION, medium error, 11/00"),
        "{}",
        staying.reason()
    );
    assert_eq!(staying.tally.counts.errors, 1);
    assert!(staying.node.report().boot_us.is_some(), "it goes on");
    let always = play(&world, (10..400).map(|n| (n, Fault::Status(2, 6, 0x29))));
    assert!(
        always.reason().contains("unit attention"),
        "{}",
        always.reason()
    );
}

#[test]
fn a_disk_that_is_not_ready_yet_is_asked_again_soon() {
    let world = world(&boot(), false);
    let late = play(&world, (1..5).map(|n| (n, Fault::Status(2, 2, 4))));
    let report = late.node.report();
    assert!(report.done, "{report:?}");
    assert_eq!((late.tally.counts.retries, report.reconnects), (4, 0));
}

#[test]
fn a_lost_connection_is_made_again_and_nothing_is_lost() {
    let world = world(&boot(), false);
    for n in [3, 4, 10, 50, 80, 100] {
        let broken = play(&world, [(n, Fault::Break)]);
        let report = broken.node.report();
        assert!(report.done, "{n}: {report:?}");
        assert_eq!(report.reconnects, 1);
        assert_eq!(report.first_loss.as_deref(), Some("it broke"));
        assert_eq!(broken.tally.counts.bad_sectors, 0);
    }
}

#[test]
fn a_target_that_stays_away_is_given_up_with_the_reason() {
    let world = world(&boot(), false);
    let mut away = Play::new(&world);
    away.reachable = false;
    away.run(&world, 1000);
    assert!(
        away.reason()
            .starts_with("nobody listens; 64 further connections"),
        "{}",
        away.reason()
    );
    // About a minute.
    assert!(
        (40_000_000..120_000_000).contains(&away.now),
        "{}",
        away.now
    );
}

#[test]
fn silence_ends_after_the_time_that_was_set() {
    let world = world(&boot(), false);
    let silent = play(&world, [(12, Fault::Silence)]);
    let report = silent.node.report();
    assert!(report.done, "{report:?}");
    let loss = report.first_loss.clone().unwrap();
    assert!(loss.contains("was not answered within 60 s"), "{loss}");
}

#[test]
fn a_refused_login_is_final_unless_the_target_may_recover() {
    let world = world(&boot(), false);
    let mut refused = Play::new(&world);
    refused.target.refuse = Some(0x0201);
    refused.run(&world, 1000);
    assert!(refused.reason().contains("0x0201"), "{}", refused.reason());
    assert_eq!(refused.tally.counts.reconnects, 0);
    let mut later = Play::new(&world);
    later.target.refuse = Some(0x0301);
    later.run(&world, 1000);
    assert!(later.reason().contains("0x0301") && later.tally.counts.reconnects == 64);
}

#[test]
fn a_read_only_node_changes_nothing() {
    let trace = boot();
    let mut world = world(&trace, false);
    world.read_only = true;
    let quiet = play(&world, []);
    assert!(quiet.node.report().done, "{}", quiet.reason());
    let counts = &quiet.tally.counts;
    assert_eq!((counts.written_bytes, counts.skipped), (0, 15));
    assert!(
        quiet
            .target
            .disk
            .iter()
            .enumerate()
            .all(|(at, b)| *b == golden_byte(at))
    );
    world.read_only = false;
    world.verify = Verify::None;
    let blind = play(&world, []);
    assert_eq!(blind.tally.counts.verified_bytes, 0);
    assert_eq!(
        blind.tally.counts.unverified_bytes,
        blind.tally.counts.read_bytes
    );
}

#[test]
fn a_disk_that_is_too_small_is_told_before_anything_is_read() {
    let world = world(&boot(), false);
    let mut small = Play::new(&world);
    small.target.disk.truncate(1 << 20);
    small.run(&world, 1000);
    assert!(
        small.reason().contains("but the disk has 1048576"),
        "{}",
        small.reason()
    );
    assert_eq!(small.tally.counts.read_bytes, 0);
}

#[test]
fn a_session_without_operations_only_logs_in() {
    let session = Session {
        initiator: "os".into(),
        login_at_us: 0,
        logout_at_us: None,
    };
    let trace = Trace {
        disk_bytes: DISK as u64,
        sessions: vec![session],
        ..Trace::default()
    };
    let mut empty = world(&trace, false);
    assert!(play(&empty, []).node.report().done);
    let pace = Pace {
        think: false,
        speed_mille: 1000,
    };
    let mut plan = Plan::new(&boot(), pace).unwrap();
    plan.wake_first();
    empty = World::new(plan, None, vec![identity("a"), identity("b")]).unwrap();
    let woken = play(&empty, []);
    assert!(woken.node.report().done, "{}", woken.reason());
    assert_eq!(woken.target.logins.len(), 3);
}
