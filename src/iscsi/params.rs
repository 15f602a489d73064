//! The keys of login and text negotiation in ONE table (RFC 7143 section 13), the machine that answers
//! offers by it, and the result. The table is also the source of the documentation (`markdown`).
//!
//! The rule above all others: answer exactly the keys that were offered, once each. The only key the
//! target adds is its own MaxRecvDataSegmentLength (and TargetPortalGroupTag, by the login machine).
//! EDK2 fails on any left-over key, open-iscsi on any unknown one.

use std::borrow::Cow;

use super::keys::{Builder, Pair, number};
use crate::limits::{
    FIRST_BURST_MAX, LOGIN_KEYS_MAX, MAX_BURST_MAX, MAX_R2T, TARGET_MRDSL, TEXT_CHAIN_MAX,
};

/// Session type (RFC 7143 13.21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionType {
    /// Only SendTargets, NOP and Logout.
    Discovery,
    /// SCSI.
    Normal,
}

/// The result of negotiation, with RFC 7143 section 13's defaults where a key was not offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// CRC32C over headers.
    pub header_digest: bool,
    /// CRC32C over data segments.
    pub data_digest: bool,
    /// Largest data segment the initiator takes.
    pub initiator_mrdsl: u32,
    /// Largest data segment we take.
    pub target_mrdsl: u32,
    /// Unsolicited Data-Out needs an R2T first.
    pub initial_r2t: bool,
    /// Data in the command PDU is allowed.
    pub immediate_data: bool,
    /// Bytes of one solicited sequence.
    pub max_burst: u32,
    /// Bytes of unsolicited data of one command.
    pub first_burst: u32,
    /// R2Ts outstanding per task.
    pub max_outstanding_r2t: u16,
    /// DefaultTime2Wait in seconds.
    pub time2wait: u16,
    /// DefaultTime2Retain in seconds.
    pub time2retain: u16,
}

impl Default for Negotiated {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initiator_mrdsl: 8192,
            target_mrdsl: 8192,
            initial_r2t: true,
            immediate_data: true,
            max_burst: 262_144,
            first_burst: 65_536,
            max_outstanding_r2t: 1,
            time2wait: 2,
            time2retain: 20,
        }
    }
}

/// Login status codes (RFC 7143 11.13.5): Status-Class in the high byte, Status-Detail in the low.
pub mod status {
    #![allow(missing_docs, reason = "the names are the standard's")]
    pub const SUCCESS: u16 = 0x0000;
    pub const MOVED_TEMPORARILY: u16 = 0x0101;
    pub const INITIATOR_ERROR: u16 = 0x0200;
    pub const AUTHENTICATION_FAILURE: u16 = 0x0201;
    pub const AUTHORIZATION_FAILURE: u16 = 0x0202;
    pub const NOT_FOUND: u16 = 0x0203;
    pub const UNSUPPORTED_VERSION: u16 = 0x0205;
    pub const MISSING_PARAMETER: u16 = 0x0207;
    pub const SESSION_TYPE_NOT_SUPPORTED: u16 = 0x0209;
    pub const SESSION_DOES_NOT_EXIST: u16 = 0x020a;
    pub const INVALID_DURING_LOGIN: u16 = 0x020b;
    pub const TARGET_ERROR: u16 = 0x0300;
    pub const SERVICE_UNAVAILABLE: u16 = 0x0301;
    pub const OUT_OF_RESOURCES: u16 = 0x0302;
}

/// A login that must end: the status for the peer, the cause for the log (never sent).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why} (login status {status:#06x})")]
pub struct Refusal {
    /// One of [`status`].
    pub status: u16,
    /// A sentence for the log; a peer's bytes in it are escaped.
    pub why: String,
}

impl Refusal {
    /// A refusal with `status`.
    pub fn new(status: u16, why: impl Into<String>) -> Self {
        Self {
            status,
            why: why.into(),
        }
    }

    /// 0x0200: the initiator broke the protocol.
    pub fn protocol(why: impl Into<String>) -> Self {
        Self::new(status::INITIATOR_ERROR, why)
    }
}

/// A key we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum Key {
    InitiatorName,
    InitiatorAlias,
    TargetName,
    TargetAlias,
    TargetAddress,
    TargetPortalGroupTag,
    SessionType,
    AuthMethod,
    ChapA,
    ChapI,
    ChapC,
    ChapN,
    ChapR,
    HeaderDigest,
    DataDigest,
    MaxConnections,
    SendTargets,
    InitialR2T,
    ImmediateData,
    MaxRecvDataSegmentLength,
    MaxBurstLength,
    FirstBurstLength,
    DefaultTime2Wait,
    DefaultTime2Retain,
    MaxOutstandingR2T,
    DataPduInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    IfMarker,
    OfMarker,
    IfMarkInt,
    OfMarkInt,
    TaskReporting,
    ProtocolLevel,
    RdmaExtensions,
}

/// When a key may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In the first login request only.
    First,
    /// In the security stage.
    Security,
    /// In the operational stage; taken in the security stage too, and answered later.
    Operational,
    /// In any login stage and in the full feature phase.
    Any,
    /// In text requests of the full feature phase only.
    FullFeature,
    /// Only the target sends it.
    TargetOnly,
}

/// How the answer follows from the offer (RFC 7143 6.2). Ranges are inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Declarative: there is no answer.
    Declare,
    /// Declarative number in this range.
    DeclareNumber(u32, u32),
    /// The first of the initiator's list that is one of these; a list without any of them is answered
    /// `Reject` when the second field is false and ends the login when it is true.
    List(&'static [&'static str], bool),
    /// Yes if either side says Yes; this is our side.
    BoolOr(bool),
    /// Yes if both sides say Yes; this is our side.
    BoolAnd(bool),
    /// The smaller of the offer, in this range, and ours (the last field).
    Min(u32, u32, u32),
    /// The larger of the offer, in this range, and ours (the last field).
    Max(u32, u32, u32),
    /// Always this answer: the key is obsolete.
    Fixed(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its text, matched whole and case-sensitively.
    pub name: &'static str,
    /// Its identity.
    pub key: Key,
    /// How it is answered.
    pub rule: Rule,
    /// What holds when it is not offered (RFC 7143 section 13).
    pub default: &'static str,
    /// When it may be used.
    pub phase: Phase,
    /// Why we answer as we do.
    pub why: &'static str,
}

const fn row(
    name: &'static str,
    key: Key,
    phase: Phase,
    rule: Rule,
    default: &'static str,
    why: &'static str,
) -> Row {
    Row {
        name,
        key,
        rule,
        default,
        phase,
        why,
    }
}

const LENGTH_MIN: u32 = 512;
const LENGTH_MAX: u32 = (1 << 24) - 1;

/// Every key we know. A key that is not here is answered `NotUnderstood`.
#[rustfmt::skip]
pub const TABLE: &[Row] = {
    use Phase::{Any, First, FullFeature, Operational, Security, TargetOnly};
    use Rule::{BoolAnd, BoolOr, Declare, DeclareNumber, Fixed, List, Max, Min};
    &[
        row("InitiatorName", Key::InitiatorName, First, Declare, "", "a claim until CHAP proves it"),
        row("InitiatorAlias", Key::InitiatorAlias, Any, Declare, "", "taken and ignored"),
        row("TargetName", Key::TargetName, First, Declare, "", "required but for discovery"),
        row("SessionType", Key::SessionType, First, Declare, "Normal", "Normal or Discovery"),
        row("TargetAlias", Key::TargetAlias, TargetOnly, Declare, "", "never sent: no initiator needs it"),
        row("TargetAddress", Key::TargetAddress, TargetOnly, Declare, "", "in redirects, SendTargets"),
        row("TargetPortalGroupTag", Key::TargetPortalGroupTag, TargetOnly, Declare, "",
            "in the first answer of a normal session; EDK2 demands it"),
        row("AuthMethod", Key::AuthMethod, Security, List(&["CHAP", "None"], true), "None",
            "follows the node's policy, not the offer's order"),
        row("CHAP_A", Key::ChapA, Security, Declare, "",
            "8, 7, 6, 5 within the offer (SHA3-256, SHA-256, SHA-1, MD5), as the policy allows"),
        row("CHAP_I", Key::ChapI, Security, Declare, "", "ours with CHAP_A; the initiator's asks for our proof"),
        row("CHAP_C", Key::ChapC, Security, Declare, "", "ours is as long as the digest; never our own back"),
        row("CHAP_N", Key::ChapN, Security, Declare, "", "must be the user of this node"),
        row("CHAP_R", Key::ChapR, Security, Declare, "", "compared in constant time"),
        row("HeaderDigest", Key::HeaderDigest, Operational, List(&["CRC32C", "None"], true), "None",
            "the initiator's order decides, unless the policy prefers one of its offer"),
        row("DataDigest", Key::DataDigest, Operational, List(&["CRC32C", "None"], true), "None",
            "as HeaderDigest"),
        row("MaxConnections", Key::MaxConnections, Operational, Min(1, 65_535, 1), "1",
            "one connection per session; open-iscsi takes nothing else"),
        row("SendTargets", Key::SendTargets, FullFeature, Declare, "", "in login: status 0x020b"),
        row("InitialR2T", Key::InitialR2T, Operational, BoolOr(true), "Yes",
            "no unsolicited Data-Out; cures EDK2's FirstBurstLength overrun"),
        row("ImmediateData", Key::ImmediateData, Operational, BoolAnd(true), "Yes",
            "writes of one round trip"),
        row("MaxRecvDataSegmentLength", Key::MaxRecvDataSegmentLength, Any,
            DeclareNumber(LENGTH_MIN, LENGTH_MAX), "8192", "each side declares its own; ours follows once"),
        row("MaxBurstLength", Key::MaxBurstLength, Operational, Min(LENGTH_MIN, LENGTH_MAX, MAX_BURST_MAX),
            "262144", "bounds what one R2T asks for"),
        row("FirstBurstLength", Key::FirstBurstLength, Operational,
            Min(LENGTH_MIN, LENGTH_MAX, FIRST_BURST_MAX), "65536",
            "never above MaxBurstLength; a number even where it is irrelevant"),
        row("DefaultTime2Wait", Key::DefaultTime2Wait, Operational, Max(0, 3600, 0), "2", "the offer"),
        row("DefaultTime2Retain", Key::DefaultTime2Retain, Operational, Min(0, 3600, 0), "20",
            "error recovery level 0 keeps no task state"),
        row("MaxOutstandingR2T", Key::MaxOutstandingR2T, Operational, Min(1, 65_535, MAX_R2T as u32), "1",
            "bounds the buffers of one task"),
        row("DataPDUInOrder", Key::DataPduInOrder, Operational, BoolOr(true), "Yes", ""),
        row("DataSequenceInOrder", Key::DataSequenceInOrder, Operational, BoolOr(true), "Yes", ""),
        row("ErrorRecoveryLevel", Key::ErrorRecoveryLevel, Operational, Min(0, 2, 0), "0",
            "open-iscsi takes nothing else"),
        row("IFMarker", Key::IfMarker, Operational, Fixed("No"), "No", "obsolete, but still offered"),
        row("OFMarker", Key::OfMarker, Operational, Fixed("No"), "No", "obsolete, but still offered"),
        row("IFMarkInt", Key::IfMarkInt, Operational, Fixed("Reject"), "", "obsolete"),
        row("OFMarkInt", Key::OfMarkInt, Operational, Fixed("Reject"), "", "obsolete"),
        row("TaskReporting", Key::TaskReporting, Operational, List(&["RFC3720"], false), "RFC3720",
            "the semantics of RFC 3720"),
        row("iSCSIProtocolLevel", Key::ProtocolLevel, Operational, Min(0, 31, 1), "1", "RFC 7143"),
        row("RDMAExtensions", Key::RdmaExtensions, Operational, BoolAnd(false), "No", "TCP only"),
    ]
};

const _: () = assert!(TABLE.len() <= 64, "`Negotiation::seen` has a bit per row");
// The longest answer: every key unknown and of 63 bytes, beside TPGT, MRDSL and a CHAP exchange.
const _: () = assert!(LOGIN_KEYS_MAX * (63 + "=NotUnderstood".len() + 1) + 1024 <= TEXT_CHAIN_MAX);

/// The row of a key.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

/// The table for people: one line of Markdown per key.
#[must_use]
pub fn markdown() -> String {
    let mut text =
        String::from("| Key | Phase | Answer | Default | Why |\n|---|---|---|---|---|\n");
    for row in TABLE {
        let answer = match row.rule {
            Rule::Declare => "declared".to_owned(),
            Rule::DeclareNumber(low, high) => format!("declared, {low} to {high}"),
            Rule::List(ours, _) => format!("first of the offer among {}", ours.join(", ")),
            Rule::BoolOr(ours) => format!("offer or {}", yes_no(ours)),
            Rule::BoolAnd(ours) => format!("offer and {}", yes_no(ours)),
            Rule::Min(low, high, ours) => format!("min(offer of {low} to {high}, {ours})"),
            Rule::Max(low, high, ours) => format!("max(offer of {low} to {high}, {ours})"),
            Rule::Fixed(answer) => format!("`{answer}`"),
        };
        let Row {
            name,
            phase,
            default,
            why,
            ..
        } = row;
        text.push_str(&format!(
            "| {name} | {phase:?} | {answer} | {default} | {why} |\n"
        ));
    }
    text
}

const fn yes_no(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

/// A key that was offered and is not answered yet.
#[derive(Debug)]
struct Pending {
    name: Cow<'static, str>,
    answer: Answer,
    operational: bool,
}

#[derive(Debug)]
enum Answer {
    Text(Cow<'static, str>),
    /// Known only when the whole offer is in: it may not pass MaxBurstLength.
    FirstBurst,
}

/// Negotiation of one login.
#[derive(Debug, Default)]
pub struct Negotiation {
    seen: u64,
    seen_unknown: Vec<String>,
    pending: Vec<Pending>,
    result: Negotiated,
    touched: bool,
    declared: bool,
    digests: Digests,
}

/// Which digests of PDUs are agreed to, among what an initiator offers. None can be demanded: boot firmware
/// knows none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digests {
    /// The first one of the offer that is known (RFC 7143 6.2.1).
    #[default]
    Offered,
    /// None, wherever it is offered: for networks that check enough, and for speed.
    PreferNone,
    /// CRC32C, wherever it is offered.
    PreferCrc32c,
}

impl Digests {
    /// The value we take of an offer. RFC 7143 6.2.1 leaves it to the responder what it may use for an
    /// initiator, so a preference is within the offer and legal.
    fn choose(self, offer: &str, ours: &[&'static str]) -> Option<&'static str> {
        let preferred = match self {
            Self::Offered => None,
            Self::PreferNone => Some("None"),
            Self::PreferCrc32c => Some("CRC32C"),
        };
        let own = |value| ours.iter().copied().find(|own| *own == value);
        let known = || offer.split(',').filter_map(own);
        known()
            .find(|value| Some(*value) == preferred)
            .or_else(|| known().next())
    }
}

impl Negotiation {
    /// Nothing was offered; the defaults hold.
    #[must_use]
    pub fn new(digests: Digests) -> Self {
        Self {
            digests,
            ..Self::default()
        }
    }

    /// Notes that `name` was sent. A key may be sent once in a login (RFC 7143 6.2).
    pub fn mark(&mut self, name: &str) -> Result<(), Refusal> {
        let first = match TABLE.iter().position(|row| row.name == name) {
            Some(at) => {
                let bit = 1 << at;
                let first = self.seen & bit == 0;
                self.seen |= bit;
                first
            }
            None => {
                let first = !self.seen_unknown.iter().any(|seen| seen == name);
                self.seen_unknown.push(name.to_owned());
                first
            }
        };
        if first {
            return Ok(());
        }
        let status = match find(name) {
            Some(row) if row.phase == Phase::Security && row.key != Key::AuthMethod => {
                status::AUTHENTICATION_FAILURE
            }
            _ => status::INITIATOR_ERROR,
        };
        Err(Refusal::new(status, format!("`{name}` was sent twice")))
    }

    /// True when `key` was sent.
    #[must_use]
    pub fn was_sent(&self, key: Key) -> bool {
        let at = TABLE.iter().position(|row| row.key == key);
        at.is_some_and(|at| self.seen & (1 << at) != 0)
    }

    /// A key that the table does not hold.
    pub fn unknown(&mut self, name: &str) {
        self.pending.push(Pending {
            name: Cow::Owned(name.to_owned()),
            answer: Answer::Text("NotUnderstood".into()),
            operational: false,
        });
    }

    /// Takes in an offer of an `Operational` or `Any` key.
    pub fn offer(&mut self, row: &'static Row, pair: &Pair) -> Result<(), Refusal> {
        let value = pair.value.as_str();
        let illegal = || {
            let shown = super::keys::quote(value.as_bytes());
            Refusal::protocol(format!("`{}={shown}` is not a legal value", row.name))
        };
        let bounded = |low: u32, high: u32| {
            number(value)
                .filter(|n| (low..=high).contains(n))
                .ok_or_else(illegal)
        };
        let boolean = || match value {
            "Yes" => Ok(true),
            "No" => Ok(false),
            _ => Err(illegal()),
        };
        let answer = match row.rule {
            Rule::Declare => return Ok(()),
            Rule::DeclareNumber(low, high) => {
                self.touched = true;
                self.result.set_number(row.key, bounded(low, high)?);
                return Ok(());
            }
            Rule::List(ours, must) => match self.chosen(row.key, value, ours) {
                Some(chosen) => {
                    self.result.set_bool(row.key, chosen == "CRC32C");
                    Cow::Borrowed(chosen)
                }
                None if must => return Err(illegal()),
                None => "Reject".into(),
            },
            Rule::BoolOr(ours) => self.result.set_bool(row.key, boolean()? || ours),
            Rule::BoolAnd(ours) => self.result.set_bool(row.key, boolean()? && ours),
            Rule::Min(low, high, ours) => self
                .result
                .set_number(row.key, bounded(low, high)?.min(ours)),
            Rule::Max(low, high, ours) => self
                .result
                .set_number(row.key, bounded(low, high)?.max(ours)),
            Rule::Fixed(answer) => answer.into(),
        };
        self.touched = true;
        let answer = match row.key {
            Key::FirstBurstLength => Answer::FirstBurst,
            _ => Answer::Text(answer),
        };
        self.pending.push(Pending {
            name: Cow::Borrowed(row.name),
            answer,
            operational: true,
        });
        Ok(())
    }

    /// A digest by the policy, anything else as the offer's order has it.
    fn chosen(&self, key: Key, offer: &str, ours: &[&'static str]) -> Option<&'static str> {
        match key {
            Key::HeaderDigest | Key::DataDigest => self.digests.choose(offer, ours),
            _ => Digests::Offered.choose(offer, ours),
        }
    }

    /// Answers what was offered since the last call, in the order of the offers. In the security stage
    /// only unknown keys are answered; offers of operational keys wait.
    pub fn answer(&mut self, operational: bool, text: &mut Builder) {
        let first_burst = self.result.first_burst.min(self.result.max_burst);
        for pending in &self.pending {
            match &pending.answer {
                _ if pending.operational && !operational => {}
                Answer::Text(answer) => {
                    text.push(&pending.name, answer);
                }
                Answer::FirstBurst => {
                    self.result.first_burst = first_burst;
                    text.push(&pending.name, &first_burst.to_string());
                }
            }
        }
        self.pending
            .retain(|pending| pending.operational && !operational);
        if operational && self.touched && !self.declared {
            self.declared = true;
            self.result.target_mrdsl = TARGET_MRDSL;
            text.push("MaxRecvDataSegmentLength", &TARGET_MRDSL.to_string());
        }
    }

    /// What was agreed so far.
    #[must_use]
    pub fn result(&self) -> Negotiated {
        let mut result = self.result.clone();
        result.first_burst = result.first_burst.min(result.max_burst);
        result
    }
}

impl Negotiated {
    /// Keeps a number where the session needs it, and spells it as an answer.
    fn set_number(&mut self, key: Key, value: u32) -> Cow<'static, str> {
        let short = || u16::try_from(value).unwrap_or(u16::MAX);
        match key {
            Key::MaxRecvDataSegmentLength => self.initiator_mrdsl = value,
            Key::MaxBurstLength => self.max_burst = value,
            Key::FirstBurstLength => self.first_burst = value,
            Key::DefaultTime2Wait => self.time2wait = short(),
            Key::DefaultTime2Retain => self.time2retain = short(),
            Key::MaxOutstandingR2T => self.max_outstanding_r2t = short(),
            // One value is possible and implied: connections, recovery level, protocol level.
            _ => {}
        }
        value.to_string().into()
    }

    /// Keeps a boolean where the session needs it, and spells it as an answer.
    fn set_bool(&mut self, key: Key, value: bool) -> Cow<'static, str> {
        match key {
            Key::HeaderDigest => self.header_digest = value,
            Key::DataDigest => self.data_digest = value,
            Key::InitialR2T => self.initial_r2t = value,
            Key::ImmediateData => self.immediate_data = value,
            // One value is possible and implied: order of data, no RDMA.
            _ => {}
        }
        yes_no(value).into()
    }
}

#[cfg(test)]
#[path = "params_test.rs"]
mod test;
