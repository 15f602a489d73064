//! A network of its own: a namespace with a bridge, one tap per node, the head's address on the bridge.

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::proc::{kill_now, run};

/// The bridge, which is the head's interface.
pub const BRIDGE: &str = "br0";
/// The head's address on the bridge.
pub const HEAD_ADDRESS: &str = "10.77.0.1";
/// A second bridge, where a lab has one: another way to the same head.
pub const SECOND_BRIDGE: &str = "br1";
/// The head's address on it.
pub const SECOND_ADDRESS: &str = "10.78.0.1";
/// Addresses for nodes.
pub const RANGE: &str = "10.77.0.100-10.77.0.199";

/// A network namespace made for one lab.
#[derive(Clone, Debug)]
pub struct Net {
    name: String,
}

impl Net {
    /// A name no other lab of this machine has.
    #[must_use]
    pub fn unique_name() -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        format!("reveille-{}-{count}", std::process::id())
    }

    /// Makes the namespace `name` with its bridge.
    ///
    /// # Errors
    /// When it exists already, or this process may not.
    pub fn make(name: &str) -> Result<Self> {
        let net = Self {
            name: name.to_owned(),
        };
        run("ip", &["netns", "add", name]).context("a network namespace needs root")?;
        if let Err(error) = net.make_bridge() {
            let _ = net.remove();
            return Err(error);
        }
        Ok(net)
    }

    fn make_bridge(&self) -> Result<()> {
        self.ip(&["link", "set", "lo", "up"])?;
        self.add_bridge(BRIDGE, HEAD_ADDRESS)
    }

    /// Makes a bridge on which the head has `address`, in a network of 24 bits.
    ///
    /// # Errors
    /// When it exists already.
    pub fn add_bridge(&self, bridge: &str, address: &str) -> Result<()> {
        // With spanning tree or a forward delay, the firmware's DHCP gives up before the port forwards.
        // With snooping, the bridge may drop the nodes' neighbour discovery.
        let add =
            format!("link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
        self.ip(&add.split(' ').collect::<Vec<_>>())?;
        self.ip(&["addr", "add", &format!("{address}/24"), "dev", bridge])?;
        self.ip(&["link", "set", bridge, "up"])?;
        Ok(())
    }

    /// Names a namespace that exists.
    #[must_use]
    pub fn open(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// The namespace's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn ip(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", &self.name];
        all.extend_from_slice(args);
        run("ip", &all)
    }

    /// Makes a tap on the first bridge.
    ///
    /// # Errors
    /// When it exists already or `/dev/net/tun` is missing.
    pub fn add_tap(&self, tap: &str) -> Result<()> {
        self.add_tap_on(tap, BRIDGE)
    }

    /// Makes a tap on `bridge`.
    ///
    /// # Errors
    /// As [`Net::add_tap`], and when there is no such bridge.
    pub fn add_tap_on(&self, tap: &str, bridge: &str) -> Result<()> {
        self.ip(&["tuntap", "add", "dev", tap, "mode", "tap"])?;
        self.ip(&["link", "set", tap, "master", bridge, "up"])?;
        Ok(())
    }

    /// Unplugs (`false`) or plugs in (`true`) a node's cable.
    ///
    /// # Errors
    /// When there is no such tap.
    pub fn set_link(&self, tap: &str, up: bool) -> Result<()> {
        self.ip(&["link", "set", tap, if up { "up" } else { "down" }])?;
        Ok(())
    }

    /// A command that runs inside the namespace. It replaces `ip`, so the child's number is the program's.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Moves the calling thread, and whatever it starts, into the namespace.
    ///
    /// # Errors
    /// When the namespace is gone, or this process may not.
    pub fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.name);
        let file = std::fs::File::open(&path).with_context(|| format!("namespace {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {path}"))
    }

    /// Processes inside the namespace, all of which a lab has put there.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let text = run("ip", &["netns", "pids", &self.name])?;
        Ok(text
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect())
    }

    /// Ends every process inside and removes the namespace with its links. No error when it is gone already.
    ///
    /// # Errors
    /// When a process does not end, or the namespace stays.
    pub fn remove(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(20);
        while self.exists()? {
            for pid in self.pids().unwrap_or_default() {
                kill_now(pid)?;
            }
            // A process that was being born a moment ago is caught in the next round.
            if self.pids().unwrap_or_default().is_empty() {
                return run("ip", &["netns", "del", &self.name]).map(drop);
            }
            if Instant::now() >= end {
                bail!("namespace {}: processes keep coming back", self.name);
            }
        }
        Ok(())
    }

    fn exists(&self) -> Result<bool> {
        let list = run("ip", &["netns", "list"])?;
        Ok(list
            .lines()
            .any(|line| line.split(' ').next() == Some(self.name.as_str())))
    }
}
