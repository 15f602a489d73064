//! The initiator's side of the login, pure: what known initiators offer, and a strict reading of the
//! target's answers (as strict as EDK2 and open-iscsi together).

use crate::iscsi::chap::{Algorithm, decode, hex};
use crate::iscsi::keys::{Builder, Chain, Pair, number, parse};
use crate::iscsi::login::Credentials;
use crate::iscsi::params::{Key, Negotiated, Phase, Rule, find, status};
use crate::iscsi::pdu::{Bhs, op};
use crate::limits::{LOGIN_KEYS_MAX, LOGIN_PDUS_MAX, TEXT_CHAIN_MAX};

use super::profiles::{OPEN_ISCSI, Profile};
use super::{Error, ErrorKind};

/// One login to be made.
#[derive(Clone, Debug)]
pub struct Offer {
    /// InitiatorName, sent as it is.
    pub initiator: String,
    /// TargetName; none makes a discovery session.
    pub target: Option<String>,
    /// How to behave.
    pub profile: Profile,
    /// ISID.
    pub isid: [u8; 6],
    /// First CmdSN.
    pub cmd_sn: u32,
    /// Credentials with which we prove ourselves.
    pub chap: Option<Credentials>,
    /// Credentials the target must prove in turn.
    pub mutual: Option<Credentials>,
    /// Keys whose offers replace the profile's, or are added at the end.
    pub keys: Vec<(String, String)>,
    /// CHAP identifier and challenge for `mutual`; must be fresh then.
    pub entropy: [u8; 33],
}

impl Offer {
    /// A normal session without CHAP, as open-iscsi makes it.
    #[must_use]
    pub fn new(initiator: &str, target: &str) -> Self {
        Self {
            initiator: initiator.to_owned(),
            target: Some(target.to_owned()),
            profile: OPEN_ISCSI,
            isid: [0x00, 0x02, 0x3d, 0, 0, 1],
            cmd_sn: 1,
            chap: None,
            mutual: None,
            keys: Vec::new(),
            entropy: [0; 33],
        }
    }

    /// A discovery session.
    #[must_use]
    pub fn discovery(initiator: &str) -> Self {
        Self {
            target: None,
            ..Self::new(initiator, "")
        }
    }

    /// Offers `value` for `key`.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.keys.push((key.to_owned(), value.to_owned()));
        self
    }

    fn operational(&self) -> Vec<(String, String)> {
        let mut keys: Vec<(String, String)> = Vec::new();
        let given = self
            .profile
            .keys
            .iter()
            .map(|&(key, value)| (key.into(), value.into()));
        for (key, value) in given.chain(self.keys.iter().cloned()) {
            match keys.iter_mut().find(|(known, _)| *known == key) {
                Some(known) => known.1 = value,
                None => keys.push((key, value)),
            }
        }
        keys
    }
}

/// A login that the target granted.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    /// What was agreed, from the answers.
    pub agreed: Negotiated,
    /// The session's handle.
    pub tsih: u16,
    /// CmdSN of the first command.
    pub cmd_sn: u32,
    /// StatSN of the next response.
    pub exp_stat_sn: u32,
    /// Last CmdSN the target takes.
    pub max_cmd_sn: u32,
    /// All answers, in order.
    pub answers: Vec<(String, String)>,
}

/// What to do after an answer.
#[derive(Debug)]
pub enum Next {
    /// Send this login request.
    Send(Bhs, Vec<u8>),
    /// Full feature phase.
    Done(Box<LoggedIn>),
    /// Go to this `host:port` and begin again.
    Redirect(String),
}

/// What the next security answer must bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    Method,
    Challenge,
    Proof(Algorithm),
    Nothing,
}

/// The machine: `start`, then `answer` until it is done.
#[derive(Debug)]
pub struct Client {
    offer: Offer,
    stage: u8,
    asked: Option<u8>,
    offered: Vec<(String, String)>,
    answers: Vec<(String, String)>,
    awaiting: Awaiting,
    chain: Chain,
    stat_sn: Option<u32>,
    responses: u32,
}

const ITT: u32 = 1;

impl Client {
    /// A login that has not begun.
    #[must_use]
    pub fn new(offer: Offer) -> Self {
        let secure = offer.chap.is_some() || offer.profile.security_always;
        Self {
            stage: if secure { 0 } else { 1 },
            awaiting: if secure {
                Awaiting::Method
            } else {
                Awaiting::Nothing
            },
            offer,
            asked: None,
            offered: Vec::new(),
            answers: Vec::new(),
            chain: Chain::default(),
            stat_sn: None,
            responses: 0,
        }
    }

    /// The first request.
    pub fn start(&mut self) -> (Bhs, Vec<u8>) {
        let mut keys = vec![("InitiatorName".to_owned(), self.offer.initiator.clone())];
        let kind = match &self.offer.target {
            Some(target) => {
                keys.push(("TargetName".to_owned(), target.clone()));
                "Normal"
            }
            None => "Discovery",
        };
        keys.push(("SessionType".to_owned(), kind.to_owned()));
        let profile = self.offer.profile;
        if self.stage == 0 {
            let method = if self.offer.chap.is_some() {
                profile.auth_method
            } else {
                "None"
            };
            keys.push(("AuthMethod".to_owned(), method.to_owned()));
            if profile.one_stage {
                keys.extend(self.offer.operational());
            }
        } else {
            keys.extend(self.offer.operational());
        }
        let transit = self.stage == 1 || profile.transit_always || self.offer.chap.is_none();
        self.request(keys, transit)
    }

    /// Reads a response; says what to do next.
    pub fn answer(&mut self, bhs: &Bhs, data: &[u8]) -> Result<Next, Error> {
        self.responses += 1;
        self.check(bhs)?;
        let text = self.chain.push(data).map(|()| bhs.flags() & 0x40 != 0);
        if text.map_err(|error| protocol(error.to_string()))? {
            return Ok(self.send(Vec::new(), false));
        }
        let text = self.chain.take();
        let pairs = parse(&text, LOGIN_KEYS_MAX).map_err(|error| protocol(error.to_string()))?;
        match bhs.u16_at(36) {
            status::SUCCESS => {}
            moved if moved >> 8 == 1 => return redirect(&pairs),
            refused => {
                let context = format!("the target refused the login with status {refused:#06x}");
                return Err(Error::new(ErrorKind::Refused(refused), context));
            }
        }
        self.check_keys(&pairs)?;
        let granted = bhs.flags() & 0x80 != 0;
        if self.stage == 0 {
            let (keys, transit) = self.authenticate(&pairs, granted)?;
            if !granted {
                return Ok(self.send(keys, transit));
            }
        }
        if !granted {
            return Ok(self.send(Vec::new(), true));
        }
        self.stage = self.asked.unwrap_or(3);
        match self.stage {
            1 => Ok(self.send(self.offer.operational(), true)),
            _ => self.done(bhs).map(|done| Next::Done(Box::new(done))),
        }
    }

    /// Checks all that a strict initiator checks in the header.
    fn check(&mut self, bhs: &Bhs) -> Result<(), Error> {
        let ok = |good: bool, what: &str| {
            if good {
                Ok(())
            } else {
                Err(protocol(format!("login response: {what}")))
            }
        };
        ok(bhs.opcode() == op::LOGIN_RESPONSE, "not a login response")?;
        ok(self.responses <= LOGIN_PDUS_MAX, "too many of them")?;
        ok(bhs.itt() == ITT, "foreign task tag")?;
        ok(bhs.0[8..14] == self.offer.isid, "foreign ISID")?;
        ok(bhs.u8_at(2) == 0 && bhs.u8_at(3) == 0, "foreign version")?;
        let stat_sn = bhs.u32_at(24);
        ok(
            self.stat_sn.is_none_or(|wanted| wanted == stat_sn),
            "StatSN out of order",
        )?;
        self.stat_sn = Some(stat_sn.wrapping_add(1));
        if bhs.u16_at(36) != status::SUCCESS {
            return ok(bhs.flags() & 0x80 == 0, "T is set in a refusal");
        }
        ok(
            bhs.u32_at(28) == self.offer.cmd_sn,
            "ExpCmdSN is not our CmdSN",
        )?;
        ok(bhs.flags() >> 2 & 3 == self.stage, "another stage")?;
        let transit = bhs.flags() & 0x80 != 0;
        ok(!transit || bhs.flags() & 0x40 == 0, "T and C")?;
        ok(
            !transit || self.asked == Some(bhs.flags() & 3),
            "a stage we did not ask for",
        )?;
        let last = transit && bhs.flags() & 3 == 3;
        ok((bhs.u16_at(14) != 0) == last, "TSIH at the wrong time")
    }

    /// Every answer must belong to an offer, once; declarations of the target are few.
    fn check_keys(&mut self, pairs: &[Pair]) -> Result<(), Error> {
        let normal = self.offer.target.is_some();
        if self.answers.is_empty()
            && normal
            && !pairs.iter().any(|p| p.key == "TargetPortalGroupTag")
        {
            return Err(protocol(
                "TargetPortalGroupTag is missing in the first answer",
            ));
        }
        for Pair { key, value } in pairs {
            if self.answers.iter().any(|(known, _)| known == key) {
                return Err(protocol(format!("{key} was answered twice")));
            }
            let declared = matches!(
                key.as_str(),
                "TargetPortalGroupTag" | "MaxRecvDataSegmentLength"
            );
            let chap = self.stage == 0 && key.starts_with("CHAP_");
            let offered = self.offered.iter().any(|(known, _)| known == key);
            if !(declared || chap || offered) {
                return Err(protocol(format!("{key} was answered but not offered")));
            }
            self.answers.push((key.clone(), value.clone()));
        }
        Ok(())
    }

    /// One step of the security stage: the keys to send next, and T.
    fn authenticate(&mut self, pairs: &[Pair], granted: bool) -> Result<(Keys, bool), Error> {
        let get = |key: &str| {
            pairs
                .iter()
                .find(|pair| pair.key == key)
                .map(|pair| pair.value.as_str())
        };
        let profile = self.offer.profile;
        match self.awaiting {
            Awaiting::Method => match get("AuthMethod") {
                Some("CHAP") if self.offer.chap.is_some() && !granted => {
                    self.awaiting = Awaiting::Challenge;
                    let keys = vec![("CHAP_A".to_owned(), profile.chap_algorithms.to_owned())];
                    Ok((keys, profile.transit_always))
                }
                Some("None") if self.offer.mutual.is_none() => {
                    self.awaiting = Awaiting::Nothing;
                    Ok((Vec::new(), true))
                }
                other => Err(protocol(format!("AuthMethod was answered with {other:?}"))),
            },
            Awaiting::Challenge if granted => Err(protocol("the target skipped CHAP")),
            Awaiting::Challenge => {
                let (Some(a), Some(i), Some(c)) = (get("CHAP_A"), get("CHAP_I"), get("CHAP_C"))
                else {
                    return Err(protocol("CHAP_A, CHAP_I or CHAP_C is missing"));
                };
                Ok((self.respond(a, i, c)?, true))
            }
            Awaiting::Proof(algorithm) => {
                self.awaiting = Awaiting::Nothing;
                self.verify(algorithm, get("CHAP_N"), get("CHAP_R"))?;
                Ok((Vec::new(), true))
            }
            Awaiting::Nothing => Ok((Vec::new(), true)),
        }
    }

    fn respond(&mut self, a: &str, i: &str, c: &str) -> Result<Keys, Error> {
        let algorithm = number(a).and_then(Algorithm::of).filter(|a| {
            let offered = self.offer.profile.chap_algorithms;
            offered
                .split(',')
                .any(|offered| offered == a.number().to_string())
        });
        let algorithm = algorithm.ok_or_else(|| protocol("CHAP_A was not offered"))?;
        let identifier = number(i).and_then(|i| u8::try_from(i).ok());
        let (Some(identifier), Some(challenge)) = (identifier, decode(c, 1024)) else {
            return Err(protocol("CHAP_I or CHAP_C is malformed"));
        };
        let Some(own) = &self.offer.chap else {
            return Err(protocol("CHAP was chosen but not offered"));
        };
        let response = algorithm.response(identifier, &own.secret, &challenge);
        let mut keys = vec![
            ("CHAP_N".to_owned(), own.user.clone()),
            ("CHAP_R".to_owned(), hex(&response)),
        ];
        if self.offer.mutual.is_some() {
            let (challenge, _) = self.offer.entropy[1..].split_at(algorithm.digest_len());
            keys.push(("CHAP_I".to_owned(), self.offer.entropy[0].to_string()));
            keys.push(("CHAP_C".to_owned(), hex(challenge)));
        }
        self.awaiting = Awaiting::Proof(algorithm);
        // What was offered is answered again with other meanings: start over for the proof.
        self.answers.retain(|(key, _)| !key.starts_with("CHAP_"));
        Ok(keys)
    }

    fn verify(&self, algorithm: Algorithm, n: Option<&str>, r: Option<&str>) -> Result<(), Error> {
        let Some(mutual) = &self.offer.mutual else {
            return match (n, r) {
                (None, None) => Ok(()),
                _ => Err(protocol("a proof that was not asked for")),
            };
        };
        let (challenge, _) = self.offer.entropy[1..].split_at(algorithm.digest_len());
        let right = algorithm.response(self.offer.entropy[0], &mutual.secret, challenge);
        let given = r.and_then(|r| decode(r, algorithm.digest_len()));
        if n == Some(mutual.user.as_str()) && given == Some(right) {
            return Ok(());
        }
        let context = "the target did not prove itself: its CHAP name or response is wrong";
        Err(Error::new(ErrorKind::Untrusted, context))
    }

    /// What the answers amount to.
    fn done(&self, bhs: &Bhs) -> Result<LoggedIn, Error> {
        if self.awaiting != Awaiting::Nothing {
            return Err(protocol("the login ended before CHAP did"));
        }
        let mut agreed = Negotiated::default();
        let offered = self
            .offered
            .iter()
            .find(|(key, _)| key == "MaxRecvDataSegmentLength");
        if let Some(len) = offered.and_then(|(_, value)| number(value)) {
            agreed.initiator_mrdsl = len;
        }
        for (key, value) in &self.answers {
            let Some(row) = find(key).filter(|row| row.phase != Phase::Security) else {
                continue;
            };
            let short = || number(value).and_then(|n| u16::try_from(n).ok());
            let bad = || protocol(format!("{key}={value} is no answer"));
            if let Rule::DeclareNumber(low, high)
            | Rule::Min(low, high, _)
            | Rule::Max(low, high, _) = row.rule
                && !number(value).is_some_and(|n| (low..=high).contains(&n))
            {
                return Err(bad());
            }
            match row.key {
                Key::HeaderDigest => agreed.header_digest = value == "CRC32C",
                Key::DataDigest => agreed.data_digest = value == "CRC32C",
                Key::InitialR2T => agreed.initial_r2t = value == "Yes",
                Key::ImmediateData => agreed.immediate_data = value == "Yes",
                Key::MaxRecvDataSegmentLength => {
                    agreed.target_mrdsl = number(value).ok_or_else(bad)?;
                }
                Key::MaxBurstLength => agreed.max_burst = number(value).ok_or_else(bad)?,
                Key::FirstBurstLength => agreed.first_burst = number(value).ok_or_else(bad)?,
                Key::MaxOutstandingR2T => agreed.max_outstanding_r2t = short().ok_or_else(bad)?,
                Key::DefaultTime2Wait => agreed.time2wait = short().ok_or_else(bad)?,
                Key::DefaultTime2Retain => agreed.time2retain = short().ok_or_else(bad)?,
                Key::MaxConnections if value != "1" => return Err(bad()),
                Key::ErrorRecoveryLevel if value != "0" => return Err(bad()),
                _ => {}
            }
        }
        Ok(LoggedIn {
            agreed,
            tsih: bhs.u16_at(14),
            cmd_sn: self.offer.cmd_sn,
            exp_stat_sn: self.stat_sn.unwrap_or(0),
            max_cmd_sn: bhs.u32_at(32),
            answers: self.answers.clone(),
        })
    }

    fn send(&mut self, keys: Keys, transit: bool) -> Next {
        let (bhs, data) = self.request(keys, transit);
        Next::Send(bhs, data)
    }

    fn request(&mut self, keys: Keys, transit: bool) -> (Bhs, Vec<u8>) {
        let mut text = Builder::new();
        for (key, value) in &keys {
            text.push(key, value);
        }
        self.offered.extend(keys);
        let direct = self.stage == 1 || self.offer.profile.one_stage;
        let next = if direct { 3 } else { 1 };
        self.asked = transit.then_some(next);
        let mut bhs = Bhs::new(op::LOGIN | 0x40);
        bhs.put_u8(1, self.stage << 2 | if transit { 0x80 | next } else { 0 });
        bhs.0[8..14].copy_from_slice(&self.offer.isid);
        bhs.put_u32(16, ITT);
        bhs.put_u32(24, self.offer.cmd_sn);
        bhs.put_u32(28, self.stat_sn.unwrap_or(0));
        let data = text.into_bytes();
        debug_assert!(data.len() <= TEXT_CHAIN_MAX, "no profile comes near 8 KiB");
        bhs.set_data_len(u32::try_from(data.len()).unwrap_or(0));
        (bhs, data)
    }
}

type Keys = Vec<(String, String)>;

fn redirect(pairs: &[Pair]) -> Result<Next, Error> {
    let address = pairs.iter().find(|pair| pair.key == "TargetAddress");
    let address = address.ok_or_else(|| protocol("a redirect without TargetAddress"))?;
    Ok(Next::Redirect(address.value.clone()))
}

fn protocol(context: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, context)
}

#[cfg(test)]
mod test {
    use super::*;

    fn login(text: &str) -> Result<Next, Error> {
        let mut client = Client::new(Offer::new("iqn.a:node1", "iqn.a:target"));
        let (asked, _) = client.start();
        let mut answer = Bhs::new(op::LOGIN_RESPONSE);
        answer.put_u8(1, 0x87);
        answer.0[8..14].copy_from_slice(&asked.0[8..14]);
        answer.put_u16(14, 1);
        answer.put_u32(16, ITT);
        answer.put_sequence(7, asked.cmd_sn(), asked.cmd_sn());
        client.answer(
            &answer,
            format!("TargetPortalGroupTag=1\0{text}\0").as_bytes(),
        )
    }

    /// Found by the fuzz target `client`: a target that takes segments of no byte was believed.
    #[test]
    fn numbers_out_of_their_range_are_no_answer() {
        assert!(matches!(
            login("MaxRecvDataSegmentLength=512"),
            Ok(Next::Done(_))
        ));
        for text in [
            "MaxRecvDataSegmentLength=0",
            "MaxRecvDataSegmentLength=511",
            "MaxRecvDataSegmentLength=16777216",
            "MaxBurstLength=0",
            "FirstBurstLength=16777216",
            "MaxOutstandingR2T=0",
        ] {
            assert_eq!(
                login(text).unwrap_err().kind(),
                ErrorKind::Protocol,
                "{text}"
            );
        }
    }
}
