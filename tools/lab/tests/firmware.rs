//! Firmware that logs in by itself, and proves itself both ways: UEFI's own iSCSI initiator (EDK2 in OVMF,
//! the strictest peer there is) and iPXE with mutual CHAP. Whole boots, to a shell of the node.
//! Needs root and QEMU (tools/test installs what is missing), and the release build of the programs.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside any #[test] function"
)]

use std::net::SocketAddr;
use std::time::Duration;

use lab::console::Console;
use lab::edk2::{self, Attempt, Chap, Target};
use lab::forger::Forger;
use lab::head::tool;
use lab::net::HEAD_ADDRESS;
use lab::{Head, HeadSpec, Kind, Lab, Node, NodeSpec, golden};
use serde_json::Value;

// Emulated machines take their time, several at once on a small machine even more.
const BOOT: Duration = Duration::from_secs(900);
const SHELL: Duration = Duration::from_secs(300);
/// The lab's `iqn_prefix`: the default.
const PREFIX: &str = "iqn.2026-11.internal.reveille";

struct Site {
    // Ended first, whatever happens.
    head: Head,
    node: Node,
    lab: Lab,
}

/// A running head with these lines under `[iscsi]`, and node1 of this kind, which is off.
fn site(iscsi: &str, kind: Kind) -> Site {
    let lab = Lab::new("firmware").unwrap();
    let spec = HeadSpec::standard(&lab, &tool("reveille").unwrap());
    start(lab, spec, iscsi, kind)
}

/// The same with someone on the wire between node and head, who forges the head's proof.
fn forged_site(kind: Kind) -> (Site, Forger) {
    let lab = Lab::new("forged").unwrap();
    let mut spec = HeadSpec::standard(&lab, &tool("reveille").unwrap());
    let (front, back): (SocketAddr, SocketAddr) = (portal(3260), portal(3261));
    let there = format!("listen = [\"{front}\"]");
    assert!(spec.config.contains(&there), "{}", spec.config);
    spec.config = spec
        .config
        .replace(&there, &format!("listen = [\"{back}\"]"));
    let told = format!("[boot]\nportal = \"{front}\"\n");
    spec.config = spec.config.replace("[boot]\n", &told);
    let site = start(lab, spec, "auth = \"mutual\"", kind);
    let forger = Forger::start(site.lab.net(), front, back).unwrap();
    (site, forger)
}

fn portal(port: u16) -> SocketAddr {
    SocketAddr::new(HEAD_ADDRESS.parse().unwrap(), port)
}

fn start(lab: Lab, mut spec: HeadSpec, iscsi: &str, kind: Kind) -> Site {
    let image = golden::debian12().unwrap();
    let section = format!("[iscsi]\n{iscsi}\n");
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
        let asked = ["node", "secret", "node1", "-o", "json"];
        let said = self.head.run(&asked).unwrap();
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

    /// What UEFI said when it started the disk of its own initiator.
    fn edk2_started(&self) -> String {
        let mut screen = self.node.console();
        let line = screen.wait_for("BdsDxe: starting", BOOT).unwrap();
        let disk = format!("/iSCSI({PREFIX}:node1,");
        assert!(line.contains(&disk), "{line}");
        assert!(
            line.contains("Reveille") || line.contains("REVEILLE"),
            "{line}"
        );
        line
    }

    /// The attempt fails: UEFI goes on to its next boot device, PXE, and never starts the disk by itself.
    fn edk2_refuses(&self) {
        self.node.power_on().unwrap();
        let mut screen = self.node.console();
        let (which, line) = screen
            .wait_for_any(&[">>Start PXE", "/iSCSI("], BOOT)
            .unwrap();
        assert_eq!(which, 0, "{line}");
        self.node.power_off().unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.head.log()).unwrap()
    }

    /// Firmware and operating system asked the head for its proof, each at every login.
    fn everybody_asked_for_proof(&self) {
        let log = self.log();
        assert!(
            !log.contains("without asking the head for its proof"),
            "{log}"
        );
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
    let mut before = None;
    for _ in 0..6 {
        let said = console.run(command, SHELL).unwrap();
        if before.as_ref() == Some(&said) {
            return said;
        }
        before = Some(said);
    }
    panic!("`{command}` says something else each time: {before:?}");
}

/// The operating system's session proves itself with these, and demands this proof.
fn os_session_is_mutual(shell: &mut Console, chap: &Chap) {
    let files = "for f in username password username_in password_in; do \
                 cat /sys/class/iscsi_session/session*/$f; done";
    let (name, secret) = &chap.own;
    let (head, proof) = chap.reverse.as_ref().unwrap();
    assert_eq!(
        ask(shell, files),
        format!("{name}\n{secret}\n{head}\n{proof}")
    );
}

#[test]
fn the_firmware_itself_makes_attempts_of_the_length_that_the_lab_writes() {
    let lab = Lab::new("attempts").unwrap();
    let node = lab.add_node(&NodeSpec::new(1, Kind::Uefi)).unwrap();
    node.power_on().unwrap();
    node.console().wait_for("Start PXE", BOOT).unwrap();
    node.power_off().unwrap();
    let store = std::fs::read(node.settings()).unwrap();
    let made = edk2::attempt_bytes_of_firmware(&store).unwrap();
    assert_eq!(made, Some(edk2::ATTEMPT_BYTES));
    lab.down().unwrap();
}

#[test]
fn uefi_boots_by_its_own_initiator_without_chap() {
    let site = site("auth = \"none\"", Kind::Uefi);
    site.set_up_edk2(fixed(), None);
    let mut shell = site.boot();
    let line = site.edk2_started();
    assert!(line.contains(",None,None,None,TCP)"), "{line}");
    let target = ask(&mut shell, "cat /sys/firmware/ibft/target0/target-name");
    assert_eq!(target, format!("{PREFIX}:node1"));
    site.end();
}

#[test]
fn uefi_boots_by_its_own_initiator_with_chap_by_sha_256_and_its_target_from_dhcp() {
    // No other digest is taken, so the login itself shows that SHA-256 was used.
    let site = site(
        "auth = \"chap\"\nchap_algorithms = [\"sha256\"]",
        Kind::Uefi,
    );
    let own = Chap {
        reverse: None,
        ..site.credentials()
    };
    site.set_up_edk2(Target::Dhcp, Some(own));
    site.node.power_on().unwrap();
    let line = site.edk2_started();
    assert!(
        line.contains("DHCP") && line.contains(",CHAP_UNI,TCP)"),
        "{line}"
    );
    site.end();
}

#[test]
fn uefi_boots_by_its_own_initiator_with_mutual_chap_and_so_does_its_system() {
    let site = site("auth = \"mutual\"", Kind::Uefi);
    let chap = site.credentials();
    site.set_up_edk2(fixed(), Some(chap.clone()));
    let mut shell = site.boot();
    let line = site.edk2_started();
    assert!(line.contains(",CHAP_BI,TCP)"), "{line}");
    os_session_is_mutual(&mut shell, &chap);
    site.everybody_asked_for_proof();
    site.end();
}

#[test]
fn uefi_with_a_wrong_secret_is_refused_and_refuses_a_forged_proof() {
    let (site, forger) = forged_site(Kind::Uefi);
    let chap = site.credentials();
    site.set_up_edk2(fixed(), Some(chap.clone()));
    site.edk2_refuses();
    assert!(forger.forged() > 0, "nobody asked for a proof");
    // The other direction, with a machine that knows the head's secret and not its own.
    std::fs::remove_file(site.node.settings()).unwrap();
    let stranger = Chap {
        own: (chap.own.0.clone(), "not-the-secret-1".to_owned()),
        ..chap
    };
    let before = forger.forged();
    site.set_up_edk2(fixed(), Some(stranger));
    site.edk2_refuses();
    assert_eq!(
        forger.forged(),
        before,
        "a stranger was shown the head's proof"
    );
    site.end();
}

#[test]
fn bios_boots_by_ipxe_with_mutual_chap_and_so_does_its_system() {
    let site = site("auth = \"mutual\"", Kind::Bios);
    let mut shell = site.boot();
    os_session_is_mutual(&mut shell, &site.credentials());
    site.everybody_asked_for_proof();
    site.end();
}

#[test]
fn uefi_boots_by_chained_ipxe_with_mutual_chap_and_so_does_its_system() {
    let site = site("auth = \"mutual\"", Kind::Uefi);
    let mut shell = site.boot();
    os_session_is_mutual(&mut shell, &site.credentials());
    site.everybody_asked_for_proof();
    site.end();
}

#[test]
fn ipxe_refuses_a_forged_proof() {
    let (site, forger) = forged_site(Kind::Bios);
    site.node.power_on().unwrap();
    let mut screen = site.node.console();
    let (which, line) = screen
        .wait_for_any(
            &["the disk of node1 did not start", "Welcome to GRUB"],
            BOOT,
        )
        .unwrap();
    assert_eq!(which, 0, "{line}");
    assert!(forger.forged() > 0, "nobody asked for a proof");
    site.end();
}
