//! Plans and addresses as DHCP answers (RFC 2131, RFC 4578, PXE 2.1). Pure.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::facts::{Client, Facts};
use super::packet::{Packet, code};
use super::plan::{BootPlan, Step};
use super::script;

/// Message types that a server sends (RFC 2132 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Offer = 2,
    Ack = 5,
    Nak = 6,
}

/// One network interface as clients on it see the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) netmask: Ipv4Addr,
    /// `http://10.0.0.1:8068`.
    pub(crate) base: String,
}

/// What a full server tells of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) netmask: Option<Ipv4Addr>,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) dns: Vec<Ipv4Addr>,
    pub(crate) domain: Option<String>,
}

/// An address for a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) ip: Ipv4Addr,
    pub(crate) time: Duration,
}

/// UDP ports of DHCP; tests and several heads on one machine use others than 67 and 68.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) server: u16,
    pub(crate) client: u16,
}

/// What the request was and what is said about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk<'a> {
    pub(crate) packet: &'a Packet,
    pub(crate) facts: &'a Facts,
    pub(crate) plan: BootPlan,
    pub(crate) link: &'a Link,
    /// TFTP is served; without it iPXE fetches loaders by HTTP.
    pub(crate) tftp: bool,
}

/// What the client is told to load, as it appears in the answer.
pub(crate) fn boot_file(talk: &Talk<'_>) -> Option<String> {
    let base = &talk.link.base;
    match (talk.plan.step, talk.facts.client) {
        (Step::Address | Step::Stuck(_), _) => None,
        (Step::Script, _) => Some(script::boot_url(base, talk.facts.mac, talk.facts.arch)),
        (Step::Loader(name), Client::Http) => Some(format!("{base}/loader/{name}")),
        (Step::Loader(name), Client::Ipxe(f)) if f.http && !talk.tftp => {
            Some(format!("{base}/loader/{name}"))
        }
        (Step::Loader(name), _) => Some(name.to_owned()),
    }
}

/// The full server's answer: an address and what to boot. Without a grant it answers an INFORM.
pub(crate) fn server_answer(
    talk: &Talk<'_>,
    kind: Kind,
    grant: Option<Grant>,
    network: &Network,
    host_name: Option<&str>,
    root_path: Option<&str>,
) -> Packet {
    let mut answer = begin(talk, kind);
    if kind == Kind::Ack {
        answer.ciaddr = talk.packet.ciaddr;
    }
    let options = &mut answer.options;
    if let Some(grant) = grant {
        answer.yiaddr = grant.ip;
        let seconds = grant.time.as_secs();
        options.push_seconds(code::LEASE_TIME, seconds);
        // RFC 2131 4.4.5: half and seven eighths of the lease.
        options.push_seconds(code::RENEW, seconds / 2);
        options.push_seconds(code::REBIND, seconds / 8 * 7);
    }
    let netmask = network.netmask.unwrap_or(talk.link.netmask);
    options.push_ip(code::NETMASK, netmask);
    let ip = grant.map_or(talk.packet.ciaddr, |g| g.ip);
    options.push_ip(
        code::BROADCAST,
        Ipv4Addr::from(u32::from(ip) | !u32::from(netmask)),
    );
    if let Some(router) = network.router {
        options.push_ip(code::ROUTER, router);
    }
    for dns in network.dns.iter().take(8) {
        options.push_ip(code::DNS, *dns);
    }
    if let Some(name) = host_name {
        options.push(code::HOST_NAME, name.as_bytes());
    }
    if let Some(domain) = &network.domain {
        options.push(code::DOMAIN, domain.as_bytes());
    }
    if let Some(path) = root_path {
        options.push(code::ROOT_PATH, path.as_bytes());
    }
    match talk.facts.client {
        // iPXE would wait for a ProxyDHCP server that is not there (its option 176, `no-pxedhcp`).
        Client::Ipxe(_) => options.push(code::IPXE, &[176, 1, 1]),
        // UEFI HTTP boot takes no answer without it (UEFI 2.10, 24.7.3).
        Client::Http => options.push(code::CLASS, b"HTTPClient"),
        Client::Pxe | Client::Plain => {}
    }
    finish(talk, answer)
}

/// The ProxyDHCP answer on port 67 and the answer on port 4011: what to boot, never an address.
pub(crate) fn proxy_answer(talk: &Talk<'_>, kind: Kind) -> Packet {
    let mut answer = begin(talk, kind);
    if talk.facts.client == Client::Http {
        answer.options.push(code::CLASS, b"HTTPClient");
    } else {
        answer.options.push(code::CLASS, b"PXEClient");
        // PXE_DISCOVERY_CONTROL = 8: boot the file named here, look for no further server.
        answer.options.push(code::VENDOR, &[6, 1, 8, code::END]);
    }
    finish(talk, answer)
}

/// The refusal that makes a client start anew.
pub(crate) fn nak(packet: &Packet, link: &Link, why: &str) -> Packet {
    let mut answer = packet.answer();
    answer.options.push(code::MESSAGE, &[Kind::Nak as u8]);
    answer.options.push_ip(code::SERVER, link.address);
    answer.options.push(code::TEXT, why.as_bytes());
    echo(packet, &mut answer, &[code::CLIENT, code::RELAY]);
    // RFC 2131 4.3.2: through a relay, the client must see it although its address is wrong.
    answer.broadcast = true;
    answer
}

/// Where an answer goes (RFC 2131 4.1). A client that has no address yet is reached by broadcast.
pub(crate) fn destination(request: &Packet, answer: &Packet, ports: Ports) -> SocketAddrV4 {
    let nak = answer.options.get(code::MESSAGE) == Some(&[Kind::Nak as u8]);
    if !request.giaddr.is_unspecified() {
        return SocketAddrV4::new(request.giaddr, ports.server);
    }
    if !nak && !request.ciaddr.is_unspecified() {
        return SocketAddrV4::new(request.ciaddr, ports.client);
    }
    SocketAddrV4::new(Ipv4Addr::BROADCAST, ports.client)
}

fn begin(talk: &Talk<'_>, kind: Kind) -> Packet {
    let mut answer = talk.packet.answer();
    answer.options.push(code::MESSAGE, &[kind as u8]);
    answer.options.push_ip(code::SERVER, talk.link.address);
    answer
}

/// Adds the boot file, and gives back what the client said of itself.
fn finish(talk: &Talk<'_>, mut answer: Packet) -> Packet {
    if let Some(file) = boot_file(talk) {
        let fits = file.len() <= Packet::FILE_MAX;
        answer.siaddr = talk.link.address;
        let server = talk.link.address.to_string();
        answer.sname = server.clone().into_bytes();
        if fits {
            answer.file = file.clone().into_bytes();
        }
        // PXE ROMs read the field; some take an option 67 without its end, so they get none.
        if talk.facts.client != Client::Pxe || !fits {
            answer.options.push(code::FILE, file.as_bytes());
        }
        if talk.facts.client != Client::Pxe && talk.facts.wants(code::TFTP_NAME) {
            answer.options.push(code::TFTP_NAME, server.as_bytes());
        }
    }
    // RFC 6842, RFC 4578 2.3, RFC 3046 2.2 (the relay's comes last).
    let codes = [code::CLIENT, code::UUID, code::RELAY];
    echo(talk.packet, &mut answer, &codes);
    answer
}

fn echo(request: &Packet, answer: &mut Packet, codes: &[u8]) {
    for &code in codes {
        if let Some(data) = request.options.get(code) {
            answer.options.push(code, data);
        }
    }
}

#[cfg(test)]
mod test {
    use super::super::facts::Features;
    use super::super::facts::test::{http, ipxe, plain, pxe};
    use super::super::plan::Decision;
    use super::*;
    use dhcproto::{Decodable, v4};

    const HEAD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);

    fn link() -> Link {
        Link {
            name: "eth0".into(),
            address: HEAD,
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            base: "http://10.77.0.1:8068".into(),
        }
    }

    fn plan_to(step: Step) -> BootPlan {
        BootPlan {
            decision: Decision::Image,
            step,
        }
    }

    fn ask<T>(packet: &Packet, step: Step, then: impl FnOnce(&Talk<'_>) -> T) -> T {
        let facts = Facts::of(packet).unwrap();
        then(&Talk {
            packet,
            facts: &facts,
            plan: plan_to(step),
            link: &link(),
            tftp: true,
        })
    }

    fn grant() -> Option<Grant> {
        Some(Grant {
            ip: NODE,
            time: Duration::from_secs(86_400),
        })
    }

    fn serve(packet: &Packet, kind: Kind, step: Step) -> Packet {
        let network = Network {
            router: Some(HEAD),
            dns: vec![HEAD, Ipv4Addr::new(9, 9, 9, 9)],
            domain: Some("lab".into()),
            ..Network::default()
        };
        let answer = ask(packet, step, |t| {
            server_answer(t, kind, grant(), &network, Some("node1"), None)
        });
        // The round trip through bytes is part of every test.
        let bytes = answer.encode();
        v4::Message::decode(&mut dhcproto::Decoder::new(&bytes)).unwrap();
        assert!(bytes.len() <= 576, "{}", bytes.len());
        Packet::parse(&bytes).unwrap()
    }

    fn propose(packet: &Packet, kind: Kind, step: Step) -> Packet {
        let answer = ask(packet, step, |t| proxy_answer(t, kind));
        Packet::parse(&answer.encode()).unwrap()
    }

    const SCRIPT: &[u8] = b"http://10.77.0.1:8068/boot?mac=52:54:00:77:00:01&arch=bios";

    #[test]
    fn qemu_ipxe_gets_address_name_and_script() {
        let answer = serve(&ipxe(1, 0), Kind::Offer, Step::Script);
        let options = &answer.options;
        assert!(answer.reply);
        assert_eq!(answer.yiaddr, NODE);
        assert_eq!(answer.siaddr, HEAD);
        assert_eq!(answer.file, SCRIPT);
        assert_eq!(options.get(code::FILE), Some(SCRIPT));
        assert_eq!(options.get(code::MESSAGE), Some(&[2][..]));
        assert_eq!(options.ip(code::SERVER), Some(HEAD));
        assert_eq!(options.ip(code::NETMASK), Some([255, 255, 255, 0].into()));
        assert_eq!(options.ip(code::BROADCAST), Some([10, 77, 0, 255].into()));
        assert_eq!(options.ip(code::ROUTER), Some(HEAD));
        assert_eq!(options.get(code::DNS).unwrap().len(), 8);
        assert_eq!(options.get(code::HOST_NAME), Some(&b"node1"[..]));
        assert_eq!(options.get(code::DOMAIN), Some(&b"lab"[..]));
        assert_eq!(options.get(code::IPXE), Some(&[176, 1, 1][..]));
        assert_eq!(
            options.get(code::LEASE_TIME),
            Some(&86_400_u32.to_be_bytes()[..])
        );
        assert_eq!(
            options.get(code::RENEW),
            Some(&43_200_u32.to_be_bytes()[..])
        );
        assert_eq!(
            options.get(code::REBIND),
            Some(&75_600_u32.to_be_bytes()[..])
        );
        // Firmware never hears of the vendor class that would send it to port 4011.
        assert_eq!(options.get(code::CLASS), None);
    }

    #[test]
    fn a_pxe_rom_gets_its_loader_in_the_field_and_its_identity_back() {
        let answer = serve(&pxe(3, 0), Kind::Ack, Step::Loader("undionly.kpxe"));
        assert_eq!(answer.file, b"undionly.kpxe");
        assert_eq!(answer.options.get(code::FILE), None);
        assert_eq!(answer.options.get(code::UUID).unwrap().len(), 17);
        assert_eq!(answer.options.get(code::MESSAGE), Some(&[5][..]));
        assert_eq!(answer.siaddr, HEAD);
    }

    #[test]
    fn uefi_http_boot_gets_a_url_and_its_class_back() {
        let answer = serve(&http(1, 16), Kind::Offer, Step::Loader("ipxe.efi"));
        let url = b"http://10.77.0.1:8068/loader/ipxe.efi";
        assert_eq!(answer.options.get(code::FILE), Some(&url[..]));
        assert_eq!(answer.options.get(code::CLASS), Some(&b"HTTPClient"[..]));
        let answer = propose(&http(1, 16), Kind::Offer, Step::Loader("ipxe.efi"));
        assert_eq!(answer.options.get(code::CLASS), Some(&b"HTTPClient"[..]));
        assert_eq!(answer.options.get(code::VENDOR), None);
        assert_eq!(answer.yiaddr, Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn an_operating_system_gets_an_address_and_no_boot_file() {
        let answer = serve(&plain(3), Kind::Ack, Step::Address);
        assert_eq!(answer.yiaddr, NODE);
        assert!(answer.file.is_empty());
        assert_eq!(answer.options.get(code::FILE), None);
        assert_eq!(answer.siaddr, Ipv4Addr::UNSPECIFIED);
        assert_eq!(answer.options.get(code::HOST_NAME), Some(&b"node1"[..]));
    }

    #[test]
    fn a_proxy_offers_a_file_and_never_an_address() {
        for packet in [pxe(1, 7), ipxe(1, 0)] {
            let answer = propose(&packet, Kind::Offer, Step::Loader("ipxe.efi"));
            assert_eq!(answer.yiaddr, Ipv4Addr::UNSPECIFIED);
            assert_eq!(answer.siaddr, HEAD);
            assert_eq!(answer.file, b"ipxe.efi");
            let options = &answer.options;
            assert_eq!(options.get(code::CLASS), Some(&b"PXEClient"[..]));
            assert_eq!(options.get(code::VENDOR), Some(&[6, 1, 8, 255][..]));
            assert_eq!(options.ip(code::SERVER), Some(HEAD));
            assert_eq!(options.get(code::UUID).unwrap().len(), 17);
            for no in [
                code::NETMASK,
                code::LEASE_TIME,
                code::ROUTER,
                code::HOST_NAME,
            ] {
                assert_eq!(options.get(no), None);
            }
        }
        let answer = propose(&ipxe(1, 0), Kind::Offer, Step::Script);
        assert_eq!(answer.file, SCRIPT);
    }

    #[test]
    fn ipxe_fetches_its_loader_by_http_where_tftp_is_off() {
        let packet = ipxe(1, 0);
        let mut facts = Facts::of(&packet).unwrap();
        let file = |facts: &Facts, tftp| {
            boot_file(&Talk {
                packet: &packet,
                facts,
                plan: plan_to(Step::Loader("undionly.kpxe")),
                link: &link(),
                tftp,
            })
        };
        let url = "http://10.77.0.1:8068/loader/undionly.kpxe";
        assert_eq!(file(&facts, false).as_deref(), Some(url));
        assert_eq!(file(&facts, true).as_deref(), Some("undionly.kpxe"));
        facts.client = Client::Ipxe(Features::default());
        assert_eq!(file(&facts, false).as_deref(), Some("undionly.kpxe"));
    }

    #[test]
    fn long_urls_go_into_the_option_only() {
        let packet = ipxe(1, 0);
        let facts = Facts::of(&packet).unwrap();
        let mut link = link();
        link.base = format!("http://{}:8068", "h".repeat(120));
        let talk = Talk {
            packet: &packet,
            facts: &facts,
            plan: plan_to(Step::Script),
            link: &link,
            tftp: true,
        };
        let answer = Packet::parse(&proxy_answer(&talk, Kind::Offer).encode()).unwrap();
        assert!(answer.file.is_empty());
        assert!(answer.options.get(code::FILE).unwrap().len() > 127);
    }

    #[test]
    fn answers_go_where_the_client_can_hear_them() {
        let ports = Ports {
            server: 67,
            client: 68,
        };
        let to = |request: &Packet, nak_it: bool| {
            let answer = if nak_it {
                nak(request, &link(), "no")
            } else {
                propose(request, Kind::Offer, Step::Script)
            };
            destination(request, &answer, ports).to_string()
        };
        let mut packet = ipxe(1, 0);
        assert_eq!(to(&packet, false), "255.255.255.255:68");
        packet.ciaddr = NODE;
        assert_eq!(to(&packet, false), "10.77.0.50:68");
        assert_eq!(to(&packet, true), "255.255.255.255:68");
        packet.giaddr = Ipv4Addr::new(10, 9, 0, 1);
        assert_eq!(to(&packet, false), "10.9.0.1:67");
        assert_eq!(to(&packet, true), "10.9.0.1:67");
        let refused = nak(&packet, &link(), "not here");
        assert!(refused.broadcast);
        assert_eq!(refused.yiaddr, Ipv4Addr::UNSPECIFIED);
        assert_eq!(refused.giaddr, packet.giaddr);
    }

    #[test]
    fn what_the_relay_added_comes_back() {
        let mut packet = pxe(1, 0);
        packet.options.push(code::RELAY, &[1, 2, 0, 7]);
        packet.options.push(code::CLIENT, &[1, 2, 3]);
        let answer = propose(&packet, Kind::Ack, Step::Loader("undionly.kpxe"));
        assert_eq!(answer.options.get(code::RELAY), Some(&[1, 2, 0, 7][..]));
        assert_eq!(answer.options.get(code::CLIENT), Some(&[1, 2, 3][..]));
    }
}
