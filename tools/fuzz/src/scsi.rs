//! The logical unit: sequences of (nexus, CDB, data-out) from three initiators against a disk in memory,
//! with two models beside it that know nothing of its code: what the disk holds, and who is registered,
//! holds the reservation, and may read or write.

mod reservations;

use arbitrary::Unstructured;
use reservations::{Order, Reservations};
use reveille::scsi::{
    BlockOp, Direction, Failure, LogicalUnit, LuConfig, NexusId, Outcome, Registrations, Reply,
    Saving, Step, Traits, command_name, direction, status,
};

use crate::volume::{SECTOR, Volume};

pub(crate) const BLOCKS: usize = 128;
const NEXUSES: u64 = 3;
/// Opcodes worth trying often; the rest comes by chance.
const OPCODES: [u8; 44] = [
    0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x16, 0x17, 0x1a, 0x1b, 0x1d, 0x1e, 0x25, 0x28, 0x2a, 0x2e,
    0x2f, 0x34, 0x35, 0x37, 0x41, 0x42, 0x4d, 0x55, 0x5a, 0x5e, 0x5f, 0x88, 0x89, 0x8a, 0x8b, 0x8e,
    0x8f, 0x91, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0x9c, 0x48, 0x83, 0x84,
];
/// PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY.
const OUT_IGNORING_KEY: [u8; 10] = [0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0];
/// Service actions of SANITIZE.
const SANITIZE: [u8; 4] = [1, 2, 0x1f, 3];
const KEYS: [u64; 4] = [0, 1, 2, 0x1122_3344_5566_7788];
const TYPES: [u8; 8] = [1, 3, 5, 6, 7, 8, 2, 0x11];

pub(crate) fn config(traits: Traits) -> LuConfig {
    let mut naa = [0x5a; 16];
    naa[0] = 0x62;
    LuConfig {
        size_bytes: (BLOCKS * SECTOR) as u64,
        serial: "0123456789abcdef0123".into(),
        naa,
        target_name: "iqn.2026-11.t:node001".into(),
        write_back: true,
        traits,
        lun: 0,
        luns: vec![0],
    }
}

fn port(nexus: u64) -> String {
    // The third comes through the same port as the second, as two sessions of one initiator do.
    format!("iqn.2026-11.t:{},i,0x00023d000001", nexus.min(1))
}

struct Bench {
    unit: LogicalUnit,
    volume: Volume,
    /// What the disk must hold by the commands that were answered GOOD.
    disk: Vec<u8>,
    reservations: Reservations,
    /// What was last put on stable storage.
    kept: Option<Registrations>,
    traits: Traits,
    /// A sanitize operation failed, with its AUSE.
    wreck: Option<bool>,
    /// How what leaves the unit ends: 0 well, 1 refused, 2 and 3 not at all.
    luck: u8,
}

/// What a disk is, one bit each.
fn traits(bits: u8) -> Traits {
    Traits {
        read_only: bits & 1 != 0,
        removable: bits & 2 != 0,
        small_blocks: bits & 4 != 0,
        // Seeds want it.
        sanitize: bits & 8 == 0,
        no_zero_count: bits & 16 != 0,
    }
}

pub(crate) fn run(input: &[u8]) {
    let mut u = Unstructured::new(input);
    let _ = script(&mut u);
}

fn script(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let traits = traits(u.arbitrary()?);
    let mut bench = Bench {
        unit: LogicalUnit::new(config(traits)),
        volume: Volume::new(BLOCKS),
        disk: vec![0; BLOCKS * SECTOR],
        reservations: Reservations::default(),
        kept: None,
        traits,
        wreck: None,
        luck: 0,
    };
    for nexus in 0..NEXUSES {
        bench.unit.attach(NexusId(nexus), &port(nexus));
    }
    for _ in 0..200 {
        if u.is_empty() {
            break;
        }
        bench.turn(u)?;
    }
    assert!(
        bench.volume.bytes == bench.disk,
        "the disk holds what nobody wrote"
    );
    Ok(())
}

impl Bench {
    fn turn(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let kind: u8 = u.arbitrary()?;
        let nexus = u64::from(kind >> 4) % NEXUSES;
        self.luck = if kind < 0xc0 { 0 } else { kind >> 4 & 3 };
        match kind & 0x0f {
            0 => {
                self.unit.reset(Some(NexusId(nexus)));
                self.reservations.old = None;
            }
            1 => {
                self.unit.detach(NexusId(nexus));
                self.unit.attach(NexusId(nexus), &port(nexus));
                if self.reservations.old == Some(nexus) {
                    self.reservations.old = None;
                }
            }
            2 => self.unit.cleared_by_another(NexusId(nexus)),
            3 => self.listed_is_served(nexus, u.arbitrary()?, u.arbitrary()?),
            4..=6 => self.reserve_out(nexus, u)?,
            7 => self.read_reservations(nexus),
            8 => {
                let len = usize::from(u.arbitrary::<u8>()? % 20);
                let cdb = u.bytes(len.min(u.len()))?.to_vec();
                let out = u.arbitrary::<u16>()?;
                self.command(nexus, &cdb, &vec![0x21; usize::from(out % 5000)]);
            }
            9 => self.restart(),
            10 => {
                self.traits = traits(u.arbitrary()?);
                self.unit.set_traits(self.traits);
            }
            _ => {
                let (cdb, out) = known(u)?;
                self.command(nexus, &cdb, &out);
            }
        }
        Ok(())
    }

    /// The target's process starts anew: what was put on stable storage is there again, and no session.
    fn restart(&mut self) {
        self.unit = LogicalUnit::new(config(self.traits));
        if let Some(kept) = self.kept.clone() {
            self.unit.restore(kept);
        }
        self.unit.sanitize_restore(self.wreck);
        for nexus in 0..NEXUSES {
            self.unit.attach(NexusId(nexus), &port(nexus));
        }
        self.reservations.restart();
    }

    /// A command to its end, as the iSCSI room runs it.
    fn execute(&mut self, nexus: u64, cdb: &[u8], out: &[u8]) -> Reply {
        let id = NexusId(nexus);
        let mut data: &[u8] = &[];
        let mut step = self.unit.begin(id, cdb);
        if let Step::Data { len, exact } = step {
            assert_eq!(
                direction(cdb),
                Some(Direction::Out(len.into())),
                "{cdb:02x?}"
            );
            if exact && len as usize != out.len() {
                return self.unit.wrong_data_size(cdb);
            }
            data = &out[..out.len().min(len as usize)];
            step = self.unit.data_out(id, cdb, data);
        }
        match step {
            Step::Reply(reply) => reply,
            Step::Data { .. } => panic!("data-out is asked for twice: {cdb:02x?}"),
            Step::Save(what) => self.save(nexus, what.map(|kept| *kept)),
            Step::Run(op) => self.let_run(nexus, cdb, &op, data),
        }
    }

    /// Puts a change of the reservations on stable storage, or fails to. Meanwhile nobody changes them.
    fn save(&mut self, nexus: u64, what: Option<Registrations>) -> Reply {
        let other = (nexus + 1) % NEXUSES;
        let order = Order {
            action: 6,
            kind: 0,
            own: 0,
            key: 77,
            lasts: false,
            leaves: false,
            names: None,
        };
        let meanwhile = self.execute(other, &OUT_IGNORING_KEY, &order.list());
        assert_ne!(
            meanwhile.status,
            status::GOOD,
            "two changes of the reservations at once"
        );
        match self.luck {
            0 => {
                self.kept = what;
                self.unit.saved(Saving::Done)
            }
            1 => self.unit.saved(Saving::Busy),
            _ => self.unit.saved(Saving::Failed),
        }
    }

    fn let_run(&mut self, nexus: u64, cdb: &[u8], op: &BlockOp, data: &[u8]) -> Reply {
        let id = NexusId(nexus);
        if let BlockOp::Sanitize { unrestricted, .. } = op {
            assert!(
                self.traits.sanitize && !self.traits.read_only,
                "SANITIZE of a disk that has none"
            );
            let well = self.luck == 0;
            self.wreck = (!well).then_some(*unrestricted);
            self.unit.sanitize_progress(17);
            if !well {
                self.unit.sanitize_ended(false);
                return self.unit.done(id, cdb, Outcome::Failed(Failure::Sanitize));
            }
        }
        let (outcome, bytes) = self.volume.run(op, data);
        match op {
            BlockOp::Sanitize { .. } => {
                self.unit.sanitize_ended(true);
                self.disk.copy_from_slice(&self.volume.bytes);
            }
            BlockOp::SanitizeForgotten => {
                assert_eq!(self.wreck.take(), Some(true), "EXIT FAILURE MODE");
                let ready = self.execute(nexus, &[0; 6], &[]).sense;
                let key = ready.map(|s| s.as_slice()[if s.as_slice()[0] < 0x72 { 2 } else { 1 }]);
                assert_ne!(key, Some(3), "still in failure mode");
            }
            _ => {}
        }
        let differs = matches!(outcome, Outcome::Differs { .. });
        let mut reply = self.unit.done(id, cdb, outcome);
        assert_eq!(
            differs,
            reply.status == status::CHECK_CONDITION,
            "{cdb:02x?}"
        );
        if let BlockOp::Read(range) = op {
            assert_eq!(direction(cdb), Some(Direction::In(range.len())));
        }
        reply.data.extend(bytes);
        reply
    }

    fn command(&mut self, nexus: u64, cdb: &[u8], out: &[u8]) {
        if cdb.first() == Some(&0x5f) {
            // `reserve_out` does these, and tells the model.
            return;
        }
        let reply = self.execute(nexus, cdb, out);
        check_reply(cdb, &reply);
        let Some(access) = access(cdb) else { return };
        if reply.status == status::GOOD {
            if let Some(writes) = access {
                let stopped = self.reservations.stops(nexus, writes);
                assert!(!stopped, "{} passed a reservation", command_name(cdb));
            }
            self.effect(nexus, cdb, out, &reply.data);
        } else if let (status::RESERVATION_CONFLICT, Some(writes)) = (reply.status, access) {
            let stopped = self.reservations.stops(nexus, writes);
            assert!(stopped, "{} met no reservation", command_name(cdb));
        }
    }

    /// What a GOOD command did to the disk, by the CDB alone.
    fn effect(&mut self, nexus: u64, cdb: &[u8], out: &[u8], data: &[u8]) {
        let Some(mut place) = place(cdb) else {
            match cdb.first() {
                Some(0x16 | 0x17 | 0x56 | 0x57) if !self.reservations.keys.is_empty() => {
                    assert!(self.reservations.makes_reserve_void(nexus));
                }
                Some(0x16 | 0x56) => {
                    let holder = self.reservations.old.replace(nexus);
                    assert!(
                        holder.is_none_or(|h| h == nexus),
                        "RESERVE took it from another"
                    );
                }
                Some(0x17 | 0x57) if self.reservations.old == Some(nexus) => {
                    self.reservations.old = None;
                }
                Some(0x42) => self.unmap(usize::from(cdb[8]) | usize::from(cdb[7]) << 8, out),
                Some(0x83) => self.copied(out),
                _ => {}
            }
            return;
        };
        assert!(
            place.end <= self.disk.len(),
            "GOOD outside the disk: {cdb:02x?}"
        );
        assert!(self.wreck.is_none(), "used after a failed SANITIZE");
        let writes = access(cdb) == Some(Some(true));
        assert!(!writes || !self.traits.read_only, "written: {cdb:02x?}");
        if matches!(cdb[0], 0x41 | 0x93) && place.is_empty() {
            assert!(!self.traits.no_zero_count, "WSNZ");
            place.end = self.disk.len();
        }
        let held = &mut self.disk[place];
        match cdb[0] {
            0x08 | 0x28 | 0x88 | 0xa8 => assert!(data == held, "a read returned other bytes"),
            0x0a | 0x2a | 0x8a | 0xaa | 0x2e | 0x8e | 0xae | 0x9c => {
                // An initiator may announce less than the CDB asks for: whole sectors count.
                let len = held.len().min(out.len()) / SECTOR * SECTOR;
                held[..len].copy_from_slice(&out[..len]);
            }
            0x8b => {
                let len = held.len().min(out.len()) / SECTOR * SECTOR;
                for (byte, bits) in held[..len].iter_mut().zip(out) {
                    *byte |= bits;
                }
            }
            0x41 | 0x93 => {
                let zeros = [0; SECTOR];
                let sector = if cdb[0] == 0x93 && cdb[1] & 1 != 0 {
                    &zeros
                } else {
                    &out[..SECTOR]
                };
                held.chunks_mut(SECTOR)
                    .for_each(|to| to.copy_from_slice(sector));
            }
            0x89 if !held.is_empty() => {
                let (old, new) = out.split_at(held.len());
                assert!(old == held, "COMPARE AND WRITE was GOOD on other bytes");
                held.copy_from_slice(new);
            }
            _ => {}
        }
    }

    fn unmap(&mut self, len: usize, out: &[u8]) {
        let Some((head, rest)) = out.get(..len).and_then(|list| list.split_at_checked(8)) else {
            assert!(len == 0, "an UNMAP without its list was GOOD");
            return;
        };
        let count = usize::from(u16::from_be_bytes([head[2], head[3]])) / 16;
        for descriptor in rest.chunks_exact(16).take(count) {
            let lba = u64::from_be_bytes(descriptor[..8].try_into().expect("8 bytes")) as usize;
            let n = u32::from_be_bytes(descriptor[8..12].try_into().expect("4 bytes")) as usize;
            self.disk[lba * SECTOR..(lba + n) * SECTOR].fill(0);
        }
    }

    /// EXTENDED COPY: the segments one after the other, each as if its source were read whole first.
    fn copied(&mut self, list: &[u8]) {
        let Some(head) = list.get(..16) else {
            return;
        };
        let u16_at =
            |bytes: &[u8], at: usize| usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1]);
        let u64_at = |bytes: &[u8], at: usize| {
            let bytes = bytes[at..at + 8].try_into().expect("8 bytes");
            u64::from_be_bytes(bytes) as usize * SECTOR
        };
        let first = 16 + u16_at(head, 2);
        let end = first + u16_at(head, 10);
        for segment in list[first..end].chunks_exact(28) {
            let len = u16_at(segment, 10) * SECTOR;
            let (from, to) = (u64_at(segment, 12), u64_at(segment, 20));
            self.disk.copy_within(from..from + len, to);
        }
    }

    fn reserve_out(&mut self, nexus: u64, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        let (how, keys): (u8, u8) = (u.arbitrary()?, u.arbitrary()?);
        let order = Order {
            action: how & 7,
            kind: TYPES[usize::from(how >> 5)],
            own: KEYS[usize::from(keys & 3)],
            key: KEYS[usize::from(keys >> 2 & 3)],
            lasts: keys & 0x10 != 0,
            leaves: keys & 0x20 != 0,
            names: (how & 8 != 0 || how & 7 == 7).then(|| port(u64::from(keys >> 6))),
        };
        let mut list = order.list();
        let whole = keys & 0xe0 != 0xe0;
        if !whole {
            list.truncate(17);
        }
        let len = if how & 0x10 == 0 {
            order.list().len()
        } else {
            24
        };
        let cdb = [0x5f, order.action, order.kind, 0, 0, 0, 0, 0, len as u8, 0];
        let reply = self.execute(nexus, &cdb, &list);
        check_reply(&cdb, &reply);
        if reply.status == status::GOOD {
            // The others do not look at SPEC_I_PT.
            let may_name = matches!(order.action, 0 | 6 | 7);
            assert!(
                whole && (len == list.len() || !may_name),
                "half a list was enough"
            );
            assert!(
                order.names.is_none() || order.action != 6,
                "others were named, and it was GOOD"
            );
            self.reservations.out(nexus, &order);
            let abort: Vec<u64> = reply.abort.iter().map(|n| n.0).collect();
            assert!(order.action == 5 || abort.is_empty());
            assert!(
                abort.iter().all(|n| port(*n) != port(nexus)),
                "it aborts itself"
            );
            let sorted = self.kept.clone().map(|mut kept| {
                kept.registrants.sort_by(|a, b| a.port.cmp(&b.port));
                kept
            });
            assert_eq!(sorted, self.reservations.stored(), "on stable storage");
        }
        Ok(())
    }

    /// What READ KEYS and READ RESERVATION tell is what the model holds.
    fn read_reservations(&mut self, nexus: u64) {
        let ask = |action| [0x5e, action, 0, 0, 0, 0, 0, 0xff, 0xff, 0];
        let keys = self.execute(nexus, &ask(0), &[]);
        let held = self.execute(nexus, &ask(1), &[]);
        if keys.status != status::GOOD || held.status != status::GOOD {
            return;
        }
        let model = &self.reservations;
        assert_eq!(keys.data[..4], model.generation.to_be_bytes());
        let mut told: Vec<u64> = keys.data[8..]
            .chunks_exact(8)
            .map(|k| u64::from_be_bytes(k.try_into().expect("8 bytes")))
            .collect();
        let mut known: Vec<u64> = model.keys.values().copied().collect();
        told.sort_unstable();
        known.sort_unstable();
        assert_eq!(told, known);
        let told = held.data.get(21).map(|kind| kind & 0x0f);
        assert_eq!(told, model.held.as_ref().map(|h| h.1));
        if let Some((holder, 1..=6)) = &model.held {
            assert!(
                model.keys.contains_key(holder),
                "held by nobody who is registered"
            );
        }
    }

    /// REPORT SUPPORTED OPERATION CODES says yes exactly to what is dispatched.
    fn listed_is_served(&mut self, nexus: u64, opcode: u8, action: u8) {
        let action = action & 0x1f;
        let ask = [0xa3, 0x0c, 3, opcode, 0, action, 0, 0, 1, 0, 0, 0];
        let answer = self.execute(nexus, &ask, &[]);
        if answer.status != status::GOOD {
            return;
        }
        let listed = answer.data[1] & 7 == 3;
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        if listed {
            let usage = &answer.data[4..];
            assert_eq!(usage[0], opcode, "usage data begins with the opcode");
            assert!(direction(&[opcode, action]).is_some());
        } else if direction(&[opcode, 0]).is_none() || action == 0 {
            cdb[1] = action;
            let reply = self.execute(nexus, &cdb, &[]);
            let refused = reply.sense.is_some_and(|s| {
                let s = s.as_slice();
                matches!(s[2] & 0x0f, 5 | 6) || matches!(s[1] & 0x0f, 5 | 6)
            });
            assert!(
                refused || reply.status != status::GOOD,
                "{opcode:02x}/{action:02x}"
            );
        }
    }
}

/// A CDB of a command that exists, with numbers near the edges, and fitting data-out.
fn known(u: &mut Unstructured<'_>) -> arbitrary::Result<(Vec<u8>, Vec<u8>)> {
    let opcode = OPCODES[usize::from(u.arbitrary::<u8>()?) % OPCODES.len()];
    let (flags, lba, count, fill): (u8, u8, u8, u8) = (
        u.arbitrary()?,
        u.arbitrary()?,
        u.arbitrary()?,
        u.arbitrary()?,
    );
    let mut cdb = vec![
        0;
        if opcode < 0x20 {
            6
        } else if opcode < 0x60 {
            10
        } else {
            16
        }
    ];
    cdb[0] = opcode;
    cdb[1] = flags;
    match opcode {
        0x08 | 0x0a => (cdb[1], cdb[3], cdb[4]) = (0, lba, count),
        0x12 => (cdb[2], cdb[4]) = (lba, count),
        0x15 | 0x1a | 0x1b | 0x03 => (cdb[2], cdb[4]) = (lba, count),
        0x5a | 0x4d => (cdb[2], cdb[8]) = (lba, count),
        0x42 | 0x55 | 0x5e => cdb[8] = count,
        0x89 => (cdb[9], cdb[13]) = (lba, count % 8),
        0xa0 | 0xa3 | 0xa8 | 0xaa => {
            (cdb[2], cdb[5], cdb[9]) = (if opcode < 0xa8 { lba } else { 0 }, lba, count)
        }
        0x9e => (cdb[1], cdb[9], cdb[13]) = (0x10 | (flags & 2), lba, count),
        0x48 => (cdb[1], cdb[8]) = (SANITIZE[usize::from(flags & 3)] | flags & 0xe0, lba),
        0x83 => cdb[13] = 16 + 32 + 28 * (count % 4),
        0x84 => (cdb[1], cdb[2], cdb[13]) = (flags & 3, lba, count),
        0x20..0x60 => (cdb[5], cdb[8]) = (lba, count),
        0x80.. => (cdb[9], cdb[13]) = (lba, count),
        _ => {}
    }
    let wanted = match direction(&cdb) {
        Some(Direction::Out(len)) => len.min(64 * 512) as usize,
        _ => 0,
    };
    let mut out = vec![fill; wanted];
    match opcode {
        0x42 => unmap_list(u, &mut out)?,
        0x48 if out.len() > 4 => {
            let len = if fill & 1 == 0 { out.len() - 4 } else { 1 };
            out[..4].copy_from_slice(&[fill, 0, 0, len as u8]);
        }
        0x83 if out.len() >= 48 => copy_list(u, &mut out, lba)?,
        0x15 | 0x55 => {
            let raw = u.bytes(wanted.min(u.len()).min(40))?;
            out[..raw.len()].copy_from_slice(raw);
        }
        _ => {}
    }
    // Sometimes the initiator announces another length.
    if fill & 0xf8 == 0xf8 {
        out.resize(usize::from(fill & 7) * 256, fill);
    }
    Ok((cdb, out))
}

/// A parameter list whose lengths agree with what is there.
fn unmap_list(u: &mut Unstructured<'_>, out: &mut [u8]) -> arbitrary::Result<()> {
    out.fill(0);
    let Some(body) = out.len().checked_sub(8) else {
        return Ok(());
    };
    let whole = (body / 16 * 16) as u16;
    out[2..4].copy_from_slice(&whole.to_be_bytes());
    for descriptor in out[8..].chunks_exact_mut(16) {
        descriptor[7] = u.arbitrary()?;
        descriptor[11] = u.arbitrary()?;
    }
    Ok(())
}

/// This disk as source and destination, and segments that mostly lie inside it.
fn copy_list(u: &mut Unstructured<'_>, out: &mut [u8], list: u8) -> arbitrary::Result<()> {
    out.fill(0);
    let (head, segments) = out.split_at_mut(48);
    (head[0], head[3], head[11]) = (list, 32, segments.len() as u8);
    let naa = config(Traits::default()).naa;
    head[16] = 0xe4;
    (head[20], head[21], head[23]) = (1, 3, 16);
    head[24..40].copy_from_slice(&naa);
    head[46] = 2;
    for segment in segments.chunks_exact_mut(28) {
        (segment[0], segment[3]) = (2, 24);
        (segment[11], segment[19], segment[27]) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
    }
    Ok(())
}

/// Where a block command's CDB points; `None` for commands that have no range here.
fn place(cdb: &[u8]) -> Option<std::ops::Range<usize>> {
    let u32_at = |at: usize| Some(u32::from_be_bytes(cdb.get(at..at + 4)?.try_into().ok()?));
    let (lba, count) = match cdb.first()? {
        0x08 | 0x0a => {
            let lba = u32_at(0)? & 0x1f_ffff;
            let count = if cdb[4] == 0 { 256 } else { u32::from(cdb[4]) };
            (u64::from(lba), count)
        }
        0x28 | 0x2a | 0x2e | 0x41 => (u64::from(u32_at(2)?), u32_at(6)? >> 8 & 0xffff),
        0xa8 | 0xaa | 0xae => (u64::from(u32_at(2)?), u32_at(6)?),
        0x89 => (
            u64::from(u32_at(2)?) << 32 | u64::from(u32_at(6)?),
            u32::from(cdb[13]),
        ),
        0x9c => (
            u64::from(u32_at(2)?) << 32 | u64::from(u32_at(6)?),
            u32_at(10)? & 0xffff,
        ),
        0x88 | 0x8a | 0x8b | 0x8e | 0x93 => (
            u64::from(u32_at(2)?) << 32 | u64::from(u32_at(6)?),
            u32_at(10)?,
        ),
        _ => return None,
    };
    let start = usize::try_from(lba).ok()?.checked_mul(SECTOR)?;
    Some(start..start.checked_add(count as usize * SECTOR)?)
}

/// `Some(None)`: no reservation stops it. `Some(Some(writes))`: as reading or as writing. `None`: by rules
/// that are not modelled here.
#[expect(clippy::option_option, reason = "three answers")]
fn access(cdb: &[u8]) -> Option<Option<bool>> {
    match cdb.first()? {
        0x03 | 0x12 | 0xa0 | 0x17 | 0x57 => Some(None),
        0x08 | 0x28 | 0x88 | 0xa8 | 0x2f | 0x8f | 0x34 | 0x90 => Some(Some(false)),
        0x0a | 0x2a | 0x8a | 0xaa | 0x2e | 0x8e | 0xae | 0x41 | 0x93 | 0x42 | 0x8b | 0x89
        | 0x35 | 0x91 | 0x15 | 0x55 | 0x9c | 0x48 | 0x83 | 0x84 => Some(Some(true)),
        0x16 | 0x56 => Some(None),
        _ => None,
    }
}

pub(crate) fn check_reply(cdb: &[u8], reply: &Reply) {
    match reply.status {
        status::GOOD => assert!(reply.sense.is_none()),
        status::CHECK_CONDITION => {
            let sense = reply.sense.expect("CHECK CONDITION without sense");
            let key = match *sense.as_slice() {
                [0x72, key, _, _, 0, 0, 0, rest, ..] => {
                    assert_eq!(usize::from(rest) + 8, sense.as_slice().len());
                    key
                }
                [0x70 | 0xf0, 0, key, _, _, _, _, 10, ..] => {
                    assert_eq!(sense.as_slice().len(), 18);
                    key
                }
                ref other => panic!("no sense format: {other:02x?}"),
            };
            assert!(
                matches!(key, 2 | 3 | 4 | 5 | 6 | 7 | 0xa | 0xe),
                "sense key {key} for {cdb:02x?}"
            );
            assert!(reply.data.is_empty());
        }
        // A change of the reservations waits for stable storage.
        status::BUSY => assert!(reply.sense.is_none() && reply.data.is_empty()),
        status::RESERVATION_CONFLICT => assert!(reply.sense.is_none() && reply.data.is_empty()),
        other => panic!("status {other:02x} for {cdb:02x?}"),
    }
    if !reply.data.is_empty() {
        match direction(cdb) {
            Some(Direction::In(max)) => assert!(reply.data.len() as u64 <= max, "{cdb:02x?}"),
            other => panic!("data-in from {cdb:02x?}: {other:?}"),
        }
    }
}
