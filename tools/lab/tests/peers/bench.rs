//! What every check works with: one head with two portals, one Linux initiator, nodes made on demand.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::head::tool;
use lab::net::{HEAD_ADDRESS, SECOND_ADDRESS};
use lab::{Guest, Head, HeadSpec, Lab, golden};
use serde_json::Value;

/// Bytes of the empty image that the nodes' disks are layers over. XFS wants at least 300 MiB.
pub(crate) const DISK_BYTES: u64 = 512 << 20;
const PREFIX: &str = "iqn.2026-11.internal.reveille";
const IMAGE: &str = "empty";
/// Scripts have limits of their own; this is for the emulated machine as a whole.
const SCRIPT: Duration = Duration::from_secs(900);
const LIBRARY: &str = include_str!("lib.sh");

/// A head and an initiator, running.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) head: Head,
    guest: Guest,
    pub(crate) lab: Lab,
}

/// A node of the head, seen by an initiator.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    secret: String,
    head_user: String,
    head_secret: String,
}

impl Bench {
    pub(crate) fn new() -> Result<Self> {
        let image = golden::initiator12()?;
        let lab = Lab::new("peers")?;
        let guest = Guest::boot(&lab, &image)?;
        let dir = lab.dir().display();
        let config = format!(
            "[server]\nstate = \"{dir}/state\"\n\n\
             [iscsi]\nlisten = [\"{HEAD_ADDRESS}:3260\", \"{SECOND_ADDRESS}:3260\"]\n\n\
             [api]\nsocket = \"{dir}/reveille.sock\"\n"
        );
        let spec = HeadSpec {
            config,
            ..HeadSpec::standard(&lab, &tool("reveille")?)
        };
        let mut head = Head::prepare(&lab, spec)?;
        let empty = lab.dir().join("empty.raw");
        File::create(&empty)?.set_len(DISK_BYTES)?;
        let path = empty.to_string_lossy().into_owned();
        head.run(&["image", "import", &path, "--name", IMAGE])?;
        head.start()?;
        let mut bench = Self { head, guest, lab };
        bench.plug_in()?;
        Ok(bench)
    }

    /// The initiator's addresses.
    fn plug_in(&mut self) -> Result<()> {
        let script = "ip addr add 10.77.0.50/24 dev eth0 && ip link set eth0 up && \
                      ip addr add 10.78.0.50/24 dev eth1 && ip link set eth1 up";
        let ran = self.guest.sh(script, SCRIPT)?;
        ensure!(ran.code == 0, "the initiator's network: {}", ran.output);
        Ok(())
    }

    /// After a check that failed: whatever hung in the initiator is gone, the head runs.
    pub(crate) fn recover(&mut self) -> Result<()> {
        for tap in lab::guest::TAPS {
            self.lab.net().set_link(tap, true)?;
        }
        if self.head.pid().is_none() {
            self.head.start()?;
        }
        self.guest.power_cycle()?;
        self.plug_in()
    }

    /// A new persistent node with an empty disk.
    pub(crate) fn node(&self, name: &str, number: u8) -> Result<Node> {
        let mac = format!("52:54:00:99:00:{number:02x}");
        let add = ["node", "add", name, "--image", IMAGE, "--mac", &mac];
        self.head
            .run(&[&add[..], &["--mode", "persistent"]].concat())?;
        let shown = self.head.run(&["node", "secret", name, "-o", "json"])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let of = |key: &str| {
            let text = shown.pointer(&format!("/0/{key}")).and_then(Value::as_str);
            let text = text.with_context(|| format!("`node secret` tells no {key}"));
            text.map(str::to_owned)
        };
        Ok(Node {
            name: name.to_owned(),
            secret: of("secret")?,
            head_user: of("head_user")?,
            head_secret: of("head_secret")?,
        })
    }

    /// Has a script run on the initiator; it must succeed. `with` are more variables for it.
    pub(crate) fn sh(
        &mut self,
        node: &Node,
        script: &str,
        with: &[(&str, &str)],
    ) -> Result<String> {
        let mut text = format!(
            "NODE={0} TARGET={PREFIX}:{0} SECRET='{1}' HEAD_USER={2} HEAD_SECRET='{3}'\n",
            node.name, node.secret, node.head_user, node.head_secret
        );
        for (key, value) in with {
            text += &format!("{key}='{value}'\n");
        }
        text += LIBRARY;
        text += script;
        let ran = self.guest.sh(&text, SCRIPT)?;
        ensure!(
            ran.code == 0,
            "exit {} on the initiator:\n{}\n--- head\n{}",
            ran.code,
            ran.output,
            tail(&self.head.log(), 15)
        );
        Ok(ran.output)
    }

    /// One step of a script that knows several.
    pub(crate) fn step(&mut self, node: &Node, script: &str, step: &str) -> Result<String> {
        self.sh(node, script, &[("STEP", step)])
    }

    /// Bytes that a node's layer holds.
    pub(crate) fn layer_bytes(&self, node: &Node) -> Result<u64> {
        let shown = self
            .head
            .run(&["layer", "show", &node.name, "-o", "json"])?;
        let shown: Value = serde_json::from_str(&shown)?;
        let bytes = shown.get("data_bytes").and_then(Value::as_u64);
        bytes.with_context(|| format!("no size in {shown}"))
    }
}

fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
