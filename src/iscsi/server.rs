//! The server: listens, starts the door and one worker per core. Strangers come in and log in at the door, a thread of
//! lower priority, so that a storm of logins takes nothing from sessions; then a session stays on its worker to the
//! end.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::bounds::Bounds;
use super::chance::Chance;
use super::chap::Algorithms;
use super::control::{Control, is_local};
use super::driver::{self, Entered};
use super::error::{Error, ErrorKind};
use super::login_driver::{self, Arrival};
use super::params::Digests;
use super::pulse::Pulse;
use super::shared::Shared;
use super::target::{Auth, Rules, Targets};
use super::turns::{Turn, Turns};
use super::vigil::Vigil;
use crate::head::Head;
use crate::limits;
use crate::names::Iqn;
use crate::store::Pool;

/// Connections that wait for `accept`: firmware gives a connect one second.
const BACKLOG: i32 = 4096;

/// How much less than sessions the door may ask of a busy core (nice(2)): a third of what a worker gets.
const DOOR_NICE: i32 = 5;

/// Polls of connections between two looks at the sockets. A busy connection is called again after a look only
/// (`driver.rs`), so this bounds how many short polls may come before somebody who was quiet is heard.
const POLLS_PER_LOOK: u32 = 16;

/// The same at the door, where nobody is to be heard within microseconds and a look costs as much as a small answer.
const POLLS_PER_LOOK_AT_THE_DOOR: u32 = 16;

/// A failing `accept` is written down at most this often.
const ACCEPT_TOLD_EVERY: Duration = Duration::from_secs(10);

/// What is left of logins that are over is cleared away at least this often, and whenever somebody comes.
const REAP_EVERY: Duration = Duration::from_secs(1);

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
    /// Which digests are agreed to.
    pub digests: Digests,
    /// Sends every login to this head instead.
    pub redirect: Option<SocketAddr>,
    /// Bounds that can be set.
    pub bounds: Bounds,
    /// Worker threads; none means one per core.
    pub workers: Option<usize>,
}

/// A running server. Dropping it stops it without waiting; `shutdown` waits.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Socket>,
    addresses: Vec<SocketAddr>,
    /// In the order in which they end: the door, workers.
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts listening and serving. All sockets are bound before the first connection is taken.
    pub fn start(head: Arc<Head>, pool: Arc<Pool>, options: Options) -> Result<Self, Error> {
        check(&options)?;
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for address in &options.listen {
            let (socket, bound) = bind(*address)?;
            listeners.push(socket);
            addresses.push(bound);
        }
        if let Some(to) = options.redirect.filter(|to| is_local(*to, &addresses)) {
            let what = format!("[iscsi] redirect {to} is this head; name another, or leave it out");
            return Err(Error::new(ErrorKind::Options, what));
        }
        let rules = Rules {
            prefix: options.iqn_prefix,
            auth: options.auth,
            algorithms: options.algorithms,
            digests: options.digests,
            redirect: options.redirect,
            sessions_per_node: options.bounds.sessions_per_node,
            portals: addresses.clone(),
        };
        let targets = Targets::new(head, rules);
        let mut server = Self {
            shared: Arc::new(Shared::new(targets, pool, options.bounds)),
            listeners,
            addresses,
            threads: Vec::new(),
        };
        let count = options.workers.unwrap_or_else(cores).max(1);
        let inboxes = (0..count)
            .map(|n| server.start_worker(n))
            .collect::<Result<Vec<_>, _>>()?;
        server.start_door(inboxes)?;
        server.threads.reverse();
        Ok(server)
    }

    /// Where it listens, in the order of the options, with the ports it got.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What others may ask of it while it runs.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// Ends in order: nobody new comes in, commands under way are finished and answered, connections close,
    /// threads end.
    pub fn shutdown(mut self) {
        self.shared.close_door();
        self.close_listeners();
        if !self.shared.finish(limits::DRY_WAIT + limits::LINGER) {
            tracing::warn!("some connections did not come to rest and are closed as they are");
        }
        self.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; there is nothing more to learn here.
            let _ = thread.join();
        }
    }

    fn stop(&self) {
        self.shared.stop();
        self.close_listeners();
    }

    fn close_listeners(&self) {
        for listener in &self.listeners {
            // On Linux this wakes whoever waits for it, and `accept` fails from then on.
            let _ = listener.shutdown(std::net::Shutdown::Both);
        }
    }

    fn start_worker(&mut self, number: usize) -> Result<Inbox<(StdStream, Entered)>, Error> {
        let (inbox, sessions) = mpsc::unbounded_channel();
        let runtime = runtime("an iSCSI worker's runtime", POLLS_PER_LOOK)?;
        self.start_thread(format!("iscsi-{number}"), move || work(&runtime, sessions))?;
        Ok(inbox)
    }

    /// The thread on which connections come in and log in.
    fn start_door(&mut self, workers: Vec<Inbox<(StdStream, Entered)>>) -> Result<(), Error> {
        let runtime = runtime("the iSCSI door's runtime", POLLS_PER_LOOK_AT_THE_DOOR)?;
        let door = Door {
            shared: Arc::clone(&self.shared),
            keeper: Arc::new(Doorkeeper::new(workers)),
        };
        let listen = || -> io::Result<Vec<TcpListener>> {
            // A listener belongs to the runtime that it is made in.
            let _inside = runtime.enter();
            let all = self.listeners.iter();
            all.map(|l| TcpListener::from_std(l.try_clone()?.into()))
                .collect()
        };
        let listeners =
            listen().map_err(|e| Error::io(ErrorKind::Thread, e, "the iSCSI listeners"))?;
        self.start_thread("iscsi-door".to_owned(), move || {
            lower_priority();
            runtime.block_on(door.open(listeners));
        })
    }

    fn start_thread(
        &mut self,
        name: String,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(work)
            .map_err(|e| Error::io(ErrorKind::Thread, e, "a thread of the iSCSI server"))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

type Inbox<T> = mpsc::UnboundedSender<T>;

/// What logins share that are under way at the door.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    /// Sessions are handed to workers in turn.
    inboxes: Vec<Inbox<(StdStream, Entered)>>,
    turn: AtomicUsize,
    turns: Turns,
    pub(super) vigil: Vigil,
    /// How long the first words of a session are waited for.
    pub(super) patience: Pulse,
    pub(super) chance: Chance,
}

impl Doorkeeper {
    pub(super) fn new(inboxes: Vec<Inbox<(StdStream, Entered)>>) -> Self {
        Self {
            inboxes,
            turn: AtomicUsize::new(0),
            turns: Turns::default(),
            vigil: Vigil::new(),
            patience: Pulse::new(limits::FIRST_WORDS_WAIT),
            chance: Chance::default(),
        }
    }

    pub(super) fn hand_over(&self, stream: StdStream, session: Entered) {
        let turn = self.turn.fetch_add(1, Relaxed) % self.inboxes.len().max(1);
        if let Some(inbox) = self.inboxes.get(turn) {
            let _ = inbox.send((stream, session));
        }
    }

    /// For a session that stays at the door for the little that it wants.
    pub(super) fn turn_at_the_door(&self) -> Turn {
        self.turns.turn()
    }
}

fn runtime(what: &str, polls_per_look: u32) -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(polls_per_look)
        .build()
        .map_err(|e| Error::io(ErrorKind::Thread, e, what))
}

/// Where the system's congestion control is BBR, which is made for long ways through foreign networks, the head's
/// connections use CUBIC: BBR paces by timers and drains the pipe every ten seconds, and answers of 4 KiB of many
/// sessions cost an eighth more processor time under it (decision 0029). Any other choice of the system stands.
fn leave_bbr(socket: &Socket) {
    use rustix::net::sockopt::{set_tcp_congestion, tcp_congestion};
    if tcp_congestion(socket).is_ok_and(|name| name.starts_with("bbr")) {
        // A kernel without CUBIC goes on as it is.
        let _ = set_tcp_congestion(socket, "cubic");
    }
}

/// Below what the head was started with. On Linux this concerns the calling thread only.
fn lower_priority() {
    use rustix::process::{getpriority_process, setpriority_process};
    let lowered =
        getpriority_process(None).and_then(|own| setpriority_process(None, own + DOOR_NICE));
    if let Err(error) = lowered {
        tracing::debug!(%error, "the iSCSI door runs with normal priority");
    }
}

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
        leave_bbr(&socket);
        // A node that lost its power is noticed after 30 + 6 x 10 seconds, without a word of iSCSI.
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(Duration::from_secs(30))
                .with_interval(Duration::from_secs(10))
                .with_retries(6),
        )?;
        socket.set_nonblocking(true)?;
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

/// The door: takes connections and logs them in. A thread of its own for accepting would cost a change of threads
/// for each login and win nothing: whoever floods us with connections makes the same work for the logins of others,
/// on whatever thread, and here both get their turns.
#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    keeper: Arc<Doorkeeper>,
}

impl Door {
    /// Until all listeners are shut down and all who came are through. Tells what was refused.
    async fn open(self, listeners: Vec<TcpListener>) {
        let mut open = JoinSet::new();
        for listener in listeners {
            open.spawn(self.clone().receive(listener));
        }
        tokio::spawn(self.keeper.vigil.clone().keep());
        tokio::spawn({
            let keeper = Arc::clone(&self.keeper);
            async move { keeper.patience.keep().await }
        });
        let mut clock = tokio::time::interval(limits::REFUSAL_TOLD_EVERY / 10);
        loop {
            tokio::select! {
                over = open.join_next() => if over.is_none() {
                    return;
                },
                _ = clock.tick() => self.shared.tell_due(),
            }
        }
    }

    /// Takes connections until the listener is shut down. However many wait, the runtime lets others have their turn
    /// now and then.
    async fn receive(self, listener: TcpListener) {
        let mut logins = JoinSet::new();
        let mut trouble = Trouble::default();
        while !self.shared.is_stopped() {
            let accepted = tokio::time::timeout(REAP_EVERY, listener.accept()).await;
            // Looked for here, and not waited for: that some login ended is no reason to wake up.
            while logins.try_join_next().is_some() {}
            match accepted {
                _ if self.shared.is_stopped() => {}
                // Nobody came.
                Err(_) => {}
                Ok(Ok((stream, peer))) => self.admit(stream, peer, &mut logins),
                Ok(Err(e)) if is_passing(&e) => {}
                Ok(Err(e)) => {
                    // Out of file numbers, most likely: strangers give some back.
                    self.shared.shed();
                    trouble.tell(&e);
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(listener);
        while logins.join_next().await.is_some() {}
    }

    /// Whoever may not wait for a login is turned away here.
    fn admit(&self, stream: TcpStream, peer: SocketAddr, logins: &mut JoinSet<()>) {
        let Some(ticket) = self.shared.admit(peer) else {
            // With a reset: no memory and no time is spent on an orderly end.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        };
        let (shared, keeper) = (Arc::clone(&self.shared), Arc::clone(&self.keeper));
        let arrival = Arrival::new(stream, peer, ticket);
        logins.spawn(login_driver::serve(arrival, shared, keeper));
    }
}

/// Errors of `accept` that concern one connection, which went away while it waited, or none (Linux accept(2)).
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted};
    matches!(error.kind(), ConnectionAborted | Interrupted)
}

/// Tells that connections cannot be accepted, not too often.
#[derive(Default)]
struct Trouble {
    failures: u64,
    told: Option<Instant>,
}

impl Trouble {
    fn tell(&mut self, error: &io::Error) {
        self.failures += 1;
        if self.told.is_none_or(|at| at.elapsed() >= ACCEPT_TOLD_EVERY) {
            let failures = self.failures;
            tracing::warn!(%error, failures, "connections could not be accepted; \
                raise the limit of open files (LimitNOFILE)");
            self.told = Some(Instant::now());
            self.failures = 0;
        }
    }
}

/// One worker: serves its sessions until no more can come and all are over.
fn work(runtime: &Runtime, mut inbox: mpsc::UnboundedReceiver<(StdStream, Entered)>) {
    let turns = Turns::default();
    let vigil = Vigil::new();
    runtime.block_on(async {
        tokio::spawn(vigil.clone().keep());
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                session = inbox.recv() => match session {
                    Some((stream, session)) => {
                        let stream = TcpStream::from_std(stream).ok();
                        let session = stream.and_then(|s| driver::serve(s, session, turns.turn(), vigil.clone()));
                        if let Some(session) = session {
                            sessions.spawn(session);
                        }
                    }
                    None => break,
                },
                Some(_) = sessions.join_next() => {}
            }
        }
        while sessions.join_next().await.is_some() {}
    });
}

#[cfg(test)]
mod test {
    use super::*;

    fn loopback() -> (Socket, SocketAddr) {
        bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
    }

    #[tokio::test]
    async fn accepted_sockets_inherit_what_the_listener_was_told() {
        let (listener, address) = loopback();
        let listener = TcpListener::from_std(listener.into()).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.nonblocking().unwrap());
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(30)
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
    }

    #[tokio::test]
    async fn a_shut_listener_wakes_whoever_waits_for_it() {
        let (listener, _) = loopback();
        let waiting = TcpListener::from_std(listener.try_clone().unwrap().into()).unwrap();
        let task = tokio::spawn(async move { waiting.accept().await.is_err() });
        tokio::task::yield_now().await;
        listener.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(task.await.unwrap());
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
            digests: Digests::default(),
            redirect: None,
            bounds: Bounds::default(),
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
