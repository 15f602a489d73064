//! Golden answers for known initiators, and the rules one by one.

use super::*;
use crate::iscsi::keys::parse;
use proptest::prelude::*;

/// Offers `text` in the operational stage; the answer with blanks for NULs.
fn answer(negotiation: &mut Negotiation, text: &str) -> Result<String, Refusal> {
    let text = text.replace(' ', "\0");
    for pair in parse(text.as_bytes(), 64).unwrap() {
        negotiation.mark(&pair.key)?;
        match find(&pair.key) {
            Some(row) => negotiation.offer(row, &pair)?,
            None => negotiation.unknown(&pair.key),
        }
    }
    let mut out = Builder::new();
    negotiation.answer(true, &mut out);
    let text = String::from_utf8(out.into_bytes()).unwrap();
    Ok(text.replace('\0', " ").trim_end().to_owned())
}

fn fresh(text: &str) -> Result<String, Refusal> {
    answer(&mut Negotiation::new(Digests::default()), text)
}

/// The offer and the answer must hold the same keys; ours adds MaxRecvDataSegmentLength only.
fn golden(offer: &str, expected: &str) -> Negotiated {
    let mut negotiation = Negotiation::new(Digests::default());
    assert_eq!(answer(&mut negotiation, offer).unwrap(), expected);
    negotiation.result()
}

#[test]
fn ipxe_gets_its_golden_answer() {
    let got = golden(
        "HeaderDigest=None DataDigest=None MaxConnections=1 InitialR2T=Yes ImmediateData=No \
         MaxRecvDataSegmentLength=8192 MaxBurstLength=262144 FirstBurstLength=65536 \
         DefaultTime2Wait=0 DefaultTime2Retain=0 MaxOutstandingR2T=1 DataPDUInOrder=Yes \
         DataSequenceInOrder=Yes ErrorRecoveryLevel=0",
        "HeaderDigest=None DataDigest=None MaxConnections=1 InitialR2T=Yes ImmediateData=No \
         MaxBurstLength=262144 FirstBurstLength=65536 DefaultTime2Wait=0 DefaultTime2Retain=0 \
         MaxOutstandingR2T=1 DataPDUInOrder=Yes DataSequenceInOrder=Yes ErrorRecoveryLevel=0 \
         MaxRecvDataSegmentLength=262144",
    );
    assert!(!got.immediate_data && got.initial_r2t);
    assert_eq!((got.initiator_mrdsl, got.target_mrdsl), (8192, 262_144));
    assert_eq!((got.time2wait, got.time2retain), (0, 0));
}

#[test]
fn open_iscsi_gets_its_golden_answer() {
    let got = golden(
        "HeaderDigest=None DataDigest=None DefaultTime2Wait=2 DefaultTime2Retain=0 IFMarker=No \
         OFMarker=No ErrorRecoveryLevel=0 InitialR2T=No ImmediateData=Yes \
         MaxBurstLength=16776192 FirstBurstLength=262144 MaxOutstandingR2T=1 MaxConnections=1 \
         DataPDUInOrder=Yes DataSequenceInOrder=Yes MaxRecvDataSegmentLength=262144",
        "HeaderDigest=None DataDigest=None DefaultTime2Wait=2 DefaultTime2Retain=0 IFMarker=No \
         OFMarker=No ErrorRecoveryLevel=0 InitialR2T=Yes ImmediateData=Yes \
         MaxBurstLength=1048576 FirstBurstLength=262144 MaxOutstandingR2T=1 MaxConnections=1 \
         DataPDUInOrder=Yes DataSequenceInOrder=Yes MaxRecvDataSegmentLength=262144",
    );
    assert!(got.immediate_data && got.initial_r2t);
    assert_eq!((got.max_burst, got.first_burst), (1 << 20, 262_144));
}

#[test]
fn windows_gets_its_golden_answer() {
    let got = golden(
        "HeaderDigest=None,CRC32C DataDigest=None,CRC32C ErrorRecoveryLevel=2 InitialR2T=No \
         ImmediateData=Yes MaxRecvDataSegmentLength=65536 MaxBurstLength=262144 \
         FirstBurstLength=65536 MaxConnections=8 DefaultTime2Wait=0 DefaultTime2Retain=60 \
         MaxOutstandingR2T=16 DataPDUInOrder=Yes DataSequenceInOrder=Yes",
        "HeaderDigest=None DataDigest=None ErrorRecoveryLevel=0 InitialR2T=Yes \
         ImmediateData=Yes MaxBurstLength=262144 FirstBurstLength=65536 MaxConnections=1 \
         DefaultTime2Wait=0 DefaultTime2Retain=0 MaxOutstandingR2T=4 DataPDUInOrder=Yes \
         DataSequenceInOrder=Yes MaxRecvDataSegmentLength=262144",
    );
    assert_eq!((got.max_outstanding_r2t, got.initiator_mrdsl), (4, 65_536));
}

#[test]
fn edk2_gets_its_golden_answer() {
    golden(
        "HeaderDigest=None DataDigest=None ErrorRecoveryLevel=0 InitialR2T=No ImmediateData=Yes \
         MaxRecvDataSegmentLength=65536 MaxBurstLength=262144 FirstBurstLength=65536 \
         MaxConnections=1 DataPDUInOrder=Yes DataSequenceInOrder=Yes DefaultTime2Wait=2 \
         DefaultTime2Retain=20 MaxOutstandingR2T=1",
        "HeaderDigest=None DataDigest=None ErrorRecoveryLevel=0 InitialR2T=Yes \
         ImmediateData=Yes MaxBurstLength=262144 FirstBurstLength=65536 MaxConnections=1 \
         DataPDUInOrder=Yes DataSequenceInOrder=Yes DefaultTime2Wait=2 DefaultTime2Retain=0 \
         MaxOutstandingR2T=1 MaxRecvDataSegmentLength=262144",
    );
}

#[test]
fn libiscsi_gets_its_golden_answer() {
    let got = golden(
        "HeaderDigest=CRC32C,None DataDigest=None,CRC32C InitialR2T=No ImmediateData=Yes \
         MaxBurstLength=262144 FirstBurstLength=262144 DefaultTime2Wait=2 \
         DefaultTime2Retain=0 IFMarker=No OFMarker=No MaxConnections=1 MaxOutstandingR2T=1 \
         ErrorRecoveryLevel=0 DataPDUInOrder=Yes DataSequenceInOrder=Yes \
         MaxRecvDataSegmentLength=262144",
        "HeaderDigest=CRC32C DataDigest=None InitialR2T=Yes ImmediateData=Yes \
         MaxBurstLength=262144 FirstBurstLength=262144 DefaultTime2Wait=2 \
         DefaultTime2Retain=0 IFMarker=No OFMarker=No MaxConnections=1 MaxOutstandingR2T=1 \
         ErrorRecoveryLevel=0 DataPDUInOrder=Yes DataSequenceInOrder=Yes \
         MaxRecvDataSegmentLength=262144",
    );
    assert!(got.header_digest && !got.data_digest);
}

#[test]
fn digests_follow_the_initiators_order() {
    let header = |offer: &str| fresh(&format!("HeaderDigest={offer}"));
    let ours = " MaxRecvDataSegmentLength=262144";
    assert_eq!(
        header("CRC32C").unwrap(),
        format!("HeaderDigest=CRC32C{ours}")
    );
    assert_eq!(
        header("CRC32C,None").unwrap(),
        format!("HeaderDigest=CRC32C{ours}")
    );
    assert_eq!(
        header("None,CRC32C").unwrap(),
        format!("HeaderDigest=None{ours}")
    );
    assert_eq!(
        header("X-a,None").unwrap(),
        format!("HeaderDigest=None{ours}")
    );
    assert_eq!(header("CRC32").unwrap_err().status, status::INITIATOR_ERROR);
}

#[test]
fn first_burst_never_passes_max_burst_whatever_the_order() {
    for offer in [
        "FirstBurstLength=262144 MaxBurstLength=4096",
        "MaxBurstLength=4096 FirstBurstLength=262144",
    ] {
        let mut negotiation = Negotiation::new(Digests::default());
        let text = answer(&mut negotiation, offer).unwrap();
        assert!(text.contains("FirstBurstLength=4096"), "{text}");
        assert_eq!(negotiation.result().first_burst, 4096);
    }
    let mut only_max = Negotiation::new(Digests::default());
    answer(&mut only_max, "MaxBurstLength=512").unwrap();
    assert_eq!(only_max.result().first_burst, 512);
}

#[test]
fn unknown_and_obsolete_keys_get_short_answers() {
    assert_eq!(
        fresh("X-com.example=aaaa MaxAHSLength=0 Maxburstlength=512").unwrap(),
        "X-com.example=NotUnderstood MaxAHSLength=NotUnderstood Maxburstlength=NotUnderstood"
    );
    assert_eq!(
        fresh("IFMarkInt=1~65535 OFMarker=Yes RDMAExtensions=Yes TaskReporting=FastAbort").unwrap(),
        "IFMarkInt=Reject OFMarker=No RDMAExtensions=No TaskReporting=Reject \
         MaxRecvDataSegmentLength=262144"
    );
}

#[test]
fn our_segment_length_is_declared_once() {
    let mut negotiation = Negotiation::new(Digests::default());
    let first = answer(&mut negotiation, "InitialR2T=Yes").unwrap();
    assert_eq!(first, "InitialR2T=Yes MaxRecvDataSegmentLength=262144");
    assert_eq!(
        answer(&mut negotiation, "ImmediateData=No").unwrap(),
        "ImmediateData=No"
    );
}

#[test]
fn without_offers_the_defaults_hold() {
    let mut negotiation = Negotiation::new(Digests::default());
    assert_eq!(answer(&mut negotiation, "").unwrap(), "");
    assert_eq!(negotiation.result(), Negotiated::default());
}

#[test]
fn illegal_values_end_the_login() {
    for offer in [
        "MaxBurstLength=0",
        "MaxBurstLength=511",
        "MaxBurstLength=16777216",
        "MaxBurstLength=-1",
        "MaxBurstLength=4294967808",
        "MaxBurstLength=0x",
        "MaxBurstLength=1e3",
        "MaxBurstLength=",
        "MaxRecvDataSegmentLength=511",
        "InitialR2T=yes",
        "ImmediateData=1",
        "MaxConnections=0",
        "ErrorRecoveryLevel=3",
        "DefaultTime2Wait=3601",
        "MaxOutstandingR2T=65536",
        "DataDigest=",
    ] {
        assert_eq!(
            fresh(offer).unwrap_err().status,
            status::INITIATOR_ERROR,
            "{offer}"
        );
    }
}

#[test]
fn a_key_sent_twice_ends_the_login() {
    for offer in ["InitialR2T=Yes InitialR2T=Yes", "X-a=1 X-a=2"] {
        assert_eq!(fresh(offer).unwrap_err().status, status::INITIATOR_ERROR);
    }
    let mut negotiation = Negotiation::new(Digests::default());
    answer(&mut negotiation, "MaxBurstLength=512").unwrap();
    assert!(answer(&mut negotiation, "MaxBurstLength=512").is_err());
}

#[test]
fn the_document_of_the_keys_is_the_table() {
    let document = include_str!("../../docs/protocols/login-keys.md");
    let (_, table) = document.split_once("\n\n").unwrap();
    assert_eq!(
        table,
        markdown(),
        "docs/protocols/login-keys.md is out of date"
    );
    for row in TABLE {
        assert_eq!(find(row.name).unwrap().key, row.key);
    }
}

/// Keys whose wire value the table's rule decides alone, for the oracle below.
fn numbers() -> impl Strategy<Value = (&'static str, u32)> {
    prop_oneof![
        Just("MaxBurstLength"),
        Just("MaxOutstandingR2T"),
        Just("DefaultTime2Wait"),
        Just("DefaultTime2Retain"),
        Just("ErrorRecoveryLevel"),
        Just("MaxConnections"),
    ]
    .prop_flat_map(|key| (Just(key), any::<u32>()))
}

proptest! {
    #[test]
    fn numeric_answers_stay_in_range_and_never_grow((key, offer) in numbers()) {
        let row = find(key).unwrap();
        let (low, high, max) = match row.rule {
            Rule::Min(low, high, _) => (low, high, offer),
            Rule::Max(low, high, _) => (low, high, high),
            _ => unreachable!(),
        };
        match fresh(&format!("{key}={offer}")) {
            Ok(text) => {
                let value = text.split([' ', '=']).nth(1).and_then(number).unwrap();
                prop_assert!((low..=high).contains(&offer));
                prop_assert!((low..=high).contains(&value) && value <= max);
            }
            Err(_) => prop_assert!(!(low..=high).contains(&offer)),
        }
    }
}

#[test]
fn digests_follow_the_policy_within_the_offer() {
    let chosen = |policy, offer: &str| {
        let mut negotiation = Negotiation::new(policy);
        let pair = Pair {
            key: "HeaderDigest".into(),
            value: offer.into(),
        };
        let row = find("HeaderDigest").unwrap();
        negotiation
            .offer(row, &pair)
            .map(|()| negotiation.result().header_digest)
    };
    for (offer, offered, none, crc) in [
        ("None", false, false, false),
        ("CRC32C", true, true, true),
        ("None,CRC32C", false, false, true),
        ("CRC32C,None", true, false, true),
        ("x,CRC32C,None", true, false, true),
    ] {
        assert_eq!(chosen(Digests::Offered, offer).unwrap(), offered, "{offer}");
        assert_eq!(chosen(Digests::PreferNone, offer).unwrap(), none, "{offer}");
        assert_eq!(
            chosen(Digests::PreferCrc32c, offer).unwrap(),
            crc,
            "{offer}"
        );
    }
    assert!(chosen(Digests::PreferCrc32c, "x").is_err());
}
