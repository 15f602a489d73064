//! Bytes from a socket become PDUs: the same ones however the bytes are cut, each with what was sent.
//!
//! Input: rules, limit, a pattern of cuts, then either raw bytes or PDUs to be encoded and damaged.

use arbitrary::Unstructured;
use reveille::iscsi::frame::{AHS_BYTES_MAX, Decoder, Encoder, walk_ahs};
use reveille::iscsi::fuzzing::{Received, receive};
use reveille::iscsi::pdu::Bhs;

const LIMITS: [u32; 4] = [512, 8192, 65_536, 262_144];

struct Sent {
    bhs: Bhs,
    ahs: Vec<u8>,
    data: Vec<u8>,
}

pub(crate) fn run(input: &[u8]) {
    let _ = check(&mut Unstructured::new(input));
}

fn check(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let rules: u8 = u.arbitrary()?;
    let on = |bit: u8| rules & bit != 0;
    let decoder = if on(4) {
        Decoder::login()
    } else {
        Decoder {
            header_digest: on(1),
            data_digest: on(2),
            data_max: LIMITS[usize::from(rules >> 6)],
            ahs_max: AHS_BYTES_MAX,
            first_byte: None,
        }
    };
    let mut cuts = [0_u16; 4];
    for cut in &mut cuts {
        *cut = u.arbitrary()?;
    }
    let encoder = Encoder {
        header_digest: decoder.header_digest,
        data_digest: decoder.data_digest,
    };
    let (stream, sent) = if on(8) {
        encoded(u, &encoder, &decoder)?
    } else {
        (u.bytes(u.len())?.to_vec(), None)
    };
    let (whole, why) = receive(decoder, false, &stream, || usize::MAX);
    let mut turn = 0;
    let (cut, cut_why) = receive(decoder, !on(4), &stream, || {
        turn += 1;
        let least = if turn < 300 { 1 } else { 500 };
        least + usize::from(cuts[turn % cuts.len()])
    });
    assert_eq!(whole, cut, "cut another way, other PDUs are found");
    assert_eq!(why, cut_why, "cut another way, it ends otherwise");
    if let Some(sent) = sent {
        assert_eq!(why, None, "whole PDUs are refused");
        assert_eq!(sent.len(), whole.len());
        for (sent, found) in sent.iter().zip(&whole) {
            assert!(found.intact && found.data == sent.data && found.ahs == sent.ahs);
            assert_eq!(found.bhs.0[8..], sent.bhs.0[8..]);
        }
    }
    for pdu in &whole {
        round_trip(decoder, encoder, pdu);
    }
    Ok(())
}

/// PDUs that keep the rules, or that had a byte changed (then nobody knows what must be found).
fn encoded(
    u: &mut Unstructured<'_>,
    encoder: &Encoder,
    decoder: &Decoder,
) -> arbitrary::Result<(Vec<u8>, Option<Vec<Sent>>)> {
    let damage: u16 = u.arbitrary()?;
    let mut out = Vec::new();
    let mut all = Vec::new();
    while !u.is_empty() && all.len() < 8 {
        let mut bhs = Bhs([0; 48]);
        for byte in &mut bhs.0 {
            *byte = u.arbitrary()?;
        }
        if let Some(first) = decoder.first_byte {
            bhs.put_u8(0, first);
        }
        let (ahs, len): (u8, u16) = (u.arbitrary()?, u.arbitrary()?);
        let ahs_len = usize::from(ahs).min(decoder.ahs_max / 4) * 4;
        // The opcode's neighbours fill the segment: what is in it does not matter here.
        let data = vec![ahs ^ 0x5a; u32::from(len % 6000).min(decoder.data_max) as usize];
        let ahs: Vec<u8> = (0..ahs_len).map(|n| bhs.0[n % 48]).collect();
        encoder.pdu(bhs, &ahs, &data, &mut out);
        all.push(Sent { bhs, ahs, data });
    }
    let (at, bits) = (usize::from(damage >> 3), 1 << (damage & 7));
    if damage == 0 {
        return Ok((out, Some(all)));
    }
    if let Some(byte) = out.get_mut(at) {
        *byte ^= bits;
    }
    Ok((out, None))
}

/// What was found is written again and found again.
fn round_trip(decoder: Decoder, encoder: Encoder, pdu: &Received) {
    assert!(pdu.data.len() <= decoder.data_max as usize);
    assert!(pdu.ahs.len() <= decoder.ahs_max && pdu.ahs.len() == pdu.bhs.ahs_len());
    if let Some(segments) = walk_ahs(&pdu.ahs) {
        let len: usize = segments.iter().map(|s| 3 + s.body.len()).sum();
        assert!(len <= pdu.ahs.len());
    }
    let mut wire = Vec::new();
    encoder.pdu(pdu.bhs, &pdu.ahs, &pdu.data, &mut wire);
    let (again, why) = receive(decoder, false, &wire, || usize::MAX);
    assert_eq!(why, None, "our own encoding is refused");
    let expected = Received {
        intact: true,
        ..pdu.clone()
    };
    assert_eq!(again, [expected]);
}
