//! The TCP side of the HTTP service: a bounded number of connections, and none that idles for ever.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::limits;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// A listener that takes the next connection only when fewer than `limits::BOOT_HTTP_MAX` are open.
#[derive(Debug)]
pub(crate) struct Bounded {
    listener: TcpListener,
    local: SocketAddr,
    open: Arc<Semaphore>,
    clients: Arc<Clients>,
    idle: Duration,
}

/// Open connections by address.
#[derive(Debug, Default)]
struct Clients(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place among its address's; given back when dropped.
#[derive(Debug)]
struct Place {
    clients: Arc<Clients>,
    ip: IpAddr,
}

impl Clients {
    /// A place for one more connection of `ip`, unless it has too many.
    fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = table.entry(ip).or_default();
        if *count >= limits::BOOT_HTTP_PER_CLIENT {
            return None;
        }
        *count += 1;
        let clients = Arc::clone(self);
        Some(Place { clients, ip })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self
            .clients
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = table.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.ip);
            }
        }
    }
}

impl Bounded {
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        Ok(Self {
            local: listener.local_addr()?,
            listener,
            open: Arc::new(Semaphore::new(limits::BOOT_HTTP_MAX)),
            clients: Arc::default(),
            idle: limits::BOOT_HTTP_IDLE,
        })
    }
}

impl Listener for Bounded {
    type Io = Timed;
    type Addr = Ends;

    async fn accept(&mut self) -> (Timed, Ends) {
        let permit = Arc::clone(&self.open)
            .acquire_owned()
            .await
            .expect("this semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let Some(place) = self.clients.enter(peer.ip().to_canonical()) else {
                        tracing::debug!(%peer, "HTTP connection closed: its address has too many");
                        continue;
                    };
                    let local = stream.local_addr().unwrap_or(self.local);
                    let timed = Timed::new(stream, self.idle, permit, place);
                    return (timed, Ends { peer, local });
                }
                Err(error) => {
                    // Out of file descriptors, or the peer is gone again: wait a little, go on.
                    tracing::warn!(%error, "HTTP connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Ends> {
        let local = self.local;
        Ok(Ends { peer: local, local })
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Ends {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        *stream.remote_addr()
    }
}

/// A connection that ends after `limits::BOOT_HTTP_IDLE` without a byte in either direction, and after
/// `limits::BOOT_HTTP_LIFE` in any case (a client that sends one byte now and then holds no place for ever).
#[derive(Debug)]
pub(crate) struct Timed {
    stream: TcpStream,
    patience: Duration,
    idle: Pin<Box<Sleep>>,
    end: Instant,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

impl Timed {
    fn new(
        stream: TcpStream,
        patience: Duration,
        permit: OwnedSemaphorePermit,
        place: Place,
    ) -> Self {
        Self {
            stream,
            patience,
            idle: Box::pin(tokio::time::sleep(patience)),
            end: Instant::now() + limits::BOOT_HTTP_LIFE,
            _permit: permit,
            _place: place,
        }
    }

    /// Passes a result on; progress puts the end off, waiting may reach it.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            let idle = Instant::now() + self.patience;
            self.idle.as_mut().reset(idle.min(self.end));
            return result;
        }
        if self.idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.watch(cx, result)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place() {
        let clients = Arc::new(Clients::default());
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut held: Vec<_> = (0..limits::BOOT_HTTP_PER_CLIENT)
            .map(|_| clients.enter(one).unwrap())
            .collect();
        assert!(clients.enter(one).is_none());
        assert!(clients.enter(other).is_some());
        held.pop();
        assert!(clients.enter(one).is_some());
        drop(held);
        assert!(clients.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed() {
        use tokio::io::AsyncReadExt;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut bounded = Bounded::new(listener).unwrap();
        bounded.idle = Duration::from_millis(20);
        let peer = TcpStream::connect(bounded.local).await.unwrap();
        let (mut timed, ends) = bounded.accept().await;
        assert_eq!(ends.peer, peer.local_addr().unwrap());
        let error = timed.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
