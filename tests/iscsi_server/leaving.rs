//! Drain, redirect, orderly stop; portals, limits, clones and counters: what an administrator asks of a head.

use std::time::Duration;

use reveille::iscsi::initiator::engine::Completion;
use reveille::iscsi::initiator::offer::Offer;
use reveille::iscsi::initiator::profiles::LIBISCSI;
use reveille::iscsi::initiator::{ErrorKind, Initiator};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

use super::chap::secrets_of;
use super::common::{PATIENCE, TestHead, tool};
use super::{
    GOOD, SECTOR, connect, head_of, head_with, log_in, offer, read, read_of, refused,
    send_slow_writes, settle, target, write,
};

const IPXE_ISID: [u8; 6] = [0x40, 0x00, 0x27, 0x23, 1, 2];

/// Two heads that serve the same node, with the same secrets.
fn two_heads(auth: &str) -> (TestHead, TestHead) {
    let (one, two) = (
        head_with(auth, &[("n1", "ephemeral"), ("n2", "ephemeral")]),
        head_with(auth, &[("n1", "ephemeral"), ("n2", "ephemeral")]),
    );
    let secrets = one.good(&["node", "secret", "n[1-2]", "-o", "json"]);
    let file = two.path("secrets.json");
    std::fs::write(&file, secrets).unwrap();
    two.good(&["node", "secret", "--from", &file.display().to_string()]);
    (one, two)
}

fn mutual(head: &TestHead, node: &str, port: u8) -> Offer {
    let (own, proof) = secrets_of(head, node);
    Offer {
        chap: Some(own),
        mutual: Some(proof),
        entropy: [3; 33],
        ..offer(node, port)
    }
}

/// Reads until the target says something of its own, or closes.
async fn word_of(session: &mut Initiator) -> Result<Completion, ErrorKind> {
    timeout(PATIENCE, session.complete())
        .await
        .expect("the target neither speaks nor closes")
        .map_err(|e| e.kind())
}

#[tokio::test]
async fn a_drained_node_goes_to_the_other_head_and_comes_back() {
    let (one, two) = two_heads("mutual");
    let mut session = log_in(&one, mutual(&one, "n1", 1)).await;
    let mut neighbour = log_in(&one, mutual(&one, "n2", 1)).await;
    let there = two.portal.unwrap();
    one.good(&["drain", "n1", "--to", &there.to_string()]);
    let Ok(Completion::Async { event, .. }) = word_of(&mut session).await else {
        panic!("the system is asked to leave");
    };
    assert_eq!(event, 1);
    // Until it has left it works on.
    assert_eq!(read(&mut session, 0..8).await.len(), 4096);
    assert_eq!(session.logout().await.unwrap(), 0);
    let mut moved = log_in(&one, mutual(&one, "n1", 1)).await;
    assert_eq!(moved.address(), there);
    assert_eq!(read(&mut moved, 0..8).await.len(), 4096);
    // Nobody else is concerned.
    assert_eq!(read(&mut neighbour, 0..8).await.len(), 4096);
    let again = log_in(&one, mutual(&one, "n2", 2)).await;
    assert_eq!(again.address(), one.portal.unwrap());
    let status = one.good(&["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status[0]["drained_to"], there.to_string());
    assert!(status[1].get("drained_to").is_none(), "{status}");
    assert!(
        one.good(&["status"])
            .contains(&format!("drained to {there}"))
    );
    one.good(&["drain", "n1", "--to", &there.to_string(), "--wait"]);
    one.good(&["undrain", "n1"]);
    let back = log_in(&one, mutual(&one, "n1", 1)).await;
    assert_eq!(back.address(), one.portal.unwrap());
}

#[tokio::test]
async fn firmware_is_closed_without_a_word_and_follows() {
    let (one, two) = two_heads("none");
    let firmware = || Offer {
        isid: IPXE_ISID,
        ..offer("n1", 1)
    };
    let mut session = log_in(&one, firmware()).await;
    let there = two.portal.unwrap().to_string();
    one.good(&["drain", "--to", &there, "--wait", "--timeout", "30"]);
    assert_eq!(word_of(&mut session).await.unwrap_err(), ErrorKind::Closed);
    let moved = log_in(&one, firmware()).await;
    assert_eq!(moved.address(), two.portal.unwrap());
}

#[tokio::test]
async fn a_head_that_is_drained_to_nowhere_says_try_again_even_after_a_restart() {
    let mut head = head_with("none", &[("n1", "ephemeral")]);
    head.good(&["drain"]);
    assert_eq!(refused(&head, offer("n1", 1)).await, 0x0301);
    head.stop();
    head.serve();
    assert_eq!(refused(&head, offer("n1", 1)).await, 0x0301);
    assert!(head.log().contains("this head is drained"));
    head.good(&["undrain"]);
    let _ = log_in(&head, offer("n1", 1)).await;
    let own = head.portal.unwrap().to_string();
    assert!(
        head.bad(&["drain", "--to", &own], 2)
            .contains("is this head")
    );
    assert!(head.bad(&["drain", "n7"], 1).contains("n7"));
    assert!(head.bad(&["undrain", "n1"], 4).contains("not drained"));
    let _ = log_in(&head, offer("n1", 1)).await;
}

#[tokio::test]
async fn who_stays_is_waited_for_in_vain_and_closed_after_the_grace() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    let mut deaf = log_in(&head, offer("n1", 1)).await;
    let said = head.cli(&["drain", "--wait", "--timeout", "1"]);
    assert_eq!(said.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&said.stderr).contains("1 connections are still there"));
    assert!(matches!(
        word_of(&mut deaf).await,
        Ok(Completion::Async { event: 1, .. })
    ));
    assert_eq!(word_of(&mut deaf).await.unwrap_err(), ErrorKind::Closed);
}

#[tokio::test]
async fn the_configuration_redirects_every_login_and_not_in_a_circle() {
    let two = head_with("none", &[("n1", "ephemeral")]);
    let there = two.portal.unwrap();
    let config =
        format!("[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\nredirect = \"{there}\"\n");
    let one = head_of(&config, &[("n1", "ephemeral")]);
    assert_eq!(log_in(&one, offer("n1", 1)).await.address(), there);
    // The foreign initiator follows too.
    let out = one.path("copy.raw").display().to_string();
    let copied = tool(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", &one.url("n1"), &out],
    );
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let golden = std::fs::read(two.path("golden.raw")).unwrap();
    assert!(std::fs::read(out).unwrap() == golden);
    let events = two.good(&["events", "n1"]);
    assert!(events.contains("login"), "{events}");
    let circle =
        format!("[iscsi]\nlisten = [\"{there}\"]\nredirect = \"{there}\"\nauth = \"none\"\n");
    drop(two);
    let head = TestHead::with_config(&circle);
    assert!(head.bad(&["serve"], 1).contains("is this head"));
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_the_next_start_takes_logins_at_once() {
    let mut head = head_with("none", &[("n1", "persistent")]);
    let mut session = log_in(&head, offer("n1", 1)).await;
    let tags = send_slow_writes(&mut session).await;
    // One answer: all commands are in, and most of them wait inside.
    let mut answered = usize::from(matches!(
        word_of(&mut session).await,
        Ok(Completion::Command(done)) if done.status == GOOD
    ));
    assert_eq!(answered, 1);
    let reader = tokio::spawn(async move {
        loop {
            match word_of(&mut session).await {
                Ok(Completion::Command(done)) => answered += usize::from(done.status == GOOD),
                Ok(other) => panic!("{other:?}"),
                Err(kind) => return (answered, kind),
            }
        }
    });
    head = tokio::task::spawn_blocking(move || {
        head.stop();
        head
    })
    .await
    .unwrap();
    let (answered, kind) = reader.await.unwrap();
    assert_eq!((answered, kind), (tags.len(), ErrorKind::Closed));
    head.serve();
    let mut session = log_in(&head, offer("n1", 1)).await;
    let data = read(&mut session, 0..8).await;
    assert!(data == [0xaa; 8 * SECTOR], "answered writes are there");
}

#[tokio::test]
async fn discovery_tells_the_address_that_was_reached_and_then_the_others() {
    let config = "[iscsi]\nlisten = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\nauth = \"none\"\n";
    let mut head = head_of(config, &[("n1", "ephemeral")]);
    let asked = |head: &TestHead| {
        let portal = head.portal.unwrap();
        async move {
            let offer = Offer::discovery("iqn.2026-11.internal.reveille:n1.initiator");
            let mut session = Initiator::connect(portal, offer).await.unwrap();
            let found = session.send_targets("All").await.unwrap();
            let addresses = found.into_iter().filter(|(key, _)| key == "TargetAddress");
            addresses.map(|(_, value)| value).collect::<Vec<_>>()
        }
    };
    let first = asked(&head).await;
    assert_eq!(first.len(), 2);
    head.portal = Some(first[1].trim_end_matches(",1").parse().unwrap());
    let second = asked(&head).await;
    assert_eq!(second, [first[1].clone(), first[0].clone()]);
    drop(head);
    let config = "[iscsi]\nlisten = [\"0.0.0.0:0\"]\nauth = \"none\"\n";
    let mut head = head_of(config, &[("n1", "ephemeral")]);
    let port = head.portal.unwrap().port();
    head.portal = Some(([127, 0, 0, 1], port).into());
    assert_eq!(asked(&head).await, [format!("127.0.0.1:{port},1")]);
}

#[test]
fn libiscsi_discovers_its_own_target_behind_chap() {
    let head = head_with("chap", &[("n1", "ephemeral"), ("n2", "ephemeral")]);
    let (own, _) = secrets_of(&head, "n1");
    let portal = head.portal.unwrap();
    let ask = |secret: &str| {
        let url = format!("iscsi://n1%{secret}@{portal}");
        let name = "iqn.2026-11.internal.reveille:n1.initiator";
        let out = tool("iscsi-ls", &["-i", name, &url]);
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let text = ask(&String::from_utf8(own.secret).unwrap());
    assert!(
        text.contains(&target("n1")) && !text.contains(&target("n2")),
        "{text}"
    );
    assert!(text.contains(&format!("{portal},1")), "{text}");
    assert!(!ask("0123456789abcdef").contains("Target:"));
}

#[tokio::test]
async fn a_node_has_as_many_sessions_as_the_configuration_grants() {
    let config = "[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\n\
                  [limits]\nsessions_per_node = 4\n";
    let head = head_of(config, &[("n1", "ephemeral")]);
    let mut all = Vec::new();
    for port in 1..=5 {
        all.push(log_in(&head, offer("n1", port)).await);
    }
    assert_eq!(word_of(&mut all[0]).await.unwrap_err(), ErrorKind::Closed);
    for session in &mut all[1..] {
        assert_eq!(read(session, 0..1).await.len(), SECTOR);
    }
}

#[tokio::test]
async fn the_digest_policy_decides_within_the_offer() {
    for (policy, header) in [
        ("offered", false),
        ("prefer-crc32c", true),
        ("prefer-none", false),
    ] {
        let config = format!(
            "[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"none\"\ndigests = \"{policy}\"\n"
        );
        let head = head_of(&config, &[("n1", "ephemeral")]);
        let ask = Offer {
            profile: LIBISCSI,
            ..offer("n1", 1)
        };
        let mut session = log_in(&head, ask).await;
        // libiscsi offers None,CRC32C for headers and nothing but None for data.
        let agreed = session.login().agreed.clone();
        assert_eq!(
            (agreed.header_digest, agreed.data_digest),
            (header, false),
            "{policy}"
        );
        assert_eq!(read(&mut session, 0..64).await.len(), 64 * SECTOR);
    }
}

/// A way to `portal` from another address than 127.0.0.1.
async fn from_elsewhere(portal: std::net::SocketAddr) -> std::net::SocketAddr {
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = door.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = door.accept().await {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
            let mut far = socket.connect(portal).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    address
}

#[tokio::test]
async fn two_machines_with_one_name_are_told_of_loudly_and_once() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    let portal = head.portal.unwrap();
    let elsewhere = from_elsewhere(portal).await;
    for _ in 0..3 {
        for way in [portal, elsewhere] {
            let mut session = Initiator::connect(way, offer("n1", 1)).await.unwrap();
            settle(&mut session).await;
            // Held open: the next one pushes it out.
            std::mem::forget(session);
        }
    }
    let events = head.good(&["events", "n1"]);
    let told: Vec<&str> = events
        .lines()
        .filter(|l| l.contains("TWO MACHINES"))
        .collect();
    assert_eq!(told.len(), 1, "{events}");
    assert!(
        told[0].contains("127.0.0.1 ") && told[0].contains("127.0.0.9 "),
        "{told:?}"
    );
    assert!(told[0].contains("iqn.2026-11.internal.reveille:n1.initiator"));
    assert!(head.log().contains("two machines use one initiator name"));
}

/// The value of a metric.
fn metric(head: &TestHead, name: &str) -> u64 {
    let text = head.good(&["metrics"]);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name} is missing:\n{text}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn the_counters_count_what_happened() {
    let head = head_with("mutual", &[("n1", "ephemeral")]);
    assert_eq!(metric(&head, "reveille_nodes"), 1);
    let mut session = log_in(&head, mutual(&head, "n1", 1)).await;
    let _ = read(&mut session, 0..64).await;
    write(&mut session, 0..64, &[1; 64 * SECTOR]).await;
    let (own, _) = secrets_of(&head, "n1");
    let _one_way = log_in(
        &head,
        Offer {
            chap: Some(own),
            ..offer("n1", 2)
        },
    )
    .await;
    let stranger = connect(&head, offer("n1", 3)).await;
    assert_eq!(stranger.unwrap_err().kind(), ErrorKind::Refused(0x0201));
    // A PDU that nobody knows.
    let bhs = session.engine().request(0x1c, true);
    session.engine().raw(bhs, &[], &[]);
    assert!(matches!(
        word_of(&mut session).await,
        Ok(Completion::Reject { .. })
    ));
    let done = session.execute(read_of(&(0..8))).await.unwrap();
    assert_eq!(done.status, GOOD);
    for (name, least, most) in [
        ("reveille_iscsi_sessions", 2, 2),
        ("reveille_iscsi_logins_total", 2, 2),
        ("reveille_iscsi_logins_one_way_total", 1, 1),
        ("reveille_iscsi_login_results_total{status=\"0000\"}", 2, 2),
        ("reveille_iscsi_login_results_total{status=\"0201\"}", 1, 1),
        ("reveille_iscsi_rejects_total", 1, 1),
        ("reveille_iscsi_read_bytes_total", 72 * 512, 72 * 512),
        ("reveille_iscsi_written_bytes_total", 64 * 512, 64 * 512),
        ("reveille_iscsi_read_seconds_count", 2, 2),
        ("reveille_iscsi_write_seconds_count", 1, 1),
        ("reveille_iscsi_pdus_in_total", 5, 60),
        ("reveille_iscsi_memory_limit_bytes", 1 << 30, 1 << 30),
    ] {
        // The counters of a batch are booked a moment after its answers left.
        let mut value = 0;
        for _ in 0..100 {
            value = metric(&head, name);
            if (least..=most).contains(&value) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!((least..=most).contains(&value), "{name} is {value}");
    }
    drop(session);
    let other = head.path("other").display().to_string();
    let text = head.bad(&["--state", &other, "metrics"], 4);
    assert!(text.contains("no daemon runs"), "{text}");
}
