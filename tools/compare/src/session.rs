//! The load's side of one session: headers built once and only patched, answers looked at and not kept. It is as
//! strict as costs nothing: tags, offsets, lengths, residuals and status are checked, data only with `keep`.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use reveille::iscsi::frame::Encoder;
use reveille::iscsi::params::Negotiated;
use reveille::iscsi::pdu::{BHS_BYTES, Bhs, RESERVED_TAG, op};

use crate::content::pattern_at;
use crate::login::Open;
use crate::wire::Wire;

/// Data-In of transfers from this size on is dropped in the kernel: a copy would load our core, not the server's.
const DISCARD_FROM: u32 = 64 << 10;
/// Commands that the bare server takes beyond those answered.
const BARE_WINDOW: u32 = 128;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// READ(10).
    Read,
    /// WRITE(10) of the pattern.
    Write,
    /// SYNCHRONIZE CACHE(10) of all.
    Flush,
}

/// A command under way, or one that has just ended.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// What it does.
    pub op: Op,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// When it was queued.
    pub at: Instant,
    got: u32,
    busy: bool,
}

/// A data segment that is still coming.
#[derive(Clone, Copy, Debug)]
struct Segment {
    slot: u16,
    /// Where it begins within the transfer.
    at: usize,
    len: usize,
    /// Bytes of data, then of padding and digest, that have not come.
    data: usize,
    trailer: usize,
    /// The command ends with it.
    last: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    encoder: Encoder,
    agreed: Negotiated,
    lun: u64,
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
    slots: Vec<Slot>,
    free: Vec<u16>,
    ended: Vec<u16>,
    segment: Option<Segment>,
    keep: Option<(Vec<u8>, usize)>,
    discards: bool,
}

impl Session {
    /// Over an open disk, for so many commands at a time.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(open: Open, lun: u8, depth: usize) -> Result<Self> {
        let slot = Slot {
            op: Op::Read,
            offset: 0,
            len: 0,
            at: Instant::now(),
            got: 0,
            busy: false,
        };
        let bare = || Negotiated {
            immediate_data: true,
            initial_r2t: false,
            first_burst: 1 << 20,
            target_mrdsl: 1 << 20,
            ..Negotiated::default()
        };
        let numbers = open.login.as_ref().map_or((1, BARE_WINDOW, 1), |login| {
            (login.cmd_sn, login.max_cmd_sn, login.exp_stat_sn)
        });
        let agreed = open.login.map_or_else(bare, |login| login.agreed);
        Ok(Self {
            wire: Wire::new(open.stream),
            encoder: Encoder::full_feature(&agreed),
            agreed,
            lun: u64::from(lun) << 48,
            cmd_sn: numbers.0,
            max_cmd_sn: numbers.1,
            exp_stat_sn: numbers.2,
            slots: vec![slot; depth],
            free: (0..u16::try_from(depth)?).collect(),
            ended: Vec::with_capacity(depth),
            segment: None,
            keep: None,
            discards: false,
        })
    }

    /// The socket, for waiting on many.
    pub const fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Keeps the data of transfers up to this length, for [`Session::data`], and checks digests; 0: no longer.
    pub fn keep(&mut self, len: usize) {
        self.keep = (len > 0).then(|| (vec![0; len * self.slots.len()], len));
    }

    /// The data of a command that ended, with `keep`.
    #[must_use]
    pub fn data(&self, slot: u16) -> &[u8] {
        let kept = self.keep.as_ref().and_then(|(bytes, len)| {
            let whole = self.slots.get(usize::from(slot))?;
            let start = usize::from(slot) * len;
            bytes.get(start..start + usize::try_from(whole.len).ok()?)
        });
        kept.unwrap_or_default()
    }

    /// Commands under way.
    #[must_use]
    pub const fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len() - self.ended.len()
    }

    /// True when another command may be sent.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        !self.free.is_empty() && self.max_cmd_sn.wrapping_sub(self.cmd_sn) < 1 << 31
    }

    /// Commands that ended since [`Session::release`].
    #[must_use]
    pub fn ended(&self) -> &[u16] {
        &self.ended
    }

    /// What is known of a command.
    #[must_use]
    pub fn slot(&self, slot: u16) -> Option<&Slot> {
        self.slots.get(usize::from(slot))
    }

    /// Makes room of those that ended.
    pub fn release(&mut self) {
        self.free.append(&mut self.ended);
    }

    /// Queues a command; `flush` sends it. Only when there is room.
    pub fn submit(&mut self, op: Op, offset: u64, len: u32, at: Instant, pattern: &[u8]) {
        let Some(tag) = self.free.pop() else {
            return;
        };
        let slot = Slot {
            op,
            offset,
            len,
            at,
            got: 0,
            busy: true,
        };
        if let Some(place) = self.slots.get_mut(usize::from(tag)) {
            *place = slot;
        }
        self.discards = op == Op::Read && len >= DISCARD_FROM && self.keep.is_none();
        let (flags, opcode) = match op {
            Op::Read => (0xc1, 0x28),
            Op::Write => (0xa1, 0x2a),
            Op::Flush => (0x81, 0x35),
        };
        let mut bhs = Bhs::new(op::SCSI_COMMAND);
        bhs.put_u64(8, self.lun);
        bhs.put_u32(16, u32::from(tag));
        bhs.put_u32(20, len);
        bhs.put_u32(24, self.cmd_sn);
        bhs.put_u32(28, self.exp_stat_sn);
        bhs.put_u8(32, opcode);
        if len > 0 {
            bhs.put_u32(34, u32::try_from(offset / 512).unwrap_or(u32::MAX));
            bhs.put_u16(39, u16::try_from(len / 512).unwrap_or(u16::MAX));
        }
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        let (immediate, unsolicited) = if op == Op::Write {
            self.shares(len)
        } else {
            (0, 0)
        };
        bhs.put_u8(
            1,
            if unsolicited > immediate {
                flags & 0x7f
            } else {
                flags
            },
        );
        bhs.set_data_len(immediate);
        self.wire.put(&self.encoder.header(&bhs));
        self.put_data(offset, immediate, pattern);
        if unsolicited > immediate {
            self.data_out(&slot, tag, RESERVED_TAG, immediate..unsolicited, pattern);
        }
    }

    /// Immediate data of a write, and with it all that goes unasked (RFC 7143 13.10, 13.11, 13.14).
    fn shares(&self, len: u32) -> (u32, u32) {
        let first = self.agreed.first_burst.min(len);
        let immediate = first.min(self.agreed.target_mrdsl);
        let immediate = if self.agreed.immediate_data {
            immediate
        } else {
            0
        };
        let unsolicited = if self.agreed.initial_r2t {
            immediate
        } else {
            first
        };
        (immediate, unsolicited)
    }

    fn put_data(&mut self, offset: u64, len: u32, pattern: &[u8]) {
        let (at, len) = (pattern_at(offset), usize::try_from(len).unwrap_or(0));
        if len == 0 {
            return;
        }
        self.wire.put_pattern(at, len);
        if self.encoder.data_digest || len % 4 != 0 {
            let data = pattern.get(at..at + len).unwrap_or_default();
            self.wire.put(&self.encoder.trailer(len, [data]));
        }
    }

    /// One sequence of Data-Out.
    fn data_out(
        &mut self,
        slot: &Slot,
        tag: u16,
        ttt: u32,
        part: std::ops::Range<u32>,
        pattern: &[u8],
    ) {
        let (mut at, mut data_sn) = (part.start, 0);
        while at < part.end {
            let len = (part.end - at).min(self.agreed.target_mrdsl);
            let mut bhs = Bhs::new(op::DATA_OUT);
            bhs.put_u8(1, if at + len == part.end { 0x80 } else { 0 });
            bhs.put_u64(8, self.lun);
            bhs.put_u32(16, u32::from(tag));
            bhs.put_u32(20, ttt);
            bhs.put_u32(28, self.exp_stat_sn);
            bhs.put_u32(36, data_sn);
            bhs.put_u32(40, at);
            bhs.set_data_len(len);
            self.wire.put(&self.encoder.header(&bhs));
            self.put_data(slot.offset + u64::from(at), len, pattern);
            at += len;
            data_sn += 1;
        }
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// As [`Wire::flush`].
    pub fn flush(&mut self, pattern: &[u8]) -> Result<()> {
        self.wire.flush(pattern)
    }

    /// Receives once and reads what came; what is over by it is in [`Session::ended`].
    ///
    /// # Errors
    /// When the target is silent, closes, breaks the protocol, or fails a command.
    pub fn receive(&mut self, wait: bool, pattern: &[u8]) -> Result<()> {
        if self.discards && self.wire.received().is_empty() {
            match &mut self.segment {
                Some(segment) if segment.data > 0 => {
                    segment.data -= self.wire.discard(wait, segment.data)?;
                }
                // The header alone, so that its data stays in the kernel.
                _ => {
                    self.wire
                        .fill(wait, self.encoder.header(&Bhs::new(0)).len())?;
                }
            }
        } else {
            self.wire.fill(wait, usize::MAX >> 1)?;
        }
        while self.read_on(pattern)? {}
        Ok(())
    }

    /// Reads the rest of a data segment or a header; false when more must come first.
    fn read_on(&mut self, pattern: &[u8]) -> Result<bool> {
        if let Some(segment) = self.segment {
            return self.read_data(segment);
        }
        let header_len = BHS_BYTES + if self.encoder.header_digest { 4 } else { 0 };
        let Some((&bytes, rest)) = self.wire.received().split_first_chunk::<BHS_BYTES>() else {
            return Ok(false);
        };
        if rest.len() < header_len - BHS_BYTES {
            return Ok(false);
        }
        let bhs = Bhs(bytes);
        if self.keep.is_some() {
            let good = self.wire.received().starts_with(&self.encoder.header(&bhs));
            ensure!(good, "the header digest does not match");
        }
        ensure!(
            bhs.ahs_len() == 0,
            "an additional header segment in an answer"
        );
        self.wire.take(header_len);
        self.hear(&bhs, pattern)?;
        Ok(true)
    }

    fn read_data(&mut self, mut segment: Segment) -> Result<bool> {
        let received = self.wire.received();
        if segment.data > 0 {
            let n = segment.data.min(received.len());
            if let Some((kept, len)) = &mut self.keep {
                let to = usize::from(segment.slot) * *len + segment.at + segment.len - segment.data;
                if let Some(to) = kept.get_mut(to..to + n) {
                    to.copy_from_slice(received.get(..n).unwrap_or_default());
                }
            }
            self.wire.take(n);
            segment.data -= n;
            self.segment = Some(segment);
            return Ok(n > 0);
        }
        let Some(trailer) = received.get(..segment.trailer) else {
            return Ok(false);
        };
        if let Some((kept, len)) = &self.keep {
            let at = usize::from(segment.slot) * len + segment.at;
            let data = kept.get(at..at + segment.len).unwrap_or_default();
            let right = self.encoder.trailer(segment.len, [data]);
            ensure!(*right == *trailer, "the data digest does not match");
        }
        self.wire.take(segment.trailer);
        self.segment = None;
        if segment.last {
            self.end(segment.slot)?;
        }
        Ok(true)
    }

    fn hear(&mut self, bhs: &Bhs, pattern: &[u8]) -> Result<()> {
        let max_cmd_sn = bhs.u32_at(32);
        if max_cmd_sn.wrapping_sub(self.max_cmd_sn) < 1 << 31 {
            self.max_cmd_sn = max_cmd_sn;
        }
        match bhs.opcode() {
            op::DATA_IN => self.data_in(bhs),
            op::SCSI_RESPONSE => self.response(bhs),
            op::R2T => self.ready_to_transfer(bhs, pattern),
            op::NOP_IN => {
                self.pong(bhs);
                Ok(())
            }
            other => bail!("the target says opcode {other:#04x} in the middle of the load"),
        }
    }

    fn running(&mut self, bhs: &Bhs) -> Result<(u16, &mut Slot)> {
        let tag = u16::try_from(bhs.itt()).ok();
        let slot = tag.and_then(|tag| Some((tag, self.slots.get_mut(usize::from(tag))?)));
        match slot {
            Some((tag, slot)) if slot.busy => Ok((tag, slot)),
            _ => bail!("an answer to task {:#x}, which is not under way", bhs.itt()),
        }
    }

    fn data_in(&mut self, bhs: &Bhs) -> Result<()> {
        let len = bhs.data_len();
        let last = bhs.flags() & 1 != 0;
        let status_sn = bhs.u32_at(24).wrapping_add(1);
        let (tag, slot) = self.running(bhs)?;
        let at = slot.got;
        ensure!(slot.op == Op::Read, "data for a command that reads none");
        ensure!(bhs.u32_at(40) == at, "data out of order");
        ensure!(
            len > 0 && len <= slot.len - at,
            "{len} bytes of data at {at} of {}",
            slot.len
        );
        slot.got += len;
        if last {
            ensure!(
                bhs.u8_at(3) == 0,
                "a read ends with status {:02x}h",
                bhs.u8_at(3)
            );
            ensure!(bhs.flags() & 6 == 0, "a read ends with a residual");
            self.exp_stat_sn = status_sn;
        }
        let len = usize::try_from(len)?;
        let pad = reveille::iscsi::frame::pad_len(len);
        self.segment = Some(Segment {
            slot: tag,
            at: usize::try_from(at)?,
            len,
            data: len,
            trailer: pad + if self.encoder.data_digest { 4 } else { 0 },
            last,
        });
        Ok(())
    }

    fn response(&mut self, bhs: &Bhs) -> Result<()> {
        let (tag, slot) = self.running(bhs)?;
        let op = slot.op;
        if slot.op == Op::Write {
            slot.got = slot.len;
        }
        let (response, status) = (bhs.u8_at(2), bhs.u8_at(3));
        if response != 0 || status != 0 {
            let sense = self.wire.received();
            let at = |place: usize| sense.get(place).copied().unwrap_or(0);
            let sense = format!("{:x}/{:02x}/{:02x}", at(4) & 0x0f, at(14), at(15));
            bail!("{op:?} ends with response {response}, status {status:02x}h, sense {sense}");
        }
        ensure!(bhs.flags() & 6 == 0, "{op:?} ends with a residual");
        ensure!(bhs.data_len() == 0, "data with the status GOOD");
        self.exp_stat_sn = bhs.u32_at(24).wrapping_add(1);
        self.end(tag)
    }

    fn ready_to_transfer(&mut self, bhs: &Bhs, pattern: &[u8]) -> Result<()> {
        let (tag, slot) = self.running(bhs)?;
        let slot = *slot;
        let (at, len) = (bhs.u32_at(40), bhs.u32_at(44));
        let end = at
            .checked_add(len)
            .filter(|end| *end <= slot.len && len > 0);
        let Some(end) = end.filter(|_| slot.op == Op::Write) else {
            bail!("R2T for {len} bytes at {at} of {}", slot.len);
        };
        self.data_out(&slot, tag, bhs.ttt(), at..end, pattern);
        Ok(())
    }

    /// A ping of the target is answered; an answer to none of ours is passed by.
    fn pong(&mut self, ping: &Bhs) {
        if ping.ttt() == RESERVED_TAG {
            return;
        }
        let mut bhs = Bhs::new(op::NOP_OUT | 0x40);
        bhs.put_u8(1, 0x80);
        bhs.put_u64(8, ping.lun());
        bhs.put_u32(16, RESERVED_TAG);
        bhs.put_u32(20, ping.ttt());
        bhs.put_u32(24, self.cmd_sn);
        bhs.put_u32(28, self.exp_stat_sn);
        self.wire.put(&self.encoder.header(&bhs));
    }

    fn end(&mut self, tag: u16) -> Result<()> {
        let Some(slot) = self.slots.get_mut(usize::from(tag)) else {
            bail!("no such task");
        };
        ensure!(
            slot.got == slot.len,
            "only {} of {} bytes came",
            slot.got,
            slot.len
        );
        slot.busy = false;
        self.ended.push(tag);
        Ok(())
    }
}
