//! The login phase as a pure machine. (Skeleton: the owner completes it; names and signatures are the contract.)
//!
//! The shell (or a test) feeds login requests and the answers to the machine's questions, and carries
//! out what `poll` says, in order.

use std::time::Instant;

use super::params::{Negotiated, SessionType};
use super::pdu::Bhs;
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
    /// When the connection was accepted.
    pub accepted: Instant,
}

/// The machine.
#[derive(Debug)]
pub struct Login {}

impl Login {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(_options: Options) -> Self {
        todo!()
    }
    /// Takes in an event.
    pub fn apply(&mut self, _event: Event<'_>) {
        todo!()
    }
    /// What to do next; call until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        todo!()
    }
    /// When the login must have come further, or the connection is closed.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        todo!()
    }
}
