//! One connection of a virtual node: commands to bytes, bytes to what the target says. Pure.
//!
//! Unlike `iscsi/initiator`, which keeps what it reads, this hands on every piece of Data-In in place, out of the
//! buffer in which the thread received it; a header that is cut by the end of that buffer is all that is kept
//! from one call to the next. Nor does it keep what it writes: data is asked for when the target wants it.

use crate::iscsi::frame::{Decoder, Encoder, Headed, pad_len};
use crate::iscsi::initiator::offer::{Client, LoggedIn, Next, Offer};
use crate::iscsi::initiator::{Error, ErrorKind};
use crate::iscsi::params::Negotiated;
use crate::iscsi::pdu::{Bhs, RESERVED_TAG, op};
use crate::iscsi::serial::CmdSn;

/// What a link tells its owner, while it hears.
pub(super) trait Ear {
    /// Data-In of the command `token`: bytes that begin at `at` of its buffer.
    fn data(&mut self, token: u16, at: u32, piece: &[u8]);
    /// The command ended.
    fn done(&mut self, done: &Done);
    /// The target wants the bytes `at..at + len` of what the command writes.
    fn supply(&mut self, token: u16, at: u32, len: u32, out: &mut Vec<u8>);
}

/// How a command ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) token: u16,
    /// iSCSI response; 0: the target executed it.
    pub(super) response: u8,
    /// SCSI status.
    pub(super) status: u8,
    /// Sense key, additional sense code and its qualifier.
    pub(super) sense: Option<(u8, u8, u8)>,
    /// Data-In bytes that came.
    pub(super) received: u32,
}

/// What the link wants of its owner after hearing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Go on.
    Fine,
    /// The login is done.
    LoggedIn,
    /// The login must be made at `host:port`.
    Moved(String),
    /// The logout was answered.
    LoggedOut,
    /// The target asks for a logout, or says that it will drop the connection.
    AskedToLeave,
}

/// Where the data of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    None,
    In,
    Out,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    busy: bool,
    /// The owner's.
    token: u16,
    /// Makes tags of one slot differ from each other.
    turn: u16,
    writes: bool,
    edtl: u32,
    received: u32,
    /// Next DataSN or R2TSN.
    next_sn: u32,
}

/// A Data-In whose payload is on its way.
#[derive(Clone, Copy, Debug)]
struct Body {
    slot: u16,
    at: u32,
    left: u32,
    pad: u8,
    /// Its header says the status: the command ends with it.
    last: Option<Bhs>,
}

#[derive(Debug)]
enum Phase {
    Off,
    Login(Box<Client>),
    On,
}

/// The connection. Its memory: a few hundred bytes and 24 for each command under way.
#[derive(Debug)]
pub(super) struct Link {
    phase: Phase,
    agreed: Negotiated,
    decoder: Decoder,
    cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    exp_stat_sn: u32,
    lun: u64,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// A PDU that is not whole yet.
    carry: Vec<u8>,
    body: Option<Body>,
}

/// No digest: none of the initiators that are played offers one.
const PLAIN: Encoder = Encoder {
    header_digest: false,
    data_digest: false,
};
/// Bytes that a carry may keep when it is idle.
const CARRY_KEPT: usize = 256;

impl Link {
    /// Not connected. `lun` as the LUN field has it.
    pub(super) fn new(lun: u64) -> Self {
        Self {
            phase: Phase::Off,
            agreed: Negotiated::default(),
            decoder: login_rules(),
            cmd_sn: CmdSn(1),
            max_cmd_sn: CmdSn(1),
            exp_stat_sn: 0,
            lun,
            slots: Vec::new(),
            free: Vec::new(),
            carry: Vec::new(),
            body: None,
        }
    }

    /// The connection stands: the first login request.
    pub(super) fn log_in(&mut self, offer: Offer, out: &mut Vec<u8>) {
        self.off();
        let mut client = Client::new(offer);
        let (bhs, data) = client.start();
        PLAIN.pdu(bhs, &[], &data, out);
        self.phase = Phase::Login(Box::new(client));
    }

    /// The connection is gone, and with it every command.
    pub(super) fn off(&mut self) {
        self.phase = Phase::Off;
        self.decoder = login_rules();
        self.carry.clear();
        self.body = None;
        self.slots.clear();
        self.free.clear();
    }

    /// True when the target takes another command.
    pub(super) fn is_open(&self) -> bool {
        let room = self.max_cmd_sn.next().steps_from(self.cmd_sn);
        matches!(self.phase, Phase::On) && room > 0 && room < 1 << 31
    }

    /// Sends a command with the data that may go along at once.
    pub(super) fn command(
        &mut self,
        token: u16,
        cdb: &[u8; 16],
        (way, len): (Way, u32),
        ear: &mut impl Ear,
        out: &mut Vec<u8>,
    ) {
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.slots.push(Slot::default());
                u16::try_from(self.slots.len() - 1).unwrap_or(u16::MAX)
            }
        };
        let Some(slot) = self.slots.get_mut(usize::from(at)) else {
            return;
        };
        *slot = Slot {
            busy: true,
            token,
            turn: slot.turn.wrapping_add(1) & 0x7fff,
            writes: way == Way::Out,
            edtl: len,
            received: 0,
            next_sn: 0,
        };
        let tag = u32::from(slot.turn) << 16 | u32::from(at);
        let (now, soon) = match way {
            Way::Out => self.unasked(len),
            Way::None | Way::In => (0, 0),
        };
        let direction = match way {
            Way::None => 0,
            Way::In => 0x40,
            Way::Out => 0x20,
        };
        let mut bhs = Bhs::new(op::SCSI_COMMAND);
        let last = if soon > now { 0 } else { 0x80 };
        // Simple task attribute.
        bhs.put_u8(1, last | direction | 1);
        bhs.set_data_len(now);
        bhs.put_u64(8, self.lun);
        bhs.put_u32(16, tag);
        bhs.put_u32(20, len);
        self.number(&mut bhs, true);
        bhs.0[32..48].copy_from_slice(cdb);
        out.extend_from_slice(&bhs.0);
        if now > 0 {
            ear.supply(token, 0, now, out);
            pad(now, out);
        }
        if soon > now {
            self.data_out((tag, RESERVED_TAG, token), (now, soon), ear, out);
        }
    }

    /// Bytes of a write that go with the command, and up to where unsolicited ones follow.
    fn unasked(&self, len: u32) -> (u32, u32) {
        let first = self.agreed.first_burst.min(len);
        let now = match self.agreed.immediate_data {
            true => first.min(self.agreed.target_mrdsl),
            false => 0,
        };
        (now, if self.agreed.initial_r2t { now } else { first })
    }

    /// The bytes `from..to` of what a command writes, as one sequence.
    fn data_out(
        &self,
        (tag, ttt, token): (u32, u32, u16),
        (from, to): (u32, u32),
        ear: &mut impl Ear,
        out: &mut Vec<u8>,
    ) {
        let piece = self.agreed.target_mrdsl.max(512);
        let (mut at, mut sn) = (from, 0u32);
        while at < to {
            let len = piece.min(to - at);
            let mut bhs = Bhs::new(op::DATA_OUT);
            bhs.put_u8(1, if at + len == to { 0x80 } else { 0 });
            bhs.set_data_len(len);
            bhs.put_u64(8, self.lun);
            bhs.put_u32(16, tag);
            bhs.put_u32(20, ttt);
            bhs.put_u32(28, self.exp_stat_sn);
            bhs.put_u32(36, sn);
            bhs.put_u32(40, at);
            out.extend_from_slice(&bhs.0);
            ear.supply(token, at, len, out);
            pad(len, out);
            at += len;
            sn += 1;
        }
    }

    /// Sends the logout of the session.
    pub(super) fn log_out(&mut self, out: &mut Vec<u8>) {
        let mut bhs = Bhs::new(op::LOGOUT | 0x40);
        bhs.put_u8(1, 0x80);
        bhs.put_u32(16, 0x7fff_0000);
        self.number(&mut bhs, false);
        out.extend_from_slice(&bhs.0);
    }

    fn number(&mut self, bhs: &mut Bhs, counts: bool) {
        bhs.put_u32(24, self.cmd_sn.0);
        bhs.put_u32(28, self.exp_stat_sn);
        if counts {
            self.cmd_sn = self.cmd_sn.next();
        }
    }

    /// Hears bytes of the target, all of them. After anything but `Fine` the rest is not heard: nothing comes
    /// behind a login, a redirection, a logout or a farewell that would matter.
    pub(super) fn hear(
        &mut self,
        mut bytes: &[u8],
        ear: &mut impl Ear,
        out: &mut Vec<u8>,
    ) -> Result<Heard, Error> {
        loop {
            if self.body.is_some() {
                bytes = self.payload(bytes, ear)?;
            }
            if bytes.is_empty() {
                return Ok(Heard::Fine);
            }
            if matches!(self.phase, Phase::Off) {
                return Err(protocol("bytes came where nothing was asked"));
            }
            let heard = if self.carry.is_empty() {
                self.whole(&mut bytes, ear, out)?
            } else {
                self.gather(&mut bytes, ear, out)?
            };
            if heard != Heard::Fine {
                return Ok(heard);
            }
        }
    }

    /// A PDU that begins in `bytes`: taken in place when it is whole, kept when it is cut.
    fn whole(
        &mut self,
        bytes: &mut &[u8],
        ear: &mut impl Ear,
        out: &mut Vec<u8>,
    ) -> Result<Heard, Error> {
        let Headed::Ready(head) = self
            .decoder
            .head(bytes)
            .map_err(|e| protocol(e.to_string()))?
        else {
            self.carry.extend_from_slice(bytes);
            *bytes = &[];
            return Ok(Heard::Fine);
        };
        if head.bhs.opcode() == op::DATA_IN {
            *bytes = bytes.get(head.data().start..).unwrap_or_default();
            self.begin_payload(head.bhs)?;
            return Ok(Heard::Fine);
        }
        let Some((pdu, rest)) = bytes.split_at_checked(head.total()) else {
            self.carry.extend_from_slice(bytes);
            *bytes = &[];
            return Ok(Heard::Fine);
        };
        *bytes = rest;
        let data = pdu.get(head.data()).unwrap_or_default();
        self.control(&head.bhs, data, ear, out)
    }

    /// A PDU whose beginning was kept.
    fn gather(
        &mut self,
        bytes: &mut &[u8],
        ear: &mut impl Ear,
        out: &mut Vec<u8>,
    ) -> Result<Heard, Error> {
        let wanted = match self
            .decoder
            .head(&self.carry)
            .map_err(|e| protocol(e.to_string()))?
        {
            Headed::Need(wanted) => wanted,
            Headed::Ready(head) if head.bhs.opcode() == op::DATA_IN => {
                self.carry.clear();
                self.begin_payload(head.bhs)?;
                return Ok(Heard::Fine);
            }
            Headed::Ready(head) if self.carry.len() < head.total() => head.total(),
            Headed::Ready(head) => {
                let mut pdu = std::mem::take(&mut self.carry);
                let data = pdu.get(head.data()).unwrap_or_default();
                let heard = self.control(&head.bhs, data, ear, out);
                pdu.clear();
                pdu.shrink_to(CARRY_KEPT);
                self.carry = pdu;
                return heard;
            }
        };
        let missing = wanted.saturating_sub(self.carry.len()).min(bytes.len());
        let (now, rest) = bytes.split_at(missing);
        self.carry.extend_from_slice(now);
        *bytes = rest;
        // What is complete now is looked at even when no more bytes are there.
        if self.carry.len() == wanted && rest.is_empty() {
            return self.gather_whole(bytes, ear, out);
        }
        Ok(Heard::Fine)
    }

    fn gather_whole(
        &mut self,
        bytes: &mut &[u8],
        ear: &mut impl Ear,
        out: &mut Vec<u8>,
    ) -> Result<Heard, Error> {
        match self.decoder.head(&self.carry) {
            Ok(Headed::Ready(head))
                if head.bhs.opcode() == op::DATA_IN || self.carry.len() >= head.total() =>
            {
                let heard = self.gather(bytes, ear, out)?;
                // A Data-In without payload ends with its header.
                if self.body.is_some() {
                    self.payload(&[], ear)?;
                }
                Ok(heard)
            }
            Err(why) => Err(protocol(why.to_string())),
            Ok(_) => Ok(Heard::Fine),
        }
    }

    fn begin_payload(&mut self, bhs: Bhs) -> Result<(), Error> {
        self.count(&bhs, bhs.flags() & 1 != 0);
        let (len, offset, data_sn) = (bhs.data_len(), bhs.u32_at(40), bhs.u32_at(36));
        let (at, slot) = self.slot(bhs.itt())?;
        if slot.writes || data_sn != slot.next_sn || offset != slot.received {
            return Err(protocol(format!(
                "Data-In {data_sn} at {offset}, where {} at {} is due",
                slot.next_sn, slot.received
            )));
        }
        let end = offset.checked_add(len).filter(|end| *end <= slot.edtl);
        let Some(end) = end else {
            return Err(protocol("Data-In beyond what the command asked for"));
        };
        slot.received = end;
        slot.next_sn += 1;
        self.body = Some(Body {
            slot: at,
            at: offset,
            left: len,
            pad: u8::try_from(pad_len(usize::try_from(len).unwrap_or(0))).unwrap_or(0),
            last: (bhs.flags() & 1 != 0).then_some(bhs),
        });
        Ok(())
    }

    /// Hands on payload; gives back what is behind it.
    fn payload<'a>(&mut self, bytes: &'a [u8], ear: &mut impl Ear) -> Result<&'a [u8], Error> {
        let Some(body) = &mut self.body else {
            return Ok(bytes);
        };
        let len = usize::try_from(body.left)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let (piece, rest) = bytes.split_at(len);
        if len > 0 {
            let token = self
                .slots
                .get(usize::from(body.slot))
                .map_or(0, |s| s.token);
            ear.data(token, body.at, piece);
            let len = u32::try_from(len).unwrap_or(body.left);
            body.at += len;
            body.left -= len;
        }
        let skip = usize::from(body.pad).min(rest.len());
        let rest = match body.left {
            0 => rest.get(skip..).unwrap_or_default(),
            _ => return Ok(rest),
        };
        body.pad -= u8::try_from(skip).unwrap_or(body.pad);
        if body.pad == 0 {
            let (slot, last) = (body.slot, body.last);
            self.body = None;
            if let Some(bhs) = last {
                self.finish(slot, &bhs, None, ear);
            }
        }
        Ok(rest)
    }

    fn finish(&mut self, at: u16, bhs: &Bhs, sense: Option<(u8, u8, u8)>, ear: &mut impl Ear) {
        let Some(slot) = self.slots.get_mut(usize::from(at)) else {
            return;
        };
        slot.busy = false;
        let done = Done {
            token: slot.token,
            response: if bhs.opcode() == op::SCSI_RESPONSE {
                bhs.u8_at(2)
            } else {
                0
            },
            status: bhs.u8_at(3),
            sense,
            received: slot.received,
        };
        self.free.push(at);
        ear.done(&done);
    }

    fn slot(&mut self, tag: u32) -> Result<(u16, &mut Slot), Error> {
        let at = u16::try_from(tag & 0xffff).unwrap_or(0);
        let slot = self.slots.get_mut(usize::from(at));
        let ours = slot.filter(|slot| slot.busy && u32::from(slot.turn) == tag >> 16);
        ours.map(|slot| (at, slot))
            .ok_or_else(|| protocol(format!("task tag {tag:#010x} is none of ours")))
    }

    /// StatSN and the command window, from any PDU of the target.
    fn count(&mut self, bhs: &Bhs, has_status: bool) {
        if has_status {
            self.exp_stat_sn = bhs.u32_at(24).wrapping_add(1);
        }
        self.max_cmd_sn = self.max_cmd_sn.later(CmdSn(bhs.u32_at(32)));
    }

    fn control(
        &mut self,
        bhs: &Bhs,
        data: &[u8],
        ear: &mut impl Ear,
        out: &mut Vec<u8>,
    ) -> Result<Heard, Error> {
        if let Phase::Login(client) = &mut self.phase {
            return match client.answer(bhs, data)? {
                Next::Send(bhs, data) => {
                    PLAIN.pdu(bhs, &[], &data, out);
                    Ok(Heard::Fine)
                }
                Next::Redirect(address) => Ok(Heard::Moved(address)),
                Next::Done(login) => self.begin(*login),
            };
        }
        match bhs.opcode() {
            op::SCSI_RESPONSE => {
                self.count(bhs, true);
                let (at, _) = self.slot(bhs.itt())?;
                self.finish(at, bhs, sense_of(data), ear);
                Ok(Heard::Fine)
            }
            op::R2T => self.r2t(bhs, ear, out),
            op::NOP_IN => {
                self.nop_in(bhs, data, out);
                Ok(Heard::Fine)
            }
            op::LOGOUT_RESPONSE => Ok(Heard::LoggedOut),
            op::ASYNC => {
                self.count(bhs, true);
                // Event 0 is a SCSI notice, 4 wants a negotiation that we may leave out.
                match bhs.u8_at(36) {
                    1..=3 => Ok(Heard::AskedToLeave),
                    _ => Ok(Heard::Fine),
                }
            }
            op::REJECT => {
                let (reason, what) = (bhs.u8_at(2), data.first().copied().unwrap_or(0) & 0x3f);
                Err(protocol(format!(
                    "the target rejected our opcode {what:#04x} with reason {reason:#04x}"
                )))
            }
            other => Err(protocol(format!("the target sent opcode {other:#04x}"))),
        }
    }

    fn begin(&mut self, login: LoggedIn) -> Result<Heard, Error> {
        if login.agreed.header_digest || login.agreed.data_digest {
            return Err(protocol("the target chose a digest that was not offered"));
        }
        self.cmd_sn = CmdSn(login.cmd_sn);
        self.max_cmd_sn = CmdSn(login.max_cmd_sn);
        self.exp_stat_sn = login.exp_stat_sn;
        self.decoder = Decoder {
            data_max: login.agreed.initiator_mrdsl,
            ..Decoder::full_feature(&login.agreed)
        };
        self.agreed = login.agreed;
        self.phase = Phase::On;
        Ok(Heard::LoggedIn)
    }

    fn r2t(&mut self, bhs: &Bhs, ear: &mut impl Ear, out: &mut Vec<u8>) -> Result<Heard, Error> {
        self.count(bhs, false);
        let (offset, len) = (bhs.u32_at(40), bhs.u32_at(44));
        let (_, slot) = self.slot(bhs.itt())?;
        let end = offset.checked_add(len).filter(|end| *end <= slot.edtl);
        let Some(end) = end.filter(|_| slot.writes && len > 0) else {
            return Err(protocol("an R2T for bytes that the command does not write"));
        };
        let token = slot.token;
        self.data_out((bhs.itt(), bhs.ttt(), token), (offset, end), ear, out);
        Ok(Heard::Fine)
    }

    fn nop_in(&mut self, bhs: &Bhs, data: &[u8], out: &mut Vec<u8>) {
        self.count(bhs, false);
        if bhs.ttt() == RESERVED_TAG {
            return;
        }
        let mut pong = Bhs::new(op::NOP_OUT | 0x40);
        pong.put_u8(1, 0x80);
        pong.put_u64(8, bhs.lun());
        pong.put_u32(16, RESERVED_TAG);
        pong.put_u32(20, bhs.ttt());
        self.number(&mut pong, false);
        PLAIN.pdu(pong, &[], data, out);
    }
}

/// Answers of a login, no digests.
fn login_rules() -> Decoder {
    Decoder {
        first_byte: None,
        ..Decoder::login()
    }
}

fn pad(len: u32, out: &mut Vec<u8>) {
    let pad = pad_len(usize::try_from(len).unwrap_or(0));
    out.resize(out.len() + pad, 0);
}

/// Sense key and codes, from fixed or descriptor format (SPC-5 4.4), behind the SenseLength field.
fn sense_of(data: &[u8]) -> Option<(u8, u8, u8)> {
    let sense = data.get(2..)?;
    let at = |n: usize| sense.get(n).copied();
    match at(0)? & 0x7f {
        0x70 | 0x71 => Some((at(2)? & 15, at(12).unwrap_or(0), at(13).unwrap_or(0))),
        0x72 | 0x73 => Some((at(1)? & 15, at(2)?, at(3)?)),
        _ => None,
    }
}

fn protocol(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, context)
}

#[cfg(test)]
#[path = "link_test.rs"]
mod test;
