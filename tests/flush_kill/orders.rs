//! Random commands that change a disk, each as its CDB, its data-out, and what it does to the model.

use std::ops::Range;

use reveille::store::disk_crash::Random;

use super::model::{Disk, Effect, Kind, SECTOR};

/// One command.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) number: u32,
    pub(crate) cdb: Vec<u8>,
    pub(crate) out: Vec<u8>,
    /// Bytes of data-in.
    pub(crate) data_in: u32,
    /// What it changes when it succeeds, and may change when it does not.
    pub(crate) effect: Option<Effect>,
    /// Read, or compared: no other change may run beside it.
    pub(crate) alone: Vec<Range<u64>>,
    /// On the medium before GOOD, by its own words.
    pub(crate) forced: bool,
    /// GOOD makes all that was answered before stable.
    pub(crate) flushes: bool,
    /// COMPARE AND WRITE over something else than the disk holds.
    pub(crate) miscompares: bool,
}

impl Order {
    fn new(number: u32, cdb: Vec<u8>) -> Self {
        Self {
            number,
            cdb,
            out: Vec::new(),
            data_in: 0,
            effect: None,
            alone: Vec::new(),
            forced: false,
            flushes: false,
            miscompares: false,
        }
    }

    fn changes(mut self, kind: Kind, ranges: Vec<Range<u64>>) -> Self {
        self.effect = Some(Effect { kind, ranges });
        self
    }

    /// Sectors it touches.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &Range<u64>> {
        let changed = self.effect.iter().flat_map(|effect| &effect.ranges);
        changed.chain(&self.alone)
    }

    /// True when the two must not run at the same time, or the outcome could not be told.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        let meets = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        let one_way = |a: &Self, b: &Self| {
            a.alone
                .iter()
                .any(|mine| b.ranges().any(|theirs| meets(mine, theirs)))
        };
        one_way(self, other) || one_way(other, self)
    }
}

/// Where commands go and how long they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Most sectors of one command.
    pub(crate) longest: u64,
    /// A part of the disk that gets half of all commands, so that they meet.
    pub(crate) hot: (u64, u64),
}

/// A command for the disk as the model knows it; one that collides with none of `running`.
pub(crate) fn draw(disk: &Disk, shape: Shape, random: &mut Random, running: &[Order]) -> Order {
    for _ in 0..6 {
        let order = any(disk, shape, random);
        if let Some(order) = order.filter(|order| !running.iter().any(|r| r.collides(order))) {
            return order;
        }
    }
    flush(disk.next_number(), random)
}

fn any(disk: &Disk, shape: Shape, random: &mut Random) -> Option<Order> {
    let number = disk.next_number();
    let range = place(disk, shape, random);
    Some(match random.below(100) {
        0..45 => write(disk, number, &range, false, random),
        45..56 => write(disk, number, &range, true, random),
        56..61 => write_and_verify(disk, number, &range, random),
        61..67 => write_same(disk, number, range, random),
        67..77 => unmap(disk, number, shape, range, random),
        77..82 => compare_and_write(disk, number, &range, random)?,
        82..86 => or_write(disk, number, &range, random)?,
        86..95 => flush(number, random),
        _ => read(number, &range, random),
    })
}

fn place(disk: &Disk, shape: Shape, random: &mut Random) -> Range<u64> {
    let most = match random.below(20) {
        0..8 => 7,
        8..15 => 64,
        15..19 => 512,
        _ => 2048,
    };
    let mut count = 1 + random.below(most.min(shape.longest));
    let (from, len) = match random.below(2) {
        0 => shape.hot,
        _ => (0, disk.len()),
    };
    count = count.min(len);
    let mut first = from + random.below(len - count + 1);
    if random.below(4) == 0 {
        // Whole blocks of 4 KiB.
        first -= first % 8;
        count = (count.div_ceil(8) * 8).min(disk.len() - first);
    }
    first..first + count
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
}

fn with_u32(cdb: &mut [u8], at: usize, value: u64) {
    cdb[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_be_bytes());
}

/// A CDB of 10, 12 or 16 bytes by its group.
pub(crate) fn blocks(opcode: u8, flags: u8, range: &Range<u64>) -> Vec<u8> {
    match opcode >> 5 {
        1 | 2 => {
            let mut cdb = vec![0; 10];
            with_u32(&mut cdb, 2, range.start);
            cdb[7..9].copy_from_slice(&u16::try_from(len(range)).unwrap().to_be_bytes());
            (cdb[0], cdb[1]) = (opcode, flags);
            cdb
        }
        5 => {
            let mut cdb = vec![0; 12];
            with_u32(&mut cdb, 2, range.start);
            with_u32(&mut cdb, 6, len(range));
            (cdb[0], cdb[1]) = (opcode, flags);
            cdb
        }
        _ => {
            let mut cdb = vec![0; 16];
            cdb[2..10].copy_from_slice(&range.start.to_be_bytes());
            with_u32(&mut cdb, 10, len(range));
            (cdb[0], cdb[1]) = (opcode, flags);
            cdb
        }
    }
}

/// WRITE(6) or READ(6).
fn six(opcode: u8, range: &Range<u64>) -> Option<Vec<u8>> {
    let count = match len(range) {
        256 => 0,
        count => u8::try_from(count).ok()?,
    };
    let [_, high, mid, low] = u32::try_from(range.start).ok()?.to_be_bytes();
    (high < 0x20).then(|| vec![opcode, high, mid, low, count, 0])
}

fn pick(random: &mut Random, of: &[u8]) -> u8 {
    of[usize::try_from(random.below(of.len() as u64)).unwrap()]
}

fn write(disk: &Disk, number: u32, range: &Range<u64>, fua: bool, random: &mut Random) -> Order {
    let short = six(0x0a, range).filter(|_| !fua && random.below(4) == 0);
    let flags = if fua { 0x08 } else { 0 };
    let cdb = short.unwrap_or_else(|| blocks(pick(random, &[0x2a, 0xaa, 0x8a]), flags, range));
    let mut order = Order::new(number, cdb).changes(Kind::Stamp, vec![range.clone()]);
    order.out = disk.stamped(number, range);
    order.forced = fua;
    order
}

fn write_and_verify(disk: &Disk, number: u32, range: &Range<u64>, random: &mut Random) -> Order {
    let checks = pick(random, &[0x00, 0x02]);
    let cdb = blocks(pick(random, &[0x2e, 0xae, 0x8e]), checks, range);
    let mut order = Order::new(number, cdb).changes(Kind::Stamp, vec![range.clone()]);
    order.out = disk.stamped(number, range);
    order.forced = true;
    if checks != 0 {
        // It reads back what it wrote: a write beside it could make it differ.
        order.alone = vec![range.clone()];
    }
    order
}

fn write_same(disk: &Disk, number: u32, range: Range<u64>, random: &mut Random) -> Order {
    let opcode = pick(random, &[0x41, 0x93]);
    let unmap = pick(random, &[0, 0x08]);
    if opcode == 0x93 && random.below(4) == 0 {
        return Order::new(number, blocks(opcode, unmap | 0x01, &range))
            .changes(Kind::Zero, vec![range]);
    }
    let zeros = random.below(3) == 0;
    let kind = if zeros { Kind::Zero } else { Kind::Same };
    let mut order = Order::new(number, blocks(opcode, unmap, &range)).changes(kind, vec![range]);
    order.out = if zeros {
        vec![0; SECTOR]
    } else {
        disk.same(number).to_vec()
    };
    order
}

fn unmap(disk: &Disk, number: u32, shape: Shape, range: Range<u64>, random: &mut Random) -> Order {
    let mut ranges = vec![range];
    for _ in 0..random.below(3) {
        ranges.push(place(disk, shape, random));
    }
    let bytes = u16::try_from(ranges.len() * 16).unwrap();
    let mut out = vec![0; 8];
    out[..2].copy_from_slice(&(bytes + 6).to_be_bytes());
    out[2..4].copy_from_slice(&bytes.to_be_bytes());
    for range in &ranges {
        out.extend_from_slice(&range.start.to_be_bytes());
        out.extend_from_slice(&u32::try_from(len(range)).unwrap().to_be_bytes());
        out.extend_from_slice(&[0; 4]);
    }
    let [high, low] = (bytes + 8).to_be_bytes();
    let mut order = Order::new(number, vec![0x42, 0, 0, 0, 0, 0, 0, high, low, 0]);
    order.out = out;
    order.changes(Kind::Zero, ranges)
}

/// A few sectors of the range whose content is known.
fn known(disk: &Disk, range: &Range<u64>) -> Option<Range<u64>> {
    let range = range.start..range.end.min(range.start + 16);
    let known = |lba| disk.known(lba).is_some_and(|content| content.or.is_none());
    range.clone().all(known).then_some(range)
}

fn compare_and_write(
    disk: &Disk,
    number: u32,
    range: &Range<u64>,
    random: &mut Random,
) -> Option<Order> {
    let range = known(disk, range)?;
    let flags = pick(random, &[0, 0x08]);
    let mut cdb = vec![0; 16];
    (cdb[0], cdb[1]) = (0x89, flags);
    cdb[2..10].copy_from_slice(&range.start.to_be_bytes());
    cdb[13] = u8::try_from(len(&range)).unwrap();
    let mut order = Order::new(number, cdb);
    for lba in range.clone() {
        order
            .out
            .extend_from_slice(&disk.bytes(disk.known(lba)?, lba));
    }
    order.miscompares = random.below(3) == 0;
    if order.miscompares {
        let last = order.out.last_mut()?;
        *last ^= 1;
    }
    order.out.extend_from_slice(&disk.stamped(number, &range));
    order.forced = flags != 0;
    order.alone = vec![range.clone()];
    Some(if order.miscompares {
        order
    } else {
        order.changes(Kind::Stamp, vec![range])
    })
}

fn or_write(disk: &Disk, number: u32, range: &Range<u64>, random: &mut Random) -> Option<Order> {
    let range = known(disk, range)?;
    let flags = pick(random, &[0, 0x08]);
    let mut order = Order::new(number, blocks(0x8b, flags, &range));
    order.out = disk.stamped(number, &range);
    order.forced = flags != 0;
    order.alone = vec![range.clone()];
    Some(order.changes(Kind::Or, vec![range]))
}

/// SYNCHRONIZE CACHE of all or of a part (which flushes all), or a stop.
pub(crate) fn flush(number: u32, random: &mut Random) -> Order {
    let cdb = match random.below(7) {
        0..3 => blocks(0x35, 0, &(0..0)),
        3..6 => blocks(0x91, 0, &(0..0)),
        _ => vec![0x1b, 0, 0, 0, 0, 0],
    };
    let mut order = Order::new(number, cdb);
    order.flushes = true;
    order
}

pub(crate) fn read(number: u32, range: &Range<u64>, random: &mut Random) -> Order {
    let short = six(0x08, range).filter(|_| random.below(4) == 0);
    let cdb = short.unwrap_or_else(|| blocks(pick(random, &[0x28, 0xa8, 0x88]), 0, range));
    let mut order = Order::new(number, cdb);
    order.data_in = u32::try_from(len(range)).unwrap() * 512;
    order.alone = vec![range.clone()];
    order
}

/// A plain WRITE(10) of this range.
pub(crate) fn write_of(disk: &mut Disk, range: Range<u64>) -> Order {
    let number = disk.number();
    let mut order = Order::new(number, blocks(0x2a, 0, &range));
    order.out = disk.stamped(number, &range);
    order.changes(Kind::Stamp, vec![range])
}
