//! A node before its first login, and when it is up: its errand, and what comes of it. Pure.

use std::net::SocketAddr;

use super::super::firmware::{Disk, Errand, Wish};
use super::super::link::Link;
use super::super::tally::Tally;
use super::{Identity, Life, Node, Phase, World};

impl Node {
    /// What the shell shall do with the socket of the node's errand. To be asked with `action`.
    pub(in super::super) fn wish(&mut self, now: u64) -> Option<Wish> {
        let life = &mut self.life;
        if std::mem::take(&mut life.close_errand) {
            return Some(Wish::Close);
        }
        life.errand.as_mut()?.wish(now)
    }

    /// It would be a socket.
    pub(in super::super) fn wants_socket(&self, now: u64) -> bool {
        let errand = self.life.errand.as_ref();
        errand.is_some_and(|errand| errand.wants_socket(now))
    }

    /// The socket is being made.
    pub(in super::super) fn errand_opened(&mut self, now: u64) {
        if let Some(errand) = &mut self.life.errand {
            errand.opened(now);
        }
    }

    /// Its connection stands.
    pub(in super::super) fn errand_connected(&mut self) {
        if let Some(errand) = &mut self.life.errand {
            errand.connected();
        }
    }

    /// The next bytes to send on the socket of the errand, and where to if by UDP.
    pub(in super::super) fn errand_out(&mut self) -> Option<(Option<SocketAddr>, Vec<u8>)> {
        let life = &mut self.life;
        if let Some(last) = life.farewells.pop_front() {
            return Some(last);
        }
        life.errand.as_mut()?.next_out()
    }

    /// Bytes came to the errand; by UDP, from there.
    pub(in super::super) fn errand_hears(
        &mut self,
        (from, bytes): (Option<SocketAddr>, &[u8]),
        world: &World,
        tally: &mut Tally,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        if let Some(errand) = &mut self.life.errand {
            errand.hear(from, bytes, tally, now);
        }
        self.after_errand(world, tally, now, out);
    }

    /// The socket is of no more use: for this reason, or the other side closed it.
    pub(in super::super) fn errand_lost(
        &mut self,
        why: Option<&str>,
        world: &World,
        tally: &mut Tally,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        if let Some(errand) = &mut self.life.errand {
            errand.lost(why, tally, now);
        }
        self.after_errand(world, tally, now, out);
    }

    /// Time passes for the errand.
    pub(super) fn errand_tick(
        &mut self,
        world: &World,
        tally: &mut Tally,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        if let Some(errand) = &mut self.life.errand {
            errand.tick(tally, now);
            self.after_errand(world, tally, now, out);
        }
    }

    /// Goes on where the errand is over.
    fn after_errand(&mut self, world: &World, tally: &mut Tally, now: u64, out: &mut Vec<u8>) {
        let life = &mut self.life;
        let Some(errand) = &mut life.errand else {
            return;
        };
        let mut strange = None;
        if let Some(loaded) = errand.take_loaded() {
            // All nodes are given the same file, so every byte of it is looked at.
            let first = world.loader.get_or_init(|| loaded);
            strange = (*first != loaded).then(|| {
                let (bytes, other) = (loaded.bytes, first.bytes);
                format!(
                    "TFTP: its loader is not that of the other nodes ({bytes} bytes, and {other})"
                )
            });
        }
        let end = match (strange, errand.take_end()) {
            (Some(why), _) => Err(why),
            (None, Some(end)) => end,
            (None, None) => return,
        };
        while let Some(last) = errand.next_out() {
            life.farewells.push_back(last);
        }
        life.errand = None;
        life.close_errand = true;
        match (life.phase, end) {
            (Phase::Booting, Ok(disk)) => {
                life.report.netboot_us = now.saturating_sub(life.report.began_us);
                if let Some(disk) = disk {
                    life.home = disk.portal;
                    life.portal = disk.portal;
                    self.link = Link::new(u64::from(disk.lun) << 48);
                    life.disk = Some(disk);
                }
                life.enter(Phase::Waiting { until: now }, now);
            }
            (Phase::Booting, Err(why)) => self.fail(&why, tally, now),
            (phase, end) => {
                if let Err(why) = end {
                    tally.counts.errors += 1;
                    life.report.errors += 1;
                    life.report.reason.get_or_insert(why);
                }
                if phase == Phase::Calling {
                    self.read_back(world, tally, now, out);
                }
            }
        }
    }
}

impl Life {
    /// What comes before the first login.
    pub(super) fn boot(&mut self, now: u64) {
        let Some((path, mac)) = self.boots.take() else {
            return;
        };
        self.errand = Some(Box::new(Errand::boot(path, mac, now)));
        self.enter(Phase::Booting, now);
    }

    /// The node is up: the call that says so, if it makes one.
    pub(super) fn call(&mut self, now: u64) -> bool {
        let Some((path, mac)) = self.calls.take() else {
            return false;
        };
        self.errand = Some(Box::new(Errand::ready(path, mac, now)));
        self.enter(Phase::Calling, now);
        true
    }

    /// Who it is to its target: what it was told by the swarm's owner, or by its script.
    pub(super) fn identity(&self, world: &World) -> Option<Identity> {
        let mut identity = world.nodes.get(self.id as usize)?.clone();
        if let Some(disk) = &self.disk {
            identity.target.clone_from(&disk.target);
            if let Some(initiator) = &disk.initiator {
                identity.initiator.clone_from(initiator);
            }
            identity.chap = disk.chap.as_ref().map(Disk::credentials);
            identity.mutual = disk.mutual.as_ref().map(Disk::credentials);
        }
        Some(identity)
    }
}
