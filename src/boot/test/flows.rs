//! Whole boots as bytes, at moments that the test sets.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::Moment;
use super::super::answer::{ScriptAnswer, ScriptAsk};
use super::super::assets::Assets;
use super::super::dhcp::{Link, Network, Ports};
use super::super::facts::test::{MAC, http, ipxe, plain, pxe};
use super::super::house::House;
use super::super::lease::Pool;
use super::super::packet::{Packet, code};
use super::super::plan::test::node;
use super::super::service::{DhcpMode, Outcome, Port, Service, Settings};
use super::Table;
use crate::catalog::{BootMode, LoaderPolicy, NodeRecord};
use crate::head::HeadErrorKind;
use crate::limits;
use crate::names::{BootId, LayerId, Mac};

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
        auth: crate::boot::Auth::Chap,
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
        assert!(text.contains("unknown machine 52:54:00:77:00:01 (bios) waits for approval"));
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
fn a_secret_is_told_no_more_once_the_operating_system_is_in() {
    let rig = rig(DhcpMode::Server, vec![node("n1")]);
    rig.lease(bios_ipxe);
    assert!(rig.script(HOME).contains("password"));
    let name = crate::names::NodeName::parse("n1").unwrap();
    rig.table.booted.lock().unwrap().insert(name);
    let text = rig.script(HOME);
    assert!(
        text.contains("its operating system has logged in") && !text.contains("password"),
        "{text}"
    );
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
    let before: Vec<_> = (1..12).map(|i| node(&format!("b{i}")).name).collect();
    for other in before.iter().chain([&name]) {
        rig.table.gate.hold(other, true);
    }
    assert_eq!(rig.lease(bios_ipxe).file, SCRIPT_URL.as_bytes());
    for place in [12, 12, 11, 3] {
        for other in &before[..12 - place] {
            rig.table.gate.admit(other);
        }
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
    rig.table.gate.hold(&node("n1").name, true);
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
