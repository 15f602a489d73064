//! Boot services as a whole, over a head that is a table in memory: first with bytes and a virtual
//! clock, at the end over real sockets on the loopback.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::Moment;
use super::answer::{ScriptAnswer, ScriptAsk};
use super::assets::Assets;
use super::dhcp::{Link, Network, Ports};
use super::facts::test::{MAC, http, ipxe, plain, pxe};
use super::house::House;
use super::lease::Pool;
use super::packet::{Packet, code};
use super::plan::test::node;
use super::server::{BootServices, Options, Running};
use super::service::{DhcpMode, Outcome, Port, Service, Settings};
use super::tftp::test::rrq;
use crate::catalog::{Binding, BootMode, LayerMode, LoaderPolicy, NodeRecord, PendingRecord};
use crate::events::{Bus, EventKind};
use crate::head::{Admission, Gate, HeadError, HeadErrorKind};
use crate::limits;
use crate::names::{BootId, ImageId, LayerId, Mac, NodeName};
use crate::units::UnixMillis;

/// A head without a state directory.
#[derive(Debug)]
struct Table {
    nodes: Mutex<HashMap<Mac, Arc<NodeRecord>>>,
    gate: Gate,
    bus: Bus,
    pending: Mutex<Vec<PendingRecord>>,
    prepared: Mutex<Vec<BootId>>,
    broken: Mutex<Option<HeadErrorKind>>,
}

impl Table {
    fn new(nodes: Vec<NodeRecord>) -> Arc<Self> {
        let table = Arc::new(Self {
            nodes: Mutex::default(),
            gate: Gate::default(),
            bus: Bus::new(0),
            pending: Mutex::default(),
            prepared: Mutex::default(),
            broken: Mutex::default(),
        });
        nodes.into_iter().for_each(|n| table.add(n));
        table
    }

    fn add(&self, node: NodeRecord) {
        let node = Arc::new(node);
        for mac in &node.macs {
            self.nodes.lock().unwrap().insert(*mac, Arc::clone(&node));
        }
    }

    fn events(&self) -> Vec<EventKind> {
        let (kept, _) = self.bus.replay_and_subscribe(0);
        kept.iter().map(|e| e.kind.clone()).collect()
    }

    /// Names of the events with what matters in them.
    fn story(&self) -> Vec<String> {
        let tell = |e: &EventKind| match e {
            EventKind::BootStarted { .. } => "started".to_owned(),
            EventKind::Dhcp { client, file, .. } => format!("dhcp {client} {file}"),
            EventKind::Loader { file, by, .. } => format!("loader {file} {by}"),
            EventKind::Script { decision, image } => {
                format!("script {decision} {}", image.as_deref().unwrap_or("-"))
            }
            EventKind::Queued { place } => format!("queued {place}"),
            EventKind::Ready { .. } => "ready".to_owned(),
            EventKind::Failed { stage, reason, .. } => format!("failed {stage} {reason}"),
            EventKind::UnknownMachine { mac, arch } => format!("unknown {mac} {arch}"),
            other => format!("{other:?}"),
        };
        self.events().iter().map(tell).collect()
    }
}

impl House for Table {
    fn node(&self, mac: Mac) -> Option<Arc<NodeRecord>> {
        self.nodes.lock().unwrap().get(&mac).cloned()
    }

    fn fixed_addresses(&self) -> Vec<Ipv4Addr> {
        self.nodes
            .lock()
            .unwrap()
            .values()
            .filter_map(|n| n.ip)
            .collect()
    }

    fn admission(&self, node: &NodeName) -> Admission {
        self.gate.ask(node)
    }

    fn bus(&self) -> &Bus {
        &self.bus
    }

    fn prepare_boot(&self, _: &NodeName, boot: BootId) -> Result<Arc<Binding>, HeadError> {
        if let Some(kind) = *self.broken.lock().unwrap() {
            let message = "image `debian12` has no version; import one".to_owned();
            return Err(HeadError { kind, message });
        }
        self.prepared.lock().unwrap().push(boot);
        Ok(Arc::new(Binding {
            layer: LayerId(17),
            label: "debian12:3".into(),
            image: ImageId([0; 32]),
            mode: LayerMode::Ephemeral,
            boot,
            at: UnixMillis(0),
        }))
    }

    fn note_pending(&self, machine: PendingRecord) -> Result<(), HeadError> {
        self.pending.lock().unwrap().push(machine);
        Ok(())
    }
}

const HEAD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Boot services of one link, at a moment that the test sets.
struct Rig {
    table: Arc<Table>,
    service: Service,
    link: Link,
    now: Moment,
}

fn rig(mode: DhcpMode, nodes: Vec<NodeRecord>) -> Rig {
    let table = Table::new(nodes);
    let pool = Pool::new([10, 77, 0, 50].into(), [10, 77, 0, 99].into());
    let settings = Settings {
        mode,
        network: Network::default(),
        ports: Ports {
            server: 67,
            client: 68,
        },
        tftp: true,
        iqn_prefix: "iqn.2026-11.internal.reveille".into(),
        portal: "0.0.0.0:3260".parse().unwrap(),
        auth: true,
        own: vec![HEAD],
    };
    let files: [(&str, &[u8]); 2] = [("undionly.kpxe", b"bios"), ("ipxe.efi", b"efi")];
    let house: Arc<dyn House> = Arc::clone(&table) as Arc<dyn House>;
    Rig {
        table,
        service: Service::new(house, Assets::of(&files), settings, pool),
        link: Link {
            name: "eth0".into(),
            address: HEAD,
            netmask: [255, 255, 255, 0].into(),
            base: "http://10.77.0.1:8068".into(),
        },
        now: Duration::from_secs(1000),
    }
}

impl Rig {
    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn hear(&self, port: Port, packet: &Packet) -> Outcome {
        let from = SocketAddrV4::new(packet.ciaddr, 68);
        self.service
            .dhcp(&self.link, port, from, &packet.encode(), 0, self.now)
    }

    fn ask(&self, packet: &Packet) -> Option<Packet> {
        let (_, bytes) = self.hear(Port::Dhcp, packet).answer?;
        Some(Packet::parse(&bytes).unwrap())
    }

    /// DISCOVER, OFFER, REQUEST, ACK. Gives the ACK.
    fn lease(&self, client: impl Fn(u8) -> Packet) -> Packet {
        let offer = self.ask(&client(1)).expect("an offer");
        let mut request = client(3);
        request.options.push_ip(code::SERVER, HEAD);
        request.options.push_ip(code::REQUESTED_IP, offer.yiaddr);
        let ack = self.ask(&request).expect("an answer");
        assert_eq!(ack.options.get(code::MESSAGE), Some(&[5][..]));
        assert_eq!(ack.yiaddr, offer.yiaddr);
        ack
    }

    fn script_of(&self, mac: Mac, peer: IpAddr) -> String {
        let ask = ScriptAsk {
            mac,
            arch: None,
            peer,
            local: "10.77.0.1:8068".parse().unwrap(),
        };
        match self.service.script(&ask, self.now).0 {
            ScriptAnswer::Text(text) => text,
            ScriptAnswer::Prepare { node, boot } => {
                let prepared = self.table.prepare_boot(&node.name, boot);
                self.service.boot_script(&ask, &node, prepared, self.now)
            }
        }
    }

    fn script(&self, peer: Ipv4Addr) -> String {
        self.script_of(MAC, peer.into())
    }
}

fn bios_ipxe(message: u8) -> Packet {
    ipxe(message, 0)
}

fn bios_pxe(message: u8) -> Packet {
    pxe(message, 0)
}

const HOME: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 66);
const SCRIPT_URL: &str = "http://10.77.0.1:8068/boot?mac=52:54:00:77:00:01&arch=bios";

#[test]
fn a_node_with_ipxe_in_its_rom_boots_from_discover_to_ready() {
    let mut rig = rig(DhcpMode::Server, vec![node("n1")]);
    let ack = rig.lease(bios_ipxe);
    // Layer 17 lives at the 17th address of the range, whatever restarts.
    assert_eq!(ack.yiaddr, HOME);
    assert_eq!(ack.file, SCRIPT_URL.as_bytes());
    assert_eq!(ack.options.get(code::HOST_NAME), Some(&b"n1"[..]));
    rig.wait(13);
    let script = rig.script(ack.yiaddr);
    assert!(script.contains("sanboot iscsi:10.77.0.1::3260:0:iqn.2026-11.internal.reveille:n1"));
    assert!(script.contains("set password abcdefghijkl1234"));
    rig.wait(20);
    // The operating system asks twice more, and gets the same address.
    assert_eq!(rig.lease(plain).yiaddr, HOME);
    rig.wait(10);
    rig.service.ready(Some(MAC), HOME.into(), rig.now).unwrap();
    let told = format!("dhcp ipxe {SCRIPT_URL}");
    assert_eq!(
        rig.table.story(),
        ["started", &told, "script boot debian12:3", "ready"]
    );
    assert_eq!(*rig.table.prepared.lock().unwrap(), [BootId(1)]);
}

#[test]
fn a_plain_rom_goes_by_its_loader_to_the_script_in_one_boot() {
    let mut rig = rig(DhcpMode::Server, vec![node("n1")]);
    let ack = rig.lease(bios_pxe);
    assert_eq!(ack.file, b"undionly.kpxe");
    assert_eq!(ack.siaddr, HEAD);
    rig.wait(1);
    rig.service
        .loader_sent(HOME.into(), "undionly.kpxe", 4, "tftp", rig.now);
    rig.wait(5);
    assert_eq!(rig.lease(bios_ipxe).file, SCRIPT_URL.as_bytes());
    rig.wait(13);
    assert!(rig.script(HOME).contains("sanboot"));
    let story = rig.table.story();
    assert_eq!(story[0], "started");
    assert_eq!(story.iter().filter(|s| *s == "started").count(), 1);
    assert_eq!(story[2], "loader undionly.kpxe tftp");
    // Switched off and on: a new boot with a new number.
    rig.wait(90);
    rig.lease(bios_pxe);
    assert_eq!(
        rig.table.bus.current_boot(&node("n1").name),
        Some(BootId(2))
    );
}

#[test]
fn the_loader_policy_chains_even_ipxe_once() {
    let chained = NodeRecord {
        loader: LoaderPolicy::Chain,
        ..node("n1")
    };
    let mut rig = rig(DhcpMode::Server, vec![chained]);
    assert_eq!(rig.lease(bios_ipxe).file, b"undionly.kpxe");
    rig.wait(2);
    rig.service
        .loader_sent(HOME.into(), "undionly.kpxe", 4, "tftp", rig.now);
    rig.wait(16);
    // Byte for byte the same request; the loader was fetched in between.
    assert_eq!(rig.lease(bios_ipxe).file, SCRIPT_URL.as_bytes());
    assert!(rig.script(HOME).contains("sanboot"));
    rig.wait(100);
    assert_eq!(rig.lease(bios_ipxe).file, b"undionly.kpxe");
}

#[test]
fn a_chain_whose_loader_is_never_seen_ends_in_the_script() {
    let chained = NodeRecord {
        loader: LoaderPolicy::Chain,
        ..node("n1")
    };
    let mut rig = rig(DhcpMode::Server, vec![chained]);
    let mut files = Vec::new();
    for _ in 0..=limits::LOADER_CHAIN_MAX {
        files.push(rig.lease(bios_ipxe).file);
        rig.wait(20);
    }
    assert_eq!(files[0], b"undionly.kpxe");
    assert_eq!(files.last().unwrap(), SCRIPT_URL.as_bytes());
}

#[test]
fn uefi_http_boot_gets_a_url() {
    let rig = rig(DhcpMode::Server, vec![node("n1")]);
    let ack = rig.lease(|m| http(m, 16));
    let url = b"http://10.77.0.1:8068/loader/ipxe.efi";
    assert_eq!(ack.options.get(code::FILE), Some(&url[..]));
}

#[test]
fn an_architecture_without_loader_is_a_failure_with_a_reason() {
    let rig = rig(DhcpMode::Server, vec![node("n1")]);
    let ack = rig.lease(|m| pxe(m, 11));
    assert!(ack.file.is_empty());
    let story = rig.table.story();
    assert!(story[1].contains("failed dhcp there is no network boot program for uefi-arm64"));
}

#[test]
fn an_unknown_machine_waits_is_approved_and_boots_without_a_reset() {
    let mut rig = rig(DhcpMode::Server, vec![]);
    let pending = rig.hear(Port::Dhcp, &bios_ipxe(1)).pending.expect("a note");
    assert_eq!((pending.mac, pending.arch.as_str()), (MAC, "bios"));
    assert_eq!(
        pending.uuid.as_deref(),
        Some("07070707-0707-0707-0707-070707070707")
    );
    let ip = rig.lease(bios_ipxe).yiaddr;
    for _ in 0..300 {
        let text = rig.script(ip);
        assert!(text.contains("waits for approval: 52:54:00:77:00:01 (bios)"));
        assert!(text.contains("chain --replace") && !text.contains("password"));
        rig.wait(5);
    }
    rig.table.add(node("n1"));
    let text = rig.script(ip);
    assert!(text.contains("sanboot"), "{text}");
    let story = rig.table.story();
    assert_eq!(story[0], "unknown 52:54:00:77:00:01 bios");
    assert_eq!(
        story[story.len() - 2..],
        ["started", "script boot debian12:3"]
    );
    // 1,500 seconds, at most one note a minute.
    assert!(story.len() <= 28, "{}", story.len());
}

#[test]
fn a_plain_rom_of_a_stranger_gets_a_loader_that_can_speak() {
    let rig = rig(DhcpMode::Proxy, vec![]);
    let offer = rig.ask(&bios_pxe(1)).unwrap();
    assert_eq!(offer.file, b"undionly.kpxe");
}

#[test]
fn a_flood_of_strangers_is_written_down_slowly() {
    let rig = rig(DhcpMode::Proxy, vec![]);
    let mut noted = 0;
    for n in 0..500 {
        let mut packet = bios_ipxe(1);
        packet.mac = MAC.plus(n).unwrap();
        noted += u32::from(rig.hear(Port::Dhcp, &packet).pending.is_some());
    }
    assert_eq!(noted, limits::PENDING_PER_SECOND);
}

#[test]
fn a_secret_is_told_to_nobody_else() {
    let mut rig = rig(DhcpMode::Server, vec![node("n1")]);
    // Nobody asked by DHCP.
    assert!(
        rig.script(HOME)
            .contains("refused: no boot of 52:54:00:77:00:01 was seen")
    );
    rig.ask(&bios_ipxe(1)).unwrap();
    // An offer alone is no address.
    assert!(
        rig.script(HOME)
            .contains("was given no address by this head")
    );
    rig.lease(bios_ipxe);
    let other = Ipv4Addr::new(10, 77, 0, 98);
    let text = rig.script(other);
    assert!(
        text.contains("has the address 10.77.0.66, not 10.77.0.98") && !text.contains("password")
    );
    assert!(rig.script(HOME).contains("password"));
    rig.wait(601);
    assert!(rig.script(HOME).contains("refused: no boot"));
    assert!(rig.table.story().contains(&"script refused -".to_owned()));
}

#[test]
fn a_waiting_node_survives_a_restart_of_the_head() {
    let before = rig(DhcpMode::Server, vec![node("n1")]);
    let ip = before.lease(bios_ipxe).yiaddr;
    let after = rig(DhcpMode::Server, vec![node("n1")]);
    // Its next question is refused, and the refusal makes it ask for its address anew.
    assert!(after.script(ip).contains("\ndhcp ||\n"));
    assert_eq!(after.lease(bios_ipxe).yiaddr, ip);
    assert!(after.script(ip).contains("sanboot"));
}

#[test]
fn live_nodes_keep_their_addresses_over_a_restart() {
    let rig = rig(DhcpMode::Server, vec![node("n1")]);
    // It renews an address that is not its home: after a crowded start it may have got another.
    let mut renew = plain(3);
    renew.ciaddr = [10, 77, 0, 90].into();
    let (to, bytes) = rig.hear(Port::Dhcp, &renew).answer.unwrap();
    assert_eq!(to.to_string(), "10.77.0.90:68");
    let ack = Packet::parse(&bytes).unwrap();
    assert_eq!(ack.options.get(code::MESSAGE), Some(&[5][..]));
    assert_eq!(ack.yiaddr, renew.ciaddr);
    assert_eq!(rig.lease(bios_ipxe).yiaddr, renew.ciaddr);
}

#[test]
fn wrong_addresses_are_refused_so_that_the_client_starts_anew() {
    let rig = rig(DhcpMode::Server, vec![node("n1")]);
    for wrong in [[10, 77, 0, 200], [192, 168, 1, 5], [10, 77, 0, 1]] {
        let mut request = plain(3);
        request.options.push_ip(code::REQUESTED_IP, wrong.into());
        let answer = rig.ask(&request).unwrap();
        assert_eq!(
            answer.options.get(code::MESSAGE),
            Some(&[6][..]),
            "{wrong:?}"
        );
        assert_eq!(answer.yiaddr, Ipv4Addr::UNSPECIFIED);
    }
}

#[test]
fn a_request_for_another_server_gets_no_answer() {
    let rig = rig(DhcpMode::Server, vec![node("n1")]);
    let offer = rig.ask(&bios_ipxe(1)).unwrap();
    let mut request = bios_ipxe(3);
    request.options.push_ip(code::SERVER, [10, 77, 0, 2].into());
    request.options.push_ip(code::REQUESTED_IP, offer.yiaddr);
    assert!(rig.ask(&request).is_none());
}

#[test]
fn a_fixed_address_is_given_and_nothing_else() {
    let fixed = NodeRecord {
        ip: Some([10, 77, 0, 7].into()),
        ..node("n1")
    };
    let rig = rig(DhcpMode::Server, vec![fixed]);
    assert_eq!(rig.lease(bios_ipxe).yiaddr, Ipv4Addr::new(10, 77, 0, 7));
    assert_eq!(rig.lease(plain).yiaddr, Ipv4Addr::new(10, 77, 0, 7));
}

#[test]
fn informs_are_answered_without_an_address_and_declines_are_believed() {
    let rig = rig(DhcpMode::Server, vec![node("n1")]);
    let mut inform = plain(8);
    inform.ciaddr = [10, 77, 0, 9].into();
    let answer = rig.ask(&inform).unwrap();
    assert_eq!(answer.yiaddr, Ipv4Addr::UNSPECIFIED);
    assert_eq!(answer.options.get(code::LEASE_TIME), None);
    assert_eq!(
        answer.options.ip(code::NETMASK),
        Some([255, 255, 255, 0].into())
    );
    rig.lease(bios_ipxe);
    let mut decline = plain(4);
    decline.options.push_ip(code::REQUESTED_IP, HOME);
    assert!(rig.ask(&decline).is_none());
    assert_eq!(rig.lease(bios_ipxe).yiaddr, Ipv4Addr::new(10, 77, 0, 67));
}

#[test]
fn a_proxy_adds_the_file_and_overhears_the_address() {
    let mut rig = rig(DhcpMode::Proxy, vec![node("n1")]);
    let offer = rig.ask(&bios_ipxe(1)).unwrap();
    assert_eq!(offer.yiaddr, Ipv4Addr::UNSPECIFIED);
    assert_eq!(offer.file, SCRIPT_URL.as_bytes());
    // The operating system's DHCP is the foreign server's business.
    assert!(rig.ask(&plain(1)).is_none());
    // Its address is not known yet, so the script is given to whoever asks during the boot.
    assert!(rig.script([10, 77, 0, 201].into()).contains("sanboot"));
    let mut request = bios_ipxe(3);
    request
        .options
        .push_ip(code::SERVER, [10, 77, 0, 254].into());
    request
        .options
        .push_ip(code::REQUESTED_IP, [10, 77, 0, 200].into());
    assert!(rig.ask(&request).is_none());
    rig.wait(1);
    assert!(rig.script([10, 77, 0, 200].into()).contains("sanboot"));
    assert!(rig.script([10, 77, 0, 201].into()).contains("refused"));
    assert_eq!(
        rig.table.story().iter().filter(|s| *s == "started").count(),
        1
    );
}

#[test]
fn the_boot_server_port_answers_its_asker() {
    for mode in [DhcpMode::Proxy, DhcpMode::Server] {
        let rig = rig(mode, vec![node("n1")]);
        let mut request = pxe(3, 7);
        request.ciaddr = [10, 77, 0, 200].into();
        let from = SocketAddrV4::new(request.ciaddr, 4011);
        let bytes = request.encode();
        let outcome = rig
            .service
            .dhcp(&rig.link, Port::Pxe, from, &bytes, 0, rig.now);
        let (to, bytes) = outcome.answer.unwrap();
        assert_eq!(to, from);
        let answer = Packet::parse(&bytes).unwrap();
        assert_eq!(answer.options.get(code::MESSAGE), Some(&[5][..]));
        assert_eq!(answer.file, b"ipxe.efi");
        assert_eq!(answer.yiaddr, Ipv4Addr::UNSPECIFIED);
        // The address that it wrote on the request is where the loader will be fetched from.
        rig.service
            .loader_sent(IpAddr::V4(request.ciaddr), "ipxe.efi", 3, "tftp", rig.now);
        assert!(
            rig.table
                .story()
                .contains(&"loader ipxe.efi tftp".to_owned())
        );
        assert!(rig.hear(Port::Pxe, &plain(3)).answer.is_none());
    }
}

#[test]
fn a_node_waits_with_its_place_until_its_wave_is_on() {
    let mut rig = rig(DhcpMode::Server, vec![node("n1")]);
    let name = node("n1").name;
    rig.table.gate.hold(&name, 12);
    assert_eq!(rig.lease(bios_ipxe).file, SCRIPT_URL.as_bytes());
    for place in [12, 12, 11, 3] {
        rig.table.gate.hold(&name, place);
        let text = rig.script(HOME);
        assert!(text.contains(&format!("n1 waits its turn to boot: place {place} ")));
        assert!(!text.contains("password"));
        rig.wait(3);
    }
    rig.wait(3);
    rig.script(HOME);
    rig.table.gate.admit(&name);
    assert!(rig.script(HOME).contains("sanboot"));
    let story = rig.table.story();
    let tail = [
        "script wait -",
        "queued 12",
        "queued 3",
        "script boot debian12:3",
    ];
    assert_eq!(story[2..], tail);
}

#[test]
fn a_local_node_goes_on_at_once_whatever_the_wave() {
    let local = NodeRecord {
        boot: BootMode::Local,
        ..node("n1")
    };
    let rig = rig(DhcpMode::Server, vec![local]);
    rig.table.gate.hold(&node("n1").name, 5);
    rig.lease(|m| ipxe(m, 7));
    assert!(rig.script(HOME).ends_with("exit 1\n"));
    assert!(rig.table.prepared.lock().unwrap().is_empty());
}

#[test]
fn a_node_without_image_says_so_on_its_screen() {
    let bare = NodeRecord {
        image: None,
        ..node("n1")
    };
    let rig = rig(DhcpMode::Server, vec![bare]);
    rig.lease(bios_ipxe);
    assert!(rig.script(HOME).contains("n1 has no image"));
}

#[test]
fn a_disk_that_cannot_be_made_ready_is_told_on_screen_and_bus() {
    let rig = rig(DhcpMode::Server, vec![node("n1")]);
    rig.lease(bios_ipxe);
    *rig.table.broken.lock().unwrap() = Some(HeadErrorKind::NotFound);
    for _ in 0..3 {
        let text = rig.script(HOME);
        assert!(
            text.contains("cannot boot: image  debian12  has no version"),
            "{text}"
        );
        assert!(text.contains("sleep 10\nchain") && !text.contains("password"));
    }
    let failed = rig
        .table
        .story()
        .iter()
        .filter(|s| s.starts_with("failed script"))
        .count();
    assert_eq!(failed, 1);
    *rig.table.broken.lock().unwrap() = Some(HeadErrorKind::Unavailable);
    rig.script(HOME);
    assert_eq!(rig.table.story().last().unwrap(), "script refused -");
    *rig.table.broken.lock().unwrap() = None;
    assert!(rig.script(HOME).contains("sanboot"));
}

#[test]
fn the_ready_call_is_believed_from_the_node_only() {
    let rig = rig(DhcpMode::Server, vec![node("n1")]);
    rig.lease(bios_ipxe);
    let ready = |mac, ip: [u8; 4]| rig.service.ready(mac, IpAddr::from(ip), rig.now);
    assert_eq!(ready(Some(MAC), [10, 77, 0, 98]).unwrap_err().0, 403);
    assert_eq!(ready(MAC.plus(1), HOME.octets()).unwrap_err().0, 404);
    assert_eq!(ready(None, [10, 77, 0, 98]).unwrap_err().0, 400);
    assert_eq!(ready(None, HOME.octets()).unwrap(), node("n1").name);
    assert_eq!(ready(Some(MAC), HOME.octets()).unwrap(), node("n1").name);
    assert_eq!(
        rig.table.story().iter().filter(|s| *s == "ready").count(),
        1
    );
}

#[test]
fn without_dhcp_of_its_own_the_head_boots_whom_it_is_sent() {
    let mut rig = rig(DhcpMode::Off, vec![node("n1")]);
    assert!(rig.ask(&bios_ipxe(1)).is_none());
    assert!(rig.script(HOME).contains("sanboot"));
    rig.wait(100);
    assert!(rig.script(HOME).contains("sanboot"));
    assert_eq!(*rig.table.prepared.lock().unwrap(), [BootId(1), BootId(2)]);
}

#[test]
fn a_thousand_nodes_powered_at_once_each_have_one_boot_and_one_address() {
    let nodes = (0..1000_u32).map(|n| NodeRecord {
        macs: vec![MAC.plus(u64::from(n)).unwrap()],
        layer: LayerId(n + 1),
        ..node(&format!("n{n}"))
    });
    let mut rig = rig(DhcpMode::Server, nodes.collect());
    rig.link.netmask = [255, 255, 0, 0].into();
    let pool = Pool::new([10, 77, 1, 0].into(), [10, 77, 9, 0].into());
    let Rig {
        table,
        link,
        now,
        service,
    } = rig;
    let settings = service.settings;
    let house: Arc<dyn House> = Arc::clone(&table) as Arc<dyn House>;
    let files: [(&str, &[u8]); 1] = [("undionly.kpxe", b"bios")];
    let service = Service::new(house, Assets::of(&files), settings, pool);
    let rig = Rig {
        table,
        service,
        link,
        now,
    };
    let mut seen = std::collections::HashSet::new();
    for n in 0..1000 {
        let client = |m| {
            let mut packet = bios_pxe(m);
            packet.mac = MAC.plus(n).unwrap();
            packet
        };
        assert!(seen.insert(rig.lease(client).yiaddr));
    }
    let started = rig.table.story().iter().filter(|s| *s == "started").count();
    assert_eq!(started, 1000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_datagram_makes_any_mode_panic(
        tails in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..12),
        kinds in prop::collection::vec(0_u8..9, 12),
    ) {
        for mode in [DhcpMode::Off, DhcpMode::Proxy, DhcpMode::Server] {
            let rig = rig(mode, vec![node("n1")]);
            for (tail, kind) in tails.iter().zip(&kinds) {
                let mut packet = bios_pxe(*kind).encode();
                packet.truncate(243);
                packet.extend_from_slice(tail);
                for port in [Port::Dhcp, Port::Pxe] {
                    let from = SocketAddrV4::new(HOME, 68);
                    rig.service.dhcp(&rig.link, port, from, &packet, 0, rig.now);
                    let outcome = rig.service.dhcp(&rig.link, port, from, tail, 0, rig.now);
                    prop_assert!(outcome.answer.is_none());
                }
            }
        }
    }
}

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
    let mut request = bios_pxe(3);
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

    let mut request = bios_ipxe(3);
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
        encoded.contains("waits for approval: 52:54:00:99:00:01"),
        "{encoded}"
    );
    // The boot server's port answers the port that asked, here the client's own.
    let answer = live.dhcp(live.running.pxe()[0], &bios_pxe(3)).await;
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
