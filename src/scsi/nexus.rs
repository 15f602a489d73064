//! The I_T nexuses of a logical unit and the unit attentions that wait for each (SAM-5 5.14).

use std::collections::VecDeque;

use crate::limits::{NEXUSES_MAX, UNIT_ATTENTIONS_MAX};

use super::NexusId;
use super::sense::Sense;

/// What an initiator must be told before its next command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attention {
    /// LOGICAL UNIT RESET or a target reset: 29/03.
    Reset,
    /// The target reset the disk on its own: 29/04.
    InternalReset,
    /// A removable disk was loaded by another nexus: 28/00.
    MediumChanged,
    /// INQUIRY would answer otherwise now, since the disk's traits were changed: 3F/03.
    InquiryChanged,
    /// Another nexus changed mode parameters: 2A/01.
    ModeChanged,
    /// Another nexus preempted or cleared the reservations: 2A/03.
    ReservationsPreempted,
    /// The reservation is gone: 2A/04.
    ReservationsReleased,
    /// Another nexus removed this registration: 2A/05.
    RegistrationsPreempted,
    /// CLEAR TASK SET by another nexus: 2F/00.
    CommandsCleared,
    /// The disk has another size: 2A/09.
    CapacityChanged,
    /// REPORT LUNS would answer otherwise now: 3F/0E.
    LunsChanged,
    /// Space for this disk's changes runs short: 38/07.
    SpaceThreshold,
}

/// News of the disk that no initiator caused.
///
/// A disk keeps its size as long as its unit lives, and a target its LUNs, so that today nothing in the target
/// has the first two to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Another size: 2A/09.
    Capacity,
    /// Other LUNs: 3F/0E. REPORT LUNS makes it void.
    Luns,
    /// Space for changes runs short, writes still go on: 38/07 (SBC-3 4.7.3.8).
    SpaceThreshold,
}

impl From<News> for Attention {
    fn from(news: News) -> Self {
        match news {
            News::Capacity => Self::CapacityChanged,
            News::Luns => Self::LunsChanged,
            News::SpaceThreshold => Self::SpaceThreshold,
        }
    }
}

/// Each kind waits once at most, so that no news is lost for want of room.
const KINDS: usize = 12;
const _: () = assert!(KINDS <= UNIT_ATTENTIONS_MAX);

impl Attention {
    pub(super) const fn sense(self) -> Sense {
        match self {
            Self::Reset => Sense::attention(0x29, 0x03),
            Self::InternalReset => Sense::attention(0x29, 0x04),
            Self::MediumChanged => Sense::attention(0x28, 0x00),
            Self::InquiryChanged => Sense::attention(0x3F, 0x03),
            Self::ModeChanged => Sense::attention(0x2A, 0x01),
            Self::ReservationsPreempted => Sense::attention(0x2A, 0x03),
            Self::ReservationsReleased => Sense::attention(0x2A, 0x04),
            Self::RegistrationsPreempted => Sense::attention(0x2A, 0x05),
            Self::CommandsCleared => Sense::attention(0x2F, 0x00),
            Self::CapacityChanged => Sense::attention(0x2A, 0x09),
            Self::LunsChanged => Sense::attention(0x3F, 0x0E),
            Self::SpaceThreshold => Sense::attention(0x38, 0x07),
        }
    }
}

/// One I_T nexus: an iSCSI session with this disk.
#[derive(Debug)]
pub(super) struct Nexus {
    pub(super) id: NexusId,
    /// Initiator port name; persistent reservations know the initiator by it.
    pub(super) port: String,
    attentions: VecDeque<Attention>,
}

impl Nexus {
    /// Queues `attention` once.
    pub(super) fn tell(&mut self, attention: Attention) {
        if !self.attentions.contains(&attention) && self.attentions.len() < UNIT_ATTENTIONS_MAX {
            self.attentions.push_back(attention);
        }
    }

    /// A reset comes first and makes older news about modes and commands void.
    pub(super) fn tell_reset(&mut self, attention: Attention) {
        self.attentions.retain(|old| {
            !matches!(
                old,
                Attention::Reset
                    | Attention::InternalReset
                    | Attention::ModeChanged
                    | Attention::CommandsCleared
            )
        });
        self.attentions.push_front(attention);
        self.attentions.truncate(UNIT_ATTENTIONS_MAX);
    }

    /// The oldest attention, for a CHECK CONDITION. It counts as reported, unless it is kept until REQUEST SENSE
    /// fetches it (UA_INTLCK_CTRL 10b).
    pub(super) fn report_attention(&mut self, keep: bool) -> Option<Attention> {
        if keep {
            return self.attentions.front().copied();
        }
        self.take_attention()
    }

    /// The initiator has learned of it in another way.
    pub(super) fn forget(&mut self, attention: Attention) {
        self.attentions.retain(|old| *old != attention);
    }

    /// The oldest attention; it counts as reported.
    pub(super) fn take_attention(&mut self) -> Option<Attention> {
        self.attentions.pop_front()
    }
}

/// All nexuses of a logical unit. Few: a node has one to three sessions.
#[derive(Debug, Default)]
pub(super) struct Nexuses(Vec<Nexus>);

impl Nexuses {
    pub(super) fn attach(&mut self, id: NexusId, port: &str) {
        self.detach(id);
        if self.0.len() < NEXUSES_MAX {
            self.0.push(Nexus {
                id,
                port: port.to_owned(),
                attentions: VecDeque::new(),
            });
        }
    }

    pub(super) fn detach(&mut self, id: NexusId) {
        self.0.retain(|nexus| nexus.id != id);
    }

    pub(super) fn get(&self, id: NexusId) -> Option<&Nexus> {
        self.0.iter().find(|nexus| nexus.id == id)
    }

    pub(super) fn get_mut(&mut self, id: NexusId) -> Option<&mut Nexus> {
        self.0.iter_mut().find(|nexus| nexus.id == id)
    }

    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Nexus> {
        self.0.iter_mut()
    }

    pub(super) fn others(&mut self, id: NexusId) -> impl Iterator<Item = &mut Nexus> {
        self.0.iter_mut().filter(move |nexus| nexus.id != id)
    }

    /// The initiator ports that are logged in.
    pub(super) fn ports(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|nexus| &nexus.port)
    }

    /// The nexuses through which the initiator port `port` reaches this disk.
    pub(super) fn of_port(&mut self, port: &str) -> impl Iterator<Item = &mut Nexus> {
        self.0.iter_mut().filter(move |nexus| nexus.port == port)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn nexus() -> Nexuses {
        let mut nexuses = Nexuses::default();
        nexuses.attach(NexusId(1), "a");
        nexuses
    }

    #[test]
    fn an_attention_is_reported_once_and_in_order() {
        let mut nexuses = nexus();
        let one = nexuses.get_mut(NexusId(1)).unwrap();
        one.tell(Attention::ModeChanged);
        one.tell(Attention::ReservationsReleased);
        one.tell(Attention::ModeChanged);
        assert_eq!(one.take_attention(), Some(Attention::ModeChanged));
        assert_eq!(one.take_attention(), Some(Attention::ReservationsReleased));
        assert_eq!(one.take_attention(), None);
    }

    #[test]
    fn a_reset_comes_first_and_replaces_what_it_voids() {
        let mut nexuses = nexus();
        let one = nexuses.get_mut(NexusId(1)).unwrap();
        one.tell(Attention::ModeChanged);
        one.tell(Attention::RegistrationsPreempted);
        one.tell_reset(Attention::InternalReset);
        one.tell_reset(Attention::Reset);
        assert_eq!(one.take_attention(), Some(Attention::Reset));
        assert_eq!(
            one.take_attention(),
            Some(Attention::RegistrationsPreempted)
        );
        assert_eq!(one.take_attention(), None);
    }

    #[test]
    fn the_table_of_nexuses_has_an_end() {
        let mut nexuses = Nexuses::default();
        for id in 0..=NEXUSES_MAX as u64 {
            nexuses.attach(NexusId(id), "a");
        }
        assert_eq!(nexuses.0.len(), NEXUSES_MAX);
        assert!(nexuses.get(NexusId(NEXUSES_MAX as u64)).is_none());
    }
}
