//! Persistent reservations that outlive the head (SPC-4 5.13.5, APTPL), as a binding carries them. Pure.
//!
//! They belong to one disk: a layer that begins anew gets a binding without them.

use serde::{Deserialize, Serialize};

use super::error::{Error, ErrorKind, Result};
use crate::limits;

/// Who is registered at a disk, and who holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReservations {
    /// Initiator ports with their keys, in the order in which they came.
    pub registrants: Vec<ReservationKey>,
    /// The reservation, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// An initiator port and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationKey {
    /// `iqn...,i,0x<ISID>`.
    pub port: String,
    /// The reservation key, 16 hexadecimal digits in the file.
    #[serde(with = "hex_key")]
    pub key: u64,
    /// Registered for all target ports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_ports: bool,
}

/// A reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The port that reserved; with the all-registrants types any registrant holds as well.
    pub by: String,
    /// What others may do.
    #[serde(rename = "type")]
    pub kind: HeldType,
}

/// Types of persistent reservations (SPC-4 table 62).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldType {
    /// 1h.
    WriteExclusive,
    /// 3h.
    ExclusiveAccess,
    /// 5h.
    WriteExclusiveRegistrantsOnly,
    /// 6h.
    ExclusiveAccessRegistrantsOnly,
    /// 7h.
    WriteExclusiveAllRegistrants,
    /// 8h.
    ExclusiveAccessAllRegistrants,
}

impl DiskReservations {
    /// Refuses what no disk can have.
    pub(super) fn check(&self) -> Result<()> {
        let most = limits::REGISTRANTS_MAX;
        if self.registrants.len() > most {
            let context = format!("a disk has more than {most} registered initiator ports");
            return Err(Error::new(ErrorKind::Full, context));
        }
        if let Some(wrong) = self.registrants.iter().find(|r| r.key == 0) {
            let context = format!("`{}` is registered with the key 0", wrong.port);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        Ok(())
    }
}

/// Sixteen digits: JSON numbers lose bits beyond 53 in many readers.
mod hex_key {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{key:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let key = u64::from_str_radix(&text, 16).ok().filter(|_| digits);
        key.ok_or_else(|| D::Error::custom("a reservation key must have 16 hexadecimal digits"))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn held() -> DiskReservations {
        DiskReservations {
            registrants: vec![ReservationKey {
                port: "iqn.2026-11.t:a,i,0x00023d000001".into(),
                key: 0xfedc_ba98_7654_3210,
                all_ports: true,
            }],
            held: Some(Held {
                by: "iqn.2026-11.t:a,i,0x00023d000001".into(),
                kind: HeldType::WriteExclusiveRegistrantsOnly,
            }),
        }
    }

    #[test]
    fn people_can_read_it() {
        let text = serde_json::to_string(&held()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"registrants":[{"port":"iqn.2026-11.t:a,i,0x00023d000001","#,
                r#""key":"fedcba9876543210","all_ports":true}],"#,
                r#""held":{"by":"iqn.2026-11.t:a,i,0x00023d000001","#,
                r#""type":"write-exclusive-registrants-only"}}"#
            )
        );
        assert_eq!(
            serde_json::from_str::<DiskReservations>(&text).unwrap(),
            held()
        );
    }

    #[test]
    fn keys_of_another_form_are_refused() {
        for key in [
            "",
            "1",
            "+edcba9876543210",
            "gedcba9876543210",
            "0fedcba9876543210",
        ] {
            let text = format!(r#"{{"registrants":[{{"port":"p","key":"{key}"}}]}}"#);
            assert!(
                serde_json::from_str::<DiskReservations>(&text).is_err(),
                "{key}"
            );
        }
    }

    #[test]
    fn no_disk_has_a_key_of_zero_or_too_many() {
        let mut wrong = held();
        wrong.registrants[0].key = 0;
        assert_eq!(wrong.check().unwrap_err().kind(), ErrorKind::Invalid);
        let mut many = held();
        many.registrants = vec![many.registrants[0].clone(); limits::REGISTRANTS_MAX + 1];
        assert_eq!(many.check().unwrap_err().kind(), ErrorKind::Full);
    }
}
