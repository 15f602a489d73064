//! Whole errands against models of the boot services, on a virtual clock.

use std::net::SocketAddr;

use super::*;
use crate::limits::SWARM_TFTP_TRIES;

const SECOND: u64 = 1_000_000;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn mac() -> Mac {
    Mac::parse("52:54:00:77:00:01").unwrap()
}

fn path(tftp: bool, http: bool) -> BootPath {
    BootPath {
        tftp: tftp.then(|| at("10.0.0.1:69")),
        http: http.then(|| at("10.0.0.1:8068")),
        firmware: Firmware::Bios,
    }
}

fn boot_script() -> String {
    let text = "#!ipxe\necho Reveille: n1 boots debian:1\nset initiator-iqn iqn.x:n1.initiator\nset username n1\n\
                set password abcdefghijkl1234\nsanboot iscsi:10.0.0.1::3260:0:iqn.x:n1 || goto failed\n";
    text.to_owned()
}

fn turn_script() -> String {
    "#!ipxe\necho Reveille: n1 waits its turn to boot: place 2 in the queue\n:again\nsleep 3\n\
     chain --replace --autofree http://10.0.0.1:8068/boot?mac=52:54:00:77:00:01&arch=bios || goto again\n"
        .to_owned()
}

/// What the head does to one HTTP request.
#[derive(Clone, Debug)]
enum Says {
    Text(u16, String),
    Refuses,
    Hangs,
    Closes,
}

/// What came of an errand.
struct Ran {
    end: Result<Option<Box<Disk>>, String>,
    tally: Tally,
    took: u64,
    asked: Vec<String>,
    loaded: Option<Loaded>,
}

/// A head whose HTTP answers as the list says, the last for ever, and whose loader has these bytes.
fn run(mut errand: Errand, loader: Option<&[u8]>, says: &[Says]) -> Ran {
    let (mut now, mut tally, mut asked) = (0, Tally::default(), Vec::new());
    let (mut answers, mut transfer, mut sent) = (says.iter().cycle(), 2000, 0usize);
    let mut loaded = None;
    for _ in 0..10_000 {
        while let Some((to, bytes)) = errand.next_out() {
            let Some(_) = to else {
                let request = String::from_utf8(bytes).unwrap();
                asked.push(request.lines().next().unwrap().to_owned());
                match answers.next().unwrap() {
                    Says::Text(status, body) => {
                        let text = format!(
                            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        now += 1000;
                        errand.hear(None, text.as_bytes(), &mut tally, now);
                    }
                    Says::Closes => errand.lost(None, &mut tally, now),
                    Says::Hangs | Says::Refuses => {}
                }
                continue;
            };
            let (Some(file), from) = (loader, SocketAddr::new(at("10.0.0.1:1").ip(), transfer))
            else {
                continue;
            };
            now += 100;
            let mut say = |text: &[u8]| errand.hear(Some(from), text, &mut tally, now);
            match bytes[1] {
                1 if bytes.windows(5).any(|w| w == b"tsize") => {
                    say(format!("\0\x06blksize\x00512\0tsize\0{}\0", file.len()).as_bytes());
                }
                1 => say(b"\0\x06blksize\x00512\0"),
                4 => {
                    let number = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
                    if number <= file.len() / 512 {
                        sent = sent.max(number + 1);
                        let end = (number * 512 + 512).min(file.len());
                        let count = u8::try_from(number + 1).unwrap();
                        say(&[&[0, 3, 0, count][..], &file[number * 512..end]].concat());
                    }
                }
                _ => {}
            }
        }
        loaded = errand.take_loaded().or(loaded);
        if let Some(end) = errand.take_end() {
            return Ran {
                end,
                tally,
                took: now,
                asked,
                loaded,
            };
        }
        match errand.wish(now) {
            Some(Wish::Udp(to)) => {
                assert_eq!(to, at("10.0.0.1:69"));
                transfer += 1;
                errand.opened(now);
            }
            Some(Wish::Tcp(to)) => {
                assert_eq!(to, at("10.0.0.1:8068"));
                errand.opened(now);
                if let Some(Says::Refuses) = answers.clone().next() {
                    answers.next();
                    errand.lost(Some("cannot connect: refused"), &mut tally, now);
                } else {
                    errand.connected();
                }
            }
            Some(Wish::Close) => {}
            None => {
                now = now.max(
                    errand
                        .due()
                        .expect("an errand that is not over has a timer"),
                );
                errand.tick(&mut tally, now);
            }
        }
    }
    panic!("it goes round in circles while {}", errand.doing());
}

fn count(ran: &Ran, stage: Stage) -> u64 {
    ran.tally.times(stage).percentiles().count
}

#[test]
fn a_node_fetches_loader_and_script_and_knows_its_disk() {
    let file: Vec<u8> = (0..3000u32).map(|n| n.to_le_bytes()[0]).collect();
    let says = [Says::Text(200, boot_script())];
    let ran = run(Errand::boot(path(true, true), mac(), 0), Some(&file), &says);
    let disk = ran.end.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(
        (disk.portal, &*disk.target),
        (at("10.0.0.1:3260"), "iqn.x:n1")
    );
    assert_eq!(disk.chap, Some(("n1".into(), "abcdefghijkl1234".into())));
    assert_eq!(
        ran.asked,
        ["GET /boot?mac=52:54:00:77:00:01&arch=bios HTTP/1.1"]
    );
    assert_eq!(ran.loaded.unwrap().bytes, 3000);
    assert_eq!(ran.tally.counts.loader_bytes, 3000);
    let stages = [Stage::Loader, Stage::Script, Stage::Turn].map(|stage| count(&ran, stage));
    assert_eq!(stages, [1, 1, 0]);
    assert!(ran.took < SECOND, "no timer was needed");
}

#[test]
fn either_part_goes_alone() {
    let tftp = run(
        Errand::boot(path(true, false), mac(), 0),
        Some(b"loader"),
        &[Says::Closes],
    );
    assert_eq!((tftp.end, tftp.asked.len()), (Ok(None), 0));
    let says = [Says::Text(200, boot_script())];
    let http = run(Errand::boot(path(false, true), mac(), 0), None, &says);
    assert!(http.end.unwrap().is_some() && http.loaded.is_none());
}

#[test]
fn a_turn_is_waited_for_as_long_as_it_takes() {
    let mut says = vec![Says::Text(200, turn_script()); 200];
    says.push(Says::Text(200, boot_script()));
    let ran = run(Errand::boot(path(false, true), mac(), 0), None, &says);
    assert!(ran.end.as_ref().unwrap().is_some());
    assert_eq!((ran.asked.len(), ran.took / SECOND), (201, 600));
    // The sleep is no time of the stage, but of the turn.
    assert_eq!(
        (count(&ran, Stage::Script), count(&ran, Stage::Turn)),
        (201, 1)
    );
    assert!(ran.tally.times(Stage::Script).percentiles().max_us < SECOND);
    assert!(ran.tally.times(Stage::Turn).percentiles().max_us >= 600 * SECOND);
}

#[test]
fn a_machine_that_somebody_must_let_in_fails_with_what_its_screen_says() {
    let text = "#!ipxe\necho Reveille: unknown machine 52:54:00:77:00:01 (bios) waits for approval\n\
                echo Reveille: on the head: reveille node approve\n:again\nsleep 5\nchain http://10.0.0.1:8068/b\n";
    let ran = run(
        Errand::boot(path(false, true), mac(), 0),
        None,
        &[Says::Text(200, text.into())],
    );
    let why = ran.end.unwrap_err();
    assert!(
        why.starts_with("SCRIPT: ") && why.contains("unknown machine 52:54:00:77:00:01"),
        "{why}"
    );
    assert_eq!((ran.asked.len(), ran.took / SECOND), (1, 0));
}

#[test]
fn a_trouble_of_the_head_may_pass_and_is_told_when_it_does_not() {
    let text = "#!ipxe\necho Reveille: cannot boot: its disk is busy\n:again\nsleep 10\n\
                chain http://10.0.0.1:8068/boot?x\n";
    let trouble = Says::Text(200, text.into());
    let says = [trouble.clone(), Says::Text(200, boot_script())];
    let ran = run(Errand::boot(path(false, true), mac(), 0), None, &says);
    assert!(ran.end.unwrap().is_some());
    assert_eq!(ran.took / SECOND, 10);
    let ran = run(Errand::boot(path(false, true), mac(), 0), None, &[trouble]);
    assert!(ran.end.unwrap_err().contains("its disk is busy"));
    assert_eq!(ran.asked.len(), SWARM_SCRIPT_TROUBLES as usize);
}

#[test]
fn a_head_that_is_away_for_a_moment_is_asked_again() {
    let says = [
        Says::Refuses,
        Says::Closes,
        Says::Hangs,
        Says::Text(503, "later\n".into()),
        Says::Text(200, boot_script()),
    ];
    let ran = run(Errand::boot(path(false, true), mac(), 0), None, &says);
    assert!(ran.end.unwrap().is_some());
    assert_eq!(ran.took / SECOND, SWARM_LOGIN_WAIT.as_secs());
    let ran = run(
        Errand::boot(path(false, true), mac(), 0),
        None,
        &[Says::Refuses],
    );
    let why = ran.end.unwrap_err();
    let words = format!(
        "SCRIPT: 10.0.0.1:8068: cannot connect: refused; it was tried {SWARM_RECONNECTS} times"
    );
    assert_eq!(why, words);
}

#[test]
fn what_is_refused_is_not_asked_again() {
    let ran = run(
        Errand::boot(path(false, true), mac(), 0),
        None,
        &[Says::Text(400, "no MAC\n".into())],
    );
    assert_eq!(
        ran.end.unwrap_err(),
        "SCRIPT: 10.0.0.1:8068: status 400, no MAC"
    );
    let ran = run(
        Errand::boot(path(true, true), mac(), 0),
        None,
        &[Says::Closes],
    );
    let why = ran.end.unwrap_err();
    let words = format!("TFTP: no answer from 10.0.0.1:69 to {SWARM_TFTP_TRIES} requests");
    assert!(why.starts_with(&words), "{why}");
}

#[test]
fn the_ready_call_is_made_as_the_image_makes_it() {
    let ran = run(
        Errand::ready(path(true, true), mac(), 0),
        None,
        &[Says::Text(200, "n1 is ready\n".into())],
    );
    assert_eq!(
        (ran.end, ran.asked),
        (
            Ok(None),
            vec!["GET /ready?mac=52:54:00:77:00:01 HTTP/1.0".to_owned()]
        )
    );
    assert_eq!(ran.tally.times(Stage::Ready).percentiles().count, 1);
    // Five tries, with 1, 2, 4 and 8 s between them.
    let ran = run(
        Errand::ready(path(true, true), mac(), 0),
        None,
        &[Says::Refuses],
    );
    assert!(ran.end.unwrap_err().starts_with("READY: "));
    assert_eq!(ran.took / SECOND, 15);
}

#[test]
fn addresses_of_scripts_are_taken_apart() {
    let split = |url: &str| split_url(url).map(|(to, path)| (to.to_string(), path));
    let wanted = ("10.0.0.1:8068".to_owned(), "/boot?a=b".to_owned());
    assert_eq!(split("http://10.0.0.1:8068/boot?a=b"), Some(wanted));
    assert_eq!(split("http://10.0.0.1/x").unwrap().0, "10.0.0.1:80");
    for bad in [
        "https://10.0.0.1/x",
        "http://head/x",
        "http://10.0.0.1:8068",
        "x",
    ] {
        assert_eq!(split(bad), None, "{bad}");
    }
}
