//! Who is registered and who holds the disk, by SPC-4 5.13 alone.

use std::collections::BTreeMap;

use reveille::scsi::{Registrant, Registrations, Reservation, ReservationType};

use super::port;

/// What one PERSISTENT RESERVE OUT asks for.
pub(super) struct Order {
    pub(super) action: u8,
    pub(super) kind: u8,
    pub(super) own: u64,
    pub(super) key: u64,
    /// APTPL.
    pub(super) lasts: bool,
    /// UNREG of REGISTER AND MOVE.
    pub(super) leaves: bool,
    /// The port of the TransportID.
    pub(super) names: Option<String>,
}

impl Order {
    /// The parameter list.
    pub(super) fn list(&self) -> Vec<u8> {
        let mut list = [self.own.to_be_bytes(), self.key.to_be_bytes(), [0; 8]].concat();
        let id = self.names.as_deref().map(transport_id).unwrap_or_default();
        let len = u32::try_from(id.len()).expect("a short name").to_be_bytes();
        if self.action == 7 {
            list[17] = u8::from(self.leaves) << 1 | u8::from(self.lasts);
            list[19] = 1;
            list[20..].copy_from_slice(&len);
            list.extend_from_slice(&id);
        } else {
            list[20] = u8::from(self.names.is_some()) << 3 | u8::from(self.lasts);
            if self.names.is_some() {
                list.extend_from_slice(&len);
                list.extend_from_slice(&id);
            }
        }
        list
    }
}

/// Format 01b: one port (SPC-4 7.6.4.6).
fn transport_id(port: &str) -> Vec<u8> {
    let len = (port.len() + 1).next_multiple_of(4);
    let mut id = vec![0x45, 0, 0, u8::try_from(len).expect("a short name")];
    id.extend_from_slice(port.as_bytes());
    id.resize(4 + len, 0);
    id
}

/// Registrations and reservation as SPC-4 5.13 tells them.
#[derive(Default)]
pub(super) struct Reservations {
    pub(super) generation: u32,
    pub(super) keys: BTreeMap<String, u64>,
    /// Holder (of no meaning for types 7 and 8) and type.
    pub(super) held: Option<(String, u8)>,
    /// RESERVE(6), (10).
    pub(super) old: Option<u64>,
    /// APTPL of the last registration: all but `generation` and `old` outlives a restart.
    lasts: bool,
}

impl Reservations {
    fn holds(&self, port: &str) -> bool {
        match &self.held {
            Some((_, 7 | 8)) => self.keys.contains_key(port),
            Some((holder, _)) => holder == port,
            None => false,
        }
    }

    /// True when a command of `nexus` must end in RESERVATION CONFLICT.
    pub(super) fn stops(&self, nexus: u64, writes: bool) -> bool {
        if self.old.is_some_and(|holder| holder != nexus) {
            return true;
        }
        let Some((_, kind)) = &self.held else {
            return false;
        };
        let port = port(nexus);
        let registered = *kind >= 5 && self.keys.contains_key(&port);
        let reads = !writes && matches!(kind, 1 | 5 | 7);
        !(self.holds(&port) || registered || reads)
    }

    fn leave(&mut self, port: &str) {
        let held = self.holds(port);
        self.keys.remove(port);
        if held && (self.keys.is_empty() || !matches!(self.held, Some((_, 7 | 8)))) {
            self.held = None;
        }
    }

    /// RESERVE or RELEASE does nothing beside persistent reservations, and is GOOD from those who share in one.
    pub(super) fn makes_reserve_void(&self, nexus: u64) -> bool {
        let port = port(nexus);
        let shares = matches!(self.held, Some((_, 5..)));
        self.holds(&port) || (shares && self.keys.contains_key(&port))
    }

    /// The target starts anew.
    pub(super) fn restart(&mut self) {
        let before = std::mem::take(self);
        if before.lasts && !before.keys.is_empty() {
            *self = Self {
                generation: 0,
                old: None,
                ..before
            };
        }
    }

    /// What must be on stable storage: registrants with their keys, and the reservation.
    pub(super) fn stored(&self) -> Option<Registrations> {
        (self.lasts && !self.keys.is_empty()).then(|| {
            let registrants = self.keys.iter().map(|(port, key)| Registrant {
                port: port.clone(),
                key: *key,
                all_ports: false,
            });
            let reservation = self.held.as_ref().map(|(holder, kind)| Reservation {
                holder: holder.clone(),
                kind: ReservationType::of_code(*kind).expect("a type"),
            });
            Registrations {
                registrants: registrants.collect(),
                reservation,
            }
        })
    }

    /// REGISTER that was answered GOOD, with the port of `named` (SPEC_I_PT) when there is one.
    fn register(&mut self, port: String, order: &Order) {
        let key = order.key;
        if key == 0 && !self.keys.contains_key(&port) {
            return;
        }
        if key == 0 {
            self.leave(&port);
        } else {
            let known = self.keys.insert(port, key);
            if let Some(other) = &order.names {
                assert!(known.is_none(), "a registrant registered others");
                self.keys.entry(other.clone()).or_insert(key);
            }
        }
        self.lasts = order.lasts;
        self.generation = self.generation.wrapping_add(1);
    }

    /// REGISTER AND MOVE.
    fn hand_over(&mut self, port: &str, order: &Order) {
        let to = order.names.clone().expect("moved to nobody");
        let Some((_, kind)) = self.held.take_if(|(holder, _)| holder == port) else {
            panic!("moved by who does not hold it");
        };
        assert!(kind < 7 && to != port && order.key != 0);
        if order.leaves {
            self.keys.remove(port);
        }
        self.keys.insert(to.clone(), order.key);
        self.held = Some((to, kind));
        self.lasts = order.lasts;
        self.generation = self.generation.wrapping_add(1);
    }

    /// PERSISTENT RESERVE OUT that was answered GOOD.
    pub(super) fn out(&mut self, nexus: u64, order: &Order) {
        let (action, kind, own, key) = (order.action, order.kind, order.own, order.key);
        let port = port(nexus);
        let known = self.keys.get(&port).copied();
        assert!(self.old.is_none(), "it ran beside RESERVE");
        if action != 6 && action != 0 {
            assert_eq!(known, Some(own), "action {action} with a foreign key");
        }
        match action {
            0 | 6 => {
                assert!(
                    action == 6 || own == known.unwrap_or(0),
                    "registered with a wrong key"
                );
                self.register(port, order);
            }
            1 => match &self.held {
                None => self.held = Some((port, kind)),
                Some((_, old)) => assert!(*old == kind && self.holds(&port), "reserved twice"),
            },
            2 => {
                if self.holds(&port) {
                    assert_eq!(
                        self.held.as_ref().map(|h| h.1),
                        Some(kind),
                        "released another type"
                    );
                    self.held = None;
                }
            }
            3 => {
                self.keys.clear();
                self.held = None;
                self.generation = self.generation.wrapping_add(1);
            }
            7 => self.hand_over(&port, order),
            _ => self.preempt(port, kind, key),
        }
    }

    fn preempt(&mut self, port: String, kind: u8, key: u64) {
        let takes = match &self.held {
            Some((_, 7 | 8)) => key == 0,
            Some((holder, _)) => key != 0 && self.keys.get(holder) == Some(&key),
            None => false,
        };
        assert!(takes || key != 0, "PREEMPT of nobody");
        let before = self.keys.len();
        self.keys
            .retain(|name, held| *name == port || (key != 0 && *held != key));
        assert!(
            takes || self.keys.len() < before,
            "PREEMPT found nobody and was GOOD"
        );
        if takes {
            self.held = Some((port, kind));
        }
        self.generation = self.generation.wrapping_add(1);
    }
}
