//! Peers without manners: garbage, silence, floods. Others must not notice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use reveille::iscsi::initiator::Wire;
use reveille::iscsi::pdu::{Bhs, op};
use reveille::limits;
use tokio::time::timeout;

use super::common::PATIENCE;
use super::{SECTOR, connect, head_with, log_in, offer, read, target};

fn raw_connection(portal: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(portal).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[tokio::test]
async fn garbage_and_half_open_connections_do_not_stop_others() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    let portal = head.portal.unwrap();
    let mut huge = Bhs::new(op::LOGIN | 0x40);
    huge.set_data_len(0xff_ffff);
    let mut with_ahs = Bhs::new(op::LOGIN | 0x40);
    with_ahs.put_u8(4, 255);
    let mut command = Bhs::new(op::SCSI_COMMAND);
    command.put_u8(1, 0xc1);
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: head\r\n\r\n",
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        &[0xff; 4096],
        &huge.0,
        &with_ahs.0,
        &command.0,
    ];
    let idle: Vec<TcpStream> = (0..150).map(|_| raw_connection(portal)).collect();
    let half: Vec<TcpStream> = (1..48)
        .map(|len| {
            let mut stream = raw_connection(portal);
            stream
                .write_all(&Bhs::new(op::LOGIN | 0x40).0[..len])
                .unwrap();
            stream
        })
        .collect();
    for bytes in garbage {
        let mut stream = raw_connection(portal);
        // It may be closed while we still write.
        let _ = stream.write_all(bytes);
        let mut answer = [0; 64];
        let end = stream.read(&mut answer);
        assert!(
            matches!(end, Ok(0) | Err(_)),
            "answered {:02x?}",
            &bytes[..8]
        );
    }
    let login = timeout(Duration::from_secs(5), log_in(&head, offer("n1", 1)));
    let mut session = login
        .await
        .expect("a login among half-open connections is slow");
    assert_eq!(read(&mut session, 0..64).await.len(), 64 * SECTOR);
    // Bad manners after the login end their own session only.
    let mut rude = log_in(&head, offer("n1", 2)).await.into_wire();
    rude.put(&[0xee; 4096]);
    rude.flush().await.unwrap();
    while let Ok(Some((answer, _))) = timeout(PATIENCE, rude.receive()).await.expect("it hangs") {
        assert_eq!(answer.opcode(), op::REJECT);
    }
    assert_eq!(read(&mut session, 0..64).await.len(), 64 * SECTOR);
    drop((idle, half));
}

/// Raises this process's limit of open files, and with it the head's, which inherits it.
fn allow_open_files(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    assert!(
        now.maximum.is_none_or(|max| max >= wanted),
        "`ulimit -Hn` must be {wanted} or more"
    );
    let raised = Rlimit {
        current: Some(wanted.max(now.current.unwrap_or(0))),
        ..now
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

#[tokio::test]
async fn a_flood_of_connections_is_bounded_and_sessions_live_on() {
    const BEYOND: usize = 200;
    allow_open_files(4096);
    let head = head_with("none", &[("n1", "ephemeral")]);
    let portal = head.portal.unwrap();
    let mut session = log_in(&head, offer("n1", 1)).await;
    let flood: Vec<TcpStream> = (0..limits::UNAUTHENTICATED_PER_ADDRESS + BEYOND)
        .map(|_| raw_connection(portal))
        .collect();
    // A session answers between two waves of accepts, so those after it were looked at before.
    assert_eq!(read(&mut session, 0..8).await.len(), 8 * SECTOR);
    let turned_away = || {
        let is_closed = |stream: &&TcpStream| {
            stream.set_nonblocking(true).unwrap();
            match stream.peek(&mut [0]) {
                Ok(len) => len == 0,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        };
        flood.iter().filter(is_closed).count()
    };
    let all = async {
        while turned_away() < BEYOND {
            session.nop(b"are you there").await.unwrap();
        }
    };
    timeout(Duration::from_secs(9), all)
        .await
        .expect("more wait than the limit allows");
    assert_eq!(turned_away(), BEYOND);
    drop(flood);
    // Places are given back as soon as the connections are gone.
    let again = async {
        while connect(&head, offer("n1", 2)).await.is_err() {
            session.nop(b"").await.unwrap();
        }
    };
    timeout(PATIENCE, again)
        .await
        .expect("nobody gets in after the flood");
    assert_eq!(read(&mut session, 0..8).await.len(), 8 * SECTOR);
}

#[tokio::test]
async fn a_login_that_goes_on_for_ever_is_ended() {
    let head = head_with("none", &[("n1", "ephemeral")]);
    let mut wire = Wire::connect(head.portal.unwrap()).await.unwrap();
    let mut answers = 0;
    loop {
        let mut bhs = Bhs::new(op::LOGIN | 0x40);
        // Operational stage, no T: it could be continued for ever.
        bhs.put_u8(1, 0x04);
        bhs.put_u32(28, answers);
        let text = if answers == 0 {
            format!(
                "InitiatorName=iqn.2026-11.t:x\0TargetName={}\0",
                target("n1")
            )
        } else {
            String::new()
        };
        wire.put_pdu(bhs, text.as_bytes());
        let sent = wire.flush().await;
        match timeout(PATIENCE, wire.receive()).await.expect("it hangs") {
            Ok(Some((answer, _))) if sent.is_ok() && answer.u16_at(36) == 0 => answers += 1,
            _ => break,
        }
        assert!(
            answers <= limits::LOGIN_PDUS_MAX,
            "no end after {answers} requests"
        );
    }
    assert!(answers > 2);
}
