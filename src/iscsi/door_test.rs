//! Where a session goes after its login: over a real connection, into the inbox of a worker that is played here.

use std::cell::Cell;
use std::net::TcpStream as StdStream;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::bounds::Bounds;
use super::chap::Algorithms;
use super::driver::{self, Entered, Note};
use super::farewell::block_until_closed;
use super::frame::Encoder;
use super::initiator::offer::{Client, Next, Offer};
use super::login_driver::{Arrival, serve};
use super::params::Digests;
use super::pdu::{BHS_BYTES, Bhs, op};
use super::server::Doorkeeper;
use super::shared::Shared;
use super::target::{Auth, Rules, Targets};
use crate::head::{Head, HeadOptions};
use crate::store::Pool;

/// An initiator that has logged in, and what became of it at the door.
struct Visit {
    initiator: TcpStream,
    at_the_door: JoinHandle<()>,
    keeper: Arc<Doorkeeper>,
    inbox: UnboundedReceiver<(StdStream, Entered)>,
    _state: tempfile::TempDir,
}

#[derive(PartialEq, Eq)]
enum Patience {
    Usual,
    Endless,
}

async fn read_pdu(stream: &mut TcpStream) -> (Bhs, Vec<u8>) {
    let mut bhs = Bhs([0; BHS_BYTES]);
    stream.read_exact(&mut bhs.0).await.unwrap();
    let len = bhs.data_len() as usize;
    let mut data = vec![0; len.next_multiple_of(4)];
    stream.read_exact(&mut data).await.unwrap();
    data.truncate(len);
    (bhs, data)
}

async fn say(stream: &mut TcpStream, bhs: Bhs, data: &[u8]) {
    let mut out = Vec::new();
    Encoder::default().pdu(bhs, &[], data, &mut out);
    stream.write_all(&out).await.unwrap();
}

fn shared(state: &tempfile::TempDir) -> Arc<Shared> {
    let head = Head::open(&state.path().join("state"), &HeadOptions::default()).unwrap();
    let bounds = Bounds::default();
    let rules = Rules {
        prefix: "iqn.2026-11.internal.reveille".to_owned(),
        auth: Auth::None,
        algorithms: Algorithms::default(),
        digests: Digests::default(),
        redirect: None,
        sessions_per_node: bounds.sessions_per_node,
        portals: Vec::new(),
    };
    let pool = Arc::new(Pool::new(1, 16).unwrap());
    Arc::new(Shared::new(
        Targets::new(Arc::new(head), rules),
        pool,
        bounds,
    ))
}

/// Logs a discovery session in, at a door that waits for its first words as it does for everyone, or for ever: then no
/// slow machine turns words into silence.
async fn visit(patience: Patience) -> Visit {
    let state = tempfile::tempdir().unwrap();
    let shared = shared(&state);
    let (inbox, sessions) = mpsc::unbounded_channel();
    let keeper = Arc::new(Doorkeeper::new(vec![inbox]));
    if patience == Patience::Usual {
        let keeper = Arc::clone(&keeper);
        tokio::spawn(async move { keeper.patience.keep().await });
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut initiator = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let ticket = shared.admit(peer).unwrap();
    let at_the_door = tokio::spawn(serve(
        Arrival::new(stream, peer, ticket),
        shared,
        Arc::clone(&keeper),
    ));
    let mut client = Client::new(Offer::discovery("iqn.2026-11.test:visitor"));
    let (mut bhs, mut keys) = client.start();
    loop {
        say(&mut initiator, bhs, &keys).await;
        let (answer, data) = read_pdu(&mut initiator).await;
        match client.answer(&answer, &data).unwrap() {
            Next::Send(next, more) => (bhs, keys) = (next, more),
            Next::Done(_) => break,
            Next::Redirect(to) => panic!("sent to {to}"),
        }
    }
    Visit {
        initiator,
        at_the_door,
        keeper,
        inbox: sessions,
        _state: state,
    }
}

fn logout(reason: u8) -> Bhs {
    let mut bhs = Bhs::new(op::LOGOUT | 0x40);
    bhs.put_u8(1, 0x80 | reason);
    bhs.put_u32(16, 7);
    bhs
}

#[tokio::test]
async fn who_leaves_at_once_is_served_at_the_door() {
    let mut visit = visit(Patience::Endless).await;
    say(&mut visit.initiator, logout(0), &[]).await;
    let (answer, _) = read_pdu(&mut visit.initiator).await;
    assert_eq!(answer.opcode(), op::LOGOUT_RESPONSE);
    assert_eq!(answer.u32_at(16), 7);
    visit.at_the_door.await.unwrap();
    assert!(visit.inbox.try_recv().is_err());
}

#[tokio::test]
async fn who_goes_without_a_word_troubles_no_worker() {
    let mut visit = visit(Patience::Endless).await;
    drop(visit.initiator);
    visit.at_the_door.await.unwrap();
    assert!(visit.inbox.try_recv().is_err());
}

#[tokio::test]
async fn first_words_go_to_the_worker_with_the_session() {
    // A logout that only moves a connection is refused, and the session goes on: no reason to stay.
    for words in [Bhs::new(op::NOP_OUT | 0x40), logout(2)] {
        let mut visit = visit(Patience::Endless).await;
        say(&mut visit.initiator, words, &[]).await;
        let (_, entered) = visit.inbox.recv().await.unwrap();
        assert_eq!(entered.rx.len(), BHS_BYTES);
        visit.at_the_door.await.unwrap();
    }
}

#[tokio::test]
async fn who_is_silent_is_handed_over_soon() {
    let mut visit = visit(Patience::Usual).await;
    let (_, entered) = visit.inbox.recv().await.unwrap();
    assert_eq!(entered.rx.len(), 0);
    visit.at_the_door.await.unwrap();
}

/// Asks every session whether its peer has left, as a login does, and waits for what it waits for.
async fn look(shared: &Shared) {
    let (done, wait) = oneshot::channel();
    let done = Cell::new(Some(done));
    shared.tell_all(|| Note::Look {
        done: done.take().unwrap(),
    });
    wait.await.unwrap_err();
}

#[tokio::test]
async fn a_session_whose_peer_has_closed_is_over_before_a_new_one_begins() {
    let mut visit = visit(Patience::Usual).await;
    let (stream, entered) = visit.inbox.recv().await.unwrap();
    let shared = Arc::clone(&entered.shared);
    let socket = stream.try_clone().unwrap();
    let stream = TcpStream::from_std(stream).unwrap();
    let (turn, vigil) = (visit.keeper.turn_at_the_door(), visit.keeper.vigil.clone());
    let session = tokio::spawn(driver::serve(stream, entered, turn, vigil).unwrap());
    look(&shared).await;
    assert_eq!(shared.metrics.sessions.get(), 1, "its peer is there");
    drop(visit.initiator);
    block_until_closed(&socket);
    look(&shared).await;
    assert_eq!(shared.metrics.sessions.get(), 0);
    session.await.unwrap();
}
