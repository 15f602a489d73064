//! The engine against a target that keeps the rules, and against each rule broken.

use super::*;

fn engine(change: impl FnOnce(&mut Negotiated)) -> Engine {
    let mut agreed = Negotiated {
        target_mrdsl: 8192,
        max_burst: 16_384,
        first_burst: 4096,
        ..Negotiated::default()
    };
    change(&mut agreed);
    Engine::new(&LoggedIn {
        agreed,
        tsih: 1,
        cmd_sn: u32::MAX,
        exp_stat_sn: 50,
        max_cmd_sn: 3,
        answers: Vec::new(),
    })
}

/// A target's PDU with the numbers that are due.
fn answer(engine: &Engine, opcode: u8, flags: u8, tag: u32) -> Bhs {
    let mut bhs = Bhs::new(opcode);
    bhs.put_u8(1, 0x80 | flags);
    bhs.put_u32(16, tag);
    bhs.put_sequence(engine.exp_stat_sn(), engine.cmd_sn(), engine.max_cmd_sn.0);
    bhs
}

fn data_in(engine: &Engine, tag: u32, sn: u32, offset: u32, len: u32) -> Bhs {
    let mut bhs = answer(engine, op::DATA_IN, 0, tag);
    bhs.put_u32(20, RESERVED_TAG);
    bhs.put_u32(36, sn);
    bhs.put_u32(40, offset);
    bhs.set_data_len(len);
    bhs
}

fn r2t(engine: &Engine, tag: u32, sn: u32, offset: u32, len: u32) -> Bhs {
    let mut bhs = answer(engine, op::R2T, 0, tag);
    bhs.put_u32(20, 0x99);
    bhs.put_u32(36, sn);
    bhs.put_u32(40, offset);
    bhs.put_u32(44, len);
    bhs
}

fn response(engine: &Engine, tag: u32, flags: u8, exp_data_sn: u32, residual: u32) -> Bhs {
    let mut bhs = answer(engine, op::SCSI_RESPONSE, flags, tag);
    bhs.put_u32(36, exp_data_sn);
    bhs.put_u32(44, residual);
    bhs
}

fn read(engine: &mut Engine, len: u32) -> u32 {
    engine
        .submit(Command::new(
            0,
            &[0x28],
            Transfer::In(len, Some(Vec::new())),
        ))
        .unwrap()
}

fn write(engine: &mut Engine, len: usize) -> u32 {
    let data: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
    engine
        .submit(Command::new(0, &[0x2a], Transfer::Out(data.into())))
        .unwrap()
}

fn done(engine: &mut Engine) -> Done {
    match engine.said.pop_front() {
        Some(Completion::Command(done)) => done,
        other => panic!("{other:?}"),
    }
}

/// The PDUs that were queued: opcode, flags, DataSN, offset, data.
fn queued(engine: &mut Engine) -> Vec<(u8, u8, u32, u32, Vec<u8>)> {
    let mut bytes = std::mem::take(&mut engine.out);
    let mut found = Vec::new();
    while let Some((&bhs, rest)) = bytes.split_first_chunk::<48>() {
        let bhs = Bhs(bhs);
        let len = usize::try_from(bhs.data_len()).unwrap();
        let data = rest[..len].to_vec();
        found.push((
            bhs.opcode(),
            bhs.flags(),
            bhs.u32_at(36),
            bhs.u32_at(40),
            data,
        ));
        bytes = rest[len.next_multiple_of(4)..].to_vec();
    }
    found
}

#[test]
fn data_in_is_put_together_in_order() {
    let mut engine = engine(|_| {});
    let tag = read(&mut engine, 6);
    engine
        .hear(&data_in(&engine, tag, 0, 0, 4), b"abcd")
        .unwrap();
    engine.hear(&data_in(&engine, tag, 1, 4, 2), b"ef").unwrap();
    engine.hear(&response(&engine, tag, 0, 2, 0), &[]).unwrap();
    let done = done(&mut engine);
    assert_eq!(
        (done.data.as_slice(), done.received, done.data_pdus),
        (&b"abcdef"[..], 6, 2)
    );
    assert_eq!(engine.outstanding(), 0);
    assert_eq!(engine.exp_stat_sn(), 51);
}

#[test]
fn a_collapsed_status_ends_the_command() {
    let mut engine = engine(|_| {});
    let tag = read(&mut engine, 4);
    let mut bhs = data_in(&engine, tag, 0, 0, 3);
    bhs.put_u8(1, 0x83);
    bhs.put_u32(44, 1);
    engine.hear(&bhs, b"abc").unwrap();
    let done = done(&mut engine);
    assert!(done.collapsed);
    assert_eq!((done.residual, done.data.as_slice()), (-1, &b"abc"[..]));
}

#[test]
fn a_reused_buffer_is_not_allocated_again() {
    let mut engine = engine(|_| {});
    let buffer = Vec::with_capacity(4096);
    let at = buffer.as_ptr();
    let command = Command::new(0, &[0x28], Transfer::In(4, Some(buffer)));
    let tag = engine.submit(command).unwrap();
    engine
        .hear(&data_in(&engine, tag, 0, 0, 4), b"abcd")
        .unwrap();
    engine.hear(&response(&engine, tag, 0, 1, 0), &[]).unwrap();
    assert_eq!(done(&mut engine).data.as_ptr(), at);
}

#[test]
fn each_broken_rule_of_reads_is_an_error() {
    type Broken = fn(&mut Engine, u32) -> Result<(), Error>;
    let broken: [(&str, Broken); 12] = [
        ("DataSN", |e, t| e.hear(&data_in(e, t, 1, 0, 4), b"abcd")),
        ("out of place", |e, t| {
            e.hear(&data_in(e, t, 0, 1, 4), b"abcd")
        }),
        ("out of place", |e, t| {
            e.hear(&data_in(e, t, 0, 0, 7), b"abcdefg")
        }),
        ("not open", |e, t| {
            e.hear(&data_in(e, t ^ 0x10000, 0, 0, 4), b"abcd")
        }),
        ("not open", |e, _| {
            e.hear(&data_in(e, RESERVED_TAG, 0, 0, 4), b"abcd")
        }),
        ("residual", |e, t| e.hear(&response(e, t, 0, 0, 0), &[])),
        ("at once", |e, t| e.hear(&response(e, t, 6, 0, 0), &[])),
        ("above", |e, t| e.hear(&response(e, t, 2, 0, 7), &[])),
        ("ExpDataSN", |e, t| e.hear(&response(e, t, 2, 1, 6), &[])),
        ("SenseLength", |e, t| {
            e.hear(&response(e, t, 2, 0, 6), &[0, 9, 1])
        }),
        ("reads nothing", |e, _| {
            let tag = write(e, 8192);
            e.hear(&data_in(e, tag, 0, 0, 4), b"abcd")
        }),
        ("writes nothing", |e, t| e.hear(&r2t(e, t, 0, 0, 6), &[])),
    ];
    for (word, run) in broken {
        let mut engine = engine(|_| {});
        let tag = read(&mut engine, 6);
        let error = run(&mut engine, tag).expect_err(word);
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[test]
fn sequence_numbers_must_be_the_next_ones_and_never_go_back() {
    let run = |change: fn(&mut Bhs)| {
        let mut engine = engine(|_| {});
        let tag = read(&mut engine, 0);
        let mut bhs = response(&engine, tag, 0, 0, 0);
        change(&mut bhs);
        engine.hear(&bhs, &[]).map_err(|error| error.to_string())
    };
    assert!(run(|_| {}).is_ok());
    assert!(
        run(|bhs| bhs.put_u32(24, 51))
            .unwrap_err()
            .contains("StatSN")
    );
    assert!(
        run(|bhs| bhs.put_u32(28, u32::MAX - 1))
            .unwrap_err()
            .contains("went back")
    );
    assert!(
        run(|bhs| bhs.put_u32(32, 2))
            .unwrap_err()
            .contains("went back")
    );
    assert!(run(|bhs| bhs.put_u32(32, 200)).is_ok());
}

#[test]
fn a_burst_above_the_limit_is_an_error() {
    let mut engine = engine(|_| {});
    let tag = read(&mut engine, 40_000);
    let mut open = |sn: u32| {
        let mut bhs = data_in(&engine, tag, sn, sn * 8192, 8192);
        bhs.put_u8(1, 0);
        engine.hear(&bhs, &[0; 8192])
    };
    assert!(open(0).is_ok() && open(1).is_ok());
    assert!(open(2).unwrap_err().to_string().contains("MaxBurstLength"));
}

#[test]
fn immediate_data_then_r2t_write_the_whole() {
    let mut engine = engine(|_| {});
    let tag = write(&mut engine, 20_000);
    let sent = queued(&mut engine);
    assert_eq!(
        (sent.len(), sent[0].0, sent[0].1),
        (1, op::SCSI_COMMAND, 0xa1)
    );
    assert_eq!(sent[0].4.len(), 4096);
    engine
        .hear(&r2t(&engine, tag, 0, 4096, 15_904), &[])
        .unwrap();
    let out = queued(&mut engine);
    let shape: Vec<_> = out
        .iter()
        .map(|p| (p.0, p.1, p.2, p.3, p.4.len()))
        .collect();
    assert_eq!(shape, [(5, 0, 0, 4096, 8192), (5, 0x80, 1, 12_288, 7712)]);
    assert_eq!(out[1].4[0], u8::try_from(12_288 % 251).unwrap());
    engine.hear(&response(&engine, tag, 0, 1, 0), &[]).unwrap();
    let done = done(&mut engine);
    assert_eq!((done.sent, done.r2ts), (20_000, 1));
}

#[test]
fn without_immediate_data_all_is_solicited_and_without_initial_r2t_some_is_not() {
    let mut solicited = engine(|agreed| agreed.immediate_data = false);
    write(&mut solicited, 5000);
    let sent = queued(&mut solicited);
    assert_eq!((sent.len(), sent[0].1, sent[0].4.len()), (1, 0xa1, 0));
    let mut eager = engine(|agreed| {
        agreed.initial_r2t = false;
        agreed.target_mrdsl = 1024;
    });
    write(&mut eager, 5000);
    let sent = queued(&mut eager);
    assert_eq!((sent[0].1, sent[0].4.len()), (0x21, 1024));
    let unsolicited: usize = sent[1..].iter().map(|pdu| pdu.4.len()).sum();
    assert_eq!((unsolicited, sent[3].1), (3072, 0x80));
}

#[test]
fn each_broken_rule_of_r2t_is_an_error() {
    for (sn, offset, len) in [
        (1, 4096, 100),
        (0, 4095, 100),
        (0, 4096, 0),
        (0, 4096, 16_385),
        (0, 4096, 15_905),
    ] {
        let mut engine = engine(|_| {});
        let tag = write(&mut engine, 20_000);
        let error = engine.hear(&r2t(&engine, tag, sn, offset, len), &[]);
        assert!(error.is_err(), "R2T {sn} {offset} {len}");
    }
}

#[test]
fn the_window_closes_and_opens() {
    let mut engine = engine(|_| {});
    assert_eq!(engine.window(), 5);
    let tags: Vec<u32> = (0..5).map(|_| read(&mut engine, 0)).collect();
    let more = engine.submit(Command::new(0, &[0], Transfer::None));
    assert_eq!(more.unwrap_err().kind(), ErrorKind::WindowClosed);
    let mut immediate = Command::new(0, &[0], Transfer::None);
    immediate.immediate = true;
    assert!(engine.submit(immediate).is_ok());
    let mut bhs = response(&engine, tags[0], 0, 0, 0);
    bhs.put_u32(32, 4);
    engine.hear(&bhs, &[]).unwrap();
    assert_eq!(engine.window(), 1);
}

#[test]
fn sense_data_comes_without_its_length() {
    let mut engine = engine(|_| {});
    let tag = read(&mut engine, 6);
    let mut bhs = response(&engine, tag, 2, 0, 6);
    bhs.put_u8(3, 2);
    engine.hear(&bhs, &[0, 3, 0x70, 0, 5, 0xff]).unwrap();
    let done = done(&mut engine);
    assert_eq!((done.status, done.sense.as_slice()), (2, &[0x70, 0, 5][..]));
}

#[test]
fn pings_are_answered_unless_told_not_to() {
    let mut engine = engine(|_| {});
    let mut ping = answer(&engine, op::NOP_IN, 0, RESERVED_TAG);
    ping.put_u32(20, 0x1234);
    engine.hear(&ping, &[]).unwrap();
    assert_eq!(queued(&mut engine).len(), 1);
    assert_eq!(engine.exp_stat_sn(), 50, "a ping takes no StatSN");
    engine.answer_pings = false;
    engine.hear(&ping, &[]).unwrap();
    assert!(queued(&mut engine).is_empty());
}

#[test]
fn text_in_pieces_is_asked_for_and_put_together() {
    let mut engine = engine(|_| {});
    let tag = engine.text(b"SendTargets=All\0").unwrap();
    let mut part = answer(&engine, op::TEXT_RESPONSE, 0, tag);
    part.put_u8(1, 0x40);
    part.put_u32(20, 7);
    engine.hear(&part, b"TargetNa").unwrap();
    assert_eq!(queued(&mut engine).len(), 2);
    let mut last = answer(&engine, op::TEXT_RESPONSE, 0, tag);
    last.put_u32(20, RESERVED_TAG);
    engine.hear(&last, b"me=a\0").unwrap();
    let Some(Completion::Text { data, .. }) = engine.said.pop_front() else {
        panic!("no text");
    };
    assert_eq!(data, b"TargetName=a\0");
}

#[test]
fn old_task_tags_are_not_taken_for_new_ones() {
    let mut engine = engine(|_| {});
    let old = read(&mut engine, 0);
    engine.hear(&response(&engine, old, 0, 0, 0), &[]).unwrap();
    let new = read(&mut engine, 0);
    assert_eq!(old & 0xffff, new & 0xffff, "the slot is used again");
    assert!(engine.hear(&response(&engine, old, 0, 0, 0), &[]).is_err());
    engine.forget(new);
    assert_eq!(engine.outstanding(), 0);
}
