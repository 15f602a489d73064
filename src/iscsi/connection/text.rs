//! Text requests of the full feature phase (RFC 7143 11.10, 11.11, 13): SendTargets, and a new declaration of
//! MaxRecvDataSegmentLength. Answers longer than the initiator takes go out in parts.

use std::time::Instant;

use super::super::pdu::{Bhs, RESERVED_TAG, op};
use super::super::task::clip;
use super::{Connection, Data, Output, Queued, Scope, reason};
use crate::limits;

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;

/// Keys that are settled at login; offering them again is answered with `Reject`.
const LOGIN_ONLY: [&str; 13] = [
    "HeaderDigest",
    "DataDigest",
    "MaxConnections",
    "InitialR2T",
    "ImmediateData",
    "MaxBurstLength",
    "FirstBurstLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
];

/// A request that came, or an answer that went, in part.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    itt: u32,
    tag: u32,
    request: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    last_was_final: bool,
    immediate: bool,
}

impl Connection {
    pub(super) fn text(&mut self, bhs: &Bhs, data: &[u8], now: Instant) {
        let flags = bhs.flags();
        let tag = bhs.u32_at(20);
        if bhs.itt() == RESERVED_TAG || flags & (FINAL | CONTINUE) == FINAL | CONTINUE {
            self.reject(bhs, reason::PROTOCOL, now);
            return;
        }
        if tag == RESERVED_TAG {
            // A new exchange ends the one before (RFC 7143 11.10.4).
            self.text = Some(Exchange {
                itt: bhs.itt(),
                tag: self.function_tag(),
                ..Exchange::default()
            });
        }
        let Some(exchange) = self
            .text
            .as_mut()
            .filter(|e| e.itt == bhs.itt() && (tag == RESERVED_TAG || e.tag == tag))
        else {
            self.reject(bhs, reason::PROTOCOL, now);
            return;
        };
        if exchange.request.len() + data.len() > limits::TEXT_CHAIN_MAX {
            self.text = None;
            self.reject(bhs, reason::PROTOCOL, now);
            return;
        }
        exchange.request.extend_from_slice(data);
        exchange.last_was_final = flags & FINAL != 0;
        exchange.immediate = bhs.immediate();
        let more_to_come = flags & CONTINUE != 0;
        self.count_immediate(bhs);
        if more_to_come || self.text.as_ref().is_some_and(|e| e.sent < e.answer.len()) {
            self.text_part(more_to_come);
        } else {
            self.answer_text();
        }
    }

    /// All of a request is here: answers every key once.
    fn answer_text(&mut self) {
        let Some(exchange) = self.text.as_mut() else {
            return;
        };
        let request = std::mem::take(&mut exchange.request);
        exchange.answer.clear();
        exchange.sent = 0;
        let text = String::from_utf8_lossy(&request);
        let mut scope = None;
        let mut lines = String::new();
        for unit in text.split('\0').filter(|unit| !unit.is_empty()) {
            match unit.split_once('=') {
                Some(("SendTargets", value)) if scope.is_none() => match self.scope(value) {
                    Some(found) => scope = Some(found),
                    None => lines.push_str("SendTargets=Reject\0"),
                },
                Some((key, value)) => self.answer_key(key, value, &mut lines),
                None => {}
            }
        }
        if let Some(exchange) = self.text.as_mut() {
            exchange.answer = lines.into_bytes();
        }
        match scope {
            Some(scope) => self.actions.push_back(Output::SendTargets(scope)),
            None => self.text_part(false),
        }
    }

    /// What SendTargets asks for; none when it may not be asked here.
    fn scope(&self, value: &str) -> Option<Scope> {
        match (value, self.options.discovery) {
            ("All", true) => Some(Scope::All),
            // In a normal session only its own target is told, whatever the wording (dossier 1.4).
            ("All" | "", false) => Some(Scope::Own),
            ("", true) => None,
            (name, _) if name.starts_with("iqn.") || name.starts_with("eui.") => {
                Some(Scope::Named(name.to_owned()))
            }
            _ => None,
        }
    }

    fn answer_key(&mut self, key: &str, value: &str, lines: &mut String) {
        match key {
            "InitiatorAlias" => {}
            "MaxRecvDataSegmentLength" => match value.parse::<u32>() {
                Ok(bytes) if (512..1 << 24).contains(&bytes) => {
                    self.options.negotiated.initiator_mrdsl = bytes;
                }
                _ => lines.push_str("MaxRecvDataSegmentLength=Reject\0"),
            },
            key if LOGIN_ONLY.contains(&key) => {
                lines.push_str(key);
                lines.push_str("=Reject\0");
            }
            // Longer names are no keys (RFC 7143 6.1); echoing them would be a gift to amplifiers.
            key if key.len() <= 63 && key.is_ascii() => {
                lines.push_str(key);
                lines.push_str("=NotUnderstood\0");
            }
            _ => {}
        }
    }

    pub(super) fn listed(&mut self, list: &[u8]) {
        if let Some(exchange) = self.text.as_mut() {
            exchange.answer.extend_from_slice(list);
            self.text_part(false);
        }
    }

    /// Sends the next part of the answer; an empty one while the request is incomplete.
    fn text_part(&mut self, asks_for_more: bool) {
        let room = self.options.negotiated.initiator_mrdsl as usize;
        let Some(exchange) = self.text.as_mut() else {
            return;
        };
        let left = if asks_for_more {
            &[]
        } else {
            exchange.answer.get(exchange.sent..).unwrap_or_default()
        };
        let part = left[..left.len().min(room)].to_vec();
        let whole = part.len() == left.len();
        exchange.sent += part.len();
        let over = whole && !asks_for_more && exchange.last_was_final;
        let mut header = Bhs::new(op::TEXT_RESPONSE);
        let flags = match (over, whole) {
            (true, _) => FINAL,
            (false, true) => 0,
            (false, false) => CONTINUE,
        };
        header.put_u8(1, flags);
        header.put_u32(16, exchange.itt);
        header.put_u32(20, if over { RESERVED_TAG } else { exchange.tag });
        header.set_data_len(clip(part.len()));
        let data = if part.is_empty() {
            Data::None
        } else {
            Data::Inline(part)
        };
        let immediate = exchange.immediate;
        if over {
            self.text = None;
        }
        self.urgent.push_back(Queued {
            immediate,
            ..Queued::status(header, data)
        });
    }

    /// A tag for an exchange: counted, and never the reserved one.
    const fn function_tag(&mut self) -> u32 {
        self.next_function = self.next_function.wrapping_add(1);
        self.next_function & 0x7fff_ffff
    }
}
