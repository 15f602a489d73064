//! The login phase as a pure machine (RFC 7143 6.3, 11.12, 11.13; CHAP 12.1).
//!
//! The shell (or a test) feeds login requests and the answers to the machine's questions, and carries
//! out what `poll` says, in order. No I/O, no clock, no chance: entropy and the time of accept come in
//! with [`Options`].
//!
//! ```text
//!  Request -> Ask .. Access -> Send .. Request .. Send -> Enter .. Entered -> Send, Finished
//!     any fault: Send(status), Close; so does Refused
//! ```
//!
//! What initiators force on us: iPXE sets T in every request, also in the middle of CHAP, so T is held
//! back and is no fault; a stage is never jumped unasked; no one reaches the operational stage, `Enter`,
//! or learns whether a name exists, before the authentication that the head demands is done.

use std::collections::VecDeque;
use std::time::Instant;

use super::chap::{Algorithms, Challenger, ChapAnswer, ChapKeys};
use super::keys::{Builder, Chain, Pair, parse, quote};
use super::params::{Key, Negotiated, Negotiation, Phase, Refusal, SessionType, find, status};
use super::pdu::{Bhs, op};
use crate::limits::{
    COMMAND_WINDOW, FIRST_PDU_WAIT, LOGIN_KEYS_MAX, LOGIN_PDUS_MAX, LOGIN_WAIT, TEXT_CHAIN_MAX,
};
use crate::names::Iqn;

/// What the machine hears.
#[derive(Debug)]
pub enum Event<'a> {
    /// A login request with its whole data segment (digests are off during login).
    Request(&'a Bhs, &'a [u8]),
    /// The answer to `Output::Ask`.
    Access(Access),
    /// The answer to `Output::Enter`: the session handle to tell the initiator; older sessions are gone.
    Entered {
        /// Target session identifying handle, not zero.
        tsih: u16,
    },
    /// Entering is impossible: Status-Class and -Detail, such as 0x0302.
    Refused {
        /// The status.
        status: u16,
        /// The cause, for the log.
        why: String,
    },
}

/// Who asks for what, known after the first request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// InitiatorName.
    pub initiator: Iqn,
    /// TargetName; none in a discovery session.
    pub target: Option<Iqn>,
    /// SessionType.
    pub session_type: SessionType,
    /// ISID: says what kind of initiator it is.
    pub isid: [u8; 6],
}

/// What the head decides about an `Ask`.
#[derive(Clone, Debug)]
pub enum Access {
    /// Go on; CHAP is demanded when credentials are given.
    Allow {
        /// CHAP the initiator must pass.
        chap: Option<Credentials>,
        /// CHAP with which we prove ourselves when asked (mutual).
        mutual: Option<Credentials>,
    },
    /// No such target, or not for this initiator: fails as a wrong secret would (names stay hidden)
    /// when CHAP is the rule, else with 0x0203.
    Deny {
        /// Demand CHAP first, then fail with 0x0201.
        behind_chap: bool,
        /// Status when not behind CHAP.
        status: u16,
        /// For the log.
        why: String,
    },
    /// Login redirection (0x0101) to `TargetAddress` = `host:port`.
    Redirect(String),
}

/// A CHAP user and its secret. `Debug` hides the secret.
#[derive(Clone)]
pub struct Credentials {
    /// CHAP_N.
    pub user: String,
    /// The shared secret.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, secret)", self.user)
    }
}

/// What the shell must do next.
#[derive(Debug)]
pub enum Output {
    /// Send this login response (data unpadded; the sender pads).
    Send(Bhs, Vec<u8>),
    /// Decide access, then `Event::Access`.
    Ask(Ask),
    /// Authentication and negotiation are complete: make room for the session (reinstatement, RFC 7143
    /// 6.3.5), then `Event::Entered` or `Event::Refused`.
    Enter(Box<Established>),
    /// The final response was given to `Send`; full feature phase begins after it.
    Finished,
    /// Flush what was sent, then close; for the log.
    Close(String),
}

/// A login that succeeded.
#[derive(Clone, Debug)]
pub struct Established {
    /// Who.
    pub ask: Ask,
    /// What was agreed.
    pub negotiated: Negotiated,
    /// Connection id the initiator chose.
    pub cid: u16,
    /// CmdSN that the first command of the full feature phase carries.
    pub cmd_sn: u32,
    /// StatSN of the next response after the final login response.
    pub stat_sn: u32,
    /// Authenticated by CHAP.
    pub authenticated: bool,
    /// We proved ourselves in turn (mutual CHAP).
    pub proven: bool,
}

/// Settings of the machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// TargetPortalGroupTag.
    pub portal_group: u16,
    /// First StatSN (any value; the shell draws it at random).
    pub first_stat_sn: u32,
    /// Random bytes for this login: CHAP identifier and challenge.
    pub entropy: [u8; 64],
    /// Digests that CHAP may use.
    pub algorithms: Algorithms,
    /// When the connection was accepted.
    pub accepted: Instant,
}

/// T: ready to go to the next stage.
const TRANSIT: u8 = 0x80;
/// C: the text goes on in the next PDU.
const CONTINUE: u8 = 0x40;

/// Stages as the CSG and NSG fields number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Security = 0,
    Operational = 1,
    FullFeature = 3,
}

/// Where the machine stands between requests.
#[derive(Debug)]
enum State {
    /// A request may come.
    Listening,
    /// `Ask` is out; the first request's pairs wait for the answer.
    Asked(Turn, Vec<Pair>),
    /// `Enter` is out; the final response waits for the answer.
    Entering(Turn, Vec<u8>),
    /// Finished or closed.
    Over,
}

/// The stage fields of one request.
#[derive(Clone, Copy, Debug)]
struct Turn {
    stage: Stage,
    /// T was set, with this NSG.
    next: Option<Stage>,
    /// C was set.
    more: bool,
}

impl Turn {
    fn of(bhs: &Bhs) -> Result<Self, Refusal> {
        let flags = bhs.flags();
        let stage = match flags >> 2 & 3 {
            0 => Stage::Security,
            1 => Stage::Operational,
            other => {
                return Err(Refusal::protocol(format!(
                    "there is no login stage {other}"
                )));
            }
        };
        let next = match (flags & TRANSIT != 0, flags & 3) {
            (false, _) => None,
            (true, 1) => Some(Stage::Operational),
            (true, 3) => Some(Stage::FullFeature),
            (true, other) => {
                return Err(Refusal::protocol(format!("there is no next stage {other}")));
            }
        };
        let more = flags & CONTINUE != 0;
        if more && next.is_some() {
            return Err(Refusal::protocol("T and C are both set"));
        }
        if next.is_some_and(|next| next <= stage) {
            return Err(Refusal::protocol(
                "the next stage is not after the current one",
            ));
        }
        Ok(Self { stage, next, more })
    }
}

/// The header fields that stay the same through a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fixed {
    isid: [u8; 6],
    tsih: u16,
    cid: u16,
    itt: u32,
}

impl Fixed {
    fn of(bhs: &Bhs) -> Self {
        Self {
            isid: std::array::from_fn(|at| bhs.u8_at(8 + at)),
            tsih: bhs.u16_at(14),
            cid: bhs.u16_at(20),
            itt: bhs.itt(),
        }
    }
}

/// How far authentication has come.
#[derive(Debug)]
enum Auth {
    /// The head has not said yet.
    Undecided,
    /// None is demanded.
    Open,
    /// CHAP is demanded, but AuthMethod is not agreed yet.
    Demanded(Challenger),
    /// AuthMethod=CHAP was agreed; the exchange goes on.
    Underway(Challenger),
    /// CHAP was passed; true when we proved ourselves in turn.
    Passed(bool),
}

/// The machine.
#[derive(Debug)]
pub struct Login {
    options: Options,
    out: VecDeque<Output>,
    state: State,
    heard: bool,
    pdus: u32,
    keys: usize,
    fixed: Option<Fixed>,
    stage: Option<Stage>,
    cmd_sn: u32,
    stat_sn: u32,
    text: Chain,
    ask: Option<Ask>,
    auth: Auth,
    negotiation: Negotiation,
    portal_group_told: bool,
}

impl Login {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            stat_sn: options.first_stat_sn,
            options,
            out: VecDeque::new(),
            state: State::Listening,
            heard: false,
            pdus: 0,
            keys: 0,
            fixed: None,
            stage: None,
            cmd_sn: 0,
            text: Chain::default(),
            ask: None,
            auth: Auth::Undecided,
            negotiation: Negotiation::new(),
            portal_group_told: false,
        }
    }

    /// Takes in an event.
    pub fn apply(&mut self, event: Event<'_>) {
        let done = match event {
            _ if matches!(self.state, State::Over) => Ok(()),
            Event::Request(bhs, data) => self.request(bhs, data),
            Event::Access(access) => self.access(access),
            Event::Entered { tsih } => self.entered(tsih),
            Event::Refused { status, why } => Err(Refusal::new(status, why)),
        };
        if let Err(refusal) = done {
            self.fail(&refusal);
        }
    }

    /// What to do next; call until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When the login must have come further, or the connection is closed.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let wait = if self.heard {
            LOGIN_WAIT
        } else {
            FIRST_PDU_WAIT
        };
        self.options.accepted + wait
    }

    /// One login request: header, text, then whatever its keys ask for.
    fn request(&mut self, bhs: &Bhs, data: &[u8]) -> Result<(), Refusal> {
        if let Err(why) = check_frame(bhs, data) {
            self.close(why);
            return Ok(());
        }
        self.heard = true;
        self.pdus += 1;
        let turn = self.check_header(bhs)?;
        self.text.push(data).map_err(malformed)?;
        if turn.more {
            self.respond(turn, None, 0, Vec::new());
            return Ok(());
        }
        let pairs = parse(&self.text.take(), LOGIN_KEYS_MAX).map_err(malformed)?;
        self.keys += pairs.len();
        if self.keys > LOGIN_KEYS_MAX {
            return Err(Refusal::protocol(format!(
                "more than {LOGIN_KEYS_MAX} keys in one login"
            )));
        }
        for pair in &pairs {
            self.negotiation.mark(&pair.key)?;
        }
        if self.ask.is_some() {
            return self.proceed(turn, &pairs);
        }
        let ask = introduce(&pairs, Fixed::of(bhs).isid)?;
        self.ask = Some(ask.clone());
        self.state = State::Asked(turn, pairs);
        self.out.push_back(Output::Ask(ask));
        Ok(())
    }

    /// The checks that need no text. Sets the fields that answers echo, also for a refusal.
    fn check_header(&mut self, bhs: &Bhs) -> Result<Turn, Refusal> {
        let fixed = Fixed::of(bhs);
        let first = *self.fixed.get_or_insert(fixed);
        // A peer that counts CmdSN on during login is tolerated: its last number is where it stands.
        self.cmd_sn = bhs.cmd_sn();
        if self.pdus > LOGIN_PDUS_MAX {
            return Err(Refusal::protocol(format!(
                "more than {LOGIN_PDUS_MAX} login requests"
            )));
        }
        if !matches!(self.state, State::Listening) {
            return Err(Refusal::protocol(
                "a login request came before the last one was answered",
            ));
        }
        if bhs.u8_at(3) != 0 {
            let why = format!(
                "the lowest version the initiator speaks is {}",
                bhs.u8_at(3)
            );
            return Err(Refusal::new(status::UNSUPPORTED_VERSION, why));
        }
        let turn = Turn::of(bhs)?;
        if fixed != first {
            return Err(Refusal::protocol(
                "ISID, TSIH, CID or ITT changed during the login",
            ));
        }
        if fixed.tsih != 0 {
            // One connection per session is all we negotiate, so none can be joined.
            let why = format!(
                "TSIH {:#x} names no session that a connection may join",
                fixed.tsih
            );
            return Err(Refusal::new(status::SESSION_DOES_NOT_EXIST, why));
        }
        if *self.stage.get_or_insert(turn.stage) != turn.stage {
            return Err(Refusal::protocol("the request is not of the current stage"));
        }
        Ok(turn)
    }

    /// The head's decision about who asked.
    fn access(&mut self, access: Access) -> Result<(), Refusal> {
        let State::Asked(turn, pairs) = std::mem::replace(&mut self.state, State::Listening) else {
            return Err(Refusal::new(
                status::TARGET_ERROR,
                "access was decided though not asked",
            ));
        };
        let entropy = &self.options.entropy;
        let algorithms = self.options.algorithms;
        let demand = |chap: Challenger| Auth::Demanded(chap.with_algorithms(algorithms));
        self.auth = match access {
            Access::Allow { chap: None, .. } => Auth::Open,
            Access::Allow {
                chap: Some(chap),
                mutual,
            } => demand(Challenger::new(chap, mutual, entropy)),
            Access::Deny {
                behind_chap: true,
                why,
                ..
            } => demand(Challenger::hidden(why, entropy)),
            Access::Deny { status, why, .. } => return Err(Refusal::new(status, why)),
            Access::Redirect(address) => {
                let mut text = Builder::new();
                text.push("TargetAddress", &address);
                self.respond(turn, None, status::MOVED_TEMPORARILY, text.into_bytes());
                self.close(format!("redirected to {address}"));
                return Ok(());
            }
        };
        self.proceed(turn, &pairs)
    }

    /// A whole request of an initiator that the head has decided about.
    fn proceed(&mut self, turn: Turn, pairs: &[Pair]) -> Result<(), Refusal> {
        if turn.stage == Stage::Operational && !self.is_authenticated() {
            let why = "the operational stage was entered without the CHAP that is demanded";
            return Err(Refusal::new(status::AUTHENTICATION_FAILURE, why));
        }
        let first = !self.portal_group_told;
        let offers = self.sort(turn, pairs, first)?;
        let mut text = Builder::new();
        if let Some(methods) = &offers.methods {
            text.push("AuthMethod", self.choose_method(methods)?);
        }
        self.tell_portal_group(&mut text);
        if !offers.chap.is_empty() {
            self.chap(&offers.chap, &mut text)?;
        }
        let next = turn.next.filter(|_| self.is_authenticated());
        if turn.next.is_some() && next.is_none() && !self.negotiation.was_sent(Key::AuthMethod) {
            let why = "the initiator goes on without AuthMethod, but CHAP is demanded";
            return Err(Refusal::new(status::AUTHENTICATION_FAILURE, why));
        }
        let operational = turn.stage == Stage::Operational || next == Some(Stage::FullFeature);
        self.negotiation.answer(operational, &mut text);
        self.advance(turn, next, text.into_bytes());
        Ok(())
    }

    /// Gives each pair to whom it concerns.
    fn sort(&mut self, turn: Turn, pairs: &[Pair], first: bool) -> Result<Offers, Refusal> {
        let mut offers = Offers::default();
        for pair in pairs {
            let Some(row) = find(&pair.key) else {
                self.negotiation.unknown(&pair.key);
                continue;
            };
            match row.phase {
                Phase::First if first => {}
                Phase::Security if turn.stage == Stage::Security => {
                    offers.keep(row.key, &pair.value);
                }
                Phase::Operational | Phase::Any => self.negotiation.offer(row, pair)?,
                Phase::FullFeature => {
                    let why = format!("{} is not for the login", row.name);
                    return Err(Refusal::new(status::INVALID_DURING_LOGIN, why));
                }
                Phase::First | Phase::Security | Phase::TargetOnly => {
                    return Err(Refusal::protocol(format!("{} is out of place", row.name)));
                }
            }
        }
        Ok(offers)
    }

    /// AuthMethod follows the node's policy, within the offer.
    fn choose_method(&mut self, offer: &str) -> Result<&'static str, Refusal> {
        let (method, next) = match std::mem::replace(&mut self.auth, Auth::Undecided) {
            Auth::Demanded(challenger) => ("CHAP", Auth::Underway(challenger)),
            other => ("None", other),
        };
        self.auth = next;
        if offer.split(',').any(|offered| offered == method) {
            return Ok(method);
        }
        let offer = quote(offer.as_bytes());
        let why = format!("AuthMethod must be {method} here, but the initiator offers `{offer}`");
        Err(Refusal::new(status::AUTHENTICATION_FAILURE, why))
    }

    /// TargetPortalGroupTag goes into the first answer with text of a normal session, in whatever stage.
    fn tell_portal_group(&mut self, text: &mut Builder) {
        let normal = self
            .ask
            .as_ref()
            .is_some_and(|ask| ask.session_type == SessionType::Normal);
        if normal && !self.portal_group_told {
            text.push(
                "TargetPortalGroupTag",
                &self.options.portal_group.to_string(),
            );
        }
        self.portal_group_told = true;
    }

    fn chap(&mut self, keys: &ChapKeys, text: &mut Builder) -> Result<(), Refusal> {
        let failed = |why: String| Refusal::new(status::AUTHENTICATION_FAILURE, why);
        let Auth::Underway(challenger) = &mut self.auth else {
            return Err(failed("CHAP keys came without AuthMethod=CHAP".into()));
        };
        match challenger.hear(keys).map_err(failed)? {
            ChapAnswer::Challenge { a, i, c } => {
                text.push("CHAP_A", &a.to_string());
                text.push("CHAP_I", &i.to_string());
                text.push("CHAP_C", &c);
            }
            ChapAnswer::Passed(proof) => {
                self.auth = Auth::Passed(proof.is_some());
                if let Some((n, r)) = proof {
                    text.push("CHAP_N", &n);
                    text.push("CHAP_R", &r);
                }
            }
        }
        Ok(())
    }

    const fn is_authenticated(&self) -> bool {
        matches!(self.auth, Auth::Open | Auth::Passed(_))
    }

    /// Answers a request, and goes to `next` when there is one.
    fn advance(&mut self, turn: Turn, next: Option<Stage>, text: Vec<u8>) {
        let (Some(Stage::FullFeature), Some(ask), Some(fixed)) = (next, &self.ask, self.fixed)
        else {
            self.stage = next.or(self.stage);
            self.respond(turn, next, status::SUCCESS, text);
            return;
        };
        let established = Established {
            ask: ask.clone(),
            negotiated: self.negotiation.result(),
            cid: fixed.cid,
            cmd_sn: self.cmd_sn,
            stat_sn: self.stat_sn.wrapping_add(1),
            authenticated: matches!(self.auth, Auth::Passed(_)),
            proven: matches!(self.auth, Auth::Passed(true)),
        };
        self.state = State::Entering(turn, text);
        self.out.push_back(Output::Enter(Box::new(established)));
    }

    /// The head made room for the session.
    fn entered(&mut self, tsih: u16) -> Result<(), Refusal> {
        let State::Entering(turn, text) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(Refusal::new(
                status::TARGET_ERROR,
                "a session was entered though not asked",
            ));
        };
        if tsih == 0 {
            return Err(Refusal::new(
                status::TARGET_ERROR,
                "the session got no handle (TSIH 0)",
            ));
        }
        if let Some(fixed) = &mut self.fixed {
            fixed.tsih = tsih;
        }
        self.respond(turn, turn.next, status::SUCCESS, text);
        self.out.push_back(Output::Finished);
        Ok(())
    }

    /// Tells the peer a status and the log the cause; the peer never learns the cause.
    fn fail(&mut self, refusal: &Refusal) {
        // Only a redirect has class 1, and it needs an address: anything but 2 and 3 here is our fault.
        let status = match refusal.status >> 8 {
            2 | 3 => refusal.status,
            _ => status::TARGET_ERROR,
        };
        if let Some(fixed) = &mut self.fixed {
            fixed.tsih = 0;
        }
        let stage = self.stage.unwrap_or(Stage::Security);
        let turn = Turn {
            stage,
            next: None,
            more: false,
        };
        self.respond(turn, None, status, Vec::new());
        self.close(refusal.to_string());
    }

    fn close(&mut self, why: String) {
        self.state = State::Over;
        self.out.push_back(Output::Close(why));
    }

    /// Builds a response (RFC 7143 11.13). T and NSG are set together, when the transition is granted.
    fn respond(&mut self, turn: Turn, next: Option<Stage>, status: u16, text: Vec<u8>) {
        let mut bhs = Bhs::new(op::LOGIN_RESPONSE);
        let transit = next.map_or(0, |next| TRANSIT | next as u8);
        bhs.put_u8(1, transit | (turn.stage as u8) << 2);
        bhs.set_data_len(u32::try_from(text.len()).expect("answers are below TEXT_CHAIN_MAX"));
        if let Some(fixed) = self.fixed {
            bhs.0[8..14].copy_from_slice(&fixed.isid);
            bhs.put_u16(14, fixed.tsih);
            bhs.put_u32(16, fixed.itt);
        }
        let max_cmd_sn = self.cmd_sn.wrapping_add(COMMAND_WINDOW - 1);
        bhs.put_sequence(self.stat_sn, self.cmd_sn, max_cmd_sn);
        self.stat_sn = self.stat_sn.wrapping_add(1);
        bhs.put_u16(36, status);
        self.out.push_back(Output::Send(bhs, text));
    }
}

/// The keys of the security stage in one request.
#[derive(Debug, Default)]
struct Offers {
    methods: Option<String>,
    chap: ChapKeys,
}

impl Offers {
    fn keep(&mut self, key: Key, value: &str) {
        let place = match key {
            Key::AuthMethod => &mut self.methods,
            Key::ChapA => &mut self.chap.a,
            Key::ChapN => &mut self.chap.n,
            Key::ChapR => &mut self.chap.r,
            Key::ChapI => &mut self.chap.i,
            _ => &mut self.chap.c,
        };
        *place = Some(value.to_owned());
    }
}

/// What is wrong so early that no answer is due (RFC 7143 11.12).
fn check_frame(bhs: &Bhs, data: &[u8]) -> Result<(), String> {
    if bhs.opcode() != op::LOGIN || !bhs.immediate() {
        return Err(format!(
            "a PDU {:#04x} came before the login was complete",
            bhs.u8_at(0)
        ));
    }
    if bhs.ahs_len() != 0 {
        return Err("a login request came with an AHS".into());
    }
    if data.len() > TEXT_CHAIN_MAX || usize::try_from(bhs.data_len()) != Ok(data.len()) {
        return Err(format!(
            "a login request came with {} bytes of data",
            bhs.data_len()
        ));
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn malformed(error: super::keys::TextError) -> Refusal {
    Refusal::protocol(format!("malformed text: {error}"))
}

/// Who asks for what, from the first request.
fn introduce(pairs: &[Pair], isid: [u8; 6]) -> Result<Ask, Refusal> {
    let value = |key: &str| {
        pairs
            .iter()
            .find(|pair| pair.key == key)
            .map(|pair| pair.value.as_str())
    };
    let missing = |key| Refusal::new(status::MISSING_PARAMETER, format!("{key} is missing"));
    let name = |key, text: &str| {
        // The parser's own error holds the text as it came, which is not fit for a log.
        let bad = || {
            Refusal::protocol(format!(
                "{key} `{}` is no iSCSI name",
                quote(text.as_bytes())
            ))
        };
        Iqn::parse(text).map_err(|_| bad())
    };
    let initiator = value("InitiatorName").ok_or_else(|| missing("InitiatorName"))?;
    let initiator = name("InitiatorName", initiator)?;
    let session_type = match value("SessionType") {
        None | Some("Normal") => SessionType::Normal,
        Some("Discovery") => SessionType::Discovery,
        Some(other) => {
            let why = format!("there is no SessionType `{}`", quote(other.as_bytes()));
            return Err(Refusal::new(status::SESSION_TYPE_NOT_SUPPORTED, why));
        }
    };
    let target = match (session_type, value("TargetName")) {
        (SessionType::Discovery, _) => None,
        (SessionType::Normal, None) => return Err(missing("TargetName")),
        (SessionType::Normal, Some(text)) => Some(name("TargetName", text)?),
    };
    Ok(Ask {
        initiator,
        target,
        session_type,
        isid,
    })
}

#[cfg(test)]
#[path = "login_test.rs"]
mod test;
