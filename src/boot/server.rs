//! The shell of boot services: sockets, tasks and the clock. What they say is decided in [`Service`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Moment;
use super::assets::Assets;
use super::desk::Desk;
use super::dhcp::{Link, Network, Ports};
use super::error::{BootError, BootErrorKind};
use super::house::House;
use super::http::{Web, router};
use super::lease::Pool;
use super::links::{self, Interface};
use super::listener::{Bounded, Ends};
use super::script::Auth;
use super::service::{DhcpMode, Port, Service, Settings};
use crate::catalog::PendingRecord;
use crate::head::Head;
use crate::limits;
use crate::names::Iqn;

/// How boot services are to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interfaces that DHCP serves. None named: every one that is up and can broadcast; in server mode only
    /// those whose network holds the range.
    pub interfaces: Vec<String>,
    /// The part played in DHCP.
    pub dhcp: DhcpMode,
    /// Addresses to give, both ends included; without it, only those that node records fix.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Told to clients instead of the interface's own.
    pub netmask: Option<Ipv4Addr>,
    /// Told to clients.
    pub router: Option<Ipv4Addr>,
    /// Told to clients; at most 8.
    pub dns: Vec<Ipv4Addr>,
    /// Told to clients.
    pub domain: Option<String>,
    /// Where TFTP listens. The address 0.0.0.0 means: on each served interface's address.
    pub tftp: Option<SocketAddr>,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// A directory of loaders; without it those of the distribution's package.
    pub loaders: Option<PathBuf>,
    /// First part of target and initiator names.
    pub iqn_prefix: String,
    /// The iSCSI portal told to nodes. The address 0.0.0.0 means: the head's address that the node reached.
    pub portal: SocketAddr,
    /// What nodes are told to log in with.
    pub auth: Auth,
    /// 67, but for tests; 0 takes any.
    pub dhcp_port: u16,
    /// 68, but for tests.
    pub dhcp_client_port: u16,
    /// 4011, but for tests; 0 takes any.
    pub pxe_port: u16,
}

impl Default for Options {
    fn default() -> Self {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            interfaces: Vec::new(),
            dhcp: DhcpMode::Proxy,
            range: None,
            netmask: None,
            router: None,
            dns: Vec::new(),
            domain: None,
            tftp: Some(SocketAddr::new(any, 69)),
            http: SocketAddr::new(any, 8068),
            loaders: None,
            iqn_prefix: "iqn.2026-11.internal.reveille".to_owned(),
            portal: SocketAddr::new(any, 3260),
            auth: Auth::Chap,
            dhcp_port: 67,
            dhcp_client_port: 68,
            pxe_port: 4011,
        }
    }
}

/// The clock of the services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Moment {
        self.0.elapsed()
    }

    pub(crate) fn at(self, moment: Moment) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.0 + moment)
    }
}

/// The boot services of a head.
#[derive(Debug)]
pub struct BootServices;

/// Boot services that run. Dropping it ends them.
#[derive(Debug)]
pub struct Running {
    dhcp: Vec<SocketAddr>,
    pxe: Vec<SocketAddr>,
    tftp: Vec<SocketAddr>,
    http: SocketAddr,
    warnings: Vec<String>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl BootServices {
    /// Opens the sockets and serves until [`Running::shutdown`]. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// A port that is taken, an interface that is not there, loaders that cannot be read, settings that
    /// contradict each other: each with the cause and the next step.
    pub fn start(head: Arc<Head>, options: &Options) -> Result<Running, BootError> {
        Self::start_with(head, options)
    }

    pub(crate) fn start_with(
        house: Arc<dyn House>,
        options: &Options,
    ) -> Result<Running, BootError> {
        check(options)?;
        let assets = Assets::load(options.loaders.as_deref())?;
        let pool = pool(options)?;
        let interfaces = serve_interfaces(options)?;
        let warnings = assets.warnings();
        for text in &warnings {
            tracing::warn!("{text}");
        }
        let listener = http_listener(options.http)?;
        let http = listener
            .local()
            .map_err(|e| links::port_error("HTTP", options.http, None, e))?;
        let links: Vec<Link> = interfaces.iter().map(|i| link(i, http)).collect();
        let settings = settings(options, &links);
        let mut start = Start {
            clock: Clock::start(),
            service: Arc::new(Service::new(house, assets, settings, pool)),
            loaders: Arc::new(AtomicUsize::new(0)),
            stop: watch::channel(false).0,
            tasks: JoinSet::new(),
        };
        let notes = start.notes();
        let (dhcp, pxe) = start.dhcp(options, &links, &notes)?;
        let tftp = start.tftp(options.tftp, &links)?;
        start.http(listener, notes);
        Ok(Running {
            dhcp,
            pxe,
            tftp,
            http,
            warnings,
            stop: start.stop,
            tasks: start.tasks,
        })
    }
}

impl Running {
    /// Where DHCP listens, one address for each interface in their order.
    #[must_use]
    pub fn dhcp(&self) -> &[SocketAddr] {
        &self.dhcp
    }

    /// Where the PXE boot server (port 4011) listens.
    #[must_use]
    pub fn pxe(&self) -> &[SocketAddr] {
        &self.pxe
    }

    /// Where TFTP listens.
    #[must_use]
    pub fn tftp(&self) -> &[SocketAddr] {
        &self.tftp
    }

    /// Where HTTP listens.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// What does not work although the services run: sentences for the administrator.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Ends all services and waits for their tasks.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        self.tasks.shutdown().await;
    }
}

fn check(options: &Options) -> Result<(), BootError> {
    let wrong = |text: String| Err(BootError::new(BootErrorKind::Settings, text));
    if let Err(error) = Iqn::parse_prefix(&options.iqn_prefix) {
        return wrong(format!("`[iscsi] iqn_prefix`: {error}"));
    }
    if options
        .domain
        .as_ref()
        .is_some_and(|d| d.len() > 128 || !d.is_ascii())
    {
        return wrong("the domain told to clients must be ASCII of at most 128 bytes".to_owned());
    }
    if let Some(mask) = options.netmask
        && u32::from(mask).leading_ones() + u32::from(mask).trailing_zeros() != 32
    {
        return wrong(format!("{mask} is no netmask; use one like 255.255.255.0"));
    }
    Ok(())
}

fn pool(options: &Options) -> Result<Option<Pool>, BootError> {
    let (DhcpMode::Server, Some((first, last))) = (options.dhcp, options.range) else {
        return Ok(None);
    };
    let most = limits::LEASE_RANGE_MAX;
    Pool::new(first, last).map(Some).ok_or_else(|| {
        let text = format!(
            "`[boot] range` {first} to {last} is empty or holds more than {most} addresses; \
             write the lower end first"
        );
        BootError::new(BootErrorKind::Settings, text)
    })
}

/// The interfaces that DHCP serves and TFTP listens on.
fn serve_interfaces(options: &Options) -> Result<Vec<Interface>, BootError> {
    let all = links::interfaces()?;
    let holds = |i: &Interface, ip: Ipv4Addr| {
        let mask = u32::from(i.netmask);
        u32::from(ip) & mask == u32::from(i.address) & mask
    };
    let range = options.range.filter(|_| options.dhcp == DhcpMode::Server);
    let fits = |i: &Interface| range.is_none_or(|(first, _)| holds(i, first));
    let chosen = links::choose(&options.interfaces, &all, fits)?;
    if chosen.is_empty() && options.dhcp != DhcpMode::Off {
        let what = range.map_or_else(String::new, |(f, _)| format!(" whose network holds {f}"));
        return Err(BootError::new(
            BootErrorKind::Interface,
            format!(
                "no interface{what} is up with an IPv4 address; name one in `[boot] interfaces`"
            ),
        ));
    }
    if let Some((first, last)) = range {
        for ip in [first, last] {
            // Behind a relay the range is of another network; then the netmask is configured.
            if options.netmask.is_none() && !chosen.iter().any(|i| holds(i, ip)) {
                return Err(BootError::new(
                    BootErrorKind::Settings,
                    format!(
                        "{ip} of `[boot] range` is on no network of the interfaces served; \
                         correct the range, or set `[boot] netmask` when a relay is between"
                    ),
                ));
            }
        }
    }
    Ok(chosen)
}

fn link(interface: &Interface, http: SocketAddr) -> Link {
    let told = if http.ip().is_unspecified() {
        IpAddr::V4(interface.address)
    } else {
        http.ip().to_canonical()
    };
    Link {
        name: interface.name.clone(),
        address: interface.address,
        netmask: interface.netmask,
        base: super::answer::base_of(SocketAddr::new(told, http.port())),
    }
}

fn settings(options: &Options, links: &[Link]) -> Settings {
    let own = links.iter().map(|l| l.address);
    let told = options.router.iter().chain(&options.dns).copied();
    Settings {
        mode: options.dhcp,
        network: Network {
            netmask: options.netmask,
            router: options.router,
            dns: options.dns.clone(),
            domain: options.domain.clone(),
        },
        ports: Ports {
            server: options.dhcp_port,
            client: options.dhcp_client_port,
        },
        tftp: options.tftp.is_some(),
        iqn_prefix: options.iqn_prefix.clone(),
        portal: options.portal,
        auth: options.auth,
        own: own.chain(told).collect(),
    }
}

/// A TCP listener that tokio has not taken over yet.
struct Http(std::net::TcpListener);

impl Http {
    fn local(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

fn http_listener(address: SocketAddr) -> Result<Http, BootError> {
    let open = || {
        let kind = socket2::Type::STREAM.nonblocking().cloexec();
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, kind, Some(socket2::Protocol::TCP))?;
        // A restart must not wait for old connections to be forgotten.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok(Http(socket.into()))
    };
    open().map_err(|e| links::port_error("HTTP", address, None, e))
}

/// The services while they are put together.
struct Start {
    clock: Clock,
    service: Arc<Service>,
    loaders: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Start {
    /// One writer of unknown machines, so that a flood of them cannot fill the threads that may block.
    fn notes(&mut self) -> mpsc::Sender<PendingRecord> {
        let (send, mut notes) = mpsc::channel::<PendingRecord>(limits::PENDING_QUEUE);
        let house = Arc::clone(&self.service.house);
        self.tasks.spawn(async move {
            while let Some(machine) = notes.recv().await {
                let (house, mac) = (Arc::clone(&house), machine.mac);
                let work = tokio::task::spawn_blocking(move || house.note_pending(machine));
                if let Ok(Err(error)) = work.await {
                    tracing::warn!(%mac, %error, "unknown machine could not be written down");
                }
            }
        });
        send
    }

    fn dhcp(
        &mut self,
        options: &Options,
        links: &[Link],
        notes: &mpsc::Sender<PendingRecord>,
    ) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>), BootError> {
        let (mut dhcp, mut pxe) = (Vec::new(), Vec::new());
        if options.dhcp == DhcpMode::Off {
            return Ok((dhcp, pxe));
        }
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        for link in links {
            for (port, number, what, places) in [
                (Port::Dhcp, options.dhcp_port, "DHCP", &mut dhcp),
                (Port::Pxe, options.pxe_port, "the PXE boot server", &mut pxe),
            ] {
                let address = SocketAddr::new(any, number);
                let socket = links::udp(what, address, Some(&link.name))?;
                places.push(socket.local_addr().unwrap_or(address));
                let ear = Ear {
                    service: Arc::clone(&self.service),
                    clock: self.clock,
                    loaders: Arc::clone(&self.loaders),
                    link: link.clone(),
                    port,
                    notes: notes.clone(),
                };
                self.tasks.spawn(ear.listen(socket));
            }
        }
        Ok((dhcp, pxe))
    }

    fn tftp(
        &mut self,
        address: Option<SocketAddr>,
        links: &[Link],
    ) -> Result<Vec<SocketAddr>, BootError> {
        let Some(address) = address else {
            return Ok(Vec::new());
        };
        // A client takes data only from the address it asked, so each address has its own socket.
        let places: Vec<SocketAddr> = if address.ip().is_unspecified() && !links.is_empty() {
            let each = links.iter().map(|l| IpAddr::V4(l.address));
            each.map(|ip| SocketAddr::new(ip, address.port())).collect()
        } else {
            vec![address]
        };
        let mut open = Vec::new();
        for place in places {
            let socket = links::udp("TFTP", place, None)?;
            open.push(socket.local_addr().unwrap_or(place));
            let desk = Desk {
                service: Arc::clone(&self.service),
                clock: self.clock,
                place,
                under_way: Arc::default(),
                loaders: Arc::clone(&self.loaders),
            };
            self.tasks.spawn(desk.serve(socket));
        }
        Ok(open)
    }

    fn http(&mut self, listener: Http, notes: mpsc::Sender<PendingRecord>) {
        let web = Web {
            service: Arc::clone(&self.service),
            clock: self.clock,
            notes,
        };
        let app = router(web).into_make_service_with_connect_info::<Ends>();
        let mut stop = self.stop.subscribe();
        self.tasks.spawn(async move {
            let bounded = TcpListener::from_std(listener.0).and_then(Bounded::new);
            let bounded = match bounded {
                Ok(bounded) => bounded,
                Err(error) => {
                    tracing::error!(%error, "boot scripts are not served: the HTTP socket was lost");
                    return;
                }
            };
            let served = axum::serve(bounded, app).with_graceful_shutdown(async move {
                let _ = stop.wait_for(|stop| *stop).await;
            });
            if let Err(error) = served.await {
                tracing::error!(%error, "boot scripts are no longer served");
            }
        });
    }
}

/// Hears DHCP on one port of one interface.
struct Ear {
    service: Arc<Service>,
    clock: Clock,
    loaders: Arc<AtomicUsize>,
    link: Link,
    port: Port,
    notes: mpsc::Sender<PendingRecord>,
}

impl Ear {
    async fn listen(self, socket: UdpSocket) {
        let mut buffer = vec![0; limits::DHCP_MESSAGE_MAX];
        loop {
            let (size, from) = match socket.recv_from(&mut buffer).await {
                Ok(heard) => heard,
                Err(error) => {
                    after_error(&error, &self.link.name).await;
                    continue;
                }
            };
            let (Some(bytes), Some(from)) = (buffer.get(..size), links::v4(from)) else {
                continue;
            };
            let loaders = self.loaders.load(Ordering::Relaxed);
            let now = self.clock.now();
            let outcome = self
                .service
                .dhcp(&self.link, self.port, from, bytes, loaders, now);
            if let Some(machine) = outcome.pending {
                // Full means that hundreds wait to be written; this one asks again.
                let _ = self.notes.try_send(machine);
            }
            if let Some((to, bytes)) = outcome.answer
                && let Err(error) = socket.send_to(&bytes, SocketAddr::V4(to)).await
            {
                tracing::warn!(%to, link = self.link.name, %error, "DHCP answer could not be sent");
            }
        }
    }
}

/// Some errors of one datagram (a port that nobody listens on) come back on the next call: go on. The
/// pause keeps a lasting error from eating a processor.
pub(crate) async fn after_error(error: &io::Error, place: &str) {
    if error.kind() != io::ErrorKind::ConnectionRefused {
        tracing::warn!(%error, place, "datagram lost");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
