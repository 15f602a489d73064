//! Someone on the wire who forges the head's proof: what a node sees of a head that does not know its secret.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::{Context, Result};

use crate::Net;

/// Passes connections on and changes the last digit of each proof (`CHAP_R`) that the target sends.
#[derive(Debug)]
pub struct Forger {
    forged: Arc<AtomicUsize>,
}

impl Forger {
    /// Listens at `here` in the lab's network and passes on to `target`, until the process ends.
    ///
    /// # Errors
    /// When the network cannot be entered, or the address is taken.
    pub fn start(net: &Net, here: SocketAddr, target: SocketAddr) -> Result<Self> {
        let net = net.clone();
        let forged = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&forged);
        let (sender, ready) = std::sync::mpsc::channel();
        // A network namespace is entered by a thread; what that thread starts is in it, too.
        std::thread::spawn(move || {
            let listener = net.enter().and_then(|()| {
                TcpListener::bind(here).with_context(|| format!("cannot listen at {here}"))
            });
            match listener {
                Ok(listener) => {
                    let _ = sender.send(Ok(()));
                    serve(&listener, target, &count);
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                }
            }
        });
        ready.recv().context("the forger's thread ended")??;
        Ok(Self { forged })
    }

    /// Proofs changed so far.
    #[must_use]
    pub fn forged(&self) -> usize {
        self.forged.load(Relaxed)
    }
}

fn serve(listener: &TcpListener, target: SocketAddr, forged: &Arc<AtomicUsize>) {
    for client in listener.incoming().map_while(Result::ok) {
        let Ok(server) = TcpStream::connect(target) else {
            continue;
        };
        let (Ok(to), Ok(from)) = (server.try_clone(), client.try_clone()) else {
            continue;
        };
        let count = Arc::clone(forged);
        std::thread::spawn(move || pass(from, to, |_| 0, &AtomicUsize::new(0)));
        std::thread::spawn(move || pass(server, client, forge, &count));
    }
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    change: fn(&mut [u8]) -> usize,
    count: &AtomicUsize,
) {
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let bytes = &mut buffer[..length];
        count.fetch_add(change(bytes), Relaxed);
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Changes the digits before the end of each `CHAP_R=0x...`; a login response lies in one segment.
fn forge(bytes: &mut [u8]) -> usize {
    const KEY: &[u8] = b"CHAP_R=0x";
    let starts: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at..].starts_with(KEY))
        .map(|at| at + KEY.len())
        .collect();
    for &start in &starts {
        let digits = bytes[start..]
            .iter()
            .take_while(|b| b.is_ascii_hexdigit())
            .count();
        let last = start + digits.saturating_sub(1);
        bytes[last] = if bytes[last] == b'0' { b'1' } else { b'0' };
    }
    starts.len()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_proof_is_changed_in_one_digit_and_nothing_else() {
        let mut bytes = *b"AuthMethod=CHAP\0CHAP_N=head\0CHAP_R=0x12ab\0";
        assert_eq!(forge(&mut bytes), 1);
        assert_eq!(&bytes[..], b"AuthMethod=CHAP\0CHAP_N=head\0CHAP_R=0x12a0\0");
        assert_eq!(forge(&mut bytes), 1);
        assert_eq!(&bytes[..], b"AuthMethod=CHAP\0CHAP_N=head\0CHAP_R=0x12a1\0");
        assert_eq!(forge(&mut bytes[..20]), 0);
    }
}
