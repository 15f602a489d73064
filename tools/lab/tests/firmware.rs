//! Firmware that logs in by itself, and proves itself both ways: UEFI's own iSCSI initiator (EDK2 in OVMF,
//! the strictest peer there is) and iPXE with mutual CHAP. Whole boots, to a shell of the node.
//! Needs root and QEMU (tools/test installs what is missing), and the release build of the programs.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside any #[test] function"
)]

use std::time::Duration;

use lab::console::Console;
use lab::edk2::{Attempt, Chap, Target};
use lab::head::tool;
use lab::net::HEAD_ADDRESS;
use lab::{Head, HeadSpec, Kind, Lab, Node, NodeSpec, golden};
use serde_json::Value;

// Emulated machines take their time, several at once on a small machine even more.
const BOOT: Duration = Duration::from_secs(600);
const SHELL: Duration = Duration::from_secs(300);
/// The lab's `iqn_prefix`: the default.
const PREFIX: &str = "iqn.2026-11.internal.reveille";

struct Site {
    // Ended first, whatever happens.
    head: Head,
    node: Node,
    lab: Lab,
}

/// A running head with this `[iscsi] auth`, and node1 of this kind, which is off.
fn site(auth: &str, kind: Kind) -> Site {
    let image = golden::debian12().unwrap();
    let lab = Lab::new("firmware").unwrap();
    let mut spec = HeadSpec::standard(&lab, &tool("reveille").unwrap());
    let section = format!("[iscsi]\nauth = \"{auth}\"\n");
    spec.config = spec.config.replace("[iscsi]\n", &section);
    let mut head = Head::prepare(&lab, spec).unwrap();
    let image = image.to_string_lossy();
    head.run(&["image", "import", &image, "--name", "debian12"])
        .unwrap();
    let node = lab.add_node(&NodeSpec::new(1, kind)).unwrap();
    let mac = node.spec().mac();
    let add = ["node", "add", "node1", "--image", "debian12", "--mac", &mac];
    head.run(&add).unwrap();
    head.start().unwrap();
    Site { head, node, lab }
}

impl Site {
    /// Both directions' names and secrets: the node's, the head's.
    fn credentials(&self) -> Chap {
        let said = self
            .head
            .run(&["node", "secret", "node1", "-o", "json"])
            .unwrap();
        let list: Value = serde_json::from_str(&said).unwrap();
        let text = |key: &str| list[0][key].as_str().unwrap().to_owned();
        Chap {
            own: (text("user"), text("secret")),
            reverse: Some((text("head_user"), text("head_secret"))),
        }
    }

    /// Writes the attempt into the machine's firmware.
    fn set_up_edk2(&self, target: Target, chap: Option<Chap>) {
        let attempt = Attempt {
            initiator: format!("{PREFIX}:initiator:node1"),
            mac: self.node.spec().mac(),
            target,
            chap,
        };
        self.node
            .change_settings(|store| attempt.install(store))
            .unwrap();
    }

    fn boot(&self) -> Console {
        self.node.power_on().unwrap();
        self.node.wait_shell(BOOT).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.head.log()).unwrap()
    }

    fn end(mut self) {
        self.node.power_off().unwrap();
        self.head.stop().unwrap();
        self.lab.down().unwrap();
    }
}

fn fixed() -> Target {
    Target::Fixed {
        own: [10, 77, 0, 50].into(),
        portal: HEAD_ADDRESS.parse().unwrap(),
        name: format!("{PREFIX}:node1"),
    }
}

/// What the command says. The emulated serial line doubles a character now and then, so an answer counts when
/// it came twice.
fn ask(console: &mut Console, command: &str) -> String {
    let mut before = String::new();
    for _ in 0..5 {
        let said = console.run(command, SHELL).unwrap();
        if said == before {
            return said;
        }
        before = said;
    }
    before
}

#[test]
fn edk2_boots_by_its_own_initiator_without_chap() {
    let site = site("none", Kind::Uefi);
    site.set_up_edk2(fixed(), None);
    let mut shell = site.boot();
    let table = ask(
        &mut shell,
        "cat /sys/firmware/ibft/acpi_header/oem_table_id; \
                                 cat /sys/firmware/ibft/target0/target-name",
    );
    println!("{table}\n{}", site.log());
    site.end();
}
