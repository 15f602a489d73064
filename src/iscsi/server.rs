//! The server: listens, starts one worker per core, and hands connections out in turn. A connection stays on
//! its worker from accept to end.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::sync::mpsc;

use super::chap::Algorithms;
use super::driver::{self, Handle, Note};
use super::error::{Error, ErrorKind};
use super::metrics::Metrics;
use super::target::{Auth, Targets, lock};
use crate::head::Head;
use crate::limits;
use crate::names::Iqn;
use crate::store::Pool;

/// Connections that wait for `accept`: firmware gives a connect one second.
const BACKLOG: i32 = 1024;

/// Pause after an `accept` that failed, so that a lack of file numbers does not keep a core busy.
const ACCEPT_RETRY: Duration = Duration::from_millis(20);

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Beginning of all target names: `iqn.2026-11.internal.reveille`.
    pub iqn_prefix: String,
    /// Who may log in.
    pub auth: Auth,
    /// Digests that CHAP may use.
    pub algorithms: Algorithms,
    /// Sends every login to this `address:port` instead.
    pub redirect: Option<String>,
    /// Worker threads; none means one per core.
    pub workers: Option<usize>,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) targets: Targets,
    pub(super) pool: Arc<Pool>,
    pub(super) metrics: Metrics,
    /// Bytes of command data that all connections hold.
    pub(super) budget: AtomicUsize,
    newcomers: AtomicUsize,
    links: Mutex<HashMap<u64, Handle>>,
    next_link: AtomicU64,
    stopped: AtomicBool,
    refusals: Mutex<(Option<Instant>, u32)>,
}

/// A place among the connections that have not logged in; given back on drop.
pub(super) struct Newcomer(Arc<Shared>);

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.0.newcomers.fetch_sub(1, Relaxed);
    }
}

/// An entry in the list of all connections; taken out on drop.
pub(super) struct Link(Arc<Shared>, u64);

impl Drop for Link {
    fn drop(&mut self) {
        lock(&self.0.links).remove(&self.1);
    }
}

impl Shared {
    /// Counts a connection that was accepted; none when too many have not logged in yet.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Newcomer> {
        self.metrics.accepted.add(1);
        let before = self.newcomers.fetch_add(1, Relaxed);
        let place = Newcomer(Arc::clone(self));
        if before >= limits::UNAUTHENTICATED_MAX || self.stopped.load(Relaxed) {
            self.metrics.turned_away.add(1);
            return None;
        }
        Some(place)
    }

    /// Makes a connection reachable for drain and shutdown.
    pub(super) fn register(self: &Arc<Self>, handle: &Handle) -> Link {
        let number = self.next_link.fetch_add(1, Relaxed);
        lock(&self.links).insert(number, handle.clone());
        // Asked after the entry is made: `stop` either finds the entry or is found here.
        if self.stopped.load(SeqCst) {
            let _ = handle.send(leave("the head stops"));
        }
        Link(Arc::clone(self), number)
    }

    /// True for the first refusals of each second: a flood of them must not drown the events.
    pub(super) fn may_tell_refusal(&self) -> bool {
        let mut window = lock(&self.refusals);
        let now = Instant::now();
        if window
            .0
            .is_none_or(|since| now.duration_since(since) > Duration::from_secs(1))
        {
            *window = (Some(now), 0);
        }
        window.1 += 1;
        window.1 <= limits::REFUSALS_TOLD_PER_SECOND
    }

    fn tell_all(&self, note: impl Fn() -> Note) {
        for link in lock(&self.links).values() {
            let _ = link.send(note());
        }
    }
}

const fn leave(why: &'static str) -> Note {
    Note::Leave { why, done: None }
}

/// A running server. Dropping it stops it without waiting; `shutdown` waits.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Arc<Socket>>,
    addresses: Vec<SocketAddr>,
    acceptors: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts listening and serving. All sockets are bound before the first connection is taken.
    pub fn start(head: Arc<Head>, pool: Arc<Pool>, options: Options) -> Result<Self, Error> {
        check(&options)?;
        let shared = Arc::new(Shared {
            targets: Targets::new(
                head,
                options.iqn_prefix,
                options.auth,
                options.algorithms,
                options.redirect,
            ),
            pool,
            metrics: Metrics::default(),
            budget: AtomicUsize::new(0),
            newcomers: AtomicUsize::new(0),
            links: Mutex::new(HashMap::new()),
            next_link: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
            refusals: Mutex::new((None, 0)),
        });
        let mut server = Self {
            shared,
            listeners: Vec::new(),
            addresses: Vec::new(),
            acceptors: Vec::new(),
            workers: Vec::new(),
        };
        for address in &options.listen {
            let (socket, bound) = bind(*address)?;
            server.listeners.push(Arc::new(socket));
            server.addresses.push(bound);
        }
        let count = options.workers.unwrap_or_else(cores).max(1);
        let inboxes = (0..count)
            .map(|n| server.start_worker(n))
            .collect::<Result<Vec<_>, _>>()?;
        for n in 0..server.listeners.len() {
            server.start_acceptor(n, inboxes.clone())?;
        }
        Ok(server)
    }

    /// Where it listens, in the order of the options, with the ports it got.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Asks every initiator politely to leave, and sends all later logins to `redirect` (`address:port`).
    pub fn drain(&self, redirect: String) {
        self.shared.targets.redirect_to(redirect);
        self.shared.tell_all(|| Note::Drain);
    }

    /// Ends every session after its running operations, and waits for all threads.
    pub fn shutdown(mut self) {
        self.stop();
        for thread in self.acceptors.drain(..).chain(self.workers.drain(..)) {
            // A thread that panicked has said so; there is nothing more to learn here.
            let _ = thread.join();
        }
    }

    fn stop(&self) {
        self.shared.stopped.store(true, SeqCst);
        for listener in &self.listeners {
            // On Linux this wakes `accept` with an error.
            let _ = listener.shutdown(std::net::Shutdown::Both);
        }
        self.shared.tell_all(|| leave("the head stops"));
    }

    fn start_worker(&mut self, number: usize) -> Result<Inbox, Error> {
        let (inbox, connections) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Error::io(ErrorKind::Thread, e, "an iSCSI worker's runtime"))?;
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(format!("iscsi-{number}"))
            .spawn(move || work(&runtime, connections, &shared))
            .map_err(|e| Error::io(ErrorKind::Thread, e, "an iSCSI worker's thread"))?;
        self.workers.push(thread);
        Ok(inbox)
    }

    fn start_acceptor(&mut self, number: usize, inboxes: Vec<Inbox>) -> Result<(), Error> {
        let listener = Arc::clone(&self.listeners[number]);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(format!("iscsi-accept-{number}"))
            .spawn(move || accept(&listener, &inboxes, &shared))
            .map_err(|e| Error::io(ErrorKind::Thread, e, "an iSCSI acceptor's thread"))?;
        self.acceptors.push(thread);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

type Inbox = mpsc::UnboundedSender<(StdStream, SocketAddr)>;

fn check(options: &Options) -> Result<(), Error> {
    if options.listen.is_empty() {
        return Err(Error::new(
            ErrorKind::Options,
            "[iscsi] listen names no address; give one, such as \"0.0.0.0:3260\"",
        ));
    }
    Iqn::parse(&options.iqn_prefix)
        .map_err(|e| Error::new(ErrorKind::Options, format!("[iscsi] iqn_prefix: {e}")))?;
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A listening socket. What is set here, accepted sockets inherit (Linux tcp(7)).
fn bind(address: SocketAddr) -> Result<(Socket, SocketAddr), Error> {
    let make = || -> std::io::Result<(Socket, SocketAddr)> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_tcp_nodelay(true)?;
        // A node that lost its power is noticed after 30 + 6 x 10 seconds, without a word of iSCSI.
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(Duration::from_secs(30))
                .with_interval(Duration::from_secs(10))
                .with_retries(6),
        )?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let bound = socket
            .local_addr()?
            .as_socket()
            .ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        Ok((socket, bound))
    };
    make().map_err(|e| {
        Error::io(
            ErrorKind::Bind,
            e,
            format!("cannot listen on {address}; is another target running there?"),
        )
    })
}

/// Takes connections until the listener is shut down, and hands them out in turn.
fn accept(listener: &Socket, inboxes: &[Inbox], shared: &Shared) {
    let mut turn = 0usize;
    loop {
        match listener.accept() {
            Ok((socket, peer)) => {
                if shared.stopped.load(Relaxed) {
                    return;
                }
                let Some(peer) = peer.as_socket() else {
                    continue;
                };
                if SockRef::from(&socket).set_nonblocking(true).is_err() {
                    continue;
                }
                turn = turn.wrapping_add(1);
                if let Some(inbox) = inboxes.get(turn % inboxes.len().max(1)) {
                    let _ = inbox.send((socket.into(), peer));
                }
            }
            Err(_) if shared.stopped.load(Relaxed) => return,
            Err(e) => {
                // Out of file numbers, most likely: others must end before it gets better.
                tracing::warn!(error = %e, "a connection could not be accepted");
                std::thread::park_timeout(ACCEPT_RETRY);
            }
        }
    }
}

/// One worker: serves its connections until no more can come and all are over.
fn work(
    runtime: &tokio::runtime::Runtime,
    mut connections: mpsc::UnboundedReceiver<(StdStream, SocketAddr)>,
    shared: &Arc<Shared>,
) {
    let local = tokio::task::LocalSet::new();
    local.block_on(runtime, async {
        while let Some((stream, peer)) = connections.recv().await {
            match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => {
                    let shared = Arc::clone(shared);
                    tokio::task::spawn_local(driver::serve(stream, peer, shared));
                }
                Err(e) => tracing::warn!(error = %e, "a connection could not be registered"),
            }
        }
    });
    runtime.block_on(local);
}

#[cfg(test)]
mod test {
    use super::*;

    fn loopback() -> (Socket, SocketAddr) {
        bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
    }

    #[test]
    fn accepted_sockets_inherit_what_the_listener_was_told() {
        let (listener, address) = loopback();
        let _client = StdStream::connect(address).unwrap();
        let (socket, _) = listener.accept().unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(30)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
    }

    #[test]
    fn a_shut_listener_wakes_its_acceptor() {
        let (listener, _) = loopback();
        let listener = Arc::new(listener);
        let waiting = Arc::clone(&listener);
        let thread = std::thread::spawn(move || waiting.accept().is_err());
        // Before or during the call: both must end it.
        listener.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(thread.join().unwrap());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let (_held, address) = loopback();
        let error = bind(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bind);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[test]
    fn senseless_options_are_refused() {
        let mut options = Options {
            listen: Vec::new(),
            iqn_prefix: "iqn.2026-11.internal.reveille".into(),
            auth: Auth::None,
            algorithms: Algorithms::default(),
            redirect: None,
            workers: None,
        };
        assert!(check(&options).unwrap_err().to_string().contains("listen"));
        options.listen.push(SocketAddr::from(([127, 0, 0, 1], 0)));
        assert!(check(&options).is_ok());
        options.iqn_prefix = "reveille".into();
        assert!(
            check(&options)
                .unwrap_err()
                .to_string()
                .contains("iqn_prefix")
        );
    }
}
