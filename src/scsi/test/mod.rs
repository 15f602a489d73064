//! Whole commands: bytes in, bytes out, against a disk in memory that does what the block operations say.

mod any_cdb;
mod atomic;
mod attentions;
mod blocks;
mod copies;
mod durable;
mod identity;
mod modes;
mod probes;
mod provisioning;
mod removal;
mod reports;
mod reservations;
mod sanitizing;

use crate::units::{BLOCK_BYTES, ByteRange};

use super::*;

const A: NexusId = NexusId(1);
const B: NexusId = NexusId(2);
const C: NexusId = NexusId(3);

/// 2,048 blocks.
const SIZE: u64 = 1 << 20;
const BLOCKS: u64 = SIZE / 512;

fn config() -> LuConfig {
    let mut naa = [0x5A; 16];
    naa[0] = 0x62;
    LuConfig {
        size_bytes: SIZE,
        serial: "0123456789abcdef0123".into(),
        naa,
        target_name: "iqn.2026-11.internal.reveille:node001".into(),
        write_back: true,
        traits: Traits::default(),
        lun: 0,
        luns: vec![0],
    }
}

/// A logical unit with a disk behind it and three initiators before it.
struct Bench {
    lu: LogicalUnit,
    disk: Vec<u8>,
    mapped: Vec<bool>,
    /// What the volume says of its space.
    provision: Provision,
    /// All block operations so far.
    ops: Vec<BlockOp>,
    /// What of the reservations is on stable storage, how often it was written, and how the next writing ends.
    stored: Option<Registrations>,
    saves: u32,
    saving: Saving,
}

impl Bench {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: LuConfig) -> Self {
        // A large disk is only asked about, never read: no memory stands behind it.
        let size = usize::try_from(config.size_bytes.min(SIZE)).unwrap();
        let mut lu = LogicalUnit::new(config);
        for (nexus, name) in [(A, "a"), (B, "b"), (C, "c")] {
            lu.attach(nexus, &port(name));
        }
        Self {
            lu,
            disk: vec![0; size],
            mapped: vec![false; size.div_ceil(4096)],
            provision: Provision {
                used_bytes: 0,
                available_bytes: SIZE,
                shared: false,
            },
            ops: Vec::new(),
            stored: None,
            saves: 0,
            saving: Saving::Done,
        }
    }

    /// Runs a command to its end, as the iSCSI room would, with `out` as the initiator's whole data-out.
    fn run(&mut self, nexus: NexusId, cdb: &[u8], out: &[u8]) -> Reply {
        let mut step = self.lu.begin(nexus, cdb);
        let mut data: &[u8] = &[];
        if let Step::Data { len, exact } = step {
            let len = usize::try_from(len).unwrap();
            if exact && len != out.len() {
                return self.lu.wrong_data_size(cdb);
            }
            data = &out[..len.min(out.len())];
            step = self.lu.data_out(nexus, cdb, data);
        }
        match step {
            Step::Reply(reply) => reply,
            Step::Data { .. } => panic!("data-out is asked for once"),
            Step::Save(kept) => self.save(kept),
            Step::Run(op) => {
                let (outcome, bytes) = self.execute(&op, data);
                self.ops.push(op);
                let mut reply = self.lu.done(nexus, cdb, outcome);
                reply.data.extend(bytes);
                reply
            }
        }
    }

    fn save(&mut self, kept: Option<Box<Registrations>>) -> Reply {
        self.saves += 1;
        if self.saving == Saving::Done {
            self.stored = kept.map(|kept| *kept);
        }
        self.lu.saved(self.saving)
    }

    /// The target starts anew: what is not stored is gone, and A, B and C log in again.
    fn restart(&mut self) {
        self.lu = LogicalUnit::new(self.lu.config.clone());
        if let Some(kept) = self.stored.clone() {
            self.lu.restore(kept);
        }
        for (nexus, name) in [(A, "a"), (B, "b"), (C, "c")] {
            self.lu.attach(nexus, &port(name));
        }
    }

    /// The data-in of a command that ends well.
    fn good(&mut self, cdb: &[u8]) -> Vec<u8> {
        self.good_out(cdb, &[])
    }

    fn good_out(&mut self, cdb: &[u8], out: &[u8]) -> Vec<u8> {
        let reply = self.run(A, cdb, out);
        assert_eq!(
            reply.status,
            status::GOOD,
            "{cdb:02x?} {:02x?}",
            reply.sense
        );
        reply.data
    }

    /// The sense code of a command that ends in CHECK CONDITION.
    fn bad(&mut self, cdb: &[u8]) -> (u8, u8, u8) {
        self.bad_out(cdb, &[])
    }

    fn bad_out(&mut self, cdb: &[u8], out: &[u8]) -> (u8, u8, u8) {
        code(&self.run(A, cdb, out))
    }

    /// True when the command of `nexus` ends in RESERVATION CONFLICT, false when it is GOOD.
    fn conflicts(&mut self, nexus: NexusId, cdb: &[u8], out: &[u8]) -> bool {
        match self.run(nexus, cdb, out) {
            Reply {
                status: status::GOOD,
                ..
            } => false,
            Reply {
                status: status::RESERVATION_CONFLICT,
                ..
            } => true,
            other => panic!("{cdb:02x?}: {other:02x?}"),
        }
    }

    fn last_op(&self) -> &BlockOp {
        self.ops.last().unwrap()
    }

    fn execute(&mut self, op: &BlockOp, data: &[u8]) -> (Outcome, Vec<u8>) {
        match op {
            BlockOp::Read(range) => {
                let bytes = self.disk[span(*range)].to_vec();
                return (Outcome::Data { len: range.len() }, bytes);
            }
            BlockOp::Flush => {}
            BlockOp::SanitizeForgotten => {}
            BlockOp::Sanitize { wipe, .. } => {
                self.wipe(wipe);
                self.lu.sanitize_ended(true);
            }
            BlockOp::Copy {
                moves,
                list,
                segments,
                ..
            } => {
                for one in moves {
                    self.disk.copy_within(span(one.from), span(one.to).start);
                    self.map(one.to, true);
                }
                let (list, segments) = (*list, *segments);
                let failure = None;
                return (
                    Outcome::Copied {
                        list,
                        segments,
                        failure,
                    },
                    Vec::new(),
                );
            }
            BlockOp::Write { range, .. }
            | BlockOp::WriteAtomic { range, .. }
            | BlockOp::WriteCompare { range } => {
                self.disk[span(*range)].copy_from_slice(&data[..span(*range).len()]);
                self.map(*range, true);
            }
            BlockOp::Unmap { ranges, .. } => {
                for range in ranges {
                    self.disk[span(*range)].fill(0);
                    self.map(*range, false);
                }
            }
            BlockOp::WriteSame { range, pattern, .. } => {
                let sector = pattern.as_deref().unwrap_or(&[0; 512]);
                for chunk in self.disk[span(*range)].chunks_mut(512) {
                    chunk.copy_from_slice(sector);
                }
                self.map(*range, pattern.is_some());
            }
            BlockOp::Compare { range, one_block } => {
                let times = if *one_block { range.len() / 512 } else { 1 };
                let wanted = data.repeat(usize::try_from(times).unwrap());
                return (self.compare(*range, &wanted), Vec::new());
            }
            BlockOp::CompareAndWrite { range, .. } => {
                let (old, new) = data.split_at(span(*range).len());
                match self.compare(*range, old) {
                    Outcome::Done => self.disk[span(*range)].copy_from_slice(new),
                    differs => return (differs, Vec::new()),
                }
                self.map(*range, true);
            }
            BlockOp::OrWrite { range, .. } => {
                for (byte, bits) in self.disk[span(*range)].iter_mut().zip(data) {
                    *byte |= bits;
                }
                self.map(*range, true);
            }
            BlockOp::Extents { range, count_max } => {
                return (self.extents(*range, *count_max), Vec::new());
            }
            BlockOp::Provision => return (Outcome::Provision(self.provision), Vec::new()),
        }
        (Outcome::Done, Vec::new())
    }

    fn wipe(&mut self, wipe: &Wipe) {
        match wipe {
            Wipe::Erase => {
                self.disk.fill(0);
                self.mapped.fill(false);
            }
            Wipe::Overwrite { pattern, .. } => {
                for chunk in self.disk.chunks_mut(512) {
                    chunk.copy_from_slice(&pattern[..]);
                }
                self.mapped.fill(true);
            }
        }
    }

    fn compare(&self, range: ByteRange, wanted: &[u8]) -> Outcome {
        let held = &self.disk[span(range)];
        assert_eq!(held.len(), wanted.len());
        match held.iter().zip(wanted).position(|(a, b)| a != b) {
            Some(at) => Outcome::Differs { offset: at as u64 },
            None => Outcome::Done,
        }
    }

    fn map(&mut self, range: ByteRange, mapped: bool) {
        for block in range.blocks() {
            self.mapped[usize::try_from(block).unwrap()] = mapped;
        }
    }

    /// One extent per 4 KiB block, so that the joining is put to work.
    fn extents(&self, range: ByteRange, count_max: u32) -> Outcome {
        let extent = |block: u64| {
            let whole = ByteRange::new(block * BLOCK_BYTES, BLOCK_BYTES).unwrap();
            Extent {
                range: whole.overlap(range).unwrap(),
                mapped: self.mapped[usize::try_from(block).unwrap()],
            }
        };
        let count = usize::try_from(count_max).unwrap();
        Outcome::Extents(range.blocks().map(extent).take(count).collect())
    }
}

fn span(range: ByteRange) -> std::ops::Range<usize> {
    usize::try_from(range.offset()).unwrap()..usize::try_from(range.end()).unwrap()
}

fn port(name: &str) -> String {
    format!("iqn.2026-11.test:{name},i,0x00023d000001")
}

/// Key, code, qualifier out of the sense bytes, in either format.
fn code(reply: &Reply) -> (u8, u8, u8) {
    assert_eq!(reply.status, status::CHECK_CONDITION, "{reply:02x?}");
    assert!(reply.data.is_empty());
    match *reply.sense.expect("sense with CHECK CONDITION").as_slice() {
        [0x72, key, asc, ascq, ..] => (key, asc, ascq),
        [
            0x70 | 0xF0,
            _,
            key,
            _,
            _,
            _,
            _,
            10,
            _,
            _,
            _,
            _,
            asc,
            ascq,
            ..,
        ] => (key, asc, ascq),
        ref other => panic!("no sense format: {other:02x?}"),
    }
}

const ILLEGAL_FIELD: (u8, u8, u8) = (5, 0x24, 0);
const OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
const LIST_LENGTH: (u8, u8, u8) = (5, 0x1A, 0);
const LIST_FIELD: (u8, u8, u8) = (5, 0x26, 0);

const TEST_READY: [u8; 6] = [0; 6];

/// A disk with one trait.
fn with_traits(traits: Traits) -> Bench {
    Bench::with(LuConfig { traits, ..config() })
}

/// A 10-byte CDB of the form opcode, flags, LBA, length.
fn cdb10(opcode: u8, flags: u8, lba: u32, len: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = len.to_be_bytes();
    [opcode, flags, a, b, c, d, 0, e, f, 0]
}

fn cdb12(opcode: u8, flags: u8, lba: u32, len: u32) -> [u8; 12] {
    let mut cdb = [0; 12];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[6..10].copy_from_slice(&len.to_be_bytes());
    cdb
}

fn cdb16(opcode: u8, flags: u8, lba: u64, len: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&len.to_be_bytes());
    cdb
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from(at * 7 % 251).unwrap())
        .collect()
}
