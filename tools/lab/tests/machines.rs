//! The laboratory itself, without a head: networks come and go, machines start, consoles can be typed on.
//! Root and QEMU are needed: `tools/test` runs it with all that it needs.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside any #[test] function"
)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::{Kind, Lab, NodeSpec, golden};

const FIRMWARE_WAIT: Duration = Duration::from_secs(120);
const BOOT_WAIT: Duration = Duration::from_secs(600);

fn namespaces() -> String {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let lab = Lab::new("clean").unwrap();
    let (dir, name) = (lab.dir().to_owned(), lab.net().name().to_owned());
    lab.add_node(&NodeSpec::new(1, Kind::Bios)).unwrap();
    let mut sleeper = lab.net().command("sleep").arg("600").spawn().unwrap();
    let pid = i32::try_from(sleeper.id()).unwrap();
    assert!(namespaces().contains(&name));
    // A process is inside as soon as `ip` has become the program.
    lab::proc::wait_until(Duration::from_secs(10), || {
        lab.net().pids().unwrap().contains(&pid)
    })
    .unwrap();
    drop(lab);
    assert!(!sleeper.wait().unwrap().success());
    assert!(!namespaces().contains(&name));
    assert!(!dir.exists());
}

#[test]
fn two_labs_do_not_meet() {
    let (one, two) = (Lab::new("one").unwrap(), Lab::new("two").unwrap());
    assert_ne!(one.net().name(), two.net().name());
    for lab in [&one, &two] {
        let shown = lab
            .net()
            .command("ip")
            .args(["-4", "addr", "show", "br0"])
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&shown.stdout).contains("10.77.0.1/24"));
    }
}

#[test]
fn the_power_button_is_idempotent_and_survives_stale_pid_files() {
    let lab = Lab::new("power").unwrap();
    let node = lab.add_node(&NodeSpec::new(1, Kind::Bios)).unwrap();
    node.power_off().unwrap();
    node.power_on().unwrap();
    let first = node.pid().expect("on");
    node.power_on().unwrap();
    assert_eq!(node.pid(), Some(first));
    node.power_cycle().unwrap();
    let second = node.pid().expect("on again");
    assert_ne!(first, second);
    node.power_off().unwrap();
    assert_eq!(node.pid(), None);
    // Another process has the number by now: it must not be taken for the node, nor killed.
    fs::write(
        lab.dir().join("nodes/node1.pid"),
        std::process::id().to_string(),
    )
    .unwrap();
    assert_eq!(node.pid(), None);
    node.power_off().unwrap();
    node.power_on().unwrap();
    assert!(node.pid().is_some());
}

#[test]
fn firmware_of_each_kind_asks_the_network_for_a_boot() {
    for (kind, words) in [
        (Kind::Bios, "Configuring (net0 52:54:00:77:00:01)"),
        (Kind::Uefi, "Start PXE over IPv4"),
    ] {
        let lab = Lab::new("firmware").unwrap();
        let node = lab.add_node(&NodeSpec::new(1, kind)).unwrap();
        node.power_on().unwrap();
        node.console().wait_for(words, FIRMWARE_WAIT).unwrap();
        node.reset().unwrap();
        // The console now starts behind the reset, so this is the second time.
        node.console().wait_for(words, FIRMWARE_WAIT).unwrap();
    }
}

/// A private copy of the golden image (holes stay holes).
fn copy_of_golden(to: &Path) {
    let golden = golden::debian12().unwrap();
    let status = Command::new("cp")
        .arg("--sparse=always")
        .arg(&golden)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn the_golden_image_boots_from_a_local_disk_by_bios_and_by_uefi() {
    for kind in [Kind::Bios, Kind::Uefi] {
        let lab = Lab::new("local").unwrap();
        let disk = lab.dir().join("disk.raw");
        copy_of_golden(&disk);
        let mut spec = NodeSpec::new(1, kind);
        spec.disk = Some(disk);
        let node = lab.add_node(&spec).unwrap();
        node.power_on().unwrap();
        let mut console = node.wait_shell(BOOT_WAIT).unwrap();
        let limit = Duration::from_secs(180);
        assert_eq!(console.run("echo a; echo b >&2", limit).unwrap(), "a\nb");
        assert_eq!(
            console
                .type_line("exit_code() { return 3; }; exit_code", limit)
                .unwrap()
                .code,
            3
        );
        let root = console.run(
            "findmnt -no SOURCE / 2>/dev/null || sed -n 's/ \\/ .*//p' /proc/mounts",
            limit,
        );
        assert!(root.unwrap().contains("/dev/vda3"));
        // Nothing in the image names one machine.
        assert_eq!(
            console
                .run("ls /etc/ssh/ssh_host_* 2>/dev/null | wc -l", limit)
                .unwrap(),
            "0"
        );
        assert_eq!(
            console
                .run("cat /etc/iscsi/initiatorname.iscsi", limit)
                .unwrap(),
            "GenerateName=yes"
        );
        assert_eq!(
            console
                .run("systemctl --failed --no-legend | wc -l", limit)
                .unwrap(),
            "0"
        );
    }
}
