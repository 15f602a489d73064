//! Text requests of the full feature phase (RFC 7143 11.10, 11.11, appendix C): SendTargets, and the few
//! keys that may still be declared. A pure machine, one per connection.
//!
//! It yields responses without the sequence numbers (bytes 24 to 35): the connection numbers them, as it
//! numbers every response. One exchange is open at a time; a new one (TTT = ffffffff) ends an old one.

use super::keys::{Builder, Chain, Pair, Pieces, parse};
use super::params::{Key, Negotiated, Phase, SessionType, find};
use super::pdu::{Bhs, RESERVED_TAG, op};
use crate::limits::{LOGIN_KEYS_MAX, SEND_TARGETS_BYTES_MAX};
use crate::names::Iqn;

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;
/// Reject reason: protocol error (RFC 7143 11.17.1).
pub const REJECT_PROTOCOL: u8 = 0x04;

/// What the connection must do about a text request.
#[derive(Debug)]
pub enum Step {
    /// Send this text response; number it first.
    Send(Bhs, Vec<u8>),
    /// Send a Reject with this reason and the request's header.
    Reject(u8),
    /// Find these targets, then call [`Text::targets`].
    Targets(Wanted),
}

/// Which targets SendTargets asks for. Only those that this initiator may log in to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    All,
    /// This one, if it is one of them.
    One(Iqn),
}

/// A target and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// TargetName.
    pub name: Iqn,
    /// `ip:port` of each portal (IPv6 in brackets).
    pub portals: Vec<String>,
}

/// The exchange that is open.
#[derive(Debug)]
enum State {
    /// None.
    Idle,
    /// The request comes in pieces; the next carries this tag.
    Gathering(u32, Chain),
    /// The connection looks for targets; the answers to other keys wait.
    Asked(Builder),
    /// The answer goes out in pieces; the next request carries this tag and no data.
    Sending(u32, Pieces),
    /// Answered, but the initiator has not set F yet.
    Open(u32),
}

/// Text negotiation of one connection.
#[derive(Debug)]
pub struct Text {
    session: SessionType,
    own: Option<Iqn>,
    portal_group: u16,
    mrdsl: u32,
    state: State,
    tags: u32,
    itt: u32,
    lun: u64,
    last: bool,
}

impl Text {
    /// For a session of this type; `own` is the target of a normal session.
    #[must_use]
    pub fn new(
        session: SessionType,
        own: Option<Iqn>,
        portal_group: u16,
        agreed: &Negotiated,
    ) -> Self {
        Self {
            session,
            own,
            portal_group,
            mrdsl: agreed.initiator_mrdsl,
            state: State::Idle,
            tags: 0,
            itt: RESERVED_TAG,
            lun: 0,
            last: true,
        }
    }

    /// The largest data segment the initiator takes; a text request may declare a new one.
    #[must_use]
    pub const fn initiator_mrdsl(&self) -> u32 {
        self.mrdsl
    }

    /// Takes in a text request with its data segment.
    pub fn request(&mut self, bhs: &Bhs, data: &[u8]) -> Step {
        let state = std::mem::replace(&mut self.state, State::Idle);
        let more = bhs.flags() & CONTINUE != 0;
        let last = bhs.flags() & FINAL != 0;
        if (more && last) || bhs.itt() == RESERVED_TAG {
            return Step::Reject(REJECT_PROTOCOL);
        }
        let known = bhs.itt() == self.itt;
        let mut chain = match state {
            _ if bhs.ttt() == RESERVED_TAG => Chain::default(),
            State::Gathering(tag, chain) if known && tag == bhs.ttt() => chain,
            State::Open(tag) if known && tag == bhs.ttt() => Chain::default(),
            State::Sending(tag, pieces)
                if known && tag == bhs.ttt() && data.is_empty() && !more =>
            {
                self.last = last;
                return self.send(pieces);
            }
            _ => return Step::Reject(REJECT_PROTOCOL),
        };
        self.itt = bhs.itt();
        self.lun = bhs.lun();
        self.last = last;
        if chain.push(data).is_err() {
            return Step::Reject(REJECT_PROTOCOL);
        }
        if more {
            let tag = self.tag();
            self.state = State::Gathering(tag, chain);
            return Step::Send(self.response(0, tag), Vec::new());
        }
        match parse(&chain.take(), LOGIN_KEYS_MAX) {
            Ok(pairs) => self.answer(&pairs),
            Err(_) => Step::Reject(REJECT_PROTOCOL),
        }
    }

    fn answer(&mut self, pairs: &[Pair]) -> Step {
        let mut text = Builder::new();
        let mut wanted = None;
        for (at, pair) in pairs.iter().enumerate() {
            if pairs.iter().take(at).any(|earlier| earlier.key == pair.key) {
                return Step::Reject(REJECT_PROTOCOL);
            }
            match find(&pair.key).map(|row| (row.key, row.phase)) {
                None => {
                    text.push(&pair.key, "NotUnderstood");
                }
                Some((Key::SendTargets, _)) => match self.wanted(&pair.value) {
                    Some(which) => wanted = Some(which),
                    None => {
                        text.push(&pair.key, "Reject");
                    }
                },
                Some((Key::MaxRecvDataSegmentLength, _)) => {
                    match super::keys::number(&pair.value).filter(|n| (512..1 << 24).contains(n)) {
                        Some(len) => self.mrdsl = len,
                        None => return Step::Reject(REJECT_PROTOCOL),
                    }
                }
                Some((_, Phase::Any)) => {}
                Some(_) => {
                    text.push(&pair.key, "Reject");
                }
            }
        }
        match wanted {
            None => self.send(Pieces::new(text.into_bytes())),
            Some(which) => {
                self.state = State::Asked(text);
                Step::Targets(which)
            }
        }
    }

    /// What a value of SendTargets asks for; `None` when it is not one (RFC 7143 appendix C). In a
    /// normal session `All` means the session's own target: libiscsi asks so, and no more is told.
    fn wanted(&self, value: &str) -> Option<Wanted> {
        match (self.session, &self.own) {
            (SessionType::Discovery, _) if value == "All" => Some(Wanted::All),
            (SessionType::Discovery, _) => Iqn::parse(value).ok().map(Wanted::One),
            (SessionType::Normal, Some(own)) => {
                let is_own = Iqn::parse(value).is_ok_and(|name| name == *own);
                (value.is_empty() || value == "All" || is_own).then(|| Wanted::One(own.clone()))
            }
            (SessionType::Normal, None) => None,
        }
    }

    /// Answers [`Step::Targets`]. The answer ends at a whole target before
    /// [`SEND_TARGETS_BYTES_MAX`].
    pub fn targets(&mut self, found: &[Found]) -> Step {
        let State::Asked(mut text) = std::mem::replace(&mut self.state, State::Idle) else {
            return Step::Reject(REJECT_PROTOCOL);
        };
        for target in found {
            if text.len() >= SEND_TARGETS_BYTES_MAX {
                break;
            }
            text.push("TargetName", target.name.as_str());
            for portal in &target.portals {
                text.push("TargetAddress", &format!("{portal},{}", self.portal_group));
            }
        }
        self.send(Pieces::new(text.into_bytes()))
    }

    /// The next piece of an answer, and what the initiator must do to go on.
    fn send(&mut self, mut pieces: Pieces) -> Step {
        let len_max = usize::try_from(self.mrdsl).unwrap_or(usize::MAX);
        let (piece, more) = pieces.next(len_max);
        let piece = piece.to_vec();
        let (flags, tag) = match (more, self.last) {
            (true, _) => (CONTINUE, self.tag()),
            (false, true) => (FINAL, RESERVED_TAG),
            (false, false) => (0, self.tag()),
        };
        self.state = match (more, self.last) {
            (true, _) => State::Sending(tag, pieces),
            (false, true) => State::Idle,
            (false, false) => State::Open(tag),
        };
        Step::Send(self.response(flags, tag), piece)
    }

    fn response(&self, flags: u8, tag: u32) -> Bhs {
        let mut bhs = Bhs::new(op::TEXT_RESPONSE);
        bhs.put_u8(1, flags);
        bhs.put_u64(8, self.lun);
        bhs.put_u32(16, self.itt);
        bhs.put_u32(20, tag);
        bhs
    }

    /// A tag that no R2T of ours uses: the top byte is kept for text.
    fn tag(&mut self) -> u32 {
        self.tags = self.tags.wrapping_add(1) & 0x00ff_ffff;
        TEXT_TAGS | self.tags
    }
}

/// Target transfer tags of text exchanges are `TEXT_TAGS | 24 bits`; other tags keep out of there.
pub const TEXT_TAGS: u32 = 0x7e00_0000;

#[cfg(test)]
mod test {
    use super::*;
    use proptest::prelude::*;

    fn iqn(text: &str) -> Iqn {
        Iqn::parse(text).unwrap()
    }

    fn discovery(mrdsl: u32) -> Text {
        let agreed = Negotiated {
            initiator_mrdsl: mrdsl,
            ..Negotiated::default()
        };
        Text::new(SessionType::Discovery, None, 1, &agreed)
    }

    fn normal() -> Text {
        let own = Some(iqn("iqn.2026-11.x:own"));
        Text::new(SessionType::Normal, own, 1, &Negotiated::default())
    }

    fn request(flags: u8, itt: u32, ttt: u32) -> Bhs {
        let mut bhs = Bhs::new(op::TEXT);
        bhs.put_u8(1, flags);
        bhs.put_u32(16, itt);
        bhs.put_u32(20, ttt);
        bhs
    }

    fn first(flags: u8) -> Bhs {
        request(flags, 5, RESERVED_TAG)
    }

    fn found(count: usize) -> Vec<Found> {
        let target = |n| Found {
            name: iqn(&format!("iqn.2026-11.x:node{n:03}")),
            portals: vec!["10.0.0.1:3260".into(), "[fd00::1]:3260".into()],
        };
        (0..count).map(target).collect()
    }

    fn sent(step: Step) -> (u8, u32, String) {
        match step {
            Step::Send(bhs, data) => (bhs.flags(), bhs.ttt(), String::from_utf8(data).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn wanted(step: Step) -> Wanted {
        match step {
            Step::Targets(which) => which,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn send_targets_lists_name_and_portals_with_the_group() {
        let mut text = discovery(8192);
        let which = wanted(text.request(&first(FINAL), b"SendTargets=All\0"));
        assert_eq!(which, Wanted::All);
        let (flags, tag, answer) = sent(text.targets(&found(1)));
        assert_eq!((flags, tag), (FINAL, RESERVED_TAG));
        assert_eq!(
            answer,
            "TargetName=iqn.2026-11.x:node000\0TargetAddress=10.0.0.1:3260,1\0\
             TargetAddress=[fd00::1]:3260,1\0"
        );
    }

    #[test]
    fn a_normal_session_learns_of_its_own_target_only() {
        let own = Wanted::One(iqn("iqn.2026-11.x:own"));
        for ask in [
            "SendTargets=All\0",
            "SendTargets=\0",
            "SendTargets=iqn.2026-11.x:own\0",
        ] {
            assert_eq!(wanted(normal().request(&first(FINAL), ask.as_bytes())), own);
        }
        let other = normal().request(&first(FINAL), b"SendTargets=iqn.2026-11.x:other\0");
        assert_eq!(sent(other).2, "SendTargets=Reject\0");
    }

    #[test]
    fn near_misses_fail_and_a_good_request_after_them_succeeds() {
        for mut text in [normal(), discovery(8192)] {
            for (ask, answer) in [
                ("SendTargets=Alle\0", "SendTargets=Reject\0"),
                ("SendTargets=A\0", "SendTargets=Reject\0"),
                ("sENDtARGETS=aLL\0", "sENDtARGETS=NotUnderstood\0"),
                (
                    "SendTargetsPlease=All\0",
                    "SendTargetsPlease=NotUnderstood\0",
                ),
            ] {
                assert_eq!(sent(text.request(&first(FINAL), ask.as_bytes())).2, answer);
            }
            wanted(text.request(&first(FINAL), b"SendTargets=All\0"));
        }
    }

    #[test]
    fn long_answers_are_split_by_the_initiators_limit() {
        let mut text = discovery(8192);
        let declare = b"MaxRecvDataSegmentLength=512\0SendTargets=All\0";
        wanted(text.request(&first(FINAL), declare));
        assert_eq!(text.initiator_mrdsl(), 512);
        let mut whole = String::new();
        let mut step = text.targets(&found(40));
        loop {
            let (flags, tag, piece) = sent(step);
            assert!(piece.len() <= 512);
            whole.push_str(&piece);
            if flags == FINAL {
                assert_eq!(tag, RESERVED_TAG);
                break;
            }
            assert_eq!(flags, CONTINUE);
            assert_ne!(tag, RESERVED_TAG);
            step = text.request(&request(FINAL, 5, tag), b"");
        }
        assert_eq!(whole.matches("TargetName=").count(), 40);
        assert!(whole.ends_with("[fd00::1]:3260,1\0"));
    }

    #[test]
    fn a_request_may_come_in_pieces_cut_anywhere() {
        let whole = b"SendTargets=All\0X-a=1\0";
        for cut in 0..=whole.len() {
            let mut text = discovery(8192);
            let (head, tail) = whole.split_at(cut);
            let (flags, tag, data) = sent(text.request(&first(CONTINUE), head));
            assert_eq!((flags, data.as_str()), (0, ""));
            assert_eq!(
                wanted(text.request(&request(FINAL, 5, tag), tail)),
                Wanted::All
            );
            let (_, _, answer) = sent(text.targets(&found(1)));
            assert!(
                answer.starts_with("X-a=NotUnderstood\0TargetName="),
                "{answer}"
            );
        }
    }

    #[test]
    fn without_f_the_exchange_stays_open() {
        let mut text = discovery(8192);
        wanted(text.request(&first(0), b"SendTargets=All\0"));
        let (flags, tag, answer) = sent(text.targets(&found(1)));
        assert_eq!(flags, 0);
        assert!(!answer.is_empty());
        let (flags, last, answer) = sent(text.request(&request(FINAL, 5, tag), b""));
        assert_eq!((flags, last, answer.as_str()), (FINAL, RESERVED_TAG, ""));
    }

    #[test]
    fn an_open_exchange_belongs_to_its_task() {
        let mut text = normal();
        let (_, tag, _) = sent(text.request(&first(0), b"X-a=1\0"));
        let stranger = text.request(&request(FINAL, 6, tag), b"");
        assert!(matches!(stranger, Step::Reject(REJECT_PROTOCOL)));
        let (_, tag, _) = sent(text.request(&first(CONTINUE), b"X-a"));
        let stranger = text.request(&request(FINAL, 6, tag), b"=1\0");
        assert!(matches!(stranger, Step::Reject(REJECT_PROTOCOL)));
    }

    #[test]
    fn protocol_errors_are_rejected_and_do_no_harm() {
        let mut text = discovery(512);
        let rejected = |step| matches!(step, Step::Reject(REJECT_PROTOCOL));
        assert!(rejected(text.request(&first(FINAL | CONTINUE), b"")));
        assert!(rejected(text.request(&request(FINAL, 5, 77), b"")));
        assert!(rejected(
            text.request(&request(FINAL, RESERVED_TAG, RESERVED_TAG), b"")
        ));
        assert!(rejected(text.request(&first(FINAL), b"no equals sign\0")));
        assert!(rejected(
            text.request(&first(FINAL), b"MaxRecvDataSegmentLength=1\0")
        ));
        assert!(rejected(
            text.request(&first(FINAL), b"SendTargets=All\0SendTargets=All\0")
        ));
        assert!(rejected(text.targets(&found(1))));
        wanted(text.request(&first(FINAL), b"SendTargets=All\0"));
        let (_, tag, _) = sent(text.targets(&found(40)));
        assert!(
            rejected(text.request(&request(FINAL, 6, tag), b"")),
            "foreign task tag"
        );
        wanted(text.request(&first(FINAL), b"SendTargets=All\0"));
    }

    #[test]
    fn keys_of_the_login_are_rejected_here() {
        let (_, _, answer) =
            sent(normal().request(&first(FINAL), b"HeaderDigest=None\0InitiatorAlias=a\0"));
        assert_eq!(answer, "HeaderDigest=Reject\0");
    }

    #[test]
    fn an_empty_chain_is_an_empty_text() {
        let mut text = normal();
        let (_, tag, _) = sent(text.request(&first(CONTINUE), b""));
        let (flags, _, answer) = sent(text.request(&request(FINAL, 5, tag), b""));
        assert_eq!((flags, answer.as_str()), (FINAL, ""));
    }

    #[test]
    fn a_huge_list_ends_at_a_whole_target() {
        let mut text = discovery(16_000_000);
        wanted(text.request(&first(FINAL), b"SendTargets=All\0"));
        let (_, _, answer) = sent(text.targets(&vec![found(1).remove(0); 20_000]));
        assert!(answer.len() < SEND_TARGETS_BYTES_MAX + 1024);
        assert!(answer.ends_with(",1\0"));
    }

    proptest! {
        #[test]
        fn any_requests_are_answered(
            requests in proptest::collection::vec(
                (any::<u8>(), 0_u32..3, 0_u32..4, proptest::collection::vec(any::<u8>(), 0..80)), 0..20)
        ) {
            let mut text = discovery(512);
            for (flags, itt, ttt, data) in requests {
                let ttt = if ttt == 0 { RESERVED_TAG } else { TEXT_TAGS | ttt };
                if let Step::Targets(_) = text.request(&request(flags, itt, ttt), &data) {
                    let step = text.targets(&found(30));
                    prop_assert!(matches!(step, Step::Send(..)));
                }
            }
        }
    }
}
