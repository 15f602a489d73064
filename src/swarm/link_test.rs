//! Streams of a target, in any cut.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Default)]
struct Notes {
    data: Vec<(u16, u32, Vec<u8>)>,
    done: Vec<Done>,
}

impl Ear for Notes {
    fn data(&mut self, token: u16, at: u32, piece: &[u8]) {
        match self.data.last_mut() {
            Some((last, from, bytes))
                if *last == token && *from as usize + bytes.len() == at as usize =>
            {
                bytes.extend_from_slice(piece);
            }
            _ => self.data.push((token, at, piece.to_vec())),
        }
    }
    fn done(&mut self, done: &Done) {
        self.done.push(*done);
    }
    fn supply(&mut self, _: u16, at: u32, len: u32, out: &mut Vec<u8>) {
        out.extend((at..at + len).map(|n| u8::try_from(n % 251).unwrap()));
    }
}

fn on() -> Link {
    let mut link = Link::new(0);
    link.begin(LoggedIn {
        agreed: Negotiated {
            initiator_mrdsl: 262_144,
            ..Negotiated::default()
        },
        tsih: 1,
        cmd_sn: 1,
        exp_stat_sn: 1,
        max_cmd_sn: 64,
        answers: Vec::new(),
    })
    .unwrap();
    link
}

fn data_in(tag: u32, sn: u32, at: u32, bytes: &[u8], last: bool) -> Vec<u8> {
    let mut bhs = Bhs::new(op::DATA_IN);
    bhs.put_u8(1, if last { 0x81 } else { 0 });
    bhs.put_u32(16, tag);
    bhs.put_sequence(5, 1, 64);
    bhs.put_u32(36, sn);
    bhs.put_u32(40, at);
    let mut out = Vec::new();
    PLAIN.pdu(bhs, &[], bytes, &mut out);
    out
}

fn response(tag: u32, status: u8, sense: &[u8]) -> Vec<u8> {
    let mut bhs = Bhs::new(op::SCSI_RESPONSE);
    bhs.put_u8(1, 0x80);
    bhs.put_u8(3, status);
    bhs.put_u32(16, tag);
    bhs.put_sequence(6, 1, 64);
    let mut out = Vec::new();
    PLAIN.pdu(bhs, &[], sense, &mut out);
    out
}

fn read(link: &mut Link, ear: &mut Notes, token: u16, len: u32) -> u32 {
    let mut out = Vec::new();
    link.command(token, &[0; 16], (Way::In, len), ear, &mut out);
    Bhs(*out.first_chunk().unwrap()).itt()
}

proptest! {
    #[test]
    fn payload_is_the_same_however_the_stream_is_cut(cuts in prop::collection::vec(1usize..90, 1..40)) {
        let (mut link, mut ear) = (on(), Notes::default());
        let a = read(&mut link, &mut ear, 7, 700);
        let b = read(&mut link, &mut ear, 9, 5);
        let bytes: Vec<u8> = (0..700u32).map(|n| u8::try_from(n % 241).unwrap()).collect();
        let stream = [
            data_in(a, 0, 0, &bytes[..301], false),
            data_in(b, 0, 0, &bytes[..5], true),
            data_in(a, 1, 301, &bytes[301..], false),
            response(a, 2, &[0, 18, 0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 1, 0, 0, 0, 0]),
        ].concat();
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            prop_assert_eq!(link.hear(now, &mut ear, &mut Vec::new()).unwrap(), Heard::Fine);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let of = |token| -> Vec<u8> {
            ear.data.iter().filter(|d| d.0 == token).flat_map(|d| d.2.clone()).collect()
        };
        prop_assert_eq!(of(7), &bytes[..]);
        prop_assert_eq!(of(9), &bytes[..5]);
        let done: Vec<_> = ear.done.iter().map(|d| (d.token, d.status, d.sense, d.received)).collect();
        prop_assert_eq!(done, vec![(9, 0, None, 5), (7, 2, Some((3, 0x11, 1)), 700)]);
    }

    #[test]
    fn no_stream_makes_it_panic_or_keep_much(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        cut in 1usize..200,
    ) {
        let (mut link, mut ear) = (on(), Notes::default());
        let _ = read(&mut link, &mut ear, 1, 4096);
        for piece in bytes.chunks(cut) {
            if link.hear(piece, &mut ear, &mut Vec::new()).is_err() {
                break;
            }
            prop_assert!(link.carry.len() <= 3000);
        }
    }
}

#[test]
fn data_out_of_place_is_a_fault_of_the_target() {
    let wrongs: [&dyn Fn(u32) -> Vec<u8>; 4] = [
        &|tag| data_in(tag, 1, 0, &[0; 4], false),
        &|tag| data_in(tag, 0, 4, &[0; 4], false),
        &|tag| data_in(tag, 0, 0, &[0; 20], false),
        &|tag| data_in(tag ^ 1, 0, 0, &[0; 4], false),
    ];
    for wrong in wrongs {
        let (mut link, mut ear) = (on(), Notes::default());
        let tag = read(&mut link, &mut ear, 1, 16);
        assert!(link.hear(&wrong(tag), &mut ear, &mut Vec::new()).is_err());
    }
}

#[test]
fn a_write_goes_out_as_negotiated_and_as_asked_for() {
    let (mut link, mut ear) = (on(), Notes::default());
    link.agreed = Negotiated {
        initial_r2t: false,
        immediate_data: true,
        first_burst: 2048,
        target_mrdsl: 1024,
        ..Negotiated::default()
    };
    let mut out = Vec::new();
    link.command(3, &[0; 16], (Way::Out, 4096), &mut ear, &mut out);
    let pdus = |mut bytes: &[u8]| {
        let mut found = Vec::new();
        while let Some(bhs) = bytes.first_chunk() {
            let bhs = Bhs(*bhs);
            let len = bhs.data_len() as usize;
            let (head, last) = (bhs.opcode(), bhs.flags() & 0x80 != 0);
            found.push((head, last, bhs.u32_at(40), len, bytes[48]));
            bytes = &bytes[48 + len..];
        }
        found
    };
    let byte = |at: u32| u8::try_from(at % 251).unwrap();
    let sent = pdus(&out);
    assert_eq!(sent.len(), 2);
    assert_eq!(
        (sent[0].0, sent[0].1, sent[0].3, sent[0].4),
        (op::SCSI_COMMAND, false, 1024, 0)
    );
    assert_eq!(sent[1], (op::DATA_OUT, true, 1024, 1024, byte(1024)));
    let mut r2t = Bhs::new(op::R2T);
    r2t.put_u32(16, Bhs(*out.first_chunk().unwrap()).itt());
    r2t.put_u32(20, 77);
    r2t.put_sequence(1, 1, 64);
    r2t.put_u32(40, 2048);
    r2t.put_u32(44, 2048);
    out.clear();
    link.hear(&r2t.0, &mut ear, &mut out).unwrap();
    assert_eq!(
        pdus(&out),
        [
            (op::DATA_OUT, false, 2048, 1024, byte(2048)),
            (op::DATA_OUT, true, 3072, 1024, byte(3072))
        ]
    );
    r2t.put_u32(44, 2049);
    assert!(link.hear(&r2t.0, &mut ear, &mut out).is_err());
}

#[test]
fn pings_are_answered_and_the_window_is_kept() {
    let (mut link, mut ear) = (on(), Notes::default());
    for token in 0..64 {
        assert!(link.is_open());
        let _ = read(&mut link, &mut ear, token, 4);
    }
    assert!(!link.is_open());
    let mut ping = Bhs::new(op::NOP_IN);
    ping.put_u32(16, RESERVED_TAG);
    ping.put_u32(20, 5);
    ping.put_sequence(1, 65, 65);
    let mut out = Vec::new();
    link.hear(&ping.0, &mut ear, &mut out).unwrap();
    let pong = Bhs(*out.first_chunk().unwrap());
    assert_eq!(
        (pong.opcode(), pong.ttt(), pong.itt()),
        (op::NOP_OUT, 5, RESERVED_TAG)
    );
    assert!(link.is_open());
}
