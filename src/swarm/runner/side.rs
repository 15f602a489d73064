//! The second socket of a node: UDP for its loader, a connection for its script and its ready call.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::firmware::Wish;
use super::{Thread, is_connected};

/// The socket of an errand.
#[derive(Debug)]
pub(super) enum Side {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, opening: bool },
}

/// A connection on its way, from this address if one is given.
pub(super) fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect(to);
    };
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    match socket.connect(&to.into()) {
        Err(e) if e.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(e),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

impl Side {
    fn udp(
        to: SocketAddr,
        from: Option<IpAddr>,
        token: Token,
        registry: &Registry,
    ) -> io::Result<Self> {
        let any = match to {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let mut socket = UdpSocket::bind(SocketAddr::new(from.unwrap_or(any), 0))?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self::Udp(socket))
    }

    fn tcp(
        to: SocketAddr,
        from: Option<IpAddr>,
        token: Token,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut stream = connect(to, from)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self::Tcp {
            stream,
            opening: true,
        })
    }

    /// Sends all of it; a datagram that the kernel does not take is lost, as on the wire.
    fn send(&mut self, to: Option<SocketAddr>, bytes: &[u8]) -> io::Result<()> {
        match (self, to) {
            (Self::Udp(socket), Some(to)) => match socket.send_to(bytes, to) {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
                _ => Ok(()),
            },
            // A request of a few hundred bytes on a fresh connection.
            (Self::Tcp { stream, .. }, None) => match stream.write(bytes)? {
                len if len == bytes.len() => Ok(()),
                _ => Err(io::ErrorKind::WriteZero.into()),
            },
            // Words of a socket that is gone.
            _ => Ok(()),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
        match self {
            Self::Udp(socket) => socket
                .recv_from(buffer)
                .map(|(len, from)| (len, Some(from))),
            Self::Tcp { stream, .. } => stream.read(buffer).map(|len| (len, None)),
        }
    }
}

impl Thread<'_> {
    /// Does what a node wishes for its errand; false when there is nothing.
    pub(super) fn act_aside(&mut self, at: usize, now: u64) -> bool {
        let Some(seat) = self.seats.get_mut(at) else {
            return false;
        };
        if seat.node.wants_socket(now) && !seat.errand_counts {
            if self.errands >= self.errands_max {
                if !std::mem::replace(&mut seat.held, true) {
                    self.held_errands.push_back(at);
                }
                return false;
            }
            self.errands += 1;
            seat.errand_counts = true;
        }
        let (token, registry) = (Token(at * 2 + 1), self.poll.registry());
        let (made, to) = match seat.node.wish(now) {
            None => return false,
            Some(Wish::Close) => {
                seat.side = None;
                return true;
            }
            Some(Wish::Udp(to)) => (Side::udp(to, seat.source, token, registry), to),
            Some(Wish::Tcp(to)) => (Side::tcp(to, seat.source, token, registry), to),
        };
        seat.node.errand_opened(now);
        match made {
            Ok(side) => seat.side = Some(side),
            Err(error) => {
                seat.side = None;
                let from = seat
                    .source
                    .map_or_else(String::new, |ip| format!(" from {ip}"));
                let why = format!("cannot reach {to}{from}: {error}");
                self.let_go(at, Some(&why), now);
            }
        }
        self.send_aside(at, now);
        true
    }

    /// Sends what the errand of a node has to say.
    pub(super) fn send_aside(&mut self, at: usize, now: u64) {
        let Some(seat) = self.seats.get_mut(at) else {
            return;
        };
        while let Some((to, bytes)) = seat.node.errand_out() {
            let Some(side) = &mut seat.side else {
                continue;
            };
            if let Err(error) = side.send(to, &bytes) {
                let why = format!("cannot send: {error}");
                return self.let_go(at, Some(&why), now);
            }
        }
    }

    /// The errand's socket is of no more use. To be followed by what `step` does.
    fn let_go(&mut self, at: usize, why: Option<&str>, now: u64) {
        if let Some(seat) = self.seats.get_mut(at) {
            let mut out = Vec::new();
            let (world, tally) = (self.world, &mut self.tally);
            seat.node.errand_lost(why, world, tally, now, &mut out);
            // Reading back may begin with it. What fails here is told by the socket's next event.
            let _ = seat.send(&mut out);
        }
    }

    /// One event of an errand's socket.
    pub(super) fn serve_aside(&mut self, at: usize) {
        let side = self.seats.get_mut(at).and_then(|seat| seat.side.as_mut());
        if let Some(Side::Tcp { stream, opening }) = side
            && *opening
        {
            match is_connected(stream) {
                Ok(false) => return,
                Ok(true) => {
                    *opening = false;
                    self.step(at, |node, _, _, _, _| node.errand_connected());
                }
                Err(error) => {
                    let why = format!("cannot connect: {error}");
                    return self.step(at, |node, world, tally, now, out| {
                        node.errand_lost(Some(&why), world, tally, now, out);
                    });
                }
            }
        }
        self.receive_aside(at);
    }

    /// Reads until there is nothing: a poll tells of a socket once.
    fn receive_aside(&mut self, at: usize) {
        loop {
            let side = self.seats.get_mut(at).and_then(|seat| seat.side.as_mut());
            let Some(side) = side else {
                return;
            };
            let heard = side.receive(&mut self.receive);
            match heard {
                Ok((0, None)) => {
                    return self.step(at, |node, world, tally, now, out| {
                        node.errand_lost(None, world, tally, now, out);
                    });
                }
                Ok((len, from)) => {
                    let buffer = std::mem::take(&mut self.receive);
                    let bytes = buffer.get(..len).unwrap_or_default();
                    self.step(at, |node, world, tally, now, out| {
                        node.errand_hears((from, bytes), world, tally, now, out);
                    });
                    self.receive = buffer;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    let why = format!("the socket failed: {e}");
                    return self.step(at, |node, world, tally, now, out| {
                        node.errand_lost(Some(&why), world, tally, now, out);
                    });
                }
            }
        }
    }
}
