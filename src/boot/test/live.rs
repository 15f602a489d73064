//! The services over real sockets on the loopback, without privileges.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::super::facts::test::{ipxe, pxe};
use super::super::house::House;
use super::super::packet::Packet;
use super::super::plan::test::node;
use super::super::server::{BootServices, Options, Running};
use super::super::service::DhcpMode;
use super::super::tftp::test::rrq;
use super::Table;
use crate::catalog::NodeRecord;
use crate::limits;

/// The real services on the loopback, ports of the kernel's choice.
struct Live {
    table: Arc<Table>,
    running: Running,
    client: tokio::net::UdpSocket,
    _dir: tempfile::TempDir,
}

async fn live(mode: DhcpMode) -> Live {
    let me = NodeRecord {
        ip: Some(Ipv4Addr::LOCALHOST),
        ..node("n1")
    };
    let table = Table::new(vec![me]);
    let dir = tempfile::tempdir().unwrap();
    let loader: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    std::fs::write(dir.path().join("undionly.kpxe"), &loader).unwrap();
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let options = Options {
        interfaces: vec!["lo".into()],
        dhcp: mode,
        tftp: Some(any),
        http: any,
        loaders: Some(dir.path().to_owned()),
        dhcp_port: 0,
        dhcp_client_port: client.local_addr().unwrap().port(),
        pxe_port: 0,
        ..Options::default()
    };
    let house: Arc<dyn House> = Arc::clone(&table) as Arc<dyn House>;
    let running = BootServices::start_with(house, &options).unwrap();
    Live {
        table,
        running,
        client,
        _dir: dir,
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Live {
    async fn dhcp(&self, to: SocketAddr, packet: &Packet) -> Packet {
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port());
        self.client.send_to(&packet.encode(), to).await.unwrap();
        let mut buffer = [0; 1500];
        let heard = self.client.recv_from(&mut buffer);
        let (size, _) = tokio::time::timeout(PATIENCE, heard)
            .await
            .unwrap()
            .unwrap();
        Packet::parse(&buffer[..size]).unwrap()
    }

    async fn http(&self, method: &str, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.running.http())
            .await
            .unwrap();
        let ask = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn tftp(&self, request: &[u8]) -> Vec<u8> {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .send_to(request, self.running.tftp()[0])
            .await
            .unwrap();
        let (mut file, mut buffer) = (Vec::new(), [0; 2000]);
        loop {
            let heard = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer));
            let (size, from) = heard.await.unwrap().unwrap();
            let packet = &buffer[..size];
            match packet[1] {
                6 => drop(socket.send_to(&[0, 4, 0, 0], from).await.unwrap()),
                3 => {
                    assert_ne!(
                        from,
                        self.running.tftp()[0],
                        "data comes from a port of its own"
                    );
                    file.extend_from_slice(&packet[4..]);
                    let ack = [0, 4, packet[2], packet[3]];
                    socket.send_to(&ack, from).await.unwrap();
                    if size < 1432 {
                        return file;
                    }
                }
                _ => return packet.to_vec(),
            }
        }
    }

    /// Waits until the bus has told `what`.
    async fn told(&self, what: &str) {
        let (_, mut live) = self.table.bus.replay_and_subscribe(0);
        let heard = async {
            while !self.table.story().iter().any(|s| s.starts_with(what)) {
                live.recv().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, heard)
            .await
            .unwrap_or_else(|_| {
                panic!("{what} was not told: {:?}", self.table.story());
            });
    }
}

#[tokio::test]
async fn all_services_answer_over_real_sockets() {
    let live = live(DhcpMode::Server).await;
    let dhcp = live.running.dhcp()[0];
    // The loopback has no broadcast, so the client asks with its address filled in.
    let mut request = pxe(3, 0);
    request.ciaddr = Ipv4Addr::LOCALHOST;
    let ack = live.dhcp(dhcp, &request).await;
    assert_eq!(ack.yiaddr, Ipv4Addr::LOCALHOST);
    assert_eq!(ack.file, b"undionly.kpxe");
    let options = [("blksize", "1428"), ("tsize", "0")];
    let file = live.tftp(&rrq("undionly.kpxe", &options)).await;
    assert_eq!(file.len(), 100_000);
    assert_eq!(
        file[..600],
        (0..600_u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<_>>()[..]
    );
    live.told("loader undionly.kpxe tftp").await;
    let refusal = live.tftp(&rrq("../etc/passwd", &[])).await;
    assert_eq!(refusal[..4], [0, 5, 0, 1]);

    let mut request = ipxe(3, 0);
    request.ciaddr = Ipv4Addr::LOCALHOST;
    let ack = live.dhcp(dhcp, &request).await;
    let url = String::from_utf8(ack.file).unwrap();
    let path = url
        .strip_prefix(&format!("http://{}", live.running.http()))
        .unwrap();
    let script = live.http("GET", path).await;
    assert!(script.starts_with("HTTP/1.1 200") && script.contains("cache-control: no-store"));
    let disk = "sanboot iscsi:127.0.0.1::3260:0:iqn.2026-11.internal.reveille:n1";
    assert!(script.contains(disk), "{script}");
    assert!(
        live.http("POST", "/ready?mac=52-54-00-77-00-01")
            .await
            .contains("n1 is ready")
    );
    live.told("ready").await;
    live.running.shutdown().await;
}

#[tokio::test]
async fn http_gives_loaders_and_clear_refusals() {
    let live = live(DhcpMode::Proxy).await;
    let head = live.http("HEAD", "/loader/undionly.kpxe").await;
    assert!(head.contains("content-length: 100000"), "{head}");
    let whole = live.http("GET", "/loader/undionly.kpxe").await;
    assert!(whole.contains("content-length: 100000") && whole.len() >= 100_000);
    let missing = live.http("GET", "/loader/..%2fpasswd").await;
    assert!(missing.starts_with("HTTP/1.1 404") && missing.contains("there are: undionly.kpxe"));
    assert!(
        live.http("GET", "/boot?mac=junk")
            .await
            .starts_with("HTTP/1.1 400")
    );
    assert!(live.http("GET", "/").await.starts_with("HTTP/1.1 404"));
    let who = live.http("GET", "/boot").await;
    assert!(who.contains("${netX/mac:hexhyp}"), "{who}");
    let encoded = live
        .http("GET", "/boot?mac=52%3A54%3A00%3A99%3A00%3A01&arch=bios")
        .await;
    assert!(
        encoded.contains("unknown machine 52:54:00:99:00:01 (bios) waits for approval"),
        "{encoded}"
    );
    // The boot server's port answers the port that asked, here the client's own.
    let answer = live.dhcp(live.running.pxe()[0], &pxe(3, 0)).await;
    assert_eq!(answer.file, b"undionly.kpxe");
    assert_eq!(answer.yiaddr, Ipv4Addr::UNSPECIFIED);
    live.running.shutdown().await;
}

#[tokio::test]
async fn start_refuses_what_cannot_work_with_a_next_step() {
    let table = Table::new(vec![]);
    let house = || Arc::clone(&table) as Arc<dyn House>;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = Options {
        interfaces: vec!["lo".into()],
        http: taken.local_addr().unwrap(),
        loaders: Some(std::env::temp_dir().join("reveille-no-such-dir")),
        ..Options::default()
    };
    let refused = |options: &Options| {
        BootServices::start_with(house(), options)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&base).contains("reveille-no-such-dir"));
    let dir = tempfile::tempdir().unwrap();
    let base = Options {
        loaders: Some(dir.path().to_owned()),
        ..base
    };
    let text = refused(&base);
    assert!(
        text.contains("HTTP cannot listen on 127.0.0.1:") && text.contains("ss -ltnp"),
        "{text}"
    );
    let gone = Options {
        interfaces: vec!["eth99".into()],
        ..base.clone()
    };
    assert!(refused(&gone).contains("`eth99`"));
    let backwards = Options {
        dhcp: DhcpMode::Server,
        range: Some(([10, 0, 0, 9].into(), [10, 0, 0, 2].into())),
        ..base.clone()
    };
    assert!(refused(&backwards).contains("lower end first"));
    let elsewhere = Options {
        dhcp: DhcpMode::Server,
        range: Some(([10, 0, 0, 2].into(), [10, 0, 0, 9].into())),
        ..base.clone()
    };
    assert!(refused(&elsewhere).contains("10.0.0.2 of `[boot] range` is on no network"));
    let prefix = Options {
        iqn_prefix: "reveille".into(),
        ..base
    };
    assert!(refused(&prefix).contains("iqn_prefix"));
}

#[tokio::test]
async fn shutdown_ends_connections_that_are_kept_alive() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let live = live(DhcpMode::Proxy).await;
    let mut stream = tokio::net::TcpStream::connect(live.running.http())
        .await
        .unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut buffer = [0; 4096];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    let (place, began) = (live.running.http(), std::time::Instant::now());
    live.running.shutdown().await;
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
    assert_eq!(ended.unwrap().unwrap(), 0);
    assert!(began.elapsed() < limits::BOOT_HTTP_IDLE / 3);
    assert!(tokio::net::TcpStream::connect(place).await.is_err());
}
