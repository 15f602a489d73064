//! The shell of TFTP: takes requests, runs each transfer on a port of its own.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::server::{Clock, after_error};
use super::service::Service;
use super::tftp::{Code, Ended, Message, Request, Transfer, error as tftp_error};
use crate::limits;

/// Ports of the transfers under way by client.
pub(crate) type UnderWay = Mutex<HashMap<IpAddr, Vec<u16>>>;

/// Takes TFTP requests on one address.
pub(crate) struct Desk {
    pub(crate) service: Arc<Service>,
    pub(crate) clock: Clock,
    /// Where it listens; data comes from the same address.
    pub(crate) place: SocketAddr,
    pub(crate) under_way: Arc<UnderWay>,
    /// Transfers of all desks.
    pub(crate) loaders: Arc<AtomicUsize>,
}

impl Desk {
    pub(crate) async fn serve(self, socket: UdpSocket) {
        let mut buffer = vec![0; limits::TFTP_REQUEST_MAX];
        // Dropped with this task, and with it every transfer.
        let mut transfers = JoinSet::new();
        loop {
            while transfers.try_join_next().is_some() {}
            let (size, from) = match socket.recv_from(&mut buffer).await {
                Ok(heard) => heard,
                Err(error) => {
                    after_error(&error, "TFTP").await;
                    continue;
                }
            };
            let message = Message::parse(buffer.get(..size).unwrap_or_default());
            let refusal = match message {
                Message::Read(request) => match self.admit(&request, from) {
                    Ok(Some(job)) => {
                        transfers.spawn(job.run());
                        continue;
                    }
                    Ok(None) => continue,
                    Err(refusal) => refusal,
                },
                Message::Bad(code, why) => tftp_error(code, why),
                Message::Ack(_) | Message::Error(_) => continue,
            };
            let _ = socket.send_to(&refusal, from).await;
        }
    }

    /// A transfer for the request; nothing when one for the same port runs (the client repeated itself) or
    /// all are taken (it will repeat itself); or an error to send.
    fn admit(&self, request: &Request, from: SocketAddr) -> Result<Option<Job>, Vec<u8>> {
        let Some(file) = self.service.assets.get(&request.file) else {
            tracing::debug!(%from, file = request.file, "no such loader");
            return Err(tftp_error(Code::NotFound, "there is no such loader here"));
        };
        if self.loaders.load(Ordering::Relaxed) >= limits::TFTP_TRANSFERS_MAX {
            tracing::warn!(%from, "all TFTP transfers are taken; it will ask again");
            return Ok(None);
        }
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let ports = under_way.entry(from.ip()).or_default();
        if ports.contains(&from.port()) || ports.len() >= limits::TFTP_PER_CLIENT {
            return Ok(None);
        }
        ports.push(from.port());
        self.loaders.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Job {
            transfer: Transfer::new(request, Arc::clone(file), self.clock.now()),
            name: request.file.clone(),
            size: file.len(),
            service: Arc::clone(&self.service),
            clock: self.clock,
            from,
            local: SocketAddr::new(self.place.ip(), 0),
            _slot: Slot {
                under_way: Arc::clone(&self.under_way),
                loaders: Arc::clone(&self.loaders),
                from,
            },
        }))
    }
}

/// A place among the transfers; given back when dropped.
struct Slot {
    under_way: Arc<UnderWay>,
    loaders: Arc<AtomicUsize>,
    from: SocketAddr,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.loaders.fetch_sub(1, Ordering::Relaxed);
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(ports) = under_way.get_mut(&self.from.ip()) {
            ports.retain(|port| *port != self.from.port());
            if ports.is_empty() {
                under_way.remove(&self.from.ip());
            }
        }
    }
}

/// One transfer on its own port (RFC 1350 section 4: the transfer identifier).
struct Job {
    transfer: Transfer,
    name: String,
    size: usize,
    service: Arc<Service>,
    clock: Clock,
    from: SocketAddr,
    local: SocketAddr,
    _slot: Slot,
}

impl Job {
    async fn run(mut self) {
        match self.exchange().await {
            Ok(Ended::Whole) => {
                let now = self.clock.now();
                let ip = self.from.ip();
                self.service
                    .loader_sent(ip, &self.name, self.size, "tftp", now);
            }
            Ok(Ended::Refused(why)) => {
                tracing::debug!(from = %self.from, file = self.name, why, "TFTP ended by the client");
            }
            Ok(Ended::Silent) => {
                tracing::warn!(from = %self.from, file = self.name, "TFTP given up: the client fell silent");
            }
            Err(error) => {
                tracing::warn!(from = %self.from, file = self.name, %error, "TFTP failed");
            }
        }
    }

    async fn exchange(&mut self) -> io::Result<Ended> {
        let socket = UdpSocket::bind(self.local).await?;
        // Connected: packets of others never reach this transfer.
        socket.connect(self.from).await?;
        let mut buffer = [0; limits::TFTP_REQUEST_MAX];
        loop {
            while let Some(packet) = self.transfer.poll(self.clock.now()) {
                socket.send(&packet).await?;
            }
            if let Some(ended) = self.transfer.ended() {
                return Ok(ended.clone());
            }
            let deadline = self.clock.at(self.transfer.deadline());
            match tokio::time::timeout_at(deadline, socket.recv(&mut buffer)).await {
                Ok(heard) => {
                    let size = heard?;
                    let bytes = buffer.get(..size).unwrap_or_default();
                    self.transfer.apply(Message::parse(bytes));
                }
                Err(_) => self.transfer.tick(self.clock.now()),
            }
        }
    }
}
