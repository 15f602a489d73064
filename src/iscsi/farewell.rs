//! How a connection ends: the last words, and who closes first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use crate::limits;

/// Why a connection ends whose initiator logged out, as the connection machine says it.
pub(super) const LOGOUT: &str = "logout";

/// As `poll_write_vectored`. What is `last` waits for the end of the connection, which the caller brings at once,
/// and goes out in one packet with it: the peer is woken once instead of twice.
pub(super) fn poll_send(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
    last: bool,
) -> Poll<io::Result<usize>> {
    if !last {
        return Pin::new(stream).poll_write_vectored(cx, slices);
    }
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    loop {
        ready!(stream.poll_write_ready(cx))?;
        let send = || {
            let sent = sendmsg(&*stream, slices, &mut SendAncillaryBuffer::default(), flags);
            sent.map_err(io::Error::from)
        };
        match stream.try_io(Interest::WRITABLE, send) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

/// True when the peer has sent nothing that was not read, as far as is known: a socket that is closed over such
/// bytes takes back what it has sent.
pub(super) fn has_nothing(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(len) => len == 0,
        Err(e) => e.kind() == io::ErrorKind::WouldBlock,
    }
}

/// True when the peer sends nothing more, as far as the system knows: it has closed, or the connection is broken. Asks
/// the system itself, because the runtime may not have looked yet.
pub(super) fn has_closed(stream: &TcpStream) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::RDHUP)];
    // A poll that fails tells nothing: the connection goes on.
    let now = Timespec::default();
    poll(&mut asked, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Says that we are done, and lets the peer close first.
pub(super) async fn linger(stream: &mut TcpStream) {
    let _ = stream.shutdown().await;
    let mut waste = [0; 512];
    let rest = async { while matches!(stream.read(&mut waste).await, Ok(n) if n > 0) {} };
    let _ = tokio::time::timeout(limits::LINGER, rest).await;
}

/// Waits until the system knows that the peer has closed, and lets no runtime look meanwhile.
#[cfg(test)]
pub(super) fn block_until_closed(socket: impl std::os::fd::AsFd) {
    let mut asked = [PollFd::new(&socket, PollFlags::RDHUP)];
    assert_eq!(poll(&mut asked, None).unwrap(), 1);
}

#[cfg(test)]
mod test {
    use super::*;
    use std::future::poll_fn;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(listener.accept(), connect);
        (ours.unwrap().0, theirs.unwrap())
    }

    #[tokio::test]
    async fn last_words_arrive_with_the_end() {
        let (mut ours, mut theirs) = pair().await;
        let slices = [IoSlice::new(b"good"), IoSlice::new(b"bye")];
        let sent = poll_fn(|cx| poll_send(&mut ours, cx, &slices, true)).await;
        assert_eq!(sent.unwrap(), 7);
        assert!(has_nothing(&ours));
        drop(ours);
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"goodbye");
    }

    #[tokio::test]
    async fn a_peer_that_closed_is_known_before_the_runtime_looks() {
        let (ours, mut theirs) = pair().await;
        assert!(!has_closed(&ours));
        theirs.write_all(b"more").await.unwrap();
        assert!(!has_closed(&ours));
        drop(theirs);
        block_until_closed(&ours);
        assert!(has_closed(&ours), "also with bytes that were not read");
    }

    #[tokio::test]
    async fn what_a_peer_still_said_is_seen() {
        let (ours, mut theirs) = pair().await;
        theirs.write_all(b"more").await.unwrap();
        ours.readable().await.unwrap();
        assert!(!has_nothing(&ours));
        // One byte of it was taken for that.
        let mut rest = [0; 3];
        let mut ours = ours;
        ours.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"ore");
    }
}
