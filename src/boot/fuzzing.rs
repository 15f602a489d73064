//! A door for the fuzz targets (`tools/fuzz`): boot services over a head that is a small table, with bytes
//! and a virtual clock. Only there when built with `--cfg fuzzing`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use tower::util::ServiceExt;

use super::answer::{ScriptAnswer, ScriptAsk};
use super::assets::Assets;
use super::dhcp::{Link, Network, Ports};
use super::facts::Arch;
use super::house::House;
use super::http::{Web, router};
use super::lease::Pool;
use super::listener::Ends;
use super::server::Clock;
use super::service::{Port, Service, Settings};
use super::tftp::{Ended, Message, Transfer};
use super::{Auth, DhcpMode, Moment};
use crate::catalog::{
    Binding, BootMode, DiskTraits, ImageRef, LayerMode, LoaderPolicy, NodeRecord, PendingRecord,
    Secret,
};
use crate::events::Bus;
use crate::head::{Admission, Gate, HeadError};
use crate::names::{BootId, ImageId, LayerId, Mac, NodeName};
use crate::units::UnixMillis;

/// The head's address.
pub const HEAD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The range of addresses that it gives away.
pub const RANGE: (Ipv4Addr, Ipv4Addr) =
    (Ipv4Addr::new(10, 77, 0, 50), Ipv4Addr::new(10, 77, 0, 57));
/// The address that the record of the second node fixes.
pub const FIXED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 20);

/// Four nodes: 52:54:00:77:00:01 and up, each with a secret of its own.
#[derive(Debug)]
struct Table {
    nodes: Vec<Arc<NodeRecord>>,
    gate: Gate,
    bus: Bus,
}

/// The card of node `number`, 1 to 4.
#[must_use]
pub fn card(number: u8) -> Mac {
    Mac::new([0x52, 0x54, 0, 0x77, 0, number])
}

/// The CHAP secret of node `number`.
#[must_use]
pub fn secret(number: u8) -> String {
    format!("secret-of-node-{number:04}")
}

fn node(number: u8) -> NodeRecord {
    NodeRecord {
        name: NodeName::parse(&format!("n{number}")).expect("a good name"),
        layer: LayerId(u32::from(number)),
        macs: vec![card(number)],
        ip: (number == 2).then_some(FIXED),
        image: (number != 3).then(|| ImageRef {
            name: "debian12".into(),
            version: None,
        }),
        mode: LayerMode::Ephemeral,
        boot: BootMode::Image,
        loader: if number == 4 {
            LoaderPolicy::Chain
        } else {
            LoaderPolicy::Auto
        },
        layer_limit: None,
        layer_warn: None,
        power: None,
        profile: None,
        inherits: crate::catalog::SettingSet::default(),
        secret: Secret(secret(number)),
        head_secret: Secret(format!("head-secret-to-{number:02}")),
        disk: DiskTraits::default(),
        disk_uuid: format!("00000000-0000-0000-0000-00000000000{number}"),
        added: UnixMillis(0),
    }
}

impl House for Table {
    fn node(&self, mac: Mac) -> Option<Arc<NodeRecord>> {
        self.nodes.iter().find(|n| n.macs.contains(&mac)).cloned()
    }

    fn fixed_addresses(&self) -> Vec<Ipv4Addr> {
        self.nodes.iter().filter_map(|n| n.ip).collect()
    }

    fn is_booted(&self, _: &NodeName) -> bool {
        false
    }

    fn admission(&self, node: &NodeName) -> Admission {
        self.gate.ask(node)
    }

    fn bus(&self) -> &Bus {
        &self.bus
    }

    fn prepare_boot(&self, _: &NodeName, boot: BootId) -> Result<Arc<Binding>, HeadError> {
        Ok(Arc::new(Binding {
            layer: LayerId(1),
            label: "debian12:3".into(),
            image: ImageId([0; 32]),
            mode: LayerMode::Ephemeral,
            boot,
            at: UnixMillis(0),
            began: None,
            moving: None,
            reservations: None,
        }))
    }

    fn note_pending(&self, _: PendingRecord) -> Result<(), HeadError> {
        Ok(())
    }
}

/// Boot services of one link.
#[derive(Debug)]
pub struct Rig {
    table: Arc<Table>,
    service: Arc<Service>,
    link: Link,
}

impl Rig {
    /// Without TFTP when `tftp` is false.
    #[must_use]
    pub fn new(mode: DhcpMode, tftp: bool) -> Self {
        let table = Arc::new(Table {
            nodes: (1..=4).map(|number| Arc::new(node(number))).collect(),
            gate: Gate::default(),
            bus: Bus::new(0),
        });
        let settings = Settings {
            mode,
            network: Network {
                domain: Some("lab".into()),
                dns: vec![HEAD; 9],
                router: Some(HEAD),
                netmask: None,
            },
            ports: Ports {
                server: 67,
                client: 68,
            },
            tftp,
            iqn_prefix: "iqn.2026-11.internal.reveille".into(),
            portal: SocketAddr::from(([0, 0, 0, 0], 3260)),
            auth: Auth::Mutual,
            own: vec![HEAD],
        };
        let files: [(&str, &[u8]); 2] = [("undionly.kpxe", b"bios"), ("ipxe.efi", b"efi")];
        let house: Arc<dyn House> = Arc::clone(&table) as Arc<dyn House>;
        let pool = Pool::new(RANGE.0, RANGE.1);
        Self {
            table,
            service: Arc::new(Service::new(house, Assets::of(&files), settings, pool)),
            link: Link {
                name: "eth0".into(),
                address: HEAD,
                netmask: [255, 255, 255, 0].into(),
                base: "http://10.77.0.1:8068".into(),
            },
        }
    }

    /// Node `number` must wait its turn, or not any more.
    pub fn hold(&self, number: u8, wait: bool) {
        let name = &node(number).name;
        if wait {
            self.table.gate.hold(name, true);
        } else {
            self.table.gate.admit(name);
        }
    }

    /// A DHCP message on port 67, or 4011: where the answer goes, and its bytes.
    pub fn dhcp(
        &self,
        on_4011: bool,
        from: SocketAddrV4,
        bytes: &[u8],
        now: Duration,
    ) -> Option<(SocketAddrV4, Vec<u8>)> {
        let port = if on_4011 { Port::Pxe } else { Port::Dhcp };
        let outcome = self
            .service
            .dhcp(&self.link, port, from, bytes, 0, now as Moment);
        outcome.answer
    }

    /// A loader went out whole to `ip`.
    pub fn loader_sent(&self, ip: Ipv4Addr, now: Duration) {
        self.service
            .loader_sent(ip.into(), "ipxe.efi", 3, "tftp", now);
    }

    /// The script that a machine gets.
    #[must_use]
    pub fn script(&self, mac: Mac, arch: &str, peer: IpAddr, now: Duration) -> String {
        let ask = ScriptAsk {
            mac,
            arch: Arch::parse(arch),
            peer,
            local: SocketAddr::from((HEAD, 8068)),
        };
        match self.service.script(&ask, now).0 {
            ScriptAnswer::Text(text) => text,
            ScriptAnswer::Prepare { node, boot } => {
                let prepared = self.table.prepare_boot(&node.name, boot);
                self.service.boot_script(&ask, &node, prepared, now)
            }
        }
    }

    /// A ready call: an HTTP status, and who it was for.
    pub fn ready(
        &self,
        mac: Option<Mac>,
        peer: IpAddr,
        now: Duration,
    ) -> Result<NodeName, (u16, String)> {
        self.service.ready(mac, peer, now)
    }

    /// A GET through the routes: status and body. `None` when the target is no URI.
    pub async fn get(&self, target: &str, peer: SocketAddr) -> Option<(u16, Vec<u8>)> {
        let ends = Ends {
            peer,
            local: SocketAddr::from((HEAD, 8068)),
        };
        let request = axum::http::Request::builder()
            .uri(target)
            .extension(ConnectInfo(ends))
            .body(Body::empty())
            .ok()?;
        let (notes, _kept) = tokio::sync::mpsc::channel(4);
        let web = Web {
            service: Arc::clone(&self.service),
            clock: Clock::start(),
            notes,
        };
        let Ok(response) = router(web).oneshot(request).await;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .expect("a body of less than a megabyte");
        Some((status, body.to_vec()))
    }
}

/// One TFTP transfer.
#[derive(Debug)]
pub struct Tftp(Transfer);

impl Tftp {
    /// Begins with what came in on port 69; `None` when it is no read request.
    #[must_use]
    pub fn begin(request: &[u8], file: Arc<[u8]>, now: Duration) -> Option<Self> {
        match Message::parse(request) {
            Message::Read(request) => Some(Self(Transfer::new(&request, file, now))),
            _ => None,
        }
    }

    /// A packet comes in.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.0.apply(Message::parse(bytes));
    }

    /// The next packet to send.
    pub fn poll(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.0.poll(now)
    }

    /// Time passes up to the deadline; gives it back.
    pub fn tick(&mut self, now: Duration) -> Duration {
        self.0.tick(now);
        self.0.deadline()
    }

    /// `Some(true)` when the whole file was acknowledged.
    #[must_use]
    pub fn ended(&self) -> Option<bool> {
        self.0.ended().map(|end| *end == Ended::Whole)
    }
}
