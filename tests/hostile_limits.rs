//! Floods and storms against a real head over TCP: every bound of `limits.rs` for strangers and greedy sessions,
//! each beside a well-behaved session. How fast the others stay is measured by `cargo bench --bench attack`.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, as in tests"
)]

mod common;
mod hostile;

use std::time::Instant;

use common::PATIENCE;
use hostile::{GOOD, LAST, LOGIN, PREFIX, Raw, Scene, cdb10, fresh_address, names};
use reveille::iscsi::chap::{Algorithm, decode, hex};
use reveille::iscsi::pdu::{Bhs, op};
use reveille::limits;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// Raises this process's limit of open files.
fn allow_open_files(wanted: u64) {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: Some(wanted.max(now.current.unwrap_or(0))),
        ..now
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

fn is_closed(raw: &Raw) -> bool {
    raw.stream.set_nonblocking(true).unwrap();
    match raw.stream.peek(&mut [0]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Waits for a condition; it is asked again after each round of the well-behaved session.
fn until(scene: &mut Scene, what: &str, mut met: impl FnMut() -> bool) {
    let start = Instant::now();
    while !met() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        scene.check();
    }
}

/// A node behind an address that misbehaves gets in when it tries again, as initiators do.
fn comes_back(scene: &Scene, from: std::net::Ipv4Addr) {
    let start = Instant::now();
    loop {
        let mut raw = Raw::from(scene.portal, from);
        let answer = raw.say(LAST, names("n1").as_bytes());
        if answer.is_some_and(|(bhs, _)| bhs.u16_at(36) == 0) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the address is banned");
    }
}

#[test]
fn one_address_takes_no_more_than_its_places_and_pushes_out_itself() {
    const BEYOND: usize = 100;
    allow_open_files(4096);
    let mut scene = Scene::new();
    let greedy = fresh_address();
    let flood: Vec<Raw> = (0..limits::UNAUTHENTICATED_PER_ADDRESS + BEYOND)
        .map(|_| Raw::from(scene.portal, greedy))
        .collect();
    let closed = || flood.iter().filter(|raw| is_closed(raw)).count();
    until(&mut scene, "nobody was pushed out", || closed() >= BEYOND);
    assert!(is_closed(&flood[0]), "the oldest goes first");
    // The same address still gets in: a node behind it is not locked out.
    comes_back(&scene, greedy);
    scene.check_within(64 << 20);
}

#[test]
fn an_address_that_only_fails_is_turned_away_cheaply_and_comes_back() {
    let mut scene = Scene::new();
    let rude = fresh_address();
    for _ in 0..3000 {
        let mut raw = Raw::from(scene.portal, rude);
        raw.send(b"GET / HTTP/1.1\r\n\r\n");
    }
    scene.check();
    let told = |scene: &Scene| scene.head.log().matches("login refused").count();
    assert!(told(&scene) < 20, "{} lines for one source", told(&scene));
    comes_back(&scene, rude);
    scene.check();
}

/// Begins a CHAP login as n1 and gives an answer to its challenge; not waited for.
fn prove(scene: &Scene, from: std::net::Ipv4Addr, secret: &[u8]) -> Raw {
    let mut raw = Raw::from(scene.portal, from);
    let text = format!("{}AuthMethod=CHAP\0", names("n1"));
    assert_eq!(raw.status(0, text.as_bytes()), 0);
    let (_, answer) = raw.say(0, b"CHAP_A=5\0").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let value = |key: &str| {
        answer
            .split('\0')
            .find_map(|pair| pair.strip_prefix(key))
            .unwrap()
    };
    let challenge = decode(value("CHAP_C="), 1024).unwrap();
    let identifier = value("CHAP_I=").parse().unwrap();
    let response = hex(&Algorithm::Md5.response(identifier, secret, &challenge));
    let text = format!("CHAP_N=n1\0CHAP_R={response}\0");
    let bhs = raw.login_request(0x81, text.as_bytes());
    raw.put(bhs, text.as_bytes());
    raw
}

#[test]
fn wrong_secrets_wait_longer_each_time_and_the_right_one_never_does() {
    let mut scene = Scene::with_auth("chap");
    let right = scene.secret("n1").secret;
    let from = fresh_address();
    let start = Instant::now();
    let mut wrong: Vec<Raw> = (0..12)
        .map(|_| prove(&scene, from, b"0123456789abcdef"))
        .collect();
    // The same address and name, with the right secret, while all of those wait.
    let mut node = prove(&scene, from, &right);
    let (bhs, _) = node.receive().unwrap();
    assert_eq!(
        (bhs.u16_at(36), bhs.flags()),
        (0, 0x81),
        "the right node waits for the wrong ones"
    );
    for raw in &mut wrong {
        assert_eq!(raw.receive().unwrap().0.u16_at(36), 0x0201);
    }
    assert!(
        start.elapsed() >= limits::BACK_OFF_MAX,
        "no answer was held back"
    );
    scene.check();
    let told = scene.head.log().matches("login refused").count();
    assert!(told <= 4, "{told} lines for one source");
}

#[test]
fn a_lack_of_file_numbers_is_survived() {
    let mut scene = Scene::new();
    let pid = Pid::from_raw(i32::try_from(scene.head.pid()).unwrap());
    let used = std::fs::read_dir(format!("/proc/{}/fd", scene.head.pid()))
        .unwrap()
        .count();
    let few = Rlimit {
        current: Some(u64::try_from(used).unwrap() + 40),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(pid, Resource::Nofile, few).unwrap();
    let flood: Vec<Raw> = (0..200).map(|_| scene.stranger()).collect();
    let said = "could not be accepted";
    let log = scene.head.path("serve.log");
    let told = || std::fs::read_to_string(&log).unwrap().matches(said).count();
    until(&mut scene, "the lack was not noticed", || told() > 0);
    scene.check();
    drop(flood);
    scene.check();
    assert!(told() <= 3, "{} lines", told());
    prlimit(pid, Resource::Nofile, before).unwrap();
    scene.check();
}

#[test]
fn discovery_sessions_are_few_for_each_address() {
    let mut scene = Scene::new();
    let greedy = fresh_address();
    let text = format!("InitiatorName={PREFIX}:n1.initiator\0SessionType=Discovery\0");
    let ask = |from| {
        let mut raw = Raw::from(scene.portal, from);
        let status = raw.status(LAST, text.as_bytes());
        (raw, status)
    };
    let mut held: Vec<_> = (0..limits::DISCOVERY_PER_ADDRESS + 2)
        .map(|_| ask(greedy))
        .collect();
    let statuses: Vec<u16> = held.iter().map(|(_, status)| *status).collect();
    let (good, bad) = statuses.split_at(limits::DISCOVERY_PER_ADDRESS);
    assert!(good.iter().all(|status| *status == 0) && bad.iter().all(|status| *status == 0x0302));
    assert_eq!(ask(fresh_address()).1, 0, "another address");
    let (first, _) = held.remove(0);
    drop(first);
    let start = Instant::now();
    while ask(greedy).1 != 0 {
        assert!(start.elapsed() < PATIENCE, "its place is not given back");
    }
    scene.check();
}

#[test]
fn a_target_has_a_bounded_number_of_sessions_and_the_quietest_goes() {
    let mut scene = Scene::new();
    let mut all: Vec<Raw> = (0..limits::SESSIONS_PER_TARGET + 4)
        .map(|n| {
            let mut raw = scene.stranger();
            raw.log_in_as(&format!("many-{n}"), "n1", "");
            raw
        })
        .collect();
    let closed = || all.iter().filter(|raw| is_closed(raw)).count();
    until(&mut scene, "nobody had to leave", || closed() >= 4);
    assert_eq!(closed(), 4);
    let last = all.last_mut().unwrap();
    last.stream.set_nonblocking(false).unwrap();
    last.settle();
    scene.check();
}

#[test]
fn logins_and_logouts_without_end_are_paced_and_all_get_in() {
    let mut scene = Scene::new();
    for n in 0..limits::ENTRY_BURST + 60 {
        let mut raw = scene.stranger();
        raw.log_in("n1", 1, "");
        if n % 2 == 0 {
            let bhs = raw.request(op::LOGOUT | 0x40);
            raw.put(bhs, b"");
            assert_eq!(raw.receive().unwrap().0.opcode(), op::LOGOUT_RESPONSE);
        } else {
            raw.reset();
        }
    }
    scene.check();
}

#[test]
fn commands_that_are_sent_and_left_alone_cost_nothing_lasting() {
    let mut scene = Scene::new();
    for n in 0..120_u32 {
        let mut raw = scene.stranger();
        raw.log_in_as(&format!("gone-{}", n % 4), "n1", "InitialR2T=No\0");
        for lane in 0..32 {
            let read = raw.scsi(0xc0, 1 << 20, &cdb10(0x28, lane % 7 * 2048, 2048));
            raw.put(read, b"");
            let write = raw.scsi(0x20, 65_536, &cdb10(0x2a, 2048, 128));
            raw.put(write, &[n.to_be_bytes()[3]; 4096]);
        }
        raw.reset();
    }
    scene.check_within(128 << 20);
}

/// A flooder has much to do; its neighbour has little, and is served in between.
#[test]
fn floods_of_pings_data_and_nonsense_leave_the_neighbour_alone() {
    let mut scene = Scene::new();
    let mut flooders: Vec<Raw> = (0..4)
        .map(|n| {
            let mut raw = scene.stranger();
            raw.log_in_as(&format!("flood-{n}"), "n1", "");
            raw.settle();
            raw
        })
        .collect();
    let write = flooders[2].scsi(0xa0, 4096, &cdb10(0x2a, 0, 8));
    flooders[2].put(write, b"");
    let ttt = flooders[2].receive().unwrap().0.ttt();
    assert_eq!(flooders[2].manage(1, 0, write.itt()), 0);
    for round in 0..40 {
        for (n, raw) in flooders.iter_mut().enumerate() {
            let mut bytes = Vec::new();
            for _ in 0..200 {
                let bhs = match n {
                    0 => raw.request(op::NOP_OUT | 0x40),
                    1 => {
                        let mut bhs = raw.request(op::SCSI_COMMAND | 0x40);
                        bhs.put_u8(0, op::SCSI_COMMAND);
                        bhs.put_u32(24, raw.cmd_sn.wrapping_sub(7));
                        bhs
                    }
                    2 => {
                        let mut bhs = Bhs::new(op::DATA_OUT);
                        bhs.put_u32(16, write.itt());
                        bhs.put_u32(20, ttt);
                        bhs
                    }
                    _ => {
                        let mut bhs = raw.request(op::NOP_OUT | 0x40);
                        bhs.put_u32(16, u32::MAX);
                        bhs
                    }
                };
                bytes.extend_from_slice(&bhs.0);
            }
            raw.send(&bytes);
        }
        if round % 8 == 0 {
            scene.check();
        }
        // The one that earns answers reads them.
        for _ in 0..200 {
            assert_eq!(flooders[0].receive().unwrap().0.opcode(), op::NOP_IN);
        }
    }
    for raw in &mut flooders {
        raw.ping();
        assert_eq!(raw.command(0x80, 0, &[0; 6], &[]).0, GOOD);
    }
    assert_eq!(LOGIN, 0x43);
    scene.check();
}
