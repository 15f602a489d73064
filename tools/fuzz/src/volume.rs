//! A disk in memory that does what the block operations say, and checks each of them.

use reveille::scsi::{BlockOp, Extent, Move, Outcome, Provision, Wipe};
use reveille::units::ByteRange;

pub(crate) const SECTOR: usize = 512;

pub(crate) struct Volume {
    pub(crate) bytes: Vec<u8>,
    mapped: Vec<bool>,
}

pub(crate) fn span(range: ByteRange) -> std::ops::Range<usize> {
    range.offset() as usize..range.end() as usize
}

impl Volume {
    pub(crate) fn new(sectors: usize) -> Self {
        let bytes = vec![0; sectors * SECTOR];
        Self {
            mapped: vec![false; bytes.len().div_ceil(4096)],
            bytes,
        }
    }

    fn check(&self, range: ByteRange) {
        assert!(!range.is_empty(), "an operation without a block");
        assert!(
            range.fits(self.bytes.len() as u64),
            "outside the disk: {range}"
        );
        assert!(
            range.offset().is_multiple_of(512) && range.len().is_multiple_of(512),
            "no whole sectors: {range}"
        );
    }

    fn map(&mut self, range: ByteRange, mapped: bool) {
        for block in range.blocks() {
            self.mapped[block as usize] = mapped;
        }
    }

    fn put(&mut self, range: ByteRange, data: &[u8]) {
        let here = span(range);
        let len = here.len();
        self.bytes[here].copy_from_slice(&data[..len]);
        self.map(range, true);
    }

    fn provision(&self) -> Outcome {
        let used = self.mapped.iter().filter(|mapped| **mapped).count() as u64;
        let all = self.mapped.len() as u64;
        Outcome::Provision(Provision {
            used_bytes: used * 4096,
            available_bytes: (all - used) * 4096,
            shared: false,
        })
    }

    /// The outcome, and the bytes of a read. Panics when the operation is not one that a volume may be
    /// given: outside the disk, or with less data than it needs.
    pub(crate) fn run(&mut self, op: &BlockOp, data: &[u8]) -> (Outcome, Vec<u8>) {
        match op {
            BlockOp::Read(range) => {
                self.check(*range);
                let bytes = self.bytes[span(*range)].to_vec();
                return (Outcome::Data { len: range.len() }, bytes);
            }
            BlockOp::Flush | BlockOp::SanitizeForgotten => {}
            BlockOp::Write { range, .. }
            | BlockOp::WriteAtomic { range, .. }
            | BlockOp::WriteCompare { range } => {
                self.check(*range);
                self.put(*range, data);
            }
            BlockOp::Unmap { ranges, .. } => {
                for range in ranges {
                    self.check(*range);
                    self.bytes[span(*range)].fill(0);
                    self.map(*range, false);
                }
            }
            BlockOp::WriteSame { range, pattern, .. } => {
                self.check(*range);
                let sector = pattern.as_deref().unwrap_or(&[0; SECTOR]);
                self.fill(*range, sector);
                self.map(*range, pattern.is_some());
            }
            BlockOp::Compare { range, one_block } => {
                self.check(*range);
                let times = if *one_block {
                    range.len() as usize / SECTOR
                } else {
                    1
                };
                return (self.compare(*range, &data.repeat(times)), Vec::new());
            }
            BlockOp::CompareAndWrite { range, .. } => {
                self.check(*range);
                let (old, new) = data.split_at(span(*range).len());
                match self.compare(*range, old) {
                    Outcome::Done => self.put(*range, new),
                    differs => return (differs, Vec::new()),
                }
            }
            BlockOp::OrWrite { range, .. } => {
                self.check(*range);
                assert!(data.len() >= range.len() as usize);
                for (byte, bits) in self.bytes[span(*range)].iter_mut().zip(data) {
                    *byte |= bits;
                }
                self.map(*range, true);
            }
            BlockOp::Copy {
                moves,
                list,
                segments,
                ..
            } => {
                self.copy(moves);
                return (copied(*list, *segments), Vec::new());
            }
            BlockOp::Sanitize { wipe, .. } => self.sanitize(wipe),
            BlockOp::Extents { range, count_max } => {
                self.check(*range);
                return (self.extents(*range, *count_max), Vec::new());
            }
            BlockOp::Provision => return (self.provision(), Vec::new()),
        }
        (Outcome::Done, Vec::new())
    }

    fn fill(&mut self, range: ByteRange, sector: &[u8; SECTOR]) {
        for chunk in self.bytes[span(range)].chunks_mut(SECTOR) {
            chunk.copy_from_slice(sector);
        }
    }

    fn copy(&mut self, moves: &[Move]) {
        for step in moves {
            self.check(step.from);
            self.check(step.to);
            assert_eq!(step.from.len(), step.to.len());
            let source = self.bytes[span(step.from)].to_vec();
            self.put(step.to, &source);
        }
    }

    fn sanitize(&mut self, wipe: &Wipe) {
        match wipe {
            Wipe::Erase => {
                self.bytes.fill(0);
                self.mapped.fill(false);
            }
            Wipe::Overwrite {
                pattern,
                passes,
                invert,
            } => {
                assert!((1..=31).contains(passes), "{passes} passes");
                let flip = if *invert && passes % 2 == 0 { 0xff } else { 0 };
                let sector = pattern.map(|byte| byte ^ flip);
                let whole = ByteRange::new(0, self.bytes.len() as u64).expect("a small disk");
                self.fill(whole, &sector);
                self.mapped.fill(true);
            }
        }
    }

    fn compare(&self, range: ByteRange, wanted: &[u8]) -> Outcome {
        let held = &self.bytes[span(range)];
        assert_eq!(
            held.len(),
            wanted.len(),
            "compared with another number of bytes"
        );
        match held.iter().zip(wanted).position(|(a, b)| a != b) {
            Some(at) => Outcome::Differs { offset: at as u64 },
            None => Outcome::Done,
        }
    }

    fn extents(&self, range: ByteRange, count_max: u32) -> Outcome {
        let extent = |block: u64| {
            let whole = ByteRange::new(block * 4096, 4096).expect("a small disk");
            Extent {
                range: whole.overlap(range).expect("a block of the range"),
                mapped: self.mapped[block as usize],
            }
        };
        let all = range.blocks().map(extent);
        Outcome::Extents(all.take(count_max as usize).collect())
    }
}

fn copied(list: Option<u8>, segments: u16) -> Outcome {
    Outcome::Copied {
        list,
        segments,
        failure: None,
    }
}
